/* A hub and two or three engines on the simulated world, as clawsim runs them: their life, what happens to them, and
 * what must hold when they have come to rest. All that is random is drawn from the run's seed. */
#ifndef SIM_SYSTEM_H
#define SIM_SYSTEM_H

#include "engine/engine.h"
#include "hub/hub.h"
#include "sim/sim_disk.h"

enum { DEVICES = 3, HOUR_MS = 3600 * 1000 };

struct device {
    struct run *run;
    struct cs_world *world;
    struct sim_disk *disk;
    char name[16], db[32], state[32];
    clawsync_config config;
    clawsync_engine *engine;
    unsigned own; /* rows that only this device writes */
};

struct hub {
    struct cs_world *world;
    struct sim_disk *disk;
    cs_loop *loop;
    cs_hub *hub;
    bool stopped;
};

struct run {
    uint64_t seed;
    cs_sim *sim;
    struct sim_faults faults; /* of a disk that has some; which kinds there are is the seed's */
    struct hub hub;
    struct device devices[DEVICES];
    unsigned ndevices;
};

extern const char *sim_keep; /* a folder for the files of a run that failed, or NULL */
extern bool sim_verbose;     /* what happens, on the standard output */

/* system.c */
__attribute__((noreturn, format(printf, 2, 3))) void die(const struct run *r, const char *fmt, ...);
void must(const struct run *r, int rc, const void *error, const char *what); /* dies unless rc is good */
uint64_t draw(struct run *r, uint64_t below);
__attribute__((format(printf, 2, 3))) void note(struct run *r, const char *fmt, ...); /* into the trace */
void pass(struct run *r, uint64_t ms);                                                /* virtual time */

void hub_init(struct run *r);
void hub_start(struct run *r);
void hub_stop(struct run *r, uint32_t drain_ms); /* it may crash on the way */
void hub_kill(struct run *r, bool power);

void device_init(struct run *r, unsigned i);
void device_start(struct device *d);
void device_close(struct device *d); /* also of one that is dead */
void device_kill(struct device *d, bool power);
void heal(struct device *d); /* nothing fails any more, but for a crash that has happened */
/* Runs SQL as the application, each time with a connection of its own. Its writes are not what is attacked. */
void app(struct device *d, const char *sql);
/* One number that SQL finds in a database. */
int64_t ask(struct run *r, struct sim_disk *disk, const char *path, const char *sql);
/* The first creates the workspace and invites the others; then all replicate by themselves. */
void join_all(struct run *r);

/* steps.c */
void step(struct run *r);
void raise_the_dead(struct run *r); /* who crashed is there again */

/* rest.c: all is well from now on; dies unless all come to rest, are equal and have lost nothing. */
void settle(struct run *r);

#endif
