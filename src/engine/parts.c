#include "engine/parts.h"

#include <sqlite3.h>
#include <stdlib.h>

struct cs_parts {
    sqlite3 *db; /* owned; SQLite deletes its file */
    sqlite3_stmt *add, *get;
    uint32_t n;
};

static int fail_db(cs_parts *p, struct cs_error *err)
{
    int rc = p->db == NULL ? SQLITE_NOMEM : sqlite3_errcode(p->db);

    return cs_fail(err,
                   rc == SQLITE_NOMEM  ? CS_ENOMEM
                   : rc == SQLITE_FULL ? CS_EIO
                                       : CS_EDB,
                   "cannot keep the parts of a snapshot: %s", p->db == NULL ? "out of memory" : sqlite3_errmsg(p->db));
}

int cs_parts_new(cs_parts **out, struct cs_error *err)
{
    static const char setup[] = "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-2048;"
                                "PRAGMA locking_mode=EXCLUSIVE;"
                                "CREATE TABLE part(id INTEGER PRIMARY KEY, stored BLOB NOT NULL); BEGIN";
    cs_parts *p = calloc(1, sizeof *p);
    int rc = CS_OK;

    *out = NULL;
    if (p == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if (sqlite3_open_v2("", &p->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) !=
            SQLITE_OK ||
        sqlite3_exec(p->db, setup, NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(p->db, "INSERT INTO part(id, stored) VALUES(?1, ?2)", -1, &p->add, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(p->db, "SELECT stored FROM part WHERE id = ?1", -1, &p->get, NULL) != SQLITE_OK)
        rc = fail_db(p, err);
    if (rc == CS_OK)
        *out = p;
    else
        cs_parts_free(p);
    return rc;
}

void cs_parts_free(cs_parts *p)
{
    if (p == NULL)
        return;
    sqlite3_finalize(p->add);
    sqlite3_finalize(p->get);
    sqlite3_close(p->db);
    free(p);
}

int cs_parts_add(cs_parts *p, struct cs_slice stored, struct cs_error *err)
{
    int step;

    sqlite3_bind_int64(p->add, 1, p->n);
    sqlite3_bind_blob64(p->add, 2, stored.data, stored.len, SQLITE_STATIC);
    step = sqlite3_step(p->add);
    sqlite3_reset(p->add);
    if (step != SQLITE_DONE)
        return fail_db(p, err);
    p->n++;
    return CS_OK;
}

uint32_t cs_parts_count(const cs_parts *p)
{
    return p->n;
}

int cs_parts_get(cs_parts *p, uint32_t i, struct cs_batch *out, struct cs_error *err)
{
    int rc;

    sqlite3_bind_int64(p->get, 1, i);
    if (sqlite3_step(p->get) != SQLITE_ROW)
        rc = fail_db(p, err);
    else
        rc = cs_batch_decode(out, cs_slice(sqlite3_column_blob(p->get, 0), (size_t)sqlite3_column_bytes(p->get, 0)),
                             err);
    sqlite3_reset(p->get);
    return rc;
}
