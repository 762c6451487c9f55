/* The meaning of SQLite's result codes in our own error codes, one table for every database file of ours. */
#ifndef CS_BASE_SQLITE_CODE_H
#define CS_BASE_SQLITE_CODE_H

/* The error code (error.h) for a result code of SQLite, primary or extended: CS_EBUSY, CS_ENOMEM, CS_EIO, CS_ECORRUPT,
 * and CS_EDB for the rest, broken constraints included. Pure; any thread. */
int cs_sqlite_code(int rc);

#endif
