/* Push: each message is one batch. Batches of a stream are checked on workers side by side, written in the order in
 * which they came, and answered in that order, each after it is durable. A refused batch does not end the stream.
 *
 *   checking ──▶ checked ──▶ writing ──▶ settled ──▶ answered and gone
 *                   └───── refused ────────▲
 * Only items before the first one that is still being checked move on to writing; only the first item is answered. */
#include <stdlib.h>

#include "hub/internal.h"

enum { BUDGET = 256 * 1024 * 1024 }; /* bytes of all streams; above it each stream has one batch at a time */

enum stage { CHECKING, CHECKED, WRITING, SETTLED };

struct item {
    struct cs_job job;     /* first: a job is its item */
    struct cs_write write; /* its verdict is the item's */
    struct cs_push *push;
    struct item *next;
    enum stage stage;
    size_t bytes;      /* of the message */
    struct cs_buf raw; /* the message, until it is parsed */
    struct cs_arena arena;
    struct cs_batch batch;
    bool unparsable; /* ends the stream: what comes behind cannot be trusted to be messages either */
};

struct cs_push {
    struct cs_hub *hub;
    cs_rpc_call *call; /* NULL: over */
    struct cs_push *next, **link;
    struct cs_caller who;
    struct item *first, **last;
    size_t nitems, bytes;
    bool half_closed, paused, ended;
};

static void item_free(struct item *it)
{
    cs_buf_free(&it->raw);
    cs_buf_free(&it->write.stored);
    cs_arena_free(&it->arena);
    free(it);
}

/* ---- checking, on a worker ---- */

static bool device_key(const struct cs_commit_env *env, const struct cs_batch_header *h, uint8_t pk[32],
                       struct cs_verdict *v)
{
    struct cs_member_info member = { 0 };
    struct cs_store_head head;
    struct cs_error err = { 0 };
    cs_store_tx *tx = NULL;
    int rc;

    if (cs_members_cached_key(env->members, &h->workspace, &h->device, pk))
        return true;
    if ((rc = cs_store_begin(env->store, CS_STORE_READ, &h->workspace, 1, &tx, &err)) == CS_OK &&
        (rc = tx->ops->head(tx, &h->workspace, &head, &err)) == CS_OK)
        rc = cs_members_find(env->members, tx, &h->workspace, &head, &h->device, &member, &err);
    cs_store_rollback(tx);
    if (rc != CS_OK && rc != CS_ENOTFOUND) {
        cs_refuse_storage(v, &err);
        return false;
    }
    if (member.kind == 0)
        return cs_refuse_stranger(v);
    memcpy(pk, member.sign_pk, 32);
    return true;
}

/* A batch is taken from the device that made it only: others have no business with its number. */
static bool is_callers(const struct item *it, struct cs_verdict *v)
{
    const struct cs_caller *who = &it->push->who;

    return (cs_uuid_cmp(&it->batch.h.workspace, &who->workspace) == 0 &&
            cs_uuid_cmp(&it->batch.h.device, &who->device) == 0) ||
           cs_refuse_stranger(v);
}

static void check_run(struct cs_job *j)
{
    struct item *it = (struct item *)j;
    struct cs_verdict *v = &it->write.verdict;
    ProtobufCAllocator alloc = cs_pb_arena(&it->arena);
    const Clawsync__V1__PushRequest *req = clawsync__v1__push_request__unpack(&alloc, it->raw.len, it->raw.data);
    uint8_t pk[32];

    cs_buf_free(&it->raw);
    if (req == NULL) {
        it->unparsable = true;
        cs_unparsable(v, &it->arena);
        return;
    }
    if (cs_rules_shape(&it->batch, req, &it->arena, v) && is_callers(it, v) &&
        device_key(&it->push->hub->env, &it->batch.h, pk, v))
        cs_rules_signature(&it->batch, pk, v);
}

/* ---- answers ---- */

static void stored_message(const struct cs_write *w, Clawsync__V1__Envelope *out)
{
    const size_t at_hashes = CS_BATCH_HEADER_LEN + CS_SIGNATURE_LEN;

    clawsync__v1__envelope__init(out);
    out->header = (ProtobufCBinaryData){ CS_BATCH_HEADER_LEN, w->stored.data };
    out->signature = (ProtobufCBinaryData){ CS_SIGNATURE_LEN, w->stored.data + CS_BATCH_HEADER_LEN };
    out->payload_hashes = (ProtobufCBinaryData){ w->stored.len - at_hashes, w->stored.data + at_hashes };
    out->log_number = w->log_number;
}

static bool answer_pack(struct item *it, struct cs_buf *out)
{
    struct cs_write *w = &it->write;
    Clawsync__V1__PushResponse answer = CLAWSYNC__V1__PUSH_RESPONSE__INIT;
    Clawsync__V1__SyncCursor cursor;
    Clawsync__V1__HubHead head;
    Clawsync__V1__Envelope stored;
    struct cs_cursor_text text;
    struct cs_verdict failed = { 0 };
    char *bad = (char *)(uintptr_t)it->batch.bad_chunk;
    uint8_t mac[CS_ANSWER_MAC_LEN];

    answer.accepted = w->verdict.status == CS_RPC_OK;
    answer.status = w->verdict.status;
    if (!answer.accepted) {
        answer.reason = w->verdict.reason;
        answer.kind = (char *)(uintptr_t)w->verdict.kind;
    } else {
        answer.log_number = w->log_number;
    }
    answer.batch_hash = (ProtobufCBinaryData){ sizeof it->batch.hash, it->batch.hash };
    cs_gate_push_mac(it->push->call, &answer, mac);
    answer.mac = (ProtobufCBinaryData){ sizeof mac, mac };
    if (bad != NULL) {
        answer.rejected_chunk_ids = &bad;
        answer.n_rejected_chunk_ids = 1;
    }
    if (w->stored.len > CS_BATCH_HEADER_LEN + CS_SIGNATURE_LEN) {
        stored_message(w, &stored);
        answer.stored = &stored;
    }
    if (w->has_head) {
        cs_head_message(&w->head, &head);
        answer.head = &head;
        cs_cursor_message(&w->workspace, &it->batch.h.device, w->head.head.number, w->head.head.log_id,
                          cs_now_ms(it->push->hub->world), &text, &cursor);
        answer.server_cursor = &cursor;
    }
    return cs_pb_pack(out, &answer.base, &failed);
}

static void push_end(struct cs_push *p, int status, const char *kind, const char *why)
{
    struct cs_verdict v = { 0 };

    if (p->ended || p->call == NULL)
        return;
    p->ended = true;
    if (status != CS_RPC_OK)
        cs_refuse(&v, status, kind, "%s", why);
    cs_gate_finish(p->call, &v, NULL, 0);
}

static void count(const struct cs_push *p, const struct item *it)
{
    if (it->write.verdict.status != CS_RPC_OK)
        cs_metrics_batch_refused(p->hub->metrics);
    else if (it->write.changed)
        cs_metrics_stored(p->hub->metrics, it->batch.h.nops, it->batch.bytes);
    else
        cs_metrics_batch_repeated(p->hub->metrics);
}

static void answer_send(struct cs_push *p, struct item *it)
{
    struct cs_buf out = { 0 };

    if (p->call == NULL || p->ended)
        return;
    if (it->unparsable)
        push_end(p, it->write.verdict.status, it->write.verdict.kind, it->write.verdict.reason);
    else if (!answer_pack(it, &out) || cs_rpc_call_send(p->call, cs_buf_slice(&out)) != CS_OK)
        push_end(p, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    cs_buf_free(&out);
}

/* ---- the stream ---- */

static void push_free_if_over(struct cs_push *p)
{
    if (p->call == NULL && p->first == NULL)
        free(p);
}

static bool has_room(const struct cs_push *p)
{
    if (cs_rpc_call_queued(p->call) >= CS_HUB_STREAM_QUEUED) /* who does not take answers gets none */
        return false;
    return p->nitems == 0 ||
           (p->hub->push_bytes < BUDGET && p->nitems < CS_HUB_PUSH_INFLIGHT && p->bytes < CS_HUB_PUSH_BYTES);
}

static void push_flow(struct cs_push *p)
{
    bool pause;

    if (p->call == NULL || p->ended)
        return;
    pause = p->hub->stopping || !has_room(p);
    if (pause == p->paused)
        return;
    p->paused = pause;
    cs_rpc_call_read(p->call, !pause);
}

static void write_done(struct cs_write *w);

enum { HOLD_MS = 30 * 1000 };

void cs_hold(struct cs_hub *h, const struct cs_uuid *workspace, const struct cs_uuid *device)
{
    h->holds[h->next_hold++ % CS_HUB_HOLDS] =
        (struct cs_hold){ *workspace, *device, cs_loop_now_ms(h->loop) + HOLD_MS };
}

static bool is_held(struct item *it)
{
    const struct cs_hub *h = it->push->hub;
    uint64_t now = cs_loop_now_ms(h->loop);

    for (size_t i = 0; i < CS_HUB_HOLDS; i++)
        if (now < h->holds[i].until_ms && cs_uuid_cmp(&h->holds[i].device, &it->batch.h.device) == 0 &&
            cs_uuid_cmp(&h->holds[i].workspace, &it->batch.h.workspace) == 0) {
            cs_refuse(&it->write.verdict, CS_RPC_UNAVAILABLE, "held",
                      "somebody is removing this device; batches are taken again in half a minute if it stays");
            return true;
        }
    return false;
}

static bool is_too_much(struct item *it)
{
    if (cs_sessions_may_push(it->push->hub->sessions, &it->batch.h.workspace, it->batch.bytes))
        return false;
    cs_refuse(&it->write.verdict, CS_RPC_RESOURCE_EXHAUSTED, "limit",
              "the workspace sends more bytes per second than this hub lets it (CLAW_SYNC_QUOTA_BYTES_PER_SECOND); "
              "try again in a few seconds");
    return true;
}

static void item_submit(struct item *it)
{
    struct cs_push *p = it->push;

    if (it->write.verdict.status != CS_RPC_OK || p->call == NULL || p->ended || is_held(it) || is_too_much(it)) {
        it->stage = SETTLED; /* nobody waits for it any more: the client sends it again */
        return;
    }
    it->stage = WRITING;
    it->write.kind = CS_WRITE_BATCH;
    it->write.workspace = it->batch.h.workspace;
    it->write.batch = &it->batch;
    it->write.bytes = it->batch.bytes;
    it->write.done = write_done;
    cs_writer_submit(p->hub, &it->write);
}

static void push_pump(struct cs_push *p)
{
    struct item *it;

    for (it = p->first; it != NULL && it->stage != CHECKING; it = it->next)
        if (it->stage == CHECKED)
            item_submit(it);
    while ((it = p->first) != NULL && it->stage == SETTLED) {
        count(p, it);
        answer_send(p, it);
        if ((p->first = it->next) == NULL)
            p->last = &p->first;
        p->nitems--;
        p->bytes -= it->bytes;
        p->hub->push_bytes -= it->bytes;
        item_free(it);
    }
    if (p->first == NULL && p->half_closed)
        push_end(p, CS_RPC_OK, NULL, NULL);
    else if (p->first == NULL && p->hub->stopping)
        push_end(p, CS_RPC_UNAVAILABLE, "transport", "the hub is shutting down");
    push_flow(p);
    push_free_if_over(p);
}

static void check_done(struct cs_job *j)
{
    struct item *it = (struct item *)j;

    it->stage = CHECKED;
    push_pump(it->push);
}

static void write_done(struct cs_write *w)
{
    struct item *it = (struct item *)((char *)w - offsetof(struct item, write));

    it->stage = SETTLED;
    push_pump(it->push);
}

void cs_push_start(cs_rpc_call *c, void *service)
{
    static const struct cs_verdict no_memory = { CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again" };
    struct cs_hub *h = service;
    struct cs_push *p = calloc(1, sizeof *p);

    cs_gate_set_user(c, p);
    if (p == NULL) {
        cs_gate_finish(c, &no_memory, NULL, 0);
        return;
    }
    *p = (struct cs_push){ .hub = h, .call = c, .who = *cs_gate_caller(c), .next = h->pushes, .link = &h->pushes };
    p->last = &p->first;
    if (p->next != NULL)
        p->next->link = &p->next;
    h->pushes = p;
}

void cs_push_message(cs_rpc_call *c, void *service, struct cs_slice msg)
{
    struct cs_push *p = cs_gate_user(c);
    struct item *it;

    (void)service;
    if (p == NULL || p->ended)
        return;
    if ((it = calloc(1, sizeof *it)) != NULL)
        cs_buf_put_slice(&it->raw, msg);
    if (it == NULL || it->raw.failed) {
        free(it);
        push_end(p, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
        return;
    }
    it->job = (struct cs_job){ .run = check_run, .done = check_done };
    it->push = p;
    it->bytes = msg.len;
    *p->last = it;
    p->last = &it->next;
    p->nitems++;
    p->bytes += msg.len;
    p->hub->push_bytes += msg.len;
    if (cs_job_start(p->hub, &it->job) != CS_OK) {
        cs_refuse(&it->write.verdict, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
        it->stage = CHECKED;
    }
    push_pump(p);
}

void cs_push_half_close(cs_rpc_call *c, void *service)
{
    struct cs_push *p = cs_gate_user(c);

    (void)service;
    if (p == NULL)
        return;
    p->half_closed = true;
    push_pump(p);
}

void cs_push_writable(cs_rpc_call *c, void *service)
{
    struct cs_push *p = cs_gate_user(c);

    (void)service;
    if (p != NULL)
        push_flow(p);
}

void cs_push_closed(cs_rpc_call *c, void *service)
{
    struct cs_push *p = cs_gate_user(c);

    (void)service;
    if (p == NULL)
        return;
    p->call = NULL;
    *p->link = p->next;
    if (p->next != NULL)
        p->next->link = p->link;
    push_free_if_over(p);
}

void cs_push_stop(struct cs_hub *h)
{
    struct cs_push *next;

    for (struct cs_push *p = h->pushes; p != NULL; p = next) {
        next = p->next;
        push_pump(p);
    }
}
