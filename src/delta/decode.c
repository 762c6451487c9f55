#include "delta/format.h"
#include "delta/pack.h"

/* A cursor like cs_reader, kept apart so that the hot path is inlined here. */
struct in {
    const uint8_t *p, *end;
    bool bad;
};

static inline uint64_t get_varint_slow(struct in *r)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 64 && r->p < r->end; shift += 7) {
        uint8_t byte = *r->p++;

        if (shift == 63 && byte > 1)
            break;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return v;
    }
    r->bad = true;
    r->p = r->end;
    return 0;
}

static inline uint64_t get_varint(struct in *r)
{
    if (r->p < r->end && *r->p < 0x80)
        return *r->p++;
    return get_varint_slow(r);
}

static inline uint32_t get_u32(struct in *r)
{
    uint64_t v = get_varint(r);

    if (v > UINT32_MAX)
        r->bad = true;
    return (uint32_t)v;
}

static inline int64_t get_s64(struct in *r)
{
    return cs_unzigzag(get_varint(r));
}

static inline struct cs_slice get_bytes(struct in *r)
{
    uint64_t n = get_varint(r);
    struct cs_slice s;

    if (n > (size_t)(r->end - r->p)) {
        r->bad = true;
        r->p = r->end;
        return cs_slice(r->end, 0);
    }
    s = cs_slice(r->p, (size_t)n);
    r->p += n;
    return s;
}

static inline struct in get_message(struct in *r)
{
    struct cs_slice s = get_bytes(r);

    return (struct in){ s.data, s.data + s.len, false };
}

static double get_real(struct in *r)
{
    uint64_t bits = 0;
    double d;

    if (r->end - r->p < 8) {
        r->bad = true;
        r->p = r->end;
        return 0;
    }
    for (int i = 0; i < 8; i++)
        bits |= (uint64_t)*r->p++ << 8 * i;
    memcpy(&d, &bits, sizeof d);
    return d;
}

/* The next tag; 0 at the end. Field numbers above 31 are none of ours. */
static inline uint32_t get_tag(struct in *r)
{
    uint32_t tag;

    if (r->p == r->end || r->bad)
        return 0;
    tag = get_u32(r);
    if (tag >> 3 == 0)
        r->bad = true;
    return r->bad ? 0 : tag;
}

/* Over a field that nobody here knows. A known field in another wire type, and groups, are refused. */
static void skip(struct in *r, uint32_t tag, uint32_t last_known)
{
    size_t n = 0;

    if (tag >> 3 <= last_known)
        r->bad = true;
    switch (tag & 7) {
    case WIRE_VARINT:
        get_varint(r);
        return;
    case WIRE_BYTES:
        get_bytes(r);
        return;
    case WIRE_FIXED64:
        n = 8;
        break;
    case WIRE_FIXED32:
        n = 4;
        break;
    default:
        r->bad = true;
        return;
    }
    if ((size_t)(r->end - r->p) < n)
        r->bad = true;
    else
        r->p += n;
}

static int out_of_memory(struct cs_error *err)
{
    return cs_fail(err, CS_ENOMEM, "out of memory; the delta set was not decoded");
}

static int corrupt(struct cs_error *err, const char *what, size_t at, const char *why)
{
    return cs_fail(err, CS_ECORRUPT, "%s %zu of a delta set: %s; the set is refused", what, at, why);
}

/* Values */

static void get_value(struct in r, struct cs_value *v, bool *bad)
{
    uint32_t tag;

    *v = (struct cs_value){ 0 }; /* NOLINT(clang-analyzer-core.NullDereference): as many as were counted */
    while ((tag = get_tag(&r)) != 0) {
        switch (tag) {
        case TAG(VALUE_INTEGER, WIRE_VARINT):
            *v = (struct cs_value){ .type = CS_INTEGER, .u.i = get_s64(&r) };
            break;
        case TAG(VALUE_REAL, WIRE_FIXED64):
            *v = (struct cs_value){ .type = CS_REAL, .u.r = get_real(&r) };
            break;
        case TAG(VALUE_TEXT, WIRE_BYTES):
            *v = (struct cs_value){ .type = CS_TEXT, .u.bytes = get_bytes(&r) };
            break;
        case TAG(VALUE_BLOB, WIRE_BYTES):
            *v = (struct cs_value){ .type = CS_BLOB, .u.bytes = get_bytes(&r) };
            break;
        default:
            skip(&r, tag, VALUE_BLOB);
        }
    }
    *bad |= r.bad;
}

/* stamp: still the difference to the operation's own. */
static void get_over(struct in r, struct cs_op_over *o, bool *bad)
{
    uint32_t tag;

    *o = (struct cs_op_over){ 0 }; /* NOLINT(clang-analyzer-core.NullDereference): as many as were counted */
    while ((tag = get_tag(&r)) != 0) {
        switch (tag) {
        case TAG(OVER_COLUMN, WIRE_VARINT):
            o->col = get_u32(&r);
            break;
        case TAG(OVER_DEVICE, WIRE_VARINT):
            o->device = get_u32(&r);
            break;
        case TAG(OVER_STAMP, WIRE_VARINT):
            o->stamp = get_s64(&r);
            break;
        default:
            skip(&r, tag, OVER_STAMP);
        }
    }
    *bad |= r.bad;
}

/* Operations: counted, so that their arrays can be made, then filled. */

struct op_counts {
    size_t columns, values, over;
};

static size_t count_varints(struct cs_slice packed)
{
    size_t n = 0;

    for (size_t i = 0; i < packed.len; i++)
        n += packed.data[i] < 0x80;
    return n;
}

static bool count_op(struct in r, struct op_counts *c)
{
    uint32_t tag;

    *c = (struct op_counts){ 0 };
    while ((tag = get_tag(&r)) != 0) {
        switch (tag) {
        case TAG(OP_COLUMNS, WIRE_BYTES):
            c->columns += count_varints(get_bytes(&r));
            break;
        case TAG(OP_COLUMNS, WIRE_VARINT):
            get_varint(&r);
            c->columns++;
            break;
        case TAG(OP_VALUES, WIRE_BYTES):
            get_bytes(&r);
            c->values++;
            break;
        case TAG(OP_OVER, WIRE_BYTES):
            get_bytes(&r);
            c->over++;
            break;
        default:
            skip(&r, tag, 0);
        }
    }
    return !r.bad;
}

static void get_columns(struct in r, struct cs_op *op, size_t *at, bool *bad)
{
    while (r.p < r.end && *at < op->ncells)
        op->cells[(*at)++].col = get_u32(&r);
    *bad |= r.bad || r.p != r.end;
}

/* stamp_delta goes to op->stamp, for the caller to resolve. */
static bool fill_op(struct in r, struct cs_op *op)
{
    size_t ncolumns = 0, nvalues = 0, nover = 0;
    uint32_t tag, kind = 0;
    bool bad = false;

    while ((tag = get_tag(&r)) != 0) {
        switch (tag) {
        case TAG(OP_KIND, WIRE_VARINT):
            kind = get_u32(&r);
            break;
        case TAG(OP_TABLE, WIRE_VARINT):
            op->table = get_u32(&r);
            break;
        case TAG(OP_DEVICE, WIRE_VARINT):
            op->device = get_u32(&r);
            break;
        case TAG(OP_STAMP, WIRE_VARINT):
            op->stamp = get_s64(&r);
            break;
        case TAG(OP_KEY, WIRE_BYTES):
            op->key = get_bytes(&r);
            break;
        case TAG(OP_COLUMNS, WIRE_BYTES):
            get_columns(get_message(&r), op, &ncolumns, &bad);
            break;
        case TAG(OP_COLUMNS, WIRE_VARINT):
            if (ncolumns == op->ncells) /* a broken packed field before it took its place */
                return false;
            op->cells[ncolumns++].col = get_u32(&r);
            break;
        case TAG(OP_VALUES, WIRE_BYTES):
            get_value(get_message(&r), &op->cells[nvalues++].value, &bad);
            break;
        case TAG(OP_OVER, WIRE_BYTES):
            get_over(get_message(&r), &op->over[nover++], &bad);
            break;
        default:
            skip(&r, tag, OP_OVER);
        }
    }
    op->kind = kind <= CS_OP_DELETE ? (enum cs_op_kind)kind : 0;
    return !bad && !r.bad && ncolumns == op->ncells;
}

static bool resolve_stamps(struct cs_op *op, int64_t before)
{
    if (__builtin_add_overflow(op->stamp, before, &op->stamp))
        return false;
    for (size_t i = 0; i < op->nover; i++)
        if (__builtin_add_overflow(op->over[i].stamp, op->stamp, &op->over[i].stamp))
            return false;
    return true;
}

static int get_op(struct cs_delta *d, struct cs_arena *a, struct in r, int64_t before, int64_t top_stamp,
                  struct cs_error *err)
{
    struct cs_op *op = &d->ops[d->nops];
    struct op_counts n;
    const char *why;

    *op = (struct cs_op){ 0 };
    if (!count_op(r, &n) || n.columns != n.values)
        return corrupt(err, "operation", d->nops, "malformed, or columns and values that differ in number");
    if (n.columns > COLUMNS_MAX || n.over > COLUMNS_MAX)
        return corrupt(err, "operation", d->nops, "too many columns");
    op->ncells = (uint32_t)n.columns;
    op->nover = (uint32_t)n.over;
    if ((n.columns != 0 && (op->cells = cs_arena_alloc(a, n.columns * sizeof *op->cells)) == NULL) ||
        (n.over != 0 && (op->over = cs_arena_alloc(a, n.over * sizeof *op->over)) == NULL))
        return out_of_memory(err);
    if (!fill_op(r, op) || !resolve_stamps(op, before))
        return corrupt(err, "operation", d->nops, "malformed");
    if (op->stamp > top_stamp)
        return corrupt(err, "operation", d->nops, "stamp above the highest announced");
    if ((why = cs_delta_op_fault(d, op)) != NULL)
        return corrupt(err, "operation", d->nops, why);
    d->nops++;
    return CS_OK;
}

/* Tables */

static int get_table(struct cs_delta *d, struct cs_arena *a, struct in r, struct cs_error *err)
{
    struct cs_delta_table *t = &d->tables[d->ntables];
    struct in again = r;
    size_t ncolumns = 0;
    const char *why;
    uint32_t tag;

    *t = (struct cs_delta_table){ 0 };
    while ((tag = get_tag(&r)) != 0) {
        if (tag == TAG(TABLE_COLUMNS, WIRE_BYTES))
            ncolumns++;
        skip(&r, tag, 0);
    }
    if (ncolumns > COLUMNS_MAX)
        return corrupt(err, "table", d->ntables, "too many columns");
    if (ncolumns != 0 && (t->columns = cs_arena_alloc(a, ncolumns * sizeof *t->columns)) == NULL)
        return out_of_memory(err);
    while (!r.bad && (tag = get_tag(&again)) != 0) {
        if (tag == TAG(TABLE_NAME, WIRE_BYTES))
            t->name = get_bytes(&again);
        else if (tag == TAG(TABLE_COLUMNS, WIRE_BYTES))
            t->columns[t->ncolumns++] = get_bytes(&again); /* NOLINT(clang-analyzer-core.NullDereference): counted */
        else
            skip(&again, tag, TABLE_COLUMNS);
    }
    if (r.bad || again.bad)
        return corrupt(err, "table", d->ntables, "malformed");
    if ((why = cs_delta_table_fault(t)) != NULL)
        return corrupt(err, "table", d->ntables, why);
    d->ntables++;
    return CS_OK;
}

/* The set */

/* How many of each, before anything is allocated: an operation or device that is too short to be one is refused here,
 * so that memory stays within a small multiple of the input. */
static bool count_set(struct in r, struct cs_delta *d, int64_t *base_stamp)
{
    bool short_field = false;
    uint32_t tag;

    while ((tag = get_tag(&r)) != 0) {
        switch (tag) {
        case TAG(SET_DEVICES, WIRE_BYTES):
            short_field |= get_bytes(&r).len != sizeof(struct cs_uuid);
            d->ndevices++;
            break;
        case TAG(SET_TABLES, WIRE_BYTES):
            short_field |= get_bytes(&r).len < 3; /* a name of one byte */
            d->ntables++;
            break;
        case TAG(SET_BASE_STAMP, WIRE_VARINT):
            *base_stamp = get_s64(&r);
            break;
        case TAG(SET_OPS, WIRE_BYTES):
            short_field |= get_bytes(&r).len < OP_MIN_LEN;
            d->nops++;
            break;
        case TAG(SET_STATE, WIRE_VARINT):
            d->state = get_varint(&r) != 0;
            break;
        case TAG(SET_COLLECT, WIRE_VARINT):
            d->collect.through = (int64_t)get_varint(&r);
            short_field |= d->collect.through < 1;
            break;
        default:
            skip(&r, tag, SET_COLLECT);
        }
    }
    return !r.bad && !short_field;
}

static bool alloc_set(struct cs_delta *d, struct cs_arena *a)
{
    d->devices = cs_arena_alloc(a, d->ndevices * sizeof *d->devices);
    d->tables = cs_arena_alloc(a, d->ntables * sizeof *d->tables);
    d->ops = cs_arena_alloc(a, d->nops * sizeof *d->ops);
    return d->devices != NULL && d->tables != NULL && d->ops != NULL;
}

/* Devices and tables may stand anywhere, and operations refer to them: they come first. */
static int get_names(struct cs_delta *d, struct cs_arena *a, struct in r, struct cs_error *err)
{
    uint32_t tag;
    int rc = CS_OK;

    d->ndevices = d->ntables = 0;
    while (rc == CS_OK && (tag = get_tag(&r)) != 0) {
        if (tag == TAG(SET_DEVICES, WIRE_BYTES))
            memcpy(d->devices[d->ndevices++].b, get_bytes(&r).data, sizeof(struct cs_uuid));
        else if (tag == TAG(SET_TABLES, WIRE_BYTES))
            rc = get_table(d, a, get_message(&r), err);
        else
            skip(&r, tag, 0);
    }
    return rc;
}

static int get_ops(struct cs_delta *d, struct cs_arena *a, struct in r, int64_t stamp, int64_t top_stamp,
                   struct cs_error *err)
{
    uint32_t tag;
    int rc = CS_OK;

    d->nops = 0;
    while (rc == CS_OK && (tag = get_tag(&r)) != 0) {
        if (tag != TAG(SET_OPS, WIRE_BYTES)) {
            skip(&r, tag, 0);
            continue;
        }
        rc = get_op(d, a, get_message(&r), stamp, top_stamp, err);
        if (rc == CS_OK)
            stamp = d->ops[d->nops - 1].stamp;
    }
    return rc;
}

int cs_delta_decode(struct cs_delta *out, struct cs_arena *a, struct cs_slice bytes, int64_t top_stamp,
                    struct cs_error *err)
{
    struct cs_delta d = { 0 };
    int64_t base_stamp = 0;
    struct in r;
    int rc;

    *out = d;
    if (bytes.len == 0)
        return cs_fail(err, CS_ECORRUPT, "empty delta set; it is refused");
    r = (struct in){ bytes.data, bytes.data + bytes.len, false };
    if (!count_set(r, &d, &base_stamp))
        return cs_fail(err, CS_ECORRUPT, "malformed delta set; it is refused");
    if (d.ndevices == 0)
        return cs_fail(err, CS_ECORRUPT, "delta set without a sender; it is refused");
    if (!alloc_set(&d, a))
        return out_of_memory(err);
    if ((rc = get_names(&d, a, r, err)) < 0 || (rc = get_ops(&d, a, r, base_stamp, top_stamp, err)) < 0)
        return rc;
    *out = d;
    return CS_OK;
}
