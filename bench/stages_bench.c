/* What a batch costs by stage, each beside the library that does the work, or the least that it could be: packing and
 * unpacking 1,000 inserted rows of workload W, the primitives alone, the merge, the queue. Medians of runs that take
 * turns.
 *   stages_bench [RUNS]      default 5 */
#include <blake3.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <zstd.h>

#include "crdt/merge.h"
#include "crdt/version.h"
#include "crypto/hash.h"
#include "queue/queue.h"
#include "workload.h"

enum { ROWS = 1000, REPEAT = 100, MAX_RUNS = 101, SMALL = 100, BOX = 512 * 1024, LONG = 1024 * 1024 };

static uint32_t nruns = 5;
static struct cs_bench_batches batches;
static struct cs_delta delta, few;
static struct cs_packer *packer;
static cs_replica *replica; /* the delta set's names lie in it */
static struct cs_buf encoded, packed;
static uint8_t *message, *boxed, key[32], nonce[24], pk[32], sk[64], sig[64];

static void our_pack(void)
{
    cs_bench_pack(packer, &delta);
}

static void our_pack_few(void)
{
    cs_bench_pack(packer, &few);
}

static void our_unpack(void)
{
    cs_bench_unpack(packer, &batches.batches[0]);
}

static void our_encode(void)
{
    struct cs_error err;

    cs_buf_reset(&encoded);
    if (cs_delta_encode(&encoded, &delta, &err) != CS_OK)
        cs_bench_die("encode", err.msg);
}

/* memcpy of the bytes that encoding makes: nothing could be faster. */
static void copy(void)
{
    memcpy(message, encoded.data, encoded.len);
    __asm__ volatile("" : : "r"(message) : "memory");
}

static void compress(void)
{
    ZSTD_compress(message, ZSTD_compressBound(encoded.len), encoded.data, encoded.len, 1);
}

/* The work of the libraries alone, on buffers of the sizes that packing these rows has. */
static void libraries_pack(void)
{
    uint8_t hash[32];
    blake3_hasher h;

    compress();
    crypto_secretbox_easy(boxed, message, batches.batches[0].sealed.len - 16, nonce, key);
    blake3_hasher_init(&h);
    blake3_hasher_update(&h, boxed, batches.batches[0].sealed.len);
    blake3_hasher_finalize(&h, hash, 32);
    crypto_sign_detached(sig, NULL, hash, 32, sk);
}

static void libraries_unpack(void)
{
    uint8_t hash[32];
    blake3_hasher h;

    blake3_hasher_init(&h);
    blake3_hasher_update(&h, boxed, batches.batches[0].sealed.len);
    blake3_hasher_finalize(&h, hash, 32);
    if (crypto_secretbox_open_easy(message, boxed, batches.batches[0].sealed.len, nonce, key) != 0)
        cs_bench_die("libraries", "cannot open what they sealed");
    ZSTD_decompress(message, encoded.len, packed.data, packed.len);
}

static void our_box(void)
{
    cs_box(key, nonce, cs_slice(message, BOX), boxed);
}

static void raw_box(void)
{
    crypto_secretbox_easy(boxed, message, BOX, nonce, key);
}

static void our_open(void)
{
    if (!cs_box_open(key, nonce, cs_slice(boxed, BOX + 16), message))
        cs_bench_die("open", "what was sealed does not open");
}

static void raw_open(void)
{
    if (crypto_secretbox_open_easy(message, boxed, BOX + 16, nonce, key) != 0)
        cs_bench_die("open", "what was sealed does not open");
}

static void our_hash(void)
{
    uint8_t out[32];

    cs_hash_plain(cs_slice(message, LONG), out);
}

static void raw_hash(void)
{
    uint8_t out[32];
    blake3_hasher h;

    blake3_hasher_init(&h);
    blake3_hasher_update(&h, message, LONG);
    blake3_hasher_finalize(&h, out, 32);
}

static void our_clock(void)
{
    static int64_t hlc;

    for (int i = 0; i < 1000; i++)
        hlc = cs_hlc_tick(hlc, 1700000000000, 1700000000000);
    __asm__ volatile("" : : "r"(hlc));
}

static void raw_clock(void)
{
    static int64_t counter;

    for (int i = 0; i < 1000; i++) {
        counter++;
        __asm__ volatile("" : "+r"(counter));
    }
}

/* ---- 1,000 edits of one cell of six that were made beside another's, which is the newer or the older in turn ---- */

static struct cs_value values[2] = { { .type = CS_INTEGER, .u.i = 1 }, { .type = CS_INTEGER, .u.i = 2 } };
static struct cs_row row;
static struct cs_arena merge_arena;

static const struct cs_value *value_of(void *arg, uint32_t col)
{
    (void)arg;
    (void)col;
    return &values[0];
}

static void our_merge(void)
{
    static struct cs_merge_out out;
    static int64_t stamp = 2000;
    struct cs_op_cell cells[6];
    struct cs_row_cell over = { 0, { 1, { { 0 } } } }; /* neither has seen the other */
    struct cs_merge_in in = {
        .kind = CS_OP_INSERT, .cells = cells, .ncells = 6, .value = value_of, .v = { .stamp = 1 }
    };

    for (uint32_t c = 0; c < 6; c++)
        cells[c] = (struct cs_op_cell){ c, values[0] };
    if (row.ncells == 0 && cs_row_merge(&row, &in, &out, &merge_arena) != CS_OK)
        cs_bench_die("merge", "an insert failed");
    in.kind = CS_OP_UPDATE;
    in.ncells = in.nover = 1;
    in.over = &over;
    cells[0].value = values[1];
    stamp += 1000;
    for (int64_t i = 0; i < 1000; i++) {
        in.v.stamp = i % 2 == 0 ? stamp + i : stamp - 1500 + i;
        in.v.device.b[0] = (uint8_t)(1 + i % 2);
        if (cs_row_merge(&row, &in, &out, &merge_arena) != CS_OK)
            cs_bench_die("merge", "an update failed");
    }
}

static void raw_merge(void)
{
    static struct {
        struct cs_version v;
        struct cs_value value;
    } to, from;

    for (int i = 0; i < 1000; i++) {
        from.v.stamp++;
        memcpy(&to, &from, sizeof to);
        __asm__ volatile("" : : "r"(&to) : "memory");
    }
}

/* ---- 100 operations into the queue, durable ---- */

static cs_queue *queue;
static sqlite3 *plain_queue;
static sqlite3_stmt *plain_put;
static struct cs_buf waiting; /* their bytes */

static void our_queue(void)
{
    static uint64_t n;
    struct cs_queue_set set = { .number = ++n, .operations = SMALL, .content = cs_buf_slice(&waiting) };
    struct cs_error err;

    cs_store_u64(waiting.data + waiting.len - 8, n); /* another set each time */
    memcpy(set.batch, &n, sizeof n);
    if (cs_queue_put(queue, &set, 1, CS_QUEUE_PENDING, "offline", &err) != CS_OK)
        cs_bench_die("queue", err.msg);
}

static void raw_queue(void)
{
    sqlite3_bind_blob(plain_put, 1, waiting.data, (int)waiting.len, SQLITE_STATIC);
    if (sqlite3_step(plain_put) != SQLITE_DONE)
        cs_bench_die("queue", sqlite3_errmsg(plain_queue));
    sqlite3_reset(plain_put);
}

static void queue_prepare(void)
{
    static struct cs_rng rng;
    struct cs_queue_options o = { .path = cs_bench_path("queue.db"), .key = key, .rng = &rng };
    struct cs_error err;

    rng = (struct cs_rng){ .world = cs_world_real() };
    if (cs_delta_encode(&waiting, &few, &err) != CS_OK)
        cs_bench_die("queue", err.msg);
    cs_buf_put_u64(&waiting, 0);
    if (waiting.failed || cs_queue_open(&queue, cs_world_real(), &o, &err) != CS_OK)
        cs_bench_die("queue", err.msg);
    if (sqlite3_open(cs_bench_path("plain-queue.db"), &plain_queue) != SQLITE_OK)
        cs_bench_die("queue", "cannot open a database");
    cs_bench_exec(plain_queue, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE q(id INTEGER PRIMARY "
                               "KEY, content BLOB)");
    if (sqlite3_prepare_v2(plain_queue, "INSERT INTO q(content) VALUES(?1)", -1, &plain_put, NULL) != SQLITE_OK)
        cs_bench_die("queue", sqlite3_errmsg(plain_queue));
}

static void queue_end(void)
{
    sqlite3_finalize(plain_put);
    sqlite3_close(plain_queue);
    cs_queue_close(queue);
    cs_buf_free(&waiting);
}

static const struct stage {
    const char *name, *reference;
    void (*ours)(void), (*theirs)(void);
} stages[] = {
    { "pack 1,000 inserted rows", "zstd, secretbox, BLAKE3 and Ed25519 on the same bytes", our_pack, libraries_pack },
    { "of that: encode", "memcpy of the encoded bytes", our_encode, copy },
    { "pack 100 inserted rows", "packing 1,000 of them", our_pack_few, our_pack },
    { "unpack 1,000 inserted rows", "BLAKE3, secretbox and zstd on the same bytes", our_unpack, libraries_unpack },
    { "seal 512 KiB", "crypto_secretbox_easy", our_box, raw_box },
    { "open 512 KiB", "crypto_secretbox_open_easy", our_open, raw_open },
    { "BLAKE3 of 1 MiB", "the BLAKE3 library", our_hash, raw_hash },
    { "1,000 ticks of the clock", "1,000 increments", our_clock, raw_clock },
    { "merge of 1,000 conflicting edits", "1,000 copies of a version and a value", our_merge, raw_merge },
    { "100 operations into the queue, durable", "a plain INSERT of their bytes", our_queue, raw_queue },
};

static double timed(void (*what)(void))
{
    double begin = cs_bench_now_s();

    for (int i = 0; i < REPEAT; i++)
        what();
    return (cs_bench_now_s() - begin) / REPEAT;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void stage_run(const struct stage *s)
{
    double ours[MAX_RUNS], theirs[MAX_RUNS], ratio[MAX_RUNS];

    timed(s->ours);
    for (uint32_t i = 0; i < nruns; i++) {
        ours[i] = timed(s->ours);
        theirs[i] = timed(s->theirs);
        ratio[i] = ours[i] / theirs[i];
    }
    cs_bench_record("stages", s->name, s->reference, 1, ours, theirs, nruns);
    qsort(ours, nruns, sizeof *ours, by_value);
    qsort(theirs, nruns, sizeof *theirs, by_value);
    qsort(ratio, nruns, sizeof *ratio, by_value);
    printf("| %-38s | %9.4f ms | %9.4f ms | %6.2f x | %s\n", s->name, ours[nruns / 2] * 1e3, theirs[nruns / 2] * 1e3,
           ratio[nruns / 2], s->reference);
}

/* The rows as a delta set that outlives its replica, and all that the stages need of it. */
static void prepare(struct cs_arena *arena)
{
    sqlite3 *app = cs_bench_open_plain("a.db", true);
    struct cs_error err;

    replica = cs_bench_open_replica("a.db", 1);
    cs_bench_track(replica);
    cs_bench_insert(app, true);
    cs_bench_seal(replica);
    if (cs_replica_extract(replica, arena, ROWS, LONG, &delta, &err) != CS_OK)
        cs_bench_die("extract", err.msg);
    few = delta;
    few.nops = few.nops < SMALL ? few.nops : SMALL;
    cs_bench_send(replica, packer, &batches, 0);
    sqlite3_close(app);
    message = calloc(1, 2 * LONG);
    boxed = calloc(1, 2 * LONG);
    if (message == NULL || boxed == NULL)
        cs_bench_die("start", "out of memory");
    crypto_sign_keypair(pk, sk);
    our_encode();
    if (!cs_buf_reserve(&packed, ZSTD_compressBound(encoded.len)))
        cs_bench_die("start", "out of memory");
    packed.len = ZSTD_compress(packed.data, ZSTD_compressBound(encoded.len), encoded.data, encoded.len, 1);
}

int main(int argc, char **argv)
{
    struct cs_arena arena = { 0 };

    if (argc > 1)
        nruns = (uint32_t)strtoul(argv[1], NULL, 10);
    if (nruns < 1 || nruns > MAX_RUNS) {
        fprintf(stderr, "usage: stages_bench [RUNS 1..%d]\n", MAX_RUNS);
        return 2;
    }
    cs_bench_init("stages_bench", ROWS);
    packer = cs_bench_packer();
    prepare(&arena);
    queue_prepare();
    printf("| %-38s | %12s | %12s | %8s "
           "|\n|----------------------------------------|--------------|--------------|----------|\n",
           "", "ours", "raw", "ratio");
    for (size_t i = 0; i < sizeof stages / sizeof stages[0]; i++)
        stage_run(&stages[i]);
    queue_end();
    cs_arena_free(&merge_arena);
    free(message);
    free(boxed);
    cs_buf_free(&encoded);
    cs_buf_free(&packed);
    cs_bench_batches_free(&batches);
    cs_replica_close(replica);
    cs_arena_free(&arena);
    cs_packer_free(packer);
    cs_bench_fini();
    return 0;
}
