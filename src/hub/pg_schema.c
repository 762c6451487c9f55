/* Every table is keyed by the workspace first and shows, to whoever is no superuser, only the workspaces that the
 * transaction has named in the setting claw_sync.workspaces. */
#include "hub/pg_schema.h"

#include <inttypes.h>

#include "base/log.h"

enum { S_BEGIN, S_TURN, S_COMMIT, S_THERE, S_VERSION, S_SEES_ALL, NSTMT };

static const struct cs_pg_stmt stmts[NSTMT] = {
    [S_BEGIN] = { "BEGIN ISOLATION LEVEL READ COMMITTED", 0, 0, "BEGIN" },
    [S_TURN] = { "SELECT pg_advisory_xact_lock(7163392746210593)", 0, 1, NULL },
    [S_COMMIT] = { "COMMIT", 0, 0, "COMMIT" },
    [S_THERE] = { "SELECT (to_regclass('claw_sync.version') IS NOT NULL)::int::int8", 0, 1, NULL },
    [S_VERSION] = { "SELECT version, partitions FROM claw_sync.version", 0, 2, NULL },
    [S_SEES_ALL] = { "SELECT (rolsuper OR rolbypassrls)::int::int8 FROM pg_catalog.pg_roles WHERE rolname = "
                     "current_user",
                     0, 1, NULL },
};

struct table {
    const char *name, *columns;
    const char *storage; /* of each part, as WITH (…) */
    const char *blob;    /* a column of ciphertext, which does not get smaller; or NULL */
};

/* Rows that every write moves on find room for their next version on their own page. */
#define MOVING "WITH (fillfactor=50)"

static const struct table first_tables[] = {
    /* A workspace's log and membership as they stand: the row that every write locks and moves on. */
    { "workspace",
      "workspace uuid PRIMARY KEY, log_id int8 NOT NULL, refilled int8 NOT NULL, number int8 NOT NULL,"
      " log_hash bytea NOT NULL, top_stamp int8 NOT NULL, member_seq int8 NOT NULL, epoch int8 NOT NULL,"
      " entry_hash bytea NOT NULL, bytes int8 NOT NULL",
      MOVING, NULL },
    /* Each device's newest batch (number 0: none yet), and when the hub last heard of it. */
    { "device",
      "workspace uuid, device uuid, number int8 NOT NULL, hash bytea NOT NULL, member_seq int8 NOT NULL,"
      " seen_ms int8 NOT NULL, PRIMARY KEY (workspace, device)",
      MOVING, NULL },
    /* The log: one row per batch; header, signature and payload hashes are the bytes that the device signed. */
    { "log",
      "workspace uuid, number int8, device uuid NOT NULL, device_number int8 NOT NULL, hash bytea NOT NULL,"
      " log_hash bytea NOT NULL, header bytea NOT NULL, signature bytea NOT NULL, payload_hashes bytea NOT NULL,"
      " entity_type bytea NOT NULL, PRIMARY KEY (workspace, number), UNIQUE (workspace, device, device_number)",
      "", "payload_hashes" },
    /* The ciphertext, as it was cut by the sender. */
    { "chunk", "workspace uuid, number int8, seq int8, payload bytea NOT NULL, PRIMARY KEY (workspace, number, seq)",
      "", "payload" },
    /* The membership log: whole signed entries. */
    { "entry", "workspace uuid, seq int8, hash bytea NOT NULL, entry bytea NOT NULL, PRIMARY KEY (workspace, seq)", "",
      "entry" },
    /* Devices that ask to be let in, and how far their exchange with a member has come. */
    { "offer",
      "workspace uuid, device uuid, made_ms int8 NOT NULL, offer bytea NOT NULL, answer bytea NOT NULL,"
      " reveal bytea NOT NULL, done bytea NOT NULL, PRIMARY KEY (workspace, device)",
      "", NULL },
};

/* Whoever runs the hub may see the heads of all workspaces, in a transaction that says so. */
static const char operator_policy[] = "CREATE POLICY operator ON claw_sync.workspace FOR SELECT USING"
                                      " (current_setting('claw_sync.operator', true) = 'on');";

static const struct table state_tables[] = {
    /* The state that others compare theirs with: one device's, in buckets of leaves. */
    { "reference",
      "workspace uuid PRIMARY KEY, log_id int8 NOT NULL, number int8 NOT NULL, epoch int8 NOT NULL,"
      " device uuid NOT NULL, whole int8 NOT NULL, only_prove int8 NOT NULL, changed_ms int8 NOT NULL,"
      " rows int8 NOT NULL, given int8 NOT NULL",
      MOVING, NULL },
    { "bucket",
      "workspace uuid, prefix int8, rows int8 NOT NULL, sum bytea NOT NULL, leaves bytea NOT NULL,"
      " PRIMARY KEY (workspace, prefix)",
      MOVING, "leaves" },
    /* What others miss of a device's state. */
    { "wanted", "workspace uuid, device uuid, tag bytea, epoch int8 NOT NULL, PRIMARY KEY (workspace, device, tag)", "",
      NULL },
    /* What each device signed about its own. */
    { "proof",
      "workspace uuid, device uuid, log_id int8 NOT NULL, number int8 NOT NULL, given int8 NOT NULL,"
      " proof bytea NOT NULL, PRIMARY KEY (workspace, device)",
      MOVING, NULL },
};

static const struct table snapshot_tables[] = {
    /* Whole merged states, for devices that do not have what the log has no more. */
    { "snapshot",
      "workspace uuid, slot int8, state int8 NOT NULL, log_id int8 NOT NULL, number int8 NOT NULL,"
      " device uuid NOT NULL, parts int8 NOT NULL, digest bytea NOT NULL, bytes int8 NOT NULL,"
      " changed_ms int8 NOT NULL, attester uuid NOT NULL, descriptor bytea NOT NULL, attestation bytea NOT NULL,"
      " PRIMARY KEY (workspace, slot)",
      MOVING, NULL },
    { "snapshot_part",
      "workspace uuid, slot int8, part int8, seq int8, envelope bytea NOT NULL, payload bytea NOT NULL,"
      " PRIMARY KEY (workspace, slot, part, seq)",
      "", "payload" },
};
/* Logs without their beginning, and how far each device has read. */
static const char pruning_columns[] = "ALTER TABLE claw_sync.workspace ADD COLUMN pruned int8 NOT NULL DEFAULT 0,"
                                      " ADD COLUMN prune_to int8 NOT NULL DEFAULT 0,"
                                      " ADD COLUMN prune_ms int8 NOT NULL DEFAULT 0;"
                                      "ALTER TABLE claw_sync.device ADD COLUMN pulled int8 NOT NULL DEFAULT 0;";

/* Numbered by place, from 1, and never changed: what comes later is added behind. A script that must see all rows lifts
 * the table's FORCE ROW LEVEL SECURITY for that long. */
static const struct migration {
    const struct table *tables;
    size_t ntables;
    const char *script; /* after the tables; or NULL */
} migrations[] = {
    { first_tables, sizeof first_tables / sizeof first_tables[0], operator_policy },
    { state_tables, sizeof state_tables / sizeof state_tables[0], NULL }, /* reconciling */
    { snapshot_tables, sizeof snapshot_tables / sizeof snapshot_tables[0], pruning_columns },
};
enum { SCHEMA_VERSION = sizeof migrations / sizeof migrations[0] };

static const char wall[] = "ALTER TABLE claw_sync.%s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
                           "CREATE POLICY workspaces ON claw_sync.%s USING (workspace = ANY ((SELECT"
                           " nullif(current_setting('claw_sync.workspaces', true), '')::uuid[])::uuid[]));";

static void table_script(struct cs_buf *out, const struct table *t, unsigned partitions)
{
    cs_buf_printf(out, "CREATE TABLE claw_sync.%s (%s) %s;", t->name, t->columns,
                  partitions > 0 ? "PARTITION BY HASH (workspace)" : t->storage);
    if (t->blob != NULL)
        cs_buf_printf(out, "ALTER TABLE claw_sync.%s ALTER COLUMN %s SET STORAGE EXTERNAL;", t->name, t->blob);
    cs_buf_printf(out, wall, t->name, t->name);
    for (unsigned i = 0; i < partitions; i++)
        cs_buf_printf(
            out,
            "CREATE TABLE claw_sync.%s_%u PARTITION OF claw_sync.%s FOR VALUES WITH (MODULUS %u, REMAINDER %u)"
            " %s;ALTER TABLE claw_sync.%s_%u ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;",
            t->name, i, t->name, partitions, i, t->storage, t->name, i);
}

static int migrate(cs_pg *pg, int64_t from, unsigned partitions, struct cs_error *err)
{
    struct cs_buf script = { 0 };
    int rc;

    if (from == 0)
        cs_buf_printf(&script,
                      "CREATE SCHEMA IF NOT EXISTS claw_sync;"
                      "CREATE TABLE claw_sync.version (version int8 NOT NULL, partitions int8 NOT NULL);"
                      "INSERT INTO claw_sync.version VALUES (0, %u);",
                      partitions);
    for (int64_t i = from; i < SCHEMA_VERSION; i++) {
        for (size_t k = 0; k < migrations[i].ntables; k++)
            table_script(&script, &migrations[i].tables[k], partitions);
        if (migrations[i].script != NULL)
            cs_buf_put_str(&script, migrations[i].script);
    }
    cs_buf_printf(&script, "UPDATE claw_sync.version SET version = %d", SCHEMA_VERSION);
    cs_buf_put_u8(&script, 0);
    rc = script.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : cs_pg_script(pg, (const char *)script.data, err);
    cs_buf_free(&script);
    return rc;
}

/* One row of numbers. */
static int ask(cs_pg *pg, unsigned stmt, int64_t *out, struct cs_error *err)
{
    int rc;

    cs_pg_queue(pg, stmt, NULL);
    if ((rc = cs_pg_run(pg, err)) != CS_OK)
        return rc;
    for (unsigned i = 0; i < stmts[stmt].ncols; i++)
        if (cs_pg_rows(pg) != 1 || !cs_pg_i64(pg, 0, i, &out[i]))
            return cs_fail(err, CS_ECORRUPT, "the PostgreSQL server answers something that was not asked");
    return CS_OK;
}

static int in_turn(cs_pg *pg, unsigned partitions, struct cs_error *err)
{
    int64_t there = 0, is[2] = { 0, partitions };
    int rc;

    if ((rc = ask(pg, S_THERE, &there, err)) != CS_OK || (there != 0 && (rc = ask(pg, S_VERSION, is, err)) != CS_OK))
        return rc;
    if (is[0] > SCHEMA_VERSION)
        return cs_fail(err, CS_EVERSION,
                       "the PostgreSQL database was written by a newer hub (schema %" PRId64 ", this one knows %d)",
                       is[0], SCHEMA_VERSION);
    if (is[0] < 0 || is[1] < 0 || is[1] > CS_PG_MAX_PARTITIONS)
        return cs_fail(err, CS_ECORRUPT, "the PostgreSQL database has a damaged claw_sync.version");
    return is[0] == SCHEMA_VERSION ? CS_OK : migrate(pg, is[0], (unsigned)is[1], err);
}

int cs_pg_schema_ensure(const char *url, enum cs_pg_prepare prepare, unsigned partitions, struct cs_error *err)
{
    int64_t sees_all = 0;
    cs_pg *pg;
    int rc;

    if ((rc = cs_pg_open(&pg, url, prepare, stmts, NSTMT, err)) != CS_OK)
        return rc;
    cs_pg_queue(pg, S_BEGIN, NULL);
    cs_pg_queue(pg, S_TURN, NULL);
    if ((rc = cs_pg_run(pg, err)) == CS_OK && (rc = ask(pg, S_SEES_ALL, &sees_all, err)) == CS_OK &&
        (rc = in_turn(pg, partitions, err)) == CS_OK) {
        cs_pg_queue(pg, S_COMMIT, NULL);
        rc = cs_pg_run(pg, err);
    }
    if (rc == CS_OK && sees_all != 0)
        cs_log(CS_LOG_WARN,
               "store=postgres the role is a superuser or bypasses row-level security, which then is no second "
               "wall between workspaces; give the hub a role of its own");
    cs_pg_close(pg);
    return rc;
}
