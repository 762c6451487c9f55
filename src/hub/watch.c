/* Watch: the head at once, and again whenever the log or the membership moved. A slow reader gets only the newest. */
#include "hub/internal.h"

struct cs_watcher {
    struct cs_watcher *next, **link; /* among those of its bucket; link NULL: not listed */
    struct cs_req *req;
    struct cs_uuid workspace, device;
    struct cs_signed_head read; /* by the worker, while the request is busy */
    struct cs_signed_head newest;
    uint32_t member_seq; /* up to which its device is known to be a member */
    bool dirty;          /* newest was not sent yet */
    bool reconcile;      /* nor that there may be something to reconcile */
    bool snapshot;       /* nor a snapshot to attest */
};

static size_t bucket_at(const struct cs_uuid *ws)
{
    return cs_load_u32(ws->b + 12) % CS_HUB_WATCH_BUCKETS;
}

static struct cs_watcher **bucket_of(struct cs_hub *h, const struct cs_uuid *ws)
{
    return &h->watchers[bucket_at(ws)];
}

static void watcher_list(struct cs_watcher *w)
{
    w->link = bucket_of(w->req->hub, &w->workspace);
    w->next = *w->link;
    if (w->next != NULL)
        w->next->link = &w->next;
    *w->link = w;
    w->req->hub->nwatchers++;
}

static void watcher_unlist(struct cs_watcher *w)
{
    if (w->link == NULL)
        return;
    *w->link = w->next;
    if (w->next != NULL)
        w->next->link = w->link;
    w->link = NULL;
    w->req->hub->nwatchers--;
}

static void watcher_send(struct cs_watcher *w, Clawsync__V1__ConflictRecord **resolved, size_t n)
{
    Clawsync__V1__WatchResponse answer = CLAWSYNC__V1__WATCH_RESPONSE__INIT;
    Clawsync__V1__HubHead head;
    struct cs_req *r = w->req;

    cs_head_message(&w->newest, &head);
    answer.head = &head;
    answer.resolved = resolved;
    answer.n_resolved = n;
    answer.reconcile = w->reconcile;
    answer.snapshot = w->snapshot;
    w->dirty = w->reconcile = w->snapshot = false;
    if (!cs_pb_pack(&r->out, &answer.base, &r->verdict))
        cs_req_finish(r);
    else if (cs_req_send(r))
        cs_buf_free(&r->out);
}

/* Is a's head the later one? Log and membership only grow. */
static bool is_newer(const struct cs_signed_head *a, const struct cs_signed_head *b)
{
    return a->head.number > b->head.number || a->head.member_seq > b->head.member_seq ||
           a->head.log_id != b->head.log_id;
}

static void watcher_offer(struct cs_watcher *w, const struct cs_signed_head *head)
{
    if (!is_newer(head, &w->newest))
        return;
    w->newest = *head;
    w->dirty = true;
    if (w->req->call != NULL && !w->req->busy && cs_rpc_call_queued(w->req->call) == 0)
        watcher_send(w, NULL, 0);
}

static void watch_work(struct cs_req *r)
{
    struct cs_watcher *w = r->state;
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    const Clawsync__V1__WatchRequest *req;
    struct cs_store_head head;
    cs_store_tx *tx;

    if ((req = clawsync__v1__watch_request__unpack(&alloc, r->in.len, r->in.data)) == NULL) {
        cs_unparsable(&r->verdict, &r->arena);
        return;
    }
    w->workspace = r->who.workspace;
    w->device = r->who.device;
    if (!cs_parse_caller(r, req->workspace_id, req->device_id) ||
        !cs_read_begin(r->env, &w->workspace, &w->device, CS_ALLOW_MEMBERS, &tx, &head, &r->verdict))
        return;
    cs_store_rollback(tx);
    cs_head_sign(r->env, &w->workspace, &head, &w->read);
}

static void watcher_end(struct cs_req *r)
{
    cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "transport", "the hub is shutting down");
    cs_req_finish(r);
}

/* Twice: the first read lets the watcher be listed, the second one then misses nothing: what is committed before it is
 * in the head that it reads, what is committed after it is notified. */
static void watch_done(struct cs_req *r)
{
    struct cs_watcher *w = r->state;

    if (r->hub->stopping) {
        watcher_end(r);
        return;
    }
    if (w->link == NULL) {
        w->req = r;
        watcher_list(w);
        cs_presence_seen(r->hub, &w->workspace, &w->device);
        cs_req_work(r);
        return;
    }
    cs_buf_free(&r->in); /* from now on it waits, perhaps for days */
    cs_arena_free(&r->arena);
    w->member_seq = w->read.head.member_seq;
    watcher_offer(w, &w->read);
    if (w->dirty) /* a notification came while the worker read */
        watcher_send(w, NULL, 0);
}

static void watch_writable(struct cs_req *r)
{
    struct cs_watcher *w = r->state;

    if (w->dirty && !r->busy)
        watcher_send(w, NULL, 0);
}

static void watch_closed(struct cs_req *r)
{
    watcher_unlist(r->state);
}

static const struct cs_req_ops watch_ops = { .name = "Watch",
                                             .work = watch_work,
                                             .done = watch_done,
                                             .writable = watch_writable,
                                             .closed = watch_closed,
                                             .state_bytes = sizeof(struct cs_watcher) };

void cs_watch_start(cs_rpc_call *c, void *service)
{
    cs_req_start(c, service, &watch_ops);
}

void cs_watch_notify(struct cs_hub *h, const struct cs_uuid *ws, const struct cs_signed_head *head)
{
    for (struct cs_watcher *w = *bucket_of(h, ws); w != NULL; w = w->next)
        if (cs_uuid_cmp(&w->workspace, ws) == 0)
            watcher_offer(w, head);
}

void cs_watch_resolved(struct cs_hub *h, const struct cs_caller *by, const struct cs_signed_head *head,
                       Clawsync__V1__ConflictRecord **resolved, size_t n)
{
    for (struct cs_watcher *w = *bucket_of(h, &by->workspace), *next; w != NULL; w = next) {
        next = w->next;
        if (cs_uuid_cmp(&w->workspace, &by->workspace) != 0 || cs_uuid_cmp(&w->device, &by->device) == 0 ||
            w->req->call == NULL || w->req->busy || cs_rpc_call_queued(w->req->call) > 0)
            continue;
        if (is_newer(head, &w->newest))
            w->newest = *head;
        watcher_send(w, resolved, n);
    }
}

static size_t bucket_list(const struct cs_watcher *w, const struct cs_uuid *ws, struct cs_watched *out, size_t cap)
{
    size_t n = 0;

    for (; w != NULL; w = w->next) {
        if (ws != NULL && cs_uuid_cmp(&w->workspace, ws) != 0)
            continue;
        if (n < cap)
            out[n] = (struct cs_watched){ .workspace = w->workspace,
                                          .device = w->device,
                                          .log_id = w->newest.head.log_id,
                                          .number = w->newest.head.number,
                                          .told_seq = w->newest.head.member_seq,
                                          .member_seq = w->member_seq };
        n++;
    }
    return n;
}

size_t cs_watch_list(const struct cs_hub *h, const struct cs_uuid *ws, struct cs_watched *out, size_t cap)
{
    size_t n = 0;

    if (ws != NULL)
        return bucket_list(h->watchers[bucket_at(ws)], ws, out, cap);
    for (size_t i = 0; i < CS_HUB_WATCH_BUCKETS; i++)
        n += bucket_list(h->watchers[i], NULL, n < cap ? out + n : NULL, n < cap ? cap - n : 0);
    return n;
}

void cs_watch_checked(struct cs_hub *h, const struct cs_watched *checked)
{
    for (struct cs_watcher *w = *bucket_of(h, &checked->workspace); w != NULL; w = w->next)
        if (cs_uuid_cmp(&w->workspace, &checked->workspace) == 0 && cs_uuid_cmp(&w->device, &checked->device) == 0 &&
            w->member_seq < checked->member_seq)
            w->member_seq = checked->member_seq;
}

static void ring(struct cs_hub *h, const struct cs_uuid *ws, bool reconcile)
{
    for (struct cs_watcher *w = *bucket_of(h, ws), *next; w != NULL; w = next) {
        next = w->next;
        if (cs_uuid_cmp(&w->workspace, ws) != 0)
            continue;
        w->reconcile = w->reconcile || reconcile;
        w->snapshot = w->snapshot || !reconcile;
        w->dirty = true;
        if (w->req->call != NULL && !w->req->busy && cs_rpc_call_queued(w->req->call) == 0)
            watcher_send(w, NULL, 0);
    }
}

void cs_watch_reconcile(struct cs_hub *h, const struct cs_uuid *ws)
{
    ring(h, ws, true);
}

void cs_watch_snapshot(struct cs_hub *h, const struct cs_uuid *ws)
{
    ring(h, ws, false);
}

bool cs_watch_has(const struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device)
{
    for (const struct cs_watcher *w = h->watchers[bucket_at(ws)]; w != NULL; w = w->next)
        if (cs_uuid_cmp(&w->workspace, ws) == 0 && cs_uuid_cmp(&w->device, device) == 0)
            return true;
    return false;
}

void cs_watch_stop(struct cs_hub *h)
{
    for (size_t i = 0; i < CS_HUB_WATCH_BUCKETS; i++)
        for (struct cs_watcher *w = h->watchers[i]; w != NULL; w = w->next)
            if (!w->req->busy) /* else watch_done sees to it */
                watcher_end(w->req);
}
