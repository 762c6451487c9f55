#include "delta/pack.h"

void cs_batch_free(struct cs_batch *b)
{
    cs_buf_free(&b->hashes);
    cs_buf_free(&b->sealed);
    *b = (struct cs_batch){ 0 };
}

struct cs_slice cs_batch_chunk(const struct cs_batch *b, uint32_t i)
{
    size_t at = i * (size_t)b->chunk_len, left;

    if (at >= b->sealed.len)
        return CS_SLICE_NULL;
    left = b->sealed.len - at;
    return cs_slice(b->sealed.data + at, left < b->chunk_len ? left : b->chunk_len);
}

void cs_batch_encode(struct cs_buf *out, const struct cs_batch *b)
{
    cs_buf_reserve(out, 8 + sizeof b->header + sizeof b->signature + b->hashes.len + b->sealed.len);
    cs_buf_put_u32(out, b->chunk_len);
    cs_buf_put(out, b->header, sizeof b->header);
    cs_buf_put(out, b->signature, sizeof b->signature);
    cs_buf_put_u32(out, b->nchunks);
    cs_buf_put_slice(out, cs_buf_slice(&b->hashes));
    cs_buf_put_slice(out, cs_buf_slice(&b->sealed));
}

int cs_batch_decode(struct cs_batch *out, struct cs_slice bytes, struct cs_error *err)
{
    struct cs_reader r = cs_reader(bytes);
    struct cs_batch b = { .chunk_len = cs_read_u32(&r) };
    struct cs_batch_header h;
    struct cs_slice hashes, sealed;
    size_t len;
    int rc;

    *out = (struct cs_batch){ 0 };
    cs_read_into(&r, b.header, sizeof b.header);
    cs_read_into(&r, b.signature, sizeof b.signature);
    b.nchunks = cs_read_u32(&r);
    if (r.bad)
        return cs_fail(err, CS_ECORRUPT, "stored batch that is cut off");
    if ((rc = cs_batch_header_decode(&h, cs_slice(b.header, sizeof b.header), err)) < 0)
        return rc;
    len = cs_batch_sealed_len(&h);
    if (b.nchunks != h.chunk_count || b.chunk_len == 0 || len > b.nchunks * (size_t)b.chunk_len ||
        len <= (b.nchunks - 1) * (size_t)b.chunk_len)
        return cs_fail(err, CS_ECORRUPT, "stored batch whose chunks do not add up");
    hashes = cs_read_bytes(&r, b.nchunks * (size_t)CS_HASH_LEN);
    sealed = cs_read_bytes(&r, len);
    if (!cs_reader_done(&r))
        return cs_fail(err, CS_ECORRUPT, "stored batch of a wrong length");
    cs_batch_hash(cs_slice(b.header, sizeof b.header), hashes, b.hash);
    cs_buf_put_slice(&b.hashes, hashes);
    cs_buf_put_slice(&b.sealed, sealed);
    if (b.hashes.failed || b.sealed.failed) {
        cs_batch_free(&b);
        return cs_fail(err, CS_ENOMEM, "out of memory; the stored batch was not read");
    }
    *out = b;
    return CS_OK;
}
