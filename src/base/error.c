#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct code_info {
    const char *name;
    bool transient;
} codes[] = {
    [-CS_OK] = { "ok", false },
    [-CS_ENOMEM] = { "no-memory", true },
    [-CS_EIO] = { "io", true },
    [-CS_EINVAL] = { "invalid", false },
    [-CS_ECORRUPT] = { "corrupt", false },
    [-CS_EBUSY] = { "busy", true },
    [-CS_ENOTFOUND] = { "not-found", false },
    [-CS_EEXIST] = { "exists", false },
    [-CS_EAUTH] = { "auth", false },
    [-CS_EUNAVAILABLE] = { "unavailable", true },
    [-CS_ETIMEDOUT] = { "timed-out", true },
    [-CS_ECANCELED] = { "canceled", false },
    [-CS_EDB] = { "database", false },
    [-CS_EVERSION] = { "newer-version", false },
    [-CS_EABORTED] = { "aborted", true },
    [-CS_ECLOCK] = { "clock", false },
    [-CS_ELIMIT] = { "limit", true },
    [-CS_EUNSUPPORTED] = { "unsupported", false },
    [-CS_EHUB] = { "hub-misbehaved", false },
    [-CS_EINTERNAL] = { "internal", false },
};
enum { NCODES = sizeof codes / sizeof codes[0] };

static const struct code_info *info(int code)
{
    if (code > 0 || code <= -(int)NCODES)
        return &codes[-CS_EINTERNAL];
    return &codes[-code];
}

int(cs_fail)(struct cs_error *err, int code, const char *fmt, ...)
{
    va_list ap;

    if (err == NULL)
        return code;
    err->code = code;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    return code;
}

int cs_fail_context(struct cs_error *err, const char *fmt, ...)
{
    char head[sizeof err->msg];
    va_list ap;
    size_t n, keep;

    if (err == NULL)
        return CS_EINTERNAL;
    va_start(ap, fmt);
    vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    n = strlen(head);
    if (n + 2 >= sizeof err->msg)
        return err->code;
    keep = strlen(err->msg);
    if (keep > sizeof err->msg - n - 3)
        keep = sizeof err->msg - n - 3;
    memmove(err->msg + n + 2, err->msg, keep);
    memcpy(err->msg, head, n);
    memcpy(err->msg + n, ": ", 2);
    err->msg[n + 2 + keep] = '\0';
    return err->code;
}

bool cs_code_is_transient(int code)
{
    return info(code)->transient;
}

const char *cs_code_name(int code)
{
    return info(code)->name;
}
