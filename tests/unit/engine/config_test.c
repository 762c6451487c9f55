/* The settings of an engine: their names, defaults, ranges and spellings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "engine/config.h"

#define WORKSPACE "6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b11"
#define OTHER     "00000000-0000-4000-8000-000000000001"
#define PIN       "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF"

_Static_assert(sizeof(clawsync_error) == sizeof(struct cs_error) &&
                   offsetof(clawsync_error, msg) == offsetof(struct cs_error, msg),
               "the engine fills the one through the other");

enum kind { TEXT, SWITCH, NUMBER };

/* The public contract, field by field, as clawsync.h tells it. */
static const struct field_case {
    const char *name, *variable;
    enum kind kind;
    size_t at;
    const char *text;
    uint32_t number;
    const char *value;    /* one that is not the default */
    uint32_t least, most; /* numbers */
} fields[] = {
#define AT(f) offsetof(clawsync_config, f)
    { "workspace_id", "CLAW_WORKSPACE_ID", TEXT, AT(workspace_id), NULL, 0, WORKSPACE, 0, 0 },
    { "device_id", "CLAW_DEVICE_ID", TEXT, AT(device_id), NULL, 0, OTHER, 0, 0 },
    { "hub_endpoint", "CLAW_HUB_ENDPOINT", TEXT, AT(hub_endpoint), "http://localhost:50051", 0, "https://hub.example",
      0, 0 },
    { "data_dir", "CLAW_DATA_DIR", TEXT, AT(data_dir), ".claw-sync", 0, "/tmp/x y", 0, 0 },
    { "db_path", "CLAW_DB_PATH", TEXT, AT(db_path), "claw_sync.db", 0, "m.db", 0, 0 },
    { "tables", "CLAW_SYNC_TABLES", TEXT, AT(tables), NULL, 0, "a,b", 0, 0 },
    { "load_extension", "CLAW_SYNC_LOAD_EXTENSION", TEXT, AT(load_extension), NULL, 0, "./x.so", 0, 0 },
    { "tls_ca_file", "CLAW_TLS_CA_FILE", TEXT, AT(tls_ca_file), NULL, 0, "ca.pem", 0, 0 },
    { "tls_pin_sha256", "CLAW_TLS_PIN_SHA256", TEXT, AT(tls_pin_sha256), NULL, 0, PIN, 0, 0 },
    { "tls_enabled", "CLAW_TLS_ENABLED", SWITCH, AT(tls_enabled), NULL, 0, "true", 0, 0 },
    { "connect_timeout_secs", "CLAW_CONNECT_TIMEOUT_SECS", NUMBER, AT(connect_timeout_secs), NULL, 10, "11", 1, 3600 },
    { "request_timeout_secs", "CLAW_REQUEST_TIMEOUT_SECS", NUMBER, AT(request_timeout_secs), NULL, 30, "11", 1, 3600 },
    { "sync_interval_secs", "CLAW_SYNC_INTERVAL_SECS", NUMBER, AT(sync_interval_secs), NULL, 30, "11", 1, 604800 },
    { "heartbeat_interval_secs", "CLAW_HEARTBEAT_INTERVAL_SECS", NUMBER, AT(heartbeat_interval_secs), NULL, 15, "11", 1,
      86400 },
    { "max_retries", "CLAW_MAX_RETRIES", NUMBER, AT(max_retries), NULL, 5, "11", 0, 1000 },
    { "retry_base_ms", "CLAW_RETRY_BASE_MS", NUMBER, AT(retry_base_ms), NULL, 500, "11", 1, 30000 },
    { "max_delta_rows", "CLAW_MAX_DELTA_ROWS", NUMBER, AT(max_delta_rows), NULL, 1000, "11", 1, 100000 },
    { "max_chunk_bytes", "CLAW_MAX_CHUNK_BYTES", NUMBER, AT(max_chunk_bytes), NULL, 65536, "1025", 1024, 1048576 },
    { "max_pull_chunks", "CLAW_MAX_PULL_CHUNKS", NUMBER, AT(max_pull_chunks), NULL, 128, "11", 1, 1000000 },
    { "max_push_inflight", "CLAW_MAX_PUSH_INFLIGHT", NUMBER, AT(max_push_inflight), NULL, 4, "11", 1, 64 },
    { "compact_after", "CLAW_COMPACT_AFTER", NUMBER, AT(compact_after), NULL, 4096, "11", 0, 1000000000 },
    { "allow_plaintext", "CLAW_ALLOW_PLAINTEXT", SWITCH, AT(allow_plaintext), NULL, 0, "true", 0, 0 },
    { "padding", "CLAW_SYNC_PADDING", TEXT, AT(padding), "padme", 0, "none", 0, 0 },
#undef AT
};
enum { NFIELDS = sizeof fields / sizeof fields[0] };

static const char *text_in(const clawsync_config *c, const struct field_case *f)
{
    return *(const char *const *)(const void *)((const char *)c + f->at);
}
static uint32_t number_in(const clawsync_config *c, const struct field_case *f)
{
    return *(const uint32_t *)(const void *)((const char *)c + f->at);
}
/* Is the field of c what the text says; NULL: its default? */
static void assert_value(const clawsync_config *c, const struct field_case *f, const char *want)
{
    const char *have;

    if (f->kind != TEXT) {
        uint32_t number = want == NULL        ? f->number
                          : f->kind == SWITCH ? strcmp(want, "true") == 0
                                              : (uint32_t)strtoul(want, NULL, 10);

        assert_int_equal(number_in(c, f), number);
        return;
    }
    have = text_in(c, f);
    want = want == NULL ? f->text : want;
    assert_int_equal(have == NULL, want == NULL);
    if (have != NULL && want != NULL)
        assert_string_equal(have, want);
}

static void clear_environment(void)
{
    for (int i = 0; i < NFIELDS; i++)
        unsetenv(fields[i].variable);
}

/* ---- each field ---- */

static void set_by_both_names(void **state)
{
    const struct field_case *f = *state;
    const char *names[] = { f->name, f->variable };
    clawsync_error err;

    for (int n = 0; n < 2; n++) {
        clawsync_config c;

        clawsync_config_init(&c);
        assert_value(&c, f, NULL);
        assert_int_equal(clawsync_config_set(&c, names[n], f->value, &err), CLAWSYNC_OK);
        for (int i = 0; i < NFIELDS; i++) /* the others stay */
            assert_value(&c, &fields[i], &fields[i] == f ? f->value : NULL);
        if (f->kind == TEXT) { /* text is borrowed; empty text is none */
            assert_ptr_equal(text_in(&c, f), f->value);
            assert_int_equal(clawsync_config_set(&c, names[n], "", &err), CLAWSYNC_OK);
            assert_value(&c, f, NULL);
        }
    }
}

static void read_from_its_variable(void **state)
{
    const struct field_case *f = *state;
    clawsync_config c;
    clawsync_error err;

    clear_environment();
    setenv(f->variable, f->value, 1);
    assert_int_equal(clawsync_config_from_env(&c, &err), CLAWSYNC_OK);
    for (int i = 0; i < NFIELDS; i++)
        assert_value(&c, &fields[i], &fields[i] == f ? f->value : NULL);
    setenv(f->variable, "", 1); /* empty is unset */
    assert_int_equal(clawsync_config_from_env(&c, &err), CLAWSYNC_OK);
    assert_value(&c, f, NULL);
    unsetenv(f->variable);
}

/* Text of a number just inside and just outside its range; the struct's own value is held to the same. */
static void a_number_keeps_its_range(void **state)
{
    const struct field_case *f = *state;
    const struct {
        uint64_t value;
        bool good;
    } tries[] = { { f->least, true },
                  { f->most, true },
                  { (uint64_t)f->most + 1, false },
                  { UINT32_MAX, f->most == UINT32_MAX },
                  { (uint64_t)UINT32_MAX + 1 + f->least, false }, /* not taken modulo 2^32 */
                  { UINT64_MAX, false },
                  { f->least == 0 ? UINT32_MAX : f->least - 1, false } };
    clawsync_config c;
    clawsync_error err;

    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        char text[24];

        snprintf(text, sizeof text, "%llu", (unsigned long long)tries[i].value);
        clawsync_config_init(&c);
        c.workspace_id = WORKSPACE;
        assert_int_equal(clawsync_config_set(&c, f->name, text, &err), tries[i].good ? CLAWSYNC_OK : CLAWSYNC_EINVAL);
        assert_value(&c, f, tries[i].good ? text : NULL);
        if (!tries[i].good) {
            assert_non_null(strstr(err.msg, f->name));
            assert_non_null(strstr(err.msg, text));
        }
        if (tries[i].value > 0 && tries[i].value <= UINT32_MAX) { /* 0 in the struct is the default */
            *(uint32_t *)(void *)((char *)&c + f->at) = (uint32_t)tries[i].value;
            assert_int_equal(clawsync_config_check(&c, &err), tries[i].good ? CLAWSYNC_OK : CLAWSYNC_EINVAL);
        }
    }
}

/* ---- spellings ---- */

static const struct spelling_case {
    const char *name, *field, *value;
    int want;
} spellings[] = {
    { "a UUID in capitals", "workspace_id", "6F0D8C52-3A53-4C0E-9D5F-0E4A1D1F7B11", CLAWSYNC_OK },
    { "a UUID without dashes", "workspace_id", "6f0d8c523a534c0e9d5f0e4a1d1f7b11", CLAWSYNC_EINVAL },
    { "a UUID in braces", "device_id", "{" WORKSPACE "}", CLAWSYNC_EINVAL },
    { "a UUID and a space", "device_id", WORKSPACE " ", CLAWSYNC_EINVAL },
    { "a UUID cut off", "device_id", "6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b1", CLAWSYNC_EINVAL },
    { "a UUID of zeros", "workspace_id", "00000000-0000-0000-0000-000000000000", CLAWSYNC_EINVAL },
    { "no scheme", "hub_endpoint", "localhost:50051", CLAWSYNC_EINVAL },
    { "another scheme", "hub_endpoint", "grpc://localhost:50051", CLAWSYNC_EINVAL },
    { "a path", "hub_endpoint", "http://localhost:50051/x", CLAWSYNC_EINVAL },
    { "a query", "hub_endpoint", "http://localhost?x", CLAWSYNC_EINVAL },
    { "a user", "hub_endpoint", "http://me@localhost", CLAWSYNC_EINVAL },
    { "true", "tls_enabled", "true", CLAWSYNC_OK },
    { "True", "tls_enabled", "True", CLAWSYNC_OK },
    { "1", "tls_enabled", "1", CLAWSYNC_OK },
    { "false", "tls_enabled", "FALSE", CLAWSYNC_OK },
    { "0", "tls_enabled", "0", CLAWSYNC_OK },
    { "yes", "tls_enabled", "yes", CLAWSYNC_EINVAL },
    { "2", "tls_enabled", "2", CLAWSYNC_EINVAL },
    { "an empty switch", "tls_enabled", "", CLAWSYNC_EINVAL },
    { "a sign", "max_retries", "+1", CLAWSYNC_EINVAL },
    { "below zero", "max_retries", "-1", CLAWSYNC_EINVAL },
    { "a space", "max_retries", " 1", CLAWSYNC_EINVAL },
    { "a unit", "retry_base_ms", "10ms", CLAWSYNC_EINVAL },
    { "hexadecimal", "max_retries", "0x10", CLAWSYNC_EINVAL },
    { "a fraction", "retry_base_ms", "1.5", CLAWSYNC_EINVAL },
    { "an exponent", "retry_base_ms", "1e3", CLAWSYNC_EINVAL },
    { "an empty number", "retry_base_ms", "", CLAWSYNC_EINVAL },
    { "a pin of 63 digits", "tls_pin_sha256", &PIN[1], CLAWSYNC_EINVAL },
    { "a pin of 65 digits", "tls_pin_sha256", PIN "0", CLAWSYNC_EINVAL },
    { "a pin with colons", "tls_pin_sha256", "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44",
      CLAWSYNC_EINVAL },
    { "another padding", "padding", "some", CLAWSYNC_EINVAL },
    { "padding in capitals", "padding", "NONE", CLAWSYNC_EINVAL },
    { "size", "size", "1", CLAWSYNC_EINVAL },
    { "the passphrase", "passphrase", "x", CLAWSYNC_EINVAL },
    { "an unknown field", "colour", "red", CLAWSYNC_ENOTFOUND },
    { "a field in capitals", "MAX_RETRIES", "1", CLAWSYNC_ENOTFOUND },
    { "an unknown variable", "CLAW_COLOUR", "red", CLAWSYNC_ENOTFOUND },
    { "a variable of the hub", "CLAW_LISTEN_ADDR", "x:1", CLAWSYNC_ENOTFOUND },
};
enum { NSPELLINGS = sizeof spellings / sizeof spellings[0] };

static void a_spelling_is_taken_or_refused(void **state)
{
    const struct spelling_case *s = *state;
    clawsync_config c, before;
    clawsync_error err = { 0 };

    clawsync_config_init(&c);
    before = c;
    assert_int_equal(clawsync_config_set(&c, s->field, s->value, &err), s->want);
    assert_int_equal(clawsync_config_set(&c, s->field, s->value, NULL), s->want); /* the message is optional */
    if (s->want != CLAWSYNC_OK) {
        assert_int_equal(err.code, s->want);
        assert_non_null(strstr(err.msg, s->field));
        assert_memory_equal(&c, &before, sizeof c);
    }
}

static const struct endpoint_case {
    const char *url, *host; /* NULL: refused */
    uint16_t port;
    bool tls;
} endpoints[] = {
    { "http://localhost:50051", "localhost", 50051, false },
    { "https://hub.example:1", "hub.example", 1, true },
    { "HTTPS://hub.example:65535", "hub.example", 65535, true },
    { "http://hub.example", "hub.example", 80, false },
    { "https://hub.example", "hub.example", 443, true },
    { "http://127.0.0.1:50051", "127.0.0.1", 50051, false },
    { "http://[::1]:50051", "::1", 50051, false },
    { "https://[fe80::1]", "fe80::1", 443, true },
    { "", NULL, 0, false },
    { "http://", NULL, 0, false },
    { "http:/localhost", NULL, 0, false },
    { "http://:50051", NULL, 0, false },
    { "http://localhost:", NULL, 0, false },
    { "http://localhost:0", NULL, 0, false },
    { "http://localhost:65536", NULL, 0, false },
    { "http://localhost:50051 ", NULL, 0, false },
    { "http://localhost:5005x", NULL, 0, false },
    { "http://localhost:-1", NULL, 0, false },
    { "http://localhost:18446744073709551617", NULL, 0, false },
    { "http://localhost/", NULL, 0, false },
    { "http://local host", NULL, 0, false },
    { "http://local\nhost", NULL, 0, false },
    { "http://\xc3\xbc.example", NULL, 0, false },
    { "http://::1:50051", NULL, 0, false },
    { "http://[::1", NULL, 0, false },
    { "http://[]:1", NULL, 0, false },
    { "http://[::1]50051", NULL, 0, false },
    { " http://localhost", NULL, 0, false },
};

static void endpoints_are_taken_apart(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof endpoints / sizeof endpoints[0]; i++) {
        const struct endpoint_case *e = &endpoints[i];
        struct cs_endpoint out;
        struct cs_error err = { 0 };
        int rc = cs_endpoint_parse(&out, e->url, &err);

        if (rc != (e->host == NULL ? CS_EINVAL : CS_OK))
            fail_msg("\"%s\": %s %s", e->url, cs_code_name(rc), err.msg);
        if (e->host == NULL)
            continue;
        assert_string_equal(out.host, e->host);
        assert_int_equal(out.port, e->port);
        assert_int_equal(out.tls, e->tls);
    }
}

static void lists_of_hubs(void **state)
{
    static const char *const bad[] = { "",
                                       ",",
                                       "http://a,",
                                       ",http://a",
                                       "http://a,,http://b",
                                       "http://a http://b",
                                       "http://a,ftp://b",
                                       ("http://1,http://2,http://3,http://4,http://5,http://6,http://7,http://8,"
                                        "http://9") };
    struct cs_endpoints hubs;
    struct cs_error err = { 0 };

    (void)state;
    assert_int_equal(cs_endpoints_parse(&hubs, "http://a:1", &err), CS_OK);
    assert_int_equal(hubs.n, 1);
    assert_int_equal(cs_endpoints_parse(&hubs, " https://a , http://[::1]:2,http://b:3 ", &err), CS_OK);
    assert_int_equal(hubs.n, 3);
    assert_true(hubs.of[0].tls && !hubs.of[1].tls);
    assert_string_equal(hubs.of[0].host, "a");
    assert_string_equal(hubs.of[1].host, "::1");
    assert_int_equal(hubs.of[2].port, 3);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (cs_endpoints_parse(&hubs, bad[i], &err) != CS_EINVAL || err.msg[0] == '\0')
            fail_msg("\"%s\" was taken", bad[i]);
}

static void the_longest_host_fits_and_no_longer(void **state)
{
    char url[8 + CS_HOST_MAX + 8];
    struct cs_endpoint out;

    (void)state;
    memcpy(url, "https://", 8);
    memset(url + 8, 'h', CS_HOST_MAX + 1);
    strcpy(url + 8 + CS_HOST_MAX, ":1");
    assert_int_equal(cs_endpoint_parse(&out, url, NULL), CS_OK);
    assert_int_equal(strlen(out.host), CS_HOST_MAX);
    strcpy(url + 8 + CS_HOST_MAX, "h:1");
    assert_int_equal(cs_endpoint_parse(&out, url, NULL), CS_EINVAL);
}

/* ---- the whole ---- */

static void a_malformed_variable_is_named(void **state)
{
    clawsync_config c;
    clawsync_error err;

    (void)state;
    clear_environment();
    setenv("CLAW_SYNC_INTERVAL_SECS", "soon", 1);
    assert_int_equal(clawsync_config_from_env(&c, &err), CLAWSYNC_EINVAL);
    assert_string_equal(err.msg, "CLAW_SYNC_INTERVAL_SECS: \"soon\" is not a number from 1 to 604800");
    unsetenv("CLAW_SYNC_INTERVAL_SECS");
    setenv("CLAW_PASSPHRASE", "secret", 1);
    setenv("CLAW_SYNC_PASSPHRASE", "secret", 1);
    assert_int_equal(clawsync_config_from_env(&c, &err), CLAWSYNC_OK);
    assert_null(c.passphrase);
    unsetenv("CLAW_PASSPHRASE");
    unsetenv("CLAW_SYNC_PASSPHRASE");
}

static void check_wants_what_open_wants(void **state)
{
    clawsync_config c;
    clawsync_error err;

    (void)state;
    clawsync_config_init(&c);
    assert_int_equal(clawsync_config_check(&c, &err), CLAWSYNC_EINVAL);
    assert_string_equal(err.msg, "workspace_id (CLAW_WORKSPACE_ID) is required: the workspace's UUID");
    c.workspace_id = "";
    assert_int_equal(clawsync_config_check(&c, NULL), CLAWSYNC_EINVAL);
    c.workspace_id = WORKSPACE;
    assert_int_equal(clawsync_config_check(&c, &err), CLAWSYNC_OK);
    c.hub_endpoint = "ftp://x";
    assert_int_equal(clawsync_config_check(&c, &err), CLAWSYNC_EINVAL);
    c.hub_endpoint = NULL;
    c.device_id = "me";
    assert_int_equal(clawsync_config_check(&c, &err), CLAWSYNC_EINVAL);
    c.device_id = NULL;
    assert_int_equal(clawsync_config_check(&c, &err), CLAWSYNC_OK);
    c.size--; /* another version of the struct, or none that was initialised */
    assert_int_equal(clawsync_config_check(&c, &err), CLAWSYNC_EINVAL);
    assert_int_equal(clawsync_config_check(NULL, &err), CLAWSYNC_EINVAL);
    assert_int_equal(clawsync_config_set(&c, NULL, "x", &err), CLAWSYNC_EINVAL);
    assert_int_equal(clawsync_config_set(&c, "tables", NULL, &err), CLAWSYNC_EINVAL);
}

static void a_copy_owns_its_text_and_has_the_defaults(void **state)
{
    char workspace[] = WORKSPACE, tables[] = "a,b", passphrase[] = "correct horse";
    struct cs_arena arena = { 0 };
    clawsync_config c, copy;
    clawsync_error err;

    (void)state;
    memset(&c, 0, sizeof c);
    c.size = sizeof c;
    c.workspace_id = workspace;
    c.tables = tables;
    c.passphrase = passphrase;
    c.tls_enabled = 1;
    assert_int_equal(cs_config_copy(&copy, &arena, &c, (struct cs_error *)&err), CS_OK);
    memset(workspace, 'x', strlen(workspace));
    memset(tables, 'x', strlen(tables));
    memset(passphrase, 'x', strlen(passphrase));
    assert_string_equal(copy.workspace_id, WORKSPACE);
    assert_string_equal(copy.tables, "a,b");
    assert_string_equal(copy.passphrase, "correct horse");
    assert_int_equal(copy.tls_enabled, 1);
    for (int i = 0; i < NFIELDS; i++) {
        const struct field_case *f = &fields[i];

        if (f->kind == TEXT ? text_in(&c, f) == NULL : f->kind == NUMBER && f->least > 0)
            assert_value(&copy, f, NULL);
    }
    assert_int_equal(copy.max_retries, 0); /* the one number whose 0 is a value */
    cs_arena_free(&arena);
    c.workspace_id = NULL;
    assert_int_equal(cs_config_copy(&copy, &arena, &c, NULL), CS_EINVAL);
    cs_arena_free(&arena);
}

int main(void)
{
    struct CMUnitTest t[3 * NFIELDS + NSPELLINGS + 5];
    size_t n = 0;

#define ADD(text, function, data)                                                                                      \
    (t[n++] =                                                                                                          \
         (struct CMUnitTest){ .name = (text), .test_func = (function), .initial_state = (void *)(uintptr_t)(data) })
    for (int i = 0; i < NFIELDS; i++) {
        ADD(fields[i].name, set_by_both_names, &fields[i]);
        ADD(fields[i].variable, read_from_its_variable, &fields[i]);
        if (fields[i].kind == NUMBER)
            ADD(fields[i].name, a_number_keeps_its_range, &fields[i]);
    }
    for (int i = 0; i < NSPELLINGS; i++)
        ADD(spellings[i].name, a_spelling_is_taken_or_refused, &spellings[i]);
    ADD("endpoints", endpoints_are_taken_apart, NULL);
    ADD("lists of hubs", lists_of_hubs, NULL);
    ADD("longest host", the_longest_host_fits_and_no_longer, NULL);
    ADD("malformed variable", a_malformed_variable_is_named, NULL);
    ADD("check", check_wants_what_open_wants, NULL);
    ADD("copy", a_copy_owns_its_text_and_has_the_defaults, NULL);
#undef ADD
    return _cmocka_run_group_tests("configuration", t, n, NULL, NULL);
}
