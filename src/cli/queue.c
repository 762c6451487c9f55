/* What waits for the hub, and what it refused: listing, sending once more, taking out. */
#include "queue/queue.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cli/cli.h"
#include "delta/pack.h"
#include "engine/engine.h"

/* ---- list ---- */

struct listing {
    const struct cs_cli *cli;
    json_t *all;
    uint64_t n;
};

static void print_entry(void *arg, const clawsync_queue_entry *e)
{
    struct listing *l = arg;
    time_t at = (time_t)(e->queued_ms / 1000);
    char when[32] = "-";
    struct tm tm;

    if (l->cli->json) {
        json_array_append_new(l->all, json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "id", e->id, "state",
                                                e->state, "reason", e->reason, "operations", (json_int_t)e->operations,
                                                "bytes", (json_int_t)e->bytes, "attempts", (json_int_t)e->attempts,
                                                "batch_number", (json_int_t)e->batch_number, "queued_at",
                                                (json_int_t)e->queued_ms, "changed_at", (json_int_t)e->changed_ms));
        return;
    }
    if (localtime_r(&at, &tm) != NULL && strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        snprintf(when, sizeof when, "-");
    if (l->n++ == 0)
        cs_cli_say(l->cli, "%-12s  %-9s %10s %8s  %-19s  %s", "id", "state", "operations", "attempts", "since",
                   "reason");
    cs_cli_say(l->cli, "%.12s  %-9s %10" PRIu64 " %8" PRIu64 "  %-19s  %s", e->id, e->state, e->operations, e->attempts,
               when, e->reason);
}

/* What the queue is beside: the database of its device. */
struct beside {
    struct cs_replica_counts n;
    struct cs_uuid device;
    bool set_up;
};

static int look_at_database(const struct cs_cli *c, struct beside *out, clawsync_error *err)
{
    struct cs_replica_identity id;
    cs_replica *r = NULL;
    int rc = cs_cli_open_replica(c, true, NULL, &r, err);

    *out = (struct beside){ .set_up = rc == CS_OK && cs_replica_is_set_up(r) };
    if (rc == CS_OK && (rc = cs_cli_check_data_dir(c, r, NULL, err)) == CS_OK) {
        cs_replica_identity(r, &id);
        out->device = id.device;
        rc = cs_replica_counts(r, &out->n, (struct cs_error *)err);
    }
    cs_replica_close(r);
    return rc;
}

static int list(struct listing *l, clawsync_error *err)
{
    int rc = clawsync_queue_list(&l->cli->config, print_entry, l, err);

    return rc == CS_ENOTFOUND ? CS_OK : rc; /* no engine was ever here */
}

static void say_counts(const struct cs_cli *c, const struct cs_replica_counts *n)
{
    cs_cli_say(c,
               "in the database: %" PRId64 " row%s unsent, %" PRId64 " logged change%s not sealed, %" PRId64
               " batch%s in flight",
               n->unsent, cs_cli_s(n->unsent), n->unsealed, cs_cli_s(n->unsealed), n->bound, cs_cli_es(n->bound));
}

int cs_cmd_queue_list(struct cs_cli *c)
{
    struct listing l = { .cli = c, .all = json_array() };
    struct beside b;
    clawsync_error err;
    int rc = look_at_database(c, &b, &err);

    if (rc == CS_OK && !b.set_up)
        cs_cli_say(c, "claw-sync is not set up on this database: nothing in it waits");
    else if (rc == CS_OK)
        say_counts(c, &b.n);
    if (rc == CS_OK && (rc = list(&l, &err)) == CS_OK && c->json)
        cs_cli_json(json_pack("{s:I, s:I, s:I, s:O}", "unsent", (json_int_t)b.n.unsent, "unsealed",
                              (json_int_t)b.n.unsealed, "bound_batches", (json_int_t)b.n.bound, "entries", l.all));
    json_decref(l.all);
    return rc == CS_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}

/* An entry that is not there, or no longer as it was: which are? */
static int point_to_list(const struct cs_cli *c, int rc, clawsync_error *err)
{
    size_t n = strlen(err->msg);

    if (rc == CLAWSYNC_ENOTFOUND && c->nargs > 0)
        snprintf(err->msg + n, sizeof err->msg - n, "; claw-sync queue list shows what there is");
    return rc;
}

/* ---- retry ---- */

static int retry(const struct cs_cli *c, uint64_t *n, clawsync_error *err)
{
    int rc = clawsync_queue_retry(&c->config, c->nargs > 0 ? c->args[0] : NULL, n, err);

    return rc == CLAWSYNC_ENOTFOUND && c->nargs == 0 ? CLAWSYNC_OK : point_to_list(c, rc, err);
}

int cs_cmd_queue_retry(struct cs_cli *c)
{
    struct beside b;
    clawsync_error err;
    uint64_t n = 0;
    int rc = look_at_database(c, &b, &err);

    if (rc == CLAWSYNC_OK)
        rc = retry(c, &n, &err);
    if (rc != CLAWSYNC_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:I}", "retried", (json_int_t)n));
    cs_cli_say(c, "retried=%" PRIu64 "%s", n, n > 0 ? ": sent with the next round" : "");
    return CS_EXIT_DONE;
}

/* ---- export ---- */

static json_t *name_json(struct cs_slice name)
{
    struct cs_value v = { .type = CS_TEXT, .u.bytes = name };

    return cs_cli_json_value(&v);
}

static json_t *key_json(struct cs_slice key)
{
    struct cs_reader r = cs_reader(key);
    json_t *list = json_array();
    struct cs_value part;

    while (cs_reader_left(&r) > 0 && cs_key_next(&r, &part))
        json_array_append_new(list, cs_cli_json_value(&part));
    return list;
}

static void export_operation(const struct cs_queue_entry *e, const struct cs_delta *d, const struct cs_op *op)
{
    static const char *const kinds[] = {
        [CS_OP_INSERT] = "insert", [CS_OP_UPDATE] = "update", [CS_OP_DELETE] = "delete"
    };
    const struct cs_delta_table *t = &d->tables[op->table];
    json_t *values = json_array(), *o;
    char id[CS_QUEUE_ID_TEXT];

    for (uint32_t i = 0; i < op->ncells; i++)
        json_array_append_new(values, json_pack("[o, o]", name_json(t->columns[op->cells[i].col]),
                                                cs_cli_json_value(&op->cells[i].value)));
    cs_hex(id, e->id, CS_QUEUE_ID_LEN);
    o = json_pack("{s:s, s:s, s:s, s:s, s:I, s:o, s:o, s:o}", "id", id, "state", cs_queue_state_name(e->state),
                  "reason", e->reason, "operation", kinds[op->kind], "edited_at", (json_int_t)(op->stamp >> 16),
                  "table", name_json(t->name), "key", key_json(op->key), "values", values);
    cs_cli_json(o);
}

struct exporting {
    const struct cs_cli *cli;
    const char *id; /* or its beginning; NULL: all */
    struct beside beside;
    struct clawsync_engine *self;
    cs_queue *queue;
    struct cs_arena arena;
};

static int export_entry(struct exporting *x, const struct cs_queue_entry *e, struct cs_error *err)
{
    struct cs_arena arena = { 0 };
    struct cs_buf content = { 0 };
    struct cs_delta d;
    int rc = cs_queue_content(x->queue, e->id, &content, err);

    if (rc == CS_OK && (rc = cs_delta_decode(&d, &arena, cs_buf_slice(&content), INT64_MAX, err)) == CS_OK)
        for (uint32_t i = 0; i < d.nops; i++)
            export_operation(e, &d, &d.ops[i]);
    cs_buf_free(&content);
    cs_arena_free(&arena);
    return rc == CS_ENOTFOUND ? CS_OK : rc; /* done meanwhile */
}

static int export_all(struct exporting *x, struct cs_error *err)
{
    const struct cs_queue_entry *one = NULL;
    struct cs_queue_entry *list = NULL;
    size_t n = 0;
    int rc;

    if (x->id != NULL)
        return (rc = cs_queue_find(x->queue, &x->arena, x->id, &one, err)) == CS_OK ? export_entry(x, one, err) : rc;
    rc = cs_queue_list(x->queue, &x->arena, &list, &n, err);
    for (size_t i = 0; i < n && rc == CS_OK; i++)
        if (list[i].state != CS_QUEUE_DONE)
            rc = export_entry(x, &list[i], err);
    return rc;
}

static int export_with(void *arg, const clawsync_config *config, clawsync_error *error)
{
    struct exporting *x = arg;
    struct cs_error *err = (struct cs_error *)error;
    int rc = cs_engine_open_self(&x->self, config, err);

    if (rc == CS_OK)
        rc = cs_cli_check_device(x->cli, &x->beside.device, &x->self->device, error);
    if (rc == CS_OK && (rc = cs_queue_open_beside(&x->queue, &x->arena, config, x->self->keys->local, err)) == CS_OK)
        rc = point_to_list(x->cli, export_all(x, err), error);
    cs_queue_close(x->queue);
    cs_engine_free(x->self);
    cs_arena_free(&x->arena);
    return rc;
}

int cs_cmd_queue_export(struct cs_cli *c)
{
    struct exporting x = { .cli = c, .id = c->nargs > 0 ? c->args[0] : NULL };
    clawsync_error err;
    int rc = look_at_database(c, &x.beside, &err);

    if (rc == CLAWSYNC_OK)
        rc = cs_cli_unlocked(c, export_with, &x, &err);

    return rc == CLAWSYNC_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}
