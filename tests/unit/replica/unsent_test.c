/* What operations say they overwrote. Two devices edit in turns, each after it has pulled everything: so nothing is
 * ever concurrent, `over` names exactly what the others hold, and nobody has a conflict on record, however edits
 * coalesced, and whatever batches were taken back or re-sealed on the way. unsent_test [SEED [COUNT]] */
#include "unit/replica/capture_fixture.h"

static const char *const schemas[] = {
    "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b, c);",
    "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, a TEXT COLLATE NOCASE, b INT, c ANY) STRICT;",
    "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a UNIQUE, b, c);",
    "CREATE TABLE t(id PRIMARY KEY NOT NULL, a, b NOT NULL DEFAULT 3, c, UNIQUE(b, c)) WITHOUT ROWID;",
};
enum { NSCHEMAS = sizeof schemas / sizeof schemas[0] };

static uint64_t prng;
static unsigned long seed_now;
static struct capture dev[2];
static struct cs_state model; /* the hub's log, merged */
static uint64_t log_number;

static uint32_t below(uint32_t n)
{
    uint64_t z = (prng += 0x9e3779b97f4a7c15u);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32) % n;
}

static void edit(struct capture *c)
{
    static const char *const keys[] = { "'a'", "'A'", "'b'", "'c'" };
    static const char *const values[] = { "1", "2", "'x'", "'X'", "NULL", "x'00'", "1.0" };
    static const char columns[] = "abc";
    const char *k = keys[below(4)], *v = values[below(7)], *w = values[below(7)];
    char sql[300];

    switch (below(8)) {
    case 0:
    case 1:
        snprintf(sql, sizeof sql, "INSERT OR IGNORE INTO t(id, a, b) VALUES(%s, %s, %s)", k, v, w);
        break;
    case 2:
        snprintf(sql, sizeof sql, "REPLACE INTO t(id, a, c) VALUES(%s, %s, %s)", k, v, w);
        break;
    case 3:
        snprintf(sql, sizeof sql, "DELETE FROM t WHERE id = %s", k);
        break;
    case 4:
        snprintf(sql, sizeof sql, "UPDATE OR REPLACE t SET id = %s WHERE id = %s", k, keys[below(4)]);
        break;
    default:
        snprintf(sql, sizeof sql, "UPDATE OR IGNORE t SET %c = %s WHERE id = %s", columns[below(3)], v, k);
    }
    sqlite3_exec(c->app, sql, NULL, NULL, NULL); /* STRICT refuses some */
}

static void never(void *arg, const struct cs_state_row *row, const struct cs_merge_conflict *m)
{
    (void)arg;
    (void)row;
    fail_msg("seed %lu: a conflict (%s) where nothing was concurrent", seed_now, cs_why_name(m->why));
}

static void saw_exactly(const struct cs_delta *d, const struct cs_op *op)
{
    const struct cs_delta_table *t = &d->tables[op->table];
    const struct cs_state_row *row = cs_state_find(&model, t->name, op->key);

    for (uint32_t i = 0; row != NULL && i < row->row.ncells; i++) {
        const struct cs_row_cell *cell = &row->row.cells[i];
        struct cs_slice name = cs_state_column(&model, row, cell->col);
        bool concerned = op->kind == CS_OP_DELETE, seen = false;

        for (uint32_t k = 0; k < op->ncells; k++)
            concerned = concerned || cs_slice_eq(t->columns[op->cells[k].col], name);
        for (uint32_t k = 0; k < op->nover; k++)
            seen = seen || (cs_slice_eq(t->columns[op->over[k].col], name) && op->over[k].stamp == cell->v.stamp &&
                            cs_uuid_cmp(&d->devices[op->over[k].device], &cell->v.device) == 0);
        if (concerned && !seen && op->kind != CS_OP_INSERT)
            fail_msg("seed %lu: an operation does not say that it saw \"%.*s\"", seed_now, (int)name.len,
                     (const char *)name.data);
    }
}

/* A value that passes from one row to another in two batches can collide in between; that is not about `over`. */
static void no_conflicts(struct capture *c)
{
    const char *found =
        value_of(c, "SELECT group_concat(why || ' ' || hex(key) || ' ' || ifnull(col, '-') || ' ' || stamp) "
                    "FROM sync_conflicts WHERE why <> 'unique'");

    if (strcmp(found, "NULL") != 0)
        fail_msg("seed %lu: conflicts on record where nothing was concurrent: %s", seed_now, found);
}

static void publish(struct capture *from, const struct cs_delta *d)
{
    struct capture *to = from == &dev[0] ? &dev[1] : &dev[0];
    struct cs_pull_mark mark = { .log_id = 1, .number = log_number + 1, .device = d->devices[0] };
    struct cs_apply_result result;
    struct cs_error err = { 0 };

    for (uint32_t i = 0; i < d->nops; i++) {
        struct cs_delta one = *d;

        saw_exactly(d, &d->ops[i]);
        one.ops = &d->ops[i];
        one.nops = 1;
        assert_int_equal(cs_state_apply(&model, &one, never, NULL), CS_OK);
    }
    mark.device_number = ++log_number;
    must(cs_replica_apply(to->r, d, &mark, &result, &err), &err, "apply");
    no_conflicts(to);
}

static int64_t highest(void)
{
    int64_t top = 1;

    for (uint32_t i = 0; i < model.nrows; i++) {
        const struct cs_row *row = &model.rows[i].row;

        top = row->ins.stamp > top ? row->ins.stamp : top;
        top = row->del.stamp > top ? row->del.stamp : top;
        for (uint32_t k = 0; k < row->ncells; k++)
            top = row->cells[k].v.stamp > top ? row->cells[k].v.stamp : top;
    }
    return top;
}

/* Extracts, perhaps in several batches that wait together; then they are accepted, or taken back. false: nothing. */
static bool send_some(struct capture *c, bool all)
{
    enum { INFLIGHT = 3 };
    struct cs_arena a = { 0 };
    struct cs_delta d[INFLIGHT];
    struct cs_error err = { 0 };
    uint8_t hash[32] = { 0 };
    size_t n = 0, want = 1 + below(INFLIGHT);
    bool back = !all && below(3) == 0;

    for (; n < want; n++) {
        must(cs_replica_extract(c->r, &a, 1 + below(6), 1 << 20, &d[n], &err), &err, "extract");
        if (d[n].nops == 0)
            break;
        must(cs_replica_bind(c->r, c->number + n + 1, hash, cs_slice("x", 1), &err), &err, "bind");
        if (back && below(3) == 0) { /* edits while batches are on their way */
            edit(c);
            seal_all(c);
        }
    }
    if (n > 0 && back) {
        must(cs_replica_unbind(c->r, d, n, &err), &err, "unbind");
        if (below(3) == 0)
            must(cs_replica_reseal(c->r, highest(), NULL, &err), &err, "reseal");
    }
    for (size_t i = 0; i < n && !back; i++) {
        c->number++;
        must(cs_replica_bound_accepted(c->r, c->number, 0, 0, &err), &err, "accepted");
        publish(c, &d[i]);
    }
    cs_arena_free(&a);
    return n > 0;
}

static void turn(struct capture *c)
{
    for (int n = 1 + (int)below(8); n > 0; n--) {
        edit(c);
        if (below(3) == 0)
            seal_all(c);
        if (below(5) == 0)
            send_some(c, false);
    }
    seal_all(c);
    while (send_some(c, true))
        ;
}

static void all_equal(void)
{
    struct cs_buf want = { 0 }, got = { 0 };
    struct cs_error err = { 0 };

    cs_state_dump(&model, &want);
    for (int i = 0; i < 2; i++) {
        struct cs_replica_counts n;

        cs_buf_reset(&got);
        must(cs_replica_dump(dev[i].r, &got, &err), &err, "dump");
        if (!cs_slice_eq(cs_buf_slice(&want), cs_buf_slice(&got)))
            fail_msg("seed %lu: device %d holds something else", seed_now, i);
        must(cs_replica_counts(dev[i].r, &n, &err), &err, "counts");
        no_conflicts(&dev[i]);
        assert_int_equal(n.unsent, 0);
        assert_int_equal(n.hidden, 0);
    }
    cs_buf_free(&want);
    cs_buf_free(&got);
}

static void run(unsigned long seed)
{
    seed_now = seed;
    prng = seed * 7919;
    log_number = 0;
    for (int i = 0; i < 2; i++) {
        struct cs_replica_options o = { .path = dev[i].path };
        struct cs_replica_identity id = { .incarnation = 1 };
        struct cs_error err = { 0 };

        open_database(&dev[i], false, schemas[seed % NSCHEMAS]);
        o.path = dev[i].path;
        memset(id.workspace.b, 9, 16);
        memset(id.device.b, 7 + i, 16);
        must(cs_replica_open(&dev[i].r, cs_world_real(), &o, &err), &err, "open");
        must(cs_replica_set_identity(dev[i].r, &id, &err), &err, "identity");
        track(&dev[i], "t");
    }
    for (int i = 0; i < 12; i++) {
        turn(&dev[below(2)]);
        all_equal();
    }
    for (int i = 0; i < 2; i++)
        close_all(&dev[i]);
    cs_state_free(&model);
    memset(&model, 0, sizeof model);
}

static unsigned long first = 1, count = 80;

static void nothing_is_concurrent(void **state)
{
    (void)state;
    for (unsigned long s = first; s < first + count; s++)
        run(s);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(nothing_is_concurrent) };

    if (argc > 1)
        first = strtoul(argv[1], NULL, 10);
    if (argc > 1)
        count = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
    return cmocka_run_group_tests_name("unsent", tests, NULL, NULL);
}
