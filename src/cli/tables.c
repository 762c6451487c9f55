#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "replica/replica.h"

static const char *const state_names[] = { "not tracked", "tracked", "paused" };

int cs_cmd_tables(struct cs_cli *c)
{
    struct cs_arena a = { 0 };
    struct cs_table_info *t = NULL;
    cs_replica *r = NULL;
    clawsync_error err;
    size_t n = 0;
    json_t *list;
    int rc = cs_cli_open_replica(c, true, NULL, &r, &err);

    if (rc == CS_OK)
        rc = cs_replica_tables(r, &a, &t, &n, (struct cs_error *)&err);
    if (rc == CS_OK && c->json) {
        list = json_array();
        for (size_t i = 0; i < n; i++) {
            json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:I, s:b}", "name", t[i].name, "state",
                                  t[i].state == CS_UNTRACKED ? "untracked" : state_names[t[i].state], "rows",
                                  (json_int_t)t[i].rows, "unsealed", (json_int_t)t[i].unsealed, "hidden",
                                  (json_int_t)t[i].hidden, "backfilling", (int)t[i].backfilling);

            if (t[i].problem != NULL)
                json_object_set_new(o, "problem", json_string(t[i].problem));
            json_array_append_new(list, o);
        }
        cs_cli_json(json_pack("{s:o}", "tables", list));
    } else if (rc == CS_OK) {
        cs_cli_say(c, "%-24s %-11s %10s %9s %7s", "table", "state", "rows", "unsealed", "hidden");
        for (size_t i = 0; i < n; i++)
            cs_cli_say(c, "%-24s %-11s %10" PRId64 " %9" PRId64 " %7" PRId64 "%s%s%s", t[i].name,
                       state_names[t[i].state], t[i].rows, t[i].unsealed, t[i].hidden,
                       t[i].backfilling ? "  backfilling" : "", t[i].problem != NULL ? "  cannot be tracked: " : "",
                       t[i].problem != NULL ? t[i].problem : "");
    }
    cs_arena_free(&a);
    cs_replica_close(r);
    return rc == CS_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}

static int done(struct cs_cli *c, const char *what, const char *table)
{
    if (c->json)
        cs_cli_json(table != NULL ? json_pack("{s:s}", what, table) : json_pack("{s:n}", what));
    else
        cs_cli_say(c, "%s %s", what, table != NULL ? table : "all tracked tables");
    return CS_EXIT_DONE;
}

int cs_cmd_track(struct cs_cli *c)
{
    struct cs_track_options o = { .force_rowid_key = c->force, .warn = cs_cli_warn, .arg = c };
    cs_replica *r = NULL;
    clawsync_error err;
    int rc = cs_cli_open_replica(c, false, NULL, &r, &err);

    if (rc == CS_OK)
        rc = cs_replica_track(r, c->args[0], &o, (struct cs_error *)&err);
    cs_replica_close(r);
    return rc == CS_OK ? done(c, "tracked", c->args[0]) : cs_cli_fail(c, &err);
}

typedef int (*table_fn)(cs_replica *r, const char *table, struct cs_error *err);

static int on_table(struct cs_cli *c, table_fn fn, const char *what)
{
    cs_replica *r = NULL;
    clawsync_error err;
    int rc = cs_cli_open_replica(c, false, NULL, &r, &err);

    if (rc == CS_OK)
        rc = fn(r, c->args[0], (struct cs_error *)&err);
    cs_replica_close(r);
    return rc == CS_OK ? done(c, what, c->args[0]) : cs_cli_fail(c, &err);
}

int cs_cmd_untrack(struct cs_cli *c)
{
    return on_table(c, cs_replica_untrack, "untracked");
}

int cs_cmd_pause(struct cs_cli *c)
{
    return on_table(c, cs_replica_pause, "paused");
}

int cs_cmd_resume(struct cs_cli *c)
{
    return on_table(c, cs_replica_resume, "resumed");
}
