/* GetMembership and AppendMembership. */
#include "hub/internal.h"

/* ---- GetMembership: whole entries, a bounded message at a time ---- */

struct get {
    struct cs_uuid workspace, device;
    uint32_t next, end; /* the next entry's seq; the last one's, as of the beginning */
    bool started, waiting;
    struct cs_signed_head head;
    struct cs_arena page;
};

struct entry_page {
    struct cs_arena *arena;
    ProtobufCBinaryData *entry;
    size_t n, cap, bytes;
    bool failed;
};

static bool page_entry(void *arg, uint32_t seq, struct cs_slice entry)
{
    struct entry_page *pg = arg;
    struct cs_slice copy = cs_arena_copy(pg->arena, entry);

    (void)seq;
    if (copy.data == NULL) {
        pg->failed = true;
        return false;
    }
    pg->entry[pg->n++] = (ProtobufCBinaryData){ copy.len, (uint8_t *)(uintptr_t)copy.data };
    pg->bytes += copy.len;
    return pg->n < pg->cap && pg->bytes < CS_HUB_PAGE;
}

static bool get_parse(struct cs_req *r, struct get *g)
{
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    const Clawsync__V1__GetMembershipRequest *req =
        clawsync__v1__get_membership_request__unpack(&alloc, r->in.len, r->in.data);

    if (req == NULL)
        return cs_unparsable(&r->verdict, &r->arena);
    g->next = req->from_seq == 0 ? 1 : req->from_seq;
    g->workspace = r->who.workspace;
    g->device = r->who.device;
    return cs_parse_caller(r, req->workspace_id, req->device_id);
}

static void get_page(struct cs_req *r, struct get *g, cs_store_tx *tx)
{
    Clawsync__V1__GetMembershipResponse answer = CLAWSYNC__V1__GET_MEMBERSHIP_RESPONSE__INIT;
    Clawsync__V1__HubHead head;
    struct entry_page pg = { .arena = &g->page, .cap = 256 };
    struct cs_error err = { 0 };
    int rc = CS_OK;

    if ((pg.entry = cs_arena_alloc(&g->page, pg.cap * sizeof *pg.entry)) == NULL)
        pg.failed = true;
    else if (g->next <= g->end)
        rc = tx->ops->entries(tx, &g->workspace, g->next, g->end, page_entry, &pg, &err);
    if (rc != CS_OK) {
        cs_refuse_storage(&r->verdict, &err);
        return;
    }
    if (pg.failed || (pg.n == 0 && g->next <= g->end)) {
        cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "storage", "the membership log could not be read; try again");
        return;
    }
    g->next += (uint32_t)pg.n;
    answer.entries = pg.entry;
    answer.n_entries = pg.n;
    if (g->next > g->end) {
        cs_head_message(&g->head, &head);
        answer.head = &head;
    }
    cs_pb_pack(&r->out, &answer.base, &r->verdict);
}

static void get_work(struct cs_req *r)
{
    struct get *g = r->state;
    struct cs_store_head head;
    cs_store_tx *tx;

    cs_arena_reset(&g->page);
    if ((!g->started && !get_parse(r, g)) ||
        !cs_read_begin(r->env, &g->workspace, &g->device, CS_ALLOW_PRINCIPALS, &tx, &head, &r->verdict))
        return;
    if (!g->started) {
        g->started = true;
        g->end = head.member_seq;
        cs_head_sign(r->env, &g->workspace, &head, &g->head);
    }
    get_page(r, g, tx);
    cs_store_rollback(tx);
}

static void get_done(struct cs_req *r)
{
    struct get *g = r->state;

    if (!cs_req_send(r))
        return;
    if (g->next > g->end) {
        cs_req_finish(r);
        return;
    }
    g->waiting = cs_rpc_call_queued(r->call) >= CS_HUB_STREAM_QUEUED;
    if (!g->waiting)
        cs_req_work(r);
}

static void get_writable(struct cs_req *r)
{
    struct get *g = r->state;

    if (!g->waiting || r->busy)
        return;
    g->waiting = false;
    cs_req_work(r);
}

static void get_fini(struct cs_req *r)
{
    struct get *g = r->state;

    cs_arena_free(&g->page);
}

static const struct cs_req_ops get_ops = { .name = "GetMembership",
                                           .work = get_work,
                                           .done = get_done,
                                           .writable = get_writable,
                                           .fini = get_fini,
                                           .state_bytes = sizeof(struct get) };

void cs_get_membership_start(cs_rpc_call *c, void *service)
{
    cs_req_start(c, service, &get_ops);
}

/* ---- AppendMembership: compare and swap ---- */

struct append {
    struct cs_write write;
    struct cs_req *req;
};

static void append_work(struct cs_req *r)
{
    struct append *a = r->state;
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    const Clawsync__V1__AppendMembershipRequest *req =
        clawsync__v1__append_membership_request__unpack(&alloc, r->in.len, r->in.data);

    if (req == NULL) {
        cs_unparsable(&r->verdict, &r->arena);
        return;
    }
    if (!cs_parse_caller(r, req->workspace_id, req->device_id))
        return;
    a->write.workspace = r->who.workspace;
    a->write.entry = cs_slice(req->entry.data, req->entry.len);
    if (req->entry.len > CS_ENTRY_MAX || cs_entry_seq(a->write.entry) == 0)
        cs_refuse(&r->verdict, CS_RPC_INVALID_ARGUMENT, "validation", "this is not a membership entry");
}

static void append_written(struct cs_write *w)
{
    struct append *a = (struct append *)w;
    struct cs_req *r = a->req;
    Clawsync__V1__AppendMembershipResponse answer = CLAWSYNC__V1__APPEND_MEMBERSHIP_RESPONSE__INIT;
    Clawsync__V1__HubHead head;

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

static void append_done(struct cs_req *r)
{
    struct append *a = r->state;

    a->req = r;
    a->write.kind = CS_WRITE_ENTRY;
    a->write.bytes = a->write.entry.len;
    a->write.done = append_written;
    cs_req_hold(r);
    cs_writer_submit(r->hub, &a->write);
}

static void append_fini(struct cs_req *r)
{
    struct append *a = r->state;

    cs_buf_free(&a->write.stored);
}

static const struct cs_req_ops append_ops = { .name = "AppendMembership",
                                              .work = append_work,
                                              .done = append_done,
                                              .fini = append_fini,
                                              .state_bytes = sizeof(struct append) };

void cs_append_membership_start(cs_rpc_call *c, void *service)
{
    cs_req_start(c, service, &append_ops);
}
