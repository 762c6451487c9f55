#include <stdio.h>
#include <stdlib.h>

#include "rpc/conn.h"
#include "rpc/status.h"
#include "rpc/timeout.h"

enum {
    CONNECT_TIMEOUT_MS = 10000,
    MAX_CONNECTIONS = 4,
    STREAMS_ASSUMED = 100, /* until a server says how many it takes */
    KEEPALIVE_TIMEOUT_MS = 20000,
    BACKOFF_MS = 1000,
    BACKOFF_MAX_MS = 120000,
    FLOOD_BURST = 500,
    FLOOD_RATE = 100,
};

struct cs_rpc_channel {
    cs_loop *loop;
    char *host;      /* owned, as are these */
    char *authority; /* host:port */
    char *url;       /* scheme://host:port */
    char *user_agent;
    uint16_t port;
    cs_rpc_tls_context *tls; /* NULL: plain */
    struct cs_rpc_limits limits;
    uint32_t max_connections;
    size_t max_message;
    void (*state)(void *arg, const struct cs_error *err);
    void *arg;
    cs_rpc_conn *conns; /* newest first; those that take no new calls too */
    size_t nconns;
    bool reachable;     /* `state` heard so last */
    cs_rpc_conn *lobby; /* no connection, but where calls wait for one; NULL: none has waited yet */
    cs_timer *retry;    /* the next attempt for them; made with the lobby */
    bool retry_set;
    uint32_t backoff_ms, backoff_max_ms, next_backoff_ms;
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
    bool is_grpc;    /* by its content-type */
    int grpc_status; /* -1: none came */
    int64_t pushback;
    bool unprocessed;
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
    x->unprocessed |= !x->base.sent;
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
    x->unprocessed = h2_error == NGHTTP2_REFUSED_STREAM;
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
        x->is_grpc = cs_rpc_is_grpc(value);
    } else if (cs_slice_eq(name, cs_slice_str("grpc-status"))) {
        x->grpc_status = cs_rpc_status_parse(value);
    } else if (cs_slice_eq(name, cs_slice_str("grpc-message"))) {
        cs_buf_reset(&x->message);
        cs_rpc_percent_decode(&x->message, value);
    } else if (cs_slice_eq(name, cs_slice_str("grpc-encoding"))) {
        c->in.encoding = cs_rpc_encoding_of(value);
    } else if (cs_slice_eq(name, cs_slice_str("grpc-retry-pushback-ms"))) {
        x->pushback = cs_rpc_pushback_parse(value);
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

    if (c->header_bytes > c->conn->limits->max_header_list) {
        end_with(x, CS_RPC_RESOURCE_EXHAUSTED, "the server's metadata has %zu bytes, allowed are %u", c->header_bytes,
                 c->conn->limits->max_header_list);
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

static void submit(struct client_call *x)
{
    const cs_rpc_channel *ch = x->channel;
    cs_rpc_conn *conn = x->base.conn;
    struct cs_rpc_fields *f = &conn->fields;
    nghttp2_data_provider provider = { .read_callback = cs_rpc_call_pull };
    char timeout[CS_RPC_TIMEOUT_TEXT];
    int32_t id;

    if (x->base.over || x->base.stream)
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
    if (x->base.can_compress)
        cs_rpc_fields_put(f, "grpc-encoding", cs_slice_str("gzip"), false);
    cs_rpc_fields_put(f, "grpc-accept-encoding", cs_slice_str("identity,gzip"), false);
    cs_rpc_fields_put(f, "user-agent", cs_slice_str(ch->user_agent), false);
    cs_rpc_fields_put_metadata(f, &x->request.view);
    id = f->failed ? NGHTTP2_ERR_NOMEM : nghttp2_submit_request(conn->h2, NULL, f->v, f->n, &provider, x);
    if (id == NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE) {
        /* a billion calls have used up this connection's numbers: the next call opens another */
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

static int place_call(cs_rpc_channel *ch, bool wait_for_ready, cs_rpc_conn **out);

static bool is_usable(const cs_rpc_conn *conn)
{
    return !conn->going && !conn->failed && !conn->aborting && !conn->lingering && !conn->dead;
}

static uint32_t streams_of(cs_rpc_conn *conn)
{
    return conn->up ? nghttp2_session_get_remote_settings(conn->h2, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
                    : STREAMS_ASSUMED;
}

/* The oldest connection with room, so that those opened for a peak fall idle after it; else the one with the fewest
 * calls; NULL: there is none. */
static cs_rpc_conn *choose(const cs_rpc_channel *ch, bool must_be_up, bool *full)
{
    cs_rpc_conn *best = NULL;
    bool best_full = true;

    for (cs_rpc_conn *conn = ch->conns; conn != NULL; conn = conn->next) {
        bool is_full;

        if (!is_usable(conn) || (must_be_up && !conn->up))
            continue;
        is_full = conn->ncalls >= streams_of(conn);
        if (best == NULL || !is_full || (best_full && conn->ncalls <= best->ncalls)) {
            best = conn;
            best_full = is_full;
        }
    }
    *full = best_full;
    return best;
}

static cs_rpc_call *oldest_call(const cs_rpc_conn *conn)
{
    cs_rpc_call *c = conn->calls;

    while (c != NULL && c->next != NULL)
        c = c->next;
    return c;
}

/* The first call goes out with HTTP/2's preface, to save a round trip. The others wait for the server to say how many
 * it takes, as it refuses what is above. */
static void on_ready(cs_rpc_conn *conn)
{
    cs_rpc_call *c = oldest_call(conn);

    while (c != NULL && c->over)
        c = c->prev;
    if (c != NULL)
        submit(client_call(c));
}

/* Those who wait for any server get in, the oldest first. */
static void empty_lobby(cs_rpc_conn *conn)
{
    const cs_rpc_channel *ch = conn->owner;
    cs_rpc_call *c, *newer;

    for (c = ch->lobby == NULL ? NULL : oldest_call(ch->lobby); c != NULL; c = newer) {
        newer = c->prev;
        if (!c->over) /* else its user is yet to be told, there */
            cs_rpc_conn_take(conn, c);
    }
}

/* The calls that wait on a connection which is up now: as many as the server takes, the others elsewhere. */
static void submit_waiting(cs_rpc_conn *conn)
{
    cs_rpc_call *c, *newer;
    uint32_t left = streams_of(conn);
    cs_rpc_conn *other;

    for (c = conn->calls; c != NULL; c = c->next)
        left -= c->stream && left > 0;
    for (c = oldest_call(conn); c != NULL; c = newer) {
        newer = c->prev;
        if (c->over || c->stream)
            continue;
        if (left > 0) {
            left--;
            submit(client_call(c));
        } else if (place_call(conn->owner, false, &other) == CS_OK && other != conn) {
            cs_rpc_conn_take(other, c);
            if (other->up)
                submit(client_call(c));
        } else {
            submit(client_call(c)); /* HTTP/2 holds it back until there is room */
        }
    }
}

static void on_up(cs_rpc_conn *conn)
{
    cs_rpc_channel *ch = conn->owner;

    ch->next_backoff_ms = 0;
    empty_lobby(conn);
    submit_waiting(conn);
    if (ch->reachable)
        return;
    ch->reachable = true;
    if (ch->state != NULL)
        ch->state(ch->arg, NULL);
}

/* A server that is pinged too often has a reason; gRPC's clients double their interval. */
static void on_going(cs_rpc_conn *conn, bool calm)
{
    cs_rpc_channel *ch = conn->owner;

    if (calm && ch->limits.keepalive_ms < CS_RPC_NEVER / 2)
        ch->limits.keepalive_ms *= 2;
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

    cs_fail(&conn->err, err.code, conn->up ? "connection to %s lost: %s" : "cannot reach %s: %s", ch->url,
            cause_of(&err, ch->authority));
}

static uint64_t spread(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9e3779b97f4a7c15;
    x ^= x >> 29;
    return x;
}

/* When the calls in the lobby get their next attempt: later each time, and not at the same moment as other clients that
 * lost the server together. The clock is no random number, but no two of their clocks agree. */
static void set_retry(cs_rpc_channel *ch)
{
    uint64_t ms = ch->next_backoff_ms != 0 ? ch->next_backoff_ms : ch->backoff_ms;

    if (ch->lobby == NULL || ch->lobby->ncalls == 0 || ch->retry_set)
        return;
    ch->next_backoff_ms = (uint32_t)(ms * 8 / 5 < ch->backoff_max_ms ? ms * 8 / 5 : ch->backoff_max_ms);
    ms = ms * (80 + spread(cs_loop_now_ms(ch->loop)) % 41) / 100;
    ch->retry_set = true;
    cs_timer_start(ch->retry, ms);
}

static void unlink_conn(cs_rpc_channel *ch, cs_rpc_conn *conn)
{
    if (conn->prev != NULL)
        conn->prev->next = conn->next;
    else
        ch->conns = conn->next;
    if (conn->next != NULL)
        conn->next->prev = conn->prev;
    ch->nconns--;
}

static void on_told(cs_rpc_conn *conn)
{
    cs_rpc_channel *ch = conn->owner;
    bool full;

    set_retry(ch);
    /* the end of a connection that others have replaced, or gone down with, is no news */
    if (choose(ch, false, &full) != NULL || (conn->up && !ch->reachable))
        return;
    ch->reachable = false;
    if (ch->state != NULL)
        ch->state(ch->arg, &conn->err);
}

static void on_gone(cs_rpc_conn *conn)
{
    unlink_conn(conn->owner, conn);
}

static const struct cs_rpc_conn_ops conn_ops = {
    .server = false,
    .ready = on_ready,
    .up = on_up,
    .going = on_going,
    .down = on_down,
    .told = on_told,
    .gone = on_gone,
};

static int open_conn(cs_rpc_channel *ch, cs_rpc_conn **out)
{
    struct cs_error err;
    cs_rpc_conn *conn;

    if (cs_rpc_conn_new(ch->loop, &conn_ops, ch, ch->tls, &ch->limits, &conn) != CS_OK)
        return CS_ENOMEM;
    if ((conn->next = ch->conns) != NULL)
        conn->next->prev = conn;
    ch->conns = conn;
    ch->nconns++;
    if (cs_stream_connect(ch->loop, ch->host, ch->port, &cs_rpc_conn_stream_cb, conn, &conn->stream, &err) != CS_OK) {
        conn->stream = NULL;
        cs_rpc_conn_fail(conn, err.code, "%s", err.msg);
    }
    *out = conn;
    return CS_OK;
}

static void on_retry(void *arg)
{
    cs_rpc_channel *ch = arg;
    cs_rpc_conn *conn;
    bool full;

    ch->retry_set = false;
    if (ch->lobby->ncalls > 0 && choose(ch, false, &full) == NULL && open_conn(ch, &conn) != CS_OK)
        set_retry(ch);
}

static int open_lobby(cs_rpc_channel *ch)
{
    if (ch->lobby != NULL)
        return CS_OK;
    if (ch->retry == NULL && cs_timer_new(ch->loop, on_retry, ch, &ch->retry) != CS_OK)
        return CS_ENOMEM;
    return cs_rpc_conn_new(ch->loop, &conn_ops, ch, NULL, &cs_rpc_no_limits, &ch->lobby);
}

/* Where a new call goes. */
static int place_call(cs_rpc_channel *ch, bool wait_for_ready, cs_rpc_conn **out)
{
    cs_rpc_conn *made;
    bool full;

    if ((*out = choose(ch, wait_for_ready, &full)) != NULL && (!full || ch->nconns >= ch->max_connections))
        return CS_OK;
    if (!wait_for_ready)
        return open_conn(ch, out) == CS_OK || *out != NULL ? CS_OK : CS_ENOMEM;
    if (*out != NULL && open_conn(ch, &made) == CS_OK) {
        *out = made; /* there is a server: no need to wait for another */
        return CS_OK;
    }
    if (*out != NULL)
        return CS_OK;
    if (open_lobby(ch) != CS_OK)
        return CS_ENOMEM;
    *out = ch->lobby;
    if (choose(ch, false, &full) == NULL && !ch->retry_set && open_conn(ch, &made) != CS_OK)
        return CS_ENOMEM;
    return CS_OK;
}

/* ---- the channel ---- */

static uint32_t or_default(uint32_t v, uint32_t otherwise)
{
    return v != 0 ? v : otherwise;
}

static void set_limits(cs_rpc_channel *ch, const struct cs_rpc_channel_options *o)
{
    uint32_t connect_ms = or_default(o->connect_timeout_ms, CONNECT_TIMEOUT_MS);

    ch->limits = cs_rpc_no_limits;
    ch->limits.max_streams = 0;
    ch->limits.max_header_list = CS_RPC_MAX_HEADER_LIST;
    ch->limits.handshake_ms = ch->limits.header_ms = connect_ms;
    ch->limits.keepalive_ms = or_default(o->keepalive_ms, CS_RPC_NEVER);
    ch->limits.keepalive_timeout_ms = or_default(o->keepalive_timeout_ms, KEEPALIVE_TIMEOUT_MS);
    ch->limits.keepalive_idle = o->keepalive_idle;
    ch->limits.flood_burst = FLOOD_BURST;
    ch->limits.flood_rate = FLOOD_RATE;
    ch->max_message = o->max_message != 0 ? o->max_message : CS_RPC_MAX_MESSAGE;
    ch->max_connections = or_default(o->max_connections, MAX_CONNECTIONS);
    ch->backoff_ms = or_default(o->backoff_ms, BACKOFF_MS);
    ch->backoff_max_ms = or_default(o->backoff_max_ms, BACKOFF_MAX_MS);
}

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
    set_limits(ch, o);
    ch->state = o->state;
    ch->arg = o->arg;
    ch->host = strdup(o->host);
    cs_buf_printf(&authority, strchr(o->host, ':') != NULL ? "[%s]:%u" : "%s:%u", o->host, o->port);
    cs_buf_put_u8(&authority, 0);
    cs_buf_printf(&url, "%s://%s", o->tls != NULL ? "https" : "http",
                  authority.failed ? "" : (const char *)authority.data);
    cs_buf_put_u8(&url, 0);
    cs_buf_printf(&agent, "%s%sclaw-sync-c/%s", o->user_agent != NULL ? o->user_agent : "",
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
    if (ch->lobby != NULL)
        cs_rpc_conn_kill(ch->lobby, CS_RPC_CANCELLED, "the channel was closed");
    cs_timer_close(ch->retry);
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

static int copy_request(struct client_call *x, const struct cs_rpc_call_options *o)
{
    const struct cs_rpc_metadata *m = o->metadata;

    if ((x->path = strdup(o->path)) == NULL)
        return CS_ENOMEM;
    for (size_t i = 0; m != NULL && i < m->n; i++)
        if (cs_rpc_pairs_put(&x->request, cs_slice_str(m->items[i].name), m->items[i].value) != CS_OK)
            return CS_ENOMEM;
    return CS_OK;
}

int cs_rpc_call_open(cs_rpc_channel *ch, const struct cs_rpc_call_options *o, const struct cs_rpc_client_cb *cb,
                     void *arg, cs_rpc_call **out, struct cs_error *err)
{
    struct client_call *x;
    cs_rpc_conn *conn;
    int rc;

    *out = NULL;
    if ((rc = check_path(o->path, err)) != CS_OK || (rc = cs_rpc_metadata_check(o->metadata, err)) != CS_OK)
        return rc;
    if ((x = calloc(1, sizeof *x)) == NULL || copy_request(x, o) != CS_OK ||
        place_call(ch, o->wait_for_ready, &conn) != CS_OK) {
        if (x != NULL)
            on_free(&x->base);
        return cs_fail(err, CS_ENOMEM, "out of memory");
    }
    x->channel = ch;
    x->cb = *cb;
    x->arg = arg;
    x->timeout_ms = o->timeout_ms;
    x->grpc_status = -1;
    x->pushback = CS_RPC_PUSHBACK_NONE;
    cs_rpc_call_init(&x->base, &call_ops, conn, ch->max_message);
    x->base.in.client = true;
    x->base.can_compress = x->base.compress = o->compress;
    *out = &x->base;
    if (o->timeout_ms != 0 && cs_rpc_call_set_deadline(&x->base, o->timeout_ms, on_expired) != CS_OK)
        end_with(x, CS_RPC_RESOURCE_EXHAUSTED, "out of memory");
    else if (conn->up || (conn->h2 != NULL && conn->ncalls == 1))
        submit(x);
    return CS_OK;
}

int cs_rpc_call_new(cs_rpc_channel *ch, const char *path, const struct cs_rpc_metadata *m, uint32_t timeout_ms,
                    const struct cs_rpc_client_cb *cb, void *arg, cs_rpc_call **out, struct cs_error *err)
{
    struct cs_rpc_call_options o = { .path = path, .metadata = m, .timeout_ms = timeout_ms };

    return cs_rpc_call_open(ch, &o, cb, arg, out, err);
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

int64_t cs_rpc_call_pushback(const cs_rpc_call *c)
{
    return ((const struct client_call *)c)->pushback;
}

bool cs_rpc_call_unprocessed(const cs_rpc_call *c)
{
    return ((const struct client_call *)c)->unprocessed;
}
