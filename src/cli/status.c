/* `claw-sync status`: one word that is true, and what is behind it. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "audit/audit.h"
#include "cli/cli.h"
#include "cli/status.h"
#include "engine/checkpoint.h"

enum { WATCH_SECS = 2, ASK_SECS = 3 };

static const struct {
    const char *text, *json;
} words[] = {
    [CS_NOT_SET_UP] = { "not set up", "not-set-up" }, [CS_NOT_KNOWN] = { "NOT KNOWN", "not-known" },
    [CS_OFFLINE] = { "OFFLINE", "offline" },          [CS_STOPPED] = { "STOPPED", "stopped" },
    [CS_SYNCING] = { "SYNCING", "syncing" },          [CS_IN_SYNC] = { "IN SYNC", "in-sync" },
    [CS_NEEDS_YOU] = { "NEEDS YOU", "needs-you" },
};

/* ---- looking ---- */

/* When the hub last answered, as the checkpoint has it. */
static int64_t last_contact(const struct cs_cli *c, const struct cs_replica_identity *id)
{
    struct cs_files *f = &c->world->files;
    char path[4096], workspace[CS_UUID_TEXT], device[CS_UUID_TEXT];
    struct cs_checkpoint checkpoint = { 0 };
    struct cs_buf text = { 0 };
    struct cs_error ignored;

    cs_uuid_text(workspace, &id->workspace);
    cs_uuid_text(device, &id->device);
    if (snprintf(path, sizeof path, "%s/checkpoints/%s-%s.json", c->config.data_dir, workspace, device) <
            (int)sizeof path &&
        f->ops->read(f->self, path, CS_CHECKPOINT_MAX, &text, &ignored) == CS_OK)
        cs_checkpoint_parse(&checkpoint, cs_buf_slice(&text), &ignored);
    cs_buf_free(&text);
    return checkpoint.exchanged.contact_ms;
}

static int count_aside(void *arg, const struct cs_review_aside *a)
{
    struct cs_looked *l = arg;

    ++*(cs_review_never_counts(a) ? &l->batches_past_cut : &l->batches_aside);
    return 0;
}

static int look_at_queue(const struct cs_cli *c, struct cs_looked *l, struct cs_error *err)
{
    struct cs_arena arena = { 0 };
    cs_queue *q;
    int rc = cs_queue_open_beside(&q, &arena, &c->config, NULL, err);

    if (rc == CS_OK)
        rc = cs_queue_counts(q, &l->queue, err);
    cs_queue_close(q);
    cs_arena_free(&arena);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

static bool go_on(void *arg, const struct cs_audit_row *row)
{
    (void)arg;
    (void)row;
    return true;
}

/* Whoever only reads may open a log whose last row is damaged, which then counts as an empty one; whoever writes may
 * not. */
static int look_at_log(const struct cs_cli *c, const struct cs_audit_owner *owner, const char *path,
                       struct cs_error *err)
{
    cs_audit *log = NULL;
    uint64_t sequence;
    uint8_t head[32];
    int rc = cs_audit_open(&log, c->world, path, true, owner, err);

    if (rc == CS_OK) {
        cs_audit_head(log, &sequence, head);
        if (sequence == 0 && (rc = cs_audit_read(log, 0, go_on, NULL, err)) != CS_OK)
            cs_fail_context(err, "\"%s\"", path);
    }
    cs_audit_close(log);
    return rc;
}

/* No round goes by without it. */
static void look_at_audit(const struct cs_cli *c, struct cs_looked *l)
{
    struct cs_audit_owner owner = { l->id.workspace, l->id.device };
    const char *dir = cs_config_data_dir(&c->config);
    char path[4096], device[CS_UUID_TEXT];
    int rc;

    if (cs_uuid_is_zero(&owner.device))
        return;
    cs_uuid_text(device, &owner.device);
    snprintf(path, sizeof path, "%s/audit.db", dir);
    if ((rc = look_at_log(c, &owner, path, &l->audit)) == CS_EEXIST) {
        snprintf(path, sizeof path, "%s/audit-%s.db", dir, device);
        rc = look_at_log(c, &owner, path, &l->audit);
    }
    if (rc == CS_OK || rc == CS_ENOTFOUND)
        l->audit.code = CS_OK;
}

static int look_at_replica(cs_replica *r, struct cs_looked *l, struct cs_error *err)
{
    struct cs_buf record = { 0 };
    int rc;

    l->set_up = cs_replica_is_set_up(r);
    cs_replica_identity(r, &l->id);
    cs_replica_pull_mark(r, &l->mark);
    l->refilling = l->set_up && cs_replica_meta_get(r, "engine.refill", &record, NULL) == CS_OK;
    cs_buf_reset(&record);
    l->differs = l->set_up && cs_replica_meta_get(r, CS_DIFFERS, &record, NULL) == CS_OK;
    if (l->differs)
        snprintf(l->differing, sizeof l->differing, "%.*s", (int)record.len, (const char *)record.data);
    cs_buf_reset(&record);
    if (l->set_up && cs_replica_meta_get(r, CS_REMADE, &record, NULL) == CS_OK)
        snprintf(l->remade, sizeof l->remade, "%.*s", (int)record.len, (const char *)record.data);
    cs_buf_free(&record);
    if ((rc = cs_replica_counts(r, &l->n, err)) != CS_OK || (rc = cs_replica_health(r, &l->health, err)) != CS_OK ||
        (l->set_up && (rc = cs_replica_holder(r, &l->daemon_pid, err)) != CS_OK))
        return rc;
    return cs_review_aside(r, count_aside, l, err);
}

void cs_status_look_at_standing(struct cs_looked *l, struct cs_world *w, const char *data_dir)
{
    struct cs_error ignored;

    l->standing_rc = cs_standing_load(&l->standing, w, data_dir, &ignored);
    if (l->standing_rc == CS_OK && cs_uuid_cmp(&l->standing.device, &l->id.device) != 0)
        l->standing_rc = CS_ENOTFOUND;
}

static int look_here(const struct cs_cli *c, struct cs_looked *l, struct cs_error *err)
{
    cs_replica *r = NULL;
    int rc = cs_cli_open_replica(c, true, NULL, &r, (clawsync_error *)err);

    if (rc == CS_OK)
        rc = look_at_replica(r, l, err);
    cs_replica_close(r);
    if (rc != CS_OK)
        return rc;
    cs_status_look_at_standing(l, c->world, c->config.data_dir);
    if (!cs_uuid_is_zero(&l->id.workspace))
        l->contact_ms = last_contact(c, &l->id);
    look_at_audit(c, l);
    return look_at_queue(c, l, err);
}

/* ---- asking ---- */

struct asking {
    struct cs_looked *looked;
    json_t *devices;
};

static void on_device(void *arg, const clawsync_device *d)
{
    const struct asking *a = arg;

    if (d->kind == CS_PRINCIPAL_DEVICE)
        json_array_append_new(
            a->devices, json_pack("{s:s, s:s, s:o, s:o, s:b}", "id", d->id, "name", d->name, "last_seen_ms",
                                  d->seen_ms > 0 ? json_integer((json_int_t)d->seen_ms) : json_null(), "behind",
                                  d->behind >= 0 ? json_integer((json_int_t)d->behind) : json_null(), "self", d->self));
}

static uint32_t at_most(uint32_t secs)
{
    return secs < ASK_SECS ? secs : ASK_SECS;
}

int cs_status_keys_are_lost(const struct cs_uuid *device, const char *data_dir, struct cs_error *err)
{
    char text[CS_UUID_TEXT];

    cs_uuid_text(text, device);
    return cs_fail(err, CS_ENOTFOUND,
                   "the keys of device %s, which replicated this database, are not in %.200s; give that device's "
                   "data_dir (CLAW_DATA_DIR), or, if it is lost: claw-sync identity new, then claw-sync join CODE",
                   text, data_dir);
}

/* Once, and not for long: a hub that lets one wait is as good as away. */
static int ask_hub(void *arg, const clawsync_config *config, clawsync_error *err)
{
    struct asking *a = arg;
    struct cs_looked *l = a->looked;
    clawsync_config once = *config;
    clawsync_engine *e = NULL;
    int rc;

    once.max_retries = 0;
    once.connect_timeout_secs = at_most(once.connect_timeout_secs);
    once.request_timeout_secs = at_most(once.request_timeout_secs);
    if ((rc = cs_engine_open_beside(&e, &once, err)) == CS_ENOTFOUND)
        return cs_status_keys_are_lost(&l->id.device, cs_config_data_dir(config), (struct cs_error *)err);
    l->stranger = rc == CS_OK && !cs_is_member(e);
    if (rc == CS_OK && (rc = cs_engine_look_at_hub(e, &l->hub, err)) == CS_OK) {
        l->contact_ms = l->hub.answered_ms;
        rc = clawsync_engine_devices(e, on_device, a, err);
    }
    clawsync_engine_close(e);
    return rc;
}

static int look(struct cs_cli *c, struct cs_looked *l, json_t *devices, struct cs_error *err)
{
    struct asking a = { l, devices };
    int rc;

    *l = (struct cs_looked){ .local = c->local };
    if ((rc = look_here(c, l, err)) != CS_OK)
        return rc;
    l->asked = l->set_up && !c->local && !cs_uuid_is_zero(&l->id.device) && !cs_cli_must_ask(c);
    if (l->asked)
        l->rc = cs_cli_unlocked(c, ask_hub, &a, (clawsync_error *)&l->err);
    return CS_OK;
}

/* ---- telling ---- */

/* The id as text, or NULL: none is recorded, as before the first round. */
static const char *id_text(char out[CS_UUID_TEXT], const struct cs_uuid *id)
{
    if (cs_uuid_is_zero(id))
        return NULL;
    cs_uuid_text(out, id);
    return out;
}

static json_t *hub_json(const struct cs_cli *c, const struct cs_looked *l)
{
    bool answered = l->asked && l->rc == CS_OK;
    json_t *o = json_pack("{s:s, s:b, s:b, s:I}", "endpoint", c->config.hub_endpoint, "asked", (int)l->asked,
                          "answered", (int)answered, "last_contact_ms", (json_int_t)l->contact_ms);

    if (answered)
        json_object_update_new(o, json_pack("{s:I, s:I}", "log_number", (json_int_t)l->hub.head.number, "clock_skew_ms",
                                            (json_int_t)-cs_hub_look_ahead_ms(&l->hub)));
    else if (l->asked)
        json_object_set_new(o, "error",
                            json_pack("{s:s, s:s}", "code", clawsync_code_name(l->rc), "message", l->err.msg));
    return o;
}

/* Of whoever replicates now; null: nobody. */
static json_t *daemon_json(const struct cs_looked *l)
{
    const struct cs_standing *st = &l->standing;
    json_t *failure = json_null();

    if (l->daemon_pid == 0)
        return failure;
    if (!cs_status_daemon_told(l))
        return json_pack("{s:I, s:n, s:o}", "pid", (json_int_t)l->daemon_pid, "connected", "failure", failure);
    if (st->last.code != CS_OK)
        failure = json_pack("{s:s, s:s}", "code", cs_code_name(st->last.code), "message", st->last.msg);
    return json_pack("{s:I, s:b, s:o}", "pid", (json_int_t)l->daemon_pid, "connected", (int)st->connected, "failure",
                     failure);
}

static json_t *reasons_json(const struct cs_reasons *r)
{
    json_t *list = json_array();

    for (size_t i = 0; i < r->n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s}", "reason", r->of[i].text, "do", r->of[i].what_to_do));
    return list;
}

static void status_json(const struct cs_cli *c, const struct cs_looked *l, json_t *devices)
{
    char workspace[CS_UUID_TEXT], device[CS_UUID_TEXT];
    const struct cs_replica_counts *n = &l->n;
    uint64_t queued = l->queue.pending + l->queue.in_flight;
    struct cs_reasons r;
    json_t *o;

    cs_status_reasons(l, &r);
    o = json_pack("{s:s, s:o, s:s, s:b, s:s?, s:s?, s:I, s:o, s:o, s:O}", "state", words[cs_status_word(l, &r)].json,
                  "needs_you", reasons_json(&r), "database", c->config.db_path, "set_up", (int)l->set_up,
                  "workspace_id", id_text(workspace, &l->id.workspace), "device_id", id_text(device, &l->id.device),
                  "daemon_pid", (json_int_t)l->daemon_pid, "daemon", daemon_json(l), "hub", hub_json(c, l), "devices",
                  devices);
    json_object_update_new(o, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
                                        "tracked_tables", (json_int_t)n->tracked, "paused_tables",
                                        (json_int_t)n->paused, "unsealed", (json_int_t)n->unsealed, "unsent",
                                        (json_int_t)n->unsent, "bound_batches", (json_int_t)n->bound, "hidden_rows",
                                        (json_int_t)n->hidden, "conflicts", (json_int_t)n->conflicts,
                                        "manual_conflicts", (json_int_t)n->manual_conflicts, "held_back",
                                        (json_int_t)n->held_back, "taking_in", (json_int_t)n->taking_in, "log_number",
                                        (json_int_t)l->mark.number, "batches_set_aside", (json_int_t)l->batches_aside));
    json_object_update_new(o, json_pack("{s:I, s:I, s:I, s:I, s:b}", "batches_past_cut",
                                        (json_int_t)l->batches_past_cut, "set_aside", (json_int_t)l->queue.failed,
                                        "queued", (json_int_t)queued, "altered_tables", (json_int_t)l->health.altered,
                                        "schema_unseen", (int)l->health.schema_unseen));
    cs_cli_json(o);
}

/* ": " and what to do, where the reason does not say so itself. */
static const char *rest_of(const struct cs_reasons *r, size_t i, char out[160])
{
    out[0] = '\0';
    if (i < r->n && strstr(r->of[i].text, r->of[i].what_to_do) == NULL)
        snprintf(out, 160, ": %s", r->of[i].what_to_do);
    return out;
}

/* The daemon goes on trying: what it has against it, other than a hub that is away. */
static const char *hitch(const struct cs_looked *l)
{
    int rc = l->standing.last.code;

    return !cs_status_daemon_told(l) || rc == CS_OK || rc == CS_EUNAVAILABLE || rc == CS_ETIMEDOUT
               ? ""
               : l->standing.last.msg;
}

static void why_not_known(const struct cs_looked *l, char *out, size_t size)
{
    if (l->asked && l->rc != CS_OK)
        snprintf(out, size, ": %.500s", l->err.msg);
    else if (l->asked)
        snprintf(out, size, ": process %" PRId64 " is at work here, and has not said yet how it stands", l->daemon_pid);
    else
        snprintf(out, size, ": the hub was not asked (%s)",
                 l->local                         ? "--local"
                 : cs_uuid_is_zero(&l->id.device) ? "this device was never in touch with it"
                                                  : "the keystore is under a passphrase: --keystore-passphrase-fd N");
}

static void syncing(const struct cs_looked *l, char *out, size_t size)
{
    int64_t to_send = cs_status_to_send(l);
    int n = 0;

    if (l->mark.number < l->hub.head.number && (l->mark.log_id == l->hub.head.log_id || l->mark.number == 0))
        n = snprintf(out, size, " %" PRIu64 " of %" PRIu64, l->mark.number, l->hub.head.number);
    else if (to_send > 0)
        n = snprintf(out, size, ": %" PRId64 " to send", to_send);
    if (hitch(l)[0] != '\0')
        snprintf(out + n, size - (size_t)n, ": %.500s; it is tried again", hitch(l));
}

/* What follows the word. */
static void say_state(const struct cs_cli *c, const struct cs_looked *l)
{
    static const char settle[] = "claw-sync run, or once: claw-sync sync";
    char since[32], rest[160], detail[2 + CS_REASON_MAX + sizeof rest] = "";
    struct cs_reasons r;
    enum cs_word word;

    cs_status_reasons(l, &r);
    word = cs_status_word(l, &r);
    switch (word) {
    case CS_NOT_SET_UP:
        snprintf(detail, sizeof detail, ": nothing in it is replicated");
        break;
    case CS_NOT_KNOWN:
        why_not_known(l, detail, sizeof detail);
        break;
    case CS_OFFLINE:
        snprintf(detail, sizeof detail, "%s%s: %.500s%s", l->contact_ms > 0 ? " since " : "",
                 l->contact_ms > 0 ? cs_cli_time(l->contact_ms, since) : "", l->err.msg,
                 cs_cli_advice((const clawsync_error *)&l->err));
        break;
    case CS_STOPPED:
        snprintf(detail, sizeof detail, ": no daemon runs; %s", settle);
        break;
    case CS_SYNCING:
        syncing(l, detail, sizeof detail);
        break;
    case CS_NEEDS_YOU:
        snprintf(detail, sizeof detail, ": %s%s", r.of[0].text, rest_of(&r, 0, rest));
        break;
    case CS_IN_SYNC:
        break;
    }
    cs_cli_say(c, "state           %s%s", words[word].text, detail);
    for (size_t i = 1; i < r.n; i++)
        cs_cli_say(c, "                %s%s", r.of[i].text, rest_of(&r, i, rest));
}

static void say_daemon(const struct cs_cli *c, const struct cs_looked *l)
{
    if (l->daemon_pid == 0)
        cs_cli_say(c, "daemon          does not run");
    else
        cs_cli_say(c, "daemon          process %" PRId64 "%s", l->daemon_pid,
                   !cs_status_daemon_told(l) ? ""
                   : l->standing.connected   ? ", connected"
                                             : ", not connected");
}

static void say_hub(const struct cs_cli *c, const struct cs_looked *l)
{
    char when[32];
    int64_t ahead = cs_hub_look_ahead_ms(&l->hub);

    if (l->asked && l->rc == CS_OK)
        cs_cli_say(c, "hub             %s: its log ends at %" PRIu64 ", its clock is %" PRId64 " ms %s",
                   c->config.hub_endpoint, l->hub.head.number, ahead < 0 ? -ahead : ahead,
                   ahead > 0 ? "behind" : "ahead");
    else
        cs_cli_say(c, "hub             %s: last heard of %s", c->config.hub_endpoint,
                   l->contact_ms > 0 ? cs_cli_time(l->contact_ms, when) : "never");
}

static void say_devices(const struct cs_cli *c, const json_t *devices)
{
    char seen[32], name[64], behind[48];

    for (size_t i = 0; i < json_array_size(devices); i++) {
        const json_t *d = json_array_get(devices, i), *b = json_object_get(d, "behind");

        behind[0] = '\0';
        if (json_is_integer(b) && json_integer_value(b) > 0)
            snprintf(behind, sizeof behind, ", %" JSON_INTEGER_FORMAT " behind", json_integer_value(b));
        cs_cli_say(c, "%s %-20s last heard of %s%s%s", i == 0 ? "devices        " : "               ",
                   cs_cli_printable(json_string_value(json_object_get(d, "name")), name),
                   cs_cli_time(json_integer_value(json_object_get(d, "last_seen_ms")), seen), behind,
                   json_is_true(json_object_get(d, "self")) ? "  (this device)" : "");
    }
}

static void say_counts(const struct cs_cli *c, const struct cs_looked *l)
{
    const struct cs_replica_counts *n = &l->n;
    uint64_t waiting = l->queue.pending + l->queue.in_flight;

    cs_cli_say(c, "tracked tables  %" PRId64 "%s", n->tracked,
               l->health.schema_unseen ? "; the application changed its schema, which was not looked at yet" : "");
    if (n->paused > 0)
        cs_cli_say(c, "paused          %" PRId64 " of them", n->paused);
    cs_cli_say(
        c, "unsent          %" PRId64 " row%s, %" PRId64 " logged change%s not sealed, %" PRId64 " batch%s in flight",
        n->unsent, cs_cli_s(n->unsent), n->unsealed, cs_cli_s(n->unsealed), n->bound, cs_cli_es(n->bound));
    cs_cli_say(c, "queue           %" PRIu64 " set%s, %" PRIu64 " %s refused", waiting,
               waiting == 1 ? " waits" : "s wait", l->queue.failed, l->queue.failed == 1 ? "was" : "were");
    if (n->taking_in > 0)
        cs_cli_say(c, "taking in       the existing rows of %" PRId64 " table%s", n->taking_in, cs_cli_s(n->taking_in));
    cs_cli_say(c, "pulled up to    %" PRIu64, l->mark.number);
    cs_cli_say(c, "hidden          %" PRId64 " row%s", n->hidden, cs_cli_s(n->hidden));
    cs_cli_say(c, "conflicts       %" PRId64 ", of which %" PRId64 " want%s a decision", n->conflicts,
               n->manual_conflicts, n->manual_conflicts == 1 ? "s" : "");
    if (n->held_back > 0)
        cs_cli_say(c, "held back       %" PRId64 " row%s that cannot be sent (above 16 MiB, or NULL in the key)",
                   n->held_back, cs_cli_s(n->held_back));
    if (l->batches_aside > 0)
        cs_cli_say(c, "set aside       %" PRId64 " batch%s of others that cannot be read: claw-sync hidden list",
                   l->batches_aside, cs_cli_es(l->batches_aside));
    if (l->batches_past_cut > 0)
        cs_cli_say(c, "set aside       %" PRId64 " batch%s of removed devices, counted nowhere: claw-sync hidden list",
                   l->batches_past_cut, cs_cli_es(l->batches_past_cut));
    if (l->queue.failed > 0)
        cs_cli_say(c, "set aside       %" PRIu64 " set%s that the hub refused: claw-sync queue list", l->queue.failed,
                   cs_cli_s((int64_t)l->queue.failed));
}

/* A new database beside the data_dir of a device that is in: one round fills it. */
static bool has_membership(const struct cs_cli *c)
{
    struct cs_files *f = &c->world->files;
    struct cs_file_info info;
    struct cs_error ignored;
    char path[4096];

    return snprintf(path, sizeof path, "%s/identity/membership.log", c->config.data_dir) < (int)sizeof path &&
           f->ops->stat(f->self, path, &info, &ignored) == CS_OK && info.size > 0;
}

static void status_text(const struct cs_cli *c, const struct cs_looked *l, const json_t *devices)
{
    char workspace[CS_UUID_TEXT], device[CS_UUID_TEXT];
    const char *ws = id_text(workspace, &l->id.workspace), *id = id_text(device, &l->id.device);

    say_state(c, l);
    cs_cli_say(c, "database        %s", c->config.db_path);
    if (!l->set_up && has_membership(c)) {
        cs_cli_say(c, "                %s is a member device's: the workspace's rows come with: claw-sync sync",
                   c->config.data_dir);
        return;
    }
    if (!l->set_up) {
        cs_cli_say(c, "                a new workspace begins with: claw-sync sync\n"
                      "                one that exists is joined with: claw-sync join CODE, or claw-sync keys import "
                      "FILE");
        return;
    }
    cs_cli_say(c, "workspace       %s", ws != NULL ? ws : "none yet");
    cs_cli_say(c, "device          %s", id != NULL ? id : "none yet");
    say_daemon(c, l);
    say_hub(c, l);
    say_counts(c, l);
    say_devices(c, devices);
}

static int tell(struct cs_cli *c, clawsync_error *err)
{
    struct cs_looked l = { .set_up = false };
    json_t *devices = json_array();
    int rc = look(c, &l, devices, (struct cs_error *)err);

    if (rc == CS_OK && c->json)
        status_json(c, &l, devices);
    else if (rc == CS_OK)
        status_text(c, &l, devices);
    json_decref(devices);
    fflush(stdout);
    return rc;
}

int cs_cmd_status(struct cs_cli *c)
{
    bool screen = isatty(STDOUT_FILENO) == 1 && !c->json;
    const struct timespec pause = { .tv_sec = WATCH_SECS };
    clawsync_error err;
    sigset_t set;
    int rc;

    if (!c->watch)
        return tell(c, &err) == CS_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
    /* blocked before an engine makes its threads; the pause ends with them */
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    do {
        if (screen)
            fputs("\033[H\033[2J", stdout);
        if ((rc = tell(c, &err)) != CS_OK) {
            int code = cs_cli_fail(c, &err);

            if (!cs_code_is_transient(rc)) /* a database that is locked for long is looked at again */
                return code;
        }
        if (!screen && !c->json)
            cs_cli_say(c, "%s", "");
    } while (ferror(stdout) == 0 && sigtimedwait(&set, NULL, &pause) < 0);
    return CS_EXIT_DONE;
}
