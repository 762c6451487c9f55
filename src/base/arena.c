#include "base/arena.h"

#include <stdalign.h>
#include <stdlib.h>

enum { BLOCK = 64 * 1024, ALIGN = alignof(max_align_t) };

struct cs_arena_block {
    struct cs_arena_block *next;
    size_t size;
    alignas(ALIGN) uint8_t bytes[];
};

void cs_arena_free(struct cs_arena *a)
{
    struct cs_arena_block *b, *next;

    if (a == NULL)
        return;
    for (b = a->head; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    *a = (struct cs_arena){ 0 };
}

void cs_arena_reset(struct cs_arena *a)
{
    struct cs_arena_block *keep = a->head;

    a->failed = false;
    if (keep == NULL)
        return;
    a->head = keep->next;
    cs_arena_free(a);
    keep->next = NULL;
    *a = (struct cs_arena){ .head = keep, .total = keep->size };
}

void *cs_arena_alloc(struct cs_arena *a, size_t n)
{
    struct cs_arena_block *b = a->head;
    size_t size;
    void *p;

    if (n > SIZE_MAX / 4)
        return NULL;
    n = (n + ALIGN - 1) / ALIGN * ALIGN;
    if (n == 0)
        n = ALIGN;
    if (b == NULL || n > b->size - a->used) {
        /* blocks double up to 1 MiB, so that a large batch costs few of them */
        size = b == NULL ? BLOCK : b->size < 1024 * 1024 ? b->size * 2 : b->size;
        if (size < n)
            size = n;
        if ((b = malloc(sizeof *b + size)) == NULL) {
            a->failed = true;
            return NULL;
        }
        b->next = a->head;
        b->size = size;
        a->head = b;
        a->used = 0;
        a->total += size;
    }
    p = b->bytes + a->used;
    a->used += n;
    return p;
}

void *cs_arena_zalloc(struct cs_arena *a, size_t count, size_t size)
{
    void *p;

    if (size != 0 && count > SIZE_MAX / 4 / size)
        return NULL;
    if ((p = cs_arena_alloc(a, count * size)) != NULL)
        memset(p, 0, count * size);
    return p;
}

bool cs_arena_grow(struct cs_arena *a, void *list, uint32_t n, uint32_t *cap, size_t size)
{
    uint32_t want = *cap == 0 ? 16 : *cap * 2;
    void *old, *p;

    if (n < *cap)
        return true;
    if ((p = cs_arena_zalloc(a, want, size)) == NULL)
        return false;
    memcpy(&old, list, sizeof old);
    if (n > 0)
        memcpy(p, old, n * size);
    memcpy(list, &p, sizeof p);
    *cap = want;
    return true;
}

struct cs_slice cs_arena_copy(struct cs_arena *a, struct cs_slice s)
{
    uint8_t *p = cs_arena_alloc(a, s.len);

    if (p == NULL)
        return CS_SLICE_NULL;
    if (s.len != 0)
        memcpy(p, s.data, s.len);
    return cs_slice(p, s.len);
}

char *cs_arena_str(struct cs_arena *a, const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = cs_arena_alloc(a, n);

    if (p != NULL)
        memcpy(p, s, n);
    return p;
}
