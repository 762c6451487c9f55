/* A workspace of one device and what it takes to grow it, for the tests of the membership log. */
#ifndef CS_TESTS_MEMBER_SCENE_H
#define CS_TESTS_MEMBER_SCENE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "identity/entry_format.h"
#include "unit/crypto/fixed_world.h"

/* A workspace of one device A, with the means to invite B and add C. */
struct scene {
    struct fixed_world f;
    struct cs_uuid workspace, a_id, b_id, c_id;
    struct cs_device_keys a, b, c, invite;
    struct cs_epoch_keys epoch;
    struct cs_membership m;
    struct cs_buf genesis, entry;
    struct cs_error err;
};

enum { NOW = 1000000, LATER = NOW + 86400000 };
static const uint8_t hub_key[32] = { 'h' };
static const struct cs_floor floor_of_a = { 11, 22, { 33 } };

static inline void derive(struct cs_device_keys *out, enum cs_principal kind, uint8_t seed,
                          const struct cs_uuid *workspace)
{
    uint8_t secret[32];

    memset(secret, seed, sizeof secret);
    cs_device_keys_derive(out, kind, cs_slice(secret, kind == CS_PRINCIPAL_INVITE ? 16 : 32), workspace);
}

static inline int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    uint8_t key[32];

    assert_non_null(s);
    *state = s;
    fixed_world_init(&s->f);
    memset(s->workspace.b, 'w', 16);
    memset(s->a_id.b, 'a', 16);
    memset(s->b_id.b, 'b', 16);
    memset(s->c_id.b, 'c', 16);
    derive(&s->a, CS_PRINCIPAL_DEVICE, 1, &s->workspace);
    derive(&s->b, CS_PRINCIPAL_DEVICE, 2, &s->workspace);
    derive(&s->c, CS_PRINCIPAL_DEVICE, 3, &s->workspace);
    derive(&s->invite, CS_PRINCIPAL_INVITE, 4, &s->workspace);
    memset(key, 'k', sizeof key);
    cs_epoch_keys_derive(&s->epoch, key, &s->workspace, 1);
    assert_int_equal(
        cs_entry_genesis(&s->genesis, &s->f.rng, &s->workspace, &s->a_id, &s->a, "laptop", &s->epoch, NOW, &s->err),
        CS_OK);
    assert_int_equal(cs_membership_apply(&s->m, cs_buf_slice(&s->genesis), 0, &s->err), CS_OK);
    return 0;
}

static inline int teardown(void **state)
{
    struct scene *s = *state;

    cs_membership_free(&s->m);
    cs_buf_free(&s->genesis);
    cs_buf_free(&s->entry);
    fixed_world_fini(&s->f);
    free(s);
    return 0;
}

static inline int apply(struct scene *s, int64_t hub_time_ms)
{
    return cs_membership_apply(&s->m, cs_buf_slice(&s->entry), hub_time_ms, &s->err);
}

static inline int build_invite(struct scene *s)
{
    cs_buf_reset(&s->entry);
    return cs_entry_invite(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &s->invite, "for b", &s->epoch, &floor_of_a,
                           LATER, hub_key, NOW, &s->err);
}

static inline void invited(struct scene *s)
{
    assert_int_equal(build_invite(s), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
}

static inline int build_add(struct scene *s, const struct cs_uuid *author, const struct cs_device_keys *by,
                            const struct cs_uuid *id, const struct cs_device_keys *keys, int64_t now_ms)
{
    cs_buf_reset(&s->entry);
    return cs_entry_add(&s->entry, &s->f.rng, &s->m, author, by, id, keys, "phone", &s->epoch, now_ms, &s->err);
}

/* Signs the entry anew after a test bent it. */
static inline void resign(struct scene *s, const struct cs_device_keys *author)
{
    struct cs_slice e = cs_buf_slice(&s->entry);

    cs_sign(&author->sign, "member entry", entry_signed(e), s->entry.data + e.len - CS_SIGNATURE_LEN);
}

/* Nothing of the state moves when an entry is refused. */
static inline void assert_refused(struct scene *s, int code)
{
    struct cs_membership before = s->m;

    assert_int_equal(apply(s, 0), code);
    assert_int_equal(s->m.seq, before.seq);
    assert_int_equal(s->m.nmembers, before.nmembers);
    assert_memory_equal(s->m.head, before.head, 32);
    assert_int_equal(s->m.epoch, before.epoch);
    assert_int_equal(s->m.epoch_seq, before.epoch_seq);
    for (size_t i = 0; i < s->m.nmembers; i++)
        assert_true(s->m.members[i].active == (s->m.members[i].ended_seq == 0));
}

#define SCENE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

#endif
