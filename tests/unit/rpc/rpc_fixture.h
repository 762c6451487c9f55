/* What the tests of src/rpc share: an echo service, and a client whose calls write down what happened to them. */
#ifndef CS_TESTS_RPC_FIXTURE_H
#define CS_TESTS_RPC_FIXTURE_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "rpc/rpc.h"

/* What one client call saw. */
struct seen {
    cs_loop *loop;
    cs_rpc_call *call; /* NULL once done */
    size_t messages, bytes;
    uint64_t sum;        /* over all bytes, so that order and content count */
    struct cs_buf first; /* the first message */
    bool headers;
    char lead[64]; /* x-lead of the leading metadata */
    int64_t pushback;
    bool unprocessed;
    int done; /* how many times */
    int status;
    char text[512];
    char trailer[128];
    struct cs_buf trailer_bin;
    uint64_t started_ms, ended_ms;
    /* what to do */
    size_t pause_after; /* stops reading after so many messages; 0: never */
    size_t cancel_after;
    cs_rpc_channel *close_after_first;
    bool stop_loop;             /* when done */
    size_t to_send, sent, size; /* messages that go out as the queue allows */
    bool half_close;
};

static inline uint64_t fold(uint64_t sum, struct cs_slice s)
{
    for (size_t i = 0; i < s.len; i++)
        sum = sum * 31 + s.data[i];
    return sum;
}

static inline void seen_fill(cs_rpc_call *c, struct seen *s)
{
    static uint8_t data[1 << 20];

    while (s->sent < s->to_send && cs_rpc_call_queued(c) < 512 * 1024) {
        memset(data, (int)(s->sent & 0xff), s->size);
        if (cs_rpc_call_send(c, cs_slice(data, s->size)) != CS_OK)
            return;
        s->sent++;
    }
    if (s->sent == s->to_send && s->half_close) {
        s->half_close = false;
        cs_rpc_call_half_close(c);
    }
}

static inline void seen_headers(cs_rpc_call *c, void *arg, const struct cs_rpc_metadata *m)
{
    struct seen *s = arg;
    struct cs_slice lead = cs_rpc_metadata_get(m, "x-lead");

    (void)c;
    s->headers = true;
    snprintf(s->lead, sizeof s->lead, "%.*s", (int)lead.len, lead.data == NULL ? "" : (const char *)lead.data);
}

static inline void seen_message(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    struct seen *s = arg;

    if (s->messages++ == 0)
        cs_buf_put_slice(&s->first, msg);
    s->bytes += msg.len;
    s->sum = fold(s->sum, msg);
    if (s->messages == s->pause_after)
        cs_rpc_call_read(c, false);
    if (s->messages == s->cancel_after)
        cs_rpc_call_cancel(c);
    if (s->close_after_first != NULL && s->messages == 1)
        cs_rpc_channel_close(s->close_after_first);
}

static inline void seen_writable(cs_rpc_call *c, void *arg)
{
    seen_fill(c, arg);
}

static inline void seen_done(cs_rpc_call *c, void *arg, int status, const char *text,
                             const struct cs_rpc_metadata *trailers)
{
    struct seen *s = arg;
    struct cs_slice t = cs_rpc_metadata_get(trailers, "x-trailer");

    assert_ptr_equal(c, s->call);
    s->call = NULL;
    s->done++;
    s->status = status;
    s->ended_ms = cs_loop_now_ms(s->loop);
    s->pushback = cs_rpc_call_pushback(c);
    s->unprocessed = cs_rpc_call_unprocessed(c);
    snprintf(s->text, sizeof s->text, "%s", text);
    snprintf(s->trailer, sizeof s->trailer, "%.*s", (int)t.len, t.data == NULL ? "" : (const char *)t.data);
    cs_buf_put_slice(&s->trailer_bin, cs_rpc_metadata_get(trailers, "x-trailer-bin"));
    if (s->stop_loop)
        cs_loop_stop(s->loop);
}

static const struct cs_rpc_client_cb seen_cb = { seen_headers, seen_message, seen_writable, seen_done };

static inline void seen_free(struct seen *s)
{
    cs_buf_free(&s->first);
    cs_buf_free(&s->trailer_bin);
}

/* ---- the service ---- */

enum { BULK_MESSAGE = 64 * 1024, BULK_BOUND = 256 * 1024 };

struct service {
    int started, closed; /* calls */
    size_t max_queued;   /* of any call, ever */
    uint32_t time_left;  /* at the start of the newest call */
    size_t bulk;         /* messages that /t.S/Bulk sends */
    struct cs_buf got_bin;
    cs_rpc_call *waiting;     /* the newest /t.S/Wait */
    size_t received;          /* bytes of messages */
    cs_rpc_server **close_me; /* by the next echoed message */
    int compress;             /* what cs_rpc_call_compress said to /t.S/Packed */
};

static inline void svc_start(cs_rpc_call *c, void *arg)
{
    struct service *s = arg;

    s->started++;
    s->time_left = cs_rpc_call_time_left(c);
    cs_rpc_call_set_user(c, s);
    assert_non_null(strchr(cs_rpc_call_peer(c), ':'));
}

static inline void svc_closed(cs_rpc_call *c, void *arg)
{
    struct service *s = arg;

    assert_ptr_equal(cs_rpc_call_user(c), s);
    s->closed++;
    if (s->waiting == c)
        s->waiting = NULL;
}

static inline void svc_echo(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    struct service *s = arg;

    s->received += msg.len;
    if (s->close_me != NULL) {
        cs_rpc_server_close(*s->close_me);
        *s->close_me = NULL;
        assert_null(s->waiting);
        return;
    }
    if (cs_rpc_call_send(c, msg) == CS_OK && cs_rpc_call_queued(c) > s->max_queued)
        s->max_queued = cs_rpc_call_queued(c);
    if (cs_rpc_call_queued(c) > BULK_BOUND)
        cs_rpc_call_read(c, false);
}

static inline void svc_echo_writable(cs_rpc_call *c, void *arg)
{
    (void)arg;
    cs_rpc_call_read(c, true);
}

static inline void svc_ok(cs_rpc_call *c, void *arg)
{
    (void)arg;
    cs_rpc_call_finish(c, CS_RPC_OK, NULL, NULL);
}

/* A handler that had no memory says so. */
static inline void svc_finish(cs_rpc_call *c, int rc)
{
    assert_true(rc == CS_OK || rc == CS_ENOMEM);
    cs_rpc_call_finish(c, rc == CS_OK ? CS_RPC_OK : CS_RPC_RESOURCE_EXHAUSTED, "", NULL);
}

/* Counts the request's messages and answers with their number and sum. */
static inline void svc_count(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    struct service *s = arg;

    (void)c;
    s->received += msg.len;
}

static inline void svc_count_end(cs_rpc_call *c, void *arg)
{
    struct service *s = arg;
    char text[32];

    snprintf(text, sizeof text, "%zu", s->received);
    svc_finish(c, cs_rpc_call_send(c, cs_slice_str(text)));
}

static inline void svc_bulk_fill(cs_rpc_call *c, void *arg)
{
    static uint8_t data[BULK_MESSAGE];
    struct service *s = arg;
    int rc = CS_OK;

    while (s->bulk > 0 && cs_rpc_call_queued(c) < BULK_BOUND) {
        memset(data, (int)(s->bulk & 0xff), sizeof data);
        if ((rc = cs_rpc_call_send(c, cs_slice(data, sizeof data))) != CS_OK)
            break;
        if (cs_rpc_call_queued(c) > s->max_queued)
            s->max_queued = cs_rpc_call_queued(c);
        s->bulk--;
    }
    if (s->bulk == 0 || rc != CS_OK)
        svc_finish(c, rc);
}

/* The request's first byte is the status; the text is UTF-8 and the trailers carry what the metadata brought. */
static inline void svc_status(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    const struct cs_rpc_metadata *m = cs_rpc_call_metadata(c);
    struct cs_rpc_meta items[] = { { "x-trailer", cs_rpc_metadata_get(m, "x-request") },
                                   { "x-trailer-bin", cs_rpc_metadata_get(m, "x-request-bin") } };
    struct cs_rpc_metadata trailers = { items, 2 };

    (void)arg;
    cs_rpc_call_finish(c, msg.len > 0 ? msg.data[0] : 0, "100 % \xc3\xbc\n", &trailers);
    cs_rpc_call_finish(c, CS_RPC_INTERNAL, "a second finish does nothing", NULL);
}

static inline void svc_wait_start(cs_rpc_call *c, void *arg)
{
    struct service *s = arg;

    svc_start(c, arg);
    s->waiting = c;
    cs_rpc_call_read(c, false);
}

static inline void svc_early_start(cs_rpc_call *c, void *arg)
{
    svc_start(c, arg);
    cs_rpc_call_finish(c, CS_RPC_PERMISSION_DENIED, "not you", NULL);
}

/* Every other message is compressed, if the client takes that. */
static inline void svc_packed_start(cs_rpc_call *c, void *arg)
{
    struct service *s = arg;

    svc_start(c, arg);
    s->compress = cs_rpc_call_compress(c, true);
}

static inline void svc_packed(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    svc_echo(c, arg, msg);
    cs_rpc_call_compress(c, false);
    svc_echo(c, arg, msg);
    cs_rpc_call_compress(c, true);
}

static inline void svc_lead_start(cs_rpc_call *c, void *arg)
{
    struct cs_rpc_meta item = { "x-lead", cs_slice_str("first") };
    struct cs_rpc_meta bad = { "grpc-lead", cs_slice_str("no") };
    struct cs_error err;
    int rc;

    svc_start(c, arg);
    assert_int_equal(cs_rpc_call_headers(c, &(struct cs_rpc_metadata){ &bad, 1 }, &err), CS_EINVAL);
    rc = cs_rpc_call_headers(c, &(struct cs_rpc_metadata){ &item, 1 }, &err);
    assert_true(rc == CS_OK || rc == CS_ENOMEM);
    assert_int_equal(cs_rpc_call_headers(c, &(struct cs_rpc_metadata){ &item, 1 }, &err), CS_ECANCELED);
}

/* Not now, the first byte says when: its own number of ms, 255 never. */
static inline void svc_later(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    (void)arg;
    cs_rpc_call_set_pushback(c, msg.data[0] == 255 ? -1 : msg.data[0]);
    cs_rpc_call_finish(c, CS_RPC_UNAVAILABLE, "later", NULL);
}

static const struct cs_rpc_method svc_methods[] = {
    { "/t.S/Echo", svc_start, svc_echo, svc_ok, svc_echo_writable, svc_closed, 0 },
    { "/t.S/Count", svc_start, svc_count, svc_count_end, NULL, svc_closed, 0 },
    { "/t.S/Bulk", svc_start, NULL, svc_bulk_fill, svc_bulk_fill, svc_closed, 0 },
    { "/t.S/Status", svc_start, svc_status, NULL, NULL, svc_closed, 0 },
    { "/t.S/Wait", svc_wait_start, svc_count, NULL, NULL, svc_closed, 0 },
    { "/t.S/Early", svc_early_start, svc_count, NULL, NULL, svc_closed, 0 },
    { "/t.S/Small", svc_start, svc_echo, svc_ok, NULL, svc_closed, 1000 },
    { "/t.S/Packed", svc_packed_start, svc_packed, svc_ok, svc_echo_writable, svc_closed, 0 },
    { "/t.S/Lead", svc_lead_start, svc_echo, svc_ok, NULL, svc_closed, 0 },
    { "/t.S/Later", svc_start, svc_later, NULL, NULL, svc_closed, 0 },
};
enum { SVC_METHODS = sizeof svc_methods / sizeof svc_methods[0] };

/* ---- one loop with a server and a channel on it ---- */

struct world_case {
    cs_loop *loop;
    struct service service;
    cs_rpc_server *server;
    cs_rpc_channel *channel;
    uint16_t port;
    int up, down;
    char why_down[512];
    cs_timer *guard;
    cs_timer *later; /* stops the loop, for run_ms */
};

static inline void case_state(void *arg, const struct cs_error *err)
{
    struct world_case *w = arg;

    if (err == NULL) {
        w->up++;
        return;
    }
    w->down++;
    snprintf(w->why_down, sizeof w->why_down, "%s", err->msg);
}

static inline void case_stuck(void *arg)
{
    (void)arg;
    fail_msg("the test is stuck");
}

static inline void case_stop(void *arg)
{
    cs_loop_stop(arg);
}

static inline void case_serve(struct world_case *w, const struct cs_rpc_server_options *base)
{
    struct cs_rpc_server_options o = base != NULL ? *base : (struct cs_rpc_server_options){ 0 };
    struct cs_error err;

    o.host = o.host != NULL ? o.host : "127.0.0.1";
    o.port = w->port;
    o.methods = svc_methods;
    o.nmethods = SVC_METHODS;
    o.service = &w->service;
    if (cs_rpc_server_new(w->loop, &o, &w->server, &err) != CS_OK)
        fail_msg("server: %s", err.msg);
    w->port = cs_rpc_server_port(w->server);
}

static inline void case_dial(struct world_case *w, const struct cs_rpc_channel_options *base)
{
    struct cs_rpc_channel_options o = base != NULL ? *base : (struct cs_rpc_channel_options){ 0 };
    struct cs_error err;

    o.host = o.host != NULL ? o.host : "127.0.0.1";
    o.port = w->port;
    o.state = case_state;
    o.arg = w;
    if (cs_rpc_channel_new(w->loop, &o, &w->channel, &err) != CS_OK)
        fail_msg("channel: %s", err.msg);
}

static inline void case_loop(struct world_case *w, struct cs_world *world)
{
    struct cs_error err;

    memset(w, 0, sizeof *w);
    signal(SIGPIPE, SIG_IGN); /* as the programs do: a peer that went away is an error of a write */
    if (cs_loop_new(world, &w->loop, &err) != CS_OK)
        fail_msg("loop: %s", err.msg);
    assert_int_equal(cs_timer_new(w->loop, case_stuck, w, &w->guard), CS_OK);
    assert_int_equal(cs_timer_new(w->loop, case_stop, w->loop, &w->later), CS_OK);
    cs_timer_start(w->guard, 60000);
}

static inline void case_open(struct world_case *w)
{
    case_loop(w, cs_world_real());
    case_serve(w, NULL);
    case_dial(w, NULL);
}

static inline void run_ms(struct world_case *w, uint32_t ms)
{
    cs_timer_start(w->later, ms);
    cs_loop_run(w->loop);
}

/* Until the condition holds; the guard timer ends a test for which it never does. */
#define RUN_UNTIL(w, condition)                                                                                        \
    while (!(condition))                                                                                               \
    run_ms((w), 1)

static inline void case_close(struct world_case *w)
{
    cs_rpc_channel_close(w->channel);
    cs_rpc_server_close(w->server);
    cs_timer_close(w->guard);
    cs_timer_close(w->later);
    cs_loop_free(w->loop);
    cs_buf_free(&w->service.got_bin);
    assert_int_equal(w->service.started, w->service.closed);
}

static inline void start_call(struct world_case *w, struct seen *s, const char *path, const struct cs_rpc_metadata *m,
                              uint32_t timeout_ms)
{
    struct cs_error err;

    s->loop = w->loop;
    s->started_ms = cs_loop_now_ms(w->loop);
    if (cs_rpc_call_new(w->channel, path, m, timeout_ms, &seen_cb, s, &s->call, &err) != CS_OK)
        fail_msg("call: %s", err.msg);
}

static inline void open_call(struct world_case *w, struct seen *s, const struct cs_rpc_call_options *o)
{
    struct cs_error err;

    s->loop = w->loop;
    s->started_ms = cs_loop_now_ms(w->loop);
    if (cs_rpc_call_open(w->channel, o, &seen_cb, s, &s->call, &err) != CS_OK)
        fail_msg("call: %s", err.msg);
}

static inline void finish_call(struct world_case *w, struct seen *s)
{
    s->stop_loop = true;
    if (s->done == 0)
        cs_loop_run(w->loop);
    assert_int_equal(s->done, 1);
}

/* One unary call, to its end. */
static inline void unary(struct world_case *w, struct seen *s, const char *path, const struct cs_rpc_metadata *m,
                         uint32_t timeout_ms, struct cs_slice msg)
{
    start_call(w, s, path, m, timeout_ms);
    assert_int_equal(cs_rpc_call_send(s->call, msg), CS_OK);
    cs_rpc_call_half_close(s->call);
    finish_call(w, s);
}

#endif
