/* Values, keys and the clock where the vectors do not reach: what is refused, and the edges of numbers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "crdt/value.h"
#include "crdt/version.h"

#define INT(n)                                                                                                         \
    {                                                                                                                  \
        .type = CS_INTEGER, .u.i = (n)                                                                                 \
    }
#define REAL(n)                                                                                                        \
    {                                                                                                                  \
        .type = CS_REAL, .u.r = (n)                                                                                    \
    }
#define TEXT(s)                                                                                                        \
    {                                                                                                                  \
        .type = CS_TEXT, .u.bytes = {(const uint8_t *)(s), sizeof(s) - 1 }                                             \
    }
#define BLOB(s)                                                                                                        \
    {                                                                                                                  \
        .type = CS_BLOB, .u.bytes = {(const uint8_t *)(s), sizeof(s) - 1 }                                             \
    }

static const struct refused_case {
    const char *name, *hex;
} refused[] = {
    { "nothing at all", "" },
    { "an unknown tag", "05" },
    { "a null with a payload", "0000" },
    { "an integer that is too short", "0180000000000000" },
    { "an integer that is too long", "01800000000000000000" },
    { "a real that is too short", "02bff00000000000" },
    { "a quiet NaN", "02fff8000000000000" },
    { "a signalling NaN", "02fff0000000000001" },
    { "a negative NaN", "020007ffffffffffff" },
};

static void malformed_encodings_are_refused(void **state)
{
    uint8_t bytes[16];
    struct cs_value v;

    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        size_t n = strlen(refused[i].hex) / 2;

        assert_true(cs_unhex(bytes, n, refused[i].hex));
        if (cs_value_decode(&v, cs_slice(bytes, n)))
            fail_msg("%s is accepted", refused[i].name);
    }
}

static const struct equal_case {
    const char *name;
    struct cs_value a, b;
    enum cs_collation coll;
    bool equal;
} equals[] = {
    { "1 and 1.0", INT(1), REAL(1.0), CS_BINARY, true },
    { "0.0 and -0.0", REAL(0.0), REAL(-0.0), CS_BINARY, true },
    { "the lowest int64 as a real", INT(INT64_MIN), REAL(-0x1p63), CS_BINARY, true },
    { "the highest int64 is no real", INT(INT64_MAX), REAL(0x1p63), CS_BINARY, false },
    { "2^53 + 1 is no real", INT((INT64_C(1) << 53) + 1), REAL(0x1p53), CS_BINARY, false },
    { "infinities", REAL(INFINITY), REAL(-INFINITY), CS_BINARY, false },
    { "text and blob", TEXT("a"), BLOB("a"), CS_BINARY, false },
    { "letters, binary", TEXT("a"), TEXT("A"), CS_BINARY, false },
    { "letters, folded", TEXT("aZ@["), TEXT("Az@["), CS_NOCASE, true },
    { "only ASCII is folded", TEXT("\xc3\x89"), TEXT("\xc3\xa9"), CS_NOCASE, false },
    { "neighbours of letters are not folded", TEXT("@["), TEXT("`{"), CS_NOCASE, false },
    { "trailing spaces, trimmed", TEXT("a  "), TEXT("a"), CS_RTRIM, true },
    { "only spaces", TEXT("  "), TEXT(""), CS_RTRIM, true },
    { "other white space stays", TEXT("a\t"), TEXT("a"), CS_RTRIM, false },
    { "trailing spaces, not trimmed", TEXT("a "), TEXT("a"), CS_NOCASE, false },
    { "a blob has no collation", BLOB("A"), BLOB("a"), CS_NOCASE, false },
};

static void equality_is_sqlites(void **state)
{
    struct cs_buf a = { 0 }, b = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof equals / sizeof equals[0]; i++) {
        const struct equal_case *c = &equals[i];

        cs_buf_reset(&a);
        cs_buf_reset(&b);
        cs_value_put_equal(&a, &c->a, c->coll);
        cs_value_put_equal(&b, &c->b, c->coll);
        if (cs_slice_eq(cs_buf_slice(&a), cs_buf_slice(&b)) != c->equal)
            fail_msg("%s", c->name);
    }
    cs_buf_free(&a);
    cs_buf_free(&b);
}

/* cs_key_spells says without bytes what comparing the canonical parts would say. */
static void spelling_is_the_same_as_canonical(void **state)
{
    struct cs_buf a = { 0 }, b = { 0 };
    struct cs_reader r;
    struct cs_value part;

    (void)state;
    for (size_t i = 0; i < sizeof equals / sizeof equals[0]; i++)
        for (size_t k = 0; k < sizeof equals / sizeof equals[0]; k++)
            for (int coll = CS_BINARY; coll <= CS_RTRIM; coll++) {
                cs_buf_reset(&a);
                cs_buf_reset(&b);
                cs_key_put(&a, &equals[i].a, (enum cs_collation)coll);
                cs_key_put(&b, &equals[k].b, (enum cs_collation)coll);
                r = cs_reader(cs_buf_slice(&a));
                assert_true(cs_key_next(&r, &part) && cs_reader_done(&r));
                assert_int_equal(cs_key_spells(&part, &equals[k].b, (enum cs_collation)coll),
                                 cs_slice_eq(cs_buf_slice(&a), cs_buf_slice(&b)));
            }
    cs_buf_free(&a);
    cs_buf_free(&b);
}

static const struct key_case {
    const char *hex;
    int parts;
} keys[] = {
    { "", 0 },          { "0000000100", 1 },  { "0000000100000000020361", 2 }, { "00000001", -1 },   { "000000", -1 },
    { "00000000", -1 }, { "ffffffff00", -1 }, { "00000001000000000203", -1 },  { "0000000105", -1 },
};

static void keys_are_read_to_their_end(void **state)
{
    uint8_t bytes[32];

    (void)state;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        size_t n = strlen(keys[i].hex) / 2;

        assert_true(cs_unhex(bytes, n, keys[i].hex));
        assert_int_equal(cs_key_parts(cs_slice(bytes, n)), keys[i].parts);
    }
}

static void the_clock_saturates(void **state)
{
    const int64_t far = INT64_MAX >> 16;

    (void)state;
    assert_int_equal(cs_hlc_tick(INT64_MAX, 1, 1), INT64_MAX);
    assert_int_equal(cs_hlc_tick(0, INT64_MAX, INT64_MAX), INT64_MAX);
    assert_int_equal(cs_hlc_tick(0, far, far), far << 16);
    assert_int_equal(cs_hlc_tick(7, -5, 100), 8);
    assert_int_equal(cs_hlc_tick(7, INT64_MIN, INT64_MIN), 8);
    assert_true(cs_hlc_hub_accepts(INT64_MAX, 0, INT64_MAX, 1));
    assert_true(cs_hlc_hub_accepts(0, INT64_MAX - 1, INT64_MAX, UINT32_MAX));
    assert_false(cs_hlc_hub_accepts(-100000, 0, 2, 1));
}

static void resealing_keeps_order_and_equals(void **state)
{
    int64_t stamps[] = { INT64_MAX, 5, 9, 5, INT64_MAX - 1, 9 }, none[1];
    const int64_t want[] = { 104, 101, 102, 101, 103, 102 };

    (void)state;
    assert_int_equal(cs_hlc_reseal(stamps, 6, 100), 104);
    assert_memory_equal(stamps, want, sizeof want);
    assert_int_equal(cs_hlc_reseal(none, 0, 100), 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_encodings_are_refused),
        cmocka_unit_test(equality_is_sqlites),
        cmocka_unit_test(spelling_is_the_same_as_canonical),
        cmocka_unit_test(keys_are_read_to_their_end),
        cmocka_unit_test(the_clock_saturates),
        cmocka_unit_test(resealing_keeps_order_and_equals),
    };

    return cmocka_run_group_tests_name("values and versions", tests, NULL, NULL);
}
