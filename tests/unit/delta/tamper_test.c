/* A batch of several chunks, changed in every way that a hub could: nothing of it is accepted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "unit/crypto/fixed_world.h"
#include "unit/delta/sample.h"

enum { CHUNK = 1024 };

struct made {
    struct cs_batch_header h;
    struct cs_epoch_keys keys;
    struct cs_sign_key signer;
    struct cs_batch b;
};

struct scene {
    struct fixed_world f;
    struct cs_arena a;
    cs_packer *p;
    struct made one, other;
};

static void make(struct scene *s, struct made *m, uint8_t which)
{
    uint8_t key[32] = { which };
    struct cs_delta d;

    sample_header(&m->h, CS_CODEC_STORED);
    if (which > 1) { /* nothing in common but the format */
        memset(m->h.workspace.b, 'W', 16);
        memset(m->h.device.b, 'e', 16);
        m->h.incarnation ^= 1;
        m->h.epoch++;
        m->h.number++;
        m->h.prev[0] ^= 1;
        m->h.member_seq++;
        m->h.seen_log ^= 1;
        m->h.seen_number++;
        m->h.seen[0] ^= 1;
        m->h.audit_seq++;
        m->h.audit_head[0] ^= 1;
    }
    sample_delta(&d, &s->a, which > 1 ? 22 : 15, which > 1 ? 151 : 150);
    memcpy(d.devices[0].b, m->h.device.b, 16);
    memset(d.devices[1].b, 'x', 16);
    d.ops[0].stamp += which; /* the highest, so that this differs too */
    for (uint32_t i = 0; i < d.nops; i++)
        if (d.ops[i].stamp > d.ops[0].stamp)
            d.ops[0].stamp = d.ops[i].stamp + which;
    cs_sign_key_from_seed(&m->signer, key);
    cs_epoch_keys_derive(&m->keys, key, &m->h.workspace, m->h.epoch);
    assert_int_equal(cs_pack(s->p, &d, &m->h, &m->keys, &m->signer, CHUNK, &m->b, NULL), CS_OK);
    assert_true(m->b.nchunks >= 3);
}

static bool signed_rightly(const struct made *m, const struct cs_batch *b)
{
    return cs_batch_verify(m->signer.pk, cs_slice(b->header, sizeof b->header), cs_buf_slice(&b->hashes), b->signature);
}

static bool opens(struct scene *s, const struct made *m, const struct cs_batch *b)
{
    enum cs_unpack_fault fault;
    struct cs_delta d;

    return cs_unpack(s->p, b, &m->keys, &d, &fault, NULL) == CS_OK;
}

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);

    assert_non_null(s);
    *state = s;
    fixed_world_init(&s->f);
    assert_int_equal(cs_packer_new(&s->p, &s->f.rng, NULL), CS_OK);
    make(s, &s->one, 1);
    make(s, &s->other, 2);
    assert_true(signed_rightly(&s->one, &s->one.b) && opens(s, &s->one, &s->one.b));
    assert_true(signed_rightly(&s->other, &s->other.b) && opens(s, &s->other, &s->other.b));
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    assert_true(signed_rightly(&s->one, &s->one.b) && opens(s, &s->one, &s->one.b)); /* put back, all of it */
    cs_batch_free(&s->one.b);
    cs_batch_free(&s->other.b);
    cs_packer_free(s->p);
    cs_arena_free(&s->a);
    fixed_world_fini(&s->f);
    free(s);
    return 0;
}

static void every_bit_of_every_chunk(void **state)
{
    struct scene *s = *state;
    struct cs_batch *b = &s->one.b;

    for (size_t bit = 0; bit < b->sealed.len * 8; bit++) {
        b->sealed.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(opens(s, &s->one, b));
        b->sealed.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

/* A copy of the batch whose chunks are those of `from`, n of them; with_hashes: the list of hashes goes with them. */
static void compose(const struct cs_batch *of, const uint32_t *from, uint32_t n, bool with_hashes, struct cs_batch *out)
{
    cs_buf_reset(&out->sealed);
    cs_buf_reset(&out->hashes);
    memcpy(out->header, of->header, sizeof out->header);
    memcpy(out->signature, of->signature, sizeof out->signature);
    out->chunk_len = of->chunk_len;
    out->nchunks = with_hashes ? n : of->nchunks;
    for (uint32_t i = 0; i < n; i++) {
        cs_buf_put_slice(&out->sealed, cs_batch_chunk(of, from[i]));
        if (with_hashes)
            cs_buf_put(&out->hashes, of->hashes.data + (size_t)from[i] * 32, 32);
    }
    if (!with_hashes)
        cs_buf_put_slice(&out->hashes, cs_buf_slice(&of->hashes));
}

static void refuse(struct scene *s, const uint32_t *from, uint32_t n)
{
    struct cs_batch bent = { 0 };

    for (int with_hashes = 0; with_hashes < 2; with_hashes++) {
        compose(&s->one.b, from, n, with_hashes != 0, &bent);
        assert_false(signed_rightly(&s->one, &bent) && opens(s, &s->one, &bent));
        assert_false(opens(s, &s->one, &bent));
        assert_true(!with_hashes || !signed_rightly(&s->one, &bent));
    }
    cs_batch_free(&bent);
}

static void chunks_taken_out_doubled_moved_and_cut_off(void **state)
{
    struct scene *s = *state;
    uint32_t n = s->one.b.nchunks, from[64];

    assert_true(n < 60);
    for (uint32_t at = 0; at < n; at++) {
        uint32_t k = 0;

        for (uint32_t i = 0; i < n; i++)
            if (i != at)
                from[k++] = i;
        refuse(s, from, k);
        for (k = 0; k < at; k++)
            from[k] = k;
        refuse(s, from, at); /* cut off */
        for (uint32_t i = at; i < n; i++)
            from[i + 1] = i;
        from[at] = at;
        refuse(s, from, n + 1);
        for (uint32_t with = at + 1; with < n; with++) {
            for (uint32_t i = 0; i < n; i++)
                from[i] = i == at ? with : i == with ? at : i;
            refuse(s, from, n);
        }
    }
}

static void every_length(void **state)
{
    struct scene *s = *state;
    struct cs_batch *b = &s->one.b;
    size_t len = b->sealed.len, hashes = b->hashes.len;
    static const uint32_t counts[] = {
        0, 1, UINT32_MAX, UINT32_MAX / 32, CS_BATCH_MAX_CHUNKS, CS_BATCH_MAX_CHUNKS + 1
    };
    uint32_t n = b->nchunks, chunk_len = b->chunk_len;

    assert_true(cs_buf_reserve(&b->sealed, 1) && cs_buf_reserve(&b->hashes, 32));
    for (b->sealed.len = 0; b->sealed.len <= len + 1; b->sealed.len++)
        assert_true(b->sealed.len == len || !opens(s, &s->one, b));
    b->sealed.len = len;
    for (b->hashes.len = 0; b->hashes.len <= hashes + 32; b->hashes.len++)
        assert_true(b->hashes.len == hashes || (!opens(s, &s->one, b) && !signed_rightly(&s->one, b)));
    b->hashes.len = hashes;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0] + 2; i++) {
        b->nchunks = i < 6 ? counts[i] : i == 6 ? n - 1 : n + 1;
        assert_false(opens(s, &s->one, b));
    }
    b->nchunks = n;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0] + 2; i++) {
        b->chunk_len = i < 6 ? counts[i] : i == 6 ? chunk_len - 1 : chunk_len + 1;
        assert_false(opens(s, &s->one, b));
    }
    b->chunk_len = chunk_len;
}

/* Fields of the header (docs/protocol.md), each taken from a batch of another workspace, device and epoch. */
static void fields_of_another_batch(void **state)
{
    static const struct {
        size_t at, len;
    } fields[] = { { 8, 16 },  { 24, 16 }, { 40, 8 },   { 48, 4 },  { 52, 4 },  { 56, 8 },
                   { 64, 32 }, { 96, 4 },  { 100, 4 },  { 104, 4 }, { 108, 4 }, { 112, 8 },
                   { 120, 8 }, { 128, 8 }, { 136, 32 }, { 168, 8 }, { 176, 32 } };
    struct scene *s = *state;
    struct cs_batch *b = &s->one.b;
    uint8_t header[CS_BATCH_HEADER_LEN], signature[CS_SIGNATURE_LEN];
    struct cs_buf kept;

    memcpy(header, b->header, sizeof header);
    memcpy(signature, b->signature, sizeof signature);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const uint8_t *from = s->other.b.header + fields[i].at;

        assert_memory_not_equal(from, header + fields[i].at, fields[i].len);
        memcpy(b->header + fields[i].at, from, fields[i].len);
        assert_false(signed_rightly(&s->one, b));
        assert_false(opens(s, &s->one, b));
        assert_false(signed_rightly(&s->other, b));
        assert_false(opens(s, &s->other, b));
        memcpy(b->header, header, sizeof header);
    }
    memcpy(b->signature, s->other.b.signature, sizeof signature);
    assert_false(signed_rightly(&s->one, b) || signed_rightly(&s->other, b));
    memcpy(b->signature, signature, sizeof signature);
    kept = b->sealed;
    b->sealed = s->other.b.sealed;
    assert_false(opens(s, &s->one, b) || opens(s, &s->other, b));
    b->sealed = kept;
    kept = b->hashes;
    b->hashes = s->other.b.hashes;
    assert_false(signed_rightly(&s->one, b) || opens(s, &s->one, b));
    b->hashes = kept;
    assert_false(signed_rightly(&s->other, b) || opens(s, &s->other, b)); /* the whole of it, to the other's reader */
}

static void signatures_under_other_labels(void **state)
{
    static const char *const labels[] = { "audit row", "batch",      "hub head", "log entry", "member entry",
                                          "peer key",  "possession", "register", "rpc",       "session" };
    struct scene *s = *state;
    struct cs_batch *b = &s->one.b;
    uint8_t signature[CS_SIGNATURE_LEN];
    struct cs_buf bytes = { 0 };

    memcpy(signature, b->signature, sizeof signature);
    cs_buf_put(&bytes, b->header, sizeof b->header);
    cs_buf_put_slice(&bytes, cs_buf_slice(&b->hashes));
    for (size_t i = 0; i < sizeof labels / sizeof labels[0]; i++) {
        cs_sign(&s->one.signer, labels[i], cs_buf_slice(&bytes), b->signature);
        assert_int_equal(signed_rightly(&s->one, b), strcmp(labels[i], "batch") == 0);
        assert_int_equal(cs_verify(s->one.signer.pk, labels[i], cs_buf_slice(&bytes), signature),
                         strcmp(labels[i], "batch") == 0);
    }
    memcpy(b->signature, signature, sizeof signature);
    cs_buf_free(&bytes);
}

#define SCENE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE(every_bit_of_every_chunk),
        SCENE(chunks_taken_out_doubled_moved_and_cut_off),
        SCENE(every_length),
        SCENE(fields_of_another_batch),
        SCENE(signatures_under_other_labels),
    };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("tamper", tests, NULL, NULL);
}
