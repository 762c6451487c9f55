/* Recovery phrases as members (papers), and what is due after an invite ended. */
#include "unit/identity/member_scene.h"

static void derive_paper(struct cs_device_keys *out, uint8_t seed, const struct scene *s)
{
    derive(out, CS_PRINCIPAL_PAPER, seed, &s->workspace);
}

static int build(struct scene *s, const struct cs_uuid *author, const struct cs_device_keys *by,
                 const struct cs_device_keys *paper)
{
    cs_buf_reset(&s->entry);
    return cs_entry_recovery(&s->entry, &s->f.rng, &s->m, author, by, paper, "in the drawer", &s->epoch, &floor_of_a,
                             NOW, &s->err);
}

/* The whole line: A writes a phrase down and is lost; the phrase opens the newest key, adds B and removes A. */
static void a_phrase_brings_a_device_back(void **state)
{
    struct scene *s = *state;
    uint8_t wrap[CS_WRAP_LEN], key[32];
    struct cs_cut cut = { .id = s->a_id, .number = 5, .hash = { 5 } };
    struct cs_epoch_keys next, opened;
    struct cs_recovery_info info;
    struct cs_device_keys paper;
    uint32_t epoch;
    char name[64];

    derive_paper(&paper, 6, s);
    assert_int_equal(build(s, &s->a_id, &s->a, &paper), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(cs_membership_find(&s->m, &paper.id)->kind, CS_PRINCIPAL_PAPER);
    assert_false(cs_membership_was_member(&s->m, &paper.id, 2));
    assert_true(cs_member_name(cs_membership_find(&s->m, &paper.id), &s->epoch, 1, name));
    assert_string_equal(name, "in the drawer");
    assert_int_equal(cs_recovery_open(&info, cs_buf_slice(&s->entry), &paper, &s->err), CS_OK);
    assert_int_equal(cs_uuid_cmp(&info.id, &paper.id), 0);
    assert_int_equal(info.floor.log_id, 11);
    assert_int_equal(info.floor.number, 22);
    assert_memory_equal(info.floor.log_hash, floor_of_a.log_hash, 32);
    assert_int_equal(cs_wrap_open(key, info.wrap, &paper, &s->workspace, info.epoch, s->m.commitment, NULL), CS_OK);
    assert_memory_equal(key, s->epoch.key, 32);
    assert_int_equal(cs_entry_wrap(cs_buf_slice(&s->entry), &paper.id, &epoch, wrap), CS_OK);
    assert_memory_equal(wrap, info.wrap, sizeof wrap);

    cs_buf_reset(&s->entry);
    assert_int_equal(cs_entry_rotate(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &s->epoch, &next, NOW, &s->err),
                     CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(cs_entry_wrap(cs_buf_slice(&s->entry), &paper.id, &epoch, wrap), CS_OK);
    assert_int_equal(cs_wrap_open(key, wrap, &paper, &s->workspace, epoch, s->m.commitment, NULL), CS_OK);
    assert_memory_equal(key, next.key, 32);
    cs_epoch_keys_derive(&opened, key, &s->workspace, epoch);
    s->epoch = opened;

    assert_int_equal(build_add(s, &paper.id, &paper, &s->b_id, &s->b, NOW), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_true(cs_membership_was_member(&s->m, &s->b_id, 4));
    assert_true(cs_membership_find(&s->m, &paper.id)->active); /* a phrase is good more than once */
    cs_buf_reset(&s->entry);
    assert_int_equal(
        cs_entry_remove(&s->entry, &s->f.rng, &s->m, &paper.id, &paper, &cut, 1, &s->epoch, &next, NOW, &s->err),
        CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_false(cs_membership_find(&s->m, &s->a_id)->active);
    assert_int_equal(cs_entry_wrap(cs_buf_slice(&s->entry), &paper.id, &epoch, wrap), CS_OK);
    assert_int_equal(cs_entry_wrap(cs_buf_slice(&s->entry), &s->a_id, &epoch, wrap), CS_ENOTFOUND);
    /* and a phrase that was removed is good for nothing */
    s->epoch = next;
    cut = (struct cs_cut){ .id = paper.id };
    cs_buf_reset(&s->entry);
    assert_int_equal(
        cs_entry_remove(&s->entry, &s->f.rng, &s->m, &s->b_id, &s->b, &cut, 1, &s->epoch, &next, NOW, &s->err), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    s->epoch = next;
    assert_int_equal(build_add(s, &paper.id, &paper, &s->c_id, &s->c, NOW), CS_EAUTH);
    assert_int_equal(build(s, &s->b_id, &s->b, &paper), CS_ECORRUPT); /* nor does it return */
}

static void who_may_do_what(void **state)
{
    struct scene *s = *state;
    struct cs_epoch_keys next;
    struct cs_device_keys paper, second, foreign;
    struct cs_uuid elsewhere = { "elsewhere" };
    struct cs_cut cut = { .id = s->a_id };

    derive_paper(&paper, 6, s);
    derive_paper(&second, 7, s);
    assert_int_equal(build(s, &s->b_id, &s->b, &paper), CS_EAUTH);
    assert_int_equal(build(s, &s->a_id, &s->b, &paper), CS_EAUTH);
    invited(s);
    assert_int_equal(build(s, &s->invite.id, &s->invite, &paper), CS_EAUTH);
    assert_int_equal(build(s, &s->a_id, &s->a, &paper), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    /* a paper makes no papers, invites, names or keys */
    assert_int_equal(build(s, &paper.id, &paper, &second), CS_EAUTH);
    derive(&foreign, CS_PRINCIPAL_INVITE, 9, &s->workspace);
    assert_int_equal(cs_entry_invite(&s->entry, &s->f.rng, &s->m, &paper.id, &paper, &foreign, "x", &s->epoch,
                                     &floor_of_a, LATER, hub_key, NOW, &s->err),
                     CS_EAUTH);
    assert_int_equal(
        cs_entry_rename(&s->entry, &s->f.rng, &s->m, &paper.id, &paper, &s->a_id, "x", &s->epoch, NOW, &s->err),
        CS_EAUTH);
    assert_int_equal(cs_entry_rotate(&s->entry, &s->f.rng, &s->m, &paper.id, &paper, &s->epoch, &next, NOW, &s->err),
                     CS_EAUTH);
    /* and leaves no workspace without a device */
    assert_int_equal(
        cs_entry_remove(&s->entry, &s->f.rng, &s->m, &paper.id, &paper, &cut, 1, &s->epoch, &next, NOW, &s->err),
        CS_ECORRUPT);
    /* a phrase of another workspace is another principal */
    derive(&foreign, CS_PRINCIPAL_PAPER, 6, &elsewhere);
    assert_int_equal(build_add(s, &foreign.id, &foreign, &s->b_id, &s->b, NOW), CS_EAUTH);
    assert_int_equal(build(s, &s->a_id, &s->a, &paper), CS_ECORRUPT); /* the same twice */
}

static void a_vouch_covers_all_before_it(void **state)
{
    struct scene *s = *state;
    struct cs_recovery_info info;
    struct cs_invite_info invite;
    struct cs_device_keys paper, other;

    derive_paper(&paper, 6, s);
    derive_paper(&other, 7, s);
    assert_int_equal(build(s, &s->a_id, &s->a, &paper), CS_OK);
    for (size_t bit = 0; bit < (CS_ENTRY_PREFIX_LEN + RECOVERY_LEN) * 8; bit++) {
        s->entry.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_true(cs_recovery_open(&info, cs_buf_slice(&s->entry), &paper, NULL) < 0);
        s->entry.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(cs_recovery_open(&info, cs_buf_slice(&s->entry), &other, NULL), CS_EAUTH);
    other = paper;
    other.vouch[0] ^= 1;
    assert_int_equal(cs_recovery_open(&info, cs_buf_slice(&s->entry), &other, NULL), CS_EAUTH);
    assert_int_equal(cs_invite_open(&invite, cs_buf_slice(&s->entry), &paper, NULL), CS_ECORRUPT);
    assert_int_equal(cs_recovery_open(&info, cs_buf_slice(&s->genesis), &paper, NULL), CS_ECORRUPT);
    assert_int_equal(cs_recovery_open(&info, CS_SLICE_NULL, &paper, NULL), CS_ECORRUPT);
}

static void every_bit_and_length_is_checked(void **state)
{
    struct scene *s = *state;
    struct cs_device_keys paper;
    static const struct {
        size_t at;
        uint8_t value;
        int code;
    } bent[] = {
        { RECORD_KIND, 1, CS_ECORRUPT },         { RECORD_KIND, 3, CS_ECORRUPT },
        { RECORD_ZERO + 2, 1, CS_ECORRUPT },     { RECORD_NAME_EPOCH + 3, 2, CS_ECORRUPT },
        { ADD_EPOCH + 3, 2, CS_ECORRUPT },       { ADD_EPOCH + 3, 0, CS_ECORRUPT },
        { RECORD_POSSESSION + 63, 0, CS_EAUTH },
    };

    derive_paper(&paper, 6, s);
    assert_int_equal(build(s, &s->a_id, &s->a, &paper), CS_OK);
    for (size_t bit = 0; bit < s->entry.len * 8; bit++) {
        s->entry.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_true(cs_membership_check(&s->m, cs_buf_slice(&s->entry), 0, NULL) < 0);
        s->entry.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t n = 0; n < s->entry.len; n++)
        assert_int_equal(cs_membership_check(&s->m, cs_slice(s->entry.data, n), 0, NULL), CS_ECORRUPT);
    for (size_t len = 0; len < RECOVERY_LEN + 2; len++) { /* as a member signed it */
        assert_int_equal(build(s, &s->a_id, &s->a, &paper), CS_OK);
        cs_buf_put_u8(&s->entry, 0);
        s->entry.len = CS_ENTRY_PREFIX_LEN + len + CS_SIGNATURE_LEN;
        cs_store_u32(s->entry.data + ENTRY_BODY_LEN, (uint32_t)len);
        resign(s, &s->a);
        assert_int_equal(cs_membership_check(&s->m, cs_buf_slice(&s->entry), 0, NULL),
                         len == RECOVERY_LEN ? CS_OK : CS_ECORRUPT);
    }
    for (size_t i = 0; i < sizeof bent / sizeof bent[0]; i++) {
        assert_int_equal(build(s, &s->a_id, &s->a, &paper), CS_OK);
        assert_int_not_equal(s->entry.data[CS_ENTRY_PREFIX_LEN + bent[i].at], bent[i].value);
        s->entry.data[CS_ENTRY_PREFIX_LEN + bent[i].at] = bent[i].value;
        resign(s, &s->a);
        assert_refused(s, bent[i].code);
    }
}

static void no_more_than_sixteen(void **state)
{
    struct scene *s = *state;
    struct cs_device_keys paper;

    for (uint8_t i = 0; i < 17; i++) {
        derive_paper(&paper, (uint8_t)(100 + i), s);
        assert_int_equal(build(s, &s->a_id, &s->a, &paper), i < 16 ? CS_OK : CS_ELIMIT);
        if (i < 16)
            assert_int_equal(apply(s, 0), CS_OK);
    }
}

/* Duty: an invite that is over still holds the key of the epoch in force. */

static enum cs_duty duty(const struct scene *s, int64_t now_ms, const struct cs_uuid *want)
{
    const struct cs_member *why;
    enum cs_duty d = cs_membership_duty(&s->m, now_ms, &why);

    assert_int_equal(d, cs_membership_duty(&s->m, now_ms, NULL));
    if (want == NULL)
        assert_null(why);
    else
        assert_memory_equal(why->id.b, want->b, 16);
    return d;
}

static void rotate_next(struct scene *s)
{
    struct cs_epoch_keys next;

    cs_buf_reset(&s->entry);
    assert_int_equal(cs_entry_rotate(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &s->epoch, &next, NOW, &s->err),
                     CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    s->epoch = next;
}

static void remove_next(struct scene *s, const struct cs_uuid *id)
{
    struct cs_cut cut = { .id = *id };
    struct cs_epoch_keys next;

    cs_buf_reset(&s->entry);
    assert_int_equal(
        cs_entry_remove(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &cut, 1, &s->epoch, &next, NOW, &s->err), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    s->epoch = next;
}

static void a_used_invite_wants_a_rotation(void **state)
{
    struct scene *s = *state;

    assert_int_equal(duty(s, NOW, NULL), CS_DUTY_NONE);
    invited(s);
    assert_int_equal(duty(s, NOW, NULL), CS_DUTY_NONE);
    rotate_next(s);
    assert_int_equal(duty(s, NOW, NULL), CS_DUTY_NONE);
    assert_int_equal(build_add(s, &s->invite.id, &s->invite, &s->b_id, &s->b, NOW), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(duty(s, NOW, &s->invite.id), CS_DUTY_ROTATE);
    assert_true(cs_member_has_current_key(&s->m, cs_membership_find(&s->m, &s->invite.id)));
    rotate_next(s);
    assert_int_equal(duty(s, 2 * (int64_t)LATER, NULL), CS_DUTY_NONE);
    assert_false(cs_member_has_current_key(&s->m, cs_membership_find(&s->m, &s->invite.id)));
}

static void an_expired_invite_wants_a_removal(void **state)
{
    struct scene *s = *state;
    struct cs_device_keys second;

    invited(s);
    assert_int_equal(duty(s, LATER, NULL), CS_DUTY_NONE);
    assert_int_equal(duty(s, LATER + 1, &s->invite.id), CS_DUTY_REMOVE);
    rotate_next(s); /* which hands it the next key too */
    assert_int_equal(duty(s, LATER + 1, &s->invite.id), CS_DUTY_REMOVE);
    remove_next(s, &s->invite.id);
    assert_int_equal(duty(s, LATER + 1, NULL), CS_DUTY_NONE);
    /* a used one and an expired one: the removal serves both */
    derive(&second, CS_PRINCIPAL_INVITE, 9, &s->workspace);
    cs_buf_reset(&s->entry);
    assert_int_equal(cs_entry_invite(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &second, "x", &s->epoch, &floor_of_a,
                                     LATER, hub_key, NOW, &s->err),
                     CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(build_add(s, &second.id, &second, &s->b_id, &s->b, NOW), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(duty(s, NOW, &second.id), CS_DUTY_ROTATE);
    derive(&s->invite, CS_PRINCIPAL_INVITE, 10, &s->workspace);
    invited(s);
    assert_int_equal(duty(s, NOW, &second.id), CS_DUTY_ROTATE);
    assert_int_equal(duty(s, LATER + 1, &s->invite.id), CS_DUTY_REMOVE);
    remove_next(s, &s->invite.id);
    assert_int_equal(duty(s, LATER + 1, NULL), CS_DUTY_NONE);
    /* a removed device holds nothing of the new epoch, and is nobody's duty */
    remove_next(s, &s->b_id);
    assert_int_equal(duty(s, LATER + 1, NULL), CS_DUTY_NONE);
    assert_false(cs_member_has_current_key(&s->m, cs_membership_find(&s->m, &s->b_id)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE(a_phrase_brings_a_device_back),     SCENE(who_may_do_what),      SCENE(a_vouch_covers_all_before_it),
        SCENE(every_bit_and_length_is_checked),   SCENE(no_more_than_sixteen), SCENE(a_used_invite_wants_a_rotation),
        SCENE(an_expired_invite_wants_a_removal),
    };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("recovery", tests, NULL, NULL);
}
