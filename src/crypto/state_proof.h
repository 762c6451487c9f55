/* What a device signs about the merged state that it has at one number of the log, and how that passes the hub: sealed
 * for the members of the epoch. Any thread. */
#ifndef CS_CRYPTO_STATE_PROOF_H
#define CS_CRYPTO_STATE_PROOF_H

#include "base/error.h"
#include "crypto/keys.h"

/* plain (256) = "CSV1" ‖ workspace 16 ‖ device 16 ‖ log_id u64 ‖ number u64 ‖ log hash 32 ‖ rows u64 ‖ root 32 ‖
 * time i64 ‖ 0*60 ‖ SIG(device, "state proof", the first 192 bytes). */
enum {
    CS_PROOF_SIGNED = 192,
    CS_PROOF_PLAIN = 256,
    CS_PROOF_LEN = 4 + CS_NONCE_LEN + CS_PROOF_PLAIN + CS_BOX_OVERHEAD
};

struct cs_state_proof {
    struct cs_uuid workspace, device;
    uint64_t log_id, number; /* where in the log */
    uint8_t log_hash[32];    /* L_number */
    uint64_t rows;           /* entities, tombstones and hidden ones included */
    uint8_t root[32];        /* BLAKE3 of the canonical dump */
    int64_t time_ms;         /* Unix ms, the device's */
};

/* sealed = epoch u32 ‖ nonce ‖ BOX(k, nonce, plain), k = MAC(state key of the epoch, "proof" ‖ device, 32) */
void cs_state_proof_seal(const struct cs_state_proof *p, const struct cs_sign_key *key,
                         const struct cs_epoch_keys *epoch, const struct cs_rng *rng, uint8_t out[CS_PROOF_LEN]);
/* The epoch whose key opens it; false: it is too short or too long. */
bool cs_state_proof_epoch(struct cs_slice sealed, uint32_t *epoch);
/* As the device of this id, with this key, sealed and signed it: CS_EAUTH; CS_ECORRUPT: not that shape. */
int cs_state_proof_open(struct cs_state_proof *out, struct cs_slice sealed, const struct cs_uuid *workspace,
                        const struct cs_uuid *device, const uint8_t sign_pk[32], const struct cs_epoch_keys *epoch,
                        struct cs_error *err);

#endif
