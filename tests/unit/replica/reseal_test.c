/* Stamps that were given up when the hub refused the clock (reseal.c), and copies of what had them: an edit that was
 * made since then, with the clock put right, is not lost to them. */
#include "unit/replica/capture_fixture.h"

struct scene {
    struct capture c;
    struct cs_arena arena;
    struct cs_delta copy; /* of what was sealed with the wrong clock: row 1 says 'one', row 2 is there */
    int64_t top;          /* its highest stamp */
};

static int64_t top_of(const struct cs_delta *d)
{
    int64_t top = 0;

    for (uint32_t i = 0; i < d->nops; i++)
        if (d->ops[i].stamp > top)
            top = d->ops[i].stamp;
    return top;
}

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    struct cs_error err = { 0 };
    uint8_t hash[32] = { 1 };

    assert_non_null(s);
    open_database(&s->c, false, "CREATE TABLE t(id INTEGER NOT NULL, a, PRIMARY KEY(id)) WITHOUT ROWID");
    open_replica(&s->c);
    track(&s->c, "t");
    send_silently(&s->c);
    run_here(&s->c, "INSERT INTO t VALUES(1, 'one'), (2, 'x')");
    seal_all(&s->c);
    must(cs_replica_extract(s->c.r, &s->arena, 100, 1 << 20, &s->copy, &err), &err, "extract");
    assert_int_equal(s->copy.nops, 2);
    s->top = top_of(&s->copy);
    must(cs_replica_bind(s->c.r, 1, hash, cs_slice("x", 1), &err), &err, "bind");
    must(cs_replica_unbind(s->c.r, &s->copy, 1, &err), &err, "unbind");
    must(cs_replica_reseal(s->c.r, 1000, NULL, &err), &err, "reseal");
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    cs_arena_free(&s->arena);
    close_all(&s->c);
    free(s);
    return 0;
}

/* An edit by a clock that was put right: long before what the wrong one said. */
static void edit(struct scene *s, const char *sql)
{
    run_here(&s->c, sql);
    run_here(&s->c, "UPDATE sync_changelog SET ms = 1000");
    seal_all(&s->c);
}

static void from_an_old_queue_they_count_for_nothing(void **state)
{
    struct scene *s = *state;
    struct cs_error err = { 0 };

    edit(s, "UPDATE t SET a = 'two' WHERE id = 1; DELETE FROM t WHERE id = 2");
    send_silently(&s->c);
    must(cs_replica_drop_void(s->c.r, &s->copy, &err), &err, "drop");
    assert_int_equal(s->copy.nops, 0);
}

static void what_was_never_given_up_stays(void **state)
{
    struct scene *s = *state;
    struct cs_error err = { 0 };
    struct cs_delta d;
    uint32_t n;

    edit(s, "UPDATE t SET a = 'two' WHERE id = 1");
    must(cs_replica_extract(s->c.r, &s->arena, 100, 1 << 20, &d, &err), &err, "extract");
    n = d.nops;
    assert_true(n >= 2);
    must(cs_replica_drop_void(s->c.r, &d, &err), &err, "drop");
    assert_int_equal(d.nops, n);
    s->copy.devices[0].b[0] ^= 1; /* another's, of the same stamps */
    must(cs_replica_drop_void(s->c.r, &s->copy, &err), &err, "drop");
    assert_int_equal(s->copy.nops, 2);
}

/* The hub had refused the batch, and a copy of it is in the log all the same. */
static void in_the_log_they_come_before_later_edits(void **state)
{
    struct scene *s = *state;
    struct cs_pull_mark mark = { .log_id = 1, .number = 1 };
    struct cs_apply_result result;
    struct cs_error err = { 0 };
    struct cs_delta d;

    edit(s, "UPDATE t SET a = 'two' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES(3, 'y')");
    must(cs_replica_revive_void(s->c.r, &s->copy, &err), &err, "revive");
    mark.device = s->copy.devices[0];
    must(cs_replica_apply(s->c.r, &s->copy, &mark, &result, &err), &err, "apply");
    assert_int_equal(cs_state_apply(&s->c.model, &s->copy, NULL, NULL), CS_OK);
    assert_string_equal(value_of(&s->c, "SELECT group_concat(id || a) FROM t"), "1two,3y");
    must(cs_replica_extract(s->c.r, &s->arena, 100, 1 << 20, &d, &err), &err, "extract");
    for (uint32_t i = 0; i < d.nops; i++)
        assert_true(d.ops[i].stamp > s->top);
    must(cs_replica_drop_void(s->c.r, &s->copy, &err), &err, "drop");
    assert_int_equal(s->copy.nops, 2); /* they count again */
    send_silently(&s->c);              /* and everybody has the same */
    assert_string_equal(value_of(&s->c, "SELECT group_concat(id || a) FROM t"), "1two,3y");
}

static void a_set_of_good_stamps_changes_nothing(void **state)
{
    struct scene *s = *state;
    struct cs_error err = { 0 };
    struct cs_delta before, after;

    edit(s, "UPDATE t SET a = 'two' WHERE id = 1");
    must(cs_replica_extract(s->c.r, &s->arena, 100, 1 << 20, &before, &err), &err, "extract");
    must(cs_replica_revive_void(s->c.r, &before, &err), &err, "revive");
    must(cs_replica_extract(s->c.r, &s->arena, 100, 1 << 20, &after, &err), &err, "extract");
    assert_int_equal(after.nops, before.nops);
    for (uint32_t i = 0; i < after.nops; i++)
        assert_int_equal(after.ops[i].stamp, before.ops[i].stamp);
}

/* A database of before they were remembered. */
static void an_older_database_has_no_such_table(void **state)
{
    struct scene *s = *state;
    struct cs_error err = { 0 };

    run_here(&s->c, "DROP TABLE sync_void");
    must(cs_replica_drop_void(s->c.r, &s->copy, &err), &err, "drop");
    assert_int_equal(s->copy.nops, 2);
    run_here(&s->c, "DROP TABLE sync_void");
    must(cs_replica_revive_void(s->c.r, &s->copy, &err), &err, "revive");
    run_here(&s->c, "DROP TABLE sync_void");
    must(cs_replica_reseal(s->c.r, 500, NULL, &err), &err, "reseal");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(from_an_old_queue_they_count_for_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_never_given_up_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(in_the_log_they_come_before_later_edits, setup, teardown),
        cmocka_unit_test_setup_teardown(a_set_of_good_stamps_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(an_older_database_has_no_such_table, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
