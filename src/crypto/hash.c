#include "crypto/hash.h"

#include <assert.h>

void cs_hasher_init_label(struct cs_hasher *h, const char *label)
{
    static const char prefix[] = "claw-sync v1 ";
    char context[64];
    size_t n = strlen(label);

    assert(n + sizeof prefix <= sizeof context); /* labels are constants of this program */
    memcpy(context, prefix, sizeof prefix - 1);
    memcpy(context + sizeof prefix - 1, label, n);
    blake3_hasher_init_derive_key_raw(&h->h, context, sizeof prefix - 1 + n);
}

void cs_hasher_init_plain(struct cs_hasher *h)
{
    blake3_hasher_init(&h->h);
}

void cs_hasher_init_keyed(struct cs_hasher *h, const uint8_t key[32])
{
    blake3_hasher_init_keyed(&h->h, key);
}

void cs_hasher_update(struct cs_hasher *h, const void *p, size_t n)
{
    if (n != 0)
        blake3_hasher_update(&h->h, p, n);
}

void cs_hasher_final(const struct cs_hasher *h, void *out, size_t n)
{
    blake3_hasher_finalize(&h->h, out, n);
}

void cs_hash_label(const char *label, struct cs_slice m, uint8_t out[32])
{
    struct cs_hasher h;

    cs_hasher_init_label(&h, label);
    cs_hasher_update(&h, m.data, m.len);
    cs_hasher_final(&h, out, CS_HASH_LEN);
}

void cs_hash_plain(struct cs_slice m, uint8_t out[32])
{
    struct cs_hasher h;

    blake3_hasher_init(&h.h);
    cs_hasher_update(&h, m.data, m.len);
    cs_hasher_final(&h, out, CS_HASH_LEN);
}

void cs_mac(const uint8_t key[32], struct cs_slice m, void *out, size_t n)
{
    struct cs_hasher h;

    cs_hasher_init_keyed(&h, key);
    cs_hasher_update(&h, m.data, m.len);
    cs_hasher_final(&h, out, n);
}
