/* What strangers send to a hub: the requests as they come, batches, the proof of a call, and the hello of a session.
 * The first byte chooses. A batch can be put in order first: no fuzzer finds a hash by itself. */
#include "fuzz/fuzz.h"

#include <string.h>

#include "crypto/session.h"
#include "hub/internal.h"
#include "hub/log_rules.h"
#include "unit/crypto/fixed_world.h"

enum { REQUESTS = 0, BATCH = 1, MADE = 2, PROOF = 3, HELLO = 4, NKINDS = 5 };

static void requests(struct cs_slice in)
{
    static const ProtobufCMessageDescriptor *const of[] = {
        &clawsync__v1__open_session_request__descriptor,
        &clawsync__v1__register_device_request__descriptor,
        &clawsync__v1__push_request__descriptor,
        &clawsync__v1__pull_request__descriptor,
        &clawsync__v1__heartbeat_request__descriptor,
        &clawsync__v1__watch_request__descriptor,
        &clawsync__v1__get_membership_request__descriptor,
        &clawsync__v1__reconcile_request__descriptor,
        &clawsync__v1__append_membership_request__descriptor,
        &clawsync__v1__resolve_conflict_request__descriptor,
        &clawsync__v1__pair_request__descriptor,
        &clawsync__v1__snapshot_request__descriptor,
    };
    struct cs_arena a = { 0 };
    ProtobufCAllocator alloc = cs_pb_arena(&a);
    struct cs_buf key = { 0 };

    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        protobuf_c_message_unpack(of[i], &alloc, in.len, in.data);
        FUZZ_CHECK(a.total <= 64 * in.len + 64 * 1024); /* memory is a small multiple of the input */
        cs_arena_reset(&a);
    }
    if (cs_unbase64(&key, in, false)) {
        struct cs_buf again = { 0 };

        cs_base64(&again, cs_buf_slice(&key), false);
        FUZZ_CHECK(cs_slice_eq(cs_buf_slice(&again), in));
        cs_buf_free(&again);
    }
    cs_buf_free(&key);
    cs_arena_free(&a);
}

static void judge(const Clawsync__V1__PushRequest *req, struct cs_arena *a)
{
    struct cs_log_state state = { .active = true };
    struct cs_verdict v = { 0 };
    uint8_t pk[32] = { 1 };
    struct cs_batch b;
    size_t sum = 0;

    if (!cs_rules_shape(&b, req, a, &v)) {
        FUZZ_CHECK(v.status == CS_RPC_INVALID_ARGUMENT || v.status == CS_RPC_RESOURCE_EXHAUSTED);
        FUZZ_CHECK(v.reason[0] != '\0' && v.kind != NULL);
        return;
    }
    FUZZ_CHECK(b.header.len == CS_BATCH_HEADER_LEN && b.h.chunk_count == req->n_chunks && b.h.chunk_count > 0);
    for (uint32_t i = 0; i < b.h.chunk_count; i++)
        sum += b.chunks[i].len;
    FUZZ_CHECK(sum == b.bytes && sum == cs_batch_sealed_len(&b.h));
    FUZZ_CHECK(!cs_rules_signature(&b, pk, &v));
    cs_rules_judge(&b, &state, &v);
}

static void batch(struct cs_slice in)
{
    struct cs_arena a = { 0 };
    ProtobufCAllocator alloc = cs_pb_arena(&a);
    const Clawsync__V1__PushRequest *req = clawsync__v1__push_request__unpack(&alloc, in.len, in.data);

    if (req != NULL)
        judge(req, &a);
    cs_arena_free(&a);
}

/* header 208 ‖ length of a chunk u16 ‖ the rest in chunks of that length; hashes, ids and count are made right. */
static void made(struct cs_slice in)
{
    enum { MOST = 64 };
    Clawsync__V1__PushRequest req = CLAWSYNC__V1__PUSH_REQUEST__INIT;
    Clawsync__V1__Envelope env = CLAWSYNC__V1__ENVELOPE__INIT;
    Clawsync__V1__DeltaChunk chunk[MOST], *list[MOST];
    uint8_t hashes[MOST * 32], header[CS_BATCH_HEADER_LEN], signature[CS_SIGNATURE_LEN] = { 0 };
    char ids[MOST][23], none[1] = "";
    struct cs_arena a = { 0 };
    size_t len, at = CS_BATCH_HEADER_LEN + 2;

    if (in.len < at || (len = cs_load_u16(in.data + CS_BATCH_HEADER_LEN)) == 0)
        return;
    for (; req.n_chunks < MOST && at < in.len; at += len) {
        size_t i = req.n_chunks++, left = in.len - at < len ? in.len - at : len;

        cs_hash_plain(cs_slice(in.data + at, left), hashes + i * 32);
        cs_chunk_id(hashes + i * 32, ids[i]);
        clawsync__v1__delta_chunk__init(&chunk[i]);
        chunk[i].chunk_id = ids[i];
        chunk[i].entity_type = none;
        chunk[i].seq = (int32_t)i;
        chunk[i].payload_hash = (ProtobufCBinaryData){ 32, hashes + i * 32 };
        chunk[i].encrypted_payload = (ProtobufCBinaryData){ left, (uint8_t *)(uintptr_t)in.data + at };
        list[i] = &chunk[i];
    }
    if (req.n_chunks == 0)
        return;
    memcpy(header, in.data, sizeof header);
    cs_store_u32(header + 52, (uint32_t)req.n_chunks);
    for (size_t i = 0; i < req.n_chunks; i++)
        chunk[i].total = (int32_t)req.n_chunks;
    env.header = (ProtobufCBinaryData){ sizeof header, header };
    env.signature = (ProtobufCBinaryData){ sizeof signature, signature };
    env.payload_hashes = (ProtobufCBinaryData){ req.n_chunks * 32, hashes };
    chunk[0].envelope = &env;
    req.chunks = list;
    judge(&req, &a);
    cs_arena_free(&a);
}

static void proof(struct cs_slice in)
{
    struct cs_call_proof p;
    char again[CS_CALL_PROOF_TEXT];

    if (!cs_call_proof_parse(&p, in))
        return;
    cs_call_proof_text(&p, again);
    FUZZ_CHECK(cs_slice_eq(cs_slice_str(again), in));
}

static void hello(struct cs_slice in)
{
    static const uint8_t seed[32] = { 1 };
    uint8_t reply[CS_SESSION_REPLY_LEN];
    struct cs_session keys;
    struct cs_sign_key hub;
    struct fixed_world f;

    fixed_world_init(&f);
    cs_sign_key_from_seed(&hub, seed);
    if (cs_session_answer(&f.rng, &hub, in, reply, &keys, NULL) == CS_OK)
        FUZZ_CHECK(in.len == CS_SESSION_HELLO_LEN && reply[0] >= 1 && reply[0] <= in.data[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const fn[NKINDS])(struct cs_slice in) = {
        [REQUESTS] = requests, [BATCH] = batch, [MADE] = made, [PROOF] = proof, [HELLO] = hello
    };

    FUZZ_CHECK(cs_crypto_init(NULL) == CS_OK);
    if (size > 0)
        fn[data[0] % NKINDS](cs_slice(data + 1, size - 1));
    return 0;
}
