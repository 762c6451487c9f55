/* Snapshots: a device's merged state at one number of the log, which the hub cannot read, and what the log can do
 * without because of it. Rules under the workspace's lock, and reads. On workers. */
#ifndef CS_HUB_SNAPSHOT_H
#define CS_HUB_SNAPSHOT_H

#include "hub/commit.h"

enum { CS_SNAPSHOT_GIVE_MS = 60000 /* so long after its last word a device that gives one is waited for */ };

enum cs_snapshot_action { CS_SNAPSHOT_BEGIN, CS_SNAPSHOT_PUT, CS_SNAPSHOT_END, CS_SNAPSHOT_ATTEST };
/* What a write of CS_WRITE_SNAPSHOT brings; all borrowed until done. */
struct cs_snapshot_write {
    enum cs_snapshot_action action;
    uint64_t log_id, number;
    uint32_t part;                /* PUT */
    const struct cs_batch *batch; /* PUT: its shape and signature were checked */
    struct cs_slice descriptor;   /* END */
    struct cs_slice attestation;  /* ATTEST */

    /* Out. */
    bool more; /* BEGIN: once more */
    bool ring; /* the workspace's devices are to be told */
};

/* A workspace's snapshots by slot, with descriptor and attestation in the arena. */
struct cs_snapshots {
    struct cs_store_snapshot at[CS_SNAPSHOT_SLOTS];
    int served; /* the newest that new devices get, or -1 */
    int other;  /* the slot of the next one */
};
int cs_snapshots_read(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_arena *a, struct cs_snapshots *out,
                      struct cs_error *err);

/* head's bytes move with what is stored. */
int cs_snapshot_write(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, bool *dirty,
                      struct cs_write *w, int64_t now_ms, struct cs_error *err);
/* The next piece of the log that nobody needs, and of a snapshot that another one has replaced; w->prune: there is
 * more. */
int cs_snapshot_prune(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, bool *dirty,
                      struct cs_write *w, int64_t now_ms, struct cs_error *err);
/* Is there one for this device to attest, or none that would let a new device in? */
int cs_snapshot_waits(const struct cs_commit_env *env, cs_store_tx *tx, const struct cs_uuid *ws,
                      const struct cs_uuid *device, const struct cs_store_head *head, bool *out, struct cs_error *err);

#endif
