/* Names of members, and entries that change them. */
#include "unit/identity/member_scene.h"

static int rename_to(struct scene *s, const struct cs_uuid *author, const struct cs_device_keys *by,
                     const struct cs_uuid *id, const char *name)
{
    cs_buf_reset(&s->entry);
    return cs_entry_rename(&s->entry, &s->f.rng, &s->m, author, by, id, name, &s->epoch, NOW, &s->err);
}

static void assert_name(const struct scene *s, const struct cs_uuid *id, const struct cs_epoch_keys *keys, size_t n,
                        const char *want)
{
    char name[64];

    assert_int_equal(cs_member_name(cs_membership_find(&s->m, id), keys, n, name), want[0] != '\0');
    assert_string_equal(name, want);
}

static void a_new_name(void **state)
{
    struct scene *s = *state;
    struct cs_epoch_keys keys[2] = { s->epoch, { 0 } };

    assert_int_equal(build_add(s, &s->a_id, &s->a, &s->b_id, &s->b, NOW), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(rename_to(s, &s->b_id, &s->b, &s->a_id, "desk"), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_name(s, &s->a_id, keys, 1, "desk");
    assert_name(s, &s->b_id, keys, 1, "phone");
    assert_int_equal(s->m.nmembers, 2);
    assert_int_equal(s->m.seq, 3);
    /* names live on over a change of keys, and a new one is under the new key */
    cs_buf_reset(&s->entry);
    assert_int_equal(cs_entry_rotate(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &s->epoch, &keys[1], NOW, &s->err),
                     CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    s->epoch = keys[1];
    assert_int_equal(rename_to(s, &s->a_id, &s->a, &s->b_id, "tablet"), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(cs_membership_find(&s->m, &s->b_id)->name_epoch, 2);
    assert_name(s, &s->a_id, keys, 2, "desk");
    assert_name(s, &s->b_id, keys, 2, "tablet");
    assert_name(s, &s->b_id, keys + 1, 1, "tablet");
    assert_name(s, &s->a_id, keys + 1, 1, "");
    assert_name(s, &s->b_id, keys, 1, "");
    assert_name(s, &s->b_id, keys, 0, "");
    /* invites have names too */
    invited(s);
    assert_name(s, &s->invite.id, keys, 2, "for b");
    assert_int_equal(rename_to(s, &s->a_id, &s->a, &s->invite.id, "for c"), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_name(s, &s->invite.id, keys, 2, "for c");
}

static void whose_name_nobody_changes(void **state)
{
    struct scene *s = *state;
    char long_name[65] = { 0 };
    struct cs_cut cut = { .id = s->b_id };
    struct cs_epoch_keys next;

    assert_int_equal(rename_to(s, &s->a_id, &s->a, &s->b_id, "x"), CS_ECORRUPT); /* a stranger's */
    assert_int_equal(rename_to(s, &s->b_id, &s->b, &s->a_id, "x"), CS_EAUTH);    /* by a stranger */
    assert_int_equal(rename_to(s, &s->a_id, &s->b, &s->a_id, "x"), CS_EAUTH);    /* with another key */
    memset(long_name, 'n', 64);
    assert_int_equal(rename_to(s, &s->a_id, &s->a, &s->a_id, long_name), CS_EINVAL);
    assert_int_equal(s->entry.len, 0);
    invited(s);
    assert_int_equal(rename_to(s, &s->invite.id, &s->invite, &s->invite.id, "x"), CS_EAUTH);
    assert_int_equal(build_add(s, &s->invite.id, &s->invite, &s->b_id, &s->b, NOW), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(rename_to(s, &s->a_id, &s->a, &s->invite.id, "x"), CS_ECORRUPT); /* used */
    cs_buf_reset(&s->entry);
    assert_int_equal(
        cs_entry_remove(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &cut, 1, &s->epoch, &next, NOW, &s->err), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(rename_to(s, &s->a_id, &s->a, &s->b_id, "x"), CS_ECORRUPT); /* removed */
    assert_int_equal(rename_to(s, &s->b_id, &s->b, &s->a_id, "x"), CS_EAUTH);
}

static void every_bit_and_length_is_checked(void **state)
{
    struct scene *s = *state;
    static const size_t zeros[] = { 1, RENAME_LEN };
    uint8_t zero[RENAME_LEN] = { 0 };

    assert_int_equal(rename_to(s, &s->a_id, &s->a, &s->a_id, "desk"), CS_OK);
    for (size_t bit = 0; bit < s->entry.len * 8; bit++) {
        s->entry.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_true(cs_membership_check(&s->m, cs_buf_slice(&s->entry), 0, NULL) < 0);
        s->entry.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t n = 0; n < s->entry.len; n++)
        assert_int_equal(cs_membership_check(&s->m, cs_slice(s->entry.data, n), 0, NULL), CS_ECORRUPT);
    for (size_t i = 0; i < sizeof zeros / sizeof zeros[0]; i++) { /* longer, as a member signed it */
        cs_buf_put(&s->entry, zero, zeros[i]);
        cs_store_u32(s->entry.data + ENTRY_BODY_LEN, (uint32_t)(s->entry.len - CS_ENTRY_PREFIX_LEN - CS_SIGNATURE_LEN));
        resign(s, &s->a);
        assert_refused(s, CS_ECORRUPT);
    }
    for (size_t len = 0; len < RENAME_LEN; len++) { /* and shorter */
        assert_int_equal(rename_to(s, &s->a_id, &s->a, &s->a_id, "desk"), CS_OK);
        s->entry.len = CS_ENTRY_PREFIX_LEN + len + CS_SIGNATURE_LEN;
        cs_store_u32(s->entry.data + ENTRY_BODY_LEN, (uint32_t)len);
        resign(s, &s->a);
        assert_refused(s, CS_ECORRUPT);
    }
    for (uint32_t epoch = 0; epoch < 3; epoch++) {
        assert_int_equal(rename_to(s, &s->a_id, &s->a, &s->a_id, "desk"), CS_OK);
        cs_store_u32(s->entry.data + CS_ENTRY_PREFIX_LEN + RENAME_NAME_EPOCH, epoch);
        resign(s, &s->a);
        assert_int_equal(cs_membership_check(&s->m, cs_buf_slice(&s->entry), 0, NULL),
                         epoch == 1 ? CS_OK : CS_ECORRUPT);
    }
}

/* A box that was moved from one member to another opens for neither, whoever signed the entry. */
static void a_name_stays_with_its_owner(void **state)
{
    struct scene *s = *state;
    uint8_t box[NAME_BOX_LEN];

    assert_int_equal(build_add(s, &s->a_id, &s->a, &s->b_id, &s->b, NOW), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(rename_to(s, &s->a_id, &s->a, &s->a_id, "desk"), CS_OK);
    memcpy(box, s->entry.data + CS_ENTRY_PREFIX_LEN + RENAME_NAME, sizeof box);
    assert_int_equal(rename_to(s, &s->a_id, &s->a, &s->b_id, "desk"), CS_OK);
    memcpy(s->entry.data + CS_ENTRY_PREFIX_LEN + RENAME_NAME, box, sizeof box);
    resign(s, &s->a);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_name(s, &s->b_id, &s->epoch, 1, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE(a_new_name),
        SCENE(whose_name_nobody_changes),
        SCENE(every_bit_and_length_is_checked),
        SCENE(a_name_stays_with_its_owner),
    };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("names", tests, NULL, NULL);
}
