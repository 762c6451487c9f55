/* Collecting tombstones (docs/decisions/0017). A collection is a place in the log and a stamp: whoever comes to that
 * place forgets every `del` up to the stamp, in the transaction that moves the pull position past it. What is to be
 * remembered of it, for judging what comes later, is sync_meta's "collected": through u64 ‖ number u64 ‖ log u64. The
 * same bytes are a row of CS_SHARED, for devices that begin with the merged state instead of the log.
 *
 * Where the merged state is taken from others by a device that has rows, those rows are marked (sync_stale), what comes
 * strikes them off, and what stays marked in the end was deleted and collected while this device was away. Of some of
 * those the others have edits that came later, and nothing else: they are noted (sync_stale_edits), and all that stays.
 */
#include "delta/pack.h"
#include "replica/apply.h"
#include "replica/statements.h"
#include "replica/store.h"

enum { SLICE = 500, REST_MAX = 2000 };
static const char record[] = "collected", marks[] = "stale", shared_what[] = "collected", shared_name[] = "tombstones";

static int no_memory(struct cs_error *err)
{
    return cs_fail(err, CS_ENOMEM, "out of memory");
}

/* ---- what is remembered ---- */

void cs_collection_encode(const struct cs_collection *c, uint8_t out[CS_COLLECTION_LEN])
{
    cs_store_u64(out, (uint64_t)c->through);
    cs_store_u64(out + 8, c->number);
    cs_store_u64(out + 16, c->log_id);
}

static void decode(struct cs_collection *out, struct cs_slice b)
{
    if (b.len == CS_COLLECTION_LEN)
        *out = (struct cs_collection){ .through = (int64_t)cs_load_u64(b.data),
                                       .number = cs_load_u64(b.data + 8),
                                       .log_id = cs_load_u64(b.data + 16) };
}

int cs_replica_collected(cs_replica *r, struct cs_collection *out, struct cs_error *err)
{
    struct cs_error none = { 0 };
    struct cs_buf b = { 0 };
    int rc = r->bare ? CS_ENOTFOUND : cs_replica_meta_get(r, record, &b, &none);

    *out = (struct cs_collection){ 0 };
    if (rc == CS_OK)
        decode(out, cs_buf_slice(&b));
    cs_buf_free(&b);
    if (rc == CS_OK || rc == CS_ENOTFOUND)
        return CS_OK;
    if (err != NULL)
        *err = none;
    return rc;
}

int cs_replica_told_collected(cs_replica *r, struct cs_collection *out, struct cs_error *err)
{
    struct cs_slice value;
    int rc = r->bare ? CS_ENOTFOUND : cs_shared_get(r, shared_what, cs_slice_str(shared_name), &value, err);

    *out = (struct cs_collection){ 0 };
    if (rc == CS_OK)
        decode(out, value);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

/* ---- walking rows ---- */

struct found {
    int64_t table;
    struct cs_slice key;
    bool doubted;
};
struct rows {
    struct cs_arena arena;
    struct found at[SLICE];
    size_t n;
    int64_t table; /* the last one found */
    struct cs_slice key;
};

static void rows_begin(struct rows *w)
{
    *w = (struct rows){ .table = INT64_MIN };
}

static void rows_free(struct rows *w)
{
    cs_arena_free(&w->arena);
}

/* The next rows behind the last one. which: its parameters are table, key, through and the most rows; its columns
 * table, key and whether it is doubted. */
static int rows_next(struct cs_replica *r, struct rows *w, int which, int64_t through, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, which, err);
    struct cs_buf last = { 0 };
    int rc = CS_OK;

    if (s == NULL)
        return err_code(err);
    w->n = 0;
    cs_buf_put_slice(&last, w->key);
    if (last.failed)
        return no_memory(err);
    cs_arena_reset(&w->arena);
    sqlite3_bind_int64(s, 1, w->table);
    sqlite3_bind_blob(s, 2, last.len == 0 ? (const void *)"" : last.data, (int)last.len, SQLITE_STATIC);
    sqlite3_bind_int64(s, 3, through);
    sqlite3_bind_int(s, 4, SLICE);
    while (w->n < SLICE && cs_db_row(r, s, &rc, "cannot read our rows", err)) {
        struct found *f = &w->at[w->n];

        f->table = sqlite3_column_int64(s, 0);
        f->doubted = sqlite3_column_int(s, 2) != 0;
        f->key = cs_arena_copy(&w->arena, cs_db_column_blob(s, 1));
        if (f->key.data == NULL) {
            rc = no_memory(err);
            break;
        }
        w->n++;
    }
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
    cs_buf_free(&last);
    if (rc == CS_OK && w->n > 0) {
        w->table = w->at[w->n - 1].table;
        w->key = w->at[w->n - 1].key;
    }
    return rc;
}

/* ---- forgetting tombstones ---- */

static bool is_own(const struct cs_replica *r, const struct cs_version *v)
{
    return v->stamp != 0 && cs_uuid_cmp(&v->device, &r->id.device) == 0;
}

static int drop_row(struct cs_replica *r, const struct found *f, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_ROW_DROP, err);

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, f->table);
    cs_db_bind_slice(s, 2, f->key);
    return cs_db_step(r, s, "cannot forget a tombstone", err);
}

static int drop_unsent(struct cs_replica *r, int64_t seq, const struct cs_unsent *u, struct cs_error *err)
{
    sqlite3_stmt *s;

    if (u->in_run)
        return cs_run_leave(r, seq, err);
    if ((s = cs_db_stmt(r, CS_STMT_UNSENT_DROP, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, seq);
    sqlite3_bind_int64(s, 2, seq);
    return cs_db_step(r, s, "cannot forget an unsent edit", err);
}

/* A delete of ours that the log does not have yet is no part of what is collected: it goes out behind it. */
static int forget(struct cs_replica *r, const struct found *f, int64_t through, struct cs_error *err)
{
    struct cs_row *row = &r->row;
    struct cs_unsent u;
    int64_t seq;
    bool waits;
    int rc = cs_rows_get(r, f->table, f->key, row, &seq, err);

    if (rc != CS_OK)
        return rc == CS_ENOTFOUND ? CS_OK : rc;
    if (cs_version_is_never(&row->del) || row->del.stamp > through)
        return CS_OK;
    rc = cs_unsent_get(r, &r->scratch, seq, &u, err);
    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    waits = rc == CS_OK;
    if (waits && u.del && is_own(r, &row->del))
        return CS_OK;
    row->del = CS_NEVER;
    if (!cs_row_is_empty(row)) {
        if (waits && (rc = cs_unsent_leave_run(r, seq, f->table, f->key, err)) != CS_OK)
            return rc;
        return cs_rows_update(r, f->table, f->key, row, seq, err);
    }
    if (waits && (rc = drop_unsent(r, seq, &u, err)) != CS_OK)
        return rc;
    return drop_row(r, f, err);
}

static int forget_all(struct cs_replica *r, int64_t through, struct cs_error *err)
{
    struct rows w;
    int rc;

    rows_begin(&w);
    cs_extract_stale(r);
    do {
        rc = rows_next(r, &w, CS_STMT_TOMBSTONES, through, err);
        for (size_t i = 0; i < w.n && rc == CS_OK; i++)
            rc = forget(r, &w.at[i], through, err);
    } while (rc == CS_OK && w.n == SLICE);
    rows_free(&w);
    return rc;
}

static int remember(struct cs_replica *r, const struct cs_collection *c, struct cs_error *err)
{
    uint8_t bytes[CS_COLLECTION_LEN];

    cs_collection_encode(c, bytes);
    return cs_meta_put(r, record, cs_slice(bytes, sizeof bytes), err);
}

int cs_collect(struct cs_replica *r, const struct cs_collection *c, struct cs_error *err)
{
    int rc = forget_all(r, c->through, err);

    return rc == CS_OK ? remember(r, c, err) : rc;
}

int cs_row_forget(struct cs_replica *r, int64_t table, struct cs_slice key, int64_t unsent, struct cs_error *err)
{
    const struct found f = { .table = table, .key = key };
    struct cs_op_cell *cells;
    struct cs_unsent u;
    uint32_t n = 0;
    int rc = unsent == 0 ? CS_ENOTFOUND : cs_unsent_get(r, &r->scratch, unsent, &u, err);

    cs_extract_stale(r);
    if (rc == CS_OK)
        rc = drop_unsent(r, unsent, &u, err);
    if ((rc == CS_OK || rc == CS_ENOTFOUND) &&
        (rc = cs_hidden_cells(r, &r->scratch, table, key, &cells, &n, err)) == CS_OK)
        for (uint32_t i = 0; i < n && rc == CS_OK; i++)
            rc = cs_hidden_drop_cell(r, table, key, cells[i].col, err);
    return rc == CS_OK ? drop_row(r, &f, err) : rc;
}

int cs_replica_forget(cs_replica *r, int64_t through, struct cs_error *err)
{
    int rc;

    if (r->bare)
        return CS_OK;
    if ((rc = cs_db_begin(r, err)) != CS_OK)
        return rc;
    cs_scratch_reset(r);
    return cs_db_end(r, forget_all(r, through, err), err);
}

int cs_replica_tombstones(cs_replica *r, int64_t through, bool *out, struct cs_error *err)
{
    struct rows w;
    int rc;

    *out = false;
    if (r->bare)
        return CS_OK;
    rows_begin(&w);
    rc = rows_next(r, &w, CS_STMT_TOMBSTONES, through, err);
    *out = w.n > 0;
    rows_free(&w);
    return rc;
}

/* ---- the set that says so ---- */

/* Edits that met a delete are kept above it. They go with it: by a delete that covers them, and that is no newer than
 * they are. */
static int put_rest(struct cs_replica *r, struct cs_arena *a, const struct found *f, int64_t through,
                    struct cs_delta *d, uint32_t caps[2], struct cs_error *err)
{
    struct cs_row *row = &r->row;
    struct cs_unsent u;
    int64_t seq, top = 0;
    uint32_t table;
    struct cs_op *op;
    int rc = cs_rows_get(r, f->table, f->key, row, &seq, err);

    if (rc != CS_OK || row->ncells == 0)
        return rc;
    if ((rc = cs_unsent_get(r, &r->scratch, seq, &u, err)) != CS_ENOTFOUND)
        return rc;
    for (uint32_t i = 0; i < row->ncells; i++)
        top = row->cells[i].v.stamp > top ? row->cells[i].v.stamp : top;
    if (top > through)
        return CS_OK;
    if ((rc = cs_collect_table(r, a, d, f->table, &caps[0], &table, err)) != CS_OK)
        return rc;
    if (!cs_arena_grow(a, &d->ops, d->nops, &caps[1], sizeof *d->ops))
        return no_memory(err);
    op = &d->ops[d->nops];
    *op = (struct cs_op){ .kind = CS_OP_DELETE, .table = table, .stamp = top, .key = cs_arena_copy(a, f->key) };
    if (op->key.data == NULL)
        return no_memory(err);
    d->nops++;
    return CS_OK;
}

int cs_collect_table(struct cs_replica *r, struct cs_arena *a, struct cs_delta *d, int64_t id, uint32_t *cap,
                     uint32_t *out, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_TABLE_NAME, err);
    struct cs_slice name = { 0 };
    int rc = CS_OK;

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, id);
    if (cs_db_row(r, s, &rc, "cannot read our tables", err))
        name = cs_arena_copy(a, cs_slice(sqlite3_column_text(s, 0), (size_t)sqlite3_column_bytes(s, 0)));
    else if (rc == CS_OK)
        rc = cs_fail(err, CS_ECORRUPT, "table %lld has no name", (long long)id);
    sqlite3_reset(s);
    if (rc != CS_OK)
        return rc;
    if (name.data == NULL)
        return no_memory(err);
    for (*out = 0; *out < d->ntables; (*out)++)
        if (cs_slice_eq(d->tables[*out].name, name))
            return CS_OK;
    if (!cs_arena_grow(a, &d->tables, d->ntables, cap, sizeof *d->tables))
        return no_memory(err);
    d->tables[d->ntables++] = (struct cs_delta_table){ .name = name };
    return CS_OK;
}

/* The row of CS_SHARED. Its place is not known yet: whoever merges it puts that into the value. */
static int put_record(struct cs_replica *r, struct cs_arena *a, struct cs_delta *d, uint32_t caps[2],
                      struct cs_error *err)
{
    static const uint8_t nothing[CS_COLLECTION_LEN];
    struct cs_value what = { .type = CS_TEXT, .u.bytes = cs_slice_str(shared_what) },
                    name = { .type = CS_BLOB, .u.bytes = cs_slice_str(shared_name) },
                    value = { .type = CS_BLOB, .u.bytes = cs_slice(nothing, sizeof nothing) };
    struct cs_buf key = { 0 };
    struct cs_slice *columns = cs_arena_zalloc(a, 2, sizeof *columns);
    struct cs_op_cell *cells = cs_arena_zalloc(a, 2, sizeof *cells);
    struct cs_op *op;

    cs_key_put(&key, &what, CS_BINARY);
    cs_key_put(&key, &name, CS_BINARY);
    if (key.failed || columns == NULL || cells == NULL ||
        !cs_arena_grow(a, &d->tables, d->ntables, &caps[0], sizeof *d->tables) ||
        !cs_arena_grow(a, &d->ops, d->nops, &caps[1], sizeof *d->ops)) {
        cs_buf_free(&key);
        return no_memory(err);
    }
    columns[0] = cs_slice_str("name");
    columns[1] = cs_slice_str("value");
    cells[0] = (struct cs_op_cell){ 0, name };
    cells[1] = (struct cs_op_cell){ 1, value };
    d->tables[d->ntables] =
        (struct cs_delta_table){ .name = cs_slice_str(CS_SHARED), .columns = columns, .ncolumns = 2 };
    op = &d->ops[d->nops++];
    *op = (struct cs_op){ .kind = CS_OP_INSERT,
                          .table = d->ntables++,
                          .stamp = r->hlc,
                          .key = cs_arena_copy(a, cs_buf_slice(&key)),
                          .cells = cells,
                          .ncells = 2 };
    cs_buf_free(&key);
    return op->key.data == NULL ? no_memory(err) : CS_OK;
}

/* A stamp that is above everything here, and that is not used again. */
static int tick(struct cs_replica *r, int64_t now_ms, struct cs_error *err)
{
    int rc = cs_db_begin(r, err);

    if (rc != CS_OK)
        return rc;
    r->hlc = cs_hlc_tick(r->hlc, now_ms, now_ms);
    return cs_db_end(r, cs_hlc_save(r, err), err);
}

int cs_replica_collection(cs_replica *r, struct cs_arena *a, int64_t through, struct cs_delta *out,
                          struct cs_error *err)
{
    uint32_t caps[2] = { 0 };
    struct rows w;
    int rc;

    *out = (struct cs_delta){ 0 };
    if ((out->devices = cs_arena_zalloc(a, 1, sizeof *out->devices)) == NULL)
        return no_memory(err);
    out->devices[out->ndevices++] = r->id.device;
    out->collect.through = through;
    if ((rc = tick(r, cs_now_ms(r->world), err)) != CS_OK)
        return rc;
    cs_extract_forget(r);
    cs_scratch_reset(r);
    rows_begin(&w);
    do {
        rc = rows_next(r, &w, CS_STMT_DEAD_REST, through, err);
        for (size_t i = 0; i < w.n && rc == CS_OK && out->nops < REST_MAX; i++)
            rc = put_rest(r, a, &w.at[i], through, out, caps, err);
    } while (rc == CS_OK && w.n == SLICE && out->nops < REST_MAX);
    rows_free(&w);
    return rc == CS_OK ? put_record(r, a, out, caps, err) : rc;
}

static struct cs_op *record_of(const struct cs_delta *d)
{
    struct cs_value what, name;

    for (uint32_t i = 0; i < d->nops; i++) {
        struct cs_reader key = cs_reader(d->ops[i].key);

        if (d->ops[i].kind != CS_OP_DELETE && cs_slice_eq(d->tables[d->ops[i].table].name, cs_slice_str(CS_SHARED)) &&
            cs_key_next(&key, &what) && cs_key_next(&key, &name) && what.type == CS_TEXT && name.type == CS_BLOB &&
            cs_slice_eq(what.u.bytes, cs_slice_str(shared_what)) &&
            cs_slice_eq(name.u.bytes, cs_slice_str(shared_name)))
            return &d->ops[i];
    }
    return NULL;
}

void cs_collection_in(const struct cs_delta *d, struct cs_collection *out)
{
    const struct cs_op *op = record_of(d);

    for (uint32_t i = 0; op != NULL && i < op->ncells; i++)
        if (cs_slice_eq(d->tables[op->table].columns[op->cells[i].col], cs_slice_str("value")) &&
            op->cells[i].value.type == CS_BLOB)
            decode(out, op->cells[i].value.u.bytes);
}

int cs_collection_place(struct cs_delta *d, struct cs_arena *a, const struct cs_collection *c, struct cs_error *err)
{
    uint8_t *value = cs_arena_alloc(a, CS_COLLECTION_LEN);
    struct cs_op *op = record_of(d);

    if (value == NULL)
        return no_memory(err);
    cs_collection_encode(c, value);
    for (uint32_t i = 0; op != NULL && i < op->ncells; i++)
        if (cs_slice_eq(d->tables[op->table].columns[op->cells[i].col], cs_slice_str("value")))
            op->cells[i].value = (struct cs_value){ .type = CS_BLOB, .u.bytes = cs_slice(value, CS_COLLECTION_LEN) };
    d->collect = *c;
    return CS_OK;
}

/* ---- rows that others' state does not have ---- */

int cs_stale_mark(struct cs_replica *r, struct cs_error *err)
{
    static const char sql[] =
        "CREATE TABLE IF NOT EXISTS main.sync_stale(tbl INTEGER NOT NULL, key BLOB NOT NULL, doubted INTEGER NOT NULL "
        "DEFAULT 0, PRIMARY KEY(tbl, key)) WITHOUT ROWID; DELETE FROM main.sync_stale;"
        "CREATE TABLE IF NOT EXISTS main.sync_stale_edits(tbl INTEGER NOT NULL, key BLOB NOT NULL, n INTEGER NOT NULL, "
        "edit BLOB NOT NULL, PRIMARY KEY(tbl, key, n)) WITHOUT ROWID; DELETE FROM main.sync_stale_edits;"
        "INSERT INTO main.sync_stale(tbl, key) SELECT tbl, key FROM main.sync_rows";
    int rc = cs_db_exec(r, sql, err);

    return rc == CS_OK ? cs_meta_put_int(r, marks, 1, err) : rc;
}

int cs_stale_clear(struct cs_replica *r, struct cs_error *err)
{
    bool some;
    int rc = cs_replica_stale(r, &some, err);

    if (rc != CS_OK || !some)
        return rc;
    rc = cs_db_exec(r, "DELETE FROM main.sync_stale; DELETE FROM main.sync_stale_edits", err);
    return rc == CS_OK ? cs_meta_drop(r, marks, err) : rc;
}

int cs_replica_stale(cs_replica *r, bool *out, struct cs_error *err)
{
    struct cs_error none = { 0 };
    int64_t v;
    int rc = r->bare ? CS_ENOTFOUND : cs_meta_int(r, marks, &v, &none);

    *out = rc == CS_OK;
    if (rc == CS_OK || rc == CS_ENOTFOUND)
        return CS_OK;
    if (err != NULL)
        *err = none;
    return rc;
}

static int with_row(struct cs_replica *r, int which, int64_t table, struct cs_slice key, const char *what,
                    struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, which, err);

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, table);
    cs_db_bind_slice(s, 2, key);
    return cs_db_step(r, s, what, err);
}

int cs_stale_strike(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_error *err)
{
    int rc = with_row(r, CS_STMT_STALE_STRIKE, table, key, "cannot strike off a row", err);

    return rc == CS_OK ? with_row(r, CS_STMT_STALE_FORGET, table, key, "cannot forget edits of a row", err) : rc;
}

static int is_marked(struct cs_replica *r, int64_t table, struct cs_slice key, bool *out, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_STALE_GET, err);
    int rc = CS_OK;

    *out = false;
    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, table);
    cs_db_bind_slice(s, 2, key);
    *out = cs_db_row(r, s, &rc, "cannot read our rows", err);
    sqlite3_reset(s);
    return rc;
}

int cs_stale_edited(struct cs_replica *r, const struct cs_delta *d, const struct cs_op *op, int64_t table,
                    struct cs_error *err)
{
    struct cs_op edit = *op;
    struct cs_delta one = *d;
    struct cs_buf b = { 0 };
    sqlite3_stmt *s;
    bool marked;
    int rc = is_marked(r, table, op->key, &marked, err);

    if (rc != CS_OK || !marked)
        return rc;
    edit.over = NULL;
    edit.nover = 0;
    one.state = true;
    one.collect = (struct cs_collection){ 0 };
    one.ops = &edit;
    one.nops = 1;
    if ((rc = cs_delta_encode(&b, &one, err)) == CS_OK) {
        if ((s = cs_db_stmt(r, CS_STMT_STALE_EDIT, err)) == NULL) {
            rc = err_code(err);
        } else {
            sqlite3_bind_int64(s, 1, table);
            cs_db_bind_slice(s, 2, op->key);
            cs_db_bind_slice(s, 3, cs_buf_slice(&b));
            rc = cs_db_step(r, s, "cannot keep an edit of a row", err);
        }
    }
    cs_buf_free(&b);
    return rc;
}

static int in_transaction(struct cs_replica *r, int (*fn)(struct cs_replica *r, struct cs_error *err),
                          struct cs_error *err)
{
    int rc = cs_db_begin(r, err);

    return rc == CS_OK ? cs_db_end(r, fn(r, err), err) : rc;
}

int cs_replica_mark_stale(cs_replica *r, struct cs_error *err)
{
    return r->bare ? CS_OK : in_transaction(r, cs_stale_mark, err);
}

static int doubt(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_STALE_DOUBT, err);

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, table);
    cs_db_bind_slice(s, 2, key);
    return cs_db_step(r, s, "cannot mark a row", err);
}

static int doubt_op(struct cs_replica *r, const struct cs_delta *d, const struct cs_op *op, int64_t table,
                    struct cs_error *err)
{
    (void)d;
    return op->kind == CS_OP_INSERT ? doubt(r, table, op->key, err) : CS_OK;
}

static int name_op(struct cs_replica *r, const struct cs_delta *d, const struct cs_op *op, int64_t table,
                   struct cs_error *err)
{
    return op->kind == CS_OP_INSERT   ? cs_stale_strike(r, table, op->key, err)
           : op->kind == CS_OP_UPDATE ? cs_stale_edited(r, d, op, table, err)
                                      : CS_OK;
}

/* For each operation of the set, in one transaction. */
static int each_op(struct cs_replica *r, const struct cs_delta *d,
                   int (*fn)(struct cs_replica *r, const struct cs_delta *d, const struct cs_op *op, int64_t table,
                             struct cs_error *err),
                   struct cs_error *err)
{
    int rc = cs_db_begin(r, err);
    int64_t table;

    if (rc != CS_OK)
        return rc;
    for (uint32_t i = 0; i < d->nops && rc == CS_OK; i++)
        if ((rc = cs_table_number(r, d->tables[d->ops[i].table].name, &table, err)) == CS_OK)
            rc = fn(r, d, &d->ops[i], table, err);
    return cs_db_end(r, rc, err);
}

int cs_replica_doubt(cs_replica *r, const struct cs_delta *d, struct cs_error *err)
{
    return each_op(r, d, doubt_op, err);
}

int cs_replica_names(cs_replica *r, const struct cs_delta *d, struct cs_error *err)
{
    return each_op(r, d, name_op, err);
}

/* Is there something of this row, up to the stamp, that the log must have had? An insert that was never sent makes a
 * row of its own, unless there was one before, or the device may have sent it in a life that it does not remember. */
static int was_collected(struct cs_replica *r, const struct found *f, const struct cs_sweep *how, bool *out,
                         struct cs_error *err)
{
    int64_t through = how->through;
    struct cs_row *row = &r->row;
    struct cs_unsent u;
    int64_t seq;
    int rc = cs_rows_get(r, f->table, f->key, row, &seq, err);

    *out = false;
    if (rc != CS_OK)
        return rc == CS_ENOTFOUND ? CS_OK : rc;
    rc = cs_unsent_get(r, &r->scratch, seq, &u, err);
    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    if (rc == CS_OK && u.ins && is_own(r, &row->ins) &&
        (row->ins.stamp > through || (!how->older && !f->doubted && cs_version_is_never(&row->del))))
        return CS_OK;
    *out = !cs_version_is_never(&row->ins) && row->ins.stamp <= through;
    for (uint32_t i = 0; i < row->ncells; i++)
        *out = *out || row->cells[i].v.stamp <= through;
    return CS_OK;
}

/* The tombstones of rows that the others' state does not have go; those that came with it are of deletes that were sent
 * behind the collection, and stay. */
static int examined(struct cs_replica *r, const struct rows *w, int64_t through, struct cs_error *err)
{
    int rc = CS_OK;

    cs_extract_stale(r);
    cs_scratch_reset(r);
    for (size_t i = 0; i < w->n && rc == CS_OK; i++)
        rc = forget(r, &w->at[i], through, err);
    return rc;
}

static int delete_all(struct cs_replica *r, struct cs_arena *a, const struct rows *w, const struct cs_sweep *how,
                      struct cs_delta *d, struct cs_error *err)
{
    uint32_t caps[2] = { 0 };
    int rc = CS_OK;

    *d = (struct cs_delta){ .state = true, .sweeps = true };
    if ((d->devices = cs_arena_zalloc(a, 1, sizeof *d->devices)) == NULL)
        return no_memory(err);
    d->devices[d->ndevices++] = how->author;
    cs_scratch_reset(r);
    for (size_t i = 0; i < w->n && rc == CS_OK; i++) {
        struct cs_op *op;
        uint32_t table;
        bool collected;

        if ((rc = was_collected(r, &w->at[i], how, &collected, err)) != CS_OK || !collected)
            continue;
        if ((rc = cs_collect_table(r, a, d, w->at[i].table, &caps[0], &table, err)) != CS_OK)
            break;
        if (!cs_arena_grow(a, &d->ops, d->nops, &caps[1], sizeof *d->ops))
            return no_memory(err);
        op = &d->ops[d->nops++];
        *op = (struct cs_op){ .kind = CS_OP_DELETE, .table = table, .stamp = how->through, .key = w->at[i].key };
    }
    return rc;
}

/* Merges what had come of edits of the row alone: that is what the others have of it. */
static int put_edits(struct cs_replica *r, const struct found *f, struct cs_error *err)
{
    struct cs_apply_result result = { 0 };
    struct cs_arena a = { 0 };
    struct cs_slice *edit = NULL;
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_STALE_EDITS, err);
    uint32_t n = 0, cap = 0;
    int rc = CS_OK;

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, f->table);
    cs_db_bind_slice(s, 2, f->key);
    for (; rc == CS_OK && cs_db_row(r, s, &rc, "cannot read edits of a row", err); n++)
        if (!cs_arena_grow(&a, &edit, n, &cap, sizeof *edit) ||
            (edit[n] = cs_arena_copy(&a, cs_db_column_blob(s, 0))).data == NULL)
            rc = no_memory(err);
    sqlite3_reset(s);
    for (uint32_t i = 0; i < n && rc == CS_OK; i++) {
        struct cs_pull_mark mark = r->mark;
        struct cs_delta d;

        if ((rc = cs_delta_decode(&d, &a, edit[i], INT64_MAX, err)) != CS_OK)
            break;
        d.sweeps = true;
        rc = cs_replica_apply(r, &d, &mark, &result, err);
    }
    cs_arena_free(&a);
    return rc;
}

static int strike_all(struct cs_replica *r, const struct rows *w, struct cs_error *err)
{
    int rc = CS_OK;

    for (size_t i = 0; i < w->n && rc == CS_OK; i++)
        rc = cs_stale_strike(r, w->at[i].table, w->at[i].key, err);
    return rc;
}

/* Each step may be repeated: the rows stay marked until the last one. */
static int sweep_rows(struct cs_replica *r, const struct rows *w, const struct cs_sweep *how, uint64_t *swept,
                      struct cs_error *err)
{
    struct cs_apply_result result = { 0 };
    struct cs_arena a = { 0 };
    struct cs_delta d;
    int rc;

    if (w->n == 0)
        return CS_OK;
    if ((rc = delete_all(r, &a, w, how, &d, err)) == CS_OK && d.nops > 0) {
        struct cs_pull_mark mark = r->mark;

        rc = cs_replica_apply(r, &d, &mark, &result, err);
        *swept += result.ops;
    }
    cs_arena_free(&a);
    if (rc == CS_OK && (rc = cs_db_begin(r, err)) == CS_OK)
        rc = cs_db_end(r, examined(r, w, how->through, err), err);
    for (size_t i = 0; i < w->n && rc == CS_OK; i++)
        rc = put_edits(r, &w->at[i], err);
    if (rc == CS_OK && (rc = cs_db_begin(r, err)) == CS_OK)
        rc = cs_db_end(r, strike_all(r, w, err), err);
    return rc;
}

int cs_replica_sweep(cs_replica *r, const struct cs_sweep *how, bool *more, uint64_t *swept, struct cs_error *err)
{
    struct rows w;
    bool some;
    int rc = cs_replica_stale(r, &some, err);

    *more = false;
    if (rc != CS_OK || !some)
        return rc;
    rows_begin(&w);
    if ((rc = rows_next(r, &w, CS_STMT_STALE_WALK, 0, err)) == CS_OK)
        rc = sweep_rows(r, &w, how, swept, err);
    *more = rc == CS_OK && w.n > 0;
    rows_free(&w);
    return rc;
}

int cs_swept(struct cs_replica *r, const struct cs_collection *c, struct cs_error *err)
{
    int rc = cs_stale_clear(r, err);

    return rc == CS_OK && c != NULL ? remember(r, c, err) : rc;
}

int cs_replica_swept(cs_replica *r, const struct cs_collection *c, struct cs_error *err)
{
    int rc = cs_db_begin(r, err);

    return rc == CS_OK ? cs_db_end(r, cs_swept(r, c, err), err) : rc;
}
