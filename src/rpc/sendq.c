#include "rpc/sendq.h"

#include <stdlib.h>

#include "rpc/frame.h"

/* The first block of an idle call is small, as most calls carry one small message; a queue that builds up gets large
 * ones. */
enum { BLOCK_FIRST = 2048, BLOCK_MORE = 64 * 1024 };

struct cs_rpc_block {
    struct cs_rpc_block *next;
    unsigned refs; /* the queue's, and of each piece that is taken and not dropped */
    size_t begin, end, cap;
    const uint8_t *bytes; /* `own`, or lent */
    void (*release)(void *arg);
    void *arg;
    uint8_t own[];
};

static struct cs_rpc_block *block_new(size_t cap)
{
    struct cs_rpc_block *b = malloc(sizeof *b + cap);

    if (b != NULL)
        *b = (struct cs_rpc_block){ .refs = 1, .cap = cap, .bytes = b->own };
    return b;
}

static void append(struct cs_rpc_sendq *q, struct cs_rpc_block *b)
{
    if (q->tail == NULL)
        q->head = b;
    else
        q->tail->next = b;
    q->tail = b;
}

static struct cs_rpc_block *block_for(struct cs_rpc_sendq *q, size_t n)
{
    struct cs_rpc_block *b = q->tail;
    size_t cap = q->head == NULL ? BLOCK_FIRST : BLOCK_MORE;

    if (b != NULL && b->cap - b->end >= n)
        return b;
    if ((b = block_new(cap < n ? n : cap)) != NULL)
        append(q, b);
    return b;
}

static void put_prefix(struct cs_rpc_sendq *q, struct cs_rpc_block *b, size_t len, bool compressed)
{
    b->own[b->end] = compressed;
    cs_store_u32(b->own + b->end + 1, (uint32_t)len);
    b->end += CS_RPC_PREFIX;
    q->bytes += CS_RPC_PREFIX + len;
    q->fresh++;
}

int cs_rpc_sendq_put(struct cs_rpc_sendq *q, struct cs_slice message, bool compressed)
{
    struct cs_rpc_block *b = block_for(q, CS_RPC_PREFIX + message.len);

    if (b == NULL)
        return CS_ENOMEM;
    put_prefix(q, b, message.len, compressed);
    if (message.len > 0)
        memcpy(b->own + b->end, message.data, message.len);
    b->end += message.len;
    return CS_OK;
}

int cs_rpc_sendq_lend(struct cs_rpc_sendq *q, struct cs_slice message, void (*release)(void *arg), void *arg)
{
    struct cs_rpc_block *lent = block_new(0), *b = q->tail;

    /* the prefix alone needs no more than the smallest block */
    if (lent != NULL && (b == NULL || b->cap - b->end < CS_RPC_PREFIX) && (b = block_new(BLOCK_FIRST)) != NULL)
        append(q, b);
    if (lent == NULL || b == NULL) {
        free(lent);
        return CS_ENOMEM;
    }
    put_prefix(q, b, message.len, false);
    lent->bytes = message.data;
    lent->end = lent->cap = message.len;
    lent->release = release;
    lent->arg = arg;
    append(q, lent);
    return CS_OK;
}

void cs_rpc_block_drop(struct cs_rpc_block *b)
{
    if (--b->refs > 0)
        return;
    if (b->release != NULL)
        b->release(b->arg);
    free(b);
}

struct cs_slice cs_rpc_sendq_take(struct cs_rpc_sendq *q, size_t n, struct cs_rpc_block **block)
{
    struct cs_rpc_block *b = q->head;
    struct cs_slice piece = cs_slice(b->bytes + b->begin, b->end - b->begin < n ? b->end - b->begin : n);

    b->begin += piece.len;
    b->refs++;
    if (b->begin == b->end) {
        if ((q->head = b->next) == NULL)
            q->tail = NULL;
        b->refs--;
    }
    q->bytes -= piece.len;
    q->started = true;
    *block = b;
    return piece;
}

void cs_rpc_sendq_clear(struct cs_rpc_sendq *q)
{
    struct cs_rpc_block *b, *next;

    for (b = q->head; b != NULL; b = next) {
        next = b->next;
        cs_rpc_block_drop(b);
    }
    q->head = q->tail = NULL;
    q->bytes = q->fresh = 0;
}
