/* A hub with another key than the pinned one: nothing is sent to it before a person has said, by the key's fingerprint,
 * that it is the hub all the same. */
#include <stdio.h>

#include "engine/engine.h"
#include "identity/code.h"

struct accept {
    const char *want; /* the fingerprint as typed; NULL: only looks */
    char *out;        /* the new key's */
    uint8_t key[32];
    cs_step_done done;
};

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct accept *a = e->devices.cmd->arg;

    cs_hub_call_cancel(&e->devices.call);
    a->done(e, rc, err);
}

/* Whoever types it may leave the dashes out. */
static bool same_fingerprint(const char *a, const char *b)
{
    for (;; a++, b++) {
        while (*a == '-' || *a == ' ')
            a++;
        while (*b == '-' || *b == ' ')
            b++;
        if (*a == '\0' || *b == '\0')
            return *a == *b;
        if ((*a >= 'a' && *a <= 'z' ? *a - 32 : *a) != (*b >= 'a' && *b <= 'z' ? *b - 32 : *b))
            return false;
    }
}

static void pin_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct accept *a = e->devices.cmd->arg;
    uint8_t before[32];

    memcpy(before, e->ks->hub_key, 32);
    memcpy(e->ks->hub_key, a->key, 32);
    if ((j->rc = cs_self_save(e, &j->err)) != CS_OK) {
        memcpy(e->ks->hub_key, before, 32);
        return;
    }
    /* what the old key signed says nothing of this hub; where the log was read to is kept with the rows */
    e->kept = e->head = (struct cs_hub_head){ 0 };
    e->head_unsaved = false;
    j->rc = cs_replica_meta_drop(e->replica, "engine.head", &j->err);
    if (j->rc == CS_ENOTFOUND)
        j->rc = CS_OK;
}

static void pin_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct accept *a = e->devices.cmd->arg;

    if (j->rc == CS_OK)
        memcpy(e->session.pin, a->key, 32);
    finish(e, j->rc, &j->err);
}

static void on_answer(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;
    struct accept *a = e->devices.cmd->arg;
    struct cs_error err = c->err;

    if (!c->ended)
        return;
    if (!e->session.has_offered) {
        /* the session is with the key that is pinned, or there is none */
        if (e->session.keys != NULL)
            finish(e, cs_fail(&err, CS_EEXIST, "the hub has the key that is pinned here; there is nothing to accept"),
                   &err);
        else
            finish(e, c->rc, &err);
        return;
    }
    memcpy(a->key, e->session.offered, 32);
    cs_fingerprint(a->key, a->out);
    if (a->want == NULL || !same_fingerprint(a->want, a->out)) {
        if (a->want == NULL)
            cs_fail(&err, CS_EINVAL,
                    "the hub's key is %s now; if whoever runs the hub says so, accept it with: claw-sync hub accept %s",
                    a->out, a->out);
        else
            cs_fail(&err, CS_EINVAL,
                    "\"%.40s\" is not this hub's fingerprint, which is %s; nothing is accepted: ask whoever runs the "
                    "hub once more",
                    a->want, a->out);
        finish(e, err.code, &err);
        return;
    }
    e->devices.job = (struct cs_job){ .run = pin_run, .done = pin_done };
    cs_engine_job(e, &e->devices.job);
}

void cs_step_accept(struct clawsync_engine *e, cs_step_done done)
{
    Clawsync__V1__HeartbeatRequest req = CLAWSYNC__V1__HEARTBEAT_REQUEST__INIT;
    struct accept *a;
    struct cs_error err = { 0 };
    int rc;

    e->devices.cmd = e->schedule.current;
    a = e->devices.cmd->arg;
    a->done = done;
    e->session.has_offered = false;
    req.workspace_id = e->workspace_text;
    req.device_id = e->device_text;
    req.timestamp = cs_now_ms(e->world);
    if ((rc = cs_hub_call_start(e, &e->devices.call, "Heartbeat", &req.base, true, on_answer, &err)) != CS_OK)
        finish(e, rc, &err);
}

int clawsync_engine_accept_hub(clawsync_engine *e, const char *fingerprint, char out[24], clawsync_error *err)
{
    struct accept a = { .want = fingerprint, .out = out };
    struct cs_command c = { .kind = CS_CMD_STEPS, .step = { cs_step_accept }, .arg = &a };

    out[0] = '\0';
    return cs_engine_command(e, &c, err);
}
