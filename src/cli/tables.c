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

/* What a status is made of. */
struct looked {
    struct cs_replica_identity id;
    struct cs_replica_counts n;
    struct cs_pull_mark mark;
    int64_t set_aside;
    bool set_up;
};

static void count_failed(void *arg, const clawsync_queue_entry *e)
{
    struct looked *l = arg;

    l->set_aside += strcmp(e->state, "failed") == 0;
}

static int look(struct cs_cli *c, struct looked *l, clawsync_error *err)
{
    cs_replica *r = NULL;
    int rc = cs_cli_open_replica(c, true, NULL, &r, err);

    if (rc == CS_OK && (rc = cs_replica_counts(r, &l->n, (struct cs_error *)err)) == CS_OK) {
        l->set_up = cs_replica_is_set_up(r);
        cs_replica_identity(r, &l->id);
        cs_replica_pull_mark(r, &l->mark);
    }
    cs_replica_close(r);
    if (rc == CS_OK && (rc = clawsync_queue_list(&c->config, count_failed, l, err)) == CS_ENOTFOUND)
        rc = CS_OK;
    return rc;
}

/* The id as text, or NULL: none is recorded, as before the first round. */
static const char *id_text(char out[CS_UUID_TEXT], const struct cs_uuid *id)
{
    if (cs_uuid_is_zero(id))
        return NULL;
    cs_uuid_text(out, id);
    return out;
}

static void status_json(const struct cs_cli *c, const struct looked *l)
{
    char workspace[CS_UUID_TEXT], device[CS_UUID_TEXT];
    const struct cs_replica_counts *n = &l->n;

    cs_cli_json(json_pack(
        "{s:s, s:b, s:s?, s:s?, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "database", c->config.db_path,
        "set_up", (int)l->set_up, "workspace_id", id_text(workspace, &l->id.workspace), "device_id",
        id_text(device, &l->id.device), "tracked_tables", (json_int_t)n->tracked, "unsealed", (json_int_t)n->unsealed,
        "unsent", (json_int_t)n->unsent, "bound_batches", (json_int_t)n->bound, "hidden_rows", (json_int_t)n->hidden,
        "conflicts", (json_int_t)n->conflicts, "held_back", (json_int_t)n->held_back, "taking_in",
        (json_int_t)n->taking_in, "log_number", (json_int_t)l->mark.number, "set_aside", (json_int_t)l->set_aside));
}

static void status_text(const struct cs_cli *c, const struct looked *l)
{
    char workspace[CS_UUID_TEXT], device[CS_UUID_TEXT];
    const char *ws = id_text(workspace, &l->id.workspace), *id = id_text(device, &l->id.device);
    const struct cs_replica_counts *n = &l->n;

    cs_cli_say(c, "database        %s", c->config.db_path);
    if (!l->set_up) {
        cs_cli_say(
            c, "state           not set up: nothing in it is replicated\n"
               "                a new workspace begins with: claw-sync sync\n"
               "                one that exists is joined with: claw-sync join CODE, or claw-sync keys import FILE");
        return;
    }
    cs_cli_say(c, "workspace       %s", ws != NULL ? ws : "none yet");
    cs_cli_say(c, "device          %s", id != NULL ? id : "none yet");
    cs_cli_say(c, "tracked tables  %" PRId64, n->tracked);
    cs_cli_say(c,
               "unsent          %" PRId64 " rows, %" PRId64 " logged changes not sealed, %" PRId64 " batches in flight",
               n->unsent, n->unsealed, n->bound);
    if (n->taking_in > 0)
        cs_cli_say(c, "taking in       the existing rows of %" PRId64 " table%s", n->taking_in,
                   n->taking_in == 1 ? "" : "s");
    cs_cli_say(c, "pulled up to    %" PRIu64, l->mark.number);
    cs_cli_say(c, "hidden          %" PRId64 " rows", n->hidden);
    cs_cli_say(c, "conflicts       %" PRId64, n->conflicts);
    if (n->held_back > 0)
        cs_cli_say(c, "held back       %" PRId64 " rows that cannot be sent (above 16 MiB, or NULL in the key)",
                   n->held_back);
    if (l->set_aside > 0)
        cs_cli_say(c, "set aside       %" PRId64 " sets that the hub refused: claw-sync queue list", l->set_aside);
}

int cs_cmd_status(struct cs_cli *c)
{
    struct looked l = { 0 };
    clawsync_error err;

    if (look(c, &l, &err) != CS_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        status_json(c, &l);
    else
        status_text(c, &l);
    return CS_EXIT_DONE;
}
