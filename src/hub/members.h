/* The membership of workspaces as the hub knows it: a bounded cache of folds over the entries in the store, always
 * brought to the head row of the transaction at hand, so that it can never be newer or older than what that
 * transaction sees. Thread-safe. */
#ifndef CS_HUB_MEMBERS_H
#define CS_HUB_MEMBERS_H

#include "hub/store.h"
#include "identity/membership.h"

typedef struct cs_members cs_members;
int cs_members_new(cs_members **out, struct cs_error *err);
void cs_members_free(cs_members *m); /* NULL is fine */

/* One principal, and the epoch in force, at a head. */
struct cs_member_info {
    uint8_t kind; /* enum cs_principal; 0: not known */
    bool active;
    uint8_t sign_pk[32], box_pk[32];
    uint32_t epoch_seq;
    uint64_t refills; /* entries that began a log */
};
/* CS_OK also for an unknown principal (kind 0). */
int cs_members_find(cs_members *m, cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_head *head,
                    const struct cs_uuid *id, struct cs_member_info *out, struct cs_error *err);
/* The signing key alone, which never changes for an id: from the cache without asking the store, if it is there. */
bool cs_members_cached_key(cs_members *m, const struct cs_uuid *ws, const struct cs_uuid *id, uint8_t sign_pk[32]);

/* The ids of up to cap active devices. */
int cs_members_devices(cs_members *m, cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_head *head,
                       struct cs_uuid *out, size_t cap, size_t *n, struct cs_error *err);

/* Verifies the next entry and moves head's member_seq, entry_hash and epoch on; storing both is the caller's. head
 * with member_seq 0 is a workspace before its genesis. before, after: active devices. Codes of cs_membership_apply. */
int cs_members_append(cs_members *m, cs_store_tx *tx, const struct cs_uuid *ws, struct cs_store_head *head,
                      struct cs_slice entry, int64_t hub_now_ms, size_t *before, size_t *after, struct cs_error *err);

#endif
