#include "crdt/dump.h"

#include <stdlib.h>

static void put_frame(struct cs_buf *out, struct cs_slice s)
{
    cs_buf_put_u32(out, (uint32_t)s.len);
    cs_buf_put_slice(out, s);
}

static void put_version(struct cs_buf *out, const struct cs_version *v)
{
    cs_buf_put_u64(out, (uint64_t)v->stamp);
    cs_buf_put(out, v->device.b, sizeof v->device.b);
}

struct cs_slice cs_dump_head(void)
{
    return cs_slice_str("claw-sync merged state 1\n");
}

void cs_dump_row(struct cs_buf *out, struct cs_slice table, struct cs_slice key, const struct cs_row *row)
{
    put_frame(out, table);
    put_frame(out, key);
    put_version(out, &row->ins);
    put_version(out, &row->del);
    cs_buf_put_u32(out, row->ncells);
}

static int by_name(const void *a, const void *b)
{
    return cs_slice_cmp(((const struct cs_dump_cell *)a)->name, ((const struct cs_dump_cell *)b)->name);
}

void cs_dump_sort(struct cs_dump_cell *cells, uint32_t n)
{
    if (n > 0)
        qsort(cells, n, sizeof *cells, by_name);
}

void cs_dump_cell(struct cs_buf *out, const struct cs_dump_cell *cell, const struct cs_value *value)
{
    put_frame(out, cell->name);
    put_version(out, &cell->cell->v);
    cs_buf_put_u32(out, (uint32_t)cs_value_encoded_len(value));
    cs_value_encode(out, value);
}
