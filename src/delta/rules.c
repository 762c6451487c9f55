#include <stdlib.h>

#include "delta/format.h"

static int by_bytes(const void *a, const void *b)
{
    return cs_slice_cmp(*(const struct cs_slice *)a, *(const struct cs_slice *)b);
}

static bool has_twins(const struct cs_slice *names, size_t n)
{
    struct cs_slice sorted[COLUMNS_MAX];

    if (n == 0)
        return false;
    memcpy(sorted, names, n * sizeof *names);
    qsort(sorted, n, sizeof *sorted, by_bytes);
    for (size_t i = 1; i < n; i++)
        if (cs_slice_eq(sorted[i - 1], sorted[i]))
            return true;
    return false;
}

const char *cs_delta_table_fault(const struct cs_delta_table *t)
{
    if (t->name.len == 0 || t->name.len > NAME_MAX_LEN)
        return "table name of a wrong length";
    if (t->ncolumns > COLUMNS_MAX)
        return "too many columns";
    for (size_t i = 0; i < t->ncolumns; i++)
        if (t->columns[i].len == 0 || t->columns[i].len > NAME_MAX_LEN)
            return "column name of a wrong length";
    return has_twins(t->columns, t->ncolumns) ? "one column name twice" : NULL;
}

static const char *cells_fault(const struct cs_delta_table *t, const struct cs_op *op)
{
    for (size_t i = 0; i < op->ncells; i++) {
        const struct cs_value *v = &op->cells[i].value;

        if (op->cells[i].col >= t->ncolumns)
            return "a cell of no column";
        if (i > 0 && op->cells[i].col <= op->cells[i - 1].col)
            return "cells out of order";
        if (v->type == CS_REAL && v->u.r != v->u.r)
            return "a value that is not a number";
    }
    return NULL;
}

static const char *over_fault(const struct cs_delta *d, const struct cs_delta_table *t, const struct cs_op *op)
{
    for (size_t i = 0; i < op->nover; i++) {
        if (op->over[i].col >= t->ncolumns || op->over[i].device >= d->ndevices)
            return "an overwritten version of no column or device";
        if (i > 0 && op->over[i].col <= op->over[i - 1].col)
            return "overwritten versions out of order";
        if (op->over[i].stamp < 1)
            return "an overwritten stamp below 1";
    }
    return NULL;
}

const char *cs_delta_op_fault(const struct cs_delta *d, const struct cs_op *op)
{
    const struct cs_delta_table *t;
    const char *why;

    if (op->kind < CS_OP_INSERT || op->kind > CS_OP_DELETE)
        return "unknown kind of operation";
    if (op->table >= d->ntables || op->device >= d->ndevices)
        return "no such table or device";
    if (op->stamp < 1)
        return "stamp below 1";
    if (cs_key_parts(op->key) < 1)
        return "malformed key";
    if ((op->kind == CS_OP_DELETE && op->ncells != 0) || (op->kind == CS_OP_INSERT && op->nover != 0))
        return "cells in a delete or overwritten versions in an insert";
    t = &d->tables[op->table];
    if ((why = cells_fault(t, op)) != NULL)
        return why;
    return over_fault(d, t, op);
}
