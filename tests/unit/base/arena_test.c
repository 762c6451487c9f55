#include "base/arena.h"

#include <stdalign.h>

#include "unit/base/base_fixture.h"

static void allocations_are_aligned_and_apart(void **state)
{
    struct cs_arena a = { 0 };
    uint8_t *p[300];

    (void)state;
    for (size_t i = 0; i < 300; i++) {
        p[i] = cs_arena_alloc(&a, i);
        assert_non_null(p[i]); /* also of 0 bytes */
        assert_int_equal((uintptr_t)p[i] % alignof(max_align_t), 0);
        memset(p[i], (int)(i & 0xff), i);
    }
    for (size_t i = 0; i < 300; i++)
        for (size_t k = 0; k < i; k++)
            assert_int_equal(p[i][k], i & 0xff);
    assert_true(a.total >= 300 * 299 / 2);
    cs_arena_free(&a);
    assert_null(a.head);
    assert_int_equal(a.total, 0);
    cs_arena_free(NULL);
}

static void large_ones_fit(void **state)
{
    struct cs_arena a = { 0 };
    uint8_t *small = cs_arena_alloc(&a, 10), *large = cs_arena_alloc(&a, 5 << 20), *after = cs_arena_alloc(&a, 10);

    (void)state;
    assert_non_null(large);
    memset(small, 1, 10);
    memset(large, 2, 5 << 20);
    memset(after, 3, 10);
    assert_int_equal(small[9], 1);
    assert_int_equal(large[(5 << 20) - 1], 2);
    cs_arena_free(&a);
}

static void impossible_sizes_are_refused(void **state)
{
    struct cs_arena a = { 0 };

    (void)state;
    assert_null(cs_arena_alloc(&a, SIZE_MAX));
    assert_null(cs_arena_alloc(&a, SIZE_MAX / 2));
    assert_null(cs_arena_zalloc(&a, SIZE_MAX / 8, 16));
    assert_null(cs_arena_zalloc(&a, SIZE_MAX, SIZE_MAX));
    assert_non_null(cs_arena_zalloc(&a, SIZE_MAX, 0));
    assert_non_null(cs_arena_alloc(&a, 1));
    cs_arena_free(&a);
}

static void zeroed_memory_is_zero_after_a_reset(void **state)
{
    struct cs_arena a = { 0 };
    uint8_t *p;

    (void)state;
    memset(cs_arena_alloc(&a, 1000), 0xff, 1000);
    cs_arena_reset(&a);
    p = cs_arena_zalloc(&a, 10, 100);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(p[i], 0);
    cs_arena_free(&a);
}

static void a_reset_keeps_one_block(void **state)
{
    struct cs_arena a = { 0 };
    size_t kept;

    (void)state;
    cs_arena_reset(&a); /* nothing yet */
    for (int i = 0; i < 100; i++)
        assert_non_null(cs_arena_alloc(&a, 50000));
    cs_arena_reset(&a);
    kept = a.total;
    assert_true(kept > 0 && kept <= 2 << 20);
    for (int i = 0; i < 10; i++) {
        assert_non_null(cs_arena_alloc(&a, 50000));
        cs_arena_reset(&a);
        assert_int_equal(a.total, kept);
    }
    cs_arena_free(&a);
}

static void copies_are_their_own(void **state)
{
    struct cs_arena a = { 0 };
    char text[] = "text";
    char *copy = cs_arena_str(&a, text);
    struct cs_slice bytes = cs_arena_copy(&a, cs_slice(text, 4)), none = cs_arena_copy(&a, CS_SLICE_NULL);

    (void)state;
    memset(text, 'x', 4);
    assert_string_equal(copy, "text");
    assert_true(cs_slice_eq(bytes, cs_slice_str("text")));
    assert_non_null(none.data);
    assert_int_equal(none.len, 0);
    cs_arena_free(&a);
}

static void lists_grow(void **state)
{
    struct cs_arena a = { 0 };
    uint32_t *list = NULL, cap = 0;

    (void)state;
    for (uint32_t n = 0; n < 1000; n++) {
        assert_true(cs_arena_grow(&a, &list, n, &cap, sizeof *list));
        assert_true(n < cap);
        assert_int_equal(list[n], 0);
        list[n] = n + 1;
    }
    for (uint32_t n = 0; n < 1000; n++)
        assert_int_equal(list[n], n + 1);
    assert_false(cs_arena_grow(&a, &list, cap, &cap, SIZE_MAX / 2));
    assert_int_equal(list[0], 1);
    cs_arena_free(&a);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        ONLY(allocations_are_aligned_and_apart),
        ONLY(large_ones_fit),
        ONLY(impossible_sizes_are_refused),
        ONLY(zeroed_memory_is_zero_after_a_reset),
        ONLY(a_reset_keeps_one_block),
        ONLY(copies_are_their_own),
        ONLY(lists_grow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
