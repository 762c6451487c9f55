#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"

/* The configuration's fields, for --flags, the help and the file. The library knows their types, ranges and defaults.
 */
static const struct field {
    const char *name, *variable, *arg, *help;
} fields[] = {
    { "workspace_id", "CLAW_WORKSPACE_ID", "UUID", "the workspace; required" },
    { "device_id", "CLAW_DEVICE_ID", "UUID", "this device; default: made once and kept" },
    { "hub_endpoint", "CLAW_HUB_ENDPOINT", "URL", "default http://localhost:50051; several: a list with commas" },
    { "data_dir", "CLAW_DATA_DIR", "DIR", "keys and state, default .claw-sync" },
    { "db_path", "CLAW_DB_PATH", "FILE", "the database, default claw_sync.db" },
    { "tables", "CLAW_SYNC_TABLES", "NAMES", "more tables to track, comma-separated" },
    { "load_extension", "CLAW_SYNC_LOAD_EXTENSION", "FILE", "SQLite extension that the tables need" },
    { "tls_enabled", "CLAW_TLS_ENABLED", "BOOL", "default false; https:// turns it on" },
    { "tls_ca_file", "CLAW_TLS_CA_FILE", "FILE", "PEM, default the system's" },
    { "tls_pin_sha256", "CLAW_TLS_PIN_SHA256", "HEX", "SHA-256 of the hub's public key info" },
    { "allow_plaintext", "CLAW_ALLOW_PLAINTEXT", "BOOL", "http:// to another machine; default false" },
    { "padding", "CLAW_SYNC_PADDING", "WORD", "padme, or none: the hub sees exact sizes" },
    { "connect_timeout_secs", "CLAW_CONNECT_TIMEOUT_SECS", "N", "default 10" },
    { "request_timeout_secs", "CLAW_REQUEST_TIMEOUT_SECS", "N", "default 30" },
    { "sync_interval_secs", "CLAW_SYNC_INTERVAL_SECS", "N", "default 30; the backstop, not the pace" },
    { "heartbeat_interval_secs", "CLAW_HEARTBEAT_INTERVAL_SECS", "N", "default 15" },
    { "max_retries", "CLAW_MAX_RETRIES", "N", "default 5" },
    { "retry_base_ms", "CLAW_RETRY_BASE_MS", "N", "default 500" },
    { "max_delta_rows", "CLAW_MAX_DELTA_ROWS", "N", "default 1000" },
    { "max_chunk_bytes", "CLAW_MAX_CHUNK_BYTES", "N", "default 65536" },
    { "max_pull_chunks", "CLAW_MAX_PULL_CHUNKS", "N", "default 128" },
    { "max_push_inflight", "CLAW_MAX_PUSH_INFLIGHT", "N", "default 4" },
    { "compact_after", "CLAW_COMPACT_AFTER", "N", "batches until a snapshot, default 4096; 0: never" },
};
enum { NFIELDS = sizeof fields / sizeof fields[0], FILE_MAX = 64 * 1024 };

static int fail(clawsync_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int fail(clawsync_error *err, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    err->code = CLAWSYNC_EINVAL;
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    return err->code;
}

/* "--workspace-id" is the field workspace_id. */
static const struct field *field_of_flag(const char *flag, size_t len)
{
    for (int i = 0; i < NFIELDS; i++) {
        const char *n = fields[i].name;
        size_t k = 0;

        if (strlen(n) != len)
            continue;
        while (k < len && flag[k] == (n[k] == '_' ? '-' : n[k]))
            k++;
        if (k == len)
            return &fields[i];
    }
    return NULL;
}

static const struct field *field_of_variable(const char *name)
{
    for (int i = 0; i < NFIELDS; i++)
        if (strcmp(fields[i].variable, name) == 0)
            return &fields[i];
    return NULL;
}

void cs_cli_print_options(void)
{
    printf("common options (each also as a variable, or as KEY=value in the file of --config; flag over variable over "
           "file):\n");
    for (int i = 0; i < NFIELDS; i++) {
        char flag[48];

        snprintf(flag, sizeof flag, "--%s %s", fields[i].name, fields[i].arg);
        for (char *p = flag; *p != '\0' && *p != ' '; p++)
            if (*p == '_')
                *p = '-';
        printf("  %-30s %-28s %s\n", flag, fields[i].variable, fields[i].help);
    }
    printf("  %-30s %-28s %s\n", "--config FILE", "CLAW_CONFIG_FILE", "lines of KEY=value, # begins a comment");
    printf("  %-30s %-28s %s\n", "--keystore-passphrase-fd N", "",
           "its first line opens the keystore, if that has a passphrase");
    printf("  --json                         one JSON object on standard output\n"
           "  --quiet                        nothing but errors\n"
           "  --help\n");
}

static char *trim(char *s)
{
    char *end;

    while (*s == ' ' || *s == '\t')
        s++;
    end = s + strlen(s);
    while (end > s && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r'))
        *--end = '\0';
    return s;
}

static int apply_line(struct cs_cli *c, const char *path, int lineno, char *line, clawsync_error *err)
{
    char *key = trim(line), *eq = strchr(key, '='), *value;
    size_t n;

    if (key[0] == '\0' || key[0] == '#')
        return CLAWSYNC_OK;
    if (eq == NULL)
        return fail(err, "%s:%d: not KEY=value", path, lineno);
    *eq = '\0';
    key = trim(key);
    value = trim(eq + 1);
    n = strlen(value);
    if (n >= 2 && value[0] == value[n - 1] && (value[0] == '"' || value[0] == '\'')) {
        value[n - 1] = '\0';
        value++;
    }
    if (field_of_variable(key) == NULL)
        return fail(err, "%s:%d: no such setting \"%s\"", path, lineno, key);
    if (clawsync_config_set(&c->config, key, value, err) != CLAWSYNC_OK)
        return cs_fail_context((struct cs_error *)err, "%s:%d", path, lineno);
    return CLAWSYNC_OK;
}

static int apply_file(struct cs_cli *c, const char *path, clawsync_error *err)
{
    struct cs_buf text = { 0 };
    char *copy, *line, *next;
    int lineno = 0, rc;

    rc = c->world->files.ops->read(c->world->files.self, path, FILE_MAX, &text, (struct cs_error *)err);
    if (rc == CS_OK && text.len > 0 && memchr(text.data, 0, text.len) != NULL)
        rc = fail(err, "%s: not a text file", path);
    if (rc == CS_OK) {
        cs_buf_put_u8(&text, 0);
        copy = text.failed ? NULL : cs_arena_str(&c->strings, (const char *)text.data);
        if (copy == NULL)
            rc = cs_fail((struct cs_error *)err, CS_ENOMEM, "out of memory");
        for (line = copy; rc == CS_OK && line != NULL; line = next) {
            if ((next = strchr(line, '\n')) != NULL)
                *next++ = '\0';
            rc = apply_line(c, path, ++lineno, line, err);
        }
    }
    cs_buf_free(&text);
    return rc;
}

static int apply_environment(struct cs_cli *c, clawsync_error *err)
{
    for (int i = 0; i < NFIELDS; i++) {
        const char *value = getenv(fields[i].variable);

        if (value != NULL && value[0] != '\0' &&
            clawsync_config_set(&c->config, fields[i].variable, value, err) != CLAWSYNC_OK)
            return err->code;
    }
    return CLAWSYNC_OK;
}

static int parse_expires(struct cs_cli *c, const char *value, clawsync_error *err)
{
    char *end;
    unsigned long v = strtoul(value, &end, 10);

    if (value[0] < '0' || value[0] > '9' || *end != '\0' || v < 60 || v > 31536000)
        return fail(err, "--expires \"%s\": a number of seconds from 60 to 31536000", value);
    c->expires_secs = (uint32_t)v;
    return CLAWSYNC_OK;
}

static int parse_fd(struct cs_cli *c, const char *value, clawsync_error *err)
{
    char *end;
    unsigned long v = strtoul(value, &end, 10);

    if (value[0] < '0' || value[0] > '9' || *end != '\0' || v > 65535)
        return fail(err, "--keystore-passphrase-fd \"%s\": the number of an open file descriptor", value);
    c->keystore_fd = (int)v;
    return CLAWSYNC_OK;
}

/* One option that takes a value; CLAWSYNC_ENOTFOUND: not one of ours. */
static int apply_option(struct cs_cli *c, const struct cs_cli_command *cmd, const char *flag, size_t len,
                        const char *value, clawsync_error *err)
{
    const struct field *f = field_of_flag(flag, len);

    if (f != NULL) {
        if (clawsync_config_set(&c->config, f->name, value, err) != CLAWSYNC_OK)
            return cs_fail_context((struct cs_error *)err, "--%.*s", (int)len, flag);
        return CLAWSYNC_OK;
    }
    if ((cmd->options & CS_OPT_PASSPHRASE) && len == 15 && strncmp(flag, "passphrase-file", len) == 0) {
        c->passphrase_file = value;
        return CLAWSYNC_OK;
    }
    if ((cmd->options & CS_OPT_EXPIRES) && len == 7 && strncmp(flag, "expires", len) == 0)
        return parse_expires(c, value, err);
    if ((cmd->options & CS_OPT_CHOICE) && len == 5 && strncmp(flag, "value", len) == 0) {
        c->value = value;
        return CLAWSYNC_OK;
    }
    if (len == 22 && strncmp(flag, "keystore-passphrase-fd", len) == 0)
        return parse_fd(c, value, err);
    if (len == 6 && strncmp(flag, "config", len) == 0)
        return CLAWSYNC_OK; /* read before everything else */
    return CLAWSYNC_ENOTFOUND;
}

/* The value of --config, as it must be read before the other flags. */
static const char *config_file(int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "--config=", 9) == 0)
            return argv[i] + 9;
        if (strcmp(argv[i], "--config") == 0 && i + 1 < argc)
            return argv[i + 1];
    }
    return getenv("CLAW_CONFIG_FILE");
}

static bool apply_switch(struct cs_cli *c, const struct cs_cli_command *cmd, const char *arg)
{
    if (strcmp(arg, "--json") == 0)
        c->json = true;
    else if (strcmp(arg, "--quiet") == 0 || strcmp(arg, "-q") == 0)
        c->quiet = true;
    else if ((cmd->options & CS_OPT_FORCE) && strcmp(arg, "--force") == 0)
        c->force = true;
    else if ((cmd->options & CS_OPT_QR) && strcmp(arg, "--qr") == 0)
        c->qr = true;
    else if ((cmd->options & CS_OPT_DISTRUST) && strcmp(arg, "--distrust") == 0)
        c->distrust = true;
    else if ((cmd->options & CS_OPT_REMOVE) && strcmp(arg, "--remove") == 0)
        c->remove = true;
    else if ((cmd->options & CS_OPT_STATUS) && strcmp(arg, "--local") == 0)
        c->local = true;
    else if ((cmd->options & CS_OPT_STATUS) && strcmp(arg, "--watch") == 0)
        c->watch = true;
    else if ((cmd->options & CS_OPT_CHOICE) && strcmp(arg, "--take") == 0)
        c->take = true;
    else
        return false;
    return true;
}

int cs_cli_parse(struct cs_cli *c, const struct cs_cli_command *cmd, int argc, char **argv, clawsync_error *err)
{
    const char *file = config_file(argc, argv);
    int rc;

    clawsync_config_init(&c->config);
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--json") == 0)
            c->json = true; /* so that errors of the rest are JSON too */
    if (file != NULL && file[0] != '\0' && (rc = apply_file(c, file, err)) != CLAWSYNC_OK)
        return rc;
    if ((rc = apply_environment(c, err)) != CLAWSYNC_OK)
        return rc;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i], *eq = strchr(arg, '='), *value;

        if (strncmp(arg, "--", 2) != 0 && strcmp(arg, "-q") != 0) {
            if (c->nargs == cmd->max_args)
                return fail(err, "too many arguments: \"%s\"; claw-sync %s --help tells more", arg, cmd->name);
            c->args[c->nargs++] = arg;
            continue;
        }
        if (apply_switch(c, cmd, arg))
            continue;
        value = eq != NULL ? eq + 1 : i + 1 < argc ? argv[i + 1] : NULL;
        rc = apply_option(c, cmd, arg + 2, eq != NULL ? (size_t)(eq - arg - 2) : strlen(arg + 2),
                          value != NULL ? value : "", err);
        if (rc == CLAWSYNC_ENOTFOUND)
            return fail(err, "no option \"%s\"; claw-sync %s --help lists them", arg, cmd->name);
        if (value == NULL)
            return fail(err, "option \"%s\" wants a value", arg);
        if (rc != CLAWSYNC_OK)
            return rc;
        i += eq == NULL;
    }
    if (c->nargs < cmd->min_args)
        return fail(err, "missing %s; claw-sync %s --help tells more", cmd->args, cmd->name);
    return CLAWSYNC_OK;
}
