/* grpc.testing.TestService on src/rpc, for clients of other implementations. Says "listening on PORT" when it does;
 * SIGTERM drains it. usage: peer_server [--port N] */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "rpc/rpc.h"
#include "testing.pb-c.h"

enum {
    QUEUE = 256 * 1024, /* bytes above which no more answers are queued */
    ANSWERS = 1024,     /* waiting answers above which no more requests are read */
    BODY_MAX = 16 * 1024 * 1024,
    DRAIN_MS = 30000,
};

static const uint8_t zeros[BODY_MAX];

struct answer {
    struct answer *next;
    size_t size;
    uint64_t pause_ms;
    bool compressed;
};

struct server {
    cs_loop *loop;
    cs_rpc_server *rpc;
    cs_signal *term;
    int running; /* calls of TestService */
};

struct peer_call {
    struct server *server;
    cs_rpc_call *rpc;
    cs_timer *timer;                /* before the next answer, or the next request */
    struct answer *answers, **last; /* waiting, oldest first */
    size_t nanswers;
    bool waiting;  /* for the timer, before the first answer */
    bool waited;   /* the first answer's pause is over */
    bool slow;     /* reads a message a millisecond */
    bool complete; /* nothing more comes from the client */
    uint64_t received;
    struct cs_buf scratch;
};

static void die(const char *what)
{
    fprintf(stderr, "peer_server: %s\n", what);
    exit(1);
}

/* ---- a call's life ---- */

static void finish(struct peer_call *p, int status, const char *text)
{
    struct cs_slice echo = cs_rpc_metadata_get(cs_rpc_call_metadata(p->rpc), "x-grpc-test-echo-trailing-bin");
    struct cs_rpc_meta pair = { "x-grpc-test-echo-trailing-bin", echo };
    struct cs_rpc_metadata trailers = { &pair, echo.data != NULL };

    cs_rpc_call_finish(p->rpc, status, text, &trailers);
}

static void pump(struct peer_call *p);

static void on_timer(void *arg)
{
    struct peer_call *p = arg;

    p->waited = p->waiting;
    p->waiting = false;
    cs_rpc_call_read(p->rpc, true);
    pump(p);
}

static void on_start(cs_rpc_call *c, void *service)
{
    struct cs_slice initial = cs_rpc_metadata_get(cs_rpc_call_metadata(c), "x-grpc-test-echo-initial");
    struct cs_rpc_meta pair = { "x-grpc-test-echo-initial", initial };
    struct cs_rpc_metadata headers = { &pair, 1 };
    struct server *s = service;
    struct peer_call *p = calloc(1, sizeof *p);
    struct cs_error err;

    if (p == NULL || cs_timer_new(s->loop, on_timer, p, &p->timer) != CS_OK)
        die("out of memory");
    p->server = s;
    p->rpc = c;
    p->last = &p->answers;
    p->slow = cs_rpc_metadata_get(cs_rpc_call_metadata(c), "x-slow").data != NULL;
    cs_rpc_call_set_user(c, p);
    s->running++;
    if (initial.data != NULL && cs_rpc_call_headers(c, &headers, &err) != CS_OK)
        die(err.msg);
}

static void on_closed(cs_rpc_call *c, void *service)
{
    struct server *s = service;
    struct peer_call *p = cs_rpc_call_user(c);
    struct answer *a;

    s->running--;
    while ((a = p->answers) != NULL) {
        p->answers = a->next;
        free(a);
    }
    cs_timer_close(p->timer);
    cs_buf_free(&p->scratch);
    free(p);
}

/* ---- messages ---- */

static bool send_message(struct peer_call *p, const ProtobufCMessage *m)
{
    uint8_t *bytes;

    cs_buf_reset(&p->scratch);
    if ((bytes = cs_buf_grow(&p->scratch, protobuf_c_message_get_packed_size(m))) != NULL)
        protobuf_c_message_pack(m, bytes);
    return cs_rpc_call_send(p->rpc, cs_buf_slice(&p->scratch)) == CS_OK;
}

static bool sane_size(struct peer_call *p, int32_t size)
{
    if (size >= 0 && size <= BODY_MAX)
        return true;
    finish(p, CS_RPC_INVALID_ARGUMENT, "no such response size");
    return false;
}

static bool is_true(const Grpc__Testing__BoolValue *v)
{
    return v != NULL && v->value;
}

static void unreadable(struct peer_call *p)
{
    finish(p, CS_RPC_INVALID_ARGUMENT, "the request is no message of this method");
}

static void send_body(struct peer_call *p, size_t size, bool compressed)
{
    Grpc__Testing__StreamingOutputCallResponse r = GRPC__TESTING__STREAMING_OUTPUT_CALL_RESPONSE__INIT;
    Grpc__Testing__Payload body = GRPC__TESTING__PAYLOAD__INIT;

    /* the unary answer has the same layout */
    body.body = (ProtobufCBinaryData){ size, (uint8_t *)(uintptr_t)zeros };
    r.payload = &body;
    cs_rpc_call_compress(p->rpc, compressed); /* a client that does not take it gets the bytes as they are */
    send_message(p, &r.base);
}

/* Sends what is due, as the queue allows; ends the call after the last. */
static void pump(struct peer_call *p)
{
    struct answer *a;

    while ((a = p->answers) != NULL) {
        if (p->waiting)
            return;
        if (a->pause_ms > 0 && !p->waited) {
            p->waiting = true;
            cs_timer_start(p->timer, a->pause_ms);
            return;
        }
        if (cs_rpc_call_queued(p->rpc) >= QUEUE)
            return;
        p->waited = false;
        send_body(p, a->size, a->compressed);
        if ((p->answers = a->next) == NULL)
            p->last = &p->answers;
        p->nanswers--;
        free(a);
    }
    if (p->complete)
        finish(p, CS_RPC_OK, NULL);
    else
        cs_rpc_call_read(p->rpc, true);
}

static bool queue_answer(struct peer_call *p, const Grpc__Testing__ResponseParameters *q)
{
    struct answer *a;

    if (!sane_size(p, q->size))
        return false;
    if ((a = calloc(1, sizeof *a)) == NULL)
        die("out of memory");
    a->size = (size_t)q->size;
    a->compressed = is_true(q->compressed);
    a->pause_ms = q->interval_us <= 0 ? 0 : ((uint64_t)q->interval_us + 999) / 1000;
    *p->last = a;
    p->last = &a->next;
    p->nanswers++;
    return true;
}

/* ---- the methods ---- */

static void empty_half_close(cs_rpc_call *c, void *service)
{
    Grpc__Testing__Empty r = GRPC__TESTING__EMPTY__INIT;
    struct peer_call *p = cs_rpc_call_user(c);

    (void)service;
    send_message(p, &r.base);
    finish(p, CS_RPC_OK, NULL);
}

static void unary_message(cs_rpc_call *c, void *service, struct cs_slice msg)
{
    struct peer_call *p = cs_rpc_call_user(c);
    Grpc__Testing__SimpleRequest *q = grpc__testing__simple_request__unpack(NULL, msg.len, msg.data);

    (void)service;
    if (q == NULL) {
        unreadable(p);
    } else if (q->response_status != NULL && q->response_status->code != CS_RPC_OK) {
        finish(p, q->response_status->code, q->response_status->message);
    } else if (sane_size(p, q->response_size)) {
        send_body(p, (size_t)q->response_size, is_true(q->response_compressed));
        finish(p, CS_RPC_OK, NULL);
    }
    grpc__testing__simple_request__free_unpacked(q, NULL);
}

static void input_message(cs_rpc_call *c, void *service, struct cs_slice msg)
{
    struct peer_call *p = cs_rpc_call_user(c);
    Grpc__Testing__StreamingInputCallRequest *q =
        grpc__testing__streaming_input_call_request__unpack(NULL, msg.len, msg.data);

    (void)service;
    if (q == NULL)
        unreadable(p);
    else if (q->payload != NULL)
        p->received += q->payload->body.len;
    grpc__testing__streaming_input_call_request__free_unpacked(q, NULL);
    if (p->slow) {
        cs_rpc_call_read(c, false);
        cs_timer_start(p->timer, 1);
    }
}

static void input_half_close(cs_rpc_call *c, void *service)
{
    Grpc__Testing__StreamingInputCallResponse r = GRPC__TESTING__STREAMING_INPUT_CALL_RESPONSE__INIT;
    struct peer_call *p = cs_rpc_call_user(c);

    (void)service;
    r.aggregated_payload_size = (int32_t)p->received;
    send_message(p, &r.base);
    finish(p, CS_RPC_OK, NULL);
}

static void duplex_message(cs_rpc_call *c, void *service, struct cs_slice msg)
{
    struct peer_call *p = cs_rpc_call_user(c);
    Grpc__Testing__StreamingOutputCallRequest *q =
        grpc__testing__streaming_output_call_request__unpack(NULL, msg.len, msg.data);
    bool fine = q != NULL;

    (void)service;
    if (q == NULL) {
        unreadable(p);
    } else if (q->response_status != NULL && q->response_status->code != CS_RPC_OK) {
        finish(p, q->response_status->code, q->response_status->message);
        fine = false;
    }
    for (size_t i = 0; fine && i < q->n_response_parameters; i++)
        fine = queue_answer(p, q->response_parameters[i]);
    grpc__testing__streaming_output_call_request__free_unpacked(q, NULL);
    if (!fine)
        return;
    pump(p);
    if (p->nanswers >= ANSWERS)
        cs_rpc_call_read(c, false);
}

static void duplex_half_close(cs_rpc_call *c, void *service)
{
    struct peer_call *p = cs_rpc_call_user(c);

    (void)service;
    p->complete = true;
    pump(p);
}

static void duplex_writable(cs_rpc_call *c, void *service)
{
    (void)service;
    pump(cs_rpc_call_user(c));
}

static void open_calls(cs_rpc_call *c, void *service)
{
    Grpc__Testing__OpenCallsResponse r = GRPC__TESTING__OPEN_CALLS_RESPONSE__INIT;
    const struct server *s = service;
    uint8_t bytes[16];

    r.n = s->running;
    cs_rpc_call_send(c, cs_slice(bytes, grpc__testing__open_calls_response__pack(&r, bytes)));
    cs_rpc_call_finish(c, CS_RPC_OK, NULL, NULL);
}

#define SERVICE "/grpc.testing.TestService/"
static const struct cs_rpc_method methods[] = {
    { .path = SERVICE "EmptyCall", .start = on_start, .half_close = empty_half_close, .closed = on_closed },
    { .path = SERVICE "UnaryCall", .start = on_start, .message = unary_message, .closed = on_closed },
    { .path = SERVICE "StreamingInputCall",
      .start = on_start,
      .message = input_message,
      .half_close = input_half_close,
      .closed = on_closed },
    { .path = SERVICE "StreamingOutputCall",
      .start = on_start,
      .message = duplex_message,
      .half_close = duplex_half_close,
      .writable = duplex_writable,
      .closed = on_closed },
    { .path = SERVICE "FullDuplexCall",
      .start = on_start,
      .message = duplex_message,
      .half_close = duplex_half_close,
      .writable = duplex_writable,
      .closed = on_closed },
    { .path = "/grpc.testing.ControlService/OpenCalls", .half_close = open_calls },
};

/* ---- the program ---- */

static void on_drained(void *arg)
{
    struct server *s = arg;

    cs_loop_stop(s->loop);
}

static void on_term(void *arg)
{
    struct server *s = arg;

    cs_rpc_server_drain(s->rpc, DRAIN_MS, on_drained, s);
}

int main(int argc, char **argv)
{
    static const struct option options[] = { { "port", required_argument, NULL, 'p' }, { NULL, 0, NULL, 0 } };
    struct server s = { 0 };
    struct cs_rpc_server_options o = {
        .host = "127.0.0.1",
        .methods = methods,
        .nmethods = sizeof methods / sizeof methods[0],
        .service = &s,
        .max_streams = 128, /* a hundred streams, and questions beside them */
    };
    struct cs_error err;
    int opt;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt != 'p')
            return 2;
        o.port = (uint16_t)atoi(optarg);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    if (cs_loop_new(cs_world_real(), &s.loop, &err) != CS_OK || cs_rpc_server_new(s.loop, &o, &s.rpc, &err) != CS_OK)
        die(err.msg);
    if (cs_signal_new(s.loop, SIGTERM, on_term, &s, &s.term) != CS_OK)
        die("out of memory");
    printf("listening on %u\n", cs_rpc_server_port(s.rpc));
    fflush(stdout);
    cs_loop_run(s.loop);
    cs_signal_close(s.term);
    cs_rpc_server_close(s.rpc);
    cs_loop_free(s.loop);
    return 0;
}
