/* One HTTP/2 connection, plain or TLS, of either side. Inside src/rpc only.
 *
 * Every entry from the loop is bracketed by cs_rpc_conn_enter and _leave: the outermost leave runs what calls are due,
 * sends what nghttp2 has, and takes the connection down if it failed. Nothing in between frees a connection or call, so
 * that users may end and close whatever they like in any callback. */
#ifndef CS_RPC_CONN_H
#define CS_RPC_CONN_H

#include <nghttp2/nghttp2.h>

#include "rpc/call.h"
#include "rpc/guard.h"
#include "rpc/tls.h"

/* What our two kinds of PING carry, to tell their answers apart. */
#define CS_RPC_PING_KEEPALIVE                                                                                          \
    {                                                                                                                  \
        'k', 'e', 'e', 'p', 'a', 'l', 'i', 'v'                                                                         \
    }
#define CS_RPC_PING_DRAIN                                                                                              \
    {                                                                                                                  \
        'd', 'r', 'a', 'i', 'n', 'i', 'n', 'g'                                                                         \
    }

/* What a connection tells its owner (a channel or a server), and asks it. */
struct cs_rpc_conn_ops {
    bool server;
    /* A request begins (server): a call that is inited on `conn`, or NULL. */
    cs_rpc_call *(*accept)(cs_rpc_conn *conn);
    void (*ready)(cs_rpc_conn *conn); /* HTTP/2 may be spoken: calls may be submitted */
    void (*up)(cs_rpc_conn *conn);    /* the peer's first SETTINGS arrived */
    /* The peer's GOAWAY: no new calls here; `calm`: because of too many pings. */
    void (*going)(cs_rpc_conn *conn, bool calm);
    void (*down)(cs_rpc_conn *conn);      /* it failed (conn->err); its calls are about to end */
    void (*told)(cs_rpc_conn *conn);      /* every call on it was told; NULL: nobody asks */
    void (*gone)(cs_rpc_conn *conn);      /* it is freed next: forget it */
    void (*not_admitted)(cs_rpc_call *c); /* its time to be admitted is over (server) */
};

struct cs_rpc_conn {
    const struct cs_rpc_conn_ops *ops;
    void *owner;              /* NULL: closed by its owner, told nothing more */
    cs_rpc_conn *prev, *next; /* the owner's list */
    cs_loop *loop;
    cs_stream *stream;
    char *peer;                  /* owned */
    uint64_t serial;             /* of the server's, from 1 */
    cs_rpc_tls_session *tls;     /* NULL: plain */
    nghttp2_session *h2;         /* NULL until the transport stands */
    struct cs_rpc_fields fields; /* scratch for header blocks */
    struct cs_rpc_batch *batch;  /* while it sends: frames on their way to the stream */
    cs_timer *turn;
    bool turn_set;
    const struct cs_rpc_limits *limits; /* the owner's, and gone with it: not for a connection that is dead */
    struct cs_rpc_guard guard;
    void *place; /* the owner's */

    cs_rpc_call *calls;
    cs_rpc_call *dirty, *dirty_tail;
    cs_rpc_call *grave; /* ended inside a callback of theirs; freed with the connection (linked by `next`) */
    size_t ncalls;
    size_t held;        /* bytes that its calls hold back from their readers */
    size_t uncredited;  /* received, not given back to the connection's window yet */
    size_t block_bytes; /* of the header block that is arriving */

    int depth;
    bool up;               /* the peer's SETTINGS were seen */
    bool going;            /* takes no new calls */
    bool aborting;         /* the peer is heard no more; it fails when the GOAWAY is sent */
    bool said_why;         /* a GOAWAY or alert with an error was sent: the peer should get to read it */
    bool finished;         /* HTTP/2 has ended in order */
    bool calmed;           /* the peer had passed a limit */
    bool ended;            /* the peer's bytes are at an end */
    bool failed;           /* to be taken down by the outermost leave */
    bool lingering;        /* it is down, and waits for the peer to hang up */
    bool hung_up;          /* enough of that */
    bool dead;             /* its calls are told; to be freed by the outermost leave */
    size_t lingered;       /* bytes thrown away meanwhile */
    struct cs_error err;   /* why it failed */
    struct cs_error cause; /* what HTTP/2 complained about, for that */
};

/* An idle connection: the owner sets `stream`, then starts it. tls NULL: plain; limits are borrowed. */
int cs_rpc_conn_new(cs_loop *l, const struct cs_rpc_conn_ops *ops, void *owner, cs_rpc_tls_context *tls,
                    const struct cs_rpc_limits *limits, cs_rpc_conn **out);
/* The stream's callbacks, with the connection as arg. */
extern const struct cs_stream_cb cs_rpc_conn_stream_cb;
/* The stream stands: starts TLS or HTTP/2. Between enter and leave. */
void cs_rpc_conn_start(cs_rpc_conn *conn);
/* Tells every call now (status and text for those that are not over) and releases everything, at once or when the
 * outermost leave is reached. Says nothing to the owner. */
void cs_rpc_conn_kill(cs_rpc_conn *conn, int status, const char *text);
/* The connection will be taken down, for this reason, at the end of the turn. The first reason stays. */
__attribute__((format(printf, 3, 4))) void cs_rpc_conn_fail(cs_rpc_conn *conn, int code, const char *fmt, ...);

void cs_rpc_conn_enter(cs_rpc_conn *conn);
void cs_rpc_conn_leave(cs_rpc_conn *conn);
/* Something is to be sent or told: the end of this turn does it. */
void cs_rpc_conn_wake(cs_rpc_conn *conn);
void cs_rpc_conn_mark(cs_rpc_conn *conn, cs_rpc_call *c);
/* A server's connection takes no new streams: a GOAWAY that still lets those on their way in, and, when a PING has been
 * there and back, the final one (cs_rpc_conn_gone_away). A client's says it at once. What runs goes on; the connection
 * closes itself after the last. */
void cs_rpc_conn_go_away(cs_rpc_conn *conn);
void cs_rpc_conn_gone_away(cs_rpc_conn *conn);
/* The peer went too far: GOAWAY with this error and word, nothing of it is heard any more, and the connection fails. */
void cs_rpc_conn_abort(cs_rpc_conn *conn, uint32_t h2_error, const char *why);

/* Gives the stream up towards the peer and forgets it. */
void cs_rpc_conn_reset(cs_rpc_conn *conn, cs_rpc_call *c, uint32_t h2_error);
/* A call is on the connection's list, or off it. */
void cs_rpc_conn_link(cs_rpc_conn *conn, cs_rpc_call *c);
void cs_rpc_conn_unlink(cs_rpc_conn *conn, cs_rpc_call *c);
/* A call without a stream moves to another connection. */
void cs_rpc_conn_take(cs_rpc_conn *conn, cs_rpc_call *c);
/* Bytes that a reader holds back, and lets go: above a bound the connection's window stays closed until then. */
void cs_rpc_conn_hold(cs_rpc_conn *conn, size_t n);
void cs_rpc_conn_let_go(cs_rpc_conn *conn, size_t n);
/* What nghttp2 pulls a call's messages with. */
ssize_t cs_rpc_call_pull(nghttp2_session *h2, int32_t id, uint8_t *buf, size_t n, uint32_t *flags,
                         nghttp2_data_source *source, void *conn);

#endif
