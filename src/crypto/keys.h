/* Ed25519, X25519, secretbox and sealed boxes of libsodium, under the labels of docs/protocol.md. Any thread, after
 * cs_crypto_init. Nothing else is ever signed than the 32 bytes H(label, m). */
#ifndef CS_CRYPTO_KEYS_H
#define CS_CRYPTO_KEYS_H

#include "base/error.h"
#include "crypto/hash.h"
#include "crypto/rng.h"

enum { CS_SIGNATURE_LEN = 64, CS_SEAL_OVERHEAD = 48, CS_BOX_OVERHEAD = 16, CS_NONCE_LEN = 24 };

int cs_crypto_init(struct cs_error *err); /* sodium_init; more than once is fine */

struct cs_sign_key {
    uint8_t seed[32];
    uint8_t pk[32];
    uint8_t sk[64]; /* libsodium's expanded form */
};
void cs_sign_key_from_seed(struct cs_sign_key *k, const uint8_t seed[32]);
void cs_sign(const struct cs_sign_key *k, const char *label, struct cs_slice m, uint8_t out[CS_SIGNATURE_LEN]);
bool cs_verify(const uint8_t pk[32], const char *label, struct cs_slice m, const uint8_t sig[CS_SIGNATURE_LEN]);
/* The same over an H(label, m) that is at hand already; `hash` is never anything else. */
void cs_sign_digest(const struct cs_sign_key *k, const uint8_t hash[CS_HASH_LEN], uint8_t out[CS_SIGNATURE_LEN]);
bool cs_verify_digest(const uint8_t pk[32], const uint8_t hash[CS_HASH_LEN], const uint8_t sig[CS_SIGNATURE_LEN]);

void cs_box_public(const uint8_t secret[32], uint8_t pk[32]);                /* X25519(secret, 9) */
bool cs_dh(const uint8_t secret[32], const uint8_t pk[32], uint8_t out[32]); /* false: a zero result */

/* secretbox: out has len + 16 bytes (encrypt), len - 16 (open). */
void cs_box(const uint8_t key[32], const uint8_t nonce[24], struct cs_slice m, uint8_t *out);
bool cs_box_open(const uint8_t key[32], const uint8_t nonce[24], struct cs_slice boxed, uint8_t *out);

/* Sealed boxes in crypto_box_seal's format, with our own randomness: out has len + 48 bytes (seal), len - 48 (open). */
bool cs_seal(const struct cs_rng *r, const uint8_t pk[32], struct cs_slice m, uint8_t *out);
bool cs_seal_open(const uint8_t secret[32], const uint8_t pk[32], struct cs_slice sealed, uint8_t *out);

void cs_wipe(void *p, size_t n);
bool cs_secret_eq(const void *a, const void *b, size_t n); /* constant time */
/* Guarded, locked, wiped on free. NULL: out of memory. */
void *cs_secret_alloc(size_t n);
void cs_secret_free(void *p);

/* The subkeys of one epoch: E = key ‖ workspace ‖ epoch. Lives in cs_secret_alloc memory. */
struct cs_epoch_keys {
    uint32_t epoch;
    uint8_t key[32];
    uint8_t batch[32], nonce[32], history[32], name[32], value[32], tag[32];
    uint8_t commitment[32];
};
void cs_epoch_keys_derive(struct cs_epoch_keys *out, const uint8_t key[32], const struct cs_uuid *workspace,
                          uint32_t epoch);

/* The keys of a device (label "device"), invite ("invite") or paper ("recovery"): P = secret ‖ workspace. */
struct cs_device_keys {
    struct cs_sign_key sign;
    uint8_t box_secret[32], box_pk[32];
    uint8_t local[32]; /* devices: key of queue.db and of what is stored locally */
    uint8_t hedge[32]; /* devices */
    uint8_t vouch[32]; /* invites and papers */
    struct cs_uuid id; /* invites and papers: derived; devices: left alone */
};
enum cs_principal { CS_PRINCIPAL_DEVICE = 1, CS_PRINCIPAL_PAPER = 2, CS_PRINCIPAL_INVITE = 3 };
/* secret: 32 bytes, invites: 16. */
void cs_device_keys_derive(struct cs_device_keys *out, enum cs_principal kind, struct cs_slice secret,
                           const struct cs_uuid *workspace);

#endif
