/* The injected world: clock, randomness, files, and a loop with the network. Everything above src/base reaches the
 * outside through these tables only, so that the same engine and hub run on the real world (real_*.c) and on a
 * deterministic one (test_*.c), where time is virtual and every run can be replayed from its seed. */
#ifndef CS_BASE_WORLD_H
#define CS_BASE_WORLD_H

#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"

/* Thread-safe. */
struct cs_clock_ops {
    int64_t (*now_ms)(void *self);        /* Unix time in ms; may jump either way */
    uint64_t (*now_ns)(void *self);       /* the same in ns, for hedging randomness only */
    uint64_t (*monotonic_ns)(void *self); /* never goes back; its zero means nothing */
};

/* Thread-safe. */
struct cs_random_ops {
    /* n bytes of the operating system's generator (never fails there: it waits); code above uses
     * cs_random (crypto/rng.h), which hedges these bytes, never this table directly. */
    void (*fill)(void *self, void *out, size_t n);
};

struct cs_file_info {
    int64_t size; /* bytes */
    uint64_t device, inode;
    uint32_t mode; /* permission bits */
    bool is_dir;
};

/* Thread-safe. Paths are NUL-terminated bytes. Every error names the path and the cause. */
struct cs_file_ops {
    /* The whole file, appended to out; CS_ENOTFOUND, CS_ELIMIT when larger than max bytes, CS_EIO. */
    int (*read)(void *self, const char *path, size_t max, struct cs_buf *out, struct cs_error *err);
    /* Temp file with this mode, fsync, rename over path, fsync of the directory: after a crash old or new, whole. */
    int (*write_atomic)(void *self, const char *path, struct cs_slice data, uint32_t mode, struct cs_error *err);
    /* As write_atomic, but CS_EEXIST when path exists already. */
    int (*write_new)(void *self, const char *path, struct cs_slice data, uint32_t mode, struct cs_error *err);
    int (*mkdir)(void *self, const char *path, uint32_t mode, struct cs_error *err); /* with parents; there: fine */
    int (*remove)(void *self, const char *path, struct cs_error *err);               /* not there: CS_ENOTFOUND */
    int (*stat)(void *self, const char *path, struct cs_file_info *out, struct cs_error *err);
    int (*realpath)(void *self, const char *path, struct cs_buf *out, struct cs_error *err); /* out gets a NUL too */
};

typedef struct cs_loop cs_loop;

struct cs_clock {
    const struct cs_clock_ops *ops;
    void *self;
};
struct cs_random_source {
    const struct cs_random_ops *ops;
    void *self;
};
struct cs_files {
    const struct cs_file_ops *ops;
    void *self;
};

/* All of it, borrowed by everything above; outlives them. */
struct cs_world {
    struct cs_clock clock;
    struct cs_random_source random;
    struct cs_files files;
    int (*loop_new)(struct cs_world *w, cs_loop **out, struct cs_error *err);
    void *self;
};

static inline int64_t cs_now_ms(const struct cs_world *w)
{
    return w->clock.ops->now_ms(w->clock.self);
}
static inline uint64_t cs_monotonic_ns(const struct cs_world *w)
{
    return w->clock.ops->monotonic_ns(w->clock.self);
}

/* Makes an empty file where there is none: SQLite would give it other permissions. read_only: CS_ENOTFOUND instead. */
static inline int cs_file_ensure(struct cs_world *w, const char *path, bool read_only, uint32_t mode,
                                 struct cs_error *err)
{
    struct cs_file_info info;
    int rc = w->files.ops->stat(w->files.self, path, &info, err);

    if (rc != CS_ENOTFOUND || read_only)
        return rc;
    rc = w->files.ops->write_new(w->files.self, path, CS_SLICE_NULL, mode, err);
    return rc == CS_EEXIST ? CS_OK : rc;
}

/* The operating system's world. One object, static storage, thread-safe. */
struct cs_world *cs_world_real(void);

#endif
