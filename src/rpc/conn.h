/* One HTTP/2 connection, plain or TLS, of either side. Inside src/rpc only.
 *
 * Every entry from the loop is bracketed by cs_rpc_conn_enter and _leave: the outermost leave runs what calls are due,
 * sends what nghttp2 has, and takes the connection down if it failed. Nothing in between frees a connection or call, so
 * that users may end and close whatever they like in any callback. */
#ifndef CS_RPC_CONN_H
#define CS_RPC_CONN_H

#include <nghttp2/nghttp2.h>

#include "rpc/call.h"
#include "rpc/tls.h"

typedef struct cs_rpc_conn cs_rpc_conn;

/* What a connection tells its owner (a channel or a server), and asks it. */
struct cs_rpc_conn_ops {
    bool server;
    /* A request begins (server): a call that is inited on `conn`, or NULL. */
    cs_rpc_call *(*accept)(cs_rpc_conn *conn);
    void (*ready)(cs_rpc_conn *conn); /* HTTP/2 may be spoken: calls may be submitted */
    void (*up)(cs_rpc_conn *conn);    /* the peer's first SETTINGS arrived */
    void (*going)(cs_rpc_conn *conn); /* the peer's GOAWAY: no new calls here */
    void (*down)(cs_rpc_conn *conn);  /* it failed (conn->err); its calls are about to end */
    void (*gone)(cs_rpc_conn *conn);  /* every call was told; it is freed next: forget it */
};

struct cs_rpc_conn {
    const struct cs_rpc_conn_ops *ops;
    void *owner;              /* NULL: closed by its owner, told nothing more */
    cs_rpc_conn *prev, *next; /* the owner's list */
    cs_loop *loop;
    cs_stream *stream;
    char *peer;                  /* owned */
    cs_rpc_tls_session *tls;     /* NULL: plain */
    nghttp2_session *h2;         /* NULL until the transport stands */
    struct cs_rpc_fields fields; /* scratch for header blocks */
    struct cs_buf out;           /* scratch: frames on their way to the stream */
    cs_timer *turn;
    bool turn_set;
    cs_timer *connecting; /* until `up` */

    cs_rpc_call *calls;
    cs_rpc_call *dirty, *dirty_tail;
    cs_rpc_call *grave; /* ended inside a callback of theirs; freed with the connection (linked by `next`) */
    size_t ncalls;
    size_t held;       /* bytes that its calls hold back from their readers */
    size_t uncredited; /* received, not given back to the connection's window yet */
    uint32_t max_streams, max_header_list;

    int depth;
    bool up;               /* the peer's SETTINGS were seen */
    bool going;            /* takes no new calls */
    bool ended;            /* the peer's bytes are at an end */
    bool failed;           /* to be taken down by the outermost leave */
    bool dead;             /* its calls are told; to be freed by the outermost leave */
    struct cs_error err;   /* why it failed */
    struct cs_error cause; /* what HTTP/2 complained about, for that */
};

/* An idle connection: the owner sets `stream`, then starts it. tls NULL: plain. */
int cs_rpc_conn_new(cs_loop *l, const struct cs_rpc_conn_ops *ops, void *owner, const cs_rpc_tls_context *tls,
                    uint32_t max_streams, uint32_t max_header_list, cs_rpc_conn **out);
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
/* No new streams: GOAWAY. What runs goes on; the connection closes itself after the last. */
void cs_rpc_conn_go_away(cs_rpc_conn *conn);

/* Gives the stream up towards the peer and forgets it. */
void cs_rpc_conn_reset(cs_rpc_conn *conn, cs_rpc_call *c, uint32_t h2_error);
/* Bytes that a reader holds back, and lets go: above a bound the connection's window stays closed until then. */
void cs_rpc_conn_hold(cs_rpc_conn *conn, size_t n);
void cs_rpc_conn_let_go(cs_rpc_conn *conn, size_t n);
/* What nghttp2 pulls a call's messages with. */
ssize_t cs_rpc_call_pull(nghttp2_session *h2, int32_t id, uint8_t *buf, size_t n, uint32_t *flags,
                         nghttp2_data_source *source, void *conn);

#endif
