/* The service over real connections: hub and clients in one process, on one loop. */
#include "unit/hub/batch_maker.h"

#include <signal.h>
#include <unistd.h>

#include "base/loop.h"
#include "hub/hub.h"
#include "rpc/rpc.h"

#define SERVICE "/clawsync.v1.SyncService/"

struct scene {
    struct cs_world *world;
    cs_loop *loop;
    cs_hub *hub;
    cs_rpc_channel *channel;
    cs_timer *timer;
    bool timed_out;
    char dir[64], database[128];
    struct maker a, b;
    struct cs_session session; /* the channel's */
    uint64_t counter;
    bool has_session;
};

/* A call and everything that came of it. */
struct call {
    struct scene *s;
    cs_rpc_call *call;
    struct cs_arena arena;
    struct cs_slice message[512]; /* the first ones */
    size_t n;                     /* messages */
    size_t want;                  /* stop the loop at so many messages */
    size_t bytes;
    bool done;
    int status;
    char text[300], kind[32];
    struct cs_buf head; /* the claw-head-bin trailer */
    bool genuine;       /* its end has the right MAC */
    bool unary, proven;
    uint64_t counter;
};

static void timed_out(void *arg)
{
    struct scene *s = arg;

    s->timed_out = true;
    cs_loop_stop(s->loop);
}

/* Runs the loop until something stops it. */
static void spin(struct scene *s)
{
    cs_timer_start(s->timer, 60000);
    cs_loop_run(s->loop);
    cs_timer_stop(s->timer);
    assert_false(s->timed_out);
}

static void on_message(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    struct call *k = arg;

    (void)c;
    if (k->n < sizeof k->message / sizeof k->message[0])
        k->message[k->n] = cs_arena_copy(&k->arena, msg);
    k->n++;
    k->bytes += msg.len;
    if (k->n == k->want)
        cs_loop_stop(k->s->loop);
}

static bool is_genuine(const struct call *k, int status, const struct cs_rpc_metadata *trailers)
{
    struct cs_slice mac = cs_rpc_metadata_get(trailers, "claw-mac-bin"), answer = CS_SLICE_NULL;
    uint8_t want[CS_ANSWER_MAC_LEN];

    if (k->unary && k->n == 1)
        answer = k->message[0];
    cs_answer_mac(k->s->session.answer_key, k->counter, (uint32_t)status, answer, want);
    return mac.len == sizeof want && memcmp(mac.data, want, sizeof want) == 0;
}

static void on_done(cs_rpc_call *c, void *arg, int status, const char *text, const struct cs_rpc_metadata *trailers)
{
    struct call *k = arg;
    struct cs_slice kind = trailers == NULL ? CS_SLICE_NULL : cs_rpc_metadata_get(trailers, "error-kind");

    (void)c;
    k->done = true;
    k->call = NULL;
    k->status = status;
    k->genuine = is_genuine(k, status, trailers);
    snprintf(k->text, sizeof k->text, "%s", text == NULL ? "" : text);
    snprintf(k->kind, sizeof k->kind, "%.*s", (int)kind.len, kind.data == NULL ? "" : (const char *)kind.data);
    if (trailers != NULL)
        cs_buf_put_slice(&k->head, cs_rpc_metadata_get(trailers, "claw-head-bin"));
    cs_loop_stop(k->s->loop);
}

static const struct cs_rpc_client_cb call_cb = { .message = on_message, .done = on_done };

static void call_new(struct call *k, struct scene *s, const char *method, const struct cs_rpc_metadata *m)
{
    struct cs_error err = { 0 };
    char path[80];

    *k = (struct call){ .s = s };
    snprintf(path, sizeof path, SERVICE "%s", method);
    assert_int_equal(cs_rpc_call_new(s->channel, path, m, 0, &call_cb, k, &k->call, &err), CS_OK);
}

/* A call with a proof's bytes, whoever made it. */
static void call_with(struct call *k, struct scene *s, const char *method, const struct cs_call_proof *p)
{
    char text[CS_CALL_PROOF_TEXT];
    struct cs_rpc_meta meta = { "authorization", { 0 } };
    struct cs_rpc_metadata m = { &meta, 1 };

    cs_call_proof_text(p, text);
    meta.value = cs_slice_str(text);
    call_new(k, s, method, &m);
    k->proven = true;
    k->counter = p->counter;
    k->unary = strcmp(method, "RegisterDevice") == 0 || strcmp(method, "AppendMembership") == 0 ||
               strcmp(method, "Heartbeat") == 0;
}

static void session_open(struct scene *s);

/* The proof of m's next call with this body; NULL: Push. */
static void prove(struct scene *s, const struct maker *m, const char *method, const struct cs_slice *body,
                  struct cs_call_proof *p)
{
    char path[80];

    if (!s->has_session)
        session_open(s);
    *p = (struct cs_call_proof){ .counter = ++s->counter, .workspace = m->workspace, .device = m->id };
    if (body != NULL)
        cs_hash_plain(*body, p->body_hash);
    snprintf(path, sizeof path, SERVICE "%s", method);
    cs_call_prove(&s->session, &m->keys.sign, path, p);
    if (strcmp(method, "RegisterDevice") == 0) { /* its proof is in its body */
        memset(p->signature, 0, sizeof p->signature);
        memset(p->body_hash, 0, sizeof p->body_hash);
    }
}

static void call_open(struct call *k, struct scene *s, const struct maker *m, const char *method)
{
    struct cs_call_proof p;

    prove(s, m, method, NULL, &p);
    call_with(k, s, method, &p);
}

static void call_send(struct call *k, const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p = malloc(n + 1);

    assert_non_null(p);
    protobuf_c_message_pack(m, p);
    assert_int_equal(cs_rpc_call_send(k->call, cs_slice(p, n)), CS_OK);
    free(p);
}

static void call_finish(struct call *k)
{
    while (!k->done)
        spin(k->s);
}

static void call_fini(struct call *k)
{
    cs_arena_free(&k->arena);
    cs_buf_free(&k->head);
}

/* One request; the proof is over its bytes. */
static void ask_bytes(struct call *k, struct scene *s, const struct maker *m, const char *method, struct cs_slice body)
{
    bool push = strcmp(method, "Push") == 0;
    struct cs_call_proof p;

    prove(s, m, method, push ? NULL : &body, &p);
    call_with(k, s, method, &p);
    assert_int_equal(cs_rpc_call_send(k->call, body), CS_OK);
    cs_rpc_call_half_close(k->call);
}

static void ask_begin(struct call *k, struct scene *s, const struct maker *m, const char *method,
                      const ProtobufCMessage *req)
{
    size_t n = protobuf_c_message_get_packed_size(req);
    uint8_t *p = malloc(n + 1);

    assert_non_null(p);
    protobuf_c_message_pack(req, p);
    ask_bytes(k, s, m, method, cs_slice(p, n));
    free(p);
}

/* Sends one request and waits for the end. */
static void ask(struct call *k, struct scene *s, const struct maker *m, const char *method, const ProtobufCMessage *req)
{
    ask_begin(k, s, m, method, req);
    call_finish(k);
    assert_true(k->genuine);
}

static void session_open(struct scene *s)
{
    Clawsync__V1__OpenSessionRequest req = CLAWSYNC__V1__OPEN_SESSION_REQUEST__INIT;
    Clawsync__V1__OpenSessionResponse *a;
    struct cs_session_hello hello;
    struct cs_error err = { 0 };
    struct call k;

    cs_session_begin(&s->a.rng, &hello);
    req.hello = (ProtobufCBinaryData){ sizeof hello.bytes, hello.bytes };
    call_new(&k, s, "OpenSession", NULL);
    call_send(&k, &req.base);
    cs_rpc_call_half_close(k.call);
    call_finish(&k);
    assert_int_equal(k.status, CS_RPC_OK);
    a = clawsync__v1__open_session_response__unpack(NULL, k.message[0].len, k.message[0].data);
    assert_non_null(a);
    assert_int_equal(
        cs_session_finish(&hello, cs_slice(a->reply.data, a->reply.len), cs_hub_public_key(s->hub), &s->session, &err),
        CS_OK);
    clawsync__v1__open_session_response__free_unpacked(a, NULL);
    call_fini(&k);
    s->counter = 0;
    s->has_session = true;
}

static const Clawsync__V1__PushResponse *push_answer(const struct call *k, size_t i)
{
    const Clawsync__V1__PushResponse *a;

    assert_true(i < k->n);
    a = clawsync__v1__push_response__unpack(NULL, k->message[i].len, k->message[i].data);
    assert_non_null(a);
    return a;
}
#define FREE_ANSWER(a) protobuf_c_message_free_unpacked((ProtobufCMessage *)(uintptr_t) & (a)->base, NULL)

static void check_head(struct scene *s, const struct cs_uuid *ws, const Clawsync__V1__HubHead *m,
                       struct cs_hub_head *out)
{
    assert_non_null(m);
    assert_true(cs_hub_head_verify(cs_hub_public_key(s->hub), ws, cs_slice(m->signed_bytes.data, m->signed_bytes.len),
                                   cs_slice(m->signature.data, m->signature.len)));
    assert_true(cs_hub_head_decode(out, cs_slice(m->signed_bytes.data, m->signed_bytes.len)));
}

static void hub_up(struct scene *s)
{
    struct cs_hub_options o = { .host = "127.0.0.1", .database = s->database };
    struct cs_rpc_channel_options c = { .host = "127.0.0.1" };
    struct cs_error err = { 0 };

    memset(o.key_seed, 7, sizeof o.key_seed);
    if (cs_hub_start(s->world, s->loop, &o, &s->hub, &err) != CS_OK)
        fail_msg("%s", err.msg);
    c.port = cs_hub_port(s->hub);
    assert_int_equal(cs_rpc_channel_new(s->loop, &c, &s->channel, &err), CS_OK);
    s->has_session = false;
}

static void on_stopped(void *arg)
{
    struct scene *s = arg;

    s->hub = NULL;
    cs_loop_stop(s->loop);
}

static void hub_down(struct scene *s, uint32_t drain_ms)
{
    cs_hub_stop(s->hub, drain_ms, on_stopped, s);
    while (s->hub != NULL)
        spin(s);
    cs_rpc_channel_close(s->channel);
    s->channel = NULL;
}

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    struct cs_error err = { 0 };

    assert_non_null(s);
    signal(SIGPIPE, SIG_IGN);
    s->world = cs_world_real();
    snprintf(s->dir, sizeof s->dir, "/tmp/cs_hub_service_XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->database, sizeof s->database, "%s/hub.db", s->dir);
    assert_int_equal(cs_loop_new(s->world, &s->loop, &err), CS_OK);
    assert_int_equal(cs_timer_new(s->loop, timed_out, s, &s->timer), CS_OK);
    maker_init(&s->a, 'w', 'a');
    maker_init(&s->b, 'w', 'b');
    hub_up(s);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;
    char command[100];

    hub_down(s, 0);
    cs_timer_close(s->timer);
    cs_loop_free(s->loop);
    maker_fini(&s->a);
    maker_fini(&s->b);
    snprintf(command, sizeof command, "rm -r %s", s->dir);
    assert_int_equal(system(command), 0);
    free(s);
    return 0;
}

/* ---- steps ---- */

/* The proof and the request of a registration, the proof good for the next call. */
static void register_make(struct scene *s, const struct maker *m, struct cs_slice entry, struct cs_call_proof *p,
                          struct cs_buf *body)
{
    Clawsync__V1__RegisterDeviceRequest req = CLAWSYNC__V1__REGISTER_DEVICE_REQUEST__INIT;
    Clawsync__V1__DeviceInfo info = CLAWSYNC__V1__DEVICE_INFO__INIT;
    struct cs_register_proof proof = { .workspace = m->workspace, .device = m->id, .membership_entry = entry };
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
    struct cs_buf key = { 0 };
    uint8_t sig[64];
    size_t n;

    if (!s->has_session)
        session_open(s);
    proof.counter = ++s->counter;
    memcpy(proof.sign_pk, m->keys.sign.pk, 32);
    memcpy(proof.box_pk, m->keys.box_pk, 32);
    cs_register_prove(&s->session, &m->keys.sign, &proof, sig);
    *p = (struct cs_call_proof){ .counter = proof.counter, .workspace = m->workspace, .device = m->id };
    memcpy(p->session, s->session.id, sizeof p->session);
    cs_uuid_text(ws, &m->workspace);
    cs_uuid_text(id, &m->id);
    cs_base64(&key, cs_slice(m->keys.sign.pk, 32), false);
    cs_buf_put_u8(&key, 0);
    info.workspace_id = ws;
    info.device_id = id;
    info.public_key_b64 = (char *)key.data;
    req.device = &info;
    req.box_public_key = (ProtobufCBinaryData){ 32, (uint8_t *)(uintptr_t)m->keys.box_pk };
    req.signed_challenge = (ProtobufCBinaryData){ 64, sig };
    req.membership_entry = (ProtobufCBinaryData){ entry.len, (uint8_t *)(uintptr_t)entry.data };
    n = clawsync__v1__register_device_request__get_packed_size(&req);
    clawsync__v1__register_device_request__pack(&req, cs_buf_grow(body, n));
    cs_buf_free(&key);
}

static void register_call(struct call *k, struct scene *s, struct maker *m, struct cs_slice entry)
{
    struct cs_buf body = { 0 };
    struct cs_call_proof p;

    register_make(s, m, entry, &p, &body);
    call_with(k, s, "RegisterDevice", &p);
    assert_int_equal(cs_rpc_call_send(k->call, cs_buf_slice(&body)), CS_OK);
    cs_rpc_call_half_close(k->call);
    call_finish(k);
    assert_true(k->genuine);
    cs_buf_free(&body);
}

static void register_ok(struct scene *s, struct maker *m, struct cs_slice entry)
{
    const Clawsync__V1__RegisterDeviceResponse *a;
    struct cs_hub_head head;
    struct call k;

    register_call(&k, s, m, entry);
    if (k.status != CS_RPC_OK)
        fail_msg("%d %s", k.status, k.text);
    assert_int_equal(k.n, 1);
    a = clawsync__v1__register_device_response__unpack(NULL, k.message[0].len, k.message[0].data);
    assert_non_null(a);
    assert_true(a->accepted);
    assert_int_equal(a->state, CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_MEMBER);
    assert_int_equal(a->server_public_key.len, 32);
    assert_memory_equal(a->server_public_key.data, cs_hub_public_key(s->hub), 32);
    check_head(s, &m->workspace, a->head, &head);
    maker_saw(m, &head);
    FREE_ANSWER(a);
    call_fini(&k);
}

/* A makes the workspace and adds B. */
static void two_devices(struct scene *s)
{
    struct cs_buf genesis = { 0 }, add = { 0 };

    maker_genesis(&s->a, &genesis);
    maker_learn(&s->a, cs_buf_slice(&genesis));
    register_ok(s, &s->a, cs_buf_slice(&genesis));
    maker_add(&s->b, &s->a, &add);
    maker_learn(&s->a, cs_buf_slice(&add));
    maker_learn(&s->b, cs_buf_slice(&genesis));
    maker_learn(&s->b, cs_buf_slice(&add));
    register_ok(s, &s->b, cs_buf_slice(&add));
    cs_buf_free(&genesis);
    cs_buf_free(&add);
}

static void push_ok(struct scene *s, struct maker *m, uint32_t len, uint32_t nchunks)
{
    struct made *b = maker_batch(m, len, nchunks);
    const Clawsync__V1__PushResponse *a;
    struct call k;

    ask(&k, s, m, "Push", &b->req.base);
    assert_int_equal(k.status, CS_RPC_OK);
    assert_int_equal(k.n, 1);
    a = push_answer(&k, 0);
    if (!a->accepted)
        fail_msg("%s: %s", a->kind, a->reason);
    maker_commit(m, b);
    FREE_ANSWER(a);
    call_fini(&k);
}

struct pull_options {
    int64_t after;
    uint64_t log_id;
    int32_t max_chunks;
    bool own_in_full;
    const char *type;
};

static void pull_open(struct call *k, struct scene *s, struct maker *m, struct pull_options o)
{
    Clawsync__V1__PullRequest req = CLAWSYNC__V1__PULL_REQUEST__INIT;
    Clawsync__V1__SyncCursor cursor = CLAWSYNC__V1__SYNC_CURSOR__INIT;
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
    char *type = (char *)(uintptr_t)o.type;

    cs_uuid_text(ws, &m->workspace);
    cs_uuid_text(id, &m->id);
    cursor.workspace_id = req.workspace_id = ws;
    cursor.device_id = id;
    cursor.lamport_clock = o.after;
    cursor.log_id = o.log_id;
    req.client_cursor = &cursor;
    req.max_chunks = o.max_chunks;
    req.own_in_full = o.own_in_full;
    req.entity_types = &type;
    req.n_entity_types = o.type != NULL;
    ask_begin(k, s, m, "Pull", &req.base);
}

/* What a pull brought, checked along the way: numbers without gaps, chunks in order, the chain of log hashes. */
struct pulled {
    size_t nbatches, nfull, nchunks;
    size_t bytes;
    uint64_t last;
    bool has_more;
    struct cs_hub_head head;
};

static void pulled_check(struct call *k, struct maker *m, uint64_t after, struct pulled *out)
{
    uint32_t next = 0, total = 0;

    *out = (struct pulled){ .last = after };
    assert_int_equal(k->status, CS_RPC_OK);
    assert_true(k->n > 0 && k->n <= sizeof k->message / sizeof k->message[0]);
    for (size_t i = 0; i < k->n; i++) {
        const Clawsync__V1__PullResponse *a =
            clawsync__v1__pull_response__unpack(NULL, k->message[i].len, k->message[i].data);

        assert_non_null(a);
        for (size_t c = 0; c < a->n_chunks; c++) {
            const Clawsync__V1__DeltaChunk *d = a->chunks[c];

            if (next == total) {
                assert_non_null(d->envelope);
                assert_int_equal(d->seq, 0);
                assert_int_equal(d->envelope->log_number, out->last + 1);
                out->last++;
                out->nbatches++;
                total = (uint32_t)d->total;
                next = d->encrypted_payload.len == 0 ? total : 1;
                out->nfull += d->encrypted_payload.len != 0;
            } else {
                assert_null(d->envelope);
                assert_int_equal(d->seq, next);
                next++;
            }
            out->nchunks++;
            out->bytes += d->encrypted_payload.len;
            if (d->encrypted_payload.len > 0) {
                uint8_t hash[32];

                cs_hash_plain(cs_slice(d->encrypted_payload.data, d->encrypted_payload.len), hash);
                assert_int_equal(d->payload_hash.len, 32);
                assert_memory_equal(hash, d->payload_hash.data, 32);
            }
        }
        if (i + 1 == k->n) {
            check_head(k->s, &m->workspace, a->head, &out->head);
            out->has_more = a->has_more;
        } else {
            assert_null(a->head);
            assert_true(a->has_more);
        }
        FREE_ANSWER(a);
    }
    assert_int_equal(next, total);
}

static void pull(struct scene *s, struct maker *m, struct pull_options o, struct pulled *out)
{
    struct call k;

    pull_open(&k, s, m, o);
    call_finish(&k);
    pulled_check(&k, m, (uint64_t)o.after, out);
    call_fini(&k);
}

/* ---- tests ---- */

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

static void heartbeat(struct call *k, struct scene *s, struct maker *m, bool *sync_required)
{
    Clawsync__V1__HeartbeatRequest req = CLAWSYNC__V1__HEARTBEAT_REQUEST__INIT;
    const Clawsync__V1__HeartbeatResponse *a;
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
    struct cs_hub_head head;

    cs_uuid_text(ws, &m->workspace);
    cs_uuid_text(id, &m->id);
    req.workspace_id = ws;
    req.device_id = id;
    ask(k, s, m, "Heartbeat", &req.base);
    if (k->status != CS_RPC_OK)
        return;
    a = clawsync__v1__heartbeat_response__unpack(NULL, k->message[0].len, k->message[0].data);
    assert_non_null(a);
    check_head(s, &m->workspace, a->head, &head);
    assert_in_range(a->server_time, cs_now_ms(s->world) - 60000, cs_now_ms(s->world));
    *sync_required = a->sync_required;
    FREE_ANSWER(a);
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
    static const char *const methods[] = { "RegisterDevice",  "Push", "Pull", "Heartbeat", "Watch", "GetMembership",
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
    call_open(&k, s, &s->a, "Reconcile");
    cs_rpc_call_half_close(k.call);
    call_finish(&k);
    assert_int_equal(k.status, CS_RPC_UNIMPLEMENTED);
    call_fini(&k);
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
                                        T(pipelined),
                                        T(refused_in_a_stream),
                                        T(clock_refused),
                                        T(big_batches),
                                        T(slow_reader),
                                        T(answers_not_taken),
                                        T(watching),
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
