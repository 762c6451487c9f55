#include "identity/pair.h"

#include "identity/code.h"

/* offer: CSJ1 ‖ workspace ‖ id ‖ sign_pk ‖ box_pk ‖ eph 32 ‖ possession 64 ‖ commit 32 */
enum {
    OFFER_WORKSPACE = 4,
    OFFER_ID = 20,
    OFFER_SIGN = 36,
    OFFER_BOX = 68,
    OFFER_EPH = 100,
    OFFER_POSSESSION = 132,
    OFFER_COMMIT = 196
};
/* answer: CSJ2 ‖ B3(offer) ‖ id ‖ sign_pk ‖ eph ‖ nonce 32 ‖ genesis hash ‖ hub key */
enum {
    ANSWER_OFFER = 4,
    ANSWER_ID = 36,
    ANSWER_SIGN = 52,
    ANSWER_EPH = 84,
    ANSWER_NONCE = 116,
    ANSWER_GENESIS = 148,
    ANSWER_HUB = 180
};
/* done: CSJ4 ‖ nonce 24 ‖ BOX(pair key, nonce, member_seq u32 ‖ entry hash 32 ‖ floor 48) */
enum { DONE_NONCE = 4, DONE_BOX = 28, DONE_PLAIN = 4 + 32 + CS_FLOOR_LEN };
_Static_assert(OFFER_COMMIT + 32 == CS_PAIR_OFFER_LEN && ANSWER_HUB + 32 == CS_PAIR_ANSWER_LEN, "sizes add up");
_Static_assert(DONE_BOX + 16 + DONE_PLAIN == CS_PAIR_DONE_LEN, "sizes add up");

static void commit_to(const uint8_t nonce[32], const uint8_t offer[CS_PAIR_OFFER_LEN], uint8_t out[32])
{
    uint8_t m[32 + OFFER_COMMIT];

    memcpy(m, nonce, 32);
    memcpy(m + 32, offer, OFFER_COMMIT);
    cs_hash_label("pair commit", cs_slice(m, sizeof m), out);
}

/* transcript = offer ‖ answer ‖ the new device's nonce, behind `before` bytes */
enum { TRANSCRIPT = CS_PAIR_OFFER_LEN + CS_PAIR_ANSWER_LEN + 32 };
static void put_transcript(const struct cs_pair *p, uint8_t out[TRANSCRIPT])
{
    memcpy(out, p->offer, CS_PAIR_OFFER_LEN);
    memcpy(out + CS_PAIR_OFFER_LEN, p->answer, CS_PAIR_ANSWER_LEN);
    memcpy(out + CS_PAIR_OFFER_LEN + CS_PAIR_ANSWER_LEN, p->nonce_new, 32);
}

bool cs_pair_string(const struct cs_pair *p, char out[CS_PAIR_STRING])
{
    uint8_t m[TRANSCRIPT], hash[32];
    struct cs_buf text = { 0 };

    out[0] = '\0';
    if (!p->answered || !p->revealed || p->dead)
        return false;
    put_transcript(p, m);
    cs_hash_label("pair string", cs_slice(m, sizeof m), hash);
    cs_base32(&text, cs_slice(hash, 5));
    if (text.failed || text.len != CS_PAIR_STRING - 1) {
        cs_buf_free(&text);
        return false;
    }
    memcpy(out, text.data, CS_PAIR_STRING - 1);
    out[CS_PAIR_STRING - 1] = '\0';
    cs_buf_free(&text);
    return true;
}

/* Of our ephemeral secret and the other's ephemeral key. */
static int pair_key(const struct cs_pair *p, const uint8_t other[32], uint8_t out[32], struct cs_error *err)
{
    uint8_t m[32 + TRANSCRIPT];

    if (!p->answered || !p->revealed || p->dead)
        return cs_fail(err, CS_EINVAL, "the exchange between the two devices has not come so far");
    if (!cs_dh(p->eph_secret, other, m))
        return cs_fail(err, CS_EAUTH, "the other device's key is not a usable one; nothing was joined");
    put_transcript(p, m + 32);
    cs_hash_label("pair key", cs_slice(m, sizeof m), out);
    cs_wipe(m, sizeof m);
    return CS_OK;
}

static void make_ephemeral(struct cs_pair *p, const struct cs_rng *r, uint8_t pk[32])
{
    cs_random(r, p->eph_secret, sizeof p->eph_secret);
    cs_box_public(p->eph_secret, pk);
}

static bool usable(const uint8_t secret[32], const uint8_t pk[32])
{
    uint8_t dh[32];
    bool ok = cs_dh(secret, pk, dh);

    cs_wipe(dh, sizeof dh);
    return ok;
}

static void candidate_of(const uint8_t offer[CS_PAIR_OFFER_LEN], struct cs_candidate *out)
{
    memcpy(out->id.b, offer + OFFER_ID, 16);
    memcpy(out->sign_pk, offer + OFFER_SIGN, 32);
    memcpy(out->box_pk, offer + OFFER_BOX, 32);
    memcpy(out->possession, offer + OFFER_POSSESSION, CS_SIGNATURE_LEN);
}

static void answerer_of(const uint8_t answer[CS_PAIR_ANSWER_LEN], struct cs_pair_answerer *out)
{
    memcpy(out->id.b, answer + ANSWER_ID, 16);
    memcpy(out->sign_pk, answer + ANSWER_SIGN, 32);
    memcpy(out->genesis, answer + ANSWER_GENESIS, 32);
    memcpy(out->hub_key, answer + ANSWER_HUB, 32);
}

/* ---- the hub ---- */

int cs_pair_kind(struct cs_slice message)
{
    static const size_t len[] = { [CS_PAIR_OFFER] = CS_PAIR_OFFER_LEN,
                                  [CS_PAIR_ANSWER] = CS_PAIR_ANSWER_LEN,
                                  [CS_PAIR_REVEAL] = CS_PAIR_REVEAL_LEN,
                                  [CS_PAIR_DONE] = CS_PAIR_DONE_LEN };
    int kind;

    if (message.len < 4 || memcmp(message.data, "CSJ", 3) != 0)
        return 0;
    kind = message.data[3] - '0';
    return kind >= CS_PAIR_OFFER && kind <= CS_PAIR_DONE && message.len == len[kind] ? kind : 0;
}

bool cs_pair_offer_read(struct cs_slice offer, struct cs_uuid *workspace, struct cs_candidate *out)
{
    if (cs_pair_kind(offer) != CS_PAIR_OFFER)
        return false;
    if (workspace != NULL)
        memcpy(workspace->b, offer.data + OFFER_WORKSPACE, 16);
    candidate_of(offer.data, out);
    return true;
}

bool cs_pair_answer_read(struct cs_slice answer, struct cs_pair_answerer *out)
{
    if (cs_pair_kind(answer) != CS_PAIR_ANSWER)
        return false;
    answerer_of(answer.data, out);
    return true;
}

bool cs_pair_answer_is_to(struct cs_slice answer, const uint8_t offer_hash[32], const struct cs_uuid *by)
{
    return cs_pair_kind(answer) == CS_PAIR_ANSWER && memcmp(answer.data + ANSWER_OFFER, offer_hash, 32) == 0 &&
           memcmp(answer.data + ANSWER_ID, by->b, 16) == 0;
}

/* ---- the new device ---- */

void cs_pair_offer(struct cs_pair *p, const struct cs_rng *r, const struct cs_uuid *workspace, const struct cs_uuid *id,
                   const struct cs_device_keys *keys)
{
    struct cs_candidate self;

    *p = (struct cs_pair){ .workspace = *workspace };
    cs_candidate_make(&self, workspace, id, keys);
    memcpy(p->offer, "CSJ1", 4);
    memcpy(p->offer + OFFER_WORKSPACE, workspace->b, 16);
    memcpy(p->offer + OFFER_ID, id->b, 16);
    memcpy(p->offer + OFFER_SIGN, self.sign_pk, 32);
    memcpy(p->offer + OFFER_BOX, self.box_pk, 32);
    make_ephemeral(p, r, p->offer + OFFER_EPH);
    memcpy(p->offer + OFFER_POSSESSION, self.possession, CS_SIGNATURE_LEN);
    cs_random(r, p->nonce_new, sizeof p->nonce_new);
    commit_to(p->nonce_new, p->offer, p->offer + OFFER_COMMIT);
}

int cs_pair_take_answer(struct cs_pair *p, struct cs_slice answer, struct cs_error *err)
{
    uint8_t hash[32];

    if (p->answered)
        return cs_fail(err, CS_EEXIST, "a second answer to the same request to join; the first counts");
    if (answer.len != CS_PAIR_ANSWER_LEN || memcmp(answer.data, "CSJ2", 4) != 0)
        return cs_fail(err, CS_ECORRUPT, "not an answer to a request to join");
    cs_hash_plain(cs_slice(p->offer, sizeof p->offer), hash);
    if (memcmp(hash, answer.data + ANSWER_OFFER, 32) != 0)
        return cs_fail(err, CS_EAUTH, "PAIR_FORGED: an answer to another request to join");
    if (!usable(p->eph_secret, answer.data + ANSWER_EPH))
        return cs_fail(err, CS_EAUTH, "PAIR_FORGED: an answer without a usable key");
    memcpy(p->answer, answer.data, CS_PAIR_ANSWER_LEN);
    p->answered = true;
    return CS_OK;
}

int cs_pair_reveal(struct cs_pair *p, uint8_t out[CS_PAIR_REVEAL_LEN], struct cs_error *err)
{
    if (!p->answered) /* the member's nonce first, or the commitment would be worth nothing */
        return cs_fail(err, CS_EINVAL, "nobody has answered the request to join yet");
    memcpy(out, "CSJ3", 4);
    memcpy(out + 4, p->nonce_new, 32);
    p->revealed = true;
    return CS_OK;
}

void cs_pair_who(const struct cs_pair *p, struct cs_pair_answerer *out)
{
    answerer_of(p->answer, out);
}

int cs_pair_take_done(const struct cs_pair *p, struct cs_slice done, struct cs_pair_done *out, struct cs_error *err)
{
    uint8_t key[32], plain[DONE_PLAIN];
    bool opened;
    int rc;

    if (done.len != CS_PAIR_DONE_LEN || memcmp(done.data, "CSJ4", 4) != 0)
        return cs_fail(err, CS_ECORRUPT, "not the end of an exchange between two devices");
    if ((rc = pair_key(p, p->answer + ANSWER_EPH, key, err)) != CS_OK)
        return rc;
    opened = cs_box_open(key, done.data + DONE_NONCE, cs_slice(done.data + DONE_BOX, 16 + DONE_PLAIN), plain);
    cs_wipe(key, sizeof key);
    if (!opened)
        return cs_fail(err, CS_EAUTH, "PAIR_FORGED: the end of the exchange is not by whoever answered");
    out->member_seq = cs_load_u32(plain);
    memcpy(out->entry_hash, plain + 4, 32);
    out->floor.log_id = cs_load_u64(plain + 36);
    out->floor.number = cs_load_u64(plain + 44);
    memcpy(out->floor.log_hash, plain + 52, 32);
    return CS_OK;
}

/* ---- the member ---- */

void cs_pair_candidate(const struct cs_pair *p, struct cs_candidate *out)
{
    candidate_of(p->offer, out);
}

int cs_pair_answer(struct cs_pair *p, const struct cs_rng *r, struct cs_slice offer, const struct cs_uuid *workspace,
                   const struct cs_uuid *id, const uint8_t sign_pk[32], const uint8_t genesis[32],
                   const uint8_t hub_key[32], struct cs_error *err)
{
    struct cs_candidate who;

    *p = (struct cs_pair){ .workspace = *workspace };
    if (offer.len != CS_PAIR_OFFER_LEN || memcmp(offer.data, "CSJ1", 4) != 0)
        return cs_fail(err, CS_ECORRUPT, "not a request to join");
    memcpy(p->offer, offer.data, CS_PAIR_OFFER_LEN);
    cs_pair_candidate(p, &who);
    if (memcmp(p->offer + OFFER_WORKSPACE, workspace->b, 16) != 0 || !cs_candidate_verify(&who, workspace))
        return cs_fail(err, CS_EAUTH, "a request to join another workspace, or by a device without its key");
    memcpy(p->answer, "CSJ2", 4);
    cs_hash_plain(offer, p->answer + ANSWER_OFFER);
    memcpy(p->answer + ANSWER_ID, id->b, 16);
    memcpy(p->answer + ANSWER_SIGN, sign_pk, 32);
    make_ephemeral(p, r, p->answer + ANSWER_EPH);
    cs_random(r, p->answer + ANSWER_NONCE, 32);
    memcpy(p->answer + ANSWER_GENESIS, genesis, 32);
    memcpy(p->answer + ANSWER_HUB, hub_key, 32);
    if (!usable(p->eph_secret, p->offer + OFFER_EPH))
        return cs_fail(err, CS_EAUTH, "a request to join without a usable key");
    p->answered = true;
    return CS_OK;
}

int cs_pair_take_reveal(struct cs_pair *p, struct cs_slice reveal, struct cs_error *err)
{
    uint8_t commit[32];

    if (!p->answered || p->revealed || p->dead)
        return cs_fail(err, CS_EINVAL, "the exchange between the two devices is not at this point");
    if (reveal.len != CS_PAIR_REVEAL_LEN || memcmp(reveal.data, "CSJ3", 4) != 0) {
        p->dead = true;
        return cs_fail(err, CS_ECORRUPT, "not what follows in an exchange between two devices");
    }
    commit_to(reveal.data + 4, p->offer, commit);
    if (!cs_secret_eq(commit, p->offer + OFFER_COMMIT, 32)) {
        p->dead = true;
        return cs_fail(err, CS_EAUTH, "PAIR_FORGED: not what the request to join was bound to; nobody was let in");
    }
    memcpy(p->nonce_new, reveal.data + 4, 32);
    p->revealed = true;
    return CS_OK;
}

bool cs_pair_matches(const struct cs_pair *p, const char *typed)
{
    uint8_t want[5] = { 0 };
    struct cs_buf have = { 0 }, ours = { 0 };
    char text[CS_PAIR_STRING];
    bool same = false;

    if (cs_pair_string(p, text) && cs_unbase32(&ours, cs_slice_str(text)) && cs_unbase32(&have, cs_slice_str(typed)) &&
        ours.len == sizeof want && have.len == sizeof want)
        same = cs_secret_eq(ours.data, have.data, sizeof want);
    cs_buf_free(&ours);
    cs_buf_free(&have);
    return same;
}

int cs_pair_done(const struct cs_pair *p, const struct cs_rng *r, const struct cs_pair_done *in,
                 uint8_t out[CS_PAIR_DONE_LEN], struct cs_error *err)
{
    uint8_t key[32], plain[DONE_PLAIN];
    int rc = pair_key(p, p->offer + OFFER_EPH, key, err);

    if (rc != CS_OK)
        return rc;
    cs_store_u32(plain, in->member_seq);
    memcpy(plain + 4, in->entry_hash, 32);
    cs_store_u64(plain + 36, in->floor.log_id);
    cs_store_u64(plain + 44, in->floor.number);
    memcpy(plain + 52, in->floor.log_hash, 32);
    memcpy(out, "CSJ4", 4);
    cs_random(r, out + DONE_NONCE, CS_NONCE_LEN);
    cs_box(key, out + DONE_NONCE, cs_slice(plain, sizeof plain), out + DONE_BOX);
    cs_wipe(key, sizeof key);
    return CS_OK;
}
