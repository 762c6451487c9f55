/* The merged state on its way out, whole, while the application's tables lack what our versions name. */
#include "capture_fixture.h"

enum { MOST_SETS = 20 };

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, a, b);"
                             "CREATE TABLE sessions(id TEXT PRIMARY KEY NOT NULL, a);";

/* Begins with rows that are sent; what others know begins anew, as in a new log. */
static void begin(struct capture *c)
{
    struct cs_error err = { 0 };

    open_database(c, false, schema);
    open_replica(c);
    track_all(c);
    app(c, "INSERT INTO memories VALUES('m1', 1, 1), ('m2', 2, 2), ('m3', 3, 3);"
           "INSERT INTO sessions VALUES('s1', 1), ('s2', 2)");
    send_silently(c);
    app(c, "UPDATE memories SET b = 7");
    send_silently(c);
    cs_state_free(&c->model);
    must(cs_replica_publish(c->r, &err), &err, "publish");
}

static void app_unseen(struct capture *c, const char *sql)
{
    assert_int_equal(sqlite3_db_config(c->app, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL), SQLITE_OK);
    app(c, sql);
    assert_int_equal(sqlite3_db_config(c->app, SQLITE_DBCONFIG_ENABLE_TRIGGER, 1, NULL), SQLITE_OK);
}

/* As a push does: edits first, then the state, one set after the other. */
static bool send_one(struct capture *c, uint32_t max_ops)
{
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    bool more = false;

    seal_all(c);
    must(cs_replica_extract(c->r, &a, max_ops, 1 << 20, &d, &err), &err, "extract");
    if (d.nops == 0)
        must(cs_replica_extract_state(c->r, &a, max_ops, 1 << 20, &d, &more, &err), &err, "extract the state");
    if (d.nops > 0) {
        assert_int_equal(cs_state_apply(&c->model, &d, NULL, NULL), CS_OK);
        bind_and_accept(c);
        more = true;
    }
    cs_arena_free(&a);
    return more;
}

static void send_state(struct capture *c, uint32_t max_ops)
{
    struct cs_error err = { 0 };
    bool publishing;
    int sets = 0;

    while (send_one(c, max_ops))
        if (++sets > MOST_SETS)
            fail_msg("publishing has no end");
    must(cs_replica_publishing(c->r, &publishing, &err), &err, "publishing");
    assert_false(publishing);
}

static void all_rows(void **state)
{
    struct capture c;

    (void)state;
    for (uint32_t max_ops = 1; max_ops < 20; max_ops += 6) {
        begin(&c);
        send_state(&c, max_ops);
        model_agrees(&c);
        close_all(&c);
    }
}

/* A row that was deleted where no trigger saw it is a delete, as a comparison finds it. */
static void a_row_that_is_gone(void **state)
{
    static const char *const deletes[] = { "DELETE FROM memories WHERE id = 'm1'",
                                           "DELETE FROM memories WHERE id = 'm2'",
                                           "DELETE FROM memories WHERE id = 'm3'", "DELETE FROM memories",
                                           "DELETE FROM sessions WHERE id = 's2'" };
    struct capture c;

    (void)state;
    for (size_t i = 0; i < sizeof deletes / sizeof deletes[0]; i++)
        for (uint32_t max_ops = 1; max_ops < 20; max_ops += 6) {
            begin(&c);
            app_unseen(&c, deletes[i]);
            send_state(&c, max_ops);
            model_agrees(&c);
            close_all(&c);
        }
}

/* With a table its values went; its versions do not keep the rest from being sent. */
static void a_table_that_is_gone(void **state)
{
    struct capture c;

    (void)state;
    begin(&c);
    app(&c, "DROP TABLE memories");
    send_state(&c, 50);
    assert_int_equal(c.model.nrows, 5);
    close_all(&c);
}

/* While rows that others' state may not have are looked at, a new one goes out: the others will have it. */
static void a_row_that_goes_out_meanwhile(void **state)
{
    struct cs_sweep how = { .through = INT64_MAX / 2 };
    struct cs_error err = { 0 };
    struct cs_arena a = { 0 };
    struct cs_delta d;
    struct capture c;
    uint64_t swept = 0;
    bool more = true;

    (void)state;
    open_database(&c, false, "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a)");
    open_replica(&c);
    track(&c, "t");
    run_here(&c, "INSERT INTO t VALUES('known', 1)");
    send_silently(&c);
    run_here(&c, "INSERT INTO t VALUES('new', 1)");
    seal_all(&c);
    must(cs_replica_mark_stale(c.r, &err), &err, "mark");
    must(cs_replica_extract(c.r, &a, 10, 1 << 20, &d, &err), &err, "extract");
    assert_int_equal(d.nops, 1);
    must(cs_replica_names(c.r, &d, &err), &err, "names");
    bind_and_accept(&c);
    memset(how.author.b, 5, 16);
    while (more)
        must(cs_replica_sweep(c.r, &how, &more, &swept, &err), &err, "sweep");
    assert_int_equal(swept, 1);
    assert_string_equal(value_of(&c, "SELECT group_concat(id) FROM t"), "new");
    cs_arena_free(&a);
    close_all(&c);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_rows),
        cmocka_unit_test(a_row_that_is_gone),
        cmocka_unit_test(a_table_that_is_gone),
        cmocka_unit_test(a_row_that_goes_out_meanwhile),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
