/* gRPC over HTTP/2 (h2c, or TLS with ALPN "h2"), client and server, on nghttp2 and a cs_loop; TLS by OpenSSL over
 * memory BIOs. Follows gRPC's PROTOCOL-HTTP2.md. Knows nothing of sync: messages are bytes.
 *
 * Threads: everything here belongs to its loop's thread. Callbacks run there, never from inside the call that causes
 * them, except that cs_rpc_call_* on a call may be used from inside any callback of that call.
 * Flow control: a message is acknowledged to the peer's window only when the message callback returned and reading is
 * on, so a reader that pauses bounds the memory of both sides; a writer watches cs_rpc_call_queued and `writable`. */
#ifndef CS_RPC_RPC_H
#define CS_RPC_RPC_H

#include "base/loop.h"

enum cs_rpc_status {
    CS_RPC_OK = 0,
    CS_RPC_CANCELLED = 1,
    CS_RPC_UNKNOWN = 2,
    CS_RPC_INVALID_ARGUMENT = 3,
    CS_RPC_DEADLINE_EXCEEDED = 4,
    CS_RPC_NOT_FOUND = 5,
    CS_RPC_ALREADY_EXISTS = 6,
    CS_RPC_PERMISSION_DENIED = 7,
    CS_RPC_RESOURCE_EXHAUSTED = 8,
    CS_RPC_FAILED_PRECONDITION = 9,
    CS_RPC_ABORTED = 10,
    CS_RPC_OUT_OF_RANGE = 11,
    CS_RPC_UNIMPLEMENTED = 12,
    CS_RPC_INTERNAL = 13,
    CS_RPC_UNAVAILABLE = 14,
    CS_RPC_DATA_LOSS = 15,
    CS_RPC_UNAUTHENTICATED = 16
};

/* "UNAVAILABLE" and so on; "UNKNOWN" for numbers outside the list. */
const char *cs_rpc_status_name(int status);

/* One metadata pair. Names are lower case; a name ending in "-bin" carries any bytes (base64 on the wire is done
 * here), other values are printable ASCII. Names beginning with "grpc-" or ":" are reserved and refused. */
struct cs_rpc_meta {
    const char *name;
    struct cs_slice value;
};
struct cs_rpc_metadata {
    const struct cs_rpc_meta *items;
    size_t n;
};
/* The first value of that name, or data == NULL. */
struct cs_slice cs_rpc_metadata_get(const struct cs_rpc_metadata *m, const char *name);

typedef struct cs_rpc_call cs_rpc_call;

/* ---- either side of a call ---- */

/* Queues one message (copied). CS_OK, CS_ENOMEM, CS_ELIMIT (over the size limit), CS_ECANCELED (the call is over). */
int cs_rpc_call_send(cs_rpc_call *c, struct cs_slice message);
/* Bytes queued here and not yet written to the connection. Writers of streams stop above some bound of their own
 * and go on in `writable`. */
size_t cs_rpc_call_queued(const cs_rpc_call *c);
/* Stops or resumes the delivery of messages. It is on at first. */
void cs_rpc_call_read(cs_rpc_call *c, bool on);
void cs_rpc_call_set_user(cs_rpc_call *c, void *user);
void *cs_rpc_call_user(const cs_rpc_call *c);

/* ---- client ---- */

struct cs_rpc_tls {
    const char *ca_file;    /* PEM; NULL: the system's certificates */
    const char *pin_sha256; /* 64 hex digits: SHA-256 of the server key's SubjectPublicKeyInfo; NULL: none */
};

struct cs_rpc_channel_options {
    const char *host; /* name or literal address; copied */
    uint16_t port;
    const struct cs_rpc_tls *tls; /* NULL: plaintext (h2c, prior knowledge); copied */
    uint32_t connect_timeout_ms;  /* until the HTTP/2 session stands; 0: 10000 */
    size_t max_message;           /* bytes of one received message; 0: 4 MiB */
    const char *user_agent;       /* put before ours; NULL: none */
    /* The connection came up (err NULL) or went down (every call on it has ended). The channel reconnects by itself
     * when the next call starts. May be NULL. */
    void (*state)(void *arg, const struct cs_error *err);
    void *arg;
};

typedef struct cs_rpc_channel cs_rpc_channel;
int cs_rpc_channel_new(cs_loop *l, const struct cs_rpc_channel_options *o, cs_rpc_channel **out, struct cs_error *err);
/* Ends every call with CANCELLED (their `done` runs before this returns) and closes the connection. NULL is fine. */
void cs_rpc_channel_close(cs_rpc_channel *ch);

struct cs_rpc_client_cb {
    /* Response metadata arrived. May be NULL. */
    void (*headers)(cs_rpc_call *c, void *arg, const struct cs_rpc_metadata *m);
    /* One response message; valid during the call. */
    void (*message)(cs_rpc_call *c, void *arg, struct cs_slice msg);
    /* The queue of this side went below its low-water mark. May be NULL. */
    void (*writable)(cs_rpc_call *c, void *arg);
    /* The call is over, and `c` invalid afterwards. Comes exactly once, for every call that cs_rpc_call_new made.
     * `text` is the decoded grpc-message, or our own sentence for a failure on this side ("cannot connect to …"). */
    void (*done)(cs_rpc_call *c, void *arg, int status, const char *text, const struct cs_rpc_metadata *trailers);
};

/* Starts a call of any of the four kinds. timeout_ms 0: no deadline. metadata is copied; NULL: none. */
int cs_rpc_call_new(cs_rpc_channel *ch, const char *path, const struct cs_rpc_metadata *m, uint32_t timeout_ms,
                    const struct cs_rpc_client_cb *cb, void *arg, cs_rpc_call **out, struct cs_error *err);
/* No more messages from this side. */
void cs_rpc_call_half_close(cs_rpc_call *c);
/* Gives the call up: RST_STREAM CANCEL; `done` comes with CANCELLED. */
void cs_rpc_call_cancel(cs_rpc_call *c);

/* ---- server ---- */

struct cs_rpc_method {
    const char *path; /* "/package.Service/Method" */
    /* Headers arrived. A handler that wants nothing of the call may finish it at once. */
    void (*start)(cs_rpc_call *c, void *service);
    /* One request message; valid during the call. */
    void (*message)(cs_rpc_call *c, void *service, struct cs_slice msg);
    /* The client sends no more. */
    void (*half_close)(cs_rpc_call *c, void *service);
    /* The queue went below its low-water mark. May be NULL. */
    void (*writable)(cs_rpc_call *c, void *service);
    /* The call is over: finished by us, cancelled, past its deadline or its connection lost. Comes exactly once after
     * start; `c` is invalid afterwards. Free the user pointer here. May be NULL. */
    void (*closed)(cs_rpc_call *c, void *service);
    size_t max_message; /* bytes; 0: the server's */
};

struct cs_rpc_server_options {
    const char *host;
    uint16_t port;         /* 0 picks one */
    const char *cert_file; /* PEM chain and key, both or neither: TLS 1.3 */
    const char *key_file;
    const struct cs_rpc_method *methods; /* an array that outlives the server; others: UNIMPLEMENTED */
    size_t nmethods;
    void *service;
    size_t max_message;       /* bytes of one received message; 0: 4 MiB */
    uint32_t max_streams;     /* per connection; 0: 100 */
    uint32_t max_header_list; /* bytes; 0: 16 KiB */
};

typedef struct cs_rpc_server cs_rpc_server;
int cs_rpc_server_new(cs_loop *l, const struct cs_rpc_server_options *o, cs_rpc_server **out, struct cs_error *err);
uint16_t cs_rpc_server_port(const cs_rpc_server *s);
/* GOAWAY to all, no new calls; `drained` comes when the running calls have ended or after timeout_ms, when what is
 * left is cut. */
void cs_rpc_server_drain(cs_rpc_server *s, uint32_t timeout_ms, void (*drained)(void *arg), void *arg);
/* Cuts every connection (the calls' `closed` run before this returns) and frees the server. NULL is fine. */
void cs_rpc_server_close(cs_rpc_server *s);

const char *cs_rpc_call_peer(const cs_rpc_call *c);                       /* "address:port" of the connection */
const struct cs_rpc_metadata *cs_rpc_call_metadata(const cs_rpc_call *c); /* the request's */
/* The time left, in ms; UINT32_MAX: no deadline. */
uint32_t cs_rpc_call_time_left(const cs_rpc_call *c);
/* Ends the call after what is queued. text may be NULL; trailers are copied; NULL: none. A second finish does nothing.
 */
void cs_rpc_call_finish(cs_rpc_call *c, int status, const char *text, const struct cs_rpc_metadata *trailers);

#endif
