/* Random histories of 2 to 6 devices against the reference model: whatever the order of delivery, one merged state and
 * one projection, and both are the model's.
 *
 *   property_test [--seeds N] [--seed S]      N histories from seed S on; default 1500 (or CS_SEEDS) from 1
 *
 * What applications do shows here as operations: inserts, updates, deletes, REPLACE with and without a displaced row,
 * upserts, changes and swaps of keys, swaps of UNIQUE values, and transactions or savepoints that roll back and so
 * leave nothing. Edits that are not sent yet may coalesce. Clocks hardly move, so that stamps tie across devices; now
 * and then a device is a copy of another one, identity included. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "model.h"

enum { MAX_DEVICES = 6, MAX_OPS = 400, NTABLES = 3, NCOLS = 7, MAX_CHANGES = 8 };
static const char *const NAMES[NCOLS] = { "k", "l", "a", "b", "c", "d", "x" };
static const char *const TABLES[NTABLES] = { "p", "q", "r" };

static uint64_t seed;

#define CHECK(cond, what)                                                                                              \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            printf("property_test --seeds 1 --seed %llu: %s (%s)\n", (unsigned long long)seed, what, #cond);           \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* ---- randomness: splitmix64 ---- */

static uint64_t rng;
static uint32_t below(uint32_t n)
{
    uint64_t z = rng += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (uint32_t)((z ^ z >> 31) >> 32) % n;
}
static bool chance(uint32_t percent)
{
    return below(100) < percent;
}

/* ---- values ---- */

#define INT(n)                                                                                                         \
    {                                                                                                                  \
        .type = CS_INTEGER, .u.i = (n)                                                                                 \
    }
#define REAL(n)                                                                                                        \
    {                                                                                                                  \
        .type = CS_REAL, .u.r = (n)                                                                                    \
    }
#define TEXT(s)                                                                                                        \
    {                                                                                                                  \
        .type = CS_TEXT, .u.bytes = {(const uint8_t *)(s), sizeof(s) - 1 }                                             \
    }
#define BLOB(s)                                                                                                        \
    {                                                                                                                  \
        .type = CS_BLOB, .u.bytes = {(const uint8_t *)(s), sizeof(s) - 1 }                                             \
    }
static const struct cs_value EDGES[] = {
    { .type = CS_NULL },
    INT(INT64_MIN),
    INT(INT64_MAX),
    INT(-1),
    INT((INT64_C(1) << 53) + 1),
    REAL(0.0),
    REAL(-0.0),
    REAL(1.0),
    REAL(2.0),
    REAL(0x1p53),
    REAL(-0x1p63),
    REAL(0x1p63),
    REAL(0x1p-1074),
    REAL(-1.5),
    REAL(INFINITY),
    REAL(-INFINITY),
    TEXT(""),
    TEXT("a"),
    TEXT("A"),
    TEXT("a "),
    TEXT("B"),
    TEXT("\xff\xc3"),
    TEXT("a\0b"),
    TEXT("\xc3\x89"),
    TEXT("\xc3\xa9"),
    BLOB(""),
    BLOB("a"),
    BLOB("\0\xff"),
};
enum { NEDGES = sizeof EDGES / sizeof EDGES[0] };

static struct cs_value any_value(void)
{
    struct cs_value v = INT(below(3));

    return chance(20) ? EDGES[below(NEDGES)] : chance(15) ? EDGES[0] : v;
}

/* ---- schemas ---- */

struct a_schema {
    struct cs_schema s;
    struct cs_schema_table tables[NTABLES];
    struct cs_schema_column cols[NTABLES][NCOLS];
    uint32_t key[NTABLES][2], unique_cols[NTABLES][2][2], fk_cols[NTABLES][NTABLES][2];
    struct cs_schema_unique uniques[NTABLES][2];
    struct cs_schema_fk fks[NTABLES][NTABLES];
};

static void point(struct a_schema *s)
{
    s->s.tables = s->tables;
    for (uint32_t t = 0; t < NTABLES; t++) {
        s->tables[t].columns = s->cols[t];
        s->tables[t].key = s->key[t];
        s->tables[t].uniques = s->uniques[t];
        s->tables[t].fks = s->fks[t];
        for (uint32_t i = 0; i < 2; i++)
            s->uniques[t][i].cols = s->unique_cols[t][i];
        for (uint32_t i = 0; i < s->tables[t].nfks; i++) {
            struct cs_schema_fk *f = &s->fks[t][i];

            f->cols = s->fk_cols[t][i];
            if (f->parent != CS_NOT_TRACKED)
                f->refs = f->ncols == s->tables[f->parent].nkey && f->refs == NULL ? s->key[f->parent]
                                                                                   : s->unique_cols[f->parent][0];
        }
    }
}

static void random_table(struct a_schema *s, uint32_t t)
{
    struct cs_schema_table *tab = &s->tables[t];

    tab->name = cs_slice_str(TABLES[t]);
    tab->nkey = chance(80) ? 1 : 2;
    for (uint32_t c = 0; c < NCOLS - 1; c++) {
        if (c == 1 && tab->nkey == 1)
            continue;
        if (c < tab->nkey)
            s->key[t][c] = tab->ncolumns;
        s->cols[t][tab->ncolumns].rule.collation = chance(75) ? CS_BINARY : chance(70) ? CS_NOCASE : CS_RTRIM;
        if (c >= 2) {
            s->cols[t][tab->ncolumns].rule.notnull = chance(12);
            s->cols[t][tab->ncolumns].rule.has_default = chance(15);
            s->cols[t][tab->ncolumns].rule.default_value = any_value();
        }
        s->cols[t][tab->ncolumns++].name = cs_slice_str(NAMES[c]);
    }
    tab->nuniques = below(3);
    for (uint32_t u = 0; u < tab->nuniques; u++) {
        s->uniques[t][u].ncols = chance(75) ? 1 : 2;
        s->unique_cols[t][u][0] = tab->nkey + below(3);
        s->unique_cols[t][u][1] = tab->nkey + 3;
    }
}

static void random_schema(struct a_schema *s)
{
    uint32_t shape = below(4), n; /* 0, 1: no circles; 2: tables reference themselves; 3: anything */

    *s = (struct a_schema){ .s.ntables = 1 + below(NTABLES) };
    for (uint32_t t = 0; t < s->s.ntables; t++)
        random_table(s, t);
    for (uint32_t t = 0; t < s->s.ntables; t++) {
        n = shape < 2 ? t : shape == 2 ? t + 1 : s->s.ntables;
        for (uint32_t p = 0; p < n; p++) {
            struct cs_schema_fk *f = &s->fks[t][s->tables[t].nfks];
            uint32_t *cols = s->fk_cols[t][s->tables[t].nfks];

            if (chance(40))
                continue;
            f->parent = p;
            f->ncols = s->tables[p].nkey;
            if (s->tables[p].nuniques > 0 && s->uniques[p][0].ncols != s->tables[p].nkey && chance(50))
                f->ncols = s->uniques[p][0].ncols; /* point() takes the UNIQUE columns then */
            cols[0] = s->tables[t].nkey + below(2);
            cols[1] = s->tables[t].nkey + 2 + below(2);
            s->tables[t].nfks++;
        }
    }
    point(s);
}

/* Another device's schema: a column more, a table less, other rules. */
static void vary(struct a_schema *out, const struct a_schema *base)
{
    struct cs_schema_table *t;
    uint32_t i;

    *out = *base;
    i = below(base->s.ntables);
    t = &out->tables[i];
    for (uint32_t k = 0; k < out->s.ntables; k++)
        for (uint32_t f = 0; f < out->tables[k].nfks; f++)
            out->fks[k][f].refs = NULL;
    switch (below(5)) {
    case 0:
        out->cols[i][t->ncolumns].name = cs_slice_str("x");
        out->cols[i][t->ncolumns++].rule =
            (struct cs_column_rule){ .notnull = chance(50), .has_default = chance(60), .default_value = INT(7) };
        break;
    case 1:
        if (out->s.ntables == 1)
            break;
        for (uint32_t k = 0; k < out->s.ntables; k++)
            for (uint32_t f = 0; f < out->tables[k].nfks; f++)
                if (out->fks[k][f].parent == out->s.ntables - 1)
                    out->fks[k][f].parent = CS_NOT_TRACKED;
        out->s.ntables--; /* the last table, so that the others keep their numbers */
        break;
    case 2:
        t->nuniques = 0;
        for (uint32_t k = 0; k < out->s.ntables; k++)
            for (uint32_t f = 0; f < out->tables[k].nfks; f++)
                if (out->fks[k][f].parent == i)
                    out->fks[k][f].ncols = t->nkey;
        break;
    case 3:
        t->nfks = 0;
        break;
    default:
        out->cols[i][0].rule.collation = CS_NOCASE;
        out->cols[i][t->nkey].rule.notnull = true;
        break;
    }
    point(out);
}

/* ---- devices ---- */

struct device {
    struct cs_uuid id;
    const struct a_schema *schema;
    struct cs_state state;
    struct cs_arena arena; /* of the rows and seals */
    int64_t hlc, skew;
    uint32_t cursor, npending, pending[MAX_OPS];
};
struct change {
    enum cs_op_kind kind;
    uint32_t table;
    struct cs_slice key;
    struct cs_value values[NCOLS];
    bool writes[NCOLS]; /* by NAMES */
};
static struct world {
    struct cs_arena arena;
    struct a_schema base, other;
    struct device devices[MAX_DEVICES];
    uint32_t ndevices, nlog;
    struct cs_delta all;        /* every sealed operation, whole */
    struct cs_op sent[MAX_OPS]; /* the log */
    struct device *author[MAX_OPS];
    int64_t now;
} w;

static struct cs_op *new_op(void)
{
    CHECK(w.all.nops < MAX_OPS, "the test's own table of operations is full");
    return &w.all.ops[w.all.nops];
}

static uint32_t number_of(const struct device *d, uint32_t table, uint32_t name)
{
    uint32_t t = cs_intern_find(&d->state.names, cs_slice_str(TABLES[table]));
    uint32_t c = t == CS_INTERN_NONE ? t : cs_intern_find(&d->state.tables[t].columns, cs_slice_str(NAMES[name]));

    return c != CS_INTERN_NONE ? c : 100 + name; /* never heard of: any free number */
}
static uint32_t name_of(const struct device *d, uint32_t table, uint32_t number)
{
    uint32_t n = 0;

    while (number_of(d, table, n) != number)
        n++;
    return n;
}

/* What the seal says is covered must be what the merge of the very operation records, and the reverse. */
struct audit {
    const struct device *d;
    const struct cs_seal_out *seal;
    uint32_t records;
};
static void note_covered(void *arg, const struct cs_state_row *row, const struct cs_merge_conflict *c)
{
    struct audit *a = arg;
    bool found = !c->present;

    (void)row;
    for (uint32_t i = 0; i < a->seal->ncovered; i++)
        found = found || (a->seal->covered[i].col == c->col && cs_version_cmp(&a->seal->covered[i].v, &c->losing) == 0);
    CHECK(found, "sealing overwrote what it does not report");
    a->records += c->present;
}
static uint32_t covered_that_differ(const struct cs_seal_out *seal, const struct cs_state_row *row,
                                    const struct cs_op_cell *cells, uint32_t ncells)
{
    uint32_t n = 0;
    bool same;

    for (uint32_t i = 0; i < seal->ncovered; i++) {
        same = false;
        for (uint32_t k = 0; k < ncells; k++)
            if (cells[k].col == seal->covered[i].col)
                same = cs_value_cmp(&cells[k].value, cs_state_value(row, cells[k].col)) == 0;
        n += !same;
    }
    return n;
}

static void seal(struct device *d, const struct change *c, bool visible)
{
    const struct cs_state_row *at = cs_state_find(&d->state, cs_slice_str(TABLES[c->table]), c->key);
    struct cs_row row = at == NULL ? (struct cs_row){ 0 } : at->row;
    struct cs_seal_in in = { .kind = c->kind, .visible = visible };
    struct cs_seal_out out = { 0 };
    struct cs_op_cell cells[NCOLS];
    struct cs_op *op = new_op();
    struct cs_delta one = w.all;
    struct audit audit = { d, &out, 0 };
    bool lived = at != NULL && cs_row_lives(&at->row);
    uint32_t records;

    row.cells = cs_arena_zalloc(&d->arena, row.ncells, sizeof *row.cells); /* the row is sealed beside the state */
    row.cap = row.ncells;
    if (row.ncells > 0)
        memcpy(row.cells, at->row.cells, row.ncells * sizeof *row.cells);
    for (uint32_t n = 0; n < NCOLS && c->kind != CS_OP_DELETE; n++)
        if (c->writes[n])
            cells[in.ncells++] = (struct cs_op_cell){ number_of(d, c->table, n), c->values[n] };
    cs_op_cells_sort(cells, in.ncells);
    in.cells = cells;
    d->hlc = cs_hlc_tick(d->hlc, w.now + d->skew, w.now + d->skew);
    in.v = (struct cs_version){ d->hlc, d->id };
    CHECK(cs_row_seal(&row, &in, &out, &d->arena) == CS_OK, "out of memory");
    CHECK(out.kind == (c->kind == CS_OP_INSERT && lived ? CS_OP_UPDATE : c->kind), "the kind of a sealed change");
    CHECK((visible && out.kind != CS_OP_INSERT) || out.nover == 0, "over names what the application did not see");
    CHECK(out.nover == 0 || out.ncovered == 0, "seen, or covered unseen");

    *op = (struct cs_op){ .kind = out.kind, .table = c->table, .stamp = d->hlc, .key = c->key, .nover = out.nover };
    op->cells = cs_arena_zalloc(&w.arena, NCOLS, sizeof *op->cells);
    op->over = cs_arena_zalloc(&w.arena, NCOLS, sizeof *op->over);
    op->device = (uint32_t)(d - w.devices);
    for (uint32_t n = 0; n < NCOLS && c->kind != CS_OP_DELETE; n++)
        if (c->writes[n])
            op->cells[op->ncells++] = (struct cs_op_cell){ n, c->values[n] };
    for (uint32_t i = 0; i < out.nover; i++) {
        struct cs_op_over over = { name_of(d, c->table, out.over[i].col), 0, out.over[i].v.stamp };
        uint32_t k = i;

        while (cs_uuid_cmp(&w.all.devices[over.device], &out.over[i].v.device) != 0)
            over.device++;
        for (; k > 0 && op->over[k - 1].col > over.col; k--)
            op->over[k] = op->over[k - 1];
        op->over[k] = over;
    }
    records = at == NULL ? 0 : covered_that_differ(&out, at, cells, in.ncells);
    one.ops = op;
    one.nops = 1;
    CHECK(cs_state_apply(&d->state, &one, note_covered, &audit) == CS_OK, "an own operation is refused");
    CHECK(audit.records == records, "sealing reports what it did not overwrite");
    at = cs_state_find(&d->state, cs_slice_str(TABLES[c->table]), c->key);
    CHECK(cs_version_cmp(&at->row.ins, &row.ins) == 0 && cs_version_cmp(&at->row.del, &row.del) == 0 &&
              at->row.ncells == row.ncells,
          "sealing and merging the same change differ");
    for (uint32_t i = 0; i < row.ncells; i++)
        CHECK(cs_version_cmp(&at->row.cells[i].v, &row.cells[i].v) == 0, "sealing and merging the same change differ");
    d->pending[d->npending++] = w.all.nops++;
}

/* What is sent: all that was sealed, or only what still stands. */
static void push(struct device *d, bool coalesce)
{
    for (uint32_t i = 0; i < d->npending; i++) {
        struct cs_op op = w.all.ops[d->pending[i]];
        struct cs_version v = { op.stamp, d->id };
        const struct cs_state_row *row = cs_state_find(&d->state, cs_slice_str(TABLES[op.table]), op.key);
        const struct cs_row_cell *cell;
        uint32_t n = 0;

        if (coalesce) {
            if (op.kind == CS_OP_DELETE && cs_version_cmp(&row->row.del, &v) != 0)
                continue;
            if (op.kind == CS_OP_INSERT && cs_version_cmp(&row->row.ins, &v) != 0)
                op.kind = CS_OP_UPDATE;
            op.cells = cs_arena_zalloc(&w.arena, NCOLS, sizeof *op.cells);
            for (uint32_t c = 0; c < op.ncells; c++) {
                const struct cs_op_cell *from = &w.all.ops[d->pending[i]].cells[c];

                cell = cs_row_find(&row->row, number_of(d, op.table, from->col));
                if (cell != NULL && cs_version_cmp(&cell->v, &v) == 0)
                    op.cells[n++] = *from;
            }
            op.ncells = n;
            if (op.kind == CS_OP_UPDATE && n == 0)
                continue;
        }
        w.author[w.nlog] = d;
        w.sent[w.nlog++] = op;
    }
    d->npending = 0;
}

static void receive(struct device *d, const struct cs_op *ops, uint32_t n)
{
    struct cs_delta batch = w.all;

    batch.ops = (struct cs_op *)ops;
    batch.nops = n;
    for (uint32_t i = 0; i < n; i++)
        d->hlc = cs_hlc_receive(d->hlc, ops[i].stamp);
    CHECK(cs_state_apply(&d->state, &batch, NULL, NULL) == CS_OK, "an operation is refused");
}
static void pull(struct device *d)
{
    for (; d->cursor < w.nlog; d->cursor++)
        if (w.author[d->cursor] != d)
            receive(d, &w.sent[d->cursor], 1);
}

/* ---- what applications do ---- */

static struct cs_slice any_key(const struct a_schema *s, uint32_t t, struct change *c)
{
    struct cs_buf b = { 0 };
    struct cs_slice key;

    for (uint32_t k = 0; k < s->tables[t].nkey; k++) {
        const enum cs_collation coll = s->cols[t][s->key[t][k]].rule.collation;
        struct cs_value v = coll == CS_BINARY ? (struct cs_value)INT(below(4)) : (struct cs_value)TEXT("a");

        if (coll != CS_BINARY)
            v = EDGES[17 + below(4)]; /* "a", "A", "a ", "B" */
        if (chance(5))
            v = EDGES[1 + below(NEDGES - 1)];
        if (c != NULL && (coll != CS_BINARY || chance(30))) { /* the literal travels as a cell */
            c->values[k] = v;
            c->writes[k] = true;
        }
        cs_key_put(&b, &v, coll);
    }
    key = cs_arena_copy(&w.arena, cs_buf_slice(&b));
    cs_buf_free(&b);
    return key;
}

/* Names of the table's columns that are not part of its key. */
static void write_some(const struct a_schema *s, struct change *c, bool all)
{
    for (uint32_t i = s->tables[c->table].nkey; i < s->tables[c->table].ncolumns; i++)
        for (uint32_t n = 0; n < NCOLS; n++)
            if (cs_slice_eq(s->cols[c->table][i].name, cs_slice_str(NAMES[n])) && (all || chance(40))) {
                c->writes[n] = true;
                c->values[n] = any_value();
            }
}

static bool is_visible(const struct cs_projection *p, const struct change *c)
{
    for (uint32_t i = 0; i < p->nrows; i++)
        if (p->rows[i].table == c->table && cs_slice_eq(p->rows[i].row->key, c->key))
            return true;
    return false;
}

/* A shown row of the table that the projection offers, or NULL. */
static const struct cs_shown_row *any_shown(const struct cs_projection *p, uint32_t t)
{
    uint32_t n = 0, at;

    for (uint32_t i = 0; i < p->nrows; i++)
        n += p->rows[i].table == t;
    if (n == 0)
        return NULL;
    at = below(n);
    for (uint32_t i = 0;; i++)
        if (p->rows[i].table == t && at-- == 0)
            return &p->rows[i];
}

static void take_values(const struct a_schema *s, struct change *c, const struct cs_value *values)
{
    for (uint32_t i = s->tables[c->table].nkey; i < s->tables[c->table].ncolumns; i++)
        for (uint32_t n = 0; n < NCOLS; n++)
            if (cs_slice_eq(s->cols[c->table][i].name, cs_slice_str(NAMES[n]))) {
                c->writes[n] = true;
                c->values[n] = values[i];
            }
}

/* One statement as a list of changed rows; 0: it changed nothing. */
static uint32_t statement(const struct a_schema *s, const struct cs_projection *p, struct change *out)
{
    uint32_t t = below(s->s.ntables), n = 0, kind = below(100);
    const struct cs_shown_row *x = any_shown(p, t), *y = any_shown(p, t);
    struct change c = { .kind = CS_OP_INSERT, .table = t };

    if (kind < 40 || x == NULL) { /* INSERT; over a hidden row it covers that; kind < 10: an upsert */
        c.key = any_key(s, t, &c);
        write_some(s, &c, chance(80));
        if (is_visible(p, &c)) {
            if (kind >= 10)
                return 0;
            c.kind = CS_OP_UPDATE;
        }
    } else if (kind < 60) { /* UPDATE */
        c.kind = CS_OP_UPDATE;
        c.key = x->row->key;
        write_some(s, &c, false);
    } else if (kind < 75) { /* DELETE */
        c.kind = CS_OP_DELETE;
        c.key = x->row->key;
    } else if (kind < 85) { /* REPLACE; it may displace another row */
        c.key = chance(50) ? x->row->key : any_key(s, t, &c);
        write_some(s, &c, true);
        if (chance(50) && !cs_slice_eq(y->row->key, c.key))
            out[n++] = (struct change){ .kind = CS_OP_DELETE, .table = t, .key = y->row->key };
    } else if (kind < 92) { /* a change of key, or a swap of two */
        if (chance(50)) {
            c.key = any_key(s, t, &c);
            if (is_visible(p, &c) || cs_slice_eq(x->row->key, c.key))
                return 0;
            take_values(s, &c, x->values);
            out[n++] = (struct change){ .kind = CS_OP_DELETE, .table = t, .key = x->row->key };
        } else if (x != y) {
            out[n++] = (struct change){ .kind = CS_OP_DELETE, .table = t, .key = x->row->key };
            out[n++] = (struct change){ .kind = CS_OP_DELETE, .table = t, .key = y->row->key };
            out[n] = (struct change){ .kind = CS_OP_INSERT, .table = t, .key = x->row->key };
            take_values(s, &out[n++], y->values);
            c.key = y->row->key;
            take_values(s, &c, x->values);
        } else {
            return 0;
        }
    } else { /* two rows exchange what they hold */
        out[n] = (struct change){ .kind = CS_OP_UPDATE, .table = t, .key = x->row->key };
        take_values(s, &out[n++], y->values);
        c.kind = CS_OP_UPDATE;
        c.key = y->row->key;
        take_values(s, &c, x->values);
    }
    out[n++] = c;
    return n;
}

static void transaction(struct device *d)
{
    struct change changes[MAX_CHANGES];
    struct cs_projection p;
    uint32_t n;
    bool seen;

    for (uint32_t i = 1 + below(3); i > 0; i--) {
        CHECK(cs_project(&p, &d->state, &d->schema->s, &d->arena) == CS_OK, "a projection fails");
        n = statement(d->schema, &p, changes);
        if (chance(10)) /* rolled back, or back to a savepoint: nothing is left of it */
            continue;
        for (uint32_t k = 0; k < n; k++) {
            seen = is_visible(&p, &changes[k]);
            for (uint32_t j = 0; j < k; j++) /* changed earlier by the same statement */
                if (changes[j].table == changes[k].table && cs_slice_eq(changes[j].key, changes[k].key))
                    seen = changes[j].kind != CS_OP_DELETE;
            seal(d, &changes[k], seen);
        }
    }
}

/* ---- what must hold ---- */

static void put_frame(struct cs_buf *out, struct cs_slice s)
{
    cs_buf_put_u32(out, (uint32_t)s.len);
    cs_buf_put_slice(out, s);
}
static void put_version(struct cs_buf *out, struct cs_version v)
{
    cs_buf_put_u64(out, (uint64_t)v.stamp);
    cs_buf_put(out, v.device.b, 16);
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
/* The model's merged state in the canonical bytes of crdt/dump.h. */
static void dump_model(struct model *m, struct cs_buf *out)
{
    qsort(m->rows, m->n, sizeof *m->rows, by_table_and_key);
    cs_buf_put_str(out, "claw-sync merged state 1\n");
    for (struct model_row *r = m->rows; r < m->rows + m->n; r++) {
        if (r->ins.stamp == 0 && r->del.stamp == 0 && r->ncells == 0)
            continue;
        qsort(r->cells, r->ncells, sizeof *r->cells, by_name);
        put_frame(out, r->table);
        put_frame(out, r->key);
        put_version(out, r->ins);
        put_version(out, r->del);
        cs_buf_put_u32(out, r->ncells);
        for (uint32_t c = 0; c < r->ncells; c++) {
            put_frame(out, r->cells[c].name);
            put_version(out, r->cells[c].v);
            put_frame(out, r->cells[c].value);
        }
    }
}

static void assert_dump(const struct cs_state *s, const struct cs_buf *want, const char *what)
{
    struct cs_buf got = { 0 };

    cs_state_dump(s, &got);
    CHECK(!got.failed && cs_slice_eq(cs_buf_slice(&got), cs_buf_slice(want)), what);
    cs_buf_free(&got);
}

static const struct model_row *model_row(const struct model *m, const struct cs_state *s, const struct cs_state_row *r)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (cs_slice_eq(m->rows[i].key, r->key) && cs_slice_eq(m->rows[i].table, s->tables[r->table].name))
            return &m->rows[i];
    CHECK(false, "a row that the model does not have");
    return NULL;
}

static bool is_shown(const struct model *m, const struct model_row *r)
{
    return (m->shown >> (r - m->rows) & 1) != 0;
}

/* Do two rows claim one key? */
static bool share(const struct model *m, const struct model_row *r, const struct model_row *k)
{
    bool found = false;

    for (uint32_t c = 0; c < r->nclaims; c++)
        found = found || (r->claims[c] >> (k - m->rows) & 1) != 0;
    return found;
}

static void assert_projection(const struct cs_state *st, const struct a_schema *s, struct model *m, struct cs_buf *dump)
{
    struct cs_arena a = { 0 };
    struct cs_projection p;
    uint32_t shown = 0, hidden = 0, cells = 0, raised = 0;

    model_project(m, &s->s);
    CHECK(cs_project(&p, st, &s->s, &a) == CS_OK, "a projection fails");
    for (uint32_t i = 0; i < m->n; i++) {
        shown += is_shown(m, &m->rows[i]);
        hidden += m->rows[i].why != 0;
        for (uint32_t c = 0; c < m->rows[i].ncells; c++)
            cells += m->rows[i].cells[c].hidden;
        for (uint32_t k = 0; k < m->n && m->rows[i].why == CS_HIDDEN_UNIQUE; k++)
            raised += is_shown(m, &m->rows[k]) && share(m, &m->rows[i], &m->rows[k]);
    }
    CHECK(p.nrows == shown, "other rows are shown than in the model");
    CHECK(p.nhidden == hidden, "other rows are hidden than in the model");
    CHECK(p.ncells == cells, "other cells are hidden than in the model");
    CHECK(p.nraised == raised, "other conflicts are raised than in the model");
    for (uint32_t i = 0; i < p.nrows; i++) {
        const struct model_row *r = model_row(m, st, p.rows[i].row);

        CHECK(is_shown(m, r), "a row is shown that the model hides");
        for (uint32_t c = 0; c < s->tables[p.rows[i].table].ncolumns; c++)
            CHECK(cs_slice_eq(model_enc(&a, p.rows[i].values[c]), r->values[c]),
                  "a shown value differs from the model");
    }
    for (uint32_t i = 0; i < p.nhidden; i++)
        CHECK(model_row(m, st, p.hidden[i].row)->why == p.hidden[i].why, "a reason differs from the model");
    for (uint32_t i = 0; i < p.nraised; i++)
        CHECK(share(m, model_row(m, st, p.raised[i].row), model_row(m, st, p.raised[i].holder)),
              "a conflict is raised that is none");
    for (uint32_t i = 0; i < p.ncells; i++) {
        const struct model_row *r = model_row(m, st, p.cells[i].row);
        bool found = false;

        for (uint32_t c = 0; c < r->ncells; c++)
            found = found || (r->cells[c].hidden &&
                              cs_slice_eq(r->cells[c].name, cs_state_column(st, p.cells[i].row, p.cells[i].col)));
        CHECK(found, "a cell is hidden that the model shows");
    }
    cs_projection_dump(&p, dump, &a);
    cs_arena_free(&a);
}

/* Shuffled, duplicated, in batches cut anew. */
static void deliver_chaos(struct cs_state *st, uint32_t percent)
{
    struct cs_delta batch = w.all;
    struct cs_op ops[2 * MAX_OPS];
    uint32_t n = 0, m;

    for (uint32_t i = 0; i < w.nlog; i++)
        for (uint32_t k = chance(15) ? 2 : 1; k > 0; k--)
            if (chance(percent))
                ops[n++] = w.sent[i];
    for (uint32_t i = n; i > 1; i--) {
        uint32_t k = below(i);
        struct cs_op x = ops[k];

        ops[k] = ops[i - 1];
        ops[i - 1] = x;
    }
    for (uint32_t i = 0; i < n; i += m) {
        m = 1 + below(5);
        m = m > n - i ? n - i : m;
        batch.ops = &ops[i];
        batch.nops = m;
        CHECK(cs_state_apply(st, &batch, NULL, NULL) == CS_OK, "an operation is refused");
    }
}

/* Joins of random parts: any order, any grouping, any repetition. */
static void assert_join_laws(const struct cs_buf *dump)
{
    struct cs_state part[3] = { 0 }, left = { 0 }, right = { 0 };
    struct cs_buf got = { 0 };

    for (int i = 0; i < 3; i++)
        deliver_chaos(&part[i], 60);
    for (int i = 0; i < 3; i++) {
        CHECK(cs_state_join(&left, &part[i]) == CS_OK, "a join fails");
        CHECK(cs_state_join(&right, &part[2 - i]) == CS_OK, "a join fails");
    }
    CHECK(cs_state_join(&right, &left) == CS_OK, "a join fails");
    cs_state_dump(&left, &got);
    assert_dump(&right, &got, "the join depends on its order");
    deliver_chaos(&left, 100);
    assert_dump(&left, dump, "a join of parts and the rest is not the whole");
    for (int i = 0; i < 3; i++)
        cs_state_free(&part[i]);
    cs_buf_free(&got);
    cs_state_free(&left);
    cs_state_free(&right);
}

static void set_up(void)
{
    bool copied = chance(5);

    w = (struct world){ .now = 1000, .ndevices = 2 + below(MAX_DEVICES - 1) };
    random_schema(&w.base);
    vary(&w.other, &w.base);
    w.all.ops = cs_arena_zalloc(&w.arena, MAX_OPS, sizeof *w.all.ops);
    w.all.tables = cs_arena_zalloc(&w.arena, NTABLES, sizeof *w.all.tables);
    w.all.devices = cs_arena_zalloc(&w.arena, MAX_DEVICES, sizeof *w.all.devices);
    w.all.ntables = NTABLES;
    w.all.ndevices = w.ndevices;
    for (uint32_t t = 0; t < NTABLES; t++) {
        w.all.tables[t].name = cs_slice_str(TABLES[t]);
        w.all.tables[t].ncolumns = NCOLS;
        w.all.tables[t].columns = cs_arena_zalloc(&w.arena, NCOLS, sizeof *w.all.tables[t].columns);
        for (uint32_t c = 0; c < NCOLS; c++)
            w.all.tables[t].columns[c] = cs_slice_str(NAMES[c]);
    }
    for (uint32_t i = 0; i < w.ndevices; i++) {
        struct device *d = &w.devices[i];

        memset(d->id.b, (int)(i * 17 + 1), sizeof d->id.b);
        if (i == 1 && copied)
            d->id = w.devices[0].id;
        d->skew = (int64_t)below(3) == 0 ? -2 + (int64_t)below(4) : 0;
        d->schema = i < 2 || chance(60) ? &w.base : &w.other;
        w.all.devices[i] = d->id;
    }
}

static void tear_down(void)
{
    for (uint32_t i = 0; i < w.ndevices; i++) {
        cs_state_free(&w.devices[i].state);
        cs_arena_free(&w.devices[i].arena);
    }
    cs_arena_free(&w.arena);
}

static void history(void)
{
    struct model m = { 0 };
    struct cs_buf merged = { 0 }, shown[2] = { { 0 } }, again = { 0 };
    struct cs_state st = { 0 };
    bool chaos = chance(20);

    set_up();
    for (uint32_t steps = 4 + below(20); steps > 0; steps--) {
        struct device *d = &w.devices[below(w.ndevices)];

        w.now += chance(25);
        if (chaos && w.nlog > 0 && chance(50))
            receive(d, &w.sent[below(w.nlog)], 1);
        transaction(d);
        if (chance(50))
            push(d, chance(50));
        if (chance(40))
            pull(d);
    }
    for (uint32_t i = 0; i < w.ndevices; i++)
        push(&w.devices[i], chance(50));
    for (uint32_t i = 0; i < w.ndevices; i++)
        pull(&w.devices[i]);

    model_merge(&m, &w.all);
    dump_model(&m, &merged);
    for (uint32_t i = 0; i < w.ndevices; i++)
        assert_dump(&w.devices[i].state, &merged, "a device differs from the model");
    deliver_chaos(&st, 100);
    assert_dump(&st, &merged, "the order of delivery matters");
    assert_join_laws(&merged);
    assert_projection(&st, &w.base, &m, &shown[0]);
    assert_projection(&st, &w.other, &m, &shown[1]);
    for (uint32_t i = 0; i < w.ndevices; i++) {
        const struct a_schema *s = w.devices[i].schema;

        cs_buf_reset(&again);
        assert_projection(&w.devices[i].state, s, &m, &again);
        CHECK(cs_slice_eq(cs_buf_slice(&again), cs_buf_slice(&shown[s == &w.other])), "two devices show other rows");
    }
    cs_buf_free(&merged);
    cs_buf_free(&again);
    cs_buf_free(&shown[0]);
    cs_buf_free(&shown[1]);
    cs_state_free(&st);
    cs_arena_free(&m.arena);
    tear_down();
}

/* A graph of rows that no schema has made: circles within circles, shared parents, keys that everyone wants. */
static void graph(void)
{
    enum { ROWS = 24, KEYS = 12, SETS = 16 };
    struct model m = { .n = 2 + below(ROWS - 1) };
    struct cs_entity entities[ROWS] = { 0 };
    struct cs_parents sets[SETS] = { 0 };
    uint32_t members[SETS][3], claims[ROWS][2], parents[ROWS][2], nkeys = 1 + below(KEYS), nsets = 1 + below(SETS);
    uint32_t rank[ROWS] = { 0 }; /* the model's rows lie by age, the entities as they come */
    uint64_t claimants[KEYS] = { 0 }, sets_of[SETS] = { 0 };
    struct cs_decide_in in = { entities, sets, m.n, nsets, nkeys };
    uint8_t names[ROWS][4];
    bool shown[ROWS], again[ROWS];
    uint32_t density = below(90);

    for (uint32_t s = 0; s < nsets; s++) {
        sets[s] = (struct cs_parents){ members[s], below(4) };
        for (uint32_t i = 0; i < sets[s].n; i++)
            members[s][i] = below(m.n);
    }
    for (uint32_t i = 0; i < m.n; i++) {
        struct cs_entity *e = &entities[i];

        cs_store_u32(names[i], i);
        e->age.ins.stamp = 1 + below(ROWS);
        e->age.key = cs_slice(names[i], 4);
        e->claims = claims[i];
        e->parents = parents[i];
        for (int k = 0; k < 2; k++) {
            if (chance(70))
                claims[i][e->nclaims++] = below(nkeys);
            if (chance(density))
                parents[i][e->nparents++] = below(nsets);
        }
    }
    for (uint32_t i = 0; i < m.n; i++)
        for (uint32_t k = 0; k < m.n; k++)
            rank[i] += entities[k].age.ins.stamp < entities[i].age.ins.stamp ||
                       (entities[k].age.ins.stamp == entities[i].age.ins.stamp && k < i);
    for (uint32_t i = 0; i < m.n; i++) {
        m.undecided |= UINT64_C(1) << rank[i];
        for (uint32_t c = 0; c < entities[i].nclaims; c++)
            claimants[claims[i][c]] |= UINT64_C(1) << rank[i];
    }
    for (uint32_t s = 0; s < nsets; s++)
        for (uint32_t i = 0; i < sets[s].n; i++)
            sets_of[s] |= UINT64_C(1) << rank[members[s][i]];
    for (uint32_t i = 0; i < m.n; i++) {
        struct model_row *r = &m.rows[rank[i]];

        for (; r->nclaims < entities[i].nclaims; r->nclaims++)
            r->claims[r->nclaims] = claimants[claims[i][r->nclaims]];
        for (; r->nparents < entities[i].nparents; r->nparents++)
            r->parents[r->nparents] = sets_of[parents[i][r->nparents]];
    }
    model_decide(&m);
    CHECK(cs_decide(&in, shown, &m.arena) == CS_OK, "a decision fails");
    for (uint32_t i = 0; i < m.n; i++)
        CHECK(shown[i] == is_shown(&m, &m.rows[rank[i]]), "a graph is decided otherwise than by the model");
    for (uint32_t i = 0; i < m.n; i++)
        entities[i].fixed = shown[i] ? CS_SHOWN : CS_HIDDEN;
    CHECK(cs_decide(&in, again, &m.arena) == CS_OK && memcmp(shown, again, m.n * sizeof *shown) == 0,
          "what is known from outside is decided again");
    cs_arena_free(&m.arena);
}

int main(int argc, char **argv)
{
    const char *more = getenv("CS_SEEDS");
    unsigned long long n = more != NULL ? strtoull(more, NULL, 10) : 1500, first = 1;

    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--seeds") == 0)
            n = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            first = strtoull(argv[i + 1], NULL, 10);
    for (seed = first; seed < first + n; seed++) {
        rng = seed * 0x2545f4914f6cdd1d;
        history();
        for (int i = 0; i < 10; i++)
            graph();
    }
    printf("%llu histories and %llu graphs from seed %llu on: all hold\n", n, n * 10, first);
    return 0;
}
