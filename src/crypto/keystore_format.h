/* Inside of the keystore: the envelope of CSK1 and CSX1 files and the two bodies in it. For keystore.c, for the test
 * vectors and for fuzzing; everyone else uses crypto/keystore.h. */
#ifndef CS_CRYPTO_KEYSTORE_FORMAT_H
#define CS_CRYPTO_KEYSTORE_FORMAT_H

#include "crypto/keystore.h"

enum { CS_ENVELOPE_HEAD = 56, CS_ENVELOPE_MAX = 8 * 1024 * 1024 };
enum { CS_KDF_NONE = 0, CS_KDF_ARGON2ID13 = 1 };

/* The cost of one passphrase guess. Accepted when read: t 1 … 10, memory 8 MiB … 1 GiB. */
struct cs_kdf_cost {
    uint32_t opslimit, memlimit_kib;
};
#define CS_KDF_KEYSTORE ((struct cs_kdf_cost){ 3, 64 * 1024 })
#define CS_KDF_EXPORT   ((struct cs_kdf_cost){ 3, 256 * 1024 })

/* head ‖ BOX(H("file key", head ‖ secret), nonce, body), appended to out; passphrase NULL: no kdf, cost unused.
 * head: magic ‖ version u8 ‖ kdf u8 ‖ 0*2 ‖ opslimit u32 ‖ memlimit KiB u32 ‖ salt 16 ‖ nonce 24. */
int cs_envelope_seal(struct cs_buf *out, const char magic[4], const char *passphrase, struct cs_kdf_cost cost,
                     struct cs_slice body, const struct cs_rng *r, struct cs_error *err);
/* The body, appended to out, which the caller wipes. CS_EAUTH, CS_ECORRUPT, CS_EVERSION, CS_ENOMEM. */
int cs_envelope_open(struct cs_buf *out, const char magic[4], const char *passphrase, struct cs_slice file,
                     struct cs_error *err);

/* Bodies; the caller wipes the buffer (it is never moved while it grows). */
int cs_keystore_body(struct cs_buf *out, const struct cs_keystore *k, struct cs_error *err);
int cs_keystore_parse(struct cs_keystore **out, struct cs_slice body, struct cs_error *err);
int cs_key_export_body(struct cs_buf *out, const struct cs_key_export *x, struct cs_error *err);
int cs_key_export_parse(struct cs_key_export *out, struct cs_slice body, struct cs_error *err);

#endif
