/* A hub and two or three engines on the simulated network, in one thread: applications write, the network comes and
 * goes, hub and devices are restarted and die, and in the end all have the same. Everything is decided by a seed, and
 * each seed is run twice, which must give the same trace.
 *
 *   engine_sim_test                      the usual seeds
 *   engine_sim_test --seeds N [--from S] N seeds from S on
 *   engine_sim_test --seed S [--log F]   one, with a line per event in F
 *   … --steps N                          longer or shorter runs
 *   … --once                             without the second run
 *   … --verbose                          what happens, on the standard output
 *   … --keep                             the folder with the databases stays */
#include <inttypes.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/test_world.h"
#include "crypto/rng.h"
#include "engine/engine.h"
#include "hub/hub.h"
#include "sim/virtual_vfs.h"

#define WORKSPACE "6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b11"

enum { SEEDS = 20, DEVICES = 3, PORT = 50051, STEPS = 40, HOUR_MS = 3600 * 1000, SHARED = 12 };

static const char schema[] =
    "PRAGMA journal_mode=WAL;"
    "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT, weight REAL, seen INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE memory_tags(memory_id TEXT NOT NULL REFERENCES memories(id) ON DELETE CASCADE, tag TEXT NOT NULL,"
    " PRIMARY KEY(memory_id, tag));";

struct device {
    struct run *run;
    struct cs_world *world;
    struct virtual_vfs vfs;
    char name[24], dir[128], db[160];
    clawsync_config config;
    clawsync_engine *engine;
    unsigned own; /* rows that only this device writes */
};

struct hub {
    struct cs_world *world;
    struct virtual_vfs vfs;
    char database[128];
    cs_loop *loop;
    cs_hub *hub;
    bool stopped;
};

struct run {
    uint64_t seed;
    cs_sim *sim;
    char dir[64];
    struct hub hub;
    struct device devices[DEVICES];
    unsigned ndevices;
};

/* Hubs whose host died: nobody can free them, and they are not lost. */
static cs_hub *dead_hubs[1024];
static size_t ndead_hubs;

static bool keep, verbose;
static uint64_t steps = STEPS;

/* Argon2 takes its time by design, and is tested elsewhere. */
int crypto_pwhash(unsigned char *const out, unsigned long long outlen, const char *const passwd,
                  unsigned long long passwdlen, const unsigned char *const salt, unsigned long long opslimit,
                  size_t memlimit, int alg)
{
    unsigned char key[crypto_generichash_BYTES];

    (void)opslimit;
    (void)memlimit;
    (void)alg;
    crypto_generichash(key, sizeof key, (const unsigned char *)passwd, passwdlen, salt, crypto_pwhash_SALTBYTES);
    return crypto_generichash(out, (size_t)outlen, key, sizeof key, NULL, 0);
}

__attribute__((noreturn, format(printf, 2, 3))) static void die(const struct run *r, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "seed %" PRIu64 " at %" PRIu64 " ms, in %s: ", r->seed, cs_sim_now_ms(r->sim), r->dir);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

static void must(const struct run *r, int rc, const void *error, const char *what)
{
    const struct cs_error *err = error;

    if (rc < 0)
        die(r, "%s: %s (%s)", what, err->msg, cs_code_name(rc));
}

static uint64_t draw(struct run *r, uint64_t below)
{
    return cs_sim_random(r->sim, below);
}

__attribute__((format(printf, 2, 3))) static void note(struct run *r, const char *fmt, ...)
{
    char text[600];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cs_sim_note(r->sim, cs_slice_str(text));
    if (verbose)
        printf("%10" PRIu64 " %s\n", cs_sim_now_ms(r->sim), text);
}

static void pass(struct run *r, uint64_t ms)
{
    cs_sim_run(r->sim, ms, NULL, NULL);
}

/* ---- the hub ---- */

static void hub_start(struct run *r)
{
    struct hub *h = &r->hub;
    struct cs_hub_options o = { .host = "0.0.0.0", .port = PORT, .database = h->database };
    struct cs_error err;

    note(r, "hub starts");
    memset(o.key_seed, 7, sizeof o.key_seed);
    virtual_vfs_choose(&h->vfs);
    must(r, cs_loop_new(h->world, &h->loop, &err), &err, "hub's loop");
    must(r, cs_hub_start(h->world, h->loop, &o, &h->hub, &err), &err, "hub");
}

static void hub_stopped(void *arg)
{
    ((struct hub *)arg)->stopped = true;
}

static bool is_stopped(void *arg)
{
    return ((struct hub *)arg)->stopped;
}

static void hub_stop(struct run *r, uint32_t drain_ms)
{
    struct hub *h = &r->hub;

    note(r, "hub stops within %" PRIu32 " ms", drain_ms);
    h->stopped = false;
    cs_hub_stop(h->hub, drain_ms, hub_stopped, h);
    if (!cs_sim_run(r->sim, HOUR_MS, is_stopped, h))
        die(r, "the hub does not stop");
    cs_loop_free(h->loop);
    h->hub = NULL;
}

static void hub_kill(struct run *r)
{
    struct hub *h = &r->hub;

    note(r, "hub dies");
    if (ndead_hubs == sizeof dead_hubs / sizeof dead_hubs[0])
        die(r, "too many hubs died");
    dead_hubs[ndead_hubs++] = h->hub;
    cs_sim_kill_host(h->world);
    h->hub = NULL;
}

static void hub_init(struct run *r)
{
    struct hub *h = &r->hub;
    struct cs_error err;

    h->world = cs_sim_host(r->sim, "hub");
    snprintf(h->database, sizeof h->database, "%s/hub.db", r->dir);
    must(r, h->world->files.ops->mkdir(h->world->files.self, r->dir, 0700, &err), &err, "hub's folder");
    virtual_vfs_init(&h->vfs, h->world, "sim-hub");
    hub_start(r);
}

/* ---- devices ---- */

static void on_event(void *arg, const clawsync_event *ev)
{
    struct device *d = arg;

    if (ev->type != CLAWSYNC_EVENT_PROGRESS)
        note(d->run, "%s event %d count %" PRIu64 " %d %s", d->name, (int)ev->type, ev->count, ev->error.code,
             ev->error.msg);
}

static void device_open(struct device *d)
{
    struct run *r = d->run;
    clawsync_error err = { 0 };

    virtual_vfs_choose(&d->vfs);
    must(r, cs_engine_open_world(&d->engine, d->world, &d->config, &err), &err, d->name);
    must(r, clawsync_engine_subscribe(d->engine, on_event, d, &err), &err, d->name);
}

static void device_start(struct device *d)
{
    clawsync_error err = { 0 };

    note(d->run, "%s starts", d->name);
    device_open(d);
    must(d->run, clawsync_engine_start(d->engine, &err), &err, d->name);
}

static void device_close(struct device *d)
{
    note(d->run, "%s closes", d->name);
    cs_sim_crash_at_write(d->world, 0);
    cs_sim_disk_full(d->world, false);
    if (d->engine != NULL && !cs_sim_lives(d->world))
        cs_engine_free(d->engine);
    else
        clawsync_engine_close(d->engine);
    d->engine = NULL;
}

static void device_kill(struct device *d)
{
    note(d->run, "%s dies", d->name);
    cs_sim_kill_host(d->world);
    device_close(d);
}

/* Runs SQL as the application, each time with a connection of its own. */
static void app(struct device *d, const char *sql)
{
    struct cs_error err;
    sqlite3 *db = NULL;
    char *msg = NULL;

    if (sqlite3_open_v2(d->db, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, d->vfs.name) != SQLITE_OK)
        die(d->run, "%s: cannot open the database: %s", d->name, sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 1000);
    if (sqlite3_exec(db, "PRAGMA foreign_keys=ON", NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(db, sql, NULL, NULL, &msg) != SQLITE_OK)
        die(d->run, "%s: %s\n  in: %s", d->name, msg, sql);
    sqlite3_close(db);
    must(d->run, cs_sim_touch(d->world, d->db, &err), &err, d->name);
}

static void device_init(struct run *r, unsigned i)
{
    struct device *d = &r->devices[i];
    char vfs[32], name[16], dir[sizeof r->dir];
    struct cs_error err;

    d->run = r;
    snprintf(name, sizeof name, "device%u", i & 0xffff); /* gcc asks how long it can get */
    memcpy(d->name, name, sizeof name);
    memcpy(dir, r->dir, sizeof dir);
    snprintf(d->dir, sizeof d->dir, "%s/%s", dir, name);
    snprintf(d->db, sizeof d->db, "%s/%s/app.db", dir, name);
    d->world = cs_sim_host(r->sim, d->name);
    snprintf(vfs, sizeof vfs, "sim-%s", name);
    virtual_vfs_init(&d->vfs, d->world, vfs);
    d->vfs.state = d->dir;
    if (mkdir(d->dir, 0700) != 0)
        die(r, "cannot make %s", d->dir);
    must(r, cs_sim_touch(d->world, d->db, &err), &err, d->name);
    cs_sim_skew(d->world, (int64_t)draw(r, 40000) - 20000);
    app(d, schema);
    clawsync_config_init(&d->config);
    d->config.workspace_id = WORKSPACE;
    d->config.hub_endpoint = "http://hub:50051";
    d->config.allow_plaintext = 1;
    d->config.db_path = d->db;
    d->config.data_dir = "/state";
    d->config.max_delta_rows = 1 + (uint32_t)draw(r, 100);
    d->config.max_chunk_bytes = UINT32_C(1024) << draw(r, 8);
    d->config.max_push_inflight = 1 + (uint32_t)draw(r, 6);
    d->config.sync_interval_secs = 5 + (uint32_t)draw(r, 60);
    d->config.max_retries = 50;
}

/* ---- joining ---- */

static void copy_invite(struct run *r, struct device *from, struct device *to)
{
    struct cs_buf bytes = { 0 };
    struct cs_error err;

    must(r, from->world->files.ops->read(from->world->files.self, "/invite", 1 << 20, &bytes, &err), &err, "invite");
    must(r, from->world->files.ops->remove(from->world->files.self, "/invite", &err), &err, "invite");
    must(r, to->world->files.ops->write_new(to->world->files.self, "/invite", cs_buf_slice(&bytes), 0600, &err), &err,
         "invite");
    cs_buf_free(&bytes);
}

/* The first creates the workspace and invites the others; then all replicate by themselves. */
static void join_all(struct run *r)
{
    struct device *first = &r->devices[0];
    clawsync_error err = { 0 };

    device_open(first);
    must(r, clawsync_engine_push_now(first->engine, NULL, &err), &err, "the first push");
    for (unsigned i = 1; i < r->ndevices; i++) {
        struct device *d = &r->devices[i];

        must(r, clawsync_engine_export_keys(first->engine, "/invite", "secret", 0, &err), &err, "export");
        copy_invite(r, first, d);
        device_open(d);
        must(r, clawsync_engine_import_keys(d->engine, "/invite", "secret", &err), &err, "import");
    }
    for (unsigned i = 0; i < r->ndevices; i++)
        must(r, clawsync_engine_start(r->devices[i].engine, &err), &err, "start");
}

/* ---- what happens ---- */

static void write_shared(struct device *d)
{
    struct run *r = d->run;
    unsigned id = (unsigned)draw(r, SHARED), value = (unsigned)draw(r, 1000000);
    char sql[500];

    switch (draw(r, 6)) {
    case 0:
        snprintf(sql, sizeof sql, "DELETE FROM memories WHERE id = 'm%u'", id);
        break;
    case 1:
        snprintf(sql, sizeof sql, "UPDATE memories SET seen = seen + 1 WHERE id <= 'm%u'", id);
        break;
    case 2:
        snprintf(sql, sizeof sql,
                 "INSERT OR IGNORE INTO memory_tags SELECT id, 't%u' FROM memories WHERE id LIKE 'm%%'", value % 3);
        break;
    case 3:
        snprintf(sql, sizeof sql, "UPDATE memories SET weight = %u.5 WHERE id = 'm%u'", value, id);
        break;
    default:
        snprintf(sql, sizeof sql,
                 "INSERT INTO memories(id, content) VALUES('m%u', 'v%u') ON CONFLICT(id) DO UPDATE SET content = 'v%u'",
                 id, value, value);
    }
    app(d, sql);
}

static void write_own(struct device *d, unsigned n)
{
    char sql[500];

    snprintf(sql, sizeof sql,
             "WITH RECURSIVE c(i) AS (VALUES(%u) UNION ALL SELECT i + 1 FROM c WHERE i + 1 < %u) "
             "INSERT INTO memories(id, content) SELECT '%s-' || i, 'from %s ' || i FROM c",
             d->own, d->own + n, d->name, d->name);
    d->own += n;
    app(d, sql);
}

static void something_with_the_hub(struct run *r)
{
    switch (draw(r, 3)) {
    case 0:
        hub_stop(r, (uint32_t)draw(r, 2) * 5000);
        break;
    default:
        hub_kill(r);
    }
    pass(r, draw(r, 20000));
    hub_start(r);
}

static void something_with_the_network(struct run *r)
{
    struct device *d = &r->devices[draw(r, r->ndevices)];
    enum cs_sim_link how = (enum cs_sim_link)draw(r, 3);

    note(r, "%s's network %d", d->name, (int)how);
    cs_sim_partition(r->sim, d->world, r->hub.world, how);
}

static void something_with_a_device(struct device *d)
{
    struct run *r = d->run;

    switch (draw(r, 6)) {
    case 0:
        device_close(d);
        break;
    case 1:
        device_kill(d);
        break;
    case 2:
        note(r, "%s crashes at a write", d->name);
        cs_sim_crash_at_write(d->world, 1 + (unsigned)draw(r, 4));
        return;
    case 3:
        note(r, "%s's disk is full", d->name);
        cs_sim_disk_full(d->world, draw(r, 2));
        return;
    case 4:
        note(r, "%s's clock jumps", d->name);
        cs_sim_skew(d->world, (int64_t)draw(r, 330000) - 300000);
        return;
    default:
        clawsync_engine_notify(d->engine);
        return;
    }
    pass(r, draw(r, 10000));
    device_start(d);
}

/* Who crashed is there again a little later. */
static void raise_the_dead(struct run *r)
{
    for (unsigned i = 0; i < r->ndevices; i++)
        if (!cs_sim_lives(r->devices[i].world)) {
            device_close(&r->devices[i]);
            device_start(&r->devices[i]);
        }
}

static void step(struct run *r)
{
    struct device *d = &r->devices[draw(r, r->ndevices)];
    uint64_t what = draw(r, 20);

    raise_the_dead(r);
    if (what < 9)
        write_shared(d);
    else if (what < 12)
        write_own(d, 1 + (unsigned)draw(r, draw(r, 5) == 0 ? 300 : 5));
    else if (what < 14)
        something_with_the_network(r);
    else if (what < 15)
        something_with_the_hub(r);
    else if (what < 17)
        something_with_a_device(d);
    pass(r, draw(r, 3) == 0 ? draw(r, 60000) : draw(r, 300));
}

/* ---- the end ---- */

static void dump(struct device *d, struct cs_buf *out)
{
    struct cs_error err;

    must(d->run, cs_replica_dump(d->engine->replica, out, &err), &err, "dump");
}

static bool is_settled(struct device *d, uint64_t *number)
{
    clawsync_status st = { .size = sizeof st };
    clawsync_error err;
    uint64_t first = *number;

    must(d->run, clawsync_engine_status(d->engine, &st, &err), &err, "status");
    *number = st.log_number;
    return st.state == CLAWSYNC_STATE_IN_SYNC && st.unsealed == 0 && st.unsent == 0 && st.bound_batches == 0 &&
           (d == &d->run->devices[0] || first == st.log_number);
}

static bool all_settled(void *arg)
{
    struct run *r = arg;
    uint64_t number = 0;

    for (unsigned i = 0; i < r->ndevices; i++)
        if (!is_settled(&r->devices[i], &number))
            return false;
    return true;
}

static bool all_equal(struct run *r)
{
    struct cs_buf first = { 0 }, other = { 0 };
    bool equal = true;

    dump(&r->devices[0], &first);
    for (unsigned i = 1; i < r->ndevices && equal; i++) {
        cs_buf_reset(&other);
        dump(&r->devices[i], &other);
        equal = cs_slice_eq(cs_buf_slice(&first), cs_buf_slice(&other));
    }
    cs_sim_note(r->sim, cs_buf_slice(&first));
    cs_buf_free(&first);
    cs_buf_free(&other);
    return equal;
}

static void tell_states(struct run *r)
{
    for (unsigned i = 0; i < r->ndevices; i++) {
        clawsync_status st = { .size = sizeof st };

        clawsync_engine_status(r->devices[i].engine, &st, NULL);
        fprintf(stderr,
                "%s: state %d unsealed %" PRId64 " unsent %" PRId64 " bound %" PRId64 " log %" PRIu64 " of %" PRIu64
                " error %s\n",
                r->devices[i].name, (int)st.state, st.unsealed, st.unsent, st.bound_batches, st.log_number,
                st.hub_log_number, st.last_error.msg);
    }
}

/* The application's tables as text. */
static void tables(struct device *d, struct cs_buf *out)
{
    static const char *const sql[] = { "SELECT id, content, weight, seen FROM memories ORDER BY id",
                                       "SELECT memory_id, tag FROM memory_tags ORDER BY memory_id, tag" };
    sqlite3 *db = NULL;

    if (sqlite3_open_v2(d->db, &db, SQLITE_OPEN_READONLY, d->vfs.name) != SQLITE_OK)
        die(d->run, "%s: cannot open the database: %s", d->name, sqlite3_errmsg(db));
    for (int q = 0; q < 2; q++) {
        sqlite3_stmt *s = NULL;

        if (sqlite3_prepare_v2(db, sql[q], -1, &s, NULL) != SQLITE_OK)
            die(d->run, "%s: %s", d->name, sqlite3_errmsg(db));
        while (sqlite3_step(s) == SQLITE_ROW) {
            for (int i = 0; i < sqlite3_column_count(s); i++)
                cs_buf_printf(out, "%s|",
                              sqlite3_column_type(s, i) == SQLITE_NULL ? "-" : (const char *)sqlite3_column_text(s, i));
            cs_buf_put_str(out, "\n");
        }
        sqlite3_finalize(s);
    }
    sqlite3_close(db);
}

static void check_tables(struct run *r)
{
    struct cs_buf first = { 0 }, other = { 0 };

    tables(&r->devices[0], &first);
    for (unsigned i = 1; i < r->ndevices; i++) {
        cs_buf_reset(&other);
        tables(&r->devices[i], &other);
        if (!cs_slice_eq(cs_buf_slice(&first), cs_buf_slice(&other)))
            die(r, "the tables differ:\n%.*s---\n%.*s", (int)first.len, (const char *)first.data, (int)other.len,
                (const char *)other.data);
    }
    cs_buf_put_u8(&first, 0);
    for (unsigned i = 0; i < r->ndevices; i++)
        for (unsigned k = 0; k < r->devices[i].own; k++) {
            char row[128];

            snprintf(row, sizeof row, "%s-%u|from %s %u|", r->devices[i].name, k, r->devices[i].name, k);
            if (strstr((const char *)first.data, row) == NULL)
                die(r, "a row is lost: %s", row);
        }
    cs_buf_free(&first);
    cs_buf_free(&other);
}

static void settle(struct run *r)
{
    uint64_t end = cs_sim_now_ms(r->sim) + 6 * HOUR_MS;

    note(r, "all is well from now on");
    for (unsigned i = 0; i < r->ndevices; i++) {
        cs_sim_partition(r->sim, r->devices[i].world, r->hub.world, CS_SIM_UP);
        cs_sim_disk_full(r->devices[i].world, false);
        cs_sim_crash_at_write(r->devices[i].world, 0);
    }
    raise_the_dead(r);
    do {
        pass(r, 1000);
        if (!cs_sim_run(r->sim, 6 * HOUR_MS, all_settled, r) || cs_sim_now_ms(r->sim) > end) {
            tell_states(r);
            die(r, "the devices do not come to rest");
        }
    } while (!all_equal(r));
    check_tables(r);
}

/* ---- one run ---- */

static void run_init(struct run *r, uint64_t seed, FILE *log)
{
    *r = (struct run){ .seed = seed, .sim = cs_sim_new(seed) };
    if (r->sim == NULL)
        die(r, "out of memory");
    cs_sim_log(r->sim, log);
    cs_random_replay(4711, seed);
    snprintf(r->dir, sizeof r->dir, "%s/cs-sim-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (mkdtemp(r->dir) == NULL)
        die(r, "cannot make a folder");
    r->ndevices = 2 + (unsigned)draw(r, DEVICES - 1);
    cs_sim_latency(r->sim, 50, UINT64_C(1000) << draw(r, 9));
    hub_init(r);
    for (unsigned i = 0; i < r->ndevices; i++)
        device_init(r, i);
}

static void run_fini(struct run *r)
{
    char command[100];

    for (unsigned i = 0; i < r->ndevices; i++)
        device_close(&r->devices[i]);
    hub_stop(r, 0);
    for (unsigned i = 0; i < r->ndevices; i++)
        virtual_vfs_fini(&r->devices[i].vfs);
    virtual_vfs_fini(&r->hub.vfs);
    cs_sim_free(r->sim);
    snprintf(command, sizeof command, "rm -r %s", r->dir);
    if (!keep && system(command) != 0)
        fprintf(stderr, "cannot remove %s\n", r->dir);
    else if (keep)
        printf("%s stays\n", r->dir);
}

static uint64_t run(uint64_t seed, FILE *log, uint64_t *events)
{
    static struct run r; /* large */
    uint64_t trace;

    run_init(&r, seed, log);
    join_all(&r);
    for (uint64_t i = 0; i < steps; i++)
        step(&r);
    settle(&r);
    trace = cs_sim_trace(r.sim);
    *events = cs_sim_events(r.sim);
    run_fini(&r);
    return trace;
}

struct outcome {
    uint64_t trace, events;
};

/* In a process of its own: what the dead leave behind goes with it. */
static bool run_apart(uint64_t seed, const char *log_path, struct outcome *out)
{
    int ends[2], status = -1;
    ssize_t got;
    pid_t pid;

    fflush(stdout);
    if (pipe(ends) != 0 || (pid = fork()) < 0) {
        perror("cannot begin a run");
        return false;
    }
    if (pid == 0) {
        FILE *log = log_path == NULL ? NULL : fopen(log_path, "w");

        close(ends[0]);
        out->trace = run(seed, log, &out->events);
        if (log != NULL)
            fclose(log);
        exit(write(ends[1], out, sizeof *out) == sizeof *out ? 0 : 1);
    }
    close(ends[1]);
    got = read(ends[0], out, sizeof *out);
    close(ends[0]);
    waitpid(pid, &status, 0);
    if (status == 0 && got == sizeof *out)
        return true;
    fprintf(stderr, "seed %" PRIu64 " failed (status %x)\n", seed, (unsigned)status);
    return false;
}

static bool check(uint64_t seed, const char *log_path, bool twice)
{
    struct outcome first, again;

    if (!run_apart(seed, log_path, &first) || (twice && !run_apart(seed, NULL, &again)))
        return false;
    if (twice && (first.trace != again.trace || first.events != again.events)) {
        fprintf(stderr, "seed %" PRIu64 ": two runs differ, of %" PRIu64 " and %" PRIu64 " events\n", seed,
                first.events, again.events);
        return false;
    }
    printf("seed %" PRIu64 ": %" PRIu64 " events, trace %016" PRIx64 "\n", seed, first.events, first.trace);
    return true;
}

int main(int argc, char **argv)
{
    uint64_t from = 1, seeds = SEEDS;
    const char *log = NULL;
    bool twice = true, good = true;

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(argv[i], "--once") == 0) {
            twice = false;
            continue;
        } else if (strcmp(argv[i], "--keep") == 0) {
            keep = true;
            continue;
        } else if (strcmp(argv[i], "--verbose") == 0) {
            verbose = true;
            continue;
        } else if (strcmp(argv[i], "--seeds") == 0) {
            seeds = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i], "--from") == 0) {
            from = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i], "--seed") == 0) {
            from = strtoull(value, NULL, 10);
            seeds = 1;
        } else if (strcmp(argv[i], "--steps") == 0) {
            steps = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i], "--log") == 0) {
            log = value;
        } else {
            fprintf(
                stderr,
                "usage: %s [--seeds N] [--from S] [--seed S] [--steps N] [--log FILE] [--once] [--verbose] [--keep]\n",
                argv[0]);
            return 2;
        }
        i++;
    }
    for (uint64_t s = from; s < from + seeds; s++)
        good = check(s, log, twice) && good;
    return good ? 0 : 1;
}
