#include <stdio.h>
#include <stdlib.h>

#include "rpc/conn.h"
#include "rpc/status.h"
#include "rpc/timeout.h"

enum { CONNECT_TIMEOUT_MS = 10000 };

struct cs_rpc_channel {
    cs_loop *loop;
    char *host;      /* owned, as are these */
    char *authority; /* host:port */
    char *url;       /* scheme://host:port */
    char *user_agent;
    uint16_t port;
    cs_rpc_tls_context *tls; /* NULL: plain */
    uint32_t connect_timeout_ms;
    size_t max_message;
    void (*state)(void *arg, const struct cs_error *err);
    void *arg;
    cs_rpc_conn *conns;   /* all that have calls or may get some */
    cs_rpc_conn *current; /* the one that takes new calls; NULL: the next call makes one */
};

struct client_call {
    struct cs_rpc_call base;
    const cs_rpc_channel *channel; /* not to be touched once told */
    struct cs_rpc_client_cb cb;
    void *arg;
    char *path;
    struct cs_rpc_pairs request;
    uint32_t timeout_ms;

    struct cs_rpc_pairs headers, trailers;
    bool got_headers; /* the final response's, not an interim's */
    int http_status;
    bool is_grpc;          /* by its content-type */
    int grpc_status;       /* -1: none came */
    struct cs_buf message; /* grpc-message, decoded */

    int status;
    struct cs_buf text; /* NUL-terminated */
};

static struct client_call *client_call(cs_rpc_call *c)
{
    return (struct client_call *)c;
}

/* ---- how a call ends ---- */

static void end(struct client_call *x, int status, struct cs_slice text, uint32_t h2_error)
{
    if (x->base.over)
        return;
    x->status = status;
    cs_buf_put_slice(&x->text, text);
    cs_buf_put_u8(&x->text, 0);
    cs_rpc_conn_reset(x->base.conn, &x->base, h2_error);
    cs_rpc_call_set_over(&x->base);
}

__attribute__((format(printf, 3, 4))) static void end_with(struct client_call *x, int status, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    end(x, status, cs_slice_str(text), NGHTTP2_CANCEL);
}

static void on_tell(cs_rpc_call *c)
{
    struct client_call *x = client_call(c);

    x->cb.done(c, x->arg, x->status, x->text.failed ? "out of memory" : (const char *)x->text.data, &x->trailers.view);
}

static void on_free(cs_rpc_call *c)
{
    struct client_call *x = client_call(c);

    free(x->path);
    cs_rpc_pairs_clear(&x->request);
    cs_rpc_pairs_clear(&x->headers);
    cs_rpc_pairs_clear(&x->trailers);
    cs_buf_free(&x->message);
    cs_buf_free(&x->text);
    free(x);
}

static void on_expired(cs_rpc_call *c)
{
    struct client_call *x = client_call(c);

    if (c->conn->up)
        end_with(x, CS_RPC_DEADLINE_EXCEEDED, "no answer from %s within %u ms", x->channel->url, x->timeout_ms);
    else
        end_with(x, CS_RPC_DEADLINE_EXCEEDED, "no connection to %s within %u ms", x->channel->url, x->timeout_ms);
}

static void on_lost(cs_rpc_call *c, int status, const char *text)
{
    end(client_call(c), status, cs_slice_str(text), NGHTTP2_CANCEL);
}

static void on_broken(cs_rpc_call *c, int status, const char *text)
{
    end(client_call(c), status, cs_slice_str(text), NGHTTP2_CANCEL);
}

static void on_stream_closed(cs_rpc_call *c, uint32_t h2_error)
{
    struct client_call *x = client_call(c);

    if (c->remote_ended)
        return; /* complete: the reader has yet to take the rest */
    /* a server cancels what is past the deadline, and its clock may be a little ahead of ours */
    if (h2_error == NGHTTP2_CANCEL && c->deadline != NULL && cs_rpc_call_time_left(c) == 0)
        on_expired(c);
    else
        end_with(x, cs_rpc_status_of_h2(h2_error), "the server gave up the call with %s",
                 nghttp2_http2_strerror(h2_error));
}

/* ---- the response ---- */

static void on_header(cs_rpc_call *c, struct cs_slice name, struct cs_slice value)
{
    struct client_call *x = client_call(c);
    int rc = CS_OK;

    if (cs_slice_eq(name, cs_slice_str(":status"))) {
        x->http_status = 0; /* nghttp2 has seen to three digits */
        for (size_t i = 0; i < value.len && i < 3; i++)
            x->http_status = x->http_status * 10 + (value.data[i] - '0');
    } else if (cs_slice_eq(name, cs_slice_str("content-type"))) {
        static const char grpc[] = "application/grpc";

        x->is_grpc = value.len >= sizeof grpc - 1 && memcmp(value.data, grpc, sizeof grpc - 1) == 0;
    } else if (cs_slice_eq(name, cs_slice_str("grpc-status"))) {
        x->grpc_status = cs_rpc_status_parse(value);
    } else if (cs_slice_eq(name, cs_slice_str("grpc-message"))) {
        cs_buf_reset(&x->message);
        cs_rpc_percent_decode(&x->message, value);
    } else if (cs_slice_eq(name, cs_slice_str("grpc-encoding"))) {
        c->in.encoded = !cs_slice_eq(value, cs_slice_str("identity"));
    } else {
        rc = cs_rpc_pairs_put_field(x->got_headers ? &x->trailers : &x->headers, name, value);
    }
    if (rc == CS_ECORRUPT)
        end_with(x, CS_RPC_INTERNAL, "the server's metadata \"%.*s\" is not base64", (int)name.len,
                 (const char *)name.data);
    else if (rc != CS_OK)
        end_with(x, CS_RPC_RESOURCE_EXHAUSTED, "out of memory");
}

static void on_headers_done(cs_rpc_call *c, bool end_stream)
{
    struct client_call *x = client_call(c);

    if (c->header_bytes > c->conn->max_header_list) {
        end_with(x, CS_RPC_RESOURCE_EXHAUSTED, "the server's metadata has %zu bytes, allowed are %u", c->header_bytes,
                 c->conn->max_header_list);
        return;
    }
    if (x->got_headers)
        return; /* trailers; the end of the stream comes with them */
    if (x->http_status < 200) {
        cs_rpc_pairs_clear(&x->headers);
        return;
    }
    x->got_headers = true;
    if (end_stream) {
        x->trailers = x->headers; /* "Trailers-Only" */
        x->headers = (struct cs_rpc_pairs){ 0 };
    } else if (x->http_status != 200) {
        end_with(x, cs_rpc_status_of_http(x->http_status), "the server answered with HTTP status %d", x->http_status);
    } else if (!x->is_grpc) {
        end_with(x, CS_RPC_UNKNOWN, "the server's answer is not gRPC");
    } else if (x->cb.headers != NULL) {
        x->cb.headers(c, x->arg, &x->headers.view);
    }
}

static void on_message(cs_rpc_call *c, struct cs_slice msg)
{
    struct client_call *x = client_call(c);

    if (x->cb.message != NULL)
        x->cb.message(c, x->arg, msg);
}

static void on_writable(cs_rpc_call *c)
{
    struct client_call *x = client_call(c);

    if (x->cb.writable != NULL)
        x->cb.writable(c, x->arg);
}

static void on_remote_end(cs_rpc_call *c)
{
    struct client_call *x = client_call(c);

    if (x->grpc_status < 0 && x->http_status != 200)
        end_with(x, cs_rpc_status_of_http(x->http_status), "the server answered with HTTP status %d", x->http_status);
    else if (x->grpc_status < 0)
        end_with(x, CS_RPC_UNKNOWN, "the server ended the call without a status");
    else if (x->grpc_status == CS_RPC_OK && !cs_rpc_decoder_idle(&c->in))
        end_with(x, CS_RPC_INTERNAL, "the server ended the call inside a message");
    else /* what we had still to send is of no use to it: NO_ERROR, as nothing went wrong */
        end(x, x->grpc_status, cs_buf_slice(&x->message), NGHTTP2_NO_ERROR);
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
    .free = on_free,
};

/* ---- the request ---- */

static void on_going(cs_rpc_conn *conn)
{
    cs_rpc_channel *ch = conn->owner;

    if (ch->current == conn)
        ch->current = NULL;
}

static void submit(struct client_call *x)
{
    const cs_rpc_channel *ch = x->channel;
    cs_rpc_conn *conn = x->base.conn;
    struct cs_rpc_fields *f = &conn->fields;
    nghttp2_data_provider provider = { .read_callback = cs_rpc_call_pull };
    char timeout[CS_RPC_TIMEOUT_TEXT];
    int32_t id;

    if (x->base.over)
        return;
    cs_rpc_fields_reset(f);
    cs_rpc_fields_put(f, ":method", cs_slice_str("POST"), false);
    cs_rpc_fields_put(f, ":scheme", cs_slice_str(ch->tls != NULL ? "https" : "http"), false);
    cs_rpc_fields_put(f, ":path", cs_slice_str(x->path), false);
    cs_rpc_fields_put(f, ":authority", cs_slice_str(ch->authority), false);
    cs_rpc_fields_put(f, "te", cs_slice_str("trailers"), false);
    if (x->timeout_ms != 0) {
        cs_rpc_timeout_print(timeout, cs_rpc_call_time_left(&x->base));
        cs_rpc_fields_put(f, "grpc-timeout", cs_slice_str(timeout), true);
    }
    cs_rpc_fields_put(f, "content-type", cs_slice_str("application/grpc"), false);
    cs_rpc_fields_put(f, "user-agent", cs_slice_str(ch->user_agent), false);
    cs_rpc_fields_put_metadata(f, &x->request.view);
    id = f->failed ? NGHTTP2_ERR_NOMEM : nghttp2_submit_request(conn->h2, NULL, f->v, f->n, &provider, x);
    if (id == NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE) {
        /* a billion calls have used up this connection's numbers: the next call opens another */
        on_going(conn);
        cs_rpc_conn_go_away(conn);
    }
    if (id < 0) {
        end_with(x, CS_RPC_UNAVAILABLE, "cannot send the call: %s", nghttp2_strerror(id));
        return;
    }
    x->base.id = id;
    x->base.stream = x->base.opened = true;
    cs_rpc_conn_wake(conn);
}

/* ---- connections ---- */

static void on_ready(cs_rpc_conn *conn)
{
    cs_rpc_call *c = conn->calls;

    while (c != NULL && c->next != NULL)
        c = c->next;
    for (; c != NULL; c = c->prev) /* the oldest is last in the list */
        submit(client_call(c));
}

static void on_up(cs_rpc_conn *conn)
{
    const cs_rpc_channel *ch = conn->owner;

    cs_timer_stop(conn->connecting);
    if (ch->state != NULL)
        ch->state(ch->arg, NULL);
}

/* The bare cause: the loop's sentences name the target too, and once is enough. */
static const char *cause_of(const struct cs_error *err, const char *target)
{
    const char *at = strstr(err->msg, target);
    const char *cause = at == NULL ? NULL : strstr(at + strlen(target), ": ");

    return cause == NULL ? err->msg : cause + 2;
}

static void on_down(cs_rpc_conn *conn)
{
    cs_rpc_channel *ch = conn->owner;
    struct cs_error err = conn->err;

    on_going(conn);
    cs_fail(&conn->err, err.code, conn->up ? "connection to %s lost: %s" : "cannot reach %s: %s", ch->url,
            cause_of(&err, ch->authority));
}

static void unlink_conn(cs_rpc_channel *ch, cs_rpc_conn *conn)
{
    if (ch->current == conn)
        ch->current = NULL;
    if (conn->prev != NULL)
        conn->prev->next = conn->next;
    else
        ch->conns = conn->next;
    if (conn->next != NULL)
        conn->next->prev = conn->prev;
}

static void on_gone(cs_rpc_conn *conn)
{
    cs_rpc_channel *ch = conn->owner;

    unlink_conn(ch, conn);
    /* the end of a connection that another one has replaced is no news */
    if (ch->state != NULL && !(conn->going && ch->current != NULL))
        ch->state(ch->arg, &conn->err);
}

static const struct cs_rpc_conn_ops conn_ops = {
    .server = false,
    .ready = on_ready,
    .up = on_up,
    .going = on_going,
    .down = on_down,
    .gone = on_gone,
};

static void on_connect_timeout(void *arg)
{
    cs_rpc_conn *conn = arg;
    const cs_rpc_channel *ch = conn->owner;

    cs_rpc_conn_enter(conn);
    cs_rpc_conn_fail(conn, CS_ETIMEDOUT, "no answer within %u ms", ch->connect_timeout_ms);
    cs_rpc_conn_leave(conn);
}

static int open_conn(cs_rpc_channel *ch)
{
    struct cs_error err;
    cs_rpc_conn *conn;

    if (cs_rpc_conn_new(ch->loop, &conn_ops, ch, ch->tls, 0, CS_RPC_MAX_HEADER_LIST, &conn) != CS_OK)
        return CS_ENOMEM;
    if (cs_timer_new(ch->loop, on_connect_timeout, conn, &conn->connecting) != CS_OK) {
        cs_rpc_conn_kill(conn, CS_RPC_UNAVAILABLE, "");
        return CS_ENOMEM;
    }
    if ((conn->next = ch->conns) != NULL)
        conn->next->prev = conn;
    ch->conns = ch->current = conn;
    cs_timer_start(conn->connecting, ch->connect_timeout_ms);
    if (cs_stream_connect(ch->loop, ch->host, ch->port, &cs_rpc_conn_stream_cb, conn, &conn->stream, &err) != CS_OK) {
        conn->stream = NULL;
        cs_rpc_conn_fail(conn, err.code, "%s", err.msg);
    }
    return CS_OK;
}

/* ---- the channel ---- */

int cs_rpc_channel_new(cs_loop *l, const struct cs_rpc_channel_options *o, cs_rpc_channel **out, struct cs_error *err)
{
    struct cs_buf authority = { 0 }, url = { 0 }, agent = { 0 };
    cs_rpc_channel *ch;
    int rc = CS_OK;

    *out = NULL;
    if (o->host == NULL || *o->host == 0 || o->port == 0)
        return cs_fail(err, CS_EINVAL, "a channel needs a host and a port");
    for (const char *p = o->user_agent; p != NULL && *p != 0; p++)
        if (*p < 0x20 || *p > 0x7e)
            return cs_fail(err, CS_EINVAL, "the user agent must be printable ASCII");
    for (const char *p = o->host; *p != 0; p++)
        if (*p <= 0x20 || *p > 0x7e || strchr("/@?#[]", *p) != NULL)
            return cs_fail(err, CS_EINVAL, "\"%s\" is no host name or address", o->host);
    if ((ch = calloc(1, sizeof *ch)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    ch->loop = l;
    ch->port = o->port;
    ch->connect_timeout_ms = o->connect_timeout_ms != 0 ? o->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    ch->max_message = o->max_message != 0 ? o->max_message : CS_RPC_MAX_MESSAGE;
    ch->state = o->state;
    ch->arg = o->arg;
    ch->host = strdup(o->host);
    cs_buf_printf(&authority, strchr(o->host, ':') != NULL ? "[%s]:%u" : "%s:%u", o->host, o->port);
    cs_buf_put_u8(&authority, 0);
    cs_buf_printf(&url, "%s://%s", o->tls != NULL ? "https" : "http",
                  authority.failed ? "" : (const char *)authority.data);
    cs_buf_put_u8(&url, 0);
    cs_buf_printf(&agent, "%s%sclaw-sync/%s", o->user_agent != NULL ? o->user_agent : "",
                  o->user_agent != NULL ? " " : "", CS_VERSION);
    cs_buf_put_u8(&agent, 0);
    ch->authority = (char *)authority.data;
    ch->url = (char *)url.data;
    ch->user_agent = (char *)agent.data;
    if (ch->host == NULL || authority.failed || url.failed || agent.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    else if (o->tls != NULL)
        rc = cs_rpc_tls_client(o->tls, o->host, &ch->tls, err);
    if (rc != CS_OK)
        cs_rpc_channel_close(ch);
    else
        *out = ch;
    return rc;
}

void cs_rpc_channel_close(cs_rpc_channel *ch)
{
    cs_rpc_conn *conn;

    if (ch == NULL)
        return;
    while ((conn = ch->conns) != NULL) {
        unlink_conn(ch, conn);
        cs_rpc_conn_kill(conn, CS_RPC_CANCELLED, "the channel was closed");
    }
    cs_rpc_tls_context_free(ch->tls);
    free(ch->host);
    free(ch->authority);
    free(ch->url);
    free(ch->user_agent);
    free(ch);
}

static int check_path(const char *path, struct cs_error *err)
{
    bool ok = path != NULL && path[0] == '/';

    for (const char *p = path; ok && *p != 0; p++)
        ok = *p > 0x20 && *p <= 0x7e;
    return ok ? CS_OK : cs_fail(err, CS_EINVAL, "a method's path begins with '/' and is printable ASCII");
}

int cs_rpc_call_new(cs_rpc_channel *ch, const char *path, const struct cs_rpc_metadata *m, uint32_t timeout_ms,
                    const struct cs_rpc_client_cb *cb, void *arg, cs_rpc_call **out, struct cs_error *err)
{
    struct client_call *x;
    int rc;

    *out = NULL;
    if ((rc = check_path(path, err)) != CS_OK || (rc = cs_rpc_metadata_check(m, err)) != CS_OK)
        return rc;
    if ((x = calloc(1, sizeof *x)) == NULL || (x->path = strdup(path)) == NULL ||
        (ch->current == NULL && open_conn(ch) != CS_OK))
        goto nomem;
    for (size_t i = 0; m != NULL && i < m->n; i++)
        if (cs_rpc_pairs_put(&x->request, cs_slice_str(m->items[i].name), m->items[i].value) != CS_OK)
            goto nomem;
    x->channel = ch;
    x->cb = *cb;
    x->arg = arg;
    x->timeout_ms = timeout_ms;
    x->grpc_status = -1;
    cs_rpc_call_init(&x->base, &call_ops, ch->current, ch->max_message);
    *out = &x->base;
    if (timeout_ms != 0 && cs_rpc_call_set_deadline(&x->base, timeout_ms, on_expired) != CS_OK)
        end_with(x, CS_RPC_RESOURCE_EXHAUSTED, "out of memory");
    else if (ch->current->h2 != NULL)
        submit(x);
    return CS_OK;
nomem:
    if (x != NULL)
        on_free(&x->base);
    return cs_fail(err, CS_ENOMEM, "out of memory");
}

void cs_rpc_call_half_close(cs_rpc_call *c)
{
    if (c->over || c->out_end)
        return;
    c->out_end = true;
    cs_rpc_call_more(c);
}

void cs_rpc_call_cancel(cs_rpc_call *c)
{
    end_with(client_call(c), CS_RPC_CANCELLED, "cancelled");
}
