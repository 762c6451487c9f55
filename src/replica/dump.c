/* The canonical dump of the merged state (docs/protocol.md): tables by name, rows by key, columns by name. */
#include "crdt/dump.h"
#include "replica/apply.h"
#include "replica/merged.h"
#include "replica/statements.h"
#include "replica/store.h"

/* The table at hand. Names lie in the walk's arena. */
struct walked {
    struct cs_table *t; /* NULL: not tracked here */
    int64_t id;
    struct cs_slice name;
    struct cs_slice *columns; /* by number */
    uint32_t *order;          /* numbers, by name */
    uint32_t ncolumns;
    int64_t shown; /* rows that live, are not hidden, and are in the table */
    bool doubt;
};

struct walk {
    struct cs_replica *r;
    struct cs_arena arena;
    struct cs_buf row;
    struct walked at;
    cs_merged_fn fn;
    void *arg;
    struct cs_merged_info *info;
};

static int no_memory(struct cs_error *err)
{
    return cs_fail(err, CS_ENOMEM, "out of memory");
}

/* ---- values ---- */

int cs_merged_locate(struct cs_replica *r, struct cs_table *t, int64_t table, struct cs_slice key,
                     const struct cs_row *row, struct cs_merged_place *out, struct cs_error *err)
{
    struct cs_buf *reason = &cs_apply_of(r)->a;
    int rc = CS_ENOTFOUND, step;

    *out = (struct cs_merged_place){ .t = t, .table = table, .key = key, .aside = true };
    if (t == NULL || !cs_row_lives(row))
        return CS_OK;
    cs_buf_reset(reason);
    if (t->nhidden > 0)
        rc = cs_hidden_row_reason(r, table, key, reason, err);
    if (rc == CS_OK)
        return CS_OK;
    if (rc != CS_ENOTFOUND)
        return rc;
    out->aside = t->nhidden_cells > 0;
    out->shown = true;
    if ((step = cs_table_read(r, t, key, err)) == SQLITE_ROW)
        out->read = true;
    return step == SQLITE_ROW || step == SQLITE_DONE ? CS_OK : step;
}

int cs_merged_value(struct cs_replica *r, struct cs_arena *a, const struct cs_merged_place *p, uint32_t col,
                    struct cs_value *out, struct cs_error *err)
{
    uint32_t pos = p->t != NULL ? cs_column_position(p->t, col) : CS_NO_COLUMN;
    int rc = p->aside || pos == CS_NO_COLUMN ? cs_hidden_cell(r, a, p->table, p->key, col, out, err) : CS_ENOTFOUND;

    if (rc != CS_ENOTFOUND)
        return rc;
    *out = (struct cs_value){ .type = CS_NULL };
    if (!p->read || pos == CS_NO_COLUMN)
        return CS_ENOTFOUND;
    cs_value_from_column(out, p->t->read, (int)pos);
    return CS_OK;
}

void cs_merged_leave(const struct cs_merged_place *p)
{
    if (p->read)
        sqlite3_reset(p->t->read);
}

/* ---- doubts ---- */

/* A column without a cell that holds something else than its default was written unseen. */
static bool has_unknown_value(const struct cs_table *t, const struct cs_row *row)
{
    static const struct cs_value null = { .type = CS_NULL };

    for (uint32_t i = 0; i < t->ncolumns; i++) {
        const struct cs_column *c = &t->columns[i];
        struct cs_value v;

        if (c->key_pos >= 0 || c->id == CS_NO_COLUMN || cs_row_find(row, c->id) != NULL)
            continue;
        cs_value_from_column(&v, t->read, (int)i);
        if (cs_value_cmp(&v, c->has_default ? &c->default_value : &null) != 0)
            return true;
    }
    return false;
}

/* Rows of the application's table that could be ours. */
static int count_rows(struct cs_replica *r, const struct cs_table *t, int64_t *out, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    cs_buf_put_str(&sql, "SELECT count(*) FROM main.");
    cs_put_identifier(&sql, t->name);
    cs_buf_put_str(&sql, " WHERE true");
    for (uint32_t i = 0; i < t->nkey; i++)
        if (!t->columns[t->key[i]].notnull) {
            cs_buf_put_str(&sql, " AND ");
            cs_put_identifier(&sql, t->columns[t->key[i]].name);
            cs_buf_put_str(&sql, " IS NOT NULL");
        }
    if (sql.failed)
        rc = no_memory(err);
    else if (sqlite3_prepare_v2(r->db, (const char *)sql.data, (int)sql.len, &s, NULL) != SQLITE_OK ||
             sqlite3_step(s) != SQLITE_ROW)
        rc = cs_db_fail(r, err, "cannot count the rows of a table");
    else
        *out = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    cs_buf_free(&sql);
    return rc;
}

static int doubt_table(struct walk *w, struct cs_error *err)
{
    struct walked *at = &w->at;
    int64_t rows = 0;
    int rc = CS_OK;

    if (at->t == NULL || at->t->state != CS_TRACKED)
        return CS_OK;
    if (!at->doubt && (rc = count_rows(w->r, at->t, &rows, err)) == CS_OK)
        at->doubt = rows != at->shown;
    at->t->doubted = at->doubt;
    if (at->doubt && w->info->doubt == NULL)
        w->info->doubt = at->t->name;
    return rc;
}

int cs_replica_look_closer(cs_replica *r, bool at_all, struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc = cs_db_begin(r, err);

    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++) {
        if (!r->tables[i].doubted && !(at_all && r->tables[i].state == CS_TRACKED))
            continue;
        r->tables[i].doubted = false;
        if ((s = cs_db_stmt(r, CS_STMT_GAP_SET, err)) == NULL) {
            rc = err_code(err);
            break;
        }
        sqlite3_bind_int64(s, 1, r->tables[i].id);
        sqlite3_bind_zeroblob(s, 2, 0);
        sqlite3_bind_int64(s, 3, 1);
        rc = cs_db_step(r, s, "cannot note that a table is to be compared", err);
        r->tables[i].backfilling = true;
    }
    return cs_db_end(r, rc, err);
}

/* ---- the walk ---- */

static int put_row(struct walk *w, struct cs_slice key, struct cs_error *err)
{
    struct cs_replica *r = w->r;
    struct walked *at = &w->at;
    struct cs_merged_place place;
    uint32_t put = 0;
    int rc = cs_merged_locate(r, at->t, at->id, key, &r->row, &place, err);

    cs_buf_reset(&w->row);
    cs_dump_row(&w->row, at->name, key, &r->row);
    for (uint32_t i = 0; i < at->ncolumns && rc == CS_OK && put < r->row.ncells; i++) {
        struct cs_dump_cell cell = { at->columns[at->order[i]], cs_row_find(&r->row, at->order[i]) };
        struct cs_value v;

        if (cell.cell == NULL)
            continue;
        rc = cs_merged_value(r, &r->scratch, &place, at->order[i], &v, err);
        if (rc == CS_ENOTFOUND) { /* the application dropped the column, or the table */
            rc = CS_OK;
            w->info->gone++;
        }
        cs_dump_cell(&w->row, &cell, &v);
        put++;
    }
    if (rc == CS_OK && put < r->row.ncells)
        rc = cs_fail(err, CS_ECORRUPT, "a row of sync_rows has a column without a name");
    at->shown += place.read;
    at->doubt = at->doubt || (place.shown && !place.read) || (place.read && has_unknown_value(at->t, &r->row));
    cs_merged_leave(&place);
    if (rc == CS_OK && w->row.failed)
        rc = no_memory(err);
    return rc == CS_OK ? w->fn(w->arg, at->name, key, cs_buf_slice(&w->row), err) : rc;
}

/* Of an edit that is too large to be sent nobody else can have anything. */
static int is_left_out(struct walk *w, int64_t unsent, bool *out, struct cs_error *err)
{
    struct cs_unsent u;
    int rc = unsent == 0 || w->r->huge == 0 ? CS_ENOTFOUND : cs_unsent_get(w->r, &w->r->scratch, unsent, &u, err);

    *out = rc == CS_OK;
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

static int walk_rows(struct walk *w, struct cs_error *err)
{
    static const char sql[] = "SELECT ins, del, meta, unsent, key FROM main.sync_rows WHERE tbl = ?1 ORDER BY key";
    struct cs_replica *r = w->r;
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read the versions");
    sqlite3_bind_int64(s, 1, w->at.id);
    while (rc == CS_OK) {
        bool left_out = false;

        cs_scratch_reset(r);
        if (!cs_db_row(r, s, &rc, "cannot read the versions", err))
            break;
        if ((rc = cs_rows_read(r, s, w->at.id, cs_db_column_blob(s, 4), &r->row, err)) != CS_OK ||
            (rc = is_left_out(w, sqlite3_column_int64(s, 3), &left_out, err)) != CS_OK)
            break;
        w->info->left_out += left_out;
        w->at.shown += left_out && cs_row_lives(&r->row);
        if (!left_out && !cs_row_is_empty(&r->row))
            rc = put_row(w, cs_db_column_blob(s, 4), err);
    }
    sqlite3_finalize(s);
    return rc == CS_OK ? doubt_table(w, err) : rc;
}

static int load_columns(struct walk *w, struct cs_error *err)
{
    static const char sql[] =
        "SELECT id, name, (SELECT max(id) FROM main.sync_columns WHERE tbl = ?1) FROM main.sync_columns WHERE tbl = ?1 "
        "ORDER BY CAST(name AS BLOB)";
    struct walked *at = &w->at;
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(w->r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(w->r, err, "cannot read our tables");
    sqlite3_bind_int64(s, 1, at->id);
    while (cs_db_row(w->r, s, &rc, "cannot read our tables", err)) {
        uint32_t id = (uint32_t)sqlite3_column_int64(s, 0), n = (uint32_t)sqlite3_column_int64(s, 2) + 1;

        if (at->columns == NULL) {
            at->columns = cs_arena_zalloc(&w->arena, n, sizeof *at->columns);
            at->order = cs_arena_zalloc(&w->arena, n, sizeof *at->order);
        }
        if (at->columns == NULL || at->order == NULL || id >= n) {
            rc = no_memory(err);
            break;
        }
        at->columns[id] =
            cs_arena_copy(&w->arena, cs_slice(sqlite3_column_text(s, 1), (size_t)sqlite3_column_bytes(s, 1)));
        at->order[at->ncolumns++] = id;
        rc = w->arena.failed ? no_memory(err) : CS_OK;
    }
    sqlite3_finalize(s);
    return rc;
}

static int walk_tables(struct walk *w, struct cs_error *err)
{
    static const char sql[] = "SELECT id, name FROM main.sync_tables ORDER BY CAST(name AS BLOB)";
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(w->r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(w->r, err, "cannot read our tables");
    while (rc == CS_OK && cs_db_row(w->r, s, &rc, "cannot read our tables", err)) {
        cs_arena_reset(&w->arena);
        w->at = (struct walked){ .id = sqlite3_column_int64(s, 0) };
        w->at.name = cs_arena_copy(&w->arena, cs_slice(sqlite3_column_text(s, 1), (size_t)sqlite3_column_bytes(s, 1)));
        w->at.t = cs_table_by_id(w->r, w->at.id);
        rc = w->arena.failed ? no_memory(err) : load_columns(w, err);
        if (rc == CS_OK)
            rc = walk_rows(w, err);
    }
    sqlite3_finalize(s);
    return rc;
}

int cs_replica_settled(struct cs_replica *r, bool *out, struct cs_error *err)
{
    struct cs_replica_counts c;
    bool unsealed, unsent;
    int rc;

    if ((*out = r->bare))
        return CS_OK;
    rc = cs_replica_pending(r, &unsealed, &unsent, err);
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++)
        if (r->tables[i].state == CS_PAUSED)
            rc = cs_fail(err, CS_EINVAL, "table \"%s\" is paused: claw-sync resume first", r->tables[i].name);
    if (rc == CS_OK && (rc = cs_replica_counts(r, &c, err)) == CS_OK)
        *out = !unsealed && c.bound == 0 && c.unsent <= r->huge;
    return rc;
}

int cs_replica_dropped(struct cs_replica *r, bool *out, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    *out = false;
    if (r->bare)
        return CS_OK;
    if (sqlite3_prepare_v2(r->db, "SELECT tbl, id FROM main.sync_columns", -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read our tables");
    while (!*out && cs_db_row(r, s, &rc, "cannot read our tables", err)) {
        const struct cs_table *t = cs_table_by_id(r, sqlite3_column_int64(s, 0));

        *out = t == NULL || cs_column_position(t, (uint32_t)sqlite3_column_int64(s, 1)) == CS_NO_COLUMN;
    }
    sqlite3_finalize(s);
    return rc;
}

int cs_replica_merged(cs_replica *r, bool settled, cs_merged_fn fn, void *arg, struct cs_merged_info *info,
                      struct cs_error *err)
{
    struct walk w = { .r = r, .fn = fn, .arg = arg, .info = info };
    bool go = true;
    int rc;

    *info = (struct cs_merged_info){ 0 };
    if (r->bare)
        return CS_OK;
    if ((rc = cs_snapshot_begin(r, err)) != CS_OK)
        return rc;
    info->mark = r->mark;
    if ((rc = cs_apply_ready(r, err)) == CS_OK && settled)
        rc = cs_replica_settled(r, &go, err);
    info->unsettled = !go;
    if (rc == CS_OK && go)
        rc = walk_tables(&w, err);
    cs_snapshot_end(r);
    cs_buf_free(&w.row);
    cs_arena_free(&w.arena);
    return rc;
}

static int put_in(void *arg, struct cs_slice table, struct cs_slice key, struct cs_slice row, struct cs_error *err)
{
    struct cs_buf *out = arg;

    (void)table;
    (void)key;
    cs_buf_put_slice(out, row);
    return out->failed ? no_memory(err) : CS_OK;
}

int cs_replica_dump(cs_replica *r, struct cs_buf *out, struct cs_error *err)
{
    struct cs_merged_info info;

    cs_buf_put_slice(out, cs_dump_head());
    return out->failed ? no_memory(err) : cs_replica_merged(r, false, put_in, out, &info, err);
}
