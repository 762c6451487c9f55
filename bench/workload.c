#include "workload.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/rng.h"

enum { BODY = 200 };

static const char schema[] =
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
    "CREATE TABLE memory_records(id TEXT PRIMARY KEY NOT NULL, title, body, tags, created_at, updated_at);";

uint32_t cs_bench_rows;

static const char *program;
static struct cs_world *world;
static struct cs_epoch_keys *keys;
static struct cs_sign_key signer;
static struct cs_rng rng;
static char dir[] = "/tmp/claw-sync-bench.XXXXXX";
static char (*ids)[37];    /* ordered */
static uint32_t *shuffled; /* a random order of them */
static uint64_t prng = 42;

static uint64_t next_random(void)
{
    uint64_t z = (prng += 0x9e3779b97f4a7c15u);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void cs_bench_die(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s: %s\n", program, what, why);
    exit(1);
}

double cs_bench_now_s(void)
{
    return (double)cs_monotonic_ns(world) / 1e9;
}

const char *cs_bench_path(const char *name)
{
    static char path[4][256];
    static int at;

    at = (at + 1) % 4;
    snprintf(path[at], sizeof path[at], "%s/%s", dir, name);
    return path[at];
}

static void remove_db(const char *name)
{
    const char *ends[] = { "", "-wal", "-shm" };
    char path[300];

    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", cs_bench_path(name), ends[i]);
        unlink(path);
    }
}

void cs_bench_exec(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        cs_bench_die(sql, sqlite3_errmsg(db));
}

sqlite3 *cs_bench_open_plain(const char *name, bool fresh)
{
    sqlite3 *db;

    if (fresh)
        remove_db(name);
    if (sqlite3_open(cs_bench_path(name), &db) != SQLITE_OK)
        cs_bench_die(name, sqlite3_errmsg(db));
    cs_bench_exec(db, fresh ? schema : "PRAGMA synchronous=NORMAL");
    return db;
}

cs_replica *cs_bench_open_replica(const char *name, uint8_t device)
{
    struct cs_replica_options o = { .path = cs_bench_path(name) };
    struct cs_replica_identity id = { .incarnation = 1 };
    struct cs_error err;
    cs_replica *r;

    memset(id.workspace.b, 9, 16);
    memset(id.device.b, device, 16);
    if (cs_replica_open(&r, world, &o, &err) != CS_OK || cs_replica_set_identity(r, &id, &err) != CS_OK)
        cs_bench_die(name, err.msg);
    return r;
}

void cs_bench_seal(cs_replica *r)
{
    struct cs_error err;
    bool more = true;

    while (more)
        if (cs_replica_seal(r, 1000, &more, NULL, &err) != CS_OK)
            cs_bench_die("seal", err.msg);
}

void cs_bench_track(cs_replica *r)
{
    struct cs_error err;

    if (cs_replica_track(r, "memory_records", NULL, &err) != CS_OK)
        cs_bench_die("track", err.msg);
    cs_bench_seal(r); /* the backfill */
}

int64_t cs_bench_file_size(const char *db)
{
    struct stat st;

    return stat(cs_bench_path(db), &st) == 0 ? st.st_size : 0;
}

/* ---- the application's side ---- */

static double put_rows(sqlite3 *db, const char *sql, bool ordered)
{
    static char body[BODY + 1];
    sqlite3_stmt *s;
    double begin;

    memset(body, 'b', BODY);
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
        cs_bench_die(sql, sqlite3_errmsg(db));
    begin = cs_bench_now_s();
    for (uint32_t i = 0; i < cs_bench_rows; i++) {
        uint32_t at = ordered ? i : shuffled[i];

        if (i % CS_BENCH_TRANSACTION == 0)
            cs_bench_exec(db, "BEGIN");
        for (int k = 0; k < 12; k++)
            body[16 * k] = (char)('a' + (at >> (k % 5) * 4) % 26);
        sqlite3_bind_text(s, 1, ids[at], 36, SQLITE_STATIC);
        sqlite3_bind_text(s, 2, body, BODY, SQLITE_STATIC);
        sqlite3_bind_int64(s, 3, 1700000000000 + at);
        sqlite3_step(s);
        if (sqlite3_reset(s) != SQLITE_OK)
            cs_bench_die("insert", sqlite3_errmsg(db));
        if (i % CS_BENCH_TRANSACTION == CS_BENCH_TRANSACTION - 1 || i == cs_bench_rows - 1)
            cs_bench_exec(db, "COMMIT");
    }
    sqlite3_finalize(s);
    return cs_bench_now_s() - begin;
}

#define INSERT "INSERT INTO memory_records VALUES (?1, 'a title', ?2, '[\"tag\"]', ?3, ?3)"

double cs_bench_insert(sqlite3 *db, bool ordered)
{
    return put_rows(db, INSERT, ordered);
}

double cs_bench_upsert(sqlite3 *db, bool ordered)
{
    return put_rows(db,
                    INSERT " ON CONFLICT(id) DO UPDATE SET title = excluded.title, body = excluded.body, tags = "
                           "excluded.tags, created_at = excluded.created_at, updated_at = excluded.updated_at WHERE "
                           "(title, body, tags, created_at, updated_at) IS NOT (excluded.title, excluded.body, "
                           "excluded.tags, excluded.created_at, excluded.updated_at)",
                    ordered);
}

double cs_bench_update(sqlite3 *db, bool ordered, int64_t value)
{
    sqlite3_stmt *s;
    double begin;

    sqlite3_prepare_v2(db, "UPDATE memory_records SET updated_at = ?2 WHERE id = ?1", -1, &s, NULL);
    begin = cs_bench_now_s();
    for (uint32_t i = 0; i < cs_bench_rows; i++) {
        if (i % CS_BENCH_TRANSACTION == 0)
            cs_bench_exec(db, "BEGIN");
        sqlite3_bind_text(s, 1, ids[ordered ? i : shuffled[i]], 36, SQLITE_STATIC);
        sqlite3_bind_int64(s, 2, value);
        sqlite3_step(s);
        if (sqlite3_reset(s) != SQLITE_OK)
            cs_bench_die("update", sqlite3_errmsg(db));
        if (i % CS_BENCH_TRANSACTION == CS_BENCH_TRANSACTION - 1 || i == cs_bench_rows - 1)
            cs_bench_exec(db, "COMMIT");
    }
    sqlite3_finalize(s);
    return cs_bench_now_s() - begin;
}

/* ---- out and in ---- */

void cs_bench_batches_free(struct cs_bench_batches *b)
{
    for (size_t i = 0; i < b->n; i++)
        cs_batch_free(&b->batches[i]);
    free(b->batches);
    *b = (struct cs_bench_batches){ 0 };
}

cs_packer *cs_bench_packer(void)
{
    struct cs_packer *packer;
    struct cs_error err;

    if (cs_packer_new(&packer, &rng, &err) != CS_OK)
        cs_bench_die("packer", err.msg);
    return packer;
}

static void header_of(struct cs_batch_header *h, uint64_t number, const uint8_t prev[32])
{
    *h = (struct cs_batch_header){ .codec = CS_CODEC_ZSTD,
                                   .padding = CS_PADDING_PADME,
                                   .incarnation = 1,
                                   .epoch = 1,
                                   .number = number,
                                   .member_seq = 1,
                                   .seen_log = 1 };
    memset(h->workspace.b, 9, 16);
    memset(h->device.b, 1, 16);
    memcpy(h->prev, prev, 32);
}

double cs_bench_send(cs_replica *r, cs_packer *packer, struct cs_bench_batches *out, uint64_t before)
{
    struct cs_arena arena = { 0 };
    struct cs_batch_header h;
    struct cs_delta d;
    struct cs_error err;
    struct cs_buf stored = { 0 };
    uint8_t prev[32] = { 0 };
    double t = 0, begin = cs_bench_now_s();

    cs_bench_seal(r);
    t += cs_bench_now_s() - begin;
    for (;;) {
        struct cs_batch *b;

        cs_arena_reset(&arena);
        begin = cs_bench_now_s();
        if (cs_replica_extract(r, &arena, 1000, 1024 * 1024, &d, &err) != CS_OK)
            cs_bench_die("extract", err.msg);
        if (d.nops == 0)
            break;
        if (out->n == out->cap) {
            out->cap = out->cap == 0 ? 256 : out->cap * 2;
            out->batches = realloc(out->batches, out->cap * sizeof *out->batches);
        }
        b = &out->batches[out->n++];
        memset(b, 0, sizeof *b);
        header_of(&h, before + out->n, prev);
        if (cs_pack(packer, &d, &h, keys, &signer, 65536, b, &err) != CS_OK)
            cs_bench_die("pack", err.msg);
        t += cs_bench_now_s() - begin;
        memcpy(prev, b->hash, 32);
        out->bytes += b->sealed.len;
        /* binding (durable, for sending) is part of the way to the hub, not of this figure */
        cs_buf_reset(&stored);
        cs_batch_encode(&stored, b);
        if (cs_replica_bind(r, before + out->n, b->hash, cs_buf_slice(&stored), &err) != CS_OK ||
            cs_replica_bound_accepted(r, before + out->n, before + out->n, 0, &err) != CS_OK)
            cs_bench_die("bind", err.msg);
    }
    cs_arena_free(&arena);
    cs_buf_free(&stored);
    return t;
}

void cs_bench_pack(cs_packer *packer, const struct cs_delta *d)
{
    static struct cs_batch out;
    static const uint8_t prev[32];
    struct cs_batch_header h;
    struct cs_error err;

    header_of(&h, 1, prev);
    if (cs_pack(packer, d, &h, keys, &signer, 65536, &out, &err) != CS_OK)
        cs_bench_die("pack", err.msg);
}

void cs_bench_unpack(cs_packer *packer, const struct cs_batch *b)
{
    enum cs_unpack_fault fault;
    struct cs_delta d;
    struct cs_error err;

    if (cs_unpack(packer, b, keys, &d, &fault, &err) != CS_OK)
        cs_bench_die("unpack", err.msg);
}

double cs_bench_receive(cs_replica *r, cs_packer *packer, const struct cs_bench_batches *in, uint64_t first_number)
{
    struct cs_pull_mark mark = { .log_id = 1, .highest_epoch = 1 };
    struct cs_apply_result result;
    enum cs_unpack_fault fault;
    struct cs_delta d;
    struct cs_error err;
    double begin = cs_bench_now_s();

    memset(mark.device.b, 1, 16);
    for (size_t i = 0; i < in->n; i++) {
        if (cs_unpack(packer, &in->batches[i], keys, &d, &fault, &err) != CS_OK)
            cs_bench_die("unpack", err.msg);
        mark.number = first_number + i;
        mark.device_number = first_number + i;
        if (cs_replica_apply(r, &d, &mark, &result, &err) != CS_OK)
            cs_bench_die("apply", err.msg);
    }
    return cs_bench_now_s() - begin;
}

/* ---- the whole ---- */

static void shuffle(void)
{
    for (uint32_t i = cs_bench_rows - 1; i > 0; i--) {
        uint32_t k = (uint32_t)(next_random() % (i + 1)), t = shuffled[i];

        shuffled[i] = shuffled[k];
        shuffled[k] = t;
    }
}

void cs_bench_init(const char *name, uint32_t rows)
{
    static const uint8_t seed[32] = { 7 };
    struct cs_error err;
    struct cs_uuid workspace;

    program = name;
    cs_bench_rows = rows;
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0); /* as our programs do; for plain SQLite as well */
    world = cs_world_real();
    rng = (struct cs_rng){ .world = world };
    if (cs_crypto_init(&err) != CS_OK || mkdtemp(dir) == NULL)
        cs_bench_die("start", "no crypto or no temporary folder");
    memset(workspace.b, 9, 16);
    keys = cs_secret_alloc(sizeof *keys);
    ids = calloc(rows, sizeof *ids);
    shuffled = calloc(rows, sizeof *shuffled);
    if (keys == NULL || ids == NULL || shuffled == NULL)
        cs_bench_die("start", "out of memory");
    cs_epoch_keys_derive(keys, seed, &workspace, 1);
    cs_sign_key_from_seed(&signer, seed);
    for (uint32_t i = 0; i < rows; i++) {
        snprintf(ids[i], sizeof ids[i], "%08x-0000-4000-8000-%012x", i, i);
        shuffled[i] = i;
    }
    shuffle();
}

void cs_bench_fini(void)
{
    static const char *const names[] = { "plain.db", "tracked.db", "a.db", "b.db" };

    cs_secret_free(keys);
    free(ids);
    free(shuffled);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        remove_db(names[i]);
    rmdir(dir);
}
