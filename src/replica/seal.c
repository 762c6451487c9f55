/* Sealing: logged changes become versions. What one change becomes is cs_row_seal's matter (spec: local_operation);
 * here is the reading of the changelog, the record of what is unsent, and the step to projection.
 *
 * Projection waits until the changelog is empty. While it is not, the application's tables are ahead of the versions: a
 * row that was hidden in between would be missing when a later entry says that the application wrote it. What earlier
 * slices touched is kept in memory; should the process end between two slices, a note in sync_meta ("unprojected")
 * makes the next one look at everything. */
#include "replica/apply.h"
#include "replica/statements.h"
#include "replica/store.h"

enum { LOG_SEQ = 0, LOG_TABLE, LOG_OP, LOG_MASK, LOG_MS, LOG_KEY };
enum { OP_INSERT = 1, OP_UPDATE = 2, OP_DELETE = 3, OP_SUSPECT = 4, OP_GROUP = 16, MASK_BITS = 62 };

enum { TOUCHED_MAX = 200000 }; /* rows remembered from slice to slice; more: everything is looked at */

/* As cs_touched, and good for another schema. */
struct touched {
    int64_t table;
    struct cs_slice key;
    enum cs_op_kind kind;
    bool was_hidden, structural;
};

/* An update that is being put together: its triggers each log a share of the columns (triggers.c). */
struct pending {
    struct cs_table *table; /* NULL: none */
    struct cs_buf key;
    struct cs_op_cell *cells; /* owned, ascending */
    uint32_t ncells, cap;
    int64_t ms;
};

/* One sealing transaction. Kept from one to the next for its memory. */
struct seal {
    struct touched *touched; /* owned: what was sealed and not yet projected */
    size_t ntouched, cap;
    struct cs_arena keys;     /* theirs */
    bool complete;            /* they are all that the note in sync_meta is about */
    struct cs_op_cell *cells; /* owned: all columns of the table in hand */
    uint32_t cells_cap;
    struct pending update;
    struct cs_seal_out out;
    struct cs_buf key;
    int64_t now_ms;
    bool null_keys;  /* a NULL in a key was seen, or may be there: to be counted when the changelog is empty */
    bool expect_new; /* the last insert was of a row that nobody had heard of */
};

static struct seal *seal_of(struct cs_replica *r)
{
    return r->seal;
}

void cs_seal_free(struct cs_replica *r)
{
    struct seal *l = seal_of(r);

    if (l == NULL)
        return;
    free(l->touched);
    cs_arena_free(&l->keys);
    free(l->cells);
    free(l->update.cells);
    cs_buf_free(&l->update.key);
    cs_buf_free(&l->key);
    free(l);
    r->seal = NULL;
}

/* The scratch arena begins anew, and with it all that lies in it. */
void cs_scratch_reset(struct cs_replica *r)
{
    struct seal *l = seal_of(r);

    cs_arena_reset(&r->scratch);
    r->row = (struct cs_row){ 0 };
    if (l != NULL)
        l->out = (struct cs_seal_out){ 0 };
}

int cs_seal_begin(struct cs_replica *r, struct cs_error *err)
{
    struct seal *l = seal_of(r);
    int64_t noted;
    struct cs_error ignored;

    if (l == NULL) {
        if ((r->seal = l = calloc(1, sizeof *l)) == NULL)
            return cs_fail(err, CS_ENOMEM, "out of memory");
        cs_meta_int(r, "held_back", &noted, &ignored);
        l->null_keys = noted != 0;
    }
    cs_scratch_reset(r);
    cs_extract_stale(r);
    l->now_ms = cs_now_ms(r->world);
    l->expect_new = true;
    l->update.table = NULL;
    return cs_apply_ready(r, err); /* the counts of hidden rows must be right from here on */
}

static void forget_touched(struct seal *l)
{
    l->ntouched = 0;
    cs_arena_reset(&l->keys);
}

static int project_list(struct cs_replica *r, struct seal *l, struct cs_error *err)
{
    struct cs_touched *rows;
    size_t n = 0;

    if (l->ntouched == 0)
        return CS_OK;
    if ((rows = cs_arena_zalloc(&l->keys, l->ntouched, sizeof *rows)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    for (size_t i = 0; i < l->ntouched; i++) {
        const struct touched *x = &l->touched[i];

        rows[n] = (struct cs_touched){ .table = cs_table_by_id(r, x->table),
                                       .key = x->key,
                                       .kind = x->kind,
                                       .was_hidden = x->was_hidden,
                                       .mask_any = x->structural };
        n += rows[n].table != NULL;
    }
    return cs_project_touched(r, rows, n, err);
}

/* The changelog is empty: what was touched since it was so last is decided. */
static int project_now(struct cs_replica *r, struct cs_error *err)
{
    struct seal *l = seal_of(r);
    int64_t noted;
    int rc = cs_meta_int(r, "unprojected", &noted, err);

    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    rc = noted != 0 && !l->complete ? cs_project_schema_changed(r, err) : project_list(r, l, err);
    if (rc == CS_OK && noted != 0)
        rc = cs_meta_drop(r, "unprojected", err);
    if (rc == CS_OK) {
        forget_touched(l);
        l->complete = false;
    }
    return rc;
}

/* More slices follow: notes that the projection is owed. */
static int project_later(struct cs_replica *r, struct cs_error *err)
{
    struct seal *l = seal_of(r);
    int64_t noted;
    int rc;

    if (l->ntouched == 0)
        return CS_OK;
    if (l->ntouched > TOUCHED_MAX)
        forget_touched(l);
    if ((rc = cs_meta_int(r, "unprojected", &noted, err)) != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    if (l->ntouched == 0 || (noted != 0 && !l->complete)) {
        l->complete = false;
        return noted != 0 ? CS_OK : cs_meta_put_int(r, "unprojected", 1, err);
    }
    l->complete = true;
    return noted != 0 ? CS_OK : cs_meta_put_int(r, "unprojected", 1, err);
}

void cs_seal_null_keys(struct cs_replica *r)
{
    seal_of(r)->null_keys = true;
}

/* The number in sync_meta says whether there are any; how many there are by now is counted by who asks. */
static int note_null_keys(struct cs_replica *r, bool drained, struct cs_error *err)
{
    struct seal *l = seal_of(r);
    int64_t n = 1;
    int rc = CS_OK;

    if (!l->null_keys)
        return CS_OK;
    if (drained && (rc = cs_null_keys(r, &n, err)) == CS_OK)
        l->null_keys = false;
    return rc == CS_OK ? cs_meta_put_int(r, "held_back", n, err) : rc;
}

int cs_seal_finish(struct cs_replica *r, bool drained, struct cs_error *err)
{
    int rc = drained && !cs_gap_linked_waits(r) ? project_now(r, err) : project_later(r, err);

    if (rc != CS_OK || (rc = cs_hlc_save(r, err)) != CS_OK ||
        (rc = cs_meta_put_int(r, "next_unsent", (int64_t)r->next_unsent, err)) != CS_OK)
        return rc;
    return note_null_keys(r, drained, err);
}

static int touch(struct cs_replica *r, const struct cs_seal_change *c, bool was_hidden, bool structural,
                 struct cs_error *err)
{
    struct seal *l = seal_of(r);
    struct cs_table *t = c->table;
    struct touched *p;

    if (t->nuniques == 0 && t->nfks == 0 && !t->is_parent && t->nhidden == 0 && !was_hidden)
        return CS_OK;
    if (c->kind == CS_OP_UPDATE && !structural && !was_hidden)
        return CS_OK;
    if (l->ntouched == l->cap) {
        size_t cap = l->cap == 0 ? 256 : l->cap * 2;

        if ((p = realloc(l->touched, cap * sizeof *p)) == NULL)
            return cs_fail(err, CS_ENOMEM, "out of memory");
        l->touched = p;
        l->cap = cap;
    }
    p = &l->touched[l->ntouched];
    *p = (struct touched){ .table = t->id,
                           .key = cs_arena_copy(&l->keys, c->key),
                           .kind = c->kind,
                           .was_hidden = was_hidden,
                           .structural = structural };
    if (p->key.data == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    l->ntouched++;
    return CS_OK;
}

static bool in_list(const uint32_t *cols, uint32_t n, uint32_t pos)
{
    for (uint32_t i = 0; i < n; i++)
        if (cols[i] == pos)
            return true;
    return false;
}

/* Does a changed column take part in a UNIQUE or a foreign key, of this table or into it? */
static bool is_structural(const struct cs_seal_change *c)
{
    const struct cs_table *t = c->table;

    if (t->is_parent)
        return true;
    for (uint32_t i = 0; i < c->ncells; i++) {
        uint32_t pos = cs_column_position(t, c->cells[i].col);

        for (uint32_t k = 0; k < t->nuniques; k++)
            if (t->uniques[k].where != NULL || in_list(t->uniques[k].cols, t->uniques[k].ncols, pos))
                return true;
        for (uint32_t k = 0; k < t->nfks; k++)
            if (in_list(t->fks[k].cols, t->fks[k].ncols, pos))
                return true;
    }
    return false;
}

/* What the change covered or deleted without having seen it lost to it: this device's record. */
static int record_covered(struct cs_replica *r, const struct cs_seal_change *c, const struct cs_seal_out *out,
                          struct cs_error *err)
{
    int rc = CS_OK;

    for (uint32_t i = 0; i < out->ncovered && rc == CS_OK; i++) {
        struct cs_value v;
        struct cs_conflict_in in = { .why = c->kind == CS_OP_DELETE ? "deleted" : "overwritten",
                                     .table = c->table->id,
                                     .key = c->key,
                                     .col = out->covered[i].col,
                                     .losing = out->covered[i].v };
        enum cs_recorded recorded;

        rc = cs_hidden_cell(r, &r->scratch, c->table->id, c->key, in.col, &v, err);
        if (rc == CS_ENOTFOUND)
            rc = CS_OK; /* shown: its old value is gone from the table already */
        else if (rc == CS_OK)
            in.value = &v;
        if (rc == CS_OK && in.value != NULL)
            rc = cs_conflict_record(r, &in, &recorded, err);
    }
    return rc;
}

/* What was kept aside of the row goes with it: when it lives again, that must not come back. */
static int drop_deleted(struct cs_replica *r, const struct cs_seal_change *c, const struct cs_seal_out *out,
                        struct cs_error *err)
{
    int rc = CS_OK;

    for (uint32_t i = 0; c->table->nhidden_cells > 0 && i < out->merge.ngone && rc == CS_OK; i++)
        rc = cs_hidden_drop_cell(r, c->table->id, c->key, out->merge.gone[i], err);
    return rc;
}

/* Notes in the record what this change makes unsent. `before`: the row before the change. */
static int note_unsent(struct cs_replica *r, const struct cs_seal_change *c, const struct cs_version *ins_before,
                       struct cs_unsent *u, struct cs_error *err)
{
    const struct cs_seal_out *out = &seal_of(r)->out;
    int rc = CS_OK;

    if (out->kind == CS_OP_INSERT) {
        u->ins = true;
        return CS_OK;
    }
    if (out->kind == CS_OP_DELETE) {
        for (uint32_t i = 0; i < out->nover && rc == CS_OK; i++) { /* as others know it */
            const struct cs_row_cell *base = cs_unsent_find(u->base, u->nbase, out->over[i].col);
            struct cs_row_cell seen = { out->over[i].col, base != NULL ? base->v : out->over[i].v };

            if (!cs_version_is_never(&seen.v) && !(u->ins && cs_version_cmp(&seen.v, ins_before) == 0))
                rc = cs_unsent_add(&r->scratch, &u->seen, &u->nseen, seen, err);
        }
        u->ins = false;
        u->del = true;
        return rc;
    }
    for (uint32_t i = 0; i < c->ncells && rc == CS_OK; i++) {
        struct cs_row_cell base = { .col = c->cells[i].col };
        const struct cs_row_cell *over = cs_unsent_find(out->over, out->nover, base.col);

        if (cs_unsent_find(u->base, u->nbase, base.col) != NULL)
            continue; /* `over` is what stood before the first unsent edit */
        if (over != NULL && !(u->ins && cs_version_cmp(&over->v, ins_before) == 0))
            base.v = over->v;
        rc = cs_unsent_add(&r->scratch, &u->base, &u->nbase, base, err);
    }
    return rc;
}

static int fresh_insert(struct cs_replica *r, const struct cs_seal_change *c, const struct cs_version *v,
                        struct cs_error *err)
{
    struct cs_row *row = &r->row;
    int64_t seq;
    int rc;

    row->ncells = 0;
    row->del = CS_NEVER;
    row->ins = *v;
    if (!cs_row_reserve(row, c->ncells, &r->scratch))
        return cs_fail(err, CS_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < c->ncells; i++)
        row->cells[i] = (struct cs_row_cell){ c->cells[i].col, *v };
    row->ncells = c->ncells;
    if ((rc = cs_run_next(r, c->table->id, c->cells, c->ncells, &seq, err)) == CS_OK &&
        (rc = cs_rows_insert(r, c->table->id, c->key, row, seq, err)) == CS_OK)
        rc = cs_run_append(r, c->key, v->stamp, err);
    return rc;
}

/* The row broke a CHECK, it may not any more; if it does, its conflict is of another version now. */
static int check_again(struct cs_replica *r, const struct cs_seal_change *c, const struct cs_row *row,
                       struct cs_error *err)
{
    struct cs_version newest = cs_row_newest(row);
    struct cs_value *values;
    uint32_t raised = 0;
    int rc;

    if (!c->table->has_check)
        return CS_OK;
    rc = cs_conflict_close(r, c->table->id, c->key, "check", NULL, err);
    if (rc != CS_OK || sqlite3_changes(r->db) == 0 || c->kind == CS_OP_DELETE)
        return rc;
    rc = cs_show_stored(r, c->table, c->key, &values, err);
    if (rc == CS_OK)
        rc = cs_conflict_check(r, c->table, c->key, values, &newest, &raised, err);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

/* A change of a row that has versions already. */
static int change_known(struct cs_replica *r, struct cs_seal_change *c, const struct cs_version *v,
                        struct cs_error *err)
{
    struct seal *l = seal_of(r);
    struct cs_row *row = &r->row;
    struct cs_seal_in in = { .v = *v };
    struct cs_version ins_before;
    struct cs_unsent u;
    int64_t seq;
    bool hidden = false, known;
    int rc = cs_rows_get(r, c->table->id, c->key, row, &seq, err);

    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    known = rc == CS_OK;
    if (c->kind == CS_OP_UPDATE && !cs_row_lives(row)) { /* the table shows it, so it lives: a gap; take all of it */
        c->kind = CS_OP_INSERT;
        c->cells = cs_seal_all_columns(r, c->table, &c->ncells, err);
        if (c->cells == NULL)
            return err_code(err);
    }
    if (cs_row_lives(row) && c->table->nhidden > 0) {
        struct cs_buf reason = { 0 };

        rc = cs_hidden_row_reason(r, c->table->id, c->key, &reason, err);
        hidden = rc == CS_OK;
        cs_buf_free(&reason);
        if (rc != CS_OK && rc != CS_ENOTFOUND)
            return rc;
    }
    ins_before = row->ins;
    in.kind = c->kind;
    in.cells = c->kind == CS_OP_DELETE ? NULL : c->cells;
    in.ncells = c->kind == CS_OP_DELETE ? 0 : c->ncells;
    in.visible = cs_row_lives(row) && !hidden;
    if ((rc = cs_row_seal(row, &in, &l->out, &r->scratch)) != CS_OK)
        return cs_fail(err, rc, "cannot seal a change");
    if (l->out.ncovered > 0 && (rc = record_covered(r, c, &l->out, err)) != CS_OK)
        return rc;
    if (hidden && c->kind != CS_OP_DELETE && (rc = cs_hidden_uncover(r, c->table, c->key, row, err)) != CS_OK)
        return rc;
    for (uint32_t i = 0; c->table->nhidden_cells > 0 && !hidden && i < in.ncells; i++)
        if ((rc = cs_hidden_drop_cell(r, c->table->id, c->key, in.cells[i].col, err)) != CS_OK && rc != CS_ENOTFOUND)
            return rc;
    if (c->kind == CS_OP_DELETE && (rc = drop_deleted(r, c, &l->out, err)) != CS_OK)
        return rc;
    rc = cs_unsent_get(r, &r->scratch, seq, &u, err);
    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    if (rc == CS_ENOTFOUND)
        seq = 0;
    if ((rc = note_unsent(r, c, &ins_before, &u, err)) != CS_OK)
        return rc;
    rc = seq != 0 ? cs_unsent_set(r, seq, c->table->id, c->key, &u, err)
                  : cs_unsent_put(r, c->table->id, c->key, &u, &seq, err);
    if (rc == CS_OK)
        rc = known ? cs_rows_update(r, c->table->id, c->key, row, seq, err)
                   : cs_rows_insert(r, c->table->id, c->key, row, seq, err);
    if (rc == CS_OK)
        rc = check_again(r, c, row, err);
    return rc == CS_OK ? touch(r, c, hidden, is_structural(c), err) : rc;
}

int cs_seal_change(struct cs_replica *r, const struct cs_seal_change *change, uint64_t *sealed, struct cs_error *err)
{
    struct seal *l = seal_of(r);
    struct cs_seal_change c = *change;
    struct cs_version v = { .device = r->id.device };
    int rc = CS_EEXIST;

    v.stamp = r->hlc = cs_hlc_tick(r->hlc, c.ms, l->now_ms);
    if (c.kind == CS_OP_INSERT && l->expect_new) {
        rc = fresh_insert(r, &c, &v, err);
        l->expect_new = rc == CS_OK;
        if (rc == CS_OK)
            rc = touch(r, &c, false, true, err);
    }
    if (rc == CS_EEXIST) {
        rc = change_known(r, &c, &v, err);
        if (c.kind == CS_OP_INSERT)
            l->expect_new = seal_of(r)->out.kind == CS_OP_INSERT;
    }
    if (rc == CS_OK && sealed != NULL)
        (*sealed)++;
    return rc;
}

static struct cs_op_cell *room(struct cs_op_cell **cells, uint32_t *cap, uint32_t n, struct cs_error *err)
{
    if (n > *cap || *cells == NULL) {
        struct cs_op_cell *p = realloc(*cells, ((size_t)n + 1) * sizeof *p);

        if (p == NULL) {
            cs_fail(err, CS_ENOMEM, "out of memory");
            return NULL;
        }
        *cells = p;
        *cap = n;
    }
    return *cells;
}

const struct cs_op_cell *cs_seal_all_columns(struct cs_replica *r, const struct cs_table *t, uint32_t *n,
                                             struct cs_error *err)
{
    struct seal *l = seal_of(r);
    struct cs_op_cell *cells = room(&l->cells, &l->cells_cap, t->ncolumn_ids, err);

    *n = 0;
    for (uint32_t id = 0; cells != NULL && id < t->ncolumn_ids; id++)
        if (t->by_id[id] != CS_NO_COLUMN)
            cells[(*n)++] = (struct cs_op_cell){ .col = id };
    return cells;
}

static int flush_update(struct cs_replica *r, uint64_t *sealed, struct cs_error *err)
{
    struct pending *u = &seal_of(r)->update;
    struct cs_seal_change c = { .table = u->table,
                                .key = cs_buf_slice(&u->key),
                                .kind = CS_OP_UPDATE,
                                .cells = u->cells,
                                .ncells = u->ncells,
                                .ms = u->ms };

    u->table = NULL;
    return c.table == NULL ? CS_OK : cs_seal_change(r, &c, sealed, err);
}

/* Is what was just logged of the row another share of the same statement's update? A second statement within the same
 * ms is as good: it could have been one. */
static bool joins(const struct pending *u, const struct cs_seal_change *c, uint32_t base, uint64_t mask)
{
    if (u->table != c->table || u->ms != c->ms || !cs_slice_eq(cs_buf_slice(&u->key), c->key))
        return false;
    for (uint32_t i = 0; i < u->ncells; i++)
        if (u->cells[i].col >= base && u->cells[i].col - base < MASK_BITS &&
            (mask >> (u->cells[i].col - base) & 1) != 0)
            return false;
    return true;
}

static int seal_update(struct cs_replica *r, const struct cs_seal_change *c, uint32_t base, uint64_t mask,
                       uint64_t *sealed, struct cs_error *err)
{
    struct pending *u = &seal_of(r)->update;
    int rc;

    if (!joins(u, c, base, mask)) {
        if ((rc = flush_update(r, sealed, err)) != CS_OK)
            return rc;
        cs_buf_reset(&u->key);
        cs_buf_put_slice(&u->key, c->key);
        if (u->key.failed || room(&u->cells, &u->cap, c->table->ncolumn_ids, err) == NULL)
            return cs_fail(err, CS_ENOMEM, "out of memory");
        u->table = c->table;
        u->ms = c->ms;
        u->ncells = 0;
    }
    for (uint32_t bit = 0; bit < MASK_BITS; bit++) {
        uint32_t id = base + bit, k = u->ncells;

        if ((mask >> bit & 1) == 0 || id >= c->table->ncolumn_ids || c->table->by_id[id] == CS_NO_COLUMN)
            continue;
        for (; k > 0 && u->cells[k - 1].col > id; k--)
            u->cells[k] = u->cells[k - 1];
        u->cells[k] = (struct cs_op_cell){ .col = id };
        u->ncells++;
    }
    if (u->ncells == 0)
        u->table = NULL;
    return CS_OK;
}

/* A key that a REPLACE was about to displace: gone without a trigger, if the table does not have it any more. */
static int seal_suspect(struct cs_replica *r, struct cs_seal_change *c, uint64_t *sealed, struct cs_error *err)
{
    int64_t unsent;
    int step = cs_table_read(r, c->table, c->key, err), rc;

    if (step == SQLITE_ROW)
        sqlite3_reset(c->table->read);
    if (step != SQLITE_DONE)
        return step == SQLITE_ROW ? CS_OK : step;
    rc = cs_rows_get(r, c->table->id, c->key, &r->row, &unsent, err);
    if (rc == CS_ENOTFOUND || (rc == CS_OK && !cs_row_lives(&r->row)))
        return CS_OK;
    if (rc == CS_OK && c->table->nhidden > 0) {
        struct cs_buf reason = { 0 };

        rc = cs_hidden_row_reason(r, c->table->id, c->key, &reason, err);
        cs_buf_free(&reason);
        if (rc == CS_OK)
            return CS_OK; /* hidden: it is not in the table for a reason of ours */
        if (rc == CS_ENOTFOUND)
            rc = CS_OK;
    }
    if (rc != CS_OK)
        return rc;
    c->kind = CS_OP_DELETE;
    return cs_seal_change(r, c, sealed, err);
}

/* When the change was made. The triggers leave the arithmetic to us: they run in the application's own statements. */
static int64_t logged_ms(sqlite3_stmt *s)
{
    double day;

    if (sqlite3_column_type(s, LOG_MS) != SQLITE_FLOAT)
        return sqlite3_column_int64(s, LOG_MS);
    day = sqlite3_column_double(s, LOG_MS);
    return day > 0 && day < 5373484.5 ? (int64_t)((day - 2440587.5) * 86400000.0) : 0; /* SQLite's own bounds */
}

/* A slice that is full takes no more but the rest of its last update, which is not cut in two. */
static int seal_logged(struct cs_replica *r, sqlite3_stmt *s, bool full, bool *taken, uint64_t *sealed,
                       struct cs_error *err)
{
    struct seal *l = seal_of(r);
    int64_t op = sqlite3_column_int64(s, LOG_OP);
    uint64_t mask = (uint64_t)sqlite3_column_int64(s, LOG_MASK);
    uint32_t base = (uint32_t)(op / OP_GROUP) * MASK_BITS;
    struct cs_seal_change c = { .table = cs_table_by_id(r, sqlite3_column_int64(s, LOG_TABLE)), .ms = logged_ms(s) };
    bool keyed;
    int rc;

    keyed = c.table != NULL && cs_table_key(c.table, s, LOG_KEY, &l->key);
    if (l->key.failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    c.key = cs_buf_slice(&l->key);
    *taken = !full || (keyed && op % OP_GROUP == OP_UPDATE && joins(&l->update, &c, base, mask));
    if (!*taken)
        return CS_OK;
    if (c.table == NULL)
        return CS_OK; /* untracked or dropped meanwhile */
    if (!keyed) {
        cs_seal_null_keys(r); /* held back: no other device could tell which row it is */
        return CS_OK;
    }
    if (op % OP_GROUP == OP_UPDATE)
        return seal_update(r, &c, base, mask, sealed, err);
    if ((rc = flush_update(r, sealed, err)) != CS_OK)
        return rc;
    switch (op) {
    case OP_INSERT:
        c.kind = CS_OP_INSERT;
        if ((c.cells = cs_seal_all_columns(r, c.table, &c.ncells, err)) == NULL)
            return err_code(err);
        return cs_seal_change(r, &c, sealed, err);
    case OP_DELETE:
        c.kind = CS_OP_DELETE;
        return cs_seal_change(r, &c, sealed, err);
    case OP_SUSPECT:
        return seal_suspect(r, &c, sealed, err);
    default:
        return CS_OK; /* nobody but our triggers writes here; a stray row is dropped */
    }
}

int cs_seal_slice(struct cs_replica *r, uint32_t max_rows, bool *more, uint64_t *sealed, struct cs_error *err)
{
    sqlite3_stmt *s;
    int64_t last = 0;
    uint32_t n = 0;
    int rc, step = SQLITE_DONE;

    *more = false;
    if ((rc = cs_seal_begin(r, err)) != CS_OK)
        return rc;
    if ((s = cs_db_stmt(r, CS_STMT_LOG_READ, err)) == NULL)
        return err_code(err);
    while (rc == CS_OK && !*more && (step = sqlite3_step(s)) == SQLITE_ROW) {
        bool taken = true;

        rc = seal_logged(r, s, n >= max_rows, &taken, sealed, err);
        *more = !taken;
        last = taken ? sqlite3_column_int64(s, LOG_SEQ) : last;
        n += taken;
    }
    if (rc == CS_OK && step != SQLITE_DONE && step != SQLITE_ROW)
        rc = cs_db_fail(r, err, "cannot read the changelog");
    sqlite3_reset(s);
    if (rc != CS_OK || (rc = flush_update(r, sealed, err)) != CS_OK)
        return rc;
    if (n > 0) {
        if ((s = cs_db_stmt(r, CS_STMT_LOG_DELETE, err)) == NULL)
            return err_code(err);
        sqlite3_bind_int64(s, 1, last);
        if ((rc = cs_db_step(r, s, "cannot clear the changelog", err)) != CS_OK)
            return rc;
    }
    return n > 0 ? cs_seal_finish(r, !*more, err) : CS_OK;
}

static int seal_once(struct cs_replica *r, uint32_t max_rows, bool *more, uint64_t *sealed, struct cs_error *err)
{
    bool gap = false;
    int rc = cs_db_begin_with_schema(r, err);

    if (rc != CS_OK)
        return rc;
    rc = cs_seal_slice(r, max_rows, more, sealed, err);
    if (rc == CS_OK && !*more) /* nothing of the application's waits: go on with existing rows */
        rc = cs_gap_slice(r, max_rows, &gap, sealed, err);
    *more = *more || gap;
    return cs_db_end(r, rc, err);
}

int cs_replica_seal(cs_replica *r, uint32_t max_rows, bool *more, uint64_t *sealed, struct cs_error *err)
{
    uint64_t before = sealed != NULL ? *sealed : 0, count;
    bool unsealed, unsent;
    int rc;

    *more = false;
    if ((rc = cs_replica_pending(r, &unsealed, &unsent, err)) != CS_OK || !unsealed)
        return rc;
    if (cs_uuid_is_zero(&r->id.device))
        return cs_fail(err, CS_EINVAL, "changes cannot be sealed before this device has an identity");
    cs_write_begin(r);
    do {
        *more = false;
        count = before;
        rc = seal_once(r, max_rows, more, &count, err);
    } while (cs_write_again(r));
    if (sealed != NULL)
        *sealed = count;
    return rc;
}
