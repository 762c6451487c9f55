#include "model.h"

#include <stdlib.h>

static const uint64_t SIGN = 0x8000000000000000;

struct cs_slice model_enc(struct cs_arena *a, struct cs_value v)
{
    bool number = v.type == CS_INTEGER || v.type == CS_REAL;
    size_t len = v.type == CS_NULL ? 0 : number ? 8 : v.u.bytes.len;
    uint8_t *p = cs_arena_alloc(a, 1 + len);
    uint64_t bits;

    p[0] = (uint8_t)v.type;
    memcpy(&bits, &v.u, 8);
    if (number)
        cs_store_u64(p + 1, v.type == CS_REAL && bits & SIGN ? ~bits : bits ^ SIGN);
    else if (len > 0)
        memcpy(p + 1, v.u.bytes.data, len);
    return cs_slice(p, 1 + len);
}
/* Equal bytes iff SQLite's = holds; also the canonical form of a part of a key. */
static struct cs_slice same(struct cs_arena *a, struct cs_slice e, enum cs_collation coll)
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
int model_order(struct cs_version a, struct cs_version b)
{
    return a.stamp != b.stamp ? (a.stamp > b.stamp) - (a.stamp < b.stamp) : memcmp(a.device.b, b.device.b, 16);
}
static struct model_row *row_of(struct model *m, struct cs_slice table, struct cs_slice key)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (cs_slice_eq(m->rows[i].table, table) && cs_slice_eq(m->rows[i].key, key))
            return &m->rows[i];
    if (m->n == MODEL_ROWS)
        abort();
    m->rows[m->n] = (struct model_row){ .table = table, .key = key };
    return &m->rows[m->n++];
}
/* cells[ncells] where there is none of the name. */
static struct model_cell *cell_of(struct model_row *r, struct cs_slice name)
{
    uint32_t i = 0;

    while (i < r->ncells && !cs_slice_eq(r->cells[i].name, name))
        i++;
    return &r->cells[i];
}
void model_merge(struct model *m, const struct cs_delta *d)
{
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
            for (const struct cs_op_cell *c = op->cells; c < op->cells + op->ncells; c++) {
                struct cs_slice value = model_enc(&m->arena, c->value);
                struct model_cell *cell = cell_of(r, t->columns[c->col]);
                int newer = model_order(v, cell->v);

                r->ncells += cell == r->cells + r->ncells;
                if (newer > 0 || (newer == 0 && cs_slice_cmp(value, cell->value) > 0))
                    *cell = (struct model_cell){ t->columns[c->col], value, v, false };
            }
        }
}
/* Why the row is hidden on its own account, or 0. */
static enum cs_hidden_why show_values(struct cs_arena *a, struct model_row *r)
{
    const struct cs_schema_table *t = r->schema;
    struct cs_slice parts[MODEL_COLS];
    struct cs_reader key = cs_reader(r->key);
    uint32_t nparts = 0, k;
    enum cs_hidden_why why = 0;

    if (t == NULL)
        return CS_HIDDEN_TABLE;
    for (; !cs_reader_done(&key); nparts++)
        parts[nparts] = cs_read_bytes(&key, cs_read_u32(&key));
    if (nparts != t->nkey)
        return CS_HIDDEN_KEY;
    for (uint32_t i = 0; i < r->ncells; i++)
        r->cells[i].hidden = true;
    for (uint32_t c = 0; c < t->ncolumns; c++) {
        const struct cs_column_rule *rule = &t->columns[c].rule;
        struct cs_slice def = model_enc(a, rule->has_default ? rule->default_value : (struct cs_value){ 0 });
        struct model_cell *cell = cell_of(r, t->columns[c].name);
        bool has = cell < r->cells + r->ncells;

        cell->hidden = false;
        r->values[c] = has ? cell->value : def;
        for (k = 0; k < nparts && t->key[k] != c; k++)
            ;
        if (k < nparts && !(has && cs_slice_eq(same(a, cell->value, rule->collation), parts[k])))
            r->values[c] = parts[k];
        if (k < nparts || r->values[c].data[0] != CS_NULL || !rule->notnull)
            continue;
        cell->hidden = why == 0 && def.data[0] != CS_NULL;
        why = def.data[0] == CS_NULL ? CS_HIDDEN_NOTNULL : why;
        r->values[c] = def;
    }
    return why;
}
/* The rows of p whose refs equal r's cols, as p compares them; a NULL equals nothing. */
static uint64_t matching(struct model *m, const struct model_row *r, const uint32_t *cols,
                         const struct cs_schema_table *p, const uint32_t *refs, uint32_t n)
{
    uint64_t found = 0;

    for (uint32_t k = 0; k < m->n; k++) {
        bool equal = (m->undecided >> k & 1) != 0 && m->rows[k].schema == p;

        for (uint32_t i = 0; i < n && equal; i++) {
            struct cs_slice x = r->values[cols[i]], y = m->rows[k].values[refs[i]];
            enum cs_collation coll = p->columns[refs[i]].rule.collation;

            equal = x.data[0] != CS_NULL && cs_slice_eq(same(&m->arena, x, coll), same(&m->arena, y, coll));
        }
        found |= (uint64_t)equal << k;
    }
    return found;
}
/* Is there a link to a row that is present (or, missing: to none of them)? */
static bool any(const uint64_t *links, uint32_t n, uint64_t present, bool missing)
{
    bool found = false;

    for (uint32_t i = 0; i < n; i++)
        found = found || ((links[i] & present) == 0) == missing;
    return found;
}
/* What of a group could be shown now: a younger claimant inside it yields, an orphan goes, until it holds. */
static uint64_t possible(const struct model *m, uint64_t group)
{
    uint64_t set = group & m->undecided, kept = 0;

    for (bool again = true; again; set = kept) {
        kept = 0;
        for (const struct model_row *r = m->rows; r < m->rows + m->n; r++)
            if ((set >> (r - m->rows) & 1) != 0 && !any(r->claims, r->nclaims, m->shown | kept, false) &&
                !any(r->parents, r->nparents, m->shown | set, true))
                kept |= UINT64_C(1) << (r - m->rows);
        again = kept != set;
    }
    return set;
}
/* Does the group wait for rows outside it: for a parent, or for an older claimant of a key? */
static bool waits(const struct model *m, uint64_t group, bool for_parent)
{
    uint64_t others = m->undecided & ~group, inside = m->undecided & group;
    bool found = false;

    for (uint32_t e = 0; e < m->n; e++)
        for (uint32_t i = 0; (inside >> e & 1) != 0 && i < (for_parent ? m->rows[e].nparents : m->rows[e].nclaims);
             i++) {
            uint64_t link = for_parent ? m->rows[e].parents[i] : m->rows[e].claims[i];
            uint64_t who = for_parent ? others : others & ((UINT64_C(1) << e) - 1);

            found = found || ((link & m->shown) == 0 && (link & who) != 0);
        }
    return found;
}
void model_decide(struct model *m)
{
    uint64_t reach[MODEL_ROWS] = { 0 }, group, set, before;
    bool circle = false;

    for (uint32_t i = 0; i < m->n; i++)
        for (uint32_t p = 0; p < m->rows[i].nparents; p++)
            reach[i] |= m->rows[i].parents[p];
    for (uint32_t via = 0; via < m->n; via++) /* Warshall, "A theorem on boolean matrices", 1962 */
        for (uint32_t i = 0; i < m->n; i++)
            reach[i] |= (reach[i] >> via & 1) != 0 ? reach[via] : 0;
    for (m->shown = 0; m->undecided != 0; circle = m->undecided == before) {
        before = m->undecided;
        for (uint32_t e = 0; e < m->n && !(circle && m->undecided != before); e++) {
            group = UINT64_C(1) << e; /* and who is its ancestor and its descendant */
            for (uint32_t i = 0; i < m->n; i++)
                group |= reach[e] & (reach[i] >> e & 1) << i;
            if ((m->undecided >> e & 1) == 0 || waits(m, group, true))
                continue;
            set = possible(m, group);
            if (circle ? (set >> e & 1) == 0 : set != 0 && waits(m, group, false))
                continue;
            m->shown |= set;
            m->undecided &= ~(set != 0 ? set : group);
        }
    }
}
static int by_age(const void *a, const void *b)
{
    const struct model_row *x = a, *y = b;
    int c = model_order(x->ins, y->ins), t = cs_slice_cmp(x->table, y->table);

    return c != 0 ? c : t != 0 ? t : cs_slice_cmp(x->key, y->key);
}
void model_project(struct model *m, const struct cs_schema *s)
{
    qsort(m->rows, m->n, sizeof *m->rows, by_age);
    m->undecided = 0;
    for (struct model_row *r = m->rows; r < m->rows + m->n; r++) {
        bool lives = r->ins.stamp > r->del.stamp;

        r->schema = NULL;
        r->nclaims = r->nparents = 0;
        for (uint32_t c = 0; c < r->ncells; c++)
            r->cells[c].hidden = false;
        for (uint32_t t = 0; t < s->ntables; t++)
            r->schema = cs_slice_eq(s->tables[t].name, r->table) ? &s->tables[t] : r->schema;
        r->why = lives ? show_values(&m->arena, r) : 0;
        m->undecided |= (uint64_t)(lives && r->why == 0) << (r - m->rows);
    }
    for (struct model_row *r = m->rows; r < m->rows + m->n; r++) {
        const struct cs_schema_table *t = r->schema;

        if ((m->undecided >> (r - m->rows) & 1) == 0)
            continue;
        r->nclaims = (r->claims[0] = matching(m, r, t->key, t, t->key, t->nkey)) != 0;
        for (const struct cs_schema_unique *u = t->uniques; u < t->uniques + t->nuniques; u++)
            r->nclaims += (r->claims[r->nclaims] = matching(m, r, u->cols, t, u->cols, u->ncols)) != 0;
        for (const struct cs_schema_fk *f = t->fks; f < t->fks + t->nfks; f++)
            if (f->parent != CS_NOT_TRACKED && matching(m, r, f->cols, t, f->cols, f->ncols) != 0) /* no NULL */
                r->parents[r->nparents++] = matching(m, r, f->cols, &s->tables[f->parent], f->refs, f->ncols);
    }
    model_decide(m);
    for (struct model_row *r = m->rows; r < m->rows + m->n; r++)
        if (r->ins.stamp > r->del.stamp && r->why == 0 && (m->shown >> (r - m->rows) & 1) == 0)
            r->why = any(r->parents, r->nparents, m->shown, true) ? CS_HIDDEN_FK : CS_HIDDEN_UNIQUE;
}
