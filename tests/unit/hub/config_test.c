/* The environment and options of claw-sync-server, and its key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include <sys/stat.h>

#include "crypto/keys.h"
#include "hub/config.h"
#include "scratch.h"

#define DEFAULT_SEED "claw-sync-server-default-key-seed"
#define GOOD_SEED    "0123456789abcdef0123456789abcdef"

/* The environment of the case at hand: name, value, name, value … NULL. */
static const char *const *variables;
static const char *environment(const char *name)
{
    for (const char *const *v = variables; *v != NULL; v += 2)
        if (strcmp(v[0], name) == 0)
            return v[1];
    return NULL;
}

enum { MOST_VARIABLES = 9 };
#define NONE UINT64_MAX
static const struct config_case {
    const char *name;
    const char *variables[MOST_VARIABLES];
    const char *listen, *data_dir;
    const char *error; /* a part of the sentence; NULL: fine */
    const char *host;
    int port;
    const char *database;
    uint64_t devices, bytes, rate; /* 0: not looked at; NONE: no limit */
    const char *url;               /* PostgreSQL; NULL: none */
    unsigned connections, partitions;
    int prepare;
} cases[] = {
    { .name = "defaults",
      .host = "0.0.0.0",
      .port = 50051,
      .database = ".claw-sync-server/hub.db",
      .devices = 64,
      .bytes = 10000000000,
      .rate = 20000000 },
    { .name = "no quotas",
      .variables = { "CLAW_SYNC_QUOTA_DEVICES", "none", "CLAW_SYNC_QUOTA_BYTES", "none",
                     "CLAW_SYNC_QUOTA_BYTES_PER_SECOND", "none" },
      .host = "0.0.0.0",
      .port = 50051,
      .database = ".claw-sync-server/hub.db",
      .devices = NONE,
      .bytes = NONE,
      .rate = NONE },
    { .name = "options win",
      .variables = { "CLAW_LISTEN_ADDR", "10.0.0.1:1", "CLAW_SYNC_SERVER_DATA_DIR", "/a" },
      .listen = "[::1]:0",
      .data_dir = "/b",
      .host = "::1",
      .port = 0,
      .database = "/b/hub.db" },
    { .name = "environment",
      .variables = { "CLAW_LISTEN_ADDR", "hub.example:65535", "CLAW_SYNC_SERVER_DATA_DIR", "/a",
                     "CLAW_SYNC_HUB_DATABASE_URL", "sqlite:/x/y.db" },
      .host = "hub.example",
      .port = 65535,
      .database = "/x/y.db" },
    { .name = "empty is unset",
      .variables = { "CLAW_LISTEN_ADDR", "", "CLAW_SYNC_HUB_DATABASE_URL", "", "CLAW_SYNC_TLS_CERT", "" },
      .host = "0.0.0.0",
      .port = 50051,
      .database = ".claw-sync-server/hub.db" },
    { .name = "quotas",
      .variables = { "CLAW_SYNC_QUOTA_DEVICES", "256", "CLAW_SYNC_QUOTA_BYTES", "1", "CLAW_SYNC_HUB_BEHIND_PROXY",
                     "1" },
      .host = "0.0.0.0",
      .port = 50051,
      .database = ".claw-sync-server/hub.db",
      .devices = 256,
      .bytes = 1,
      .rate = 20000000 },
    { .name = "a quota of nothing", .variables = { "CLAW_SYNC_QUOTA_BYTES", "0" }, .error = "from 1 to" },
    { .name = "a quota with a unit", .variables = { "CLAW_SYNC_QUOTA_BYTES", "10G" }, .error = "from 1 to" },
    { .name = "a quota without end",
      .variables = { "CLAW_SYNC_QUOTA_BYTES_PER_SECOND", "99999999999999999999" },
      .error = "from 1 to" },
    { .name = "more devices than a workspace can have",
      .variables = { "CLAW_SYNC_QUOTA_DEVICES", "257" },
      .error = "from 1 to 256" },
    { .name = "perhaps a proxy", .variables = { "CLAW_SYNC_HUB_BEHIND_PROXY", "perhaps" }, .error = "1 or 0" },
    { .name = "no port", .listen = "127.0.0.1", .error = "HOST:PORT" },
    { .name = "no host", .listen = ":50051", .error = "HOST:PORT" },
    { .name = "port too large", .listen = "127.0.0.1:65536", .error = "HOST:PORT" },
    { .name = "port with a sign", .listen = "127.0.0.1:+1", .error = "HOST:PORT" },
    { .name = "port with letters", .listen = "127.0.0.1:1x", .error = "HOST:PORT" },
    { .name = "IPv6 without brackets", .listen = "::1:50051", .error = "HOST:PORT" },
    { .name = "PostgreSQL",
      .variables = { "CLAW_SYNC_HUB_DATABASE_URL", "postgres://u:secret@h/d" },
      .host = "0.0.0.0",
      .port = 50051,
      .database = "",
      .url = "postgres://u:secret@h/d",
      .connections = 8 },
    { .name = "PostgreSQL, the long name, and its settings",
      .variables = { "CLAW_SYNC_HUB_DATABASE_URL", "postgresql://h/d", "CLAW_SYNC_HUB_DATABASE_CONNECTIONS", "2",
                     "CLAW_SYNC_HUB_DATABASE_PARTITIONS", "16", "CLAW_SYNC_HUB_DATABASE_PREPARE", "0" },
      .host = "0.0.0.0",
      .port = 50051,
      .database = "",
      .url = "postgresql://h/d",
      .connections = 2,
      .partitions = 16,
      .prepare = -1 },
    { .name = "a password that is not encoded",
      .variables = { "CLAW_SYNC_HUB_DATABASE_URL", "postgres://u:1/secret@h:x/d" },
      .error = "as %XX" },
    { .name = "one connection",
      .variables = { "CLAW_SYNC_HUB_DATABASE_URL", "postgres://h", "CLAW_SYNC_HUB_DATABASE_CONNECTIONS", "1" },
      .error = "from 2 to 1000" },
    { .name = "too many partitions",
      .variables = { "CLAW_SYNC_HUB_DATABASE_URL", "postgres://h", "CLAW_SYNC_HUB_DATABASE_PARTITIONS", "1025" },
      .error = "from 1 to 1024" },
    { .name = "prepared perhaps",
      .variables = { "CLAW_SYNC_HUB_DATABASE_URL", "postgres://h", "CLAW_SYNC_HUB_DATABASE_PREPARE", "perhaps" },
      .error = "1 or 0" },
    { .name = "a connection to listen on that is none",
      .variables = { "CLAW_SYNC_HUB_DATABASE_URL", "postgres://h", "CLAW_SYNC_HUB_DATABASE_LISTEN_URL",
                     "postgres://u:1/secret@h:x/d" },
      .error = "CLAW_SYNC_HUB_DATABASE_LISTEN_URL" },
    { .name = "no connections", .variables = { "CLAW_SYNC_CONNECTIONS", "0" }, .error = "from 1 to 1000000" },
    { .name = "asks less than once a day",
      .variables = { "CLAW_SYNC_HUB_DATABASE_URL", "postgres://h", "CLAW_SYNC_HUB_DATABASE_POLL_SECONDS", "86401" },
      .error = "from 1 to 86400" },
    { .name = "prunes less than once a day",
      .variables = { "CLAW_SYNC_PRUNE_SECONDS", "86401" },
      .error = "from 1 to 86400" },
    { .name = "another database", .variables = { "CLAW_SYNC_HUB_DATABASE_URL", "mysql://h" }, .error = "sqlite:PATH" },
    { .name = "sqlite without a path",
      .variables = { "CLAW_SYNC_HUB_DATABASE_URL", "sqlite:" },
      .error = "sqlite:PATH" },
    { .name = "certificate without key", .variables = { "CLAW_SYNC_TLS_CERT", "c" }, .error = "go together" },
    { .name = "key without certificate", .variables = { "CLAW_SYNC_TLS_KEY", "k" }, .error = "go together" },
    { .name = "short seed", .variables = { "CLAW_SYNC_SERVER_KEY_SEED", "short" }, .error = "needs 32" },
    { .name = "default seed in public",
      .variables = { "CLAW_SYNC_SERVER_KEY_SEED", DEFAULT_SEED },
      .error = "loopback" },
    { .name = "default seed on a name that looks like loopback",
      .variables = { "CLAW_SYNC_SERVER_KEY_SEED", DEFAULT_SEED },
      .listen = "127.evil.example:1",
      .error = "loopback" },
    { .name = "default seed at home",
      .variables = { "CLAW_SYNC_SERVER_KEY_SEED", DEFAULT_SEED },
      .listen = "127.0.0.1:1",
      .host = "127.0.0.1",
      .port = 1,
      .database = ".claw-sync-server/hub.db" },
    { .name = "a seed of 32 bytes",
      .variables = { "CLAW_SYNC_SERVER_KEY_SEED", GOOD_SEED },
      .host = "0.0.0.0",
      .port = 50051,
      .database = ".claw-sync-server/hub.db" },
};
enum { NCASES = sizeof cases / sizeof cases[0] };

static void quota_is(uint64_t got, uint64_t want)
{
    if (want != 0)
        assert_true(got == (want == NONE ? 0 : want));
}

static void reads(void **state)
{
    const struct config_case *c = *state;
    struct cs_hub_config config;
    struct cs_error err = { 0 };

    variables = c->variables;
    if (c->error != NULL) {
        assert_int_equal(cs_hub_config_read(&config, environment, c->listen, NULL, c->data_dir, &err), CS_EINVAL);
        assert_non_null(strstr(err.msg, c->error));
        assert_null(strstr(err.msg, "1/secret"));
        return;
    }
    assert_int_equal(cs_hub_config_read(&config, environment, c->listen, NULL, c->data_dir, &err), CS_OK);
    assert_string_equal(config.listen.host, c->host);
    assert_int_equal(config.listen.port, c->port);
    assert_string_equal(config.database, c->database);
    assert_true((config.postgres.url == NULL) == (c->url == NULL));
    if (c->url != NULL)
        assert_string_equal(config.postgres.url, c->url);
    assert_int_equal(config.postgres.connections, c->connections);
    assert_int_equal(config.postgres.partitions, c->partitions);
    assert_int_equal(config.postgres.prepare, c->prepare);
    quota_is(config.quota_devices, c->devices);
    quota_is(config.quota_bytes, c->bytes);
    quota_is(config.quota_bytes_per_s, c->rate);
}

/* Where hubs hear of each other, and how often they ask all the same. */
static void listens(void **state)
{
    static const struct {
        const char *listen, *poll, *want;
        uint32_t want_ms;
    } at[] = {
        { "", "", "postgres://h/d", 10000 },
        { "none", "", NULL, 500 },
        { "postgres://l/d", "7", "postgres://l/d", 7000 },
        { "none", "1", NULL, 1000 },
        { "", "none", "postgres://h/d", 10000 },
    };
    const char *v[MOST_VARIABLES] = { "CLAW_SYNC_HUB_DATABASE_URL",          "postgres://h/d",
                                      "CLAW_SYNC_HUB_DATABASE_LISTEN_URL",   NULL,
                                      "CLAW_SYNC_HUB_DATABASE_POLL_SECONDS", NULL };
    struct cs_hub_config config;
    struct cs_error err = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        v[3] = at[i].listen;
        v[5] = at[i].poll;
        variables = v;
        assert_int_equal(cs_hub_config_read(&config, environment, NULL, NULL, NULL, &err), CS_OK);
        assert_true((config.postgres.listen == NULL) == (at[i].want == NULL));
        if (at[i].want != NULL)
            assert_string_equal(config.postgres.listen, at[i].want);
        assert_int_equal(config.poll_ms, at[i].want_ms);
        assert_int_equal(config.connections, 16384);
        assert_int_equal(config.connections_per_address, 256);
    }
}

static void key_from_seed(void **state)
{
    struct cs_hub_config config = { .key_seed = GOOD_SEED };
    uint8_t seed[32], want[32];
    struct cs_error err = { 0 };

    (void)state;
    assert_int_equal(cs_hub_config_key(&config, cs_world_real(), seed, &err), CS_OK);
    cs_hash_label("hub sign", cs_slice_str(GOOD_SEED), want);
    assert_memory_equal(seed, want, 32);
}

/* Made once, private, and the same from then on; a damaged one is not replaced. */
static void key_in_a_file(void **state)
{
    struct cs_hub_config config = { 0 };
    char dir[SCRATCH_LEN], path[100];
    struct cs_world *w = cs_world_real();
    uint8_t first[32], second[32];
    struct cs_error err = { 0 };
    struct stat st;

    (void)state;
    assert_non_null(scratch_folder(dir, "config"));
    snprintf(config.data_dir, sizeof config.data_dir, "%s", dir);
    snprintf(path, sizeof path, "%s/hub.key", dir);
    assert_int_equal(cs_crypto_init(&err), CS_OK);
    assert_int_equal(cs_hub_config_key(&config, w, first, &err), CS_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(st.st_size, 32);
    assert_int_equal(cs_hub_config_key(&config, w, second, &err), CS_OK);
    assert_memory_equal(first, second, 32);
    assert_int_equal(w->files.ops->write_atomic(w->files.self, path, cs_slice_str("short"), 0600, &err), CS_OK);
    assert_int_equal(cs_hub_config_key(&config, w, second, &err), CS_ECORRUPT);
    assert_int_equal(remove(path), 0);
    assert_int_equal(remove(dir), 0);
}

int main(void)
{
    struct CMUnitTest t[NCASES + 3] = { cmocka_unit_test(listens), cmocka_unit_test(key_from_seed),
                                        cmocka_unit_test(key_in_a_file) };

    for (size_t i = 0; i < NCASES; i++)
        t[i + 3] = (struct CMUnitTest){ .name = cases[i].name,
                                        .test_func = reads,
                                        .initial_state = (void *)(uintptr_t)&cases[i] };
    return cmocka_run_group_tests_name("hub configuration", t, NULL, NULL);
}
