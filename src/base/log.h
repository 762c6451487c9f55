/* Logging through a hook. The library itself never prints. An event line is an id followed by key=value pairs;
 * keys, payloads, passwords and names from inside a workspace never appear in one. Thread-safe once set. */
#ifndef CS_BASE_LOG_H
#define CS_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum cs_log_level { CS_LOG_ERROR, CS_LOG_WARN, CS_LOG_INFO, CS_LOG_DEBUG };

typedef void (*cs_log_fn)(void *arg, enum cs_log_level level, const char *line);

/* Sets the hook of this process (NULL: drop all) and the highest level that reaches it. Call before any thread. */
void cs_log_set(cs_log_fn fn, void *arg, enum cs_log_level max);
__attribute__((format(printf, 2, 3))) void cs_log(enum cs_log_level level, const char *fmt, ...);
bool cs_log_wants(enum cs_log_level level); /* would such a line reach the hook? */
/* "error", "warn", "info", "debug". */
const char *cs_log_level_name(enum cs_log_level level);
bool cs_log_level_parse(enum cs_log_level *out, const char *name);
/* Changes the highest level while threads run. */
void cs_log_set_level(enum cs_log_level max);

struct cs_buf;
/* Appends a line as one JSON object: time (Unix ms), level, event (its first word), a field for each key=value or
 * key="value", and `message`, the whole line. A string for each, whatever is in it. */
void cs_log_json(struct cs_buf *out, int64_t now_ms, enum cs_log_level level, const char *line);

#endif
