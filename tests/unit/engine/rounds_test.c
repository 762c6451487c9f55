/* Rounds that several threads ask for at once. */
#include "unit/engine/hub_fixture.h"

#include <sched.h>
#include <stdatomic.h>

#include "engine/engine.h"

enum { CALLERS = 8 };

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);";

typedef int (*round_fn)(clawsync_engine *e, clawsync_stats *stats, clawsync_error *err);

struct scene {
    struct hub hub;
    struct device device;
    clawsync_event_type counted;
    unsigned rounds; /* that ended well; the loop's, and ours when it rests */
    size_t wait_for; /* so many calls are there before the first one ends */
    atomic_bool first_ends;
};

struct caller {
    struct scene *scene;
    round_fn round;
    pthread_t thread;
    clawsync_stats stats;
    clawsync_error err;
    int rc;
};

static size_t waiting(clawsync_engine *e)
{
    size_t n = 0;

    pthread_mutex_lock(&e->lock);
    for (const struct cs_command *c = e->commands; c != NULL; c = c->next)
        n++;
    pthread_mutex_unlock(&e->lock);
    return n;
}

static void on_event(void *arg, const clawsync_event *ev)
{
    struct scene *s = arg;

    if (ev->type != s->counted)
        return;
    if (s->rounds++ > 0)
        return;
    atomic_store(&s->first_ends, true);
    while (waiting(s->device.engine) < s->wait_for)
        sched_yield();
}

static void *call(void *arg)
{
    struct caller *c = arg;

    c->rc = c->round(c->scene->device.engine, &c->stats, &c->err);
    return NULL;
}

static void open_scene(struct scene *s, clawsync_event_type counted)
{
    clawsync_error err = { 0 };

    memset(s, 0, sizeof *s); /* the hub too */
    s->counted = counted;
    s->wait_for = CALLERS;
    hub_init(&s->hub);
    device_init(&s->device, schema);
    s->device.config.hub_endpoint = s->hub.endpoint;
    device_open(&s->device);
    ok(clawsync_engine_subscribe(s->device.engine, on_event, s, &err), &err);
}

static void close_scene(struct scene *s)
{
    device_fini(&s->device);
    hub_fini(&s->hub);
}

static void start(struct caller *c, struct scene *s, round_fn round)
{
    *c = (struct caller){ .scene = s, .round = round };
    assert_int_equal(pthread_create(&c->thread, NULL, call, c), 0);
}

/* Starts a round, and the others while it runs. */
static void start_all(struct caller *first, struct caller c[CALLERS], struct scene *s, const round_fn rounds[2])
{
    start(first, s, rounds[0]);
    while (!atomic_load(&s->first_ends))
        sched_yield();
    for (int i = 0; i < CALLERS; i++)
        start(&c[i], s, rounds[i % 2]);
    pthread_join(first->thread, NULL);
    ok(first->rc, &first->err);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(c[i].thread, NULL);
        ok(c[i].rc, &c[i].err);
    }
}

static void callers_share(round_fn round, clawsync_event_type counted)
{
    const round_fn rounds[] = { round, round };
    struct caller first, c[CALLERS];
    struct scene s;

    open_scene(&s, counted);
    start_all(&first, c, &s, rounds);
    for (int i = 0; i < CALLERS; i++)
        assert_memory_equal(&c[i].stats, &c[0].stats, sizeof c[i].stats);
    device_close(&s.device);
    assert_int_equal(s.rounds, 2);
    close_scene(&s);
}

static void pushes_that_wait_are_one_round(void **state)
{
    (void)state;
    callers_share(clawsync_engine_push_now, CLAWSYNC_EVENT_PUSH_COMPLETED);
}

static void pulls_that_wait_are_one_round(void **state)
{
    (void)state;
    callers_share(clawsync_engine_pull_now, CLAWSYNC_EVENT_PULL_COMPLETED);
}

static void syncs_that_wait_are_one_round(void **state)
{
    (void)state;
    callers_share(clawsync_engine_sync_now, CLAWSYNC_EVENT_PUSH_COMPLETED);
}

/* Kinds are not mixed, and every caller of a round hears of its failure. */
static void each_kind_has_a_round_of_its_own_and_failures_reach_all(void **state)
{
    static const round_fn rounds[] = { clawsync_engine_push_now, clawsync_engine_pull_now };
    struct caller first, c[CALLERS];
    struct scene s;

    (void)state;
    open_scene(&s, CLAWSYNC_EVENT_PUSH_COMPLETED);
    start_all(&first, c, &s, rounds);
    assert_int_equal(s.rounds, 2); /* of pushes */
    hub_stop(&s.hub);
    for (int i = 0; i < CALLERS; i++)
        start(&c[i], &s, rounds[i % 2]);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(c[i].thread, NULL);
        assert_int_equal(c[i].rc, CLAWSYNC_EUNAVAILABLE);
        assert_non_null(strstr(c[i].err.msg, "cannot reach hub"));
    }
    hub_start(&s.hub);
    close_scene(&s);
}

/* Whoever waits for a round hears that there will be none. */
static void closed_while_others_wait(void **state)
{
    struct caller first, c[CALLERS];
    struct scene s;

    (void)state;
    open_scene(&s, CLAWSYNC_EVENT_PUSH_COMPLETED);
    s.wait_for = CALLERS + 1; /* and the close */
    start(&first, &s, clawsync_engine_push_now);
    while (!atomic_load(&s.first_ends))
        sched_yield();
    for (int i = 0; i < CALLERS; i++)
        start(&c[i], &s, clawsync_engine_sync_now);
    while (waiting(s.device.engine) < CALLERS)
        sched_yield();
    device_close(&s.device);
    pthread_join(first.thread, NULL);
    ok(first.rc, &first.err);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(c[i].thread, NULL);
        assert_int_equal(c[i].rc, CLAWSYNC_ECANCELED);
        assert_string_equal(c[i].err.msg, "the engine is being closed");
    }
    close_scene(&s);
}

/* ---- what the status says meanwhile ---- */

struct looks {
    clawsync_engine *engine;
    atomic_uint during, wrong,
        ends; /* looks during a round of its own accord, and those that did not find it at work */
};

static clawsync_state state_of(clawsync_engine *e)
{
    clawsync_status st = { .size = sizeof st };
    clawsync_error err;

    ok(clawsync_engine_status(e, &st, &err), &err);
    return st.state;
}

static void look_on(void *arg, const clawsync_event *ev)
{
    struct looks *l = arg;

    if (ev->type == CLAWSYNC_EVENT_PROGRESS) {
        atomic_fetch_add(&l->during, 1);
        if (state_of(l->engine) != CLAWSYNC_STATE_SYNCING)
            atomic_fetch_add(&l->wrong, 1);
    }
    if (ev->type == CLAWSYNC_EVENT_PUSH_COMPLETED)
        atomic_fetch_add(&l->ends, 1);
}

static void whoever_sends_is_not_in_sync(void **state)
{
    struct looks l = { 0 };
    clawsync_error err;
    struct scene s;
    unsigned ends;

    (void)state;
    memset(&s, 0, sizeof s);
    hub_init(&s.hub);
    device_init(&s.device, schema);
    s.device.config.hub_endpoint = s.hub.endpoint;
    s.device.config.max_delta_rows = 1;
    device_open(&s.device);
    l.engine = s.device.engine;
    ok(clawsync_engine_start(s.device.engine, &err), &err);
    while (state_of(s.device.engine) != CLAWSYNC_STATE_IN_SYNC)
        sched_yield();
    ok(clawsync_engine_subscribe(s.device.engine, look_on, &l, &err), &err);
    ends = atomic_load(&l.ends);
    app(&s.device, "INSERT INTO memories(id) VALUES('a'), ('b'), ('c'), ('d'), ('e')");
    while (atomic_load(&l.ends) == ends || atomic_load(&l.during) == 0)
        sched_yield();
    device_close(&s.device);
    assert_int_equal(atomic_load(&l.wrong), 0);
    close_scene(&s);
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(whoever_sends_is_not_in_sync),
        cmocka_unit_test(pushes_that_wait_are_one_round),
        cmocka_unit_test(pulls_that_wait_are_one_round),
        cmocka_unit_test(syncs_that_wait_are_one_round),
        cmocka_unit_test(each_kind_has_a_round_of_its_own_and_failures_reach_all),
        cmocka_unit_test(closed_while_others_wait),
    };

    return cmocka_run_group_tests_name("rounds", t, NULL, NULL);
}
