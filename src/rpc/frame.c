#include "rpc/frame.h"

/* A peer that declares much and sends little must not make us allocate it: a body grows by doubling from here. */
enum { BODY_FIRST = 64 * 1024, BODY_KEEP = 256 * 1024 };

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
    if (d->prefix[0] == 1) {
        /* compression.md: flagged without an encoding is INTERNAL, an encoding we do not have UNIMPLEMENTED */
        cs_fail(err, CS_EUNSUPPORTED, "a compressed message, and no encoding %s",
                d->encoded ? "that is known here" : "was named");
        return broken(d, status, d->encoded ? CS_RPC_UNIMPLEMENTED : CS_RPC_INTERNAL);
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
    size_t want = d->body.len * 2 > BODY_FIRST ? d->body.len * 2 : BODY_FIRST;

    if (want > d->len)
        want = d->len;
    if (want > d->body.len && !cs_buf_reserve(&d->body, want - d->body.len))
        return false;
    cs_buf_put_slice(&d->body, s);
    return !d->body.failed;
}

int cs_rpc_decode(struct cs_rpc_decoder *d, struct cs_slice *in, struct cs_slice *msg, int *status,
                  struct cs_error *err)
{
    size_t n;

    if (d->bad)
        return broken(d, status, CS_RPC_INTERNAL);
    if (d->given) {
        d->given = false;
        if (d->body.cap > BODY_KEEP)
            cs_buf_free(&d->body);
        else
            cs_buf_reset(&d->body);
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
    if (d->body.len == 0 && in->len >= n) {
        *msg = take(in, n);
        d->nprefix = 0;
        return 1;
    }
    if (n > in->len)
        n = in->len;
    if (!body_put(d, take(in, n))) {
        cs_fail(err, CS_ENOMEM, "out of memory for a message of %u bytes", d->len);
        return broken(d, status, CS_RPC_RESOURCE_EXHAUSTED);
    }
    if (d->body.len < d->len)
        return 0;
    *msg = cs_buf_slice(&d->body);
    d->given = true;
    d->nprefix = 0;
    return 1;
}

bool cs_rpc_decoder_idle(const struct cs_rpc_decoder *d)
{
    return d->nprefix == 0;
}

void cs_rpc_decoder_fini(struct cs_rpc_decoder *d)
{
    cs_buf_free(&d->body);
}
