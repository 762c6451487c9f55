/* Rows of the merged state as operations: the delete, the insert with the cells of its version, and an update for each
 * further version among the cells; each with the stamp and the device that made it. Joined anywhere, in any order,
 * these give the row's state, or a newer one. */
#include "replica/apply.h"
#include "replica/merged.h"
#include "replica/statements.h"
#include "replica/store.h"

struct full {
    struct cs_replica *r;
    struct cs_arena *a;
    struct cs_delta *d;
    uint32_t tables_cap, devices_cap, ops_cap;
    size_t bytes;
};

static int no_memory(struct cs_error *err)
{
    return cs_fail(err, CS_ENOMEM, "out of memory");
}

static int table_of(struct full *f, struct cs_slice name, uint32_t *out, struct cs_error *err)
{
    for (*out = 0; *out < f->d->ntables; (*out)++)
        if (cs_slice_eq(f->d->tables[*out].name, name))
            return CS_OK;
    if (!cs_arena_grow(f->a, &f->d->tables, f->d->ntables, &f->tables_cap, sizeof *f->d->tables))
        return no_memory(err);
    f->d->tables[f->d->ntables] = (struct cs_delta_table){ .name = cs_arena_copy(f->a, name) };
    return f->d->tables[f->d->ntables++].name.data == NULL ? no_memory(err) : CS_OK;
}

static int column_of(struct full *f, uint32_t table, int64_t id, uint32_t col, uint32_t *out, struct cs_error *err)
{
    struct cs_delta_table *t = &f->d->tables[table];
    struct cs_slice name, *more;
    int rc = cs_column_name(f->r, id, col, &name, err);

    if (rc != CS_OK)
        return rc;
    for (*out = 0; *out < t->ncolumns; (*out)++)
        if (cs_slice_eq(t->columns[*out], name))
            return CS_OK;
    if ((more = cs_arena_zalloc(f->a, (size_t)t->ncolumns + 1, sizeof *more)) == NULL)
        return no_memory(err);
    if (t->ncolumns > 0)
        memcpy(more, t->columns, t->ncolumns * sizeof *more);
    t->columns = more;
    more[t->ncolumns] = cs_arena_copy(f->a, name);
    return more[t->ncolumns++].data == NULL ? no_memory(err) : CS_OK;
}

static int device_of(struct full *f, const struct cs_uuid *device, uint32_t *out, struct cs_error *err)
{
    for (*out = 0; *out < f->d->ndevices; (*out)++)
        if (cs_uuid_cmp(&f->d->devices[*out], device) == 0)
            return CS_OK;
    if (!cs_arena_grow(f->a, &f->d->devices, f->d->ndevices, &f->devices_cap, sizeof *f->d->devices))
        return no_memory(err);
    f->d->devices[f->d->ndevices++] = *device;
    return CS_OK;
}

static int new_op(struct full *f, enum cs_op_kind kind, uint32_t table, struct cs_slice key, const struct cs_version *v,
                  struct cs_op **out, struct cs_error *err)
{
    struct cs_op *op;
    int rc;

    if (!cs_arena_grow(f->a, &f->d->ops, f->d->nops, &f->ops_cap, sizeof *f->d->ops))
        return no_memory(err);
    op = &f->d->ops[f->d->nops];
    *op = (struct cs_op){ .kind = kind, .table = table, .stamp = v->stamp, .key = key };
    if ((rc = device_of(f, &v->device, &op->device, err)) != CS_OK)
        return rc;
    f->d->nops++;
    f->bytes += key.len + 24;
    *out = op;
    return CS_OK;
}

/* The cells of one version. What the application dropped and nobody keeps is left out. */
static int put_cells(struct full *f, struct cs_op *op, const struct cs_merged_place *p, const struct cs_version *v,
                     bool *done, struct cs_error *err)
{
    const struct cs_row *row = &f->r->row;
    int rc = CS_OK;

    if ((op->cells = cs_arena_zalloc(f->a, (size_t)row->ncells + 1, sizeof *op->cells)) == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < row->ncells && rc == CS_OK; i++) {
        struct cs_op_cell *cell = &op->cells[op->ncells];

        if (done[i] || cs_version_cmp(&row->cells[i].v, v) != 0)
            continue;
        done[i] = true;
        rc = cs_merged_value(f->r, f->a, p, row->cells[i].col, &cell->value, err);
        if (rc == CS_ENOTFOUND) {
            rc = CS_OK;
            continue;
        }
        if (rc == CS_OK && cell->value.type >= CS_TEXT) {
            cell->value.u.bytes = cs_arena_copy(f->a, cell->value.u.bytes);
            f->bytes += cell->value.u.bytes.len;
            rc = cell->value.u.bytes.data == NULL ? no_memory(err) : CS_OK;
        }
        if (rc == CS_OK)
            rc = column_of(f, op->table, p->table, row->cells[i].col, &cell->col, err);
        f->bytes += 16;
        op->ncells++;
    }
    cs_op_cells_sort(op->cells, op->ncells);
    return rc;
}

static int put_row(struct full *f, const struct cs_merged_place *p, uint32_t table, struct cs_error *err)
{
    const struct cs_row *row = &f->r->row;
    struct cs_op *op;
    bool *done = cs_arena_zalloc(f->a, (size_t)row->ncells + 1, sizeof *done);
    int rc = done == NULL ? no_memory(err) : CS_OK;

    if (rc == CS_OK && !cs_version_is_never(&row->del))
        rc = new_op(f, CS_OP_DELETE, table, p->key, &row->del, &op, err);
    if (rc == CS_OK && !cs_version_is_never(&row->ins) &&
        (rc = new_op(f, CS_OP_INSERT, table, p->key, &row->ins, &op, err)) == CS_OK)
        rc = put_cells(f, op, p, &row->ins, done, err);
    for (uint32_t i = 0; i < row->ncells && rc == CS_OK; i++) {
        if (done[i])
            continue;
        if ((rc = new_op(f, CS_OP_UPDATE, table, p->key, &row->cells[i].v, &op, err)) == CS_OK &&
            (rc = put_cells(f, op, p, &row->cells[i].v, done, err)) == CS_OK && op->ncells == 0)
            f->d->nops--;
    }
    return rc;
}

/* A row with no operation of it left (bytes then say more than they hold, which only ends the batch earlier). */
static int put_entity(struct full *f, const struct cs_entity *e, struct cs_error *err)
{
    struct cs_merged_place place;
    struct cs_slice key = cs_arena_copy(f->a, e->key);
    uint32_t table;
    int64_t id, unsent;
    sqlite3_stmt *s = cs_db_stmt(f->r, CS_STMT_TABLE_ID, err);
    int rc = CS_OK;

    if (s == NULL)
        return err_code(err);
    if (key.data == NULL)
        return no_memory(err);
    cs_db_bind_text(s, 1, e->table);
    if (!cs_db_row(f->r, s, &rc, "cannot read our tables", err)) {
        sqlite3_reset(s);
        return rc;
    }
    id = sqlite3_column_int64(s, 0);
    sqlite3_reset(s);
    cs_scratch_reset(f->r);
    rc = cs_rows_get(f->r, id, key, &f->r->row, &unsent, err);
    if (rc != CS_OK)
        return rc == CS_ENOTFOUND ? CS_OK : rc;
    if ((rc = cs_merged_locate(f->r, cs_table_by_id(f->r, id), id, key, &f->r->row, &place, err)) == CS_OK &&
        (rc = table_of(f, e->table, &table, err)) == CS_OK)
        rc = put_row(f, &place, table, err);
    cs_merged_leave(&place);
    return rc;
}

static int is_busy(struct cs_replica *r, bool *out, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_LOG_ANY, err);
    int rc = CS_OK;

    if (s == NULL)
        return err_code(err);
    *out = cs_db_row(r, s, &rc, "cannot read the changelog", err);
    sqlite3_reset(s);
    return rc;
}

int cs_replica_full(cs_replica *r, struct cs_arena *a, const struct cs_entity *list, size_t n, uint32_t max_ops,
                    size_t max_bytes, struct cs_delta *out, size_t *taken, bool *busy, struct cs_error *err)
{
    struct full f = { .r = r, .a = a, .d = out };
    uint32_t self;
    int rc;

    *out = (struct cs_delta){ 0 };
    *taken = 0;
    *busy = false;
    cs_extract_forget(r);
    if (r->bare)
        return CS_OK;
    if ((rc = cs_snapshot_begin(r, err)) != CS_OK)
        return rc;
    if ((rc = device_of(&f, &r->id.device, &self, err)) == CS_OK && (rc = cs_apply_ready(r, err)) == CS_OK)
        rc = is_busy(r, busy, err);
    for (; !*busy && rc == CS_OK && *taken < n && out->nops < max_ops && f.bytes < max_bytes; (*taken)++)
        rc = put_entity(&f, &list[*taken], err);
    cs_snapshot_end(r);
    if (rc != CS_OK)
        *out = (struct cs_delta){ 0 };
    return rc;
}
