/* For tests of both worlds: each test has the world's kind as its state and gets a loop on a world of that kind. */
#ifndef BOTH_WORLDS_H
#define BOTH_WORLDS_H

#include "unit/base/base_fixture.h"

#include "base/test_world.h"
#include "scratch.h"

enum kind { REAL, SIMULATED };
static enum kind real = REAL, simulated = SIMULATED;

#define IN(f, kind)                                                                                                    \
    {                                                                                                                  \
#f " (" #kind ")", f, NULL, NULL, &kind                                                                        \
    }
#define BOTH(f) IN(f, real), IN(f, simulated)

struct bench {
    cs_sim *sim; /* NULL: the real world */
    struct cs_world *world;
    cs_loop *loop;
    cs_timer *guard;
    char dir[SCRATCH_LEN]; /* an empty folder */
};

static inline void bench_stuck(void *arg)
{
    (void)arg;
    fail_msg("the test is stuck");
}

static inline void must(int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        fail_msg("%s (%s)", err->msg, cs_code_name(rc));
}

static inline void bench_world(struct bench *b, void **state)
{
    struct cs_error err;

    *b = (struct bench){ .world = cs_world_real() };
    snprintf(b->dir, sizeof b->dir, "/tmp/cs-base-XXXXXX");
    if (*(enum kind *)*state == REAL) {
        assert_non_null(scratch_folder(b->dir, "base"));
        return;
    }
    assert_non_null(b->sim = cs_sim_new(1));
    assert_non_null(b->world = cs_sim_host(b->sim, "host"));
    must(b->world->files.ops->mkdir(b->world->files.self, b->dir, 0700, &err), &err);
}

static inline void bench_open(struct bench *b, void **state)
{
    struct cs_error err;

    signal(SIGPIPE, SIG_IGN);
    bench_world(b, state);
    must(cs_loop_new(b->world, &b->loop, &err), &err);
    assert_int_equal(cs_timer_new(b->loop, bench_stuck, NULL, &b->guard), CS_OK);
    cs_timer_start(b->guard, 60000);
}

static inline void bench_close(struct bench *b)
{
    char command[100];

    cs_timer_close(b->guard);
    cs_loop_free(b->loop);
    if (b->sim == NULL) {
        snprintf(command, sizeof command, "rm -r %s", b->dir);
        assert_int_equal(system(command), 0);
    }
    cs_sim_free(b->sim);
}

#endif
