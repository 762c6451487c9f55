#include "rpc/gzip.h"

#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

enum {
    GZIP_WRAPPER = 16, /* added to the window's bits, for zlib */
    WINDOW_MIN = 9,
    WINDOW_MAX = 15,
    WINDOW_TO_MEM_LEVEL = 7, /* zlib's default 8 for the largest window, less for small ones */
    STEP_MIN = 1024,         /* bytes of room that inflating goes on with */
    STEP_MAX = 256 * 1024,
};

/* zlib's memory is ours, so that tests can make it fail. */
static void *z_alloc(void *opaque, unsigned n, unsigned size)
{
    (void)opaque;
    return calloc(n, size);
}

static void z_free(void *opaque, void *p)
{
    (void)opaque;
    free(p);
}

/* A window larger than the message costs memory and time and finds nothing more. */
static int window_bits(size_t n)
{
    int bits = WINDOW_MIN;

    while (bits < WINDOW_MAX && ((size_t)1 << bits) < n)
        bits++;
    return bits;
}

int cs_rpc_gzip(struct cs_buf *out, struct cs_slice in)
{
    z_stream z = { .zalloc = z_alloc, .zfree = z_free };
    int bits = window_bits(in.len), rc;
    size_t start = out->len;
    uLong bound;
    uint8_t *p;

    if (in.len > UINT_MAX / 2)
        return CS_ELIMIT;
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, bits + GZIP_WRAPPER, bits - WINDOW_TO_MEM_LEVEL,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        return CS_ENOMEM;
    bound = deflateBound(&z, (uLong)in.len);
    if ((p = cs_buf_grow(out, bound)) == NULL) {
        deflateEnd(&z);
        return CS_ENOMEM;
    }
    z.next_in = (Bytef *)(uintptr_t)in.data; /* zlib only reads it */
    z.avail_in = (uInt)in.len;
    z.next_out = p;
    z.avail_out = (uInt)bound;
    rc = deflate(&z, Z_FINISH);
    out->len = start + z.total_out;
    deflateEnd(&z);
    return rc == Z_STREAM_END ? CS_OK : CS_ENOMEM;
}

/* As much room as the output has already, so that memory follows what was really sent. One byte more than allowed
 * tells "exactly the limit" from "over it". */
static size_t next_step(size_t have, size_t max)
{
    size_t n = have < STEP_MIN ? STEP_MIN : have > STEP_MAX ? STEP_MAX : have;

    return n > max - have ? max - have + 1 : n;
}

static int inflate_all(z_stream *z, struct cs_buf *out, size_t max)
{
    size_t start = out->len, have = 0, n;
    uint8_t *p;
    int rc;

    for (;;) {
        n = next_step(have, max);
        if ((p = cs_buf_grow(out, n)) == NULL)
            return CS_ENOMEM;
        z->next_out = p;
        z->avail_out = (uInt)n;
        rc = inflate(z, Z_NO_FLUSH);
        have += n - z->avail_out;
        out->len = start + have;
        if (rc == Z_MEM_ERROR)
            return CS_ENOMEM;
        if (have > max)
            return CS_ELIMIT;
        if (rc == Z_STREAM_END && z->avail_in == 0)
            return CS_OK;
        if (rc == Z_STREAM_END) /* a file of several members is one text */
            rc = inflateReset(z);
        /* input used up and room left: it ended too early */
        if (rc != Z_OK || (z->avail_in == 0 && z->avail_out > 0))
            return CS_ECORRUPT;
    }
}

int cs_rpc_gunzip(struct cs_buf *out, struct cs_slice in, size_t max)
{
    z_stream z = { .zalloc = z_alloc, .zfree = z_free };
    int rc;

    if (in.len > UINT_MAX || max == SIZE_MAX)
        return CS_ELIMIT;
    if (in.len == 0)
        return CS_ECORRUPT;
    z.next_in = (Bytef *)(uintptr_t)in.data;
    z.avail_in = (uInt)in.len;
    if (inflateInit2(&z, WINDOW_MAX + GZIP_WRAPPER) != Z_OK)
        return CS_ENOMEM;
    rc = inflate_all(&z, out, max);
    inflateEnd(&z);
    return rc;
}
