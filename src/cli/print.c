#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "crdt/value.h"

void cs_cli_say(const struct cs_cli *c, const char *fmt, ...)
{
    va_list ap;

    if (c->quiet || c->json)
        return;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
}

void cs_cli_warn(void *cli, const char *sentence)
{
    const struct cs_cli *c = cli;

    if (!c->quiet)
        fprintf(stderr, "claw-sync: warning: %s\n", sentence);
}

bool cs_cli_wrong_passphrase(const clawsync_error *err)
{
    return err->code == CLAWSYNC_EAUTH && strstr(err->msg, "wrong passphrase") != NULL;
}

static int exit_code(const clawsync_error *err)
{
    if (cs_cli_wrong_passphrase(err))
        return CS_EXIT_USAGE;
    switch (err->code) {
    case CLAWSYNC_OK:
        return CS_EXIT_DONE;
    case CLAWSYNC_EINVAL:
    case CLAWSYNC_ENOTFOUND:
    case CLAWSYNC_EEXIST:
        return CS_EXIT_USAGE;
    case CLAWSYNC_EUNAVAILABLE:
    case CLAWSYNC_ETIMEDOUT:
        return CS_EXIT_OFFLINE;
    case CLAWSYNC_EHUB:
        return CS_EXIT_HUB;
    default:
        return CS_EXIT_FAILED;
    }
}

const char *cs_cli_advice(const clawsync_error *err)
{
    static const struct {
        int code;
        const char *found, *advice;
    } all[] = {
        { CLAWSYNC_EUNAVAILABLE, "wrong version number",
          "; no TLS is spoken there: is hub_endpoint (CLAW_HUB_ENDPOINT) right, or is http:// meant?" },
        { CLAWSYNC_EUNAVAILABLE, "broke HTTP/2",
          "; no claw-sync hub answers like that: is hub_endpoint (CLAW_HUB_ENDPOINT) right?" },
        { CLAWSYNC_EBUSY, "database is locked",
          "; another program has had a transaction open on it for long: try again when that is over" },
    };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (err->code == all[i].code && strstr(err->msg, all[i].found) != NULL)
            return all[i].advice;
    return "";
}

int cs_cli_fail(const struct cs_cli *c, const clawsync_error *err)
{
    char text[sizeof err->msg + 128];

    snprintf(text, sizeof text, "%s%s", err->msg, cs_cli_advice(err));
    if (c->json)
        cs_cli_json(json_pack("{s:{s:s, s:s}}", "error", "code", clawsync_code_name(err->code), "message", text));
    else
        fprintf(stderr, "claw-sync: %s\n", text);
    return exit_code(err);
}

int cs_cli_usage(const struct cs_cli *c, const char *fmt, ...)
{
    clawsync_error err = { .code = CLAWSYNC_EINVAL };
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err.msg, sizeof err.msg, fmt, ap);
    va_end(ap);
    return cs_cli_fail(c, &err);
}

void cs_cli_json(json_t *o)
{
    if (o == NULL || (json_dumpf(o, stdout, JSON_COMPACT) != 0 && ferror(stdout) == 0))
        fprintf(stderr, "claw-sync: cannot write JSON: out of memory, or text that is not UTF-8\n");
    putchar('\n');
    fflush(stdout);
    json_decref(o);
}

/* Text as a string, bytes and what is no UTF-8 as {"hex": …}. */
json_t *cs_cli_json_value(const struct cs_value *v)
{
    json_t *text;
    char *hex;

    if (v == NULL || v->type == CS_NULL)
        return json_null();
    if (v->type == CS_INTEGER)
        return json_integer(v->u.i);
    if (v->type == CS_REAL)
        return isfinite(v->u.r) ? json_real(v->u.r) : json_string(v->u.r > 0 ? "Infinity" : "-Infinity");
    if (v->type == CS_TEXT && (text = json_stringn((const char *)v->u.bytes.data, v->u.bytes.len)) != NULL)
        return text;
    if ((hex = malloc(2 * v->u.bytes.len + 1)) == NULL)
        return NULL;
    cs_hex(hex, v->u.bytes.data, v->u.bytes.len);
    text = json_pack("{s:s}", "hex", hex);
    free(hex);
    return text;
}

const char *cs_cli_time(int64_t ms, char out[32])
{
    time_t at = (time_t)(ms / 1000);
    struct tm tm;

    if (ms == 0 || localtime_r(&at, &tm) == NULL || strftime(out, 32, "%Y-%m-%d %H:%M", &tm) == 0)
        snprintf(out, 32, "-");
    return out;
}

/* A name is another device's to choose: nothing in it reaches the terminal as a control. */
const char *cs_cli_printable(const char *name, char out[64])
{
    size_t n = 0;

    for (; n < 63 && name[n] != '\0'; n++)
        out[n] = (unsigned char)name[n] < 32 || name[n] == 127 ? '?' : name[n];
    out[n] = '\0';
    return out;
}

const char *cs_cli_s(int64_t n)
{
    return n == 1 ? "" : "s";
}

const char *cs_cli_es(int64_t n)
{
    return n == 1 ? "" : "es";
}
