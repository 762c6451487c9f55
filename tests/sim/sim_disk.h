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

/* A backup of the file at path, which no process has open, beside it on the disk; and the file put back as it was then,
 * without what lies beside it (a journal, a write-ahead log). */
void sim_disk_backup(struct sim_disk *d, const char *path);
bool sim_disk_restore(struct sim_disk *d, const char *path); /* false: there is no backup */

/* Faults that happened so far, and writes that power failures took away or tore. */
uint64_t sim_disk_injected(const struct sim_disk *d);
uint64_t sim_disk_lost(const struct sim_disk *d);
/* Writes each file to a real folder, to be looked at. */
void sim_disk_dump(const struct sim_disk *d, const char *folder);

#endif
