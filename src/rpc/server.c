#include <stdlib.h>

#include "base/log.h"
#include "rpc/conn.h"
#include "rpc/peers.h"
#include "rpc/status.h"
#include "rpc/timeout.h"

enum {
    MAX_CONNECTIONS = 4096,
    MAX_PER_ADDRESS = 256,
    MAX_STREAMS = 64,
    HANDSHAKE_MS = 10 * 1000,
    HEADER_MS = 10 * 1000,
    ADMIT_MS = 10 * 1000,
    IDLE_MS = 15 * 60 * 1000,
    STALL_MS = 60 * 1000,
    STREAM_STALL_MS = 2 * 60 * 60 * 1000,
    KEEPALIVE_MS = 5 * 60 * 1000,
    KEEPALIVE_TIMEOUT_MS = 20 * 1000,
    MIN_PING_MS = 5 * 60 * 1000,
    MIN_PING_IDLE_MS = 2 * 60 * 60 * 1000,
    FLOOD_BURST = 500,
    FLOOD_RATE = 100,
};

struct cs_rpc_server {
    cs_loop *loop;
    cs_listener *listener; /* NULL once draining */
    uint16_t port;
    cs_rpc_tls_context *tls;             /* NULL: plain */
    const struct cs_rpc_method *methods; /* borrowed */
    size_t nmethods;
    void *service;
    size_t max_message;
    struct cs_rpc_limits limits;
    uint32_t max_connections, max_per_address;
    cs_rpc_conn *conns, *oldest;
    struct cs_rpc_peers peers;
    struct cs_rpc_server_stats stats; /* but for `calls` */
    cs_timer *drain;                  /* NULL: not draining */
    void (*drained)(void *arg);
    void *drained_arg;
};

struct server_call {
    struct cs_rpc_call base;
    const struct cs_rpc_method *method; /* NULL until started */
    void *service;
    struct cs_rpc_pairs request;
    size_t server_max; /* of a message, unless the method has its own */

    /* of the request's headers, until they are complete */
    struct cs_buf path;
    bool is_post, is_grpc, got_headers;
    bool takes_gzip; /* the client */
    bool has_timeout;
    uint32_t timeout_ms;
    int refuse; /* a status that the headers themselves have earned; 0: none */
    const char *why;

    bool finished;
    bool has_pushback;
    int32_t pushback;
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

static void put_grpc_head(const cs_rpc_call *c)
{
    struct cs_rpc_fields *f = &c->conn->fields;

    put_head(f, "200");
    cs_rpc_fields_put(f, "content-type", cs_slice_str("application/grpc"), false);
    cs_rpc_fields_put(f, "grpc-accept-encoding", cs_slice_str("identity,gzip"), false);
    if (c->can_compress)
        cs_rpc_fields_put(f, "grpc-encoding", cs_slice_str("gzip"), false);
}

static void open_with(cs_rpc_call *c, const struct cs_rpc_metadata *m)
{
    nghttp2_data_provider provider = { .read_callback = cs_rpc_call_pull };

    c->opened = true;
    put_grpc_head(c);
    cs_rpc_fields_put_metadata(&c->conn->fields, m);
    respond(c, &provider);
}

static void on_open(cs_rpc_call *c)
{
    open_with(c, NULL);
}

int cs_rpc_call_headers(cs_rpc_call *c, const struct cs_rpc_metadata *m, struct cs_error *err)
{
    int rc = cs_rpc_metadata_check(m, err);

    if (rc != CS_OK)
        return rc;
    if (c->over || c->out_end || c->opened || !c->stream)
        return cs_fail(err, CS_ECANCELED, "too late for leading metadata");
    open_with(c, m);
    return c->conn->fields.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

static bool may_compress(cs_rpc_call *c)
{
    return server_call(c)->takes_gzip && !c->opened;
}

void cs_rpc_call_set_pushback(cs_rpc_call *c, int32_t ms)
{
    server_call(c)->has_pushback = true;
    server_call(c)->pushback = ms;
}

static void on_trailers(cs_rpc_call *c, struct cs_rpc_fields *f)
{
    struct server_call *x = server_call(c);

    f->failed |= x->text.failed;
    cs_rpc_fields_put_status(f, x->status, (const char *)x->text.data);
    if (x->has_pushback)
        cs_rpc_fields_put_number(f, "grpc-retry-pushback-ms", x->pushback);
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
    c->can_compress = false;
    put_grpc_head(c);
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
        x->is_grpc = cs_rpc_is_grpc(value);
    } else if (cs_slice_eq(name, cs_slice_str("grpc-timeout"))) {
        x->has_timeout = cs_rpc_timeout_parse(value, &x->timeout_ms);
        if (!x->has_timeout)
            refuse(x, CS_RPC_INTERNAL, "grpc-timeout cannot be read");
    } else if (cs_slice_eq(name, cs_slice_str("grpc-encoding"))) {
        c->in.encoding = cs_rpc_encoding_of(value);
    } else if (cs_slice_eq(name, cs_slice_str("grpc-accept-encoding"))) {
        x->takes_gzip = cs_rpc_list_has(value, "gzip");
    } else if ((rc = cs_rpc_pairs_put_field(&x->request, name, value)) == CS_ECORRUPT) {
        refuse(x, CS_RPC_INTERNAL, "a binary metadata value is not base64");
    } else if (rc != CS_OK) {
        refuse(x, CS_RPC_RESOURCE_EXHAUSTED, "out of memory");
    }
}

static size_t max_message_of(const struct server_call *x)
{
    return x->method != NULL && x->method->max_message != 0 ? x->method->max_message : x->server_max;
}

/* The bounds of a call from someone unknown. The message limit is what the window lets through. */
static void keep_small(cs_rpc_call *c)
{
    c->unadmitted = c->in.frugal = true;
    if (c->in.max > CS_RPC_WINDOW_UNADMITTED - CS_RPC_PREFIX)
        c->in.max = CS_RPC_WINDOW_UNADMITTED - CS_RPC_PREFIX;
}

void cs_rpc_call_admit(cs_rpc_call *c)
{
    const struct server_call *x = server_call(c);

    if (!c->unadmitted || c->over)
        return;
    c->unadmitted = c->in.frugal = false;
    c->in.max = max_message_of(x);
    if (c->stream && nghttp2_session_set_local_window_size(c->conn->h2, NGHTTP2_FLAG_NONE, c->id, CS_RPC_WINDOW) != 0)
        cs_rpc_conn_fail(c->conn, CS_ENOMEM, "out of memory");
    cs_rpc_conn_wake(c->conn);
}

static void on_not_admitted(cs_rpc_call *c)
{
    cs_rpc_call_finish(c, CS_RPC_UNAUTHENTICATED, "the call was not admitted in time", NULL);
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
    if (c->header_bytes > c->conn->limits->max_header_list) {
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
    x->method = m;
    c->in.max = max_message_of(x);
    if (c->conn->limits->admission)
        keep_small(c);
    if (x->has_timeout && cs_rpc_call_set_deadline(c, x->timeout_ms, on_expired) != CS_OK) {
        x->method = NULL; /* it is not started, so not told the end either */
        cs_rpc_call_finish(c, CS_RPC_RESOURCE_EXHAUSTED, "out of memory", NULL);
        return;
    }
    cs_buf_free(&x->path);
    if (m->start != NULL)
        m->start(c, x->service);
    if (c->unadmitted)
        cs_rpc_pairs_clear(&x->request);
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
    .may_compress = may_compress,
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
    cs_rpc_server *s = conn->owner;
    struct server_call *x = calloc(1, sizeof *x);

    if (x == NULL)
        return NULL;
    x->service = s->service;
    x->server_max = s->max_message;
    cs_rpc_call_init(&x->base, &call_ops, conn, s->max_message);
    return &x->base;
}

static void on_down(cs_rpc_conn *conn)
{
    cs_rpc_server *s = conn->owner;

    s->stats.calmed += conn->calmed;
    cs_log(CS_LOG_DEBUG, "rpc peer=%s closed: %s", conn->peer != NULL ? conn->peer : "", conn->err.msg);
}

static void link_conn(cs_rpc_server *s, cs_rpc_conn *conn)
{
    if ((conn->next = s->conns) != NULL)
        conn->next->prev = conn;
    else
        s->oldest = conn;
    s->conns = conn;
    s->stats.connections++;
    conn->serial = ++s->stats.accepted;
}

static void unlink_conn(cs_rpc_server *s, cs_rpc_conn *conn)
{
    if (conn->prev != NULL)
        conn->prev->next = conn->next;
    else
        s->conns = conn->next;
    if (conn->next != NULL)
        conn->next->prev = conn->prev;
    else
        s->oldest = conn->prev;
    cs_rpc_peers_leave(&s->peers, conn->place);
    s->stats.connections--;
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
    .down = on_down,
    .gone = on_gone,
    .not_admitted = on_not_admitted,
};

/* Room for one more, if need be by hanging up on whoever has been silent longest. */
static bool make_room(cs_rpc_server *s)
{
    cs_rpc_conn *conn = s->oldest;

    if (s->stats.connections < s->max_connections)
        return true;
    while (conn != NULL && conn->up)
        conn = conn->prev;
    if (conn == NULL)
        return false;
    unlink_conn(s, conn);
    cs_rpc_conn_kill(conn, CS_RPC_UNAVAILABLE, "");
    return true;
}

static cs_rpc_conn *admit_conn(cs_rpc_server *s, const char *address)
{
    struct cs_rpc_peer *place = cs_rpc_peers_enter(&s->peers, address, s->max_per_address);
    cs_rpc_conn *conn;

    if (place == NULL || !make_room(s) || cs_rpc_conn_new(s->loop, &conn_ops, s, s->tls, &s->limits, &conn) != CS_OK) {
        cs_rpc_peers_leave(&s->peers, place);
        s->stats.refused++;
        cs_log(CS_LOG_DEBUG, "rpc peer=%s refused: too many connections", address);
        return NULL;
    }
    conn->place = place;
    return conn;
}

static void on_accepted(void *arg, cs_stream *stream)
{
    cs_rpc_server *s = arg;
    cs_rpc_conn *conn = admit_conn(s, cs_stream_peer(stream));

    if (conn == NULL) {
        cs_stream_close(stream);
        return;
    }
    link_conn(s, conn);
    conn->stream = stream;
    cs_stream_accept(stream, &cs_rpc_conn_stream_cb, conn);
    cs_rpc_conn_enter(conn);
    cs_rpc_conn_start(conn);
    cs_rpc_conn_leave(conn);
}

/* ---- the server ---- */

static uint32_t or_default(uint32_t v, uint32_t otherwise)
{
    return v != 0 ? v : otherwise;
}

static void set_limits(cs_rpc_server *s, const struct cs_rpc_server_options *o)
{
    s->max_message = o->max_message != 0 ? o->max_message : CS_RPC_MAX_MESSAGE;
    s->max_connections = or_default(o->max_connections, MAX_CONNECTIONS);
    s->max_per_address = or_default(o->max_per_address, MAX_PER_ADDRESS);
    s->limits = (struct cs_rpc_limits){
        .max_streams = or_default(o->max_streams, MAX_STREAMS),
        .max_header_list = or_default(o->max_header_list, CS_RPC_MAX_HEADER_LIST),
        .handshake_ms = or_default(o->handshake_ms, HANDSHAKE_MS),
        .header_ms = or_default(o->header_ms, HEADER_MS),
        .idle_ms = or_default(o->idle_ms, IDLE_MS),
        .stall_ms = or_default(o->stall_ms, STALL_MS),
        .stream_stall_ms = or_default(o->stream_stall_ms, STREAM_STALL_MS),
        .admit_ms = or_default(o->admit_ms, ADMIT_MS),
        .keepalive_ms = or_default(o->keepalive_ms, KEEPALIVE_MS),
        .keepalive_timeout_ms = or_default(o->keepalive_timeout_ms, KEEPALIVE_TIMEOUT_MS),
        .min_ping_ms = or_default(o->min_ping_ms, MIN_PING_MS),
        .min_ping_idle_ms = or_default(o->min_ping_idle_ms, MIN_PING_IDLE_MS),
        .flood_burst = or_default(o->flood_burst, FLOOD_BURST),
        .flood_rate = or_default(o->flood_rate, FLOOD_RATE),
        .keepalive_idle = true,
        .admission = o->admission,
    };
}

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
    set_limits(s, o);
    if (o->cert_file != NULL)
        rc = cs_rpc_tls_server(o->cert_file, o->key_file, &s->tls, err);
    if (rc == CS_OK)
        rc = o->listen_fd > 0 ? cs_listen_on(l, o->listen_fd, on_accepted, s, &s->listener, err)
                              : cs_listen(l, o->host, o->port, on_accepted, s, &s->listener, err);
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

int cs_rpc_server_certificate(cs_rpc_server *s, const char *cert_file, const char *key_file, struct cs_error *err)
{
    cs_rpc_tls_context *fresh;
    int rc;

    if (s->tls == NULL)
        return cs_fail(err, CS_EINVAL, "the server has no TLS");
    if ((rc = cs_rpc_tls_server(cert_file, key_file, &fresh, err)) != CS_OK)
        return rc;
    cs_rpc_tls_context_free(s->tls);
    s->tls = fresh;
    return CS_OK;
}

void cs_rpc_server_stats(const cs_rpc_server *s, struct cs_rpc_server_stats *out)
{
    *out = s->stats;
    for (const cs_rpc_conn *conn = s->conns; conn != NULL; conn = conn->next)
        out->calls += conn->ncalls;
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
