/* Batches: a delta set ⇄ encoded, compressed, encrypted, cut into chunks, hashed and signed. Any thread; a packer or
 * unpacker serves one thread at a time. Bytes in docs/protocol.md. */
#ifndef CS_DELTA_PACK_H
#define CS_DELTA_PACK_H

#include "crdt/op.h"
#include "crypto/batch_header.h"

/* Protobuf bytes of a delta set (proto/clawsync/v1/delta.proto), appended to out. */
int cs_delta_encode(struct cs_buf *out, const struct cs_delta *d, struct cs_error *err);
/* The inverse; names, keys and values point into `bytes`, arrays into the arena. Checks every count, order and
 * position: CS_ECORRUPT with the reason. No stamp may lie above top_stamp or below 1. */
int cs_delta_decode(struct cs_delta *out, struct cs_arena *a, struct cs_slice bytes, int64_t top_stamp,
                    struct cs_error *err);

/* Upper bound, in bytes, of what one op adds to the encoding: for filling a batch to its limit. */
size_t cs_delta_op_size(const struct cs_op *op);

/* A bound batch: what is stored, re-sent and taken apart again. */
struct cs_batch {
    uint8_t header[CS_BATCH_HEADER_LEN];
    uint8_t signature[CS_SIGNATURE_LEN];
    uint8_t hash[32];            /* batch hash */
    uint32_t nchunks, chunk_len; /* every chunk has chunk_len bytes, the last the rest */
    struct cs_buf hashes;        /* owned: nchunks * 32 bytes */
    struct cs_buf sealed;        /* owned: all chunks, joined */
};
void cs_batch_free(struct cs_batch *b); /* and zeroes it, ready for use */
struct cs_slice cs_batch_chunk(const struct cs_batch *b, uint32_t i);

typedef struct cs_packer cs_packer; /* compression contexts and scratch memory, reused from batch to batch */
int cs_packer_new(cs_packer **out, const struct cs_rng *r, struct cs_error *err);
void cs_packer_free(cs_packer *p);

/* Packs d under *h into out (zeroed, or an earlier batch, whose memory is used again; on failure it is empty): on entry
 * h says codec, padding, workspace, device, incarnation, epoch, number, prev, member_seq, seen…, audit…; kind,
 * chunk_count, lengths, nops and top_stamp are filled in here. max_chunk: bytes, 1024 … 1 MiB. When packing does not
 * shrink the payload the codec becomes "stored". */
int cs_pack(cs_packer *p, const struct cs_delta *d, struct cs_batch_header *h, const struct cs_epoch_keys *keys,
            const struct cs_sign_key *signer, uint32_t max_chunk, struct cs_batch *out, struct cs_error *err);
/* Binds the operations of an old batch anew under another header (a new epoch, number or seen): opens it, packs it. */
int cs_repack(cs_packer *p, const struct cs_batch *old, const struct cs_epoch_keys *old_keys, struct cs_batch_header *h,
              const struct cs_epoch_keys *keys, const struct cs_sign_key *signer, uint32_t max_chunk,
              struct cs_batch *out, struct cs_error *err);

/* The same of a part of a snapshot: rows of the canonical dump, one after the other, of nrows; h->kind and top_stamp
 * are filled in from them, too. CS_ECORRUPT: they are not such rows. */
int cs_pack_state(cs_packer *p, struct cs_slice rows, uint32_t nrows, struct cs_batch_header *h,
                  const struct cs_epoch_keys *keys, const struct cs_sign_key *signer, uint32_t max_chunk,
                  struct cs_batch *out, struct cs_error *err);
/* Rows of the canonical dump (crdt/dump.h) as operations of merged state, the delete, the insert and the updates of
 * each, as `sender` would send them. Everything points into bytes or the arena. CS_ECORRUPT with the reason. */
int cs_delta_from_dump(struct cs_delta *out, struct cs_arena *a, struct cs_slice bytes, const struct cs_uuid *sender,
                       uint32_t *nrows, struct cs_error *err);

/* What a receiver finds, by severity: names of docs/protocol.md. */
enum cs_unpack_fault {
    CS_FAULT_NONE,
    CS_FAULT_BAD_CHUNK,
    CS_FAULT_BAD_COMMITMENT,
    CS_FAULT_BAD_CIPHERTEXT,
    CS_FAULT_BAD_CONTENT,
    CS_FAULT_BAD_HEADER /* not the header that the caller has checked */
};
const char *cs_unpack_fault_name(enum cs_unpack_fault f); /* "BAD_CHUNK" … */

/* Opens a batch whose header and signature were checked already: payload hashes, sealed length, commitment, padding,
 * decompression to exactly plain_len, parse, counts, stamps. `out` lives in the packer until its next call.
 * CS_OK, CS_ECORRUPT (then *fault says which), CS_ENOMEM. */
int cs_unpack(cs_packer *p, const struct cs_batch *b, const struct cs_epoch_keys *keys, struct cs_delta *out,
              enum cs_unpack_fault *fault, struct cs_error *err);

/* Opens a part of a snapshot in the same way: its rows, and what they are as operations. */
int cs_unpack_state(cs_packer *p, const struct cs_batch *b, const struct cs_epoch_keys *keys, struct cs_slice *rows,
                    struct cs_delta *out, enum cs_unpack_fault *fault, struct cs_error *err);

/* The stored form of a batch, for the table of bound ones: u32 chunk_len ‖ header ‖ signature ‖ u32 n ‖ hashes ‖
 * sealed. */
void cs_batch_encode(struct cs_buf *out, const struct cs_batch *b);
int cs_batch_decode(struct cs_batch *out, struct cs_slice bytes, struct cs_error *err);

#endif
