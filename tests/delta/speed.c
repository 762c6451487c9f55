/* How many operations per second are packed and unpacked: rows of 300 bytes, 1000 to a batch, one thread. */
#include <stdio.h>

#include "unit/crypto/fixed_world.h"
#include "unit/delta/sample.h"

enum { OPS = 1000, ROW = 280, ROUNDS = 300 };

static double seconds_since(struct cs_world *w, uint64_t start_ns)
{
    return (double)(cs_monotonic_ns(w) - start_ns) / 1e9;
}

static void report(const char *what, double seconds, size_t bytes)
{
    printf("%-16s %10.0f ops/s %8.1f MB/s of plain bytes\n", what, OPS * (double)ROUNDS / seconds,
           (double)bytes * ROUNDS / seconds / 1e6);
}

static void both_ways(struct cs_world *w, cs_packer *p, const struct cs_delta *d, uint8_t codec, const char *name)
{
    uint8_t key[32] = { 1 };
    struct cs_batch_header h;
    struct cs_epoch_keys keys;
    struct cs_sign_key signer;
    struct cs_batch b = { 0 };
    struct cs_delta back;
    enum cs_unpack_fault fault;
    uint64_t start;
    char what[32];

    sample_header(&h, codec);
    cs_epoch_keys_derive(&keys, key, &h.workspace, 1);
    cs_sign_key_from_seed(&signer, key);
    start = cs_monotonic_ns(w);
    for (int i = 0; i < ROUNDS; i++) {
        h.codec = codec;
        h.number = (uint64_t)i + 1;
        if (cs_pack(p, d, &h, &keys, &signer, 256 * 1024, &b, NULL) < 0)
            abort();
    }
    snprintf(what, sizeof what, "pack %s", name);
    report(what, seconds_since(w, start), h.plain_len);
    start = cs_monotonic_ns(w);
    for (int i = 0; i < ROUNDS; i++)
        if (cs_unpack(p, &b, &keys, &back, &fault, NULL) < 0)
            abort();
    snprintf(what, sizeof what, "unpack %s", name);
    report(what, seconds_since(w, start), h.plain_len);
    cs_batch_free(&b);
}

int main(void)
{
    struct cs_world *w = cs_world_real();
    struct cs_rng rng = { .world = w };
    struct cs_arena a = { 0 }, decoded = { 0 };
    struct cs_buf bytes = { 0 };
    struct cs_delta d, back;
    cs_packer *p;
    uint64_t start;

    if (cs_crypto_init(NULL) < 0 || cs_packer_new(&p, &rng, NULL) < 0)
        return 1;
    sample_delta(&d, &a, OPS, ROW);
    start = cs_monotonic_ns(w);
    for (int i = 0; i < ROUNDS; i++) {
        cs_buf_reset(&bytes);
        if (cs_delta_encode(&bytes, &d, NULL) < 0)
            return 1;
    }
    report("encode", seconds_since(w, start), bytes.len);
    start = cs_monotonic_ns(w);
    for (int i = 0; i < ROUNDS; i++) {
        cs_arena_reset(&decoded);
        if (cs_delta_decode(&back, &decoded, cs_buf_slice(&bytes), INT64_MAX, NULL) < 0)
            return 1;
    }
    report("decode", seconds_since(w, start), bytes.len);
    both_ways(w, p, &d, CS_CODEC_ZSTD, "zstd");
    both_ways(w, p, &d, CS_CODEC_LZ4, "lz4");
    both_ways(w, p, &d, CS_CODEC_STORED, "stored");
    cs_packer_free(p);
    cs_buf_free(&bytes);
    cs_arena_free(&a);
    cs_arena_free(&decoded);
    return 0;
}
