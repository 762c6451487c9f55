/* Heartbeat: the hub's time, and whether the log has moved past what this device last pulled. */
#include "hub/internal.h"

struct heartbeat {
    struct cs_uuid workspace, device;
    struct cs_signed_head head;
};

static void heartbeat_work(struct cs_req *r)
{
    struct heartbeat *hb = r->state;
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    const Clawsync__V1__HeartbeatRequest *req = clawsync__v1__heartbeat_request__unpack(&alloc, r->in.len, r->in.data);
    struct cs_store_head head;
    cs_store_tx *tx;

    if (req == NULL) {
        cs_unparsable(&r->verdict);
        return;
    }
    if (!cs_parse_uuid(&hb->workspace, req->workspace_id, "workspace id", &r->verdict) ||
        !cs_parse_uuid(&hb->device, req->device_id, "device id", &r->verdict) ||
        !cs_read_begin(r->env, &hb->workspace, &hb->device, CS_ALLOW_MEMBERS, &tx, &head, &r->verdict))
        return;
    cs_store_rollback(tx);
    cs_head_sign(r->env, &hb->workspace, &head, &hb->head);
}

static void heartbeat_done(struct cs_req *r)
{
    struct heartbeat *hb = r->state;
    Clawsync__V1__HeartbeatResponse answer = CLAWSYNC__V1__HEARTBEAT_RESPONSE__INIT;
    Clawsync__V1__HubHead head;

    cs_presence_seen(r->hub, &hb->workspace, &hb->device);
    cs_head_message(&hb->head, &head);
    answer.server_time = cs_now_ms(r->hub->world);
    answer.sync_required = hb->head.head.number > cs_presence_position(r->hub, &hb->workspace, &hb->device);
    answer.head = &head;
    if (!cs_pb_pack(&r->out, &answer.base, &r->verdict) || cs_req_send(r))
        cs_req_finish(r);
}

static const struct cs_req_ops heartbeat_ops = {
    .name = "Heartbeat", .work = heartbeat_work, .done = heartbeat_done, .state_bytes = sizeof(struct heartbeat)
};

void cs_heartbeat_start(cs_rpc_call *c, void *service)
{
    cs_req_start(c, service, &heartbeat_ops);
}
