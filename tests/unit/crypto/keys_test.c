#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crypto/batch_header.h"
#include "crypto/head.h"
#include "unit/crypto/fixed_world.h"

static const struct cs_uuid workspace = { "workspace-16byte" };

/* From the official BLAKE3 test vectors: input of no byte, and the sequence 0, 1, 2. */
static void blake3_is_the_official_one(void **state)
{
    static const char key[] = "whats the Elvish word for friend";
    uint8_t out[32], input[3] = { 0, 1, 2 };
    char hex[65];

    (void)state;
    cs_hash_plain(CS_SLICE_NULL, out);
    cs_hex(hex, out, 32);
    assert_string_equal(hex, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    cs_hash_plain(cs_slice(input, 3), out);
    cs_hex(hex, out, 32);
    assert_string_equal(hex, "e1be4d7a8ab5560aa4199eea339849ba8e293d55ca0a81006726d184519e647f");
    cs_mac((const uint8_t *)key, CS_SLICE_NULL, out, 32);
    cs_hex(hex, out, 32);
    assert_string_equal(hex, "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26");
}

static void labels_separate(void **state)
{
    uint8_t a[32], b[32], c[32];
    struct cs_hasher h;

    (void)state;
    cs_hash_label("batch", cs_slice_str("m"), a);
    cs_hash_label("batch key", cs_slice_str("m"), b);
    assert_memory_not_equal(a, b, 32);
    cs_hasher_init_label(&h, "batch");
    cs_hasher_update(&h, "m", 1);
    cs_hasher_final(&h, c, 32);
    assert_memory_equal(a, c, 32);
    blake3_hasher_init_derive_key(&h.h, "claw-sync v1 batch");
    blake3_hasher_update(&h.h, "m", 1);
    blake3_hasher_finalize(&h.h, c, 32);
    assert_memory_equal(a, c, 32);
}

static void signatures(void **state)
{
    uint8_t seed[32] = { 1 }, sig[64], small[32] = { 1 };
    struct cs_slice m = cs_slice_str("message");
    struct cs_sign_key k;

    (void)state;
    cs_sign_key_from_seed(&k, seed);
    cs_sign(&k, "rpc", m, sig);
    assert_true(cs_verify(k.pk, "rpc", m, sig));
    assert_false(cs_verify(k.pk, "register", m, sig));
    assert_false(cs_verify(k.pk, "rpc", cs_slice_str("massage"), sig));
    for (size_t bit = 0; bit < 64 * 8; bit++) {
        sig[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(cs_verify(k.pk, "rpc", m, sig));
        sig[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    /* the neutral element as a key: R = it, S = 0 would pass for any message */
    memset(sig, 0, sizeof sig);
    sig[0] = 1;
    assert_false(cs_verify(small, "rpc", m, sig));
}

static void boxes(void **state)
{
    uint8_t key[32] = { 7 }, nonce[24] = { 9 }, boxed[5 + 16], plain[5];

    (void)state;
    cs_box(key, nonce, cs_slice_str("hello"), boxed);
    assert_true(cs_box_open(key, nonce, cs_slice(boxed, sizeof boxed), plain));
    assert_memory_equal(plain, "hello", 5);
    assert_false(cs_box_open(key, nonce, cs_slice(boxed, 15), plain));
    assert_false(cs_box_open(key, nonce, cs_slice(boxed, 0), plain));
    assert_false(cs_box_open(key, nonce, cs_slice(boxed, sizeof boxed - 1), plain));
    for (size_t bit = 0; bit < sizeof boxed * 8; bit++) {
        boxed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(cs_box_open(key, nonce, cs_slice(boxed, sizeof boxed), plain));
        boxed[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void sealed_boxes(void **state)
{
    uint8_t sealed[2][32 + 48], opened[32], secret[32] = { 3 }, pk[32], key[32], other[32] = { 64 }, other_pk[32];
    struct fixed_world f;

    (void)state;
    fixed_world_init(&f);
    f.random_constant = true;
    memset(key, 0xc3, sizeof key);
    cs_box_public(secret, pk);
    cs_box_public(other, other_pk);
    assert_true(cs_seal(&f.rng, pk, cs_slice(key, 32), sealed[0]));
    assert_true(cs_seal(&f.rng, pk, cs_slice(key, 32), sealed[1]));
    assert_memory_not_equal(sealed[0], sealed[1], 32); /* the counter alone separates them */
    assert_true(cs_seal_open(secret, pk, cs_slice(sealed[0], sizeof sealed[0]), opened));
    assert_memory_equal(opened, key, 32);
    assert_false(cs_seal_open(other, other_pk, cs_slice(sealed[0], sizeof sealed[0]), opened));
    assert_false(cs_seal_open(secret, pk, cs_slice(sealed[0], 47), opened));
    memset(pk, 0, sizeof pk);
    assert_false(cs_seal(&f.rng, pk, cs_slice(key, 32), sealed[0]));
    assert_false(cs_dh(secret, pk, opened));
}

static void device_keys(void **state)
{
    struct cs_device_keys a, b, invite, paper;
    struct cs_uuid other = { "workspace-2-byte" };
    uint8_t secret[32] = { 5 }, zero[32] = { 0 };

    (void)state;
    cs_device_keys_derive(&a, CS_PRINCIPAL_DEVICE, cs_slice(secret, 32), &workspace);
    cs_device_keys_derive(&b, CS_PRINCIPAL_DEVICE, cs_slice(secret, 32), &other);
    cs_device_keys_derive(&paper, CS_PRINCIPAL_PAPER, cs_slice(secret, 32), &workspace);
    cs_device_keys_derive(&invite, CS_PRINCIPAL_INVITE, cs_slice(secret, 16), &workspace);
    assert_memory_not_equal(a.sign.pk, b.sign.pk, 32);
    assert_memory_not_equal(a.box_pk, b.box_pk, 32);
    assert_memory_not_equal(a.sign.pk, paper.sign.pk, 32);
    assert_memory_not_equal(paper.id.b, invite.id.b, 16);
    assert_memory_equal(a.vouch, zero, 32);
    assert_memory_equal(paper.hedge, zero, 32);
    assert_memory_not_equal(a.hedge, zero, 32);
    assert_memory_not_equal(a.hedge, a.local, 32);
    assert_memory_not_equal(invite.vouch, zero, 32);
}

static void random_never_repeats(void **state)
{
    enum { N = 500 };
    static uint8_t drawn[N][16];
    struct fixed_world f;
    uint8_t again[16], child[16];
    int fd[2];

    (void)state;
    fixed_world_init(&f);
    f.random_constant = true;
    for (size_t i = 0; i < N; i++) {
        cs_random(&f.rng, drawn[i], 16);
        for (size_t k = 0; k < i; k++)
            assert_memory_not_equal(drawn[i], drawn[k], 16);
    }
    cs_random_replay(4711, 0);
    cs_random(&f.rng, again, 16);
    assert_memory_equal(again, drawn[0], 16);
    /* another hedge secret, other bytes */
    f.rng.hedge[0] = 1;
    cs_random_replay(4711, 0);
    cs_random(&f.rng, again, 16);
    assert_memory_not_equal(again, drawn[0], 16);
    /* a child has the same counter, and another process id */
    cs_random_replay(0, 0);
    assert_int_equal(pipe(fd), 0);
    if (fork() == 0) {
        cs_random(&f.rng, child, 16);
        _exit(write(fd[1], child, 16) == 16 ? 0 : 1);
    }
    cs_random(&f.rng, again, 16);
    assert_int_equal(read(fd[0], child, 16), 16);
    assert_memory_not_equal(again, child, 16);
    wait(NULL);
    close(fd[0]);
    close(fd[1]);
}

static void a_header_round_trips_and_every_field_counts(void **state)
{
    struct cs_batch_header h = { .kind = 1,
                                 .codec = 1,
                                 .padding = 1,
                                 .workspace = workspace,
                                 .incarnation = 2,
                                 .epoch = 3,
                                 .chunk_count = 4,
                                 .number = 5,
                                 .plain_len = 700,
                                 .packed_len = 600,
                                 .nops = 8,
                                 .member_seq = 9,
                                 .top_stamp = 10,
                                 .seen_log = 11,
                                 .seen_number = 12,
                                 .audit_seq = 13 },
                           back;
    uint8_t bytes[CS_BATCH_HEADER_LEN], again[CS_BATCH_HEADER_LEN];

    (void)state;
    cs_batch_header_encode(&h, bytes);
    assert_int_equal(cs_batch_header_decode(&back, cs_slice(bytes, sizeof bytes), NULL), CS_OK);
    cs_batch_header_encode(&back, again);
    assert_memory_equal(bytes, again, sizeof bytes);
    for (size_t n = 0; n < sizeof bytes; n++)
        assert_int_equal(cs_batch_header_decode(&back, cs_slice(bytes, n), NULL), CS_ECORRUPT);
    /* whatever decodes is what was there: no bit is ignored */
    for (size_t bit = 0; bit < sizeof bytes * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (cs_batch_header_decode(&back, cs_slice(bytes, sizeof bytes), NULL) == CS_OK) {
            cs_batch_header_encode(&back, again);
            assert_memory_equal(bytes, again, sizeof bytes);
        }
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    bytes[3] = '2';
    assert_int_equal(cs_batch_header_decode(&back, cs_slice(bytes, 4), NULL), CS_EVERSION);
}

static const struct refused {
    const char *name;
    size_t at;
    uint8_t value;
} refused[] = {
    { "magic", 0, 'X' },         { "kind 0", 4, 0 },
    { "kind 4", 4, 4 },          { "codec 3", 5, 3 },
    { "padding 2", 6, 2 },       { "reserved", 7, 1 },
    { "epoch 0", 51, 0 },        { "no chunk", 55, 0 },
    { "many chunks", 53, 1 },    { "number 0", 63, 0 },
    { "plain too long", 96, 2 }, { "packed longer", 102, 255 },
    { "no ops", 107, 0 },        { "member_seq 0", 111, 0 },
    { "stamp 0", 119, 0 },       { "negative stamp", 112, 128 },
    { "no log", 127, 0 },        { "stored but shorter", 5, 0 },
};

static void a_header_is_refused(void **state)
{
    const struct refused *c = *state;
    struct cs_batch_header h = { .kind = 1,
                                 .codec = 1,
                                 .epoch = 3,
                                 .chunk_count = 4,
                                 .number = 5,
                                 .plain_len = 700,
                                 .packed_len = 600,
                                 .nops = 8,
                                 .member_seq = 9,
                                 .top_stamp = 10,
                                 .seen_log = 11 },
                           back;
    uint8_t bytes[CS_BATCH_HEADER_LEN];
    struct cs_error err;

    cs_batch_header_encode(&h, bytes);
    bytes[c->at] = c->value;
    assert_int_equal(cs_batch_header_decode(&back, cs_slice(bytes, sizeof bytes), &err), CS_ECORRUPT);
}

static void padme_grows_by_at_most_an_eighth(void **state)
{
    (void)state;
    assert_int_equal(cs_padme(0), 0);
    assert_int_equal(cs_padme(1), 1);
    assert_int_equal(cs_padme(9), 10);
    assert_int_equal(cs_padme(200), 208);
    assert_int_equal(cs_padme(1000), 1024);
    for (size_t n = 2; n < 100000; n++) {
        size_t p = cs_padme(n);

        assert_true(p >= n && (p - n) * 100 <= n * 12);
        assert_int_equal(cs_padme(p), p);
    }
}

static void log_heads(void **state)
{
    struct cs_hub_head h = { .log_id = 1, .number = 2, .member_seq = 3, .time_ms = 4 }, back;
    uint8_t bytes[CS_HUB_HEAD_LEN], sig[64], seed[32] = { 1 }, l0[32], l1[32];
    struct cs_uuid other = { "workspace-2-byte" };
    struct cs_sign_key hub;

    (void)state;
    cs_sign_key_from_seed(&hub, seed);
    cs_log_start(&workspace, 1, 0, l0);
    memcpy(l1, l0, 32);
    cs_log_next(l1, 1, seed, l1);
    assert_memory_not_equal(l0, l1, 32);
    memcpy(h.log_hash, l1, 32);
    cs_hub_head_encode(&h, bytes);
    assert_true(cs_hub_head_decode(&back, cs_slice(bytes, sizeof bytes)));
    assert_memory_equal(back.log_hash, l1, 32);
    assert_int_equal(back.time_ms, 4);
    assert_false(cs_hub_head_decode(&back, cs_slice(bytes, sizeof bytes - 1)));
    cs_hub_head_sign(&hub, &workspace, bytes, sig);
    assert_true(cs_hub_head_verify(hub.pk, &workspace, cs_slice(bytes, sizeof bytes), cs_slice(sig, 64)));
    assert_false(cs_hub_head_verify(hub.pk, &other, cs_slice(bytes, sizeof bytes), cs_slice(sig, 64)));
    assert_false(cs_hub_head_verify(hub.pk, &workspace, cs_slice(bytes, sizeof bytes), cs_slice(sig, 63)));
    for (size_t bit = 0; bit < sizeof bytes * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(cs_hub_head_verify(hub.pk, &workspace, cs_slice(bytes, sizeof bytes), cs_slice(sig, 64)));
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void a_chunk_id_is_base64url(void **state)
{
    uint8_t hash[32];
    struct cs_buf want = { 0 };
    char id[23];

    (void)state;
    for (int round = 0; round < 50; round++) {
        cs_hash_plain(cs_slice(&round, sizeof round), hash);
        cs_chunk_id(hash, id);
        cs_buf_reset(&want);
        cs_base64(&want, cs_slice(hash, 16), true);
        assert_int_equal(want.len, 22);
        assert_memory_equal(id, want.data, 22);
        assert_int_equal(id[22], 0);
    }
    cs_buf_free(&want);
}

int main(void)
{
    enum { NREFUSED = sizeof refused / sizeof refused[0] };
    struct CMUnitTest table[NREFUSED];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blake3_is_the_official_one),
        cmocka_unit_test(labels_separate),
        cmocka_unit_test(signatures),
        cmocka_unit_test(boxes),
        cmocka_unit_test(sealed_boxes),
        cmocka_unit_test(device_keys),
        cmocka_unit_test(random_never_repeats),
        cmocka_unit_test(a_header_round_trips_and_every_field_counts),
        cmocka_unit_test(padme_grows_by_at_most_an_eighth),
        cmocka_unit_test(log_heads),
        cmocka_unit_test(a_chunk_id_is_base64url),
    };

    if (cs_crypto_init(NULL) < 0)
        return 1;
    for (size_t i = 0; i < NREFUSED; i++)
        table[i] = (struct CMUnitTest){ .name = refused[i].name,
                                        .test_func = a_header_is_refused,
                                        .initial_state = (void *)&refused[i] };
    return cmocka_run_group_tests_name("crypto", tests, NULL, NULL) +
           cmocka_run_group_tests_name("headers refused", table, NULL, NULL);
}
