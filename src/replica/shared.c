/* CS_SHARED, a table of ours that is replicated like any of the application's: a resolution or a strategy is an
 * ordinary change of a row, so it is sealed, encrypted, signed and ordered with everything else, reaches devices that
 * were offline and devices that come later, and no hub can withhold, forge or replay it unseen. It is made on first
 * use.
 *
 *   what 'resolved', name a conflict's id (16 bytes), value 'kept', 'taken' or 'given'; a row never goes
 *   what 'strategy', name the table's name, or table's ‖ 0 ‖ column's; value 'manual' or 'last_write_wins' */
#include "replica/apply.h"
#include "replica/review.h"
#include "replica/store.h"

int cs_shared_create(struct cs_replica *r, struct cs_error *err)
{
    return cs_db_exec(r,
                      "CREATE TABLE IF NOT EXISTS main." CS_SHARED
                      "(what TEXT NOT NULL, name BLOB NOT NULL, value, PRIMARY KEY(what, name)) WITHOUT ROWID",
                      err);
}

int cs_shared_ensure(struct cs_replica *r, struct cs_error *err)
{
    return cs_replica_track(r, CS_SHARED, NULL, err);
}

int cs_shared_get(struct cs_replica *r, const char *what, struct cs_slice name, struct cs_slice *value,
                  struct cs_error *err)
{
    sqlite3_stmt *s;
    int step, rc = CS_ENOTFOUND;

    if (cs_table_by_name(r, cs_slice_str(CS_SHARED)) == NULL)
        return CS_ENOTFOUND;
    if ((s = cs_apply_stmt(r, CS_OWN_SHARED, err)) == NULL)
        return err_code(err);
    sqlite3_bind_text(s, 1, what, -1, SQLITE_STATIC);
    cs_db_bind_slice(s, 2, name);
    if ((step = sqlite3_step(s)) == SQLITE_ROW) {
        *value = cs_arena_copy(&r->scratch, cs_db_column_blob(s, 0));
        rc = value->data == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
    } else if (step != SQLITE_DONE) {
        rc = cs_db_fail(r, err, "cannot read what the devices share");
    }
    sqlite3_reset(s);
    return rc;
}

/* ---- strategies ---- */

static void put_name(struct cs_buf *out, struct cs_slice table, struct cs_slice column)
{
    cs_buf_reset(out);
    cs_buf_put_slice(out, table);
    if (column.len == 0)
        return;
    cs_buf_put_u8(out, 0);
    cs_buf_put_slice(out, column);
}

static int ask(struct cs_replica *r, struct cs_slice table, struct cs_slice column, bool *manual, struct cs_error *err)
{
    struct cs_buf name = { 0 };
    struct cs_slice value;
    int rc;

    put_name(&name, table, column);
    rc = name.failed ? cs_fail(err, CS_ENOMEM, "out of memory")
                     : cs_shared_get(r, "strategy", cs_buf_slice(&name), &value, err);
    cs_buf_free(&name);
    *manual = rc == CS_OK && cs_slice_eq(value, cs_slice_str("manual"));
    return rc;
}

int cs_strategy_is_manual(struct cs_replica *r, int64_t table, struct cs_slice column, bool *manual,
                          struct cs_error *err)
{
    const struct cs_table *t = cs_table_by_id(r, table);
    int rc;

    *manual = false;
    if (t == NULL)
        return CS_OK;
    if ((rc = ask(r, cs_slice_str(t->name), column, manual, err)) == CS_ENOTFOUND)
        rc = ask(r, cs_slice_str(t->name), CS_SLICE_NULL, manual, err);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

static int set_shared(sqlite3 *db, struct cs_slice name, const char *value, struct cs_error *err)
{
    static const char sql[] = "INSERT INTO main." CS_SHARED "(what, name, value) VALUES('strategy', ?1, ?2) "
                              "ON CONFLICT DO UPDATE SET value = excluded.value";
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK ||
        sqlite3_bind_blob(s, 1, name.data, (int)name.len, SQLITE_STATIC) != SQLITE_OK ||
        sqlite3_bind_text(s, 2, value, -1, SQLITE_STATIC) != SQLITE_OK || sqlite3_step(s) != SQLITE_DONE)
        rc = cs_application_fail(db, "cannot set the strategy", err);
    sqlite3_finalize(s);
    return rc;
}

static bool has_column(const struct cs_table *t, const char *column)
{
    for (uint32_t i = 0; i < t->ncolumns; i++)
        if (strcmp(t->columns[i].name, column) == 0)
            return true;
    return false;
}

int cs_replica_set_strategy(cs_replica *r, const struct cs_replica_options *o, const char *table, const char *column,
                            bool manual, struct cs_error *err)
{
    struct cs_buf name = { 0 };
    struct cs_table *t = cs_table_by_name(r, cs_slice_str(table));
    sqlite3 *db = NULL;
    int rc;

    if (t == NULL || cs_is_shared(table))
        return cs_fail(err, CS_ENOTFOUND, "table \"%s\" is not tracked", table);
    if (column != NULL && !has_column(t, column))
        return cs_fail(err, CS_ENOTFOUND, "table \"%s\" has no column \"%s\"", table, column);
    put_name(&name, cs_slice_str(t->name), column == NULL ? CS_SLICE_NULL : cs_slice_str(column));
    rc = name.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : cs_shared_ensure(r, err);
    if (rc == CS_OK && (rc = cs_application_open(&db, o, err)) == CS_OK)
        rc = set_shared(db, cs_buf_slice(&name), manual ? "manual" : "last_write_wins", err);
    rc = cs_application_close(db, rc, err);
    cs_buf_free(&name);
    return rc;
}

int cs_replica_strategies(cs_replica *r, int (*fn)(void *arg, const struct cs_strategy *s), void *arg,
                          struct cs_error *err)
{
    static const char sql[] =
        "SELECT name, length(name), value = 'manual' FROM main." CS_SHARED " WHERE what = 'strategy' ORDER BY name";
    sqlite3_stmt *s = NULL;
    bool stop = false;
    int rc = CS_OK;

    if (cs_table_by_name(r, cs_slice_str(CS_SHARED)) == NULL)
        return CS_OK;
    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read the strategies");
    while (!stop && cs_db_row(r, s, &rc, "cannot read the strategies", err)) {
        const char *name = (const char *)sqlite3_column_text(s, 0);
        size_t n = (size_t)sqlite3_column_bytes(s, 0);
        struct cs_strategy x = { .table = name, .manual = sqlite3_column_int(s, 2) != 0 };

        if (name == NULL)
            continue;
        if (strlen(name) < n)
            x.column = name + strlen(name) + 1;
        stop = fn(arg, &x) != 0;
    }
    sqlite3_finalize(s);
    return rc;
}
