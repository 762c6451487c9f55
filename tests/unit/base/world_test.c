/* Clocks, randomness and files: the same calls give the same results in both worlds. */
#include <sys/stat.h>

#include "unit/base/both_worlds.h"

struct place {
    struct bench b;
    char path[400];
};

static const char *in(struct place *p, const char *name)
{
    snprintf(p->path, sizeof p->path, "%s/%s", p->b.dir, name);
    return p->path;
}

static int read_file(struct place *p, const char *name, size_t max, struct cs_buf *out)
{
    return p->b.world->files.ops->read(p->b.world->files.self, in(p, name), max, out, NULL);
}

static int put(struct place *p, const char *name, const char *text, uint32_t mode)
{
    return p->b.world->files.ops->write_atomic(p->b.world->files.self, in(p, name), cs_slice_str(text), mode, NULL);
}

static int put_new(struct place *p, const char *name, const char *text, uint32_t mode)
{
    return p->b.world->files.ops->write_new(p->b.world->files.self, in(p, name), cs_slice_str(text), mode, NULL);
}

static int make(struct place *p, const char *name, uint32_t mode)
{
    return p->b.world->files.ops->mkdir(p->b.world->files.self, in(p, name), mode, NULL);
}

static int take(struct place *p, const char *name)
{
    return p->b.world->files.ops->remove(p->b.world->files.self, in(p, name), NULL);
}

static int look(struct place *p, const char *name, struct cs_file_info *out)
{
    return p->b.world->files.ops->stat(p->b.world->files.self, in(p, name), out, NULL);
}

static void place_open(struct place *p, void **state)
{
    umask(022);
    bench_world(&p->b, state);
}

static void place_close(struct place *p)
{
    char command[100];

    if (p->b.sim == NULL) {
        snprintf(command, sizeof command, "rm -r %s", p->b.dir);
        assert_int_equal(system(command), 0);
    }
    cs_sim_free(p->b.sim);
}

static void expect(struct place *p, const char *name, const char *text)
{
    struct cs_buf got = { 0 };

    assert_int_equal(read_file(p, name, 1000, &got), CS_OK);
    assert_int_equal(got.len, strlen(text));
    assert_true(cs_slice_eq(cs_buf_slice(&got), cs_slice_str(text)));
    cs_buf_free(&got);
}

static void clocks_and_randomness(void **state)
{
    struct place p;
    uint8_t a[100] = { 0 }, b[100] = { 0 };
    const struct cs_clock *clock;

    place_open(&p, state);
    clock = &p.b.world->clock;
    assert_true(cs_now_ms(p.b.world) > 1700000000000);
    assert_true(clock->ops->now_ns(clock->self) / 1000000000 - (uint64_t)cs_now_ms(p.b.world) / 1000 <= 1);
    assert_true(cs_monotonic_ns(p.b.world) <= cs_monotonic_ns(p.b.world));
    p.b.world->random.ops->fill(p.b.world->random.self, a, 0);
    assert_int_equal(a[0], 0);
    p.b.world->random.ops->fill(p.b.world->random.self, a, 99);
    p.b.world->random.ops->fill(p.b.world->random.self, b, 99);
    assert_memory_not_equal(a, b, 99);
    assert_memory_not_equal(a + 90, b + 90, 9);
    assert_int_equal(a[99], 0);
    place_close(&p);
}

static void a_file_is_written_and_replaced(void **state)
{
    struct place p;
    struct cs_file_info first, second;

    place_open(&p, state);
    assert_int_equal(put(&p, "f", "old", 0600), CS_OK);
    expect(&p, "f", "old");
    assert_int_equal(look(&p, "f", &first), CS_OK);
    assert_int_equal(first.size, 3);
    assert_int_equal(first.mode, 0600);
    assert_false(first.is_dir);
    assert_int_equal(put(&p, "f", "newer", 0644), CS_OK);
    expect(&p, "f", "newer");
    assert_int_equal(look(&p, "f", &second), CS_OK);
    assert_int_equal(second.mode, 0644);
    assert_true(second.device == first.device);
    assert_int_equal(put(&p, "f", "", 0600), CS_OK);
    expect(&p, "f", "");
    place_close(&p);
}

static void reading_appends_up_to_its_limit(void **state)
{
    struct place p;
    struct cs_buf got = { 0 };

    place_open(&p, state);
    cs_buf_put_str(&got, "before ");
    assert_int_equal(put(&p, "f", "12345", 0600), CS_OK);
    assert_int_equal(read_file(&p, "f", 5, &got), CS_OK);
    assert_int_equal(got.len, 12);
    assert_memory_equal(got.data, "before 12345", 12);
    assert_int_equal(read_file(&p, "f", 4, &got), CS_ELIMIT);
    assert_int_equal(read_file(&p, "none", 4, &got), CS_ENOTFOUND);
    assert_int_equal(read_file(&p, "f/x", 4, &got), CS_ENOTFOUND);
    assert_int_equal(read_file(&p, ".", 4, &got), CS_EIO);
    cs_buf_free(&got);
    place_close(&p);
}

static void a_new_file_replaces_nothing(void **state)
{
    struct place p;

    place_open(&p, state);
    assert_int_equal(put_new(&p, "f", "first", 0600), CS_OK);
    assert_int_equal(put_new(&p, "f", "second", 0600), CS_EEXIST);
    expect(&p, "f", "first");
    assert_int_equal(take(&p, "f"), CS_OK);
    assert_int_equal(take(&p, "f"), CS_ENOTFOUND);
    assert_int_equal(put_new(&p, "f", "third", 0640), CS_OK);
    expect(&p, "f", "third");
    place_close(&p);
}

static void folders_are_made_with_their_parents(void **state)
{
    struct place p;
    struct cs_file_info info;

    place_open(&p, state);
    assert_int_equal(put(&p, "a/b/f", "x", 0600), CS_ENOTFOUND);
    assert_int_equal(make(&p, "a/b//c/", 0777), CS_OK);
    assert_int_equal(make(&p, "a/b/c", 0700), CS_OK); /* there: fine, and as it was */
    assert_int_equal(look(&p, "a/b/c", &info), CS_OK);
    assert_true(info.is_dir);
    assert_int_equal(info.mode, 0755);
    assert_int_equal(put(&p, "a/b/f", "x", 0600), CS_OK);
    assert_int_equal(make(&p, "a/b/f", 0700), CS_EIO);
    assert_int_equal(make(&p, "a/b/f/g", 0700), CS_ENOTFOUND);
    assert_int_equal(put(&p, "a/b/f/g", "x", 0600), CS_ENOTFOUND);
    assert_int_equal(put(&p, "a/b", "x", 0600), CS_EIO);
    assert_int_equal(put_new(&p, "a/b", "x", 0600), CS_EEXIST);
    assert_int_equal(take(&p, "a/b"), CS_EIO);
    assert_int_equal(look(&p, "a/none", &info), CS_ENOTFOUND);
    assert_int_equal(look(&p, "a/b/f/g", &info), CS_ENOTFOUND);
    assert_int_equal(p.b.world->files.ops->mkdir(p.b.world->files.self, "", 0700, NULL), CS_EINVAL);
    place_close(&p);
}

static void paths_are_made_normal(void **state)
{
    struct place p;
    struct cs_buf got = { 0 };
    const struct cs_files *files;
    char want[100];

    place_open(&p, state);
    files = &p.b.world->files;
    assert_int_equal(make(&p, "a/b", 0700), CS_OK);
    assert_int_equal(put(&p, "a/f", "x", 0600), CS_OK);
    assert_int_equal(files->ops->realpath(files->self, in(&p, "a//./b/../f"), &got, NULL), CS_OK);
    snprintf(want, sizeof want, "%s/a/f", p.b.dir);
    assert_int_equal(got.len, strlen(want) + 1);
    assert_string_equal((const char *)got.data, want);
    cs_buf_reset(&got);
    assert_int_equal(files->ops->realpath(files->self, in(&p, "none"), &got, NULL), CS_ENOTFOUND);
    assert_int_equal(files->ops->realpath(files->self, in(&p, "none/../a"), &got, NULL), CS_ENOTFOUND);
    assert_int_equal(files->ops->realpath(files->self, in(&p, "a/f/"), &got, NULL), CS_ENOTFOUND);
    assert_int_equal(files->ops->realpath(files->self, in(&p, "a/f/.."), &got, NULL), CS_ENOTFOUND);
    assert_int_equal(files->ops->realpath(files->self, "", &got, NULL), CS_ENOTFOUND);
    assert_int_equal(files->ops->realpath(files->self, "/../..", &got, NULL), CS_OK);
    assert_string_equal((const char *)got.data, "/");
    cs_buf_free(&got);
    place_close(&p);
}

static void names_have_a_length(void **state)
{
    struct place p;
    struct cs_buf got = { 0 };
    char name[300], path[5000];

    place_open(&p, state);
    memset(name, 'n', sizeof name);
    name[248] = '\0';
    assert_int_equal(put(&p, name, "x", 0600), CS_OK);
    expect(&p, name, "x");
    name[248] = 'n';
    name[255] = '\0';
    assert_int_equal(put(&p, name, "x", 0600), CS_EIO); /* no room for the file beside it */
    assert_int_equal(read_file(&p, name, 10, &got), CS_ENOTFOUND);
    memset(path, '/', sizeof path);
    path[sizeof path - 1] = '\0';
    assert_int_equal(p.b.world->files.ops->mkdir(p.b.world->files.self, path, 0700, NULL), CS_EINVAL);
    assert_int_equal(p.b.world->files.ops->read(p.b.world->files.self, path, 10, &got, NULL), CS_EIO);
    assert_int_equal(p.b.world->files.ops->write_new(p.b.world->files.self, path, cs_slice_str(""), 0600, NULL),
                     CS_EINVAL);
    cs_buf_free(&got);
    place_close(&p);
}

static void errors_name_the_path(void **state)
{
    struct place p;
    struct cs_error err;
    struct cs_buf got = { 0 };
    const struct cs_files *files;

    place_open(&p, state);
    files = &p.b.world->files;
    assert_int_equal(files->ops->read(files->self, in(&p, "none"), 1, &got, &err), CS_ENOTFOUND);
    assert_int_equal(err.code, CS_ENOTFOUND);
    assert_non_null(strstr(err.msg, p.path));
    assert_non_null(strstr(err.msg, "No such file"));
    assert_int_equal(files->ops->write_new(files->self, in(&p, "."), cs_slice_str("x"), 0600, &err), CS_EEXIST);
    assert_int_equal(err.code, CS_EEXIST);
    assert_non_null(strstr(err.msg, p.path));
    cs_buf_free(&got);
    place_close(&p);
}

static void large_files_come_back_whole(void **state)
{
    enum { SIZE = 100001 };
    struct place p;
    struct cs_buf got = { 0 };
    uint8_t *bytes = malloc(SIZE);

    place_open(&p, state);
    p.b.world->random.ops->fill(p.b.world->random.self, bytes, SIZE);
    assert_int_equal(
        p.b.world->files.ops->write_atomic(p.b.world->files.self, in(&p, "f"), cs_slice(bytes, SIZE), 0600, NULL),
        CS_OK);
    assert_int_equal(read_file(&p, "f", SIZE, &got), CS_OK);
    assert_true(cs_slice_eq(cs_buf_slice(&got), cs_slice(bytes, SIZE)));
    cs_buf_reset(&got);
    assert_int_equal(read_file(&p, "f", SIZE - 1, &got), CS_ELIMIT);
    cs_buf_free(&got);
    free(bytes);
    place_close(&p);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        BOTH(clocks_and_randomness),
        BOTH(a_file_is_written_and_replaced),
        BOTH(reading_appends_up_to_its_limit),
        BOTH(a_new_file_replaces_nothing),
        BOTH(folders_are_made_with_their_parents),
        BOTH(paths_are_made_normal),
        BOTH(names_have_a_length),
        BOTH(errors_name_the_path),
        BOTH(large_files_come_back_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
