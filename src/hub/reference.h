/* The reference: one device's state at one number of the log, as a set of tags and hashes that mean nothing to the hub,
 * with which the others compare theirs at that number only. Rules under the workspace's lock, and reads. On workers. */
#ifndef CS_HUB_REFERENCE_H
#define CS_HUB_REFERENCE_H

#include "crypto/entity_set.h"
#include "hub/commit.h"

enum {
    CS_BUCKET_MAX_BYTES = 256 * 1024, /* of leaves: 8,192 entities in one of 65,536 buckets */
    CS_WANTED_MAX = 65536,            /* tags that one device is asked for */
    CS_WHOLE_MAX = 65536,             /* entities that a reference may have to be compared in one request */
    CS_GIVE_MS = 60000                /* so long after its last word a device that gives is waited for */
};

enum cs_state_action {
    CS_STATE_BEGIN, /* does the caller compare, or give? */
    CS_STATE_PUT,
    CS_STATE_END,
    CS_STATE_WANT,
    CS_STATE_GAVE,
    CS_STATE_PROVE,
    CS_STATE_WHOLE /* compares or gives a whole set at once */
};
/* What a write of CS_WRITE_STATE brings; all borrowed until done. */
struct cs_state_write {
    enum cs_state_action action;
    uint64_t log_id, number;
    uint32_t epoch;
    bool only_prove;
    bool take;                             /* BEGIN: gives in any case */
    const struct cs_store_bucket *buckets; /* PUT: prefix and leaves */
    size_t nbuckets;
    uint64_t rows; /* END */
    uint8_t sum[CS_STATE_LEN];
    struct cs_slice tags;   /* WANT, GAVE */
    struct cs_slice proof;  /* PROVE, END */
    struct cs_slice leaves; /* WHOLE: all, ascending */

    /* Out. */
    bool give;
    bool ring; /* the workspace's devices are to be told */
    struct cs_store_reference reference;
    struct cs_buf only_here, only_there, differ; /* owned: WHOLE: tags */
};

/* head's bytes move with what is stored. */
int cs_reference_write(const struct cs_commit_env *env, cs_store_tx *tx, struct cs_store_head *head, bool *dirty,
                       struct cs_write *w, int64_t now_ms, struct cs_error *err);

/* May the device read the reference, with a state of that place? Refuses with "catch-up" and ABORTED. */
bool cs_reference_readable(const struct cs_store_reference *r, bool exists, const struct cs_uuid *device,
                           uint64_t log_id, uint64_t number, uint32_t epoch, struct cs_verdict *v);
/* Is there something for this device to compare or to publish? */
int cs_reference_waits(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                       const struct cs_store_head *head, bool *out, struct cs_error *err);

#endif
