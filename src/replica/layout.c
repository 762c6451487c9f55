/* The tables of ours in the application's database. All truth but what a note calls a cache. */
#include "replica/store.h"

#define VOID_TABLE "sync_void(stamp INTEGER PRIMARY KEY)"
#define LOST_TABLE                                                                                                     \
    "sync_lost(tbl INTEGER NOT NULL, key BLOB NOT NULL, row BLOB NOT NULL, PRIMARY KEY(tbl, key)) WITHOUT ROWID"

static const char ddl[] =
    /* Small values: format, identity, hlc, mark (pull position), chain (own), next_unsent, lease, engine.… */
    "CREATE TABLE sync_meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    /* Table numbers, also of tables that exist elsewhere only. state: enum cs_track_state; shape: what the triggers
     * were made for; backfill: last key taken in (NULL: done, an empty blob: at the beginning); gap: 1 while the table
     * must be compared with its versions; never: untracked by hand. */
    "CREATE TABLE sync_tables(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, state INTEGER NOT NULL DEFAULT 0, "
    "shape TEXT,"
    " backfill BLOB, gap INTEGER NOT NULL DEFAULT 0, show_orphans INTEGER NOT NULL DEFAULT 0, never INTEGER NOT NULL "
    "DEFAULT 0);"
    "CREATE TABLE sync_columns(tbl INTEGER NOT NULL, id INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY(tbl, id),"
    " UNIQUE(tbl, name)) WITHOUT ROWID;"
    /* number, hash, member_seq: the newest batch of it that was pulled. */
    "CREATE TABLE sync_devices(id INTEGER PRIMARY KEY, uuid BLOB NOT NULL UNIQUE, number INTEGER NOT NULL DEFAULT 0, "
    "hash BLOB,"
    " member_seq INTEGER NOT NULL DEFAULT 0);"
    /* Written by the triggers. op: 1 insert, 2 update, 3 delete, 4 suspect, plus 16 × column group; k1 …: literal key;
     * ms: since 1970, or as a real: a Julian day.
     */
    "CREATE TABLE sync_changelog(seq INTEGER PRIMARY KEY, tbl, op, mask, ms, k1);"
    /* Versions (rows.c). unsent: a sync_unsent.seq, valid only while that row exists. */
    "CREATE TABLE sync_rows(tbl INTEGER NOT NULL, key BLOB NOT NULL, ins INTEGER, del INTEGER, meta BLOB NOT NULL, "
    "unsent INTEGER,"
    " PRIMARY KEY(tbl, key)) WITHOUT ROWID;"
    /* Rows with unsent edits, oldest first; seq is never used twice. base: see unsent.c; key NULL: n rows in one
     * record, see unsent_run.c. */
    "CREATE TABLE sync_unsent(seq INTEGER PRIMARY KEY, tbl INTEGER NOT NULL, n INTEGER NOT NULL, key BLOB, base BLOB);"
    /* Values that the application's tables do not show. col -1: the row itself is hidden, for this reason. */
    "CREATE TABLE sync_hidden(tbl INTEGER NOT NULL, key BLOB NOT NULL, col INTEGER NOT NULL, reason TEXT, value,"
    " PRIMARY KEY(tbl, key, col)) WITHOUT ROWID;"
    /* This device's record of edits that lost (conflicts.c). at_ms: when the state began; noted: the engine has told of
     * it; told: 0, or 1: a resolution of this device's that the hub has not heard of. */
    "CREATE TABLE sync_conflicts(id BLOB PRIMARY KEY, why TEXT NOT NULL, tbl INTEGER NOT NULL, key BLOB NOT NULL, col "
    "INTEGER,"
    " stamp INTEGER, device BLOB, value, state TEXT NOT NULL, at_ms INTEGER NOT NULL, noted INTEGER NOT NULL DEFAULT 0,"
    " told INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;"
    "CREATE INDEX sync_conflicts_row ON sync_conflicts(tbl, key);"
    "CREATE INDEX sync_conflicts_new ON sync_conflicts(noted) WHERE noted = 0;"
    "CREATE INDEX sync_conflicts_untold ON sync_conflicts(told) WHERE told = 1;"
    /* Batches bound to a number. state: enum cs_bound_state; batch: see enum cs_keep (a note is 0). */
    "CREATE TABLE sync_bound(number INTEGER PRIMARY KEY, hash BLOB NOT NULL, state INTEGER NOT NULL, log_number "
    "INTEGER, batch BLOB);"
    "CREATE TABLE sync_refused(hash BLOB PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;"
    /* L of the hub's last 65,536 numbers. */
    "CREATE TABLE sync_log(number INTEGER PRIMARY KEY, hash BLOB NOT NULL);"
    /* What a paused table held: per row a hash of each column's value. Exists only while something is paused. */
    "CREATE TABLE sync_shadow(tbl INTEGER NOT NULL, key BLOB NOT NULL, hashes BLOB NOT NULL, PRIMARY KEY(tbl, key)) "
    "WITHOUT ROWID;"
    /* Rows that were here before others' state came, and that it has not named yet (collect.c). Exists only while that
     * comes. doubted: whether its insert was ever sent is not known. */
    "CREATE TABLE sync_stale(tbl INTEGER NOT NULL, key BLOB NOT NULL, doubted INTEGER NOT NULL DEFAULT 0, PRIMARY "
    "KEY(tbl, key)) WITHOUT ROWID;"
    /* Edits of those that came meanwhile, each a DeltaSet, in their order. */
    "CREATE TABLE sync_stale_edits(tbl INTEGER NOT NULL, key BLOB NOT NULL, n INTEGER NOT NULL, edit BLOB NOT NULL, "
    "PRIMARY KEY(tbl, key, n)) WITHOUT ROWID;"
    /* All values of a deleted row that somebody had changed beside the delete: per column its number, the length of the
     * value's encoding, and that. Kept as long as such a conflict is open. */
    "CREATE TABLE " LOST_TABLE ";"
    /* Stamps of ours that were given up for others (reseal.c). */
    "CREATE TABLE " VOID_TABLE ";"
    "INSERT INTO sync_meta VALUES('format', 2), ('hlc', 0), ('next_unsent', 1);";

static const char *const ours[] = {
    "sync_meta",   "sync_tables", "sync_columns",     "sync_devices",   "sync_changelog", "sync_rows",
    "sync_unsent", "sync_hidden", "sync_bound",       "sync_conflicts", "sync_refused",   "sync_log",
    "sync_shadow", "sync_stale",  "sync_stale_edits", "sync_void",      "sync_lost",      CS_SHARED,
};
enum { NOURS = sizeof ours / sizeof ours[0], FORMAT = 2 };

int cs_layout_create(struct cs_replica *r, struct cs_error *err)
{
    return cs_db_exec(r, ddl, err);
}

/* Databases of before these tables were there. */
int cs_layout_void(struct cs_replica *r, struct cs_error *err)
{
    return cs_db_exec(r, "CREATE TABLE IF NOT EXISTS main." VOID_TABLE, err);
}

int cs_layout_lost(struct cs_replica *r, struct cs_error *err)
{
    return cs_db_exec(r, "CREATE TABLE IF NOT EXISTS main." LOST_TABLE, err);
}

int cs_layout_drop(struct cs_replica *r, struct cs_error *err)
{
    char sql[64];
    int rc = CS_OK;

    for (int i = 0; i < NOURS && rc == CS_OK; i++) {
        sqlite3_snprintf(sizeof sql, sql, "DROP TABLE IF EXISTS %s", ours[i]);
        rc = cs_db_exec(r, sql, err);
    }
    return rc;
}

/* CS_OK, CS_ENOTFOUND: we never were here, CS_EVERSION. */
int cs_layout_check(struct cs_replica *r, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc, step;
    int64_t format = 0;

    if (sqlite3_prepare_v2(r->db, "SELECT count(*) FROM main.sqlite_schema WHERE name = 'sync_meta' AND type = 'table'",
                           -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read the database");
    step = sqlite3_step(s);
    rc = step != SQLITE_ROW ? cs_db_fail(r, err, "cannot read the database")
         : sqlite3_column_int(s, 0) == 0
             ? cs_fail(err, CS_ENOTFOUND, "claw-sync has never been set up on this database")
             : CS_OK;
    sqlite3_finalize(s);
    if (rc != CS_OK)
        return rc;
    if (sqlite3_prepare_v2(r->db, "SELECT value FROM main.sync_meta WHERE name = 'format'", -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read our tables");
    if (cs_db_row(r, s, &rc, "cannot read our tables", err))
        format = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    if (rc != CS_OK)
        return rc;
    if (format > FORMAT)
        return cs_fail(err, CS_EVERSION,
                       "the database was set up by a newer version of claw-sync (format %lld, this one knows %d); "
                       "update claw-sync",
                       (long long)format, FORMAT);
    if (format == 1)
        return cs_fail(err, CS_EVERSION,
                       "the database was set up by a version of claw-sync before the first release (format 1); untrack "
                       "its tables with that one, then begin anew");
    return format < 1 ? cs_fail(err, CS_ECORRUPT, "table sync_meta of the database is not ours, or is damaged") : CS_OK;
}
