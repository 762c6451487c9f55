/* Writing as the application would: our own connection writes unseen by the triggers that log. */
#include "base/sqlite_code.h"
#include "replica/apply.h"

int cs_application_fail(sqlite3 *db, const char *what, struct cs_error *err)
{
    int rc = sqlite3_errcode(db);
    int code = (rc & 0xff) == SQLITE_CONSTRAINT ? CS_EINVAL : cs_sqlite_code(rc);

    return cs_fail(err, code, "%s: %s", what, sqlite3_errmsg(db));
}

int cs_application_open(sqlite3 **db, const struct cs_replica_options *o, struct cs_error *err)
{
    int rc = CS_OK;

    if (sqlite3_open_v2(o->path, db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        rc = *db == NULL ? cs_fail(err, CS_ENOMEM, "out of memory")
                         : cs_application_fail(*db, "cannot open the database", err);
    if (rc == CS_OK)
        rc = cs_db_load_extension(*db, o->load_extension, err);
    if (rc != CS_OK)
        return rc;
    sqlite3_busy_timeout(*db, o->busy_timeout_ms == 0 ? 5000 : (int)o->busy_timeout_ms);
    if (sqlite3_exec(*db, "PRAGMA foreign_keys=ON; BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        rc = cs_application_fail(*db, "cannot write to the database", err);
    return rc;
}

int cs_application_close(sqlite3 *db, int rc, struct cs_error *err)
{
    if (rc == CS_OK && sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        rc = cs_application_fail(db, "cannot write to the database", err);
    sqlite3_close(db);
    return rc;
}
