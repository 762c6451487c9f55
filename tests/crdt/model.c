#include "model.h"

#include <stdlib.h>

static const uint64_t SIGN = 0x8000000000000000;

struct cs_slice model_take(struct cs_arena *a, struct cs_buf *b)
{
    struct cs_slice s = cs_arena_copy(a, cs_buf_slice(b));

    cs_buf_free(b);
    return s;
}
void model_frame(struct cs_buf *out, struct cs_slice s)
{
    cs_buf_put_u32(out, (uint32_t)s.len);
    cs_buf_put_slice(out, s);
}
struct cs_slice model_enc(struct cs_arena *a, struct cs_value v)
{
    struct cs_buf b = { 0 };
    uint64_t bits;

    memcpy(&bits, &v.u, 8);
    cs_buf_put_u8(&b, (uint8_t)v.type);
    if (v.type == CS_INTEGER || v.type == CS_REAL)
        cs_buf_put_u64(&b, v.type == CS_REAL && bits & SIGN ? ~bits : bits ^ SIGN);
    else if (v.type != CS_NULL)
        cs_buf_put_slice(&b, v.u.bytes);
    return model_take(a, &b);
}
struct cs_slice model_same(struct cs_arena *a, struct cs_slice e, enum cs_collation coll)
{
    uint64_t bits = e.data[0] == CS_REAL ? cs_load_u64(e.data + 1) : 0;
    double r;

    bits = bits & SIGN ? bits ^ SIGN : ~bits;
    memcpy(&r, &bits, 8);
    if (e.data[0] == CS_REAL && r >= -0x1p63 && r < 0x1p63 && r == (double)(int64_t)r)
        return model_enc(a, (struct cs_value){ .type = CS_INTEGER, .u.i = (int64_t)r });
    e = cs_arena_copy(a, e);
    while (e.data[0] == CS_TEXT && coll == CS_RTRIM && e.len > 1 && e.data[e.len - 1] == ' ')
        e.len--;
    for (uint8_t *p = (uint8_t *)e.data; e.data[0] == CS_TEXT && coll == CS_NOCASE && p < e.data + e.len; p++)
        *p |= *p >= 'A' && *p <= 'Z' ? 32 : 0;
    return e;
}

/* ---- merged state: maxima over the list ---- */

int model_order(struct cs_version a, struct cs_version b)
{
    return a.stamp != b.stamp ? (a.stamp > b.stamp) - (a.stamp < b.stamp) : memcmp(a.device.b, b.device.b, 16);
}
static int by_table_and_key(const void *a, const void *b)
{
    const struct model_row *x = a, *y = b;
    int c = cs_slice_cmp(x->table, y->table);

    return c != 0 ? c : cs_slice_cmp(x->key, y->key);
}
static int by_name(const void *a, const void *b)
{
    return cs_slice_cmp(((const struct model_cell *)a)->name, ((const struct model_cell *)b)->name);
}
static void put_cell(struct model_row *r, struct cs_slice name, struct cs_version v, struct cs_slice value)
{
    uint32_t i = 0;
    int c;

    while (i < r->ncells && !cs_slice_eq(r->cells[i].name, name))
        i++;
    c = i == r->ncells ? 1 : model_order(v, r->cells[i].v);
    if (c > 0 || (c == 0 && cs_slice_cmp(value, r->cells[i].value) > 0))
        r->cells[i] = (struct model_cell){ name, value, v, false };
    r->ncells += i == r->ncells;
}
static struct model_row *row_of(struct model *m, struct cs_slice table, struct cs_slice key)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (cs_slice_eq(m->rows[i].table, table) && cs_slice_eq(m->rows[i].key, key))
            return &m->rows[i];
    m->rows[m->n] = (struct model_row){ .table = table, .key = key };
    return &m->rows[m->n++];
}
void model_merge(struct model *m, const struct cs_delta *d)
{
    m->rows = cs_arena_zalloc(&m->arena, d->nops + 1, sizeof *m->rows);
    for (int deletes = 1; deletes >= 0; deletes--) /* first: they say what is no state */
        for (uint32_t o = 0; o < d->nops; o++) {
            const struct cs_op *op = &d->ops[o];
            const struct cs_delta_table *t = &d->tables[op->table];
            struct model_row *r = row_of(m, t->name, op->key);
            struct cs_version v = { op->stamp, d->devices[op->device] };

            if (deletes && op->kind == CS_OP_DELETE && model_order(v, r->del) > 0)
                r->del = v;
            if (deletes || op->kind == CS_OP_DELETE || v.stamp <= r->del.stamp)
                continue;
            if (op->kind == CS_OP_INSERT && model_order(v, r->ins) > 0)
                r->ins = v;
            for (uint32_t c = 0; c < op->ncells; c++)
                put_cell(r, t->columns[op->cells[c].col], v, model_enc(&m->arena, op->cells[c].value));
        }
    for (uint32_t i = 0; i < m->n; i++)
        qsort(m->rows[i].cells, m->rows[i].ncells, sizeof *m->rows[i].cells, by_name);
    qsort(m->rows, m->n, sizeof *m->rows, by_table_and_key);
}
void model_free(struct model *m)
{
    cs_arena_free(&m->arena);
    *m = (struct model){ 0 };
}
static void version(struct cs_buf *out, struct cs_version v)
{
    cs_buf_put_u64(out, (uint64_t)v.stamp);
    cs_buf_put(out, v.device.b, 16);
}
void model_dump(const struct model *m, struct cs_buf *out)
{
    cs_buf_put_str(out, "claw-sync merged state 1\n");
    for (const struct model_row *r = m->rows; r < m->rows + m->n; r++) {
        if (r->ins.stamp == 0 && r->del.stamp == 0 && r->ncells == 0)
            continue;
        model_frame(out, r->table);
        model_frame(out, r->key);
        version(out, r->ins);
        version(out, r->del);
        cs_buf_put_u32(out, r->ncells);
        for (uint32_t c = 0; c < r->ncells; c++) {
            model_frame(out, r->cells[c].name);
            version(out, r->cells[c].v);
            model_frame(out, r->cells[c].value);
        }
    }
}
