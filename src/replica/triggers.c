/* The capture triggers: plain SQL, for they run in the application's connections. One small changelog row per changed
 * row; no functions of ours, nothing that can fail. Named sync_TABLE_… with the table's number. The text of all of a
 * table's triggers is its shape: kept in sync_tables, so that a changed schema shows. */
#include "replica/statements.h"
#include "replica/store.h"

/* A mask says which of 62 consecutive column numbers changed. A table has about four update triggers, each for a share
 * of its columns: one for all would compare every column in every update; one for each would log a wide update many
 * times. Sealing joins what one statement logged of one row. */
enum { MASK_BITS = 62, UPDATE_TRIGGERS = 4 };

/* As SQLite's clock gives it; sealing makes milliseconds of it. */
#define NOW "julianday()"

static void put_column(struct cs_buf *sql, const char *row, const struct cs_column *c)
{
    cs_buf_put_str(sql, row);
    cs_put_identifier(sql, c->name);
}

static void put_name(struct cs_buf *sql, const struct cs_table *t, const char *kind, uint32_t group)
{
    cs_buf_printf(sql, "CREATE TRIGGER sync_%lld_%s%u ", (long long)t->id, kind, group);
}

static void put_into(struct cs_buf *sql, const struct cs_table *t, bool mask)
{
    cs_buf_printf(sql, "INSERT INTO sync_changelog(tbl, op, %sms", mask ? "mask, " : "");
    for (uint32_t i = 0; i < t->nkey; i++)
        cs_buf_printf(sql, ", k%u", i + 1);
    cs_buf_put_str(sql, ") ");
}

static void put_key(struct cs_buf *sql, const struct cs_table *t, const char *row)
{
    for (uint32_t i = 0; i < t->nkey; i++) {
        cs_buf_put_str(sql, ", ");
        put_column(sql, row, &t->columns[t->key[i]]);
    }
}

static void put_log(struct cs_buf *sql, const struct cs_table *t, int op, const char *row)
{
    put_into(sql, t, false);
    cs_buf_printf(sql, "VALUES(%lld, %d, " NOW, (long long)t->id, op);
    put_key(sql, t, row);
    cs_buf_put_str(sql, ");");
}

static void put_on(struct cs_buf *sql, const struct cs_table *t)
{
    cs_buf_put_str(sql, " ON ");
    cs_put_identifier(sql, t->name);
    cs_buf_put_u8(sql, ' ');
}

/* Did the column change, to the bit? IS NOT alone misses 'bob' -> 'Bob' under NOCASE, and 1 -> 1.0 without affinity. */
static void put_changed(struct cs_buf *sql, const struct cs_column *c)
{
    cs_buf_put_u8(sql, '(');
    put_column(sql, "OLD.", c);
    cs_buf_put_str(sql, " IS NOT ");
    put_column(sql, "NEW.", c);
    if (c->collation != CS_BINARY)
        cs_buf_put_str(sql, " COLLATE BINARY");
    if (c->affinity == CS_AFF_BLOB) {
        /* only numbers can be equal in two types, and numbers are below every text */
        cs_buf_put_str(sql, " OR (");
        put_column(sql, "OLD.", c);
        cs_buf_put_str(sql, " < '' AND typeof(");
        put_column(sql, "OLD.", c);
        cs_buf_put_str(sql, ") IS NOT typeof(");
        put_column(sql, "NEW.", c);
        cs_buf_put_str(sql, "))");
    }
    cs_buf_put_u8(sql, ')');
}

/* OLD and NEW have the same key (or not), as the table compares keys. */
static void put_same_key(struct cs_buf *sql, const struct cs_table *t, bool same)
{
    for (uint32_t i = 0; i < t->nkey; i++) {
        cs_buf_put_str(sql, i == 0 ? "" : same ? " AND " : " OR ");
        put_column(sql, "OLD.", &t->columns[t->key[i]]);
        cs_buf_put_str(sql, same ? " IS " : " IS NOT ");
        put_column(sql, "NEW.", &t->columns[t->key[i]]);
    }
}

/* Columns first … last of the table's numbers, of which `n` exist: what one update trigger watches. */
struct group {
    uint32_t first, last, n;
};

static struct group next_group(const struct cs_table *t, uint32_t first)
{
    struct group g = { .first = first, .last = first };
    uint32_t present = 0, most;

    for (uint32_t id = 0; id < t->ncolumn_ids; id++)
        present += t->by_id[id] != CS_NO_COLUMN;
    most = (present + UPDATE_TRIGGERS - 1) / UPDATE_TRIGGERS;
    for (uint32_t id = first; id < t->ncolumn_ids && id / MASK_BITS == first / MASK_BITS && g.n < most; id++) {
        g.n += t->by_id[id] != CS_NO_COLUMN;
        g.last = id;
    }
    return g;
}

/* Names the columns it watches, so that a statement that sets none of them does not pay for it. */
static void put_update(struct cs_buf *sql, const struct cs_table *t, struct group g)
{
    struct cs_buf of = { 0 }, when = { 0 }, mask = { 0 };

    for (uint32_t id = g.first; id <= g.last; id++) {
        const struct cs_column *c = t->by_id[id] != CS_NO_COLUMN ? &t->columns[t->by_id[id]] : NULL;

        if (c == NULL)
            continue;
        put_column(&of, of.len > 0 ? ", " : "", c);
        cs_buf_put_str(&when, when.len > 0 ? " OR " : "");
        put_changed(&when, c);
        cs_buf_put_str(&mask, mask.len > 0 ? " | " : "");
        if (g.n == 1) { /* there is no doubt which */
            cs_buf_printf(&mask, "%lld", 1LL << id % MASK_BITS);
            continue;
        }
        /* a condition, unlike a value, is evaluated no further than it must be */
        cs_buf_put_str(&mask, "CASE WHEN ");
        put_changed(&mask, c);
        cs_buf_printf(&mask, " THEN %lld ELSE 0 END", 1LL << id % MASK_BITS);
    }
    put_name(sql, t, "upd", g.first);
    cs_buf_put_str(sql, "AFTER UPDATE OF ");
    cs_buf_put_slice(sql, cs_buf_slice(&of));
    put_on(sql, t);
    cs_buf_put_str(sql, "WHEN ");
    put_same_key(sql, t, true);
    cs_buf_put_str(sql, " AND (");
    cs_buf_put_slice(sql, cs_buf_slice(&when));
    cs_buf_put_str(sql, ") BEGIN ");
    put_into(sql, t, true);
    cs_buf_printf(sql, "VALUES(%lld, %u, ", (long long)t->id, 2 + 16 * (g.first / MASK_BITS));
    cs_buf_put_slice(sql, cs_buf_slice(&mask));
    cs_buf_put_str(sql, ", " NOW);
    put_key(sql, t, "NEW.");
    cs_buf_put_str(sql, "); END;\n");
    sql->failed = sql->failed || of.failed || when.failed || mask.failed;
    cs_buf_free(&of);
    cs_buf_free(&when);
    cs_buf_free(&mask);
}

/* A change of key is a delete and an insert. Naming the key's columns spares all other updates this trigger; a rowid
 * alias can be assigned under the name rowid too. */
static void put_rekey(struct cs_buf *sql, const struct cs_table *t)
{
    bool may_be_rowid = !t->without_rowid && t->nkey == 1 && t->columns[t->key[0]].affinity == CS_AFF_INTEGER;

    put_name(sql, t, "key", 0);
    cs_buf_put_str(sql, "AFTER UPDATE");
    for (uint32_t i = 0; i < t->nkey && !may_be_rowid; i++)
        put_column(sql, i == 0 ? " OF " : ", ", &t->columns[t->key[i]]);
    put_on(sql, t);
    cs_buf_put_str(sql, "WHEN ");
    put_same_key(sql, t, false);
    cs_buf_put_str(sql, " BEGIN ");
    put_log(sql, t, 3, "OLD.");
    cs_buf_put_u8(sql, ' ');
    put_log(sql, t, 1, "NEW.");
    cs_buf_put_str(sql, " END;\n");
}

/* The columns of UNIQUE indexes; none when one is partial, since any column can bring a row into it. */
static void put_of_uniques(struct cs_buf *sql, const struct cs_table *t)
{
    const char *before = " OF ";

    for (uint32_t i = 0; i < t->nuniques; i++)
        if (t->uniques[i].where != NULL)
            return;
    for (uint32_t i = 0; i < t->nuniques; i++)
        for (uint32_t k = 0; k < t->uniques[i].ncols; k++) {
            put_column(sql, before, &t->columns[t->uniques[i].cols[k]]);
            before = ", ";
        }
}

/* REPLACE that displaces another row through a secondary UNIQUE fires no delete trigger: the keys about to collide. */
static void put_suspects(struct cs_buf *sql, const struct cs_table *t, bool update)
{
    static const char *const names[] = { "BINARY", "NOCASE", "RTRIM" };

    if (t->nuniques == 0)
        return;
    put_name(sql, t, update ? "sup" : "sin", 0);
    cs_buf_put_str(sql, update ? "BEFORE UPDATE" : "BEFORE INSERT");
    if (update)
        put_of_uniques(sql, t);
    put_on(sql, t);
    cs_buf_put_str(sql, "BEGIN ");
    for (uint32_t i = 0; i < t->nuniques; i++) {
        const struct cs_unique *u = &t->uniques[i];

        put_into(sql, t, false);
        cs_buf_printf(sql, "SELECT %lld, 4, " NOW, (long long)t->id);
        put_key(sql, t, "");
        cs_buf_put_str(sql, " FROM ");
        cs_put_identifier(sql, t->name);
        for (uint32_t k = 0; k < u->ncols; k++) {
            cs_buf_put_str(sql, k > 0 ? " AND " : " WHERE ");
            put_column(sql, "", &t->columns[u->cols[k]]);
            cs_buf_put_str(sql, " = ");
            put_column(sql, "NEW.", &t->columns[u->cols[k]]);
            cs_buf_printf(sql, " COLLATE %s", names[u->collations[k]]);
        }
        if (update) {
            cs_buf_put_str(sql, " AND NOT (");
            for (uint32_t k = 0; k < t->nkey; k++) {
                cs_buf_put_str(sql, k > 0 ? " AND " : "");
                put_column(sql, "", &t->columns[t->key[k]]);
                cs_buf_put_str(sql, " IS ");
                put_column(sql, "OLD.", &t->columns[t->key[k]]);
            }
            cs_buf_put_u8(sql, ')');
        }
        cs_buf_put_str(sql, "; ");
    }
    cs_buf_put_str(sql, "END;\n");
}

static void put_all(struct cs_buf *sql, const struct cs_table *t)
{
    struct group g;

    put_name(sql, t, "ins", 0);
    cs_buf_put_str(sql, "AFTER INSERT");
    put_on(sql, t);
    cs_buf_put_str(sql, "BEGIN ");
    put_log(sql, t, 1, "NEW.");
    cs_buf_put_str(sql, " END;\n");
    put_name(sql, t, "del", 0);
    cs_buf_put_str(sql, "AFTER DELETE");
    put_on(sql, t);
    cs_buf_put_str(sql, "BEGIN ");
    put_log(sql, t, 3, "OLD.");
    cs_buf_put_str(sql, " END;\n");
    for (uint32_t id = 0; id < t->ncolumn_ids; id = g.last + 1) {
        g = next_group(t, id);
        if (g.n > 0)
            put_update(sql, t, g);
    }
    put_rekey(sql, t);
    put_suspects(sql, t, false);
    put_suspects(sql, t, true);
    cs_buf_put_u8(sql, 0);
}

/* The changelog has a column for each part of the key. */
static int widen_changelog(struct cs_replica *r, uint32_t nkey, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    uint32_t have = 0;
    char sql[80];
    int rc = CS_OK;

    if (sqlite3_prepare_v2(r->db, "SELECT count(*) - 5 FROM pragma_table_info('sync_changelog')", -1, &s, NULL) !=
            SQLITE_OK ||
        sqlite3_step(s) != SQLITE_ROW)
        rc = cs_db_fail(r, err, "cannot read our tables");
    else
        have = (uint32_t)sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    for (; have < nkey && rc == CS_OK; have++) {
        sqlite3_snprintf(sizeof sql, sql, "ALTER TABLE main.sync_changelog ADD COLUMN k%u", have + 1);
        rc = cs_db_exec(r, sql, err);
    }
    return rc;
}

static int save_shape(struct cs_replica *r, int64_t table, const char *shape, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(r->db, "UPDATE main.sync_tables SET shape = ?2 WHERE id = ?1", -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot write our tables");
    sqlite3_bind_int64(s, 1, table);
    sqlite3_bind_text(s, 2, shape, -1, SQLITE_STATIC);
    if (sqlite3_step(s) != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot write our tables");
    sqlite3_finalize(s);
    return rc;
}

int cs_triggers_install(struct cs_replica *r, const struct cs_table *t, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    int rc;

    put_all(&sql, t);
    if (sql.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    else if ((rc = cs_triggers_drop(r, t->id, err)) == CS_OK && (rc = widen_changelog(r, t->nkey, err)) == CS_OK &&
             (rc = cs_db_exec(r, (const char *)sql.data, err)) == CS_OK)
        rc = save_shape(r, t->id, (const char *)sql.data, err);
    cs_buf_free(&sql);
    return rc;
}

int cs_triggers_drop(struct cs_replica *r, int64_t table, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    sqlite3_stmt *s = NULL;
    char prefix[40];
    int rc = CS_OK;

    sqlite3_snprintf(sizeof prefix, prefix, "sync\\_%lld\\_%%", (long long)table);
    if (sqlite3_prepare_v2(r->db,
                           "SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND name LIKE ?1 ESCAPE '\\'",
                           -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read the schema");
    sqlite3_bind_text(s, 1, prefix, -1, SQLITE_STATIC);
    while (cs_db_row(r, s, &rc, "cannot read the schema", err)) {
        cs_buf_put_str(&sql, "DROP TRIGGER main.");
        cs_put_identifier(&sql, (const char *)sqlite3_column_text(s, 0));
        cs_buf_put_str(&sql, "; ");
    }
    sqlite3_finalize(s);
    cs_buf_put_u8(&sql, 0);
    if (rc == CS_OK)
        rc = sql.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : cs_db_exec(r, (const char *)sql.data, err);
    cs_buf_free(&sql);
    return rc;
}

int cs_triggers_present(struct cs_replica *r, const struct cs_table *t, bool *present, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    sqlite3_stmt *s = NULL;
    int64_t want = 0;
    char prefix[40];
    int rc = CS_OK;

    put_all(&sql, t);
    if (sql.failed) {
        cs_buf_free(&sql);
        return cs_fail(err, CS_ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < sql.len; i++)
        want += sql.data[i] == '\n';
    sqlite3_snprintf(sizeof prefix, prefix, "sync\\_%lld\\_%%", (long long)t->id);
    if (sqlite3_prepare_v2(r->db,
                           "SELECT shape IS ?2 AND (SELECT count(*) FROM main.sqlite_schema WHERE type = 'trigger' AND "
                           "name LIKE ?3 ESCAPE '\\' AND tbl_name = ?4) = ?5 FROM main.sync_tables WHERE id = ?1",
                           -1, &s, NULL) != SQLITE_OK) {
        rc = cs_db_fail(r, err, "cannot read the schema");
    } else {
        sqlite3_bind_int64(s, 1, t->id);
        sqlite3_bind_text(s, 2, (const char *)sql.data, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 3, prefix, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 4, t->name, -1, SQLITE_STATIC);
        sqlite3_bind_int64(s, 5, want);
        if (sqlite3_step(s) != SQLITE_ROW)
            rc = cs_db_fail(r, err, "cannot read the schema");
        else
            *present = sqlite3_column_int(s, 0) != 0;
    }
    sqlite3_finalize(s);
    cs_buf_free(&sql);
    return rc;
}

/* SQLite keeps a trigger's text as it was given, without the semicolon behind it. */
static int count_text(struct cs_replica *r, sqlite3_stmt *s, const struct cs_table *t, struct cs_slice text,
                      bool *exact, struct cs_error *err)
{
    sqlite3_bind_text(s, 1, t->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 2, (const char *)text.data, (int)text.len, SQLITE_STATIC);
    if (sqlite3_step(s) != SQLITE_ROW)
        return cs_db_fail(r, err, "cannot read the schema");
    *exact = *exact && sqlite3_column_int(s, 0) == 1;
    sqlite3_reset(s);
    return CS_OK;
}

int cs_triggers_exact(struct cs_replica *r, const struct cs_table *t, bool *exact, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    sqlite3_stmt *s = NULL;
    const uint8_t *p, *end;
    int rc = cs_triggers_present(r, t, exact, err);

    if (rc != CS_OK || !*exact)
        return rc;
    put_all(&sql, t);
    if (sql.failed) {
        cs_buf_free(&sql);
        return cs_fail(err, CS_ENOMEM, "out of memory");
    }
    if (sqlite3_prepare_v2(r->db,
                           "SELECT count(*) FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 AND "
                           "sql = ?2",
                           -1, &s, NULL) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot read the schema");
    for (p = sql.data; rc == CS_OK && *exact && (end = (const uint8_t *)strstr((const char *)p, " END;\n")) != NULL;
         p = end + 6)
        rc = count_text(r, s, t, cs_slice(p, (size_t)(end + 4 - p)), exact, err);
    sqlite3_finalize(s);
    cs_buf_free(&sql);
    return rc;
}
