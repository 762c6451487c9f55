#include "crypto/head.h"

void cs_log_start(const struct cs_uuid *workspace, uint64_t log_id, uint64_t refilled, uint8_t out[32])
{
    uint8_t m[16 + 8 + 8];

    memcpy(m, workspace->b, 16);
    cs_store_u64(m + 16, log_id);
    cs_store_u64(m + 24, refilled);
    cs_hash_label("log start", cs_slice(m, sizeof m), out);
}

void cs_log_next(const uint8_t prev[32], uint64_t n, const uint8_t batch_hash[32], uint8_t out[32])
{
    uint8_t m[32 + 8 + 32];

    memcpy(m, prev, 32);
    cs_store_u64(m + 32, n);
    memcpy(m + 40, batch_hash, 32);
    cs_hash_label("log entry", cs_slice(m, sizeof m), out);
}

void cs_chain_start(const struct cs_uuid *workspace, uint64_t log_id, uint8_t out[32])
{
    uint8_t m[16 + 8];

    memcpy(m, workspace->b, 16);
    cs_store_u64(m + 16, log_id);
    cs_hash_label("chain start", cs_slice(m, sizeof m), out);
}

void cs_seen_digest(const struct cs_uuid *workspace, uint64_t log_id, uint64_t number, const uint8_t log_hash[32],
                    uint32_t member_seq, const uint8_t entry_hash[32], uint8_t out[32])
{
    uint8_t m[16 + 8 + 8 + 32 + 4 + 32];

    memcpy(m, workspace->b, 16);
    cs_store_u64(m + 16, log_id);
    cs_store_u64(m + 24, number);
    memcpy(m + 32, log_hash, 32);
    cs_store_u32(m + 64, member_seq);
    memcpy(m + 68, entry_hash, 32);
    cs_hash_label("seen", cs_slice(m, sizeof m), out);
}

/* log_id ‖ B ‖ n ‖ L_n ‖ member_seq ‖ entry hash ‖ time */
void cs_hub_head_encode(const struct cs_hub_head *h, uint8_t out[CS_HUB_HEAD_LEN])
{
    cs_store_u64(out, h->log_id);
    cs_store_u64(out + 8, h->refilled);
    cs_store_u64(out + 16, h->number);
    memcpy(out + 24, h->log_hash, 32);
    cs_store_u32(out + 56, h->member_seq);
    memcpy(out + 60, h->entry_hash, 32);
    cs_store_u64(out + 92, (uint64_t)h->time_ms);
}

bool cs_hub_head_decode(struct cs_hub_head *h, struct cs_slice bytes)
{
    struct cs_reader r = cs_reader(bytes);

    if (bytes.len != CS_HUB_HEAD_LEN)
        return false;
    h->log_id = cs_read_u64(&r);
    h->refilled = cs_read_u64(&r);
    h->number = cs_read_u64(&r);
    cs_read_into(&r, h->log_hash, sizeof h->log_hash);
    h->member_seq = cs_read_u32(&r);
    cs_read_into(&r, h->entry_hash, sizeof h->entry_hash);
    h->time_ms = (int64_t)cs_read_u64(&r);
    return cs_reader_done(&r);
}

static void digest(const struct cs_uuid *workspace, const uint8_t head[CS_HUB_HEAD_LEN], uint8_t out[CS_HASH_LEN])
{
    struct cs_hasher h;

    cs_hasher_init_label(&h, "hub head");
    cs_hasher_update(&h, workspace->b, sizeof workspace->b);
    cs_hasher_update(&h, head, CS_HUB_HEAD_LEN);
    cs_hasher_final(&h, out, CS_HASH_LEN);
}

void cs_hub_head_sign(const struct cs_sign_key *hub, const struct cs_uuid *workspace,
                      const uint8_t head[CS_HUB_HEAD_LEN], uint8_t sig[64])
{
    uint8_t hash[CS_HASH_LEN];

    digest(workspace, head, hash);
    cs_sign_digest(hub, hash, sig);
}

bool cs_hub_head_verify(const uint8_t hub_pk[32], const struct cs_uuid *workspace, struct cs_slice head,
                        struct cs_slice sig)
{
    uint8_t hash[CS_HASH_LEN];

    if (head.len != CS_HUB_HEAD_LEN || sig.len != CS_SIGNATURE_LEN)
        return false;
    digest(workspace, head.data, hash);
    return cs_verify_digest(hub_pk, hash, sig.data);
}
