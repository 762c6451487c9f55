/* grpc.health.v1.Health: a service is healthy until the hub stops. */
#include "grpc/health/v1/health.pb-c.h"
#include "hub/internal.h"

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;
#define STATUS(name) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##name

static void refuse_text(cs_rpc_call *c, int status, const char *kind, const char *text)
{
    struct cs_verdict v = { 0 };

    cs_refuse(&v, status, kind, "%s", text);
    cs_call_finish(c, &v, NULL, 0);
}

/* How the service that msg asks about is; false: the call was ended, as msg is no request. */
static bool read_status(cs_rpc_call *c, const struct cs_hub *h, struct cs_slice msg, serving_status *out)
{
    struct cs_arena arena = { 0 };
    ProtobufCAllocator alloc = cs_pb_arena(&arena);
    const Grpc__Health__V1__HealthCheckRequest *q =
        grpc__health__v1__health_check_request__unpack(&alloc, msg.len, msg.data);
    struct cs_verdict v = { 0 };

    if (q == NULL) {
        cs_unparsable(&v, &arena);
        cs_call_finish(c, &v, NULL, 0);
        cs_arena_free(&arena);
        return false;
    }
    if (q->service[0] != 0 && !cs_reflection_has_service(q->service))
        *out = STATUS(SERVICE_UNKNOWN);
    else
        *out = h->stopping ? STATUS(NOT_SERVING) : STATUS(SERVING);
    cs_arena_free(&arena);
    return true;
}

static bool send_status(cs_rpc_call *c, serving_status status)
{
    Grpc__Health__V1__HealthCheckResponse r = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    uint8_t bytes[16]; /* one small number, with its tag */

    r.status = status;
    if (cs_rpc_call_send(c, cs_slice(bytes, grpc__health__v1__health_check_response__pack(&r, bytes))) == CS_OK)
        return true;
    refuse_text(c, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    return false;
}

void cs_health_half_close(cs_rpc_call *c, void *service)
{
    (void)service;
    refuse_text(c, CS_RPC_INVALID_ARGUMENT, "validation", "a health check came without a request message");
}

void cs_health_check_message(cs_rpc_call *c, void *service, struct cs_slice msg)
{
    static const struct cs_verdict fine = { 0 };
    serving_status status;

    if (!read_status(c, service, msg, &status))
        return;
    if (status == STATUS(SERVICE_UNKNOWN))
        refuse_text(c, CS_RPC_NOT_FOUND, "validation", "there is no such service here");
    else if (send_status(c, status))
        cs_call_finish(c, &fine, NULL, 0);
}

/* ---- Watch ---- */

static void watch_stop(struct cs_standing *s)
{
    if (!s->asked || !s->known || send_status(s->call, STATUS(NOT_SERVING)))
        cs_standing_end(s);
}

void cs_health_watch_start(cs_rpc_call *c, void *service)
{
    cs_standing_start(c, service, watch_stop);
}

void cs_health_watch_message(cs_rpc_call *c, void *service, struct cs_slice msg)
{
    struct cs_standing *s = cs_rpc_call_user(c);
    const struct cs_hub *h = service;
    serving_status status;

    if (s == NULL)
        return;
    if (s->asked) {
        refuse_text(c, CS_RPC_INVALID_ARGUMENT, "validation", "Watch takes one request message");
        return;
    }
    if (!read_status(c, h, msg, &status))
        return;
    s->asked = true;
    s->known = status != STATUS(SERVICE_UNKNOWN);
    if (send_status(c, status) && h->stopping)
        cs_standing_end(s);
}

void cs_health_watch_half_close(cs_rpc_call *c, void *service)
{
    const struct cs_standing *s = cs_rpc_call_user(c);

    if (s != NULL && !s->asked)
        cs_health_half_close(c, service);
}
