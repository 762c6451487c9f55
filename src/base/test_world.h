/* A deterministic world for tests: hosts with a clock, a file tree and a network of their own under one virtual time.
 * All that is random in it comes from one seed, so that the same program with the same seed does the same again, event
 * by event; cs_sim_trace says whether it did. Not part of any product library: tests link cs_test_world.
 *
 * Whoever runs a loop of the simulation, by cs_loop_run or cs_sim_run, runs all of them, on the calling thread and one
 * event at a time. One thread may do that at a time, never from inside a callback. Other threads may use cs_wake_send,
 * cs_loop_stop, clocks, randomness and files; then the order is theirs too, and nothing repeats.
 * Callbacks take no time of their own but for a microsecond each, so that nobody who polls stops the clock. */
#ifndef CS_BASE_TEST_WORLD_H
#define CS_BASE_TEST_WORLD_H

#include <stdio.h>

#include "base/loop.h"

typedef struct cs_sim cs_sim;

/* Unix ms at which every simulation begins. */
#define CS_SIM_EPOCH_MS INT64_C(1750000000000)

cs_sim *cs_sim_new(uint64_t seed); /* NULL: out of memory */
/* Frees the simulation with its hosts and whatever is left on their loops. NULL is fine. */
void cs_sim_free(cs_sim *sim);

/* Events until `until` is true (looked at before the first and after each), or the virtual time has advanced by
 * limit_ms. until may be NULL. Returns what `until` said last. */
bool cs_sim_run(cs_sim *sim, uint64_t limit_ms, bool (*until)(void *arg), void *arg);
uint64_t cs_sim_now_ms(cs_sim *sim); /* virtual, from 0 */
uint64_t cs_sim_random(cs_sim *sim, uint64_t below);
/* A hash over every event so far; with payload, also over the bytes that the streams carried. */
uint64_t cs_sim_trace(cs_sim *sim);
uint64_t cs_sim_events(cs_sim *sim);
void cs_sim_trace_payload(cs_sim *sim, bool on);     /* on at first */
void cs_sim_note(cs_sim *sim, struct cs_slice what); /* into the trace */
void cs_sim_log(cs_sim *sim, FILE *to);              /* a line per event, to compare two runs; NULL: none */
void cs_sim_latency(cs_sim *sim, uint64_t min_us, uint64_t max_us); /* one way, between two hosts */

/* The host of that name, made on first use; NULL: out of memory. On the network it answers to its name, and to
 * 127.0.0.1 and localhost for itself. */
struct cs_world *cs_sim_host(cs_sim *sim, const char *name);
/* Sets the host's wall clock ahead (or back) of the others'. Its monotonic clock runs on. */
void cs_sim_skew(struct cs_world *host, int64_t ms);
/* The host's wall clock stands still, or goes on from where it stood. Its monotonic clock runs on. */
void cs_sim_freeze(struct cs_world *host, bool on);

enum cs_sim_link {
    CS_SIM_UP = 0, /* what was held goes on */
    CS_SIM_HELD,   /* packets are lost: bytes wait, connects time out, and so do connections after long */
    CS_SIM_BROKEN, /* the same, but connections that exist break on both sides within seconds */
};
/* The network between a and b, both ways. */
void cs_sim_partition(cs_sim *sim, struct cs_world *a, struct cs_world *b, enum cs_sim_link how);
/* The network one way only: what `from` sends to `to`. */
void cs_sim_partition_one_way(cs_sim *sim, struct cs_world *from, struct cs_world *to, enum cs_sim_link how);
/* What happens to segments on their way, in 2^20: lost, and sent again after up to half a minute, which those behind
 * wait for; or the connection is reset. Zeros at first. */
struct cs_sim_weather {
    uint32_t lost, reset;
};
void cs_sim_set_weather(cs_sim *sim, struct cs_sim_weather w);
/* Segments that were lost and connections that were reset by it so far. */
void cs_sim_weather_counts(cs_sim *sim, uint64_t *lost, uint64_t *reset);

/* The host's processes die between two events: nothing on its loops is ever called again, its peers get a reset, and
 * its files stay as they are. Objects may still be closed, which does nothing but free. Loops made afterwards live. */
void cs_sim_kill_host(struct cs_world *host);
/* Has it loops that live? */
bool cs_sim_lives(struct cs_world *host);
/* As the nth write (1: the next; 0: never mind) of a file happens: it fails, having put the old or the new file there,
 * whole, and the host is killed as soon as the event that wrote is over. */
void cs_sim_crash_at_write(struct cs_world *host, unsigned nth);
/* The host's processes die as soon as the present event is over; until then its files cannot be read or written. */
void cs_sim_crash_now(struct cs_world *host);
/* Writes of files fail for want of space, and leave what was there. */
void cs_sim_disk_full(struct cs_world *host, bool on);
/* Every file and folder below `from` of one host, in place of what lies below `to` on the other (or the same): a
 * backup, a restored one, a copied disk. Those that are there already keep their inodes. */
void cs_sim_copy_files(struct cs_world *host, const char *from, struct cs_world *to_host, const char *to);
/* Makes the file at path (with its folders) if it is not there, and tells those who watch the folder: for a file whose
 * bytes are elsewhere, as those of a database. */
int cs_sim_touch(struct cs_world *host, const char *path, struct cs_error *err);

#endif
