#include "delta/format.h"
#include "delta/pack.h"

/* Fields go out in ascending order and zeros are left out, as protobuf's own writers do it. Sizes are computed before
 * anything is written, so that a message needs no second buffer. */

static size_t varint_len(uint64_t v)
{
    return (size_t)(70 - __builtin_clzll(v | 1)) / 7;
}

static uint8_t *put_varint(uint8_t *p, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

static uint8_t *put_bytes(uint8_t *p, uint8_t tag, struct cs_slice s)
{
    *p++ = tag;
    p = put_varint(p, s.len);
    if (s.len != 0)
        memcpy(p, s.data, s.len);
    return p + s.len;
}

/* A field of a varint, left out when zero. */
static size_t field_len(uint64_t v)
{
    return v == 0 ? 0 : 1 + varint_len(v);
}

static uint8_t *put_field(uint8_t *p, uint8_t tag, uint64_t v)
{
    if (v == 0)
        return p;
    *p++ = tag;
    return put_varint(p, v);
}

static size_t value_len(const struct cs_value *v)
{
    switch (v->type) {
    case CS_INTEGER:
        return 1 + varint_len(cs_zigzag(v->u.i));
    case CS_REAL:
        return 1 + 8;
    case CS_TEXT:
    case CS_BLOB:
        return 1 + varint_len(v->u.bytes.len) + v->u.bytes.len;
    case CS_NULL:
        break;
    }
    return 0;
}

static uint8_t *put_fixed64(uint8_t *p, double r)
{
    uint64_t bits;

    memcpy(&bits, &r, sizeof bits);
    for (int i = 0; i < 8; i++)
        *p++ = (uint8_t)(bits >> 8 * i);
    return p;
}

static uint8_t *put_value(uint8_t *p, const struct cs_value *v)
{
    *p++ = TAG(OP_VALUES, WIRE_BYTES);
    p = put_varint(p, value_len(v));
    switch (v->type) {
    case CS_INTEGER:
        *p++ = TAG(VALUE_INTEGER, WIRE_VARINT);
        return put_varint(p, cs_zigzag(v->u.i));
    case CS_REAL:
        *p++ = TAG(VALUE_REAL, WIRE_FIXED64);
        return put_fixed64(p, v->u.r);
    case CS_TEXT:
        return put_bytes(p, TAG(VALUE_TEXT, WIRE_BYTES), v->u.bytes);
    case CS_BLOB:
        return put_bytes(p, TAG(VALUE_BLOB, WIRE_BYTES), v->u.bytes);
    case CS_NULL:
        break;
    }
    return p;
}

/* Stamps are positive, so that differences of them do not overflow. */
static size_t over_len(const struct cs_op *op, const struct cs_op_over *o)
{
    return field_len(o->col) + field_len(o->device) + field_len(cs_zigzag(o->stamp - op->stamp));
}

static uint8_t *put_over(uint8_t *p, const struct cs_op *op, const struct cs_op_over *o)
{
    *p++ = TAG(OP_OVER, WIRE_BYTES);
    p = put_varint(p, over_len(op, o));
    p = put_field(p, TAG(OVER_COLUMN, WIRE_VARINT), o->col);
    p = put_field(p, TAG(OVER_DEVICE, WIRE_VARINT), o->device);
    return put_field(p, TAG(OVER_STAMP, WIRE_VARINT), cs_zigzag(o->stamp - op->stamp));
}

static size_t columns_len(const struct cs_op *op)
{
    size_t n = 0;

    for (size_t i = 0; i < op->ncells; i++)
        n += varint_len(op->cells[i].col);
    return n;
}

static size_t op_len(const struct cs_op *op, int64_t before, size_t columns)
{
    size_t n = 2 + field_len(op->table) + field_len(op->device) + field_len(cs_zigzag(op->stamp - before));

    n += 1 + varint_len(op->key.len) + op->key.len;
    if (columns != 0)
        n += 1 + varint_len(columns) + columns;
    for (size_t i = 0; i < op->ncells; i++) {
        size_t len = value_len(&op->cells[i].value);

        n += 1 + varint_len(len) + len;
    }
    for (size_t i = 0; i < op->nover; i++) {
        size_t len = over_len(op, &op->over[i]);

        n += 1 + varint_len(len) + len;
    }
    return n;
}

static void put_op(struct cs_buf *out, const struct cs_op *op, int64_t before)
{
    size_t columns = columns_len(op), len = op_len(op, before, columns);
    uint8_t *p = cs_buf_grow(out, 1 + varint_len(len) + len);

    if (p == NULL)
        return;
    *p++ = TAG(SET_OPS, WIRE_BYTES);
    p = put_varint(p, len);
    p = put_field(p, TAG(OP_KIND, WIRE_VARINT), op->kind);
    p = put_field(p, TAG(OP_TABLE, WIRE_VARINT), op->table);
    p = put_field(p, TAG(OP_DEVICE, WIRE_VARINT), op->device);
    p = put_field(p, TAG(OP_STAMP, WIRE_VARINT), cs_zigzag(op->stamp - before));
    p = put_bytes(p, TAG(OP_KEY, WIRE_BYTES), op->key);
    if (columns != 0) {
        *p++ = TAG(OP_COLUMNS, WIRE_BYTES);
        p = put_varint(p, columns);
    }
    for (size_t i = 0; i < op->ncells; i++)
        p = put_varint(p, op->cells[i].col);
    for (size_t i = 0; i < op->ncells; i++)
        p = put_value(p, &op->cells[i].value);
    for (size_t i = 0; i < op->nover; i++)
        p = put_over(p, op, &op->over[i]);
}

static void put_table(struct cs_buf *out, const struct cs_delta_table *t)
{
    size_t len = 1 + varint_len(t->name.len) + t->name.len;
    uint8_t *p;

    for (size_t i = 0; i < t->ncolumns; i++)
        len += 1 + varint_len(t->columns[i].len) + t->columns[i].len;
    if ((p = cs_buf_grow(out, 1 + varint_len(len) + len)) == NULL)
        return;
    *p++ = TAG(SET_TABLES, WIRE_BYTES);
    p = put_varint(p, len);
    p = put_bytes(p, TAG(TABLE_NAME, WIRE_BYTES), t->name);
    for (size_t i = 0; i < t->ncolumns; i++)
        p = put_bytes(p, TAG(TABLE_COLUMNS, WIRE_BYTES), t->columns[i]);
}

static int refuse(struct cs_error *err, const char *what, size_t at, const char *why)
{
    return cs_fail(err, CS_EINVAL, "%s %zu of a delta set: %s; it was not encoded", what, at, why);
}

int cs_delta_encode(struct cs_buf *out, const struct cs_delta *d, struct cs_error *err)
{
    int64_t before = d->nops == 0 ? 0 : d->ops[0].stamp;
    const char *why;

    if (d->ndevices == 0)
        return cs_fail(err, CS_EINVAL, "a delta set without a sender; it was not encoded");
    for (size_t i = 0; i < d->ndevices; i++) {
        cs_buf_put_u8(out, TAG(SET_DEVICES, WIRE_BYTES));
        cs_buf_put_u8(out, sizeof d->devices[i].b);
        cs_buf_put(out, d->devices[i].b, sizeof d->devices[i].b);
    }
    for (size_t i = 0; i < d->ntables; i++) {
        if ((why = cs_delta_table_fault(&d->tables[i])) != NULL)
            return refuse(err, "table", i, why);
        put_table(out, &d->tables[i]);
    }
    if (before != 0) {
        cs_buf_put_u8(out, TAG(SET_BASE_STAMP, WIRE_VARINT));
        cs_buf_put_varint(out, cs_zigzag(before));
    }
    if (d->state) {
        cs_buf_put_u8(out, TAG(SET_STATE, WIRE_VARINT));
        cs_buf_put_varint(out, 1);
    }
    if (d->collect.through > 0) {
        cs_buf_put_u8(out, TAG(SET_COLLECT, WIRE_VARINT));
        cs_buf_put_varint(out, (uint64_t)d->collect.through);
    }
    for (size_t i = 0; i < d->nops; i++) {
        if ((why = cs_delta_op_fault(d, &d->ops[i])) != NULL)
            return refuse(err, "operation", i, why);
        put_op(out, &d->ops[i], before);
        before = d->ops[i].stamp;
    }
    return out->failed ? cs_fail(err, CS_ENOMEM, "out of memory; the delta set was not encoded") : CS_OK;
}

size_t cs_delta_op_size(const struct cs_op *op)
{
    enum { HEAD = 1 + 5, U32 = 1 + 5, S64 = 1 + 10 };
    size_t n = HEAD + 2 + U32 + U32 + S64 + HEAD + op->key.len + HEAD;

    for (size_t i = 0; i < op->ncells; i++)
        n += 5 + HEAD + value_len(&op->cells[i].value);
    return n + op->nover * (size_t)(HEAD + U32 + U32 + S64);
}
