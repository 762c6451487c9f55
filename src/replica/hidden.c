#include "replica/apply.h"
#include "replica/store.h"

static int out_of_memory(struct cs_error *err)
{
    return cs_fail(err, CS_ENOMEM, "out of memory");
}

/* A statement of ours, its table and key bound. */
static sqlite3_stmt *open_stmt(struct cs_replica *r, enum cs_own_statement which, int64_t table, struct cs_slice key,
                               struct cs_error *err)
{
    sqlite3_stmt *s = cs_apply_stmt(r, which, err);

    if (s == NULL)
        return NULL;
    sqlite3_bind_int64(s, 1, table);
    if (cs_db_bind_slice(s, 2, key) == CS_OK)
        return s;
    out_of_memory(err);
    return NULL;
}

/* ---- reading ---- */

int cs_hidden_row_reason(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_buf *reason,
                         struct cs_error *err)
{
    sqlite3_stmt *s = open_stmt(r, CS_OWN_HIDDEN_REASON, table, key, err);
    int step, rc = CS_OK;

    if (s == NULL)
        return err_code(err);
    if ((step = sqlite3_step(s)) == SQLITE_ROW)
        cs_buf_put(reason, sqlite3_column_text(s, 0), (size_t)sqlite3_column_bytes(s, 0));
    else
        rc = step == SQLITE_DONE ? CS_ENOTFOUND : cs_db_fail(r, err, "cannot read the hidden rows");
    sqlite3_reset(s);
    return rc == CS_OK && reason->failed ? out_of_memory(err) : rc;
}

static bool copy_column(struct cs_arena *a, sqlite3_stmt *s, int col, struct cs_value *out)
{
    cs_value_from_column(out, s, col);
    if (out->type != CS_TEXT && out->type != CS_BLOB)
        return true;
    out->u.bytes = cs_arena_copy(a, out->u.bytes);
    return out->u.bytes.data != NULL;
}

int cs_hidden_cell(struct cs_replica *r, struct cs_arena *a, int64_t table, struct cs_slice key, uint32_t col,
                   struct cs_value *out, struct cs_error *err)
{
    sqlite3_stmt *s = open_stmt(r, CS_OWN_HIDDEN_CELL, table, key, err);
    int step, rc = CS_OK;

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 3, col);
    if ((step = sqlite3_step(s)) != SQLITE_ROW)
        rc = step == SQLITE_DONE ? CS_ENOTFOUND : cs_db_fail(r, err, "cannot read a hidden value");
    else if (!copy_column(a, s, 0, out))
        rc = out_of_memory(err);
    sqlite3_reset(s);
    return rc;
}

int cs_hidden_cells(struct cs_replica *r, struct cs_arena *a, int64_t table, struct cs_slice key,
                    struct cs_op_cell **out, uint32_t *n, struct cs_error *err)
{
    sqlite3_stmt *s = open_stmt(r, CS_OWN_HIDDEN_CELLS, table, key, err);
    uint32_t cap = 0;
    int step, rc = CS_OK;

    *out = NULL;
    *n = 0;
    if (s == NULL)
        return err_code(err);
    while ((step = sqlite3_step(s)) == SQLITE_ROW && rc == CS_OK) {
        if (*n == cap) {
            struct cs_op_cell *more = cs_arena_alloc(a, (cap = cap == 0 ? 8 : 2 * cap) * sizeof *more);

            if (more == NULL) {
                rc = out_of_memory(err);
                break;
            }
            if (*n > 0)
                memcpy(more, *out, *n * sizeof *more);
            *out = more;
        }
        (*out)[*n].col = (uint32_t)sqlite3_column_int64(s, 0);
        if (!copy_column(a, s, 1, &(*out)[(*n)++].value))
            rc = out_of_memory(err);
    }
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read the hidden values");
    sqlite3_reset(s);
    return rc;
}

int cs_hidden_keys(struct cs_replica *r, struct cs_arena *a, enum cs_own_statement which, int64_t table,
                   struct cs_slice **out, size_t *n, struct cs_error *err)
{
    sqlite3_stmt *s = cs_apply_stmt(r, which, err);
    size_t cap = 0;
    int step, rc = CS_OK;

    *out = NULL;
    *n = 0;
    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, table);
    while ((step = sqlite3_step(s)) == SQLITE_ROW && rc == CS_OK) {
        if (*n == cap) {
            struct cs_slice *more = cs_arena_alloc(a, (cap = cap == 0 ? 64 : 2 * cap) * sizeof *more);

            if (more == NULL) {
                rc = out_of_memory(err);
                break;
            }
            if (*n > 0)
                memcpy(more, *out, *n * sizeof *more);
            *out = more;
        }
        (*out)[*n] = cs_arena_copy(a, cs_db_column_blob(s, 0));
        if ((*out)[(*n)++].data == NULL)
            rc = out_of_memory(err);
    }
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read the hidden rows");
    sqlite3_reset(s);
    return rc;
}

/* ---- counting ---- */

int cs_hidden_count(struct cs_replica *r, struct cs_error *err)
{
    sqlite3_stmt *s = cs_apply_stmt(r, CS_OWN_HIDDEN_COUNT, err);
    int step;

    if (s == NULL)
        return err_code(err);
    for (size_t i = 0; i < r->ntables; i++)
        r->tables[i].nhidden = r->tables[i].nhidden_cells = 0;
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        struct cs_table *t = cs_table_by_id(r, sqlite3_column_int64(s, 0));

        if (t == NULL)
            continue;
        t->nhidden = sqlite3_column_int64(s, 1);
        t->nhidden_cells = sqlite3_column_int64(s, 2);
    }
    sqlite3_reset(s);
    if (step != SQLITE_DONE)
        return cs_db_fail(r, err, "cannot count the hidden rows");
    cs_apply_of(r)->counts_known = true;
    return CS_OK;
}

static void count(struct cs_replica *r, int64_t table, bool row, int64_t by)
{
    struct cs_table *t = cs_table_by_id(r, table);

    if (t == NULL)
        return;
    if (row)
        t->nhidden += by;
    else
        t->nhidden_cells += by;
}

/* ---- writing ---- */

/* The entry (table, key, col) becomes (reason, value); row entries have col -1. */
static int put(struct cs_replica *r, int64_t table, struct cs_slice key, int64_t col, const char *reason,
               const struct cs_value *v, struct cs_error *err)
{
    static const enum cs_own_statement order[] = { CS_OWN_HIDDEN_INSERT, CS_OWN_HIDDEN_UPDATE };

    for (int i = 0; i < 2; i++) {
        sqlite3_stmt *s = open_stmt(r, order[i], table, key, err);
        int rc;

        if (s == NULL)
            return err_code(err);
        sqlite3_bind_int64(s, 3, col);
        if (reason != NULL)
            sqlite3_bind_text(s, 4, reason, -1, SQLITE_STATIC);
        else
            sqlite3_bind_null(s, 4);
        if (v == NULL)
            sqlite3_bind_null(s, 5);
        else if (cs_value_bind(s, 5, v) != CS_OK)
            return out_of_memory(err);
        if ((rc = cs_db_step(r, s, "cannot keep a value aside", err)) != CS_OK)
            return rc;
        if (sqlite3_changes(r->db) > 0) {
            if (i == 0)
                count(r, table, col < 0, 1);
            return CS_OK;
        }
    }
    return cs_fail(err, CS_EINTERNAL, "an entry of sync_hidden is neither there nor not there");
}

static int drop(struct cs_replica *r, int64_t table, struct cs_slice key, int64_t col, struct cs_error *err)
{
    sqlite3_stmt *s = open_stmt(r, CS_OWN_HIDDEN_DELETE, table, key, err);
    int rc;

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 3, col);
    rc = cs_db_step(r, s, "cannot drop a value kept aside", err);
    if (rc == CS_OK)
        count(r, table, col < 0, -sqlite3_changes(r->db));
    return rc;
}

int cs_hidden_put_row(struct cs_replica *r, int64_t table, struct cs_slice key, const char *reason,
                      struct cs_error *err)
{
    return put(r, table, key, -1, reason, NULL, err);
}

int cs_hidden_put_cell(struct cs_replica *r, int64_t table, struct cs_slice key, uint32_t col, const struct cs_value *v,
                       struct cs_error *err)
{
    return put(r, table, key, col, NULL, v, err);
}

int cs_hidden_drop_row(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_error *err)
{
    sqlite3_stmt *s = open_stmt(r, CS_OWN_HIDDEN_DELETE_ROW, table, key, err);
    bool there, lost;
    int step;

    if (s == NULL)
        return err_code(err);
    there = (step = sqlite3_step(s)) == SQLITE_ROW;
    lost = there && sqlite3_column_int(s, 0) != 0;
    if (there)
        step = sqlite3_step(s);
    sqlite3_reset(s);
    if (step != SQLITE_DONE)
        return cs_db_fail(r, err, "cannot drop a hidden row");
    if (there)
        count(r, table, true, -1);
    return lost ? cs_conflict_close(r, table, key, "unique", NULL, err) : CS_OK;
}

int cs_hidden_drop_cell(struct cs_replica *r, int64_t table, struct cs_slice key, uint32_t col, struct cs_error *err)
{
    return drop(r, table, key, col, err);
}

int cs_hidden_uncover(struct cs_replica *r, struct cs_table *t, struct cs_slice key, const struct cs_row *row,
                      struct cs_error *err)
{
    struct cs_op_cell *cells;
    uint32_t n;
    int rc = cs_hidden_cells(r, &r->scratch, t->id, key, &cells, &n, err);

    if (rc == CS_OK)
        rc = cs_hidden_drop_row(r, t->id, key, err);
    for (uint32_t i = 0; i < n && rc == CS_OK; i++) {
        uint32_t pos = cs_column_position(t, cells[i].col);

        if (pos != CS_NO_COLUMN || cs_row_find(row, cells[i].col) == NULL)
            rc = cs_hidden_drop_cell(r, t->id, key, cells[i].col, err);
    }
    return rc;
}
