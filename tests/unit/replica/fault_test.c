/* A full disk, a locked database and no memory at every point of sealing, binding, tracking and applying: the call
 * fails, says so, and changes nothing; when there is room again everything goes on. The limit on the size of files
 * stands for the disk. */
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "fixtures/fault_vfs.h"
#include "fixtures/short_memory.h"
#include "unit/replica/capture_fixture.h"

#define SCHEMA                                                                                                         \
    "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a UNIQUE, b); CREATE TABLE u(id TEXT PRIMARY KEY NOT NULL, t "       \
    "REFERENCES "                                                                                                      \
    "t(id));"

static void limit_files(rlim_t bytes)
{
    struct rlimit l;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &l), 0);
    l.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &l), 0);
}

static void no_limit(void)
{
    struct rlimit l;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &l), 0);
    limit_files(l.rlim_max);
}

/* The largest file of the database now: what the limit counts from. */
static rlim_t size_now(struct capture *c)
{
    static const char *const ends[] = { "", "-wal", "-journal" };
    rlim_t most = 0;

    for (int i = 0; i < 3; i++) {
        char name[160];
        struct stat st;

        snprintf(name, sizeof name, "%s%s", c->path, ends[i]);
        if (stat(name, &st) == 0 && (rlim_t)st.st_size > most)
            most = (rlim_t)st.st_size;
    }
    return most;
}

/* Does this much work, all of it; the first failure ends it. */
static int work(struct capture *c, struct cs_error *err)
{
    struct cs_arena a = { 0 };
    struct cs_delta d;
    bool more = true, changed;
    uint8_t hash[32] = { 1 };
    int rc = cs_replica_check_schema(c->r, &changed, err);

    if (rc == CS_OK && (rc = cs_replica_track(c->r, "t", NULL, err)) == CS_OK)
        rc = cs_replica_track(c->r, "u", NULL, err);
    while (rc == CS_OK && more)
        rc = cs_replica_seal(c->r, 50, &more, NULL, err);
    for (more = true; rc == CS_OK && more;) {
        if ((rc = cs_replica_extract(c->r, &a, 60, 1 << 20, &d, err)) != CS_OK || d.nops == 0)
            break;
        if ((rc = cs_replica_bind(c->r, c->number + 1, hash, cs_slice("x", 1), err)) != CS_OK)
            break;
        assert_int_equal(cs_state_apply(&c->model, &d, NULL, NULL), CS_OK);
        c->number++; /* bound: durable, to be sent as it is */
        rc = cs_replica_bound_accepted(c->r, c->number, c->number, 0, err);
        if (rc != CS_OK) {
            no_limit();
            must(cs_replica_bound_accepted(c->r, c->number, c->number, 0, err), err, "accepted");
        }
    }
    cs_arena_free(&a);
    return rc;
}

static void a_full_disk(void **state)
{
    struct capture c;
    int failures = 0;
    char sql[300];

    open_database(&c, false, SCHEMA);
    run_here(&c, *state);
    open_replica(&c);
    signal(SIGXFSZ, SIG_IGN);
    for (int round = 0; round < 60; round++) {
        struct cs_error err = { 0 };
        int rc;

        snprintf(
            sql, sizeof sql,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) REPLACE INTO t SELECT i * %d "
            "%% 97, i + %d, zeroblob(300) FROM n; DELETE FROM t WHERE id = %d; INSERT OR REPLACE INTO u SELECT id, id "
            "FROM t LIMIT 20",
            round + 1, round, round);
        run_here(&c, sql);
        /* every other time even a journal has no room, or pages in the middle cannot be written */
        limit_files((round % 2 != 0 ? 0 : size_now(&c)) + (rlim_t)(round % 20) * 2048);
        rc = work(&c, &err);
        no_limit();
        if (rc != CS_OK) {
            failures++;
            if (rc != CS_EIO && rc != CS_EDB)
                fail_msg("a full disk gave: %s (%s)", err.msg, cs_code_name(rc));
            assert_true(err.msg[0] != '\0');
            if (rc == CS_EIO && strstr(err.msg, c.path) == NULL)
                fail_msg("which disk? %s", err.msg);
            if (round % 3 == 0) { /* with another engine */
                cs_replica_close(c.r);
                open_replica(&c);
            }
        }
        if (round % 4 == 0) {
            must(work(&c, &err), &err, "work with room again");
            model_agrees(&c);
        }
    }
    assert_true(failures > 5);
    send_silently(&c);
    assert_string_equal(value_of(&c, "PRAGMA integrity_check"), "ok");
    assert_string_equal(value_of(&c, "SELECT count(*) FROM t"),
                        value_of(&c,
                                 "SELECT count(*) FROM sync_rows WHERE tbl = (SELECT id FROM sync_tables WHERE name = "
                                 "'t') AND ins > coalesce(del, 0)"));
    close_all(&c);
}

/* Someone holds the write lock for longer than we wait. */
static void a_locked_database(void **state)
{
    struct cs_replica_options o = { .busy_timeout_ms = 20 };
    struct cs_pull_mark mark = { .log_id = 1, .number = 1 };
    struct cs_apply_result result;
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    struct capture c;
    bool more;

    (void)state;
    open_database(&c, false, SCHEMA "PRAGMA journal_mode=WAL;");
    open_replica(&c);
    cs_replica_close(c.r);
    o.path = c.path;
    must(cs_replica_open(&c.r, cs_world_real(), &o, &err), &err, "open");
    run_here(&c, "BEGIN IMMEDIATE");
    assert_int_equal(cs_replica_track(c.r, "t", NULL, &err), CS_EBUSY);
    run_here(&c, "COMMIT");
    track_all(&c);
    run_here(&c, "INSERT INTO t VALUES('k', 1, 2)");
    run_here(&c, "BEGIN IMMEDIATE; INSERT INTO t VALUES('l', 2, 2)");
    assert_int_equal(cs_replica_seal(c.r, 10, &more, NULL, &err), CS_EBUSY);
    assert_int_equal(cs_replica_apply(c.r, NULL, &mark, &result, &err), CS_EBUSY);
    assert_int_equal(cs_replica_pause(c.r, "t", &err), CS_EBUSY);
    assert_int_equal(cs_replica_untrack(c.r, "t", &err), CS_EBUSY);
    run_here(&c, "COMMIT");
    seal_all(&c);
    must(cs_replica_extract(c.r, &a, 10, 1 << 20, &d, &err), &err, "extract");
    run_here(&c, "BEGIN IMMEDIATE");
    assert_int_equal(cs_replica_bind(c.r, 1, (uint8_t[32]){ 0 }, cs_slice("x", 1), &err), CS_EBUSY);
    assert_int_equal(cs_replica_reseal(c.r, 5, NULL, &err), CS_EBUSY);
    run_here(&c, "COMMIT");
    cs_arena_free(&a);
    sends(&c, "I t 'k' a=1 b=2\nI t 'l' a=2 b=2\n");
    close_all(&c);
}

/* What memory mirrors of a database that can be neither written nor read is what it was before. */
static void a_disk_that_is_gone(void **state)
{
    struct capture c;
    struct cs_pull_mark now, next = { .log_id = 1 };
    struct cs_apply_result result;
    struct cs_error err = { 0 };
    int failures = 0;

    (void)state;
    fault_vfs_install();
    open_database(&c, false, SCHEMA);
    run_here(&c, "PRAGMA journal_mode=WAL");
    open_replica(&c);
    track_all(&c);
    for (long n = 0; next.number < 20; n++) {
        int rc;

        cs_replica_pull_mark(c.r, &now);
        next.number = now.number + 1;
        fault_after = n % 40;
        rc = cs_replica_apply(c.r, NULL, &next, &result, &err);
        cs_replica_pull_mark(c.r, &now);
        fault_after = -1;
        assert_int_equal(now.number, rc == CS_OK ? next.number : next.number - 1);
        failures += rc != CS_OK;
        next.number = now.number;
        if (n % 8 == 0) { /* what is on the disk is not more than what was said to be */
            cs_replica_close(c.r);
            open_replica(&c);
            cs_replica_pull_mark(c.r, &now);
            assert_int_equal(now.number, next.number);
        }
    }
    assert_true(failures > 5);
    close_all(&c);
    sqlite3_vfs_unregister(&fault_vfs);
}

/* Tracking makes tables and triggers, and so the statement that rolls back has to be prepared anew. */
static void memory_that_ran_out(void **state)
{
    struct capture c;
    bool done = false;
    int failures = 0;

    (void)state;
    open_database(&c, false, SCHEMA);
    open_replica(&c);
    for (long n = 1; !done; n += 7) {
        struct cs_error err = { 0 };
        int rc;

        short_memory_after = n;
        rc = cs_replica_track(c.r, "t", NULL, &err);
        done = rc == CS_OK && short_memory_after > 0;
        short_memory_after = -1;
        failures += rc != CS_OK;
        if (rc != CS_OK && rc != CS_ENOMEM)
            fail_msg("no memory after %ld allocations gave: %s (%s)", n, err.msg, cs_code_name(rc));
        must(cs_replica_track(c.r, "u", NULL, &err), &err, "track with memory again");
        must(cs_replica_untrack(c.r, "u", &err), &err, "untrack");
        if (rc == CS_OK)
            must(cs_replica_untrack(c.r, "t", &err), &err, "untrack");
    }
    assert_true(failures > 20);
    close_all(&c);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_disk_that_is_gone),
        { "a full disk, rollback journal", a_full_disk, NULL, NULL, (void *)"PRAGMA journal_mode=DELETE" },
        { "a full disk, write-ahead log", a_full_disk, NULL, NULL, (void *)"PRAGMA journal_mode=WAL" },
        cmocka_unit_test(a_locked_database),
        cmocka_unit_test(memory_that_ran_out),
    };

    if (!short_memory_install())
        return 1;
    return cmocka_run_group_tests_name("faults", tests, NULL, NULL);
}
