/* OpenSession: the exchange that every other call's proof rests on. */
#include "hub/internal.h"

struct opening {
    uint8_t reply[CS_SESSION_REPLY_LEN];
    struct cs_session *keys; /* guarded */
};

static void open_work(struct cs_req *r)
{
    struct opening *o = r->state;
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    const Clawsync__V1__OpenSessionRequest *req =
        clawsync__v1__open_session_request__unpack(&alloc, r->in.len, r->in.data);
    struct cs_error err = { 0 };

    if (req == NULL)
        cs_unparsable(&r->verdict, &r->arena);
    else if ((o->keys = cs_secret_alloc(sizeof *o->keys)) == NULL)
        cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    else if (cs_session_answer(&r->env->rng, r->env->key, cs_slice(req->hello.data, req->hello.len), o->reply, o->keys,
                               &err) != CS_OK)
        cs_refuse(&r->verdict, CS_RPC_INVALID_ARGUMENT, "validation", "%s", err.msg);
}

static void open_done(struct cs_req *r)
{
    struct opening *o = r->state;
    Clawsync__V1__OpenSessionResponse answer = CLAWSYNC__V1__OPEN_SESSION_RESPONSE__INIT;

    answer.reply = (ProtobufCBinaryData){ sizeof o->reply, o->reply };
    if (cs_sessions_add(r->hub->sessions, o->keys, cs_rpc_call_connection(r->call), cs_rpc_call_peer(r->call)) != CS_OK)
        cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    else if (!cs_pb_pack(&r->out, &answer.base, &r->verdict) || !cs_req_send(r))
        return;
    cs_req_finish(r);
}

static void open_fini(struct cs_req *r)
{
    struct opening *o = r->state;

    cs_secret_free(o->keys);
}

static const struct cs_req_ops open_ops = { .name = "OpenSession",
                                            .work = open_work,
                                            .done = open_done,
                                            .fini = open_fini,
                                            .state_bytes = sizeof(struct opening) };

void cs_open_session_start(cs_rpc_call *c, void *service)
{
    static const struct cs_verdict too_many = { CS_RPC_RESOURCE_EXHAUSTED, "limit",
                                                "too many sessions of this address; try again in a second" };
    struct cs_hub *h = service;

    if (cs_sessions_may_open(h->sessions, cs_rpc_call_peer(c)))
        cs_req_start(c, service, &open_ops);
    else
        cs_gate_finish(c, &too_many, NULL, 0);
}
