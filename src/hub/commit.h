/* One group commit: everything that waits to be written, in one transaction, with one fsync. Runs on a worker thread;
 * knows the store and the rules, nothing of calls. */
#ifndef CS_HUB_COMMIT_H
#define CS_HUB_COMMIT_H

#include "crypto/head.h"
#include "hub/log_rules.h"
#include "hub/members.h"

enum cs_write_kind {
    CS_WRITE_BATCH,    /* one more batch in a workspace's log */
    CS_WRITE_ENTRY,    /* one more membership entry */
    CS_WRITE_REFILL,   /* entries given back, and a new log (refill.h) */
    CS_WRITE_PAIR,     /* a message between a device that waits and a member: the entry */
    CS_WRITE_STATE,    /* of the reference and what belongs to it (reference.h) */
    CS_WRITE_SNAPSHOT, /* of a snapshot (snapshot.h) */
    CS_WRITE_SEEN,     /* when the hub last heard of a device, and how far it had read; never refused */
    CS_WRITE_PRUNE     /* the next piece of what the log can do without; never refused */
};

/* A workspace's head with the hub's signature. */
struct cs_signed_head {
    struct cs_store_head head;
    uint8_t bytes[CS_HUB_HEAD_LEN];
    uint8_t signature[CS_SIGNATURE_LEN];
};

struct cs_state_write;
struct cs_snapshot_write;
struct cs_write {
    enum cs_write_kind kind;
    struct cs_uuid workspace;
    /* In, by kind; borrowed until done. */
    const struct cs_batch *batch;
    struct cs_slice entry;
    bool may_create; /* entry: a genesis makes the workspace */
    struct cs_uuid device;
    uint8_t offer_hash[32]; /* pair, but for an offer */
    uint8_t sign_pk[32];    /* refill: the key under which the device proved itself */
    int64_t seen_ms;
    uint64_t log_id, pulled; /* seen: it has read that log up to there; 0: unknown */
    struct cs_state_write *state;
    struct cs_snapshot_write *snapshot;
    size_t bytes; /* roughly what this write keeps in memory */

    /* Out. */
    struct cs_verdict verdict;  /* CS_RPC_OK: durable */
    bool changed;               /* it moved the workspace's head */
    bool unsure;                /* the store failed on the way: it may have, all the same */
    uint64_t log_number;        /* of the batch, or of the stored one */
    struct cs_buf stored;       /* owned: header ‖ signature ‖ payload hashes of the batch that a refusal shows */
    struct cs_uuid hold;        /* a removal came too late for this device's batches; zero: none did */
    bool prune;                 /* the log may be pruned now: a write of that kind is due */
    bool has_head;              /* the workspace exists */
    struct cs_signed_head head; /* as committed */

    void (*done)(struct cs_write *w); /* on the loop; w is the owner's again */
    struct cs_write *next;            /* while it waits */
    size_t order;                     /* of arrival, within the group */
};

/* What one workspace may have. 0: as much as it likes. */
struct cs_quota {
    uint32_t devices;     /* at once */
    uint64_t bytes;       /* of ciphertext in its log, and of its reference */
    uint64_t bytes_per_s; /* of batches that come in, ten seconds' worth at once */
};

/* When a log may lose what a snapshot has. */
#define CS_NEVER_PRUNE UINT64_MAX
struct cs_pruning {
    uint64_t retention_ms; /* after the snapshot was attested; CS_NEVER_PRUNE */
    uint64_t silent_ms;    /* a device that was not heard of for so long is not waited for; 0: all are */
};

/* What a group commit needs of the hub; borrowed, thread-safe. */
struct cs_commit_env {
    struct cs_quota quota;
    struct cs_pruning pruning;
    struct cs_world *world;
    struct cs_rng rng;
    struct cs_sign_key *key;
    struct cs_store *store;
    cs_members *members;
};

void cs_head_sign(const struct cs_commit_env *env, const struct cs_uuid *ws, const struct cs_store_head *head,
                  struct cs_signed_head *out);

/* Judges and stores every write of the group and fills in its out fields: refused ones leave no trace and take no
 * other down; numbers are given in the order of the array within each workspace. w is sorted in place. */
void cs_commit_group(const struct cs_commit_env *env, struct cs_write **w, size_t n);

/* Is this very entry the workspace's number seq? */
int cs_entry_is_stored(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t seq, struct cs_slice entry, bool *out,
                       struct cs_error *err);

/* The status for a call that failed on the store. Logs the cause, which the client does not get to see. */
void cs_refuse_storage(struct cs_verdict *v, const struct cs_error *err);

#endif
