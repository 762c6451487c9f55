/* A host's files, in memory: a list of absolute, normal paths. The calls give what those of real_world.c give, with the
 * same codes; there are no links and no users, and the working folder is "/". */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "base/test_internal.h"

enum { UMASK = 022, TEMP_SUFFIX = 7 }; /* a write begins in a file beside, whose name is longer */

static int fail_path(struct cs_error *err, int error, const char *what, const char *path)
{
    int code = error == ENOENT || error == ENOTDIR ? CS_ENOTFOUND : error == EEXIST ? CS_EEXIST : CS_EIO;

    return cs_fail(err, code, "cannot %s \"%s\": %s", what, path, strerror(error));
}

static struct cs_sim_host *lock(void *self)
{
    struct cs_sim_host *h = self;

    pthread_mutex_lock(&h->sim->lock);
    return h;
}

static int unlock(struct cs_sim_host *h, int rc)
{
    pthread_mutex_unlock(&h->sim->lock);
    return rc;
}

static struct cs_sim_file *find(struct cs_sim_host *h, const char *path)
{
    for (size_t i = 0; i < h->nfiles; i++)
        if (strcmp(h->files[i].path, path) == 0)
            return &h->files[i];
    return NULL;
}

static struct cs_sim_file *add(struct cs_sim_host *h, const char *path, bool is_dir, uint32_t mode)
{
    size_t cap = h->capfiles == 0 ? 16 : h->capfiles * 2;
    struct cs_sim_file *f;
    char *copy = strdup(path);

    if (copy != NULL && h->nfiles == h->capfiles && (f = realloc(h->files, cap * sizeof *f)) != NULL) {
        h->files = f;
        h->capfiles = cap;
    }
    if (copy == NULL || h->nfiles == h->capfiles) {
        free(copy);
        return NULL;
    }
    f = &h->files[h->nfiles++];
    *f = (struct cs_sim_file){ .path = copy, .is_dir = is_dir, .mode = mode, .inode = ++h->next_inode };
    return f;
}

static void drop(struct cs_sim_host *h, struct cs_sim_file *f)
{
    free(f->path);
    cs_buf_free(&f->data);
    *f = h->files[--h->nfiles];
}

int cs_sim_files_init(struct cs_sim_host *h)
{
    return add(h, "/", true, 0755) == NULL ? CS_ENOMEM : CS_OK;
}

void cs_sim_files_free(struct cs_sim_host *h)
{
    while (h->nfiles > 0)
        drop(h, &h->files[h->nfiles - 1]);
    free(h->files);
}

/* ---- paths ---- */

struct place {
    char path[PATH_MAX];      /* absolute and normal */
    struct cs_sim_file *file; /* NULL: not there, but its folder is */
    size_t name_len;
    bool slash; /* written with a slash at its end */
};

static void go_up(char *path)
{
    char *slash = strrchr(path, '/');

    slash[slash == path ? 1 : 0] = '\0';
}

/* 0, or why there can be nothing at path. */
static int find_place(struct cs_sim_host *h, const char *path, struct place *out)
{
    size_t len;

    if (h->down)
        return EIO;
    if (path[0] == '\0')
        return ENOENT;
    if (strlen(path) >= sizeof out->path)
        return ENAMETOOLONG;
    strcpy(out->path, "/");
    out->file = find(h, "/");
    out->slash = path[strlen(path) - 1] == '/';
    out->name_len = 0;
    for (path += strspn(path, "/"); *path != '\0'; path += len, path += strspn(path, "/")) {
        out->name_len = len = strcspn(path, "/");
        if (out->file == NULL)
            return ENOENT;
        if (!out->file->is_dir)
            return ENOTDIR;
        if (len > NAME_MAX)
            return ENAMETOOLONG;
        if (len == 2 && memcmp(path, "..", 2) == 0)
            go_up(out->path);
        else if (len != 1 || *path != '.')
            snprintf(out->path + strlen(out->path), sizeof out->path - strlen(out->path), "%s%.*s",
                     out->path[1] == '\0' ? "" : "/", (int)len, path);
        out->file = find(h, out->path);
    }
    return out->slash && out->file != NULL && !out->file->is_dir ? ENOTDIR : 0;
}

/* What is there, or why it is not. */
static int find_file(struct cs_sim_host *h, const char *path, struct place *out)
{
    int error = find_place(h, path, out);

    return error != 0 ? error : out->file == NULL ? ENOENT : 0;
}

/* ---- the calls ---- */

static int file_read(void *self, const char *path, size_t max, struct cs_buf *out, struct cs_error *err)
{
    struct cs_sim_host *h = lock(self);
    struct place at;
    int error = find_file(h, path, &at);

    if (error != 0)
        return unlock(h, fail_path(err, error, "open", path));
    if (at.file->is_dir)
        return unlock(h, fail_path(err, EISDIR, "read", path));
    if (at.file->data.len > max)
        return unlock(h, cs_fail(err, CS_ELIMIT, "\"%s\" is larger than %zu bytes", path, max));
    cs_buf_put_slice(out, cs_buf_slice(&at.file->data));
    return unlock(h, out->failed ? cs_fail(err, CS_ENOMEM, "out of memory reading \"%s\"", path) : CS_OK);
}

/* The new file stands where the old one stood, if any, in one step. */
static int replace(struct cs_sim_host *h, const struct place *at, struct cs_slice data, uint32_t mode,
                   struct cs_error *err)
{
    struct cs_sim_file *f = at->file != NULL ? at->file : add(h, at->path, false, mode);
    struct cs_buf bytes = { 0 };

    cs_buf_put_slice(&bytes, data);
    if (f == NULL || bytes.failed) {
        cs_buf_free(&bytes);
        return cs_fail(err, CS_ENOMEM, "out of memory");
    }
    if (at->file != NULL)
        f->inode = ++h->next_inode;
    f->mode = mode & 07777;
    cs_buf_free(&f->data);
    f->data = bytes;
    cs_sim_watch_tell(h, at->path);
    return CS_OK;
}

static int crash(struct cs_sim_host *h, const struct place *at, struct cs_slice data, uint32_t mode, const char *path,
                 struct cs_error *err)
{
    if (cs_sim_draw(h->sim, 2) == 0)
        replace(h, at, data, mode, NULL);
    cs_sim_crash(h);
    return fail_path(err, EIO, "write", path);
}

static int write_beside(struct cs_sim_host *h, const char *path, struct cs_slice data, uint32_t mode, bool is_new,
                        struct cs_error *err)
{
    struct place at;
    int error = find_place(h, path, &at);

    if (strlen(path) + TEMP_SUFFIX >= sizeof at.path)
        return cs_fail(err, CS_EINVAL, "path \"%.100s…\" is too long", path);
    if (error == 0 && at.slash && at.file == NULL)
        error = ENOENT;
    if (error == 0 && !at.slash && at.name_len + TEMP_SUFFIX > NAME_MAX)
        error = ENAMETOOLONG;
    if (error == 0 && h->disk_full)
        error = ENOSPC;
    if (error != 0)
        return fail_path(err, error, "write", path);
    if (is_new && at.file != NULL)
        return fail_path(err, EEXIST, "make", path);
    if (at.file != NULL && at.file->is_dir)
        return fail_path(err, at.slash ? ENOTDIR : EISDIR, "replace", path);
    if (h->crash_in > 0 && --h->crash_in == 0)
        return crash(h, &at, data, mode, path, err);
    return replace(h, &at, data, mode, err);
}

static int file_write_atomic(void *self, const char *path, struct cs_slice data, uint32_t mode, struct cs_error *err)
{
    struct cs_sim_host *h = lock(self);

    return unlock(h, write_beside(h, path, data, mode, false, err));
}

static int file_write_new(void *self, const char *path, struct cs_slice data, uint32_t mode, struct cs_error *err)
{
    struct cs_sim_host *h = lock(self);

    return unlock(h, write_beside(h, path, data, mode, true, err));
}

static int make_folder(struct cs_sim_host *h, const char *path, uint32_t mode)
{
    struct place at;
    int error = find_place(h, path, &at);

    if (error != 0)
        return error;
    if (at.file != NULL)
        return EEXIST;
    if (h->disk_full)
        return ENOSPC;
    if (add(h, at.path, true, mode & 07777 & ~(uint32_t)UMASK) == NULL)
        return ENOMEM;
    cs_sim_watch_tell(h, at.path);
    return 0;
}

static int make_folders(struct cs_sim_host *h, const char *path, uint32_t mode, struct cs_error *err)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    struct place at;

    if (n == 0 || n >= sizeof part)
        return cs_fail(err, CS_EINVAL, "\"%.100s\" is no usable path", path);
    for (size_t i = 1; i <= n; i++) {
        int error;

        if (i < n && path[i] != '/')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if ((error = make_folder(h, part, mode)) != 0 && error != EEXIST)
            return fail_path(err, error, "make folder", part);
    }
    if (find_file(h, path, &at) != 0 || !at.file->is_dir)
        return cs_fail(err, CS_EIO, "\"%s\" is not a folder", path);
    return CS_OK;
}

static int file_mkdir(void *self, const char *path, uint32_t mode, struct cs_error *err)
{
    struct cs_sim_host *h = lock(self);

    return unlock(h, make_folders(h, path, mode, err));
}

static int file_remove(void *self, const char *path, struct cs_error *err)
{
    struct cs_sim_host *h = lock(self);
    struct place at;
    int error = find_file(h, path, &at);

    if (error == 0 && at.file->is_dir)
        error = EISDIR;
    if (error != 0)
        return unlock(h, fail_path(err, error, "remove", path));
    drop(h, at.file);
    cs_sim_watch_tell(h, at.path);
    return unlock(h, CS_OK);
}

static int file_stat(void *self, const char *path, struct cs_file_info *out, struct cs_error *err)
{
    struct cs_sim_host *h = lock(self);
    struct place at;
    int error = find_file(h, path, &at);

    if (error != 0)
        return unlock(h, fail_path(err, error, "look at", path));
    *out = (struct cs_file_info){ .size = at.file->is_dir ? 4096 : (int64_t)at.file->data.len,
                                  .device = h->number,
                                  .inode = at.file->inode,
                                  .mode = at.file->mode,
                                  .is_dir = at.file->is_dir };
    return unlock(h, CS_OK);
}

static int file_realpath(void *self, const char *path, struct cs_buf *out, struct cs_error *err)
{
    struct cs_sim_host *h = lock(self);
    struct place at;
    int error = find_file(h, path, &at);

    if (error != 0)
        return unlock(h, fail_path(err, error, "find", path));
    cs_buf_put(out, at.path, strlen(at.path) + 1);
    return unlock(h, out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK);
}

const struct cs_file_ops cs_sim_file_ops = {
    file_read, file_write_atomic, file_write_new, file_mkdir, file_remove, file_stat, file_realpath,
};

static bool is_below(const char *path, const char *folder)
{
    size_t n = strlen(folder);

    return strncmp(path, folder, n) == 0 && path[n] == '/';
}

/* What is there under that name becomes a copy of f, which moves when another one is added: by its number. */
static void copy_file(struct cs_sim_host *from, size_t number, struct cs_sim_host *to, const char *path)
{
    struct cs_sim_file *old = find(to, path);
    const struct cs_sim_file *f;

    if (old == NULL && (old = add(to, path, from->files[number].is_dir, from->files[number].mode)) == NULL)
        abort();
    f = &from->files[number];
    old->mode = f->mode;
    old->is_dir = f->is_dir;
    cs_buf_reset(&old->data);
    cs_buf_put_slice(&old->data, cs_buf_slice(&f->data));
    if (old->data.failed)
        abort();
}

void cs_sim_copy_files(struct cs_world *host, const char *from, struct cs_world *to_host, const char *to)
{
    struct cs_sim_host *h = lock(host->self), *other = cs_sim_host_of(to_host);
    char path[PATH_MAX];

    for (size_t i = other->nfiles; i > 0; i--)
        if (is_below(other->files[i - 1].path, to)) {
            snprintf(path, sizeof path, "%s%s", from, other->files[i - 1].path + strlen(to));
            if (find(h, path) == NULL)
                drop(other, &other->files[i - 1]);
        }
    for (size_t i = 0, n = h->nfiles; i < n; i++)
        if (is_below(h->files[i].path, from)) {
            snprintf(path, sizeof path, "%s%s", to, h->files[i].path + strlen(from));
            copy_file(h, i, other, path);
        }
    unlock(h, CS_OK);
}

int cs_sim_touch(struct cs_world *host, const char *path, struct cs_error *err)
{
    struct cs_sim_host *h = lock(host->self);
    const char *slash = strrchr(path, '/');
    char folder[PATH_MAX];
    struct place at;
    int rc = CS_OK;

    if (slash != NULL && slash != path && (size_t)(slash - path) < sizeof folder) {
        snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
        rc = make_folders(h, folder, 0755, err);
    }
    if (rc == CS_OK && find_place(h, path, &at) != 0)
        rc = fail_path(err, ENOENT, "touch", path);
    if (rc == CS_OK && at.file == NULL && add(h, at.path, false, 0644) == NULL)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    if (rc == CS_OK)
        cs_sim_watch_tell(h, at.path);
    return unlock(h, rc);
}
