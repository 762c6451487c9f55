/* One table says of each field its names, type, range and default; everything else walks it. */
#include "engine/config.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

enum type { TEXT, UUID, URL, PIN, PADDING, BOOL, NUMBER };

static const struct field {
    const char *name, *variable;
    enum type type;
    size_t at;
    uint32_t min, max;
    const char *text;
    uint32_t number;
} fields[] = {
#define AT(f) offsetof(clawsync_config, f)
    { "workspace_id", "CLAW_WORKSPACE_ID", UUID, AT(workspace_id), 0, 0, NULL, 0 },
    { "device_id", "CLAW_DEVICE_ID", UUID, AT(device_id), 0, 0, NULL, 0 },
    { "hub_endpoint", "CLAW_HUB_ENDPOINT", URL, AT(hub_endpoint), 0, 0, "http://localhost:50051", 0 },
    { "data_dir", "CLAW_DATA_DIR", TEXT, AT(data_dir), 0, 0, ".claw-sync", 0 },
    { "db_path", "CLAW_DB_PATH", TEXT, AT(db_path), 0, 0, "claw_sync.db", 0 },
    { "tables", "CLAW_SYNC_TABLES", TEXT, AT(tables), 0, 0, NULL, 0 },
    { "load_extension", "CLAW_SYNC_LOAD_EXTENSION", TEXT, AT(load_extension), 0, 0, NULL, 0 },
    { "tls_ca_file", "CLAW_TLS_CA_FILE", TEXT, AT(tls_ca_file), 0, 0, NULL, 0 },
    { "tls_pin_sha256", "CLAW_TLS_PIN_SHA256", PIN, AT(tls_pin_sha256), 0, 0, NULL, 0 },
    { "tls_enabled", "CLAW_TLS_ENABLED", BOOL, AT(tls_enabled), 0, 1, NULL, 0 },
    { "connect_timeout_secs", "CLAW_CONNECT_TIMEOUT_SECS", NUMBER, AT(connect_timeout_secs), 1, 3600, NULL, 10 },
    { "request_timeout_secs", "CLAW_REQUEST_TIMEOUT_SECS", NUMBER, AT(request_timeout_secs), 1, 3600, NULL, 30 },
    { "sync_interval_secs", "CLAW_SYNC_INTERVAL_SECS", NUMBER, AT(sync_interval_secs), 1, 604800, NULL, 30 },
    { "heartbeat_interval_secs", "CLAW_HEARTBEAT_INTERVAL_SECS", NUMBER, AT(heartbeat_interval_secs), 1, 86400, NULL,
      15 },
    { "max_retries", "CLAW_MAX_RETRIES", NUMBER, AT(max_retries), 0, 1000, NULL, 5 },
    { "retry_base_ms", "CLAW_RETRY_BASE_MS", NUMBER, AT(retry_base_ms), 1, 30000, NULL, 500 },
    { "max_delta_rows", "CLAW_MAX_DELTA_ROWS", NUMBER, AT(max_delta_rows), 1, 100000, NULL, 1000 },
    { "max_chunk_bytes", "CLAW_MAX_CHUNK_BYTES", NUMBER, AT(max_chunk_bytes), 1024, 1048576, NULL, 65536 },
    { "max_pull_chunks", "CLAW_MAX_PULL_CHUNKS", NUMBER, AT(max_pull_chunks), 1, 1000000, NULL, 128 },
    { "max_push_inflight", "CLAW_MAX_PUSH_INFLIGHT", NUMBER, AT(max_push_inflight), 1, 64, NULL, 4 },
    { "compact_after", "CLAW_COMPACT_AFTER", NUMBER, AT(compact_after), 0, 1000000000, NULL, 4096 },
    { "allow_plaintext", "CLAW_ALLOW_PLAINTEXT", BOOL, AT(allow_plaintext), 0, 1, NULL, 0 },
    { "padding", "CLAW_SYNC_PADDING", PADDING, AT(padding), 0, 0, "padme", 0 },
#undef AT
};
enum { NFIELDS = sizeof fields / sizeof fields[0] };

static const char **text_of(clawsync_config *c, const struct field *f)
{
    return (const char **)(void *)((char *)c + f->at);
}
static uint32_t *number_of(clawsync_config *c, const struct field *f)
{
    return (uint32_t *)(void *)((char *)c + f->at);
}
static bool is_text(const struct field *f)
{
    return f->type <= PADDING;
}

void clawsync_config_init(clawsync_config *c)
{
    *c = (clawsync_config){ .size = sizeof *c };
    for (int i = 0; i < NFIELDS; i++) {
        if (is_text(&fields[i]))
            *text_of(c, &fields[i]) = fields[i].text;
        else if (fields[i].type == NUMBER)
            *number_of(c, &fields[i]) = fields[i].number;
    }
}

static bool parse_port(const char *s, uint16_t *out)
{
    unsigned long v = 0;
    size_t n = 0;

    for (; s[n] >= '0' && s[n] <= '9' && n < 6; n++)
        v = v * 10 + (unsigned long)(s[n] - '0');
    *out = (uint16_t)v;
    return n > 0 && s[n] == '\0' && v > 0 && v <= 65535;
}

int cs_endpoint_parse(struct cs_endpoint *out, const char *url, struct cs_error *err)
{
    const char *host, *end, *port;
    size_t n;

    *out = (struct cs_endpoint){ 0 };
    if (strncasecmp(url, "https://", 8) == 0)
        out->tls = true;
    else if (strncasecmp(url, "http://", 7) != 0)
        goto bad;
    host = url + (out->tls ? 8 : 7);
    if (*host == '[') {
        if ((end = strchr(++host, ']')) == NULL)
            goto bad;
        port = end + 1;
    } else {
        port = end = host + strcspn(host, ":/");
    }
    n = (size_t)(end - host);
    if (n == 0 || n > CS_HOST_MAX)
        goto bad;
    for (size_t i = 0; i < n; i++)
        if (host[i] <= ' ' || host[i] > '~' || strchr("/?#@\\\"'<>", host[i]) != NULL)
            goto bad;
    memcpy(out->host, host, n);
    out->port = out->tls ? 443 : 80;
    if (*port == ':' && !parse_port(port + 1, &out->port))
        goto bad;
    if (*port != ':' && *port != '\0')
        goto bad;
    return CS_OK;
bad:
    return cs_fail(err, CS_EINVAL, "\"%.200s\" is not http://host:port or https://host:port, without a path", url);
}

int cs_endpoints_parse(struct cs_endpoints *out, const char *urls, struct cs_error *err)
{
    char url[CS_HOST_MAX + 32];

    *out = (struct cs_endpoints){ 0 };
    for (const char *at = urls, *end;; at = end + 1) {
        size_t n;
        int rc;

        at += strspn(at, " ");
        end = at + strcspn(at, ",");
        for (n = (size_t)(end - at); n > 0 && at[n - 1] == ' ';)
            n--;
        if (n >= sizeof url)
            return cs_fail(err, CS_EINVAL, "\"%.200s\" is not http://host:port or https://host:port, without a path",
                           at);
        if (out->n == CS_HUBS_MAX)
            return cs_fail(err, CS_EINVAL, "there are more than %d hubs in the list", CS_HUBS_MAX);
        memcpy(url, at, n);
        url[n] = '\0';
        if ((rc = cs_endpoint_parse(&out->of[out->n], url, err)) != CS_OK)
            return rc;
        out->n++;
        if (*end == '\0')
            return CS_OK;
    }
}

bool cs_endpoint_is_local(const struct cs_endpoint *ep)
{
    return strcasecmp(ep->host, "localhost") == 0 || strcmp(ep->host, "::1") == 0 ||
           (strncmp(ep->host, "127.", 4) == 0 && ep->host[strspn(ep->host, "0123456789.")] == '\0');
}

static bool is_hex64(const char *s)
{
    uint8_t pin[32];

    return cs_unhex(pin, sizeof pin, s);
}

/* Is the text a value of such a field? `called` is the name that the user knows it by. */
static int check_text(const struct field *f, const char *called, const char *v, struct cs_error *err)
{
    struct cs_endpoints hubs;
    struct cs_uuid id;

    if (f->type == UUID && (!cs_uuid_parse(&id, v) || cs_uuid_is_zero(&id)))
        return cs_fail(err, CS_EINVAL, "%s: \"%.100s\" is not a UUID", called, v);
    if (f->type == URL && cs_endpoints_parse(&hubs, v, err) != CS_OK) {
        cs_fail_context(err, "%s", called);
        return CS_EINVAL;
    }
    if (f->type == PIN && !is_hex64(v))
        return cs_fail(err, CS_EINVAL, "%s: \"%.100s\" is not 64 hexadecimal digits", called, v);
    if (f->type == PADDING && strcmp(v, "padme") != 0 && strcmp(v, "none") != 0)
        return cs_fail(err, CS_EINVAL, "%s: \"%.100s\" is not padme or none", called, v);
    return CS_OK;
}

static int parse_number(const struct field *f, const char *called, const char *v, uint32_t *out, struct cs_error *err)
{
    uint64_t n = 0;
    size_t i = 0;

    for (; v[i] >= '0' && v[i] <= '9' && i < 11; i++)
        n = n * 10 + (uint64_t)(v[i] - '0');
    if (i == 0 || v[i] != '\0' || n < f->min || n > f->max)
        return cs_fail(err, CS_EINVAL, "%s: \"%.100s\" is not a number from %u to %u", called, v, f->min, f->max);
    *out = (uint32_t)n;
    return CS_OK;
}

static int parse_bool(const char *called, const char *v, int *out, struct cs_error *err)
{
    if (strcasecmp(v, "true") == 0 || strcmp(v, "1") == 0)
        *out = 1;
    else if (strcasecmp(v, "false") == 0 || strcmp(v, "0") == 0)
        *out = 0;
    else
        return cs_fail(err, CS_EINVAL, "%s: \"%.100s\" is none of true, false, 1, 0", called, v);
    return CS_OK;
}

static int set_field(clawsync_config *c, const struct field *f, const char *called, const char *v, struct cs_error *err)
{
    int rc = CS_OK;

    if (f->type == BOOL)
        return parse_bool(called, v, (int *)(void *)((char *)c + f->at), err);
    if (f->type == NUMBER)
        return parse_number(f, called, v, number_of(c, f), err);
    if (v[0] == '\0')
        *text_of(c, f) = f->text;
    else if ((rc = check_text(f, called, v, err)) == CS_OK)
        *text_of(c, f) = v;
    return rc;
}

int clawsync_config_set(clawsync_config *c, const char *field, const char *value, clawsync_error *error)
{
    struct cs_error *err = (struct cs_error *)error;

    if (field == NULL || value == NULL)
        return cs_fail(err, CS_EINVAL, "a setting needs a name and a value");
    for (int i = 0; i < NFIELDS; i++)
        if (strcmp(fields[i].name, field) == 0 || strcmp(fields[i].variable, field) == 0)
            return set_field(c, &fields[i], field, value, err);
    if (strcmp(field, "size") == 0 || strcmp(field, "passphrase") == 0)
        return cs_fail(err, CS_EINVAL, "%s is not set from text", field);
    return cs_fail(err, CS_ENOTFOUND, "there is no setting \"%.100s\"", field);
}

int clawsync_config_from_env(clawsync_config *c, clawsync_error *err)
{
    clawsync_config_init(c);
    for (int i = 0; i < NFIELDS; i++) {
        const char *v = getenv(fields[i].variable);
        int rc;

        if (v != NULL && v[0] != '\0' &&
            (rc = set_field(c, &fields[i], fields[i].variable, v, (struct cs_error *)err)) != CS_OK)
            return rc;
    }
    return CLAWSYNC_OK;
}

static int check_field(clawsync_config *c, const struct field *f, struct cs_error *err)
{
    const char *v;

    if (is_text(f)) {
        v = *text_of(c, f);
        return v == NULL || v[0] == '\0' ? CS_OK : check_text(f, f->name, v, err);
    }
    if (f->type == NUMBER && *number_of(c, f) != 0 && (*number_of(c, f) < f->min || *number_of(c, f) > f->max))
        return cs_fail(err, CS_EINVAL, "%s: %u is not a number from %u to %u", f->name, *number_of(c, f), f->min,
                       f->max);
    return CS_OK;
}

int clawsync_config_check(const clawsync_config *c, clawsync_error *error)
{
    struct cs_error *err = (struct cs_error *)error;
    clawsync_config copy;
    int rc = CS_OK;

    if (c == NULL || c->size != sizeof *c)
        return cs_fail(err, CS_EINVAL, "the configuration is not initialised: call clawsync_config_init first");
    copy = *c;
    if (c->workspace_id == NULL || c->workspace_id[0] == '\0')
        return cs_fail(err, CS_EINVAL, "workspace_id (CLAW_WORKSPACE_ID) is required: the workspace's UUID");
    for (int i = 0; i < NFIELDS && rc == CS_OK; i++)
        rc = check_field(&copy, &fields[i], err);
    return rc;
}

const char *cs_config_data_dir(const clawsync_config *c)
{
    for (int i = 0; i < NFIELDS && (c->data_dir == NULL || c->data_dir[0] == '\0'); i++)
        if (strcmp(fields[i].name, "data_dir") == 0)
            return fields[i].text;
    return c->data_dir;
}

int cs_config_copy(clawsync_config *out, struct cs_arena *a, const clawsync_config *c, struct cs_error *err)
{
    int rc = clawsync_config_check(c, (clawsync_error *)err);

    if (rc != CS_OK)
        return rc;
    *out = *c;
    out->passphrase = NULL;
    for (int i = 0; i < NFIELDS; i++) {
        const struct field *f = &fields[i];

        if (is_text(f)) {
            const char **p = text_of(out, f);

            if (*p == NULL || (*p)[0] == '\0')
                *p = f->text;
            if (*p != NULL && (*p = cs_arena_str(a, *p)) == NULL)
                return cs_fail(err, CS_ENOMEM, "out of memory");
        } else if (f->type == NUMBER && *number_of(out, f) == 0 && f->min > 0) {
            *number_of(out, f) = f->number;
        }
    }
    if (c->passphrase != NULL && c->passphrase[0] != '\0' && (out->passphrase = cs_arena_str(a, c->passphrase)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    return CS_OK;
}
