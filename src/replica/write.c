/* Writing rows into the application's tables, and what its triggers say to that. A trigger that raises must not block
 * what others have written: the row is set aside, and the batch goes on without it.
 *
 * RAISE(FAIL) leaves what its statement did up to there, and RAISE(ROLLBACK) takes our whole transaction. So each row
 * is written in a savepoint; long transactions do without until a trigger raises, and then begin anew (cs_write_again).
 * A row that rolled back once is not tried again as long as this schema lasts. */
#include "replica/apply.h"
#include "replica/store.h"

void cs_write_begin(struct cs_replica *r)
{
    struct cs_apply *a = cs_apply_of(r);

    if (a == NULL)
        return;
    cs_arena_reset(&a->banned_arena);
    a->banned = NULL;
    a->again = false;
    a->careless = true;
}

bool cs_write_again(struct cs_replica *r)
{
    struct cs_apply *a = cs_apply_of(r);
    bool again = a != NULL && a->again;

    if (a != NULL)
        a->again = a->careless = false;
    return again;
}

static bool is_banned(const struct cs_apply *a, const struct cs_table *t, struct cs_slice key)
{
    for (const struct cs_banned *b = a->banned; b != NULL; b = b->next)
        if (b->table == t->id && cs_slice_eq(b->key, key))
            return true;
    return false;
}

static int ban(struct cs_replica *r, const struct cs_table *t, struct cs_slice key, struct cs_error *err)
{
    struct cs_apply *a = cs_apply_of(r);
    struct cs_banned *b;

    if ((b = cs_arena_zalloc(&a->banned_arena, 1, sizeof *b)) == NULL ||
        (b->key = cs_arena_copy(&a->banned_arena, key)).data == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    b->table = t->id;
    b->next = a->banned;
    a->banned = b;
    return CS_OK;
}

/* The statement of a row was refused by the application. */
static int refused(struct cs_replica *r, const struct cs_table *t, struct cs_slice key, int code, struct cs_error *err)
{
    struct cs_apply *a = cs_apply_of(r);

    if (sqlite3_get_autocommit(r->db)) {
        a->again = true;
        if (ban(r, t, key, err) != CS_OK)
            return CS_ENOMEM;
        return cs_fail(err, CS_EABORTED, "a trigger of table \"%s\" rolled the transaction back", t->name);
    }
    if (code == SQLITE_CONSTRAINT_TRIGGER && a->careless) {
        a->again = true;
        return cs_fail(err, CS_EABORTED, "a trigger of table \"%s\" refused a row", t->name);
    }
    return CS_OK;
}

/* What a statement on the application's table came to. Errors of the disk, the memory or a lock are errors; anything
 * else is the application's own rule, and must not block the batch. */
static int written(struct cs_replica *r, const struct cs_table *t, struct cs_slice key, int step, enum cs_written *out,
                   const char **why, struct cs_error *err)
{
    int code = sqlite3_extended_errcode(r->db);

    if (step == SQLITE_DONE) {
        *out = CS_WRITTEN;
        return CS_OK;
    }
    *out = CS_REFUSED;
    switch (code) {
    case SQLITE_CONSTRAINT_UNIQUE:
    case SQLITE_CONSTRAINT_PRIMARYKEY:
    case SQLITE_CONSTRAINT_ROWID:
        *out = CS_COLLIDES;
        return CS_OK;
    case SQLITE_CONSTRAINT_DATATYPE:
    case SQLITE_MISMATCH:
        *why = "type";
        return CS_OK;
    case SQLITE_CONSTRAINT_NOTNULL:
        *why = "notnull";
        return CS_OK;
    }
    switch (code & 0xff) {
    case SQLITE_CONSTRAINT:
    case SQLITE_ERROR:
    case SQLITE_TOOBIG:
        *why = "trigger";
        return refused(r, t, key, code, err);
    default:
        return cs_db_fail(r, err, "cannot write into an application's table");
    }
}

/* Steps the bound statement, and resets it. */
static int write_row(struct cs_replica *r, const struct cs_table *t, struct cs_slice key, sqlite3_stmt *s,
                     enum cs_written *out, const char **why, struct cs_error *err)
{
    struct cs_apply *a = cs_apply_of(r);
    bool careful = !a->careless;
    int rc;

    if (a->banned != NULL && is_banned(a, t, key)) {
        *out = CS_REFUSED;
        *why = "trigger";
        return CS_OK;
    }
    if (careful && (rc = cs_db_exec(r, "SAVEPOINT cs_row", err)) != CS_OK)
        return rc;
    rc = written(r, t, key, sqlite3_step(s), out, why, err);
    if (rc == CS_OK && *out == CS_WRITTEN && sqlite3_changes(r->db) == 0) { /* a BEFORE trigger with RAISE(IGNORE) */
        *out = CS_REFUSED;
        *why = "trigger";
    }
    sqlite3_reset(s);
    if (careful && rc == CS_OK)
        rc = cs_db_exec(r, *out == CS_WRITTEN ? "RELEASE cs_row" : "ROLLBACK TO cs_row; RELEASE cs_row", err);
    return rc;
}

int cs_show_insert(struct cs_replica *r, struct cs_table *t, struct cs_slice key, const struct cs_value *values,
                   enum cs_written *out, const char **why, struct cs_error *err)
{
    sqlite3_stmt *s = cs_sql_of(t)->insert;

    for (uint32_t i = 0; i < t->ncolumns; i++)
        if (cs_value_bind(s, (int)i + 1, &values[i]) != SQLITE_OK)
            return cs_db_fail(r, err, "cannot bind a value");
    return write_row(r, t, key, s, out, why, err);
}

static sqlite3_stmt *update_stmt(struct cs_replica *r, struct cs_table *t, const uint32_t *cols, uint32_t n,
                                 struct cs_error *err)
{
    struct cs_table_sql *s = cs_sql_of(t);
    struct cs_update_stmt *u;

    for (u = s->updates; u < s->updates + CS_UPDATE_STMTS && u->stmt != NULL; u++)
        if (u->ncols == n && memcmp(u->cols, cols, n * sizeof *cols) == 0)
            return u->stmt;
    if (u == s->updates + CS_UPDATE_STMTS)
        u = &s->updates[s->next_update++ % CS_UPDATE_STMTS];
    sqlite3_finalize(u->stmt);
    u->stmt = NULL;
    if (u->cols == NULL)
        u->cols = cs_arena_zalloc(&s->arena, t->ncolumns, sizeof *u->cols);
    if (u->cols == NULL) {
        cs_fail(err, CS_ENOMEM, "out of memory");
        return NULL;
    }
    memcpy(u->cols, cols, n * sizeof *cols);
    u->ncols = n;
    return cs_show_prepare_update(r, t, cols, n, &u->stmt, err) == CS_OK ? u->stmt : NULL;
}

int cs_show_update(struct cs_replica *r, struct cs_table *t, struct cs_slice key, const uint32_t *cols, uint32_t n,
                   const struct cs_value *values, enum cs_written *out, const char **why, struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc;

    *out = CS_WRITTEN;
    if (n == 0)
        return CS_OK;
    if ((s = update_stmt(r, t, cols, n, err)) == NULL)
        return err != NULL ? err->code : CS_EDB;
    for (uint32_t i = 0; i < n; i++)
        if (cs_value_bind(s, (int)i + 1, &values[cols[i]]) != SQLITE_OK)
            return cs_db_fail(r, err, "cannot bind a value");
    if (cs_table_bind_key(t, s, (int)n + 1, key) != CS_OK)
        return cs_fail(err, CS_EINTERNAL, "a key that does not fit its table");
    cs_guard_arm(r, t, 0);
    rc = write_row(r, t, key, s, out, why, err);
    cs_guard_disarm(r);
    return rc;
}

/* The row must go, whatever the application's triggers say: everybody else's table is without it. */
static int delete_unasked(struct cs_replica *r, sqlite3_stmt *s, struct cs_error *err)
{
    bool on = !cs_apply_of(r)->triggers_off;
    int rc;

    sqlite3_db_config(r->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    rc = sqlite3_step(s) == SQLITE_DONE ? CS_OK : cs_db_fail(r, err, "cannot delete from an application's table");
    sqlite3_reset(s);
    sqlite3_db_config(r->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, (int)on, NULL);
    return rc;
}

int cs_show_delete(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err)
{
    sqlite3_stmt *s = cs_sql_of(t)->del;
    enum cs_written out;
    const char *why = NULL;
    int rc, step;

    if (cs_table_bind_key(t, s, 1, key) != CS_OK)
        return cs_fail(err, CS_EINTERNAL, "a key that does not fit its table");
    cs_guard_arm(r, t, 1);
    rc = write_row(r, t, key, s, &out, &why, err);
    cs_guard_disarm(r);
    if (rc != CS_OK || out == CS_WRITTEN)
        return rc;
    step = cs_table_read(r, t, key, err); /* nothing was deleted: was there anything? */
    sqlite3_reset(t->read);
    if (step != SQLITE_ROW)
        return step == SQLITE_DONE ? CS_OK : step;
    return delete_unasked(r, s, err);
}
