/* Batch headers, stored batches and hub heads: what decodes encodes to the same bytes. */
#include "fuzz/fuzz.h"

#include "crypto/head.h"
#include "delta/pack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cs_slice in = cs_slice(data, size);
    uint8_t bytes[CS_BATCH_HEADER_LEN], head_bytes[CS_HUB_HEAD_LEN];
    struct cs_batch_header h;
    struct cs_hub_head head;
    struct cs_batch b;

    if (cs_batch_header_decode(&h, in, NULL) == CS_OK) {
        cs_batch_header_encode(&h, bytes);
        FUZZ_CHECK(memcmp(bytes, data, sizeof bytes) == 0);
        FUZZ_CHECK(cs_batch_sealed_len(&h) >= h.packed_len + (size_t)CS_BATCH_SEAL_OVERHEAD);
    }
    if (cs_batch_decode(&b, in, NULL) == CS_OK) {
        struct cs_buf again = { 0 };
        size_t sum = 0;

        cs_batch_encode(&again, &b);
        FUZZ_CHECK(cs_slice_eq(cs_buf_slice(&again), in));
        for (uint32_t i = 0; i < b.nchunks; i++)
            sum += cs_batch_chunk(&b, i).len;
        FUZZ_CHECK(sum == b.sealed.len);
        cs_buf_free(&again);
        cs_batch_free(&b);
    }
    if (cs_hub_head_decode(&head, in)) {
        cs_hub_head_encode(&head, head_bytes);
        FUZZ_CHECK(memcmp(head_bytes, data, sizeof head_bytes) == 0);
    }
    return 0;
}
