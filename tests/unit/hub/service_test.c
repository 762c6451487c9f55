/* What the service does for those who may: pushing, pulling, watching, joining, going. */
#include "unit/hub/service_scene.h"

static void registering(void **state)
{
    struct scene *s = *state;
    struct cs_buf genesis = { 0 }, other = { 0 };
    struct call k;

    maker_genesis(&s->a, &genesis);
    register_ok(s, &s->a, cs_buf_slice(&genesis));
    register_ok(s, &s->a, cs_buf_slice(&genesis)); /* the very same entry again */
    register_ok(s, &s->a, CS_SLICE_NULL);          /* a known device asks for its state */

    maker_genesis(&s->a, &other);
    register_call(&k, s, &s->a, cs_buf_slice(&other));
    assert_int_equal(k.status, CS_RPC_ALREADY_EXISTS);
    assert_string_equal(k.text, "workspace exists");
    call_fini(&k);

    register_call(&k, s, &s->b, CS_SLICE_NULL); /* unknown */
    assert_int_equal(k.status, CS_RPC_UNAUTHENTICATED);
    assert_string_equal(k.text, "unknown device or wrong key");
    assert_string_equal(k.kind, "auth");
    call_fini(&k);

    s->b.id = s->a.id; /* a known id with other keys */
    register_call(&k, s, &s->b, CS_SLICE_NULL);
    assert_int_equal(k.status, CS_RPC_UNAUTHENTICATED);
    call_fini(&k);

    genesis.data[100] ^= 1;
    register_call(&k, s, &s->a, cs_buf_slice(&genesis));
    assert_int_equal(k.status, CS_RPC_INVALID_ARGUMENT);
    call_fini(&k);
    cs_buf_free(&genesis);
    cs_buf_free(&other);
}

static void push_and_pull(void **state)
{
    struct scene *s = *state;
    struct pulled p;

    two_devices(s);
    push_ok(s, &s->a, 100, 1);
    push_ok(s, &s->b, 1000, 3);
    push_ok(s, &s->a, 5000, 2);

    pull(s, &s->b, (struct pull_options){ 0 }, &p);
    assert_int_equal(p.nbatches, 3);
    assert_int_equal(p.nfull, 2); /* its own one is a header */
    assert_int_equal(p.nchunks, 1 + 1 + 2);
    assert_int_equal(p.head.number, 3);
    assert_false(p.has_more);

    pull(s, &s->b, (struct pull_options){ .own_in_full = true }, &p);
    assert_int_equal(p.nfull, 3);
    pull(s, &s->b, (struct pull_options){ .after = 2, .log_id = p.head.log_id }, &p);
    assert_int_equal(p.nbatches, 1);
    pull(s, &s->b, (struct pull_options){ .after = 3 }, &p);
    assert_int_equal(p.nbatches, 0);
    pull(s, &s->b, (struct pull_options){ .after = 99 }, &p); /* a cursor from the future: the head tells */
    assert_int_equal(p.head.number, 3);
    pull(s, &s->b, (struct pull_options){ .type = "some-other-table" }, &p);
    assert_int_equal(p.nbatches, 3);
    assert_int_equal(p.nfull, 0);
}

/* max_chunks lets whole batches through only, and at least one. */
static void pull_limits(void **state)
{
    struct scene *s = *state;
    static const struct {
        int32_t max;
        size_t nbatches;
        bool more;
    } cases[] = { { 1, 1, true }, { 3, 1, true }, { 4, 1, true }, { 5, 2, true }, { 6, 3, false }, { 100, 3, false } };
    struct pulled p;

    two_devices(s);
    push_ok(s, &s->a, 1000, 4);
    push_ok(s, &s->a, 100, 1);
    push_ok(s, &s->a, 100, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pull(s, &s->b, (struct pull_options){ .max_chunks = cases[i].max }, &p);
        assert_int_equal(p.nbatches, cases[i].nbatches);
        assert_int_equal(p.has_more, cases[i].more);
    }
}

/* The limit is reached just where a page is full. */
static void pull_limit_at_the_end_of_a_page(void **state)
{
    struct scene *s = *state;
    struct pulled p;

    two_devices(s);
    push_ok(s, &s->a, 256 * 1024, 5); /* a page, and no more in it */
    push_ok(s, &s->a, 100, 1);
    pull(s, &s->b, (struct pull_options){ .max_chunks = 5 }, &p);
    assert_int_equal(p.nbatches, 1);
    assert_true(p.has_more);
    pull(s, &s->b, (struct pull_options){ .max_chunks = 5, .after = 1 }, &p);
    assert_int_equal(p.nbatches, 1);
    assert_false(p.has_more);
}

static void pipelined(void **state)
{
    enum { N = 200 };
    struct scene *s = *state;
    struct call k;
    struct pulled p;

    two_devices(s);
    call_open(&k, s, &s->a, "Push");
    for (int i = 0; i < N; i++) {
        struct made *b = maker_batch(&s->a, 300, 1);

        call_send(&k, &b->req.base);
        maker_commit(&s->a, b);
    }
    cs_rpc_call_half_close(k.call);
    call_finish(&k);
    assert_int_equal(k.status, CS_RPC_OK);
    assert_int_equal(k.n, N);
    for (size_t i = 0; i < N; i++) {
        const Clawsync__V1__PushResponse *a = push_answer(&k, i);

        assert_true(a->accepted);
        assert_int_equal(a->log_number, i + 1);
        FREE_ANSWER(a);
    }
    call_fini(&k);
    pull(s, &s->b, (struct pull_options){ 0 }, &p);
    assert_int_equal(p.nbatches, N);
}

/* A refused batch leaves the stream open; what follows it is out of order, the good one sent again goes on. */
static void refused_in_a_stream(void **state)
{
    struct scene *s = *state;
    struct made *b1, *b2, *bad;
    const Clawsync__V1__PushResponse *a;
    struct call k;

    two_devices(s);
    b1 = maker_batch(&s->a, 50, 1);
    bad = maker_batch(&s->a, 50, 1);
    bad->h.epoch = 9;
    made_seal(&s->a, bad);
    maker_commit(&s->a, b1);
    b2 = maker_batch(&s->a, 50, 1);
    call_open(&k, s, &s->a, "Push");
    call_send(&k, &bad->req.base);
    call_send(&k, &b2->req.base);
    call_send(&k, &b1->req.base);
    call_send(&k, &b1->req.base);
    call_send(&k, &bad->req.base);
    call_send(&k, &b2->req.base);
    cs_rpc_call_half_close(k.call);
    call_finish(&k);
    assert_int_equal(k.status, CS_RPC_OK);
    assert_int_equal(k.n, 6);
    a = push_answer(&k, 0);
    assert_false(a->accepted);
    assert_int_equal(a->status, CS_RPC_FAILED_PRECONDITION);
    assert_string_equal(a->kind, "stale-epoch");
    FREE_ANSWER(a);
    a = push_answer(&k, 1);
    assert_int_equal(a->status, CS_RPC_ABORTED);
    assert_string_equal(a->kind, "order");
    assert_null(a->stored);
    FREE_ANSWER(a);
    for (size_t i = 2; i < 4; i++) {
        a = push_answer(&k, i);
        assert_true(a->accepted);
        assert_int_equal(a->log_number, 1);
        assert_memory_equal(a->batch_hash.data, b1->hash, 32);
        FREE_ANSWER(a);
    }
    a = push_answer(&k, 4);
    assert_int_equal(a->status, CS_RPC_ALREADY_EXISTS);
    assert_non_null(a->stored);
    assert_int_equal(a->stored->log_number, 1);
    assert_memory_equal(a->stored->header.data, b1->header, CS_BATCH_HEADER_LEN);
    FREE_ANSWER(a);
    a = push_answer(&k, 5);
    assert_true(a->accepted);
    FREE_ANSWER(a);
    call_fini(&k);
}

static void clock_refused(void **state)
{
    struct scene *s = *state;
    const Clawsync__V1__PushResponse *a;
    struct made *b;
    struct call k;

    two_devices(s);
    b = maker_batch(&s->a, 50, 1);
    b->h.top_stamp = (cs_now_ms(s->world) + 120000) * 65536;
    made_seal(&s->a, b);
    ask(&k, s, &s->a, "Push", &b->req.base);
    a = push_answer(&k, 0);
    assert_string_equal(a->kind, "clock");
    assert_non_null(a->server_cursor);
    assert_true(strtoll(a->server_cursor->hlc_timestamp, NULL, 16) <= cs_now_ms(s->world));
    assert_true(strtoll(a->server_cursor->hlc_timestamp, NULL, 16) > cs_now_ms(s->world) - 60000);
    FREE_ANSWER(a);
    call_fini(&k);
}

/* Who pushes and takes no answers is not read from any more, and holds up nobody else. */
static void answers_not_taken(void **state)
{
    enum { N = 30 };
    struct scene *s = *state;
    struct made *b, *fork;
    struct call k;
    struct pulled p;

    two_devices(s);
    b = maker_batch(&s->a, 1024 * 1024, 4096);
    fork = maker_batch(&s->a, 10, 1);
    call_open(&k, s, &s->a, "Push");
    cs_rpc_call_read(k.call, false);
    call_send(&k, &b->req.base);
    for (int i = 0; i < N; i++)
        call_send(&k, &fork->req.base); /* each answer shows the stored envelope, of 128 KiB */
    maker_commit(&s->a, b);
    for (int i = 0; i < 3; i++)
        push_ok(s, &s->b, 10, 1);
    assert_int_equal(k.n, 0);
    cs_rpc_call_read(k.call, true);
    cs_rpc_call_half_close(k.call);
    call_finish(&k);
    assert_int_equal(k.n, N + 1);
    assert_true(k.bytes > N * 4096 * 32);
    call_fini(&k);
    pull(s, &s->b, (struct pull_options){ 0 }, &p);
    assert_int_equal(p.nbatches, 4);
}

/* A batch near the limits, and many of them pulled in bounded messages. */
static void big_batches(void **state)
{
    struct scene *s = *state;
    struct pulled p;

    two_devices(s);
    push_ok(s, &s->a, CS_BATCH_MAX_PLAIN, 21);
    push_ok(s, &s->a, 3 * 1024 * 1024, 4096);
    push_ok(s, &s->a, 1024 * 1024 - 72, 1);
    pull(s, &s->b, (struct pull_options){ 0 }, &p);
    assert_int_equal(p.nbatches, 3);
    assert_int_equal(p.nchunks, 21 + 4096 + 1);
    assert_int_equal(p.bytes, CS_BATCH_MAX_PLAIN + 72 + 3 * 1024 * 1024 + 72 + 1024 * 1024);
}

/* A reader that does not read holds nothing up and costs little; when it goes on it gets everything. */
static void slow_reader(void **state)
{
    struct scene *s = *state;
    struct call k;
    struct pulled p;

    two_devices(s);
    for (int i = 0; i < 3; i++)
        push_ok(s, &s->a, 8 * 1024 * 1024, 64);
    pull_open(&k, s, &s->b, (struct pull_options){ 0 });
    cs_rpc_call_read(k.call, false);
    push_ok(s, &s->b, 100, 1);
    assert_int_equal(k.n, 0);
    cs_rpc_call_read(k.call, true);
    call_finish(&k);
    pulled_check(&k, &s->b, 0, &p);
    /* the page that was read after the push has that batch too, as an envelope */
    assert_true(p.nchunks == 3 * 64 || p.nchunks == 3 * 64 + 1);
    call_fini(&k);
    pull_open(&k, s, &s->b, (struct pull_options){ 0 }); /* and one that gives up half way */
    k.want = 5;
    spin(s);
    cs_rpc_call_cancel(k.call);
    call_finish(&k);
    assert_int_equal(k.status, CS_RPC_CANCELLED);
    call_fini(&k);
    push_ok(s, &s->b, 100, 1);
}

static void watch_open(struct call *k, struct scene *s, struct maker *m)
{
    Clawsync__V1__WatchRequest req = CLAWSYNC__V1__WATCH_REQUEST__INIT;
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];

    cs_uuid_text(ws, &m->workspace);
    cs_uuid_text(id, &m->id);
    req.workspace_id = ws;
    req.device_id = id;
    ask_begin(k, s, m, "Watch", &req.base);
}

static void watch_head(struct call *k, struct maker *m, size_t i, struct cs_hub_head *head)
{
    const Clawsync__V1__WatchResponse *a;

    for (k->want = i + 1; k->n <= i;)
        spin(k->s);
    a = clawsync__v1__watch_response__unpack(NULL, k->message[i].len, k->message[i].data);
    assert_non_null(a);
    check_head(k->s, &m->workspace, a->head, head);
    FREE_ANSWER(a);
}

static void watching(void **state)
{
    struct scene *s = *state;
    struct cs_buf genesis = { 0 }, add = { 0 };
    struct cs_hub_head head;
    struct call k;

    maker_genesis(&s->a, &genesis);
    maker_learn(&s->a, cs_buf_slice(&genesis));
    register_ok(s, &s->a, cs_buf_slice(&genesis));
    watch_open(&k, s, &s->a);
    watch_head(&k, &s->a, 0, &head);
    assert_int_equal(head.number, 0);
    assert_int_equal(head.member_seq, 1);
    push_ok(s, &s->a, 10, 1);
    watch_head(&k, &s->a, 1, &head);
    assert_int_equal(head.number, 1);
    maker_add(&s->b, &s->a, &add);
    register_ok(s, &s->b, cs_buf_slice(&add));
    watch_head(&k, &s->a, 2, &head);
    assert_int_equal(head.member_seq, 2);
    hub_down(s, 5000);
    assert_true(k.done);
    assert_int_equal(k.status, CS_RPC_UNAVAILABLE);
    call_fini(&k);
    hub_up(s);
    cs_buf_free(&genesis);
    cs_buf_free(&add);
}

static void resolve(struct call *k, struct scene *s, struct maker *m, const struct cs_uuid *ws, size_t n,
                    const char *conflict, size_t value_len)
{
    static uint8_t value[100000];
    Clawsync__V1__ResolveConflictRequest req = CLAWSYNC__V1__RESOLVE_CONFLICT_REQUEST__INIT;
    Clawsync__V1__ConflictRecord record = CLAWSYNC__V1__CONFLICT_RECORD__INIT, *list[300];
    char text[CS_UUID_TEXT];

    cs_uuid_text(text, ws);
    record.conflict_id = (char *)(uintptr_t)conflict;
    record.entity_id = "tag";
    record.remote_value = (ProtobufCBinaryData){ value_len, value };
    for (size_t i = 0; i < n; i++)
        list[i] = &record;
    req.workspace_id = text;
    req.resolved = list;
    req.n_resolved = n;
    ask(k, s, m, "ResolveConflict", &req.base);
}

/* Those that watch are told, but for whoever says it; nothing is kept. */
static void resolving(void **state)
{
    struct scene *s = *state;
    Clawsync__V1__WatchResponse *told;
    struct call of_a, of_b, k;
    struct cs_hub_head head;
    struct cs_uuid other = { { 77 } };

    two_devices(s);
    watch_open(&of_a, s, &s->a);
    watch_open(&of_b, s, &s->b);
    watch_head(&of_a, &s->a, 0, &head);
    watch_head(&of_b, &s->b, 0, &head);
    resolve(&k, s, &s->a, &s->a.workspace, 2, "which", 100);
    assert_int_equal(k.status, CS_RPC_OK);
    call_fini(&k);
    for (of_b.want = 2; of_b.n < 2;)
        spin(s);
    told = clawsync__v1__watch_response__unpack(NULL, of_b.message[1].len, of_b.message[1].data);
    assert_non_null(told);
    check_head(s, &s->b.workspace, told->head, &head);
    assert_int_equal(told->n_resolved, 2);
    assert_string_equal(told->resolved[0]->conflict_id, "which");
    assert_int_equal(told->resolved[0]->remote_value.len, 100);
    clawsync__v1__watch_response__free_unpacked(told, NULL);
    push_ok(s, &s->b, 10, 1);
    watch_head(&of_a, &s->a, 1, &head); /* the next that it hears of is this */
    assert_int_equal(head.number, 1);
    for (int i = 0; i < 4; i++) {
        resolve(&k, s, &s->a, i == 3 ? &other : &s->a.workspace, i == 0 ? 257 : 1, i == 1 ? "" : "which",
                i == 2 ? 70000 : 1);
        assert_int_equal(k.status, i == 3 ? CS_RPC_UNAUTHENTICATED : CS_RPC_INVALID_ARGUMENT);
        call_fini(&k);
    }
    cs_rpc_call_cancel(of_a.call);
    call_finish(&of_a);
    call_fini(&of_a);
    cs_rpc_call_cancel(of_b.call);
    call_finish(&of_b);
    call_fini(&of_b);
}

static void heartbeats(void **state)
{
    struct scene *s = *state;
    bool required = true;
    struct pulled p;
    struct call k;

    heartbeat(&k, s, &s->a, &required);
    assert_int_equal(k.status, CS_RPC_UNAUTHENTICATED);
    call_fini(&k);
    two_devices(s);
    heartbeat(&k, s, &s->b, &required);
    assert_false(required);
    call_fini(&k);
    push_ok(s, &s->a, 10, 1);
    heartbeat(&k, s, &s->b, &required);
    assert_true(required);
    call_fini(&k);
    pull(s, &s->b, (struct pull_options){ 0 }, &p);
    heartbeat(&k, s, &s->b, &required);
    assert_false(required);
    call_fini(&k);
    hub_down(s, 5000); /* what was heard of B is in the store now, and does not stand in its way */
    hub_up(s);
    push_ok(s, &s->b, 10, 1);
}

static void membership_calls(void **state)
{
    struct scene *s = *state;
    Clawsync__V1__AppendMembershipRequest append = CLAWSYNC__V1__APPEND_MEMBERSHIP_REQUEST__INIT;
    Clawsync__V1__GetMembershipRequest get = CLAWSYNC__V1__GET_MEMBERSHIP_REQUEST__INIT;
    const Clawsync__V1__GetMembershipResponse *a;
    struct cs_buf mine = { 0 }, theirs = { 0 };
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
    struct cs_hub_head head;
    struct maker c, d;
    struct call k;

    two_devices(s);
    maker_init(&c, 'w', 'c');
    maker_init(&d, 'w', 'd');
    maker_add(&c, &s->a, &mine); /* A and B add somebody at the same time */
    maker_add(&d, &s->b, &theirs);
    cs_uuid_text(ws, &s->a.workspace);
    cs_uuid_text(id, &s->a.id);
    append.workspace_id = ws;
    append.device_id = id;
    append.entry = (ProtobufCBinaryData){ mine.len, mine.data };
    for (int i = 0; i < 2; i++) { /* the very same again is success */
        ask(&k, s, &s->a, "AppendMembership", &append.base);
        assert_int_equal(k.status, CS_RPC_OK);
        call_fini(&k);
    }
    append.entry = (ProtobufCBinaryData){ theirs.len, theirs.data };
    ask(&k, s, &s->a, "AppendMembership", &append.base);
    assert_int_equal(k.status, CS_RPC_ABORTED);
    assert_int_equal(k.head.len, CS_HUB_HEAD_LEN + 64);
    assert_true(cs_hub_head_verify(cs_hub_public_key(s->hub), &s->a.workspace, cs_slice(k.head.data, CS_HUB_HEAD_LEN),
                                   cs_slice(k.head.data + CS_HUB_HEAD_LEN, 64)));
    assert_true(cs_hub_head_decode(&head, cs_slice(k.head.data, CS_HUB_HEAD_LEN)));
    assert_int_equal(head.member_seq, 3);
    call_fini(&k);
    append.entry.len--;
    ask(&k, s, &s->a, "AppendMembership", &append.base);
    assert_int_equal(k.status, CS_RPC_INVALID_ARGUMENT);
    call_fini(&k);

    get.workspace_id = ws;
    get.device_id = id;
    get.from_seq = 2;
    ask(&k, s, &s->a, "GetMembership", &get.base);
    assert_int_equal(k.status, CS_RPC_OK);
    assert_int_equal(k.n, 1);
    a = clawsync__v1__get_membership_response__unpack(NULL, k.message[0].len, k.message[0].data);
    assert_non_null(a);
    assert_int_equal(a->n_entries, 2);
    assert_int_equal(a->entries[1].len, mine.len);
    assert_memory_equal(a->entries[1].data, mine.data, mine.len);
    check_head(s, &s->a.workspace, a->head, &head);
    FREE_ANSWER(a);
    call_fini(&k);
    maker_fini(&c);
    maker_fini(&d);
    cs_buf_free(&mine);
    cs_buf_free(&theirs);
}

static int append(struct scene *s, const struct maker *by, const struct cs_buf *entry)
{
    Clawsync__V1__AppendMembershipRequest req = CLAWSYNC__V1__APPEND_MEMBERSHIP_REQUEST__INIT;
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
    struct call k;

    cs_uuid_text(ws, &by->workspace);
    cs_uuid_text(id, &by->id);
    req.workspace_id = ws;
    req.device_id = id;
    req.entry = (ProtobufCBinaryData){ entry->len, entry->data };
    ask(&k, s, by, "AppendMembership", &req.base);
    call_fini(&k);
    return k.status;
}

/* How many entries somebody gets to see, or the status as a negative number. */
static int entries_seen(struct scene *s, const struct maker *m)
{
    Clawsync__V1__GetMembershipRequest req = CLAWSYNC__V1__GET_MEMBERSHIP_REQUEST__INIT;
    Clawsync__V1__GetMembershipResponse *a;
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
    struct call k;
    int n;

    cs_uuid_text(ws, &m->workspace);
    cs_uuid_text(id, &m->id);
    req.workspace_id = ws;
    req.device_id = id;
    ask(&k, s, m, "GetMembership", &req.base);
    if (k.status == CS_RPC_OK) {
        a = clawsync__v1__get_membership_response__unpack(NULL, k.message[0].len, k.message[0].data);
        assert_non_null(a);
        n = (int)a->n_entries;
        clawsync__v1__get_membership_response__free_unpacked(a, NULL);
    } else {
        n = -k.status;
    }
    call_fini(&k);
    return n;
}

/* The way in by an invite: who holds it sees the membership, may add one device, and nothing else. */
static void joining_by_invite(void **state)
{
    static const uint8_t secret[16] = { 9 };
    struct scene *s = *state;
    struct cs_buf genesis = { 0 }, invite = { 0 }, add = { 0 }, late = { 0 };
    struct cs_floor floor = { 0 };
    struct cs_device_keys keys;
    struct cs_error err = { 0 };
    struct maker c, by_code;
    int64_t now = cs_now_ms(s->world);
    struct pulled p;
    struct call k;

    maker_genesis(&s->a, &genesis);
    maker_learn(&s->a, cs_buf_slice(&genesis));
    register_ok(s, &s->a, cs_buf_slice(&genesis));
    push_ok(s, &s->a, 10, 1);
    cs_device_keys_derive(&keys, CS_PRINCIPAL_INVITE, cs_slice(secret, sizeof secret), &s->a.workspace);
    maker_init(&by_code, 'w', 'i');
    by_code.id = keys.id;
    by_code.keys = keys;
    assert_int_equal(cs_entry_invite(&invite, &s->a.rng, &s->a.members, &s->a.id, &s->a.keys, &keys, "for b",
                                     &s->a.epoch, &floor, now + 60000, cs_hub_public_key(s->hub), now, &err),
                     CS_OK);
    assert_int_equal(entries_seen(s, &by_code), -CS_RPC_UNAUTHENTICATED);
    assert_int_equal(append(s, &s->a, &invite), CS_RPC_OK);
    assert_int_equal(entries_seen(s, &by_code), 2);

    pull_open(&k, s, &by_code, (struct pull_options){ 0 });
    call_finish(&k);
    assert_int_equal(k.status, CS_RPC_PERMISSION_DENIED);
    call_fini(&k);

    maker_learn(&s->b, cs_buf_slice(&genesis));
    maker_learn(&s->b, cs_buf_slice(&invite));
    assert_int_equal(cs_entry_add(&add, &s->b.rng, &s->b.members, &keys.id, &keys, &s->b.id, &s->b.keys, "b",
                                  &s->b.epoch, now, &err),
                     CS_OK);
    register_ok(s, &s->b, cs_buf_slice(&add));
    maker_learn(&s->b, cs_buf_slice(&add));
    pull(s, &s->b, (struct pull_options){ 0 }, &p);
    assert_int_equal(p.nbatches, 1);
    push_ok(s, &s->b, 10, 1);

    /* The code is used up; its holder still gets to know that, and a second user gets nowhere. */
    assert_int_equal(entries_seen(s, &by_code), 3);
    maker_init(&c, 'w', 'c');
    maker_learn(&c, cs_buf_slice(&genesis));
    maker_learn(&c, cs_buf_slice(&invite));
    assert_int_equal(cs_entry_add(&late, &c.rng, &c.members, &keys.id, &keys, &c.id, &c.keys, "c", &c.epoch, now, &err),
                     CS_OK);
    register_call(&k, s, &c, cs_buf_slice(&late));
    assert_int_equal(k.status, CS_RPC_ABORTED);
    assert_int_equal(k.head.len, CS_HUB_HEAD_LEN + 64);
    call_fini(&k);
    maker_fini(&c);
    maker_fini(&by_code);
    cs_buf_free(&genesis);
    cs_buf_free(&invite);
    cs_buf_free(&add);
    cs_buf_free(&late);
}

/* An invite is good until the hub's clock says otherwise, whatever the joiner's says. */
static void expired_invite(void **state)
{
    static const uint8_t secret[16] = { 9 };
    struct scene *s = *state;
    struct cs_buf genesis = { 0 }, invite = { 0 }, add = { 0 };
    struct cs_floor floor = { 0 };
    struct cs_device_keys keys;
    struct cs_error err = { 0 };
    int64_t past = cs_now_ms(s->world) - 3600000;
    struct call k;

    maker_genesis(&s->a, &genesis);
    maker_learn(&s->a, cs_buf_slice(&genesis));
    register_ok(s, &s->a, cs_buf_slice(&genesis));
    cs_device_keys_derive(&keys, CS_PRINCIPAL_INVITE, cs_slice(secret, sizeof secret), &s->a.workspace);
    assert_int_equal(cs_entry_invite(&invite, &s->a.rng, &s->a.members, &s->a.id, &s->a.keys, &keys, "for b",
                                     &s->a.epoch, &floor, past + 60000, cs_hub_public_key(s->hub), past, &err),
                     CS_OK);
    assert_int_equal(append(s, &s->a, &invite), CS_RPC_OK);
    maker_learn(&s->b, cs_buf_slice(&genesis));
    maker_learn(&s->b, cs_buf_slice(&invite));
    assert_int_equal(cs_entry_add(&add, &s->b.rng, &s->b.members, &keys.id, &keys, &s->b.id, &s->b.keys, "b",
                                  &s->b.epoch, past, &err),
                     CS_OK);
    register_call(&k, s, &s->b, cs_buf_slice(&add));
    assert_int_not_equal(k.status, CS_RPC_OK);
    call_fini(&k);
    cs_buf_free(&genesis);
    cs_buf_free(&invite);
    cs_buf_free(&add);
}

/* The entry that removes b, by A, with B's chain cut at number and hash. A knows its key only once it is taken. */
static void build_removal(struct scene *s, uint64_t number, const uint8_t hash[32], struct cs_epoch_keys *next,
                          struct cs_buf *out)
{
    struct cs_cut cut = { .id = s->b.id, .number = number };
    struct cs_error err = { 0 };

    memcpy(cut.hash, hash, 32);
    cs_buf_reset(out);
    assert_int_equal(cs_entry_remove(out, &s->a.rng, &s->a.members, &s->a.id, &s->a.keys, &cut, 1, &s->a.epoch, next,
                                     cs_now_ms(s->world), &err),
                     CS_OK);
}

static int remove_b(struct scene *s, uint64_t number, const uint8_t hash[32], struct cs_epoch_keys *next,
                    struct cs_buf *out)
{
    build_removal(s, number, hash, next, out);
    return append(s, &s->a, out);
}

/* A device is removed behind its last batch and nowhere else; from then on it is refused, and those who stay write
 * under the new key. */
static void removing_a_device(void **state)
{
    static const uint8_t none[32] = { 0 };
    struct scene *s = *state;
    struct cs_epoch_keys next;
    struct cs_buf entry = { 0 };
    const Clawsync__V1__PushResponse *a;
    uint8_t first[32];
    struct made *late;
    struct call k, watch, stream;
    struct cs_hub_head head;
    bool required;

    two_devices(s);
    assert_int_equal(entries_seen(s, &s->a), 2);
    push_ok(s, &s->b, 10, 1);
    memcpy(first, s->b.prev, 32);
    push_ok(s, &s->b, 20, 1);
    assert_int_equal(remove_b(s, 0, none, &next, &entry), CS_RPC_ABORTED);
    assert_int_equal(remove_b(s, 1, first, &next, &entry), CS_RPC_ABORTED);
    assert_int_equal(remove_b(s, 2, first, &next, &entry), CS_RPC_ABORTED);
    assert_int_equal(remove_b(s, 3, s->b.prev, &next, &entry), CS_RPC_ABORTED);
    assert_int_equal(entries_seen(s, &s->a), 2);
    late = maker_batch(&s->b, 30, 1); /* it must not outrun the next try */
    ask(&k, s, &s->b, "Push", &late->req.base);
    a = push_answer(&k, 0);
    assert_false(a->accepted);
    assert_int_equal(a->status, CS_RPC_UNAVAILABLE);
    assert_string_equal(a->kind, "held");
    FREE_ANSWER(a);
    call_fini(&k);
    push_ok(s, &s->a, 10, 1); /* others go on */
    heartbeat(&k, s, &s->b, &required);
    assert_int_equal(k.status, CS_RPC_OK); /* a refused removal removes nobody */
    call_fini(&k);
    watch_open(&watch, s, &s->b);
    watch_head(&watch, &s->b, 0, &head);
    call_open(&stream, s, &s->b, "Push");
    assert_int_equal(remove_b(s, 2, s->b.prev, &next, &entry), CS_RPC_OK);
    call_finish(&watch);
    call_finish(&stream);
    assert_int_equal(watch.status, CS_RPC_PERMISSION_DENIED);
    assert_int_equal(stream.status, CS_RPC_PERMISSION_DENIED);
    assert_string_equal(stream.kind, "revoked");
    assert_true(watch.genuine && stream.genuine);
    call_fini(&watch);
    call_fini(&stream);
    assert_int_equal(append(s, &s->a, &entry), CS_RPC_OK); /* the very same again */
    maker_learn(&s->a, cs_buf_slice(&entry));
    assert_int_equal(entries_seen(s, &s->a), 3);

    late = maker_batch(&s->b, 10, 1);
    ask(&k, s, &s->b, "Push", &late->req.base);
    assert_int_equal(k.status, CS_RPC_PERMISSION_DENIED);
    assert_string_equal(k.kind, "revoked");
    assert_non_null(strstr(k.text, "claw-sync invite"));
    assert_int_equal(k.n, 0);
    call_fini(&k);
    late = maker_batch(&s->a, 10, 1); /* A, as before the removal */
    late->h.epoch = 1;
    made_seal(&s->a, late);
    ask(&k, s, &s->a, "Push", &late->req.base);
    a = push_answer(&k, 0);
    assert_false(a->accepted);
    assert_string_equal(a->kind, "stale-epoch");
    FREE_ANSWER(a);
    call_fini(&k);
    s->a.epoch = next;
    push_ok(s, &s->a, 10, 1);
    cs_buf_free(&entry);
}

/* One who never sent anything is cut at nothing. */
static void removing_a_silent_device(void **state)
{
    static const uint8_t none[32] = { 0 }, some[32] = { 1 };
    struct scene *s = *state;
    struct cs_epoch_keys next;
    struct cs_buf entry = { 0 };

    two_devices(s);
    assert_int_equal(remove_b(s, 1, some, &next, &entry), CS_RPC_ABORTED);
    assert_int_equal(remove_b(s, 0, none, &next, &entry), CS_RPC_OK);
    cs_buf_free(&entry);
}

/* A connection that breaks under calls of every kind: what was not acknowledged is sent again, and succeeds. */
static void connection_breaks(void **state)
{
    enum { N = 40 };
    struct scene *s = *state;
    struct cs_rpc_channel_options o = { .host = "127.0.0.1", .port = cs_hub_port(s->hub) };
    struct made *b[N];
    struct call push, watch, pulling, again;
    struct cs_error err = { 0 };
    struct pulled p;

    two_devices(s);
    watch_open(&watch, s, &s->b);
    call_open(&push, s, &s->a, "Push");
    for (int i = 0; i < N; i++) {
        b[i] = maker_batch(&s->a, 100000, 2);
        call_send(&push, &b[i]->req.base);
        maker_commit(&s->a, b[i]);
    }
    push.want = 5;
    while (push.n < 5)
        spin(s);
    pull_open(&pulling, s, &s->b, (struct pull_options){ 0 });
    cs_rpc_channel_close(s->channel);
    assert_true(push.done && watch.done && pulling.done);
    assert_int_equal(cs_rpc_channel_new(s->loop, &o, &s->channel, &err), CS_OK);
    s->has_session = false;
    call_open(&again, s, &s->a, "Push");
    for (int i = 0; i < N; i++)
        call_send(&again, &b[i]->req.base);
    cs_rpc_call_half_close(again.call);
    call_finish(&again);
    assert_int_equal(again.n, N);
    for (size_t i = 0; i < N; i++) {
        const Clawsync__V1__PushResponse *a = push_answer(&again, i);

        assert_true(a->accepted);
        assert_int_equal(a->log_number, i + 1);
        FREE_ANSWER(a);
    }
    pull(s, &s->b, (struct pull_options){ 0 }, &p);
    assert_int_equal(p.nbatches, N);
    call_fini(&push);
    call_fini(&watch);
    call_fini(&pulling);
    call_fini(&again);
}

/* Two workspaces share nothing, and the same device ids mean nothing across. */
static void workspaces_are_apart(void **state)
{
    struct scene *s = *state;
    struct cs_buf genesis = { 0 };
    struct maker other;
    struct pulled p;
    struct call k;

    two_devices(s);
    maker_init(&other, 'x', 'b');
    maker_genesis(&other, &genesis);
    maker_learn(&other, cs_buf_slice(&genesis));
    register_ok(s, &other, cs_buf_slice(&genesis));
    push_ok(s, &s->a, 10, 1);
    push_ok(s, &other, 20, 1);
    push_ok(s, &s->b, 30, 1);
    pull(s, &other, (struct pull_options){ .own_in_full = true }, &p);
    assert_int_equal(p.nbatches, 1);
    assert_int_equal(p.bytes, 72 + 20);
    pull(s, &s->a, (struct pull_options){ 0 }, &p);
    assert_int_equal(p.nbatches, 2);
    s->a.workspace = other.workspace; /* a stranger there */
    pull_open(&k, s, &s->a, (struct pull_options){ 0 });
    call_finish(&k);
    assert_int_equal(k.status, CS_RPC_UNAUTHENTICATED);
    call_fini(&k);
    maker_fini(&other);
    cs_buf_free(&genesis);
}

static void restart_keeps_everything(void **state)
{
    struct scene *s = *state;
    struct pulled before, after;
    struct call k;

    two_devices(s);
    push_ok(s, &s->a, 700, 2);
    push_ok(s, &s->b, 700, 2);
    pull(s, &s->b, (struct pull_options){ .own_in_full = true }, &before);
    hub_down(s, 0);
    hub_up(s);
    pull(s, &s->b, (struct pull_options){ .own_in_full = true, .log_id = before.head.log_id }, &after);
    assert_int_equal(after.nbatches, 2);
    assert_int_equal(after.head.log_id, before.head.log_id);
    assert_memory_equal(after.head.log_hash, before.head.log_hash, 32);
    push_ok(s, &s->a, 10, 1);
    register_ok(s, &s->b, CS_SLICE_NULL);
    pull_open(&k, s, &s->b, (struct pull_options){ .log_id = before.head.log_id ^ 1 });
    call_finish(&k);
    assert_int_equal(k.status, CS_RPC_FAILED_PRECONDITION);
    assert_memory_equal(k.text, "log-replaced", 12);
    call_fini(&k);
}

/* Whatever bytes come as a request, they are answered and nothing else happens. */
static void malformed(void **state)
{
    static const char *const methods[] = { "RegisterDevice",  "Push",          "Pull",      "Heartbeat",
                                           "Watch",           "GetMembership", "Reconcile", "ReconcileRanges",
                                           "AppendMembership" };
    static const struct cs_slice requests[] = { { (const uint8_t *)"\xff\xff\xff\xff", 4 },
                                                { (const uint8_t *)"\x0a\x7f", 2 },
                                                { (const uint8_t *)"\x0a\x01x", 3 },
                                                { (const uint8_t *)"", 0 } };
    struct scene *s = *state;
    struct call k;

    two_devices(s);
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        for (size_t r = 0; r < sizeof requests / sizeof requests[0]; r++) {
            ask_bytes(&k, s, &s->a, methods[i], requests[r]);
            call_finish(&k);
            if (k.status == CS_RPC_OK) { /* Push answers what parses */
                const Clawsync__V1__PushResponse *a = push_answer(&k, 0);

                assert_string_equal(methods[i], "Push");
                assert_int_equal(a->status, CS_RPC_INVALID_ARGUMENT);
                assert_false(a->accepted);
                FREE_ANSWER(a);
            } else {
                assert_int_equal(k.status, CS_RPC_INVALID_ARGUMENT);
                assert_string_equal(k.kind, "validation");
            }
            call_fini(&k);
        }
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) { /* no message at all */
        call_open(&k, s, &s->a, methods[i]);
        cs_rpc_call_half_close(k.call);
        call_finish(&k);
        assert_int_equal(k.status, strcmp(methods[i], "Push") == 0 ? CS_RPC_OK : CS_RPC_INVALID_ARGUMENT);
        call_fini(&k);
    }
    push_ok(s, &s->a, 10, 1);
}

/* A hub that is told to stop finishes what it has. */
static void drained_while_pushing(void **state)
{
    struct scene *s = *state;
    size_t accepted = 0;
    struct pulled p;
    struct call k;

    two_devices(s);
    call_open(&k, s, &s->a, "Push");
    for (int i = 0; i < 50; i++) {
        struct made *b = maker_batch(&s->a, 20000, 1);

        call_send(&k, &b->req.base);
        maker_commit(&s->a, b);
    }
    k.want = 3;
    spin(s);
    hub_down(s, 10000);
    assert_true(k.done);
    for (size_t i = 0; i < k.n; i++) {
        const Clawsync__V1__PushResponse *a = push_answer(&k, i);

        accepted += a->accepted ? 1 : 0;
        FREE_ANSWER(a);
    }
    assert_true(accepted >= 3);
    call_fini(&k);
    hub_up(s);
    pull(s, &s->b, (struct pull_options){ 0 }, &p);
    assert_true(p.nbatches >= accepted);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = { T(registering),
                                        T(push_and_pull),
                                        T(pull_limits),
                                        T(pull_limit_at_the_end_of_a_page),
                                        T(pipelined),
                                        T(refused_in_a_stream),
                                        T(clock_refused),
                                        T(big_batches),
                                        T(slow_reader),
                                        T(answers_not_taken),
                                        T(watching),
                                        T(resolving),
                                        T(heartbeats),
                                        T(membership_calls),
                                        T(joining_by_invite),
                                        T(expired_invite),
                                        T(removing_a_device),
                                        T(removing_a_silent_device),
                                        T(connection_breaks),
                                        T(workspaces_are_apart),
                                        T(restart_keeps_everything),
                                        T(malformed),
                                        T(drained_while_pushing) };

    return cmocka_run_group_tests_name("hub service", tests, NULL, NULL);
}
