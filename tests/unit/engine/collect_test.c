/* Collecting tombstones (docs/decisions/0017): they go on all devices at one place of the log, and nothing that was
 * deleted lives again, whoever was away, restored a backup, or had something on its way. */
#include <inttypes.h>

#include "unit/engine/hub_fixture.h"

#include "replica/replica.h"

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT, title TEXT);";

enum { A, B, C, DEVICES };
#define TOMBSTONES "SELECT count(*) FROM sync_rows WHERE del IS NOT NULL"
#define DEAD       "SELECT count(*) FROM sync_rows WHERE ins IS NULL"

struct scene {
    struct hub hub;
    struct device device[DEVICES], newcomer;
    char backup[SCRATCH_LEN + 32];
    int readers;
};

static void syncs(struct device *d)
{
    clawsync_error err = { 0 };

    ok(clawsync_engine_sync_now(d->engine, NULL, &err), &err);
}

/* Twice, so that each has what the other sent. */
static void sync_some(struct scene *s, int first, int n)
{
    for (int round = 0; round < 2; round++)
        for (int i = first; i < first + n; i++)
            syncs(&s->device[i]);
}

static void dump(const struct device *d, struct cs_buf *out)
{
    struct cs_replica_options o = { .path = d->db, .read_only = true };
    struct cs_error err = { 0 };
    cs_replica *r;

    cs_buf_reset(out);
    if (cs_replica_open(&r, cs_world_real(), &o, &err) != CS_OK || cs_replica_dump(r, out, &err) != CS_OK)
        fail_msg("%s", err.msg);
    cs_replica_close(r);
}

static void are_equal(const struct device *a, const struct device *b)
{
    struct cs_buf x = { 0 }, y = { 0 };

    dump(a, &x);
    dump(b, &y);
    assert_true(cs_slice_eq(cs_buf_slice(&x), cs_buf_slice(&y)));
    cs_buf_free(&x);
    cs_buf_free(&y);
}

static void all_are_equal(struct scene *s)
{
    for (int i = 1; i < DEVICES; i++)
        are_equal(&s->device[0], &s->device[i]);
}

static clawsync_compacted compacts(struct device *d)
{
    clawsync_compacted done;
    clawsync_error err = { 0 };

    ok(clawsync_engine_compact(d->engine, &done, &err), &err);
    return done;
}

/* A gives a snapshot, B attests it. */
static uint64_t snapshot(struct scene *s)
{
    uint64_t number = compacts(&s->device[A]).log_number;

    assert_true(compacts(&s->device[B]).attested);
    return number;
}

static void wait_pruned(struct scene *s, uint64_t number)
{
    clawsync_error err = { 0 };

    while ((uint64_t)in_hub(&s->hub, "SELECT min(number) FROM log") < number) {
        for (int i = 0; i < s->readers; i++) /* whereupon the hub knows that they have read so far */
            ok(clawsync_engine_pull_now(s->device[i].engine, NULL, &err), &err);
        usleep(1000);
    }
}

/* What is written from here on has newer stamps, on whatever device: a trigger's clock, in days, is off by up to 1 ms.
 */
static void later(void)
{
    struct cs_world *w = cs_world_real();
    int64_t now = cs_now_ms(w);

    while (cs_now_ms(w) <= now + 2)
        usleep(200);
}

/* The log is pruned, and A writes a collection. */
static void collect(struct scene *s)
{
    wait_pruned(s, snapshot(s));
    compacts(&s->device[A]);
}

static void begin(struct scene *s, uint64_t silent_ms)
{
    memset(s, 0, sizeof *s);
    s->hub.silent_ms = silent_ms;
    s->hub.flush_ms = 20;
    s->readers = silent_ms == 0 ? DEVICES : C;
    hub_init(&s->hub);
    for (int i = 0; i < DEVICES; i++)
        device_enter(&s->device[i], schema, s->hub.endpoint, i == 0 ? NULL : &s->device[0], NULL, NULL);
    app(&s->device[A], "INSERT INTO memories VALUES('x', 'old', 't'), ('y', 'old', 't'), ('z', 'old', 't')");
    sync_some(s, A, DEVICES);
}

static void end(struct scene *s)
{
    for (int i = 0; i < DEVICES; i++)
        device_fini(&s->device[i]);
    if (s->newcomer.dir[0] != '\0')
        device_fini(&s->newcomer);
    hub_fini(&s->hub);
}

static void comes(struct scene *s)
{
    device_enter(&s->newcomer, schema, s->hub.endpoint, &s->device[A], NULL, NULL);
}

/* ---- who reads along ---- */

static void tombstones_go_everywhere(void **state)
{
    struct scene s;

    (void)state;
    begin(&s, 0);
    app(&s.device[B], "DELETE FROM memories WHERE id IN ('x', 'y')");
    sync_some(&s, A, DEVICES);
    app(&s.device[C], "INSERT INTO memories VALUES('y', 'again', 't')");
    sync_some(&s, A, DEVICES);
    for (int i = 0; i < DEVICES; i++)
        assert_int_equal(number_in(&s.device[i], TOMBSTONES), 2);
    collect(&s);
    assert_int_equal(number_in(&s.device[A], TOMBSTONES), 0);
    assert_int_equal(number_in(&s.device[B], TOMBSTONES), 2);
    sync_some(&s, A, DEVICES);
    for (int i = 0; i < DEVICES; i++) {
        assert_int_equal(number_in(&s.device[i], TOMBSTONES), 0);
        assert_int_equal(number_in(&s.device[i], "SELECT count(*) FROM sync_rows WHERE key LIKE '%x%'"), 0);
        assert_int_equal(number_in(&s.device[i], "SELECT count(*) FROM memories"), 2);
    }
    all_are_equal(&s);
    app(&s.device[C], "INSERT INTO memories VALUES('x', 'once more', 't')");
    sync_some(&s, A, DEVICES);
    assert_int_equal(number_in(&s.device[B], "SELECT count(*) FROM memories WHERE content = 'once more'"), 1);
    comes(&s);
    all_are_equal(&s);
    sync_some(&s, A, DEVICES);
    are_equal(&s.device[A], &s.newcomer);
    end(&s);
}

/* What met a delete is kept above it, until then. */
static void so_does_what_met_them(void **state)
{
    struct scene s;

    (void)state;
    begin(&s, 0);
    app(&s.device[B], "DELETE FROM memories WHERE id = 'x'");
    later();
    app(&s.device[C], "UPDATE memories SET content = 'of c' WHERE id = 'x'");
    syncs(&s.device[B]);
    sync_some(&s, A, DEVICES);
    assert_int_equal(number_in(&s.device[A], "SELECT count(*) FROM sync_hidden"), 1);
    all_are_equal(&s);
    collect(&s);
    sync_some(&s, A, DEVICES);
    for (int i = 0; i < DEVICES; i++) {
        assert_int_equal(number_in(&s.device[i], DEAD), 0);
        assert_int_equal(number_in(&s.device[i], "SELECT count(*) FROM sync_hidden"), 0);
        assert_int_equal(number_in(&s.device[i], "SELECT count(*) FROM sync_conflicts WHERE why = 'deleted'"), 1);
    }
    all_are_equal(&s);
    end(&s);
}

static void not_before_all_have_read(void **state)
{
    struct scene s;
    uint64_t number;

    (void)state;
    begin(&s, 0);
    app(&s.device[B], "DELETE FROM memories WHERE id = 'x'");
    sync_some(&s, A, 2);
    number = snapshot(&s);
    compacts(&s.device[A]);
    sync_some(&s, A, 2);
    assert_int_equal(number_in(&s.device[A], TOMBSTONES), 1);
    syncs(&s.device[C]);
    wait_pruned(&s, number);
    compacts(&s.device[A]);
    sync_some(&s, A, DEVICES);
    assert_int_equal(number_in(&s.device[C], TOMBSTONES), 0);
    all_are_equal(&s);
    end(&s);
}

/* What fails when all is forgotten leaves nothing of it. */
/* A row of which the insert was set aside is not one that was deleted. */
static void not_by_who_lacks_a_batch(void **state)
{
    struct scene s;
    char sql[300];
    int n;

    (void)state;
    begin(&s, 0);
    app(&s.device[B], "DELETE FROM memories WHERE id = 'x'");
    sync_some(&s, A, DEVICES);
    wait_pruned(&s, snapshot(&s));
    n = snprintf(sql, sizeof sql, "INSERT INTO sync_meta(name, value) VALUES('engine.aside.1', x'0101%016" PRIx64,
                 (uint64_t)in_hub(&s.hub, "SELECT log_id FROM workspace"));
    for (int i = 0; i < 8 + 16 + 32; i++)
        n += snprintf(sql + n, sizeof sql - (size_t)n, "00");
    snprintf(sql + n, sizeof sql - (size_t)n, "4241445f4348554e4b')");
    app(&s.device[A], sql);
    compacts(&s.device[A]);
    syncs(&s.device[B]);
    assert_int_equal(number_in(&s.device[B], TOMBSTONES), 1);
    app(&s.device[A], "DELETE FROM sync_meta WHERE name = 'engine.aside.1'");
    compacts(&s.device[A]);
    sync_some(&s, A, DEVICES);
    assert_int_equal(number_in(&s.device[B], TOMBSTONES), 0);
    all_are_equal(&s);
    end(&s);
}

static void it_is_one_transaction(void **state)
{
    static const char fails[] = "CREATE INDEX no ON sync_meta(iif(name = 'collected', "
                                "abs(-9223372036854775807 - 1), 0))"; /* overflows */
    struct scene s;
    clawsync_error err = { 0 };
    struct cs_buf was = { 0 }, now = { 0 };

    (void)state;
    begin(&s, 0);
    app(&s.device[A], "DELETE FROM memories WHERE id IN ('x', 'y')");
    sync_some(&s, A, DEVICES);
    collect(&s);
    dump(&s.device[B], &was);
    app(&s.device[B], fails);
    assert_int_equal(clawsync_engine_sync_now(s.device[B].engine, NULL, &err), CLAWSYNC_EDB);
    dump(&s.device[B], &now);
    assert_true(cs_slice_eq(cs_buf_slice(&was), cs_buf_slice(&now)));
    assert_int_equal(number_in(&s.device[B], DEAD), 2);
    assert_int_equal(number_in(&s.device[B], "SELECT count(*) FROM sync_meta WHERE name = 'collected'"), 0);
    app(&s.device[B], "DROP INDEX no");
    sync_some(&s, A, DEVICES);
    assert_int_equal(number_in(&s.device[B], DEAD), 0);
    all_are_equal(&s);
    cs_buf_free(&was);
    cs_buf_free(&now);
    end(&s);
}

/* ---- who was away ---- */

static void x_is_collected(struct scene *s)
{
    app(&s->device[B], "DELETE FROM memories WHERE id = 'x'");
    sync_some(s, A, 2);
    collect(s);
    sync_some(s, A, 2);
}

/* C's unsent edits of a row that is collected, of one that is not, and a row of its own. */
static void edits_while_away(struct scene *s)
{
    app(&s->device[C], "UPDATE memories SET content = 'of c' WHERE id IN ('x', 'z');"
                       "INSERT INTO memories VALUES('new', 'of c', 't')");
}

static void are_conflicts_or_intact(struct scene *s)
{
    assert_int_equal(number_in(&s->device[C], "SELECT count(*) FROM sync_conflicts WHERE why = 'deleted'"), 1);
    sync_some(s, A, DEVICES);
    for (int i = 0; i < DEVICES; i++) {
        assert_int_equal(number_in(&s->device[i], "SELECT count(*) FROM memories WHERE id IN ('x', 'y')"), 0);
        assert_int_equal(number_in(&s->device[i], "SELECT count(*) FROM memories WHERE content = 'of c'"), 2);
        assert_int_equal(number_in(&s->device[i], TOMBSTONES), 0);
    }
    all_are_equal(s);
}

static void a_silent_device_comes_back(void **state)
{
    struct scene s;

    (void)state;
    begin(&s, 1);
    edits_while_away(&s);
    later();
    app(&s.device[B], "DELETE FROM memories WHERE id IN ('x', 'y')");
    sync_some(&s, A, 2);
    collect(&s);
    sync_some(&s, A, 2);
    wait_pruned(&s, snapshot(&s)); /* of a place behind the collection */
    syncs(&s.device[C]);
    are_conflicts_or_intact(&s);
    end(&s);
}

/* The snapshot is of before the collection, which is in the log behind it. */
static void it_comes_back_before_the_collection(void **state)
{
    struct scene s;

    (void)state;
    begin(&s, 1);
    edits_while_away(&s);
    later();
    app(&s.device[B], "DELETE FROM memories WHERE id IN ('x', 'y')");
    sync_some(&s, A, 2);
    wait_pruned(&s, snapshot(&s));
    app(&s.device[A], "DELETE FROM memories WHERE id = 'none'"); /* nothing */
    compacts(&s.device[A]);
    syncs(&s.device[C]);
    are_conflicts_or_intact(&s);
    end(&s);
}

/* Another one brought an edit of the row, which is gone: that is no word of the row itself. */
static void an_edit_of_it_came_before(void **state)
{
    struct scene s;

    (void)state;
    begin(&s, 1);
    comes(&s);
    app(&s.device[B], "DELETE FROM memories WHERE id = 'x'");
    sync_some(&s, A, 2);
    later();
    app(&s.device[C], "UPDATE memories SET content = 'of c' WHERE id = 'x'");
    collect(&s);
    sync_some(&s, A, 2);
    wait_pruned(&s, snapshot(&s));
    syncs(&s.device[C]);
    sync_some(&s, A, DEVICES);
    wait_pruned(&s, snapshot(&s));
    syncs(&s.newcomer);
    sync_some(&s, A, DEVICES);
    assert_int_equal(number_in(&s.newcomer, "SELECT count(*) FROM memories WHERE id = 'x'"), 0);
    are_equal(&s.device[A], &s.newcomer);
    all_are_equal(&s);
    end(&s);
}

/* An edit that met the delete, and is older than what was collected, is all that the others have of the row. */
static void of_it_an_edit_is_left(void **state)
{
    struct scene s;
    clawsync_error err = { 0 };

    (void)state;
    begin(&s, 1);
    comes(&s);
    app(&s.device[B], "DELETE FROM memories WHERE id = 'x'");
    sync_some(&s, A, 2);
    later();
    app(&s.device[C], "UPDATE memories SET content = 'of c' WHERE id = 'x'");
    ok(clawsync_engine_pull_now(s.device[C].engine, NULL, &err), &err);
    later();
    app(&s.device[A], "UPDATE memories SET content = 'of a' WHERE id = 'y'");
    sync_some(&s, A, 2);
    collect(&s);
    sync_some(&s, A, DEVICES);
    assert_int_equal(number_in(&s.device[A], DEAD), 1);
    assert_int_equal(number_in(&s.device[A], TOMBSTONES), 0);
    wait_pruned(&s, snapshot(&s));
    syncs(&s.newcomer);
    assert_int_equal(number_in(&s.newcomer, "SELECT count(*) FROM memories WHERE id = 'x'"), 0);
    are_equal(&s.device[A], &s.newcomer);
    all_are_equal(&s);
    end(&s);
}

/* It deleted and wrote the row again, all unsent, before others' delete that it does not know was collected. */
static void it_wrote_the_row_again(void **state)
{
    struct scene s;

    (void)state;
    begin(&s, 1);
    app(&s.device[C], "DELETE FROM memories WHERE id = 'x'; INSERT INTO memories VALUES('x', 'of c', 't')");
    later();
    x_is_collected(&s);
    wait_pruned(&s, snapshot(&s));
    syncs(&s.device[C]);
    sync_some(&s, A, DEVICES);
    assert_int_equal(number_in(&s.device[C], "SELECT count(*) FROM sync_conflicts WHERE why = 'deleted'"), 2);
    assert_int_equal(number_in(&s.device[A], "SELECT count(*) FROM memories WHERE id = 'x'"), 0);
    all_are_equal(&s);
    end(&s);
}

/* What it sends is of before the collection, and comes into the log behind it. */
static void it_sends_while_they_go(void **state)
{
    struct scene s;
    clawsync_error err = { 0 };

    (void)state;
    begin(&s, 0);
    app(&s.device[C], "UPDATE memories SET content = 'of c' WHERE id IN ('x', 'z');"
                      "DELETE FROM memories WHERE id = 'y';"
                      "INSERT INTO memories VALUES('new', 'of c', 't')");
    later();
    app(&s.device[B], "DELETE FROM memories WHERE id = 'x'");
    sync_some(&s, A, 2);
    ok(clawsync_engine_pull_now(s.device[C].engine, NULL, &err), &err);
    wait_pruned(&s, snapshot(&s));
    compacts(&s.device[A]);
    ok(clawsync_engine_push_now(s.device[C].engine, NULL, &err), &err);
    syncs(&s.device[A]);
    assert_int_equal(number_in(&s.device[A], "SELECT count(*) FROM memories WHERE content = 'of c'"), 0);
    sync_some(&s, A, DEVICES);
    for (int i = 0; i < DEVICES; i++) {
        assert_int_equal(number_in(&s.device[i], "SELECT count(*) FROM memories WHERE id IN ('x', 'y')"), 0);
        assert_int_equal(number_in(&s.device[i], "SELECT count(*) FROM memories WHERE content = 'of c'"), 2);
    }
    all_are_equal(&s);
    comes(&s);
    are_equal(&s.device[A], &s.newcomer);
    end(&s);
}

/* ---- backups ---- */

static void copy(const char *from, const char *to)
{
    char sql[256];
    sqlite3 *db = NULL;

    unlink(to);
    assert_int_equal(sqlite3_open(from, &db), SQLITE_OK);
    snprintf(sql, sizeof sql, "VACUUM INTO '%s'", to);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void keeps(struct scene *s)
{
    snprintf(s->backup, sizeof s->backup, "%.63s/backup.db", s->device[C].dir);
    copy(s->device[C].db, s->backup);
}

static void goes_back(struct scene *s)
{
    struct device *d = &s->device[C];
    char command[600];

    device_close(d);
    snprintf(command, sizeof command, "rm -f %s %s-wal %s-shm && cp %s %s", d->db, d->db, d->db, s->backup, d->db);
    assert_int_equal(system(command), 0);
    device_open(d);
}

/* The backup has rows, and edits that were unsent then, of rows that were deleted and collected since. */
static void a_backup(struct scene *s, bool pruned)
{
    clawsync_error err = { 0 };

    begin(s, pruned ? 1 : 0);
    app(&s->device[C],
        "INSERT INTO memories VALUES('n', 'of c', 't'); UPDATE memories SET content = 'u' WHERE id = 'y'");
    ok(clawsync_engine_pull_now(s->device[C].engine, NULL, &err), &err); /* which seals */
    keeps(s);
    sync_some(s, A, DEVICES);
    app(&s->device[B], "DELETE FROM memories WHERE id IN ('n', 'x', 'y')");
    sync_some(s, A, DEVICES);
    if (pruned) {
        collect(s);
        sync_some(s, A, DEVICES);
        wait_pruned(s, snapshot(s));
    } else {
        collect(s);
        sync_some(s, A, DEVICES);
    }
    goes_back(s);
    syncs(&s->device[C]);
    sync_some(s, A, DEVICES);
    for (int i = 0; i < DEVICES; i++) {
        assert_int_equal(number_in(&s->device[i], "SELECT count(*) FROM memories"), 1);
        assert_int_equal(number_in(&s->device[i], DEAD), 0);
    }
    all_are_equal(s);
    app(&s->device[C], "INSERT INTO memories VALUES('later', 'of c', 't')");
    sync_some(s, A, DEVICES);
    assert_int_equal(number_in(&s->device[A], "SELECT count(*) FROM memories WHERE id = 'later'"), 1);
    end(s);
}

static void a_restored_backup(void **state)
{
    struct scene s;

    (void)state;
    a_backup(&s, false);
}

static void one_from_before_the_snapshot(void **state)
{
    struct scene s;

    (void)state;
    a_backup(&s, true);
}

/* ---- a hub that lost everything ---- */

static void hub_is_lost(struct scene *s)
{
    char command[200];

    for (int i = 0; i < DEVICES; i++)
        device_close(&s->device[i]);
    hub_stop(&s->hub);
    snprintf(command, sizeof command, "rm -f %s*", s->hub.database);
    assert_int_equal(system(command), 0);
    hub_start(&s->hub);
    for (int i = 0; i < DEVICES; i++) {
        s->device[i].config.hub_endpoint = s->hub.endpoint;
        device_open(&s->device[i]);
    }
}

static void is_refilled(struct scene *s)
{
    clawsync_error err = { 0 };
    int needed = 0;

    hub_is_lost(s);
    ok(clawsync_engine_refill_hub(s->device[A].engine, &needed, &err), &err);
    assert_int_equal(needed, 1);
    sync_some(s, A, 2);
}

static void a_refill(void **state)
{
    struct scene s;

    (void)state;
    begin(&s, 1);
    edits_while_away(&s);
    later();
    app(&s.device[B], "DELETE FROM memories WHERE id IN ('x', 'y')");
    sync_some(&s, A, 2);
    collect(&s);
    sync_some(&s, A, 2);
    is_refilled(&s);
    syncs(&s.device[C]);
    are_conflicts_or_intact(&s);
    app(&s.device[A], "DELETE FROM memories WHERE id = 'z'");
    sync_some(&s, A, DEVICES);
    collect(&s);
    sync_some(&s, A, DEVICES);
    for (int i = 0; i < DEVICES; i++)
        assert_int_equal(number_in(&s.device[i], TOMBSTONES), 0);
    all_are_equal(&s);
    end(&s);
}

static void all_have_what_c_wrote(struct scene *s, int rows)
{
    sync_some(s, A, DEVICES);
    for (int i = 0; i < DEVICES; i++) {
        assert_int_equal(number_in(&s->device[i], "SELECT count(*) FROM memories WHERE content = 'of c'"), rows);
        assert_int_equal(number_in(&s->device[i], DEAD), 0);
    }
    all_are_equal(s);
}

/* The hub lost what C had sent before anybody read it, and the new log is pruned when C comes. */
static void what_it_alone_has_behind_a_refill(void **state)
{
    struct scene s;
    clawsync_error err = { 0 };

    (void)state;
    begin(&s, 1);
    app(&s.device[C], "INSERT INTO memories VALUES('new', 'of c', 't')");
    ok(clawsync_engine_push_now(s.device[C].engine, NULL, &err), &err);
    is_refilled(&s);
    x_is_collected(&s);
    wait_pruned(&s, snapshot(&s));
    syncs(&s.device[C]);
    all_have_what_c_wrote(&s, 1);
    end(&s);
}

/* C sends into the new log what it wrote before the collection there, without having read any of it: more batches than
 * can be on their way at once. */
static void it_sends_behind_a_refill(void **state)
{
    struct scene s;
    clawsync_error err = { 0 };

    (void)state;
    begin(&s, 1);
    app(&s.device[C], "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150) "
                      "INSERT INTO memories SELECT 'n' || i, 'of c', 't' FROM n");
    s.device[C].config.max_delta_rows = 1;
    later();
    is_refilled(&s);
    x_is_collected(&s);
    ok(clawsync_engine_push_now(s.device[C].engine, NULL, &err), &err);
    sync_some(&s, A, 2);
    assert_int_equal(number_in(&s.device[A], "SELECT count(*) FROM memories WHERE content = 'of c'"), 0);
    wait_pruned(&s, snapshot(&s));
    syncs(&s.device[C]);
    all_have_what_c_wrote(&s, 150);
    end(&s);
}

/* What was collected was so in the log before; C, which missed it, has sent a delete that the snapshot does not have.
 */
static void its_delete_is_sent_behind_a_refill(void **state)
{
    struct scene s;
    clawsync_error err = { 0 };

    (void)state;
    begin(&s, 1);
    app(&s.device[C], "DELETE FROM memories WHERE id = 'y'");
    later();
    x_is_collected(&s);
    is_refilled(&s);
    app(&s.device[A], "INSERT INTO memories VALUES('later', 'of a', 't')");
    sync_some(&s, A, 2);
    wait_pruned(&s, snapshot(&s));
    ok(clawsync_engine_push_now(s.device[C].engine, NULL, &err), &err);
    syncs(&s.device[C]);
    sync_some(&s, A, DEVICES);
    for (int i = 0; i < DEVICES; i++)
        assert_int_equal(number_in(&s.device[i], "SELECT count(*) FROM memories WHERE id IN ('x', 'y')"), 0);
    all_are_equal(&s);
    end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tombstones_go_everywhere),
        cmocka_unit_test(so_does_what_met_them),
        cmocka_unit_test(not_before_all_have_read),
        cmocka_unit_test(not_by_who_lacks_a_batch),
        cmocka_unit_test(it_is_one_transaction),
        cmocka_unit_test(a_silent_device_comes_back),
        cmocka_unit_test(it_comes_back_before_the_collection),
        cmocka_unit_test(an_edit_of_it_came_before),
        cmocka_unit_test(of_it_an_edit_is_left),
        cmocka_unit_test(it_wrote_the_row_again),
        cmocka_unit_test(it_sends_while_they_go),
        cmocka_unit_test(a_restored_backup),
        cmocka_unit_test(one_from_before_the_snapshot),
        cmocka_unit_test(a_refill),
        cmocka_unit_test(what_it_alone_has_behind_a_refill),
        cmocka_unit_test(it_sends_behind_a_refill),
        cmocka_unit_test(its_delete_is_sent_behind_a_refill),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
