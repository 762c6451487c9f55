/* Workload W (docs/benchmarks.md) on the replica and the packer, each beside plain SQLite in the same run. Runs are
 * interleaved with their reference; prints medians, spread and ratios.
 *   replica_bench [ROWS [RUNS]]      default 100000 rows, 5 runs */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "workload.h"

enum { MAX_RUNS = 101 };

static uint32_t nruns = 5;

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
    printf("| %-34s | %9.0f | %9.0f | %5.2f x | %3.0f %% |\n", ours->name, cs_bench_rows / median(ours),
           cs_bench_rows / median(reference), median(&ratio), spread(&ratio));
    cs_bench_record("capture", ours->name, reference->name, cs_bench_rows, ours->v, reference->v, nruns);
}

static void print_rate(const struct series *ours, const struct series *reference)
{
    struct series ratio = { .name = ours->name };

    for (uint32_t i = 0; i < nruns; i++)
        ratio.v[i] = reference->v[i] / ours->v[i];
    printf("| %-34s | %9.0f | %9.0f | %5.2f   | %3.0f %% |\n", ours->name, cs_bench_rows / median(ours),
           cs_bench_rows / median(reference), median(&ratio), spread(ours));
    cs_bench_record("sync", ours->name, reference->name, cs_bench_rows, ours->v, reference->v, nruns);
}

static void bench_capture(void)
{
    static struct series s[8] = {
        { .name = "capture: inserts, ordered ids" }, { .name = "capture: inserts, random ids" },
        { .name = "capture: updates, key order" },   { .name = "capture: updates, random order" },
        { .name = "plain inserts, ordered ids" },    { .name = "plain inserts, random ids" },
        { .name = "plain updates, key order" },      { .name = "plain updates, random order" },
    };

    for (uint32_t run = 0; run < nruns; run++) {
        for (int order = 0; order < 2; order++) {
            sqlite3 *plain = cs_bench_open_plain("plain.db", true), *tracked = cs_bench_open_plain("tracked.db", true);
            cs_replica *r = cs_bench_open_replica("tracked.db", 1);

            cs_bench_track(r);
            s[4 + order].v[run] = cs_bench_insert(plain, order == 0);
            s[order].v[run] = cs_bench_insert(tracked, order == 0);
            cs_bench_seal(r);
            s[6 + order].v[run] = cs_bench_update(plain, order == 0, run);
            s[2 + order].v[run] = cs_bench_update(tracked, order == 0, run);
            cs_replica_close(r);
            sqlite3_close(plain);
            sqlite3_close(tracked);
        }
    }
    for (int i = 0; i < 4; i++)
        print_ratio(&s[i], &s[4 + i]);
}

/* Sealed bytes of all batches; plain: of the key and the values that it says. */
static void print_wire(const char *what, uint64_t bytes, uint32_t plain)
{
    double each = (double)bytes / cs_bench_rows;
    char name[64];

    snprintf(name, sizeof name, "on the wire, per %s", what);
    printf("%s: %.1f bytes\n", name, each);
    cs_bench_record_value(name, each, "bytes", each / plain, "its key and values");
}

/* Beside the same rows by prepared statements, in transactions of the same size. */
static void bench_sync(void)
{
    static struct series pack = { .name = "inserts: seal + extract + pack" },
                         apply = { .name = "unpack + apply, empty database" },
                         again = { .name = "re-apply, operation by operation" },
                         update = { .name = "updates: seal + extract + pack" }, plain = { .name = "plain inserts" },
                         plain_update = { .name = "plain updates" }, upsert = { .name = "plain upserts" },
                         no_op = { .name = "plain upserts of known rows" };
    cs_packer *packer = cs_bench_packer();
    uint64_t insert_bytes = 0, update_bytes = 0, delete_bytes = 0;
    int64_t plain_size = 0, ours_size = 0;

    for (uint32_t run = 0; run < nruns; run++) {
        sqlite3 *p = cs_bench_open_plain("plain.db", true), *a = cs_bench_open_plain("a.db", true),
                *b = cs_bench_open_plain("b.db", true);
        cs_replica *ra = cs_bench_open_replica("a.db", 1), *rb = cs_bench_open_replica("b.db", 2);
        struct cs_bench_batches inserts = { 0 }, updates = { 0 }, deletes = { 0 };

        cs_bench_track(ra);
        cs_bench_track(rb);
        upsert.v[run] = cs_bench_upsert(p, true);
        no_op.v[run] = cs_bench_upsert(p, true);
        sqlite3_close(p);
        p = cs_bench_open_plain("plain.db", true);
        plain.v[run] = cs_bench_insert(p, true);
        cs_bench_insert(a, true);
        pack.v[run] = cs_bench_send(ra, packer, &inserts, 0);
        apply.v[run] = cs_bench_receive(rb, packer, &inserts, 1);
        again.v[run] = cs_bench_receive(rb, packer, &inserts, inserts.n + 1);
        plain_update.v[run] = cs_bench_update(p, true, run);
        cs_bench_update(a, true, run);
        update.v[run] = cs_bench_send(ra, packer, &updates, inserts.n);
        cs_bench_exec(a, "DELETE FROM memory_records");
        cs_bench_send(ra, packer, &deletes, inserts.n + updates.n);
        insert_bytes = inserts.bytes;
        update_bytes = updates.bytes;
        delete_bytes = deletes.bytes;
        cs_bench_exec(b, "PRAGMA wal_checkpoint(TRUNCATE)");
        cs_bench_exec(p, "PRAGMA wal_checkpoint(TRUNCATE)");
        plain_size = cs_bench_file_size("plain.db");
        ours_size = cs_bench_file_size("b.db");
        cs_bench_batches_free(&inserts);
        cs_bench_batches_free(&updates);
        cs_bench_batches_free(&deletes);
        cs_replica_close(ra);
        cs_replica_close(rb);
        sqlite3_close(p);
        sqlite3_close(a);
        sqlite3_close(b);
    }
    print_rate(&pack, &plain);
    print_rate(&update, &plain_update);
    print_rate(&apply, &upsert);
    print_rate(&again, &no_op);
    print_wire("inserted row", insert_bytes, 266);
    print_wire("update of an integer", update_bytes, 44);
    print_wire("delete", delete_bytes, 36);
    printf("database file after a bootstrap: %.2f x plain\n", (double)ours_size / (double)plain_size);
    cs_bench_record_value("database file after a bootstrap", (double)ours_size / 1048576, "MiB",
                          (double)ours_size / (double)plain_size, "the plain one");
    cs_packer_free(packer);
}

int main(int argc, char **argv)
{
    uint32_t rows = 100000;

    if (argc > 1)
        rows = (uint32_t)strtoul(argv[1], NULL, 10);
    if (argc > 2)
        nruns = (uint32_t)strtoul(argv[2], NULL, 10);
    if (rows < 1000 || nruns < 1 || nruns > MAX_RUNS) {
        fprintf(stderr, "usage: replica_bench [ROWS >= 1000 [RUNS 1..%d]]\n", MAX_RUNS);
        return 2;
    }
    cs_bench_init("replica_bench", rows);
    printf("workload W: %u rows, transactions of %d, %u runs, SQLite %s\n\n", rows, CS_BENCH_TRANSACTION, nruns,
           sqlite3_libversion());
    printf("| %-34s | %9s | %9s | %7s | %5s |\n", "", "rows/s", "plain", "ratio", "spread");
    printf("|------------------------------------|-----------|-----------|---------|-------|\n");
    bench_capture();
    bench_sync();
    cs_bench_fini();
    return 0;
}
