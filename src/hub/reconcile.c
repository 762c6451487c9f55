/* Reconcile and ReconcileRanges: comparing a device's state with the reference, as a whole or range by range, and
 * giving a new reference. What is written goes through the writer, what is read is bounded by a page. */
#include "hub/internal.h"
#include "hub/reference.h"

#include <stdlib.h>

enum { DEVICES_MAX = 256, RANGES_MAX = 4096, PROOF_MAX = 1024, ENTITY_ID_MAX = 64 };

struct reconcile {
    struct cs_write write;
    struct cs_state_write state;
    struct cs_req *req;
    const Clawsync__V1__ReconcileRangesRequest *in;
    Clawsync__V1__ReconcileRangesResponse out;
    bool writes;
    /* of LOOK */
    struct cs_uuid *devices;
    size_t ndevices;
    struct cs_buf tags; /* owned */
};

static bool no_memory(struct cs_verdict *v)
{
    return cs_refuse(v, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
}

static bool invalid(struct cs_verdict *v, const char *what)
{
    return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "validation", "%s", what);
}

static void reconcile_fini(struct cs_req *r)
{
    struct reconcile *x = r->state;

    cs_buf_free(&x->tags);
    cs_buf_free(&x->state.only_here);
    cs_buf_free(&x->state.only_there);
    cs_buf_free(&x->state.differ);
}

static void submit(struct cs_req *r, struct reconcile *x, void (*written)(struct cs_write *w))
{
    x->req = r;
    x->write.kind = CS_WRITE_STATE;
    x->write.workspace = r->who.workspace;
    x->write.device = r->who.device;
    x->write.state = &x->state;
    x->write.bytes = r->in.len;
    x->write.done = written;
    cs_req_hold(r);
    cs_writer_submit(r->hub, &x->write);
}

/* The answer of a write that is done, or its refusal. */
static void written_end(struct cs_write *w, bool (*answer)(struct cs_req *r, struct reconcile *x))
{
    struct reconcile *x = (struct reconcile *)w;
    struct cs_req *r = x->req;

    r->verdict = w->verdict;
    if (w->verdict.status != CS_RPC_OK) {
        cs_req_finish(r);
    } else {
        if (x->state.ring) {
            cs_watch_reconcile(r->hub, &w->workspace);
            cs_others_reconcile(r->hub, &w->workspace);
        }
        if (r->call != NULL && (!answer(r, x) || cs_req_send(r)))
            cs_req_finish(r);
    }
    cs_req_release(r);
}

/* ---- Reconcile ---- */

static int by_tag(const void *a, const void *b)
{
    return memcmp(a, b, CS_TAG_LEN);
}

/* The set's leaves, ascending. A hash of any length that a hash may have counts, by its first 16 bytes. */
static bool read_set(struct cs_req *r, struct reconcile *x, const Clawsync__V1__ReconcileRequest *in)
{
    uint8_t *leaves = cs_arena_alloc(&r->arena, in->n_entity_hashes * CS_LEAF_LEN + 1);
    struct cs_buf tag = { 0 };
    bool good = true;

    if (leaves == NULL)
        return no_memory(&r->verdict);
    for (size_t i = 0; i < in->n_entity_hashes && good; i++) {
        const Clawsync__V1__EntityHashEntry *e = in->entity_hashes[i];
        size_t n = strlen(e->entity_id);

        cs_buf_reset(&tag);
        good = n <= ENTITY_ID_MAX && cs_unbase64(&tag, cs_slice(e->entity_id, n), true) && tag.len == CS_TAG_LEN &&
               e->content_hash.len >= CS_STATE_LEN && e->content_hash.len <= 2 * CS_HASH_LEN;
        if (!good) {
            invalid(&r->verdict, "an entity id is no tag, or a hash is not one");
            break;
        }
        memcpy(leaves + i * CS_LEAF_LEN, tag.data, CS_TAG_LEN);
        memcpy(leaves + i * CS_LEAF_LEN + CS_TAG_LEN, e->content_hash.data, CS_STATE_LEN);
    }
    cs_buf_free(&tag);
    if (!good)
        return false;
    if (in->n_entity_hashes > 0)
        qsort(leaves, in->n_entity_hashes, CS_LEAF_LEN, by_tag);
    for (size_t i = 1; i < in->n_entity_hashes; i++)
        if (by_tag(leaves + (i - 1) * CS_LEAF_LEN, leaves + i * CS_LEAF_LEN) == 0)
            return invalid(&r->verdict, "an entity is twice in the set");
    x->state.leaves = cs_slice(leaves, in->n_entity_hashes * CS_LEAF_LEN);
    return true;
}

static void whole_work(struct cs_req *r)
{
    struct reconcile *x = r->state;
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    const Clawsync__V1__ReconcileRequest *in = clawsync__v1__reconcile_request__unpack(&alloc, r->in.len, r->in.data);

    if (in == NULL) {
        cs_unparsable(&r->verdict, &r->arena);
        return;
    }
    if (!cs_parse_caller(r, in->workspace_id, in->device_id) || !read_set(r, x, in))
        return;
    x->state.action = CS_STATE_WHOLE;
    x->state.log_id = in->log_id;
    x->state.number = in->log_number;
    x->state.epoch = in->epoch;
}

static bool put_ids(struct cs_req *r, const struct cs_buf *tags, char ***list, size_t *n)
{
    struct cs_buf text = { 0 };
    char **ids = cs_arena_zalloc(&r->arena, tags->len / CS_TAG_LEN + 1, sizeof *ids);

    *n = 0;
    for (size_t at = 0; ids != NULL && at + CS_TAG_LEN <= tags->len; at += CS_TAG_LEN) {
        cs_buf_reset(&text);
        cs_base64(&text, cs_slice(tags->data + at, CS_TAG_LEN), true);
        cs_buf_put_u8(&text, 0);
        if (text.failed || (ids[*n] = cs_arena_str(&r->arena, (const char *)text.data)) == NULL) {
            ids = NULL;
            break;
        }
        (*n)++;
    }
    cs_buf_free(&text);
    *list = ids;
    return ids != NULL || no_memory(&r->verdict);
}

static bool whole_answer(struct cs_req *r, struct reconcile *x)
{
    Clawsync__V1__ReconcileResponse a = CLAWSYNC__V1__RECONCILE_RESPONSE__INIT;

    return put_ids(r, &x->state.only_there, &a.missing_on_client, &a.n_missing_on_client) &&
           put_ids(r, &x->state.only_here, &a.missing_on_server, &a.n_missing_on_server) &&
           put_ids(r, &x->state.differ, &a.conflicted, &a.n_conflicted) && cs_pb_pack(&r->out, &a.base, &r->verdict);
}

static void whole_written(struct cs_write *w)
{
    written_end(w, whole_answer);
}

static void whole_done(struct cs_req *r)
{
    submit(r, r->state, whole_written);
}

static const struct cs_req_ops whole_ops = { .name = "Reconcile",
                                             .work = whole_work,
                                             .done = whole_done,
                                             .fini = reconcile_fini,
                                             .state_bytes = sizeof(struct reconcile) };

void cs_reconcile_start(cs_rpc_call *c, void *service)
{
    cs_req_start(c, service, &whole_ops);
}

/* ---- ReconcileRanges: reading ---- */

struct summing {
    const struct cs_range *range;
    uint8_t *children;
};
static bool add_child(void *arg, const struct cs_store_bucket *b)
{
    struct summing *s = arg;

    cs_children_add(s->range, b->prefix, b->sum, s->children);
    return true;
}

/* Ranges of one depth, ascending, so that one request reads each bucket's sum once at most. */
static bool read_sums(struct cs_req *r, struct reconcile *x, cs_store_tx *tx)
{
    struct cs_slice in = cs_slice(x->in->ranges.data, x->in->ranges.len);
    size_t n = in.len / CS_RANGE_LEN;
    uint8_t *sums;
    struct cs_range last = { 0 }, range;
    struct cs_error err = { 0 };

    if (in.len == 0 || in.len % CS_RANGE_LEN != 0 || n > CS_HUB_PAGE / CS_CHILDREN_LEN)
        return invalid(&r->verdict, "not a list of ranges, or too long");
    if ((sums = cs_arena_zalloc(&r->arena, n, CS_CHILDREN_LEN)) == NULL)
        return no_memory(&r->verdict);
    for (size_t i = 0; i < n; i++) {
        struct summing s = { &range, sums + i * CS_CHILDREN_LEN };

        if (!cs_range_read(&range, in.data + i * CS_RANGE_LEN) || range.depth >= CS_RANGE_DEPTH ||
            (i > 0 && (range.depth != last.depth || range.prefix <= last.prefix)))
            return invalid(&r->verdict, "ranges of one depth, above the buckets, in their order");
        if (tx->ops->bucket_sums(tx, &r->who.workspace, cs_range_first(&range), cs_range_last(&range), add_child, &s,
                                 &err) != CS_OK) {
            cs_refuse_storage(&r->verdict, &err);
            return false;
        }
        last = range;
    }
    x->out.sums = (ProtobufCBinaryData){ n * CS_CHILDREN_LEN, sums };
    return true;
}

struct page {
    struct cs_arena *arena;
    Clawsync__V1__StateBucket *bucket;
    size_t bytes;
    bool failed;
};
static bool keep_leaves(void *arg, const struct cs_store_bucket *b)
{
    struct page *p = arg;
    struct cs_slice copy = cs_arena_copy(p->arena, b->leaves);

    p->failed = copy.data == NULL;
    p->bucket->leaves = (ProtobufCBinaryData){ copy.len, (uint8_t *)(uintptr_t)copy.data };
    p->bytes += copy.len;
    return false;
}

static bool read_leaves(struct cs_req *r, struct reconcile *x, cs_store_tx *tx)
{
    struct cs_slice in = cs_slice(x->in->ranges.data, x->in->ranges.len);
    size_t n = in.len / 2;
    struct page p = { .arena = &r->arena };
    struct cs_error err = { 0 };

    if (in.len == 0 || in.len % 2 != 0 || n > RANGES_MAX)
        return invalid(&r->verdict, "not a list of buckets, or too long");
    if ((x->out.buckets = cs_arena_zalloc(&r->arena, n, sizeof *x->out.buckets)) == NULL)
        return no_memory(&r->verdict);
    for (size_t i = 0; i < n && (i == 0 || p.bytes < CS_HUB_PAGE); i++) {
        uint32_t prefix = cs_load_u16(in.data + 2 * i);

        if (i > 0 && prefix <= cs_load_u16(in.data + 2 * i - 2))
            return invalid(&r->verdict, "buckets in their order");
        if ((p.bucket = cs_arena_alloc(&r->arena, sizeof *p.bucket)) == NULL)
            return no_memory(&r->verdict);
        clawsync__v1__state_bucket__init(p.bucket);
        p.bucket->prefix = prefix;
        if (tx->ops->bucket_leaves(tx, &r->who.workspace, prefix, prefix, keep_leaves, &p, &err) != CS_OK) {
            cs_refuse_storage(&r->verdict, &err);
            return false;
        }
        if (p.failed)
            return no_memory(&r->verdict);
        x->out.buckets[x->out.n_buckets++] = p.bucket;
    }
    return true;
}

/* ---- LOOK ---- */

struct looking {
    struct cs_req *r;
    struct reconcile *x;
    bool failed;
};
static bool keep_tag(void *arg, uint32_t epoch, const uint8_t tag[16])
{
    struct looking *l = arg;
    struct reconcile *x = l->x;

    if (x->tags.len > 0 && x->out.wanted_epoch != epoch)
        return true; /* those of one epoch, then those of the next */
    x->out.wanted_epoch = epoch;
    cs_buf_put(&x->tags, tag, CS_TAG_LEN);
    return !x->tags.failed && x->tags.len < CS_HUB_PAGE;
}

static Clawsync__V1__StateProof *proof_of(struct reconcile *x, const struct cs_uuid *device)
{
    for (size_t i = 0; i < x->ndevices; i++)
        if (cs_uuid_cmp(&x->devices[i], device) == 0)
            return x->out.proofs[i];
    return NULL;
}

static bool keep_proof(void *arg, const struct cs_store_proof *p)
{
    struct looking *l = arg;
    Clawsync__V1__StateProof *out = proof_of(l->x, &p->device);
    struct cs_slice copy;

    if (out == NULL)
        return true; /* of one that was removed */
    copy = cs_arena_copy(&l->r->arena, p->proof);
    l->failed = copy.data == NULL;
    out->log_id = p->log_id;
    out->log_number = p->number;
    out->fresh = p->given == l->x->state.reference.given;
    out->proof = (ProtobufCBinaryData){ copy.len, (uint8_t *)(uintptr_t)copy.data };
    return !l->failed;
}

static bool proofs_begin(struct cs_req *r, struct reconcile *x, cs_store_tx *tx, const struct cs_store_head *head,
                         struct cs_error *err)
{
    Clawsync__V1__StateProof *proof;

    x->devices = cs_arena_zalloc(&r->arena, DEVICES_MAX, sizeof *x->devices);
    if (x->devices == NULL)
        return no_memory(&r->verdict);
    if (cs_members_devices(r->env->members, tx, &r->who.workspace, head, x->devices, DEVICES_MAX, &x->ndevices, err) !=
        CS_OK) {
        cs_refuse_storage(&r->verdict, err);
        return false;
    }
    proof = cs_arena_zalloc(&r->arena, x->ndevices + 1, sizeof *proof);
    x->out.proofs = cs_arena_zalloc(&r->arena, x->ndevices + 1, sizeof *x->out.proofs);
    if (proof == NULL || x->out.proofs == NULL)
        return no_memory(&r->verdict);
    for (size_t i = 0; i < x->ndevices; i++) {
        clawsync__v1__state_proof__init(&proof[i]);
        proof[i].device_id = (ProtobufCBinaryData){ 16, x->devices[i].b };
        x->out.proofs[x->out.n_proofs++] = &proof[i];
    }
    return true;
}

static bool look(struct cs_req *r, struct reconcile *x, cs_store_tx *tx, const struct cs_store_head *head)
{
    struct looking l = { r, x, false };
    struct cs_error err = { 0 };
    int rc;

    if (!proofs_begin(r, x, tx, head, &err))
        return false;
    rc = tx->ops->wanted(tx, &r->who.workspace, &r->who.device, keep_tag, &l, &err);
    if (rc == CS_OK)
        rc = tx->ops->proofs(tx, &r->who.workspace, keep_proof, &l, &err);
    if (rc == CS_OK && (l.failed || x->tags.failed))
        return no_memory(&r->verdict);
    if (rc != CS_OK) {
        cs_refuse_storage(&r->verdict, &err);
        return false;
    }
    x->out.wanted = (ProtobufCBinaryData){ x->tags.len, x->tags.data };
    x->out.head_number = head->number;
    return true;
}

static void put_reference(struct reconcile *x)
{
    struct cs_store_reference *ref = &x->state.reference;

    x->out.give = x->state.give;
    x->out.device_id = (ProtobufCBinaryData){ 16, ref->device.b };
    x->out.log_id = ref->log_id;
    x->out.log_number = ref->number;
    x->out.epoch = ref->epoch;
    x->out.rows = ref->rows;
    x->out.whole = ref->whole;
    x->out.only_prove = ref->only_prove;
}

static void ranges_read(struct cs_req *r, struct reconcile *x)
{
    const Clawsync__V1__ReconcileRangesRequest *in = x->in;
    struct cs_store_head head;
    struct cs_error err = { 0 };
    bool exists;
    cs_store_tx *tx;
    int rc;

    if (!cs_read_begin(r->env, &r->who.workspace, &r->who.device, CS_ALLOW_MEMBERS, &tx, &head, &r->verdict))
        return;
    rc = tx->ops->reference(tx, &r->who.workspace, &x->state.reference, &err);
    exists = rc == CS_OK;
    if (rc != CS_OK && rc != CS_ENOTFOUND) {
        cs_refuse_storage(&r->verdict, &err);
    } else if (in->action == CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_LOOK) {
        look(r, x, tx, &head);
        if (exists)
            put_reference(x);
    } else if (cs_reference_readable(&x->state.reference, exists, &r->who.device, in->log_id, in->log_number, in->epoch,
                                     &r->verdict)) {
        if (in->action == CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_SUMS)
            read_sums(r, x, tx);
        else
            read_leaves(r, x, tx);
    }
    cs_store_rollback(tx);
}

/* ---- ReconcileRanges: writing ---- */

static bool read_buckets(struct cs_req *r, struct reconcile *x)
{
    size_t n = x->in->n_buckets;
    struct cs_store_bucket *b = cs_arena_zalloc(&r->arena, n + 1, sizeof *b);

    if (b == NULL)
        return no_memory(&r->verdict);
    for (size_t i = 0; i < n; i++) {
        const Clawsync__V1__StateBucket *in = x->in->buckets[i];

        b[i].prefix = in->prefix;
        b[i].leaves = cs_slice(in->leaves.data, in->leaves.len);
        if (in->prefix >= CS_BUCKETS || !cs_leaves_valid(b[i].leaves, in->prefix))
            return invalid(&r->verdict, "a bucket whose leaves are not its, or not in their order");
        if (b[i].leaves.len > CS_BUCKET_MAX_BYTES)
            return cs_refuse(&r->verdict, CS_RPC_RESOURCE_EXHAUSTED, "limit",
                             "more than %d entities in one of %d buckets", CS_BUCKET_MAX_BYTES / CS_LEAF_LEN,
                             (int)CS_BUCKETS);
    }
    x->state.buckets = b;
    x->state.nbuckets = n;
    return true;
}

static const struct {
    Clawsync__V1__ReconcileAction in;
    enum cs_state_action out;
} writing[] = {
    { CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_BEGIN, CS_STATE_BEGIN },
    { CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_PUT, CS_STATE_PUT },
    { CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_END, CS_STATE_END },
    { CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_WANT, CS_STATE_WANT },
    { CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_GAVE, CS_STATE_GAVE },
    { CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_PROVE, CS_STATE_PROVE },
};

static bool ranges_parse(struct cs_req *r, struct reconcile *x)
{
    const Clawsync__V1__ReconcileRangesRequest *in = x->in;
    struct cs_state_write *s = &x->state;

    if (!cs_parse_caller(r, in->workspace_id, in->device_id))
        return false;
    for (size_t i = 0; i < sizeof writing / sizeof writing[0]; i++)
        if (writing[i].in == in->action) {
            x->writes = true;
            s->action = writing[i].out;
        }
    if (!x->writes)
        return (in->action >= CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_LOOK &&
                in->action <= CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_LEAVES) ||
               invalid(&r->verdict, "no such action");
    s->log_id = in->log_id;
    s->number = in->log_number;
    s->epoch = in->epoch;
    s->only_prove = in->only_prove;
    s->take = in->take;
    s->rows = in->rows;
    s->tags = cs_slice(in->tags.data, in->tags.len);
    s->proof = cs_slice(in->proof.data, in->proof.len);
    if (s->tags.len % CS_TAG_LEN != 0 || s->proof.len > PROOF_MAX ||
        (s->action == CS_STATE_PROVE && s->proof.len == 0) ||
        (s->action == CS_STATE_END && in->sum.len != sizeof s->sum))
        return invalid(&r->verdict, "tags, a proof or a sum of a wrong length");
    if (in->sum.len == sizeof s->sum)
        memcpy(s->sum, in->sum.data, sizeof s->sum);
    return read_buckets(r, x);
}

static void ranges_work(struct cs_req *r)
{
    struct reconcile *x = r->state;
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);

    clawsync__v1__reconcile_ranges_response__init(&x->out);
    x->in = clawsync__v1__reconcile_ranges_request__unpack(&alloc, r->in.len, r->in.data);
    if (x->in == NULL)
        cs_unparsable(&r->verdict, &r->arena);
    else if (ranges_parse(r, x) && !x->writes)
        ranges_read(r, x);
}

static bool ranges_answer(struct cs_req *r, struct reconcile *x)
{
    if (x->writes && x->state.action == CS_STATE_BEGIN)
        put_reference(x);
    for (size_t i = 0; i < x->out.n_proofs; i++)
        x->out.proofs[i]->watching = cs_watch_has(r->hub, &r->who.workspace, &x->devices[i]);
    return cs_pb_pack(&r->out, &x->out.base, &r->verdict);
}

static void ranges_written(struct cs_write *w)
{
    written_end(w, ranges_answer);
}

static void ranges_done(struct cs_req *r)
{
    struct reconcile *x = r->state;

    cs_presence_seen(r->hub, &r->who.workspace, &r->who.device);
    if (!x->writes) {
        if (!ranges_answer(r, x) || cs_req_send(r))
            cs_req_finish(r);
    } else if (!cs_sessions_may_push(r->hub->sessions, &r->who.workspace, r->in.len)) {
        cs_refuse(&r->verdict, CS_RPC_RESOURCE_EXHAUSTED, "limit",
                  "the workspace sends more bytes a second than this hub takes; try again");
        cs_req_finish(r);
    } else {
        submit(r, x, ranges_written);
    }
}

static const struct cs_req_ops ranges_ops = { .name = "ReconcileRanges",
                                              .work = ranges_work,
                                              .done = ranges_done,
                                              .fini = reconcile_fini,
                                              .state_bytes = sizeof(struct reconcile) };

void cs_reconcile_ranges_start(cs_rpc_call *c, void *service)
{
    cs_req_start(c, service, &ranges_ops);
}
