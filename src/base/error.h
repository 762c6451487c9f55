/* Errors: a code for the program, a sentence for the person. The caller owns the struct. */
#ifndef CS_BASE_ERROR_H
#define CS_BASE_ERROR_H

#include <stdbool.h>

enum cs_code {
    CS_OK = 0,
    CS_ENOMEM = -1,
    CS_EIO = -2,           /* a file could not be read or written; disk full */
    CS_EINVAL = -3,        /* wrong use or configuration: exit code 2 */
    CS_ECORRUPT = -4,      /* bytes that are not what they claim to be */
    CS_EBUSY = -5,         /* locked by someone else; try again */
    CS_ENOTFOUND = -6,     /* no such row, file, table, workspace */
    CS_EEXIST = -7,        /* it is there already, and differs */
    CS_EAUTH = -8,         /* unknown device, wrong key, not allowed */
    CS_EUNAVAILABLE = -9,  /* the hub cannot be reached: exit code 3 */
    CS_ETIMEDOUT = -10,    /* no answer in time; the work may have been done */
    CS_ECANCELED = -11,    /* given up on request */
    CS_EDB = -12,          /* SQLite refused a statement */
    CS_EVERSION = -13,     /* written by a newer version of claw-sync */
    CS_EABORTED = -14,     /* lost a race; read the newer state, then repeat */
    CS_ECLOCK = -15,       /* a stamp too far ahead of the hub's clock */
    CS_ELIMIT = -16,       /* over a size, quota or count limit */
    CS_EUNSUPPORTED = -17, /* known, and not offered here */
    CS_EHUB = -18,         /* the hub misbehaves: exit code 4 */
    CS_EINTERNAL = -19     /* our own fault */
};

struct cs_error {
    int code;
    char msg[512];
};

/* Fills err (NULL is fine) and returns code, so that failing is one line. */
__attribute__((format(printf, 3, 4))) int cs_fail(struct cs_error *err, int code, const char *fmt, ...);

#ifdef __clang_analyzer__
/* For the analyzer, which sees one file at a time: the result is the code that was passed. */
static inline int cs_fail_code(int code)
{
    return code;
}
#define cs_fail(err, code, ...) ((void)cs_fail(err, code, __VA_ARGS__), cs_fail_code(code))
#endif

/* Puts what only the caller knows in front of the message, as "prefix: message"; returns err->code. */
__attribute__((format(printf, 2, 3))) int cs_fail_context(struct cs_error *err, const char *fmt, ...);

/* Does the same call make sense again, later, unchanged? */
bool cs_code_is_transient(int code);

/* A short stable name of a code, as "unavailable"; never NULL. */
const char *cs_code_name(int code);

#endif
