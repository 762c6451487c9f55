/* queue.db: sets of operations that wait outside the application's database, each sealed under the device's local key.
 *
 *   pending    waits for the hub; or, with no batch named, to be taken back into the database and sent from there
 *   in_flight  its batch is on its way
 *   failed     refused by the hub for good, with the reason: stays until it is retried
 *   done       sent, or taken back; without its content, the newest ones for looking at
 *
 *   put ─▶ pending ⇄ in_flight ─▶ done         put ─▶ failed ─▶ retry ─▶ pending ─▶ taken back: done
 *
 * A set that names a batch is a copy: the batch in the application's database is what is sent, and the copy may go at
 * any time. One that names none exists here only. Two files have no transaction in common: what moves here is written
 * here first, and what moves back is written there first; a set's id is a hash of its content, so that either step can
 * be repeated (cs_queue_reconcile says how a crash between the two is told).
 *
 * Threads: one at a time, any. Other processes may look and retry at the same time. Every change is on disk when the
 * call returns, or did not happen. Errors: CS_EBUSY, CS_EIO, CS_EDB, CS_ECORRUPT, CS_ENOMEM, besides those named. */
#ifndef CS_QUEUE_QUEUE_H
#define CS_QUEUE_QUEUE_H

#include "base/arena.h"
#include "base/world.h"
#include "crypto/rng.h"

typedef struct cs_queue cs_queue;

enum { CS_QUEUE_ID_LEN = 16, CS_QUEUE_DONE_KEPT = 100, CS_QUEUE_ID_TEXT = 33 };
enum cs_queue_state { CS_QUEUE_PENDING, CS_QUEUE_IN_FLIGHT, CS_QUEUE_FAILED, CS_QUEUE_DONE };
const char *cs_queue_state_name(enum cs_queue_state s); /* "pending", "in_flight" … */

struct cs_queue_options {
    const char *path;
    const uint8_t *key; /* the device's local key, borrowed; NULL: content is neither written nor read */
    const struct cs_rng *rng;
    bool read_only; /* CS_ENOTFOUND when there is no file */
};
/* CS_EVERSION: of a newer format. Makes the file, mode 0600, when it is not there. */
int cs_queue_open(cs_queue **out, struct cs_world *w, const struct cs_queue_options *o, struct cs_error *err);
void cs_queue_close(cs_queue *q); /* NULL is fine */

struct cs_queue_counts {
    uint64_t pending, in_flight, failed, done;
    uint64_t own; /* of the pending ones: those that exist here only */
};
int cs_queue_counts(cs_queue *q, struct cs_queue_counts *out, struct cs_error *err);

struct cs_queue_entry {
    uint8_t id[CS_QUEUE_ID_LEN];
    enum cs_queue_state state;
    bool has_batch;
    uint8_t batch[32]; /* hash of the bound batch that carries it */
    uint64_t number;   /* of that batch, or of the last one that carried it */
    uint64_t operations, bytes, attempts;
    int64_t queued_ms, changed_ms;
    const char *reason;
};
/* All of them in the order in which they came, in the arena. */
int cs_queue_list(cs_queue *q, struct cs_arena *a, struct cs_queue_entry **out, size_t *n, struct cs_error *err);
/* The content, appended to out. CS_ENOTFOUND: no such set, or it is done; CS_ECORRUPT: it does not open. */
int cs_queue_content(cs_queue *q, const uint8_t id[CS_QUEUE_ID_LEN], struct cs_buf *out, struct cs_error *err);

/* A set on its way in. */
struct cs_queue_set {
    uint8_t batch[32];
    uint64_t number, operations;
    struct cs_slice content;
};
/* Puts sets in, pending or failed, all or none. One that is there already changes its state and counts one attempt
 * more. reason: why it is here. */
int cs_queue_put(cs_queue *q, const struct cs_queue_set *sets, size_t n, enum cs_queue_state state, const char *reason,
                 struct cs_error *err);

/* These four do nothing without a queue (NULL), and cost nothing while no set names a batch. */
/* Copies of bound batches: those that wait are on their way now. */
int cs_queue_sending(cs_queue *q, struct cs_error *err);
/* The hub has this batch: the set that it carried is done. */
int cs_queue_accepted(cs_queue *q, const uint8_t batch[32], struct cs_error *err);
/* Batches are about to be bound anew or taken back: their copies go, refused sets stay. To be called first. */
int cs_queue_release(cs_queue *q, struct cs_error *err);
/* A refused set's batch is gone from the application's database: it exists here only. */
int cs_queue_detach(cs_queue *q, const uint8_t batch[32], struct cs_error *err);

/* The oldest set to be taken back: pending, and here only. CS_ENOTFOUND: there is none. */
int cs_queue_next_own(cs_queue *q, struct cs_queue_entry *out, struct cs_error *err);
int cs_queue_done(cs_queue *q, const uint8_t id[CS_QUEUE_ID_LEN], const char *reason, struct cs_error *err);
/* It cannot be taken back, for this reason. */
int cs_queue_failed(cs_queue *q, const uint8_t id[CS_QUEUE_ID_LEN], const char *reason, struct cs_error *err);

/* Failed sets that exist here only become pending; id NULL: all. *n: how many. CS_ENOTFOUND: id is no failed set. */
int cs_queue_retry(cs_queue *q, const uint8_t *id, uint64_t *n, struct cs_error *err);

/* After opening: what became of each set that names a batch, for the caller to say: is this batch still bound? Else,
 * has the hub taken its number? Neither: the database is older than the queue, which alone has the set. */
struct cs_queue_truth {
    bool (*bound)(void *arg, const uint8_t batch[32]);
    void *arg;
    uint64_t accepted; /* number of the last batch that the hub took */
};
int cs_queue_reconcile(cs_queue *q, const struct cs_queue_truth *t, struct cs_error *err);

#endif
