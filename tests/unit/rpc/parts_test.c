/* The parts that know no connection: status codes, timeouts, metadata, message framing, the send queue. */
#include "unit/rpc/rpc_fixture.h"

#include "rpc/frame.h"
#include "rpc/gzip.h"
#include "rpc/metadata.h"
#include "rpc/peers.h"
#include "rpc/sendq.h"
#include "rpc/status.h"
#include "rpc/timeout.h"

static void status_names(void **state)
{
    (void)state;
    assert_string_equal(cs_rpc_status_name(0), "OK");
    assert_string_equal(cs_rpc_status_name(16), "UNAUTHENTICATED");
    assert_string_equal(cs_rpc_status_name(17), "UNKNOWN");
    assert_string_equal(cs_rpc_status_name(-1), "UNKNOWN");
}

static void status_numbers(void **state)
{
    static const struct {
        const char *text;
        int want;
    } cases[] = { { "0", 0 },  { "7", 7 },  { "14", 14 }, { "16", 16 }, { "17", 2 }, { "", 2 },
                  { "-1", 2 }, { "1x", 2 }, { "00", 0 },  { "100", 2 }, { " 1", 2 }, { "99999999999", 2 } };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(cs_rpc_status_parse(cs_slice_str(cases[i].text)), cases[i].want);
}

static void status_of_failures(void **state)
{
    static const int http[][2] = { { 400, 13 }, { 401, 16 }, { 403, 7 },  { 404, 12 }, { 429, 14 },
                                   { 502, 14 }, { 503, 14 }, { 504, 14 }, { 200, 2 },  { 418, 2 } };
    static const int h2[][2] = { { 0, 13 }, { 1, 13 }, { 2, 13 },  { 3, 13 }, { 4, 13 }, { 6, 13 }, { 7, 14 },
                                 { 8, 1 },  { 9, 13 }, { 10, 13 }, { 11, 8 }, { 12, 7 }, { 5, 2 },  { 99, 2 } };

    (void)state;
    for (size_t i = 0; i < sizeof http / sizeof http[0]; i++)
        assert_int_equal(cs_rpc_status_of_http(http[i][0]), http[i][1]);
    for (size_t i = 0; i < sizeof h2 / sizeof h2[0]; i++)
        assert_int_equal(cs_rpc_status_of_h2((uint32_t)h2[i][0]), h2[i][1]);
}

static void timeouts_are_read(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        uint32_t ms;
    } cases[] = {
        { "1n", true, 1 },
        { "1000000n", true, 1 },
        { "1000001n", true, 2 },
        { "99999999n", true, 100 },
        { "1u", true, 1 },
        { "2500u", true, 3 },
        { "0m", true, 0 },
        { "100m", true, 100 },
        { "99999999m", true, 99999999 },
        { "2S", true, 2000 },
        { "3M", true, 180000 },
        { "1H", true, 3600000 },
        { "99999999H", true, UINT32_MAX - 1 },
        { "4294968S", true, UINT32_MAX - 1 },
        { "", false, 0 },
        { "m", false, 0 },
        { "1", false, 0 },
        { "1s", false, 0 },
        { "-1m", false, 0 },
        { " 1m", false, 0 },
        { "1 m", false, 0 },
        { "1.5S", false, 0 },
        { "999999999m", false, 0 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t ms = 0;

        assert_int_equal(cs_rpc_timeout_parse(cs_slice_str(cases[i].text), &ms), cases[i].ok);
        assert_int_equal(ms, cases[i].ms);
    }
}

static void timeouts_are_printed(void **state)
{
    static const uint32_t cases[] = { 0, 1, 999, 99999999, 100000000, 100000001, UINT32_MAX - 1 };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[CS_RPC_TIMEOUT_TEXT];
        uint32_t ms;

        cs_rpc_timeout_print(text, cases[i]);
        assert_true(cs_rpc_timeout_parse(cs_slice_str(text), &ms));
        assert_true(ms >= cases[i] && ms - cases[i] < 1000);
    }
}

static void percent_encoding(void **state)
{
    static const struct {
        const char *plain, *encoded;
    } cases[] = { { "", "" },
                  { "plain text ~", "plain text ~" },
                  { "100%", "100%25" },
                  { "\n\x7f", "%0A%7F" },
                  { "\xc3\xbc \xf0\x9f\x90\xbe", "%C3%BC %F0%9F%90%BE" } };
    static const struct {
        const char *encoded, *plain;
    } odd[] = { { "%c3%bc", "\xc3\xbc" }, { "%", "%" }, { "%4", "%4" }, { "%zz", "%zz" }, { "%%41", "%A" } };
    struct cs_buf b = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cs_buf_reset(&b);
        cs_rpc_percent_encode(&b, cs_slice_str(cases[i].plain));
        assert_true(cs_slice_eq(cs_buf_slice(&b), cs_slice_str(cases[i].encoded)));
        cs_buf_reset(&b);
        cs_rpc_percent_decode(&b, cs_slice_str(cases[i].encoded));
        assert_true(cs_slice_eq(cs_buf_slice(&b), cs_slice_str(cases[i].plain)));
    }
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        cs_buf_reset(&b);
        cs_rpc_percent_decode(&b, cs_slice_str(odd[i].encoded));
        assert_true(cs_slice_eq(cs_buf_slice(&b), cs_slice_str(odd[i].plain)));
    }
    cs_buf_free(&b);
}

static void fields_become_metadata(void **state)
{
    static const struct {
        const char *name, *value;
        int rc;
        size_t n; /* pairs it becomes */
        const char *last;
    } cases[] = {
        { "x-name", "value", CS_OK, 1, "value" },
        { ":path", "/x", CS_OK, 0, NULL },
        { "grpc-encoding", "gzip", CS_OK, 0, NULL },
        { "content-type", "x", CS_OK, 0, NULL },
        { "te", "trailers", CS_OK, 0, NULL },
        { "x-bin", "YWJj", CS_OK, 1, "abc" },
        { "x-bin", "YWI", CS_OK, 1, "ab" },
        { "x-bin", "YWI=", CS_OK, 1, "ab" },
        { "x-bin", "", CS_OK, 1, "" },
        { "x-bin", "YQ,YWI,YWJj", CS_OK, 3, "abc" },
        { "x-bin", "Y", CS_ECORRUPT, 0, NULL },
        { "x-bin", "?", CS_ECORRUPT, 0, NULL },
        { "-bin", "?", CS_OK, 1, "?" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cs_rpc_pairs p = { 0 };

        assert_int_equal(cs_rpc_pairs_put_field(&p, cs_slice_str(cases[i].name), cs_slice_str(cases[i].value)),
                         cases[i].rc);
        assert_int_equal(p.view.n, cases[i].n);
        if (cases[i].n > 0)
            assert_true(cs_slice_eq(p.view.items[cases[i].n - 1].value, cs_slice_str(cases[i].last)));
        if (cases[i].n == 1)
            assert_non_null(cs_rpc_metadata_get(&p.view, cases[i].name).data);
        assert_null(cs_rpc_metadata_get(&p.view, "absent").data);
        cs_rpc_pairs_clear(&p);
    }
    assert_null(cs_rpc_metadata_get(NULL, "x").data);
}

static void metadata_becomes_fields(void **state)
{
    const struct cs_rpc_meta items[] = { { "a", cs_slice_str("b") },
                                         { "x-bin", cs_slice("\0\1", 2) },
                                         { "authorization", cs_slice_str("secret") },
                                         { "empty-bin", CS_SLICE_NULL } };
    struct cs_rpc_fields f = { 0 };

    (void)state;
    for (int round = 0; round < 2; round++) {
        cs_rpc_fields_reset(&f);
        cs_rpc_fields_put_metadata(&f, &(struct cs_rpc_metadata){ items, 4 });
        cs_rpc_fields_put_status(&f, 5, "caf\xc3\xa9");
        cs_rpc_fields_put_status(&f, 99, NULL);
        assert_false(f.failed);
        assert_int_equal(f.n, 7);
        assert_memory_equal(f.v[1].value, "AAE", 3);
        assert_int_equal(f.v[1].valuelen, 3);
        assert_int_equal(f.v[2].flags, NGHTTP2_NV_FLAG_NO_INDEX);
        assert_int_equal(f.v[3].valuelen, 0);
        assert_memory_equal(f.v[5].value, "caf%C3%A9", 9);
        assert_memory_equal(f.v[6].value, "2", 1);
    }
    cs_rpc_fields_fini(&f);
}

static size_t take(struct cs_rpc_sendq *q, uint8_t *out, size_t n)
{
    size_t done = 0;

    while (done < n && q->bytes > 0) {
        struct cs_rpc_block *block;
        struct cs_slice piece = cs_rpc_sendq_take(q, n - done, &block);

        memcpy(out + done, piece.data, piece.len);
        done += piece.len;
        cs_rpc_block_drop(block);
    }
    return done;
}

static void count_one(void *arg)
{
    ++*(int *)arg;
}

/* Lent messages between copied ones: each released once, when its last byte is dropped or the queue cleared. */
static void messages_that_are_lent(void **state)
{
    static const char text[] = "0123456789";
    struct cs_rpc_block *held[4];
    struct cs_rpc_sendq q = { 0 };
    int first = 0, second = 0;
    uint8_t wire[64];
    struct cs_slice piece;

    (void)state;
    assert_int_equal(cs_rpc_sendq_lend(&q, cs_slice_str(text), count_one, &first), CS_OK);
    assert_int_equal(cs_rpc_sendq_put(&q, cs_slice_str("abc"), false), CS_OK);
    assert_int_equal(cs_rpc_sendq_lend(&q, cs_slice_str(text), NULL, NULL), CS_OK);
    assert_int_equal(cs_rpc_sendq_lend(&q, cs_slice_str(text), count_one, &second), CS_OK);
    assert_int_equal(q.bytes, 15 + 8 + 15 + 15);
    assert_int_equal(take(&q, wire, 5), 5);
    assert_memory_equal(wire, "\0\0\0\0\x0a", 5);
    piece = cs_rpc_sendq_take(&q, 4, &held[0]);
    assert_ptr_equal(piece.data, text);
    assert_int_equal(piece.len, 4);
    piece = cs_rpc_sendq_take(&q, 100, &held[1]);
    assert_ptr_equal(piece.data, text + 4);
    assert_int_equal(piece.len, 6);
    assert_int_equal(first, 0);
    cs_rpc_block_drop(held[0]);
    assert_int_equal(first, 0);
    cs_rpc_block_drop(held[1]);
    assert_int_equal(first, 1);
    assert_int_equal(take(&q, wire, 8 + 15 + 3), 26);
    assert_memory_equal(wire,
                        "\0\0\0\0\3abc\0\0\0\0\x0a"
                        "0123456789\0",
                        24);
    /* the last one's prefix is in part sent, its bytes are not */
    piece = cs_rpc_sendq_take(&q, 100, &held[2]);
    piece = cs_rpc_sendq_take(&q, 3, &held[3]);
    assert_ptr_equal(piece.data, text);
    cs_rpc_sendq_clear(&q);
    assert_int_equal(q.bytes, 0);
    assert_int_equal(second, 0);
    cs_rpc_block_drop(held[2]);
    cs_rpc_block_drop(held[3]);
    assert_int_equal(second, 1);
}

/* The same messages, whatever the pieces. */
static void messages_in_pieces(void **state)
{
    static const size_t sizes[] = { 0, 1, 5, 100, 0, 70000, 300000, 3 };
    struct cs_rpc_sendq q = { 0 };
    uint8_t *data = malloc(300000), *wire;
    size_t n, total;

    (void)state;
    for (size_t i = 0; i < 300000; i++)
        data[i] = (uint8_t)(i * 7);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        assert_int_equal(cs_rpc_sendq_put(&q, cs_slice(data, sizes[i]), false), CS_OK);
    total = q.bytes;
    wire = malloc(total);
    for (n = 0; n < total;)
        n += take(&q, wire + n, 977);
    assert_int_equal(n, total);
    assert_int_equal(q.bytes, 0);
    assert_null(q.head);
    for (size_t piece = 1; piece < total; piece = piece * 3 + 1) {
        struct cs_rpc_decoder d = { .max = 300000 };
        struct cs_error err;
        size_t got = 0;

        for (size_t at = 0; at < total; at += piece) {
            struct cs_slice in = cs_slice(wire + at, total - at < piece ? total - at : piece), msg;
            int status, r;

            while (in.len > 0 && (r = cs_rpc_decode(&d, &in, &msg, &status, &err)) != 0) {
                assert_int_equal(r, 1);
                assert_int_equal(msg.len, sizes[got]);
                assert_true(msg.len == 0 || memcmp(msg.data, data, msg.len) == 0);
                got++;
            }
        }
        assert_int_equal(got, sizeof sizes / sizeof sizes[0]);
        assert_true(cs_rpc_decoder_idle(&d));
        cs_rpc_decoder_fini(&d);
    }
    free(data);
    free(wire);
}

static void broken_messages(void **state)
{
    static const struct {
        uint8_t prefix[5];
        enum cs_rpc_encoding encoding;
        bool client;
        int status;
    } cases[] = {
        { { 1, 0, 0, 0, 1 }, CS_RPC_ENCODING_NONE, false, CS_RPC_INTERNAL },
        { { 1, 0, 0, 0, 1 }, CS_RPC_ENCODING_NONE, true, CS_RPC_INTERNAL },
        { { 1, 0, 0, 0, 1 }, CS_RPC_ENCODING_UNKNOWN, false, CS_RPC_UNIMPLEMENTED },
        { { 1, 0, 0, 0, 1 }, CS_RPC_ENCODING_UNKNOWN, true, CS_RPC_INTERNAL },
        { { 2, 0, 0, 0, 1 }, CS_RPC_ENCODING_NONE, false, CS_RPC_INTERNAL },
        { { 2, 0, 0, 0, 1 }, CS_RPC_ENCODING_GZIP, false, CS_RPC_INTERNAL },
        { { 0, 0, 0, 0, 101 }, CS_RPC_ENCODING_NONE, false, CS_RPC_RESOURCE_EXHAUSTED },
        { { 1, 0, 0, 0, 101 }, CS_RPC_ENCODING_GZIP, false, CS_RPC_RESOURCE_EXHAUSTED },
        { { 0, 255, 255, 255, 255 }, CS_RPC_ENCODING_NONE, false, CS_RPC_RESOURCE_EXHAUSTED },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cs_rpc_decoder d = { .max = 100, .encoding = cases[i].encoding, .client = cases[i].client };
        struct cs_slice in = cs_slice(cases[i].prefix, 5), msg;
        struct cs_error err;
        int status = -1;

        assert_int_equal(cs_rpc_decode(&d, &in, &msg, &status, &err), -1);
        assert_int_equal(status, cases[i].status);
        assert_int_equal(d.body.cap, 0);
        in = cs_slice(cases[i].prefix, 5);
        assert_int_equal(cs_rpc_decode(&d, &in, &msg, &status, &err), -1); /* for good */
        cs_rpc_decoder_fini(&d);
    }
}

static void gzip_there_and_back(void **state)
{
    static const size_t sizes[] = { 0, 1, 100, 5000, 300000 };
    uint8_t *data = malloc(300000);

    (void)state;
    for (size_t i = 0; i < 300000; i++)
        data[i] = (uint8_t)(i / 100 * 7);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct cs_buf packed = { 0 }, plain = { 0 };

        assert_int_equal(cs_rpc_gzip(&packed, cs_slice(data, sizes[i])), CS_OK);
        assert_true(sizes[i] < 5000 || packed.len < sizes[i] / 4);
        assert_int_equal(cs_rpc_gunzip(&plain, cs_buf_slice(&packed), sizes[i]), CS_OK);
        assert_int_equal(plain.len, sizes[i]);
        assert_true(sizes[i] == 0 || memcmp(plain.data, data, sizes[i]) == 0);
        cs_buf_reset(&plain);
        if (sizes[i] > 0)
            assert_int_equal(cs_rpc_gunzip(&plain, cs_buf_slice(&packed), sizes[i] - 1), CS_ELIMIT);
        /* cut anywhere, or followed by anything, it is not gzip */
        for (size_t n = 0; n < packed.len && n < 40; n++) {
            cs_buf_reset(&plain);
            assert_int_equal(cs_rpc_gunzip(&plain, cs_slice(packed.data, n), 300000), CS_ECORRUPT);
        }
        cs_buf_reset(&plain);
        assert_int_equal(cs_rpc_gunzip(&plain, cs_slice(packed.data, packed.len - 1), 300000), CS_ECORRUPT);
        cs_buf_put_u8(&packed, 'x');
        cs_buf_reset(&plain);
        assert_int_equal(cs_rpc_gunzip(&plain, cs_buf_slice(&packed), 300000), CS_ECORRUPT);
        packed.len--;
        packed.data[packed.len / 2] ^= 0x55;
        cs_buf_reset(&plain);
        assert_int_not_equal(cs_rpc_gunzip(&plain, cs_buf_slice(&packed), 300000), CS_OK);
        cs_buf_free(&packed);
        cs_buf_free(&plain);
    }
    free(data);
}

static void gzip_members_are_one_text(void **state)
{
    struct cs_buf packed = { 0 }, plain = { 0 };

    (void)state;
    assert_int_equal(cs_rpc_gzip(&packed, cs_slice_str("one ")), CS_OK);
    assert_int_equal(cs_rpc_gzip(&packed, cs_slice_str("")), CS_OK);
    assert_int_equal(cs_rpc_gzip(&packed, cs_slice_str("two")), CS_OK);
    assert_int_equal(cs_rpc_gunzip(&plain, cs_buf_slice(&packed), 7), CS_OK);
    assert_int_equal(plain.len, 7);
    assert_memory_equal(plain.data, "one two", 7);
    cs_buf_free(&packed);
    cs_buf_free(&plain);
}

/* 64 MiB in 64 KiB: as much memory is taken as is allowed, about. */
static void a_bomb_is_bounded(void **state)
{
    enum { BOMB = 64 * 1024 * 1024, ALLOWED = 10000 };
    uint8_t *zeros = calloc(1, BOMB), prefix[5] = { 1 };
    struct cs_rpc_decoder d = { .max = BOMB, .encoding = CS_RPC_ENCODING_GZIP };
    struct cs_buf packed = { 0 }, plain = { 0 };
    struct cs_slice in = cs_slice(prefix, 5), msg;
    struct cs_error err;
    int status = 0;

    (void)state;
    assert_int_equal(cs_rpc_gzip(&packed, cs_slice(zeros, BOMB)), CS_OK);
    assert_true(packed.len < 128 * 1024);
    assert_int_equal(cs_rpc_gunzip(&plain, cs_buf_slice(&packed), ALLOWED), CS_ELIMIT);
    assert_true(plain.cap <= 4 * ALLOWED);
    d.max = packed.len;
    cs_store_u32(prefix + 1, (uint32_t)packed.len);
    assert_int_equal(cs_rpc_decode(&d, &in, &msg, &status, &err), 0);
    in = cs_buf_slice(&packed);
    assert_int_equal(cs_rpc_decode(&d, &in, &msg, &status, &err), -1);
    assert_int_equal(status, CS_RPC_RESOURCE_EXHAUSTED);
    assert_true(d.plain.cap <= 4 * packed.len);
    cs_rpc_decoder_fini(&d);
    cs_buf_free(&packed);
    cs_buf_free(&plain);
    free(zeros);
}

static void compressed_messages_in_pieces(void **state)
{
    struct cs_rpc_decoder d = { .max = 100, .encoding = CS_RPC_ENCODING_GZIP };
    struct cs_rpc_sendq q = { 0 };
    struct cs_buf packed = { 0 };
    struct cs_slice in, msg;
    struct cs_error err;
    uint8_t wire[200];
    int status, got = 0;
    size_t n;

    (void)state;
    assert_int_equal(cs_rpc_gzip(&packed, cs_slice_str("hello")), CS_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(cs_rpc_sendq_put(&q, i == 1 ? cs_slice_str("hello") : cs_buf_slice(&packed), i != 1), CS_OK);
    n = take(&q, wire, sizeof wire);
    for (size_t i = 0; i < n; i++) {
        in = cs_slice(wire + i, 1);
        if (cs_rpc_decode(&d, &in, &msg, &status, &err) == 0)
            continue;
        got++;
        assert_true(cs_slice_eq(msg, cs_slice_str("hello")));
    }
    assert_int_equal(got, 3);
    assert_true(cs_rpc_decoder_idle(&d));
    cs_rpc_decoder_fini(&d);
    cs_buf_free(&packed);
}

static void lists(void **state)
{
    static const struct {
        const char *list;
        bool has;
    } cases[] = {
        { "gzip", true },           { "identity,gzip", true }, { "identity, gzip ,x", true }, { "", false },
        { "gzip2,deflate", false }, { ",,", false },           { "xgzip gzip", true },        { "identity", false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(cs_rpc_list_has(cs_slice_str(cases[i].list), "gzip"), cases[i].has);
}

static void content_types(void **state)
{
    static const char *const good[] = { "application/grpc", "application/grpc+proto", "application/grpc;x=y" };
    static const char *const bad[] = { "", "application/grp", "application/grpc-web", "application/json", "text/html" };

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_true(cs_rpc_is_grpc(cs_slice_str(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(cs_rpc_is_grpc(cs_slice_str(bad[i])));
}

static void pushbacks(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } cases[] = {
        { "0", 0 },
        { "250", 250 },
        { "2147483647", INT32_MAX },
        { "2147483648", CS_RPC_PUSHBACK_STOP },
        { "-1", CS_RPC_PUSHBACK_STOP },
        { "", CS_RPC_PUSHBACK_STOP },
        { "soon", CS_RPC_PUSHBACK_STOP },
        { "99999999999", CS_RPC_PUSHBACK_STOP },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(cs_rpc_pushback_parse(cs_slice_str(cases[i].text)), cases[i].ms);
}

static void connections_are_counted_by_address(void **state)
{
    struct cs_rpc_peers p = { { NULL } };
    struct cs_rpc_peer *a, *b, *c, *d, *many[100];
    char text[32];

    (void)state;
    a = cs_rpc_peers_enter(&p, "10.0.0.1:1000", 2);
    b = cs_rpc_peers_enter(&p, "10.0.0.1:1001", 2);
    assert_non_null(a);
    assert_ptr_equal(a, b);
    assert_null(cs_rpc_peers_enter(&p, "10.0.0.1:1002", 2));
    c = cs_rpc_peers_enter(&p, "10.0.0.2:1002", 2);
    assert_non_null(c);
    assert_ptr_not_equal(a, c);
    cs_rpc_peers_leave(&p, a);
    assert_ptr_equal(cs_rpc_peers_enter(&p, "10.0.0.1:1003", 2), a);
    cs_rpc_peers_leave(&p, a);
    cs_rpc_peers_leave(&p, a);
    cs_rpc_peers_leave(&p, c);
    /* one network of IPv6 is one address; IPv4 inside it is not */
    a = cs_rpc_peers_enter(&p, "[2001:db8:1:2::1]:5", 9);
    assert_ptr_equal(cs_rpc_peers_enter(&p, "[2001:db8:1:2:ffff::9]:6", 9), a);
    b = cs_rpc_peers_enter(&p, "[2001:db8:1:3::1]:5", 9);
    assert_ptr_not_equal(a, b);
    c = cs_rpc_peers_enter(&p, "[::ffff:10.0.0.1]:7", 9);
    d = cs_rpc_peers_enter(&p, "[::ffff:10.0.0.2]:7", 1);
    assert_non_null(d);
    assert_ptr_not_equal(c, d);
    cs_rpc_peers_leave(&p, cs_rpc_peers_enter(&p, "unknown", 9));
    cs_rpc_peers_leave(&p, NULL);
    assert_null(cs_rpc_peers_enter(&p, "10.0.0.9:1", 0));
    for (int i = 0; i < 100; i++) {
        snprintf(text, sizeof text, "10.1.0.%d:9", i);
        assert_non_null(many[i] = cs_rpc_peers_enter(&p, text, 1));
    }
    for (int i = 0; i < 100; i++)
        cs_rpc_peers_leave(&p, many[(i * 37) % 100]);
    cs_rpc_peers_leave(&p, a);
    cs_rpc_peers_leave(&p, a);
    cs_rpc_peers_leave(&p, b);
    cs_rpc_peers_leave(&p, c);
    cs_rpc_peers_leave(&p, d);
}

/* A declared length buys no memory. */
static void a_large_promise_costs_nothing(void **state)
{
    static const uint8_t wire[] = { 0, 0x40, 0, 0, 0, 'x' };
    struct cs_rpc_decoder d = { .max = 0x40000000 };
    struct cs_slice in = cs_slice(wire, sizeof wire), msg;
    struct cs_error err;
    int status;

    (void)state;
    assert_int_equal(cs_rpc_decode(&d, &in, &msg, &status, &err), 0);
    assert_true(d.body.cap <= 128 * 1024);
    assert_false(cs_rpc_decoder_idle(&d));
    cs_rpc_decoder_fini(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_names),
        cmocka_unit_test(status_numbers),
        cmocka_unit_test(status_of_failures),
        cmocka_unit_test(timeouts_are_read),
        cmocka_unit_test(timeouts_are_printed),
        cmocka_unit_test(percent_encoding),
        cmocka_unit_test(fields_become_metadata),
        cmocka_unit_test(metadata_becomes_fields),
        cmocka_unit_test(messages_that_are_lent),
        cmocka_unit_test(messages_in_pieces),
        cmocka_unit_test(broken_messages),
        cmocka_unit_test(a_large_promise_costs_nothing),
        cmocka_unit_test(gzip_there_and_back),
        cmocka_unit_test(gzip_members_are_one_text),
        cmocka_unit_test(a_bomb_is_bounded),
        cmocka_unit_test(compressed_messages_in_pieces),
        cmocka_unit_test(lists),
        cmocka_unit_test(content_types),
        cmocka_unit_test(pushbacks),
        cmocka_unit_test(connections_are_counted_by_address),
    };

    return cmocka_run_group_tests_name("rpc parts", tests, NULL, NULL);
}
