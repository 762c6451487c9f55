#include "base/error.h"

#include "unit/base/base_fixture.h"

static void failing_fills_the_error(void **state)
{
    struct cs_error err = { 0 };

    (void)state;
    assert_int_equal(cs_fail(&err, CS_EIO, "cannot %s \"%s\"", "read", "x"), CS_EIO);
    assert_int_equal(err.code, CS_EIO);
    assert_string_equal(err.msg, "cannot read \"x\"");
    assert_int_equal(cs_fail(NULL, CS_EBUSY, "nobody hears %d", 1), CS_EBUSY);
}

static void context_goes_in_front(void **state)
{
    struct cs_error err;

    (void)state;
    cs_fail(&err, CS_EDB, "disk full");
    assert_int_equal(cs_fail_context(&err, "table %s", "t"), CS_EDB);
    assert_string_equal(err.msg, "table t: disk full");
    assert_int_equal(cs_fail_context(NULL, "nobody"), CS_EINTERNAL);
}

/* Messages are cut at their end, never beyond their room. */
static void long_messages_are_cut(void **state)
{
    struct cs_error err;
    char text[2000];

    (void)state;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    cs_fail(&err, CS_EIO, "%s", text);
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
    assert_int_equal(cs_fail_context(&err, "in front"), CS_EIO);
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
    assert_memory_equal(err.msg, "in front: xxx", 13);
    /* a prefix that leaves no room for what happened is left away */
    cs_fail(&err, CS_EIO, "what happened");
    assert_int_equal(cs_fail_context(&err, "%s", text), CS_EIO);
    assert_string_equal(err.msg, "what happened");
    text[505] = '\0';
    assert_int_equal(cs_fail_context(&err, "%s", text), CS_EIO);
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
}

static void every_code_has_a_name(void **state)
{
    (void)state;
    assert_string_equal(cs_code_name(CS_OK), "ok");
    assert_string_equal(cs_code_name(CS_EUNAVAILABLE), "unavailable");
    assert_string_equal(cs_code_name(CS_EINTERNAL), "internal");
    for (int code = CS_OK; code >= CS_EINTERNAL; code--) {
        assert_non_null(cs_code_name(code));
        for (int other = CS_OK; other > code; other--)
            assert_string_not_equal(cs_code_name(code), cs_code_name(other));
    }
    assert_string_equal(cs_code_name(1), "internal");
    assert_string_equal(cs_code_name(-1000), "internal");
}

static void transient_ones_may_go_away(void **state)
{
    static const int yes[] = { CS_ENOMEM, CS_EIO, CS_EBUSY, CS_EUNAVAILABLE, CS_ETIMEDOUT, CS_EABORTED };
    static const int no[] = { CS_OK, CS_EINVAL, CS_ECORRUPT, CS_EAUTH, CS_EVERSION, CS_EINTERNAL, 5, -1000 };

    (void)state;
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++)
        assert_true(cs_code_is_transient(yes[i]));
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        assert_false(cs_code_is_transient(no[i]));
}

int main(void)
{
    static const struct CMUnitTest tests[] = { ONLY(failing_fills_the_error), ONLY(context_goes_in_front),
                                               ONLY(long_messages_are_cut), ONLY(every_code_has_a_name),
                                               ONLY(transient_ones_may_go_away) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
