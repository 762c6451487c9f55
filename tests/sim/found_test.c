/* A process dies as it syncs a commit, which the next one finds in the write-ahead log: whoever opens one of our
 * databases keeps it, also through a power failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "audit/audit.h"
#include "hub/store.h"
#include "queue/queue.h"
#include "replica/replica.h"
#include "sim/sim_disk.h"

#define PATH "/host/a.db"

struct scene {
    cs_sim *sim;
    struct cs_world *world;
    struct sim_disk *disk;
    struct cs_store store;
    cs_audit *audit;
    cs_queue *queue;
    cs_replica *replica;
};

static void must(int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        fail_msg("%s", err->msg);
}

static void open_store(struct scene *s)
{
    struct cs_error err;

    must(cs_store_sqlite_open(&s->store, s->world, PATH, &err), &err);
}

static void open_audit(struct scene *s)
{
    static const struct cs_audit_owner owner;
    struct cs_error err;

    must(cs_audit_open(&s->audit, s->world, PATH, false, &owner, &err), &err);
}

static void open_queue(struct scene *s)
{
    const struct cs_queue_options o = { .path = PATH };
    struct cs_error err;

    must(cs_queue_open(&s->queue, s->world, &o, &err), &err);
}

static void open_replica(struct scene *s)
{
    const struct cs_replica_options o = { .path = PATH };
    struct cs_error err;

    must(cs_replica_open(&s->replica, s->world, &o, &err), &err);
}

static void close_it(struct scene *s)
{
    if (s->store.ops != NULL)
        cs_store_close(&s->store);
    cs_audit_close(s->audit);
    cs_queue_close(s->queue);
    cs_replica_close(s->replica);
    s->store = (struct cs_store){ 0 };
    s->audit = NULL;
    s->queue = NULL;
    s->replica = NULL;
}

static sqlite3 *open_db(const struct scene *s)
{
    sqlite3 *db = NULL;

    assert_int_equal(sqlite3_open_v2(PATH, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, sim_disk_vfs(s->disk)),
                     SQLITE_OK);
    return db;
}

static int run(const struct scene *s, const char *sql)
{
    sqlite3 *db = open_db(s);
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);

    sqlite3_close(db);
    return rc;
}

static int count(const struct scene *s)
{
    sqlite3 *db = open_db(s);
    sqlite3_stmt *q = NULL;
    int n;

    assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*) FROM found", -1, &q, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    n = sqlite3_column_int(q, 0);
    sqlite3_finalize(q);
    sqlite3_close(db);
    return n;
}

/* The commit is written whole, and is not synced. */
static void die_at_sync(struct scene *s)
{
    static const struct sim_faults at_sync = { .sync = UINT32_C(1) << 20 };
    sqlite3 *db = open_db(s);

    /* a log that has begun: its header is synced apart */
    assert_int_equal(sqlite3_exec(db,
                                  "PRAGMA synchronous=FULL; CREATE TABLE begun(x); BEGIN; INSERT INTO found VALUES(1)",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    sim_disk_faults(s->disk, &at_sync);
    assert_int_not_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    sim_disk_kill(s->disk);
    sim_disk_faults(s->disk, NULL);
    sqlite3_close(db);
}

static void is_kept(void (*open)(struct scene *s))
{
    struct scene s = { .sim = cs_sim_new(1) };
    struct cs_error err;

    s.world = cs_sim_host(s.sim, "host");
    s.disk = sim_disk_new(s.sim, s.world, "host");
    sim_disk_choose(s.disk);
    must(cs_sim_touch(s.world, PATH, &err), &err);
    assert_int_equal(run(&s, "PRAGMA journal_mode=WAL"), SQLITE_OK);
    open(&s);
    close_it(&s);
    assert_int_equal(run(&s, "CREATE TABLE found(x)"), SQLITE_OK);
    die_at_sync(&s);
    open(&s);
    assert_int_equal(count(&s), 1); /* it can be seen */
    sim_disk_power_fails(s.disk);
    close_it(&s);
    assert_int_equal(count(&s), 1);
    sim_disk_free(s.disk);
    cs_sim_free(s.sim);
}

static void by_the_hub(void **state)
{
    (void)state;
    is_kept(open_store);
}
static void by_the_audit_log(void **state)
{
    (void)state;
    is_kept(open_audit);
}
static void by_the_queue(void **state)
{
    (void)state;
    is_kept(open_queue);
}
static void by_the_replica(void **state)
{
    (void)state;
    is_kept(open_replica);
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(by_the_hub),
        cmocka_unit_test(by_the_audit_log),
        cmocka_unit_test(by_the_queue),
        cmocka_unit_test(by_the_replica),
    };

    return cmocka_run_group_tests_name("what is found", t, NULL, NULL);
}
