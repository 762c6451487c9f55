/* Every allocation, and every call to a disk, of a whole round fails in turn, on the devices and on the hub. There are
 * two rounds: opening, registering, sealing, pushing, joining, pulling, applying, changing the key, replicating in the
 * background, closing; and giving a snapshot, attesting it, pruning, a third device that begins with it, collecting
 * tombstones. Whatever fails, the call succeeds or says why and succeeds when it is made again, nothing leaks, and in
 * the end all is delivered, equal and whole.
 *
 * The round runs once; at the call whose turn it is, a copy of the process is made in which that call fails and which
 * goes on to the end. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crypto/rng.h"
#include "engine/engine.h"
#include "hub/hub.h"
#include "sim/memo.h"
#include "sim/sim_disk.h"

void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
pid_t __wrap_getpid(void);
pid_t __real_getpid(void);

/* What the simulation itself allocates with: the compiler puts these in place of the others there. */
void *plain_malloc(size_t n);
void *plain_calloc(size_t n, size_t size);
void *plain_realloc(void *p, size_t n);
char *plain_strdup(const char *s);

enum { TRIES = 60, PATIENCE_SECS = 300, CODES = 32, PAUSE_MS = 60000, MANY = 20 };

enum kind { OURS, SQLITES, DISK, KINDS };
static const char *const kind_names[] = { "allocation", "SQLite's allocation", "disk call" };

/* What is done before, unharmed; and the step, in which everything may fail if the round is not quiet there. */
struct step {
    const char *name;
    void (*before)(void);
    int (*run)(clawsync_error *err);
    bool quiet;
};
struct round {
    const char *name;
    const struct step *step;
    size_t nsteps;
    int devices;
    bool prunes; /* the log in the end begins with a snapshot, and tombstones were collected */
};

/* What the copies report. */
struct report {
    uint64_t copies, failed, unnoticed, codes[CODES];
};

static struct {
    const struct round *round;
    enum kind kind;
    uint64_t from, stride, lasts; /* which calls fail, and how many in a row */
    bool verbose;
    struct report *report; /* shared with the copies */

    bool armed, copy; /* the code under test runs; this is a copy */
    uint64_t n;       /* calls so far; in a copy, the one that failed */
    uint64_t left;    /* in a copy: failures to come, that one included */
    bool seen;        /* in a copy: somebody was told of it */
    const char *step;
} now;

/* ---- failing ---- */

static void judge(pid_t pid)
{
    int status = -1;

    waitpid(pid, &status, 0);
    if (status == 0)
        return;
    now.report->failed++;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 1) /* else it has said so itself */
        fprintf(stderr, "%s: %s %" PRIu64 " for %" PRIu64 ", \"%s\": status %x\n", now.round->name,
                kind_names[now.kind], now.n, now.lasts, now.step, (unsigned)status);
}

/* True in the copy. */
static bool go_apart(void)
{
    pid_t pid;

    fflush(stdout);
    fflush(stderr);
    now.report->copies++;
    if ((pid = fork()) < 0) {
        perror("fork");
        exit(2);
    }
    if (pid > 0) {
        judge(pid);
        return false;
    }
    now.copy = true;
    now.left = now.lasts;
    alarm(PATIENCE_SECS);
    return true;
}

static bool fails(enum kind kind)
{
    if (!now.armed || kind != now.kind)
        return false;
    if (now.copy)
        return now.left > 0 && --now.left > 0;
    now.n++;
    return now.n >= now.from && (now.n - now.from) % now.stride == 0 && go_apart();
}

void *__wrap_malloc(size_t n)
{
    return fails(OURS) ? NULL : __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size)
{
    return fails(OURS) ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n)
{
    return fails(OURS) ? NULL : __real_realloc(p, n);
}
char *__wrap_strdup(const char *s)
{
    return fails(OURS) ? NULL : __real_strdup(s);
}

void *plain_malloc(size_t n)
{
    return __real_malloc(n);
}
void *plain_calloc(size_t n, size_t size)
{
    return __real_calloc(n, size);
}
void *plain_realloc(void *p, size_t n)
{
    return __real_realloc(p, n);
}
char *plain_strdup(const char *s)
{
    return __real_strdup(s);
}

/* The copies are one process to the engine, as they are one run. */
pid_t __wrap_getpid(void)
{
    static pid_t first;

    if (first == 0)
        first = __real_getpid();
    return first;
}

static sqlite3_mem_methods plain;

static void *sqlite_malloc(int n)
{
    return fails(SQLITES) ? NULL : plain.xMalloc(n);
}
static void *sqlite_realloc(void *p, int n)
{
    return fails(SQLITES) ? NULL : plain.xRealloc(p, n);
}

static bool disk_fails(void)
{
    return fails(DISK);
}

/* ---- files that fail ---- */

static const struct cs_file_ops *real_files;

static int fail_file(struct cs_error *err, const char *path)
{
    return cs_fail(err, CS_EIO, "cannot touch \"%s\": the test says so", path);
}
static int file_read(void *self, const char *path, size_t max, struct cs_buf *out, struct cs_error *err)
{
    return disk_fails() ? fail_file(err, path) : real_files->read(self, path, max, out, err);
}
static int file_write_atomic(void *self, const char *path, struct cs_slice data, uint32_t mode, struct cs_error *err)
{
    return disk_fails() ? fail_file(err, path) : real_files->write_atomic(self, path, data, mode, err);
}
static int file_write_new(void *self, const char *path, struct cs_slice data, uint32_t mode, struct cs_error *err)
{
    return disk_fails() ? fail_file(err, path) : real_files->write_new(self, path, data, mode, err);
}
static int file_mkdir(void *self, const char *path, uint32_t mode, struct cs_error *err)
{
    return disk_fails() ? fail_file(err, path) : real_files->mkdir(self, path, mode, err);
}
static int file_remove(void *self, const char *path, struct cs_error *err)
{
    return disk_fails() ? fail_file(err, path) : real_files->remove(self, path, err);
}
static int file_stat(void *self, const char *path, struct cs_file_info *out, struct cs_error *err)
{
    return disk_fails() ? fail_file(err, path) : real_files->stat(self, path, out, err);
}
static int file_realpath(void *self, const char *path, struct cs_buf *out, struct cs_error *err)
{
    return disk_fails() ? fail_file(err, path) : real_files->realpath(self, path, out, err);
}

static const struct cs_file_ops failing_files = { .read = file_read,
                                                  .write_atomic = file_write_atomic,
                                                  .write_new = file_write_new,
                                                  .mkdir = file_mkdir,
                                                  .remove = file_remove,
                                                  .stat = file_stat,
                                                  .realpath = file_realpath };

static void let_files_fail(struct cs_world *w)
{
    real_files = w->files.ops;
    w->files.ops = &failing_files;
}

/* ---- the scene: a hub, and two or three devices ---- */

#define WORKSPACE "6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b11"

static const char schema[] =
    "PRAGMA journal_mode=WAL;"
    "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT, weight REAL, seen INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE memory_tags(memory_id TEXT NOT NULL REFERENCES memories(id) ON DELETE CASCADE, tag TEXT NOT NULL,"
    " PRIMARY KEY(memory_id, tag));";

enum { DEVICES_MAX = 3, PORT = 50051 };

struct device {
    struct cs_world *world;
    struct sim_disk *disk;
    const char *name, *db;
    clawsync_config config;
    clawsync_engine *engine;
    unsigned rows; /* that must be everywhere in the end */
};

static struct {
    cs_sim *sim;
    struct cs_world *hub_world;
    struct sim_disk *hub_disk;
    cs_loop *hub_loop;
    cs_hub *hub;
    bool hub_stopped;
    struct device devices[DEVICES_MAX]; /* as many as the round has */
    char code[CLAWSYNC_CODE_MAX];
} scene;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "%s: %s %" PRIu64 " for %" PRIu64 ", \"%s\": ", now.round->name, kind_names[now.kind], now.n,
            now.lasts, now.step);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

static void must(int rc, const void *error, const char *what)
{
    const struct cs_error *err = error;

    if (rc < 0)
        die("%s: %s (%s)", what, err->msg, cs_code_name(rc));
}

static void pass(uint64_t ms)
{
    cs_sim_run(scene.sim, ms, NULL, NULL);
}

static sqlite3 *open_db(const struct sim_disk *disk, const char *path)
{
    sqlite3 *db = NULL;

    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, sim_disk_vfs(disk)) != SQLITE_OK)
        die("%s: %s", path, sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 1000);
    return db;
}

/* As the application. */
static void app(struct device *d, const char *sql)
{
    sqlite3 *db = open_db(d->disk, d->db);
    struct cs_error err;
    char *msg = NULL;

    if (sqlite3_exec(db, "PRAGMA foreign_keys=ON", NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(db, sql, NULL, NULL, &msg) != SQLITE_OK)
        die("%s: %s\n  in: %s", d->name, msg, sql);
    sqlite3_close(db);
    must(cs_sim_touch(d->world, d->db, &err), &err, d->name);
}

/* The one number that SQL finds. */
static int64_t ask(const struct sim_disk *disk, const char *path, const char *sql)
{
    sqlite3 *db = open_db(disk, path);
    sqlite3_stmt *s = NULL;
    int64_t n;

    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
        die("%s: %s\n  in: %s", path, sqlite3_errmsg(db), sql);
    n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    sqlite3_close(db);
    return n;
}

static void device_init(struct device *d, const char *name, const char *db, const char *state)
{
    struct cs_error err;

    *d = (struct device){ .name = name, .db = db, .world = cs_sim_host(scene.sim, name) };
    d->disk = sim_disk_new(scene.sim, d->world, name);
    must(cs_sim_touch(d->world, db, &err), &err, name);
    app(d, schema);
    let_files_fail(d->world);
    clawsync_config_init(&d->config);
    d->config.workspace_id = WORKSPACE;
    d->config.hub_endpoint = "http://hub:50051";
    d->config.allow_plaintext = 1;
    d->config.db_path = db;
    d->config.data_dir = state;
    d->config.max_delta_rows = 5;
    d->config.max_push_inflight = 2;
    d->config.sync_interval_secs = 5;
    d->config.max_retries = 2;
    d->config.compact_after = 12;
}

static void scene_init(void)
{
    struct cs_files *f;
    struct cs_error err;

    if ((scene.sim = cs_sim_new(1)) == NULL)
        die("out of memory");
    cs_random_replay(4711, 1);
    cs_sim_latency(scene.sim, 50, 2000);
    scene.hub_world = cs_sim_host(scene.sim, "hub");
    scene.hub_disk = sim_disk_new(scene.sim, scene.hub_world, "hub");
    f = &scene.hub_world->files;
    must(f->ops->mkdir(f->self, "/hub", 0700, &err), &err, "the hub's folder");
    device_init(&scene.devices[0], "device0", "/device0/app.db", "/device0/state");
    device_init(&scene.devices[1], "device1", "/device1/app.db", "/device1/state");
    if (now.round->devices > 2)
        device_init(&scene.devices[2], "device2", "/device2/app.db", "/device2/state");
    let_files_fail(scene.hub_world);
    sim_disk_decide(disk_fails);
}

static void hub_stopped(void *arg)
{
    (void)arg;
    scene.hub_stopped = true;
}

static bool is_stopped(void *arg)
{
    (void)arg;
    return scene.hub_stopped;
}

static void scene_fini(void)
{
    for (int i = 0; i < now.round->devices; i++)
        clawsync_engine_close(scene.devices[i].engine);
    cs_hub_stop(scene.hub, 0, hub_stopped, NULL);
    if (!cs_sim_run(scene.sim, PAUSE_MS, is_stopped, NULL))
        die("the hub does not stop");
    cs_loop_free(scene.hub_loop);
    for (int i = 0; i < now.round->devices; i++)
        sim_disk_free(scene.devices[i].disk);
    sim_disk_free(scene.hub_disk);
    cs_sim_free(scene.sim);
}

/* ---- what must hold in the end ---- */

static bool at_rest(void *arg)
{
    clawsync_status s[DEVICES_MAX];
    clawsync_error err;

    (void)arg;
    for (int i = 0; i < now.round->devices; i++) {
        s[i].size = sizeof s[i];
        must(clawsync_engine_status(scene.devices[i].engine, &s[i], &err), &err, "status");
        if (s[i].state != CLAWSYNC_STATE_IN_SYNC || s[i].unsealed + s[i].unsent + s[i].bound_batches != 0 ||
            s[i].log_number != s[0].log_number)
            return false;
    }
    return true;
}

static bool all_equal(void)
{
    struct cs_buf merged[DEVICES_MAX] = { { 0 } };
    struct cs_error err;
    bool equal = true;

    for (int i = 0; i < now.round->devices; i++)
        must(cs_replica_dump(scene.devices[i].engine->replica, &merged[i], &err), &err, "dump");
    for (int i = 1; i < now.round->devices; i++)
        equal = equal && cs_slice_eq(cs_buf_slice(&merged[0]), cs_buf_slice(&merged[i]));
    for (int i = 0; i < now.round->devices; i++)
        cs_buf_free(&merged[i]);
    return equal;
}

static const char damaged[] = "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'";

static void check_device(const struct device *d)
{
    static const char tags[] =
        "SELECT count(*) FROM memory_tags WHERE (memory_id, tag) IN (VALUES('m1', 't'), ('m3', 'u'))";
    struct cs_queue_counts n;
    struct cs_error err;
    char sql[200];

    must(cs_queue_counts(d->engine->queue, &n, &err), &err, "queue");
    if (n.pending + n.in_flight + n.failed > 0)
        die("%s's queue: %" PRIu64 " pending, %" PRIu64 " in flight, %" PRIu64 " failed", d->name, n.pending,
            n.in_flight, n.failed);
    if (ask(d->disk, d->db, damaged) != 0)
        die("%s: the database is damaged", d->name);
    for (int i = 0; i < now.round->devices; i++) {
        snprintf(sql, sizeof sql, "SELECT count(*) FROM memories WHERE id GLOB '%s-*' AND content = 'from ' || id",
                 scene.devices[i].name);
        if (ask(d->disk, d->db, sql) != scene.devices[i].rows)
            die("%s has not all rows of %s", d->name, scene.devices[i].name);
    }
    if (ask(d->disk, d->db, tags) != 2)
        die("%s has not all tags", d->name);
}

static void check_pruned(void)
{
    if (ask(scene.hub_disk, "/hub/hub.db", "SELECT pruned FROM workspace") == 0)
        die("the hub has pruned nothing");
    for (int i = 0; i < now.round->devices; i++)
        if (ask(scene.devices[i].disk, scene.devices[i].db,
                "SELECT count(*) FROM sync_meta WHERE name = 'collected'") == 0)
            die("%s has collected nothing", scene.devices[i].name);
}

/* Nothing fails any more: all come to rest by themselves, are equal and whole, and have everything. */
static void settle(void)
{
    now.step = "in the end";
    for (int looks = 0;; looks++) {
        pass(1000);
        if (!cs_sim_run(scene.sim, UINT64_C(60) * PAUSE_MS, at_rest, NULL))
            die("the devices do not come to rest");
        if (all_equal())
            break;
        if (looks > 60)
            die("the devices rest and differ");
    }
    for (int i = 0; i < now.round->devices; i++)
        check_device(&scene.devices[i]);
    if (ask(scene.hub_disk, "/hub/hub.db", damaged) != 0)
        die("the hub's database is damaged");
    if (ask(scene.hub_disk, "/hub/hub.db",
            "SELECT max(log.number) - min(log.number) + 1 - count(*) + (min(log.number) > pruned + 1) FROM log, "
            "workspace") != 0)
        die("the hub's log has gaps");
    if (now.round->prunes)
        check_pruned();
}

/* ---- the round ---- */

static int open_hub(clawsync_error *err)
{
    struct cs_hub_options o = { .host = "0.0.0.0", .port = PORT, .database = "/hub/hub.db" };
    struct cs_error *e = (struct cs_error *)err;
    int rc;

    memset(o.key_seed, 7, sizeof o.key_seed);
    sim_disk_choose(scene.hub_disk);
    if ((rc = cs_loop_new(scene.hub_world, &scene.hub_loop, e)) != CS_OK)
        return rc;
    if ((rc = cs_hub_start(scene.hub_world, scene.hub_loop, &o, &scene.hub, e)) != CS_OK)
        cs_loop_free(scene.hub_loop);
    return rc;
}

static int open_device(struct device *d, clawsync_error *err)
{
    sim_disk_choose(d->disk);
    return cs_engine_open_world(&d->engine, d->world, &d->config, err);
}

static int open_first(clawsync_error *err)
{
    return open_device(&scene.devices[0], err);
}
static int open_second(clawsync_error *err)
{
    return open_device(&scene.devices[1], err);
}
static int open_third(clawsync_error *err)
{
    return open_device(&scene.devices[2], err);
}
static int push_first(clawsync_error *err)
{
    return clawsync_engine_push_now(scene.devices[0].engine, NULL, err);
}
static int invite(clawsync_error *err)
{
    return clawsync_engine_invite(scene.devices[0].engine, 0, scene.code, sizeof scene.code, err);
}
static int join_second(clawsync_error *err)
{
    return clawsync_engine_join(scene.devices[1].engine, scene.code, err);
}
static int join_third(clawsync_error *err)
{
    return clawsync_engine_join(scene.devices[2].engine, scene.code, err);
}
static int sync_first(clawsync_error *err)
{
    return clawsync_engine_sync_now(scene.devices[0].engine, NULL, err);
}
static int sync_second(clawsync_error *err)
{
    return clawsync_engine_sync_now(scene.devices[1].engine, NULL, err);
}
static int sync_third(clawsync_error *err)
{
    return clawsync_engine_sync_now(scene.devices[2].engine, NULL, err);
}
static int compact_first(clawsync_error *err)
{
    return clawsync_engine_compact(scene.devices[0].engine, NULL, err);
}
static int compact_second(clawsync_error *err)
{
    return clawsync_engine_compact(scene.devices[1].engine, NULL, err);
}
static int rotate(clawsync_error *err)
{
    uint32_t epoch;

    return clawsync_engine_rotate_keys(scene.devices[0].engine, &epoch, err);
}
static int replicate(clawsync_error *err)
{
    for (int i = 0; i < now.round->devices; i++) {
        int rc = clawsync_engine_start(scene.devices[i].engine, err);

        if (rc != CS_OK)
            return rc;
    }
    pass(PAUSE_MS);
    return CS_OK;
}
static int hub_rests(clawsync_error *err)
{
    (void)err;
    pass(UINT64_C(3) * PAUSE_MS);
    return CS_OK;
}
static int close_device(struct device *d)
{
    clawsync_engine_close(d->engine);
    d->engine = NULL;
    return CS_OK;
}
static int close_second(clawsync_error *err)
{
    (void)err;
    return close_device(&scene.devices[1]);
}
static int close_third(clawsync_error *err)
{
    (void)err;
    return close_device(&scene.devices[2]);
}

/* Rows that must be everywhere in the end. */
static void write_rows(struct device *d, unsigned n)
{
    char sql[200];

    for (; n > 0; n--, d->rows++) {
        snprintf(sql, sizeof sql, "INSERT INTO memories(id, content) VALUES('%s-%u', 'from %s-%u')", d->name, d->rows,
                 d->name, d->rows);
        app(d, sql);
    }
}

static void write_first(void)
{
    write_rows(&scene.devices[0], 12);
    app(&scene.devices[0], "INSERT INTO memories(id, content) VALUES('m1', 'one'), ('m2', 'two'), ('m3', 'three');"
                           "INSERT INTO memory_tags VALUES('m1', 't'), ('m2', 't')");
}
static void write_second(void)
{
    write_rows(&scene.devices[1], 3);
}
static void write_both(void)
{
    write_rows(&scene.devices[0], 2);
    app(&scene.devices[0],
        "UPDATE memories SET content = 'first' WHERE id = 'm1'; DELETE FROM memories WHERE id = 'm2'");
    app(&scene.devices[1],
        "UPDATE memories SET content = 'second', seen = 7 WHERE id = 'm1';"
        "UPDATE memories SET weight = 2.5 WHERE id = 'm2'; INSERT INTO memory_tags VALUES('m3', 'u')");
}
static void write_third(void)
{
    write_rows(&scene.devices[2], 3);
}
static void write_more(void)
{
    for (int i = 0; i < now.round->devices; i++)
        write_rows(&scene.devices[i], 4);
}

static const struct step two_devices[] = {
    { "the hub opens", NULL, open_hub, false },
    { "the first device opens", write_first, open_first, false },
    { "it registers and pushes", NULL, push_first, false },
    { "it invites", NULL, invite, false },
    { "the second device opens", write_second, open_second, false },
    { "it joins", NULL, join_second, false },
    { "it pulls and pushes", NULL, sync_second, false },
    { "the first device, in conflict", write_both, sync_first, false },
    { "the second device, in conflict", NULL, sync_second, false },
    { "the first device changes the key", NULL, rotate, false },
    { "in the background", write_more, replicate, false },
    { "the second device closes", write_second, close_second, false },
    { "it opens again", NULL, open_second, false },
    { "in the background again", NULL, replicate, false },
};
static const struct step snapshots[] = {
    { "the hub opens", NULL, open_hub, true },
    { "the first device opens", write_first, open_first, true },
    { "it registers and pushes", NULL, push_first, true },
    { "it invites", NULL, invite, true },
    { "the second device opens", write_second, open_second, true },
    { "it joins", NULL, join_second, true },
    { "it pulls and pushes", NULL, sync_second, true },
    { "the first device, in conflict", write_both, sync_first, true },
    { "the second device, in conflict", NULL, sync_second, true },
    { "the first device fetches that", NULL, sync_first, true },
    { "the first device gives a snapshot", NULL, compact_first, false },
    { "the second device attests it", NULL, compact_second, false },
    { "the hub prunes", NULL, hub_rests, false },
    { "it invites another", NULL, invite, true },
    { "the third device opens", write_third, open_third, true },
    { "it joins, with the snapshot", NULL, join_third, false },
    { "it pulls and pushes", NULL, sync_third, false },
    { "the first device fetches that", NULL, sync_first, true },
    { "the second device fetches that", NULL, sync_second, true },
    { "the first device collects tombstones", NULL, compact_first, false },
    { "the second device follows", NULL, compact_second, false },
    { "the third device follows", NULL, sync_third, false },
    { "in the background", write_more, replicate, false },
    { "the third device closes", write_more, close_third, false },
    { "it opens again", NULL, open_third, false },
    { "in the background again", NULL, replicate, false },
};

enum { ROUNDS = 2 };
static const struct round rounds[ROUNDS] = {
    { "two devices", two_devices, sizeof two_devices / sizeof two_devices[0], 2, false },
    { "snapshots", snapshots, sizeof snapshots / sizeof snapshots[0], 3, true },
};

/* The call may fail: with a reason, and so that it is worth while to make it again. */
static void take_step(const struct step *step)
{
    clawsync_error err;
    int rc;

    now.step = step->name;
    if (step->before != NULL)
        step->before();
    for (int i = 0; i < TRIES; i++) {
        err = (clawsync_error){ 0 };
        now.armed = !step->quiet;
        rc = step->run(&err);
        now.armed = false;
        if (rc == CS_OK)
            return;
        if (rc == CS_EEXIST && (step->run == join_second || step->run == join_third))
            return; /* it is one already: only what came behind that had failed */
        if (now.verbose)
            printf("%s: %s: %s\n", now.step, clawsync_code_name(rc), err.msg);
        if (!now.copy || err.code != rc || err.msg[0] == '\0' || !cs_code_is_transient(rc))
            die("%s (%s, %d)", err.msg, clawsync_code_name(rc), err.code);
        now.seen = true;
        now.report->codes[-rc]++;
        pass(PAUSE_MS);
    }
    die("fails again and again: %s", err.msg);
}

/* In a copy, the rest of one. */
static void whole_round(void)
{
    scene_init();
    for (size_t i = 0; i < now.round->nsteps; i++)
        take_step(&now.round->step[i]);
    settle();
    scene_fini();
    if (now.copy && !now.seen)
        now.report->unnoticed++;
    if (now.copy)
        exit(0);
}

/* In a process of its own, so that each begins alike. False: something went wrong. */
static bool every_one(enum kind kind, uint64_t lasts)
{
    struct report *report = now.report;
    int status = -1;
    pid_t pid;

    *report = (struct report){ 0 };
    now.kind = kind;
    now.lasts = lasts;
    fflush(stdout);
    if ((pid = fork()) == 0) {
        whole_round();
        printf("%" PRIu64 " %ss", now.n, kind_names[kind]);
        exit(0);
    }
    waitpid(pid, &status, 0);
    printf(" of %s, %" PRIu64 " of them failed in turn, %" PRIu64 " in a row: %" PRIu64 " unnoticed, %" PRIu64
           " went wrong; told:",
           now.round->name, report->copies, lasts, report->unnoticed, report->failed);
    for (int i = 0; i < CODES; i++)
        if (report->codes[i] > 0)
            printf(" %s %" PRIu64, clawsync_code_name(-i), report->codes[i]);
    printf("\n");
    return report->failed == 0 && status == 0;
}

static const char usage[] = "usage: every_failure [options]\n"
                            "  --round N     1: two devices, 2: snapshots and a third device (both)\n"
                            "  --from N      from this call on (1)\n"
                            "  --every N     each Nth call (1: all; the default: so many that it takes seconds)\n"
                            "  --lasts N     failures in a row (1, and 20)\n"
                            "  --kind K      0: our allocations, 1: SQLite's, 2: calls to a disk (all of them)\n"
                            "  --one N       this call alone, and what happens is told\n";

struct options {
    uint64_t every, lasts, round;
    enum kind from, to;
};

static bool parse(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        uint64_t n = i + 1 < argc ? strtoull(argv[i + 1], NULL, 10) : 0;

        if (i + 1 < argc && strcmp(argv[i], "--kind") == 0 && n < KINDS) {
            o->from = (enum kind)n;
            o->to = o->from + 1;
        } else if (n == 0) {
            return false;
        } else if (strcmp(argv[i], "--every") == 0) {
            o->every = n;
        } else if (strcmp(argv[i], "--lasts") == 0) {
            o->lasts = n;
        } else if (strcmp(argv[i], "--round") == 0 && n <= ROUNDS) {
            o->round = n;
        } else if (strcmp(argv[i], "--from") == 0) {
            now.from = n;
        } else if (strcmp(argv[i], "--one") == 0) {
            now.from = n;
            o->every = UINT64_MAX;
            now.verbose = true;
        } else {
            return false;
        }
    }
    return true;
}

static void count_sqlites_allocations(void)
{
    sqlite3_mem_methods counted;

    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &plain);
    counted = plain;
    counted.xMalloc = sqlite_malloc;
    counted.xRealloc = sqlite_realloc;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &counted);
}

int main(int argc, char **argv)
{
    static const uint64_t strides[KINDS] = { 97, 4001, 97 };
    struct options o = { .to = KINDS };
    bool fine = true;

    now.from = 1;
    now.step = "in the beginning";
    if (!parse(&o, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    now.report = mmap(NULL, sizeof *now.report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (now.report == MAP_FAILED)
        return 2;
    memo_init();
    count_sqlites_allocations();
    for (uint64_t i = 0; i < ROUNDS; i++) {
        if (o.round != 0 && i + 1 != o.round)
            continue;
        now.round = &rounds[i];
        for (enum kind kind = o.from; kind < o.to; kind++) {
            now.stride = o.every != 0 ? o.every : strides[kind];
            fine = every_one(kind, o.lasts != 0 ? o.lasts : 1) && fine;
            fine = (o.lasts != 0 || every_one(kind, MANY)) && fine;
        }
    }
    return fine ? 0 : 1;
}
