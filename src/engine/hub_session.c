/* The session with the hub: opened when a call needs one, kept while its connection lasts, and opened again when the
 * hub has forgotten it. Calls that come meanwhile wait, in their order. */
#include <stdlib.h>

#include "engine/engine.h"
#include "identity/code.h"

struct cs_hub_keys *cs_hub_keys_ref(struct cs_hub_keys *k)
{
    k->refs++;
    return k;
}

void cs_hub_keys_unref(struct cs_hub_keys *k)
{
    if (k != NULL && --k->refs == 0)
        cs_secret_free(k);
}

void cs_hub_session_drop(struct clawsync_engine *e, const struct cs_hub_keys *keys)
{
    struct cs_hub_keys *had = e->session.keys;

    if (had == NULL || (keys != NULL && keys != had))
        return;
    e->session.keys = NULL;
    cs_hub_keys_unref(had);
}

/* ---- those that wait ---- */

void cs_hub_session_unwant(struct clawsync_engine *e, struct cs_hub_call *c)
{
    struct cs_hub_call **at = &e->session.waiting;

    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    c->waiting = false;
}

/* Those that waited for this attempt begin, or end with it. What they start in turn waits for the next one. */
static void settle(struct clawsync_engine *e, int status)
{
    struct cs_hub_session *s = &e->session;
    uint64_t attempt = s->attempt;
    struct cs_error failed = s->err;
    int rc = s->rc;

    while (s->waiting != NULL && s->waiting->attempt <= attempt) {
        struct cs_hub_call *c = s->waiting;
        struct cs_error err = failed;

        cs_hub_session_unwant(e, c);
        if (rc == CS_OK && s->keys == NULL)
            cs_fail(&err, CS_EUNAVAILABLE, "the connection to hub %.200s was lost; changes stay queued",
                    e->config.hub_endpoint);
        if (rc != CS_OK || s->keys == NULL || cs_hub_call_begin(c, &err) != CS_OK)
            cs_hub_call_fail(c, status, &err);
    }
}

/* ---- opening ---- */

static int finish_exchange(struct clawsync_engine *e, struct cs_slice reply, struct cs_error *err)
{
    struct cs_hub_session *s = &e->session;
    struct cs_hub_keys *k = cs_secret_alloc(sizeof *k);
    char fingerprint[24];
    int rc;

    if (k == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    k->refs = 1;
    k->counter = 0;
    rc = cs_session_finish(s->hello, reply, s->pinned ? s->pin : NULL, &k->keys, err);
    if (rc != CS_OK) {
        s->has_offered = rc == CS_EEXIST;
        if (rc == CS_EEXIST)
            memcpy(s->offered, k->keys.hub_pk, sizeof s->offered);
        cs_hub_keys_unref(k);
        if (rc == CS_EEXIST) {
            cs_fingerprint(s->offered, fingerprint);
            return cs_fail(err, CS_EHUB,
                           "HUB_KEY_CHANGED: hub %.150s has another key than the one that is pinned, %s; nothing was "
                           "sent to it",
                           e->config.hub_endpoint, fingerprint);
        }
        return rc == CS_EVERSION
                   ? rc
                   : cs_fail(err, CS_EUNAVAILABLE, "no session with hub %.150s: its answer is no valid one",
                             e->config.hub_endpoint);
    }
    memcpy(s->pin, k->keys.hub_pk, sizeof s->pin);
    s->pinned = true;
    cs_hub_session_drop(e, NULL);
    s->keys = k;
    return CS_OK;
}

static void on_reply(cs_rpc_call *rpc, void *arg, struct cs_slice msg)
{
    struct clawsync_engine *e = arg;
    struct cs_hub_session *s = &e->session;
    struct cs_arena arena = { 0 };
    ProtobufCAllocator alloc = cs_engine_pb(&arena);
    const Clawsync__V1__OpenSessionResponse *r;

    if (s->opening != rpc || s->rc != CS_EUNAVAILABLE || s->keys != NULL)
        return;
    if ((r = clawsync__v1__open_session_response__unpack(&alloc, msg.len, msg.data)) != NULL)
        s->rc = finish_exchange(e, cs_slice(r->reply.data, r->reply.len), &s->err);
    cs_arena_free(&arena);
}

static void on_opened(cs_rpc_call *rpc, void *arg, int status, const char *text, const struct cs_rpc_metadata *trailers)
{
    struct clawsync_engine *e = arg;
    struct cs_hub_session *s = &e->session;
    const char *url = e->config.hub_endpoint, *why = text != NULL && text[0] != '\0' ? text : "no reason given";

    (void)trailers;
    if (s->opening != rpc)
        return;
    s->opening = NULL;
    cs_timer_stop(s->idle);
    cs_secret_free(s->hello);
    s->hello = NULL;
    if (s->rc == CS_EUNAVAILABLE && s->timed_out)
        s->rc = cs_fail(&s->err, CS_ETIMEDOUT, "no answer from hub %.200s in %u s; changes stay queued", url,
                        e->config.request_timeout_secs);
    else if (s->rc == CS_EUNAVAILABLE && status == CS_RPC_CANCELLED)
        s->rc = cs_fail(&s->err, CS_ECANCELED, "the connection to hub %.200s was closed", url);
    else if (s->rc == CS_EUNAVAILABLE && status != CS_RPC_OK)
        cs_hub_out_of_reach(&s->err, s->rc, url, why);
    settle(e, status == CS_RPC_OK ? CS_RPC_UNAVAILABLE : status);
}

static void on_idle(void *arg)
{
    struct clawsync_engine *e = arg;

    e->session.timed_out = true;
    if (e->session.opening != NULL)
        cs_rpc_call_cancel(e->session.opening);
}

static int send_hello(struct clawsync_engine *e, struct cs_error *err)
{
    Clawsync__V1__OpenSessionRequest req = CLAWSYNC__V1__OPEN_SESSION_REQUEST__INIT;
    struct cs_hub_session *s = &e->session;
    struct cs_buf bytes = { 0 };
    int rc = CS_ENOMEM;

    req.hello = (ProtobufCBinaryData){ sizeof s->hello->bytes, s->hello->bytes };
    if (cs_engine_pb_pack(&bytes, &req.base))
        rc = cs_rpc_call_send(s->opening, cs_buf_slice(&bytes));
    cs_buf_free(&bytes);
    return rc == CS_OK ? CS_OK : cs_fail(err, rc, "cannot open a session: %s", cs_code_name(rc));
}

static int open_begin(struct clawsync_engine *e, struct cs_error *err)
{
    static const struct cs_rpc_client_cb cb = { .message = on_reply, .done = on_opened };
    struct cs_hub_session *s = &e->session;
    cs_rpc_call *call;
    int rc;

    if ((s->hello = cs_secret_alloc(sizeof *s->hello)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    cs_session_begin(&e->rng, s->hello);
    s->timed_out = false;
    s->rc = cs_fail(&s->err, CS_EUNAVAILABLE, "no session with hub %.150s: it did not answer", e->config.hub_endpoint);
    if ((rc = cs_hub_channel(e, err)) == CS_OK)
        rc = cs_rpc_call_new(e->channel, "/clawsync.v1.SyncService/OpenSession", NULL, 0, &cb, e, &s->opening, err);
    if (rc == CS_OK && (rc = send_hello(e, err)) != CS_OK) {
        call = s->opening;
        s->opening = NULL;
        cs_rpc_call_cancel(call);
    }
    if (rc != CS_OK) {
        cs_secret_free(s->hello);
        s->hello = NULL;
        return rc;
    }
    s->attempt++;
    cs_rpc_call_half_close(s->opening);
    cs_timer_start(s->idle, (uint64_t)e->config.request_timeout_secs * 1000);
    return CS_OK;
}

int cs_hub_session_want(struct clawsync_engine *e, struct cs_hub_call *c, struct cs_error *err)
{
    struct cs_hub_session *s = &e->session;
    struct cs_hub_call **at = &s->waiting;
    int rc;

    if (s->opening == NULL && (rc = open_begin(e, err)) != CS_OK)
        return rc;
    while (*at != NULL)
        at = &(*at)->next;
    *at = c;
    c->next = NULL;
    c->waiting = true;
    c->attempt = s->attempt;
    return CS_OK;
}

int cs_hub_session_init(struct clawsync_engine *e, struct cs_error *err)
{
    static const uint8_t none[32];
    struct cs_hub_session *s = &e->session;

    s->pinned = memcmp(e->ks->hub_key, none, sizeof none) != 0;
    memcpy(s->pin, e->ks->hub_key, sizeof s->pin);
    return cs_timer_new(e->loop, on_idle, e, &s->idle) == CS_OK ? CS_OK : cs_fail(err, CS_ENOMEM, "out of memory");
}

void cs_hub_session_fini(struct clawsync_engine *e)
{
    cs_hub_session_drop(e, NULL);
    cs_timer_close(e->session.idle);
    cs_secret_free(e->session.hello);
    e->session.idle = NULL;
    e->session.hello = NULL;
    e->session.opening = NULL;
}
