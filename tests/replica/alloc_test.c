/* Out of memory, at every allocation of ours and at many of SQLite's, while a database is opened, tracked, sealed,
 * extracted, bound and merged into: the call says so, nothing is half done, and the same call succeeds with memory. */
#include "unit/replica/capture_fixture.h"

void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);

static long countdown = -1; /* allocations until the one that fails; negative: none does */
static bool ours;           /* whose are counted: the room's, or SQLite's */
static bool armed;          /* inside a call of the replica */

static bool fails(bool of_ours)
{
    return armed && ours == of_ours && countdown >= 0 && countdown-- == 0;
}
void *__wrap_malloc(size_t n)
{
    return fails(true) ? NULL : __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size)
{
    return fails(true) ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n)
{
    return fails(true) ? NULL : __real_realloc(p, n);
}

static sqlite3_mem_methods plain;

static void *sqlite_malloc(int n)
{
    return fails(false) ? NULL : plain.xMalloc(n);
}
static void *sqlite_realloc(void *p, int n)
{
    return fails(false) ? NULL : plain.xRealloc(p, n);
}

/* ---- the work, call by call; each may fail and is then made again ---- */

enum { CALLS = 9, ROWS = 30 };

struct work {
    struct capture c;
    struct cs_arena arena;
    struct cs_delta out;
    struct cs_error err;
    struct cs_op ops[ROWS];
    struct cs_op_cell cells[ROWS][2];
    struct cs_buf keys[ROWS];
    struct cs_slice columns[2];
    struct cs_delta_table table;
    struct cs_uuid device;
    struct cs_delta in;
    bool sent;
};

static int open_it(struct work *w)
{
    struct cs_replica_options o = { .path = w->c.path };
    struct cs_replica_identity id = { .incarnation = 1 };
    int rc;

    memset(id.workspace.b, 9, 16);
    memset(id.device.b, 7, 16);
    if ((rc = cs_replica_open(&w->c.r, cs_world_real(), &o, &w->err)) != CS_OK)
        return rc;
    if ((rc = cs_replica_set_identity(w->c.r, &id, &w->err)) != CS_OK) {
        cs_replica_close(w->c.r);
        w->c.r = NULL;
    }
    return rc;
}

static int seal_it(struct work *w)
{
    bool more = true, changed;
    int rc = cs_replica_check_schema(w->c.r, &changed, &w->err);

    while (rc == CS_OK && more)
        rc = cs_replica_seal(w->c.r, 20, &more, NULL, &w->err);
    return rc;
}

static int extract_it(struct work *w)
{
    cs_arena_reset(&w->arena);
    return cs_replica_extract(w->c.r, &w->arena, 25, 1 << 20, &w->out, &w->err);
}

static int apply_it(struct work *w)
{
    struct cs_pull_mark mark = { .log_id = 1, .number = 1, .device_number = 1 };
    struct cs_apply_result result;

    mark.device = w->device;
    return cs_replica_apply(w->c.r, &w->in, &mark, &result, &w->err);
}

static int one_call(struct work *w, int call)
{
    struct cs_track_options o = { .force_rowid_key = true };
    struct cs_replica_counts counts;

    switch (call) {
    case 0:
        return open_it(w);
    case 1:
        return cs_replica_track(w->c.r, "t", &o, &w->err);
    case 2:
        return cs_replica_track(w->c.r, "u", &o, &w->err);
    case 3:
    case 7:
        return seal_it(w);
    case 4:
        return extract_it(w);
    case 5:
        return cs_replica_bind(w->c.r, 1, (uint8_t[32]){ 1 }, cs_slice("x", 1), &w->err);
    case 6:
        return apply_it(w);
    default:
        return cs_replica_counts(w->c.r, &counts, &w->err);
    }
}

/* Between the calls: what the application does, and what others know by then. */
static void between(struct work *w, int call)
{
    if (call == 3)
        run_here(&w->c, "UPDATE t SET a = a + 1000 WHERE id > 12; INSERT INTO t VALUES(100, 5000, 'x')");
    if (call == 5) {
        assert_int_equal(cs_state_apply(&w->c.model, &w->out, NULL, NULL), CS_OK);
        must(cs_replica_bound_accepted(w->c.r, ++w->c.number, 1, 0, &w->err), &w->err, "accepted");
    }
    if (call == 6)
        assert_int_equal(cs_state_apply(&w->c.model, &w->in, NULL, NULL), CS_OK);
}

/* What another device sends: rows that collide with ours, children before parents, a delete. */
static void make_delta(struct work *w)
{
    w->columns[0] = cs_slice_str("a");
    w->columns[1] = cs_slice_str("b");
    w->table = (struct cs_delta_table){ .name = cs_slice_str("t"), .columns = w->columns, .ncolumns = 2 };
    memset(w->device.b, 8, 16);
    for (uint32_t i = 0; i < ROWS; i++) {
        struct cs_value id = { .type = CS_INTEGER, .u.i = 10 + i };

        cs_key_put(&w->keys[i], &id, CS_BINARY);
        w->cells[i][0] = (struct cs_op_cell){ .col = 0, .value = { .type = CS_INTEGER, .u.i = 7 * (int64_t)i } };
        w->cells[i][1] = (struct cs_op_cell){ .col = 1, .value = { .type = CS_TEXT, .u.bytes = cs_slice("text", 4) } };
        w->ops[i] = (struct cs_op){ .kind = i % 5 == 4 ? CS_OP_DELETE : CS_OP_INSERT,
                                    .stamp = (INT64_C(1) << 62) + i,
                                    .key = cs_buf_slice(&w->keys[i]) };
        if (w->ops[i].kind == CS_OP_INSERT) {
            w->ops[i].cells = w->cells[i];
            w->ops[i].ncells = 2;
        }
    }
    w->in = (struct cs_delta){
        .devices = &w->device, .ndevices = 1, .tables = &w->table, .ntables = 1, .ops = w->ops, .nops = ROWS
    };
}

/* One run with one failure; false: it was through before that. */
static bool run(long n, bool of_ours)
{
    static struct work w;
    bool failed = false;

    memset(&w, 0, sizeof w);
    make_delta(&w);
    open_database(&w.c, false,
                  "CREATE TABLE t(id INTEGER NOT NULL, a UNIQUE, b, PRIMARY KEY(id));"
                  "CREATE TABLE u(id TEXT PRIMARY KEY NOT NULL, t REFERENCES t(id));"
                  "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)"
                  "INSERT INTO t SELECT i, i, 'row ' || i FROM n; INSERT INTO u SELECT 'u' || id, id FROM t");
    ours = of_ours;
    countdown = n;
    for (int call = 0; call < CALLS; call++) {
        int rc;

        armed = true;
        rc = one_call(&w, call);
        armed = false;
        if (rc != CS_OK) {
            if (rc != CS_ENOMEM || failed || w.err.msg[0] == '\0')
                fail_msg("allocation %ld (%s): call %d gave %s: %s", n, of_ours ? "ours" : "SQLite's", call,
                         cs_code_name(rc), w.err.msg);
            failed = true;
            must(one_call(&w, call), &w.err, "with memory again");
        }
        between(&w, call);
    }
    failed = failed || countdown < 0;
    countdown = -1;
    send_silently(&w.c);
    assert_string_equal(value_of(&w.c, "PRAGMA integrity_check"), "ok");
    for (uint32_t i = 0; i < ROWS; i++)
        cs_buf_free(&w.keys[i]);
    cs_arena_free(&w.arena);
    close_all(&w.c);
    return failed;
}

static void every_allocation_of_ours(void **state)
{
    long n = 0;

    (void)state;
    while (run(n, true))
        n++;
    assert_true(n > 50);
}

static void many_of_sqlites(void **state)
{
    long n = 0;

    (void)state;
    while (run(n, false))
        n += 1 + n / 40;
    assert_true(n > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_allocation_of_ours), cmocka_unit_test(many_of_sqlites) };
    sqlite3_mem_methods counted;

    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &plain);
    counted = plain;
    counted.xMalloc = sqlite_malloc;
    counted.xRealloc = sqlite_realloc;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &counted);
    return cmocka_run_group_tests_name("out of memory", tests, NULL, NULL);
}
