/* ResolveConflict: a device says that conflicts were settled; those that watch are told which. Whether they are settled
 * is not the hub's to say: devices learn that from the resolving batch, in the log, which they are told to fetch. So
 * nothing is kept here, and what is in the records stays the devices' secret. */
#include "hub/internal.h"

enum { RECORDS_MAX = 256, TAG_MAX = 64, STAMP_MAX = 80, VALUE_MAX = 65536 };

struct resolve {
    struct cs_signed_head head;
    Clawsync__V1__ResolveConflictRequest *req; /* in the request's arena */
};

static bool is_fine(const Clawsync__V1__ConflictRecord *c)
{
    return c->conflict_id[0] != '\0' && strlen(c->conflict_id) <= TAG_MAX && strlen(c->entity_id) <= TAG_MAX &&
           strlen(c->entity_type) <= TAG_MAX && strlen(c->local_hlc) <= STAMP_MAX &&
           strlen(c->remote_hlc) <= STAMP_MAX && c->local_value.len <= VALUE_MAX && c->remote_value.len <= VALUE_MAX;
}

static void resolve_work(struct cs_req *r)
{
    struct resolve *x = r->state;
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    struct cs_store_head head;
    struct cs_uuid ws;
    cs_store_tx *tx;

    if ((x->req = clawsync__v1__resolve_conflict_request__unpack(&alloc, r->in.len, r->in.data)) == NULL) {
        cs_unparsable(&r->verdict, &r->arena);
        return;
    }
    if (!cs_parse_uuid(&ws, x->req->workspace_id, "workspace id", &r->verdict))
        return;
    if (cs_uuid_cmp(&ws, &r->who.workspace) != 0) {
        cs_refuse_stranger(&r->verdict);
        return;
    }
    if (x->req->n_resolved > RECORDS_MAX) {
        cs_refuse(&r->verdict, CS_RPC_INVALID_ARGUMENT, "validation", "more than %d conflicts in one call",
                  RECORDS_MAX);
        return;
    }
    for (size_t i = 0; i < x->req->n_resolved; i++)
        if (!is_fine(x->req->resolved[i])) {
            cs_refuse(&r->verdict, CS_RPC_INVALID_ARGUMENT, "validation",
                      "record %zu has no conflict id, or a field that is longer than it may be", i + 1);
            return;
        }
    if (!cs_read_begin(r->env, &ws, &r->who.device, CS_ALLOW_MEMBERS, &tx, &head, &r->verdict))
        return;
    cs_store_rollback(tx);
    cs_head_sign(r->env, &ws, &head, &x->head);
}

static void resolve_done(struct cs_req *r)
{
    struct resolve *x = r->state;
    Clawsync__V1__ResolveConflictResponse answer = CLAWSYNC__V1__RESOLVE_CONFLICT_RESPONSE__INIT;

    if (!cs_sessions_may_push(r->hub->sessions, &r->who.workspace, r->in.len)) {
        cs_refuse(&r->verdict, CS_RPC_RESOURCE_EXHAUSTED, "limit",
                  "the workspace sends more bytes per second than this hub lets it (CLAW_SYNC_QUOTA_BYTES_PER_SECOND); "
                  "try again in a few seconds");
        cs_req_finish(r);
        return;
    }
    cs_presence_seen(r->hub, &r->who.workspace, &r->who.device);
    if (x->req->n_resolved > 0)
        cs_watch_resolved(r->hub, &r->who, &x->head, x->req->resolved, x->req->n_resolved);
    answer.ok = true;
    if (!cs_pb_pack(&r->out, &answer.base, &r->verdict) || cs_req_send(r))
        cs_req_finish(r);
}

static const struct cs_req_ops resolve_ops = {
    .name = "ResolveConflict", .work = resolve_work, .done = resolve_done, .state_bytes = sizeof(struct resolve)
};

void cs_resolve_start(cs_rpc_call *c, void *service)
{
    cs_req_start(c, service, &resolve_ops);
}
