/* Every call of the service passes here: who makes it is settled before its body is read. Until then the call is read
 * no further than its headers, and costs little memory.
 *
 *   shape ──▶ address ──▶ session, connection, counter ──▶ principal, signature ──▶ counter taken ──▶ state ──▶ body
 *                                                         (on a worker)
 * Whatever is refused before the signature tells nobody what exists; only who has proven a key learns the reason. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "hub/internal.h"
#include "hub/offers.h"

struct cs_gate {
    struct cs_job job;            /* first: a job is its gate */
    struct cs_gate *next, **link; /* hub->gates, until its call is over */
    struct cs_hub *hub;
    cs_rpc_call *call; /* NULL: over */
    const struct cs_gated *method;
    void *user;
    struct cs_call_proof proof;
    struct cs_caller caller;
    struct cs_answer_key *answer_key; /* a reference: the session is known, what the call ends with is MACed; or NULL */
    bool checking, let_in;
    uint64_t id;       /* of the call, in the log */
    uint64_t began_ns; /* monotonic */
    bool counted;
    bool half_closed;        /* a request without a body ends before anybody reads */
    uint8_t answer_hash[32]; /* B3 of the unary answer */
    /* of the principal, from the worker */
    struct cs_member_info member;
    bool signature_ok, waits; /* waits: not a member, has asked to be let in */
    struct cs_verdict verdict;
};

bool cs_refuse_stranger(struct cs_verdict *v)
{
    return cs_refuse(v, CS_RPC_UNAUTHENTICATED, "auth", "unknown device or wrong key");
}

static bool new_session(struct cs_verdict *v)
{
    return cs_refuse(v, CS_RPC_UNAUTHENTICATED, "new-session", "open a session on this connection and call again");
}

static struct cs_gate *gate_of(const cs_rpc_call *c)
{
    return cs_rpc_call_user(c);
}

void cs_gate_set_user(cs_rpc_call *c, void *user)
{
    gate_of(c)->user = user;
}

void *cs_gate_user(const cs_rpc_call *c)
{
    return gate_of(c) == NULL ? NULL : gate_of(c)->user;
}

const struct cs_caller *cs_gate_caller(const cs_rpc_call *c)
{
    return &gate_of(c)->caller;
}

static void gate_free(struct cs_gate *g)
{
    cs_answer_key_unref(g->hub->answer_keys, g->answer_key);
    free(g);
}

/* Ids of the one who calls only where they are proven. */
static void log_call(const struct cs_gate *g, const char *method, int status, uint64_t ns)
{
    char ws[CS_UUID_TEXT] = "-", device[CS_UUID_TEXT] = "-";

    if (!cs_log_wants(CS_LOG_DEBUG))
        return;
    if (g->let_in && g->method->allowed != 0) {
        cs_uuid_text(ws, &g->caller.workspace);
        cs_uuid_text(device, &g->caller.device);
    }
    cs_log(CS_LOG_DEBUG, "call id=%" PRIu64 " method=%s status=%s us=%" PRIu64 " peer=%s workspace=%s device=%s", g->id,
           method, cs_rpc_status_name(status), ns / 1000, cs_rpc_call_peer(g->call), ws, device);
}

/* Once for each call; a client that went away ends it as CANCELLED. */
static void count(struct cs_gate *g, const struct cs_verdict *v)
{
    const struct cs_hub *h = g->hub;
    const char *method = strrchr(g->method->path, '/') + 1;
    int status = v == NULL ? CS_RPC_CANCELLED : v->status;
    uint64_t ns;

    if (g->counted)
        return;
    g->counted = true;
    ns = cs_monotonic_ns(h->world) - g->began_ns;
    cs_metrics_call(h->metrics, method, status, ns);
    log_call(g, method, status, ns);
    if (v != NULL && v->status != CS_RPC_OK)
        cs_metrics_refused(h->metrics, cs_now_ms(h->world), method, v->status, v->kind);
}

static void refuse(struct cs_gate *g, const struct cs_verdict *v)
{
    if (g->call != NULL)
        cs_gate_finish(g->call, v, NULL, 0);
}

/* ---- before the signature, on the loop ---- */

static bool read_proof(struct cs_gate *g, const cs_rpc_call *c, struct cs_verdict *v)
{
    static const uint8_t zero[CS_SIGNATURE_LEN];
    struct cs_slice text = cs_rpc_metadata_get(cs_rpc_call_metadata(c), "authorization");
    struct cs_call_proof *p = &g->proof;

    if (text.data == NULL || !cs_call_proof_parse(p, text))
        return new_session(v);
    if (g->method->no_hash && memcmp(p->body_hash, zero, 32) != 0)
        return new_session(v);
    if (g->method->allowed == 0 && memcmp(p->signature, zero, sizeof zero) != 0)
        return new_session(v);
    return true;
}

/* A look only: the counter is taken when the signature has shown that it was the device's to use. */
static bool is_fresh(const struct cs_hub_session *s, uint64_t counter)
{
    struct cs_counter_window copy = s->window;

    return cs_counter_take(&copy, counter);
}

static bool find_session(struct cs_gate *g, const cs_rpc_call *c, struct cs_verdict *v)
{
    struct cs_sessions *t = g->hub->sessions;
    const char *peer = cs_rpc_call_peer(c);
    struct cs_hub_session *s = cs_sessions_find(t, g->proof.session);
    bool ours = s != NULL && (g->hub->behind_proxy || s->connection == cs_rpc_call_connection(c));

    if (ours) {
        g->answer_key = cs_answer_key_ref(s->answer_key);
        g->caller = (struct cs_caller){ .workspace = g->proof.workspace, .device = g->proof.device };
        memcpy(g->caller.session, s->id, sizeof g->caller.session);
        memcpy(g->caller.transcript, s->transcript, sizeof g->caller.transcript);
        g->caller.counter = g->proof.counter;
    }
    if ((!ours || !s->proven) && !cs_sessions_may_try(t, peer))
        return cs_refuse(v, CS_RPC_RESOURCE_EXHAUSTED, "limit", "too many calls of this address failed; wait a minute");
    if (!ours)
        return new_session(v);
    return is_fresh(s, g->proof.counter) || new_session(v);
}

/* ---- principal and signature, on a worker ---- */

static void check_run(struct cs_job *j)
{
    struct cs_gate *g = (struct cs_gate *)j;
    const struct cs_commit_env *env = &g->hub->env;
    struct cs_store_head head;
    struct cs_error err = { 0 };
    cs_store_tx *tx = NULL;
    const uint8_t *pk;
    bool known;
    int rc = cs_store_begin(env->store, CS_STORE_READ, &g->caller.workspace, 1, &tx, &err);

    if (rc == CS_OK)
        rc = tx->ops->head(tx, &g->caller.workspace, &head, &err);
    if (rc == CS_OK)
        rc = cs_members_find(env->members, tx, &g->caller.workspace, &head, &g->caller.device, &g->member, &err);
    if ((rc == CS_OK || rc == CS_ENOTFOUND) && g->member.kind == 0) {
        rc = cs_offers_key(tx, &g->caller.workspace, &g->caller.device, cs_now_ms(env->world), g->member.sign_pk, &err);
        g->waits = rc == CS_OK;
    }
    cs_store_rollback(tx);
    if (rc != CS_OK && rc != CS_ENOTFOUND) {
        cs_refuse_storage(&g->verdict, &err);
        return;
    }
    /* The same work for somebody unknown, under a key that nobody of theirs has. */
    known = g->member.kind != 0 || g->waits;
    pk = known ? g->member.sign_pk : env->key->pk;
    g->signature_ok = cs_call_verify(&g->proof, g->caller.transcript, g->method->path, pk) && known;
}

static unsigned kind_bit(const struct cs_member_info *m)
{
    return m->kind == CS_PRINCIPAL_DEVICE  ? CS_FOR_DEVICES
           : m->kind == CS_PRINCIPAL_PAPER ? CS_FOR_PAPERS
                                           : CS_FOR_INVITES;
}

static bool revoked(struct cs_verdict *v)
{
    return cs_refuse(v, CS_RPC_PERMISSION_DENIED, "revoked",
                     "this device is not a member of the workspace any more; what it had not sent stays on it. To come "
                     "back as a new device: claw-sync identity new, then claw-sync join CODE (made by claw-sync invite "
                     "on a device that is in)");
}

void cs_gate_end(struct cs_hub *h, const struct cs_uuid *workspace, const struct cs_uuid *device)
{
    struct cs_verdict v = { 0 };
    struct cs_gate *next;

    revoked(&v);
    for (struct cs_gate *g = h->gates; g != NULL; g = next) {
        next = g->next;
        if (g->let_in && g->method->allowed != 0 && cs_uuid_cmp(&g->caller.workspace, workspace) == 0 &&
            cs_uuid_cmp(&g->caller.device, device) == 0)
            cs_gate_finish(g->call, &v, NULL, 0);
    }
}

/* Only for who has proven the key. */
static bool may_call(const struct cs_gate *g, struct cs_verdict *v)
{
    if (g->waits)
        return (g->method->allowed & CS_FOR_WAITING) != 0 ||
               cs_refuse(v, CS_RPC_PERMISSION_DENIED, "pending",
                         "this device waits to be let in: on one that is, run \"claw-sync devices approve\"");
    /* Who holds an invite's code or a phrase must be able to learn from the log that it was used. */
    if (!g->member.active && g->member.kind == CS_PRINCIPAL_DEVICE)
        return revoked(v);
    if ((g->method->allowed & kind_bit(&g->member)) == 0)
        return cs_refuse(v, CS_RPC_PERMISSION_DENIED, "auth",
                         "this call is for devices that are members; join first with: claw-sync join");
    return true;
}

bool cs_gate_take(cs_rpc_call *c, struct cs_verdict *v)
{
    const struct cs_gate *g = gate_of(c);
    struct cs_hub_session *s = cs_sessions_find(g->hub->sessions, g->caller.session);

    if (s == NULL || !cs_counter_take(&s->window, g->caller.counter))
        return new_session(v);
    s->proven = true;
    return true;
}

static void let_in(struct cs_gate *g)
{
    g->let_in = true;
    cs_rpc_call_admit(g->call);
    cs_rpc_call_read(g->call, true);
    g->method->start(g->call, g->hub);
    if (g->half_closed)
        g->method->half_close(g->call, g->hub);
}

void cs_gate_half_close(cs_rpc_call *c, void *service)
{
    struct cs_gate *g = gate_of(c);

    if (g == NULL)
        return;
    g->half_closed = true;
    if (g->let_in)
        g->method->half_close(c, service);
}

static void check_done(struct cs_job *j)
{
    struct cs_gate *g = (struct cs_gate *)j;
    struct cs_verdict *v = &g->verdict;

    g->checking = false;
    if (g->call == NULL) {
        gate_free(g);
        return;
    }
    if (v->status == CS_RPC_OK && !g->signature_ok) {
        cs_sessions_failed(g->hub->sessions, cs_rpc_call_peer(g->call));
        cs_refuse_stranger(v);
    }
    if (v->status == CS_RPC_OK && cs_gate_take(g->call, v) && may_call(g, v))
        let_in(g);
    else
        refuse(g, v);
}

void cs_gate_start(cs_rpc_call *c, void *service, const struct cs_gated *m)
{
    static const struct cs_verdict no_memory = { CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again" };
    struct cs_gate *g = calloc(1, sizeof *g);
    struct cs_hub *h = service;

    cs_rpc_call_set_user(c, g);
    if (g == NULL) {
        cs_call_finish(c, &no_memory, NULL, 0);
        return;
    }
    *g = (struct cs_gate){ .hub = h, .call = c, .method = m, .next = h->gates, .link = &h->gates };
    g->id = ++h->last_call;
    g->began_ns = cs_monotonic_ns(h->world);
    if (g->next != NULL)
        g->next->link = &g->next;
    h->gates = g;
    cs_hash_plain(CS_SLICE_NULL, g->answer_hash);
    if (m->open) {
        let_in(g);
        return;
    }
    cs_rpc_call_read(c, false);
    if (!read_proof(g, c, &g->verdict) || !find_session(g, c, &g->verdict)) {
        if (g->verdict.status == CS_RPC_UNAUTHENTICATED)
            cs_sessions_failed(h->sessions, cs_rpc_call_peer(c));
        refuse(g, &g->verdict);
    } else if (m->allowed == 0) {
        let_in(g); /* RegisterDevice: its challenge is in the body */
    } else {
        g->job = (struct cs_job){ .run = check_run, .done = check_done };
        g->checking = true;
        if (cs_job_start(h, &g->job) != CS_OK) {
            g->checking = false;
            refuse(g, &no_memory);
        }
    }
}

void cs_gate_closed(cs_rpc_call *c, void *service)
{
    struct cs_gate *g = gate_of(c);

    if (g == NULL)
        return;
    if (g->let_in && g->method->closed != NULL)
        g->method->closed(c, service);
    count(g, NULL);
    g->call = NULL;
    *g->link = g->next;
    if (g->next != NULL)
        g->next->link = g->link;
    if (!g->checking)
        gate_free(g);
}

/* ---- what passes through it afterwards ---- */

bool cs_gate_body(const cs_rpc_call *c, struct cs_slice msg)
{
    const struct cs_gate *g = gate_of(c);
    uint8_t hash[32];

    if (g->answer_key == NULL || g->method->allowed == 0 || g->method->no_hash)
        return true;
    cs_hash_plain(msg, hash);
    return cs_secret_eq(hash, g->proof.body_hash, sizeof hash);
}

void cs_gate_answer(cs_rpc_call *c, struct cs_slice msg)
{
    struct cs_gate *g = gate_of(c);

    if (g->method->unary)
        cs_hash_plain(msg, g->answer_hash);
}

void cs_gate_finish(cs_rpc_call *c, const struct cs_verdict *v, const struct cs_rpc_meta *more, size_t nmore)
{
    struct cs_gate *g = gate_of(c);
    uint8_t mac[CS_ANSWER_MAC_LEN];
    struct cs_rpc_meta items[4] = { { "claw-mac-bin", cs_slice(mac, sizeof mac) } };
    size_t n = 1;

    if (g != NULL)
        count(g, v);
    /* a challenge that was wrong, or a request in another's name: guesses too */
    if (g != NULL && g->let_in && v->status == CS_RPC_UNAUTHENTICATED)
        cs_sessions_failed(g->hub->sessions, cs_rpc_call_peer(c));
    if (g == NULL || g->answer_key == NULL) {
        cs_call_finish(c, v, more, nmore);
        return;
    }
    cs_answer_mac_of_hash(cs_answer_key_bytes(g->answer_key), g->caller.counter, (uint32_t)v->status, g->answer_hash,
                          mac);
    for (size_t i = 0; i < nmore && n < sizeof items / sizeof items[0]; i++)
        items[n++] = more[i];
    cs_call_finish(c, v, items, n);
}

void cs_gate_push_mac(const cs_rpc_call *c, const Clawsync__V1__PushResponse *a, uint8_t out[CS_ANSWER_MAC_LEN])
{
    cs_push_answer_mac(cs_answer_key_bytes(gate_of(c)->answer_key), a->batch_hash.data, a->log_number, a->accepted,
                       a->status, a->kind, a->reason, out);
}
