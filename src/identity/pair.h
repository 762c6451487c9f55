/* Joining without a code: the messages between a new device and a member, which pass a mailbox of the hub, and the
 * short string that both screens show. The new device commits to its nonce before it sees the member's, so whoever
 * stands between the two has one guess of 2^-40 for each exchange, and cannot try in private. Any thread, one state per
 * thread.
 *
 *   new ── offer ──▶ member       CSJ1: who it is, an ephemeral key, a commitment to its nonce
 *   new ◀── answer ── member      CSJ2: the offer's hash, who answers, an ephemeral key, a nonce, genesis, hub key
 *   new ── reveal ──▶ member      CSJ3: the nonce            both show the string; people compare it
 *   new ◀── done ── member        CSJ4: boxed under the exchange's key: the entry that lets it in, and the floor */
#ifndef CS_IDENTITY_PAIR_H
#define CS_IDENTITY_PAIR_H

#include "identity/membership.h"

enum {
    CS_PAIR_OFFER_LEN = 4 + 16 + 16 + 32 + 32 + 32 + 64 + 32,
    CS_PAIR_ANSWER_LEN = 4 + 32 + 16 + 32 + 32 + 32 + 32 + 32,
    CS_PAIR_REVEAL_LEN = 4 + 32,
    CS_PAIR_DONE_LEN = 4 + 24 + 16 + 4 + 32 + CS_FLOOR_LEN,
    CS_PAIR_STRING = 9 /* 8 characters of base32, and a NUL */
};

/* What both sides hold. In cs_secret_alloc memory; zeroed first. */
struct cs_pair {
    struct cs_uuid workspace;
    uint8_t eph_secret[32];
    uint8_t nonce_new[32]; /* the member: since the reveal */
    uint8_t offer[CS_PAIR_OFFER_LEN], answer[CS_PAIR_ANSWER_LEN];
    bool answered, revealed, dead;
};

/* ---- the new device ---- */

void cs_pair_offer(struct cs_pair *p, const struct cs_rng *r, const struct cs_uuid *workspace, const struct cs_uuid *id,
                   const struct cs_device_keys *keys);
/* The first answer only: CS_EEXIST. CS_EAUTH: it is for another offer, or no usable key. */
int cs_pair_take_answer(struct cs_pair *p, struct cs_slice answer, struct cs_error *err);
int cs_pair_reveal(struct cs_pair *p, uint8_t out[CS_PAIR_REVEAL_LEN], struct cs_error *err);
/* What the answer says; for the log that is fetched afterwards to be held against. */
struct cs_pair_answerer {
    struct cs_uuid id;
    uint8_t sign_pk[32], genesis[32], hub_key[32];
};
void cs_pair_who(const struct cs_pair *p, struct cs_pair_answerer *out);
struct cs_pair_done {
    uint32_t member_seq;
    uint8_t entry_hash[32];
    struct cs_floor floor;
};
/* Only after the person said that the strings are the same. CS_EAUTH: not boxed by whoever answered. */
int cs_pair_take_done(const struct cs_pair *p, struct cs_slice done, struct cs_pair_done *out, struct cs_error *err);

/* ---- the member ---- */

/* Checks an offer and answers it: p->answer. CS_ECORRUPT, CS_EAUTH: not of a device that holds its keys. */
int cs_pair_answer(struct cs_pair *p, const struct cs_rng *r, struct cs_slice offer, const struct cs_uuid *workspace,
                   const struct cs_uuid *id, const uint8_t sign_pk[32], const uint8_t genesis[32],
                   const uint8_t hub_key[32], struct cs_error *err);
void cs_pair_candidate(const struct cs_pair *p, struct cs_candidate *out); /* whom the offer is of */
/* CS_EAUTH, PAIR_FORGED: not what the offer committed to; the exchange is dead then. */
int cs_pair_take_reveal(struct cs_pair *p, struct cs_slice reveal, struct cs_error *err);
/* Does a person type what is on the other screen? Any case, O for 0, I and L for 1, spaces and dashes skipped. */
bool cs_pair_matches(const struct cs_pair *p, const char *typed);
int cs_pair_done(const struct cs_pair *p, const struct cs_rng *r, const struct cs_pair_done *in,
                 uint8_t out[CS_PAIR_DONE_LEN], struct cs_error *err);

/* ---- the hub, which carries them ---- */

enum cs_pair_kind { CS_PAIR_OFFER = 1, CS_PAIR_ANSWER, CS_PAIR_REVEAL, CS_PAIR_DONE };
int cs_pair_kind(struct cs_slice message); /* by its beginning and its length; 0: none of them */
/* False: it is no offer. workspace: may be NULL. Nothing is verified. */
bool cs_pair_offer_read(struct cs_slice offer, struct cs_uuid *workspace, struct cs_candidate *out);
bool cs_pair_answer_read(struct cs_slice answer, struct cs_pair_answerer *out);
/* Is it the answer of that member to the offer of this hash? */
bool cs_pair_answer_is_to(struct cs_slice answer, const uint8_t offer_hash[32], const struct cs_uuid *by);

/* ---- both ---- */

/* False, and empty: the nonce is not known yet. */
bool cs_pair_string(const struct cs_pair *p, char out[CS_PAIR_STRING]);

#endif
