/* The standing file: what is written is read, and what cannot be read is nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/standing.h"
#include "scratch.h"

static char dir[SCRATCH_LEN];

static void put(const char *text)
{
    char path[96];
    FILE *f;

    snprintf(path, sizeof path, "%s/standing.json", dir);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static struct cs_standing sample(void)
{
    struct cs_standing s = {
        .by = { .boot = "cb286499-033e-44c6-b942-f3838ffd2933", .pid = 4711, .started = UINT64_MAX },
        .since_ms = 1700000000000,
        .connected = true,
        .last = { .code = CS_EHUB, .msg = "HUB_FORK: it says \"no\"" }
    };

    memset(s.device.b, 7, sizeof s.device.b);
    return s;
}

static void what_is_written_is_read(void **state)
{
    struct cs_world *w = cs_world_real();
    struct cs_standing s = sample(), got;
    struct cs_error err;
    struct stat st;
    char path[96];

    (void)state;
    assert_int_equal(cs_standing_load(&got, w, dir, &err), CS_ENOTFOUND);
    assert_int_equal(cs_standing_drop(w, dir, &err), CS_OK);
    assert_int_equal(cs_standing_save(&s, w, dir, &err), CS_OK);
    assert_int_equal(cs_standing_load(&got, w, dir, &err), CS_OK);
    assert_int_equal(cs_uuid_cmp(&got.device, &s.device), 0);
    assert_string_equal(got.by.boot, s.by.boot);
    assert_true(got.by.pid == s.by.pid && got.by.started == s.by.started && got.since_ms == s.since_ms);
    assert_true(got.connected && got.last.code == CS_EHUB);
    assert_string_equal(got.last.msg, s.last.msg);
    snprintf(path, sizeof path, "%s/standing.json", dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);

    snprintf(s.last.msg, sizeof s.last.msg, "a hub's \xff\xc3\xa4\x1b[2J words"); /* no JSON, and no terminal's */
    assert_int_equal(cs_standing_save(&s, w, dir, &err), CS_OK);
    assert_int_equal(cs_standing_load(&got, w, dir, &err), CS_OK);
    assert_string_equal(got.last.msg, "a hub's ????[2J words");

    s.last = (struct cs_error){ .code = CS_OK };
    s.connected = false;
    assert_int_equal(cs_standing_save(&s, w, dir, &err), CS_OK);
    assert_int_equal(cs_standing_load(&got, w, dir, &err), CS_OK);
    assert_true(!got.connected && got.last.code == CS_OK && got.last.msg[0] == '\0');
    assert_int_equal(cs_standing_drop(w, dir, &err), CS_OK);
    assert_int_equal(cs_standing_load(&got, w, dir, &err), CS_ENOTFOUND);
}

static void what_cannot_be_read_is_nothing(void **state)
{
#define HEAD    "{\"version\": 1, \"device_id\": \"07070707-0707-0707-0707-070707070707\", "
#define PROCESS "\"process\": {\"pid\": 1, \"started\": \"2\", \"boot\": \"\"}"
    static const char *const good = HEAD PROCESS ", \"since\": 1, \"connected\": true, \"last_failure\": null}";
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "{}",
        HEAD PROCESS "}",
        HEAD "\"last_failure\": null}",
        (HEAD PROCESS ", \"last_failure\": {\"code\": -2}}"),
        (HEAD PROCESS ", \"last_failure\": {\"code\": 0, \"message\": \"x\"}}"),
        (HEAD PROCESS ", \"last_failure\": {\"code\": -99, \"message\": \"x\"}}"),
        (HEAD PROCESS ", \"last_failure\": null, \"last_failure\": null}"),
        (HEAD "\"process\": {\"pid\": 1, \"started\": \"2\", \"boot\": "
              "\"0123456789012345678901234567890123456789\"}, \"last_failure\": null}"),
        ("{\"version\": 2, \"device_id\": \"07070707-0707-0707-0707-070707070707\", " PROCESS
         ", \"last_failure\": null}"),
        ("{\"version\": 1, \"device_id\": \"me\", " PROCESS ", \"last_failure\": null}"),
    };
    struct cs_standing got;
    struct cs_error err;

    (void)state;
    put(good);
    assert_int_equal(cs_standing_load(&got, cs_world_real(), dir, &err), CS_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put(bad[i]);
        assert_int_equal(cs_standing_load(&got, cs_world_real(), dir, &err), CS_ECORRUPT);
        assert_true(got.by.pid == 0 && !got.connected);
    }
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(what_cannot_be_read_is_nothing),
    };
    char path[96];
    int failed;

    assert_non_null(scratch_folder(dir, "standing"));
    failed = cmocka_run_group_tests_name("standing", t, NULL, NULL);
    snprintf(path, sizeof path, "%s/standing.json", dir);
    unlink(path);
    rmdir(dir);
    return failed;
}
