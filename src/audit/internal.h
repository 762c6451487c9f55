/* Inside src/audit only. */
#ifndef CS_AUDIT_INTERNAL_H
#define CS_AUDIT_INTERNAL_H

#include <sqlite3.h>

#include "audit/audit.h"

struct cs_audit {
    sqlite3 *db;
    sqlite3_stmt *insert, *last, *walk;
    struct cs_audit_owner owner;
    struct cs_buf bytes; /* scratch: row bytes */
    uint64_t sequence;
    uint8_t head[32];
};

int cs_audit_fail_db(cs_audit *a, const char *what, struct cs_error *err);
/* The row that s stands on. NULL, or what is wrong with a column. Views of s. */
const char *cs_audit_row_of(sqlite3_stmt *s, struct cs_audit_row *out);
/* a->walk, reset and bound: the rows from this one on. */
sqlite3_stmt *cs_audit_walk(cs_audit *a, uint64_t from, struct cs_error *err);

#endif
