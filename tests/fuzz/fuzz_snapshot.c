/* What a hub gives of a snapshot: its description, and the rows of its parts as they are when a part is opened. The
 * first byte chooses. */
#include "fuzz/fuzz.h"

#include "crypto/snapshot.h"
#include "delta/pack.h"

enum { DESCRIPTION = 0, ROWS = 1, NKINDS = 2 };

/* What is read is all that there was, but for the signature, which is nobody's. */
static void description(struct cs_slice in)
{
    static const uint8_t seed[32] = { 1 };
    struct cs_buf again = { 0 };
    struct cs_snapshot_peer last;
    struct cs_sign_key key;
    struct cs_descriptor d;

    cs_sign_key_from_seed(&key, seed);
    FUZZ_CHECK(!cs_descriptor_verify(in, key.pk));
    if (cs_descriptor_read(&d, in, NULL) != CS_OK)
        return;
    if (d.npeers > 0)
        cs_snapshot_peer_at(&d, d.npeers - 1, &last);
    cs_descriptor_seal(&again, &d, &key);
    FUZZ_CHECK(!again.failed && again.len == in.len && memcmp(again.data, in.data, in.len - CS_SIGNATURE_LEN) == 0);
    FUZZ_CHECK(cs_descriptor_verify(cs_buf_slice(&again), key.pk));
    cs_buf_free(&again);
}

/* Rows that can be read can be sent as operations, and arrive as the same. */
static void rows(struct cs_slice in)
{
    static const struct cs_uuid sender = { { 1 } };
    struct cs_buf once = { 0 }, twice = { 0 };
    struct cs_arena a = { 0 };
    struct cs_delta d;
    uint32_t n;

    if (cs_delta_from_dump(&d, &a, in, &sender, &n, NULL) == CS_OK && n > 0) {
        FUZZ_CHECK(d.nops >= n);
        FUZZ_CHECK(cs_delta_encode(&once, &d, NULL) == CS_OK);
        FUZZ_CHECK(cs_delta_decode(&d, &a, cs_buf_slice(&once), INT64_MAX, NULL) == CS_OK);
        FUZZ_CHECK(cs_delta_encode(&twice, &d, NULL) == CS_OK);
        FUZZ_CHECK(cs_slice_eq(cs_buf_slice(&once), cs_buf_slice(&twice)));
    }
    cs_buf_free(&once);
    cs_buf_free(&twice);
    cs_arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FUZZ_CHECK(cs_crypto_init(NULL) == CS_OK);
    if (size == 0)
        return 0;
    if (data[0] % NKINDS == DESCRIPTION)
        description(cs_slice(data + 1, size - 1));
    else
        rows(cs_slice(data + 1, size - 1));
    return 0;
}
