/* Makes what devices send, without the rooms that encrypt: real membership entries, real headers and signatures, and
 * random bytes where the ciphertext would be, which is all the same to a hub. */
#ifndef CS_TESTS_BATCH_MAKER_H
#define CS_TESTS_BATCH_MAKER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "base/arena.h"
#include "clawsync/v1/sync.pb-c.h"
#include "crypto/batch_header.h"
#include "crypto/head.h"
#include "crypto/session.h"
#include "identity/membership.h"

/* A device, and what it knows of its workspace. */
struct maker {
    struct cs_rng rng;
    struct cs_uuid workspace, id;
    struct cs_device_keys keys;
    struct cs_epoch_keys epoch;
    struct cs_membership members;
    uint64_t log_id, seen_number;
    uint8_t seen_log_hash[32];
    uint64_t number; /* of the last batch made */
    uint8_t prev[32];
    struct cs_arena arena; /* of the requests made */
};

/* One batch as a request; change it before it is packed to make it a wrong one. */
struct made {
    struct cs_batch_header h;
    Clawsync__V1__PushRequest req;
    uint8_t header[CS_BATCH_HEADER_LEN], signature[64], hash[32];
};

static inline void maker_init(struct maker *m, uint8_t workspace, uint8_t id)
{
    uint8_t secret[32], key[32];
    struct cs_error err = { 0 };

    assert_int_equal(cs_crypto_init(&err), CS_OK);
    *m = (struct maker){ .rng = { .world = cs_world_real() } };
    memset(m->workspace.b, workspace, 16);
    memset(m->id.b, id, 16);
    memset(secret, id, sizeof secret);
    memset(key, workspace, sizeof key);
    cs_device_keys_derive(&m->keys, CS_PRINCIPAL_DEVICE, cs_slice(secret, sizeof secret), &m->workspace);
    cs_epoch_keys_derive(&m->epoch, key, &m->workspace, 1);
}

static inline void maker_fini(struct maker *m)
{
    cs_membership_free(&m->members);
    cs_arena_free(&m->arena);
}

static inline void maker_genesis(struct maker *m, struct cs_buf *out)
{
    struct cs_error err = { 0 };

    assert_int_equal(cs_entry_genesis(out, &m->rng, &m->workspace, &m->id, &m->keys, "maker", &m->epoch,
                                      cs_now_ms(m->rng.world), &err),
                     CS_OK);
}

static inline void maker_learn(struct maker *m, struct cs_slice entry)
{
    struct cs_error err = { 0 };

    assert_int_equal(cs_membership_apply(&m->members, entry, 0, &err), CS_OK);
}

/* by adds `m` to the workspace; both learn the entry, `m` needs to know the ones before. */
static inline void maker_add(struct maker *m, struct maker *by, struct cs_buf *out)
{
    struct cs_error err = { 0 };

    assert_int_equal(cs_entry_add(out, &by->rng, &by->members, &by->id, &by->keys, &m->id, &m->keys, "added",
                                  &by->epoch, cs_now_ms(by->rng.world), &err),
                     CS_OK);
}

static inline void maker_saw(struct maker *m, const struct cs_hub_head *head)
{
    m->log_id = head->log_id;
    m->seen_number = head->number;
    memcpy(m->seen_log_hash, head->log_hash, 32);
}

/* Signs what m->h says over the payloads that are in the request; call it again after changing either. */
static inline void made_seal(struct maker *m, struct made *b)
{
    uint8_t *hashes = cs_arena_alloc(&m->arena, b->req.n_chunks * 32 + 1);
    Clawsync__V1__Envelope *e = b->req.chunks[0]->envelope;

    cs_batch_header_encode(&b->h, b->header);
    for (size_t i = 0; i < b->req.n_chunks; i++) {
        Clawsync__V1__DeltaChunk *c = b->req.chunks[i];

        cs_hash_plain(cs_slice(c->encrypted_payload.data, c->encrypted_payload.len), hashes + i * 32);
        c->payload_hash = (ProtobufCBinaryData){ 32, hashes + i * 32 };
        c->chunk_id = cs_arena_alloc(&m->arena, 23);
        cs_chunk_id(hashes + i * 32, c->chunk_id);
    }
    e->header = (ProtobufCBinaryData){ CS_BATCH_HEADER_LEN, b->header };
    e->payload_hashes = (ProtobufCBinaryData){ b->req.n_chunks * 32, hashes };
    e->signature = (ProtobufCBinaryData){ 64, b->signature };
    cs_batch_sign(&m->keys.sign, cs_slice(b->header, sizeof b->header), cs_slice(hashes, b->req.n_chunks * 32),
                  b->signature);
    cs_batch_hash(cs_slice(b->header, sizeof b->header), cs_slice(hashes, b->req.n_chunks * 32), b->hash);
}

/* The next batch of m: packed_len bytes inside, in nchunks pieces. */
static inline struct made *maker_batch(struct maker *m, uint32_t packed_len, uint32_t nchunks)
{
    struct made *b = cs_arena_zalloc(&m->arena, 1, sizeof *b);
    size_t sealed, at = 0;
    uint8_t *bytes;

    assert_non_null(b);
    b->h = (struct cs_batch_header){ .kind = CS_BATCH_OPERATIONS,
                                     .codec = CS_CODEC_STORED,
                                     .padding = CS_PADDING_NONE,
                                     .workspace = m->workspace,
                                     .device = m->id,
                                     .incarnation = 1,
                                     .epoch = m->members.epoch,
                                     .chunk_count = nchunks,
                                     .number = m->number + 1,
                                     .plain_len = packed_len,
                                     .packed_len = packed_len,
                                     .nops = 1,
                                     .member_seq = m->members.seq,
                                     .top_stamp = cs_now_ms(m->rng.world) * 65536,
                                     .seen_log = m->log_id,
                                     .seen_number = m->seen_number };
    memcpy(b->h.prev, m->prev, 32);
    cs_seen_digest(&m->workspace, m->log_id, m->seen_number, m->seen_log_hash, m->members.seq, m->members.head,
                   b->h.seen);
    clawsync__v1__push_request__init(&b->req);
    sealed = cs_batch_sealed_len(&b->h);
    bytes = cs_arena_alloc(&m->arena, sealed);
    b->req.chunks = cs_arena_zalloc(&m->arena, nchunks, sizeof *b->req.chunks);
    assert_true(bytes != NULL && b->req.chunks != NULL);
    cs_random(&m->rng, bytes, sealed);
    b->req.n_chunks = nchunks;
    for (uint32_t i = 0; i < nchunks; i++) {
        Clawsync__V1__DeltaChunk *c = cs_arena_alloc(&m->arena, sizeof *c);
        size_t n = (sealed - at) / (nchunks - i);

        assert_true(c != NULL && n > 0);
        clawsync__v1__delta_chunk__init(c);
        c->seq = (int32_t)i;
        c->total = (int32_t)nchunks;
        c->encrypted_payload = (ProtobufCBinaryData){ n, bytes + at };
        at += n;
        b->req.chunks[i] = c;
    }
    b->req.chunks[0]->envelope = cs_arena_alloc(&m->arena, sizeof(Clawsync__V1__Envelope));
    clawsync__v1__envelope__init(b->req.chunks[0]->envelope);
    made_seal(m, b);
    return b;
}

/* The device goes on behind b. */
static inline void maker_commit(struct maker *m, const struct made *b)
{
    m->number = b->h.number;
    memcpy(m->prev, b->hash, 32);
}

#endif
