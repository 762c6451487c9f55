/* This device's merged state as a set of tags and hashes (crypto/entity_set.h), as it was at one number of the log: in
 * a temporary database of SQLite's, so that memory does not grow with the rows, and the sums of its buckets in memory.
 * In jobs. */
#ifndef CS_ENGINE_ENTITIES_H
#define CS_ENGINE_ENTITIES_H

#include "crypto/entity_set.h"
#include "replica/merged.h"

typedef struct cs_entities cs_entities;

/* Reads all of the merged state under the epoch's keys. *info as cs_replica_merged; unsettled: *out is NULL. */
int cs_entities_read(cs_entities **out, cs_replica *r, const struct cs_epoch_keys *keys, struct cs_merged_info *info,
                     struct cs_error *err);
void cs_entities_free(cs_entities *e); /* NULL is fine */

const struct cs_sums *cs_entities_sums(const cs_entities *e);
const uint8_t *cs_entities_root(const cs_entities *e); /* BLAKE3 of the canonical dump */
/* A bucket's leaves, ascending, appended. */
int cs_entities_leaves(cs_entities *e, uint32_t bucket, struct cs_buf *out, struct cs_error *err);

/* Picks the entity of this tag; *known: there is one. */
int cs_entities_pick(cs_entities *e, const uint8_t tag[CS_TAG_LEN], bool *known, struct cs_error *err);
/* Up to max of those picked, in the order of the dump, behind *place (0 at first), which moves. */
int cs_entities_picked(cs_entities *e, struct cs_arena *a, int64_t place, size_t max, struct cs_entity **out,
                       int64_t **places, size_t *n, struct cs_error *err);
int cs_entities_unpick_all(cs_entities *e, struct cs_error *err);

#endif
