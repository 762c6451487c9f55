#include <stdlib.h>

#include "base/log.h"
#include "rpc/conn.h"
#include "rpc/status.h"
#include "rpc/timeout.h"

enum { MAX_STREAMS = 100, HANDSHAKE_MS = 10000 };

struct cs_rpc_server {
    cs_loop *loop;
    cs_listener *listener; /* NULL once draining */
    uint16_t port;
    cs_rpc_tls_context *tls;             /* NULL: plain */
    const struct cs_rpc_method *methods; /* borrowed */
    size_t nmethods;
    void *service;
    size_t max_message;
    uint32_t max_streams, max_header_list;
    cs_rpc_conn *conns;
    cs_timer *drain; /* NULL: not draining */
    void (*drained)(void *arg);
    void *drained_arg;
};

struct server_call {
    struct cs_rpc_call base;
    const struct cs_rpc_method *method; /* NULL until started */
    void *service;
    struct cs_rpc_pairs request;

    /* of the request's headers, until they are complete */
    struct cs_buf path;
    bool is_post, is_grpc, got_headers;
    bool has_timeout;
    uint32_t timeout_ms;
    int refuse; /* a status that the headers themselves have earned; 0: none */
    const char *why;

    bool finished;
    int status;
    struct cs_buf text; /* NUL-terminated */
    struct cs_rpc_pairs trailers;
};

static struct server_call *server_call(cs_rpc_call *c)
{
    return (struct server_call *)c;
}

const struct cs_rpc_metadata *cs_rpc_call_metadata(const cs_rpc_call *c)
{
    return &((const struct server_call *)c)->request.view;
}

/* ---- the answer ---- */

/* Sends the response's header block; without a provider it is the whole answer. */
static void respond(cs_rpc_call *c, const nghttp2_data_provider *provider)
{
    struct cs_rpc_fields *f = &c->conn->fields;
    int rc = f->failed ? NGHTTP2_ERR_NOMEM : nghttp2_submit_response(c->conn->h2, c->id, f->v, f->n, provider);

    if (rc == NGHTTP2_ERR_NOMEM)
        cs_rpc_conn_fail(c->conn, CS_ENOMEM, "out of memory");
    else if (rc != 0)
        cs_rpc_conn_reset(c->conn, c, NGHTTP2_INTERNAL_ERROR);
    cs_rpc_conn_wake(c->conn);
}

static void put_head(struct cs_rpc_fields *f, const char *http_status)
{
    cs_rpc_fields_reset(f);
    cs_rpc_fields_put(f, ":status", cs_slice_str(http_status), false);
}

static void put_grpc_head(struct cs_rpc_fields *f)
{
    put_head(f, "200");
    cs_rpc_fields_put(f, "content-type", cs_slice_str("application/grpc"), false);
    cs_rpc_fields_put(f, "grpc-accept-encoding", cs_slice_str("identity"), false);
}

static void on_open(cs_rpc_call *c)
{
    nghttp2_data_provider provider = { .read_callback = cs_rpc_call_pull };

    put_grpc_head(&c->conn->fields);
    respond(c, &provider);
}

static void on_trailers(cs_rpc_call *c, struct cs_rpc_fields *f)
{
    struct server_call *x = server_call(c);

    f->failed |= x->text.failed;
    cs_rpc_fields_put_status(f, x->status, (const char *)x->text.data);
    cs_rpc_fields_put_metadata(f, &x->trailers.view);
}

/* Plain HTTP, to something that is no gRPC client. */
static void refuse_http(struct server_call *x, const char *http_status)
{
    x->finished = true;
    cs_rpc_call_set_deaf(&x->base);
    x->base.opened = true;
    put_head(&x->base.conn->fields, http_status);
    respond(&x->base, NULL);
}

static int keep_trailers(struct server_call *x, const struct cs_rpc_metadata *m, struct cs_error *err)
{
    int rc = cs_rpc_metadata_check(m, err);

    for (size_t i = 0; rc == CS_OK && m != NULL && i < m->n; i++)
        if (cs_rpc_pairs_put(&x->trailers, cs_slice_str(m->items[i].name), m->items[i].value) != CS_OK)
            rc = cs_fail(err, CS_ENOMEM, "out of memory");
    return rc;
}

void cs_rpc_call_finish(cs_rpc_call *c, int status, const char *text, const struct cs_rpc_metadata *trailers)
{
    struct server_call *x = server_call(c);
    struct cs_error err;

    if (x->finished || c->over)
        return;
    x->finished = true;
    if (keep_trailers(x, trailers, &err) != CS_OK) {
        status = CS_RPC_INTERNAL;
        text = err.msg;
    }
    x->status = status;
    cs_buf_put_str(&x->text, text != NULL ? text : "");
    cs_buf_put_u8(&x->text, 0);
    cs_rpc_call_set_deaf(c);
    if (c->opened || !c->stream) {
        cs_rpc_call_more(c);
        return;
    }
    c->opened = true;
    put_grpc_head(&c->conn->fields);
    on_trailers(c, &c->conn->fields);
    respond(c, NULL);
}

/* ---- the request ---- */

static void refuse(struct server_call *x, int status, const char *why)
{
    if (x->refuse == 0) {
        x->refuse = status;
        x->why = why;
    }
}

static void on_header(cs_rpc_call *c, struct cs_slice name, struct cs_slice value)
{
    struct server_call *x = server_call(c);
    int rc;

    if (x->got_headers)
        return; /* a request has no trailers in gRPC */
    if (cs_slice_eq(name, cs_slice_str(":path"))) {
        cs_buf_put_slice(&x->path, value);
        cs_buf_put_u8(&x->path, 0);
    } else if (cs_slice_eq(name, cs_slice_str(":method"))) {
        x->is_post = cs_slice_eq(value, cs_slice_str("POST"));
    } else if (cs_slice_eq(name, cs_slice_str("content-type"))) {
        static const char grpc[] = "application/grpc";

        x->is_grpc = value.len >= sizeof grpc - 1 && memcmp(value.data, grpc, sizeof grpc - 1) == 0;
    } else if (cs_slice_eq(name, cs_slice_str("grpc-timeout"))) {
        x->has_timeout = cs_rpc_timeout_parse(value, &x->timeout_ms);
        if (!x->has_timeout)
            refuse(x, CS_RPC_INTERNAL, "grpc-timeout cannot be read");
    } else if (cs_slice_eq(name, cs_slice_str("grpc-encoding"))) {
        c->in.encoded = !cs_slice_eq(value, cs_slice_str("identity"));
    } else if ((rc = cs_rpc_pairs_put_field(&x->request, name, value)) == CS_ECORRUPT) {
        refuse(x, CS_RPC_INTERNAL, "a binary metadata value is not base64");
    } else if (rc != CS_OK) {
        refuse(x, CS_RPC_RESOURCE_EXHAUSTED, "out of memory");
    }
}

static const struct cs_rpc_method *find_method(const cs_rpc_server *s, const char *path)
{
    for (size_t i = 0; i < s->nmethods; i++)
        if (strcmp(s->methods[i].path, path) == 0)
            return &s->methods[i];
    return NULL;
}

/* Past the deadline nobody waits for the answer, and the handler is told at once, even if the peer is stuck. */
static void on_expired(cs_rpc_call *c)
{
    if (c->out.bytes > 0 && c->out.started) {
        /* perhaps inside a message: only a reset is clean */
        cs_rpc_conn_reset(c->conn, c, NGHTTP2_CANCEL);
        cs_rpc_call_set_over(c);
        return;
    }
    cs_rpc_sendq_clear(&c->out);
    cs_rpc_call_finish(c, CS_RPC_DEADLINE_EXCEEDED, "the deadline has passed", NULL);
    cs_rpc_call_tell(c);
}

static void on_headers_done(cs_rpc_call *c, bool end_stream)
{
    struct server_call *x = server_call(c);
    const cs_rpc_server *s = c->conn->owner;
    const struct cs_rpc_method *m;

    (void)end_stream;
    if (x->got_headers)
        return;
    x->got_headers = true;
    if (c->header_bytes > c->conn->max_header_list) {
        cs_rpc_call_finish(c, CS_RPC_RESOURCE_EXHAUSTED, "the call's metadata is too large", NULL);
        return;
    }
    if (!x->is_post) {
        refuse_http(x, "405");
        return;
    }
    if (!x->is_grpc) {
        refuse_http(x, "415");
        return;
    }
    if (x->path.failed)
        refuse(x, CS_RPC_RESOURCE_EXHAUSTED, "out of memory");
    if (x->refuse != 0) {
        cs_rpc_call_finish(c, x->refuse, x->why, NULL);
        return;
    }
    if ((m = find_method(s, (const char *)x->path.data)) == NULL) {
        cs_rpc_call_finish(c, CS_RPC_UNIMPLEMENTED, "no such method here", NULL);
        return;
    }
    if (m->max_message != 0)
        c->in.max = m->max_message;
    if (x->has_timeout && cs_rpc_call_set_deadline(c, x->timeout_ms, on_expired) != CS_OK) {
        cs_rpc_call_finish(c, CS_RPC_RESOURCE_EXHAUSTED, "out of memory", NULL);
        return;
    }
    x->method = m;
    if (m->start != NULL)
        m->start(c, x->service);
}

static void on_message(cs_rpc_call *c, struct cs_slice msg)
{
    struct server_call *x = server_call(c);

    if (x->method->message != NULL)
        x->method->message(c, x->service, msg);
}

static void on_remote_end(cs_rpc_call *c)
{
    struct server_call *x = server_call(c);

    if (!cs_rpc_decoder_idle(&c->in))
        cs_rpc_call_finish(c, CS_RPC_INTERNAL, "the request ended inside a message", NULL);
    else if (x->method->half_close != NULL)
        x->method->half_close(c, x->service);
}

static void on_broken(cs_rpc_call *c, int status, const char *text)
{
    cs_rpc_call_finish(c, status, text, NULL);
}

static void on_writable(cs_rpc_call *c)
{
    struct server_call *x = server_call(c);

    if (x->method != NULL && x->method->writable != NULL)
        x->method->writable(c, x->service);
}

static void on_stream_closed(cs_rpc_call *c, uint32_t h2_error)
{
    (void)h2_error;
    cs_rpc_call_set_over(c);
}

static void on_lost(cs_rpc_call *c, int status, const char *text)
{
    (void)status;
    (void)text;
    cs_rpc_call_set_over(c);
}

static void on_tell(cs_rpc_call *c)
{
    struct server_call *x = server_call(c);

    if (x->method != NULL && x->method->closed != NULL)
        x->method->closed(c, x->service);
}

static void on_free(cs_rpc_call *c)
{
    struct server_call *x = server_call(c);

    cs_rpc_pairs_clear(&x->request);
    cs_rpc_pairs_clear(&x->trailers);
    cs_buf_free(&x->path);
    cs_buf_free(&x->text);
    free(x);
}

static const struct cs_rpc_call_ops call_ops = {
    .header = on_header,
    .headers_done = on_headers_done,
    .message = on_message,
    .remote_end = on_remote_end,
    .broken = on_broken,
    .writable = on_writable,
    .stream_closed = on_stream_closed,
    .lost = on_lost,
    .tell = on_tell,
    .open = on_open,
    .trailers = on_trailers,
    .free = on_free,
};

/* ---- connections ---- */

static cs_rpc_call *on_accept(cs_rpc_conn *conn)
{
    const cs_rpc_server *s = conn->owner;
    struct server_call *x = calloc(1, sizeof *x);

    if (x == NULL)
        return NULL;
    x->service = s->service;
    cs_rpc_call_init(&x->base, &call_ops, conn, s->max_message);
    return &x->base;
}

static void on_up(cs_rpc_conn *conn)
{
    cs_timer_stop(conn->connecting);
}

static void on_down(cs_rpc_conn *conn)
{
    cs_log(CS_LOG_DEBUG, "rpc peer=%s closed: %s", conn->peer != NULL ? conn->peer : "", conn->err.msg);
}

/* Someone connected and says nothing that is HTTP/2. */
static void on_handshake_timeout(void *arg)
{
    cs_rpc_conn *conn = arg;

    cs_rpc_conn_enter(conn);
    cs_rpc_conn_fail(conn, CS_ETIMEDOUT, "no HTTP/2 within %d ms", HANDSHAKE_MS);
    cs_rpc_conn_leave(conn);
}

static void unlink_conn(cs_rpc_server *s, cs_rpc_conn *conn)
{
    if (conn->prev != NULL)
        conn->prev->next = conn->next;
    else
        s->conns = conn->next;
    if (conn->next != NULL)
        conn->next->prev = conn->prev;
}

static void on_gone(cs_rpc_conn *conn)
{
    cs_rpc_server *s = conn->owner;

    unlink_conn(s, conn);
    if (s->drain != NULL && s->conns == NULL)
        cs_timer_start(s->drain, 0);
}

static const struct cs_rpc_conn_ops conn_ops = {
    .server = true,
    .accept = on_accept,
    .up = on_up,
    .down = on_down,
    .gone = on_gone,
};

static void on_accepted(void *arg, cs_stream *stream)
{
    cs_rpc_server *s = arg;
    cs_rpc_conn *conn;

    if (cs_rpc_conn_new(s->loop, &conn_ops, s, s->tls, s->max_streams, s->max_header_list, &conn) != CS_OK) {
        cs_stream_close(stream);
        return;
    }
    if (cs_timer_new(s->loop, on_handshake_timeout, conn, &conn->connecting) != CS_OK) {
        cs_rpc_conn_kill(conn, CS_RPC_UNAVAILABLE, "");
        cs_stream_close(stream);
        return;
    }
    cs_timer_start(conn->connecting, HANDSHAKE_MS);
    if ((conn->next = s->conns) != NULL)
        conn->next->prev = conn;
    s->conns = conn;
    conn->stream = stream;
    cs_stream_accept(stream, &cs_rpc_conn_stream_cb, conn);
    cs_rpc_conn_enter(conn);
    cs_rpc_conn_start(conn);
    cs_rpc_conn_leave(conn);
}

/* ---- the server ---- */

int cs_rpc_server_new(cs_loop *l, const struct cs_rpc_server_options *o, cs_rpc_server **out, struct cs_error *err)
{
    cs_rpc_server *s;
    int rc = CS_OK;

    *out = NULL;
    if ((o->cert_file == NULL) != (o->key_file == NULL))
        return cs_fail(err, CS_EINVAL, "TLS needs a certificate and a key, not one of them");
    if ((s = calloc(1, sizeof *s)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    s->loop = l;
    s->methods = o->methods;
    s->nmethods = o->nmethods;
    s->service = o->service;
    s->max_message = o->max_message != 0 ? o->max_message : CS_RPC_MAX_MESSAGE;
    s->max_streams = o->max_streams != 0 ? o->max_streams : MAX_STREAMS;
    s->max_header_list = o->max_header_list != 0 ? o->max_header_list : CS_RPC_MAX_HEADER_LIST;
    if (o->cert_file != NULL)
        rc = cs_rpc_tls_server(o->cert_file, o->key_file, &s->tls, err);
    if (rc == CS_OK)
        rc = cs_listen(l, o->host, o->port, on_accepted, s, &s->listener, err);
    if (rc != CS_OK)
        cs_rpc_server_close(s);
    else
        (*out = s)->port = cs_listener_port(s->listener);
    return rc;
}

uint16_t cs_rpc_server_port(const cs_rpc_server *s)
{
    return s->port;
}

static void cut_all(cs_rpc_server *s)
{
    cs_rpc_conn *conn;

    while ((conn = s->conns) != NULL) {
        unlink_conn(s, conn);
        cs_rpc_conn_kill(conn, CS_RPC_UNAVAILABLE, "the server is shutting down");
    }
}

static void on_drain(void *arg)
{
    cs_rpc_server *s = arg;
    void (*drained)(void *drained_arg) = s->drained;

    cut_all(s);
    s->drained = NULL;
    if (drained != NULL)
        drained(s->drained_arg);
}

void cs_rpc_server_drain(cs_rpc_server *s, uint32_t timeout_ms, void (*drained)(void *arg), void *arg)
{
    if (s->drain != NULL)
        return;
    cs_listener_close(s->listener);
    s->listener = NULL;
    s->drained = drained;
    s->drained_arg = arg;
    if (cs_timer_new(s->loop, on_drain, s, &s->drain) != CS_OK) {
        on_drain(s);
        return;
    }
    for (cs_rpc_conn *conn = s->conns; conn != NULL; conn = conn->next)
        cs_rpc_conn_go_away(conn);
    cs_timer_start(s->drain, s->conns == NULL ? 0 : timeout_ms);
}

void cs_rpc_server_close(cs_rpc_server *s)
{
    if (s == NULL)
        return;
    cs_listener_close(s->listener);
    cut_all(s);
    cs_timer_close(s->drain);
    cs_rpc_tls_context_free(s->tls);
    free(s);
}
