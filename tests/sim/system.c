#include "sim/system.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define WORKSPACE "6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b11"

enum { PORT = 50051 };

static const char schema[] =
    "PRAGMA journal_mode=WAL;"
    "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT, weight REAL, seen INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE memory_tags(memory_id TEXT NOT NULL REFERENCES memories(id) ON DELETE CASCADE, tag TEXT NOT NULL,"
    " PRIMARY KEY(memory_id, tag));";

/* Hubs whose host died: nobody can free them, and they are not lost. */
static cs_hub *dead_hubs[1024];
static size_t ndead_hubs;

const char *sim_keep;
bool sim_verbose;

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

void die(const struct run *r, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "seed %" PRIu64 " at %" PRIu64 " ms: ", r->seed, cs_sim_now_ms(r->sim));
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    if (sim_keep != NULL) {
        for (unsigned i = 0; i < r->ndevices; i++)
            sim_disk_dump(r->devices[i].disk, sim_keep);
        sim_disk_dump(r->hub.disk, sim_keep);
    }
    exit(1);
}

void must(const struct run *r, int rc, const void *error, const char *what)
{
    const struct cs_error *err = error;

    if (rc < 0)
        die(r, "%s: %s (%s)", what, err->msg, cs_code_name(rc));
}

uint64_t draw(struct run *r, uint64_t below)
{
    return cs_sim_random(r->sim, below);
}

void note(struct run *r, const char *fmt, ...)
{
    char text[600];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cs_sim_note(r->sim, cs_slice_str(text));
    if (sim_verbose)
        printf("%10" PRIu64 " %s\n", cs_sim_now_ms(r->sim), text);
}

void pass(struct run *r, uint64_t ms)
{
    cs_sim_run(r->sim, ms, NULL, NULL);
}

/* ---- the hub ---- */

void hub_start(struct run *r)
{
    struct hub *h = &r->hub;
    struct cs_hub_options o = { .host = "0.0.0.0", .port = PORT, .database = "/hub/hub.db" };
    struct cs_error err;

    note(r, "hub starts");
    memset(o.key_seed, 7, sizeof o.key_seed);
    sim_disk_faults(h->disk, NULL);
    sim_disk_crash_at(h->disk, 0, false);
    sim_disk_choose(h->disk);
    must(r, cs_loop_new(h->world, &h->loop, &err), &err, "hub's loop");
    must(r, cs_hub_start(h->world, h->loop, &o, &h->hub, &err), &err, "hub");
}

static void hub_stopped(void *arg)
{
    ((struct hub *)arg)->stopped = true;
}

/* Or dead: it may crash on the way. */
static bool is_stopped(void *arg)
{
    return ((struct hub *)arg)->stopped || !cs_sim_lives(((struct hub *)arg)->world);
}

void hub_kill(struct run *r, bool power)
{
    struct hub *h = &r->hub;

    note(r, power ? "hub's power fails" : "hub dies");
    if (ndead_hubs == sizeof dead_hubs / sizeof dead_hubs[0])
        die(r, "too many hubs died");
    dead_hubs[ndead_hubs++] = h->hub;
    cs_sim_kill_host(h->world);
    if (power)
        sim_disk_power_fails(h->disk);
    else
        sim_disk_kill(h->disk);
    h->hub = NULL;
}

void hub_stop(struct run *r, uint32_t drain_ms)
{
    struct hub *h = &r->hub;

    note(r, "hub stops within %" PRIu32 " ms", drain_ms);
    h->stopped = false;
    cs_hub_stop(h->hub, drain_ms, hub_stopped, h);
    if (!cs_sim_run(r->sim, HOUR_MS, is_stopped, h))
        die(r, "the hub does not stop");
    if (!h->stopped || sim_disk_is_down(h->disk)) {
        hub_kill(r, false);
        return;
    }
    cs_loop_free(h->loop);
    h->hub = NULL;
}

void hub_init(struct run *r)
{
    struct hub *h = &r->hub;
    struct cs_error err;

    h->world = cs_sim_host(r->sim, "hub");
    h->disk = sim_disk_new(r->sim, h->world, "hub");
    must(r, h->world->files.ops->mkdir(h->world->files.self, "/hub", 0700, &err), &err, "hub's folder");
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

    sim_disk_faults(d->disk, NULL);
    sim_disk_crash_at(d->disk, 0, false);
    sim_disk_choose(d->disk);
    must(r, cs_engine_open_world(&d->engine, d->world, &d->config, &err), &err, d->name);
    must(r, clawsync_engine_subscribe(d->engine, on_event, d, &err), &err, d->name);
}

void device_start(struct device *d)
{
    clawsync_error err = { 0 };

    note(d->run, "%s starts", d->name);
    device_open(d);
    must(d->run, clawsync_engine_start(d->engine, &err), &err, d->name);
}

void heal(struct device *d)
{
    cs_sim_crash_at_write(d->world, 0);
    cs_sim_disk_full(d->world, false);
    sim_disk_full(d->disk, false);
    sim_disk_faults(d->disk, NULL);
    if (!sim_disk_is_down(d->disk))
        sim_disk_crash_at(d->disk, 0, false);
}

void device_close(struct device *d)
{
    note(d->run, "%s closes", d->name);
    heal(d);
    if (sim_disk_is_down(d->disk))
        cs_sim_kill_host(d->world);
    if (d->engine != NULL && !cs_sim_lives(d->world)) {
        sim_disk_kill(d->disk);
        cs_engine_free(d->engine);
    } else {
        clawsync_engine_close(d->engine);
    }
    d->engine = NULL;
}

void device_kill(struct device *d, bool power)
{
    note(d->run, power ? "%s's power fails" : "%s dies", d->name);
    cs_sim_kill_host(d->world);
    if (power)
        sim_disk_power_fails(d->disk);
    device_close(d);
}

void app(struct device *d, const char *sql)
{
    struct cs_error err;
    sqlite3 *db = NULL;
    char *msg = NULL;

    sim_disk_pause(d->disk, true);
    if (sqlite3_open_v2(d->db, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, sim_disk_vfs(d->disk)) != SQLITE_OK)
        die(d->run, "%s: cannot open the database: %s", d->name, sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 1000);
    if (sqlite3_exec(db, "PRAGMA foreign_keys=ON", NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(db, sql, NULL, NULL, &msg) != SQLITE_OK)
        die(d->run, "%s: %s\n  in: %s", d->name, msg, sql);
    sqlite3_close(db);
    sim_disk_pause(d->disk, false);
    must(d->run, cs_sim_touch(d->world, d->db, &err), &err, d->name);
}

void device_init(struct run *r, unsigned i)
{
    struct device *d = &r->devices[i];
    struct cs_error err;

    d->run = r;
    snprintf(d->name, sizeof d->name, "device%u", i % 100);
    snprintf(d->db, sizeof d->db, "/device%u/app.db", i % 100);
    snprintf(d->state, sizeof d->state, "/device%u/state", i % 100);
    d->world = cs_sim_host(r->sim, d->name);
    d->disk = sim_disk_new(r->sim, d->world, d->name);
    must(r, cs_sim_touch(d->world, d->db, &err), &err, d->name);
    cs_sim_skew(d->world, (int64_t)draw(r, 40000) - 20000);
    app(d, schema);
    clawsync_config_init(&d->config);
    d->config.workspace_id = WORKSPACE;
    d->config.hub_endpoint = "http://hub:50051";
    d->config.allow_plaintext = 1;
    d->config.db_path = d->db;
    d->config.data_dir = d->state;
    d->config.max_delta_rows = 1 + (uint32_t)draw(r, 100);
    d->config.max_chunk_bytes = UINT32_C(1024) << draw(r, 8);
    d->config.max_push_inflight = 1 + (uint32_t)draw(r, 6);
    d->config.sync_interval_secs = 5 + (uint32_t)draw(r, 60);
    d->config.max_retries = (uint32_t)draw(r, 10);
}

int64_t ask(struct run *r, struct sim_disk *disk, const char *path, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *s = NULL;
    int64_t n;

    sim_disk_pause(disk, true);
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, sim_disk_vfs(disk)) != SQLITE_OK ||
        sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
        die(r, "%s: %s\n  in: %s", path, sqlite3_errmsg(db), sql);
    n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    sqlite3_close(db);
    sim_disk_pause(disk, false);
    return n;
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

void join_all(struct run *r)
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
