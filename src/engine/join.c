/* Inviting a device by a file, and joining with one. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "identity/code.h"

enum { DAY_SECS = 24 * 60 * 60, MAX_TRIES = 3, CODE_MAX = 512 };

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_join_step *s = &e->join;

    cs_hub_call_cancel(&s->call);
    cs_messages_free(&s->taken);
    cs_arena_free(&s->arena);
    cs_key_export_free(&s->export);
    cs_secret_free(s->invite);
    s->invite = NULL;
    cs_wipe(s->secret, sizeof s->secret);
    s->done(e, rc, err);
}

static void next_job(struct clawsync_engine *e, void (*run)(struct clawsync_engine *, struct cs_job *),
                     void (*done)(struct clawsync_engine *, struct cs_job *))
{
    e->join.job = (struct cs_job){ .run = run, .done = done };
    cs_engine_job(e, &e->join.job);
}

static int invite_keys(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;

    if (s->invite == NULL && (s->invite = cs_secret_alloc(sizeof *s->invite)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    cs_device_keys_derive(s->invite, CS_PRINCIPAL_INVITE, cs_slice(s->secret, sizeof s->secret), &e->workspace);
    return CS_OK;
}

/* ---- export ---- */

static void export_call(struct clawsync_engine *e);

static int write_export(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    struct cs_invite_code code = { .tls = e->hub.tls, .workspace = e->workspace };
    struct cs_key_export *x = &s->export;
    bool v6 = strchr(e->hub.host, ':') != NULL;
    int rc;

    if (snprintf(code.hub, sizeof code.hub, "%s%s%s:%u", v6 ? "[" : "", e->hub.host, v6 ? "]" : "", e->hub.port) >=
        (int)sizeof code.hub)
        return cs_fail(err, CS_EINVAL, "the hub's address is too long for an invite");
    memcpy(code.secret, s->secret, sizeof code.secret);
    if (e->config.tls_pin_sha256 != NULL)
        code.has_pin = cs_unhex(code.pin, sizeof code.pin, e->config.tls_pin_sha256);
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
    rc = cs_invite_code_encode(&x->invite, &code, err);
    cs_wipe(&code, sizeof code);
    if (rc == CS_OK)
        rc = cs_key_export_write(x, e->world, &e->rng, s->path, s->passphrase, err);
    return rc;
}

static void write_run(struct clawsync_engine *e, struct cs_job *j)
{
    j->rc = write_export(e, &j->err);
}

static void last_done(struct clawsync_engine *e, struct cs_job *j)
{
    finish(e, j->rc, &j->err);
}

static void export_fetched(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        finish(e, rc, err);
    else if (cs_membership_find(&e->members, &e->join.invite->id) != NULL)
        next_job(e, write_run, last_done);
    else
        export_call(e); /* another entry came first */
}

static void on_appended(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;

    if (!c->ended)
        return;
    if (c->rc != CS_OK && !(c->rc == CS_EABORTED && e->join.tries++ < MAX_TRIES))
        finish(e, c->rc, &c->err);
    else
        cs_step_member(e, export_fetched);
}

static int make_invite(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    const struct cs_epoch_keys *epoch = cs_keystore_epoch(e->ks, e->members.epoch);
    int64_t now = cs_now_ms(e->world), secs = s->expires_secs == 0 ? DAY_SECS : s->expires_secs;
    struct cs_floor floor = { .log_id = e->head.log_id };
    struct cs_pull_mark mark;
    int rc;

    if (epoch == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", e->members.epoch);
    cs_replica_pull_mark(e->replica, &mark);
    floor.number = mark.number;
    memcpy(floor.log_hash, mark.number == 0 ? e->log_start : mark.log_hash, 32);
    cs_random(&e->rng, s->secret, sizeof s->secret);
    cs_buf_reset(&s->entry);
    if ((rc = invite_keys(e, err)) != CS_OK)
        return rc;
    return cs_entry_invite(&s->entry, &e->rng, &e->members, &e->device, e->keys, s->invite, "invite", epoch, &floor,
                           now + secs * 1000, e->ks->hub_key, now, err);
}

static void export_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_files *f = &e->world->files;
    struct cs_file_info info;

    if (f->ops->stat(f->self, e->join.path, &info, NULL) == CS_OK)
        j->rc = cs_fail(&j->err, CS_EEXIST, "%s exists already; nothing was written", e->join.path);
    else
        j->rc = make_invite(e, &j->err);
}

static void export_made(struct clawsync_engine *e, struct cs_job *j)
{
    Clawsync__V1__AppendMembershipRequest req = CLAWSYNC__V1__APPEND_MEMBERSHIP_REQUEST__INIT;

    req.workspace_id = e->workspace_text;
    req.device_id = e->device_text;
    req.entry = (ProtobufCBinaryData){ e->join.entry.len, e->join.entry.data };
    if (j->rc == CS_OK)
        j->rc = cs_hub_call_start(e, &e->join.call, "AppendMembership", &req.base, true, on_appended, &j->err);
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
}

static void export_call(struct clawsync_engine *e)
{
    next_job(e, export_run, export_made);
}

void cs_step_export(struct clawsync_engine *e, const char *path, const char *passphrase, uint32_t expires_secs,
                    cs_step_done done)
{
    struct cs_join_step *s = &e->join;

    s->path = path;
    s->passphrase = passphrase;
    s->expires_secs = expires_secs;
    s->tries = 0;
    s->done = done;
    export_call(e);
}

/* ---- import ---- */

static int forged(struct cs_error *err, const char *why)
{
    return cs_fail(err, CS_EHUB, "INVITE_FORGED: %s; nothing was written", why);
}

static int check_invite(struct clawsync_engine *e, struct cs_slice entry, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    struct cs_invite_info info;
    uint8_t key[32];
    int rc;

    if (cs_invite_open(&info, entry, s->invite, err) != CS_OK)
        return forged(err, "the invite in the hub's log was not made by whoever made the file");
    if (memcmp(info.hub_key, s->export.hub_key, 32) != 0)
        return forged(err, "the invite names another hub");
    rc = cs_wrap_open(key, info.wrap, s->invite, &e->workspace, info.epoch, e->members.commitment, err);
    cs_wipe(key, sizeof key);
    return rc;
}

/* Finds the invite's own entry in the log that was fetched. */
static int find_invite(struct clawsync_engine *e, struct cs_error *err)
{
    const struct cs_member *m = cs_membership_find(&e->members, &e->join.invite->id);
    struct cs_reader r = cs_reader(cs_buf_slice(&e->member_log));

    if (m == NULL)
        return forged(err, "the hub's log does not have the invite");
    while (cs_reader_left(&r) > 0) {
        struct cs_slice entry = cs_read_bytes(&r, cs_read_u32(&r));

        if (cs_entry_seq(entry) != m->added_seq)
            continue;
        if (!m->active)
            return cs_fail(err, CS_EEXIST, "the invite in %s is used already; export a new one", e->join.path);
        return check_invite(e, entry, err);
    }
    return forged(err, "the hub's log does not have the invite");
}

static int check_log(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    const uint8_t *pinned;
    struct cs_hub_head head;
    int rc;

    memcpy(e->ks->genesis, s->export.genesis, 32);
    memcpy(e->ks->hub_key, s->export.hub_key, 32);
    e->head.log_id = 0;
    cs_self_members_reset(e);
    if ((rc = cs_member_fold(e, &s->taken, &s->arena, &head, true, err)) != CS_OK)
        return rc;
    pinned = cs_entry_hash_at(e, s->export.member_seq);
    if (pinned == NULL || memcmp(pinned, s->export.entry_hash, 32) != 0)
        return forged(err, "the hub's membership log is not the one of the file");
    for (uint16_t i = 0; i < s->export.nepochs; i++)
        if (s->export.epochs[i].epoch == e->members.epoch &&
            memcmp(s->export.epochs[i].commitment, e->members.commitment, 32) != 0)
            return cs_fail(err, CS_EAUTH, "WRONG_KEY: the keys in %s are not this workspace's", s->path);
    return find_invite(e, err);
}

static int make_add(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    const struct cs_epoch_keys *epoch = NULL;
    char name[32];

    for (uint16_t i = 0; i < s->export.nepochs; i++)
        if (s->export.epochs[i].epoch == e->members.epoch)
            epoch = &s->export.epochs[i];
    if (epoch == NULL)
        return cs_fail(err, CS_EAUTH, "%s has not the key of the present epoch; export a new one", s->path);
    snprintf(name, sizeof name, "device %.8s", e->device_text);
    cs_buf_reset(&s->entry);
    return cs_entry_add(&s->entry, &e->rng, &e->members, &s->invite->id, s->invite, &e->device, e->keys, name, epoch,
                        cs_now_ms(e->world), err);
}

static void join_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_join_step *s = &e->join;

    if ((j->rc = check_log(e, &j->err)) == CS_OK && (j->rc = make_add(e, &j->err)) == CS_OK &&
        (j->rc = cs_self_save(e, &j->err)) == CS_OK)
        j->rc = cs_self_pending_save(e, cs_buf_slice(&s->entry), &j->err);
    if (j->rc != CS_OK) {
        memset(e->ks->genesis, 0, 32);
        memset(e->ks->hub_key, 0, 32);
        e->head = (struct cs_hub_head){ 0 };
    }
    /* The log is folded again from the hub's when the entry is in; nothing of it was written. */
    cs_self_members_reset(e);
    cs_messages_free(&s->taken);
}

static void join_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else
        cs_step_member(e, finish);
}

static void on_log(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;
    struct cs_error err;

    if (!c->ended)
        return;
    if (c->rc == CS_EAUTH) {
        cs_fail(&err, CS_EAUTH, "the hub does not know the invite in %s", e->join.path);
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

static int open_file(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_join_step *s = &e->join;
    struct cs_invite_code code = { 0 };
    struct cs_buf waiting = { 0 };
    int rc;

    s->pending = false;
    if (cs_is_member(e))
        return cs_fail(err, CS_EEXIST, "this device is a member of the workspace already");
    if ((rc = cs_key_export_read(&s->export, e->world, s->path, s->passphrase, err)) != CS_OK)
        return rc;
    if (cs_uuid_cmp(&s->export.workspace, &e->workspace) != 0)
        return cs_fail(err, CS_EAUTH, "%s is of another workspace than the configured one", s->path);
    if (s->export.invite.len == 0)
        return cs_fail(err, CS_EAUTH, "%s has no invite to join with", s->path);
    if ((rc = cs_invite_code_decode(&code, cs_buf_slice(&s->export.invite), err)) != CS_OK)
        return rc;
    memcpy(s->secret, code.secret, sizeof s->secret);
    cs_wipe(&code, sizeof code);
    /* An earlier import of ours whose answer was lost: the same entry again settles it. A genesis that waits was never
     * accepted. */
    rc = cs_self_pending(e, &waiting, err);
    s->pending = rc == CS_OK && waiting.len > 4 && waiting.data[4] == CS_ENTRY_ADD;
    if (rc == CS_OK && !s->pending)
        rc = cs_self_pending_drop(e, err);
    cs_buf_free(&waiting);
    return rc == CS_OK || rc == CS_ENOTFOUND ? invite_keys(e, err) : rc;
}

static void open_run(struct clawsync_engine *e, struct cs_job *j)
{
    j->rc = open_file(e, &j->err);
}

static void open_done(struct clawsync_engine *e, struct cs_job *j)
{
    Clawsync__V1__GetMembershipRequest req = CLAWSYNC__V1__GET_MEMBERSHIP_REQUEST__INIT;
    char id[CS_UUID_TEXT];

    if (j->rc == CS_OK && e->join.pending) {
        cs_step_member(e, finish);
        return;
    }
    if (j->rc == CS_OK) {
        cs_uuid_text(id, &e->join.invite->id);
        req.workspace_id = e->workspace_text;
        req.device_id = id;
        req.from_seq = 1;
        j->rc = cs_hub_call_start(e, &e->join.call, "GetMembership", &req.base, true, on_log, &j->err);
    }
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
}

void cs_step_import(struct clawsync_engine *e, const char *path, const char *passphrase, cs_step_done done)
{
    struct cs_join_step *s = &e->join;

    s->path = path;
    s->passphrase = passphrase;
    s->done = done;
    s->tries = 0;
    next_job(e, open_run, open_done);
}
