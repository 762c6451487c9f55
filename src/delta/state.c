/* Rows of the canonical dump as operations: the delete, the insert with the cells of its version, and an update for
 * each further version among the cells. Joined anywhere, in any order, these give the row's state, or a newer one. */
#include "crdt/merge.h"
#include "delta/format.h"
#include "delta/pack.h"

struct undump {
    struct cs_arena *a;
    struct cs_delta *d;
    uint32_t tables_cap, devices_cap, ops_cap, columns_cap; /* the last: of the table at hand */
    uint32_t device, column;                                /* found last */
    const char *why;
};

/* A cell as it stands in the dump. */
struct cell {
    uint32_t col;
    struct cs_version v;
    struct cs_value value;
    bool done;
};

static bool bad(struct undump *u, const char *why)
{
    if (u->why == NULL)
        u->why = why;
    return false;
}

/* Rows come by table. */
static bool table_of(struct undump *u, struct cs_slice name)
{
    struct cs_delta *d = u->d;
    struct cs_delta_table *t;

    if (d->ntables > 0 && cs_slice_eq(d->tables[d->ntables - 1].name, name))
        return true;
    if (!cs_arena_grow(u->a, &d->tables, d->ntables, &u->tables_cap, sizeof *d->tables))
        return false;
    t = &d->tables[d->ntables++];
    *t = (struct cs_delta_table){ .name = name };
    u->columns_cap = u->column = 0;
    return cs_delta_table_fault(t) == NULL || bad(u, "a table name of a wrong length");
}

/* Cells come in one order, so the next one is usually that of the next column. */
static bool column_of(struct undump *u, struct cs_slice name, uint32_t *out)
{
    struct cs_delta_table *t = &u->d->tables[u->d->ntables - 1];

    for (uint32_t i = 0; i < t->ncolumns; i++) {
        uint32_t at = (u->column + 1 + i) % t->ncolumns;

        if (cs_slice_eq(t->columns[at], name)) {
            *out = u->column = at;
            return true;
        }
    }
    if (t->ncolumns >= COLUMNS_MAX || name.len == 0 || name.len > NAME_MAX_LEN)
        return bad(u, "a column too many, or with a name of a wrong length");
    if (!cs_arena_grow(u->a, &t->columns, t->ncolumns, &u->columns_cap, sizeof *t->columns))
        return false;
    *out = u->column = t->ncolumns;
    t->columns[t->ncolumns++] = name;
    return true;
}

static bool device_of(struct undump *u, const struct cs_uuid *id, uint32_t *out)
{
    struct cs_delta *d = u->d;

    if (u->device < d->ndevices && cs_uuid_cmp(&d->devices[u->device], id) == 0) {
        *out = u->device;
        return true;
    }
    for (uint32_t i = 0; i < d->ndevices; i++)
        if (cs_uuid_cmp(&d->devices[i], id) == 0) {
            *out = u->device = i;
            return true;
        }
    if (!cs_arena_grow(u->a, &d->devices, d->ndevices, &u->devices_cap, sizeof *d->devices))
        return false;
    *out = u->device = d->ndevices;
    d->devices[d->ndevices++] = *id;
    return true;
}

static struct cs_slice read_frame(struct cs_reader *r)
{
    return cs_read_bytes(r, cs_read_u32(r));
}

static void read_version(struct cs_reader *r, struct cs_version *out)
{
    out->stamp = (int64_t)cs_read_u64(r);
    cs_read_into(r, out->device.b, sizeof out->device.b);
}

static bool version_is_good(const struct cs_version *v)
{
    return v->stamp > 0 || (v->stamp == 0 && cs_uuid_is_zero(&v->device));
}

static bool new_op(struct undump *u, enum cs_op_kind kind, struct cs_slice key, const struct cs_version *v,
                   struct cs_op **out)
{
    struct cs_delta *d = u->d;
    uint32_t device;

    if (!device_of(u, &v->device, &device) || !cs_arena_grow(u->a, &d->ops, d->nops, &u->ops_cap, sizeof *d->ops))
        return false;
    *out = &d->ops[d->nops++];
    **out = (struct cs_op){ .kind = kind, .table = d->ntables - 1, .device = device, .stamp = v->stamp, .key = key };
    return true;
}

/* The cells of one version. */
static bool put_cells(struct undump *u, struct cs_op *op, struct cell *cells, uint32_t n, const struct cs_version *v)
{
    uint32_t of_it = 0;

    for (uint32_t i = 0; i < n; i++)
        of_it += !cells[i].done && cs_version_cmp(&cells[i].v, v) == 0;
    if (of_it == 0)
        return true;
    if ((op->cells = cs_arena_zalloc(u->a, of_it, sizeof *op->cells)) == NULL)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        if (cells[i].done || cs_version_cmp(&cells[i].v, v) != 0)
            continue;
        cells[i].done = true;
        op->cells[op->ncells++] = (struct cs_op_cell){ cells[i].col, cells[i].value };
    }
    cs_op_cells_sort(op->cells, op->ncells);
    return true;
}

static bool put_ops(struct undump *u, struct cs_slice key, const struct cs_version *ins, const struct cs_version *del,
                    struct cell *cells, uint32_t n)
{
    uint32_t first = u->d->nops;
    struct cs_op *op;

    if (del->stamp != 0 && !new_op(u, CS_OP_DELETE, key, del, &op))
        return false;
    if (ins->stamp != 0 && (!new_op(u, CS_OP_INSERT, key, ins, &op) || !put_cells(u, op, cells, n, ins)))
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (!cells[i].done &&
            (!new_op(u, CS_OP_UPDATE, key, &cells[i].v, &op) || !put_cells(u, op, cells, n, &cells[i].v)))
            return false;
    if (u->d->nops == first)
        return bad(u, "a row with nothing in it");
    for (; first < u->d->nops; first++)
        if ((u->why = cs_delta_op_fault(u->d, &u->d->ops[first])) != NULL)
            return false;
    return true;
}

static bool read_row(struct undump *u, struct cs_reader *r)
{
    struct cs_slice table = read_frame(r), key = read_frame(r), last = CS_SLICE_NULL;
    struct cs_version ins, del;
    struct cell *cells;
    uint32_t n;

    read_version(r, &ins);
    read_version(r, &del);
    n = cs_read_u32(r);
    if (r->bad || n > COLUMNS_MAX || !version_is_good(&ins) || !version_is_good(&del))
        return bad(u, "a row that is too short, or has a wrong version");
    if (!table_of(u, table) || (cells = cs_arena_zalloc(u->a, (size_t)n + 1, sizeof *cells)) == NULL)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        struct cs_slice name = read_frame(r), value;

        read_version(r, &cells[i].v);
        value = read_frame(r);
        if (r->bad || cells[i].v.stamp <= 0 || (i > 0 && cs_slice_cmp(last, name) >= 0) ||
            !cs_value_decode(&cells[i].value, value))
            return bad(u, "a cell that is too short, out of order, or of a wrong version or value");
        if (!column_of(u, name, &cells[i].col))
            return false;
        last = name;
    }
    return put_ops(u, key, &ins, &del, cells, n);
}

int cs_delta_from_dump(struct cs_delta *out, struct cs_arena *a, struct cs_slice bytes, const struct cs_uuid *sender,
                       uint32_t *nrows, struct cs_error *err)
{
    struct undump u = { .a = a, .d = out };
    struct cs_reader r = cs_reader(bytes);
    uint32_t self;

    *out = (struct cs_delta){ .state = true };
    *nrows = 0;
    if (!device_of(&u, sender, &self))
        return cs_fail(err, CS_ENOMEM, "out of memory");
    for (; cs_reader_left(&r) > 0; (*nrows)++)
        if (!read_row(&u, &r))
            return u.why != NULL ? cs_fail(err, CS_ECORRUPT, "rows of a merged state with %s", u.why)
                                 : cs_fail(err, CS_ENOMEM, "out of memory");
    return CS_OK;
}
