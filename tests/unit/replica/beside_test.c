/* Two processes on one database: an engine, and a command beside it that seals too (pause, resume, track). Whichever
 * begins a transaction goes on from where the other one ended, not from where it was itself. */
#include "unit/replica/capture_fixture.h"

static const char schema[] = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a); CREATE TABLE u(id TEXT PRIMARY KEY "
                             "NOT NULL, a);";

/* Another replica on the database, for the command. */
static cs_replica *open_beside(struct capture *c)
{
    cs_replica *engine = c->r, *command;

    open_replica(c);
    command = c->r;
    c->r = engine;
    return command;
}

static void seal(cs_replica *r)
{
    struct cs_error err = { 0 };
    bool more = true;

    while (more)
        must(cs_replica_seal(r, 7, &more, NULL, &err), &err, "seal");
}

static void turns(void **state)
{
    struct cs_error err = { 0 };
    struct capture c;
    cs_replica *command;

    (void)state;
    open_database(&c, false, schema);
    open_replica(&c);
    track_all(&c);
    app(&c, "INSERT INTO t VALUES('first', 0)");
    sends(&c, "I t 'first' a=0\n");
    command = open_beside(&c);
    app(&c, "INSERT INTO t VALUES('a', 1), ('b', 2)");
    must(cs_replica_pause(command, "u", &err), &err, "pause"); /* seals what is logged */
    must(cs_replica_pause(command, "u", &err), &err, "pause");
    app(&c, "INSERT INTO t VALUES('c', 3), ('d', 4)");
    seal(c.r);
    app(&c, "UPDATE t SET a = 9 WHERE id = 'first'; INSERT INTO t VALUES('e', 5)");
    must(cs_replica_pause(command, "u", &err), &err, "pause"); /* and changes nothing else */
    app(&c, "INSERT INTO t VALUES('f', 6)");
    seal(c.r);
    assert_string_equal(value_of(&c, "SELECT count(*) - count(DISTINCT ins) FROM sync_rows"), "0");
    sends(&c, "I t 'a' a=1\nI t 'b' a=2\nI t 'c' a=3\nI t 'd' a=4\nU t 'first' a=9 /a\nI t 'e' a=5\nI t 'f' a=6\n");
    cs_replica_close(command);
    close_all(&c);
}

/* A NULL in the key is held back, and counted: by whichever of them came across it. */
static void counters(void **state)
{
    struct capture c;
    struct cs_replica_counts n;
    struct cs_error err = { 0 };
    cs_replica *command;

    (void)state;
    open_database(&c, false, "CREATE TABLE t(id TEXT PRIMARY KEY, a)");
    open_replica(&c);
    track_all(&c);
    seal_all(&c);
    command = open_beside(&c);
    app(&c, "INSERT INTO t VALUES(NULL, 1)");
    seal(command);
    app(&c, "INSERT INTO t VALUES(NULL, 2)");
    seal(c.r);
    must(cs_replica_counts(c.r, &n, &err), &err, "counts");
    assert_int_equal(n.held_back, 2);
    app(&c, "DELETE FROM t WHERE a = 1");
    seal(command);
    must(cs_replica_counts(c.r, &n, &err), &err, "counts");
    assert_int_equal(n.held_back, 1);
    app(&c, "UPDATE t SET id = 'k'");
    seal(command);
    must(cs_replica_counts(c.r, &n, &err), &err, "counts");
    assert_int_equal(n.held_back, 0);
    app(&c, "UPDATE t SET id = NULL");
    seal(command);
    must(cs_replica_counts(c.r, &n, &err), &err, "counts");
    assert_int_equal(n.held_back, 1);
    cs_replica_close(command);
    close_all(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns),
        cmocka_unit_test(counters),
    };

    return cmocka_run_group_tests_name("two processes on one database", tests, NULL, NULL);
}
