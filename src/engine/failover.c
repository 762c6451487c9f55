/* Several hubs that serve one store: the one in use, the next one when it is away, and the first again when it is back.
 * Order is preference. */
#include "engine/engine.h"

enum { BACK_MS = 30000, PROBE_MS = 5000 };

static void move_on(struct clawsync_engine *e)
{
    e->failover.at = (e->failover.at + 1) % e->hubs.n;
    e->failover.moved = true;
}

void cs_failover_on_channel(struct clawsync_engine *e, bool up)
{
    if (!up && e->hubs.n > 1) /* a hub that answers may still refuse; a round that succeeded tells more */
        move_on(e);
}

bool cs_failover_next(struct clawsync_engine *e)
{
    struct cs_failover *f = &e->failover;

    if (++f->tried >= e->hubs.n) {
        f->tried = 0;
        return false;
    }
    if (!f->moved) /* it answers, and does not serve */
        move_on(e);
    return true;
}

/* Rounds that end meanwhile do not put it off. */
static void ask_later(struct cs_failover *f)
{
    if (!f->asking)
        cs_timer_start(f->timer, BACK_MS);
    f->asking = true;
}

void cs_failover_connected(struct clawsync_engine *e)
{
    struct cs_failover *f = &e->failover;

    f->tried = 0;
    if (f->at > 0)
        ask_later(f);
}

void cs_failover_follow(struct clawsync_engine *e)
{
    if (e->failover.moved)
        cs_hub_disconnect(e);
    e->failover.moved = false;
}

/* ---- back to the first ---- */

static void probe_end(struct cs_failover *f)
{
    cs_rpc_channel *ch = f->channel;

    f->channel = NULL;
    f->probe = NULL;
    f->asking = false;
    cs_rpc_channel_close(ch);
}

static void on_message(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    struct clawsync_engine *e = arg;

    (void)c;
    /* HealthCheckResponse.status = SERVING */
    e->failover.serves = msg.len == 2 && msg.data[0] == 0x08 && msg.data[1] == 0x01;
}

static void on_probed(cs_rpc_call *c, void *arg, int status, const char *text, const struct cs_rpc_metadata *trailers)
{
    struct clawsync_engine *e = arg;
    struct cs_failover *f = &e->failover;

    (void)text;
    (void)trailers;
    (void)c;
    f->probe = NULL;
    if (f->channel == NULL)
        return; /* it is being closed */
    f->back = status == CS_RPC_OK && f->serves && f->at > 0;
    probe_end(f);
    if (f->back)
        cs_schedule_hub_back(e);
    else if (f->at > 0)
        ask_later(f);
}

static void probe(void *arg)
{
    static const struct cs_rpc_client_cb cb = { .message = on_message, .done = on_probed };
    struct clawsync_engine *e = arg;
    struct cs_failover *f = &e->failover;
    struct cs_error err;

    if (f->at == 0) {
        f->asking = false;
        return;
    }
    f->serves = false;
    if (cs_hub_channel_to(e, &e->hubs.of[0], NULL, &f->channel, &err) == CS_OK &&
        cs_rpc_call_new(f->channel, "/grpc.health.v1.Health/Check", NULL, PROBE_MS, &cb, e, &f->probe, &err) == CS_OK &&
        cs_rpc_call_send(f->probe, cs_slice(NULL, 0)) == CS_OK) {
        cs_rpc_call_half_close(f->probe);
        return;
    }
    probe_end(f);
    ask_later(f);
}

bool cs_failover_go_back(struct clawsync_engine *e)
{
    struct cs_failover *f = &e->failover;

    if (!f->back)
        return false;
    f->back = false;
    f->at = 0;
    f->moved = true;
    return true;
}

int cs_failover_open(struct clawsync_engine *e, struct cs_error *err)
{
    if (e->hubs.n > 1 && cs_timer_new(e->loop, probe, e, &e->failover.timer) != CS_OK)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    return CS_OK;
}

void cs_failover_close(struct clawsync_engine *e)
{
    probe_end(&e->failover);
    cs_timer_close(e->failover.timer);
}
