/* Where the sessions' answer keys lie: slabs of guarded memory, for a guarded block of its own for each of tens of
 * thousands of keys would cost pages of address space and of locked memory each. On the loop. */
#include <stdlib.h>

#include "hub/internal.h"

enum { SLAB_KEYS = 128 };

struct cs_answer_key {
    uint8_t key[32];
    struct cs_answer_key *next_free;
    uint64_t refs;
};
struct slab {
    struct slab *next;
    struct cs_answer_key *keys; /* guarded */
};
struct cs_answer_keys {
    struct slab *slabs;
    struct cs_answer_key *free;
};

int cs_answer_keys_new(struct cs_answer_keys **out)
{
    *out = calloc(1, sizeof **out);
    return *out == NULL ? CS_ENOMEM : CS_OK;
}

void cs_answer_keys_free(struct cs_answer_keys *t)
{
    struct slab *next;

    if (t == NULL)
        return;
    for (struct slab *s = t->slabs; s != NULL; s = next) {
        next = s->next;
        cs_secret_free(s->keys);
        free(s);
    }
    free(t);
}

static bool more_keys(struct cs_answer_keys *t)
{
    struct slab *s = calloc(1, sizeof *s);

    if (s == NULL)
        return false;
    if ((s->keys = cs_secret_alloc(SLAB_KEYS * sizeof *s->keys)) == NULL) {
        free(s);
        return false;
    }
    s->next = t->slabs;
    t->slabs = s;
    for (size_t i = 0; i < SLAB_KEYS; i++) {
        s->keys[i] = (struct cs_answer_key){ .next_free = t->free };
        t->free = &s->keys[i];
    }
    return true;
}

struct cs_answer_key *cs_answer_key_new(struct cs_answer_keys *t, const uint8_t key[32])
{
    struct cs_answer_key *k;

    if (t->free == NULL && !more_keys(t))
        return NULL;
    k = t->free;
    t->free = k->next_free;
    memcpy(k->key, key, sizeof k->key);
    k->refs = 1;
    return k;
}

struct cs_answer_key *cs_answer_key_ref(struct cs_answer_key *k)
{
    k->refs++;
    return k;
}

void cs_answer_key_unref(struct cs_answer_keys *t, struct cs_answer_key *k)
{
    if (k == NULL || --k->refs > 0)
        return;
    cs_wipe(k->key, sizeof k->key);
    k->next_free = t->free;
    t->free = k;
}

const uint8_t *cs_answer_key_bytes(const struct cs_answer_key *k)
{
    return k->key;
}
