#include "rpc/sendq.h"

#include <stdlib.h>

#include "rpc/frame.h"

/* The first block of an idle call is small, as most calls carry one small message; a queue that builds up gets large
 * ones. */
enum { BLOCK_FIRST = 2048, BLOCK_MORE = 64 * 1024 };

struct cs_rpc_block {
    struct cs_rpc_block *next;
    size_t begin, end, cap;
    uint8_t data[];
};

static struct cs_rpc_block *block_for(struct cs_rpc_sendq *q, size_t n)
{
    struct cs_rpc_block *b = q->tail;
    size_t cap = q->head == NULL ? BLOCK_FIRST : BLOCK_MORE;

    if (b != NULL && b->cap - b->end >= n)
        return b;
    if (cap < n)
        cap = n;
    if ((b = malloc(sizeof *b + cap)) == NULL)
        return NULL;
    *b = (struct cs_rpc_block){ .cap = cap };
    if (q->tail == NULL)
        q->head = b;
    else
        q->tail->next = b;
    q->tail = b;
    return b;
}

int cs_rpc_sendq_put(struct cs_rpc_sendq *q, struct cs_slice message, bool compressed)
{
    size_t n = CS_RPC_PREFIX + message.len;
    struct cs_rpc_block *b = block_for(q, n);

    if (b == NULL)
        return CS_ENOMEM;
    b->data[b->end] = compressed;
    cs_store_u32(b->data + b->end + 1, (uint32_t)message.len);
    if (message.len > 0)
        memcpy(b->data + b->end + CS_RPC_PREFIX, message.data, message.len);
    b->end += n;
    q->bytes += n;
    q->fresh++;
    return CS_OK;
}

size_t cs_rpc_sendq_take(struct cs_rpc_sendq *q, uint8_t *out, size_t n)
{
    size_t done = 0;

    while (done < n && q->head != NULL) {
        struct cs_rpc_block *b = q->head;
        size_t k = b->end - b->begin < n - done ? b->end - b->begin : n - done;

        memcpy(out + done, b->data + b->begin, k);
        b->begin += k;
        done += k;
        if (b->begin < b->end)
            break;
        if ((q->head = b->next) == NULL)
            q->tail = NULL;
        free(b);
    }
    q->bytes -= done;
    q->started |= done > 0;
    return done;
}

void cs_rpc_sendq_clear(struct cs_rpc_sendq *q)
{
    struct cs_rpc_block *b, *next;

    for (b = q->head; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    q->head = q->tail = NULL;
    q->bytes = q->fresh = 0;
}
