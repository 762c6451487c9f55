/* A world in which nothing happens by itself: the clock stands, the random source repeats one byte pattern or counts,
 * files live in memory and remember their mode. For tests and vectors that must come out the same every time. */
#ifndef CS_TESTS_FIXED_WORLD_H
#define CS_TESTS_FIXED_WORLD_H

#include <stdio.h>
#include <stdlib.h>

#include "crypto/rng.h"

enum { FIXED_FILES = 8 };

struct fixed_world {
    struct cs_world world;
    struct cs_rng rng;
    int64_t now_ms;
    uint64_t random_state;
    bool random_constant; /* the stubbed generator: always the same bytes */
    struct {
        char path[64];
        uint32_t mode;
        struct cs_buf data;
    } files[FIXED_FILES];
};

static inline int64_t fixed_now_ms(void *self)
{
    return ((struct fixed_world *)self)->now_ms;
}
static inline uint64_t fixed_now_ns(void *self)
{
    return (uint64_t)fixed_now_ms(self) * 1000000;
}
static inline void fixed_fill(void *self, void *out, size_t n)
{
    struct fixed_world *f = self;
    uint8_t *p = out;

    for (size_t i = 0; i < n; i++)
        p[i] = f->random_constant ? 0x5a : (uint8_t)((f->random_state++ * 0x9e3779b97f4a7c15u) >> 56);
}
static inline size_t fixed_find(struct fixed_world *f, const char *path)
{
    size_t i = 0;

    while (i < FIXED_FILES && strcmp(f->files[i].path, path) != 0)
        i++;
    return i;
}
static inline int fixed_read(void *self, const char *path, size_t max, struct cs_buf *out, struct cs_error *err)
{
    struct fixed_world *f = self;
    size_t i = fixed_find(f, path);

    if (i == FIXED_FILES)
        return cs_fail(err, CS_ENOTFOUND, "no file \"%s\"", path);
    if (f->files[i].data.len > max)
        return cs_fail(err, CS_ELIMIT, "\"%s\" is too large", path);
    cs_buf_put_slice(out, cs_buf_slice(&f->files[i].data));
    return CS_OK;
}
static inline int fixed_write(void *self, const char *path, struct cs_slice data, uint32_t mode, struct cs_error *err)
{
    struct fixed_world *f = self;
    size_t i = fixed_find(f, path);

    if (i == FIXED_FILES && (i = fixed_find(f, "")) == FIXED_FILES)
        return cs_fail(err, CS_EIO, "disk full");
    snprintf(f->files[i].path, sizeof f->files[i].path, "%s", path);
    f->files[i].mode = mode;
    cs_buf_reset(&f->files[i].data);
    cs_buf_put_slice(&f->files[i].data, data);
    return CS_OK;
}
static inline int fixed_write_new(void *self, const char *path, struct cs_slice data, uint32_t mode,
                                  struct cs_error *err)
{
    if (fixed_find(self, path) != FIXED_FILES)
        return cs_fail(err, CS_EEXIST, "\"%s\" exists", path);
    return fixed_write(self, path, data, mode, err);
}

static inline void fixed_world_init(struct fixed_world *f)
{
    static const struct cs_clock_ops clock = { fixed_now_ms, fixed_now_ns, fixed_now_ns };
    static const struct cs_random_ops random = { fixed_fill };
    static const struct cs_file_ops files = { .read = fixed_read,
                                              .write_atomic = fixed_write,
                                              .write_new = fixed_write_new };

    *f = (struct fixed_world){ .now_ms = 1700000000000 };
    f->world = (struct cs_world){ .clock = { &clock, f }, .random = { &random, f }, .files = { &files, f } };
    f->rng.world = &f->world;
    cs_random_replay(4711, 0);
}
static inline void fixed_world_fini(struct fixed_world *f)
{
    for (size_t i = 0; i < FIXED_FILES; i++)
        cs_buf_free(&f->files[i].data);
}

#endif
