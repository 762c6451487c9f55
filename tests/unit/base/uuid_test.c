#include "base/uuid.h"

#include "unit/base/base_fixture.h"

static const char text[] = "6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b11";

static void text_and_back(void **state)
{
    struct cs_uuid u, upper;
    char out[CS_UUID_TEXT];

    (void)state;
    assert_true(cs_uuid_parse(&u, text));
    assert_memory_equal(u.b, "\x6f\x0d\x8c\x52\x3a\x53\x4c\x0e\x9d\x5f\x0e\x4a\x1d\x1f\x7b\x11", 16);
    cs_uuid_text(out, &u);
    assert_string_equal(out, text);
    assert_true(cs_uuid_parse(&upper, "6F0D8C52-3A53-4C0E-9D5F-0E4A1D1F7B11"));
    assert_int_equal(cs_uuid_cmp(&u, &upper), 0);
}

static void nothing_else_is_one(void **state)
{
    static const char *bad[] = {
        "",
        "6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b1",
        "6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b111",
        "6f0d8c523a534c0e9d5f0e4a1d1f7b11",
        "6f0d8c52-3a53-4c0e-9d5f00e4a1d1f7b11",
        "6f0d8c5-23a53-4c0e-9d5f-0e4a1d1f7b11",
        "6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b1g",
        " f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b11",
        "{6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b1}",
    };
    struct cs_uuid u;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(cs_uuid_parse(&u, bad[i]));
}

static void version_4(void **state)
{
    struct cs_uuid u;
    char out[CS_UUID_TEXT];

    (void)state;
    memset(u.b, 0xff, 16);
    cs_uuid_set_v4(&u);
    cs_uuid_text(out, &u);
    assert_string_equal(out, "ffffffff-ffff-4fff-bfff-ffffffffffff");
    memset(u.b, 0, 16);
    assert_true(cs_uuid_is_zero(&u));
    cs_uuid_set_v4(&u);
    cs_uuid_text(out, &u);
    assert_string_equal(out, "00000000-0000-4000-8000-000000000000");
    assert_false(cs_uuid_is_zero(&u));
}

static void order_is_by_bytes(void **state)
{
    struct cs_uuid a = { { 1 } }, b = { { 1, 1 } }, c = { { 0xff } };

    (void)state;
    assert_true(cs_uuid_cmp(&a, &b) < 0);
    assert_true(cs_uuid_cmp(&c, &b) > 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = { ONLY(text_and_back), ONLY(nothing_else_is_one), ONLY(version_4),
                                               ONLY(order_is_by_bytes) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
