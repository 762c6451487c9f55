#include "unit/identity/member_scene.h"

static void genesis_makes_one_member(void **state)
{
    struct scene *s = *state;
    uint8_t hash[32], wrap[CS_WRAP_LEN], key[32];
    uint32_t epoch;
    char name[64];

    assert_true(cs_entry_hash(cs_buf_slice(&s->genesis), hash));
    assert_memory_equal(s->m.genesis, hash, 32);
    assert_memory_equal(s->m.head, hash, 32);
    assert_int_equal(cs_entry_seq(cs_buf_slice(&s->genesis)), 1);
    assert_int_equal(s->m.epoch, 1);
    assert_int_equal(s->m.epoch_seq, 1);
    assert_memory_equal(s->m.commitment, s->epoch.commitment, 32);
    assert_true(cs_membership_was_member(&s->m, &s->a_id, 1));
    assert_false(cs_membership_was_member(&s->m, &s->a_id, 0));
    assert_false(cs_membership_was_member(&s->m, &s->a_id, 2));
    assert_false(cs_membership_was_member(&s->m, &s->b_id, 1));
    assert_true(cs_member_name(cs_membership_find(&s->m, &s->a_id), &s->epoch, 1, name));
    assert_string_equal(name, "laptop");
    assert_int_equal(cs_entry_wrap(cs_buf_slice(&s->genesis), &s->a_id, &epoch, wrap), CS_OK);
    assert_int_equal(cs_entry_wrap(cs_buf_slice(&s->genesis), &s->b_id, &epoch, wrap), CS_ENOTFOUND);
    assert_int_equal(cs_wrap_open(key, wrap, &s->a, &s->workspace, 1, s->m.commitment, &s->err), CS_OK);
    assert_memory_equal(key, s->epoch.key, 32);
    assert_int_equal(cs_wrap_open(key, wrap, &s->b, &s->workspace, 1, s->m.commitment, &s->err), CS_EAUTH);
    assert_int_equal(cs_wrap_open(key, wrap, &s->a, &s->workspace, 2, s->m.commitment, &s->err), CS_EAUTH);
    assert_int_equal(cs_wrap_open(key, wrap, &s->a, &s->workspace, 1, hash, &s->err), CS_EAUTH);
}

/* The whole line: A invites, the newcomer proves the invite, opens the wrap and adds itself; the invite is used up. */
static void an_invite_adds_one_device(void **state)
{
    struct scene *s = *state;
    struct cs_invite_info info;
    struct cs_device_keys stranger;
    uint8_t key[32];

    invited(s);
    assert_int_equal(cs_membership_find(&s->m, &s->invite.id)->expires_ms, LATER);
    assert_false(cs_membership_was_member(&s->m, &s->invite.id, 2));
    assert_int_equal(cs_invite_open(&info, cs_buf_slice(&s->entry), &s->invite, &s->err), CS_OK);
    assert_int_equal(info.expires_ms, LATER);
    assert_memory_equal(info.hub_key, hub_key, 32);
    assert_int_equal(info.floor.number, 22);
    assert_memory_equal(info.floor.log_hash, floor_of_a.log_hash, 32);
    assert_int_equal(cs_wrap_open(key, info.wrap, &s->invite, &s->workspace, info.epoch, s->m.commitment, &s->err),
                     CS_OK);
    derive(&stranger, CS_PRINCIPAL_INVITE, 9, &s->workspace);
    assert_int_equal(cs_invite_open(&info, cs_buf_slice(&s->entry), &stranger, &s->err), CS_EAUTH);
    assert_int_equal(build_add(s, &s->invite.id, &s->invite, &s->b_id, &s->b, NOW + 1), CS_OK);
    assert_int_equal(apply(s, LATER), CS_OK);
    assert_true(cs_membership_was_member(&s->m, &s->b_id, 3));
    assert_false(cs_membership_was_member(&s->m, &s->b_id, 2));
    assert_int_equal(cs_uuid_cmp(&cs_membership_find(&s->m, &s->b_id)->added_by, &s->invite.id), 0);
    assert_false(cs_membership_find(&s->m, &s->invite.id)->active);
    /* a second use */
    assert_int_equal(build_add(s, &s->invite.id, &s->invite, &s->c_id, &s->c, NOW + 2), CS_EAUTH);
    assert_non_null(strstr(s->err.msg, "used already"));
    /* B is a member in full */
    assert_int_equal(build_add(s, &s->b_id, &s->b, &s->c_id, &s->c, NOW + 2), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(s->m.seq, 4);
}

/* A hub's tampering with what the inviter vouched for is noticed by whoever has the code, even under a right
 * signature of some other member. */
static void a_vouch_covers_all_before_it(void **state)
{
    struct scene *s = *state;
    struct cs_invite_info info;

    assert_int_equal(build_invite(s), CS_OK);
    for (size_t bit = 0; bit < (CS_ENTRY_PREFIX_LEN + INVITE_LEN) * 8; bit++) {
        s->entry.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_true(cs_invite_open(&info, cs_buf_slice(&s->entry), &s->invite, NULL) < 0);
        s->entry.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(cs_invite_open(&info, cs_buf_slice(&s->genesis), &s->invite, NULL), CS_ECORRUPT);
}

static void every_bit_is_checked(void **state)
{
    struct scene *s = *state;
    struct cs_membership fresh = { 0 };

    for (size_t bit = 0; bit < s->genesis.len * 8; bit++) {
        s->genesis.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_true(cs_membership_check(&fresh, cs_buf_slice(&s->genesis), 0, NULL) < 0);
        s->genesis.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    invited(s);
    assert_int_equal(build_add(s, &s->invite.id, &s->invite, &s->b_id, &s->b, NOW), CS_OK);
    for (size_t bit = 0; bit < s->entry.len * 8; bit++) {
        s->entry.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_true(cs_membership_check(&s->m, cs_buf_slice(&s->entry), 0, NULL) < 0);
        s->entry.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t n = 0; n < s->entry.len; n++)
        assert_int_equal(cs_membership_check(&s->m, cs_slice(s->entry.data, n), 0, NULL), CS_ECORRUPT);
    cs_buf_put_u8(&s->entry, 0);
    assert_refused(s, CS_ECORRUPT);
}

/* Entries that a member bent and signed rightly: the rules, not the signature, must refuse them. */
static const struct bent {
    const char *name;
    size_t at; /* in the entry */
    uint8_t value;
    int code;
} bent[] = {
    { "magic", 0, 'X', CS_ECORRUPT },
    { "newer magic", 3, '2', CS_EVERSION },
    { "unknown type", ENTRY_TYPE, 9, CS_EVERSION },
    { "an add called remove", ENTRY_TYPE, 4, CS_ECORRUPT },
    { "an add called rotate", ENTRY_TYPE, 5, CS_ECORRUPT },
    { "an add called recovery", ENTRY_TYPE, 6, CS_ECORRUPT },
    { "an add called rename", ENTRY_TYPE, 7, CS_ECORRUPT },
    { "a second genesis", ENTRY_TYPE, 1, CS_ECORRUPT },
    { "an add called invite", ENTRY_TYPE, 2, CS_ECORRUPT },
    { "reserved bytes", ENTRY_ZERO + 2, 1, CS_ECORRUPT },
    { "another workspace", ENTRY_WORKSPACE + 15, 1, CS_ECORRUPT },
    { "seq of the past", ENTRY_SEQ + 3, 1, CS_EABORTED },
    { "seq of the future", ENTRY_SEQ + 3, 3, CS_EABORTED },
    { "body length", ENTRY_BODY_LEN + 3, 1, CS_ECORRUPT },
    { "wrong prev", ENTRY_PREV, 0, CS_EABORTED },
    { "unknown author", ENTRY_AUTHOR, 'x', CS_EAUTH },
    { "kind of the record", CS_ENTRY_PREFIX_LEN + RECORD_KIND, 2, CS_ECORRUPT },
    { "reserved in the record", CS_ENTRY_PREFIX_LEN + RECORD_ZERO, 1, CS_ECORRUPT },
    { "epoch of the name 0", CS_ENTRY_PREFIX_LEN + RECORD_NAME_EPOCH + 3, 0, CS_ECORRUPT },
    { "epoch of the name to come", CS_ENTRY_PREFIX_LEN + RECORD_NAME_EPOCH + 3, 2, CS_ECORRUPT },
    { "possession of another id", CS_ENTRY_PREFIX_LEN + RECORD_ID, 'q', CS_EAUTH },
    { "possession of another box key", CS_ENTRY_PREFIX_LEN + RECORD_BOX_PK, 0, CS_EAUTH },
    { "possession damaged", CS_ENTRY_PREFIX_LEN + RECORD_POSSESSION, 0, CS_EAUTH },
    { "epoch to come", CS_ENTRY_PREFIX_LEN + ADD_EPOCH + 3, 2, CS_ECORRUPT },
    { "epoch 0", CS_ENTRY_PREFIX_LEN + ADD_EPOCH + 3, 0, CS_ECORRUPT },
};

static void a_rule_refuses_what_a_member_signed(void **state)
{
    struct scene *s = *state;

    for (size_t i = 0; i < sizeof bent / sizeof bent[0]; i++) {
        assert_int_equal(build_add(s, &s->a_id, &s->a, &s->b_id, &s->b, NOW), CS_OK);
        assert_int_not_equal(s->entry.data[bent[i].at], bent[i].value);
        s->entry.data[bent[i].at] = bent[i].value;
        resign(s, &s->a);
        print_message("   %s\n", bent[i].name);
        assert_refused(s, bent[i].code);
    }
    /* only a member's word for it makes anyone believe in a newer version */
    assert_int_equal(build_add(s, &s->a_id, &s->a, &s->b_id, &s->b, NOW), CS_OK);
    s->entry.data[ENTRY_TYPE] = 9;
    assert_refused(s, CS_EAUTH);
}

static void bent_genesis(struct scene *s, size_t at, uint8_t value, int code)
{
    struct cs_membership fresh = { 0 };

    cs_buf_reset(&s->entry);
    cs_buf_put_slice(&s->entry, cs_buf_slice(&s->genesis));
    s->entry.data[CS_ENTRY_PREFIX_LEN + at] = value;
    resign(s, &s->a);
    assert_int_equal(cs_membership_apply(&fresh, cs_buf_slice(&s->entry), 0, &s->err), code);
    cs_membership_free(&fresh);
}

static void genesis_rules(void **state)
{
    struct scene *s = *state;
    struct cs_membership named = { .workspace = { "another one" } };

    bent_genesis(s, GENESIS_EPOCH + 3, 2, CS_ECORRUPT);
    bent_genesis(s, GENESIS_HISTORY + 47, 1, CS_ECORRUPT);
    bent_genesis(s, GENESIS_COUNT + 1, 2, CS_ECORRUPT);
    bent_genesis(s, GENESIS_COUNT + 1, 0, CS_ECORRUPT);
    bent_genesis(s, GENESIS_WRAP_ID, 'z', CS_ECORRUPT);
    bent_genesis(s, RECORD_KIND, 3, CS_ECORRUPT);
    bent_genesis(s, RECORD_ID, 'z', CS_EAUTH);
    bent_genesis(s, GENESIS_COMMITMENT, s->genesis.data[CS_ENTRY_PREFIX_LEN + GENESIS_COMMITMENT], CS_OK);
    assert_int_equal(cs_membership_apply(&named, cs_buf_slice(&s->genesis), 0, NULL), CS_ECORRUPT);
    cs_membership_free(&named);
    /* the same genesis again, or another */
    cs_buf_reset(&s->entry);
    cs_buf_put_slice(&s->entry, cs_buf_slice(&s->genesis));
    assert_refused(s, CS_EABORTED);
}

static void order_is_checked(void **state)
{
    struct scene *s = *state;
    struct cs_membership fresh = { 0 };
    struct cs_buf second = { 0 };

    assert_int_equal(build_invite(s), CS_OK);
    assert_int_equal(cs_membership_apply(&fresh, cs_buf_slice(&s->entry), 0, NULL), CS_EABORTED);
    cs_buf_put_slice(&second, cs_buf_slice(&s->entry));
    assert_int_equal(build_add(s, &s->a_id, &s->a, &s->b_id, &s->b, NOW), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    /* the loser of a race */
    assert_int_equal(cs_membership_apply(&s->m, cs_buf_slice(&second), 0, NULL), CS_EABORTED);
    /* the winner twice */
    assert_refused(s, CS_EABORTED);
    cs_buf_free(&second);
    cs_membership_free(&fresh);
}

static void who_may_write_what(void **state)
{
    struct scene *s = *state;
    struct cs_device_keys second;
    struct cs_uuid foreign_workspace = { "elsewhere" };

    /* nobody */
    assert_int_equal(build_add(s, &s->b_id, &s->b, &s->c_id, &s->c, NOW), CS_EAUTH);
    /* A's id, another key */
    assert_int_equal(build_add(s, &s->a_id, &s->b, &s->c_id, &s->c, NOW), CS_EAUTH);
    invited(s);
    /* an invite invites nobody */
    derive(&second, CS_PRINCIPAL_INVITE, 9, &s->workspace);
    cs_buf_reset(&s->entry);
    assert_int_equal(cs_entry_invite(&s->entry, &s->f.rng, &s->m, &s->invite.id, &s->invite, &second, "x", &s->epoch,
                                     &floor_of_a, LATER, hub_key, NOW, &s->err),
                     CS_EAUTH);
    /* an invite of another workspace has another id */
    derive(&second, CS_PRINCIPAL_INVITE, 4, &foreign_workspace);
    assert_int_equal(build_add(s, &second.id, &second, &s->b_id, &s->b, NOW), CS_EAUTH);
    assert_int_equal(s->entry.len, 0);
}

static void an_expired_invite_adds_nobody(void **state)
{
    struct scene *s = *state;

    invited(s);
    assert_int_equal(build_add(s, &s->invite.id, &s->invite, &s->b_id, &s->b, LATER + 1), CS_EAUTH);
    assert_int_equal(build_add(s, &s->invite.id, &s->invite, &s->b_id, &s->b, LATER), CS_OK);
    assert_int_equal(apply(s, LATER + CS_INVITE_SLACK_MS + 1), CS_EAUTH);
    assert_int_equal(apply(s, INT64_MAX), CS_EAUTH);
    assert_int_equal(apply(s, INT64_MIN), CS_OK);
}

static void ids_and_keys_never_return(void **state)
{
    struct scene *s = *state;

    assert_int_equal(build_add(s, &s->a_id, &s->a, &s->a_id, &s->b, NOW), CS_ECORRUPT);
    assert_int_equal(build_add(s, &s->a_id, &s->a, &s->b_id, &s->a, NOW), CS_ECORRUPT);
    invited(s);
    assert_int_equal(build_invite(s), CS_ECORRUPT);
    assert_int_equal(build_add(s, &s->invite.id, &s->invite, &s->invite.id, &s->b, NOW), CS_ECORRUPT);
    assert_int_equal(build_add(s, &s->invite.id, &s->invite, &s->b_id, &s->b, NOW), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(build_invite(s), CS_ECORRUPT); /* not even when used */
}

static void small_order_keys_are_refused(void **state)
{
    struct scene *s = *state;
    struct cs_device_keys weak = s->b;

    memset(weak.box_pk, 0, 32);
    assert_int_equal(build_add(s, &s->a_id, &s->a, &s->b_id, &weak, NOW), CS_EAUTH);
    /* as a member could still sign it */
    assert_int_equal(build_add(s, &s->a_id, &s->a, &s->b_id, &s->b, NOW), CS_OK);
    for (uint8_t low = 0; low < 2; low++) {
        uint8_t message[POSSESSION_LEN], *record = s->entry.data + CS_ENTRY_PREFIX_LEN;

        memset(record + RECORD_BOX_PK, 0, 32);
        record[RECORD_BOX_PK] = low;
        possession_message(message, s->workspace.b, record);
        cs_sign(&s->b.sign, "possession", cs_slice(message, sizeof message), record + RECORD_POSSESSION);
        resign(s, &s->a);
        assert_refused(s, CS_EAUTH);
    }
    /* a sign key of small order, under which R = key, S = 0 would verify */
    memset(s->entry.data + CS_ENTRY_PREFIX_LEN + RECORD_SIGN_PK, 0, 32);
    s->entry.data[CS_ENTRY_PREFIX_LEN + RECORD_SIGN_PK] = 1;
    memset(s->entry.data + CS_ENTRY_PREFIX_LEN + RECORD_POSSESSION, 0, 64);
    s->entry.data[CS_ENTRY_PREFIX_LEN + RECORD_POSSESSION] = 1;
    resign(s, &s->a);
    assert_refused(s, CS_EAUTH);
}

static void caps_hold(void **state)
{
    struct scene *s = *state;
    struct cs_device_keys k;

    for (uint8_t i = 0; i < 33; i++) {
        derive(&k, CS_PRINCIPAL_INVITE, (uint8_t)(100 + i), &s->workspace);
        cs_buf_reset(&s->entry);
        assert_int_equal(cs_entry_invite(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &k, "", &s->epoch, &floor_of_a,
                                         LATER, hub_key, NOW, &s->err),
                         i < 32 ? CS_OK : CS_ELIMIT);
        if (i < 32)
            assert_int_equal(apply(s, 0), CS_OK);
    }
    /* once they have expired there is room again */
    assert_int_equal(cs_entry_invite(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &k, "", &s->epoch, &floor_of_a,
                                     2 * (int64_t)LATER, hub_key, LATER + 1, &s->err),
                     CS_OK);
    for (int i = 1; i < 257; i++) {
        struct cs_uuid id = { { (uint8_t)(i >> 8), (uint8_t)i, 1 } };
        uint8_t secret[32] = { (uint8_t)(i >> 8), (uint8_t)i };

        cs_device_keys_derive(&k, CS_PRINCIPAL_DEVICE, cs_slice(secret, 32), &s->workspace);
        assert_int_equal(build_add(s, &s->a_id, &s->a, &id, &k, NOW), i < 256 ? CS_OK : CS_ELIMIT);
        if (i < 256)
            assert_int_equal(apply(s, 0), CS_OK);
    }
    cs_buf_reset(&s->entry);
    assert_non_null(cs_buf_grow(&s->entry, CS_ENTRY_MAX + 1));
    memset(s->entry.data, 0, s->entry.len);
    assert_int_equal(apply(s, 0), CS_ELIMIT);
}

static void names(void **state)
{
    struct scene *s = *state;
    char long_name[65] = { 0 }, name[64];
    struct cs_member copy = *cs_membership_find(&s->m, &s->a_id);

    copy.id = s->b_id; /* a name moved to another device */
    assert_false(cs_member_name(&copy, &s->epoch, 1, name));
    copy.id = s->a_id;
    copy.name[103] ^= 1;
    assert_false(cs_member_name(&copy, &s->epoch, 1, name));
    assert_string_equal(name, "");
    memset(long_name, 'n', 64);
    assert_int_equal(
        cs_entry_add(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &s->b_id, &s->b, long_name, &s->epoch, NOW, &s->err),
        CS_EINVAL);
    long_name[63] = '\0';
    assert_int_equal(
        cs_entry_add(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &s->b_id, &s->b, long_name, &s->epoch, NOW, &s->err),
        CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_true(cs_member_name(cs_membership_find(&s->m, &s->b_id), &s->epoch, 1, name));
    assert_string_equal(name, long_name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE(genesis_makes_one_member),
        SCENE(an_invite_adds_one_device),
        SCENE(a_vouch_covers_all_before_it),
        SCENE(every_bit_is_checked),
        SCENE(a_rule_refuses_what_a_member_signed),
        SCENE(genesis_rules),
        SCENE(order_is_checked),
        SCENE(who_may_write_what),
        SCENE(an_expired_invite_adds_nobody),
        SCENE(ids_and_keys_never_return),
        SCENE(small_order_keys_are_refused),
        SCENE(caps_hold),
        SCENE(names),
    };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("membership", tests, NULL, NULL);
}
