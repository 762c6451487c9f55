/* Commands on the membership of the workspace. */
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"
#include "crypto/keys.h"
#include "engine/engine.h"
#include "identity/code.h"

int cs_cli_read_line(char *out, size_t size, clawsync_error *err)
{
    size_t n = 0;
    char ch = 0;

    while (n + 1 < size && read(STDIN_FILENO, &ch, 1) == 1 && ch != '\n')
        if (ch != '\r')
            out[n++] = ch;
    out[n] = '\0';
    if (n > 0 && n + 1 < size)
        return CLAWSYNC_OK;
    return cs_fail((struct cs_error *)err, CS_EINVAL,
                   n == 0 ? "nothing came on standard input" : "the line is too long");
}

/* ---- invite ---- */

static void print_code(const struct cs_cli *c, const char *code)
{
    uint32_t secs = c->expires_secs == 0 ? 24 * 60 * 60 : c->expires_secs;

    if (c->json) {
        cs_cli_json(json_pack("{s:s}", "code", code));
        return;
    }
    if ((c->qr || isatty(STDOUT_FILENO) == 1) && !c->quiet)
        cs_cli_qr(code);
    printf("%s\n", code);
    cs_cli_say(c, "one device joins with it, within %u %s: claw-sync join CODE",
               secs % 3600 == 0 ? secs / 3600 : secs / 60, secs % 3600 == 0 ? "hours" : "minutes");
    cs_cli_say(c, "it is a password: show it to nobody else");
    fflush(stdout);
}

int cs_cmd_invite(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    char *code = NULL;
    clawsync_error err;
    int rc;

    if ((rc = cs_crypto_init((struct cs_error *)&err)) == CS_OK && (code = cs_secret_alloc(CLAWSYNC_CODE_MAX)) == NULL)
        rc = cs_fail((struct cs_error *)&err, CS_ENOMEM, "out of memory");
    if (rc == CS_OK && (rc = cs_cli_open_member(c, &e, &err)) == CS_OK)
        rc = clawsync_engine_invite(e, c->expires_secs, code, CLAWSYNC_CODE_MAX, &err);
    clawsync_engine_close(e);
    if (rc == CS_OK) {
        c->made = "the invite is open all the same: claw-sync devices lists it, claw-sync devices revoke removes it";
        print_code(c, code);
    }
    cs_secret_free(code);
    return rc == CS_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}

/* ---- join ---- */

/* What the code says of workspace and hub, where the configuration says nothing. */
static int settings_of_code(struct cs_cli *c, const char *text, clawsync_error *err)
{
    struct cs_invite_code code = { 0 };
    char value[CS_CODE_HOST_MAX + 16], have[CS_UUID_TEXT], pin[65];
    clawsync_config *f = &c->config, unset;
    int rc = cs_invite_code_parse(&code, text, (struct cs_error *)err);

    cs_wipe(code.secret, sizeof code.secret);
    if (rc == CS_ECORRUPT) /* mistyped: wrong use */
        rc = err->code = CLAWSYNC_EINVAL;
    if (rc != CS_OK)
        return rc;
    cs_uuid_text(have, &code.workspace);
    if (f->workspace_id == NULL || f->workspace_id[0] == '\0')
        f->workspace_id = cs_arena_str(&c->strings, have);
    else if (strcasecmp(f->workspace_id, have) != 0)
        return cs_fail((struct cs_error *)err, CS_EINVAL,
                       "the code is of workspace %s, workspace_id (CLAW_WORKSPACE_ID) says %s; leave it out to join",
                       have, f->workspace_id);
    clawsync_config_init(&unset);
    if (f->hub_endpoint == unset.hub_endpoint) { /* nobody said one: it is the default's own text */
        snprintf(value, sizeof value, "%s://%s", code.tls ? "https" : "http", code.hub);
        f->hub_endpoint = cs_arena_str(&c->strings, value);
        cs_hex(pin, code.pin, sizeof code.pin);
        if (code.has_pin && f->tls_pin_sha256 == NULL)
            f->tls_pin_sha256 = cs_arena_str(&c->strings, pin);
    }
    return f->workspace_id == NULL || f->hub_endpoint == NULL
               ? cs_fail((struct cs_error *)err, CS_ENOMEM, "out of memory")
               : CS_OK;
}

int cs_cli_say_joined(const struct cs_cli *c)
{
    if (c->json)
        cs_cli_json(json_pack("{s:s, s:s}", "joined", c->config.workspace_id, "hub_endpoint", c->config.hub_endpoint));
    cs_cli_say(c, "joined workspace %s; from now on run claw-sync with", c->config.workspace_id);
    cs_cli_say(c, "CLAW_WORKSPACE_ID=%s CLAW_HUB_ENDPOINT=%s", c->config.workspace_id, c->config.hub_endpoint);
    return CS_EXIT_DONE;
}

int cs_cmd_join(struct cs_cli *c)
{
    enum { LINE_MAX_BYTES = 2 * CLAWSYNC_CODE_MAX };
    clawsync_engine *e = NULL;
    char *line = NULL;
    clawsync_error err;
    const char *code = c->args[0];
    int rc;

    if (code == NULL)
        return cs_cli_join_waiting(c);
    rc = cs_crypto_init((struct cs_error *)&err);
    if (rc == CS_OK && strcmp(code, "-") == 0) {
        if ((line = cs_secret_alloc(LINE_MAX_BYTES)) == NULL)
            rc = cs_fail((struct cs_error *)&err, CS_ENOMEM, "out of memory");
        else
            rc = cs_cli_read_line(line, LINE_MAX_BYTES, &err);
        code = line;
    }
    if (rc == CS_OK && (rc = settings_of_code(c, code, &err)) == CS_OK && (rc = cs_cli_open(c, &e, &err)) == CS_OK)
        rc = clawsync_engine_join(e, code, &err);
    clawsync_engine_close(e);
    cs_secret_free(line);
    return rc == CS_OK ? cs_cli_say_joined(c) : cs_cli_fail(c, &err);
}
