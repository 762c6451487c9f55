#include "hub/snapshot.h"

#include <inttypes.h>

#include "crypto/snapshot.h"

enum {
    STEP_BATCHES = 256, /* that one write takes out of a log */
    STEP_PARTS = 16,    /* that one write takes out of a snapshot */
    DEVICES_MAX = 256
};

/* ---- what there is ---- */

struct reading {
    struct cs_snapshots *out;
    struct cs_arena *a;
    bool failed;
};
static bool keep_snapshot(void *arg, const struct cs_store_snapshot *s)
{
    struct reading *r = arg;
    struct cs_store_snapshot *mine = &r->out->at[s->slot];

    *mine = *s;
    mine->descriptor = cs_arena_copy(r->a, s->descriptor);
    mine->attestation = cs_arena_copy(r->a, s->attestation);
    r->failed = r->a->failed;
    return !r->failed;
}

int cs_snapshots_read(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_arena *a, struct cs_snapshots *out,
                      struct cs_error *err)
{
    struct reading r = { out, a, false };
    int rc;

    *out = (struct cs_snapshots){ .served = -1 };
    if ((rc = tx->ops->snapshots(tx, ws, keep_snapshot, &r, err)) != CS_OK)
        return rc;
    if (r.failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    for (int i = 0; i < CS_SNAPSHOT_SLOTS; i++) {
        out->at[i].slot = (unsigned)i;
        if (out->at[i].state == CS_SNAPSHOT_SERVED &&
            (out->served < 0 || out->at[i].number > out->at[out->served].number))
            out->served = i;
    }
    out->other = out->served == 0 || (out->served < 0 && out->at[1].state != CS_SNAPSHOT_NONE) ? 1 : 0;
    return CS_OK;
}

static bool same_place(const struct cs_store_snapshot *s, const struct cs_snapshot_write *w)
{
    return s->log_id == w->log_id && s->number == w->number;
}

static bool is_attested(const struct cs_store_snapshot *s)
{
    return !cs_uuid_is_zero(&s->attester);
}

static bool is_fresh(const struct cs_store_snapshot *s, int64_t now_ms)
{
    return now_ms - s->changed_ms < CS_SNAPSHOT_GIVE_MS && s->changed_ms - now_ms < CS_SNAPSHOT_GIVE_MS;
}

static bool is_by(const struct cs_store_snapshot *s, const struct cs_uuid *device)
{
    return cs_uuid_cmp(&s->device, device) == 0;
}

static int is_active(const struct cs_commit_env *env, cs_store_tx *tx, const struct cs_uuid *ws,
                     const struct cs_store_head *head, const struct cs_uuid *device, bool *out, struct cs_error *err)
{
    struct cs_member_info member;
    int rc = cs_members_find(env->members, tx, ws, head, device, &member, err);

    *out = rc == CS_OK && member.kind == CS_PRINCIPAL_DEVICE && member.active;
    return rc;
}

/* Would a new device take it? Of whoever was removed it takes nothing. */
static int is_good(const struct cs_commit_env *env, cs_store_tx *tx, const struct cs_uuid *ws,
                   const struct cs_store_head *head, const struct cs_store_snapshot *s, bool *out, struct cs_error *err)
{
    int rc = is_active(env, tx, ws, head, &s->device, out, err);

    if (rc == CS_OK && *out && is_attested(s))
        rc = is_active(env, tx, ws, head, &s->attester, out, err);
    return rc;
}

static int refuse(struct cs_write *w, int status, const char *why)
{
    cs_refuse(&w->verdict, status, "catch-up", "%s", why);
    return CS_OK;
}

/* ---- giving ---- */

/* Takes the last of its parts away; they count no more from the first such step on. */
static int clear_some(cs_store_tx *tx, struct cs_store_head *head, bool *dirty, const struct cs_uuid *ws,
                      struct cs_store_snapshot *s, struct cs_error *err)
{
    uint32_t from = s->parts > STEP_PARTS ? s->parts - STEP_PARTS : 0;
    int rc = s->parts == 0 ? CS_OK : tx->ops->drop_snapshot_parts(tx, ws, s->slot, from, s->parts - 1, err);

    if (rc != CS_OK)
        return rc;
    head->bytes -= s->bytes < head->bytes ? s->bytes : head->bytes;
    *dirty = *dirty || s->bytes > 0;
    s->bytes = 0;
    s->parts = from;
    s->state = CS_SNAPSHOT_NONE;
    s->descriptor = s->attestation = CS_SLICE_NULL;
    s->attester = (struct cs_uuid){ 0 };
    return tx->ops->put_snapshot(tx, ws, s, err);
}

static int begin(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, bool *dirty,
                 struct cs_write *w, struct cs_snapshots *all, int64_t now_ms, struct cs_error *err)
{
    struct cs_snapshot_write *s = w->snapshot;
    struct cs_store_snapshot *n = &all->at[all->other];
    bool busy = n->state != CS_SNAPSHOT_NONE && n->state != CS_SNAPSHOT_SERVED && !is_by(n, &w->device) &&
                is_fresh(n, now_ms),
         good;
    int rc;

    if (s->log_id != head->log_id || s->number > head->number || s->number == 0 || s->number <= head->pruned)
        return refuse(w, CS_RPC_FAILED_PRECONDITION, "catch up first: this is no number of the log");
    if (all->served >= 0 && all->at[all->served].number >= s->number) {
        if ((rc = is_good(env, tx, &w->workspace, head, &all->at[all->served], &good, err)) != CS_OK)
            return rc;
        if (good)
            return refuse(w, CS_RPC_ABORTED, "there is a snapshot of this number, or of a newer one, already");
    }
    if (busy && (rc = is_good(env, tx, &w->workspace, head, n, &busy, err)) != CS_OK)
        return rc;
    if (busy)
        return refuse(w, CS_RPC_ABORTED, "another device is giving a snapshot at present");
    if ((rc = clear_some(tx, head, dirty, &w->workspace, n, err)) != CS_OK)
        return rc;
    if ((s->more = n->parts > 0))
        return CS_OK;
    *n = (struct cs_store_snapshot){ .slot = n->slot,
                                     .state = CS_SNAPSHOT_GIVING,
                                     .log_id = s->log_id,
                                     .number = s->number,
                                     .device = w->device,
                                     .changed_ms = now_ms };
    cs_snapshot_digest_start(&w->workspace, &w->device, s->log_id, s->number, n->digest);
    s->ring = true; /* who stands there now can say what its state is */
    return tx->ops->put_snapshot(tx, &w->workspace, n, err);
}

/* The caller is giving one, of that place. */
static bool is_giving(struct cs_write *w, const struct cs_store_snapshot *n)
{
    if (n->state == CS_SNAPSHOT_GIVING && is_by(n, &w->device) && same_place(n, w->snapshot))
        return true;
    refuse(w, CS_RPC_ABORTED, "it is not this device that gives a snapshot now; begin anew");
    return false;
}

static int put(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, bool *dirty,
               struct cs_write *w, struct cs_store_snapshot *n, int64_t now_ms, struct cs_error *err)
{
    const struct cs_batch *b = w->snapshot->batch;
    uint64_t most = env->quota.bytes;
    struct cs_buf envelope = { 0 };
    int rc = CS_OK;

    if (!is_giving(w, n))
        return CS_OK;
    if (w->snapshot->part != n->parts)
        return refuse(w, CS_RPC_ABORTED, "this is not the next part; begin anew");
    if (most != 0 && (head->bytes > most || b->bytes > most - head->bytes)) {
        cs_refuse(&w->verdict, CS_RPC_RESOURCE_EXHAUSTED, "limit",
                  "the workspace has used %" PRIu64 " of its %" PRIu64
                  " bytes on this hub; ask who runs it for more (CLAW_SYNC_QUOTA_BYTES)",
                  head->bytes, most);
        return CS_OK;
    }
    cs_buf_put_slice(&envelope, b->header);
    cs_buf_put_slice(&envelope, b->signature);
    cs_buf_put_slice(&envelope, b->payload_hashes);
    if (envelope.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < b->h.chunk_count && rc == CS_OK; i++) {
        struct cs_store_part p = { .part = n->parts, .seq = i, .payload = b->chunks[i] };

        if (i == 0)
            p.envelope = cs_buf_slice(&envelope);
        rc = tx->ops->put_snapshot_part(tx, &w->workspace, n->slot, &p, err);
    }
    cs_buf_free(&envelope);
    if (rc != CS_OK)
        return rc;
    cs_snapshot_digest_next(n->digest, n->parts, b->hash);
    n->parts++;
    n->bytes += b->bytes;
    n->changed_ms = now_ms;
    head->bytes += b->bytes;
    *dirty = true;
    return tx->ops->put_snapshot(tx, &w->workspace, n, err);
}

/* Does the description fit what came, and this log? */
static int describes(const struct cs_commit_env *env, cs_store_tx *tx, const struct cs_store_head *head,
                     struct cs_write *w, const struct cs_store_snapshot *n, bool *yes, struct cs_error *err)
{
    struct cs_slice bytes = w->snapshot->descriptor;
    struct cs_member_info member;
    struct cs_descriptor d;
    struct cs_error why;
    uint8_t hash[32];
    int rc;

    *yes = false;
    if (cs_descriptor_read(&d, bytes, &why) != CS_OK) {
        cs_refuse(&w->verdict, CS_RPC_INVALID_ARGUMENT, "malformed", "%.200s", why.msg);
        return CS_OK;
    }
    if ((rc = cs_members_find(env->members, tx, &w->workspace, head, &w->device, &member, err)) != CS_OK ||
        (rc = tx->ops->log_hash(tx, &w->workspace, n->number, hash, err)) != CS_OK)
        return rc;
    if (cs_uuid_cmp(&d.workspace, &w->workspace) != 0 || cs_uuid_cmp(&d.device, &w->device) != 0 ||
        d.log_id != n->log_id || d.number != n->number || d.member_seq > head->member_seq ||
        memcmp(d.log_hash, hash, sizeof hash) != 0)
        return refuse(w, CS_RPC_FAILED_PRECONDITION, "the snapshot is of another place than this log has");
    if (d.parts != n->parts || memcmp(d.digest, n->digest, sizeof d.digest) != 0)
        return refuse(w, CS_RPC_ABORTED, "what came is not the snapshot that was to come; begin anew");
    if (!cs_descriptor_verify(bytes, member.sign_pk)) {
        cs_refuse(&w->verdict, CS_RPC_INVALID_ARGUMENT, "signature", "the snapshot is not signed by its device");
        return CS_OK;
    }
    *yes = true;
    return CS_OK;
}

/* It is served from now on. One that nobody takes, and that was served until now so that the log is never without,
 * goes. */
static int serve(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_snapshots *all, struct cs_store_snapshot *n,
                 struct cs_error *err)
{
    struct cs_store_snapshot *before = &all->at[CS_SNAPSHOT_SLOTS - 1 - n->slot];
    int rc = CS_OK;

    n->state = CS_SNAPSHOT_SERVED;
    if (before->state == CS_SNAPSHOT_SERVED && before->number >= n->number) {
        before->state = CS_SNAPSHOT_NONE;
        rc = tx->ops->put_snapshot(tx, ws, before, err);
    }
    return rc == CS_OK ? tx->ops->put_snapshot(tx, ws, n, err) : rc;
}

static bool is_among(const struct cs_uuid *devices, size_t n, const struct cs_uuid *device)
{
    for (size_t i = 0; i < n; i++)
        if (cs_uuid_cmp(&devices[i], device) == 0)
            return true;
    return false;
}

/* Of the active devices but one, has any read what the log has no more? */
struct readers {
    struct cs_uuid active[DEVICES_MAX];
    size_t nactive;
    const struct cs_uuid *but;
    uint64_t pruned;
    bool any;
};

static bool has_read(void *arg, const struct cs_uuid *device, const struct cs_store_device *d)
{
    struct readers *r = arg;

    r->any = d->pulled >= r->pruned && cs_uuid_cmp(r->but, device) != 0 && is_among(r->active, r->nactive, device);
    return !r->any;
}

/* Can another device attest it, now or when it has read? Not where there is none, nor where none can read any more: the
 * log is pruned, and of the snapshot that is served both who gave and who attested it were removed. */
static int has_attesters(const struct cs_commit_env *env, cs_store_tx *tx, const struct cs_store_head *head,
                         const struct cs_write *w, const struct cs_snapshots *all, bool *out, struct cs_error *err)
{
    const struct cs_store_snapshot *served = all->served >= 0 ? &all->at[all->served] : NULL;
    struct readers r = { .but = &w->device, .pruned = head->pruned };
    bool gave = false, attested = false;
    int rc = cs_members_devices(env->members, tx, &w->workspace, head, r.active, DEVICES_MAX, &r.nactive, err);

    *out = rc == CS_OK && r.nactive > 1;
    if (rc != CS_OK || !*out || head->pruned == 0 || r.nactive == DEVICES_MAX)
        return rc;
    if (served != NULL && ((rc = is_active(env, tx, &w->workspace, head, &served->device, &gave, err)) != CS_OK ||
                           (rc = is_active(env, tx, &w->workspace, head, &served->attester, &attested, err)) != CS_OK))
        return rc;
    if (!gave && !attested && (rc = tx->ops->devices(tx, &w->workspace, has_read, &r, err)) == CS_OK)
        *out = r.any;
    return rc;
}

static int end(const struct cs_commit_env *env, cs_store_tx *tx, const struct cs_store_head *head, struct cs_write *w,
               struct cs_snapshots *all, int64_t now_ms, struct cs_error *err)
{
    struct cs_store_snapshot *n = &all->at[all->other];
    bool yes, attesters;
    int rc;

    if (!is_giving(w, n))
        return CS_OK;
    if ((rc = describes(env, tx, head, w, n, &yes, err)) != CS_OK || !yes ||
        (rc = has_attesters(env, tx, head, w, all, &attesters, err)) != CS_OK)
        return rc;
    n->state = CS_SNAPSHOT_WHOLE;
    n->changed_ms = now_ms;
    n->descriptor = w->snapshot->descriptor;
    w->snapshot->ring = true;
    if (!attesters)
        return serve(tx, &w->workspace, all, n, err);
    return tx->ops->put_snapshot(tx, &w->workspace, n, err);
}

/* The one of the caller's place; of two, the one that whoever is new would take. */
static int find_whole(const struct cs_commit_env *env, cs_store_tx *tx, const struct cs_store_head *head,
                      const struct cs_write *w, struct cs_snapshots *all, struct cs_store_snapshot **out,
                      struct cs_error *err)
{
    bool good = false;
    int rc = CS_OK;

    *out = NULL;
    for (int i = 0; i < CS_SNAPSHOT_SLOTS && rc == CS_OK && !good; i++)
        if (all->at[i].state >= CS_SNAPSHOT_WHOLE && same_place(&all->at[i], w->snapshot)) {
            *out = &all->at[i];
            rc = is_good(env, tx, &w->workspace, head, *out, &good, err);
        }
    return rc;
}

/* Another device has the same state there: what the log has below is not needed any more. */
static int attest(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, bool *dirty,
                  struct cs_write *w, struct cs_snapshots *all, int64_t now_ms, struct cs_error *err)
{
    struct cs_store_snapshot *n;
    int rc = find_whole(env, tx, head, w, all, &n, err);

    if (rc != CS_OK)
        return rc;
    if (n == NULL)
        return refuse(w, CS_RPC_FAILED_PRECONDITION, "there is no snapshot of this place");
    if (is_by(n, &w->device))
        return refuse(w, CS_RPC_FAILED_PRECONDITION, "a snapshot is attested by another device than its own");
    if (cs_attestation_proof(w->snapshot->attestation).len == 0) {
        cs_refuse(&w->verdict, CS_RPC_INVALID_ARGUMENT, "malformed", "this does not attest a snapshot");
        return CS_OK;
    }
    if (is_attested(n))
        return CS_OK;
    n->attester = w->device;
    n->attestation = w->snapshot->attestation;
    n->changed_ms = now_ms;
    if (head->prune_to == 0) {
        head->prune_to = n->number;
        head->prune_ms = now_ms;
        *dirty = true;
    }
    w->snapshot->ring = w->prune = true;
    return serve(tx, &w->workspace, all, n, err);
}

int cs_snapshot_write(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, bool *dirty,
                      struct cs_write *w, int64_t now_ms, struct cs_error *err)
{
    struct cs_snapshots all = { .served = -1 };
    struct cs_arena a = { 0 };
    struct cs_store_snapshot *next;
    bool active;
    int rc = is_active(env, tx, &w->workspace, head, &w->device, &active, err);

    if (rc == CS_OK && !active) {
        cs_refuse(&w->verdict, CS_RPC_PERMISSION_DENIED, "revoked",
                  "the device is not a member of the workspace any more");
        return CS_OK;
    }
    if (rc == CS_OK)
        rc = cs_snapshots_read(tx, &w->workspace, &a, &all, err);
    if (rc != CS_OK) {
        cs_arena_free(&a);
        return rc;
    }
    next = &all.at[all.other];
    switch (w->snapshot->action) {
    case CS_SNAPSHOT_BEGIN:
        rc = begin(env, tx, head, dirty, w, &all, now_ms, err);
        break;
    case CS_SNAPSHOT_PUT:
        rc = put(env, tx, head, dirty, w, next, now_ms, err);
        break;
    case CS_SNAPSHOT_END:
        rc = end(env, tx, head, w, &all, now_ms, err);
        break;
    case CS_SNAPSHOT_ATTEST:
        rc = attest(env, tx, head, dirty, w, &all, now_ms, err);
        break;
    }
    cs_arena_free(&a);
    return rc;
}

/* ---- pruning ---- */

struct waiting {
    const struct cs_commit_env *env;
    struct cs_uuid active[DEVICES_MAX];
    size_t nactive;
    uint64_t number;
    int64_t now_ms;
    bool waits;
};

/* Whoever is heard of and has not read so far is waited for. */
static bool is_waited_for(void *arg, const struct cs_uuid *device, const struct cs_store_device *d)
{
    struct waiting *w = arg;
    int64_t silent = w->env->pruning.silent_ms > INT64_MAX ? INT64_MAX : (int64_t)w->env->pruning.silent_ms;

    w->waits = is_among(w->active, w->nactive, device) && d->pulled < w->number &&
               (silent == 0 || w->now_ms - d->seen_ms < silent);
    return !w->waits;
}

static bool is_old_enough(const struct cs_commit_env *env, const struct cs_store_head *head, int64_t now_ms)
{
    uint64_t retention = env->pruning.retention_ms;

    return retention != CS_NEVER_PRUNE && now_ms >= head->prune_ms && (uint64_t)(now_ms - head->prune_ms) >= retention;
}

static int may_prune(const struct cs_commit_env *env, cs_store_tx *tx, const struct cs_store_head *head,
                     const struct cs_uuid *ws, int64_t now_ms, bool *out, struct cs_error *err)
{
    struct waiting w = { .env = env, .number = head->prune_to, .now_ms = now_ms };
    int rc;

    *out = false;
    if (head->prune_to == 0 || !is_old_enough(env, head, now_ms))
        return CS_OK;
    if ((rc = cs_members_devices(env->members, tx, ws, head, w.active, DEVICES_MAX, &w.nactive, err)) != CS_OK ||
        (rc = tx->ops->devices(tx, ws, is_waited_for, &w, err)) != CS_OK)
        return rc;
    *out = !w.waits && w.nactive < DEVICES_MAX;
    return CS_OK;
}

/* The number that a snapshot is of stays: its hash is what those who have that snapshot go on from. */
static int prune_some(cs_store_tx *tx, struct cs_store_head *head, const struct cs_uuid *ws, bool *more,
                      struct cs_error *err)
{
    uint64_t from = head->pruned + 1, to = head->prune_to - 1, bytes = 0;
    int rc = CS_OK;

    if (to >= from && to - from >= STEP_BATCHES)
        to = from + STEP_BATCHES - 1;
    if (to >= from && (rc = tx->ops->prune_log(tx, ws, from, to, &bytes, err)) != CS_OK)
        return rc;
    head->bytes -= bytes < head->bytes ? bytes : head->bytes;
    if (to >= from)
        head->pruned = to;
    *more = head->pruned + 1 < head->prune_to;
    return rc;
}

int cs_snapshot_prune(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, bool *dirty,
                      struct cs_write *w, int64_t now_ms, struct cs_error *err)
{
    struct cs_arena a = { 0 };
    struct cs_snapshots all = { .served = -1 };
    bool go = false, more = false;
    int rc = cs_snapshots_read(tx, &w->workspace, &a, &all, err);

    if (rc == CS_OK && all.served >= 0 && is_attested(&all.at[all.served]) &&
        all.at[all.served].log_id == head->log_id && all.at[all.served].number >= head->prune_to &&
        (rc = is_good(env, tx, &w->workspace, head, &all.at[all.served], &go, err)) == CS_OK && go)
        rc = may_prune(env, tx, head, &w->workspace, now_ms, &go, err);
    if (rc == CS_OK && go) {
        *dirty = true;
        rc = prune_some(tx, head, &w->workspace, &more, err);
        w->prune = more;
        if (rc == CS_OK && !more) { /* one that came meanwhile is next */
            const struct cs_store_snapshot *s = &all.at[all.served];
            bool newer = s->number > head->prune_to;

            head->prune_ms = newer ? s->changed_ms : 0;
            head->prune_to = newer ? s->number : 0;
            w->prune = newer;
        }
    }
    if (rc == CS_OK && all.served >= 0 && all.at[all.other].parts > 0 &&
        (all.at[all.other].state == CS_SNAPSHOT_SERVED || all.at[all.other].state == CS_SNAPSHOT_NONE)) {
        rc = clear_some(tx, head, dirty, &w->workspace, &all.at[all.other], err);
        w->prune = w->prune || all.at[all.other].parts > 0;
    }
    cs_arena_free(&a);
    return rc;
}

/* ---- is there something to do? ---- */

int cs_snapshot_waits(const struct cs_commit_env *env, cs_store_tx *tx, const struct cs_uuid *ws,
                      const struct cs_uuid *device, const struct cs_store_head *head, bool *out, struct cs_error *err)
{
    struct cs_arena a = { 0 };
    struct cs_snapshots all = { .served = -1 };
    int rc = cs_snapshots_read(tx, ws, &a, &all, err);

    *out = false;
    for (int i = 0; i < CS_SNAPSHOT_SLOTS && rc == CS_OK; i++) {
        const struct cs_store_snapshot *s = &all.at[i];

        *out = *out || (s->state != CS_SNAPSHOT_NONE && !is_attested(s) && !is_by(s, device) &&
                        s->log_id == head->log_id && s->number == head->number);
    }
    if (rc == CS_OK && !*out && head->pruned > 0) { /* nobody new could come in */
        bool good = false;

        if (all.served >= 0)
            rc = is_good(env, tx, ws, head, &all.at[all.served], &good, err);
        *out = !good;
    }
    cs_arena_free(&a);
    return rc;
}
