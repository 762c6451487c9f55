/* gRPC's own formats: length-prefixed messages (whole and in pieces must give the same), metadata fields, timeouts,
 * percent encoding. The first byte chooses; of messages the second is the size of the pieces. */
#include "fuzz/fuzz.h"

#include <string.h>

#include "rpc/frame.h"
#include "rpc/metadata.h"
#include "rpc/timeout.h"

enum { CLIENT = 1, GZIP = 2, UNKNOWN = 4, FRUGAL = 8, MAX_MESSAGE = 64 * 1024 };

/* What came out, as a hash: of every message its length and bytes. */
struct outcome {
    uint64_t messages, hash;
    int last, status;
};

static void mix(struct outcome *o, struct cs_slice msg)
{
    o->messages++;
    o->hash = (o->hash ^ msg.len) * 0x100000001b3;
    for (size_t i = 0; i < msg.len; i++)
        o->hash = (o->hash ^ msg.data[i]) * 0x100000001b3;
}

static struct outcome decode(uint8_t how, struct cs_slice in, size_t piece)
{
    struct cs_rpc_decoder d = { .max = MAX_MESSAGE, .client = (how & CLIENT) != 0, .frugal = (how & FRUGAL) != 0 };
    struct outcome o = { 0 };
    struct cs_error err;

    d.encoding = (how & GZIP) != 0      ? CS_RPC_ENCODING_GZIP
                 : (how & UNKNOWN) != 0 ? CS_RPC_ENCODING_UNKNOWN
                                        : CS_RPC_ENCODING_NONE;
    while (in.len > 0 && o.last >= 0) {
        struct cs_slice part = cs_slice(in.data, in.len < piece ? in.len : piece), msg;

        in = cs_slice(in.data + part.len, in.len - part.len);
        while ((o.last = cs_rpc_decode(&d, &part, &msg, &o.status, &err)) == 1) {
            FUZZ_CHECK(msg.len <= MAX_MESSAGE);
            mix(&o, msg);
        }
        FUZZ_CHECK(o.last < 0 || part.len == 0);
    }
    if (o.last < 0)
        FUZZ_CHECK(o.status > CS_RPC_OK && o.status <= CS_RPC_UNAUTHENTICATED && err.msg[0] != '\0');
    cs_rpc_decoder_fini(&d);
    return o;
}

static void messages(uint8_t how, struct cs_slice in)
{
    size_t piece = in.len == 0 || in.data[0] == 0 ? 1 : in.data[0];
    struct outcome whole, parts;

    in = in.len == 0 ? in : cs_slice(in.data + 1, in.len - 1);
    whole = decode(how, in, in.len);
    parts = decode(how, in, piece);
    FUZZ_CHECK(whole.messages == parts.messages && whole.hash == parts.hash);
    FUZZ_CHECK((whole.last < 0) == (parts.last < 0) && whole.status == parts.status);
}

/* "name NUL value" as a field from the peer; what is taken must be fit to be sent again, if its name is. */
static void field(struct cs_slice in)
{
    const uint8_t *nul = in.len == 0 ? NULL : memchr(in.data, 0, in.len);
    struct cs_slice name = nul == NULL ? in : cs_slice(in.data, (size_t)(nul - in.data));
    struct cs_slice value = nul == NULL ? CS_SLICE_NULL : cs_slice(nul + 1, in.len - name.len - 1);
    struct cs_rpc_pairs pairs = { 0 };
    struct cs_rpc_fields out = { 0 };
    struct cs_error err;
    int rc = cs_rpc_pairs_put_field(&pairs, name, value);

    FUZZ_CHECK(rc == CS_OK || rc == CS_ECORRUPT);
    if (rc == CS_OK && cs_rpc_metadata_check(&pairs.view, &err) == CS_OK) {
        cs_rpc_fields_put_metadata(&out, &pairs.view);
        FUZZ_CHECK(!out.failed && out.n == pairs.view.n);
    }
    cs_rpc_fields_fini(&out);
    cs_rpc_pairs_clear(&pairs);
    cs_rpc_is_grpc(value);
    cs_rpc_list_has(value, "gzip");
    cs_rpc_encoding_of(value);
}

static void timeout(struct cs_slice in)
{
    char text[CS_RPC_TIMEOUT_TEXT];
    uint32_t ms, again;

    if (!cs_rpc_timeout_parse(in, &ms))
        return;
    FUZZ_CHECK(ms < UINT32_MAX);
    cs_rpc_timeout_print(text, ms);
    FUZZ_CHECK(cs_rpc_timeout_parse(cs_slice_str(text), &again) && again >= ms);
}

static void percent(struct cs_slice in)
{
    struct cs_buf out = { 0 }, back = { 0 };

    cs_rpc_percent_encode(&out, in);
    for (size_t i = 0; i < out.len; i++)
        FUZZ_CHECK(out.data[i] >= 0x20 && out.data[i] <= 0x7e);
    cs_rpc_percent_decode(&back, cs_buf_slice(&out));
    FUZZ_CHECK(cs_slice_eq(cs_buf_slice(&back), in));
    cs_buf_reset(&back);
    cs_rpc_percent_decode(&back, in);
    FUZZ_CHECK(back.len <= in.len);
    cs_buf_free(&out);
    cs_buf_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cs_slice rest;

    if (size == 0)
        return 0;
    rest = cs_slice(data + 1, size - 1);
    switch (data[0] >> 6) {
    case 0:
        messages(data[0], rest);
        break;
    case 1:
        field(rest);
        break;
    case 2:
        timeout(rest);
        break;
    default:
        percent(rest);
    }
    return 0;
}
