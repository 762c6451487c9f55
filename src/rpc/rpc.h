/* gRPC over HTTP/2 (h2c by prior knowledge, or TLS 1.3 with ALPN "h2"), client and server, on nghttp2 and a cs_loop;
 * TLS by OpenSSL over memory BIOs, compression by zlib. Follows gRPC's PROTOCOL-HTTP2.md, compression.md and
 * http-grpc-status-mapping.md. Messages are bytes: what is in them is the user's business.
 *
 * Threads: a channel, a server and their calls belong to the thread of their loop; no function here may be called from
 * another one. Callbacks run on that thread, never from inside the call that causes them, with two exceptions that say
 * so: cs_rpc_channel_close and cs_rpc_server_close. From inside any callback anything may be called, closing the
 * channel or server included.
 *
 * Ownership: what a function takes, it copies, unless it says "borrowed". What a callback is given lasts until the
 * callback returns, unless it says more. A call is freed by the library: the client's after `done`, the server's after
 * `closed`; its pointer is not to be used afterwards.
 *
 * Errors: functions return CS_OK or a negative CS_E… code and fill in `err` (may be NULL) with a sentence for people.
 * What goes wrong with a call after it has begun comes as its status, once, in `done`.
 *
 * Units: sizes in bytes, times in milliseconds. In options 0 is the default that stands beside the field, and
 * CS_RPC_NEVER switches a time limit off.
 *
 * Flow control: a message is given back to the peer's window only when the message callback has returned and reading
 * is on, so a reader that pauses (cs_rpc_call_read) bounds the memory of both sides; a writer watches
 * cs_rpc_call_queued, stops above a bound of its own and goes on in `writable`. */
#ifndef CS_RPC_RPC_H
#define CS_RPC_RPC_H

#include "base/loop.h"

#define CS_RPC_NEVER UINT32_MAX

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

/* "UNAVAILABLE" and so on; "UNKNOWN" for numbers outside the list. A constant text. Any thread. */
const char *cs_rpc_status_name(int status);

/* One metadata pair. Names are lower case letters, digits, '-', '_' and '.'; a name ending in "-bin" carries any bytes
 * (base64 on the wire is done here), other values are printable ASCII. Names beginning with ":" or "grpc-" are
 * reserved: refused with CS_EINVAL when sent, not shown when received; grpc-status-details-bin is the one exception, as
 * it belongs to users. Refused too are those that HTTP and this library set (te, content-type, user-agent, host …). */
struct cs_rpc_meta {
    const char *name;
    struct cs_slice value;
};
struct cs_rpc_metadata {
    const struct cs_rpc_meta *items;
    size_t n;
};
/* The first value of that name, a view that lasts as long as m; data == NULL: there is none. m may be NULL. */
struct cs_slice cs_rpc_metadata_get(const struct cs_rpc_metadata *m, const char *name);

typedef struct cs_rpc_call cs_rpc_call;

/* ---- either side of a call ---- */

/* Queues one message.
 * Results: CS_OK; CS_ECANCELED: the call is over or this side of it ended, the message goes nowhere; CS_ELIMIT: more
 * than 256 MiB; CS_ENOMEM: nothing was queued, and the call can go on. A retry helps only with the last.
 * That it returns CS_OK says nothing about the peer: only the status at the call's end does. */
int cs_rpc_call_send(cs_rpc_call *c, struct cs_slice message);

/* The same without copying the message: its bytes are lent, and stay as they are until release(arg), which comes once,
 * when they are sent or the call is over, at the latest before the call's last callback has returned. It may come from
 * inside any function of this library, this one included, and calls none itself. NULL: they outlast the call. When
 * this returns an error, nothing was lent and release is not called. */
int cs_rpc_call_lend(cs_rpc_call *c, struct cs_slice message, void (*release)(void *arg), void *arg);

/* Whether the messages that are sent from now on are compressed with gzip, for each of them that gets smaller by it.
 * Off at first. To be chosen anew before any message, so that what is secret beside what an attacker chose can be left
 * alone. Messages that were queued before are not touched.
 * Results: CS_OK; CS_EUNSUPPORTED: the call cannot carry compressed messages, and sends them as they are. A client's
 * can when its options said `compress`; a server's when the client says that it takes gzip and compression was asked
 * for before the response's headers went out (with the first message, or cs_rpc_call_headers). */
int cs_rpc_call_compress(cs_rpc_call *c, bool on);

/* Bytes queued by this side and not yet handed to the connection, framing included. */
size_t cs_rpc_call_queued(const cs_rpc_call *c);

/* Stops or resumes the delivery of messages; on at first. What has arrived meanwhile is kept, at most one window's
 * worth (1 MiB, or 4 MiB once the call has taken 128 KiB), and the peer is held up. The status of a client's call waits
 * with them: `done` comes after the last message.
 */
void cs_rpc_call_read(cs_rpc_call *c, bool on);

/* A pointer of the user's, borrowed; NULL at first. */
void cs_rpc_call_set_user(cs_rpc_call *c, void *user);
void *cs_rpc_call_user(const cs_rpc_call *c);

/* "address:port" of the other end of the connection, "[address]:port" for IPv6, "" while there is none. Lasts as long
 * as the call. */
const char *cs_rpc_call_peer(const cs_rpc_call *c);

/* A number of the connection that no other one of this server has or will have; 0: a client's call. */
uint64_t cs_rpc_call_connection(const cs_rpc_call *c);

/* The time until the deadline, 0 when it has passed; UINT32_MAX: there is none. */
uint32_t cs_rpc_call_time_left(const cs_rpc_call *c);

/* ---- client ---- */

struct cs_rpc_tls {
    const char *ca_file;    /* PEM; NULL: the system's certificates */
    const char *pin_sha256; /* 64 hex digits: SHA-256 of the server key's SubjectPublicKeyInfo; NULL: none */
};

/* Zero but for host and port is a good choice. */
struct cs_rpc_channel_options {
    const char *host; /* name or literal address */
    uint16_t port;
    const struct cs_rpc_tls *tls; /* NULL: plaintext (h2c, prior knowledge) */
    uint32_t connect_timeout_ms;  /* until the HTTP/2 session stands; 0: 10000 */
    size_t max_message;           /* of one received message, compressed or not; 0: 4 MiB */
    const char *user_agent;       /* put before ours, "claw-sync-c/VERSION"; printable ASCII; NULL: none */
    /* Connections at most, 0: 4. Another one is opened when each there is carries as many calls as its server takes
     * (SETTINGS_MAX_CONCURRENT_STREAMS); at the maximum further calls wait for one that ends. */
    uint32_t max_connections;
    /* A PING goes out after so long without a byte from the server; without an answer the connection and its calls end
     * with UNAVAILABLE. 0: no pings. Servers hang up on clients that ping more often than they allow; this one then
     * doubles its interval. */
    uint32_t keepalive_ms;
    uint32_t keepalive_timeout_ms; /* 0: 20000 */
    bool keepalive_idle;           /* also while no call runs */
    /* Calls that wait for a server: time until the second attempt to connect, growing by 1.6 with each up to the
     * maximum. 0: 1000 and 120000. */
    uint32_t backoff_ms, backoff_max_ms;
    /* A connection is there (err NULL) after there was none, or the last one was lost, or could not be made (err, with
     * every call on it told already). The channel connects again by itself when the next call starts. May be NULL. */
    void (*state)(void *arg, const struct cs_error *err);
    void *arg; /* borrowed */
};

typedef struct cs_rpc_channel cs_rpc_channel;

/* Makes a channel; it connects when the first call starts. CS_EINVAL: an option, or a CA file, is no good; CS_ENOMEM.
 * The loop is borrowed and outlives the channel. */
int cs_rpc_channel_new(cs_loop *l, const struct cs_rpc_channel_options *o, cs_rpc_channel **out, struct cs_error *err);

/* Ends every call with CANCELLED (their `done` run before this returns) and closes the connections; frees the channel.
 * NULL is fine. */
void cs_rpc_channel_close(cs_rpc_channel *ch);

/* What happens to a client's call; `arg` is what the call was made with. */
struct cs_rpc_client_cb {
    /* The response's leading metadata arrived; not for an answer that is nothing but a status. May be NULL. */
    void (*headers)(cs_rpc_call *c, void *arg, const struct cs_rpc_metadata *m);
    /* One response message. May be NULL. */
    void (*message)(cs_rpc_call *c, void *arg, struct cs_slice msg);
    /* What is queued fell below 64 KiB, or to nothing. May be NULL. */
    void (*writable)(cs_rpc_call *c, void *arg);
    /* The call is over, and `c` invalid afterwards. Comes exactly once, for every call that was made. `text` is the
     * decoded grpc-message, or our own sentence for a failure on this side ("cannot reach http://…"). */
    void (*done)(cs_rpc_call *c, void *arg, int status, const char *text, const struct cs_rpc_metadata *trailers);
};

struct cs_rpc_call_options {
    const char *path;                       /* "/package.Service/Method" */
    const struct cs_rpc_metadata *metadata; /* NULL: none */
    uint32_t timeout_ms;                    /* the deadline, which the server learns; 0: none */
    /* A call that finds no server waits for one, to its deadline if there is one, and the channel goes on trying;
     * otherwise the first attempt that fails ends it with UNAVAILABLE. A call that was sent is never sent again. */
    bool wait_for_ready;
    bool compress; /* messages may be compressed, and are until cs_rpc_call_compress says otherwise */
};

/* Starts a call of any of the four kinds: messages follow by cs_rpc_call_send, then cs_rpc_call_half_close.
 * Results: CS_OK, then `done` comes once; CS_EINVAL: the path or a metadata pair cannot be sent; CS_ENOMEM: nothing
 * was started, no callback comes. cb and arg are borrowed until `done`; *cb is copied. */
int cs_rpc_call_open(cs_rpc_channel *ch, const struct cs_rpc_call_options *o, const struct cs_rpc_client_cb *cb,
                     void *arg, cs_rpc_call **out, struct cs_error *err);
/* The same with the options that most calls need. */
int cs_rpc_call_new(cs_rpc_channel *ch, const char *path, const struct cs_rpc_metadata *m, uint32_t timeout_ms,
                    const struct cs_rpc_client_cb *cb, void *arg, cs_rpc_call **out, struct cs_error *err);

/* No more messages from this side: the end follows what is queued. A second time does nothing. */
void cs_rpc_call_half_close(cs_rpc_call *c);

/* Gives the call up: RST_STREAM CANCEL to the server; `done` comes with CANCELLED. Does nothing to a call that is over.
 */
void cs_rpc_call_cancel(cs_rpc_call *c);

/* Inside `done`: how long the server asks to wait before this is tried again (grpc-retry-pushback-ms). */
enum { CS_RPC_PUSHBACK_NONE = -1, CS_RPC_PUSHBACK_STOP = -2 };
/* A number of ms; _NONE: it said nothing; _STOP: it asks not to try again. */
int64_t cs_rpc_call_pushback(const cs_rpc_call *c);

/* Inside `done`: the server has certainly done nothing with the call (it was never sent, or refused unread), so that
 * even one that must not happen twice may be tried again. */
bool cs_rpc_call_unprocessed(const cs_rpc_call *c);

/* ---- server ---- */

/* A method and what handles its calls; `service` is the server's. */
struct cs_rpc_method {
    const char *path; /* "/package.Service/Method"; borrowed */
    /* The request's headers arrived. A handler that wants nothing of the call may finish it at once. May be NULL. */
    void (*start)(cs_rpc_call *c, void *service);
    /* One request message. May be NULL. */
    void (*message)(cs_rpc_call *c, void *service, struct cs_slice msg);
    /* The client sends no more. May be NULL. */
    void (*half_close)(cs_rpc_call *c, void *service);
    /* What is queued fell below 64 KiB, or to nothing. May be NULL. */
    void (*writable)(cs_rpc_call *c, void *service);
    /* The call is over: finished by us, cancelled, past its deadline or its connection lost. Comes exactly once after
     * start; `c` is invalid afterwards. Free the user pointer here. May be NULL. */
    void (*closed)(cs_rpc_call *c, void *service);
    size_t max_message; /* 0: the server's */
};

/* Zero but for the host and the methods is a good choice: every limit has a default that a public server can live
 * with. A connection that passes one is sent a GOAWAY with ENHANCE_YOUR_CALM; calls on others notice nothing. */
struct cs_rpc_server_options {
    const char *host;      /* name or literal address to listen on */
    uint16_t port;         /* 0 picks one */
    int listen_fd;         /* above 0: a socket that listens already, instead of both; the server's from then on */
    const char *cert_file; /* PEM chain and key, both or neither: TLS 1.3 */
    const char *key_file;
    const struct cs_rpc_method *methods; /* borrowed, as is service; calls of others end with UNIMPLEMENTED */
    size_t nmethods;
    void *service;

    size_t max_message;       /* of one received message, compressed or not; 0: 4 MiB */
    uint32_t max_streams;     /* calls at once per connection; 0: 64 */
    uint32_t max_header_list; /* of a request's metadata, as HTTP/2 counts it; 0: 16 KiB */

    /* Connections at once; 0: 4096. At the maximum a new one takes the place of the oldest that has not spoken HTTP/2
     * yet; if there is none, it is closed. */
    uint32_t max_connections;
    /* Of those, from one address (of IPv6: one network of 64 bits); 0: 256. Further ones are closed at once. A proxy
     * in front makes all clients one address. */
    uint32_t max_per_address;

    uint32_t handshake_ms; /* from the connection to the client's first SETTINGS; 0: 10000 */
    uint32_t header_ms;    /* from the first byte of a header block to its last; 0: 10000 */
    uint32_t idle_ms;      /* without a call, until the connection is drained and closed; 0: 900000 */
    uint32_t stall_ms;     /* a client takes no byte of what waits in the socket; 0: 60000 */
    /* A call's messages wait for a client that answers pings but takes none of them; the call is reset. A client may
     * have reasons to pause, and how much waits is the handler's to bound. 0: 7200000 */
    uint32_t stream_stall_ms;

    uint32_t keepalive_ms;         /* without a byte from the client, until a PING asks for one; 0: 300000 */
    uint32_t keepalive_timeout_ms; /* until the answer; 0: 20000 */
    /* Clients may ping so often, with a call running; the third time that one comes too soon ends the connection
     * ("too_many_pings"). What we send (headers, messages, windows) starts the count anew. 0: 300000 */
    uint32_t min_ping_ms;
    /* The same without a call running. 0: 7200000 */
    uint32_t min_ping_idle_ms;

    /* Frames that cost us something and carry nothing (PING, SETTINGS, PRIORITY, empty DATA, further pieces of a header
     * block, types that HTTP/2 does not know, windows beyond what our messages used up, RST_STREAM, resets that the
     * client provokes): so many at once, and so many per second. Frames with messages or headers that we send earn
     * credit. 0: 500 and 100. Whatever these say, a header block has at most nine pieces. */
    uint32_t flood_burst, flood_rate;

    /* Calls begin unadmitted: until the handler says cs_rpc_call_admit, a call may take up at most 4 KiB of memory.
     * Its metadata then lasts until `start` returns, and of its messages at most 1.5 KiB are taken in; a larger one
     * ends it with RESOURCE_EXHAUSTED. Without this option every call is admitted from the beginning. */
    bool admission;
    uint32_t admit_ms; /* until a call that is not admitted ends with UNAUTHENTICATED; 0: 10000 */
};

typedef struct cs_rpc_server cs_rpc_server;

/* Listens. CS_EINVAL: an option, certificate or key is no good; CS_EIO or CS_EUNAVAILABLE: it cannot listen there;
 * CS_ENOMEM. The loop is borrowed and outlives the server. */
int cs_rpc_server_new(cs_loop *l, const struct cs_rpc_server_options *o, cs_rpc_server **out, struct cs_error *err);

uint16_t cs_rpc_server_port(const cs_rpc_server *s);

/* A renewed certificate for the connections that come from now on; those that are there go on with theirs. CS_EINVAL:
 * it or its key is no good, or the server has no TLS: nothing changed. */
int cs_rpc_server_certificate(cs_rpc_server *s, const char *cert_file, const char *key_file, struct cs_error *err);

struct cs_rpc_server_stats {
    size_t connections; /* now */
    size_t calls;       /* now, until `closed` has returned and the stream is gone */
    uint64_t accepted;  /* connections, ever */
    uint64_t refused;   /* connections over a limit, ever */
    uint64_t calmed;    /* connections ended for passing a limit of theirs, ever */
};
void cs_rpc_server_stats(const cs_rpc_server *s, struct cs_rpc_server_stats *out);

/* Goes out of service without a lost call: closes the listener and tells every client in two steps (GOAWAY that still
 * takes the calls on their way, then, a round trip later, one that takes none). `drained` comes once, when the running
 * calls have ended, or after timeout_ms, when what is left was cut. The server is to be closed afterwards. A second
 * time does nothing. */
void cs_rpc_server_drain(cs_rpc_server *s, uint32_t timeout_ms, void (*drained)(void *arg), void *arg);

/* Cuts every connection (the calls' `closed` run before this returns) and frees the server. NULL is fine. */
void cs_rpc_server_close(cs_rpc_server *s);

/* The request's metadata; lasts as long as the call (see `admission` for the exception). */
const struct cs_rpc_metadata *cs_rpc_call_metadata(const cs_rpc_call *c);

/* The call comes from someone who may use memory: lifts the bounds of `admission`. A second time does nothing. */
void cs_rpc_call_admit(cs_rpc_call *c);

/* Sends the response's leading metadata, at most once and before the first message; without it they are empty.
 * CS_OK; CS_EINVAL: a pair cannot be sent; CS_ECANCELED: too late, or the call is over; CS_ENOMEM. */
int cs_rpc_call_headers(cs_rpc_call *c, const struct cs_rpc_metadata *m, struct cs_error *err);

/* Asks the client to wait ms before it tries again, or with a negative number not to. Goes out with the status, so
 * before cs_rpc_call_finish. */
void cs_rpc_call_set_pushback(cs_rpc_call *c, int32_t ms);

/* Ends the call after what is queued. text may be NULL or any UTF-8; trailers NULL: none. Trailers that cannot be sent
 * turn the status into INTERNAL. What the client still sends is not delivered any more. A second finish does nothing.
 */
void cs_rpc_call_finish(cs_rpc_call *c, int status, const char *text, const struct cs_rpc_metadata *trailers);

#endif
