#include "replica/store.h"

static int journal_mode(struct cs_replica *r, struct cs_replica_health *out, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(r->db, "PRAGMA main.journal_mode", -1, &s, NULL) != SQLITE_OK ||
        sqlite3_step(s) != SQLITE_ROW)
        rc = cs_db_fail(r, err, "cannot read the journal mode");
    else
        sqlite3_snprintf(sizeof out->journal_mode, out->journal_mode, "%s", sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    return rc;
}

int cs_replica_health(cs_replica *r, struct cs_replica_health *out, struct cs_error *err)
{
    int64_t schema;
    int rc;

    *out = (struct cs_replica_health){ .sqlite_version = sqlite3_libversion_number() };
    if ((rc = journal_mode(r, out, err)) != CS_OK || r->bare || (rc = cs_schema_version(r, &schema, err)) != CS_OK)
        return rc;
    out->schema_unseen = schema != cs_replica_schema(r);
    for (size_t i = 0; i < r->ntables && rc == CS_OK; i++) {
        const struct cs_table *t = &r->tables[i];
        bool exact = true;

        if (t->state != CS_TRACKED || (rc = cs_triggers_exact(r, t, &exact, err)) != CS_OK)
            continue;
        out->tracked++;
        if (!exact && out->altered++ == 0)
            sqlite3_snprintf(sizeof out->altered_table, out->altered_table, "%s", t->name);
    }
    return rc;
}
