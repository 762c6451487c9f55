/* Records of unsent edits (consecutive fresh inserts share one: unsent_run.c). Stored form: flags u8 (1: the insert, 2:
 * the delete is unsent) ‖ varint nbase ‖ nbase × cell ‖ varint nseen ‖ nseen × cell; a cell is varint column ‖ varint
 * device (0: never) ‖ varint stamp. A plain fresh insert is NULL. */
#include "replica/statements.h"
#include "replica/store.h"

static int put_cells(struct cs_replica *r, const struct cs_row_cell *cells, uint32_t n, struct cs_buf *out,
                     struct cs_error *err)
{
    int rc = CS_OK;

    cs_buf_put_varint(out, n);
    for (uint32_t i = 0; i < n && rc == CS_OK; i++) {
        uint32_t device = 0;

        if (cells[i].v.stamp != 0)
            rc = cs_device_number(r, &cells[i].v.device, &device, err);
        cs_buf_put_varint(out, cells[i].col);
        cs_buf_put_varint(out, device);
        if (device != 0)
            cs_buf_put_varint(out, (uint64_t)cells[i].v.stamp);
    }
    return rc;
}

static int encode(struct cs_replica *r, const struct cs_unsent *u, struct cs_buf *out, struct cs_error *err)
{
    int rc;

    cs_buf_reset(out);
    if (u->ins && !u->del && u->nbase == 0 && u->nseen == 0)
        return CS_OK;
    cs_buf_put_u8(out, (uint8_t)((u->ins ? 1 : 0) | (u->del ? 2 : 0)));
    if ((rc = put_cells(r, u->base, u->nbase, out, err)) == CS_OK)
        rc = put_cells(r, u->seen, u->nseen, out, err);
    return rc == CS_OK && out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : rc;
}

static bool get_cells(struct cs_replica *r, struct cs_arena *a, struct cs_reader *rd, struct cs_row_cell **cells,
                      uint32_t *n)
{
    uint64_t count = cs_read_varint(rd);

    *n = 0;
    if (rd->bad || count > cs_reader_left(rd) || (*cells = cs_arena_zalloc(a, count + 1, sizeof **cells)) == NULL)
        return false;
    for (; *n < count; (*n)++) {
        struct cs_row_cell *c = &(*cells)[*n];
        uint64_t device;

        c->col = (uint32_t)cs_read_varint(rd);
        device = cs_read_varint(rd);
        if (device >= r->ndevices)
            return false;
        if (device != 0) {
            c->v.device = r->devices[device];
            c->v.stamp = (int64_t)cs_read_varint(rd);
        }
    }
    return !rd->bad;
}

int cs_unsent_decode(struct cs_replica *r, struct cs_arena *a, struct cs_slice bytes, struct cs_unsent *out,
                     struct cs_error *err)
{
    struct cs_reader rd = cs_reader(bytes);
    uint8_t flags;

    *out = (struct cs_unsent){ 0 };
    if (bytes.len == 0) {
        out->ins = true;
        return CS_OK;
    }
    flags = cs_read_u8(&rd);
    out->ins = (flags & 1) != 0;
    out->del = (flags & 2) != 0;
    if (!get_cells(r, a, &rd, &out->base, &out->nbase) || !get_cells(r, a, &rd, &out->seen, &out->nseen) ||
        !cs_reader_done(&rd))
        return cs_fail(err, CS_ECORRUPT, "a record of unsent edits is damaged");
    return CS_OK;
}

int cs_unsent_get(struct cs_replica *r, struct cs_arena *a, int64_t seq, struct cs_unsent *out, struct cs_error *err)
{
    sqlite3_stmt *s;
    int step, rc;

    *out = (struct cs_unsent){ 0 };
    if (seq == 0)
        return CS_ENOTFOUND;
    if (cs_run_holds(r, seq)) {
        out->ins = out->in_run = true;
        return CS_OK;
    }
    if ((s = cs_db_stmt(r, CS_STMT_UNSENT_GET, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, seq);
    if ((step = sqlite3_step(s)) != SQLITE_ROW) {
        rc = step == SQLITE_DONE ? CS_ENOTFOUND : cs_db_fail(r, err, "cannot read what is unsent");
    } else if (sqlite3_column_type(s, 2) != SQLITE_NULL) {
        rc = cs_unsent_decode(r, a, cs_db_column_blob(s, 3), out, err);
    } else {
        out->ins = out->in_run = cs_run_has(cs_db_column_blob(s, 3), sqlite3_column_int64(s, 0), seq);
        rc = out->in_run ? CS_OK : CS_ENOTFOUND;
    }
    sqlite3_reset(s);
    return rc;
}

static void bind_base(struct cs_replica *r, sqlite3_stmt *s, int param)
{
    if (r->meta.len == 0)
        sqlite3_bind_null(s, param);
    else
        cs_db_bind_slice(s, param, cs_buf_slice(&r->meta));
}

int cs_unsent_record(struct cs_replica *r, int64_t seq, int64_t table, struct cs_slice key, const struct cs_unsent *u,
                     struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc = encode(r, u, &r->meta, err);

    if (rc != CS_OK)
        return rc;
    if ((s = cs_db_stmt(r, CS_STMT_UNSENT_PUT, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, seq);
    sqlite3_bind_int64(s, 2, table);
    cs_db_bind_slice(s, 3, key);
    bind_base(r, s, 4);
    return cs_db_step(r, s, "cannot note an unsent edit", err);
}

int cs_unsent_put(struct cs_replica *r, int64_t table, struct cs_slice key, const struct cs_unsent *u, int64_t *seq,
                  struct cs_error *err)
{
    *seq = (int64_t)r->next_unsent++;
    return cs_unsent_record(r, *seq, table, key, u, err);
}

int cs_unsent_set(struct cs_replica *r, int64_t seq, int64_t table, struct cs_slice key, const struct cs_unsent *u,
                  struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc;

    if (u->in_run) {
        rc = cs_run_leave(r, seq, err);
        return rc == CS_OK ? cs_unsent_record(r, seq, table, key, u, err) : rc;
    }
    if ((rc = encode(r, u, &r->meta, err)) != CS_OK)
        return rc;
    if ((s = cs_db_stmt(r, CS_STMT_UNSENT_SET, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, seq);
    bind_base(r, s, 2);
    return cs_db_step(r, s, "cannot note an unsent edit", err);
}

int cs_unsent_leave_run(struct cs_replica *r, int64_t seq, int64_t table, struct cs_slice key, struct cs_error *err)
{
    struct cs_unsent u;
    int rc = cs_unsent_get(r, &r->scratch, seq, &u, err);

    if (rc != CS_OK || !u.in_run)
        return rc == CS_ENOTFOUND ? CS_OK : rc;
    return cs_unsent_set(r, seq, table, key, &u, err);
}

const struct cs_row_cell *cs_unsent_find(const struct cs_row_cell *cells, uint32_t n, uint32_t col)
{
    for (uint32_t i = 0; i < n; i++)
        if (cells[i].col == col)
            return &cells[i];
    return NULL;
}

int cs_unsent_add(struct cs_arena *a, struct cs_row_cell **cells, uint32_t *n, struct cs_row_cell cell,
                  struct cs_error *err)
{
    struct cs_row_cell *p;

    for (uint32_t i = 0; i < *n; i++)
        if ((*cells)[i].col == cell.col) {
            (*cells)[i] = cell;
            return CS_OK;
        }
    if ((p = cs_arena_zalloc(a, (size_t)*n + 1, sizeof *p)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if (*n > 0)
        memcpy(p, *cells, *n * sizeof *p);
    p[(*n)++] = cell;
    *cells = p;
    return CS_OK;
}

/* ---- columns that the application dropped ---- */

static bool is_dropped(const struct cs_table *t, uint32_t col)
{
    return col < t->ncolumn_ids && t->by_id[col] == CS_NO_COLUMN;
}

static bool has_dropped(const struct cs_table *t)
{
    for (uint32_t i = 0; i < t->ncolumn_ids; i++)
        if (is_dropped(t, i))
            return true;
    return false;
}

/* Is it an unsent cell of such a column, and its value not kept aside either? */
static int is_lost(struct cs_replica *r, const struct cs_table *t, struct cs_slice key, const struct cs_unsent *u,
                   const struct cs_row_cell *cell, bool *out, struct cs_error *err)
{
    struct cs_value v;
    int rc;

    *out = false;
    if (!is_dropped(t, cell->col) || cs_uuid_cmp(&cell->v.device, &r->id.device) != 0 ||
        (!u->ins && cs_unsent_find(u->base, u->nbase, cell->col) == NULL))
        return CS_OK;
    rc = cs_hidden_cell(r, &r->scratch, t->id, key, cell->col, &v, err);
    *out = rc == CS_ENOTFOUND;
    return *out ? CS_OK : rc;
}

static void drop_base(struct cs_unsent *u, uint32_t col)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < u->nbase; i++)
        if (u->base[i].col != col)
            u->base[n++] = u->base[i];
    u->nbase = n;
}

/* Takes those back to what stood before. */
static int revert(struct cs_replica *r, const struct cs_table *t, struct cs_slice key, struct cs_unsent *u, bool *some,
                  struct cs_error *err)
{
    struct cs_row *row = &r->row;
    uint32_t n = 0;
    int rc = CS_OK;

    *some = false;
    for (uint32_t i = 0; i < row->ncells && rc == CS_OK; i++) {
        struct cs_row_cell cell = row->cells[i];
        bool lost;

        if ((rc = is_lost(r, t, key, u, &cell, &lost, err)) == CS_OK && lost) {
            const struct cs_row_cell *base = cs_unsent_find(u->base, u->nbase, cell.col);

            *some = true;
            cell.v = base == NULL ? CS_NEVER : base->v;
            drop_base(u, cell.col);
        }
        if (!cs_version_is_never(&cell.v))
            row->cells[n++] = cell;
    }
    row->ncells = n;
    return rc;
}

static int lose_dropped(struct cs_replica *r, const struct cs_table *t, int64_t seq, struct cs_slice key,
                        struct cs_error *err)
{
    struct cs_unsent u;
    int64_t is;
    bool some;
    int rc = cs_rows_get(r, t->id, key, &r->row, &is, err);

    if (rc != CS_OK || is != seq)
        return rc == CS_ENOTFOUND ? CS_OK : rc;
    if ((rc = cs_unsent_get(r, &r->scratch, seq, &u, err)) != CS_OK)
        return rc == CS_ENOTFOUND ? CS_OK : rc;
    if ((rc = revert(r, t, key, &u, &some, err)) != CS_OK || !some)
        return rc;
    rc = cs_unsent_set(r, seq, t->id, key, &u, err);
    return rc == CS_OK ? cs_rows_update(r, t->id, key, &r->row, seq, err) : rc;
}

static int lose_of_table(struct cs_replica *r, const struct cs_table *t, struct cs_error *err)
{
    enum { SOME = 500 };
    struct cs_slice key[SOME];
    int64_t seq[SOME], last = 0;
    uint32_t n = SOME;
    int rc = CS_OK;

    while (rc == CS_OK && n == SOME) {
        sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_UNSENT_OF_TABLE, err);

        if (s == NULL)
            return err_code(err);
        sqlite3_bind_int64(s, 1, t->id);
        sqlite3_bind_int64(s, 2, last);
        sqlite3_bind_int(s, 3, SOME);
        for (n = 0; n < SOME && cs_db_row(r, s, &rc, "cannot read what is unsent", err); n++) {
            seq[n] = last = sqlite3_column_int64(s, 0);
            if ((key[n] = cs_arena_copy(&r->scratch, cs_db_column_blob(s, 1))).data == NULL)
                rc = cs_fail(err, CS_ENOMEM, "out of memory");
        }
        sqlite3_reset(s);
        for (uint32_t i = 0; i < n && rc == CS_OK; i++)
            rc = lose_dropped(r, t, seq[i], key[i], err);
    }
    return rc;
}

int cs_unsent_lose_dropped(struct cs_replica *r, struct cs_error *err)
{
    int rc = CS_OK;

    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++)
        if (has_dropped(&r->tables[i]) && (rc = cs_run_dissolve_all(r, err)) == CS_OK) {
            cs_extract_stale(r);
            rc = lose_of_table(r, &r->tables[i], err);
        }
    return rc;
}
