/* The operating system's clock, randomness and files. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/real_loop.h"
#include "base/world.h"

static uint64_t read_clock(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t clock_now_ns(void *self)
{
    (void)self;
    return read_clock(CLOCK_REALTIME);
}

static int64_t clock_now_ms(void *self)
{
    return (int64_t)(clock_now_ns(self) / 1000000u);
}

static uint64_t clock_monotonic_ns(void *self)
{
    (void)self;
    return read_clock(CLOCK_MONOTONIC);
}

static const struct cs_clock_ops clock_ops = { clock_now_ms, clock_now_ns, clock_monotonic_ns };

static void random_fill(void *self, void *out, size_t n)
{
    uint8_t *p = out;

    (void)self;
    while (n > 0) {
        ssize_t got = getrandom(p, n < 256 ? n : 256, 0);

        if (got < 0 && errno != EINTR)
            abort(); /* no kernel that we run on lacks it; going on without randomness is never right */
        if (got > 0) {
            p += got;
            n -= (size_t)got;
        }
    }
}

static const struct cs_random_ops random_ops = { random_fill };

static int fail_path(struct cs_error *err, const char *what, const char *path)
{
    int code = errno == ENOENT || errno == ENOTDIR ? CS_ENOTFOUND : errno == EEXIST ? CS_EEXIST : CS_EIO;

    return cs_fail(err, code, "cannot %s \"%s\": %s", what, path, strerror(errno));
}

static int file_read(void *self, const char *path, size_t max, struct cs_buf *out, struct cs_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = CS_OK;
    size_t total = 0;

    (void)self;
    if (fd < 0)
        return fail_path(err, "open", path);
    for (;;) {
        uint8_t *p;
        ssize_t got;

        if (!cs_buf_reserve(out, 16384)) {
            rc = cs_fail(err, CS_ENOMEM, "out of memory reading \"%s\"", path);
            break;
        }
        p = out->data + out->len;
        got = read(fd, p, 16384);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            rc = fail_path(err, "read", path);
            break;
        }
        if (got == 0)
            break;
        out->len += (size_t)got;
        if ((total += (size_t)got) > max) {
            rc = cs_fail(err, CS_ELIMIT, "\"%s\" is larger than %zu bytes", path, max);
            break;
        }
    }
    close(fd);
    return rc;
}

static int write_all(int fd, struct cs_slice data)
{
    while (data.len > 0) {
        ssize_t n = write(fd, data.data, data.len);

        if (n < 0 && errno != EINTR)
            return -1;
        if (n > 0) {
            data.data += n;
            data.len -= (size_t)n;
        }
    }
    return 0;
}

static int sync_dir_of(const char *path, struct cs_error *err)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int fd, rc = CS_OK;

    if (slash == NULL)
        snprintf(dir, sizeof dir, ".");
    else
        snprintf(dir, sizeof dir, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    if ((fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        return fail_path(err, "open folder", dir);
    if (fsync(fd) != 0)
        rc = fail_path(err, "sync folder", dir);
    close(fd);
    return rc;
}

/* A synced temporary file beside path, then `place` puts it there. */
static int write_beside(const char *path, struct cs_slice data, uint32_t mode, bool is_new, struct cs_error *err)
{
    char temp[PATH_MAX];
    int fd, rc = CS_OK;

    if ((size_t)snprintf(temp, sizeof temp, "%s.XXXXXX", path) >= sizeof temp)
        return cs_fail(err, CS_EINVAL, "path \"%.100s…\" is too long", path);
    if ((fd = mkostemp(temp, O_CLOEXEC)) < 0)
        return fail_path(err, "write", path);
    if (fchmod(fd, mode) != 0 || write_all(fd, data) != 0 || fsync(fd) != 0)
        rc = fail_path(err, "write", path);
    if (close(fd) != 0 && rc == CS_OK)
        rc = fail_path(err, "write", path);
    if (rc == CS_OK && is_new && link(temp, path) != 0)
        rc = fail_path(err, "make", path);
    if (rc == CS_OK && !is_new && rename(temp, path) != 0)
        rc = fail_path(err, "replace", path);
    if (rc != CS_OK || is_new)
        unlink(temp);
    return rc != CS_OK ? rc : sync_dir_of(path, err);
}

static int file_write_atomic(void *self, const char *path, struct cs_slice data, uint32_t mode, struct cs_error *err)
{
    (void)self;
    return write_beside(path, data, mode, false, err);
}

static int file_write_new(void *self, const char *path, struct cs_slice data, uint32_t mode, struct cs_error *err)
{
    (void)self;
    return write_beside(path, data, mode, true, err);
}

static int file_mkdir(void *self, const char *path, uint32_t mode, struct cs_error *err)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    struct stat st;

    (void)self;
    if (n == 0 || n >= sizeof part)
        return cs_fail(err, CS_EINVAL, "\"%.100s\" is no usable path", path);
    for (size_t i = 1; i <= n; i++) {
        if (i < n && path[i] != '/')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, mode) != 0 && errno != EEXIST)
            return fail_path(err, "make folder", part);
    }
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return cs_fail(err, CS_EIO, "\"%s\" is not a folder", path);
    return CS_OK;
}

static int file_remove(void *self, const char *path, struct cs_error *err)
{
    (void)self;
    return unlink(path) == 0 ? CS_OK : fail_path(err, "remove", path);
}

static int file_stat(void *self, const char *path, struct cs_file_info *out, struct cs_error *err)
{
    struct stat st;

    (void)self;
    if (stat(path, &st) != 0)
        return fail_path(err, "look at", path);
    *out = (struct cs_file_info){ .size = st.st_size,
                                  .device = st.st_dev,
                                  .inode = st.st_ino,
                                  .mode = st.st_mode & 07777,
                                  .is_dir = S_ISDIR(st.st_mode) };
    return CS_OK;
}

static int file_realpath(void *self, const char *path, struct cs_buf *out, struct cs_error *err)
{
    char full[PATH_MAX];

    (void)self;
    if (realpath(path, full) == NULL)
        return fail_path(err, "find", path);
    cs_buf_put(out, full, strlen(full) + 1);
    return out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

static const struct cs_file_ops file_ops = {
    file_read, file_write_atomic, file_write_new, file_mkdir, file_remove, file_stat, file_realpath,
};

struct cs_world *cs_world_real(void)
{
    static struct cs_world world = {
        .clock = { &clock_ops, NULL },
        .random = { &random_ops, NULL },
        .files = { &file_ops, NULL },
        .loop_new = cs_real_loop_new,
    };

    return &world;
}
