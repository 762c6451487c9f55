/* An arena: what dies together is allocated together. Not thread-safe. */
#ifndef CS_BASE_ARENA_H
#define CS_BASE_ARENA_H

#include "base/bytes.h"

struct cs_arena_block;
struct cs_arena {
    struct cs_arena_block *head; /* owned; the newest block first */
    size_t used;                 /* bytes taken from head */
    size_t total;                /* bytes in all blocks */
    bool failed;                 /* memory was out since it was last reset */
};

/* Zero-initialised is empty and valid. */
void cs_arena_free(struct cs_arena *a);             /* releases every block; NULL is fine */
void cs_arena_reset(struct cs_arena *a);            /* forgets everything, keeps the newest block for the next round */
void *cs_arena_alloc(struct cs_arena *a, size_t n); /* aligned for any type, uninitialised; NULL: out of memory */
void *cs_arena_zalloc(struct cs_arena *a, size_t count,
                      size_t size); /* zeroed; NULL also when count * size overflows */
/* Room for one more in a list of n that doubles when it is full; list: address of the pointer to it, *cap: how many
 * fit, 0 and NULL at first. Nothing is given back before the arena is. False: out of memory, and the list is as it was.
 */
bool cs_arena_grow(struct cs_arena *a, void *list, uint32_t n, uint32_t *cap, size_t size);
/* A copy of s that lasts as long as the arena; data is NULL when memory is out (an empty s: non-NULL). */
struct cs_slice cs_arena_copy(struct cs_arena *a, struct cs_slice s);
char *cs_arena_str(struct cs_arena *a, const char *s);

#endif
