#include "crdt/state.h"

#include <stdlib.h>

#include "base/error.h"
#include "crdt/dump.h"

/* A delta set's numbers in the state's: made while the set is applied. */
struct naming {
    struct cs_arena arena;
    const struct cs_delta *d;
    struct table_naming {
        uint32_t table;    /* in the state, or CS_INTERN_NONE: not looked up yet */
        uint32_t *columns; /* in the state */
    } * tables;
    struct cs_op_cell *cells; /* of the operation at hand */
    struct cs_row_cell *over;
    uint32_t cells_cap, over_cap;
    struct cs_buf key;
};

void cs_state_free(struct cs_state *s)
{
    cs_arena_free(&s->arena);
    *s = (struct cs_state){ 0 };
}

/* An array in the arena with room for one more than its n items. */
static void *room(void *items, uint32_t n, uint32_t *cap, size_t size, struct cs_arena *a)
{
    uint32_t more = *cap == 0 ? 16 : *cap * 2;
    void *p;

    if (n < *cap)
        return items;
    if (more < *cap || (p = cs_arena_zalloc(a, more, size)) == NULL)
        return NULL;
    if (n > 0)
        memcpy(p, items, n * size);
    *cap = more;
    return p;
}

static uint32_t table_number(struct cs_state *s, struct cs_slice name)
{
    uint32_t n = cs_intern_put(&s->names, &s->arena, name);
    struct cs_state_table *t;

    if (n == CS_INTERN_NONE || n < s->ntables)
        return n;
    if ((t = room(s->tables, s->ntables, &s->tables_cap, sizeof *t, &s->arena)) == NULL)
        return CS_INTERN_NONE;
    s->tables = t;
    t[s->ntables++] = (struct cs_state_table){ .name = s->names.items[n] };
    return n;
}

/* What names a row among all tables: the table's number, then the key. */
static bool row_name(struct cs_buf *out, uint32_t table, struct cs_slice key)
{
    cs_buf_reset(out);
    cs_buf_put_u32(out, table);
    cs_buf_put_slice(out, key);
    return !out->failed;
}

static struct cs_state_row *row_of(struct cs_state *s, struct cs_buf *name, uint32_t table, struct cs_slice key)
{
    struct cs_state_row *rows;
    uint32_t n;

    if (!row_name(name, table, key) || (n = cs_intern_put(&s->keys, &s->arena, cs_buf_slice(name))) == CS_INTERN_NONE)
        return NULL;
    if (n < s->nrows)
        return &s->rows[n];
    if ((rows = room(s->rows, s->nrows, &s->rows_cap, sizeof *rows, &s->arena)) == NULL)
        return NULL;
    s->rows = rows;
    rows[s->nrows++] =
        (struct cs_state_row){ .table = table, .key = cs_slice(s->keys.items[n].data + sizeof n, key.len) };
    return &rows[n];
}

static bool keep_value(struct cs_state *s, struct cs_state_row *row, uint32_t col, const struct cs_value *v)
{
    struct cs_value *values, kept = *v;
    uint32_t n = s->tables[row->table].columns.n;

    if (row->nvalues <= col) {
        if ((values = cs_arena_zalloc(&s->arena, n, sizeof *values)) == NULL)
            return false;
        if (row->nvalues > 0)
            memcpy(values, row->values, row->nvalues * sizeof *values);
        row->values = values;
        row->nvalues = n;
    }
    if (v->type == CS_TEXT || v->type == CS_BLOB) {
        kept.u.bytes = cs_arena_copy(&s->arena, v->u.bytes);
        if (kept.u.bytes.data == NULL)
            return false;
    }
    row->values[col] = kept;
    return true;
}

static const struct cs_value *present_value(void *arg, uint32_t col)
{
    const struct cs_state_row *row = arg;

    return &row->values[col];
}

/* The conflicts point to present values, so they are told before those are replaced. */
static int merge(struct cs_state *s, struct cs_state_row *row, struct cs_merge_in *in, cs_state_conflict_fn conflict,
                 void *arg)
{
    int rc;

    in->value = present_value;
    in->arg = row;
    if ((rc = cs_row_merge(&row->row, in, &s->out, &s->arena)) != CS_OK)
        return rc;
    for (uint32_t i = 0; conflict != NULL && i < s->out.nconflicts; i++)
        conflict(arg, row, &s->out.conflicts[i]);
    for (uint32_t i = 0; i < in->ncells; i++)
        if (cs_verdict_takes(s->out.verdicts[i]) && !keep_value(s, row, in->cells[i].col, &in->cells[i].value))
            return CS_ENOMEM;
    return CS_OK;
}

/* crdt/op.h's rules, for sets that were not decoded by someone who checks them. */
static bool is_valid(const struct cs_delta *d, const struct cs_op *op)
{
    uint32_t ncolumns;

    if (op->table >= d->ntables || op->device >= d->ndevices || op->stamp <= 0 || cs_key_parts(op->key) < 0)
        return false;
    if (op->kind != CS_OP_INSERT && op->kind != CS_OP_UPDATE && op->kind != CS_OP_DELETE)
        return false;
    if ((op->kind == CS_OP_DELETE && op->ncells > 0) || (op->kind == CS_OP_INSERT && op->nover > 0))
        return false;
    ncolumns = d->tables[op->table].ncolumns;
    for (uint32_t i = 0; i < op->ncells; i++)
        if (op->cells[i].col >= ncolumns || (i > 0 && op->cells[i - 1].col >= op->cells[i].col))
            return false;
    for (uint32_t i = 0; i < op->nover; i++)
        if (op->over[i].col >= ncolumns || op->over[i].device >= d->ndevices ||
            (i > 0 && op->over[i - 1].col >= op->over[i].col))
            return false;
    return true;
}

static struct table_naming *name_table(struct cs_state *s, struct naming *n, uint32_t table)
{
    const struct cs_delta_table *dt = &n->d->tables[table];
    struct table_naming *tn = &n->tables[table];

    if (tn->columns != NULL)
        return tn;
    tn->table = table_number(s, dt->name);
    if (tn->table == CS_INTERN_NONE ||
        (tn->columns = cs_arena_zalloc(&n->arena, dt->ncolumns, sizeof *tn->columns)) == NULL)
        return NULL;
    for (uint32_t c = 0; c < dt->ncolumns; c++) {
        tn->columns[c] = cs_intern_put(&s->tables[tn->table].columns, &s->arena, dt->columns[c]);
        if (tn->columns[c] == CS_INTERN_NONE)
            return NULL;
    }
    return tn;
}

/* The operation's lists with the state's column numbers, in their order. */
static bool rename_lists(struct naming *n, const struct table_naming *tn, const struct cs_op *op)
{
    if (op->ncells > n->cells_cap) {
        n->cells_cap = op->ncells;
        if ((n->cells = cs_arena_zalloc(&n->arena, op->ncells, sizeof *n->cells)) == NULL)
            return false;
    }
    if (op->nover > n->over_cap) {
        n->over_cap = op->nover;
        if ((n->over = cs_arena_zalloc(&n->arena, op->nover, sizeof *n->over)) == NULL)
            return false;
    }
    for (uint32_t i = 0; i < op->ncells; i++)
        n->cells[i] = (struct cs_op_cell){ tn->columns[op->cells[i].col], op->cells[i].value };
    for (uint32_t i = 0; i < op->nover; i++)
        n->over[i] = (struct cs_row_cell){ tn->columns[op->over[i].col],
                                           { op->over[i].stamp, n->d->devices[op->over[i].device] } };
    cs_op_cells_sort(n->cells, op->ncells);
    cs_row_cells_sort(n->over, op->nover);
    return true;
}

static int apply_one(struct cs_state *s, struct naming *n, const struct cs_op *op, cs_state_conflict_fn conflict,
                     void *arg)
{
    struct table_naming *tn;
    struct cs_state_row *row;
    struct cs_merge_in in = { .kind = op->kind, .ncells = op->ncells, .nover = op->nover };

    if (!is_valid(n->d, op))
        return CS_EINVAL;
    if ((tn = name_table(s, n, op->table)) == NULL || !rename_lists(n, tn, op) ||
        (row = row_of(s, &n->key, tn->table, op->key)) == NULL)
        return CS_ENOMEM;
    for (uint32_t i = 1; i < op->ncells; i++)
        if (n->cells[i].col == n->cells[i - 1].col) /* a table that names a column twice */
            return CS_EINVAL;
    in.v = (struct cs_version){ op->stamp, n->d->devices[op->device] };
    in.cells = n->cells;
    in.over = n->over;
    return merge(s, row, &in, conflict, arg);
}

int cs_state_apply(struct cs_state *s, const struct cs_delta *d, cs_state_conflict_fn conflict, void *arg)
{
    struct naming n = { .d = d };
    int rc = CS_OK;

    if ((n.tables = cs_arena_zalloc(&n.arena, d->ntables, sizeof *n.tables)) == NULL)
        rc = CS_ENOMEM;
    for (uint32_t i = 0; rc == CS_OK && i < d->nops; i++)
        rc = apply_one(s, &n, &d->ops[i], conflict, arg);
    cs_buf_free(&n.key);
    cs_arena_free(&n.arena);
    return rc;
}

/* A row is the join of its parts: its delete, each cell as an update, and an insert without cells. */
static int join_row(struct cs_state *s, struct cs_state_row *row, const struct cs_state *other,
                    const struct cs_state_row *r)
{
    struct cs_merge_in in = { .kind = CS_OP_DELETE, .v = r->row.del };
    struct cs_op_cell cell;
    int rc;

    if (!cs_version_is_never(&in.v) && (rc = merge(s, row, &in, NULL, NULL)) != CS_OK)
        return rc;
    in = (struct cs_merge_in){ .kind = CS_OP_UPDATE, .cells = &cell, .ncells = 1 };
    for (uint32_t i = 0; i < r->row.ncells; i++) {
        in.v = r->row.cells[i].v;
        cell.col =
            cs_intern_put(&s->tables[row->table].columns, &s->arena, cs_state_column(other, r, r->row.cells[i].col));
        cell.value = r->values[r->row.cells[i].col];
        if (cell.col == CS_INTERN_NONE)
            return CS_ENOMEM;
        if ((rc = merge(s, row, &in, NULL, NULL)) != CS_OK)
            return rc;
    }
    in = (struct cs_merge_in){ .kind = CS_OP_INSERT, .v = r->row.ins };
    return cs_version_is_never(&in.v) ? CS_OK : merge(s, row, &in, NULL, NULL);
}

int cs_state_join(struct cs_state *s, const struct cs_state *other)
{
    struct cs_buf name = { 0 };
    struct cs_state_row *row;
    uint32_t table;
    int rc = CS_OK;

    for (uint32_t i = 0; rc == CS_OK && i < other->nrows; i++) {
        const struct cs_state_row *r = &other->rows[i];

        table = table_number(s, other->tables[r->table].name);
        if (table == CS_INTERN_NONE || (row = row_of(s, &name, table, r->key)) == NULL)
            rc = CS_ENOMEM;
        else
            rc = join_row(s, row, other, r);
    }
    cs_buf_free(&name);
    return rc;
}

const struct cs_state_row *cs_state_find(const struct cs_state *s, struct cs_slice table, struct cs_slice key)
{
    uint32_t t = cs_intern_find(&s->names, table), n = CS_INTERN_NONE;
    struct cs_buf name = { 0 };

    if (t != CS_INTERN_NONE && row_name(&name, t, key))
        n = cs_intern_find(&s->keys, cs_buf_slice(&name));
    cs_buf_free(&name);
    return n == CS_INTERN_NONE ? NULL : &s->rows[n];
}

struct cs_slice cs_state_column(const struct cs_state *s, const struct cs_state_row *row, uint32_t col)
{
    return s->tables[row->table].columns.items[col];
}

const struct cs_value *cs_state_value(const struct cs_state_row *row, uint32_t col)
{
    return cs_row_find(&row->row, col) == NULL ? NULL : &row->values[col];
}

struct sort_item {
    struct cs_slice table, key;
    const struct cs_state_row *row;
};
static int by_table_and_key(const void *a, const void *b)
{
    const struct sort_item *x = a, *y = b;
    int c = cs_slice_cmp(x->table, y->table);

    return c != 0 ? c : cs_slice_cmp(x->key, y->key);
}

const struct cs_state_row **cs_state_sorted(const struct cs_state *s, struct cs_arena *a, uint32_t *n)
{
    struct sort_item *items = cs_arena_zalloc(a, s->nrows, sizeof *items);
    const struct cs_state_row **rows = cs_arena_zalloc(a, s->nrows, sizeof *rows);

    *n = 0;
    if (items == NULL || rows == NULL)
        return NULL;
    for (uint32_t i = 0; i < s->nrows; i++)
        if (!cs_row_is_empty(&s->rows[i].row))
            items[(*n)++] = (struct sort_item){ s->tables[s->rows[i].table].name, s->rows[i].key, &s->rows[i] };
    if (*n > 0)
        qsort(items, *n, sizeof *items, by_table_and_key);
    for (uint32_t i = 0; i < *n; i++)
        rows[i] = items[i].row;
    return rows;
}

/* cells: scratch for all columns of the widest table. */
static void dump_row(const struct cs_state *s, const struct cs_state_row *r, struct cs_dump_cell *cells,
                     struct cs_buf *out)
{
    cs_dump_row(out, s->tables[r->table].name, r->key, &r->row);
    for (uint32_t i = 0; i < r->row.ncells; i++)
        cells[i] = (struct cs_dump_cell){ cs_state_column(s, r, r->row.cells[i].col), &r->row.cells[i] };
    cs_dump_sort(cells, r->row.ncells);
    for (uint32_t i = 0; i < r->row.ncells; i++)
        cs_dump_cell(out, &cells[i], &r->values[cells[i].cell->col]);
}

void cs_state_dump(const struct cs_state *s, struct cs_buf *out)
{
    struct cs_arena scratch = { 0 };
    const struct cs_state_row **rows;
    struct cs_dump_cell *cells;
    uint32_t n, widest = 0;

    for (uint32_t i = 0; i < s->ntables; i++)
        if (s->tables[i].columns.n > widest)
            widest = s->tables[i].columns.n;
    cells = cs_arena_zalloc(&scratch, widest, sizeof *cells);
    rows = cs_state_sorted(s, &scratch, &n);
    if (cells == NULL || rows == NULL)
        out->failed = true;
    cs_buf_put_slice(out, cs_dump_head());
    for (uint32_t i = 0; !out->failed && i < n; i++)
        dump_row(s, rows[i], cells, out); /* NOLINT(clang-analyzer-core.NullDereference): then out has failed */
    cs_arena_free(&scratch);
}
