/* Reading the rows of many operations with one statement. A statement of its own for each row spends as much on
 * beginning and ending as on the row; here it is begun once for a window of operations, and stepped along with them.
 *
 *   SELECT columns FROM (VALUES(key), (key) …) k LEFT JOIN table t ON t.key = k.key
 *
 * Every step looks the row up anew, so it sees what was written since the last one. */
#include "replica/apply.h"

enum { WINDOW = 32, MAX_PARAMS = 999, BEGIN_AFTER = 3 };

/* How many keys fit in a window; less than two: not worth it. */
static uint32_t room(const struct cs_table *t)
{
    return t->nkey > MAX_PARAMS / WINDOW ? MAX_PARAMS / t->nkey : WINDOW;
}

static int prepare(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    uint32_t n = room(t), param = 1;
    int rc = CS_OK;

    for (uint32_t i = 0; i < t->ncolumns; i++) {
        cs_buf_put_str(&sql, i == 0 ? "SELECT t." : ", t.");
        cs_put_identifier(&sql, t->columns[i].name);
    }
    for (uint32_t i = 0; i < n; i++) {
        cs_buf_put_str(&sql, i == 0 ? " FROM (VALUES(" : "), (");
        for (uint32_t k = 0; k < t->nkey; k++)
            cs_buf_printf(&sql, "%s?%u", k > 0 ? ", " : "", param++);
    }
    cs_buf_put_str(&sql, ")) AS k LEFT JOIN main.");
    cs_put_identifier(&sql, t->name);
    cs_buf_put_str(&sql, " AS t");
    for (uint32_t k = 0; k < t->nkey; k++) {
        cs_buf_put_str(&sql, k == 0 ? " ON t." : " AND t.");
        cs_put_identifier(&sql, t->columns[t->key[k]].name);
        cs_buf_printf(&sql, " = k.column%u", k + 1);
    }
    if (sql.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    else if (sqlite3_prepare_v3(r->db, (const char *)sql.data, (int)sql.len, SQLITE_PREPARE_PERSISTENT,
                                &cs_sql_of(t)->ahead, NULL) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot read an application's table");
    cs_buf_free(&sql);
    return rc;
}

void cs_ahead_end(struct cs_ahead *a)
{
    if (a->table != NULL)
        sqlite3_reset(cs_sql_of(a->table)->ahead);
    a->table = NULL;
}

/* Opens a window on this operation and those that follow it in the same table. */
static int begin(struct cs_replica *r, struct cs_ahead *a, struct cs_table *t, const struct cs_delta *d, uint32_t op,
                 struct cs_error *err)
{
    uint32_t n = room(t);
    int rc;

    cs_ahead_end(a);
    if (cs_sql_of(t)->ahead == NULL && (rc = prepare(r, t, err)) != CS_OK)
        return rc;
    a->next = op;
    for (uint32_t i = 0; i < n; i++) {
        bool same = op + i < d->nops && d->ops[op + i].table == d->ops[op].table;

        if (same && cs_table_bind_key(t, cs_sql_of(t)->ahead, (int)(i * t->nkey) + 1, d->ops[op + i].key) != CS_OK)
            same = false; /* a key that does not fit has no row */
        for (uint32_t k = 0; !same && k < t->nkey; k++)
            sqlite3_bind_null(cs_sql_of(t)->ahead, (int)(i * t->nkey + k) + 1);
    }
    a->table = t;
    a->end = op + n;
    return CS_OK;
}

int cs_ahead_read(struct cs_replica *r, struct cs_ahead *a, struct cs_table *t, const struct cs_delta *d, uint32_t op,
                  sqlite3_stmt **out, struct cs_error *err)
{
    int rc, step = SQLITE_ROW;

    a->streak = op == a->last + 1 ? a->streak + 1 : 0;
    a->last = op;
    if (a->table != NULL && a->table == t && op >= a->next && op < a->end) {
        if (op - a->next > BEGIN_AFTER) /* most rows are not asked for */
            cs_ahead_end(a);
    } else {
        cs_ahead_end(a);
    }
    if (a->table == NULL) {
        if (a->streak < BEGIN_AFTER || room(t) < 2) {
            rc = cs_table_read(r, t, d->ops[op].key, err);
            *out = t->read;
            return rc;
        }
        if ((rc = begin(r, a, t, d, op, err)) != CS_OK)
            return rc;
    }
    *out = cs_sql_of(t)->ahead;
    while (a->next <= op && (step = sqlite3_step(*out)) == SQLITE_ROW)
        a->next++;
    if (step != SQLITE_ROW) {
        rc = cs_db_fail(r, err, "cannot read an application's table");
        cs_ahead_end(a);
        return rc;
    }
    return sqlite3_column_type(*out, (int)t->key[0]) == SQLITE_NULL ? SQLITE_DONE : SQLITE_ROW;
}
