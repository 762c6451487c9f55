/* Sets of entities as two parties compare them, one of which must not know what they are: to each a tag and a hash of
 * its state, both under keys of the epoch. A range of tags has as its sum the XOR of the hashes in it; sums of all
 * ranges with a prefix of 0 … 4 nibbles make a 16-ary tree, whose leaves are 65,536 buckets. Any thread.
 *
 * XOR is enough here: who does not have the key cannot choose hashes, and who has it is a member. What members sign
 * about a state (state_proof.h) is BLAKE3 over all of it. */
#ifndef CS_CRYPTO_ENTITY_SET_H
#define CS_CRYPTO_ENTITY_SET_H

#include "base/error.h"
#include "crypto/keys.h"

enum {
    CS_TAG_LEN = 16,
    CS_STATE_LEN = 16, /* of an entity's state's hash, and of a sum */
    CS_LEAF_LEN = CS_TAG_LEN + CS_STATE_LEN,
    CS_BUCKETS = 65536,
    CS_RANGE_DEPTH = 4, /* nibbles of a bucket's prefix */
    CS_FANOUT = 16,
    CS_CHILDREN_LEN = CS_FANOUT * CS_STATE_LEN,
    CS_RANGE_LEN = 3 /* a range as bytes: depth u8 ‖ prefix u16 */
};

/* tag = MAC(tag key, u16 n ‖ table ‖ u32 n ‖ key bytes, 16) */
void cs_entity_tag(const uint8_t tag_key[32], struct cs_slice table, struct cs_slice key, uint8_t out[CS_TAG_LEN]);
/* H("entity state", tag key): what hashes of states are under. */
void cs_state_key(const uint8_t tag_key[32], uint8_t out[32]);
/* MAC(state key, the entity's row of the canonical dump, 16) */
void cs_entity_state(const uint8_t state_key[32], struct cs_slice row, uint8_t out[CS_STATE_LEN]);

/* Its bucket: the tag's first two bytes. */
static inline uint32_t cs_tag_bucket(const uint8_t tag[CS_TAG_LEN])
{
    return cs_load_u16(tag);
}

/* All tags whose first `depth` nibbles are prefix's; the others of prefix are 0. */
struct cs_range {
    uint8_t depth;
    uint16_t prefix;
};
/* False: a depth above CS_RANGE_DEPTH, or a prefix with more nibbles than that. */
bool cs_range_read(struct cs_range *out, const uint8_t p[CS_RANGE_LEN]);
void cs_range_write(const struct cs_range *r, uint8_t p[CS_RANGE_LEN]);
static inline uint32_t cs_range_first(const struct cs_range *r) /* its buckets */
{
    return r->prefix;
}
static inline uint32_t cs_range_last(const struct cs_range *r)
{
    return r->prefix + (0xffffu >> (4 * r->depth));
}
/* Child i of a range above the buckets. */
static inline struct cs_range cs_range_child(const struct cs_range *r, unsigned i)
{
    return (struct cs_range){ (uint8_t)(r->depth + 1), (uint16_t)(r->prefix | i << (4 * (3 - r->depth))) };
}

static inline void cs_sum_add(uint8_t sum[CS_STATE_LEN], const uint8_t state[CS_STATE_LEN])
{
    for (int i = 0; i < CS_STATE_LEN; i++)
        sum[i] ^= state[i];
}
/* The sums of a range's children, one after the other, from those of its buckets: bucket b's is added. */
void cs_children_add(const struct cs_range *r, uint32_t bucket, const uint8_t sum[CS_STATE_LEN],
                     uint8_t children[CS_CHILDREN_LEN]);

/* The sums of all buckets of a set in memory, 1.3 MB. */
struct cs_sums {
    uint64_t rows;
    uint32_t count[CS_BUCKETS];
    uint8_t sum[CS_BUCKETS][CS_STATE_LEN];
};
void cs_sums_add(struct cs_sums *s, const uint8_t leaf[CS_LEAF_LEN]);
void cs_sums_children(const struct cs_sums *s, const struct cs_range *r, uint8_t children[CS_CHILDREN_LEN]);
void cs_sums_total(const struct cs_sums *s, uint8_t out[CS_STATE_LEN]);

/* Leaves, one after the other: whole ones, of this bucket, tags strictly ascending. */
bool cs_leaves_valid(struct cs_slice leaves, uint32_t bucket);
void cs_leaves_sum(struct cs_slice leaves, uint8_t out[CS_STATE_LEN]);
/* What two lists of ascending leaves have alone, and what they have with different states. */
enum cs_leaf_difference { CS_LEAF_ONLY_A, CS_LEAF_ONLY_B, CS_LEAF_DIFFERS };
typedef bool cs_leaf_visit(void *arg, enum cs_leaf_difference d, const uint8_t tag[CS_TAG_LEN]); /* false: stop */
bool cs_leaves_compare(struct cs_slice a, struct cs_slice b, cs_leaf_visit *visit, void *arg);

#endif
