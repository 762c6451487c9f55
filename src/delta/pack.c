#include "delta/pack.h"

#include <lz4.h>
#include <stdlib.h>

#include "delta/packer.h"

enum { ZSTD_LEVEL = 1, CHUNK_MIN = 1024, CHUNK_MAX = 1024 * 1024, COMMITMENT_LEN = 32 };
/* sealed: commitment 32 ‖ nonce 24 ‖ mac 16 ‖ ciphertext */
enum { AT_NONCE = COMMITMENT_LEN, AT_BOX = AT_NONCE + CS_NONCE_LEN };

int cs_packer_new(cs_packer **out, const struct cs_rng *r, struct cs_error *err)
{
    struct cs_packer *p = calloc(1, sizeof *p);

    *out = NULL;
    if (p != NULL) {
        p->rng = r;
        p->zstd_out = ZSTD_createCCtx();
        p->zstd_in = ZSTD_createDCtx();
        p->lz4_state = malloc((size_t)LZ4_sizeofState());
    }
    if (p == NULL || p->zstd_out == NULL || p->zstd_in == NULL || p->lz4_state == NULL) {
        cs_packer_free(p);
        return cs_fail(err, CS_ENOMEM, "out of memory; nothing can be packed");
    }
    *out = p;
    return CS_OK;
}

void cs_packer_free(cs_packer *p)
{
    if (p == NULL)
        return;
    ZSTD_freeCCtx(p->zstd_out);
    ZSTD_freeDCtx(p->zstd_in);
    free(p->lz4_state);
    cs_buf_free(&p->plain);
    cs_buf_free(&p->packed);
    cs_buf_free(&p->opened);
    cs_arena_free(&p->arena);
    free(p);
}

void cs_batch_keys(const struct cs_epoch_keys *keys, const uint8_t header[CS_BATCH_HEADER_LEN],
                   uint8_t out[CS_BATCH_KEYS_LEN])
{
    cs_mac(keys->batch, cs_slice(header, CS_BATCH_HEADER_LEN), out, CS_BATCH_KEYS_LEN);
}

/* Compresses into p->packed as the codec says; 0: it does not get smaller. */
static size_t compress(struct cs_packer *p, uint8_t codec, struct cs_slice plain)
{
    size_t bound = codec == CS_CODEC_ZSTD ? ZSTD_compressBound(plain.len) : (size_t)LZ4_compressBound((int)plain.len);
    size_t n = 0;

    cs_buf_reset(&p->packed);
    if (codec == CS_CODEC_STORED || !cs_buf_reserve(&p->packed, bound))
        return 0;
    if (codec == CS_CODEC_ZSTD) {
        n = ZSTD_compressCCtx(p->zstd_out, p->packed.data, bound, plain.data, plain.len, ZSTD_LEVEL);
        if (ZSTD_isError(n))
            n = 0;
    } else {
        int len = LZ4_compress_fast_extState(p->lz4_state, (const char *)plain.data, (char *)p->packed.data,
                                             (int)plain.len, (int)bound, 1);

        n = len > 0 ? (size_t)len : 0;
    }
    return n < plain.len ? n : 0;
}

/* nonce = MAC(nonce key, 32 random ‖ header ‖ packed): even a generator that repeats itself gives one nonce to two
 * batches only when they are the same batch. */
static void make_nonce(const struct cs_packer *p, const struct cs_epoch_keys *keys,
                       const uint8_t header[CS_BATCH_HEADER_LEN], struct cs_slice packed, uint8_t out[CS_NONCE_LEN])
{
    uint8_t random[32];
    struct cs_hasher h;

    cs_random(p->rng, random, sizeof random);
    cs_hasher_init_keyed(&h, keys->nonce);
    cs_hasher_update(&h, random, sizeof random);
    cs_hasher_update(&h, header, CS_BATCH_HEADER_LEN);
    cs_hasher_update(&h, packed.data, packed.len);
    cs_hasher_final(&h, out, CS_NONCE_LEN);
}

/* sealed = commitment ‖ nonce ‖ BOX(key, nonce, packed ‖ padding), encrypted in place. */
static bool seal(const struct cs_packer *p, const struct cs_epoch_keys *keys, struct cs_slice packed,
                 struct cs_batch *out, size_t sealed_len)
{
    uint8_t both[CS_BATCH_KEYS_LEN], *at = cs_buf_grow(&out->sealed, sealed_len), *m;
    size_t padded = sealed_len - CS_BATCH_SEAL_OVERHEAD;

    if (at == NULL)
        return false;
    m = at + CS_BATCH_SEAL_OVERHEAD;
    cs_batch_keys(keys, out->header, both);
    memcpy(at, both + 32, COMMITMENT_LEN);
    make_nonce(p, keys, out->header, packed, at + AT_NONCE);
    memcpy(m, packed.data, packed.len);
    memset(m + packed.len, 0, padded - packed.len);
    cs_box(both, at + AT_NONCE, cs_slice(m, padded), at + AT_BOX);
    cs_wipe(both, sizeof both);
    return true;
}

static bool hash_and_sign(struct cs_batch *out, const struct cs_sign_key *signer)
{
    uint8_t *hashes = cs_buf_grow(&out->hashes, out->nchunks * (size_t)CS_HASH_LEN);

    if (hashes == NULL)
        return false;
    for (uint32_t i = 0; i < out->nchunks; i++)
        cs_hash_plain(cs_batch_chunk(out, i), hashes + i * (size_t)CS_HASH_LEN);
    cs_batch_hash(cs_slice(out->header, sizeof out->header), cs_buf_slice(&out->hashes), out->hash);
    cs_sign_digest(signer, out->hash, out->signature);
    return true;
}

static void empty(struct cs_batch *b)
{
    struct cs_buf hashes = b->hashes, sealed = b->sealed;

    cs_buf_reset(&hashes);
    cs_buf_reset(&sealed);
    *b = (struct cs_batch){ .hashes = hashes, .sealed = sealed };
}

/* From plain bytes to a signed batch. h: all but what follows from the bytes. */
static int bind_plain(struct cs_packer *p, struct cs_slice plain, struct cs_batch_header *h,
                      const struct cs_epoch_keys *keys, const struct cs_sign_key *signer, uint32_t max_chunk,
                      struct cs_batch *out, struct cs_error *err)
{
    struct cs_batch_header checked;
    struct cs_slice packed;
    size_t n, sealed_len;
    int rc;

    if (max_chunk < CHUNK_MIN || max_chunk > CHUNK_MAX)
        return cs_fail(err, CS_EINVAL, "chunks of %u bytes, allowed are %d to %d; nothing was packed", max_chunk,
                       CHUNK_MIN, CHUNK_MAX);
    if (h->codec > CS_CODEC_LZ4)
        return cs_fail(err, CS_EINVAL, "codec %u is not known; nothing was packed", h->codec);
    if (h->epoch != keys->epoch)
        return cs_fail(err, CS_EINVAL, "a batch of epoch %u under the key of epoch %u; nothing was packed", h->epoch,
                       keys->epoch);
    if (plain.len > CS_BATCH_MAX_PLAIN)
        return cs_fail(err, CS_ELIMIT, "batch of %zu bytes, allowed are %d; nothing was packed", plain.len,
                       CS_BATCH_MAX_PLAIN);
    n = compress(p, h->codec, plain);
    if (n == 0)
        h->codec = CS_CODEC_STORED;
    packed = n == 0 ? plain : cs_slice(p->packed.data, n);
    h->plain_len = (uint32_t)plain.len;
    h->packed_len = (uint32_t)packed.len;
    sealed_len = cs_batch_sealed_len(h);
    h->chunk_count = (uint32_t)((sealed_len + max_chunk - 1) / max_chunk);
    if (h->chunk_count > CS_BATCH_MAX_CHUNKS)
        return cs_fail(err, CS_ELIMIT, "batch of %zu bytes in chunks of %u makes more than %d; nothing was packed",
                       sealed_len, max_chunk, CS_BATCH_MAX_CHUNKS);
    cs_batch_header_encode(h, out->header);
    if ((rc = cs_batch_header_decode(&checked, cs_slice(out->header, sizeof out->header), err)) < 0)
        return rc == CS_ECORRUPT ? cs_fail_context(err, "nothing was packed") : rc;
    out->nchunks = h->chunk_count;
    out->chunk_len = sealed_len < max_chunk ? (uint32_t)sealed_len : max_chunk;
    if (!seal(p, keys, packed, out, sealed_len) || !hash_and_sign(out, signer))
        return cs_fail(err, CS_ENOMEM, "out of memory; nothing was packed");
    return CS_OK;
}

static int64_t top_stamp(const struct cs_delta *d)
{
    int64_t top = 0;

    for (size_t i = 0; i < d->nops; i++)
        if (d->ops[i].stamp > top)
            top = d->ops[i].stamp;
    return top;
}

int cs_pack(cs_packer *p, const struct cs_delta *d, struct cs_batch_header *h, const struct cs_epoch_keys *keys,
            const struct cs_sign_key *signer, uint32_t max_chunk, struct cs_batch *out, struct cs_error *err)
{
    int rc;

    empty(out);
    if (d->nops == 0 || d->ndevices == 0 || cs_uuid_cmp(&d->devices[0], &h->device) != 0)
        return cs_fail(err, CS_EINVAL, "a delta set without operations, or of another sender; nothing was packed");
    cs_buf_reset(&p->plain);
    if ((rc = cs_delta_encode(&p->plain, d, err)) < 0)
        return rc;
    h->kind = d->collect.through > 0 ? CS_BATCH_COLLECTION : CS_BATCH_OPERATIONS;
    h->nops = d->nops;
    h->top_stamp = top_stamp(d);
    if ((rc = bind_plain(p, cs_buf_slice(&p->plain), h, keys, signer, max_chunk, out, err)) < 0)
        empty(out);
    return rc;
}

int cs_pack_state(cs_packer *p, struct cs_slice rows, uint32_t nrows, struct cs_batch_header *h,
                  const struct cs_epoch_keys *keys, const struct cs_sign_key *signer, uint32_t max_chunk,
                  struct cs_batch *out, struct cs_error *err)
{
    struct cs_delta d;
    uint32_t n;
    int rc;

    empty(out);
    cs_arena_reset(&p->arena);
    if ((rc = cs_delta_from_dump(&d, &p->arena, rows, &h->device, &n, err)) < 0)
        return rc;
    if (n != nrows || n == 0)
        return cs_fail(err, CS_EINVAL, "a part of a snapshot with another number of rows; nothing was packed");
    h->kind = CS_BATCH_SNAPSHOT;
    h->nops = nrows;
    h->top_stamp = top_stamp(&d);
    if ((rc = bind_plain(p, rows, h, keys, signer, max_chunk, out, err)) < 0)
        empty(out);
    return rc;
}

int cs_repack(cs_packer *p, const struct cs_batch *old, const struct cs_epoch_keys *old_keys, struct cs_batch_header *h,
              const struct cs_epoch_keys *keys, const struct cs_sign_key *signer, uint32_t max_chunk,
              struct cs_batch *out, struct cs_error *err)
{
    enum cs_unpack_fault fault;
    struct cs_batch_header was;
    int rc;

    empty(out);
    if ((rc = cs_batch_open(p, old, old_keys, &was, &fault, err)) < 0)
        return rc;
    if (cs_uuid_cmp(&was.device, &h->device) != 0)
        return cs_fail(err, CS_EINVAL, "a batch of another device cannot be bound anew; nothing was packed");
    h->kind = was.kind;
    h->nops = was.nops;
    h->top_stamp = was.top_stamp;
    if ((rc = bind_plain(p, cs_buf_slice(&p->opened), h, keys, signer, max_chunk, out, err)) < 0)
        empty(out);
    return rc;
}
