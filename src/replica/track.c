/* What is tracked: begin, end, pause, and noticing that the application's schema changed. Every change is one
 * transaction, which begins anew where a trigger of the application refuses a row (write.c). */
#include "replica/apply.h"
#include "replica/statements.h"
#include "replica/store.h"

static const char *const usual[] = { "memories",     "memory_tags", "memory_records", "sessions", "session_state",
                                     "tool_outputs", "tool_output", "active_memory",  "context" };
enum { NUSUAL = sizeof usual / sizeof usual[0] };

/* Runs a statement with a table's number (?1) and an integer (?2). */
/* No table has this name any more. */
#define IS_GONE(name)                                                                                                  \
    "NOT EXISTS (SELECT 1 FROM main.sqlite_schema o WHERE o.type = 'table' AND o.name = " name " COLLATE NOCASE)"

int cs_tables_run(struct cs_replica *r, const char *sql, int64_t table, int64_t value, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot write our tables");
    sqlite3_bind_int64(s, 1, table);
    if (sqlite3_bind_parameter_count(s) > 1)
        sqlite3_bind_int64(s, 2, value);
    if (sqlite3_step(s) != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot write our tables");
    sqlite3_finalize(s);
    return rc;
}

/* Ends a transaction of this file: commits, and remembers the schema that our own changes made. It began by
 * cs_db_begin_with_schema: what the application had changed was taken up, and only ours is new. */
static int end(struct cs_replica *r, int rc, struct cs_error *err)
{
    struct cs_error ignored;
    int64_t now = 0;

    /* kept with the rows, so that a change while no engine runs is noticed by the next one */
    if (rc == CS_OK && (rc = cs_schema_version(r, &now, err)) == CS_OK)
        rc = cs_meta_put_int(r, "schema", now, err);
    if (rc == CS_OK)
        rc = cs_db_commit(r, err);
    else
        cs_db_rollback(r);
    if (rc != CS_OK)
        cs_schema_load(r, &ignored);
    else
        r->schema_version = now;
    return rc;
}

/* Our tables are gone, by our own doing or another process's: only who we are, and the clock, stay in memory. */
static int become_bare(struct cs_replica *r, struct cs_error *err)
{
    cs_schema_release(r);
    cs_db_finalize(r);
    cs_extract_free(r);
    cs_run_forget(r);
    r->bare = true;
    r->ndevices = 1;
    r->huge = 0;
    r->mark = (struct cs_pull_mark){ 0 };
    r->chain_number = 0;
    if ((r->stmts = calloc(CS_NSTATEMENTS, sizeof(sqlite3_stmt *))) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    return cs_schema_version(r, &r->schema_version, err);
}

/* Makes our tables again, inside the transaction that tracks a table. */
static int revive(struct cs_replica *r, struct cs_error *err)
{
    uint32_t self;
    int rc = cs_layout_check(r, err);

    if (rc != CS_ENOTFOUND)
        return rc == CS_OK ? cs_fail(err, CS_EBUSY, "another process is tracking tables of this database; try again")
                           : rc;
    if ((rc = cs_layout_create(r, err)) != CS_OK)
        return rc;
    r->bare = false;
    r->mirrors = true;
    r->next_unsent = 1;
    if ((rc = cs_hlc_save(r, err)) == CS_OK && !cs_uuid_is_zero(&r->id.device) &&
        (rc = cs_device_number(r, &r->id.device, &self, err)) == CS_OK)
        rc = cs_identity_save(r, &r->id, err);
    if (rc == CS_OK && r->lease_held)
        rc = cs_lease_note(r, err);
    return rc;
}

/* ---- may it be tracked? ---- */

int cs_one_int(struct cs_replica *r, struct cs_buf *sql, int64_t *out, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = CS_OK, step;

    *out = 0;
    if (sql->failed) {
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    } else if (sqlite3_prepare_v2(r->db, (const char *)sql->data, (int)sql->len, &s, NULL) != SQLITE_OK) {
        rc = cs_db_fail(r, err, "cannot read the database");
    } else {
        step = sqlite3_step(s);
        if (step == SQLITE_ROW)
            *out = sqlite3_column_int64(s, 0);
        else if (step != SQLITE_DONE)
            rc = cs_db_fail(r, err, "cannot read the database");
    }
    sqlite3_finalize(s);
    cs_buf_free(sql);
    return rc;
}

/* INTEGER PRIMARY KEY of a rowid table: it has no index of its own. */
static int is_rowid_alias(struct cs_replica *r, const struct cs_table *t, bool *out, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    int64_t n;
    int rc;

    cs_buf_put_str(&sql, "SELECT count(*) FROM pragma_index_list(");
    cs_put_identifier(&sql, t->name);
    cs_buf_put_str(&sql, ") WHERE origin = 'pk'");
    rc = cs_one_int(r, &sql, &n, err);
    *out = rc == CS_OK && n == 0 && !t->without_rowid && t->nkey == 1;
    return rc;
}

/* A condition of nothing but IS NULL is answered by the key's index, where the column is its first. */
static int null_keys_of(struct cs_replica *r, const struct cs_table *t, int64_t *n, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    const char *before = " WHERE ";

    *n = 0;
    cs_buf_put_str(&sql, "SELECT count(*) FROM main.");
    cs_put_identifier(&sql, t->name);
    for (uint32_t i = 0; i < t->nkey; i++) {
        if (t->columns[t->key[i]].notnull)
            continue;
        cs_buf_put_str(&sql, before);
        cs_put_identifier(&sql, t->columns[t->key[i]].name);
        cs_buf_put_str(&sql, " IS NULL");
        before = " OR ";
    }
    if (before[1] == 'O')
        return cs_one_int(r, &sql, n, err);
    cs_buf_free(&sql);
    return CS_OK;
}

int cs_null_keys(struct cs_replica *r, int64_t *n, struct cs_error *err)
{
    int64_t some;
    int rc = CS_OK;

    *n = 0;
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++) {
        rc = null_keys_of(r, &r->tables[i], &some, err);
        if (rc != CS_OK && sqlite3_errcode(r->db) == SQLITE_ERROR)
            rc = CS_OK; /* dropped, or another one by now: the schema is looked at next */
        *n += some;
    }
    return rc;
}

/* Can this connection write the table at all? Its triggers, checks and generated columns may need functions that only
 * the application has. *why stays NULL if it can; otherwise it lies in the arena. */
static int can_write(struct cs_replica *r, struct cs_arena *a, const struct cs_table *t, const char **why,
                     struct cs_error *err)
{
    int rc = cs_guard_all_triggers(r, err);

    if (rc != CS_OK)
        return rc;
    for (int i = 0; i < 3; i++) {
        struct cs_buf sql = { 0 };
        sqlite3_stmt *s = NULL;

        cs_buf_put_str(&sql, i == 0 ? "INSERT INTO main." : i == 1 ? "DELETE FROM main." : "UPDATE main.");
        cs_put_identifier(&sql, t->name);
        if (i == 0) {
            cs_buf_put_str(&sql, " DEFAULT VALUES");
        } else if (i == 2) {
            for (uint32_t k = 0; k < t->ncolumns; k++) {
                cs_buf_put_str(&sql, k == 0 ? " SET " : ", ");
                cs_put_identifier(&sql, t->columns[k].name);
                cs_buf_put_str(&sql, " = NULL");
            }
        }
        if (sql.failed)
            return cs_fail(err, CS_ENOMEM, "out of memory");
        switch (sqlite3_prepare_v2(r->db, (const char *)sql.data, (int)sql.len, &s, NULL)) {
        case SQLITE_OK:
            break;
        case SQLITE_ERROR: /* it says what is missing */
            if ((*why = cs_arena_str(a, sqlite3_errmsg(r->db))) == NULL)
                rc = cs_fail(err, CS_ENOMEM, "out of memory");
            break;
        default:
            rc = cs_db_fail(r, err, "cannot try to write the table");
        }
        sqlite3_finalize(s);
        cs_buf_free(&sql);
        if (rc != CS_OK || *why != NULL)
            return rc;
    }
    return CS_OK;
}

/* problem: why not, or NULL. */
static int examine(struct cs_replica *r, struct cs_arena *a, const char *name, bool force, struct cs_table *t,
                   const char **problem, struct cs_error *err)
{
    int64_t n;
    bool yes;
    int rc = cs_schema_read_table(r, a, name, t, problem, err);

    if (rc != CS_OK || *problem != NULL)
        return rc;
    if ((rc = is_rowid_alias(r, t, &yes, err)) != CS_OK)
        return rc;
    if (yes && !force) {
        *problem = "its key is a rowid alias (INTEGER PRIMARY KEY), which two devices would both hand out; --force "
                   "tracks it if "
                   "the application chooses the keys itself";
        return CS_OK;
    }
    if ((rc = null_keys_of(r, t, &n, err)) != CS_OK)
        return rc;
    if (n > 0)
        *problem = "a row has NULL in its key, so no other device could tell which row it is";
    else
        rc = can_write(r, a, t, problem, err);
    return rc;
}

static void warn_orphans(struct cs_replica *r, const struct cs_table *t, const struct cs_track_options *o)
{
    struct cs_buf sql = { 0 };
    struct cs_error ignored;
    char text[200];
    int64_t n;

    if (o == NULL || o->warn == NULL || t->nfks == 0)
        return;
    cs_buf_put_str(&sql, "SELECT count(*) FROM pragma_foreign_key_check(");
    cs_put_identifier(&sql, t->name);
    cs_buf_put_str(&sql, ")");
    if (cs_one_int(r, &sql, &n, &ignored) == CS_OK && n > 0) {
        sqlite3_snprintf(sizeof text, text,
                         "table \"%s\" has %lld rows whose parent is missing; they will be hidden where the "
                         "parent's table is tracked too",
                         t->name, (long long)n);
        o->warn(o->arg, text);
    }
}

/* Seals all that is logged, inside the running transaction: before rows are decided again, and before hashes are taken.
 */
static int drain_log(struct cs_replica *r, struct cs_error *err)
{
    bool more = !cs_uuid_is_zero(&r->id.device);
    int rc = CS_OK;

    while (rc == CS_OK && more)
        rc = cs_seal_slice(r, 1000, &more, NULL, err);
    return rc;
}

/* What earlier gaps have left to look at. */
static int drain_gaps(struct cs_replica *r, struct cs_error *err)
{
    bool more = !cs_uuid_is_zero(&r->id.device);
    int rc = CS_OK;

    while (rc == CS_OK && more)
        rc = cs_gap_slice(r, 1000, &more, NULL, err);
    return rc;
}

/* Was it untracked? */
static int never_by_hand(struct cs_replica *r, const char *table, bool *never, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    *never = false;
    if (r->bare)
        return CS_OK;
    if (sqlite3_prepare_v2(r->db, "SELECT never FROM main.sync_tables WHERE name = ?1", -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read our tables");
    sqlite3_bind_text(s, 1, table, -1, SQLITE_STATIC);
    if (cs_db_row(r, s, &rc, "cannot read our tables", err))
        *never = sqlite3_column_int(s, 0) != 0;
    sqlite3_finalize(s);
    return rc;
}

/* Has anybody decided on it before? */
static int is_decided(struct cs_replica *r, const char *table, bool *yes, struct cs_error *err)
{
    *yes = cs_table_by_name(r, cs_slice_str(table)) != NULL;
    return *yes ? CS_OK : never_by_hand(r, table, yes, err);
}

static int track_once(struct cs_replica *r, const char *table, const struct cs_track_options *o, struct cs_error *err)
{
    struct cs_arena a = { 0 };
    struct cs_table t, *tracked;
    const char *problem = NULL;
    bool was_bare, again = false, leave = false;
    struct cs_replica_identity self = r->id;
    int64_t id, hlc = r->hlc;
    int rc;

    if ((tracked = cs_table_by_name(r, cs_slice_str(table))) != NULL && tracked->state == CS_TRACKED)
        return CS_OK;
    if ((rc = cs_db_begin_with_schema(r, err)) != CS_OK)
        return rc;
    tracked = cs_table_by_name(r, cs_slice_str(table));
    if (o != NULL && o->only_new)
        rc = is_decided(r, table, &leave, err);
    if (rc != CS_OK || leave || (tracked != NULL && tracked->state == CS_TRACKED)) {
        cs_db_rollback(r);
        return rc;
    }
    was_bare = r->bare;
    rc = cs_is_shared(table) ? cs_shared_create(r, err) : CS_OK;
    if (rc == CS_OK)
        rc = examine(r, &a, table, o != NULL && o->force_rowid_key, &t, &problem, err);
    if (rc == CS_OK && problem != NULL)
        rc = cs_fail(err, CS_EINVAL, "table \"%s\" cannot be tracked: %s", table, problem);
    if (rc == CS_OK && was_bare)
        rc = revive(r, err);
    if (rc == CS_OK && (rc = never_by_hand(r, t.name, &again, err)) == CS_OK &&
        (rc = cs_table_number(r, cs_slice_str(t.name), &id, err)) == CS_OK)
        rc = cs_tables_run(r,
                           "UPDATE main.sync_tables SET state = 1, backfill = x'', never = 0, "
                           "gap = EXISTS(SELECT 1 FROM main.sync_rows WHERE tbl = ?1) WHERE id = ?1",
                           id, 0, err);
    if (rc == CS_OK)
        rc = cs_gap_since(r, id, err);
    if (rc == CS_OK && (rc = cs_schema_load(r, err)) == CS_OK && (tracked = cs_table_by_id(r, id)) != NULL)
        rc = cs_triggers_install(r, tracked, err);
    if (rc == CS_OK)
        rc = drain_log(r, err);
    if (rc == CS_OK && tracked != NULL && again)
        rc = cs_gap_meet_again(r, tracked, err);
    if (rc == CS_OK && tracked != NULL)
        rc = cs_gap_meet_known(r, tracked, err);
    if (rc == CS_OK && tracked != NULL && again)
        rc = cs_gap_met(r, tracked, err);
    if (rc == CS_OK)
        rc = cs_project_schema_changed(r, err);
    rc = end(r, rc, err);
    if (rc != CS_OK && was_bare) {
        r->bare = true; /* the rollback took our tables again */
        r->id = self;
        r->hlc = hlc;
    }
    if (rc == CS_OK)
        warn_orphans(r, &t, o);
    cs_arena_free(&a);
    return rc;
}

int cs_replica_track(cs_replica *r, const char *table, const struct cs_track_options *o, struct cs_error *err)
{
    int rc;

    cs_write_begin(r);
    do
        rc = track_once(r, table, o, err);
    while (cs_write_again(r));
    return rc;
}

/* The row's values, which the table shows, are kept as those of a table that is not here. */
static int keep_row(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err)
{
    const struct cs_row *row = &r->row;
    int64_t unsent;
    int step = SQLITE_DONE, rc = cs_rows_get(r, t->id, key, &r->row, &unsent, err);

    if (rc != CS_OK || !cs_row_lives(row)) /* cells above a tombstone are aside already */
        return rc == CS_ENOTFOUND ? CS_OK : rc;
    if (cs_key_parts(key) == (int)t->nkey && (step = cs_table_read(r, t, key, err)) != SQLITE_ROW &&
        step != SQLITE_DONE)
        return step;
    for (uint32_t i = 0; i < row->ncells && step == SQLITE_ROW && rc == CS_OK; i++) {
        uint32_t col = row->cells[i].col, pos = cs_column_position(t, col);
        struct cs_value v;

        rc = cs_hidden_cell(r, &r->scratch, t->id, key, col, &v, err);
        if (rc != CS_ENOTFOUND)
            continue;
        rc = CS_OK;
        if (pos == CS_NO_COLUMN)
            continue;
        cs_value_from_column(&v, t->read, (int)pos);
        rc = cs_hidden_put_cell(r, t->id, key, col, &v, err);
    }
    if (step == SQLITE_ROW)
        sqlite3_reset(t->read);
    return rc == CS_OK ? cs_hidden_put_row(r, t->id, key, "table", err) : rc;
}

static int keep_rows(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    enum { SOME = 500 };
    struct cs_slice key[SOME], last = CS_SLICE_NULL;
    struct cs_arena keys[2] = { { 0 }, { 0 } }; /* of this slice, and of the last one, whose end is where it begins */
    uint32_t n = SOME;
    int rc = cs_apply_ready(r, err);

    for (int at = 0; rc == CS_OK && n == SOME; at = 1 - at) {
        sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_ROW_WALK, err);

        if (s == NULL) {
            rc = err_code(err);
            break;
        }
        cs_scratch_reset(r);
        cs_arena_reset(&keys[at]);
        sqlite3_bind_int64(s, 1, t->id);
        cs_db_bind_slice(s, 2, last);
        sqlite3_bind_int64(s, 3, SOME);
        for (n = 0; n < SOME && cs_db_row(r, s, &rc, "cannot read our rows", err); n++)
            if ((key[n] = cs_arena_copy(&keys[at], cs_db_column_blob(s, 0))).data == NULL)
                rc = cs_fail(err, CS_ENOMEM, "out of memory");
        sqlite3_reset(s);
        for (uint32_t i = 0; i < n && rc == CS_OK; i++)
            rc = keep_row(r, t, last = key[i], err);
    }
    cs_arena_free(&keys[0]);
    cs_arena_free(&keys[1]);
    return rc;
}

/* Edits that nobody saw in it are looked at from then on. */
static int end_pause(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    if (t->state != CS_PAUSED)
        return CS_OK;
    return cs_gap_compare(r, t, err);
}

/* The merged state keeps its rows, as those of a table that is not here, and what was not sent goes out; with hashes of
 * what the table holds now, by which tracking it again tells what was edited meanwhile. */
static int untrack_once(struct cs_replica *r, const char *table, struct cs_error *err)
{
    static const char *const forget[] = {
        "DELETE FROM main.sync_changelog WHERE tbl = ?1",
        "DELETE FROM main.sync_conflicts WHERE tbl = ?1",
        "UPDATE main.sync_tables SET state = 0, never = 1, backfill = NULL, gap = 0, shape = NULL WHERE id = ?1",
    };
    struct cs_table *t;
    bool last;
    int64_t id;
    int rc = cs_db_begin_with_schema(r, err);

    if (rc != CS_OK)
        return rc;
    if ((t = cs_table_by_name(r, cs_slice_str(table))) == NULL || cs_is_shared(table)) {
        cs_db_rollback(r);
        return cs_fail(err, CS_ENOTFOUND, "table \"%s\" is not tracked", table);
    }
    id = t->id;
    last = r->ntables == 1 + (size_t)(cs_table_by_name(r, cs_slice_str(CS_SHARED)) != NULL);
    rc = cs_triggers_drop(r, id, err);
    if (rc == CS_OK)
        rc = drain_log(r, err);
    if (rc == CS_OK && !last && (rc = end_pause(r, cs_table_by_id(r, id), err)) == CS_OK &&
        (rc = drain_gaps(r, err)) == CS_OK && (rc = cs_run_dissolve_all(r, err)) == CS_OK &&
        (rc = cs_shadow_store(r, cs_table_by_id(r, id), err)) == CS_OK)
        rc = keep_rows(r, cs_table_by_id(r, id), err);
    cs_extract_stale(r);
    cs_schema_release(r);
    for (size_t i = 0; i < sizeof forget / sizeof forget[0] && rc == CS_OK; i++)
        rc = cs_tables_run(r, forget[i], id, 0, err);
    if (rc == CS_OK && last) {
        cs_db_finalize(r); /* statements in use would keep the tables locked */
        if ((r->stmts = calloc(CS_NSTATEMENTS, sizeof(sqlite3_stmt *))) == NULL)
            rc = cs_fail(err, CS_ENOMEM, "out of memory");
        if (rc == CS_OK && (rc = cs_layout_drop(r, err)) == CS_OK && (rc = cs_db_commit(r, err)) == CS_OK)
            return become_bare(r, err);
    }
    if (rc == CS_OK && (rc = cs_schema_load(r, err)) == CS_OK)
        rc = cs_project_schema_changed(r, err);
    return end(r, rc, err);
}

int cs_replica_untrack(cs_replica *r, const char *table, struct cs_error *err)
{
    int rc;

    cs_write_begin(r);
    do
        rc = untrack_once(r, table, err);
    while (cs_write_again(r));
    return rc;
}

static int pause_one(struct cs_replica *r, struct cs_table *t, struct cs_error *err)
{
    int rc;

    if (t->state == CS_PAUSED)
        return CS_OK;
    if ((rc = cs_triggers_drop(r, t->id, err)) != CS_OK || (rc = cs_shadow_store(r, t, err)) != CS_OK)
        return rc;
    return cs_tables_run(r, "UPDATE main.sync_tables SET state = 2, shape = NULL WHERE id = ?1", t->id, 0, err);
}

int cs_replica_pause(cs_replica *r, const char *table, struct cs_error *err)
{
    int rc = cs_db_begin_with_schema(r, err);

    if (rc != CS_OK)
        return rc;
    if (table != NULL && (cs_table_by_name(r, cs_slice_str(table)) == NULL || cs_is_shared(table))) {
        cs_db_rollback(r);
        return cs_fail(err, CS_ENOTFOUND, "table \"%s\" is not tracked", table);
    }
    if ((rc = drain_log(r, err)) == CS_OK)
        rc = drain_gaps(r, err);
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++)
        if (table == NULL ? !cs_is_shared(r->tables[i].name)
                          : cs_table_by_name(r, cs_slice_str(table)) == &r->tables[i])
            rc = pause_one(r, &r->tables[i], err);
    if (rc == CS_OK)
        rc = cs_schema_load(r, err);
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++)
        if (r->tables[i].state == CS_PAUSED)
            rc = cs_gap_paused(r, &r->tables[i], err);
    return end(r, rc, err);
}

/* Paused tables that are not in the database any more are no longer paused: they were dropped. */
static int resume_dropped(struct cs_replica *r, const char *table, int *n, struct cs_error *err)
{
    static const char sql[] =
        "UPDATE main.sync_tables SET state = 1, backfill = NULL, gap = 3 WHERE state = 2 AND (?1 IS NULL OR name = ?1) "
        "AND " IS_GONE("sync_tables.name");
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    *n = 0;
    if (r->bare)
        return CS_OK;
    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot write our tables");
    sqlite3_bind_text(s, 1, table, -1, SQLITE_STATIC);
    if (sqlite3_step(s) != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot write our tables");
    *n = sqlite3_changes(r->db);
    sqlite3_finalize(s);
    return rc;
}

static int resume_once(struct cs_replica *r, const char *table, struct cs_error *err)
{
    struct cs_table *one;
    int dropped, rc = cs_db_begin_with_schema(r, err);

    if (rc != CS_OK)
        return rc;
    one = table == NULL ? NULL : cs_table_by_name(r, cs_slice_str(table));
    rc = resume_dropped(r, table, &dropped, err);
    if (rc == CS_OK && table != NULL && one == NULL && dropped == 0) {
        cs_db_rollback(r);
        return cs_fail(err, CS_ENOTFOUND, "table \"%s\" is not tracked, or not in the database any more", table);
    }
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++)
        if (one == NULL || one == &r->tables[i])
            rc = end_pause(r, &r->tables[i], err);
    if (rc == CS_OK)
        rc = cs_schema_load(r, err);
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++)
        if (r->tables[i].state == CS_TRACKED)
            rc = cs_triggers_install(r, &r->tables[i], err);
    if (rc == CS_OK && (rc = drain_log(r, err)) == CS_OK && (rc = cs_gap_finish_linked(r, err)) == CS_OK)
        rc = cs_project_schema_changed(r, err);
    return end(r, rc, err);
}

int cs_replica_resume(cs_replica *r, const char *table, struct cs_error *err)
{
    int rc;

    cs_write_begin(r);
    do
        rc = resume_once(r, table, err);
    while (cs_write_again(r));
    return rc;
}

int cs_replica_track_defaults(cs_replica *r, const struct cs_track_options *o, struct cs_error *err)
{
    struct cs_track_options new = o != NULL ? *o : (struct cs_track_options){ 0 };
    int rc = CS_OK;

    new.only_new = true;
    for (int i = 0; i < NUSUAL && rc == CS_OK; i++) {
        bool decided;

        if ((rc = is_decided(r, usual[i], &decided, err)) != CS_OK || decided)
            continue;
        rc = cs_replica_track(r, usual[i], &new, err);
        if (rc == CS_EINVAL && new.warn != NULL)
            new.warn(new.arg, err->msg);
        if (rc == CS_ENOTFOUND || rc == CS_EINVAL)
            rc = CS_OK; /* not there, or not fit: the others are tracked all the same */
    }
    return rc;
}

/* Tables that are not under their name any more while their triggers stand on another: renamed. Tracking goes on under
 * the new name, where all rows are new; what was known under the old one stays, and is deleted nowhere. */
static int follow_renames(struct cs_replica *r, struct cs_error *err)
{
    static const char sql[] =
        "SELECT t.id, g.tbl_name FROM main.sync_tables t JOIN main.sqlite_schema g ON g.type = 'trigger' AND "
        "g.name = 'sync_' || t.id || '_ins0' AND g.tbl_name <> t.name COLLATE NOCASE "
        "WHERE t.state = 1 AND " IS_GONE("t.name") " LIMIT 1";
    sqlite3_stmt *s = NULL;
    struct cs_arena a = { 0 };
    const char *name = NULL, *problem;
    struct cs_table t;
    int64_t old = 0, id;
    int rc = CS_OK, step;

    for (;;) {
        if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK)
            return cs_db_fail(r, err, "cannot read the schema");
        if ((step = sqlite3_step(s)) == SQLITE_ROW) {
            old = sqlite3_column_int64(s, 0);
            name = cs_arena_str(&a, (const char *)sqlite3_column_text(s, 1));
        }
        sqlite3_finalize(s);
        if (step == SQLITE_DONE)
            break;
        if (step != SQLITE_ROW)
            rc = cs_db_fail(r, err, "cannot read the schema");
        else if (name == NULL)
            rc = cs_fail(err, CS_ENOMEM, "out of memory");
        if (rc == CS_OK && (rc = cs_triggers_drop(r, old, err)) == CS_OK)
            rc = examine(r, &a, name, true, &t, &problem, err);
        if (rc == CS_OK && problem == NULL && (rc = cs_table_number(r, cs_slice_str(t.name), &id, err)) == CS_OK)
            rc = cs_tables_run(
                r, "UPDATE main.sync_tables SET state = 1, backfill = x'', gap = 1, never = 0 WHERE id = ?1", id, 0,
                err);
        if (rc != CS_OK)
            break;
    }
    cs_arena_free(&a);
    return rc;
}

/* What stands in a table that comes back is not all that it had. */
static const char note_gone[] =
    "UPDATE main.sync_tables SET gap = 3 WHERE state <> 0 AND gap <> 3 AND name <> '" CS_SHARED
    "' AND " IS_GONE("sync_tables.name");

static int check_schema_once(struct cs_replica *r, bool *changed, struct cs_error *err)
{
    int64_t now;
    int rc;

    *changed = false;
    if ((rc = cs_schema_version(r, &now, err)) != CS_OK || now == r->schema_version)
        return rc;
    *changed = true;
    if ((rc = cs_db_begin(r, err)) != CS_OK)
        return rc;
    if ((rc = cs_layout_check(r, err)) == CS_ENOTFOUND) { /* another process untracked the last table */
        cs_db_rollback(r);
        return become_bare(r, err);
    }
    if (rc == CS_OK && r->bare) { /* or tracked one again */
        r->bare = false;
        rc = cs_db_load(r, err);
    }
    if (rc == CS_OK && (rc = follow_renames(r, err)) == CS_OK && (rc = cs_db_exec(r, note_gone, err)) == CS_OK)
        rc = cs_schema_load(r, err);
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++) {
        struct cs_table *t = &r->tables[i];
        bool present = true;

        if (t->state != CS_TRACKED || (rc = cs_triggers_present(r, t, &present, err)) != CS_OK || present)
            continue;
        if ((rc = cs_triggers_install(r, t, err)) == CS_OK)
            rc = cs_gap_compare(r, t, err);
    }
    if (rc == CS_OK && (rc = drain_log(r, err)) == CS_OK && (rc = cs_gap_finish_linked(r, err)) == CS_OK)
        rc = cs_project_schema_changed(r, err);
    return end(r, rc, err);
}

int cs_replica_check_schema(cs_replica *r, bool *changed, struct cs_error *err)
{
    int rc;

    cs_write_begin(r);
    do
        rc = check_schema_once(r, changed, err);
    while (cs_write_again(r));
    return rc;
}

static int project_again_once(struct cs_replica *r, struct cs_error *err)
{
    int rc = cs_db_begin_with_schema(r, err);

    if (rc != CS_OK)
        return rc;
    if ((rc = drain_log(r, err)) == CS_OK && (rc = cs_gap_finish_linked(r, err)) == CS_OK)
        rc = cs_project_schema_changed(r, err);
    return end(r, rc, err);
}

int cs_replica_project_again(cs_replica *r, struct cs_error *err)
{
    int rc;

    cs_write_begin(r);
    do
        rc = project_again_once(r, err);
    while (cs_write_again(r));
    return rc;
}

int cs_db_begin_with_schema(struct cs_replica *r, struct cs_error *err)
{
    for (;;) {
        int64_t now;
        bool changed;
        int rc = cs_db_begin(r, err);

        if (rc != CS_OK || ((rc = cs_schema_version(r, &now, err)) == CS_OK && now == r->schema_version))
            return rc;
        cs_db_rollback(r);
        if (rc != CS_OK || (rc = cs_replica_check_schema(r, &changed, err)) != CS_OK)
            return rc;
    }
}

/* ---- looking ---- */

static int count_rows(struct cs_replica *r, struct cs_table_info *info, struct cs_error *err)
{
    struct cs_buf sql = { 0 };

    cs_buf_put_str(&sql, "SELECT count(*) FROM main.");
    cs_put_identifier(&sql, info->name);
    return cs_one_int(r, &sql, &info->rows, err);
}

static int describe(struct cs_replica *r, struct cs_arena *a, const char *name, struct cs_table_info *info,
                    struct cs_error *err)
{
    struct cs_table *tracked = cs_table_by_name(r, cs_slice_str(name)), t;
    struct cs_buf sql = { 0 };
    int rc;

    *info = (struct cs_table_info){ .name = cs_arena_str(a, name) };
    if (info->name == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if ((rc = count_rows(r, info, err)) != CS_OK)
        return rc;
    if (tracked == NULL)
        return examine(r, a, name, false, &t, &info->problem, err);
    info->state = tracked->state;
    info->backfilling = tracked->backfilling;
    cs_buf_printf(&sql, "SELECT count(*) FROM main.sync_changelog WHERE tbl = %lld", (long long)tracked->id);
    if ((rc = cs_one_int(r, &sql, &info->unsealed, err)) != CS_OK)
        return rc;
    cs_buf_printf(&sql, "SELECT count(*) FROM main.sync_hidden WHERE tbl = %lld AND col = -1", (long long)tracked->id);
    return cs_one_int(r, &sql, &info->hidden, err);
}

int cs_replica_tables(cs_replica *r, struct cs_arena *a, struct cs_table_info **out, size_t *n, struct cs_error *err)
{
    static const char tracked_first[] =
        "SELECT t.name, count(*) OVER () FROM pragma_table_list t LEFT JOIN main.sync_tables s ON s.name = t.name "
        "WHERE t.schema = 'main' AND t.type = 'table' AND t.name NOT LIKE 'sync\\_%' ESCAPE '\\' "
        "AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY coalesce(s.state, 0) = 0, t.name";
    static const char by_name[] =
        "SELECT t.name, count(*) OVER () FROM pragma_table_list t "
        "WHERE t.schema = 'main' AND t.type = 'table' AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY t.name";
    const char *sql = r->bare ? by_name : tracked_first;
    sqlite3_stmt *s = NULL;
    int rc = CS_OK, step = SQLITE_DONE;

    *out = NULL;
    *n = 0;
    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read the schema");
    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        if (*out == NULL && (*out = cs_arena_zalloc(a, (size_t)sqlite3_column_int64(s, 1), sizeof **out)) == NULL)
            rc = cs_fail(err, CS_ENOMEM, "out of memory");
        else
            rc = describe(r, a, (const char *)sqlite3_column_text(s, 0), &(*out)[(*n)++], err);
    }
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read the schema");
    sqlite3_finalize(s);
    return rc;
}

int cs_replica_unsealed(cs_replica *r, int64_t *rows, struct cs_error *err)
{
    struct cs_table_info info = { 0 };
    struct cs_buf sql = { 0 };
    int rc = CS_OK;

    *rows = 0;
    if (r->bare)
        return CS_OK;
    cs_buf_put_str(&sql, "SELECT count(*) FROM main.sync_changelog");
    rc = cs_one_int(r, &sql, rows, err);
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++) {
        if (!r->tables[i].backfilling)
            continue;
        info.name = r->tables[i].name;
        if ((rc = count_rows(r, &info, err)) == CS_OK)
            *rows += info.rows;
    }
    return rc;
}
