#include "crypto/entity_set.h"

void cs_entity_tag(const uint8_t tag_key[32], struct cs_slice table, struct cs_slice key, uint8_t out[CS_TAG_LEN])
{
    struct cs_hasher h;
    uint8_t n[4];

    cs_hasher_init_keyed(&h, tag_key);
    cs_store_u16(n, (uint16_t)table.len);
    cs_hasher_update(&h, n, 2);
    cs_hasher_update(&h, table.data, table.len);
    cs_store_u32(n, (uint32_t)key.len);
    cs_hasher_update(&h, n, 4);
    cs_hasher_update(&h, key.data, key.len);
    cs_hasher_final(&h, out, CS_TAG_LEN);
}

void cs_state_key(const uint8_t tag_key[32], uint8_t out[32])
{
    cs_hash_label("entity state", cs_slice(tag_key, 32), out);
}

void cs_entity_state(const uint8_t state_key[32], struct cs_slice row, uint8_t out[CS_STATE_LEN])
{
    cs_mac(state_key, row, out, CS_STATE_LEN);
}

bool cs_range_read(struct cs_range *out, const uint8_t p[CS_RANGE_LEN])
{
    *out = (struct cs_range){ p[0], cs_load_u16(p + 1) };
    return out->depth <= CS_RANGE_DEPTH && (out->prefix & (0xffffu >> (4 * out->depth))) == 0;
}

void cs_range_write(const struct cs_range *r, uint8_t p[CS_RANGE_LEN])
{
    p[0] = r->depth;
    cs_store_u16(p + 1, r->prefix);
}

void cs_children_add(const struct cs_range *r, uint32_t bucket, const uint8_t sum[CS_STATE_LEN],
                     uint8_t children[CS_CHILDREN_LEN])
{
    unsigned child = bucket >> (4 * (3 - r->depth)) & 15;

    cs_sum_add(children + (size_t)child * CS_STATE_LEN, sum);
}

void cs_sums_add(struct cs_sums *s, const uint8_t leaf[CS_LEAF_LEN])
{
    uint32_t bucket = cs_tag_bucket(leaf);

    s->rows++;
    s->count[bucket]++;
    cs_sum_add(s->sum[bucket], leaf + CS_TAG_LEN);
}

void cs_sums_children(const struct cs_sums *s, const struct cs_range *r, uint8_t children[CS_CHILDREN_LEN])
{
    memset(children, 0, CS_CHILDREN_LEN);
    for (uint32_t b = cs_range_first(r); b <= cs_range_last(r); b++)
        if (s->count[b] > 0)
            cs_children_add(r, b, s->sum[b], children);
}

void cs_sums_total(const struct cs_sums *s, uint8_t out[CS_STATE_LEN])
{
    memset(out, 0, CS_STATE_LEN);
    for (uint32_t b = 0; b < CS_BUCKETS; b++)
        cs_sum_add(out, s->sum[b]);
}

bool cs_leaves_valid(struct cs_slice leaves, uint32_t bucket)
{
    if (leaves.len % CS_LEAF_LEN != 0)
        return false;
    for (size_t at = 0; at < leaves.len; at += CS_LEAF_LEN)
        if (cs_tag_bucket(leaves.data + at) != bucket ||
            (at > 0 && memcmp(leaves.data + at - CS_LEAF_LEN, leaves.data + at, CS_TAG_LEN) >= 0))
            return false;
    return true;
}

void cs_leaves_sum(struct cs_slice leaves, uint8_t out[CS_STATE_LEN])
{
    memset(out, 0, CS_STATE_LEN);
    for (size_t at = 0; at + CS_LEAF_LEN <= leaves.len; at += CS_LEAF_LEN)
        cs_sum_add(out, leaves.data + at + CS_TAG_LEN);
}

bool cs_leaves_compare(struct cs_slice a, struct cs_slice b, cs_leaf_visit *visit, void *arg)
{
    size_t i = 0, k = 0;

    while (i < a.len || k < b.len) {
        const uint8_t *x = i < a.len ? a.data + i : NULL, *y = k < b.len ? b.data + k : NULL;
        int c = x == NULL ? 1 : y == NULL ? -1 : memcmp(x, y, CS_TAG_LEN);

        if (c < 0 && !visit(arg, CS_LEAF_ONLY_A, x))
            return false;
        if (c > 0 && !visit(arg, CS_LEAF_ONLY_B, y))
            return false;
        if (c == 0 && memcmp(x + CS_TAG_LEN, y + CS_TAG_LEN, CS_STATE_LEN) != 0 && !visit(arg, CS_LEAF_DIFFERS, x))
            return false;
        i += c <= 0 ? CS_LEAF_LEN : 0;
        k += c >= 0 ? CS_LEAF_LEN : 0;
    }
    return true;
}
