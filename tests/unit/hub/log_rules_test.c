/* Every refusal of a batch, each alone, and their order. */
#include "unit/hub/batch_maker.h"

#include "hub/log_rules.h"

enum { NOW_MS = 1000 * 1000 };

/* A good batch and the state that accepts it; a case changes one of the two. */
struct scene {
    struct maker m;
    struct made *b;
    struct cs_arena arena;
    struct cs_batch batch;
    struct cs_log_state s;
    struct cs_verdict v;
    uint8_t stored[32], other[32];
};

static void scene_init(struct scene *x)
{
    struct cs_buf genesis = { 0 };

    *x = (struct scene){ 0 };
    maker_init(&x->m, 'w', 'a');
    maker_genesis(&x->m, &genesis);
    maker_learn(&x->m, cs_buf_slice(&genesis));
    cs_buf_free(&genesis);
    x->m.log_id = 77;
    x->m.seen_number = 5;
    memset(x->m.seen_log_hash, 5, 32);
    x->m.number = 3;
    memset(x->m.prev, 3, 32);
    memset(x->other, 0xee, 32);
    x->b = maker_batch(&x->m, 1000, 3);
    x->b->h.top_stamp = 900 * 65536;
    x->s = (struct cs_log_state){ .head = { .log_id = 77, .number = 6, .member_seq = 1, .epoch = 1 },
                                  .last = { .number = 3, .member_seq = 1 },
                                  .active = true,
                                  .epoch_seq = 1,
                                  .now_ms = NOW_MS };
    memset(x->s.last.hash, 3, 32);
    x->s.seen_log_hash = x->m.seen_log_hash;
    x->s.entry_hash = x->m.members.head;
}

static void scene_fini(struct scene *x)
{
    cs_arena_free(&x->arena);
    maker_fini(&x->m);
}

static bool shape(struct scene *x)
{
    x->v = (struct cs_verdict){ 0 };
    return cs_rules_shape(&x->batch, &x->b->req, &x->arena, &x->v);
}

/* ---- before the lock ---- */

static Clawsync__V1__DeltaChunk *chunk(struct scene *x, size_t i)
{
    return x->b->req.chunks[i];
}
static void header_byte(struct scene *x, size_t at, uint8_t v)
{
    x->b->header[at] = v;
}

static void no_chunks(struct scene *x)
{
    x->b->req.n_chunks = 0;
}
static void no_envelope(struct scene *x)
{
    chunk(x, 0)->envelope = NULL;
}
static void second_envelope(struct scene *x)
{
    chunk(x, 1)->envelope = chunk(x, 0)->envelope;
}
static void short_header(struct scene *x)
{
    chunk(x, 0)->envelope->header.len--;
}
static void wrong_magic(struct scene *x)
{
    header_byte(x, 0, 'X');
}
static void newer_format(struct scene *x)
{
    header_byte(x, 3, '2');
}
static void reserved_byte(struct scene *x)
{
    header_byte(x, 7, 1);
}
static void snapshot_kind(struct scene *x)
{
    x->b->h.kind = CS_BATCH_SNAPSHOT;
    made_seal(&x->m, x->b);
}
static void short_signature(struct scene *x)
{
    chunk(x, 0)->envelope->signature.len--;
}
static void missing_chunk(struct scene *x)
{
    x->b->req.n_chunks--;
}
static void hashes_too_long(struct scene *x)
{
    chunk(x, 0)->envelope->payload_hashes.len = 64;
}
static void wrong_seq(struct scene *x)
{
    chunk(x, 1)->seq = 2;
}
static void negative_seq(struct scene *x)
{
    chunk(x, 1)->seq = -1;
}
static void wrong_total(struct scene *x)
{
    chunk(x, 1)->total = 4;
}
static void empty_payload(struct scene *x)
{
    chunk(x, 1)->encrypted_payload.len = 0;
}
static void swapped_chunks(struct scene *x)
{
    Clawsync__V1__DeltaChunk *c = chunk(x, 1);

    x->b->req.chunks[1] = chunk(x, 2);
    x->b->req.chunks[2] = c;
    chunk(x, 1)->seq = 1;
    chunk(x, 2)->seq = 2;
}
static void wrong_chunk_id(struct scene *x)
{
    chunk(x, 2)->chunk_id[0] ^= 1;
}
static void other_type(struct scene *x)
{
    chunk(x, 2)->entity_type = cs_arena_str(&x->m.arena, "t");
}
static void type_with_space(struct scene *x)
{
    for (size_t i = 0; i < 3; i++)
        chunk(x, i)->entity_type = cs_arena_str(&x->m.arena, "a b");
}
static void long_type(struct scene *x)
{
    for (size_t i = 0; i < 3; i++) {
        chunk(x, i)->entity_type = cs_arena_zalloc(&x->m.arena, 66, 1);
        memset(chunk(x, i)->entity_type, 'a', 65);
    }
}
static void payload_too_short(struct scene *x)
{
    chunk(x, 2)->encrypted_payload.len--;
    made_seal(&x->m, x->b);
}
static void payload_changed(struct scene *x)
{
    chunk(x, 1)->encrypted_payload.data[7] ^= 1;
}

static const struct shape_case {
    const char *name;
    void (*change)(struct scene *x);
    const char *kind;
} shapes[] = {
    { "no chunks", no_chunks, "malformed" },
    { "no envelope", no_envelope, "malformed" },
    { "a second envelope", second_envelope, "malformed" },
    { "header one byte short", short_header, "malformed" },
    { "wrong magic", wrong_magic, "malformed" },
    { "newer format", newer_format, "malformed" },
    { "reserved byte set", reserved_byte, "malformed" },
    { "a snapshot", snapshot_kind, "malformed" },
    { "signature one byte short", short_signature, "malformed" },
    { "a chunk is missing", missing_chunk, "malformed" },
    { "hashes for another count", hashes_too_long, "malformed" },
    { "wrong seq", wrong_seq, "malformed" },
    { "negative seq", negative_seq, "malformed" },
    { "wrong total", wrong_total, "malformed" },
    { "empty payload", empty_payload, "malformed" },
    { "chunks swapped", swapped_chunks, "malformed" },
    { "wrong chunk id", wrong_chunk_id, "malformed" },
    { "types differ", other_type, "malformed" },
    { "type is no tag", type_with_space, "malformed" },
    { "type too long", long_type, "malformed" },
    { "one byte too few", payload_too_short, "malformed" },
    { "payload changed", payload_changed, "payload-hash" },
};

static void shape_refuses(void **state)
{
    const struct shape_case *c = *state;
    struct scene x;

    scene_init(&x);
    assert_true(shape(&x));
    c->change(&x);
    assert_false(shape(&x));
    assert_int_equal(x.v.status, CS_RPC_INVALID_ARGUMENT);
    assert_string_equal(x.v.kind, c->kind);
    assert_true(strlen(x.v.reason) > 0);
    scene_fini(&x);
}

static void chunk_above_a_mebibyte(void **state)
{
    struct scene x;

    (void)state;
    scene_init(&x);
    x.b = maker_batch(&x.m, CS_RULES_MAX_CHUNK - CS_BATCH_SEAL_OVERHEAD, 1);
    assert_true(shape(&x));
    x.b = maker_batch(&x.m, CS_RULES_MAX_CHUNK - CS_BATCH_SEAL_OVERHEAD + 1, 1);
    assert_false(shape(&x));
    scene_fini(&x);
}

static void signatures(void **state)
{
    struct scene x;

    (void)state;
    scene_init(&x);
    assert_true(shape(&x));
    assert_true(cs_rules_signature(&x.batch, x.m.keys.sign.pk, &x.v));
    x.b->signature[10] ^= 1;
    assert_false(cs_rules_signature(&x.batch, x.m.keys.sign.pk, &x.v));
    assert_string_equal(x.v.kind, "signature");
    x.b->signature[10] ^= 1;
    x.b->header[130] ^= 1;
    assert_false(cs_rules_signature(&x.batch, x.m.keys.sign.pk, &x.v));
    scene_fini(&x);
}

/* Nothing in a request is without a check: whatever single bit is flipped, it is not accepted. */
static void every_bit_counts(void **state)
{
    struct scene x;
    uint8_t *bytes;
    size_t n;

    (void)state;
    scene_init(&x);
    x.b = maker_batch(&x.m, 100, 2);
    n = clawsync__v1__push_request__get_packed_size(&x.b->req);
    assert_non_null(bytes = malloc(n));
    clawsync__v1__push_request__pack(&x.b->req, bytes);
    for (size_t i = 0; i < n * 8; i++) {
        Clawsync__V1__PushRequest *req;

        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        x.v = (struct cs_verdict){ 0 };
        if ((req = clawsync__v1__push_request__unpack(NULL, n, bytes)) != NULL) {
            if (cs_rules_shape(&x.batch, req, &x.arena, &x.v) && cs_rules_signature(&x.batch, x.m.keys.sign.pk, &x.v))
                fail_msg("bit %zu of byte %zu does not matter", i % 8, i / 8);
            assert_int_equal(x.v.status, CS_RPC_INVALID_ARGUMENT);
            clawsync__v1__push_request__free_unpacked(req, NULL);
        }
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        cs_arena_reset(&x.arena);
    }
    free(bytes);
    scene_fini(&x);
}

/* ---- under the lock ---- */

static void nothing(struct scene *x)
{
    (void)x;
}
static void same_again(struct scene *x)
{
    x->s.last.number = 4;
    memcpy(x->stored, x->b->hash, 32);
    x->s.stored_hash = x->stored;
}
static void same_again_though_removed(struct scene *x)
{
    same_again(x);
    x->s.active = false;
}
static void another_under_its_number(struct scene *x)
{
    x->s.last.number = 4;
    x->s.stored_hash = x->other;
}
static void old_number(struct scene *x)
{
    x->s.last.number = 100;
    x->s.stored_hash = x->other;
}
static void removed(struct scene *x)
{
    x->s.active = false;
    x->b->h.number = 9; /* first failure answers */
}
static void gap(struct scene *x)
{
    x->b->h.number = 5;
    x->b->h.epoch = 2;
}
static void wrong_prev(struct scene *x)
{
    x->b->h.prev[0] ^= 1;
}
static void first_with_prev(struct scene *x)
{
    x->s.last = (struct cs_store_device){ 0 };
    x->b->h.number = 1;
}
static void older_epoch(struct scene *x)
{
    x->s.head.epoch = 2;
    x->s.head.member_seq = x->s.epoch_seq = 2;
    x->b->h.seen_log = 1;
}
static void newer_epoch(struct scene *x)
{
    x->b->h.epoch = 2;
}
static void before_the_epoch(struct scene *x)
{
    x->s.epoch_seq = 2;
    x->s.head.member_seq = 3;
}
static void beyond_the_entries(struct scene *x)
{
    x->b->h.member_seq = 2;
}
static void below_the_previous_one(struct scene *x)
{
    x->s.head.member_seq = 2;
    x->s.last.member_seq = 2;
}
static void another_log(struct scene *x)
{
    x->b->h.seen_log = 78;
}
static void from_the_future(struct scene *x)
{
    x->b->h.seen_number = 7;
}
static void far_behind(struct scene *x)
{
    x->s.head.number = 5 + CS_RULES_SEEN_WINDOW + 1;
}
static void just_not_too_far_behind(struct scene *x)
{
    x->s.head.number = 5 + CS_RULES_SEEN_WINDOW;
}
static void other_history(struct scene *x)
{
    x->s.seen_log_hash = x->other;
}
static void other_membership(struct scene *x)
{
    x->s.entry_hash = x->other;
}
static void other_digest(struct scene *x)
{
    x->b->h.seen[31] ^= 1;
}
static void clock_ahead(struct scene *x)
{
    x->b->h.top_stamp = (int64_t)(NOW_MS + 60000) * 65536 + 1;
}
static void clock_just_not_ahead(struct scene *x)
{
    x->b->h.top_stamp = (int64_t)(NOW_MS + 60000) * 65536;
}
static void ahead_but_so_is_the_log(struct scene *x)
{
    x->b->h.top_stamp = (int64_t)(NOW_MS + 90000) * 65536;
    x->s.head.top_stamp = x->b->h.top_stamp - x->b->h.nops;
}

static const struct judge_case {
    const char *name;
    void (*change)(struct scene *x);
    enum cs_judgement want;
    int status;
    const char *kind;
} judgements[] = {
    { "a good one", nothing, CS_ACCEPT, CS_RPC_OK, NULL },
    { "the same again", same_again, CS_ACCEPT_AGAIN, CS_RPC_OK, NULL },
    { "the same again of a removed device", same_again_though_removed, CS_ACCEPT_AGAIN, CS_RPC_OK, NULL },
    { "another under its number", another_under_its_number, CS_REFUSE_STORED, CS_RPC_ALREADY_EXISTS, "duplicate" },
    { "another under an old number", old_number, CS_REFUSE_STORED, CS_RPC_ALREADY_EXISTS, "duplicate" },
    { "removed device", removed, CS_REFUSE, CS_RPC_PERMISSION_DENIED, "revoked" },
    { "a gap", gap, CS_REFUSE_LAST, CS_RPC_ABORTED, "order" },
    { "wrong prev", wrong_prev, CS_REFUSE_LAST, CS_RPC_ABORTED, "order" },
    { "a first one with a prev", first_with_prev, CS_REFUSE_LAST, CS_RPC_ABORTED, "order" },
    { "an older epoch", older_epoch, CS_REFUSE, CS_RPC_FAILED_PRECONDITION, "stale-epoch" },
    { "a newer epoch", newer_epoch, CS_REFUSE, CS_RPC_FAILED_PRECONDITION, "stale-epoch" },
    { "membership before the epoch", before_the_epoch, CS_REFUSE, CS_RPC_FAILED_PRECONDITION, "stale-epoch" },
    { "membership that is not there", beyond_the_entries, CS_REFUSE, CS_RPC_FAILED_PRECONDITION, "stale-epoch" },
    { "membership goes back", below_the_previous_one, CS_REFUSE, CS_RPC_FAILED_PRECONDITION, "stale-epoch" },
    { "another log", another_log, CS_REFUSE, CS_RPC_FAILED_PRECONDITION, "stale-seen" },
    { "seen what is not there", from_the_future, CS_REFUSE, CS_RPC_FAILED_PRECONDITION, "stale-seen" },
    { "seen too far behind", far_behind, CS_REFUSE, CS_RPC_FAILED_PRECONDITION, "stale-seen" },
    { "seen just near enough", just_not_too_far_behind, CS_ACCEPT, CS_RPC_OK, NULL },
    { "seen another history", other_history, CS_REFUSE, CS_RPC_FAILED_PRECONDITION, "stale-seen" },
    { "seen another membership", other_membership, CS_REFUSE, CS_RPC_FAILED_PRECONDITION, "stale-seen" },
    { "wrong digest", other_digest, CS_REFUSE, CS_RPC_FAILED_PRECONDITION, "stale-seen" },
    { "clock ahead", clock_ahead, CS_REFUSE, CS_RPC_FAILED_PRECONDITION, "clock" },
    { "clock a minute ahead", clock_just_not_ahead, CS_ACCEPT, CS_RPC_OK, NULL },
    { "ahead, as the log is", ahead_but_so_is_the_log, CS_ACCEPT, CS_RPC_OK, NULL },
};

static void judge(void **state)
{
    const struct judge_case *c = *state;
    struct scene x;

    scene_init(&x);
    c->change(&x);
    made_seal(&x.m, x.b);
    if (x.s.stored_hash == x.stored)
        memcpy(x.stored, x.b->hash, 32);
    assert_true(shape(&x));
    assert_int_equal(cs_rules_judge(&x.batch, &x.s, &x.v), c->want);
    assert_int_equal(x.v.status, c->status);
    if (c->kind != NULL)
        assert_string_equal(x.v.kind, c->kind);
    scene_fini(&x);
}

/* The specification's own numbers (clock.hub_accepts of its vectors), and the ends of the range. */
static void clock_rule(void **state)
{
    static const struct {
        int64_t now_ms, accepted, highest;
        bool want;
    } cases[] = {
        { 1000, 0, 3997696000, true },
        { 1000, 0, 3997696001, false },
        { 1000, 6553534464, 6553534464 + CS_CLOCK_ROOM, true },
        { 1000, 6553534464, 6553534465 + CS_CLOCK_ROOM, false },
        { 1000, 3997696000 - CS_CLOCK_ROOM, 3997696000, true },
        { 1000, 3997696000 - CS_CLOCK_ROOM, 3997696001, false },
        { INT64_MAX, 0, INT64_MAX, true },
        { 0, INT64_MAX, INT64_MAX, true },
        { INT64_MIN, 0, CS_CLOCK_ROOM, true },
        { INT64_MIN, 0, CS_CLOCK_ROOM + 1, false },
        { (INT64_MAX >> 16) - 60000, 0, INT64_MAX, false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(cs_rules_clock(cases[i].now_ms, cases[i].accepted, cases[i].highest), cases[i].want);
}

int main(void)
{
    enum { NSHAPES = sizeof shapes / sizeof shapes[0], NJUDGE = sizeof judgements / sizeof judgements[0] };
    struct CMUnitTest t[NSHAPES + NJUDGE + 4] = { cmocka_unit_test(chunk_above_a_mebibyte),
                                                  cmocka_unit_test(signatures), cmocka_unit_test(clock_rule),
                                                  cmocka_unit_test(every_bit_counts) };
    size_t n = 4;

    for (size_t i = 0; i < NSHAPES; i++)
        t[n++] = (struct CMUnitTest){ .name = shapes[i].name,
                                      .test_func = shape_refuses,
                                      .initial_state = (void *)(uintptr_t)&shapes[i] };
    for (size_t i = 0; i < NJUDGE; i++)
        t[n++] = (struct CMUnitTest){ .name = judgements[i].name,
                                      .test_func = judge,
                                      .initial_state = (void *)(uintptr_t)&judgements[i] };
    return cmocka_run_group_tests_name("hub log rules", t, NULL, NULL);
}
