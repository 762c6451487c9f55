#include "rpc/conn.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    WINDOW_STREAM = 1 << 20,
    WINDOW_CONN = 4 << 20,
    FRAME_MAX = 128 * 1024, /* one DATA frame, either way; bulk messages of 64 KiB go in one */
    FRAME_MIN = 16 * 1024,
    PENDING_MAX = 256 * 1024,    /* bytes in the stream's queue above which nothing is pulled from nghttp2 */
    BATCH = 64 * 1024,           /* bytes of frames that go into one write */
    TURN_MAX = 4 * 1024 * 1024,  /* bytes sent in one turn before others on the loop get theirs */
    HELD_MAX = 16 * 1024 * 1024, /* bytes held back by readers above which the connection's window stays closed */
    TLS_READ = 16 * 1024,
};

/* ---- being entered and left ---- */

void cs_rpc_conn_fail(cs_rpc_conn *conn, int code, const char *fmt, ...)
{
    va_list ap;

    if (conn->failed)
        return;
    conn->failed = true;
    conn->err.code = code;
    va_start(ap, fmt);
    vsnprintf(conn->err.msg, sizeof conn->err.msg, fmt, ap);
    va_end(ap);
    cs_rpc_conn_wake(conn);
}

static void fail_err(cs_rpc_conn *conn, const struct cs_error *err)
{
    cs_rpc_conn_fail(conn, err->code, "%s", err->msg);
}

void cs_rpc_conn_wake(cs_rpc_conn *conn)
{
    if (conn->depth > 0 || conn->turn_set || conn->dead)
        return;
    conn->turn_set = true;
    cs_timer_start(conn->turn, 0);
}

void cs_rpc_conn_mark(cs_rpc_conn *conn, cs_rpc_call *c)
{
    if (!c->dirty) {
        c->dirty = true;
        c->dirty_next = NULL;
        if (conn->dirty_tail == NULL)
            conn->dirty = c;
        else
            conn->dirty_tail->dirty_next = c;
        conn->dirty_tail = c;
    }
    cs_rpc_conn_wake(conn);
}

static cs_rpc_call *next_dirty(cs_rpc_conn *conn)
{
    cs_rpc_call *c = conn->dirty;

    if (c == NULL)
        return NULL;
    if ((conn->dirty = c->dirty_next) == NULL)
        conn->dirty_tail = NULL;
    c->dirty = false;
    return c;
}

static void unlink_call(cs_rpc_conn *conn, cs_rpc_call *c)
{
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        conn->calls = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    c->prev = c->next = NULL;
    conn->ncalls--;
}

static void run_dirty(cs_rpc_conn *conn)
{
    cs_rpc_call *c;

    while (!conn->dead && !conn->failed && (c = next_dirty(conn)) != NULL) {
        cs_rpc_call_settle(c);
        if (conn->dead || c->dirty)
            continue;
        if (!c->over)
            continue;
        cs_rpc_call_tell(c);
        /* told already by whoever killed the connection in that callback, or waiting for its stream's end */
        if (conn->dead || c->stream || c->dirty)
            continue;
        unlink_call(conn, c);
        cs_rpc_call_free(c);
    }
}

static void write_stream(cs_rpc_conn *conn, struct cs_slice bytes)
{
    if (bytes.len > 0 && !conn->failed && cs_stream_write(conn->stream, bytes) != CS_OK)
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
}

static void write_tls_output(cs_rpc_conn *conn)
{
    struct cs_slice bytes = cs_rpc_tls_output(conn->tls);

    if (bytes.len == 0)
        return;
    /* also after a failure: it may be the alert that tells the peer why */
    if (cs_stream_write(conn->stream, bytes) != CS_OK)
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
    cs_rpc_tls_output_sent(conn->tls);
}

static void write_plain(cs_rpc_conn *conn, struct cs_slice bytes)
{
    struct cs_error err;

    if (conn->tls == NULL) {
        write_stream(conn, bytes);
        return;
    }
    if (cs_rpc_tls_write(conn->tls, bytes, &err) != CS_OK)
        fail_err(conn, &err);
    write_tls_output(conn);
}

static void write_batch(cs_rpc_conn *conn)
{
    if (conn->out.failed)
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
    else if (conn->out.len > 0)
        write_plain(conn, cs_buf_slice(&conn->out));
    conn->out.len = 0;
}

/* Sends what nghttp2 has, as long as the kernel keeps up; returns the bytes. */
static size_t flush(cs_rpc_conn *conn, size_t max)
{
    size_t moved = 0;
    const uint8_t *p;
    ssize_t n;

    if (conn->h2 == NULL)
        return 0;
    while (!conn->failed && moved < max && cs_stream_pending(conn->stream) + conn->out.len < PENDING_MAX) {
        if ((n = nghttp2_session_mem_send(conn->h2, &p)) < 0)
            cs_rpc_conn_fail(conn, CS_EUNAVAILABLE, "HTTP/2: %s", nghttp2_strerror((int)n));
        if (n <= 0)
            break;
        moved += (size_t)n;
        if (conn->out.len == 0 && n >= BATCH / 2) {
            write_plain(conn, cs_slice(p, (size_t)n));
            continue;
        }
        cs_buf_put(&conn->out, p, (size_t)n);
        if (conn->out.len >= BATCH || conn->out.failed)
            write_batch(conn);
    }
    write_batch(conn);
    return moved;
}

static void pump(cs_rpc_conn *conn)
{
    size_t left = TURN_MAX, n;

    for (;;) {
        run_dirty(conn);
        if (conn->dead || conn->failed)
            return;
        n = flush(conn, left);
        left -= n < left ? n : left;
        if (left == 0) {
            /* 1 ms, not 0: the loop must read in between */
            conn->turn_set = true;
            cs_timer_start(conn->turn, 1);
            return;
        }
        if (conn->dirty == NULL)
            break;
    }
    if (conn->ended)
        cs_rpc_conn_fail(conn, CS_EUNAVAILABLE, "the peer closed the connection");
    if (conn->h2 != NULL && !nghttp2_session_want_read(conn->h2) && !nghttp2_session_want_write(conn->h2))
        cs_rpc_conn_fail(conn, CS_EUNAVAILABLE, "%s",
                         conn->cause.msg[0] != 0 ? conn->cause.msg : "the peer closed the connection");
}

static void end_calls(cs_rpc_conn *conn, int status, const char *text)
{
    cs_rpc_call *c;

    while ((c = conn->calls) != NULL) {
        if (!c->over)
            c->ops->lost(c, status, text);
        unlink_call(conn, c);
        /* its struct lasts: we may be inside a callback of it */
        c->next = conn->grave;
        conn->grave = c;
        cs_rpc_call_tell(c);
    }
}

static void conn_free(cs_rpc_conn *conn)
{
    cs_rpc_call *c;

    if (conn->stream != NULL && conn->h2 != NULL && !conn->failed) {
        nghttp2_session_terminate_session(conn->h2, NGHTTP2_NO_ERROR);
        flush(conn, PENDING_MAX);
    }
    if (conn->tls != NULL && conn->stream != NULL && !conn->ended) {
        cs_rpc_tls_shutdown(conn->tls);
        write_tls_output(conn);
    }
    cs_stream_close(conn->stream);
    nghttp2_session_del(conn->h2);
    while ((c = conn->grave) != NULL) {
        conn->grave = c->next;
        cs_rpc_call_free(c);
    }
    cs_rpc_tls_free(conn->tls);
    cs_timer_close(conn->turn);
    cs_timer_close(conn->connecting);
    cs_rpc_fields_fini(&conn->fields);
    cs_buf_free(&conn->out);
    free(conn->peer);
    free(conn);
}

void cs_rpc_conn_enter(cs_rpc_conn *conn)
{
    conn->depth++;
}

void cs_rpc_conn_leave(cs_rpc_conn *conn)
{
    if (conn->depth > 1) {
        conn->depth--;
        return;
    }
    if (!conn->dead)
        pump(conn);
    if (!conn->dead && conn->failed) {
        conn->ops->down(conn);
        end_calls(conn, CS_RPC_UNAVAILABLE, conn->err.msg);
        conn->dead = true;
        if (conn->owner != NULL)
            conn->ops->gone(conn);
    }
    conn->depth--;
    if (conn->dead)
        conn_free(conn);
}

void cs_rpc_conn_kill(cs_rpc_conn *conn, int status, const char *text)
{
    conn->owner = NULL;
    conn->depth++;
    end_calls(conn, status, text);
    conn->dead = true;
    if (--conn->depth == 0)
        conn_free(conn);
}

static void on_turn(void *arg)
{
    cs_rpc_conn *conn = arg;

    conn->turn_set = false;
    cs_rpc_conn_enter(conn);
    cs_rpc_conn_leave(conn);
}

/* ---- windows and streams ---- */

static void credit(cs_rpc_conn *conn)
{
    if (conn->uncredited == 0 || conn->held > HELD_MAX || conn->h2 == NULL)
        return;
    if (nghttp2_session_consume_connection(conn->h2, conn->uncredited) == NGHTTP2_ERR_NOMEM)
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
    conn->uncredited = 0;
}

void cs_rpc_conn_hold(cs_rpc_conn *conn, size_t n)
{
    conn->held += n;
}

void cs_rpc_conn_let_go(cs_rpc_conn *conn, size_t n)
{
    conn->held -= n;
    if (n > 0 && !conn->dead)
        credit(conn);
}

void cs_rpc_conn_reset(cs_rpc_conn *conn, cs_rpc_call *c, uint32_t h2_error)
{
    if (!c->stream)
        return;
    c->stream = false;
    nghttp2_session_set_stream_user_data(conn->h2, c->id, NULL);
    if (c->remote_ended && nghttp2_session_get_stream_local_close(conn->h2, c->id) != 0)
        return; /* both sides have ended it */
    if (nghttp2_submit_rst_stream(conn->h2, NGHTTP2_FLAG_NONE, c->id, h2_error) == NGHTTP2_ERR_NOMEM)
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
    cs_rpc_conn_wake(conn);
}

void cs_rpc_conn_go_away(cs_rpc_conn *conn)
{
    conn->going = true;
    if (conn->h2 == NULL)
        cs_rpc_conn_fail(conn, CS_EUNAVAILABLE, "shutting down");
    else if (nghttp2_submit_goaway(conn->h2, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(conn->h2),
                                   NGHTTP2_NO_ERROR, NULL, 0) != 0)
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
    cs_rpc_conn_wake(conn);
}

/* ---- what nghttp2 calls ---- */

static cs_rpc_call *call_of(const cs_rpc_conn *conn, int32_t id)
{
    cs_rpc_call *c = conn->dead ? NULL : nghttp2_session_get_stream_user_data(conn->h2, id);

    return c == NULL || c->over ? NULL : c;
}

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *arg)
{
    cs_rpc_conn *conn = arg;
    cs_rpc_call *c;

    if (conn->dead)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!conn->ops->server || frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
        if ((c = call_of(conn, frame->hd.stream_id)) != NULL)
            c->header_bytes = 0;
        return 0;
    }
    if ((c = conn->ops->accept(conn)) == NULL)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    c->id = frame->hd.stream_id;
    c->stream = true;
    nghttp2_session_set_stream_user_data(h2, c->id, c);
    return 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
                     const uint8_t *value, size_t valuelen, uint8_t flags, void *arg)
{
    cs_rpc_conn *conn = arg;
    cs_rpc_call *c;

    (void)h2;
    (void)flags;
    if (conn->dead)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if ((c = call_of(conn, frame->hd.stream_id)) == NULL)
        return 0;
    c->header_bytes += namelen + valuelen + CS_RPC_FIELD_OVERHEAD;
    if (c->header_bytes <= conn->max_header_list)
        c->ops->header(c, cs_slice(name, namelen), cs_slice(value, valuelen));
    return 0;
}

static const char *h2_error_name(uint32_t code)
{
    return nghttp2_http2_strerror(code);
}

static void on_goaway(cs_rpc_conn *conn, const nghttp2_goaway *g)
{
    if (g->error_code != NGHTTP2_NO_ERROR)
        cs_fail(&conn->cause, CS_EUNAVAILABLE, "the peer closed the connection with %s", h2_error_name(g->error_code));
    conn->going = true;
    if (conn->ops->going != NULL)
        conn->ops->going(conn);
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *frame, void *arg)
{
    cs_rpc_conn *conn = arg;
    bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    cs_rpc_call *c;

    (void)h2;
    if (conn->dead)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        if ((c = call_of(conn, frame->hd.stream_id)) == NULL)
            break;
        c->ops->headers_done(c, end);
        if (!conn->dead && end && !c->over)
            cs_rpc_call_input_end(c);
        break;
    case NGHTTP2_DATA:
        if (end && (c = call_of(conn, frame->hd.stream_id)) != NULL)
            cs_rpc_call_input_end(c);
        break;
    case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0 && !conn->up) {
            conn->up = true;
            if (conn->ops->up != NULL)
                conn->ops->up(conn);
        }
        break;
    case NGHTTP2_GOAWAY:
        on_goaway(conn, &frame->goaway);
        break;
    default:
        break;
    }
    return conn->dead ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *arg)
{
    cs_rpc_conn *conn = arg;
    cs_rpc_call *c;

    (void)h2;
    (void)flags;
    if (conn->dead)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    conn->uncredited += len;
    if ((c = call_of(conn, id)) != NULL)
        cs_rpc_call_input(c, cs_slice(data, len));
    if (conn->dead)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    credit(conn);
    return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t error_code, void *arg)
{
    cs_rpc_conn *conn = arg;
    cs_rpc_call *c = conn->dead ? NULL : nghttp2_session_get_stream_user_data(h2, id);

    if (c == NULL)
        return 0;
    c->stream = false;
    if (!c->over)
        c->ops->stream_closed(c, error_code);
    else
        cs_rpc_conn_mark(conn, c);
    return 0;
}

/* A header block of ours that could not go out: too large, or the peer takes no new streams. */
static int on_not_sent(nghttp2_session *h2, const nghttp2_frame *frame, int error, void *arg)
{
    cs_rpc_conn *conn = arg;

    if (frame->hd.type != NGHTTP2_HEADERS || conn->dead)
        return 0;
    for (cs_rpc_call *c = conn->calls; c != NULL; c = c->next) {
        if (c->id != frame->hd.stream_id || !c->stream)
            continue;
        if (nghttp2_session_find_stream(h2, c->id) != NULL)
            cs_rpc_conn_reset(conn, c, NGHTTP2_INTERNAL_ERROR);
        c->stream = false;
        if (!c->over)
            c->ops->stream_closed(c, error == NGHTTP2_ERR_START_STREAM_NOT_ALLOWED ? NGHTTP2_REFUSED_STREAM
                                                                                   : NGHTTP2_INTERNAL_ERROR);
        break;
    }
    return 0;
}

static int on_sent(nghttp2_session *h2, const nghttp2_frame *frame, void *arg)
{
    cs_rpc_conn *conn = arg;
    int32_t id = frame->hd.stream_id;

    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR)
        cs_fail(&conn->cause, CS_EUNAVAILABLE, "the peer broke HTTP/2: %s", h2_error_name(frame->goaway.error_code));
    /* a server that has said everything wants no more of the request (RFC 9113 section 8.1) */
    if (conn->ops->server && frame->hd.type == NGHTTP2_HEADERS && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 &&
        nghttp2_session_get_stream_remote_close(h2, id) == 0)
        return nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, id, NGHTTP2_NO_ERROR);
    return 0;
}

/* As large as the queue asks for, so that nghttp2's frame buffer stays small on connections that carry little. */
static ssize_t frame_size(nghttp2_session *h2, uint8_t type, int32_t id, int32_t conn_window, int32_t stream_window,
                          uint32_t peer_max, void *arg)
{
    cs_rpc_call *c = nghttp2_session_get_stream_user_data(h2, id);
    size_t n = c == NULL ? 0 : c->out.bytes;

    (void)type;
    (void)conn_window;
    (void)stream_window;
    (void)peer_max;
    (void)arg;
    return n < FRAME_MIN ? FRAME_MIN : n > FRAME_MAX ? FRAME_MAX : (ssize_t)n;
}

static int h2_new(cs_rpc_conn *conn)
{
    nghttp2_session_callbacks *cb = NULL;
    nghttp2_option *opt = NULL;
    int rc = NGHTTP2_ERR_NOMEM;

    if (nghttp2_session_callbacks_new(&cb) != 0 || nghttp2_option_new(&opt) != 0)
        goto out;
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(cb, on_not_sent);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_sent);
    nghttp2_session_callbacks_set_data_source_read_length_callback(cb, frame_size);
    nghttp2_option_set_no_auto_window_update(opt, 1);
    nghttp2_option_set_no_closed_streams(opt, 1);
    nghttp2_option_set_max_outbound_ack(opt, 100);
    nghttp2_option_set_peer_max_concurrent_streams(opt, 100);
    nghttp2_option_set_max_settings(opt, 32);
    rc = conn->ops->server ? nghttp2_session_server_new2(&conn->h2, cb, conn, opt)
                           : nghttp2_session_client_new2(&conn->h2, cb, conn, opt);
out:
    nghttp2_option_del(opt);
    nghttp2_session_callbacks_del(cb);
    return rc;
}

/* The transport stands: our preface. */
static void start_h2(cs_rpc_conn *conn)
{
    nghttp2_settings_entry settings[] = {
        { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_STREAM },
        { NGHTTP2_SETTINGS_MAX_FRAME_SIZE, FRAME_MAX },
        { NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, conn->max_header_list },
        { NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, conn->max_streams },
        { NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
    };
    size_t n = sizeof settings / sizeof settings[0];

    if (conn->ops->server)
        n--; /* a server has nothing to say about push */
    if (h2_new(conn) != 0 || nghttp2_submit_settings(conn->h2, NGHTTP2_FLAG_NONE, settings, n) != 0 ||
        nghttp2_session_set_local_window_size(conn->h2, NGHTTP2_FLAG_NONE, 0, WINDOW_CONN) != 0) {
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
        return;
    }
    if (conn->ops->ready != NULL)
        conn->ops->ready(conn);
}

/* ---- what the stream calls ---- */

static void plain_input(cs_rpc_conn *conn, struct cs_slice bytes)
{
    ssize_t n = nghttp2_session_mem_recv(conn->h2, bytes.data, bytes.len);

    if (n >= 0 || conn->dead)
        return;
    if (n == NGHTTP2_ERR_BAD_CLIENT_MAGIC)
        cs_rpc_conn_fail(conn, CS_EUNAVAILABLE, "the peer does not speak HTTP/2");
    else
        cs_rpc_conn_fail(conn, CS_EUNAVAILABLE, "HTTP/2: %s", nghttp2_strerror((int)n));
}

static void tls_input(cs_rpc_conn *conn)
{
    uint8_t plain[TLS_READ];
    struct cs_error err;
    size_t n;

    do {
        if (cs_rpc_tls_read(conn->tls, plain, sizeof plain, &n, &err) != CS_OK) {
            fail_err(conn, &err);
            break;
        }
        if (conn->h2 == NULL && cs_rpc_tls_ready(conn->tls))
            start_h2(conn);
        if (n > 0 && !conn->failed)
            plain_input(conn, cs_slice(plain, n));
    } while (n > 0 && !conn->failed && !conn->dead);
    if (!conn->dead)
        write_tls_output(conn);
}

void cs_rpc_conn_start(cs_rpc_conn *conn)
{
    if ((conn->peer = strdup(cs_stream_peer(conn->stream))) == NULL) {
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
        return;
    }
    cs_stream_read(conn->stream, true);
    if (conn->tls != NULL)
        tls_input(conn);
    else
        start_h2(conn);
}

static void on_connected(void *arg, const struct cs_error *err)
{
    cs_rpc_conn *conn = arg;

    cs_rpc_conn_enter(conn);
    if (err != NULL)
        fail_err(conn, err);
    else
        cs_rpc_conn_start(conn);
    cs_rpc_conn_leave(conn);
}

static void on_bytes(void *arg, struct cs_slice bytes)
{
    cs_rpc_conn *conn = arg;
    struct cs_error err;

    cs_rpc_conn_enter(conn);
    if (conn->failed) {
        /* it goes down in this leave */
    } else if (conn->tls == NULL) {
        plain_input(conn, bytes);
    } else if (cs_rpc_tls_feed(conn->tls, bytes, &err) != CS_OK) {
        fail_err(conn, &err);
    } else {
        tls_input(conn);
    }
    cs_rpc_conn_leave(conn);
}

static void on_ended(void *arg, const struct cs_error *err)
{
    cs_rpc_conn *conn = arg;

    cs_rpc_conn_enter(conn);
    conn->ended = true;
    if (err != NULL)
        fail_err(conn, err);
    cs_rpc_conn_leave(conn);
}

static void on_drained(void *arg)
{
    cs_rpc_conn *conn = arg;

    cs_rpc_conn_enter(conn);
    cs_rpc_conn_leave(conn);
}

const struct cs_stream_cb cs_rpc_conn_stream_cb = { on_connected, on_bytes, on_ended, on_drained };

int cs_rpc_conn_new(cs_loop *l, const struct cs_rpc_conn_ops *ops, void *owner, const cs_rpc_tls_context *tls,
                    uint32_t max_streams, uint32_t max_header_list, cs_rpc_conn **out)
{
    cs_rpc_conn *conn = calloc(1, sizeof *conn);

    *out = NULL;
    if (conn == NULL)
        return CS_ENOMEM;
    conn->ops = ops;
    conn->owner = owner;
    conn->loop = l;
    conn->max_streams = max_streams;
    conn->max_header_list = max_header_list;
    if (cs_timer_new(l, on_turn, conn, &conn->turn) != CS_OK ||
        (tls != NULL && cs_rpc_tls_new(tls, &conn->tls, NULL) != CS_OK)) {
        conn_free(conn);
        return CS_ENOMEM;
    }
    *out = conn;
    return CS_OK;
}
