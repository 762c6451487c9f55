#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "crypto/head.h"
#include "crypto/session.h"
#include "unit/crypto/fixed_world.h"

static const char path[] = "/clawsync.v1.SyncService/Pull";

struct fixture {
    struct fixed_world world;
    struct cs_sign_key hub, device;
    struct cs_session_hello hello;
    uint8_t reply[CS_SESSION_REPLY_LEN];
    struct cs_session client, server;
};

static void open_session(struct fixture *f)
{
    uint8_t seed[32] = { 3 };

    memset(f, 0, sizeof *f);
    fixed_world_init(&f->world);
    assert_int_equal(cs_crypto_init(NULL), CS_OK);
    cs_sign_key_from_seed(&f->hub, seed);
    seed[0] = 4;
    cs_sign_key_from_seed(&f->device, seed);
    cs_session_begin(&f->world.rng, &f->hello);
    assert_int_equal(cs_session_answer(&f->world.rng, &f->hub, cs_slice(f->hello.bytes, sizeof f->hello.bytes),
                                       f->reply, &f->server, NULL),
                     CS_OK);
}

static int finish(struct fixture *f, const uint8_t *pinned)
{
    struct cs_session_hello hello = f->hello;

    return cs_session_finish(&hello, cs_slice(f->reply, sizeof f->reply), pinned, &f->client, NULL);
}

static void both_sides_agree(void **state)
{
    struct fixture f;
    uint8_t other[32] = { 9 };

    (void)state;
    open_session(&f);
    assert_int_equal(finish(&f, NULL), CS_OK);
    assert_memory_equal(&f.client, &f.server, sizeof f.client);
    assert_memory_equal(f.client.hub_pk, f.hub.pk, 32);
    assert_int_equal(finish(&f, f.hub.pk), CS_OK);
    assert_int_equal(finish(&f, other), CS_EEXIST);
}

static void two_sessions_share_nothing(void **state)
{
    struct fixture a, b;

    (void)state;
    open_session(&a);
    open_session(&b);
    cs_session_begin(&a.world.rng, &b.hello);
    assert_int_equal(cs_session_answer(&a.world.rng, &b.hub, cs_slice(b.hello.bytes, sizeof b.hello.bytes), b.reply,
                                       &b.server, NULL),
                     CS_OK);
    assert_memory_not_equal(a.server.id, b.server.id, 16);
    assert_memory_not_equal(a.server.transcript, b.server.transcript, 32);
    assert_memory_not_equal(a.server.answer_key, b.server.answer_key, 32);
}

static void every_bit_of_a_reply_counts(void **state)
{
    struct fixture f;

    (void)state;
    open_session(&f);
    for (size_t bit = 0; bit < 8 * sizeof f.reply; bit++) {
        f.reply[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(finish(&f, NULL), CS_OK);
        f.reply[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t len = 0; len < sizeof f.reply; len++) {
        struct cs_session_hello hello = f.hello;

        assert_int_equal(cs_session_finish(&hello, cs_slice(f.reply, len), NULL, &f.client, NULL), CS_ECORRUPT);
    }
    assert_int_equal(finish(&f, NULL), CS_OK);
}

static void another_hello_has_another_session(void **state)
{
    struct fixture f;

    (void)state;
    open_session(&f);
    for (size_t bit = 8; bit < 8 * sizeof f.hello.bytes; bit++) {
        f.hello.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(finish(&f, NULL), CS_EAUTH);
        f.hello.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void hellos_that_are_none(void **state)
{
    struct fixture f;
    uint8_t bytes[CS_SESSION_HELLO_LEN + 1] = { 0 };
    struct cs_error err;

    (void)state;
    open_session(&f);
    memcpy(bytes, f.hello.bytes, sizeof f.hello.bytes);
    assert_int_equal(cs_session_answer(&f.world.rng, &f.hub, cs_slice(bytes, sizeof bytes), f.reply, &f.server, &err),
                     CS_ECORRUPT);
    assert_int_equal(
        cs_session_answer(&f.world.rng, &f.hub, cs_slice(bytes, sizeof bytes - 2), f.reply, &f.server, &err),
        CS_ECORRUPT);
    bytes[0] = 0;
    assert_int_equal(
        cs_session_answer(&f.world.rng, &f.hub, cs_slice(bytes, sizeof bytes - 1), f.reply, &f.server, &err),
        CS_ECORRUPT);
    memset(bytes, 0, sizeof bytes); /* the point of order 1 */
    bytes[0] = 1;
    assert_int_equal(
        cs_session_answer(&f.world.rng, &f.hub, cs_slice(bytes, sizeof bytes - 1), f.reply, &f.server, &err), CS_EAUTH);
    bytes[0] = 200; /* a newer client */
    memcpy(bytes + 1, f.hello.bytes + 1, 64);
    assert_int_equal(
        cs_session_answer(&f.world.rng, &f.hub, cs_slice(bytes, sizeof bytes - 1), f.reply, &f.server, &err), CS_OK);
    assert_int_equal(f.reply[0], CS_SESSION_VERSION);
}

/* ---- calls ---- */

static void a_call(struct fixture *f, struct cs_call_proof *p)
{
    open_session(f);
    assert_int_equal(finish(f, NULL), CS_OK);
    *p = (struct cs_call_proof){ .counter = 7 };
    memset(p->workspace.b, 1, 16);
    memset(p->device.b, 2, 16);
    cs_hash_plain(cs_slice_str("body"), p->body_hash);
    cs_call_prove(&f->client, &f->device, path, p);
}

static void a_call_is_proven(void **state)
{
    char text[CS_CALL_PROOF_TEXT];
    struct fixture f, g;
    struct cs_call_proof p, q;

    (void)state;
    a_call(&f, &p);
    cs_call_proof_text(&p, text);
    assert_int_equal(strlen(text), CS_CALL_PROOF_TEXT - 1);
    assert_true(cs_call_proof_parse(&q, cs_slice_str(text)));
    assert_memory_equal(&p, &q, sizeof p);
    assert_true(cs_call_verify(&q, f.server.transcript, path, f.device.pk));
    assert_false(cs_call_verify(&q, f.server.transcript, "/clawsync.v1.SyncService/Push", f.device.pk));
    assert_false(cs_call_verify(&q, f.server.transcript, path, f.hub.pk));
    open_session(&g);
    g.server.transcript[5] ^= 1;
    assert_false(cs_call_verify(&q, g.server.transcript, path, f.device.pk));
}

static void every_bit_of_a_proof_counts(void **state)
{
    char text[CS_CALL_PROOF_TEXT];
    struct cs_call_proof p, q;
    struct fixture f;

    (void)state;
    a_call(&f, &p);
    for (size_t i = 16 * 8; i < sizeof p * 8; i++) { /* the session's id is looked up, not signed: T is */
        if (i / 8 >= sizeof p)
            break;
        q = p;
        ((uint8_t *)&q)[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_false(cs_call_verify(&q, f.server.transcript, path, f.device.pk));
    }
    cs_call_proof_text(&p, text);
    for (size_t i = 0; i < strlen(text); i++) {
        char was = text[i];

        for (int c = 1; c < 256; c += 7) {
            text[i] = (char)c;
            if (c != (uint8_t)was && cs_call_proof_parse(&q, cs_slice(text, CS_CALL_PROOF_TEXT - 1)))
                assert_memory_not_equal(&p, &q, sizeof p);
        }
        text[i] = was;
        assert_false(cs_call_proof_parse(&q, cs_slice(text, i)));
    }
}

static void registering(void **state)
{
    struct cs_register_proof p = { .counter = 1 };
    uint8_t sig[64], entry[100] = { 5 };
    struct fixture f;

    (void)state;
    open_session(&f);
    memcpy(p.sign_pk, f.device.pk, 32);
    memset(p.box_pk, 6, 32);
    p.membership_entry = cs_slice(entry, sizeof entry);
    assert_int_equal(finish(&f, NULL), CS_OK);
    cs_register_prove(&f.client, &f.device, &p, sig);
    assert_true(cs_register_verify(f.server.transcript, &p, sig));
    p.join_offer = cs_slice(entry, 1);
    assert_false(cs_register_verify(f.server.transcript, &p, sig));
    p.join_offer = CS_SLICE_NULL;
    entry[99] ^= 1;
    assert_false(cs_register_verify(f.server.transcript, &p, sig));
    entry[99] ^= 1;
    p.counter = 2;
    assert_false(cs_register_verify(f.server.transcript, &p, sig));
    p.counter = 1;
    p.box_pk[3] ^= 1;
    assert_false(cs_register_verify(f.server.transcript, &p, sig));
    p.box_pk[3] ^= 1;
    assert_true(cs_register_verify(f.server.transcript, &p, sig));
}

/* ---- a signature for one thing is none for another ---- */

static const char *const labels[] = { "audit row",  "batch",    "hub head", "member entry",
                                      "possession", "register", "rpc",      "session" };
enum { NLABELS = sizeof labels / sizeof labels[0] };

/* What each of the four kinds signs, without its label. */
static void put_call(struct cs_buf *out, const struct fixture *f, const struct cs_call_proof *p)
{
    cs_buf_put(out, f->server.transcript, 32);
    cs_buf_put_u64(out, p->counter);
    cs_buf_put(out, p->workspace.b, 16);
    cs_buf_put(out, p->device.b, 16);
    cs_buf_put(out, p->body_hash, 32);
    cs_buf_put_u16(out, (uint16_t)strlen(path));
    cs_buf_put_str(out, path);
}

static void put_registration(struct cs_buf *out, const struct fixture *f, const struct cs_register_proof *p)
{
    uint8_t hash[32];

    cs_buf_put(out, f->server.transcript, 32);
    cs_buf_put_u64(out, p->counter);
    cs_buf_put(out, p->workspace.b, 16);
    cs_buf_put(out, p->device.b, 16);
    cs_buf_put(out, p->sign_pk, 32);
    cs_buf_put(out, p->box_pk, 32);
    cs_hash_plain(p->membership_entry, hash);
    cs_buf_put(out, hash, 32);
    cs_hash_plain(p->join_offer, hash);
    cs_buf_put(out, hash, 32);
}

static void put_reply(struct cs_buf *out, const struct fixture *f)
{
    cs_buf_put(out, f->hello.bytes, 1);
    cs_buf_put(out, f->reply, 1);
    cs_buf_put(out, f->hello.bytes + 1, 64);
    cs_buf_put(out, f->reply + 1, 80);
}

static void signatures_under_other_labels(void **state)
{
    static const uint8_t head[CS_HUB_HEAD_LEN] = { 1 };
    struct cs_buf call = { 0 }, registration = { 0 }, reply = { 0 }, heads = { 0 };
    struct cs_register_proof r = { .counter = 1 };
    struct cs_call_proof p;
    struct fixture f;
    uint8_t sig[64];

    (void)state;
    a_call(&f, &p);
    memcpy(r.sign_pk, f.device.pk, 32);
    put_call(&call, &f, &p);
    put_registration(&registration, &f, &r);
    put_reply(&reply, &f);
    cs_buf_put(&heads, p.workspace.b, 16);
    cs_buf_put(&heads, head, sizeof head);
    for (size_t i = 0; i < NLABELS; i++) {
        cs_sign(&f.device, labels[i], cs_buf_slice(&call), p.signature);
        assert_int_equal(cs_call_verify(&p, f.server.transcript, path, f.device.pk), strcmp(labels[i], "rpc") == 0);
        cs_sign(&f.device, labels[i], cs_buf_slice(&registration), sig);
        assert_int_equal(cs_register_verify(f.server.transcript, &r, sig), strcmp(labels[i], "register") == 0);
        cs_sign(&f.hub, labels[i], cs_buf_slice(&heads), sig);
        assert_int_equal(cs_hub_head_verify(f.hub.pk, &p.workspace, cs_slice(head, sizeof head), cs_slice(sig, 64)),
                         strcmp(labels[i], "hub head") == 0);
        cs_sign(&f.hub, labels[i], cs_buf_slice(&reply), f.reply + 81);
        assert_int_equal(finish(&f, f.hub.pk), strcmp(labels[i], "session") == 0 ? CS_OK : CS_EAUTH);
    }
    cs_buf_free(&call);
    cs_buf_free(&registration);
    cs_buf_free(&reply);
    cs_buf_free(&heads);
}

static void answers(void **state)
{
    uint8_t key[32] = { 1 }, hash[32] = { 2 }, a[32], b[32];

    (void)state;
    cs_answer_mac(key, 1, 0, cs_slice_str("m"), a);
    cs_answer_mac(key, 2, 0, cs_slice_str("m"), b);
    assert_memory_not_equal(a, b, 32);
    cs_answer_mac(key, 1, 7, cs_slice_str("m"), b);
    assert_memory_not_equal(a, b, 32);
    cs_answer_mac(key, 1, 0, CS_SLICE_NULL, b);
    assert_memory_not_equal(a, b, 32);
    cs_push_mac(key, hash, true, 5, CS_SLICE_NULL, a);
    cs_push_mac(key, hash, false, 5, CS_SLICE_NULL, b);
    assert_memory_not_equal(a, b, 32);
    cs_push_mac(key, hash, true, 6, CS_SLICE_NULL, b);
    assert_memory_not_equal(a, b, 32);
    cs_push_mac(key, hash, true, 5, cs_slice_str("r"), b);
    assert_memory_not_equal(a, b, 32);
}

/* ---- counters ---- */

static void each_counter_once(void **state)
{
    struct cs_counter_window w = { 0 };

    (void)state;
    assert_false(cs_counter_take(&w, 0));
    for (uint64_t i = 1; i <= 3000; i++) {
        assert_true(cs_counter_take(&w, i));
        assert_false(cs_counter_take(&w, i));
    }
    assert_false(cs_counter_take(&w, 1));
    assert_true(cs_counter_take(&w, 5000));
    assert_true(cs_counter_take(&w, 5000 - CS_SESSION_WINDOW + 1));
    assert_false(cs_counter_take(&w, 5000 - CS_SESSION_WINDOW));
    assert_true(cs_counter_take(&w, UINT64_MAX));
    assert_true(cs_counter_take(&w, UINT64_MAX - 1));
    assert_false(cs_counter_take(&w, UINT64_MAX));
    assert_false(cs_counter_take(&w, 5000));
}

/* Against a plain list, in random order. */
static void any_order(void **state)
{
    enum { MOST = 6000 };
    static bool taken[MOST + 1];
    struct cs_counter_window w = { 0 };
    uint64_t x = 88172645463325252u, highest = 0;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        uint64_t c;

        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        c = 1 + (uint64_t)i * MOST / 20000 / 2 + x % (MOST / 2);
        if (c > highest)
            highest = c;
        assert_int_equal(cs_counter_take(&w, c), !taken[c] && c + CS_SESSION_WINDOW > highest);
        if (c + CS_SESSION_WINDOW > highest)
            taken[c] = true;
    }
}

static void peers_share_a_key(void **state)
{
    uint8_t sa[32] = { 11 }, sb[32] = { 12 }, pa[32], pb[32], ka[40], kb[40], zero[32] = { 0 };
    struct cs_uuid a = { { 1 } }, b = { { 2 } }, ws = { { 3 } };

    (void)state;
    cs_box_public(sa, pa);
    cs_box_public(sb, pb);
    assert_true(cs_peer_key(sa, &a, pa, &b, pb, &ws, "test", ka, sizeof ka));
    assert_true(cs_peer_key(sb, &b, pb, &a, pa, &ws, "test", kb, sizeof kb));
    assert_memory_equal(ka, kb, sizeof ka);
    assert_true(cs_peer_key(sb, &b, pb, &a, pa, &ws, "Test", kb, sizeof kb));
    assert_memory_not_equal(ka, kb, 32);
    assert_true(cs_peer_key(sb, &b, pb, &a, pa, &a, "test", kb, sizeof kb));
    assert_memory_not_equal(ka, kb, 32);
    assert_false(cs_peer_key(sa, &a, pa, &b, zero, &ws, "test", ka, sizeof ka));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_sides_agree),
        cmocka_unit_test(two_sessions_share_nothing),
        cmocka_unit_test(every_bit_of_a_reply_counts),
        cmocka_unit_test(another_hello_has_another_session),
        cmocka_unit_test(hellos_that_are_none),
        cmocka_unit_test(a_call_is_proven),
        cmocka_unit_test(every_bit_of_a_proof_counts),
        cmocka_unit_test(registering),
        cmocka_unit_test(signatures_under_other_labels),
        cmocka_unit_test(answers),
        cmocka_unit_test(each_counter_once),
        cmocka_unit_test(any_order),
        cmocka_unit_test(peers_share_a_key),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
