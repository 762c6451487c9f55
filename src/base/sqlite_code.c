#include "base/sqlite_code.h"

#include "base/error.h"

#include <errno.h>
#include <sqlite3.h>
#include <stddef.h>

int cs_sqlite_code(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return CS_EBUSY;
    case SQLITE_NOMEM:
        return CS_ENOMEM;
    case SQLITE_IOERR:
    case SQLITE_FULL:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
        return CS_EIO;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return CS_ECORRUPT;
    default:
        return CS_EDB;
    }
}

const char *cs_sqlite_cause(sqlite3 *db)
{
    int error = sqlite3_system_errno(db), code = sqlite3_errcode(db) & 0xff;

    if (code == SQLITE_CANTOPEN && (error == EACCES || error == EPERM))
        return "permission denied";
    if (code == SQLITE_IOERR && (error == ENOSPC || error == EDQUOT))
        return "the disk is full";
    return sqlite3_errmsg(db);
}

int cs_sqlite_fail(sqlite3 *db, struct cs_error *err, const char *prefix, const char *what, const char *if_damaged)
{
    int code = cs_sqlite_code(sqlite3_errcode(db));
    bool damaged = code == CS_ECORRUPT;

    return cs_fail(err, code, "%s%s: %s%s%s", prefix, what, cs_sqlite_cause(db),
                   damaged ? "; the file is damaged: " : "", damaged ? if_damaged : "");
}

bool cs_sqlite_begin(sqlite3 *db)
{
    return (sqlite3_get_autocommit(db) != 0 || sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL) == SQLITE_OK) &&
           sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK;
}

/* A checkpoint begins by syncing the log. Whether it can then do more does not matter. */
bool cs_sqlite_sync_found(struct sqlite3 *db)
{
    return sqlite3_wal_checkpoint_v2(db, "main", SQLITE_CHECKPOINT_PASSIVE, NULL, NULL) == SQLITE_OK ||
           sqlite3_extended_errcode(db) != SQLITE_IOERR_FSYNC;
}
