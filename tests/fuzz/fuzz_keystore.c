/* Key files as they lie on disk (without a passphrase), their bodies, and invite codes. */
#include "fuzz/fuzz.h"

#include "crypto/keystore_format.h"
#include "identity/code.h"

static void bodies(struct cs_slice body)
{
    struct cs_buf again = { 0 };
    struct cs_keystore *k;
    struct cs_key_export x;

    if (cs_keystore_parse(&k, body, NULL) == CS_OK) {
        FUZZ_CHECK(cs_keystore_body(&again, k, NULL) == CS_OK);
        FUZZ_CHECK(cs_slice_eq(cs_buf_slice(&again), body));
        cs_keystore_free(k);
    }
    cs_buf_reset(&again);
    if (cs_key_export_parse(&x, body, NULL) == CS_OK) {
        FUZZ_CHECK(cs_key_export_body(&again, &x, NULL) == CS_OK);
        FUZZ_CHECK(cs_slice_eq(cs_buf_slice(&again), body));
        cs_key_export_free(&x);
    }
    cs_buf_free(&again);
}

static void codes(struct cs_slice in)
{
    struct cs_invite_code c;
    struct cs_buf again = { 0 };
    char text[600];

    if (cs_invite_code_decode(&c, in, NULL) == CS_OK) {
        FUZZ_CHECK(cs_invite_code_encode(&again, &c, NULL) == CS_OK);
        FUZZ_CHECK(cs_slice_eq(cs_buf_slice(&again), in));
    }
    cs_buf_free(&again);
    if (in.len < sizeof text) {
        memcpy(text, in.data, in.len);
        text[in.len] = '\0';
        cs_invite_code_parse(&c, text, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cs_slice in = cs_slice(data, size);
    struct cs_buf body = { 0 };

    FUZZ_CHECK(cs_crypto_init(NULL) == CS_OK);
    if (cs_envelope_open(&body, "CSK1", NULL, in, NULL) == CS_OK ||
        cs_envelope_open(&body, "CSX1", NULL, in, NULL) == 0)
        bodies(cs_buf_slice(&body));
    cs_buf_free(&body);
    bodies(in);
    if (size > 0)
        codes(in);
    return 0;
}
