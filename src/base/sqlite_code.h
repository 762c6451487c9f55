/* The meaning of SQLite's result codes in our own error codes, one table for every database file of ours. */
#ifndef CS_BASE_SQLITE_CODE_H
#define CS_BASE_SQLITE_CODE_H

#include <stdbool.h>

/* The error code (error.h) for a result code of SQLite, primary or extended: CS_EBUSY, CS_ENOMEM, CS_EIO, CS_ECORRUPT,
 * and CS_EDB for the rest, broken constraints included. Pure; any thread. */
int cs_sqlite_code(int rc);

struct sqlite3;
struct cs_error;
/* Why the connection's last call failed, as sqlite3_errmsg says it; where that says no more than "disk I/O error" or
 * "unable to open database file" and the disk is full, or permission is missing, it says so. Lasts until the next call.
 */
const char *cs_sqlite_cause(struct sqlite3 *db);

/* Fails with the code and the cause of the connection's last call: "<prefix><what>: <cause>", and what to do if it is
 * that the file is damaged. Returns the code. */
int cs_sqlite_fail(struct sqlite3 *db, struct cs_error *err, const char *prefix, const char *what,
                   const char *if_damaged);

/* BEGIN IMMEDIATE. Rolling back takes memory: where that was out, the transaction that failed still stands, and is
 * rolled back now. False: the connection says why. */
bool cs_sqlite_begin(struct sqlite3 *db);

/* For a connection that was just opened. A process that dies between writing a commit to a write-ahead log and syncing
 * it leaves one that is read all the same, and may be gone after a power failure: this syncs it. False: that failed. */
bool cs_sqlite_sync_found(struct sqlite3 *db);

#endif
