/* The hub's store in PostgreSQL, for any number of hubs at once. A writing transaction locks its workspaces' head rows,
 * in order; what it puts waits here and goes out as a few statements over many rows, without an answer being waited for
 * until something is read or committed. Nothing outlives a transaction in the server's session but prepared statements,
 * so a pooler may stand in between. */
#include "hub/store.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/world.h"
#include "crypto/keys.h"
#include "hub/pg.h"
#include "hub/pg_news.h"
#include "hub/pg_schema.h"

enum {
    PAGE_FIRST = 16, /* rows that a long read asks for at first, and at most */
    PAGE_MOST = 256,
    PAGE_CHUNKS = 16,
    PAGE_SUMS = 8192,
    ENOUGH = 1024 * 1024, /* bytes that are put are sent above */
    LARGE = 8 * 1024, /* a chunk above is a statement of its own: what the server spends on arrays grows with them */
    AGAIN_MS = 500    /* after a connection was refused nobody tries again for so long */
};

/* Types, as they stand in an array's header. */
enum { OID_BYTEA = 17, OID_INT8 = 20, OID_UUID = 2950 };

enum stmt {
    S_BEGIN_READ,
    S_BEGIN_WRITE,
    S_SET,
    S_COMMIT,
    S_ROLLBACK,
    S_SAVE,
    S_KEEP,
    S_UNDO,
    S_HEADS,
    S_HEADS_LOCKED,
    S_LOCK_NEW,
    S_FORESEE,
    S_DEVICE,
    S_LOG_HASH,
    S_ENTRY_HASH,
    S_DEVICE_BATCH,
    S_BATCHES,
    S_CHUNKS,
    S_ENTRIES,
    S_OFFERS,
    S_PUT_HEADS,
    S_PUT_DEVICES,
    S_PUT_BATCHES,
    S_PUT_CHUNKS,
    S_PUT_CHUNK,
    S_PUT_ENTRIES,
    S_PUT_OFFER,
    S_DROP_OFFERS,
    S_OPERATOR,
    S_WORKSPACES,
    S_REFERENCE,
    S_BUCKET_SUMS,
    S_BUCKET_LEAVES,
    S_WANTED,
    S_PROOFS,
    S_PUT_REFERENCE,
    S_PUT_BUCKET,
    S_DROP_BUCKET,
    S_PUT_WANTED,
    S_DROP_WANTED,
    S_DROP_ALL_WANTED,
    S_PUT_PROOF,
    S_DROP_CHUNKS,
    S_DROP_LOG,
    S_RESET_DEVICES,
    S_DEVICES,
    S_SNAPSHOTS,
    S_PARTS,
    S_PUT_SNAPSHOT,
    S_PUT_PART,
    S_DROP_PARTS,
    S_DROP_SNAPSHOTS,
    S_DROP_ALL_PARTS,
    S_PRUNE_CHUNKS,
    S_PRUNE_LOG,
    NSTMT
};

#define HEAD_COLUMNS                                                                                                   \
    "workspace, log_id, refilled, number, log_hash, top_stamp, member_seq, epoch, entry_hash, bytes, pruned,"          \
    " prune_to, prune_ms"
#define BATCH_COLUMNS "number, device, device_number, hash, log_hash, header, signature, payload_hashes, entity_type"
/* clang-format off */
static const struct cs_pg_stmt stmts[NSTMT] = {
    [S_BEGIN_READ] = { "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", 0, 0, "BEGIN" },
    [S_BEGIN_WRITE] = { "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", 0, 0, "BEGIN" },
    /* What a commit confirms is on disk; and no transaction holds others up for ever. */
    [S_SET] = { "SELECT set_config('claw_sync.workspaces', $1, true), set_config('lock_timeout', '10s', true),"
                " set_config('statement_timeout', '60s', true),"
                " set_config('idle_in_transaction_session_timeout', '60s', true),"
                " set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')"
                " THEN 'on' ELSE current_setting('synchronous_commit') END, true)", 1, 5, NULL },
    [S_COMMIT] = { "COMMIT", 0, 0, "COMMIT" },
    [S_ROLLBACK] = { "ROLLBACK", 0, 0, NULL },
    [S_SAVE] = { "SAVEPOINT item", 0, 0, NULL },
    [S_KEEP] = { "RELEASE SAVEPOINT item", 0, 0, NULL },
    [S_UNDO] = { "ROLLBACK TO SAVEPOINT item", 0, 0, NULL },
    [S_HEADS] = { "SELECT " HEAD_COLUMNS " FROM claw_sync.workspace WHERE workspace = ANY ($1::uuid[])", 1, 13, NULL },
    [S_HEADS_LOCKED] = { "SELECT " HEAD_COLUMNS " FROM claw_sync.workspace WHERE workspace = ANY ($1::uuid[])"
                         " ORDER BY workspace FOR NO KEY UPDATE", 1, 13, NULL },
    /* Lifts the wall for the heads, for the rest of this transaction (pg_schema.c). */
    [S_OPERATOR] = { "SELECT set_config('claw_sync.operator', 'on', true)", 0, 1, NULL },
    [S_WORKSPACES] = { "SELECT " HEAD_COLUMNS " FROM claw_sync.workspace WHERE workspace > $1::uuid"
                       " ORDER BY workspace LIMIT $2", 2, 13, NULL },
    /* A workspace that has no row yet is locked by its number. */
    [S_LOCK_NEW] = { "SELECT pg_advisory_xact_lock(k) FROM unnest($1::int8[]) AS k", 1, 1, NULL },
    /* Three tables in one line, and from each row by row: an estimate of how many there are decides nothing. */
    [S_FORESEE] = { "SELECT k.at, t.number, t.hash, t.member_seq, t.seen_ms, t.pulled FROM unnest($1::uuid[],"
                    " $2::uuid[], $3::int8[]) AS k(workspace, device, at), LATERAL (SELECT number, hash, member_seq,"
                    " seen_ms, pulled FROM claw_sync.device AS d WHERE d.workspace = k.workspace"
                    " AND d.device = k.device LIMIT 1) AS t"
                    " UNION ALL SELECT k.at, 0::int8, t.log_hash, 0::int8, 0::int8, 0::int8 FROM unnest($4::uuid[],"
                    " $5::int8[], $6::int8[]) AS k(workspace, number, at), LATERAL (SELECT log_hash FROM claw_sync.log"
                    " AS l WHERE l.workspace = k.workspace AND l.number = k.number LIMIT 1) AS t"
                    " UNION ALL SELECT k.at, 0::int8, t.hash, 0::int8, 0::int8, 0::int8 FROM unnest($7::uuid[],"
                    " $8::int8[], $9::int8[]) AS k(workspace, seq, at), LATERAL (SELECT hash FROM claw_sync.entry AS e"
                    " WHERE e.workspace = k.workspace AND e.seq = k.seq LIMIT 1) AS t", 9, 6, NULL },
    [S_DEVICE] = { "SELECT number, hash, member_seq, seen_ms, pulled FROM claw_sync.device WHERE workspace = $1::uuid"
                   " AND device = $2::uuid", 2, 5, NULL },
    [S_LOG_HASH] = { "SELECT log_hash FROM claw_sync.log WHERE workspace = $1::uuid AND number = $2::int8", 2, 1, NULL },
    [S_ENTRY_HASH] = { "SELECT hash FROM claw_sync.entry WHERE workspace = $1::uuid AND seq = $2::int8", 2, 1, NULL },
    [S_DEVICE_BATCH] = { "SELECT " BATCH_COLUMNS " FROM claw_sync.log WHERE workspace = $1::uuid AND device = $2::uuid"
                         " AND device_number = $3::int8", 3, 9, NULL },
    [S_BATCHES] = { "SELECT " BATCH_COLUMNS " FROM claw_sync.log WHERE workspace = $1::uuid"
                    " AND number BETWEEN $2::int8 AND $3::int8 ORDER BY number LIMIT $4::int8", 4, 9, NULL },
    [S_CHUNKS] = { "SELECT number, seq, payload FROM claw_sync.chunk WHERE workspace = $1::uuid"
                   " AND (number, seq) >= ($2::int8, $3::int8) AND number <= $4::int8 ORDER BY number, seq"
                   " LIMIT $5::int8", 5, 3, NULL },
    [S_ENTRIES] = { "SELECT seq, entry FROM claw_sync.entry WHERE workspace = $1::uuid"
                    " AND seq BETWEEN $2::int8 AND $3::int8 ORDER BY seq LIMIT $4::int8", 4, 2, NULL },
    [S_OFFERS] = { "SELECT device, made_ms, offer, answer, reveal, done FROM claw_sync.offer"
                   " WHERE workspace = $1::uuid ORDER BY device", 1, 6, NULL },
    [S_PUT_HEADS] = { "INSERT INTO claw_sync.workspace(" HEAD_COLUMNS ") SELECT * FROM unnest($1::uuid[], $2::int8[],"
                      " $3::int8[], $4::int8[], $5::bytea[], $6::int8[], $7::int8[], $8::int8[], $9::bytea[],"
                      " $10::int8[], $11::int8[], $12::int8[], $13::int8[])"
                      " ON CONFLICT (workspace) DO UPDATE SET log_id = excluded.log_id,"
                      " refilled = excluded.refilled, number = excluded.number, log_hash = excluded.log_hash,"
                      " top_stamp = excluded.top_stamp, member_seq = excluded.member_seq, epoch = excluded.epoch,"
                      " entry_hash = excluded.entry_hash, bytes = excluded.bytes, pruned = excluded.pruned,"
                      " prune_to = excluded.prune_to, prune_ms = excluded.prune_ms", 13, 0, NULL },
    [S_PUT_DEVICES] = { "INSERT INTO claw_sync.device(workspace, device, number, hash, member_seq, seen_ms, pulled)"
                        " SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int8[], $4::bytea[], $5::int8[], $6::int8[],"
                        " $7::int8[])"
                        " ON CONFLICT (workspace, device) DO UPDATE SET number = excluded.number, hash = excluded.hash,"
                        " member_seq = excluded.member_seq, seen_ms = excluded.seen_ms, pulled = excluded.pulled",
                        7, 0, NULL },
    [S_PUT_BATCHES] = { "INSERT INTO claw_sync.log(workspace, " BATCH_COLUMNS ") SELECT * FROM unnest($1::uuid[],"
                        " $2::int8[], $3::uuid[], $4::int8[], $5::bytea[], $6::bytea[], $7::bytea[], $8::bytea[],"
                        " $9::bytea[], $10::bytea[])", 10, 0, NULL },
    [S_PUT_CHUNKS] = { "INSERT INTO claw_sync.chunk(workspace, number, seq, payload) SELECT * FROM unnest($1::uuid[],"
                       " $2::int8[], $3::int8[], $4::bytea[])", 4, 0, NULL },
    [S_PUT_CHUNK] = { "INSERT INTO claw_sync.chunk(workspace, number, seq, payload) VALUES ($1::uuid, $2::int8,"
                      " $3::int8, $4::bytea)", 4, 0, NULL },
    [S_PUT_ENTRIES] = { "INSERT INTO claw_sync.entry(workspace, seq, hash, entry) SELECT * FROM unnest($1::uuid[],"
                        " $2::int8[], $3::bytea[], $4::bytea[])", 4, 0, NULL },
    [S_PUT_OFFER] = { "INSERT INTO claw_sync.offer(workspace, device, made_ms, offer, answer, reveal, done)"
                      " VALUES ($1::uuid, $2::uuid, $3::int8, $4::bytea, $5::bytea, $6::bytea, $7::bytea)"
                      " ON CONFLICT (workspace, device) DO UPDATE SET made_ms = excluded.made_ms,"
                      " offer = excluded.offer, answer = excluded.answer, reveal = excluded.reveal,"
                      " done = excluded.done", 7, 0, NULL },
    [S_DROP_OFFERS] = { "DELETE FROM claw_sync.offer WHERE workspace = $1::uuid AND made_ms < $2::int8", 2, 0, NULL },
    [S_REFERENCE] = { "SELECT log_id, number, epoch, device, whole, only_prove, changed_ms, rows, given"
                      " FROM claw_sync.reference WHERE workspace = $1::uuid", 1, 9, NULL },
    [S_BUCKET_SUMS] = { "SELECT prefix, rows, sum, ''::bytea FROM claw_sync.bucket WHERE workspace = $1::uuid"
                        " AND prefix BETWEEN $2::int8 AND $3::int8 ORDER BY prefix LIMIT $4::int8", 4, 4, NULL },
    [S_BUCKET_LEAVES] = { "SELECT prefix, rows, sum, leaves FROM claw_sync.bucket WHERE workspace = $1::uuid"
                          " AND prefix BETWEEN $2::int8 AND $3::int8 ORDER BY prefix LIMIT $4::int8", 4, 4, NULL },
    [S_WANTED] = { "SELECT epoch, tag FROM claw_sync.wanted WHERE workspace = $1::uuid AND device = $2::uuid"
                   " ORDER BY tag", 2, 2, NULL },
    [S_PROOFS] = { "SELECT device, log_id, number, given, proof FROM claw_sync.proof WHERE workspace = $1::uuid"
                   " ORDER BY device", 1, 5, NULL },
    [S_PUT_REFERENCE] = { "INSERT INTO claw_sync.reference(workspace, log_id, number, epoch, device, whole, only_prove,"
                          " changed_ms, rows, given) VALUES ($1::uuid, $2::int8, $3::int8, $4::int8, $5::uuid, $6::int8,"
                          " $7::int8, $8::int8, $9::int8, $10::int8) ON CONFLICT (workspace) DO UPDATE SET"
                          " log_id = excluded.log_id, number = excluded.number, epoch = excluded.epoch,"
                          " device = excluded.device, whole = excluded.whole, only_prove = excluded.only_prove,"
                          " changed_ms = excluded.changed_ms, rows = excluded.rows, given = excluded.given",
                          10, 0, NULL },
    [S_PUT_BUCKET] = { "INSERT INTO claw_sync.bucket(workspace, prefix, rows, sum, leaves) VALUES ($1::uuid, $2::int8,"
                       " $3::int8, $4::bytea, $5::bytea) ON CONFLICT (workspace, prefix) DO UPDATE SET"
                       " rows = excluded.rows, sum = excluded.sum, leaves = excluded.leaves", 5, 0, NULL },
    [S_DROP_BUCKET] = { "DELETE FROM claw_sync.bucket WHERE workspace = $1::uuid AND prefix = $2::int8", 2, 0, NULL },
    [S_PUT_WANTED] = { "INSERT INTO claw_sync.wanted(workspace, device, tag, epoch) VALUES ($1::uuid, $2::uuid,"
                       " $3::bytea, $4::int8) ON CONFLICT (workspace, device, tag) DO UPDATE SET"
                       " epoch = excluded.epoch", 4, 0, NULL },
    [S_DROP_WANTED] = { "DELETE FROM claw_sync.wanted WHERE workspace = $1::uuid AND device = $2::uuid"
                        " AND tag = $3::bytea", 3, 0, NULL },
    [S_DROP_ALL_WANTED] = { "DELETE FROM claw_sync.wanted WHERE workspace = $1::uuid AND device = $2::uuid", 2, 0,
                            NULL },
    [S_PUT_PROOF] = { "INSERT INTO claw_sync.proof(workspace, device, log_id, number, given, proof) VALUES ($1::uuid,"
                      " $2::uuid, $3::int8, $4::int8, $5::int8, $6::bytea) ON CONFLICT (workspace, device) DO UPDATE SET"
                      " log_id = excluded.log_id, number = excluded.number, given = excluded.given,"
                      " proof = excluded.proof", 6, 0, NULL },
    [S_DROP_CHUNKS] = { "DELETE FROM claw_sync.chunk WHERE workspace = $1::uuid", 1, 0, NULL },
    [S_DROP_LOG] = { "DELETE FROM claw_sync.log WHERE workspace = $1::uuid", 1, 0, NULL },
    [S_RESET_DEVICES] = { "UPDATE claw_sync.device SET number = 0, hash = decode(repeat('00', 32), 'hex'),"
                          " member_seq = 0, pulled = 0 WHERE workspace = $1::uuid", 1, 0, NULL },
    [S_DEVICES] = { "SELECT number, hash, member_seq, seen_ms, pulled, device FROM claw_sync.device"
                    " WHERE workspace = $1::uuid ORDER BY device", 1, 6, NULL },
    [S_SNAPSHOTS] = { "SELECT slot, state, log_id, number, device, parts, digest, bytes, changed_ms, attester,"
                      " descriptor, attestation FROM claw_sync.snapshot WHERE workspace = $1::uuid ORDER BY slot", 1, 12,
                      NULL },
    [S_PARTS] = { "SELECT part, seq, envelope, payload FROM claw_sync.snapshot_part WHERE workspace = $1::uuid"
                  " AND slot = $2::int8 AND (part, seq) >= ($3::int8, $4::int8) ORDER BY part, seq LIMIT $5::int8", 5, 4,
                  NULL },
    [S_PUT_SNAPSHOT] = { "INSERT INTO claw_sync.snapshot(workspace, slot, state, log_id, number, device, parts, digest,"
                         " bytes, changed_ms, attester, descriptor, attestation) VALUES ($1::uuid, $2::int8, $3::int8,"
                         " $4::int8, $5::int8, $6::uuid, $7::int8, $8::bytea, $9::int8, $10::int8, $11::uuid,"
                         " $12::bytea, $13::bytea) ON CONFLICT (workspace, slot) DO UPDATE SET state = excluded.state,"
                         " log_id = excluded.log_id, number = excluded.number, device = excluded.device,"
                         " parts = excluded.parts, digest = excluded.digest, bytes = excluded.bytes,"
                         " changed_ms = excluded.changed_ms, attester = excluded.attester,"
                         " descriptor = excluded.descriptor, attestation = excluded.attestation", 13, 0, NULL },
    [S_PUT_PART] = { "INSERT INTO claw_sync.snapshot_part(workspace, slot, part, seq, envelope, payload)"
                     " VALUES ($1::uuid, $2::int8, $3::int8, $4::int8, $5::bytea, $6::bytea)", 6, 0, NULL },
    [S_DROP_PARTS] = { "DELETE FROM claw_sync.snapshot_part WHERE workspace = $1::uuid AND slot = $2::int8"
                       " AND part BETWEEN $3::int8 AND $4::int8", 4, 0, NULL },
    [S_DROP_SNAPSHOTS] = { "DELETE FROM claw_sync.snapshot WHERE workspace = $1::uuid", 1, 0, NULL },
    [S_DROP_ALL_PARTS] = { "DELETE FROM claw_sync.snapshot_part WHERE workspace = $1::uuid", 1, 0, NULL },
    [S_PRUNE_CHUNKS] = { "WITH gone AS (DELETE FROM claw_sync.chunk WHERE workspace = $1::uuid"
                         " AND number BETWEEN $2::int8 AND $3::int8 RETURNING length(payload) AS n)"
                         " SELECT coalesce(sum(n), 0)::int8 FROM gone", 3, 1, NULL },
    [S_PRUNE_LOG] = { "DELETE FROM claw_sync.log WHERE workspace = $1::uuid AND number BETWEEN $2::int8 AND $3::int8",
                      3, 0, NULL },
};
/* clang-format on */

/* The tables whose rows wait here until they are sent. */
enum kind { HEADS, DEVICES, BATCHES, CHUNKS, ENTRIES, NKINDS };
static const struct {
    enum stmt insert;
    size_t key; /* bytes at a row's beginning of which one statement may hold one only; 0: rows are new */
    unsigned ncols;
    uint32_t type[13];
} kinds[NKINDS] = {
    [HEADS] = { S_PUT_HEADS,
                4 + 16,
                13,
                { OID_UUID, OID_INT8, OID_INT8, OID_INT8, OID_BYTEA, OID_INT8, OID_INT8, OID_INT8, OID_BYTEA, OID_INT8,
                  OID_INT8, OID_INT8, OID_INT8 } },
    [DEVICES] = { S_PUT_DEVICES,
                  4 + 16 + 4 + 16,
                  7,
                  { OID_UUID, OID_UUID, OID_INT8, OID_BYTEA, OID_INT8, OID_INT8, OID_INT8 } },
    [BATCHES] = { S_PUT_BATCHES,
                  0,
                  10,
                  { OID_UUID, OID_INT8, OID_UUID, OID_INT8, OID_BYTEA, OID_BYTEA, OID_BYTEA, OID_BYTEA, OID_BYTEA,
                    OID_BYTEA } },
    [CHUNKS] = { S_PUT_CHUNKS, 0, 4, { OID_UUID, OID_INT8, OID_INT8, OID_BYTEA } },
    [ENTRIES] = { S_PUT_ENTRIES, 0, 4, { OID_UUID, OID_INT8, OID_BYTEA, OID_BYTEA } },
};

/* Rows of one table: their columns one after the other, each as the length (4 bytes) and the bytes of its binary
 * format, which is also how they stand in an array. */
struct waiting {
    struct cs_buf rows;
    struct cs_buf at; /* size_t per row: where it begins */
    size_t n;
    size_t saved, saved_len; /* those before the savepoint */
};

/* A row that begin's caller will ask for, as the store holds it: what is sent afterwards ends that. */
struct ahead {
    struct cs_store_need need;
    bool known, exists;
    size_t row; /* of a device: one more than the place of its latest row that waits; 0: none does */
    union {
        struct cs_store_device device;
        uint8_t hash[32];
    };
};

struct known_head {
    struct cs_uuid workspace;
    struct cs_store_head head;
    bool exists;
};

struct pg_store {
    char *url, *listen; /* secret; listen: may be NULL */
    cs_pg_news *news;   /* NULL: nobody listens */
    char name[CS_PG_NAME];
    enum cs_pg_prepare prepare;
    struct cs_world *world;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t given_back;
    struct conn *idle;
    unsigned nopen, most;
    uint64_t closed_until_ns; /* monotonic: no new connection before */
    struct cs_error closed;   /* why */
};

/* One connection, and the one transaction that it carries at a time. */
struct conn {
    cs_store_tx tx;
    struct pg_store *store;
    struct conn *next; /* among the idle ones */
    cs_pg *pg;
    enum cs_store_mode mode;
    bool used;                /* it has carried a transaction before */
    bool lost;                /* a statement failed: nothing of the transaction will be stored */
    bool saving;              /* between save and its end */
    bool savepoint;           /* the server knows of it */
    bool heads_moved;         /* what begin read of them is not what the transaction sees */
    struct known_head *heads; /* as begin read them, ascending */
    size_t nheads;
    struct ahead *ahead; /* ascending by what they are */
    size_t nahead;
    struct waiting waiting[NKINDS];
};

static const struct cs_store_ops pg_ops;

/* ---- binary values ---- */

static struct cs_slice u64_value(uint8_t out[8], uint64_t v)
{
    cs_store_u64(out, v);
    return cs_slice(out, 8);
}

static struct cs_slice uuid_value(const struct cs_uuid *u)
{
    return cs_slice(u->b, sizeof u->b);
}

static void put_column(struct cs_buf *row, struct cs_slice v)
{
    cs_buf_put_u32(row, (uint32_t)v.len);
    cs_buf_put_slice(row, v);
}

static void put_u64(struct cs_buf *row, uint64_t v)
{
    uint8_t b[8];

    put_column(row, u64_value(b, v));
}

/* An array's header; the elements follow as columns. */
static void array_begin(struct cs_buf *b, uint32_t type, size_t n)
{
    cs_buf_put_u32(b, 1); /* dimensions */
    cs_buf_put_u32(b, 0); /* no NULL among them */
    cs_buf_put_u32(b, type);
    cs_buf_put_u32(b, (uint32_t)n);
    cs_buf_put_u32(b, 1); /* the first one's index */
}

/* ---- connections ---- */

static void conn_free(struct conn *c)
{
    if (c == NULL)
        return;
    cs_pg_close(c->pg);
    for (size_t i = 0; i < NKINDS; i++) {
        cs_buf_free(&c->waiting[i].rows);
        cs_buf_free(&c->waiting[i].at);
    }
    free(c->heads);
    free(c->ahead);
    free(c);
}

/* Gives a place in the pool back. */
static void conn_drop(struct pg_store *st, struct conn *c)
{
    conn_free(c);
    pthread_mutex_lock(&st->lock);
    st->nopen--;
    pthread_cond_signal(&st->given_back);
    pthread_mutex_unlock(&st->lock);
}

static void conn_give_back(struct pg_store *st, struct conn *c)
{
    if (!cs_pg_alive(c->pg)) {
        conn_drop(st, c);
        return;
    }
    c->used = true;
    pthread_mutex_lock(&st->lock);
    c->next = st->idle;
    st->idle = c;
    pthread_cond_signal(&st->given_back);
    pthread_mutex_unlock(&st->lock);
}

/* Connections of a server that went away are found out one by one; the others of them are not worth a try. */
static void idle_drop(struct pg_store *st)
{
    struct conn *c;

    pthread_mutex_lock(&st->lock);
    c = st->idle;
    st->idle = NULL;
    pthread_mutex_unlock(&st->lock);
    while (c != NULL) {
        struct conn *next = c->next;

        conn_drop(st, c);
        c = next;
    }
}

/* In a place of the pool that was taken for it. */
static int conn_open(struct pg_store *st, struct conn **out, struct cs_error *err)
{
    struct conn *c = calloc(1, sizeof *c);
    struct cs_error why = { 0 };
    int rc;

    if (c == NULL)
        rc = cs_fail(&why, CS_ENOMEM, "out of memory");
    else
        rc = cs_pg_open(&c->pg, st->url, st->prepare, stmts, NSTMT, &why);
    if (rc == CS_OK) {
        c->store = st;
        *out = c;
        return CS_OK;
    }
    if (rc == CS_EUNAVAILABLE) { /* in a hub's words that is what cannot be reached; here it is the disk */
        why.code = rc = CS_EIO;
        pthread_mutex_lock(&st->lock);
        st->closed_until_ns = cs_monotonic_ns(st->world) + AGAIN_MS * UINT64_C(1000000);
        st->closed = why;
        pthread_mutex_unlock(&st->lock);
    }
    conn_drop(st, c);
    if (err != NULL)
        *err = why;
    return rc;
}

static int conn_take(struct pg_store *st, struct conn **out, struct cs_error *err)
{
    struct cs_error closed = { 0 };

    pthread_mutex_lock(&st->lock);
    while (st->idle == NULL && st->nopen == st->most)
        pthread_cond_wait(&st->given_back, &st->lock);
    if ((*out = st->idle) != NULL)
        st->idle = (*out)->next;
    else if (st->closed.code != CS_OK && cs_monotonic_ns(st->world) < st->closed_until_ns)
        closed = st->closed;
    else
        st->nopen++;
    pthread_mutex_unlock(&st->lock);
    if (*out != NULL)
        return CS_OK;
    if (closed.code == CS_OK)
        return conn_open(st, out, err);
    return cs_fail(err, closed.code, "%s", closed.msg);
}

/* ---- statements ---- */

static int lost(struct cs_error *err)
{
    return cs_fail(err, CS_EIO, "the transaction was lost; nothing of it is stored");
}

static int run(struct conn *c, struct cs_error *err)
{
    int rc = cs_pg_run(c->pg, err);

    c->lost = c->lost || rc != CS_OK;
    return rc;
}

static int damaged(struct conn *c, const char *what, struct cs_error *err)
{
    return cs_fail(err, CS_ECORRUPT, "a damaged %s in %s", what, c->store->name);
}

/* ---- rows that wait ---- */

static struct cs_buf *row_begin(struct conn *c, enum kind k)
{
    struct waiting *w = &c->waiting[k];
    size_t at = w->rows.len;

    cs_buf_put(&w->at, &at, sizeof at);
    w->n++;
    return &w->rows;
}

static const uint8_t *row_at(const struct waiting *w, size_t i)
{
    size_t at;

    memcpy(&at, w->at.data + i * sizeof at, sizeof at);
    return w->rows.data + at;
}

static int by_need(const void *a, const void *b)
{
    const struct cs_store_need *x = a, *y = b; /* the first member of what is sorted */
    int c = (x->kind > y->kind) - (x->kind < y->kind);

    if (c == 0 && (c = cs_uuid_cmp(&x->workspace, &y->workspace)) == 0)
        c = cs_uuid_cmp(&x->device, &y->device);
    return c != 0 ? c : (x->number > y->number) - (x->number < y->number);
}

static struct ahead *ahead_find(const struct conn *c, const struct cs_store_need *need)
{
    return c->nahead == 0 ? NULL : bsearch(need, c->ahead, c->nahead, sizeof *c->ahead, by_need);
}

/* Of the device whose row that is. */
static struct ahead *ahead_of_row(const struct conn *c, const uint8_t *row)
{
    struct cs_store_need need = { .kind = CS_NEED_DEVICE };

    memcpy(need.workspace.b, row + 4, 16);
    memcpy(need.device.b, row + 4 + 16 + 4, 16);
    return ahead_find(c, &need);
}

/* A row whose key stands in a later one that goes out with it. */
static bool row_is_superseded(const struct conn *c, enum kind k, size_t i, size_t end)
{
    const struct waiting *w = &c->waiting[k];
    const struct ahead *a = k == DEVICES ? ahead_of_row(c, row_at(w, i)) : NULL;

    /* what was undone has given its place up, perhaps to another's row */
    if (a != NULL && a->row > 0 && a->row <= end && memcmp(row_at(w, a->row - 1), row_at(w, i), kinds[k].key) == 0)
        return a->row - 1 > i;
    for (size_t j = i + 1; kinds[k].key > 0 && j < end; j++)
        if (memcmp(row_at(w, i), row_at(w, j), kinds[k].key) == 0)
            return true;
    return false;
}

/* Columns of a row that waits, read one after the other. */
static struct cs_slice column(const uint8_t **p)
{
    struct cs_slice v = cs_slice(*p + 4, cs_load_u32(*p));

    *p += 4 + v.len;
    return v;
}

static bool chunk_queue_large(struct conn *c, const uint8_t *row)
{
    struct cs_slice params[4];

    for (size_t i = 0; i < 4; i++)
        params[i] = column(&row);
    if (params[3].len <= LARGE)
        return false;
    cs_pg_queue(c->pg, S_PUT_CHUNK, params);
    return true;
}

static void rows_queue(struct conn *c, enum kind k, size_t from, size_t end)
{
    const struct waiting *w = &c->waiting[k];
    struct cs_buf col[CS_PG_MAX_PARAMS] = { 0 };
    struct cs_slice params[CS_PG_MAX_PARAMS];
    unsigned ncols = kinds[k].ncols;
    size_t n = 0;

    for (unsigned i = 0; i < ncols; i++)
        array_begin(&col[i], kinds[k].type[i], 0);
    for (size_t row = from; row < end && !w->rows.failed && !w->at.failed; row++) {
        const uint8_t *p = row_at(w, row);

        if (row_is_superseded(c, k, row, end) || (k == CHUNKS && chunk_queue_large(c, p)))
            continue;
        for (unsigned i = 0; i < ncols; i++) {
            size_t len = 4 + cs_load_u32(p);

            cs_buf_put(&col[i], p, len);
            p += len;
        }
        n++;
    }
    c->lost = c->lost || w->rows.failed || w->at.failed;
    for (unsigned i = 0; i < ncols; i++) {
        c->lost = c->lost || col[i].failed;
        if (!col[i].failed)
            cs_store_u32(col[i].data + 12, (uint32_t)n);
        params[i] = cs_buf_slice(&col[i]);
    }
    if (n > 0 && !c->lost)
        cs_pg_queue(c->pg, kinds[k].insert, params);
    for (unsigned i = 0; i < ncols; i++)
        cs_buf_free(&col[i]);
}

static void rows_forget(struct conn *c, enum kind k)
{
    struct waiting *w = &c->waiting[k];

    cs_buf_reset(&w->rows);
    cs_buf_reset(&w->at);
    w->n = w->saved = w->saved_len = 0;
}

static void savepoint_need(struct conn *c)
{
    if (c->saving && !c->savepoint)
        cs_pg_queue(c->pg, S_SAVE, NULL);
    c->savepoint = c->saving;
}

static void device_waiting(const uint8_t *p, struct cs_store_device *d);

/* Device rows are about to be sent: the store holds those that were kept; behind a savepoint nobody knows yet. */
static void ahead_sent(struct conn *c, size_t kept)
{
    const struct waiting *w = &c->waiting[DEVICES];

    for (size_t i = 0; i < w->n && !w->rows.failed && !w->at.failed; i++) {
        struct ahead *a = ahead_of_row(c, row_at(w, i));

        if (a == NULL)
            continue;
        a->row = 0;
        a->known = a->exists = i < kept;
        if (a->known)
            device_waiting(row_at(w, i), &a->device);
    }
}

/* Sends what waits, so that what comes next sees it: what was kept first, the rest behind the savepoint. */
static void flush(struct conn *c)
{
    bool open = false;

    for (enum kind k = 0; k < NKINDS; k++) {
        struct waiting *w = &c->waiting[k];
        size_t kept = c->saving ? w->saved : w->n;

        if (kept > 0)
            rows_queue(c, k, 0, kept);
        open = open || kept < w->n;
    }
    if (c->waiting[HEADS].n > 0)
        c->heads_moved = true;
    ahead_sent(c, c->saving ? c->waiting[DEVICES].saved : c->waiting[DEVICES].n);
    if (open)
        savepoint_need(c);
    for (enum kind k = 0; k < NKINDS; k++) {
        struct waiting *w = &c->waiting[k];

        if (c->saving && w->saved < w->n)
            rows_queue(c, k, w->saved, w->n);
        rows_forget(c, k);
    }
}

static void flush_when_enough(struct conn *c)
{
    size_t bytes = 0;

    for (enum kind k = 0; k < NKINDS; k++)
        bytes += c->waiting[k].rows.len;
    if (!c->saving && bytes >= ENOUGH)
        flush(c);
}

/* A row of the kind that begins with these columns and waits, the latest; or NULL. */
static const uint8_t *row_find(const struct conn *c, enum kind k, struct cs_slice key)
{
    const struct waiting *w = &c->waiting[k];

    if (w->rows.failed || w->at.failed)
        return NULL;
    for (size_t i = w->n; i-- > 0;)
        if (memcmp(row_at(w, i), key.data, key.len) == 0)
            return row_at(w, i);
    return NULL;
}

/* What must be seen by the next statement: an error means that the transaction is lost. */
static int write_begin(struct conn *c, struct cs_error *err)
{
    return c->lost ? lost(err) : CS_OK;
}

static int write_end(struct conn *c, enum kind k, struct cs_error *err)
{
    if (c->waiting[k].rows.failed || c->waiting[k].at.failed) {
        c->lost = true;
        return cs_fail(err, CS_ENOMEM, "out of memory");
    }
    flush_when_enough(c);
    return c->lost ? lost(err) : CS_OK;
}

/* A statement of its own, in the order in which things are put. */
static int write_now(struct conn *c, enum stmt s, const struct cs_slice *params, struct cs_error *err)
{
    if (c->lost)
        return lost(err);
    flush(c);
    savepoint_need(c);
    cs_pg_queue(c->pg, s, params);
    return CS_OK;
}

/* A read that needs nothing of what waits. */
static int read_now(struct conn *c, enum stmt s, const struct cs_slice *params, struct cs_error *err)
{
    if (c->lost)
        return lost(err);
    cs_pg_queue(c->pg, s, params);
    return run(c, err);
}

static int read_all(struct conn *c, enum stmt s, const struct cs_slice *params, struct cs_error *err)
{
    if (!c->lost)
        flush(c);
    return read_now(c, s, params, err);
}

/* ---- transactions ---- */

static int head_row(struct conn *c, size_t row, struct cs_uuid *ws, struct cs_store_head *h, struct cs_error *err)
{
    int64_t v[13] = { 0 };
    bool good = cs_pg_bytes(c->pg, row, 0, ws->b, 16) && cs_pg_bytes(c->pg, row, 4, h->log_hash, 32) &&
                cs_pg_bytes(c->pg, row, 8, h->entry_hash, 32);

    for (unsigned i = 1; i < 13; i++)
        good = good && (i == 4 || i == 8 || cs_pg_i64(c->pg, row, i, &v[i]));
    if (!good)
        return damaged(c, "workspace", err);
    h->log_id = (uint64_t)v[1];
    h->refilled = (uint64_t)v[2];
    h->number = (uint64_t)v[3];
    h->top_stamp = v[5];
    h->member_seq = (uint32_t)v[6];
    h->epoch = (uint32_t)v[7];
    h->bytes = (uint64_t)v[9];
    h->pruned = (uint64_t)v[10];
    h->prune_to = (uint64_t)v[11];
    h->prune_ms = v[12];
    return CS_OK;
}

static int by_workspace(const void *key, const void *item)
{
    return cs_uuid_cmp(key, &((const struct known_head *)item)->workspace);
}

static struct known_head *head_known(const struct conn *c, const struct cs_uuid *ws)
{
    return c->nheads == 0 ? NULL : bsearch(ws, c->heads, c->nheads, sizeof *c->heads, by_workspace);
}

static int heads_take(struct conn *c, struct cs_error *err)
{
    size_t n = cs_pg_rows(c->pg);

    for (size_t i = 0; i < n; i++) {
        struct cs_store_head head = { 0 };
        struct known_head *known;
        struct cs_uuid ws;
        int rc = head_row(c, i, &ws, &head, err);

        if (rc != CS_OK)
            return rc;
        if ((known = head_known(c, &ws)) == NULL)
            return damaged(c, "workspace", err);
        known->head = head;
        known->exists = true;
    }
    return CS_OK;
}

/* Asks for the heads of those that are not known to exist. */
static void heads_queue(struct conn *c, enum stmt s)
{
    struct cs_buf ids = { 0 };
    struct cs_slice param;
    size_t n = 0;

    for (size_t i = 0; i < c->nheads; i++)
        n += !c->heads[i].exists;
    array_begin(&ids, OID_UUID, n);
    for (size_t i = 0; i < c->nheads; i++)
        if (!c->heads[i].exists)
            put_column(&ids, uuid_value(&c->heads[i].workspace));
    c->lost = c->lost || ids.failed;
    param = cs_buf_slice(&ids);
    if (!c->lost)
        cs_pg_queue(c->pg, s, &param);
    cs_buf_free(&ids);
}

/* Whoever makes a workspace holds this lock; behind it the row is there, or will not be before we end. */
static int heads_lock_new(struct conn *c, struct cs_error *err)
{
    struct cs_buf keys = { 0 };
    struct cs_slice param;
    size_t n = 0;
    int rc;

    for (size_t i = 0; i < c->nheads; i++)
        n += !c->heads[i].exists;
    if (n == 0)
        return CS_OK;
    array_begin(&keys, OID_INT8, n);
    for (size_t i = 0; i < c->nheads; i++)
        if (!c->heads[i].exists)
            put_u64(&keys, cs_load_u64(c->heads[i].workspace.b) ^ cs_load_u64(c->heads[i].workspace.b + 8));
    c->lost = c->lost || keys.failed;
    param = cs_buf_slice(&keys);
    if (!c->lost)
        cs_pg_queue(c->pg, S_LOCK_NEW, &param);
    cs_buf_free(&keys);
    heads_queue(c, S_HEADS_LOCKED);
    if (c->lost)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    rc = run(c, err);
    return rc == CS_OK ? heads_take(c, err) : rc;
}

static int heads_reserve(struct conn *c, const struct cs_uuid *workspaces, size_t n, struct cs_error *err)
{
    struct known_head *more = realloc(c->heads, (n == 0 ? 1 : n) * sizeof *more);

    if (more == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    c->heads = more;
    c->nheads = n;
    for (size_t i = 0; i < n; i++)
        c->heads[i] = (struct known_head){ .workspace = workspaces[i] };
    return CS_OK;
}

/* {id,id,…}: what row-level security lets this transaction see. */
static int names_queue(struct conn *c, struct cs_error *err)
{
    struct cs_buf names = { 0 };
    char id[CS_UUID_TEXT];
    struct cs_slice param;
    bool failed;

    cs_buf_put_u8(&names, '{');
    for (size_t i = 0; i < c->nheads; i++) {
        cs_uuid_text(id, &c->heads[i].workspace);
        cs_buf_printf(&names, "%s%s", i == 0 ? "" : ",", id);
    }
    cs_buf_put_u8(&names, '}');
    param = cs_buf_slice(&names);
    if (!(failed = names.failed))
        cs_pg_queue(c->pg, S_SET, &param);
    cs_buf_free(&names);
    return failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

static int tx_start(struct conn *c, enum cs_store_mode mode, const struct cs_uuid *workspaces, size_t n,
                    struct cs_error *err)
{
    int rc;

    c->mode = mode;
    c->lost = c->saving = c->savepoint = c->heads_moved = false;
    c->nahead = 0;
    for (enum kind k = 0; k < NKINDS; k++)
        rows_forget(c, k);
    if ((rc = heads_reserve(c, workspaces, n, err)) != CS_OK)
        return rc;
    cs_pg_queue(c->pg, mode == CS_STORE_READ ? S_BEGIN_READ : S_BEGIN_WRITE, NULL);
    if ((rc = names_queue(c, err)) != CS_OK)
        return rc;
    heads_queue(c, mode == CS_STORE_READ ? S_HEADS : S_HEADS_LOCKED);
    if (c->lost)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if ((rc = run(c, err)) == CS_OK)
        rc = heads_take(c, err);
    if (rc == CS_OK && mode == CS_STORE_WRITE)
        rc = heads_lock_new(c, err);
    return rc;
}

static void tx_abandon(struct conn *c)
{
    cs_pg_abandon(c->pg, S_ROLLBACK);
    conn_give_back(c->store, c);
}

static int pg_begin(void *self, enum cs_store_mode mode, const struct cs_uuid *workspaces, size_t n, cs_store_tx **out,
                    struct cs_error *err)
{
    struct pg_store *st = self;
    struct conn *c;

    *out = NULL;
    for (;;) {
        bool stale;
        int rc = conn_take(st, &c, err);

        if (rc != CS_OK)
            return rc;
        if ((rc = tx_start(c, mode, workspaces, n, err)) == CS_OK) {
            c->tx.ops = &pg_ops;
            *out = &c->tx;
            return CS_OK;
        }
        stale = c->used && !cs_pg_alive(c->pg); /* the server was another one when it was last used */
        tx_abandon(c);
        if (!stale)
            return rc;
        idle_drop(st);
    }
}

static void pg_rollback(cs_store_tx *tx)
{
    tx_abandon((struct conn *)tx);
}

static int pg_commit(cs_store_tx *tx, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    int rc = CS_OK;

    if (!c->lost)
        flush(c);
    if (c->lost) {
        rc = lost(err);
    } else {
        cs_pg_queue(c->pg, S_COMMIT, NULL);
        rc = run(c, err);
    }
    if (rc == CS_OK)
        conn_give_back(c->store, c);
    else
        tx_abandon(c);
    return rc;
}

static int pg_save(cs_store_tx *tx, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;

    if (c->lost)
        return lost(err);
    flush_when_enough(c);
    c->saving = true;
    c->savepoint = false;
    for (enum kind k = 0; k < NKINDS; k++) {
        c->waiting[k].saved = c->waiting[k].n;
        c->waiting[k].saved_len = c->waiting[k].rows.len;
    }
    return CS_OK;
}

static int pg_keep(cs_store_tx *tx, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;

    if (c->lost)
        return lost(err);
    if (c->savepoint)
        cs_pg_queue(c->pg, S_KEEP, NULL);
    c->saving = c->savepoint = false;
    return CS_OK;
}

static int pg_undo(cs_store_tx *tx, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;

    if (c->lost)
        return lost(err);
    if (c->savepoint) { /* ROLLBACK TO leaves it open */
        cs_pg_queue(c->pg, S_UNDO, NULL);
        cs_pg_queue(c->pg, S_KEEP, NULL);
    }
    c->saving = c->savepoint = false;
    for (enum kind k = 0; k < NKINDS; k++) {
        struct waiting *w = &c->waiting[k];

        w->n = w->saved;
        w->rows.len = w->saved_len;
        w->at.len = w->n * sizeof(size_t);
    }
    return CS_OK;
}

/* ---- reads ---- */

static int missing(const char *what, struct cs_error *err)
{
    return cs_fail(err, CS_ENOTFOUND, "no such %s", what);
}

static uint64_t column_u64(const uint8_t **p)
{
    return cs_load_u64(column(p).data);
}

static void head_waiting(const uint8_t *p, struct cs_store_head *h)
{
    column(&p);
    h->log_id = column_u64(&p);
    h->refilled = column_u64(&p);
    h->number = column_u64(&p);
    memcpy(h->log_hash, column(&p).data, 32);
    h->top_stamp = (int64_t)column_u64(&p);
    h->member_seq = (uint32_t)column_u64(&p);
    h->epoch = (uint32_t)column_u64(&p);
    memcpy(h->entry_hash, column(&p).data, 32);
    h->bytes = column_u64(&p);
    h->pruned = column_u64(&p);
    h->prune_to = column_u64(&p);
    h->prune_ms = (int64_t)column_u64(&p);
}

static int pg_head(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_store_head *out, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    const struct known_head *known = c->heads_moved ? NULL : head_known(c, ws);
    uint8_t key[4 + 16] = { 0, 0, 0, 16 };
    struct cs_buf id = { 0 };
    struct cs_slice param;
    struct cs_uuid again;
    const uint8_t *row;
    int rc;

    if (c->lost)
        return lost(err);
    memcpy(key + 4, ws->b, 16);
    if ((row = row_find(c, HEADS, cs_slice(key, sizeof key))) != NULL) {
        head_waiting(row, out);
        return CS_OK;
    }
    if (known != NULL) {
        *out = known->head;
        return known->exists ? CS_OK : missing("workspace", err);
    }
    array_begin(&id, OID_UUID, 1);
    put_column(&id, uuid_value(ws));
    param = cs_buf_slice(&id);
    rc = id.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : read_now(c, S_HEADS, &param, err);
    cs_buf_free(&id);
    if (rc != CS_OK)
        return rc;
    return cs_pg_rows(c->pg) == 0 ? missing("workspace", err) : head_row(c, 0, &again, out, err);
}

static void device_waiting(const uint8_t *p, struct cs_store_device *d)
{
    column(&p);
    column(&p);
    d->number = column_u64(&p);
    memcpy(d->hash, column(&p).data, 32);
    d->member_seq = (uint32_t)column_u64(&p);
    d->seen_ms = (int64_t)column_u64(&p);
    d->pulled = column_u64(&p);
}

static int device_row(struct conn *c, size_t row, struct cs_store_device *out, struct cs_error *err)
{
    int64_t number, member_seq, pulled;

    if (!cs_pg_i64(c->pg, row, 0, &number) || !cs_pg_bytes(c->pg, row, 1, out->hash, 32) ||
        !cs_pg_i64(c->pg, row, 2, &member_seq) || !cs_pg_i64(c->pg, row, 3, &out->seen_ms) ||
        !cs_pg_i64(c->pg, row, 4, &pulled))
        return damaged(c, "device", err);
    out->number = (uint64_t)number;
    out->member_seq = (uint32_t)member_seq;
    out->pulled = (uint64_t)pulled;
    return CS_OK;
}

/* ---- reading ahead ---- */

static int ahead_reserve(struct conn *c, const struct cs_store_need *needs, size_t n, struct cs_error *err)
{
    struct ahead *more = realloc(c->ahead, n * sizeof *more);
    size_t kept = 0;

    if (more == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    c->ahead = more;
    for (size_t i = 0; i < n; i++)
        more[i] = (struct ahead){ .need = needs[i] };
    qsort(more, n, sizeof *more, by_need);
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || by_need(&more[kept - 1], &more[i]) != 0)
            more[kept++] = more[i];
    c->nahead = kept;
    return CS_OK;
}

/* Asks for all of them: by kind, where, which one, and its place in c->ahead. */
static int ahead_queue(struct conn *c, struct cs_error *err)
{
    struct cs_buf col[9] = { 0 };
    struct cs_slice params[9];
    size_t n[3] = { 0 };
    bool failed = false;

    for (size_t i = 0; i < c->nahead; i++)
        n[c->ahead[i].need.kind]++;
    for (unsigned i = 0; i < 9; i++)
        array_begin(&col[i], i == 1 || i % 3 == 0 ? OID_UUID : OID_INT8, n[i / 3]);
    for (size_t i = 0; i < c->nahead; i++) {
        const struct cs_store_need *need = &c->ahead[i].need;
        struct cs_buf *to = &col[3 * need->kind];

        put_column(&to[0], uuid_value(&need->workspace));
        if (need->kind == CS_NEED_DEVICE)
            put_column(&to[1], uuid_value(&need->device));
        else
            put_u64(&to[1], need->number);
        put_u64(&to[2], i);
    }
    for (unsigned i = 0; i < 9; i++) {
        failed = failed || col[i].failed;
        params[i] = cs_buf_slice(&col[i]);
    }
    if (!failed)
        cs_pg_queue(c->pg, S_FORESEE, params);
    for (unsigned i = 0; i < 9; i++)
        cs_buf_free(&col[i]);
    return failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

static bool ahead_row(struct conn *c, size_t row)
{
    int64_t at, number, member_seq, seen_ms, pulled;
    uint8_t hash[32];
    struct ahead *a;

    if (!cs_pg_i64(c->pg, row, 0, &at) || at < 0 || (uint64_t)at >= c->nahead || !cs_pg_i64(c->pg, row, 1, &number) ||
        !cs_pg_bytes(c->pg, row, 2, hash, sizeof hash) || !cs_pg_i64(c->pg, row, 3, &member_seq) ||
        !cs_pg_i64(c->pg, row, 4, &seen_ms) || !cs_pg_i64(c->pg, row, 5, &pulled))
        return false;
    a = &c->ahead[at];
    a->exists = true;
    if (a->need.kind != CS_NEED_DEVICE) {
        memcpy(a->hash, hash, sizeof hash);
        return true;
    }
    a->device = (struct cs_store_device){
        .number = (uint64_t)number, .member_seq = (uint32_t)member_seq, .seen_ms = seen_ms, .pulled = (uint64_t)pulled
    };
    memcpy(a->device.hash, hash, sizeof hash);
    return true;
}

static int pg_foresee(cs_store_tx *tx, const struct cs_store_need *needs, size_t n, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    int rc;

    if (c->lost)
        return lost(err);
    if ((rc = ahead_reserve(c, needs, n, err)) != CS_OK)
        return rc;
    if ((rc = ahead_queue(c, err)) == CS_OK)
        rc = run(c, err);
    for (size_t i = 0; rc == CS_OK && i < cs_pg_rows(c->pg); i++)
        if (!ahead_row(c, i))
            rc = damaged(c, "row", err);
    for (size_t i = 0; rc == CS_OK && i < c->nahead; i++)
        c->ahead[i].known = true;
    if (rc != CS_OK)
        c->nahead = 0;
    return rc;
}

/* The device's latest row that waits, or NULL. */
static const uint8_t *device_find(const struct conn *c, const struct ahead *a, struct cs_slice key)
{
    const struct waiting *w = &c->waiting[DEVICES];

    if (a == NULL || w->rows.failed || w->at.failed)
        return row_find(c, DEVICES, key);
    if (a->row == 0)
        return NULL;
    if (a->row <= w->n && memcmp(row_at(w, a->row - 1), key.data, key.len) == 0)
        return row_at(w, a->row - 1);
    return row_find(c, DEVICES, key);
}

static int pg_device(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                     struct cs_store_device *out, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    uint8_t key[2 * (4 + 16)] = { 0, 0, 0, 16, [23] = 16 };
    struct cs_slice params[] = { uuid_value(ws), uuid_value(device) };
    const struct ahead *a;
    const uint8_t *row;
    int rc;

    memcpy(key + 4, ws->b, 16);
    memcpy(key + 24, device->b, 16);
    a = ahead_of_row(c, key);
    if (!c->lost && (row = device_find(c, a, cs_slice(key, sizeof key))) != NULL) {
        device_waiting(row, out);
        return CS_OK;
    }
    if (!c->lost && a != NULL && a->known) {
        if (!a->exists)
            return missing("device", err);
        *out = a->device;
        return CS_OK;
    }
    if ((rc = read_now(c, S_DEVICE, params, err)) != CS_OK)
        return rc;
    if (cs_pg_rows(c->pg) == 0)
        return missing("device", err);
    return device_row(c, 0, out, err);
}

/* A hash under (workspace, number): one that was foreseen, as such rows never change, of a row of the kind that waits
 * (where it stands behind `skip` more columns), or of one that is stored. */
static int hash_at(struct conn *c, enum kind k, unsigned skip, enum stmt s, const struct cs_uuid *ws, uint64_t number,
                   uint8_t out[32], const char *what, struct cs_error *err)
{
    uint8_t n[8], key[4 + 16 + 4 + 8] = { 0, 0, 0, 16, [23] = 8 };
    struct cs_slice params[] = { uuid_value(ws), u64_value(n, number) };
    struct cs_store_need need = { k == BATCHES ? CS_NEED_LOG_HASH : CS_NEED_ENTRY_HASH, *ws, { { 0 } }, number };
    const struct ahead *a = ahead_find(c, &need);
    const uint8_t *row;
    int rc;

    if (!c->lost && a != NULL && a->known && a->exists) {
        memcpy(out, a->hash, 32);
        return CS_OK;
    }
    memcpy(key + 4, ws->b, 16);
    memcpy(key + 24, n, 8);
    if (!c->lost && (row = row_find(c, k, cs_slice(key, sizeof key))) != NULL) {
        for (unsigned i = 0; i < 2 + skip; i++)
            column(&row);
        memcpy(out, column(&row).data, 32);
        return CS_OK;
    }
    if ((rc = read_now(c, s, params, err)) != CS_OK)
        return rc;
    if (cs_pg_rows(c->pg) == 0)
        return missing(what, err);
    return cs_pg_bytes(c->pg, 0, 0, out, 32) ? CS_OK : damaged(c, what, err);
}

static int pg_log_hash(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t number, uint8_t out[32],
                       struct cs_error *err)
{
    return hash_at((struct conn *)tx, BATCHES, 3, S_LOG_HASH, ws, number, out, "log entry", err);
}
static int pg_entry_hash(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t seq, uint8_t out[32], struct cs_error *err)
{
    return hash_at((struct conn *)tx, ENTRIES, 0, S_ENTRY_HASH, ws, seq, out, "membership entry", err);
}

static bool batch_row(const struct conn *c, size_t row, struct cs_store_batch *b)
{
    int64_t number, device_number;

    *b = (struct cs_store_batch){ .header = cs_pg_value(c->pg, row, 5),
                                  .signature = cs_pg_value(c->pg, row, 6),
                                  .payload_hashes = cs_pg_value(c->pg, row, 7),
                                  .entity_type = cs_pg_value(c->pg, row, 8) };
    if (!cs_pg_i64(c->pg, row, 0, &number) || !cs_pg_bytes(c->pg, row, 1, b->device.b, 16) ||
        !cs_pg_i64(c->pg, row, 2, &device_number) || !cs_pg_bytes(c->pg, row, 3, b->hash, 32) ||
        !cs_pg_bytes(c->pg, row, 4, b->log_hash, 32))
        return false;
    b->number = (uint64_t)number;
    b->device_number = (uint64_t)device_number;
    return true;
}

static int pg_device_batch(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                           uint64_t device_number, cs_store_visit_batch *visit, void *arg, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    uint8_t n[8];
    struct cs_slice params[] = { uuid_value(ws), uuid_value(device), u64_value(n, device_number) };
    struct cs_store_batch b;
    int rc = read_all(c, S_DEVICE_BATCH, params, err);

    if (rc != CS_OK)
        return rc;
    if (cs_pg_rows(c->pg) == 0)
        return missing("batch", err);
    if (!batch_row(c, 0, &b))
        return damaged(c, "batch", err);
    visit(arg, &b);
    return CS_OK;
}

/* A long read, a page at a time: `row` visits one, says where the next page begins, and whether to go on. */
struct paging {
    struct conn *c;
    enum stmt stmt;
    struct cs_uuid ws;
    uint64_t fixed[2]; /* the numbers between the workspace and the limit; which of them moves */
    unsigned moves;
    size_t page, most;
    int (*row)(struct paging *p, size_t i, bool *more, struct cs_error *err);
    void *visit_arg;
    cs_store_visit_batch *visit_batch;
    bool (*visit_part)(void *arg, uint32_t seq, struct cs_slice v);
    cs_store_visit_bucket *visit_bucket;
};

static int pages(struct paging *p, struct cs_error *err)
{
    bool more = true;

    while (more) {
        uint8_t a[8], b[8], limit[8];
        struct cs_slice params[] = { uuid_value(&p->ws), u64_value(a, p->fixed[0]), u64_value(b, p->fixed[1]),
                                     u64_value(limit, p->page) };
        int rc = read_all(p->c, p->stmt, params, err);
        size_t n;

        if (rc != CS_OK)
            return rc;
        n = cs_pg_rows(p->c->pg);
        more = n == p->page;
        for (size_t i = 0; i < n; i++) {
            bool on = false;

            if ((rc = p->row(p, i, &on, err)) != CS_OK || !on)
                return rc;
        }
        p->page = p->page * 2 < p->most ? p->page * 2 : p->most;
    }
    return CS_OK;
}

static int page_batch(struct paging *p, size_t i, bool *more, struct cs_error *err)
{
    struct cs_store_batch b;

    if (!batch_row(p->c, i, &b))
        return damaged(p->c, "batch", err);
    p->fixed[p->moves] = b.number + 1;
    *more = p->visit_batch(p->visit_arg, &b);
    return CS_OK;
}

static int page_part(struct paging *p, size_t i, bool *more, struct cs_error *err)
{
    int64_t seq;

    if (!cs_pg_i64(p->c->pg, i, 0, &seq) || seq < 0 || seq > UINT32_MAX)
        return damaged(p->c, "row", err);
    p->fixed[p->moves] = (uint64_t)seq + 1;
    *more = p->visit_part(p->visit_arg, (uint32_t)seq, cs_pg_value(p->c->pg, i, 1));
    return CS_OK;
}

static int pg_batches(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t from, uint64_t to,
                      cs_store_visit_batch *visit, void *arg, struct cs_error *err)
{
    struct paging p = { .c = (struct conn *)tx,
                        .stmt = S_BATCHES,
                        .ws = *ws,
                        .fixed = { from, to },
                        .page = PAGE_FIRST,
                        .most = PAGE_MOST,
                        .row = page_batch,
                        .visit_arg = arg,
                        .visit_batch = visit };

    return pages(&p, err);
}

static int pg_chunks(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t from, uint32_t seq, uint64_t to, uint32_t most,
                     cs_store_visit_chunk *visit, void *arg, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;

    while (most > 0) {
        uint32_t page = most < PAGE_MOST ? most : PAGE_MOST;
        uint8_t n[4][8];
        struct cs_slice params[] = { uuid_value(ws), u64_value(n[0], from), u64_value(n[1], seq), u64_value(n[2], to),
                                     u64_value(n[3], page) };
        int rc = read_all(c, S_CHUNKS, params, err);
        size_t rows;

        if (rc != CS_OK)
            return rc;
        rows = cs_pg_rows(c->pg);
        for (size_t i = 0; i < rows; i++) {
            int64_t at[2];

            if (!cs_pg_i64(c->pg, i, 0, &at[0]) || !cs_pg_i64(c->pg, i, 1, &at[1]) || at[1] < 0 || at[1] >= UINT32_MAX)
                return damaged(c, "chunk", err);
            if (!visit(arg, (uint64_t)at[0], (uint32_t)at[1], cs_pg_value(c->pg, i, 2)))
                return CS_OK;
            from = (uint64_t)at[0];
            seq = (uint32_t)at[1] + 1;
        }
        most = rows < page ? 0 : most - page;
    }
    return CS_OK;
}

static int pg_entries(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t from, uint32_t to,
                      cs_store_visit_entry *visit, void *arg, struct cs_error *err)
{
    struct paging p = { .c = (struct conn *)tx,
                        .stmt = S_ENTRIES,
                        .ws = *ws,
                        .fixed = { from, to },
                        .page = PAGE_FIRST,
                        .most = PAGE_MOST,
                        .row = page_part,
                        .visit_arg = arg,
                        .visit_part = visit };

    return pages(&p, err);
}

static int pg_offers(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_offer *visit, void *arg,
                     struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_slice param = uuid_value(ws);
    struct cs_store_offer o;
    int rc = read_all(c, S_OFFERS, &param, err);

    for (size_t i = 0; rc == CS_OK && i < cs_pg_rows(c->pg); i++) {
        o = (struct cs_store_offer){ .offer = cs_pg_value(c->pg, i, 2),
                                     .answer = cs_pg_value(c->pg, i, 3),
                                     .reveal = cs_pg_value(c->pg, i, 4),
                                     .done = cs_pg_value(c->pg, i, 5) };
        if (!cs_pg_bytes(c->pg, i, 0, o.device.b, 16) || !cs_pg_i64(c->pg, i, 1, &o.made_ms))
            return damaged(c, "offer", err);
        if (!visit(arg, &o))
            break;
    }
    return rc;
}

static int pg_workspaces(cs_store_tx *tx, const struct cs_uuid *after, cs_store_visit_workspace *visit, void *arg,
                         struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_uuid at = *after;
    uint8_t limit[8];
    bool more = true;
    int rc = CS_OK;

    if (!c->lost)
        cs_pg_queue(c->pg, S_OPERATOR, NULL);
    while (more && rc == CS_OK) {
        struct cs_slice params[] = { uuid_value(&at), u64_value(limit, PAGE_MOST) };
        size_t n;

        if ((rc = read_now(c, S_WORKSPACES, params, err)) != CS_OK)
            return rc;
        n = cs_pg_rows(c->pg);
        more = n == PAGE_MOST;
        for (size_t i = 0; i < n; i++) {
            struct cs_store_head head = { 0 };

            if ((rc = head_row(c, i, &at, &head, err)) != CS_OK || !visit(arg, &at, &head))
                return rc;
        }
    }
    return rc;
}

static int pg_reference(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_store_reference *out, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_slice param = uuid_value(ws);
    int64_t log_id, number, epoch, whole, only_prove, rows, given;
    int rc = read_now(c, S_REFERENCE, &param, err);

    if (rc != CS_OK)
        return rc;
    if (cs_pg_rows(c->pg) == 0)
        return missing("reference", err);
    if (!cs_pg_i64(c->pg, 0, 0, &log_id) || !cs_pg_i64(c->pg, 0, 1, &number) || !cs_pg_i64(c->pg, 0, 2, &epoch) ||
        !cs_pg_bytes(c->pg, 0, 3, out->device.b, 16) || !cs_pg_i64(c->pg, 0, 4, &whole) ||
        !cs_pg_i64(c->pg, 0, 5, &only_prove) || !cs_pg_i64(c->pg, 0, 6, &out->changed_ms) ||
        !cs_pg_i64(c->pg, 0, 7, &rows) || !cs_pg_i64(c->pg, 0, 8, &given))
        return damaged(c, "reference", err);
    out->log_id = (uint64_t)log_id;
    out->number = (uint64_t)number;
    out->epoch = (uint32_t)epoch;
    out->whole = whole != 0;
    out->only_prove = only_prove != 0;
    out->rows = (uint64_t)rows;
    out->given = (uint64_t)given;
    return CS_OK;
}

static int page_bucket(struct paging *p, size_t i, bool *more, struct cs_error *err)
{
    struct cs_store_bucket b = { .leaves = cs_pg_value(p->c->pg, i, 3) };
    int64_t prefix, rows;

    if (!cs_pg_i64(p->c->pg, i, 0, &prefix) || prefix < 0 || prefix > UINT16_MAX || !cs_pg_i64(p->c->pg, i, 1, &rows) ||
        !cs_pg_bytes(p->c->pg, i, 2, b.sum, sizeof b.sum))
        return damaged(p->c, "bucket", err);
    b.prefix = (uint32_t)prefix;
    b.rows = (uint32_t)rows;
    p->fixed[0] = b.prefix + 1;
    *more = p->visit_bucket(p->visit_arg, &b);
    return CS_OK;
}

static int pg_bucket_sums(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t first, uint32_t last,
                          cs_store_visit_bucket *visit, void *arg, struct cs_error *err)
{
    struct paging p = { .c = (struct conn *)tx,
                        .stmt = S_BUCKET_SUMS,
                        .ws = *ws,
                        .fixed = { first, last },
                        .page = PAGE_SUMS,
                        .most = PAGE_SUMS,
                        .row = page_bucket,
                        .visit_arg = arg,
                        .visit_bucket = visit };

    return pages(&p, err);
}
static int pg_bucket_leaves(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t first, uint32_t last,
                            cs_store_visit_bucket *visit, void *arg, struct cs_error *err)
{
    struct paging p = { .c = (struct conn *)tx,
                        .stmt = S_BUCKET_LEAVES,
                        .ws = *ws,
                        .fixed = { first, last },
                        .page = PAGE_FIRST,
                        .most = PAGE_MOST,
                        .row = page_bucket,
                        .visit_arg = arg,
                        .visit_bucket = visit };

    return pages(&p, err);
}

static int pg_wanted(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device, cs_store_visit_tag *visit,
                     void *arg, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_slice params[] = { uuid_value(ws), uuid_value(device) };
    int rc = read_all(c, S_WANTED, params, err);

    for (size_t i = 0; rc == CS_OK && i < cs_pg_rows(c->pg); i++) {
        uint8_t tag[16];
        int64_t epoch;

        if (!cs_pg_i64(c->pg, i, 0, &epoch) || !cs_pg_bytes(c->pg, i, 1, tag, sizeof tag))
            return damaged(c, "wanted entity", err);
        if (!visit(arg, (uint32_t)epoch, tag))
            break;
    }
    return rc;
}

static int pg_proofs(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_proof *visit, void *arg,
                     struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_slice param = uuid_value(ws);
    int rc = read_all(c, S_PROOFS, &param, err);

    for (size_t i = 0; rc == CS_OK && i < cs_pg_rows(c->pg); i++) {
        struct cs_store_proof p = { .proof = cs_pg_value(c->pg, i, 4) };
        int64_t log_id, number, given;

        if (!cs_pg_bytes(c->pg, i, 0, p.device.b, 16) || !cs_pg_i64(c->pg, i, 1, &log_id) ||
            !cs_pg_i64(c->pg, i, 2, &number) || !cs_pg_i64(c->pg, i, 3, &given))
            return damaged(c, "proof", err);
        p.log_id = (uint64_t)log_id;
        p.number = (uint64_t)number;
        p.given = (uint64_t)given;
        if (!visit(arg, &p))
            break;
    }
    return rc;
}

static int pg_devices(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_device *visit, void *arg,
                      struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_slice param = uuid_value(ws);
    int rc = read_all(c, S_DEVICES, &param, err);

    for (size_t i = 0; rc == CS_OK && i < cs_pg_rows(c->pg); i++) {
        struct cs_store_device d = { 0 };
        struct cs_uuid id;

        if ((rc = device_row(c, i, &d, err)) != CS_OK)
            return rc;
        if (!cs_pg_bytes(c->pg, i, 5, id.b, 16))
            return damaged(c, "device", err);
        if (!visit(arg, &id, &d))
            break;
    }
    return rc;
}

static int pg_snapshots(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_snapshot *visit, void *arg,
                        struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_slice param = uuid_value(ws);
    int rc = read_all(c, S_SNAPSHOTS, &param, err);

    for (size_t i = 0; rc == CS_OK && i < cs_pg_rows(c->pg); i++) {
        struct cs_store_snapshot s = { .descriptor = cs_pg_value(c->pg, i, 10),
                                       .attestation = cs_pg_value(c->pg, i, 11) };
        int64_t slot, state, log_id, number, parts, bytes;

        if (!cs_pg_i64(c->pg, i, 0, &slot) || slot < 0 || slot >= CS_SNAPSHOT_SLOTS ||
            !cs_pg_i64(c->pg, i, 1, &state) || state < 0 || state > CS_SNAPSHOT_SERVED ||
            !cs_pg_i64(c->pg, i, 2, &log_id) || !cs_pg_i64(c->pg, i, 3, &number) ||
            !cs_pg_bytes(c->pg, i, 4, s.device.b, 16) || !cs_pg_i64(c->pg, i, 5, &parts) ||
            !cs_pg_bytes(c->pg, i, 6, s.digest, 32) || !cs_pg_i64(c->pg, i, 7, &bytes) ||
            !cs_pg_i64(c->pg, i, 8, &s.changed_ms) || !cs_pg_bytes(c->pg, i, 9, s.attester.b, 16))
            return damaged(c, "snapshot", err);
        s.slot = (unsigned)slot;
        s.state = (enum cs_snapshot_state)state;
        s.log_id = (uint64_t)log_id;
        s.number = (uint64_t)number;
        s.parts = (uint32_t)parts;
        s.bytes = (uint64_t)bytes;
        if (!visit(arg, &s))
            break;
    }
    return rc;
}

static int pg_snapshot_parts(cs_store_tx *tx, const struct cs_uuid *ws, unsigned slot, uint32_t part, uint32_t seq,
                             cs_store_visit_part *visit, void *arg, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    bool more = true;

    while (more) {
        uint8_t n[4][8];
        struct cs_slice params[] = { uuid_value(ws), u64_value(n[0], slot), u64_value(n[1], part), u64_value(n[2], seq),
                                     u64_value(n[3], PAGE_CHUNKS) };
        int rc = read_all(c, S_PARTS, params, err);
        size_t rows;

        if (rc != CS_OK)
            return rc;
        rows = cs_pg_rows(c->pg);
        more = rows == PAGE_CHUNKS;
        for (size_t i = 0; i < rows; i++) {
            struct cs_store_part p = { .envelope = cs_pg_value(c->pg, i, 2), .payload = cs_pg_value(c->pg, i, 3) };
            int64_t at[2];

            if (!cs_pg_i64(c->pg, i, 0, &at[0]) || !cs_pg_i64(c->pg, i, 1, &at[1]))
                return damaged(c, "part of a snapshot", err);
            p.part = (uint32_t)at[0];
            p.seq = (uint32_t)at[1];
            if (!visit(arg, &p))
                return CS_OK;
            part = p.part;
            seq = p.seq + 1;
        }
    }
    return CS_OK;
}

/* ---- writes ---- */

static int pg_put_head(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_head *h, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_buf *row;
    int rc = write_begin(c, err);

    if (rc != CS_OK)
        return rc;
    row = row_begin(c, HEADS);
    put_column(row, uuid_value(ws));
    put_u64(row, h->log_id);
    put_u64(row, h->refilled);
    put_u64(row, h->number);
    put_column(row, cs_slice(h->log_hash, 32));
    put_u64(row, (uint64_t)h->top_stamp);
    put_u64(row, h->member_seq);
    put_u64(row, h->epoch);
    put_column(row, cs_slice(h->entry_hash, 32));
    put_u64(row, h->bytes);
    put_u64(row, h->pruned);
    put_u64(row, h->prune_to);
    put_u64(row, (uint64_t)h->prune_ms);
    return write_end(c, HEADS, err);
}

static int pg_put_device(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                         const struct cs_store_device *d, struct cs_error *err)
{
    struct cs_store_need need = { CS_NEED_DEVICE, *ws, *device, 0 };
    struct conn *c = (struct conn *)tx;
    struct ahead *a;
    struct cs_buf *row;
    int rc = write_begin(c, err);

    if (rc != CS_OK)
        return rc;
    row = row_begin(c, DEVICES);
    if ((a = ahead_find(c, &need)) != NULL)
        a->row = c->waiting[DEVICES].n;
    put_column(row, uuid_value(ws));
    put_column(row, uuid_value(device));
    put_u64(row, d->number);
    put_column(row, cs_slice(d->hash, 32));
    put_u64(row, d->member_seq);
    put_u64(row, (uint64_t)d->seen_ms);
    put_u64(row, d->pulled);
    return write_end(c, DEVICES, err);
}

static int put_chunks(struct conn *c, const struct cs_uuid *ws, uint64_t number, const struct cs_slice *chunks,
                      size_t n, struct cs_error *err)
{
    int rc = CS_OK;

    for (size_t i = 0; rc == CS_OK && i < n; i++) {
        struct cs_buf *row = row_begin(c, CHUNKS);

        put_column(row, uuid_value(ws));
        put_u64(row, number);
        put_u64(row, i);
        put_column(row, chunks[i]);
        rc = write_end(c, CHUNKS, err);
    }
    return rc;
}

static int pg_put_batch(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_batch *b,
                        const struct cs_slice *chunks, size_t nchunks, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_buf *row;
    int rc = write_begin(c, err);

    if (rc != CS_OK)
        return rc;
    row = row_begin(c, BATCHES);
    put_column(row, uuid_value(ws));
    put_u64(row, b->number);
    put_column(row, uuid_value(&b->device));
    put_u64(row, b->device_number);
    put_column(row, cs_slice(b->hash, 32));
    put_column(row, cs_slice(b->log_hash, 32));
    put_column(row, b->header);
    put_column(row, b->signature);
    put_column(row, b->payload_hashes);
    put_column(row, b->entity_type);
    rc = write_end(c, BATCHES, err);
    return rc == CS_OK ? put_chunks(c, ws, b->number, chunks, nchunks, err) : rc;
}

static int pg_put_entry(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t seq, const uint8_t hash[32],
                        struct cs_slice entry, struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    struct cs_buf *row;
    int rc = write_begin(c, err);

    if (rc != CS_OK)
        return rc;
    row = row_begin(c, ENTRIES);
    put_column(row, uuid_value(ws));
    put_u64(row, seq);
    put_column(row, cs_slice(hash, 32));
    put_column(row, entry);
    return write_end(c, ENTRIES, err);
}

static int pg_put_offer(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_offer *o, struct cs_error *err)
{
    uint8_t made[8];
    struct cs_slice params[] = {
        uuid_value(ws), uuid_value(&o->device), u64_value(made, (uint64_t)o->made_ms), o->offer, o->answer, o->reveal,
        o->done
    };

    return write_now((struct conn *)tx, S_PUT_OFFER, params, err);
}

static int pg_drop_offers(cs_store_tx *tx, const struct cs_uuid *ws, int64_t before_ms, struct cs_error *err)
{
    uint8_t before[8];
    struct cs_slice params[] = { uuid_value(ws), u64_value(before, (uint64_t)before_ms) };

    return write_now((struct conn *)tx, S_DROP_OFFERS, params, err);
}

static int pg_put_reference(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_reference *r,
                            struct cs_error *err)
{
    uint8_t n[8][8];
    struct cs_slice params[] = { uuid_value(ws),
                                 u64_value(n[0], r->log_id),
                                 u64_value(n[1], r->number),
                                 u64_value(n[2], r->epoch),
                                 uuid_value(&r->device),
                                 u64_value(n[3], r->whole),
                                 u64_value(n[4], r->only_prove),
                                 u64_value(n[5], (uint64_t)r->changed_ms),
                                 u64_value(n[6], r->rows),
                                 u64_value(n[7], r->given) };

    return write_now((struct conn *)tx, S_PUT_REFERENCE, params, err);
}

static int pg_put_bucket(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_bucket *b,
                         struct cs_error *err)
{
    uint8_t prefix[8], rows[8];
    struct cs_slice params[] = { uuid_value(ws), u64_value(prefix, b->prefix), u64_value(rows, b->rows),
                                 cs_slice(b->sum, sizeof b->sum), b->leaves };

    return write_now((struct conn *)tx, b->rows == 0 ? S_DROP_BUCKET : S_PUT_BUCKET, params, err);
}

static int pg_put_wanted(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device, uint32_t epoch,
                         const uint8_t tag[16], struct cs_error *err)
{
    uint8_t n[8];
    struct cs_slice params[] = { uuid_value(ws), uuid_value(device), cs_slice(tag, 16), u64_value(n, epoch) };

    return write_now((struct conn *)tx, S_PUT_WANTED, params, err);
}

static int pg_drop_wanted(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device, const uint8_t *tag,
                          struct cs_error *err)
{
    struct cs_slice params[] = { uuid_value(ws), uuid_value(device), cs_slice(tag, tag == NULL ? 0 : 16) };

    return write_now((struct conn *)tx, tag == NULL ? S_DROP_ALL_WANTED : S_DROP_WANTED, params, err);
}

static int pg_put_proof(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_proof *p, struct cs_error *err)
{
    uint8_t n[3][8];
    struct cs_slice params[] = { uuid_value(ws),
                                 uuid_value(&p->device),
                                 u64_value(n[0], p->log_id),
                                 u64_value(n[1], p->number),
                                 u64_value(n[2], p->given),
                                 p->proof };

    return write_now((struct conn *)tx, S_PUT_PROOF, params, err);
}

static int pg_put_snapshot(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_snapshot *s,
                           struct cs_error *err)
{
    uint8_t n[7][8];
    struct cs_slice params[] = { uuid_value(ws),
                                 u64_value(n[0], s->slot),
                                 u64_value(n[1], s->state),
                                 u64_value(n[2], s->log_id),
                                 u64_value(n[3], s->number),
                                 uuid_value(&s->device),
                                 u64_value(n[4], s->parts),
                                 cs_slice(s->digest, sizeof s->digest),
                                 u64_value(n[5], s->bytes),
                                 u64_value(n[6], (uint64_t)s->changed_ms),
                                 uuid_value(&s->attester),
                                 s->descriptor,
                                 s->attestation };

    return write_now((struct conn *)tx, S_PUT_SNAPSHOT, params, err);
}

static int pg_put_snapshot_part(cs_store_tx *tx, const struct cs_uuid *ws, unsigned slot, const struct cs_store_part *p,
                                struct cs_error *err)
{
    uint8_t n[3][8];
    struct cs_slice params[] = { uuid_value(ws),          u64_value(n[0], slot), u64_value(n[1], p->part),
                                 u64_value(n[2], p->seq), p->envelope,           p->payload };

    return write_now((struct conn *)tx, S_PUT_PART, params, err);
}

static int pg_drop_snapshot_parts(cs_store_tx *tx, const struct cs_uuid *ws, unsigned slot, uint32_t from, uint32_t to,
                                  struct cs_error *err)
{
    uint8_t n[3][8];
    struct cs_slice params[] = { uuid_value(ws), u64_value(n[0], slot), u64_value(n[1], from), u64_value(n[2], to) };

    return write_now((struct conn *)tx, S_DROP_PARTS, params, err);
}

static int pg_prune_log(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t from, uint64_t to, uint64_t *bytes,
                        struct cs_error *err)
{
    struct conn *c = (struct conn *)tx;
    uint8_t n[2][8];
    struct cs_slice params[] = { uuid_value(ws), u64_value(n[0], from), u64_value(n[1], to) };
    int64_t gone;
    int rc = write_now(c, S_PRUNE_LOG, params, err);

    c->nahead = 0;
    if (rc != CS_OK || (rc = write_now(c, S_PRUNE_CHUNKS, params, err)) != CS_OK || (rc = run(c, err)) != CS_OK)
        return rc;
    if (cs_pg_rows(c->pg) != 1 || !cs_pg_i64(c->pg, 0, 0, &gone))
        return damaged(c, "log", err);
    *bytes = (uint64_t)gone;
    return CS_OK;
}

static int pg_drop_log(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_error *err)
{
    static const enum stmt steps[] = { S_DROP_CHUNKS, S_DROP_LOG, S_RESET_DEVICES, S_DROP_SNAPSHOTS, S_DROP_ALL_PARTS };
    struct cs_slice param = uuid_value(ws);
    struct conn *c = (struct conn *)tx;
    int rc = CS_OK;

    for (size_t i = 0; rc == CS_OK && i < sizeof steps / sizeof steps[0]; i++)
        rc = write_now(c, steps[i], &param, err);
    c->nahead = 0;
    return rc;
}

/* ---- the store ---- */

static int pg_listen(void *self, cs_store_heard *heard, void *arg, struct cs_error *err)
{
    struct pg_store *st = self;

    if (st->listen == NULL)
        return cs_fail(err, CS_EUNSUPPORTED, "no connection to listen on is set");
    return cs_pg_news_open(&st->news, st->world, st->listen, heard, arg, err);
}

static void pg_tell(void *self, struct cs_slice line)
{
    struct pg_store *st = self;

    if (st->news != NULL)
        cs_pg_news_tell(st->news, line);
}

static void secret_free(char *s)
{
    if (s != NULL)
        cs_wipe(s, strlen(s));
    free(s);
}

static void pg_close(void *self)
{
    struct pg_store *st = self;

    cs_pg_news_close(st->news);
    idle_drop(st);
    pthread_cond_destroy(&st->given_back);
    pthread_mutex_destroy(&st->lock);
    secret_free(st->url);
    secret_free(st->listen);
    free(st);
}

static const struct cs_store_ops pg_ops = {
    .name = "postgres",
    .shared = true,
    .begin = pg_begin,
    .commit = pg_commit,
    .rollback = pg_rollback,
    .foresee = pg_foresee,
    .save = pg_save,
    .keep = pg_keep,
    .undo = pg_undo,
    .head = pg_head,
    .device = pg_device,
    .log_hash = pg_log_hash,
    .entry_hash = pg_entry_hash,
    .device_batch = pg_device_batch,
    .batches = pg_batches,
    .chunks = pg_chunks,
    .entries = pg_entries,
    .put_head = pg_put_head,
    .put_device = pg_put_device,
    .put_batch = pg_put_batch,
    .put_entry = pg_put_entry,
    .offers = pg_offers,
    .workspaces = pg_workspaces,
    .put_offer = pg_put_offer,
    .drop_offers = pg_drop_offers,
    .reference = pg_reference,
    .bucket_sums = pg_bucket_sums,
    .bucket_leaves = pg_bucket_leaves,
    .wanted = pg_wanted,
    .proofs = pg_proofs,
    .put_reference = pg_put_reference,
    .put_bucket = pg_put_bucket,
    .put_wanted = pg_put_wanted,
    .drop_wanted = pg_drop_wanted,
    .put_proof = pg_put_proof,
    .devices = pg_devices,
    .snapshots = pg_snapshots,
    .snapshot_parts = pg_snapshot_parts,
    .put_snapshot = pg_put_snapshot,
    .put_snapshot_part = pg_put_snapshot_part,
    .drop_snapshot_parts = pg_drop_snapshot_parts,
    .prune_log = pg_prune_log,
    .drop_log = pg_drop_log,
    .listen = pg_listen,
    .tell = pg_tell,
    .close = pg_close,
};

int cs_store_postgres_name(const char *url, char *out, size_t size, struct cs_error *err)
{
    char name[CS_PG_NAME];
    int rc = cs_pg_name(url, name, err);

    if (rc == CS_OK)
        snprintf(out, size, "%s", name);
    return rc;
}

int cs_store_postgres_open(struct cs_store *out, struct cs_world *world, const struct cs_store_postgres_options *o,
                           struct cs_error *err)
{
    enum cs_pg_prepare prepare = o->prepare > 0   ? CS_PG_PREPARE_ALWAYS
                                 : o->prepare < 0 ? CS_PG_PREPARE_NEVER
                                                  : CS_PG_PREPARE_AUTO;
    struct pg_store *st = calloc(1, sizeof *st);
    int rc;

    *out = (struct cs_store){ 0 };
    if (st == NULL || (st->url = strdup(o->url)) == NULL ||
        (o->listen != NULL && (st->listen = strdup(o->listen)) == NULL)) {
        if (st != NULL)
            secret_free(st->url);
        free(st);
        return cs_fail(err, CS_ENOMEM, "out of memory");
    }
    st->prepare = prepare;
    st->world = world;
    st->most = o->connections;
    pthread_mutex_init(&st->lock, NULL);
    pthread_cond_init(&st->given_back, NULL);
    if ((rc = cs_pg_name(st->url, st->name, err)) != CS_OK ||
        (rc = cs_pg_schema_ensure(st->url, prepare, o->partitions, err)) != CS_OK) {
        pg_close(st);
        return rc;
    }
    *out = (struct cs_store){ &pg_ops, st };
    return CS_OK;
}
