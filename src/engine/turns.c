/* A talk with the hub in turns. A job looks at the hub's answer and says what is next; the loop does that. */
#include <stddef.h>

#include "engine/engine.h"

enum { LOOK_MS = 200 };

static void run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_turns *t = (struct cs_turns *)j; /* its first member */
    const struct cs_message *m = t->taken.first;
    ProtobufCMessage *answer = NULL;
    ProtobufCAllocator alloc;

    cs_arena_reset(&t->arena);
    alloc = cs_engine_pb(&t->arena);
    t->next = CS_TURN_END;
    if (m != NULL && (answer = protobuf_c_message_unpack(t->kind->answer, &alloc, m->len, m->data)) == NULL)
        j->rc = cs_engine_unreadable(&t->arena, "the hub's answer", &j->err);
    else
        j->rc = t->kind->look(e, answer, &t->next, &j->err);
    cs_messages_free(&t->taken);
}

static void on_answer(struct cs_hub_call *c)
{
    struct cs_turns *t = (struct cs_turns *)((char *)c - offsetof(struct cs_turns, call));

    if (!c->ended)
        return;
    if (c->rc != CS_OK) {
        struct cs_error err = c->err;
        int status = c->status;

        cs_hub_call_cancel(c);
        t->kind->refused(t->e, status, &err);
        return;
    }
    if (c->in.first == NULL) {
        struct cs_error err;

        cs_hub_call_cancel(c);
        t->kind->finish(t->e, cs_fail(&err, CS_EHUB, "the hub ended %s without an answer", t->kind->method), &err);
        return;
    }
    t->taken = c->in;
    t->received += c->in.bytes;
    c->in = (struct cs_messages){ 0 };
    cs_hub_call_cancel(c);
    cs_turns_next(t);
}

static void done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_turns *t = (struct cs_turns *)j;
    struct cs_error err = { 0 };

    if (j->rc != CS_OK) {
        t->kind->finish(e, j->rc, &j->err);
        return;
    }
    if (e->schedule.closing && t->next != CS_TURN_END) {
        t->kind->finish(e, cs_fail(&err, CS_ECANCELED, "the engine is being closed"), &err);
        return;
    }
    switch (t->next) {
    case CS_TURN_CALL:
        t->sent += protobuf_c_message_get_packed_size(t->request);
        if (cs_hub_call_start(e, &t->call, t->kind->method, t->request, true, on_answer, &err) != CS_OK)
            t->kind->finish(e, err.code, &err);
        return;
    case CS_TURN_SYNC:
        cs_turns_sync(t);
        return;
    case CS_TURN_OTHER:
        t->kind->other(e);
        return;
    case CS_TURN_WAIT:
        cs_turns_wait(t);
        return;
    case CS_TURN_END:
        t->kind->finish(e, CS_OK, &err);
        return;
    }
}

void cs_turns_next(struct cs_turns *t)
{
    t->job = (struct cs_job){ .run = run, .done = done };
    cs_engine_job(t->e, &t->job);
}

static void synced(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    static const cs_step_start steps[] = { cs_step_member, cs_step_pull, cs_step_push, cs_step_pull };
    struct cs_turns *t = e->syncing;

    if (rc != CS_OK)
        t->kind->finish(e, rc, err);
    else if (t->step < sizeof steps / sizeof steps[0])
        steps[t->step++](e, synced);
    else
        cs_turns_next(t);
}

void cs_turns_sync(struct cs_turns *t)
{
    t->syncs++;
    t->step = 0;
    t->e->syncing = t;
    t->kind->anew(t->e);
    synced(t->e, CS_OK, NULL);
}

void cs_turns_wait(struct cs_turns *t)
{
    cs_timer_start(t->timer, LOOK_MS);
}

static void on_timer(void *arg)
{
    cs_turns_next(arg);
}

int cs_turns_begin(struct clawsync_engine *e, struct cs_turns *t, const struct cs_turns_kind *kind)
{
    t->e = e;
    t->kind = kind;
    t->syncs = 0;
    t->sent = t->received = 0;
    return t->timer == NULL ? cs_timer_new(e->loop, on_timer, t, &t->timer) : CS_OK;
}

void cs_turns_end(struct cs_turns *t)
{
    cs_hub_call_cancel(&t->call);
    if (t->timer != NULL)
        cs_timer_stop(t->timer);
    cs_messages_free(&t->taken);
    cs_arena_free(&t->arena);
}

void cs_turns_free(struct cs_turns *t)
{
    cs_turns_end(t);
    cs_hub_call_free(&t->call);
    if (t->timer != NULL)
        cs_timer_close(t->timer);
    t->timer = NULL;
}
