/* What a device says of a snapshot of its merged state, signed: of which place in the log it is, which parts it has,
 * and how far each device's chain had come there. Bytes in docs/protocol.md. Any thread. */
#ifndef CS_CRYPTO_SNAPSHOT_H
#define CS_CRYPTO_SNAPSHOT_H

#include "base/error.h"
#include "crypto/state_proof.h"

enum {
    CS_DESCRIPTOR_MAX = 256 * 1024,
    CS_SNAPSHOT_PEERS_MAX = 4096,
    CS_SNAPSHOT_PEER_LEN = 16 + 8 + 32 + 4,
    CS_ATTESTATION_LEN = CS_PROOF_LEN + CS_SIGNATURE_LEN
};

struct cs_snapshot_peer {
    struct cs_uuid device;
    uint64_t number; /* its last batch in the log up to there */
    uint8_t hash[32];
    uint32_t member_seq; /* of that batch */
};

struct cs_descriptor {
    struct cs_uuid workspace, device;
    uint64_t log_id, number;
    uint8_t log_hash[32]; /* L_number */
    int64_t top_stamp;    /* highest that a batch up to there declared */
    uint32_t member_seq;  /* membership entry that the device had verified */
    uint8_t entry_hash[32];
    uint32_t highest_epoch; /* of a batch up to there */
    uint32_t parts;
    uint64_t rows;
    uint8_t digest[32];          /* over the parts */
    uint8_t proof[CS_PROOF_LEN]; /* of the same state, at the same place */
    struct cs_slice peers;       /* borrowed: npeers times CS_SNAPSHOT_PEER_LEN, ids ascending */
    uint32_t npeers;
};

void cs_snapshot_peer_encode(const struct cs_snapshot_peer *p, uint8_t out[CS_SNAPSHOT_PEER_LEN]);
void cs_snapshot_peer_at(const struct cs_descriptor *d, uint32_t i, struct cs_snapshot_peer *out);

/* The digest before the first part, and with one more: that of a batch hash. */
void cs_snapshot_digest_start(const struct cs_uuid *workspace, const struct cs_uuid *device, uint64_t log_id,
                              uint64_t number, uint8_t out[32]);
void cs_snapshot_digest_next(uint8_t digest[32], uint32_t part, const uint8_t batch_hash[32]);

void cs_descriptor_seal(struct cs_buf *out, const struct cs_descriptor *d, const struct cs_sign_key *key);
/* CS_ECORRUPT: not that shape, CS_EVERSION: of a newer one. Unverified. */
int cs_descriptor_read(struct cs_descriptor *out, struct cs_slice bytes, struct cs_error *err);
bool cs_descriptor_verify(struct cs_slice bytes, const uint8_t sign_pk[32]);

/* What attests a snapshot: another device's proof of the same state, and its signature below the very descriptor. Those
 * of before the signature was there are the proof alone. */
void cs_attestation_seal(const uint8_t proof[CS_PROOF_LEN], struct cs_slice descriptor, const struct cs_sign_key *key,
                         uint8_t out[CS_ATTESTATION_LEN]);
/* The proof in it; empty: it is no attestation. */
struct cs_slice cs_attestation_proof(struct cs_slice bytes);
/* Is that descriptor signed in it? */
bool cs_attestation_covers(struct cs_slice bytes, struct cs_slice descriptor, const uint8_t sign_pk[32]);

#endif
