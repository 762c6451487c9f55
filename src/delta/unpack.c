#include <lz4.h>

#include "delta/packer.h"

const char *cs_unpack_fault_name(enum cs_unpack_fault f)
{
    switch (f) {
    case CS_FAULT_NONE:
        break;
    case CS_FAULT_BAD_CHUNK:
        return "BAD_CHUNK";
    case CS_FAULT_BAD_COMMITMENT:
        return "BAD_COMMITMENT";
    case CS_FAULT_BAD_CIPHERTEXT:
        return "BAD_CIPHERTEXT";
    case CS_FAULT_BAD_CONTENT:
        return "BAD_CONTENT";
    case CS_FAULT_BAD_HEADER:
        return "BAD_HEADER";
    }
    return "NONE";
}

static int found(enum cs_unpack_fault *fault, enum cs_unpack_fault f, struct cs_error *err, const char *why)
{
    *fault = f;
    return cs_fail(err, CS_ECORRUPT, "%s; the batch is set aside", why);
}

/* Number, sizes and hashes of the chunks. */
static int check_chunks(const struct cs_batch *b, const struct cs_batch_header *h, enum cs_unpack_fault *fault,
                        struct cs_error *err)
{
    size_t len = cs_batch_sealed_len(h);
    uint8_t hash[CS_HASH_LEN];

    if (b->nchunks != h->chunk_count || b->hashes.len != b->nchunks * (size_t)CS_HASH_LEN || b->sealed.len != len ||
        len > b->nchunks * (size_t)b->chunk_len || len <= (b->nchunks - 1) * (size_t)b->chunk_len)
        return found(fault, CS_FAULT_BAD_CHUNK, err, "chunks that do not make up the announced length");
    for (uint32_t i = 0; i < b->nchunks; i++) {
        cs_hash_plain(cs_batch_chunk(b, i), hash);
        if (memcmp(hash, b->hashes.data + i * (size_t)CS_HASH_LEN, sizeof hash) != 0)
            return found(fault, CS_FAULT_BAD_CHUNK, err, "a chunk that does not have its hash");
    }
    return CS_OK;
}

/* Decrypts into p->packed, whose length is then packed_len. */
static int open_sealed(struct cs_packer *p, const struct cs_batch *b, const struct cs_batch_header *h,
                       const struct cs_epoch_keys *keys, enum cs_unpack_fault *fault, struct cs_error *err)
{
    uint8_t both[CS_BATCH_KEYS_LEN], *plain, any = 0;
    struct cs_slice box = cs_slice(b->sealed.data + 32 + CS_NONCE_LEN, b->sealed.len - 32 - CS_NONCE_LEN);
    bool right, opened;

    cs_buf_reset(&p->packed);
    if ((plain = cs_buf_grow(&p->packed, box.len - CS_BOX_OVERHEAD)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory; the batch was not opened");
    cs_batch_keys(keys, b->header, both);
    right = cs_secret_eq(both + 32, b->sealed.data, 32);
    opened = right && cs_box_open(both, b->sealed.data + 32, box, plain);
    cs_wipe(both, sizeof both);
    if (!right)
        return found(fault, CS_FAULT_BAD_COMMITMENT, err, "sealed under another key than the epoch's");
    if (!opened)
        return found(fault, CS_FAULT_BAD_CIPHERTEXT, err, "ciphertext that does not open");
    for (size_t i = h->packed_len; i < p->packed.len; i++)
        any |= plain[i];
    if (any != 0)
        return found(fault, CS_FAULT_BAD_CONTENT, err, "padding that is not zero");
    p->packed.len = h->packed_len;
    return CS_OK;
}

/* Decompresses p->packed into p->opened: exactly plain_len bytes, which the header caps. */
static int decompress(struct cs_packer *p, const struct cs_batch_header *h, enum cs_unpack_fault *fault,
                      struct cs_error *err)
{
    uint8_t *plain;
    size_t n = 0;
    int len;

    cs_buf_reset(&p->opened);
    if ((plain = cs_buf_grow(&p->opened, h->plain_len)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory; the batch was not opened");
    switch (h->codec) {
    case CS_CODEC_STORED:
        memcpy(plain, p->packed.data, p->packed.len); /* as long: the header says so */
        n = p->packed.len;
        break;
    case CS_CODEC_ZSTD:
        n = ZSTD_decompressDCtx(p->zstd_in, plain, h->plain_len, p->packed.data, p->packed.len);
        break;
    case CS_CODEC_LZ4:
        len = LZ4_decompress_safe((const char *)p->packed.data, (char *)plain, (int)p->packed.len, (int)h->plain_len);
        n = len < 0 ? 0 : (size_t)len;
        break;
    }
    if (n != h->plain_len) /* an error code of zstd is larger than any length */
        return found(fault, CS_FAULT_BAD_CONTENT, err, "content that does not decompress to its length");
    return CS_OK;
}

int cs_batch_open(struct cs_packer *p, const struct cs_batch *b, const struct cs_epoch_keys *keys,
                  struct cs_batch_header *h, enum cs_unpack_fault *fault, struct cs_error *err)
{
    int rc;

    *fault = CS_FAULT_NONE;
    if (cs_batch_header_decode(h, cs_slice(b->header, sizeof b->header), err) < 0) {
        *fault = CS_FAULT_BAD_HEADER;
        return CS_ECORRUPT;
    }
    if (h->epoch != keys->epoch)
        return cs_fail(err, CS_EINVAL, "a batch of epoch %u with the key of epoch %u; it was not opened", h->epoch,
                       keys->epoch);
    if ((rc = check_chunks(b, h, fault, err)) < 0)
        return rc;
    if ((rc = open_sealed(p, b, h, keys, fault, err)) < 0)
        return rc;
    return decompress(p, h, fault, err);
}

int cs_unpack_state(cs_packer *p, const struct cs_batch *b, const struct cs_epoch_keys *keys, struct cs_slice *rows,
                    struct cs_delta *out, enum cs_unpack_fault *fault, struct cs_error *err)
{
    struct cs_batch_header h;
    uint32_t n;
    int rc;

    *out = (struct cs_delta){ 0 };
    if ((rc = cs_batch_open(p, b, keys, &h, fault, err)) < 0)
        return rc;
    cs_arena_reset(&p->arena);
    *rows = cs_buf_slice(&p->opened);
    rc = cs_delta_from_dump(out, &p->arena, *rows, &h.device, &n, err);
    if (rc == CS_OK && (n != h.nops || h.kind != CS_BATCH_SNAPSHOT))
        rc = cs_fail(err, CS_ECORRUPT, "another number of rows than its header says");
    if (rc == CS_ECORRUPT)
        *fault = CS_FAULT_BAD_CONTENT;
    return rc;
}

int cs_unpack(cs_packer *p, const struct cs_batch *b, const struct cs_epoch_keys *keys, struct cs_delta *out,
              enum cs_unpack_fault *fault, struct cs_error *err)
{
    struct cs_batch_header h;
    int rc;

    *out = (struct cs_delta){ 0 };
    if ((rc = cs_batch_open(p, b, keys, &h, fault, err)) < 0)
        return rc;
    cs_arena_reset(&p->arena);
    rc = cs_delta_decode(out, &p->arena, cs_buf_slice(&p->opened), h.top_stamp, err);
    if (rc == CS_OK && (out->nops != h.nops || cs_uuid_cmp(&out->devices[0], &h.device) != 0))
        rc = cs_fail(err, CS_ECORRUPT, "a delta set of another length or sender than its batch");
    if (rc == CS_OK && (out->collect.through > 0) != (h.kind == CS_BATCH_COLLECTION))
        rc = cs_fail(err, CS_ECORRUPT, "a delta set of another kind than its batch");
    if (rc == CS_ECORRUPT)
        *fault = CS_FAULT_BAD_CONTENT;
    if (rc < 0)
        *out = (struct cs_delta){ 0 };
    return rc;
}
