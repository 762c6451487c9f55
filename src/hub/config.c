#include "hub/config.h"

#include <stdio.h>
#include <stdlib.h>

#include "crypto/keys.h"

enum { SEED_MIN = 32, KEY_LEN = 32, TOKEN_MIN = 32, CONNECTIONS = 8, POLL_S = 10, POLL_ALONE_MS = 500, DAY_S = 86400 };
/* Idle, each costs some 26 KiB; more than a home or an office has behind one address. */
enum { CLIENTS = 16384, CLIENTS_MAX = 1000000, PER_ADDRESS = 256 };
#define QUOTA_MAX      UINT64_C(1000000000000000) /* bytes */
#define QUOTA_RATE_MAX UINT64_C(1000000000000)    /* bytes per second */
/* What nobody's notes and memories reach, and what no single workspace can use up of a small machine. */
#define QUOTA_DEVICES UINT64_C(64)
#define QUOTA_BYTES   UINT64_C(10000000000)
#define QUOTA_RATE    UINT64_C(20000000)
/* Seconds: a day to fetch what a device lacks from the log itself, and a quarter of a year to be away. */
#define RETENTION   UINT64_C(86400)
#define SILENT      UINT64_C(7776000)
#define SECONDS_MAX UINT64_C(10000000000)
static const char default_seed[] = "claw-sync-server-default-key-seed"; /* known to everyone: for trying things out */

/* Unset and empty are the same. */
static const char *variable(cs_getenv *env, const char *name)
{
    const char *v = env(name);

    return v == NULL || v[0] == '\0' ? NULL : v;
}

static int flag(bool *out, cs_getenv *env, const char *name, struct cs_error *err)
{
    const char *v = variable(env, name);

    *out = v != NULL && strcmp(v, "1") == 0;
    if (v == NULL || *out || strcmp(v, "0") == 0)
        return CS_OK;
    return cs_fail(err, CS_EINVAL, "%s is \"%s\"; it is 1 or 0", name, v);
}

static int number(uint64_t *out, cs_getenv *env, const char *name, uint64_t usual, uint64_t min, uint64_t max,
                  const char *none, struct cs_error *err)
{
    const char *v = variable(env, name);
    size_t n = v == NULL ? 0 : strspn(v, "0123456789");

    *out = v == NULL ? usual : 0;
    if (v == NULL || strcmp(v, "none") == 0)
        return CS_OK;
    if (n > 0 && n <= 18 && v[n] == '\0')
        *out = strtoull(v, NULL, 10);
    if (*out < min || *out > max)
        return cs_fail(err, CS_EINVAL, "%s is \"%.50s\"; it is a number from %llu to %llu, or \"none\": %s", name, v,
                       (unsigned long long)min, (unsigned long long)max, none);
    return CS_OK;
}

static int quota(uint64_t *out, cs_getenv *env, const char *name, uint64_t usual, uint64_t max, struct cs_error *err)
{
    return number(out, env, name, usual, 1, max, "no limit", err);
}

/* Where logs end at their beginning, and for whom they wait with that. */
static int pruning_parse(struct cs_hub_config *c, cs_getenv *env, struct cs_error *err)
{
    static const char retention[] = "CLAW_SYNC_RETENTION_SECONDS";
    const char *v = variable(env, retention);
    uint64_t seconds;
    int rc = number(&seconds, env, retention, RETENTION, 0, SECONDS_MAX, "logs are kept whole", err);

    if (rc != CS_OK)
        return rc;
    c->retention_ms = v != NULL && strcmp(v, "none") == 0 ? UINT64_MAX : seconds * 1000;
    if ((rc = number(&seconds, env, "CLAW_SYNC_SILENT_SECONDS", SILENT, 1, SECONDS_MAX,
                     "every device is waited for, however long it is away", err)) != CS_OK)
        return rc;
    c->silent_ms = seconds * 1000;
    if ((rc = number(&seconds, env, "CLAW_SYNC_PRUNE_SECONDS", 0, 1, DAY_S, "the usual time", err)) == CS_OK)
        c->flush_ms = seconds * 1000;
    return rc;
}

static bool all_digits(const char *s, size_t max)
{
    size_t n = strspn(s, "0123456789");

    return n > 0 && n <= max && s[n] == '\0';
}

static bool host_is_loopback(const char *host)
{
    return strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0 ||
           (strncmp(host, "127.", 4) == 0 && host[strspn(host, "0123456789.")] == '\0');
}

/* "host:port", an IPv6 address in brackets. */
static int address_parse(struct cs_hub_address *c, const char *text, struct cs_error *err)
{
    const char *colon = strrchr(text, ':'), *from = text;
    size_t n = colon == NULL ? 0 : (size_t)(colon - text);
    long port;

    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
        from++;
        n -= 2;
    } else if (memchr(text, ':', n) != NULL) {
        n = 0; /* an IPv6 address without brackets */
    }
    if (n == 0 || n >= sizeof c->host || !all_digits(colon + 1, 5) || (port = strtol(colon + 1, NULL, 10)) > 65535)
        return cs_fail(err, CS_EINVAL, "\"%s\" is not an address to listen on; give HOST:PORT, as in 127.0.0.1:50051",
                       text);
    memcpy(c->host, from, n);
    c->host[n] = '\0';
    c->port = (uint16_t)port;
    c->loopback = host_is_loopback(c->host);
    return CS_OK;
}

/* The settings of a PostgreSQL store. */
static int postgres_parse(struct cs_hub_config *c, cs_getenv *env, const char *url, struct cs_error *err)
{
    const char *prepare = variable(env, "CLAW_SYNC_HUB_DATABASE_PREPARE");
    const char *listen = variable(env, "CLAW_SYNC_HUB_DATABASE_LISTEN_URL");
    uint64_t connections, partitions, poll_s;
    char name[256];
    int rc;

    if ((rc = number(&connections, env, "CLAW_SYNC_HUB_DATABASE_CONNECTIONS", CONNECTIONS, 2, 1000, "the usual number",
                     err)) != CS_OK ||
        (rc = number(&partitions, env, "CLAW_SYNC_HUB_DATABASE_PARTITIONS", 0, 1, 1024, "no partitions", err)) !=
            CS_OK ||
        (rc = number(&poll_s, env, "CLAW_SYNC_HUB_DATABASE_POLL_SECONDS", 0, 1, DAY_S, "the usual time", err)) !=
            CS_OK ||
        (rc = cs_store_postgres_name(url, name, sizeof name, err)) != CS_OK)
        return rc;
    if (listen == NULL)
        listen = url;
    else if (strcmp(listen, "none") == 0)
        listen = NULL;
    else if (cs_store_postgres_name(listen, name, sizeof name, err) != CS_OK)
        return cs_fail_context(err, "CLAW_SYNC_HUB_DATABASE_LISTEN_URL");
    if (prepare != NULL && strcmp(prepare, "1") != 0 && strcmp(prepare, "0") != 0)
        return cs_fail(err, CS_EINVAL, "CLAW_SYNC_HUB_DATABASE_PREPARE is \"%.50s\"; it is 1 or 0", prepare);
    c->postgres =
        (struct cs_store_postgres_options){ .url = url,
                                            .listen = listen,
                                            .connections = connections == 0 ? CONNECTIONS : (unsigned)connections,
                                            .partitions = (unsigned)partitions };
    c->poll_ms = poll_s > 0 ? (uint32_t)poll_s * 1000 : listen != NULL ? POLL_S * 1000 : POLL_ALONE_MS;
    if (prepare != NULL)
        c->postgres.prepare = prepare[0] == '1' ? 1 : -1;
    return CS_OK;
}

/* The same, or a port of this machine alone. */
static int admin_parse(struct cs_hub_config *c, const char *text, struct cs_error *err)
{
    char local[32];
    int rc;

    if (text == NULL)
        return CS_OK;
    if (all_digits(text, 5)) {
        snprintf(local, sizeof local, "127.0.0.1:%s", text);
        text = local;
    }
    if ((rc = address_parse(&c->admin, text, err)) != CS_OK)
        return rc;
    if (c->admin_token != NULL && strlen(c->admin_token) < TOKEN_MIN)
        return cs_fail(err, CS_EINVAL, "CLAW_SYNC_ADMIN_TOKEN has %zu characters; it needs %d random ones or more",
                       strlen(c->admin_token), TOKEN_MIN);
    if (c->admin_token == NULL && !c->admin.loopback)
        return cs_fail(err, CS_EINVAL,
                       "the admin port on \"%s\" could be reached from elsewhere; set CLAW_SYNC_ADMIN_TOKEN, or "
                       "give a loopback address",
                       c->admin.host);
    return CS_OK;
}

static int log_parse(struct cs_hub_config *c, cs_getenv *env, struct cs_error *err)
{
    const char *level = variable(env, "CLAW_LOG_LEVEL"), *format = variable(env, "CLAW_LOG_FORMAT");

    c->log_level = CS_LOG_INFO;
    if (level != NULL && !cs_log_level_parse(&c->log_level, level))
        return cs_fail(err, CS_EINVAL, "CLAW_LOG_LEVEL is \"%.50s\"; it is error, warn, info or debug", level);
    c->log_json = format != NULL && strcmp(format, "json") == 0;
    if (format != NULL && !c->log_json && strcmp(format, "text") != 0)
        return cs_fail(err, CS_EINVAL, "CLAW_LOG_FORMAT is \"%.50s\"; it is text or json", format);
    return CS_OK;
}

static int database_parse(struct cs_hub_config *c, cs_getenv *env, const char *url, struct cs_error *err)
{
    int n;

    if (url != NULL && (strncmp(url, "postgres://", 11) == 0 || strncmp(url, "postgresql://", 13) == 0))
        return postgres_parse(c, env, url, err);
    if (url != NULL && (strncmp(url, "sqlite:", 7) != 0 || url[7] == '\0'))
        return cs_fail(err, CS_EINVAL,
                       "the database's URL is of no kind that this build knows; give sqlite:PATH or "
                       "postgresql://USER:PASSWORD@HOST/DATABASE");
    if (url != NULL)
        n = snprintf(c->database, sizeof c->database, "%s", url + 7);
    else
        n = snprintf(c->database, sizeof c->database, "%s/hub.db", c->data_dir);
    return n > 0 && (size_t)n < sizeof c->database ? CS_OK
                                                   : cs_fail(err, CS_EINVAL, "the path of the database is too long");
}

int cs_hub_config_database(struct cs_hub_config *out, cs_getenv *env, const char *url, struct cs_error *err)
{
    *out = (struct cs_hub_config){ 0 };
    return database_parse(out, env, url, err);
}

static int seed_check(const struct cs_hub_config *c, struct cs_error *err)
{
    if (c->key_seed == NULL)
        return CS_OK;
    if (strlen(c->key_seed) < SEED_MIN)
        return cs_fail(err, CS_EINVAL, "CLAW_SYNC_SERVER_KEY_SEED has %zu bytes; it needs %d random ones or more",
                       strlen(c->key_seed), SEED_MIN);
    if (strcmp(c->key_seed, default_seed) == 0 && !c->listen.loopback)
        return cs_fail(err, CS_EINVAL,
                       "CLAW_SYNC_SERVER_KEY_SEED is the public default, which only a hub on a "
                       "loopback address may use; set a secret one, or unset it");
    return CS_OK;
}

static int connections_parse(struct cs_hub_config *c, cs_getenv *env, struct cs_error *err)
{
    uint64_t all, one;
    int rc;

    if ((rc = number(&all, env, "CLAW_SYNC_CONNECTIONS", CLIENTS, 1, CLIENTS_MAX, "the most there may be", err)) !=
            CS_OK ||
        (rc = number(&one, env, "CLAW_SYNC_CONNECTIONS_PER_ADDRESS", PER_ADDRESS, 1, CLIENTS_MAX, "no limit", err)) !=
            CS_OK)
        return rc;
    c->connections = all == 0 ? CLIENTS_MAX : (uint32_t)all;
    c->connections_per_address = one == 0 ? CLIENTS_MAX : (uint32_t)one;
    return CS_OK;
}

int cs_hub_config_read(struct cs_hub_config *out, cs_getenv *env, const char *listen, const char *admin,
                       const char *data_dir, struct cs_error *err)
{
    uint64_t devices;
    int n, rc;

    *out = (struct cs_hub_config){ .cert_file = variable(env, "CLAW_SYNC_TLS_CERT"),
                                   .key_file = variable(env, "CLAW_SYNC_TLS_KEY"),
                                   .key_seed = variable(env, "CLAW_SYNC_SERVER_KEY_SEED"),
                                   .admin_token = variable(env, "CLAW_SYNC_ADMIN_TOKEN") };
    if ((rc = flag(&out->behind_proxy, env, "CLAW_SYNC_HUB_BEHIND_PROXY", err)) != CS_OK)
        return rc;
    if ((rc = quota(&devices, env, "CLAW_SYNC_QUOTA_DEVICES", QUOTA_DEVICES, 256, err)) != CS_OK ||
        (rc = quota(&out->quota_bytes, env, "CLAW_SYNC_QUOTA_BYTES", QUOTA_BYTES, QUOTA_MAX, err)) != CS_OK ||
        (rc = quota(&out->quota_bytes_per_s, env, "CLAW_SYNC_QUOTA_BYTES_PER_SECOND", QUOTA_RATE, QUOTA_RATE_MAX,
                    err)) != CS_OK ||
        (rc = pruning_parse(out, env, err)) != CS_OK)
        return rc;
    out->quota_devices = (uint32_t)devices;
    if (listen == NULL && (listen = variable(env, "CLAW_LISTEN_ADDR")) == NULL)
        listen = "0.0.0.0:50051";
    if (data_dir == NULL && (data_dir = variable(env, "CLAW_SYNC_SERVER_DATA_DIR")) == NULL)
        data_dir = ".claw-sync-server";
    if ((rc = address_parse(&out->listen, listen, err)) != CS_OK ||
        (rc = admin_parse(out, admin != NULL ? admin : variable(env, "CLAW_SYNC_ADMIN_ADDR"), err)) != CS_OK ||
        (rc = connections_parse(out, env, err)) != CS_OK || (rc = log_parse(out, env, err)) != CS_OK)
        return rc;
    n = snprintf(out->data_dir, sizeof out->data_dir, "%s", data_dir);
    if (n <= 0 || (size_t)n >= sizeof out->data_dir)
        return cs_fail(err, CS_EINVAL, "the path of the data directory is empty or too long");
    if ((rc = database_parse(out, env, variable(env, "CLAW_SYNC_HUB_DATABASE_URL"), err)) != CS_OK)
        return rc;
    if ((out->cert_file == NULL) != (out->key_file == NULL))
        return cs_fail(err, CS_EINVAL, "CLAW_SYNC_TLS_CERT and CLAW_SYNC_TLS_KEY go together; only one of them is set");
    return seed_check(out, err);
}

int cs_hub_config_key(const struct cs_hub_config *c, struct cs_world *world, uint8_t seed[32], struct cs_error *err)
{
    const struct cs_file_ops *files = world->files.ops;
    struct cs_rng rng = { .world = world };
    struct cs_buf key = { 0 };
    uint8_t fresh[KEY_LEN];
    char path[4096];
    int rc;

    if (c->key_seed != NULL) {
        cs_hash_label("hub sign", cs_slice_str(c->key_seed), seed);
        return CS_OK;
    }
    snprintf(path, sizeof path, "%s/hub.key", c->data_dir);
    rc = files->read(world->files.self, path, KEY_LEN, &key, err);
    if (rc == CS_ENOTFOUND) {
        cs_random(&rng, fresh, sizeof fresh);
        rc = files->write_new(world->files.self, path, cs_slice(fresh, sizeof fresh), 0600, err);
        if (rc == CS_OK)
            cs_buf_put(&key, fresh, sizeof fresh);
        else if (rc == CS_EEXIST) /* another hub was faster */
            rc = files->read(world->files.self, path, KEY_LEN, &key, err);
        cs_wipe(fresh, sizeof fresh);
    }
    if (rc == CS_OK && key.len != KEY_LEN)
        rc = cs_fail(err, CS_ECORRUPT, "\"%s\" is not a hub key: it has %zu bytes, not %d", path, key.len, KEY_LEN);
    if (rc == CS_OK)
        cs_hash_label("hub sign", cs_buf_slice(&key), seed);
    if (key.data != NULL)
        cs_wipe(key.data, key.len);
    cs_buf_free(&key);
    return rc;
}
