/* What the checks of `claw-sync doctor` know about the world around a database. */
#ifndef CS_CLI_DOCTOR_H
#define CS_CLI_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>

/* Does this SQLite have the bug for which a WAL that is reset at the wrong moment corrupts the database
 * (https://sqlite.org/wal.html#walresetbug)? version: as sqlite3_libversion_number(). */
bool cs_sqlite_has_wal_reset_bug(int version);
/* The type of the file system that holds the path, from the text of /proc/self/mountinfo; empty: unknown. */
void cs_file_system_of(const char *mountinfo, const char *path, char out[32]);
bool cs_is_network_file_system(const char *type);
/* The name of the component that makes this the folder of a program that copies files between machines, or NULL. It
 * points into path; *len bytes of it. */
const char *cs_copied_folder(const char *path, size_t *len);

#endif
