#include <ctype.h>

#include "replica/apply.h"
#include "replica/statements.h"
#include "replica/store.h"

/* ---- numbers of tables, columns, devices ---- */

int cs_table_number(struct cs_replica *r, struct cs_slice name, int64_t *id, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_TABLE_ID, err);
    int step;

    if (s == NULL)
        return err_code(err);
    cs_db_bind_text(s, 1, name);
    step = sqlite3_step(s);
    *id = step == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    sqlite3_reset(s);
    if (step == SQLITE_ROW)
        return CS_OK;
    if (step != SQLITE_DONE)
        return cs_db_fail(r, err, "cannot read our tables");
    if ((s = cs_db_stmt(r, CS_STMT_TABLE_NEW, err)) == NULL)
        return err_code(err);
    cs_db_bind_text(s, 1, name);
    if ((step = cs_db_step(r, s, "cannot number a table", err)) == CS_OK)
        *id = sqlite3_last_insert_rowid(r->db);
    return step;
}

static int find_column(struct cs_replica *r, int64_t table, struct cs_slice name, uint32_t *id, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_COLUMN_ID, err);
    int step;

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, table);
    cs_db_bind_text(s, 2, name);
    step = sqlite3_step(s);
    *id = step == SQLITE_ROW ? (uint32_t)sqlite3_column_int64(s, 0) : CS_NO_COLUMN;
    sqlite3_reset(s);
    if (step == SQLITE_ROW)
        return CS_OK;
    return step == SQLITE_DONE ? CS_ENOTFOUND : cs_db_fail(r, err, "cannot read our tables");
}

/* A number given to a column of a table that is in memory must show in its maps. */
static int extend_map(struct cs_replica *r, int64_t table, uint32_t id, struct cs_error *err)
{
    struct cs_table *t = cs_table_by_id(r, table);
    uint32_t *map;

    if (t == NULL || id < t->ncolumn_ids)
        return CS_OK;
    if ((map = cs_arena_alloc(&r->schema_arena, (id + 1) * sizeof *map)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if (t->ncolumn_ids > 0)
        memcpy(map, t->by_id, t->ncolumn_ids * sizeof *map);
    for (uint32_t i = t->ncolumn_ids; i <= id; i++)
        map[i] = CS_NO_COLUMN;
    t->by_id = map;
    t->ncolumn_ids = id + 1;
    return CS_OK;
}

int cs_column_number(struct cs_replica *r, int64_t table, struct cs_slice name, uint32_t *id, struct cs_error *err)
{
    sqlite3_stmt *s;
    struct cs_table *t;
    int rc = find_column(r, table, name, id, err), step;

    if (rc != CS_ENOTFOUND)
        return rc;
    if ((s = cs_db_stmt(r, CS_STMT_COLUMN_NEW, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, table);
    cs_db_bind_text(s, 2, name);
    *id = CS_NO_COLUMN;
    if ((step = sqlite3_step(s)) == SQLITE_ROW) {
        *id = (uint32_t)sqlite3_column_int64(s, 0);
        step = sqlite3_step(s);
    }
    rc = step == SQLITE_DONE ? CS_OK : cs_db_fail(r, err, "cannot number a column");
    sqlite3_reset(s);
    if (rc != CS_OK || (rc = extend_map(r, table, *id, err)) != CS_OK || (t = cs_table_by_id(r, table)) == NULL)
        return rc;
    /* a literal key that came from a device with another collation: the key column has a number from now on */
    for (uint32_t i = 0; i < t->ncolumns; i++)
        if (cs_slice_eq(cs_slice_str(t->columns[i].name), name)) {
            t->columns[i].id = *id;
            t->by_id[*id] = i;
        }
    return CS_OK;
}

int cs_column_name(struct cs_replica *r, int64_t table, uint32_t id, struct cs_slice *name, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_COLUMN_NAME, err);
    int step, rc = CS_OK;

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, table);
    sqlite3_bind_int64(s, 2, id);
    if ((step = sqlite3_step(s)) == SQLITE_ROW) {
        *name = cs_arena_copy(&r->scratch, cs_slice(sqlite3_column_text(s, 0), (size_t)sqlite3_column_bytes(s, 0)));
        rc = name->data == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
    } else {
        rc = step == SQLITE_DONE
                 ? cs_fail(err, CS_ECORRUPT, "column %u of table %lld has no name", id, (long long)table)
                 : cs_db_fail(r, err, "cannot read our tables");
    }
    sqlite3_reset(s);
    return rc;
}

int cs_device_number(struct cs_replica *r, const struct cs_uuid *device, uint32_t *n, struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc;

    for (uint32_t i = 1; i < r->ndevices; i++)
        if (cs_uuid_cmp(&r->devices[i], device) == 0) {
            *n = i;
            return CS_OK;
        }
    if ((s = cs_db_stmt(r, CS_STMT_DEVICE_NEW, err)) == NULL)
        return err_code(err);
    *n = r->ndevices;
    sqlite3_bind_int64(s, 1, *n);
    cs_db_bind_slice(s, 2, cs_slice(device->b, 16));
    if ((rc = cs_db_step(r, s, "cannot number a device", err)) != CS_OK)
        return rc;
    return cs_devices_append(r, device->b, err);
}

/* ---- reading one table ---- */

static enum cs_affinity affinity_of(const char *type)
{
    char t[64];
    size_t n = 0;

    for (const char *p = type; *p != '\0' && n < sizeof t - 1; p++)
        t[n++] = (char)toupper((unsigned char)*p);
    t[n] = '\0';
    if (strstr(t, "INT") != NULL)
        return CS_AFF_INTEGER;
    if (strstr(t, "CHAR") != NULL || strstr(t, "CLOB") != NULL || strstr(t, "TEXT") != NULL)
        return CS_AFF_TEXT;
    if (t[0] == '\0' || strstr(t, "BLOB") != NULL)
        return CS_AFF_BLOB;
    if (strstr(t, "REAL") != NULL || strstr(t, "FLOA") != NULL || strstr(t, "DOUB") != NULL)
        return CS_AFF_REAL;
    return CS_AFF_NUMERIC;
}

static bool collation_of(const char *name, enum cs_collation *out)
{
    static const char *const names[] = { "BINARY", "NOCASE", "RTRIM" };

    for (int i = 0; i < 3; i++)
        if (sqlite3_stricmp(name, names[i]) == 0) {
            *out = (enum cs_collation)i;
            return true;
        }
    *out = CS_BINARY;
    return false;
}

/* A constant default as the column would store it. Expressions in parentheses and CURRENT_… are not constants. */
static int read_default(struct cs_replica *r, struct cs_arena *a, struct cs_column *c, const char *expr,
                        struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    struct cs_buf sql = { 0 };
    struct cs_value v, stored;
    int rc = CS_OK, step;

    c->has_default = false;
    if (expr == NULL || expr[0] == '(' || sqlite3_strnicmp(expr, "CURRENT_", 8) == 0)
        return CS_OK;
    cs_buf_printf(&sql, "SELECT %s", expr);
    if (sql.failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    step = sqlite3_prepare_v2(r->db, (const char *)sql.data, (int)sql.len, &s, NULL);
    if (step == SQLITE_OK)
        step = sqlite3_step(s);
    if (step == SQLITE_NOMEM)
        rc = cs_db_fail(r, err, "cannot read the schema");
    if (step == SQLITE_ROW) {
        cs_value_from_column(&v, s, 0);
        if (v.type != CS_NULL && (rc = cs_show_affinity(r, c->affinity, &v, &stored, err)) == CS_OK) {
            if (stored.type >= CS_TEXT && (stored.u.bytes = cs_arena_copy(a, stored.u.bytes)).data == NULL)
                rc = cs_fail(err, CS_ENOMEM, "out of memory");
            c->default_value = stored;
            c->has_default = true;
        }
    }
    sqlite3_finalize(s);
    cs_buf_free(&sql);
    return rc;
}

static int prepare_text(struct cs_replica *r, sqlite3_stmt **s, const char *sql, const char *param,
                        struct cs_error *err)
{
    if (sqlite3_prepare_v2(r->db, sql, -1, s, NULL) != SQLITE_OK ||
        sqlite3_bind_text(*s, 1, param, -1, SQLITE_STATIC) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read the schema");
    return CS_OK;
}

static bool next_row(struct cs_replica *r, sqlite3_stmt *s, int *rc, struct cs_error *err)
{
    return cs_db_row(r, s, rc, "cannot read the schema", err);
}

static int read_kind(struct cs_replica *r, struct cs_arena *a, const char *name, struct cs_table *t,
                     const char **problem, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    const char *type;
    int rc = prepare_text(r, &s,
                          "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = ?1 "
                          "COLLATE NOCASE",
                          name, err);

    if (next_row(r, s, &rc, err)) {
        t->name = cs_arena_str(a, (const char *)sqlite3_column_text(s, 0));
        type = (const char *)sqlite3_column_text(s, 1);
        t->without_rowid = sqlite3_column_int(s, 2) != 0;
        t->strict = sqlite3_column_int(s, 3) != 0;
        if (t->name == NULL || type == NULL)
            rc = cs_fail(err, CS_ENOMEM, "out of memory");
        else if (strcmp(type, "table") != 0)
            *problem = strcmp(type, "view") == 0 ? "it is a view"
                       : strcmp(type, "shadow") == 0
                           ? "it is a shadow table of a virtual table"
                           : "it is a virtual table; the application's triggers keep it right on every device";
        else if (!cs_is_shared(t->name) &&
                 (sqlite3_strnicmp(t->name, "sync_", 5) == 0 || sqlite3_strnicmp(t->name, "sqlite_", 7) == 0))
            *problem = "tables named sync_… and sqlite_… are not the application's";
    } else if (rc == CS_OK) {
        rc = cs_fail(err, CS_ENOTFOUND, "the database has no table \"%s\"", name);
    }
    sqlite3_finalize(s);
    return rc;
}

static int read_column(struct cs_replica *r, struct cs_arena *a, struct cs_table *t, sqlite3_stmt *s,
                       const char **problem, struct cs_error *err)
{
    struct cs_column *c = &t->columns[t->ncolumns];
    const char *type = (const char *)sqlite3_column_text(s, 2), *collation = "BINARY";

    *c = (struct cs_column){ .name = cs_arena_str(a, (const char *)sqlite3_column_text(s, 1)),
                             .id = CS_NO_COLUMN,
                             .key_pos = sqlite3_column_int(s, 5) - 1,
                             .affinity = affinity_of(type != NULL ? type : ""),
                             .notnull = sqlite3_column_int(s, 3) != 0 };
    if (c->name == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if (t->strict && sqlite3_stricmp(type, "ANY") == 0)
        c->affinity = CS_AFF_BLOB;
    if (t->strict)
        c->strict = sqlite3_strnicmp(type, "INT", 3) == 0 ? 'I' : (char)toupper((unsigned char)type[0]);
    if (sqlite3_table_column_metadata(r->db, "main", t->name, c->name, NULL, &collation, NULL, NULL, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read the schema");
    if (!collation_of(collation, &c->collation) && c->key_pos >= 0)
        *problem = "a key column has a collation of the application's own";
    if (c->key_pos >= 0)
        t->nkey++;
    t->ncolumns++;
    return read_default(r, a, c, (const char *)sqlite3_column_text(s, 4), err);
}

static int read_columns(struct cs_replica *r, struct cs_arena *a, struct cs_table *t, const char **problem,
                        struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    uint32_t n = 0;
    int rc = prepare_text(r, &s, "SELECT * FROM pragma_table_xinfo(?1)", t->name, err);

    while (next_row(r, s, &rc, err))
        n++;
    if (rc == CS_OK && ((t->columns = cs_arena_zalloc(a, n + 1, sizeof *t->columns)) == NULL ||
                        (t->key = cs_arena_zalloc(a, n + 1, sizeof *t->key)) == NULL))
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    if (rc == CS_OK)
        sqlite3_reset(s);
    while (next_row(r, s, &rc, err))
        if (sqlite3_column_int(s, 6) == 0) /* neither generated nor hidden */
            rc = read_column(r, a, t, s, problem, err);
    sqlite3_finalize(s);
    for (uint32_t i = 0; rc == CS_OK && i < t->ncolumns; i++)
        if (t->columns[i].key_pos >= 0)
            t->key[t->columns[i].key_pos] = i;
    if (rc == CS_OK && t->nkey == 0)
        *problem = *problem != NULL ? *problem : "it has no primary key";
    return rc;
}

/* The key's own index may compare in another way than its columns: then which rows are one is not what `=` says. */
static int check_key_index(struct cs_replica *r, const struct cs_table *t, const char **problem, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = prepare_text(r, &s,
                          "SELECT x.name, x.coll FROM pragma_index_list(?1) l JOIN pragma_index_xinfo(l.name) x "
                          "WHERE l.origin = 'pk' AND x.key = 1",
                          t->name, err);

    while (next_row(r, s, &rc, err)) {
        const char *name = (const char *)sqlite3_column_text(s, 0);
        enum cs_collation collation;

        for (uint32_t i = 0; i < t->nkey; i++) {
            const struct cs_column *c = &t->columns[t->key[i]];

            if (name != NULL && sqlite3_stricmp(c->name, name) == 0 && *problem == NULL &&
                (!collation_of((const char *)sqlite3_column_text(s, 1), &collation) || collation != c->collation))
                *problem = "its key has another collation than the column";
        }
    }
    sqlite3_finalize(s);
    return rc;
}

/* The condition of a partial index: what follows the column list in its SQL. */
static const char *index_condition(struct cs_arena *a, const char *sql)
{
    const char *p = sql;
    int depth = 0;
    char quote = 0;

    for (; *p != '\0'; p++) {
        if (quote != 0) {
            if (*p == quote)
                quote = 0;
        } else if (*p == '\'' || *p == '"' || *p == '`') {
            quote = *p;
        } else if (*p == '[') {
            quote = ']';
        } else if (*p == '(') {
            depth++;
        } else if (*p == ')' && --depth == 0) {
            break;
        }
    }
    if (*p == '\0')
        return NULL;
    for (p++; isspace((unsigned char)*p); p++)
        ;
    return sqlite3_strnicmp(p, "WHERE", 5) == 0 ? cs_arena_str(a, p + 5) : NULL;
}

static int read_unique(struct cs_replica *r, struct cs_arena *a, struct cs_table *t, const char *index, bool partial,
                       const char **problem, struct cs_error *err)
{
    struct cs_unique *u = &t->uniques[t->nuniques];
    sqlite3_stmt *s = NULL;
    int rc = prepare_text(r, &s, "SELECT name, coll, cid FROM pragma_index_xinfo(?1) WHERE key = 1 ORDER BY seqno",
                          index, err);

    *u = (struct cs_unique){ .cols = cs_arena_zalloc(a, t->ncolumns + 1, sizeof *u->cols),
                             .collations = cs_arena_zalloc(a, t->ncolumns + 1, sizeof *u->collations) };
    if (rc == CS_OK && (u->cols == NULL || u->collations == NULL))
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    while (next_row(r, s, &rc, err)) {
        const char *name = (const char *)sqlite3_column_text(s, 0);
        uint32_t pos = CS_NO_COLUMN;

        for (uint32_t i = 0; name != NULL && i < t->ncolumns; i++)
            if (sqlite3_stricmp(t->columns[i].name, name) == 0)
                pos = i;
        if (pos == CS_NO_COLUMN || u->ncols == t->ncolumns) {
            *problem = "a UNIQUE index is over an expression or a generated column";
            break;
        }
        if (!collation_of((const char *)sqlite3_column_text(s, 1), &u->collations[u->ncols]))
            *problem = "a UNIQUE index has a collation of the application's own";
        u->cols[u->ncols++] = pos;
    }
    sqlite3_finalize(s);
    s = NULL;
    if (rc == CS_OK && partial &&
        (rc = prepare_text(r, &s, "SELECT sql FROM main.sqlite_schema WHERE type = 'index' AND name = ?1", index,
                           err)) == CS_OK) {
        if (next_row(r, s, &rc, err) && sqlite3_column_text(s, 0) != NULL)
            u->where = index_condition(a, (const char *)sqlite3_column_text(s, 0));
        if (rc == CS_OK && u->where == NULL)
            *problem = "the condition of a partial UNIQUE index cannot be read";
        sqlite3_finalize(s);
    }
    t->nuniques++;
    return rc;
}

static int read_uniques(struct cs_replica *r, struct cs_arena *a, struct cs_table *t, const char **problem,
                        struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    uint32_t n = 0;
    int rc = prepare_text(
        r, &s, "SELECT name, partial FROM pragma_index_list(?1) WHERE \"unique\" = 1 AND origin <> 'pk' ORDER BY seq",
        t->name, err);

    while (next_row(r, s, &rc, err))
        n++;
    if (rc == CS_OK && (t->uniques = cs_arena_zalloc(a, n + 1, sizeof *t->uniques)) == NULL)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    if (rc == CS_OK)
        sqlite3_reset(s);
    while (next_row(r, s, &rc, err))
        rc = read_unique(r, a, t, (const char *)sqlite3_column_text(s, 0), sqlite3_column_int(s, 1) != 0, problem, err);
    sqlite3_finalize(s);
    return rc;
}

/* The parent's primary key, for a foreign key that names no columns. */
static int parent_key(struct cs_replica *r, struct cs_arena *a, struct cs_fk *f, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    uint32_t n = 0;
    int rc = prepare_text(r, &s, "SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk", f->parent, err);

    while (next_row(r, s, &rc, err) && n < f->ncols)
        if ((f->refs[n++] = cs_arena_str(a, (const char *)sqlite3_column_text(s, 0))) == NULL)
            rc = cs_fail(err, CS_ENOMEM, "out of memory");
    sqlite3_finalize(s);
    for (; n < f->ncols; n++)
        f->refs[n] = "";
    return rc;
}

static int read_fks(struct cs_replica *r, struct cs_arena *a, struct cs_table *t, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int last = -1,
        rc = prepare_text(
            r, &s, "SELECT id, seq, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?1) ORDER BY id, seq",
            t->name, err);
    uint32_t n = 0;

    while (next_row(r, s, &rc, err))
        n++;
    if (rc == CS_OK && (t->fks = cs_arena_zalloc(a, n + 1, sizeof *t->fks)) == NULL)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    if (rc == CS_OK)
        sqlite3_reset(s);
    while (next_row(r, s, &rc, err)) {
        const char *from = (const char *)sqlite3_column_text(s, 3), *to = (const char *)sqlite3_column_text(s, 4);
        struct cs_fk *f;

        if (sqlite3_column_int(s, 0) != last) {
            last = sqlite3_column_int(s, 0);
            f = &t->fks[t->nfks++];
            *f = (struct cs_fk){ .cols = cs_arena_zalloc(a, n, sizeof *f->cols),
                                 .refs = cs_arena_zalloc(a, n, sizeof *f->refs),
                                 .parent = cs_arena_str(a, (const char *)sqlite3_column_text(s, 2)) };
            if (f->cols == NULL || f->refs == NULL || f->parent == NULL) {
                rc = cs_fail(err, CS_ENOMEM, "out of memory");
                break;
            }
        }
        f = &t->fks[t->nfks - 1];
        for (uint32_t i = 0; i < t->ncolumns; i++)
            if (sqlite3_stricmp(t->columns[i].name, from) == 0)
                f->cols[f->ncols] = i;
        f->refs[f->ncols] = to == NULL ? NULL : cs_arena_str(a, to);
        f->ncols++;
    }
    sqlite3_finalize(s);
    for (uint32_t i = 0; rc == CS_OK && i < t->nfks; i++)
        if (t->fks[i].refs[0] == NULL)
            rc = parent_key(r, a, &t->fks[i], err);
    return rc;
}

static int read_check(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = prepare_text(r, &s, "SELECT sql LIKE '%check%' FROM main.sqlite_schema WHERE type = 'table' AND name = ?1",
                          t->name, err);

    if (next_row(r, s, &rc, err))
        t->has_check = sqlite3_column_int(s, 0) != 0;
    sqlite3_finalize(s);
    return rc;
}

int cs_schema_read_table(struct cs_replica *r, struct cs_arena *a, const char *name, struct cs_table *out,
                         const char **problem, struct cs_error *err)
{
    int rc;

    *out = (struct cs_table){ 0 };
    *problem = NULL;
    if ((rc = read_kind(r, a, name, out, problem, err)) != CS_OK || *problem != NULL ||
        (rc = read_columns(r, a, out, problem, err)) != CS_OK ||
        (rc = check_key_index(r, out, problem, err)) != CS_OK ||
        (rc = read_uniques(r, a, out, problem, err)) != CS_OK || (rc = read_fks(r, a, out, err)) != CS_OK)
        return rc;
    return read_check(r, out, err);
}

/* ---- all tracked tables ---- */

/* A key column carries a cell only where its literal can differ from the canonical key. */
static bool carries_cell(const struct cs_column *c)
{
    return c->key_pos < 0 || c->collation != CS_BINARY || c->affinity == CS_AFF_BLOB;
}

static int number_columns(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    uint32_t id = CS_NO_COLUMN, max = 0;
    int rc = CS_OK;

    for (uint32_t i = 0; i < t->ncolumns && rc == CS_OK; i++) {
        struct cs_slice name = cs_slice_str(t->columns[i].name);

        if ((rc = find_column(r, t->id, name, &id, err)) == CS_ENOTFOUND)
            rc = carries_cell(&t->columns[i]) && !r->read_only ? cs_column_number(r, t->id, name, &id, err) : CS_OK;
        t->columns[i].id = id;
        if (id != CS_NO_COLUMN && id + 1 > max)
            max = id + 1;
    }
    if (rc == CS_OK && max > 0 && (rc = extend_map(r, t->id, max - 1, err)) != CS_OK)
        return rc;
    for (uint32_t i = 0; i < t->ncolumns && rc == CS_OK; i++)
        if (t->columns[i].id != CS_NO_COLUMN)
            t->by_id[t->columns[i].id] = i;
    return rc;
}

static int count_column_ids(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    uint32_t n = 0;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(r->db, "SELECT coalesce(max(id) + 1, 0) FROM main.sync_columns WHERE tbl = ?1", -1, &s,
                           NULL) != SQLITE_OK ||
        sqlite3_bind_int64(s, 1, t->id) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
        rc = cs_db_fail(r, err, "cannot read our tables");
    else
        n = (uint32_t)sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return rc == CS_OK && n > 0 ? extend_map(r, t->id, n - 1, err) : rc;
}

void cs_schema_release(struct cs_replica *r)
{
    cs_apply_schema_changed(r);
    for (size_t i = 0; i < r->ntables; i++)
        sqlite3_finalize(r->tables[i].read);
    cs_arena_free(&r->schema_arena);
    r->tables = NULL;
    r->ntables = 0;
}

int cs_schema_load(struct cs_replica *r, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    const char *problem;
    size_t n = 0, cap = 0;
    int rc = CS_OK, step = SQLITE_DONE;

    cs_schema_release(r);
    if (sqlite3_prepare_v2(r->db,
                           "SELECT id, name, state, show_orphans, backfill IS NOT NULL, count(*) OVER (), gap >= 3 "
                           "FROM main.sync_tables "
                           "WHERE state <> 0 ORDER BY name",
                           -1, &s, NULL) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot read our tables");
    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        struct cs_table t;

        if (cap == 0) {
            cap = (size_t)sqlite3_column_int64(s, 5);
            if ((r->tables = cs_arena_zalloc(&r->schema_arena, cap, sizeof *r->tables)) == NULL) {
                rc = cs_fail(err, CS_ENOMEM, "out of memory");
                break;
            }
        }
        rc = cs_schema_read_table(r, &r->schema_arena, (const char *)sqlite3_column_text(s, 1), &t, &problem, err);
        if (rc == CS_ENOTFOUND || (rc == CS_OK && problem != NULL)) {
            rc = CS_OK; /* dropped, or it became something that cannot be tracked: its rows stay known, and hidden */
            continue;
        }
        t.id = sqlite3_column_int64(s, 0);
        t.state = (enum cs_track_state)sqlite3_column_int(s, 2);
        t.show_orphans = sqlite3_column_int(s, 3) != 0;
        t.backfilling = sqlite3_column_int(s, 4) != 0;
        t.remade = sqlite3_column_int(s, 6) != 0;
        if (rc == CS_OK && n < cap)
            r->tables[n++] = t;
        r->ntables = n;
    }
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read our tables");
    sqlite3_finalize(s);
    for (size_t i = 0; i < n && rc == CS_OK; i++)
        if ((rc = count_column_ids(r, &r->tables[i], err)) == CS_OK)
            rc = number_columns(r, &r->tables[i], err);
    for (size_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < r->tables[i].nfks; k++) {
            struct cs_table *parent = cs_table_by_name(r, cs_slice_str(r->tables[i].fks[k].parent));

            if (parent != NULL)
                parent->is_parent = true;
        }
    if (rc != CS_OK)
        r->schema_version = -1; /* half of it is at hand: it is read again before it is used */
    return rc;
}

struct cs_table *cs_table_by_name(struct cs_replica *r, struct cs_slice name)
{
    for (size_t i = 0; i < r->ntables; i++)
        if (strlen(r->tables[i].name) == name.len &&
            sqlite3_strnicmp(r->tables[i].name, (const char *)name.data, (int)name.len) == 0)
            return &r->tables[i];
    return NULL;
}

struct cs_table *cs_table_by_id(struct cs_replica *r, int64_t id)
{
    for (size_t i = 0; i < r->ntables; i++)
        if (r->tables[i].id == id)
            return &r->tables[i];
    return NULL;
}

bool cs_table_key(const struct cs_table *t, sqlite3_stmt *s, int first, struct cs_buf *out)
{
    struct cs_value v;

    cs_buf_reset(out);
    for (uint32_t i = 0; i < t->nkey; i++) {
        cs_value_from_column(&v, s, first + (int)i);
        if (v.type == CS_NULL)
            return false;
        cs_key_put(out, &v, t->columns[t->key[i]].collation);
    }
    return true;
}

int cs_table_bind_key(const struct cs_table *t, sqlite3_stmt *s, int first_param, struct cs_slice key)
{
    struct cs_reader rd = cs_reader(key);
    struct cs_value v;

    for (uint32_t i = 0; i < t->nkey; i++) {
        if (!cs_key_next(&rd, &v))
            return CS_ECORRUPT;
        if (cs_value_bind(s, first_param + (int)i, &v) != CS_OK)
            return CS_ENOMEM;
    }
    return CS_OK;
}

static int prepare_read(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    int rc = CS_OK;

    for (uint32_t i = 0; i < t->ncolumns; i++) {
        cs_buf_put_str(&sql, i == 0 ? "SELECT " : ", ");
        cs_put_identifier(&sql, t->columns[i].name);
    }
    cs_buf_put_str(&sql, " FROM main.");
    cs_put_identifier(&sql, t->name);
    for (uint32_t i = 0; i < t->nkey; i++) {
        cs_buf_put_str(&sql, i == 0 ? " WHERE " : " AND ");
        cs_put_identifier(&sql, t->columns[t->key[i]].name);
        cs_buf_printf(&sql, " = ?%u", i + 1);
    }
    if (sql.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    else if (sqlite3_prepare_v3(r->db, (const char *)sql.data, (int)sql.len, SQLITE_PREPARE_PERSISTENT, &t->read,
                                NULL) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot read an application's table");
    cs_buf_free(&sql);
    return rc;
}

int cs_table_read(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err)
{
    int rc, step;

    if (t->read == NULL && (rc = prepare_read(r, t, err)) != CS_OK)
        return rc;
    sqlite3_reset(t->read);
    if ((rc = cs_table_bind_key(t, t->read, 1, key)) != CS_OK)
        return cs_fail(err, rc, rc == CS_ENOMEM ? "out of memory" : "a row's key does not fit its table");
    step = sqlite3_step(t->read);
    return step == SQLITE_ROW || step == SQLITE_DONE ? step : cs_db_fail(r, err, "cannot read an application's table");
}
