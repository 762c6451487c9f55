#include "hub/pg.h"

#include <inttypes.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>

enum { INT8_LEN = 8 };

enum prepared { NOT_PREPARED, PREPARE_SENT, PREPARED };

/* What the server owes an answer to, in order. */
struct owed {
    unsigned stmt;
    bool prepare; /* the answer to a PREPARE, not to the statement itself */
};

struct cs_pg {
    PGconn *conn;
    const struct cs_pg_stmt *stmts; /* borrowed */
    uint8_t *prepared;              /* enum prepared, per statement */
    size_t nstmts;
    bool by_name, pooled;
    char name[CS_PG_NAME]; /* for messages */
    struct owed *owed;
    size_t nowed, cap;
    unsigned ends;      /* lines sent whose results nobody has looked at */
    size_t unsent;      /* statements since the last of them */
    bool broken;        /* out of memory, or the server said what cannot be: not to be used any more */
    PGresult *rows;     /* of the last statement, or NULL */
    PGnotify *notified; /* the last one given out */
};

/* ---- errors ---- */

/* By SQLSTATE: the longest prefix decides. */
static int code_of(const char *state)
{
    static const struct {
        const char *prefix;
        int code;
    } map[] = {
        { "23505", CS_EEXIST },   { "40", CS_EBUSY },       { "55P03", CS_EBUSY }, { "57014", CS_EBUSY },
        { "53300", CS_EBUSY },    { "53200", CS_ENOMEM },   { "53", CS_EIO },      { "08", CS_EIO },
        { "57P", CS_EIO },        { "58", CS_EIO },         { "25006", CS_EIO },   { "25P03", CS_EIO },
        { "XX001", CS_ECORRUPT }, { "XX002", CS_ECORRUPT },
    };

    if (state == NULL || state[0] == '\0')
        return CS_EIO; /* libpq's own: the connection */
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++)
        if (strncmp(state, map[i].prefix, strlen(map[i].prefix)) == 0)
            return map[i].code;
    return CS_EDB;
}

/* libpq's messages are lines; ours are not. */
static void one_line(char *text)
{
    size_t n = strlen(text);

    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
        text[--n] = '\0';
    for (char *p = text; *p != '\0'; p++)
        if (*p == '\n' || *p == '\t')
            *p = ' ';
}

static int fail_text(struct cs_error *err, int code, const char *name, const char *text)
{
    char line[256];

    snprintf(line, sizeof line, "%s", text == NULL ? "" : text);
    one_line(line);
    return cs_fail(err, code, "%s: %s", name, line[0] == '\0' ? "the connection is lost" : line);
}

static int fail_result(const cs_pg *pg, const PGresult *r, struct cs_error *err)
{
    const char *primary = PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);

    return fail_text(err, code_of(PQresultErrorField(r, PG_DIAG_SQLSTATE)), pg->name,
                     primary != NULL ? primary : PQresultErrorMessage(r));
}

static int fail_conn(cs_pg *pg, struct cs_error *err)
{
    pg->broken = true;
    return fail_text(err, CS_EIO, pg->name, PQerrorMessage(pg->conn));
}

/* ---- opening ---- */

static const char *option(const PQconninfoOption *o, const char *key)
{
    for (; o->keyword != NULL; o++)
        if (strcmp(o->keyword, key) == 0 && o->val != NULL)
            return o->val;
    return "";
}

static int no_url(struct cs_error *err)
{
    return cs_fail(err, CS_EINVAL,
                   "the PostgreSQL connection string cannot be read; it is "
                   "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, special characters of the password as %%XX");
}

int cs_pg_name(const char *url, char out[CS_PG_NAME], struct cs_error *err)
{
    char *why = NULL;
    PQconninfoOption *o = PQconninfoParse(url, &why);
    const char *host, *port, *user, *db;
    bool good;

    PQfreemem(why); /* it may quote what it takes for a port, and is part of the password */
    if (o == NULL)
        return no_url(err);
    host = option(o, "host");
    port = option(o, "port");
    user = option(o, "user");
    db = option(o, "dbname");
    good = strchr(db, '@') == NULL; /* else a slash within the password has ended what was taken for host and port */
    snprintf(out, CS_PG_NAME, "postgresql://%.60s%s%s%.100s%s%.12s/%.60s", user,
             option(o, "password")[0] != '\0' ? ":***" : "", user[0] != '\0' ? "@" : "", host,
             port[0] != '\0' ? ":" : "", port, db);
    PQconninfoFree(o);
    return good ? CS_OK : no_url(err);
}

static void ignore_notice(void *arg, const PGresult *r)
{
    (void)arg;
    (void)r;
}

/* Ours come first, so that the connection string wins. */
static PGconn *connect_to(const char *url)
{
    static const char *const keys[] = { "connect_timeout",           "keepalives_idle",  "keepalives_interval",
                                        "keepalives_count",          "tcp_user_timeout", "target_session_attrs",
                                        "fallback_application_name", "dbname",           NULL };
    const char *values[] = { "10", "10", "5", "3", "20000", "read-write", "claw-sync-server", url, NULL };

    return PQconnectdbParams(keys, values, 1);
}

/* A pooler gives its clients process ids of its own making. */
static bool behind_pooler(PGconn *conn)
{
    PGresult *r = PQexec(conn, "SELECT pg_backend_pid()::text");
    bool same = PQresultStatus(r) == PGRES_TUPLES_OK && PQntuples(r) == 1 && PQnfields(r) == 1 &&
                strtol(PQgetvalue(r, 0, 0), NULL, 10) == PQbackendPID(conn);

    PQclear(r);
    return !same;
}

int cs_pg_open(cs_pg **out, const char *url, enum cs_pg_prepare prepare, const struct cs_pg_stmt *stmts, size_t nstmts,
               struct cs_error *err)
{
    cs_pg *pg = calloc(1, sizeof *pg);
    int rc = CS_OK;

    *out = NULL;
    if (pg == NULL || (nstmts > 0 && (pg->prepared = calloc(nstmts, 1)) == NULL)) {
        cs_pg_close(pg);
        return cs_fail(err, CS_ENOMEM, "out of memory");
    }
    pg->stmts = stmts;
    pg->nstmts = nstmts;
    if ((rc = cs_pg_name(url, pg->name, err)) != CS_OK) {
        cs_pg_close(pg);
        return rc;
    }
    if ((pg->conn = connect_to(url)) == NULL)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    else if (PQstatus(pg->conn) != CONNECTION_OK)
        rc = fail_text(err, CS_EUNAVAILABLE, pg->name, PQerrorMessage(pg->conn));
    if (rc == CS_OK) {
        PQsetNoticeReceiver(pg->conn, ignore_notice, NULL);
        pg->pooled = prepare == CS_PG_PREPARE_AUTO && behind_pooler(pg->conn);
        pg->by_name = prepare == CS_PG_PREPARE_ALWAYS || (prepare == CS_PG_PREPARE_AUTO && !pg->pooled);
        if (PQenterPipelineMode(pg->conn) != 1)
            rc = fail_conn(pg, err);
    }
    if (rc != CS_OK) {
        cs_pg_close(pg);
        return rc;
    }
    *out = pg;
    return CS_OK;
}

void cs_pg_close(cs_pg *pg)
{
    if (pg == NULL)
        return;
    PQclear(pg->rows);
    PQfreemem(pg->notified);
    PQfinish(pg->conn);
    free(pg->prepared);
    free(pg->owed);
    free(pg);
}

bool cs_pg_alive(const cs_pg *pg)
{
    return !pg->broken && PQstatus(pg->conn) == CONNECTION_OK;
}

const struct cs_error *cs_pg_failure(const cs_pg *pg, struct cs_error *err)
{
    fail_text(err, CS_EIO, pg->name, PQerrorMessage(pg->conn));
    return err;
}

bool cs_pg_pooled(const cs_pg *pg)
{
    return pg->pooled;
}

bool cs_pg_in_transaction(const cs_pg *pg)
{
    return PQtransactionStatus(pg->conn) != PQTRANS_IDLE;
}

/* ---- the line ---- */

static bool owe(cs_pg *pg, unsigned stmt, bool prepare)
{
    size_t cap = pg->cap == 0 ? 64 : pg->cap * 2;
    struct owed *more;

    if (pg->nowed == pg->cap) {
        if ((more = realloc(pg->owed, cap * sizeof *more)) == NULL) {
            pg->broken = true;
            return false;
        }
        pg->owed = more;
        pg->cap = cap;
    }
    pg->owed[pg->nowed++] = (struct owed){ stmt, prepare };
    pg->unsent++;
    return true;
}

static void stmt_name(char out[16], unsigned stmt)
{
    snprintf(out, 16, "claw_%u", stmt);
}

static bool prepare_queue(cs_pg *pg, unsigned stmt, const char *name)
{
    if (pg->prepared[stmt] != NOT_PREPARED)
        return true;
    if (!owe(pg, stmt, true) ||
        PQsendPrepare(pg->conn, name, pg->stmts[stmt].sql, (int)pg->stmts[stmt].nparams, NULL) != 1)
        return false;
    pg->prepared[stmt] = PREPARE_SENT;
    return true;
}

void cs_pg_queue(cs_pg *pg, unsigned stmt, const struct cs_slice *params)
{
    const struct cs_pg_stmt *s = &pg->stmts[stmt];
    const char *values[CS_PG_MAX_PARAMS];
    int lengths[CS_PG_MAX_PARAMS], formats[CS_PG_MAX_PARAMS], sent;
    char name[16];

    for (unsigned i = 0; params != NULL && i < s->nparams; i++) {
        values[i] = params[i].len == 0 ? "" : (const char *)params[i].data;
        lengths[i] = (int)params[i].len;
        formats[i] = 1;
        pg->broken = pg->broken || params[i].len > INT32_MAX / 2;
    }
    if (!cs_pg_alive(pg))
        return;
    stmt_name(name, stmt);
    if (pg->by_name && !prepare_queue(pg, stmt, name)) {
        pg->broken = true;
        return;
    }
    if (!owe(pg, stmt, false))
        return;
    if (pg->by_name)
        sent = PQsendQueryPrepared(pg->conn, name, (int)s->nparams, values, lengths, formats, 1);
    else
        sent = PQsendQueryParams(pg->conn, s->sql, (int)s->nparams, NULL, values, lengths, formats, 1);
    if (sent != 1)
        pg->broken = true;
}

/* Is the result what the statement promises? */
static int result_check(const cs_pg *pg, const struct cs_pg_stmt *s, PGresult *r, struct cs_error *err)
{
    ExecStatusType status = PQresultStatus(r);
    unsigned ncols = (unsigned)PQnfields(r);

    if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
        return fail_result(pg, r, err);
    if (s->tag != NULL && strcmp(PQcmdStatus(r), s->tag) != 0)
        return cs_fail(err, CS_EIO, "%s: the server answered %s with %.20s", pg->name, s->tag, PQcmdStatus(r));
    if (ncols != s->ncols)
        return cs_fail(err, CS_ECORRUPT, "%s: a result has %u columns, not %u", pg->name, ncols, s->ncols);
    for (unsigned i = 0; i < ncols; i++)
        if (PQfformat(r, (int)i) != 1)
            return cs_fail(err, CS_ECORRUPT, "%s: a result is not in binary format", pg->name);
    return CS_OK;
}

/* One result: whose it is follows from the order. Returns the line's error so far, which is its first. */
static int result_take(cs_pg *pg, const struct owed *o, PGresult *r, int rc, struct cs_error *err)
{
    ExecStatusType status = PQresultStatus(r);
    struct cs_error *to = rc == CS_OK ? err : NULL;
    int code = CS_OK;

    if (o->prepare) {
        pg->prepared[o->stmt] = status == PGRES_COMMAND_OK ? PREPARED : NOT_PREPARED;
        if (status != PGRES_COMMAND_OK && status != PGRES_PIPELINE_ABORTED)
            code = fail_result(pg, r, to);
    } else if (status != PGRES_PIPELINE_ABORTED) {
        code = result_check(pg, &pg->stmts[o->stmt], r, to);
    }
    return rc == CS_OK ? code : rc;
}

/* Reads the results of one line up to its end. */
static int line_read(cs_pg *pg, size_t *at, bool keep, struct cs_error *err)
{
    int rc = CS_OK;
    bool gap = false;

    for (;;) {
        PGresult *r = PQgetResult(pg->conn);
        ExecStatusType status = PQresultStatus(r);

        if (r == NULL) { /* behind each statement's result; twice in a row: nothing comes any more */
            if (gap || PQstatus(pg->conn) != CONNECTION_OK) {
                pg->broken = true;
                return rc != CS_OK ? rc : fail_conn(pg, err);
            }
            gap = true;
            continue;
        }
        gap = false;
        if (status == PGRES_PIPELINE_SYNC) {
            PQclear(r);
            return rc;
        }
        if (*at >= pg->nowed) {
            pg->broken = true;
            rc = rc != CS_OK ? rc : fail_result(pg, r, err);
        } else {
            rc = result_take(pg, &pg->owed[*at], r, rc, err);
            ++*at;
        }
        PQclear(pg->rows);
        pg->rows = keep ? r : NULL;
        if (!keep)
            PQclear(r);
    }
}

static void prepares_forget(cs_pg *pg)
{
    for (size_t i = 0; i < pg->nowed; i++)
        if (pg->owed[i].prepare && pg->prepared[pg->owed[i].stmt] == PREPARE_SENT)
            pg->prepared[pg->owed[i].stmt] = NOT_PREPARED;
}

int cs_pg_run(cs_pg *pg, struct cs_error *err)
{
    size_t at = 0;
    int rc = CS_OK;

    PQclear(pg->rows);
    pg->rows = NULL;
    if (!cs_pg_alive(pg) || PQpipelineSync(pg->conn) != 1)
        return fail_conn(pg, err);
    for (; pg->ends > 0 && cs_pg_alive(pg); pg->ends--)
        (void)line_read(pg, &at, false, NULL);
    rc = cs_pg_alive(pg) ? line_read(pg, &at, true, err) : fail_conn(pg, err);
    if (rc == CS_OK && at != pg->nowed) {
        pg->broken = true;
        rc = cs_fail(err, CS_ECORRUPT, "%s: %zu of %zu statements were answered", pg->name, at, pg->nowed);
    }
    prepares_forget(pg);
    pg->nowed = pg->unsent = 0;
    if (rc != CS_OK) {
        PQclear(pg->rows);
        pg->rows = NULL;
    }
    return rc;
}

static void line_end(cs_pg *pg)
{
    if (!cs_pg_alive(pg))
        return;
    if (PQpipelineSync(pg->conn) != 1)
        pg->broken = true;
    pg->ends++;
    pg->unsent = 0;
}

/* In a line of its own: behind an error the server passes over everything up to the line's end. */
void cs_pg_abandon(cs_pg *pg, unsigned stmt)
{
    if (pg->unsent > 0)
        line_end(pg);
    cs_pg_queue(pg, stmt, NULL);
    line_end(pg);
}

int cs_pg_script(cs_pg *pg, const char *sql, struct cs_error *err)
{
    PGresult *r;
    int rc = CS_OK;

    if (!cs_pg_alive(pg) || PQexitPipelineMode(pg->conn) != 1)
        return fail_conn(pg, err);
    r = PQexec(pg->conn, sql);
    if (PQresultStatus(r) != PGRES_COMMAND_OK && PQresultStatus(r) != PGRES_TUPLES_OK)
        rc = r == NULL ? fail_conn(pg, err) : fail_result(pg, r, err);
    PQclear(r);
    if (PQenterPipelineMode(pg->conn) != 1 && rc == CS_OK)
        rc = fail_conn(pg, err);
    return rc;
}

/* ---- rows ---- */

size_t cs_pg_rows(const cs_pg *pg)
{
    return pg->rows == NULL ? 0 : (size_t)PQntuples(pg->rows);
}

struct cs_slice cs_pg_value(const cs_pg *pg, size_t row, unsigned col)
{
    return cs_slice(PQgetvalue(pg->rows, (int)row, (int)col), (size_t)PQgetlength(pg->rows, (int)row, (int)col));
}

bool cs_pg_bytes(const cs_pg *pg, size_t row, unsigned col, void *out, size_t n)
{
    struct cs_slice v = cs_pg_value(pg, row, col);

    if (v.len != n)
        return false;
    memcpy(out, v.data, n);
    return true;
}

bool cs_pg_i64(const cs_pg *pg, size_t row, unsigned col, int64_t *out)
{
    uint8_t b[INT8_LEN];

    if (!cs_pg_bytes(pg, row, col, b, sizeof b))
        return false;
    *out = (int64_t)cs_load_u64(b);
    return true;
}

/* ---- notifications ---- */

int cs_pg_socket(const cs_pg *pg)
{
    return PQsocket(pg->conn);
}

bool cs_pg_notified(cs_pg *pg, const char **payload, bool *own)
{
    PQfreemem(pg->notified);
    pg->notified = NULL;
    if (!cs_pg_alive(pg) || PQconsumeInput(pg->conn) != 1) {
        pg->broken = true;
        return false;
    }
    if ((pg->notified = PQnotifies(pg->conn)) == NULL)
        return false;
    *payload = pg->notified->extra;
    *own = pg->notified->be_pid == PQbackendPID(pg->conn);
    return true;
}
