/* The entry of a refill: what it says, and who may say it. */
#include "unit/identity/member_scene.h"

static const struct cs_floor from = { 5, 6, { 7 } }, to = { 8, 9, { 10 } };

static int build(struct scene *s, const struct cs_uuid *author, const struct cs_device_keys *by,
                 const struct cs_floor *log)
{
    const struct cs_cut heads[] = { { .id = s->a_id, .number = 3, .hash = { 11 } },
                                    { .id = s->b_id, .number = UINT64_MAX } };

    cs_buf_reset(&s->entry);
    return cs_entry_refill(&s->entry, &s->m, author, by, &from, log, heads, 2, NOW, &s->err);
}

static void what_it_says(void **state)
{
    struct scene *s = *state;
    struct cs_cut head;
    struct cs_floor log;

    assert_int_equal(s->m.refills, 0);
    assert_int_equal(build(s, &s->a_id, &s->a, &to), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(s->m.refills, 1);
    assert_int_equal(s->m.refill_seq, 2);
    assert_int_equal(s->m.refill.log_id, 8);
    assert_int_equal(s->m.refill.number, 9);
    assert_memory_equal(s->m.refill.log_hash, to.log_hash, 32);
    assert_true(cs_entry_refilled(cs_buf_slice(&s->entry), &log));
    assert_int_equal(log.log_id, 8);
    assert_true(cs_entry_head(cs_buf_slice(&s->entry), 0, &head));
    assert_int_equal(cs_uuid_cmp(&head.id, &s->a_id), 0);
    assert_int_equal(head.number, 3);
    assert_int_equal(head.hash[0], 11);
    assert_true(cs_entry_head(cs_buf_slice(&s->entry), 1, &head));
    assert_true(head.number == UINT64_MAX);
    assert_false(cs_entry_head(cs_buf_slice(&s->entry), 2, &head));
    assert_false(cs_entry_refilled(cs_buf_slice(&s->genesis), &log));
    assert_false(cs_entry_head(cs_buf_slice(&s->genesis), 0, &head));
}

static void not_every_log(void **state)
{
    struct scene *s = *state;
    struct cs_floor log = to;

    log.log_id = 0;
    assert_int_equal(build(s, &s->a_id, &s->a, &log), CS_ECORRUPT);
    log.log_id = from.log_id;
    assert_int_equal(build(s, &s->a_id, &s->a, &log), CS_ECORRUPT);
    assert_int_equal(build(s, &s->a_id, &s->a, &to), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(build(s, &s->a_id, &s->a, &to), CS_ECORRUPT); /* the log in force is no new one */
    log.log_id = 99;
    assert_int_equal(build(s, &s->a_id, &s->a, &log), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(s->m.refills, 2);
}

static void not_everybody(void **state)
{
    struct scene *s = *state;
    struct cs_epoch_keys next;
    struct cs_cut cut = { .id = s->b_id };

    assert_int_equal(build(s, &s->b_id, &s->b, &to), CS_EAUTH); /* a stranger */
    invited(s);
    assert_int_equal(build(s, &s->invite.id, &s->invite, &to), CS_EAUTH); /* an open invite */
    assert_int_equal(build_add(s, &s->invite.id, &s->invite, &s->b_id, &s->b, NOW), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(build(s, &s->b_id, &s->b, &to), CS_OK);
    cs_buf_reset(&s->entry);
    assert_int_equal(
        cs_entry_remove(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &cut, 1, &s->epoch, &next, NOW, &s->err), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(build(s, &s->b_id, &s->b, &to), CS_EAUTH); /* removed */
}

static void every_bit_counts(void **state)
{
    struct scene *s = *state;

    assert_int_equal(build(s, &s->a_id, &s->a, &to), CS_OK);
    for (size_t i = 0; i < s->entry.len * 8; i++) {
        s->entry.data[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_int_not_equal(apply(s, 0), CS_OK);
        s->entry.data[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    assert_int_equal(s->m.refills, 0);
    s->entry.data[CS_ENTRY_PREFIX_LEN + REFILL_COUNT + 1] = 1; /* heads that do not fit, and signed so */
    resign(s, &s->a);
    assert_refused(s, CS_ECORRUPT);
    s->entry.data[CS_ENTRY_PREFIX_LEN + REFILL_COUNT + 1] = 2;
    s->entry.data[CS_ENTRY_PREFIX_LEN + REFILL_HEADS] = 'z'; /* out of order */
    resign(s, &s->a);
    assert_refused(s, CS_ECORRUPT);
}

static void as_many_heads_as_fit(void **state)
{
    enum { MANY = 4000 };
    struct scene *s = *state;
    struct cs_cut *heads = calloc(MANY, sizeof *heads);
    struct cs_cut head;
    size_t n = 0;

    assert_non_null(heads);
    for (uint32_t i = 0; i < MANY; i++) {
        cs_store_u32(heads[i].id.b, i);
        heads[i].number = i + 1;
    }
    cs_buf_reset(&s->entry);
    assert_int_equal(cs_entry_refill(&s->entry, &s->m, &s->a_id, &s->a, &from, &to, heads, MANY, NOW, &s->err), CS_OK);
    assert_in_range(s->entry.len, CS_ENTRY_MAX - CUT_LEN + 1, CS_ENTRY_MAX);
    assert_int_equal(apply(s, 0), CS_OK);
    while (cs_entry_head(cs_buf_slice(&s->entry), n, &head))
        assert_int_equal(head.number, ++n);
    assert_in_range(n, 1000, MANY - 1);
    free(heads);
}

int main(void)
{
    const struct CMUnitTest tests[] = { SCENE(what_it_says), SCENE(not_every_log), SCENE(not_everybody),
                                        SCENE(every_bit_counts), SCENE(as_many_heads_as_fit) };

    return cmocka_run_group_tests_name("refill entry", tests, NULL, NULL);
}
