/* Pair: puts one message of an exchange between a device that waits and a member, and tells what is there. */
#include "identity/pair.h"
#include "hub/internal.h"
#include "hub/offers.h"

struct pair {
    struct cs_write write;
    struct cs_req *req;
    Clawsync__V1__PairExchange exchange[CS_OFFERS_MAX], *list[CS_OFFERS_MAX];
    bool put;
};

static bool pair_parse(struct cs_req *r, struct pair *p)
{
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    const Clawsync__V1__PairRequest *req = clawsync__v1__pair_request__unpack(&alloc, r->in.len, r->in.data);

    if (req == NULL)
        return cs_unparsable(&r->verdict, &r->arena);
    if (!cs_parse_caller(r, req->workspace_id, req->device_id))
        return false;
    if (req->message.len == 0)
        return true;
    p->put = true;
    p->write.entry = cs_slice(req->message.data, req->message.len);
    if (cs_pair_kind(p->write.entry) == 0 || cs_pair_kind(p->write.entry) == CS_PAIR_OFFER ||
        req->offer_hash.len != sizeof p->write.offer_hash)
        return cs_refuse(&r->verdict, CS_RPC_INVALID_ARGUMENT, "validation",
                         "this is not a message between a device that waits and a member");
    memcpy(p->write.offer_hash, req->offer_hash.data, sizeof p->write.offer_hash);
    return true;
}

/* A member sees all exchanges, a device that waits its own. */
static void pair_read(struct cs_req *r, struct pair *p)
{
    struct cs_member_info who = { 0 };
    struct cs_offers all = { 0 };
    struct cs_store_head head;
    struct cs_error err = { 0 };
    cs_store_tx *tx = NULL;
    Clawsync__V1__PairResponse answer = CLAWSYNC__V1__PAIR_RESPONSE__INIT;
    int rc = cs_store_begin(r->env->store, CS_STORE_READ, &r->who.workspace, 1, &tx, &err);

    if (rc == CS_OK)
        rc = tx->ops->head(tx, &r->who.workspace, &head, &err);
    if (rc == CS_OK)
        rc = cs_members_find(r->env->members, tx, &r->who.workspace, &head, &r->who.device, &who, &err);
    if (rc == CS_OK)
        rc = cs_offers_read(tx, &r->who.workspace, cs_now_ms(r->env->world), &r->arena, &all, &err);
    cs_store_rollback(tx);
    if (rc != CS_OK) {
        cs_refuse_storage(&r->verdict, &err);
        return;
    }
    for (size_t i = 0; i < all.n; i++) {
        const struct cs_store_offer *o = &all.of[i];
        Clawsync__V1__PairExchange *x = &p->exchange[answer.n_exchanges];

        if (!(who.kind == CS_PRINCIPAL_DEVICE && who.active) && cs_uuid_cmp(&o->device, &r->who.device) != 0)
            continue;
        clawsync__v1__pair_exchange__init(x);
        x->offer = (ProtobufCBinaryData){ o->offer.len, (uint8_t *)(uintptr_t)o->offer.data };
        x->answer = (ProtobufCBinaryData){ o->answer.len, (uint8_t *)(uintptr_t)o->answer.data };
        x->reveal = (ProtobufCBinaryData){ o->reveal.len, (uint8_t *)(uintptr_t)o->reveal.data };
        x->done = (ProtobufCBinaryData){ o->done.len, (uint8_t *)(uintptr_t)o->done.data };
        p->list[answer.n_exchanges++] = x;
    }
    answer.exchanges = p->list;
    cs_pb_pack(&r->out, &answer.base, &r->verdict);
}

static void pair_work(struct cs_req *r)
{
    struct pair *p = r->state;

    if (pair_parse(r, p) && !p->put)
        pair_read(r, p);
}

static void pair_written(struct cs_write *w)
{
    struct pair *p = (struct pair *)w;
    struct cs_req *r = p->req;
    Clawsync__V1__PairResponse answer = CLAWSYNC__V1__PAIR_RESPONSE__INIT;

    r->verdict = w->verdict;
    if (w->verdict.status != CS_RPC_OK)
        cs_req_finish(r);
    else if (r->call != NULL && (!cs_pb_pack(&r->out, &answer.base, &r->verdict) || cs_req_send(r)))
        cs_req_finish(r);
    cs_req_release(r);
}

static void pair_done(struct cs_req *r)
{
    struct pair *p = r->state;

    if (!p->put) {
        if (cs_req_send(r))
            cs_req_finish(r);
        return;
    }
    p->req = r;
    p->write.kind = CS_WRITE_PAIR;
    p->write.workspace = r->who.workspace;
    p->write.device = r->who.device;
    p->write.bytes = p->write.entry.len;
    p->write.done = pair_written;
    cs_req_hold(r);
    cs_writer_submit(r->hub, &p->write);
}

static const struct cs_req_ops pair_ops = {
    .name = "Pair", .work = pair_work, .done = pair_done, .state_bytes = sizeof(struct pair)
};

void cs_pair_start(cs_rpc_call *c, void *service)
{
    cs_req_start(c, service, &pair_ops);
}
