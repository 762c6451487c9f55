#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "audit/internal.h"
#include "base/sqlite_code.h"

enum { FORMAT = 1, BUSY_MS = 10000 };

static const char create_sql[] =
    "CREATE TABLE sync_audit_log(sequence INTEGER PRIMARY KEY, event_type TEXT NOT NULL, workspace_id TEXT NOT NULL, "
    "device_id TEXT NOT NULL, entity_type TEXT NOT NULL, entity_ids TEXT NOT NULL, ops_count INTEGER NOT NULL, "
    "occurred_at INTEGER NOT NULL, payload BLOB NOT NULL, payload_hash BLOB NOT NULL, prev_entry_hash BLOB NOT NULL, "
    "signature BLOB NOT NULL, signer_pub_key BLOB NOT NULL) STRICT;"
    "PRAGMA user_version = 1";

#define COLUMNS                                                                                                        \
    "sequence, event_type, workspace_id, device_id, entity_type, entity_ids, ops_count, occurred_at, payload, "        \
    "payload_hash, prev_entry_hash, signature, signer_pub_key"

static const char insert_sql[] =
    "INSERT INTO sync_audit_log(" COLUMNS ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
static const char last_sql[] = "SELECT " COLUMNS " FROM sync_audit_log ORDER BY sequence DESC LIMIT 1";
static const char walk_sql[] = "SELECT " COLUMNS " FROM sync_audit_log WHERE sequence >= ?1 ORDER BY sequence";

int cs_audit_fail_db(cs_audit *a, const char *what, struct cs_error *err)
{
    return cs_sqlite_fail(a->db, err, "audit log: cannot ", what,
                          "keep it as evidence and move it away; a new log begins");
}

/* ---- rows ---- */

static bool blob_of(sqlite3_stmt *s, int col, uint8_t *out, int n)
{
    if (sqlite3_column_type(s, col) != SQLITE_BLOB || sqlite3_column_bytes(s, col) != n)
        return false;
    memcpy(out, sqlite3_column_blob(s, col), (size_t)n);
    return true;
}

static bool text_of(sqlite3_stmt *s, int col, struct cs_slice *out)
{
    if (sqlite3_column_type(s, col) != SQLITE_TEXT)
        return false;
    out->data = sqlite3_column_text(s, col);
    out->len = (size_t)sqlite3_column_bytes(s, col);
    return out->data != NULL;
}

/* Only the one spelling that we write: another would be another row with the same bytes. */
static bool uuid_of(sqlite3_stmt *s, int col, struct cs_uuid *out)
{
    char canonical[CS_UUID_TEXT];
    struct cs_slice text;

    if (!text_of(s, col, &text) || !cs_uuid_parse(out, (const char *)text.data))
        return false;
    cs_uuid_text(canonical, out);
    return text.len == CS_UUID_TEXT - 1 && memcmp(canonical, text.data, text.len) == 0;
}

const char *cs_audit_row_of(sqlite3_stmt *s, struct cs_audit_row *out)
{
    if (sqlite3_column_type(s, 6) != SQLITE_INTEGER || sqlite3_column_int64(s, 6) < 0)
        return "ops_count";
    if (sqlite3_column_type(s, 7) != SQLITE_INTEGER)
        return "occurred_at";
    if (sqlite3_column_type(s, 8) != SQLITE_BLOB)
        return "payload";
    out->sequence = (uint64_t)sqlite3_column_int64(s, 0);
    out->ops_count = (uint64_t)sqlite3_column_int64(s, 6);
    out->occurred_at = sqlite3_column_int64(s, 7);
    out->payload.data = sqlite3_column_blob(s, 8);
    out->payload.len = (size_t)sqlite3_column_bytes(s, 8);
    if (!text_of(s, 1, &out->event_type))
        return "event_type";
    if (!uuid_of(s, 2, &out->owner.workspace))
        return "workspace_id";
    if (!uuid_of(s, 3, &out->owner.device))
        return "device_id";
    if (!text_of(s, 4, &out->entity_type))
        return "entity_type";
    if (!text_of(s, 5, &out->entity_ids))
        return "entity_ids";
    if (!blob_of(s, 9, out->payload_hash, 32))
        return "payload_hash";
    if (!blob_of(s, 10, out->prev_entry_hash, 32))
        return "prev_entry_hash";
    if (!blob_of(s, 11, out->signature, CS_SIGNATURE_LEN))
        return "signature";
    return blob_of(s, 12, out->signer_pub_key, 32) ? NULL : "signer_pub_key";
}

static bool same_owner(const struct cs_audit_owner *a, const struct cs_audit_owner *b)
{
    return cs_uuid_cmp(&a->workspace, &b->workspace) == 0 && cs_uuid_cmp(&a->device, &b->device) == 0;
}

/* ---- opening ---- */

static int load_head(cs_audit *a, struct cs_error *err)
{
    struct cs_audit_row row;
    const char *wrong;
    int step, rc = CS_OK;

    a->sequence = 0;
    memset(a->head, 0, sizeof a->head);
    if ((step = sqlite3_step(a->last)) == SQLITE_ROW) {
        if ((wrong = cs_audit_row_of(a->last, &row)) != NULL)
            rc = cs_fail(err, CS_ECORRUPT, "audit log: the last row's %s is damaged; claw-sync audit verify tells more",
                         wrong);
        else if (!same_owner(&row.owner, &a->owner))
            rc = cs_fail(err, CS_EEXIST, "audit log: it is another device's");
        cs_buf_reset(&a->bytes);
        if (rc == CS_OK && (rc = cs_audit_row_bytes(&a->bytes, &row, err)) == CS_OK) {
            a->sequence = row.sequence;
            cs_hash_label("audit row", cs_buf_slice(&a->bytes), a->head);
        }
    } else if (step != SQLITE_DONE) {
        rc = cs_audit_fail_db(a, "read it", err);
    }
    sqlite3_reset(a->last);
    return rc;
}

static int user_version(cs_audit *a, int *out, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(a->db, "PRAGMA user_version", -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
        rc = cs_audit_fail_db(a, "read it", err);
    else
        *out = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    return rc;
}

static int prepare(cs_audit *a, bool read_only, struct cs_error *err)
{
    int version = 0, rc = user_version(a, &version, err);

    if (rc == CS_OK && version == 0 && !read_only) {
        /* under the lock: another process may be making it, too */
        if (sqlite3_exec(a->db, "PRAGMA journal_mode=WAL; BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
            return cs_audit_fail_db(a, "make it", err);
        if ((rc = user_version(a, &version, err)) == CS_OK && version == 0 &&
            sqlite3_exec(a->db, create_sql, NULL, NULL, NULL) != SQLITE_OK)
            rc = cs_audit_fail_db(a, "make it", err);
        if (rc == CS_OK && sqlite3_exec(a->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
            rc = cs_audit_fail_db(a, "make it", err);
        version = version == 0 ? FORMAT : version;
    }
    if (rc == CS_OK && version > FORMAT)
        rc = cs_fail(err, CS_EVERSION, "audit log: written by a newer claw-sync; update this one");
    if (rc == CS_OK && version != FORMAT)
        rc = cs_fail(err, CS_ECORRUPT, "audit log: the file is no audit log");
    if (rc == CS_OK && (sqlite3_prepare_v2(a->db, last_sql, -1, &a->last, NULL) != SQLITE_OK ||
                        sqlite3_prepare_v2(a->db, walk_sql, -1, &a->walk, NULL) != SQLITE_OK ||
                        sqlite3_prepare_v2(a->db, insert_sql, -1, &a->insert, NULL) != SQLITE_OK))
        rc = cs_audit_fail_db(a, "read it", err);
    return rc;
}

int cs_audit_open(cs_audit **out, struct cs_world *w, const char *path, bool read_only,
                  const struct cs_audit_owner *owner, struct cs_error *err)
{
    int flags = SQLITE_OPEN_NOMUTEX | (read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    cs_audit *a;
    int rc = cs_file_ensure(w, path, read_only, 0600, err);

    *out = NULL;
    if (rc != CS_OK)
        return rc;
    if ((a = calloc(1, sizeof *a)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    a->owner = *owner;
    if (sqlite3_open_v2(path, &a->db, flags, NULL) != SQLITE_OK) {
        rc = a->db == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : cs_audit_fail_db(a, "open it", err);
    } else {
        sqlite3_busy_timeout(a->db, BUSY_MS);
        /* a batch header that names a row must never outlive it */
        if (sqlite3_exec(a->db, "PRAGMA synchronous=FULL", NULL, NULL, NULL) != SQLITE_OK)
            rc = cs_audit_fail_db(a, "open it", err);
        if (rc == CS_OK && (rc = prepare(a, read_only, err)) == CS_OK && !read_only && !cs_sqlite_sync_found(a->db))
            rc = cs_audit_fail_db(a, "sync it", err);
        if (rc == CS_OK)
            rc = load_head(a, err);
        /* whose last row is damaged can still be looked at */
        if (rc == CS_ECORRUPT && read_only && a->walk != NULL)
            rc = CS_OK;
    }
    if (rc != CS_OK) {
        cs_audit_close(a);
        return cs_fail_context(err, "\"%s\"", path), rc;
    }
    *out = a;
    return CS_OK;
}

void cs_audit_close(cs_audit *a)
{
    if (a == NULL)
        return;
    sqlite3_finalize(a->insert);
    sqlite3_finalize(a->last);
    sqlite3_finalize(a->walk);
    sqlite3_close(a->db);
    cs_buf_free(&a->bytes);
    free(a);
}

void cs_audit_head(const cs_audit *a, uint64_t *sequence, uint8_t hash[32])
{
    *sequence = a->sequence;
    memcpy(hash, a->head, 32);
}

/* ---- appending ---- */

/* Would SQLite give the same bytes back? */
static bool is_text(struct cs_slice s)
{
    const uint8_t *p = s.data, *end = s.len == 0 ? p : p + s.len;

    while (p < end) {
        unsigned more = *p < 0x80 ? 0 : (*p & 0xe0) == 0xc0 ? 1 : (*p & 0xf0) == 0xe0 ? 2 : (*p & 0xf8) == 0xf0 ? 3 : 9;

        if (*p++ == 0 || more > (size_t)(end - p))
            return false;
        for (; more > 0; more--)
            if ((*p++ & 0xc0) != 0x80)
                return false;
    }
    return true;
}

static struct cs_slice slice_or_empty(const char *s)
{
    return s == NULL ? cs_slice("", 0) : cs_slice_str(s);
}

static int bind_text(sqlite3_stmt *s, int param, struct cs_slice v)
{
    return sqlite3_bind_text(s, param, (const char *)v.data, (int)v.len, SQLITE_STATIC);
}

static int insert_row(cs_audit *a, const struct cs_audit_row *row, struct cs_error *err)
{
    char workspace[CS_UUID_TEXT], device[CS_UUID_TEXT];
    sqlite3_stmt *s = a->insert;
    int bad, rc = CS_OK;

    cs_uuid_text(workspace, &row->owner.workspace);
    cs_uuid_text(device, &row->owner.device);
    bad = sqlite3_bind_int64(s, 1, (int64_t)row->sequence) | bind_text(s, 2, row->event_type) |
          bind_text(s, 3, cs_slice_str(workspace)) | bind_text(s, 4, cs_slice_str(device)) |
          bind_text(s, 5, row->entity_type) | bind_text(s, 6, row->entity_ids) |
          sqlite3_bind_int64(s, 7, (int64_t)row->ops_count) | sqlite3_bind_int64(s, 8, row->occurred_at) |
          sqlite3_bind_blob(s, 9, row->payload.len == 0 ? "" : (const void *)row->payload.data, (int)row->payload.len,
                            SQLITE_STATIC) |
          sqlite3_bind_blob(s, 10, row->payload_hash, 32, SQLITE_STATIC) |
          sqlite3_bind_blob(s, 11, row->prev_entry_hash, 32, SQLITE_STATIC) |
          sqlite3_bind_blob(s, 12, row->signature, CS_SIGNATURE_LEN, SQLITE_STATIC) |
          sqlite3_bind_blob(s, 13, row->signer_pub_key, 32, SQLITE_STATIC);
    if (bad != SQLITE_OK || sqlite3_step(s) != SQLITE_DONE)
        rc = cs_audit_fail_db(a, "append to it", err);
    sqlite3_reset(s);
    return rc;
}

static int append_one(cs_audit *a, const struct cs_sign_key *key, const struct cs_audit_event *e, struct cs_error *err)
{
    struct cs_audit_row row = { .sequence = a->sequence + 1,
                                .owner = a->owner,
                                .occurred_at = e->occurred_at,
                                .ops_count = e->ops_count,
                                .event_type = slice_or_empty(e->event_type),
                                .entity_type = slice_or_empty(e->entity_type),
                                .entity_ids = slice_or_empty(e->entity_ids),
                                .payload = e->payload };
    uint8_t hash[32];
    int rc;

    if (!is_text(row.event_type) || !is_text(row.entity_type) || !is_text(row.entity_ids) || e->ops_count > INT64_MAX)
        return cs_fail(err, CS_EINVAL, "audit log: a text of the row is not UTF-8, or a number is too large");
    if (a->sequence == 0)
        cs_audit_start(&a->owner, row.prev_entry_hash);
    else
        memcpy(row.prev_entry_hash, a->head, 32);
    cs_hash_plain(row.payload, row.payload_hash);
    memcpy(row.signer_pub_key, key->pk, 32);
    cs_buf_reset(&a->bytes);
    if ((rc = cs_audit_row_bytes(&a->bytes, &row, err)) != CS_OK)
        return rc;
    cs_hash_label("audit row", cs_buf_slice(&a->bytes), hash);
    cs_sign_digest(key, hash, row.signature);
    if ((rc = insert_row(a, &row, err)) == CS_OK) {
        a->sequence = row.sequence;
        memcpy(a->head, hash, 32);
    }
    return rc;
}

int cs_audit_append(cs_audit *a, const struct cs_sign_key *key, const struct cs_audit_event *events, size_t n,
                    struct cs_error *err)
{
    struct cs_error ignored;
    int rc;

    if (n == 0)
        return CS_OK;
    if (!cs_sqlite_begin(a->db))
        return cs_audit_fail_db(a, "append to it", err);
    rc = load_head(a, err);
    for (size_t i = 0; i < n && rc == CS_OK; i++)
        rc = append_one(a, key, &events[i], err);
    if (rc == CS_OK && sqlite3_exec(a->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        rc = cs_audit_fail_db(a, "append to it", err);
    if (rc != CS_OK) {
        sqlite3_exec(a->db, "ROLLBACK", NULL, NULL, NULL);
        load_head(a, &ignored);
    }
    return rc;
}

/* ---- reading ---- */

sqlite3_stmt *cs_audit_walk(cs_audit *a, uint64_t from, struct cs_error *err)
{
    sqlite3_reset(a->walk);
    if (sqlite3_bind_int64(a->walk, 1, from > INT64_MAX ? INT64_MAX : (int64_t)from) == SQLITE_OK)
        return a->walk;
    cs_audit_fail_db(a, "read it", err);
    return NULL;
}

int cs_audit_read(cs_audit *a, uint64_t from, bool (*fn)(void *arg, const struct cs_audit_row *row), void *arg,
                  struct cs_error *err)
{
    sqlite3_stmt *s = cs_audit_walk(a, from, err);
    struct cs_audit_row row;
    const char *wrong;
    int step = SQLITE_DONE, rc = CS_OK;

    if (s == NULL)
        return CS_EIO;
    while (rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        if ((wrong = cs_audit_row_of(s, &row)) != NULL)
            rc = cs_fail(err, CS_ECORRUPT, "audit log: %s of row %lld is damaged; claw-sync audit verify tells more",
                         wrong, (long long)sqlite3_column_int64(s, 0));
        else if (!fn(arg, &row))
            break;
    }
    if (rc == CS_OK && step != SQLITE_DONE && step != SQLITE_ROW)
        rc = cs_audit_fail_db(a, "read it", err);
    sqlite3_reset(s);
    return rc;
}
