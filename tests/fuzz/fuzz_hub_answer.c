/* What a hub answers, to an engine that has a workspace of its own: the reply that opens a session, heads, membership
 * logs, batches in their chunks, and the plain messages. The first byte chooses, and whether the hub's signature is
 * made right: no fuzzer finds one by itself. */
#include "fuzz/fuzz.h"

#include <string.h>

#include "engine/engine.h"
#include "unit/crypto/fixed_world.h"

enum { MESSAGES = 0, SESSION = 1, HEAD = 2, MEMBERS = 3, CHUNKS = 4, NKINDS = 5, SIGNED = 0x80 };

struct scene {
    struct fixed_world f;
    struct clawsync_engine e;
    struct cs_sign_key hub;
    struct cs_buf genesis;
};

/* What each input begins with; the keystore stays, as nothing of a hub's may change it without being in order. */
static void anew(struct scene *s)
{
    s->e.head = s->e.kept = (struct cs_hub_head){ 0 };
    cs_self_members_reset(&s->e);
    FUZZ_CHECK(cs_self_members_add(&s->e, cs_buf_slice(&s->genesis), 0, NULL) == CS_OK);
}

static struct scene *scene(void)
{
    static const uint8_t key[32] = { 'k' }, seed[32] = { 'h' };
    static struct scene s;
    struct cs_epoch_keys epoch;
    uint8_t secret[32];

    if (s.genesis.len != 0)
        return &s;
    FUZZ_CHECK(cs_crypto_init(NULL) == CS_OK);
    fixed_world_init(&s.f);
    cs_sign_key_from_seed(&s.hub, seed);
    s.e.world = &s.f.world;
    s.e.rng = s.f.rng;
    /* those of tests/vectors/crypto.json, whose log is in the corpus */
    s.e.workspace = (struct cs_uuid){ "workspace-of-cs" };
    s.e.device = (struct cs_uuid){ "device-a-of-the" };
    for (size_t i = 0; i < sizeof secret; i++)
        secret[i] = (uint8_t)(i + 1);
    s.e.ks = cs_keystore_new();
    s.e.keys = cs_secret_alloc(sizeof *s.e.keys);
    FUZZ_CHECK(s.e.ks != NULL && s.e.keys != NULL);
    s.e.ks->workspace = s.e.workspace;
    memcpy(s.e.ks->hub_key, s.hub.pk, 32);
    cs_device_keys_derive(s.e.keys, CS_PRINCIPAL_DEVICE, cs_slice(secret, 32), &s.e.workspace);
    cs_epoch_keys_derive(&epoch, key, &s.e.workspace, 1);
    FUZZ_CHECK(cs_entry_genesis(&s.genesis, &s.f.rng, &s.e.workspace, &s.e.device, s.e.keys, "a", &epoch, 1, NULL) ==
               CS_OK);
    return &s;
}

static void messages(struct scene *s, struct cs_slice in, bool sign)
{
    static const ProtobufCMessageDescriptor *const of[] = {
        &clawsync__v1__open_session_response__descriptor,
        &clawsync__v1__register_device_response__descriptor,
        &clawsync__v1__push_response__descriptor,
        &clawsync__v1__pull_response__descriptor,
        &clawsync__v1__heartbeat_response__descriptor,
        &clawsync__v1__watch_response__descriptor,
        &clawsync__v1__get_membership_response__descriptor,
        &clawsync__v1__reconcile_response__descriptor,
        &clawsync__v1__append_membership_response__descriptor,
        &clawsync__v1__resolve_conflict_response__descriptor,
        &clawsync__v1__pair_response__descriptor,
        &clawsync__v1__snapshot_response__descriptor,
    };
    struct cs_arena a = { 0 };
    ProtobufCAllocator alloc = cs_engine_pb(&a);

    (void)s;
    (void)sign;
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        protobuf_c_message_unpack(of[i], &alloc, in.len, in.data);
        FUZZ_CHECK(a.total <= 64 * in.len + 64 * 1024); /* memory is a small multiple of the input */
        cs_arena_reset(&a);
    }
    cs_arena_free(&a);
}

static void session(struct scene *s, struct cs_slice in, bool sign)
{
    uint8_t reply[CS_SESSION_REPLY_LEN], mine[CS_SESSION_REPLY_LEN];
    struct cs_session_hello hello;
    struct cs_session keys;
    struct cs_hasher h;
    uint8_t transcript[32];
    int rc;

    cs_session_begin(&s->f.rng, &hello);
    FUZZ_CHECK(cs_session_answer(&s->f.rng, &s->hub, cs_slice(hello.bytes, sizeof hello.bytes), mine, &keys, NULL) ==
               CS_OK);
    if (in.len != sizeof reply) {
        FUZZ_CHECK(cs_session_finish(&hello, in, s->hub.pk, &keys, NULL) != CS_OK);
        return;
    }
    memcpy(reply, in.data, sizeof reply);
    if (sign) { /* T, as a hub of this key would sign it */
        memcpy(reply + 49, s->hub.pk, 32);
        cs_hasher_init_label(&h, "session");
        cs_hasher_update(&h, hello.bytes, 1);
        cs_hasher_update(&h, reply, 1);
        cs_hasher_update(&h, hello.bytes + 1, 64);
        cs_hasher_update(&h, reply + 1, 80);
        cs_hasher_final(&h, transcript, sizeof transcript);
        cs_sign_digest(&s->hub, transcript, reply + 81);
    }
    rc = cs_session_finish(&hello, cs_slice(reply, sizeof reply), s->hub.pk, &keys, NULL);
    FUZZ_CHECK(rc != CS_OK || (sign && reply[0] == CS_SESSION_VERSION));
    FUZZ_CHECK(rc != CS_OK || memcmp(keys.hub_pk, s->hub.pk, 32) == 0);
}

/* Two heads, one behind the other: what is pinned never goes back. */
static void head(struct scene *s, struct cs_slice in, bool sign)
{
    struct clawsync_engine *e = &s->e;
    struct cs_error err = { 0 };

    anew(s);
    for (size_t i = 0; i < 2 && in.len >= CS_HUB_HEAD_LEN; i++) {
        uint8_t bytes[CS_HUB_HEAD_LEN], signature[CS_SIGNATURE_LEN] = { 0 };
        Clawsync__V1__HubHead h = CLAWSYNC__V1__HUB_HEAD__INIT;
        struct cs_hub_head before = e->head, got;

        memcpy(bytes, in.data, sizeof bytes);
        in = cs_slice(in.data + CS_HUB_HEAD_LEN, in.len - CS_HUB_HEAD_LEN);
        if (sign)
            cs_hub_head_sign(&s->hub, &e->workspace, bytes, signature);
        h.signed_bytes = (ProtobufCBinaryData){ sizeof bytes, bytes };
        h.signature = (ProtobufCBinaryData){ sizeof signature, signature };
        if (cs_engine_head(e, &h, &got, &err) != CS_OK) {
            FUZZ_CHECK(memcmp(&e->head, &before, sizeof before) == 0);
            return;
        }
        FUZZ_CHECK(sign && got.log_id != 0 && e->head.log_id == got.log_id);
        FUZZ_CHECK(e->head.number >= before.number && e->head.member_seq >= before.member_seq);
    }
}

/* A log behind our genesis; SIGNED: from its first entry on, for a device that knows nothing, without a head. */
static void members(struct scene *s, struct cs_slice in, bool sign)
{
    struct cs_message *m = cs_message_new(in.len);
    struct cs_messages list = { 0 };
    struct cs_hub_head got = { 0 };
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };

    FUZZ_CHECK(m != NULL);
    if (in.len > 0)
        memcpy(m->data, in.data, in.len);
    cs_messages_push(&list, m);
    anew(s);
    if (sign)
        cs_self_members_reset(&s->e);
    if (cs_member_fold(&s->e, &list, &a, &got, !sign, NULL, &err) == CS_OK && !sign)
        FUZZ_CHECK(got.member_seq == s->e.members.seq);
    FUZZ_CHECK(s->e.members.seq >= (sign ? 0 : 1) && s->e.entry_hashes.len == (size_t)s->e.members.seq * 32);
    cs_messages_free(&list);
    cs_arena_free(&a);
}

static void chunks(struct scene *s, struct cs_slice in, bool sign)
{
    struct cs_pull_step *p = &s->e.pull;
    struct cs_arena a = { 0 };
    ProtobufCAllocator alloc = cs_engine_pb(&a);
    const Clawsync__V1__PullResponse *r = clawsync__v1__pull_response__unpack(&alloc, in.len, in.data);
    bool whole;

    (void)sign;
    p->next = p->total = 0;
    for (size_t i = 0; r != NULL && i < r->n_chunks; i++) {
        if (cs_pull_chunk(p, r->chunks[i], &whole, NULL) != CS_OK)
            break;
        FUZZ_CHECK(p->next <= p->total && p->total <= CS_BATCH_MAX_CHUNKS && whole == (p->next == p->total));
        if (whole && !p->envelope_bad)
            FUZZ_CHECK(p->batch.hashes.len == (size_t)p->total * 32);
        if (whole && !p->envelope_bad && !p->uneven && !p->header_only)
            for (uint32_t k = 0; k < p->batch.nchunks; k++)
                FUZZ_CHECK(cs_batch_chunk(&p->batch, k).len <= p->batch.chunk_len);
    }
    cs_arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const fn[NKINDS])(struct scene * s, struct cs_slice in, bool sign) = {
        [MESSAGES] = messages, [SESSION] = session, [HEAD] = head, [MEMBERS] = members, [CHUNKS] = chunks
    };

    if (size > 0)
        fn[(data[0] & ~SIGNED) % NKINDS](scene(), cs_slice(data + 1, size - 1), (data[0] & SIGNED) != 0);
    return 0;
}
