#include "rpc/guard.h"

#include "rpc/conn.h"

enum {
    LINGER_MS = 1000,
    MAX_STRIKES = 2,
    PRIORITY_LEN = 5,
    UPDATES = 2,         /* the stream's window and the connection's */
    UPDATE_BYTES = 4096, /* of a large message, the least that a reader gives back at once */
    THOUSAND = 1000,
    PIECES = 8,      /* of a header block after the first; nghttp2 would hang up without a word at the next */
    REMEMBERED = 64, /* streams */
};

const struct cs_rpc_limits cs_rpc_no_limits = {
    .max_streams = UINT32_MAX,
    .max_header_list = UINT32_MAX,
    .handshake_ms = CS_RPC_NEVER,
    .header_ms = CS_RPC_NEVER,
    .idle_ms = CS_RPC_NEVER,
    .stall_ms = CS_RPC_NEVER,
    .stream_stall_ms = CS_RPC_NEVER,
    .admit_ms = CS_RPC_NEVER,
    .keepalive_ms = CS_RPC_NEVER,
    .keepalive_timeout_ms = CS_RPC_NEVER,
    .min_ping_ms = CS_RPC_NEVER,
    .min_ping_idle_ms = CS_RPC_NEVER,
    .flood_burst = CS_RPC_NEVER,
    .flood_rate = CS_RPC_NEVER,
};

static uint64_t now_of(const cs_rpc_conn *conn)
{
    return cs_loop_now_ms(conn->loop);
}

static uint64_t after(uint64_t from, uint32_t ms)
{
    return ms == CS_RPC_NEVER ? UINT64_MAX : from + ms;
}

static void due_at(cs_rpc_conn *conn, uint64_t due_ms)
{
    uint64_t now;

    if (due_ms >= conn->guard.due_ms)
        return;
    now = now_of(conn);
    conn->guard.due_ms = due_ms;
    cs_timer_start(conn->guard.timer, due_ms > now ? due_ms - now : 0);
}

void cs_rpc_guard_after(cs_rpc_conn *conn, uint32_t ms)
{
    if (ms != CS_RPC_NEVER && conn->guard.timer != NULL)
        due_at(conn, now_of(conn) + ms);
}

/* ---- what the clocks hear of ---- */

void cs_rpc_guard_heard(cs_rpc_conn *conn)
{
    conn->guard.heard_ms = now_of(conn);
    if (!conn->guard.pinging)
        return;
    conn->guard.pinging = false;
    cs_rpc_guard_after(conn, conn->limits->keepalive_ms);
}

static void frame_begins(cs_rpc_conn *conn)
{
    struct cs_rpc_guard *g = &conn->guard;
    uint8_t type = g->head[3];

    g->frame_left = (size_t)g->head[0] << 16 | (size_t)g->head[1] << 8 | g->head[2];
    if (type == NGHTTP2_HEADERS) {
        g->pieces = 0;
        g->block_ms = now_of(conn);
        cs_rpc_guard_after(conn, conn->limits->header_ms);
    }
    g->in_block = type == NGHTTP2_HEADERS || type == NGHTTP2_CONTINUATION;
    g->block_ends = (g->head[4] & NGHTTP2_FLAG_END_HEADERS) != 0;
    /* what nghttp2 passes over: pieces of a block, types that it does not know, and priorities, as we have told it that
     * we use none */
    if (type == NGHTTP2_PRIORITY && g->frame_left != PRIORITY_LEN)
        cs_rpc_conn_abort(conn, NGHTTP2_FRAME_SIZE_ERROR, "PRIORITY: size");
    else if (type == NGHTTP2_PRIORITY && (cs_load_u32(g->head + 5) & INT32_MAX) == 0)
        cs_rpc_conn_abort(conn, NGHTTP2_PROTOCOL_ERROR, "PRIORITY: stream_id == 0");
    else if (type == NGHTTP2_CONTINUATION && ++g->pieces > PIECES)
        cs_rpc_conn_abort(conn, NGHTTP2_ENHANCE_YOUR_CALM, "too_many_continuations");
    else if (type == NGHTTP2_PRIORITY || type >= NGHTTP2_CONTINUATION)
        cs_rpc_guard_charge(conn, 1);
}

void cs_rpc_guard_watch(cs_rpc_conn *conn, struct cs_slice bytes)
{
    struct cs_rpc_guard *g = &conn->guard;
    size_t n;

    while (bytes.len > 0 && !conn->aborting) {
        if (g->frame_left > 0) {
            n = g->frame_left < bytes.len ? g->frame_left : bytes.len;
            g->frame_left -= n;
        } else {
            n = sizeof g->head - g->head_len < bytes.len ? sizeof g->head - g->head_len : bytes.len;
            memcpy(g->head + g->head_len, bytes.data, n);
            g->head_len = (uint8_t)(g->head_len + n);
            if (g->head_len == sizeof g->head) {
                g->head_len = 0;
                frame_begins(conn);
            }
        }
        bytes = cs_slice(bytes.data + n, bytes.len - n);
    }
}

/* The bit of a stream's number; 0: it is older than those that are remembered. */
static uint64_t bit_of(const struct cs_rpc_guard *g, int32_t id)
{
    uint32_t back = ((uint32_t)g->newest_id - (uint32_t)id) / 2;

    return back < REMEMBERED ? (uint64_t)1 << back : 0;
}

static void stream_begins(struct cs_rpc_guard *g, int32_t id)
{
    uint32_t ahead = ((uint32_t)id - (uint32_t)g->newest_id) / 2;

    g->begun = (ahead < REMEMBERED ? g->begun << ahead : 0) | 1;
    g->cut = (ahead < REMEMBERED ? g->cut << ahead : 0) | 1; /* until it is taken: nghttp2 may refuse it */
    g->newest_id = id;
}

void cs_rpc_guard_headers(cs_rpc_conn *conn, int32_t id)
{
    struct cs_rpc_guard *g = &conn->guard;
    uint64_t bit;

    if (id % 2 == 0)
        return; /* nghttp2 has the word for these */
    if (id > g->newest_id) {
        stream_begins(g, id);
        return;
    }
    bit = bit_of(g, id);
    /* after our GOAWAY streams are passed over, and nobody keeps count of them */
    if (bit == 0 || (g->cut & bit) != 0 || conn->going)
        cs_rpc_guard_charge(conn, 1);
    else if ((g->begun & bit) != 0)
        cs_rpc_conn_abort(conn, NGHTTP2_STREAM_CLOSED, "HEADERS on a stream that is over");
    else
        cs_rpc_conn_abort(conn, NGHTTP2_PROTOCOL_ERROR, "a stream's number that goes back");
}

void cs_rpc_guard_taken(cs_rpc_conn *conn, int32_t id)
{
    conn->guard.cut &= ~bit_of(&conn->guard, id);
}

void cs_rpc_guard_cut(cs_rpc_conn *conn, int32_t id)
{
    if (id % 2 != 0 && id <= conn->guard.newest_id)
        conn->guard.cut |= bit_of(&conn->guard, id);
}

void cs_rpc_guard_written(cs_rpc_conn *conn, size_t n)
{
    struct cs_rpc_guard *g = &conn->guard;

    if (cs_stream_pending(conn->stream) == 0) {
        g->stalled_ms = now_of(conn);
        g->taken = g->written;
        cs_rpc_guard_after(conn, conn->limits->stall_ms);
    }
    g->written += n;
}

void cs_rpc_guard_idle(cs_rpc_conn *conn)
{
    conn->guard.idle_ms = now_of(conn);
    cs_rpc_guard_after(conn, conn->limits->idle_ms);
}

void cs_rpc_guard_busy(cs_rpc_conn *conn)
{
    /* a peer that had nothing to say is not to be suspected at once */
    if (!conn->limits->keepalive_idle && !conn->guard.pinging)
        conn->guard.heard_ms = now_of(conn);
    cs_rpc_guard_after(conn, conn->limits->keepalive_ms);
}

/* ---- noise ---- */

static void refill(cs_rpc_conn *conn)
{
    const struct cs_rpc_limits *l = conn->limits;
    struct cs_rpc_guard *g = &conn->guard;
    uint64_t now = now_of(conn), full = (uint64_t)l->flood_burst * THOUSAND;

    /* frames a second are thousandths a millisecond */
    g->credit += (now - g->credit_ms) * l->flood_rate;
    if (g->credit > full)
        g->credit = full;
    g->credit_ms = now;
}

void cs_rpc_guard_charge(cs_rpc_conn *conn, uint32_t frames)
{
    uint64_t cost = (uint64_t)frames * THOUSAND;

    if (conn->limits->flood_burst == CS_RPC_NEVER || conn->aborting)
        return;
    /* each time: what a full allowance gains while it is not used is lost */
    refill(conn);
    if (conn->guard.credit < cost)
        cs_rpc_conn_abort(conn, NGHTTP2_ENHANCE_YOUR_CALM, "too_many_control_frames");
    else
        conn->guard.credit -= cost;
}

void cs_rpc_guard_earn(cs_rpc_conn *conn, uint32_t frames)
{
    struct cs_rpc_guard *g = &conn->guard;
    uint64_t full = (uint64_t)conn->limits->flood_burst * THOUSAND;

    g->credit += (uint64_t)frames * THOUSAND;
    if (g->credit > full)
        g->credit = full;
    g->peer_pinged = false;
    g->strikes = 0;
}

void cs_rpc_guard_owe_updates(cs_rpc_conn *conn, size_t bytes, size_t messages)
{
    conn->guard.updates += UPDATES * (messages + bytes / UPDATE_BYTES);
}

void cs_rpc_guard_update(cs_rpc_conn *conn)
{
    if (conn->guard.updates > 0)
        conn->guard.updates--;
    else
        cs_rpc_guard_charge(conn, 1);
}

void cs_rpc_guard_ping(cs_rpc_conn *conn)
{
    struct cs_rpc_guard *g = &conn->guard;
    uint32_t least = conn->ncalls > 0 ? conn->limits->min_ping_ms : conn->limits->min_ping_idle_ms;
    uint64_t now = now_of(conn), allowed = after(g->peer_ping_ms, least);
    bool too_soon = g->peer_pinged && now < allowed;

    g->peer_pinged = true;
    g->peer_ping_ms = now;
    if (least == CS_RPC_NEVER)
        return; /* no limit, rather than no pings */
    if (too_soon && ++g->strikes > MAX_STRIKES)
        cs_rpc_conn_abort(conn, NGHTTP2_ENHANCE_YOUR_CALM, "too_many_pings");
}

/* ---- the clocks: each does what is due, and returns when it is due next ---- */

static uint64_t handshake_clock(cs_rpc_conn *conn, uint64_t now)
{
    uint64_t due = conn->up ? UINT64_MAX : after(conn->guard.opened_ms, conn->limits->handshake_ms);

    if (now >= due)
        cs_rpc_conn_fail(conn, CS_ETIMEDOUT, conn->ops->server ? "no HTTP/2 within %u ms" : "no answer within %u ms",
                         conn->limits->handshake_ms);
    return due;
}

static uint64_t header_clock(cs_rpc_conn *conn, uint64_t now)
{
    const struct cs_rpc_guard *g = &conn->guard;
    bool arriving = g->in_block && (g->frame_left > 0 || !g->block_ends);
    uint64_t due = arriving ? after(g->block_ms, conn->limits->header_ms) : UINT64_MAX;

    if (now >= due)
        cs_rpc_conn_abort(conn, NGHTTP2_ENHANCE_YOUR_CALM, "slow_headers");
    return due;
}

static uint64_t idle_clock(cs_rpc_conn *conn, uint64_t now)
{
    uint64_t due =
        conn->ncalls == 0 && conn->up && !conn->going ? after(conn->guard.idle_ms, conn->limits->idle_ms) : UINT64_MAX;

    if (now < due)
        return due;
    cs_rpc_conn_go_away(conn);
    return UINT64_MAX;
}

static uint64_t drain_clock(cs_rpc_conn *conn, uint64_t now)
{
    uint64_t due = conn->guard.draining ? after(conn->guard.going_ms, conn->limits->keepalive_timeout_ms) : UINT64_MAX;

    if (now < due)
        return due;
    cs_rpc_conn_gone_away(conn);
    return UINT64_MAX;
}

static uint64_t stall_clock(cs_rpc_conn *conn, uint64_t now)
{
    struct cs_rpc_guard *g = &conn->guard;
    size_t pending = conn->stream == NULL ? 0 : cs_stream_pending(conn->stream);
    uint64_t due;

    if (pending == 0)
        return UINT64_MAX;
    if (g->taken != g->written - pending) {
        g->taken = g->written - pending;
        g->stalled_ms = now;
    }
    due = after(g->stalled_ms, conn->limits->stall_ms);
    if (now >= due) {
        conn->calmed = true;
        cs_rpc_conn_fail(conn, CS_ETIMEDOUT, "the peer took no bytes for %u ms", conn->limits->stall_ms);
    }
    return due;
}

static uint64_t keepalive_clock(cs_rpc_conn *conn, uint64_t now)
{
    static const uint8_t payload[8] = CS_RPC_PING_KEEPALIVE;
    struct cs_rpc_guard *g = &conn->guard;
    uint64_t due;

    if (g->pinging) {
        due = after(g->ping_ms, conn->limits->keepalive_timeout_ms);
        if (now >= due)
            cs_rpc_conn_fail(conn, CS_ETIMEDOUT, "no answer to a ping within %u ms",
                             conn->limits->keepalive_timeout_ms);
        return due;
    }
    if (!conn->up || (conn->ncalls == 0 && !conn->limits->keepalive_idle))
        return UINT64_MAX;
    due = after(g->heard_ms, conn->limits->keepalive_ms);
    if (now < due)
        return due;
    if (nghttp2_submit_ping(conn->h2, NGHTTP2_FLAG_NONE, payload) != 0)
        cs_rpc_conn_fail(conn, CS_ENOMEM, "out of memory");
    g->pinging = true;
    g->ping_ms = now;
    return after(now, conn->limits->keepalive_timeout_ms);
}

static uint64_t call_clock(cs_rpc_call *c, uint64_t now)
{
    const struct cs_rpc_limits *l = c->conn->limits;
    uint64_t admit = c->unadmitted ? after(c->born_ms, l->admit_ms) : UINT64_MAX;
    uint64_t stall = c->out.bytes > 0 && c->stream ? after(c->moved_ms, l->stream_stall_ms) : UINT64_MAX;

    if (now >= stall) {
        cs_rpc_conn_reset(c->conn, c, NGHTTP2_CANCEL);
        cs_rpc_call_set_over(c);
        return UINT64_MAX;
    }
    if (now >= admit) {
        c->unadmitted = false; /* once is enough */
        c->conn->ops->not_admitted(c);
        return UINT64_MAX;
    }
    return admit < stall ? admit : stall;
}

static uint64_t calls_clock(cs_rpc_conn *conn, uint64_t now)
{
    uint64_t due = UINT64_MAX, one;

    if (!conn->ops->server)
        return UINT64_MAX;
    for (cs_rpc_call *c = conn->calls; c != NULL; c = c->next) {
        one = c->over ? UINT64_MAX : call_clock(c, now);
        due = one < due ? one : due;
    }
    return due;
}

static void look_at_clocks(cs_rpc_conn *conn)
{
    static uint64_t (*const clocks[])(cs_rpc_conn * conn, uint64_t now) = {
        handshake_clock, header_clock, idle_clock, drain_clock, stall_clock, keepalive_clock, calls_clock,
    };
    uint64_t now = now_of(conn), due;

    for (size_t i = 0; i < sizeof clocks / sizeof clocks[0] && !conn->failed && !conn->aborting; i++) {
        due = clocks[i](conn, now);
        if (due != UINT64_MAX && due > now)
            due_at(conn, due);
    }
}

static void on_timer(void *arg)
{
    cs_rpc_conn *conn = arg;

    conn->guard.due_ms = UINT64_MAX;
    cs_rpc_conn_enter(conn);
    if (conn->lingering)
        conn->hung_up = true;
    else if (!conn->failed)
        look_at_clocks(conn);
    cs_rpc_conn_leave(conn);
}

bool cs_rpc_guard_linger(cs_rpc_conn *conn)
{
    bool reading = conn->finished && conn->ops->server && !conn->said_why;

    if ((!conn->said_why && !reading) || conn->ended || conn->stream == NULL)
        return false;
    conn->guard.due_ms = UINT64_MAX;
    /* who was told all in order may have much to read yet, and hangs up when it is done */
    cs_rpc_guard_after(conn, reading ? conn->limits->keepalive_timeout_ms : LINGER_MS);
    return true;
}

int cs_rpc_guard_init(cs_rpc_conn *conn)
{
    struct cs_rpc_guard *g = &conn->guard;

    g->due_ms = UINT64_MAX;
    g->newest_id = -1; /* so that 1 is the next */
    g->frame_left = conn->ops->server ? NGHTTP2_CLIENT_MAGIC_LEN : 0;
    g->opened_ms = g->heard_ms = g->idle_ms = g->credit_ms = now_of(conn);
    g->credit = (uint64_t)conn->limits->flood_burst * THOUSAND;
    if (cs_timer_new(conn->loop, on_timer, conn, &g->timer) != CS_OK)
        return CS_ENOMEM;
    cs_rpc_guard_after(conn, conn->limits->handshake_ms);
    cs_rpc_guard_after(conn, conn->limits->keepalive_ms);
    cs_rpc_guard_after(conn, conn->limits->idle_ms);
    return CS_OK;
}

void cs_rpc_guard_fini(cs_rpc_conn *conn)
{
    cs_timer_close(conn->guard.timer);
    conn->guard.timer = NULL;
}
