#include "base/sqlite_code.h"

#include "base/error.h"

#include <sqlite3.h>

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
