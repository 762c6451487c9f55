/* BLAKE3 in its three modes (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020). Any thread. */
#ifndef CS_CRYPTO_HASH_H
#define CS_CRYPTO_HASH_H

#include <blake3.h>

#include "base/bytes.h"

enum { CS_HASH_LEN = 32 };

struct cs_hash {
    uint8_t b[CS_HASH_LEN];
};

struct cs_hasher {
    blake3_hasher h;
};
/* derive_key mode with the context string "claw-sync v1 " label: H(label, m) of docs/protocol.md. */
void cs_hasher_init_label(struct cs_hasher *h, const char *label);
void cs_hasher_init_plain(struct cs_hasher *h);
void cs_hasher_init_keyed(struct cs_hasher *h, const uint8_t key[32]);
void cs_hasher_update(struct cs_hasher *h, const void *p, size_t n);
void cs_hasher_final(const struct cs_hasher *h, void *out, size_t n); /* any n: the extendable output */

void cs_hash_label(const char *label, struct cs_slice m, uint8_t out[32]);  /* H(label, m) */
void cs_hash_plain(struct cs_slice m, uint8_t out[32]);                     /* B3(m) */
void cs_mac(const uint8_t key[32], struct cs_slice m, void *out, size_t n); /* MAC(k, m, n) */

#endif
