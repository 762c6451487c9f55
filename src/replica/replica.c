#include "replica/replica.h"

#include "base/sqlite_code.h"
#include "replica/statements.h"
#include "replica/store.h"

enum { LOOKASIDE_BYTES = 1200, LOOKASIDE_SLOTS = 512 };

static int busy_timeout(const struct cs_replica_options *o)
{
    return o->busy_timeout_ms == 0 ? 5000 : (int)o->busy_timeout_ms;
}

/* Whoever only reads cannot roll back what a process left that died in a transaction: somebody who writes has to look
 * at it once. */
static int roll_back_for_reader(struct cs_replica *r, const struct cs_replica_options *o, struct cs_error *err)
{
    static const char look[] = "SELECT 1 FROM main.sqlite_schema LIMIT 1";
    sqlite3 *writer = NULL;
    int code, rc;

    sqlite3_busy_timeout(r->db, busy_timeout(o));
    sqlite3_exec(r->db, look, NULL, NULL, NULL);
    code = sqlite3_extended_errcode(r->db);
    if (code != SQLITE_READONLY_ROLLBACK && code != SQLITE_READONLY_RECOVERY)
        return CS_OK;
    if ((rc = sqlite3_open_v2(o->path, &writer, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL)) == SQLITE_OK) {
        sqlite3_busy_timeout(writer, busy_timeout(o));
        rc = sqlite3_exec(writer, look, NULL, NULL, NULL);
    }
    sqlite3_close(writer);
    return rc == SQLITE_OK ? CS_OK
                           : cs_fail(err, CS_EIO,
                                     "database \"%s\" was left in the middle of a change by a process that died, and "
                                     "cannot be put right here: %s; open it once where it may be written",
                                     o->path, sqlite3_errstr(rc));
}

static int open_file(struct cs_replica *r, const struct cs_replica_options *o, struct cs_error *err)
{
    struct cs_file_info f;
    int rc;

    if (o->path[0] == '\0' || strcmp(o->path, ":memory:") == 0 || strncmp(o->path, "file:", 5) == 0)
        return cs_fail(err, CS_EINVAL,
                       "database \"%s\" is no file: in-memory and temporary databases cannot be replicated", o->path);
    rc = r->world->files.ops->stat(r->world->files.self, o->path, &f, err);
    if (rc == CS_ENOTFOUND)
        return cs_fail(err, CS_ENOTFOUND,
                       "database \"%s\" does not exist; the application makes it, or name another with --db-path",
                       o->path);
    if (rc == CS_OK && f.is_dir)
        return cs_fail(err, CS_EINVAL, "database \"%s\" is a folder", o->path);
    if (rc != CS_OK)
        return rc;
    if (sqlite3_open_v2(o->path, &r->db,
                        (o->read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE) | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK) {
        rc = r->db == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : cs_db_fail(r, err, "cannot open the database");
        return cs_fail_context(err, "\"%s\"", o->path), rc;
    }
    if (!o->read_only && sqlite3_db_readonly(r->db, "main") == 1)
        return cs_fail(err, CS_EIO, "database \"%s\" is read-only", o->path);
    return o->read_only ? roll_back_for_reader(r, o, err) : CS_OK;
}

int cs_db_load_extension(sqlite3 *db, const char *path, struct cs_error *err)
{
    char *why = NULL;
    int rc = CS_OK;

    if (path == NULL || path[0] == '\0')
        return CS_OK;
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    if (sqlite3_load_extension(db, path, NULL, &why) != SQLITE_OK)
        rc = cs_fail(err, CS_EINVAL, "cannot load SQLite extension \"%s\": %s", path,
                     why != NULL ? why : "unknown reason");
    sqlite3_free(why);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0, NULL);
    return rc;
}

static int settings(struct cs_replica *r, const struct cs_replica_options *o, struct cs_error *err)
{
    int rc;

    sqlite3_extended_result_codes(r->db, 1);
    /* our prepared statements alone fill the default's slots for good, and every row would go to malloc then */
    sqlite3_db_config(r->db, SQLITE_DBCONFIG_LOOKASIDE, NULL, LOOKASIDE_BYTES, LOOKASIDE_SLOTS);
    sqlite3_busy_timeout(r->db, busy_timeout(o));
    if ((rc = cs_db_load_extension(r->db, o->load_extension, err)) != CS_OK)
        return rc;
    /* cache: enough for the inner pages of large tables, small enough for a client of tens of MiB */
    if (sqlite3_exec(r->db,
                     "PRAGMA foreign_keys=OFF; PRAGMA recursive_triggers=OFF; PRAGMA main.synchronous=NORMAL; "
                     "PRAGMA main.cache_size=-8000; PRAGMA temp_store=MEMORY; PRAGMA trusted_schema=ON;",
                     NULL, NULL, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot open the database");
    return CS_OK;
}

/* Our tables: there and of our format, or made now. */
static int prepare_layout(struct cs_replica *r, const struct cs_replica_options *o, struct cs_error *err)
{
    int rc = cs_layout_check(r, err);

    if (rc != CS_ENOTFOUND || o->read_only)
        return rc;
    if ((rc = cs_db_begin(r, err)) != CS_OK)
        return rc;
    rc = cs_layout_check(r, err); /* another process may have been faster */
    if (rc == CS_ENOTFOUND)
        rc = cs_layout_create(r, err);
    if (rc == CS_OK)
        return cs_db_commit(r, err);
    cs_db_leave(r);
    return rc;
}

int cs_schema_version(struct cs_replica *r, int64_t *out, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_SCHEMA_VERSION, err);
    int rc = CS_OK;

    if (s == NULL)
        return err_code(err);
    if (sqlite3_step(s) != SQLITE_ROW)
        rc = cs_db_fail(r, err, "cannot read the schema");
    else
        *out = sqlite3_column_int64(s, 0);
    sqlite3_reset(s);
    return rc;
}

/* The schema that was looked at last, by whichever engine: cs_replica_check_schema compares with it. */
static int schema_seen(struct cs_replica *r, struct cs_error *err)
{
    int rc = cs_meta_int(r, "schema", &r->schema_version, err);

    if (rc != CS_ENOTFOUND)
        return rc;
    r->schema_version = -1;
    return CS_OK;
}

static int open_all(struct cs_replica *r, const struct cs_replica_options *o, struct cs_error *err)
{
    int rc;

    if ((rc = open_file(r, o, err)) != CS_OK)
        return rc;
    if ((r->stmts = calloc(CS_NSTATEMENTS, sizeof(sqlite3_stmt *))) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    r->read_only = o->read_only;
    if ((rc = settings(r, o, err)) != CS_OK)
        return rc;
    rc = prepare_layout(r, o, err);
    if (rc == CS_ENOTFOUND && o->anywhere) {
        r->bare = true;
        return cs_apply_open(r, err);
    }
    if (rc == CS_OK && !o->read_only && !cs_sqlite_sync_found(r->db))
        rc = cs_db_fail(r, err, "cannot sync the database");
    if (rc != CS_OK || (rc = cs_db_load(r, err)) != CS_OK || (rc = cs_apply_open(r, err)) != CS_OK ||
        (rc = schema_seen(r, err)) != CS_OK || (rc = cs_schema_load(r, err)) != CS_OK)
        return rc;
    return o->take_lease ? cs_lease_take(r, err) : CS_OK;
}

int cs_replica_open(cs_replica **out, struct cs_world *w, const struct cs_replica_options *o, struct cs_error *err)
{
    struct cs_replica *r = calloc(1, sizeof *r);
    int rc;

    *out = NULL;
    if (r == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    r->world = w;
    if ((rc = open_all(r, o, err)) != CS_OK) {
        cs_replica_close(r);
        return rc;
    }
    *out = r;
    return CS_OK;
}

void cs_replica_close(cs_replica *r)
{
    if (r == NULL)
        return;
    if (r->db != NULL && r->stmts != NULL) {
        cs_lease_give(r);
        cs_schema_release(r);
        cs_apply_close(r);
    }
    cs_extract_free(r);
    cs_seal_free(r);
    cs_run_free(r);
    cs_db_finalize(r);
    sqlite3_close_v2(r->db);
    cs_arena_free(&r->scratch);
    cs_arena_free(&r->schema_arena);
    cs_buf_free(&r->meta);
    free(r->devices);
    free(r);
}

bool cs_replica_is_set_up(const cs_replica *r)
{
    return !r->bare;
}

void cs_replica_identity(const cs_replica *r, struct cs_replica_identity *out)
{
    *out = r->id;
}

int cs_replica_set_identity(cs_replica *r, const struct cs_replica_identity *id, struct cs_error *err)
{
    char ours[CS_UUID_TEXT];
    uint32_t self;
    int rc;

    cs_uuid_text(ours, &r->id.device);
    if (!cs_uuid_is_zero(&r->id.workspace) && cs_uuid_cmp(&r->id.workspace, &id->workspace) != 0)
        return cs_fail(err, CS_EEXIST,
                       "this database belongs to another workspace; use the workspace id it was set up with, or "
                       "untrack its tables first");
    if (!cs_uuid_is_zero(&r->id.device) && cs_uuid_cmp(&r->id.device, &id->device) != 0)
        return cs_fail(err, CS_EEXIST,
                       "this database was set up by device %s; use the data directory that belongs to it", ours);
    if (r->bare) { /* recorded when a table is tracked */
        r->id = *id;
        return CS_OK;
    }
    if ((rc = cs_db_begin(r, err)) != CS_OK)
        return rc;
    if ((rc = cs_device_number(r, &id->device, &self, err)) == CS_OK && (rc = cs_identity_save(r, id, err)) == CS_OK)
        return cs_db_commit(r, err);
    cs_db_rollback(r);
    return rc;
}

void cs_replica_pull_mark(const cs_replica *r, struct cs_pull_mark *out)
{
    *out = r->mark;
}

int cs_replica_log_hash(cs_replica *r, uint64_t number, uint8_t out[32], struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_LOG_HASH, err);
    int step, rc = CS_OK;

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, (int64_t)number);
    step = sqlite3_step(s);
    if (step == SQLITE_ROW && sqlite3_column_bytes(s, 0) == 32)
        memcpy(out, sqlite3_column_blob(s, 0), 32);
    else
        rc = step == SQLITE_DONE ? CS_ENOTFOUND : cs_db_fail(r, err, "cannot read our record of the log");
    sqlite3_reset(s);
    return rc;
}

int cs_replica_peer(cs_replica *r, const struct cs_uuid *device, struct cs_peer *out, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_PEER_GET, err);
    int step, rc = CS_ENOTFOUND;

    memset(out, 0, sizeof *out);
    if (s == NULL)
        return err_code(err);
    cs_db_bind_slice(s, 1, cs_slice(device->b, 16));
    step = sqlite3_step(s);
    if (step == SQLITE_ROW && sqlite3_column_int64(s, 0) > 0 && sqlite3_column_bytes(s, 1) == 32) {
        out->number = (uint64_t)sqlite3_column_int64(s, 0);
        memcpy(out->hash, sqlite3_column_blob(s, 1), 32);
        out->member_seq = (uint32_t)sqlite3_column_int64(s, 2);
        rc = CS_OK;
    } else if (step != SQLITE_ROW && step != SQLITE_DONE) {
        rc = cs_db_fail(r, err, "cannot read what is known of a device");
    }
    sqlite3_reset(s);
    return rc;
}

int cs_replica_peers(cs_replica *r, struct cs_arena *a, struct cs_known_peer **out, size_t *n, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_PEER_ALL, err);
    int rc = CS_OK;

    *n = 0;
    if (s == NULL)
        return err_code(err);
    if ((*out = cs_arena_zalloc(a, (size_t)r->ndevices + 1, sizeof **out)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    while (cs_db_row(r, s, &rc, "cannot read what is known of the devices", err)) {
        struct cs_known_peer *p = &(*out)[*n];

        if (sqlite3_column_bytes(s, 0) != 16 || sqlite3_column_bytes(s, 2) != 32 || *n > r->ndevices) {
            rc = cs_fail(err, CS_ECORRUPT, "what is known of the devices is damaged");
            break;
        }
        memcpy(p->device.b, sqlite3_column_blob(s, 0), 16);
        p->number = (uint64_t)sqlite3_column_int64(s, 1);
        memcpy(p->hash, sqlite3_column_blob(s, 2), 32);
        (*n)++;
    }
    sqlite3_reset(s);
    return rc;
}

static int any(struct cs_replica *r, int which, bool *out, struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, which, err);
    int step;

    if (s == NULL)
        return err_code(err);
    step = sqlite3_step(s);
    *out = step == SQLITE_ROW;
    sqlite3_reset(s);
    return step == SQLITE_ROW || step == SQLITE_DONE ? CS_OK : cs_db_fail(r, err, "cannot read our tables");
}

int cs_replica_pending(cs_replica *r, bool *unsealed, bool *unsent, struct cs_error *err)
{
    int rc;

    *unsealed = *unsent = false;
    if (r->bare)
        return CS_OK;
    rc = any(r, CS_STMT_LOG_ANY, unsealed, err);

    if (rc == CS_OK && !*unsealed)
        rc = cs_gap_waits(r, unsealed, err);
    if (rc == CS_OK)
        rc = any(r, CS_STMT_UNSENT_ANY, unsent, err);
    return rc == CS_OK && !*unsent ? cs_replica_publishing(r, unsent, err) : rc;
}

int cs_replica_logged(cs_replica *r, int64_t *entries, struct cs_error *err)
{
    sqlite3_stmt *s;
    int step;

    *entries = 0;
    if (r->bare)
        return CS_OK;
    if ((s = cs_db_stmt(r, CS_STMT_LOG_LENGTH, err)) == NULL)
        return err_code(err);
    if ((step = sqlite3_step(s)) == SQLITE_ROW)
        *entries = sqlite3_column_int64(s, 0);
    sqlite3_reset(s);
    return step == SQLITE_ROW ? CS_OK : cs_db_fail(r, err, "cannot read our tables");
}

int64_t cs_replica_schema(const cs_replica *r)
{
    return r->schema_version;
}

int cs_replica_poll(cs_replica *r, bool *changed, struct cs_error *err)
{
    uint64_t now = 0;
    int rc = cs_db_data_version(r, &now, err);

    *changed = rc == CS_OK && now != r->data_version;
    if (rc == CS_OK)
        r->data_version = now;
    return rc;
}

int cs_replica_counts(cs_replica *r, struct cs_replica_counts *out, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int64_t n = 0;
    int rc = CS_OK;

    *out = (struct cs_replica_counts){ .held_back = r->huge };
    if (r->bare) {
        out->hlc = r->hlc;
        return cs_db_data_version(r, &out->data_version, err);
    }
    if ((s = cs_db_stmt(r, CS_STMT_COUNTS, err)) == NULL)
        return err_code(err);
    if (cs_db_row(r, s, &rc, "cannot count", err)) {
        out->unsealed = sqlite3_column_int64(s, 0);
        out->unsent = sqlite3_column_int64(s, 1);
        out->bound = sqlite3_column_int64(s, 2);
        out->hidden = sqlite3_column_int64(s, 3);
        out->conflicts = sqlite3_column_int64(s, 4);
        out->tracked = sqlite3_column_int64(s, 5);
        out->taking_in = sqlite3_column_int64(s, 6);
        out->hlc = sqlite3_column_int64(s, 7);
        out->manual_conflicts = sqlite3_column_int64(s, 8);
        out->publishing = sqlite3_column_int64(s, 9);
        out->paused = sqlite3_column_int64(s, 10);
        n = sqlite3_column_int64(s, 11);
    }
    sqlite3_reset(s);
    if (n != 0 && (rc = cs_null_keys(r, &n, err)) == CS_OK)
        out->held_back += n;
    return rc == CS_OK ? cs_db_data_version(r, &out->data_version, err) : rc;
}
