/* The application's triggers while we apply: what they write into tracked tables has no effect, what they write
 * elsewhere stays. */
#include "unit/replica/apply_fixture.h"

#include "replica/review.h"

static struct cs_uuid A, B;

static struct cs_slice key1(struct delta *x, const char *s)
{
    struct cs_buf b = { 0 };
    struct cs_value v = text(s);
    struct cs_slice out;

    cs_key_put(&b, &v, CS_BINARY);
    out = cs_arena_copy(&x->arena, cs_buf_slice(&b));
    cs_buf_free(&b);
    return out;
}

/* An operation on table "notes" (id TEXT PRIMARY KEY, body, n). */
static struct cs_op *put(struct delta *x, enum cs_op_kind kind, const char *id, int64_t stamp)
{
    return delta_op(x, kind, "notes", key1(x, id), stamp, &A);
}

static void open_notes(struct fixture *f, const char *more)
{
    fixture_open(f, "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, body TEXT, n INTEGER, updated_at TEXT);"
                    "CREATE TABLE plain(what TEXT);");
    app_exec(f, more);
    fixture_replica(f);
    fixture_track(f, "notes");
    fixture_seal(f);
}

static void insert_update_delete(struct fixture *f)
{
    struct delta x;
    struct cs_op *op;

    delta_init(&x);
    for (int i = 0; i < 3; i++) {
        char id[2] = { (char)('a' + i), 0 };

        op = put(&x, CS_OP_INSERT, id, 10 + i);
        op_cell(&x, op, "body", text("first"));
        op_cell(&x, op, "n", integer(i));
        op_cell(&x, op, "updated_at", text("then"));
    }
    fixture_apply(f, &x.d);
    delta_fini(&x);
    delta_init(&x);
    op = put(&x, CS_OP_UPDATE, "a", 20);
    op_cell(&x, op, "body", text("second"));
    op_over(&x, op, "body", 10, &A);
    put(&x, CS_OP_DELETE, "c", 21);
    fixture_apply(f, &x.d);
    delta_fini(&x);
    assert_string_equal(app_value(f, "SELECT group_concat(id || body || n || updated_at) FROM "
                                     "(SELECT * FROM notes ORDER BY id)"),
                        "asecond0then,bfirst1then");
}

static void nothing_to_send(struct fixture *f)
{
    bool unsealed, unsent;
    struct cs_error err = { 0 };

    assert_int_equal(cs_replica_pending(f->r, &unsealed, &unsent, &err), CS_OK);
    assert_false(unsealed);
    assert_false(unsent);
}

static void triggers_on_tracked_have_no_effect(void **state)
{
    const char *const *sql = *state;
    struct fixture f;

    open_notes(&f, *sql);
    insert_update_delete(&f);
    nothing_to_send(&f);
    fixture_close(&f);
}

static const char *const harmless[] = {
    "CREATE TRIGGER t AFTER UPDATE ON notes BEGIN UPDATE notes SET updated_at = 'now' WHERE id = NEW.id; END;",
    "CREATE TRIGGER t AFTER INSERT ON notes BEGIN UPDATE notes SET updated_at = 'now' WHERE id = NEW.id; END;",
    "CREATE TRIGGER t BEFORE UPDATE ON notes BEGIN UPDATE notes SET n = n + 1 WHERE id = NEW.id; END;",
    "CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM notes WHERE id = (SELECT min(id) FROM notes); END;",
    "CREATE TRIGGER t BEFORE INSERT ON notes BEGIN DELETE FROM notes; END;",
    "CREATE TRIGGER t BEFORE UPDATE ON notes BEGIN DELETE FROM notes; END;",
    "CREATE TRIGGER t AFTER DELETE ON notes BEGIN DELETE FROM notes; END;",
    "CREATE TRIGGER t BEFORE DELETE ON notes BEGIN DELETE FROM notes; END;",
    "CREATE TRIGGER t BEFORE DELETE ON notes BEGIN UPDATE notes SET n = 7; DELETE FROM notes; END;",
    "CREATE TRIGGER t AFTER INSERT ON notes BEGIN INSERT OR REPLACE INTO notes(id, body) VALUES('x' || NEW.id, 'y'); "
    "END;",
    "CREATE TRIGGER t AFTER INSERT ON notes BEGIN INSERT INTO notes(id) VALUES(NEW.id) ON CONFLICT DO UPDATE SET n = "
    "9; "
    "END;",
    "CREATE TRIGGER t AFTER INSERT ON notes BEGIN INSERT INTO plain VALUES('x'); END;"
    "CREATE TRIGGER u AFTER INSERT ON plain BEGIN DELETE FROM notes; UPDATE notes SET n = 8; END;",
    "CREATE VIEW v AS SELECT * FROM notes;"
    "CREATE TRIGGER t AFTER UPDATE ON notes BEGIN DELETE FROM v WHERE id = OLD.id; END;"
    "CREATE TRIGGER u INSTEAD OF DELETE ON v BEGIN DELETE FROM notes WHERE id = OLD.id; END;",
    "CREATE TRIGGER t AFTER UPDATE OF body ON notes WHEN NEW.body = 'second' BEGIN UPDATE notes SET body = 'third'; "
    "END;",
    "CREATE TRIGGER t AFTER DELETE ON notes BEGIN INSERT INTO notes(id) VALUES(OLD.id); END;",
};

/* The oldest is deleted when there are more than two: the origin sends its own delete. */
static void other_tables_are_written(void **state)
{
    struct fixture f;

    (void)state;
    open_notes(&f, "CREATE TABLE counts(n INTEGER); INSERT INTO counts VALUES(0);"
                   "CREATE TRIGGER t AFTER INSERT ON notes BEGIN UPDATE counts SET n = n + 1; END;"
                   "CREATE TRIGGER u AFTER DELETE ON notes BEGIN INSERT INTO plain VALUES('gone ' || OLD.id); END;"
                   "CREATE TRIGGER v AFTER UPDATE ON notes BEGIN INSERT OR IGNORE INTO plain VALUES('new ' || NEW.id); "
                   "END;");
    insert_update_delete(&f);
    assert_string_equal(app_value(&f, "SELECT n FROM counts"), "3");
    assert_string_equal(app_value(&f, "SELECT group_concat(what) FROM plain"), "new a,gone c");
    fixture_close(&f);
}

/* A counter in a tracked table would be counted twice. */
static void a_tracked_counter_is_left_alone(void **state)
{
    struct fixture f;

    (void)state;
    open_notes(&f, "CREATE TABLE counts(id TEXT PRIMARY KEY NOT NULL, n INTEGER); INSERT INTO counts VALUES('all', 0);"
                   "CREATE TRIGGER t AFTER INSERT ON notes BEGIN UPDATE counts SET n = n + 1; END;");
    fixture_track(&f, "counts");
    fixture_seal(&f);
    insert_update_delete(&f);
    assert_string_equal(app_value(&f, "SELECT n FROM counts"), "0");
    /* The application's own connection counts as ever. */
    app_exec(&f, "INSERT INTO notes(id) VALUES('mine')");
    assert_string_equal(app_value(&f, "SELECT n FROM counts"), "1");
    fixture_close(&f);
}

static void triggers_made_later_are_guarded_too(void **state)
{
    struct fixture f;
    struct delta x;
    struct cs_op *op;

    (void)state;
    open_notes(&f, "SELECT 1");
    insert_update_delete(&f);
    app_exec(&f, "CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM notes WHERE id < NEW.id; "
                 "INSERT INTO plain VALUES('late ' || NEW.id); END");
    delta_init(&x);
    op = put(&x, CS_OP_INSERT, "z", 30);
    op_cell(&x, op, "body", text("last"));
    fixture_apply(&f, &x.d);
    delta_fini(&x);
    assert_string_equal(app_value(&f, "SELECT count(*) FROM notes"), "3");
    assert_string_equal(app_value(&f, "SELECT group_concat(what) FROM plain"), "late z");
    fixture_close(&f);
}

static void fts_stays_right(void **state)
{
    struct fixture f;

    (void)state;
    open_notes(&f, "CREATE VIRTUAL TABLE notes_fts USING fts5(body, content='notes', content_rowid='rowid');"
                   "CREATE TRIGGER i AFTER INSERT ON notes BEGIN INSERT INTO notes_fts(rowid, body) VALUES(NEW.rowid, "
                   "NEW.body); END;"
                   "CREATE TRIGGER d AFTER DELETE ON notes BEGIN INSERT INTO notes_fts(notes_fts, rowid, body) "
                   "VALUES('delete', OLD.rowid, OLD.body); END;"
                   "CREATE TRIGGER u AFTER UPDATE ON notes BEGIN INSERT INTO notes_fts(notes_fts, rowid, body) "
                   "VALUES('delete', OLD.rowid, OLD.body); INSERT INTO notes_fts(rowid, body) VALUES(NEW.rowid, "
                   "NEW.body); END;");
    insert_update_delete(&f);
    app_exec(&f, "INSERT INTO notes_fts(notes_fts, rank) VALUES('integrity-check', 1)");
    assert_string_equal(app_value(&f, "SELECT count(*) FROM notes_fts WHERE notes_fts MATCH 'first'"), "1");
    assert_string_equal(app_value(&f, "SELECT count(*) FROM notes_fts WHERE notes_fts MATCH 'second'"), "1");
    fixture_close(&f);
}

/* A trigger that refuses a row: the row waits in sync_hidden, the rest of the batch is applied. */
static void a_refused_row_blocks_nothing(void **state)
{
    const char *const *sql = *state;
    struct fixture f;
    struct delta x;
    struct cs_op *op;

    open_notes(&f, *sql);
    delta_init(&x);
    for (int i = 0; i < 3; i++) {
        char id[2] = { (char)('a' + i), 0 };

        op = put(&x, CS_OP_INSERT, id, 10 + i);
        op_cell(&x, op, "body", text(i == 1 ? "bad" : "good"));
    }
    fixture_apply(&f, &x.d);
    delta_fini(&x);
    assert_string_equal(app_value(&f, "SELECT group_concat(id) FROM notes"), "a,c");
    assert_string_equal(app_value(&f, "SELECT reason FROM sync_hidden WHERE col = -1"), "trigger");
    delta_init(&x); /* a better value, and it is shown */
    op = put(&x, CS_OP_UPDATE, "b", 20);
    op_cell(&x, op, "body", text("better"));
    fixture_apply(&f, &x.d);
    delta_fini(&x);
    assert_string_equal(app_value(&f, "SELECT group_concat(id) FROM (SELECT id FROM notes ORDER BY id)"), "a,b,c");
    delta_init(&x); /* and a bad one hides it */
    op = put(&x, CS_OP_UPDATE, "b", 21);
    op_cell(&x, op, "body", text("bad"));
    fixture_apply(&f, &x.d);
    delta_fini(&x);
    assert_string_equal(app_value(&f, "SELECT count(*) FROM sync_hidden WHERE col = -1"), "1");
    fixture_close(&f);
}

/* What all others have deleted goes, even where a trigger would keep it. */
static void a_delete_is_not_refused(void **state)
{
    const char *const *sql = *state;
    struct fixture f;
    struct delta x;
    struct cs_op *op;

    open_notes(&f, *sql);
    delta_init(&x);
    for (int i = 0; i < 3; i++) {
        char id[2] = { (char)('a' + i), 0 };

        op = put(&x, CS_OP_INSERT, id, 10 + i);
        op_cell(&x, op, "body", text("kept"));
    }
    fixture_apply(&f, &x.d);
    delta_fini(&x);
    delta_init(&x);
    put(&x, CS_OP_DELETE, "b", 20);
    op = put(&x, CS_OP_INSERT, "d", 21);
    op_cell(&x, op, "body", text("new"));
    fixture_apply(&f, &x.d);
    delta_fini(&x);
    assert_string_equal(app_value(&f, "SELECT group_concat(id) FROM (SELECT id FROM notes ORDER BY id)"), "a,c,d");
    assert_string_equal(app_value(&f, "SELECT count(*) FROM sync_hidden"), "0");
    fixture_close(&f);
}

/* As another process: what the last one found out about triggers is not known. */
static void reopen(struct fixture *f)
{
    cs_replica_close(f->r);
    fixture_replica(f);
}

/* What a person, or a program beside the engine, may do to tables that have a row which is refused. */
static void what_is_refused_waits(void **state)
{
    const char *const *sql = *state;
    struct fixture f;
    struct delta x;
    struct cs_op *op;
    struct cs_error err = { 0 };
    bool changed;

    open_notes(&f, *sql);
    delta_init(&x);
    op = put(&x, CS_OP_INSERT, "a", 10);
    op_cell(&x, op, "body", text("bad"));
    fixture_apply(&f, &x.d);
    delta_fini(&x);
    assert_string_equal(app_value(&f, "SELECT reason FROM sync_hidden WHERE col = -1"), "trigger");
    app_exec(&f, "CREATE TABLE more(id TEXT PRIMARY KEY NOT NULL)");
    reopen(&f);
    assert_int_equal(cs_replica_check_schema(f.r, &changed, &err), CS_OK);
    reopen(&f);
    fixture_track(&f, "more");
    assert_int_equal(cs_replica_pause(f.r, NULL, &err), CS_OK);
    reopen(&f);
    assert_int_equal(cs_replica_resume(f.r, NULL, &err), CS_OK);
    reopen(&f);
    assert_int_equal(cs_replica_untrack(f.r, "more", &err), CS_OK);
    assert_int_equal(cs_review_retry(f.r, &err), CS_OK);
    assert_string_equal(app_value(&f, "SELECT count(*) FROM notes"), "0");
    assert_string_equal(app_value(&f, "SELECT reason FROM sync_hidden WHERE col = -1"), "trigger");
    app_exec(&f, "DROP TRIGGER t; DROP TRIGGER u");
    assert_int_equal(cs_replica_check_schema(f.r, &changed, &err), CS_OK);
    assert_string_equal(app_value(&f, "SELECT body FROM notes"), "bad");
    assert_string_equal(app_value(&f, "SELECT count(*) FROM sync_hidden"), "0");
    fixture_close(&f);
}

/* A trigger may ask another table: no schema tells that it would let the row in now. */
static void a_retry_asks_the_trigger_again(void **state)
{
    static const char *const how[] = { "ABORT", "FAIL", "ROLLBACK" };
    struct cs_error err = { 0 };
    bool asked;

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct fixture f;
        struct delta x;
        struct cs_op *op;
        char sql[300];

        snprintf(sql, sizeof sql,
                 "CREATE TABLE closed(x); INSERT INTO closed VALUES(1); CREATE TRIGGER t BEFORE INSERT ON notes WHEN "
                 "EXISTS (SELECT 1 FROM closed) BEGIN SELECT RAISE(%s, 'closed'); END;",
                 how[i]);
        open_notes(&f, sql);
        delta_init(&x);
        op = put(&x, CS_OP_INSERT, "a", 10);
        op_cell(&x, op, "body", text("waits"));
        fixture_apply(&f, &x.d);
        delta_fini(&x);
        app_exec(&f, "DELETE FROM closed");
        assert_string_equal(app_value(&f, "SELECT count(*) FROM notes"), "0");
        assert_int_equal(cs_review_ask_retry(f.r, &err), CS_OK);
        assert_int_equal(cs_review_retry_asked(f.r, &asked, &err), CS_OK);
        assert_true(asked);
        assert_int_equal(cs_review_retry(f.r, &err), CS_OK);
        assert_int_equal(cs_review_retry_asked(f.r, &asked, &err), CS_OK);
        assert_false(asked);
        assert_string_equal(app_value(&f, "SELECT body FROM notes"), "waits");
        assert_string_equal(app_value(&f, "SELECT count(*) FROM sync_hidden"), "0");
        fixture_close(&f);
    }
}

static const char *const keeping[] = {
    "CREATE TRIGGER t BEFORE DELETE ON notes BEGIN SELECT RAISE(ABORT, 'no'); END;",
    "CREATE TRIGGER t AFTER DELETE ON notes BEGIN SELECT RAISE(FAIL, 'no'); END;",
    "CREATE TRIGGER t BEFORE DELETE ON notes BEGIN SELECT RAISE(ROLLBACK, 'no'); END;",
    "CREATE TRIGGER t BEFORE DELETE ON notes BEGIN SELECT RAISE(IGNORE); END;",
};

static const char *const refusing[] = {
    "CREATE TRIGGER t BEFORE INSERT ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;"
    "CREATE TRIGGER u BEFORE UPDATE ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;",
    "CREATE TRIGGER t AFTER INSERT ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;"
    "CREATE TRIGGER u AFTER UPDATE ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;",
    "CREATE TRIGGER t BEFORE INSERT ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(FAIL, 'no'); END;"
    "CREATE TRIGGER u BEFORE UPDATE ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(FAIL, 'no'); END;",
    "CREATE TRIGGER t AFTER INSERT ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(FAIL, 'no'); END;"
    "CREATE TRIGGER u AFTER UPDATE ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(FAIL, 'no'); END;",
    "CREATE TRIGGER t AFTER INSERT ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END;"
    "CREATE TRIGGER u AFTER UPDATE ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END;",
    "CREATE TRIGGER t BEFORE INSERT ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END;"
    "CREATE TRIGGER u BEFORE UPDATE ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END;",
    "CREATE TRIGGER t BEFORE INSERT ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(IGNORE); END;"
    "CREATE TRIGGER u BEFORE UPDATE ON notes WHEN NEW.body = 'bad' BEGIN SELECT RAISE(IGNORE); END;",
};

int main(void)
{
    struct CMUnitTest t[64];
    size_t n = 0;

    A = device_id(1);
    B = device_id(2);
    for (size_t i = 0; i < sizeof harmless / sizeof harmless[0]; i++)
        t[n++] = (struct CMUnitTest){ .name = harmless[i],
                                      .test_func = triggers_on_tracked_have_no_effect,
                                      .initial_state = (void *)&harmless[i] };
    for (size_t i = 0; i < sizeof refusing / sizeof refusing[0]; i++)
        t[n++] = (struct CMUnitTest){ .name = refusing[i],
                                      .test_func = a_refused_row_blocks_nothing,
                                      .initial_state = (void *)&refusing[i] };
    for (size_t i = 0; i < sizeof refusing / sizeof refusing[0]; i++)
        t[n++] = (struct CMUnitTest){ .name = refusing[i],
                                      .test_func = what_is_refused_waits,
                                      .initial_state = (void *)&refusing[i] };
    for (size_t i = 0; i < sizeof keeping / sizeof keeping[0]; i++)
        t[n++] = (struct CMUnitTest){ .name = keeping[i],
                                      .test_func = a_delete_is_not_refused,
                                      .initial_state = (void *)&keeping[i] };
    t[n++] = (struct CMUnitTest)cmocka_unit_test(other_tables_are_written);
    t[n++] = (struct CMUnitTest)cmocka_unit_test(a_tracked_counter_is_left_alone);
    t[n++] = (struct CMUnitTest)cmocka_unit_test(triggers_made_later_are_guarded_too);
    t[n++] = (struct CMUnitTest)cmocka_unit_test(fts_stays_right);
    t[n++] = (struct CMUnitTest)cmocka_unit_test(a_retry_asks_the_trigger_again);
    return _cmocka_run_group_tests("application triggers during apply", t, n, NULL, NULL);
}
