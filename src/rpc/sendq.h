/* The messages of one call that wait for the connection: framed bytes in a list of blocks, each of our memory, or a
 * message's own. */
#ifndef CS_RPC_SENDQ_H
#define CS_RPC_SENDQ_H

#include "rpc/rpc.h"

struct cs_rpc_block;
/* Zero-initialised is empty and valid. */
struct cs_rpc_sendq {
    struct cs_rpc_block *head, *tail; /* counted */
    size_t bytes;                     /* waiting, prefixes included */
    size_t fresh;                     /* messages queued since cs_rpc_call_pull took something */
    bool started;                     /* something was taken already */
};

/* Frames and copies one message, whose bytes are compressed already or not; CS_OK, or CS_ENOMEM and nothing is queued.
 */
int cs_rpc_sendq_put(struct cs_rpc_sendq *q, struct cs_slice message, bool compressed);
/* The same without the copy: the bytes stay where they are until release(arg), which may be NULL. */
int cs_rpc_sendq_lend(struct cs_rpc_sendq *q, struct cs_slice message, void (*release)(void *arg), void *arg);
/* Takes at most n bytes (n > 0, and something is queued), across message boundaries. They last until *block is given
 * to cs_rpc_block_drop. */
struct cs_slice cs_rpc_sendq_take(struct cs_rpc_sendq *q, size_t n, struct cs_rpc_block **block);
void cs_rpc_block_drop(struct cs_rpc_block *b);
void cs_rpc_sendq_clear(struct cs_rpc_sendq *q);

#endif
