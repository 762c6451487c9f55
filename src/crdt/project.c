#include "crdt/project.h"

#include <stdlib.h>

#include "base/error.h"
#include "crdt/plant.h"

enum { NONE = UINT32_MAX };

/* How a table of the state and one of the schema meet. */
struct mapping {
    uint32_t table;       /* of the schema, or NONE */
    uint32_t *to_schema;  /* by the state's column: the schema's, or NONE */
    uint32_t *from_state; /* by the schema's column: the state's, or NONE */
};
/* A row that could be shown, as far as it alone is concerned. */
struct candidate {
    const struct cs_state_row *row;
    uint32_t table; /* of the schema */
    struct cs_value *values;
};
struct range {
    uint32_t from, to;
};
struct work {
    const struct cs_state *state;
    const struct cs_schema *schema;
    struct cs_arena *a;
    struct mapping *mappings;   /* by the state's tables */
    struct candidate *rows;     /* by (table name, key) */
    struct cs_entity *entities; /* of each candidate */
    struct range *ranges;       /* by the schema's tables: its candidates */
    struct cs_intern claims, refs;
    struct cs_parents *sets; /* by refs' numbers */
    struct cs_value *parts;  /* scratch: a key */
    struct cs_buf name;      /* scratch: what a claim or reference is called */
    uint32_t n;
};

static void *array(struct work *w, size_t n, size_t size)
{
    return cs_arena_zalloc(w->a, n, size);
}

/* ---- 1. what one row alone decides ---- */

static bool map_table(struct work *w, const struct cs_state_table *st, struct mapping *m)
{
    const struct cs_schema_table *t;

    m->table = NONE;
    for (uint32_t i = 0; i < w->schema->ntables && m->table == NONE; i++)
        if (cs_slice_eq(w->schema->tables[i].name, st->name))
            m->table = i;
    if (m->table == NONE)
        return true;
    t = &w->schema->tables[m->table];
    m->to_schema = array(w, st->columns.n, sizeof *m->to_schema);
    m->from_state = array(w, t->ncolumns, sizeof *m->from_state);
    if (m->to_schema == NULL || m->from_state == NULL)
        return false;
    memset(m->to_schema, 0xff, st->columns.n * sizeof *m->to_schema); /* NONE */
    for (uint32_t c = 0; c < t->ncolumns; c++) {
        m->from_state[c] = cs_intern_find(&st->columns, t->columns[c].name); /* CS_INTERN_NONE is NONE */
        if (m->from_state[c] != NONE)
            m->to_schema[m->from_state[c]] = c;
    }
    return true;
}

static void hide_row(struct cs_projection *out, const struct cs_state_row *row, enum cs_hidden_why why)
{
    out->hidden[out->nhidden++] = (struct cs_hidden_row){ row, why };
}
static void hide_cell(struct cs_projection *out, const struct cs_state_row *row, uint32_t col)
{
    out->cells[out->ncells++] = (struct cs_hidden_cell){ row, col };
}

/* The parts of the key, in w->parts; false: they are not as many as the primary key has columns. */
static bool read_key(struct work *w, const struct cs_schema_table *t, struct cs_slice key)
{
    struct cs_reader r = cs_reader(key);
    uint32_t n = 0;

    while (n < t->nkey && !cs_reader_done(&r) && cs_key_next(&r, &w->parts[n]))
        n++;
    return n == t->nkey && cs_reader_done(&r);
}

static const struct cs_value *key_part(const struct work *w, const struct cs_schema_table *t, uint32_t col)
{
    for (uint32_t k = 0; k < t->nkey; k++)
        if (t->key[k] == col)
            return &w->parts[k];
    return NULL;
}

/* False: a NULL that cannot stand. */
static bool show_values(struct work *w, const struct mapping *m, const struct cs_state_row *row,
                        struct cs_value *values, struct cs_projection *out)
{
    const struct cs_schema_table *t = &w->schema->tables[m->table];

    for (uint32_t i = 0; i < row->row.ncells; i++)
        if (m->to_schema[row->row.cells[i].col] == NONE)
            hide_cell(out, row, row->row.cells[i].col);
    for (uint32_t c = 0; c < t->ncolumns; c++) {
        const struct cs_value *cell = m->from_state[c] == NONE ? NULL : cs_state_value(row, m->from_state[c]);

        switch (cs_show_column(&t->columns[c].rule, key_part(w, t, c), cell, &values[c])) {
        case CS_SHOW:
            break;
        case CS_SHOW_SUBSTITUTE:
            hide_cell(out, row, m->from_state[c]);
            break;
        case CS_SHOW_NOT:
            return false;
        }
    }
    return true;
}

static int judge_row(struct work *w, const struct cs_state_row *row, struct cs_projection *out)
{
    const struct mapping *m = &w->mappings[row->table];
    const struct cs_schema_table *t;
    struct cs_value *values;

    if (!cs_row_lives(&row->row))
        return CS_OK;
    if (m->table == NONE) {
        hide_row(out, row, CS_HIDDEN_TABLE);
        return CS_OK;
    }
    t = &w->schema->tables[m->table];
    if (!read_key(w, t, row->key)) {
        hide_row(out, row, CS_HIDDEN_KEY);
        return CS_OK;
    }
    if ((values = array(w, t->ncolumns, sizeof *values)) == NULL)
        return CS_ENOMEM;
    if (!show_values(w, m, row, values, out)) {
        hide_row(out, row, CS_HIDDEN_NOTNULL);
        return CS_OK;
    }
    if (w->ranges[m->table].to == 0)
        w->ranges[m->table].from = w->n;
    w->rows[w->n++] = (struct candidate){ row, m->table, values };
    w->ranges[m->table].to = w->n;
    return CS_OK;
}

static int judge_rows(struct work *w, struct cs_projection *out)
{
    const struct cs_state *s = w->state;
    const struct cs_state_row **rows;
    uint32_t n, nkey = 0;
    size_t ncells = 0;
    int rc = CS_OK;

    w->mappings = array(w, s->ntables, sizeof *w->mappings);
    w->ranges = array(w, w->schema->ntables, sizeof *w->ranges);
    if (w->mappings == NULL || w->ranges == NULL || (rows = cs_state_sorted(s, w->a, &n)) == NULL)
        return CS_ENOMEM;
    for (uint32_t i = 0; i < s->ntables; i++)
        if (!map_table(w, &s->tables[i], &w->mappings[i]))
            return CS_ENOMEM;
    for (uint32_t i = 0; i < w->schema->ntables; i++)
        if (w->schema->tables[i].nkey > nkey)
            nkey = w->schema->tables[i].nkey;
    for (uint32_t i = 0; i < n; i++)
        ncells += rows[i]->row.ncells;
    w->parts = array(w, nkey, sizeof *w->parts);
    w->rows = array(w, n, sizeof *w->rows);
    out->hidden = array(w, n, sizeof *out->hidden);
    out->cells = array(w, ncells, sizeof *out->cells);
    if (w->parts == NULL || w->rows == NULL || out->hidden == NULL || out->cells == NULL)
        return CS_ENOMEM;
    for (uint32_t i = 0; rc == CS_OK && i < n; i++)
        rc = judge_row(w, rows[i], out);
    return rc;
}

/* ---- 2. claims and possible parents ---- */

/* Appends what these columns say under the given columns' collations; false: a NULL among them, which claims nothing
 * and references nothing. */
static bool name_values(struct work *w, const struct cs_value *values, const uint32_t *cols,
                        const struct cs_schema_table *of, const uint32_t *of_cols, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (CS_PLANT(NULL_CLAIMS, values[cols[i]].type == CS_NULL, false))
            return false;
        cs_value_put_equal(&w->name, &values[cols[i]], of->columns[of_cols[i]].rule.collation);
    }
    return true;
}

static uint32_t intern(struct work *w, struct cs_intern *in)
{
    return w->name.failed ? CS_INTERN_NONE : cs_intern_put(in, w->a, cs_buf_slice(&w->name));
}

/* The primary key is a claim too: two canonical keys may be one under this schema. */
static bool list_claims(struct work *w, struct candidate *r, struct cs_entity *e)
{
    const struct cs_schema_table *t = &w->schema->tables[r->table];
    uint32_t *claims = array(w, (size_t)t->nuniques + 1, sizeof *claims), claim;

    if (claims == NULL)
        return false;
    e->claims = claims;
    for (uint32_t u = CS_PLANT(KEY_IS_NO_CLAIM, 0, 1); u <= t->nuniques; u++) {
        const uint32_t *cols = u == 0 ? t->key : t->uniques[u - 1].cols;
        uint32_t n = u == 0 ? t->nkey : t->uniques[u - 1].ncols;

        cs_buf_reset(&w->name);
        cs_buf_put_u32(&w->name, r->table);
        cs_buf_put_u32(&w->name, u);
        if (!name_values(w, r->values, cols, t, cols, n))
            continue;
        if ((claim = intern(w, &w->claims)) == CS_INTERN_NONE)
            return false;
        claims[e->nclaims++] = claim;
    }
    return true;
}

/* A reference is called by the parent table, its columns, and their values. */
static bool name_reference(struct work *w, const struct cs_schema_fk *f, const struct cs_value *values,
                           const uint32_t *cols)
{
    cs_buf_reset(&w->name);
    cs_buf_put_u32(&w->name, f->parent);
    cs_buf_put_u32(&w->name, f->ncols);
    for (uint32_t i = 0; i < f->ncols; i++)
        cs_buf_put_u32(&w->name, f->refs[i]);
    return name_values(w, values, cols, &w->schema->tables[f->parent], f->refs, f->ncols);
}

static bool list_parents(struct work *w, struct candidate *r, struct cs_entity *e)
{
    const struct cs_schema_table *t = &w->schema->tables[r->table];
    uint32_t *parents = array(w, t->nfks, sizeof *parents), set;

    if (parents == NULL)
        return false;
    e->parents = parents;
    for (uint32_t i = 0; i < t->nfks; i++) {
        if (t->fks[i].parent == CS_NOT_TRACKED || !name_reference(w, &t->fks[i], r->values, t->fks[i].cols))
            continue;
        if ((set = intern(w, &w->refs)) == CS_INTERN_NONE)
            return false;
        parents[e->nparents++] = set;
    }
    return true;
}

static bool same_reference(const struct cs_schema_fk *a, const struct cs_schema_fk *b)
{
    return a->parent == b->parent && a->ncols == b->ncols && memcmp(a->refs, b->refs, a->ncols * sizeof *a->refs) == 0;
}
/* Is there an earlier foreign key that references the same columns? */
static bool is_repeated(const struct cs_schema *s, uint32_t table, uint32_t fk)
{
    for (uint32_t t = 0; t <= table; t++)
        for (uint32_t f = 0; f < (t == table ? fk : s->tables[t].nfks); f++)
            if (same_reference(&s->tables[t].fks[f], &s->tables[table].fks[fk]))
                return true;
    return false;
}

/* Puts the rows that a foreign key could mean into the sets that children name. */
static bool fill_sets(struct work *w, const struct cs_schema_fk *f)
{
    const struct range *range = &w->ranges[f->parent];
    uint32_t *set_of = array(w, range->to - range->from, sizeof *set_of), set;
    uint32_t *rows;

    if (set_of == NULL)
        return false;
    for (uint32_t i = range->from; i < range->to; i++) {
        set = NONE;
        if (name_reference(w, f, w->rows[i].values, f->refs))
            set = cs_intern_find(&w->refs, cs_buf_slice(&w->name));
        if (w->name.failed)
            return false;
        set_of[i - range->from] = set; /* CS_INTERN_NONE is NONE: nobody references it */
        if (set != NONE)
            w->sets[set].n++;
    }
    for (uint32_t i = range->from; i < range->to; i++) {
        if ((set = set_of[i - range->from]) == NONE)
            continue;
        if (w->sets[set].rows == NULL) {
            if ((rows = array(w, w->sets[set].n, sizeof *rows)) == NULL)
                return false;
            w->sets[set] = (struct cs_parents){ rows, 0 };
        }
        rows = (uint32_t *)w->sets[set].rows;
        rows[w->sets[set].n++] = i;
    }
    return true;
}

static bool list_entities(struct work *w)
{
    w->entities = array(w, w->n, sizeof *w->entities);
    if (w->entities == NULL)
        return false;
    for (uint32_t i = 0; i < w->n; i++) {
        const struct cs_state_row *row = w->rows[i].row;

        w->entities[i].age = (struct cs_age){ row->row.ins, w->schema->tables[w->rows[i].table].name, row->key };
        if (!list_claims(w, &w->rows[i], &w->entities[i]) || !list_parents(w, &w->rows[i], &w->entities[i]))
            return false;
    }
    if ((w->sets = array(w, w->refs.n, sizeof *w->sets)) == NULL)
        return false;
    for (uint32_t t = 0; t < w->schema->ntables; t++)
        for (uint32_t f = 0; f < w->schema->tables[t].nfks; f++)
            if (w->schema->tables[t].fks[f].parent != CS_NOT_TRACKED && !is_repeated(w->schema, t, f) &&
                !fill_sets(w, &w->schema->tables[t].fks[f]))
                return false;
    return true;
}

/* ---- 3. reasons, and what is shown all the same ---- */

/* there: by set, is one of its rows shown. */
static bool is_orphan(const struct cs_entity *e, const bool *there)
{
    for (uint32_t p = 0; p < e->nparents; p++)
        if (!there[e->parents[p]])
            return true;
    return false;
}

static void raise_checks(const struct work *w, const struct candidate *r, struct cs_projection *out)
{
    for (uint32_t c = 0; c < w->schema->tables[r->table].nchecks; c++)
        if (!w->schema->check(w->schema->arg, r->table, c, r->values))
            out->raised[out->nraised++] = (struct cs_raised){ r->row, NULL, c };
}

/* Each holder once, also if it holds several keys. */
static void raise_holders(const struct work *w, uint32_t i, const uint32_t *holder, struct cs_projection *out)
{
    const struct cs_entity *e = &w->entities[i];
    uint32_t first = out->nraised, k, h;

    for (uint32_t c = 0; c < e->nclaims; c++) {
        if ((h = holder[e->claims[c]]) == NONE)
            continue;
        for (k = first; k < out->nraised && out->raised[k].holder != w->rows[h].row; k++)
            ;
        if (k == out->nraised)
            out->raised[out->nraised++] = (struct cs_raised){ w->rows[i].row, w->rows[h].row, 0 };
    }
}

static int give_reasons(struct work *w, const bool *shown, struct cs_projection *out)
{
    uint32_t *holder = array(w, w->claims.n, sizeof *holder);
    bool *there = array(w, w->refs.n, sizeof *there);
    size_t nraised = 0;

    for (uint32_t i = 0; i < w->n; i++)
        nraised += shown[i] ? w->schema->tables[w->rows[i].table].nchecks : w->entities[i].nclaims;
    out->rows = array(w, w->n, sizeof *out->rows);
    out->raised = array(w, nraised, sizeof *out->raised);
    if (holder == NULL || there == NULL || out->rows == NULL || out->raised == NULL)
        return CS_ENOMEM;
    memset(holder, 0xff, w->claims.n * sizeof *holder); /* NONE */
    for (uint32_t i = 0; i < w->n; i++)
        for (uint32_t c = 0; shown[i] && c < w->entities[i].nclaims; c++)
            holder[w->entities[i].claims[c]] = i;
    for (uint32_t i = 0; i < w->refs.n; i++)
        for (uint32_t k = 0; k < w->sets[i].n; k++)
            there[i] = there[i] || shown[w->sets[i].rows[k]];
    for (uint32_t i = 0; i < w->n; i++) {
        const struct candidate *r = &w->rows[i];

        if (shown[i]) {
            out->rows[out->nrows++] = (struct cs_shown_row){ r->row, r->table, r->values };
            raise_checks(w, r, out);
        } else if (is_orphan(&w->entities[i], there)) {
            hide_row(out, r->row, CS_HIDDEN_FK);
        } else {
            hide_row(out, r->row, CS_HIDDEN_UNIQUE);
            raise_holders(w, i, holder, out);
        }
    }
    return CS_OK;
}

static int project(struct work *w, struct cs_projection *out)
{
    struct cs_decide_in in;
    bool *shown;
    int rc;

    if ((rc = judge_rows(w, out)) != CS_OK)
        return rc;
    if (!list_entities(w) || (shown = array(w, w->n, sizeof *shown)) == NULL)
        return CS_ENOMEM;
    in = (struct cs_decide_in){ w->entities, w->sets, w->n, w->refs.n, w->claims.n };
    if ((rc = cs_decide(&in, shown, w->a)) != CS_OK)
        return rc;
    return give_reasons(w, shown, out);
}

int cs_project(struct cs_projection *out, const struct cs_state *s, const struct cs_schema *schema, struct cs_arena *a)
{
    struct work w = { .state = s, .schema = schema, .a = a };
    int rc;

    *out = (struct cs_projection){ .schema = schema };
    rc = project(&w, out);
    cs_buf_free(&w.name);
    return rc;
}

/* ---- canonical bytes ---- */

struct named {
    struct cs_slice name;
    uint32_t n;
};
static int by_name(const void *a, const void *b)
{
    return cs_slice_cmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

static void put_frame(struct cs_buf *out, struct cs_slice s)
{
    cs_buf_put_u32(out, (uint32_t)s.len);
    cs_buf_put_slice(out, s);
}

static void dump_table(const struct cs_projection *p, uint32_t table, struct named *cols, struct cs_buf *out)
{
    const struct cs_schema_table *t = &p->schema->tables[table];
    uint32_t n = 0;

    for (uint32_t c = 0; c < t->ncolumns; c++)
        cols[c] = (struct named){ t->columns[c].name, c };
    if (t->ncolumns > 0)
        qsort(cols, t->ncolumns, sizeof *cols, by_name);
    for (uint32_t i = 0; i < p->nrows; i++)
        n += p->rows[i].table == table;
    put_frame(out, t->name);
    cs_buf_put_u32(out, n);
    for (uint32_t i = 0; i < p->nrows; i++) {
        if (p->rows[i].table != table)
            continue;
        put_frame(out, p->rows[i].row->key);
        for (uint32_t c = 0; c < t->ncolumns; c++) {
            const struct cs_value *v = &p->rows[i].values[cols[c].n];

            put_frame(out, cols[c].name);
            cs_buf_put_u32(out, (uint32_t)cs_value_encoded_len(v));
            cs_value_encode(out, v);
        }
    }
}

void cs_projection_dump(const struct cs_projection *p, struct cs_buf *out, struct cs_arena *a)
{
    const struct cs_schema *s = p->schema;
    struct named *tables = cs_arena_zalloc(a, s->ntables, sizeof *tables), *cols;
    uint32_t widest = 0;

    for (uint32_t i = 0; i < s->ntables; i++)
        if (s->tables[i].ncolumns > widest)
            widest = s->tables[i].ncolumns;
    cols = cs_arena_zalloc(a, widest, sizeof *cols);
    if (tables == NULL || cols == NULL) {
        out->failed = true;
        return;
    }
    for (uint32_t i = 0; i < s->ntables; i++)
        tables[i] = (struct named){ s->tables[i].name, i };
    if (s->ntables > 0)
        qsort(tables, s->ntables, sizeof *tables, by_name);
    cs_buf_put_str(out, "claw-sync projection 1\n");
    for (uint32_t i = 0; i < s->ntables; i++)
        dump_table(p, tables[i].n, cols, out);
}
