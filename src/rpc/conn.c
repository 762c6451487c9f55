#include "rpc/conn.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    WINDOW_CONN = 8 << 20,
    FRAME_MAX = 128 * 1024, /* one DATA frame, either way; bulk messages of 64 KiB go in one */
    FRAME_MIN = 16 * 1024,
    FRAME_HEAD = 9,
    BATCH = 256 * 1024,          /* bytes of frames that go into one write */
    BATCH_PIECES = 64,           /* and in how many pieces */
    BATCH_COPIED = 16 * 1024,    /* of small pieces */
    PIECE_COPIED = 2048,         /* up to here a copy is cheaper than a piece of its own */
    TURN_MAX = 4 * 1024 * 1024,  /* bytes sent in one turn before others on the loop get theirs */
    HELD_MAX = 16 * 1024 * 1024, /* bytes held back by readers above which the connection's window stays closed */
    TLS_READ = 16 * 1024,
    HEADERS_MAX = 4,          /* times the header list allowed: answered up to there, then the connection ends */
    QUEUED_ANSWERS = 10000,   /* SETTINGS, PING and RST_STREAM that one read may make us owe */
    LINGER_MAX = 1024 * 1024, /* bytes that a peer may go on sending after it was told to stop */
    RESET_COST = 2,           /* of a stream that was begun for nothing, in frames */
    RESET_YOUNG_MS = 1000,    /* a call that ran longer was no trick */
    SENT_CREDIT = 2,
    WORD_MAX = 64, /* bytes shown of what a peer says in its GOAWAY */
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

void cs_rpc_conn_link(cs_rpc_conn *conn, cs_rpc_call *c)
{
    if ((c->next = conn->calls) != NULL)
        c->next->prev = c;
    c->prev = NULL;
    c->conn = conn;
    conn->calls = c;
    if (conn->ncalls++ == 0)
        cs_rpc_guard_busy(conn);
}

void cs_rpc_conn_unlink(cs_rpc_conn *conn, cs_rpc_call *c)
{
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        conn->calls = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    c->prev = c->next = NULL;
    if (--conn->ncalls == 0 && !conn->dead && conn->owner != NULL)
        cs_rpc_guard_idle(conn);
}

static void forget_dirty(cs_rpc_conn *conn, cs_rpc_call *c)
{
    cs_rpc_call **at = &conn->dirty, *last = NULL;

    for (; *at != NULL && *at != c; at = &(*at)->dirty_next)
        last = *at;
    if (*at == NULL)
        return;
    if ((*at = c->dirty_next) == NULL)
        conn->dirty_tail = last;
    c->dirty = false;
}

void cs_rpc_conn_take(cs_rpc_conn *conn, cs_rpc_call *c)
{
    bool dirty = c->dirty;

    forget_dirty(c->conn, c);
    cs_rpc_conn_unlink(c->conn, c);
    cs_rpc_conn_link(conn, c);
    if (dirty)
        cs_rpc_conn_mark(conn, c);
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
        cs_rpc_conn_unlink(conn, c);
        cs_rpc_call_free(c);
    }
}

static void write_tls_output(cs_rpc_conn *conn)
{
    struct cs_slice bytes = cs_rpc_tls_output(conn->tls);

    if (bytes.len == 0)
        return;
    /* also after a failure: it may be the alert that tells the peer why */
    conn->said_why |= conn->failed;
    cs_rpc_guard_written(conn, bytes.len);
    if (cs_stream_write(conn->stream, bytes) != CS_OK)
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
    cs_rpc_tls_output_sent(conn->tls);
}

/* Frames on their way to the stream, in order: what is large stays where it is until it is written. */
struct cs_rpc_batch {
    struct cs_slice pieces[BATCH_PIECES];
    struct cs_rpc_block *blocks[BATCH_PIECES]; /* of each piece; NULL: its memory is `copied`, or lasts anyway */
    size_t n, bytes, ncopied;
    uint8_t copied[BATCH_COPIED];
};

static void write_pieces_tls(cs_rpc_conn *conn, const struct cs_rpc_batch *b)
{
    struct cs_error err;

    for (size_t i = 0; i < b->n && !conn->failed; i++)
        if (cs_rpc_tls_write(conn->tls, b->pieces[i], &err) != CS_OK)
            fail_err(conn, &err);
    write_tls_output(conn);
}

static void write_batch(cs_rpc_conn *conn, struct cs_rpc_batch *b)
{
    if (b->n == 0)
        return;
    if (conn->tls != NULL) {
        write_pieces_tls(conn, b);
    } else {
        cs_rpc_guard_written(conn, b->bytes);
        if (cs_stream_write_pieces(conn->stream, b->pieces, b->n) != CS_OK)
            cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < b->n; i++)
        if (b->blocks[i] != NULL)
            cs_rpc_block_drop(b->blocks[i]);
    b->n = b->bytes = b->ncopied = 0;
}

static void batch_refer(cs_rpc_conn *conn, struct cs_rpc_batch *b, struct cs_slice piece, struct cs_rpc_block *block)
{
    if (b->n == BATCH_PIECES)
        write_batch(conn, b);
    b->pieces[b->n] = piece;
    b->blocks[b->n++] = block;
    b->bytes += piece.len;
}

static void batch_copy(cs_rpc_conn *conn, struct cs_rpc_batch *b, struct cs_slice bytes)
{
    struct cs_slice *last;

    if (sizeof b->copied - b->ncopied < bytes.len)
        write_batch(conn, b);
    if (bytes.len > sizeof b->copied) {
        batch_refer(conn, b, bytes, NULL);
        write_batch(conn, b); /* its memory does not last */
        return;
    }
    if (b->n == BATCH_PIECES && b->blocks[b->n - 1] != NULL)
        write_batch(conn, b);
    last = b->n > 0 && b->blocks[b->n - 1] == NULL ? &b->pieces[b->n - 1] : NULL;
    memcpy(b->copied + b->ncopied, bytes.data, bytes.len);
    if (last != NULL) {
        last->len += bytes.len;
        b->bytes += bytes.len;
    } else {
        batch_refer(conn, b, cs_slice(b->copied + b->ncopied, bytes.len), NULL);
    }
    b->ncopied += bytes.len;
}

/* nghttp2 sends a DATA frame, whose payload is what it left in the call's queue. */
static int on_send_data(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *head, size_t length,
                        nghttp2_data_source *source, void *arg)
{
    cs_rpc_conn *conn = arg;
    cs_rpc_call *c = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);
    /* TLS copies anyway, and makes a record of each piece */
    size_t copied = conn->tls == NULL ? PIECE_COPIED : BATCH_COPIED / 2;
    struct cs_rpc_batch *b = conn->batch;
    struct cs_rpc_block *block;
    struct cs_slice piece;

    (void)source;
    if (c == NULL || c->out.bytes < length)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    batch_copy(conn, b, cs_slice(head, FRAME_HEAD));
    for (; length > 0; length -= piece.len) {
        piece = cs_rpc_sendq_take(&c->out, length, &block);
        if (piece.len > copied) {
            batch_refer(conn, b, piece, block);
        } else {
            batch_copy(conn, b, piece);
            cs_rpc_block_drop(block);
        }
    }
    if (b->bytes >= BATCH)
        write_batch(conn, b);
    return 0;
}

/* Sends what nghttp2 has, as long as the kernel keeps up; returns the bytes. */
static size_t flush(cs_rpc_conn *conn, size_t max)
{
    struct cs_rpc_batch batch;
    uint64_t before = conn->guard.written;
    const uint8_t *p;
    ssize_t n;

    if (conn->h2 == NULL)
        return 0;
    batch.n = batch.bytes = batch.ncopied = 0;
    /* cppcheck-suppress autoVariables ; for on_send_data, inside mem_send; taken back before this returns */
    conn->batch = &batch;
    while (!conn->failed && conn->guard.written - before < max && cs_stream_pending(conn->stream) == 0) {
        if ((n = nghttp2_session_mem_send(conn->h2, &p)) < 0)
            cs_rpc_conn_fail(conn, CS_EUNAVAILABLE, "HTTP/2: %s", nghttp2_strerror((int)n));
        if (n <= 0)
            break;
        batch_copy(conn, &batch, cs_slice(p, (size_t)n));
    }
    write_batch(conn, &batch);
    conn->batch = NULL;
    return (size_t)(conn->guard.written - before);
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
    /* all is said, and some of it perhaps still on its way */
    conn->finished = conn->h2 != NULL && !nghttp2_session_want_read(conn->h2) && !nghttp2_session_want_write(conn->h2);
    if (conn->ended || conn->aborting || conn->finished)
        cs_rpc_conn_fail(conn, CS_EUNAVAILABLE, "%s",
                         conn->cause.msg[0] != 0 ? conn->cause.msg : "the peer closed the connection");
}

static void end_calls(cs_rpc_conn *conn, int status, const char *text)
{
    cs_rpc_call *c;

    while ((c = conn->calls) != NULL) {
        if (!c->over)
            c->ops->lost(c, status, text);
        cs_rpc_conn_unlink(conn, c);
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
        flush(conn, TURN_MAX);
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
    cs_rpc_guard_fini(conn);
    cs_rpc_fields_fini(&conn->fields);
    free(conn->peer);
    free(conn);
}

void cs_rpc_conn_enter(cs_rpc_conn *conn)
{
    conn->depth++;
}

static void take_down(cs_rpc_conn *conn)
{
    if (conn->dead || !conn->failed)
        return;
    conn->ops->down(conn);
    end_calls(conn, CS_RPC_UNAVAILABLE, conn->err.msg);
    /* whoever was told may have closed the owner, and with it this */
    if (!conn->dead && conn->ops->told != NULL)
        conn->ops->told(conn);
    if (conn->dead)
        return;
    conn->lingering = true;
    conn->hung_up = !cs_rpc_guard_linger(conn);
}

void cs_rpc_conn_leave(cs_rpc_conn *conn)
{
    if (conn->depth > 1) {
        conn->depth--;
        return;
    }
    if (!conn->dead && !conn->lingering) {
        pump(conn);
        take_down(conn);
    }
    if (!conn->dead && conn->lingering && conn->hung_up) {
        conn->dead = true;
        conn->ops->gone(conn);
    }
    conn->depth--;
    if (conn->dead)
        conn_free(conn);
}

void cs_rpc_conn_kill(cs_rpc_conn *conn, int status, const char *text)
{
    conn->owner = NULL;
    conn->limits = &cs_rpc_no_limits;
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
    static const uint8_t payload[8] = CS_RPC_PING_DRAIN;

    if (conn->failed || conn->aborting || (conn->going && conn->ops->server))
        return;
    conn->going = true;
    cs_rpc_conn_wake(conn);
    if (conn->h2 == NULL) {
        cs_rpc_conn_fail(conn, CS_EUNAVAILABLE, "shutting down");
    } else if (!conn->ops->server || !conn->up) {
        cs_rpc_conn_gone_away(conn);
    } else if (nghttp2_submit_shutdown_notice(conn->h2) != 0 ||
               nghttp2_submit_ping(conn->h2, NGHTTP2_FLAG_NONE, payload) != 0) {
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
    } else {
        conn->guard.draining = true;
        conn->guard.going_ms = cs_loop_now_ms(conn->loop);
        cs_rpc_guard_after(conn, conn->limits->keepalive_timeout_ms);
    }
}

void cs_rpc_conn_gone_away(cs_rpc_conn *conn)
{
    conn->guard.draining = false;
    if (nghttp2_submit_goaway(conn->h2, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(conn->h2),
                              NGHTTP2_NO_ERROR, NULL, 0) != 0)
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
    cs_rpc_conn_wake(conn);
}

void cs_rpc_conn_abort(cs_rpc_conn *conn, uint32_t h2_error, const char *why)
{
    if (conn->failed || conn->aborting)
        return;
    conn->aborting = true;
    conn->calmed = h2_error == NGHTTP2_ENHANCE_YOUR_CALM;
    cs_fail(&conn->cause, CS_EUNAVAILABLE, "the peer was stopped: %s", why);
    if (nghttp2_submit_goaway(conn->h2, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(conn->h2), h2_error,
                              (const uint8_t *)why, strlen(why)) != 0)
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
    cs_rpc_conn_wake(conn);
}

/* ---- what nghttp2 calls ---- */

static cs_rpc_call *call_of(const cs_rpc_conn *conn, int32_t id)
{
    cs_rpc_call *c = conn->dead || conn->aborting ? NULL : nghttp2_session_get_stream_user_data(conn->h2, id);

    return c == NULL || c->over ? NULL : c;
}

static int on_begin_frame(nghttp2_session *h2, const nghttp2_frame_hd *hd, void *arg)
{
    cs_rpc_conn *conn = arg;

    if (conn->dead)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (hd->type == NGHTTP2_CONTINUATION)
        return 0;
    conn->block_bytes = 0;
    if (conn->ops->server && !conn->aborting && hd->type == NGHTTP2_HEADERS &&
        nghttp2_session_find_stream(h2, hd->stream_id) == NULL)
        cs_rpc_guard_headers(conn, hd->stream_id);
    return 0;
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
    if (conn->aborting)
        return 0;
    cs_rpc_guard_taken(conn, frame->hd.stream_id);
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
    conn->block_bytes += namelen + valuelen + CS_RPC_FIELD_OVERHEAD;
    if (conn->block_bytes / HEADERS_MAX > conn->limits->max_header_list)
        cs_rpc_conn_abort(conn, NGHTTP2_ENHANCE_YOUR_CALM, "header_list_too_large");
    if ((c = call_of(conn, frame->hd.stream_id)) == NULL)
        return 0;
    c->header_bytes += namelen + valuelen + CS_RPC_FIELD_OVERHEAD;
    if (c->header_bytes <= conn->limits->max_header_list)
        c->ops->header(c, cs_slice(name, namelen), cs_slice(value, valuelen));
    return 0;
}

static const char *h2_error_name(uint32_t code)
{
    return nghttp2_http2_strerror(code);
}

/* What the peer says for people, as much of it as can be shown. */
static void print_word(char out[WORD_MAX + 1], struct cs_slice word)
{
    size_t n = 0;

    for (; n < word.len && n < WORD_MAX; n++)
        out[n] = word.data[n] >= 0x20 && word.data[n] <= 0x7e ? (char)word.data[n] : '?';
    out[n] = 0;
}

static void on_goaway(cs_rpc_conn *conn, const nghttp2_goaway *g)
{
    static const char pings[] = "too_many_pings";
    struct cs_slice word = cs_slice(g->opaque_data, g->opaque_data_len);
    char text[WORD_MAX + 1];

    print_word(text, word);
    if (g->error_code != NGHTTP2_NO_ERROR)
        cs_fail(&conn->cause, CS_EUNAVAILABLE, "the peer closed the connection with %s%s%s%s",
                h2_error_name(g->error_code), *text != 0 ? " (" : "", text, *text != 0 ? ")" : "");
    conn->going = true;
    if (conn->ops->going != NULL)
        conn->ops->going(conn, g->error_code == NGHTTP2_ENHANCE_YOUR_CALM && cs_slice_eq(word, cs_slice_str(pings)));
}

static void on_ping(cs_rpc_conn *conn, const nghttp2_frame *frame)
{
    static const uint8_t drain[8] = CS_RPC_PING_DRAIN;

    if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) {
        cs_rpc_guard_charge(conn, 1);
        if (conn->ops->server)
            cs_rpc_guard_ping(conn);
    } else if (conn->guard.draining && memcmp(frame->ping.opaque_data, drain, sizeof drain) == 0) {
        cs_rpc_conn_gone_away(conn);
    }
}

static void on_reset(cs_rpc_conn *conn, int32_t id)
{
    const cs_rpc_call *c = call_of(conn, id);

    if (c == NULL || cs_loop_now_ms(conn->loop) < c->born_ms + RESET_YOUNG_MS)
        cs_rpc_guard_charge(conn, RESET_COST);
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *frame, void *arg)
{
    cs_rpc_conn *conn = arg;
    bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    cs_rpc_call *c;

    (void)h2;
    if (conn->dead)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (conn->aborting)
        return 0;
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        if ((c = call_of(conn, frame->hd.stream_id)) == NULL)
            break;
        c->ops->headers_done(c, end);
        if (!conn->dead && end && !c->over)
            cs_rpc_call_input_end(c);
        break;
    case NGHTTP2_DATA:
        if (!end && frame->hd.length == frame->data.padlen)
            cs_rpc_guard_charge(conn, 1);
        if (end && (c = call_of(conn, frame->hd.stream_id)) != NULL)
            cs_rpc_call_input_end(c);
        break;
    case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0)
            break;
        cs_rpc_guard_charge(conn, 1);
        if (!conn->up) {
            conn->up = true;
            cs_rpc_guard_after(conn, 0); /* other clocks than the handshake's run now */
            if (conn->ops->up != NULL)
                conn->ops->up(conn);
        }
        break;
    case NGHTTP2_PING:
        on_ping(conn, frame);
        break;
    case NGHTTP2_RST_STREAM:
        on_reset(conn, frame->hd.stream_id);
        break;
    case NGHTTP2_WINDOW_UPDATE:
        cs_rpc_guard_update(conn);
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

static void goaway_sent(cs_rpc_conn *conn, uint32_t error_code)
{
    conn->said_why = true;
    if (!conn->aborting)
        cs_fail(&conn->cause, CS_EUNAVAILABLE, "the peer broke HTTP/2: %s", h2_error_name(error_code));
}

static int on_sent(nghttp2_session *h2, const nghttp2_frame *frame, void *arg)
{
    cs_rpc_conn *conn = arg;
    int32_t id = frame->hd.stream_id;
    cs_rpc_call *c;

    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR)
        goaway_sent(conn, frame->goaway.error_code);
    if (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_WINDOW_UPDATE)
        cs_rpc_guard_earn(conn, SENT_CREDIT);
    if (frame->hd.type == NGHTTP2_HEADERS && !conn->ops->server &&
        (c = nghttp2_session_get_stream_user_data(h2, id)) != NULL)
        c->sent = true;
    if (frame->hd.type == NGHTTP2_RST_STREAM && conn->ops->server &&
        nghttp2_session_get_stream_remote_close(h2, id) != 1)
        cs_rpc_guard_cut(conn, id);
    if (frame->hd.type == NGHTTP2_RST_STREAM && frame->rst_stream.error_code != NGHTTP2_CANCEL && conn->ops->server)
        cs_rpc_guard_charge(conn, RESET_COST);
    /* a server that has said everything wants no more of the request (RFC 9113 section 8.1) */
    if (conn->ops->server && frame->hd.type == NGHTTP2_HEADERS && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 &&
        nghttp2_session_get_stream_remote_close(h2, id) == 0)
        return nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, id, NGHTTP2_NO_ERROR);
    return 0;
}

/* As large as the queue asks for: nghttp2 reserves what we name. */
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
    nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(cb, on_not_sent);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_sent);
    nghttp2_session_callbacks_set_send_data_callback(cb, on_send_data);
    nghttp2_session_callbacks_set_data_source_read_length_callback(cb, frame_size);
    nghttp2_option_set_no_auto_window_update(opt, 1);
    nghttp2_option_set_no_closed_streams(opt, 1);
    nghttp2_option_set_max_outbound_ack(opt, QUEUED_ANSWERS);
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
    const struct cs_rpc_limits *l = conn->limits;
    nghttp2_settings_entry settings[] = {
        { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, l->admission ? CS_RPC_WINDOW_UNADMITTED : CS_RPC_WINDOW },
        { NGHTTP2_SETTINGS_MAX_FRAME_SIZE, FRAME_MAX },
        { NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, l->max_header_list },
        { NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, l->max_streams },
        /* of no use to gRPC, and a tree that a peer could make us keep */
        { NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1 },
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
    ssize_t n;

    cs_rpc_guard_watch(conn, bytes);
    if (conn->aborting)
        return;
    n = nghttp2_session_mem_recv(conn->h2, bytes.data, bytes.len);
    if (n >= 0 || conn->dead || conn->aborting)
        return;
    if (n == NGHTTP2_ERR_BAD_CLIENT_MAGIC)
        cs_rpc_conn_fail(conn, CS_EUNAVAILABLE, "the peer does not speak HTTP/2");
    else if (n == NGHTTP2_ERR_FLOODED) /* nghttp2 has stopped by itself, and says nothing */
        cs_rpc_conn_abort(conn, NGHTTP2_ENHANCE_YOUR_CALM, "too_many_control_frames");
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
    } while (n > 0 && !conn->failed && !conn->aborting && !conn->dead);
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
    cs_rpc_guard_heard(conn);
    if (conn->lingering) {
        conn->lingered += bytes.len;
        conn->hung_up |= conn->lingered > LINGER_MAX;
    } else if (conn->failed) {
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
    conn->ended = conn->hung_up = true;
    if (err != NULL && conn->cause.msg[0] == 0) /* what HTTP/2 had to say tells more */
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

int cs_rpc_conn_new(cs_loop *l, const struct cs_rpc_conn_ops *ops, void *owner, cs_rpc_tls_context *tls,
                    const struct cs_rpc_limits *limits, cs_rpc_conn **out)
{
    cs_rpc_conn *conn = calloc(1, sizeof *conn);

    *out = NULL;
    if (conn == NULL)
        return CS_ENOMEM;
    conn->ops = ops;
    conn->owner = owner;
    conn->loop = l;
    conn->limits = limits;
    if (cs_timer_new(l, on_turn, conn, &conn->turn) != CS_OK || cs_rpc_guard_init(conn) != CS_OK ||
        (tls != NULL && cs_rpc_tls_new(tls, &conn->tls, NULL) != CS_OK)) {
        conn_free(conn);
        return CS_ENOMEM;
    }
    *out = conn;
    return CS_OK;
}
