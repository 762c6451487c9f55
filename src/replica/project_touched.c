/* What sealing and a change of schema ask of the projection. */
#include "replica/reach.h"
#include "replica/store.h"

bool cs_family_waits(const struct cs_replica *r, const struct cs_table *t)
{
    for (size_t i = 0; i < r->ntables; i++) {
        const struct cs_table *x = &r->tables[i];

        if (cs_sql_of(x)->family == cs_sql_of(t)->family && x->nhidden > cs_sql_of(x)->npending)
            return true;
    }
    return false;
}

/* A row went: the key it had is known, its other values are not. */
static int row_went(struct cs_replica *r, const struct cs_touched *x, struct cs_error *err)
{
    struct cs_table *t = x->table;
    struct cs_table_sql *s = cs_sql_of(t);
    int rc = CS_OK;

    if (!cs_show_key(t, x->key, s->parts))
        return CS_OK;
    for (uint32_t i = 0; i < t->ncolumns; i++)
        s->values[i] =
            t->columns[i].key_pos >= 0 ? s->parts[t->columns[i].key_pos] : (struct cs_value){ .type = CS_NULL };
    if (s->nchildren > 0 || cs_family_waits(r, t))
        rc = cs_pending_freed(r, t, s->values, err);
    return rc;
}

/* Rows below whose reference may be broken in a way that the key does not tell. */
static int ask_children(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    const struct cs_table_sql *s = cs_sql_of(t);
    int rc = CS_OK;

    for (uint32_t i = 0; i < s->nchildren && rc == CS_OK; i++) {
        const struct cs_child *c = &s->children[i];
        bool by_key = true;

        for (uint32_t k = 0; k < c->table->fks[c->fk].ncols; k++)
            by_key &= t->columns[c->refs[k]].key_pos >= 0;
        if (!by_key)
            rc = cs_pending_orphans(r, c->table, c->fk, err);
    }
    return rc;
}

static int touched(struct cs_replica *r, const struct cs_touched *x, struct cs_error *err)
{
    struct cs_table_sql *s = cs_sql_of(x->table);
    bool waits = cs_family_waits(r, x->table), parents = true;
    struct cs_value *values;
    int rc;

    if (waits && (x->kind != CS_OP_UPDATE || x->mask_any)) {
        struct cs_pending *p = cs_pending_of(r, err);

        if (p == NULL)
            return CS_ENOMEM;
        p->all_hidden = true; /* what it held before is not known any more (an insert may be a REPLACE) */
    }
    if (x->kind == CS_OP_DELETE)
        return (rc = row_went(r, x, err)) == CS_OK ? ask_children(r, x->table, err) : rc;
    if ((x->kind != CS_OP_UPDATE || x->mask_any) && (rc = ask_children(r, x->table, err)) != CS_OK)
        return rc;
    if (!s->linked && !waits && !x->was_hidden)
        return CS_OK;
    if (!waits && !x->was_hidden) { /* SQLite saw to its keys; only a parent can be missing */
        if ((rc = cs_show_stored(r, x->table, x->key, &values, err)) == CS_OK)
            rc = cs_show_parents(r, x->table, values, NULL, &parents, err);
        if (rc != CS_OK || parents)
            return rc == CS_ENOTFOUND ? CS_OK : rc;
    }
    return cs_pending_add(r, x->table, x->key, err);
}

int cs_project_touched(struct cs_replica *r, const struct cs_touched *rows, size_t n, struct cs_error *err)
{
    struct cs_pending_counts counts;
    int rc = cs_apply_ready(r, err);

    for (size_t i = 0; i < n && rc == CS_OK; i++)
        rc = touched(r, &rows[i], err);
    return rc == CS_OK ? cs_pending_run(r, &counts, err) : rc;
}

static int add_all(struct cs_replica *r, struct cs_table *t, enum cs_own_statement which, struct cs_error *err)
{
    struct cs_slice *keys;
    size_t n;
    int rc = cs_hidden_keys(r, &r->scratch, which, t->id, &keys, &n, err);

    for (size_t i = 0; i < n && rc == CS_OK; i++)
        rc = cs_pending_add(r, t, keys[i], err);
    return rc;
}

int cs_project_schema_changed(struct cs_replica *r, struct cs_error *err)
{
    struct cs_pending_counts counts;
    int rc = cs_unsent_lose_dropped(r, err);

    if (rc == CS_OK)
        rc = cs_apply_ready(r, err);
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++) {
        struct cs_table *t = &r->tables[i];

        if ((rc = add_all(r, t, CS_OWN_HIDDEN_ROWS, err)) == CS_OK)
            rc = add_all(r, t, CS_OWN_HIDDEN_SHOWN, err);
        for (uint32_t k = 0; k < t->nfks && rc == CS_OK; k++)
            rc = cs_pending_orphans(r, t, k, err);
    }
    return rc == CS_OK ? cs_pending_run(r, &counts, err) : rc;
}
