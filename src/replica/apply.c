#include "replica/apply.h"
#include "replica/statements.h"
#include "replica/store.h"

enum { SLICE = 2000 }; /* changelog rows sealed in one write transaction before a batch may follow */

/* A table of the set, by its number here. */
struct batch_table {
    int64_t id;
    struct cs_table *t; /* NULL: not tracked here */
    uint32_t *cols;     /* the set's column -> persistent number */
};

/* The operation at hand. */
struct cs_batch {
    struct cs_replica *r;
    const struct cs_delta *d;
    struct cs_apply_result *result;
    struct cs_error *err;
    struct batch_table *tables;
    const struct batch_table *bt;
    const struct cs_op *op;
    struct cs_merge_out merged;
    struct cs_op_cell *cells; /* the operation's, under persistent numbers */
    struct cs_row_cell *over;
    uint32_t cells_cap, over_cap;
    bool expect_new;   /* the last row was new: try the insert into sync_rows first */
    bool hidden;       /* the row lived, and the table does not show it */
    bool pending;      /* hidden only until the end of this batch */
    bool had_cells;    /* it had cells before */
    bool striking;     /* rows that the set names are struck off sync_stale */
    sqlite3_stmt *row; /* stands on the row in the application's table; NULL: not read yet */
    struct cs_ahead ahead;
    int64_t unsent;
    struct cs_value value; /* what `present_value` gave from sync_hidden last */
};

static int no_memory(struct cs_error *err)
{
    return cs_fail(err, CS_ENOMEM, "out of memory");
}

/* ---- statements on our tables ---- */

static const char *const own_sql[CS_NOWN] = {
    [CS_OWN_HIDDEN_REASON] = "SELECT reason FROM main.sync_hidden WHERE tbl = ?1 AND key = ?2 AND col = -1",
    [CS_OWN_HIDDEN_CELL] = "SELECT value FROM main.sync_hidden WHERE tbl = ?1 AND key = ?2 AND col = ?3",
    [CS_OWN_HIDDEN_CELLS] =
        "SELECT col, value FROM main.sync_hidden WHERE tbl = ?1 AND key = ?2 AND col >= 0 ORDER BY col",
    [CS_OWN_HIDDEN_ROWS] = "SELECT key FROM main.sync_hidden WHERE tbl = ?1 AND col = -1",
    [CS_OWN_HIDDEN_COUNT] = "SELECT tbl, sum(col = -1), sum(col >= 0) FROM main.sync_hidden GROUP BY tbl",
    [CS_OWN_HIDDEN_INSERT] =
        "INSERT OR IGNORE INTO main.sync_hidden(tbl, key, col, reason, value) VALUES(?1, ?2, ?3, ?4, ?5)",
    [CS_OWN_HIDDEN_UPDATE] =
        "UPDATE main.sync_hidden SET reason = ?4, value = ?5 WHERE tbl = ?1 AND key = ?2 AND col = ?3",
    [CS_OWN_HIDDEN_DELETE] = "DELETE FROM main.sync_hidden WHERE tbl = ?1 AND key = ?2 AND col = ?3",
    [CS_OWN_HIDDEN_DELETE_ROW] =
        "DELETE FROM main.sync_hidden WHERE tbl = ?1 AND key = ?2 AND col = -1 RETURNING reason = 'unique'",
    [CS_OWN_HIDDEN_SHOWN] = ("SELECT DISTINCT h.key FROM main.sync_hidden h WHERE h.tbl = ?1 AND h.col >= 0 AND NOT "
                             "EXISTS (SELECT 1 FROM main.sync_hidden w WHERE w.tbl = h.tbl AND w.key = h.key AND "
                             "w.col = -1)"),
    [CS_OWN_TABLE_NAME] = "SELECT name FROM main.sync_tables WHERE id = ?1",
    [CS_OWN_CONFLICT] = ("INSERT INTO main.sync_conflicts(id, why, tbl, key, col, stamp, device, value, state, at_ms) "
                         "VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT(id) DO UPDATE SET state = "
                         "excluded.state, at_ms = excluded.at_ms, noted = 0 WHERE state = 'closed'"),
    [CS_OWN_CONFLICT_VALUE] = "SELECT value FROM main.sync_conflicts WHERE id = ?1",
    [CS_OWN_CONFLICT_CLOSE] =
        ("UPDATE main.sync_conflicts SET state = 'closed', noted = 1, at_ms = ?4 WHERE tbl = ?1 AND "
         "key = ?2 AND col IS NULL AND why = ?3 AND state IN ('auto', 'manual') AND NOT (stamp IS ?5 AND device IS "
         "?6)"),
    [CS_OWN_LOST] = "INSERT OR REPLACE INTO main.sync_lost(tbl, key, row) VALUES(?1, ?2, ?3)",
    [CS_OWN_SHARED] = "SELECT CAST(value AS BLOB) FROM main." CS_SHARED " WHERE what = ?1 AND name = ?2",
};

sqlite3_stmt *cs_apply_stmt(struct cs_replica *r, enum cs_own_statement which, struct cs_error *err)
{
    struct cs_apply *a = cs_apply_of(r);
    sqlite3_stmt **s = &a->own[which];

    if (*s != NULL) {
        sqlite3_reset(*s);
        return *s;
    }
    if (sqlite3_prepare_v3(r->db, own_sql[which], -1, SQLITE_PREPARE_PERSISTENT, s, NULL) != SQLITE_OK)
        cs_db_fail(r, err, "cannot prepare a statement on our tables");
    return *s;
}

/* ---- opening and closing ---- */

static void rolled_back(void *arg)
{
    struct cs_replica *r = arg;

    cs_guard_rolled_back(r);
    cs_pending_reset(r);
    cs_apply_counts_changed(r);
    for (size_t i = 0; i < r->ntables; i++)
        if (cs_sql_of(&r->tables[i]) != NULL)
            cs_sql_of(&r->tables[i])->npending = 0;
}

int cs_apply_open(struct cs_replica *r, struct cs_error *err)
{
    /* Checks are evaluated apart, and never refuse a row that others have. */
    static const char sql[] = "PRAGMA ignore_check_constraints=ON;"
                              "PRAGMA foreign_keys=OFF;"
                              "PRAGMA recursive_triggers=OFF";
    int rc;

    if ((r->apply = calloc(1, sizeof(struct cs_apply))) == NULL)
        return no_memory(err);
    if ((rc = cs_db_exec(r, sql, err)) != CS_OK || (rc = cs_show_open(r, err)) != CS_OK ||
        (rc = cs_guard_open(r, err)) != CS_OK)
        cs_apply_close(r);
    else
        sqlite3_rollback_hook(r->db, rolled_back, r);
    return rc;
}

void cs_apply_close(struct cs_replica *r)
{
    struct cs_apply *a = cs_apply_of(r);

    if (a == NULL)
        return;
    sqlite3_set_authorizer(r->db, NULL, NULL);
    sqlite3_rollback_hook(r->db, NULL, NULL);
    cs_show_close(r);
    cs_pending_free(r);
    for (int i = 0; i < CS_NOWN; i++)
        sqlite3_finalize(a->own[i]);
    for (int i = 0; i < 5; i++) {
        sqlite3_finalize(a->affinity_set[i]);
        sqlite3_finalize(a->affinity_get[i]);
    }
    sqlite3_close(a->aside);
    cs_buf_free(&a->a);
    cs_buf_free(&a->b);
    cs_arena_free(&a->banned_arena);
    if (a->batch != NULL) {
        free(a->batch->cells);
        free(a->batch->over);
        free(a->batch);
    }
    free(a);
    r->apply = NULL;
}

void cs_apply_schema_changed(struct cs_replica *r)
{
    if (r->apply == NULL)
        return;
    cs_show_close(r);
    cs_apply_counts_changed(r);
}

void cs_apply_counts_changed(struct cs_replica *r)
{
    cs_apply_of(r)->counts_known = false;
}

/* Everything of ours that a write transaction with a projection in it needs. */
int cs_apply_ready(struct cs_replica *r, struct cs_error *err)
{
    int rc = cs_show_derive(r, err);

    if (rc == CS_OK && !cs_apply_of(r)->counts_known)
        rc = cs_hidden_count(r, err);
    return rc;
}

/* ---- merging one operation ---- */

static bool may_have_aside(const struct cs_table *t)
{
    return t == NULL || t->nhidden > 0 || t->nhidden_cells > 0;
}

/* b->row on the row; CS_ENOTFOUND: the table does not have it. */
static int read_row(struct cs_batch *b)
{
    sqlite3_stmt *s = NULL;
    int rc;

    if (b->row != NULL)
        return CS_OK;
    rc = cs_ahead_read(b->r, &b->ahead, b->bt->t, b->d, (uint32_t)(b->op - b->d->ops), &s, b->err);
    if (rc == SQLITE_ROW)
        b->row = s;
    return rc == SQLITE_ROW ? CS_OK : rc == SQLITE_DONE ? CS_ENOTFOUND : rc;
}

static void leave_row(struct cs_batch *b)
{
    if (b->row != NULL && b->row == b->bt->t->read)
        sqlite3_reset(b->row);
    b->row = NULL;
}

/* cs_merge_in.value: what the cell holds before the operation. */
static const struct cs_value *present_value(void *arg, uint32_t col)
{
    struct cs_batch *b = arg;
    struct cs_table *t = b->bt->t;
    struct cs_value *v = cs_arena_alloc(&b->r->scratch, sizeof *v);
    uint32_t pos = t == NULL ? CS_NO_COLUMN : cs_column_position(t, col);
    int rc = CS_ENOTFOUND;

    if (v == NULL)
        return NULL;
    if (may_have_aside(t))
        rc = cs_hidden_cell(b->r, &b->r->scratch, b->bt->id, b->op->key, col, v, b->err);
    if (rc == CS_OK)
        return v;
    if (rc != CS_ENOTFOUND)
        return NULL;
    if (pos == CS_NO_COLUMN || b->hidden)
        return &cs_merge_gone;
    *v = (struct cs_value){ .type = CS_NULL }; /* of a row that was removed outside of our doing */
    rc = read_row(b);
    if (rc == CS_OK)
        cs_value_from_column(v, b->row, (int)pos);
    return rc == CS_OK || rc == CS_ENOTFOUND ? v : NULL;
}

static bool grow(void **p, uint32_t *cap, uint32_t n, size_t size)
{
    uint32_t more = n < 64 ? 64 : 2 * n;
    void *q;

    if (n <= *cap)
        return true;
    if ((q = realloc(*p, more * size)) == NULL)
        return false;
    *p = q;
    *cap = more;
    return true;
}

/* The operation under this database's numbers. */
static int renumber(struct cs_batch *b, struct cs_merge_in *in)
{
    const struct cs_op *op = b->op;

    if (!grow((void **)&b->cells, &b->cells_cap, op->ncells, sizeof *b->cells) ||
        !grow((void **)&b->over, &b->over_cap, op->nover, sizeof *b->over))
        return no_memory(b->err);
    for (uint32_t i = 0; i < op->ncells; i++) {
        b->cells[i] = op->cells[i];
        b->cells[i].col = b->bt->cols[op->cells[i].col];
    }
    for (uint32_t i = 0; i < op->nover; i++)
        b->over[i] = (struct cs_row_cell){ b->bt->cols[op->over[i].col],
                                           { op->over[i].stamp, b->d->devices[op->over[i].device] } };
    cs_op_cells_sort(b->cells, op->ncells);
    cs_row_cells_sort(b->over, op->nover);
    *in = (struct cs_merge_in){ .kind = op->kind,
                                .v = { op->stamp, b->d->devices[op->device] },
                                .cells = b->cells,
                                .ncells = op->ncells,
                                .over = b->over,
                                .nover = op->nover,
                                .value = present_value,
                                .arg = b };
    return CS_OK;
}

static int merge(struct cs_batch *b, const struct cs_merge_in *in)
{
    int rc = cs_row_merge(&b->r->row, in, &b->merged, &b->r->scratch);

    if (rc == CS_ENOMEM)
        return no_memory(b->err);
    return rc == CS_EIO && b->err != NULL && b->err->code != CS_OK ? b->err->code : rc;
}

/* Of merged state it is not known what its authors had seen. What is here and was sent they may have: it lost long ago,
 * or they did. Only edits of ours that nobody has had yet were surely made beside it: but for those that were made over
 * the very version that comes. */
static int is_conflict(struct cs_batch *b, const struct cs_merge_in *in, const struct cs_merge_conflict *m, bool *out)
{
    const struct cs_row_cell *base, *seen;
    struct cs_unsent u;
    int rc;

    *out = !b->d->state || m->why == CS_WHY_COPIED_DEVICE;
    if (*out || b->unsent == 0)
        return CS_OK;
    rc = cs_unsent_get(b->r, &b->r->scratch, b->unsent, &u, b->err);
    if (rc != CS_OK)
        return rc == CS_ENOTFOUND ? CS_OK : rc;
    base = cs_unsent_find(u.base, u.nbase, m->col);
    seen = cs_unsent_find(u.seen, u.nseen, m->col);
    if (m->present && cs_uuid_cmp(&m->losing.device, &b->r->id.device) != 0)
        return CS_OK;
    if (m->why == CS_WHY_DELETED && !m->present)
        *out = u.del && (seen == NULL || cs_version_cmp(&seen->v, &in->v) < 0);
    else
        *out = base != NULL ? cs_version_cmp(&base->v, &in->v) != 0 : u.ins;
    return CS_OK;
}

static int record_conflicts(struct cs_batch *b, const struct cs_merge_in *in)
{
    int rc = CS_OK;
    bool counts;

    for (uint32_t i = 0; i < b->merged.nconflicts && rc == CS_OK; i++) {
        const struct cs_merge_conflict *m = &b->merged.conflicts[i];
        struct cs_conflict_in c = { .why = cs_why_name(m->why),
                                    .table = b->bt->id,
                                    .key = b->op->key,
                                    .col = m->col,
                                    .losing = m->losing,
                                    .value = m->value };
        enum cs_recorded recorded;

        if ((rc = is_conflict(b, in, m, &counts)) != CS_OK || !counts)
            continue;
        rc = cs_conflict_record(b->r, &c, &recorded, b->err);
        b->result->conflicts += rc == CS_OK && recorded != CS_RECORDED_BEFORE;
        b->result->manual_conflicts += rc == CS_OK && recorded == CS_RECORDED_MANUAL;
    }
    return rc;
}

/* What the row held until now, which goes although somebody had changed it. */
static int keep_lost_row(struct cs_batch *b)
{
    struct cs_buf *row = &cs_apply_of(b->r)->b;
    const struct cs_table *t = b->bt->t;

    cs_buf_reset(row);
    for (uint32_t i = 0; i < t->ncolumns; i++) {
        uint32_t id = t->columns[i].id;
        const struct cs_value *v = id == CS_NO_COLUMN ? &cs_merge_gone : present_value(b, id);

        if (v == NULL)
            return err_code(b->err) != CS_OK ? err_code(b->err) : no_memory(b->err);
        if (v == &cs_merge_gone)
            continue;
        cs_buf_put_u32(row, id);
        cs_buf_put_u32(row, (uint32_t)cs_value_encoded_len(v));
        cs_value_encode(row, v);
    }
    return row->failed ? no_memory(b->err) : cs_conflict_keep_row(b->r, t->id, b->op->key, cs_buf_slice(row), b->err);
}

/* ---- sync_hidden, for a row that the table does not show ---- */

static int keep_cells(struct cs_batch *b)
{
    int rc = CS_OK;

    for (uint32_t i = 0; i < b->merged.ngone && rc == CS_OK; i++)
        rc = cs_hidden_drop_cell(b->r, b->bt->id, b->op->key, b->merged.gone[i], b->err);
    for (uint32_t i = 0; i < b->op->ncells && rc == CS_OK; i++)
        if (cs_verdict_takes(b->merged.verdicts[i]))
            rc = cs_hidden_put_cell(b->r, b->bt->id, b->op->key, b->cells[i].col, &b->cells[i].value, b->err);
    return rc;
}

/* The row waits for the end of the batch: its new values lie in sync_hidden until then. */
static int defer(struct cs_batch *b, bool new_row)
{
    int rc = keep_cells(b);

    if (rc == CS_OK && new_row) {
        cs_sql_of(b->bt->t)->npending++;
        rc = cs_hidden_put_row(b->r, b->bt->id, b->op->key, "pending", b->err);
    }
    return rc == CS_OK ? cs_pending_add(b->r, b->bt->t, b->op->key, b->err) : rc;
}

static int unknown_table(struct cs_batch *b)
{
    int rc = keep_cells(b);

    if (rc != CS_OK || b->merged.lived == b->merged.lives)
        return rc;
    if (!b->merged.lives)
        return cs_hidden_drop_row(b->r, b->bt->id, b->op->key, b->err);
    b->result->hidden++;
    return cs_hidden_put_row(b->r, b->bt->id, b->op->key, "table", b->err);
}

/* ---- projecting one row at once, where nothing else is concerned ---- */

static int check_row(struct cs_batch *b, const struct cs_value *values)
{
    struct cs_version newest = cs_row_newest(&b->r->row);

    return cs_conflict_check(b->r, b->bt->t, b->op->key, values, &newest, &b->result->conflicts, b->err);
}

/* After the table's row was written: what it does not show of the operation's cells stays in sync_hidden. */
static int keep_aside(struct cs_batch *b, const bool *aside)
{
    const struct cs_table *t = b->bt->t;
    bool some = t->nhidden_cells > 0;
    int rc = CS_OK;

    for (uint32_t i = 0; some && i < b->merged.ngone && rc == CS_OK; i++)
        rc = cs_hidden_drop_cell(b->r, b->bt->id, b->op->key, b->merged.gone[i], b->err);
    for (uint32_t i = 0; i < b->op->ncells && rc == CS_OK; i++) {
        uint32_t pos = cs_column_position(t, b->cells[i].col);

        if (!cs_verdict_takes(b->merged.verdicts[i]))
            continue;
        if (pos == CS_NO_COLUMN || aside[pos])
            rc = cs_hidden_put_cell(b->r, b->bt->id, b->op->key, b->cells[i].col, &b->cells[i].value, b->err);
        else if (some)
            rc = cs_hidden_drop_cell(b->r, b->bt->id, b->op->key, b->cells[i].col, b->err);
    }
    return rc;
}

static int row_appears(struct cs_batch *b)
{
    struct cs_table *t = b->bt->t;
    struct cs_table_sql *s = cs_sql_of(t);
    enum cs_written out;
    const char *why = NULL;
    bool parents;
    int rc = CS_OK;

    if (b->had_cells || !cs_show_key(t, b->op->key, s->parts))
        return defer(b, true);
    memset(s->cells, 0, t->ncolumns * sizeof(s->cells[0]));
    for (uint32_t i = 0; i < b->op->ncells; i++) {
        uint32_t pos = cs_column_position(t, b->cells[i].col);

        if (pos != CS_NO_COLUMN && cs_verdict_takes(b->merged.verdicts[i]))
            s->cells[pos] = &b->cells[i].value;
    }
    for (uint32_t i = 0; i < t->ncolumns && rc == CS_OK; i++)
        rc =
            cs_show_value(b->r, t, i, s->cells[i], t->columns[i].key_pos >= 0 ? &s->parts[t->columns[i].key_pos] : NULL,
                          &s->values[i], &s->aside[i], &why, b->err);
    if (rc != CS_OK)
        return rc;
    if (why != NULL)
        return defer(b, true);
    if ((rc = cs_show_parents(b->r, t, s->values, NULL, &parents, b->err)) != CS_OK)
        return rc;
    if (!parents)
        return defer(b, true);
    if ((rc = cs_show_insert(b->r, t, b->op->key, s->values, &out, &why, b->err)) != CS_OK)
        return rc;
    if (out != CS_WRITTEN)
        return defer(b, true);
    b->result->changed++;
    if ((rc = keep_aside(b, s->aside)) == CS_OK && (rc = check_row(b, s->values)) == CS_OK &&
        cs_family_waits(b->r, b->bt->t))
        rc = cs_pending_add(b->r, t, b->op->key, b->err);
    return rc;
}

/* Positions of the columns that the operation changed, with their new values in s->values. *why: NULL, or the row
 * cannot stay shown. */
static int changed_columns(struct cs_batch *b, uint32_t *ncols, bool *structural, const char **why)
{
    const struct cs_table *t = b->bt->t;
    struct cs_table_sql *s = cs_sql_of(t);
    int rc = CS_OK;

    *ncols = 0;
    *structural = false;
    memset(s->cells, 0, t->ncolumns * sizeof(s->cells[0]));
    memset(s->changed, 0, t->ncolumns * sizeof(s->changed[0]));
    for (uint32_t i = 0; i < b->merged.ngone; i++) {
        uint32_t pos = cs_column_position(t, b->merged.gone[i]);

        if (pos != CS_NO_COLUMN)
            s->changed[pos] = true;
    }
    for (uint32_t i = 0; i < b->op->ncells; i++) {
        uint32_t pos = cs_column_position(t, b->cells[i].col);

        if (pos == CS_NO_COLUMN || !cs_verdict_takes(b->merged.verdicts[i]))
            continue;
        s->changed[pos] = true;
        s->cells[pos] = &b->cells[i].value;
    }
    for (uint32_t i = 0; i < t->ncolumns && rc == CS_OK; i++) {
        if (!s->changed[i])
            continue;
        s->cols[(*ncols)++] = i;
        *structural |= s->partial || (s->structural[i] && s->linked);
        rc =
            cs_show_value(b->r, t, i, s->cells[i], t->columns[i].key_pos >= 0 ? &s->parts[t->columns[i].key_pos] : NULL,
                          &s->values[i], &s->aside[i], why, b->err);
    }
    return rc;
}

/* May the row be updated in place, as far as foreign keys go? old: the stored row; the other columns of s->values are
 * filled in from it. */
static int keeps_relations(struct cs_batch *b, const struct cs_value *old, bool *out)
{
    const struct cs_table *t = b->bt->t;
    struct cs_table_sql *s = cs_sql_of(t);
    bool children = false;
    int rc;

    for (uint32_t i = 0; i < t->ncolumns; i++) {
        if (!s->changed[i])
            s->values[i] = old[i];
        else if (cs_same_value(&s->values[i], &old[i]))
            s->changed[i] = false;
    }
    /* Under a foreign key into the table itself the row may find its old self as its parent. */
    *out = false;
    for (uint32_t i = 0; i < t->nfks; i++)
        for (uint32_t k = 0; s->parents[i] == t && k < t->fks[i].ncols; k++)
            if (s->changed[s->parent_refs[i][k]])
                return CS_OK;
    if ((rc = cs_show_parents(b->r, t, s->values, s->changed, out, b->err)) != CS_OK || !*out)
        return rc;
    rc = cs_show_has_children(b->r, t, old, s->changed, &children, b->err);
    *out = !children;
    return rc;
}

static int row_changes(struct cs_batch *b)
{
    struct cs_table *t = b->bt->t;
    struct cs_table_sql *s = cs_sql_of(t);
    struct cs_value *old = NULL;
    bool structural, fits = true, waits = s->linked && cs_family_waits(b->r, b->bt->t);
    const char *why = NULL;
    enum cs_written out;
    uint32_t ncols;
    int rc;

    if (!cs_show_key(t, b->op->key, s->parts))
        return defer(b, false);
    if ((rc = changed_columns(b, &ncols, &structural, &why)) != CS_OK)
        return rc;
    if (why == NULL && (structural || t->has_check)) {
        rc = cs_show_stored(b->r, t, b->op->key, &old, b->err);
        if (rc == CS_ENOTFOUND)
            return defer(b, false);
        if (rc != CS_OK || (rc = keeps_relations(b, old, &fits)) != CS_OK)
            return rc;
    }
    leave_row(b);
    if (why != NULL || !fits)
        return defer(b, false);
    if ((rc = cs_show_update(b->r, t, b->op->key, s->cols, ncols, s->values, &out, &why, b->err)) != CS_OK)
        return rc;
    if (out != CS_WRITTEN)
        return defer(b, false);
    b->result->changed += ncols > 0;
    if ((rc = keep_aside(b, s->aside)) != CS_OK || (old != NULL && (rc = check_row(b, s->values)) != CS_OK))
        return rc;
    if (waits && structural && (rc = cs_pending_freed(b->r, t, old, b->err)) != CS_OK)
        return rc;
    return waits && (structural || b->merged.ins_changed) ? cs_pending_add(b->r, t, b->op->key, b->err) : CS_OK;
}

/* What is left of a row above its tombstone moves to sync_hidden. */
static int keep_rest(struct cs_batch *b)
{
    const struct cs_row *row = &b->r->row;
    struct cs_table *t = b->bt->t;
    int rc = CS_OK;

    for (uint32_t i = 0; i < row->ncells && rc == CS_OK; i++) {
        uint32_t pos = cs_column_position(t, row->cells[i].col);
        struct cs_value v;

        rc = CS_ENOTFOUND;
        if (may_have_aside(t))
            rc = cs_hidden_cell(b->r, &b->r->scratch, t->id, b->op->key, row->cells[i].col, &v, b->err);
        if (rc != CS_ENOTFOUND)
            continue;
        if (pos == CS_NO_COLUMN || (rc = read_row(b)) == CS_ENOTFOUND) {
            rc = CS_OK;
            continue;
        }
        if (rc == CS_OK) {
            cs_value_from_column(&v, b->row, (int)pos);
            rc = cs_hidden_put_cell(b->r, t->id, b->op->key, row->cells[i].col, &v, b->err);
        }
    }
    return rc;
}

static int row_goes(struct cs_batch *b)
{
    struct cs_table *t = b->bt->t;
    const struct cs_table_sql *s = cs_sql_of(t);
    bool waits = cs_family_waits(b->r, b->bt->t), children = false;
    struct cs_value *old = NULL;
    int rc = keep_rest(b);

    if (rc != CS_OK)
        return rc;
    if (waits || s->nchildren > 0) {
        rc = cs_show_stored(b->r, t, b->op->key, &old, b->err);
        if (rc == CS_OK && !waits)
            rc = cs_show_has_children(b->r, t, old, NULL, &children, b->err);
        if (rc != CS_OK && rc != CS_ENOTFOUND)
            return rc;
    }
    leave_row(b);
    if ((rc = cs_show_delete(b->r, t, b->op->key, b->err)) != CS_OK ||
        (t->has_check && (rc = cs_conflict_close(b->r, t->id, b->op->key, "check", NULL, b->err)) != CS_OK))
        return rc;
    b->result->changed++;
    for (uint32_t i = 0; t->nhidden_cells > 0 && i < b->merged.ngone && rc == CS_OK; i++)
        rc = cs_hidden_drop_cell(b->r, t->id, b->op->key, b->merged.gone[i], b->err);
    if (rc == CS_OK && old != NULL && (waits || children))
        rc = cs_pending_freed(b->r, t, old, b->err);
    return rc;
}

/* A hidden row changes or goes. Where foreign keys run in circles even what a hidden row claimed can have mattered. */
static int hidden_row(struct cs_batch *b)
{
    int rc = CS_OK;

    if (cs_sql_of(b->bt->t)->circular)
        rc = cs_pending_freed_hidden(b->r, b->bt->t, b->op->key, b->err);
    if (rc == CS_OK && b->merged.lives)
        return defer(b, false);
    cs_sql_of(b->bt->t)->npending -= b->pending;
    if (rc == CS_OK && (rc = keep_cells(b)) == CS_OK)
        rc = cs_hidden_drop_row(b->r, b->bt->id, b->op->key, b->err);
    return rc;
}

static int project(struct cs_batch *b)
{
    const struct cs_merge_out *m = &b->merged;

    if (b->bt->t == NULL)
        return unknown_table(b);
    if (!m->lived)
        return m->lives ? row_appears(b) : keep_cells(b);
    if (b->hidden)
        return hidden_row(b);
    return m->lives ? row_changes(b) : row_goes(b);
}

/* ---- the batch ---- */

static int is_hidden(struct cs_batch *b, bool *out)
{
    struct cs_buf *reason = &cs_apply_of(b->r)->a;
    int rc;

    *out = false;
    if (b->bt->t != NULL && b->bt->t->nhidden == 0)
        return CS_OK;
    cs_buf_reset(reason);
    rc = cs_hidden_row_reason(b->r, b->bt->id, b->op->key, reason, b->err);
    *out = rc == CS_OK;
    b->pending = *out && cs_slice_eq(cs_buf_slice(reason), cs_slice_str("pending"));
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

/* A row that nobody has heard of: one insert into sync_rows finds that out. */
static int try_new(struct cs_batch *b, const struct cs_merge_in *in)
{
    struct cs_row *row = &b->r->row;
    int rc;

    row->ins = row->del = CS_NEVER;
    row->ncells = 0;
    if ((rc = merge(b, in)) != CS_OK)
        return rc;
    return cs_rows_insert(b->r, b->bt->id, b->op->key, row, 0, b->err);
}

static int apply_op(struct cs_batch *b)
{
    struct cs_row *row = &b->r->row;
    struct cs_merge_in in;
    uint32_t before = b->result->conflicts;
    bool is_new;
    int rc = renumber(b, &in);

    if (rc != CS_OK)
        return rc;
    b->hidden = b->pending = b->had_cells = false;
    b->row = NULL;
    if (b->expect_new && in.kind == CS_OP_INSERT) {
        rc = try_new(b, &in);
        if (rc != CS_EEXIST)
            return rc == CS_OK ? project(b) : rc;
    }
    rc = cs_rows_get(b->r, b->bt->id, b->op->key, row, &b->unsent, b->err);
    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    is_new = b->expect_new = rc == CS_ENOTFOUND;
    b->had_cells = row->ncells > 0;
    if (cs_row_lives(row) && (rc = is_hidden(b, &b->hidden)) != CS_OK)
        return rc;
    if ((rc = merge(b, &in)) != CS_OK || (rc = record_conflicts(b, &in)) != CS_OK || !b->merged.changed)
        return rc;
    if (b->bt->t != NULL && b->merged.lived && !b->merged.lives && b->result->conflicts > before &&
        (rc = keep_lost_row(b)) != CS_OK)
        return rc;
    if (b->unsent != 0 && (rc = cs_unsent_leave_run(b->r, b->unsent, b->bt->id, b->op->key, b->err)) != CS_OK)
        return rc;
    rc = is_new ? cs_rows_insert(b->r, b->bt->id, b->op->key, row, 0, b->err)
                : cs_rows_update(b->r, b->bt->id, b->op->key, row, b->unsent, b->err);
    return rc == CS_OK ? project(b) : rc;
}

/* An operation that is not merged, as the tombstone that may have met it is gone. What the state does not have of it is
 * kept as a conflict where that was asked for. */
static int pass_over(struct cs_batch *b)
{
    struct cs_row *row = &b->r->row;
    struct cs_merge_in in;
    int rc = b->d->told ? renumber(b, &in) : CS_OK;

    if (rc != CS_OK || !b->d->told)
        return rc;
    rc = cs_rows_get(b->r, b->bt->id, b->op->key, row, &b->unsent, b->err);
    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    rc = CS_OK;
    for (uint32_t i = 0; i < in.ncells && rc == CS_OK; i++) {
        const struct cs_row_cell *has = cs_row_find(row, in.cells[i].col);
        struct cs_conflict_in c = { .why = cs_why_name(CS_WHY_DELETED),
                                    .table = b->bt->id,
                                    .key = b->op->key,
                                    .col = in.cells[i].col,
                                    .losing = in.v,
                                    .value = &in.cells[i].value };
        enum cs_recorded recorded;

        if (has != NULL && cs_version_cmp(&has->v, &in.v) >= 0)
            continue;
        rc = cs_conflict_record(b->r, &c, &recorded, b->err);
        b->result->conflicts += rc == CS_OK && recorded != CS_RECORDED_BEFORE;
        b->result->manual_conflicts += rc == CS_OK && recorded == CS_RECORDED_MANUAL;
    }
    return rc;
}

/* Names to numbers, once per batch. */
static int number_tables(struct cs_batch *b)
{
    struct cs_arena *a = &b->r->scratch;
    int rc = CS_OK;

    if ((b->tables = cs_arena_zalloc(a, (size_t)b->d->ntables + 1, sizeof *b->tables)) == NULL)
        return no_memory(b->err);
    for (uint32_t i = 0; i < b->d->ntables && rc == CS_OK; i++) {
        const struct cs_delta_table *dt = &b->d->tables[i];
        struct batch_table *bt = &b->tables[i];

        if ((bt->cols = cs_arena_zalloc(a, (size_t)dt->ncolumns + 1, sizeof *bt->cols)) == NULL)
            return no_memory(b->err);
        rc = cs_table_number(b->r, dt->name, &bt->id, b->err);
        for (uint32_t k = 0; k < dt->ncolumns && rc == CS_OK; k++)
            rc = cs_column_number(b->r, bt->id, dt->columns[k], &bt->cols[k], b->err);
        if (rc != CS_OK)
            return rc;
        bt->t = cs_table_by_id(b->r, bt->id);
        if (bt->t != NULL)
            rc = cs_guard_table(b->r, bt->t, b->err);
    }
    return rc;
}

/* The set names the row itself, or an edit of it alone. */
static int strike(struct cs_batch *b)
{
    if (b->op->kind != CS_OP_UPDATE)
        return cs_stale_strike(b->r, b->bt->id, b->op->key, b->err);
    return b->op->stamp <= b->d->skip ? CS_OK : cs_stale_edited(b->r, b->d, b->op, b->bt->id, b->err);
}

static int apply_ops(struct cs_batch *b)
{
    struct cs_pending_counts counts;
    int rc;

    if ((rc = number_tables(b)) != CS_OK || (rc = cs_replica_stale(b->r, &b->striking, b->err)) != CS_OK)
        return rc;
    for (uint32_t i = 0; i < b->d->nops && rc == CS_OK; i++) {
        b->op = &b->d->ops[i];
        b->bt = &b->tables[b->op->table];
        rc = b->op->stamp <= b->d->skip ? pass_over(b) : apply_op(b);
        leave_row(b);
        if (rc == CS_OK && b->striking && !b->d->sweeps)
            rc = strike(b);
        b->r->hlc = cs_hlc_receive(b->r->hlc, b->op->stamp);
        b->result->ops++;
    }
    cs_ahead_end(&b->ahead);
    if (rc == CS_OK && (rc = cs_pending_run(b->r, &counts, b->err)) == CS_OK) {
        b->result->changed += counts.changed;
        b->result->hidden += counts.hidden;
        b->result->conflicts += counts.conflicts;
    }
    return rc;
}

static struct cs_batch *batch(struct cs_replica *r, struct cs_error *err)
{
    struct cs_apply *a = cs_apply_of(r);

    if (a->batch == NULL && (a->batch = calloc(1, sizeof *a->batch)) == NULL)
        no_memory(err);
    return a->batch;
}

/* Begins the write transaction, with everything local sealed and the schema as we know it. */
static int begin(struct cs_replica *r, struct cs_error *err)
{
    bool more = true, changed;
    uint64_t sealed;
    int rc;

    while (more) {
        sqlite3_stmt *s;
        int64_t version;

        if ((rc = cs_db_begin(r, err)) != CS_OK)
            return rc;
        if ((s = cs_db_stmt(r, CS_STMT_SCHEMA_VERSION, err)) == NULL)
            return err_code(err);
        version = sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_int64(s, 0) : -1;
        sqlite3_reset(s);
        if (version != r->schema_version) { /* under the lock it cannot change any more */
            cs_db_rollback(r);
            if ((rc = cs_replica_check_schema(r, &changed, err)) != CS_OK)
                return rc;
            continue;
        }
        if (r->bare)
            return cs_fail(err, CS_ENOTFOUND, "no table of this database is tracked any more");
        if ((rc = cs_apply_ready(r, err)) != CS_OK || (rc = cs_seal_slice(r, SLICE, &more, &sealed, err)) != CS_OK)
            return rc;
        if (more && (rc = cs_db_commit(r, err)) != CS_OK)
            return rc;
    }
    return CS_OK;
}

static bool has_shared(const struct cs_delta *d)
{
    for (uint32_t i = 0; d != NULL && i < d->ntables; i++)
        if (cs_slice_eq(d->tables[i].name, cs_slice_str(CS_SHARED)))
            return true;
    return false;
}

static int run(struct cs_replica *r, const struct cs_delta *d, const struct cs_pull_mark *mark,
               struct cs_apply_result *out, struct cs_error *err)
{
    struct cs_batch *b = batch(r, err);
    int rc;

    if (b == NULL)
        return CS_ENOMEM;
    if ((rc = begin(r, err)) != CS_OK)
        return rc;
    if ((rc = cs_gap_before_apply(r, d, err)) != CS_OK)
        return rc;
    /* What the last call left in the scratch arena is gone; these lists lie there. */
    cs_scratch_reset(r);
    if (!cs_row_reserve(&r->row, 32, &r->scratch))
        return no_memory(err);
    b->merged = (struct cs_merge_out){ 0 };
    b->ahead = (struct cs_ahead){ 0 };
    b->r = r;
    b->d = d;
    b->result = out;
    b->err = err;
    if (d != NULL && d->nops > 0) {
        if ((rc = cs_apply_ready(r, err)) != CS_OK || (rc = apply_ops(b)) != CS_OK ||
            (rc = cs_gap_after_apply(r, d, err)) != CS_OK || (rc = cs_hlc_save(r, err)) != CS_OK ||
            (has_shared(d) && (rc = cs_conflict_settle(r, err)) != CS_OK) ||
            (rc = cs_conflict_collect(r, err)) != CS_OK)
            return rc;
        if (d->collect.number != 0 && (rc = cs_collect(r, &d->collect, err)) != CS_OK)
            return rc;
    }
    if ((rc = cs_mark_save(r, mark, err)) != CS_OK)
        return rc;
    return cs_db_commit(r, err);
}

int cs_replica_apply(cs_replica *r, const struct cs_delta *d, const struct cs_pull_mark *mark,
                     struct cs_apply_result *out, struct cs_error *err)
{
    struct cs_error local = { 0 };
    int rc;

    *out = (struct cs_apply_result){ 0 };
    if (has_shared(d) && !r->bare && (rc = cs_shared_ensure(r, err)) != CS_OK)
        return rc;
    cs_write_begin(r);
    do {
        *out = (struct cs_apply_result){ 0 };
        rc = run(r, d, mark, out, &local);
        if (rc != CS_OK)
            cs_db_rollback(r);
    } while (cs_write_again(r));
    if (rc == CS_OK)
        return CS_OK;
    *out = (struct cs_apply_result){ 0 };
    if (err != NULL)
        *err = local;
    return rc;
}
