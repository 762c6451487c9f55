#include "replica/apply.h"

/* The application's triggers run while we apply, and what they write into tracked tables must have no effect: the
 * device that made the change sends its own result. Three means, because no single one covers all:
 *   nested INSERT and UPDATE: the authorizer answers SQLITE_IGNORE, and SQLite compiles them to nothing (an UPDATE to
 *     one that assigns no column). Our own capture triggers vanish by the same rule.
 *   nested DELETE, and what an UPDATE without columns would still set off: a TEMP trigger that fires before all others
 *     and ignores the row, unless the engine armed it for its own statement. TEMP triggers of a table fire first
 *     (sqlite3TriggerList puts them at the head), so the engine's own row is the first that a guard sees.
 * Guards cost time in every UPDATE and DELETE; a table gets one only when some trigger was seen to aim at it.
 *
 * Where no tracked table has a trigger of the application's, triggers are off on this connection altogether: one that
 * compiles to nothing still makes SQLite enter its program, and keep a statement journal, for every row. */

static bool is_ours(const char *name)
{
    return sqlite3_strnicmp(name, "sync_", 5) == 0;
}

static int aimed_at(struct cs_replica *r, const char *name, int which)
{
    struct cs_table *t = cs_table_by_name(r, cs_slice_str(name));

    if (t == NULL)
        return SQLITE_OK;
    if (t->apply != NULL && !cs_sql_of(t)->guard[which]) {
        cs_sql_of(t)->guard[which] = true;
        cs_apply_of(r)->guards_wanted = true;
    }
    return SQLITE_IGNORE;
}

static int authorize(void *arg, int action, const char *table, const char *more, const char *database,
                     const char *trigger)
{
    struct cs_replica *r = arg;

    (void)more;
    if (trigger == NULL || table == NULL || database == NULL || strcmp(database, "main") != 0)
        return SQLITE_OK;
    switch (action) {
    case SQLITE_INSERT:
        return is_ours(table) || cs_table_by_name(r, cs_slice_str(table)) != NULL ? SQLITE_IGNORE : SQLITE_OK;
    case SQLITE_UPDATE:
        return is_ours(table) ? SQLITE_IGNORE : aimed_at(r, table, 0);
    case SQLITE_DELETE:
        aimed_at(r, table, 1); /* IGNORE would not stop a DELETE: the guard does */
        return SQLITE_OK;
    default:
        return SQLITE_OK;
    }
}

/* sync_foreign(): is the row that this guard sees touched by anyone but the engine? */
static void foreign(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    struct cs_apply *a = sqlite3_user_data(ctx);

    (void)argc;
    (void)argv;
    sqlite3_result_int(ctx, !a->armed);
    a->armed = false;
}

int cs_guard_open(struct cs_replica *r, struct cs_error *err)
{
    int flags = SQLITE_UTF8 | SQLITE_INNOCUOUS;

    if (sqlite3_create_function(r->db, "sync_foreign", 0, flags, r->apply, foreign, NULL, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot add the guard function");
    if (sqlite3_set_authorizer(r->db, authorize, r) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot set the authorizer");
    return CS_OK;
}

static bool is_capture(const struct cs_table *t, const char *trigger)
{
    char prefix[40];

    sqlite3_snprintf(sizeof prefix, prefix, "sync_%lld_", (long long)t->id);
    return strncmp(trigger, prefix, strlen(prefix)) == 0;
}

static int set_triggers(struct cs_replica *r, bool on, struct cs_error *err)
{
    struct cs_apply *a = cs_apply_of(r);

    if (on != a->triggers_off)
        return CS_OK;
    if (sqlite3_db_config(r->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, (int)on, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot turn triggers on or off");
    a->triggers_off = !on;
    return CS_OK;
}

int cs_guard_all_triggers(struct cs_replica *r, struct cs_error *err)
{
    return set_triggers(r, true, err);
}

int cs_guard_triggers(struct cs_replica *r, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    bool any = false;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(r->db, "SELECT tbl_name, name FROM main.sqlite_schema WHERE type = 'trigger'", -1, &s,
                           NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read the schema");
    while (!any && cs_db_row(r, s, &rc, "cannot read the schema", err)) {
        const char *table = (const char *)sqlite3_column_text(s, 0), *name = (const char *)sqlite3_column_text(s, 1);
        const struct cs_table *t = table != NULL ? cs_table_by_name(r, cs_slice_str(table)) : NULL;

        any = name == NULL || table == NULL || (t != NULL && !is_capture(t, name));
    }
    sqlite3_finalize(s);
    return rc == CS_OK ? set_triggers(r, any, err) : rc;
}

static int install(struct cs_replica *r, struct cs_table *t, int which, struct cs_error *err)
{
    static const char *const names[] = { "UPDATE", "DELETE" };
    struct cs_buf sql = { 0 };
    int rc;

    cs_buf_printf(&sql,
                  "DROP TRIGGER IF EXISTS temp.sync_guard_%lld_%d; "
                  "CREATE TEMP TRIGGER sync_guard_%lld_%d BEFORE %s ON main.",
                  (long long)t->id, which, (long long)t->id, which, names[which]);
    cs_put_identifier(&sql, t->name);
    cs_buf_put_str(&sql, " WHEN sync_foreign() BEGIN SELECT RAISE(IGNORE); END");
    cs_buf_put_u8(&sql, 0);
    rc = sql.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : cs_db_exec(r, (const char *)sql.data, err);
    cs_buf_free(&sql);
    if (rc == CS_OK)
        cs_sql_of(t)->guarded[which] = true;
    return rc;
}

static int install_wanted(struct cs_replica *r, struct cs_error *err)
{
    struct cs_apply *a = cs_apply_of(r);
    int rc = CS_OK;

    a->guards_wanted = false;
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++) {
        struct cs_table_sql *s = cs_sql_of(&r->tables[i]);

        for (int w = 0; s != NULL && w < 2 && rc == CS_OK; w++)
            if (s->guard[w] && !s->guarded[w])
                rc = install(r, &r->tables[i], w, err);
    }
    if (rc != CS_OK)
        a->guards_wanted = true;
    return rc;
}

int cs_guard_table(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    int rc = CS_OK;

    if (!cs_sql_of(t)->probed) {
        cs_sql_of(t)->probed = true;
        if ((rc = cs_show_prepare(r, t, err)) != CS_OK)
            cs_sql_of(t)->probed = false;
    }
    if (rc == CS_OK && cs_apply_of(r)->guards_wanted)
        rc = install_wanted(r, err);
    return rc;
}

void cs_guard_rolled_back(struct cs_replica *r)
{
    struct cs_apply *a = cs_apply_of(r);

    for (size_t i = 0; i < r->ntables; i++) {
        struct cs_table_sql *s = cs_sql_of(&r->tables[i]);

        if (s == NULL)
            continue;
        for (int w = 0; w < 2; w++) {
            a->guards_wanted |= s->guarded[w];
            s->guarded[w] = false;
        }
    }
    a->armed = false;
}
