/* The record of edits that lost: one entry for each losing edit, none is left out, and those that the rows themselves
 * have settled are closed. */
#include "replica/review.h"
#include "unit/replica/apply_fixture.h"

static struct cs_uuid A, B;

static struct cs_slice key_of(struct delta *x, const char *s)
{
    struct cs_buf b = { 0 };
    struct cs_value v = text(s);
    struct cs_slice out;

    cs_key_put(&b, &v, CS_BINARY);
    out = cs_arena_copy(&x->arena, cs_buf_slice(&b));
    cs_buf_free(&b);
    return out;
}

/* One more operation on column v of table t; v NULL: none. saw: the stamp of A's that its author saw there, or 0. */
static struct cs_op *add(struct delta *x, enum cs_op_kind kind, const char *key, const char *v, int64_t stamp,
                         const struct cs_uuid *device, int64_t saw)
{
    struct cs_op *op = delta_op(x, kind, "t", key_of(x, key), stamp, device);

    if (v != NULL)
        op_cell(x, op, "v", text(v));
    if (saw != 0)
        op_over(x, op, "v", saw, &A);
    return op;
}

static struct cs_apply_result put_seeing(struct fixture *f, enum cs_op_kind kind, const char *key, const char *v,
                                         int64_t stamp, const struct cs_uuid *device, int64_t saw)
{
    struct cs_apply_result result;
    struct delta x;

    delta_init(&x);
    add(&x, kind, key, v, stamp, device, saw);
    result = fixture_apply(f, &x.d);
    delta_fini(&x);
    return result;
}

static struct cs_apply_result put(struct fixture *f, enum cs_op_kind kind, const char *key, const char *v,
                                  int64_t stamp, const struct cs_uuid *device)
{
    return put_seeing(f, kind, key, v, stamp, device, 0);
}

static void open_table(struct fixture *f, const char *schema)
{
    fixture_open(f, schema);
    fixture_replica(f);
    fixture_track(f, "t");
    fixture_seal(f);
}

static int64_t open_conflicts(struct fixture *f)
{
    struct cs_replica_counts counts;
    struct cs_error err = { 0 };

    if (cs_replica_counts(f->r, &counts, &err) != CS_OK)
        fail_msg("counts: %s", err.msg);
    return counts.conflicts;
}

#define RECORDS                                                                                                        \
    "SELECT group_concat(why || ' ' || state || ' ' || ifnull(value, '-'), ', ') FROM "                                \
    "(SELECT * FROM sync_conflicts ORDER BY stamp, value)"

/* ---- one entry for each losing edit ---- */

static void an_edit_that_lost_twice_is_one_entry(void **state)
{
    struct fixture f;

    (void)state;
    open_table(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v)");
    put(&f, CS_OP_INSERT, "x", "first", 10, &A);
    put(&f, CS_OP_UPDATE, "x", "second", 20, &B);
    assert_string_equal(app_value(&f, RECORDS), "overwritten auto first");
    assert_int_equal(put(&f, CS_OP_DELETE, "x", NULL, 30, &B).conflicts, 1);
    assert_int_equal(put(&f, CS_OP_UPDATE, "x", "first", 10, &A).conflicts, 0); /* again, below the tombstone */
    assert_string_equal(app_value(&f, RECORDS), "overwritten auto first, deleted auto second");
    fixture_close(&f);
}

/* A version that is on record already, for having met a delete, is seen again with another value. */
static void a_copied_device_is_raised_all_the_same(void **state)
{
    struct cs_apply_result result;
    struct fixture f;

    (void)state;
    open_table(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v)");
    put(&f, CS_OP_DELETE, "x", NULL, 10, &B);
    put(&f, CS_OP_UPDATE, "x", "b", 20, &A);
    assert_string_equal(app_value(&f, RECORDS), "deleted auto b");
    result = put(&f, CS_OP_UPDATE, "x", "c", 20, &A);
    assert_int_equal(result.manual_conflicts, 1);
    assert_string_equal(app_value(&f, "SELECT state || value FROM sync_conflicts WHERE why = 'copied-device'"),
                        "manualb");
    result = put(&f, CS_OP_UPDATE, "x", "b", 20, &A); /* known */
    assert_int_equal(result.manual_conflicts, 0);
    fixture_close(&f);
}

/* Every value of one version but the largest lost, in whatever order they come; the entries are the same everywhere. */
static void each_value_of_a_version_has_its_entry(void **state)
{
    static const char *const orders[] = { "abc", "acb", "bac", "bca", "cab", "cba" };
    char ids[600] = "";

    (void)state;
    for (int i = 0; i < 6; i++) {
        struct fixture f;
        const char *got;

        open_table(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v)");
        put(&f, CS_OP_INSERT, "x", NULL, 10, &A);
        for (int k = 0; k < 3; k++)
            put(&f, CS_OP_UPDATE, "x", (char[]){ orders[i][k], 0 }, 20, &A);
        assert_string_equal(app_value(&f, RECORDS), "copied-device manual a, copied-device manual b");
        got = app_value(&f, "SELECT group_concat(hex(id)) FROM (SELECT id FROM sync_conflicts ORDER BY id)");
        if (i == 0)
            snprintf(ids, sizeof ids, "%s", got);
        assert_string_equal(got, ids);
        fixture_close(&f);
    }
}

/* Both copies of a device lose to somebody else: neither text is dropped. */
static void two_values_of_a_version_that_both_lose(void **state)
{
    struct fixture f;

    (void)state;
    open_table(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v)");
    put(&f, CS_OP_INSERT, "x", "winner", 30, &B);
    assert_int_equal(put(&f, CS_OP_UPDATE, "x", "one", 20, &A).conflicts, 1);
    assert_int_equal(put(&f, CS_OP_UPDATE, "x", "two", 20, &A).conflicts, 1);
    assert_int_equal(put(&f, CS_OP_UPDATE, "x", "two", 20, &A).conflicts, 0);
    assert_int_equal(put(&f, CS_OP_UPDATE, "x", "one", 20, &A).conflicts, 0);
    assert_string_equal(app_value(&f, RECORDS), "overwritten auto one, overwritten auto two");
    fixture_close(&f);
}

/* ---- conflicts of whole rows ---- */

#define UNIQUE_TABLE "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v UNIQUE);"

static void a_loser_that_is_shown_again_is_closed(void **state)
{
    struct fixture f;

    (void)state;
    open_table(&f, UNIQUE_TABLE);
    put(&f, CS_OP_INSERT, "a", "1", 10, &A);
    assert_int_equal(put(&f, CS_OP_INSERT, "b", "1", 11, &A).conflicts, 1);
    assert_string_equal(app_value(&f, RECORDS), "unique auto -");
    assert_int_equal(open_conflicts(&f), 1);
    put_seeing(&f, CS_OP_DELETE, "a", NULL, 20, &A, 10);
    assert_string_equal(app_value(&f, "SELECT group_concat(k) FROM t"), "b");
    assert_string_equal(app_value(&f, RECORDS), "unique closed -");
    assert_int_equal(open_conflicts(&f), 0);
    assert_int_equal(put(&f, CS_OP_INSERT, "c", "1", 5, &A).conflicts, 1); /* older: b loses once more */
    assert_string_equal(app_value(&f, RECORDS), "unique auto -");
    put_seeing(&f, CS_OP_DELETE, "b", NULL, 21, &A, 11); /* nothing to decide about */
    assert_int_equal(open_conflicts(&f), 0);
    fixture_close(&f);
}

static void the_application_settles_it(void **state)
{
    struct fixture f;

    (void)state;
    open_table(&f, UNIQUE_TABLE);
    put(&f, CS_OP_INSERT, "a", "1", 10, &A);
    put(&f, CS_OP_INSERT, "b", "1", 11, &A);
    put(&f, CS_OP_INSERT, "c", "1", 12, &A);
    assert_string_equal(app_value(&f, RECORDS), "unique auto -, unique auto -");
    app_exec(&f, "INSERT INTO t VALUES('c', '2')"); /* over a row that is hidden here */
    fixture_seal(&f);
    assert_string_equal(app_value(&f, RECORDS), "unique auto -, unique closed -, overwritten auto 1");
    app_exec(&f, "DELETE FROM t WHERE k = 'a'");
    fixture_seal(&f);
    assert_string_equal(app_value(&f, "SELECT group_concat(k || v) FROM (SELECT * FROM t ORDER BY k)"), "b1,c2");
    assert_string_equal(app_value(&f, RECORDS), "unique closed -, unique closed -, overwritten auto 1");
    fixture_close(&f);
}

/* Another reason hides the row now. */
static void a_loser_that_becomes_an_orphan(void **state)
{
    struct cs_op *op;
    struct fixture f;
    struct delta x;

    (void)state;
    fixture_open(&f, "CREATE TABLE p(k TEXT PRIMARY KEY NOT NULL);"
                     "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v UNIQUE, p REFERENCES p(k));");
    fixture_replica(&f);
    fixture_track(&f, "p");
    fixture_track(&f, "t");
    fixture_seal(&f);
    put(&f, CS_OP_INSERT, "a", "1", 10, &A);
    put(&f, CS_OP_INSERT, "b", "1", 11, &A);
    assert_int_equal(open_conflicts(&f), 1);
    delta_init(&x);
    op = add(&x, CS_OP_UPDATE, "b", NULL, 12, &A, 0);
    op_cell(&x, op, "p", text("nobody"));
    fixture_apply(&f, &x.d);
    delta_fini(&x);
    assert_string_equal(app_value(&f, "SELECT reason FROM sync_hidden WHERE col = -1"), "fk");
    assert_int_equal(open_conflicts(&f), 0);
    fixture_close(&f);
}

/* In the middle of a batch it would lose; what counts is how the batch ends. */
static void a_loser_within_a_batch(void **state)
{
    struct cs_apply_result result;
    struct fixture f;
    struct delta x;

    (void)state;
    open_table(&f, UNIQUE_TABLE);
    put(&f, CS_OP_INSERT, "a", "1", 10, &A);
    delta_init(&x);
    add(&x, CS_OP_INSERT, "b", "1", 11, &A, 0);
    add(&x, CS_OP_DELETE, "a", NULL, 12, &A, 10);
    result = fixture_apply(&f, &x.d);
    delta_fini(&x);
    assert_int_equal(result.conflicts, 0);
    assert_string_equal(app_value(&f, "SELECT group_concat(k) FROM t"), "b");
    assert_string_equal(app_value(&f, RECORDS), "NULL");
    fixture_close(&f);
}

/* The older claimant turns out to be one that this application refuses. */
static void a_loser_to_a_row_that_is_refused(void **state)
{
    struct cs_apply_result result;
    struct fixture f;
    struct delta x;

    (void)state;
    open_table(&f, UNIQUE_TABLE "CREATE TRIGGER no BEFORE INSERT ON t WHEN NEW.k = 'a' BEGIN SELECT RAISE(ABORT, "
                                "'no'); END;");
    delta_init(&x);
    add(&x, CS_OP_INSERT, "a", "1", 10, &A, 0);
    add(&x, CS_OP_INSERT, "b", "1", 11, &A, 0);
    result = fixture_apply(&f, &x.d);
    delta_fini(&x);
    assert_string_equal(app_value(&f, "SELECT group_concat(k) FROM t"), "b");
    assert_int_equal(result.conflicts, 0);
    assert_string_equal(app_value(&f, RECORDS), "NULL");
    fixture_close(&f);
}

static void a_check_that_holds_again(void **state)
{
    struct fixture f;

    (void)state;
    open_table(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v CHECK (v <> 'bad'))");
    put(&f, CS_OP_INSERT, "a", "bad", 10, &A);
    put(&f, CS_OP_INSERT, "b", "bad", 11, &A);
    put(&f, CS_OP_INSERT, "c", "bad", 12, &A);
    assert_string_equal(app_value(&f, RECORDS), "check auto -, check auto -, check auto -");
    put_seeing(&f, CS_OP_UPDATE, "a", "good", 20, &A, 10);
    assert_string_equal(app_value(&f, RECORDS), "check closed -, check auto -, check auto -");
    put_seeing(&f, CS_OP_DELETE, "b", NULL, 21, &A, 11);
    put_seeing(&f, CS_OP_UPDATE, "c", "good", 22, &A, 12);
    assert_string_equal(app_value(&f, RECORDS), "check closed -, check closed -, check closed -");
    fixture_close(&f);
}

/* The application mends the row itself, or edits something else of it, or takes it out. */
static void a_check_that_holds_by_an_edit_here(void **state)
{
    struct fixture f;

    (void)state;
    open_table(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v CHECK (v <> 'bad'), w)");
    put(&f, CS_OP_INSERT, "a", "bad", 10, &A);
    put(&f, CS_OP_INSERT, "b", "bad", 11, &A);
    put(&f, CS_OP_INSERT, "c", "bad", 12, &A);
    app_exec(&f, "UPDATE t SET v = 'good' WHERE k = 'a'; DELETE FROM t WHERE k = 'b'");
    fixture_seal(&f);
    assert_string_equal(app_value(&f, RECORDS), "check closed -, check closed -, check auto -");
    app_exec(&f, "UPDATE t SET w = 1 WHERE k = 'c'");
    fixture_seal(&f);
    assert_string_equal(app_value(&f, RECORDS), "check closed -, check closed -, check closed -, check auto -");
    assert_int_equal(open_conflicts(&f), 1);
    fixture_close(&f);
}

/* ---- strategies, decisions, old age ---- */

static struct cs_replica_options options_of(struct fixture *f)
{
    return (struct cs_replica_options){ .path = f->path };
}

static void strategy(struct fixture *f, const char *column, bool manual)
{
    struct cs_replica_options o = options_of(f);
    struct cs_error err = { 0 };

    if (cs_replica_set_strategy(f->r, &o, "t", column, manual, &err) != CS_OK)
        fail_msg("strategy: %s", err.msg);
    fixture_seal(f);
}

static void a_column_goes_before_its_table(void **state)
{
    struct cs_replica_options o;
    struct cs_error err = { 0 };
    struct fixture f;

    (void)state;
    open_table(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v)");
    o = options_of(&f);
    put(&f, CS_OP_INSERT, "x", "one", 10, &A);
    strategy(&f, NULL, true);
    assert_int_equal(put(&f, CS_OP_UPDATE, "x", "two", 20, &B).manual_conflicts, 1);
    strategy(&f, "v", false);
    assert_int_equal(put(&f, CS_OP_UPDATE, "x", "three", 30, &A).manual_conflicts, 0);
    strategy(&f, "v", true);
    strategy(&f, NULL, false);
    assert_int_equal(put(&f, CS_OP_DELETE, "x", NULL, 40, &B).manual_conflicts, 1);
    assert_string_equal(app_value(&f, RECORDS), "overwritten manual one, overwritten auto two, deleted manual three");
    assert_int_equal(cs_replica_set_strategy(f.r, &o, "sync_shared", NULL, true, &err), CS_ENOTFOUND);
    assert_int_equal(cs_replica_set_strategy(f.r, &o, "t", "w", true, &err), CS_ENOTFOUND);
    assert_int_equal(cs_replica_untrack(f.r, "sync_shared", &err), CS_ENOTFOUND);
    assert_int_equal(cs_replica_pause(f.r, "sync_shared", &err), CS_ENOTFOUND);
    assert_int_equal(cs_replica_untrack(f.r, "t", &err), CS_OK);
    assert_string_equal(app_value(&f, "SELECT group_concat(name) FROM sqlite_schema WHERE name <> 't'"),
                        "sqlite_autoindex_t_1"); /* the last one takes all of ours with it */
    fixture_close(&f);
}

static int take_id(void *arg, const struct cs_review_conflict *c)
{
    snprintf(arg, CS_REVIEW_ID, "%s", c->id);
    return 1;
}

static void resolve(struct fixture *f, enum cs_review_choice choice)
{
    struct cs_replica_options o = options_of(f);
    struct cs_error err = { 0 };
    char id[CS_REVIEW_ID] = "";

    assert_int_equal(cs_review_conflicts(f->r, false, take_id, id, &err), CS_OK);
    if (cs_review_resolve(f->r, &o, id, choice, NULL, &err) != CS_OK)
        fail_msg("resolve: %s", err.msg);
    fixture_seal(f);
}

/* Both values of a copied device's version are one decision; what stays gets a stamp of its own. */
static void what_stays_is_written_again(void **state)
{
    struct fixture f;

    (void)state;
    open_table(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v)");
    put(&f, CS_OP_INSERT, "x", NULL, 10, &A);
    for (int k = 0; k < 3; k++)
        put(&f, CS_OP_UPDATE, "x", (char[]){ "bca"[k], 0 }, 20, &A);
    assert_int_equal(open_conflicts(&f), 2);
    resolve(&f, CS_REVIEW_KEEP);
    assert_int_equal(open_conflicts(&f), 0);
    assert_string_equal(app_value(&f, "SELECT v FROM t"), "c");
    assert_int_equal(put(&f, CS_OP_UPDATE, "x", "late", 30, &B).conflicts, 1); /* older than the decision */
    assert_string_equal(app_value(&f, "SELECT v FROM t"), "c");
    resolve(&f, CS_REVIEW_TAKE);
    assert_string_equal(app_value(&f, "SELECT v FROM t"), "late");
    assert_int_equal(open_conflicts(&f), 0);
    fixture_close(&f);
}

/* Another device decided before this one noticed: nothing is raised. */
static void what_was_decided_before_it_is_noticed(void **state)
{
    struct cs_apply_result result;
    struct fixture f, g;
    struct cs_slice id;
    struct cs_op *op;
    struct delta x;

    (void)state;
    open_table(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v)");
    put(&f, CS_OP_INSERT, "x", "one", 10, &A);
    put(&f, CS_OP_UPDATE, "x", "two", 20, &B);
    open_table(&g, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v)");
    delta_init(&x);
    {
        sqlite3_stmt *s;
        struct cs_value name = { .type = CS_BLOB }, what = text("resolved");
        struct cs_buf key = { 0 };

        assert_int_equal(sqlite3_prepare_v2(f.app, "SELECT id FROM sync_conflicts", -1, &s, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_step(s), SQLITE_ROW);
        id = cs_arena_copy(&x.arena, cs_slice(sqlite3_column_blob(s, 0), (size_t)sqlite3_column_bytes(s, 0)));
        sqlite3_finalize(s);
        assert_int_equal(id.len, 16);
        name.u.bytes = id;
        cs_key_put(&key, &what, CS_BINARY);
        cs_key_put(&key, &name, CS_BINARY);
        op = delta_op(&x, CS_OP_INSERT, "sync_shared", cs_arena_copy(&x.arena, cs_buf_slice(&key)), 40, &B);
        op_cell(&x, op, "value", text("kept"));
        cs_buf_free(&key);
    }
    result = fixture_apply(&g, &x.d);
    assert_int_equal(result.hidden, 0);
    put(&g, CS_OP_INSERT, "x", "one", 10, &A);
    result = put(&g, CS_OP_UPDATE, "x", "two", 20, &B);
    assert_int_equal(result.conflicts, 0);
    assert_string_equal(app_value(&g, RECORDS), "overwritten resolved one");
    fixture_apply(&f, &x.d);
    assert_string_equal(app_value(&f, RECORDS), "overwritten resolved one");
    delta_fini(&x);
    fixture_close(&f);
    fixture_close(&g);
}

static void after_thirty_days(void **state)
{
    struct fixture f;

    (void)state;
    open_table(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v UNIQUE)");
    put(&f, CS_OP_INSERT, "x", "one", 10, &A);
    put(&f, CS_OP_UPDATE, "x", "two", 20, &B); /* overwritten, may go */
    for (int k = 0; k < 2; k++)
        put(&f, CS_OP_UPDATE, "x", k == 0 ? "a" : "b", 30, &A); /* a person is waited for */
    put(&f, CS_OP_INSERT, "y", "b", 40, &A);                    /* hidden, as long as it is */
    app_exec(&f, "UPDATE sync_conflicts SET at_ms = at_ms - 31 * 86400000");
    cs_replica_close(f.r);
    fixture_replica(&f);
    put(&f, CS_OP_INSERT, "z", "three", 50, &B);
    assert_string_equal(app_value(&f, "SELECT group_concat(why) FROM (SELECT why FROM sync_conflicts ORDER BY stamp)"),
                        "copied-device,unique");
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_edit_that_lost_twice_is_one_entry),
        cmocka_unit_test(a_copied_device_is_raised_all_the_same),
        cmocka_unit_test(each_value_of_a_version_has_its_entry),
        cmocka_unit_test(two_values_of_a_version_that_both_lose),
        cmocka_unit_test(a_loser_that_is_shown_again_is_closed),
        cmocka_unit_test(the_application_settles_it),
        cmocka_unit_test(a_loser_that_becomes_an_orphan),
        cmocka_unit_test(a_loser_within_a_batch),
        cmocka_unit_test(a_loser_to_a_row_that_is_refused),
        cmocka_unit_test(a_check_that_holds_again),
        cmocka_unit_test(a_check_that_holds_by_an_edit_here),
        cmocka_unit_test(a_column_goes_before_its_table),
        cmocka_unit_test(what_stays_is_written_again),
        cmocka_unit_test(what_was_decided_before_it_is_noticed),
        cmocka_unit_test(after_thirty_days),
    };

    A = device_id(1);
    B = device_id(2);
    return cmocka_run_group_tests_name("the record of edits that lost", tests, NULL, NULL);
}
