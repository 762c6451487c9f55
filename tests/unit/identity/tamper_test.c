/* Entries of the membership log that are right but for one thing: whose they are, or what was signed. */
#include "unit/identity/member_scene.h"

/* The signature of an entry, over the same bytes, under every other label that a device signs. */
static void signatures_under_other_labels(void **state)
{
    static const char *const labels[] = {
        "audit row", "batch", "hub head", "possession", "register", "rpc", "session"
    };
    struct scene *s = *state;
    struct cs_slice e;

    assert_int_equal(build_invite(s), CS_OK);
    e = cs_buf_slice(&s->entry);
    for (size_t i = 0; i < sizeof labels / sizeof labels[0]; i++) {
        cs_sign(&s->a.sign, labels[i], entry_signed(e), s->entry.data + e.len - CS_SIGNATURE_LEN);
        assert_true(cs_membership_check(&s->m, e, 0, NULL) < 0);
    }
    resign(s, &s->a);
    assert_int_equal(apply(s, 0), CS_OK);
}

/* Every span of 16 bytes of an entry replaced by what stands there in the same entry of another workspace, and back. */
static void parts_of_another_workspace(void **state)
{
    struct scene *s = *state, *t;
    void *other = NULL;
    size_t changed = 0;

    setup(&other);
    t = other;
    cs_membership_free(&t->m);
    t->m = (struct cs_membership){ 0 };
    cs_buf_reset(&t->genesis);
    memset(t->workspace.b, 'v', 16);
    derive(&t->a, CS_PRINCIPAL_DEVICE, 9, &t->workspace);
    derive(&t->invite, CS_PRINCIPAL_INVITE, 9, &t->workspace);
    assert_int_equal(
        cs_entry_genesis(&t->genesis, &t->f.rng, &t->workspace, &t->b_id, &t->a, "laptop", &t->epoch, NOW, NULL),
        CS_OK);
    assert_int_equal(cs_membership_apply(&t->m, cs_buf_slice(&t->genesis), 0, NULL), CS_OK);
    t->a_id = t->b_id;
    assert_int_equal(build_invite(s), CS_OK);
    assert_int_equal(build_invite(t), CS_OK);
    assert_int_equal(s->entry.len, t->entry.len);
    for (size_t at = 0; at + 16 <= s->entry.len; at++) {
        uint8_t kept[16];

        memcpy(kept, s->entry.data + at, 16);
        if (memcmp(kept, t->entry.data + at, 16) == 0)
            continue;
        changed++;
        memcpy(s->entry.data + at, t->entry.data + at, 16);
        assert_true(cs_membership_check(&s->m, cs_buf_slice(&s->entry), 0, NULL) < 0);
        assert_true(cs_membership_check(&t->m, cs_buf_slice(&s->entry), 0, NULL) < 0);
        memcpy(s->entry.data + at, kept, 16);
    }
    assert_true(changed > 100);
    assert_true(cs_membership_check(&t->m, cs_buf_slice(&s->entry), 0, NULL) < 0);
    assert_int_equal(apply(s, 0), CS_OK);
    teardown(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = { SCENE(signatures_under_other_labels), SCENE(parts_of_another_workspace) };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("tamper", tests, NULL, NULL);
}
