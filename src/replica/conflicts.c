#include "replica/apply.h"
#include "replica/store.h"

/* sync_conflicts.id = frame(table name) ‖ frame(key) ‖ frame(column name) ‖ losing stamp, 8 bytes ‖ device, 16 bytes:
 * the same wherever the conflict is seen, so that a resolution closes it there too. Of a whole row the column is empty
 * and the reason follows.
 *
 * A version names one edit, so an edit that loses twice (overwritten, then deleted) is one entry, for its first reason.
 * Not so the versions of a copied device: one names several values, each of which is somebody's edit. Where such a copy
 * is noticed the reason follows and a hash of the value, which is the same for all who notice it; where a second value
 * of a version loses to others before that, only the hash.
 *
 * state: manual, a person has to decide; auto, the rules did, and it can be taken back; closed, a row's conflict whose
 * cause is gone. It is open again when the cause is back. */

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

static int put_row(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_buf *out, struct cs_error *err)
{
    int rc = put_table_name(r, table, out, err);

    cs_buf_put_u32(out, (uint32_t)key.len);
    cs_buf_put_slice(out, key);
    return rc;
}

/* FNV-1a of the encoding: two values of one version that share it cost one of their entries. */
static void put_value_hash(struct cs_replica *r, const struct cs_value *v, struct cs_buf *out)
{
    struct cs_buf *encoding = &cs_apply_of(r)->a;
    uint64_t h = 0xcbf29ce484222325;

    cs_buf_reset(encoding);
    cs_value_encode(encoding, v);
    for (size_t i = 0; i < encoding->len; i++)
        h = (h ^ encoding->data[i]) * 0x100000001b3;
    cs_buf_put_u64(out, h);
    out->failed |= encoding->failed;
}

static bool is_copy(const struct cs_conflict_in *c)
{
    return strcmp(c->why, "copied-device") == 0;
}

static int make_id(struct cs_replica *r, const struct cs_conflict_in *c, struct cs_buf *out, struct cs_error *err)
{
    struct cs_slice column = CS_SLICE_NULL;
    int rc = put_row(r, c->table, c->key, out, err);

    if (rc == CS_OK && c->col != CS_NO_COLUMN)
        rc = cs_column_name(r, c->table, c->col, &column, err);
    if (rc != CS_OK)
        return rc;
    cs_buf_put_u32(out, (uint32_t)column.len);
    cs_buf_put_slice(out, column);
    cs_buf_put_u64(out, (uint64_t)c->losing.stamp);
    cs_buf_put(out, c->losing.device.b, sizeof c->losing.device.b);
    if (c->col == CS_NO_COLUMN || is_copy(c))
        cs_buf_put_str(out, c->why);
    if (is_copy(c) && c->value != NULL)
        put_value_hash(r, c->value, out);
    return out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

/* sqlite3_changes tells whether it is new, or open again. */
static int put_entry(struct cs_replica *r, const struct cs_conflict_in *c, struct cs_slice id, struct cs_error *err)
{
    sqlite3_stmt *s = cs_apply_stmt(r, CS_OWN_CONFLICT, err);

    if (s == NULL)
        return err_code(err);
    cs_db_bind_slice(s, 1, id);
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
    /* Only a copied identity needs a person: everything else was decided by the rules and can be taken back. */
    sqlite3_bind_text(s, 9, is_copy(c) ? "manual" : "auto", -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 10, cs_now_ms(r->world));
    return cs_db_step(r, s, "cannot record a conflict", err);
}

/* Does the entry of this id hold another value than this? */
static int holds_another(struct cs_replica *r, struct cs_slice id, const struct cs_value *v, bool *out,
                         struct cs_error *err)
{
    sqlite3_stmt *s = cs_apply_stmt(r, CS_OWN_CONFLICT_VALUE, err);
    struct cs_value there;
    int step;

    *out = false;
    if (s == NULL)
        return err_code(err);
    cs_db_bind_slice(s, 1, id);
    if ((step = sqlite3_step(s)) == SQLITE_ROW) {
        cs_value_from_column(&there, s, 0);
        *out = cs_value_cmp(&there, v) != 0;
    }
    sqlite3_reset(s);
    return step == SQLITE_ROW || step == SQLITE_DONE ? CS_OK : cs_db_fail(r, err, "cannot read a conflict");
}

int cs_conflict_record(struct cs_replica *r, const struct cs_conflict_in *c, struct cs_error *err)
{
    struct cs_buf *id = &cs_apply_of(r)->b;
    bool another;
    int rc;

    cs_buf_reset(id);
    if ((rc = make_id(r, c, id, err)) != CS_OK || (rc = put_entry(r, c, cs_buf_slice(id), err)) != CS_OK)
        return rc;
    if (sqlite3_changes(r->db) > 0 || c->value == NULL)
        return CS_OK;
    if ((rc = holds_another(r, cs_buf_slice(id), c->value, &another, err)) != CS_OK || !another)
        return rc;
    put_value_hash(r, c->value, id);
    return id->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : put_entry(r, c, cs_buf_slice(id), err);
}

int cs_conflict_close(struct cs_replica *r, int64_t table, struct cs_slice key, const char *why, struct cs_error *err)
{
    struct cs_buf *from = &cs_apply_of(r)->a, *to = &cs_apply_of(r)->b;
    sqlite3_stmt *s;
    int rc;

    /* the ids of whole rows: the length of their column's name is 0 */
    cs_buf_reset(from);
    cs_buf_reset(to);
    if ((rc = put_row(r, table, key, from, err)) != CS_OK)
        return rc;
    cs_buf_put_slice(to, cs_buf_slice(from));
    cs_buf_put_u32(from, 0);
    cs_buf_put_u32(to, 1);
    if (from->failed || to->failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if ((s = cs_apply_stmt(r, CS_OWN_CONFLICT_CLOSE, err)) == NULL)
        return err_code(err);
    cs_db_bind_slice(s, 1, cs_buf_slice(from));
    cs_db_bind_slice(s, 2, cs_buf_slice(to));
    sqlite3_bind_text(s, 3, why, -1, SQLITE_STATIC);
    return cs_db_step(r, s, "cannot close a conflict", err);
}
