#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "replica/replica.h"

static const char *const state_names[] = { "not tracked", "tracked", "paused" };

/* The strategies of one table: its own, and those of its columns. */
struct strategies {
    const char *table;
    json_t *columns; /* name: strategy */
    const char *own;
    struct cs_buf text;
};

static const char *strategy_name(bool manual)
{
    return manual ? "manual" : "last_write_wins";
}

static int add_strategy(void *arg, const struct cs_strategy *s)
{
    struct strategies *x = arg;

    if (strcmp(s->table, x->table) != 0)
        return 0;
    if (s->column == NULL) {
        x->own = strategy_name(s->manual);
        return 0;
    }
    json_object_set_new(x->columns, s->column, json_string(strategy_name(s->manual)));
    cs_buf_printf(&x->text, "  %s: %s", s->column, strategy_name(s->manual));
    return 0;
}

static int find_strategies(cs_replica *r, const char *table, struct strategies *out, clawsync_error *err)
{
    int rc;

    *out = (struct strategies){ .table = table, .own = strategy_name(false), .columns = json_object() };
    rc = cs_replica_strategies(r, add_strategy, out, (struct cs_error *)err);
    cs_buf_put_u8(&out->text, 0);
    if (rc == CS_OK && (out->text.failed || out->columns == NULL))
        rc = cs_fail((struct cs_error *)err, CS_ENOMEM, "out of memory");
    return rc;
}

static int table_json(cs_replica *r, const struct cs_table_info *t, json_t *list, clawsync_error *err)
{
    struct strategies s;
    int rc = find_strategies(r, t->name, &s, err);
    json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:I, s:b}", "name", t->name, "state",
                          t->state == CS_UNTRACKED ? "untracked" : state_names[t->state], "rows", (json_int_t)t->rows,
                          "unsealed", (json_int_t)t->unsealed, "hidden", (json_int_t)t->hidden, "backfilling",
                          (int)t->backfilling);

    if (t->problem != NULL)
        json_object_set_new(o, "problem", json_string(t->problem));
    if (t->state != CS_UNTRACKED)
        json_object_update_new(o, json_pack("{s:s, s:O}", "strategy", s.own, "column_strategies", s.columns));
    json_array_append_new(list, o);
    json_decref(s.columns);
    cs_buf_free(&s.text);
    return rc;
}

static int table_text(const struct cs_cli *c, cs_replica *r, const struct cs_table_info *t, clawsync_error *err)
{
    struct strategies s;
    int rc = find_strategies(r, t->name, &s, err);

    if (rc == CS_OK)
        cs_cli_say(c, "%-24s %-11s %10" PRId64 " %9" PRId64 " %7" PRId64 "%s%s%s%s%s", t->name, state_names[t->state],
                   t->rows, t->unsealed, t->hidden, t->backfilling ? "  backfilling" : "",
                   t->problem != NULL ? "  cannot be tracked: " : "", t->problem != NULL ? t->problem : "",
                   strcmp(s.own, "manual") == 0 ? "  manual" : "", (const char *)s.text.data);
    json_decref(s.columns);
    cs_buf_free(&s.text);
    return rc;
}

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
        for (size_t i = 0; i < n && rc == CS_OK; i++)
            rc = table_json(r, &t[i], list, &err);
        if (rc == CS_OK)
            cs_cli_json(json_pack("{s:O}", "tables", list));
        json_decref(list);
    } else if (rc == CS_OK) {
        cs_cli_say(c, "%-24s %-11s %10s %9s %7s", "table", "state", "rows", "unsealed", "hidden");
        for (size_t i = 0; i < n && rc == CS_OK; i++)
            rc = table_text(c, r, &t[i], &err);
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
    bool emptied = false;
    int rc = cs_cli_open_replica(c, false, NULL, &r, &err);

    if (rc == CS_OK && (rc = fn(r, c->args[0], (struct cs_error *)&err)) == CS_OK)
        emptied = !cs_replica_is_set_up(r);
    cs_replica_close(r);
    if (rc != CS_OK)
        return cs_cli_fail(c, &err);
    done(c, what, c->args[0]);
    if (emptied && !c->json)
        cs_cli_say(c, "it was the last one, and nothing of claw-sync is left in the database; claw-sync run, or sync, "
                      "begins anew with the tables that it tracks by itself");
    return CS_EXIT_DONE;
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

int cs_cmd_strategy(struct cs_cli *c)
{
    bool manual = strcmp(c->args[1], "manual") == 0;
    struct cs_replica_options o;
    cs_replica *r = NULL;
    clawsync_error err;
    char *table, *column;
    int rc;

    if (!manual && strcmp(c->args[1], "last_write_wins") != 0)
        return cs_cli_usage(c, "no strategy \"%s\": manual or last_write_wins", c->args[1]);
    if ((table = cs_arena_str(&c->strings, c->args[0])) == NULL)
        rc = cs_fail((struct cs_error *)&err, CS_ENOMEM, "out of memory");
    else
        rc = cs_cli_open_replica(c, false, &o, &r, &err);
    if (rc == CS_OK) {
        rc = cs_replica_set_strategy(r, &o, table, NULL, manual, (struct cs_error *)&err);
        if (rc == CS_ENOTFOUND && (column = strchr(table, '.')) != NULL) { /* a table's name may have a dot */
            *column++ = '\0';
            rc = cs_replica_set_strategy(r, &o, table, column, manual, (struct cs_error *)&err);
        }
    }
    cs_replica_close(r);
    if (rc != CS_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:s, s:s}", "of", c->args[0], "strategy", c->args[1]));
    else
        cs_cli_say(c, "%s: %s", c->args[0], c->args[1]);
    return CS_EXIT_DONE;
}
