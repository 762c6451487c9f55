/* The canonical batch header of 208 bytes, the batch hash and its signature: what hub and receivers check without
 * the key. Layout in docs/protocol.md; bytes are kept as they came and never rebuilt from parsed fields. */
#ifndef CS_CRYPTO_BATCH_HEADER_H
#define CS_CRYPTO_BATCH_HEADER_H

#include "crypto/keys.h"

enum {
    CS_BATCH_HEADER_LEN = 208,
    CS_BATCH_MAX_CHUNKS = 4096,
    CS_BATCH_MAX_PLAIN = 20 * 1024 * 1024, /* bytes */
    CS_BATCH_SEAL_OVERHEAD = 32 + 24 + 16  /* commitment, nonce, mac */
};
/* A collection is a batch of operations, in the log as any, at whose place tombstones go. */
enum { CS_BATCH_OPERATIONS = 1, CS_BATCH_SNAPSHOT = 2, CS_BATCH_COLLECTION = 3 };
enum { CS_CODEC_STORED = 0, CS_CODEC_ZSTD = 1, CS_CODEC_LZ4 = 2 };
enum { CS_PADDING_NONE = 0, CS_PADDING_PADME = 1 };

struct cs_batch_header {
    uint8_t kind, codec, padding;
    struct cs_uuid workspace, device;
    uint64_t incarnation;
    uint32_t epoch, chunk_count;
    uint64_t number; /* 1 for a device's first */
    uint8_t prev[32];
    uint32_t plain_len, packed_len; /* bytes */
    uint32_t nops, member_seq;
    int64_t top_stamp;
    uint64_t seen_log, seen_number;
    uint8_t seen[32];
    uint64_t audit_seq;
    uint8_t audit_head[32];
};

/* Is it a kind that the log has? */
static inline bool cs_batch_is_logged(uint8_t kind)
{
    return kind == CS_BATCH_OPERATIONS || kind == CS_BATCH_COLLECTION;
}

void cs_batch_header_encode(const struct cs_batch_header *h, uint8_t out[CS_BATCH_HEADER_LEN]);
/* CS_OK, CS_EVERSION (fourth byte higher than ours), CS_ECORRUPT (wrong length, magic, kind, codec, padding, reserved
 * bytes, a count of zero or over its cap, packed_len > plain_len, member_seq 0 …), with the reason in err. */
int cs_batch_header_decode(struct cs_batch_header *out, struct cs_slice bytes, struct cs_error *err);

/* Bytes of the sealed batch: 72 + packed_len padded as the header says. */
size_t cs_batch_sealed_len(const struct cs_batch_header *h);
size_t cs_padme(size_t n); /* n below 2 stays */

/* batch hash = H("batch", header ‖ payload hashes); hashes holds chunk_count * 32 bytes. */
void cs_batch_hash(struct cs_slice header, struct cs_slice hashes, uint8_t out[32]);
void cs_batch_sign(const struct cs_sign_key *k, struct cs_slice header, struct cs_slice hashes, uint8_t sig[64]);
bool cs_batch_verify(const uint8_t pk[32], struct cs_slice header, struct cs_slice hashes, const uint8_t sig[64]);

/* A chunk's id: the first 16 bytes of its payload hash, base64url; out holds 23 bytes with the NUL. */
void cs_chunk_id(const uint8_t payload_hash[32], char out[23]);

#endif
