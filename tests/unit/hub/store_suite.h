/* The contract of hub/store.h and of the group commit on it, for any store: a test program says how to open one. */
#ifndef CS_TESTS_STORE_SUITE_H
#define CS_TESTS_STORE_SUITE_H

#include "unit/hub/batch_maker.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hub/commit.h"

/* A store under test. `fresh` makes an empty one at a new place, `open` opens the one at that place again. */
struct store_kind {
    void (*fresh)(char place[256]);
    int (*open)(struct cs_store *out, const char *place, struct cs_error *err);
    void (*destroy)(const char *place);
};
extern const struct store_kind store_under_test;

struct suite {
    char place[256];
    struct cs_store store;
    struct cs_sign_key key;
    struct cs_commit_env env;
    struct maker a, b;
    struct cs_arena arena;
};

static inline void suite_open(struct suite *s)
{
    struct cs_error err = { 0 };

    if (store_under_test.open(&s->store, s->place, &err) != CS_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(cs_members_new(&s->env.members, &err), CS_OK);
    s->env.world = cs_world_real();
    s->env.rng.world = s->env.world;
    s->env.key = &s->key;
    s->env.store = &s->store;
}

static inline void suite_close(struct suite *s)
{
    cs_members_free(s->env.members);
    s->env.members = NULL;
    cs_store_close(&s->store);
}

static int suite_setup(void **state)
{
    static const uint8_t seed[32] = { 1 };
    struct suite *s = calloc(1, sizeof *s);

    assert_non_null(s);
    maker_init(&s->a, 'w', 'a');
    maker_init(&s->b, 'w', 'b');
    cs_sign_key_from_seed(&s->key, seed);
    store_under_test.fresh(s->place);
    suite_open(s);
    *state = s;
    return 0;
}

static int suite_teardown(void **state)
{
    struct suite *s = *state;

    suite_close(s);
    store_under_test.destroy(s->place);
    maker_fini(&s->a);
    maker_fini(&s->b);
    cs_arena_free(&s->arena);
    free(s);
    return 0;
}

/* ---- the table by itself ---- */

static bool count_batch(void *arg, const struct cs_store_batch *b)
{
    (void)b;
    ++*(int *)arg;
    return true;
}

static bool same_head(const struct cs_store_head *a, const struct cs_store_head *b)
{
    return a->log_id == b->log_id && a->refilled == b->refilled && a->number == b->number &&
           a->top_stamp == b->top_stamp && a->member_seq == b->member_seq && a->epoch == b->epoch &&
           a->bytes == b->bytes && a->pruned == b->pruned && a->prune_to == b->prune_to && a->prune_ms == b->prune_ms &&
           memcmp(a->log_hash, b->log_hash, 32) == 0 && memcmp(a->entry_hash, b->entry_hash, 32) == 0;
}

static void rows(void **state)
{
    struct suite *s = *state;
    const struct cs_store_ops *ops = s->store.ops;
    struct cs_store_head head = { .log_id = UINT64_MAX,
                                  .top_stamp = INT64_MAX,
                                  .member_seq = UINT32_MAX,
                                  .epoch = 3,
                                  .bytes = 5000000000,
                                  .pruned = 6000000000,
                                  .prune_to = 7000000000,
                                  .prune_ms = 8000000000 };
    struct cs_store_head got;
    struct cs_store_device d = { .number = 9, .member_seq = 2, .seen_ms = 17 }, got_d;
    struct cs_store_batch b = { .number = 1,
                                .device = s->a.id,
                                .device_number = 9,
                                .header = cs_slice_str("header"),
                                .signature = cs_slice_str("signature"),
                                .payload_hashes = cs_slice_str("hashes") };
    struct cs_slice chunk = cs_slice_str("payload");
    struct cs_error err = { 0 };
    cs_store_tx *tx, *reader;
    uint8_t hash[32];
    int n = 0;

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, &s->a.workspace, 1, &tx, &err), CS_OK);
    assert_int_equal(ops->head(tx, &s->a.workspace, &got, &err), CS_ENOTFOUND);
    assert_int_equal(ops->device(tx, &s->a.workspace, &s->a.id, &got_d, &err), CS_ENOTFOUND);
    assert_int_equal(ops->put_head(tx, &s->a.workspace, &head, &err), CS_OK);
    assert_int_equal(ops->put_device(tx, &s->a.workspace, &s->a.id, &d, &err), CS_OK);
    assert_int_equal(ops->put_batch(tx, &s->a.workspace, &b, &chunk, 1, &err), CS_OK);
    assert_int_equal(ops->head(tx, &s->a.workspace, &got, &err), CS_OK); /* its own puts */
    assert_true(same_head(&got, &head));

    /* An open transaction is not seen by readers, and what is undone never was. */
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, &s->a.workspace, 1, &reader, &err), CS_OK);
    assert_int_equal(ops->head(reader, &s->a.workspace, &got, &err), CS_ENOTFOUND);
    cs_store_rollback(reader);
    assert_int_equal(ops->save(tx, &err), CS_OK);
    b.number = 2;
    b.device_number = 10;
    assert_int_equal(ops->put_batch(tx, &s->a.workspace, &b, &chunk, 1, &err), CS_OK);
    head.number = 2;
    assert_int_equal(ops->put_head(tx, &s->a.workspace, &head, &err), CS_OK);
    assert_int_equal(ops->undo(tx, &err), CS_OK);
    head.number = 0;
    assert_int_equal(ops->save(tx, &err), CS_OK);
    assert_int_equal(ops->put_entry(tx, &s->a.workspace, 1, hash, cs_slice_str("entry"), &err), CS_OK);
    assert_int_equal(ops->keep(tx, &err), CS_OK);
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, &s->a.workspace, 1, &tx, &err), CS_OK);
    assert_int_equal(ops->head(tx, &s->a.workspace, &got, &err), CS_OK);
    assert_true(same_head(&got, &head));
    assert_int_equal(ops->device(tx, &s->a.workspace, &s->a.id, &got_d, &err), CS_OK);
    assert_true(got_d.number == d.number && got_d.member_seq == d.member_seq && got_d.seen_ms == d.seen_ms);
    assert_memory_equal(got_d.hash, d.hash, 32);
    assert_int_equal(ops->batches(tx, &s->a.workspace, 1, 100, count_batch, &n, &err), CS_OK);
    assert_int_equal(n, 1);
    assert_int_equal(ops->batches(tx, &s->b.id, 1, 100, count_batch, &n, &err), CS_OK); /* another workspace */
    assert_int_equal(n, 1);
    assert_int_equal(ops->device_batch(tx, &s->a.workspace, &s->a.id, 10, count_batch, &n, &err), CS_ENOTFOUND);
    assert_int_equal(ops->log_hash(tx, &s->a.workspace, 2, hash, &err), CS_ENOTFOUND);
    assert_int_equal(ops->entry_hash(tx, &s->a.workspace, 1, hash, &err), CS_OK);
    cs_store_rollback(tx);
}

/* The same number of a device, or of the log, is refused when it is put or when it is committed; the transaction is
 * lost by then, or goes on without it. */
static void rows_that_are_there_already(void **state)
{
    struct suite *s = *state;
    struct cs_slice chunk = cs_slice_str("payload");
    struct cs_error err = { 0 };
    uint8_t hash[32] = { 0 };
    cs_store_tx *tx;
    int n = 0;

    for (uint64_t i = 0; i < 4; i++) {
        struct cs_store_batch b = { .number = i == 1 ? 1 : i + 1,
                                    .device = s->a.id,
                                    .device_number = i == 2 ? 1 : i + 1 };
        int rc;

        assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, &s->a.workspace, 1, &tx, &err), CS_OK);
        rc = i == 3 ? tx->ops->put_entry(tx, &s->a.workspace, 1, hash, cs_slice_str("other"), &err)
                    : tx->ops->put_batch(tx, &s->a.workspace, &b, &chunk, 1, &err);
        if (rc == CS_OK && i == 0)
            rc = tx->ops->put_entry(tx, &s->a.workspace, 1, hash, cs_slice_str("entry"), &err);
        if (rc == CS_OK)
            rc = cs_store_commit(tx, &err);
        else
            cs_store_rollback(tx);
        assert_int_equal(rc, i == 0 ? CS_OK : CS_EEXIST);
    }
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, &s->a.workspace, 1, &tx, &err), CS_OK);
    assert_int_equal(tx->ops->batches(tx, &s->a.workspace, 1, 100, count_batch, &n, &err), CS_OK);
    assert_int_equal(n, 1);
    cs_store_rollback(tx);
}

struct seen_offers {
    size_t n;
    int64_t made_ms[4];
    char text[4][64];
};

static bool see_offer(void *arg, const struct cs_store_offer *o)
{
    struct seen_offers *seen = arg;

    seen->made_ms[seen->n] = o->made_ms;
    snprintf(seen->text[seen->n++], sizeof seen->text[0], "%02x %.*s|%.*s|%.*s|%.*s", o->device.b[0], (int)o->offer.len,
             o->offer.data == NULL ? "" : (const char *)o->offer.data, (int)o->answer.len,
             o->answer.data == NULL ? "" : (const char *)o->answer.data, (int)o->reveal.len,
             o->reveal.data == NULL ? "" : (const char *)o->reveal.data, (int)o->done.len,
             o->done.data == NULL ? "" : (const char *)o->done.data);
    return seen->n < 4;
}

struct places {
    uint64_t at[700]; /* number * 1000 + seq */
    size_t n, want;
};

static bool note_place(void *arg, uint64_t number, uint32_t seq, struct cs_slice payload)
{
    struct places *p = arg;

    assert_int_equal(payload.data[0], number % 251);
    p->at[p->n++] = number * 1000 + seq;
    return p->n != p->want;
}

/* Chunks of many batches in one read: from the middle of one, up to a number, at most so many. */
static void chunks_of_many_batches(void **state)
{
    struct suite *s = *state;
    const struct cs_store_ops *ops = s->store.ops;
    struct cs_uuid both[2] = { s->a.workspace, s->a.workspace };
    struct cs_error err = { 0 };
    struct places p = { .want = 0 };
    cs_store_tx *tx;

    both[1].b[0]++;
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, both, 2, &tx, &err), CS_OK);
    for (uint64_t n = 1; n <= 300; n++) {
        uint8_t byte = (uint8_t)(n % 251);
        struct cs_slice two[2] = { cs_slice(&byte, 1), cs_slice(&byte, 1) };
        struct cs_store_batch b = { .number = n,
                                    .device = s->a.id,
                                    .device_number = n,
                                    .header = cs_slice_str("header"),
                                    .signature = cs_slice_str("signature"),
                                    .payload_hashes = cs_slice_str("hashes") };

        for (int i = 0; i < 2; i++)
            assert_int_equal(ops->put_batch(tx, &both[i], &b, two, 2, &err), CS_OK);
    }
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, both, 1, &tx, &err), CS_OK);
    assert_int_equal(ops->chunks(tx, both, 2, 1, 299, 9999, note_place, &p, &err), CS_OK);
    assert_int_equal(p.n, 2 * 298 - 1);
    for (size_t i = 0; i < p.n; i++)
        assert_int_equal(p.at[i], (i + 5) / 2 * 1000 + (i + 5) % 2);
    p = (struct places){ .want = 0 };
    assert_int_equal(ops->chunks(tx, both, 2, 1, 299, 300, note_place, &p, &err), CS_OK);
    assert_int_equal(p.n, 300);
    p = (struct places){ .want = 7 };
    assert_int_equal(ops->chunks(tx, both, 300, 0, 400, 300, note_place, &p, &err), CS_OK);
    assert_int_equal(p.n, 2);
    assert_int_equal(ops->chunks(tx, both, 1, 0, 300, 300, note_place, &p, &err), CS_OK);
    assert_int_equal(p.n, 7);
    cs_store_rollback(tx);
}

static void offers_come_and_go(void **state)
{
    struct suite *s = *state;
    struct cs_store_offer o = { .device = { { 1 } }, .made_ms = 1000, .offer = cs_slice_str("offer") };
    struct cs_uuid both[2] = { s->a.workspace, s->b.id };
    struct seen_offers seen = { 0 };
    struct cs_error err = { 0 };
    cs_store_tx *tx;

    if (cs_uuid_cmp(&both[0], &both[1]) > 0) {
        both[0] = s->b.id;
        both[1] = s->a.workspace;
    }
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, both, 2, &tx, &err), CS_OK);
    assert_int_equal(tx->ops->put_offer(tx, &s->a.workspace, &o, &err), CS_OK);
    o.answer = cs_slice_str("answer"); /* the same device's: in its place */
    assert_int_equal(tx->ops->put_offer(tx, &s->a.workspace, &o, &err), CS_OK);
    o.device.b[0] = 2;
    o.made_ms = 2000;
    o.reveal = cs_slice_str("reveal");
    o.done = cs_slice_str("done");
    assert_int_equal(tx->ops->put_offer(tx, &s->a.workspace, &o, &err), CS_OK);
    assert_int_equal(tx->ops->put_offer(tx, &s->b.id, &o, &err), CS_OK); /* another workspace */
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, both, 2, &tx, &err), CS_OK);
    assert_int_equal(tx->ops->offers(tx, &s->a.workspace, see_offer, &seen, &err), CS_OK);
    assert_int_equal(seen.n, 2);
    assert_string_equal(seen.text[0], "01 offer|answer||");
    assert_string_equal(seen.text[1], "02 offer|answer|reveal|done");
    assert_true(seen.made_ms[0] == 1000 && seen.made_ms[1] == 2000);
    assert_int_equal(tx->ops->drop_offers(tx, &s->a.workspace, 2000, &err), CS_OK);
    seen.n = 0;
    assert_int_equal(tx->ops->offers(tx, &s->a.workspace, see_offer, &seen, &err), CS_OK);
    assert_int_equal(seen.n, 1);
    assert_int_equal(seen.made_ms[0], 2000);
    assert_int_equal(tx->ops->drop_offers(tx, &s->a.workspace, INT64_MAX, &err), CS_OK);
    seen.n = 0;
    assert_int_equal(tx->ops->offers(tx, &s->b.id, see_offer, &seen, &err), CS_OK);
    assert_int_equal(seen.n, 1);
    cs_store_rollback(tx);
}

struct seen_states {
    size_t n, stop; /* stop: after so many; 0: never */
    uint32_t prefix, rows, epoch;
    char leaves[64];
    char proof[16];
    uint64_t given;
    uint8_t tag[16];
};
static bool see_bucket(void *arg, const struct cs_store_bucket *b)
{
    struct seen_states *seen = arg;

    seen->prefix = b->prefix;
    seen->rows = b->rows;
    snprintf(seen->leaves, sizeof seen->leaves, "%.*s", (int)b->leaves.len,
             b->leaves.len == 0 ? "" : (const char *)b->leaves.data);
    return ++seen->n != seen->stop;
}
static bool see_tag(void *arg, uint32_t epoch, const uint8_t tag[16])
{
    struct seen_states *seen = arg;

    seen->epoch = epoch;
    memcpy(seen->tag, tag, 16);
    return ++seen->n != seen->stop;
}
static bool see_proof(void *arg, const struct cs_store_proof *p)
{
    struct seen_states *seen = arg;

    snprintf(seen->proof, sizeof seen->proof, "%.*s", (int)p->proof.len, (const char *)p->proof.data);
    seen->given = p->given;
    return ++seen->n != seen->stop;
}

static void references_and_what_is_wanted(void **state)
{
    struct suite *s = *state;
    const struct cs_store_ops *ops = s->store.ops;
    const struct cs_uuid *ws = &s->a.workspace, other = { { 9 } };
    struct cs_store_reference r = { .log_id = UINT64_MAX,
                                    .number = 7,
                                    .epoch = 2,
                                    .device = s->a.id,
                                    .whole = true,
                                    .only_prove = true,
                                    .changed_ms = 17,
                                    .rows = 5,
                                    .given = 3 };
    struct cs_store_reference got;
    struct cs_store_bucket b = { .rows = 1, .leaves = cs_slice_str("leaves") };
    struct cs_store_proof p = {
        .device = s->a.id, .log_id = UINT64_MAX, .number = 7, .given = 3, .proof = cs_slice_str("one")
    };
    struct cs_error err = { 0 };
    struct seen_states seen = { 0 };
    static const uint8_t tags[3][16] = { { 1 }, { 2 }, { 3 } };
    cs_store_tx *tx;

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, ws, 1, &tx, &err), CS_OK);
    assert_int_equal(ops->reference(tx, ws, &got, &err), CS_ENOTFOUND);
    assert_int_equal(ops->put_reference(tx, ws, &r, &err), CS_OK);
    for (uint32_t i = 0; i < 5; i++) {
        b.prefix = i * 16383;
        b.sum[0] = (uint8_t)i;
        assert_int_equal(ops->put_bucket(tx, ws, &b, &err), CS_OK);
    }
    b.rows = 2; /* replaced, and gone */
    assert_int_equal(ops->put_bucket(tx, ws, &b, &err), CS_OK);
    b = (struct cs_store_bucket){ .prefix = 0 };
    assert_int_equal(ops->put_bucket(tx, ws, &b, &err), CS_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(ops->put_wanted(tx, ws, &s->a.id, 2, tags[i], &err), CS_OK);
    assert_int_equal(ops->put_wanted(tx, ws, &s->a.id, 4, tags[2], &err), CS_OK);
    assert_int_equal(ops->put_wanted(tx, ws, &s->b.id, 2, tags[0], &err), CS_OK);
    assert_int_equal(ops->put_proof(tx, ws, &p, &err), CS_OK);
    p.proof = cs_slice_str("two");
    p.given = 4;
    assert_int_equal(ops->put_proof(tx, ws, &p, &err), CS_OK);
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, ws, 1, &tx, &err), CS_OK);
    assert_int_equal(ops->reference(tx, ws, &got, &err), CS_OK);
    assert_true(got.log_id == r.log_id && got.number == 7 && got.epoch == 2 && got.whole && got.only_prove &&
                got.changed_ms == 17 && got.rows == 5 && got.given == 3 && cs_uuid_cmp(&got.device, &s->a.id) == 0);
    assert_int_equal(ops->bucket_sums(tx, ws, 0, 65535, see_bucket, &seen, &err), CS_OK);
    assert_int_equal(seen.n, 4);
    assert_int_equal(seen.prefix, 4 * 16383);
    assert_int_equal(seen.rows, 2);
    assert_string_equal(seen.leaves, "");
    seen = (struct seen_states){ .stop = 1 };
    assert_int_equal(ops->bucket_leaves(tx, ws, 16383, 65535, see_bucket, &seen, &err), CS_OK);
    assert_int_equal(seen.n, 1);
    assert_int_equal(seen.prefix, 16383);
    assert_string_equal(seen.leaves, "leaves");
    seen = (struct seen_states){ 0 };
    assert_int_equal(ops->wanted(tx, ws, &s->a.id, see_tag, &seen, &err), CS_OK);
    assert_int_equal(seen.n, 3);
    assert_int_equal(seen.epoch, 4);
    seen = (struct seen_states){ 0 };
    assert_int_equal(ops->proofs(tx, ws, see_proof, &seen, &err), CS_OK);
    assert_int_equal(seen.n, 1);
    assert_string_equal(seen.proof, "two");
    assert_int_equal(seen.given, 4);
    seen = (struct seen_states){ 0 }; /* nothing of it is another workspace's */
    assert_int_equal(ops->reference(tx, &other, &got, &err), CS_ENOTFOUND);
    assert_int_equal(ops->bucket_sums(tx, &other, 0, 65535, see_bucket, &seen, &err), CS_OK);
    assert_int_equal(ops->bucket_leaves(tx, &other, 0, 65535, see_bucket, &seen, &err), CS_OK);
    assert_int_equal(ops->wanted(tx, &other, &s->a.id, see_tag, &seen, &err), CS_OK);
    assert_int_equal(ops->proofs(tx, &other, see_proof, &seen, &err), CS_OK);
    assert_int_equal(seen.n, 0);
    cs_store_rollback(tx);

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, ws, 1, &tx, &err), CS_OK);
    assert_int_equal(ops->drop_wanted(tx, ws, &s->a.id, tags[0], &err), CS_OK);
    assert_int_equal(ops->wanted(tx, ws, &s->a.id, see_tag, &seen, &err), CS_OK);
    assert_int_equal(seen.n, 2);
    assert_int_equal(ops->drop_wanted(tx, ws, &s->a.id, NULL, &err), CS_OK);
    seen = (struct seen_states){ 0 };
    assert_int_equal(ops->wanted(tx, ws, &s->a.id, see_tag, &seen, &err), CS_OK);
    assert_int_equal(seen.n, 0);
    assert_int_equal(ops->wanted(tx, ws, &s->b.id, see_tag, &seen, &err), CS_OK);
    assert_int_equal(seen.n, 1);
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
}

static void rollback_leaves_nothing(void **state)
{
    struct suite *s = *state;
    struct cs_store_head head = { .log_id = 1 };
    struct cs_error err = { 0 };
    cs_store_tx *tx;

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, &s->a.workspace, 1, &tx, &err), CS_OK);
    assert_int_equal(tx->ops->put_head(tx, &s->a.workspace, &head, &err), CS_OK);
    cs_store_rollback(tx);
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, &s->a.workspace, 1, &tx, &err), CS_OK);
    assert_int_equal(tx->ops->head(tx, &s->a.workspace, &head, &err), CS_ENOTFOUND);
    cs_store_rollback(tx);
}

/* A reader's transaction shows one state, whatever is committed meanwhile. */
static void readers_see_one_state(void **state)
{
    struct suite *s = *state;
    struct cs_store_head head = { .log_id = 1, .number = 1 };
    struct cs_error err = { 0 };
    cs_store_tx *tx, *reader;

    for (uint64_t i = 1; i <= 2; i++) {
        head.number = i;
        if (i == 2) {
            assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, &s->a.workspace, 1, &reader, &err), CS_OK);
            assert_int_equal(reader->ops->head(reader, &s->a.workspace, &head, &err), CS_OK);
            head.number = 2;
        }
        assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, &s->a.workspace, 1, &tx, &err), CS_OK);
        assert_int_equal(tx->ops->put_head(tx, &s->a.workspace, &head, &err), CS_OK);
        assert_int_equal(cs_store_commit(tx, &err), CS_OK);
    }
    assert_int_equal(reader->ops->head(reader, &s->a.workspace, &head, &err), CS_OK);
    assert_int_equal(head.number, 1);
    cs_store_rollback(reader);
}

/* ---- the group commit on it ---- */

static struct cs_write *batch_write_of(struct suite *s, struct made *b)
{
    struct cs_write *w = cs_arena_zalloc(&s->arena, 1, sizeof *w);
    struct cs_batch *batch = cs_arena_zalloc(&s->arena, 1, sizeof *batch);

    assert_true(w != NULL && batch != NULL);
    assert_true(cs_rules_shape(batch, &b->req, &s->arena, &w->verdict));
    w->kind = CS_WRITE_BATCH;
    w->workspace = batch->h.workspace;
    w->batch = batch;
    return w;
}

static struct cs_write *entry_write_of(struct suite *s, const struct maker *m, const struct cs_buf *entry, bool create)
{
    struct cs_write *w = cs_arena_zalloc(&s->arena, 1, sizeof *w);

    assert_non_null(w);
    w->kind = CS_WRITE_ENTRY;
    w->workspace = m->workspace;
    w->entry = cs_arena_copy(&s->arena, cs_buf_slice(entry));
    w->may_create = create;
    return w;
}

static void commit(struct suite *s, struct cs_write **w, size_t n)
{
    struct cs_write *copy[64];

    assert_true(n <= 64);
    memcpy(copy, w, n * sizeof *w); /* the commit sorts them */
    cs_commit_group(&s->env, copy, n);
}

static void saw_head(struct maker *m, const struct cs_write *w)
{
    m->log_id = w->head.head.log_id;
    m->seen_number = w->head.head.number;
    memcpy(m->seen_log_hash, w->head.head.log_hash, 32);
}

static void found(struct suite *s, struct maker *m)
{
    struct cs_buf genesis = { 0 };
    struct cs_write *w;

    maker_genesis(m, &genesis);
    maker_learn(m, cs_buf_slice(&genesis));
    w = entry_write_of(s, m, &genesis, true);
    commit(s, &w, 1);
    assert_int_equal(w->verdict.status, CS_RPC_OK);
    assert_true(w->changed && w->has_head && w->head.head.log_id != 0);
    saw_head(m, w);
    cs_buf_free(&genesis);
}

struct log_check {
    uint64_t next;
    uint8_t log_hash[32];
};
static bool check_row(void *arg, const struct cs_store_batch *b)
{
    struct log_check *c = arg;

    assert_int_equal(b->number, c->next);
    cs_log_next(c->log_hash, b->number, b->hash, c->log_hash);
    assert_memory_equal(c->log_hash, b->log_hash, 32);
    c->next++;
    return true;
}

static void count_chunk_check(const struct cs_store_ops *ops, cs_store_tx *tx, const struct cs_uuid *ws, uint64_t n);

/* The log from end to end: no gap, right chain, head at its end, chunks there. Returns how many. */
static uint64_t log_checked(struct suite *s, const struct cs_uuid *ws)
{
    struct log_check c = { .next = 1 };
    struct cs_store_head head;
    struct cs_error err = { 0 };
    cs_store_tx *tx;

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, ws, 1, &tx, &err), CS_OK);
    assert_int_equal(tx->ops->head(tx, ws, &head, &err), CS_OK);
    cs_log_start(ws, head.log_id, head.refilled, c.log_hash);
    assert_int_equal(tx->ops->batches(tx, ws, 1, UINT32_MAX, check_row, &c, &err), CS_OK);
    assert_int_equal(head.number, c.next - 1);
    assert_memory_equal(head.log_hash, c.log_hash, 32);
    for (uint64_t n = 1; n < c.next; n++)
        count_chunk_check(tx->ops, tx, ws, n);
    cs_store_rollback(tx);
    return head.number;
}

static bool count_chunk(void *arg, uint64_t number, uint32_t seq, struct cs_slice payload)
{
    assert_true(number > 0);
    assert_int_equal(seq, *(uint32_t *)arg);
    assert_true(payload.len > 0);
    ++*(uint32_t *)arg;
    return true;
}
static void count_chunk_check(const struct cs_store_ops *ops, cs_store_tx *tx, const struct cs_uuid *ws, uint64_t n)
{
    struct cs_error err = { 0 };
    uint32_t chunks = 0;

    assert_int_equal(ops->chunks(tx, ws, n, 0, n, 9999, count_chunk, &chunks, &err), CS_OK);
    assert_true(chunks > 0);
}

/* One group with good, doubled, wrong and late writes of two workspaces: each has its own fate, numbers have no gap. */
static void a_mixed_group(void **state)
{
    struct suite *s = *state;
    struct made *a1, *a2, *a3, *fork, *x1;
    struct cs_write *w[7];
    struct maker x;

    maker_init(&x, 'x', 'a');
    found(s, &s->a);
    found(s, &x);
    a1 = maker_batch(&s->a, 10, 1);
    fork = maker_batch(&s->a, 11, 1);
    maker_commit(&s->a, a1);
    a2 = maker_batch(&s->a, 20, 2);
    maker_commit(&s->a, a2);
    a3 = maker_batch(&s->a, 30, 3);
    x1 = maker_batch(&x, 40, 1);
    w[0] = batch_write_of(s, x1);
    w[1] = batch_write_of(s, a1);
    w[2] = batch_write_of(s, a3); /* too early */
    w[3] = batch_write_of(s, a1); /* doubled within the group */
    w[4] = batch_write_of(s, fork);
    w[5] = batch_write_of(s, a2);
    w[6] = batch_write_of(s, x1);
    commit(s, w, 7);
    assert_int_equal(w[0]->verdict.status, CS_RPC_OK);
    assert_int_equal(w[0]->log_number, 1);
    assert_int_equal(w[1]->log_number, 1);
    assert_int_equal(w[2]->verdict.status, CS_RPC_ABORTED);
    assert_int_equal(w[2]->log_number, 1); /* the device's last, then */
    assert_memory_equal(w[2]->stored.data, a1->header, CS_BATCH_HEADER_LEN);
    assert_int_equal(w[3]->verdict.status, CS_RPC_OK);
    assert_int_equal(w[3]->log_number, 1);
    assert_false(w[3]->changed);
    assert_int_equal(w[4]->verdict.status, CS_RPC_ALREADY_EXISTS);
    assert_memory_equal(w[4]->stored.data, a1->header, CS_BATCH_HEADER_LEN);
    assert_int_equal(w[5]->verdict.status, CS_RPC_OK);
    assert_int_equal(w[5]->log_number, 2);
    assert_int_equal(w[6]->verdict.status, CS_RPC_OK);
    assert_int_equal(w[1]->head.head.number, 2); /* one head for all of a workspace */
    assert_int_equal(w[0]->head.head.number, 1);
    assert_true(cs_hub_head_verify(s->key.pk, &x.workspace, cs_slice(w[6]->head.bytes, CS_HUB_HEAD_LEN),
                                   cs_slice(w[6]->head.signature, 64)));
    for (size_t i = 0; i < 7; i++)
        cs_buf_free(&w[i]->stored);
    assert_int_equal(log_checked(s, &s->a.workspace), 2);
    assert_int_equal(log_checked(s, &x.workspace), 1);
    maker_fini(&x);
}

/* The store with a fault: putting a batch of this device loses the whole transaction, as a full disk may. */
static struct {
    struct cs_store_ops ops;
    const struct cs_store *store;
    struct cs_uuid device;
    bool lost;
} faulty;
static int faulty_begin(void *self, enum cs_store_mode mode, const struct cs_uuid *ws, size_t n, cs_store_tx **out,
                        struct cs_error *err)
{
    int rc = cs_store_begin(faulty.store, mode, ws, n, out, err);

    (void)self;
    faulty.lost = false;
    if (rc == CS_OK)
        (*out)->ops = &faulty.ops;
    return rc;
}
static int faulty_put_batch(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_batch *b,
                            const struct cs_slice *chunks, size_t nchunks, struct cs_error *err)
{
    if (cs_uuid_cmp(&b->device, &faulty.device) == 0)
        faulty.lost = true;
    if (faulty.lost)
        return cs_fail(err, CS_EIO, "disk full");
    return faulty.store->ops->put_batch(tx, ws, b, chunks, nchunks, err);
}
static int faulty_commit(cs_store_tx *tx, struct cs_error *err)
{
    tx->ops = faulty.store->ops;
    if (!faulty.lost)
        return faulty.store->ops->commit(tx, err);
    faulty.store->ops->rollback(tx);
    return cs_fail(err, CS_EIO, "the transaction was lost");
}

static void a_lost_group(void **state)
{
    struct suite *s = *state;
    struct cs_store broken = { &faulty.ops, NULL };
    struct cs_buf add = { 0 };
    struct made *a1, *a2;
    struct cs_write *w[3], *entry;

    found(s, &s->a);
    maker_add(&s->b, &s->a, &add);
    maker_learn(&s->a, cs_buf_slice(&add));
    entry = entry_write_of(s, &s->a, &add, false);
    commit(s, &entry, 1);
    s->b.members = (struct cs_membership){ .seq = 2, .epoch = 1 };
    memcpy(s->b.members.head, s->a.members.head, 32);
    s->b.log_id = s->a.log_id;
    memcpy(s->b.seen_log_hash, s->a.seen_log_hash, 32);
    a1 = maker_batch(&s->a, 10, 1);
    maker_commit(&s->a, a1);
    a2 = maker_batch(&s->a, 10, 1);
    w[0] = batch_write_of(s, a1);
    w[1] = batch_write_of(s, maker_batch(&s->b, 10, 1));
    w[2] = batch_write_of(s, a2);
    faulty.ops = *s->store.ops;
    faulty.ops.begin = faulty_begin;
    faulty.ops.put_batch = faulty_put_batch;
    faulty.ops.commit = faulty_commit;
    faulty.store = &s->store;
    faulty.device = s->b.id;
    s->env.store = &broken;
    commit(s, w, 3);
    s->env.store = &s->store;
    assert_int_equal(w[0]->verdict.status, CS_RPC_OK);
    assert_int_equal(w[1]->verdict.status, CS_RPC_UNAVAILABLE);
    assert_string_equal(w[1]->verdict.kind, "storage");
    assert_int_equal(w[2]->verdict.status, CS_RPC_OK);
    assert_int_equal(w[2]->log_number, 2);
    assert_int_equal(log_checked(s, &s->a.workspace), 2);
    w[1]->verdict = (struct cs_verdict){ 0 };
    commit(s, &w[1], 1);
    assert_int_equal(w[1]->verdict.status, CS_RPC_OK);
    assert_int_equal(log_checked(s, &s->a.workspace), 3);
    cs_buf_free(&add);
}

/* Appends that race for one place: one wins, whichever group they are in; a used place answers the very same entry. */
static void entries_race(void **state)
{
    struct suite *s = *state;
    struct cs_buf mine = { 0 }, theirs = { 0 };
    struct cs_write *w[4];
    struct made *batch;
    struct maker c;

    found(s, &s->a);
    maker_init(&c, 'w', 'c');
    maker_add(&s->b, &s->a, &mine);
    maker_add(&c, &s->a, &theirs);
    batch = maker_batch(&s->a, 5, 1); /* bound before: cites entry 1, which is fine as the epoch is the same */
    w[0] = entry_write_of(s, &s->a, &mine, false);
    w[1] = entry_write_of(s, &s->a, &theirs, false);
    w[2] = entry_write_of(s, &s->a, &mine, false);
    w[3] = batch_write_of(s, batch);
    commit(s, w, 4);
    assert_int_equal(w[0]->verdict.status, CS_RPC_OK);
    assert_int_equal(w[1]->verdict.status, CS_RPC_ABORTED);
    assert_int_equal(w[2]->verdict.status, CS_RPC_OK);
    assert_int_equal(w[3]->verdict.status, CS_RPC_OK);
    assert_int_equal(w[1]->head.head.member_seq, 2);
    w[1]->verdict = (struct cs_verdict){ 0 };
    commit(s, &w[1], 1);
    assert_int_equal(w[1]->verdict.status, CS_RPC_ABORTED);
    w[0] = entry_write_of(s, &s->a, &theirs, true);
    w[0]->workspace.b[0] ^= 1; /* no such workspace, and no genesis */
    commit(s, w, 1);
    assert_int_equal(w[0]->verdict.status, CS_RPC_UNAUTHENTICATED);
    cs_buf_free(&mine);
    cs_buf_free(&theirs);
    maker_fini(&c);
}

/* A store that fails in the midst of an entry, and cannot even take back what it has of it. */
static struct cs_store_ops failing_ops;
static const struct cs_store_ops *real_ops, *real_tx_ops;

static int failing_begin(void *self, enum cs_store_mode mode, const struct cs_uuid *ids, size_t n, cs_store_tx **out,
                         struct cs_error *err)
{
    int rc = real_ops->begin(self, mode, ids, n, out, err);

    if (rc == CS_OK)
        (*out)->ops = &failing_ops;
    return rc;
}

static int failing_put_entry(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t seq, const uint8_t hash[32],
                             struct cs_slice entry, struct cs_error *err)
{
    assert_int_equal(real_ops->put_entry(tx, ws, seq, hash, entry, err), CS_OK);
    return cs_fail(err, CS_ENOMEM, "no memory for the rest");
}

static void failing_rollback(cs_store_tx *tx)
{
    tx->ops = real_tx_ops; /* a store may use it again */
    tx->ops->rollback(tx);
}

static int failing_undo(cs_store_tx *tx, struct cs_error *err)
{
    (void)tx;
    return cs_fail(err, CS_ENOMEM, "no memory to go back");
}

static void no_part_of_a_write_is_committed(void **state)
{
    struct suite *s = *state;
    struct cs_store_tx *tx;
    struct cs_buf entry = { 0 };
    struct cs_error err = { 0 };
    struct cs_write *w;
    struct maker b;

    found(s, &s->a);
    maker_init(&b, 'w', 'f');
    maker_add(&b, &s->a, &entry);
    w = entry_write_of(s, &s->a, &entry, false);
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, &s->a.workspace, 1, &tx, &err), CS_OK);
    real_ops = s->store.ops;
    real_tx_ops = tx->ops;
    failing_ops = *tx->ops;
    cs_store_rollback(tx);
    failing_ops.begin = failing_begin;
    failing_ops.put_entry = failing_put_entry;
    failing_ops.undo = failing_undo;
    failing_ops.rollback = failing_rollback;
    s->store.ops = &failing_ops;
    commit(s, &w, 1);
    s->store.ops = real_ops;
    assert_int_equal(w->verdict.status, CS_RPC_UNAVAILABLE);
    assert_false(w->changed);
    w = entry_write_of(s, &s->a, &entry, false);
    commit(s, &w, 1);
    assert_int_equal(w->verdict.status, CS_RPC_OK);
    assert_int_equal(w->head.head.member_seq, 2);
    cs_buf_free(&entry);
    maker_fini(&b);
}

/* Groups from several threads: the store lets one at a time through, and everything ends up in line. */
enum { RACERS = 4, RACES = 40 };
struct racer {
    struct suite *s;
    struct maker m;
    struct cs_arena arena;
};
static void *race(void *arg)
{
    struct racer *r = arg;

    for (int i = 0; i < RACES; i++) {
        struct made *b = maker_batch(&r->m, 100, 1);
        struct cs_batch batch;
        struct cs_write w = { .kind = CS_WRITE_BATCH, .workspace = r->m.workspace, .batch = &batch };
        struct cs_write *group = &w;

        if (!cs_rules_shape(&batch, &b->req, &r->arena, &w.verdict))
            return NULL;
        cs_commit_group(&r->s->env, &group, 1);
        cs_buf_free(&w.stored);
        if (w.verdict.status != CS_RPC_OK)
            return NULL;
        maker_commit(&r->m, b);
    }
    return r;
}

static void commits_from_threads(void **state)
{
    struct suite *s = *state;
    struct racer r[RACERS];
    pthread_t thread[RACERS];

    found(s, &s->a);
    for (size_t i = 0; i < RACERS; i++) {
        struct cs_buf add = { 0 };
        struct cs_write *w;

        r[i] = (struct racer){ .s = s };
        maker_init(&r[i].m, 'w', (uint8_t)('1' + i));
        maker_add(&r[i].m, &s->a, &add);
        maker_learn(&s->a, cs_buf_slice(&add));
        w = entry_write_of(s, &s->a, &add, false);
        commit(s, &w, 1);
        assert_int_equal(w->verdict.status, CS_RPC_OK);
        cs_buf_free(&add);
    }
    for (size_t i = 0; i < RACERS; i++) {
        /* All a batch says of the membership is its head. */
        r[i].m.members = (struct cs_membership){ .seq = s->a.members.seq, .epoch = s->a.members.epoch };
        memcpy(r[i].m.members.head, s->a.members.head, 32);
        r[i].m.log_id = s->a.log_id;
        memcpy(r[i].m.seen_log_hash, s->a.seen_log_hash, 32);
    }
    for (size_t i = 0; i < RACERS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, race, &r[i]), 0);
    for (size_t i = 0; i < RACERS; i++) {
        void *won;

        pthread_join(thread[i], &won);
        assert_non_null(won);
        maker_fini(&r[i].m);
        cs_arena_free(&r[i].arena);
    }
    assert_int_equal(log_checked(s, &s->a.workspace), RACERS * RACES);
}

/* A process that writes is killed somewhere; what it had confirmed is there afterwards, and the log is whole. */
static void killed_while_writing(void **state)
{
    struct suite *s = *state;
    uint64_t confirmed = 0, n;
    int fd[2];

    found(s, &s->a);
    for (int round = 0; round < 5; round++) {
        uint64_t got = 0;
        pid_t child;
        ssize_t len;

        suite_close(s);
        assert_int_equal(pipe(fd), 0);
        if ((child = fork()) == 0) {
            close(fd[0]);
            suite_open(s);
            for (;;) {
                struct made *b = maker_batch(&s->a, 3000, 2);
                struct cs_write *w = batch_write_of(s, b);

                commit(s, &w, 1);
                maker_commit(&s->a, b);
                if (w->verdict.status != CS_RPC_OK || write(fd[1], &w->log_number, sizeof w->log_number) < 0)
                    _exit(1);
            }
        }
        close(fd[1]);
        while (got < 3 + (uint64_t)round * 7 && (len = read(fd[0], &n, sizeof n)) == sizeof n) {
            confirmed = n;
            got++;
        }
        kill(child, SIGKILL);
        while ((len = read(fd[0], &n, sizeof n)) == sizeof n)
            confirmed = n;
        close(fd[0]);
        waitpid(child, NULL, 0);
        suite_open(s);
        n = log_checked(s, &s->a.workspace);
        assert_true(n == confirmed || n == confirmed + 1);
        /* The next child goes on from what is stored: this process's maker did not follow the last one's. */
        {
            struct cs_store_device d;
            struct cs_error err = { 0 };
            cs_store_tx *tx;

            assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, &s->a.workspace, 1, &tx, &err), CS_OK);
            assert_int_equal(tx->ops->device(tx, &s->a.workspace, &s->a.id, &d, &err), CS_OK);
            cs_store_rollback(tx);
            s->a.number = d.number;
            memcpy(s->a.prev, d.hash, 32);
        }
    }
    assert_true(confirmed >= 3 + 10 + 17 + 24 + 31);
}

struct listed {
    struct cs_uuid ws[4];
    struct cs_store_head head[4];
    size_t n, most;
};
static bool list_workspace(void *arg, const struct cs_uuid *ws, const struct cs_store_head *h)
{
    struct listed *l = arg;

    l->ws[l->n] = *ws;
    l->head[l->n] = *h;
    return ++l->n < l->most;
}

/* Whoever runs the hub sees all, in order, from wherever the last look ended. */
static void workspaces_are_listed(void **state)
{
    static const struct cs_uuid none, ws[3] = { { { 1 } }, { { 1, 1 } }, { { 0xff } } };
    struct suite *s = *state;
    const struct cs_store_ops *ops = s->store.ops;
    struct listed l = { .most = 4 };
    struct cs_error err = { 0 };
    cs_store_tx *tx;

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, ws, 3, &tx, &err), CS_OK);
    for (uint64_t i = 3; i-- > 0;) {
        struct cs_store_head head = { .log_id = i + 1, .number = i, .bytes = 100 * i };

        assert_int_equal(ops->put_head(tx, &ws[i], &head, &err), CS_OK);
    }
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, NULL, 0, &tx, &err), CS_OK);
    assert_int_equal(ops->workspaces(tx, &none, list_workspace, &l, &err), CS_OK);
    assert_int_equal(l.n, 3);
    for (uint64_t i = 0; i < 3; i++) {
        struct cs_store_head head = { .log_id = i + 1, .number = i, .bytes = 100 * i };

        assert_int_equal(cs_uuid_cmp(&l.ws[i], &ws[i]), 0);
        assert_true(same_head(&l.head[i], &head));
    }
    l = (struct listed){ .most = 1 };
    assert_int_equal(ops->workspaces(tx, &ws[0], list_workspace, &l, &err), CS_OK);
    assert_int_equal(l.n, 1);
    assert_int_equal(cs_uuid_cmp(&l.ws[0], &ws[1]), 0);
    l = (struct listed){ .most = 4 };
    assert_int_equal(ops->workspaces(tx, &ws[2], list_workspace, &l, &err), CS_OK);
    assert_int_equal(l.n, 0);
    cs_store_rollback(tx);
}

/* One workspace's log goes, with all of its ciphertext; its entries stay, and so does its neighbour's log. */
struct seen_parts {
    int n, stop;
    uint32_t part, seq;
    char payload[16], envelope[16];
};
static bool see_part(void *arg, const struct cs_store_part *p)
{
    struct seen_parts *s = arg;

    s->part = p->part;
    s->seq = p->seq;
    snprintf(s->payload, sizeof s->payload, "%.*s", (int)p->payload.len, (const char *)p->payload.data);
    snprintf(s->envelope, sizeof s->envelope, "%.*s", (int)p->envelope.len, (const char *)p->envelope.data);
    return ++s->n != s->stop;
}

struct seen_snapshots {
    int n;
    struct cs_store_snapshot last;
    char descriptor[16], attestation[16];
};
static bool see_snapshot(void *arg, const struct cs_store_snapshot *n)
{
    struct seen_snapshots *s = arg;

    s->n++;
    s->last = *n;
    snprintf(s->descriptor, sizeof s->descriptor, "%.*s", (int)n->descriptor.len, (const char *)n->descriptor.data);
    snprintf(s->attestation, sizeof s->attestation, "%.*s", (int)n->attestation.len, (const char *)n->attestation.data);
    return true;
}

static void snapshots_and_their_parts(void **state)
{
    struct suite *s = *state;
    const struct cs_store_ops *ops = s->store.ops;
    const struct cs_uuid *ws = &s->a.workspace, other = { { 9 } };
    struct cs_store_snapshot n = { .slot = 1,
                                   .state = CS_SNAPSHOT_GIVING,
                                   .log_id = UINT64_MAX,
                                   .number = 7,
                                   .device = s->a.id,
                                   .parts = 3,
                                   .digest = { 1, 2, 3 },
                                   .bytes = 5000000000,
                                   .changed_ms = 17 };
    struct seen_snapshots seen = { 0 };
    struct seen_parts parts = { 0 };
    struct cs_error err = { 0 };
    cs_store_tx *tx;

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, ws, 1, &tx, &err), CS_OK);
    assert_int_equal(ops->put_snapshot(tx, ws, &n, &err), CS_OK);
    n.state = CS_SNAPSHOT_SERVED;
    n.attester = s->b.id;
    n.descriptor = cs_slice_str("described");
    n.attestation = cs_slice_str("attested");
    assert_int_equal(ops->put_snapshot(tx, ws, &n, &err), CS_OK); /* replaces */
    for (uint32_t i = 0; i < 40; i++) {
        struct cs_store_part p = { .part = i / 2, .seq = i % 2, .payload = cs_slice_str("payload") };

        if (p.seq == 0)
            p.envelope = cs_slice_str("envelope");
        assert_int_equal(ops->put_snapshot_part(tx, ws, 1, &p, &err), CS_OK);
    }
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, ws, 1, &tx, &err), CS_OK);
    assert_int_equal(ops->snapshots(tx, ws, see_snapshot, &seen, &err), CS_OK);
    assert_int_equal(seen.n, 1);
    assert_true(seen.last.slot == 1 && seen.last.state == CS_SNAPSHOT_SERVED && seen.last.log_id == UINT64_MAX &&
                seen.last.number == 7 && seen.last.parts == 3 && seen.last.bytes == 5000000000 &&
                seen.last.changed_ms == 17 && seen.last.digest[2] == 3 &&
                cs_uuid_cmp(&seen.last.device, &s->a.id) == 0 && cs_uuid_cmp(&seen.last.attester, &s->b.id) == 0);
    assert_string_equal(seen.descriptor, "described");
    assert_string_equal(seen.attestation, "attested");
    assert_int_equal(ops->snapshot_parts(tx, ws, 1, 0, 0, see_part, &parts, &err), CS_OK);
    assert_int_equal(parts.n, 40);
    assert_true(parts.part == 19 && parts.seq == 1);
    assert_string_equal(parts.payload, "payload");
    assert_string_equal(parts.envelope, "");
    parts = (struct seen_parts){ .stop = 2 }; /* from a place on, as long as more is wanted */
    assert_int_equal(ops->snapshot_parts(tx, ws, 1, 18, 1, see_part, &parts, &err), CS_OK);
    assert_true(parts.n == 2 && parts.part == 19 && parts.seq == 0);
    assert_string_equal(parts.envelope, "envelope");
    parts = (struct seen_parts){ 0 }; /* of that slot and workspace alone */
    assert_int_equal(ops->snapshot_parts(tx, ws, 0, 0, 0, see_part, &parts, &err), CS_OK);
    assert_int_equal(ops->snapshot_parts(tx, &other, 1, 0, 0, see_part, &parts, &err), CS_OK);
    assert_int_equal(parts.n, 0);
    assert_int_equal(ops->drop_snapshot_parts(tx, ws, 1, 3, UINT32_MAX, &err), CS_OK);
    assert_int_equal(ops->snapshot_parts(tx, ws, 1, 0, 0, see_part, &parts, &err), CS_OK);
    assert_int_equal(parts.n, 6);
    assert_int_equal(ops->drop_log(tx, ws, &err), CS_OK); /* with the log they go */
    seen = (struct seen_snapshots){ 0 };
    parts = (struct seen_parts){ 0 };
    assert_int_equal(ops->snapshots(tx, ws, see_snapshot, &seen, &err), CS_OK);
    assert_int_equal(ops->snapshot_parts(tx, ws, 1, 0, 0, see_part, &parts, &err), CS_OK);
    assert_int_equal(seen.n + parts.n, 0);
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
}

static bool sum_pulled(void *arg, const struct cs_uuid *device, const struct cs_store_device *d)
{
    (void)device;
    *(uint64_t *)arg += d->pulled;
    return true;
}

static void a_log_is_pruned(void **state)
{
    struct suite *s = *state;
    const struct cs_store_ops *ops = s->store.ops;
    const struct cs_uuid *ws = &s->a.workspace;
    struct cs_store_device d = { .number = 1, .member_seq = 2, .seen_ms = 17, .pulled = 5 };
    struct cs_store_batch b = { .device = s->a.id,
                                .header = cs_slice_str("header"),
                                .signature = cs_slice_str("signature"),
                                .payload_hashes = cs_slice_str("hashes") };
    struct cs_slice chunks[2] = { cs_slice_str("one"), cs_slice_str("two") };
    struct cs_error err = { 0 };
    uint64_t bytes = 0, pulled = 0;
    cs_store_tx *tx;
    uint8_t hash[32];
    int n = 0, nchunks = 0;

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, ws, 1, &tx, &err), CS_OK);
    for (b.number = b.device_number = 1; b.number <= 9; b.number++, b.device_number++)
        assert_int_equal(ops->put_batch(tx, ws, &b, chunks, 2, &err), CS_OK);
    assert_int_equal(ops->put_device(tx, ws, &s->a.id, &d, &err), CS_OK);
    d.pulled = 8;
    assert_int_equal(ops->put_device(tx, ws, &s->b.id, &d, &err), CS_OK);
    assert_int_equal(ops->prune_log(tx, ws, 2, 4, &bytes, &err), CS_OK); /* also what this transaction put */
    assert_int_equal(bytes, 3 * 6);
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, ws, 1, &tx, &err), CS_OK);
    assert_int_equal(ops->prune_log(tx, ws, 1, 4, &bytes, &err), CS_OK);
    assert_int_equal(bytes, 6);
    assert_int_equal(ops->batches(tx, ws, 1, 99, count_batch, &n, &err), CS_OK);
    assert_int_equal(n, 5);
    assert_int_equal(ops->chunks(tx, ws, 4, 0, 4, 9, count_chunk, &nchunks, &err), CS_OK);
    assert_int_equal(nchunks, 0);
    assert_int_equal(ops->chunks(tx, ws, 5, 0, 5, 9, count_chunk, &nchunks, &err), CS_OK);
    assert_int_equal(nchunks, 2);
    assert_int_equal(ops->log_hash(tx, ws, 4, hash, &err), CS_ENOTFOUND);
    assert_int_equal(ops->log_hash(tx, ws, 5, hash, &err), CS_OK);
    assert_int_equal(ops->devices(tx, ws, sum_pulled, &pulled, &err), CS_OK);
    assert_int_equal(pulled, 13);
    assert_int_equal(ops->drop_log(tx, ws, &err), CS_OK);
    pulled = 0;
    assert_int_equal(ops->devices(tx, ws, sum_pulled, &pulled, &err), CS_OK);
    assert_int_equal(pulled, 0);
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
}

static void a_log_is_dropped(void **state)
{
    struct suite *s = *state;
    const struct cs_store_ops *ops = s->store.ops;
    struct cs_store_device d = { .number = 1, .member_seq = 2, .seen_ms = 17 }, got;
    struct cs_store_batch b = { .number = 1,
                                .device = s->a.id,
                                .device_number = 1,
                                .header = cs_slice_str("header"),
                                .signature = cs_slice_str("signature"),
                                .payload_hashes = cs_slice_str("hashes") };
    struct cs_slice chunks[2] = { cs_slice_str("one"), cs_slice_str("two") };
    struct cs_uuid both[2] = { s->a.workspace, s->a.workspace };
    struct cs_error err = { 0 };
    cs_store_tx *tx;
    uint8_t hash[32] = { 0 };

    both[1].b[0]++;
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, both, 2, &tx, &err), CS_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ops->put_batch(tx, &both[i], &b, chunks, 2, &err), CS_OK);
        assert_int_equal(ops->put_device(tx, &both[i], &s->a.id, &d, &err), CS_OK);
        assert_int_equal(ops->put_entry(tx, &both[i], 1, hash, cs_slice_str("entry"), &err), CS_OK);
    }
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, both, 1, &tx, &err), CS_OK);
    assert_int_equal(ops->drop_log(tx, &both[0], &err), CS_OK);
    assert_int_equal(ops->put_batch(tx, &both[0], &b, chunks, 1, &err), CS_OK); /* the numbers are free */
    assert_int_equal(ops->drop_log(tx, &both[0], &err), CS_OK);
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, both, 2, &tx, &err), CS_OK);
    for (int i = 0; i < 2; i++) {
        int n = 0, nchunks = 0;

        assert_int_equal(ops->batches(tx, &both[i], 1, 9, count_batch, &n, &err), CS_OK);
        assert_int_equal(ops->chunks(tx, &both[i], 1, 0, 1, 9, count_chunk, &nchunks, &err), CS_OK);
        assert_int_equal(n, i);
        assert_int_equal(nchunks, 2 * i);
        assert_int_equal(ops->device(tx, &both[i], &s->a.id, &got, &err), CS_OK);
        assert_int_equal(got.number, i);
        assert_int_equal(got.seen_ms, 17);
        assert_int_equal(ops->entry_hash(tx, &both[i], 1, hash, &err), CS_OK);
    }
    cs_store_rollback(tx);
}

/* ---- what was foreseen ---- */

static void device_put(struct suite *s, cs_store_tx *tx, const struct maker *m, uint64_t number)
{
    struct cs_store_device d = { .number = number, .seen_ms = 17 };
    struct cs_error err = { 0 };

    assert_int_equal(tx->ops->put_device(tx, &s->a.workspace, &m->id, &d, &err), CS_OK);
}

/* number 0: there is none. */
static void device_is(struct suite *s, cs_store_tx *tx, const struct maker *m, uint64_t number)
{
    struct cs_store_device d = { 0 };
    struct cs_error err = { 0 };

    assert_int_equal(tx->ops->device(tx, &s->a.workspace, &m->id, &d, &err), number == 0 ? CS_ENOTFOUND : CS_OK);
    assert_int_equal(d.number, number);
}

static void batch_put(struct suite *s, cs_store_tx *tx, uint64_t number, struct cs_slice payload)
{
    struct cs_store_batch b = { .number = number,
                                .device = s->a.id,
                                .device_number = number,
                                .header = cs_slice_str("header"),
                                .signature = cs_slice_str("signature"),
                                .payload_hashes = cs_slice_str("hashes") };
    struct cs_error err = { 0 };

    memset(b.log_hash, (int)number, sizeof b.log_hash);
    assert_int_equal(tx->ops->put_batch(tx, &s->a.workspace, &b, &payload, 1, &err), CS_OK);
}

static cs_store_tx *foresee(struct suite *s)
{
    struct cs_uuid none = { { 0 } }, ws = s->a.workspace;
    struct cs_store_need needs[] = {
        { CS_NEED_LOG_HASH, ws, none, 1 }, { CS_NEED_DEVICE, ws, s->b.id, 0 },   { CS_NEED_DEVICE, ws, s->a.id, 0 },
        { CS_NEED_LOG_HASH, ws, none, 7 }, { CS_NEED_ENTRY_HASH, ws, none, 1 },  { CS_NEED_DEVICE, ws, s->b.id, 0 },
        { CS_NEED_LOG_HASH, ws, none, 1 }, { CS_NEED_ENTRY_HASH, ws, none, 70 },
    };
    struct cs_error err = { 0 };
    cs_store_tx *tx;

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, &ws, 1, &tx, &err), CS_OK);
    if (cs_store_foresee(tx, needs, sizeof needs / sizeof needs[0], &err) != CS_OK)
        fail_msg("%s", err.msg);
    return tx;
}

static void foreseen_is_as_stored(struct suite *s)
{
    static const uint8_t ones[32] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                      1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    const struct cs_store_ops *ops = s->store.ops;
    struct cs_uuid ws = s->a.workspace;
    struct cs_error err = { 0 };
    cs_store_tx *tx = foresee(s);
    uint8_t hash[32];

    device_is(s, tx, &s->a, 3);
    device_is(s, tx, &s->b, 0);
    assert_int_equal(ops->log_hash(tx, &ws, 1, hash, &err), CS_OK);
    assert_memory_equal(hash, ones, sizeof hash);
    assert_int_equal(ops->log_hash(tx, &ws, 7, hash, &err), CS_ENOTFOUND);
    assert_int_equal(ops->entry_hash(tx, &ws, 70, hash, &err), CS_ENOTFOUND);
    assert_int_equal(ops->entry_hash(tx, &ws, 1, hash, &err), CS_OK);
    assert_int_equal(hash[0], 9);
    batch_put(s, tx, 7, cs_slice_str("payload")); /* it was not there, and is now */
    assert_int_equal(ops->log_hash(tx, &ws, 7, hash, &err), CS_OK);
    assert_int_equal(hash[0], 7);
    cs_store_rollback(tx);
}

/* A row that was undone gives way to another device's, and hides no earlier one. */
static void foreseen_and_undone(struct suite *s)
{
    const struct cs_store_ops *ops = s->store.ops;
    struct cs_error err = { 0 };
    cs_store_tx *tx = foresee(s);

    assert_int_equal(ops->save(tx, &err), CS_OK);
    device_put(s, tx, &s->b, 1);
    device_is(s, tx, &s->b, 1);
    assert_int_equal(ops->undo(tx, &err), CS_OK);
    device_is(s, tx, &s->b, 0);
    assert_int_equal(ops->save(tx, &err), CS_OK);
    device_put(s, tx, &s->a, 4);
    assert_int_equal(ops->keep(tx, &err), CS_OK);
    assert_int_equal(ops->save(tx, &err), CS_OK);
    device_put(s, tx, &s->a, 5);
    assert_int_equal(ops->undo(tx, &err), CS_OK);
    device_is(s, tx, &s->a, 4);
    assert_int_equal(ops->save(tx, &err), CS_OK);
    device_put(s, tx, &s->b, 6);
    assert_int_equal(ops->keep(tx, &err), CS_OK);
    device_is(s, tx, &s->a, 4);
    device_is(s, tx, &s->b, 6);
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
}

/* Much that waits is sent before the commit, behind a savepoint too. */
static void foreseen_and_sent(struct suite *s)
{
    const struct cs_store_ops *ops = s->store.ops;
    struct cs_uuid ws = s->a.workspace;
    uint8_t *much = calloc(1, 1200000);
    struct cs_error err = { 0 };
    cs_store_tx *tx = foresee(s);
    int n = 0;

    assert_non_null(much);
    device_is(s, tx, &s->a, 4);
    device_is(s, tx, &s->b, 6);
    device_put(s, tx, &s->a, 7);
    batch_put(s, tx, 2, cs_slice(much, 1200000));
    device_is(s, tx, &s->a, 7);
    device_put(s, tx, &s->a, 8);
    assert_int_equal(ops->save(tx, &err), CS_OK);
    device_put(s, tx, &s->a, 9);
    device_put(s, tx, &s->b, 10);
    assert_int_equal(ops->device_batch(tx, &ws, &s->a.id, 2, count_batch, &n, &err), CS_OK);
    device_is(s, tx, &s->a, 9);
    device_is(s, tx, &s->b, 10);
    assert_int_equal(ops->undo(tx, &err), CS_OK);
    device_is(s, tx, &s->a, 8);
    device_is(s, tx, &s->b, 6);
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
    free(much);
}

static void foreseen_rows(void **state)
{
    struct suite *s = *state;
    const struct cs_store_ops *ops = s->store.ops;
    struct cs_uuid ws = s->a.workspace;
    uint8_t hash[32] = { 9 };
    struct cs_error err = { 0 };
    cs_store_tx *tx;

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, &ws, 1, &tx, &err), CS_OK);
    device_put(s, tx, &s->a, 3);
    batch_put(s, tx, 1, cs_slice_str("payload"));
    assert_int_equal(ops->put_entry(tx, &ws, 1, hash, cs_slice_str("entry"), &err), CS_OK);
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
    foreseen_is_as_stored(s);
    foreseen_and_undone(s);
    foreseen_and_sent(s);
    tx = foresee(s);
    device_is(s, tx, &s->a, 8);
    device_is(s, tx, &s->b, 6);
    assert_int_equal(ops->drop_log(tx, &ws, &err), CS_OK);
    assert_int_equal(ops->log_hash(tx, &ws, 1, hash, &err), CS_ENOTFOUND);
    batch_put(s, tx, 1, cs_slice_str("another"));
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
    tx = foresee(s);
    assert_int_equal(ops->save(tx, &err), CS_OK);
    device_put(s, tx, &s->a, 1);
    assert_int_equal(ops->keep(tx, &err), CS_OK);
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, &ws, 1, &tx, &err), CS_OK);
    device_is(s, tx, &s->a, 1);
    cs_store_rollback(tx);
}

static inline int store_suite_run(const char *name)
{
#define SUITE(f) cmocka_unit_test_setup_teardown(f, suite_setup, suite_teardown)
    const struct CMUnitTest tests[] = { SUITE(rows),
                                        SUITE(rows_that_are_there_already),
                                        SUITE(foreseen_rows),
                                        SUITE(chunks_of_many_batches),
                                        SUITE(a_log_is_dropped),
                                        SUITE(offers_come_and_go),
                                        SUITE(references_and_what_is_wanted),
                                        SUITE(snapshots_and_their_parts),
                                        SUITE(a_log_is_pruned),
                                        SUITE(rollback_leaves_nothing),
                                        SUITE(readers_see_one_state),
                                        SUITE(workspaces_are_listed),
                                        SUITE(a_mixed_group),
                                        SUITE(a_lost_group),
                                        SUITE(entries_race),
                                        SUITE(no_part_of_a_write_is_committed),
                                        SUITE(commits_from_threads),
                                        SUITE(killed_while_writing) };

    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

#endif
