/* Re-sealing: after the hub refused this device's clock, every unsent stamp above what the hub accepted and what was
 * received gets a fresh one just above that; same order, equal stays equal. Stamps that are not above it are in
 * nobody's way and stay: so the order of any two stamps, also with others', is what it was, and no row means anything
 * else. One transaction.
 *
 * Stamps that were given up so are remembered (sync_void). A copy of their operations may turn up in an old queue: it
 * counts for nothing, the same edits have other stamps now, and later ones would lose to it. Or in the log, where a
 * batch that was refused was taken after all: then it counts for everybody, and what is unsent goes above it. */
#include "replica/apply.h"
#include "replica/statements.h"
#include "replica/store.h"

/* Unsent rows, and the stamps of ours in them that no one else has seen. */
struct renaming {
    int64_t above;                /* those that are renamed */
    const struct cs_uuid *device; /* whose the versions are from now on; NULL: ours still, with fresh stamps */
    int64_t *old, *fresh;         /* old: ascending, distinct */
    size_t n, cap;
    struct {
        int64_t seq, table;
        struct cs_slice key;
    } * rows;
    size_t nrows, rows_cap;
    struct cs_arena arena;
};

enum { VOID_DAYS = 90 };
#define VOID_STAMPS (VOID_DAYS * 86400000LL * 65536) /* how long they are remembered */

static int by_stamp(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static bool is_own(const struct cs_replica *r, const struct cs_version *v)
{
    return v->stamp != 0 && cs_uuid_cmp(&v->device, &r->id.device) == 0;
}

static int note(struct renaming *m, int64_t stamp, struct cs_error *err)
{
    if (m->n == m->cap) {
        size_t cap = m->cap == 0 ? 1024 : m->cap * 2;
        int64_t *p = realloc(m->old, cap * sizeof *p);

        if (p == NULL)
            return cs_fail(err, CS_ENOMEM, "out of memory");
        m->old = p;
        m->cap = cap;
    }
    m->old[m->n++] = stamp;
    return CS_OK;
}

static int load_rows(struct cs_replica *r, struct renaming *m, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_UNSENT_WALK, err);
    int rc = CS_OK, step = SQLITE_DONE;

    if (s == NULL)
        return err_code(err);
    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        if (m->nrows == m->rows_cap) {
            size_t cap = m->rows_cap == 0 ? 1024 : m->rows_cap * 2;
            void *p = realloc(m->rows, cap * sizeof *m->rows);

            if (p == NULL)
                return cs_fail(err, CS_ENOMEM, "out of memory");
            m->rows = p;
            m->rows_cap = cap;
        }
        m->rows[m->nrows].seq = sqlite3_column_int64(s, 0);
        m->rows[m->nrows].table = sqlite3_column_int64(s, 1);
        m->rows[m->nrows].key = cs_arena_copy(&m->arena, cs_db_column_blob(s, 2));
        rc = m->rows[m->nrows++].key.data == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
    }
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read what is unsent");
    sqlite3_reset(s);
    return rc;
}

/* Calls fn for each unsent version of the row in r->row. */
static int each_unsent(struct cs_replica *r, const struct cs_unsent *u,
                       int (*fn)(struct renaming *m, struct cs_version *v, struct cs_error *err), struct renaming *m,
                       struct cs_error *err)
{
    int rc = CS_OK;

    if (u->ins && is_own(r, &r->row.ins))
        rc = fn(m, &r->row.ins, err);
    if (rc == CS_OK && u->del && is_own(r, &r->row.del))
        rc = fn(m, &r->row.del, err);
    for (uint32_t i = 0; i < r->row.ncells && rc == CS_OK; i++)
        if (is_own(r, &r->row.cells[i].v) && (u->ins || cs_unsent_find(u->base, u->nbase, r->row.cells[i].col) != NULL))
            rc = fn(m, &r->row.cells[i].v, err);
    return rc;
}

static int collect(struct renaming *m, struct cs_version *v, struct cs_error *err)
{
    return v->stamp > m->above ? note(m, v->stamp, err) : CS_OK;
}

static int rename_one(struct renaming *m, struct cs_version *v, struct cs_error *err)
{
    const int64_t *p = m->n == 0 ? NULL : bsearch(&v->stamp, m->old, m->n, sizeof *m->old, by_stamp);

    (void)err;
    if (p != NULL && m->device != NULL)
        v->device = *m->device;
    else if (p != NULL)
        v->stamp = m->fresh[p - m->old];
    return CS_OK;
}

/* `over` entries that name stamps of ours are renamed with them. */
static void rename_record(struct cs_replica *r, struct renaming *m, struct cs_row_cell *cells, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (is_own(r, &cells[i].v))
            rename_one(m, &cells[i].v, NULL);
}

static int on_rows(struct cs_replica *r, struct renaming *m, bool rename, struct cs_error *err)
{
    int rc = CS_OK;

    for (size_t i = 0; i < m->nrows && rc == CS_OK; i++) {
        struct cs_table *t = cs_table_by_id(r, m->rows[i].table);
        struct cs_version ins;
        struct cs_unsent u;
        struct cs_touched touched;
        int64_t seq;

        cs_scratch_reset(r);
        if ((rc = cs_rows_get(r, m->rows[i].table, m->rows[i].key, &r->row, &seq, err)) != CS_OK ||
            (rc = cs_unsent_get(r, &r->scratch, m->rows[i].seq, &u, err)) != CS_OK)
            return rc == CS_ENOTFOUND ? cs_fail(err, CS_ECORRUPT, "a row with unsent edits has no versions") : rc;
        ins = r->row.ins;
        if ((rc = each_unsent(r, &u, rename ? rename_one : collect, m, err)) != CS_OK || !rename)
            continue;
        rename_record(r, m, u.base, u.nbase);
        rename_record(r, m, u.seen, u.nseen);
        if ((rc = cs_rows_update(r, m->rows[i].table, m->rows[i].key, &r->row, m->rows[i].seq, err)) != CS_OK ||
            (rc = cs_unsent_set(r, m->rows[i].seq, m->rows[i].table, m->rows[i].key, &u, err)) != CS_OK)
            break;
        if (t == NULL || cs_version_cmp(&ins, &r->row.ins) == 0)
            continue;
        touched = (struct cs_touched){ .table = t, .key = m->rows[i].key, .kind = CS_OP_INSERT, .mask_any = 1 };
        if (t->nuniques > 0 || t->nfks > 0 || t->is_parent || t->nhidden > 0)
            rc = cs_project_touched(r, &touched, 1, err); /* its age is another one */
    }
    return rc;
}

/* Ascending, each once. */
static void sort_out(struct renaming *m)
{
    size_t n = 0;

    if (m->n > 0)
        qsort(m->old, m->n, sizeof *m->old, by_stamp);
    for (size_t i = 0; i < m->n; i++)
        if (i == 0 || m->old[i] != m->old[n - 1])
            m->old[n++] = m->old[i];
    m->n = n;
}

static void renaming_free(struct renaming *m)
{
    cs_arena_free(&m->arena);
    free(m->old);
    free(m->fresh);
    free(m->rows);
}

static int void_stamp(struct cs_replica *r, int which, int64_t stamp, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, which, err);

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, stamp);
    return cs_db_step(r, s, "cannot note stamps that were given up", err);
}

static int void_note(struct cs_replica *r, const struct renaming *m, struct cs_error *err)
{
    int rc = m->n == 0 ? CS_OK : cs_layout_void(r, err);

    if (rc == CS_OK && m->n > 0)
        rc = void_stamp(r, CS_STMT_VOID_PRUNE, m->fresh[0] - VOID_STAMPS, err);
    for (size_t i = 0; i < m->n && rc == CS_OK; i++)
        if (m->old[i] != m->fresh[i])
            rc = void_stamp(r, CS_STMT_VOID_PUT, m->old[i], err);
    return rc;
}

/* Stamps of what is unsent that are above `above` get fresh ones, just above `highest`. In a transaction. */
static int rename_all(struct cs_replica *r, struct renaming *m, int64_t highest, struct cs_error *err)
{
    int64_t hlc;
    int rc = CS_OK;

    cs_extract_stale(r);
    for (bool more = true; rc == CS_OK && more;) /* rows are projected again, which wants an empty changelog */
        rc = cs_seal_slice(r, 1000, &more, NULL, err);
    if (rc != CS_OK || (rc = cs_run_dissolve_all(r, err)) != CS_OK || (rc = load_rows(r, m, err)) != CS_OK ||
        (rc = on_rows(r, m, false, err)) != CS_OK)
        return rc;
    sort_out(m);
    if (m->n > 0 && (m->fresh = malloc(m->n * sizeof *m->fresh)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if (m->n > 0)
        memcpy(m->fresh, m->old, m->n * sizeof *m->fresh);
    if ((hlc = cs_hlc_reseal(m->fresh, m->n, highest)) < 0)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    r->hlc = hlc;
    if ((rc = on_rows(r, m, true, err)) == CS_OK && (rc = void_note(r, m, err)) == CS_OK)
        rc = cs_hlc_save(r, err);
    return rc;
}

int cs_replica_reseal(cs_replica *r, int64_t highest, size_t *renamed, struct cs_error *err)
{
    struct renaming m = { .above = highest };
    int rc = cs_db_begin(r, err);

    if (rc == CS_OK)
        rc = cs_db_end(r, rename_all(r, &m, highest, err), err);
    if (renamed != NULL)
        *renamed = rc == CS_OK ? m.n : 0;
    renaming_free(&m);
    return rc;
}

static int void_begin(struct cs_replica *r, struct cs_error *err)
{
    return r->bare ? CS_OK : cs_layout_void(r, err);
}

/* Is it one of ours whose stamp was given up? */
static int is_void(struct cs_replica *r, const struct cs_delta *d, const struct cs_op *op, bool *out,
                   struct cs_error *err)
{
    sqlite3_stmt *s;
    int step;

    *out = false;
    if (r->bare || cs_uuid_cmp(&d->devices[op->device], &r->id.device) != 0)
        return CS_OK;
    if ((s = cs_db_stmt(r, CS_STMT_VOID_GET, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, op->stamp);
    step = sqlite3_step(s);
    *out = step == SQLITE_ROW;
    sqlite3_reset(s);
    return step == SQLITE_ROW || step == SQLITE_DONE ? CS_OK
                                                     : cs_db_fail(r, err, "cannot read stamps that were given up");
}

int cs_replica_drop_void(cs_replica *r, struct cs_delta *d, struct cs_error *err)
{
    uint32_t n = 0;
    bool is;
    int rc = void_begin(r, err);

    for (uint32_t i = 0; i < d->nops && rc == CS_OK; i++)
        if ((rc = is_void(r, d, &d->ops[i], &is, err)) == CS_OK && !is)
            d->ops[n++] = d->ops[i];
    if (rc == CS_OK)
        d->nops = n;
    return rc;
}

int cs_replica_revive_void(cs_replica *r, const struct cs_delta *d, struct cs_error *err)
{
    struct renaming m = { .above = INT64_MIN };
    int64_t highest = 0;
    bool is;
    int rc = void_begin(r, err);

    for (uint32_t i = 0; i < d->nops && rc == CS_OK; i++)
        if ((rc = is_void(r, d, &d->ops[i], &is, err)) == CS_OK && is && d->ops[i].stamp > highest)
            highest = d->ops[i].stamp;
    if (rc != CS_OK || highest == 0 || (rc = cs_db_begin(r, err)) != CS_OK)
        return rc;
    if ((rc = rename_all(r, &m, highest > r->hlc ? highest : r->hlc, err)) == CS_OK)
        for (uint32_t i = 0; i < d->nops && rc == CS_OK; i++)
            rc = void_stamp(r, CS_STMT_VOID_DROP, d->ops[i].stamp, err);
    renaming_free(&m);
    return cs_db_end(r, rc, err);
}

/* What was sent stays the old device's, what is unsent becomes the new one's. */
enum { FORMER_LEN = 16 + 8 + 32 };

/* The old device's chain, as far as the hub acknowledged it. */
static int keep_former(struct cs_replica *r, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    int rc = cs_replica_meta_get(r, CS_FORMERS, &b, err);

    if (rc == CS_OK || rc == CS_ENOTFOUND) {
        cs_buf_put(&b, r->id.device.b, sizeof r->id.device.b);
        cs_buf_put_u64(&b, r->chain_number);
        cs_buf_put(&b, r->chain_hash, sizeof r->chain_hash);
        rc = b.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : cs_meta_put(r, CS_FORMERS, cs_buf_slice(&b), err);
    }
    cs_buf_free(&b);
    return rc;
}

int cs_replica_formers(cs_replica *r, struct cs_arena *a, struct cs_known_peer **out, size_t *n, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    int rc = cs_replica_meta_get(r, CS_FORMERS, &b, err);

    *out = NULL;
    *n = 0;
    if (rc == CS_OK && (*out = cs_arena_zalloc(a, b.len / FORMER_LEN + 1, sizeof **out)) == NULL)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    for (const uint8_t *p = b.data; rc == CS_OK && *n < b.len / FORMER_LEN; p += FORMER_LEN) {
        struct cs_known_peer *f = &(*out)[(*n)++];

        memcpy(f->device.b, p, sizeof f->device.b);
        f->number = cs_load_u64(p + 16);
        memcpy(f->hash, p + 24, sizeof f->hash);
    }
    cs_buf_free(&b);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

int cs_replica_new_device(cs_replica *r, const struct cs_replica_identity *id, struct cs_error *err)
{
    static const uint8_t none[32];
    struct renaming m = { .above = INT64_MIN };
    bool more = !cs_uuid_is_zero(&r->id.device);
    int rc;

    if (r->bare) {
        r->id = *id;
        return CS_OK;
    }
    if ((rc = cs_db_begin(r, err)) != CS_OK)
        return rc;
    cs_extract_stale(r);
    while (rc == CS_OK && more)
        rc = cs_seal_slice(r, 1000, &more, NULL, err);
    if (rc == CS_OK && (rc = cs_run_dissolve_all(r, err)) == CS_OK && (rc = load_rows(r, &m, err)) == CS_OK)
        rc = on_rows(r, &m, false, err);
    sort_out(&m);
    m.device = &id->device;
    if (rc == CS_OK)
        rc = on_rows(r, &m, true, err);
    if (rc == CS_OK && r->chain_number > 0 && !cs_uuid_is_zero(&r->id.device))
        rc = keep_former(r, err);
    if (rc == CS_OK && (rc = cs_layout_void(r, err)) == CS_OK &&
        (rc = cs_db_exec(r, "DELETE FROM main.sync_bound; DELETE FROM main.sync_refused; DELETE FROM main.sync_void",
                         err)) == CS_OK &&
        (rc = cs_chain_save(r, 0, none, err)) == CS_OK && (rc = cs_hlc_save(r, err)) == CS_OK)
        rc = cs_identity_save(r, id, err);
    rc = cs_db_end(r, rc, err);
    renaming_free(&m);
    return rc;
}
