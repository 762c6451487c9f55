/* Logging through a hook. The library itself never prints. An event line is an id followed by key=value pairs;
 * keys, payloads, passwords and names from inside a workspace never appear in one. Thread-safe once set. */
#ifndef CS_BASE_LOG_H
#define CS_BASE_LOG_H

enum cs_log_level { CS_LOG_ERROR, CS_LOG_WARN, CS_LOG_INFO, CS_LOG_DEBUG };

typedef void (*cs_log_fn)(void *arg, enum cs_log_level level, const char *line);

/* Sets the hook of this process (NULL: drop all) and the highest level that reaches it. Call before any thread. */
void cs_log_set(cs_log_fn fn, void *arg, enum cs_log_level max);
__attribute__((format(printf, 2, 3))) void cs_log(enum cs_log_level level, const char *fmt, ...);
/* "error", "warn", "info", "debug". */
const char *cs_log_level_name(enum cs_log_level level);

#endif
