/* Sets of tags and hashes, their sums by ranges, and what devices sign about their states. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants those above first */
#include <cmocka.h>
#include <stdlib.h>

#include "crypto/entity_set.h"
#include "crypto/state_proof.h"
#include "unit/crypto/fixed_world.h"

static void make_leaf(unsigned i, uint8_t out[CS_LEAF_LEN])
{
    uint8_t hash[CS_HASH_LEN];

    cs_hash_plain(cs_slice(&i, sizeof i), hash);
    memcpy(out, hash, CS_LEAF_LEN);
}

/* A tag says nothing of where a table's name ends and a key begins, but both decide it. */
static void tags_and_states(void **state)
{
    static const uint8_t key[32] = { 1 }, other[32] = { 2 };
    uint8_t a[16], b[16], state_key[32];

    (void)state;
    cs_entity_tag(key, cs_slice_str("ab"), cs_slice_str("c"), a);
    cs_entity_tag(key, cs_slice_str("a"), cs_slice_str("bc"), b);
    assert_memory_not_equal(a, b, 16);
    cs_entity_tag(other, cs_slice_str("ab"), cs_slice_str("c"), b);
    assert_memory_not_equal(a, b, 16);
    cs_entity_tag(key, cs_slice_str("ab"), cs_slice_str("c"), b);
    assert_memory_equal(a, b, 16);
    cs_state_key(key, state_key);
    assert_memory_not_equal(state_key, key, 32);
    cs_entity_state(state_key, cs_slice_str("row"), a);
    cs_entity_state(key, cs_slice_str("row"), b);
    assert_memory_not_equal(a, b, 16);
}

/* The sums of every range are those of the leaves in it, however they are come by. */
static void sums_of_all_ranges(void **state)
{
    enum { N = 5000 };
    struct cs_sums *sums = calloc(1, sizeof *sums);
    uint8_t(*leaf)[CS_LEAF_LEN] = calloc(N, sizeof *leaf);
    uint8_t total[CS_STATE_LEN], children[CS_CHILDREN_LEN];

    (void)state;
    assert_non_null(sums);
    assert_non_null(leaf);
    for (unsigned i = 0; i < N; i++) {
        make_leaf(i, leaf[i]);
        cs_sums_add(sums, leaf[i]);
    }
    assert_int_equal(sums->rows, N);
    for (unsigned trial = 0; trial < 200; trial++) {
        struct cs_range range = { 0, 0 };
        uint8_t want[CS_CHILDREN_LEN] = { 0 };

        for (unsigned d = trial % 4, x = trial; d > 0; d--, x = x * 7 + 3)
            range = cs_range_child(&range, x % 16);
        for (unsigned i = 0; i < N; i++)
            for (unsigned c = 0; c < CS_FANOUT; c++) {
                struct cs_range child = cs_range_child(&range, c);

                if (cs_tag_bucket(leaf[i]) >= cs_range_first(&child) && cs_tag_bucket(leaf[i]) <= cs_range_last(&child))
                    cs_sum_add(want + c * CS_STATE_LEN, leaf[i] + CS_TAG_LEN);
            }
        cs_sums_children(sums, &range, children);
        assert_memory_equal(children, want, sizeof want);
    }
    memset(total, 0, sizeof total);
    for (unsigned i = 0; i < N; i++)
        cs_sum_add(total, leaf[i] + CS_TAG_LEN);
    cs_sums_total(sums, children);
    assert_memory_equal(total, children, sizeof total);
    free(sums);
    free(leaf);
}

static void ranges_as_bytes(void **state)
{
    static const struct {
        uint8_t bytes[3];
        bool good;
    } cases[] = { { { 0, 0, 0 }, true },        { { 1, 0xf0, 0 }, true }, { { 4, 0xff, 0xff }, true },
                  { { 3, 0x12, 0x30 }, true },  { { 0, 0, 1 }, false },   { { 1, 0x0f, 0 }, false },
                  { { 3, 0x12, 0x34 }, false }, { { 5, 0, 0 }, false },   { { 255, 0, 0 }, false } };
    struct cs_range r;
    uint8_t again[3];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(cs_range_read(&r, cases[i].bytes), cases[i].good);
        if (!cases[i].good)
            continue;
        cs_range_write(&r, again);
        assert_memory_equal(again, cases[i].bytes, 3);
    }
    r = (struct cs_range){ 0, 0 };
    assert_int_equal(cs_range_last(&r), 65535);
    r = (struct cs_range){ 4, 77 };
    assert_int_equal(cs_range_first(&r), 77);
    assert_int_equal(cs_range_last(&r), 77);
}

struct told {
    unsigned n[3], stop;
    uint8_t tag[16];
};
static bool tell(void *arg, enum cs_leaf_difference d, const uint8_t tag[CS_TAG_LEN])
{
    struct told *t = arg;

    t->n[d]++;
    memcpy(t->tag, tag, 16);
    return t->n[0] + t->n[1] + t->n[2] != t->stop;
}

static void leaves_side_by_side(void **state)
{
    uint8_t a[4 * CS_LEAF_LEN] = { 0 }, b[4 * CS_LEAF_LEN] = { 0 };
    struct told t = { 0 };

    (void)state;
    for (int i = 0; i < 4; i++) { /* tags 1 2 3 4 and 2 3 4 5 of bucket 0 */
        a[i * CS_LEAF_LEN + 15] = (uint8_t)(i + 1);
        b[i * CS_LEAF_LEN + 15] = (uint8_t)(i + 2);
    }
    b[CS_LEAF_LEN + CS_TAG_LEN] = 1; /* 3 */
    assert_true(cs_leaves_valid(cs_slice(a, sizeof a), 0));
    assert_false(cs_leaves_valid(cs_slice(a, sizeof a), 1));
    assert_false(cs_leaves_valid(cs_slice(a, sizeof a - 1), 0));
    assert_true(cs_leaves_valid(CS_SLICE_NULL, 9));
    assert_true(cs_leaves_compare(cs_slice(a, sizeof a), cs_slice(b, sizeof b), tell, &t));
    assert_int_equal(t.n[CS_LEAF_ONLY_A], 1);
    assert_int_equal(t.n[CS_LEAF_ONLY_B], 1);
    assert_int_equal(t.n[CS_LEAF_DIFFERS], 1);
    t = (struct told){ .stop = 2 };
    assert_false(cs_leaves_compare(cs_slice(a, sizeof a), CS_SLICE_NULL, tell, &t));
    assert_int_equal(t.n[CS_LEAF_ONLY_A], 2);
    t = (struct told){ 0 };
    assert_true(cs_leaves_compare(CS_SLICE_NULL, cs_slice(b, sizeof b), tell, &t));
    assert_int_equal(t.n[CS_LEAF_ONLY_B], 4);
    a[15] = 3; /* out of order, and twice */
    assert_false(cs_leaves_valid(cs_slice(a, sizeof a), 0));
    a[15] = 2;
    assert_false(cs_leaves_valid(cs_slice(a, sizeof a), 0));
}

/* ---- what is signed ---- */

struct signing {
    struct fixed_world f;
    struct cs_device_keys keys, other;
    struct cs_epoch_keys epoch, next;
    struct cs_state_proof proof;
    uint8_t sealed[CS_PROOF_LEN];
};

static void sign(struct signing *s)
{
    static const uint8_t secret[32] = { 1 }, other[32] = { 2 }, key[32] = { 3 };

    memset(s, 0, sizeof *s);
    fixed_world_init(&s->f);
    s->proof = (struct cs_state_proof){
        .workspace = { { 1 } }, .device = { { 2 } }, .log_id = 9, .number = 10, .rows = 11, .time_ms = 12
    };
    s->proof.root[3] = 4;
    s->proof.log_hash[5] = 6;
    cs_device_keys_derive(&s->keys, CS_PRINCIPAL_DEVICE, cs_slice(secret, 32), &s->proof.workspace);
    cs_device_keys_derive(&s->other, CS_PRINCIPAL_DEVICE, cs_slice(other, 32), &s->proof.workspace);
    cs_epoch_keys_derive(&s->epoch, key, &s->proof.workspace, 1);
    cs_epoch_keys_derive(&s->next, key, &s->proof.workspace, 2);
    cs_state_proof_seal(&s->proof, &s->keys.sign, &s->epoch, &s->f.rng, s->sealed);
}

static int open_as(const struct signing *s, const struct cs_uuid *ws, const struct cs_uuid *device, const uint8_t *pk,
                   const struct cs_epoch_keys *epoch, size_t len)
{
    struct cs_state_proof out;

    return cs_state_proof_open(&out, cs_slice(s->sealed, len), ws, device, pk, epoch, NULL);
}

static void proofs_open_as_they_were_signed(void **state)
{
    const struct cs_uuid stranger = { { 7 } };
    struct cs_state_proof out;
    struct signing s;
    uint32_t epoch;

    (void)state;
    sign(&s);
    assert_true(cs_state_proof_epoch(cs_slice(s.sealed, sizeof s.sealed), &epoch));
    assert_int_equal(epoch, 1);
    assert_int_equal(cs_state_proof_open(&out, cs_slice(s.sealed, sizeof s.sealed), &s.proof.workspace, &s.proof.device,
                                         s.keys.sign.pk, &s.epoch, NULL),
                     CS_OK);
    assert_memory_equal(&out, &s.proof, sizeof out);
    assert_int_equal(open_as(&s, &stranger, &s.proof.device, s.keys.sign.pk, &s.epoch, sizeof s.sealed), CS_ECORRUPT);
    assert_int_equal(open_as(&s, &s.proof.workspace, &stranger, s.keys.sign.pk, &s.epoch, sizeof s.sealed), CS_EAUTH);
    assert_int_equal(open_as(&s, &s.proof.workspace, &s.proof.device, s.other.sign.pk, &s.epoch, sizeof s.sealed),
                     CS_EAUTH);
    assert_int_equal(open_as(&s, &s.proof.workspace, &s.proof.device, s.keys.sign.pk, &s.next, sizeof s.sealed),
                     CS_ECORRUPT);
    assert_int_equal(open_as(&s, &s.proof.workspace, &s.proof.device, s.keys.sign.pk, &s.epoch, sizeof s.sealed - 1),
                     CS_ECORRUPT);
    assert_int_equal(open_as(&s, &s.proof.workspace, &s.proof.device, s.keys.sign.pk, &s.epoch, 0), CS_ECORRUPT);
}

static void no_bit_of_a_proof_can_be_changed(void **state)
{
    struct signing s;

    (void)state;
    sign(&s);
    for (size_t bit = 0; bit < sizeof s.sealed * 8; bit++) {
        s.sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_not_equal(
            open_as(&s, &s.proof.workspace, &s.proof.device, s.keys.sign.pk, &s.epoch, sizeof s.sealed), CS_OK);
        s.sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(tags_and_states),
        cmocka_unit_test(sums_of_all_ranges),
        cmocka_unit_test(ranges_as_bytes),
        cmocka_unit_test(leaves_side_by_side),
        cmocka_unit_test(proofs_open_as_they_were_signed),
        cmocka_unit_test(no_bit_of_a_proof_can_be_changed),
    };

    if (cs_crypto_init(NULL) != CS_OK)
        return 1;
    return cmocka_run_group_tests_name("entity set", t, NULL, NULL);
}
