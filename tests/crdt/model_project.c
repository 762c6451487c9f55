#include "model.h"

/* What the row shows; why it is hidden on its own account, or 0. */
static enum cs_hidden_why show_values(struct cs_arena *a, struct model_row *r)
{
    const struct cs_schema_table *t = r->schema;
    struct cs_slice parts[MODEL_COLS], null = cs_slice("", 1);
    struct cs_reader key = cs_reader(r->key);
    uint32_t nparts = 0, k;

    if (t == NULL)
        return CS_HIDDEN_TABLE;
    for (; !cs_reader_done(&key); nparts++)
        parts[nparts] = cs_read_bytes(&key, cs_read_u32(&key));
    if (nparts != t->nkey)
        return CS_HIDDEN_KEY;
    for (uint32_t i = 0; i < r->ncells; i++) {
        for (k = 0; k < t->ncolumns && !cs_slice_eq(t->columns[k].name, r->cells[i].name); k++)
            ;
        r->cells[i].hidden = k == t->ncolumns;
    }
    for (uint32_t c = 0; c < t->ncolumns; c++) {
        const struct cs_column_rule *rule = &t->columns[c].rule;
        struct cs_slice def = rule->has_default ? model_enc(a, rule->default_value) : null;
        struct model_cell *cell = NULL;

        for (uint32_t i = 0; i < r->ncells; i++)
            cell = cs_slice_eq(t->columns[c].name, r->cells[i].name) ? &r->cells[i] : cell;
        r->values[c] = cell != NULL ? cell->value : def;
        for (k = 0; k < nparts && t->key[k] != c; k++)
            ;
        if (k < nparts) {
            if (cell == NULL || !cs_slice_eq(model_same(a, cell->value, rule->collation), parts[k]))
                r->values[c] = parts[k];
        } else if (r->values[c].data[0] == CS_NULL && rule->notnull) {
            if (def.data[0] == CS_NULL)
                return CS_HIDDEN_NOTNULL;
            r->values[c] = def;
            if (cell != NULL)
                cell->hidden = true;
        }
    }
    return 0;
}
/* What some columns say, compared as `of` compares `refs`; empty: a NULL among them. */
static struct cs_slice tuple(struct cs_arena *a, const struct model_row *r, const uint32_t *cols, uint32_t n,
                             const struct cs_schema_table *of, const uint32_t *refs)
{
    struct cs_buf b = { 0 };

    model_frame(&b, of->name);
    for (uint32_t i = 0; i < n; i++) {
        if (r->values[cols[i]].data[0] == CS_NULL) {
            cs_buf_free(&b);
            return CS_SLICE_NULL;
        }
        cs_buf_put_u32(&b, refs[i]);
        model_frame(&b, model_same(a, r->values[cols[i]], of->columns[refs[i]].rule.collation));
    }
    return model_take(a, &b);
}
static void link_row(struct model *m, const struct cs_schema *s, struct model_row *r)
{
    const struct cs_schema_table *t = r->schema, *p;
    struct cs_slice key;

    if ((key = tuple(&m->arena, r, t->key, t->nkey, t, t->key)).len > 0)
        r->claims[r->nclaims++] = key;
    for (uint32_t u = 0; u < t->nuniques; u++)
        if ((key = tuple(&m->arena, r, t->uniques[u].cols, t->uniques[u].ncols, t, t->uniques[u].cols)).len > 0)
            r->claims[r->nclaims++] = key;
    for (uint32_t f = 0; f < t->nfks; f++) {
        if (t->fks[f].parent == CS_NOT_TRACKED)
            continue;
        p = &s->tables[t->fks[f].parent];
        if ((key = tuple(&m->arena, r, t->fks[f].cols, t->fks[f].ncols, p, t->fks[f].refs)).len == 0)
            continue;
        r->parents[r->nparents] = cs_arena_zalloc(&m->arena, m->n, sizeof(bool));
        for (uint32_t i = 0; i < m->n; i++)
            if (m->rows[i].state == MODEL_UNDECIDED && m->rows[i].schema == p)
                if (cs_slice_eq(tuple(&m->arena, &m->rows[i], t->fks[f].refs, t->fks[f].ncols, p, t->fks[f].refs), key))
                    r->parents[r->nparents][i] = true;
        r->nparents++;
    }
}

/* ---- deciding ---- */

static bool has(const struct model_row *r, struct cs_slice key)
{
    for (uint32_t c = 0; c < r->nclaims; c++)
        if (cs_slice_eq(r->claims[c], key))
            return true;
    return false;
}
static bool held(const struct model *m, struct cs_slice key)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (m->rows[i].state == MODEL_SHOWN && has(&m->rows[i], key))
            return true;
    return false;
}
bool model_share(const struct model *m, uint32_t i, uint32_t k)
{
    for (uint32_t c = 0; c < m->rows[i].nclaims; c++)
        if (has(&m->rows[k], m->rows[i].claims[c]))
            return true;
    return false;
}
static bool together(const struct model *m, uint32_t g, uint32_t e)
{
    return e == g || (m->rows[g].reaches[e] && m->rows[e].reaches[g]);
}
/* With the rows in `set` still possible, and those in `kept` sure: may e be shown? */
static bool fits(const struct model *m, uint32_t e, const bool *set, const bool *kept)
{
    for (uint32_t k = 0; k < m->n; k++)
        if ((m->rows[k].state == MODEL_SHOWN || kept[k]) && model_share(m, e, k))
            return false;
    for (uint32_t p = 0; p < m->rows[e].nparents; p++) {
        bool there = false;

        for (uint32_t k = 0; k < m->n; k++)
            there = there || (m->rows[e].parents[p][k] && (m->rows[k].state == MODEL_SHOWN || set[k]));
        if (!there)
            return false;
    }
    return true;
}
/* What of g's group could be shown now, and how many that is. */
static uint32_t possible(const struct model *m, uint32_t g, bool *set)
{
    bool kept[MODEL_ROWS], again = true;
    uint32_t count = 0, e;

    for (uint32_t i = 0; i < m->n; i++)
        set[i] = m->rows[i].state == MODEL_UNDECIDED && together(m, g, i);
    while (again) {
        memset(kept, 0, sizeof kept);
        again = false;
        count = 0;
        for (uint32_t r = 0; r < m->norder; r++) {
            e = m->order[r];
            kept[e] = set[e] && fits(m, e, set, kept);
            again = again || kept[e] != set[e];
            count += kept[e];
        }
        memcpy(set, kept, m->n * sizeof *set);
    }
    return count;
}
static bool waits_for_parent(const struct model *m, uint32_t g)
{
    for (uint32_t e = 0; e < m->n; e++)
        for (uint32_t p = 0; m->rows[e].state == MODEL_UNDECIDED && together(m, g, e) && p < m->rows[e].nparents; p++) {
            bool shown = false, waits = false;

            for (uint32_t k = 0; k < m->n; k++)
                if (m->rows[e].parents[p][k]) {
                    shown = shown || m->rows[k].state == MODEL_SHOWN;
                    waits = waits || (m->rows[k].state == MODEL_UNDECIDED && !together(m, g, k));
                }
            if (waits && !shown)
                return true;
        }
    return false;
}
/* Does e wait for the claimant o of one of its keys? */
static bool rivals(const struct model *m, uint32_t e, uint32_t o)
{
    for (uint32_t c = 0; c < m->rows[e].nclaims; c++)
        if (has(&m->rows[o], m->rows[e].claims[c]) && !held(m, m->rows[e].claims[c]))
            return true;
    return false;
}
static bool waits_for_older(const struct model *m, uint32_t g)
{
    for (uint32_t r = 0; r < m->norder; r++)
        for (uint32_t older = 0; older < r; older++) {
            uint32_t e = m->order[r], o = m->order[older];

            if (m->rows[e].state == MODEL_UNDECIDED && together(m, g, e) && m->rows[o].state == MODEL_UNDECIDED &&
                !together(m, g, o) && rivals(m, e, o))
                return true;
        }
    return false;
}
static void settle(struct model *m, uint32_t g)
{
    bool set[MODEL_ROWS];
    uint32_t n = possible(m, g, set);

    for (uint32_t i = 0; i < m->n; i++)
        if (m->rows[i].state == MODEL_UNDECIDED && together(m, g, i) && (n == 0 || set[i]))
            m->rows[i].state = n > 0 ? MODEL_SHOWN : MODEL_HIDDEN;
}
static bool sweep(struct model *m, bool circle)
{
    bool set[MODEL_ROWS], progress = false;
    uint32_t e;

    for (uint32_t r = 0; r < m->norder && !(circle && progress); r++) {
        e = m->order[r];
        if (m->rows[e].state != MODEL_UNDECIDED || waits_for_parent(m, e))
            continue;
        if (circle ? possible(m, e, set) > 0 && set[e] : !waits_for_older(m, e) || possible(m, e, set) == 0) {
            settle(m, e);
            progress = true;
        }
    }
    return progress;
}
static bool is_older(const struct model_row *a, const struct model_row *b)
{
    int c = model_order(a->ins, b->ins);

    return c != 0 ? c < 0 : a < b; /* rows lie by table and key */
}
static bool is_orphan(const struct model *m, const struct model_row *r)
{
    for (uint32_t p = 0; p < r->nparents; p++) {
        bool there = false;

        for (uint32_t k = 0; k < m->n; k++)
            there = there || (r->parents[p][k] && m->rows[k].state == MODEL_SHOWN);
        if (!there)
            return true;
    }
    return false;
}
void model_decide(struct model *m)
{
    m->norder = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        m->rows[i].reaches = cs_arena_zalloc(&m->arena, m->n, sizeof(bool));
        for (uint32_t p = 0; p < m->rows[i].nparents; p++)
            for (uint32_t k = 0; k < m->n; k++)
                m->rows[i].reaches[k] |= m->rows[i].parents[p][k];
        if (m->rows[i].state == MODEL_UNDECIDED) {
            uint32_t k = m->norder++;

            for (; k > 0 && is_older(&m->rows[i], &m->rows[m->order[k - 1]]); k--)
                m->order[k] = m->order[k - 1];
            m->order[k] = i;
        }
    }
    for (uint32_t via = 0; via < m->n; via++) /* Warshall, "A theorem on boolean matrices", 1962 */
        for (uint32_t i = 0; i < m->n; i++)
            for (uint32_t j = 0; j < m->n; j++)
                m->rows[i].reaches[j] |= m->rows[i].reaches[via] && m->rows[via].reaches[j];
    while (sweep(m, false) || sweep(m, true))
        ;
}

void model_project(struct model *m, const struct cs_schema *s)
{
    for (struct model_row *r = m->rows; r < m->rows + m->n; r++) {
        r->schema = NULL;
        r->state = MODEL_OUT;
        r->why = 0;
        r->nclaims = r->nparents = 0;
        for (uint32_t c = 0; c < r->ncells; c++)
            r->cells[c].hidden = false;
        for (uint32_t t = 0; t < s->ntables; t++)
            r->schema = cs_slice_eq(s->tables[t].name, r->table) ? &s->tables[t] : r->schema;
        if (r->ins.stamp > r->del.stamp && (r->why = show_values(&m->arena, r)) == 0)
            r->state = MODEL_UNDECIDED;
    }
    for (uint32_t i = 0; i < m->n; i++)
        if (m->rows[i].state == MODEL_UNDECIDED)
            link_row(m, s, &m->rows[i]);
    model_decide(m);
    for (struct model_row *r = m->rows; r < m->rows + m->n; r++)
        if (r->state == MODEL_HIDDEN)
            r->why = is_orphan(m, r) ? CS_HIDDEN_FK : CS_HIDDEN_UNIQUE;
}
