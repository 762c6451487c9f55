/* An application that writes all the time, in a process of its own, while changes are sealed, extracted and bound. In
 * each row `a` and `b` are always written together and equal: what is sent must never show a stamp with the value of
 * another moment. */
#include "unit/replica/capture_fixture.h"

#include <sys/ioctl.h>

enum { TRANSACTIONS = 3000, KEYS = 40, AT_ONCE = 8, AHEAD = 4 };

/* Each byte of `leave` is worth AT_ONCE transactions. No more than AHEAD of them ever wait, however long either side
 * was kept from running: a writer that may run on faster than the sealing keeps every row busy, and nothing is sent. */
static _Noreturn void write_all_the_time(const char *path, int leave)
{
    sqlite3 *db;
    uint64_t x = 88172645463325252u;
    char sql[400];

    if (sqlite3_open(path, &db) != SQLITE_OK)
        _exit(1);
    sqlite3_busy_timeout(db, 20000);
    sqlite3_exec(db, "PRAGMA synchronous=OFF", NULL, NULL, NULL);
    for (int i = 0; i < TRANSACTIONS; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        if (x % 7 == 0)
            snprintf(sql, sizeof sql, "BEGIN IMMEDIATE; DELETE FROM t WHERE id = %d; COMMIT", (int)(x / 7 % KEYS));
        else
            snprintf(
                sql, sizeof sql,
                "BEGIN IMMEDIATE; INSERT INTO t VALUES(%d, %d, %d) ON CONFLICT(id) DO UPDATE SET a = excluded.a, b = "
                "excluded.b; COMMIT",
                (int)(x / 7 % KEYS), i, i);
        if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
            _exit(2);
        if (i % AT_ONCE == 0 && read(leave, sql, 1) != 1)
            _exit(3);
    }
    sqlite3_close(db);
    _exit(0);
}

static void give_leave(const int leave[2])
{
    int waiting;

    assert_int_equal(ioctl(leave[0], FIONREAD, &waiting), 0);
    if (waiting < AHEAD)
        assert_int_equal(write(leave[1], "", 1), 1);
}

static void together(const struct cs_delta *d)
{
    for (uint32_t i = 0; i < d->nops; i++) {
        const struct cs_op *op = &d->ops[i];

        if (op->kind == CS_OP_DELETE || op->ncells == 0)
            continue;
        assert_int_equal(op->ncells, 2);
        assert_int_equal(op->cells[0].value.u.i, op->cells[1].value.u.i);
    }
}

static void nothing_is_torn_or_lost(void **state)
{
    struct capture c;
    struct cs_error err = { 0 };
    int status = 0, rounds = 0, leave[2];
    bool alive = true;
    pid_t pid;

    open_database(&c, false, *state);
    run_here(&c, "CREATE TABLE t(id INTEGER NOT NULL, a, b, PRIMARY KEY(id)) WITHOUT ROWID");
    sqlite3_close(c.app); /* no connection may pass through fork */
    fflush(NULL);
    assert_int_equal(pipe(leave), 0);
    if ((pid = fork()) == 0) {
        close(leave[1]);
        write_all_the_time(c.path, leave[0]);
    }
    assert_int_equal(sqlite3_open(c.path, &c.app), SQLITE_OK);
    sqlite3_busy_timeout(c.app, 20000);
    open_replica(&c);
    track(&c, "t");
    while (alive) {
        struct cs_arena a = { 0 };
        struct cs_delta d;
        bool more;

        alive = waitpid(pid, &status, WNOHANG) == 0;
        give_leave(leave);
        must(cs_replica_seal(c.r, 20, &more, NULL, &err), &err, "seal");
        must(cs_replica_extract(c.r, &a, 20, 1 << 20, &d, &err), &err, "extract");
        together(&d);
        if (d.nops > 0) {
            assert_int_equal(cs_state_apply(&c.model, &d, NULL, NULL), CS_OK);
            bind_and_accept(&c);
            rounds++;
        }
        cs_arena_free(&a);
    }
    assert_int_equal(status, 0);
    assert_true(rounds > 1);
    send_silently(&c);
    assert_string_equal(value_of(&c, "SELECT count(*) FROM t"),
                        value_of(&c, "SELECT count(*) FROM sync_rows WHERE ins > coalesce(del, 0)"));
    close(leave[0]);
    close(leave[1]);
    close_all(&c);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        { "write-ahead log", nothing_is_torn_or_lost, NULL, NULL, (void *)"PRAGMA journal_mode=WAL" },
        { "rollback journal", nothing_is_torn_or_lost, NULL, NULL, (void *)"PRAGMA journal_mode=DELETE" },
    };

    return cmocka_run_group_tests_name("busy writer", tests, NULL, NULL);
}
