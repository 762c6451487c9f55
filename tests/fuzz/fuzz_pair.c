/* The messages of joining without a code, to whoever takes them. The first byte chooses the message, and whether the
 * rest is it, or what is changed of a true one: no fuzzer finds a signature or a box by itself. */
#include "fuzz/fuzz.h"

#include <string.h>

#include "identity/pair.h"
#include "unit/crypto/fixed_world.h"

enum { OFFER = 0, ANSWER = 1, REVEAL = 2, DONE = 3, CHANGED = 4 };

struct scene {
    struct fixed_world f;
    struct cs_uuid workspace, new_id, member_id;
    struct cs_device_keys new_keys, member_keys;
    struct cs_pair offered, answered; /* up to the answer */
    struct cs_pair new_side, member;  /* up to the strings */
    uint8_t reveal[CS_PAIR_REVEAL_LEN], done[CS_PAIR_DONE_LEN];
    char string[CS_PAIR_STRING];
};

static int answer(struct scene *s, struct cs_pair *p, struct cs_slice offer)
{
    static const uint8_t genesis[32] = { 'g' }, hub_key[32] = { 'h' };

    return cs_pair_answer(p, &s->f.rng, offer, &s->workspace, &s->member_id, s->member_keys.sign.pk, genesis, hub_key,
                          NULL);
}

static struct scene *scene(void)
{
    static const uint8_t secrets[2][32] = { { 1 }, { 2 } };
    static const struct cs_pair_done end = { .member_seq = 2, .floor = { .log_id = 7, .number = 9 } };
    static struct scene s;

    if (s.string[0] != '\0')
        return &s;
    FUZZ_CHECK(cs_crypto_init(NULL) == CS_OK);
    fixed_world_init(&s.f);
    s.workspace.b[0] = 1;
    s.new_id.b[0] = 2;
    s.member_id.b[0] = 3;
    cs_device_keys_derive(&s.new_keys, CS_PRINCIPAL_DEVICE, cs_slice(secrets[0], 32), &s.workspace);
    cs_device_keys_derive(&s.member_keys, CS_PRINCIPAL_DEVICE, cs_slice(secrets[1], 32), &s.workspace);
    cs_pair_offer(&s.offered, &s.f.rng, &s.workspace, &s.new_id, &s.new_keys);
    FUZZ_CHECK(answer(&s, &s.answered, cs_slice(s.offered.offer, CS_PAIR_OFFER_LEN)) == CS_OK);
    s.new_side = s.offered;
    s.member = s.answered;
    FUZZ_CHECK(cs_pair_take_answer(&s.new_side, cs_slice(s.member.answer, CS_PAIR_ANSWER_LEN), NULL) == CS_OK);
    FUZZ_CHECK(cs_pair_reveal(&s.new_side, s.reveal, NULL) == CS_OK);
    FUZZ_CHECK(cs_pair_take_reveal(&s.member, cs_slice(s.reveal, sizeof s.reveal), NULL) == CS_OK);
    FUZZ_CHECK(cs_pair_done(&s.member, &s.f.rng, &end, s.done, NULL) == CS_OK);
    FUZZ_CHECK(cs_pair_string(&s.member, s.string));
    return &s;
}

static struct cs_slice message(const struct scene *s, int which)
{
    switch (which) {
    case OFFER:
        return cs_slice(s->offered.offer, CS_PAIR_OFFER_LEN);
    case ANSWER:
        return cs_slice(s->answered.answer, CS_PAIR_ANSWER_LEN);
    case REVEAL:
        return cs_slice(s->reveal, sizeof s->reveal);
    default:
        return cs_slice(s->done, sizeof s->done);
    }
}

/* Who accepted another message than was sent sees another string. */
static void shows(const struct scene *s, const struct cs_pair *p, bool same)
{
    char text[CS_PAIR_STRING];

    FUZZ_CHECK(cs_pair_string(p, text));
    FUZZ_CHECK((strcmp(text, s->string) == 0) == same);
}

static void take(struct scene *s, int which, struct cs_slice m)
{
    bool same = cs_slice_eq(m, message(s, which));
    struct cs_pair p = s->offered;
    struct cs_pair_done end;
    int rc;

    switch (which) {
    case OFFER:
        rc = answer(s, &p, m);
        FUZZ_CHECK(!same || rc == CS_OK);
        FUZZ_CHECK(rc != CS_OK || (cs_pair_kind(m) == CS_PAIR_OFFER && p.answered && !p.revealed));
        break;
    case ANSWER:
        rc = cs_pair_take_answer(&p, m, NULL);
        FUZZ_CHECK(!same || rc == CS_OK);
        if (rc != CS_OK)
            break;
        FUZZ_CHECK(cs_pair_take_answer(&p, m, NULL) == CS_EEXIST);
        FUZZ_CHECK(cs_pair_reveal(&p, s->reveal, NULL) == CS_OK);
        shows(s, &p, same);
        break;
    case REVEAL:
        p = s->answered;
        FUZZ_CHECK((cs_pair_take_reveal(&p, m, NULL) == CS_OK) == same);
        FUZZ_CHECK(p.dead == !same && p.revealed == same);
        break;
    default:
        FUZZ_CHECK((cs_pair_take_done(&s->new_side, m, &end, NULL) == CS_OK) == same);
        FUZZ_CHECK(!same || (end.member_seq == 2 && end.floor.log_id == 7 && end.floor.number == 9));
    }
}

/* The hub reads what it carries, and verifies nothing. */
static void carry(const struct scene *s, struct cs_slice m)
{
    struct cs_candidate who;
    struct cs_pair_answerer by;
    struct cs_uuid workspace;
    uint8_t hash[32];
    int kind = cs_pair_kind(m);

    FUZZ_CHECK(cs_pair_offer_read(m, &workspace, &who) == (kind == CS_PAIR_OFFER));
    FUZZ_CHECK(cs_pair_answer_read(m, &by) == (kind == CS_PAIR_ANSWER));
    cs_hash_plain(message(s, OFFER), hash);
    FUZZ_CHECK(!cs_pair_answer_is_to(m, hash, &s->member_id) || kind == CS_PAIR_ANSWER);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t changed[CS_PAIR_OFFER_LEN + CS_PAIR_ANSWER_LEN];
    struct scene *s = scene();
    struct cs_slice m, mask;

    if (size == 0)
        return 0;
    mask = m = cs_slice(data + 1, size - 1);
    if (data[0] & CHANGED) {
        m = message(s, data[0] & 3);
        if (mask.len > m.len)
            return 0;
        memcpy(changed, m.data, m.len);
        for (size_t i = 0; i < mask.len; i++)
            changed[i] ^= mask.data[i];
        m = cs_slice(changed, m.len);
    }
    take(s, data[0] & 3, m);
    carry(s, m);
    return 0;
}
