/* Opening a database, whose it is, who works on it, and what is remembered over a restart. A file that cannot be used
 * is left as it was, to the byte. */
#include <linux/capability.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "unit/replica/capture_fixture.h"

#define KA "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b);"

static void read_file(const char *path, struct cs_buf *out)
{
    FILE *f = fopen(path, "rb");
    int c;

    cs_buf_reset(out);
    if (f == NULL)
        return;
    while ((c = getc(f)) != EOF)
        cs_buf_put_u8(out, (uint8_t)c);
    fclose(f);
}

static int try_open(const char *path, bool lease, bool read_only, cs_replica **out, struct cs_error *err)
{
    struct cs_replica_options o = { .path = path, .take_lease = lease, .read_only = read_only, .busy_timeout_ms = 50 };

    return cs_replica_open(out, cs_world_real(), &o, err);
}

/* ---- files that are refused ---- */

static const struct refusal {
    const char *name;
    const char *path;  /* or NULL: app.db, made by: */
    const char *sql;   /* through SQLite */
    const char *bytes; /* or these */
    const char *says;
    int code;
    bool read_only, locked;
} refusals[] = {
    { .name = "missing", .path = "/nonexistent/app.db", .code = CS_ENOTFOUND, .says = "does not exist" },
    { .name = "in memory", .path = ":memory:", .code = CS_EINVAL, .says = "in-memory" },
    { .name = "temporary", .path = "", .code = CS_EINVAL, .says = "temporary" },
    { .name = "a URI", .path = "file::memory:", .code = CS_EINVAL, .says = "in-memory" },
    { .name = "a folder", .path = "/", .code = CS_EINVAL, .says = "folder" },
    { .name = "another kind of file",
      .bytes = "To whom it may concern: this is a letter, not a database, however long it may become before its end.",
      .code = CS_ECORRUPT,
      .says = "not a database" },
    { .name = "of a newer format",
      .sql = "CREATE TABLE sync_meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID; INSERT INTO sync_meta "
             "VALUES('format', 99);",
      .code = CS_EVERSION,
      .says = "newer version" },
    { .name = "with a table sync_meta of someone else's",
      .sql = "CREATE TABLE sync_meta(name, value); INSERT INTO sync_meta VALUES('a', 'b');",
      .code = CS_ECORRUPT,
      .says = "not ours" },
    { .name = "with a table sync_rows of someone else's",
      .sql = "CREATE TABLE sync_rows(a);",
      .code = CS_EDB,
      .says = "already exists" },
    { .name = "locked", .sql = KA, .locked = true, .code = CS_EBUSY, .says = "locked" },
    { .name = "only to look at, and never set up",
      .sql = KA,
      .read_only = true,
      .code = CS_ENOTFOUND,
      .says = "never been set up" },
};
enum { NREFUSALS = sizeof refusals / sizeof refusals[0] };

static void is_refused(void **state)
{
    const struct refusal *k = *state;
    struct cs_buf before = { 0 }, after = { 0 };
    struct cs_error err = { 0 };
    struct capture c;
    cs_replica *r;

    open_database(&c, false, k->sql != NULL ? k->sql : "SELECT 1");
    if (k->bytes != NULL) {
        FILE *f = fopen(c.path, "wb");

        assert_non_null(f);
        fputs(k->bytes, f);
        fclose(f);
    }
    if (k->locked)
        run_here(&c, "BEGIN EXCLUSIVE");
    read_file(c.path, &before);
    assert_int_equal(try_open(k->path != NULL ? k->path : c.path, true, k->read_only, &r, &err), k->code);
    assert_null(r);
    if (strstr(err.msg, k->says) == NULL)
        fail_msg("said: %s", err.msg);
    read_file(c.path, &after);
    assert_true(cs_slice_eq(cs_buf_slice(&before), cs_buf_slice(&after)));
    if (k->locked)
        run_here(&c, "ROLLBACK");
    cs_buf_free(&before);
    cs_buf_free(&after);
    close_all(&c);
}

/* As a user who may read the file and not write it. */
/* Root writes to read-only files: without this power it does not. */
static bool give_up_override(void)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[2];

    if (syscall(SYS_capget, &head, data) != 0)
        return false;
    data[0].effective &= ~(1u << CAP_DAC_OVERRIDE);
    data[0].permitted &= ~(1u << CAP_DAC_OVERRIDE);
    return syscall(SYS_capset, &head, data) == 0;
}

/* Opening it fails so, in a process that may read the file and not write it. */
static void is_refused_without_writing(struct capture *c, bool read_only, const char *says)
{
    int status;
    pid_t pid;

    sqlite3_close(c->app);
    c->app = NULL;
    assert_int_equal(chmod(c->path, 0444), 0);
    fflush(NULL);
    if ((pid = fork()) == 0) {
        struct cs_error err = { 0 };
        cs_replica *r;

        if (geteuid() == 0 && !give_up_override())
            _exit(2);
        _exit(try_open(c->path, !read_only, read_only, &r, &err) == CS_EIO && strstr(err.msg, says) != NULL ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void a_read_only_file(void **state)
{
    struct capture c;

    (void)state;
    open_database(&c, false, KA);
    is_refused_without_writing(&c, false, "read-only");
    close_all(&c);
}

/* A process of the application dies in a transaction, a part of which is in the file. */
static void die_in_a_transaction(struct capture *c)
{
    char name[160];
    pid_t pid;

    snprintf(name, sizeof name, "%s-journal", c->path);
    run_here(c, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) "
                "INSERT INTO t SELECT i, hex(randomblob(50)), 'good' FROM n");
    fflush(NULL);
    if ((pid = fork()) == 0) {
        sqlite3 *db;

        if (sqlite3_open(c->path, &db) != SQLITE_OK ||
            sqlite3_exec(db, "PRAGMA cache_size=1; BEGIN; UPDATE t SET b = 'bad'", NULL, NULL, NULL) != SQLITE_OK)
            _exit(1);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(access(name, F_OK), 0);
}

static void a_reader_after_a_death(void **state)
{
    struct capture c;
    struct cs_error err = { 0 };
    cs_replica *r;

    (void)state;
    open_database(&c, false, KA);
    die_in_a_transaction(&c);
    must(try_open(c.path, false, true, &r, &err) == CS_ENOTFOUND ? CS_OK : err.code, &err, "reading");
    open_replica(&c);
    track(&c, "t");
    cs_replica_close(c.r);
    run_here(&c, "DELETE FROM t");
    die_in_a_transaction(&c);
    must(try_open(c.path, false, true, &c.r, &err), &err, "reading");
    assert_string_equal(value_of(&c, "SELECT count(*) FROM t WHERE b = 'good'"), "5000");
    close_all(&c);
}

static void a_reader_after_a_death_who_may_not_write(void **state)
{
    struct capture c;

    (void)state;
    open_database(&c, false, KA);
    die_in_a_transaction(&c);
    is_refused_without_writing(&c, true, "by a process that died");
    close_all(&c);
}

/* ---- whose it is ---- */

static void an_identity_is_for_good(void **state)
{
    struct cs_replica_identity id, mine = { .incarnation = 1 };
    struct cs_error err = { 0 };
    struct capture c;

    (void)state;
    open_database(&c, false, KA);
    must(try_open(c.path, false, false, &c.r, &err), &err, "open");
    cs_replica_identity(c.r, &id);
    assert_true(cs_uuid_is_zero(&id.workspace) && cs_uuid_is_zero(&id.device) && id.incarnation == 0);
    track(&c, "t"); /* before anyone knows who we are */
    assert_int_equal(cs_replica_seal(c.r, 10, &(bool){ false }, NULL, &err), CS_EINVAL);
    cs_replica_close(c.r);
    open_replica(&c);
    cs_replica_identity(c.r, &id);
    assert_int_equal(id.device.b[0], 7);
    mine = id;
    mine.incarnation = 2;
    must(cs_replica_set_identity(c.r, &mine, &err), &err, "a fresh incarnation");
    mine.device.b[3]++;
    assert_int_equal(cs_replica_set_identity(c.r, &mine, &err), CS_EEXIST);
    mine = id;
    mine.workspace.b[3]++;
    assert_int_equal(cs_replica_set_identity(c.r, &mine, &err), CS_EEXIST);
    cs_replica_close(c.r);
    must(try_open(c.path, false, true, &c.r, &err), &err, "open to look");
    cs_replica_identity(c.r, &id);
    assert_int_equal(id.incarnation, 2);
    close_all(&c);
}

/* ---- the lease ---- */

static void one_engine_in_a_process(void **state)
{
    struct cs_error err = { 0 };
    struct capture c;
    cs_replica *r;

    (void)state;
    open_database(&c, false, KA);
    must(try_open(c.path, true, false, &c.r, &err), &err, "open");
    assert_int_equal(try_open(c.path, true, false, &r, &err), CS_EBUSY);
    must(try_open(c.path, false, false, &r, &err), &err, "a command beside it");
    cs_replica_close(r);
    cs_replica_close(c.r);
    must(try_open(c.path, true, false, &c.r, &err), &err, "open again");
    track(&c, "t");
    must(cs_replica_untrack(c.r, "t", &err), &err, "untrack");
    assert_int_equal(try_open(c.path, true, false, &r, &err), CS_EBUSY);
    cs_replica_close(c.r);
    must(try_open(c.path, true, false, &c.r, &err), &err, "open again");
    close_all(&c);
}

static void a_lease_ends_with_its_holder(void **state)
{
    struct cs_error err = { 0 };
    struct capture c;
    char pid_text[40], byte;
    int to_us[2], status;
    pid_t pid;

    (void)state;
    open_database(&c, false, KA);
    sqlite3_close(c.app);
    c.app = NULL;
    assert_int_equal(pipe(to_us), 0);
    fflush(NULL);
    if ((pid = fork()) == 0) {
        if (try_open(c.path, true, false, &c.r, &err) != CS_OK || write(to_us[1], "x", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    assert_int_equal(read(to_us[0], &byte, 1), 1);
    assert_int_equal(try_open(c.path, true, false, &c.r, &err), CS_EBUSY);
    snprintf(pid_text, sizeof pid_text, "process %d", (int)pid);
    if (strstr(err.msg, pid_text) == NULL)
        fail_msg("said: %s", err.msg);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    must(try_open(c.path, true, false, &c.r, &err), &err, "open after its death");
    close(to_us[0]);
    close(to_us[1]);
    close_all(&c);
}

/* ---- nothing tracked any more ---- */

static void untracked_and_tracked_again(void **state)
{
    struct cs_replica_identity id;
    struct cs_replica_counts n;
    struct cs_table_info *tables;
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    struct capture c;
    bool more, unsealed, unsent;
    size_t ntables;
    int64_t hlc;

    (void)state;
    open_database(&c, false, KA "INSERT INTO t VALUES('k', 1, 2);");
    open_replica(&c);
    track(&c, "t");
    send_silently(&c);
    must(cs_replica_counts(c.r, &n, &err), &err, "counts");
    hlc = n.hlc;
    must(cs_replica_untrack(c.r, "t", &err), &err, "untrack");
    /* all that asks is answered, all that would write says why not */
    must(cs_replica_pending(c.r, &unsealed, &unsent, &err), &err, "pending");
    assert_false(unsealed || unsent);
    must(cs_replica_seal(c.r, 10, &more, NULL, &err), &err, "seal");
    must(cs_replica_extract(c.r, &a, 10, 1000, &d, &err), &err, "extract");
    assert_int_equal(d.nops, 0);
    must(cs_replica_counts(c.r, &n, &err), &err, "counts");
    assert_int_equal(n.tracked, 0);
    must(cs_replica_tables(c.r, &a, &tables, &ntables, &err), &err, "tables");
    assert_int_equal(ntables, 1);
    must(cs_replica_check_schema(c.r, &more, &err), &err, "check_schema");
    assert_int_equal(
        cs_replica_apply(c.r, NULL, &(struct cs_pull_mark){ .number = 1 }, &(struct cs_apply_result){ 0 }, &err),
        CS_ENOTFOUND);
    assert_int_equal(cs_replica_bind(c.r, 1, (uint8_t[32]){ 0 }, cs_slice("x", 1), &err), CS_ENOTFOUND);
    assert_int_equal(cs_replica_pause(c.r, "t", &err), CS_ENOTFOUND);
    assert_int_equal(cs_replica_track(c.r, "nothing", NULL, &err), CS_ENOTFOUND);
    track(&c, "t");
    cs_replica_identity(c.r, &id);
    assert_int_equal(id.device.b[0], 7);
    must(cs_replica_counts(c.r, &n, &err), &err, "counts");
    assert_true(n.hlc >= hlc);
    c.number = 0;
    cs_state_free(&c.model);
    memset(&c.model, 0, sizeof c.model);
    sends(&c, "I t 'k' a=1 b=2\n");
    cs_arena_free(&a);
    close_all(&c);
}

/* Another process untracks the last table under a running engine, and tracks it again. */
static void another_process_changes_what_is_tracked(void **state)
{
    struct cs_error err = { 0 };
    struct capture c;
    cs_replica *other;

    (void)state;
    open_database(&c, false, KA "INSERT INTO t VALUES('k', 1, 2);");
    open_replica(&c);
    must(try_open(c.path, false, false, &other, &err), &err, "open");
    must(cs_replica_track(other, "t", NULL, &err), &err, "track");
    sends(&c, "I t 'k' a=1 b=2\n");
    must(cs_replica_untrack(other, "t", &err), &err, "untrack");
    sends(&(struct capture){ .r = c.r, .lossy = true }, "");
    must(cs_replica_track(other, "t", NULL, &err), &err, "track");
    seal_all(&c);
    cs_replica_close(other);
    cs_replica_close(c.r);
    open_replica(&c);
    seal_all(&c);
    close_all(&c);
}

/* ---- what is remembered ---- */

static void positions_survive(void **state)
{
    struct cs_pull_mark mark = {
        .log_id = 5, .number = 9, .device_number = 3, .device_member_seq = 2, .highest_epoch = 4
    };
    struct cs_apply_result result;
    struct cs_buf v = { 0 };
    struct cs_error err = { 0 };
    struct cs_peer peer;
    struct capture c;
    uint8_t hash[32];
    uint64_t number;

    (void)state;
    open_database(&c, false, KA);
    open_replica(&c);
    track(&c, "t");
    memset(mark.log_hash, 1, 32);
    memset(mark.device.b, 2, 16);
    memset(mark.device_hash, 3, 32);
    assert_int_equal(cs_replica_peer(c.r, &mark.device, &peer, &err), CS_ENOTFOUND);
    must(cs_replica_apply(c.r, NULL, &mark, &result, &err), &err, "apply");
    mark.header_refused = true;
    mark.number = 10;
    mark.device_number = 99;
    mark.highest_epoch = 99;
    memset(mark.log_hash, 4, 32);
    must(cs_replica_apply(c.r, NULL, &mark, &result, &err), &err, "apply");
    assert_int_equal(cs_replica_meta_get(c.r, "engine.x", &v, &err), CS_ENOTFOUND);
    must(cs_replica_meta_set(c.r, "engine.x", cs_slice("one", 3), &err), &err, "meta");
    must(cs_replica_meta_set(c.r, "engine.x", cs_slice("two", 3), &err), &err, "meta");
    cs_replica_close(c.r);
    open_replica(&c);
    memset(&mark, 0, sizeof mark);
    cs_replica_pull_mark(c.r, &mark);
    assert_int_equal(mark.log_id, 5);
    assert_int_equal(mark.number, 10);
    assert_int_equal(mark.highest_epoch, 4);
    assert_int_equal(mark.log_hash[31], 4);
    must(cs_replica_log_hash(c.r, 9, hash, &err), &err, "log hash");
    assert_int_equal(hash[31], 1);
    assert_int_equal(cs_replica_log_hash(c.r, 8, hash, &err), CS_ENOTFOUND);
    must(
        cs_replica_peer(c.r, &(struct cs_uuid){ .b = { 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2 } }, &peer, &err),
        &err, "peer");
    assert_int_equal(peer.number, 3);
    assert_int_equal(peer.member_seq, 2);
    assert_int_equal(peer.hash[0], 3);
    must(cs_replica_meta_get(c.r, "engine.x", &v, &err), &err, "meta");
    assert_memory_equal(v.data, "two", 3);
    cs_replica_chain(c.r, &number, hash);
    assert_int_equal(number, 0);
    cs_buf_free(&v);
    close_all(&c);
}

static void bound_batches_survive(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_bound *b;
    struct cs_delta d[3];
    struct capture c;
    uint8_t hash[32] = { 0 };
    uint64_t number;
    size_t n;

    (void)state;
    open_database(&c, false, KA "INSERT INTO t VALUES('k', 1, 2), ('l', 1, 2), ('m', 1, 2);");
    open_replica(&c);
    track(&c, "t");
    seal_all(&c);
    for (uint8_t i = 1; i <= 3; i++) {
        hash[0] = i;
        must(cs_replica_extract(c.r, &a, 1, 1000, &d[i - 1], &err), &err, "extract");
        assert_int_equal(d[i - 1].nops, 1);
        must(cs_replica_bind(c.r, i, hash, cs_slice("abc", i), &err), &err, "bind");
    }
    assert_int_equal(cs_replica_bind(c.r, 3, hash, cs_slice("abc", 3), &err), CS_EDB); /* a number is given once */
    cs_replica_close(c.r);
    open_replica(&c);
    must(cs_replica_bound(c.r, &a, true, &b, &n, &err), &err, "bound");
    assert_int_equal(n, 3);
    for (uint8_t i = 0; i < 3; i++) {
        assert_int_equal(b[i].number, i + 1);
        assert_int_equal(b[i].hash[0], i + 1);
        assert_int_equal(b[i].state, CS_BOUND_WAITING);
        assert_int_equal(b[i].stored.len, i + 1);
    }
    must(cs_replica_bound_accepted(c.r, 1, 17, 0, &err), &err, "accepted");
    must(cs_replica_bound_accepted(c.r, 1, 17, 0, &err), &err, "accepted twice");
    assert_int_equal(cs_replica_bound_accepted(c.r, 8, 17, 0, &err), CS_ENOTFOUND);
    hash[0] = 22;
    must(cs_replica_rebind(c.r, 2, hash, cs_slice("new", 3), &err), &err, "rebind");
    cs_replica_close(c.r);
    open_replica(&c);
    cs_replica_chain(c.r, &number, hash);
    assert_int_equal(number, 1);
    assert_int_equal(hash[0], 1);
    must(cs_replica_bound(c.r, &a, true, &b, &n, &err), &err, "bound");
    assert_int_equal(n, 3);
    assert_int_equal(b[0].state, CS_BOUND_ACCEPTED);
    assert_int_equal(b[0].log_number, 17);
    assert_int_equal(b[0].stored.len, 0);
    assert_int_equal(b[1].hash[0], 22);
    assert_memory_equal(b[1].stored.data, "new", 3);
    /* the pull passes 17: the accepted one goes */
    must(cs_replica_apply(c.r, NULL,
                          &(struct cs_pull_mark){ .log_id = 1,
                                                  .number = 17,
                                                  .device = { { 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7 } } },
                          &(struct cs_apply_result){ 0 }, &err),
         &err, "apply");
    must(cs_replica_bound(c.r, &a, false, &b, &n, &err), &err, "bound");
    assert_int_equal(n, 2);
    must(cs_replica_unbind(c.r, d + 1, 2, &err), &err, "unbind");
    must(cs_replica_bound(c.r, &a, false, &b, &n, &err), &err, "bound");
    assert_int_equal(n, 0);
    assert_int_equal(cs_state_apply(&c.model, &d[0], NULL, NULL), CS_OK);
    c.number = 1;
    sends(&c, "I t 'm' a=1 b=2\nI t 'l' a=1 b=2\n");
    cs_arena_free(&a);
    close_all(&c);
}

static void an_extract_that_is_stale_is_not_bound(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    struct capture c;

    (void)state;
    open_database(&c, false, KA "INSERT INTO t VALUES('k', 1, 2);");
    open_replica(&c);
    track(&c, "t");
    seal_all(&c);
    must(cs_replica_extract(c.r, &a, 10, 1000, &d, &err), &err, "extract");
    app(&c, "UPDATE t SET a = 2");
    seal_all(&c);
    assert_int_equal(cs_replica_bind(c.r, 1, (uint8_t[32]){ 0 }, cs_slice("x", 1), &err), CS_EABORTED);
    cs_arena_free(&a);
    sends(&c, "I t 'k' b=2\nU t 'k' a=2\n");
    close_all(&c);
}

static void commits_of_others_are_noticed(void **state)
{
    struct cs_error err = { 0 };
    struct capture c;
    bool changed, unsealed, unsent;

    open_database(&c, *state != NULL, KA);
    run_here(&c, "PRAGMA journal_mode=WAL");
    open_replica(&c);
    track(&c, "t");
    send_silently(&c);
    must(cs_replica_poll(c.r, &changed, &err), &err, "poll");
    must(cs_replica_poll(c.r, &changed, &err), &err, "poll");
    assert_false(changed);
    app(&c, "INSERT INTO t VALUES('k', 1, 2)");
    must(cs_replica_poll(c.r, &changed, &err), &err, "poll");
    assert_true(changed);
    must(cs_replica_pending(c.r, &unsealed, &unsent, &err), &err, "pending");
    assert_true(unsealed && !unsent);
    seal_all(&c);
    must(cs_replica_poll(c.r, &changed, &err), &err, "poll");
    assert_false(changed);
    must(cs_replica_pending(c.r, &unsealed, &unsent, &err), &err, "pending");
    assert_true(!unsealed && unsent);
    close_all(&c);
}

#define BOTH(f)                                                                                                        \
    cmocka_unit_test(f),                                                                                               \
    {                                                                                                                  \
#f " (shell)", f, NULL, NULL, (void *)"shell"                                                                  \
    }

int main(void)
{
    static const struct CMUnitTest others[] = {
        cmocka_unit_test(a_read_only_file),
        cmocka_unit_test(a_reader_after_a_death),
        cmocka_unit_test(a_reader_after_a_death_who_may_not_write),
        cmocka_unit_test(an_identity_is_for_good),
        cmocka_unit_test(one_engine_in_a_process),
        cmocka_unit_test(a_lease_ends_with_its_holder),
        cmocka_unit_test(untracked_and_tracked_again),
        cmocka_unit_test(another_process_changes_what_is_tracked),
        cmocka_unit_test(positions_survive),
        cmocka_unit_test(bound_batches_survive),
        cmocka_unit_test(an_extract_that_is_stale_is_not_bound),
        BOTH(commits_of_others_are_noticed),
    };
    enum { NOTHERS = sizeof others / sizeof others[0] };
    struct CMUnitTest t[NREFUSALS + NOTHERS];

    for (int i = 0; i < NREFUSALS; i++)
        t[i] = (struct CMUnitTest){ refusals[i].name, is_refused, NULL, NULL, (void *)(uintptr_t)&refusals[i] };
    memcpy(t + NREFUSALS, others, sizeof others);
    return cmocka_run_group_tests_name("open", t, NULL, NULL);
}
