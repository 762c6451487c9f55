/* Byte strings to numbers 0, 1, 2 … in the order of their first coming. In an arena. */
#ifndef CS_CRDT_INTERN_H
#define CS_CRDT_INTERN_H

#include "base/arena.h"

struct cs_intern {
    struct cs_slice *items; /* by number */
    uint32_t *slots;        /* number + 1, or 0; open addressing */
    uint32_t n, nslots;     /* nslots: a power of two, or 0 */
};
enum { CS_INTERN_NONE = UINT32_MAX };

/* Zero-initialised is empty. The number of s, which is copied when it is new; CS_INTERN_NONE: out of memory. */
uint32_t cs_intern_put(struct cs_intern *t, struct cs_arena *a, struct cs_slice s);
/* CS_INTERN_NONE: not there. */
uint32_t cs_intern_find(const struct cs_intern *t, struct cs_slice s);

#endif
