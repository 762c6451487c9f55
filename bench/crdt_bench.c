/* How fast the merge and the deciding of rows are. Prints operations, or rows, per second.
 *   crdt_bench */
#include <stdio.h>

#include "base/error.h"
#include "base/world.h"
#include "crdt/project.h"

enum { CELLS = 6, MERGES = 5000000, ROWS = 5000 };

static uint64_t now_ns(void)
{
    return cs_monotonic_ns(cs_world_real());
}
static void report(const char *what, uint64_t n, uint64_t since)
{
    printf("%-44s %12.0f /s\n", what, (double)n * 1e9 / (double)(now_ns() - since));
}

static const struct cs_value *value_of(void *arg, uint32_t col)
{
    return &((const struct cs_op_cell *)arg)[col].value;
}

static void merges(void)
{
    struct cs_arena a = { 0 };
    struct cs_merge_out out = { 0 };
    struct cs_row row = { 0 };
    struct cs_op_cell cells[CELLS];
    struct cs_row_cell over = { 0, { 1, { { 0 } } } };
    struct cs_merge_in in = { .kind = CS_OP_INSERT, .cells = cells, .ncells = CELLS, .value = value_of, .arg = cells };
    uint64_t t = now_ns();
    int rc = CS_OK;

    for (uint32_t c = 0; c < CELLS; c++)
        cells[c] = (struct cs_op_cell){ c, { .type = CS_INTEGER, .u.i = c } };
    for (int64_t i = 1; i <= MERGES; i++) {
        row.ins = row.del = CS_NEVER;
        row.ncells = 0;
        in.v.stamp = i;
        rc |= cs_row_merge(&row, &in, &out, &a);
    }
    report("inserts of 6 cells into an empty row", MERGES, t);
    t = now_ns();
    for (int64_t i = 1; i <= MERGES; i++)
        rc |= cs_row_merge(&row, &in, &out, &a);
    report("the same insert again", MERGES, t);
    in.kind = CS_OP_UPDATE;
    in.ncells = 1;
    in.over = &over;
    in.nover = 1;
    t = now_ns();
    for (int64_t i = 1; i <= MERGES; i++) {
        over.v = in.v;
        in.v.stamp++;
        rc |= cs_row_merge(&row, &in, &out, &a);
    }
    report("updates of 1 of 6 cells", MERGES, t);
    if (rc != CS_OK)
        printf("a merge failed\n");
    printf("%-44s %12zu bytes\n", "memory taken by all of these", a.total);
    cs_arena_free(&a);
}

/* Rows where each has the one before as its parent; ring: the first has the last. Each claims a key of its own, and
 * one for all if they are rivals. */
static void decide(const char *what, bool linked, bool ring, bool rivals)
{
    static struct cs_entity entities[ROWS];
    static struct cs_parents sets[ROWS];
    static uint32_t rows[ROWS], parents[ROWS], claims[ROWS][2];
    static bool shown[ROWS];
    struct cs_decide_in in = { entities, sets, ROWS, ROWS, ROWS + 1 };
    struct cs_arena a = { 0 };
    uint64_t t;

    for (uint32_t i = 0; i < ROWS; i++) {
        rows[i] = i > 0 ? i - 1 : ROWS - 1;
        sets[i] = (struct cs_parents){ &rows[i], 1 };
        parents[i] = i;
        claims[i][0] = i;
        claims[i][1] = ROWS;
        entities[i] = (struct cs_entity){ .age.ins.stamp = ROWS - i,
                                          .claims = claims[i],
                                          .nclaims = rivals ? 2 : 1,
                                          .parents = &parents[i],
                                          .nparents = linked && (i > 0 || ring) ? 1 : 0 };
    }
    t = now_ns();
    if (cs_decide(&in, shown, &a) != CS_OK)
        printf("deciding failed\n");
    report(what, ROWS, t);
    cs_arena_free(&a);
}

int main(void)
{
    merges();
    decide("rows decided, 5000 in a chain", true, false, false);
    decide("rows decided, 5000 in a ring", true, true, false);
    decide("rows decided, 5000 that want one key", false, false, true);
    decide("rows decided, a chain that wants one key", true, false, true);
    decide("rows decided, a ring that wants one key", true, true, true);
    return 0;
}
