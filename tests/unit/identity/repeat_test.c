/* With a generator that is broken, and gives the same bytes for ever, nothing that must not repeat does: nonces,
 * ephemeral keys, epoch keys, secrets, in all that is made with random bytes. Signing needs none. */
#include "unit/identity/member_scene.h"

#include "crypto/keystore_format.h"
#include "crypto/session.h"
#include "identity/pair.h"

enum { ROUNDS = 8, MOST = 4096, LEN = 16 };

struct drawn {
    uint8_t of[MOST][LEN];
    size_t n;
};

/* The first 16 bytes of something that was drawn, or follows from that. */
static void never_before(struct drawn *d, const uint8_t *p)
{
    for (size_t i = 0; i < d->n; i++)
        assert_memory_not_equal(d->of[i], p, LEN);
    assert_true(d->n < MOST);
    memcpy(d->of[d->n++], p, LEN);
}

/* Wraps begin with their ephemeral key; the commitment is the epoch key's. */
static void look_at_block(struct drawn *d, const uint8_t *block)
{
    never_before(d, block + EPOCH_COMMITMENT);
    for (uint16_t i = 0; i < cs_load_u16(block + EPOCH_COUNT); i++)
        never_before(d, block + EPOCH_WRAPS + i * EPOCH_WRAP_LEN + 16);
}

static void taken(struct scene *s, int built)
{
    assert_int_equal(built, CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
}

static void entries(struct scene *s, struct drawn *d)
{
    const uint8_t *body = NULL;
    struct cs_epoch_keys next;
    struct cs_device_keys invite;
    uint8_t secret[16];

    cs_random(&s->f.rng, secret, sizeof secret);
    never_before(d, secret);
    cs_device_keys_derive(&invite, CS_PRINCIPAL_INVITE, cs_slice(secret, sizeof secret), &s->workspace);
    cs_buf_reset(&s->entry);
    taken(s, cs_entry_invite(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &invite, "i", &s->epoch, &floor_of_a, LATER,
                             hub_key, NOW, &s->err));
    body = s->entry.data + CS_ENTRY_PREFIX_LEN;
    never_before(d, body + RECORD_NAME);
    never_before(d, body + ADD_WRAP);
    cs_buf_reset(&s->entry);
    taken(s, cs_entry_rotate(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &s->epoch, &next, NOW, &s->err));
    s->epoch = next;
    never_before(d, next.key);
    look_at_block(d, s->entry.data + CS_ENTRY_PREFIX_LEN);
    cs_buf_reset(&s->entry);
    taken(s, cs_entry_rename(&s->entry, &s->f.rng, &s->m, &s->a_id, &s->a, &s->a_id, "same name", &s->epoch, NOW,
                             &s->err));
    never_before(d, s->entry.data + CS_ENTRY_PREFIX_LEN + RENAME_NAME);
}

static void sessions(struct scene *s, struct drawn *d)
{
    struct cs_session_hello hello;
    struct cs_session keys;
    uint8_t reply[CS_SESSION_REPLY_LEN];

    cs_session_begin(&s->f.rng, &hello);
    never_before(d, hello.bytes + 1);
    never_before(d, hello.bytes + 33);
    assert_int_equal(
        cs_session_answer(&s->f.rng, &s->b.sign, cs_slice(hello.bytes, sizeof hello.bytes), reply, &keys, NULL), CS_OK);
    never_before(d, reply + 1);
    never_before(d, reply + 33);
    never_before(d, keys.answer_key);
}

static void pairs(struct scene *s, struct drawn *d)
{
    static const uint8_t genesis[32] = { 'g' };
    static const struct cs_pair_done end = { .member_seq = 2 };
    struct cs_pair offered, answered;
    uint8_t reveal[CS_PAIR_REVEAL_LEN], done[CS_PAIR_DONE_LEN];

    cs_pair_offer(&offered, &s->f.rng, &s->workspace, &s->c_id, &s->c);
    never_before(d, offered.offer + 100); /* the ephemeral key, then the commitment to the nonce */
    never_before(d, offered.offer + 196);
    assert_int_equal(cs_pair_answer(&answered, &s->f.rng, cs_slice(offered.offer, CS_PAIR_OFFER_LEN), &s->workspace,
                                    &s->a_id, s->a.sign.pk, genesis, hub_key, NULL),
                     CS_OK);
    never_before(d, answered.answer + 84);
    never_before(d, answered.answer + 116);
    assert_int_equal(cs_pair_take_answer(&offered, cs_slice(answered.answer, CS_PAIR_ANSWER_LEN), NULL), CS_OK);
    assert_int_equal(cs_pair_reveal(&offered, reveal, NULL), CS_OK);
    never_before(d, reveal + 4);
    assert_int_equal(cs_pair_take_reveal(&answered, cs_slice(reveal, sizeof reveal), NULL), CS_OK);
    assert_int_equal(cs_pair_done(&answered, &s->f.rng, &end, done, NULL), CS_OK);
    never_before(d, done + 4);
}

static void files(struct scene *s, struct drawn *d)
{
    static const struct cs_kdf_cost cheap = { 1, 8 * 1024 };
    struct cs_buf plain = { 0 }, locked = { 0 };

    assert_int_equal(cs_envelope_seal(&plain, "CSK1", NULL, cheap, cs_slice_str("body"), &s->f.rng, NULL), CS_OK);
    assert_int_equal(cs_envelope_seal(&locked, "CSX1", "words", cheap, cs_slice_str("body"), &s->f.rng, NULL), CS_OK);
    never_before(d, plain.data + 32);
    never_before(d, locked.data + 16);
    never_before(d, locked.data + 32);
    cs_buf_free(&plain);
    cs_buf_free(&locked);
}

static void nothing_repeats(void **state)
{
    struct drawn *d = calloc(1, sizeof *d);
    struct scene *s = *state;

    assert_non_null(d);
    s->f.random_constant = true;
    for (int i = 0; i < ROUNDS; i++) {
        entries(s, d);
        sessions(s, d);
        pairs(s, d);
        files(s, d);
    }
    assert_in_range(d->n, 150, MOST);
    free(d);
}

/* The same message, the same signature, whatever the generator does. */
static void signing_draws_nothing(void **state)
{
    struct scene *s = *state;
    uint8_t first[CS_SIGNATURE_LEN], second[CS_SIGNATURE_LEN];
    uint64_t before = s->f.random_state;

    cs_sign(&s->a.sign, "batch", cs_slice_str("message"), first);
    cs_sign(&s->a.sign, "batch", cs_slice_str("message"), second);
    assert_memory_equal(first, second, sizeof first);
    assert_int_equal(s->f.random_state, before);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test_setup_teardown(nothing_repeats, setup, teardown),
                                        cmocka_unit_test_setup_teardown(signing_draws_nothing, setup, teardown) };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("a broken generator", tests, NULL, NULL);
}
