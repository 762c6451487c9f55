/* Workload W (docs/benchmarks.md) on the replica and the packer, each beside plain SQLite in the same run. Runs are
 * interleaved with their reference; prints medians, spread and ratios.
 *   replica_bench [ROWS [RUNS]]      default 100000 rows, 5 runs */
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/rng.h"
#include "delta/pack.h"
#include "replica/replica.h"

enum { TRANSACTION = 1000, BODY = 200, MAX_RUNS = 101 };

static const char schema[] =
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
    "CREATE TABLE memory_records(id TEXT PRIMARY KEY NOT NULL, title, body, tags, created_at, updated_at);";

static struct cs_world *world;
static uint32_t nrows = 100000, nruns = 5;
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

static void die(const char *what, const char *why)
{
    fprintf(stderr, "replica_bench: %s: %s\n", what, why);
    exit(1);
}

static double now_s(void)
{
    return (double)cs_monotonic_ns(world) / 1e9;
}

static const char *path_of(const char *name)
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
        snprintf(path, sizeof path, "%s%s", path_of(name), ends[i]);
        unlink(path);
    }
}

static void exec(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        die(sql, sqlite3_errmsg(db));
}

static sqlite3 *open_plain(const char *name, bool fresh)
{
    sqlite3 *db;

    if (fresh)
        remove_db(name);
    if (sqlite3_open(path_of(name), &db) != SQLITE_OK)
        die(name, sqlite3_errmsg(db));
    exec(db, fresh ? schema : "PRAGMA synchronous=NORMAL");
    return db;
}

static cs_replica *open_replica(const char *name, uint8_t device)
{
    struct cs_replica_options o = { .path = path_of(name) };
    struct cs_replica_identity id = { .incarnation = 1 };
    struct cs_error err;
    cs_replica *r;

    memset(id.workspace.b, 9, 16);
    memset(id.device.b, device, 16);
    if (cs_replica_open(&r, world, &o, &err) != CS_OK || cs_replica_set_identity(r, &id, &err) != CS_OK)
        die(name, err.msg);
    return r;
}

static void track(cs_replica *r)
{
    struct cs_error err;
    bool more = true;

    if (cs_replica_track(r, "memory_records", NULL, &err) != CS_OK)
        die("track", err.msg);
    while (more)
        if (cs_replica_seal(r, 1000, &more, NULL, &err) != CS_OK)
            die("backfill", err.msg);
}

/* ---- the application's side ---- */

static double insert_rows(sqlite3 *db, bool ordered)
{
    static char body[BODY + 1];
    sqlite3_stmt *s;
    double begin;

    memset(body, 'b', BODY);
    sqlite3_prepare_v2(db, "INSERT INTO memory_records VALUES (?1, 'a title', ?2, '[\"tag\"]', ?3, ?3)", -1, &s, NULL);
    begin = now_s();
    for (uint32_t i = 0; i < nrows; i++) {
        uint32_t at = ordered ? i : shuffled[i];

        if (i % TRANSACTION == 0)
            exec(db, "BEGIN");
        for (int k = 0; k < 12; k++)
            body[16 * k] = (char)('a' + (at >> (k % 5) * 4) % 26);
        sqlite3_bind_text(s, 1, ids[at], 36, SQLITE_STATIC);
        sqlite3_bind_text(s, 2, body, BODY, SQLITE_STATIC);
        sqlite3_bind_int64(s, 3, 1700000000000 + at);
        sqlite3_step(s);
        if (sqlite3_reset(s) != SQLITE_OK)
            die("insert", sqlite3_errmsg(db));
        if (i % TRANSACTION == TRANSACTION - 1 || i == nrows - 1)
            exec(db, "COMMIT");
    }
    sqlite3_finalize(s);
    return now_s() - begin;
}

static double update_rows(sqlite3 *db, bool ordered, int64_t value)
{
    sqlite3_stmt *s;
    double begin;

    sqlite3_prepare_v2(db, "UPDATE memory_records SET updated_at = ?2 WHERE id = ?1", -1, &s, NULL);
    begin = now_s();
    for (uint32_t i = 0; i < nrows; i++) {
        if (i % TRANSACTION == 0)
            exec(db, "BEGIN");
        sqlite3_bind_text(s, 1, ids[ordered ? i : shuffled[i]], 36, SQLITE_STATIC);
        sqlite3_bind_int64(s, 2, value);
        sqlite3_step(s);
        if (sqlite3_reset(s) != SQLITE_OK)
            die("update", sqlite3_errmsg(db));
        if (i % TRANSACTION == TRANSACTION - 1 || i == nrows - 1)
            exec(db, "COMMIT");
    }
    sqlite3_finalize(s);
    return now_s() - begin;
}

/* ---- results ---- */

struct series {
    const char *name;
    double v[MAX_RUNS];
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(const struct series *s)
{
    double v[MAX_RUNS];

    memcpy(v, s->v, nruns * sizeof *v);
    qsort(v, nruns, sizeof *v, by_value);
    return nruns % 2 ? v[nruns / 2] : (v[nruns / 2 - 1] + v[nruns / 2]) / 2;
}

static double spread(const struct series *s)
{
    double lo = s->v[0], hi = s->v[0];

    for (uint32_t i = 1; i < nruns; i++) {
        lo = s->v[i] < lo ? s->v[i] : lo;
        hi = s->v[i] > hi ? s->v[i] : hi;
    }
    return (hi - lo) / median(s) * 100;
}

/* Ratio of times, ours over the reference, taken run by run. */
static void print_ratio(const struct series *ours, const struct series *reference)
{
    struct series ratio = { .name = ours->name };

    for (uint32_t i = 0; i < nruns; i++)
        ratio.v[i] = ours->v[i] / reference->v[i];
    printf("| %-34s | %9.0f | %9.0f | %5.2f x | %3.0f %% |\n", ours->name, nrows / median(ours),
           nrows / median(reference), median(&ratio), spread(&ratio));
}

static void print_rate(const struct series *ours, const struct series *reference)
{
    struct series ratio = { .name = ours->name };

    for (uint32_t i = 0; i < nruns; i++)
        ratio.v[i] = reference->v[i] / ours->v[i];
    printf("| %-34s | %9.0f | %9.0f | %5.2f   | %3.0f %% |\n", ours->name, nrows / median(ours),
           nrows / median(reference), median(&ratio), spread(ours));
}

static void bench_capture(void)
{
    static struct series s[8] = {
        { .name = "capture: inserts, ordered ids" },
        { .name = "capture: inserts, random ids" },
        { .name = "capture: updates, key order" },
        { .name = "capture: updates, random order" },
    };

    for (uint32_t run = 0; run < nruns; run++) {
        for (int order = 0; order < 2; order++) {
            sqlite3 *plain = open_plain("plain.db", true), *tracked = open_plain("tracked.db", true);
            cs_replica *r = open_replica("tracked.db", 1);
            struct cs_error err;
            bool more = true;

            track(r);
            s[4 + order].v[run] = insert_rows(plain, order == 0);
            s[order].v[run] = insert_rows(tracked, order == 0);
            while (more)
                if (cs_replica_seal(r, 1000, &more, NULL, &err) != CS_OK)
                    die("seal", err.msg);
            s[6 + order].v[run] = update_rows(plain, order == 0, run);
            s[2 + order].v[run] = update_rows(tracked, order == 0, run);
            cs_replica_close(r);
            sqlite3_close(plain);
            sqlite3_close(tracked);
        }
    }
    for (int i = 0; i < 4; i++)
        print_ratio(&s[i], &s[4 + i]);
}

/* ---- out and in ---- */

struct packed {
    struct cs_batch *batches;
    size_t n, cap;
    uint64_t bytes;
};

static struct cs_epoch_keys *keys;
static struct cs_sign_key signer;

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

static double seal_extract_pack(cs_replica *r, cs_packer *packer, struct packed *out, uint64_t before)
{
    struct cs_arena arena = { 0 };
    struct cs_batch_header h;
    struct cs_delta d;
    struct cs_error err;
    struct cs_buf stored = { 0 };
    uint8_t prev[32] = { 0 };
    bool more = true;
    double t = 0, begin = now_s();

    while (more)
        if (cs_replica_seal(r, 1000, &more, NULL, &err) != CS_OK)
            die("seal", err.msg);
    t += now_s() - begin;
    for (;;) {
        struct cs_batch *b;

        cs_arena_reset(&arena);
        begin = now_s();
        if (cs_replica_extract(r, &arena, 1000, 1024 * 1024, &d, &err) != CS_OK)
            die("extract", err.msg);
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
            die("pack", err.msg);
        t += now_s() - begin;
        memcpy(prev, b->hash, 32);
        out->bytes += b->sealed.len;
        /* binding (durable, for sending) is part of the way to the hub, not of this figure */
        cs_buf_reset(&stored);
        cs_batch_encode(&stored, b);
        if (cs_replica_bind(r, before + out->n, b->hash, cs_buf_slice(&stored), &err) != CS_OK ||
            cs_replica_bound_accepted(r, before + out->n, before + out->n, &err) != CS_OK)
            die("bind", err.msg);
    }
    cs_arena_free(&arena);
    cs_buf_free(&stored);
    return t;
}

static double unpack_apply(cs_replica *r, cs_packer *packer, const struct packed *in, uint64_t first_number)
{
    struct cs_pull_mark mark = { .log_id = 1, .highest_epoch = 1 };
    struct cs_apply_result result;
    enum cs_unpack_fault fault;
    struct cs_delta d;
    struct cs_error err;
    double begin = now_s();

    memset(mark.device.b, 1, 16);
    for (size_t i = 0; i < in->n; i++) {
        if (cs_unpack(packer, &in->batches[i], keys, &d, &fault, &err) != CS_OK)
            die("unpack", err.msg);
        mark.number = first_number + i;
        mark.device_number = first_number + i;
        if (cs_replica_apply(r, &d, &mark, &result, &err) != CS_OK)
            die("apply", err.msg);
    }
    return now_s() - begin;
}

/* The same rows by prepared INSERTs, in transactions of the same size. */
static void bench_sync(void)
{
    static struct series pack = { .name = "seal + extract + pack" },
                         apply = { .name = "unpack + apply, empty database" },
                         again = { .name = "re-apply, operation by operation" },
                         update = { .name = "updates: seal + extract + pack" }, plain = { .name = "plain inserts" },
                         plain_update = { .name = "plain updates" };
    struct cs_rng rng = { .world = world };
    struct cs_packer *packer;
    struct cs_error err;
    uint64_t insert_bytes = 0, update_bytes = 0;
    int64_t plain_size = 0, ours_size = 0;

    if (cs_packer_new(&packer, &rng, &err) != CS_OK)
        die("packer", err.msg);
    for (uint32_t run = 0; run < nruns; run++) {
        sqlite3 *p = open_plain("plain.db", true), *a = open_plain("a.db", true), *b = open_plain("b.db", true);
        cs_replica *ra = open_replica("a.db", 1), *rb = open_replica("b.db", 2);
        struct packed inserts = { 0 }, updates = { 0 };
        struct stat st;

        track(ra);
        track(rb);
        plain.v[run] = insert_rows(p, true);
        insert_rows(a, true);
        pack.v[run] = seal_extract_pack(ra, packer, &inserts, 0);
        apply.v[run] = unpack_apply(rb, packer, &inserts, 1);
        again.v[run] = unpack_apply(rb, packer, &inserts, inserts.n + 1);
        plain_update.v[run] = update_rows(p, true, run);
        update_rows(a, true, run);
        update.v[run] = seal_extract_pack(ra, packer, &updates, inserts.n);
        insert_bytes = inserts.bytes;
        update_bytes = updates.bytes;
        exec(b, "PRAGMA wal_checkpoint(TRUNCATE)");
        exec(p, "PRAGMA wal_checkpoint(TRUNCATE)");
        plain_size = stat(path_of("plain.db"), &st) == 0 ? st.st_size : 0;
        ours_size = stat(path_of("b.db"), &st) == 0 ? st.st_size : 0;
        for (size_t i = 0; i < inserts.n; i++)
            cs_batch_free(&inserts.batches[i]);
        for (size_t i = 0; i < updates.n; i++)
            cs_batch_free(&updates.batches[i]);
        free(inserts.batches);
        free(updates.batches);
        cs_replica_close(ra);
        cs_replica_close(rb);
        sqlite3_close(p);
        sqlite3_close(a);
        sqlite3_close(b);
    }
    print_rate(&pack, &plain);
    print_rate(&update, &plain_update);
    print_rate(&apply, &plain);
    print_rate(&again, &plain);
    printf("\nwire: %.0f bytes per inserted row, %.1f per single-column update; database file after a bootstrap: %.2f "
           "x plain\n",
           (double)insert_bytes / nrows, (double)update_bytes / nrows, (double)ours_size / (double)plain_size);
    cs_packer_free(packer);
}

int main(int argc, char **argv)
{
    struct cs_error err;
    struct cs_uuid workspace;
    uint8_t seed[32] = { 7 };

    if (argc > 1)
        nrows = (uint32_t)strtoul(argv[1], NULL, 10);
    if (argc > 2)
        nruns = (uint32_t)strtoul(argv[2], NULL, 10);
    if (nrows < 1000 || nruns < 1 || nruns > MAX_RUNS) {
        fprintf(stderr, "usage: replica_bench [ROWS >= 1000 [RUNS 1..%d]]\n", MAX_RUNS);
        return 2;
    }
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0); /* as our programs do; for plain SQLite as well */
    world = cs_world_real();
    if (cs_crypto_init(&err) != CS_OK || mkdtemp(dir) == NULL)
        die("start", "no crypto or no temporary folder");
    memset(workspace.b, 9, 16);
    keys = cs_secret_alloc(sizeof *keys);
    ids = calloc(nrows, sizeof *ids);
    shuffled = calloc(nrows, sizeof *shuffled);
    if (keys == NULL || ids == NULL || shuffled == NULL)
        die("start", "out of memory");
    cs_epoch_keys_derive(keys, seed, &workspace, 1);
    cs_sign_key_from_seed(&signer, seed);
    for (uint32_t i = 0; i < nrows; i++) {
        snprintf(ids[i], sizeof ids[i], "%08x-0000-4000-8000-%012x", i, i);
        shuffled[i] = i;
    }
    for (uint32_t i = nrows - 1; i > 0; i--) {
        uint32_t k = (uint32_t)(next_random() % (i + 1)), t = shuffled[i];

        shuffled[i] = shuffled[k];
        shuffled[k] = t;
    }
    printf("workload W: %u rows, transactions of %d, %u runs, SQLite %s\n\n", nrows, TRANSACTION, nruns,
           sqlite3_libversion());
    printf("| %-34s | %9s | %9s | %7s | %5s |\n", "", "rows/s", "plain", "ratio", "spread");
    printf("|------------------------------------|-----------|-----------|---------|-------|\n");
    bench_capture();
    bench_sync();
    cs_secret_free(keys);
    free(ids);
    free(shuffled);
    for (int i = 0; i < 4; i++)
        remove_db((const char *[]){ "plain.db", "tracked.db", "a.db", "b.db" }[i]);
    rmdir(dir);
    return 0;
}
