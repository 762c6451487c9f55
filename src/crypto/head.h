/* The hub's log as a hash chain, what a device has seen of it, and heads that the hub signs (docs/protocol.md). */
#ifndef CS_CRYPTO_HEAD_H
#define CS_CRYPTO_HEAD_H

#include "crypto/keys.h"

/* L_0 */
void cs_log_start(const struct cs_uuid *workspace, uint64_t log_id, uint64_t refilled, uint8_t out[32]);
/* L_n from L_(n-1); prev and out may be the same. */
void cs_log_next(const uint8_t prev[32], uint64_t n, const uint8_t batch_hash[32], uint8_t out[32]);
/* In a log that the g-th refill began (g > 0) a device's chain begins behind this number, with this hash as its prev:
 * so no number comes twice, whatever a device knew of its chain in the log before, and nothing of that log fits. */
#define CS_CHAIN_BASE(g) ((uint64_t)(g) << 40)
void cs_chain_start(const struct cs_uuid *workspace, uint64_t log_id, uint8_t out[32]);
void cs_seen_digest(const struct cs_uuid *workspace, uint64_t log_id, uint64_t number, const uint8_t log_hash[32],
                    uint32_t member_seq, const uint8_t entry_hash[32], uint8_t out[32]);

enum { CS_HUB_HEAD_LEN = 8 + 8 + 8 + 32 + 4 + 32 + 8 };
struct cs_hub_head {
    uint64_t log_id, refilled, number;
    uint8_t log_hash[32]; /* L_number */
    uint32_t member_seq;
    uint8_t entry_hash[32];
    int64_t time_ms;
};
void cs_hub_head_encode(const struct cs_hub_head *h, uint8_t out[CS_HUB_HEAD_LEN]);
bool cs_hub_head_decode(struct cs_hub_head *h, struct cs_slice bytes);
void cs_hub_head_sign(const struct cs_sign_key *hub, const struct cs_uuid *workspace,
                      const uint8_t head[CS_HUB_HEAD_LEN], uint8_t sig[64]);
bool cs_hub_head_verify(const uint8_t hub_pk[32], const struct cs_uuid *workspace, struct cs_slice head,
                        struct cs_slice sig);

#endif
