/* Somebody between device and hub, on the hub's loop: passes every message on, or lets the test swallow, change, hold
 * back or answer it. */
#ifndef BETWEEN_FIXTURE_H
#define BETWEEN_FIXTURE_H

#include "unit/engine/hub_fixture.h"

#include "base/bytes.h"
#include "clawsync/v1/sync.pb-c.h"
#include "hub/internal.h"
#include "rpc/rpc.h"

struct between;

/* One call. Either side is NULL when it is over. */
struct relay {
    struct between *between;
    const char *method;
    cs_rpc_call *device, *hub;
    struct cs_call_proof proof; /* of the device */
    bool held, half_closed;     /* the test keeps the request, and what ends it waits for relay_release */
};

struct between {
    struct hub hub;
    cs_wake *release;
    struct relay *held;
    cs_rpc_server *server;
    cs_rpc_channel *channel;
    char endpoint[64];
    /* What the test wants of each message; false: it is not passed on. NULL: everything passes. On the loop's thread;
     * the test changes and reads its own things while no call runs. */
    bool (*request)(struct between *b, struct relay *r, struct cs_slice m);
    bool (*answer)(struct between *b, struct relay *r, struct cs_slice m);
    void (*starting)(struct between *b, const struct relay *r); /* a call begins; NULL: nothing is done */
    struct cs_buf kept;                                         /* a message: that of `held`, or as the test wants */
    unsigned requests, dropped; /* of Push; answers of it that the test wants not to pass */
    unsigned refusals;          /* to come */
    unsigned unknown;           /* of the methods, the last ones: an older hub has none of that name */
    /* For tests that refuse one batch of a call: on the loop's thread but for the orders. */
    _Atomic unsigned orders;     /* which batch of the next Push call; 0: none */
    const struct relay *current; /* that call, the same for it, answers that passed, an answer of the test's is due */
    unsigned nth, answers;
    bool owed;
    const char *kind; /* of a refusal */
    int status;
};

static inline bool is_method(const struct relay *r, const char *method)
{
    return strcmp(r->method, method) == 0;
}

static inline void relay_answer(cs_rpc_call *c, void *arg, struct cs_slice m)
{
    struct relay *r = arg;
    struct between *b = r->between;

    (void)c;
    if (r->device != NULL && (b->answer == NULL || b->answer(b, r, m)))
        cs_rpc_call_send(r->device, m);
}

static inline void relay_free(struct relay *r)
{
    if (r->device == NULL && r->hub == NULL)
        free(r);
}

static inline void relay_done(cs_rpc_call *c, void *arg, int status, const char *text,
                              const struct cs_rpc_metadata *trailers)
{
    struct relay *r = arg;

    (void)c;
    r->hub = NULL;
    if (r->device != NULL)
        cs_rpc_call_finish(r->device, status, text, trailers);
    relay_free(r);
}

static inline void relay_start(cs_rpc_call *c, struct between *b, const char *method)
{
    static const struct cs_rpc_client_cb cb = { .message = relay_answer, .done = relay_done };
    struct relay *r = calloc(1, sizeof *r);
    struct cs_rpc_meta proof = { "authorization", cs_rpc_metadata_get(cs_rpc_call_metadata(c), "authorization") };
    struct cs_rpc_metadata m = { &proof, proof.value.data != NULL };
    struct cs_error err;
    char path[80];

    if (r == NULL)
        abort();
    *r = (struct relay){ .between = b, .method = method, .device = c };
    cs_rpc_call_set_user(c, r);
    snprintf(path, sizeof path, "/clawsync.v1.SyncService/%s", method);
    if (b->starting != NULL)
        b->starting(b, r);
    if (m.n > 0 && !cs_call_proof_parse(&r->proof, proof.value))
        abort();
    if (cs_rpc_call_new(b->channel, path, &m, 0, &cb, r, &r->hub, &err) != CS_OK)
        abort();
}

/* Answers a batch in the hub's name, with the hub's own key of the session. */
static inline void relay_forge(struct relay *r, Clawsync__V1__PushResponse *a)
{
    const struct cs_hub_session *s = cs_sessions_find(r->between->hub.hub->sessions, r->proof.session);
    uint8_t bytes[400], hash[32] = { 0 }, mac[CS_ANSWER_MAC_LEN];

    assert_non_null(s);
    if (a->batch_hash.data == NULL)
        a->batch_hash = (ProtobufCBinaryData){ sizeof hash, hash };
    cs_push_answer_mac(cs_answer_key_bytes(s->answer_key), a->batch_hash.data, a->log_number, a->accepted, a->status,
                       a->kind, a->reason, mac);
    a->mac = (ProtobufCBinaryData){ sizeof mac, mac };
    assert_true(clawsync__v1__push_response__get_packed_size(a) <= sizeof bytes);
    cs_rpc_call_send(r->device, cs_slice(bytes, clawsync__v1__push_response__pack(a, bytes)));
}

static inline void relay_request(cs_rpc_call *c, void *service, struct cs_slice m)
{
    struct relay *r = cs_rpc_call_user(c);
    struct between *b = service;

    if (r->hub != NULL && (b->request == NULL || b->request(b, r, m)))
        cs_rpc_call_send(r->hub, m);
}

static inline void relay_half_close(cs_rpc_call *c, void *service)
{
    struct relay *r = cs_rpc_call_user(c);

    (void)service;
    r->half_closed = true;
    if (r->hub != NULL && !r->held)
        cs_rpc_call_half_close(r->hub);
}

/* A request that was held goes on its way. On the loop's thread. */
static inline void relay_release(struct relay *r, struct cs_slice m)
{
    r->held = false;
    if (r->hub == NULL)
        return;
    cs_rpc_call_send(r->hub, m);
    if (r->half_closed)
        cs_rpc_call_half_close(r->hub);
}

/* The request is kept, until between_release, which any thread may call. */
static inline void relay_hold(struct relay *r, struct cs_slice m)
{
    struct between *b = r->between;

    b->held = r;
    r->held = true;
    cs_buf_reset(&b->kept);
    cs_buf_put_slice(&b->kept, m);
}

static inline void between_released(void *arg)
{
    struct between *b = arg;

    relay_release(b->held, cs_buf_slice(&b->kept));
}

static inline void between_release(struct between *b)
{
    cs_wake_send(b->release);
}

static inline void relay_closed(cs_rpc_call *c, void *service)
{
    struct relay *r = cs_rpc_call_user(c);

    (void)service;
    r->device = NULL;
    if (r->hub != NULL)
        cs_rpc_call_cancel(r->hub); /* its `done` frees the relay */
    else
        relay_free(r);
}

#define RELAYED(X)                                                                                                     \
    X(OpenSession)                                                                                                     \
    X(RegisterDevice)                                                                                                  \
    X(Refill) X(Push) X(Pull) X(Heartbeat) X(Watch) X(GetMembership) X(AppendMembership) X(ReconcileRanges)
#define START(method)                                                                                                  \
    static inline void start_##method(cs_rpc_call *c, void *service)                                                   \
    {                                                                                                                  \
        relay_start(c, service, #method);                                                                              \
    }
RELAYED(START)
#define METHOD(method)                                                                                                 \
    { .path = "/clawsync.v1.SyncService/" #method,                                                                     \
      .start = start_##method,                                                                                         \
      .message = relay_request,                                                                                        \
      .half_close = relay_half_close,                                                                                  \
      .closed = relay_closed },
static const struct cs_rpc_method relayed[] = { RELAYED(METHOD) };
enum { NRELAYED = sizeof relayed / sizeof relayed[0] };

/* Before the loop runs. */
static inline void between_start(struct hub *h, void *arg)
{
    struct between *b = arg;
    struct cs_rpc_channel_options c = { .host = "127.0.0.1", .port = cs_hub_port(h->hub) };
    struct cs_rpc_server_options o = {
        .host = "127.0.0.1", .methods = relayed, .nmethods = NRELAYED - b->unknown, .service = b
    };
    struct cs_error err = { 0 };

    if (cs_rpc_channel_new(h->loop, &c, &b->channel, &err) != CS_OK ||
        cs_rpc_server_new(h->loop, &o, &b->server, &err) != CS_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(cs_wake_new(h->loop, between_released, b, &b->release), CS_OK);
    snprintf(b->endpoint, sizeof b->endpoint, "http://127.0.0.1:%u", (unsigned)cs_rpc_server_port(b->server));
}

static inline void between_init_older(struct between *b, unsigned unknown)
{
    memset(b, 0, sizeof *b);
    b->unknown = unknown;
    b->hub.starting = between_start;
    b->hub.arg = b;
    hub_init(&b->hub);
}

static inline void between_init(struct between *b)
{
    between_init_older(b, 0);
}

static inline void between_fini(struct between *b)
{
    hub_join(&b->hub);
    cs_wake_close(b->release);
    cs_rpc_server_close(b->server);
    cs_rpc_channel_close(b->channel);
    hub_fini(&b->hub);
    cs_buf_free(&b->kept);
}

#endif
