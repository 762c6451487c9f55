/* `claw-sync doctor`: is all well with this device, and if not, what is to be done? It looks and writes nothing. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/doctor.h"
#include "cli/status.h"
#include "engine/engine.h"

enum level { OK, WARNING, FAILED };
enum { CLOCK_FINE_MS = 5000, MOUNTS_MAX = 4 * 1024 * 1024 };

struct doctor {
    const struct cs_cli *cli;
    const clawsync_config *config; /* with the keystore's passphrase */
    json_t *checks;
    int warnings, failures;
    bool offline, modes_fine;
    struct cs_looked looked; /* the device of the database, who replicates it, and what the hub answered */
};

/* One line per check. What a file or the hub says reaches the terminal without controls. */
static void say(struct doctor *d, const char *check, enum level level, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void say(struct doctor *d, const char *check, enum level level, const char *fmt, ...)
{
    static const char *const names[] = { "ok", "warning", "failed" };
    char text[1200];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < 32 || *p == 127)
            *p = '?';
    d->warnings += level == WARNING;
    d->failures += level == FAILED;
    if (d->checks != NULL)
        json_array_append_new(d->checks, json_pack("{s:s, s:s, s:s%}", "check", check, "result", names[level], "text",
                                                   text, strlen(text)));
    else if (level != OK || !d->cli->quiet)
        printf("%-8s %-14s %s\n", names[level], check, text);
}

/* ---- the files ---- */

static bool is_private(struct doctor *d, const char *path, uint32_t want)
{
    struct cs_files *f = &d->cli->world->files;
    struct cs_file_info info;
    struct cs_error err;

    if (f->ops->stat(f->self, path, &info, &err) != CS_OK || (info.mode & 077) == 0)
        return true;
    say(d, "file modes", FAILED, "others may read or write %s, its mode is %04o; run: chmod %o %s", path, info.mode,
        want, path);
    return false;
}

static void check_modes(struct doctor *d, const char *device)
{
    static const char *const names[] = { "identity/keystore",      "identity/membership.log",
                                         "identity/pending-entry", "audit.db",
                                         "audit.db-wal",           "audit.db-shm",
                                         "standing.json",          "queue.db",
                                         "queue.db-wal",           "queue.db-shm" };
    const char *dir = cs_config_data_dir(d->config);
    char path[4096];
    bool fine = is_private(d, dir, 0700);

    snprintf(path, sizeof path, "%s/identity", dir);
    fine = is_private(d, path, 0700) && fine;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        fine = is_private(d, path, 0600) && fine;
    }
    snprintf(path, sizeof path, "%s/audit-%s.db", dir, device);
    d->modes_fine = is_private(d, path, 0600) && fine;
    if (d->modes_fine)
        say(d, "file modes", OK, "nobody else may read %s and what is in it", dir);
}

/* Syncthing marks its folders: one of path's parents holds .stfolder. */
static bool below_mark(struct doctor *d, const char *path, const char *mark, char dir[4096])
{
    struct cs_files *f = &d->cli->world->files;
    struct cs_file_info info;
    struct cs_error err;
    char *slash;

    snprintf(dir, 4096, "%s", path);
    while ((slash = strrchr(dir, '/')) != NULL) {
        char marked[4200];

        *slash = '\0';
        snprintf(marked, sizeof marked, "%s/%s", dir, mark);
        if (f->ops->stat(f->self, marked, &info, &err) == CS_OK)
            return true;
    }
    return false;
}

/* what: "the database" or "data_dir" */
static void check_place(struct doctor *d, const char *what, const char *given)
{
    static const char why[] =
        "copies taken in the midst of a write destroy it; move it to a folder of this machine alone";
    struct cs_files *f = &d->cli->world->files;
    struct cs_buf real = { 0 }, mounts = { 0 };
    char dir[4096], type[32] = "";
    struct cs_error err;
    const char *path, *name;
    size_t len;

    if (f->ops->realpath(f->self, given, &real, &err) != CS_OK || real.failed) {
        cs_buf_free(&real);
        return; /* another check tells */
    }
    path = (const char *)real.data;
    if (f->ops->read(f->self, "/proc/self/mountinfo", MOUNTS_MAX, &mounts, &err) == CS_OK) {
        cs_buf_put_u8(&mounts, 0);
        if (!mounts.failed)
            cs_file_system_of((const char *)mounts.data, path, type);
    }
    if ((name = cs_copied_folder(path, &len)) != NULL)
        say(d, "place", FAILED, "%s %s lies in %.*s: %s", what, path, (int)len, name, why);
    else if (below_mark(d, path, ".stfolder", dir) || below_mark(d, path, ".dropbox.cache", dir))
        say(d, "place", FAILED, "%s %s lies in %s, which a program copies between machines: %s", what, path, dir, why);
    else if (cs_is_network_file_system(type))
        say(d, "place", FAILED,
            "%s %s lies on a network file system (%s), whose locks SQLite cannot rely on; move it to a disk of this "
            "machine",
            what, path, type);
    else
        say(d, "place", OK, "%s is on this machine%s%s", what, type[0] != '\0' ? ", " : "", type);
    cs_buf_free(&real);
    cs_buf_free(&mounts);
}

/* ---- the database ---- */

static void check_journal(struct doctor *d, const struct cs_replica_health *h)
{
    int v = h->sqlite_version;

    if (strcmp(h->journal_mode, "off") == 0 || strcmp(h->journal_mode, "memory") == 0)
        say(d, "database", FAILED, "journal_mode is %s: a crash destroys it; run: PRAGMA journal_mode = WAL",
            h->journal_mode);
    else if (strcmp(h->journal_mode, "wal") != 0)
        say(d, "database", WARNING,
            "journal_mode is %s: whoever writes waits for whoever reads; PRAGMA journal_mode = WAL mends that, and "
            "every program on it should set a busy_timeout",
            h->journal_mode);
    else
        say(d, "database", OK, "it can be read, journal_mode is wal; every program on it should set a busy_timeout");
    if (strcmp(h->journal_mode, "wal") == 0 && cs_sqlite_has_wal_reset_bug(v))
        say(d, "SQLite", WARNING,
            "version %d.%d.%d can, very rarely, corrupt a database in WAL mode (the WAL-reset bug, versions 3.7.0 to "
            "3.51.2); use 3.51.3 or later, 3.50.7 or 3.44.6, here and in the application, unless your system's has the "
            "correction",
            v / 1000000, v / 1000 % 1000, v % 1000);
    else
        say(d, "SQLite", OK, "version %d.%d.%d", v / 1000000, v / 1000 % 1000, v % 1000);
}

static void check_triggers(struct doctor *d, const struct cs_replica_health *h, bool set_up)
{
    if (!set_up)
        say(d, "triggers", WARNING, "nothing is tracked yet; run: claw-sync sync");
    else if (h->altered > 0)
        say(d, "triggers", FAILED,
            "those of %" PRId64 " of %" PRId64 " tracked tables, %s among them, are not as claw-sync made them: "
            "changes may go unseen; run: claw-sync pause %s, then claw-sync resume %s",
            h->altered, h->tracked, h->altered_table, h->altered_table, h->altered_table);
    else
        say(d, "triggers", OK, "those of all %" PRId64 " tracked tables are there, as claw-sync made them", h->tracked);
}

static bool check_database(struct doctor *d)
{
    struct cs_replica_health health;
    cs_replica *r = NULL;
    clawsync_error err;
    bool set_up;

    check_place(d, "the database", d->config->db_path);
    if (cs_cli_open_replica(d->cli, true, NULL, &r, &err) != CS_OK ||
        cs_replica_health(r, &health, (struct cs_error *)&err) != CS_OK) {
        say(d, "database", FAILED, "%s", err.msg);
        cs_replica_close(r);
        return false;
    }
    set_up = cs_replica_is_set_up(r);
    cs_replica_identity(r, &d->looked.id);
    if (set_up) /* that it cannot be told is no finding of its own */
        cs_replica_holder(r, &d->looked.daemon_pid, NULL);
    check_journal(d, &health);
    check_triggers(d, &health, set_up);
    cs_replica_close(r);
    return set_up;
}

/* ---- who we are ---- */

static void check_membership(struct doctor *d, const struct clawsync_engine *e)
{
    const struct cs_member *self = cs_membership_find(&e->members, &e->device);
    size_t devices = cs_membership_devices(&e->members);

    if (self == NULL)
        say(d, "membership", FAILED, "this device is no member yet; run: claw-sync sync, or claw-sync join CODE");
    else if (!self->active)
        say(d, "membership", FAILED,
            "this device was removed from the workspace; to join again: claw-sync identity new, then claw-sync join "
            "CODE");
    else if (cs_keystore_epoch(e->ks, e->members.epoch) == NULL)
        say(d, "membership", FAILED,
            "the key in force, of epoch %" PRIu32 ", is not on this device; run: claw-sync sync", e->members.epoch);
    else
        say(d, "membership", OK, "device %s is one of %zu, entry %" PRIu32 ", key of epoch %" PRIu32, e->device_text,
            devices, e->members.seq, e->members.epoch);
}

/* There are no keys in data_dir. A database that has a device misses its own ones. */
static void no_keys(struct doctor *d, const char *why)
{
    struct cs_replica_identity id = { 0 };
    cs_replica *r = NULL;
    clawsync_error err;

    if (d->config->db_path != NULL && cs_cli_open_replica(d->cli, true, NULL, &r, &err) == CS_OK)
        cs_replica_identity(r, &id);
    cs_replica_close(r);
    if (cs_uuid_is_zero(&id.device)) {
        say(d, "membership", FAILED, "this device was never set up (%s); run: claw-sync sync, or claw-sync join CODE",
            why);
        return;
    }
    cs_status_keys_are_lost(&id.device, cs_config_data_dir(d->config), (struct cs_error *)&err);
    say(d, "membership", FAILED, "%s", err.msg);
}

static bool check_identity(struct doctor *d)
{
    struct clawsync_engine *e = NULL;
    struct cs_error err = { 0 };
    int rc = cs_engine_open_self(&e, d->config, &err);

    if (rc == CS_EINVAL) {
        say(d, "configuration", FAILED, "%s", err.msg);
        return false;
    }
    say(d, "configuration", OK, "workspace %s, hub %s", d->config->workspace_id, d->config->hub_endpoint);
    check_place(d, "data_dir", cs_config_data_dir(d->config));
    check_modes(d, rc == CS_OK ? e->device_text : "");
    if (rc == CS_ENOTFOUND)
        no_keys(d, err.msg);
    else if (rc != CS_OK)
        say(d, "membership", FAILED, "%s", err.msg);
    else
        check_membership(d, e);
    cs_engine_free(e);
    return rc == CS_OK;
}

static void check_queue(struct doctor *d)
{
    struct cs_arena arena = { 0 };
    struct cs_queue_counts n;
    struct cs_error err;
    cs_queue *q;
    int rc = cs_queue_open_beside(&q, &arena, d->config, NULL, &err);

    if (rc == CS_OK)
        rc = cs_queue_counts(q, &n, &err);
    cs_queue_close(q);
    cs_arena_free(&arena);
    if (rc == CS_ENOTFOUND)
        say(d, "queue", OK, "there is none yet");
    else if (rc != CS_OK)
        say(d, "queue", FAILED, "%s", err.msg);
    else if (n.failed > 0)
        say(d, "queue", WARNING, "the hub has refused %" PRIu64 " set%s; see: claw-sync queue list", n.failed,
            cs_cli_s((int64_t)n.failed));
    else
        say(d, "queue", OK, "%" PRIu64 " set%s", n.pending + n.in_flight,
            n.pending + n.in_flight == 1 ? " waits" : "s wait");
}

static void check_audit(struct doctor *d)
{
    clawsync_audit_report r;
    clawsync_error err;
    int rc = clawsync_verify_audit_log(d->config, &r, &err);

    if (rc == CS_ENOTFOUND)
        say(d, "audit log", WARNING, "there is none yet (%s)", err.msg);
    else if (rc != CS_OK)
        say(d, "audit log", FAILED, "%s", err.msg);
    else if (!r.ok)
        say(d, "audit log", FAILED, "it was changed: row %" PRIu64 ": %s; keep the file as evidence", r.first_broken_at,
            r.broken_reason);
    else
        say(d, "audit log", OK, "%" PRIu64 " rows, all as they were written", r.rows);
}

/* ---- the hub ---- */

static void check_clock(struct doctor *d, const struct cs_hub_look *h)
{
    int64_t ahead = cs_hub_look_ahead_ms(h), off = ahead < 0 ? -ahead : ahead;

    if (off <= CLOCK_FINE_MS)
        say(d, "clock", OK, "as the hub's, to %d s", CLOCK_FINE_MS / 1000);
    else
        say(d, "clock", ahead > 0 && off > CS_CLOCK_MAX_MS ? FAILED : WARNING,
            "it is %" PRId64 " s %s the hub's%s; set it right, best by NTP, here or there", off / 1000,
            ahead > 0 ? "ahead of" : "behind",
            ahead > 0 ? ", which refuses edits from more than a minute ahead"
                      : ": edits of others win over newer ones");
}

static void check_tls(struct doctor *d, const struct clawsync_engine *e)
{
    const struct cs_endpoint *hub = &e->hubs.of[0];

    if (hub->tls)
        say(d, "TLS", OK, "the hub's certificate is accepted (%s)",
            e->config.tls_pin_sha256 != NULL ? "its key is the pinned one"
            : e->config.tls_ca_file != NULL  ? "by tls_ca_file"
                                             : "by this machine's authorities");
    else if (cs_endpoint_is_local(hub))
        say(d, "TLS", OK, "none, and none is needed: the hub is on this machine");
    else
        say(d, "TLS", WARNING, "none: what is sent is encrypted, but who talks when is not hidden; use https://");
}

/* A connection that TLS refused tells so in its words alone. */
static bool is_tls(const char *msg)
{
    return strstr(msg, "certificate") != NULL || strstr(msg, "pinned") != NULL || strstr(msg, "TLS:") != NULL;
}

static void hub_failed(struct doctor *d, const clawsync_error *err)
{
    bool away = err->code == CLAWSYNC_EUNAVAILABLE || err->code == CLAWSYNC_ETIMEDOUT;
    const char *msg = err->msg, *advice = cs_cli_advice(err);

    if (advice[0] != '\0') {
        say(d, "hub", FAILED, "%s%s", msg, advice);
        d->offline = away;
    } else if (away && is_tls(msg)) {
        say(d, "TLS", FAILED, "%s; check tls_ca_file and tls_pin_sha256 with whoever runs the hub", msg);
    } else {
        say(d, "hub", FAILED, "%s%s", msg, away ? "; is hub_endpoint right, and does the hub run?" : "");
        d->offline = away;
    }
}

static void check_ciphertext(struct doctor *d, clawsync_engine *e)
{
    struct cs_own_look own;
    clawsync_error err;

    if (cs_engine_look_at_own(e, &own, &err) != CS_OK)
        say(d, "ciphertext", FAILED, "%s", err.msg);
    else if (own.number == 0)
        say(d, "ciphertext", OK, "the hub has nothing of this device yet");
    else if (own.log_number == 0)
        say(d, "ciphertext", WARNING,
            "batch %" PRIu64 ", the newest of this device, is too long ago to be found in "
            "the hub's log",
            own.number);
    else if (own.found > 0)
        say(d, "ciphertext", FAILED, "%zu of %zu texts of batch %" PRIu64 " lie open in what the hub has: report this",
            own.found, own.searched, own.number);
    else
        say(d, "ciphertext", OK,
            "batch %" PRIu64 " fetched back, number %" PRIu64 " of the hub's log: %" PRIu32 " operations, %zu bytes of "
            "content, as %zu bytes in %" PRIu32 " chunks; each chunk's hash, the batch's hash and signature are those "
            "of what was sent, it opens under the key that its commitment names, and of %zu texts in it (names, keys, "
            "values, of 8 bytes and more) none is in those bytes",
            own.number, own.log_number, own.nops, own.content, own.stored, own.nchunks, own.searched);
}

static void check_hub(struct doctor *d)
{
    clawsync_config once = *d->config;
    struct cs_hub_look look;
    clawsync_engine *e = NULL;
    clawsync_error err;
    int rc;

    once.max_retries = 0; /* the first answer is what is told */
    if (cs_engine_open_beside(&e, &once, &err) != CS_OK) {
        say(d, "hub", FAILED, "%s", err.msg);
        return;
    }
    rc = cs_engine_look_at_hub(e, &look, &err);
    d->looked.asked = true;
    d->looked.rc = rc;
    if (rc != CS_OK) {
        hub_failed(d, &err);
    } else {
        check_tls(d, e);
        say(d, "hub", OK, "%s answers with the key that is pinned; its log ends at %" PRIu64, e->config.hub_endpoint,
            look.head.number);
        check_clock(d, &look);
        check_ciphertext(d, e);
    }
    clawsync_engine_close(e);
}

/* Only rounds find some things, as a copy of this device at work. */
static void check_last_round(struct doctor *d)
{
    struct cs_reasons r = { 0 };

    cs_status_look_at_standing(&d->looked, d->cli->world, cs_config_data_dir(d->config));
    cs_status_round_failed(&d->looked, &r);
    for (size_t i = 0; i < r.n; i++) {
        const char *what = r.of[i].what_to_do;
        bool told = strstr(what, "claw-sync doctor") != NULL || strstr(r.of[i].text, what) != NULL;

        say(d, "last round", FAILED, "%s%s%s", r.of[i].text, told ? "" : "; ", told ? "" : what);
    }
    if (r.n == 0)
        say(d, "last round", OK, "it left nothing that a person has to settle");
}

static int examine(void *arg, const clawsync_config *config, clawsync_error *err)
{
    struct doctor *d = arg;
    bool set_up, known;

    (void)err;
    d->config = config;
    known = check_identity(d);
    set_up = config->db_path != NULL && check_database(d);
    if (known && d->modes_fine) /* what SQLite makes beside the file gets its mode */
        check_queue(d);
    if (known)
        check_audit(d);
    if (known && set_up) {
        check_hub(d);
        check_last_round(d);
    }
    return CS_OK;
}

int cs_cmd_doctor(struct cs_cli *c)
{
    struct doctor d = { .cli = c, .checks = c->json ? json_array() : NULL };
    clawsync_error err;
    int others;

    if (cs_cli_unlocked(c, examine, &d, &err) != CS_OK)
        say(&d, "configuration", FAILED, "%s", err.msg);
    others = d.failures - d.offline;
    if (c->json)
        cs_cli_json(json_pack("{s:b, s:i, s:i, s:o}", "ok", d.failures == 0, "warnings", d.warnings, "failures",
                              d.failures, "checks", d.checks));
    else
        cs_cli_say(c, "%d failed, %d warning%s", d.failures, d.warnings, cs_cli_s(d.warnings));
    return others > 0 ? CS_EXIT_FAILED : d.offline ? CS_EXIT_OFFLINE : CS_EXIT_DONE;
}
