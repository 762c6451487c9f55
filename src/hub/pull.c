/* Pull: the log from the client's cursor to the head as it was when the call began, one bounded message at a time. A
 * page is read only when the stream has room for it, so a slow reader costs two pages of memory however much it wants.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "hub/internal.h"

enum { PAGE_CHUNKS = 1024, MAX_TYPES = 256 };

struct pull {
    /* From the request. */
    struct cs_uuid workspace, device;
    bool own_in_full, from_first, started;
    char *const *types; /* in the request's arena; ntypes 0: all */
    size_t ntypes;
    uint64_t max_chunks; /* UINT64_MAX: no limit */
    /* The position: what comes next, and where it ends. */
    uint64_t number, end;
    uint32_t seq;
    uint64_t nchunks;            /* sent so far */
    bool cut;                    /* max_chunks ended it before `end`, behind a whole batch */
    bool last;                   /* the page at hand is the last message */
    bool waiting;                /* for the stream to have room */
    uint64_t given, given_bytes; /* batches and bytes of ciphertext in the page */
    struct cs_signed_head head;  /* as of the beginning */
    struct cs_arena page;
};

/* What a page is going to hold. */
struct planned {
    struct cs_store_batch b; /* slices in the page's arena */
    uint32_t nchunks;
    size_t sealed; /* bytes of all of them, as the header says */
    bool full;
};
struct plan {
    struct pull *p;
    struct planned *batch;
    size_t n, bytes;
    uint64_t nchunks;
    bool cut; /* max_chunks lets no more in */
    bool failed;
};
/* Chunks go into the message as they are read; what else is in it comes behind them. */
struct page {
    struct pull *p;
    struct cs_buf *out;
    const struct plan *plan;
    size_t at; /* the planned batch that comes next */
    size_t n;  /* chunks in the page */
    bool failed;
};

static bool type_listed(const struct pull *p, struct cs_slice type)
{
    for (size_t i = 0; i < p->ntypes; i++)
        if (cs_slice_eq(type, cs_slice_str(p->types[i])))
            return true;
    return p->ntypes == 0;
}

/* An empty slice has non-NULL data, so that "copied" and "out of memory" differ. */
static bool keep(struct cs_arena *a, struct cs_slice *s)
{
    *s = cs_arena_copy(a, *s);
    return s->data != NULL;
}

/* The same with a NUL behind it. */
static bool keep_text(struct cs_arena *a, struct cs_slice *s)
{
    char *text = cs_arena_alloc(a, s->len + 1);

    if (text == NULL)
        return false;
    if (s->len > 0)
        memcpy(text, s->data, s->len);
    text[s->len] = '\0';
    s->data = (const uint8_t *)text;
    return true;
}

static bool plan_batch(void *arg, const struct cs_store_batch *b)
{
    struct plan *plan = arg;
    struct pull *p = plan->p;
    struct planned *next = &plan->batch[plan->n];
    struct cs_batch_header h;
    uint32_t skip = plan->n == 0 ? p->seq : 0; /* what earlier pages had of it */
    uint64_t cost, sent = p->nchunks + plan->nchunks;

    next->b = *b;
    next->nchunks = (uint32_t)(b->payload_hashes.len / 32);
    next->full = (p->own_in_full || cs_uuid_cmp(&b->device, &p->device) != 0) && type_listed(p, b->entity_type);
    cost = next->full ? next->nchunks - skip : 1;
    /* Whole batches only, and at least one, whatever the limit. */
    if (skip == 0 && sent > 0 && (sent >= p->max_chunks || cost > p->max_chunks - sent)) {
        plan->cut = true;
        return false;
    }
    if (!keep(&p->page, &next->b.header) || !keep(&p->page, &next->b.signature) ||
        !keep(&p->page, &next->b.payload_hashes) || !keep_text(&p->page, &next->b.entity_type)) {
        plan->failed = true;
        return false;
    }
    next->sealed = next->full && cs_batch_header_decode(&h, b->header, NULL) == CS_OK ? cs_batch_sealed_len(&h) : 0;
    plan->bytes += b->header.len + b->signature.len + b->payload_hashes.len + 128 + next->sealed;
    plan->nchunks += cost;
    plan->n++;
    return plan->bytes < CS_HUB_PAGE && plan->n < PAGE_CHUNKS;
}

/* Field 1 of a PullResponse: a chunk message; on the batch's first chunk with the envelope. */
static bool chunk_put(struct page *pg, uint32_t seq, struct cs_slice payload, struct cs_slice hash)
{
    enum { TAG = 1 << 3 | 2 };
    const struct planned *of = &pg->plan->batch[pg->at];
    const struct cs_store_batch *b = &of->b;
    Clawsync__V1__DeltaChunk c = CLAWSYNC__V1__DELTA_CHUNK__INIT;
    Clawsync__V1__Envelope e = CLAWSYNC__V1__ENVELOPE__INIT;
    char id[23];
    uint8_t *to;
    size_t len;

    cs_chunk_id(b->payload_hashes.data + (size_t)seq * 32, id);
    c.chunk_id = id;
    c.seq = (int32_t)seq;
    c.total = (int32_t)of->nchunks;
    c.entity_type = (char *)(uintptr_t)b->entity_type.data;
    c.encrypted_payload = (ProtobufCBinaryData){ payload.len, (uint8_t *)(uintptr_t)payload.data };
    c.payload_hash = (ProtobufCBinaryData){ hash.len, (uint8_t *)(uintptr_t)hash.data };
    if (seq == 0) {
        e.header = (ProtobufCBinaryData){ b->header.len, (uint8_t *)(uintptr_t)b->header.data };
        e.signature = (ProtobufCBinaryData){ b->signature.len, (uint8_t *)(uintptr_t)b->signature.data };
        e.payload_hashes = (ProtobufCBinaryData){ b->payload_hashes.len, (uint8_t *)(uintptr_t)b->payload_hashes.data };
        e.log_number = b->number;
        c.envelope = &e;
        pg->p->given++;
    }
    len = clawsync__v1__delta_chunk__get_packed_size(&c);
    cs_buf_put_u8(pg->out, TAG);
    cs_buf_put_varint(pg->out, len);
    if ((to = cs_buf_grow(pg->out, len)) == NULL)
        return false;
    clawsync__v1__delta_chunk__pack(&c, to);
    pg->n++;
    pg->p->nchunks++;
    return true;
}

static bool page_is_full(const struct page *pg)
{
    return pg->n >= PAGE_CHUNKS || pg->out->len >= CS_HUB_PAGE;
}

static void batch_passed(struct page *pg)
{
    pg->at++;
    pg->p->number++;
    pg->p->seq = 0;
}

static bool page_payload(void *arg, uint64_t number, uint32_t seq, struct cs_slice payload)
{
    struct page *pg = arg;
    struct pull *p = pg->p;
    const struct planned *of = &pg->plan->batch[pg->at];

    if (number != p->number || seq != p->seq || seq >= of->nchunks ||
        !chunk_put(pg, seq, payload, cs_slice(of->b.payload_hashes.data + (size_t)seq * 32, 32))) {
        pg->failed = true;
        return false;
    }
    p->given_bytes += payload.len;
    if (++p->seq == of->nchunks)
        batch_passed(pg);
    return !page_is_full(pg);
}

/* Batches next to each other whose chunks go out are read in one go: up to which one, and how many chunks of about
 * their batches' mean size fill the page. */
static size_t run_end(const struct page *pg, uint32_t *nchunks)
{
    size_t at = pg->at, bytes = pg->out->len;
    uint32_t skip = pg->p->seq;

    *nchunks = 0;
    for (;
         at < pg->plan->n && pg->plan->batch[at].full && pg->plan->batch[at].b.number == pg->p->number + (at - pg->at);
         at++, skip = 0) {
        const struct planned *of = &pg->plan->batch[at];
        size_t each = of->nchunks == 0 ? 0 : of->sealed / of->nchunks;

        for (uint32_t seq = skip; seq < of->nchunks && bytes < CS_HUB_PAGE; seq++, bytes += each)
            ++*nchunks;
        if (of->nchunks <= skip)
            break;
        if (bytes >= CS_HUB_PAGE)
            return at + 1;
    }
    return at;
}

static bool run_read(struct page *pg, cs_store_tx *tx, struct cs_verdict *v)
{
    struct pull *p = pg->p;
    struct cs_error err = { 0 };
    uint32_t most;
    size_t end = run_end(pg, &most), before = pg->n;

    if (most > PAGE_CHUNKS - pg->n)
        most = (uint32_t)(PAGE_CHUNKS - pg->n);
    if (end > pg->at && most > 0 &&
        tx->ops->chunks(tx, &p->workspace, p->number, p->seq, p->number + (end - pg->at) - 1, most, page_payload, pg,
                        &err) != CS_OK) {
        cs_refuse_storage(v, &err);
        return false;
    }
    if (pg->out->failed)
        return cs_refuse(v, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    if (pg->failed)
        return cs_refuse(v, CS_RPC_INTERNAL, "storage", "a batch could not be read from the hub's log");
    return pg->n > before || cs_refuse(v, CS_RPC_INTERNAL, "storage", "a chunk is missing from the hub's log");
}

/* Puts the planned batches in the page, the last one perhaps in part; p->number and p->seq follow. */
static bool page_fill(struct page *pg, cs_store_tx *tx, struct cs_verdict *v)
{
    while (pg->at < pg->plan->n && !page_is_full(pg)) {
        const struct planned *next = &pg->plan->batch[pg->at];

        if (next->b.number != pg->p->number)
            return cs_refuse(v, CS_RPC_INTERNAL, "storage", "the hub's log has a gap");
        if (next->full && !run_read(pg, tx, v))
            return false;
        if (next->full)
            continue;
        if (!chunk_put(pg, 0, CS_SLICE_NULL, CS_SLICE_NULL))
            return cs_refuse(v, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
        batch_passed(pg);
    }
    return true;
}

static bool page_answer(struct cs_req *r)
{
    struct pull *p = r->state;
    Clawsync__V1__PullResponse answer = CLAWSYNC__V1__PULL_RESPONSE__INIT;
    Clawsync__V1__SyncCursor cursor;
    Clawsync__V1__HubHead head;
    struct cs_cursor_text text;
    uint8_t *to;

    answer.has_more = !p->last || p->cut;
    cs_cursor_message(&p->workspace, &p->device, p->number - 1, p->head.head.log_id, cs_now_ms(r->env->world), &text,
                      &cursor);
    answer.server_cursor = &cursor;
    if (p->last) {
        cs_head_message(&p->head, &head);
        answer.head = &head;
    }
    if ((to = cs_buf_grow(&r->out, clawsync__v1__pull_response__get_packed_size(&answer))) == NULL)
        return cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    clawsync__v1__pull_response__pack(&answer, to);
    return true;
}

static bool pull_parse(struct cs_req *r, struct pull *p, uint64_t *log_id)
{
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    const Clawsync__V1__PullRequest *req = clawsync__v1__pull_request__unpack(&alloc, r->in.len, r->in.data);
    const Clawsync__V1__SyncCursor *c;

    if (req == NULL)
        return cs_unparsable(&r->verdict, &r->arena);
    if ((c = req->client_cursor) == NULL)
        return cs_refuse(&r->verdict, CS_RPC_INVALID_ARGUMENT, "validation", "the client cursor is missing");
    p->workspace = r->who.workspace;
    p->device = r->who.device;
    if (!cs_parse_caller(r, req->workspace_id[0] != '\0' ? req->workspace_id : c->workspace_id, c->device_id))
        return false;
    if (c->workspace_id[0] != '\0' && req->workspace_id[0] != '\0' && strcmp(c->workspace_id, req->workspace_id) != 0)
        return cs_refuse(&r->verdict, CS_RPC_INVALID_ARGUMENT, "validation", "the cursor is of another workspace");
    if (c->lamport_clock < 0 || c->lamport_clock == INT64_MAX || req->max_chunks < 0 || req->n_entity_types > MAX_TYPES)
        return cs_refuse(&r->verdict, CS_RPC_INVALID_ARGUMENT, "validation",
                         "the log number or max_chunks is negative, or there are more than %d entity types", MAX_TYPES);
    p->number = (uint64_t)c->lamport_clock + 1;
    p->max_chunks = req->max_chunks == 0 ? UINT64_MAX : (uint64_t)req->max_chunks;
    p->own_in_full = req->own_in_full;
    p->from_first = req->from_first;
    p->types = req->entity_types;
    p->ntypes = req->n_entity_types;
    *log_id = c->log_id;
    return true;
}

static bool log_is(struct cs_verdict *v, const struct cs_store_head *head, uint64_t log_id)
{
    if (log_id == 0 || log_id == head->log_id)
        return true;
    return cs_refuse(v, CS_RPC_FAILED_PRECONDITION, "storage", "log-replaced: the hub's log is another one");
}

/* What was pruned is in a snapshot. */
static bool begins_there(struct cs_verdict *v, const struct cs_store_head *head, struct pull *p)
{
    if (p->number > head->pruned)
        return true;
    if (!p->from_first)
        return cs_refuse(v, CS_RPC_FAILED_PRECONDITION, "pruned",
                         "pruned: the log begins at number %" PRIu64 " by now; fetch the snapshot", head->pruned + 1);
    p->number = head->pruned + 1;
    return true;
}

static bool page_read(struct cs_req *r, struct pull *p, cs_store_tx *tx)
{
    struct plan plan = { .p = p };
    struct page pg = { .p = p, .out = &r->out, .plan = &plan };
    struct cs_error err = { 0 };
    uint64_t first = p->number;

    plan.batch = cs_arena_alloc(&p->page, PAGE_CHUNKS * sizeof *plan.batch);
    if (plan.batch == NULL)
        return cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    if (p->number <= p->end &&
        tx->ops->batches(tx, &p->workspace, p->number, p->end, plan_batch, &plan, &err) != CS_OK) {
        cs_refuse_storage(&r->verdict, &err);
        return false;
    }
    if (plan.failed)
        return cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    if (plan.n == 0 && !plan.cut && p->number <= p->end)
        return cs_refuse(&r->verdict, CS_RPC_INTERNAL, "storage", "the hub's log has a gap");
    cs_buf_reset(&r->out);
    /* what is larger than this grows it */
    cs_buf_reserve(&r->out, plan.bytes < CS_HUB_PAGE ? plan.bytes + plan.nchunks * 128 + 512 : CS_HUB_PAGE + 72 * 1024);
    if (!page_fill(&pg, tx, &r->verdict))
        return false;
    p->cut = plan.cut && p->number == first + plan.n; /* all that was planned is in this page */
    p->last = p->number > p->end || p->cut;
    return page_answer(r);
}

static void pull_work(struct cs_req *r)
{
    struct pull *p = r->state;
    struct cs_store_head head;
    uint64_t log_id = p->started ? p->head.head.log_id : 0;
    cs_store_tx *tx;

    cs_arena_reset(&p->page);
    p->given = p->given_bytes = 0;
    if ((!p->started && !pull_parse(r, p, &log_id)) ||
        !cs_read_begin(r->env, &p->workspace, &p->device, CS_ALLOW_MEMBERS, &tx, &head, &r->verdict))
        return;
    if (log_is(&r->verdict, &head, log_id)) {
        if (!p->started) {
            p->started = true;
            p->end = head.number;
            cs_head_sign(r->env, &p->workspace, &head, &p->head);
        }
        if (begins_there(&r->verdict, &head, p))
            page_read(r, p, tx);
    }
    cs_store_rollback(tx);
}

static void pull_next(struct cs_req *r)
{
    struct pull *p = r->state;

    p->waiting = cs_rpc_call_queued(r->call) >= CS_HUB_STREAM_QUEUED;
    if (!p->waiting)
        cs_req_work(r);
}

static void pull_done(struct cs_req *r)
{
    struct pull *p = r->state;

    if (!cs_req_give(r))
        return;
    cs_metrics_given(r->hub->metrics, p->given, p->given_bytes);
    if (!p->last) {
        pull_next(r);
        return;
    }
    cs_presence_seen(r->hub, &p->workspace, &p->device);
    if (p->number - 1 <= p->end)
        cs_presence_pulled(r->hub, &p->workspace, &p->device, p->head.head.log_id, p->number - 1,
                           p->head.head.prune_to != 0);
    cs_req_finish(r);
}

static void pull_writable(struct cs_req *r)
{
    struct pull *p = r->state;

    if (p->waiting && !r->busy)
        pull_next(r);
}

static void pull_fini(struct cs_req *r)
{
    struct pull *p = r->state;

    cs_arena_free(&p->page);
}

static const struct cs_req_ops pull_ops = { .name = "Pull",
                                            .work = pull_work,
                                            .done = pull_done,
                                            .writable = pull_writable,
                                            .fini = pull_fini,
                                            .state_bytes = sizeof(struct pull) };

void cs_pull_start(cs_rpc_call *c, void *service)
{
    cs_req_start(c, service, &pull_ops);
}
