/* How fast the merge and the deciding of rows are, each beside the least that it must do: a merge writes a row's state,
 * deciding puts rows into the order of their age.
 *   crdt_bench [RUNS]   default 5 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/world.h"
#include "crdt/project.h"
#include "records.h"

enum { CELLS = 6, MERGES = 1000000, ROWS = 5000, MOST_RUNS = 100 };

/* Its runs, in seconds: ours and the reference, one after the other. */
struct bench {
    const char *name, *reference;
    uint32_t n;
    double ours[MOST_RUNS], theirs[MOST_RUNS];
};

static uint64_t now_ns(void)
{
    return cs_monotonic_ns(cs_world_real());
}

static double since(uint64_t start)
{
    return (double)(now_ns() - start) / 1e9;
}

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "crdt_bench: %s failed\n", what);
    exit(1);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *v, uint32_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return v[n / 2];
}

static void report(struct bench *b, uint32_t runs)
{
    double ratios[MOST_RUNS];

    cs_bench_record("merge", b->name, b->reference, b->n, b->ours, b->theirs, runs);
    for (uint32_t i = 0; i < runs; i++)
        ratios[i] = b->ours[i] / b->theirs[i];
    printf("| %s | %.0f /s | %.2f x %s |\n", b->name, b->n / median(b->ours, runs), median(ratios, runs), b->reference);
}

/* ---- merging ---- */

static const struct cs_value *value_of(void *arg, uint32_t col)
{
    return &((const struct cs_op_cell *)arg)[col].value;
}

struct merges {
    struct cs_arena arena;
    struct cs_merge_out out;
    struct cs_row row;
    struct cs_op_cell cells[CELLS];
    struct cs_row_cell over;
    struct cs_merge_in in;
};

static double inserts(struct merges *m, bool again)
{
    uint64_t t = now_ns();
    int rc = CS_OK;

    for (int64_t i = 1; i <= MERGES; i++) {
        if (!again) {
            m->row.ins = m->row.del = CS_NEVER;
            m->row.ncells = 0;
        }
        m->in.v.stamp = i;
        rc |= cs_row_merge(&m->row, &m->in, &m->out, &m->arena);
    }
    must(rc == CS_OK, "a merge");
    return since(t);
}

/* Each over the one before it; or, concurrent ones, all over the first. */
static double updates(struct merges *m, bool concurrent)
{
    struct cs_merge_in in = m->in;
    uint64_t t = now_ns();
    int rc = CS_OK;

    in.kind = CS_OP_UPDATE;
    in.ncells = 1;
    in.over = &m->over;
    in.nover = 1;
    m->over.v = in.v;
    for (int64_t i = 1; i <= MERGES; i++) {
        if (!concurrent)
            m->over.v = in.v;
        in.v.stamp++;
        rc |= cs_row_merge(&m->row, &in, &m->out, &m->arena);
    }
    must(rc == CS_OK, "a merge");
    return since(t);
}

/* A row's state, of which a compiler must not think that nobody looks at it. */
static double copies(void)
{
    struct {
        struct cs_version ins, del;
        struct cs_row_cell cells[CELLS];
    } from = { .ins.stamp = 1 }, to;
    uint64_t t = now_ns();

    for (int64_t i = 1; i <= MERGES; i++) {
        from.ins.stamp = i;
        memcpy(&to, &from, sizeof to);
        __asm__ volatile("" : : "r"(&to) : "memory");
    }
    return since(t);
}

static void merges(uint32_t runs)
{
    static const char reference[] = "copies of a row's state";
    static struct bench benches[] = { { .name = "inserts of 6 cells into an empty row" },
                                      { .name = "the same insert again" },
                                      { .name = "updates of 1 of 6 cells" },
                                      { .name = "updates of 1 of 6 cells, all concurrent" } };
    struct merges m = { .over = { 0, { 1, { { 0 } } } } };

    m.in = (struct cs_merge_in){
        .kind = CS_OP_INSERT, .cells = m.cells, .ncells = CELLS, .value = value_of, .arg = m.cells
    };
    for (uint32_t c = 0; c < CELLS; c++)
        m.cells[c] = (struct cs_op_cell){ c, { .type = CS_INTEGER, .u.i = c } };
    for (uint32_t run = 0; run < runs; run++)
        for (uint32_t i = 0; i < 4; i++) {
            benches[i].ours[run] = i < 2 ? inserts(&m, i == 1) : updates(&m, i == 3);
            benches[i].theirs[run] = copies();
            cs_arena_reset(&m.arena);
        }
    for (uint32_t i = 0; i < 4; i++) {
        benches[i].n = MERGES;
        benches[i].reference = reference;
        report(&benches[i], runs);
    }
    cs_arena_free(&m.arena);
}

/* ---- deciding ---- */

static struct cs_entity entities[ROWS];
static struct cs_parents sets[ROWS];
static uint32_t rows[ROWS], parents[ROWS], claims[ROWS][2];

static int by_age(const void *a, const void *b)
{
    int64_t x = (*(const struct cs_entity *const *)a)->age.ins.stamp;
    int64_t y = (*(const struct cs_entity *const *)b)->age.ins.stamp;

    return (x > y) - (x < y);
}

static double sorts(void)
{
    static const struct cs_entity *sorted[ROWS];
    uint64_t t = now_ns();

    for (uint32_t i = 0; i < ROWS; i++)
        sorted[i] = &entities[i];
    qsort(sorted, ROWS, sizeof *sorted, by_age);
    __asm__ volatile("" : : "r"(sorted) : "memory");
    return since(t);
}

/* Rows where each has the one before as its parent; ring: the first has the last. Each claims a key of its own, and
 * one for all if they are rivals. */
static void decide(const char *what, bool linked, bool ring, bool rivals, uint32_t nruns)
{
    static bool shown[ROWS];
    struct cs_decide_in in = { entities, sets, ROWS, ROWS, ROWS + 1 };
    struct bench b = { .name = what, .reference = "sorting the rows by age", .n = ROWS };
    struct cs_arena a = { 0 };

    for (uint32_t i = 0; i < ROWS; i++) {
        rows[i] = i > 0 ? i - 1 : ROWS - 1;
        sets[i] = (struct cs_parents){ &rows[i], 1 };
        parents[i] = i;
        claims[i][0] = i;
        claims[i][1] = ROWS;
        entities[i] = (struct cs_entity){ .age.ins.stamp = i * 2654435761U % ROWS,
                                          .claims = claims[i],
                                          .nclaims = rivals ? 2 : 1,
                                          .parents = &parents[i],
                                          .nparents = linked && (i > 0 || ring) ? 1 : 0 };
    }
    for (uint32_t run = 0; run < nruns; run++) {
        uint64_t t = now_ns();

        must(cs_decide(&in, shown, &a) == CS_OK, "deciding");
        b.ours[run] = since(t);
        b.theirs[run] = sorts();
        cs_arena_reset(&a);
    }
    report(&b, nruns);
    cs_arena_free(&a);
}

int main(int argc, char **argv)
{
    long runs = argc > 1 ? strtol(argv[1], NULL, 10) : 5;

    if (runs < 1 || runs > MOST_RUNS) {
        fprintf(stderr, "crdt_bench: RUNS is a number from 1 to %d\n", MOST_RUNS);
        return 2;
    }
    printf("| merging and deciding | median | ratio, run by run |\n|---|---|---|\n");
    merges((uint32_t)runs);
    decide("rows decided, 5000 in a chain", true, false, false, (uint32_t)runs);
    decide("rows decided, 5000 in a ring", true, true, false, (uint32_t)runs);
    decide("rows decided, 5000 that want one key", false, false, true, (uint32_t)runs);
    decide("rows decided, a chain that wants one key", true, false, true, (uint32_t)runs);
    decide("rows decided, a ring that wants one key", true, true, true, (uint32_t)runs);
    return 0;
}
