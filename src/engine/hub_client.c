/* The channel to the hub and the calls on it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

struct cs_message *cs_message_new(size_t len)
{
    struct cs_message *m = len > SIZE_MAX - sizeof *m ? NULL : malloc(sizeof *m + len);

    if (m != NULL) {
        m->next = NULL;
        m->len = len;
    }
    return m;
}

void cs_messages_push(struct cs_messages *q, struct cs_message *m)
{
    if (q->last != NULL)
        q->last->next = m;
    else
        q->first = m;
    q->last = m;
    q->bytes += m->len;
}

void cs_messages_free(struct cs_messages *q)
{
    struct cs_message *m, *next;

    for (m = q->first; m != NULL; m = next) {
        next = m->next;
        free(m);
    }
    *q = (struct cs_messages){ 0 };
}

static void *pb_alloc(void *arena, size_t n)
{
    return cs_arena_alloc(arena, n);
}
static void pb_free(void *arena, void *p)
{
    (void)arena; /* everything goes with the arena */
    (void)p;
}

ProtobufCAllocator cs_engine_pb(struct cs_arena *a)
{
    return (ProtobufCAllocator){ pb_alloc, pb_free, a };
}

bool cs_engine_pb_pack(struct cs_buf *out, const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p;

    if (n == 0)
        return true;
    if ((p = cs_buf_grow(out, n)) == NULL)
        return false;
    protobuf_c_message_pack(m, p);
    return true;
}

int cs_engine_unreadable(const struct cs_arena *a, const char *what, struct cs_error *err)
{
    return a->failed ? cs_fail(err, CS_ENOMEM, "out of memory reading %s", what)
                     : cs_fail(err, CS_EHUB, "%s cannot be read", what);
}

/* ---- the channel ---- */

/* A session is of one connection: when that is gone, the next call opens another. */
static void on_channel(void *arg, const struct cs_error *err)
{
    if (err != NULL)
        cs_hub_session_drop(arg, NULL);
    cs_failover_on_channel(arg, err == NULL);
}

int cs_hub_channel_to(struct clawsync_engine *e, const struct cs_endpoint *hub,
                      void (*state)(void *arg, const struct cs_error *err), cs_rpc_channel **out, struct cs_error *err)
{
    struct cs_rpc_tls tls = { e->config.tls_ca_file, e->config.tls_pin_sha256 };
    struct cs_rpc_channel_options o = { .host = hub->host,
                                        .port = hub->port,
                                        .tls = hub->tls ? &tls : NULL,
                                        .connect_timeout_ms = e->config.connect_timeout_secs * 1000,
                                        .user_agent = "claw-sync/" CS_VERSION,
                                        .state = state,
                                        .arg = e };

    return cs_rpc_channel_new(e->loop, &o, out, err);
}

int cs_hub_channel(struct clawsync_engine *e, struct cs_error *err)
{
    return e->channel != NULL ? CS_OK : cs_hub_channel_to(e, &e->hubs.of[e->failover.at], on_channel, &e->channel, err);
}

void cs_hub_disconnect(struct clawsync_engine *e)
{
    cs_rpc_channel *ch = e->channel;

    e->channel = NULL;
    cs_rpc_channel_close(ch);
    cs_hub_session_drop(e, NULL);
}

/* ---- calls ---- */

static int code_of_status(int status)
{
    static const int codes[] = {
        [CS_RPC_OK] = CS_OK,
        [CS_RPC_CANCELLED] = CS_ECANCELED,
        [CS_RPC_UNKNOWN] = CS_EHUB,
        [CS_RPC_INVALID_ARGUMENT] = CS_EINTERNAL,
        [CS_RPC_DEADLINE_EXCEEDED] = CS_ETIMEDOUT,
        [CS_RPC_NOT_FOUND] = CS_ENOTFOUND,
        [CS_RPC_ALREADY_EXISTS] = CS_EEXIST,
        [CS_RPC_PERMISSION_DENIED] = CS_EAUTH,
        [CS_RPC_RESOURCE_EXHAUSTED] = CS_ELIMIT,
        [CS_RPC_FAILED_PRECONDITION] = CS_EHUB,
        [CS_RPC_ABORTED] = CS_EABORTED,
        [CS_RPC_OUT_OF_RANGE] = CS_EHUB,
        [CS_RPC_UNIMPLEMENTED] = CS_EUNSUPPORTED,
        [CS_RPC_INTERNAL] = CS_EHUB,
        [CS_RPC_UNAVAILABLE] = CS_EUNAVAILABLE,
        [CS_RPC_DATA_LOSS] = CS_EHUB,
        [CS_RPC_UNAUTHENTICATED] = CS_EAUTH,
    };

    return status >= 0 && (size_t)status < sizeof codes / sizeof codes[0] ? codes[status] : CS_EHUB;
}

static bool is_unary(const char *method)
{
    return strcmp(method, "RegisterDevice") == 0 || strcmp(method, "AppendMembership") == 0 ||
           strcmp(method, "Heartbeat") == 0 || strcmp(method, "ReconcileRanges") == 0 ||
           strcmp(method, "Refill") == 0 || strcmp(method, "Snapshot") == 0;
}

/* Does the end of the call come from who opened the session? Of streams it says nothing of their messages: those are
 * signed, each. */
static bool is_genuine(const struct cs_hub_call *c, int status, const struct cs_rpc_metadata *trailers)
{
    struct cs_slice mac = cs_rpc_metadata_get(trailers, "claw-mac-bin"), answer = CS_SLICE_NULL;
    const struct cs_message *m = c->in.first;
    uint8_t want[CS_ANSWER_MAC_LEN];

    if (c->keys == NULL || mac.len != sizeof want || (m != NULL && m->next != NULL && is_unary(c->method)))
        return false;
    if (m != NULL && is_unary(c->method))
        answer = cs_slice(m->data, m->len);
    cs_answer_mac(c->keys->keys.answer_key, c->counter, (uint32_t)status, answer, want);
    return cs_secret_eq(want, mac.data, sizeof want);
}

void cs_hub_out_of_reach(struct cs_error *err, int rc, const char *url, const char *why)
{
    static const char ours[] = "cannot reach "; /* as the channel begins, with the URL again */
    const char *cause = strncmp(why, ours, sizeof ours - 1) == 0 ? strstr(why, ": ") : NULL;

    cs_fail(err, rc, "cannot reach hub %.150s: %.200s; changes stay queued", url, cause != NULL ? cause + 2 : why);
}

static void call_failed(struct cs_hub_call *c, int status, bool genuine, const char *text)
{
    const char *url = c->e->config.hub_endpoint, *why = text != NULL && text[0] != '\0' ? text : "no reason given";

    c->rc = code_of_status(status);
    if (c->no_memory)
        c->rc = cs_fail(&c->err, CS_ENOMEM, "out of memory reading what the hub answers");
    else if (c->timed_out)
        c->rc = cs_fail(&c->err, CS_ETIMEDOUT, "no answer from hub %.200s in %u s; changes stay queued", url,
                        c->e->config.request_timeout_secs);
    else if (c->rc == CS_OK && !genuine && is_unary(c->method))
        c->rc = cs_fail(&c->err, CS_EUNAVAILABLE,
                        "an answer in the name of hub %.200s has no valid proof; it was not used, and changes stay "
                        "queued",
                        url);
    else if (c->rc == CS_EUNAVAILABLE)
        cs_hub_out_of_reach(&c->err, c->rc, url, why);
    else if (c->rc == CS_OK || c->rc == CS_ECANCELED || c->rc == CS_ETIMEDOUT || genuine)
        cs_fail(&c->err, c->rc, "hub %.150s refused: %.300s (%s)", url, why, cs_rpc_status_name(status));
    else /* anybody on the way can say so */
        c->rc = cs_fail(&c->err, CS_EUNAVAILABLE,
                        "no proof that hub %.150s itself refused: %.150s (%s); changes stay queued", url, why,
                        cs_rpc_status_name(status));
}

static void on_idle(void *arg)
{
    struct cs_hub_call *c = arg;

    c->timed_out = true;
    if (c->call != NULL)
        cs_rpc_call_cancel(c->call);
}

static void on_message(cs_rpc_call *rpc, void *arg, struct cs_slice msg)
{
    struct cs_hub_call *c = arg;
    struct cs_message *m;

    if (c->call != rpc)
        return;
    if ((m = cs_message_new(msg.len)) == NULL) {
        c->no_memory = true;
        cs_rpc_call_cancel(rpc);
        return;
    }
    if (msg.len > 0)
        memcpy(m->data, msg.data, msg.len);
    cs_messages_push(&c->in, m);
    if (c->idle != NULL)
        cs_timer_start(c->idle, (uint64_t)c->e->config.request_timeout_secs * 1000);
    c->on(c);
}

static bool wants_new_session(const struct cs_hub_call *c, int status, const struct cs_rpc_metadata *trailers)
{
    return status == CS_RPC_UNAUTHENTICATED && !c->retried && c->in.first == NULL &&
           cs_slice_eq(cs_rpc_metadata_get(trailers, "error-kind"), cs_slice_str("new-session"));
}

/* The hub has not looked at the call: it goes again, in another session. */
static bool start_over(struct cs_hub_call *c)
{
    struct cs_error err;

    cs_hub_session_drop(c->e, c->keys);
    if (!c->has_request) {
        c->forgotten = true;
        return false;
    }
    c->retried = true;
    return (c->e->session.keys != NULL ? cs_hub_call_begin(c, &err) : cs_hub_session_want(c->e, c, &err)) == CS_OK;
}

static void on_done(cs_rpc_call *rpc, void *arg, int status, const char *text, const struct cs_rpc_metadata *trailers)
{
    struct cs_hub_call *c = arg;
    bool genuine;

    if (c->call != rpc)
        return;
    c->call = NULL;
    cs_hub_call_idle(c, false);
    if (wants_new_session(c, status, trailers) && start_over(c))
        return;
    genuine = is_genuine(c, status, trailers);
    c->ended = true;
    c->status = status;
    call_failed(c, status, genuine, text);
    if (c->rc != CS_OK && status == CS_RPC_OK)
        cs_messages_free(&c->in);
    c->on(c);
}

void cs_hub_call_fail(struct cs_hub_call *c, int status, const struct cs_error *err)
{
    c->ended = true;
    c->status = status;
    c->rc = err->code;
    c->err = *err;
    c->on(c);
}

void cs_hub_call_idle(struct cs_hub_call *c, bool waiting)
{
    if (c->idle == NULL)
        return;
    if (waiting && !c->waiting) /* for a session: its own clock runs */
        cs_timer_start(c->idle, (uint64_t)c->e->config.request_timeout_secs * 1000);
    else
        cs_timer_stop(c->idle);
}

/* ---- the proof, and the call itself ---- */

static void prove(struct cs_hub_call *c, const char *path, char out[CS_CALL_PROOF_TEXT])
{
    struct clawsync_engine *e = c->e;
    struct cs_call_proof p = { .counter = c->counter,
                               .workspace = e->workspace,
                               .device = c->as != NULL ? c->as->id : e->device };

    if (c->has_request && c->compose == NULL)
        cs_hash_plain(cs_buf_slice(&c->request), p.body_hash);
    if (c->compose == NULL)
        cs_call_prove(&c->keys->keys, c->as != NULL ? &c->as->sign : &e->keys->sign, path, &p);
    else
        memcpy(p.session, c->keys->keys.id, sizeof p.session); /* the proof is in the request */
    cs_call_proof_text(&p, out);
}

static int send_waiting(struct cs_hub_call *c)
{
    int rc = c->has_request ? cs_rpc_call_send(c->call, cs_buf_slice(&c->request)) : CS_OK;

    for (const struct cs_message *m = c->late.first; m != NULL && rc == CS_OK; m = m->next)
        rc = cs_rpc_call_send(c->call, cs_slice(m->data, m->len));
    cs_messages_free(&c->late);
    return rc;
}

int cs_hub_call_begin(struct cs_hub_call *c, struct cs_error *err)
{
    static const struct cs_rpc_client_cb cb = { .message = on_message, .done = on_done };
    struct clawsync_engine *e = c->e;
    char path[64], proof[CS_CALL_PROOF_TEXT] = "";
    struct cs_rpc_meta meta = { "authorization", cs_slice((const uint8_t *)proof, sizeof proof - 1) };
    struct cs_rpc_metadata metadata = { &meta, 1 };
    int rc;

    cs_hub_keys_unref(c->keys);
    c->keys = cs_hub_keys_ref(e->session.keys);
    c->counter = ++c->keys->counter;
    snprintf(path, sizeof path, "/clawsync.v1.SyncService/%s", c->method);
    if (c->compose != NULL) {
        cs_buf_reset(&c->request);
        if (!c->compose(c, &c->keys->keys, c->counter, &c->request) || c->request.failed)
            return cs_fail(err, CS_ENOMEM, "out of memory");
    }
    prove(c, path, proof);
    if ((rc = cs_hub_channel(e, err)) != CS_OK ||
        (rc = cs_rpc_call_new(e->channel, path, &metadata, 0, &cb, c, &c->call, err)) != CS_OK)
        return rc;
    if ((rc = send_waiting(c)) != CS_OK) {
        cs_hub_call_cancel(c);
        return cs_fail(err, rc, "cannot send %s to the hub: %s", c->method, cs_code_name(rc));
    }
    if (c->paused)
        cs_rpc_call_read(c->call, false);
    if (c->half_close)
        cs_rpc_call_half_close(c->call);
    cs_hub_call_idle(c, c->half_close);
    return CS_OK;
}

static int start(struct clawsync_engine *e, struct cs_hub_call *c, const char *method, const ProtobufCMessage *m,
                 void (*on)(struct cs_hub_call *c), struct cs_error *err)
{
    int rc;

    c->e = e;
    c->on = on;
    c->method = method;
    c->ended = c->paused = c->timed_out = c->no_memory = c->retried = c->forgotten = false;
    c->rc = CS_OK;
    cs_buf_reset(&c->request);
    if (e->schedule.closing) /* what was cut begins nothing more */
        return cs_fail(err, CS_ECANCELED, "the engine is being closed");
    if (c->idle == NULL && cs_timer_new(e->loop, on_idle, c, &c->idle) != CS_OK)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if (m != NULL && !cs_engine_pb_pack(&c->request, m))
        return cs_fail(err, CS_ENOMEM, "out of memory");
    cs_failover_follow(e);
    rc = e->session.keys != NULL ? cs_hub_call_begin(c, err) : cs_hub_session_want(e, c, err);
    if (rc != CS_OK)
        cs_hub_call_cancel(c);
    return rc;
}

int cs_hub_call_start(struct clawsync_engine *e, struct cs_hub_call *c, const char *method, const ProtobufCMessage *m,
                      bool half_close, void (*on)(struct cs_hub_call *c), struct cs_error *err)
{
    cs_hub_call_cancel(c);
    c->as = NULL;
    c->compose = NULL;
    c->has_request = m != NULL;
    c->half_close = half_close;
    return start(e, c, method, m, on, err);
}

int cs_hub_call_start_as(struct clawsync_engine *e, struct cs_hub_call *c, const struct cs_device_keys *as,
                         const char *method, const ProtobufCMessage *m, void (*on)(struct cs_hub_call *c),
                         struct cs_error *err)
{
    cs_hub_call_cancel(c);
    c->as = as;
    c->compose = NULL;
    c->has_request = c->half_close = true;
    return start(e, c, method, m, on, err);
}

int cs_hub_call_compose(struct clawsync_engine *e, struct cs_hub_call *c, const char *method,
                        bool (*compose)(struct cs_hub_call *c, const struct cs_session *s, uint64_t counter,
                                        struct cs_buf *out),
                        void (*on)(struct cs_hub_call *c), struct cs_error *err)
{
    cs_hub_call_cancel(c);
    c->as = NULL;
    c->compose = compose;
    c->has_request = c->half_close = true;
    return start(e, c, method, NULL, on, err);
}

bool cs_hub_call_running(const struct cs_hub_call *c)
{
    return c->call != NULL || c->waiting;
}

static int keep_for_later(struct cs_hub_call *c, struct cs_slice message)
{
    struct cs_message *m = cs_message_new(message.len);

    if (m == NULL)
        return CS_ENOMEM;
    if (message.len > 0)
        memcpy(m->data, message.data, message.len);
    cs_messages_push(&c->late, m);
    return CS_OK;
}

int cs_hub_call_send(struct cs_hub_call *c, struct cs_slice message, struct cs_error *err)
{
    int rc = c->waiting        ? keep_for_later(c, message)
             : c->call == NULL ? CS_ECANCELED
                               : cs_rpc_call_send(c->call, message);

    return rc == CS_OK ? CS_OK : cs_fail(err, rc, "cannot send to the hub: %s", cs_code_name(rc));
}

void cs_hub_call_pause(struct cs_hub_call *c, bool pause)
{
    if (!cs_hub_call_running(c) || c->paused == pause)
        return;
    c->paused = pause;
    if (c->call == NULL)
        return;
    cs_rpc_call_read(c->call, !pause);
    cs_hub_call_idle(c, !pause);
}

void cs_hub_call_cancel(struct cs_hub_call *c)
{
    cs_rpc_call *rpc = c->call;

    c->call = NULL; /* so that its callbacks know that they are of a call given up */
    c->ended = false;
    if (c->waiting)
        cs_hub_session_unwant(c->e, c);
    if (rpc != NULL)
        cs_rpc_call_cancel(rpc);
    cs_hub_call_idle(c, false);
    cs_messages_free(&c->in);
    cs_messages_free(&c->late);
    cs_hub_keys_unref(c->keys);
    c->keys = NULL;
}

void cs_hub_call_free(struct cs_hub_call *c)
{
    cs_hub_call_cancel(c);
    cs_timer_close(c->idle);
    c->idle = NULL;
    cs_buf_free(&c->request);
}

/* ---- heads ---- */

int cs_engine_no_head(struct cs_error *err)
{
    return cs_fail(err, CS_EHUB, "BAD_HUB_HEAD: the hub's answer has no signed head; nothing was taken from it");
}

static const char head_name[] = "engine.head";

int cs_engine_head_open(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_buf text = { 0 };
    int rc = cs_replica_meta_get(e->replica, head_name, &text, err);

    /* one that this device's hub did not sign was not written by us: the first head of this run is the first one */
    if (rc == CS_OK && text.len == sizeof e->head_text &&
        cs_hub_head_verify(e->ks->hub_key, &e->workspace, cs_slice(text.data, CS_HUB_HEAD_LEN),
                           cs_slice(text.data + CS_HUB_HEAD_LEN, CS_SIGNATURE_LEN)) &&
        !cs_hub_head_decode(&e->kept, cs_slice(text.data, CS_HUB_HEAD_LEN)))
        e->kept = (struct cs_hub_head){ 0 };
    cs_buf_free(&text);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

int cs_engine_head_save(struct clawsync_engine *e, struct cs_error *err)
{
    int rc;

    if (!e->head_unsaved || e->beside)
        return CS_OK;
    if ((rc = cs_replica_meta_set(e->replica, head_name, cs_slice(e->head_text, sizeof e->head_text), err)) == CS_OK)
        e->head_unsaved = false;
    return rc;
}

/* Against the newest head of earlier runs. */
static int check_kept(const struct cs_hub_head *kept, const struct cs_hub_head *h, struct cs_error *err)
{
    if (kept->log_id == 0)
        return CS_OK;
    if (h->log_id != kept->log_id)
        return cs_fail(err, CS_EHUB,
                       "LOG_REPLACED: the hub's log is another one than before; nothing was taken from it");
    if (h->number < kept->number || h->member_seq < kept->member_seq)
        return cs_fail(err, CS_EHUB,
                       "HUB_ROLLBACK: the hub's log ends at %" PRIu64 " and its membership at %" PRIu32
                       ", it has shown this device %" PRIu64 " and %" PRIu32,
                       h->number, h->member_seq, kept->number, kept->member_seq);
    if ((h->number == kept->number && memcmp(h->log_hash, kept->log_hash, 32) != 0) ||
        (h->member_seq == kept->member_seq && memcmp(h->entry_hash, kept->entry_hash, 32) != 0))
        return cs_fail(err, CS_EHUB, "HUB_FORK: the hub signed two heads that contradict each other at number %" PRIu64,
                       h->number);
    return CS_OK;
}

/* Against what the keystore knows, which outlives the database. The pull compares the hash there. */
static int check_keystore(const struct cs_keystore *ks, const struct cs_hub_head *h, struct cs_error *err)
{
    if (ks->log_id == 0 || h->log_id != ks->log_id)
        return CS_OK; /* another log: the database's position decides, or the pull */
    if (h->number < ks->log_number)
        return cs_fail(err, CS_EHUB,
                       "HUB_ROLLBACK: the hub's log ends at %" PRIu64 ", it has shown this device %" PRIu64, h->number,
                       ks->log_number);
    return CS_OK;
}

int cs_engine_head_signed(struct clawsync_engine *e, const Clawsync__V1__HubHead *h, struct cs_hub_head *out,
                          struct cs_error *err)
{
    struct cs_slice bytes, sig;

    if (h == NULL)
        return cs_engine_no_head(err);
    bytes = cs_slice(h->signed_bytes.data, h->signed_bytes.len);
    sig = cs_slice(h->signature.data, h->signature.len);
    cs_hash_plain(bytes, e->looked_at);
    if (sig.len != CS_SIGNATURE_LEN || !cs_hub_head_verify(e->ks->hub_key, &e->workspace, bytes, sig) ||
        !cs_hub_head_decode(out, bytes) || out->log_id == 0)
        return cs_fail(err, CS_EHUB,
                       "BAD_HUB_HEAD: the hub's head is not signed with the key that is pinned; nothing "
                       "was taken from it");
    return CS_OK;
}

/* After a refill the membership says which log it is. */
static int check_log(const struct clawsync_engine *e, const struct cs_hub_head *h, struct cs_error *err)
{
    if (e->log.id == 0 ? h->refilled == 0 : h->log_id == e->log.id && h->refilled == e->log.generation)
        return CS_OK;
    return cs_fail(err, CS_EHUB,
                   "LOG_REPLACED: the hub's log is not the one that this device follows; nothing was taken from it");
}

int cs_engine_head(struct clawsync_engine *e, const Clawsync__V1__HubHead *h, struct cs_hub_head *out,
                   struct cs_error *err)
{
    int rc = cs_engine_head_signed(e, h, out, err);

    if (rc != CS_OK || (rc = check_log(e, out, err)) != CS_OK)
        return rc;
    if ((rc = check_kept(&e->kept, out, err)) != CS_OK || (rc = check_keystore(e->ks, out, err)) != CS_OK)
        return rc;
    if (e->head.log_id != 0 && out->log_id != e->head.log_id)
        return cs_fail(err, CS_EHUB,
                       "LOG_REPLACED: the hub's log is another one than before; nothing was taken from it");
    if (e->head.log_id != 0 &&
        ((out->number == e->head.number && memcmp(out->log_hash, e->head.log_hash, 32) != 0) ||
         (out->member_seq == e->head.member_seq && memcmp(out->entry_hash, e->head.entry_hash, 32) != 0)))
        return cs_fail(err, CS_EHUB, "HUB_FORK: the hub signed two heads that contradict each other at number %" PRIu64,
                       out->number);
    if (e->head.log_id != 0 && ((out->number > e->head.number && out->member_seq < e->head.member_seq) ||
                                (out->number < e->head.number && out->member_seq > e->head.member_seq)))
        return cs_fail(err, CS_EHUB,
                       "HUB_FORK: the hub signed two heads neither of which comes before the other: number %" PRIu64
                       " with membership entry %" PRIu32 ", and %" PRIu64 " with %" PRIu32,
                       out->number, out->member_seq, e->head.number, e->head.member_seq);
    if (e->head.log_id == 0)
        cs_log_start(&e->workspace, out->log_id, out->refilled, e->log_start);
    if (e->head.log_id == 0 || out->number > e->head.number || out->member_seq > e->head.member_seq) {
        e->head = *out;
        memcpy(e->head_text, h->signed_bytes.data, CS_HUB_HEAD_LEN);
        memcpy(e->head_text + CS_HUB_HEAD_LEN, h->signature.data, CS_SIGNATURE_LEN);
        e->head_unsaved = true;
    }
    return CS_OK;
}
