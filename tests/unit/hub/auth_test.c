/* Who is let in, and what strangers, recordings and neighbours get: nothing, and the same nothing. */
#include "unit/hub/service_scene.h"

enum { NWORKSPACES = 3, NDEVICES = 2, NMETHODS = 10, REPLAYS = 10 };
static const char *const methods[NMETHODS] = { "Heartbeat",        "Pull", "Watch",     "GetMembership",
                                               "AppendMembership", "Pair", "Reconcile", "ReconcileRanges",
                                               "ResolveConflict",  "Push" };

/* A call as it went over the wire. */
struct recording {
    const char *method;
    struct cs_call_proof proof;
    struct cs_buf body;
};

static void pack(struct cs_buf *out, const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);

    if (n > 0)
        protobuf_c_message_pack(m, cs_buf_grow(out, n));
    assert_false(out->failed);
}

/* A request of that method in these names; of a Push one of a batch that m made. */
static void make_body(struct cs_buf *out, const char *method, struct maker *m, const struct cs_uuid *workspace,
                      const struct cs_uuid *device)
{
    Clawsync__V1__HeartbeatRequest heartbeat = CLAWSYNC__V1__HEARTBEAT_REQUEST__INIT;
    Clawsync__V1__PullRequest pulling = CLAWSYNC__V1__PULL_REQUEST__INIT;
    Clawsync__V1__SyncCursor cursor = CLAWSYNC__V1__SYNC_CURSOR__INIT;
    Clawsync__V1__WatchRequest watch = CLAWSYNC__V1__WATCH_REQUEST__INIT;
    Clawsync__V1__GetMembershipRequest get = CLAWSYNC__V1__GET_MEMBERSHIP_REQUEST__INIT;
    Clawsync__V1__AppendMembershipRequest append = CLAWSYNC__V1__APPEND_MEMBERSHIP_REQUEST__INIT;
    Clawsync__V1__ReconcileRequest reconcile = CLAWSYNC__V1__RECONCILE_REQUEST__INIT;
    Clawsync__V1__ReconcileRangesRequest ranges = CLAWSYNC__V1__RECONCILE_RANGES_REQUEST__INIT;
    Clawsync__V1__ResolveConflictRequest resolve = CLAWSYNC__V1__RESOLVE_CONFLICT_REQUEST__INIT;
    Clawsync__V1__PairRequest pair = CLAWSYNC__V1__PAIR_REQUEST__INIT;
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
    struct cs_buf entry = { 0 };

    cs_uuid_text(ws, workspace);
    cs_uuid_text(id, device);
    cs_buf_reset(out);
    if (strcmp(method, "Heartbeat") == 0) {
        heartbeat.workspace_id = ws;
        heartbeat.device_id = id;
        pack(out, &heartbeat.base);
    } else if (strcmp(method, "Pull") == 0) {
        cursor.workspace_id = pulling.workspace_id = ws;
        cursor.device_id = id;
        pulling.client_cursor = &cursor;
        pack(out, &pulling.base);
    } else if (strcmp(method, "Watch") == 0) {
        watch.workspace_id = ws;
        watch.device_id = id;
        pack(out, &watch.base);
    } else if (strcmp(method, "GetMembership") == 0) {
        get.workspace_id = ws;
        get.device_id = id;
        pack(out, &get.base);
    } else if (strcmp(method, "AppendMembership") == 0) {
        maker_genesis(m, &entry);
        append.workspace_id = ws;
        append.device_id = id;
        append.entry = (ProtobufCBinaryData){ entry.len, entry.data };
        pack(out, &append.base);
        cs_buf_free(&entry);
    } else if (strcmp(method, "Reconcile") == 0) {
        reconcile.workspace_id = ws;
        reconcile.device_id = id;
        pack(out, &reconcile.base);
    } else if (strcmp(method, "ReconcileRanges") == 0) {
        ranges.workspace_id = ws;
        ranges.device_id = id;
        ranges.action = CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_LOOK;
        pack(out, &ranges.base);
    } else if (strcmp(method, "Pair") == 0) {
        pair.workspace_id = ws;
        pair.device_id = id;
        pack(out, &pair.base);
    } else if (strcmp(method, "ResolveConflict") == 0) {
        resolve.workspace_id = ws;
        pack(out, &resolve.base);
    } else {
        pack(out, &maker_batch(m, 20, 1)->req.base);
    }
}

static void play(struct call *k, struct scene *s, const struct recording *r)
{
    call_with(k, s, r->method, &r->proof);
    assert_int_equal(cs_rpc_call_send(k->call, cs_buf_slice(&r->body)), CS_OK);
    cs_rpc_call_half_close(k->call);
}

static void refused(const struct call *k, const char *kind)
{
    assert_int_equal(k->status, CS_RPC_UNAUTHENTICATED);
    assert_string_equal(k->kind, kind);
    assert_int_equal(k->n, 0);
}

static void record(struct recording *r, struct scene *s, struct maker *m, const char *method)
{
    struct cs_slice body;

    *r = (struct recording){ .method = method };
    make_body(&r->body, method, m, &m->workspace, &m->id);
    body = cs_buf_slice(&r->body);
    prove(s, m, method, strcmp(method, "Push") == 0 ? NULL : &body, &r->proof);
}

/* The call as it is meant. */
static void play_well(struct scene *s, const struct recording *r)
{
    bool watch = strcmp(r->method, "Watch") == 0;
    struct call k;

    play(&k, s, r);
    k.want = watch ? 1 : 0;
    while (!k.done && (!watch || k.n == 0))
        spin(s);
    if (watch)
        cs_rpc_call_cancel(k.call);
    call_finish(&k);
    if (strcmp(r->method, "AppendMembership") == 0)
        assert_int_equal(k.status, CS_RPC_ABORTED); /* another genesis: understood, and no use */
    else if (strncmp(r->method, "Re", 2) == 0)
        assert_int_not_equal(k.status, CS_RPC_UNAUTHENTICATED); /* let in, whatever the hub offers of it */
    else if (!watch)
        assert_int_equal(k.status, CS_RPC_OK);
    call_fini(&k);
}

static void dead_recordings(struct scene *s, const struct recording *r, size_t n)
{
    struct call k;

    for (size_t i = 0; i < n; i++)
        for (int t = 0; t < REPLAYS; t++) {
            play(&k, s, &r[i]);
            call_finish(&k);
            refused(&k, "new-session");
            call_fini(&k);
        }
}

/* A recording with other names in its metadata. */
static void dead_as_another(struct scene *s, const struct recording *r, size_t n, const struct maker *as)
{
    for (size_t i = 0; i < n; i++) {
        struct recording other = r[i];

        other.proof.device = as->id;
        other.proof.workspace = as->workspace;
        dead_recordings(s, &other, 1);
    }
}

/* Whatever was sent once is of no use to whoever heard it: on the same connection or another one, for another device or
 * workspace, after a restart, at a hub with another key. */
static void recorded_calls_are_dead(void **state)
{
    struct scene *s = *state;
    struct recording r[NMETHODS + 1];
    struct maker elsewhere;
    struct cs_rpc_channel_options o = { .host = "127.0.0.1", .port = cs_hub_port(s->hub) };
    struct cs_buf genesis = { 0 };
    struct cs_error err = { 0 };
    cs_rpc_channel *own = s->channel, *other;
    struct call k;
    struct pulled p;

    two_devices(s);
    r[0] = (struct recording){ .method = "RegisterDevice" };
    register_make(s, &s->a, CS_SLICE_NULL, &r[0].proof, &r[0].body);
    for (int i = 0; i < NMETHODS; i++)
        record(&r[i + 1], s, &s->a, methods[i]);
    for (int i = 0; i <= NMETHODS; i++)
        play_well(s, &r[i]);
    maker_init(&elsewhere, 'x', 'e');
    maker_genesis(&elsewhere, &genesis);
    register_ok(s, &elsewhere, cs_buf_slice(&genesis));
    assert_int_equal(cs_rpc_channel_new(s->loop, &o, &other, &err), CS_OK);
    for (int i = 0; i < 2; i++) {
        s->channel = i == 0 ? own : other;
        dead_recordings(s, r, NMETHODS + 1);
        dead_as_another(s, r, NMETHODS + 1, &s->b);
        dead_as_another(s, r, NMETHODS + 1, &elsewhere);
    }
    /* on another connection a proof that was never used is none either */
    cs_buf_free(&r[1].body);
    record(&r[1], s, &s->a, "Heartbeat");
    play(&k, s, &r[1]);
    call_finish(&k);
    refused(&k, "new-session");
    call_fini(&k);
    s->channel = own;
    play_well(s, &r[1]);
    cs_rpc_channel_close(other);
    pull(s, &s->b, (struct pull_options){ 0 }, &p);
    assert_int_equal(p.nbatches, 1);
    for (int i = 0; i < 2; i++) {
        hub_down(s, 0);
        s->seed_byte = i == 0 ? 0 : 9;
        hub_up(s);
        dead_recordings(s, r, NMETHODS + 1);
        pull(s, &s->b, (struct pull_options){ 0 }, &p);
        assert_int_equal(p.nbatches, 1);
    }
    for (int i = 0; i <= NMETHODS; i++)
        cs_buf_free(&r[i].body);
    cs_buf_free(&genesis);
    maker_fini(&elsewhere);
}

/* A proof is for one method, one body, one session, one counter. */
static void a_proof_is_for_one_thing(void **state)
{
    struct scene *s = *state;
    struct recording r;
    struct cs_session mine;
    struct call k;

    two_devices(s);
    for (int i = 0; i < NMETHODS; i++) {
        record(&r, s, &s->a, methods[i]);
        r.method = methods[(i + 1) % NMETHODS]; /* another method */
        if (strcmp(r.method, "Push") != 0) {
            play(&k, s, &r);
            call_finish(&k);
            refused(&k, "auth");
            assert_true(k.genuine);
            call_fini(&k);
        }
        cs_buf_free(&r.body);
    }
    record(&r, s, &s->a, "Heartbeat"); /* another body */
    r.body.data[3] ^= 1;
    play(&k, s, &r);
    call_finish(&k);
    refused(&k, "auth");
    call_fini(&k);
    cs_buf_free(&r.body);
    mine = s->session; /* another hub, whose transcript is another */
    s->session.transcript[0] ^= 1;
    record(&r, s, &s->a, "Heartbeat");
    s->session = mine;
    play(&k, s, &r);
    call_finish(&k);
    refused(&k, "auth");
    call_fini(&k);
    cs_buf_free(&r.body);
    for (int i = 0; i < 2; i++) { /* another device, another workspace */
        record(&r, s, &s->a, "Heartbeat");
        r.proof.workspace.b[0] ^= (uint8_t)i;
        if (i == 0)
            r.proof.device = s->b.id;
        play(&k, s, &r);
        call_finish(&k);
        refused(&k, "auth");
        call_fini(&k);
        cs_buf_free(&r.body);
    }
    for (size_t bit = 0; bit < 8 * sizeof r.proof.signature; bit += 37) { /* another signature */
        cs_buf_free(&r.body);
        record(&r, s, &s->a, "Heartbeat");
        r.proof.signature[bit / 8] ^= (uint8_t)(1U << bit % 8);
        play(&k, s, &r);
        call_finish(&k);
        refused(&k, "auth");
        call_fini(&k);
    }
    r.proof.counter = 0; /* no counter at all */
    play(&k, s, &r);
    call_finish(&k);
    refused(&k, "new-session");
    call_fini(&k);
    cs_buf_free(&r.body);
}

/* ---- neighbours ---- */

struct world {
    struct maker m[NWORKSPACES][NDEVICES];
};

static void world_init(struct world *w, struct scene *s)
{
    for (int x = 0; x < NWORKSPACES; x++) {
        struct cs_buf genesis = { 0 }, add = { 0 };
        struct maker *a = &w->m[x][0], *b = &w->m[x][1];

        maker_init(a, (uint8_t)('k' + x), (uint8_t)('A' + 2 * x));
        maker_init(b, (uint8_t)('k' + x), (uint8_t)('B' + 2 * x));
        maker_genesis(a, &genesis);
        maker_learn(a, cs_buf_slice(&genesis));
        register_ok(s, a, cs_buf_slice(&genesis));
        maker_add(b, a, &add);
        maker_learn(a, cs_buf_slice(&add));
        maker_learn(b, cs_buf_slice(&genesis));
        maker_learn(b, cs_buf_slice(&add));
        register_ok(s, b, cs_buf_slice(&add));
        push_ok(s, a, 50, 1);
        cs_buf_free(&genesis);
        cs_buf_free(&add);
    }
}

/* What m gets who signs with its own key and says that it is somebody else, in the proof or in the body only. */
static void says_it_is(struct scene *s, struct maker *m, const struct cs_uuid *workspace, const struct cs_uuid *device,
                       const char *method, bool in_proof, struct call *k)
{
    struct recording r = { .method = method };
    struct maker claimed = *m;
    struct cs_slice body;

    make_body(&r.body, method, m, workspace, device);
    body = cs_buf_slice(&r.body);
    if (in_proof) {
        claimed.workspace = *workspace;
        claimed.id = *device;
    }
    prove(s, &claimed, method, strcmp(method, "Push") == 0 ? NULL : &body, &r.proof);
    play(k, s, &r);
    call_finish(k);
    cs_buf_free(&r.body);
}

/* The whole of what somebody unknown is told, always the same. */
static void strangers_answer(const struct call *k)
{
    refused(k, "auth");
    assert_string_equal(k->text, "unknown device or wrong key");
    assert_string_equal(k->others, "error-kind=auth;claw-mac-bin=;");
    assert_int_equal(k->head.len, 0);
    assert_true(k->genuine);
}

/* Every device, in the name of every other one and of some that do not exist, with every method: one answer. */
static void nobody_is_somebody_else(void **state)
{
    static const struct cs_uuid nobody = { { 1, 2, 3 } }, nowhere = { { 4, 5, 6 } };
    struct scene *s = *state;
    struct world w;
    struct pulled p;
    struct call k;
    size_t tried = 0;

    world_init(&w, s);
    for (int i = 0; i < NWORKSPACES * NDEVICES; i++) {
        struct maker *m = &w.m[i / NDEVICES][i % NDEVICES];

        for (int t = -2; t < NWORKSPACES * NDEVICES; t++) {
            const struct maker *them = t < 0 ? m : &w.m[t / NDEVICES][t % NDEVICES];
            const struct cs_uuid *ws = t == -2 ? &nowhere : &them->workspace;
            const struct cs_uuid *id = t == -1 ? &nobody : &them->id;

            if (t == i)
                continue;
            for (int j = 0; j < NMETHODS; j++)
                for (int in_proof = 0; in_proof < 2; in_proof++) {
                    if (strcmp(methods[j], "Push") == 0 && !in_proof)
                        continue; /* its body is a batch: below */
                    if (strcmp(methods[j], "ResolveConflict") == 0 && !in_proof && cs_uuid_cmp(ws, &m->workspace) == 0)
                        continue; /* its body names no device */
                    says_it_is(s, m, ws, id, methods[j], in_proof != 0, &k);
                    if (in_proof || k.status != CS_RPC_UNIMPLEMENTED)
                        strangers_answer(&k);
                    call_fini(&k);
                    tried++;
                }
        }
    }
    assert_in_range(tried, 6 * (7 * (2 * NMETHODS - 1) - 2), 6 * 7 * (2 * NMETHODS - 1));
    for (int x = 0; x < NWORKSPACES; x++) {
        pull(s, &w.m[x][1], (struct pull_options){ 0 }, &p);
        assert_int_equal(p.nbatches, 1);
        for (int d = 0; d < NDEVICES; d++)
            maker_fini(&w.m[x][d]);
    }
}

/* A batch goes in by its own device's call only. */
static void batches_of_others(void **state)
{
    struct scene *s = *state;
    const Clawsync__V1__PushResponse *a;
    struct world w;
    struct call k;

    world_init(&w, s);
    for (int x = 0; x < NWORKSPACES; x++) {
        ask(&k, s, &w.m[0][0], "Push", &maker_batch(&w.m[x][1], 10, 1)->req.base);
        assert_int_equal(k.status, CS_RPC_OK);
        a = push_answer(&k, 0);
        assert_int_equal(a->status, CS_RPC_UNAUTHENTICATED);
        assert_string_equal(a->reason, "unknown device or wrong key");
        FREE_ANSWER(a);
        call_fini(&k);
    }
    for (int i = 0; i < NWORKSPACES * NDEVICES; i++)
        maker_fini(&w.m[i / NDEVICES][i % NDEVICES]);
}

/* Another's id with one's own keys, and one's own challenge out of its session. */
static void registering_as_another(void **state)
{
    static const struct cs_uuid nobody = { { 1, 2, 3 } };
    struct scene *s = *state;
    struct maker thief;
    struct cs_call_proof p;
    struct cs_buf body = { 0 };
    struct call k;

    two_devices(s);
    maker_init(&thief, 'w', 't');
    for (int i = 0; i < 2; i++) {
        thief.id = i == 0 ? s->a.id : nobody;
        register_call(&k, s, &thief, CS_SLICE_NULL);
        refused(&k, "auth");
        assert_string_equal(k.text, "unknown device or wrong key");
        call_fini(&k);
    }
    register_make(s, &s->a, CS_SLICE_NULL, &p, &body); /* another counter than the one that was signed */
    p.counter = ++s->counter;
    call_with(&k, s, "RegisterDevice", &p);
    assert_int_equal(cs_rpc_call_send(k.call, cs_buf_slice(&body)), CS_OK);
    cs_rpc_call_half_close(k.call);
    call_finish(&k);
    refused(&k, "auth");
    call_fini(&k);
    cs_buf_free(&body);
    maker_fini(&thief);
    register_ok(s, &s->a, CS_SLICE_NULL);
}

/* Somebody founds a workspace of a name at home, and comes with an entry by which it adds a device there: whether the
 * hub has a workspace of that name, it does not learn. */
static void adding_oneself_elsewhere(void **state)
{
    struct scene *s = *state;
    struct world w;

    world_init(&w, s);
    for (int x = 0; x <= NWORKSPACES; x++) { /* the last one does not exist */
        struct cs_buf genesis = { 0 }, add = { 0 };
        struct maker founder, m;
        struct call k;

        maker_init(&founder, (uint8_t)('k' + x), 'f');
        maker_genesis(&founder, &genesis);
        maker_learn(&founder, cs_buf_slice(&genesis));
        for (uint8_t i = 0; i < 4; i++) { /* in place of an entry that is there, as the next one, and behind that */
            maker_init(&m, (uint8_t)('k' + x), (uint8_t)('p' + i));
            cs_buf_reset(&add);
            maker_add(&m, &founder, &add);
            maker_learn(&founder, cs_buf_slice(&add));
            register_call(&k, s, &m, cs_buf_slice(&add));
            strangers_answer(&k);
            call_fini(&k);
            register_call(&k, s, &m, CS_SLICE_NULL);
            strangers_answer(&k);
            call_fini(&k);
            maker_fini(&m);
        }
        if (x < NWORKSPACES) {
            register_call(&k, s, &founder, cs_buf_slice(&genesis)); /* the one thing that tells */
            assert_int_equal(k.status, CS_RPC_ALREADY_EXISTS);
            assert_int_equal(k.head.len, 0);
            call_fini(&k);
        }
        maker_fini(&founder);
        cs_buf_free(&genesis);
        cs_buf_free(&add);
    }
    for (int i = 0; i < NWORKSPACES * NDEVICES; i++)
        maker_fini(&w.m[i / NDEVICES][i % NDEVICES]);
}

/* Registering with every other device's names, and with those of nobody. */
static void registering_in_every_name(void **state)
{
    static const struct cs_uuid nobody = { { 1, 2, 3 } }, nowhere = { { 4, 5, 6 } };
    struct scene *s = *state;
    struct world w;
    struct call k;

    world_init(&w, s);
    for (int i = 0; i < NWORKSPACES * NDEVICES; i++)
        for (int t = -2; t < NWORKSPACES * NDEVICES; t++) {
            struct maker claimed = w.m[i / NDEVICES][i % NDEVICES];
            const struct maker *them = t < 0 ? &claimed : &w.m[t / NDEVICES][t % NDEVICES];

            if (t == i)
                continue;
            claimed.workspace = t == -2 ? nowhere : them->workspace;
            claimed.id = t == -1 ? nobody : them->id;
            register_call(&k, s, &claimed, CS_SLICE_NULL);
            strangers_answer(&k);
            call_fini(&k);
        }
    for (int i = 0; i < NWORKSPACES * NDEVICES; i++)
        maker_fini(&w.m[i / NDEVICES][i % NDEVICES]);
}

/* What needs no proof gives the same to everybody, whoever they say they are. */
static void public_calls_tell_nothing(void **state)
{
    static const struct {
        const char *method;
        uint8_t body[40];
        size_t len;
    } calls[] = {
        { "/grpc.health.v1.Health/Check", { 0 }, 0 },
        { "/grpc.health.v1.Health/Check", { 0x0a, 1, 'x' }, 3 },
        { "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", { 0x3a, 0 }, 2 },
        { "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", { 0x3a, 0 }, 2 },
        { "OpenSession", { 0x0a, 1, 1 }, 3 },
    };
    struct scene *s = *state;
    struct maker stranger;

    two_devices(s);
    maker_init(&stranger, 'z', 'z');
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        struct cs_slice body = cs_slice(calls[i].body, calls[i].len);
        struct call k[4];
        struct cs_call_proof p;

        for (size_t n = 0; n < 4; n++) {
            prove(s, n == 1 ? &s->a : n == 2 ? &s->b : &stranger, calls[i].method, &body, &p);
            if (n == 0)
                call_new(&k[n], s, calls[i].method, NULL);
            else
                call_with(&k[n], s, calls[i].method, &p);
            assert_int_equal(cs_rpc_call_send(k[n].call, body), CS_OK);
            cs_rpc_call_half_close(k[n].call);
            call_finish(&k[n]);
            assert_int_equal(k[n].status, k[0].status);
            assert_string_equal(k[n].text, k[0].text);
            assert_string_equal(k[n].others, k[0].others);
            assert_int_equal(k[n].n, k[0].n);
            for (size_t m = 0; m < k[n].n; m++)
                assert_true(cs_slice_eq(k[n].message[m], k[0].message[m]));
        }
        for (size_t n = 0; n < 4; n++)
            call_fini(&k[n]);
    }
    maker_fini(&stranger);
}

/* ---- limits ---- */

static int limited_setup(void **state)
{
    struct scene *s;

    setup(state);
    s = *state;
    hub_down(s, 0);
    s->options.limit_loopback = true;
    hub_up(s);
    return 0;
}

/* Guessing gets an address nowhere after a while; who has proven itself is not held up by it. */
static void failures_run_out(void **state)
{
    struct scene *s = *state;
    struct maker stranger;
    struct cs_rpc_channel_options o = { .host = "127.0.0.1", .port = cs_hub_port(s->hub) };
    struct cs_error err = { 0 };
    struct call k = { 0 };
    cs_rpc_channel *own;
    struct cs_session mine;
    uint64_t counter;
    bool required;

    two_devices(s);
    maker_init(&stranger, 'w', 's');
    own = s->channel;
    mine = s->session;
    counter = s->counter;
    assert_int_equal(cs_rpc_channel_new(s->loop, &o, &s->channel, &err), CS_OK);
    s->has_session = false;
    while (k.status != CS_RPC_RESOURCE_EXHAUSTED) {
        heartbeat(&k, s, &stranger, &required);
        if (k.status != CS_RPC_RESOURCE_EXHAUSTED)
            refused(&k, "auth");
        call_fini(&k);
    }
    cs_rpc_channel_close(s->channel);
    s->channel = own;
    s->session = mine;
    s->counter = counter;
    heartbeat(&k, s, &s->a, &required);
    assert_int_equal(k.status, CS_RPC_OK);
    call_fini(&k);
    maker_fini(&stranger);
}

/* ---- quotas ---- */

static int limited_workspace_setup(void **state)
{
    struct scene *s;

    setup(state);
    s = *state;
    hub_down(s, 0);
    s->options.quota_devices = 2;
    s->options.quota_bytes = 2000;
    s->options.quota_bytes_per_s = 1000000;
    hub_up(s);
    return 0;
}

static void push_refused(struct scene *s, struct maker *m, uint32_t len)
{
    const Clawsync__V1__PushResponse *a;
    struct call k;

    ask(&k, s, m, "Push", &maker_batch(m, len, 1)->req.base);
    assert_int_equal(k.status, CS_RPC_OK);
    a = push_answer(&k, 0);
    assert_false(a->accepted);
    assert_int_equal(a->status, CS_RPC_RESOURCE_EXHAUSTED);
    assert_string_equal(a->kind, "limit");
    assert_non_null(strstr(a->reason, "CLAW_SYNC_QUOTA_BYTES")); /* why, and what to do */
    assert_true(strstr(a->reason, "try again") != NULL || strstr(a->reason, "ask who runs it") != NULL);
    FREE_ANSWER(a);
    call_fini(&k);
}

/* What one workspace has too much of, another one does not notice. */
static void a_workspace_has_its_share(void **state)
{
    struct scene *s = *state;
    struct cs_buf add = { 0 };
    struct world w;
    struct maker third;
    struct call k;

    world_init(&w, s); /* two devices and 122 bytes each */
    push_ok(s, &w.m[0][0], 1000, 1);
    push_refused(s, &w.m[0][0], 1000);
    push_refused(s, &w.m[0][1], 1000);
    push_ok(s, &w.m[0][1], 500, 1);
    hub_down(s, 0);
    hub_up(s);
    push_refused(s, &w.m[0][0], 300); /* it counts what it had */
    push_ok(s, &w.m[1][0], 1000, 1);
    maker_init(&third, 'k', 'T');
    maker_add(&third, &w.m[0][0], &add);
    register_call(&k, s, &third, cs_buf_slice(&add));
    assert_int_equal(k.status, CS_RPC_RESOURCE_EXHAUSTED);
    assert_string_equal(k.kind, "limit");
    assert_non_null(strstr(k.text, "devices revoke"));
    call_fini(&k);
    cs_buf_free(&add);
    push_ok(s, &w.m[0][0], 100, 1); /* a refused entry leaves nothing behind */
    maker_fini(&third);
    for (int i = 0; i < NWORKSPACES * NDEVICES; i++)
        maker_fini(&w.m[i / NDEVICES][i % NDEVICES]);
}

static int slow_workspace_setup(void **state)
{
    struct scene *s;

    setup(state);
    s = *state;
    hub_down(s, 0);
    s->options.quota_bytes_per_s = 1;
    hub_up(s);
    return 0;
}

static void a_workspace_has_its_pace(void **state)
{
    struct scene *s = *state;
    struct cs_buf genesis = { 0 };
    struct maker other;

    two_devices(s);
    push_ok(s, &s->a, 1000000, 1); /* overdrawn for eleven days */
    push_refused(s, &s->a, 10);
    push_refused(s, &s->b, 10);
    maker_init(&other, 'x', 'b');
    maker_genesis(&other, &genesis);
    maker_learn(&other, cs_buf_slice(&genesis));
    register_ok(s, &other, cs_buf_slice(&genesis));
    for (int i = 0; i < 20; i++) { /* whatever the one tries, the other one is served */
        struct recording r;

        push_refused(s, &s->a, 10);
        if (i == 0)
            push_ok(s, &other, 1000, 1);
        record(&r, s, &other, methods[i % (NMETHODS - 1)]);
        play_well(s, &r);
        cs_buf_free(&r.body);
    }
    maker_fini(&other);
    cs_buf_free(&genesis);
}

/* The same by registering, whose proof is in the body. */
static void failed_registrations_run_out(void **state)
{
    struct scene *s = *state;
    struct maker stranger;
    struct call k = { 0 };

    maker_init(&stranger, 'w', 's');
    while (k.status != CS_RPC_RESOURCE_EXHAUSTED) {
        register_call(&k, s, &stranger, CS_SLICE_NULL);
        if (k.status != CS_RPC_RESOURCE_EXHAUSTED)
            refused(&k, "auth");
        call_fini(&k);
    }
    maker_fini(&stranger);
}

static int proxied_setup(void **state)
{
    struct scene *s;

    setup(state);
    s = *state;
    hub_down(s, 0);
    s->options.behind_proxy = true;
    hub_up(s);
    return 0;
}

static void behind_a_proxy_connections_are_shared(void **state)
{
    struct scene *s = *state;
    struct cs_rpc_channel_options o = { .host = "127.0.0.1", .port = cs_hub_port(s->hub) };
    struct cs_error err = { 0 };
    cs_rpc_channel *own = s->channel;
    struct recording r;

    two_devices(s);
    record(&r, s, &s->a, "Heartbeat");
    assert_int_equal(cs_rpc_channel_new(s->loop, &o, &s->channel, &err), CS_OK);
    play_well(s, &r);
    dead_recordings(s, &r, 1);
    cs_rpc_channel_close(s->channel);
    s->channel = own;
    dead_recordings(s, &r, 1);
    cs_buf_free(&r.body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(recorded_calls_are_dead, setup, teardown),
        cmocka_unit_test_setup_teardown(a_proof_is_for_one_thing, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_is_somebody_else, setup, teardown),
        cmocka_unit_test_setup_teardown(batches_of_others, setup, teardown),
        cmocka_unit_test_setup_teardown(registering_as_another, setup, teardown),
        cmocka_unit_test_setup_teardown(registering_in_every_name, setup, teardown),
        cmocka_unit_test_setup_teardown(adding_oneself_elsewhere, setup, teardown),
        cmocka_unit_test_setup_teardown(public_calls_tell_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(failures_run_out, limited_setup, teardown),
        cmocka_unit_test_setup_teardown(failed_registrations_run_out, limited_setup, teardown),
        cmocka_unit_test_setup_teardown(a_workspace_has_its_share, limited_workspace_setup, teardown),
        cmocka_unit_test_setup_teardown(a_workspace_has_its_pace, slow_workspace_setup, teardown),
        cmocka_unit_test_setup_teardown(behind_a_proxy_connections_are_shared, proxied_setup, teardown),
    };

    return cmocka_run_group_tests_name("hub authentication", tests, NULL, NULL);
}
