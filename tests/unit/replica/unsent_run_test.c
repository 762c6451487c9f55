/* Rows inserted one after the other wait as one record (unsent_run.c): whatever happens to one of them before they are
 * sent, what is sent is right, and the others are not disturbed. */
#include "unit/replica/capture_fixture.h"

enum { ROWS = 600, THEIRS = 777 };

static const char records[] = "SELECT count(*) || ' ' || coalesce(sum(n), 0) FROM sync_unsent";

static void fill(struct capture *c)
{
    open_database(c, false, "CREATE TABLE t(id INTEGER NOT NULL, a, b, PRIMARY KEY(id)) WITHOUT ROWID");
    open_replica(c);
    track(c, "t");
    send_silently(c);
    run_here(c, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600) "
                "INSERT INTO t SELECT i, i * 2, 'row ' || i FROM n");
}

/* Seals in one slice, so that a run is not cut short. */
static void seal_at_once(struct capture *c)
{
    struct cs_error err = { 0 };
    bool more;

    must(cs_replica_seal(c->r, 10000, &more, NULL, &err), &err, "seal");
    assert_false(more);
}

/* Nothing goes out that others' stamps belong to. */
static void is_ours(const struct cs_delta *d)
{
    for (uint32_t i = 0; i < d->nops; i++)
        for (uint32_t k = 0; k < d->ops[i].ncells; k++)
            assert_false(d->ops[i].cells[k].value.type == CS_INTEGER && d->ops[i].cells[k].value.u.i == THEIRS);
}

/* Sends all of it in batches of `size`; the merged state others have then is ours (the fixture's model). */
static uint32_t send_in(struct capture *c, uint32_t size)
{
    struct cs_error err = { 0 };
    uint32_t sent = 0;
    bool unsealed, unsent;

    for (;;) {
        struct cs_arena a = { 0 };
        struct cs_delta d;
        uint32_t n;

        must(cs_replica_extract(c->r, &a, size, 1 << 20, &d, &err), &err, "extract");
        n = d.nops;
        sent += n;
        is_ours(&d);
        if (n > 0) {
            assert_int_equal(cs_state_apply(&c->model, &d, NULL, NULL), CS_OK);
            bind_and_accept(c);
        }
        cs_arena_free(&a);
        if (n == 0)
            break;
    }
    must(cs_replica_pending(c->r, &unsealed, &unsent, &err), &err, "pending");
    assert_false(unsent);
    model_agrees(c);
    return sent;
}

static void many_rows_are_few_records(void **state)
{
    struct capture c;

    (void)state;
    for (uint32_t size = 1; size < 2000; size = size * 7 + 3) {
        struct cs_replica_counts n;
        struct cs_error err = { 0 };

        fill(&c);
        seal_at_once(&c);
        assert_true(strtol(value_of(&c, "SELECT count(*) FROM sync_unsent"), NULL, 10) <= 10);
        must(cs_replica_counts(c.r, &n, &err), &err, "counts");
        assert_int_equal(n.unsent, ROWS);
        assert_int_equal(send_in(&c, size), ROWS);
        close_all(&c);
    }
}

static void rows_leave_their_run(void **state)
{
    struct capture c;

    (void)state;
    fill(&c);
    seal_at_once(&c);
    run_here(&c,
             "UPDATE t SET a = 'new' WHERE id % 50 = 7; DELETE FROM t WHERE id % 60 = 1; UPDATE t SET b = NULL WHERE "
             "id IN (1, 2, 599, 600)");
    seal_at_once(&c);
    assert_string_equal(value_of(&c, "SELECT sum(n) FROM sync_unsent"), "600");
    assert_int_equal(send_in(&c, 100), ROWS + 12 + 3); /* with an update each; a delete is all that is left of a row */
    assert_string_equal(value_of(&c, records), "0 0");
    close_all(&c);
}

static void inserted_and_changed_at_once(void **state)
{
    struct capture c;

    (void)state;
    fill(&c);
    run_here(&c,
             "INSERT INTO t VALUES(1001, 1, 1); UPDATE t SET a = 2 WHERE id = 1001; INSERT INTO t VALUES(1002, 1, 1);"
             "INSERT INTO t VALUES(1003, 1, 1); UPDATE t SET a = 2 WHERE id = 1003; INSERT INTO t VALUES(1004, 1, 1);"
             "INSERT INTO t VALUES(1005, 1, 1); UPDATE t SET b = 2 WHERE id = 1004; DELETE FROM t WHERE id = 1005");
    seal_at_once(&c);
    assert_int_equal(send_in(&c, 33), ROWS + 4 + 3 + 1);
    close_all(&c);
}

/* Another device made, changed or deleted the same row: its values must not go out under our stamps. */
static void others_change(enum cs_op_kind kind)
{
    struct cs_op_cell cells[2] = { { .col = 0, .value = { .type = CS_INTEGER, .u.i = THEIRS } },
                                   { .col = 1, .value = { .type = CS_NULL } } };
    struct cs_slice columns[2] = { cs_slice_str("a"), cs_slice_str("b") };
    struct cs_delta_table table = { .name = cs_slice_str("t"), .columns = columns, .ncolumns = 2 };
    struct cs_pull_mark mark = { .log_id = 1, .number = 1, .device_number = 1 };
    struct cs_uuid device;
    struct cs_op op = { .kind = kind, .stamp = INT64_C(1) << 62 };
    struct cs_delta d = { .devices = &device, .ndevices = 1, .tables = &table, .ntables = 1, .ops = &op, .nops = 1 };
    struct cs_apply_result result;
    struct cs_error err = { 0 };
    struct cs_buf key = { 0 };
    struct capture c;

    memset(device.b, 8, 16);
    mark.device = device;
    if (kind != CS_OP_DELETE) {
        op.cells = cells;
        op.ncells = kind == CS_OP_INSERT ? 2 : 1;
    }
    fill(&c);
    seal_at_once(&c);
    cs_key_put(&key, &(struct cs_value){ .type = CS_INTEGER, .u.i = 300 }, CS_BINARY);
    op.key = cs_buf_slice(&key);
    must(cs_replica_apply(c.r, &d, &mark, &result, &err), &err, "apply");
    assert_int_equal(cs_state_apply(&c.model, &d, NULL, NULL), CS_OK);
    assert_string_equal(value_of(&c, "SELECT a FROM t WHERE id = 300"), kind == CS_OP_DELETE ? "NULL" : "777");
    assert_true(send_in(&c, 1000) >= ROWS - 1);
    assert_string_equal(value_of(&c, "SELECT count(*) FROM t WHERE a = id * 2"), "599");
    cs_buf_free(&key);
    close_all(&c);
}

static void others_change_a_row_that_waits(void **state)
{
    (void)state;
    others_change(CS_OP_INSERT);
    others_change(CS_OP_UPDATE);
    others_change(CS_OP_DELETE);
}

static void taken_back_and_sealed_again(void **state)
{
    struct cs_error err = { 0 };
    struct cs_arena a = { 0 };
    struct cs_delta d;
    struct capture c;
    uint8_t hash[32] = { 1 };

    (void)state;
    fill(&c);
    seal_at_once(&c);
    must(cs_replica_extract(c.r, &a, 100, 1 << 20, &d, &err), &err, "extract");
    assert_int_equal(d.nops, 100);
    must(cs_replica_bind(c.r, 1, hash, cs_slice("x", 1), &err), &err, "bind");
    run_here(&c, "UPDATE t SET a = 0 WHERE id IN (50, 150)");
    seal_at_once(&c);
    must(cs_replica_unbind(c.r, &d, 1, &err), &err, "unbind");
    must(cs_replica_reseal(c.r, 1000, NULL, &err), &err, "reseal");
    assert_int_equal(send_in(&c, 64), ROWS + 2);
    cs_arena_free(&a);
    close_all(&c);
}

static void a_column_goes_while_they_wait(void **state)
{
    struct cs_error err = { 0 };
    struct capture c;
    bool changed;

    (void)state;
    fill(&c);
    seal_at_once(&c);
    must(cs_replica_pause(c.r, "t", &err), &err, "pause");
    run_here(&c, "ALTER TABLE t DROP COLUMN b; ALTER TABLE t ADD COLUMN z DEFAULT 5");
    must(cs_replica_check_schema(c.r, &changed, &err), &err, "schema");
    must(cs_replica_resume(c.r, "t", &err), &err, "resume");
    c.lossy = true;
    send_silently(&c);
    assert_string_equal(value_of(&c, records), "0 0");
    close_all(&c);
}

static void a_row_in_hand_waits_for_the_next_batch(void **state)
{
    struct cs_error err = { 0 };
    struct cs_arena a = { 0 };
    struct cs_delta d;
    struct capture c;

    (void)state;
    fill(&c);
    seal_at_once(&c);
    run_here(&c, "UPDATE t SET a = 'later' WHERE id IN (10, 400)"); /* logged, not sealed */
    must(cs_replica_extract(c.r, &a, 10000, 1 << 20, &d, &err), &err, "extract");
    assert_int_equal(d.nops, ROWS - 2);
    assert_int_equal(cs_state_apply(&c.model, &d, NULL, NULL), CS_OK);
    bind_and_accept(&c);
    assert_string_equal(value_of(&c, "SELECT sum(n) FROM sync_unsent"), "2");
    seal_at_once(&c);
    assert_int_equal(send_in(&c, 1000), 4);
    cs_arena_free(&a);
    close_all(&c);
}

static void damaged_records_are_refused(void **state)
{
    static const char *const bytes[] = { "x''",         "x'FF'",           "x'020001FF'",   "x'0200010A31'",
                                         "x'02000101'", "x'FFFFFFFFFF0F'", "zeroblob(3000)" };

    (void)state;
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        struct cs_error err = { 0 };
        struct cs_arena a = { 0 };
        struct cs_delta d;
        struct capture c;
        char sql[200];
        int rc;

        fill(&c);
        seal_at_once(&c);
        snprintf(sql, sizeof sql, "UPDATE sync_unsent SET base = %s WHERE key IS NULL", bytes[i]);
        run_here(&c, sql);
        rc = cs_replica_extract(c.r, &a, 1000, 1 << 20, &d, &err);
        assert_true(rc == CS_ECORRUPT);
        cs_arena_free(&a);
        close_all(&c);
    }
}

/* Its values are not in the table: who has just opened the database must know that. */
static void hidden_while_it_waits(void **state)
{
    struct cs_op_cell cell = { .value = { .type = CS_INTEGER, .u.i = 5 } };
    struct cs_slice column = cs_slice_str("u");
    struct cs_delta_table table = { .name = cs_slice_str("t"), .columns = &column, .ncolumns = 1 };
    struct cs_pull_mark mark = { .log_id = 1, .number = 1, .device_number = 1 };
    struct cs_uuid device;
    struct cs_op op = { .kind = CS_OP_INSERT, .stamp = 65536, .cells = &cell, .ncells = 1 };
    struct cs_delta d = { .devices = &device, .ndevices = 1, .tables = &table, .ntables = 1, .ops = &op, .nops = 1 };
    struct cs_apply_result result;
    struct cs_error err = { 0 };
    struct cs_arena a = { 0 };
    struct cs_buf key = { 0 };
    struct capture c;

    (void)state;
    memset(device.b, 8, 16);
    mark.device = device;
    open_database(&c, false, "CREATE TABLE t(id INTEGER NOT NULL, u UNIQUE, PRIMARY KEY(id)) WITHOUT ROWID");
    open_replica(&c);
    track(&c, "t");
    send_silently(&c);
    run_here(&c, "INSERT INTO t VALUES(1, 5)");
    seal_at_once(&c);
    cs_key_put(&key, &(struct cs_value){ .type = CS_INTEGER, .u.i = 2 }, CS_BINARY);
    op.key = cs_buf_slice(&key);
    must(cs_replica_apply(c.r, &d, &mark, &result, &err), &err, "apply");
    assert_string_equal(value_of(&c, "SELECT group_concat(id) FROM t"), "2"); /* the older one */
    cs_replica_close(c.r);
    open_replica(&c);
    must(cs_replica_extract(c.r, &a, 100, 1 << 20, &d, &err), &err, "extract");
    assert_int_equal(d.nops, 1);
    cs_arena_free(&a);
    cs_buf_free(&key);
    close_all(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_rows_are_few_records),
        cmocka_unit_test(rows_leave_their_run),
        cmocka_unit_test(inserted_and_changed_at_once),
        cmocka_unit_test(others_change_a_row_that_waits),
        cmocka_unit_test(taken_back_and_sealed_again),
        cmocka_unit_test(a_column_goes_while_they_wait),
        cmocka_unit_test(a_row_in_hand_waits_for_the_next_batch),
        cmocka_unit_test(hidden_while_it_waits),
        cmocka_unit_test(damaged_records_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
