/* SQLite's files with a countdown: the n-th write, sync or truncation fails, and so do all that follow, as on a disk
 * that is gone or in a process that died there. */
#ifndef FAULT_VFS_H
#define FAULT_VFS_H

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct fault_file {
    sqlite3_file base;
    sqlite3_file *real;
    bool fails;
};

static sqlite3_vfs fault_vfs, *fault_real;
static _Atomic long fault_after = -1; /* operations until it fails; -1: never */
static const char *fault_only;        /* files with this in their names; NULL: all. Set before they are opened. */

static inline bool fault_applies(const char *name)
{
    return fault_only == NULL || (name != NULL && strstr(name, fault_only) != NULL);
}

static inline int fault(bool fails)
{
    long left = fault_after;

    while (fails && left > 0)
        if (atomic_compare_exchange_strong(&fault_after, &left, left - 1))
            break;
    return fails && left == 0 ? SQLITE_IOERR_WRITE : SQLITE_OK;
}

#define FAILS(f) (((struct fault_file *)(void *)(f))->fails)
#define REAL(f)  (((struct fault_file *)(void *)(f))->real)
#define FORWARD(name, params, args)                                                                                    \
    static inline int fault_##name params                                                                              \
    {                                                                                                                  \
        return REAL(f)->pMethods->x##name args;                                                                        \
    }
#define FAILING(name, params, args)                                                                                    \
    static inline int fault_##name params                                                                              \
    {                                                                                                                  \
        return fault(FAILS(f)) != SQLITE_OK ? SQLITE_IOERR_WRITE : REAL(f)->pMethods->x##name args;                    \
    }
FORWARD(Read, (sqlite3_file * f, void *p, int n, sqlite3_int64 at), (REAL(f), p, n, at))
FAILING(Write, (sqlite3_file * f, const void *p, int n, sqlite3_int64 at), (REAL(f), p, n, at))
FAILING(Truncate, (sqlite3_file * f, sqlite3_int64 n), (REAL(f), n))
FAILING(Sync, (sqlite3_file * f, int flags), (REAL(f), flags))
FORWARD(FileSize, (sqlite3_file * f, sqlite3_int64 *n), (REAL(f), n))
FORWARD(Lock, (sqlite3_file * f, int l), (REAL(f), l))
FORWARD(Unlock, (sqlite3_file * f, int l), (REAL(f), l))
FORWARD(CheckReservedLock, (sqlite3_file * f, int *out), (REAL(f), out))
FORWARD(FileControl, (sqlite3_file * f, int op, void *arg), (REAL(f), op, arg))
FORWARD(SectorSize, (sqlite3_file * f), (REAL(f)))
FORWARD(DeviceCharacteristics, (sqlite3_file * f), (REAL(f)))
FORWARD(ShmMap, (sqlite3_file * f, int at, int n, int grow, void volatile **p), (REAL(f), at, n, grow, p))
FORWARD(ShmLock, (sqlite3_file * f, int at, int n, int flags), (REAL(f), at, n, flags))
FORWARD(ShmUnmap, (sqlite3_file * f, int remove), (REAL(f), remove))

static inline void fault_ShmBarrier(sqlite3_file *f)
{
    REAL(f)->pMethods->xShmBarrier(REAL(f));
}

static inline int fault_Close(sqlite3_file *f)
{
    int rc = REAL(f)->pMethods->xClose(REAL(f));

    free(REAL(f));
    return rc;
}

static const sqlite3_io_methods fault_methods = { .iVersion = 2,
                                                  .xClose = fault_Close,
                                                  .xRead = fault_Read,
                                                  .xWrite = fault_Write,
                                                  .xTruncate = fault_Truncate,
                                                  .xSync = fault_Sync,
                                                  .xFileSize = fault_FileSize,
                                                  .xLock = fault_Lock,
                                                  .xUnlock = fault_Unlock,
                                                  .xCheckReservedLock = fault_CheckReservedLock,
                                                  .xFileControl = fault_FileControl,
                                                  .xSectorSize = fault_SectorSize,
                                                  .xDeviceCharacteristics = fault_DeviceCharacteristics,
                                                  .xShmMap = fault_ShmMap,
                                                  .xShmLock = fault_ShmLock,
                                                  .xShmBarrier = fault_ShmBarrier,
                                                  .xShmUnmap = fault_ShmUnmap };

static inline int fault_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
    sqlite3_file *real = calloc(1, (size_t)fault_real->szOsFile);
    int rc;

    (void)vfs;
    f->pMethods = NULL;
    if (real == NULL)
        return SQLITE_NOMEM;
    if ((rc = fault_real->xOpen(fault_real, name, real, flags, out)) != SQLITE_OK) {
        free(real);
        return rc;
    }
    ((struct fault_file *)(void *)f)->real = real;
    ((struct fault_file *)(void *)f)->fails = fault_applies(name);
    f->pMethods = &fault_methods;
    return SQLITE_OK;
}

static inline int fault_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
    (void)vfs;
    return fault(fault_applies(name)) != SQLITE_OK ? SQLITE_IOERR_DELETE : fault_real->xDelete(fault_real, name, sync);
}

/* From now on every connection that is opened has it. */
static inline void fault_vfs_install(void)
{
    fault_real = sqlite3_vfs_find(NULL);
    fault_vfs = *fault_real;
    fault_vfs.zName = "fault";
    fault_vfs.pNext = NULL;
    fault_vfs.szOsFile = (int)sizeof(struct fault_file);
    fault_vfs.xOpen = fault_open;
    fault_vfs.xDelete = fault_delete;
    sqlite3_vfs_register(&fault_vfs, 1);
}

#endif
