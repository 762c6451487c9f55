/* Rows that no trigger told of. Backfill: what a table held when its tracking began, in slices by key. Comparison:
 * after a pause or a change of schema, what changed meanwhile. Columns: gap 0, backfill only; 1, comparing rows of the
 * table with their versions; 2, looking for versions whose row is gone; 3 and 4, the same of a table that was made
 * again. `backfill` is the last key that was looked at.
 *
 * What a comparison can know: a row without versions is an insert; living, shown versions without a row are a delete; a
 * column without a cell whose value is not the default is an update. Changed values show only against the hashes that
 * cs_shadow_store left when the table was paused; a table that was rebuilt without `pause` keeps such edits to
 * itself until they are made again. A table that was not here for a while, or that is empty since the schema changed,
 * was dropped and made again, which is no word about its rows: what it lacks is forgotten here, and others have it.
 *
 * What others wrote must not cover an edit that was not looked at yet: before a batch is merged, its rows of such
 * tables are looked at out of turn, and a row's hashes go once it was looked at. */
#include <inttypes.h>
#include <stdio.h>

#include "replica/apply.h"
#include "replica/statements.h"
#include "replica/store.h"

int cs_gap_waits(struct cs_replica *r, bool *out, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_GAP_NEXT, err);
    int step = SQLITE_DONE;

    *out = false;
    if (s == NULL)
        return err_code(err);
    while (!*out && (step = sqlite3_step(s)) == SQLITE_ROW) /* a dropped table waits until it is back */
        *out = cs_table_by_id(r, sqlite3_column_int64(s, 0)) != NULL;
    sqlite3_reset(s);
    return step == SQLITE_ROW || step == SQLITE_DONE ? CS_OK : cs_db_fail(r, err, "cannot read our tables");
}

void cs_gap_rolled_back(struct cs_replica *r)
{
    struct cs_error ignored;
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_GAP_NEXT, &ignored);
    struct cs_table *t;
    int step = SQLITE_ERROR;

    for (size_t i = 0; s != NULL && i < r->ntables; i++)
        r->tables[i].backfilling = false;
    while (s != NULL && (step = sqlite3_step(s)) == SQLITE_ROW)
        if ((t = cs_table_by_id(r, sqlite3_column_int64(s, 0))) != NULL) {
            t->backfilling = true;
            t->remade = sqlite3_column_int(s, 1) >= 3;
        }
    sqlite3_reset(s);
    if (step != SQLITE_DONE)
        r->schema_version = -1; /* not read: the tables are looked at again before anything else */
}

/* Its rows depend on others: the projection can reach any of them. */
static bool is_linked(const struct cs_table *t)
{
    return t->nuniques > 0 || t->nfks > 0 || t->is_parent;
}

bool cs_gap_linked_waits(const struct cs_replica *r)
{
    for (size_t i = 0; i < r->ntables; i++)
        if (r->tables[i].backfilling && r->tables[i].state == CS_TRACKED && is_linked(&r->tables[i]))
            return true;
    return false;
}

/* FNV-1a, 64 bits: against accidents, not adversaries; what it hashes never leaves the file. */
static uint64_t hash_value(const struct cs_value *v)
{
    struct cs_buf b = { 0 };
    uint64_t h = 0xcbf29ce484222325u;

    cs_value_encode(&b, v);
    for (size_t i = 0; i < b.len; i++)
        h = (h ^ b.data[i]) * 0x100000001b3u;
    cs_buf_free(&b);
    return h;
}

static void put_key_columns(struct cs_buf *sql, const struct cs_table *t)
{
    for (uint32_t i = 0; i < t->nkey; i++) {
        cs_buf_put_str(sql, i > 0 ? ", " : "");
        cs_put_identifier(sql, t->columns[t->key[i]].name);
    }
}

/* SELECT all columns FROM t WHERE no NULL in the key [AND key > (?…)] ORDER BY key LIMIT n */
static int prepare_walk(struct cs_replica *r, const struct cs_table *t, bool from, sqlite3_stmt **s,
                        struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    int rc = CS_OK;

    cs_buf_put_str(&sql, "SELECT ");
    for (uint32_t i = 0; i < t->ncolumns; i++) {
        cs_buf_put_str(&sql, i > 0 ? ", " : "");
        cs_put_identifier(&sql, t->columns[i].name);
    }
    cs_buf_put_str(&sql, " FROM main.");
    cs_put_identifier(&sql, t->name);
    cs_buf_put_str(&sql, " WHERE true");
    for (uint32_t i = 0; i < t->nkey; i++)
        if (!t->columns[t->key[i]].notnull) {
            cs_buf_put_str(&sql, " AND ");
            cs_put_identifier(&sql, t->columns[t->key[i]].name);
            cs_buf_put_str(&sql, " IS NOT NULL");
        }
    if (from) {
        cs_buf_put_str(&sql, " AND (");
        put_key_columns(&sql, t);
        cs_buf_put_str(&sql, ") > (");
        for (uint32_t i = 0; i < t->nkey; i++)
            cs_buf_printf(&sql, "%s?%u", i > 0 ? ", " : "", i + 2);
        cs_buf_put_str(&sql, ")");
    }
    cs_buf_put_str(&sql, " ORDER BY ");
    put_key_columns(&sql, t);
    cs_buf_put_str(&sql, " LIMIT ?1");
    if (sql.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    else if (sqlite3_prepare_v2(r->db, (const char *)sql.data, (int)sql.len, s, NULL) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot read an application's table");
    cs_buf_free(&sql);
    return rc;
}

static bool row_key(const struct cs_table *t, sqlite3_stmt *s, struct cs_buf *out)
{
    struct cs_value v;

    cs_buf_reset(out);
    for (uint32_t i = 0; i < t->nkey; i++) {
        cs_value_from_column(&v, s, (int)t->key[i]);
        if (v.type == CS_NULL)
            return false;
        cs_key_put(out, &v, t->columns[t->key[i]].collation);
    }
    return !out->failed;
}

static int shadow_of(struct cs_replica *r, const struct cs_table *t, struct cs_slice key, struct cs_slice *out,
                     struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_SHADOW_GET, err);
    int rc = CS_OK;

    *out = CS_SLICE_NULL;
    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, t->id);
    cs_db_bind_slice(s, 2, key);
    if (cs_db_row(r, s, &rc, "cannot read our tables", err)) {
        *out = cs_arena_copy(&r->scratch, cs_db_column_blob(s, 0));
        rc = out->data == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
    }
    sqlite3_reset(s);
    return rc;
}

static int shadow_row(struct cs_replica *r, struct cs_table *t, sqlite3_stmt *row, struct cs_buf *key,
                      struct cs_buf *hashes, struct cs_error *err)
{
    sqlite3_stmt *s;

    cs_buf_reset(hashes);
    for (uint32_t id = 0; id < t->ncolumn_ids; id++) {
        struct cs_value v;

        if (t->by_id[id] == CS_NO_COLUMN)
            continue;
        cs_value_from_column(&v, row, (int)t->by_id[id]);
        cs_buf_put_u32(hashes, id);
        cs_buf_put_u64(hashes, hash_value(&v));
    }
    if (hashes->failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if ((s = cs_db_stmt(r, CS_STMT_SHADOW_PUT, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, t->id);
    cs_db_bind_slice(s, 2, cs_buf_slice(key));
    cs_db_bind_slice(s, 3, cs_buf_slice(hashes));
    return cs_db_step(r, s, "cannot note what a paused table holds", err);
}

/* Was the column's value another one when the table was paused? false also when nothing is known. */
static bool shadow_differs(struct cs_slice shadow, uint32_t id, const struct cs_value *v)
{
    struct cs_reader rd = cs_reader(shadow);

    while (cs_reader_left(&rd) >= 12) {
        uint32_t col = cs_read_u32(&rd);
        uint64_t hash = cs_read_u64(&rd);

        if (col == id)
            return hash != hash_value(v);
    }
    return false;
}

/* The columns of a row that lives whose present values must have been written unseen. */
static int changed_columns(struct cs_replica *r, const struct cs_table *t, struct cs_slice key, sqlite3_stmt *s,
                           struct cs_op_cell *cells, uint32_t *n, struct cs_error *err)
{
    struct cs_slice shadow;
    int rc = shadow_of(r, t, key, &shadow, err);

    *n = 0;
    for (uint32_t id = 0; rc == CS_OK && id < t->ncolumn_ids; id++) {
        uint32_t pos = t->by_id[id];
        struct cs_value v, without = { .type = CS_NULL };
        bool changed;

        if (pos == CS_NO_COLUMN)
            continue;
        cs_value_from_column(&v, s, (int)pos);
        if (t->columns[pos].has_default)
            without = t->columns[pos].default_value;
        if (cs_row_find(&r->row, id) != NULL)
            changed = shadow_differs(shadow, id, &v);
        else
            changed = t->columns[pos].key_pos < 0 && cs_value_cmp(&v, &without) != 0;
        if (changed)
            cells[(*n)++] = (struct cs_op_cell){ .col = id };
    }
    return rc;
}

static int forget_shadow(struct cs_replica *r, const struct cs_table *t, struct cs_slice key, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_SHADOW_FORGET, err);

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, t->id);
    cs_db_bind_slice(s, 2, key);
    return cs_db_step(r, s, "cannot forget what a pause had noted", err);
}

/* The row was looked at as it is. */
static int note_looked(struct cs_replica *r, struct cs_table *t, sqlite3_stmt *s, struct cs_slice key,
                       struct cs_error *err)
{
    struct cs_buf k = { 0 }, hashes = { 0 };
    int rc;

    if (t->state != CS_PAUSED)
        return forget_shadow(r, t, key, err);
    cs_buf_put_slice(&k, key);
    rc = k.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : shadow_row(r, t, s, &k, &hashes, err);
    cs_buf_free(&k);
    cs_buf_free(&hashes);
    return rc;
}

static const char *since_name(char out[48], int64_t table)
{
    snprintf(out, 48, "tracked.%" PRId64, table);
    return out;
}

int cs_gap_since(struct cs_replica *r, int64_t table, struct cs_error *err)
{
    char name[48];

    return cs_meta_put_int(r, since_name(name, table), cs_now_ms(r->world), err);
}

/* What a table held when its tracking began was written before that, and a copy of the database that is older than its
 * backfill says so too: it does not win over what came of these rows since. */
static int written_ms(struct cs_replica *r, struct cs_table *t, int64_t *ms, struct cs_error *err)
{
    char name[48];
    int rc = CS_OK;

    if (t->since_ms == 0 && (rc = cs_meta_int(r, since_name(name, t->id), &t->since_ms, err)) == CS_ENOTFOUND) {
        t->since_ms = -1;
        rc = CS_OK;
    }
    if (t->since_ms > 0)
        *ms = t->since_ms;
    return rc;
}

static int look_at_row(struct cs_replica *r, struct cs_table *t, int64_t gap, sqlite3_stmt *s, struct cs_slice key,
                       uint64_t *sealed, struct cs_error *err)
{
    struct cs_seal_change c = { .table = t, .key = key, .kind = CS_OP_INSERT, .ms = cs_now_ms(r->world) };
    struct cs_op_cell *cells;
    int64_t unsent;
    bool known, taken; /* its insert was */
    int rc = cs_rows_get(r, t->id, key, &r->row, &unsent, err);

    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    known = rc == CS_OK;
    taken = known && cs_row_lives(&r->row);
    if (taken && t->nhidden > 0) { /* hidden, and in the table all the same: the application wrote over it unseen */
        struct cs_buf reason = { 0 };

        rc = cs_hidden_row_reason(r, t->id, key, &reason, err);
        cs_buf_free(&reason);
        if (rc != CS_OK && rc != CS_ENOTFOUND)
            return rc;
        taken = rc == CS_ENOTFOUND;
    }
    if (!taken) {
        if (t->state == CS_PAUSED && (rc = note_looked(r, t, s, key, err)) != CS_OK)
            return rc;
        if (!known && t->state == CS_TRACKED && (rc = written_ms(r, t, &c.ms, err)) != CS_OK)
            return rc;
        if ((c.cells = cs_seal_all_columns(r, t, &c.ncells, err)) == NULL)
            return err_code(err);
        return cs_seal_change(r, &c, sealed, err);
    }
    if (gap == 0)
        return CS_OK;
    if ((cells = cs_arena_zalloc(&r->scratch, (size_t)t->ncolumn_ids + 1, sizeof *cells)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if ((rc = changed_columns(r, t, key, s, cells, &c.ncells, err)) != CS_OK || c.ncells == 0 ||
        (rc = note_looked(r, t, s, key, err)) != CS_OK)
        return rc;
    c.kind = CS_OP_UPDATE;
    c.cells = cells;
    return cs_seal_change(r, &c, sealed, err);
}

static int save_progress(struct cs_replica *r, struct cs_table *t, struct cs_slice last, bool done, int64_t gap,
                         struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_GAP_SET, err);
    char name[48];
    int rc;

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, t->id);
    if (done)
        sqlite3_bind_null(s, 2);
    else
        cs_db_bind_slice(s, 2, last);
    sqlite3_bind_int64(s, 3, gap);
    t->backfilling = !done;
    t->remade = t->remade && !done;
    rc = cs_db_step(r, s, "cannot note how far a table was read", err);
    if (rc != CS_OK || !done)
        return rc;
    t->since_ms = 0;
    return cs_meta_drop(r, since_name(name, t->id), err);
}

static int walk_table(struct cs_replica *r, struct cs_table *t, int64_t gap, struct cs_slice from, uint32_t max_rows,
                      uint64_t *sealed, struct cs_error *err)
{
    struct cs_buf key = { 0 };
    sqlite3_stmt *s = NULL;
    uint32_t n = 0;
    int rc = prepare_walk(r, t, from.len > 0, &s, err), step = SQLITE_DONE;

    if (rc == CS_OK && from.len > 0 && (rc = cs_table_bind_key(t, s, 2, from)) != CS_OK)
        rc = cs_fail(err, rc, "the place where reading a table stopped is damaged");
    if (rc == CS_OK)
        sqlite3_bind_int64(s, 1, max_rows);
    cs_buf_put_slice(&key, from);
    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        n++;
        rc = row_key(t, s, &key) ? look_at_row(r, t, gap, s, cs_buf_slice(&key), sealed, err)
                                 : cs_fail(err, CS_ENOMEM, "out of memory");
    }
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read an application's table");
    sqlite3_finalize(s);
    if (rc == CS_OK && n == max_rows)
        rc = save_progress(r, t, cs_buf_slice(&key), false, gap, err);
    else if (rc == CS_OK)
        rc = save_progress(r, t, CS_SLICE_NULL, gap == 0, gap == 0 ? 0 : gap + 1, err);
    if (n < max_rows)
        cs_seal_null_keys(r); /* which the walk passed over */
    cs_buf_free(&key);
    return rc;
}

/* What its unsent edits would have said is gone with the table. */
static int forget_row(struct cs_replica *r, struct cs_table *t, struct cs_slice key, int64_t unsent,
                      struct cs_error *err)
{
    int rc = cs_row_forget(r, t->id, key, unsent, err);

    return rc == CS_OK ? cs_meta_put(r, CS_REMADE, cs_slice_str(t->name), err) : rc;
}

/* Versions that live and are shown, and whose row is not in the table: deleted unseen. */
static int look_at_versions(struct cs_replica *r, struct cs_table *t, struct cs_slice key, uint64_t *sealed,
                            struct cs_error *err)
{
    struct cs_seal_change c = { .table = t, .key = key, .kind = CS_OP_DELETE, .ms = cs_now_ms(r->world) };
    struct cs_buf reason = { 0 };
    int64_t unsent;
    int rc = cs_rows_get(r, t->id, key, &r->row, &unsent, err), step;

    if (rc != CS_OK || !cs_row_lives(&r->row))
        return rc;
    rc = cs_hidden_row_reason(r, t->id, key, &reason, err);
    cs_buf_free(&reason);
    if (rc != CS_ENOTFOUND)
        return rc;
    if ((step = cs_table_read(r, t, key, err)) == SQLITE_ROW)
        sqlite3_reset(t->read);
    if (step != SQLITE_DONE)
        return step == SQLITE_ROW ? CS_OK : step;
    return t->remade ? forget_row(r, t, key, unsent, err) : cs_seal_change(r, &c, sealed, err);
}

static int drop_shadow(struct cs_replica *r, const struct cs_table *t, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_SHADOW_DROP, err);

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, t->id);
    return cs_db_step(r, s, "cannot drop what a pause had noted", err);
}

static int walk_versions(struct cs_replica *r, struct cs_table *t, int64_t gap, struct cs_slice from, uint32_t max_rows,
                         uint64_t *sealed, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_ROW_WALK, err);
    struct cs_slice *keys, last = from;
    uint32_t n = 0;
    int rc = CS_OK, step = SQLITE_DONE;

    if (s == NULL)
        return err_code(err);
    if ((keys = cs_arena_zalloc(&r->scratch, max_rows, sizeof *keys)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    sqlite3_bind_int64(s, 1, t->id);
    cs_db_bind_slice(s, 2, from);
    sqlite3_bind_int64(s, 3, max_rows);
    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        keys[n] = cs_arena_copy(&r->scratch, cs_db_column_blob(s, 0));
        rc = keys[n++].data == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
    }
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read the versions of a table");
    sqlite3_reset(s);
    for (uint32_t i = 0; i < n && rc == CS_OK; i++)
        rc = look_at_versions(r, t, last = keys[i], sealed, err);
    if (rc == CS_OK && n == max_rows)
        return save_progress(r, t, last, false, gap, err);
    if (rc == CS_OK && (rc = drop_shadow(r, t, err)) == CS_OK)
        rc = save_progress(r, t, CS_SLICE_NULL, true, 0, err);
    return rc;
}

int cs_gap_slice(struct cs_replica *r, uint32_t max_rows, bool *more, uint64_t *sealed, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_GAP_NEXT, err);
    struct cs_table *t = NULL;
    struct cs_slice from = CS_SLICE_NULL;
    int64_t gap = 0;
    int rc, step = SQLITE_DONE;

    *more = false;
    if (s == NULL)
        return err_code(err);
    if ((rc = cs_seal_begin(r, err)) != CS_OK)
        return rc;
    while (t == NULL && (step = sqlite3_step(s)) == SQLITE_ROW) {
        t = cs_table_by_id(r, sqlite3_column_int64(s, 0));
        gap = sqlite3_column_int64(s, 1);
        from = cs_arena_copy(&r->scratch, cs_db_column_blob(s, 2));
        rc = from.data == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
    }
    if (t == NULL && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read our tables");
    sqlite3_reset(s);
    if (rc != CS_OK || t == NULL)
        return rc;
    *more = true;
    rc = gap == 2 || gap == 4 ? walk_versions(r, t, gap, from, max_rows, sealed, err)
                              : walk_table(r, t, gap, from, max_rows, sealed, err);
    return rc == CS_OK ? cs_seal_finish(r, true, err) : rc;
}

static const char *paused_name(char out[48], int64_t table)
{
    snprintf(out, 48, "paused.%" PRId64, table);
    return out;
}

int cs_gap_paused(struct cs_replica *r, const struct cs_table *t, struct cs_error *err)
{
    char name[48];
    int64_t version;
    int rc = cs_meta_int(r, paused_name(name, t->id), &version, err);

    if (rc != CS_ENOTFOUND) /* it was already */
        return rc;
    rc = cs_schema_version(r, &version, err);
    return rc == CS_OK ? cs_meta_put_int(r, name, version, err) : rc;
}

static int is_empty(struct cs_replica *r, const struct cs_table *t, bool *out, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    int64_t some;
    int rc;

    cs_buf_put_str(&sql, "SELECT 1 FROM main.");
    cs_put_identifier(&sql, t->name);
    rc = cs_one_int(r, &sql, &some, err);
    *out = rc == CS_OK && some == 0;
    return rc;
}

/* Is it empty, and could that be because it was made again? */
static int look_whether_remade(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    char name[48];
    int64_t was = -1, now;
    int rc = cs_schema_version(r, &now, err);

    if (rc != CS_OK || t->remade || cs_is_shared(t->name)) /* ours is nobody's to drop */
        return rc;
    if (t->state == CS_PAUSED && (rc = cs_meta_int(r, paused_name(name, t->id), &was, err)) == CS_ENOTFOUND)
        rc = CS_OK;
    if (rc == CS_OK && now != was)
        rc = is_empty(r, t, &t->remade, err);
    return rc == CS_OK && t->remade
               ? cs_tables_run(r, "UPDATE main.sync_tables SET gap = 3 WHERE id = ?1", t->id, 0, err)
               : rc;
}

int cs_gap_compare(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    char name[48];
    int rc = look_whether_remade(r, t, err);

    if (rc == CS_OK)
        rc = cs_meta_drop(r, paused_name(name, t->id), err);
    t->state = CS_TRACKED;
    t->backfilling = true;
    return rc != CS_OK
               ? rc
               : cs_tables_run(r, "UPDATE main.sync_tables SET state = 1, backfill = x'', gap = ?2 WHERE id = ?1",
                               t->id, t->remade ? 3 : 1, err);
}

int cs_shadow_store(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    struct cs_buf key = { 0 }, hashes = { 0 };
    sqlite3_stmt *s = NULL;
    int rc = drop_shadow(r, t, err), step = SQLITE_DONE;

    if (rc == CS_OK && (rc = prepare_walk(r, t, false, &s, err)) == CS_OK)
        sqlite3_bind_int64(s, 1, -1);
    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW)
        if (row_key(t, s, &key))
            rc = shadow_row(r, t, s, &key, &hashes, err);
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read an application's table");
    sqlite3_finalize(s);
    cs_buf_free(&key);
    cs_buf_free(&hashes);
    return rc;
}

/* ---- others' edits in the middle of it ---- */

/* The row as it is now, out of turn. */
static int look_at_key(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err)
{
    uint64_t sealed = 0;
    int rc, step;

    if (cs_key_parts(key) != (int)t->nkey)
        return CS_OK;
    if ((step = cs_table_read(r, t, key, err)) == SQLITE_DONE)
        return (rc = look_at_versions(r, t, key, &sealed, err)) == CS_ENOTFOUND ? CS_OK : rc;
    if (step != SQLITE_ROW)
        return step;
    rc = look_at_row(r, t, 1, t->read, key, &sealed, err);
    sqlite3_reset(t->read);
    return rc;
}

static bool has_gap(const struct cs_table *t)
{
    return t != NULL && (t->backfilling || t->state == CS_PAUSED);
}

/* Calls fn for each row of the set that lies in a table with a gap. */
static int each_in_gap(struct cs_replica *r, const struct cs_delta *d, bool (*wanted)(const struct cs_table *t),
                       int (*fn)(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err),
                       struct cs_error *err)
{
    struct cs_table *t = NULL;
    uint32_t last = UINT32_MAX;
    int rc = CS_OK;

    for (uint32_t i = 0; i < d->nops && rc == CS_OK; i++) {
        if (d->ops[i].table != last)
            t = cs_table_by_name(r, d->tables[last = d->ops[i].table].name);
        if (t != NULL && wanted(t))
            rc = fn(r, t, d->ops[i].key, err);
    }
    return rc;
}

static bool any_gap(const struct cs_replica *r, bool (*wanted)(const struct cs_table *t))
{
    for (size_t i = 0; i < r->ntables; i++)
        if (wanted(&r->tables[i]))
            return true;
    return false;
}

static int look_at_all_versions(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    enum { SOME = 500 };
    struct cs_slice keys[SOME], last = CS_SLICE_NULL;
    uint32_t n = SOME;
    int rc = CS_OK;

    while (rc == CS_OK && n == SOME) {
        sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_ROW_WALK, err);

        if (s == NULL)
            return err_code(err);
        sqlite3_bind_int64(s, 1, t->id);
        cs_db_bind_slice(s, 2, last);
        sqlite3_bind_int64(s, 3, SOME);
        for (n = 0; n < SOME && cs_db_row(r, s, &rc, "cannot read our tables", err); n++)
            if ((keys[n] = cs_arena_copy(&r->scratch, cs_db_column_blob(s, 0))).data == NULL)
                rc = cs_fail(err, CS_ENOMEM, "out of memory");
        sqlite3_reset(s);
        for (uint32_t i = 0; i < n && rc == CS_OK; i++)
            if ((rc = look_at_versions(r, t, last = keys[i], NULL, err)) == CS_ENOTFOUND)
                rc = CS_OK;
    }
    return rc;
}

/* A paused table as it is now. */
static int look_at_all(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    struct cs_buf key = { 0 };
    sqlite3_stmt *s = NULL;
    int rc = prepare_walk(r, t, false, &s, err), step = SQLITE_DONE;

    if (rc == CS_OK)
        sqlite3_bind_int64(s, 1, -1);
    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW)
        rc = row_key(t, s, &key) ? look_at_row(r, t, 1, s, cs_buf_slice(&key), NULL, err)
                                 : cs_fail(err, CS_ENOMEM, "out of memory");
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read an application's table");
    sqlite3_finalize(s);
    cs_buf_free(&key);
    return rc == CS_OK ? look_at_all_versions(r, t, err) : rc;
}

int cs_gap_finish_linked(struct cs_replica *r, struct cs_error *err)
{
    bool more = !cs_uuid_is_zero(&r->id.device);
    int rc = CS_OK;

    while (rc == CS_OK && more && cs_gap_linked_waits(r))
        rc = cs_gap_slice(r, 1000, &more, NULL, err);
    return rc;
}

int cs_gap_before_apply(struct cs_replica *r, const struct cs_delta *d, struct cs_error *err)
{
    int rc;

    if (d == NULL || !any_gap(r, has_gap) || cs_uuid_is_zero(&r->id.device))
        return CS_OK;
    if ((rc = cs_gap_finish_linked(r, err)) == CS_OK)
        rc = cs_seal_begin(r, err);
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++)
        if (r->tables[i].state == CS_PAUSED && (rc = look_whether_remade(r, &r->tables[i], err)) == CS_OK &&
            is_linked(&r->tables[i]))
            rc = look_at_all(r, &r->tables[i], err);
    if (rc == CS_OK && (rc = each_in_gap(r, d, has_gap, look_at_key, err)) == CS_OK)
        rc = cs_seal_finish(r, true, err);
    return rc;
}

static bool is_paused(const struct cs_table *t)
{
    return t->state == CS_PAUSED;
}

/* What the row holds now is no edit of the application's. */
static int shadow_anew(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err)
{
    struct cs_buf k = { 0 }, hashes = { 0 };
    int rc = forget_shadow(r, t, key, err), step;

    if (rc != CS_OK || cs_key_parts(key) != (int)t->nkey || (step = cs_table_read(r, t, key, err)) == SQLITE_DONE)
        return rc;
    if (step != SQLITE_ROW)
        return step;
    cs_buf_put_slice(&k, key);
    rc = shadow_row(r, t, t->read, &k, &hashes, err);
    sqlite3_reset(t->read);
    cs_buf_free(&k);
    cs_buf_free(&hashes);
    return rc;
}

int cs_gap_after_apply(struct cs_replica *r, const struct cs_delta *d, struct cs_error *err)
{
    int rc = CS_OK;

    if (d == NULL || !any_gap(r, is_paused))
        return CS_OK;
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++)
        if (is_paused(&r->tables[i]) && is_linked(&r->tables[i]))
            rc = cs_shadow_store(r, &r->tables[i], err);
    return rc == CS_OK ? each_in_gap(r, d, is_paused, shadow_anew, err) : rc;
}

/* Does the table hold anything else in this row than when the hashes were taken? */
static bool is_edited(const struct cs_table *t, struct cs_slice shadow)
{
    for (uint32_t id = 0; id < t->ncolumn_ids; id++) {
        struct cs_value v;

        if (t->by_id[id] == CS_NO_COLUMN)
            continue;
        cs_value_from_column(&v, t->read, (int)t->by_id[id]);
        if (shadow_differs(shadow, id, &v))
            return true;
    }
    return false;
}

/* The table shows the row, but for what others have changed, which is left for the projection. */
static int show_again(struct cs_replica *r, const struct cs_table *t, struct cs_slice key, struct cs_error *err)
{
    struct cs_op_cell *cells;
    uint32_t n;
    int rc = cs_hidden_cells(r, &r->scratch, t->id, key, &cells, &n, err);

    if (rc == CS_OK)
        rc = cs_hidden_drop_row(r, t->id, key, err);
    for (uint32_t i = 0; i < n && rc == CS_OK; i++) {
        uint32_t pos = cs_column_position(t, cells[i].col);
        struct cs_value v;

        if (pos == CS_NO_COLUMN)
            continue;
        cs_value_from_column(&v, t->read, (int)pos);
        if (cs_same_value(&v, &cells[i].value))
            rc = cs_hidden_drop_cell(r, t->id, key, cells[i].col, err);
    }
    return rc;
}

/* A row as it was when its table was untracked. */
static int meet_again(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err)
{
    struct cs_seal_change c = { .table = t, .key = key, .kind = CS_OP_DELETE, .ms = cs_now_ms(r->world) };
    struct cs_slice shadow;
    int64_t unsent;
    bool lives, edited;
    int step, rc = cs_rows_get(r, t->id, key, &r->row, &unsent, err);

    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    lives = rc == CS_OK && cs_row_lives(&r->row);
    if (cs_key_parts(key) != (int)t->nkey || (rc = shadow_of(r, t, key, &shadow, err)) != CS_OK)
        return rc;
    if ((step = cs_table_read(r, t, key, err)) == SQLITE_DONE)
        return lives ? cs_seal_change(r, &c, NULL, err) : CS_OK;
    if (step != SQLITE_ROW)
        return step;
    edited = is_edited(t, shadow); /* then it is taken in as it is */
    if (lives && !edited)
        rc = show_again(r, t, key, err);
    sqlite3_reset(t->read);
    return rc == CS_OK && !lives && !edited ? cs_show_delete(r, t, key, err) : rc;
}

static int shadow_keys(struct cs_replica *r, const struct cs_table *t, struct cs_arena *a, struct cs_slice **out,
                       size_t *n, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_SHADOW_KEYS, err);
    uint32_t cap = 0;
    int rc = CS_OK;

    *out = NULL;
    *n = 0;
    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, t->id);
    while (rc == CS_OK && cs_db_row(r, s, &rc, "cannot read our tables", err))
        if (!cs_arena_grow(a, out, (uint32_t)*n, &cap, sizeof **out) ||
            ((*out)[*n] = cs_arena_copy(a, cs_db_column_blob(s, 0))).data == NULL)
            rc = cs_fail(err, CS_ENOMEM, "out of memory");
        else
            ++*n;
    sqlite3_reset(s);
    return rc;
}

int cs_gap_meet_again(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    struct cs_arena a = { 0 };
    struct cs_slice *keys;
    size_t n;
    int rc;

    if (cs_uuid_is_zero(&r->id.device))
        return CS_OK;
    if ((rc = cs_apply_ready(r, err)) == CS_OK && (rc = cs_guard_table(r, t, err)) == CS_OK &&
        (rc = shadow_keys(r, t, &a, &keys, &n, err)) == CS_OK && n > 0 && (rc = cs_seal_begin(r, err)) == CS_OK) {
        for (size_t i = 0; i < n && rc == CS_OK; i++)
            rc = meet_again(r, t, keys[i], err);
        if (rc == CS_OK)
            rc = cs_seal_finish(r, true, err);
    }
    cs_arena_free(&a);
    return rc;
}

int cs_gap_met(struct cs_replica *r, const struct cs_table *t, struct cs_error *err)
{
    return drop_shadow(r, t, err);
}

/* Rows that others sent before the table was tracked, and that the application has too: its own are taken in first. */
int cs_gap_meet_known(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    struct cs_slice *keys;
    struct cs_arena a = { 0 };
    size_t n = 0;
    int rc;

    if (cs_uuid_is_zero(&r->id.device))
        return CS_OK;
    if ((rc = cs_apply_ready(r, err)) == CS_OK &&
        (rc = cs_hidden_keys(r, &a, CS_OWN_HIDDEN_ROWS, t->id, &keys, &n, err)) == CS_OK && n > 0)
        rc = cs_seal_begin(r, err);
    for (size_t i = 0; i < n && rc == CS_OK; i++) {
        struct cs_seal_change c = { .table = t, .key = keys[i], .kind = CS_OP_INSERT, .ms = cs_now_ms(r->world) };
        int step;

        if (cs_key_parts(keys[i]) != (int)t->nkey || (step = cs_table_read(r, t, keys[i], err)) == SQLITE_DONE)
            continue;
        sqlite3_reset(t->read);
        if (step != SQLITE_ROW)
            rc = step;
        else if ((c.cells = cs_seal_all_columns(r, t, &c.ncells, err)) == NULL)
            rc = err_code(err);
        else
            rc = cs_seal_change(r, &c, NULL, err);
    }
    if (rc == CS_OK && n > 0)
        rc = cs_seal_finish(r, true, err);
    cs_arena_free(&a);
    return rc;
}
