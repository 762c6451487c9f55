/* A ciphertext that opens under two keys. XSalsa20-Poly1305 lets whoever knows both make one, for the tag is a
 * polynomial that anyone can solve; the commitment in front of it names the one key that counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <openssl/bn.h>
#include <sodium.h>

#include "delta/packer.h"
#include "unit/crypto/fixed_world.h"
#include "unit/delta/sample.h"

enum { BLOCK = 16, PLAIN = 4 * BLOCK };

/* The one-time key of a box, and what makes its blocks numbers. */
struct poly {
    BIGNUM *r, *s;
};

static void poly_init(struct poly *p, const uint8_t key[32], const uint8_t nonce[CS_NONCE_LEN])
{
    uint8_t k[32];

    crypto_stream_xsalsa20(k, sizeof k, nonce, key);
    for (int i = 3; i < 16; i += 4)
        k[i] &= 15;
    for (int i = 4; i < 16; i += 4)
        k[i] &= 252;
    p->r = BN_lebin2bn(k, 16, NULL);
    p->s = BN_lebin2bn(k + 16, 16, NULL);
}

/* What the last two blocks must add, for the polynomial to be `want`, divided by r: (want - c0 r^4 - c1 r^3) / r. */
static void rest(BIGNUM *out, const struct poly *k, BIGNUM *const c[2], const BIGNUM *want, const BIGNUM *p,
                 BN_CTX *ctx)
{
    BIGNUM *t = BN_new();

    BN_mod_mul(t, c[0], k->r, p, ctx); /* Horner */
    BN_mod_add(t, t, c[1], p, ctx);
    for (int i = 0; i < 3; i++)
        BN_mod_mul(t, t, k->r, p, ctx);
    BN_mod_sub(out, want, t, p, ctx);
    BN_mod_inverse(t, k->r, p, ctx);
    BN_mod_mul(out, out, t, p, ctx);
    BN_free(t);
}

/* tag ‖ four blocks that both keys open. Two blocks are solved for; they must be blocks, which one try in 16 gives. */
static void two_key_box(const uint8_t key[2][32], const uint8_t nonce[CS_NONCE_LEN], uint8_t box[BLOCK + PLAIN])
{
    BN_CTX *ctx = BN_CTX_new();
    BIGNUM *p = BN_new(), *top = BN_new(), *a = BN_new(), *b = BN_new(), *u = BN_new(), *v = BN_new();
    BIGNUM *c[4];
    struct poly k[2];
    bool solved = false;

    for (int i = 0; i < 2; i++)
        poly_init(&k[i], key[i], nonce);
    BN_one(top);
    BN_lshift(top, top, 128);
    BN_lshift(p, top, 2);
    BN_sub_word(p, 5);
    for (int i = 0; i < 4; i++) {
        c[i] = BN_dup(top);
        BN_add_word(c[i], (BN_ULONG)i + 1);
    }
    for (BN_ULONG try = 1; !solved; try++) {
        assert_true(try < 10000);
        BN_set_word(a, try); /* the first polynomial's value, and the second's, so that a + s1 = b + s2 below 2^128 */
        BN_add(b, a, k[0].s);
        BN_mod_sub(b, b, k[1].s, top, ctx);
        rest(u, &k[0], c, a, p, ctx);
        rest(v, &k[1], c, b, p, ctx);
        BN_mod_sub(c[2], u, v, p, ctx);
        BN_mod_sub(v, k[0].r, k[1].r, p, ctx);
        BN_mod_inverse(v, v, p, ctx);
        BN_mod_mul(c[2], c[2], v, p, ctx);
        BN_mod_mul(v, c[2], k[0].r, p, ctx);
        BN_mod_sub(c[3], u, v, p, ctx);
        solved = BN_num_bits(c[2]) == 129 && BN_num_bits(c[3]) == 129;
    }
    BN_add(a, a, k[0].s);
    BN_mask_bits(a, 128);
    assert_int_equal(BN_bn2lebinpad(a, box, BLOCK), BLOCK);
    for (int i = 0; i < 4; i++) {
        BN_mask_bits(c[i], 128);
        assert_int_equal(BN_bn2lebinpad(c[i], box + BLOCK + BLOCK * i, BLOCK), BLOCK);
        BN_free(c[i]);
    }
    for (int i = 0; i < 2; i++) {
        BN_free(k[i].r);
        BN_free(k[i].s);
    }
    BN_free(p);
    BN_free(top);
    BN_free(a);
    BN_free(b);
    BN_free(u);
    BN_free(v);
    BN_CTX_free(ctx);
}

static void a_box_of_two_keys_has_one_commitment(void **state)
{
    static const uint8_t nonce[CS_NONCE_LEN] = { 7 };
    uint8_t both[2][CS_BATCH_KEYS_LEN], key[2][32], secret[32] = { 1 }, box[BLOCK + PLAIN], plain[2][PLAIN];
    struct cs_epoch_keys epoch[2];
    struct cs_batch_header h;
    struct fixed_world f;
    struct cs_batch b = { .nchunks = 1 };
    struct cs_delta back;
    cs_packer *p;

    (void)state;
    fixed_world_init(&f);
    assert_int_equal(cs_packer_new(&p, &f.rng, NULL), CS_OK);
    sample_header(&h, CS_CODEC_STORED);
    h.padding = CS_PADDING_NONE;
    h.kind = CS_BATCH_OPERATIONS;
    h.chunk_count = h.nops = 1;
    h.top_stamp = 1;
    h.plain_len = h.packed_len = PLAIN;
    cs_batch_header_encode(&h, b.header);
    for (int i = 0; i < 2; i++) {
        secret[0] = (uint8_t)(i + 1);
        cs_epoch_keys_derive(&epoch[i], secret, &h.workspace, h.epoch);
        cs_batch_keys(&epoch[i], b.header, both[i]);
        memcpy(key[i], both[i], 32);
    }
    two_key_box(key, nonce, box);
    for (int i = 0; i < 2; i++)
        assert_true(cs_box_open(key[i], nonce, cs_slice(box, sizeof box), plain[i]));
    assert_memory_not_equal(plain[0], plain[1], PLAIN);
    for (int named = 0; named < 2; named++) {
        cs_buf_reset(&b.sealed);
        cs_buf_reset(&b.hashes);
        cs_buf_put(&b.sealed, both[named] + 32, 32);
        cs_buf_put(&b.sealed, nonce, sizeof nonce);
        cs_buf_put(&b.sealed, box, sizeof box);
        b.chunk_len = (uint32_t)b.sealed.len;
        cs_hash_plain(cs_buf_slice(&b.sealed), cs_buf_grow(&b.hashes, 32));
        for (int i = 0; i < 2; i++) {
            enum cs_unpack_fault fault;

            assert_int_equal(cs_unpack(p, &b, &epoch[i], &back, &fault, NULL), CS_ECORRUPT);
            /* under the key that is named it opens; that its content is none is another matter */
            assert_int_equal(fault, i == named ? CS_FAULT_BAD_CONTENT : CS_FAULT_BAD_COMMITMENT);
        }
    }
    cs_batch_free(&b);
    cs_packer_free(p);
    fixed_world_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(a_box_of_two_keys_has_one_commitment) };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("two keys", tests, NULL, NULL);
}
