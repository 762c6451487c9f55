#include "rpc/call.h"

#include <stdlib.h>

#include "rpc/conn.h"
#include "rpc/gzip.h"

enum { LEND_MIN = 2048 }; /* below, a copy is cheaper than keeping the message */

void cs_rpc_call_init(cs_rpc_call *c, const struct cs_rpc_call_ops *ops, struct cs_rpc_conn *conn, size_t max_message)
{
    *c = (struct cs_rpc_call){ .ops = ops, .conn = conn, .in.max = max_message, .reading = true };
    c->born_ms = cs_loop_now_ms(conn->loop);
    cs_rpc_conn_link(conn, c);
}

void cs_rpc_call_free(cs_rpc_call *c)
{
    cs_timer_close(c->deadline);
    cs_rpc_sendq_clear(&c->out);
    cs_rpc_decoder_fini(&c->in);
    cs_buf_free(&c->held);
    c->ops->free(c);
}

static void on_deadline(void *arg)
{
    cs_rpc_call *c = arg;
    cs_rpc_conn *conn = c->conn;

    cs_rpc_conn_enter(conn);
    if (!c->over)
        c->expired(c);
    cs_rpc_conn_leave(conn);
}

int cs_rpc_call_set_deadline(cs_rpc_call *c, uint32_t ms, void (*expired)(cs_rpc_call *c))
{
    int rc = cs_timer_new(c->conn->loop, on_deadline, c, &c->deadline);

    if (rc != CS_OK)
        return rc;
    c->expired = expired;
    c->deadline_ms = cs_loop_now_ms(c->conn->loop) + ms;
    cs_timer_start(c->deadline, ms);
    return CS_OK;
}

uint32_t cs_rpc_call_time_left(const cs_rpc_call *c)
{
    uint64_t now = cs_loop_now_ms(c->conn->loop);

    if (c->deadline == NULL)
        return UINT32_MAX;
    return c->deadline_ms <= now ? 0 : (uint32_t)(c->deadline_ms - now);
}

void cs_rpc_call_set_over(cs_rpc_call *c)
{
    if (c->over)
        return;
    c->over = true;
    cs_rpc_sendq_clear(&c->out);
    if (c->deadline != NULL)
        cs_timer_stop(c->deadline);
    /* the bytes stay: one of them may be the message in whose callback we are */
    cs_rpc_conn_let_go(c->conn, c->held.len - c->held_at);
    c->held_at = c->held.len;
    cs_rpc_conn_mark(c->conn, c);
}

void cs_rpc_call_set_deaf(cs_rpc_call *c)
{
    c->deaf = c->out_end = true;
    cs_rpc_conn_let_go(c->conn, c->held.len - c->held_at);
    c->held_at = c->held.len;
}

void cs_rpc_call_tell(cs_rpc_call *c)
{
    if (c->told)
        return;
    c->told = true;
    c->ops->tell(c);
}

/* ---- sending ---- */

static int put_message(cs_rpc_call *c, struct cs_slice message)
{
    struct cs_buf packed = { 0 };
    int rc = CS_OK;

    if (c->compress)
        rc = cs_rpc_gzip(&packed, message);
    if (rc == CS_OK && c->compress && packed.len < message.len)
        rc = cs_rpc_sendq_put(&c->out, cs_buf_slice(&packed), true);
    else if (rc == CS_OK)
        rc = cs_rpc_sendq_put(&c->out, message, false);
    cs_buf_free(&packed);
    return rc;
}

static int may_send(const cs_rpc_call *c, struct cs_slice message)
{
    if (c->over || c->out_end)
        return CS_ECANCELED;
    return message.len > CS_RPC_MAX_SEND ? CS_ELIMIT : CS_OK;
}

/* Something was queued; it was `first` behind nothing. */
static void is_queued(cs_rpc_call *c, bool first)
{
    if (first && c->conn->ops->server) {
        c->moved_ms = cs_loop_now_ms(c->conn->loop);
        cs_rpc_guard_after(c->conn, c->conn->limits->stream_stall_ms);
    }
    cs_rpc_call_more(c);
}

int cs_rpc_call_send(cs_rpc_call *c, struct cs_slice message)
{
    bool first = c->out.bytes == 0;
    int rc = may_send(c, message);

    if (rc == CS_OK && (rc = put_message(c, message)) == CS_OK)
        is_queued(c, first);
    return rc;
}

int cs_rpc_call_lend(cs_rpc_call *c, struct cs_slice message, void (*release)(void *arg), void *arg)
{
    bool first = c->out.bytes == 0, copy = c->compress || message.len < LEND_MIN;
    int rc = may_send(c, message);

    if (rc == CS_OK)
        rc = copy ? put_message(c, message) : cs_rpc_sendq_lend(&c->out, message, release, arg);
    if (rc != CS_OK)
        return rc;
    if (copy && release != NULL)
        release(arg);
    is_queued(c, first);
    return CS_OK;
}

int cs_rpc_call_compress(cs_rpc_call *c, bool on)
{
    if (on && !c->can_compress && c->ops->may_compress != NULL)
        c->can_compress = c->ops->may_compress(c);
    c->compress = on && c->can_compress;
    return c->compress == on ? CS_OK : CS_EUNSUPPORTED;
}

size_t cs_rpc_call_queued(const cs_rpc_call *c)
{
    return c->out.bytes;
}

void cs_rpc_call_more(cs_rpc_call *c)
{
    if (!c->stream)
        return;
    if (!c->opened) {
        c->opened = true;
        c->ops->open(c);
    }
    if (c->deferred) {
        c->deferred = false;
        if (nghttp2_session_resume_data(c->conn->h2, c->id) == NGHTTP2_ERR_NOMEM)
            cs_rpc_conn_fail(c->conn, CS_ENOMEM, "out of memory");
    }
    cs_rpc_conn_wake(c->conn);
}

ssize_t cs_rpc_call_pull(nghttp2_session *h2, int32_t id, uint8_t *buf, size_t n, uint32_t *flags,
                         nghttp2_data_source *source, void *arg)
{
    cs_rpc_conn *conn = arg;
    cs_rpc_call *c = nghttp2_session_get_stream_user_data(h2, id);
    size_t left, taken;

    (void)buf;
    (void)source;
    if (c == NULL || c->over || conn->dead)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    /* it stays in the queue until the frame goes out */
    taken = c->out.bytes < n ? c->out.bytes : n;
    left = c->out.bytes - taken;
    if (taken > 0) {
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
        cs_rpc_guard_owe_updates(conn, taken, c->out.fresh);
        c->out.fresh = 0;
    }
    c->moved_ms = cs_loop_now_ms(conn->loop);
    if (left == 0 && c->out_end) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (c->ops->trailers != NULL) {
            cs_rpc_fields_reset(&conn->fields);
            c->ops->trailers(c, &conn->fields);
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            if (conn->fields.failed || nghttp2_submit_trailer(h2, id, conn->fields.v, conn->fields.n) != 0)
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }
        return (ssize_t)taken;
    }
    if (taken == 0) {
        c->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    /* a writer that stopped at a bound of its own below the mark waits for the empty queue */
    if (left == 0 || (c->out.bytes >= CS_RPC_LOW_WATER && left < CS_RPC_LOW_WATER)) {
        c->writable_due = true;
        cs_rpc_conn_mark(conn, c);
    }
    return (ssize_t)taken;
}

/* ---- receiving ---- */

static void deliver(cs_rpc_call *c, struct cs_slice *in)
{
    struct cs_error err;
    struct cs_slice msg;
    int status, r;

    while (in->len > 0 && c->reading && !c->over && !c->deaf) {
        size_t before = in->len;

        r = cs_rpc_decode(&c->in, in, &msg, &status, &err);
        c->unacked += before - in->len;
        if (r < 0)
            c->ops->broken(c, status, err.msg);
        if (r <= 0)
            return;
        c->ops->message(c, msg);
    }
}

/* A bulk sender should not have to wait for our updates. */
static void widen(cs_rpc_call *c)
{
    c->wide = true;
    if (!c->remote_ended && nghttp2_session_set_local_window_size(c->conn->h2, NGHTTP2_FLAG_NONE, c->id,
                                                                  CS_RPC_WINDOW_WIDE) == NGHTTP2_ERR_NOMEM)
        cs_rpc_conn_fail(c->conn, CS_ENOMEM, "out of memory");
}

/* Gives the stream's window back what was consumed, unless the reader has paused since. */
static void acknowledge(cs_rpc_call *c)
{
    if (c->unacked == 0 || !c->reading || c->over || !c->stream)
        return;
    c->taken += c->unacked;
    if (nghttp2_session_consume_stream(c->conn->h2, c->id, c->unacked) == NGHTTP2_ERR_NOMEM)
        cs_rpc_conn_fail(c->conn, CS_ENOMEM, "out of memory");
    c->unacked = 0;
    if (!c->wide && !c->unadmitted && c->taken >= CS_RPC_WIDEN)
        widen(c);
}

void cs_rpc_call_input(cs_rpc_call *c, struct cs_slice bytes)
{
    if (c->held_at == c->held.len)
        deliver(c, &bytes);
    if (c->over)
        return;
    if (c->deaf) {
        c->unacked += bytes.len;
    } else if (bytes.len > 0) {
        cs_buf_put_slice(&c->held, bytes);
        if (c->held.failed)
            cs_rpc_conn_fail(c->conn, CS_ENOMEM, "out of memory");
        else
            cs_rpc_conn_hold(c->conn, bytes.len);
    }
    acknowledge(c);
}

static void tell_remote_end(cs_rpc_call *c)
{
    if (!c->remote_ended || c->remote_end_told || c->over || c->deaf || c->held_at < c->held.len)
        return;
    c->remote_end_told = true;
    c->ops->remote_end(c);
}

void cs_rpc_call_input_end(cs_rpc_call *c)
{
    c->remote_ended = true;
    tell_remote_end(c);
}

void cs_rpc_call_read(cs_rpc_call *c, bool on)
{
    if (on && !c->reading && !c->over) {
        c->resume_due = true;
        cs_rpc_conn_mark(c->conn, c);
    }
    c->reading = on;
}

static void resume(cs_rpc_call *c)
{
    struct cs_slice in =
        c->held.len == 0 ? CS_SLICE_NULL : cs_slice(c->held.data + c->held_at, c->held.len - c->held_at);
    size_t before = in.len;

    if (before > 0)
        deliver(c, &in);
    if (c->over || c->deaf)
        return; /* everything is let go of already */
    c->held_at += before - in.len;
    cs_rpc_conn_let_go(c->conn, before - in.len);
    /* a reader that pauses after every message must not make the dead part grow */
    if (c->held_at >= c->held.len / 2 && c->held_at > 0) {
        memmove(c->held.data, c->held.data + c->held_at, in.len);
        c->held.len = in.len;
        c->held_at = 0;
        if (in.len == 0)
            cs_buf_free(&c->held);
    }
    acknowledge(c);
    tell_remote_end(c);
}

void cs_rpc_call_settle(cs_rpc_call *c)
{
    if (c->resume_due && c->reading && !c->over) {
        c->resume_due = false;
        resume(c);
    }
    if (c->writable_due && !c->over && !c->out_end) {
        c->writable_due = false;
        c->ops->writable(c);
    }
}

void cs_rpc_call_set_user(cs_rpc_call *c, void *user)
{
    c->user = user;
}

void *cs_rpc_call_user(const cs_rpc_call *c)
{
    return c->user;
}

uint64_t cs_rpc_call_connection(const cs_rpc_call *c)
{
    return c->conn->serial;
}

const char *cs_rpc_call_peer(const cs_rpc_call *c)
{
    return c->conn->peer != NULL ? c->conn->peer : "";
}
