#include "replica/reach.h"

static int no_memory(struct cs_error *err)
{
    return cs_fail(err, CS_ENOMEM, "out of memory");
}

/* FNV-1a: the bytes come from members of the workspace, and a bucket chain is walked at worst. */
static uint64_t hash_bytes(uint64_t h, struct cs_slice s)
{
    for (size_t i = 0; i < s.len; i++)
        h = (h ^ s.data[i]) * 0x100000001b3;
    return h;
}

struct cs_pending *cs_pending_of(struct cs_replica *r, struct cs_error *err)
{
    struct cs_apply *a = cs_apply_of(r);

    if (a->pending == NULL && (a->pending = calloc(1, sizeof *a->pending)) == NULL)
        no_memory(err);
    return a->pending;
}

void cs_pending_reset(struct cs_replica *r)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    struct cs_arena arena;
    struct cs_buf buf, key;

    if (p == NULL ||
        (p->seeds == NULL && p->freed == NULL && p->orphans == NULL && p->nentries == 0 && p->arena.total == 0))
        return;
    arena = p->arena;
    buf = p->buf;
    key = p->key;
    cs_arena_reset(&arena);
    *p = (struct cs_pending){ .arena = arena, .buf = buf, .key = key };
}

void cs_pending_free(struct cs_replica *r)
{
    struct cs_pending *p = cs_apply_of(r)->pending;

    if (p == NULL)
        return;
    cs_arena_free(&p->arena);
    cs_buf_free(&p->buf);
    cs_buf_free(&p->key);
    free(p);
    cs_apply_of(r)->pending = NULL;
}

static bool copy_value(struct cs_arena *a, struct cs_value *out, const struct cs_value *v)
{
    *out = *v;
    if (v->type != CS_TEXT && v->type != CS_BLOB)
        return true;
    out->u.bytes = cs_arena_copy(a, v->u.bytes);
    return out->u.bytes.data != NULL;
}

int cs_pending_add(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err)
{
    struct cs_pending *p = cs_pending_of(r, err);
    struct cs_reach_seed *s;

    if (p == NULL)
        return CS_ENOMEM;
    if ((s = cs_arena_zalloc(&p->arena, 1, sizeof *s)) == NULL)
        return no_memory(err);
    *s = (struct cs_reach_seed){ .next = p->seeds, .t = t, .key = cs_arena_copy(&p->arena, key) };
    p->seeds = s;
    return s->key.data == NULL ? no_memory(err) : CS_OK;
}

int cs_pending_freed(struct cs_replica *r, struct cs_table *t, const struct cs_value *values, struct cs_error *err)
{
    struct cs_pending *p = cs_pending_of(r, err);
    struct cs_reach_freed *f;

    if (p == NULL)
        return CS_ENOMEM;
    if ((f = cs_arena_zalloc(&p->arena, 1, sizeof *f)) == NULL ||
        (f->values = cs_arena_zalloc(&p->arena, t->ncolumns, sizeof *f->values)) == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < t->ncolumns; i++)
        if ((cs_sql_of(t)->structural[i] || t->columns[i].key_pos >= 0 || cs_sql_of(t)->partial) &&
            !copy_value(&p->arena, &f->values[i], &values[i]))
            return no_memory(err);
    f->t = t;
    f->next = p->freed;
    p->freed = f;
    return CS_OK;
}

/* ---- entries ---- */

static int intern(struct cs_pending *p, struct cs_reach_entry **out, struct cs_error *err)
{
    struct cs_slice bytes = cs_buf_slice(&p->buf);
    uint64_t hash = hash_bytes(0xcbf29ce484222325, bytes);
    struct cs_reach_entry *e;

    if (p->buf.failed)
        return no_memory(err);
    for (e = p->entries[hash % CS_REACH_BUCKETS]; e != NULL; e = e->next)
        if (e->hash == hash && cs_slice_eq(e->bytes, bytes))
            break;
    if (e == NULL) {
        if ((e = cs_arena_zalloc(&p->arena, 1, sizeof *e)) == NULL)
            return no_memory(err);
        *e = (struct cs_reach_entry){ .hash = hash, .bytes = cs_arena_copy(&p->arena, bytes), .id = p->nentries++ };
        if (e->bytes.data == NULL)
            return no_memory(err);
        e->next = p->entries[hash % CS_REACH_BUCKETS];
        p->entries[hash % CS_REACH_BUCKETS] = e;
    }
    *out = e;
    return CS_OK;
}

/* The claim of a row with these values on the primary key (0) or a unique index; NULL: it claims nothing. */
static int claim_entry(struct cs_replica *r, struct cs_table *t, uint32_t which, const struct cs_value *values,
                       struct cs_reach_entry **out, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    const struct cs_unique *u = which == 0 ? NULL : &t->uniques[which - 1];
    uint32_t n = u == NULL ? t->nkey : u->ncols;
    bool covered = true;
    int rc;

    *out = NULL;
    cs_buf_reset(&p->buf);
    cs_buf_put_u8(&p->buf, 'C');
    cs_buf_put_u64(&p->buf, (uint64_t)t->id);
    cs_buf_put_u32(&p->buf, which);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t pos = u == NULL ? t->key[i] : u->cols[i];

        if (values[pos].type == CS_NULL)
            return CS_OK;
        cs_value_put_equal(&p->buf, &values[pos], u == NULL ? t->columns[pos].collation : u->collations[i]);
    }
    if (u != NULL && u->where != NULL &&
        ((rc = cs_show_covered(r, t, which - 1, values, &covered, err)) != CS_OK || !covered))
        return rc;
    return intern(p, out, err);
}

/* The reference of foreign key `fk` of `child` to a parent with these values in its columns cols. */
static int reference_entry(struct cs_replica *r, const struct cs_table *child, uint32_t fk,
                           const struct cs_value *values, const uint32_t *cols, struct cs_reach_entry **out,
                           struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    const struct cs_table_sql *s = cs_sql_of(child);
    const struct cs_table *parent = s->parents[fk];
    int rc;

    *out = NULL;
    cs_buf_reset(&p->buf);
    cs_buf_put_u8(&p->buf, 'R');
    cs_buf_put_u64(&p->buf, (uint64_t)child->id);
    cs_buf_put_u32(&p->buf, fk);
    for (uint32_t i = 0; i < child->fks[fk].ncols; i++) {
        const struct cs_column *ref = &parent->columns[s->parent_refs[fk][i]];
        struct cs_value v;

        if (values[cols[i]].type == CS_NULL)
            return CS_OK;
        /* SQLite applies the parent column's affinity and collation to the comparison. */
        if ((rc = cs_show_affinity(r, ref->affinity, &values[cols[i]], &v, err)) != CS_OK)
            return rc;
        cs_value_put_equal(&p->buf, &v, ref->collation);
    }
    return intern(p, out, err);
}

static int link_to(struct cs_pending *p, struct cs_reach_link **list, struct cs_reach_node *n, struct cs_error *err)
{
    struct cs_reach_link *l = cs_arena_zalloc(&p->arena, 1, sizeof *l);

    if (l == NULL)
        return no_memory(err);
    *l = (struct cs_reach_link){ .next = *list, .node = n };
    *list = l;
    return CS_OK;
}

static int tie(struct cs_replica *r, struct cs_reach_node *n, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    const struct cs_table_sql *s = cs_sql_of(n->t);
    struct cs_reach_entry *e;
    int rc = CS_OK;

    n->claims = cs_arena_zalloc(&p->arena, n->t->nuniques + 1, sizeof(struct cs_reach_entry *));
    n->up = cs_arena_zalloc(&p->arena, n->t->nfks + 1, sizeof(struct cs_reach_entry *));
    n->down = cs_arena_zalloc(&p->arena, s->nchildren + 1, sizeof(struct cs_reach_entry *));
    if (n->claims == NULL || n->up == NULL || n->down == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i <= n->t->nuniques && rc == CS_OK; i++) {
        rc = claim_entry(r, n->t, i, n->values, &e, err);
        if (rc == CS_OK && e != NULL) {
            n->claims[n->nclaims++] = e;
            rc = link_to(p, &e->rows, n, err);
        }
    }
    for (uint32_t i = 0; i < n->t->nfks && rc == CS_OK; i++) {
        if (s->parents[i] == NULL || n->t->show_orphans)
            continue;
        rc = reference_entry(r, n->t, i, n->values, n->t->fks[i].cols, &n->up[i], err);
        if (rc == CS_OK && n->up[i] != NULL)
            rc = link_to(p, &n->up[i]->kids, n, err);
    }
    for (uint32_t i = 0; i < s->nchildren && rc == CS_OK; i++) {
        const struct cs_child *c = &s->children[i];

        if (c->table->show_orphans)
            continue;
        rc = reference_entry(r, c->table, c->fk, n->values, c->refs, &n->down[i], err);
        if (rc == CS_OK && n->down[i] != NULL)
            rc = link_to(p, &n->down[i]->rows, n, err);
    }
    return rc;
}

/* ---- nodes ---- */

static const struct cs_value *cell_of(const struct cs_reach_node *n, uint32_t id)
{
    for (uint32_t i = 0; i < n->ncells; i++)
        if (n->cells[i].col == id)
            return &n->cells[i].value;
    return NULL;
}

/* The values that the row would show, from its merged cells. */
static int compute_values(struct cs_replica *r, struct cs_reach_node *n, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    const struct cs_table *t = n->t;
    struct cs_value *parts = cs_arena_zalloc(&p->arena, t->nkey, sizeof *parts);
    int rc;

    n->values = cs_arena_zalloc(&p->arena, t->ncolumns, sizeof *n->values);
    if (parts == NULL || n->values == NULL)
        return no_memory(err);
    if (!cs_show_key(t, n->key, parts)) {
        n->why = "key";
        return CS_OK;
    }
    for (uint32_t i = 0; i < t->ncolumns; i++) {
        const struct cs_column *c = &t->columns[i];
        const struct cs_value *cell = c->id == CS_NO_COLUMN ? NULL : cell_of(n, c->id);
        bool aside;

        rc = cs_show_value(r, t, i, cell, c->key_pos >= 0 ? &parts[c->key_pos] : NULL, &n->values[i], &aside, &n->why,
                           err);
        if (rc != CS_OK)
            return rc;
    }
    return CS_OK;
}

static int read_stored(struct cs_replica *r, struct cs_reach_node *n, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    int rc = cs_table_read(r, n->t, n->key, err);

    if (rc == SQLITE_DONE)
        return CS_OK;
    if (rc != SQLITE_ROW)
        return rc;
    if ((n->stored = cs_arena_zalloc(&p->arena, n->t->ncolumns, sizeof *n->stored)) == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < n->t->ncolumns; i++) {
        struct cs_value v;

        cs_value_from_column(&v, n->t->read, (int)i);
        if (!copy_value(&p->arena, &n->stored[i], &v))
            return no_memory(err);
    }
    sqlite3_reset(n->t->read);
    return CS_OK;
}

/* Reads the merged row: versions from sync_rows, values from sync_hidden and the application's table. */
static int read_merged(struct cs_replica *r, struct cs_reach_node *n, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    struct cs_op_cell *hidden;
    uint32_t nhidden, h = 0;
    int64_t unsent;
    int rc = cs_rows_get(r, n->t->id, n->key, &r->row, &unsent, err);

    if (rc == CS_ENOTFOUND || (rc == CS_OK && !cs_row_lives(&r->row)))
        return CS_OK;
    if (rc != CS_OK)
        return rc;
    n->live = true;
    n->ins = r->row.ins;
    n->newest = cs_row_newest(&r->row);
    cs_buf_reset(&p->buf);
    rc = cs_hidden_row_reason(r, n->t->id, n->key, &p->buf, err);
    if (rc == CS_OK) {
        cs_buf_put_u8(&p->buf, 0);
        n->was = p->buf.failed ? NULL : cs_arena_str(&p->arena, (const char *)p->buf.data);
        if (n->was == NULL)
            return no_memory(err);
    } else if (rc != CS_ENOTFOUND || (rc = read_stored(r, n, err)) != CS_OK) {
        return rc;
    }
    if (n->was == NULL && n->stored == NULL) {
        n->live = false; /* the application took it out, and that is not sealed yet */
        return CS_OK;
    }
    if ((rc = cs_hidden_cells(r, &p->arena, n->t->id, n->key, &hidden, &nhidden, err)) != CS_OK)
        return rc;
    if ((n->cells = cs_arena_zalloc(&p->arena, r->row.ncells + 1, sizeof *n->cells)) == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < r->row.ncells; i++) {
        uint32_t id = r->row.cells[i].col, pos = cs_column_position(n->t, id);

        while (h < nhidden && hidden[h].col < id)
            h++;
        if (h < nhidden && hidden[h].col == id)
            n->cells[n->ncells++] = hidden[h];
        else if (n->stored != NULL && pos != CS_NO_COLUMN)
            n->cells[n->ncells++] = (struct cs_op_cell){ .col = id, .value = n->stored[pos] };
    }
    return CS_OK;
}

static int load(struct cs_replica *r, struct cs_table *t, struct cs_slice key, bool touched, struct cs_reach_node **out,
                struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    uint64_t hash = hash_bytes((uint64_t)t->id * 0x9e3779b97f4a7c15, key);
    struct cs_reach_node *n;
    int rc;

    for (n = p->nodes[hash % CS_REACH_BUCKETS]; n != NULL; n = n->next)
        if (n->hash == hash && n->t == t && cs_slice_eq(n->key, key)) {
            *out = n;
            return CS_OK;
        }
    if ((n = cs_arena_zalloc(&p->arena, 1, sizeof *n)) == NULL)
        return no_memory(err);
    *n = (struct cs_reach_node){ .t = t, .hash = hash, .key = cs_arena_copy(&p->arena, key), .touched = touched };
    if (n->key.data == NULL)
        return no_memory(err);
    n->next = p->nodes[hash % CS_REACH_BUCKETS];
    p->nodes[hash % CS_REACH_BUCKETS] = n;
    *out = n;
    if ((rc = read_merged(r, n, err)) != CS_OK || !n->live)
        return rc;
    if (n->stored != NULL && !touched)
        n->values = n->stored;
    else if ((rc = compute_values(r, n, err)) != CS_OK)
        return rc;
    return n->why == NULL ? tie(r, n, err) : CS_OK;
}

static void enqueue(struct cs_pending *p, struct cs_reach_node *n)
{
    if (n->closed || !n->live)
        return;
    n->closed = true;
    n->open = p->open;
    p->open = n;
}

/* The row under this statement's key columns. Two keys of the workspace can be one under this schema (keys are folded
 * by the collation here, and were not where the row comes from): then the literal key is the row's own. */
static int load_found(struct cs_replica *r, struct cs_table *t, sqlite3_stmt *s, struct cs_reach_node **out,
                      struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    int rc;

    *out = NULL;
    cs_buf_reset(&p->key);
    if (!cs_table_key(t, s, 0, &p->key))
        return CS_OK;
    if (p->key.failed)
        return no_memory(err);
    if ((rc = load(r, t, cs_buf_slice(&p->key), false, out, err)) != CS_OK || ((*out)->live && (*out)->was == NULL))
        return rc;
    cs_buf_reset(&p->key);
    for (uint32_t i = 0; i < t->nkey; i++) {
        struct cs_value v;

        cs_value_from_column(&v, s, (int)i);
        cs_key_put(&p->key, &v, CS_BINARY);
    }
    return p->key.failed ? no_memory(err) : load(r, t, cs_buf_slice(&p->key), false, out, err);
}

/* Loads the rows of t that s finds for the values at positions cols; they connect themselves to their entries. */
static int search(struct cs_replica *r, struct cs_table *t, sqlite3_stmt *s, const struct cs_value *values,
                  const uint32_t *cols, uint32_t n, struct cs_error *err)
{
    struct cs_reach_node *found;
    int step, rc = CS_OK;

    for (uint32_t i = 0; i < n; i++)
        if (cs_value_bind(s, (int)i + 1, &values[cols[i]]) != SQLITE_OK)
            return cs_db_fail(r, err, "cannot bind a value");
    while ((step = sqlite3_step(s)) == SQLITE_ROW && rc == CS_OK)
        rc = load_found(r, t, s, &found, err);
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot search an application's table");
    sqlite3_reset(s);
    return rc;
}

static int search_claim(struct cs_replica *r, struct cs_table *t, uint32_t which, const struct cs_value *values,
                        struct cs_reach_entry *e, struct cs_error *err)
{
    if (e->asked_rows)
        return CS_OK;
    e->asked_rows = true;
    if (which == 0)
        return search(r, t, cs_sql_of(t)->claimants[0], values, t->key, t->nkey, err);
    return search(r, t, cs_sql_of(t)->claimants[which], values, t->uniques[which - 1].cols, t->uniques[which - 1].ncols,
                  err);
}

static int search_kids(struct cs_replica *r, struct cs_child *c, const struct cs_value *values,
                       struct cs_reach_entry *e, struct cs_error *err)
{
    if (e->asked_kids)
        return CS_OK;
    e->asked_kids = true;
    return search(r, c->table, c->find, values, c->refs, c->table->fks[c->fk].ncols, err);
}

static int search_parents(struct cs_replica *r, struct cs_reach_node *n, uint32_t fk, struct cs_error *err)
{
    const struct cs_table_sql *s = cs_sql_of(n->t);
    struct cs_reach_entry *e = n->up[fk];

    if (e->asked_rows)
        return CS_OK;
    e->asked_rows = true;
    return search(r, s->parents[fk], s->find_parent[fk], n->values, n->t->fks[fk].cols, n->t->fks[fk].ncols, err);
}

static void enqueue_all(struct cs_pending *p, const struct cs_reach_link *l)
{
    for (; l != NULL; l = l->next)
        enqueue(p, l->node);
}

/* ---- the closure ---- */

static int reach_claims(struct cs_replica *r, struct cs_table *t, const struct cs_value *values, struct cs_error *err)
{
    struct cs_reach_entry *e;
    int rc = CS_OK;

    for (uint32_t i = 0; i <= t->nuniques && rc == CS_OK; i++) {
        if ((rc = claim_entry(r, t, i, values, &e, err)) != CS_OK || e == NULL)
            continue;
        rc = search_claim(r, t, i, values, e, err);
        enqueue_all(cs_apply_of(r)->pending, e->rows);
    }
    return rc;
}

static int reach_children(struct cs_replica *r, struct cs_table *t, const struct cs_value *values, struct cs_error *err)
{
    struct cs_table_sql *s = cs_sql_of(t);
    struct cs_reach_entry *e;
    int rc = CS_OK;

    for (uint32_t i = 0; i < s->nchildren && rc == CS_OK; i++) {
        struct cs_child *c = &s->children[i];

        if (c->table->show_orphans)
            continue;
        if ((rc = reference_entry(r, c->table, c->fk, values, c->refs, &e, err)) != CS_OK || e == NULL)
            continue;
        rc = search_kids(r, c, values, e, err);
        enqueue_all(cs_apply_of(r)->pending, e->kids);
    }
    return rc;
}

static int reach_parents(struct cs_replica *r, struct cs_reach_node *n, struct cs_error *err)
{
    const struct cs_table_sql *s = cs_sql_of(n->t);
    int rc = CS_OK;

    for (uint32_t i = 0; i < n->t->nfks && rc == CS_OK; i++) {
        if (n->up[i] == NULL)
            continue;
        rc = search_parents(r, n, i, err);
        if (cs_sql_of(s->parents[i])->circular)
            enqueue_all(cs_apply_of(r)->pending, n->up[i]->rows);
    }
    return rc;
}

static int close_over(struct cs_replica *r, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    int rc = CS_OK;

    while (p->open != NULL && rc == CS_OK) {
        struct cs_reach_node *n = p->open;

        p->open = n->open;
        n->open = p->closed;
        p->closed = n;
        p->nclosed++;
        if (n->stored != NULL && n->stored != n->values) { /* what it showed until now may be freed */
            if ((rc = reach_claims(r, n->t, n->stored, err)) == CS_OK)
                rc = reach_children(r, n->t, n->stored, err);
        }
        if (rc != CS_OK || n->why != NULL)
            continue;
        if ((rc = reach_claims(r, n->t, n->values, err)) == CS_OK &&
            (rc = reach_children(r, n->t, n->values, err)) == CS_OK)
            rc = reach_parents(r, n, err);
    }
    return rc;
}

/* The hidden rows of the families that something changed in: no index of the application's finds them. */
static int load_hidden(struct cs_replica *r, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    bool *wanted = cs_arena_zalloc(&p->arena, r->ntables + 1, sizeof *wanted); /* by family */
    struct cs_slice *keys;
    struct cs_reach_node *n;
    size_t nkeys;
    int rc = CS_OK;

    if (wanted == NULL)
        return no_memory(err);
    for (const struct cs_reach_seed *s = p->seeds; s != NULL; s = s->next)
        wanted[cs_sql_of(s->t)->family] = true;
    for (const struct cs_reach_orphans *o = p->orphans; o != NULL; o = o->next)
        wanted[cs_sql_of(o->t)->family] = true;
    for (const struct cs_reach_freed *f = p->freed; f != NULL; f = f->next)
        wanted[cs_sql_of(f->t)->family] = true;
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++) {
        struct cs_table *t = &r->tables[i];

        if (t->nhidden == 0 || !wanted[cs_sql_of(t)->family])
            continue;
        rc = cs_hidden_keys(r, &p->arena, CS_OWN_HIDDEN_ROWS, t->id, &keys, &nkeys, err);
        for (size_t k = 0; rc == CS_OK && k < nkeys; k++) {
            rc = load(r, t, keys[k], true, &n, err);
            if (rc == CS_OK && p->all_hidden)
                enqueue(p, n);
        }
    }
    return rc;
}

int cs_pending_freed_hidden(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err)
{
    struct cs_reach_node n = { .t = t, .key = key };
    struct cs_pending *p = cs_pending_of(r, err);
    int rc;

    if (p == NULL)
        return CS_ENOMEM;
    if ((rc = cs_hidden_cells(r, &p->arena, t->id, key, &n.cells, &n.ncells, err)) != CS_OK)
        return rc;
    if ((rc = compute_values(r, &n, err)) != CS_OK || n.why != NULL)
        return rc;
    return cs_pending_freed(r, t, n.values, err);
}

int cs_pending_orphans(struct cs_replica *r, struct cs_table *t, uint32_t fk, struct cs_error *err)
{
    struct cs_pending *p = cs_pending_of(r, err);
    struct cs_reach_orphans *o;

    if (p == NULL)
        return CS_ENOMEM;
    if (cs_sql_of(t)->parents[fk] == NULL || t->show_orphans)
        return CS_OK;
    for (o = p->orphans; o != NULL; o = o->next)
        if (o->t == t && o->fk == fk)
            return CS_OK;
    if ((o = cs_arena_zalloc(&p->arena, 1, sizeof *o)) == NULL)
        return no_memory(err);
    *o = (struct cs_reach_orphans){ .next = p->orphans, .t = t, .fk = fk };
    p->orphans = o;
    return CS_OK;
}

/* ---- all of it ---- */

static int find_orphans(struct cs_replica *r, struct cs_table *t, uint32_t fk, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    struct cs_reach_node *n;
    int step = SQLITE_DONE, rc = cs_show_find_orphans(r, t, fk, &s, err);

    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW)
        if ((rc = load_found(r, t, s, &n, err)) == CS_OK && n != NULL)
            enqueue(cs_apply_of(r)->pending, n);
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot look for orphans");
    sqlite3_finalize(s);
    return rc;
}

static int seed_all(struct cs_replica *r, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    struct cs_reach_node *n;
    int rc = CS_OK;

    for (struct cs_reach_seed *s = p->seeds; s != NULL && rc == CS_OK; s = s->next) {
        if ((rc = load(r, s->t, s->key, true, &n, err)) == CS_OK)
            enqueue(p, n);
    }
    if (rc == CS_OK)
        rc = load_hidden(r, err);
    for (struct cs_reach_freed *f = p->freed; f != NULL && rc == CS_OK; f = f->next)
        if ((rc = reach_claims(r, f->t, f->values, err)) == CS_OK)
            rc = reach_children(r, f->t, f->values, err);
    for (struct cs_reach_orphans *o = p->orphans; o != NULL && rc == CS_OK; o = o->next)
        rc = find_orphans(r, o->t, o->fk, err);
    return rc;
}

int cs_reach(struct cs_replica *r, struct cs_error *err)
{
    int rc = seed_all(r, err);

    return rc == CS_OK ? close_over(r, err) : rc;
}
