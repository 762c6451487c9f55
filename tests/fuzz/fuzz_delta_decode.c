/* Delta sets: what decodes encodes, and the canonical bytes decode to the same again. */
#include "fuzz/fuzz.h"

#include "delta/pack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cs_arena a = { 0 };
    struct cs_buf once = { 0 }, twice = { 0 };
    struct cs_delta d;

    if (cs_delta_decode(&d, &a, cs_slice(data, size), INT64_MAX, NULL) == CS_OK) {
        FUZZ_CHECK(cs_delta_encode(&once, &d, NULL) == CS_OK);
        FUZZ_CHECK(cs_delta_decode(&d, &a, cs_buf_slice(&once), INT64_MAX, NULL) == CS_OK);
        FUZZ_CHECK(cs_delta_encode(&twice, &d, NULL) == CS_OK);
        FUZZ_CHECK(cs_slice_eq(cs_buf_slice(&once), cs_buf_slice(&twice)));
    }
    FUZZ_CHECK(a.total <= 64 * size + 4 * 1024 * 1024); /* memory is a small multiple of the input */
    cs_buf_free(&once);
    cs_buf_free(&twice);
    cs_arena_free(&a);
    return 0;
}
