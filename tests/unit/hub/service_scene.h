/* The service over real connections: hub and clients in one process, on one loop. */
#ifndef CS_TESTS_SERVICE_SCENE_H
#define CS_TESTS_SERVICE_SCENE_H

#include "unit/hub/batch_maker.h"

#include <signal.h>
#include <unistd.h>

#include "base/loop.h"
#include "hub/hub.h"
#include "rpc/rpc.h"
#include "scratch.h"

#define SERVICE "/clawsync.v1.SyncService/"

struct scene {
    struct cs_world *world;
    cs_loop *loop;
    cs_hub *hub;
    cs_rpc_channel *channel;
    cs_timer *timer;
    bool timed_out;
    char dir[SCRATCH_LEN], database[128];
    struct maker a, b;
    struct cs_session session; /* the channel's */
    uint64_t counter;
    bool has_session;
    struct cs_hub_options options; /* set before setup's hub is up: what is not zero in it */
    uint8_t seed_byte;             /* of the hub's key; 0: the usual one */
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
    char others[200];   /* names of the trailers, and what they say; of the MAC its name only */
    struct cs_buf head; /* the claw-head-bin trailer */
    bool genuine;       /* its end has the right MAC */
    bool unary, proven;
    uint64_t counter;
};

static inline void timed_out(void *arg)
{
    struct scene *s = arg;

    s->timed_out = true;
    cs_loop_stop(s->loop);
}

/* Runs the loop until something stops it. */
static inline void spin(struct scene *s)
{
    cs_timer_start(s->timer, 60000);
    cs_loop_run(s->loop);
    cs_timer_stop(s->timer);
    assert_false(s->timed_out);
}

static inline void on_message(cs_rpc_call *c, void *arg, struct cs_slice msg)
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

static inline bool is_genuine(const struct call *k, int status, const struct cs_rpc_metadata *trailers)
{
    struct cs_slice mac = cs_rpc_metadata_get(trailers, "claw-mac-bin"), answer = CS_SLICE_NULL;
    uint8_t want[CS_ANSWER_MAC_LEN];

    if (k->unary && k->n == 1)
        answer = k->message[0];
    cs_answer_mac(k->s->session.answer_key, k->counter, (uint32_t)status, answer, want);
    return mac.len == sizeof want && memcmp(mac.data, want, sizeof want) == 0;
}

static inline void list_trailers(struct call *k, const struct cs_rpc_metadata *trailers)
{
    size_t at = 0;

    for (size_t i = 0; trailers != NULL && i < trailers->n && at < sizeof k->others; i++) {
        const struct cs_rpc_meta *m = &trailers->items[i];
        bool mac = strcmp(m->name, "claw-mac-bin") == 0;

        at += (size_t)snprintf(k->others + at, sizeof k->others - at, "%s=%.*s;", m->name, mac ? 0 : (int)m->value.len,
                               m->value.data == NULL ? "" : (const char *)m->value.data);
    }
}

static inline void on_done(cs_rpc_call *c, void *arg, int status, const char *text,
                           const struct cs_rpc_metadata *trailers)
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
    list_trailers(k, trailers);
    if (trailers != NULL)
        cs_buf_put_slice(&k->head, cs_rpc_metadata_get(trailers, "claw-head-bin"));
    cs_loop_stop(k->s->loop);
}

static const struct cs_rpc_client_cb call_cb = { .message = on_message, .done = on_done };

static inline void call_new(struct call *k, struct scene *s, const char *method, const struct cs_rpc_metadata *m)
{
    struct cs_error err = { 0 };
    char path[80];

    *k = (struct call){ .s = s };
    snprintf(path, sizeof path, "%s%s", method[0] == '/' ? "" : SERVICE, method);
    assert_int_equal(cs_rpc_call_new(s->channel, path, m, 0, &call_cb, k, &k->call, &err), CS_OK);
}

/* A call with a proof's bytes, whoever made it. */
static inline void call_with(struct call *k, struct scene *s, const char *method, const struct cs_call_proof *p)
{
    char text[CS_CALL_PROOF_TEXT];
    struct cs_rpc_meta meta = { "authorization", { 0 } };
    struct cs_rpc_metadata m = { &meta, 1 };

    cs_call_proof_text(p, text);
    meta.value = cs_slice_str(text);
    call_new(k, s, method, &m);
    k->proven = true;
    k->counter = p->counter;
    k->unary = strcmp(method, "Reconcile") == 0 || strcmp(method, "ReconcileRanges") == 0 ||
               strcmp(method, "ResolveConflict") == 0 || strcmp(method, "RegisterDevice") == 0 ||
               strcmp(method, "AppendMembership") == 0 || strcmp(method, "Heartbeat") == 0 ||
               strcmp(method, "Pair") == 0;
}

static inline void session_open(struct scene *s);

/* The proof of m's next call with this body; NULL: Push. */
static inline void prove(struct scene *s, const struct maker *m, const char *method, const struct cs_slice *body,
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

static inline void call_open(struct call *k, struct scene *s, const struct maker *m, const char *method)
{
    struct cs_call_proof p;

    prove(s, m, method, NULL, &p);
    call_with(k, s, method, &p);
}

static inline void call_send(struct call *k, const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p = malloc(n + 1);

    assert_non_null(p);
    protobuf_c_message_pack(m, p);
    assert_int_equal(cs_rpc_call_send(k->call, cs_slice(p, n)), CS_OK);
    free(p);
}

static inline void call_finish(struct call *k)
{
    while (!k->done)
        spin(k->s);
}

static inline void call_fini(struct call *k)
{
    cs_arena_free(&k->arena);
    cs_buf_free(&k->head);
}

/* One request; the proof is over its bytes. */
static inline void ask_bytes(struct call *k, struct scene *s, const struct maker *m, const char *method,
                             struct cs_slice body)
{
    bool push = strcmp(method, "Push") == 0;
    struct cs_call_proof p;

    prove(s, m, method, push ? NULL : &body, &p);
    call_with(k, s, method, &p);
    assert_int_equal(cs_rpc_call_send(k->call, body), CS_OK);
    cs_rpc_call_half_close(k->call);
}

static inline void ask_begin(struct call *k, struct scene *s, const struct maker *m, const char *method,
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
static inline void ask(struct call *k, struct scene *s, const struct maker *m, const char *method,
                       const ProtobufCMessage *req)
{
    ask_begin(k, s, m, method, req);
    call_finish(k);
    assert_true(k->genuine);
}

static inline void session_open(struct scene *s)
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

static inline void check_head(struct scene *s, const struct cs_uuid *ws, const Clawsync__V1__HubHead *m,
                              struct cs_hub_head *out)
{
    assert_non_null(m);
    assert_true(cs_hub_head_verify(cs_hub_public_key(s->hub), ws, cs_slice(m->signed_bytes.data, m->signed_bytes.len),
                                   cs_slice(m->signature.data, m->signature.len)));
    assert_true(cs_hub_head_decode(out, cs_slice(m->signed_bytes.data, m->signed_bytes.len)));
}

static inline void hub_up(struct scene *s)
{
    struct cs_hub_options o = s->options;
    struct cs_rpc_channel_options c = { .host = "127.0.0.1" };
    struct cs_error err = { 0 };

    o.host = "127.0.0.1";
    o.database = s->database;
    memset(o.key_seed, s->seed_byte == 0 ? 7 : s->seed_byte, sizeof o.key_seed);
    if (cs_hub_start(s->world, s->loop, &o, &s->hub, &err) != CS_OK)
        fail_msg("%s", err.msg);
    c.port = cs_hub_port(s->hub);
    assert_int_equal(cs_rpc_channel_new(s->loop, &c, &s->channel, &err), CS_OK);
    s->has_session = false;
}

static inline void on_stopped(void *arg)
{
    struct scene *s = arg;

    s->hub = NULL;
    cs_loop_stop(s->loop);
}

static inline void hub_down(struct scene *s, uint32_t drain_ms)
{
    cs_hub_stop(s->hub, drain_ms, on_stopped, s);
    while (s->hub != NULL)
        spin(s);
    cs_rpc_channel_close(s->channel);
    s->channel = NULL;
}

static inline int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    struct cs_error err = { 0 };

    assert_non_null(s);
    signal(SIGPIPE, SIG_IGN);
    s->world = cs_world_real();
    assert_non_null(scratch_folder(s->dir, "service"));
    snprintf(s->database, sizeof s->database, "%s/hub.db", s->dir);
    assert_int_equal(cs_loop_new(s->world, &s->loop, &err), CS_OK);
    assert_int_equal(cs_timer_new(s->loop, timed_out, s, &s->timer), CS_OK);
    maker_init(&s->a, 'w', 'a');
    maker_init(&s->b, 'w', 'b');
    hub_up(s);
    *state = s;
    return 0;
}

static inline int teardown(void **state)
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
static inline void register_make_with(struct scene *s, const struct maker *m, struct cs_slice entry,
                                      struct cs_slice offer, struct cs_call_proof *p, struct cs_buf *body)
{
    Clawsync__V1__RegisterDeviceRequest req = CLAWSYNC__V1__REGISTER_DEVICE_REQUEST__INIT;
    Clawsync__V1__DeviceInfo info = CLAWSYNC__V1__DEVICE_INFO__INIT;
    struct cs_register_proof proof = {
        .workspace = m->workspace, .device = m->id, .membership_entry = entry, .join_offer = offer
    };
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
    req.join_offer = (ProtobufCBinaryData){ offer.len, (uint8_t *)(uintptr_t)offer.data };
    n = clawsync__v1__register_device_request__get_packed_size(&req);
    clawsync__v1__register_device_request__pack(&req, cs_buf_grow(body, n));
    cs_buf_free(&key);
}

static inline void register_make(struct scene *s, const struct maker *m, struct cs_slice entry, struct cs_call_proof *p,
                                 struct cs_buf *body)
{
    register_make_with(s, m, entry, CS_SLICE_NULL, p, body);
}

static inline void register_call_with(struct call *k, struct scene *s, const struct maker *m, struct cs_slice entry,
                                      struct cs_slice offer)
{
    struct cs_buf body = { 0 };
    struct cs_call_proof p;

    register_make_with(s, m, entry, offer, &p, &body);
    call_with(k, s, "RegisterDevice", &p);
    assert_int_equal(cs_rpc_call_send(k->call, cs_buf_slice(&body)), CS_OK);
    cs_rpc_call_half_close(k->call);
    call_finish(k);
    assert_true(k->genuine);
    cs_buf_free(&body);
}

static inline void register_call(struct call *k, struct scene *s, const struct maker *m, struct cs_slice entry)
{
    register_call_with(k, s, m, entry, CS_SLICE_NULL);
}

static inline void register_ok(struct scene *s, struct maker *m, struct cs_slice entry)
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
static inline void two_devices(struct scene *s)
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

static inline void push_ok(struct scene *s, struct maker *m, uint32_t len, uint32_t nchunks)
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

static inline void pull_open(struct call *k, struct scene *s, struct maker *m, struct pull_options o)
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

static inline void pulled_check(struct call *k, struct maker *m, uint64_t after, struct pulled *out)
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

static inline void pull(struct scene *s, struct maker *m, struct pull_options o, struct pulled *out)
{
    struct call k;

    pull_open(&k, s, m, o);
    call_finish(&k);
    pulled_check(&k, m, (uint64_t)o.after, out);
    call_fini(&k);
}

static inline void heartbeat(struct call *k, struct scene *s, struct maker *m, bool *sync_required)
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

#endif
