/* The simulated loop: timers, bells, work, watches, signals. The network is in test_net.c. */
#include <stdlib.h>

#include "base/test_internal.h"

struct sim_timer {
    struct cs_timer base;
    struct cs_sim_object o;
    void (*cb)(void *arg);
    void *arg;
};

struct sim_wake {
    struct cs_wake base;
    struct cs_sim_object o;
    void (*cb)(void *arg);
    void *arg;
};

struct sim_work {
    struct cs_sim_object o;
    void (*fn)(void *arg); /* NULL once it has run */
    void (*done)(void *arg);
    void *arg;
};

struct sim_watch {
    struct cs_watch base;
    struct cs_sim_object o;
    void (*cb)(void *arg, const char *name);
    void *arg;
    char *dir, *name;
    bool several; /* names wait, of which one is kept */
};

struct sim_signal {
    struct cs_signal base;
    struct cs_sim_object o;
};

static struct cs_sim_loop *sim_loop(cs_loop *l)
{
    return (struct cs_sim_loop *)l;
}

static void lock(struct cs_sim_loop *l)
{
    pthread_mutex_lock(&l->host->sim->lock);
}

static void unlock(struct cs_sim_loop *l)
{
    pthread_mutex_unlock(&l->host->sim->lock);
}

static void give_up(const char *why)
{
    fprintf(stderr, "simulation: %s\n", why);
    abort();
}

/* ---- objects ---- */

void cs_sim_object_init(struct cs_sim_loop *l, struct cs_sim_object *o, enum cs_sim_kind kind, const char *event,
                        void (*fn)(void *arg), void *arg)
{
    *o = (struct cs_sim_object){ .loop = l, .kind = kind, .id = ++l->host->sim->next_id };
    o->event = (struct cs_sim_event){ .kind = event, .fn = fn, .arg = arg, .loop = l };
    o->next = l->objects;
    o->at = &l->objects;
    if (o->next != NULL)
        o->next->at = &o->next;
    l->objects = o;
}

void cs_sim_object_drop(struct cs_sim_object *o)
{
    if (o->at == NULL)
        return;
    cs_sim_unplan(o->loop->host->sim, &o->event);
    *o->at = o->next;
    if (o->next != NULL)
        o->next->at = o->at;
    o->at = NULL;
    o->next = NULL;
}

#define CONTAINER(type, object) ((type *)(void *)((char *)(object)-offsetof(type, o)))

static void watch_free(struct sim_watch *w)
{
    free(w->dir);
    free(w->name);
    free(w);
}

static void discard(struct cs_sim_object *o)
{
    cs_sim_object_drop(o);
    switch (o->kind) {
    case CS_SIM_TIMER:
        free(CONTAINER(struct sim_timer, o));
        return;
    case CS_SIM_WAKE:
        free(CONTAINER(struct sim_wake, o));
        return;
    case CS_SIM_WORK:
        free(CONTAINER(struct sim_work, o));
        return;
    case CS_SIM_WATCH:
        watch_free(CONTAINER(struct sim_watch, o));
        return;
    case CS_SIM_SIGNAL:
        free(CONTAINER(struct sim_signal, o));
        return;
    case CS_SIM_LISTENER:
        cs_sim_listener_discard(o);
        return;
    case CS_SIM_STREAM:
        cs_sim_stream_cut(o);
        return;
    }
}

/* ---- the loop ---- */

static void link_loop(struct cs_sim_loop *l, struct cs_sim_loop **head)
{
    l->next = *head;
    l->at = head;
    if (l->next != NULL)
        l->next->at = &l->next;
    *head = l;
}

static void unlink_loop(struct cs_sim_loop *l)
{
    *l->at = l->next;
    if (l->next != NULL)
        l->next->at = l->at;
}

int cs_sim_loop_new(struct cs_world *w, cs_loop **out, struct cs_error *err)
{
    struct cs_sim_host *h = cs_sim_host_of(w);
    struct cs_sim_loop *l = calloc(1, sizeof *l);

    *out = NULL;
    if (l == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    pthread_mutex_lock(&h->sim->lock);
    l->base.ops = &cs_sim_loop_ops;
    l->host = h;
    l->id = ++h->sim->next_id;
    link_loop(l, &h->loops);
    pthread_mutex_unlock(&h->sim->lock);
    *out = &l->base;
    return CS_OK;
}

void cs_sim_loop_kill(struct cs_sim_loop *l)
{
    cs_sim *sim = l->host->sim;

    l->dead = true;
    unlink_loop(l);
    link_loop(l, &sim->dead);
    for (struct cs_sim_object *o = l->objects, *next; o != NULL; o = next) {
        next = o->next;
        cs_sim_unplan(sim, &o->event);
        if (o->kind == CS_SIM_STREAM)
            cs_sim_stream_kill(o);
    }
}

void cs_sim_loop_discard(struct cs_sim_loop *l)
{
    while (l->objects != NULL)
        discard(l->objects); /* NOLINT(clang-analyzer-unix.Malloc): which takes it off the list */
    unlink_loop(l);
    free(l);
}

static void loop_run(cs_loop *base)
{
    struct cs_sim_loop *l = sim_loop(base);
    cs_sim *sim = l->host->sim;

    cs_sim_enter(sim);
    while (!l->stop) {
        if (l->dead)
            give_up("the loop of a host that was killed cannot run");
        if (!cs_sim_step(sim))
            cs_sim_wait(sim);
    }
    l->stop = false;
    cs_sim_leave(sim);
}

static void loop_stop(cs_loop *base)
{
    struct cs_sim_loop *l = sim_loop(base);

    lock(l);
    l->stop = true;
    pthread_cond_broadcast(&l->host->sim->changed);
    unlock(l);
}

static void work_event(void *arg);

/* Finishes the work that runs, and cuts what closed streams still had to send. */
static void loop_free(cs_loop *base)
{
    struct cs_sim_loop *l = sim_loop(base);
    cs_sim *sim = l->host->sim;
    struct cs_sim_object *o;

    lock(l);
    for (o = l->objects; o != NULL && !l->dead;) {
        if (o->kind == CS_SIM_WORK) { /* NOLINT(clang-analyzer-unix.Malloc): work that is done is off the list */
            cs_sim_unplan(sim, &o->event);
            work_event(CONTAINER(struct sim_work, o));
            o = l->objects; /* its callbacks may have done anything */
            continue;
        }
        if (o->kind != CS_SIM_STREAM)
            give_up("a loop is freed while something on it is not closed");
        o = o->next;
    }
    cs_sim_loop_discard(l);
    pthread_mutex_unlock(&sim->lock);
}

static uint64_t loop_now_ms(cs_loop *base)
{
    struct cs_sim_loop *l = sim_loop(base);
    uint64_t now;

    lock(l);
    now = l->host->sim->now_ns / CS_SIM_MS;
    unlock(l);
    return now;
}

/* ---- timers ---- */

static void timer_event(void *arg)
{
    struct sim_timer *t = arg;
    cs_sim *sim = t->o.loop->host->sim;

    pthread_mutex_unlock(&sim->lock);
    t->cb(t->arg);
    pthread_mutex_lock(&sim->lock);
}

static int timer_new(cs_loop *base, void (*cb)(void *arg), void *arg, cs_timer **out)
{
    struct cs_sim_loop *l = sim_loop(base);
    struct sim_timer *t = calloc(1, sizeof *t);

    *out = NULL;
    if (t == NULL)
        return CS_ENOMEM;
    *t = (struct sim_timer){ .base.ops = &cs_sim_loop_ops, .cb = cb, .arg = arg };
    lock(l);
    cs_sim_object_init(l, &t->o, CS_SIM_TIMER, "timer", timer_event, t);
    unlock(l);
    *out = &t->base;
    return CS_OK;
}

/* Whole milliseconds, as in the real loop, so that timers of one moment meet. */
static void timer_start(cs_timer *base, uint64_t ms)
{
    struct sim_timer *t = (struct sim_timer *)base;
    struct cs_sim_loop *l = t->o.loop;
    cs_sim *sim = l->host->sim;

    lock(l);
    cs_sim_plan(sim, &t->o.event, (sim->now_ns / CS_SIM_MS + ms) * CS_SIM_MS);
    unlock(l);
}

static void timer_stop(cs_timer *base)
{
    struct sim_timer *t = (struct sim_timer *)base;

    lock(t->o.loop);
    cs_sim_unplan(t->o.loop->host->sim, &t->o.event);
    unlock(t->o.loop);
}

/* Frees what holds the object. */
static void object_close(struct cs_sim_object *o)
{
    struct cs_sim_loop *l = o->loop;

    lock(l);
    discard(o);
    unlock(l);
}

static void timer_close(cs_timer *t)
{
    object_close(&((struct sim_timer *)t)->o);
}

/* ---- bells ---- */

static void wake_event(void *arg)
{
    struct sim_wake *w = arg;
    cs_sim *sim = w->o.loop->host->sim;

    pthread_mutex_unlock(&sim->lock);
    w->cb(w->arg);
    pthread_mutex_lock(&sim->lock);
}

static int wake_new(cs_loop *base, void (*cb)(void *arg), void *arg, cs_wake **out)
{
    struct cs_sim_loop *l = sim_loop(base);
    struct sim_wake *w = calloc(1, sizeof *w);

    *out = NULL;
    if (w == NULL)
        return CS_ENOMEM;
    *w = (struct sim_wake){ .base.ops = &cs_sim_loop_ops, .cb = cb, .arg = arg };
    lock(l);
    cs_sim_object_init(l, &w->o, CS_SIM_WAKE, "wake", wake_event, w);
    unlock(l);
    *out = &w->base;
    return CS_OK;
}

static void wake_send(cs_wake *base)
{
    struct sim_wake *w = (struct sim_wake *)base;
    cs_sim *sim = w->o.loop->host->sim;

    pthread_mutex_lock(&sim->lock);
    if (w->o.event.slot == 0)
        cs_sim_plan(sim, &w->o.event, sim->now_ns + cs_sim_draw_between(sim, 1000, 50000));
    pthread_mutex_unlock(&sim->lock);
}

static void wake_close(cs_wake *w)
{
    object_close(&((struct sim_wake *)w)->o);
}

/* ---- work: its function at one moment, and what is to be done then at a later one ---- */

static void work_plan(struct sim_work *w)
{
    cs_sim *sim = w->o.loop->host->sim;

    cs_sim_plan(sim, &w->o.event, sim->now_ns + cs_sim_draw_between(sim, 10000, 2 * CS_SIM_MS));
}

static void work_event(void *arg)
{
    struct sim_work *w = arg;
    struct cs_sim_loop *l = w->o.loop;
    void (*fn)(void *arg) = w->fn, (*done)(void *arg) = w->done;

    w->fn = NULL;
    if (fn != NULL) {
        unlock(l);
        fn(w->arg);
        lock(l);
        work_plan(w);
        return;
    }
    arg = w->arg;
    discard(&w->o);
    unlock(l);
    done(arg);
    lock(l);
}

static int loop_work(cs_loop *base, void (*fn)(void *arg), void (*done)(void *arg), void *arg)
{
    struct cs_sim_loop *l = sim_loop(base);
    struct sim_work *w = calloc(1, sizeof *w);

    if (w == NULL)
        return CS_ENOMEM;
    *w = (struct sim_work){ .fn = fn, .done = done, .arg = arg };
    lock(l);
    cs_sim_object_init(l, &w->o, CS_SIM_WORK, "work", work_event, w);
    work_plan(w);
    unlock(l);
    return CS_OK;
}

/* ---- watches ---- */

static void watch_event(void *arg)
{
    struct sim_watch *w = arg;
    struct cs_sim_loop *l = w->o.loop;
    char *name = w->several ? NULL : w->name, *kept = w->name;

    w->name = NULL;
    w->several = false;
    unlock(l);
    w->cb(w->arg, name);
    lock(l);
    free(kept);
}

static int watch_new(cs_loop *base, const char *dir, void (*cb)(void *arg, const char *name), void *arg, cs_watch **out,
                     struct cs_error *err)
{
    struct cs_sim_loop *l = sim_loop(base);
    struct cs_sim_host *h = l->host;
    struct sim_watch *w;
    struct cs_buf full = { 0 };
    int rc;

    *out = NULL;
    if ((rc = h->world.files.ops->realpath(h, dir, &full, err)) != CS_OK) {
        cs_buf_free(&full);
        return cs_fail(err, rc == CS_ENOMEM ? rc : CS_EIO, "cannot watch \"%s\": no such file or directory", dir);
    }
    if ((w = calloc(1, sizeof *w)) == NULL) {
        cs_buf_free(&full);
        return cs_fail(err, CS_ENOMEM, "out of memory");
    }
    *w = (struct sim_watch){ .base.ops = &cs_sim_loop_ops, .cb = cb, .arg = arg, .dir = (char *)full.data };
    lock(l);
    cs_sim_object_init(l, &w->o, CS_SIM_WATCH, "watch", watch_event, w);
    unlock(l);
    *out = &w->base;
    return CS_OK;
}

static void watch_close(cs_watch *w)
{
    object_close(&((struct sim_watch *)w)->o);
}

static void watch_note(struct sim_watch *w, const char *name)
{
    cs_sim *sim = w->o.loop->host->sim;

    if (w->name != NULL && strcmp(w->name, name) != 0)
        w->several = true;
    if (w->name == NULL && (w->name = strdup(name)) == NULL)
        w->several = true;
    if (w->o.event.slot == 0)
        cs_sim_plan(sim, &w->o.event, sim->now_ns + cs_sim_draw_between(sim, 1000, CS_SIM_MS));
}

/* Something happened to the file of this absolute, normal path. */
void cs_sim_watch_tell(struct cs_sim_host *h, const char *path)
{
    const char *name = strrchr(path, '/') + 1;
    size_t len = name - 1 == path ? 1 : (size_t)(name - 1 - path);

    for (struct cs_sim_loop *l = h->loops; l != NULL; l = l->next)
        for (struct cs_sim_object *o = l->objects; o != NULL; o = o->next) {
            struct sim_watch *w = CONTAINER(struct sim_watch, o);

            if (o->kind == CS_SIM_WATCH && strlen(w->dir) == len && memcmp(w->dir, path, len) == 0)
                watch_note(w, name);
        }
}

/* ---- signals: none is ever sent ---- */

static int signal_new(cs_loop *base, int signum, void (*cb)(void *arg), void *arg, cs_signal **out)
{
    struct cs_sim_loop *l = sim_loop(base);
    struct sim_signal *s = calloc(1, sizeof *s);

    (void)signum;
    (void)cb;
    (void)arg;
    *out = NULL;
    if (s == NULL)
        return CS_ENOMEM;
    s->base.ops = &cs_sim_loop_ops;
    lock(l);
    cs_sim_object_init(l, &s->o, CS_SIM_SIGNAL, "signal", NULL, s);
    unlock(l);
    *out = &s->base;
    return CS_OK;
}

static void signal_close(cs_signal *s)
{
    object_close(&((struct sim_signal *)s)->o);
}

const struct cs_loop_ops cs_sim_loop_ops = {
    .run = loop_run,
    .stop = loop_stop,
    .free = loop_free,
    .now_ms = loop_now_ms,
    .timer_new = timer_new,
    .timer_start = timer_start,
    .timer_stop = timer_stop,
    .timer_close = timer_close,
    .wake_new = wake_new,
    .wake_send = wake_send,
    .wake_close = wake_close,
    .work = loop_work,
    .connect = cs_sim_connect,
    .listen = cs_sim_listen,
    .listener_port = cs_sim_listener_port,
    .listener_close = cs_sim_listener_close,
    .stream_accept = cs_sim_stream_accept,
    .stream_read = cs_sim_stream_read,
    .stream_write = cs_sim_stream_write,
    .stream_pending = cs_sim_stream_pending,
    .stream_peer = cs_sim_stream_peer,
    .stream_close = cs_sim_stream_close,
    .watch_new = watch_new,
    .watch_close = watch_close,
    .signal_new = signal_new,
    .signal_close = signal_close,
};
