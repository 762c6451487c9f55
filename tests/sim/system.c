#include "sim/system.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define WORKSPACE "6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b11"

#define HUB_FOLDER "/hub/live"

enum { INVITE_SECS = 5 * 365 * 24 * 3600 }; /* no clock that jumps by a year ends it */

/* Hubs whose host died: nobody can free them, and they are not lost. */
static cs_hub *dead_hubs[1024];
static size_t ndead_hubs;

const char *sim_keep;
bool sim_verbose, sim_compact;

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

int hub_try_start(struct run *r, struct cs_error *err)
{
    struct hub *h = &r->hub;
    struct cs_hub_options o = { .host = "0.0.0.0",
                                .port = HUB_PORT,
                                .database = HUB_FOLDER "/hub.db",
                                .retention_ms = r->retention_ms,
                                .silent_ms = r->silent_ms };
    int rc;

    note(r, "hub starts");
    r->member_seq = -1; /* its membership log may be an older one, and grow to the same length again */
    memset(o.key_seed, 7, sizeof o.key_seed);
    heal_hub(r);
    sim_disk_choose(h->disk);
    if ((rc = cs_loop_new(h->world, &h->loop, err)) == CS_OK &&
        (rc = cs_hub_start(h->world, h->loop, &o, &h->hub, err)) != CS_OK) {
        cs_loop_free(h->loop);
        h->hub = NULL;
    }
    return rc;
}

void hub_start(struct run *r)
{
    struct cs_error err;

    must(r, hub_try_start(r, &err), &err, "hub");
}

void heal_hub(struct run *r)
{
    sim_disk_faults(r->hub.disk, NULL);
    sim_disk_full(r->hub.disk, false);
    if (!sim_disk_is_down(r->hub.disk))
        sim_disk_crash_at(r->hub.disk, 0, false);
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

    if (h->hub == NULL)
        return;
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

/* The log is pruned at once or after a while, and of whoever is silent. */
static void draw_pruning(struct run *r)
{
    r->compacts = sim_compact;
    if (!r->compacts)
        return;
    r->retention_ms = draw(r, 2) * draw(r, HOUR_MS / 6);
    r->silent_ms = draw(r, 2) * (1 + draw(r, HOUR_MS / 6));
}

void hub_init(struct run *r)
{
    struct hub *h = &r->hub;
    struct cs_error err;

    draw_pruning(r);
    h->world = cs_sim_host(r->sim, "hub");
    h->disk = sim_disk_new(r->sim, h->world, "hub");
    must(r, h->world->files.ops->mkdir(h->world->files.self, HUB_FOLDER, 0700, &err), &err, "hub's folder");
    hub_start(r);
}

/* ---- devices ---- */

/* Whoever is accused of it has done nothing of the kind, unless the hub lost something. */
static void check_accusation(const struct device *d, const char *msg)
{
    static const char *const findings[] = { "HUB_",           "BAD_HUB_HEAD:", "LOG_REPLACED:", "MEMBER_FORK:",
                                            "MEMBER_FORGED:", "BAD_CHUNK:",    "BAD_HEADER:",   "LATE:",
                                            "PAST_CUT:",      "BAD_SNAPSHOT:" };

    if (d->run->hub_lost || d->run->hub_rotten || d->gone)
        return;
    for (size_t i = 0; i < sizeof findings / sizeof findings[0]; i++)
        if (strncmp(msg, findings[i], strlen(findings[i])) == 0)
            die(d->run, "%s accuses without a reason: %s", d->name, msg);
}

static void on_event(void *arg, const clawsync_event *ev)
{
    struct device *d = arg;

    if (ev->type == CLAWSYNC_EVENT_SYNC_ERROR) {
        d->told = true;
        check_accusation(d, ev->error.msg);
    }
    if (ev->type == CLAWSYNC_EVENT_WARNING && strstr(ev->error.msg, "were given earlier times") != NULL)
        d->backup_is_ahead = d->resealed = true;
    if (ev->type == CLAWSYNC_EVENT_WARNING && strstr(ev->error.msg, "what only this device knows is sent") != NULL)
        d->run->revived = d->run->compacts;
    if (ev->type != CLAWSYNC_EVENT_PROGRESS)
        note(d->run, "%s event %d count %" PRIu64 " %d %s", d->name, (int)ev->type, ev->count, ev->error.code,
             ev->error.msg);
}

int device_try_open(struct device *d, clawsync_error *err)
{
    int rc;

    sim_disk_faults(d->disk, NULL);
    sim_disk_crash_at(d->disk, 0, false);
    sim_disk_choose(d->disk);
    if ((rc = cs_engine_open_world(&d->engine, d->world, &d->config, err)) != CLAWSYNC_OK)
        d->engine = NULL;
    return rc == CLAWSYNC_OK ? clawsync_engine_subscribe(d->engine, on_event, d, err) : rc;
}

void device_open(struct device *d)
{
    struct run *r = d->run;
    clawsync_status st = { .size = sizeof st };
    clawsync_error err = { 0 };

    must(r, device_try_open(d, &err), &err, d->name);
    must(r, clawsync_engine_status(d->engine, &st, &err), &err, d->name);
    memcpy(d->id, st.device_id, sizeof d->id);
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
    d->commanded = false;
}

void device_kill(struct device *d, bool power)
{
    note(d->run, power ? "%s's power fails" : "%s dies", d->name);
    cs_sim_kill_host(d->world);
    if (power)
        sim_disk_power_fails(d->disk);
    device_close(d);
}

void connect_up(struct device *d)
{
    cs_sim_partition(d->run->sim, d->world, d->run->hub.world, CS_SIM_UP);
}

static int app_with(struct device *d, const char *sql, int triggers)
{
    struct cs_error err;
    sqlite3 *db = NULL;
    char *msg = NULL;
    int changed;

    sim_disk_pause(d->disk, true);
    if (sqlite3_open_v2(d->db, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, sim_disk_vfs(d->disk)) != SQLITE_OK)
        die(d->run, "%s: cannot open the database: %s", d->name, sqlite3_errmsg(db));
    sim_functions(db);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, triggers, NULL);
    sqlite3_busy_timeout(db, 1000);
    if (sqlite3_exec(db, "PRAGMA foreign_keys=ON", NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_exec(db, sql, NULL, NULL, &msg) != SQLITE_OK)
        die(d->run, "%s: %s\n  in: %s", d->name, msg, sql);
    changed = sqlite3_changes(db);
    sqlite3_close(db);
    sim_disk_pause(d->disk, false);
    must(d->run, cs_sim_touch(d->world, d->db, &err), &err, d->name);
    return changed;
}

int app(struct device *d, const char *sql)
{
    return app_with(d, sql, 1);
}

int app_unseen(struct device *d, const char *sql)
{
    return app_with(d, sql, 0);
}

sqlite3 *look_into(struct run *r, struct sim_disk *disk, const char *path)
{
    sqlite3 *db = NULL;

    sim_disk_pause(disk, true);
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, sim_disk_vfs(disk)) != SQLITE_OK)
        die(r, "cannot open %s: %s", path, sqlite3_errmsg(db));
    return db;
}

void close_look(struct sim_disk *disk, sqlite3 *db)
{
    sqlite3_close(db);
    sim_disk_pause(disk, false);
}

int64_t ask(struct run *r, struct sim_disk *disk, const char *path, const char *sql)
{
    sqlite3 *db = look_into(r, disk, path);
    sqlite3_stmt *s = NULL;
    int64_t n;

    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
        die(r, "%s: %s\n  in: %s", path, sqlite3_errmsg(db), sql);
    n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    close_look(disk, db);
    return n;
}

bool is_there(const struct device *d)
{
    return d->member && !d->gone;
}

/* ---- commands ---- */

void command_begin(struct device *d, struct cs_command c)
{
    d->command = c;
    d->commanded = true;
    cs_engine_command_send(d->engine, &d->command);
}

static bool are_over(void *arg)
{
    const struct run *r = arg;

    for (unsigned i = 0; i < r->ndevices; i++) {
        const struct device *d = &r->devices[i];

        if (d->commanded && !d->command.finished && cs_sim_lives(d->world))
            return false;
    }
    return true;
}

void await_commands(struct run *r)
{
    if (!cs_sim_run(r->sim, (uint64_t)2 * HOUR_MS, are_over, r))
        die(r, "a command does not end");
    pass(r, 1); /* who crashes does so at the end of an event */
}

bool command_ended(const struct device *d)
{
    return d->commanded && d->command.finished;
}

static void draw_config(struct device *d)
{
    struct run *r = d->run;

    clawsync_config_init(&d->config);
    d->config.workspace_id = WORKSPACE;
    d->config.hub_endpoint = "http://hub:50051";
    d->config.allow_plaintext = 1;
    d->config.db_path = d->db;
    d->config.data_dir = d->state;
    d->config.max_delta_rows = 1 + (uint32_t)draw(r, 100);
    d->config.max_chunk_bytes = UINT32_C(1024) << draw(r, 8);
    d->config.max_push_inflight = 1 + (uint32_t)draw(r, 6);
    d->config.sync_interval_secs = UINT32_C(5) << draw(r, 6);
    d->config.heartbeat_interval_secs = UINT32_C(15) << draw(r, 4);
    d->config.max_retries = (uint32_t)draw(r, 10);
    if (r->compacts)
        d->config.compact_after = 1 + (uint32_t)draw(r, UINT64_C(1) << draw(r, 6));
}

struct device *device_init(struct run *r)
{
    struct device *d = &r->devices[r->ndevices];
    unsigned number = r->ndevices % 100;
    struct cs_error err;

    if (r->ndevices == DEVICES)
        return NULL;
    r->ndevices++;
    *d = (struct device){ .run = r };
    snprintf(d->name, sizeof d->name, "device%u", number);
    snprintf(d->folder, sizeof d->folder, "/device%u", number);
    snprintf(d->db, sizeof d->db, "/device%u/db/app.db", number);
    snprintf(d->state, sizeof d->state, "/device%u/state", number);
    d->world = cs_sim_host(r->sim, d->name);
    d->disk = sim_disk_new(r->sim, d->world, d->name);
    must(r, cs_sim_touch(d->world, d->db, &err), &err, d->name);
    cs_sim_skew(d->world, (int64_t)draw(r, 40000) - 20000);
    draw_config(d);
    return d;
}

static void make_tables(struct device *d)
{
    d->has_tables = true;
    app(d, sim_schema);
    if (draw(d->run, 2) == 0)
        add_context(d);
    if (draw(d->run, 3) == 0)
        add_column(d);
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
    unsigned n = 2 + (unsigned)draw(r, 2);
    struct device *first = device_init(r);
    clawsync_error err = { 0 };

    make_tables(first);
    device_open(first);
    must(r, clawsync_engine_push_now(first->engine, NULL, &err), &err, "the first push");
    first->member = true;
    for (unsigned i = 1; i < n; i++) {
        struct device *d = device_init(r);

        make_tables(d);
        must(r, clawsync_engine_export_keys(first->engine, "/invite", "secret", 0, &err), &err, "export");
        copy_invite(r, first, d);
        device_open(d);
        must(r, clawsync_engine_import_keys(d->engine, "/invite", "secret", &err), &err, "import");
        d->member = true;
    }
    for (unsigned i = 0; i < n; i++)
        must(r, clawsync_engine_start(r->devices[i].engine, &err), &err, "start");
}

bool join_prepare(struct device *d, struct device *by)
{
    struct run *r = d->run;
    clawsync_error err = { 0 };

    heal(by); /* nobody can wait for an engine that dies */
    if (!d->asked) {
        if (clawsync_engine_invite(by->engine, INVITE_SECS, d->code, sizeof d->code, &err) != CLAWSYNC_OK) {
            note(r, "%s cannot invite: %s", by->name, err.msg);
            return false;
        }
        d->asked = true;
    }
    if (!d->has_tables) {
        make_tables(d);
        write_own(d, 1 + (unsigned)draw(r, 20));
    }
    if (d->engine == NULL)
        device_open(d);
    note(r, "%s joins by %s", d->name, by->name);
    return true;
}

void join_begin(struct device *d)
{
    command_begin(
        d, (struct cs_command){ .kind = CS_CMD_STEPS, .step = { cs_step_join }, .stopped = true, .code = d->code });
}

bool join_end(struct device *d)
{
    struct run *r = d->run;
    clawsync_error err = { 0 };
    int rc = d->command.rc;

    if (!command_ended(d) || !cs_sim_lives(d->world)) {
        note(r, "%s dies as it joins", d->name);
        device_close(d);
        return false;
    }
    note(r, "%s has joined: %d %s", d->name, rc, d->command.err.msg);
    /* EEXIST: an earlier try came through, and its answer was lost */
    d->member = rc == CLAWSYNC_OK || (rc == CLAWSYNC_EEXIST && cs_is_member(d->engine));
    if (!d->member && rc == CLAWSYNC_EEXIST)
        d->asked = false; /* whoever invited it was removed, or it ran out: another code */
    if (d->member)
        must(r, clawsync_engine_start(d->engine, &err), &err, d->name);
    return d->member;
}

bool join(struct device *d, struct device *by)
{
    if (!join_prepare(d, by))
        return false;
    join_begin(d);
    await_commands(d->run);
    return join_end(d);
}
