#include <limits.h>

#include "base/sqlite_code.h"
#include "replica/statements.h"
#include "replica/store.h"

static const char *const sql_of[CS_NSTATEMENTS] = {
    [CS_STMT_BEGIN] = "BEGIN IMMEDIATE",
    [CS_STMT_COMMIT] = "COMMIT",
    [CS_STMT_ROLLBACK] = "ROLLBACK",
    [CS_STMT_META_GET] = "SELECT value FROM main.sync_meta WHERE name = ?1",
    [CS_STMT_META_SET] =
        "INSERT INTO main.sync_meta(name, value) VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET value = ?2",
    [CS_STMT_META_DROP] = "DELETE FROM main.sync_meta WHERE name = ?1",
    [CS_STMT_ROW_GET] = "SELECT ins, del, meta, unsent FROM main.sync_rows WHERE tbl = ?1 AND key = ?2",
    [CS_STMT_ROW_INSERT] =
        "INSERT INTO main.sync_rows(tbl, key, ins, del, meta, unsent) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
    [CS_STMT_ROW_UPDATE] =
        "UPDATE main.sync_rows SET ins = ?3, del = ?4, meta = ?5, unsent = ?6 WHERE tbl = ?1 AND key = ?2",
    [CS_STMT_TABLE_ID] = "SELECT id FROM main.sync_tables WHERE name = ?1",
    [CS_STMT_TABLE_NAME] = "SELECT name FROM main.sync_tables WHERE id = ?1",
    [CS_STMT_TABLE_NEW] = "INSERT INTO main.sync_tables(name) VALUES(?1)",
    [CS_STMT_COLUMN_ID] = "SELECT id FROM main.sync_columns WHERE tbl = ?1 AND name = ?2",
    [CS_STMT_COLUMN_NAME] = "SELECT name FROM main.sync_columns WHERE tbl = ?1 AND id = ?2",
    [CS_STMT_COLUMN_NEW] =
        "INSERT INTO main.sync_columns(tbl, id, name) VALUES(?1, (SELECT coalesce(max(id) + 1, 0) FROM "
        "main.sync_columns WHERE tbl = ?1), ?2) RETURNING id",
    [CS_STMT_DEVICE_NEW] = "INSERT INTO main.sync_devices(id, uuid) VALUES(?1, ?2)",
    [CS_STMT_LOG_READ] = "SELECT * FROM main.sync_changelog ORDER BY seq",
    [CS_STMT_LOG_DELETE] = "DELETE FROM main.sync_changelog WHERE seq <= ?1",
    [CS_STMT_LOG_ANY] = "SELECT 1 FROM main.sync_changelog LIMIT 1",
    [CS_STMT_LOG_LENGTH] = "SELECT (SELECT max(seq) FROM main.sync_changelog) - (SELECT min(seq) FROM "
                           "main.sync_changelog) + 1",
    [CS_STMT_LOG_KEYS] = "SELECT * FROM main.sync_changelog",
    [CS_STMT_UNSENT_PUT] = "INSERT INTO main.sync_unsent(seq, tbl, n, key, base) VALUES(?1, ?2, 1, ?3, ?4)",
    /* the record of this seq, or the nearest run before it */
    [CS_STMT_UNSENT_GET] =
        "SELECT seq, tbl, key, base FROM main.sync_unsent WHERE seq BETWEEN ?1 - 255 AND ?1 AND (seq = ?1 OR key IS "
        "NULL) ORDER BY seq DESC LIMIT 1",
    [CS_STMT_UNSENT_SET] = "UPDATE main.sync_unsent SET base = ?2 WHERE seq = ?1",
    [CS_STMT_UNSENT_WALK] = "SELECT seq, tbl, key, base FROM main.sync_unsent ORDER BY seq",
    [CS_STMT_UNSENT_DROP] = "DELETE FROM main.sync_unsent WHERE seq BETWEEN ?1 AND ?2",
    [CS_STMT_UNSENT_OF_TABLE] =
        "SELECT seq, key FROM main.sync_unsent WHERE tbl = ?1 AND seq > ?2 AND key IS NOT NULL ORDER BY seq LIMIT ?3",
    [CS_STMT_UNSENT_ANY] = "SELECT 1 FROM main.sync_unsent LIMIT 1",
    [CS_STMT_RUN_PUT] = "INSERT OR REPLACE INTO main.sync_unsent(seq, tbl, n, base) VALUES(?1, ?2, ?3, ?4)",
    [CS_STMT_RUN_ANY] = "SELECT seq FROM main.sync_unsent WHERE key IS NULL LIMIT 1",
    [CS_STMT_BOUND_PUT] = "INSERT INTO main.sync_bound(number, hash, state, batch) VALUES(?1, ?2, 0, ?3)",
    [CS_STMT_BOUND_ALL] =
        "SELECT number, hash, state, log_number, iif(?1 AND typeof(batch) = 'blob', batch, NULL), typeof(batch) = "
        "'integer' FROM main.sync_bound ORDER BY number",
    [CS_STMT_BOUND_ACCEPT] = "UPDATE main.sync_bound SET state = 1, log_number = ?2, batch = "
                             "CASE ?3 WHEN 1 THEN batch WHEN 2 THEN 0 END WHERE number = ?1 RETURNING hash",
    [CS_STMT_BOUND_REBIND] = "UPDATE main.sync_bound SET hash = ?2, batch = ?3 WHERE number = ?1 AND state = 0",
    [CS_STMT_BOUND_DROP_WAITING] = "DELETE FROM main.sync_bound WHERE state = 0",
    [CS_STMT_BOUND_AT] = "SELECT hash FROM main.sync_bound WHERE state = 1 AND log_number = ?1",
    [CS_STMT_BOUND_PRUNE] = "DELETE FROM main.sync_bound WHERE state = 1 AND log_number <= ?1",
    [CS_STMT_REFUSED_PUT] =
        "INSERT OR IGNORE INTO main.sync_refused(hash, number) SELECT hash, number FROM main.sync_bound "
        "WHERE number = ?1",
    [CS_STMT_REFUSED_PUT_ALL] =
        "INSERT OR IGNORE INTO main.sync_refused(hash, number) SELECT hash, number FROM main.sync_bound "
        "WHERE state = 0",
    [CS_STMT_REFUSED_GET] = "SELECT 1 FROM main.sync_refused WHERE hash = ?1",
    [CS_STMT_REFUSED_PRUNE] = "DELETE FROM main.sync_refused WHERE number <= ?1",
    [CS_STMT_LOG_HASH] = "SELECT hash FROM main.sync_log WHERE number = ?1",
    [CS_STMT_LOG_PUT] = "INSERT OR REPLACE INTO main.sync_log(number, hash) VALUES(?1, ?2)",
    [CS_STMT_LOG_PRUNE] = "DELETE FROM main.sync_log WHERE number <= ?1",
    [CS_STMT_ROW_WALK] = "SELECT key FROM main.sync_rows WHERE tbl = ?1 AND key > ?2 ORDER BY key LIMIT ?3",
    [CS_STMT_COUNTS] =
        "SELECT (SELECT count(*) FROM main.sync_changelog), (SELECT coalesce(sum(n), 0) FROM main.sync_unsent), "
        "(SELECT count(*) FROM main.sync_bound WHERE state = 0), "
        "(SELECT count(*) FROM main.sync_hidden h WHERE col = -1 AND reason <> 'pending'), "
        "(SELECT count(*) FROM main.sync_conflicts WHERE state IN ('auto', 'manual') AND " CS_NOT_SHARED "), "
        "(SELECT count(*) FROM main.sync_tables WHERE state <> 0 AND name <> '" CS_SHARED "'), "
        "(SELECT count(*) FROM main.sync_tables WHERE state = 1 AND backfill IS NOT NULL), "
        "(SELECT value FROM main.sync_meta WHERE name = 'hlc'), "
        "(SELECT count(*) FROM main.sync_conflicts WHERE state = 'manual' AND " CS_NOT_SHARED "), "
        "(SELECT count(*) FROM main.sync_meta WHERE name = 'publish'), "
        "(SELECT count(*) FROM main.sync_tables WHERE state = 2), "
        "(SELECT value FROM main.sync_meta WHERE name = 'held_back')",
    [CS_STMT_GAP_NEXT] =
        "SELECT id, gap, backfill FROM main.sync_tables WHERE state = 1 AND backfill IS NOT NULL ORDER BY id",
    [CS_STMT_GAP_SET] = "UPDATE main.sync_tables SET backfill = ?2, gap = ?3 WHERE id = ?1",
    [CS_STMT_SHADOW_GET] = "SELECT hashes FROM main.sync_shadow WHERE tbl = ?1 AND key = ?2",
    [CS_STMT_SHADOW_PUT] = "INSERT OR REPLACE INTO main.sync_shadow(tbl, key, hashes) VALUES(?1, ?2, ?3)",
    [CS_STMT_SHADOW_KEYS] = "SELECT key FROM main.sync_shadow WHERE tbl = ?1",
    [CS_STMT_SHADOW_DROP] = "DELETE FROM main.sync_shadow WHERE tbl = ?1",
    [CS_STMT_SHADOW_FORGET] = "DELETE FROM main.sync_shadow WHERE tbl = ?1 AND key = ?2",
    [CS_STMT_PEER_GET] = "SELECT number, hash, member_seq FROM main.sync_devices WHERE uuid = ?1",
    [CS_STMT_PEER_SET] = "UPDATE main.sync_devices SET number = ?2, hash = ?3, member_seq = ?4 WHERE id = ?1",
    /* of a log of the same generation that was given up */
    [CS_STMT_PEER_FORGET] = "UPDATE main.sync_devices SET number = 0 WHERE number >= ?1",
    [CS_STMT_PEER_ALL] = "SELECT uuid, number, hash, member_seq FROM main.sync_devices WHERE number > 0 ORDER BY uuid",
    [CS_STMT_STATE_WALK] =
        "SELECT tbl, key FROM main.sync_rows WHERE tbl >= ?1 AND (tbl > ?1 OR key > ?2) ORDER BY tbl, key",
    [CS_STMT_TOMBSTONES] =
        "SELECT tbl, key, 0 FROM main.sync_rows WHERE (tbl, key) > (?1, ?2) AND del <= ?3 ORDER BY tbl, key LIMIT ?4",
    [CS_STMT_DEAD_REST] = "SELECT tbl, key, 0 FROM main.sync_rows WHERE (tbl, key) > (?1, ?2) AND ins IS NULL AND "
                          "ifnull(del, 0) <= ?3 AND length(meta) > 3 ORDER BY tbl, key LIMIT ?4",
    [CS_STMT_ROW_DROP] = "DELETE FROM main.sync_rows WHERE tbl = ?1 AND key = ?2",
    [CS_STMT_STALE_WALK] = "SELECT tbl, key, doubted FROM main.sync_stale WHERE (tbl, key) > (?1, ?2) AND ?3 = 0 ORDER "
                           "BY tbl, key LIMIT ?4",
    [CS_STMT_STALE_GET] = "SELECT doubted FROM main.sync_stale WHERE tbl = ?1 AND key = ?2",
    [CS_STMT_STALE_EDIT] =
        "INSERT INTO main.sync_stale_edits(tbl, key, n, edit) SELECT ?1, ?2, 1 + ifnull(max(n), 0), ?3 FROM "
        "main.sync_stale_edits WHERE tbl = ?1 AND key = ?2",
    [CS_STMT_STALE_EDITS] = "SELECT edit FROM main.sync_stale_edits WHERE tbl = ?1 AND key = ?2 ORDER BY n",
    [CS_STMT_STALE_FORGET] = "DELETE FROM main.sync_stale_edits WHERE tbl = ?1 AND key = ?2",
    [CS_STMT_STALE_DOUBT] = "UPDATE main.sync_stale SET doubted = 1 WHERE tbl = ?1 AND key = ?2",
    [CS_STMT_STALE_STRIKE] = "DELETE FROM main.sync_stale WHERE tbl = ?1 AND key = ?2",
    [CS_STMT_VOID_PUT] = "INSERT OR IGNORE INTO main.sync_void(stamp) VALUES(?1)",
    [CS_STMT_VOID_GET] = "SELECT 1 FROM main.sync_void WHERE stamp = ?1",
    [CS_STMT_VOID_DROP] = "DELETE FROM main.sync_void WHERE stamp = ?1",
    [CS_STMT_VOID_PRUNE] = "DELETE FROM main.sync_void WHERE stamp < ?1",
    [CS_STMT_DATA_VERSION] = "PRAGMA main.data_version",
    [CS_STMT_SCHEMA_VERSION] = "PRAGMA main.schema_version",
};

/* Whoever has several databases, or a full disk, wants to know which. */
int(cs_db_fail)(struct cs_replica *r, struct cs_error *err, const char *what)
{
    const char *path = sqlite3_db_filename(r->db, "main");
    int sqlite = sqlite3_errcode(r->db) & 0xff, rc;

    if (sqlite == SQLITE_NOTADB)
        return cs_fail(err, CS_ECORRUPT, "\"%.150s\" is not a database, or the file is damaged: " CS_IF_DAMAGED,
                       path != NULL ? path : "");
    rc = cs_sqlite_fail(r->db, err, "", what, CS_IF_DAMAGED);
    if (path != NULL && (rc == CS_EIO || rc == CS_ECORRUPT))
        cs_fail_context(err, "\"%.150s\"", path);
    return rc;
}

int cs_db_exec(struct cs_replica *r, const char *sql, struct cs_error *err)
{
    return sqlite3_exec(r->db, sql, NULL, NULL, NULL) == SQLITE_OK ? CS_OK
                                                                   : cs_db_fail(r, err, "cannot change the database");
}

sqlite3_stmt *cs_db_stmt(struct cs_replica *r, int which, struct cs_error *err)
{
    sqlite3_stmt **s = &r->stmts[which];
    bool needs_tables = which != CS_STMT_BEGIN && which != CS_STMT_COMMIT && which != CS_STMT_ROLLBACK &&
                        which != CS_STMT_DATA_VERSION && which != CS_STMT_SCHEMA_VERSION;

    if (r->bare && needs_tables) {
        cs_fail(err, CS_ENOTFOUND, "no table of this database is tracked any more");
        return NULL;
    }
    if (*s == NULL) {
        if (sqlite3_prepare_v3(r->db, sql_of[which], -1, SQLITE_PREPARE_PERSISTENT, s, NULL) != SQLITE_OK) {
            cs_db_fail(r, err, "cannot prepare a statement on our tables");
            *s = NULL;
        }
        return *s;
    }
    sqlite3_reset(*s);
    return *s;
}

int cs_db_step(struct cs_replica *r, sqlite3_stmt *s, const char *what, struct cs_error *err)
{
    int rc = sqlite3_step(s) == SQLITE_DONE ? CS_OK : cs_db_fail(r, err, what);

    sqlite3_reset(s);
    return rc;
}

bool(cs_db_row)(struct cs_replica *r, sqlite3_stmt *s, int *rc, const char *what, struct cs_error *err)
{
    int step = *rc == CS_OK ? sqlite3_step(s) : SQLITE_DONE;

    if (step != SQLITE_ROW && step != SQLITE_DONE)
        *rc = cs_db_fail(r, err, what);
    return step == SQLITE_ROW;
}

/* What memory mirrors of the database, as the transaction found it. A rollback puts it back from here: a disk that just
 * failed to write may fail to read as well. */
static void remember(struct cs_replica *r)
{
    r->before = (struct cs_mirror){
        .id = r->id,
        .hlc = r->hlc,
        .ndevices = r->ndevices,
        .next_unsent = r->next_unsent,
        .mark = r->mark,
        .chain_number = r->chain_number,
        .huge = r->huge,
    };
    memcpy(r->before.chain_hash, r->chain_hash, sizeof r->chain_hash);
    r->begun = true;
}

static void put_back(struct cs_replica *r)
{
    const struct cs_mirror *b = &r->before;

    r->id = b->id;
    r->hlc = b->hlc;
    r->ndevices = b->ndevices;
    r->next_unsent = b->next_unsent;
    r->mark = b->mark;
    r->chain_number = b->chain_number;
    memcpy(r->chain_hash, b->chain_hash, sizeof r->chain_hash);
    r->huge = b->huge;
    r->begun = false;
}

int cs_db_data_version(struct cs_replica *r, uint64_t *out, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_DATA_VERSION, err);
    int rc = CS_OK;

    if (s == NULL)
        return err_code(err);
    if (sqlite3_step(s) != SQLITE_ROW)
        rc = cs_db_fail(r, err, "cannot look at the database");
    else
        *out = (uint64_t)sqlite3_column_int64(s, 0);
    sqlite3_reset(s);
    return rc;
}

/* Whoever seals ticks the clock, or numbers what is unsent: another process did, if these are not as we left them. */
static int is_behind(struct cs_replica *r, bool *out, struct cs_error *err)
{
    const struct {
        const char *name;
        int64_t ours;
    } left[] = { { "hlc", r->hlc }, { "next_unsent", (int64_t)r->next_unsent } };
    int rc = CS_OK;

    for (size_t i = 0; i < sizeof left / sizeof left[0] && !*out; i++) {
        int64_t v = left[i].ours;

        rc = cs_meta_int(r, left[i].name, &v, err);
        if (rc != CS_OK && rc != CS_ENOTFOUND) /* it untracked the last table: the schema's version tells that next */
            return cs_layout_check(r, NULL) == CS_ENOTFOUND ? CS_OK : rc;
        *out = rc == CS_OK && v != left[i].ours;
    }
    return CS_OK;
}

/* A command beside the engine may seal too (pause, resume, track). To go on from where we were would use its stamps and
 * numbers a second time. */
static int catch_up(struct cs_replica *r, struct cs_error *err)
{
    uint64_t version;
    int rc;

    if (r->bare || !r->mirrors)
        return CS_OK;
    if ((rc = cs_db_data_version(r, &version, err)) != CS_OK || (version == r->mirror_version && !r->stale))
        return rc;
    if (!r->stale && (rc = is_behind(r, &r->stale, err)) != CS_OK)
        return rc;
    if (r->stale) {
        cs_run_forget(r);
        if ((rc = cs_db_load(r, err)) != CS_OK)
            return rc;
        cs_apply_counts_changed(r);
        cs_gap_rolled_back(r);
        r->stale = false;
    }
    r->mirror_version = version;
    return CS_OK;
}

void cs_db_leave(struct cs_replica *r)
{
    sqlite3_stmt *s = r->stmts == NULL ? NULL : r->stmts[CS_STMT_ROLLBACK];

    if (sqlite3_get_autocommit(r->db) == 0 && s != NULL) {
        sqlite3_step(s);
        sqlite3_reset(s);
    }
    if (sqlite3_get_autocommit(r->db) == 0)
        sqlite3_exec(r->db, "ROLLBACK", NULL, NULL, NULL);
    r->stays = sqlite3_get_autocommit(r->db) == 0;
}

int cs_db_make_up(struct cs_replica *r, struct cs_error *err)
{
    if (r->stays)
        cs_db_leave(r);
    return r->stays ? cs_fail(err, CS_ENOMEM, "out of memory: what failed before cannot be rolled back") : CS_OK;
}

int cs_db_begin(struct cs_replica *r, struct cs_error *err)
{
    int rc = cs_db_make_up(r, err);
    bool idle = sqlite3_get_autocommit(r->db) != 0;
    sqlite3_stmt *s;

    if (rc != CS_OK)
        return rc;
    s = cs_db_stmt(r, CS_STMT_ROLLBACK, err) == NULL ? NULL : cs_db_stmt(r, CS_STMT_BEGIN, err);
    rc = s == NULL ? err_code(err) : cs_db_step(r, s, "cannot lock the database for writing", err);
    if (rc == CS_OK)
        rc = catch_up(r, err);
    if (rc == CS_OK)
        remember(r);
    else if (idle)
        cs_db_leave(r); /* something failed behind the lock, which is held */
    return rc;
}

int cs_db_commit(struct cs_replica *r, struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc = cs_run_flush(r, err);

    if (rc == CS_OK) {
        s = cs_db_stmt(r, CS_STMT_COMMIT, err);
        rc = s == NULL ? err_code(err) : cs_db_step(r, s, "cannot commit", err);
    }
    if (rc == CS_OK)
        r->begun = false;
    else
        cs_db_rollback(r);
    return rc;
}

void cs_db_rollback(struct cs_replica *r)
{
    cs_db_leave(r);
    cs_run_forget(r);
    if (r->begun)
        put_back(r);
    if (!r->bare)
        cs_gap_rolled_back(r);
}

int cs_db_end(struct cs_replica *r, int rc, struct cs_error *err)
{
    if (rc == CS_OK)
        return cs_db_commit(r, err);
    cs_db_rollback(r);
    return rc;
}

void cs_db_finalize(struct cs_replica *r)
{
    for (int i = 0; r->stmts != NULL && i < CS_NSTATEMENTS; i++)
        sqlite3_finalize(r->stmts[i]);
    free(r->stmts);
    r->stmts = NULL;
}

void cs_value_from_column(struct cs_value *out, sqlite3_stmt *s, int col)
{
    switch (sqlite3_column_type(s, col)) {
    case SQLITE_INTEGER:
        out->type = CS_INTEGER;
        out->u.i = sqlite3_column_int64(s, col);
        break;
    case SQLITE_FLOAT:
        out->type = CS_REAL;
        out->u.r = sqlite3_column_double(s, col);
        break;
    case SQLITE_TEXT:
        out->type = CS_TEXT;
        out->u.bytes.data = sqlite3_column_text(s, col);
        out->u.bytes.len = (size_t)sqlite3_column_bytes(s, col);
        break;
    case SQLITE_BLOB:
        out->type = CS_BLOB;
        out->u.bytes.data = sqlite3_column_blob(s, col);
        out->u.bytes.len = (size_t)sqlite3_column_bytes(s, col);
        break;
    default:
        out->type = CS_NULL;
    }
}

int cs_value_bind(sqlite3_stmt *s, int param, const struct cs_value *v)
{
    int rc = SQLITE_OK;

    switch (v->type) {
    case CS_NULL:
        rc = sqlite3_bind_null(s, param);
        break;
    case CS_INTEGER:
        rc = sqlite3_bind_int64(s, param, v->u.i);
        break;
    case CS_REAL:
        rc = sqlite3_bind_double(s, param, v->u.r);
        break;
    case CS_TEXT:
        rc = sqlite3_bind_text64(s, param, v->u.bytes.len == 0 ? "" : (const char *)v->u.bytes.data, v->u.bytes.len,
                                 SQLITE_STATIC, SQLITE_UTF8);
        break;
    case CS_BLOB:
        rc = v->u.bytes.len == 0 ? sqlite3_bind_zeroblob(s, param, 0)
                                 : sqlite3_bind_blob64(s, param, v->u.bytes.data, v->u.bytes.len, SQLITE_STATIC);
        break;
    }
    return rc == SQLITE_OK ? CS_OK : CS_ENOMEM;
}

int cs_db_bind_slice(sqlite3_stmt *s, int param, struct cs_slice b)
{
    struct cs_value v = { .type = CS_BLOB, .u.bytes = b };

    return cs_value_bind(s, param, &v);
}

int cs_db_bind_text(sqlite3_stmt *s, int param, struct cs_slice b)
{
    struct cs_value v = { .type = CS_TEXT, .u.bytes = b };

    return cs_value_bind(s, param, &v);
}

struct cs_slice cs_db_column_blob(sqlite3_stmt *s, int col)
{
    const void *p = sqlite3_column_blob(s, col);

    return cs_slice(p, p == NULL ? 0 : (size_t)sqlite3_column_bytes(s, col));
}

void cs_put_identifier(struct cs_buf *out, const char *name)
{
    cs_buf_put_u8(out, '"');
    for (const char *p = name; *p != '\0'; p++) {
        if (*p == '"')
            cs_buf_put_u8(out, '"');
        cs_buf_put_u8(out, (uint8_t)*p);
    }
    cs_buf_put_u8(out, '"');
}

/* ---- sync_meta ---- */

int cs_meta_put_int(struct cs_replica *r, const char *name, int64_t v, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_META_SET, err);

    if (s == NULL)
        return err_code(err);
    cs_db_bind_text(s, 1, cs_slice_str(name));
    sqlite3_bind_int64(s, 2, v);
    return cs_db_step(r, s, "cannot write our state", err);
}

int cs_meta_put(struct cs_replica *r, const char *name, struct cs_slice v, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_META_SET, err);

    if (s == NULL)
        return err_code(err);
    cs_db_bind_text(s, 1, cs_slice_str(name));
    cs_db_bind_slice(s, 2, v);
    return cs_db_step(r, s, "cannot write our state", err);
}

int cs_meta_drop(struct cs_replica *r, const char *name, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_META_DROP, err);

    if (s == NULL)
        return err_code(err);
    cs_db_bind_text(s, 1, cs_slice_str(name));
    return cs_db_step(r, s, "cannot write our state", err);
}

/* Steps META_GET: CS_OK with *s on the row (reset it), CS_ENOTFOUND. */
static int meta_row(struct cs_replica *r, const char *name, sqlite3_stmt **s, struct cs_error *err)
{
    int step;

    if ((*s = cs_db_stmt(r, CS_STMT_META_GET, err)) == NULL)
        return err_code(err);
    cs_db_bind_text(*s, 1, cs_slice_str(name));
    if ((step = sqlite3_step(*s)) == SQLITE_ROW)
        return CS_OK;
    if (step == SQLITE_DONE) {
        sqlite3_reset(*s);
        return cs_fail(err, CS_ENOTFOUND, "nothing is recorded as \"%s\"", name);
    }
    return cs_db_fail(r, err, "cannot read our state");
}

int cs_meta_int(struct cs_replica *r, const char *name, int64_t *v, struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc = meta_row(r, name, &s, err);

    *v = 0;
    if (rc == CS_OK) {
        *v = sqlite3_column_int64(s, 0);
        sqlite3_reset(s);
    }
    return rc;
}

int cs_replica_meta_get(cs_replica *r, const char *name, struct cs_buf *out, struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc = meta_row(r, name, &s, err);

    if (rc == CS_OK) {
        cs_buf_put_slice(out, cs_db_column_blob(s, 0));
        sqlite3_reset(s);
        rc = out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
    }
    return rc;
}

int cs_replica_meta_set(cs_replica *r, const char *name, struct cs_slice value, struct cs_error *err)
{
    return cs_meta_put(r, name, value, err);
}

int cs_replica_meta_drop(cs_replica *r, const char *name, struct cs_error *err)
{
    return cs_meta_drop(r, name, err);
}

/* ---- what memory mirrors ---- */

enum { MARK_LEN = 8 + 8 + 32 + 4 + 8, CHAIN_LEN = 8 + 32, IDENTITY_LEN = 16 + 16 + 8 };

static int load_blob(struct cs_replica *r, const char *name, size_t want, struct cs_buf *out, struct cs_error *err)
{
    int rc;

    cs_buf_reset(out);
    rc = cs_replica_meta_get(r, name, out, err);
    if (rc == CS_OK && out->len != want)
        rc = cs_fail(err, CS_ECORRUPT, "our record \"%s\" in the database is damaged", name);
    return rc;
}

static int load_devices(struct cs_replica *r, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = CS_OK, step;

    r->ndevices = 1;
    if (sqlite3_prepare_v2(r->db, "SELECT id, uuid FROM main.sync_devices ORDER BY id", -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read our tables");
    while ((step = sqlite3_step(s)) == SQLITE_ROW && rc == CS_OK) {
        struct cs_slice id = cs_db_column_blob(s, 1);

        if (id.len != 16 || sqlite3_column_int64(s, 0) != r->ndevices)
            rc = cs_fail(err, CS_ECORRUPT, "our table of devices in the database is damaged");
        else
            rc = cs_devices_append(r, id.data, err);
    }
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read our tables");
    sqlite3_finalize(s);
    return rc;
}

int cs_devices_append(struct cs_replica *r, const uint8_t id[16], struct cs_error *err)
{
    if (r->ndevices >= r->devices_cap) {
        uint32_t cap = r->devices_cap == 0 ? 16 : r->devices_cap * 2;
        struct cs_uuid *p = realloc(r->devices, cap * sizeof *p);

        if (p == NULL)
            return cs_fail(err, CS_ENOMEM, "out of memory");
        r->devices = p;
        r->devices_cap = cap;
    }
    memcpy(r->devices[r->ndevices++].b, id, 16);
    return CS_OK;
}

static int read_state(struct cs_replica *r, struct cs_buf *b, struct cs_error *err)
{
    struct cs_reader rd;
    int64_t v;
    int rc;

    r->mark = (struct cs_pull_mark){ 0 };
    r->id = (struct cs_replica_identity){ 0 };
    r->chain_number = 0;
    memset(r->chain_hash, 0, sizeof r->chain_hash);
    if ((rc = cs_meta_int(r, "hlc", &r->hlc, err)) != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    if ((rc = cs_meta_int(r, "next_unsent", &v, err)) != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    r->next_unsent = v < 1 ? 1 : (uint64_t)v;
    if ((rc = cs_meta_int(r, "huge", &r->huge, err)) != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    if ((rc = load_blob(r, "mark", MARK_LEN, b, err)) == CS_OK) {
        rd = cs_reader(cs_buf_slice(b));
        r->mark.log_id = cs_read_u64(&rd);
        r->mark.number = cs_read_u64(&rd);
        cs_read_into(&rd, r->mark.log_hash, 32);
        r->mark.highest_epoch = cs_read_u32(&rd);
        r->mark.top_stamp = (int64_t)cs_read_u64(&rd);
    }
    if ((rc == CS_OK || rc == CS_ENOTFOUND) && (rc = load_blob(r, "chain", CHAIN_LEN, b, err)) == CS_OK) {
        r->chain_number = cs_load_u64(b->data);
        memcpy(r->chain_hash, b->data + 8, 32);
    }
    if ((rc == CS_OK || rc == CS_ENOTFOUND) && (rc = load_blob(r, "identity", IDENTITY_LEN, b, err)) == CS_OK) {
        memcpy(r->id.workspace.b, b->data, 16);
        memcpy(r->id.device.b, b->data + 16, 16);
        r->id.incarnation = cs_load_u64(b->data + 32);
    }
    return rc == CS_OK || rc == CS_ENOTFOUND ? load_devices(r, err) : rc;
}

int cs_db_load(struct cs_replica *r, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    int rc = read_state(r, &b, err);

    r->mirrors = r->mirrors || rc == CS_OK;
    cs_buf_free(&b);
    return rc;
}

int cs_hlc_save(struct cs_replica *r, struct cs_error *err)
{
    return cs_meta_put_int(r, "hlc", r->hlc, err);
}

int cs_chain_save(struct cs_replica *r, uint64_t number, const uint8_t hash[32], struct cs_error *err)
{
    uint8_t b[CHAIN_LEN];

    r->chain_number = number;
    memcpy(r->chain_hash, hash, 32);
    cs_store_u64(b, number);
    memcpy(b + 8, hash, 32);
    return cs_meta_put(r, "chain", cs_slice(b, sizeof b), err);
}

int cs_identity_save(struct cs_replica *r, const struct cs_replica_identity *id, struct cs_error *err)
{
    uint8_t b[IDENTITY_LEN];

    memcpy(b, id->workspace.b, 16);
    memcpy(b + 16, id->device.b, 16);
    cs_store_u64(b + 32, id->incarnation);
    r->id = *id;
    return cs_meta_put(r, "identity", cs_slice(b, sizeof b), err);
}

static int save_log_hash(struct cs_replica *r, const struct cs_pull_mark *m, struct cs_error *err)
{
    enum { KEEP = 65536 };
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_LOG_PUT, err);
    int rc;

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, (int64_t)m->number);
    cs_db_bind_slice(s, 2, cs_slice(m->log_hash, 32));
    if ((rc = cs_db_step(r, s, "cannot save the pull position", err)) != CS_OK || m->number % 256 != 0 ||
        m->number <= KEEP)
        return rc;
    if ((s = cs_db_stmt(r, CS_STMT_LOG_PRUNE, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, (int64_t)(m->number - KEEP));
    return cs_db_step(r, s, "cannot save the pull position", err);
}

static int save_peer(struct cs_replica *r, const struct cs_pull_mark *m, struct cs_error *err)
{
    sqlite3_stmt *s;
    uint32_t device;
    int rc;

    if (m->header_refused || cs_uuid_is_zero(&m->device))
        return CS_OK;
    if ((rc = cs_device_number(r, &m->device, &device, err)) != CS_OK)
        return rc;
    if ((s = cs_db_stmt(r, CS_STMT_PEER_SET, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, device);
    sqlite3_bind_int64(s, 2, (int64_t)m->device_number);
    cs_db_bind_slice(s, 3, cs_slice(m->device_hash, 32));
    sqlite3_bind_int64(s, 4, m->device_member_seq);
    return cs_db_step(r, s, "cannot save a device's position", err);
}

int64_t cs_replica_hlc(const cs_replica *r)
{
    return r->hlc;
}

static void mark_encode(const struct cs_pull_mark *m, uint8_t b[MARK_LEN])
{
    cs_store_u64(b, m->log_id);
    cs_store_u64(b + 8, m->number);
    memcpy(b + 16, m->log_hash, 32);
    cs_store_u32(b + 48, m->highest_epoch);
    cs_store_u64(b + 52, (uint64_t)m->top_stamp);
}

int cs_mark_new_log(struct cs_replica *r, uint64_t log_id, struct cs_error *err)
{
    struct cs_pull_mark m = { .log_id = log_id, .top_stamp = r->mark.top_stamp };
    uint8_t b[MARK_LEN];
    int rc;

    mark_encode(&m, b);
    if ((rc = cs_meta_put(r, "mark", cs_slice(b, sizeof b), err)) == CS_OK)
        r->mark = m;
    return rc;
}

static int adopt_place(struct cs_replica *r, const struct cs_known_place *p, struct cs_error *err)
{
    struct cs_pull_mark as = { .device = p->device, .device_number = p->number, .device_member_seq = p->member_seq };
    struct cs_peer known = { 0 };
    int rc = cs_replica_peer(r, &p->device, &known, err);

    if ((rc != CS_OK && rc != CS_ENOTFOUND) || (rc == CS_OK && known.number >= p->number))
        return rc;
    memcpy(as.device_hash, p->hash, 32);
    if ((rc = save_peer(r, &as, err)) == CS_OK && cs_uuid_cmp(&p->device, &r->id.device) == 0 &&
        p->number > r->chain_number)
        rc = cs_chain_advance(r, p->number, p->hash, err);
    return rc;
}

int cs_mark_adopt(struct cs_replica *r, const struct cs_pull_mark *m, const struct cs_known_place *places, size_t n,
                  struct cs_error *err)
{
    struct cs_pull_mark mark = *m;
    sqlite3_stmt *s;
    int rc = CS_OK;

    for (size_t i = 0; i < n && rc == CS_OK; i++)
        rc = adopt_place(r, &places[i], err);
    mark.device = (struct cs_uuid){ 0 };
    mark.header_refused = false;
    if (rc != CS_OK || (rc = cs_mark_save(r, &mark, err)) != CS_OK)
        return rc;
    if ((s = cs_db_stmt(r, CS_STMT_BOUND_PRUNE, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, (int64_t)mark.number);
    return cs_db_step(r, s, "cannot drop acknowledged batches", err);
}

int cs_mark_save(struct cs_replica *r, const struct cs_pull_mark *m, struct cs_error *err)
{
    struct cs_pull_mark saved = *m;
    uint8_t b[MARK_LEN];
    sqlite3_stmt *s;
    int rc;

    if (m->header_refused) {
        saved.highest_epoch = r->mark.highest_epoch;
        saved.top_stamp = r->mark.top_stamp;
    }
    mark_encode(&saved, b);
    if ((rc = cs_meta_put(r, "mark", cs_slice(b, sizeof b), err)) != CS_OK ||
        (rc = save_log_hash(r, m, err)) != CS_OK || (rc = save_peer(r, m, err)) != CS_OK)
        return rc;
    if (memcmp(m->device.b, r->id.device.b, 16) == 0) {
        if (m->device_number > r->chain_number &&
            (rc = cs_chain_advance(r, m->device_number, m->device_hash, err)) != CS_OK)
            return rc;
        if ((s = cs_db_stmt(r, CS_STMT_BOUND_PRUNE, err)) == NULL)
            return err_code(err);
        sqlite3_bind_int64(s, 1, (int64_t)m->number);
        if ((rc = cs_db_step(r, s, "cannot drop an acknowledged batch", err)) != CS_OK)
            return rc;
    }
    r->mark = saved;
    return CS_OK;
}
