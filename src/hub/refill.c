/* Refill: what the gate cannot judge, as the hub may not know the workspace any more, or not yet the device. The proof
 * is in the request, under the key that the membership names: the hub's own, where there is one, else the one that
 * comes with the request. */
#include "hub/refill.h"

#include <inttypes.h>

#include "hub/internal.h"

enum { HEAD_LEN = 4 * 8 };

bool cs_refill_parse(struct cs_slice content, struct cs_refill_content *out)
{
    struct cs_reader r = cs_reader(content);

    if (content.len < HEAD_LEN)
        return false;
    out->log_id = cs_read_u64(&r);
    out->number = cs_read_u64(&r);
    out->new_log = cs_read_u64(&r);
    out->top_stamp = (int64_t)cs_read_u64(&r);
    out->entries = r;
    return out->top_stamp >= 0;
}

bool cs_refill_next(struct cs_refill_content *c, struct cs_slice *entry, bool *bad)
{
    *bad = false;
    if (cs_reader_left(&c->entries) == 0)
        return false;
    *entry = cs_read_bytes(&c->entries, cs_read_u32(&c->entries));
    *bad = c->entries.bad || cs_entry_seq(*entry) == 0;
    return !*bad;
}

/* ---- under the workspace's lock ---- */

static int entry_refused(struct cs_write *w, const struct cs_error *why, struct cs_error *err)
{
    if (why->code == CS_EIO || why->code == CS_EDB || why->code == CS_EBUSY || why->code == CS_ENOMEM) {
        *err = *why;
        return why->code;
    }
    cs_refuse(&w->verdict, why->code == CS_EABORTED ? CS_RPC_ABORTED : CS_RPC_INVALID_ARGUMENT, "validation", "%.200s",
              why->msg);
    return CS_OK;
}

/* One entry, which is here already, or comes next. When it was written is no matter any more: invites ran out since,
 * and where a removal cuts a chain this log may have less of it. */
static int give_back(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, struct cs_write *w,
                     struct cs_slice entry, struct cs_error *err)
{
    uint32_t seq = cs_entry_seq(entry);
    struct cs_error why = { 0 };
    size_t before, after = 0;
    bool same;
    int rc;

    if (seq <= head->member_seq) {
        if ((rc = cs_entry_is_stored(tx, &w->workspace, seq, entry, &same, err)) == CS_OK && !same)
            cs_refuse(&w->verdict, CS_RPC_ABORTED, "validation",
                      "entry %" PRIu32 " of the membership is another one on this hub", seq);
        return rc;
    }
    rc = cs_members_append(env->members, tx, &w->workspace, head, entry, 0, &before, &after, &why);
    if (rc != CS_OK)
        return entry_refused(w, &why, err);
    if (env->quota.devices != 0 && after > env->quota.devices) {
        cs_refuse(&w->verdict, CS_RPC_RESOURCE_EXHAUSTED, "limit",
                  "the workspace has %zu devices, more than it may have on this hub; ask who runs it for more "
                  "(CLAW_SYNC_QUOTA_DEVICES)",
                  after);
        return CS_OK;
    }
    return tx->ops->put_entry(tx, &w->workspace, seq, head->entry_hash, entry, err);
}

static int caller_is_in(const struct cs_commit_env *env, cs_store_tx *tx, const struct cs_store_head *head,
                        struct cs_write *w, uint64_t *refills, struct cs_error *err)
{
    struct cs_member_info member;
    int rc = cs_members_find(env->members, tx, &w->workspace, head, &w->device, &member, err);

    if (rc != CS_OK)
        return rc;
    *refills = member.refills;
    if (member.kind != CS_PRINCIPAL_DEVICE || !member.active || memcmp(member.sign_pk, w->sign_pk, 32) != 0)
        cs_refuse_stranger(&w->verdict);
    return CS_OK;
}

static bool is_refill(void *arg, uint32_t seq, struct cs_slice entry)
{
    bool *found = arg;
    struct cs_floor to;

    (void)seq;
    *found = cs_entry_refilled(entry, &to);
    return !*found;
}

/* Whoever looked before another's refill was over does not end the log that this one made, which all follow by now: the
 * log may be at the same number still. `last` is the newest entry that the device knows. */
static int refilled_since(cs_store_tx *tx, const struct cs_store_head *head, struct cs_write *w, uint32_t last,
                          struct cs_error *err)
{
    bool found = false;
    int rc = CS_OK;

    if (last < head->member_seq)
        rc = tx->ops->entries(tx, &w->workspace, last + 1, head->member_seq, is_refill, &found, err);
    if (rc == CS_OK && found)
        cs_refuse(&w->verdict, CS_RPC_ABORTED, "validation",
                  "the hub was refilled since the device looked, which knows membership entries up to %" PRIu32, last);
    return rc;
}

static int begin_log(cs_store_tx *tx, bool exists, struct cs_store_head *head, struct cs_write *w,
                     const struct cs_refill_content *c, uint32_t last, uint64_t refills, struct cs_error *err)
{
    int rc;

    if (exists && head->log_id == c->new_log)
        return CS_OK; /* the answer was lost */
    if (exists && ((rc = refilled_since(tx, head, w, last, err)) != CS_OK || w->verdict.status != CS_RPC_OK))
        return rc;
    if (exists ? head->log_id != c->log_id || head->number != c->number : c->log_id != 0) {
        cs_refuse(&w->verdict, CS_RPC_ABORTED, "validation",
                  "the hub's log is not at number %" PRIu64 " any more, as when the device looked", c->number);
        return CS_OK;
    }
    if (exists && (rc = tx->ops->drop_log(tx, &w->workspace, err)) != CS_OK)
        return rc;
    head->log_id = c->new_log;
    head->refilled = refills + 1;
    head->number = head->bytes = head->pruned = head->prune_to = 0;
    head->prune_ms = 0;
    cs_log_start(&w->workspace, head->log_id, head->refilled, head->log_hash);
    return CS_OK;
}

int cs_refill_write(const struct cs_commit_env *env, cs_store_tx *tx, bool exists, struct cs_store_head *head,
                    struct cs_write *w, struct cs_error *err)
{
    struct cs_store_head now = *head;
    struct cs_refill_content c;
    struct cs_slice entry;
    uint64_t refills = 0;
    uint32_t last = 0;
    bool bad;
    int rc = CS_OK;

    if (!cs_refill_parse(w->entry, &c))
        return entry_refused(w, &(struct cs_error){ CS_ECORRUPT, "this is not a refill" }, err);
    /* Whoever is in only by what it brings along may say so of a workspace that the hub has nothing else of. */
    if (exists && (rc = caller_is_in(env, tx, &now, w, &refills, err)) != CS_OK)
        return rc;
    while (rc == CS_OK && w->verdict.status == CS_RPC_OK && cs_refill_next(&c, &entry, &bad)) {
        last = cs_entry_seq(entry);
        rc = give_back(env, tx, &now, w, entry, err);
    }
    if (rc == CS_OK && w->verdict.status == CS_RPC_OK && bad)
        rc = entry_refused(w, &(struct cs_error){ CS_ECORRUPT, "there is no membership entry where one should be" },
                           err);
    if (rc == CS_OK && w->verdict.status == CS_RPC_OK)
        rc = caller_is_in(env, tx, &now, w, &refills, err);
    if (rc == CS_OK && w->verdict.status == CS_RPC_OK && !exists && c.new_log == 0) {
        now.log_id = cs_random_u64_nonzero(&env->rng);
        now.refilled = refills;
        cs_log_start(&w->workspace, now.log_id, now.refilled, now.log_hash);
    }
    if (rc == CS_OK && w->verdict.status == CS_RPC_OK && c.new_log != 0)
        rc = begin_log(tx, exists, &now, w, &c, last, refills, err);
    if (rc != CS_OK || w->verdict.status != CS_RPC_OK)
        return rc;
    if (c.top_stamp > now.top_stamp)
        now.top_stamp = c.top_stamp;
    *head = now;
    return CS_OK;
}

/* ---- the call ---- */

struct refill {
    struct cs_write write;
    struct cs_req *req;
    struct cs_slice content;
};

/* The key of the caller in the membership that comes with the request. */
static bool key_in_request(struct cs_req *r, const struct refill *f, uint8_t sign_pk[32])
{
    struct cs_membership m = { .workspace = r->who.workspace };
    const struct cs_member *member = NULL;
    struct cs_refill_content c;
    struct cs_slice entry;
    struct cs_error err;
    bool bad;

    if (cs_refill_parse(f->content, &c))
        while (cs_refill_next(&c, &entry, &bad) && cs_membership_apply(&m, entry, 0, &err) == CS_OK)
            ;
    if ((member = cs_membership_find(&m, &r->who.device)) != NULL)
        memcpy(sign_pk, member->sign_pk, 32);
    cs_membership_free(&m);
    return member != NULL;
}

static bool find_key(struct cs_req *r, const struct refill *f, uint8_t sign_pk[32])
{
    struct cs_member_info member = { 0 };
    struct cs_error err = { 0 };
    struct cs_store_head head;
    cs_store_tx *tx = NULL;
    int rc = cs_store_begin(r->env->store, CS_STORE_READ, &r->who.workspace, 1, &tx, &err);

    if (rc == CS_OK)
        rc = tx->ops->head(tx, &r->who.workspace, &head, &err);
    if (rc == CS_OK)
        rc = cs_members_find(r->env->members, tx, &r->who.workspace, &head, &r->who.device, &member, &err);
    cs_store_rollback(tx);
    if (rc == CS_ENOTFOUND)
        return key_in_request(r, f, sign_pk);
    if (rc != CS_OK)
        cs_refuse_storage(&r->verdict, &err);
    memcpy(sign_pk, member.sign_pk, 32);
    return rc == CS_OK && member.kind == CS_PRINCIPAL_DEVICE;
}

static void refill_work(struct cs_req *r)
{
    struct refill *f = r->state;
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    const Clawsync__V1__RefillRequest *req = clawsync__v1__refill_request__unpack(&alloc, r->in.len, r->in.data);
    struct cs_refill_proof p = { .counter = r->who.counter, .workspace = r->who.workspace, .device = r->who.device };
    bool known;

    if (req == NULL) {
        cs_unparsable(&r->verdict, &r->arena);
        return;
    }
    if (!cs_parse_caller(r, req->workspace_id, req->device_id))
        return;
    f->content = p.content = cs_slice(req->content.data, req->content.len);
    memcpy(f->write.sign_pk, r->env->key->pk, 32); /* equal work for whoever is unknown */
    known = find_key(r, f, f->write.sign_pk);
    if (r->verdict.status != CS_RPC_OK)
        return;
    if (req->signed_challenge.len != CS_SIGNATURE_LEN ||
        !cs_refill_verify(r->who.transcript, &p, f->write.sign_pk, req->signed_challenge.data) || !known)
        cs_refuse_stranger(&r->verdict);
}

/* Whoever the entries remove is out from now on, and how far devices had read is of a log that is gone. */
static void refilled(struct cs_hub *h, const struct refill *f)
{
    struct cs_refill_content c;
    struct cs_slice entry;
    struct cs_cut cut;
    bool bad;

    if (!cs_refill_parse(f->content, &c))
        return; /* it was parsed before it was written */
    while (cs_refill_next(&c, &entry, &bad))
        for (size_t i = 0; cs_entry_cut(entry, i, &cut); i++)
            cs_gate_end(h, &f->write.workspace, &cut.id);
    if (c.new_log != 0)
        cs_presence_forget(h, &f->write.workspace);
}

static void refill_written(struct cs_write *w)
{
    struct refill *f = (struct refill *)w;
    struct cs_req *r = f->req;
    Clawsync__V1__RefillResponse answer = CLAWSYNC__V1__REFILL_RESPONSE__INIT;
    Clawsync__V1__HubHead head;

    if (w->verdict.status == CS_RPC_OK)
        refilled(r->hub, f);
    if (w->verdict.status != CS_RPC_OK) {
        cs_req_finish_refused(r, w);
    } else if (r->call != NULL) {
        cs_head_message(&w->head, &head);
        answer.head = &head;
        if (!cs_pb_pack(&r->out, &answer.base, &r->verdict) || cs_req_send(r))
            cs_req_finish(r);
    }
    cs_req_release(r);
}

static void refill_done(struct cs_req *r)
{
    struct refill *f = r->state;

    if (!cs_gate_take(r->call, &r->verdict)) {
        cs_req_finish(r);
        return;
    }
    f->req = r;
    f->write.kind = CS_WRITE_REFILL;
    f->write.workspace = r->who.workspace;
    f->write.device = r->who.device;
    f->write.entry = f->content;
    f->write.bytes = f->content.len;
    f->write.done = refill_written;
    cs_req_hold(r);
    cs_writer_submit(r->hub, &f->write);
}

static void refill_fini(struct cs_req *r)
{
    struct refill *f = r->state;

    cs_buf_free(&f->write.stored);
}

static const struct cs_req_ops refill_ops = { .name = "Refill",
                                              .work = refill_work,
                                              .done = refill_done,
                                              .fini = refill_fini,
                                              .state_bytes = sizeof(struct refill) };

void cs_refill_start(cs_rpc_call *c, void *service)
{
    cs_req_start(c, service, &refill_ops);
}
