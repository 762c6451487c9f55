/* The mailbox of joining without a code: at most so many devices of a workspace wait at a time, and not for long; each
 * message of an exchange is put once, by whoever it is to come from, in its order. What the messages say is the
 * devices' business (identity/pair.h). On workers. */
#ifndef CS_HUB_OFFERS_H
#define CS_HUB_OFFERS_H

#include "base/arena.h"
#include "hub/commit.h"

enum { CS_OFFERS_MAX = 8, CS_OFFER_MS = 15 * 60 * 1000 };

/* Those of a workspace that have not run out. Slices are the arena's. */
struct cs_offers {
    size_t n;
    struct cs_store_offer of[CS_OFFERS_MAX];
};
int cs_offers_read(cs_store_tx *tx, const struct cs_uuid *ws, int64_t now_ms, struct cs_arena *a, struct cs_offers *out,
                   struct cs_error *err);
/* The signing key of a device that waits. CS_ENOTFOUND: none of this id does. */
int cs_offers_key(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device, int64_t now_ms,
                  uint8_t sign_pk[32], struct cs_error *err);

/* A write of CS_WRITE_PAIR. head: NULL when the workspace does not exist. */
int cs_offers_write(const struct cs_commit_env *env, cs_store_tx *tx, const struct cs_store_head *head,
                    struct cs_write *w, int64_t now_ms, struct cs_error *err);

#endif
