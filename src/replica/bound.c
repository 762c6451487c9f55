/* Batches bound to a number: stored before they are sent, so that what is re-sent is the same to the byte. */
#include "replica/statements.h"
#include "replica/store.h"

/* Begins a transaction that is on disk when it commits: a stamp or number that went out must never be used again. */
static int begin_durable(struct cs_replica *r, struct cs_error *err)
{
    int rc = cs_db_exec(r, "PRAGMA main.synchronous=FULL", err);

    return rc == CS_OK ? cs_db_begin(r, err) : rc;
}

static int end_durable(struct cs_replica *r, int rc, struct cs_error *err)
{
    struct cs_error ignored;

    rc = cs_db_end(r, rc, err);
    cs_db_exec(r, "PRAGMA main.synchronous=NORMAL", &ignored);
    return rc;
}

static int insert_bound(struct cs_replica *r, uint64_t number, const uint8_t hash[32], struct cs_slice stored,
                        struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_BOUND_PUT, err);

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, (int64_t)number);
    cs_db_bind_slice(s, 2, cs_slice(hash, 32));
    cs_db_bind_slice(s, 3, stored);
    return cs_db_step(r, s, "cannot store a batch for sending", err);
}

int cs_replica_bind(cs_replica *r, uint64_t number, const uint8_t hash[32], struct cs_slice stored,
                    struct cs_error *err)
{
    int rc = begin_durable(r, err);

    if (rc != CS_OK)
        return rc;
    if ((rc = insert_bound(r, number, hash, stored, err)) == CS_OK)
        rc = cs_extract_drop_taken(r, err);
    return end_durable(r, rc, err);
}

static int forget_log(struct cs_replica *r, struct cs_error *err)
{
    return cs_db_exec(r,
                      "DELETE FROM main.sync_log; DELETE FROM main.sync_refused;"
                      "DELETE FROM main.sync_bound WHERE state = 1",
                      err);
}

/* Chains that begin where the new log's do: another refill had begun that log, and it is over. */
static int forget_chains(struct cs_replica *r, uint64_t from, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_PEER_FORGET, err);

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, (int64_t)from);
    return cs_db_step(r, s, "cannot forget a log", err);
}

int cs_replica_new_log(cs_replica *r, const struct cs_new_log *n, struct cs_error *err)
{
    int rc = begin_durable(r, err);

    if (rc != CS_OK)
        return rc;
    if ((rc = forget_log(r, err)) == CS_OK && (rc = cs_mark_new_log(r, n->log_id, err)) == CS_OK)
        rc = cs_chain_save(r, n->chain_number, n->chain_hash, err);
    if (rc == CS_OK)
        rc = forget_chains(r, n->chain_number, err);
    if (rc == CS_OK)
        rc = n->sweep ? cs_stale_mark(r, err) : cs_stale_clear(r, err);
    if (rc == CS_OK && n->publish)
        rc = cs_publish_save(r, 0, CS_SLICE_NULL, err);
    if (rc == CS_OK)
        rc = cs_meta_drop(r, CS_FORMERS, err);
    for (int i = 0; i < 2 && rc == CS_OK; i++)
        if (n->forget[i] != NULL)
            rc = cs_meta_drop(r, n->forget[i], err);
    return end_durable(r, rc, err);
}

int cs_replica_adopt(cs_replica *r, const struct cs_pull_mark *mark, const struct cs_known_place *places, size_t n,
                     const struct cs_collection *c, struct cs_error *err)
{
    int rc = begin_durable(r, err);

    if (rc != CS_OK)
        return rc;
    if ((rc = cs_swept(r, c, err)) == CS_OK)
        rc = cs_mark_adopt(r, mark, places, n, err);
    return end_durable(r, rc, err);
}

int cs_replica_bound(cs_replica *r, struct cs_arena *a, bool with_bytes, struct cs_bound **out, size_t *n,
                     struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_BOUND_ALL, err);
    size_t cap = 0;
    int rc = CS_OK, step = SQLITE_DONE;

    *out = NULL;
    *n = 0;
    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int(s, 1, with_bytes);
    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        struct cs_slice hash = cs_db_column_blob(s, 1);
        struct cs_bound *b;

        if (*n == cap) {
            cap = cap == 0 ? 16 : cap * 2;
            if ((b = cs_arena_zalloc(a, cap, sizeof *b)) == NULL) {
                rc = cs_fail(err, CS_ENOMEM, "out of memory");
                break;
            }
            if (*n > 0)
                memcpy(b, *out, *n * sizeof *b);
            *out = b;
        }
        b = &(*out)[*n];
        b->number = (uint64_t)sqlite3_column_int64(s, 0);
        b->state = (enum cs_bound_state)sqlite3_column_int(s, 2);
        b->log_number = (uint64_t)sqlite3_column_int64(s, 3);
        b->noted = sqlite3_column_int(s, 5) != 0;
        b->stored = cs_arena_copy(a, cs_db_column_blob(s, 4));
        if (hash.len != 32)
            rc = cs_fail(err, CS_ECORRUPT, "a bound batch in the database is damaged");
        else
            memcpy(b->hash, hash.data, 32);
        if (rc == CS_OK && b->stored.data == NULL)
            rc = cs_fail(err, CS_ENOMEM, "out of memory");
        (*n)++;
    }
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read the bound batches");
    sqlite3_reset(s);
    return rc;
}

int cs_replica_acknowledged_other(cs_replica *r, uint64_t log_number, const uint8_t hash[32], bool *out,
                                  struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_BOUND_AT, err);
    int rc = CS_OK, step;

    *out = false;
    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, (int64_t)log_number);
    step = sqlite3_step(s);
    if (step == SQLITE_ROW)
        *out = !cs_slice_eq(cs_db_column_blob(s, 0), cs_slice(hash, 32));
    else if (step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read the acknowledged batches");
    sqlite3_reset(s);
    return rc;
}

/* The hub has taken this batch: what was refused under its number or before can come no more. */
int cs_chain_advance(struct cs_replica *r, uint64_t number, const uint8_t hash[32], struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc = cs_chain_save(r, number, hash, err);

    if (rc != CS_OK)
        return rc;
    if ((s = cs_db_stmt(r, CS_STMT_REFUSED_PRUNE, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, (int64_t)number);
    return cs_db_step(r, s, "cannot note an acknowledgement", err);
}

int cs_replica_bound_accepted(cs_replica *r, uint64_t number, uint64_t log_number, enum cs_keep keep,
                              struct cs_error *err)
{
    sqlite3_stmt *s;
    uint8_t hash[32] = { 0 };
    int rc, step;

    if ((rc = cs_db_begin(r, err)) != CS_OK)
        return rc;
    if ((s = cs_db_stmt(r, CS_STMT_BOUND_ACCEPT, err)) == NULL) {
        rc = err_code(err);
    } else {
        sqlite3_bind_int64(s, 1, (int64_t)number);
        sqlite3_bind_int64(s, 2, (int64_t)log_number);
        sqlite3_bind_int(s, 3, (int)keep);
        step = sqlite3_step(s);
        if (step == SQLITE_ROW && sqlite3_column_bytes(s, 0) == 32) {
            memcpy(hash, sqlite3_column_blob(s, 0), 32);
            step = sqlite3_step(s);
        } else if (step == SQLITE_DONE) {
            rc = cs_fail(err, CS_ENOTFOUND, "no batch %llu is bound", (unsigned long long)number);
        }
        if (rc == CS_OK && step != SQLITE_DONE)
            rc = cs_db_fail(r, err, "cannot note an acknowledgement");
        sqlite3_reset(s);
    }
    if (rc == CS_OK && number > r->chain_number)
        rc = cs_chain_advance(r, number, hash, err);
    if (rc == CS_OK && log_number != 0 && log_number <= r->mark.number) {
        if ((s = cs_db_stmt(r, CS_STMT_BOUND_PRUNE, err)) == NULL)
            return cs_db_end(r, err_code(err), err);
        sqlite3_bind_int64(s, 1, (int64_t)r->mark.number);
        rc = cs_db_step(r, s, "cannot note an acknowledgement", err);
    }
    return cs_db_end(r, rc, err);
}

static int keep_refused(struct cs_replica *r, uint64_t number, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_REFUSED_PUT, err);

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, (int64_t)number);
    return cs_db_step(r, s, "cannot keep the hash of a refused batch", err);
}

int cs_replica_was_refused(cs_replica *r, const uint8_t hash[32], bool *out, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_REFUSED_GET, err);
    int step, rc = CS_OK;

    *out = false;
    if (s == NULL)
        return err_code(err);
    cs_db_bind_slice(s, 1, cs_slice(hash, 32));
    step = sqlite3_step(s);
    if (step == SQLITE_ROW)
        *out = true;
    else if (step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read the refused batches");
    sqlite3_reset(s);
    return rc;
}

int cs_replica_rebind(cs_replica *r, uint64_t number, const uint8_t hash[32], struct cs_slice stored,
                      struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc = begin_durable(r, err);

    if (rc != CS_OK)
        return rc;
    rc = keep_refused(r, number, err);
    if (rc == CS_OK && (s = cs_db_stmt(r, CS_STMT_BOUND_REBIND, err)) != NULL) {
        sqlite3_bind_int64(s, 1, (int64_t)number);
        cs_db_bind_slice(s, 2, cs_slice(hash, 32));
        cs_db_bind_slice(s, 3, stored);
        rc = cs_db_step(r, s, "cannot store a batch for sending", err);
    } else if (rc == CS_OK) {
        rc = err_code(err);
    }
    return end_durable(r, rc, err);
}

void cs_replica_chain(const cs_replica *r, uint64_t *number, uint8_t hash[32])
{
    *number = r->chain_number;
    memcpy(hash, r->chain_hash, 32);
}

int cs_replica_begin_chain(cs_replica *r, uint64_t number, const uint8_t hash[32], struct cs_error *err)
{
    int rc = cs_db_begin(r, err);

    return rc == CS_OK ? cs_db_end(r, cs_chain_save(r, number, hash, err), err) : rc;
}

/* ---- taking batches back ---- */

/* What the operation overwrote in this column: CS_NEVER if it says nothing. */
static struct cs_version overwrote(const struct cs_delta *d, const struct cs_op *op, const uint32_t *cols, uint32_t col)
{
    for (uint32_t i = 0; i < op->nover; i++)
        if (cols[op->over[i].col] == col)
            return (struct cs_version){ .stamp = op->over[i].stamp, .device = d->devices[op->over[i].device] };
    return CS_NEVER;
}

/* Nobody else knows the operation's version any more: newer records that name it name what it overwrote. */
static void forget_version(const struct cs_delta *d, const struct cs_op *op, const struct cs_version *v,
                           const uint32_t *cols, struct cs_row_cell *cells, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (cs_version_cmp(&cells[i].v, v) == 0)
            cells[i].v = overwrote(d, op, cols, cells[i].col);
}

/* What a delete that goes again saw; what a newer unsent one saw of the same column stays. */
static int restore_seen(struct cs_replica *r, const struct cs_delta *d, const struct cs_op *op, const uint32_t *cols,
                        struct cs_unsent *u, struct cs_error *err)
{
    int rc = CS_OK;

    for (uint32_t i = 0; i < op->nover && rc == CS_OK; i++) {
        struct cs_row_cell cell = { .col = cols[op->over[i].col] };
        const struct cs_row_cell *newer = cs_unsent_find(u->seen, u->nseen, cell.col);

        cell.v = overwrote(d, op, cols, cell.col);
        if (newer == NULL || cs_version_is_never(&newer->v))
            rc = cs_unsent_add(&r->scratch, &u->seen, &u->nseen, cell, err);
    }
    return rc;
}

/* What the operation carried is unsent again, where it still stands; `over` is the base again. */
static int restore_op(struct cs_replica *r, const struct cs_delta *d, const struct cs_op *op, int64_t table,
                      const uint32_t *cols, struct cs_error *err)
{
    struct cs_unsent u;
    struct cs_version v = { .stamp = op->stamp, .device = r->id.device };
    int64_t seq;
    int rc;

    if (cs_uuid_cmp(&d->devices[op->device], &r->id.device) != 0)
        return CS_OK; /* another's, sent for somebody who misses it: he will ask again */
    rc = cs_rows_get(r, table, op->key, &r->row, &seq, err);
    if (rc != CS_OK)
        return rc == CS_ENOTFOUND ? CS_OK : rc;
    rc = cs_unsent_get(r, &r->scratch, seq, &u, err);
    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    if (rc == CS_ENOTFOUND)
        seq = 0;
    rc = CS_OK;
    forget_version(d, op, &v, cols, u.base, u.nbase);
    forget_version(d, op, &v, cols, u.seen, u.nseen);
    if (op->kind == CS_OP_DELETE) {
        u.del = u.del || cs_version_cmp(&r->row.del, &v) == 0;
        if (u.del)
            rc = restore_seen(r, d, op, cols, &u, err);
    } else if (op->kind == CS_OP_INSERT && cs_version_cmp(&r->row.ins, &v) == 0) {
        u.ins = true; /* and all its cells with it */
    } else {
        for (uint32_t i = 0; i < op->ncells && rc == CS_OK; i++) {
            uint32_t col = cols[op->cells[i].col];

            rc = cs_unsent_add(&r->scratch, &u.base, &u.nbase, (struct cs_row_cell){ col, overwrote(d, op, cols, col) },
                               err);
        }
    }
    if (rc != CS_OK)
        return rc;
    if (seq != 0)
        return cs_unsent_set(r, seq, table, op->key, &u, err);
    if ((rc = cs_unsent_put(r, table, op->key, &u, &seq, err)) == CS_OK)
        rc = cs_rows_update(r, table, op->key, &r->row, seq, err);
    return rc;
}

/* Merged state is not edits: it is sent from the beginning, as it is by then. */
static int restore_set(struct cs_replica *r, const struct cs_delta *d, struct cs_error *err)
{
    int64_t *tables = cs_arena_zalloc(&r->scratch, (size_t)d->ntables + 1, sizeof *tables);
    uint32_t **cols = cs_arena_zalloc(&r->scratch, (size_t)d->ntables + 1, sizeof *cols);
    int rc = tables == NULL || cols == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;

    if (d->state)
        return cs_publish_save(r, 0, CS_SLICE_NULL, err);
    for (uint32_t i = 0; i < d->ntables && rc == CS_OK; i++) {
        if ((cols[i] = cs_arena_zalloc(&r->scratch, (size_t)d->tables[i].ncolumns + 1, sizeof **cols)) == NULL)
            return cs_fail(err, CS_ENOMEM, "out of memory");
        rc = cs_table_number(r, d->tables[i].name, &tables[i], err);
        for (uint32_t k = 0; k < d->tables[i].ncolumns && rc == CS_OK; k++)
            rc = cs_column_number(r, tables[i], d->tables[i].columns[k], &cols[i][k], err);
    }
    for (uint32_t i = d->nops; i > 0 && rc == CS_OK; i--) { /* of one row a delete stands before what came after it */
        const struct cs_op *op = &d->ops[i - 1];

        rc = restore_op(r, d, op, tables[op->table], cols[op->table], err);
    }
    return rc;
}

static int run(struct cs_replica *r, int which, const char *what, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, which, err);

    return s == NULL ? err_code(err) : cs_db_step(r, s, what, err);
}

int cs_replica_unbind(cs_replica *r, const struct cs_delta *deltas, size_t n, struct cs_error *err)
{
    int rc = cs_db_begin(r, err);

    if (rc != CS_OK)
        return rc;
    cs_scratch_reset(r);
    cs_extract_stale(r);
    for (size_t i = n; i > 0 && rc == CS_OK; i--) /* the newest first: the oldest `over` is the base in the end */
        rc = restore_set(r, &deltas[i - 1], err);
    /* a copy of one that is on its way may be taken yet */
    if (rc == CS_OK)
        rc = run(r, CS_STMT_REFUSED_PUT_ALL, "cannot keep the hashes of batches taken back", err);
    if (rc == CS_OK)
        rc = run(r, CS_STMT_BOUND_DROP_WAITING, "cannot take batches back", err);
    if (rc == CS_OK)
        rc = cs_meta_put_int(r, "next_unsent", (int64_t)r->next_unsent, err);
    return cs_db_end(r, rc, err);
}

int cs_replica_restore(cs_replica *r, const struct cs_delta *d, struct cs_error *err)
{
    int rc = begin_durable(r, err);

    if (rc != CS_OK)
        return rc;
    cs_scratch_reset(r);
    cs_extract_stale(r);
    if ((rc = restore_set(r, d, err)) == CS_OK)
        rc = cs_meta_put_int(r, "next_unsent", (int64_t)r->next_unsent, err);
    return end_durable(r, rc, err);
}
