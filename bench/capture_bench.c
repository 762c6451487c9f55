/* What capture costs an application beside plain SQLite: tables of several shapes, bulk and single-row transactions;
 * inserts, updates of one column, deletes. Runs take turns with their reference. capture_bench [ROWS [RUNS]] default
 * 20000 rows (shapes with long values or small transactions: a tenth), 5 runs */
#include <stdio.h>
#include <stdlib.h>

#include "workload.h"

enum { MAX_RUNS = 101, OPS = 3, LONGEST = 10240 };

static uint32_t nruns = 5;

static const struct shape {
    const char *name;
    uint32_t columns, bytes, transaction,
        share; /* beside the key; of the first column's text; rows; 1/share of the rows */
} shapes[] = {
    { "1 column", 1, 20, 1000, 1 },
    { "6 columns", 6, 20, 1000, 1 },
    { "40 columns", 40, 20, 1000, 1 },
    { "6 columns, one of 10 KiB", 6, LONGEST, 1000, 10 },
    { "6 columns, one row a transaction", 6, 20, 1, 10 },
};
static const char *const ops[OPS] = { "inserts", "updates", "deletes" };

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *s;

    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
        cs_bench_die(sql, sqlite3_errmsg(db));
    return s;
}

static void create(sqlite3 *db, const struct shape *shape)
{
    char sql[1024];
    int n = snprintf(sql, sizeof sql, "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL");

    for (uint32_t i = 1; i <= shape->columns; i++)
        n += snprintf(sql + n, sizeof sql - (size_t)n, ", c%u", i);
    snprintf(sql + n, sizeof sql - (size_t)n, ")");
    cs_bench_exec(db, sql);
}

static sqlite3_stmt *statement(sqlite3 *db, const struct shape *shape, int op)
{
    char sql[1024];
    int n = snprintf(sql, sizeof sql, "INSERT INTO t VALUES(?1");

    if (op == 2)
        return prepare(db, "DELETE FROM t WHERE id = ?1");
    if (op == 1) {
        snprintf(sql, sizeof sql, "UPDATE t SET c%u = ?3 WHERE id = ?1", shape->columns);
        return prepare(db, sql);
    }
    for (uint32_t i = 1; i <= shape->columns; i++)
        n += snprintf(sql + n, sizeof sql - (size_t)n, i == 1 ? ", ?2" : ", ?3");
    snprintf(sql + n, sizeof sql - (size_t)n, ")");
    return prepare(db, sql);
}

/* Seconds. */
static double run(sqlite3 *db, const struct shape *shape, int op)
{
    static char text[LONGEST];
    uint32_t rows = cs_bench_rows / shape->share;
    sqlite3_stmt *s = statement(db, shape, op);
    char id[40];
    double begin;

    memset(text, 't', sizeof text);
    begin = cs_bench_now_s();
    for (uint32_t i = 0; i < rows; i++) {
        if (i % shape->transaction == 0)
            cs_bench_exec(db, "BEGIN");
        sqlite3_bind_text(s, 1, id, snprintf(id, sizeof id, "%08x-0000-4000-8000-%012x", i, i), SQLITE_STATIC);
        if (op == 0)
            sqlite3_bind_text(s, 2, text, (int)shape->bytes, SQLITE_STATIC);
        if (op != 2)
            sqlite3_bind_int64(s, 3, op * 1000000 + (int64_t)i);
        sqlite3_step(s);
        if (sqlite3_reset(s) != SQLITE_OK)
            cs_bench_die(ops[op], sqlite3_errmsg(db));
        if (i % shape->transaction == shape->transaction - 1 || i == rows - 1)
            cs_bench_exec(db, "COMMIT");
    }
    sqlite3_finalize(s);
    return cs_bench_now_s() - begin;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *v)
{
    qsort(v, nruns, sizeof *v, by_value);
    return v[nruns / 2];
}

static void bench(const struct shape *shape)
{
    static double ours[OPS][MAX_RUNS], theirs[OPS][MAX_RUNS], ratio[MAX_RUNS];
    uint32_t rows = cs_bench_rows / shape->share;
    struct cs_error err;
    char name[96], reference[64];

    for (uint32_t k = 0; k < nruns; k++) {
        sqlite3 *plain = cs_bench_open_plain("plain.db", true), *tracked = cs_bench_open_plain("tracked.db", true);
        cs_replica *r;

        create(plain, shape);
        create(tracked, shape);
        r = cs_bench_open_replica("tracked.db", 1);
        if (cs_replica_track(r, "t", NULL, &err) != CS_OK)
            cs_bench_die("track", err.msg);
        cs_bench_seal(r);
        for (int op = 0; op < OPS; op++) {
            theirs[op][k] = run(plain, shape, op);
            ours[op][k] = run(tracked, shape, op);
            cs_bench_seal(r);
        }
        cs_replica_close(r);
        sqlite3_close(plain);
        sqlite3_close(tracked);
    }
    for (int op = 0; op < OPS; op++) {
        snprintf(name, sizeof name, "%s, %s", ops[op], shape->name);
        snprintf(reference, sizeof reference, "plain %s", ops[op]);
        cs_bench_record("capture", name, reference, rows, ours[op], theirs[op], nruns);
        for (uint32_t k = 0; k < nruns; k++)
            ratio[k] = ours[op][k] / theirs[op][k];
        printf("| %-42s | %9.0f | %9.0f | %5.2f x |\n", name, rows / median(ours[op]), rows / median(theirs[op]),
               median(ratio));
    }
}

int main(int argc, char **argv)
{
    uint32_t rows = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 20000;

    if (argc > 2)
        nruns = (uint32_t)strtoul(argv[2], NULL, 10);
    if (rows < 1000 || nruns < 1 || nruns > MAX_RUNS) {
        fprintf(stderr, "usage: capture_bench [ROWS >= 1000 [RUNS 1..%d]]\n", MAX_RUNS);
        return 2;
    }
    cs_bench_init("capture_bench", rows);
    printf("| %-42s | %9s | %9s | %7s |\n", "captured, keys in order", "rows/s", "plain", "time");
    printf("|--------------------------------------------|-----------|-----------|---------|\n");
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        bench(&shapes[i]);
    cs_bench_fini();
    return 0;
}
