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
