/* `claw-sync status`: one word that is true, and what is behind it. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "engine/checkpoint.h"
#include "engine/engine.h"

enum { WATCH_SECS = 2, ASK_SECS = 3, REASONS = 8, REASON_MAX = 600 };

/* What a status is made of. */
struct looked {
    struct cs_replica_identity id;
    struct cs_replica_counts n;
    struct cs_pull_mark mark;
    int64_t set_aside, daemon_pid, contact_ms;
    bool set_up;

    bool asked; /* the hub; what follows is its answer */
    int rc;
    clawsync_error err;
    struct cs_hub_look hub;
    json_t *devices;
};

enum state { NOT_SET_UP, NOT_KNOWN, OFFLINE, STOPPED, SYNCING, IN_SYNC, NEEDS_YOU };
static const struct {
    const char *text, *json;
} state_names[] = {
    [NOT_SET_UP] = { "not set up", "not-set-up" }, [NOT_KNOWN] = { "NOT KNOWN", "not-known" },
    [OFFLINE] = { "OFFLINE", "offline" },          [STOPPED] = { "STOPPED", "stopped" },
    [SYNCING] = { "SYNCING", "syncing" },          [IN_SYNC] = { "IN SYNC", "in-sync" },
    [NEEDS_YOU] = { "NEEDS YOU", "needs-you" },
};

/* ---- looking ---- */

static void count_failed(void *arg, const clawsync_queue_entry *e)
{
    struct looked *l = arg;

    l->set_aside += strcmp(e->state, "failed") == 0;
}

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

static int look_here(struct cs_cli *c, struct looked *l, clawsync_error *err)
{
    cs_replica *r = NULL;
    int rc = cs_cli_open_replica(c, true, NULL, &r, err);

    if (rc == CS_OK && (rc = cs_replica_counts(r, &l->n, (struct cs_error *)err)) == CS_OK) {
        l->set_up = cs_replica_is_set_up(r);
        cs_replica_identity(r, &l->id);
        cs_replica_pull_mark(r, &l->mark);
        if (l->set_up)
            rc = cs_replica_holder(r, &l->daemon_pid, (struct cs_error *)err);
    }
    cs_replica_close(r);
    if (rc != CS_OK)
        return rc;
    if (!cs_uuid_is_zero(&l->id.workspace))
        l->contact_ms = last_contact(c, &l->id);
    rc = clawsync_queue_list(&c->config, count_failed, l, err);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

static void on_device(void *arg, const clawsync_device *d)
{
    struct looked *l = arg;

    if (d->kind == CS_PRINCIPAL_DEVICE)
        json_array_append_new(
            l->devices, json_pack("{s:s, s:s, s:o, s:o, s:b}", "id", d->id, "name", d->name, "last_seen_ms",
                                  d->seen_ms > 0 ? json_integer((json_int_t)d->seen_ms) : json_null(), "behind",
                                  d->behind >= 0 ? json_integer((json_int_t)d->behind) : json_null(), "self", d->self));
}

static int ask_hub(void *arg, const clawsync_config *config, clawsync_error *err)
{
    struct looked *l = arg;
    clawsync_config once = *config;
    clawsync_engine *e = NULL;
    int rc;

    once.max_retries = 0;
    once.connect_timeout_secs = once.connect_timeout_secs < ASK_SECS ? once.connect_timeout_secs : ASK_SECS;
    if ((rc = cs_engine_open_beside(&e, &once, err)) == CS_OK &&
        (rc = cs_engine_look_at_hub(e, &l->hub, err)) == CS_OK) {
        l->contact_ms = l->hub.answered_ms;
        rc = clawsync_engine_devices(e, on_device, l, err);
    }
    clawsync_engine_close(e);
    return rc;
}

static int look(struct cs_cli *c, struct looked *l, clawsync_error *err)
{
    int rc;

    *l = (struct looked){ .devices = json_array() };
    if ((rc = look_here(c, l, err)) != CS_OK)
        return rc;
    l->asked = l->set_up && !c->local && !cs_uuid_is_zero(&l->id.device) && !cs_cli_must_ask(c);
    if (l->asked)
        l->rc = cs_cli_unlocked(c, ask_hub, l, &l->err);
    return CS_OK;
}

/* ---- deciding ---- */

/* What waits for the user, and what settles it. */
struct reasons {
    size_t n;
    struct {
        char text[REASON_MAX];
        const char *what_to_do;
    } of[REASONS];
};

static void __attribute__((format(printf, 3, 4)))
add_reason(struct reasons *r, const char *what_to_do, const char *fmt, ...)
{
    va_list ap;

    if (r->n == REASONS)
        return;
    va_start(ap, fmt);
    vsnprintf(r->of[r->n].text, sizeof r->of[r->n].text, fmt, ap);
    va_end(ap);
    r->of[r->n++].what_to_do = what_to_do;
}

static const char *s_of(int64_t n)
{
    return n == 1 ? "" : "s";
}

static void find_reasons(const struct looked *l, struct reasons *out)
{
    const struct cs_replica_counts *n = &l->n;

    *out = (struct reasons){ 0 };
    if (l->asked && l->rc != CS_OK && !cs_code_is_transient(l->rc))
        add_reason(out, "claw-sync doctor", "%.590s", l->err.msg);
    if (n->conflicts > 0)
        add_reason(out, "claw-sync conflicts list", "%" PRId64 " conflict%s want%s a decision", n->conflicts,
                   s_of(n->conflicts), n->conflicts == 1 ? "s" : "");
    if (l->set_aside > 0)
        add_reason(out, "claw-sync queue list", "the hub refused %" PRId64 " set%s of edits for good", l->set_aside,
                   s_of(l->set_aside));
    if (n->held_back > 0)
        add_reason(out, "make them smaller, or give them a key",
                   "%" PRId64 " row%s cannot be sent: above 16 MiB, or NULL in the key", n->held_back,
                   s_of(n->held_back));
}

static int64_t to_send(const struct looked *l)
{
    return l->n.unsealed + l->n.unsent + l->n.bound + l->n.taking_in;
}

static enum state decide(const struct looked *l, const struct reasons *r)
{
    if (!l->set_up)
        return NOT_SET_UP;
    if (r->n > 0)
        return NEEDS_YOU;
    if (!l->asked)
        return NOT_KNOWN;
    if (l->rc != CS_OK)
        return OFFLINE;
    if (to_send(l) == 0 && l->mark.number >= l->hub.head.number)
        return IN_SYNC;
    return l->daemon_pid != 0 ? SYNCING : STOPPED;
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

static json_t *hub_json(const struct cs_cli *c, const struct looked *l)
{
    bool answered = l->asked && l->rc == CS_OK;
    json_t *o = json_pack("{s:s, s:b, s:b, s:I}", "endpoint", c->config.hub_endpoint, "asked", (int)l->asked,
                          "answered", (int)answered, "last_contact_ms", (json_int_t)l->contact_ms);

    if (answered)
        json_object_update_new(o, json_pack("{s:I, s:I}", "log_number", (json_int_t)l->hub.head.number, "clock_skew_ms",
                                            (json_int_t)(l->hub.hub_ms - l->hub.answered_ms)));
    else if (l->asked)
        json_object_set_new(o, "error",
                            json_pack("{s:s, s:s}", "code", clawsync_code_name(l->rc), "message", l->err.msg));
    return o;
}

static void status_json(const struct cs_cli *c, const struct looked *l)
{
    char workspace[CS_UUID_TEXT], device[CS_UUID_TEXT];
    const struct cs_replica_counts *n = &l->n;
    struct reasons r;
    json_t *o, *reasons = json_array();

    find_reasons(l, &r);
    for (size_t i = 0; i < r.n; i++)
        json_array_append_new(reasons, json_pack("{s:s, s:s}", "reason", r.of[i].text, "do", r.of[i].what_to_do));
    o = json_pack("{s:s, s:o, s:s, s:b, s:s?, s:s?, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "state",
                  state_names[decide(l, &r)].json, "needs_you", reasons, "database", c->config.db_path, "set_up",
                  (int)l->set_up, "workspace_id", id_text(workspace, &l->id.workspace), "device_id",
                  id_text(device, &l->id.device), "tracked_tables", (json_int_t)n->tracked, "unsealed",
                  (json_int_t)n->unsealed, "unsent", (json_int_t)n->unsent, "bound_batches", (json_int_t)n->bound,
                  "hidden_rows", (json_int_t)n->hidden, "conflicts", (json_int_t)n->conflicts, "held_back",
                  (json_int_t)n->held_back, "taking_in", (json_int_t)n->taking_in, "log_number",
                  (json_int_t)l->mark.number, "set_aside", (json_int_t)l->set_aside);
    json_object_update_new(o, json_pack("{s:I, s:o, s:O}", "daemon_pid", (json_int_t)l->daemon_pid, "hub",
                                        hub_json(c, l), "devices", l->devices));
    cs_cli_json(o);
}

/* What follows the state's name. */
static void say_state(const struct cs_cli *c, const struct looked *l)
{
    static const char settle[] = "claw-sync run, or once: claw-sync sync";
    char detail[REASON_MAX + 64] = "", since[32];
    struct reasons r;
    enum state s;

    find_reasons(l, &r);
    s = decide(l, &r);
    switch (s) {
    case NOT_SET_UP:
        snprintf(detail, sizeof detail, ": nothing in it is replicated");
        break;
    case NOT_KNOWN:
        snprintf(detail, sizeof detail, ": the hub was not asked (%s)",
                 c->local                         ? "--local"
                 : cs_uuid_is_zero(&l->id.device) ? "this device was never in touch with it"
                                                  : "the keystore is under a passphrase");
        break;
    case OFFLINE:
        snprintf(detail, sizeof detail, "%s%s: %.500s", l->contact_ms > 0 ? " since " : "",
                 l->contact_ms > 0 ? cs_cli_time(l->contact_ms, since) : "", l->err.msg);
        break;
    case STOPPED:
        snprintf(detail, sizeof detail, ": no daemon runs; %s", settle);
        break;
    case SYNCING:
        if (l->mark.number < l->hub.head.number)
            snprintf(detail, sizeof detail, " %" PRIu64 " of %" PRIu64, l->mark.number, l->hub.head.number);
        break;
    case NEEDS_YOU:
        snprintf(detail, sizeof detail, ": %s: %s", r.of[0].text, r.of[0].what_to_do);
        break;
    case IN_SYNC:
        break;
    }
    cs_cli_say(c, "state           %s%s", state_names[s].text, detail);
    for (size_t i = 1; i < r.n; i++)
        cs_cli_say(c, "                %s: %s", r.of[i].text, r.of[i].what_to_do);
}

static void say_hub(const struct cs_cli *c, const struct looked *l)
{
    char when[32];
    int64_t skew = l->hub.hub_ms - l->hub.answered_ms;

    if (l->asked && l->rc == CS_OK)
        cs_cli_say(c, "hub             %s: its log ends at %" PRIu64 ", its clock is %" PRId64 " ms %s",
                   c->config.hub_endpoint, l->hub.head.number, skew < 0 ? -skew : skew, skew < 0 ? "behind" : "ahead");
    else
        cs_cli_say(c, "hub             %s: last heard of %s", c->config.hub_endpoint,
                   l->contact_ms > 0 ? cs_cli_time(l->contact_ms, when) : "never");
}

static void say_devices(const struct cs_cli *c, const struct looked *l)
{
    char seen[32], name[64], behind[48];

    for (size_t i = 0; i < json_array_size(l->devices); i++) {
        const json_t *d = json_array_get(l->devices, i), *b = json_object_get(d, "behind");

        behind[0] = '\0';
        if (json_is_integer(b) && json_integer_value(b) > 0)
            snprintf(behind, sizeof behind, ", %" JSON_INTEGER_FORMAT " behind", json_integer_value(b));
        cs_cli_say(c, "%s %-20s last heard of %s%s%s", i == 0 ? "devices        " : "               ",
                   cs_cli_printable(json_string_value(json_object_get(d, "name")), name),
                   cs_cli_time(json_integer_value(json_object_get(d, "last_seen_ms")), seen), behind,
                   json_is_true(json_object_get(d, "self")) ? "  (this device)" : "");
    }
}

static void status_text(const struct cs_cli *c, const struct looked *l)
{
    char workspace[CS_UUID_TEXT], device[CS_UUID_TEXT], pid[32] = "does not run";
    const char *ws = id_text(workspace, &l->id.workspace), *id = id_text(device, &l->id.device);
    const struct cs_replica_counts *n = &l->n;

    say_state(c, l);
    cs_cli_say(c, "database        %s", c->config.db_path);
    if (!l->set_up) {
        cs_cli_say(c, "                a new workspace begins with: claw-sync sync\n"
                      "                one that exists is joined with: claw-sync join CODE, or claw-sync keys import "
                      "FILE");
        return;
    }
    if (l->daemon_pid != 0)
        snprintf(pid, sizeof pid, "process %" PRId64, l->daemon_pid);
    cs_cli_say(c, "workspace       %s", ws != NULL ? ws : "none yet");
    cs_cli_say(c, "device          %s", id != NULL ? id : "none yet");
    cs_cli_say(c, "daemon          %s", pid);
    say_hub(c, l);
    cs_cli_say(c, "tracked tables  %" PRId64, n->tracked);
    cs_cli_say(c,
               "unsent          %" PRId64 " rows, %" PRId64 " logged changes not sealed, %" PRId64 " batches in flight",
               n->unsent, n->unsealed, n->bound);
    if (n->taking_in > 0)
        cs_cli_say(c, "taking in       the existing rows of %" PRId64 " table%s", n->taking_in, s_of(n->taking_in));
    cs_cli_say(c, "pulled up to    %" PRIu64, l->mark.number);
    cs_cli_say(c, "hidden          %" PRId64 " rows", n->hidden);
    cs_cli_say(c, "conflicts       %" PRId64, n->conflicts);
    if (n->held_back > 0)
        cs_cli_say(c, "held back       %" PRId64 " rows that cannot be sent (above 16 MiB, or NULL in the key)",
                   n->held_back);
    if (l->set_aside > 0)
        cs_cli_say(c, "set aside       %" PRId64 " sets that the hub refused: claw-sync queue list", l->set_aside);
    say_devices(c, l);
}

static int tell(struct cs_cli *c)
{
    struct looked l;
    clawsync_error err;
    int rc = look(c, &l, &err);

    if (rc == CS_OK && c->json)
        status_json(c, &l);
    else if (rc == CS_OK)
        status_text(c, &l);
    json_decref(l.devices);
    fflush(stdout);
    return rc == CS_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}

int cs_cmd_status(struct cs_cli *c)
{
    bool screen = isatty(STDOUT_FILENO) == 1 && !c->json;
    const struct timespec pause = { .tv_sec = WATCH_SECS };
    sigset_t set;
    int rc;

    if (!c->watch)
        return tell(c);
    /* blocked before an engine makes its threads; the pause ends with them */
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    do {
        if (screen)
            fputs("\033[H\033[2J", stdout);
        if ((rc = tell(c)) != CS_EXIT_DONE)
            return rc;
        if (!screen && !c->json)
            cs_cli_say(c, "%s", "");
    } while (sigtimedwait(&set, NULL, &pause) < 0);
    return CS_EXIT_DONE;
}
