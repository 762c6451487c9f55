#include "crypto/hash.h"
#include "replica/apply.h"
#include "replica/store.h"

/* sync_conflicts.id: the first 16 bytes of H("conflict id", frame(table name) ‖ frame(key) ‖ frame(column name) ‖
 * losing stamp, 8 bytes ‖ device, 16 bytes): the same wherever the conflict is seen, so that a resolution closes it
 * there too. Of a whole row the column is empty and the reason follows, for a row can be in the way of others and break
 * a CHECK; its stamp is that of the insert, or of the newest version where it breaks a CHECK, so it is one conflict for
 * all who have the same row, whatever the order in which they came by it.
 *
 * A version names one edit, so an edit that loses twice (overwritten, then deleted) is one entry, for its first reason.
 * Not so the versions of a copied device: one names several values, each of which is somebody's edit. Where such a copy
 * is noticed the reason follows and the value's encoding, which is the same for all who notice it; where a second value
 * of a version loses to others before that, only the encoding.
 *
 * There are none of CS_SHARED, whose rows are ours: a resolution or a strategy that meets another one is nobody's edit.
 *
 * state: manual, a person has to decide; auto, the rules did, and it can be taken back; resolved, somebody decided,
 * here or on another device (CS_SHARED says so), and it stays so; closed, a row's conflict whose cause is gone. The
 * latter is open again when the cause is back. */

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

static void put_encoding(struct cs_replica *r, const struct cs_value *v, struct cs_buf *out)
{
    struct cs_buf *encoding = &cs_apply_of(r)->a;

    cs_buf_reset(encoding);
    cs_value_encode(encoding, v);
    cs_buf_put_slice(out, cs_buf_slice(encoding));
    out->failed |= encoding->failed;
}

static bool is_copy(const struct cs_conflict_in *c)
{
    return strcmp(c->why, "copied-device") == 0;
}

/* What the id is the hash of, into out; column: its name, or empty. */
static int describe(struct cs_replica *r, const struct cs_conflict_in *c, struct cs_slice column, struct cs_buf *out,
                    struct cs_error *err)
{
    int rc = put_row(r, c->table, c->key, out, err);

    if (rc != CS_OK)
        return rc;
    cs_buf_put_u32(out, (uint32_t)column.len);
    cs_buf_put_slice(out, column);
    cs_buf_put_u64(out, (uint64_t)c->losing.stamp);
    cs_buf_put(out, c->losing.device.b, sizeof c->losing.device.b);
    if (c->col == CS_NO_COLUMN || is_copy(c))
        cs_buf_put_str(out, c->why);
    if (is_copy(c) && c->value != NULL)
        put_encoding(r, c->value, out);
    return out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

/* The name of the table comes first. */
static bool is_about_ours(const struct cs_buf *about)
{
    size_t n = cs_load_u32(about->data);

    return cs_slice_eq(cs_slice(about->data + 4, n), cs_slice_str(CS_SHARED));
}

static void make_id(const struct cs_buf *about, uint8_t id[CS_CONFLICT_ID])
{
    uint8_t hash[32];

    cs_hash_label("conflict id", cs_buf_slice(about), hash);
    memcpy(id, hash, CS_CONFLICT_ID);
}

/* sqlite3_changes tells whether it is new, or open again. */
static int put_entry(struct cs_replica *r, const struct cs_conflict_in *c, struct cs_slice id, const char *state,
                     struct cs_error *err)
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
    sqlite3_bind_text(s, 9, state, -1, SQLITE_STATIC);
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

/* Was it resolved, here or elsewhere, before it was noticed here? */
static int is_resolved(struct cs_replica *r, struct cs_slice id, bool *out, struct cs_error *err)
{
    struct cs_slice how;
    int rc = cs_shared_get(r, "resolved", id, &how, err);

    *out = rc == CS_OK;
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

/* A copied identity needs a person, and so does an edit where somebody asked for that. Everything else was decided by
 * the rules and can be taken back. */
static int state_of(struct cs_replica *r, const struct cs_conflict_in *c, struct cs_slice column, struct cs_slice id,
                    const char **state, struct cs_error *err)
{
    bool yes;
    int rc = is_resolved(r, id, &yes, err);

    *state = yes ? "resolved" : is_copy(c) ? "manual" : "auto";
    if (rc != CS_OK || yes || is_copy(c) || c->col == CS_NO_COLUMN)
        return rc;
    if ((rc = cs_strategy_is_manual(r, c->table, column, &yes, err)) == CS_OK && yes)
        *state = "manual";
    return rc;
}

static int record(struct cs_replica *r, const struct cs_conflict_in *c, struct cs_slice column, struct cs_slice id,
                  enum cs_recorded *out, struct cs_error *err)
{
    const char *state = NULL;
    int rc = state_of(r, c, column, id, &state, err);

    if (rc != CS_OK || (rc = put_entry(r, c, id, state, err)) != CS_OK)
        return rc;
    if (sqlite3_changes(r->db) > 0)
        *out = strcmp(state, "manual") == 0 ? CS_RECORDED_MANUAL
               : strcmp(state, "auto") == 0 ? CS_RECORDED_AUTO
                                            : CS_RECORDED_BEFORE;
    return CS_OK;
}

int cs_conflict_record(struct cs_replica *r, const struct cs_conflict_in *c, enum cs_recorded *out,
                       struct cs_error *err)
{
    struct cs_buf *about = &cs_apply_of(r)->b;
    struct cs_slice column = CS_SLICE_NULL;
    uint8_t id[CS_CONFLICT_ID];
    bool another;
    int rc = CS_OK;

    *out = CS_RECORDED_BEFORE;
    cs_buf_reset(about);
    if (c->col != CS_NO_COLUMN && (rc = cs_column_name(r, c->table, c->col, &column, err)) == CS_OK &&
        (column.data = cs_arena_copy(&r->scratch, column).data) == NULL)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    if (rc != CS_OK || (rc = describe(r, c, column, about, err)) != CS_OK || is_about_ours(about))
        return rc;
    make_id(about, id);
    if ((rc = record(r, c, column, cs_slice(id, sizeof id), out, err)) != CS_OK || *out != CS_RECORDED_BEFORE ||
        c->value == NULL)
        return rc;
    if ((rc = holds_another(r, cs_slice(id, sizeof id), c->value, &another, err)) != CS_OK || !another)
        return rc;
    put_encoding(r, c->value, about);
    if (about->failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    make_id(about, id);
    return record(r, c, column, cs_slice(id, sizeof id), out, err);
}

int cs_conflict_keep_row(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_slice row,
                         struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc = cs_layout_lost(r, err);

    if (rc != CS_OK)
        return rc;
    if ((s = cs_apply_stmt(r, CS_OWN_LOST, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, table);
    cs_db_bind_slice(s, 2, key);
    cs_db_bind_slice(s, 3, row);
    return cs_db_step(r, s, "cannot keep a deleted row for its conflict", err);
}

int cs_conflict_close(struct cs_replica *r, int64_t table, struct cs_slice key, const char *why,
                      const struct cs_version *but, struct cs_error *err)
{
    sqlite3_stmt *s = cs_apply_stmt(r, CS_OWN_CONFLICT_CLOSE, err);

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, table);
    cs_db_bind_slice(s, 2, key);
    sqlite3_bind_text(s, 3, why, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 4, cs_now_ms(r->world));
    sqlite3_bind_null(s, 5);
    sqlite3_bind_null(s, 6);
    if (but != NULL) {
        sqlite3_bind_int64(s, 5, but->stamp);
        cs_db_bind_slice(s, 6, cs_slice(but->device.b, sizeof but->device.b));
    }
    return cs_db_step(r, s, "cannot close a conflict", err);
}

int cs_conflict_check(struct cs_replica *r, struct cs_table *t, struct cs_slice key, const struct cs_value *values,
                      const struct cs_version *newest, uint32_t *raised, struct cs_error *err)
{
    struct cs_conflict_in c = { .why = "check", .table = t->id, .key = key, .col = CS_NO_COLUMN, .losing = *newest };
    enum cs_recorded recorded;
    bool holds;
    int rc;

    if (!t->has_check)
        return CS_OK;
    if ((rc = cs_show_check(r, t, values, &holds, err)) != CS_OK ||
        (rc = cs_conflict_close(r, t->id, key, "check", holds ? NULL : newest, err)) != CS_OK || holds)
        return rc;
    rc = cs_conflict_record(r, &c, &recorded, err);
    *raised += recorded != CS_RECORDED_BEFORE;
    return rc;
}

int cs_conflict_settle(struct cs_replica *r, struct cs_error *err)
{
    static const char sql[] =
        "UPDATE main.sync_conflicts SET state = 'resolved', noted = 0, at_ms = ?1 WHERE state <> 'resolved' AND id IN "
        "(SELECT name FROM main." CS_SHARED " WHERE what = 'resolved')";
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (cs_table_by_name(r, cs_slice_str(CS_SHARED)) == NULL)
        return CS_OK;
    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot close the conflicts that were resolved");
    sqlite3_bind_int64(s, 1, cs_now_ms(r->world));
    rc = cs_db_step(r, s, "cannot close the conflicts that were resolved", err);
    sqlite3_finalize(s);
    return rc;
}

int cs_conflict_collect(struct cs_replica *r, struct cs_error *err)
{
    /* a row that is still in the way of another is a fact, whatever its age */
    static const char sql[] =
        "DELETE FROM main.sync_conflicts WHERE at_ms < ?1 AND told = 0 AND (state IN ('resolved', "
        "'closed') OR (state = 'auto' AND col IS NOT NULL))";
    static const char lost[] =
        "DELETE FROM main.sync_lost WHERE NOT EXISTS (SELECT 1 FROM main.sync_conflicts c WHERE (c.tbl, c.key) = "
        "(sync_lost.tbl, sync_lost.key) AND c.state IN ('auto', 'manual') AND c.col IS NOT NULL)";
    int64_t now = cs_now_ms(r->world);
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (now - r->collected_ms < CS_CONFLICT_COLLECT_MS && now >= r->collected_ms)
        return CS_OK;
    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot collect old conflicts");
    sqlite3_bind_int64(s, 1, now - CS_CONFLICT_DAYS * INT64_C(86400000));
    rc = cs_db_step(r, s, "cannot collect old conflicts", err);
    sqlite3_finalize(s);
    if (rc == CS_OK && (rc = cs_layout_lost(r, err)) == CS_OK && (rc = cs_db_exec(r, lost, err)) == CS_OK)
        r->collected_ms = now;
    return rc;
}
