#include "crdt/intern.h"

enum { FIRST_SLOTS = 16 };

/* FNV-1a, 64 bits, folded. Not meant to resist an attacker: names and keys come from members of the workspace. */
static uint32_t hash(struct cs_slice s)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < s.len; i++)
        h = (h ^ s.data[i]) * UINT64_C(0x100000001b3);
    return (uint32_t)(h ^ h >> 32);
}

/* The slot of s, or the free one where it belongs. */
static uint32_t *slot_of(const struct cs_intern *t, struct cs_slice s)
{
    uint32_t i = hash(s) & (t->nslots - 1);

    while (t->slots[i] != 0 && !cs_slice_eq(t->items[t->slots[i] - 1], s))
        i = (i + 1) & (t->nslots - 1);
    return &t->slots[i];
}

static bool grow(struct cs_intern *t, struct cs_arena *a)
{
    struct cs_intern g = { .n = t->n, .nslots = t->nslots == 0 ? FIRST_SLOTS : t->nslots * 2 };

    if (g.nslots < t->nslots || (g.slots = cs_arena_zalloc(a, g.nslots, sizeof *g.slots)) == NULL ||
        (g.items = cs_arena_zalloc(a, g.nslots / 2, sizeof *g.items)) == NULL)
        return false;
    if (t->n > 0)
        memcpy(g.items, t->items, t->n * sizeof *g.items);
    for (uint32_t i = 0; i < t->n; i++)
        *slot_of(&g, g.items[i]) = i + 1;
    *t = g;
    return true;
}

uint32_t cs_intern_find(const struct cs_intern *t, struct cs_slice s)
{
    uint32_t at = t->nslots == 0 ? 0 : *slot_of(t, s);

    return at == 0 ? CS_INTERN_NONE : at - 1;
}

uint32_t cs_intern_put(struct cs_intern *t, struct cs_arena *a, struct cs_slice s)
{
    uint32_t *slot;
    struct cs_slice copy;

    if (t->n >= t->nslots / 2 && !grow(t, a)) /* at most half full; items holds nslots / 2 */
        return CS_INTERN_NONE;
    slot = slot_of(t, s);
    if (*slot != 0)
        return *slot - 1;
    copy = cs_arena_copy(a, s);
    if (copy.data == NULL)
        return CS_INTERN_NONE;
    t->items[t->n] = copy;
    *slot = ++t->n;
    return t->n - 1;
}
