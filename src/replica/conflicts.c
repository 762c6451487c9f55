#include "replica/apply.h"
#include "replica/store.h"

/* sync_conflicts.id = frame(table name) ‖ frame(key) ‖ frame(column name) ‖ losing stamp, 8 bytes ‖ device, 16 bytes:
 * the same wherever the conflict is seen, so that a resolution closes it there too. Of a whole row the column is empty
 * and the reason follows. */

static int put_table_name(struct cs_replica *r, int64_t table, struct cs_buf *out, struct cs_error *err)
{
    const struct cs_table *t = cs_table_by_id(r, table);
    sqlite3_stmt *s;
    int step;

    if (t != NULL) {
        cs_buf_put_u32(out, (uint32_t)strlen(t->name));
        cs_buf_put_str(out, t->name);
        return CS_OK;
    }
    if ((s = cs_apply_stmt(r, CS_OWN_TABLE_NAME, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, table);
    if ((step = sqlite3_step(s)) == SQLITE_ROW) {
        cs_buf_put_u32(out, (uint32_t)sqlite3_column_bytes(s, 0));
        cs_buf_put(out, sqlite3_column_text(s, 0), (size_t)sqlite3_column_bytes(s, 0));
    }
    sqlite3_reset(s);
    return step == SQLITE_ROW ? CS_OK : cs_db_fail(r, err, "cannot read the name of a table");
}

static int make_id(struct cs_replica *r, const struct cs_conflict_in *c, struct cs_buf *out, struct cs_error *err)
{
    struct cs_slice column = CS_SLICE_NULL;
    int rc = put_table_name(r, c->table, out, err);

    if (rc == CS_OK && c->col != CS_NO_COLUMN)
        rc = cs_column_name(r, c->table, c->col, &column, err);
    if (rc != CS_OK)
        return rc;
    cs_buf_put_u32(out, (uint32_t)c->key.len);
    cs_buf_put_slice(out, c->key);
    cs_buf_put_u32(out, (uint32_t)column.len);
    cs_buf_put_slice(out, column);
    cs_buf_put_u64(out, (uint64_t)c->losing.stamp);
    cs_buf_put(out, c->losing.device.b, sizeof c->losing.device.b);
    if (c->col == CS_NO_COLUMN)
        cs_buf_put_str(out, c->why);
    return out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

int cs_conflict_record(struct cs_replica *r, const struct cs_conflict_in *c, struct cs_error *err)
{
    /* Only a copied identity needs a person: everything else was decided by the rules and can be taken back. */
    const char *state = strcmp(c->why, "copied-device") == 0 ? "manual" : "auto";
    struct cs_buf *id = &cs_apply_of(r)->b;
    sqlite3_stmt *s;
    int rc;

    cs_buf_reset(id);
    if ((rc = make_id(r, c, id, err)) != CS_OK)
        return rc;
    if ((s = cs_apply_stmt(r, CS_OWN_CONFLICT, err)) == NULL)
        return err_code(err);
    cs_db_bind_slice(s, 1, cs_buf_slice(id));
    sqlite3_bind_text(s, 2, c->why, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 3, c->table);
    cs_db_bind_slice(s, 4, c->key);
    if (c->col == CS_NO_COLUMN)
        sqlite3_bind_null(s, 5);
    else
        sqlite3_bind_int64(s, 5, c->col);
    sqlite3_bind_int64(s, 6, c->losing.stamp);
    cs_db_bind_slice(s, 7, cs_slice(c->losing.device.b, sizeof c->losing.device.b));
    if (c->value == NULL)
        sqlite3_bind_null(s, 8);
    else if (cs_value_bind(s, 8, c->value) != CS_OK)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    sqlite3_bind_text(s, 9, state, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 10, cs_now_ms(r->world));
    return cs_db_step(r, s, "cannot record a conflict", err);
}
