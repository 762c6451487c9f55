/* Which rows are shown, decided again where something changed, and the application's tables brought in line. */
#include "replica/reach.h"

static int no_memory(struct cs_error *err)
{
    return cs_fail(err, CS_ENOMEM, "out of memory");
}

/* ---- deciding ---- */

/* Who could be the parent of n by foreign key fk, into set. *skip: one of them is shown, whatever is decided here. */
static int parent_set(struct cs_pending *p, const struct cs_reach_node *n, uint32_t fk, struct cs_parents *set,
                      bool *skip, struct cs_error *err)
{
    uint32_t count = 0, *rows;

    *skip = false;
    for (const struct cs_reach_link *l = n->up[fk]->rows; l != NULL; l = l->next)
        count++;
    if ((rows = cs_arena_zalloc(&p->arena, (size_t)count + 1, sizeof *rows)) == NULL)
        return no_memory(err);
    *set = (struct cs_parents){ .rows = rows };
    for (const struct cs_reach_link *l = n->up[fk]->rows; l != NULL; l = l->next) {
        if (l->node->why != NULL)
            continue;
        if (l->node->closed)
            rows[set->n++] = l->node->index;
        else if (l->node->was == NULL)
            *skip = true;
    }
    return CS_OK;
}

static int describe(struct cs_pending *p, struct cs_reach_node *n, struct cs_entity *e, struct cs_parents *sets,
                    uint32_t *nsets, struct cs_error *err)
{
    uint32_t *claims = cs_arena_zalloc(&p->arena, (size_t)n->nclaims + 1, sizeof *claims);
    uint32_t *parents = cs_arena_zalloc(&p->arena, (size_t)n->t->nfks + 1, sizeof *parents);
    int rc;

    if (claims == NULL || parents == NULL)
        return no_memory(err);
    *e = (struct cs_entity){ .age = { .ins = n->ins, .table = cs_slice_str(n->t->name), .key = n->key },
                             .claims = claims,
                             .nclaims = n->nclaims,
                             .parents = parents };
    for (uint32_t i = 0; i < n->nclaims; i++)
        claims[i] = n->claims[i]->id;
    for (uint32_t i = 0; i < n->t->nfks; i++) {
        bool skip = true;

        if (n->up[i] != NULL && (rc = parent_set(p, n, i, &sets[*nsets], &skip, err)) != CS_OK)
            return rc;
        if (!skip)
            parents[e->nparents++] = (*nsets)++;
    }
    return CS_OK;
}

static int decide(struct cs_replica *r, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    struct cs_entity *entities = cs_arena_zalloc(&p->arena, (size_t)p->nclosed + 1, sizeof *entities);
    bool *shown = cs_arena_zalloc(&p->arena, (size_t)p->nclosed + 1, sizeof *shown);
    struct cs_decide_in in = { .entities = entities, .nclaims = p->nentries };
    struct cs_parents *sets;
    size_t most = 0;
    int rc = CS_OK;

    for (struct cs_reach_node *n = p->closed; n != NULL; n = n->open) {
        n->shown = false;
        if (n->why != NULL)
            continue;
        n->index = in.n++;
        most += n->t->nfks;
    }
    sets = cs_arena_zalloc(&p->arena, most + 1, sizeof *sets);
    if (entities == NULL || shown == NULL || sets == NULL)
        return no_memory(err);
    in.sets = sets;
    for (struct cs_reach_node *n = p->closed; n != NULL && rc == CS_OK; n = n->open)
        if (n->why == NULL)
            rc = describe(p, n, &entities[n->index], sets, &in.nsets, err);
    if (rc != CS_OK)
        return rc;
    rc = cs_decide(&in, shown, &p->arena);
    if (rc != CS_OK)
        return cs_fail(err, rc, rc == CS_ENOMEM ? "out of memory" : "the rows to decide do not fit together");
    for (struct cs_reach_node *n = p->closed; n != NULL; n = n->open)
        if (n->why == NULL)
            n->shown = shown[n->index];
    return CS_OK;
}

/* Why a row that could be shown is not: a parent is missing, or else a key of its is taken. */
static const char *hidden_why(const struct cs_reach_node *n)
{
    if (n->why != NULL)
        return n->why;
    for (uint32_t i = 0; i < n->t->nfks; i++) {
        bool found = n->up[i] == NULL;

        for (const struct cs_reach_link *l = found ? NULL : n->up[i]->rows; l != NULL && !found; l = l->next)
            found = l->node->why == NULL && (l->node->closed ? l->node->shown : l->node->was == NULL);
        if (!found)
            return "fk";
    }
    return "unique";
}

/* ---- bringing the tables in line ---- */

static int hide(struct cs_replica *r, struct cs_reach_node *n, const char *why, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    bool had_lost = n->was != NULL && strcmp(n->was, "unique") == 0;
    int rc = CS_OK;

    n->lost = strcmp(why, "unique") == 0;
    if (n->was != NULL && strcmp(n->was, why) == 0)
        return CS_OK;
    if (n->was == NULL || strcmp(n->was, "pending") == 0)
        p->counts.hidden++;
    if (n->stored != NULL) {
        if ((rc = cs_show_delete(r, n->t, n->key, err)) != CS_OK)
            return rc;
        n->stored = NULL;
        p->counts.changed++;
        if (n->t->has_check && (rc = cs_conflict_close(r, n->t->id, n->key, "check", NULL, err)) != CS_OK)
            return rc;
    }
    for (uint32_t i = 0; n->was == NULL && i < n->ncells && rc == CS_OK; i++)
        rc = cs_hidden_put_cell(r, n->t->id, n->key, n->cells[i].col, &n->cells[i].value, err);
    if (rc == CS_OK)
        rc = cs_hidden_put_row(r, n->t->id, n->key, why, err);
    n->was = why;
    return rc == CS_OK && had_lost && !n->lost ? cs_conflict_close(r, n->t->id, n->key, "unique", NULL, err) : rc;
}

/* After the row was written: cells that the table shows leave sync_hidden, the others are kept there. */
static int put_aside(struct cs_replica *r, struct cs_reach_node *n, struct cs_error *err)
{
    int rc = CS_OK;

    if (n->was != NULL)
        rc = cs_hidden_drop_row(r, n->t->id, n->key, err);
    n->was = NULL;
    for (uint32_t i = 0; i < n->ncells && rc == CS_OK; i++) {
        uint32_t id = n->cells[i].col, pos = cs_column_position(n->t, id);

        if (pos != CS_NO_COLUMN && cs_same_value(&n->cells[i].value, &n->values[pos]))
            rc = cs_hidden_drop_cell(r, n->t->id, n->key, id, err);
        else
            rc = cs_hidden_put_cell(r, n->t->id, n->key, id, &n->cells[i].value, err);
    }
    return rc;
}

/* The table shows the row's values, its versions may be other ones. */
static int is_shown(struct cs_replica *r, struct cs_reach_node *n, struct cs_error *err)
{
    uint32_t *conflicts = &cs_apply_of(r)->pending->counts.conflicts;
    int rc = put_aside(r, n, err);

    return rc == CS_OK ? cs_conflict_check(r, n->t, n->key, n->values, &n->newest, conflicts, err) : rc;
}

static int after_write(struct cs_replica *r, struct cs_reach_node *n, struct cs_error *err)
{
    cs_apply_of(r)->pending->counts.changed++;
    return is_shown(r, n, err);
}

/* A shown row whose merged values changed. *aside: another row still holds a key of it; it is taken out, to be
 * inserted again when all have let go. */
static int change(struct cs_replica *r, struct cs_reach_node *n, bool *refused, struct cs_error *err)
{
    struct cs_table_sql *s = cs_sql_of(n->t);
    enum cs_written out = CS_WRITTEN;
    const char *why = NULL;
    uint32_t ncols = 0;
    int rc;

    for (uint32_t i = 0; i < n->t->ncolumns; i++)
        if (!cs_same_value(&n->values[i], &n->stored[i]))
            s->cols[ncols++] = i;
    if (ncols == 0)
        return is_shown(r, n, err);
    if ((rc = cs_show_update(r, n->t, n->key, s->cols, ncols, n->values, &out, &why, err)) != CS_OK)
        return rc;
    if (out == CS_WRITTEN) {
        n->stored = n->values;
        return after_write(r, n, err);
    }
    if (out == CS_REFUSED) {
        *refused = true;
        n->why = why;
        return CS_OK;
    }
    if ((rc = cs_show_delete(r, n->t, n->key, err)) != CS_OK)
        return rc;
    n->stored = NULL;
    return CS_OK;
}

static int insert(struct cs_replica *r, struct cs_reach_node *n, bool *refused, struct cs_error *err)
{
    enum cs_written out;
    const char *why = NULL;
    int rc = cs_show_insert(r, n->t, n->key, n->values, &out, &why, err);

    if (rc != CS_OK)
        return rc;
    if (out == CS_WRITTEN) {
        n->stored = n->values;
        return after_write(r, n, err);
    }
    /* A collision that no index of ours told of: the application's rule, and the row waits like any loser. */
    n->why = out == CS_COLLIDES ? "unique" : why;
    *refused = true;
    return CS_OK;
}

/* Rows that go first, then changes, then rows that come: none collides then. */
static int bring_in_line(struct cs_replica *r, bool *refused, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    int rc = CS_OK;

    for (struct cs_reach_node *n = p->closed; n != NULL && rc == CS_OK; n = n->open) {
        if ((rc = cs_guard_table(r, n->t, err)) == CS_OK && !n->shown)
            rc = hide(r, n, hidden_why(n), err);
    }
    for (struct cs_reach_node *n = p->closed; n != NULL && rc == CS_OK; n = n->open)
        if (n->shown && n->stored != NULL && n->stored != n->values)
            rc = change(r, n, refused, err);
    for (struct cs_reach_node *n = p->closed; n != NULL && rc == CS_OK; n = n->open)
        if (n->shown && n->stored == NULL && n->why == NULL)
            rc = insert(r, n, refused, err);
    return rc;
}

/* Who lost for good: who lost only until a row around it was refused is none. */
static int raise_losers(struct cs_replica *r, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    int rc = CS_OK;

    for (struct cs_reach_node *n = p->closed; n != NULL && rc == CS_OK; n = n->open) {
        struct cs_conflict_in c = {
            .why = "unique", .table = n->t->id, .key = n->key, .col = CS_NO_COLUMN, .losing = n->ins
        };
        enum cs_recorded recorded = CS_RECORDED_BEFORE;

        if (!n->lost || n->shown)
            continue;
        if ((rc = cs_conflict_close(r, n->t->id, n->key, "unique", &n->ins, err)) == CS_OK)
            rc = cs_conflict_record(r, &c, &recorded, err);
        p->counts.conflicts += recorded != CS_RECORDED_BEFORE;
    }
    return rc;
}

int cs_pending_run(struct cs_replica *r, struct cs_pending_counts *counts, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    bool refused = true;
    int rc;

    *counts = (struct cs_pending_counts){ 0 };
    if (p == NULL || (p->seeds == NULL && p->freed == NULL && p->orphans == NULL))
        return CS_OK;
    rc = cs_reach(r, err);
    /* A row that the application's own rules refuse is as good as absent, so those around it are decided again. */
    while (rc == CS_OK && refused) {
        refused = false;
        if ((rc = decide(r, err)) == CS_OK)
            rc = bring_in_line(r, &refused, err);
    }
    if (rc == CS_OK)
        rc = raise_losers(r, err);
    *counts = p->counts;
    for (size_t i = 0; i < r->ntables; i++)
        cs_sql_of(&r->tables[i])->npending = 0;
    cs_pending_reset(r);
    return rc;
}
