/* Sessions between a client and the hub, and the proofs that calls and answers carry (docs/protocol.md,
 * authentication). A session is an X25519 exchange of two ephemeral keys that the hub signs; its transcript T enters
 * every signature of a call, its answer key every MAC of an answer. Pure but for the randomness. Any thread; an object
 * is its owner's. */
#ifndef CS_CRYPTO_SESSION_H
#define CS_CRYPTO_SESSION_H

#include "base/uuid.h"
#include "crypto/keys.h"

enum {
    CS_SESSION_VERSION = 1,
    CS_SESSION_ID_LEN = 16,
    CS_SESSION_HELLO_LEN = 1 + 32 + 32,           /* client_max u8 ‖ eph_C ‖ random_C */
    CS_SESSION_REPLY_LEN = 1 + 32 + 16 + 32 + 64, /* version u8 ‖ eph_H ‖ session id ‖ hub key ‖ signature */
    CS_CALL_PROOF_LEN = 16 + 8 + 16 + 16 + 32 + 64, /* session ‖ counter ‖ workspace ‖ device ‖ body hash ‖ signature */
    CS_CALL_PROOF_TEXT = 10 + (CS_CALL_PROOF_LEN * 4 + 2) / 3 + 1, /* "ClawSync1 " and base64url, with a NUL */
    CS_ANSWER_MAC_LEN = 32,
    CS_SESSION_WINDOW = 1024 /* counters below the highest that may still come, in any order */
};

/* Lives in cs_secret_alloc memory, or is wiped by its owner. */
struct cs_session {
    uint8_t id[CS_SESSION_ID_LEN];
    uint8_t transcript[32]; /* T */
    uint8_t answer_key[32];
    uint8_t hub_pk[32];
};

/* The client's side of the exchange: made by begin, used up by finish (the secret is wiped). */
struct cs_session_hello {
    uint8_t bytes[CS_SESSION_HELLO_LEN]; /* what is sent */
    uint8_t secret[32];
};
void cs_session_begin(const struct cs_rng *r, struct cs_session_hello *out);
/* pinned: the hub key that must have signed; NULL on first contact, then out->hub_pk is what to pin. CS_ECORRUPT: not
 * such a reply; CS_EVERSION: a version above ours; CS_EAUTH: a wrong signature or a small-order key; CS_EEXIST: signed
 * rightly by another key than the pinned one, which is out->hub_pk. Else out is set only on CS_OK. */
int cs_session_finish(struct cs_session_hello *hello, struct cs_slice reply, const uint8_t *pinned,
                      struct cs_session *out, struct cs_error *err);
/* The hub's side, whole. CS_ECORRUPT or CS_EAUTH: a hello that is none. */
int cs_session_answer(const struct cs_rng *r, const struct cs_sign_key *hub, struct cs_slice hello,
                      uint8_t reply[CS_SESSION_REPLY_LEN], struct cs_session *out, struct cs_error *err);

/* What a call proves: that this device makes this call, once, in this session, with this body. */
struct cs_call_proof {
    uint8_t session[CS_SESSION_ID_LEN];
    uint64_t counter; /* from 1, +1 with each call of the session */
    struct cs_uuid workspace, device;
    uint8_t body_hash[32]; /* B3 of the one request message; zero for Push */
    uint8_t signature[CS_SIGNATURE_LEN];
};
/* Fills in session and signature. path: "/package.Service/Method". */
void cs_call_prove(const struct cs_session *s, const struct cs_sign_key *device, const char *path,
                   struct cs_call_proof *proof);
/* The signature only: counter, session and body are the caller's to check. */
bool cs_call_verify(const struct cs_call_proof *proof, const uint8_t transcript[32], const char *path,
                    const uint8_t device_pk[32]);
void cs_call_proof_text(const struct cs_call_proof *proof, char out[CS_CALL_PROOF_TEXT]); /* `authorization` metadata */
bool cs_call_proof_parse(struct cs_call_proof *out, struct cs_slice text);

/* RegisterDevice proves possession of a key that the hub need not know yet. Slices: B3 of nothing where absent. */
struct cs_register_proof {
    uint64_t counter;
    struct cs_uuid workspace, device;
    uint8_t sign_pk[32], box_pk[32];
    struct cs_slice membership_entry, join_offer;
};
void cs_register_prove(const struct cs_session *s, const struct cs_sign_key *device,
                       const struct cs_register_proof *proof, uint8_t out[CS_SIGNATURE_LEN]);
bool cs_register_verify(const uint8_t transcript[32], const struct cs_register_proof *proof,
                        const uint8_t signature[CS_SIGNATURE_LEN]);

/* Refill proves what the hub may have lost: the membership that says whose key it is comes with it. */
struct cs_refill_proof {
    uint64_t counter;
    struct cs_uuid workspace, device;
    struct cs_slice content;
};
void cs_refill_prove(const struct cs_session *s, const struct cs_sign_key *device, const struct cs_refill_proof *proof,
                     uint8_t out[CS_SIGNATURE_LEN]);
bool cs_refill_verify(const uint8_t transcript[32], const struct cs_refill_proof *proof, const uint8_t sign_pk[32],
                      const uint8_t signature[CS_SIGNATURE_LEN]);

/* Of a unary answer; message is empty where a status came without one. */
void cs_answer_mac(const uint8_t answer_key[32], uint64_t counter, uint32_t grpc_status, struct cs_slice message,
                   uint8_t out[CS_ANSWER_MAC_LEN]);
/* The same from the message's B3. */
void cs_answer_mac_of_hash(const uint8_t answer_key[32], uint64_t counter, uint32_t grpc_status,
                           const uint8_t message_hash[32], uint8_t out[CS_ANSWER_MAC_LEN]);
/* Of one answer on a Push stream. */
void cs_push_mac(const uint8_t answer_key[32], const uint8_t batch_hash[32], bool accepted, uint64_t log_number,
                 struct cs_slice reason, uint8_t out[CS_ANSWER_MAC_LEN]);

/* The same with what a refusal says as its reason: "status kind reason". kind and reason do not count when accepted. */
void cs_push_answer_mac(const uint8_t answer_key[32], const uint8_t batch_hash[32], uint64_t log_number, bool accepted,
                        int status, const char *kind, const char *reason, uint8_t out[CS_ANSWER_MAC_LEN]);

/* The hub's memory of a session's counters: each is taken once. Zero-initialised is new. Not thread-safe: the caller
 * holds it alone, so that a test is also the setting. */
struct cs_counter_window {
    uint64_t highest, bits[CS_SESSION_WINDOW / 64]; /* bit k: highest - k was taken */
};
/* Marks it; false: taken already, or too old to tell, or 0. */
bool cs_counter_take(struct cs_counter_window *w, uint64_t counter);

/* n bytes that two devices alone share: H("peer key", dh ‖ …, n); `ours` is one side's box keys, and the result is the
 * same on both sides. purpose tells apart what it is for. false: a small-order key. */
bool cs_peer_key(const uint8_t our_secret[32], const struct cs_uuid *our_id, const uint8_t our_pk[32],
                 const struct cs_uuid *their_id, const uint8_t their_pk[32], const struct cs_uuid *workspace,
                 const char *purpose, void *out, size_t n);

#endif
