/* Heartbeat: the hub's time, whether the log has moved past what this device last pulled, whether there is something to
 * reconcile, and when asked for, what is known of the workspace's devices. */
#include "hub/internal.h"
#include "hub/reference.h"
#include "hub/snapshot.h"

enum { DEVICES_MAX = 256 };

struct heartbeat {
    struct cs_uuid workspace, device;
    struct cs_signed_head head;
    struct cs_uuid *devices; /* asked for; in the request's arena */
    int64_t *seen_ms;        /* as stored */
    size_t ndevices;
    bool reconcile, snapshot;
};

static void devices_read(struct cs_req *r, struct heartbeat *hb, cs_store_tx *tx, const struct cs_store_head *head)
{
    struct cs_error err = { 0 };
    int rc;

    hb->devices = cs_arena_zalloc(&r->arena, DEVICES_MAX, sizeof *hb->devices);
    hb->seen_ms = cs_arena_zalloc(&r->arena, DEVICES_MAX, sizeof *hb->seen_ms);
    if (hb->devices == NULL || hb->seen_ms == NULL) {
        cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
        return;
    }
    rc = cs_members_devices(r->env->members, tx, &hb->workspace, head, hb->devices, DEVICES_MAX, &hb->ndevices, &err);
    for (size_t i = 0; i < hb->ndevices && rc == CS_OK; i++) {
        struct cs_store_device d = { 0 };

        if ((rc = tx->ops->device(tx, &hb->workspace, &hb->devices[i], &d, &err)) == CS_ENOTFOUND)
            rc = CS_OK;
        hb->seen_ms[i] = d.seen_ms;
    }
    if (rc != CS_OK)
        cs_refuse_storage(&r->verdict, &err);
}

static void heartbeat_work(struct cs_req *r)
{
    struct heartbeat *hb = r->state;
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    const Clawsync__V1__HeartbeatRequest *req = clawsync__v1__heartbeat_request__unpack(&alloc, r->in.len, r->in.data);
    struct cs_store_head head;
    struct cs_error err = { 0 };
    cs_store_tx *tx;

    if (req == NULL) {
        cs_unparsable(&r->verdict, &r->arena);
        return;
    }
    hb->workspace = r->who.workspace;
    hb->device = r->who.device;
    if (!cs_parse_caller(r, req->workspace_id, req->device_id) ||
        !cs_read_begin(r->env, &hb->workspace, &hb->device, CS_ALLOW_MEMBERS, &tx, &head, &r->verdict))
        return;
    if (req->want_devices)
        devices_read(r, hb, tx, &head);
    if (cs_reference_waits(tx, &hb->workspace, &hb->device, &head, &hb->reconcile, &err) != CS_OK ||
        cs_snapshot_waits(r->env, tx, &hb->workspace, &hb->device, &head, &hb->snapshot, &err) != CS_OK)
        cs_refuse_storage(&r->verdict, &err);
    cs_store_rollback(tx);
    cs_head_sign(r->env, &hb->workspace, &head, &hb->head);
}

static bool devices_answer(struct cs_req *r, const struct heartbeat *hb, Clawsync__V1__HeartbeatResponse *answer)
{
    Clawsync__V1__DevicePresence *d = cs_arena_zalloc(&r->arena, hb->ndevices, sizeof *d);
    Clawsync__V1__DevicePresence **list = cs_arena_zalloc(&r->arena, hb->ndevices, sizeof *list);

    if (d == NULL || list == NULL)
        return cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    for (size_t i = 0; i < hb->ndevices; i++) {
        int64_t heard = cs_presence_time(r->hub, &hb->workspace, &hb->devices[i]);

        clawsync__v1__device_presence__init(&d[i]);
        d[i].device_id = (ProtobufCBinaryData){ 16, hb->devices[i].b };
        d[i].seen_ms = heard > hb->seen_ms[i] ? heard : hb->seen_ms[i];
        d[i].pulled = cs_presence_pulled_to(r->hub, &hb->workspace, &hb->devices[i]);
        list[i] = &d[i];
    }
    answer->devices = list;
    answer->n_devices = hb->ndevices;
    return true;
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
    answer.reconcile = hb->reconcile;
    answer.snapshot = hb->snapshot;
    if (hb->ndevices > 0 && !devices_answer(r, hb, &answer)) {
        cs_req_finish(r);
        return;
    }
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
