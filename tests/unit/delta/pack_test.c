#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <lz4.h>
#include <zstd.h>

#include "unit/crypto/fixed_world.h"
#include "unit/delta/sample.h"

struct scene {
    struct fixed_world f;
    struct cs_arena a;
    cs_packer *p;
    struct cs_batch_header h;
    struct cs_epoch_keys keys, other_keys;
    struct cs_sign_key signer;
    struct cs_delta d, back;
    struct cs_batch b;
    struct cs_error err;
};

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    uint8_t key[32] = { 1 };

    assert_non_null(s);
    *state = s;
    fixed_world_init(&s->f);
    assert_int_equal(cs_packer_new(&s->p, &s->f.rng, NULL), CS_OK);
    sample_header(&s->h, CS_CODEC_ZSTD);
    cs_sign_key_from_seed(&s->signer, key);
    cs_epoch_keys_derive(&s->keys, key, &s->h.workspace, 1);
    key[0] = 2;
    cs_epoch_keys_derive(&s->other_keys, key, &s->h.workspace, 1);
    sample_delta(&s->d, &s->a, 3, 40);
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    cs_batch_free(&s->b);
    cs_packer_free(s->p);
    cs_arena_free(&s->a);
    fixed_world_fini(&s->f);
    free(s);
    return 0;
}

static void pack(struct scene *s)
{
    assert_int_equal(cs_pack(s->p, &s->d, &s->h, &s->keys, &s->signer, 1024, &s->b, &s->err), CS_OK);
}

static bool signed_rightly(const struct scene *s, const struct cs_batch *b)
{
    return cs_batch_verify(s->signer.pk, cs_slice(b->header, sizeof b->header), cs_buf_slice(&b->hashes), b->signature);
}

static void assert_fault(struct scene *s, enum cs_unpack_fault want)
{
    enum cs_unpack_fault fault;

    assert_int_equal(cs_unpack(s->p, &s->b, &s->keys, &s->back, &fault, &s->err), CS_ECORRUPT);
    assert_string_equal(cs_unpack_fault_name(fault), cs_unpack_fault_name(want));
    assert_int_equal(s->back.nops, 0);
}

static void batches_round_trip(void **state)
{
    struct scene *s = *state;
    enum cs_unpack_fault fault;

    for (uint8_t codec = 0; codec <= CS_CODEC_LZ4; codec++) {
        for (uint8_t padding = 0; padding <= CS_PADDING_PADME; padding++) {
            for (uint32_t nops = 1; nops < 200; nops += 33) {
                cs_arena_reset(&s->a);
                sample_delta(&s->d, &s->a, nops, nops * 3);
                s->h.codec = codec;
                s->h.padding = padding;
                pack(s);
                assert_int_equal(s->h.nops, nops);
                assert_true(codec == CS_CODEC_STORED || nops < 5 || s->h.codec == codec);
                assert_int_equal(s->h.chunk_count, s->b.nchunks);
                assert_int_equal(s->b.sealed.len, cs_batch_sealed_len(&s->h));
                assert_true(signed_rightly(s, &s->b));
                assert_int_equal(cs_unpack(s->p, &s->b, &s->keys, &s->back, &fault, &s->err), CS_OK);
                assert_int_equal(fault, CS_FAULT_NONE);
                assert_int_equal(s->back.nops, nops);
                assert_int_equal(s->back.ops[nops - 1].stamp, s->d.ops[nops - 1].stamp);
                assert_true(cs_slice_eq(s->back.ops[0].key, s->d.ops[0].key));
            }
        }
    }
}

/* Each bit of a small batch: a header bit by decoding, signature or commitment; a signature bit by the signature; a
 * sealed bit by its chunk's hash, and behind that by commitment or box. */
static void every_bit_is_refused(void **state)
{
    struct scene *s = *state;
    struct cs_batch_header h;
    enum cs_unpack_fault fault;

    pack(s);
    for (size_t bit = 0; bit < CS_BATCH_HEADER_LEN * 8; bit++) {
        s->b.header[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(signed_rightly(s, &s->b));
        if (cs_batch_header_decode(&h, cs_slice(s->b.header, sizeof s->b.header), NULL) == CS_OK && h.epoch == 1) {
            assert_int_equal(cs_unpack(s->p, &s->b, &s->keys, &s->back, &fault, NULL), CS_ECORRUPT);
            assert_true(fault == CS_FAULT_BAD_COMMITMENT || fault == CS_FAULT_BAD_CHUNK);
        }
        s->b.header[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t bit = 0; bit < CS_SIGNATURE_LEN * 8; bit++) {
        s->b.signature[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(signed_rightly(s, &s->b));
        s->b.signature[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t bit = 0; bit < s->b.hashes.len * 8; bit++) {
        s->b.hashes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(signed_rightly(s, &s->b));
        assert_fault(s, CS_FAULT_BAD_CHUNK);
        s->b.hashes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t bit = 0; bit < s->b.sealed.len * 8; bit++) {
        uint8_t hash[32];

        memcpy(hash, s->b.hashes.data, 32);
        s->b.sealed.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_fault(s, CS_FAULT_BAD_CHUNK);
        cs_hash_plain(cs_batch_chunk(&s->b, 0), s->b.hashes.data);
        assert_fault(s, bit < 32 * 8 ? CS_FAULT_BAD_COMMITMENT : CS_FAULT_BAD_CIPHERTEXT);
        s->b.sealed.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        memcpy(s->b.hashes.data, hash, 32);
    }
    assert_int_equal(cs_unpack(s->p, &s->b, &s->keys, &s->back, &fault, NULL), CS_OK);
}

/* Seals chosen plain bytes under a header of one's own, as a member with a bent program could. */
static void craft(struct scene *s, struct cs_slice packed, size_t padded, uint8_t *padding_byte)
{
    uint8_t both[64], *at;

    cs_batch_header_encode(&s->h, s->b.header);
    cs_mac(s->keys.batch, cs_slice(s->b.header, sizeof s->b.header), both, sizeof both);
    cs_buf_reset(&s->b.sealed);
    at = cs_buf_grow(&s->b.sealed, CS_BATCH_SEAL_OVERHEAD + padded);
    assert_non_null(at);
    memset(at, 0, CS_BATCH_SEAL_OVERHEAD + padded);
    memcpy(at, both + 32, 32);
    memcpy(at + 72, packed.data, packed.len);
    if (padding_byte != NULL)
        at[72 + padded - 1] = *padding_byte;
    cs_box(both, at + 32, cs_slice(at + 72, padded), at + 56);
    s->b.nchunks = s->h.chunk_count;
    s->b.chunk_len = (uint32_t)s->b.sealed.len;
    cs_buf_reset(&s->b.hashes);
    cs_hash_plain(cs_buf_slice(&s->b.sealed), cs_buf_grow(&s->b.hashes, 32));
}

static void craft_exact(struct scene *s, struct cs_slice packed)
{
    s->h.packed_len = (uint32_t)packed.len;
    craft(s, packed, cs_batch_sealed_len(&s->h) - CS_BATCH_SEAL_OVERHEAD, NULL);
}

static void contents_are_checked(void **state)
{
    struct scene *s = *state;
    struct cs_buf plain = { 0 };
    enum cs_unpack_fault fault;
    uint8_t one = 1;

    s->h.codec = CS_CODEC_STORED;
    pack(s);
    assert_int_equal(cs_delta_encode(&plain, &s->d, NULL), CS_OK);
    craft_exact(s, cs_buf_slice(&plain));
    assert_int_equal(cs_unpack(s->p, &s->b, &s->keys, &s->back, &fault, NULL), CS_OK);
    assert_true(cs_padme(plain.len) > plain.len);
    craft(s, cs_buf_slice(&plain), cs_padme(plain.len), &one);
    assert_fault(s, CS_FAULT_BAD_CONTENT);
    s->h.nops++;
    craft_exact(s, cs_buf_slice(&plain));
    assert_fault(s, CS_FAULT_BAD_CONTENT);
    s->h.nops--;
    s->h.top_stamp--;
    craft_exact(s, cs_buf_slice(&plain));
    assert_fault(s, CS_FAULT_BAD_CONTENT);
    s->h.top_stamp++;
    s->h.device.b[0] ^= 1; /* another sender inside than outside */
    craft_exact(s, cs_buf_slice(&plain));
    assert_fault(s, CS_FAULT_BAD_CONTENT);
    cs_buf_free(&plain);
}

/* Lengths that lie, in each codec: shorter, longer, and a bomb. */
static void decompression_is_bounded(void **state)
{
    struct scene *s = *state;
    struct cs_buf plain = { 0 }, packed = { 0 };
    uint8_t *zeros = calloc(1, CS_BATCH_MAX_PLAIN + 1);

    assert_non_null(zeros);
    pack(s);
    assert_int_equal(cs_delta_encode(&plain, &s->d, NULL), CS_OK);
    s->h.chunk_count = 1;
    for (uint8_t codec = CS_CODEC_ZSTD; codec <= CS_CODEC_LZ4; codec++) {
        static const int off[] = { -1, 1, 1000000 };

        s->h.codec = codec;
        cs_buf_reset(&packed);
        assert_non_null(cs_buf_grow(&packed, CS_BATCH_MAX_PLAIN / 8));
        for (size_t i = 0; i < 3; i++) {
            packed.len = codec == CS_CODEC_ZSTD ? ZSTD_compress(packed.data, packed.cap, plain.data, plain.len, 1)
                                                : (size_t)LZ4_compress_default((char *)plain.data, (char *)packed.data,
                                                                               (int)plain.len, (int)packed.cap);
            s->h.plain_len = (uint32_t)((int)plain.len + off[i]);
            craft_exact(s, cs_buf_slice(&packed));
            assert_fault(s, CS_FAULT_BAD_CONTENT);
        }
        /* 20 MiB + 1 of zeros in a few KiB, announced as less */
        packed.len = codec == CS_CODEC_ZSTD ? ZSTD_compress(packed.data, packed.cap, zeros, CS_BATCH_MAX_PLAIN + 1, 1)
                                            : (size_t)LZ4_compress_default((char *)zeros, (char *)packed.data,
                                                                           CS_BATCH_MAX_PLAIN + 1, (int)packed.cap);
        s->h.plain_len = CS_BATCH_MAX_PLAIN;
        craft_exact(s, cs_buf_slice(&packed));
        assert_fault(s, CS_FAULT_BAD_CONTENT);
        s->h.plain_len = (uint32_t)packed.len;
        craft_exact(s, cs_buf_slice(&packed));
        assert_fault(s, CS_FAULT_BAD_CONTENT);
        /* garbage */
        s->h.plain_len = 500;
        craft_exact(s, cs_slice_str("these bytes were never compressed by anything"));
        assert_fault(s, CS_FAULT_BAD_CONTENT);
    }
    cs_buf_free(&plain);
    cs_buf_free(&packed);
    free(zeros);
}

/* A box that opens, under a key that the header does not commit to. */
static void a_wrong_commitment_is_refused_first(void **state)
{
    struct scene *s = *state;
    struct cs_epoch_keys right = s->keys;

    pack(s);
    s->keys = s->other_keys;
    assert_fault(s, CS_FAULT_BAD_COMMITMENT);
    pack(s);
    s->keys = right;
    assert_fault(s, CS_FAULT_BAD_COMMITMENT);
    s->b.sealed.data[0] ^= 1;
    cs_hash_plain(cs_buf_slice(&s->b.sealed), s->b.hashes.data);
    assert_fault(s, CS_FAULT_BAD_COMMITMENT);
}

static void lengths_off_by_one(void **state)
{
    struct scene *s = *state;
    enum cs_unpack_fault fault;

    pack(s);
    s->b.sealed.len--;
    assert_fault(s, CS_FAULT_BAD_CHUNK);
    s->b.sealed.len += 2;
    assert_fault(s, CS_FAULT_BAD_CHUNK);
    s->b.sealed.len -= 1;
    s->b.hashes.len--;
    assert_fault(s, CS_FAULT_BAD_CHUNK);
    s->b.hashes.len++;
    s->b.nchunks = 0;
    assert_fault(s, CS_FAULT_BAD_CHUNK);
    s->b.nchunks = 2;
    assert_fault(s, CS_FAULT_BAD_CHUNK);
    s->b.nchunks = 1;
    s->b.chunk_len = 0;
    assert_fault(s, CS_FAULT_BAD_CHUNK);
    s->b.chunk_len = (uint32_t)s->b.sealed.len - 1;
    assert_fault(s, CS_FAULT_BAD_CHUNK);
    s->b.chunk_len++;
    s->b.header[4] = 9;
    assert_fault(s, CS_FAULT_BAD_HEADER);
    s->b.header[4] = 1;
    assert_int_equal(cs_unpack(s->p, &s->b, &s->keys, &s->back, &fault, NULL), CS_OK);
    s->keys.epoch = 2;
    assert_int_equal(cs_unpack(s->p, &s->b, &s->keys, &s->back, &fault, NULL), CS_EINVAL);
}

/* One byte, exactly one chunk, one byte more, and the same for two chunks. */
static void chunks_are_cut_at_the_boundary(void **state)
{
    struct scene *s = *state;
    enum cs_unpack_fault fault;

    s->h.padding = CS_PADDING_NONE;
    for (size_t text = 1; text < 2300; text++) {
        uint32_t want;

        cs_arena_reset(&s->a);
        sample_delta(&s->d, &s->a, 1, text);
        s->h.codec = CS_CODEC_STORED;
        pack(s);
        want = (uint32_t)((s->b.sealed.len + 1023) / 1024);
        assert_int_equal(s->b.nchunks, want);
        assert_int_equal(s->h.chunk_count, want);
        assert_int_equal(cs_batch_chunk(&s->b, want - 1).len, s->b.sealed.len - (want - 1) * (size_t)1024);
        assert_int_equal(cs_batch_chunk(&s->b, want).len, 0);
        if (s->b.sealed.len % 1024 < 2)
            assert_int_equal(cs_unpack(s->p, &s->b, &s->keys, &s->back, &fault, NULL), CS_OK);
    }
}

/* A generator that always gives the same bytes and whose counter was set back: the content still makes the nonce. */
static void nonces_never_repeat(void **state)
{
    enum { N = 200 };
    static uint8_t nonces[N][CS_NONCE_LEN];
    struct scene *s = *state;

    s->f.random_constant = true;
    for (size_t i = 0; i < N; i++) {
        cs_random_replay(4711, 0);
        if (i % 2 == 0)
            s->h.number++;
        else
            s->d.ops[0].stamp++;
        pack(s);
        memcpy(nonces[i], s->b.sealed.data + 32, CS_NONCE_LEN);
        for (size_t k = 0; k < i; k++)
            assert_memory_not_equal(nonces[i], nonces[k], CS_NONCE_LEN);
    }
    /* and the same batch twice under a living counter */
    pack(s);
    assert_memory_not_equal(nonces[N - 1], s->b.sealed.data + 32, CS_NONCE_LEN);
}

static void binding_anew_keeps_the_operations(void **state)
{
    struct scene *s = *state;
    struct cs_batch_header h2;
    struct cs_epoch_keys keys2;
    struct cs_batch b2 = { 0 };
    enum cs_unpack_fault fault;
    uint8_t key[32] = { 9 };

    pack(s);
    h2 = s->h;
    h2.epoch = 2;
    h2.number = 9;
    h2.codec = CS_CODEC_LZ4;
    cs_epoch_keys_derive(&keys2, key, &s->h.workspace, 2);
    assert_int_equal(cs_repack(s->p, &s->b, &s->keys, &h2, &keys2, &s->signer, 4096, &b2, NULL), CS_OK);
    assert_memory_not_equal(b2.hash, s->b.hash, 32);
    assert_int_equal(cs_unpack(s->p, &b2, &keys2, &s->back, &fault, NULL), CS_OK);
    assert_int_equal(s->back.nops, 3);
    assert_int_equal(s->back.ops[2].stamp, s->d.ops[2].stamp);
    assert_int_equal(cs_repack(s->p, &s->b, &s->keys, &h2, &s->keys, &s->signer, 4096, &b2, NULL), CS_EINVAL);
    assert_int_equal(b2.nchunks, 0);
    h2.device.b[0] ^= 1;
    assert_int_equal(cs_repack(s->p, &s->b, &s->keys, &h2, &keys2, &s->signer, 4096, &b2, NULL), CS_EINVAL);
    cs_batch_free(&b2);
}

static void stored_batches_round_trip(void **state)
{
    struct scene *s = *state;
    struct cs_buf bytes = { 0 };
    struct cs_batch back;
    enum cs_unpack_fault fault;

    sample_delta(&s->d, &s->a, 60, 90);
    s->h.codec = CS_CODEC_STORED;
    pack(s);
    assert_true(s->b.nchunks > 3);
    cs_batch_encode(&bytes, &s->b);
    assert_int_equal(cs_batch_decode(&back, cs_buf_slice(&bytes), NULL), CS_OK);
    assert_memory_equal(back.hash, s->b.hash, 32);
    assert_memory_equal(back.signature, s->b.signature, 64);
    assert_int_equal(cs_unpack(s->p, &back, &s->keys, &s->back, &fault, NULL), CS_OK);
    cs_batch_free(&back);
    for (size_t n = 0; n < bytes.len; n++)
        assert_int_equal(cs_batch_decode(&back, cs_slice(bytes.data, n), NULL), CS_ECORRUPT);
    cs_buf_put_u8(&bytes, 0);
    assert_int_equal(cs_batch_decode(&back, cs_buf_slice(&bytes), NULL), CS_ECORRUPT);
    bytes.len--;
    cs_store_u32(bytes.data, 1); /* chunk length */
    assert_int_equal(cs_batch_decode(&back, cs_buf_slice(&bytes), NULL), CS_ECORRUPT);
    cs_store_u32(bytes.data, 1024);
    cs_store_u32(bytes.data + 4 + 208 + 64, UINT32_MAX); /* number of chunks */
    assert_int_equal(cs_batch_decode(&back, cs_buf_slice(&bytes), NULL), CS_ECORRUPT);
    cs_buf_free(&bytes);
}

static void misuse_is_refused(void **state)
{
    struct scene *s = *state;

#define PACK(max_chunk) cs_pack(s->p, &s->d, &s->h, &s->keys, &s->signer, max_chunk, &s->b, &s->err)
    assert_int_equal(PACK(1023), CS_EINVAL);
    assert_int_equal(PACK(1024 * 1024 + 1), CS_EINVAL);
    s->h.codec = 3;
    assert_int_equal(PACK(1024), CS_EINVAL);
    s->h.codec = CS_CODEC_STORED;
    s->h.padding = 2;
    assert_true(PACK(1024) < 0);
    s->h.padding = 0;
    s->h.member_seq = 0;
    assert_true(PACK(1024) < 0);
    assert_int_equal(s->b.sealed.len, 0);
    s->h.member_seq = 1;
    s->h.device.b[0] ^= 1;
    assert_int_equal(PACK(1024), CS_EINVAL);
    s->h.device.b[0] ^= 1;
    s->h.epoch = 2;
    assert_int_equal(PACK(1024), CS_EINVAL);
    s->h.epoch = 1;
    sample_delta(&s->d, &s->a, 1, 5 * 1024 * 1024);
    assert_int_equal(PACK(1024), CS_ELIMIT); /* more than 4096 chunks */
    assert_int_equal(PACK(4096), CS_OK);
    sample_delta(&s->d, &s->a, 1, CS_BATCH_MAX_PLAIN);
    assert_int_equal(PACK(1024 * 1024), CS_ELIMIT);
    s->d.nops = 0;
    assert_int_equal(PACK(1024), CS_EINVAL);
#undef PACK
}

/* Parts of one valid batch in another of the same device: every header field, signature, hashes, content. */
static void parts_do_not_mix(void **state)
{
    static const struct {
        size_t at, len;
    } fields[] = { { 40, 8 },  { 56, 8 },  { 64, 32 }, { 96, 4 },   { 100, 4 }, { 104, 4 }, { 108, 4 },
                   { 112, 8 }, { 120, 8 }, { 128, 8 }, { 136, 32 }, { 168, 8 }, { 176, 32 } };
    struct scene *s = *state;
    struct cs_batch one = { 0 };
    enum cs_unpack_fault fault;
    uint8_t bent[CS_BATCH_HEADER_LEN], kept[CS_BATCH_HEADER_LEN];

    s->h.codec = CS_CODEC_STORED;
    assert_int_equal(cs_pack(s->p, &s->d, &s->h, &s->keys, &s->signer, 4096, &one, NULL), CS_OK);
    s->h.incarnation++;
    s->h.number++;
    s->h.member_seq++;
    s->h.seen_log++;
    s->h.seen_number++;
    s->h.audit_seq++;
    memset(s->h.seen, 1, 32);
    memset(s->h.audit_head, 2, 32);
    memcpy(s->h.prev, one.hash, 32);
    sample_delta(&s->d, &s->a, 7, 41);
    assert_int_equal(cs_pack(s->p, &s->d, &s->h, &s->keys, &s->signer, 4096, &s->b, NULL), CS_OK);
    memcpy(kept, s->b.header, sizeof kept);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        memcpy(bent, kept, sizeof bent);
        memcpy(bent + fields[i].at, one.header + fields[i].at, fields[i].len);
        assert_memory_not_equal(bent, kept, sizeof bent);
        memcpy(s->b.header, bent, sizeof bent);
        assert_false(signed_rightly(s, &s->b));
        assert_int_equal(cs_unpack(s->p, &s->b, &s->keys, &s->back, &fault, NULL), CS_ECORRUPT);
        memcpy(s->b.header, kept, sizeof kept);
    }
    assert_false(cs_batch_verify(s->signer.pk, cs_slice(s->b.header, sizeof s->b.header), cs_buf_slice(&s->b.hashes),
                                 one.signature));
    assert_false(cs_batch_verify(s->signer.pk, cs_slice(s->b.header, sizeof s->b.header), cs_buf_slice(&one.hashes),
                                 s->b.signature));
    memcpy(s->b.header, one.header, sizeof one.header);
    assert_fault(s, CS_FAULT_BAD_CHUNK);
    memcpy(s->b.header, kept, sizeof kept);
    assert_true(signed_rightly(s, &s->b));
    cs_batch_free(&one);
}

#define SCENE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE(batches_round_trip),
        SCENE(every_bit_is_refused),
        SCENE(contents_are_checked),
        SCENE(decompression_is_bounded),
        SCENE(a_wrong_commitment_is_refused_first),
        SCENE(lengths_off_by_one),
        SCENE(chunks_are_cut_at_the_boundary),
        SCENE(nonces_never_repeat),
        SCENE(binding_anew_keeps_the_operations),
        SCENE(stored_batches_round_trip),
        SCENE(parts_do_not_mix),
        SCENE(misuse_is_refused),
    };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
