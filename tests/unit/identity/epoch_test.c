/* Rotations and removals. */
#include "unit/identity/member_scene.h"

/* A, B and C, an invite of A's and one of B's. */
struct crew {
    struct scene *s;
    struct cs_device_keys b_invite;
    struct cs_epoch_keys next;
};

static const struct cs_uuid *id_of(const struct scene *s, char who)
{
    return who == 'a' ? &s->a_id : who == 'b' ? &s->b_id : &s->c_id;
}

static const struct cs_device_keys *keys_of(const struct scene *s, char who)
{
    return who == 'a' ? &s->a : who == 'b' ? &s->b : &s->c;
}

static void crew(struct crew *x, struct scene *s)
{
    *x = (struct crew){ .s = s };
    derive(&x->b_invite, CS_PRINCIPAL_INVITE, 5, &s->workspace);
    assert_int_equal(build_add(s, &s->a_id, &s->a, &s->c_id, &s->c, NOW), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(build_add(s, &s->a_id, &s->a, &s->b_id, &s->b, NOW), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    invited(s);
    cs_buf_reset(&s->entry);
    assert_int_equal(cs_entry_invite(&s->entry, &s->f.rng, &s->m, &s->b_id, &s->b, &x->b_invite, "of b", &s->epoch,
                                     &floor_of_a, LATER, hub_key, NOW, &s->err),
                     CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
}

static int rotate(struct crew *x, char who)
{
    struct scene *s = x->s;

    cs_buf_reset(&s->entry);
    return cs_entry_rotate(&s->entry, &s->f.rng, &s->m, id_of(s, who), keys_of(s, who), &s->epoch, &x->next, NOW,
                           &s->err);
}

static struct cs_cut cut(const struct cs_uuid *id, uint64_t number, uint8_t hash)
{
    struct cs_cut c = { *id, number, { hash } };

    return c;
}

static int removal(struct crew *x, char who, const struct cs_cut *cuts, size_t n)
{
    struct scene *s = x->s;

    cs_buf_reset(&s->entry);
    return cs_entry_remove(&s->entry, &s->f.rng, &s->m, id_of(s, who), keys_of(s, who), cuts, n, &s->epoch, &x->next,
                           NOW, &s->err);
}

static void assert_shared(const struct crew *x, const struct cs_uuid *id, const struct cs_device_keys *keys, bool with)
{
    const struct scene *s = x->s;
    uint8_t wrap[CS_WRAP_LEN], key[32];
    uint32_t epoch;

    assert_int_equal(cs_entry_wrap(cs_buf_slice(&s->entry), id, &epoch, wrap), with ? CS_OK : CS_ENOTFOUND);
    if (!with)
        return;
    assert_int_equal(epoch, s->m.epoch);
    assert_int_equal(cs_wrap_open(key, wrap, keys, &s->workspace, epoch, s->m.commitment, NULL), CS_OK);
    assert_memory_equal(key, x->next.key, 32);
}

static void a_rotation_shares_with_everybody(void **state)
{
    struct scene *s = *state;
    struct cs_epoch_keys older = { 0 }, wrong;
    struct crew x;

    crew(&x, s);
    assert_int_equal(rotate(&x, 'b'), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(s->m.epoch, 2);
    assert_int_equal(s->m.epoch_seq, 6);
    assert_int_equal(x.next.epoch, 2);
    assert_memory_equal(s->m.commitment, x.next.commitment, 32);
    assert_memory_not_equal(x.next.key, s->epoch.key, 32);
    assert_shared(&x, &s->a_id, &s->a, true);
    assert_shared(&x, &s->b_id, &s->b, true);
    assert_shared(&x, &s->c_id, &s->c, true);
    assert_shared(&x, &s->invite.id, &s->invite, true);
    assert_shared(&x, &x.b_invite.id, &x.b_invite, true);
    /* which epoch was in force when */
    assert_int_equal(cs_membership_epoch_at(&s->m, 0), 0);
    assert_int_equal(cs_membership_epoch_at(&s->m, 1), 1);
    assert_int_equal(cs_membership_epoch_at(&s->m, 5), 1);
    assert_int_equal(cs_membership_epoch_at(&s->m, 6), 2);
    assert_int_equal(cs_membership_epoch_at(&s->m, 7), 0);
    assert_memory_equal(cs_membership_epoch(&s->m, 1)->commitment, s->epoch.commitment, 32);
    assert_int_equal(cs_membership_epoch(&s->m, 2)->seq, 6);
    assert_null(cs_membership_epoch(&s->m, 0));
    assert_null(cs_membership_epoch(&s->m, 3));
    /* the newer key gives the older, and not the other way round */
    assert_int_equal(cs_epoch_older(&older, &s->m, &x.next, &s->err), CS_OK);
    assert_memory_equal(&older, &s->epoch, sizeof older);
    assert_int_equal(cs_epoch_older(&older, &s->m, &s->epoch, &s->err), CS_ENOTFOUND);
    cs_epoch_keys_derive(&wrong, s->epoch.key, &s->workspace, 2);
    assert_int_equal(cs_epoch_older(&older, &s->m, &wrong, &s->err), CS_ENOTFOUND);
    s->m.epochs[1].history[0] ^= 1;
    assert_int_equal(cs_epoch_older(&older, &s->m, &x.next, &s->err), CS_EAUTH);
    s->m.epochs[1].history[0] ^= 1;
    s->m.epochs[0].commitment[0] ^= 1;
    assert_int_equal(cs_epoch_older(&older, &s->m, &x.next, &s->err), CS_EAUTH);
}

/* Entries that share the old key are of the past. */
static void what_follows_a_rotation(void **state)
{
    struct scene *s = *state;
    struct cs_buf late = { 0 };
    struct cs_uuid d_id = { "d" };
    struct cs_device_keys d;
    struct crew x;

    crew(&x, s);
    derive(&d, CS_PRINCIPAL_DEVICE, 6, &s->workspace);
    assert_int_equal(rotate(&x, 'a'), CS_OK);
    cs_buf_put_slice(&late, cs_buf_slice(&s->entry));
    assert_int_equal(rotate(&x, 'b'), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    /* the loser, and the loser built anew with the key that is no longer the newest */
    assert_int_equal(cs_membership_apply(&s->m, cs_buf_slice(&late), 0, NULL), CS_EABORTED);
    assert_refused(s, CS_EABORTED);
    assert_int_equal(rotate(&x, 'a'), CS_EINVAL);
    assert_int_equal(x.next.epoch, 0);
    assert_int_equal(build_add(s, &s->a_id, &s->a, &d_id, &d, NOW), CS_ECORRUPT);
    assert_int_equal(cs_membership_apply(&s->m, cs_buf_slice(&late), 0, NULL), CS_EABORTED);
    cs_buf_free(&late);
}

/* The key is another one every time, even with a broken source of randomness. */
static void no_key_goes_into_two_entries(void **state)
{
    struct scene *s = *state;
    struct cs_epoch_keys first;
    struct crew x;

    crew(&x, s);
    s->f.random_constant = true;
    assert_int_equal(rotate(&x, 'a'), CS_OK);
    first = x.next;
    assert_int_equal(rotate(&x, 'a'), CS_OK);
    assert_memory_not_equal(first.key, x.next.key, 32);
}

static void a_removal_ends_a_device_and_its_invites(void **state)
{
    struct scene *s = *state;
    const struct cs_member *b;
    struct cs_cut cuts[1], found;
    struct crew x;
    uint8_t hash[32] = { 7 }, other[32] = { 8 };

    crew(&x, s);
    assert_false(cs_membership_past_cut(&s->m, &s->b_id, UINT64_MAX, hash));
    cuts[0] = cut(&s->b_id, 40, 7);
    assert_int_equal(removal(&x, 'c', cuts, 1), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    b = cs_membership_find(&s->m, &s->b_id);
    assert_false(b->active);
    assert_true(b->removed);
    assert_int_equal(b->ended_seq, 6);
    assert_int_equal(b->cut.number, 40);
    assert_true(cs_membership_was_member(&s->m, &s->b_id, 5));
    assert_false(cs_membership_was_member(&s->m, &s->b_id, 6));
    assert_true(cs_membership_was_member(&s->m, &s->c_id, 6));
    assert_false(cs_membership_find(&s->m, &x.b_invite.id)->active);
    assert_false(cs_membership_find(&s->m, &x.b_invite.id)->removed);
    assert_true(cs_membership_find(&s->m, &s->invite.id)->active);
    assert_int_equal(s->m.epoch, 2);
    assert_shared(&x, &s->a_id, &s->a, true);
    assert_shared(&x, &s->c_id, &s->c, true);
    assert_shared(&x, &s->invite.id, &s->invite, true);
    assert_shared(&x, &s->b_id, &s->b, false);
    assert_shared(&x, &x.b_invite.id, &x.b_invite, false);
    assert_false(cs_membership_past_cut(&s->m, &s->b_id, 39, other));
    assert_false(cs_membership_past_cut(&s->m, &s->b_id, 40, hash));
    assert_true(cs_membership_past_cut(&s->m, &s->b_id, 40, other));
    assert_true(cs_membership_past_cut(&s->m, &s->b_id, 41, hash));
    assert_false(cs_membership_past_cut(&s->m, &s->a_id, 41, hash));
    assert_false(cs_membership_past_cut(&s->m, &(struct cs_uuid){ "x" }, 41, hash));
    assert_true(cs_entry_cut(cs_buf_slice(&s->entry), 0, &found));
    assert_memory_equal(&found, &cuts[0], sizeof found);
    assert_false(cs_entry_cut(cs_buf_slice(&s->entry), 1, &found));
    assert_false(cs_entry_cut(cs_buf_slice(&s->genesis), 0, &found));
    /* what it signs from now on is nobody's word, and its id does not return */
    s->epoch = x.next;
    assert_int_equal(rotate(&x, 'b'), CS_EAUTH);
    assert_non_null(strstr(s->err.msg, "removed"));
    assert_int_equal(build_add(s, &x.b_invite.id, &x.b_invite, &(struct cs_uuid){ "d" }, &s->c, NOW), CS_EAUTH);
    assert_int_equal(build_add(s, &s->a_id, &s->a, &s->b_id, &s->c, NOW), CS_ECORRUPT);
    assert_int_equal(removal(&x, 'a', cuts, 1), CS_ECORRUPT);
}

static void several_at_once_in_any_order(void **state)
{
    struct scene *s = *state;
    struct cs_cut cuts[4], first, second;
    struct crew x;

    crew(&x, s);
    cuts[0] = cut(&s->c_id, 0, 0);
    cuts[1] = cut(&x.b_invite.id, 0, 0);
    cuts[2] = cut(&s->b_id, 1, 2);
    cuts[3] = cut(&s->invite.id, 0, 0);
    assert_int_equal(removal(&x, 'a', cuts, 4), CS_OK);
    for (size_t i = 0; i < 3; i++) {
        assert_true(cs_entry_cut(cs_buf_slice(&s->entry), i, &first));
        assert_true(cs_entry_cut(cs_buf_slice(&s->entry), i + 1, &second));
        assert_true(cs_uuid_cmp(&first.id, &second.id) < 0);
    }
    assert_int_equal(apply(s, 0), CS_OK);
    for (size_t i = 0; i < s->m.nmembers; i++)
        assert_true(s->m.members[i].active == (i == 0));
    assert_true(cs_membership_find(&s->m, &x.b_invite.id)->removed);
    assert_true(cs_membership_past_cut(&s->m, &s->c_id, 1, s->m.head));
    assert_shared(&x, &s->a_id, &s->a, true);
}

static void who_cannot_be_removed(void **state)
{
    struct scene *s = *state;
    struct cs_cut cuts[3];
    struct crew x;

    crew(&x, s);
    cuts[0] = cut(&s->a_id, 1, 1);
    assert_int_equal(removal(&x, 'a', cuts, 1), CS_ECORRUPT); /* oneself, the last device or not */
    assert_int_equal(removal(&x, 'a', cuts, 0), CS_ECORRUPT); /* nobody */
    cuts[0] = cut(&(struct cs_uuid){ "stranger" }, 1, 1);
    assert_int_equal(removal(&x, 'a', cuts, 1), CS_ECORRUPT);
    cuts[0] = cut(&s->b_id, 1, 1);
    cuts[1] = cut(&s->b_id, 1, 1); /* twice */
    assert_int_equal(removal(&x, 'a', cuts, 2), CS_ECORRUPT);
    cuts[0] = cut(&s->invite.id, 1, 1); /* an invite has no chain */
    assert_int_equal(removal(&x, 'a', cuts, 1), CS_ECORRUPT);
    cuts[0] = cut(&s->b_id, 0, 1); /* nothing has no hash */
    assert_int_equal(removal(&x, 'a', cuts, 1), CS_ECORRUPT);
    assert_int_equal(s->entry.len, 0);
    /* an invite removes and rotates nobody */
    cuts[0] = cut(&s->b_id, 1, 1);
    assert_int_equal(cs_entry_remove(&s->entry, &s->f.rng, &s->m, &s->invite.id, &s->invite, cuts, 1, &s->epoch,
                                     &x.next, NOW, &s->err),
                     CS_EAUTH);
    assert_int_equal(
        cs_entry_rotate(&s->entry, &s->f.rng, &s->m, &s->invite.id, &s->invite, &s->epoch, &x.next, NOW, &s->err),
        CS_EAUTH);
    /* A's id, another key */
    assert_int_equal(
        cs_entry_remove(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->c, cuts, 1, &s->epoch, &x.next, NOW, &s->err),
        CS_EAUTH);
    /* two that remove each other: the first wins */
    assert_int_equal(removal(&x, 'a', cuts, 1), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    s->epoch = x.next;
    cuts[0] = cut(&s->a_id, 1, 1);
    assert_int_equal(removal(&x, 'b', cuts, 1), CS_EAUTH);
}

static void every_bit_and_length_is_checked(void **state)
{
    struct scene *s = *state;
    struct cs_cut cuts[1];
    struct crew x;

    crew(&x, s);
    cuts[0] = cut(&s->b_id, 3, 3);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(round == 0 ? rotate(&x, 'a') : removal(&x, 'a', cuts, 1), CS_OK);
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
}

/* A body that a member changed, with the length field and signature to match. */
static void rewrite(struct scene *s, size_t at, size_t drop, const void *put, size_t n)
{
    struct cs_buf e = { 0 };

    at += CS_ENTRY_PREFIX_LEN;
    cs_buf_put(&e, s->entry.data, at);
    cs_buf_put(&e, put, n);
    cs_buf_put(&e, s->entry.data + at + drop, s->entry.len - at - drop);
    cs_store_u32(e.data + ENTRY_BODY_LEN, (uint32_t)(e.len - CS_ENTRY_PREFIX_LEN - CS_SIGNATURE_LEN));
    cs_buf_free(&s->entry);
    s->entry = e;
    resign(s, &s->a);
}

static void lengths_that_a_member_signed(void **state)
{
    struct scene *s = *state;
    struct cs_cut cuts[1];
    struct crew x;
    size_t len;

    crew(&x, s);
    cuts[0] = cut(&s->b_id, 3, 3);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(round == 0 ? rotate(&x, 'a') : removal(&x, 'a', cuts, 1), CS_OK);
        len = s->entry.len - CS_ENTRY_PREFIX_LEN - CS_SIGNATURE_LEN;
        rewrite(s, len, 0, "\0", 1);
        assert_refused(s, CS_ECORRUPT);
        rewrite(s, 0, 1, NULL, 0); /* of the right length again, and shifted */
        assert_refused(s, CS_ECORRUPT);
        for (; len > 0; len--) {
            rewrite(s, len - 1, 1, NULL, 0);
            assert_int_equal(cs_membership_check(&s->m, cs_buf_slice(&s->entry), 0, NULL), CS_ECORRUPT);
        }
    }
}

/* Where the epoch block of a removal of one begins, and of a rotation. */
enum { BLOCK_OF_REMOVE = REMOVE_CUTS + CUT_LEN, BLOCK_OF_ROTATE = 0 };

static void bent_block(struct crew *x, size_t block)
{
    struct scene *s = x->s;
    struct cs_cut cuts[1] = { cut(&s->b_id, 3, 3) };
    uint8_t swapped[2 * EPOCH_WRAP_LEN], twice[EPOCH_WRAP_LEN], number[4], count[2];
    size_t wraps = block + EPOCH_WRAPS, n = block == BLOCK_OF_ROTATE ? 5 : 3;
    uint8_t *body;

#define BUILD()                                                                                                        \
    do {                                                                                                               \
        assert_int_equal(block == BLOCK_OF_ROTATE ? rotate(x, 'a') : removal(x, 'a', cuts, 1), CS_OK);                 \
        body = s->entry.data + CS_ENTRY_PREFIX_LEN;                                                                    \
    } while (0)
    for (uint32_t epoch = 0; epoch < 4; epoch++) {
        BUILD();
        cs_store_u32(number, epoch);
        rewrite(s, block + EPOCH_NUMBER, 4, number, 4);
        if (epoch == 2)
            assert_int_equal(cs_membership_check(&s->m, cs_buf_slice(&s->entry), 0, NULL), CS_OK);
        else
            assert_refused(s, CS_ECORRUPT);
    }
    for (uint16_t i = 0; i < 8; i++) { /* a count that the length does not bear out */
        if (i == n)
            continue;
        BUILD();
        cs_store_u16(count, i);
        rewrite(s, block + EPOCH_COUNT, 2, count, 2);
        assert_refused(s, CS_ECORRUPT);
    }
    for (size_t i = 0; i < n; i++) { /* each of them left out */
        BUILD();
        cs_store_u16(body + block + EPOCH_COUNT, (uint16_t)(n - 1));
        rewrite(s, wraps + i * EPOCH_WRAP_LEN, EPOCH_WRAP_LEN, NULL, 0);
        assert_refused(s, CS_ECORRUPT);
    }
    for (size_t i = 0; i < n; i++) { /* one twice, beside the others or in the place of one */
        BUILD();
        memcpy(twice, body + wraps + i * EPOCH_WRAP_LEN, sizeof twice);
        cs_store_u16(body + block + EPOCH_COUNT, (uint16_t)(n + 1));
        rewrite(s, wraps + i * EPOCH_WRAP_LEN, 0, twice, sizeof twice);
        assert_refused(s, CS_ECORRUPT);
        BUILD();
        rewrite(s, wraps + (i + 1) % n * EPOCH_WRAP_LEN, EPOCH_WRAP_LEN, twice, sizeof twice);
        assert_refused(s, CS_ECORRUPT);
    }
    for (size_t i = 0; i + 1 < n; i++) { /* two in the wrong order */
        BUILD();
        memcpy(swapped, body + wraps + (i + 1) * EPOCH_WRAP_LEN, EPOCH_WRAP_LEN);
        memcpy(swapped + EPOCH_WRAP_LEN, body + wraps + i * EPOCH_WRAP_LEN, EPOCH_WRAP_LEN);
        rewrite(s, wraps + i * EPOCH_WRAP_LEN, sizeof swapped, swapped, sizeof swapped);
        assert_refused(s, CS_ECORRUPT);
    }
    /* a stranger's, at the end, instead of another's */
    BUILD();
    memset(body + wraps + (n - 1) * EPOCH_WRAP_LEN, 0xff, 16);
    resign(s, &s->a);
    assert_refused(s, CS_ECORRUPT);
    /* a share that opens for nobody is its author's fault, seen by whom it was meant for */
    BUILD();
    body[wraps + 16] ^= 1;
    resign(s, &s->a);
    assert_int_equal(cs_membership_check(&s->m, cs_buf_slice(&s->entry), 0, NULL), CS_OK);
#undef BUILD
}

static void wraps_are_for_exactly_those_who_stay(void **state)
{
    struct scene *s = *state;
    struct cs_cut cuts[1];
    uint8_t wrap[EPOCH_WRAP_LEN];
    uint8_t *body;
    struct crew x;
    size_t at;

    crew(&x, s);
    bent_block(&x, BLOCK_OF_ROTATE);
    bent_block(&x, BLOCK_OF_REMOVE);
    /* the removed one and its invite are given nothing, whoever wrote the entry */
    cuts[0] = cut(&s->b_id, 3, 3);
    for (int i = 0; i < 2; i++) {
        const struct cs_uuid *id = i == 0 ? &s->b_id : &x.b_invite.id;

        assert_int_equal(removal(&x, 'a', cuts, 1), CS_OK);
        body = s->entry.data + CS_ENTRY_PREFIX_LEN;
        at = BLOCK_OF_REMOVE + EPOCH_WRAPS;
        memcpy(wrap, body + at, sizeof wrap);
        memcpy(wrap, id->b, 16);
        for (size_t k = 0; k < 3 && memcmp(body + at, id->b, 16) < 0; k++)
            at += EPOCH_WRAP_LEN;
        cs_store_u16(body + BLOCK_OF_REMOVE + EPOCH_COUNT, 4);
        rewrite(s, at, 0, wrap, sizeof wrap);
        assert_refused(s, CS_ECORRUPT);
    }
}

static void cuts_that_a_member_bent(void **state)
{
    struct scene *s = *state;
    struct cs_cut cuts[2];
    uint8_t swapped[2 * CUT_LEN], count[2];
    uint8_t *body;
    struct crew x;

    crew(&x, s);
    cuts[0] = cut(&s->b_id, 3, 3);
    cuts[1] = cut(&s->c_id, 4, 4);
    assert_int_equal(removal(&x, 'a', cuts, 2), CS_OK);
    body = s->entry.data + CS_ENTRY_PREFIX_LEN;
    memcpy(swapped, body + REMOVE_CUTS + CUT_LEN, CUT_LEN);
    memcpy(swapped + CUT_LEN, body + REMOVE_CUTS, CUT_LEN);
    rewrite(s, REMOVE_CUTS, sizeof swapped, swapped, sizeof swapped);
    assert_refused(s, CS_ECORRUPT);
    for (uint16_t i = 0; i < 6; i++) {
        if (i == 2)
            continue;
        assert_int_equal(removal(&x, 'a', cuts, 2), CS_OK);
        cs_store_u16(count, i);
        rewrite(s, 0, 2, count, 2);
        assert_refused(s, CS_ECORRUPT);
    }
    /* a cut fewer or more, with the shares as they were */
    assert_int_equal(removal(&x, 'a', cuts, 2), CS_OK);
    cs_store_u16(s->entry.data + CS_ENTRY_PREFIX_LEN, 1);
    rewrite(s, REMOVE_CUTS, CUT_LEN, NULL, 0);
    assert_refused(s, CS_ECORRUPT);
    assert_int_equal(removal(&x, 'a', cuts, 1), CS_OK);
    memcpy(swapped, cuts[1].id.b, 16);
    cs_store_u16(s->entry.data + CS_ENTRY_PREFIX_LEN, 2);
    rewrite(s, REMOVE_CUTS + CUT_LEN, 0, swapped, CUT_LEN);
    assert_refused(s, CS_ECORRUPT);
    /* a removal called rotation, and the other way round */
    assert_int_equal(removal(&x, 'a', cuts, 1), CS_OK);
    s->entry.data[ENTRY_TYPE] = CS_ENTRY_ROTATE;
    resign(s, &s->a);
    assert_refused(s, CS_ECORRUPT);
    assert_int_equal(rotate(&x, 'a'), CS_OK);
    s->entry.data[ENTRY_TYPE] = CS_ENTRY_REMOVE;
    resign(s, &s->a);
    assert_refused(s, CS_ECORRUPT);
}

/* The largest workspace still fits into one entry, and half of it can go at once. */
static void the_largest_workspace(void **state)
{
    struct scene *s = *state;
    struct cs_cut cuts[200];
    struct cs_device_keys k;
    struct crew x = { .s = s };

    for (int i = 1; i < 256; i++) {
        struct cs_uuid id = { { (uint8_t)(i * 7), (uint8_t)i, 1 } };
        uint8_t secret[32] = { 1, (uint8_t)i };

        cs_device_keys_derive(&k, CS_PRINCIPAL_DEVICE, cs_slice(secret, 32), &s->workspace);
        assert_int_equal(build_add(s, &s->a_id, &s->a, &id, &k, NOW), CS_OK);
        assert_int_equal(apply(s, 0), CS_OK);
        if (i <= 200)
            cuts[i - 1] = cut(&id, (uint64_t)i, (uint8_t)i);
    }
    assert_int_equal(rotate(&x, 'a'), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    s->epoch = x.next;
    assert_int_equal(removal(&x, 'a', cuts, 200), CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_int_equal(s->m.epoch, 3);
    assert_true(cs_membership_past_cut(&s->m, &cuts[199].id, 201, cuts[199].hash));
    assert_int_equal(removal(&x, 'a', cuts, CS_ENTRY_MAX), CS_ELIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE(a_rotation_shares_with_everybody),
        SCENE(what_follows_a_rotation),
        SCENE(no_key_goes_into_two_entries),
        SCENE(a_removal_ends_a_device_and_its_invites),
        SCENE(several_at_once_in_any_order),
        SCENE(who_cannot_be_removed),
        SCENE(every_bit_and_length_is_checked),
        SCENE(lengths_that_a_member_signed),
        SCENE(wraps_are_for_exactly_those_who_stay),
        SCENE(cuts_that_a_member_bent),
        SCENE(the_largest_workspace),
    };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("epochs", tests, NULL, NULL);
}
