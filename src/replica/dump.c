/* The canonical dump of the merged state (docs/protocol.md): tables by name, rows by key, columns by name. */
#include "crdt/dump.h"
#include "replica/statements.h"
#include "replica/store.h"

/* The merged value: kept aside, or in the application's table. The application can drop a column or a table, and with
 * it what others still have: a NULL then. */
static int value_of(struct cs_replica *r, struct cs_table *t, int64_t table, struct cs_slice key, uint32_t col,
                    struct cs_value *out, struct cs_error *err)
{
    int rc = cs_hidden_cell(r, &r->scratch, table, key, col, out, err), step;

    if (rc != CS_ENOTFOUND)
        return rc;
    *out = (struct cs_value){ .type = CS_NULL };
    if (t == NULL || col >= t->ncolumn_ids || t->by_id[col] == CS_NO_COLUMN)
        return CS_OK;
    if ((step = cs_table_read(r, t, key, err)) != SQLITE_ROW)
        return step == SQLITE_DONE ? CS_OK : step;
    cs_value_from_column(out, t->read, (int)t->by_id[col]);
    return CS_OK;
}

static int dump_row(struct cs_replica *r, int64_t table, struct cs_slice name, struct cs_slice key, struct cs_buf *out,
                    struct cs_error *err)
{
    struct cs_table *t = cs_table_by_id(r, table);
    struct cs_dump_cell *cells;
    int64_t unsent;
    int rc = cs_rows_get(r, table, key, &r->row, &unsent, err);

    if (rc != CS_OK || cs_row_is_empty(&r->row))
        return rc;
    if ((cells = cs_arena_zalloc(&r->scratch, (size_t)r->row.ncells + 1, sizeof *cells)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    cs_dump_row(out, name, key, &r->row);
    for (uint32_t i = 0; i < r->row.ncells && rc == CS_OK; i++) {
        cells[i].cell = &r->row.cells[i];
        rc = cs_column_name(r, table, r->row.cells[i].col, &cells[i].name, err);
    }
    cs_dump_sort(cells, r->row.ncells);
    for (uint32_t i = 0; i < r->row.ncells && rc == CS_OK; i++) {
        struct cs_value v;

        if ((rc = value_of(r, t, table, key, cells[i].cell->col, &v, err)) != CS_OK)
            break;
        cs_dump_cell(out, &cells[i], &v);
    }
    if (t != NULL && t->read != NULL)
        sqlite3_reset(t->read);
    return rc;
}

int cs_replica_dump(cs_replica *r, struct cs_buf *out, struct cs_error *err)
{
    static const char sql[] =
        "SELECT r.tbl, t.name, r.key FROM main.sync_rows r JOIN main.sync_tables t ON t.id = r.tbl "
        "ORDER BY CAST(t.name AS BLOB), r.key";
    sqlite3_stmt *s = NULL;
    int rc = CS_OK, step = SQLITE_DONE;

    cs_dump_begin(out);
    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read the versions");
    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        cs_scratch_reset(r);
        rc = dump_row(r, sqlite3_column_int64(s, 0),
                      cs_slice(sqlite3_column_text(s, 1), (size_t)sqlite3_column_bytes(s, 1)), cs_db_column_blob(s, 2),
                      out, err);
    }
    if (rc == CS_OK && step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot read the versions");
    sqlite3_finalize(s);
    return rc == CS_OK && out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : rc;
}
