/* The step that makes this device a member and knows the membership: registers the entry that waits, or makes a genesis
 * when there is nothing at all, and then fetches what is new of the membership log.
 *
 *   load ──▶ RegisterDevice ──▶ settle ──▶ GetMembership ──▶ fold ──▶ done
 *     └────────── a member already ────────▶ */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

bool cs_is_member(const struct clawsync_engine *e)
{
    const struct cs_member *m = cs_membership_find(&e->members, &e->device);

    return m != NULL && m->active && memcmp(m->sign_pk, e->keys->sign.pk, 32) == 0;
}

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    cs_hub_call_cancel(&e->member.call);
    cs_messages_free(&e->member.taken);
    cs_arena_free(&e->member.arena);
    e->member.done(e, rc, err);
}

static void next_job(struct clawsync_engine *e, void (*run)(struct clawsync_engine *, struct cs_job *),
                     void (*done)(struct clawsync_engine *, struct cs_job *))
{
    struct cs_job *j = &e->member.job;

    j->run = run;
    j->done = done;
    cs_engine_job(e, j);
}

/* ---- the membership log ---- */

static int entry_failed(int rc, struct cs_error *err)
{
    static const char expired[] = "INVITE_EXPIRED";

    if (rc == CS_EVERSION || rc == CS_ENOMEM)
        return rc;
    err->code = CS_EHUB;
    if (strncmp(err->msg, expired, sizeof expired - 1) == 0)
        return CS_EHUB;
    if (rc == CS_EAUTH)
        cs_fail_context(err, "MEMBER_FORGED: the hub gave a forged membership entry");
    else
        cs_member_forked(err, "the hub's membership log does not continue the known one");
    return CS_EHUB;
}

/* Nobody but the people can tell a hub that lies from one that a device refilled which had not heard of all entries. */
int cs_member_forked(struct cs_error *err, const char *what)
{
    struct cs_error why = *err;

    return cs_fail(
        err, CS_EHUB,
        "MEMBER_FORK: %s (%.150s). If somebody refilled the hub who had not heard of all entries, join anew, "
        "with all that is here: claw-sync identity new, then claw-sync join CODE. If nobody did, the hub lies",
        what, why.msg);
}

/* The hub's newest time known from before this entry was there: an entry that a head covers is older than the head. */
static int64_t time_before(const struct clawsync_engine *e, struct cs_slice entry)
{
    uint32_t seq = cs_entry_seq(entry);
    int64_t head = seq > e->head.member_seq ? e->head.time_ms : 0,
            kept = seq > e->kept.member_seq ? e->kept.time_ms : 0;

    return head > kept ? head : kept;
}

static int take_entry(struct clawsync_engine *e, struct cs_slice entry, struct cs_error *err)
{
    static const uint8_t zero[32];
    int rc;

    cs_hash_plain(entry, e->looked_at);
    if ((rc = cs_self_members_add(e, entry, time_before(e, entry), err)) != CS_OK)
        return entry_failed(rc, err);
    if (e->members.seq == 1 && memcmp(e->ks->genesis, zero, 32) != 0 &&
        memcmp(e->ks->genesis, e->members.genesis, 32) != 0)
        return cs_fail(err, CS_EHUB, "MEMBER_FORK: the hub's workspace begins with another genesis");
    if (e->members_lost && e->members.seq == e->ks->member_seq && memcmp(e->ks->entry_hash, e->members.head, 32) != 0)
        return cs_fail(err, CS_EHUB,
                       "HUB_FORK: the hub's membership log has another entry %" PRIu32 " than this device was shown",
                       e->members.seq);
    return cs_self_take_keys(e, entry, err);
}

int cs_member_fold(struct clawsync_engine *e, struct cs_messages *in, struct cs_arena *a, struct cs_hub_head *head,
                   bool check_head, int (*settle)(struct clawsync_engine *e, struct cs_error *err),
                   struct cs_error *err)
{
    const Clawsync__V1__HubHead *last = NULL;
    int rc = CS_OK;

    for (const struct cs_message *m = in->first; m != NULL && rc == CS_OK; m = m->next) {
        ProtobufCAllocator alloc = cs_engine_pb(a);
        const Clawsync__V1__GetMembershipResponse *r =
            clawsync__v1__get_membership_response__unpack(&alloc, m->len, m->data);

        if (r == NULL)
            return cs_engine_unreadable(a, "the hub's membership answer", err);
        for (size_t i = 0; i < r->n_entries && rc == CS_OK; i++)
            rc = take_entry(e, cs_slice(r->entries[i].data, r->entries[i].len), err);
        last = r->head != NULL ? r->head : last;
    }
    if (rc == CS_OK && settle != NULL)
        rc = settle(e, err);
    if (rc != CS_OK || !check_head || (rc = cs_engine_head(e, last, head, err)) != CS_OK)
        return rc;
    if (head->member_seq < e->members.seq)
        return cs_fail(err, CS_EHUB,
                       "HUB_ROLLBACK: the hub's membership log ends at entry %" PRIu32
                       ", this device knows entry %" PRIu32,
                       head->member_seq, e->members.seq);
    if (head->member_seq > e->members.seq)
        return cs_fail(err, CS_EHUB, "HUB_WITHHELD: the hub's membership log is not what its head names");
    if (memcmp(head->entry_hash, e->members.head, 32) != 0)
        return cs_fail(err, CS_EHUB,
                       "HUB_FORK: the hub's membership log has another entry %" PRIu32 " than this device was shown",
                       head->member_seq);
    return CS_OK;
}

/* Whoever let us in had seen the hub's log up to here. */
static int check_floor(struct clawsync_engine *e, const struct cs_hub_head *head, struct cs_error *err)
{
    cs_self_find_floor(e);
    if (e->floor.log_id == head->log_id && e->floor.number > head->number)
        return cs_fail(err, CS_EHUB, "HUB_ROLLBACK: the hub's log is shorter than when this device was let in");
    return CS_OK;
}

/* What this device took of somebody whose removal says that it does not count. */
static int note_surplus(struct clawsync_engine *e, uint32_t from_seq, struct cs_error *err)
{
    for (size_t i = 0; i < e->members.nmembers; i++) {
        const struct cs_member *m = &e->members.members[i];
        struct cs_peer peer = { 0 };
        char id[CS_UUID_TEXT], message[200];
        int rc;

        if (!m->removed || m->ended_seq <= from_seq || m->kind != CS_PRINCIPAL_DEVICE)
            continue;
        rc = cs_replica_peer(e->replica, &m->id, &peer, err);
        if (rc != CS_OK && rc != CS_ENOTFOUND)
            return rc;
        cs_uuid_text(id, &m->id);
        if (rc != CS_OK || !cs_membership_past_cut(&e->members, &m->id, peer.number, peer.hash))
            continue;
        snprintf(message, sizeof message,
                 "PAST_CUT: batches %" PRIu64 " to %" PRIu64
                 " of the removed device %s were taken here and do not count elsewhere",
                 m->cut.number + 1, peer.number, id);
        cs_note(e, CLAWSYNC_EVENT_SYNC_ERROR, CS_ECORRUPT, "PAST_CUT", "%s", message);
        if ((rc = cs_record_surplus(e, id, message, err)) != CS_OK)
            return rc;
    }
    return CS_OK;
}

static int keep_entries(struct clawsync_engine *e, struct cs_error *err)
{
    int rc = note_surplus(e, e->member.before, err);

    e->member.before = e->members.seq;
    return rc == CS_OK ? cs_self_members_save(e, err) : rc;
}

/* A refill among the entries says which log the head must be of; they are pinned before it is followed, as a member
 * signed it, whatever the hub's log is. */
static int settle_entries(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_pull_mark mark;
    int rc = CS_OK;

    cs_replica_pull_mark(e->replica, &mark);
    if (e->members.refills > 0 && mark.log_id != e->members.refill.log_id)
        rc = keep_entries(e, err);
    return rc == CS_OK ? cs_refill_follow(e, err) : rc;
}

/* All that the keystore knew of the log is here again. */
static int found_again(struct clawsync_engine *e, struct cs_error *err)
{
    if (e->members.seq < e->ks->member_seq)
        return cs_fail(err, CS_EHUB,
                       "HUB_ROLLBACK: the hub's membership log ends at entry %" PRIu32
                       ", this device knew entry %" PRIu32,
                       e->members.seq, e->ks->member_seq);
    e->members_lost = false;
    e->member.before = e->ks->member_seq;
    cs_note(e, CLAWSYNC_EVENT_WARNING, 0, "",
            "%s was lost or damaged: its %" PRIu32 " entries were fetched from the hub again", e->members_path,
            e->members.seq);
    return CS_OK;
}

static void fold_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_member_step *s = &e->member;
    struct cs_hub_head head = { 0 };

    s->before = e->members.seq;
    if ((j->rc = cs_member_fold(e, &s->taken, &s->arena, &head, true, settle_entries, &j->err)) == CS_OK)
        j->rc = check_floor(e, &head, &j->err);
    if (j->rc == CS_OK && e->members_lost)
        j->rc = found_again(e, &j->err);
    if (e->members_lost)
        cs_self_members_reset(e); /* what was taken in is not what it is to be */
    if (j->rc == CS_OK)
        j->rc = keep_entries(e, &j->err);
    if (j->rc == CS_OK && !cs_is_member(e))
        j->rc = cs_fail(&j->err, CS_EAUTH,
                        "this device is not a member of the workspace; join it with: claw-sync join CODE (made by "
                        "claw-sync invite on a device that is in)");
    if (j->rc == CS_OK)
        j->rc = cs_self_check_keys(e, &j->err);
    if (j->rc == CS_OK && s->entry.len > 0) {
        if ((j->rc = cs_record_registered(e, &j->err)) == CS_OK)
            j->rc = cs_self_pending_drop(e, &j->err);
        cs_buf_free(&s->entry);
        if (s->created)
            cs_note(e, CLAWSYNC_EVENT_WORKSPACE_CREATED, 0, "", "%s", "");
        s->created = false;
    }
}

static void fold_done(struct clawsync_engine *e, struct cs_job *j)
{
    finish(e, j->rc, &j->err);
}

/* Which device can give the hub what it lost, it does not say: strangers are not told what it has. But whatever it has
 * of a workspace begins with who made that. */
void cs_hub_lost(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;

    if (c->rc != CS_EAUTH || c->status != CS_RPC_UNAUTHENTICATED || !cs_is_member(e))
        return;
    c->rc =
        cs_fail(&c->err, CS_EHUB, "HUB_LOST: hub %.150s does not know this device, which %s", e->config.hub_endpoint,
                cs_membership_find(&e->members, &e->device)->added_seq == 1
                    ? "made the workspace: it lost all that it had"
                    : "is a member of the workspace: it lost what it had, or all since before this device joined");
}

static void on_membership(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;

    if (!c->ended)
        return;
    cs_hub_lost(c);
    if (c->rc != CS_OK) {
        finish(e, c->rc, &c->err);
        return;
    }
    e->member.taken = c->in;
    c->in = (struct cs_messages){ 0 };
    next_job(e, fold_run, fold_done);
}

static void fetch(struct clawsync_engine *e)
{
    Clawsync__V1__GetMembershipRequest req = CLAWSYNC__V1__GET_MEMBERSHIP_REQUEST__INIT;
    struct cs_error err = { 0 };
    int rc;

    req.workspace_id = e->workspace_text;
    req.device_id = e->device_text;
    req.from_seq = e->members.seq + 1;
    rc = cs_hub_call_start(e, &e->member.call, "GetMembership", &req.base, true, on_membership, &err);
    if (rc != CS_OK)
        finish(e, rc, &err);
}

/* ---- registering ---- */

static void settle_run(struct clawsync_engine *e, struct cs_job *j)
{
    static const uint8_t zero[32];
    struct cs_member_step *s = &e->member;
    ProtobufCAllocator alloc = cs_engine_pb(&s->arena);
    const struct cs_message *m = s->taken.first;
    const Clawsync__V1__RegisterDeviceResponse *r =
        m == NULL ? NULL : clawsync__v1__register_device_response__unpack(&alloc, m->len, m->data);

    if (r == NULL || r->server_public_key.len != 32) {
        j->rc = cs_engine_unreadable(&s->arena, "the hub's answer to the registration", &j->err);
    } else if (memcmp(e->ks->hub_key, zero, 32) == 0) {
        memcpy(e->ks->hub_key, r->server_public_key.data, 32);
        if (s->entry.data[4] == CS_ENTRY_GENESIS)
            cs_entry_hash(cs_buf_slice(&s->entry), e->ks->genesis);
        s->created = s->entry.data[4] == CS_ENTRY_GENESIS;
        j->rc = cs_self_save(e, &j->err);
    } else if (memcmp(e->ks->hub_key, r->server_public_key.data, 32) != 0) {
        j->rc = cs_fail(&j->err, CS_EHUB, "HUB_KEY_CHANGED: the hub has another key than the one that is pinned");
    }
    cs_messages_free(&s->taken);
}

static void settle_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else
        fetch(e);
}

static bool is_genesis(const struct clawsync_engine *e)
{
    return e->member.entry.len > 4 && e->member.entry.data[4] == CS_ENTRY_GENESIS;
}

/* The hub refused for good: the entry is dropped, so that the user can join in another way. Also where another entry
 * came first: one that was made for that place fits nowhere any more. */
static void drop_run(struct clawsync_engine *e, struct cs_job *j)
{
    bool genesis = is_genesis(e);
    struct cs_error err = { 0 };

    if (cs_self_pending_drop(e, &err) != CS_OK)
        j->err = err;
    if (!genesis && !cs_is_member(e)) {
        memset(e->ks->genesis, 0, 32);
        memset(e->ks->hub_key, 0, 32);
        cs_self_members_reset(e);
        cs_self_save(e, &err);
    }
    if (genesis && j->rc == CS_EEXIST)
        cs_fail(
            &j->err, CS_EEXIST,
            "this workspace exists; join it with: claw-sync join CODE (made by claw-sync invite on a device that is "
            "in)");
    if (j->rc == CS_EABORTED)
        cs_fail(&j->err, CS_EABORTED, "another device's entry came first; join once more with the same code or phrase");
    cs_buf_free(&e->member.entry);
}

static void on_registered(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;

    if (!c->ended)
        return;
    e->member.taken = c->in;
    c->in = (struct cs_messages){ 0 };
    if (c->rc == CS_OK) {
        next_job(e, settle_run, settle_done);
    } else if ((cs_code_is_transient(c->rc) && (c->rc != CS_EABORTED || is_genesis(e))) || c->rc == CS_ECANCELED) {
        finish(e, c->rc, &c->err);
    } else {
        e->member.job.rc = c->rc;
        e->member.job.err = c->err;
        next_job(e, drop_run, fold_done);
    }
}

bool cs_compose_register(struct cs_hub_call *c, const struct cs_session *session, uint64_t counter,
                         struct cs_slice entry, struct cs_slice offer, struct cs_buf *out)
{
    struct clawsync_engine *e = c->e;
    Clawsync__V1__RegisterDeviceRequest req = CLAWSYNC__V1__REGISTER_DEVICE_REQUEST__INIT;
    Clawsync__V1__DeviceInfo info = CLAWSYNC__V1__DEVICE_INFO__INIT;
    struct cs_register_proof p = { .counter = counter,
                                   .workspace = e->workspace,
                                   .device = e->device,
                                   .membership_entry = entry,
                                   .join_offer = offer };
    uint8_t sig[CS_SIGNATURE_LEN];
    char version[] = CS_VERSION;
    struct cs_buf pk = { 0 };
    bool good;

    cs_base64(&pk, cs_slice(e->keys->sign.pk, 32), false);
    cs_buf_put_u8(&pk, 0);
    memcpy(p.sign_pk, e->keys->sign.pk, 32);
    memcpy(p.box_pk, e->keys->box_pk, 32);
    cs_register_prove(session, &e->keys->sign, &p, sig);
    info.device_id = e->device_text;
    info.workspace_id = e->workspace_text;
    info.public_key_b64 = (char *)pk.data;
    info.registered_at = cs_now_ms(e->world);
    info.client_version = version;
    req.device = &info;
    req.signed_challenge = (ProtobufCBinaryData){ sizeof sig, sig };
    req.box_public_key = (ProtobufCBinaryData){ 32, e->keys->box_pk };
    req.membership_entry = (ProtobufCBinaryData){ entry.len, (uint8_t *)(uintptr_t)entry.data };
    req.join_offer = (ProtobufCBinaryData){ offer.len, (uint8_t *)(uintptr_t)offer.data };
    good = !pk.failed && cs_engine_pb_pack(out, &req.base);
    cs_buf_free(&pk);
    return good;
}

static bool compose_register(struct cs_hub_call *c, const struct cs_session *session, uint64_t counter,
                             struct cs_buf *out)
{
    return cs_compose_register(c, session, counter, cs_buf_slice(&c->e->member.entry), CS_SLICE_NULL, out);
}

static void send_register(struct clawsync_engine *e)
{
    struct cs_error err = { 0 };
    int rc = cs_hub_call_compose(e, &e->member.call, "RegisterDevice", compose_register, on_registered, &err);

    if (rc != CS_OK)
        finish(e, rc, &err);
}

/* The first entry of a new workspace. It is stored before it is sent, and the same bytes are sent again after a lost
 * answer. The epoch key is in it, wrapped for us. */
static int make_genesis(struct clawsync_engine *e, struct cs_buf *entry, struct cs_error *err)
{
    struct cs_epoch_keys *epoch = cs_secret_alloc(sizeof *epoch);
    char name[32];
    uint8_t key[32];
    int rc;

    if (epoch == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    snprintf(name, sizeof name, "device %.8s", e->device_text);
    cs_random(&e->rng, key, sizeof key);
    cs_epoch_keys_derive(epoch, key, &e->workspace, 1);
    cs_wipe(key, sizeof key);
    rc = cs_entry_genesis(entry, &e->rng, &e->workspace, &e->device, e->keys, name, epoch, cs_now_ms(e->world), err);
    cs_secret_free(epoch);
    return rc == CS_OK ? cs_self_pending_save(e, cs_buf_slice(entry), err) : rc;
}

static void load_run(struct clawsync_engine *e, struct cs_job *j)
{
    static const uint8_t zero[32];
    struct cs_member_step *s = &e->member;

    cs_buf_reset(&s->entry);
    if (cs_is_member(e))
        return;
    if (e->beside) {
        j->rc =
            cs_fail(&j->err, CS_EAUTH, "this device is not a member of the workspace yet; see the engine that runs");
        return;
    }
    j->rc = cs_self_pending(e, &s->entry, &j->err);
    if (j->rc == CS_ENOTFOUND && e->members.seq == 0 && memcmp(e->ks->genesis, zero, 32) == 0)
        j->rc = make_genesis(e, &s->entry, &j->err);
    else if (j->rc == CS_ENOTFOUND)
        j->rc = CS_OK; /* known to the log and not, or not any more, a member: the hub will say what it is */
}

static void load_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else if (e->member.entry.len > 0)
        send_register(e);
    else
        fetch(e);
}

void cs_step_member(struct clawsync_engine *e, cs_step_done done)
{
    e->member.done = done;
    e->member.job.rc = CS_OK;
    next_job(e, load_run, load_done);
}
