/* The inside of an engine. One thread runs the loop; what touches the replica, the keystore, the membership or packs
 * batches runs in jobs on a worker, one at a time. So every field belongs to one of four, as marked:
 *   [set]  written before the thread starts, then only read        [loop] the loop's thread
 *   [job]  the job that runs, and the loop while none runs          [lock] under `lock`
 * Work on the hub is a step: it is started on the loop, ends with its `done` on the loop, and one runs at a time. */
#ifndef CS_ENGINE_ENGINE_H
#define CS_ENGINE_ENGINE_H

#include <pthread.h>

#include "base/loop.h"
#include "clawsync/v1/sync.pb-c.h"
#include "crypto/head.h"
#include "crypto/keystore.h"
#include "crypto/session.h"
#include "crypto/snapshot.h"
#include "delta/pack.h"
#include "engine/checkpoint.h"
#include "engine/config.h"
#include "engine/standing.h"
#include "identity/membership.h"
#include "identity/pair.h"
#include "queue/queue.h"
#include "replica/review.h"
#include "rpc/rpc.h"

struct clawsync_engine;

/* ---- jobs (engine.c) ---- */

struct cs_job {
    void (*run)(struct clawsync_engine *e, struct cs_job *j);  /* on a worker */
    void (*done)(struct clawsync_engine *e, struct cs_job *j); /* on the loop */
    struct cs_job *next;
    int rc;
    struct cs_error err; /* of a failed run */
};
void cs_engine_job(struct clawsync_engine *e, struct cs_job *j);

/* ---- calls to the hub (hub_client.c) ---- */

struct cs_message {
    struct cs_message *next;
    size_t len;
    uint8_t data[];
};
struct cs_messages {
    struct cs_message *first, *last;
    size_t bytes;
};
void cs_messages_push(struct cs_messages *q, struct cs_message *m);
struct cs_message *cs_message_new(size_t len); /* NULL: out of memory */
void cs_messages_free(struct cs_messages *q);

/* A session with the hub (docs/protocol.md, authentication). Counted, as calls outlive it. Guarded. */
struct cs_hub_keys {
    struct cs_session keys;
    uint64_t counter; /* of the newest call */
    unsigned refs;
};

/* A call of any kind: what came is queued, `on` is told of each message and of the end. It waits for a session if there
 * is none, and a call with one request opens one and goes once more when the hub has forgotten it. */
struct cs_hub_call {
    struct clawsync_engine *e;
    cs_rpc_call *call; /* NULL: not running, or waiting */
    const char *method;
    const struct cs_device_keys *as; /* who calls; NULL: this device. Borrowed until the end */
    bool (*compose)(struct cs_hub_call *c, const struct cs_session *s, uint64_t counter, struct cs_buf *out);
    struct cs_buf request;   /* kept, so that it can be sent again */
    struct cs_messages late; /* sent while it waited */
    bool has_request, half_close, retried;
    bool forgotten; /* the hub did not know the session, and the call was not made again */
    bool waiting;   /* for a session */
    uint64_t attempt;
    struct cs_hub_call *next;
    struct cs_hub_keys *keys;
    uint64_t counter;
    struct cs_messages in;
    cs_timer *idle; /* runs out when the hub says nothing for request_timeout_secs */
    bool ended, paused, timed_out, no_memory;
    int rc;              /* of an ended call */
    struct cs_error err; /* the same as a sentence */
    int status;          /* gRPC's */
    void (*on)(struct cs_hub_call *c);
};
/* Begins a call with its first message (NULL: none yet); half_close: it is the only one. CS_OK: `on` will be called. */
int cs_hub_call_start(struct clawsync_engine *e, struct cs_hub_call *c, const char *method, const ProtobufCMessage *m,
                      bool half_close, void (*on)(struct cs_hub_call *c), struct cs_error *err);
/* The same for another principal than this device. */
int cs_hub_call_start_as(struct clawsync_engine *e, struct cs_hub_call *c, const struct cs_device_keys *as,
                         const char *method, const ProtobufCMessage *m, void (*on)(struct cs_hub_call *c),
                         struct cs_error *err);
/* The same with a request that can be made only when session and counter are known, and a proof that is in it. */
int cs_hub_call_compose(struct clawsync_engine *e, struct cs_hub_call *c, const char *method,
                        bool (*compose)(struct cs_hub_call *c, const struct cs_session *s, uint64_t counter,
                                        struct cs_buf *out),
                        void (*on)(struct cs_hub_call *c), struct cs_error *err);
bool cs_hub_call_running(const struct cs_hub_call *c);
int cs_hub_call_send(struct cs_hub_call *c, struct cs_slice message, struct cs_error *err);
void cs_hub_call_idle(struct cs_hub_call *c, bool waiting); /* starts the clock on the hub, or stops it */
void cs_hub_call_pause(struct cs_hub_call *c, bool pause);
void cs_hub_call_cancel(struct cs_hub_call *c); /* nothing is called back any more; what came is dropped */
void cs_hub_call_free(struct cs_hub_call *c);
void cs_hub_disconnect(struct clawsync_engine *e);
int cs_hub_channel(struct clawsync_engine *e, struct cs_error *err); /* there is one, from now on */
int cs_hub_channel_to(struct clawsync_engine *e, const struct cs_endpoint *hub,
                      void (*state)(void *arg, const struct cs_error *err), cs_rpc_channel **out, struct cs_error *err);

/* failover.c: which of several hubs is used. All [loop]. */
struct cs_failover {
    size_t at;               /* among e->hubs */
    size_t tried;            /* hubs that failed, one after the other, since one served */
    bool moved;              /* `channel` is another one's */
    bool asking;             /* the first one is asked, or `timer` runs until it is */
    bool serves, back;       /* it answered that it serves; we return when nothing runs */
    cs_timer *timer;         /* until it is asked again; NULL: there is one hub only */
    cs_rpc_channel *channel; /* to ask it, with this call */
    cs_rpc_call *probe;
};
int cs_failover_open(struct clawsync_engine *e, struct cs_error *err);
void cs_failover_close(struct clawsync_engine *e);
void cs_failover_on_channel(struct clawsync_engine *e, bool up);
/* A round failed for want of a hub. True: there is another one to try, at once. */
bool cs_failover_next(struct clawsync_engine *e);
void cs_failover_connected(struct clawsync_engine *e); /* a round succeeded */
/* Before a call: a channel to a hub that is not the one is closed. No other call runs on it. */
void cs_failover_follow(struct clawsync_engine *e);
bool cs_failover_go_back(struct clawsync_engine *e); /* true: the next call goes to the first hub again */
/* hub_client.c, for hub_session.c: the session is there, or could not be opened. */
int cs_hub_call_begin(struct cs_hub_call *c, struct cs_error *err);
void cs_hub_call_fail(struct cs_hub_call *c, int status, const struct cs_error *err);
/* "cannot reach hub URL: why; …", the channel's own beginning taken off why. */
void cs_hub_out_of_reach(struct cs_error *err, int rc, const char *url, const char *why);

/* hub_session.c. All [loop]. */
struct cs_hub_session {
    struct cs_hub_keys *keys; /* NULL: none is open */
    cs_rpc_call *opening;
    struct cs_session_hello *hello; /* guarded */
    cs_timer *idle;
    struct cs_hub_call *waiting;
    uint64_t attempt;
    int rc; /* of the opening */
    struct cs_error err;
    bool timed_out;
    bool pinned;
    uint8_t pin[32]; /* the hub's key: from the keystore, or of the first session */
    bool has_offered;
    uint8_t offered[32]; /* another key, that the hub proved to have */
};
int cs_hub_session_init(struct clawsync_engine *e, struct cs_error *err);
void cs_hub_session_fini(struct clawsync_engine *e);
int cs_hub_session_want(struct clawsync_engine *e, struct cs_hub_call *c, struct cs_error *err); /* c waits */
void cs_hub_session_unwant(struct clawsync_engine *e, struct cs_hub_call *c);
void cs_hub_session_drop(struct clawsync_engine *e, const struct cs_hub_keys *keys); /* if it is this one; NULL: any */
struct cs_hub_keys *cs_hub_keys_ref(struct cs_hub_keys *k);
void cs_hub_keys_unref(struct cs_hub_keys *k); /* NULL is fine */

ProtobufCAllocator cs_engine_pb(struct cs_arena *a);
bool cs_engine_pb_pack(struct cs_buf *out, const ProtobufCMessage *m);
/* Nothing was unpacked into a: what came from the hub is no such message, or memory was out. */
int cs_engine_unreadable(const struct cs_arena *a, const char *what, struct cs_error *err);
/* Checks a head's signature and log against what is pinned and seen, and keeps it when it is the newest. In a job.
 * CS_EHUB with the finding's name in front. */
int cs_engine_head(struct clawsync_engine *e, const Clawsync__V1__HubHead *h, struct cs_hub_head *out,
                   struct cs_error *err);
/* Its signature alone. */
int cs_engine_head_signed(struct clawsync_engine *e, const Clawsync__V1__HubHead *h, struct cs_hub_head *out,
                          struct cs_error *err);
/* The newest head outlives the process, with the rows: a hub that goes back is noticed by the next run, too. */
int cs_engine_head_open(struct clawsync_engine *e, struct cs_error *err);
int cs_engine_head_save(struct clawsync_engine *e, struct cs_error *err);
int cs_engine_no_head(struct cs_error *err);

/* The newest positions go to the keystore, for a database that is lost or restored from an older copy. In a job, or
 * when none runs any more. */
int cs_engine_save_positions(struct clawsync_engine *e, struct cs_error *err);

/* Seals a slice, in a job; *more: go on with another job. seal.c */
int cs_engine_seal(struct clawsync_engine *e, bool *more, struct cs_error *err);
struct cs_sealing {
    uint64_t count, total; /* rows; total 0: this is no long work */
};

/* ---- steps ---- */

typedef void (*cs_step_done)(struct clawsync_engine *e, int rc, const struct cs_error *err);

/* register.c: registers what waits to be registered, then brings the membership log up to date. */
void cs_step_member(struct clawsync_engine *e, cs_step_done done);
bool cs_is_member(const struct clawsync_engine *e); /* [job] */
/* A refusal that is for whomever the hub does not know: of a member it says that the hub lost the workspace, or went
 * back to before the member came. While no job runs. */
void cs_hub_lost(struct cs_hub_call *c);
struct cs_member_step {
    struct cs_job job;
    struct cs_hub_call call;
    struct cs_messages taken;
    struct cs_arena arena;
    struct cs_buf entry; /* what is being registered; empty: nothing */
    bool created;        /* the entry was a genesis, and the hub took it */
    uint32_t before;     /* the membership's last entry before what is folded in */
    cs_step_done done;
};
/* Folds the entries of the messages of GetMembership in; with *head the last head. In a job. settle: NULL, or what is
 * done between the entries and the head. */
int cs_member_fold(struct clawsync_engine *e, struct cs_messages *in, struct cs_arena *a, struct cs_hub_head *head,
                   bool check_head, int (*settle)(struct clawsync_engine *e, struct cs_error *err),
                   struct cs_error *err);

/* pull.c */
void cs_step_pull(struct clawsync_engine *e, cs_step_done done);
struct cs_pull_step {
    struct cs_job job;
    bool checked, sealed;
    struct cs_hub_call call;
    struct cs_messages taken;
    struct cs_arena arena;
    struct cs_pull_mark mark;
    uint64_t from; /* where this pull began */
    /* the batch that is coming in */
    struct cs_batch batch;
    uint64_t log_number;
    uint32_t total, next; /* chunks of it; next == total: none is coming in */
    bool header_only, uneven, envelope_bad;
    bool has_more, ended, need_member;
    bool own_in_full, need_own; /* our batches are wanted with their content; from the mark on, again */
    bool need_again;            /* from the mark on, again: content was not what its author hashed */
    uint64_t refetched;         /* the number whose content was; 0: none */
    /* A header that is refused may be one that was changed on the way. So the position passes it only when a head that
     * the hub signed says that it stands there: the log is read on to its end, for its hashes alone, and then again. */
    bool looking;
    uint64_t looked, doubted, borne_out;     /* how far; the number in question; the one that a head vouched for */
    uint8_t looked_hash[32], doubt_hash[32]; /* L there */
    char doubt[256];                         /* what is wrong with it */
    struct cs_hub_head begun;                /* the newest that was verified before the pull's first call */
    struct cs_hub_head head;
    bool has_head;
    bool busy; /* [loop] a job has `taken` */
    unsigned restarts, short_ends;
    /* Reads what a hub has left that is not the one that was followed: from its beginning, for the content alone. What
     * does not fit is passed over, and where the pull stands stays as it is. */
    bool salvage;
    struct cs_hub_head salvage_head;
    uint64_t salvaged; /* the last number that was looked at */
    bool apart;        /* the batch does not follow its device's last one, and counts as merged state */
    /* Behind the log's end: what was set aside is fetched once more, number by number. Where the pull stands stays. */
    bool want_again, again;
    bool sought, asked_snapshot; /* a snapshot was looked for: instead of the log's beginning, for what is pruned */
    struct cs_arena aside_arena;
    struct cs_review_aside *aside;     /* in it, by number */
    size_t naside, at;                 /* at: the one that is asked for, from 1 */
    uint64_t taken_batches, taken_ops; /* for the audit log */
    int end_rc;                        /* of the step, while that is written */
    struct cs_error end_err;
    cs_step_done done;
};

/* Puts the next chunk of the hub's stream to the batch that is coming in; *whole: it is there, with all its chunks.
 * CS_EHUB: it is not the next one. Only sizes and order are checked. */
int cs_pull_chunk(struct cs_pull_step *s, const Clawsync__V1__DeltaChunk *c, bool *whole, struct cs_error *err);

/* aside.c: batches that could not be taken in. In jobs, but for cs_aside_next, cs_aside_place and cs_aside_free. */
/* The batch at hand, kept with the rows, so that claw-sync hidden list shows it for as long as it is so. follows: its
 * header was in order. */
int cs_aside_note(struct clawsync_engine *e, const char *finding, bool follows, struct cs_error *err);
/* Which there are to be tried once more, and to the next of them; false: there is none. */
int cs_aside_load(struct clawsync_engine *e, struct cs_error *err);
bool cs_aside_next(struct clawsync_engine *e);
uint64_t cs_aside_place(const struct clawsync_engine *e);           /* its number in the log */
int cs_aside_take(struct clawsync_engine *e, struct cs_error *err); /* it came: in pull.batch */
void cs_aside_free(struct clawsync_engine *e);
int cs_aside_open(struct clawsync_engine *e, struct cs_error *err);
/* Does somebody want what is hidden to be tried again? Rows are, batches with the next pull. */
int cs_aside_asked(struct clawsync_engine *e, bool *asked, struct cs_error *err);

/* verify.c: the receiver's checks up to "header accepted". */
enum cs_severity { CS_FINE, CS_SET_ASIDE, CS_STOP_DEVICE, CS_STOP_HUB, CS_NEED_MEMBERS, CS_NEED_UPDATE, CS_FAILED };
struct cs_finding {
    enum cs_severity severity;
    const char *name;
    bool known; /* fine, and here already: skip */
};
/* L_number, as far back as it is known: CS_ENOTFOUND. */
int cs_log_hash_at(struct clawsync_engine *e, const struct cs_pull_mark *mark, uint64_t number, uint8_t out[32],
                   struct cs_error *err);
/* The same of a batch whose log is over: what does not depend on where it stands there. */
enum cs_severity cs_verify_salvaged(struct clawsync_engine *e, const struct cs_batch *b, struct cs_batch_header *h,
                                    struct cs_finding *f, struct cs_error *err);
/* And of one that was set aside, when it comes again: all but its place in the log, of which that was the number. */
enum cs_severity cs_verify_again(struct clawsync_engine *e, const struct cs_pull_mark *mark, const struct cs_batch *b,
                                 uint64_t log_number, struct cs_batch_header *h, struct cs_finding *f,
                                 struct cs_error *err);
/* A device's place in the log in force: before its first batch there, what its chain begins with. */
int cs_peer_at(struct clawsync_engine *e, const struct cs_uuid *device, struct cs_peer *out, struct cs_error *err);
enum cs_severity cs_verify_header(struct clawsync_engine *e, const struct cs_pull_mark *mark, const struct cs_batch *b,
                                  uint64_t log_number, struct cs_batch_header *h, struct cs_finding *f,
                                  struct cs_error *err);

/* push.c */
void cs_step_push(struct clawsync_engine *e, cs_step_done done);
/* offline.c: the engine's side of queue.db. In jobs. */
int cs_offline_open(struct clawsync_engine *e, struct cs_error *err);
void cs_offline_close(struct clawsync_engine *e);
/* Before what is bound is sent: settles what a crash left between queue.db and the database, and makes the sets that
 * are retried unsent edits again. */
int cs_offline_begin(struct clawsync_engine *e, struct cs_error *err);
/* The hub is away: copies of what is bound go to the queue. *operations: in them. */
int cs_offline_store(struct clawsync_engine *e, const char *reason, uint64_t *operations, struct cs_error *err);
/* The hub refused this batch for good: it is set aside, the other waiting ones are unsent again. Nothing in flight. */
int cs_offline_aside(struct clawsync_engine *e, uint64_t number, const char *reason, struct cs_error *err);
/* queue_api.c: the entry whose id begins so. CS_ENOTFOUND; CS_EINVAL: there are several. */
int cs_queue_find(cs_queue *q, struct cs_arena *a, const char *text, const struct cs_queue_entry **out,
                  struct cs_error *err);
/* The queue of that data_dir, only to be looked at. key: NULL, or the device's local key, borrowed. */
int cs_queue_open_beside(cs_queue **out, struct cs_arena *a, const clawsync_config *c, const uint8_t *key,
                         struct cs_error *err);
/* Every set that the queue alone has becomes unsent edits. */
int cs_offline_take_all(struct clawsync_engine *e, struct cs_error *err);
/* Takes every waiting batch back: its operations are unsent again. In a job, while nothing is in flight. */
int cs_push_take_back(struct clawsync_engine *e, struct cs_error *err);
/* The same, if a collection up to that stamp is about anything in them. */
int cs_push_take_back_old(struct clawsync_engine *e, int64_t through, struct cs_error *err);
/* A snapshot that is taken has those of ours that wait, up to this number; but something was collected since they were
 * bound, so that they may count for nothing. What waits is unsent, too, and it is noted that this is in doubt. */
int cs_push_doubt(struct clawsync_engine *e, uint64_t number, struct cs_error *err);
/* Of batches that were accepted behind a collection: what counts for nothing is unsent again. */
int cs_push_take_back_late(struct clawsync_engine *e, const struct cs_collection *c, struct cs_error *err);
/* The lowest stamp of an operation in it. */
int64_t cs_push_lowest(const struct cs_delta *d);

/* collect.c: collecting tombstones (docs/decisions/0017). In jobs. */
/* Before a batch of the log is merged: what of it counts, and whether it is a collection; then what of ours is on its
 * way is settled first. Its place is put in with memory of the arena. */
int cs_collect_judge(struct clawsync_engine *e, const struct cs_batch_header *h, uint64_t log_number,
                     struct cs_arena *a, struct cs_delta *d, struct cs_error *err);
/* Should this device write one, by the hub's answer? Then the next push does, unless it is taken back. */
int cs_collect_wanted(struct clawsync_engine *e, const Clawsync__V1__SnapshotResponse *a, bool *out,
                      struct cs_error *err);
int cs_collect_extract(struct clawsync_engine *e, struct cs_arena *a, struct cs_delta *out, struct cs_error *err);
/* Is that a collection which this database has not been through? */
int cs_collect_missed(struct clawsync_engine *e, const struct cs_collection *told, bool *out, struct cs_error *err);
/* It is, and the merged state that it is in comes next; what is on its way is settled first, and tombstones are
 * forgotten. cs_replica_mark_stale was called before; in_doubt: and cs_push_doubt. */
int cs_collect_ahead(struct clawsync_engine *e, const struct cs_collection *told, bool in_doubt, struct cs_error *err);
/* All of that state is merged. Rows that were deleted and collected while this device was away go. older: as in
 * cs_sweep. */
int cs_collect_taken(struct clawsync_engine *e, const struct cs_uuid *author, bool older,
                     const struct cs_collection *told, struct cs_error *err);
int cs_collect_open(struct clawsync_engine *e, struct cs_error *err);
/* The same at the end of a pull, where the state came as the log of a hub that was refilled. */
int cs_collect_settle(struct clawsync_engine *e, struct cs_error *err);

struct cs_push_item {
    enum cs_keep keep; /* of it when it is accepted */
    uint64_t number;
    uint8_t hash[32];
    uint32_t nops, nchunks;
    size_t bytes;
};
enum { CS_PUSH_MAX = 64, CS_PUSH_BYTES = 24 * 1024 * 1024 };
struct cs_push_step {
    struct cs_job job;
    struct cs_hub_call call;
    struct cs_messages taken, out;
    struct cs_hub_keys *keys; /* of the session in which `taken` came; [loop] but for reading */
    bool reopened;            /* once in a step the hub may have forgotten the session */
    struct cs_arena arena;
    struct cs_batch batch;
    struct cs_buf stored;
    struct cs_push_item flight[CS_PUSH_MAX]; /* sent or about to be, oldest first */
    size_t nflight, bytes;
    uint64_t last; /* newest number bound, and its hash */
    uint8_t last_hash[32];
    bool loaded, nothing_more;
    bool busy, active;     /* [loop] a job runs; the step runs */
    unsigned made;         /* batches bound in this step */
    uint64_t acked, total; /* operations of this step, for progress; total 0: this is no long work */
    int refused_code;
    uint64_t refused_number; /* of the batch */
    char refused[32];        /* kind of the first refusal; empty: none */
    char reason[256];
    unsigned tries;
    uint32_t tried_seq;               /* entries of the membership at the first of them */
    uint64_t tried_incarnation;       /* and who this device was */
    uint64_t acked_first, acked_last; /* numbers of batches, for the audit log */
    int end_rc;                       /* of the step, while that is written */
    struct cs_error end_err;
    cs_step_done done;
};

/* conflicts.c: tells the hub what was resolved here, once that is in the log. */
enum { CS_TELL_MAX = 64 };
void cs_step_tell(struct clawsync_engine *e, cs_step_done done);
struct cs_tell_step {
    struct cs_job job;
    struct cs_hub_call call;
    struct cs_arena arena;
    Clawsync__V1__ResolveConflictRequest request; /* points into arena */
    struct cs_review_mark seen[CS_TELL_MAX];      /* what is in it */
    size_t n;
    bool wanted; /* there may be something to tell */
    cs_step_done done;
};

/* ---- a talk with the hub in turns (turns.c) ---- */

/* A job looks at the hub's answer and says what is next; the loop does that. All but `look` is called on the loop. */
enum cs_turn {
    CS_TURN_CALL,  /* sends `request` */
    CS_TURN_SYNC,  /* fetches and sends what there is, then looks */
    CS_TURN_WAIT,  /* a while, then looks */
    CS_TURN_OTHER, /* what only this kind does */
    CS_TURN_END
};
struct cs_turns_kind {
    const char *method;
    const ProtobufCMessageDescriptor *answer;
    /* answer: NULL: nothing was asked. It is in the arena, as the request is to be. */
    int (*look)(struct clawsync_engine *e, const ProtobufCMessage *answer, enum cs_turn *next, struct cs_error *err);
    void (*anew)(struct clawsync_engine *e); /* before CS_TURN_SYNC: it begins again behind that */
    void (*other)(struct clawsync_engine *e);
    void (*refused)(struct clawsync_engine *e, int status, const struct cs_error *err); /* the call failed */
    void (*finish)(struct clawsync_engine *e, int rc, const struct cs_error *err);
};
struct cs_turns {
    struct cs_job job;
    struct cs_hub_call call;
    struct clawsync_engine *e;
    const struct cs_turns_kind *kind;
    struct cs_messages taken;
    struct cs_arena arena; /* of one turn: the answer, and the request */
    ProtobufCMessage *request;
    cs_timer *timer;
    enum cs_turn next;
    size_t step;             /* of fetching and sending: which one is next */
    unsigned syncs;          /* so often, in this talk or since the kind said 0 */
    uint64_t sent, received; /* bytes, in this talk */
};
int cs_turns_begin(struct clawsync_engine *e, struct cs_turns *t, const struct cs_turns_kind *kind); /* CS_ENOMEM */
void cs_turns_next(struct cs_turns *t);                                                              /* looks */
void cs_turns_sync(struct cs_turns *t);
void cs_turns_wait(struct cs_turns *t);
void cs_turns_end(struct cs_turns *t); /* nothing comes any more; frees what is of a turn */
void cs_turns_free(struct cs_turns *t);

/* reconcile.c. A command's arg is its wish; the daemon compares only, when the hub says that there is something. */
void cs_step_reconcile(struct clawsync_engine *e, cs_step_done done);
void cs_step_reconcile_asked(struct clawsync_engine *e, cs_step_done done);
/* The same as a part of another step; cs_reconcile_agreed has what came of it. */
void cs_step_prove(struct clawsync_engine *e, cs_step_done done);
/* Has every member device signed this state, when one of ours was compared last? */
bool cs_reconcile_agreed(const struct clawsync_engine *e, const struct cs_state_proof *p);
void cs_reconcile_step_free(struct clawsync_engine *e);
/* What is next of the entities that are being published; *more: there was some, whether anything came of it now or
 * not (rows are being edited: seal first). In a job of push.c's, which says when it is bound. */
int cs_reconcile_extract(struct clawsync_engine *e, struct cs_arena *a, size_t max_bytes, struct cs_delta *out,
                         bool *more, struct cs_error *err);
void cs_reconcile_extracted(struct clawsync_engine *e);
enum { CS_PROOFS_MAX = 256 };
/* Meta: the last comparison found a device that has another state; the first row here that differs, as far as it was
 * named. Until another one finds none. */
#define CS_DIFFERS "engine.differs"
struct cs_proof_row { /* what a device signed last */
    struct cs_uuid id;
    char name[64], root[65];
    clawsync_proof_state state;
    uint64_t number, rows;
    int64_t time_ms;
    bool connected;
};
struct cs_reconcile_result {
    clawsync_reconciled report;
    struct cs_proof_row proofs[CS_PROOFS_MAX];
    size_t nproofs;
    clawsync_compacted compacted;
    clawsync_stats stats; /* of a round that a command beside this engine asked for */
};
/* reconcile_api.c: fn is given each device's row. */
void cs_reconcile_tell(const struct cs_reconcile_result *s, void (*fn)(void *arg, const clawsync_proof *p), void *arg);
struct cs_reconcile_wish {
    bool prove; /* only */
    uint32_t wait_ms;
    struct cs_reconcile_result result; /* in the end */
};
enum cs_reconcile_phase { /* what the next answer, or turn, is about */
                          CS_RECONCILE_PEEK,
                          CS_RECONCILE_LATER, /* another device gives its state at present: from the beginning */
                          CS_RECONCILE_READ,
                          CS_RECONCILE_LOOK,
                          CS_RECONCILE_BEGIN,
                          CS_RECONCILE_SUMS,
                          CS_RECONCILE_LEAVES,
                          CS_RECONCILE_TOLD,
                          CS_RECONCILE_PROVED,
                          CS_RECONCILE_PUT,
                          CS_RECONCILE_GIVEN,
                          CS_RECONCILE_WAIT,
                          CS_RECONCILE_PUBLISHED,
                          CS_RECONCILE_GAVE
};
struct cs_entities;
struct cs_reconcile_step {
    struct cs_job job; /* in the end: writes it down */
    struct cs_turns turns;
    Clawsync__V1__ReconcileRangesRequest request;
    enum cs_reconcile_phase phase;
    bool by_daemon, prove;
    bool only_prove; /* the other's state is there to be proved, not to be levelled */
    bool giving, differs;
    bool doubtful; /* what is sealed now was written behind our back */
    uint64_t until_ms;
    unsigned overtaken; /* so often the log had grown when our state was read */
    /* our state, and where in the log it is of */
    struct cs_entities *set;
    struct cs_pull_mark mark;
    uint32_t epoch;
    uint8_t proof[CS_PROOF_LEN], total[16];
    uint64_t reading_ms; /* how long reading it took */
    struct cs_place_root {
        uint64_t log_id, number;
        uint8_t root[32];
    } agreed; /* the newest that every member device has signed; log_id 0: none yet */
    /* the walk: prefixes of ranges of one depth that differ, u16 each; those below; buckets in the end */
    struct cs_buf level, below;
    uint8_t depth, ranges[512 * 3];
    size_t at, asked;
    struct cs_buf want, gave; /* tags: for the other to publish; that we published */
    size_t told;              /* bytes of want that the hub has */
    bool publishing;
    int64_t place, taken_to; /* among the picked entities */
    size_t taken_rows;
    struct cs_reconcile_result result, *result_to; /* the command's; NULL: none */
    int end_rc;                                    /* of the step, while it is written down */
    struct cs_error end_err;
    cs_step_done done;
};

/* snapshot.c: what a snapshot is checked for, by whoever takes one. In jobs. */
/* The description that the hub gives, and who made and who attested it, against what is pinned, seen and known: CS_EHUB
 * with the finding's name in front. head_number: that its log reaches by now, as it says. */
int cs_snapshot_check(struct clawsync_engine *e, const Clawsync__V1__SnapshotInfo *info, uint64_t head_number,
                      const struct cs_pull_mark *mark, struct cs_descriptor *out, struct cs_state_proof *proof,
                      struct cs_error *err);
/* The statement of a device about its state, under whatever key of ours opens it. */
int cs_snapshot_proof(struct clawsync_engine *e, struct cs_slice sealed, const struct cs_member *by,
                      struct cs_state_proof *out, struct cs_error *err);
/* Is that still an active device? */
bool cs_snapshot_counts(const struct clawsync_engine *e, ProtobufCBinaryData device);
/* Are those who answer for it, if any, still members? */
bool cs_snapshot_is_good(const struct clawsync_engine *e, const Clawsync__V1__SnapshotInfo *i);

/* take.c: fetches the snapshot that the hub serves, if it is ahead of the pull position, and merges it. pruned: the log
 * itself does not go on from there, so that there has to be one. */
void cs_step_take(struct clawsync_engine *e, bool pruned, cs_step_done done);
void cs_take_step_free(struct clawsync_engine *e);
struct cs_parts;
struct cs_take_step {
    struct cs_job job;
    struct cs_hub_call call;
    struct cs_messages taken;
    struct cs_arena arena; /* of one answer */
    struct cs_buf bytes;   /* the description */
    struct cs_descriptor d;
    struct cs_state_proof proof; /* of the author */
    struct cs_pull_mark mark;
    struct cs_parts *parts;
    struct cs_batch batch; /* the part that is coming in */
    uint32_t next;         /* chunks of it; next == batch.nchunks: none is coming in */
    struct cs_buf stored;
    struct cs_hasher root;
    uint8_t digest[32];
    uint64_t rows;
    uint32_t applied;     /* parts */
    uint64_t head_number; /* that the hub's log reaches, as it says */
    bool pruned, looked, whole, ended;
    struct cs_collection told; /* by its rows */
    bool marked, missed;       /* missed: this device has not been through that */
    bool keeps;                /* it is to publish what it alone may have: then none of its rows goes */
    bool older;                /* its author knows of batches of ours that this database does not */
    bool took;                 /* in the end */
    cs_step_done done;
};

/* compact.c: gives a snapshot of this device's state, or attests another's. A command's arg is its wish; the daemon
 * gives one only when the log has grown long. */
void cs_step_compact(struct clawsync_engine *e, cs_step_done done);
void cs_step_compact_asked(struct clawsync_engine *e, cs_step_done done);
void cs_step_attest(struct clawsync_engine *e, cs_step_done done); /* only that, where it stands */
void cs_compact_step_free(struct clawsync_engine *e);
/* [job] Has the log grown long since the last snapshot known? */
bool cs_compact_is_due(const struct clawsync_engine *e);
struct cs_compact_wish {
    clawsync_compacted result;
};
struct cs_compact_step {
    struct cs_turns turns;
    Clawsync__V1__SnapshotRequest request;
    int phase;
    bool by_daemon, gave, only_attest;
    bool collecting; /* once in a run */
    bool proved;     /* the same */
    uint64_t gone;   /* values that this device has not any more, of the state that was read */
    bool warned;     /* the daemon's user was told what keeps this device from it */
    uint64_t until_ms;
    uint64_t place_log, place; /* what is asked for is of */
    bool is_read;              /* to be given, with all that it takes */
    struct cs_parts *parts;
    uint32_t sent;
    struct cs_buf descriptor;
    /* What this device had there: the newest state that was read. number 0: none */
    struct cs_state_proof said;
    uint8_t said_proof[CS_PROOF_LEN];
    uint8_t attestation[CS_ATTESTATION_LEN];
    struct cs_buf said_peers; /* as in a descriptor */
    uint64_t known;           /* log number of the newest snapshot that was seen, and of its log */
    uint64_t known_log;
    uint64_t again_at, again_log;  /* log number before which none is given by itself, and of which log */
    uint64_t awaited, awaited_log; /* the same of the snapshot that another device was seen to give */
    clawsync_compacted result, *result_to;
    cs_step_done done;
};

/* append.c: a membership entry of ours, by compare-and-swap. build makes the bytes from the membership at hand, in a
 * job; it is called again, and makes them anew, when another entry came first. Nothing made: there is nothing to do. */
typedef int (*cs_entry_build)(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err);
void cs_step_append(struct clawsync_engine *e, cs_entry_build build, void *arg, cs_step_done done);
struct cs_append_step {
    struct cs_job job;
    struct cs_hub_call call;
    struct cs_buf entry;
    uint32_t seq; /* of the entry, and its hash */
    uint8_t hash[32];
    unsigned tries;
    cs_entry_build build;
    void *arg;
    cs_step_done done;
};
enum { CS_REMOVAL_MAX = 64 };
struct cs_removal { /* whom an entry removes, and where their chains end */
    size_t n;
    struct cs_cut cut[CS_REMOVAL_MAX];
};
int cs_append_remove(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err); /* cs_removal */
/* arg: the epoch, a uint32_t, that is to end; NULL: the one in force */
int cs_append_rotate(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err);
void cs_step_duty(struct clawsync_engine *e, cs_step_done done); /* what an invite that is over leaves to do */

/* devices.c. Their parameters are the current command's; arg of it as each says. */
struct cs_device_row {
    struct cs_uuid id, added_by; /* of who came by an invite: who made that */
    uint8_t kind;                /* enum cs_principal */
    char name[64], fingerprint[24];
    int64_t added_ms, expires_ms, seen_ms;
    uint64_t behind; /* entries of the log */
    bool known_behind;
};
struct cs_device_list { /* of who is active */
    struct cs_arena arena;
    struct cs_device_row *row;
    size_t n;
};
void cs_step_devices(struct clawsync_engine *e, cs_step_done done); /* cs_device_list */
struct cs_device_change {
    const char *device; /* whom: id, the beginning of one, or a name */
    const char *name;   /* the new one */
    bool distrust;      /* also everyone whom it let in */
    struct cs_uuid id;  /* found */
    bool began;
    struct cs_device_list others; /* whom the removed one let in, and who stays */
    size_t removed;               /* how many went */
};
void cs_step_rename(struct clawsync_engine *e, cs_step_done done); /* cs_device_change */
void cs_step_revoke(struct clawsync_engine *e, cs_step_done done); /* cs_device_change */
void cs_step_rotate(struct clawsync_engine *e, cs_step_done done); /* uint32_t: 0, then the epoch that ends */
struct cs_devices_step {
    struct cs_job job;
    struct cs_hub_call call;
    struct cs_messages taken;
    const struct cs_command *cmd;
    cs_step_done done;
};
/* doctor.c: what `claw-sync doctor` asks. Nothing is written; for an engine beside another, too. */
struct cs_hub_look {
    int64_t asked_ms, answered_ms, hub_ms; /* by this clock, by this clock, by the hub's */
    struct cs_hub_head head;               /* verified */
};
int cs_engine_look_at_hub(clawsync_engine *e, struct cs_hub_look *out, clawsync_error *err);
/* How far this clock is ahead of the hub's, at least, as an answer takes its time; negative: behind. */
int64_t cs_hub_look_ahead_ms(const struct cs_hub_look *look);
enum { CS_CLOCK_MAX_MS = 60000 }; /* what is further ahead the hub refuses */
struct cs_own_look {
    uint64_t number;     /* of the newest batch of ours that the hub took; 0: none, and there is nothing else */
    uint64_t log_number; /* 0: it is too long ago to know where it is, and there is nothing else */
    uint32_t nchunks, nops;
    size_t content, stored; /* bytes: of the operations before packing, of the chunks as the hub has them */
    size_t searched, found; /* texts of its content, of 8 bytes and more, and how many of them lie open in the chunks */
};
/* Fetches that batch back and opens it. CS_ECORRUPT: what the hub gave is not the batch that this device sent. */
int cs_engine_look_at_own(clawsync_engine *e, struct cs_own_look *out, clawsync_error *err);

/* join.c. Their parameters are the current command's. */
void cs_step_export(struct clawsync_engine *e, cs_step_done done);
void cs_step_invite(struct clawsync_engine *e, cs_step_done done);
void cs_step_join(struct clawsync_engine *e, cs_step_done done);
void cs_step_paper(struct clawsync_engine *e, cs_step_done done);
void cs_step_recover(struct clawsync_engine *e, cs_step_done done);
struct cs_join_step {
    struct cs_job job;
    struct cs_hub_call call;
    struct cs_messages taken;
    struct cs_arena arena;
    const struct cs_command *cmd;
    uint8_t secret[32];            /* the invite's, 16 bytes, or the phrase's */
    struct cs_device_keys *opener; /* guarded: of the invite or paper that lets us in */
    enum cs_principal kind;        /* of the opener */
    struct cs_key_export export;   /* of a file, or empty */
    struct cs_buf entry;
    bool pending;
    unsigned tries;
    cs_step_done done;
};

/* join.c */
void cs_floor_now(struct clawsync_engine *e, struct cs_floor *floor);
/* Does the hub's log reach what whoever wrote entry seq had seen, or a later refill's author? */
int cs_check_floor(const struct clawsync_engine *e, const struct cs_floor *given, uint32_t seq,
                   const struct cs_hub_head *head, struct cs_error *err);

/* register.c: the request of RegisterDevice, with an entry or an offer. */
bool cs_compose_register(struct cs_hub_call *c, const struct cs_session *session, uint64_t counter,
                         struct cs_slice entry, struct cs_slice offer, struct cs_buf *out);

void cs_step_accept(struct clawsync_engine *e, cs_step_done done); /* accept_hub.c */

/* pair.c: joining without a code. */
void cs_step_ask(struct clawsync_engine *e, cs_step_done done);     /* out: the characters */
void cs_step_enter(struct clawsync_engine *e, cs_step_done done);   /* after the person agreed */
void cs_step_waiting(struct clawsync_engine *e, cs_step_done done); /* arg: struct cs_waiting_list */
void cs_step_admit(struct clawsync_engine *e, cs_step_done done);   /* code: what was typed; out: the device's id */
enum { CS_WAITING_MAX = 8 };
struct cs_waiting_list {
    bool answer; /* them, so that they show their characters */
    size_t n;
    struct {
        struct cs_uuid id;
        char fingerprint[24];
    } row[CS_WAITING_MAX];
};
struct cs_pair_step {
    struct cs_job job;
    struct cs_hub_call call;
    struct cs_messages taken;
    struct cs_arena arena;
    const struct cs_command *cmd;
    cs_step_done done;
    cs_timer *timer;
    uint64_t until_ms;
    void (*run)(struct clawsync_engine *, struct cs_job *); /* what is done with the call's answer */
    void (*ran)(struct clawsync_engine *, struct cs_job *);
    bool waits; /* for somebody else: a hub that is away is waited for, too */
    bool found;
    struct cs_pair *mine; /* guarded: ours, from asking until entering */
    struct cs_pair_done end;
    struct cs_pair *held[CS_WAITING_MAX], *chosen; /* guarded: those that we answered */
    size_t nheld, at;
    struct cs_buf message;
};
void cs_pair_step_free(struct clawsync_engine *e);

/* refill.c. [job] but for the step. */
struct cs_refilling { /* by this device, begun and not over: kept with the rows */
    uint64_t log_id;  /* 0: there is none */
    uint64_t refills; /* of the membership when it began: another one since ended it */
    struct cs_floor from;
};
struct cs_log_now {
    uint64_t id; /* 0: the first one, which the hub named */
    uint64_t generation;
};
/* Which log the membership, or our own refill, says is in force; heads of others are forgotten. */
void cs_log_update(struct clawsync_engine *e);
int cs_refill_open(struct clawsync_engine *e, struct cs_error *err);
bool cs_refill_is_open(const struct clawsync_engine *e);
/* Goes over to the log that the newest refill in the membership names, if that is not where we are. While nothing is in
 * flight. */
int cs_refill_follow(struct clawsync_engine *e, struct cs_error *err);
/* Before the command, at the end of a round's finding. */
#define CS_SETTLE_WITH   ". If you know why, settle it with: "
#define CS_FIND_OUT_WITH ". Find out, or settle it, with: "
const char *
cs_finding_command(const struct cs_error *err); /* what settles a finding about the hub; NULL: nothing does */
/* MEMBER_FORK, with the way out. CS_EHUB. */
int cs_member_forked(struct cs_error *err, const char *what);
struct cs_refill_report { /* of one command, all of its tries; zeros at first */
    int needed;           /* 0: the hub has all that it had */
    bool begun, refused;  /* the hub had a log from this command once; it refused one */
    uint64_t refused_log; /* which was to be ended then; 0: it was to know no workspace */
};
void cs_step_refill(struct clawsync_engine *e, cs_step_done done); /* cs_refill_report */
/* Whoever refilled the hub may not have seen the highest stamps that the log before had accepted: tells the hub of
 * those that this device has seen, where they are ahead of its clock. */
void cs_step_lift(struct clawsync_engine *e, cs_step_done done);
struct cs_refill_step {
    struct cs_job job;
    struct cs_hub_call call;
    struct cs_messages taken;
    struct cs_buf content;
    struct cs_hub_head seen; /* the hub's log before; zeros: it does not know the workspace */
    uint32_t at, next;       /* entries to give back */
    bool again;
    struct cs_refill_report *report;
    cs_step_done done;
};

/* ---- commands from other threads (engine.c, schedule.c) ---- */

enum cs_command_kind {
    CS_CMD_PUSH,
    CS_CMD_PULL,
    CS_CMD_SYNC,
    CS_CMD_START,
    CS_CMD_STOP,
    CS_CMD_STEPS, /* the steps that it names */
    CS_CMD_LOCAL,
    CS_CMD_CLOSE
};
typedef void (*cs_step_start)(struct clawsync_engine *e, cs_step_done done);
enum { CS_MAX_STEPS = 9 };

struct cs_command {
    enum cs_command_kind kind;
    struct cs_command *next;
    cs_step_start step[CS_MAX_STEPS]; /* CS_CMD_STEPS; up to the first that is NULL */
    bool stopped;                     /* refused while the engine replicates */
    const char *path, *passphrase, *code;
    uint32_t expires_secs;
    struct cs_buf *out; /* what the steps have to tell; the caller's */
    int (*local)(struct clawsync_engine *e, void *arg, struct cs_error *err); /* on a worker */
    void *arg;
    clawsync_stats stats;
    int rc;
    struct cs_error err;
    bool finished;
};

struct cs_subscriber {
    struct cs_subscriber *next;
    clawsync_event_fn fn;
    void *arg;
    int id;
    bool gone, told; /* told: has had the warnings of opening */
};
struct cs_warning {
    struct cs_warning *next;
    const char *text;
};

/* asked.c: rounds and reconciling for a command beside this engine. */
enum cs_ask_kind {
    CS_ASK_RECONCILE,
    CS_ASK_PROVE,
    CS_ASK_SYNC,
    CS_ASK_PUSH,
    CS_ASK_PULL,
    CS_ASK_COMPACT,
    CS_ASK_KINDS
};
struct cs_asked {
    bool found;   /* it is asked for, and not begun: jobs say so, the loop reads it while none runs */
    bool running; /* until the answer is written */
    bool answering;
    uint8_t what; /* an enum cs_ask_kind */
    uint64_t nonce;
    struct cs_reconcile_wish wish;
    struct cs_compact_wish compact;
    struct cs_command command;
    struct cs_job job;
};
int cs_asked_open(struct clawsync_engine *e, struct cs_error *err);
int cs_asked_look(struct clawsync_engine *e, struct cs_error *err); /* [job] */
/* [loop] The command that is to run, or NULL; one that is over is answered. */
struct cs_command *cs_asked_next(struct clawsync_engine *e);
/* The other side, with a replica of its own. The nonce is any number that was not used lately. */
int cs_ask(cs_replica *r, uint64_t nonce, int64_t now_ms, enum cs_ask_kind what, uint32_t wait_ms,
           struct cs_error *err);
/* NONE: nothing is asked, by whomever; WAITS: somebody's question is not taken; TAKEN: the engine is at somebody's;
 * ANSWERED: ours is, and the call's result and *out are the engine's. */
enum cs_ask_state { CS_ASK_NONE, CS_ASK_WAITS, CS_ASK_TAKEN, CS_ASK_ANSWERED };
int cs_ask_state(cs_replica *r, uint64_t nonce, enum cs_ask_state *state, struct cs_reconcile_result *out,
                 struct cs_error *err);
int cs_ask_withdraw(cs_replica *r, struct cs_error *err);

enum { CS_WANT_PUSH = 1, CS_WANT_PULL = 2, CS_WANT_DUTY = 4, CS_WANT_RECONCILE = 8, CS_WANT_COMPACT = 16 };
enum { CS_MAX_NOTES = 32, CS_DAMAGED_NAME = 64 };

/* schedule.c: what runs now and what comes next. All [loop]. */
struct cs_schedule {
    struct cs_command *waiting, *current; /* current: the command that runs, and those that share its round, or NULL */
    struct cs_job job;                    /* for local commands, looks and counts */
    bool busy;                            /* a task runs, or its retry waits */
    cs_step_start step[CS_MAX_STEPS];
    int nsteps, at;
    unsigned attempt;       /* retries of the task at hand */
    unsigned failures;      /* of the daemon's rounds in a row */
    uint64_t began_ms;      /* monotonic */
    clawsync_stats before;  /* totals when the task began */
    bool pushed, pulled;    /* which kinds of step the task has done */
    unsigned wanted, taken; /* CS_WANT_…, for the daemon: to do; being done */
    bool running, closing, connected, backing_off, look_again, looking, needs_you;
    bool look_alone;  /* nothing is sent at present, which would seal first */
    bool look_more;   /* to be sealed */
    bool compact_due; /* when last no job ran */
    bool step_waits;  /* the task that runs goes on with a step when `retry` runs out */
    bool draining;    /* closing, but for what is unsent: `drain` sends it */
    struct cs_command drain;
    cs_timer *retry, *look, *interval, *heartbeat, *close, *duty, *reconcile;
    uint64_t reconcile_ms; /* not before; a hub that rings all the time must not keep the device busy */
    cs_watch *watch_files;
    struct cs_hub_call watch, beat;
    struct cs_job look_job;
    bool look_pending, look_asked;
    struct cs_asked asked;
    unsigned relooks;
    struct cs_replica_counts counts;
    struct cs_queue_counts queued;
    uint64_t counted_ms;
    uint64_t looked_ms, found_ms; /* the last look, and the last that found something */
    struct cs_job count_job;
    uint64_t duty_ms; /* [job] how long to wait for another to do it; 0: there is no duty */
    bool duty_waits;
    bool counting;
    struct cs_job record_job; /* a finding about the hub goes into the audit log */
    struct cs_error finding;
    struct cs_exchanged exchanged; /* rounds that moved something, and when the hub last answered */
    struct cs_exchanged saving;    /* [job] */
    cs_timer *checkpoint;          /* the file is written a little after a round, once for all that end meanwhile */
    bool checkpoint_waits;
    struct cs_job checkpoint_job;
    uint64_t positions_ms;   /* [job] monotonic: when the keystore last got the positions; 0: not in this run */
    struct cs_job store_job; /* the hub is away: what is bound is copied to the queue */
    struct cs_error away;
    uint64_t queued_ops;                  /* [job] operations that wait */
    bool told_queued;                     /* in this outage */
    struct cs_standing standing, written; /* as it is; [job] as the file has it, or is about to */
    bool standing_known, standing_waits;  /* the file is as `written`; a job is on its way */
    bool standing_kept;                   /* [job] there is to be a file */
    struct cs_job standing_job;
};
int cs_schedule_open(struct clawsync_engine *e, struct cs_error *err);
void cs_schedule_wake(struct clawsync_engine *e, struct cs_command *commands, bool notified);
bool cs_schedule_is_closed(const struct clawsync_engine *e); /* told to, and nothing runs any more */
void cs_schedule_free(struct clawsync_engine *e);
void cs_schedule_hub_back(struct clawsync_engine *e); /* the preferred hub serves again */

struct clawsync_engine {
    struct cs_world *world;                      /* [set] */
    struct cs_arena strings;                     /* [set] */
    clawsync_config config;                      /* [set] */
    struct cs_warning *warnings, **last_warning; /* [set] what opening found */
    struct cs_endpoints hubs;                    /* [set] */
    struct cs_uuid workspace, device;
    char workspace_text[CS_UUID_TEXT], device_text[CS_UUID_TEXT];
    const char *identity_dir, *keystore_path, *members_path, *pending_path, *db_dir;
    const char *checkpoint_dir, *checkpoint_path; /* [set] NULL: beside another engine */
    cs_loop *loop;
    pthread_t thread;
    bool has_thread;
    bool aside_wanted; /* [job] the next pull tries once more what was set aside */
    cs_wake *wake;

    cs_replica *replica;         /* [job] */
    struct cs_keystore *ks;      /* [job] */
    char *passphrase;            /* [job] of the keystore, guarded; NULL: none */
    struct cs_device_keys *keys; /* [set] guarded */
    struct cs_rng rng;           /* [set] */
    cs_packer *packer;           /* [job] */
    struct cs_membership members;
    struct cs_buf member_log;   /* [job] the file's bytes: u32 length ‖ entry, repeated */
    struct cs_buf entry_hashes; /* [job] 32 bytes per entry */
    struct cs_audit *audit;     /* [job] NULL: beside another engine */
    cs_queue *queue;            /* [job] NULL: beside another engine */
    uint32_t recorded_seq;      /* [job] the audit log has the membership up to this entry */
    char recorded[256];         /* [job] the last finding about the hub that went into it */
    bool member_log_dirty;
    bool members_lost;     /* [job] the file was lost or damaged; the hub gives what the keystore knows of, and more */
    uint32_t bad_wrap;     /* [job] the newest entry that did not share its key rightly with us; 0: none */
    uint8_t looked_at[32]; /* [job] hash of the last batch, entry or head of the hub's: a finding is about that */
    struct cs_hub_head head; /* [job] the newest verified; log_id 0: none yet */
    struct cs_hub_head kept; /* [set] the newest that earlier runs verified: every call of this one begins after it */
    uint8_t head_text[CS_HUB_HEAD_LEN + CS_SIGNATURE_LEN]; /* [job] of head, as the hub signed it */
    bool head_unsaved;                                     /* [job] */
    uint8_t log_start[32];                                 /* [job] L_0 of head's log */
    uint64_t incarnation;                                  /* [job] */
    bool beside;                                           /* [set] see cs_engine_open_beside */
    bool renewing;                                         /* [set] see cs_engine_new_identity */
    char damaged[CS_DAMAGED_NAME];                         /* [set] likewise */
    int64_t tracked_schema;        /* [job] cs_replica_schema when all tables that there were had been tracked */
    bool was_set_up;               /* [job] there were tables of ours: if there are none, a person untracked them all */
    struct cs_log_now log;         /* [job] */
    struct cs_refilling refilling; /* [job] */
    struct cs_floor floor;         /* [job] of whatever let us in: the hub's log reaches it, with this hash */
    bool recovering;               /* [job] nothing is bound before a pull has been through the whole log */
    uint64_t fetched_back;         /* [job] batches of ours that only the hub had, while recovering */

    struct cs_job *jobs, *last_job; /* [loop] the first runs */
    bool job_running;
    cs_rpc_channel *channel; /* [loop] */
    struct cs_failover failover;
    struct cs_hub_session session;

    struct cs_member_step member;
    struct cs_pull_step pull;
    struct cs_push_step push;
    struct cs_tell_step tell;
    struct cs_sealing sealing; /* [job] */
    struct cs_join_step join;
    struct cs_pair_step pair;
    struct cs_append_step append;
    struct cs_devices_step devices;
    struct cs_turns *syncing; /* [loop] whose fetching and sending it is */
    struct cs_reconcile_step reconcile;
    struct cs_take_step take;
    bool stale; /* [job] rows are marked since a log ended: at the end of the pull it shows what became of them */
    int64_t collect_through; /* [job] the next push collects tombstones up to this stamp; 0: it does not */
    struct cs_compact_step compact;
    struct cs_refill_step refill;
    struct cs_schedule schedule;
    clawsync_stats totals; /* [job] */

    /* [job] what a job has to tell; emitted on the loop when it is done */
    struct cs_note {
        clawsync_event_type type;
        uint64_t count, total;
        int code;
        char name[32], msg[256];
    } notes[CS_MAX_NOTES];
    int nnotes;

    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct cs_command *commands, **last_command; /* [lock] */
    unsigned callers;                            /* [lock] threads in cs_engine_command */
    bool closed;                                 /* [lock] no more of them */
    bool notified;                               /* [lock] */
    struct cs_subscriber *subscribers;           /* [lock] */
    int next_id;                                 /* [lock] */
    bool emitting;                               /* [lock] a callback runs */
    clawsync_status status;                      /* [lock] */
};

/* engine.c */
/* clawsync_engine_open on a world of the caller's, without a thread: calls that wait run the engine's loop themselves,
 * and whoever runs it otherwise, runs the engine. All calls on one thread. cs_engine_free is for an engine whose world
 * died under it: nothing is saved and nobody told. */
int cs_engine_open_world(clawsync_engine **out, struct cs_world *world, const clawsync_config *c,
                         clawsync_error *error);
void cs_engine_free(struct clawsync_engine *e);
/* No engine: who this device is, for what is read from data_dir alone; it writes nothing. For cs_engine_free. */
int cs_engine_open_self(clawsync_engine **out, const clawsync_config *c, struct cs_error *err);
/* Takes up what the application changed of its schema, and tracks those of the usual tables and of the configuration's
 * that it made by now. Cheap when nothing changed. In a job. */
int cs_engine_follow_schema(struct clawsync_engine *e, struct cs_error *err);
void cs_open_warning(struct clawsync_engine *e, const char *sentence); /* while opening */
/* An engine beside one that runs on the same database, for commands on the membership: it writes neither the database
 * nor data_dir, and the other learns from the hub what it did. Only clawsync_engine_close and the calls that say so
 * may be made on it. CS_ENOTFOUND: this device was never set up. */
int cs_engine_open_beside(clawsync_engine **out, const clawsync_config *c, clawsync_error *error);
/* Makes the database and data_dir another device's, which is no member yet: new id, new keys; what is unsent stays
 * unsent. *lost: batches on their way that cannot be taken back, their keys not being here. The old keystore is kept
 * beside the new one, also one that is damaged: `damaged` is the name of its file then, and else empty. */
int cs_engine_new_identity(struct cs_world *world, const clawsync_config *c, char device[CS_UUID_TEXT], size_t *lost,
                           char damaged[CS_DAMAGED_NAME], clawsync_error *error);
int cs_engine_command(clawsync_engine *e, struct cs_command *c, clawsync_error *err); /* waits for its end */
void cs_engine_command_send(clawsync_engine *e, struct cs_command *c);                /* does not: see `finished` */
void cs_note(struct clawsync_engine *e, clawsync_event_type type, int code, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));                                                          /* in a job */
void cs_note_progress(struct clawsync_engine *e, const char *name, uint64_t count, uint64_t total); /* in a job */
void cs_emit(struct clawsync_engine *e, const clawsync_event *ev);                                  /* on the loop */
void cs_emit_error(struct clawsync_engine *e, clawsync_event_type t, const char *name, const struct cs_error *err);
void cs_command_finish(struct clawsync_engine *e, struct cs_command *c, int rc, const struct cs_error *err);

/* audit.c: what goes into the audit log. In a job. */
int cs_record_open(struct clawsync_engine *e, struct cs_error *err);
void cs_record_close(struct clawsync_engine *e);
void cs_record_head(const struct clawsync_engine *e, struct cs_batch_header *h); /* into the header, and the keystore */
int cs_record_pushed(struct clawsync_engine *e, struct cs_error *err);
int cs_record_pulled(struct clawsync_engine *e, struct cs_error *err);
/* What was set aside, and is in order now. */
int cs_record_taken_in(struct clawsync_engine *e, uint64_t log_number, uint64_t ops, struct cs_error *err);
int cs_record_settled(struct clawsync_engine *e, const char *ids, uint64_t n, struct cs_error *err);
int cs_record_reconciled(struct clawsync_engine *e, const clawsync_reconciled *r, struct cs_error *err);
int cs_record_registered(struct clawsync_engine *e, struct cs_error *err);
int cs_record_members(struct clawsync_engine *e, struct cs_error *err); /* what is new of the membership log */
bool cs_is_finding(const struct cs_error *why);                         /* of what goes into the audit log */
int cs_record_finding(struct clawsync_engine *e, const struct cs_error *why, struct cs_error *err);
int cs_record_surplus(struct clawsync_engine *e, const char *device, const char *message, struct cs_error *err);
int cs_record_peer(struct clawsync_engine *e, const struct cs_batch *b, const char *message, struct cs_error *err);
int cs_record_bad_entry(struct clawsync_engine *e, const char *author, uint32_t seq, const char *message,
                        struct cs_error *err);

/* conflicts.c: what is new goes to events and the audit log. In a job. */
int cs_conflict_news(struct clawsync_engine *e, struct cs_error *err);

/* checkpoint.c. In a job, or while none runs. Opening tells of a file that is missing or not the database's, and makes
 * it anew. */
int cs_checkpoint_open(struct clawsync_engine *e, struct cs_error *err);
int cs_checkpoint_save(struct clawsync_engine *e, const struct cs_exchanged *exchanged, struct cs_error *err);

/* identity_store.c */
int cs_self_open(struct clawsync_engine *e, struct cs_error *err);       /* reads or makes; writes nothing */
int cs_self_save_first(struct clawsync_engine *e, struct cs_error *err); /* dirs, keystore when new */
/* CS_EEXIST: the database was set up by another device, or for another workspace. */
int cs_self_fits_database(const struct clawsync_engine *e, struct cs_error *err);
int cs_self_save(struct clawsync_engine *e, struct cs_error *err); /* the keystore. In a job. */
int cs_self_renew(struct clawsync_engine *e, size_t *lost, struct cs_error *err);
int cs_self_members_save(struct clawsync_engine *e, struct cs_error *err);
int cs_self_members_add(struct clawsync_engine *e, struct cs_slice entry, int64_t hub_time_ms, struct cs_error *err);
void cs_self_members_reset(struct clawsync_engine *e);
/* The epoch key that an entry of the log has for us, and those before it that we miss. One that is not shared rightly
 * is remembered, for the next. */
int cs_self_take_keys(struct clawsync_engine *e, struct cs_slice entry, struct cs_error *err);
/* CS_EAUTH: the key of the epoch in force is not here, and err says why. In a job. */
int cs_self_check_keys(struct clawsync_engine *e, struct cs_error *err);
/* Entry seq of our copy of the log; empty: it is not there. */
struct cs_slice cs_self_entry(const struct clawsync_engine *e, uint32_t seq);
void cs_self_find_floor(struct clawsync_engine *e);
int cs_self_pending(struct clawsync_engine *e, struct cs_buf *entry, struct cs_error *err); /* CS_ENOTFOUND */
int cs_self_pending_save(struct clawsync_engine *e, struct cs_slice entry, struct cs_error *err);
int cs_self_pending_drop(struct clawsync_engine *e, struct cs_error *err);
/* incarnation.c */
int cs_incarnation_open(struct clawsync_engine *e, struct cs_error *err); /* sets recovering */
bool cs_incarnation_had(const struct clawsync_engine *e, uint64_t incarnation);
int cs_incarnation_settle(struct clawsync_engine *e, struct cs_error *err); /* all is fetched: a new one. In a job. */
const uint8_t *cs_entry_hash_at(const struct clawsync_engine *e, uint32_t seq); /* NULL: not here */

#endif
