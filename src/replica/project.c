#include "crdt/project.h"
#include "replica/apply.h"

/* Which rows are shown, decided again where something changed. Rows to be decided are nodes; what connects them are
 * entries: a claim (rows that cannot be shown together), or a reference (children, and their possible parents).
 *
 * The rows that a change can reach: claimants of the same keys and children, transitively. The state of all others
 * stands, their parents' too: without circles of foreign keys a row depends only on its parents and on older claimants.
 * In a table that is in such a circle, or below one, a row's fate can depend on which of the waiting rows goes first,
 * so there the closure takes in the parents as well. */

struct link {
    struct link *next;
    struct node *node;
};

struct entry {
    struct entry *next; /* in its bucket */
    struct cs_slice bytes;
    uint64_t hash;
    struct link *rows; /* claimants, or possible parents */
    struct link *kids; /* children that reference them */
    uint32_t id;
    bool asked_rows, asked_kids; /* the application's table was searched for them */
};

struct node {
    struct node *next; /* in its bucket */
    struct node *open; /* in the work list, then in the list of those to decide */
    struct cs_table *t;
    struct cs_slice key;
    uint64_t hash;
    struct cs_version ins, newest; /* newest: of all its cells */
    struct cs_op_cell *cells;      /* the merged values, ascending by column number */
    uint32_t ncells;
    struct cs_value *stored; /* the row in the application's table, or NULL */
    struct cs_value *values; /* what it shows, if it is shown */
    const char *why;         /* it cannot be shown, whatever the others do */
    const char *was;         /* the reason it was hidden for, or NULL */
    struct entry **claims, **up, **down;
    uint32_t nclaims;
    uint32_t index;
    bool live, touched, closed, shown;
    bool lost; /* a key of its is taken, and was not when this run began */
};

struct seed {
    struct seed *next;
    struct cs_table *t;
    struct cs_slice key;
};

struct freed {
    struct freed *next;
    struct cs_table *t;
    struct cs_value *values;
};

/* A foreign key whose shown rows without a parent are to be looked for. */
struct orphans {
    struct orphans *next;
    struct cs_table *t;
    uint32_t fk;
};

enum { BUCKETS = 4096 };

struct cs_pending {
    struct cs_arena arena; /* of the running batch */
    struct seed *seeds;
    struct freed *freed;
    struct orphans *orphans;
    struct node *nodes[BUCKETS];
    struct entry *entries[BUCKETS];
    struct node *open, *closed;
    bool all_hidden; /* every hidden row of the families concerned is decided again */
    uint32_t nentries, nclosed;
    struct cs_buf buf, key;
    struct cs_pending_counts counts;
};

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

/* NULL: out of memory. */
static struct cs_pending *pending(struct cs_replica *r, struct cs_error *err)
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
    struct cs_pending *p = pending(r, err);
    struct seed *s;

    if (p == NULL)
        return CS_ENOMEM;
    if ((s = cs_arena_zalloc(&p->arena, 1, sizeof *s)) == NULL)
        return no_memory(err);
    *s = (struct seed){ .next = p->seeds, .t = t, .key = cs_arena_copy(&p->arena, key) };
    p->seeds = s;
    return s->key.data == NULL ? no_memory(err) : CS_OK;
}

int cs_pending_freed(struct cs_replica *r, struct cs_table *t, const struct cs_value *values, struct cs_error *err)
{
    struct cs_pending *p = pending(r, err);
    struct freed *f;

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

static int intern(struct cs_pending *p, struct entry **out, struct cs_error *err)
{
    struct cs_slice bytes = cs_buf_slice(&p->buf);
    uint64_t hash = hash_bytes(0xcbf29ce484222325, bytes);
    struct entry *e;

    if (p->buf.failed)
        return no_memory(err);
    for (e = p->entries[hash % BUCKETS]; e != NULL; e = e->next)
        if (e->hash == hash && cs_slice_eq(e->bytes, bytes))
            break;
    if (e == NULL) {
        if ((e = cs_arena_zalloc(&p->arena, 1, sizeof *e)) == NULL)
            return no_memory(err);
        *e = (struct entry){ .hash = hash, .bytes = cs_arena_copy(&p->arena, bytes), .id = p->nentries++ };
        if (e->bytes.data == NULL)
            return no_memory(err);
        e->next = p->entries[hash % BUCKETS];
        p->entries[hash % BUCKETS] = e;
    }
    *out = e;
    return CS_OK;
}

/* The claim of a row with these values on the primary key (0) or a unique index; NULL: it claims nothing. */
static int claim_entry(struct cs_replica *r, struct cs_table *t, uint32_t which, const struct cs_value *values,
                       struct entry **out, struct cs_error *err)
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
                           const struct cs_value *values, const uint32_t *cols, struct entry **out,
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

static int link_to(struct cs_pending *p, struct link **list, struct node *n, struct cs_error *err)
{
    struct link *l = cs_arena_zalloc(&p->arena, 1, sizeof *l);

    if (l == NULL)
        return no_memory(err);
    *l = (struct link){ .next = *list, .node = n };
    *list = l;
    return CS_OK;
}

static int tie(struct cs_replica *r, struct node *n, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    const struct cs_table_sql *s = cs_sql_of(n->t);
    struct entry *e;
    int rc = CS_OK;

    n->claims = cs_arena_zalloc(&p->arena, n->t->nuniques + 1, sizeof(struct entry *));
    n->up = cs_arena_zalloc(&p->arena, n->t->nfks + 1, sizeof(struct entry *));
    n->down = cs_arena_zalloc(&p->arena, s->nchildren + 1, sizeof(struct entry *));
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

static const struct cs_value *cell_of(const struct node *n, uint32_t id)
{
    for (uint32_t i = 0; i < n->ncells; i++)
        if (n->cells[i].col == id)
            return &n->cells[i].value;
    return NULL;
}

/* The values that the row would show, from its merged cells. */
static int compute_values(struct cs_replica *r, struct node *n, struct cs_error *err)
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

static int read_stored(struct cs_replica *r, struct node *n, struct cs_error *err)
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
static int read_merged(struct cs_replica *r, struct node *n, struct cs_error *err)
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
    n->ins = n->newest = r->row.ins;
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
        uint32_t id = r->row.cells[i].col, pos = id < n->t->ncolumn_ids ? n->t->by_id[id] : CS_NO_COLUMN;

        if (cs_version_cmp(&r->row.cells[i].v, &n->newest) > 0)
            n->newest = r->row.cells[i].v;
        while (h < nhidden && hidden[h].col < id)
            h++;
        if (h < nhidden && hidden[h].col == id)
            n->cells[n->ncells++] = hidden[h];
        else if (n->stored != NULL && pos != CS_NO_COLUMN)
            n->cells[n->ncells++] = (struct cs_op_cell){ .col = id, .value = n->stored[pos] };
    }
    return CS_OK;
}

static int load(struct cs_replica *r, struct cs_table *t, struct cs_slice key, bool touched, struct node **out,
                struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    uint64_t hash = hash_bytes((uint64_t)t->id * 0x9e3779b97f4a7c15, key);
    struct node *n;
    int rc;

    for (n = p->nodes[hash % BUCKETS]; n != NULL; n = n->next)
        if (n->hash == hash && n->t == t && cs_slice_eq(n->key, key)) {
            *out = n;
            return CS_OK;
        }
    if ((n = cs_arena_zalloc(&p->arena, 1, sizeof *n)) == NULL)
        return no_memory(err);
    *n = (struct node){ .t = t, .hash = hash, .key = cs_arena_copy(&p->arena, key), .touched = touched };
    if (n->key.data == NULL)
        return no_memory(err);
    n->next = p->nodes[hash % BUCKETS];
    p->nodes[hash % BUCKETS] = n;
    *out = n;
    if ((rc = read_merged(r, n, err)) != CS_OK || !n->live)
        return rc;
    if (n->stored != NULL && !touched)
        n->values = n->stored;
    else if ((rc = compute_values(r, n, err)) != CS_OK)
        return rc;
    return n->why == NULL ? tie(r, n, err) : CS_OK;
}

static void enqueue(struct cs_pending *p, struct node *n)
{
    if (n->closed || !n->live)
        return;
    n->closed = true;
    n->open = p->open;
    p->open = n;
}

/* The row under this statement's key columns. Two keys of the workspace can be one under this schema (keys are folded
 * by the collation here, and were not where the row comes from): then the literal key is the row's own. */
static int load_found(struct cs_replica *r, struct cs_table *t, sqlite3_stmt *s, struct node **out,
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
    struct node *found;
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
                        struct entry *e, struct cs_error *err)
{
    if (e->asked_rows)
        return CS_OK;
    e->asked_rows = true;
    if (which == 0)
        return search(r, t, cs_sql_of(t)->claimants[0], values, t->key, t->nkey, err);
    return search(r, t, cs_sql_of(t)->claimants[which], values, t->uniques[which - 1].cols, t->uniques[which - 1].ncols,
                  err);
}

static int search_kids(struct cs_replica *r, struct cs_child *c, const struct cs_value *values, struct entry *e,
                       struct cs_error *err)
{
    if (e->asked_kids)
        return CS_OK;
    e->asked_kids = true;
    return search(r, c->table, c->find, values, c->refs, c->table->fks[c->fk].ncols, err);
}

static int search_parents(struct cs_replica *r, struct node *n, uint32_t fk, struct cs_error *err)
{
    const struct cs_table_sql *s = cs_sql_of(n->t);
    struct entry *e = n->up[fk];

    if (e->asked_rows)
        return CS_OK;
    e->asked_rows = true;
    return search(r, s->parents[fk], s->find_parent[fk], n->values, n->t->fks[fk].cols, n->t->fks[fk].ncols, err);
}

static void enqueue_all(struct cs_pending *p, const struct link *l)
{
    for (; l != NULL; l = l->next)
        enqueue(p, l->node);
}

/* ---- the closure ---- */

static int reach_claims(struct cs_replica *r, struct cs_table *t, const struct cs_value *values, struct cs_error *err)
{
    struct entry *e;
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
    struct entry *e;
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

static int reach_parents(struct cs_replica *r, struct node *n, struct cs_error *err)
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
        struct node *n = p->open;

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
    struct node *n;
    size_t nkeys;
    int rc = CS_OK;

    if (wanted == NULL)
        return no_memory(err);
    for (const struct seed *s = p->seeds; s != NULL; s = s->next)
        wanted[cs_sql_of(s->t)->family] = true;
    for (const struct orphans *o = p->orphans; o != NULL; o = o->next)
        wanted[cs_sql_of(o->t)->family] = true;
    for (const struct freed *f = p->freed; f != NULL; f = f->next)
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

/* ---- deciding ---- */

/* Who could be the parent of n by foreign key fk, into set. *skip: one of them is shown, whatever is decided here. */
static int parent_set(struct cs_pending *p, const struct node *n, uint32_t fk, struct cs_parents *set, bool *skip,
                      struct cs_error *err)
{
    uint32_t count = 0, *rows;

    *skip = false;
    for (const struct link *l = n->up[fk]->rows; l != NULL; l = l->next)
        count++;
    if ((rows = cs_arena_zalloc(&p->arena, (size_t)count + 1, sizeof *rows)) == NULL)
        return no_memory(err);
    *set = (struct cs_parents){ .rows = rows };
    for (const struct link *l = n->up[fk]->rows; l != NULL; l = l->next) {
        if (l->node->why != NULL)
            continue;
        if (l->node->closed)
            rows[set->n++] = l->node->index;
        else if (l->node->was == NULL)
            *skip = true;
    }
    return CS_OK;
}

static int describe(struct cs_pending *p, struct node *n, struct cs_entity *e, struct cs_parents *sets, uint32_t *nsets,
                    struct cs_error *err)
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

    for (struct node *n = p->closed; n != NULL; n = n->open) {
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
    for (struct node *n = p->closed; n != NULL && rc == CS_OK; n = n->open)
        if (n->why == NULL)
            rc = describe(p, n, &entities[n->index], sets, &in.nsets, err);
    if (rc != CS_OK)
        return rc;
    rc = cs_decide(&in, shown, &p->arena);
    if (rc != CS_OK)
        return cs_fail(err, rc, rc == CS_ENOMEM ? "out of memory" : "the rows to decide do not fit together");
    for (struct node *n = p->closed; n != NULL; n = n->open)
        if (n->why == NULL)
            n->shown = shown[n->index];
    return CS_OK;
}

/* Why a row that could be shown is not: a parent is missing, or else a key of its is taken. */
static const char *hidden_why(const struct node *n)
{
    if (n->why != NULL)
        return n->why;
    for (uint32_t i = 0; i < n->t->nfks; i++) {
        bool found = n->up[i] == NULL;

        for (const struct link *l = found ? NULL : n->up[i]->rows; l != NULL && !found; l = l->next)
            found = l->node->why == NULL && (l->node->closed ? l->node->shown : l->node->was == NULL);
        if (!found)
            return "fk";
    }
    return "unique";
}

int cs_pending_freed_hidden(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err)
{
    struct node n = { .t = t, .key = key };
    struct cs_pending *p = pending(r, err);
    int rc;

    if (p == NULL)
        return CS_ENOMEM;
    if ((rc = cs_hidden_cells(r, &p->arena, t->id, key, &n.cells, &n.ncells, err)) != CS_OK)
        return rc;
    if ((rc = compute_values(r, &n, err)) != CS_OK || n.why != NULL)
        return rc;
    return cs_pending_freed(r, t, n.values, err);
}

/* ---- bringing the tables in line ---- */

static int raise_conflict(struct cs_replica *r, const struct node *n, const char *why, const struct cs_version *losing,
                          struct cs_error *err)
{
    struct cs_conflict_in c = { .why = why, .table = n->t->id, .key = n->key, .col = CS_NO_COLUMN, .losing = *losing };

    int rc = cs_conflict_record(r, &c, err);

    cs_apply_of(r)->pending->counts.conflicts += rc == CS_OK && sqlite3_changes(r->db) > 0;
    return rc;
}

static int hide(struct cs_replica *r, struct node *n, const char *why, struct cs_error *err)
{
    struct cs_pending *p = cs_apply_of(r)->pending;
    bool had_lost = n->was != NULL && strcmp(n->was, "unique") == 0;
    int rc = CS_OK;

    if (n->was != NULL && strcmp(n->was, why) == 0)
        return CS_OK;
    n->lost = !had_lost && strcmp(why, "unique") == 0;
    if (n->was == NULL || strcmp(n->was, "pending") == 0)
        p->counts.hidden++;
    if (n->stored != NULL) {
        if ((rc = cs_show_delete(r, n->t, n->key, err)) != CS_OK)
            return rc;
        n->stored = NULL;
        p->counts.changed++;
        if (n->t->has_check && (rc = cs_conflict_close(r, n->t->id, n->key, "check", err)) != CS_OK)
            return rc;
    }
    for (uint32_t i = 0; n->was == NULL && i < n->ncells && rc == CS_OK; i++)
        rc = cs_hidden_put_cell(r, n->t->id, n->key, n->cells[i].col, &n->cells[i].value, err);
    if (rc == CS_OK)
        rc = cs_hidden_put_row(r, n->t->id, n->key, why, err);
    n->was = why;
    return rc == CS_OK && had_lost ? cs_conflict_close(r, n->t->id, n->key, "unique", err) : rc;
}

/* After the row was written: cells that the table shows leave sync_hidden, the others are kept there. */
static int put_aside(struct cs_replica *r, struct node *n, struct cs_error *err)
{
    int rc = CS_OK;

    if (n->was != NULL)
        rc = cs_hidden_drop_row(r, n->t->id, n->key, err);
    n->was = NULL;
    for (uint32_t i = 0; i < n->ncells && rc == CS_OK; i++) {
        uint32_t id = n->cells[i].col, pos = id < n->t->ncolumn_ids ? n->t->by_id[id] : CS_NO_COLUMN;

        if (pos != CS_NO_COLUMN && cs_same_value(&n->cells[i].value, &n->values[pos]))
            rc = cs_hidden_drop_cell(r, n->t->id, n->key, id, err);
        else
            rc = cs_hidden_put_cell(r, n->t->id, n->key, id, &n->cells[i].value, err);
    }
    return rc;
}

static int after_write(struct cs_replica *r, struct node *n, struct cs_error *err)
{
    bool holds = true;
    int rc = put_aside(r, n, err);

    cs_apply_of(r)->pending->counts.changed++;
    if (rc == CS_OK && n->t->has_check && (rc = cs_show_check(r, n->t, n->values, &holds, err)) == CS_OK)
        rc = cs_conflict_close(r, n->t->id, n->key, "check", err);
    return rc == CS_OK && !holds ? raise_conflict(r, n, "check", &n->newest, err) : rc;
}

/* A shown row whose merged values changed. *aside: another row still holds a key of it; it is taken out, to be
 * inserted again when all have let go. */
static int change(struct cs_replica *r, struct node *n, bool *refused, struct cs_error *err)
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
        return put_aside(r, n, err);
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

static int insert(struct cs_replica *r, struct node *n, bool *refused, struct cs_error *err)
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

    for (struct node *n = p->closed; n != NULL && rc == CS_OK; n = n->open) {
        if ((rc = cs_guard_table(r, n->t, err)) == CS_OK && !n->shown)
            rc = hide(r, n, hidden_why(n), err);
    }
    for (struct node *n = p->closed; n != NULL && rc == CS_OK; n = n->open)
        if (n->shown && n->stored != NULL && n->stored != n->values)
            rc = change(r, n, refused, err);
    for (struct node *n = p->closed; n != NULL && rc == CS_OK; n = n->open)
        if (n->shown && n->stored == NULL && n->why == NULL)
            rc = insert(r, n, refused, err);
    return rc;
}

/* Who lost for good: who lost only until a row around it was refused is none. */
static int raise_losers(struct cs_replica *r, struct cs_error *err)
{
    int rc = CS_OK;

    for (struct node *n = cs_apply_of(r)->pending->closed; n != NULL && rc == CS_OK; n = n->open)
        if (n->lost && !n->shown)
            rc = raise_conflict(r, n, "unique", &n->ins, err);
    return rc;
}

static int find_orphans(struct cs_replica *r, struct cs_table *t, uint32_t fk, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    struct node *n;
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
    struct node *n;
    int rc = CS_OK;

    for (struct seed *s = p->seeds; s != NULL && rc == CS_OK; s = s->next) {
        if ((rc = load(r, s->t, s->key, true, &n, err)) == CS_OK)
            enqueue(p, n);
    }
    if (rc == CS_OK)
        rc = load_hidden(r, err);
    for (struct freed *f = p->freed; f != NULL && rc == CS_OK; f = f->next)
        if ((rc = reach_claims(r, f->t, f->values, err)) == CS_OK)
            rc = reach_children(r, f->t, f->values, err);
    for (struct orphans *o = p->orphans; o != NULL && rc == CS_OK; o = o->next)
        rc = find_orphans(r, o->t, o->fk, err);
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
    if ((rc = seed_all(r, err)) == CS_OK)
        rc = close_over(r, err);
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

/* ---- after sealing, and after a change of schema ---- */

bool cs_family_waits(const struct cs_replica *r, const struct cs_table *t)
{
    for (size_t i = 0; i < r->ntables; i++) {
        const struct cs_table *x = &r->tables[i];

        if (cs_sql_of(x)->family == cs_sql_of(t)->family && x->nhidden > cs_sql_of(x)->npending)
            return true;
    }
    return false;
}

static int ask_orphans(struct cs_replica *r, struct cs_table *t, uint32_t fk, struct cs_error *err)
{
    struct cs_pending *p = pending(r, err);
    struct orphans *o;

    if (p == NULL)
        return CS_ENOMEM;
    if (cs_sql_of(t)->parents[fk] == NULL || t->show_orphans)
        return CS_OK;
    for (o = p->orphans; o != NULL; o = o->next)
        if (o->t == t && o->fk == fk)
            return CS_OK;
    if ((o = cs_arena_zalloc(&p->arena, 1, sizeof *o)) == NULL)
        return no_memory(err);
    *o = (struct orphans){ .next = p->orphans, .t = t, .fk = fk };
    p->orphans = o;
    return CS_OK;
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
            rc = ask_orphans(r, c->table, c->fk, err);
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
        struct cs_pending *p = pending(r, err);

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
    int rc = cs_apply_ready(r, err);

    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++) {
        struct cs_table *t = &r->tables[i];

        if ((rc = add_all(r, t, CS_OWN_HIDDEN_ROWS, err)) == CS_OK)
            rc = add_all(r, t, CS_OWN_HIDDEN_SHOWN, err);
        for (uint32_t k = 0; k < t->nfks && rc == CS_OK; k++)
            rc = ask_orphans(r, t, k, err);
    }
    return rc == CS_OK ? cs_pending_run(r, &counts, err) : rc;
}
