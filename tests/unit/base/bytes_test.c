/* Byte strings: views, the growing buffer, the cursor, hexadecimal and base64. */
#include "base/bytes.h"

#include "unit/base/base_fixture.h"

static void slices_compare_by_bytes(void **state)
{
    (void)state;
    assert_true(cs_slice_eq(CS_SLICE_NULL, cs_slice("", 0)));
    assert_true(cs_slice_eq(cs_slice_str("abc"), cs_slice("abcd", 3)));
    assert_false(cs_slice_eq(cs_slice_str("abc"), cs_slice_str("abd")));
    assert_false(cs_slice_eq(cs_slice_str("abc"), cs_slice_str("ab")));
    assert_int_equal(cs_slice_cmp(CS_SLICE_NULL, CS_SLICE_NULL), 0);
    assert_true(cs_slice_cmp(CS_SLICE_NULL, cs_slice_str("a")) < 0);
    assert_true(cs_slice_cmp(cs_slice_str("ab"), cs_slice_str("a")) > 0);
    assert_true(cs_slice_cmp(cs_slice_str("b"), cs_slice_str("ab")) > 0);
    assert_true(cs_slice_cmp(cs_slice("\xff", 1), cs_slice_str("a")) > 0); /* unsigned */
}

static void integers_are_big_endian(void **state)
{
    uint8_t p[8];

    (void)state;
    cs_store_u64(p, 0x0102030405060708u);
    for (int i = 0; i < 8; i++)
        assert_int_equal(p[i], i + 1);
    assert_true(cs_load_u64(p) == 0x0102030405060708u);
    assert_int_equal(cs_load_u32(p), 0x01020304);
    assert_int_equal(cs_load_u16(p + 6), 0x0708);
    memset(p, 0xff, sizeof p);
    assert_true(cs_load_u64(p) == UINT64_MAX);
    assert_true(cs_load_u32(p) == UINT32_MAX);
    assert_int_equal(cs_load_u16(p), UINT16_MAX);
}

static void a_buffer_gives_back_what_was_put(void **state)
{
    struct cs_buf b = { 0 };
    struct cs_reader r;
    uint8_t three[3];

    (void)state;
    cs_buf_put(&b, NULL, 0);
    assert_null(b.data);
    cs_buf_put_u8(&b, 7);
    cs_buf_put_u16(&b, 0x1234);
    cs_buf_put_u32(&b, 0x12345678);
    cs_buf_put_u64(&b, 0x123456789abcdef0u);
    cs_buf_put_str(&b, "text");
    cs_buf_put_slice(&b, cs_slice_str("view"));
    cs_buf_printf(&b, "%d-%s", 42, "x");
    memset(cs_buf_grow(&b, 3), 'g', 3);
    assert_false(b.failed);
    assert_int_equal(b.len, 1 + 2 + 4 + 8 + 4 + 4 + 4 + 3);
    r = cs_reader(cs_buf_slice(&b));
    assert_int_equal(cs_read_u8(&r), 7);
    assert_int_equal(cs_read_u16(&r), 0x1234);
    assert_int_equal(cs_read_u32(&r), 0x12345678);
    assert_true(cs_read_u64(&r) == 0x123456789abcdef0u);
    assert_true(cs_slice_eq(cs_read_bytes(&r, 8), cs_slice_str("textview")));
    assert_true(cs_slice_eq(cs_read_bytes(&r, 4), cs_slice_str("42-x")));
    assert_false(cs_reader_done(&r));
    assert_int_equal(cs_reader_left(&r), 3);
    assert_true(cs_read_into(&r, three, 3));
    assert_memory_equal(three, "ggg", 3);
    assert_true(cs_reader_done(&r));
    cs_buf_free(&b);
    assert_null(b.data);
    assert_int_equal(b.cap, 0);
}

static void a_buffer_grows_and_is_emptied(void **state)
{
    struct cs_buf b = { 0 };
    uint8_t *before;

    (void)state;
    for (unsigned i = 0; i < 100000; i++)
        cs_buf_put_u8(&b, (uint8_t)i);
    assert_int_equal(b.len, 100000);
    for (unsigned i = 0; i < 100000; i++)
        assert_int_equal(b.data[i], i & 0xff);
    assert_true(cs_buf_reserve(&b, 1000));
    before = b.data;
    assert_ptr_equal(cs_buf_grow(&b, 1000), before + 100000);
    cs_buf_reset(&b);
    assert_int_equal(b.len, 0);
    assert_ptr_equal(b.data, before); /* kept */
    cs_buf_free(&b);
}

/* A size that cannot be is as memory that is not there: sticky, and nothing is written from then on. */
static void failing_is_sticky(void **state)
{
    struct cs_buf b = { 0 };

    (void)state;
    cs_buf_put_str(&b, "kept");
    assert_null(cs_buf_grow(&b, SIZE_MAX - 2));
    assert_true(b.failed);
    cs_buf_put_str(&b, "lost");
    cs_buf_put_u64(&b, 1);
    cs_buf_printf(&b, "%d", 1);
    cs_buf_put_varint(&b, 300);
    assert_false(cs_buf_reserve(&b, 1));
    assert_int_equal(b.len, 4);
    cs_buf_reset(&b);
    assert_false(b.failed);
    cs_buf_put_str(&b, "works");
    assert_int_equal(b.len, 5);
    cs_buf_free(&b);
}

static void a_cursor_knows_its_end(void **state)
{
    struct cs_reader r = cs_reader(cs_slice("\x01\x02\x03", 3));
    uint8_t p[4] = { 9, 9, 9, 9 };
    struct cs_slice s;

    (void)state;
    assert_int_equal(cs_read_u32(&r), 0);
    assert_true(r.bad);
    assert_int_equal(cs_read_u8(&r), 0); /* sticky: the bytes that are there are not read any more */
    assert_false(cs_reader_done(&r));
    assert_false(cs_read_into(&r, p, sizeof p));
    for (int i = 0; i < 4; i++)
        assert_int_equal(p[i], 0);
    s = cs_read_bytes(&r, 1);
    assert_null(s.data);
    assert_int_equal(s.len, 0);
    r = cs_reader(CS_SLICE_NULL);
    assert_true(cs_reader_done(&r));
    assert_true(cs_read_into(&r, p, 0));
    assert_int_equal(cs_read_u64(&r), 0);
    assert_true(r.bad);
    r = cs_reader(cs_slice("\x01", 1));
    assert_int_equal(cs_read_bytes(&r, SIZE_MAX).len, 0);
    assert_true(r.bad);
}

static void varints_come_back(void **state)
{
    static const uint64_t values[] = { 0, 1, 127, 128, 300, 16383, 16384, UINT32_MAX, 1ull << 63, UINT64_MAX };
    static const size_t lengths[] = { 1, 1, 1, 2, 2, 2, 3, 5, 10, 10 };

    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct cs_buf b = { 0 };
        struct cs_reader r;

        cs_buf_put_varint(&b, values[i]);
        assert_int_equal(b.len, lengths[i]);
        r = cs_reader(cs_buf_slice(&b));
        assert_true(cs_read_varint(&r) == values[i]);
        assert_true(cs_reader_done(&r));
        r = cs_reader(cs_slice(b.data, b.len - 1)); /* cut short */
        cs_read_varint(&r);
        assert_true(r.bad);
        cs_buf_free(&b);
    }
}

static void a_varint_of_more_than_64_bits_is_bad(void **state)
{
    struct cs_reader r = cs_reader(cs_slice("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10));

    (void)state;
    assert_int_equal(cs_read_varint(&r), 0);
    assert_true(r.bad);
    r = cs_reader(cs_slice("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 11));
    cs_read_varint(&r);
    assert_true(r.bad);
}

static void zigzag_turns_small_numbers_into_small_ones(void **state)
{
    static const int64_t values[] = { 0, -1, 1, -2, 2 };
    static const int64_t far[] = { INT64_MIN, INT64_MAX, INT64_MIN + 1, 1234567890123 };

    (void)state;
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(cs_zigzag(values[i]), i);
    assert_true(cs_zigzag(INT64_MIN) == UINT64_MAX);
    for (size_t i = 0; i < 4; i++)
        assert_true(cs_unzigzag(cs_zigzag(far[i])) == far[i]);
}

static void hexadecimal(void **state)
{
    char text[9];
    uint8_t p[4];

    (void)state;
    cs_hex(text, "\x00\x9a\xff\x10", 4);
    assert_string_equal(text, "009aff10");
    assert_true(cs_unhex(p, 4, "009AfF10"));
    assert_memory_equal(p, "\x00\x9a\xff\x10", 4);
    assert_false(cs_unhex(p, 4, "009aff1"));
    assert_false(cs_unhex(p, 4, "009aff100"));
    assert_false(cs_unhex(p, 4, "009aff1g"));
    assert_false(cs_unhex(p, 4, "009aff1 "));
    assert_false(cs_unhex(p, 4, ""));
    assert_true(cs_unhex(p, 0, ""));
    cs_hex(text, NULL, 0);
    assert_string_equal(text, "");
}

static void base64_of(const char *in, size_t n, const char *padded, const char *url)
{
    struct cs_buf out = { 0 }, back = { 0 };

    for (int i = 0; i < 2; i++) {
        const char *want = i == 0 ? padded : url;

        cs_buf_reset(&out);
        cs_buf_reset(&back);
        cs_base64(&out, cs_slice(in, n), i == 1);
        assert_true(cs_slice_eq(cs_buf_slice(&out), cs_slice_str(want)));
        assert_true(cs_unbase64(&back, cs_slice_str(want), i == 1));
        assert_true(cs_slice_eq(cs_buf_slice(&back), cs_slice(in, n)));
    }
    cs_buf_free(&out);
    cs_buf_free(&back);
}

/* RFC 4648 §10, and the two letters in which the alphabets differ. */
static void base64(void **state)
{
    (void)state;
    base64_of("", 0, "", "");
    base64_of("f", 1, "Zg==", "Zg");
    base64_of("fo", 2, "Zm8=", "Zm8");
    base64_of("foo", 3, "Zm9v", "Zm9v");
    base64_of("foob", 4, "Zm9vYg==", "Zm9vYg");
    base64_of("fooba", 5, "Zm9vYmE=", "Zm9vYmE");
    base64_of("foobar", 6, "Zm9vYmFy", "Zm9vYmFy");
    base64_of("\xfb\xff\xbf", 3, "+/+/", "-_-_");
}

static void base64_takes_nothing_that_it_would_not_write(void **state)
{
    static const char *bad[] = {
        "Z", "Zg", "Zg=", "Zh==", "Zm9=", "Zg==Zg==", "Zg= =", "Zm9v\n", "Z===", "-_-_", "===="
    };
    static const char *bad_url[] = { "Z", "Zg==", "Zh", "Zm9", "+/+/", "Zm9v=" };
    struct cs_buf out = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(cs_unbase64(&out, cs_slice_str(bad[i]), false));
    for (size_t i = 0; i < sizeof bad_url / sizeof bad_url[0]; i++)
        assert_false(cs_unbase64(&out, cs_slice_str(bad_url[i]), true));
    cs_buf_free(&out);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        ONLY(slices_compare_by_bytes),
        ONLY(integers_are_big_endian),
        ONLY(a_buffer_gives_back_what_was_put),
        ONLY(a_buffer_grows_and_is_emptied),
        ONLY(failing_is_sticky),
        ONLY(a_cursor_knows_its_end),
        ONLY(varints_come_back),
        ONLY(a_varint_of_more_than_64_bits_is_bad),
        ONLY(zigzag_turns_small_numbers_into_small_ones),
        ONLY(hexadecimal),
        ONLY(base64),
        ONLY(base64_takes_nothing_that_it_would_not_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
