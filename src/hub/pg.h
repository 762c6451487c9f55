/* One connection to PostgreSQL in pipeline mode, binary both ways. Nothing outside pg.c knows libpq. A connection
 * belongs to one thread at a time, and its calls block: worker threads only.
 *
 * Errors: CS_EEXIST (a unique key), CS_EBUSY (locks, deadlock, serialization, too many connections: try again), CS_EIO
 * (the connection or the server went away, disk full), CS_ECORRUPT (a result of another shape), CS_ENOMEM, CS_EDB. */
#ifndef CS_HUB_PG_H
#define CS_HUB_PG_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"

typedef struct cs_pg cs_pg;

/* A statement, a constant: prepared at its first use on a connection. */
struct cs_pg_stmt {
    const char *sql;
    unsigned nparams;
    unsigned ncols;  /* of its rows; 0: it yields none */
    const char *tag; /* the command tag that means success; NULL: any */
};
enum { CS_PG_MAX_PARAMS = 16, CS_PG_NAME = 256 };

/* Whether statements are prepared by name: a pooler that hands each transaction another server connection may not know
 * them. By default that is found out. */
enum cs_pg_prepare { CS_PG_PREPARE_AUTO, CS_PG_PREPARE_ALWAYS, CS_PG_PREPARE_NEVER };

/* What may be shown of a connection string: the password is not in it. CS_EINVAL: it is none. */
int cs_pg_name(const char *url, char out[CS_PG_NAME], struct cs_error *err);

/* stmts: all that will be used, borrowed. Also CS_EUNAVAILABLE: nobody is there, or lets us in. */
int cs_pg_open(cs_pg **out, const char *url, enum cs_pg_prepare prepare, const struct cs_pg_stmt *stmts, size_t nstmts,
               struct cs_error *err);
void cs_pg_close(cs_pg *pg); /* NULL is fine */

/* Puts a statement in line; what fails is told by the next cs_pg_run. Params are in binary format and copied. */
void cs_pg_queue(cs_pg *pg, unsigned stmt, const struct cs_slice *params);
/* Sends what is in line and waits for all of it. The first error ends the rest of the line. The rows of the last
 * statement stay readable until the next call. */
int cs_pg_run(cs_pg *pg, struct cs_error *err);
/* Sends what is in line, then stmt (without parameters) whatever became of it, and waits for nothing: the next
 * cs_pg_run passes over the results. */
void cs_pg_abandon(cs_pg *pg, unsigned stmt);
/* Between lines: several statements, as text, without parameters or rows. */
int cs_pg_script(cs_pg *pg, const char *sql, struct cs_error *err);

bool cs_pg_alive(const cs_pg *pg);
/* Why it is not, as it is known; returns err. */
const struct cs_error *cs_pg_failure(const cs_pg *pg, struct cs_error *err);
/* A pooler is in between; found out where it was opened with CS_PG_PREPARE_AUTO. */
bool cs_pg_pooled(const cs_pg *pg);
bool cs_pg_in_transaction(const cs_pg *pg); /* as of the last cs_pg_run */

/* Rows of the last statement. Columns are as many as it says; reading a wrong width yields false. */
size_t cs_pg_rows(const cs_pg *pg);
struct cs_slice cs_pg_value(const cs_pg *pg, size_t row, unsigned col); /* until the next call; NULL: empty */
bool cs_pg_bytes(const cs_pg *pg, size_t row, unsigned col, void *out, size_t n);
bool cs_pg_i64(const cs_pg *pg, size_t row, unsigned col, int64_t *out);

/* A session's notifications (LISTEN): the socket to wait on, and what came, one at a time; false: nothing more. The
 * text lasts until the next call; own: this connection has said it. */
int cs_pg_socket(const cs_pg *pg);
bool cs_pg_notified(cs_pg *pg, const char **payload, bool *own);

#endif
