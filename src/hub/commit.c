#include "hub/commit.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "hub/offers.h"
#include "hub/reference.h"
#include "hub/refill.h"
#include "hub/snapshot.h"

/* A workspace within the group: its head as this transaction has moved it so far. */
struct place {
    struct cs_uuid workspace;
    struct cs_store_head head;
    bool exists;
    bool dirty;          /* head is not in the store yet */
    struct cs_error err; /* code != 0: its head could not be read */
};

struct group {
    const struct cs_commit_env *env;
    cs_store_tx *tx;
    int64_t now_ms;
};

void cs_head_sign(const struct cs_commit_env *env, const struct cs_uuid *ws, const struct cs_store_head *head,
                  struct cs_signed_head *out)
{
    struct cs_hub_head h = { .log_id = head->log_id,
                             .refilled = head->refilled,
                             .number = head->number,
                             .member_seq = head->member_seq,
                             .time_ms = cs_now_ms(env->world) };

    memcpy(h.log_hash, head->log_hash, sizeof h.log_hash);
    memcpy(h.entry_hash, head->entry_hash, sizeof h.entry_hash);
    out->head = *head;
    cs_hub_head_encode(&h, out->bytes);
    cs_hub_head_sign(env->key, ws, out->bytes, out->signature);
}

void cs_refuse_storage(struct cs_verdict *v, const struct cs_error *err)
{
    bool again = err->code == CS_EBUSY || err->code == CS_EIO || err->code == CS_ENOMEM;

    cs_log(CS_LOG_ERROR, "store error=%s cause=\"%s\"", cs_code_name(err->code), err->msg);
    cs_refuse(v, again ? CS_RPC_UNAVAILABLE : CS_RPC_INTERNAL, "storage",
              "the hub's storage refused the work; nothing of it was done%s", again ? "; try again" : "");
}

/* ---- batches ---- */

static bool keep_stored(void *arg, const struct cs_store_batch *b)
{
    struct cs_write *w = arg;

    cs_buf_reset(&w->stored);
    cs_buf_put_slice(&w->stored, b->header);
    cs_buf_put_slice(&w->stored, b->signature);
    cs_buf_put_slice(&w->stored, b->payload_hashes);
    w->log_number = b->number;
    return false;
}

struct hash_of {
    uint8_t hash[32];
};
static bool keep_hash(void *arg, const struct cs_store_batch *b)
{
    memcpy(((struct hash_of *)arg)->hash, b->hash, 32);
    return false;
}

/* A device's last batch in this log: before its first one, what its chain begins with. */
static int device_last(const struct group *g, const struct place *p, const struct cs_uuid *device,
                       struct cs_store_device *out, struct cs_error *err)
{
    uint64_t base = CS_CHAIN_BASE(p->head.refilled);
    int rc = g->tx->ops->device(g->tx, &p->workspace, device, out, err);

    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    if (rc == CS_ENOTFOUND)
        *out = (struct cs_store_device){ 0 };
    if (base == 0 || out->number >= base)
        return CS_OK;
    *out = (struct cs_store_device){ .number = base, .seen_ms = out->seen_ms, .pulled = out->pulled };
    cs_chain_start(&p->workspace, p->head.log_id, out->hash);
    return CS_OK;
}

/* What the batch meets: the device's place, and what its header cites. */
static int state_load(const struct group *g, const struct place *p, const struct cs_batch *b, struct cs_log_state *s,
                      uint8_t scratch[3][32], struct cs_error *err)
{
    const struct cs_store_ops *ops = g->tx->ops;
    const struct cs_uuid *ws = &p->workspace;
    struct cs_member_info member;
    struct hash_of stored;
    int rc;

    *s = (struct cs_log_state){ .head = p->head, .now_ms = g->now_ms };
    if ((rc = device_last(g, p, &b->h.device, &s->last, err)) != CS_OK ||
        (rc = cs_members_find(g->env->members, g->tx, ws, &p->head, &b->h.device, &member, err)) != CS_OK)
        return rc;
    s->active = member.kind == CS_PRINCIPAL_DEVICE && member.active;
    s->epoch_seq = member.epoch_seq;
    if (cs_rules_wants_stored(&b->h, s)) {
        rc = ops->device_batch(g->tx, ws, &b->h.device, b->h.number, keep_hash, &stored, err);
        if (rc == CS_ENOTFOUND && p->head.pruned > 0)
            return CS_OK;
        if (rc != CS_OK)
            return rc == CS_ENOTFOUND ? cs_fail(err, CS_ECORRUPT, "a device's batch is missing from the log") : rc;
        s->stored_hash = memcpy(scratch[0], stored.hash, 32);
        return CS_OK;
    }
    if (!cs_rules_wants_seen(&b->h, s))
        return CS_OK;
    if (b->h.seen_number == 0)
        cs_log_start(ws, p->head.log_id, p->head.refilled, scratch[1]);
    else if ((rc = ops->log_hash(g->tx, ws, b->h.seen_number, scratch[1], err)) != CS_OK)
        return rc;
    if ((rc = ops->entry_hash(g->tx, ws, b->h.member_seq, scratch[2], err)) != CS_OK)
        return rc;
    s->seen_log_hash = scratch[1];
    s->entry_hash = scratch[2];
    return CS_OK;
}

static int batch_put(const struct group *g, struct place *p, struct cs_write *w, const struct cs_store_device *last,
                     struct cs_error *err)
{
    const struct cs_batch *b = w->batch;
    struct cs_store_head head = p->head;
    struct cs_store_device d = { .number = b->h.number,
                                 .member_seq = b->h.member_seq,
                                 .seen_ms = g->now_ms,
                                 .pulled = b->h.seen_number > last->pulled ? b->h.seen_number : last->pulled };
    struct cs_store_batch row = { .number = head.number + 1,
                                  .device = b->h.device,
                                  .device_number = b->h.number,
                                  .header = b->header,
                                  .signature = b->signature,
                                  .payload_hashes = b->payload_hashes,
                                  .entity_type = b->entity_type };
    int rc;

    cs_log_next(head.log_hash, row.number, b->hash, row.log_hash);
    memcpy(row.hash, b->hash, 32);
    memcpy(d.hash, b->hash, 32);
    head.number = row.number;
    head.bytes += b->bytes;
    memcpy(head.log_hash, row.log_hash, 32);
    if (b->h.top_stamp > head.top_stamp)
        head.top_stamp = b->h.top_stamp;
    if ((rc = g->tx->ops->put_batch(g->tx, &p->workspace, &row, b->chunks, b->h.chunk_count, err)) != CS_OK ||
        (rc = g->tx->ops->put_device(g->tx, &p->workspace, &b->h.device, &d, err)) != CS_OK)
        return rc;
    p->head = head;
    p->dirty = true;
    w->log_number = row.number;
    w->changed = true;
    return CS_OK;
}

static int unknown(struct cs_write *w)
{
    cs_refuse(&w->verdict, CS_RPC_UNAUTHENTICATED, "auth", "unknown device or wrong key");
    return CS_OK;
}

/* CS_OK: w->verdict tells. Anything else: the store failed. */
static int batch_write(const struct group *g, struct place *p, struct cs_write *w, struct cs_error *err)
{
    const struct cs_quota *quota = &g->env->quota;
    const struct cs_batch *b = w->batch;
    uint8_t scratch[3][32];
    struct cs_log_state s;
    int rc;

    if (!p->exists)
        return unknown(w);
    if ((rc = state_load(g, p, b, &s, scratch, err)) != CS_OK)
        return rc;
    switch (cs_rules_judge(b, &s, &w->verdict)) {
    case CS_ACCEPT:
        if (quota->bytes != 0 && (p->head.bytes > quota->bytes || b->bytes > quota->bytes - p->head.bytes)) {
            cs_refuse(&w->verdict, CS_RPC_RESOURCE_EXHAUSTED, "limit",
                      "the workspace has used %" PRIu64 " of its %" PRIu64
                      " bytes on this hub; ask who runs it for more (CLAW_SYNC_QUOTA_BYTES)",
                      p->head.bytes, quota->bytes);
            return CS_OK;
        }
        return batch_put(g, p, w, &s.last, err);
    case CS_ACCEPT_AGAIN:
        rc = g->tx->ops->device_batch(g->tx, &w->workspace, &b->h.device, b->h.number, keep_stored, w, err);
        cs_buf_free(&w->stored); /* only its log number is wanted */
        return rc;
    case CS_REFUSE_STORED:
        return g->tx->ops->device_batch(g->tx, &w->workspace, &b->h.device, b->h.number, keep_stored, w, err);
    case CS_REFUSE_LAST:
        if (s.last.number == CS_CHAIN_BASE(p->head.refilled))
            return CS_OK;
        rc = g->tx->ops->device_batch(g->tx, &w->workspace, &b->h.device, s.last.number, keep_stored, w, err);
        return rc == CS_ENOTFOUND && p->head.pruned > 0 ? CS_OK : rc;
    case CS_REFUSE:
        break;
    }
    return CS_OK;
}

/* ---- membership entries ---- */

static void entry_refuse(struct cs_verdict *v, const struct cs_error *err)
{
    static const struct {
        int code, status;
        const char *kind;
    } map[] = {
        { CS_EAUTH, CS_RPC_PERMISSION_DENIED, "auth" },
        { CS_EABORTED, CS_RPC_ABORTED, "validation" },
        { CS_EVERSION, CS_RPC_FAILED_PRECONDITION, "validation" },
        { CS_ELIMIT, CS_RPC_FAILED_PRECONDITION, "limit" },
        { CS_ENOMEM, CS_RPC_UNAVAILABLE, "storage" },
    };

    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++)
        if (map[i].code == err->code) {
            cs_refuse(v, map[i].status, map[i].kind, "%.200s", err->msg);
            return;
        }
    cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "validation", "%.200s", err->msg);
}

struct same_entry {
    struct cs_slice entry;
    bool same;
};
static bool compare_entry(void *arg, uint32_t seq, struct cs_slice entry)
{
    struct same_entry *e = arg;

    (void)seq;
    e->same = cs_slice_eq(entry, e->entry);
    return false;
}

int cs_entry_is_stored(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t seq, struct cs_slice entry, bool *out,
                       struct cs_error *err)
{
    struct same_entry e = { entry, false };
    int rc = tx->ops->entries(tx, ws, seq, seq, compare_entry, &e, err);

    *out = e.same;
    return rc;
}

/* An entry at or below the head: the very same one again is success. */
static int entry_again(const struct group *g, const struct place *p, struct cs_write *w, uint32_t seq,
                       struct cs_error *err)
{
    bool same;
    int rc = cs_entry_is_stored(g->tx, &p->workspace, seq, w->entry, &same, err);

    if (rc != CS_OK || same)
        return rc;
    if (seq == 1 && w->may_create)
        cs_refuse(&w->verdict, CS_RPC_ALREADY_EXISTS, "validation", "workspace exists");
    else
        cs_refuse(&w->verdict, CS_RPC_ABORTED, "validation", "entry %" PRIu32 " is taken; the newest is %" PRIu32, seq,
                  p->head.member_seq);
    return CS_OK;
}

static int entry_put(const struct group *g, struct place *p, struct cs_write *w, struct cs_store_head *head,
                     struct cs_error *err)
{
    int rc = g->tx->ops->put_entry(g->tx, &p->workspace, head->member_seq, head->entry_hash, w->entry, err);

    if (rc != CS_OK)
        return rc;
    p->head = *head;
    p->exists = true;
    p->dirty = true;
    w->changed = true;
    return CS_OK;
}

/* A removal says where each chain ends: where it ends here, or the device was faster than its remover. */
static int cuts_check(const struct group *g, const struct place *p, const struct cs_store_head *behind,
                      struct cs_write *w, struct cs_error *err)
{
    struct cs_member_info member;
    struct cs_cut cut;

    for (size_t i = 0; cs_entry_cut(w->entry, i, &cut); i++) {
        struct cs_store_device last = { 0 };
        char id[CS_UUID_TEXT], hash[65];
        int rc = cs_members_find(g->env->members, g->tx, &p->workspace, behind, &cut.id, &member, err);

        if (rc == CS_OK && member.kind == CS_PRINCIPAL_DEVICE)
            rc = device_last(g, p, &cut.id, &last, err);
        if (rc != CS_OK)
            return rc;
        if (last.number == cut.number && memcmp(last.hash, cut.hash, sizeof cut.hash) == 0)
            continue;
        w->hold = cut.id;
        cs_uuid_text(id, &cut.id);
        cs_hex(hash, last.hash, sizeof last.hash);
        cs_refuse(&w->verdict, CS_RPC_ABORTED, "validation",
                  "the last batch of %s is number %" PRIu64 ", %s; pull, then remove it again", id, last.number, hash);
        return CS_OK;
    }
    return CS_OK;
}

/* A refill names this log, and what is in it: not one that another refill has ended meanwhile. */
static int refill_check(const struct group *g, const struct place *p, struct cs_write *w, struct cs_error *err)
{
    struct cs_floor to;
    uint8_t hash[32];
    int rc = CS_OK;

    if (!cs_entry_refilled(w->entry, &to))
        return CS_OK;
    if (to.log_id == p->head.log_id && to.number == 0)
        cs_log_start(&p->workspace, p->head.log_id, p->head.refilled, hash);
    else if (to.log_id == p->head.log_id && to.number <= p->head.number)
        rc = g->tx->ops->log_hash(g->tx, &p->workspace, to.number, hash, err);
    else
        memset(hash, 0, sizeof hash);
    if (rc == CS_OK && (to.log_id != p->head.log_id || memcmp(hash, to.log_hash, sizeof hash) != 0))
        cs_refuse(&w->verdict, CS_RPC_ABORTED, "validation", "the hub's log is not the one that was refilled");
    return rc;
}

static int entry_write(const struct group *g, struct place *p, struct cs_write *w, struct cs_error *err)
{
    uint32_t seq = cs_entry_seq(w->entry);
    struct cs_store_head head = p->head;
    struct cs_error why = { 0 };
    size_t before = 0, after = 0, most = g->env->quota.devices;
    int rc;

    if (!p->exists) {
        if (!w->may_create || seq != 1)
            return unknown(w);
        head = (struct cs_store_head){ .log_id = cs_random_u64_nonzero(&g->env->rng) };
        cs_log_start(&p->workspace, head.log_id, head.refilled, head.log_hash);
    } else if (seq <= head.member_seq) {
        return entry_again(g, p, w, seq, err);
    }
    rc = cs_members_append(g->env->members, g->tx, &p->workspace, &head, w->entry, g->now_ms, &before, &after, &why);
    /* An entry that makes them no more passes: the way back under the quota stays open. */
    if (rc == CS_OK && most != 0 && after > most && after > before) {
        cs_refuse(&w->verdict, CS_RPC_RESOURCE_EXHAUSTED, "limit",
                  "the workspace has %zu devices, as many as it may have on this hub; remove one first (claw-sync "
                  "devices revoke), or ask who runs the hub for more (CLAW_SYNC_QUOTA_DEVICES)",
                  before);
        return CS_OK;
    }
    if (rc == CS_OK) {
        if ((rc = cuts_check(g, p, &head, w, err)) == CS_OK && w->verdict.status == CS_RPC_OK)
            rc = refill_check(g, p, w, err);
        return rc != CS_OK || w->verdict.status != CS_RPC_OK ? rc : entry_put(g, p, w, &head, err);
    }
    if (rc == CS_EIO || rc == CS_EDB || rc == CS_EBUSY) { /* the store's, not the entry's fault */
        *err = why;
        return rc;
    }
    entry_refuse(&w->verdict, &why);
    return CS_OK;
}

static int seen_write(const struct group *g, struct place *p, struct cs_write *w, struct cs_error *err)
{
    struct cs_store_device d = { 0 };
    int rc;

    if (!p->exists)
        return CS_OK;
    rc = g->tx->ops->device(g->tx, &p->workspace, &w->device, &d, err);
    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    if (w->log_id == p->head.log_id && w->pulled > d.pulled && w->pulled <= p->head.number)
        d.pulled = w->pulled;
    else if (d.seen_ms >= w->seen_ms)
        return CS_OK;
    if (w->seen_ms > d.seen_ms)
        d.seen_ms = w->seen_ms;
    w->prune = p->head.prune_to != 0;
    return g->tx->ops->put_device(g->tx, &p->workspace, &w->device, &d, err);
}

static int refill_write(const struct group *g, struct place *p, struct cs_write *w, struct cs_error *err)
{
    struct cs_store_head head = p->exists ? p->head : (struct cs_store_head){ 0 };
    int rc = cs_refill_write(g->env, g->tx, p->exists, &head, w, err);

    if (rc != CS_OK || w->verdict.status != CS_RPC_OK)
        return rc;
    p->head = head;
    p->exists = p->dirty = w->changed = true;
    return CS_OK;
}

static int pair_write(const struct group *g, struct place *p, struct cs_write *w, struct cs_error *err)
{
    return cs_offers_write(g->env, g->tx, p->exists ? &p->head : NULL, w, g->now_ms, err);
}

static int state_write(const struct group *g, struct place *p, struct cs_write *w, struct cs_error *err)
{
    if (!p->exists)
        return unknown(w);
    return cs_reference_write(g->env, g->tx, &p->head, &p->dirty, w, g->now_ms, err);
}

static int snapshot_write(const struct group *g, struct place *p, struct cs_write *w, struct cs_error *err)
{
    if (!p->exists)
        return unknown(w);
    return cs_snapshot_write(g->env, g->tx, &p->head, &p->dirty, w, g->now_ms, err);
}

static int prune_write(const struct group *g, struct place *p, struct cs_write *w, struct cs_error *err)
{
    w->prune = false;
    return p->exists ? cs_snapshot_prune(g->env, g->tx, &p->head, &p->dirty, w, g->now_ms, err) : CS_OK;
}

/* ---- the group ---- */

static int by_workspace(const void *a, const void *b)
{
    const struct cs_write *x = *(struct cs_write *const *)a, *y = *(struct cs_write *const *)b;
    int c = cs_uuid_cmp(&x->workspace, &y->workspace);

    return c != 0 ? c : (x->order > y->order) - (x->order < y->order);
}

/* Anything but CS_OK: part of it may be in the transaction, which is lost. */
static int write_one(const struct group *g, struct place *p, struct cs_write *w, struct cs_error *lost)
{
    static int (*const by_kind[])(const struct group *, struct place *, struct cs_write *, struct cs_error *) = {
        [CS_WRITE_BATCH] = batch_write, [CS_WRITE_ENTRY] = entry_write, [CS_WRITE_REFILL] = refill_write,
        [CS_WRITE_PAIR] = pair_write,   [CS_WRITE_STATE] = state_write, [CS_WRITE_SNAPSHOT] = snapshot_write,
        [CS_WRITE_SEEN] = seen_write,   [CS_WRITE_PRUNE] = prune_write
    };
    struct place before = *p;
    struct cs_error err = p->err;
    bool begun = false;
    int rc = err.code;

    if (rc == CS_OK)
        begun = (rc = g->tx->ops->save(g->tx, &err)) == CS_OK;
    if (begun)
        rc = by_kind[w->kind](g, p, w, &err);
    if (begun && rc == CS_OK && (w->verdict.status == CS_RPC_OK || w->kind != CS_WRITE_REFILL))
        return g->tx->ops->keep(g->tx, lost);
    /* of a refill that is refused some entries may be in */
    if (begun && g->tx->ops->undo(g->tx, lost) != CS_OK)
        return lost->code;
    if (rc == CS_OK)
        return CS_OK;
    *p = before;
    w->changed = false;
    cs_buf_free(&w->stored);
    cs_refuse_storage(&w->verdict, &err);
    return CS_OK;
}

static void place_load(const struct group *g, struct place *p)
{
    int rc = g->tx->ops->head(g->tx, &p->workspace, &p->head, &p->err);

    p->exists = rc == CS_OK;
    if (rc == CS_ENOTFOUND)
        p->err = (struct cs_error){ 0 };
}

/* Tells the store what state_load is going to ask for. */
static int group_foresee(const struct group *g, struct cs_write **w, size_t n, struct cs_error *err)
{
    struct cs_store_need *needs = malloc(3 * n * sizeof *needs);
    size_t at = 0;
    int rc;

    if (needs == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const struct cs_batch_header *h;

        if (w[i]->kind != CS_WRITE_BATCH)
            continue;
        h = &w[i]->batch->h;
        needs[at++] = (struct cs_store_need){ CS_NEED_DEVICE, w[i]->workspace, h->device, 0 };
        needs[at++] = (struct cs_store_need){ CS_NEED_ENTRY_HASH, w[i]->workspace, { { 0 } }, h->member_seq };
        if (h->seen_number > 0)
            needs[at++] = (struct cs_store_need){ CS_NEED_LOG_HASH, w[i]->workspace, { { 0 } }, h->seen_number };
    }
    rc = cs_store_foresee(g->tx, needs, at, err);
    free(needs);
    return rc;
}

/* Everything of the group that was not refused on its own fails with err. */
static void fail_all(struct cs_write **w, size_t n, const struct cs_error *err)
{
    struct cs_verdict v;

    cs_refuse_storage(&v, err);
    for (size_t i = 0; i < n; i++) {
        w[i]->changed = false;
        w[i]->unsure = true;
        w[i]->has_head = false;
        if (w[i]->verdict.status == CS_RPC_OK)
            w[i]->verdict = v;
    }
}

/* One head row and one signature per workspace serve all its writes. */
static int places_finish(const struct group *g, struct place *places, size_t n, struct cs_error *err)
{
    int rc = CS_OK;

    for (size_t i = 0; i < n && rc == CS_OK; i++)
        if (places[i].dirty)
            rc = g->tx->ops->put_head(g->tx, &places[i].workspace, &places[i].head, err);
    return rc;
}

static void heads_give(const struct cs_commit_env *env, const struct place *places, struct cs_write **w, size_t n)
{
    struct cs_signed_head head;
    const struct place *p = places;

    for (size_t i = 0; i < n; i++) {
        if (i > 0 && cs_uuid_cmp(&p->workspace, &w[i]->workspace) != 0)
            p++;
        w[i]->has_head = p->exists;
        if (!p->exists)
            continue;
        if (i == 0 || cs_uuid_cmp(&w[i - 1]->workspace, &w[i]->workspace) != 0)
            cs_head_sign(env, &p->workspace, &p->head, &head);
        w[i]->head = head;
    }
}

static int group_run(struct group *g, struct place *places, struct cs_uuid *ids, struct cs_write **w, size_t n,
                     struct cs_error *err)
{
    size_t nplaces = 0;
    int rc;

    for (size_t i = 0; i < n; i++)
        if (nplaces == 0 || cs_uuid_cmp(&ids[nplaces - 1], &w[i]->workspace) != 0)
            ids[nplaces++] = w[i]->workspace;
    if ((rc = cs_store_begin(g->env->store, CS_STORE_WRITE, ids, nplaces, &g->tx, err)) != CS_OK)
        return rc;
    if ((rc = group_foresee(g, w, n, err)) != CS_OK) {
        cs_store_rollback(g->tx);
        return rc;
    }
    for (size_t i = 0; i < nplaces; i++) {
        places[i] = (struct place){ .workspace = ids[i] };
        place_load(g, &places[i]);
    }
    for (size_t i = 0, p = 0; i < n; i++) {
        if (cs_uuid_cmp(&places[p].workspace, &w[i]->workspace) != 0)
            p++;
        if ((rc = write_one(g, &places[p], w[i], err)) != CS_OK)
            break;
    }
    if (rc != CS_OK || (rc = places_finish(g, places, nplaces, err)) != CS_OK) {
        cs_store_rollback(g->tx);
        return rc;
    }
    return cs_store_commit(g->tx, err);
}

/* As if the writes had just arrived. */
static void writes_reset(struct cs_write **w, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        w[i]->verdict = (struct cs_verdict){ 0 };
        w[i]->changed = false;
        w[i]->log_number = 0;
        w[i]->hold = (struct cs_uuid){ 0 };
        w[i]->has_head = false;
        w[i]->prune = false;
        cs_buf_free(&w[i]->stored);
    }
}

static void commit_once(const struct cs_commit_env *env, struct cs_write **w, size_t n, struct cs_error *err)
{
    struct group g = { .env = env, .now_ms = cs_now_ms(env->world) };
    struct place *places = calloc(n, sizeof *places);
    struct cs_uuid *ids = calloc(n, sizeof *ids);

    if (places == NULL || ids == NULL) {
        cs_fail(err, CS_ENOMEM, "out of memory");
        fail_all(w, n, err);
    } else if (group_run(&g, places, ids, w, n, err) == CS_OK) {
        heads_give(env, places, w, n);
    } else {
        fail_all(w, n, err);
    }
    free(places);
    free(ids);
}

void cs_commit_group(const struct cs_commit_env *env, struct cs_write **w, size_t n)
{
    struct cs_error err = { 0 };

    if (n == 0)
        return;
    for (size_t i = 0; i < n; i++)
        w[i]->order = i;
    qsort(w, n, sizeof(struct cs_write *), by_workspace);
    commit_once(env, w, n, &err);
    /* The transaction was lost as a whole, by one of them perhaps: alone, it takes no other down. Should the commit
     * have reached the disk after all, each of them is found to be there already. */
    for (size_t i = 0; err.code != CS_OK && n > 1 && i < n; i++) {
        struct cs_error alone = { 0 };

        writes_reset(&w[i], 1);
        commit_once(env, &w[i], 1, &alone);
    }
}
