/* A checkpoint file of anything: refused with a reason, or what is read is what would be written. */
#include "fuzz/fuzz.h"

#include "engine/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cs_checkpoint c, again;
    struct cs_buf text = { 0 }, twice = { 0 };
    struct cs_error err = { 0 };

    if (cs_checkpoint_parse(&c, cs_slice(data, size), &err) != CS_OK) {
        FUZZ_CHECK(err.msg[0] != 0 && c.number == 0 && c.saved_ms == 0);
        return 0;
    }
    FUZZ_CHECK(cs_checkpoint_encode(&text, &c, NULL) == CS_OK);
    FUZZ_CHECK(cs_checkpoint_parse(&again, cs_buf_slice(&text), NULL) == CS_OK);
    FUZZ_CHECK(cs_checkpoint_encode(&twice, &again, NULL) == CS_OK);
    FUZZ_CHECK(cs_slice_eq(cs_buf_slice(&text), cs_buf_slice(&twice)));
    cs_buf_free(&text);
    cs_buf_free(&twice);
    return 0;
}
