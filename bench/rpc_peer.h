/* What the servers that rpc_compare.py drives have in common. Each says "listening on PORT", and offers
 *   /b.B/Echo   one message back
 *   /b.B/Down   one request (below); so many messages of that size
 *   /b.B/Up     any messages; an empty one back */
#ifndef BENCH_RPC_PEER_H
#define BENCH_RPC_PEER_H

#include <stdint.h>

enum { BENCH_MAX_MESSAGE = 1 << 20 };

/* The request of Down: two numbers, big-endian. */
struct bench_down {
    uint32_t messages, size;
};
enum { BENCH_DOWN_LEN = 8 };

static inline uint32_t bench_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

#endif
