#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <ctype.h>

#include "identity/code.h"

static struct cs_invite_code sample(bool pin)
{
    struct cs_invite_code c = { .tls = true, .has_pin = pin, .workspace = { "workspace" }, .hub = "hub.example:7443" };

    memset(c.secret, 0xe7, sizeof c.secret);
    memset(c.pin, pin ? 0x3c : 0, sizeof c.pin);
    return c;
}

static void base32_round_trips(void **state)
{
    struct cs_buf text = { 0 }, back = { 0 };
    uint8_t bytes[40];

    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 37 + 11);
    for (size_t n = 0; n <= sizeof bytes; n++) {
        cs_buf_reset(&text);
        cs_buf_reset(&back);
        cs_base32(&text, cs_slice(bytes, n));
        assert_int_equal(text.len, (n * 8 + 4) / 5);
        assert_true(cs_unbase32(&back, cs_buf_slice(&text)));
        assert_true(cs_slice_eq(cs_buf_slice(&back), cs_slice(bytes, n)));
    }
    assert_false(cs_unbase32(&back, cs_slice_str("U")));
    assert_false(cs_unbase32(&back, cs_slice_str("0")));  /* five bits are no byte */
    assert_false(cs_unbase32(&back, cs_slice_str("01"))); /* left-over bits set */
    assert_true(cs_unbase32(&back, cs_slice_str("o0")));
    cs_buf_free(&text);
    cs_buf_free(&back);
}

static void codes_round_trip(void **state)
{
    (void)state;
    for (int pin = 0; pin < 2; pin++) {
        struct cs_invite_code c = sample(pin != 0), back;
        struct cs_buf text = { 0 };

        assert_int_equal(cs_invite_code_text(&text, &c, NULL), CS_OK);
        cs_buf_put_u8(&text, 0);
        assert_memory_equal(text.data, "CLAW1-", 6);
        assert_int_equal(cs_invite_code_parse(&back, (char *)text.data, NULL), CS_OK);
        assert_memory_equal(&c, &back, sizeof c);
        /* as people write: lower case, other grouping, look-alikes */
        for (char *p = (char *)text.data; *p != '\0'; p++)
            *p = *p == '-' ? ' ' : *p == '0' ? 'o' : *p == '1' ? 'l' : (char)tolower(*p);
        assert_int_equal(cs_invite_code_parse(&back, (char *)text.data, NULL), CS_OK);
        assert_memory_equal(&c, &back, sizeof c);
        cs_buf_free(&text);
    }
}

/* Every character replaced by every other symbol, left out, and doubled: none passes. */
static void a_mistyped_code_is_refused(void **state)
{
    struct cs_invite_code c = sample(false), back;
    struct cs_buf text = { 0 };
    char bent[400];

    (void)state;
    assert_int_equal(cs_invite_code_text(&text, &c, NULL), CS_OK);
    cs_buf_put_u8(&text, 0);
    for (size_t i = 0; i + 1 < text.len; i++) {
        if (text.data[i] == '-')
            continue;
        for (const char *d = "0123456789ABCDEFGHJKMNPQRSTVWXYZ*"; *d != '\0'; d++) {
            if (*d == text.data[i] || (*d == '1' && text.data[i] == 'L')) /* the L of the prefix */
                continue;
            memcpy(bent, text.data, text.len);
            bent[i] = *d;
            assert_true(cs_invite_code_parse(&back, bent, NULL) < 0);
        }
        memcpy(bent, text.data, i);
        memcpy(bent + i, text.data + i + 1, text.len - i - 1);
        assert_true(cs_invite_code_parse(&back, bent, NULL) < 0);
        memcpy(bent, text.data, i + 1);
        memcpy(bent + i + 1, text.data + i, text.len - i);
        assert_true(cs_invite_code_parse(&back, bent, NULL) < 0);
    }
    assert_int_equal(cs_invite_code_parse(&back, "", NULL), CS_ECORRUPT);
    assert_int_equal(cs_invite_code_parse(&back, "CLAW1-", NULL), CS_ECORRUPT);
    assert_int_equal(cs_invite_code_parse(&back, "hello", NULL), CS_ECORRUPT);
    cs_buf_free(&text);
}

/* Every run of characters of a code in its place in another. */
static void parts_of_another_code(void **state)
{
    struct cs_invite_code a = sample(false), b = a, back;
    struct cs_buf x = { 0 }, y = { 0 };
    char bent[400];

    (void)state;
    for (size_t i = 0; i < sizeof b.secret; i++)
        b.secret[i] ^= 0xff;
    b.workspace.b[0] ^= 0xff;
    assert_int_equal(cs_invite_code_text(&x, &a, NULL), CS_OK);
    assert_int_equal(cs_invite_code_text(&y, &b, NULL), CS_OK);
    assert_int_equal(x.len, y.len);
    for (size_t from = 0; from < x.len; from++)
        for (size_t to = from + 1; to <= x.len; to++) {
            memcpy(bent, x.data, x.len);
            memcpy(bent + from, y.data + from, to - from);
            bent[x.len] = '\0';
            if (memcmp(bent, x.data, x.len) == 0 || memcmp(bent, y.data, y.len) == 0)
                continue;
            assert_true(cs_invite_code_parse(&back, bent, NULL) < 0);
        }
    cs_buf_free(&x);
    cs_buf_free(&y);
}

static void lengths_and_bits(void **state)
{
    struct cs_invite_code c = sample(true), back;
    struct cs_buf bytes = { 0 };

    (void)state;
    assert_int_equal(cs_invite_code_encode(&bytes, &c, NULL), CS_OK);
    for (size_t n = 0; n < bytes.len; n++)
        assert_int_equal(cs_invite_code_decode(&back, cs_slice(bytes.data, n), NULL), CS_ECORRUPT);
    for (size_t bit = 0; bit < bytes.len * 8; bit++) {
        bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(cs_invite_code_decode(&back, cs_buf_slice(&bytes), NULL), CS_ECORRUPT);
        bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    cs_buf_free(&bytes);
}

static const struct {
    const char *hub;
    bool ok;
} hubs[] = {
    { "h:1", true },    { "[::1]:7443", true }, { "a.b.c:65535", true }, { "", false },        { "h", false },
    { "h:", false },    { ":7443", false },     { "h:0", false },        { "h:65536", false }, { "h:7443x", false },
    { "h h:1", false }, { "h:000001", false },  { "h\x80:1", false },
};

static void hub_addresses(void **state)
{
    struct cs_buf bytes = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof hubs / sizeof hubs[0]; i++) {
        struct cs_invite_code c = sample(false);

        memset(c.hub, 0, sizeof c.hub);
        memcpy(c.hub, hubs[i].hub, strlen(hubs[i].hub));
        assert_int_equal(cs_invite_code_encode(&bytes, &c, NULL), hubs[i].ok ? CS_OK : CS_EINVAL);
    }
    cs_buf_free(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(base32_round_trips),         cmocka_unit_test(codes_round_trip),
        cmocka_unit_test(a_mistyped_code_is_refused), cmocka_unit_test(parts_of_another_code),
        cmocka_unit_test(lengths_and_bits),           cmocka_unit_test(hub_addresses),
    };

    return cmocka_run_group_tests_name("invite codes", tests, NULL, NULL);
}
