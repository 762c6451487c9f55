#include "base/log.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/bytes.h"

static cs_log_fn hook;
static void *hook_arg;
static atomic_int hook_max;

void cs_log_set(cs_log_fn fn, void *arg, enum cs_log_level max)
{
    hook = fn;
    hook_arg = arg;
    hook_max = (int)max;
}

void cs_log_set_level(enum cs_log_level max)
{
    hook_max = (int)max;
}

bool cs_log_wants(enum cs_log_level level)
{
    return hook != NULL && (int)level <= hook_max;
}

void cs_log(enum cs_log_level level, const char *fmt, ...)
{
    char line[1024];
    va_list ap;

    if (!cs_log_wants(level))
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    hook(hook_arg, level, line);
}

static const char *const level_names[] = { "error", "warn", "info", "debug" };

const char *cs_log_level_name(enum cs_log_level level)
{
    return level_names[level];
}

bool cs_log_level_parse(enum cs_log_level *out, const char *name)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(name, level_names[i]) == 0) {
            *out = (enum cs_log_level)i;
            return true;
        }
    return false;
}

/* ---- JSON ---- */

static void json_string(struct cs_buf *out, const char *s, size_t n)
{
    cs_buf_put_u8(out, '"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c == '"' || c == '\\')
            cs_buf_printf(out, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f) /* lines are ours, and mostly ASCII; what is not stays readable as Latin-1 */
            cs_buf_printf(out, "\\u%04x", c);
        else
            cs_buf_put_u8(out, c);
    }
    cs_buf_put_u8(out, '"');
}

/* key=word or key="words" at p; the end of it, or NULL: there is none. */
static const char *json_pair(struct cs_buf *out, const char *p)
{
    size_t key = 0, value;

    while (islower((unsigned char)p[key]) || p[key] == '_')
        key++;
    if (key == 0 || p[key] != '=')
        return NULL;
    cs_buf_put_u8(out, ',');
    json_string(out, p, key);
    cs_buf_put_u8(out, ':');
    p += key + 1;
    value = *p == '"' ? strcspn(p + 1, "\"") : strcspn(p, " ");
    json_string(out, *p == '"' ? p + 1 : p, value);
    return *p != '"' ? p + value : p[1 + value] == '"' ? p + value + 2 : p + value + 1;
}

void cs_log_json(struct cs_buf *out, int64_t now_ms, enum cs_log_level level, const char *line)
{
    const char *p = line + strcspn(line, " "), *next;

    cs_buf_printf(out, "{\"time\":%" PRId64 ",\"level\":\"%s\",\"event\":", now_ms, level_names[level]);
    json_string(out, line, (size_t)(p - line));
    while (*p == ' ' && (next = json_pair(out, p + 1)) != NULL)
        p = next;
    cs_buf_put_str(out, ",\"message\":");
    json_string(out, line, strlen(line));
    cs_buf_put_str(out, "}");
}
