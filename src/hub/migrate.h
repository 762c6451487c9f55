/* Moving a hub's data from one store to another, of any two kinds, while no hub uses either. It can be cut off at any
 * point and begun again; a store that has an older state of the same logs, such as the one that was moved away from
 * long ago, gets what is missing. Everything that was moved is read again from both sides and compared.
 *
 * A mark in each store says how far a move has come, so that no hub starts on half of one, or on what was left behind:
 * the head of a workspace of its own, the zero id, which no device can name. */
#ifndef CS_HUB_MIGRATE_H
#define CS_HUB_MIGRATE_H

#include "hub/store.h"

struct cs_migrated {
    uint64_t workspaces, entries, batches, bytes; /* looked at; moved, of the others; bytes of ciphertext */
};

/* Blocks, for as long as it takes. told, if not NULL, is called now and then, on this thread.
 * CS_EEXIST: the target has what the source has not, and nothing was changed in that workspace; CS_EBUSY: the source
 * keeps changing, so a hub still runs on it; CS_ECORRUPT: a side does not hold what it should; what a store says. */
int cs_migrate(const struct cs_store *from, const struct cs_store *to,
               void (*told)(void *arg, const struct cs_migrated *so_far), void *arg, struct cs_migrated *out,
               struct cs_error *err);

/* May a hub start on this store? CS_EABORTED: a move to it has not ended, or it was moved away from. */
int cs_migrate_check(const struct cs_store *s, struct cs_error *err);

#endif
