/* The checkpoint file: what is written is read, every bad form is refused with its reason, and an engine makes one that
 * is missing, stale, foreign or damaged anew, and says so. */
#include "unit/engine/hub_fixture.h"

#include "base/bytes.h"
#include "engine/checkpoint.h"

static struct cs_checkpoint sample(void)
{
    struct cs_checkpoint c = { .log_id = UINT64_C(0xfedcba9876543210),
                               .number = 4711,
                               .saved_ms = 1700000000123,
                               .exchanged = { .push = { 1700000000001, 2, 30, 4, 5000, 60 },
                                              .pull = { 1700000000002, 7, 80, 9, 10000, 110 },
                                              .contact_ms = 1700000000100 } };

    memset(c.workspace.b, 1, 16);
    memset(c.device.b, 2, 16);
    memset(c.state_hash, 3, 32);
    c.hlc = (struct cs_version){ .stamp = (INT64_C(1700000000003) << 16) + 5, .device = c.device };
    return c;
}

static char *text_of(const struct cs_checkpoint *c)
{
    struct cs_buf out = { 0 };
    struct cs_error err;

    if (cs_checkpoint_encode(&out, c, &err) != CS_OK)
        fail_msg("%s", err.msg);
    cs_buf_put_u8(&out, 0);
    return (char *)out.data;
}

static void what_is_written_is_read(void **state)
{
    struct cs_checkpoint c = sample(), got;
    char *text = text_of(&c), *again;
    struct cs_error err;

    (void)state;
    if (cs_checkpoint_parse(&got, cs_slice_str(text), &err) != CS_OK)
        fail_msg("%s", err.msg);
    again = text_of(&got);
    assert_string_equal(text, again);
    assert_memory_equal(&got.exchanged, &c.exchanged, sizeof c.exchanged);
    assert_true(got.log_id == c.log_id && got.number == c.number && got.saved_ms == c.saved_ms);
    assert_int_equal(cs_version_cmp(&got.hlc, &c.hlc), 0);
    assert_memory_equal(got.state_hash, c.state_hash, 32);
    free(again);
    again = strstr(text, "  \"last_contact\"");
    memmove(again, strchr(again, '\n') + 1, strlen(strchr(again, '\n'))); /* as earlier versions wrote it */
    assert_int_equal(cs_checkpoint_parse(&got, cs_slice_str(text), &err), CS_OK);
    assert_int_equal(got.exchanged.contact_ms, 0);
    free(text);
}

static const struct {
    const char *old, *new, *reason;
    int code;
} bad_forms[] = {
    { "{", "", "not JSON", CS_ECORRUPT },
    { "}\n}", "}\n", "not JSON", CS_ECORRUPT },
    { "}\n}", "}\n} 1", "not JSON", CS_ECORRUPT },
    { "\"version\": 1", "\"version\": 2", "newer", CS_EVERSION },
    { "\"version\": 1", "\"version\": 0", "version", CS_ECORRUPT },
    { "\"version\": 1", "\"version\": \"1\"", "version", CS_ECORRUPT },
    { "\"version\": 1", "\"version\": 1, \"version\": 1", "not JSON", CS_ECORRUPT },
    { "\"version\"", "\"other\"", "version", CS_ECORRUPT },
    { "01010101-", "0101010-", "workspace_id", CS_ECORRUPT },
    { "\"device_id\": \"02", "\"device_id\": \"0g", "device_id", CS_ECORRUPT },
    { "\"device_id\"", "\"device\"", "device_id", CS_ECORRUPT },
    { "fedcba98", "fedcba9", "log_id", CS_ECORRUPT },
    { "\"fedcba9876543210\"", "1", "log_id", CS_ECORRUPT },
    { "\"cursor\": {", "\"cursors\": {", "hlc_timestamp", CS_ECORRUPT },
    { "4711", "-1", "lamport_clock", CS_ECORRUPT },
    { "4711", "4711.5", "lamport_clock", CS_ECORRUPT },
    { "4711", "99999999999999999999", "not JSON", CS_ECORRUPT },
    { "4711", "\"4711\"", "lamport_clock", CS_ECORRUPT },
    { "-00000005-", "-0000000A-", "hlc_timestamp", CS_ECORRUPT },
    { "-00000005-", "-00010005-", "hlc_timestamp", CS_ECORRUPT },
    { "-00000005-", "_00000005-", "hlc_timestamp", CS_ECORRUPT },
    { "\"hlc_timestamp\": \"00", "\"hlc_timestamp\": \"80", "hlc_timestamp", CS_ECORRUPT },
    { "\"hlc_timestamp\": \"00", "\"hlc_timestamp\": \"0", "hlc_timestamp", CS_ECORRUPT },
    { "0303\"", "030\"", "state_hash", CS_ECORRUPT },
    { "0303\"", "030303\"", "state_hash", CS_ECORRUPT },
    { "\"state_hash\": \"03", "\"state_hash\": \"0x", "state_hash", CS_ECORRUPT },
    { "1700000000123", "null", "saved_at", CS_ECORRUPT },
    { "\"last_push\": {", "\"last_push\": 1, \"x\": {", "at", CS_ECORRUPT },
    { "\"batches\": 2", "\"batches\": true", "batches", CS_ECORRUPT },
    { "\"operations\": 80", "\"operations\": -80", "operations", CS_ECORRUPT },
    { "\"chunks\": 9", "\"chunks\": []", "chunks", CS_ECORRUPT },
    { "\"bytes\": 5000", "\"bytes\": {}", "bytes", CS_ECORRUPT },
    { "\"duration_ms\": 110", "\"duration\": 110", "duration_ms", CS_ECORRUPT },
};

static void bad_forms_are_refused(void **state)
{
    struct cs_checkpoint c = sample(), got;
    char *text = text_of(&c);

    (void)state;
    for (size_t i = 0; i < sizeof bad_forms / sizeof bad_forms[0]; i++) {
        struct cs_buf bad = { 0 };
        struct cs_error err = { 0 };
        const char *at = strstr(text, bad_forms[i].old);

        if (at == NULL)
            fail_msg("%s is not in %s", bad_forms[i].old, text);
        cs_buf_put(&bad, text, (size_t)(at - text));
        cs_buf_put_str(&bad, bad_forms[i].new);
        cs_buf_put_str(&bad, at + strlen(bad_forms[i].old));
        if (cs_checkpoint_parse(&got, cs_buf_slice(&bad), &err) != bad_forms[i].code ||
            strstr(err.msg, bad_forms[i].reason) == NULL)
            fail_msg("%s for %s: \"%s\"", bad_forms[i].new, bad_forms[i].old, err.msg);
        assert_int_equal(got.number, 0);
        cs_buf_free(&bad);
    }
    for (size_t n = 0; n + 2 < strlen(text); n++) /* cut off anywhere but behind the last brace */
        assert_int_equal(cs_checkpoint_parse(&got, cs_slice(text, n), NULL), CS_ECORRUPT);
    free(text);
}

static void a_large_file_is_not_read(void **state)
{
    struct cs_checkpoint c = sample(), got;
    struct cs_buf large = { 0 };
    char *text = text_of(&c);

    (void)state;
    cs_buf_put_str(&large, text);
    while (large.len <= CS_CHECKPOINT_MAX)
        cs_buf_put_str(&large, "          ");
    assert_int_equal(cs_checkpoint_parse(&got, cs_buf_slice(&large), NULL), CS_ECORRUPT);
    cs_buf_free(&large);
    free(text);
}

/* ---- an engine's ---- */

struct scene {
    struct hub hub;
    struct device device;
    char path[200];
    char warning[800]; /* the last that speaks of the checkpoint */
};

static void hear(void *arg, const clawsync_event *ev)
{
    struct scene *s = arg;

    if (ev->type == CLAWSYNC_EVENT_WARNING && strstr(ev->error.msg, "checkpoint") != NULL)
        snprintf(s->warning, sizeof s->warning, "%s", ev->error.msg);
}

/* Opens, does nothing and closes: what was said of the file? */
static void look(struct scene *s)
{
    clawsync_error err = { 0 };

    s->warning[0] = '\0';
    device_open(&s->device);
    ok(clawsync_engine_subscribe(s->device.engine, hear, s, &err), &err);
    ok(clawsync_engine_stop(s->device.engine, &err), &err); /* the engine's thread has been at it */
    device_close(&s->device);
}

static void read_file(struct scene *s, struct cs_checkpoint *out)
{
    struct cs_buf text = { 0 };
    struct cs_error err;

    if (cs_world_real()->files.ops->read(NULL, s->path, CS_CHECKPOINT_MAX, &text, &err) != CS_OK ||
        cs_checkpoint_parse(out, cs_buf_slice(&text), &err) != CS_OK)
        fail_msg("%s", err.msg);
    cs_buf_free(&text);
}

static void write_file(struct scene *s, const char *text)
{
    FILE *f = fopen(s->path, "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void sync_once(struct scene *s)
{
    clawsync_status st = { .size = sizeof st };
    clawsync_error err = { 0 };

    device_open(&s->device);
    ok(clawsync_engine_sync_now(s->device.engine, NULL, &err), &err);
    ok(clawsync_engine_status(s->device.engine, &st, &err), &err);
    snprintf(s->path, sizeof s->path, "%s/checkpoints/%s-%s.json", s->device.data, st.workspace_id, st.device_id);
    device_close(&s->device);
}

static void setup(struct scene *s)
{
    memset(s, 0, sizeof *s);
    hub_init(&s->hub);
    device_init(&s->device, "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);");
    s->device.config.hub_endpoint = s->hub.endpoint;
    app(&s->device, "INSERT INTO memories VALUES('a', 'x'), ('b', 'y')");
    sync_once(s);
}

static void teardown(struct scene *s)
{
    device_fini(&s->device);
    hub_fini(&s->hub);
}

static void an_engine_writes_and_checks_it(void **state)
{
    struct cs_checkpoint c, was, other;
    struct scene s;
    char *text;

    (void)state;
    setup(&s);
    read_file(&s, &was);
    assert_int_equal(was.number, 1);
    assert_true(was.exchanged.push.batches == 1 && was.exchanged.push.operations == 2 && was.saved_ms > 0);
    assert_true(was.exchanged.push.at_ms > 0 && was.exchanged.contact_ms >= was.exchanged.push.at_ms);
    assert_true(was.hlc.stamp > 0 && was.log_id != 0);
    look(&s);
    assert_string_equal(s.warning, ""); /* it was as the database says */

    assert_int_equal(unlink(s.path), 0);
    look(&s);
    assert_non_null(strstr(s.warning, "is missing"));
    read_file(&s, &c);
    assert_true(c.number == 1 && memcmp(c.state_hash, was.state_hash, 32) == 0);

    write_file(&s, "{\"version\": 1");
    look(&s);
    assert_non_null(strstr(s.warning, "cannot be used: it is not JSON"));
    write_file(&s, "");
    look(&s);
    assert_non_null(strstr(s.warning, "cannot be used: it is not JSON"));

    other = was;
    other.device.b[0] ^= 1;
    write_file(&s, text = text_of(&other));
    free(text);
    look(&s);
    assert_non_null(strstr(s.warning, "another device's"));

    other = was;
    other.workspace.b[0] ^= 1;
    write_file(&s, text = text_of(&other));
    free(text);
    look(&s);
    assert_non_null(strstr(s.warning, "workspace's"));
    read_file(&s, &c);
    assert_int_equal(cs_uuid_cmp(&c.workspace, &was.workspace), 0);

    other = was;
    other.number = 9; /* of a database that is gone, or just made up */
    write_file(&s, text = text_of(&other));
    free(text);
    look(&s);
    assert_non_null(strstr(s.warning, "is at number 9, the database at 1"));

    other = was;
    other.hlc.stamp += 65536;
    write_file(&s, text = text_of(&other));
    free(text);
    look(&s);
    assert_non_null(strstr(s.warning, "newer state"));

    app(&s.device, "INSERT INTO memories VALUES('c', 'z')");
    write_file(&s, text = text_of(&was));
    free(text);
    sync_once(&s); /* it goes on from the database's position, whatever the file said */
    read_file(&s, &c);
    assert_true(c.number == 2 && c.exchanged.push.operations == 1);
    look(&s);
    assert_string_equal(s.warning, "");
    read_file(&s, &other);
    /* what the last round moved, and when, outlives the process */
    assert_memory_equal(&other.exchanged, &c.exchanged, sizeof c.exchanged);
    teardown(&s);
}

/* Nothing depends on the file: where it cannot be written all goes on, and says so. */
static void one_that_cannot_be_written(void **state)
{
    struct cs_checkpoint c;
    char dir[160], away[160];
    struct scene s;
    FILE *f;

    (void)state;
    setup(&s);
    snprintf(dir, sizeof dir, "%s/checkpoints", s.device.data);
    snprintf(away, sizeof away, "%s/away", s.device.data);
    assert_int_equal(rename(dir, away), 0);
    assert_non_null(f = fopen(dir, "w")); /* in the folder's place */
    fclose(f);
    look(&s);
    assert_non_null(strstr(s.warning, "cannot be made anew: "));
    app(&s.device, "INSERT INTO memories VALUES('c', 'z')");
    sync_once(&s);
    assert_int_equal(unlink(dir), 0);
    assert_int_equal(rename(away, dir), 0);
    look(&s);
    assert_non_null(strstr(s.warning, "is at number 1, the database at 2; it is made anew from the database"));
    read_file(&s, &c);
    assert_int_equal(c.number, 2);
    teardown(&s);
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(what_is_written_is_read),    cmocka_unit_test(bad_forms_are_refused),
        cmocka_unit_test(a_large_file_is_not_read),   cmocka_unit_test(an_engine_writes_and_checks_it),
        cmocka_unit_test(one_that_cannot_be_written),
    };

    return cmocka_run_group_tests_name("checkpoint", t, NULL, NULL);
}
