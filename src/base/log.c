#include "base/log.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

static cs_log_fn hook;
static void *hook_arg;
static enum cs_log_level hook_max;

void cs_log_set(cs_log_fn fn, void *arg, enum cs_log_level max)
{
    hook = fn;
    hook_arg = arg;
    hook_max = max;
}

void cs_log(enum cs_log_level level, const char *fmt, ...)
{
    char line[1024];
    va_list ap;

    if (hook == NULL || level > hook_max)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    hook(hook_arg, level, line);
}

const char *cs_log_level_name(enum cs_log_level level)
{
    static const char *const names[] = { "error", "warn", "info", "debug" };

    return names[level];
}
