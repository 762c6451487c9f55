/* Large batches, whose rows are read many at a time, come to the same as their operations one by one: what the tables
 * show, the merged state, and the conflicts on record. CS_SEED chooses other runs. */
#include "unit/replica/apply_fixture.h"

static uint64_t seed;
static uint32_t rnd(uint32_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 11) % n;
}

#define SCHEMA                                                                                                         \
    "CREATE TABLE s(k TEXT PRIMARY KEY NOT NULL, a, b TEXT);"                                                          \
    "CREATE TABLE c(k TEXT NOT NULL COLLATE NOCASE, l INTEGER NOT NULL, a, b TEXT, PRIMARY KEY(k, l)) WITHOUT ROWID;"  \
    "CREATE TABLE i(k INTEGER PRIMARY KEY NOT NULL, a, b TEXT);"

enum { TABLES = 3, OPS = 150, BATCHES = 8 };
static const char *const tables[] = { "s", "c", "i" };

static void random_key(struct cs_buf *out, uint32_t table, struct cs_value *literal)
{
    static const char *const words[] = { "a", "B", "c", "D", "e", "F", "g", "H", "i", "J" };
    struct cs_value l = integer(rnd(4));

    *literal = table == 2 ? integer(rnd(40)) : text(words[rnd(10)]);
    cs_key_put(out, literal, table == 1 ? CS_NOCASE : CS_BINARY);
    if (table == 1)
        cs_key_put(out, &l, CS_BINARY);
}

/* Runs of operations on one table, as batches have them; few keys and stamps, so that versions meet. */
static void random_batch(struct delta *x)
{
    uint32_t table = rnd(TABLES), mood = rnd(3);

    for (int n = 0; n < OPS; n++) {
        struct cs_uuid device = device_id(1 + (int)rnd(2));
        enum cs_op_kind kind = rnd(100) < 20 ? CS_OP_INSERT : rnd(100) < 92 ? CS_OP_UPDATE : CS_OP_DELETE;
        struct cs_value literal;
        struct cs_buf key = { 0 };
        struct cs_op *op;

        if (rnd(40) == 0) {
            table = rnd(TABLES);
            mood = rnd(3);
        }
        random_key(&key, table, &literal);
        op = delta_op(x, kind, tables[table], cs_buf_slice(&key), 1 + rnd(mood == 0 ? 3 : 60), &device);
        cs_buf_free(&key);
        if (kind == CS_OP_DELETE)
            continue;
        if (table == 1 && kind == CS_OP_INSERT)
            op_cell(x, op, "k", literal);
        op_cell(x, op, "a", integer(rnd(3)));
        if (rnd(2) == 0)
            op_cell(x, op, "b", text(rnd(2) ? "x" : "y"));
        if (kind == CS_OP_UPDATE && rnd(2) == 0)
            op_over(x, op, "a", 1 + rnd(3), &device);
    }
}

static void open_all(struct fixture *f)
{
    fixture_open(f, SCHEMA);
    fixture_replica(f);
    for (int i = 0; i < TABLES; i++)
        fixture_track(f, tables[i]);
    fixture_seal(f);
}

static struct cs_apply_result one_by_one(struct fixture *f, const struct cs_delta *d)
{
    struct cs_apply_result sum = { 0 };

    for (uint32_t i = 0; i < d->nops; i++) {
        struct cs_delta one = *d;
        struct cs_apply_result r;

        one.ops = &d->ops[i];
        one.nops = 1;
        r = fixture_apply(f, &one);
        sum.ops += r.ops;
        sum.conflicts += r.conflicts;
        sum.manual_conflicts += r.manual_conflicts;
    }
    return sum;
}

static void dump(struct fixture *f, struct cs_buf *out)
{
    struct cs_error err = { 0 };

    if (cs_replica_dump(f->r, out, &err) != CS_OK)
        fail_msg("dump: %s", err.msg);
}

/* Every row of a query as one text. */
static char *rows_of(struct fixture *f, const char *sql)
{
    struct cs_buf out = { 0 };
    sqlite3_stmt *s = NULL;

    if (sqlite3_prepare_v2(f->app, sql, -1, &s, NULL) != SQLITE_OK)
        fail_msg("%s", sqlite3_errmsg(f->app));
    while (sqlite3_step(s) == SQLITE_ROW)
        cs_buf_printf(&out, "%s\n", (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    cs_buf_put_u8(&out, 0);
    return (char *)out.data;
}

static void same_rows(struct fixture *a, struct fixture *b, const char *sql)
{
    char *x = rows_of(a, sql), *y = rows_of(b, sql);

    assert_string_equal(x, y);
    free(x);
    free(y);
}

static void a_batch_is_its_operations(void **state)
{
    const char *s = getenv("CS_SEED");
    uint64_t first = s != NULL ? strtoull(s, NULL, 10) : 1;

    (void)state;
    for (uint64_t run = first; run < first + 6; run++) {
        struct fixture together, apart;

        seed = run * 0x9e3779b97f4a7c15 + 1;
        open_all(&together);
        open_all(&apart);
        for (int n = 0; n < BATCHES; n++) {
            struct cs_buf a = { 0 }, b = { 0 };
            struct delta x;

            delta_init(&x);
            random_batch(&x);
            for (int again = 0; again < 2; again++) {
                struct cs_apply_result got = fixture_apply(&together, &x.d), want = one_by_one(&apart, &x.d);

                assert_int_equal(got.ops, want.ops);
                assert_int_equal(got.conflicts, want.conflicts);
                assert_int_equal(got.manual_conflicts, want.manual_conflicts);
            }
            dump(&together, &a);
            dump(&apart, &b);
            assert_int_equal(a.len, b.len);
            assert_memory_equal(a.data, b.data, a.len);
            same_rows(&together, &apart, "SELECT k || quote(a) || quote(b) FROM s ORDER BY k");
            same_rows(&together, &apart, "SELECT k || l || quote(a) || quote(b) FROM c ORDER BY k, l");
            same_rows(&together, &apart, "SELECT k || quote(a) || quote(b) FROM i ORDER BY k");
            same_rows(&together, &apart,
                      "SELECT hex(id) || why || state || quote(value) FROM sync_conflicts ORDER BY id");
            cs_buf_free(&a);
            cs_buf_free(&b);
            delta_fini(&x);
        }
        fixture_close(&together);
        fixture_close(&apart);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(a_batch_is_its_operations) };

    return cmocka_run_group_tests_name("rows read ahead", tests, NULL, NULL);
}
