/* SQLite's files as they are, under the clock of a simulated host: what the triggers stamp is virtual time too. Waiting
 * for a lock takes no time, for nobody else runs meanwhile. */
#ifndef VIRTUAL_VFS_H
#define VIRTUAL_VFS_H

#include <sqlite3.h>
#include <stdio.h>

#include "base/world.h"

struct virtual_vfs {
    sqlite3_vfs vfs;
    char name[32];
    struct cs_world *world;
    const char *state; /* where SQLite's files of the host's folder /state lie; NULL: nowhere */
};

#define JULIAN_MS INT64_C(210866760000000) /* of the Unix epoch */

static inline int virtual_now(sqlite3_vfs *vfs, sqlite3_int64 *out)
{
    *out = cs_now_ms(((struct virtual_vfs *)(void *)vfs)->world) + JULIAN_MS;
    return SQLITE_OK;
}

static inline int virtual_now_days(sqlite3_vfs *vfs, double *out)
{
    sqlite3_int64 ms;

    virtual_now(vfs, &ms);
    *out = (double)ms / 86400000.0;
    return SQLITE_OK;
}

static inline int virtual_sleep(sqlite3_vfs *vfs, int us)
{
    (void)vfs;
    return us;
}

static inline int virtual_path(sqlite3_vfs *vfs, const char *name, int n, char *out)
{
    const char *state = ((struct virtual_vfs *)(void *)vfs)->state;

    if (state == NULL || strncmp(name, "/state/", 7) != 0)
        return sqlite3_vfs_find("unix")->xFullPathname(vfs, name, n, out);
    return snprintf(out, (size_t)n, "%s/state-%s", state, name + 7) < n ? SQLITE_OK : SQLITE_CANTOPEN;
}

/* A copy of the system's, which looks at nothing of its own but what is copied with it. */
static inline void virtual_vfs_init(struct virtual_vfs *v, struct cs_world *world, const char *name)
{
    v->vfs = *sqlite3_vfs_find("unix");
    v->world = world;
    snprintf(v->name, sizeof v->name, "%s", name);
    v->vfs.pNext = NULL;
    v->vfs.zName = v->name;
    v->vfs.xCurrentTime = virtual_now_days;
    v->vfs.xCurrentTimeInt64 = virtual_now;
    v->vfs.xSleep = virtual_sleep;
    v->vfs.xFullPathname = virtual_path;
    sqlite3_vfs_register(&v->vfs, 0);
}

/* Connections that name no other are opened with it from now on. */
static inline void virtual_vfs_choose(struct virtual_vfs *v)
{
    sqlite3_vfs_register(&v->vfs, 1);
}

static inline void virtual_vfs_fini(struct virtual_vfs *v)
{
    sqlite3_vfs_unregister(&v->vfs);
    sqlite3_vfs_register(sqlite3_vfs_find("unix"), 1);
}

#endif
