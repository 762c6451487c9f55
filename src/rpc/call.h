/* One call, seen from either side, and what moves its messages. Inside src/rpc only. */
#ifndef CS_RPC_CALL_H
#define CS_RPC_CALL_H

#include "rpc/frame.h"
#include "rpc/metadata.h"
#include "rpc/sendq.h"

struct cs_rpc_conn;

enum {
    CS_RPC_MAX_MESSAGE = 4 * 1024 * 1024, /* received, unless set otherwise */
    CS_RPC_MAX_SEND = 256 * 1024 * 1024,  /* sent */
    CS_RPC_MAX_HEADER_LIST = 16 * 1024,   /* received, as HTTP/2 counts it */
    CS_RPC_FIELD_OVERHEAD = 32,           /* of each field, in that count */
    CS_RPC_LOW_WATER = 64 * 1024,         /* `writable` comes when the queue falls below */
    CS_RPC_WINDOW = 1 << 20,              /* of a stream */
    CS_RPC_WINDOW_WIDE = 4 << 20,         /* of one whose reader keeps up */
    CS_RPC_WIDEN = 128 * 1024,            /* bytes that it has shown that with */
    /* of a stream whose call is not admitted: with the structs of the call and its stream in 4 KiB */
    CS_RPC_WINDOW_UNADMITTED = 1536,
};

/* What a side does with its calls. Each runs inside cs_rpc_conn_enter and _leave, and may end or close anything. */
struct cs_rpc_call_ops {
    void (*header)(cs_rpc_call *c, struct cs_slice name, struct cs_slice value);
    void (*headers_done)(cs_rpc_call *c, bool end_stream); /* a header block is complete */
    void (*message)(cs_rpc_call *c, struct cs_slice msg);
    void (*remote_end)(cs_rpc_call *c);                           /* the peer is done, and its last message delivered */
    void (*broken)(cs_rpc_call *c, int status, const char *text); /* its bytes are no messages */
    void (*writable)(cs_rpc_call *c);
    /* Compression is asked for and was not agreed on yet: whether it can be; NULL: no. */
    bool (*may_compress)(cs_rpc_call *c);
    void (*stream_closed)(cs_rpc_call *c, uint32_t h2_error);
    void (*lost)(cs_rpc_call *c, int status, const char *text); /* the connection went down: it is over */
    void (*tell)(cs_rpc_call *c);                               /* the user's last callback; called once, when over */
    /* Sends what goes before the first message; NULL: nothing does. */
    void (*open)(cs_rpc_call *c);
    /* The trailers that go after the last message; NULL: there are none. */
    void (*trailers)(cs_rpc_call *c, struct cs_rpc_fields *f);
    void (*free)(cs_rpc_call *c); /* the struct and what the side keeps in it */
};

/* Life: attached to a connection by _init; gets a stream; `over` when nothing more is delivered or sent; told; freed
 * when it is told and the stream gone. */
struct cs_rpc_call {
    const struct cs_rpc_call_ops *ops;
    struct cs_rpc_conn *conn;
    cs_rpc_call *prev, *next; /* conn->calls */
    cs_rpc_call *dirty_next;  /* conn->dirty */
    bool dirty;               /* is on conn->dirty */
    bool over, told;
    bool deaf;       /* nothing more is delivered; what is queued is still sent */
    bool opened;     /* ops->open is done, or not needed */
    bool unadmitted; /* keeps to CS_RPC_WINDOW_UNADMITTED */
    bool stream;     /* HTTP/2 knows a stream of ours, `id` */
    bool sent;       /* the request's headers went out (client) */
    int32_t id;
    void *user;
    uint64_t born_ms;
    cs_timer *deadline; /* owned; NULL: none */
    uint64_t deadline_ms;
    void (*expired)(cs_rpc_call *c);

    /* sending */
    struct cs_rpc_sendq out;
    bool out_end;  /* nothing more will be queued */
    bool deferred; /* nghttp2 waits for cs_rpc_call_more */
    bool writable_due;
    bool can_compress, compress;
    uint64_t moved_ms; /* when something of `out` was taken last, or it began to be filled */

    /* receiving */
    struct cs_rpc_decoder in;
    struct cs_buf held;  /* arrived while reading was off */
    size_t held_at;      /* bytes of `held` that are decoded already */
    size_t unacked;      /* decoded, not given back to the stream's window yet */
    uint64_t taken;      /* decoded and given back */
    bool wide;           /* the window is CS_RPC_WINDOW_WIDE */
    size_t header_bytes; /* of the block that is arriving */
    bool reading;
    bool resume_due;
    bool remote_ended, remote_end_told;
};

void cs_rpc_call_init(cs_rpc_call *c, const struct cs_rpc_call_ops *ops, struct cs_rpc_conn *conn, size_t max_message);
/* Releases everything, the struct too. It is off its connection's lists. */
void cs_rpc_call_free(cs_rpc_call *c);
/* Arms the deadline; `expired` runs between enter and leave of the connection. CS_OK, CS_ENOMEM. */
int cs_rpc_call_set_deadline(cs_rpc_call *c, uint32_t ms, void (*expired)(cs_rpc_call *c));
/* Nothing more is delivered or sent, and the user will be told at the end of this turn. */
void cs_rpc_call_set_over(cs_rpc_call *c);
/* Nothing more is delivered and nothing more queued; what is queued is still sent, and the end after it. */
void cs_rpc_call_set_deaf(cs_rpc_call *c);
/* The user's last callback, now, if it was not told yet. */
void cs_rpc_call_tell(cs_rpc_call *c);
/* There is something new to send, or the end. */
void cs_rpc_call_more(cs_rpc_call *c);

/* From the connection: bytes of the stream; END_STREAM; a turn's end. */
void cs_rpc_call_input(cs_rpc_call *c, struct cs_slice bytes);
void cs_rpc_call_input_end(cs_rpc_call *c);
void cs_rpc_call_settle(cs_rpc_call *c);

#endif
