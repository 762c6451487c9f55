/* A packer's inside, for pack.c and unpack.c. */
#ifndef CS_DELTA_PACKER_H
#define CS_DELTA_PACKER_H

#include <zstd.h>

#include "delta/pack.h"

struct cs_packer {
    const struct cs_rng *rng; /* borrowed */
    ZSTD_CCtx *zstd_out;      /* owned */
    ZSTD_DCtx *zstd_in;       /* owned */
    void *lz4_state;          /* owned */
    struct cs_buf plain;      /* what is being packed */
    struct cs_buf packed;     /* the same, compressed; when unpacking, decrypted */
    struct cs_buf opened;     /* what was unpacked last: the delta set's bytes … */
    struct cs_arena arena;    /* … and its arrays */
};

/* key ‖ commitment, from the canonical header. */
enum { CS_BATCH_KEYS_LEN = 32 + 32 };
void cs_batch_keys(const struct cs_epoch_keys *keys, const uint8_t header[CS_BATCH_HEADER_LEN],
                   uint8_t out[CS_BATCH_KEYS_LEN]);
/* All checks but those of the content; the plain bytes are then in p->opened. */
int cs_batch_open(struct cs_packer *p, const struct cs_batch *b, const struct cs_epoch_keys *keys,
                  struct cs_batch_header *h, enum cs_unpack_fault *fault, struct cs_error *err);

#endif
