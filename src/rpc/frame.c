#include "rpc/frame.h"

#include "rpc/gzip.h"

/* A peer that declares much and sends little must not make us allocate it: a body grows by doubling from here. */
enum { BODY_FIRST = 64 * 1024, BODY_FRUGAL = 256, BODY_KEEP = 256 * 1024 };

enum cs_rpc_encoding cs_rpc_encoding_of(struct cs_slice name)
{
    if (cs_slice_eq(name, cs_slice_str("identity")))
        return CS_RPC_ENCODING_NONE;
    return cs_slice_eq(name, cs_slice_str("gzip")) ? CS_RPC_ENCODING_GZIP : CS_RPC_ENCODING_UNKNOWN;
}

static int broken(struct cs_rpc_decoder *d, int *status, int which)
{
    d->bad = true;
    *status = which;
    return -1;
}

static int check_prefix(struct cs_rpc_decoder *d, int *status, struct cs_error *err)
{
    d->len = cs_load_u32(d->prefix + 1);
    if (d->prefix[0] > 1) {
        cs_fail(err, CS_ECORRUPT, "the message flag is %u, allowed are 0 and 1", d->prefix[0]);
        return broken(d, status, CS_RPC_INTERNAL);
    }
    if (d->prefix[0] == 1 && d->encoding == CS_RPC_ENCODING_NONE) {
        cs_fail(err, CS_EUNSUPPORTED, "a compressed message, and no encoding was named");
        return broken(d, status, CS_RPC_INTERNAL);
    }
    if (d->prefix[0] == 1 && d->encoding == CS_RPC_ENCODING_UNKNOWN) {
        /* compression.md: a server answers UNIMPLEMENTED; a client, which had said what it takes, ends with INTERNAL */
        cs_fail(err, CS_EUNSUPPORTED, "a compressed message, in an encoding that is not known here");
        return broken(d, status, d->client ? CS_RPC_INTERNAL : CS_RPC_UNIMPLEMENTED);
    }
    if (d->len > d->max) {
        cs_fail(err, CS_ELIMIT, "a message of %u bytes, allowed are %zu", d->len, d->max);
        return broken(d, status, CS_RPC_RESOURCE_EXHAUSTED);
    }
    return 0;
}

static struct cs_slice take(struct cs_slice *in, size_t n)
{
    struct cs_slice s = cs_slice(in->data, n);

    in->data += n;
    in->len -= n;
    return s;
}

static bool body_put(struct cs_rpc_decoder *d, struct cs_slice s)
{
    size_t first = d->frugal ? BODY_FRUGAL : BODY_FIRST;
    size_t want = d->body.len * 2 > first ? d->body.len * 2 : first;

    if (want > d->len)
        want = d->len;
    if (want > d->body.len && !cs_buf_reserve(&d->body, want - d->body.len))
        return false;
    cs_buf_put_slice(&d->body, s);
    return !d->body.failed;
}

static void buf_recycle(struct cs_buf *b)
{
    if (b->cap > BODY_KEEP)
        cs_buf_free(b);
    else
        cs_buf_reset(b);
}

/* A message is complete: what the caller gets of it. */
static int hand_out(struct cs_rpc_decoder *d, struct cs_slice whole, struct cs_slice *msg, int *status,
                    struct cs_error *err)
{
    d->nprefix = 0;
    d->given = true;
    *msg = whole;
    if (d->prefix[0] == 0)
        return 1;
    switch (cs_rpc_gunzip(&d->plain, whole, d->max)) {
    case CS_OK:
        *msg = cs_buf_slice(&d->plain);
        return 1;
    case CS_ELIMIT:
        cs_fail(err, CS_ELIMIT, "a compressed message of more than %zu bytes", d->max);
        return broken(d, status, CS_RPC_RESOURCE_EXHAUSTED);
    case CS_ENOMEM:
        cs_fail(err, CS_ENOMEM, "out of memory for a compressed message");
        return broken(d, status, CS_RPC_RESOURCE_EXHAUSTED);
    default:
        cs_fail(err, CS_ECORRUPT, "a compressed message that is not gzip");
        return broken(d, status, CS_RPC_INTERNAL);
    }
}

int cs_rpc_decode(struct cs_rpc_decoder *d, struct cs_slice *in, struct cs_slice *msg, int *status,
                  struct cs_error *err)
{
    size_t n;

    if (d->bad)
        return broken(d, status, CS_RPC_INTERNAL);
    if (d->given) {
        d->given = false;
        buf_recycle(&d->body);
        buf_recycle(&d->plain);
    }
    if (d->nprefix < CS_RPC_PREFIX) {
        while (d->nprefix < CS_RPC_PREFIX && in->len > 0)
            d->prefix[d->nprefix++] = *take(in, 1).data;
        if (d->nprefix < CS_RPC_PREFIX)
            return 0;
        if (check_prefix(d, status, err) != 0)
            return -1;
    }
    n = d->len - d->body.len;
    if (d->body.len == 0 && in->len >= n)
        return hand_out(d, take(in, n), msg, status, err);
    if (n > in->len)
        n = in->len;
    if (!body_put(d, take(in, n))) {
        cs_fail(err, CS_ENOMEM, "out of memory for a message of %u bytes", d->len);
        return broken(d, status, CS_RPC_RESOURCE_EXHAUSTED);
    }
    if (d->body.len < d->len)
        return 0;
    return hand_out(d, cs_buf_slice(&d->body), msg, status, err);
}

bool cs_rpc_decoder_idle(const struct cs_rpc_decoder *d)
{
    return d->nprefix == 0;
}

void cs_rpc_decoder_fini(struct cs_rpc_decoder *d)
{
    cs_buf_free(&d->body);
    cs_buf_free(&d->plain);
}
