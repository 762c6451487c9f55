/* The merge's contract with its caller: when it asks for values, what it allocates, what it refuses; and deciding with
 * rows that are known from outside. What the merge decides is for the vectors and the tests in tests/crdt. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"
#include "crdt/project.h"

enum { NCELLS = 3 };

struct world {
    struct cs_arena arena;
    struct cs_row row;
    struct cs_merge_out out;
    struct cs_op_cell cells[NCELLS];
    struct cs_row_cell over[NCELLS];
    uint32_t asked;
    bool refuses;
};

static const struct cs_value *value_of(void *arg, uint32_t col)
{
    static struct cs_value v;
    struct world *w = arg;

    w->asked++;
    v = (struct cs_value){ .type = CS_INTEGER, .u.i = col };
    return w->refuses ? NULL : &v;
}

static struct cs_merge_in operation(struct world *w, enum cs_op_kind kind, int64_t stamp)
{
    struct cs_merge_in in = { .kind = kind, .v.stamp = stamp, .cells = w->cells, .over = w->over, .arg = w };

    for (uint32_t i = 0; i < NCELLS; i++) {
        w->cells[i] = (struct cs_op_cell){ i * 2, { .type = CS_INTEGER, .u.i = i * 2 } };
        w->over[i] = (struct cs_row_cell){ i * 2, { 10, { { 0 } } } };
    }
    in.value = value_of;
    in.ncells = kind == CS_OP_DELETE ? 0 : NCELLS;
    in.nover = kind == CS_OP_INSERT ? 0 : NCELLS;
    return in;
}

/* A row that was inserted at 10. */
static void given_a_row(struct world *w)
{
    struct cs_merge_in in;

    *w = (struct world){ 0 };
    in = operation(w, CS_OP_INSERT, 10);
    assert_int_equal(cs_row_merge(&w->row, &in, &w->out, &w->arena), CS_OK);
    assert_true(w->out.changed && w->out.ins_changed && w->out.lives && !w->out.lived);
    assert_int_equal(w->asked, 0);
}

static const struct asks_case {
    const char *name;
    enum cs_op_kind kind;
    int64_t stamp;
    uint32_t nover, asked, conflicts;
} asks[] = {
    { "an update that saw what it overwrites", CS_OP_UPDATE, 20, NCELLS, 0, 0 },
    { "an update that did not: same values, no conflict", CS_OP_UPDATE, 20, 0, NCELLS, 0 },
    { "a delete that saw everything", CS_OP_DELETE, 20, NCELLS, 0, 0 },
    { "a delete that saw less", CS_OP_DELETE, 20, 1, NCELLS - 1, NCELLS - 1 },
    { "an older delete", CS_OP_DELETE, 5, 0, 0, 0 },
    { "the same insert again", CS_OP_INSERT, 10, 0, NCELLS, 0 },
};

static void values_are_asked_for_only_where_they_decide(void **state)
{
    struct world w;
    struct cs_merge_in in;

    (void)state;
    for (size_t i = 0; i < sizeof asks / sizeof asks[0]; i++) {
        given_a_row(&w);
        in = operation(&w, asks[i].kind, asks[i].stamp);
        in.nover = asks[i].nover;
        assert_int_equal(cs_row_merge(&w.row, &in, &w.out, &w.arena), CS_OK);
        if (w.asked != asks[i].asked || w.out.nconflicts != asks[i].conflicts)
            fail_msg("%s: asked %u times, %u conflicts", asks[i].name, w.asked, w.out.nconflicts);
        cs_arena_free(&w.arena);
    }
}

static void a_value_that_cannot_be_had_stops_the_merge(void **state)
{
    struct world w;
    struct cs_merge_in in;

    (void)state;
    for (size_t i = 0; i < sizeof asks / sizeof asks[0]; i++) {
        given_a_row(&w);
        w.refuses = true;
        in = operation(&w, asks[i].kind, asks[i].stamp);
        in.nover = asks[i].nover;
        assert_int_equal(cs_row_merge(&w.row, &in, &w.out, &w.arena), asks[i].asked > 0 ? CS_EIO : CS_OK);
        cs_arena_free(&w.arena);
    }
}

static void a_warm_merge_allocates_nothing(void **state)
{
    struct world w;
    struct cs_merge_in in;
    size_t used;

    (void)state;
    given_a_row(&w);
    in = operation(&w, CS_OP_DELETE, 11);
    assert_int_equal(cs_row_merge(&w.row, &in, &w.out, &w.arena), CS_OK);
    used = w.arena.used;
    for (int64_t i = 12; i < 1000; i++) {
        in = operation(&w, i % 3 == 0 ? CS_OP_DELETE : i % 3 == 1 ? CS_OP_INSERT : CS_OP_UPDATE, i);
        assert_int_equal(cs_row_merge(&w.row, &in, &w.out, &w.arena), CS_OK);
    }
    assert_int_equal(w.arena.used, used);
    cs_arena_free(&w.arena);
}

static void new_columns_are_woven_in(void **state)
{
    struct world w;
    struct cs_merge_in in;
    struct cs_op_cell cells[4];

    (void)state;
    given_a_row(&w); /* columns 0, 2, 4 */
    for (uint32_t i = 0; i < 4; i++)
        cells[i] = (struct cs_op_cell){ i * 2 + (i > 0 ? 1 : 0), { .type = CS_INTEGER, .u.i = 7 } }; /* 0, 3, 5, 7 */
    in = operation(&w, CS_OP_UPDATE, 12);
    in.cells = cells;
    in.ncells = 4;
    assert_int_equal(cs_row_merge(&w.row, &in, &w.out, &w.arena), CS_OK);
    assert_int_equal(w.row.ncells, 6);
    for (uint32_t i = 0; i < 6; i++) {
        static const uint32_t cols[] = { 0, 2, 3, 4, 5, 7 };
        static const int64_t stamps[] = { 12, 10, 12, 10, 12, 12 };

        assert_int_equal(w.row.cells[i].col, cols[i]);
        assert_int_equal(w.row.cells[i].v.stamp, stamps[i]);
        assert_ptr_equal(cs_row_find(&w.row, cols[i]), &w.row.cells[i]);
    }
    assert_null(cs_row_find(&w.row, 1));
    assert_null(cs_row_find(&w.row, 8));
    cs_arena_free(&w.arena);
}

/* ---- sets that break the rules ---- */

static void bad_sets_are_refused(void **state)
{
    static const uint8_t null_key[] = { 0, 0, 0, 1, 0 };
    struct cs_slice columns[2] = { cs_slice_str("a"), cs_slice_str("b") };
    struct cs_delta_table table = { cs_slice_str("t"), columns, 2 };
    struct cs_uuid device = { { 1 } };
    struct cs_op_cell cells[2] = { { 0, { 0 } }, { 1, { 0 } } };
    struct cs_op_over over[2] = { { 0, 0, 1 }, { 1, 0, 1 } };
    const struct cs_op good = { CS_OP_UPDATE, 0, 0, 5, { null_key, 5 }, cells, over, 2, 2 };
    struct cs_op op = good;
    struct cs_delta d = { .tables = &table, .devices = &device, .ops = &op, .ntables = 1, .ndevices = 1, .nops = 1 };
    struct cs_state s = { 0 };

#define REFUSED(change)                                                                                                \
    do {                                                                                                               \
        op = good;                                                                                                     \
        change;                                                                                                        \
        assert_int_equal(cs_state_apply(&s, &d, NULL, NULL), CS_EINVAL);                                               \
    } while (0)
    (void)state;
    assert_int_equal(cs_state_apply(&s, &d, NULL, NULL), CS_OK);
    REFUSED(op.table = 1);
    REFUSED(op.device = 1);
    REFUSED(op.stamp = 0);
    REFUSED(op.stamp = -1);
    REFUSED(op.kind = (enum cs_op_kind)4);
    REFUSED(op.kind = CS_OP_DELETE);                        /* with cells */
    REFUSED(op.kind = CS_OP_INSERT);                        /* with over */
    REFUSED(op.key.len = 4);                                /* cut off */
    REFUSED(cells[1].col = 2);                              /* no such column */
    REFUSED(cells[1].col = 0);                              /* twice */
    REFUSED((cells[1].col = 1, over[1].col = 0));           /* twice */
    REFUSED((over[1].col = 1, over[0].device = 1));         /* no such device */
    REFUSED((over[0].device = 0, columns[1] = columns[0])); /* two columns of one name */
    cs_state_free(&s);
#undef REFUSED
}

/* ---- deciding ---- */

static void known_rows_count_and_stay(void **state)
{
    static const uint32_t key[] = { 0 }, first[] = { 0 }, set[] = { 0 };
    struct cs_parents sets[] = { { first, 1 } };
    struct cs_entity e[] = {
        { .age.ins.stamp = 9, .fixed = CS_SHOWN, .claims = key, .nclaims = 1 },
        { .age.ins.stamp = 1, .claims = key, .nclaims = 1 }, /* older, but the key is held */
        { .age.ins.stamp = 2, .parents = set, .nparents = 1 },
    };
    struct cs_decide_in in = { e, sets, 3, 1, 1 };
    struct cs_arena a = { 0 };
    bool shown[3];

    (void)state;
    assert_int_equal(cs_decide(&in, shown, &a), CS_OK);
    assert_true(shown[0] && !shown[1] && shown[2]);
    e[0].fixed = CS_HIDDEN;
    assert_int_equal(cs_decide(&in, shown, &a), CS_OK);
    assert_true(!shown[0] && shown[1] && !shown[2]);
    cs_arena_free(&a);
}

static void numbers_out_of_range_are_refused(void **state)
{
    static const uint32_t one[] = { 1 };
    struct cs_parents sets[] = { { one, 1 } };
    struct cs_entity e = { .claims = one, .nclaims = 1 };
    struct cs_decide_in in = { &e, sets, 1, 0, 1 };
    struct cs_arena a = { 0 };
    bool shown[1];

    (void)state;
    assert_int_equal(cs_decide(&in, shown, &a), CS_EINVAL);
    e = (struct cs_entity){ .parents = one, .nparents = 1 };
    assert_int_equal(cs_decide(&in, shown, &a), CS_EINVAL);
    e.nparents = 0;
    in.nsets = 1; /* whose row there is not */
    assert_int_equal(cs_decide(&in, shown, &a), CS_EINVAL);
    in = (struct cs_decide_in){ 0 };
    assert_int_equal(cs_decide(&in, shown, &a), CS_OK);
    cs_arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_asked_for_only_where_they_decide),
        cmocka_unit_test(a_value_that_cannot_be_had_stops_the_merge),
        cmocka_unit_test(a_warm_merge_allocates_nothing),
        cmocka_unit_test(new_columns_are_woven_in),
        cmocka_unit_test(bad_sets_are_refused),
        cmocka_unit_test(known_rows_count_and_stay),
        cmocka_unit_test(numbers_out_of_range_are_refused),
    };

    return cmocka_run_group_tests_name("merge", tests, NULL, NULL);
}
