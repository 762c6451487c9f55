#include "crypto/session.h"

#include <sodium.h>
#include <stdio.h>

static const char scheme[] = "ClawSync1 ";

static void put_session(struct cs_hasher *h, const uint8_t hello[CS_SESSION_HELLO_LEN], const uint8_t *reply)
{
    cs_hasher_init_label(h, "session");
    cs_hasher_update(h, hello, 1);
    cs_hasher_update(h, reply, 1);
    cs_hasher_update(h, hello + 1, 64);
    cs_hasher_update(h, reply + 1, 32 + 16 + 32);
}

/* T, and the keys that follow from it and the exchange. */
static bool derive(struct cs_session *out, const uint8_t secret[32], const uint8_t theirs[32],
                   const uint8_t transcript[32], const uint8_t *reply)
{
    uint8_t m[64];
    bool ok = cs_dh(secret, theirs, m);

    if (ok) {
        memcpy(m + 32, transcript, 32);
        cs_hash_label("session answer key", cs_slice(m, sizeof m), out->answer_key);
        memcpy(out->transcript, transcript, 32);
        memcpy(out->id, reply + 33, CS_SESSION_ID_LEN);
        memcpy(out->hub_pk, reply + 49, 32);
    }
    cs_wipe(m, sizeof m);
    return ok;
}

void cs_session_begin(const struct cs_rng *r, struct cs_session_hello *out)
{
    out->bytes[0] = CS_SESSION_VERSION;
    cs_random(r, out->secret, sizeof out->secret);
    cs_box_public(out->secret, out->bytes + 1);
    cs_random(r, out->bytes + 33, 32);
}

int cs_session_finish(struct cs_session_hello *hello, struct cs_slice reply, const uint8_t *pinned,
                      struct cs_session *out, struct cs_error *err)
{
    struct cs_hasher h;
    uint8_t transcript[32];
    const uint8_t *p = reply.data;
    bool ok;

    if (reply.len != CS_SESSION_REPLY_LEN || p[0] == 0)
        return cs_fail(err, CS_ECORRUPT, "the hub's answer opens no session");
    if (p[0] > hello->bytes[0])
        return cs_fail(err, CS_EVERSION, "the hub speaks session version %u, this device %u", p[0], hello->bytes[0]);
    put_session(&h, hello->bytes, p);
    cs_hasher_final(&h, transcript, sizeof transcript);
    if (!cs_verify_digest(p + 49, transcript, p + 81))
        return cs_fail(err, CS_EAUTH, "the hub's signature of the session is wrong");
    memcpy(out->hub_pk, p + 49, 32);
    if (pinned != NULL && !cs_secret_eq(pinned, p + 49, 32))
        return cs_fail(err, CS_EEXIST, "the hub has another key than the one this device knows");
    ok = derive(out, hello->secret, p + 1, transcript, p);
    cs_wipe(hello->secret, sizeof hello->secret);
    return ok ? CS_OK : cs_fail(err, CS_EAUTH, "the hub's key of the session is of small order");
}

int cs_session_answer(const struct cs_rng *r, const struct cs_sign_key *hub, struct cs_slice hello,
                      uint8_t reply[CS_SESSION_REPLY_LEN], struct cs_session *out, struct cs_error *err)
{
    struct cs_hasher h;
    uint8_t secret[32], transcript[32];
    bool ok;

    if (hello.len != CS_SESSION_HELLO_LEN || hello.data[0] == 0)
        return cs_fail(err, CS_ECORRUPT, "no such request for a session");
    reply[0] = hello.data[0] < CS_SESSION_VERSION ? hello.data[0] : CS_SESSION_VERSION;
    cs_random(r, secret, sizeof secret);
    cs_box_public(secret, reply + 1);
    cs_random(r, reply + 33, CS_SESSION_ID_LEN);
    memcpy(reply + 49, hub->pk, 32);
    put_session(&h, hello.data, reply);
    cs_hasher_final(&h, transcript, sizeof transcript);
    ok = derive(out, secret, hello.data + 1, transcript, reply);
    cs_wipe(secret, sizeof secret);
    if (!ok)
        return cs_fail(err, CS_EAUTH, "the device's key of the session is of small order");
    cs_sign_digest(hub, transcript, reply + 81);
    return CS_OK;
}

/* ---- calls ---- */

static void put_u64(struct cs_hasher *h, uint64_t v)
{
    uint8_t b[8];

    cs_store_u64(b, v);
    cs_hasher_update(h, b, sizeof b);
}

static void put_named(struct cs_hasher *h, const char *s)
{
    size_t n = strlen(s);
    uint8_t b[2];

    cs_store_u16(b, (uint16_t)n);
    cs_hasher_update(h, b, sizeof b);
    cs_hasher_update(h, s, n);
}

static void call_digest(const struct cs_call_proof *p, const uint8_t transcript[32], const char *path, uint8_t out[32])
{
    struct cs_hasher h;

    cs_hasher_init_label(&h, "rpc");
    cs_hasher_update(&h, transcript, 32);
    put_u64(&h, p->counter);
    cs_hasher_update(&h, p->workspace.b, 16);
    cs_hasher_update(&h, p->device.b, 16);
    cs_hasher_update(&h, p->body_hash, 32);
    put_named(&h, path);
    cs_hasher_final(&h, out, 32);
}

void cs_call_prove(const struct cs_session *s, const struct cs_sign_key *device, const char *path,
                   struct cs_call_proof *proof)
{
    uint8_t digest[32];

    memcpy(proof->session, s->id, sizeof proof->session);
    call_digest(proof, s->transcript, path, digest);
    cs_sign_digest(device, digest, proof->signature);
}

bool cs_call_verify(const struct cs_call_proof *proof, const uint8_t transcript[32], const char *path,
                    const uint8_t device_pk[32])
{
    uint8_t digest[32];

    call_digest(proof, transcript, path, digest);
    return cs_verify_digest(device_pk, digest, proof->signature);
}

void cs_call_proof_text(const struct cs_call_proof *proof, char out[CS_CALL_PROOF_TEXT])
{
    uint8_t b[CS_CALL_PROOF_LEN];

    memcpy(b, proof->session, 16);
    cs_store_u64(b + 16, proof->counter);
    memcpy(b + 24, proof->workspace.b, 16);
    memcpy(b + 40, proof->device.b, 16);
    memcpy(b + 56, proof->body_hash, 32);
    memcpy(b + 88, proof->signature, 64);
    memcpy(out, scheme, sizeof scheme - 1);
    sodium_bin2base64(out + sizeof scheme - 1, CS_CALL_PROOF_TEXT - (sizeof scheme - 1), b, sizeof b,
                      sodium_base64_VARIANT_URLSAFE_NO_PADDING);
}

bool cs_call_proof_parse(struct cs_call_proof *out, struct cs_slice text)
{
    size_t n = sizeof scheme - 1;
    struct cs_buf b = { 0 };
    bool ok = text.len == CS_CALL_PROOF_TEXT - 1 && memcmp(text.data, scheme, n) == 0 &&
              cs_unbase64(&b, cs_slice(text.data + n, text.len - n), true) && b.len == CS_CALL_PROOF_LEN && !b.failed;

    if (ok) {
        memcpy(out->session, b.data, 16);
        out->counter = cs_load_u64(b.data + 16);
        memcpy(out->workspace.b, b.data + 24, 16);
        memcpy(out->device.b, b.data + 40, 16);
        memcpy(out->body_hash, b.data + 56, 32);
        memcpy(out->signature, b.data + 88, 64);
    }
    cs_buf_free(&b);
    return ok;
}

static void register_digest(const uint8_t transcript[32], const struct cs_register_proof *p, uint8_t out[32])
{
    struct cs_hasher h;
    uint8_t hash[32];

    cs_hasher_init_label(&h, "register");
    cs_hasher_update(&h, transcript, 32);
    put_u64(&h, p->counter);
    cs_hasher_update(&h, p->workspace.b, 16);
    cs_hasher_update(&h, p->device.b, 16);
    cs_hasher_update(&h, p->sign_pk, 32);
    cs_hasher_update(&h, p->box_pk, 32);
    cs_hash_plain(p->membership_entry, hash);
    cs_hasher_update(&h, hash, sizeof hash);
    cs_hash_plain(p->join_offer, hash);
    cs_hasher_update(&h, hash, sizeof hash);
    cs_hasher_final(&h, out, 32);
}

void cs_register_prove(const struct cs_session *s, const struct cs_sign_key *device,
                       const struct cs_register_proof *proof, uint8_t out[CS_SIGNATURE_LEN])
{
    uint8_t digest[32];

    register_digest(s->transcript, proof, digest);
    cs_sign_digest(device, digest, out);
}

bool cs_register_verify(const uint8_t transcript[32], const struct cs_register_proof *proof,
                        const uint8_t signature[CS_SIGNATURE_LEN])
{
    uint8_t digest[32];

    register_digest(transcript, proof, digest);
    return cs_verify_digest(proof->sign_pk, digest, signature);
}

static void refill_digest(const uint8_t transcript[32], const struct cs_refill_proof *p, uint8_t out[32])
{
    struct cs_hasher h;
    uint8_t hash[32];

    cs_hasher_init_label(&h, "refill");
    cs_hasher_update(&h, transcript, 32);
    put_u64(&h, p->counter);
    cs_hasher_update(&h, p->workspace.b, 16);
    cs_hasher_update(&h, p->device.b, 16);
    cs_hash_plain(p->content, hash);
    cs_hasher_update(&h, hash, sizeof hash);
    cs_hasher_final(&h, out, 32);
}

void cs_refill_prove(const struct cs_session *s, const struct cs_sign_key *device, const struct cs_refill_proof *proof,
                     uint8_t out[CS_SIGNATURE_LEN])
{
    uint8_t digest[32];

    refill_digest(s->transcript, proof, digest);
    cs_sign_digest(device, digest, out);
}

bool cs_refill_verify(const uint8_t transcript[32], const struct cs_refill_proof *proof, const uint8_t sign_pk[32],
                      const uint8_t signature[CS_SIGNATURE_LEN])
{
    uint8_t digest[32];

    refill_digest(transcript, proof, digest);
    return cs_verify_digest(sign_pk, digest, signature);
}

/* ---- answers ---- */

void cs_answer_mac(const uint8_t answer_key[32], uint64_t counter, uint32_t grpc_status, struct cs_slice message,
                   uint8_t out[CS_ANSWER_MAC_LEN])
{
    uint8_t hash[32];

    cs_hash_plain(message, hash);
    cs_answer_mac_of_hash(answer_key, counter, grpc_status, hash, out);
}

void cs_answer_mac_of_hash(const uint8_t answer_key[32], uint64_t counter, uint32_t grpc_status,
                           const uint8_t message_hash[32], uint8_t out[CS_ANSWER_MAC_LEN])
{
    uint8_t m[1 + 8 + 4 + 32] = { 1 };

    cs_store_u64(m + 1, counter);
    cs_store_u32(m + 9, grpc_status);
    memcpy(m + 13, message_hash, 32);
    cs_mac(answer_key, cs_slice(m, sizeof m), out, CS_ANSWER_MAC_LEN);
}

void cs_push_mac(const uint8_t answer_key[32], const uint8_t batch_hash[32], bool accepted, uint64_t log_number,
                 struct cs_slice reason, uint8_t out[CS_ANSWER_MAC_LEN])
{
    struct cs_hasher h;
    uint8_t b[8 + 2] = { 2 };

    cs_hasher_init_keyed(&h, answer_key);
    cs_hasher_update(&h, b, 1);
    cs_hasher_update(&h, batch_hash, 32);
    b[0] = accepted ? 1 : 0;
    cs_hasher_update(&h, b, 1);
    cs_store_u64(b, log_number);
    cs_store_u16(b + 8, (uint16_t)reason.len);
    cs_hasher_update(&h, b, sizeof b);
    cs_hasher_update(&h, reason.data, reason.len);
    cs_hasher_final(&h, out, CS_ANSWER_MAC_LEN);
}

void cs_push_answer_mac(const uint8_t answer_key[32], const uint8_t batch_hash[32], uint64_t log_number, bool accepted,
                        int status, const char *kind, const char *reason, uint8_t out[CS_ANSWER_MAC_LEN])
{
    struct cs_buf text = { 0 };
    char number[16];

    if (!accepted) {
        snprintf(number, sizeof number, "%d ", status);
        cs_buf_put_str(&text, number);
        cs_buf_put_str(&text, kind);
        cs_buf_put_u8(&text, ' ');
        cs_buf_put_str(&text, reason);
    }
    cs_push_mac(answer_key, batch_hash, accepted, log_number, cs_buf_slice(&text), out);
    cs_buf_free(&text);
}

/* ---- counters ---- */

/* All bits one place on, or several: what was taken is further below the new highest. */
static void shift(struct cs_counter_window *w, uint64_t by)
{
    enum { WORDS = CS_SESSION_WINDOW / 64 };
    uint64_t words = by / 64, bits = by % 64;

    for (int i = WORDS - 1; i >= 0; i--) {
        uint64_t from = (uint64_t)i < words ? 0 : w->bits[(uint64_t)i - words];
        uint64_t below = (uint64_t)i < words + 1 ? 0 : w->bits[(uint64_t)i - words - 1];

        w->bits[i] = bits == 0 ? from : from << bits | below >> (64 - bits);
    }
}

bool cs_counter_take(struct cs_counter_window *w, uint64_t counter)
{
    uint64_t back;

    if (counter == 0)
        return false;
    if (counter > w->highest) {
        shift(w, counter - w->highest);
        w->highest = counter;
    }
    back = w->highest - counter;
    if (back >= CS_SESSION_WINDOW || (w->bits[back / 64] >> back % 64 & 1) != 0)
        return false;
    w->bits[back / 64] |= UINT64_C(1) << back % 64;
    return true;
}

/* ---- peers ---- */

bool cs_peer_key(const uint8_t our_secret[32], const struct cs_uuid *our_id, const uint8_t our_pk[32],
                 const struct cs_uuid *their_id, const uint8_t their_pk[32], const struct cs_uuid *workspace,
                 const char *purpose, void *out, size_t n)
{
    bool first = cs_uuid_cmp(our_id, their_id) < 0;
    struct cs_hasher h;
    uint8_t dh[32];

    if (!cs_dh(our_secret, their_pk, dh))
        return false;
    cs_hasher_init_label(&h, "peer key");
    cs_hasher_update(&h, dh, sizeof dh);
    cs_hasher_update(&h, workspace->b, 16);
    cs_hasher_update(&h, first ? our_id->b : their_id->b, 16);
    cs_hasher_update(&h, first ? our_pk : their_pk, 32);
    cs_hasher_update(&h, first ? their_id->b : our_id->b, 16);
    cs_hasher_update(&h, first ? their_pk : our_pk, 32);
    put_named(&h, purpose);
    cs_hasher_final(&h, out, n);
    cs_wipe(dh, sizeof dh);
    cs_wipe(&h, sizeof h);
    return true;
}
