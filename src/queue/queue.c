/* The file: opening it, looking at it. What changes it is in states.c. */
#include <stdlib.h>

#include "base/sqlite_code.h"
#include "queue/internal.h"

enum { FORMAT = 1, BUSY_MS = 10000 };

/* batch: hash of the bound batch that carries the set, or NULL. sealed: nonce 24 ‖ secretbox of the content, under a
 * key of this set's own; NULL in those that are done. */
static const char create_sql[] =
    "CREATE TABLE sync_queue(position INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, state TEXT NOT NULL "
    "CHECK(state IN ('pending', 'in_flight', 'failed', 'done')), batch BLOB, number INTEGER NOT NULL, operations "
    "INTEGER NOT NULL, bytes INTEGER NOT NULL, attempts INTEGER NOT NULL, queued_ms INTEGER NOT NULL, changed_ms "
    "INTEGER NOT NULL, reason TEXT NOT NULL, sealed BLOB) STRICT;"
    "PRAGMA user_version = 1";

#define IS_OWN "state = 'pending' AND batch IS NULL"

static const char *const sql_of[NSTMTS] = {
    [STMT_PUT] = "INSERT OR IGNORE INTO sync_queue(id, state, batch, number, operations, bytes, attempts, queued_ms, "
                 "changed_ms, reason, sealed) VALUES(?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?7, ?8, ?9)",
    [STMT_AGAIN] = "UPDATE sync_queue SET state = ?2, batch = ?3, number = ?4, attempts = attempts + 1, changed_ms = "
                   "?5, reason = ?6, sealed = coalesce(sealed, ?7) WHERE id = ?1",
    [STMT_LIST] = "SELECT id, state, batch, number, operations, bytes, attempts, queued_ms, changed_ms, reason FROM "
                  "sync_queue WHERE NOT ?1 OR " IS_OWN " ORDER BY position",
    [STMT_COUNT] = "SELECT count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'in_flight'), "
                   "count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'done'), "
                   "count(*) FILTER (WHERE " IS_OWN "), count(batch) FROM sync_queue",
    [STMT_CONTENT] = "SELECT sealed FROM sync_queue WHERE id = ?1 AND sealed IS NOT NULL",
    [STMT_SENDING] = "UPDATE sync_queue SET state = 'in_flight', changed_ms = ?1 WHERE state = 'pending' AND batch IS "
                     "NOT NULL",
    [STMT_ACCEPTED] = "UPDATE sync_queue SET state = 'done', batch = NULL, sealed = NULL, reason = 'the hub has it', "
                      "changed_ms = ?2 WHERE batch = ?1",
    [STMT_RELEASE] = "DELETE FROM sync_queue WHERE batch IS NOT NULL AND state <> 'failed'",
    [STMT_DETACH] = "UPDATE sync_queue SET batch = NULL WHERE batch = ?1",
    [STMT_END] = "UPDATE sync_queue SET state = ?2, batch = NULL, sealed = iif(?2 = 'done', NULL, sealed), reason = "
                 "?3, changed_ms = ?4 WHERE id = ?1",
    [STMT_RETRY] = "UPDATE sync_queue SET state = 'pending', changed_ms = ?2 WHERE state = 'failed' AND batch IS NULL "
                   "AND (?1 IS NULL OR id = ?1)",
    [STMT_PRUNE] = "DELETE FROM sync_queue WHERE state = 'done' AND position NOT IN (SELECT position FROM sync_queue "
                   "WHERE state = 'done' ORDER BY changed_ms DESC, position DESC LIMIT ?1)",
    [STMT_SETTLE] = "UPDATE sync_queue SET state = ?2, batch = ?3, sealed = iif(?2 = 'done', NULL, sealed), changed_ms "
                    "= ?4 WHERE id = ?1",
};

static const char *const state_names[] = { "pending", "in_flight", "failed", "done" };

const char *cs_queue_state_name(enum cs_queue_state s)
{
    return state_names[s];
}

int cs_queue_fail_db(cs_queue *q, const char *what, struct cs_error *err)
{
    return cs_sqlite_fail(q->db, err, "queue: cannot ", what,
                          "move it away; what is unsent is in the database, but for what the hub has refused");
}

sqlite3_stmt *cs_queue_stmt(cs_queue *q, int which, struct cs_error *err)
{
    sqlite3_stmt **s = &q->stmts[which];

    if (*s == NULL && sqlite3_prepare_v3(q->db, sql_of[which], -1, SQLITE_PREPARE_PERSISTENT, s, NULL) != SQLITE_OK) {
        cs_queue_fail_db(q, "read it", err);
        *s = NULL;
    }
    sqlite3_reset(*s);
    return *s;
}

int cs_queue_step(cs_queue *q, sqlite3_stmt *s, const char *what, struct cs_error *err)
{
    int rc = sqlite3_step(s) == SQLITE_DONE ? CS_OK : cs_queue_fail_db(q, what, err);

    sqlite3_reset(s);
    return rc;
}

void cs_queue_bind(sqlite3_stmt *s, int param, const void *p, size_t n)
{
    sqlite3_bind_blob64(s, param, n == 0 ? "" : p, n, SQLITE_STATIC);
}

int cs_queue_begin(cs_queue *q, struct cs_error *err)
{
    return cs_sqlite_begin(q->db) ? CS_OK : cs_queue_fail_db(q, "lock it", err);
}

static int count(cs_queue *q, struct cs_queue_counts *out, struct cs_error *err)
{
    sqlite3_stmt *s = cs_queue_stmt(q, STMT_COUNT, err);
    int rc = CS_OK;

    if (s == NULL)
        return err == NULL ? CS_EDB : err->code;
    if (sqlite3_step(s) == SQLITE_ROW) {
        *out = (struct cs_queue_counts){ .pending = (uint64_t)sqlite3_column_int64(s, 0),
                                         .in_flight = (uint64_t)sqlite3_column_int64(s, 1),
                                         .failed = (uint64_t)sqlite3_column_int64(s, 2),
                                         .done = (uint64_t)sqlite3_column_int64(s, 3),
                                         .own = (uint64_t)sqlite3_column_int64(s, 4) };
        q->named = (uint64_t)sqlite3_column_int64(s, 5);
    } else {
        rc = cs_queue_fail_db(q, "read it", err);
    }
    sqlite3_reset(s);
    return rc;
}

static int prune(cs_queue *q, struct cs_error *err)
{
    sqlite3_stmt *s = cs_queue_stmt(q, STMT_PRUNE, err);

    if (s == NULL)
        return err == NULL ? CS_EDB : err->code;
    sqlite3_bind_int(s, 1, CS_QUEUE_DONE_KEPT);
    return cs_queue_step(q, s, "write it", err);
}

int cs_queue_end(cs_queue *q, int rc, struct cs_error *err)
{
    struct cs_queue_counts now;

    if (rc == CS_OK)
        rc = prune(q, err);
    if (rc == CS_OK && sqlite3_exec(q->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        rc = cs_queue_fail_db(q, "write it", err);
    if (rc == CS_OK)
        return count(q, &now, err);
    sqlite3_exec(q->db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

/* ---- opening ---- */

static int pragma(cs_queue *q, const char *sql, int *out, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(q->db, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
        rc = cs_queue_fail_db(q, "read it", err);
    else
        *out = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    return rc;
}

static int prepare(cs_queue *q, bool read_only, struct cs_error *err)
{
    int version = 0, pages = 1, rc = pragma(q, "PRAGMA user_version", &version, err);

    if (rc == CS_OK && version == 0 && !read_only) {
        if (sqlite3_exec(q->db, "PRAGMA journal_mode=WAL", NULL, NULL, NULL) != SQLITE_OK)
            return cs_queue_fail_db(q, "make it", err);
        if ((rc = cs_queue_begin(q, err)) != CS_OK) /* another process may be making it, too */
            return rc;
        if ((rc = pragma(q, "PRAGMA user_version", &version, err)) == CS_OK && version == 0 &&
            sqlite3_exec(q->db, create_sql, NULL, NULL, NULL) != SQLITE_OK)
            rc = cs_queue_fail_db(q, "make it", err);
        rc = cs_queue_end(q, rc, err);
        version = version == 0 ? FORMAT : version;
    }
    if (rc == CS_OK && version == 0 && (rc = pragma(q, "PRAGMA page_count", &pages, err)) == CS_OK && pages == 0)
        rc = cs_fail(err, CS_ENOTFOUND, "queue: the file is empty"); /* whoever writes makes it */
    if (rc == CS_OK && version > FORMAT)
        rc = cs_fail(err, CS_EVERSION, "queue: written by a newer claw-sync; update this one");
    if (rc == CS_OK && version != FORMAT)
        rc = cs_fail(err, CS_ECORRUPT, "queue: the file is no queue");
    return rc;
}

int cs_queue_open(cs_queue **out, struct cs_world *w, const struct cs_queue_options *o, struct cs_error *err)
{
    int flags =
        SQLITE_OPEN_NOMUTEX | (o->read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    struct cs_queue_counts now;
    cs_queue *q;
    int rc = cs_file_ensure(w, o->path, o->read_only, 0600, err);

    *out = NULL;
    if (rc != CS_OK)
        return rc;
    if ((q = calloc(1, sizeof *q)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    q->world = w;
    q->rng = o->rng;
    q->key = o->key;
    if (sqlite3_open_v2(o->path, &q->db, flags, NULL) != SQLITE_OK) {
        rc = q->db == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : cs_queue_fail_db(q, "open it", err);
    } else {
        sqlite3_busy_timeout(q->db, BUSY_MS);
        /* what is here is nowhere else once the database has let go of it */
        if (sqlite3_exec(q->db, "PRAGMA synchronous=FULL", NULL, NULL, NULL) != SQLITE_OK)
            rc = cs_queue_fail_db(q, "open it", err);
        if (rc == CS_OK && (rc = prepare(q, o->read_only, err)) == CS_OK && !o->read_only &&
            !cs_sqlite_sync_found(q->db))
            rc = cs_queue_fail_db(q, "sync it", err);
        if (rc == CS_OK)
            rc = count(q, &now, err);
    }
    if (rc != CS_OK) {
        cs_queue_close(q);
        return cs_fail_context(err, "\"%s\"", o->path), rc;
    }
    *out = q;
    return CS_OK;
}

void cs_queue_close(cs_queue *q)
{
    if (q == NULL)
        return;
    for (int i = 0; i < NSTMTS; i++)
        sqlite3_finalize(q->stmts[i]);
    sqlite3_close(q->db);
    cs_buf_free(&q->scratch);
    free(q);
}

/* ---- looking ---- */

int cs_queue_counts(cs_queue *q, struct cs_queue_counts *out, struct cs_error *err)
{
    return count(q, out, err);
}

int cs_queue_entry_of(sqlite3_stmt *s, struct cs_queue_entry *out, struct cs_error *err)
{
    const char *state = (const char *)sqlite3_column_text(s, 1), *reason = (const char *)sqlite3_column_text(s, 9);
    size_t k;

    for (k = 0; k <= CS_QUEUE_DONE && (state == NULL || strcmp(state, state_names[k]) != 0); k++)
        ;
    out->has_batch = sqlite3_column_type(s, 2) != SQLITE_NULL;
    if (k > CS_QUEUE_DONE || reason == NULL || sqlite3_column_bytes(s, 0) != CS_QUEUE_ID_LEN ||
        (out->has_batch && sqlite3_column_bytes(s, 2) != 32))
        return cs_fail(err, CS_ECORRUPT, "queue: an entry is damaged");
    memcpy(out->id, sqlite3_column_blob(s, 0), CS_QUEUE_ID_LEN);
    out->state = (enum cs_queue_state)k;
    memset(out->batch, 0, sizeof out->batch);
    if (out->has_batch)
        memcpy(out->batch, sqlite3_column_blob(s, 2), 32);
    out->number = (uint64_t)sqlite3_column_int64(s, 3);
    out->operations = (uint64_t)sqlite3_column_int64(s, 4);
    out->bytes = (uint64_t)sqlite3_column_int64(s, 5);
    out->attempts = (uint64_t)sqlite3_column_int64(s, 6);
    out->queued_ms = sqlite3_column_int64(s, 7);
    out->changed_ms = sqlite3_column_int64(s, 8);
    out->reason = reason;
    return CS_OK;
}

int cs_queue_list(cs_queue *q, struct cs_arena *a, struct cs_queue_entry **out, size_t *n, struct cs_error *err)
{
    sqlite3_stmt *s = cs_queue_stmt(q, STMT_LIST, err);
    size_t cap = 0;
    int rc = CS_OK, step = SQLITE_DONE;

    *out = NULL;
    *n = 0;
    if (s == NULL)
        return err == NULL ? CS_EDB : err->code;
    sqlite3_bind_int(s, 1, 0);
    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        struct cs_queue_entry *e;

        if (*n == cap) {
            cap = cap == 0 ? 16 : cap * 2;
            if ((e = cs_arena_zalloc(a, cap, sizeof *e)) == NULL) {
                rc = cs_fail(err, CS_ENOMEM, "out of memory");
                break;
            }
            if (*n > 0)
                memcpy(e, *out, *n * sizeof *e);
            *out = e;
        }
        e = &(*out)[*n];
        if ((rc = cs_queue_entry_of(s, e, err)) == CS_OK && (e->reason = cs_arena_str(a, e->reason)) == NULL)
            rc = cs_fail(err, CS_ENOMEM, "out of memory");
        (*n)++;
    }
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_queue_fail_db(q, "read it", err);
    sqlite3_reset(s);
    return rc;
}
