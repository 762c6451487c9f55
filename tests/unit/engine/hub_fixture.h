/* The real hub, on a thread of its own in the test's process. */
#ifndef HUB_FIXTURE_H
#define HUB_FIXTURE_H

#include "unit/engine/engine_fixture.h"

#include <pthread.h>
#include <signal.h>

#include "base/loop.h"
#include "hub/hub.h"

struct hub {
    char dir[SCRATCH_LEN], database[96], endpoint[64];
    cs_loop *loop;
    cs_hub *hub;
    cs_wake *end;
    pthread_t thread;
    bool running;
    uint64_t silent_ms; /* after which a device is not waited for when the log is pruned; 0: it is */
    uint64_t flush_ms;  /* how often it prunes; 0: once a minute */
    void (*starting)(struct hub *h, void *arg); /* before the loop runs, when the hub is up; may be NULL */
    void *arg;
};

static inline void hub_stopped(void *arg)
{
    struct hub *h = arg;

    h->hub = NULL;
    cs_loop_stop(h->loop);
}

static inline void hub_end(void *arg)
{
    struct hub *h = arg;

    if (h->hub != NULL)
        cs_hub_stop(h->hub, 0, hub_stopped, h);
}

static inline void *hub_main(void *arg)
{
    cs_loop_run(((struct hub *)arg)->loop);
    return NULL;
}

static inline void hub_start(struct hub *h)
{
    struct cs_hub_options o = {
        .host = "127.0.0.1", .database = h->database, .silent_ms = h->silent_ms, .flush_ms = h->flush_ms
    };
    struct cs_error err = { 0 };

    signal(SIGPIPE, SIG_IGN);
    memset(o.key_seed, 7, sizeof o.key_seed);
    assert_int_equal(cs_loop_new(cs_world_real(), &h->loop, &err), CS_OK);
    assert_int_equal(cs_wake_new(h->loop, hub_end, h, &h->end), CS_OK);
    if (cs_hub_start(cs_world_real(), h->loop, &o, &h->hub, &err) != CS_OK)
        fail_msg("%s", err.msg);
    snprintf(h->endpoint, sizeof h->endpoint, "http://127.0.0.1:%u", (unsigned)cs_hub_port(h->hub));
    if (h->starting != NULL)
        h->starting(h, h->arg);
    assert_int_equal(pthread_create(&h->thread, NULL, hub_main, h), 0);
    h->running = true;
}

/* Ends the hub and its thread; the loop remains. */
static inline void hub_join(struct hub *h)
{
    cs_wake_send(h->end);
    pthread_join(h->thread, NULL);
    h->running = false;
}

static inline void hub_stop(struct hub *h)
{
    if (h->running)
        hub_join(h);
    cs_wake_close(h->end);
    cs_loop_free(h->loop);
}

static inline void hub_init(struct hub *h)
{
    assert_non_null(scratch_folder(h->dir, "hub"));
    snprintf(h->database, sizeof h->database, "%s/hub.db", h->dir);
    hub_start(h);
}

/* One number that SQL finds in its database. */
static inline int64_t in_hub(const struct hub *h, const char *sql)
{
    struct device file = { 0 };

    snprintf(file.db, sizeof file.db, "%s", h->database);
    return number_in(&file, sql);
}

static inline void hub_fini(struct hub *h)
{
    char command[100];

    hub_stop(h);
    snprintf(command, sizeof command, "rm -r %s", h->dir);
    assert_int_equal(system(command), 0);
}

#endif
