#include "hub/reference.h"

#include <inttypes.h>

enum { ROW_BYTES = 64 }; /* about, of a bucket's or a tag's row beside its content */

static bool same_place(const struct cs_store_reference *r, uint64_t log_id, uint64_t number, uint32_t epoch)
{
    return r->log_id == log_id && r->number == number && r->epoch == epoch;
}

static bool catch_up(struct cs_verdict *v, const char *why, uint64_t number)
{
    return cs_refuse(v, CS_RPC_FAILED_PRECONDITION, "catch-up", "catch up first: %s %" PRIu64, why, number);
}

bool cs_reference_readable(const struct cs_store_reference *r, bool exists, const struct cs_uuid *device,
                           uint64_t log_id, uint64_t number, uint32_t epoch, struct cs_verdict *v)
{
    bool own = exists && cs_uuid_cmp(&r->device, device) == 0;

    if (!exists)
        return catch_up(v, "there is no state to compare with; this one is of number", number);
    if (!same_place(r, log_id, number, epoch))
        return catch_up(v, "the state to compare with is of number", r->number);
    return r->whole || own ||
           cs_refuse(v, CS_RPC_ABORTED, "catch-up", "another device is giving its state at present; try again");
}

/* ---- giving ---- */

static int reference_of(const struct cs_write *w, cs_store_tx *tx, bool *exists, struct cs_error *err)
{
    int rc = tx->ops->reference(tx, &w->workspace, &w->state->reference, err);

    *exists = rc == CS_OK;
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

static int begin(cs_store_tx *tx, const struct cs_store_head *head, struct cs_write *w, int64_t now_ms,
                 struct cs_error *err)
{
    struct cs_state_write *s = w->state;
    struct cs_store_reference *r = &s->reference;
    bool exists, own;
    int rc = reference_of(w, tx, &exists, err);

    if (rc != CS_OK)
        return rc;
    own = exists && cs_uuid_cmp(&r->device, &w->device) == 0;
    if (exists && !own && r->whole && !s->take && same_place(r, s->log_id, s->number, s->epoch))
        return CS_OK;
    if (s->log_id != head->log_id || s->number != head->number || s->epoch != head->epoch) {
        catch_up(&w->verdict, "the log is at number", head->number);
        return CS_OK;
    }
    if (exists && !own && !r->whole && now_ms - r->changed_ms < CS_GIVE_MS && r->changed_ms - now_ms < CS_GIVE_MS) {
        cs_refuse(&w->verdict, CS_RPC_ABORTED, "catch-up", "another device is giving its state at present; try again");
        return CS_OK;
    }
    /* What an earlier reference left in the buckets is a good start: only what differs has to come. */
    *r = (struct cs_store_reference){ .log_id = s->log_id,
                                      .number = s->number,
                                      .epoch = s->epoch,
                                      .device = w->device,
                                      .only_prove = s->only_prove,
                                      .changed_ms = now_ms,
                                      .rows = exists ? r->rows : 0,
                                      .given = exists ? r->given : 0 };
    s->give = true;
    return tx->ops->put_reference(tx, &w->workspace, r, err);
}

static bool keep_rows(void *arg, const struct cs_store_bucket *b)
{
    *(uint32_t *)arg = b->rows;
    return false;
}

static bool within_quota(const struct cs_commit_env *env, const struct cs_store_head *head, uint64_t more,
                         struct cs_verdict *v)
{
    uint64_t most = env->quota.bytes;

    if (most == 0 || (head->bytes <= most && more <= most - head->bytes))
        return true;
    return cs_refuse(v, CS_RPC_RESOURCE_EXHAUSTED, "limit",
                     "the workspace has used %" PRIu64 " of its %" PRIu64
                     " bytes on this hub; ask who runs it for more (CLAW_SYNC_QUOTA_BYTES)",
                     head->bytes, most);
}

static int put_bucket(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, struct cs_write *w,
                      const struct cs_store_bucket *in, struct cs_error *err)
{
    struct cs_store_reference *r = &w->state->reference;
    struct cs_store_bucket b = *in;
    uint32_t had = 0;
    uint64_t before, after;
    int rc = tx->ops->bucket_sums(tx, &w->workspace, b.prefix, b.prefix, keep_rows, &had, err);

    if (rc != CS_OK)
        return rc;
    b.rows = (uint32_t)(b.leaves.len / CS_LEAF_LEN);
    cs_leaves_sum(b.leaves, b.sum);
    before = had == 0 ? 0 : (uint64_t)had * CS_LEAF_LEN + ROW_BYTES;
    after = b.rows == 0 ? 0 : b.leaves.len + ROW_BYTES;
    if (after > before && !within_quota(env, head, after - before, &w->verdict))
        return CS_OK;
    head->bytes = head->bytes + after - (before < head->bytes + after ? before : head->bytes + after);
    r->rows = r->rows - (had < r->rows ? had : r->rows) + b.rows;
    return tx->ops->put_bucket(tx, &w->workspace, &b, err);
}

/* The caller is giving, from the place that it says. */
static int giving(cs_store_tx *tx, struct cs_write *w, bool *yes, struct cs_error *err)
{
    const struct cs_state_write *s = w->state;
    const struct cs_store_reference *r = &s->reference;
    bool exists;
    int rc = reference_of(w, tx, &exists, err);

    *yes = rc == CS_OK && exists && !r->whole && cs_uuid_cmp(&r->device, &w->device) == 0 &&
           same_place(r, s->log_id, s->number, s->epoch);
    if (rc == CS_OK && !*yes)
        cs_refuse(&w->verdict, CS_RPC_ABORTED, "catch-up",
                  "it is not this device that gives its state now; begin anew");
    return rc;
}

static int put(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, bool *dirty,
               struct cs_write *w, int64_t now_ms, struct cs_error *err)
{
    struct cs_store_head after = *head;
    bool yes;
    int rc = giving(tx, w, &yes, err);

    if (rc != CS_OK || !yes)
        return rc;
    for (size_t i = 0; i < w->state->nbuckets && rc == CS_OK && w->verdict.status == CS_RPC_OK; i++)
        rc = put_bucket(env, tx, &after, w, &w->state->buckets[i], err);
    if (rc != CS_OK)
        return rc;
    /* Those before the one that was too many stand, and are counted. */
    w->state->reference.changed_ms = now_ms;
    *dirty = *dirty || after.bytes != head->bytes;
    *head = after;
    return tx->ops->put_reference(tx, &w->workspace, &w->state->reference, err);
}

struct total {
    uint64_t rows;
    uint8_t sum[CS_STATE_LEN];
};
static bool add_total(void *arg, const struct cs_store_bucket *b)
{
    struct total *t = arg;

    t->rows += b->rows;
    cs_sum_add(t->sum, b->sum);
    return true;
}

static int put_proof(cs_store_tx *tx, const struct cs_store_head *head, struct cs_write *w, struct cs_error *err)
{
    const struct cs_state_write *s = w->state;
    struct cs_store_proof p = {
        .device = w->device, .log_id = s->log_id, .number = s->number, .given = s->reference.given, .proof = s->proof
    };

    if (s->log_id != head->log_id || s->number > head->number) {
        catch_up(&w->verdict, "the log is at number", head->number);
        return CS_OK;
    }
    return tx->ops->put_proof(tx, &w->workspace, &p, err);
}

static int prove(cs_store_tx *tx, const struct cs_store_head *head, struct cs_write *w, struct cs_error *err)
{
    bool exists;
    int rc = reference_of(w, tx, &exists, err);

    w->state->ring = true; /* whoever waits for it looks */
    return rc == CS_OK ? put_proof(tx, head, w, err) : rc;
}

static int end(cs_store_tx *tx, const struct cs_store_head *head, struct cs_write *w, int64_t now_ms,
               struct cs_error *err)
{
    struct cs_state_write *s = w->state;
    struct total t = { 0 };
    bool yes;
    int rc = giving(tx, w, &yes, err);

    if (rc != CS_OK || !yes ||
        (rc = tx->ops->bucket_sums(tx, &w->workspace, 0, CS_BUCKETS - 1, add_total, &t, err)) != CS_OK)
        return rc;
    if (t.rows != s->rows || memcmp(t.sum, s->sum, sizeof t.sum) != 0) {
        cs_refuse(&w->verdict, CS_RPC_ABORTED, "catch-up", "what came is not the state that was to come; begin anew");
        return CS_OK;
    }
    s->reference.whole = true;
    s->reference.given++;
    s->reference.rows = t.rows;
    s->reference.changed_ms = now_ms;
    s->ring = true;
    rc = tx->ops->put_reference(tx, &w->workspace, &s->reference, err);
    return rc == CS_OK && s->proof.len > 0 ? put_proof(tx, head, w, err) : rc;
}

/* ---- what is wanted ---- */

static bool count_tag(void *arg, uint32_t epoch, const uint8_t tag[16])
{
    (void)epoch;
    (void)tag;
    return ++*(size_t *)arg < CS_WANTED_MAX;
}

static int want_of(cs_store_tx *tx, struct cs_write *w, const struct cs_store_reference *r, struct cs_slice tags,
                   struct cs_error *err)
{
    size_t n = 0;
    int rc = tx->ops->wanted(tx, &w->workspace, &r->device, count_tag, &n, err);

    for (size_t at = 0; rc == CS_OK && at + CS_TAG_LEN <= tags.len && n < CS_WANTED_MAX; at += CS_TAG_LEN, n++)
        rc = tx->ops->put_wanted(tx, &w->workspace, &r->device, r->epoch, tags.data + at, err);
    w->state->ring = w->state->ring || tags.len > 0;
    return rc;
}

static int want(cs_store_tx *tx, struct cs_write *w, struct cs_error *err)
{
    struct cs_state_write *s = w->state;
    bool exists;
    int rc = reference_of(w, tx, &exists, err);

    if (rc != CS_OK ||
        !cs_reference_readable(&s->reference, exists, &w->device, s->log_id, s->number, s->epoch, &w->verdict))
        return rc;
    return want_of(tx, w, &s->reference, s->tags, err);
}

static int gave(cs_store_tx *tx, struct cs_write *w, struct cs_error *err)
{
    struct cs_slice tags = w->state->tags;
    int rc = CS_OK;

    for (size_t at = 0; rc == CS_OK && at + CS_TAG_LEN <= tags.len; at += CS_TAG_LEN)
        rc = tx->ops->drop_wanted(tx, &w->workspace, &w->device, tags.data + at, err);
    w->state->ring = true; /* whoever waits for it looks again */
    return rc;
}

/* ---- a whole set in one request ---- */

struct gathering {
    struct cs_buf leaves;
};
static bool gather(void *arg, const struct cs_store_bucket *b)
{
    struct gathering *g = arg;

    cs_buf_put_slice(&g->leaves, b->leaves);
    return !g->leaves.failed;
}

static bool tell_difference(void *arg, enum cs_leaf_difference d, const uint8_t tag[CS_TAG_LEN])
{
    struct cs_state_write *s = arg;
    struct cs_buf *to[] = {
        [CS_LEAF_ONLY_A] = &s->only_here, [CS_LEAF_ONLY_B] = &s->only_there, [CS_LEAF_DIFFERS] = &s->differ
    };

    cs_buf_put(to[d], tag, CS_TAG_LEN);
    return !to[d]->failed;
}

static int whole_compare(cs_store_tx *tx, struct cs_write *w, struct cs_error *err)
{
    struct cs_state_write *s = w->state;
    struct gathering g = { 0 };
    int rc;

    if (s->reference.rows > CS_WHOLE_MAX) {
        cs_refuse(&w->verdict, CS_RPC_RESOURCE_EXHAUSTED, "limit",
                  "the workspace has %" PRIu64 " entities, too many for one request; use ReconcileRanges",
                  s->reference.rows);
        return CS_OK;
    }
    rc = tx->ops->bucket_leaves(tx, &w->workspace, 0, CS_BUCKETS - 1, gather, &g, err);
    if (rc == CS_OK && (g.leaves.failed || !cs_leaves_compare(s->leaves, cs_buf_slice(&g.leaves), tell_difference, s)))
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    cs_buf_free(&g.leaves);
    if (rc == CS_OK)
        rc = want_of(tx, w, &s->reference, cs_buf_slice(&s->only_there), err);
    return rc == CS_OK ? want_of(tx, w, &s->reference, cs_buf_slice(&s->differ), err) : rc;
}

struct prefixes {
    struct cs_buf list; /* u16 each */
};
static bool list_prefix(void *arg, const struct cs_store_bucket *b)
{
    struct prefixes *p = arg;

    cs_buf_put_u16(&p->list, (uint16_t)b->prefix);
    return !p->list.failed;
}

/* The buckets of an earlier reference that this one does not have. */
static int drop_others(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, struct cs_write *w,
                       struct cs_error *err)
{
    struct prefixes p = { 0 };
    struct cs_slice leaves = w->state->leaves;
    size_t at = 0;
    int rc = tx->ops->bucket_sums(tx, &w->workspace, 0, CS_BUCKETS - 1, list_prefix, &p, err);

    if (rc == CS_OK && p.list.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    for (size_t i = 0; rc == CS_OK && i < p.list.len; i += 2) {
        struct cs_store_bucket b = { .prefix = cs_load_u16(p.list.data + i) };

        while (at < leaves.len && cs_tag_bucket(leaves.data + at) < b.prefix)
            at += CS_LEAF_LEN;
        if (at >= leaves.len || cs_tag_bucket(leaves.data + at) != b.prefix)
            rc = put_bucket(env, tx, head, w, &b, err);
    }
    cs_buf_free(&p.list);
    return rc;
}

static int whole_give(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, bool *dirty,
                      struct cs_write *w, struct cs_error *err)
{
    struct cs_state_write *s = w->state;
    struct cs_store_head after = *head;
    struct cs_slice all = s->leaves;
    int rc = drop_others(env, tx, &after, w, err);

    for (size_t at = 0, n; rc == CS_OK && w->verdict.status == CS_RPC_OK && at < all.len; at += n) {
        struct cs_store_bucket b = { .prefix = cs_tag_bucket(all.data + at) };

        for (n = 0; at + n < all.len && cs_tag_bucket(all.data + at + n) == b.prefix; n += CS_LEAF_LEN)
            ;
        b.leaves = cs_slice(all.data + at, n);
        rc = put_bucket(env, tx, &after, w, &b, err);
    }
    if (rc != CS_OK)
        return rc;
    s->reference.whole = w->verdict.status == CS_RPC_OK;
    s->ring = s->reference.whole;
    s->reference.given += s->reference.whole;
    *dirty = *dirty || after.bytes != head->bytes;
    *head = after;
    return tx->ops->put_reference(tx, &w->workspace, &s->reference, err);
}

static int whole(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, bool *dirty,
                 struct cs_write *w, int64_t now_ms, struct cs_error *err)
{
    int rc = begin(tx, head, w, now_ms, err);

    if (rc != CS_OK || w->verdict.status != CS_RPC_OK)
        return rc;
    return w->state->give ? whole_give(env, tx, head, dirty, w, err) : whole_compare(tx, w, err);
}

int cs_reference_write(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, bool *dirty,
                       struct cs_write *w, int64_t now_ms, struct cs_error *err)
{
    switch (w->state->action) {
    case CS_STATE_BEGIN:
        return begin(tx, head, w, now_ms, err);
    case CS_STATE_PUT:
        return put(env, tx, head, dirty, w, now_ms, err);
    case CS_STATE_END:
        return end(tx, head, w, now_ms, err);
    case CS_STATE_WANT:
        return want(tx, w, err);
    case CS_STATE_GAVE:
        return gave(tx, w, err);
    case CS_STATE_PROVE:
        return prove(tx, head, w, err);
    case CS_STATE_WHOLE:
        return whole(env, tx, head, dirty, w, now_ms, err);
    }
    return CS_OK;
}

/* ---- is there something to do? ---- */

static bool any_tag(void *arg, uint32_t epoch, const uint8_t tag[16])
{
    (void)epoch;
    (void)tag;
    *(bool *)arg = true;
    return false;
}

struct own_proof {
    const struct cs_uuid *device;
    const struct cs_store_reference *r;
    bool there;
};
static bool find_proof(void *arg, const struct cs_store_proof *p)
{
    struct own_proof *o = arg;

    if (cs_uuid_cmp(&p->device, o->device) == 0)
        o->there = p->given == o->r->given;
    return true;
}

int cs_reference_waits(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                       const struct cs_store_head *head, bool *out, struct cs_error *err)
{
    struct cs_store_reference r;
    struct own_proof proof = { device, &r, false };
    int rc;

    *out = false;
    if ((rc = tx->ops->wanted(tx, ws, device, any_tag, out, err)) != CS_OK || *out)
        return rc;
    if ((rc = tx->ops->reference(tx, ws, &r, err)) != CS_OK)
        return rc == CS_ENOTFOUND ? CS_OK : rc;
    if (!r.whole || cs_uuid_cmp(&r.device, device) == 0 || !same_place(&r, head->log_id, head->number, head->epoch))
        return CS_OK;
    rc = tx->ops->proofs(tx, ws, find_proof, &proof, err);
    *out = rc == CS_OK && !proof.there;
    return rc;
}
