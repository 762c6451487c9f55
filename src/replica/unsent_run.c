/* Runs: consecutive fresh inserts of one table, kept as one record of sync_unsent instead of one each. A run's seq is
 * its own; its rows have the seqs after it, and sync_rows points to those. A row whose versions change leaves its run
 * and gets a record under the same seq, so what a run says of a row is all there is to know: its insert, with this
 * stamp.
 *
 * Stored form: varint ncols ‖ ncols × varint column ‖ per row varint length ‖ key ‖ varint (stamp - stamp of the row
 * before); a row that left is a single 0. */
#include "replica/statements.h"
#include "replica/store.h"

enum { RUN_BYTES = 3800 }; /* one leaf page */

/* The run that is being made. In memory until something needs it in the database. */
struct maker {
    struct cs_buf bytes;
    struct cs_arena arena; /* of the run that is being changed */
    uint32_t *cols;        /* owned */
    uint32_t ncols, cap, n;
    size_t last_len; /* of bytes, before the last row */
    int64_t table, first, stamp, last_stamp;
};

static struct maker *maker_of(struct cs_replica *r)
{
    return r->run;
}

void cs_run_free(struct cs_replica *r)
{
    struct maker *m = maker_of(r);

    if (m == NULL)
        return;
    cs_buf_free(&m->bytes);
    cs_arena_free(&m->arena);
    free(m->cols);
    free(m);
    r->run = NULL;
}

void cs_run_forget(struct cs_replica *r)
{
    struct maker *m = maker_of(r);

    if (m != NULL)
        m->n = 0;
}

static int put(struct cs_replica *r, int64_t first, int64_t table, uint32_t n, struct cs_slice bytes,
               struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_RUN_PUT, err);

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, first);
    sqlite3_bind_int64(s, 2, table);
    sqlite3_bind_int64(s, 3, n);
    cs_db_bind_slice(s, 4, bytes);
    return cs_db_step(r, s, "cannot note unsent rows", err);
}

int cs_run_flush(struct cs_replica *r, struct cs_error *err)
{
    struct maker *m = maker_of(r);
    uint32_t n = m == NULL ? 0 : m->n;

    if (n == 0)
        return CS_OK;
    m->n = 0;
    return m->bytes.failed ? cs_fail(err, CS_ENOMEM, "out of memory")
                           : put(r, m->first, m->table, n, cs_buf_slice(&m->bytes), err);
}

static bool same_columns(const struct maker *m, const struct cs_op_cell *cells, uint32_t n)
{
    bool same = m->ncols == n;

    for (uint32_t i = 0; same && i < n; i++)
        same = m->cols[i] == cells[i].col;
    return same;
}

static int start(struct cs_replica *r, struct maker *m, int64_t table, const struct cs_op_cell *cells, uint32_t ncells,
                 struct cs_error *err)
{
    int rc = cs_run_flush(r, err);

    if (rc != CS_OK)
        return rc;
    if (m->cols == NULL || ncells > m->cap) {
        uint32_t *p = realloc(m->cols, ((size_t)ncells + 1) * sizeof *p);

        if (p == NULL)
            return cs_fail(err, CS_ENOMEM, "out of memory");
        m->cols = p;
        m->cap = ncells;
    }
    m->table = table;
    m->ncols = ncells;
    m->stamp = m->last_stamp = 0;
    m->first = (int64_t)r->next_unsent++;
    cs_buf_reset(&m->bytes);
    cs_buf_put_varint(&m->bytes, ncells);
    for (uint32_t i = 0; i < ncells; i++) {
        m->cols[i] = cells[i].col;
        cs_buf_put_varint(&m->bytes, cells[i].col);
    }
    return CS_OK;
}

int cs_run_next(struct cs_replica *r, int64_t table, const struct cs_op_cell *cells, uint32_t ncells, int64_t *seq,
                struct cs_error *err)
{
    struct maker *m = maker_of(r);
    int rc = CS_OK;

    if (m == NULL && (r->run = m = calloc(1, sizeof *m)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if (m->n == 0 || m->n == CS_RUN_ROWS || m->table != table || m->bytes.len > RUN_BYTES ||
        r->next_unsent != (uint64_t)m->first + m->n + 1 || !same_columns(m, cells, ncells))
        rc = start(r, m, table, cells, ncells, err);
    *seq = (int64_t)r->next_unsent;
    return rc;
}

int cs_run_append(struct cs_replica *r, struct cs_slice key, int64_t stamp, struct cs_error *err)
{
    struct maker *m = maker_of(r);

    m->last_len = m->bytes.len;
    m->last_stamp = m->stamp;
    cs_buf_put_varint(&m->bytes, key.len);
    cs_buf_put_slice(&m->bytes, key);
    cs_buf_put_varint(&m->bytes, (uint64_t)stamp - (uint64_t)m->stamp);
    m->stamp = stamp;
    m->n++;
    r->next_unsent++;
    return m->bytes.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

bool cs_run_holds(const struct cs_replica *r, int64_t seq)
{
    const struct maker *m = r->run;

    return m != NULL && seq > m->first && seq <= m->first + m->n;
}

int cs_run_decode(struct cs_arena *a, int64_t first, int64_t table, struct cs_slice bytes, struct cs_run *out,
                  struct cs_error *err)
{
    struct cs_reader rd = cs_reader(bytes);
    uint64_t ncols = cs_read_varint(&rd), stamp = 0;

    *out = (struct cs_run){ .first = first, .table = table };
    if (rd.bad || ncols > cs_reader_left(&rd))
        return cs_fail(err, CS_ECORRUPT, "a record of unsent rows is damaged");
    out->cols = cs_arena_zalloc(a, ncols + 1, sizeof *out->cols);
    out->rows = cs_arena_zalloc(a, CS_RUN_ROWS, sizeof *out->rows);
    if (out->cols == NULL || out->rows == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    for (; out->ncols < ncols; out->ncols++)
        out->cols[out->ncols] = (uint32_t)cs_read_varint(&rd);
    for (; cs_reader_left(&rd) > 0 && !rd.bad && out->n < CS_RUN_ROWS; out->n++) {
        struct cs_run_row *row = &out->rows[out->n];
        uint64_t len = cs_read_varint(&rd);

        if (len == 0 || len > cs_reader_left(&rd))
            rd.bad = rd.bad || len != 0;
        else {
            row->key = cs_read_bytes(&rd, (size_t)len);
            row->stamp = (int64_t)(stamp += cs_read_varint(&rd));
            out->live++;
        }
    }
    return cs_reader_done(&rd) ? CS_OK : cs_fail(err, CS_ECORRUPT, "a record of unsent rows is damaged");
}

bool cs_run_has(struct cs_slice bytes, int64_t first, int64_t seq)
{
    struct cs_reader rd = cs_reader(bytes);
    uint64_t len = 0;

    for (uint64_t n = cs_read_varint(&rd); n > 0 && !rd.bad; n--)
        cs_read_varint(&rd);
    for (int64_t i = first; i < seq && !rd.bad && cs_reader_left(&rd) > 0; i++) {
        len = cs_read_varint(&rd);
        if (len > cs_reader_left(&rd))
            return false;
        cs_read_bytes(&rd, (size_t)len);
        if (len > 0)
            cs_read_varint(&rd);
        if (i + 1 == seq)
            return !rd.bad && len > 0;
    }
    return false;
}

/* Writes the run without the rows that left since it was read, or drops it with the last of them. */
static int rewrite(struct cs_replica *r, const struct cs_run *run, struct cs_error *err)
{
    sqlite3_stmt *s;
    uint64_t stamp = 0;

    if (run->live == 0) {
        if ((s = cs_db_stmt(r, CS_STMT_UNSENT_DROP, err)) == NULL)
            return err_code(err);
        sqlite3_bind_int64(s, 1, run->first);
        sqlite3_bind_int64(s, 2, run->first);
        return cs_db_step(r, s, "cannot note unsent rows", err);
    }
    cs_buf_reset(&r->meta);
    cs_buf_put_varint(&r->meta, run->ncols);
    for (uint32_t i = 0; i < run->ncols; i++)
        cs_buf_put_varint(&r->meta, run->cols[i]);
    for (uint32_t i = 0; i < run->n; i++) {
        cs_buf_put_varint(&r->meta, run->rows[i].key.len);
        if (run->rows[i].key.len == 0)
            continue;
        cs_buf_put_slice(&r->meta, run->rows[i].key);
        cs_buf_put_varint(&r->meta, (uint64_t)run->rows[i].stamp - stamp);
        stamp = (uint64_t)run->rows[i].stamp;
    }
    return r->meta.failed ? cs_fail(err, CS_ENOMEM, "out of memory")
                          : put(r, run->first, run->table, run->live, cs_buf_slice(&r->meta), err);
}

/* The run that has, or had, the row of this seq, in the maker's arena; CS_ENOTFOUND. */
static int find(struct cs_replica *r, int64_t seq, struct cs_run *out, struct cs_error *err)
{
    struct maker *m = maker_of(r);
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_UNSENT_GET, err);
    struct cs_slice bytes;
    int step, rc = CS_ENOTFOUND;

    if (s == NULL)
        return err_code(err);
    if (m == NULL && (r->run = m = calloc(1, sizeof *m)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    cs_arena_reset(&m->arena);
    sqlite3_bind_int64(s, 1, seq);
    if ((step = sqlite3_step(s)) == SQLITE_ROW && sqlite3_column_type(s, 2) == SQLITE_NULL) {
        bytes = cs_arena_copy(&m->arena, cs_db_column_blob(s, 3));
        rc = bytes.data == NULL
                 ? cs_fail(err, CS_ENOMEM, "out of memory")
                 : cs_run_decode(&m->arena, sqlite3_column_int64(s, 0), sqlite3_column_int64(s, 1), bytes, out, err);
    } else if (step != SQLITE_ROW && step != SQLITE_DONE) {
        rc = cs_db_fail(r, err, "cannot read what is unsent");
    }
    sqlite3_reset(s);
    return rc;
}

static bool leave(struct cs_run *run, int64_t seq)
{
    struct cs_run_row *row = seq > run->first && seq <= run->first + run->n ? &run->rows[seq - run->first - 1] : NULL;

    if (row == NULL || row->key.len == 0)
        return false;
    row->key = CS_SLICE_NULL;
    run->live--;
    return true;
}

int cs_run_leave(struct cs_replica *r, int64_t seq, struct cs_error *err)
{
    struct maker *m = maker_of(r);
    struct cs_run run;
    int rc;

    if (cs_run_holds(r, seq) && seq == m->first + m->n && m->n > 1) { /* inserted, and changed at once */
        m->bytes.len = m->last_len;
        m->stamp = m->last_stamp;
        m->n--;
        return cs_run_flush(r, err); /* its seq is taken: the run cannot grow any more */
    }
    if (cs_run_holds(r, seq) && m->n == 1) {
        m->n = 0;
        return CS_OK;
    }
    if ((cs_run_holds(r, seq) && (rc = cs_run_flush(r, err)) != CS_OK) || (rc = find(r, seq, &run, err)) != CS_OK)
        return rc;
    return leave(&run, seq) ? rewrite(r, &run, err) : CS_ENOTFOUND;
}

int cs_run_sent(struct cs_replica *r, const int64_t *seqs, size_t n, struct cs_error *err)
{
    struct cs_run run;
    int rc = find(r, seqs[0], &run, err);

    if (rc == CS_ENOTFOUND)
        return cs_fail(err, CS_ECORRUPT, "unsent rows that were taken are gone");
    for (size_t i = 0; rc == CS_OK && i < n; i++)
        leave(&run, seqs[i]);
    return rc == CS_OK ? rewrite(r, &run, err) : rc;
}

int cs_run_dissolve_all(struct cs_replica *r, struct cs_error *err)
{
    static const struct cs_unsent plain = { .ins = true };
    sqlite3_stmt *s;
    int rc = cs_run_flush(r, err);

    while (rc == CS_OK) {
        struct cs_run run;
        int64_t any = 0;
        int step;

        if ((s = cs_db_stmt(r, CS_STMT_RUN_ANY, err)) == NULL)
            return err_code(err);
        if ((step = sqlite3_step(s)) == SQLITE_ROW)
            any = sqlite3_column_int64(s, 0);
        sqlite3_reset(s);
        if (step != SQLITE_ROW)
            return step == SQLITE_DONE ? CS_OK : cs_db_fail(r, err, "cannot read what is unsent");
        rc = find(r, any, &run, err);
        for (uint32_t i = 0; rc == CS_OK && i < run.n; i++)
            if (run.rows[i].key.len > 0)
                rc = cs_unsent_record(r, run.first + 1 + i, run.table, run.rows[i].key, &plain, err);
        run.live = 0;
        if (rc == CS_OK)
            rc = rewrite(r, &run, err);
    }
    return rc;
}
