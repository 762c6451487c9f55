/* Extracting: what is unsent, with values, read from one snapshot (spec: Device.extract with coalescing). Rows that the
 * changelog names in that snapshot are left for later, so a stamp and its value always belong together. */
#include "crdt/intern.h"
#include "replica/apply.h"
#include "replica/merged.h"
#include "replica/statements.h"
#include "replica/store.h"

enum { LOG_TABLE = 1, LOG_KEY = 5, ROW_MAX = 16 * 1024 * 1024 };

/* One row that was taken: what goes from sync_unsent when the batch is bound. */
struct taken {
    int64_t seq, run; /* run: its record's seq, or 0 */
};

/* An operation with where it stands in the order of sending. */
struct extracted {
    struct cs_op op;
    uint32_t rank; /* of its table: parents first */
    uint32_t at;   /* order of extraction */
};

/* The tables of the set, by our numbers. */
struct set_table {
    struct cs_table *t; /* NULL: not in this schema */
    int64_t id;
    uint32_t *col_of; /* our column number -> index in the set, or CS_NO_COLUMN */
    uint32_t ncol_of;
    struct cs_delta_table out;
    uint32_t cap;
};

struct extract {
    struct taken *taken; /* owned; what the last extract took */
    size_t ntaken, taken_cap;
    bool stale;    /* something was sealed since: taken records may have newer edits in them */
    int64_t nhuge; /* rows above ROW_MAX that the last extract left out */
    bool state;    /* the last extract was of merged state, up to this row */
    int64_t state_table;
    struct cs_buf state_key; /* owned */
    /* of the running call, in the caller's arena but for the first two */
    struct cs_arena busy_arena;
    struct cs_intern busy; /* rows in the changelog, (table u64 ‖ key) */
    struct cs_buf lookup;
    struct cs_arena *a;
    struct set_table *tables;
    uint32_t ntables, tables_cap;
    struct cs_uuid *devices;
    uint32_t ndevices, devices_cap;
    struct extracted *ops;
    uint32_t nops, ops_cap, max_ops;
    size_t bytes, max_bytes;
    bool doubted; /* a row of the state is not in its table */
};

void cs_extract_free(struct cs_replica *r)
{
    struct extract *x = r->extract;

    if (x == NULL)
        return;
    free(x->taken);
    cs_buf_free(&x->state_key);
    free(x);
    r->extract = NULL;
}

static int no_memory(struct cs_error *err)
{
    return cs_fail(err, CS_ENOMEM, "out of memory");
}

/* A list in an arena that doubles when it is full. */
static bool grow(struct cs_arena *a, void **list, uint32_t n, uint32_t *cap, size_t size)
{
    uint32_t want = *cap == 0 ? 16 : *cap * 2;
    void *p;

    if (n < *cap)
        return true;
    if ((p = cs_arena_zalloc(a, want, size)) == NULL)
        return false;
    if (n > 0)
        memcpy(p, *list, n * size);
    *list = p;
    *cap = want;
    return true;
}

/* ---- rows that are being edited right now ---- */

static struct cs_slice busy_name(struct extract *x, int64_t table, struct cs_slice key)
{
    cs_buf_reset(&x->lookup);
    cs_buf_put_u64(&x->lookup, (uint64_t)table);
    cs_buf_put_slice(&x->lookup, key);
    return cs_buf_slice(&x->lookup);
}

static int load_busy(struct cs_replica *r, struct extract *x, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_LOG_KEYS, err);
    int rc = CS_OK, step = SQLITE_DONE;
    struct cs_buf key = { 0 };

    if (s == NULL)
        return err_code(err);
    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        struct cs_table *t = cs_table_by_id(r, sqlite3_column_int64(s, LOG_TABLE));
        struct cs_slice name;

        if (t == NULL || !cs_table_key(t, s, LOG_KEY, &key))
            continue;
        name = busy_name(x, t->id, cs_buf_slice(&key));
        if (key.failed || x->lookup.failed || cs_intern_put(&x->busy, &x->busy_arena, name) == CS_INTERN_NONE)
            rc = no_memory(err);
    }
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read the changelog");
    sqlite3_reset(s);
    cs_buf_free(&key);
    return rc;
}

static bool is_busy(struct extract *x, int64_t table, struct cs_slice key)
{
    return x->busy.n > 0 && cs_intern_find(&x->busy, busy_name(x, table, key)) != CS_INTERN_NONE;
}

/* ---- the set's tables, columns and devices ---- */

static int set_table(struct cs_replica *r, struct extract *x, int64_t id, uint32_t *out, struct cs_error *err)
{
    struct set_table *st;
    sqlite3_stmt *s;
    int rc = CS_OK;

    for (*out = 0; *out < x->ntables; (*out)++)
        if (x->tables[*out].id == id)
            return CS_OK;
    if (!grow(x->a, (void **)&x->tables, x->ntables, &x->tables_cap, sizeof *x->tables))
        return no_memory(err);
    st = &x->tables[x->ntables];
    *st = (struct set_table){ .t = cs_table_by_id(r, id), .id = id };
    if ((s = cs_db_stmt(r, CS_STMT_TABLE_NAME, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, id);
    if (cs_db_row(r, s, &rc, "cannot read our tables", err)) {
        st->out.name = cs_arena_copy(x->a, cs_slice(sqlite3_column_text(s, 0), (size_t)sqlite3_column_bytes(s, 0)));
        rc = st->out.name.data == NULL ? no_memory(err) : CS_OK;
    } else if (rc == CS_OK) {
        rc = cs_fail(err, CS_ECORRUPT, "table %lld has no name", (long long)id);
    }
    sqlite3_reset(s);
    x->ntables += rc == CS_OK;
    return rc;
}

static int set_column(struct cs_replica *r, struct extract *x, uint32_t table, uint32_t col, uint32_t *out,
                      struct cs_error *err)
{
    struct set_table *st = &x->tables[table];
    struct cs_slice name;
    int rc;

    while (col >= st->ncol_of) {
        uint32_t had = st->ncol_of;

        if (!grow(x->a, (void **)&st->col_of, st->ncol_of, &st->ncol_of, sizeof *st->col_of))
            return no_memory(err);
        for (uint32_t i = had; i < st->ncol_of; i++)
            st->col_of[i] = CS_NO_COLUMN;
    }
    if ((*out = st->col_of[col]) != CS_NO_COLUMN)
        return CS_OK;
    if (!grow(x->a, (void **)&st->out.columns, st->out.ncolumns, &st->cap, sizeof *st->out.columns))
        return no_memory(err);
    if ((rc = cs_column_name(r, st->id, col, &name, err)) != CS_OK)
        return rc;
    if ((name = cs_arena_copy(x->a, name)).data == NULL)
        return no_memory(err);
    st->out.columns[st->out.ncolumns] = name;
    *out = st->col_of[col] = st->out.ncolumns++;
    return CS_OK;
}

static int set_device(struct extract *x, const struct cs_uuid *device, uint32_t *out, struct cs_error *err)
{
    for (*out = 0; *out < x->ndevices; (*out)++)
        if (cs_uuid_cmp(&x->devices[*out], device) == 0)
            return CS_OK;
    if (!grow(x->a, (void **)&x->devices, x->ndevices, &x->devices_cap, sizeof *x->devices))
        return no_memory(err);
    x->devices[x->ndevices++] = *device;
    return CS_OK;
}

/* ---- one row ---- */

/* The columns that the inserts of a run carried. */
struct plain {
    uint32_t *pos, *col, ncols; /* in the table, in the set */
};

/* What the row needs to become operations. */
struct source {
    uint32_t table; /* in the set */
    struct cs_table *t;
    int64_t table_id;
    struct cs_slice key; /* in the caller's arena */
    struct cs_unsent u;
    bool hidden;
    bool read;                 /* t->read stands on the row */
    const struct plain *plain; /* of a run: its rows are in the table as they were inserted */
    int64_t stamp;             /* of a run's row */
};

static bool is_own(const struct cs_replica *r, const struct cs_version *v)
{
    return v->stamp != 0 && cs_uuid_cmp(&v->device, &r->id.device) == 0;
}

static int copy_value(struct extract *x, struct cs_value *v, struct cs_error *err)
{
    if (v->type >= CS_TEXT) {
        v->u.bytes = cs_arena_copy(x->a, v->u.bytes);
        if (v->u.bytes.data == NULL)
            return no_memory(err);
        x->bytes += v->u.bytes.len;
    }
    x->bytes += 16;
    return CS_OK;
}

/* The merged value of a cell: what sync_hidden keeps, else what the table shows. *gone: the application dropped the
 * column, and the value with it. CS_ENOTFOUND: the row, or the whole table, is not there at present. */
static int read_value(struct cs_replica *r, struct extract *x, struct source *src, uint32_t col, struct cs_value *out,
                      bool *gone, struct cs_error *err)
{
    uint32_t pos = src->t != NULL ? cs_column_position(src->t, col) : CS_NO_COLUMN;
    int rc;

    *gone = false;
    if (src->t == NULL || src->hidden || src->t->nhidden_cells > 0 || pos == CS_NO_COLUMN) {
        rc = cs_hidden_cell(r, x->a, src->table_id, src->key, col, out, err);
        if (rc == CS_OK && out->type >= CS_TEXT)
            x->bytes += out->u.bytes.len;
        if (rc != CS_ENOTFOUND)
            return rc;
    }
    if (src->t == NULL)
        return CS_ENOTFOUND;
    if ((*gone = pos == CS_NO_COLUMN))
        return CS_OK;
    if (!src->read) {
        rc = cs_table_read(r, src->t, src->key, err);
        if (rc != SQLITE_ROW)
            return rc == SQLITE_DONE ? CS_ENOTFOUND : rc;
        src->read = true;
    }
    cs_value_from_column(out, src->t->read, (int)pos);
    return copy_value(x, out, err);
}

static struct cs_op *new_op(struct cs_replica *r, struct extract *x, const struct source *src, enum cs_op_kind kind,
                            int64_t stamp)
{
    struct extracted *e;

    (void)r;
    if (!grow(x->a, (void **)&x->ops, x->nops, &x->ops_cap, sizeof *x->ops))
        return NULL;
    e = &x->ops[x->nops];
    *e = (struct extracted){ .op = { .kind = kind, .table = src->table, .stamp = stamp, .key = src->key },
                             .at = x->nops };
    x->nops++;
    x->bytes += src->key.len + 24;
    return &e->op;
}

static int put_over(struct cs_replica *r, struct extract *x, struct cs_op *op, uint32_t col, const struct cs_version *v,
                    uint32_t cap, struct cs_error *err)
{
    struct cs_op_over *o;
    int rc;

    if (v->stamp == 0)
        return CS_OK;
    if (op->over == NULL && (op->over = cs_arena_zalloc(x->a, cap, sizeof *op->over)) == NULL)
        return no_memory(err);
    o = &op->over[op->nover];
    if ((rc = set_column(r, x, op->table, col, &o->col, err)) != CS_OK ||
        (rc = set_device(x, &v->device, &o->device, err)) != CS_OK)
        return rc;
    o->stamp = v->stamp;
    op->nover++;
    return CS_OK;
}

static int put_delete(struct cs_replica *r, struct extract *x, struct source *src, struct cs_error *err)
{
    struct cs_op *op = new_op(r, x, src, CS_OP_DELETE, r->row.del.stamp);
    int rc = op == NULL ? no_memory(err) : CS_OK;

    for (uint32_t i = 0; i < src->u.nseen && rc == CS_OK; i++)
        rc = put_over(r, x, op, src->u.seen[i].col, &src->u.seen[i].v, src->u.nseen, err);
    return rc;
}

/* Is the cell one that no batch has carried? Of an unsent insert every own cell is. */
static bool is_unsent(const struct cs_replica *r, const struct source *src, const struct cs_row_cell *cell)
{
    return is_own(r, &cell->v) && (src->u.ins || cs_unsent_find(src->u.base, src->u.nbase, cell->col) != NULL);
}

static int put_write(struct cs_replica *r, struct extract *x, struct source *src, enum cs_op_kind kind, int64_t stamp,
                     struct cs_error *err)
{
    struct cs_op *op = new_op(r, x, src, kind, stamp);
    int rc = op == NULL ? no_memory(err) : CS_OK;

    if (rc == CS_OK && r->row.ncells > 0 &&
        (op->cells = cs_arena_zalloc(x->a, r->row.ncells, sizeof *op->cells)) == NULL)
        rc = no_memory(err);
    for (uint32_t i = 0; i < r->row.ncells && rc == CS_OK; i++) {
        const struct cs_row_cell *cell = &r->row.cells[i];
        const struct cs_row_cell *base;
        struct cs_op_cell *out;
        bool gone;

        if (cell->v.stamp != stamp || !is_unsent(r, src, cell))
            continue;
        out = &op->cells[op->ncells];
        if ((rc = set_column(r, x, src->table, cell->col, &out->col, err)) != CS_OK ||
            (rc = read_value(r, x, src, cell->col, &out->value, &gone, err)) != CS_OK)
            return rc;
        if (gone)
            continue;
        op->ncells++;
        base = cs_unsent_find(src->u.base, src->u.nbase, cell->col);
        if (kind == CS_OP_UPDATE && base != NULL)
            rc = put_over(r, x, op, cell->col, &base->v, src->u.nbase, err);
    }
    if (rc == CS_OK && kind == CS_OP_UPDATE && op->ncells == 0)
        x->nops--; /* nothing is left of it */
    return rc;
}

/* An update for each distinct stamp among the unsent cells that are not the insert's. */
static int put_updates(struct cs_replica *r, struct extract *x, struct source *src, struct cs_error *err)
{
    const struct cs_row *row = &r->row;
    int64_t last = 0;

    for (;;) {
        int64_t next = INT64_MAX;
        int rc;

        for (uint32_t i = 0; i < row->ncells; i++)
            if (row->cells[i].v.stamp > last && row->cells[i].v.stamp < next && is_unsent(r, src, &row->cells[i]) &&
                !(src->u.ins && cs_version_cmp(&row->cells[i].v, &row->ins) == 0))
                next = row->cells[i].v.stamp;
        if (next == INT64_MAX)
            return CS_OK;
        if ((rc = put_write(r, x, src, CS_OP_UPDATE, next, err)) != CS_OK)
            return rc;
        last = next;
    }
}

static int row_state(struct cs_replica *r, struct source *src, struct cs_error *err)
{
    struct cs_buf reason = { 0 };
    int64_t unsent;
    int rc = cs_rows_get(r, src->table_id, src->key, &r->row, &unsent, err);

    if (rc != CS_OK)
        return rc == CS_ENOTFOUND ? cs_fail(err, CS_ECORRUPT, "a row with unsent edits has no versions") : rc;
    src->hidden = src->t == NULL;
    if (!cs_row_lives(&r->row)) {
        src->hidden = true; /* cells above a tombstone lie in sync_hidden */
    } else if (src->t != NULL && src->t->nhidden > 0) {
        rc = cs_hidden_row_reason(r, src->table_id, src->key, &reason, err);
        src->hidden = rc == CS_OK;
        if (rc == CS_ENOTFOUND)
            rc = CS_OK;
    }
    cs_buf_free(&reason);
    return rc;
}

/* All operations of one row. CS_ENOTFOUND: its values are being changed right now; nothing of it was taken. */
static int extract_row(struct cs_replica *r, struct extract *x, struct source *src, struct cs_error *err)
{
    uint32_t nops = x->nops;
    size_t bytes = x->bytes;
    int rc = row_state(r, src, err);

    if (rc == CS_OK && src->u.del && is_own(r, &r->row.del))
        rc = put_delete(r, x, src, err);
    if (rc == CS_OK && src->u.ins && is_own(r, &r->row.ins))
        rc = put_write(r, x, src, CS_OP_INSERT, r->row.ins.stamp, err);
    if (rc == CS_OK)
        rc = put_updates(r, x, src, err);
    if (src->read)
        sqlite3_reset(src->t->read);
    if (rc != CS_OK) {
        x->nops = nops;
        x->bytes = bytes;
    }
    return rc;
}

/* The insert of a run's row: its versions need not be read. CS_ENOTFOUND as above. */
static int extract_plain(struct cs_replica *r, struct extract *x, struct source *src, struct cs_error *err)
{
    const struct plain *p = src->plain;
    struct cs_op *op;
    int rc = cs_table_read(r, src->t, src->key, err);

    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? CS_ENOTFOUND : rc;
    op = new_op(r, x, src, CS_OP_INSERT, src->stamp);
    if (op == NULL || (op->cells = cs_arena_alloc(x->a, ((size_t)p->ncols + 1) * sizeof *op->cells)) == NULL)
        rc = no_memory(err);
    else
        rc = CS_OK;
    for (uint32_t i = 0; i < p->ncols && rc == CS_OK; i++) {
        struct cs_op_cell *cell = &op->cells[op->ncells++];

        cell->col = p->col[i];
        cs_value_from_column(&cell->value, src->t->read, (int)p->pos[i]);
        rc = copy_value(x, &cell->value, err);
    }
    sqlite3_reset(src->t->read);
    return rc;
}

/* ---- the order of sending ---- */

/* Depth below parents: 0 for tables without a tracked parent. Circles end at the number of tables. */
static uint32_t depth_of(struct cs_replica *r, const struct cs_table *t, uint32_t limit)
{
    uint32_t deepest = 0;

    for (uint32_t i = 0; t != NULL && limit > 0 && i < t->nfks; i++) {
        const struct cs_table *p = cs_table_by_name(r, cs_slice_str(t->fks[i].parent));
        uint32_t d = p == NULL || p == t ? 0 : 1 + depth_of(r, p, limit - 1);

        deepest = d > deepest ? d : deepest;
    }
    return deepest;
}

/* Deletes first, children before parents; then the rest, parents before children; otherwise as they came. */
static int by_sending(const void *a, const void *b)
{
    const struct extracted *x = a, *y = b;
    bool dx = x->op.kind == CS_OP_DELETE, dy = y->op.kind == CS_OP_DELETE;

    if (dx != dy)
        return dx ? -1 : 1;
    if (x->rank != y->rank)
        return (x->rank < y->rank) != dx ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

static int finish(struct cs_replica *r, struct extract *x, struct cs_delta *out, struct cs_error *err)
{
    uint32_t ranks[64] = { 0 };
    bool several = false;

    for (uint32_t i = 0; i < x->nops; i++)
        several = several || x->ops[i].op.table != x->ops[0].op.table || x->ops[i].op.kind != x->ops[0].op.kind;
    for (uint32_t i = 0; i < x->ntables && i < 64; i++)
        ranks[i] = depth_of(r, x->tables[i].t, r->ntables < 16 ? (uint32_t)r->ntables : 16);
    for (uint32_t i = 0; several && i < x->nops; i++)
        x->ops[i].rank = x->ops[i].op.table < 64 ? ranks[x->ops[i].op.table] : 0;
    if (several)
        qsort(x->ops, x->nops, sizeof *x->ops, by_sending);
    *out = (struct cs_delta){ .devices = x->devices, .ndevices = x->ndevices, .ntables = x->ntables, .nops = x->nops };
    out->tables = cs_arena_zalloc(x->a, (size_t)x->ntables + 1, sizeof *out->tables);
    out->ops = cs_arena_zalloc(x->a, (size_t)x->nops + 1, sizeof *out->ops);
    if (out->tables == NULL || out->ops == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < x->ntables; i++)
        out->tables[i] = x->tables[i].out;
    for (uint32_t i = 0; i < x->nops; i++) {
        out->ops[i] = x->ops[i].op;
        cs_op_cells_sort(out->ops[i].cells, out->ops[i].ncells);
        cs_over_sort(out->ops[i].over, out->ops[i].nover);
    }
    return CS_OK;
}

void cs_over_sort(struct cs_op_over *over, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        struct cs_op_over o = over[i];
        uint32_t k = i;

        for (; k > 0 && over[k - 1].col > o.col; k--)
            over[k] = over[k - 1];
        over[k] = o;
    }
}

static int take(struct extract *x, int64_t seq, int64_t run, struct cs_error *err)
{
    if (x->ntaken == x->taken_cap) {
        size_t cap = x->taken_cap == 0 ? 1024 : x->taken_cap * 2;
        struct taken *p = realloc(x->taken, cap * sizeof *p);

        if (p == NULL)
            return no_memory(err);
        x->taken = p;
        x->taken_cap = cap;
    }
    x->taken[x->ntaken++] = (struct taken){ seq, run };
    return CS_OK;
}

/* Takes one row's operations. *full: the batch was not empty and this row would make it too long; it begins the
 * next one. */
static int take_row(struct cs_replica *r, struct extract *x, struct source *src, int64_t seq, const struct cs_run *run,
                    bool *full, struct cs_error *err)
{
    uint32_t nops = x->nops;
    size_t bytes = x->bytes;
    int rc;

    if (is_busy(x, src->table_id, src->key))
        return CS_OK;
    rc = src->plain != NULL ? extract_plain(r, x, src, err) : extract_row(r, x, src, err);
    if (rc == CS_ENOTFOUND)
        return CS_OK;
    if (rc != CS_OK)
        return rc;
    *full = nops > 0 && (x->nops > x->max_ops || x->bytes > 2 * x->max_bytes);
    if (x->bytes - bytes > ROW_MAX) { /* held back at its source */
        x->nhuge++;
        *full = false;
    } else if (!*full) {
        return take(x, seq, run != NULL ? run->first : 0, err);
    }
    x->nops = nops;
    x->bytes = bytes;
    return CS_OK;
}

static bool has_room(const struct extract *x)
{
    return x->nops < x->max_ops && x->bytes < x->max_bytes;
}

/* What a run says is enough, but for values that are not in the table. */
static int prepare_run(struct cs_replica *r, struct extract *x, const struct cs_run *run, struct source *src,
                       struct plain *p, struct cs_error *err)
{
    int rc;

    if (src->t == NULL || src->t->nhidden > 0 || src->t->nhidden_cells > 0)
        return CS_OK;
    *p = (struct plain){ .ncols = run->ncols };
    p->pos = cs_arena_zalloc(x->a, (size_t)run->ncols + 1, sizeof *p->pos);
    p->col = cs_arena_zalloc(x->a, (size_t)run->ncols + 1, sizeof *p->col);
    if (p->pos == NULL || p->col == NULL)
        return no_memory(err);
    for (uint32_t i = 0; i < run->ncols; i++) {
        uint32_t id = run->cols[i];

        p->pos[i] = cs_column_position(src->t, id);
        if (p->pos[i] == CS_NO_COLUMN)
            return CS_OK; /* dropped meanwhile */
        if ((rc = set_column(r, x, src->table, id, &p->col[i], err)) != CS_OK)
            return rc;
    }
    src->plain = p;
    return CS_OK;
}

static int take_run(struct cs_replica *r, struct extract *x, struct source *src, int64_t first, struct cs_slice bytes,
                    bool *full, struct cs_error *err)
{
    struct cs_run run;
    struct plain plain;
    int rc;

    if ((bytes = cs_arena_copy(x->a, bytes)).data == NULL)
        return no_memory(err);
    if ((rc = cs_run_decode(x->a, first, src->table_id, bytes, &run, err)) == CS_OK)
        rc = prepare_run(r, x, &run, src, &plain, err);
    src->u = (struct cs_unsent){ .ins = true };
    for (uint32_t i = 0; i < run.n && rc == CS_OK && !*full && has_room(x); i++) {
        src->key = run.rows[i].key;
        src->stamp = run.rows[i].stamp;
        src->read = false;
        if (src->key.len > 0)
            rc = take_row(r, x, src, first + 1 + i, &run, full, err);
    }
    src->plain = NULL; /* it was of this run */
    return rc;
}

static int walk(struct cs_replica *r, struct extract *x, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_UNSENT_WALK, err);
    int rc = CS_OK, step = SQLITE_DONE;
    bool full = false;

    if (s == NULL)
        return err_code(err);
    while (rc == CS_OK && !full && has_room(x) && (step = sqlite3_step(s)) == SQLITE_ROW) {
        struct source src = { .table_id = sqlite3_column_int64(s, 1), .key = cs_db_column_blob(s, 2) };
        int64_t seq = sqlite3_column_int64(s, 0);

        src.t = cs_table_by_id(r, src.table_id);
        if ((rc = set_table(r, x, src.table_id, &src.table, err)) != CS_OK)
            break;
        if (src.key.data == NULL) {
            rc = take_run(r, x, &src, seq, cs_db_column_blob(s, 3), &full, err);
            continue;
        }
        if ((src.key = cs_arena_copy(x->a, src.key)).data == NULL)
            rc = no_memory(err);
        else if ((rc = cs_unsent_decode(r, x->a, cs_db_column_blob(s, 3), &src.u, err)) == CS_OK)
            rc = take_row(r, x, &src, seq, NULL, &full, err);
    }
    if (rc == CS_OK && step != SQLITE_DONE && step != SQLITE_ROW)
        rc = cs_db_fail(r, err, "cannot read what is unsent");
    sqlite3_reset(s);
    return rc;
}

/* Records of which nothing stands any more (all of it was overtaken by others' edits) go without a batch. */
static int drop_settled(struct cs_replica *r, struct cs_error *err)
{
    int rc = cs_db_begin(r, err);

    if (rc == CS_OK && (rc = cs_extract_drop_taken(r, err)) == CS_OK)
        return cs_db_commit(r, err);
    cs_db_rollback(r);
    return rc;
}

/* A read transaction in which the schema is the one in memory. */
int cs_snapshot_begin(struct cs_replica *r, struct cs_error *err)
{
    for (;;) {
        int64_t now;
        bool changed;
        int rc = cs_db_make_up(r, err);

        if (rc != CS_OK || (rc = cs_db_exec(r, "BEGIN", err)) != CS_OK ||
            ((rc = cs_schema_version(r, &now, err)) == CS_OK && now == r->schema_version))
            return rc;
        cs_db_leave(r);
        if (rc != CS_OK || (rc = cs_replica_check_schema(r, &changed, err)) != CS_OK)
            return rc;
    }
}

void cs_snapshot_end(struct cs_replica *r)
{
    if (sqlite3_get_autocommit(r->db) == 0)
        sqlite3_exec(r->db, "COMMIT", NULL, NULL, NULL);
    cs_db_leave(r);
}

/* Kept with the rows, so that whoever looks at the database is told too. */
static int save_huge(struct cs_replica *r, int64_t n, struct cs_error *err)
{
    int rc = cs_db_begin(r, err);

    if (rc != CS_OK)
        return rc;
    if ((rc = cs_meta_put_int(r, "huge", n, err)) == CS_OK && (rc = cs_db_commit(r, err)) == CS_OK) {
        r->huge = n;
        return CS_OK;
    }
    cs_db_rollback(r);
    return rc;
}

static struct extract *extract_of(struct cs_replica *r)
{
    if (r->extract == NULL)
        r->extract = calloc(1, sizeof(struct extract));
    return r->extract;
}

/* The snapshot, and what is being edited in it. */
static int extract_begin(struct cs_replica *r, struct extract *x, struct cs_arena *a, uint32_t max_ops,
                         size_t max_bytes, struct cs_error *err)
{
    uint32_t self;
    int rc;

    *x = (struct extract){ .taken = x->taken,
                           .taken_cap = x->taken_cap,
                           .state_key = x->state_key,
                           .a = a,
                           .max_ops = max_ops,
                           .max_bytes = max_bytes };
    cs_scratch_reset(r);
    if ((rc = set_device(x, &r->id.device, &self, err)) != CS_OK || (rc = cs_snapshot_begin(r, err)) != CS_OK)
        return rc;
    return load_busy(r, x, err);
}

static void extract_end(struct cs_replica *r, struct extract *x)
{
    cs_snapshot_end(r);
    cs_arena_free(&x->busy_arena);
    x->busy = (struct cs_intern){ 0 };
    cs_buf_free(&x->lookup);
}

int cs_replica_extract(cs_replica *r, struct cs_arena *a, uint32_t max_ops, size_t max_bytes, struct cs_delta *out,
                       struct cs_error *err)
{
    struct extract *x = extract_of(r);
    int rc;

    *out = (struct cs_delta){ 0 };
    if (r->bare)
        return CS_OK;
    if (x == NULL)
        return no_memory(err);
    /* what is hidden is not read from its table: its count must be right */
    if ((rc = extract_begin(r, x, a, max_ops, max_bytes, err)) == CS_OK && (rc = cs_apply_ready(r, err)) == CS_OK &&
        (rc = walk(r, x, err)) == CS_OK)
        rc = finish(r, x, out, err);
    extract_end(r, x);
    if (rc == CS_OK && x->nops == 0 && x->ntaken > 0)
        rc = drop_settled(r, err);
    if (rc == CS_OK && x->nhuge != r->huge)
        rc = save_huge(r, x->nhuge, err);
    if (rc != CS_OK) {
        x->ntaken = 0;
        *out = (struct cs_delta){ 0 };
    }
    return rc;
}

void cs_extract_forget(struct cs_replica *r)
{
    struct extract *x = r->extract;

    if (x != NULL) {
        x->ntaken = 0;
        x->stale = false;
        x->state = false;
    }
}

/* ---- the merged state ---- */

static int put_state_delete(struct cs_replica *r, struct extract *x, const struct source *src, struct cs_error *err)
{
    struct cs_op *op = new_op(r, x, src, CS_OP_DELETE, r->row.del.stamp);

    return op == NULL ? no_memory(err) : set_device(x, &r->row.del.device, &op->device, err);
}

/* The cells of one version as one operation. Of a table that was dropped, and of a row that is aside, values may be
 * gone that nothing brings back; CS_ENOTFOUND: the row should be in the table, and is not. */
static int put_state_write(struct cs_replica *r, struct extract *x, struct source *src, enum cs_op_kind kind,
                           const struct cs_version *v, struct cs_error *err)
{
    const struct cs_row *row = &r->row;
    struct cs_op *op = new_op(r, x, src, kind, v->stamp);
    int rc = op == NULL ? no_memory(err) : set_device(x, &v->device, &op->device, err);

    if (rc == CS_OK && row->ncells > 0 && (op->cells = cs_arena_zalloc(x->a, row->ncells, sizeof *op->cells)) == NULL)
        rc = no_memory(err);
    for (uint32_t i = 0; i < row->ncells && rc == CS_OK; i++) {
        struct cs_op_cell *out;
        bool gone;

        if (cs_version_cmp(&row->cells[i].v, v) != 0)
            continue;
        out = &op->cells[op->ncells];
        if ((rc = set_column(r, x, src->table, row->cells[i].col, &out->col, err)) != CS_OK)
            break;
        rc = read_value(r, x, src, row->cells[i].col, &out->value, &gone, err);
        if (rc == CS_ENOTFOUND && src->hidden) {
            rc = CS_OK;
            gone = true;
        }
        op->ncells += rc == CS_OK && !gone;
    }
    if (rc == CS_OK && kind == CS_OP_UPDATE && op->ncells == 0)
        x->nops--; /* the application dropped its columns */
    return rc;
}

/* Was this version's cell met before cell i, or is it the insert's? */
static bool is_put(const struct cs_row *row, uint32_t i)
{
    const struct cs_version *v = &row->cells[i].v;

    if (cs_version_cmp(v, &row->ins) == 0)
        return true;
    for (uint32_t k = 0; k < i; k++)
        if (cs_version_cmp(v, &row->cells[k].v) == 0)
            return true;
    return false;
}

static int extract_state_row(struct cs_replica *r, struct extract *x, struct source *src, struct cs_error *err)
{
    const struct cs_row *row = &r->row;
    int rc = row_state(r, src, err);

    if (rc == CS_OK && !cs_version_is_never(&row->del))
        rc = put_state_delete(r, x, src, err);
    if (rc == CS_OK && !cs_version_is_never(&row->ins))
        rc = put_state_write(r, x, src, CS_OP_INSERT, &row->ins, err);
    for (uint32_t i = 0; i < row->ncells && rc == CS_OK; i++)
        if (!is_put(row, i))
            rc = put_state_write(r, x, src, CS_OP_UPDATE, &row->cells[i].v, err);
    if (src->read)
        sqlite3_reset(src->t->read);
    return rc;
}

/* The next row. *stop: it goes into the next set. CS_ENOTFOUND: it is being edited right now, or was deleted where no
 * trigger saw it (its table is then doubted); nothing of it was taken. */
static int take_state(struct cs_replica *r, struct extract *x, int64_t table, struct cs_slice key, bool *stop,
                      struct cs_error *err)
{
    struct source src = { .table_id = table, .t = cs_table_by_id(r, table), .key = cs_arena_copy(x->a, key) };
    uint32_t nops = x->nops;
    size_t bytes = x->bytes;
    int rc;

    if (src.key.data == NULL)
        return no_memory(err);
    if (src.t != NULL && src.t->state == CS_PAUSED)
        return cs_fail(err, CS_EINVAL,
                       "table \"%s\" is paused, so what is in it cannot be sent; claw-sync resume first", src.t->name);
    if (is_busy(x, table, key))
        return CS_ENOTFOUND;
    if ((rc = set_table(r, x, table, &src.table, err)) == CS_OK)
        rc = extract_state_row(r, x, &src, err);
    if (rc == CS_ENOTFOUND && src.t != NULL)
        src.t->doubted = x->doubted = true;
    if (rc != CS_OK) {
        x->nops = nops;
        x->bytes = bytes;
        return rc;
    }
    *stop = nops > 0 && (x->nops > x->max_ops || x->bytes > 2 * x->max_bytes);
    if (x->bytes - bytes > ROW_MAX || *stop) {
        x->nops = nops;
        x->bytes = bytes;
    }
    if (*stop)
        return CS_OK;
    x->state_table = table;
    cs_buf_reset(&x->state_key);
    cs_buf_put_slice(&x->state_key, key);
    return x->state_key.failed ? no_memory(err) : CS_OK;
}

static int walk_state(struct cs_replica *r, struct extract *x, bool *more, struct cs_error *err)
{
    struct cs_slice from;
    sqlite3_stmt *s;
    bool stop = false;
    int rc = cs_publish_load(r, x->a, &x->state_table, &from, err);

    if (rc != CS_OK)
        return rc;
    cs_buf_reset(&x->state_key);
    cs_buf_put_slice(&x->state_key, from);
    if ((s = cs_db_stmt(r, CS_STMT_STATE_WALK, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, x->state_table);
    cs_db_bind_slice(s, 2, from);
    *more = true;
    while (!stop && has_room(x) && (*more = cs_db_row(r, s, &rc, "cannot read the rows' versions", err))) {
        rc = take_state(r, x, sqlite3_column_int64(s, 0), cs_db_column_blob(s, 1), &stop, err);
        stop = stop || rc != CS_OK;
    }
    sqlite3_reset(s);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

int cs_replica_extract_state(cs_replica *r, struct cs_arena *a, uint32_t max_ops, size_t max_bytes,
                             struct cs_delta *out, bool *more, struct cs_error *err)
{
    struct extract *x = extract_of(r);
    int rc;

    *out = (struct cs_delta){ 0 };
    *more = false;
    if (r->bare)
        return CS_OK;
    if (x == NULL)
        return no_memory(err);
    if ((rc = extract_begin(r, x, a, max_ops, max_bytes, err)) == CS_OK && (rc = walk_state(r, x, more, err)) == CS_OK)
        rc = finish(r, x, out, err);
    extract_end(r, x);
    if (rc == CS_ENOTFOUND)
        return CS_OK; /* nothing is published */
    /* What is sealed then says what has become of the row. */
    if (rc == CS_OK && x->doubted)
        rc = cs_replica_look_closer(r, false, err);
    if (rc != CS_OK) {
        *out = (struct cs_delta){ 0 };
        return rc;
    }
    x->state = out->state = true;
    return out->nops == 0 && !*more ? cs_publish_end(r, err) : CS_OK;
}

void cs_extract_stale(struct cs_replica *r)
{
    struct extract *x = r->extract;

    if (x != NULL && (x->ntaken > 0 || x->state))
        x->stale = true;
}

static int drop_records(struct cs_replica *r, int64_t from, int64_t to, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_UNSENT_DROP, err);

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, from);
    sqlite3_bind_int64(s, 2, to);
    return cs_db_step(r, s, "cannot mark edits as sent", err);
}

/* Rows of one run go together, and consecutive records by one statement. */
int cs_extract_drop_taken(struct cs_replica *r, struct cs_error *err)
{
    struct extract *x = r->extract;
    int64_t seqs[CS_RUN_ROWS];
    int rc = CS_OK;

    if (x != NULL && x->stale)
        return cs_fail(err, CS_EABORTED, "rows were sealed after they were extracted; extract again");
    if (x != NULL && x->state)
        return cs_publish_save(r, x->state_table, cs_buf_slice(&x->state_key), err);
    for (size_t i = 0, k; x != NULL && i < x->ntaken && rc == CS_OK; i = k) {
        const struct taken *t = &x->taken[i];

        for (k = i; k < x->ntaken && x->taken[k].run == t->run && k - i < CS_RUN_ROWS; k++) {
            if (t->run == 0 && x->taken[k].seq != t->seq + (int64_t)(k - i))
                break;
            seqs[k - i] = x->taken[k].seq;
        }
        rc = t->run != 0 ? cs_run_sent(r, seqs, k - i, err) : drop_records(r, t->seq, x->taken[k - 1].seq, err);
    }
    if (rc == CS_OK && x != NULL)
        x->ntaken = 0;
    return rc;
}
