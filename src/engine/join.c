/* Inviting a device, by a code or by a file, and the phrase on paper; and joining with one of them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/engine.h"
#include "identity/code.h"
#include "identity/phrase.h"

enum { DAY_SECS = 24 * 60 * 60, CODE_MAX = 512, INVITE_SECRET = 16, JOIN_TRIES = 8 };

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_join_step *s = &e->join;

    cs_hub_call_cancel(&s->call);
    cs_messages_free(&s->taken);
    cs_arena_free(&s->arena);
    cs_key_export_free(&s->export);
    cs_secret_free(s->opener);
    s->opener = NULL;
    cs_wipe(s->secret, sizeof s->secret);
    s->done(e, rc, err);
}

static void next_job(struct clawsync_engine *e, void (*run)(struct clawsync_engine *, struct cs_job *),
                     void (*done)(struct clawsync_engine *, struct cs_job *))
{
    e->join.job = (struct cs_job){ .run = run, .done = done };
    cs_engine_job(e, &e->join.job);
}

static void last_done(struct clawsync_engine *e, struct cs_job *j)
{
    finish(e, j->rc, &j->err);
}

static void step_begin(struct clawsync_engine *e, cs_step_done done)
{
    struct cs_join_step *s = &e->join;

    s->cmd = e->schedule.current;
    s->kind = CS_PRINCIPAL_INVITE;
    s->pending = false;
    s->tries = 0;
    s->done = done;
}

static int opener_keys(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    size_t n = s->kind == CS_PRINCIPAL_INVITE ? INVITE_SECRET : sizeof s->secret;

    if (s->opener == NULL && (s->opener = cs_secret_alloc(sizeof *s->opener)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    cs_device_keys_derive(s->opener, s->kind, cs_slice(s->secret, n), &e->workspace);
    return CS_OK;
}

/* ---- inviting ---- */

static int make_code(struct clawsync_engine *e, struct cs_invite_code *code, struct cs_error *err)
{
    const struct cs_endpoint *hub = &e->hubs.of[0];
    bool v6 = strchr(hub->host, ':') != NULL;

    *code = (struct cs_invite_code){ .tls = hub->tls, .workspace = e->workspace };
    if (snprintf(code->hub, sizeof code->hub, "%s%s%s:%u", v6 ? "[" : "", hub->host, v6 ? "]" : "", hub->port) >=
        (int)sizeof code->hub)
        return cs_fail(err, CS_EINVAL, "the hub's address is too long for an invite");
    memcpy(code->secret, e->join.secret, sizeof code->secret);
    if (e->config.tls_pin_sha256 != NULL)
        code->has_pin = cs_unhex(code->pin, sizeof code->pin, e->config.tls_pin_sha256);
    return CS_OK;
}

static int write_export(struct clawsync_engine *e, const struct cs_invite_code *code, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    struct cs_key_export *x = &s->export;
    int rc;

    x->workspace = e->workspace;
    memcpy(x->genesis, e->ks->genesis, 32);
    memcpy(x->hub_key, e->ks->hub_key, 32);
    x->member_seq = e->members.seq;
    memcpy(x->entry_hash, e->members.head, 32);
    if (!cs_buf_reserve(&x->invite, CODE_MAX) ||
        (x->epochs = cs_secret_alloc(e->ks->nepochs * sizeof *x->epochs)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    memcpy(x->epochs, e->ks->epochs, e->ks->nepochs * sizeof *x->epochs);
    x->nepochs = e->ks->nepochs;
    rc = cs_invite_code_encode(&x->invite, code, err);
    if (rc == CS_OK)
        rc = cs_key_export_write(x, e->world, &e->rng, s->cmd->path, s->cmd->passphrase, err);
    return rc;
}

static void give_phrase(struct clawsync_engine *e, struct cs_job *j)
{
    char text[CS_PHRASE_TEXT];

    cs_phrase_text(text, e->join.secret);
    cs_buf_put(e->join.cmd->out, text, strlen(text));
    cs_wipe(text, sizeof text);
    if (e->join.cmd->out->failed)
        j->rc = cs_fail(&j->err, CS_ENOMEM, "out of memory");
}

static void give_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_invite_code code;

    if (e->join.kind == CS_PRINCIPAL_PAPER) {
        give_phrase(e, j);
        return;
    }
    if ((j->rc = make_code(e, &code, &j->err)) == CS_OK)
        j->rc = e->join.cmd->path != NULL ? write_export(e, &code, &j->err)
                                          : cs_invite_code_text(e->join.cmd->out, &code, &j->err);
    cs_wipe(&code, sizeof code);
}

static void invite_in(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        finish(e, rc, err);
    else
        next_job(e, give_run, last_done);
}

void cs_floor_now(struct clawsync_engine *e, struct cs_floor *floor)
{
    struct cs_pull_mark mark;

    cs_replica_pull_mark(e->replica, &mark);
    *floor = (struct cs_floor){ .log_id = e->head.log_id, .number = mark.number };
    memcpy(floor->log_hash, mark.number == 0 ? e->log_start : mark.log_hash, 32);
}

/* A secret of its own for each try: what is in the log is then what the code says, or nothing. */
static int invite_entry(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    const struct cs_epoch_keys *epoch = cs_keystore_epoch(e->ks, e->members.epoch);
    int64_t now = cs_now_ms(e->world), secs = s->cmd->expires_secs == 0 ? DAY_SECS : s->cmd->expires_secs;
    struct cs_floor floor;
    int rc;

    (void)arg;
    if (epoch == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", e->members.epoch);
    cs_floor_now(e, &floor);
    cs_random(&e->rng, s->secret, INVITE_SECRET);
    if ((rc = opener_keys(e, err)) != CS_OK)
        return rc;
    return cs_entry_invite(entry, &e->rng, &e->members, &e->device, e->keys, s->opener, "invite", epoch, &floor,
                           now + secs * 1000, e->ks->hub_key, now, err);
}

void cs_step_invite(struct clawsync_engine *e, cs_step_done done)
{
    step_begin(e, done);
    cs_step_append(e, invite_entry, NULL, invite_in);
}

static int paper_entry(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    const struct cs_epoch_keys *epoch = cs_keystore_epoch(e->ks, e->members.epoch);
    struct cs_floor floor;
    int rc;

    (void)arg;
    if (epoch == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", e->members.epoch);
    cs_floor_now(e, &floor);
    cs_random(&e->rng, s->secret, sizeof s->secret);
    if ((rc = opener_keys(e, err)) != CS_OK)
        return rc;
    return cs_entry_recovery(entry, &e->rng, &e->members, &e->device, e->keys, s->opener, "recovery phrase", epoch,
                             &floor, cs_now_ms(e->world), err);
}

void cs_step_paper(struct clawsync_engine *e, cs_step_done done)
{
    step_begin(e, done);
    e->join.kind = CS_PRINCIPAL_PAPER;
    cs_step_append(e, paper_entry, NULL, invite_in);
}

static void export_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_files *f = &e->world->files;
    struct cs_file_info info;

    if (f->ops->stat(f->self, e->join.cmd->path, &info, NULL) == CS_OK)
        j->rc = cs_fail(&j->err, CS_EEXIST, "%s exists already; nothing was written", e->join.cmd->path);
}

static void export_looked(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else
        cs_step_append(e, invite_entry, NULL, invite_in);
}

void cs_step_export(struct clawsync_engine *e, cs_step_done done)
{
    step_begin(e, done);
    next_job(e, export_run, export_looked);
}

/* ---- joining ---- */

static int forged(struct cs_error *err, const char *why)
{
    return cs_fail(err, CS_EHUB, "INVITE_FORGED: %s; nothing was written", why);
}

/* The newest epoch key that the log has for whoever lets us in; it is the one in force while that one is active. */
static int newest_key(struct clawsync_engine *e, struct cs_epoch_keys *out, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    struct cs_reader r = cs_reader(cs_buf_slice(&e->member_log));
    uint8_t wrap[CS_WRAP_LEN], newest[CS_WRAP_LEN], key[32];
    const struct cs_epoch_mark *mark;
    uint32_t epoch, top = 0;
    int rc;

    while (cs_reader_left(&r) > 0) {
        struct cs_slice entry = cs_read_bytes(&r, cs_read_u32(&r));

        if (!r.bad && cs_entry_wrap(entry, &s->opener->id, &epoch, wrap) == CS_OK && epoch > top) {
            top = epoch;
            memcpy(newest, wrap, sizeof newest);
        }
    }
    if ((mark = cs_membership_epoch(&e->members, top)) == NULL)
        return forged(err, "the hub's log has no key for whoever lets this device in");
    if ((rc = cs_wrap_open(key, newest, s->opener, &e->workspace, top, mark->commitment, err)) == CS_OK)
        cs_epoch_keys_derive(out, key, &e->workspace, top);
    cs_wipe(key, sizeof key);
    return rc;
}

/* Why an invite is active no more, for the person who holds it. */
static int invite_over(struct clawsync_engine *e, const struct cs_member *m, struct cs_error *err)
{
    struct cs_epoch_keys *epoch = cs_secret_alloc(sizeof *epoch);
    char id[CS_UUID_TEXT], name[64] = "", when[32] = "";
    const struct cs_member *by = NULL;
    time_t at;
    struct tm tm;

    for (size_t i = 0; i < e->members.nmembers; i++)
        if (e->members.members[i].added_seq == m->ended_seq)
            by = &e->members.members[i];
    at = (time_t)(cs_entry_time(cs_self_entry(e, m->ended_seq)) / 1000);
    if (gmtime_r(&at, &tm) != NULL)
        strftime(when, sizeof when, "%Y-%m-%d %H:%M UTC", &tm);
    if (by != NULL && epoch != NULL && newest_key(e, epoch, err) == CS_OK)
        cs_member_name(by, epoch, 1, name);
    cs_secret_free(epoch);
    if (by == NULL)
        return cs_fail(err, CS_EEXIST, "INVITE_WITHDRAWN: the invite was withdrawn at %s; ask for a new one", when);
    cs_uuid_text(id, &by->id);
    return cs_fail(err, CS_EEXIST,
                   "INVITE_USED: the invite was used already, at %s, by device %s%s%s%s; if that was not you, have it "
                   "removed now with: claw-sync devices revoke %s; for this device, ask for a new one",
                   when, id, name[0] != '\0' ? " (" : "", name, name[0] != '\0' ? ")" : "", id);
}

int cs_check_floor(const struct clawsync_engine *e, const struct cs_floor *given, uint32_t seq,
                   const struct cs_hub_head *head, struct cs_error *err)
{
    const struct cs_floor *floor = e->members.refill_seq > seq ? &e->members.refill : given;

    if (floor->log_id != head->log_id)
        return cs_fail(err, CS_EHUB,
                       "LOG_REPLACED: the hub's log is another one than when this device was invited; "
                       "ask for a new invite");
    if (floor->number > head->number)
        return cs_fail(err, CS_EHUB,
                       "HUB_ROLLBACK: the hub's log is shorter than when this device was invited; "
                       "nothing was written");
    return CS_OK;
}

static int fold_anew(struct clawsync_engine *e, bool check_head, struct cs_hub_head *head, struct cs_error *err)
{
    e->head.log_id = 0;
    cs_self_members_reset(e);
    return cs_member_fold(e, &e->join.taken, &e->join.arena, head, check_head, NULL, err);
}

/* What the file pins beyond the invite in it. */
static int check_pins(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    const uint8_t *pinned = cs_entry_hash_at(e, s->export.member_seq);

    if (pinned == NULL || memcmp(pinned, s->export.entry_hash, 32) != 0 ||
        memcmp(s->export.genesis, e->members.genesis, 32) != 0)
        return forged(err, "the hub's membership log is not the one of the file");
    for (uint16_t i = 0; i < s->export.nepochs; i++) {
        const struct cs_epoch_mark *mark = cs_membership_epoch(&e->members, s->export.epochs[i].epoch);

        if (mark != NULL && memcmp(s->export.epochs[i].commitment, mark->commitment, 32) != 0)
            return cs_fail(err, CS_EAUTH, "WRONG_KEY: the keys in %s are not this workspace's", s->cmd->path);
    }
    return CS_OK;
}

/* The invite's entry vouches for the hub's key and for everything before it in the log. */
static int check_invite(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    const struct cs_member *m;
    struct cs_invite_info info;
    struct cs_hub_head head;
    uint32_t added;
    int rc;

    if ((rc = fold_anew(e, false, &head, err)) != CS_OK)
        return rc;
    if ((m = cs_membership_find(&e->members, &s->opener->id)) == NULL)
        return forged(err, "the hub's log does not have the invite");
    added = m->added_seq;
    if (cs_invite_open(&info, cs_self_entry(e, m->added_seq), s->opener, err) != CS_OK)
        return forged(err, "the invite in the hub's log was not made by whoever made the code");
    if (s->export.nepochs > 0 && memcmp(info.hub_key, s->export.hub_key, 32) != 0)
        return forged(err, "the invite names another hub");
    memcpy(e->ks->hub_key, info.hub_key, 32);
    if ((rc = fold_anew(e, true, &head, err)) != CS_OK ||
        (rc = cs_check_floor(e, &info.floor, added, &head, err)) != CS_OK ||
        (s->export.nepochs > 0 && (rc = check_pins(e, err)) != CS_OK))
        return rc;
    m = cs_membership_find(&e->members, &s->opener->id);
    if (!m->active)
        return invite_over(e, m, err);
    if (cs_now_ms(e->world) > info.expires_ms + CS_INVITE_SLACK_MS)
        return cs_fail(err, CS_EEXIST, "INVITE_EXPIRED: the invite has run out; ask for a new one");
    return CS_OK;
}

/* The phrase's entry vouches for everything before it in the log. The hub's key is not in it: the first contact pins
 * it.
 */
static int check_paper(struct clawsync_engine *e, struct cs_error *err)
{
    static const char forgery[] =
        "RECOVERY_FORGED: the hub's log does not have this phrase as it was made; nothing was "
        "written";
    struct cs_join_step *s = &e->join;
    const struct cs_member *m;
    struct cs_recovery_info info;
    struct cs_hub_head head;
    int rc;

    if ((rc = fold_anew(e, false, &head, err)) != CS_OK)
        return rc;
    m = cs_membership_find(&e->members, &s->opener->id);
    if (m == NULL || cs_recovery_open(&info, cs_self_entry(e, m->added_seq), s->opener, err) != CS_OK)
        return cs_fail(err, CS_EHUB, "%s", forgery);
    if (!m->active)
        return cs_fail(err, CS_EEXIST, "this recovery phrase was revoked; another one, or an invite, is needed");
    return CS_OK;
}

static int make_add(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    struct cs_epoch_keys *epoch = cs_secret_alloc(sizeof *epoch);
    char name[32];
    int rc;

    if (epoch == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    snprintf(name, sizeof name, "device %.8s", e->device_text);
    cs_buf_reset(&s->entry);
    if ((rc = newest_key(e, epoch, err)) == CS_OK)
        rc = cs_entry_add(&s->entry, &e->rng, &e->members, &s->opener->id, s->opener, &e->device, e->keys, name, epoch,
                          cs_now_ms(e->world), err);
    cs_secret_free(epoch);
    return rc;
}

static void join_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_join_step *s = &e->join;

    memset(e->ks->genesis, 0, 32);
    j->rc = s->kind == CS_PRINCIPAL_PAPER ? check_paper(e, &j->err) : check_invite(e, &j->err);
    if (j->rc == CS_OK && (j->rc = make_add(e, &j->err)) == CS_OK) {
        memcpy(e->ks->genesis, e->members.genesis, 32);
        if ((j->rc = cs_self_save(e, &j->err)) == CS_OK)
            j->rc = cs_self_pending_save(e, cs_buf_slice(&s->entry), &j->err);
    }
    if (j->rc != CS_OK) {
        memset(e->ks->genesis, 0, 32);
        memset(e->ks->hub_key, 0, 32);
        e->head = (struct cs_hub_head){ 0 };
    }
    /* The log is folded again from the hub's when the entry is in; nothing of it was written. */
    cs_self_members_reset(e);
    cs_messages_free(&s->taken);
}

/* In: what is written from now on, the code that brought us here must not open. Another device does it if we cannot. */
static void duty_done(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_error none = { 0 };

    (void)rc;
    (void)err;
    finish(e, CS_OK, &none);
}

static void ask_for_log(struct clawsync_engine *e);

/* Another entry may have come first, again and again where many join at once. */
static void joined(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc == CS_EABORTED && ++e->join.tries < JOIN_TRIES)
        ask_for_log(e);
    else if (rc != CS_OK)
        finish(e, rc, err);
    else
        cs_step_duty(e, duty_done);
}

static void join_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else
        cs_step_member(e, joined);
}

static void on_log(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;
    struct cs_error err;

    if (!c->ended)
        return;
    if (c->rc == CS_EAUTH) {
        cs_fail(&err, CS_EAUTH, "the hub does not know this %s; are hub and workspace the right ones?",
                e->join.kind == CS_PRINCIPAL_PAPER ? "recovery phrase" : "invite");
        finish(e, CS_EAUTH, &err);
        return;
    }
    if (c->rc != CS_OK) {
        finish(e, c->rc, &c->err);
        return;
    }
    e->join.taken = c->in;
    c->in = (struct cs_messages){ 0 };
    next_job(e, join_run, join_done);
}

static int read_file(struct clawsync_engine *e, struct cs_invite_code *code, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    int rc = cs_key_export_read(&s->export, e->world, s->cmd->path, s->cmd->passphrase, err);

    if (rc != CS_OK)
        return rc;
    if (cs_uuid_cmp(&s->export.workspace, &e->workspace) != 0)
        return cs_fail(err, CS_EAUTH, "%s is of another workspace than the configured one", s->cmd->path);
    if (s->export.invite.len == 0)
        return cs_fail(err, CS_EAUTH, "%s has no invite to join with", s->cmd->path);
    return cs_invite_code_decode(code, cs_buf_slice(&s->export.invite), err);
}

static int read_code(struct clawsync_engine *e, struct cs_invite_code *code, struct cs_error *err)
{
    if (cs_invite_code_parse(code, e->join.cmd->code, err) != CS_OK)
        return err->code == CS_ECORRUPT ? (err->code = CS_EINVAL) : err->code;
    if (cs_uuid_cmp(&code->workspace, &e->workspace) != 0)
        return cs_fail(err, CS_EINVAL, "the code is of another workspace than the configured one");
    return CS_OK;
}

static int read_invite(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    struct cs_invite_code code = { 0 };
    int rc = s->cmd->path != NULL ? read_file(e, &code, err) : read_code(e, &code, err);

    if (rc == CS_OK)
        memcpy(s->secret, code.secret, sizeof code.secret);
    cs_wipe(&code, sizeof code);
    return rc;
}

static int read_phrase(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_phrase_fix fix;
    int rc = cs_phrase_parse(e->join.secret, e->join.cmd->code, &fix, err);

    cs_wipe(&fix, sizeof fix);
    if (rc == CS_ECORRUPT)
        rc = err->code = CS_EINVAL; /* mistyped */
    return rc;
}

static int open_invite(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    struct cs_buf waiting = { 0 };
    int rc;

    if (cs_is_member(e) || e->members_lost)
        return cs_fail(err, CS_EEXIST, "this device is a member of the workspace already");
    rc = s->kind == CS_PRINCIPAL_PAPER ? read_phrase(e, err) : read_invite(e, err);
    if (rc != CS_OK)
        return rc;
    /* An earlier try of ours whose answer was lost: the same entry again settles it. A genesis that waits was never
     * accepted. */
    rc = cs_self_pending(e, &waiting, err);
    s->pending = rc == CS_OK && waiting.len > 4 && waiting.data[4] == CS_ENTRY_ADD;
    if (rc == CS_OK && !s->pending)
        rc = cs_self_pending_drop(e, err);
    cs_buf_free(&waiting);
    return rc == CS_OK || rc == CS_ENOTFOUND ? opener_keys(e, err) : rc;
}

static void open_run(struct clawsync_engine *e, struct cs_job *j)
{
    j->rc = open_invite(e, &j->err);
}

static void ask_for_log(struct clawsync_engine *e)
{
    Clawsync__V1__GetMembershipRequest req = CLAWSYNC__V1__GET_MEMBERSHIP_REQUEST__INIT;
    struct cs_error err = { 0 };
    char id[CS_UUID_TEXT];
    int rc;

    cs_uuid_text(id, &e->join.opener->id);
    req.workspace_id = e->workspace_text;
    req.device_id = id;
    req.from_seq = 1;
    rc = cs_hub_call_start_as(e, &e->join.call, e->join.opener, "GetMembership", &req.base, on_log, &err);
    if (rc != CS_OK)
        finish(e, rc, &err);
}

static void open_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else if (e->join.pending)
        cs_step_member(e, joined);
    else
        ask_for_log(e);
}

void cs_step_join(struct clawsync_engine *e, cs_step_done done)
{
    step_begin(e, done);
    next_job(e, open_run, open_done);
}

void cs_step_recover(struct clawsync_engine *e, cs_step_done done)
{
    step_begin(e, done);
    e->join.kind = CS_PRINCIPAL_PAPER;
    next_job(e, open_run, open_done);
}
