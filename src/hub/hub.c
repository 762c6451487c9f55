/* The hub's life: what is opened at start, the method table, and the way down. */
#include "hub/hub.h"

#include <stdlib.h>

#include "base/log.h"
#include "hub/internal.h"
#include "hub/migrate.h"

enum { FLUSH_MS = 60 * 1000 };

static void open_start(cs_rpc_call *c, void *service)
{
    (void)service;
    cs_rpc_call_admit(c);
}

/* Who may call what, and what lets a call in. X(method, start, half_close, closed, what the gate asks). */
#define GATED(X)                                                                                                       \
    X(OpenSession, cs_open_session_start, cs_req_half_close, cs_req_closed, .open = true)                              \
    X(RegisterDevice, cs_register_start, cs_req_half_close, cs_req_closed, .unary = true)                              \
    X(Pull, cs_pull_start, cs_req_half_close, cs_req_closed, .allowed = CS_FOR_DEVICES)                                \
    X(Heartbeat, cs_heartbeat_start, cs_req_half_close, cs_req_closed, .allowed = CS_FOR_DEVICES, .unary = true)       \
    X(Watch, cs_watch_start, cs_req_half_close, cs_req_closed, .allowed = CS_FOR_DEVICES)                              \
    X(GetMembership, cs_get_membership_start, cs_req_half_close, cs_req_closed,                                        \
      .allowed = CS_FOR_DEVICES | CS_FOR_PAPERS | CS_FOR_INVITES)                                                      \
    X(AppendMembership, cs_append_membership_start, cs_req_half_close, cs_req_closed,                                  \
      .allowed = CS_FOR_DEVICES | CS_FOR_PAPERS, .unary = true)                                                        \
    X(Pair, cs_pair_start, cs_req_half_close, cs_req_closed, .allowed = CS_FOR_DEVICES | CS_FOR_WAITING,               \
      .unary = true)                                                                                                   \
    X(Reconcile, cs_reconcile_start, cs_req_half_close, cs_req_closed, .allowed = CS_FOR_DEVICES, .unary = true)       \
    X(ReconcileRanges, cs_reconcile_ranges_start, cs_req_half_close, cs_req_closed, .allowed = CS_FOR_DEVICES,         \
      .unary = true)                                                                                                   \
    X(Snapshot, cs_snapshot_start, cs_req_half_close, cs_req_closed, .allowed = CS_FOR_DEVICES, .unary = true)         \
    X(Refill, cs_refill_start, cs_req_half_close, cs_req_closed, .unary = true)                                        \
    X(ResolveConflict, cs_resolve_start, cs_req_half_close, cs_req_closed, .allowed = CS_FOR_DEVICES, .unary = true)   \
    X(Push, cs_push_start, cs_push_half_close, cs_push_closed, .allowed = CS_FOR_DEVICES, .no_hash = true)
#define GATE(method, begin, half, end, ...)                                                                            \
    static void gate_##method(cs_rpc_call *c, void *service)                                                           \
    {                                                                                                                  \
        static const struct cs_gated m = { CS_HUB_SERVICE #method, begin, half, end, __VA_ARGS__ };                    \
                                                                                                                       \
        cs_gate_start(c, service, &m);                                                                                 \
    }
GATED(GATE)

#define ONE_REQUEST(method, most)                                                                                      \
    {                                                                                                                  \
        .path = CS_HUB_SERVICE #method, .start = gate_##method, .message = cs_req_message,                             \
        .half_close = cs_gate_half_close, .writable = cs_req_writable, .closed = cs_gate_closed, .max_message = (most) \
    }
#define REFLECTION(version)                                                                                            \
    {                                                                                                                  \
        .path = "/grpc.reflection." version ".ServerReflection/ServerReflectionInfo", .start = cs_reflection_start,    \
        .message = cs_reflection_message, .half_close = cs_reflection_half_close, .writable = cs_reflection_writable,  \
        .closed = cs_standing_closed, .max_message = CS_HUB_MAX_QUESTION                                               \
    }
static const struct cs_rpc_method methods[] = {
    ONE_REQUEST(OpenSession, CS_HUB_MAX_QUESTION),
    ONE_REQUEST(RegisterDevice, CS_HUB_MAX_REGISTER),
    ONE_REQUEST(Pull, CS_HUB_MAX_REQUEST),
    ONE_REQUEST(Heartbeat, CS_HUB_MAX_REQUEST),
    ONE_REQUEST(Watch, CS_HUB_MAX_REQUEST),
    ONE_REQUEST(GetMembership, CS_HUB_MAX_REQUEST),
    ONE_REQUEST(AppendMembership, CS_HUB_MAX_REQUEST),
    ONE_REQUEST(Pair, CS_HUB_MAX_QUESTION),
    ONE_REQUEST(Refill, CS_HUB_MAX_REQUEST),
    ONE_REQUEST(Reconcile, CS_HUB_MAX_REQUEST),
    ONE_REQUEST(ReconcileRanges, CS_HUB_MAX_REQUEST),
    ONE_REQUEST(ResolveConflict, CS_HUB_MAX_REQUEST),
    ONE_REQUEST(Snapshot, CS_HUB_MAX_PUSH), /* whose parts are batches */
    { .path = CS_HUB_SERVICE "Push",
      .start = gate_Push,
      .message = cs_push_message,
      .half_close = cs_gate_half_close,
      .writable = cs_push_writable,
      .closed = cs_gate_closed,
      .max_message = CS_HUB_MAX_PUSH },
    { .path = "/grpc.health.v1.Health/Check",
      .start = open_start,
      .message = cs_health_check_message,
      .half_close = cs_health_half_close,
      .max_message = CS_HUB_MAX_QUESTION },
    { .path = "/grpc.health.v1.Health/Watch",
      .start = cs_health_watch_start,
      .message = cs_health_watch_message,
      .half_close = cs_health_watch_half_close,
      .closed = cs_standing_closed,
      .max_message = CS_HUB_MAX_QUESTION },
    REFLECTION("v1"),
    REFLECTION("v1alpha"),
};

static void flush_due(void *arg)
{
    struct cs_hub *h = arg;

    cs_presence_flush(h);
    cs_timer_start(h->flush_timer, h->flush_ms);
}

static void hub_free(struct cs_hub *h)
{
    cs_rpc_server_close(h->server);
    cs_timer_close(h->flush_timer);
    cs_timer_close(h->stop_timer);
    cs_writer_fini(h);
    cs_admin_free(h->admin);
    cs_metrics_free(h->metrics);
    cs_presence_free(h->presence);
    cs_sessions_free(h->sessions);
    cs_answer_keys_free(h->answer_keys);
    cs_members_free(h->members);
    cs_store_close(&h->store);
    cs_others_free(h->others);
    cs_secret_free(h->key);
    free(h);
}

/* All that was read and is being written is done with, and nobody new can come: the end. */
void cs_hub_settle(struct cs_hub *h)
{
    void (*stopped)(void *arg) = h->stopped;
    void *arg = h->stopped_arg;

    if (!h->drained || h->njobs > 0 || !cs_writer_idle(h))
        return;
    hub_free(h);
    stopped(arg);
}

/* On a turn of the loop of its own: neither inside a callback of the server nor of a job. */
static void stop_now(void *arg)
{
    struct cs_hub *h = arg;

    cs_rpc_server_close(h->server);
    h->server = NULL;
    cs_admin_stop(h->admin);
    cs_presence_flush(h);
    h->drained = true;
    cs_hub_settle(h);
}

static void server_drained(void *arg)
{
    struct cs_hub *h = arg;

    cs_timer_start(h->stop_timer, 0);
}

static int hub_open(struct cs_hub *h, const struct cs_hub_options *o, struct cs_error *err)
{
    struct cs_rpc_server_options server = { .host = o->host,
                                            .port = o->port,
                                            .listen_fd = o->listen_fd,
                                            .cert_file = o->cert_file,
                                            .key_file = o->key_file,
                                            .methods = methods,
                                            .nmethods = sizeof methods / sizeof methods[0],
                                            .service = h,
                                            .max_message = CS_HUB_MAX_REQUEST,
                                            .max_connections = o->connections,
                                            .max_per_address = o->connections_per_address,
                                            .admission = true };
    int rc;

    if ((rc = cs_crypto_init(err)) != CS_OK || (rc = cs_members_new(&h->members, err)) != CS_OK)
        return rc;
    if (cs_metrics_new(&h->metrics) != CS_OK || cs_presence_new(&h->presence) != CS_OK ||
        cs_timer_new(h->loop, flush_due, h, &h->flush_timer) != CS_OK ||
        cs_timer_new(h->loop, stop_now, h, &h->stop_timer) != CS_OK)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    rc = o->postgres.url != NULL ? cs_store_postgres_open(&h->store, h->world, &o->postgres, err)
                                 : cs_store_sqlite_open(&h->store, h->world, o->database, err);
    if (rc != CS_OK || (rc = cs_migrate_check(&h->store, err)) != CS_OK)
        return rc;
    if ((h->key = cs_secret_alloc(sizeof *h->key)) == NULL || cs_answer_keys_new(&h->answer_keys) != CS_OK)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    cs_sign_key_from_seed(h->key, o->key_seed);
    h->env = (struct cs_commit_env){
        .world = h->world, .rng = { .world = h->world }, .key = h->key, .store = &h->store, .members = h->members
    };
    h->behind_proxy = o->behind_proxy;
    h->limit_loopback = o->limit_loopback;
    if (cs_sessions_new(h, &h->sessions) != CS_OK)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    h->env.pruning = (struct cs_pruning){ o->retention_ms, o->silent_ms };
    h->flush_ms = o->flush_ms != 0 ? o->flush_ms : FLUSH_MS;
    h->env.quota = (struct cs_quota){ o->quota_devices, o->quota_bytes, o->quota_bytes_per_s };
    if ((rc = cs_rpc_server_new(h->loop, &server, &h->server, err)) != CS_OK)
        return rc;
    h->port = cs_rpc_server_port(h->server);
    if (o->admin_host != NULL && (rc = cs_admin_new(h, o, &h->admin, err)) != CS_OK)
        return rc;
    if ((rc = cs_others_start(h, o->poll_ms, err)) != CS_OK)
        return rc;
    cs_timer_start(h->flush_timer, h->flush_ms);
    return CS_OK;
}

int cs_hub_start(struct cs_world *world, cs_loop *loop, const struct cs_hub_options *o, cs_hub **out,
                 struct cs_error *err)
{
    struct cs_hub *h = calloc(1, sizeof *h);
    int rc;

    *out = NULL;
    if (h == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    h->world = world;
    h->loop = loop;
    cs_writer_init(h, o->group_max);
    if ((rc = hub_open(h, o, err)) != CS_OK) {
        hub_free(h);
        return rc;
    }
    *out = h;
    return CS_OK;
}

uint16_t cs_hub_port(const cs_hub *h)
{
    return h->port;
}

uint16_t cs_hub_admin_port(const cs_hub *h)
{
    return cs_admin_port(h->admin);
}

int cs_hub_certificate(cs_hub *h, const char *cert_file, const char *key_file, struct cs_error *err)
{
    return cs_rpc_server_certificate(h->server, cert_file, key_file, err);
}

const uint8_t *cs_hub_public_key(const cs_hub *h)
{
    return h->key->pk;
}

void cs_hub_stop(cs_hub *h, uint32_t drain_ms, void (*stopped)(void *arg), void *arg)
{
    h->stopping = true;
    h->stopped = stopped;
    h->stopped_arg = arg;
    cs_timer_stop(h->flush_timer);
    cs_others_stop(h);
    if (drain_ms == 0) {
        cs_timer_start(h->stop_timer, 0);
        return;
    }
    cs_rpc_server_drain(h->server, drain_ms, server_drained, h);
    cs_watch_stop(h);
    cs_push_stop(h);
    cs_standing_stop(h);
}
