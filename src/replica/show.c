#include <math.h>

#include "base/sqlite_code.h"
#include "replica/apply.h"

/* ---- statements ---- */

static int aside_fail(struct cs_replica *r, struct cs_error *err)
{
    sqlite3 *aside = cs_apply_of(r)->aside;

    return cs_fail(err, cs_sqlite_code(sqlite3_errcode(aside)), "cannot examine a row: %s", sqlite3_errmsg(aside));
}

static int prepare_on(struct cs_replica *r, sqlite3 *db, sqlite3_stmt **out, struct cs_buf *sql, struct cs_error *err)
{
    int rc;

    if (sql->failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    else if (sqlite3_prepare_v3(db, (const char *)sql->data, (int)sql->len, SQLITE_PREPARE_PERSISTENT, out, NULL) !=
             SQLITE_OK)
        rc = db == r->db ? cs_db_fail(r, err, "cannot prepare a statement on an application's table")
                         : aside_fail(r, err);
    else
        rc = CS_OK;
    cs_buf_free(sql);
    return rc;
}

static int prepare(struct cs_replica *r, sqlite3_stmt **out, struct cs_buf *sql, struct cs_error *err)
{
    return prepare_on(r, r->db, out, sql, err);
}

static void put_column(struct cs_buf *sql, const struct cs_table *t, uint32_t pos)
{
    cs_put_identifier(sql, t->columns[pos].name);
}

static void put_table(struct cs_buf *sql, const struct cs_table *t)
{
    cs_buf_put_str(sql, "main.");
    cs_put_identifier(sql, t->name);
}

static void put_key_columns(struct cs_buf *sql, const struct cs_table *t)
{
    for (uint32_t i = 0; i < t->nkey; i++) {
        cs_buf_put_str(sql, i > 0 ? ", " : "");
        put_column(sql, t, t->key[i]);
    }
}

static void put_where_key(struct cs_buf *sql, const struct cs_table *t, uint32_t first)
{
    for (uint32_t i = 0; i < t->nkey; i++) {
        cs_buf_put_str(sql, i > 0 ? " AND " : " WHERE ");
        put_column(sql, t, t->key[i]);
        cs_buf_printf(sql, " = ?%u", first + i);
    }
}

static const char *collation_name(enum cs_collation c)
{
    return c == CS_NOCASE ? "NOCASE" : c == CS_RTRIM ? "RTRIM" : "BINARY";
}

/* SELECT key FROM t WHERE each column = its parameter under the collation given. */
static void put_find(struct cs_buf *sql, const struct cs_table *t, const uint32_t *cols, uint32_t n,
                     const enum cs_collation *collations)
{
    cs_buf_put_str(sql, "SELECT ");
    put_key_columns(sql, t);
    cs_buf_put_str(sql, " FROM ");
    put_table(sql, t);
    for (uint32_t i = 0; i < n; i++) {
        cs_buf_put_str(sql, i > 0 ? " AND " : " WHERE ");
        put_column(sql, t, cols[i]);
        cs_buf_printf(sql, " = ?%u COLLATE %s", i + 1, collation_name(collations[i]));
    }
}

static void put_insert(struct cs_buf *sql, const struct cs_table *t, const char *into)
{
    cs_buf_printf(sql, "INSERT %s.", into);
    cs_put_identifier(sql, t->name);
    for (uint32_t i = 0; i < t->ncolumns; i++) {
        cs_buf_put_str(sql, i > 0 ? ", " : "(");
        put_column(sql, t, i);
    }
    for (uint32_t i = 0; i < t->ncolumns; i++)
        cs_buf_printf(sql, "%s?%u", i > 0 ? ", " : ") VALUES(", i + 1);
    cs_buf_put_str(sql, ")");
}

int cs_show_prepare_update(struct cs_replica *r, const struct cs_table *t, const uint32_t *cols, uint32_t n,
                           sqlite3_stmt **out, struct cs_error *err)
{
    struct cs_buf sql = { 0 };

    cs_buf_put_str(&sql, cs_sql_of(t)->or_abort ? "UPDATE OR ABORT " : "UPDATE ");
    put_table(&sql, t);
    for (uint32_t i = 0; i < n; i++) {
        cs_buf_put_str(&sql, i > 0 ? ", " : " SET ");
        put_column(&sql, t, cols[i]);
        cs_buf_printf(&sql, " = ?%u", i + 1);
    }
    put_where_key(&sql, t, n + 1);
    return prepare(r, out, &sql, err);
}

/* A constraint with an ON CONFLICT clause of its own would replace or ignore rows behind our back; an OR clause in the
 * statement overrules it. Only there: it also overrules the OR clauses inside the application's triggers. */
static int find_on_conflict(struct cs_replica *r, const struct cs_table *t, bool *out, struct cs_error *err)
{
    static const char sql[] = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE AND "
                              "sql LIKE '%on%conflict%'";
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK ||
        sqlite3_bind_text(s, 1, t->name, -1, SQLITE_STATIC) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot read the schema");
    *out = cs_db_row(r, s, &rc, "cannot read the schema", err);
    sqlite3_finalize(s);
    return rc;
}

int cs_show_prepare(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    struct cs_table_sql *s = cs_sql_of(t);
    struct cs_buf sql = { 0 };
    sqlite3_stmt *all = NULL;
    int rc = find_on_conflict(r, t, &s->or_abort, err);

    if (rc != CS_OK)
        return rc;
    sqlite3_finalize(s->insert); /* what an attempt that failed has left */
    sqlite3_finalize(s->del);
    s->insert = s->del = NULL;
    put_insert(&sql, t, s->or_abort ? "OR ABORT INTO main" : "INTO main");
    if ((rc = prepare(r, &s->insert, &sql, err)) != CS_OK)
        return rc;
    cs_buf_put_str(&sql, "DELETE FROM ");
    put_table(&sql, t);
    put_where_key(&sql, t, 1);
    if ((rc = prepare(r, &s->del, &sql, err)) != CS_OK)
        return rc;
    for (uint32_t i = 0; i < t->ncolumns; i++)
        s->cols[i] = i;
    if ((rc = cs_show_prepare_update(r, t, s->cols, t->ncolumns, &all, err)) == CS_OK)
        sqlite3_finalize(all); /* only its triggers were of interest */
    return rc;
}

/* ---- facts derived from the schema ---- */

static uint32_t column_by_name(const struct cs_table *t, const char *name)
{
    for (uint32_t i = 0; i < t->ncolumns; i++)
        if (sqlite3_stricmp(t->columns[i].name, name) == 0)
            return i;
    return CS_NO_COLUMN;
}

static struct cs_table *parent_of(struct cs_replica *r, const struct cs_fk *f)
{
    for (size_t i = 0; i < r->ntables; i++)
        if (sqlite3_stricmp(r->tables[i].name, f->parent) == 0)
            return &r->tables[i];
    return NULL;
}

static int new_table_sql(struct cs_table *t, struct cs_error *err)
{
    struct cs_table_sql *s = calloc(1, sizeof *s);
    struct cs_arena *a;

    if (s == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    t->apply = s;
    a = &s->arena;
    s->parents = cs_arena_zalloc(a, t->nfks + 1, sizeof *s->parents);
    s->parent_refs = cs_arena_zalloc(a, t->nfks + 1, sizeof *s->parent_refs);
    s->find_parent = cs_arena_zalloc(a, t->nfks + 1, sizeof(sqlite3_stmt *));
    s->claimants = cs_arena_zalloc(a, t->nuniques + 1, sizeof(sqlite3_stmt *));
    s->where = cs_arena_zalloc(a, t->nuniques + 1, sizeof(sqlite3_stmt *));
    s->structural = cs_arena_zalloc(a, t->ncolumns, sizeof *s->structural);
    s->values = cs_arena_zalloc(a, t->ncolumns, sizeof *s->values);
    s->parts = cs_arena_zalloc(a, t->nkey, sizeof *s->parts);
    s->aside = cs_arena_zalloc(a, t->ncolumns, sizeof *s->aside);
    s->changed = cs_arena_zalloc(a, t->ncolumns, sizeof *s->changed);
    s->cells = cs_arena_zalloc(a, t->ncolumns, sizeof s->cells[0]);
    s->cols = cs_arena_zalloc(a, t->ncolumns, sizeof *s->cols);
    if (s->parents == NULL || s->parent_refs == NULL || s->find_parent == NULL || s->claimants == NULL ||
        s->where == NULL || s->structural == NULL || s->values == NULL || s->parts == NULL || s->aside == NULL ||
        s->cols == NULL || s->changed == NULL || s->cells == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    return CS_OK;
}

static int derive_unique(struct cs_replica *r, struct cs_table *t, uint32_t which, struct cs_error *err)
{
    struct cs_table_sql *s = cs_sql_of(t);
    struct cs_buf sql = { 0 };

    if (which == 0) {
        cs_buf_put_str(&sql, "SELECT ");
        put_key_columns(&sql, t);
        cs_buf_put_str(&sql, " FROM ");
        put_table(&sql, t);
        put_where_key(&sql, t, 1);
    } else {
        const struct cs_unique *u = &t->uniques[which - 1];

        s->linked = true;
        put_find(&sql, t, u->cols, u->ncols, u->collations);
        if (u->where != NULL) {
            s->partial = true;
            cs_buf_printf(&sql, " AND (%s)", u->where);
        }
        for (uint32_t i = 0; i < u->ncols; i++)
            s->structural[u->cols[i]] = true;
    }
    return prepare(r, &s->claimants[which], &sql, err);
}

static int derive_fk(struct cs_replica *r, struct cs_table *t, uint32_t which, struct cs_error *err)
{
    const struct cs_fk *f = &t->fks[which];
    struct cs_table *p = parent_of(r, f);
    struct cs_table_sql *s = cs_sql_of(t), *ps;
    enum cs_collation collations[64];
    struct cs_child *child;
    struct cs_buf sql = { 0 };
    uint32_t *refs;
    int rc;

    if (p == NULL || f->ncols > 64) /* not tracked: hides nothing */
        return CS_OK;
    refs = cs_arena_zalloc(&s->arena, f->ncols, sizeof *refs);
    if (refs == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < f->ncols; i++) {
        refs[i] = column_by_name(p, f->refs[i]);
        if (refs[i] == CS_NO_COLUMN) /* a foreign key that SQLite itself would call a mismatch */
            return CS_OK;
        collations[i] = p->columns[refs[i]].collation;
    }
    ps = cs_sql_of(p);
    s->parents[which] = p;
    s->parent_refs[which] = refs;
    s->linked = ps->linked = true;
    for (uint32_t i = 0; i < f->ncols; i++) {
        s->structural[f->cols[i]] = true;
        ps->structural[refs[i]] = true;
    }
    put_find(&sql, p, refs, f->ncols, collations);
    if ((rc = prepare(r, &s->find_parent[which], &sql, err)) != CS_OK)
        return rc;
    child = &ps->children[ps->nchildren++];
    *child = (struct cs_child){ .table = t, .fk = which, .refs = refs };
    put_find(&sql, t, f->cols, f->ncols, collations);
    return prepare(r, &child->find, &sql, err);
}

static int room_for_children(struct cs_replica *r, struct cs_table *p, struct cs_error *err)
{
    struct cs_table_sql *s = cs_sql_of(p);
    size_t n = 0;

    for (size_t i = 0; i < r->ntables; i++)
        for (uint32_t k = 0; k < r->tables[i].nfks; k++)
            n += parent_of(r, &r->tables[i].fks[k]) == p;
    s->children = cs_arena_zalloc(&s->arena, n + 1, sizeof *s->children);
    return s->children == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

/* Families: tables connected by foreign keys. Circular: a circle can be reached by following parents. */
static int derive_graph(struct cs_replica *r, struct cs_error *err)
{
    size_t n = r->ntables;
    bool *above = cs_arena_zalloc(&r->scratch, n * n + 1, sizeof *above); /* [i * n + j]: j is an ancestor of i */

    if (above == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        cs_sql_of(&r->tables[i])->family = (uint32_t)i;
    for (size_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < r->tables[i].nfks; k++) {
            struct cs_table *p = cs_sql_of(&r->tables[i])->parents[k];
            uint32_t from, to;

            if (p == NULL)
                continue;
            above[i * n + (size_t)(p - r->tables)] = true;
            from = cs_sql_of(p)->family;
            to = cs_sql_of(&r->tables[i])->family;
            for (size_t j = 0; j < n; j++)
                if (cs_sql_of(&r->tables[j])->family == from)
                    cs_sql_of(&r->tables[j])->family = to;
        }
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                above[i * n + j] |= above[i * n + k] && above[k * n + j];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            cs_sql_of(&r->tables[i])->circular |= above[j * n + j] && (i == j || above[i * n + j]);
    return CS_OK;
}

int cs_show_derive(struct cs_replica *r, struct cs_error *err)
{
    int rc = CS_OK;

    if (cs_apply_of(r)->derived)
        return CS_OK;
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++)
        rc = new_table_sql(&r->tables[i], err);
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++)
        rc = room_for_children(r, &r->tables[i], err);
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++) {
        struct cs_table *t = &r->tables[i];

        for (uint32_t k = 0; k <= t->nuniques && rc == CS_OK; k++)
            rc = derive_unique(r, t, k, err);
        for (uint32_t k = 0; k < t->nfks && rc == CS_OK; k++)
            rc = derive_fk(r, t, k, err);
    }
    if (rc == CS_OK && (rc = derive_graph(r, err)) == CS_OK)
        rc = cs_guard_triggers(r, err);
    if (rc != CS_OK) {
        cs_show_close(r);
        return rc;
    }
    cs_apply_of(r)->derived = true;
    return CS_OK;
}

static void close_table(struct cs_table *t)
{
    struct cs_table_sql *s = cs_sql_of(t);

    if (s == NULL)
        return;
    sqlite3_finalize(s->insert);
    sqlite3_finalize(s->del);
    sqlite3_finalize(s->ahead);
    sqlite3_finalize(s->clone_put);
    sqlite3_finalize(s->clone_clear);
    for (int i = 0; i < CS_UPDATE_STMTS; i++)
        sqlite3_finalize(s->updates[i].stmt);
    for (uint32_t i = 0; s->find_parent != NULL && i < t->nfks; i++)
        sqlite3_finalize(s->find_parent[i]);
    for (uint32_t i = 0; s->claimants != NULL && i <= t->nuniques; i++)
        sqlite3_finalize(s->claimants[i]);
    for (uint32_t i = 0; s->where != NULL && i < t->nuniques; i++)
        sqlite3_finalize(s->where[i]);
    for (uint32_t i = 0; i < s->nchildren; i++)
        sqlite3_finalize(s->children[i].find);
    cs_arena_free(&s->arena);
    free(s);
    t->apply = NULL;
}

void cs_show_close(struct cs_replica *r)
{
    for (size_t i = 0; i < r->ntables; i++)
        close_table(&r->tables[i]);
    cs_apply_of(r)->derived = false;
}

/* ---- values ---- */

static const char *const affinity_columns[] = { "b", "t", "n", "i", "r" }; /* by enum cs_affinity */

/* Lets SQLite store the value in a column of this affinity, and reads it back. */
static int ask_affinity(struct cs_replica *r, enum cs_affinity affinity, const struct cs_value *in,
                        struct cs_value *out, struct cs_error *err)
{
    struct cs_apply *a = cs_apply_of(r);
    sqlite3_stmt *set, *get;
    struct cs_buf sql = { 0 };
    int rc;

    if (a->affinity_get[affinity] == NULL) {
        cs_buf_printf(&sql, "UPDATE sync_affinity SET %s = ?1", affinity_columns[affinity]);
        if (a->affinity_set[affinity] == NULL &&
            (rc = prepare_on(r, a->aside, &a->affinity_set[affinity], &sql, err)) != CS_OK)
            return rc;
        cs_buf_printf(&sql, "SELECT %s FROM sync_affinity", affinity_columns[affinity]);
        if ((rc = prepare_on(r, a->aside, &a->affinity_get[affinity], &sql, err)) != CS_OK)
            return rc;
    }
    set = a->affinity_set[affinity];
    get = a->affinity_get[affinity];
    rc = cs_value_bind(set, 1, in);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(set);
    sqlite3_reset(set);
    sqlite3_clear_bindings(set);
    if (rc != SQLITE_DONE || sqlite3_step(get) != SQLITE_ROW) {
        sqlite3_reset(get);
        return aside_fail(r, err);
    }
    cs_value_from_column(out, get, 0);
    if (out->type == CS_TEXT || out->type == CS_BLOB)
        out->u.bytes = cs_arena_copy(&r->scratch, out->u.bytes);
    sqlite3_reset(get);
    return out->type >= CS_TEXT && out->u.bytes.data == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

static bool looks_numeric(struct cs_slice s)
{
    size_t i = 0;

    while (i < s.len && (s.data[i] == ' ' || (s.data[i] >= 9 && s.data[i] <= 13)))
        i++;
    return i < s.len &&
           ((s.data[i] >= '0' && s.data[i] <= '9') || s.data[i] == '+' || s.data[i] == '-' || s.data[i] == '.');
}

/* Could this affinity change the value? False is certain. */
static bool may_change(enum cs_affinity affinity, const struct cs_value *v)
{
    if (affinity == CS_AFF_BLOB || v->type == CS_NULL || v->type == CS_BLOB)
        return false;
    if (affinity == CS_AFF_TEXT)
        return v->type != CS_TEXT;
    if (v->type == CS_TEXT)
        return looks_numeric(v->u.bytes);
    if (v->type == CS_INTEGER)
        return affinity == CS_AFF_REAL;
    if (affinity == CS_AFF_REAL)
        return v->u.r == 0 && signbit(v->u.r); /* stored as the integer 0, read as 0.0 */
    return v->u.r == floor(v->u.r) && fabs(v->u.r) < 1e19;
}

int cs_show_affinity(struct cs_replica *r, enum cs_affinity affinity, const struct cs_value *in, struct cs_value *out,
                     struct cs_error *err)
{
    if (may_change(affinity, in))
        return ask_affinity(r, affinity, in, out, err);
    *out = *in;
    return CS_OK;
}

/* Would a STRICT table take the value, after affinity? */
static bool strict_takes(char type, const struct cs_value *v)
{
    static const char letters[] = { 0, 'I', 'R', 'T', 'B' }; /* by enum cs_type */

    return type == 0 || type == 'A' || v->type == CS_NULL || letters[v->type] == type;
}

/* Is `part`, canonical under the column's collation, what v becomes in a key? */
static bool is_key_part(struct cs_replica *r, const struct cs_value *v, const struct cs_value *part,
                        enum cs_collation coll)
{
    struct cs_apply *a = cs_apply_of(r);

    if (v->type == CS_NULL)
        return false;
    if (v->type != CS_REAL && (coll == CS_BINARY || v->type != CS_TEXT))
        return cs_same_value(v, part);
    cs_buf_reset(&a->a);
    cs_buf_reset(&a->b);
    cs_key_put(&a->a, v, coll);
    cs_key_put(&a->b, part, CS_BINARY);
    return cs_slice_eq(cs_buf_slice(&a->a), cs_buf_slice(&a->b));
}

static int show_key_value(struct cs_replica *r, const struct cs_column *c, enum cs_affinity affinity,
                          const struct cs_value *cell, const struct cs_value *part, struct cs_value *out,
                          const char **why, struct cs_error *err)
{
    int rc;

    if (cell != NULL && is_key_part(r, cell, part, c->collation)) {
        if ((rc = cs_show_affinity(r, affinity, cell, out, err)) != CS_OK)
            return rc;
        if (is_key_part(r, out, part, c->collation) && strict_takes(c->strict, out))
            return CS_OK;
    }
    if ((rc = cs_show_affinity(r, affinity, part, out, err)) != CS_OK)
        return rc;
    /* A key whose value this column would change would be another row for our own triggers. One that is not folded as
     * this column's collation folds stands as it is: two keys of the workspace are one here then. */
    if (!is_key_part(r, out, part, CS_BINARY) || !strict_takes(c->strict, out))
        *why = "type";
    return CS_OK;
}

int cs_show_value(struct cs_replica *r, const struct cs_table *t, uint32_t pos, const struct cs_value *cell,
                  const struct cs_value *part, struct cs_value *out, bool *aside, const char **why,
                  struct cs_error *err)
{
    const struct cs_column *c = &t->columns[pos];
    enum cs_affinity affinity = c->strict == 'A' ? CS_AFF_BLOB : c->affinity;
    int rc = CS_OK;

    if (c->key_pos >= 0) {
        rc = show_key_value(r, c, affinity, cell, part, out, why, err);
    } else if (cell != NULL && cell->type != CS_NULL) {
        rc = cs_show_affinity(r, affinity, cell, out, err);
        if (rc == CS_OK && !strict_takes(c->strict, out))
            *why = "type";
    } else if (cell == NULL || c->notnull) {
        *out = c->has_default ? c->default_value : (struct cs_value){ .type = CS_NULL };
        if (out->type == CS_NULL && c->notnull)
            *why = "notnull";
    } else {
        *out = *cell;
    }
    *aside = rc == CS_OK && cell != NULL && !cs_same_value(cell, out);
    return rc;
}

bool cs_show_key(const struct cs_table *t, struct cs_slice key, struct cs_value *parts)
{
    struct cs_reader in = cs_reader(key);

    for (uint32_t i = 0; i < t->nkey; i++)
        if (!cs_key_next(&in, &parts[i]))
            return false;
    return cs_reader_done(&in);
}

/* ---- relations of one row, asked of the tables as they are ---- */

/* Binds the values at positions cols. *counts: none of them is NULL, and one of their columns is marked in `changed`
 * (NULL: all are). */
static int bind_reference(struct cs_replica *r, sqlite3_stmt *s, const struct cs_value *values, const uint32_t *cols,
                          uint32_t n, const bool *changed, bool *counts, struct cs_error *err)
{
    bool any = changed == NULL;

    *counts = false;
    for (uint32_t i = 0; i < n; i++) {
        if (values[cols[i]].type == CS_NULL)
            return CS_OK;
        any |= changed != NULL && changed[cols[i]];
    }
    *counts = any;
    for (uint32_t i = 0; any && i < n; i++)
        if (cs_value_bind(s, (int)i + 1, &values[cols[i]]) != CS_OK)
            return cs_db_fail(r, err, "cannot bind a value");
    return CS_OK;
}

static int is_there(struct cs_replica *r, sqlite3_stmt *s, bool *out, struct cs_error *err)
{
    int step = sqlite3_step(s);

    sqlite3_reset(s);
    *out = step == SQLITE_ROW;
    return step == SQLITE_ROW || step == SQLITE_DONE ? CS_OK : cs_db_fail(r, err, "cannot follow a foreign key");
}

int cs_show_parents(struct cs_replica *r, const struct cs_table *t, const struct cs_value *values, const bool *changed,
                    bool *out, struct cs_error *err)
{
    const struct cs_table_sql *s = cs_sql_of(t);
    bool counts;
    int rc = CS_OK;

    *out = true;
    for (uint32_t i = 0; i < t->nfks && *out && rc == CS_OK && !t->show_orphans; i++) {
        const struct cs_fk *f = &t->fks[i];

        if (s->find_parent[i] == NULL)
            continue;
        rc = bind_reference(r, s->find_parent[i], values, f->cols, f->ncols, changed, &counts, err);
        if (rc == CS_OK && counts)
            rc = is_there(r, s->find_parent[i], out, err);
    }
    return rc;
}

int cs_show_has_children(struct cs_replica *r, const struct cs_table *t, const struct cs_value *values,
                         const bool *changed, bool *out, struct cs_error *err)
{
    const struct cs_table_sql *s = cs_sql_of(t);
    bool counts;
    int rc = CS_OK;

    *out = false;
    for (uint32_t i = 0; i < s->nchildren && !*out && rc == CS_OK; i++) {
        const struct cs_child *c = &s->children[i];

        rc = bind_reference(r, c->find, values, c->refs, c->table->fks[c->fk].ncols, changed, &counts, err);
        if (rc == CS_OK && counts)
            rc = is_there(r, c->find, out, err);
    }
    return rc;
}

int cs_show_find_orphans(struct cs_replica *r, const struct cs_table *t, uint32_t fk, sqlite3_stmt **out,
                         struct cs_error *err)
{
    const struct cs_fk *f = &t->fks[fk];
    const struct cs_table *p = cs_sql_of(t)->parents[fk];
    const uint32_t *refs = cs_sql_of(t)->parent_refs[fk];
    struct cs_buf sql = { 0 };

    cs_buf_put_str(&sql, "SELECT ");
    put_key_columns(&sql, t);
    cs_buf_put_str(&sql, " FROM ");
    put_table(&sql, t);
    cs_buf_put_str(&sql, " AS c WHERE ");
    for (uint32_t i = 0; i < f->ncols; i++) {
        cs_buf_put_str(&sql, "c.");
        put_column(&sql, t, f->cols[i]);
        cs_buf_put_str(&sql, " IS NOT NULL AND ");
    }
    cs_buf_put_str(&sql, "NOT EXISTS (SELECT 1 FROM ");
    put_table(&sql, p);
    for (uint32_t i = 0; i < f->ncols; i++) {
        cs_buf_put_str(&sql, i > 0 ? " AND p." : " AS p WHERE p.");
        put_column(&sql, p, refs[i]);
        cs_buf_put_str(&sql, " = c.");
        put_column(&sql, t, f->cols[i]);
        cs_buf_printf(&sql, " COLLATE %s", collation_name(p->columns[refs[i]].collation));
    }
    cs_buf_put_str(&sql, ")");
    return prepare(r, out, &sql, err);
}

int cs_show_stored(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_value **out,
                   struct cs_error *err)
{
    int rc = cs_table_read(r, t, key, err);

    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? CS_ENOTFOUND : rc;
    rc = (*out = cs_arena_zalloc(&r->scratch, t->ncolumns, sizeof **out)) == NULL ? CS_ENOMEM : CS_OK;
    for (uint32_t i = 0; i < t->ncolumns && rc == CS_OK; i++) {
        struct cs_value *v = &(*out)[i];

        cs_value_from_column(v, t->read, (int)i);
        if (v->type >= CS_TEXT && (v->u.bytes = cs_arena_copy(&r->scratch, v->u.bytes)).data == NULL)
            rc = CS_ENOMEM;
    }
    sqlite3_reset(t->read);
    return rc == CS_OK ? CS_OK : cs_fail(err, CS_ENOMEM, "out of memory");
}

/* ---- asking SQLite about one row, in an empty table of the same definition ---- */

int cs_show_open(struct cs_replica *r, struct cs_error *err)
{
    static const char sql[] = "CREATE TABLE sync_affinity(b BLOB, t TEXT, n NUMERIC, i INTEGER, r REAL);"
                              "INSERT INTO sync_affinity DEFAULT VALUES";
    struct cs_apply *a = cs_apply_of(r);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MEMORY | SQLITE_OPEN_NOMUTEX;

    if (sqlite3_open_v2(":memory:", &a->aside, flags, NULL) != SQLITE_OK ||
        sqlite3_exec(a->aside, sql, NULL, NULL, NULL) != SQLITE_OK)
        return aside_fail(r, err);
    return CS_OK;
}

/* *ok: SQLite did it; otherwise it cannot. What it could with memory is an error. */
static int exec_aside(struct cs_replica *r, const char *sql, bool *ok, struct cs_error *err)
{
    int rc = sqlite3_exec(cs_apply_of(r)->aside, sql, NULL, NULL, NULL);

    *ok = rc == SQLITE_OK;
    return (rc & 0xff) == SQLITE_NOMEM ? aside_fail(r, err) : CS_OK;
}

/* The application's own words make the table again, in a database in memory that nobody else sees: it has the CHECK
 * constraints on, which are off where we write, and no triggers and no other rows. A definition that does not stand on
 * its own (a function that is not here) leaves s->put NULL: its constraints go unexamined, nothing else changes. */
static int make_clone(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    static const char select[] = "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    struct cs_table_sql *s = cs_sql_of(t);
    sqlite3 *aside = cs_apply_of(r)->aside;
    struct cs_buf sql = { 0 };
    sqlite3_stmt *schema = NULL;
    bool stands;
    int rc = CS_OK;

    if (s->cloned)
        return CS_OK;
    if (sqlite3_prepare_v2(r->db, select, -1, &schema, NULL) != SQLITE_OK ||
        sqlite3_bind_text(schema, 1, t->name, -1, SQLITE_STATIC) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot read the schema");
    cs_buf_put_str(&sql, "DROP TABLE IF EXISTS ");
    cs_put_identifier(&sql, t->name);
    if (cs_db_row(r, schema, &rc, "cannot read the schema", err))
        cs_buf_printf(&sql, "; %s", (const char *)sqlite3_column_text(schema, 0));
    sqlite3_finalize(schema);
    cs_buf_put_u8(&sql, 0);
    if (rc == CS_OK && sql.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    if (rc == CS_OK && (rc = exec_aside(r, (const char *)sql.data, &stands, err)) == CS_OK && stands) {
        cs_buf_reset(&sql);
        put_insert(&sql, t, "OR REPLACE INTO main");
        rc = prepare_on(r, aside, &s->clone_put, &sql, err);
        cs_buf_put_str(&sql, "DELETE FROM ");
        cs_put_identifier(&sql, t->name);
        if (rc == CS_OK)
            rc = prepare_on(r, aside, &s->clone_clear, &sql, err);
    }
    cs_buf_free(&sql);
    if (rc != CS_OK) {
        sqlite3_finalize(s->clone_put);
        s->clone_put = NULL;
    }
    s->cloned = rc == CS_OK;
    return rc;
}

/* *holds: the row went in; otherwise it breaks a CHECK. */
static int put_into_clone(struct cs_replica *r, const struct cs_table *t, const struct cs_value *values, bool *holds,
                          struct cs_error *err)
{
    struct cs_table_sql *s = cs_sql_of(t);
    int step, rc = CS_OK;

    *holds = true;
    step = sqlite3_step(s->clone_clear);
    sqlite3_reset(s->clone_clear);
    if (step != SQLITE_DONE)
        return aside_fail(r, err);
    for (uint32_t i = 0; i < t->ncolumns; i++)
        if (cs_value_bind(s->clone_put, (int)i + 1, &values[i]) != CS_OK)
            return aside_fail(r, err);
    step = sqlite3_step(s->clone_put);
    *holds = step == SQLITE_DONE || sqlite3_extended_errcode(cs_apply_of(r)->aside) != SQLITE_CONSTRAINT_CHECK;
    if (step == SQLITE_NOMEM)
        rc = aside_fail(r, err);
    sqlite3_reset(s->clone_put);
    return rc;
}

int cs_show_check(struct cs_replica *r, struct cs_table *t, const struct cs_value *values, bool *holds,
                  struct cs_error *err)
{
    int rc = make_clone(r, t, err);

    *holds = true;
    return rc != CS_OK || cs_sql_of(t)->clone_put == NULL ? rc : put_into_clone(r, t, values, holds, err);
}

int cs_show_covered(struct cs_replica *r, struct cs_table *t, uint32_t unique, const struct cs_value *values,
                    bool *covered, struct cs_error *err)
{
    struct cs_table_sql *s = cs_sql_of(t);
    sqlite3 *aside = cs_apply_of(r)->aside;
    struct cs_buf sql = { 0 };
    bool holds;
    int rc, step = SQLITE_DONE;

    *covered = true;
    if (t->uniques[unique].where == NULL)
        return CS_OK;
    if ((rc = make_clone(r, t, err)) != CS_OK || s->clone_put == NULL)
        return rc;
    if (s->where[unique] == NULL) {
        cs_buf_put_str(&sql, "SELECT 1 FROM ");
        cs_put_identifier(&sql, t->name);
        cs_buf_printf(&sql, " WHERE %s", t->uniques[unique].where);
        if ((rc = prepare_on(r, aside, &s->where[unique], &sql, err)) != CS_OK)
            return rc;
    }
    if ((rc = put_into_clone(r, t, values, &holds, err)) == CS_OK && !holds) { /* it is shown all the same */
        sqlite3_exec(aside, "PRAGMA ignore_check_constraints=ON", NULL, NULL, NULL);
        rc = put_into_clone(r, t, values, &holds, err);
        sqlite3_exec(aside, "PRAGMA ignore_check_constraints=OFF", NULL, NULL, NULL);
    }
    if (rc == CS_OK && (step = sqlite3_step(s->where[unique])) != SQLITE_DONE && step != SQLITE_ROW)
        rc = aside_fail(r, err);
    if (rc == CS_OK)
        *covered = step == SQLITE_ROW;
    sqlite3_reset(s->where[unique]);
    return rc;
}
