/* The merge against tests/vectors/merge.json, the answers of the specification: encodings, clock, and for each case
 * every delivery's merged state, the conflicts of a log, and the projections. The format is described in
 * tests/vectors/merge.md. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/error.h"
#include "crdt/project.h"

enum { MAX_DEVICES = 16, MAX_OPS = 256, MAX_LINES = 1024 };

static json_t *vectors;

/* ---- reading ---- */

static struct cs_slice unhex(struct cs_arena *a, const char *hex)
{
    size_t n = strlen(hex) / 2;
    uint8_t *p = cs_arena_alloc(a, n);

    assert_non_null(p);
    assert_true(cs_unhex(p, n, hex));
    return cs_slice(p, n);
}
static char *hex_of(struct cs_arena *a, struct cs_slice s)
{
    char *out = cs_arena_alloc(a, 2 * s.len + 1);

    assert_non_null(out);
    cs_hex(out, s.data, s.len);
    return out;
}
static struct cs_slice str(const json_t *j)
{
    return cs_slice(json_string_value(j), json_string_length(j));
}
static int64_t num(const json_t *j, const char *name)
{
    const json_t *v = json_object_get(j, name);

    assert_true(json_is_integer(v));
    return json_integer_value(v);
}
static const char *text(const json_t *j, const char *name)
{
    const char *s = json_string_value(json_object_get(j, name));

    assert_non_null(s);
    return s;
}

static double real_of_hex(struct cs_arena *a, const char *hex)
{
    uint64_t bits = cs_load_u64(unhex(a, hex).data);
    double r;

    memcpy(&r, &bits, sizeof r);
    return r;
}

static struct cs_value value_of(struct cs_arena *a, const json_t *j)
{
    struct cs_value v = { 0 };
    const char *hex;

    if (json_is_integer(j)) {
        v.type = CS_INTEGER;
        v.u.i = json_integer_value(j);
    } else if (json_is_string(j)) {
        v.type = CS_TEXT;
        v.u.bytes = str(j);
    } else if (json_is_object(j) && (hex = json_string_value(json_object_get(j, "r"))) != NULL) {
        v.type = CS_REAL;
        v.u.r = real_of_hex(a, hex);
    } else if (json_is_object(j) && (hex = json_string_value(json_object_get(j, "b"))) != NULL) {
        v.type = CS_BLOB;
        v.u.bytes = unhex(a, hex);
    } else if (json_is_object(j)) {
        v.type = CS_TEXT;
        v.u.bytes = unhex(a, text(j, "t"));
    } else {
        assert_true(json_is_null(j));
    }
    return v;
}

/* Keys in the vectors are canonical: binary collation leaves them as they are. */
static struct cs_slice key_of(struct cs_arena *a, const json_t *j)
{
    struct cs_buf b = { 0 };
    struct cs_slice key;
    size_t i;
    json_t *part;

    json_array_foreach(j, i, part)
    {
        struct cs_value v = value_of(a, part);

        cs_buf_put_u32(&b, (uint32_t)cs_value_encoded_len(&v));
        cs_value_encode(&b, &v);
    }
    assert_false(b.failed);
    key = cs_arena_copy(a, cs_buf_slice(&b));
    cs_buf_free(&b);
    return key;
}

static uint32_t named(struct cs_slice *names, uint32_t *n, struct cs_slice name)
{
    for (uint32_t i = 0; i < *n; i++)
        if (cs_slice_eq(names[i], name))
            return i;
    names[*n] = name;
    return (*n)++;
}

static void op_of(struct cs_arena *a, struct cs_delta *d, struct cs_op *op, const json_t *j)
{
    struct cs_slice name = cs_slice_str(text(j, "table"));
    const char *kind = text(j, "op"), *column;
    struct cs_delta_table *t;
    json_t *v;

    for (op->table = 0; op->table < d->ntables && !cs_slice_eq(d->tables[op->table].name, name); op->table++)
        ;
    t = &d->tables[op->table];
    if (op->table == d->ntables) {
        d->ntables++;
        *t = (struct cs_delta_table){ .name = name, .columns = cs_arena_zalloc(a, 64, sizeof *t->columns) };
    }
    op->kind = *kind == 'i' ? CS_OP_INSERT : *kind == 'u' ? CS_OP_UPDATE : CS_OP_DELETE;
    op->key = key_of(a, json_object_get(j, "key"));
    op->stamp = num(j, "stamp");
    op->device = (uint32_t)num(j, "device");
    op->cells = cs_arena_zalloc(a, 64, sizeof *op->cells);
    op->over = cs_arena_zalloc(a, 64, sizeof *op->over);
    json_object_foreach(json_object_get(j, "cells"), column, v)
    {
        op->cells[op->ncells++] =
            (struct cs_op_cell){ named(t->columns, &t->ncolumns, cs_slice_str(column)), value_of(a, v) };
    }
    json_object_foreach(json_object_get(j, "over"), column, v)
    {
        op->over[op->nover++] = (struct cs_op_over){ named(t->columns, &t->ncolumns, cs_slice_str(column)),
                                                     (uint32_t)json_integer_value(json_array_get(v, 1)),
                                                     json_integer_value(json_array_get(v, 0)) };
    }
    cs_op_cells_sort(op->cells, op->ncells);
    for (uint32_t i = 1; i < op->nover; i++)
        for (uint32_t k = i; k > 0 && op->over[k - 1].col > op->over[k].col; k--) {
            struct cs_op_over x = op->over[k];

            op->over[k] = op->over[k - 1];
            op->over[k - 1] = x;
        }
}

static void delta_of(struct cs_arena *a, struct cs_delta *d, const json_t *c)
{
    const json_t *ops = json_object_get(c, "ops"), *devices = json_object_get(c, "devices");
    size_t i;
    json_t *j;

    assert_true(json_array_size(ops) <= MAX_OPS && json_array_size(devices) <= MAX_DEVICES);
    d->tables = cs_arena_zalloc(a, 16, sizeof *d->tables);
    d->devices = cs_arena_zalloc(a, MAX_DEVICES, sizeof *d->devices);
    d->ops = cs_arena_zalloc(a, MAX_OPS, sizeof *d->ops);
    json_array_foreach(devices, i, j)
    {
        assert_true(cs_unhex(d->devices[d->ndevices++].b, 16, json_string_value(j)));
    }
    json_array_foreach(ops, i, j)
    {
        op_of(a, d, &d->ops[d->nops++], j);
    }
}

/* ---- schemas, and CHECK as the vectors write it ---- */

struct checks {
    struct cs_arena *a;
    const json_t *tables; /* the schema */
    const struct cs_schema *schema;
};

static uint32_t column_of(const struct cs_schema_table *t, const char *name)
{
    uint32_t c = 0;

    while (!cs_slice_eq(t->columns[c].name, cs_slice_str(name)))
        assert_true(++c < t->ncolumns);
    return c;
}
static uint32_t *columns_of(struct cs_arena *a, const struct cs_schema_table *t, const json_t *names, uint32_t *n)
{
    uint32_t *cols = cs_arena_zalloc(a, json_array_size(names), sizeof *cols);
    size_t i;
    json_t *j;

    json_array_foreach(names, i, j)
    {
        cols[i] = column_of(t, json_string_value(j));
    }
    *n = (uint32_t)json_array_size(names);
    return cols;
}

static int compare(struct cs_value x, struct cs_value y, enum cs_collation coll)
{
    struct cs_buf a = { 0 }, b = { 0 };
    long double m, n;
    int c;

    if (x.type <= CS_REAL && y.type <= CS_REAL) { /* a long double holds every int64 */
        m = x.type == CS_REAL ? x.u.r : (long double)x.u.i;
        n = y.type == CS_REAL ? y.u.r : (long double)y.u.i;
        return (m > n) - (m < n);
    }
    if (x.type <= CS_REAL || y.type <= CS_REAL)
        return x.type <= CS_REAL ? -1 : 1;
    cs_value_put_equal(&a, &x, coll);
    cs_value_put_equal(&b, &y, coll);
    c = cs_slice_cmp(cs_slice(a.data + 4, a.len - 4), cs_slice(b.data + 4, b.len - 4));
    cs_buf_free(&a);
    cs_buf_free(&b);
    return c;
}

static bool check_holds(void *arg, uint32_t table, uint32_t index, const struct cs_value *values)
{
    const struct checks *k = arg;
    const struct cs_schema_table *t = &k->schema->tables[table];
    const json_t *all = json_object_get(k->tables, (const char *)t->name.data);
    const json_t *check = json_array_get(json_object_get(all, "check"), index);
    const json_t *other = json_array_get(check, 2), *column = json_object_get(other, "column");
    const char *op = json_string_value(json_array_get(check, 1));
    uint32_t col = column_of(t, json_string_value(json_array_get(check, 0)));
    struct cs_value x = values[col], y;
    int c;

    y = column != NULL ? values[column_of(t, json_string_value(column))]
                       : value_of(k->a, json_object_get(other, "value"));
    if (x.type == CS_NULL || y.type == CS_NULL)
        return true;
    c = compare(x, y, t->columns[col].rule.collation);
    return strcmp(op, "<=") == 0 ? c <= 0 : strcmp(op, "<") == 0 ? c < 0 : c != 0;
}

static void columns_of_table(struct cs_arena *a, struct cs_schema_table *t, const json_t *j)
{
    struct cs_schema_column *cols = cs_arena_zalloc(a, json_object_size(j), sizeof *cols);
    const char *name, *coll;
    json_t *c, *def;

    json_object_foreach((json_t *)j, name, c)
    {
        struct cs_schema_column *col = &cols[t->ncolumns++];

        coll = json_string_value(json_object_get(c, "collate"));
        col->name = cs_slice_str(name);
        col->rule.notnull = json_is_true(json_object_get(c, "notnull"));
        col->rule.collation = coll == NULL ? CS_BINARY : *coll == 'N' ? CS_NOCASE : *coll == 'R' ? CS_RTRIM : CS_BINARY;
        if ((def = json_object_get(c, "default")) != NULL) {
            col->rule.has_default = true;
            col->rule.default_value = value_of(a, def);
        }
    }
    t->columns = cols;
}

static void rules_of_table(struct cs_arena *a, const struct cs_schema *s, struct cs_schema_table *t, const json_t *j)
{
    const json_t *uniques = json_object_get(j, "unique"), *fks = json_object_get(j, "fk");
    struct cs_schema_unique *u = cs_arena_zalloc(a, json_array_size(uniques), sizeof *u);
    struct cs_schema_fk *f = cs_arena_zalloc(a, json_array_size(fks), sizeof *f);
    size_t i;
    json_t *x;

    t->key = columns_of(a, t, json_object_get(j, "key"), &t->nkey);
    json_array_foreach(uniques, i, x)
    {
        u[i].cols = columns_of(a, t, x, &u[i].ncols);
    }
    json_array_foreach(fks, i, x)
    {
        f[i].cols = columns_of(a, t, json_object_get(x, "columns"), &f[i].ncols);
        for (f[i].parent = 0; f[i].parent < s->ntables; f[i].parent++)
            if (cs_slice_eq(s->tables[f[i].parent].name, cs_slice_str(text(x, "table"))))
                break;
        if (f[i].parent == s->ntables)
            f[i].parent = CS_NOT_TRACKED;
        else
            f[i].refs = columns_of(a, &s->tables[f[i].parent], json_object_get(x, "refs"), &f[i].ncols);
    }
    t->uniques = u;
    t->nuniques = (uint32_t)json_array_size(uniques);
    t->fks = f;
    t->nfks = (uint32_t)json_array_size(fks);
    t->nchecks = (uint32_t)json_array_size(json_object_get(j, "check"));
}

static void schema_of(struct cs_arena *a, struct cs_schema *s, struct checks *k, const json_t *j)
{
    struct cs_schema_table *tables = cs_arena_zalloc(a, json_object_size(j), sizeof *tables);
    const char *name;
    json_t *t;
    uint32_t n = 0;

    *s = (struct cs_schema){ .tables = tables, .check = check_holds, .arg = k };
    *k = (struct checks){ a, j, s };
    json_object_foreach((json_t *)j, name, t)
    {
        tables[s->ntables].name = cs_slice_str(name);
        columns_of_table(a, &tables[s->ntables++], json_object_get(t, "columns"));
    }
    json_object_foreach((json_t *)j, name, t)
    {
        rules_of_table(a, s, &tables[n++], t);
    }
}

/* ---- sets of records, as sorted lines without doubles ---- */

struct lines {
    struct cs_arena *a;
    char *at[MAX_LINES];
    size_t n;
};
__attribute__((format(printf, 2, 3))) static void line(struct lines *l, const char *fmt, ...)
{
    char buf[4096];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(buf, sizeof buf, fmt, ap);
    va_end(ap);
    assert_true(l->n < MAX_LINES);
    l->at[l->n++] = cs_arena_str(l->a, buf);
}
static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}
static void to_set(struct lines *l)
{
    size_t n = 0;

    if (l->n > 0)
        qsort(l->at, l->n, sizeof *l->at, by_text);
    for (size_t i = 0; i < l->n; i++)
        if (n == 0 || strcmp(l->at[n - 1], l->at[i]) != 0)
            l->at[n++] = l->at[i];
    l->n = n;
}
static void assert_same_set(struct lines *got, struct lines *want, const char *where)
{
    to_set(got);
    to_set(want);
    for (size_t i = 0; i < got->n || i < want->n; i++)
        if (i >= got->n || i >= want->n || strcmp(got->at[i], want->at[i]) != 0)
            fail_msg("%s: got %s, want %s", where, i < got->n ? got->at[i] : "nothing more",
                     i < want->n ? want->at[i] : "nothing more");
}

static char *encoded(struct cs_arena *a, const struct cs_value *v)
{
    struct cs_buf b = { 0 };
    char *hex;

    cs_value_encode(&b, v);
    hex = hex_of(a, cs_buf_slice(&b));
    cs_buf_free(&b);
    return hex;
}

/* ---- cases ---- */

struct case_run {
    struct cs_arena arena;
    const json_t *json;
    const char *name;
    struct cs_delta delta;
    struct cs_state state;
    struct lines got, want;
};

static void note_conflict(void *arg, const struct cs_state_row *row, const struct cs_merge_conflict *c)
{
    struct case_run *r = arg;
    char version[CS_STAMP_TEXT];

    cs_version_text(version, &c->losing);
    line(&r->got, "%s %.*s %s %.*s %s %s", cs_why_name(c->why), (int)r->state.tables[row->table].name.len,
         (const char *)r->state.tables[row->table].name.data, hex_of(&r->arena, row->key),
         (int)cs_state_column(&r->state, row, c->col).len, (const char *)cs_state_column(&r->state, row, c->col).data,
         version, encoded(&r->arena, c->value));
}

static void want_conflicts(struct case_run *r, const json_t *conflicts)
{
    char version[CS_STAMP_TEXT];
    struct cs_version v;
    struct cs_value value;
    size_t i;
    json_t *c;

    json_array_foreach(conflicts, i, c)
    {
        v = (struct cs_version){ num(c, "stamp"), r->delta.devices[num(c, "device")] };
        value = value_of(&r->arena, json_object_get(c, "value"));
        cs_version_text(version, &v);
        line(&r->want, "%s %s %s %s %s %s", text(c, "why"), text(c, "table"),
             hex_of(&r->arena, key_of(&r->arena, json_object_get(c, "key"))), text(c, "column"), version,
             encoded(&r->arena, &value));
    }
}

static void assert_hex(struct case_run *r, const struct cs_buf *got, const char *want, const char *what)
{
    char *hex = hex_of(&r->arena, cs_buf_slice(got));

    assert_false(got->failed);
    if (strcmp(hex, want) != 0)
        fail_msg("%s: %s: got %s, want %s", r->name, what, hex, want);
}

static void project_as(struct case_run *r, const char *schema, const json_t *want)
{
    struct cs_schema s;
    struct checks k;
    struct cs_projection p;
    struct cs_buf dump = { 0 };
    struct lines got = { &r->arena, { 0 }, 0 }, exp = { &r->arena, { 0 }, 0 };
    const struct cs_state *st = &r->state;
    size_t i;
    json_t *j;

#define TABLE(row) (int)st->tables[(row)->table].name.len, (const char *)st->tables[(row)->table].name.data
#define KEY(row)   hex_of(&r->arena, (row)->key)
    schema_of(&r->arena, &s, &k, json_object_get(json_object_get(r->json, "schemas"), schema));
    assert_int_equal(cs_project(&p, st, &s, &r->arena), CS_OK);
    cs_projection_dump(&p, &dump, &r->arena);
    assert_hex(r, &dump, text(want, "dump"), schema);
    cs_buf_free(&dump);
    for (i = 0; i < p.nhidden; i++)
        line(&got, "%.*s %s hidden %s", TABLE(p.hidden[i].row), KEY(p.hidden[i].row),
             cs_hidden_why_name(p.hidden[i].why));
    for (i = 0; i < p.ncells; i++)
        line(&got, "%.*s %s cell %.*s", TABLE(p.cells[i].row), KEY(p.cells[i].row),
             (int)cs_state_column(st, p.cells[i].row, p.cells[i].col).len,
             (const char *)cs_state_column(st, p.cells[i].row, p.cells[i].col).data);
    for (i = 0; i < p.nraised; i++)
        if (p.raised[i].holder != NULL)
            line(&got, "%.*s %s unique %s", TABLE(p.raised[i].row), KEY(p.raised[i].row), KEY(p.raised[i].holder));
        else
            line(&got, "%.*s %s check %u", TABLE(p.raised[i].row), KEY(p.raised[i].row), p.raised[i].check);
    json_array_foreach(json_object_get(want, "hidden"), i, j)
    {
        line(&exp, "%s %s hidden %s", json_string_value(json_array_get(j, 0)),
             hex_of(&r->arena, key_of(&r->arena, json_array_get(j, 1))), json_string_value(json_array_get(j, 2)));
    }
    json_array_foreach(json_object_get(want, "hidden_cells"), i, j)
    {
        line(&exp, "%s %s cell %s", json_string_value(json_array_get(j, 0)),
             hex_of(&r->arena, key_of(&r->arena, json_array_get(j, 1))), json_string_value(json_array_get(j, 2)));
    }
    json_array_foreach(json_object_get(want, "raised"), i, j)
    {
        const char *table = json_string_value(json_array_get(j, 1));
        const char *key = hex_of(&r->arena, key_of(&r->arena, json_array_get(j, 2)));
        const json_t *last = json_array_get(j, 3);

        if (json_is_array(last))
            line(&exp, "%s %s unique %s", table, key, hex_of(&r->arena, key_of(&r->arena, last)));
        else
            line(&exp, "%s %s check %d", table, key, (int)json_integer_value(last));
    }
    assert_same_set(&got, &exp, r->name);
#undef TABLE
#undef KEY
}

static void apply_batches(struct case_run *r, const json_t *delivery, bool watch)
{
    struct cs_delta batch = r->delta;
    struct cs_op ops[MAX_OPS];
    size_t b, i;
    json_t *list, *j;

    batch.ops = ops;
    json_array_foreach(json_object_get(delivery, "batches"), b, list)
    {
        batch.nops = 0;
        json_array_foreach(list, i, j)
        {
            ops[batch.nops++] = r->delta.ops[json_integer_value(j)];
        }
        assert_int_equal(cs_state_apply(&r->state, &batch, watch ? note_conflict : NULL, r), CS_OK);
    }
}

static void deliver(struct case_run *r, const json_t *delivery)
{
    const json_t *conflicts = json_object_get(delivery, "conflicts");
    struct cs_buf dump = { 0 };
    const char *schema;
    json_t *want;

    r->state = (struct cs_state){ 0 };
    r->got = r->want = (struct lines){ &r->arena, { 0 }, 0 };
    apply_batches(r, delivery, conflicts != NULL);
    cs_state_dump(&r->state, &dump);
    assert_hex(r, &dump, text(r->json, "merged_dump"), "merged");
    want_conflicts(r, conflicts);
    assert_same_set(&r->got, &r->want, r->name);
    json_object_foreach(json_object_get(r->json, "projections"), schema, want)
    {
        project_as(r, schema, want);
    }
    apply_batches(r, delivery, false);
    cs_buf_reset(&dump);
    cs_state_dump(&r->state, &dump);
    assert_hex(r, &dump, text(r->json, "merged_dump"), "merged once more");
    cs_buf_free(&dump);
    cs_state_free(&r->state);
}

static void a_case_holds(void **state)
{
    static struct case_run r;
    size_t i;
    json_t *delivery;

    r = (struct case_run){ .json = *state, .name = text(*state, "name") };
    delta_of(&r.arena, &r.delta, r.json);
    json_array_foreach(json_object_get(r.json, "deliveries"), i, delivery)
    {
        deliver(&r, delivery);
    }
    cs_arena_free(&r.arena);
}

static void encodings_hold_both_ways(void **state)
{
    struct cs_arena a = { 0 };
    size_t i, k;
    json_t *j, *other;

    (void)state;
    json_array_foreach(json_object_get(vectors, "encodings"), i, j)
    {
        const char *bits = json_string_value(json_object_get(j, "bits")), *want = text(j, "encoded");
        struct cs_value v = { .type = CS_REAL }, back, y;

        if (bits != NULL)
            v.u.r = real_of_hex(&a, bits);
        else
            v = value_of(&a, json_object_get(j, "value"));
        assert_string_equal(encoded(&a, &v), want);
        assert_int_equal(cs_value_encoded_len(&v), strlen(want) / 2);
        assert_true(cs_value_decode(&back, unhex(&a, want)));
        assert_string_equal(encoded(&a, &back), want);
        json_array_foreach(json_object_get(vectors, "encodings"), k, other)
        {
            int c = cs_slice_cmp(unhex(&a, want), unhex(&a, text(other, "encoded")));
            int d;

            assert_true(cs_value_decode(&y, unhex(&a, text(other, "encoded"))));
            d = cs_value_cmp(&back, &y);
            assert_int_equal((d > 0) - (d < 0), (c > 0) - (c < 0));
        }
    }
    cs_arena_free(&a);
}

static void reseal_holds(const json_t *in, const json_t *fresh, int64_t hlc)
{
    const json_t *unsent = json_object_get(in, "unsent");
    int64_t stamps[16], old;
    size_t n = json_array_size(unsent), k;

    for (size_t i = 0; i < n; i++)
        stamps[i] = json_integer_value(json_array_get(unsent, i));
    assert_int_equal(cs_hlc_reseal(stamps, n, num(in, "highest")), hlc);
    for (size_t i = 0; i < n; i++) {
        old = json_integer_value(json_array_get(unsent, i));
        for (k = 0; json_integer_value(json_array_get(json_array_get(fresh, k), 0)) != old; k++)
            ;
        assert_int_equal(stamps[i], json_integer_value(json_array_get(json_array_get(fresh, k), 1)));
    }
}

static void clock_holds(void **state)
{
    size_t i;
    json_t *j, *in;

    (void)state;
    json_array_foreach(json_object_get(vectors, "clock"), i, j)
    {
        if ((in = json_object_get(j, "tick")) != NULL) {
            assert_int_equal(cs_hlc_tick(num(in, "hlc"), num(in, "row_ms"), num(in, "now_ms")), num(j, "stamp"));
        } else if ((in = json_object_get(j, "receive")) != NULL) {
            assert_int_equal(cs_hlc_receive(num(in, "hlc"), num(in, "stamp")), num(j, "hlc"));
        } else if ((in = json_object_get(j, "hub_accepts")) != NULL) {
            assert_int_equal(cs_hlc_hub_accepts(num(in, "hub_now_ms"), num(in, "highest_accepted"),
                                                num(in, "batch_highest"), (uint32_t)num(in, "batch_ops")),
                             json_is_true(json_object_get(j, "accepted")));
        } else if ((in = json_object_get(j, "reseal")) != NULL) {
            reseal_holds(in, json_object_get(j, "fresh"), num(j, "hlc"));
        } else {
            struct cs_version v = { .stamp = num(json_object_get(j, "text"), "stamp") };
            char out[CS_STAMP_TEXT];

            assert_true(cs_unhex(v.device.b, 16, text(json_object_get(j, "text"), "device")));
            cs_version_text(out, &v);
            assert_string_equal(out, text(j, "printed"));
        }
    }
}

/* vectors_test [FILE]: another file of vectors. */
int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : CS_TESTS_DIR "/vectors/merge.json";
    json_error_t err;
    json_t *cases;
    struct CMUnitTest *t;
    size_t n;
    int failed;

    if ((vectors = json_load_file(path, 0, &err)) == NULL) {
        fprintf(stderr, "cannot read the vectors: %s\n", err.text);
        return 1;
    }
    cases = json_object_get(vectors, "cases");
    n = json_array_size(cases);
    t = calloc(n + 2, sizeof *t);
    t[0] = (struct CMUnitTest)cmocka_unit_test(encodings_hold_both_ways);
    t[1] = (struct CMUnitTest)cmocka_unit_test(clock_holds);
    for (size_t i = 0; i < n; i++)
        t[i + 2] = (struct CMUnitTest){ .name = text(json_array_get(cases, i), "name"),
                                        .test_func = a_case_holds,
                                        .initial_state = json_array_get(cases, i) };
    failed = _cmocka_run_group_tests("merge vectors", t, n + 2, NULL, NULL);
    free(t);
    json_decref(vectors);
    return failed;
}
