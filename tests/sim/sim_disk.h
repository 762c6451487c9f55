/* A simulated host's disk under SQLite: files in memory, under the host's clock. It tells what was synced from what was
 * only written, so that the power can fail; it fails on request; its processes can die in the middle of a write.
 *
 * Every disk is a SQLite VFS of its own, named "sim-" and the host's name; choosing one only decides whose clock a
 * connection reads: paths begin with the host's name ("/device1/app.db"), and name the disk themselves. One thread. */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include <sqlite3.h>

#include "base/test_world.h"

struct sim_disk;

/* How often a call fails, in 2^20. A failed write may have put some of its bytes there. */
struct sim_faults {
    uint32_t read, write, full, sync;
};

/* The disk of the host of that name. Never NULL: exits when memory is out. */
struct sim_disk *sim_disk_new(cs_sim *sim, struct cs_world *host, const char *host_name);
void sim_disk_free(struct sim_disk *d);
const char *sim_disk_vfs(const struct sim_disk *d); /* its name for sqlite3_open_v2 */
/* Connections that name no other VFS are opened with this one from now on. */
void sim_disk_choose(struct sim_disk *d);

void sim_disk_faults(struct sim_disk *d, const struct sim_faults *f); /* NULL: none any more */
/* Asked before every read, write, truncation, sync, opening and removal on any disk; NULL: nobody is. */
void sim_disk_decide(bool (*chosen)(void));
/* While an application that is no part of the simulation writes, nothing fails. */
void sim_disk_pause(struct sim_disk *d, bool on);
void sim_disk_full(struct sim_disk *d, bool on); /* files cannot grow */
/* As the nth write, truncation or sync (1: the next; 0: never mind) happens, the host crashes: the call fails, and so
 * does all that follows in the same event, after which cs_sim_kill_host is called. power: as sim_disk_power_fails. */
void sim_disk_crash_at(struct sim_disk *d, unsigned nth, bool power);
/* The host's processes are dead: their handles do nothing any more, their locks are gone, what they wrote stays. */
void sim_disk_kill(struct sim_disk *d);
/* The same, and of each file what was not synced is there, or not, or in part, in any combination of its sectors. */
void sim_disk_power_fails(struct sim_disk *d);
bool sim_disk_is_down(const struct sim_disk *d); /* crashed at a write, and neither kill nor power_fails called since */

/* Every file below `from`, as it is now, in place of what lies below `to` (a folder, on this disk or another): a
 * backup, a restored one, a copied device. No process has any of them open. */
void sim_disk_copy(struct sim_disk *d, const char *from, const char *to);
/* One bit of the file is another, for good. False: there is no such file, or nothing in it. */
bool sim_disk_rot(struct sim_disk *d, const char *path);

/* What happened so far. */
struct sim_disk_counts {
    uint64_t read, write, short_write, full, sync; /* calls that failed; short: some of it was written */
    uint64_t crash;                                /* in the middle of a write */
    uint64_t lost, torn;                           /* writes that power failures took away, in whole and in part */
    uint64_t rot;                                  /* bits */
};
const struct sim_disk_counts *sim_disk_counts(const struct sim_disk *d);
/* Writes each file to a real folder, to be looked at. */
void sim_disk_dump(const struct sim_disk *d, const char *folder);

#endif
