/* Reconcile and ReconcileRanges over real connections: who gives, who compares, with what, and what is refused. */
#include "unit/hub/service_scene.h"

#include <sqlite3.h>

#include "crypto/entity_set.h"

#define ACTION(name) CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_##name
enum { MANY = 300 };

/* A device's state as it would be at a number of the log. */
struct state {
    struct maker *m;
    uint64_t log_id, number;
    uint32_t epoch;
    struct cs_buf leaves; /* ascending */
};

static int by_tag(const void *a, const void *b)
{
    return memcmp(a, b, CS_TAG_LEN);
}

/* n entities, the same for all who call it, and their states those of `version`. */
static void fill(struct state *s, unsigned n, uint8_t version)
{
    cs_buf_reset(&s->leaves);
    for (unsigned i = 0; i < n; i++) {
        uint8_t leaf[CS_HASH_LEN], *at = cs_buf_grow(&s->leaves, CS_LEAF_LEN);

        assert_non_null(at);
        cs_hash_plain(cs_slice(&i, sizeof i), leaf);
        memcpy(at, leaf, CS_TAG_LEN);
        memcpy(at + CS_TAG_LEN, leaf + CS_TAG_LEN, CS_STATE_LEN);
        at[CS_TAG_LEN] ^= version;
    }
    if (n > 0)
        qsort(s->leaves.data, n, CS_LEAF_LEN, by_tag);
}

static void drop(struct state *s, size_t i)
{
    uint8_t *at = s->leaves.data + i * CS_LEAF_LEN;

    memmove(at, at + CS_LEAF_LEN, s->leaves.len - (i + 1) * CS_LEAF_LEN);
    s->leaves.len -= CS_LEAF_LEN;
}

static const uint8_t *tag_at(const struct state *s, size_t i)
{
    return s->leaves.data + i * CS_LEAF_LEN;
}

static void state_now(struct state *s, struct scene *scene, struct maker *m)
{
    struct pulled p;

    pull(scene, m, (struct pull_options){ .own_in_full = true }, &p);
    *s = (struct state){ .m = m, .log_id = p.head.log_id, .number = p.head.number, .epoch = 1 };
}

/* ---- calls ---- */

struct names {
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
};

static void begin(const struct state *s, struct names *n, Clawsync__V1__ReconcileAction action,
                  Clawsync__V1__ReconcileRangesRequest *req)
{
    clawsync__v1__reconcile_ranges_request__init(req);
    cs_uuid_text(n->ws, &s->m->workspace);
    cs_uuid_text(n->id, &s->m->id);
    req->workspace_id = n->ws;
    req->device_id = n->id;
    req->action = action;
    req->log_id = s->log_id;
    req->log_number = s->number;
    req->epoch = s->epoch;
}

/* The answer is the caller's; NULL: refused, and *k says how. */
static Clawsync__V1__ReconcileRangesResponse *send(struct scene *scene, const struct state *s,
                                                   const Clawsync__V1__ReconcileRangesRequest *req, struct call *k)
{
    Clawsync__V1__ReconcileRangesResponse *a = NULL;

    ask(k, scene, s->m, "ReconcileRanges", &req->base);
    if (k->status == CS_RPC_OK) {
        assert_int_equal(k->n, 1);
        a = clawsync__v1__reconcile_ranges_response__unpack(NULL, k->message[0].len, k->message[0].data);
        assert_non_null(a);
    }
    return a;
}

static int plain(struct scene *scene, const struct state *s, Clawsync__V1__ReconcileAction action)
{
    Clawsync__V1__ReconcileRangesRequest req;
    Clawsync__V1__ReconcileRangesResponse *a;
    struct names n;
    struct call k;
    int status;

    begin(s, &n, action, &req);
    if ((a = send(scene, s, &req, &k)) != NULL)
        FREE_ANSWER(a);
    status = k.status;
    call_fini(&k);
    return status;
}

static int refused_put(struct scene *scene, const struct state *s, uint32_t prefix, struct cs_slice leaves)
{
    Clawsync__V1__StateBucket bucket = CLAWSYNC__V1__STATE_BUCKET__INIT, *list = &bucket;
    Clawsync__V1__ReconcileRangesRequest req;
    Clawsync__V1__ReconcileRangesResponse *a;
    struct names n;
    struct call k;
    int status;

    begin(s, &n, ACTION(PUT), &req);
    bucket.prefix = prefix;
    bucket.leaves = (ProtobufCBinaryData){ leaves.len, (uint8_t *)(uintptr_t)leaves.data };
    req.buckets = &list;
    req.n_buckets = 1;
    if ((a = send(scene, s, &req, &k)) != NULL)
        FREE_ANSWER(a);
    status = k.status;
    call_fini(&k);
    return status;
}

/* *give: as the hub says. */
static int begin_call(struct scene *scene, const struct state *s, bool take, bool *give)
{
    Clawsync__V1__ReconcileRangesRequest req;
    Clawsync__V1__ReconcileRangesResponse *a;
    struct names n;
    struct call k;
    int status;

    begin(s, &n, ACTION(BEGIN), &req);
    req.take = take;
    a = send(scene, s, &req, &k);
    status = k.status;
    if (status == CS_RPC_FAILED_PRECONDITION || status == CS_RPC_ABORTED)
        assert_string_equal(k.kind, "catch-up");
    call_fini(&k);
    if (a == NULL)
        return status;
    *give = a->give;
    FREE_ANSWER(a);
    return status;
}

static int end_call(struct scene *scene, const struct state *s, uint64_t rows)
{
    Clawsync__V1__ReconcileRangesRequest req;
    Clawsync__V1__ReconcileRangesResponse *a;
    uint8_t sum[CS_STATE_LEN];
    struct names n;
    struct call k;
    int status;

    begin(s, &n, ACTION(END), &req);
    cs_leaves_sum(cs_buf_slice(&s->leaves), sum);
    req.rows = rows;
    req.sum = (ProtobufCBinaryData){ sizeof sum, sum };
    req.proof = (ProtobufCBinaryData){ 5, (uint8_t *)(uintptr_t) "proof" };
    if ((a = send(scene, s, &req, &k)) != NULL)
        FREE_ANSWER(a);
    status = k.status;
    call_fini(&k);
    return status;
}

static size_t bucket_len(const struct state *s, size_t at)
{
    size_t n = 0;

    while (at + n < s->leaves.len && cs_tag_bucket(s->leaves.data + at + n) == cs_tag_bucket(s->leaves.data + at))
        n += CS_LEAF_LEN;
    return n;
}

/* The whole state, in one request. */
static void give(struct scene *scene, const struct state *s)
{
    Clawsync__V1__StateBucket bucket[MANY], *list[MANY];
    Clawsync__V1__ReconcileRangesRequest req;
    Clawsync__V1__ReconcileRangesResponse *a;
    struct names n;
    struct call k;
    bool yes = false;

    assert_int_equal(begin_call(scene, s, true, &yes), CS_RPC_OK);
    assert_true(yes);
    begin(s, &n, ACTION(PUT), &req);
    req.buckets = list;
    for (size_t at = 0; at < s->leaves.len; at += bucket_len(s, at)) {
        Clawsync__V1__StateBucket *b = &bucket[req.n_buckets];

        clawsync__v1__state_bucket__init(b);
        b->prefix = cs_tag_bucket(s->leaves.data + at);
        b->leaves = (ProtobufCBinaryData){ bucket_len(s, at), s->leaves.data + at };
        list[req.n_buckets++] = b;
    }
    a = send(scene, s, &req, &k);
    assert_non_null(a);
    FREE_ANSWER(a);
    call_fini(&k);
    assert_int_equal(end_call(scene, s, s->leaves.len / CS_LEAF_LEN), CS_RPC_OK);
}

/* The reference's children of a range. */
static int sums(struct scene *scene, const struct state *s, struct cs_range range, uint8_t out[CS_CHILDREN_LEN])
{
    Clawsync__V1__ReconcileRangesRequest req;
    Clawsync__V1__ReconcileRangesResponse *a;
    uint8_t bytes[CS_RANGE_LEN];
    struct names n;
    struct call k;
    int status;

    begin(s, &n, ACTION(SUMS), &req);
    cs_range_write(&range, bytes);
    req.ranges = (ProtobufCBinaryData){ sizeof bytes, bytes };
    a = send(scene, s, &req, &k);
    status = k.status;
    call_fini(&k);
    if (a == NULL)
        return status;
    assert_int_equal(a->sums.len, CS_CHILDREN_LEN);
    memcpy(out, a->sums.data, CS_CHILDREN_LEN);
    FREE_ANSWER(a);
    return status;
}

static struct cs_sums *sums_of(const struct state *s)
{
    struct cs_sums *all = calloc(1, sizeof *all);

    assert_non_null(all);
    for (size_t at = 0; at < s->leaves.len; at += CS_LEAF_LEN)
        cs_sums_add(all, s->leaves.data + at);
    return all;
}

/* All ranges of the reference are those of this state. */
static void same_sums(struct scene *scene, const struct state *s, const struct state *reference)
{
    struct cs_sums *all = sums_of(reference);
    uint8_t got[CS_CHILDREN_LEN], want[CS_CHILDREN_LEN];

    for (unsigned i = 0; i <= CS_FANOUT; i++) {
        struct cs_range root = { 0, 0 }, range = i == 0 ? root : cs_range_child(&root, i - 1);

        assert_int_equal(sums(scene, s, range, got), CS_RPC_OK);
        cs_sums_children(all, &range, want);
        assert_memory_equal(got, want, sizeof want);
    }
    free(all);
}

static Clawsync__V1__ReconcileRangesResponse *look(struct scene *scene, const struct state *s)
{
    Clawsync__V1__ReconcileRangesRequest req;
    Clawsync__V1__ReconcileRangesResponse *a;
    struct names n;
    struct call k;

    begin(s, &n, ACTION(LOOK), &req);
    a = send(scene, s, &req, &k);
    assert_non_null(a);
    call_fini(&k);
    return a;
}

static int tags_call(struct scene *scene, const struct state *s, Clawsync__V1__ReconcileAction action,
                     struct cs_slice tags)
{
    Clawsync__V1__ReconcileRangesRequest req;
    Clawsync__V1__ReconcileRangesResponse *a;
    struct names n;
    struct call k;
    int status;

    begin(s, &n, action, &req);
    if (action == ACTION(PROVE))
        req.proof = (ProtobufCBinaryData){ tags.len, (uint8_t *)(uintptr_t)tags.data };
    else
        req.tags = (ProtobufCBinaryData){ tags.len, (uint8_t *)(uintptr_t)tags.data };
    if ((a = send(scene, s, &req, &k)) != NULL)
        FREE_ANSWER(a);
    status = k.status;
    call_fini(&k);
    return status;
}

static bool reconciles(struct scene *scene, const struct maker *m)
{
    Clawsync__V1__HeartbeatRequest req = CLAWSYNC__V1__HEARTBEAT_REQUEST__INIT;
    Clawsync__V1__HeartbeatResponse *a;
    struct names n;
    struct call k;
    bool yes;

    cs_uuid_text(n.ws, &m->workspace);
    cs_uuid_text(n.id, &m->id);
    req.workspace_id = n.ws;
    req.device_id = n.id;
    ask(&k, scene, m, "Heartbeat", &req.base);
    assert_int_equal(k.status, CS_RPC_OK);
    a = clawsync__v1__heartbeat_response__unpack(NULL, k.message[0].len, k.message[0].data);
    assert_non_null(a);
    yes = a->reconcile;
    FREE_ANSWER(a);
    call_fini(&k);
    return yes;
}

/* ---- by ranges ---- */

static void one_gives_and_one_compares(void **state)
{
    struct scene *s = *state;
    struct state a, b;
    bool yes;

    two_devices(s);
    push_ok(s, &s->a, 10, 1);
    state_now(&a, s, &s->a);
    state_now(&b, s, &s->b);
    fill(&a, MANY, 0);
    fill(&b, MANY, 0);
    assert_int_equal(sums(s, &b, (struct cs_range){ 0, 0 }, (uint8_t[CS_CHILDREN_LEN]){ 0 }),
                     CS_RPC_FAILED_PRECONDITION);
    assert_false(reconciles(s, &s->b));
    give(s, &a);
    assert_true(reconciles(s, &s->b)); /* it is asked to compare, its own giver is not */
    assert_false(reconciles(s, &s->a));
    same_sums(s, &b, &a);
    assert_int_equal(begin_call(s, &b, false, &yes), CS_RPC_OK);
    assert_false(yes);
    assert_int_equal(tags_call(s, &b, ACTION(PROVE), cs_slice_str("sealed")), CS_RPC_OK);
    assert_false(reconciles(s, &s->b));
    give(s, &b); /* whoever will can give all the same */
    assert_true(reconciles(s, &s->a));
    assert_false(reconciles(s, &s->b));
    cs_buf_free(&a.leaves);
    cs_buf_free(&b.leaves);
}

/* Only what differs has to come: the rest is there. */
static void a_reference_is_brought_up_to_date(void **state)
{
    struct scene *s = *state;
    struct state a;
    size_t at, n;
    bool yes;

    two_devices(s);
    push_ok(s, &s->a, 10, 1);
    state_now(&a, s, &s->a);
    fill(&a, MANY, 0);
    give(s, &a);
    push_ok(s, &s->a, 10, 1);
    a.number++;
    at = (size_t)17 * CS_LEAF_LEN;
    a.leaves.data[at + CS_TAG_LEN] ^= 1;
    assert_int_equal(begin_call(s, &a, false, &yes), CS_RPC_OK);
    assert_true(yes);
    assert_int_equal(end_call(s, &a, MANY), CS_RPC_ABORTED); /* not what was to come */
    while (at > 0 && cs_tag_bucket(a.leaves.data + at - CS_LEAF_LEN) == cs_tag_bucket(a.leaves.data + at))
        at -= CS_LEAF_LEN;
    n = bucket_len(&a, at);
    assert_int_equal(refused_put(s, &a, cs_tag_bucket(a.leaves.data + at), cs_slice(a.leaves.data + at, n)), CS_RPC_OK);
    assert_int_equal(end_call(s, &a, MANY), CS_RPC_OK);
    same_sums(s, &a, &a);
    /* and an entity that is no more, with its bucket */
    assert_int_equal(begin_call(s, &a, true, &yes), CS_RPC_OK);
    for (at = 0; bucket_len(&a, at * CS_LEAF_LEN) != CS_LEAF_LEN; at++)
        ;
    assert_int_equal(refused_put(s, &a, cs_tag_bucket(tag_at(&a, at)), CS_SLICE_NULL), CS_RPC_OK);
    drop(&a, at);
    assert_int_equal(end_call(s, &a, MANY - 1), CS_RPC_OK);
    same_sums(s, &a, &a);
    cs_buf_free(&a.leaves);
}

static void another_place_is_to_catch_up(void **state)
{
    struct scene *s = *state;
    struct state a, b;
    bool yes;

    two_devices(s);
    push_ok(s, &s->a, 10, 1);
    state_now(&a, s, &s->a);
    b = a;
    b.m = &s->b;
    fill(&a, 3, 0);
    for (int i = 0; i < 4; i++) { /* nothing is taken of a state of another place than the log's end */
        struct state off = a;

        off.number += i == 0;
        off.number -= i == 1;
        off.log_id ^= i == 2;
        off.epoch += i == 3;
        assert_int_equal(begin_call(s, &off, false, &yes), CS_RPC_FAILED_PRECONDITION);
    }
    give(s, &a);
    push_ok(s, &s->a, 10, 1);
    same_sums(s, &b, &a); /* the log moved; who is still there may compare */
    assert_int_equal(begin_call(s, &b, false, &yes), CS_RPC_OK);
    assert_false(yes);
    b.number++;
    assert_int_equal(plain(s, &b, ACTION(LOOK)), CS_RPC_OK);
    assert_int_equal(sums(s, &b, (struct cs_range){ 0, 0 }, (uint8_t[CS_CHILDREN_LEN]){ 0 }),
                     CS_RPC_FAILED_PRECONDITION);
    assert_int_equal(tags_call(s, &b, ACTION(WANT), cs_slice(tag_at(&a, 0), CS_TAG_LEN)), CS_RPC_FAILED_PRECONDITION);
    b.number++;
    assert_int_equal(tags_call(s, &b, ACTION(PROVE), cs_slice_str("x")), CS_RPC_FAILED_PRECONDITION);
    cs_buf_free(&a.leaves);
}

static void one_gives_at_a_time(void **state)
{
    struct scene *s = *state;
    struct state a, b;
    bool yes;
    sqlite3 *db;

    two_devices(s);
    push_ok(s, &s->a, 10, 1);
    state_now(&a, s, &s->a);
    state_now(&b, s, &s->b);
    fill(&a, 3, 0);
    assert_int_equal(begin_call(s, &a, false, &yes), CS_RPC_OK);
    assert_int_equal(begin_call(s, &b, false, &yes), CS_RPC_ABORTED);
    assert_int_equal(sums(s, &b, (struct cs_range){ 0, 0 }, (uint8_t[CS_CHILDREN_LEN]){ 0 }), CS_RPC_ABORTED);
    assert_int_equal(refused_put(s, &b, cs_tag_bucket(tag_at(&a, 0)), cs_slice(tag_at(&a, 0), CS_LEAF_LEN)),
                     CS_RPC_ABORTED);
    assert_int_equal(end_call(s, &b, 0), CS_RPC_ABORTED);
    /* it says nothing for a minute */
    hub_down(s, 0);
    assert_int_equal(sqlite3_open(s->database, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "UPDATE reference SET changed_ms = changed_ms - 60001", NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);
    hub_up(s);
    assert_int_equal(begin_call(s, &b, false, &yes), CS_RPC_OK);
    assert_true(yes);
    assert_int_equal(end_call(s, &a, 3), CS_RPC_ABORTED);
    assert_int_equal(end_call(s, &b, 0), CS_RPC_OK);
    cs_buf_free(&a.leaves);
}

static void what_is_wanted_is_shown_and_crossed_off(void **state)
{
    struct scene *s = *state;
    struct state a, b;
    Clawsync__V1__ReconcileRangesResponse *l;

    two_devices(s);
    push_ok(s, &s->a, 10, 1);
    state_now(&a, s, &s->a);
    state_now(&b, s, &s->b);
    fill(&a, 3, 0);
    give(s, &a);
    assert_int_equal(tags_call(s, &b, ACTION(WANT), cs_slice(a.leaves.data, CS_TAG_LEN)), CS_RPC_OK);
    assert_int_equal(tags_call(s, &b, ACTION(WANT), cs_slice(a.leaves.data, CS_TAG_LEN)), CS_RPC_OK); /* once is all */
    assert_true(reconciles(s, &s->a));
    l = look(s, &b);
    assert_int_equal(l->wanted.len, 0);
    FREE_ANSWER(l);
    l = look(s, &a);
    assert_int_equal(l->wanted.len, CS_TAG_LEN);
    assert_int_equal(l->wanted_epoch, 1);
    assert_memory_equal(l->wanted.data, a.leaves.data, CS_TAG_LEN);
    assert_int_equal(l->n_proofs, 2);
    for (size_t i = 0; i < l->n_proofs; i++) {
        bool own = memcmp(l->proofs[i]->device_id.data, s->a.id.b, 16) == 0;

        assert_int_equal(l->proofs[i]->proof.len, own ? 5 : 0);
        assert_int_equal(l->proofs[i]->fresh, own);
        assert_false(l->proofs[i]->watching);
    }
    FREE_ANSWER(l);
    assert_int_equal(tags_call(s, &b, ACTION(GAVE), cs_slice(a.leaves.data, CS_TAG_LEN)), CS_RPC_OK); /* not b's */
    assert_true(reconciles(s, &s->a));
    assert_int_equal(tags_call(s, &a, ACTION(GAVE), cs_slice(a.leaves.data, CS_TAG_LEN)), CS_RPC_OK);
    assert_false(reconciles(s, &s->a));
    cs_buf_free(&a.leaves);
}

/* A bell for those who watch, when there is something to compare. */
static void watchers_are_told(void **state)
{
    Clawsync__V1__WatchRequest req = CLAWSYNC__V1__WATCH_REQUEST__INIT;
    Clawsync__V1__WatchResponse *m;
    Clawsync__V1__ReconcileRangesResponse *l;
    struct scene *s = *state;
    struct state a;
    struct names n;
    struct call k;

    two_devices(s);
    push_ok(s, &s->a, 10, 1);
    state_now(&a, s, &s->a);
    fill(&a, 3, 0);
    cs_uuid_text(n.ws, &s->b.workspace);
    cs_uuid_text(n.id, &s->b.id);
    req.workspace_id = n.ws;
    req.device_id = n.id;
    ask_begin(&k, s, &s->b, "Watch", &req.base);
    k.want = 1;
    while (k.n < 1)
        spin(s);
    give(s, &a);
    k.want = 2;
    while (k.n < 2)
        spin(s);
    m = clawsync__v1__watch_response__unpack(NULL, k.message[1].len, k.message[1].data);
    assert_non_null(m);
    assert_true(m->reconcile);
    FREE_ANSWER(m);
    l = look(s, &a);
    for (size_t i = 0; i < l->n_proofs; i++)
        assert_int_equal(l->proofs[i]->watching, memcmp(l->proofs[i]->device_id.data, s->b.id.b, 16) == 0);
    FREE_ANSWER(l);
    cs_rpc_call_cancel(k.call);
    call_finish(&k);
    call_fini(&k);
    cs_buf_free(&a.leaves);
}

/* Another workspace's reference, tags and proofs are as if they were not there. */
static void workspaces_do_not_meet(void **state)
{
    struct scene *s = *state;
    struct state a, x;
    struct maker other;
    struct cs_buf genesis = { 0 };
    Clawsync__V1__ReconcileRangesResponse *l;

    two_devices(s);
    push_ok(s, &s->a, 10, 1);
    maker_init(&other, 'v', 'a');
    maker_genesis(&other, &genesis);
    maker_learn(&other, cs_buf_slice(&genesis));
    register_ok(s, &other, cs_buf_slice(&genesis));
    cs_buf_free(&genesis);
    push_ok(s, &other, 10, 1);
    state_now(&a, s, &s->a);
    state_now(&x, s, &other);
    fill(&a, MANY, 0);
    fill(&x, 7, 3);
    give(s, &a);
    assert_int_equal(sums(s, &x, (struct cs_range){ 0, 0 }, (uint8_t[CS_CHILDREN_LEN]){ 0 }),
                     CS_RPC_FAILED_PRECONDITION);
    give(s, &x);
    same_sums(s, &a, &a);
    same_sums(s, &x, &x);
    l = look(s, &x);
    assert_int_equal(l->n_proofs, 1);
    FREE_ANSWER(l);
    maker_fini(&other);
    cs_buf_free(&a.leaves);
    cs_buf_free(&x.leaves);
}

static void wrong_requests(void **state)
{
    struct scene *s = *state;
    Clawsync__V1__ReconcileRangesRequest req;
    static uint8_t ranges[4097 * 2], deep[3] = { 4, 0, 0 }, uneven[3] = { 1, 0x12, 0 };
    const struct {
        Clawsync__V1__ReconcileAction action;
        struct cs_slice ranges;
    } cases[] = {
        { ACTION(UNSPECIFIED), CS_SLICE_NULL }, { (Clawsync__V1__ReconcileAction)99, CS_SLICE_NULL },
        { ACTION(SUMS), CS_SLICE_NULL },        { ACTION(SUMS), { ranges, 4 } },
        { ACTION(SUMS), { ranges, 6 } },    /* one range twice */
        { ACTION(SUMS), { deep, 3 } },      /* a bucket has no ranges below it */
        { ACTION(SUMS), { uneven, 3 } },    /* more nibbles than its depth */
        { ACTION(SUMS), { ranges, 6000 } }, /* too many */
        { ACTION(LEAVES), CS_SLICE_NULL },      { ACTION(LEAVES), { ranges, 3 } },
        { ACTION(LEAVES), { ranges, 4 } },      { ACTION(LEAVES), { ranges, sizeof ranges } },
        { ACTION(WANT), CS_SLICE_NULL },        { ACTION(PROVE), CS_SLICE_NULL },
        { ACTION(END), CS_SLICE_NULL },
    };
    struct state a;
    struct names n;
    struct call k;
    uint8_t leaves[2 * CS_LEAF_LEN] = { 0 };
    bool yes;

    two_devices(s);
    push_ok(s, &s->a, 10, 1);
    state_now(&a, s, &s->a);
    fill(&a, MANY, 0);
    give(s, &a);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin(&a, &n, cases[i].action, &req);
        req.ranges = (ProtobufCBinaryData){ cases[i].ranges.len, (uint8_t *)(uintptr_t)cases[i].ranges.data };
        if (cases[i].action == ACTION(WANT))
            req.tags = (ProtobufCBinaryData){ 15, leaves };
        assert_null(send(s, &a, &req, &k));
        assert_int_equal(k.status, CS_RPC_INVALID_ARGUMENT);
        assert_string_equal(k.kind, "validation");
        call_fini(&k);
    }
    assert_int_equal(begin_call(s, &a, true, &yes), CS_RPC_OK);
    assert_int_equal(refused_put(s, &a, 65536, CS_SLICE_NULL), CS_RPC_INVALID_ARGUMENT);
    assert_int_equal(refused_put(s, &a, 1, cs_slice(leaves, CS_LEAF_LEN)), CS_RPC_INVALID_ARGUMENT); /* not its */
    assert_int_equal(refused_put(s, &a, 0, cs_slice(leaves, CS_LEAF_LEN - 1)), CS_RPC_INVALID_ARGUMENT);
    assert_int_equal(refused_put(s, &a, 0, cs_slice(leaves, sizeof leaves)), CS_RPC_INVALID_ARGUMENT); /* twice */
    assert_int_equal(end_call(s, &a, MANY), CS_RPC_OK); /* and nothing of it was kept */
    same_sums(s, &a, &a);
    cs_buf_free(&a.leaves);
}

/* What lies here counts against the workspace's bytes, and no longer when it is gone. */
static void counts_against_the_quota(void **state)
{
    struct scene *s = *state;
    struct state a;
    uint8_t *many;
    bool yes;

    hub_down(s, 0);
    s->options.quota_bytes = 20000;
    hub_up(s);
    two_devices(s);
    push_ok(s, &s->a, 10, 1);
    state_now(&a, s, &s->a);
    many = calloc(1000, CS_LEAF_LEN);
    assert_non_null(many);
    for (uint32_t i = 0; i < 1000; i++)
        cs_store_u32(many + i * CS_LEAF_LEN + 2, i);
    assert_int_equal(begin_call(s, &a, false, &yes), CS_RPC_OK);
    assert_int_equal(refused_put(s, &a, 0, cs_slice(many, (size_t)1000 * CS_LEAF_LEN)), CS_RPC_RESOURCE_EXHAUSTED);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(refused_put(s, &a, 0, cs_slice(many, (size_t)500 * CS_LEAF_LEN)), CS_RPC_OK);
        assert_int_equal(refused_put(s, &a, 0, CS_SLICE_NULL), CS_RPC_OK);
    }
    assert_int_equal(refused_put(s, &a, 0, cs_slice(many, (size_t)500 * CS_LEAF_LEN)), CS_RPC_OK);
    cs_buf_put(&a.leaves, many, (size_t)500 * CS_LEAF_LEN);
    assert_int_equal(end_call(s, &a, 500), CS_RPC_OK);
    same_sums(s, &a, &a);
    free(many);
    cs_buf_free(&a.leaves);
}

/* ---- whole sets ---- */

static Clawsync__V1__ReconcileResponse *whole(struct scene *scene, const struct state *s, struct call *k)
{
    Clawsync__V1__ReconcileRequest req = CLAWSYNC__V1__RECONCILE_REQUEST__INIT;
    Clawsync__V1__EntityHashEntry entry[MANY + 1], *list[MANY + 1];
    char ids[MANY + 1][23];
    struct names n;
    struct cs_buf text = { 0 };

    cs_uuid_text(n.ws, &s->m->workspace);
    cs_uuid_text(n.id, &s->m->id);
    req.workspace_id = n.ws;
    req.device_id = n.id;
    req.log_number = s->number;
    req.log_id = s->log_id;
    req.epoch = s->epoch;
    for (size_t at = 0; at < s->leaves.len; at += CS_LEAF_LEN) {
        size_t i = s->leaves.len / CS_LEAF_LEN - 1 - req.n_entity_hashes; /* in any order */

        cs_buf_reset(&text);
        cs_base64(&text, cs_slice(tag_at(s, i), CS_TAG_LEN), true);
        snprintf(ids[i], sizeof ids[i], "%.*s", (int)text.len, (const char *)text.data);
        clawsync__v1__entity_hash_entry__init(&entry[i]);
        entry[i].entity_id = ids[i];
        entry[i].content_hash = (ProtobufCBinaryData){ CS_STATE_LEN, s->leaves.data + i * CS_LEAF_LEN + CS_TAG_LEN };
        list[req.n_entity_hashes++] = &entry[i];
    }
    req.entity_hashes = list;
    cs_buf_free(&text);
    ask(k, scene, s->m, "Reconcile", &req.base);
    return k->status == CS_RPC_OK
               ? clawsync__v1__reconcile_response__unpack(NULL, k->message[0].len, k->message[0].data)
               : NULL;
}

static bool lists(char **ids, size_t n, const uint8_t *tag)
{
    struct cs_buf text = { 0 };
    bool found = false;

    cs_base64(&text, cs_slice(tag, CS_TAG_LEN), true);
    for (size_t i = 0; i < n; i++)
        found = found || (strlen(ids[i]) == text.len && memcmp(ids[i], text.data, text.len) == 0);
    cs_buf_free(&text);
    return found;
}

static void whole_sets(void **state)
{
    struct scene *s = *state;
    struct state a, b;
    Clawsync__V1__ReconcileResponse *r;
    Clawsync__V1__ReconcileRangesResponse *l;
    struct call k;

    two_devices(s);
    push_ok(s, &s->a, 10, 1);
    state_now(&a, s, &s->a);
    state_now(&b, s, &s->b);
    fill(&a, MANY, 0);
    fill(&b, MANY, 0);
    drop(&a, 3);                                                /* b alone has it */
    b.leaves.data[(size_t)10 * CS_LEAF_LEN + CS_TAG_LEN] ^= 1;  /* different */
    b.leaves.data[(size_t)299 * CS_LEAF_LEN + CS_TAG_LEN] ^= 1; /* the last one too */
    for (int turn = 0; turn < 2; turn++) {                      /* the first is the reference; it may come again */
        r = whole(s, &a, &k);
        assert_non_null(r);
        assert_int_equal(r->n_missing_on_client + r->n_missing_on_server + r->n_conflicted, 0);
        FREE_ANSWER(r);
        call_fini(&k);
    }
    same_sums(s, &b, &a);
    r = whole(s, &b, &k);
    assert_non_null(r);
    assert_int_equal(r->n_missing_on_client, 0);
    assert_int_equal(r->n_missing_on_server, 1);
    assert_true(lists(r->missing_on_server, 1, tag_at(&b, 3)));
    assert_int_equal(r->n_conflicted, 2);
    assert_true(lists(r->conflicted, 2, tag_at(&b, 10)) && lists(r->conflicted, 2, tag_at(&b, 299)));
    FREE_ANSWER(r);
    call_fini(&k);
    l = look(s, &a); /* the other is to publish what it has of them */
    assert_int_equal(l->wanted.len, 2 * CS_TAG_LEN);
    FREE_ANSWER(l);
    drop(&b, 50);
    r = whole(s, &b, &k);
    assert_non_null(r);
    assert_int_equal(r->n_missing_on_client, 1);
    FREE_ANSWER(r);
    call_fini(&k);
    b.number--;
    assert_null(whole(s, &b, &k));
    assert_int_equal(k.status, CS_RPC_FAILED_PRECONDITION);
    assert_string_equal(k.kind, "catch-up");
    call_fini(&k);
    push_ok(s, &s->b, 10, 1);
    b.number += 2;
    cs_buf_reset(&b.leaves);
    r = whole(s, &b, &k); /* of the newest number: a reference, without an entity this time */
    assert_non_null(r);
    FREE_ANSWER(r);
    call_fini(&k);
    same_sums(s, &b, &b);
    cs_buf_free(&a.leaves);
    cs_buf_free(&b.leaves);
}

static void wrong_sets(void **state)
{
    struct scene *s = *state;
    static const char *const ids[] = { "",
                                       "AAAA",
                                       "AAAAAAAAAAAAAAAAAAAAAA==",
                                       "AAAAAAAAAAAAAAAAAAAAAB",
                                       "AAAAAAAAAAAAAAAAAAAAA!",
                                       "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" };
    Clawsync__V1__ReconcileRequest req = CLAWSYNC__V1__RECONCILE_REQUEST__INIT;
    Clawsync__V1__EntityHashEntry e = CLAWSYNC__V1__ENTITY_HASH_ENTRY__INIT, *list[2] = { &e, &e };
    uint8_t hash[65] = { 0 };
    struct state a;
    struct names n;
    struct call k;

    two_devices(s);
    push_ok(s, &s->a, 10, 1);
    state_now(&a, s, &s->a);
    cs_uuid_text(n.ws, &s->a.workspace);
    cs_uuid_text(n.id, &s->a.id);
    req.workspace_id = n.ws;
    req.device_id = n.id;
    req.log_number = a.number;
    req.log_id = a.log_id;
    req.epoch = a.epoch;
    req.entity_hashes = list;
    e.content_hash = (ProtobufCBinaryData){ 16, hash };
    for (size_t i = 0; i < sizeof ids / sizeof ids[0] + 3; i++) {
        req.n_entity_hashes = 1;
        e.entity_id = (char *)(uintptr_t)(i < sizeof ids / sizeof ids[0] ? ids[i] : "AAAAAAAAAAAAAAAAAAAAAA");
        if (i >= sizeof ids / sizeof ids[0]) /* hashes too short and too long, then one entity twice */
            e.content_hash.len = i % 3 == 0 ? 15 : i % 3 == 1 ? 65 : 16;
        if (e.content_hash.len == 16 && i >= sizeof ids / sizeof ids[0])
            req.n_entity_hashes = 2;
        ask(&k, s, &s->a, "Reconcile", &req.base);
        assert_int_equal(k.status, CS_RPC_INVALID_ARGUMENT);
        assert_string_equal(k.kind, "validation");
        call_fini(&k);
    }
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test_setup_teardown(one_gives_and_one_compares, setup, teardown),
        cmocka_unit_test_setup_teardown(a_reference_is_brought_up_to_date, setup, teardown),
        cmocka_unit_test_setup_teardown(another_place_is_to_catch_up, setup, teardown),
        cmocka_unit_test_setup_teardown(one_gives_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_wanted_is_shown_and_crossed_off, setup, teardown),
        cmocka_unit_test_setup_teardown(watchers_are_told, setup, teardown),
        cmocka_unit_test_setup_teardown(workspaces_do_not_meet, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(counts_against_the_quota, setup, teardown),
        cmocka_unit_test_setup_teardown(whole_sets, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_sets, setup, teardown),
    };

    return cmocka_run_group_tests_name("reconcile", t, NULL, NULL);
}
