#include "sim/sim_disk.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

#define JULIAN_MS INT64_C(210866760000000) /* of the Unix epoch */

enum { SECTOR = 512, SLOTS = SQLITE_SHM_NLOCK, NAME = 40 };

/* A write that no sync has covered: bytes at a place, or (bytes NULL) the length that the file was cut to. */
struct op {
    size_t at, len;
    uint8_t *bytes;
};

struct content {
    uint8_t *data;
    size_t len, cap;
};

struct slot {
    unsigned shared;
    const struct handle *exclusive;
};

struct file {
    struct file *next;
    char *path; /* NULL: a temporary file */
    struct content now, safe;
    struct op *ops;
    size_t nops, capops;
    bool named, named_safe; /* is it in its folder; will it be after a power failure */
    unsigned handles;
    unsigned shared; /* handles that read; of the writing ones each lock has one owner */
    const struct handle *reserved, *pending, *exclusive;
    struct slot slots[SLOTS];
    uint8_t **regions;
    int nregions;
    unsigned shm_users;
};

struct sim_disk {
    struct sim_disk *next;
    sqlite3_vfs vfs;
    char name[NAME], vfs_name[NAME];
    cs_sim *sim;
    struct cs_world *host;
    struct file *files;
    struct sim_faults faults;
    struct sim_disk_counts counts;
    unsigned boot; /* processes that opened under another one are dead */
    unsigned crash_in;
    bool power, down, full, paused;
};

struct handle {
    sqlite3_file base;
    struct sim_disk *disk;
    struct file *file;
    unsigned boot;
    int level;
    bool shm;
    uint8_t shm_shared, shm_exclusive;
};

static struct sim_disk *disks;

static void *grow(void *p, size_t n)
{
    void *more = realloc(p, n);

    if (more == NULL) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return more;
}

/* Does whoever decides about each call let this one fail? */
static bool (*decide)(void);

static bool is_chosen(struct sim_disk *d)
{
    return decide != NULL && !d->paused && decide();
}

static bool draw_fault(struct sim_disk *d, uint32_t rate, uint64_t *count)
{
    if (is_chosen(d))
        return true;
    if (rate == 0 || d->paused || cs_sim_random(d->sim, UINT64_C(1) << 20) >= rate)
        return false;
    ++*count;
    return true;
}

/* ---- bytes ---- */

static void put(struct content *c, size_t at, const uint8_t *bytes, size_t n)
{
    if (at + n > c->cap) {
        c->cap = (at + n) * 2;
        c->data = grow(c->data, c->cap);
    }
    if (at > c->len)
        memset(c->data + c->len, 0, at - c->len);
    memcpy(c->data + at, bytes, n);
    if (at + n > c->len)
        c->len = at + n;
}

static void cut(struct content *c, size_t len)
{
    if (len < c->len)
        c->len = len;
}

static void copy(struct content *to, const struct content *from)
{
    to->len = 0;
    if (from->len > 0)
        put(to, 0, from->data, from->len);
}

static void add_op(struct file *f, size_t at, const uint8_t *bytes, size_t n)
{
    struct op *o;

    if (f->nops == f->capops) {
        f->capops = f->capops == 0 ? 16 : f->capops * 2;
        f->ops = grow(f->ops, f->capops * sizeof *f->ops);
    }
    o = &f->ops[f->nops++];
    *o = (struct op){ .at = at, .len = n };
    if (bytes != NULL) {
        o->bytes = grow(NULL, n + 1);
        memcpy(o->bytes, bytes, n);
    }
}

static void drop_ops(struct file *f)
{
    for (size_t i = 0; i < f->nops; i++)
        free(f->ops[i].bytes);
    f->nops = 0;
}

static void apply_op(struct content *c, const struct op *o, size_t from, size_t n)
{
    if (o->bytes == NULL)
        cut(c, o->at);
    else
        put(c, o->at + from, o->bytes + from, n);
}

static void write_now(struct file *f, size_t at, const uint8_t *bytes, size_t n)
{
    put(&f->now, at, bytes, n);
    add_op(f, at, bytes, n);
}

/* What was made and deleted in the folder of this path is so for good. */
static void sync_folder(struct sim_disk *d, const char *path)
{
    size_t n = (size_t)(strrchr(path, '/') - path) + 1;

    for (struct file *f = d->files; f != NULL; f = f->next)
        if (f->path != NULL && strncmp(f->path, path, n) == 0 && strchr(f->path + n, '/') == NULL)
            f->named_safe = f->named;
}

/* A new file takes its folder with it, as SQLite's own VFS does. */
static void sync_now(struct sim_disk *d, struct file *f)
{
    for (size_t i = 0; i < f->nops; i++)
        apply_op(&f->safe, &f->ops[i], 0, f->ops[i].len);
    drop_ops(f);
    if (f->named && !f->named_safe)
        sync_folder(d, f->path);
}

/* ---- files ---- */

static struct file *find(struct sim_disk *d, const char *path)
{
    for (struct file *f = d->files; f != NULL; f = f->next)
        if (f->named && strcmp(f->path, path) == 0)
            return f;
    return NULL;
}

static struct file *add_file(struct sim_disk *d, const char *path)
{
    struct file *f = grow(NULL, sizeof *f);

    *f = (struct file){ .next = d->files, .named = path != NULL };
    if (path != NULL) {
        f->path = grow(NULL, strlen(path) + 1);
        memcpy(f->path, path, strlen(path) + 1);
    }
    d->files = f;
    return f;
}

static void free_regions(struct file *f)
{
    for (int i = 0; i < f->nregions; i++)
        free(f->regions[i]);
    free(f->regions);
    f->regions = NULL;
    f->nregions = 0;
}

static void free_file(struct file *f)
{
    drop_ops(f);
    free_regions(f);
    free(f->ops);
    free(f->now.data);
    free(f->safe.data);
    free(f->path);
    free(f);
}

/* Those that nobody can reach any more, now or after a power failure. */
static void sweep(struct sim_disk *d)
{
    for (struct file **p = &d->files; *p != NULL;) {
        struct file *f = *p;

        if (f->named || f->named_safe || f->handles > 0) {
            p = &f->next;
            continue;
        }
        *p = f->next;
        free_file(f);
    }
}

static struct sim_disk *disk_of(const char *path)
{
    size_t n = strcspn(path + 1, "/");

    for (struct sim_disk *d = disks; d != NULL; d = d->next)
        if (strlen(d->name) == n && memcmp(d->name, path + 1, n) == 0)
            return d;
    return NULL;
}

/* ---- handles ---- */

static struct handle *handle_of(sqlite3_file *file)
{
    return (struct handle *)(void *)file;
}

static bool is_dead(const struct handle *h)
{
    return h->boot != h->disk->boot;
}

static bool fails(const struct handle *h)
{
    return is_dead(h) || h->disk->down;
}

/* Is this the write at which the host crashes? */
static bool crashes(struct sim_disk *d)
{
    if (d->paused || d->crash_in == 0 || --d->crash_in > 0)
        return false;
    d->down = true;
    d->counts.crash++;
    cs_sim_crash_now(d->host);
    return true;
}

static int disk_close(sqlite3_file *file)
{
    struct handle *h = handle_of(file);

    h->file->handles--;
    sweep(h->disk);
    return SQLITE_OK;
}

static int disk_read(sqlite3_file *file, void *out, int n, sqlite3_int64 at)
{
    struct handle *h = handle_of(file);
    const struct content *c = &h->file->now;
    size_t there = (size_t)at < c->len ? c->len - (size_t)at : 0;

    if (fails(h) || draw_fault(h->disk, h->disk->faults.read, &h->disk->counts.read))
        return SQLITE_IOERR_READ;
    if (there >= (size_t)n) {
        memcpy(out, c->data + at, (size_t)n);
        return SQLITE_OK;
    }
    memset(out, 0, (size_t)n);
    if (there > 0)
        memcpy(out, c->data + at, there);
    return SQLITE_IOERR_SHORT_READ;
}

static int disk_write(sqlite3_file *file, const void *bytes, int n, sqlite3_int64 at)
{
    struct handle *h = handle_of(file);
    struct sim_disk *d = h->disk;
    bool grows = (size_t)at + (size_t)n > h->file->now.len;
    size_t part = (size_t)n;
    int rc = SQLITE_OK;

    if (fails(h))
        return SQLITE_IOERR_WRITE;
    if (grows && ((d->full && !d->paused) || draw_fault(d, d->faults.full, &d->counts.full))) {
        part = 0;
        rc = SQLITE_FULL;
    } else if (crashes(d) || draw_fault(d, d->faults.write, &d->counts.write)) {
        part = (size_t)cs_sim_random(d->sim, (uint64_t)n / SECTOR + 1) * SECTOR;
        rc = SQLITE_IOERR_WRITE;
        d->counts.short_write += part > 0;
    }
    if (part > 0)
        write_now(h->file, (size_t)at, bytes, part);
    return rc;
}

static int disk_truncate(sqlite3_file *file, sqlite3_int64 len)
{
    struct handle *h = handle_of(file);

    if (fails(h) || crashes(h->disk) || draw_fault(h->disk, h->disk->faults.write, &h->disk->counts.write))
        return SQLITE_IOERR_TRUNCATE;
    cut(&h->file->now, (size_t)len);
    add_op(h->file, (size_t)len, NULL, 0);
    return SQLITE_OK;
}

static int disk_sync(sqlite3_file *file, int flags)
{
    struct handle *h = handle_of(file);

    (void)flags;
    if (fails(h) || crashes(h->disk) || draw_fault(h->disk, h->disk->faults.sync, &h->disk->counts.sync))
        return SQLITE_IOERR_FSYNC;
    sync_now(h->disk, h->file);
    return SQLITE_OK;
}

static int disk_size(sqlite3_file *file, sqlite3_int64 *out)
{
    struct handle *h = handle_of(file);

    if (fails(h))
        return SQLITE_IOERR_FSTAT;
    *out = (sqlite3_int64)h->file->now.len;
    return SQLITE_OK;
}

static int disk_control(sqlite3_file *file, int op, void *arg)
{
    (void)file;
    (void)op;
    (void)arg;
    return SQLITE_NOTFOUND;
}

static int disk_sector(sqlite3_file *file)
{
    (void)file;
    return SECTOR;
}

static int disk_characteristics(sqlite3_file *file)
{
    (void)file;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

/* ---- locks ---- */

static bool is_other(const struct handle *owner, const struct handle *h)
{
    return owner != NULL && owner != h;
}

static int disk_lock(sqlite3_file *file, int level)
{
    struct handle *h = handle_of(file);
    struct file *f = h->file;

    if (fails(h))
        return SQLITE_IOERR_LOCK;
    if (h->level >= level)
        return SQLITE_OK;
    if (h->level == SQLITE_LOCK_NONE) {
        if (f->pending != NULL || f->exclusive != NULL)
            return SQLITE_BUSY;
        f->shared++;
        h->level = SQLITE_LOCK_SHARED;
    }
    if (level >= SQLITE_LOCK_RESERVED && h->level < SQLITE_LOCK_RESERVED && level == SQLITE_LOCK_RESERVED) {
        if (is_other(f->reserved, h) || is_other(f->pending, h))
            return SQLITE_BUSY;
        f->reserved = h;
        h->level = SQLITE_LOCK_RESERVED;
    }
    if (level == SQLITE_LOCK_EXCLUSIVE) {
        if (is_other(f->pending, h) || is_other(f->reserved, h))
            return SQLITE_BUSY;
        f->pending = h;
        h->level = SQLITE_LOCK_PENDING;
        if (f->shared > 1)
            return SQLITE_BUSY;
        f->exclusive = h;
        h->level = SQLITE_LOCK_EXCLUSIVE;
    }
    return SQLITE_OK;
}

static int disk_unlock(sqlite3_file *file, int level)
{
    struct handle *h = handle_of(file);
    struct file *f = h->file;

    if (is_dead(h) || h->level <= level)
        return SQLITE_OK;
    if (f->reserved == h)
        f->reserved = NULL;
    if (f->pending == h)
        f->pending = NULL;
    if (f->exclusive == h)
        f->exclusive = NULL;
    if (level == SQLITE_LOCK_NONE)
        f->shared--;
    h->level = level;
    return SQLITE_OK;
}

static int disk_check_reserved(sqlite3_file *file, int *out)
{
    const struct file *f = handle_of(file)->file;

    *out = f->reserved != NULL || f->pending != NULL || f->exclusive != NULL;
    return fails(handle_of(file)) ? SQLITE_IOERR_CHECKRESERVEDLOCK : SQLITE_OK;
}

/* ---- shared memory, which lives as long as a process uses it ---- */

static int disk_shm_map(sqlite3_file *file, int region, int size, int extend, void volatile **out)
{
    struct handle *h = handle_of(file);
    struct file *f = h->file;

    *out = NULL;
    if (fails(h))
        return SQLITE_IOERR_SHMMAP;
    if (!h->shm) {
        h->shm = true;
        f->shm_users++;
    }
    if (region >= f->nregions && !extend)
        return SQLITE_OK;
    while (region >= f->nregions) {
        f->regions = grow(f->regions, (size_t)(f->nregions + 1) * sizeof *f->regions);
        f->regions[f->nregions] = grow(NULL, (size_t)size);
        memset(f->regions[f->nregions++], 0, (size_t)size);
    }
    *out = f->regions[region];
    return SQLITE_OK;
}

static bool may_lock(const struct file *f, const struct handle *h, int slot, bool exclusive)
{
    const struct slot *s = &f->slots[slot];

    if (is_other(s->exclusive, h))
        return false;
    return !exclusive || s->shared == ((h->shm_shared >> slot & 1) != 0 ? 1u : 0u);
}

static void take_slot(struct file *f, struct handle *h, int slot, bool exclusive)
{
    uint8_t bit = (uint8_t)(1u << slot);

    if (exclusive) {
        f->slots[slot].exclusive = h;
        h->shm_exclusive |= bit;
    } else if ((h->shm_shared & bit) == 0) {
        f->slots[slot].shared++;
        h->shm_shared |= bit;
    }
}

static void leave_slot(struct file *f, struct handle *h, int slot, bool exclusive)
{
    uint8_t bit = (uint8_t)(1u << slot);

    if (exclusive && (h->shm_exclusive & bit) != 0) {
        f->slots[slot].exclusive = NULL;
        h->shm_exclusive &= (uint8_t)~bit;
    } else if (!exclusive && (h->shm_shared & bit) != 0) {
        f->slots[slot].shared--;
        h->shm_shared &= (uint8_t)~bit;
    }
}

static int disk_shm_lock(sqlite3_file *file, int from, int n, int flags)
{
    struct handle *h = handle_of(file);
    bool exclusive = (flags & SQLITE_SHM_EXCLUSIVE) != 0;

    if (is_dead(h))
        return (flags & SQLITE_SHM_UNLOCK) != 0 ? SQLITE_OK : SQLITE_IOERR_SHMLOCK;
    for (int i = from; i < from + n && (flags & SQLITE_SHM_LOCK) != 0; i++)
        if (!may_lock(h->file, h, i, exclusive))
            return SQLITE_BUSY;
    for (int i = from; i < from + n; i++)
        if ((flags & SQLITE_SHM_LOCK) != 0)
            take_slot(h->file, h, i, exclusive);
        else
            leave_slot(h->file, h, i, exclusive);
    return SQLITE_OK;
}

static void disk_shm_barrier(sqlite3_file *file)
{
    (void)file;
}

static int disk_shm_unmap(sqlite3_file *file, int delete)
{
    struct handle *h = handle_of(file);

    (void)delete;
    if (!h->shm || is_dead(h))
        return SQLITE_OK;
    h->shm = false;
    for (int i = 0; i < SLOTS; i++) {
        leave_slot(h->file, h, i, true);
        leave_slot(h->file, h, i, false);
    }
    if (--h->file->shm_users == 0)
        free_regions(h->file);
    return SQLITE_OK;
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = disk_close,
    .xRead = disk_read,
    .xWrite = disk_write,
    .xTruncate = disk_truncate,
    .xSync = disk_sync,
    .xFileSize = disk_size,
    .xLock = disk_lock,
    .xUnlock = disk_unlock,
    .xCheckReservedLock = disk_check_reserved,
    .xFileControl = disk_control,
    .xSectorSize = disk_sector,
    .xDeviceCharacteristics = disk_characteristics,
    .xShmMap = disk_shm_map,
    .xShmLock = disk_shm_lock,
    .xShmBarrier = disk_shm_barrier,
    .xShmUnmap = disk_shm_unmap,
};

/* ---- the VFS ---- */

static int disk_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags, int *out_flags)
{
    struct sim_disk *d = path == NULL ? (struct sim_disk *)vfs->pAppData : disk_of(path);
    struct handle *h = handle_of(file);
    struct file *f;

    h->base.pMethods = NULL;
    if (d == NULL || d->down || is_chosen(d))
        return SQLITE_CANTOPEN;
    f = path == NULL ? NULL : find(d, path);
    if ((f == NULL && (flags & SQLITE_OPEN_CREATE) == 0) || (f != NULL && (flags & SQLITE_OPEN_EXCLUSIVE) != 0))
        return SQLITE_CANTOPEN;
    if (f == NULL)
        f = add_file(d, path);
    f->handles++;
    *h = (struct handle){ .base.pMethods = &methods, .disk = d, .file = f, .boot = d->boot };
    if (out_flags != NULL)
        *out_flags = flags;
    return SQLITE_OK;
}

static int disk_delete(sqlite3_vfs *vfs, const char *path, int sync)
{
    struct sim_disk *d = disk_of(path);
    struct file *f = d == NULL ? NULL : find(d, path);

    (void)vfs;
    if (d != NULL && (d->down || is_chosen(d)))
        return SQLITE_IOERR_DELETE;
    if (f == NULL)
        return SQLITE_IOERR_DELETE_NOENT;
    f->named = false;
    if (sync)
        sync_folder(d, path);
    sweep(d);
    return SQLITE_OK;
}

static int disk_access(sqlite3_vfs *vfs, const char *path, int flags, int *out)
{
    struct sim_disk *d = disk_of(path);
    const struct file *f = d == NULL ? NULL : find(d, path);

    (void)vfs;
    /* as SQLite's own: an empty file does not count as there */
    *out = f != NULL && (flags != SQLITE_ACCESS_EXISTS || f->now.len > 0);
    return SQLITE_OK;
}

static int disk_path(sqlite3_vfs *vfs, const char *name, int n, char *out)
{
    (void)vfs;
    return name[0] == '/' && snprintf(out, (size_t)n, "%s", name) < n ? SQLITE_OK : SQLITE_CANTOPEN;
}

static int disk_randomness(sqlite3_vfs *vfs, int n, char *out)
{
    (void)vfs;
    memset(out, 7, (size_t)n);
    return n;
}

/* Waiting for a lock takes no time, for nobody else runs meanwhile. */
static int disk_sleep(sqlite3_vfs *vfs, int us)
{
    (void)vfs;
    return us;
}

static int disk_now(sqlite3_vfs *vfs, sqlite3_int64 *out)
{
    *out = cs_now_ms(((struct sim_disk *)vfs->pAppData)->host) + JULIAN_MS;
    return SQLITE_OK;
}

static int disk_now_days(sqlite3_vfs *vfs, double *out)
{
    sqlite3_int64 ms;

    disk_now(vfs, &ms);
    *out = (double)ms / 86400000.0;
    return SQLITE_OK;
}

static int disk_last_error(sqlite3_vfs *vfs, int n, char *out)
{
    (void)vfs;
    if (n > 0)
        out[0] = '\0';
    return 0;
}

struct sim_disk *sim_disk_new(cs_sim *sim, struct cs_world *host, const char *host_name)
{
    struct sim_disk *d = grow(NULL, sizeof *d);
    const sqlite3_vfs *real = sqlite3_vfs_find("unix");

    *d = (struct sim_disk){ .next = disks, .sim = sim, .host = host };
    snprintf(d->name, sizeof d->name, "%s", host_name);
    snprintf(d->vfs_name, sizeof d->vfs_name, "sim-%.30s", host_name);
    d->vfs = (sqlite3_vfs){
        .iVersion = 2,
        .szOsFile = sizeof(struct handle),
        .mxPathname = 256,
        .zName = d->vfs_name,
        .pAppData = d,
        .xOpen = disk_open,
        .xDelete = disk_delete,
        .xAccess = disk_access,
        .xFullPathname = disk_path,
        .xDlOpen = real->xDlOpen,
        .xDlError = real->xDlError,
        .xDlSym = real->xDlSym,
        .xDlClose = real->xDlClose,
        .xRandomness = disk_randomness,
        .xSleep = disk_sleep,
        .xCurrentTime = disk_now_days,
        .xCurrentTimeInt64 = disk_now,
        .xGetLastError = disk_last_error,
    };
    disks = d;
    sqlite3_vfs_register(&d->vfs, 0);
    return d;
}

void sim_disk_free(struct sim_disk *d)
{
    struct sim_disk **p = &disks;

    sqlite3_vfs_unregister(&d->vfs);
    while (*p != d)
        p = &(*p)->next;
    *p = d->next;
    while (d->files != NULL) {
        struct file *f = d->files;

        d->files = f->next;
        free_file(f);
    }
    free(d);
}

const char *sim_disk_vfs(const struct sim_disk *d)
{
    return d->vfs_name;
}

void sim_disk_choose(struct sim_disk *d)
{
    sqlite3_vfs_register(&d->vfs, 1);
}

/* ---- what goes wrong ---- */

void sim_disk_faults(struct sim_disk *d, const struct sim_faults *f)
{
    d->faults = f == NULL ? (struct sim_faults){ 0 } : *f;
}

void sim_disk_pause(struct sim_disk *d, bool on)
{
    d->paused = on;
}

void sim_disk_decide(bool (*chosen)(void))
{
    decide = chosen;
}

void sim_disk_full(struct sim_disk *d, bool on)
{
    d->full = on;
}

void sim_disk_crash_at(struct sim_disk *d, unsigned nth, bool power)
{
    d->crash_in = nth;
    d->power = power;
}

/* Some of the unsynced writes, whole or some of their sectors. */
static void lose(struct sim_disk *d, struct file *f)
{
    for (size_t i = 0; i < f->nops; i++) {
        const struct op *o = &f->ops[i];
        uint64_t fate = cs_sim_random(d->sim, 3);
        bool torn = fate == 2 && o->bytes != NULL && o->len > SECTOR;

        d->counts.lost += fate == 0;
        d->counts.torn += torn;
        if (fate == 0)
            continue;
        if (!torn) {
            apply_op(&f->safe, o, 0, o->len);
            continue;
        }
        for (size_t at = 0; at < o->len; at += SECTOR)
            if (cs_sim_random(d->sim, 2) == 0)
                apply_op(&f->safe, o, at, o->len - at < SECTOR ? o->len - at : SECTOR);
    }
    drop_ops(f);
    copy(&f->now, &f->safe);
    if (f->named != f->named_safe)
        f->named = f->named_safe = cs_sim_random(d->sim, 2) == 0;
}

static void end_processes(struct sim_disk *d)
{
    d->boot++;
    d->down = false;
    d->power = false;
    d->crash_in = 0;
    for (struct file *f = d->files; f != NULL; f = f->next) {
        f->shared = f->shm_users = 0;
        f->reserved = f->pending = f->exclusive = NULL;
        memset(f->slots, 0, sizeof f->slots);
        free_regions(f);
    }
}

/* One path names one file: of those that a folder may have had, the newest. */
static void forget_older(const struct file *f)
{
    for (struct file *o = f->next; o != NULL && f->named; o = o->next)
        if (o->named && strcmp(o->path, f->path) == 0)
            o->named = o->named_safe = false;
}

void sim_disk_power_fails(struct sim_disk *d)
{
    end_processes(d);
    for (struct file *f = d->files; f != NULL; f = f->next)
        lose(d, f);
    for (struct file *f = d->files; f != NULL; f = f->next)
        forget_older(f);
    sweep(d);
}

void sim_disk_kill(struct sim_disk *d)
{
    if (d->down && d->power)
        sim_disk_power_fails(d);
    else
        end_processes(d);
}

/* A file that is in no folder any more stays for those who have it open. */
static void take_out(struct file *f)
{
    f->named = f->named_safe = false;
}

static void put_copy(const struct file *f, const char *to)
{
    struct sim_disk *d = disk_of(to);
    struct file *copied = find(d, to);

    if (copied == NULL)
        copied = add_file(d, to);
    copied->now.len = 0;
    add_op(copied, 0, NULL, 0);
    if (f->now.len > 0)
        write_now(copied, 0, f->now.data, f->now.len);
    sync_now(d, copied);
}

static bool is_below(const struct file *f, const char *folder)
{
    size_t n = strlen(folder);

    return f->named && strncmp(f->path, folder, n) == 0 && f->path[n] == '/';
}

void sim_disk_copy(struct sim_disk *d, const char *from, const char *to)
{
    struct sim_disk *other = disk_of(to);
    char path[256];

    for (struct file *f = other->files; f != NULL; f = f->next)
        if (is_below(f, to))
            take_out(f);
    for (struct file *f = d->files; f != NULL; f = f->next)
        if (is_below(f, from)) {
            snprintf(path, sizeof path, "%s%s", to, f->path + strlen(from));
            put_copy(f, path);
        }
    sweep(other);
}

bool sim_disk_rot(struct sim_disk *d, const char *path)
{
    struct file *f = find(d, path);
    size_t at;
    uint8_t bit;

    if (f == NULL || f->now.len == 0)
        return false;
    at = (size_t)cs_sim_random(d->sim, f->now.len);
    bit = (uint8_t)(1u << cs_sim_random(d->sim, 8));
    f->now.data[at] ^= bit;
    if (at < f->safe.len)
        f->safe.data[at] ^= bit;
    d->counts.rot++;
    return true;
}

const struct sim_disk_counts *sim_disk_counts(const struct sim_disk *d)
{
    return &d->counts;
}

bool sim_disk_is_down(const struct sim_disk *d)
{
    return d->down;
}

void sim_disk_dump(const struct sim_disk *d, const char *folder)
{
    for (const struct file *f = d->files; f != NULL; f = f->next) {
        char path[512];
        FILE *out;

        if (!f->named)
            continue;
        snprintf(path, sizeof path, "%s%s", folder, f->path);
        for (char *p = path + strlen(folder) + 1; *p != '\0'; p++)
            if (*p == '/')
                *p = '_';
        if ((out = fopen(path, "wb")) == NULL)
            continue;
        fwrite(f->now.data, 1, f->now.len, out);
        fclose(out);
    }
}
