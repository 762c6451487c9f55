#include "base/log.h"

#include "base/bytes.h"
#include "unit/base/base_fixture.h"

static const struct {
    const char *line, *json;
} lines[] = {
    { "stopping", "\"event\":\"stopping\",\"message\":\"stopping\"}" },
    { "call id=7 method=Push status=OK", "\"event\":\"call\",\"id\":\"7\",\"method\":\"Push\",\"status\":\"OK\","
                                         "\"message\":\"call id=7 method=Push status=OK\"}" },
    { "store error=io cause=\"disk full\" more", "\"event\":\"store\",\"error\":\"io\",\"cause\":\"disk full\","
                                                 "\"message\":\"store error=io cause=\\\"disk full\\\" more\"}" },
    { "a b=\"open", "\"event\":\"a\",\"b\":\"open\",\"message\":\"a b=\\\"open\"}" },
    { "a =b c=d", "\"event\":\"a\",\"message\":\"a =b c=d\"}" },
    { "a b=", "\"event\":\"a\",\"b\":\"\",\"message\":\"a b=\"}" },
    { "", "\"event\":\"\",\"message\":\"\"}" },
    { "tab\there \\ \x01\xff", "\"event\":\"tab\\u0009here\",\"message\":\"tab\\u0009here \\\\ \\u0001\\u00ff\"}" },
};

static void lines_become_json(void **state)
{
    struct cs_buf out = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char want[300];

        cs_buf_reset(&out);
        cs_log_json(&out, 1700000000123, CS_LOG_WARN, lines[i].line);
        cs_buf_put_u8(&out, 0);
        snprintf(want, sizeof want, "{\"time\":1700000000123,\"level\":\"warn\",%s", lines[i].json);
        assert_string_equal(out.data, want);
    }
    cs_buf_free(&out);
}

static void count(void *arg, enum cs_log_level level, const char *line)
{
    (void)level;
    (void)line;
    ++*(int *)arg;
}

static void levels_are_kept(void **state)
{
    enum cs_log_level level;
    int n = 0;

    (void)state;
    cs_log(CS_LOG_ERROR, "to nobody");
    cs_log_set(count, &n, CS_LOG_WARN);
    cs_log(CS_LOG_ERROR, "one");
    cs_log(CS_LOG_WARN, "two");
    cs_log(CS_LOG_INFO, "not");
    assert_int_equal(n, 2);
    assert_false(cs_log_wants(CS_LOG_DEBUG));
    cs_log_set_level(CS_LOG_DEBUG);
    cs_log(CS_LOG_DEBUG, "three");
    assert_int_equal(n, 3);
    for (int i = CS_LOG_ERROR; i <= CS_LOG_DEBUG; i++) {
        assert_true(cs_log_level_parse(&level, cs_log_level_name((enum cs_log_level)i)));
        assert_int_equal(level, i);
    }
    assert_false(cs_log_level_parse(&level, "Warn"));
    assert_false(cs_log_level_parse(&level, ""));
    cs_log_set(NULL, NULL, CS_LOG_ERROR);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(lines_become_json), cmocka_unit_test(levels_are_kept) };

    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
