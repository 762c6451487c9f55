/* What calls with one request message have in common: one request object per call, its work on a worker thread, its
 * answer on the loop. The object outlives its call while work or a write of it is under way. */
#include <stdlib.h>

#include "base/log.h"
#include "hub/internal.h"

void cs_call_finish(cs_rpc_call *c, const struct cs_verdict *v, const struct cs_rpc_meta *more, size_t nmore)
{
    struct cs_rpc_meta items[4];
    struct cs_rpc_metadata trailers = { items, 0 };

    if (v->status != CS_RPC_OK)
        items[trailers.n++] = (struct cs_rpc_meta){ "error-kind", cs_slice_str(v->kind) };
    for (size_t i = 0; i < nmore && trailers.n < sizeof items / sizeof items[0]; i++)
        items[trailers.n++] = more[i];
    cs_rpc_call_finish(c, v->status, v->status == CS_RPC_OK ? NULL : v->reason, &trailers);
}

static void req_free_if_over(struct cs_req *r)
{
    if (r->call != NULL || r->busy || r->holds > 0)
        return;
    if (r->ops->fini != NULL)
        r->ops->fini(r);
    cs_buf_free(&r->in);
    cs_buf_free(&r->out);
    cs_arena_free(&r->arena);
    free(r);
}

void cs_req_start(cs_rpc_call *c, void *service, const struct cs_req_ops *ops)
{
    static const struct cs_verdict no_memory = { CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again" };
    struct cs_hub *h = service;
    struct with_state {
        struct cs_req req;
        max_align_t state[];
    } *w = calloc(1, sizeof *w + ops->state_bytes);
    struct cs_req *r = w == NULL ? NULL : &w->req; /* its first member: freeing it frees both */

    if (r != NULL)
        *r = (struct cs_req){
            .hub = h, .env = &h->env, .ops = ops, .call = c, .who = *cs_gate_caller(c), .state = w->state
        };
    cs_gate_set_user(c, r);
    if (r == NULL)
        cs_gate_finish(c, &no_memory, NULL, 0);
}

void cs_req_finish(struct cs_req *r)
{
    if (r->call != NULL)
        cs_gate_finish(r->call, &r->verdict, NULL, 0);
}

void cs_req_finish_refused(struct cs_req *r, const struct cs_write *w)
{
    uint8_t head[CS_HUB_HEAD_LEN + CS_SIGNATURE_LEN] = { 0 };
    struct cs_rpc_meta more = { "claw-head-bin", cs_slice(head, sizeof head) };

    r->verdict = w->verdict;
    memcpy(head, w->head.bytes, CS_HUB_HEAD_LEN);
    memcpy(head + CS_HUB_HEAD_LEN, w->head.signature, CS_SIGNATURE_LEN);
    if (r->call != NULL)
        cs_gate_finish(r->call, &r->verdict, &more, w->verdict.status == CS_RPC_ABORTED && w->has_head ? 1 : 0);
}

bool cs_req_send(struct cs_req *r)
{
    int rc;

    if (r->call == NULL)
        return false;
    if (r->out.failed)
        rc = CS_ENOMEM;
    else
        rc = cs_rpc_call_send(r->call, cs_buf_slice(&r->out));
    if (rc == CS_OK) {
        cs_gate_answer(r->call, cs_buf_slice(&r->out));
        return true;
    }
    cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    cs_req_finish(r);
    return false;
}

bool cs_req_give(struct cs_req *r)
{
    struct cs_slice msg = cs_buf_slice(&r->out);

    if (r->call == NULL || r->out.failed || r->out.cap > 2 * msg.len)
        return cs_req_send(r);
    cs_gate_answer(r->call, msg);
    if (cs_rpc_call_lend(r->call, msg, free, r->out.data) != CS_OK)
        return cs_req_send(r);
    r->out = (struct cs_buf){ 0 };
    return true;
}

static void req_run(struct cs_job *j)
{
    struct cs_req *r = (struct cs_req *)j;

    r->ops->work(r);
}

static void req_done(struct cs_job *j)
{
    struct cs_req *r = (struct cs_req *)j;

    r->busy = false;
    if (r->call != NULL) {
        if (r->verdict.status != CS_RPC_OK)
            cs_req_finish(r);
        else if (r->ops->done != NULL)
            r->ops->done(r);
        else if (cs_req_send(r))
            cs_req_finish(r);
    }
    req_free_if_over(r);
}

void cs_req_work(struct cs_req *r)
{
    r->job.run = req_run;
    r->job.done = req_done;
    r->busy = true;
    if (cs_job_start(r->hub, &r->job) == CS_OK)
        return;
    r->busy = false;
    cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    cs_req_finish(r);
}

void cs_req_hold(struct cs_req *r)
{
    r->holds++;
}

void cs_req_release(struct cs_req *r)
{
    r->holds--;
    req_free_if_over(r);
}

void cs_req_message(cs_rpc_call *c, void *service, struct cs_slice msg)
{
    struct cs_req *r = cs_gate_user(c);

    (void)service;
    if (r == NULL || r->verdict.status != CS_RPC_OK)
        return;
    if (r->has_request) {
        cs_refuse(&r->verdict, CS_RPC_INVALID_ARGUMENT, "validation", "%s takes one request message", r->ops->name);
        cs_req_finish(r);
        return;
    }
    r->has_request = true;
    if (!cs_gate_body(c, msg)) {
        cs_refuse(&r->verdict, CS_RPC_UNAUTHENTICATED, "auth", "the request is not the one that its proof is for");
        cs_req_finish(r);
        return;
    }
    cs_buf_put_slice(&r->in, msg);
    if (r->in.failed) {
        cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
        cs_req_finish(r);
    }
}

void cs_req_half_close(cs_rpc_call *c, void *service)
{
    struct cs_req *r = cs_gate_user(c);

    (void)service;
    if (r == NULL || r->busy || r->verdict.status != CS_RPC_OK)
        return;
    if (!r->has_request) {
        cs_refuse(&r->verdict, CS_RPC_INVALID_ARGUMENT, "validation", "%s came without a request message",
                  r->ops->name);
        cs_req_finish(r);
        return;
    }
    cs_req_work(r);
}

void cs_req_writable(cs_rpc_call *c, void *service)
{
    struct cs_req *r = cs_gate_user(c);

    (void)service;
    if (r != NULL && r->ops->writable != NULL)
        r->ops->writable(r);
}

void cs_req_closed(cs_rpc_call *c, void *service)
{
    struct cs_req *r = cs_gate_user(c);

    (void)service;
    if (r == NULL)
        return;
    r->call = NULL;
    if (r->ops->closed != NULL)
        r->ops->closed(r);
    req_free_if_over(r);
}

/* ---- parsing ---- */

static void *pb_alloc(void *arena, size_t n)
{
    return cs_arena_alloc(arena, n);
}
static void pb_free(void *arena, void *p)
{
    (void)arena; /* everything goes with the arena */
    (void)p;
}

ProtobufCAllocator cs_pb_arena(struct cs_arena *a)
{
    return (ProtobufCAllocator){ pb_alloc, pb_free, a };
}

bool cs_parse_uuid(struct cs_uuid *out, const char *text, const char *what, struct cs_verdict *v)
{
    if (cs_uuid_parse(out, text) && !cs_uuid_is_zero(out))
        return true;
    return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "validation", "the %s is not a UUID", what);
}

bool cs_parse_caller(struct cs_req *r, const char *workspace, const char *device)
{
    struct cs_uuid ws, id;

    if (!cs_parse_uuid(&ws, workspace, "workspace id", &r->verdict) ||
        !cs_parse_uuid(&id, device, "device id", &r->verdict))
        return false;
    return (cs_uuid_cmp(&ws, &r->who.workspace) == 0 && cs_uuid_cmp(&id, &r->who.device) == 0) ||
           cs_refuse_stranger(&r->verdict);
}

bool cs_unparsable(struct cs_verdict *v, const struct cs_arena *a)
{
    if (a->failed)
        return cs_refuse(v, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "validation", "the request is not a well-formed message");
}

bool cs_pb_pack(struct cs_buf *out, const ProtobufCMessage *m, struct cs_verdict *v)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p;

    cs_buf_reset(out);
    p = cs_buf_grow(out, n);
    if (p == NULL && n > 0)
        return cs_refuse(v, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    if (n > 0)
        protobuf_c_message_pack(m, p);
    return true;
}

/* ---- reading ---- */

static bool principal_allowed(const struct cs_member_info *m, enum cs_allow allow, struct cs_verdict *v)
{
    /* Unknown workspace and unknown device look the same from outside. */
    if (m->kind == 0)
        return cs_refuse_stranger(v);
    if (m->kind == CS_PRINCIPAL_DEVICE)
        return m->active ||
               cs_refuse(v, CS_RPC_PERMISSION_DENIED, "auth", "the device is not a member of the workspace any more");
    /* Who holds an invite's code must be able to learn from the log that it was used. */
    return allow == CS_ALLOW_PRINCIPALS ||
           cs_refuse(v, CS_RPC_PERMISSION_DENIED, "auth", "this call is for devices that are members");
}

bool cs_read_begin(const struct cs_commit_env *env, const struct cs_uuid *ws, const struct cs_uuid *device,
                   enum cs_allow allow, cs_store_tx **tx, struct cs_store_head *head, struct cs_verdict *v)
{
    struct cs_member_info member = { 0 };
    struct cs_error err = { 0 };
    int rc = cs_store_begin(env->store, CS_STORE_READ, ws, 1, tx, &err);

    if (rc == CS_OK)
        rc = (*tx)->ops->head(*tx, ws, head, &err);
    if (rc == CS_OK)
        rc = cs_members_find(env->members, *tx, ws, head, device, &member, &err);
    if (rc == CS_OK || rc == CS_ENOTFOUND)
        principal_allowed(&member, allow, v);
    else
        cs_refuse_storage(v, &err);
    if (v->status == CS_RPC_OK)
        return true;
    cs_store_rollback(*tx);
    *tx = NULL;
    return false;
}
