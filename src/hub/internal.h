/* What the files of the hub share. Everything here belongs to the loop's thread, but for what `work` functions are
 * handed: the environment (struct cs_commit_env), and the request that they work on. */
#ifndef CS_HUB_INTERNAL_H
#define CS_HUB_INTERNAL_H

#include "base/arena.h"
#include "base/loop.h"
#include "crypto/session.h"
#include "hub/admin.h"
#include "hub/commit.h"
#include "hub/hub.h"
#include "hub/metrics.h"
#include "rpc/rpc.h"

#define CS_HUB_SERVICE "/clawsync.v1.SyncService/"
enum {
    CS_HUB_MAX_REQUEST = 1024 * 1024, /* bytes of any request but Push's */
    CS_HUB_MAX_REGISTER = CS_ENTRY_MAX + 4096,
    CS_HUB_MAX_PUSH = 24 * 1024 * 1024,  /* the largest batch with its hashes */
    CS_HUB_PAGE = 256 * 1024,            /* bytes of one streamed message, about */
    CS_HUB_STREAM_QUEUED = 1024 * 1024,  /* a stream's writer stops above */
    CS_HUB_PUSH_INFLIGHT = 64,           /* batches of one stream read and not yet answered */
    CS_HUB_PUSH_BYTES = 8 * 1024 * 1024, /* of the same; one batch is always let in */
    CS_HUB_WATCH_BUCKETS = 1024,
    CS_HUB_HOLDS = 256,
    CS_HUB_MAX_QUESTION = 4096 /* bytes of a request to health.c and reflection.c */
};

/* ---- background work that the hub waits for before it goes away ---- */

struct cs_job {
    struct cs_hub *hub;
    void (*run)(struct cs_job *j);  /* on a worker */
    void (*done)(struct cs_job *j); /* on the loop */
};
/* CS_OK, or an error: then neither is called. */
int cs_job_start(struct cs_hub *h, struct cs_job *j);
/* Something ended: if the hub is stopping and this was the last, it goes away. */
void cs_hub_settle(struct cs_hub *h);

/* ---- writer.c: collects writes for the next group commit ---- */

struct cs_writer {
    struct cs_job job;
    struct cs_write *first, **last; /* waiting, oldest first */
    struct cs_write **group;        /* owned; being committed */
    size_t ngroup, cap, most;
    uint64_t took_ns; /* the last commit, on the worker */
    bool busy;
};
void cs_writer_init(struct cs_hub *h, uint32_t most);        /* most: writes in a commit; 0: the usual number */
void cs_writer_submit(struct cs_hub *h, struct cs_write *w); /* w->done comes later, always */
bool cs_writer_idle(const struct cs_hub *h);
void cs_writer_fini(struct cs_hub *h);

/* ---- presence.c: when devices were last heard of, and how far they have read ---- */

struct cs_presence;
int cs_presence_new(struct cs_presence **out);
void cs_presence_free(struct cs_presence *p);
void cs_presence_seen(struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device);
/* now: the store is told at once, for somebody waits for it there. */
void cs_presence_pulled(struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device, uint64_t log_id,
                        uint64_t number, bool now);
int64_t cs_presence_time(const struct cs_hub *h, const struct cs_uuid *ws,
                         const struct cs_uuid *device); /* 0: unknown */
/* -1: it has read nothing since this process began */
int64_t cs_presence_pulled_to(const struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device);
uint64_t cs_presence_position(const struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device);
/* Everybody that was heard of since this process began, in no order; pulled: -1, nothing yet. */
typedef void cs_presence_visit(void *arg, const struct cs_uuid *ws, const struct cs_uuid *device, int64_t seen_ms,
                               int64_t pulled);
void cs_presence_each(const struct cs_hub *h, cs_presence_visit *visit, void *arg);
/* How far its devices have read counts no more: their log is gone. */
void cs_presence_forget(struct cs_hub *h, const struct cs_uuid *ws);
/* Hands what is newer than the store to the writer. */
void cs_presence_flush(struct cs_hub *h);

/* ---- answer_keys.c: the sessions' keys, in guarded memory, wiped with the last reference ---- */

struct cs_answer_keys;
struct cs_answer_key;
int cs_answer_keys_new(struct cs_answer_keys **out);
void cs_answer_keys_free(struct cs_answer_keys *t); /* NULL is fine */
/* NULL: out of memory. Given back by unref. */
struct cs_answer_key *cs_answer_key_new(struct cs_answer_keys *t, const uint8_t key[32]);
struct cs_answer_key *cs_answer_key_ref(struct cs_answer_key *k);
void cs_answer_key_unref(struct cs_answer_keys *t, struct cs_answer_key *k); /* NULL is fine */
const uint8_t *cs_answer_key_bytes(const struct cs_answer_key *k);

/* ---- sessions.c: who has opened one, and how much each address may try ---- */

struct cs_hub_session {
    struct cs_hub_session *next;          /* in its bucket */
    struct cs_hub_session *newer, *older; /* by use */
    uint8_t id[CS_SESSION_ID_LEN], transcript[32];
    struct cs_answer_key *answer_key; /* a reference */
    struct cs_counter_window window;
    uint64_t connection;
    uint64_t used_ms;
    bool proven; /* a call in it was, so its failures are mishaps */
    char address[64];
};
struct cs_sessions;
int cs_sessions_new(struct cs_hub *h, struct cs_sessions **out);
void cs_sessions_free(struct cs_sessions *t);
/* NULL: there is none. Lasts until the loop goes on. */
struct cs_hub_session *cs_sessions_find(struct cs_sessions *t, const uint8_t id[CS_SESSION_ID_LEN]);
int cs_sessions_add(struct cs_sessions *t, const struct cs_session *keys, uint64_t connection, const char *peer);
bool cs_sessions_may_open(struct cs_sessions *t, const char *peer); /* and takes one */
bool cs_sessions_may_try(struct cs_sessions *t, const char *peer);
/* Takes so many bytes from what the workspace may send. */
bool cs_sessions_may_push(struct cs_sessions *t, const struct cs_uuid *workspace, size_t bytes);
/* May this device ask to be let in, from there? Few of an address wait at a time. */
bool cs_sessions_may_offer(struct cs_sessions *t, const char *peer, const struct cs_uuid *workspace,
                           const struct cs_uuid *device);
void cs_sessions_failed(struct cs_sessions *t, const char *peer);

/* ---- gate.c: who calls, settled before the body is read ---- */

enum { CS_FOR_DEVICES = 1, CS_FOR_PAPERS = 2, CS_FOR_INVITES = 4, CS_FOR_WAITING = 8 };
struct cs_gated {
    const char *path;
    void (*start)(cs_rpc_call *c, void *service); /* as in struct cs_rpc_method, for calls that were let in */
    void (*half_close)(cs_rpc_call *c, void *service);
    void (*closed)(cs_rpc_call *c, void *service);
    unsigned allowed; /* CS_FOR_…: kinds of principals; 0: the method's own proof decides */
    bool open;        /* needs no session */
    bool unary;       /* its answer is in the MAC at its end */
    bool no_hash;     /* the proof leaves the body out */
};
/* Who calls, as far as it is proven. */
struct cs_caller {
    struct cs_uuid workspace, device;
    uint8_t session[CS_SESSION_ID_LEN], transcript[32];
    uint64_t counter;
};
void cs_gate_start(cs_rpc_call *c, void *service, const struct cs_gated *m);
void cs_gate_half_close(cs_rpc_call *c, void *service);
void cs_gate_closed(cs_rpc_call *c, void *service); /* every gated method's `closed` */
void cs_gate_set_user(cs_rpc_call *c, void *user);
void *cs_gate_user(const cs_rpc_call *c);
const struct cs_caller *cs_gate_caller(const cs_rpc_call *c);
/* Is msg what the proof is over? */
bool cs_gate_body(const cs_rpc_call *c, struct cs_slice msg);
/* The call's counter is used up now; false: it was already, or the session is gone: v says so. */
bool cs_gate_take(cs_rpc_call *c, struct cs_verdict *v);
/* A unary answer, before it is sent. */
void cs_gate_answer(cs_rpc_call *c, struct cs_slice msg);
/* cs_call_finish with the MAC of status and answer. */
void cs_gate_finish(cs_rpc_call *c, const struct cs_verdict *v, const struct cs_rpc_meta *more, size_t nmore);
/* The MAC of one answer on a Push stream. */
void cs_gate_push_mac(const cs_rpc_call *c, const Clawsync__V1__PushResponse *a, uint8_t out[CS_ANSWER_MAC_LEN]);
/* Ends every call of a device that was removed. */
void cs_gate_end(struct cs_hub *h, const struct cs_uuid *workspace, const struct cs_uuid *device);
/* The one refusal for everything that a stranger must not be able to tell apart. */
bool cs_refuse_stranger(struct cs_verdict *v);

/* ---- service.c: calls with one request message ---- */

struct cs_req;
struct cs_req_ops {
    const char *name;                   /* for logs */
    void (*work)(struct cs_req *r);     /* on a worker: parses, checks, reads; fills r->verdict and r->out */
    void (*done)(struct cs_req *r);     /* on the loop, when the verdict is OK; NULL: r->out is the answer */
    void (*writable)(struct cs_req *r); /* may be NULL */
    void (*closed)(struct cs_req *r);   /* on the loop: the call is over; work may still run; may be NULL */
    void (*fini)(struct cs_req *r);     /* on the loop: nothing runs any more; may be NULL */
    size_t state_bytes;
};
struct cs_req {
    struct cs_job job;
    struct cs_hub *hub;
    const struct cs_commit_env *env;
    const struct cs_req_ops *ops;
    cs_rpc_call *call; /* NULL: over */
    struct cs_caller who;
    struct cs_buf in; /* the request message */
    struct cs_arena arena;
    void *state; /* zeroed, ops->state_bytes, behind this struct */
    struct cs_verdict verdict;
    struct cs_buf out; /* the message to send */
    bool has_request, busy;
    unsigned holds; /* by writes in flight */
};
/* What a method's `start` does. */
void cs_req_start(cs_rpc_call *c, void *service, const struct cs_req_ops *ops);
void cs_req_message(cs_rpc_call *c, void *service, struct cs_slice msg);
void cs_req_half_close(cs_rpc_call *c, void *service);
void cs_req_writable(cs_rpc_call *c, void *service);
void cs_req_closed(cs_rpc_call *c, void *service);
/* Runs ops->work (again). */
void cs_req_work(struct cs_req *r);
/* Ends the call with the verdict. Fine when it is over already. */
void cs_req_finish(struct cs_req *r);
/* Ends the call with what a write was refused for. A race that was lost shows the head that won it, signed, in the
 * trailer `claw-head-bin` (head ‖ signature): a unary call that fails has no message. */
void cs_req_finish_refused(struct cs_req *r, const struct cs_write *w);
/* Sends r->out; false when the call is over or was ended because the message could not be queued. */
bool cs_req_send(struct cs_req *r);
/* The same for a large message of a stream: its memory goes along, uncopied, and r->out is empty behind it. */
bool cs_req_give(struct cs_req *r);
/* Keeps r alive while a write of it is in flight. */
void cs_req_hold(struct cs_req *r);
void cs_req_release(struct cs_req *r);

/* Ends a call with the status and its `error-kind` trailer, and with more trailers. */
void cs_call_finish(cs_rpc_call *c, const struct cs_verdict *v, const struct cs_rpc_meta *more, size_t nmore);

/* Parsing shared by the methods; false: the verdict says why. */
ProtobufCAllocator cs_pb_arena(struct cs_arena *a);
bool cs_parse_uuid(struct cs_uuid *out, const char *text, const char *what, struct cs_verdict *v);
/* The ids in a request, which must be those of whoever proved to be the caller. */
bool cs_parse_caller(struct cs_req *r, const char *workspace, const char *device);
bool cs_unparsable(struct cs_verdict *v, const struct cs_arena *a); /* nothing was unpacked into a */
bool cs_pb_pack(struct cs_buf *out, const ProtobufCMessage *m, struct cs_verdict *v);

/* A read: the head of a workspace and the principal that asks, or the common refusal. Ends with cs_store_rollback. */
enum cs_allow { CS_ALLOW_MEMBERS, CS_ALLOW_PRINCIPALS };
bool cs_read_begin(const struct cs_commit_env *env, const struct cs_uuid *ws, const struct cs_uuid *device,
                   enum cs_allow allow, cs_store_tx **tx, struct cs_store_head *head, struct cs_verdict *v);

/* ---- heads.c ---- */

/* head points into s. */
void cs_head_message(const struct cs_signed_head *s, Clawsync__V1__HubHead *out);
struct cs_cursor_text {
    char workspace[CS_UUID_TEXT], device[CS_UUID_TEXT], time[64];
};
/* The hub's cursor: the log's number and id, and the hub's time. Strings point into t. */
void cs_cursor_message(const struct cs_uuid *ws, const struct cs_uuid *device, uint64_t number, uint64_t log_id,
                       int64_t now_ms, struct cs_cursor_text *t, Clawsync__V1__SyncCursor *out);

/* ---- watch.c ---- */

struct cs_watcher;
/* The head of a workspace moved. */
void cs_watch_notify(struct cs_hub *h, const struct cs_uuid *ws, const struct cs_signed_head *head);
/* Conflicts were resolved: tells the other devices that watch, and are not behind in reading. */
void cs_watch_resolved(struct cs_hub *h, const struct cs_caller *by, const struct cs_signed_head *head,
                       Clawsync__V1__ConflictRecord **resolved, size_t n);
/* There may be something to reconcile in the workspace. */
void cs_watch_reconcile(struct cs_hub *h, const struct cs_uuid *ws);
/* There may be a snapshot to attest in the workspace. */
void cs_watch_snapshot(struct cs_hub *h, const struct cs_uuid *ws);
bool cs_watch_has(const struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device);
void cs_watch_stop(struct cs_hub *h); /* ends all */
/* A watcher, and what it knows. */
struct cs_watched {
    struct cs_uuid workspace, device;
    uint64_t log_id, number; /* of the head that it was told */
    uint32_t told_seq;       /* membership of the same */
    uint32_t member_seq;     /* up to which the device is known to be a member */
    bool removed;            /* it is no member any more */
};
/* Those of a workspace, NULL: of all; their number. Up to cap are written. */
size_t cs_watch_list(const struct cs_hub *h, const struct cs_uuid *ws, struct cs_watched *out, size_t cap);
/* The device was found to be a member up to there. */
void cs_watch_checked(struct cs_hub *h, const struct cs_watched *w);

/* ---- snapshot_rpc.c ---- */

/* What the workspace's log can do without goes, piece by piece, if it is time. */
void cs_snapshot_prune_soon(struct cs_hub *h, const struct cs_uuid *ws);

/* ---- others.c: other hubs on the same store ---- */

struct cs_others;
/* Does nothing where the store is this hub's alone. poll_ms: between two looks at everything; 0: twice a second. */
int cs_others_start(struct cs_hub *h, uint32_t poll_ms, struct cs_error *err);
void cs_others_stop(struct cs_hub *h);
void cs_others_free(struct cs_others *o); /* when the store is closed; NULL is fine */
/* What the others are told. */
void cs_others_moved(struct cs_hub *h, const struct cs_uuid *ws);     /* its head did */
void cs_others_reconcile(struct cs_hub *h, const struct cs_uuid *ws); /* as cs_watch_reconcile */
void cs_others_snapshot(struct cs_hub *h, const struct cs_uuid *ws);  /* as cs_watch_snapshot */
void cs_others_hold(struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device);
/* The store failed, and what was to be written may be there: our own watchers have to be looked at too. */
void cs_others_unsure(struct cs_hub *h, const struct cs_uuid *ws);

/* ---- push.c ---- */

struct cs_push;
/* Batches of the device are refused for 30 s, so that it cannot outrun its removal. */
void cs_hold(struct cs_hub *h, const struct cs_uuid *workspace, const struct cs_uuid *device);
struct cs_hold {
    struct cs_uuid workspace, device;
    uint64_t until_ms;
};
void cs_push_stop(struct cs_hub *h); /* no more batches; each stream ends when its answers are out */

/* ---- standing.c: calls that stay open for as long as the client likes ---- */

struct cs_standing {
    struct cs_standing *next, **link;
    struct cs_hub *hub;
    cs_rpc_call *call;
    void (*stop)(struct cs_standing *s); /* the hub stops: ends the call */
    bool asked, known;                   /* Health/Watch: its request came; asked for a service that is there */
};
/* NULL: there is no memory, and the call was ended. The call's user pointer is it. */
struct cs_standing *cs_standing_start(cs_rpc_call *c, struct cs_hub *h, void (*stop)(struct cs_standing *s));
void cs_standing_closed(cs_rpc_call *c, void *service);
void cs_standing_end(struct cs_standing *s); /* with UNAVAILABLE */
void cs_standing_stop(struct cs_hub *h);     /* ends all */

/* ---- health.c and reflection.c: what any gRPC tool may ask, without being a member of anything ---- */

void cs_health_check_message(cs_rpc_call *c, void *service, struct cs_slice msg);
void cs_health_half_close(cs_rpc_call *c, void *service);
void cs_health_watch_start(cs_rpc_call *c, void *service);
void cs_health_watch_message(cs_rpc_call *c, void *service, struct cs_slice msg);
void cs_health_watch_half_close(cs_rpc_call *c, void *service);
void cs_reflection_start(cs_rpc_call *c, void *service);
void cs_reflection_message(cs_rpc_call *c, void *service, struct cs_slice msg);
void cs_reflection_half_close(cs_rpc_call *c, void *service);
void cs_reflection_writable(cs_rpc_call *c, void *service);
/* Is that the full name of a service of the hub? */
bool cs_reflection_has_service(const char *name);

/* ---- the methods' starts ---- */

void cs_open_session_start(cs_rpc_call *c, void *service);
void cs_register_start(cs_rpc_call *c, void *service);
void cs_pull_start(cs_rpc_call *c, void *service);
void cs_watch_start(cs_rpc_call *c, void *service);
void cs_heartbeat_start(cs_rpc_call *c, void *service);
void cs_get_membership_start(cs_rpc_call *c, void *service);
void cs_append_membership_start(cs_rpc_call *c, void *service);
void cs_refill_start(cs_rpc_call *c, void *service);
void cs_pair_start(cs_rpc_call *c, void *service);
void cs_resolve_start(cs_rpc_call *c, void *service);
void cs_reconcile_start(cs_rpc_call *c, void *service);
void cs_reconcile_ranges_start(cs_rpc_call *c, void *service);
void cs_snapshot_start(cs_rpc_call *c, void *service);
void cs_push_start(cs_rpc_call *c, void *service);
void cs_push_message(cs_rpc_call *c, void *service, struct cs_slice msg);
void cs_push_half_close(cs_rpc_call *c, void *service);
void cs_push_writable(cs_rpc_call *c, void *service);
void cs_push_closed(cs_rpc_call *c, void *service);

struct cs_hub {
    struct cs_world *world;  /* borrowed */
    cs_loop *loop;           /* borrowed */
    struct cs_sign_key *key; /* guarded */
    struct cs_store store;
    cs_members *members;
    struct cs_commit_env env;
    cs_rpc_server *server;
    uint16_t port;
    struct cs_writer writer;
    struct cs_presence *presence;
    struct cs_answer_keys *answer_keys;
    struct cs_sessions *sessions;
    struct cs_gate *gates; /* open calls */
    uint64_t last_call;    /* its id */
    struct cs_hold holds[CS_HUB_HOLDS];
    size_t next_hold;
    bool behind_proxy, limit_loopback;
    cs_timer *flush_timer; /* presence to the store, now and then, and what is to be pruned */
    uint64_t flush_ms;
    struct cs_watcher *watchers[CS_HUB_WATCH_BUCKETS];
    size_t nwatchers;
    struct cs_others *others; /* NULL: nobody else is on the store */
    cs_metrics *metrics;
    struct cs_admin *admin; /* NULL: there is no admin port */
    struct cs_push *pushes; /* open Push streams */
    size_t push_bytes;      /* of batches read and not yet answered, all streams */
    struct cs_standing *standing;
    unsigned njobs;
    bool stopping, drained;
    cs_timer *stop_timer;
    void (*stopped)(void *arg);
    void *stopped_arg;
};

#endif
