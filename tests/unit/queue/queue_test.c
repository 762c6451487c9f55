/* The queue: every change of state, what a stranger's key or changed bytes do, and a failing disk at every write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "crypto/keys.h"
#include "fixtures/fault_vfs.h"
#include "fixtures/short_memory.h"
#include "queue/queue.h"
#include "scratch.h"

struct scene {
    char dir[SCRATCH_LEN], path[96];
    uint8_t key[32];
    struct cs_rng rng;
    cs_queue *q;
    struct cs_arena arena;
};

static void must(int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        fail_msg("%s", err->msg);
}

static int try_open(struct scene *s, bool read_only, const uint8_t *key, struct cs_error *err)
{
    struct cs_queue_options o = { .path = s->path, .key = key, .rng = &s->rng, .read_only = read_only };

    return cs_queue_open(&s->q, cs_world_real(), &o, err);
}

static void open_queue(struct scene *s)
{
    struct cs_error err;

    must(try_open(s, false, s->key, &err), &err);
}

static void reopen(struct scene *s)
{
    cs_queue_close(s->q);
    open_queue(s);
}

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);

    assert_non_null(s);
    assert_int_equal(cs_crypto_init(NULL), CS_OK);
    assert_non_null(scratch_folder(s->dir, "queue"));
    snprintf(s->path, sizeof s->path, "%s/queue.db", s->dir);
    memset(s->key, 5, sizeof s->key);
    s->rng.world = cs_world_real();
    open_queue(s);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;
    char command[100];

    cs_queue_close(s->q);
    cs_arena_free(&s->arena);
    snprintf(command, sizeof command, "rm -r %s", s->dir);
    assert_int_equal(system(command), 0);
    free(s);
    return 0;
}

/* Set number i: its content says so. */
static struct cs_queue_set set_of(int i)
{
    static char texts[16][32];
    struct cs_queue_set set = { .number = (uint64_t)i, .operations = (uint64_t)i * 10 };

    memset(set.batch, i, sizeof set.batch);
    snprintf(texts[i], sizeof texts[i], "secret content %d", i);
    set.content = cs_slice_str(texts[i]);
    return set;
}

static void put(struct scene *s, int from, int to, enum cs_queue_state state, const char *reason)
{
    struct cs_queue_set sets[16];
    struct cs_error err;
    size_t n = 0;

    for (int i = from; i <= to; i++)
        sets[n++] = set_of(i);
    must(cs_queue_put(s->q, sets, n, state, reason, &err), &err);
}

static const struct cs_queue_entry *list(struct scene *s, size_t want)
{
    struct cs_queue_entry *out;
    struct cs_error err;
    size_t n;

    must(cs_queue_list(s->q, &s->arena, &out, &n, &err), &err);
    assert_int_equal(n, want);
    return out;
}

static void counts_are(struct scene *s, uint64_t pending, uint64_t in_flight, uint64_t failed, uint64_t done,
                       uint64_t own)
{
    struct cs_queue_counts c;
    struct cs_error err;

    must(cs_queue_counts(s->q, &c, &err), &err);
    if (c.pending != pending || c.in_flight != in_flight || c.failed != failed || c.done != done || c.own != own)
        fail_msg("pending %d, in flight %d, failed %d, done %d, own %d", (int)c.pending, (int)c.in_flight,
                 (int)c.failed, (int)c.done, (int)c.own);
}

static void content_is(struct scene *s, const uint8_t *id, const char *want)
{
    struct cs_buf out = { 0 };
    struct cs_error err;

    must(cs_queue_content(s->q, id, &out, &err), &err);
    assert_int_equal(out.len, strlen(want));
    assert_memory_equal(out.data, want, out.len);
    cs_buf_free(&out);
}

/* ---- states ---- */

static void copies_of_batches(void **state)
{
    struct scene *s = *state;
    const struct cs_queue_entry *e;
    struct cs_queue_set two = set_of(2);
    struct cs_error err;

    put(s, 1, 3, CS_QUEUE_PENDING, "cannot reach the hub");
    e = list(s, 3);
    for (int i = 0; i < 3; i++) {
        char text[32];

        assert_int_equal(e[i].number, i + 1);
        assert_int_equal(e[i].operations, (i + 1) * 10);
        assert_int_equal(e[i].attempts, 1);
        assert_true(e[i].has_batch && e[i].queued_ms > 0);
        assert_string_equal(e[i].reason, "cannot reach the hub");
        snprintf(text, sizeof text, "secret content %d", i + 1);
        content_is(s, e[i].id, text);
    }
    counts_are(s, 3, 0, 0, 0, 0);
    must(cs_queue_sending(s->q, &err), &err);
    counts_are(s, 0, 3, 0, 0, 0);
    must(cs_queue_accepted(s->q, two.batch, &err), &err);
    counts_are(s, 0, 2, 0, 1, 0);
    assert_int_equal(cs_queue_content(s->q, list(s, 3)[1].id, NULL, &err), CS_ENOTFOUND);
    put(s, 1, 1, CS_QUEUE_PENDING, "again");
    e = list(s, 3);
    assert_int_equal(e[0].attempts, 2);
    assert_string_equal(e[0].reason, "again");
    reopen(s);
    counts_are(s, 1, 1, 0, 1, 0);
    must(cs_queue_release(s->q, &err), &err);
    counts_are(s, 0, 0, 0, 1, 0);
    must(cs_queue_accepted(s->q, two.batch, &err), &err);
    must(cs_queue_sending(s->q, &err), &err);
    counts_are(s, 0, 0, 0, 1, 0);
}

static void refused_and_retried(void **state)
{
    struct scene *s = *state;
    struct cs_queue_entry next;
    struct cs_queue_set one = set_of(1);
    struct cs_error err;
    uint64_t n;

    put(s, 1, 2, CS_QUEUE_FAILED, "malformed");
    must(cs_queue_release(s->q, &err), &err); /* refused ones stay */
    counts_are(s, 0, 0, 2, 0, 0);
    must(cs_queue_retry(s->q, NULL, &n, &err), &err);
    assert_int_equal(n, 0); /* the database has their batches still */
    for (int i = 1; i <= 2; i++) {
        struct cs_queue_set set = set_of(i);

        must(cs_queue_detach(s->q, set.batch, &err), &err);
    }
    must(cs_queue_accepted(s->q, one.batch, &err), &err); /* another batch of that number is none of theirs */
    counts_are(s, 0, 0, 2, 0, 0);
    assert_int_equal(cs_queue_next_own(s->q, &next, &err), CS_ENOTFOUND);
    assert_int_equal(cs_queue_retry(s->q, s->key, &n, &err), CS_ENOTFOUND);
    must(cs_queue_retry(s->q, list(s, 2)[1].id, &n, &err), &err);
    assert_int_equal(n, 1);
    counts_are(s, 1, 0, 1, 0, 1);
    reopen(s);
    must(cs_queue_next_own(s->q, &next, &err), &err);
    assert_int_equal(next.number, 2);
    must(cs_queue_done(s->q, next.id, "taken back", &err), &err);
    counts_are(s, 0, 0, 1, 1, 0);
    must(cs_queue_retry(s->q, NULL, &n, &err), &err);
    assert_int_equal(n, 1);
    must(cs_queue_next_own(s->q, &next, &err), &err);
    must(cs_queue_failed(s->q, next.id, "it does not open", &err), &err);
    counts_are(s, 0, 0, 1, 1, 0);
    assert_string_equal(list(s, 2)[0].reason, "it does not open");
    content_is(s, next.id, "secret content 1");
    put(s, 2, 2, CS_QUEUE_FAILED, "again"); /* refused once more: its content is there again */
    assert_int_equal(list(s, 2)[1].attempts, 2);
    content_is(s, list(s, 2)[1].id, "secret content 2");
}

static void the_newest_done_ones_are_kept(void **state)
{
    struct scene *s = *state;
    struct cs_error err;

    for (int i = 0; i < CS_QUEUE_DONE_KEPT + 5; i++) {
        struct cs_queue_set set = set_of(1);
        char text[32];

        snprintf(text, sizeof text, "%d", i);
        set.content = cs_slice_str(text);
        must(cs_queue_put(s->q, &set, 1, CS_QUEUE_PENDING, "", &err), &err);
        must(cs_queue_accepted(s->q, set.batch, &err), &err);
    }
    counts_are(s, 0, 0, 0, CS_QUEUE_DONE_KEPT, 0);
}

/* ---- after a crash ---- */

static bool bound_two(void *arg, const uint8_t batch[32])
{
    (void)arg;
    return batch[0] == 2 || batch[0] == 6;
}

static void reconciled_with_the_database(void **state)
{
    struct cs_queue_truth t = { .bound = bound_two, .accepted = 3 };
    struct scene *s = *state;
    const struct cs_queue_entry *e;
    struct cs_error err;

    put(s, 1, 4, CS_QUEUE_PENDING, "");
    must(cs_queue_sending(s->q, &err), &err);
    put(s, 5, 6, CS_QUEUE_FAILED, "malformed");
    for (int again = 0; again < 2; again++) { /* the same, however often */
        must(cs_queue_reconcile(s->q, &t, &err), &err);
        e = list(s, 6);
        assert_int_equal(e[0].state, CS_QUEUE_DONE); /* taken, and we died before we noted it */
        assert_true(e[1].state == CS_QUEUE_PENDING && e[1].has_batch);
        assert_int_equal(e[2].state, CS_QUEUE_DONE);
        assert_true(e[3].state == CS_QUEUE_PENDING && !e[3].has_batch); /* the database is an older copy */
        assert_true(e[4].state == CS_QUEUE_FAILED && !e[4].has_batch);
        assert_true(e[5].state == CS_QUEUE_FAILED && e[5].has_batch);
        reopen(s);
    }
    content_is(s, e[3].id, "secret content 4");
    counts_are(s, 2, 0, 2, 2, 1);
}

/* ---- strangers ---- */

static void nothing_is_readable_without_the_key(void **state)
{
    struct scene *s = *state;
    uint8_t id[CS_QUEUE_ID_LEN], other[32] = { 0 };
    struct cs_queue_set one = set_of(1);
    struct cs_buf file = { 0 }, out = { 0 };
    struct cs_error err;
    struct stat st;

    put(s, 1, 2, CS_QUEUE_FAILED, "malformed");
    memcpy(id, list(s, 2)[0].id, sizeof id);
    cs_queue_close(s->q);
    assert_int_equal(stat(s->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    must(cs_world_real()->files.ops->read(NULL, s->path, 1 << 20, &file, &err), &err);
    assert_null(memmem(file.data, file.len, "secret", 6));
    cs_buf_free(&file);

    must(try_open(s, false, other, &err), &err);
    assert_int_equal(cs_queue_content(s->q, id, &out, &err), CS_ECORRUPT);
    assert_int_equal(out.len, 0);
    cs_queue_close(s->q);
    must(try_open(s, true, NULL, &err), &err);
    list(s, 2);
    assert_int_equal(cs_queue_content(s->q, id, &out, &err), CS_EAUTH);
    assert_int_equal(cs_queue_put(s->q, &one, 1, CS_QUEUE_PENDING, "", &err), CS_EAUTH);
    cs_queue_close(s->q);
    open_queue(s);
    cs_buf_free(&out);
}

static void run(struct scene *s, const char *sql)
{
    sqlite3 *db;

    assert_int_equal(sqlite3_open(s->path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s in %s", sqlite3_errmsg(db), sql);
    sqlite3_close(db);
}

static void damaged_entries_are_told(void **state)
{
    static const char *const changes[] = { "UPDATE sync_queue SET sealed = x'00'",
                                           "UPDATE sync_queue SET sealed = zeroblob(40)",
                                           "UPDATE sync_queue SET sealed = CAST(sealed || x'00' AS BLOB)",
                                           "UPDATE sync_queue SET id = zeroblob(16)",
                                           "UPDATE sync_queue SET sealed = substr(sealed, 1, length(sealed) - 1)" };
    struct scene *s = *state;
    struct cs_buf out = { 0 };
    struct cs_error err;

    put(s, 1, 1, CS_QUEUE_FAILED, "malformed");
    run(s, "CREATE TABLE kept AS SELECT id, sealed FROM sync_queue");
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        run(s, changes[i]);
        assert_int_equal(cs_queue_content(s->q, list(s, 1)->id, &out, &err), CS_ECORRUPT);
        run(s, "UPDATE sync_queue SET (id, sealed) = (SELECT id, sealed FROM kept)");
    }
    content_is(s, list(s, 1)->id, "secret content 1");
    run(s, "UPDATE sync_queue SET batch = x'00'");
    {
        struct cs_queue_entry *e;
        size_t n;

        assert_int_equal(cs_queue_list(s->q, &s->arena, &e, &n, &err), CS_ECORRUPT);
    }
    cs_buf_free(&out);
}

static void other_files_are_refused(void **state)
{
    struct scene *s = *state;
    struct cs_error err;
    FILE *f;

    cs_queue_close(s->q);
    run(s, "PRAGMA user_version = 2");
    assert_int_equal(try_open(s, false, s->key, &err), CS_EVERSION);
    assert_non_null(strstr(err.msg, s->path));
    assert_int_equal(unlink(s->path), 0);
    assert_int_equal(try_open(s, true, s->key, &err), CS_ENOTFOUND);
    assert_non_null(f = fopen(s->path, "w"));
    fputs("this is no database, and long enough to be told from an empty file that is yet to be one", f);
    fclose(f);
    assert_int_equal(try_open(s, false, s->key, &err), CS_ECORRUPT);
    assert_int_equal(unlink(s->path), 0);
    open_queue(s);
}

/* ---- a failing disk, or a death, at every write ---- */

/* A life of three sets. The first failure ends it; *at: how far it came. */
static int live(struct scene *s, int *at, struct cs_error *err)
{
    struct cs_queue_set sets[] = { set_of(1), set_of(2), set_of(3) };
    struct cs_queue_entry own;
    uint64_t n;
    int rc;

    *at = 0;
    if ((rc = try_open(s, false, s->key, err)) != CS_OK || (++*at, false) ||
        (rc = cs_queue_put(s->q, sets, 2, CS_QUEUE_PENDING, "away", err)) != CS_OK || (++*at, false) ||
        (rc = cs_queue_sending(s->q, err)) != CS_OK || (++*at, false) ||
        (rc = cs_queue_accepted(s->q, sets[0].batch, err)) != CS_OK || (++*at, false) ||
        (rc = cs_queue_put(s->q, sets + 2, 1, CS_QUEUE_FAILED, "malformed", err)) != CS_OK || (++*at, false) ||
        (rc = cs_queue_release(s->q, err)) != CS_OK || (++*at, false) ||
        (rc = cs_queue_detach(s->q, sets[2].batch, err)) != CS_OK || (++*at, false) ||
        (rc = cs_queue_retry(s->q, NULL, &n, err)) != CS_OK || (++*at, false) ||
        (rc = cs_queue_next_own(s->q, &own, err)) != CS_OK || (rc = cs_queue_done(s->q, own.id, "", err)) != CS_OK ||
        (++*at, false))
        return rc;
    return CS_OK;
}

/* After how many steps this is what is in it: pending, in flight, failed, done, own. */
static const uint64_t stages[][5] = { { 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0 }, { 2, 0, 0, 0, 0 }, { 0, 2, 0, 0, 0 },
                                      { 0, 1, 0, 1, 0 }, { 0, 1, 1, 1, 0 }, { 0, 0, 1, 1, 0 }, { 0, 0, 1, 1, 0 },
                                      { 1, 0, 0, 1, 1 }, { 0, 0, 0, 2, 0 } };
enum { NSTAGES = sizeof stages / sizeof stages[0] };

static bool is_stage(const struct cs_queue_counts *c, int stage)
{
    const uint64_t *w = stages[stage];

    return c->pending == w[0] && c->in_flight == w[1] && c->failed == w[2] && c->done == w[3] && c->own == w[4];
}

static void a_death_at_every_write(void **state)
{
    static const char *const ends[] = { "", "-wal", "-shm", "-journal" };
    struct scene *s = *state;
    bool done = false;
    int deaths = 0;

    cs_queue_close(s->q);
    s->q = NULL;
    fault_vfs_install();
    for (long n = 0; !done; n++) {
        struct cs_queue_counts c;
        struct cs_error err = { 0 };
        int at, rc;

        for (int i = 0; i < 4; i++) {
            char file[120];

            snprintf(file, sizeof file, "%s%s", s->path, ends[i]);
            unlink(file);
        }
        s->q = NULL;
        fault_after = n;
        rc = live(s, &at, &err);
        done = rc == CS_OK && fault_after > 0;
        if (rc != CS_OK) {
            deaths++;
            assert_true(err.msg[0] != '\0');
        }
        cs_queue_close(s->q); /* writes nothing any more */
        fault_after = -1;
        open_queue(s);
        must(cs_queue_counts(s->q, &c, &err), &err);
        /* what was reported as done is there; what failed at the very end may be there all the same */
        if (!is_stage(&c, at) && (at + 1 >= NSTAGES || !is_stage(&c, at + 1)))
            fail_msg("death at write %ld, after %d steps: pending %d, in flight %d, failed %d, done %d", n, at,
                     (int)c.pending, (int)c.in_flight, (int)c.failed, (int)c.done);
        cs_queue_close(s->q);
        s->q = NULL;
    }
    assert_true(deaths > 20);
    sqlite3_vfs_unregister(&fault_vfs);
}

static void memory_that_ran_out(void **state)
{
    struct scene *s = *state;
    bool done = false;
    int failures = 0;

    for (long n = 1; !done; n++) {
        struct cs_queue_set set = set_of(1);
        struct cs_error err = { 0 };
        int rc;

        short_memory_after = n;
        rc = cs_queue_put(s->q, &set, 1, CS_QUEUE_PENDING, NULL, &err);
        done = rc == CS_OK && short_memory_after > 0;
        short_memory_after = -1;
        failures += rc != CS_OK;
        if (rc != CS_OK && rc != CS_ENOMEM)
            fail_msg("no memory after %ld allocations gave: %s (%s)", n, err.msg, cs_code_name(rc));
        must(cs_queue_accepted(s->q, set.batch, &err), &err);
    }
    assert_true(failures > 20);
}

int main(void)
{
#define IN_SCENE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest t[] = {
        IN_SCENE(copies_of_batches),
        IN_SCENE(refused_and_retried),
        IN_SCENE(the_newest_done_ones_are_kept),
        IN_SCENE(reconciled_with_the_database),
        IN_SCENE(nothing_is_readable_without_the_key),
        IN_SCENE(damaged_entries_are_told),
        IN_SCENE(other_files_are_refused),
        IN_SCENE(a_death_at_every_write),
        IN_SCENE(memory_that_ran_out),
    };

    if (!short_memory_install())
        return 1;
    return cmocka_run_group_tests_name("queue", t, NULL, NULL);
}
