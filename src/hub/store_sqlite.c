/* The hub's store in one SQLite file: WAL, synchronous=FULL. One connection writes, a few read; SQLite's own write lock
 * makes writing transactions exclude each other. */
#include "hub/store.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>

#include "base/sqlite_code.h"
#include "base/world.h"

enum { SCHEMA_VERSION = 5, MAX_IDLE = 8, BUSY_MS = 10000 };

/* Devices that ask to be let in, and how far their exchange with a member has come. */
#define OFFER_TABLE                                                                                                    \
    "CREATE TABLE offer(workspace BLOB NOT NULL, device BLOB NOT NULL, made_ms INTEGER NOT NULL, offer BLOB NOT NULL," \
    " answer BLOB NOT NULL, reveal BLOB NOT NULL, done BLOB NOT NULL, PRIMARY KEY(workspace, device)) WITHOUT ROWID;"

/* What states are compared with: one device's, in buckets of leaves, with an index that has their sums; what others
 * miss of a device's state; and what each device signed about its own. */
#define STATE_TABLES                                                                                                   \
    "CREATE TABLE reference(workspace BLOB PRIMARY KEY NOT NULL, log_id INTEGER NOT NULL, number INTEGER NOT NULL,"    \
    " epoch INTEGER NOT NULL, device BLOB NOT NULL, whole INTEGER NOT NULL, only_prove INTEGER NOT NULL,"              \
    " changed_ms INTEGER NOT NULL, rows INTEGER NOT NULL, given INTEGER NOT NULL) WITHOUT ROWID;"                      \
    "CREATE TABLE bucket(workspace BLOB NOT NULL, prefix INTEGER NOT NULL, rows INTEGER NOT NULL, sum BLOB NOT NULL,"  \
    " leaves BLOB NOT NULL);"                                                                                          \
    "CREATE UNIQUE INDEX bucket_key ON bucket(workspace, prefix);"                                                     \
    "CREATE INDEX bucket_sum ON bucket(workspace, prefix, rows, sum);"                                                 \
    "CREATE TABLE wanted(workspace BLOB NOT NULL, device BLOB NOT NULL, tag BLOB NOT NULL, epoch INTEGER NOT NULL,"    \
    " PRIMARY KEY(workspace, device, tag)) WITHOUT ROWID;"                                                             \
    "CREATE TABLE proof(workspace BLOB NOT NULL, device BLOB NOT NULL, log_id INTEGER NOT NULL,"                       \
    " number INTEGER NOT NULL, given INTEGER NOT NULL, proof BLOB NOT NULL, PRIMARY KEY(workspace, device))"           \
    " WITHOUT ROWID;"

/* Whole merged states, in parts, for devices that do not have what the log has no more. */
#define SNAPSHOT_TABLES                                                                                                \
    "CREATE TABLE snapshot(workspace BLOB NOT NULL, slot INTEGER NOT NULL, state INTEGER NOT NULL,"                    \
    " log_id INTEGER NOT NULL, number INTEGER NOT NULL, device BLOB NOT NULL, parts INTEGER NOT NULL,"                 \
    " digest BLOB NOT NULL, bytes INTEGER NOT NULL, changed_ms INTEGER NOT NULL, attester BLOB NOT NULL,"              \
    " descriptor BLOB NOT NULL, attestation BLOB NOT NULL, PRIMARY KEY(workspace, slot)) WITHOUT ROWID;"               \
    "CREATE TABLE snapshot_part(workspace BLOB NOT NULL, slot INTEGER NOT NULL, part INTEGER NOT NULL,"                \
    " seq INTEGER NOT NULL, envelope BLOB NOT NULL, payload BLOB NOT NULL, PRIMARY KEY(workspace, slot, part, seq));"

/* log and chunk hold large rows and keep their rowids, so that their keys stay small trees of their own. */
static const char schema[] =
    /* A workspace's log and membership as they stand: the row that every write locks and moves on. */
    "CREATE TABLE workspace(workspace BLOB PRIMARY KEY NOT NULL, log_id INTEGER NOT NULL, refilled INTEGER NOT NULL,"
    " number INTEGER NOT NULL, log_hash BLOB NOT NULL, top_stamp INTEGER NOT NULL, member_seq INTEGER NOT NULL,"
    " epoch INTEGER NOT NULL, entry_hash BLOB NOT NULL, bytes INTEGER NOT NULL DEFAULT 0,"
    " pruned INTEGER NOT NULL DEFAULT 0, prune_to INTEGER NOT NULL DEFAULT 0,"
    " prune_ms INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;"
    /* Each device's newest batch (number 0: none yet), when the hub last heard of it, and how far it had read then. */
    "CREATE TABLE device(workspace BLOB NOT NULL, device BLOB NOT NULL, number INTEGER NOT NULL, hash BLOB NOT NULL,"
    " member_seq INTEGER NOT NULL, seen_ms INTEGER NOT NULL, pulled INTEGER NOT NULL DEFAULT 0,"
    " PRIMARY KEY(workspace, device)) WITHOUT ROWID;"
    /* The log: one row per batch; header, signature and payload hashes are the bytes that the device signed. */
    "CREATE TABLE log(workspace BLOB NOT NULL, number INTEGER NOT NULL, device BLOB NOT NULL,"
    " device_number INTEGER NOT NULL, hash BLOB NOT NULL, log_hash BLOB NOT NULL, header BLOB NOT NULL,"
    " signature BLOB NOT NULL, payload_hashes BLOB NOT NULL, entity_type TEXT NOT NULL,"
    " PRIMARY KEY(workspace, number));"
    "CREATE UNIQUE INDEX log_device ON log(workspace, device, device_number);"
    /* The ciphertext, as it was cut by the sender. */
    "CREATE TABLE chunk(workspace BLOB NOT NULL, number INTEGER NOT NULL, seq INTEGER NOT NULL, payload BLOB NOT NULL,"
    " PRIMARY KEY(workspace, number, seq));"
    /* The membership log: whole signed entries. */
    "CREATE TABLE entry(workspace BLOB NOT NULL, seq INTEGER NOT NULL, hash BLOB NOT NULL, entry BLOB NOT NULL,"
    " PRIMARY KEY(workspace, seq));" OFFER_TABLE STATE_TABLES SNAPSHOT_TABLES "PRAGMA user_version=5;";

static const char *const upgrade[SCHEMA_VERSION] = {
    /* from 1: how much ciphertext a workspace has */
    [1] = "ALTER TABLE workspace ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;"
          "UPDATE workspace SET bytes = (SELECT coalesce(sum(length(payload)), 0) FROM chunk"
          " WHERE chunk.workspace = workspace.workspace);"
          "PRAGMA user_version=2;",
    /* from 2: joining without a code */
    [2] = OFFER_TABLE "PRAGMA user_version=3;",
    /* from 3: reconciling */
    [3] = STATE_TABLES "PRAGMA user_version=4;",
    /* from 4: snapshots, and logs without their beginning */
    [4] = "ALTER TABLE workspace ADD COLUMN pruned INTEGER NOT NULL DEFAULT 0;"
          "ALTER TABLE workspace ADD COLUMN prune_to INTEGER NOT NULL DEFAULT 0;"
          "ALTER TABLE workspace ADD COLUMN prune_ms INTEGER NOT NULL DEFAULT 0;"
          "ALTER TABLE device ADD COLUMN pulled INTEGER NOT NULL DEFAULT 0;" SNAPSHOT_TABLES "PRAGMA user_version=5;",
};

enum stmt {
    S_BEGIN_READ,
    S_BEGIN_WRITE,
    S_COMMIT,
    S_ROLLBACK,
    S_SAVE,
    S_KEEP,
    S_UNDO,
    S_HEAD,
    S_DEVICE,
    S_LOG_HASH,
    S_ENTRY_HASH,
    S_DEVICE_BATCH,
    S_BATCHES,
    S_CHUNKS,
    S_ENTRIES,
    S_PUT_HEAD,
    S_PUT_DEVICE,
    S_PUT_BATCH,
    S_PUT_CHUNK,
    S_PUT_ENTRY,
    S_OFFERS,
    S_PUT_OFFER,
    S_DROP_OFFERS,
    S_WORKSPACES,
    S_REFERENCE,
    S_BUCKET_SUMS,
    S_BUCKET_LEAVES,
    S_WANTED,
    S_PROOFS,
    S_PUT_REFERENCE,
    S_PUT_BUCKET,
    S_DROP_BUCKET,
    S_PUT_WANTED,
    S_DROP_WANTED,
    S_PUT_PROOF,
    S_DROP_CHUNKS,
    S_DROP_LOG,
    S_RESET_DEVICES,
    S_DEVICES,
    S_SNAPSHOTS,
    S_PARTS,
    S_PUT_SNAPSHOT,
    S_PUT_PART,
    S_DROP_PARTS,
    S_DROP_SNAPSHOTS,
    S_DROP_ALL_PARTS,
    S_CHUNK_BYTES,
    S_PRUNE_CHUNKS,
    S_PRUNE_LOG,
    NSTMT
};

#define HEAD_COLUMNS                                                                                                   \
    "log_id, refilled, number, log_hash, top_stamp, member_seq, epoch, entry_hash, bytes, pruned, prune_to, prune_ms"
#define BATCH_COLUMNS "number, device, device_number, hash, log_hash, header, signature, payload_hashes, entity_type"
static const char *const sql[NSTMT] = {
    [S_BEGIN_READ] = "BEGIN",
    [S_BEGIN_WRITE] = "BEGIN IMMEDIATE",
    [S_COMMIT] = "COMMIT",
    [S_ROLLBACK] = "ROLLBACK",
    [S_SAVE] = "SAVEPOINT item",
    [S_KEEP] = "RELEASE item",
    [S_UNDO] = "ROLLBACK TO item",
    [S_HEAD] = "SELECT " HEAD_COLUMNS " FROM workspace WHERE workspace=?1",
    [S_DEVICE] = "SELECT number, hash, member_seq, seen_ms, pulled FROM device WHERE workspace=?1 AND device=?2",
    [S_LOG_HASH] = "SELECT log_hash FROM log WHERE workspace=?1 AND number=?2",
    [S_ENTRY_HASH] = "SELECT hash FROM entry WHERE workspace=?1 AND seq=?2",
    [S_DEVICE_BATCH] = "SELECT " BATCH_COLUMNS " FROM log WHERE workspace=?1 AND device=?2 AND device_number=?3",
    [S_BATCHES] = "SELECT " BATCH_COLUMNS " FROM log WHERE workspace=?1 AND number BETWEEN ?2 AND ?3 ORDER BY number",
    [S_CHUNKS] = "SELECT number, seq, payload FROM chunk WHERE workspace=?1 AND (number, seq)>=(?2, ?3) AND number<=?4"
                 " ORDER BY number, seq LIMIT ?5",
    [S_ENTRIES] = "SELECT seq, entry FROM entry WHERE workspace=?1 AND seq BETWEEN ?2 AND ?3 ORDER BY seq",
    [S_PUT_HEAD] = "INSERT INTO workspace(workspace, " HEAD_COLUMNS ") VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,"
                   "?13) ON CONFLICT DO UPDATE SET log_id=?2, refilled=?3, number=?4, log_hash=?5, top_stamp=?6,"
                   " member_seq=?7, epoch=?8, entry_hash=?9, bytes=?10, pruned=?11, prune_to=?12, prune_ms=?13",
    [S_PUT_DEVICE] = "INSERT INTO device(workspace, device, number, hash, member_seq, seen_ms, pulled)"
                     " VALUES(?1,?2,?3,?4,?5,?6,?7)"
                     " ON CONFLICT DO UPDATE SET number=?3, hash=?4, member_seq=?5, seen_ms=?6, pulled=?7",
    [S_PUT_BATCH] = "INSERT INTO log(workspace, " BATCH_COLUMNS ") VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)",
    [S_PUT_CHUNK] = "INSERT INTO chunk(workspace, number, seq, payload) VALUES(?1,?2,?3,?4)",
    [S_PUT_ENTRY] = "INSERT INTO entry(workspace, seq, hash, entry) VALUES(?1,?2,?3,?4)",
    [S_OFFERS] = "SELECT device, made_ms, offer, answer, reveal, done FROM offer WHERE workspace=?1 ORDER BY device",
    [S_PUT_OFFER] = "INSERT INTO offer(workspace, device, made_ms, offer, answer, reveal, done)"
                    " VALUES(?1,?2,?3,?4,?5,?6,?7) ON CONFLICT DO UPDATE SET made_ms=?3, offer=?4, answer=?5,"
                    " reveal=?6, done=?7",
    [S_DROP_OFFERS] = "DELETE FROM offer WHERE workspace=?1 AND made_ms<?2",
    [S_WORKSPACES] = "SELECT " HEAD_COLUMNS ", workspace FROM workspace WHERE workspace>?1 ORDER BY workspace",
    [S_REFERENCE] = "SELECT log_id, number, epoch, device, whole, only_prove, changed_ms, rows, given FROM reference "
                    "WHERE workspace=?1",
    [S_BUCKET_SUMS] = "SELECT prefix, rows, sum FROM bucket INDEXED BY bucket_sum"
                      " WHERE workspace=?1 AND prefix BETWEEN ?2 AND ?3 ORDER BY prefix",
    [S_BUCKET_LEAVES] = "SELECT prefix, rows, sum, leaves FROM bucket"
                        " WHERE workspace=?1 AND prefix BETWEEN ?2 AND ?3 ORDER BY prefix",
    [S_WANTED] = "SELECT epoch, tag FROM wanted WHERE workspace=?1 AND device=?2 ORDER BY tag",
    [S_PROOFS] = "SELECT device, log_id, number, proof, given FROM proof WHERE workspace=?1 ORDER BY device",
    [S_PUT_REFERENCE] = "INSERT INTO reference(workspace, log_id, number, epoch, device, whole, only_prove, changed_ms,"
                        " rows, given) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10) ON CONFLICT DO UPDATE SET log_id=?2,"
                        " number=?3, epoch=?4, device=?5, whole=?6, only_prove=?7, changed_ms=?8, rows=?9, given=?10",
    [S_PUT_BUCKET] = "INSERT INTO bucket(workspace, prefix, rows, sum, leaves) VALUES(?1,?2,?3,?4,?5)"
                     " ON CONFLICT(workspace, prefix) DO UPDATE SET rows=?3, sum=?4, leaves=?5",
    [S_DROP_BUCKET] = "DELETE FROM bucket WHERE workspace=?1 AND prefix=?2",
    [S_PUT_WANTED] = "INSERT INTO wanted(workspace, device, tag, epoch) VALUES(?1,?2,?3,?4)"
                     " ON CONFLICT DO UPDATE SET epoch=?4",
    [S_DROP_WANTED] = "DELETE FROM wanted WHERE workspace=?1 AND device=?2 AND (?3 IS NULL OR tag=?3)",
    [S_PUT_PROOF] = "INSERT INTO proof(workspace, device, log_id, number, proof, given) VALUES(?1,?2,?3,?4,?5,?6)"
                    " ON CONFLICT DO UPDATE SET log_id=?3, number=?4, proof=?5, given=?6",
    [S_DROP_CHUNKS] = "DELETE FROM chunk WHERE workspace=?1",
    [S_DROP_LOG] = "DELETE FROM log WHERE workspace=?1",
    [S_RESET_DEVICES] = "UPDATE device SET number=0, hash=zeroblob(32), member_seq=0, pulled=0 WHERE workspace=?1",
    [S_DEVICES] = "SELECT number, hash, member_seq, seen_ms, pulled, device FROM device WHERE workspace=?1"
                  " ORDER BY device",
    [S_SNAPSHOTS] =
        "SELECT slot, state, log_id, number, device, parts, digest, bytes, changed_ms, attester, descriptor,"
        " attestation FROM snapshot WHERE workspace=?1 ORDER BY slot",
    [S_PARTS] = "SELECT part, seq, envelope, payload FROM snapshot_part WHERE workspace=?1 AND slot=?2"
                " AND (part, seq)>=(?3, ?4) ORDER BY part, seq",
    [S_PUT_SNAPSHOT] = "INSERT INTO snapshot(workspace, slot, state, log_id, number, device, parts, digest, bytes,"
                       " changed_ms, attester, descriptor, attestation) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,"
                       "?13) ON CONFLICT DO UPDATE SET state=?3, log_id=?4, number=?5, device=?6, parts=?7, digest=?8,"
                       " bytes=?9, changed_ms=?10, attester=?11, descriptor=?12, attestation=?13",
    [S_PUT_PART] = "INSERT INTO snapshot_part(workspace, slot, part, seq, envelope, payload) VALUES(?1,?2,?3,?4,?5,?6)",
    [S_DROP_PARTS] = "DELETE FROM snapshot_part WHERE workspace=?1 AND slot=?2 AND part BETWEEN ?3 AND ?4",
    [S_DROP_SNAPSHOTS] = "DELETE FROM snapshot WHERE workspace=?1",
    [S_DROP_ALL_PARTS] = "DELETE FROM snapshot_part WHERE workspace=?1",
    [S_CHUNK_BYTES] = "SELECT coalesce(sum(length(payload)), 0) FROM chunk WHERE workspace=?1 AND number BETWEEN ?2 AND"
                      " ?3",
    [S_PRUNE_CHUNKS] = "DELETE FROM chunk WHERE workspace=?1 AND number BETWEEN ?2 AND ?3",
    [S_PRUNE_LOG] = "DELETE FROM log WHERE workspace=?1 AND number BETWEEN ?2 AND ?3",
};

struct sqlite_store;
struct conn { /* one connection, and the one transaction that it carries at a time */
    cs_store_tx tx;
    struct sqlite_store *store;
    struct conn *next;         /* among the idle ones */
    sqlite3 *db;               /* owned */
    sqlite3_stmt *stmt[NSTMT]; /* owned; prepared on first use */
    enum cs_store_mode mode;
    bool lost; /* SQLite rolled the transaction back on its own */
};

struct sqlite_store {
    char *path;
    struct conn *writer;
    pthread_mutex_t write_lock; /* who holds it has the writer */
    pthread_mutex_t idle_lock;  /* guards the two below; never taken with write_lock wanted */
    struct conn *idle;
    int nidle;
};

/* SQLite's error as ours. A full disk or a failed write may have ended the transaction: then every later statement
 * would commit by itself, which `lost` prevents. */
static int fail_db(struct conn *c, const char *what, struct cs_error *err)
{
    int rc = sqlite3_errcode(c->db);
    int code = (rc & 0xff) == SQLITE_CONSTRAINT ? CS_EEXIST : cs_sqlite_code(rc);

    if (sqlite3_get_autocommit(c->db))
        c->lost = true;
    return cs_fail(err, code, "cannot %s in \"%s\": %s", what, c->store->path, cs_sqlite_cause(c->db));
}

static int stmt_get(struct conn *c, enum stmt which, sqlite3_stmt **out, struct cs_error *err)
{
    *out = NULL;
    if (c->lost && which != S_ROLLBACK)
        return cs_fail(err, CS_EIO, "the transaction on \"%s\" was lost; nothing of it is stored", c->store->path);
    if (c->stmt[which] == NULL &&
        sqlite3_prepare_v3(c->db, sql[which], -1, SQLITE_PREPARE_PERSISTENT, &c->stmt[which], NULL) != SQLITE_OK)
        return fail_db(c, "prepare a statement", err);
    *out = c->stmt[which];
    return CS_OK;
}

/* Runs a statement that yields no row, and makes it ready for the next use. */
static int stmt_run(struct conn *c, sqlite3_stmt *s, const char *what, struct cs_error *err)
{
    int rc = sqlite3_step(s), code = CS_OK;

    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        code = fail_db(c, what, err);
    sqlite3_reset(s);
    return code;
}

static int run(struct conn *c, enum stmt which, const char *what, struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc = stmt_get(c, which, &s, err);

    return rc == CS_OK ? stmt_run(c, s, what, err) : rc;
}

static void bind_bytes(sqlite3_stmt *s, int at, const void *p, size_t n)
{
    sqlite3_bind_blob64(s, at, n == 0 ? "" : p, n, SQLITE_STATIC);
}
static void bind_slice(sqlite3_stmt *s, int at, struct cs_slice v)
{
    bind_bytes(s, at, v.data, v.len);
}
static void bind_u64(sqlite3_stmt *s, int at, uint64_t v)
{
    sqlite3_bind_int64(s, at, (sqlite3_int64)v);
}
static struct cs_slice column_slice(sqlite3_stmt *s, int at)
{
    const void *p = sqlite3_column_blob(s, at);

    return cs_slice(p, (size_t)sqlite3_column_bytes(s, at));
}
static uint64_t column_u64(sqlite3_stmt *s, int at)
{
    return (uint64_t)sqlite3_column_int64(s, at);
}
/* Fixed-width bytes; false when the file holds something else. */
static bool column_into(sqlite3_stmt *s, int at, void *out, size_t n)
{
    struct cs_slice v = column_slice(s, at);

    if (v.len != n || v.data == NULL)
        return false;
    memcpy(out, v.data, n);
    return true;
}

static const struct cs_store_ops sqlite_ops;

/* ---- connections ---- */

static void conn_close(struct conn *c)
{
    for (int i = 0; c != NULL && i < NSTMT; i++)
        sqlite3_finalize(c->stmt[i]);
    if (c != NULL)
        sqlite3_close(c->db);
    free(c);
}

static int conn_open(struct sqlite_store *st, enum cs_store_mode mode, struct conn **out, struct cs_error *err)
{
    static const char setup[] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA journal_size_limit=67108864;"
                                "PRAGMA foreign_keys=OFF; PRAGMA trusted_schema=OFF; PRAGMA cache_size=-4096";
    struct conn *c = calloc(1, sizeof *c);

    if (c == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    *c = (struct conn){ .tx = { &sqlite_ops }, .store = st, .mode = mode };
    if (sqlite3_open_v2(st->path, &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK) {
        int rc = c->db == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : fail_db(c, "open the database", err);

        conn_close(c);
        return rc;
    }
    sqlite3_extended_result_codes(c->db, 1);
    sqlite3_busy_timeout(c->db, BUSY_MS);
    if (sqlite3_exec(c->db, setup, NULL, NULL, NULL) != SQLITE_OK) {
        int rc = fail_db(c, "open the database", err);

        conn_close(c);
        return rc;
    }
    *out = c;
    return CS_OK;
}

static int idle_take(struct sqlite_store *st, struct conn **out, struct cs_error *err)
{
    pthread_mutex_lock(&st->idle_lock);
    *out = st->idle;
    if (*out != NULL) {
        st->idle = (*out)->next;
        st->nidle--;
    }
    pthread_mutex_unlock(&st->idle_lock);
    return *out != NULL ? CS_OK : conn_open(st, CS_STORE_READ, out, err);
}

static void idle_put(struct sqlite_store *st, struct conn *c)
{
    pthread_mutex_lock(&st->idle_lock);
    if (st->nidle < MAX_IDLE) {
        c->next = st->idle;
        st->idle = c;
        st->nidle++;
        c = NULL;
    }
    pthread_mutex_unlock(&st->idle_lock);
    conn_close(c);
}

/* ---- transactions ---- */

/* Rolling back may fail, where memory is short: whoever comes next makes up for it. */
static int leave(struct conn *c, struct cs_error *err)
{
    return sqlite3_get_autocommit(c->db) ? CS_OK : run(c, S_ROLLBACK, "roll back", err);
}

static int sqlite_begin(void *self, enum cs_store_mode mode, const struct cs_uuid *workspaces, size_t n,
                        cs_store_tx **out, struct cs_error *err)
{
    struct sqlite_store *st = self;
    struct conn *c;
    int rc;

    (void)workspaces; /* SQLite's write lock covers them all */
    (void)n;
    *out = NULL;
    if (mode == CS_STORE_READ) {
        if ((rc = idle_take(st, &c, err)) != CS_OK)
            return rc;
        if ((rc = run(c, S_BEGIN_READ, "begin to read", err)) != CS_OK) {
            conn_close(c);
            return rc;
        }
    } else {
        pthread_mutex_lock(&st->write_lock);
        c = st->writer;
        c->lost = false;
        if ((rc = leave(c, err)) != CS_OK || (rc = run(c, S_BEGIN_WRITE, "begin to write", err)) != CS_OK) {
            pthread_mutex_unlock(&st->write_lock);
            return rc;
        }
    }
    *out = &c->tx;
    return CS_OK;
}

static void sqlite_rollback(cs_store_tx *tx)
{
    struct conn *c = (struct conn *)tx;

    if (leave(c, NULL) != CS_OK)
        c->lost = true;
    if (c->mode == CS_STORE_WRITE)
        pthread_mutex_unlock(&c->store->write_lock);
    else if (c->lost)
        conn_close(c);
    else
        idle_put(c->store, c);
}

static int sqlite_commit(cs_store_tx *tx, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    int rc = run(c, S_COMMIT, "commit", err);

    sqlite_rollback(tx); /* nothing to roll back after a commit that worked */
    return rc;
}

static int sqlite_save(cs_store_tx *tx, struct cs_error *err)
{
    return run((struct conn *)tx, S_SAVE, "set a savepoint", err);
}
static int sqlite_keep(cs_store_tx *tx, struct cs_error *err)
{
    return run((struct conn *)tx, S_KEEP, "release a savepoint", err);
}
static int sqlite_undo(cs_store_tx *tx, struct cs_error *err)
{
    int rc = run((struct conn *)tx, S_UNDO, "go back to a savepoint", err);

    return rc == CS_OK ? sqlite_keep(tx, err) : rc; /* ROLLBACK TO leaves the savepoint open */
}

/* ---- reads ---- */

/* The end of a read of at most one row: found tells whether the row was there and well formed. */
static int row_end(struct conn *c, sqlite3_stmt *s, int step, bool well_formed, const char *what, struct cs_error *err)
{
    int rc = CS_OK;

    if (step == SQLITE_DONE)
        rc = cs_fail(err, CS_ENOTFOUND, "no such %s", what);
    else if (step != SQLITE_ROW)
        rc = fail_db(c, "read", err);
    else if (!well_formed)
        rc = cs_fail(err, CS_ECORRUPT, "a damaged %s in \"%s\"", what, c->store->path);
    sqlite3_reset(s);
    return rc;
}

static bool head_row(sqlite3_stmt *s, struct cs_store_head *out)
{
    *out = (struct cs_store_head){ .log_id = column_u64(s, 0),
                                   .refilled = column_u64(s, 1),
                                   .number = column_u64(s, 2),
                                   .top_stamp = sqlite3_column_int64(s, 4),
                                   .member_seq = (uint32_t)column_u64(s, 5),
                                   .epoch = (uint32_t)column_u64(s, 6),
                                   .bytes = column_u64(s, 8),
                                   .pruned = column_u64(s, 9),
                                   .prune_to = column_u64(s, 10),
                                   .prune_ms = sqlite3_column_int64(s, 11) };
    return column_into(s, 3, out->log_hash, 32) && column_into(s, 7, out->entry_hash, 32);
}

static int sqlite_head(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_store_head *out, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int step, rc = stmt_get(c, S_HEAD, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    step = sqlite3_step(s);
    return row_end(c, s, step, step == SQLITE_ROW && head_row(s, out), "workspace", err);
}

static bool device_row(sqlite3_stmt *s, struct cs_store_device *out)
{
    *out = (struct cs_store_device){ .number = column_u64(s, 0),
                                     .member_seq = (uint32_t)column_u64(s, 2),
                                     .seen_ms = sqlite3_column_int64(s, 3),
                                     .pulled = column_u64(s, 4) };
    return column_into(s, 1, out->hash, 32);
}

static int sqlite_device(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                         struct cs_store_device *out, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    bool good = false;
    int step, rc = stmt_get(c, S_DEVICE, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_bytes(s, 2, device->b, sizeof device->b);
    if ((step = sqlite3_step(s)) == SQLITE_ROW)
        good = device_row(s, out);
    return row_end(c, s, step, good, "device", err);
}

/* A hash under (workspace, number). */
static int hash_at(cs_store_tx *tx, enum stmt which, const struct cs_uuid *ws, uint64_t number, uint8_t out[32],
                   const char *what, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int step, rc = stmt_get(c, which, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, number);
    step = sqlite3_step(s);
    return row_end(c, s, step, step == SQLITE_ROW && column_into(s, 0, out, 32), what, err);
}

static int sqlite_log_hash(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t number, uint8_t out[32],
                           struct cs_error *err)
{
    return hash_at(tx, S_LOG_HASH, ws, number, out, "log entry", err);
}
static int sqlite_entry_hash(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t seq, uint8_t out[32],
                             struct cs_error *err)
{
    return hash_at(tx, S_ENTRY_HASH, ws, seq, out, "membership entry", err);
}

static bool batch_row(sqlite3_stmt *s, struct cs_store_batch *b)
{
    *b = (struct cs_store_batch){ .number = column_u64(s, 0),
                                  .device_number = column_u64(s, 2),
                                  .header = column_slice(s, 5),
                                  .signature = column_slice(s, 6),
                                  .payload_hashes = column_slice(s, 7),
                                  .entity_type = column_slice(s, 8) };
    return column_into(s, 1, b->device.b, 16) && column_into(s, 3, b->hash, 32) && column_into(s, 4, b->log_hash, 32);
}

static int sqlite_device_batch(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                               uint64_t device_number, cs_store_visit_batch *visit, void *arg, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_store_batch b;
    sqlite3_stmt *s;
    bool good = false;
    int step, rc = stmt_get(c, S_DEVICE_BATCH, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_bytes(s, 2, device->b, sizeof device->b);
    bind_u64(s, 3, device_number);
    if ((step = sqlite3_step(s)) == SQLITE_ROW && (good = batch_row(s, &b)))
        visit(arg, &b);
    return row_end(c, s, step, good, "batch", err);
}

/* The end of a read of many rows: step is the last one's result. */
static int rows_end(struct conn *c, sqlite3_stmt *s, int step, struct cs_error *err)
{
    int rc = step == SQLITE_DONE || step == SQLITE_ROW ? CS_OK : fail_db(c, "read", err);

    sqlite3_reset(s);
    return rc;
}

static int sqlite_batches(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t from, uint64_t to,
                          cs_store_visit_batch *visit, void *arg, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_store_batch b;
    sqlite3_stmt *s;
    int step, rc = stmt_get(c, S_BATCHES, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, from);
    bind_u64(s, 3, to);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        if (!batch_row(s, &b))
            return row_end(c, s, step, false, "batch", err);
        if (!visit(arg, &b))
            break;
    }
    return rows_end(c, s, step, err);
}

static int sqlite_chunks(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t from, uint32_t seq, uint64_t to,
                         uint32_t most, cs_store_visit_chunk *visit, void *arg, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int step, rc = stmt_get(c, S_CHUNKS, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, from);
    bind_u64(s, 3, seq);
    bind_u64(s, 4, to);
    bind_u64(s, 5, most);
    while ((step = sqlite3_step(s)) == SQLITE_ROW)
        if (!visit(arg, column_u64(s, 0), (uint32_t)column_u64(s, 1), column_slice(s, 2)))
            break;
    return rows_end(c, s, step, err);
}

static int sqlite_entries(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t from, uint32_t to,
                          cs_store_visit_entry *visit, void *arg, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int step, rc = stmt_get(c, S_ENTRIES, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, from);
    bind_u64(s, 3, to);
    while ((step = sqlite3_step(s)) == SQLITE_ROW)
        if (!visit(arg, (uint32_t)column_u64(s, 0), column_slice(s, 1)))
            break;
    return rows_end(c, s, step, err);
}

static int sqlite_offers(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_offer *visit, void *arg,
                         struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_store_offer o;
    sqlite3_stmt *s;
    int step, rc = stmt_get(c, S_OFFERS, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        o = (struct cs_store_offer){ .made_ms = sqlite3_column_int64(s, 1),
                                     .offer = column_slice(s, 2),
                                     .answer = column_slice(s, 3),
                                     .reveal = column_slice(s, 4),
                                     .done = column_slice(s, 5) };
        if (!column_into(s, 0, o.device.b, sizeof o.device.b)) {
            sqlite3_reset(s);
            return cs_fail(err, CS_ECORRUPT, "a damaged offer in \"%s\"", c->store->path);
        }
        if (!visit(arg, &o))
            break;
    }
    return rows_end(c, s, step, err);
}

static int sqlite_workspaces(cs_store_tx *tx, const struct cs_uuid *after, cs_store_visit_workspace *visit, void *arg,
                             struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_store_head head;
    struct cs_uuid ws;
    sqlite3_stmt *s;
    int step, rc = stmt_get(c, S_WORKSPACES, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, after->b, sizeof after->b);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        if (!head_row(s, &head) || !column_into(s, 12, ws.b, sizeof ws.b))
            return row_end(c, s, step, false, "workspace", err);
        if (!visit(arg, &ws, &head))
            break;
    }
    return rows_end(c, s, step, err);
}

static int sqlite_reference(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_store_reference *out,
                            struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    bool good = false;
    int step, rc = stmt_get(c, S_REFERENCE, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    if ((step = sqlite3_step(s)) == SQLITE_ROW) {
        *out = (struct cs_store_reference){ .log_id = column_u64(s, 0),
                                            .number = column_u64(s, 1),
                                            .epoch = (uint32_t)column_u64(s, 2),
                                            .whole = column_u64(s, 4) != 0,
                                            .only_prove = column_u64(s, 5) != 0,
                                            .changed_ms = sqlite3_column_int64(s, 6),
                                            .rows = column_u64(s, 7),
                                            .given = column_u64(s, 8) };
        good = column_into(s, 3, out->device.b, sizeof out->device.b);
    }
    return row_end(c, s, step, good, "reference", err);
}

static int buckets(cs_store_tx *tx, enum stmt which, const struct cs_uuid *ws, uint32_t first, uint32_t last,
                   cs_store_visit_bucket *visit, void *arg, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int step, rc = stmt_get(c, which, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, first);
    bind_u64(s, 3, last);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        struct cs_store_bucket b = { .prefix = (uint32_t)column_u64(s, 0), .rows = (uint32_t)column_u64(s, 1) };

        if (which == S_BUCKET_LEAVES)
            b.leaves = column_slice(s, 3);
        if (!column_into(s, 2, b.sum, sizeof b.sum))
            return row_end(c, s, step, false, "bucket", err);
        if (!visit(arg, &b))
            break;
    }
    return rows_end(c, s, step, err);
}

static int sqlite_bucket_sums(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t first, uint32_t last,
                              cs_store_visit_bucket *visit, void *arg, struct cs_error *err)
{
    return buckets(tx, S_BUCKET_SUMS, ws, first, last, visit, arg, err);
}
static int sqlite_bucket_leaves(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t first, uint32_t last,
                                cs_store_visit_bucket *visit, void *arg, struct cs_error *err)
{
    return buckets(tx, S_BUCKET_LEAVES, ws, first, last, visit, arg, err);
}

static int sqlite_wanted(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                         cs_store_visit_tag *visit, void *arg, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    uint8_t tag[16];
    int step, rc = stmt_get(c, S_WANTED, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_bytes(s, 2, device->b, sizeof device->b);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        if (!column_into(s, 1, tag, sizeof tag))
            return row_end(c, s, step, false, "wanted entity", err);
        if (!visit(arg, (uint32_t)column_u64(s, 0), tag))
            break;
    }
    return rows_end(c, s, step, err);
}

static int sqlite_proofs(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_proof *visit, void *arg,
                         struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_store_proof p;
    sqlite3_stmt *s;
    int step, rc = stmt_get(c, S_PROOFS, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        p = (struct cs_store_proof){ .log_id = column_u64(s, 1),
                                     .number = column_u64(s, 2),
                                     .given = column_u64(s, 4),
                                     .proof = column_slice(s, 3) };
        if (!column_into(s, 0, p.device.b, sizeof p.device.b))
            return row_end(c, s, step, false, "proof", err);
        if (!visit(arg, &p))
            break;
    }
    return rows_end(c, s, step, err);
}

static int sqlite_devices(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_device *visit, void *arg,
                          struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_store_device d;
    struct cs_uuid id;
    sqlite3_stmt *s;
    int step, rc = stmt_get(c, S_DEVICES, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        if (!device_row(s, &d) || !column_into(s, 5, id.b, sizeof id.b))
            return row_end(c, s, step, false, "device", err);
        if (!visit(arg, &id, &d))
            break;
    }
    return rows_end(c, s, step, err);
}

static int sqlite_snapshots(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_snapshot *visit, void *arg,
                            struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_store_snapshot n;
    sqlite3_stmt *s;
    int step, rc = stmt_get(c, S_SNAPSHOTS, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        n = (struct cs_store_snapshot){ .slot = (unsigned)column_u64(s, 0),
                                        .state = (enum cs_snapshot_state)column_u64(s, 1),
                                        .log_id = column_u64(s, 2),
                                        .number = column_u64(s, 3),
                                        .parts = (uint32_t)column_u64(s, 5),
                                        .bytes = column_u64(s, 7),
                                        .changed_ms = sqlite3_column_int64(s, 8),
                                        .descriptor = column_slice(s, 10),
                                        .attestation = column_slice(s, 11) };
        if (n.slot >= CS_SNAPSHOT_SLOTS || n.state > CS_SNAPSHOT_SERVED || !column_into(s, 4, n.device.b, 16) ||
            !column_into(s, 6, n.digest, 32) || !column_into(s, 9, n.attester.b, 16))
            return row_end(c, s, step, false, "snapshot", err);
        if (!visit(arg, &n))
            break;
    }
    return rows_end(c, s, step, err);
}

static int sqlite_snapshot_parts(cs_store_tx *tx, const struct cs_uuid *ws, unsigned slot, uint32_t part, uint32_t seq,
                                 cs_store_visit_part *visit, void *arg, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_store_part p;
    sqlite3_stmt *s;
    int step, rc = stmt_get(c, S_PARTS, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, slot);
    bind_u64(s, 3, part);
    bind_u64(s, 4, seq);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        p = (struct cs_store_part){ .part = (uint32_t)column_u64(s, 0),
                                    .seq = (uint32_t)column_u64(s, 1),
                                    .envelope = column_slice(s, 2),
                                    .payload = column_slice(s, 3) };
        if (!visit(arg, &p))
            break;
    }
    return rows_end(c, s, step, err);
}

/* ---- writes ---- */

static int sqlite_put_head(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_head *h,
                           struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_PUT_HEAD, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, h->log_id);
    bind_u64(s, 3, h->refilled);
    bind_u64(s, 4, h->number);
    bind_bytes(s, 5, h->log_hash, 32);
    sqlite3_bind_int64(s, 6, h->top_stamp);
    bind_u64(s, 7, h->member_seq);
    bind_u64(s, 8, h->epoch);
    bind_bytes(s, 9, h->entry_hash, 32);
    bind_u64(s, 10, h->bytes);
    bind_u64(s, 11, h->pruned);
    bind_u64(s, 12, h->prune_to);
    sqlite3_bind_int64(s, 13, h->prune_ms);
    return stmt_run(c, s, "store a head", err);
}

static int sqlite_put_device(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                             const struct cs_store_device *d, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_PUT_DEVICE, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_bytes(s, 2, device->b, sizeof device->b);
    bind_u64(s, 3, d->number);
    bind_bytes(s, 4, d->hash, 32);
    bind_u64(s, 5, d->member_seq);
    sqlite3_bind_int64(s, 6, d->seen_ms);
    bind_u64(s, 7, d->pulled);
    return stmt_run(c, s, "store a device", err);
}

static int put_chunks(struct conn *c, const struct cs_uuid *ws, uint64_t number, const struct cs_slice *chunks,
                      size_t n, struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_PUT_CHUNK, &s, err);

    for (size_t i = 0; rc == CS_OK && i < n; i++) {
        bind_bytes(s, 1, ws->b, sizeof ws->b);
        bind_u64(s, 2, number);
        bind_u64(s, 3, i);
        bind_slice(s, 4, chunks[i]);
        rc = stmt_run(c, s, "store a chunk", err);
    }
    return rc;
}

static int sqlite_put_batch(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_batch *b,
                            const struct cs_slice *chunks, size_t nchunks, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_PUT_BATCH, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, b->number);
    bind_bytes(s, 3, b->device.b, sizeof b->device.b);
    bind_u64(s, 4, b->device_number);
    bind_bytes(s, 5, b->hash, 32);
    bind_bytes(s, 6, b->log_hash, 32);
    bind_slice(s, 7, b->header);
    bind_slice(s, 8, b->signature);
    bind_slice(s, 9, b->payload_hashes);
    sqlite3_bind_text64(s, 10, b->entity_type.len == 0 ? "" : (const char *)b->entity_type.data, b->entity_type.len,
                        SQLITE_STATIC, SQLITE_UTF8);
    rc = stmt_run(c, s, "store a batch", err);
    return rc == CS_OK ? put_chunks(c, ws, b->number, chunks, nchunks, err) : rc;
}

static int sqlite_put_entry(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t seq, const uint8_t hash[32],
                            struct cs_slice entry, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_PUT_ENTRY, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, seq);
    bind_bytes(s, 3, hash, 32);
    bind_slice(s, 4, entry);
    return stmt_run(c, s, "store a membership entry", err);
}

static int sqlite_put_offer(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_offer *o,
                            struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_PUT_OFFER, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_bytes(s, 2, o->device.b, sizeof o->device.b);
    sqlite3_bind_int64(s, 3, o->made_ms);
    bind_slice(s, 4, o->offer);
    bind_slice(s, 5, o->answer);
    bind_slice(s, 6, o->reveal);
    bind_slice(s, 7, o->done);
    return stmt_run(c, s, "store an offer", err);
}

static int sqlite_drop_offers(cs_store_tx *tx, const struct cs_uuid *ws, int64_t before_ms, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_DROP_OFFERS, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    sqlite3_bind_int64(s, 2, before_ms);
    return stmt_run(c, s, "drop old offers", err);
}

static int sqlite_put_reference(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_reference *r,
                                struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_PUT_REFERENCE, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, r->log_id);
    bind_u64(s, 3, r->number);
    bind_u64(s, 4, r->epoch);
    bind_bytes(s, 5, r->device.b, sizeof r->device.b);
    bind_u64(s, 6, r->whole);
    bind_u64(s, 7, r->only_prove);
    sqlite3_bind_int64(s, 8, r->changed_ms);
    bind_u64(s, 9, r->rows);
    bind_u64(s, 10, r->given);
    return stmt_run(c, s, "store a reference", err);
}

static int sqlite_put_bucket(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_bucket *b,
                             struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, b->rows == 0 ? S_DROP_BUCKET : S_PUT_BUCKET, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, b->prefix);
    if (b->rows > 0) {
        bind_u64(s, 3, b->rows);
        bind_bytes(s, 4, b->sum, sizeof b->sum);
        bind_slice(s, 5, b->leaves);
    }
    return stmt_run(c, s, "store a bucket", err);
}

static int sqlite_put_wanted(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device, uint32_t epoch,
                             const uint8_t tag[16], struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_PUT_WANTED, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_bytes(s, 2, device->b, sizeof device->b);
    bind_bytes(s, 3, tag, 16);
    bind_u64(s, 4, epoch);
    return stmt_run(c, s, "store what is wanted", err);
}

static int sqlite_drop_wanted(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                              const uint8_t *tag, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_DROP_WANTED, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_bytes(s, 2, device->b, sizeof device->b);
    if (tag != NULL)
        bind_bytes(s, 3, tag, 16);
    else
        sqlite3_bind_null(s, 3);
    return stmt_run(c, s, "drop what was wanted", err);
}

static int sqlite_put_proof(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_proof *p,
                            struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_PUT_PROOF, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_bytes(s, 2, p->device.b, sizeof p->device.b);
    bind_u64(s, 3, p->log_id);
    bind_u64(s, 4, p->number);
    bind_slice(s, 5, p->proof);
    bind_u64(s, 6, p->given);
    return stmt_run(c, s, "store a proof", err);
}

static int sqlite_put_snapshot(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_snapshot *n,
                               struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_PUT_SNAPSHOT, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, n->slot);
    bind_u64(s, 3, n->state);
    bind_u64(s, 4, n->log_id);
    bind_u64(s, 5, n->number);
    bind_bytes(s, 6, n->device.b, sizeof n->device.b);
    bind_u64(s, 7, n->parts);
    bind_bytes(s, 8, n->digest, sizeof n->digest);
    bind_u64(s, 9, n->bytes);
    sqlite3_bind_int64(s, 10, n->changed_ms);
    bind_bytes(s, 11, n->attester.b, sizeof n->attester.b);
    bind_slice(s, 12, n->descriptor);
    bind_slice(s, 13, n->attestation);
    return stmt_run(c, s, "store a snapshot", err);
}

static int sqlite_put_snapshot_part(cs_store_tx *tx, const struct cs_uuid *ws, unsigned slot,
                                    const struct cs_store_part *p, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_PUT_PART, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, slot);
    bind_u64(s, 3, p->part);
    bind_u64(s, 4, p->seq);
    bind_slice(s, 5, p->envelope);
    bind_slice(s, 6, p->payload);
    return stmt_run(c, s, "store a part of a snapshot", err);
}

static int sqlite_drop_snapshot_parts(cs_store_tx *tx, const struct cs_uuid *ws, unsigned slot, uint32_t from,
                                      uint32_t to, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    sqlite3_stmt *s;
    int rc = stmt_get(c, S_DROP_PARTS, &s, err);

    if (rc != CS_OK)
        return rc;
    bind_bytes(s, 1, ws->b, sizeof ws->b);
    bind_u64(s, 2, slot);
    bind_u64(s, 3, from);
    bind_u64(s, 4, to);
    return stmt_run(c, s, "drop parts of a snapshot", err);
}

static int sqlite_prune_log(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t from, uint64_t to, uint64_t *bytes,
                            struct cs_error *err)
{
    static const enum stmt steps[] = { S_CHUNK_BYTES, S_PRUNE_CHUNKS, S_PRUNE_LOG };
    struct conn *c = (struct conn *)tx;
    int rc = CS_OK;

    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && rc == CS_OK; i++) {
        sqlite3_stmt *s;

        if ((rc = stmt_get(c, steps[i], &s, err)) != CS_OK)
            return rc;
        bind_bytes(s, 1, ws->b, sizeof ws->b);
        bind_u64(s, 2, from);
        bind_u64(s, 3, to);
        if (steps[i] == S_CHUNK_BYTES) {
            int step = sqlite3_step(s);

            *bytes = step == SQLITE_ROW ? column_u64(s, 0) : 0;
            rc = rows_end(c, s, step, err);
        } else {
            rc = stmt_run(c, s, "prune a log", err);
        }
    }
    return rc;
}

static int sqlite_drop_log(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_error *err)
{
    static const enum stmt steps[] = { S_DROP_CHUNKS, S_DROP_LOG, S_RESET_DEVICES, S_DROP_SNAPSHOTS, S_DROP_ALL_PARTS };
    struct conn *c = (struct conn *)tx;
    int rc = CS_OK;

    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && rc == CS_OK; i++) {
        sqlite3_stmt *s;

        if ((rc = stmt_get(c, steps[i], &s, err)) != CS_OK)
            return rc;
        bind_bytes(s, 1, ws->b, sizeof ws->b);
        rc = stmt_run(c, s, "drop a log", err);
    }
    return rc;
}

/* ---- the store ---- */

static void sqlite_close(void *self)
{
    struct sqlite_store *st = self;

    while (st->idle != NULL) {
        struct conn *c = st->idle;

        st->idle = c->next;
        conn_close(c);
    }
    conn_close(st->writer); /* last: it folds the WAL into the file */
    pthread_mutex_destroy(&st->write_lock);
    pthread_mutex_destroy(&st->idle_lock);
    free(st->path);
    free(st);
}

static const struct cs_store_ops sqlite_ops = {
    .name = "sqlite",
    .begin = sqlite_begin,
    .commit = sqlite_commit,
    .rollback = sqlite_rollback,
    .save = sqlite_save,
    .keep = sqlite_keep,
    .undo = sqlite_undo,
    .head = sqlite_head,
    .device = sqlite_device,
    .log_hash = sqlite_log_hash,
    .entry_hash = sqlite_entry_hash,
    .device_batch = sqlite_device_batch,
    .batches = sqlite_batches,
    .chunks = sqlite_chunks,
    .entries = sqlite_entries,
    .put_head = sqlite_put_head,
    .put_device = sqlite_put_device,
    .put_batch = sqlite_put_batch,
    .put_entry = sqlite_put_entry,
    .offers = sqlite_offers,
    .put_offer = sqlite_put_offer,
    .drop_offers = sqlite_drop_offers,
    .workspaces = sqlite_workspaces,
    .reference = sqlite_reference,
    .bucket_sums = sqlite_bucket_sums,
    .bucket_leaves = sqlite_bucket_leaves,
    .wanted = sqlite_wanted,
    .proofs = sqlite_proofs,
    .put_reference = sqlite_put_reference,
    .put_bucket = sqlite_put_bucket,
    .put_wanted = sqlite_put_wanted,
    .drop_wanted = sqlite_drop_wanted,
    .put_proof = sqlite_put_proof,
    .devices = sqlite_devices,
    .snapshots = sqlite_snapshots,
    .snapshot_parts = sqlite_snapshot_parts,
    .put_snapshot = sqlite_put_snapshot,
    .put_snapshot_part = sqlite_put_snapshot_part,
    .drop_snapshot_parts = sqlite_drop_snapshot_parts,
    .prune_log = sqlite_prune_log,
    .drop_log = sqlite_drop_log,
    .close = sqlite_close,
};

/* Makes the tables in an empty file; refuses a newer hub's. Under the write lock, so two starting hubs do it once. */
static int schema_ensure(struct conn *c, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int version = -1, rc;

    if ((rc = run(c, S_BEGIN_WRITE, "begin to write", err)) != CS_OK)
        return rc;
    if (sqlite3_prepare_v2(c->db, "PRAGMA user_version", -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
        version = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    if (version < 0)
        rc = fail_db(c, "read the schema version", err);
    else if (version > SCHEMA_VERSION)
        rc = cs_fail(err, CS_EVERSION, "\"%s\" was written by a newer hub (schema %d, this one knows %d)",
                     c->store->path, version, SCHEMA_VERSION);
    else if (version == 0 && sqlite3_exec(c->db, schema, NULL, NULL, NULL) != SQLITE_OK)
        rc = fail_db(c, "make the tables", err);
    for (; rc == CS_OK && version > 0 && version < SCHEMA_VERSION; version++)
        if (sqlite3_exec(c->db, upgrade[version], NULL, NULL, NULL) != SQLITE_OK)
            rc = fail_db(c, "bring the tables up to date", err);
    if (rc == CS_OK)
        return run(c, S_COMMIT, "commit", err);
    run(c, S_ROLLBACK, "roll back", NULL);
    return rc;
}

int cs_store_sqlite_open(struct cs_store *out, struct cs_world *world, const char *path, struct cs_error *err)
{
    struct sqlite_store *st = calloc(1, sizeof *st);
    int rc;

    *out = (struct cs_store){ 0 };
    if (st == NULL || (st->path = strdup(path)) == NULL) {
        free(st);
        return cs_fail(err, CS_ENOMEM, "out of memory");
    }
    pthread_mutex_init(&st->write_lock, NULL);
    pthread_mutex_init(&st->idle_lock, NULL);
    /* SQLite would make the file with the process's umask; an empty file is an empty database. */
    rc = world->files.ops->write_new(world->files.self, path, cs_slice("", 0), 0600, err);
    if (rc == CS_OK || rc == CS_EEXIST)
        rc = conn_open(st, CS_STORE_WRITE, &st->writer, err);
    if (rc == CS_OK)
        rc = schema_ensure(st->writer, err);
    /* nobody is shown a log that a power failure could shorten */
    if (rc == CS_OK && !cs_sqlite_sync_found(st->writer->db))
        rc = fail_db(st->writer, "sync the database", err);
    if (rc != CS_OK) {
        sqlite_close(st);
        return rc;
    }
    *out = (struct cs_store){ &sqlite_ops, st };
    return CS_OK;
}
