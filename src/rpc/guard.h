/* What a connection gives its peer time for, and how much of its noise it bears. One timer per connection stands for
 * all its clocks: each says when it is due at the latest, and when the timer fires all are looked at. */
#ifndef CS_RPC_GUARD_H
#define CS_RPC_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

typedef struct cs_rpc_conn cs_rpc_conn;

/* The limits that a connection keeps, and makes its peer keep. Times in ms, CS_RPC_NEVER: no limit. */
struct cs_rpc_limits {
    uint32_t max_streams, max_header_list;
    uint32_t handshake_ms, header_ms, idle_ms, stall_ms, stream_stall_ms, admit_ms;
    uint32_t keepalive_ms, keepalive_timeout_ms;
    uint32_t min_ping_ms, min_ping_idle_ms;
    uint32_t flood_burst, flood_rate;
    bool keepalive_idle;
    bool admission;
};

extern const struct cs_rpc_limits cs_rpc_no_limits;

struct cs_rpc_guard {
    struct cs_timer *timer; /* owned */
    uint64_t due_ms;        /* when the timer fires; UINT64_MAX: it is not set */
    uint64_t opened_ms;
    uint64_t heard_ms; /* the peer's newest byte, or the first call's start after none */
    uint64_t idle_ms;  /* when the last call ended */
    uint64_t block_ms; /* when the newest header block began */
    uint64_t ping_ms;  /* our keepalive ping, if pinging */
    uint64_t going_ms; /* the first GOAWAY, if draining */
    uint64_t written, taken, stalled_ms;
    uint64_t peer_ping_ms; /* the peer's newest, if peer_pinged */
    uint64_t credit_ms;    /* when `credit` was reckoned */
    uint64_t credit;       /* thousandths of frames that may still come */
    uint64_t updates;      /* WINDOW_UPDATEs that the peer may send for data it got */
    uint8_t strikes;       /* pings that came too soon */
    uint8_t head[9];       /* of the peer's frame that begins, as far as it came */
    uint8_t head_len;
    size_t frame_left; /* bytes of the frame after its head, still to come */
    bool in_block;     /* the newest frame is a piece of a header block */
    uint8_t pieces;    /* CONTINUATIONs of that block */
    bool block_ends;   /* the last one */
    bool pinging, draining, peer_pinged;
    /* Of the peer's newest streams, a bit each: bit i is number newest_id - 2 * i. */
    int32_t newest_id;
    uint64_t begun;
    uint64_t cut; /* ended by us before the peer had ended its side: more of these may be on its way */
};

/* Opens the clocks. CS_OK, CS_ENOMEM. */
int cs_rpc_guard_init(cs_rpc_conn *conn);
void cs_rpc_guard_fini(cs_rpc_conn *conn);
/* Something will be due then; CS_RPC_NEVER: it will not. */
void cs_rpc_guard_after(cs_rpc_conn *conn, uint32_t ms);

void cs_rpc_guard_heard(cs_rpc_conn *conn);
/* The peer's bytes, before nghttp2 gets them: it skips some frames without a word, and those cost and take time too. */
void cs_rpc_guard_watch(cs_rpc_conn *conn, struct cs_slice bytes);
/* The peer's HEADERS on a number that is not open, as nghttp2 begins to read them: a new stream, one whose trailers
 * crossed our end of it (they cost), or one that it had no right to speak on (the connection is aborted). */
void cs_rpc_guard_headers(cs_rpc_conn *conn, int32_t id);
/* nghttp2 has let that new stream in. */
void cs_rpc_guard_taken(cs_rpc_conn *conn, int32_t id);
/* A RST_STREAM of ours went out, on a stream whose other side was open. */
void cs_rpc_guard_cut(cs_rpc_conn *conn, int32_t id);
void cs_rpc_guard_written(cs_rpc_conn *conn, size_t n); /* before the stream takes them */
void cs_rpc_guard_idle(cs_rpc_conn *conn);              /* no call is left */
void cs_rpc_guard_busy(cs_rpc_conn *conn);              /* the first call began */

/* Frames that cost: above the allowance the connection is aborted. And what gives them back. */
void cs_rpc_guard_charge(cs_rpc_conn *conn, uint32_t frames);
void cs_rpc_guard_earn(cs_rpc_conn *conn, uint32_t frames);
/* Messages of ours may each be answered by WINDOW_UPDATEs (gRPC's own implementations do so, however many came in one
 * frame), and so may the parts of a large one: those are free, however late they come in however great a heap, as a
 * busy side reads them. Any others cost as other frames do. */
void cs_rpc_guard_owe_updates(cs_rpc_conn *conn, size_t bytes, size_t messages);
void cs_rpc_guard_update(cs_rpc_conn *conn);
/* The peer's PING. */
void cs_rpc_guard_ping(cs_rpc_conn *conn);

/* The connection has ended, and perhaps said why: whether to wait for the peer to read it. Closing at once, with bytes
 * of the peer's unread, would make the kernel throw away what was said. */
bool cs_rpc_guard_linger(cs_rpc_conn *conn);

#endif
