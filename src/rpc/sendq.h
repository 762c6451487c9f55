/* The messages of one call that wait for the connection: framed bytes in a list of blocks. */
#ifndef CS_RPC_SENDQ_H
#define CS_RPC_SENDQ_H

#include "rpc/rpc.h"

struct cs_rpc_block;
/* Zero-initialised is empty and valid. */
struct cs_rpc_sendq {
    struct cs_rpc_block *head, *tail; /* owned */
    size_t bytes;                     /* waiting, prefixes included */
    size_t fresh;                     /* messages queued since cs_rpc_call_pull took something */
    bool started;                     /* something was taken already */
};

/* Frames and copies one message, whose bytes are compressed already or not; CS_OK, or CS_ENOMEM and nothing is queued.
 */
int cs_rpc_sendq_put(struct cs_rpc_sendq *q, struct cs_slice message, bool compressed);
/* Moves at most n bytes out, across message boundaries; returns how many. */
size_t cs_rpc_sendq_take(struct cs_rpc_sendq *q, uint8_t *out, size_t n);
void cs_rpc_sendq_clear(struct cs_rpc_sendq *q);

#endif
