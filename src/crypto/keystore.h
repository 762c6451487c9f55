/* The keystore of a data directory: device secret, epoch keys and pins, in one file of mode 0600 (envelope CSK1), and
 * the passphrase-protected export file (envelope CSX1). Secrets live in guarded memory. One thread at a time. */
#ifndef CS_CRYPTO_KEYSTORE_H
#define CS_CRYPTO_KEYSTORE_H

#include "crypto/keys.h"

struct cs_keystore {
    struct cs_uuid workspace, device;
    uint8_t device_secret[32];
    uint64_t *incarnations; /* owned; newest last */
    uint16_t nincarnations;
    uint8_t place[32];
    uint8_t hub_key[32]; /* zero: not pinned yet */
    uint8_t genesis[32]; /* zero: not pinned yet */
    uint32_t member_seq;
    uint8_t entry_hash[32];
    uint64_t log_id, log_number;
    uint8_t log_hash[32];
    uint64_t own_number;
    uint8_t own_hash[32];
    uint64_t audit_seq;
    uint8_t audit_head[32];
    struct cs_epoch_keys *epochs; /* owned, cs_secret_alloc; ascending, no gaps */
    uint16_t nepochs;
};
/* The struct itself in guarded memory. */
struct cs_keystore *cs_keystore_new(void);
void cs_keystore_free(struct cs_keystore *k); /* wipes; NULL is fine */
int cs_keystore_add_epoch(struct cs_keystore *k, uint32_t epoch, const uint8_t key[32], struct cs_error *err);
const struct cs_epoch_keys *cs_keystore_epoch(const struct cs_keystore *k, uint32_t epoch); /* NULL: not here */

/* Is there a keystore that wants a passphrase? False also when there is none, or no readable one. */
bool cs_keystore_is_protected(struct cs_world *w, const char *path);
/* passphrase: NULL for none (kdf 0: file permissions are then the only protection). */
int cs_keystore_save(const struct cs_keystore *k, struct cs_world *w, const struct cs_rng *r, const char *path,
                     const char *passphrase, struct cs_error *err);
/* CS_ENOTFOUND, CS_EAUTH (wrong passphrase, or damaged), CS_ECORRUPT, CS_EVERSION, CS_EIO. */
int cs_keystore_load(struct cs_keystore **out, struct cs_world *w, const char *path, const char *passphrase,
                     struct cs_error *err);

/* The export: workspace, pins, epoch keys and an invite code's bytes (empty: none). */
struct cs_key_export {
    struct cs_uuid workspace;
    uint8_t genesis[32], hub_key[32];
    uint32_t member_seq;
    uint8_t entry_hash[32];
    struct cs_epoch_keys *epochs; /* owned, cs_secret_alloc */
    uint16_t nepochs;
    struct cs_buf invite; /* owned, wiped: version u8 ‖ flags u8 ‖ invite secret 16 ‖ workspace 16 ‖ … as in a code */
};
void cs_key_export_free(struct cs_key_export *x);
/* Writes a new file of mode 0600; CS_EEXIST when it is there. Argon2id t = 3, 256 MiB. passphrase: not empty. */
int cs_key_export_write(const struct cs_key_export *x, struct cs_world *w, const struct cs_rng *r, const char *path,
                        const char *passphrase, struct cs_error *err);
int cs_key_export_read(struct cs_key_export *out, struct cs_world *w, const char *path, const char *passphrase,
                       struct cs_error *err);

#endif
