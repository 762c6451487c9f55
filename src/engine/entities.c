#include "engine/entities.h"

#include <sqlite3.h>
#include <stdlib.h>

#include "crdt/dump.h"

enum sql { S_ADD, S_TABLE, S_LEAVES, S_FIND, S_PICK, S_PICKED, NSQL };
static const char *const sql[NSQL] = {
    [S_ADD] = "INSERT INTO entity(bucket, tag, state, tbl, key) VALUES(?1, ?2, ?3, ?4, ?5)",
    [S_TABLE] = "INSERT INTO tbl(name) VALUES(?1)",
    [S_LEAVES] = "SELECT tag, state FROM entity WHERE bucket = ?1 ORDER BY tag",
    [S_FIND] = "SELECT id FROM entity WHERE bucket = ?1 AND tag = ?2",
    [S_PICK] = "INSERT OR IGNORE INTO picked(id) VALUES(?1)",
    [S_PICKED] = ("SELECT e.id, t.name, e.key FROM picked p JOIN entity e ON e.id = p.id JOIN tbl t ON t.id = e.tbl "
                  "WHERE p.id > ?1 ORDER BY p.id LIMIT ?2"),
};

struct cs_entities {
    sqlite3 *db; /* owned; SQLite deletes its file */
    sqlite3_stmt *stmt[NSQL];
    struct cs_sums *sums;
    struct cs_hasher hasher; /* of the dump */
    uint8_t root[32];
    uint8_t *keys;       /* guarded: tag key, state key; only while reading */
    struct cs_buf table; /* the last one's name */
    int64_t table_id;
    bool sorted; /* there is an index by bucket */
};

static int fail_db(cs_entities *e, struct cs_error *err)
{
    int rc = e->db == NULL ? SQLITE_NOMEM : sqlite3_errcode(e->db);

    return cs_fail(err,
                   rc == SQLITE_NOMEM  ? CS_ENOMEM
                   : rc == SQLITE_FULL ? CS_EIO
                                       : CS_EDB,
                   "cannot keep a list of the rows for comparing: %s",
                   e->db == NULL ? "out of memory" : sqlite3_errmsg(e->db));
}

static sqlite3_stmt *get(cs_entities *e, enum sql which, struct cs_error *err)
{
    if (e->stmt[which] == NULL &&
        sqlite3_prepare_v3(e->db, sql[which], -1, SQLITE_PREPARE_PERSISTENT, &e->stmt[which], NULL) != SQLITE_OK)
        fail_db(e, err);
    return e->stmt[which];
}

static int run(cs_entities *e, sqlite3_stmt *s, struct cs_error *err)
{
    int step = sqlite3_step(s);

    sqlite3_reset(s);
    return step == SQLITE_DONE ? CS_OK : fail_db(e, err);
}

static int open_db(cs_entities *e, struct cs_error *err)
{
    static const char setup[] = "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8192;"
                                "PRAGMA locking_mode=EXCLUSIVE;"
                                "CREATE TABLE tbl(id INTEGER PRIMARY KEY, name BLOB NOT NULL);"
                                "CREATE TABLE entity(id INTEGER PRIMARY KEY, bucket INTEGER NOT NULL, tag BLOB NOT "
                                "NULL, state BLOB NOT NULL, tbl INTEGER NOT NULL, key BLOB NOT NULL);"
                                "CREATE TABLE picked(id INTEGER PRIMARY KEY); BEGIN";

    if (sqlite3_open_v2("", &e->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) !=
            SQLITE_OK ||
        sqlite3_exec(e->db, setup, NULL, NULL, NULL) != SQLITE_OK)
        return fail_db(e, err);
    return CS_OK;
}

void cs_entities_free(cs_entities *e)
{
    if (e == NULL)
        return;
    for (int i = 0; i < NSQL; i++)
        sqlite3_finalize(e->stmt[i]);
    sqlite3_close(e->db);
    cs_secret_free(e->keys);
    cs_buf_free(&e->table);
    free(e->sums);
    free(e);
}

/* ---- reading ---- */

static int table_of(cs_entities *e, struct cs_slice name, struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc;

    if (e->table_id != 0 && cs_slice_eq(cs_buf_slice(&e->table), name))
        return CS_OK;
    if ((s = get(e, S_TABLE, err)) == NULL)
        return CS_EDB;
    sqlite3_bind_blob64(s, 1, name.data, name.len, SQLITE_STATIC);
    if ((rc = run(e, s, err)) != CS_OK)
        return rc;
    e->table_id = sqlite3_last_insert_rowid(e->db);
    cs_buf_reset(&e->table);
    cs_buf_put_slice(&e->table, name);
    return e->table.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

static int add(void *arg, struct cs_slice table, struct cs_slice key, struct cs_slice row, struct cs_error *err)
{
    cs_entities *e = arg;
    uint8_t leaf[CS_LEAF_LEN];
    sqlite3_stmt *s = get(e, S_ADD, err);
    int rc;

    if (s == NULL)
        return CS_EDB;
    if ((rc = table_of(e, table, err)) != CS_OK)
        return rc;
    cs_hasher_update(&e->hasher, row.data, row.len);
    cs_entity_tag(e->keys, table, key, leaf);
    cs_entity_state(e->keys + 32, row, leaf + CS_TAG_LEN);
    cs_sums_add(e->sums, leaf);
    sqlite3_bind_int(s, 1, (int)cs_tag_bucket(leaf));
    sqlite3_bind_blob(s, 2, leaf, CS_TAG_LEN, SQLITE_STATIC);
    sqlite3_bind_blob(s, 3, leaf + CS_TAG_LEN, CS_STATE_LEN, SQLITE_STATIC);
    sqlite3_bind_int64(s, 4, e->table_id);
    sqlite3_bind_blob64(s, 5, key.data, key.len, SQLITE_STATIC);
    return run(e, s, err);
}

static int prepare(cs_entities *e, const struct cs_epoch_keys *keys, struct cs_error *err)
{
    if ((e->sums = calloc(1, sizeof *e->sums)) == NULL || (e->keys = cs_secret_alloc(64)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    memcpy(e->keys, keys->tag, 32);
    cs_state_key(keys->tag, e->keys + 32);
    cs_hasher_init_plain(&e->hasher);
    cs_hasher_update(&e->hasher, cs_dump_head().data, cs_dump_head().len);
    return open_db(e, err);
}

int cs_entities_read(cs_entities **out, cs_replica *r, const struct cs_epoch_keys *keys, struct cs_merged_info *info,
                     struct cs_error *err)
{
    cs_entities *e = calloc(1, sizeof *e);
    int rc;

    *out = NULL;
    *info = (struct cs_merged_info){ 0 };
    if (e == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if ((rc = prepare(e, keys, err)) == CS_OK)
        rc = cs_replica_merged(r, true, add, e, info, err);
    cs_hasher_final(&e->hasher, e->root, sizeof e->root);
    cs_secret_free(e->keys);
    e->keys = NULL;
    if (rc == CS_OK && !info->unsettled)
        *out = e;
    else
        cs_entities_free(e);
    return rc;
}

const struct cs_sums *cs_entities_sums(const cs_entities *e)
{
    return e->sums;
}

const uint8_t *cs_entities_root(const cs_entities *e)
{
    return e->root;
}

/* ---- looking up ---- */

/* Made when it is wanted first: where nothing differs it is never. */
static int sort(cs_entities *e, struct cs_error *err)
{
    if (!e->sorted &&
        sqlite3_exec(e->db, "CREATE INDEX by_bucket ON entity(bucket, tag, state)", NULL, NULL, NULL) != SQLITE_OK)
        return fail_db(e, err);
    e->sorted = true;
    return CS_OK;
}

int cs_entities_leaves(cs_entities *e, uint32_t bucket, struct cs_buf *out, struct cs_error *err)
{
    sqlite3_stmt *s;
    int step, rc = sort(e, err);

    if (rc != CS_OK)
        return rc;
    if ((s = get(e, S_LEAVES, err)) == NULL)
        return CS_EDB;
    sqlite3_bind_int(s, 1, (int)bucket);
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        cs_buf_put(out, sqlite3_column_blob(s, 0), CS_TAG_LEN);
        cs_buf_put(out, sqlite3_column_blob(s, 1), CS_STATE_LEN);
    }
    sqlite3_reset(s);
    if (step != SQLITE_DONE)
        return fail_db(e, err);
    return out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

int cs_entities_pick(cs_entities *e, const uint8_t tag[CS_TAG_LEN], bool *known, struct cs_error *err)
{
    sqlite3_stmt *find, *pick;
    int rc = sort(e, err), step;

    *known = false;
    if (rc != CS_OK)
        return rc;
    if ((find = get(e, S_FIND, err)) == NULL || (pick = get(e, S_PICK, err)) == NULL)
        return CS_EDB;
    sqlite3_bind_int(find, 1, (int)cs_tag_bucket(tag));
    sqlite3_bind_blob(find, 2, tag, CS_TAG_LEN, SQLITE_STATIC);
    step = sqlite3_step(find);
    if (step == SQLITE_ROW) {
        *known = true;
        sqlite3_bind_int64(pick, 1, sqlite3_column_int64(find, 0));
    }
    sqlite3_reset(find);
    if (step != SQLITE_ROW && step != SQLITE_DONE)
        return fail_db(e, err);
    return *known ? run(e, pick, err) : CS_OK;
}

int cs_entities_picked(cs_entities *e, struct cs_arena *a, int64_t place, size_t max, struct cs_entity **out,
                       int64_t **places, size_t *n, struct cs_error *err)
{
    sqlite3_stmt *s = get(e, S_PICKED, err);
    int step = SQLITE_DONE;

    *n = 0;
    if (s == NULL)
        return CS_EDB;
    *out = cs_arena_zalloc(a, max + 1, sizeof **out);
    *places = cs_arena_zalloc(a, max + 1, sizeof **places);
    if (*out == NULL || *places == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    sqlite3_bind_int64(s, 1, place);
    sqlite3_bind_int64(s, 2, (int64_t)max);
    while (*n < max && (step = sqlite3_step(s)) == SQLITE_ROW) {
        struct cs_entity *to = &(*out)[*n];

        (*places)[*n] = sqlite3_column_int64(s, 0);
        to->table = cs_arena_copy(a, cs_slice(sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1)));
        to->key = cs_arena_copy(a, cs_slice(sqlite3_column_blob(s, 2), (size_t)sqlite3_column_bytes(s, 2)));
        if (to->table.data == NULL || to->key.data == NULL) {
            sqlite3_reset(s);
            return cs_fail(err, CS_ENOMEM, "out of memory");
        }
        (*n)++;
    }
    sqlite3_reset(s);
    return step == SQLITE_DONE || step == SQLITE_ROW ? CS_OK : fail_db(e, err);
}

int cs_entities_unpick_all(cs_entities *e, struct cs_error *err)
{
    return sqlite3_exec(e->db, "DELETE FROM picked", NULL, NULL, NULL) == SQLITE_OK ? CS_OK : fail_db(e, err);
}
