/* The invite code: what an inviter hands to whoever may join. Bytes: version u8 = 1 ‖ flags u8 (1: TLS, 2: a pin
 * follows) ‖ invite secret 16 ‖ workspace 16 ‖ [SHA-256 of the hub certificate's public key 32] ‖ host:port ‖ the first
 * 4 bytes of H("code check", all before). As text: CLAW1- and groups of 5 in Crockford's base32. Any thread. */
#ifndef CS_IDENTITY_CODE_H
#define CS_IDENTITY_CODE_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"

enum { CS_CODE_HOST_MAX = 200 };

struct cs_invite_code {
    bool tls, has_pin;
    uint8_t secret[16];
    struct cs_uuid workspace;
    uint8_t pin[32];
    char hub[CS_CODE_HOST_MAX + 1]; /* "host:port", printable ASCII; an IPv6 address in brackets */
};

/* The bytes, appended to out, which the caller wipes. CS_EINVAL: the hub's address does not fit. */
int cs_invite_code_encode(struct cs_buf *out, const struct cs_invite_code *c, struct cs_error *err);
/* CS_ECORRUPT (mistyped or cut), CS_EVERSION. */
int cs_invite_code_decode(struct cs_invite_code *out, struct cs_slice bytes, struct cs_error *err);
/* The text, appended to out without a NUL; the caller wipes it. */
int cs_invite_code_text(struct cs_buf *out, const struct cs_invite_code *c, struct cs_error *err);
/* Reads what a person typed: any case, O for 0, I and L for 1, spaces and dashes anywhere. Errors as in decode. */
int cs_invite_code_parse(struct cs_invite_code *out, const char *text, struct cs_error *err);

/* Crockford's base32, most significant bits first, left-over bits zero. */
void cs_base32(struct cs_buf *out, struct cs_slice in);
/* The fingerprint that people compare: 16 characters of base32 over the hash of a signing key, in fours. */
void cs_fingerprint(const uint8_t sign_pk[32], char out[24]);
/* The lenient inverse as in cs_invite_code_parse; false: another character, or left-over bits that are set. */
bool cs_unbase32(struct cs_buf *out, struct cs_slice text);

#endif
