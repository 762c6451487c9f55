#include "hub/config.h"

#include <stdio.h>
#include <stdlib.h>

#include "crypto/keys.h"

enum { SEED_MIN = 32, KEY_LEN = 32 };
#define QUOTA_MAX      UINT64_C(1000000000000000) /* bytes */
#define QUOTA_RATE_MAX UINT64_C(1000000000000)    /* bytes per second */
/* What nobody's notes and memories reach, and what no single workspace can use up of a small machine. */
#define QUOTA_DEVICES UINT64_C(64)
#define QUOTA_BYTES   UINT64_C(10000000000)
#define QUOTA_RATE    UINT64_C(20000000)
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

static int quota(uint64_t *out, cs_getenv *env, const char *name, uint64_t usual, uint64_t max, struct cs_error *err)
{
    const char *v = variable(env, name);
    size_t n = v == NULL ? 0 : strspn(v, "0123456789");

    *out = v == NULL ? usual : 0;
    if (v == NULL || strcmp(v, "none") == 0)
        return CS_OK;
    if (n > 0 && n <= 18 && v[n] == '\0')
        *out = strtoull(v, NULL, 10);
    if (*out == 0 || *out > max)
        return cs_fail(err, CS_EINVAL, "%s is \"%.50s\"; it is a number from 1 to %llu, or \"none\": no limit", name, v,
                       (unsigned long long)max);
    return CS_OK;
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
static int listen_parse(struct cs_hub_config *c, const char *text, struct cs_error *err)
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

static int database_parse(struct cs_hub_config *c, const char *url, struct cs_error *err)
{
    int n;

    if (url != NULL && (strncmp(url, "postgres://", 11) == 0 || strncmp(url, "postgresql://", 13) == 0))
        return cs_fail(err, CS_EINVAL,
                       "CLAW_SYNC_HUB_DATABASE_URL names a PostgreSQL database, and this build has no "
                       "PostgreSQL store; unset it, or give sqlite:PATH");
    if (url != NULL && (strncmp(url, "sqlite:", 7) != 0 || url[7] == '\0'))
        return cs_fail(err, CS_EINVAL,
                       "CLAW_SYNC_HUB_DATABASE_URL is of no kind that this build knows; unset it, or "
                       "give sqlite:PATH");
    if (url != NULL)
        n = snprintf(c->database, sizeof c->database, "%s", url + 7);
    else
        n = snprintf(c->database, sizeof c->database, "%s/hub.db", c->data_dir);
    return n > 0 && (size_t)n < sizeof c->database ? CS_OK
                                                   : cs_fail(err, CS_EINVAL, "the path of the database is too long");
}

static int seed_check(const struct cs_hub_config *c, struct cs_error *err)
{
    if (c->key_seed == NULL)
        return CS_OK;
    if (strlen(c->key_seed) < SEED_MIN)
        return cs_fail(err, CS_EINVAL, "CLAW_SYNC_SERVER_KEY_SEED has %zu bytes; it needs %d random ones or more",
                       strlen(c->key_seed), SEED_MIN);
    if (strcmp(c->key_seed, default_seed) == 0 && !c->loopback)
        return cs_fail(err, CS_EINVAL,
                       "CLAW_SYNC_SERVER_KEY_SEED is the public default, which only a hub on a "
                       "loopback address may use; set a secret one, or unset it");
    return CS_OK;
}

int cs_hub_config_read(struct cs_hub_config *out, cs_getenv *env, const char *listen, const char *data_dir,
                       struct cs_error *err)
{
    uint64_t devices;
    int n, rc;

    *out = (struct cs_hub_config){ .cert_file = variable(env, "CLAW_SYNC_TLS_CERT"),
                                   .key_file = variable(env, "CLAW_SYNC_TLS_KEY"),
                                   .key_seed = variable(env, "CLAW_SYNC_SERVER_KEY_SEED") };
    if ((rc = flag(&out->behind_proxy, env, "CLAW_SYNC_HUB_BEHIND_PROXY", err)) != CS_OK)
        return rc;
    if ((rc = quota(&devices, env, "CLAW_SYNC_QUOTA_DEVICES", QUOTA_DEVICES, 256, err)) != CS_OK ||
        (rc = quota(&out->quota_bytes, env, "CLAW_SYNC_QUOTA_BYTES", QUOTA_BYTES, QUOTA_MAX, err)) != CS_OK ||
        (rc = quota(&out->quota_bytes_per_s, env, "CLAW_SYNC_QUOTA_BYTES_PER_SECOND", QUOTA_RATE, QUOTA_RATE_MAX,
                    err)) != CS_OK)
        return rc;
    out->quota_devices = (uint32_t)devices;
    if (listen == NULL && (listen = variable(env, "CLAW_LISTEN_ADDR")) == NULL)
        listen = "0.0.0.0:50051";
    if (data_dir == NULL && (data_dir = variable(env, "CLAW_SYNC_SERVER_DATA_DIR")) == NULL)
        data_dir = ".claw-sync-server";
    if ((rc = listen_parse(out, listen, err)) != CS_OK)
        return rc;
    n = snprintf(out->data_dir, sizeof out->data_dir, "%s", data_dir);
    if (n <= 0 || (size_t)n >= sizeof out->data_dir)
        return cs_fail(err, CS_EINVAL, "the path of the data directory is empty or too long");
    if ((rc = database_parse(out, variable(env, "CLAW_SYNC_HUB_DATABASE_URL"), err)) != CS_OK)
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
