/* Devices as their applications see them: random SQL through foreign connections on real files, sealed, extracted,
 * passed on in the order of a log, applied. At rest all merged states and all tables are equal, nothing is left unsent,
 * and conflicts that a person decided about are closed everywhere. exchange_test [SEED [COUNT]]     default: seeds 1 …
 * 60 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "replica/review.h"
#include "scratch.h"

enum { MAX_DEVICES = 4, MAX_BATCHES = 4000 };

static const char *const schemas[] = {
    /* plain, untyped columns */
    "CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, a, b, c DEFAULT 7);",
    /* NOCASE key, composite WITHOUT ROWID, STRICT */
    "CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, a TEXT COLLATE NOCASE, b INTEGER, c REAL);"
    "CREATE TABLE memory_tags(id TEXT NOT NULL, a ANY NOT NULL, b INT, c TEXT, PRIMARY KEY(id, a)) STRICT, WITHOUT "
    "ROWID;",
    /* UNIQUE */
    "CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, a, b UNIQUE, c);",
    /* partial and composite UNIQUE, NOT NULL with default */
    "CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, a NOT NULL DEFAULT 'x', b, c, UNIQUE(b, c));"
    "CREATE UNIQUE INDEX part ON memories(a) WHERE c = 1;",
    /* parent and child */
    "CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, a, b, c);"
    "CREATE TABLE memory_tags(id TEXT PRIMARY KEY NOT NULL, a TEXT REFERENCES memories(id) ON DELETE CASCADE, b, c);",
    /* a tree */
    "CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, a TEXT REFERENCES memories(id) ON DELETE SET NULL, b, c "
    "UNIQUE);",
    /* UNIQUE below a parent, CHECK */
    "CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, a, b, c, CHECK (a IS NULL OR b IS NULL OR a <> b));"
    "CREATE TABLE memory_tags(id TEXT PRIMARY KEY NOT NULL, a TEXT REFERENCES memories(id) ON DELETE CASCADE, b "
    "UNIQUE, c);",
    /* the application's own triggers: a stamp of time, and a log elsewhere */
    "CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, a, b, c);"
    "CREATE TABLE elsewhere(n INTEGER PRIMARY KEY, what);"
    "CREATE TRIGGER stamp AFTER UPDATE OF a ON memories BEGIN UPDATE memories SET c = coalesce(c, 0) + 1 WHERE id = "
    "NEW.id; END;"
    "CREATE TRIGGER oldest AFTER INSERT ON memories WHEN (SELECT count(*) FROM memories) > 6 BEGIN "
    "DELETE FROM memories WHERE id = (SELECT min(id) FROM memories); END;"
    "CREATE TRIGGER note AFTER DELETE ON memories BEGIN INSERT INTO elsewhere(what) VALUES(OLD.id); END;",
};
enum { NSCHEMAS = sizeof schemas / sizeof schemas[0] };

static struct cs_world *world;
static char dir[SCRATCH_LEN];
static uint64_t prng;

struct device {
    cs_replica *r;
    sqlite3 *app;
    struct cs_uuid id;
    char path[128];
    size_t pulled;
};
struct entry {
    int author;
    struct cs_arena arena;
    struct cs_delta delta;
};
static struct device devices[MAX_DEVICES];
static struct entry *log_entries;
static size_t nlog;
static int ndevices;
static unsigned long seed_now;
static uint64_t ndecided, nconflicts; /* in all seeds */
static bool pauses, enforce, decides;

static uint32_t below(uint32_t n)
{
    uint64_t z = (prng += 0x9e3779b97f4a7c15u);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32) % n;
}

static void ok(int rc, const struct cs_error *err, const char *what)
{
    if (rc != CS_OK) {
        fprintf(stderr, "seed %lu: %s: %s (%s)\n", seed_now, what, err->msg, cs_code_name(rc));
        fail();
    }
}

static void start_device(int i, const char *schema)
{
    struct device *d = &devices[i];
    struct cs_replica_options o = { .path = d->path, .take_lease = true };
    struct cs_replica_identity id = { .incarnation = 1 };
    struct cs_error err;

    snprintf(d->path, sizeof d->path, "%s/%d.db", dir, i);
    unlink(d->path);
    assert_int_equal(sqlite3_open(d->path, &d->app), SQLITE_OK);
    assert_int_equal(sqlite3_exec(d->app,
                                  enforce ? "PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON;"
                                          : "PRAGMA journal_mode=WAL; PRAGMA foreign_keys=OFF;",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_exec(d->app, schema, NULL, NULL, NULL), SQLITE_OK);
    ok(cs_replica_open(&d->r, world, &o, &err), &err, "open");
    memset(id.workspace.b, 9, 16);
    memset(id.device.b, (i * 77 + 1) & 255, 16);
    d->id = id.device;
    ok(cs_replica_set_identity(d->r, &id, &err), &err, "identity");
    ok(cs_replica_track_defaults(d->r, NULL, &err), &err, "track");
    d->pulled = 0;
}

static void stop_device(int i)
{
    struct device *d = &devices[i];
    char path[140];

    cs_replica_close(d->r);
    sqlite3_close(d->app);
    for (int k = 0; k < 3; k++) {
        snprintf(path, sizeof path, "%s%s", d->path, k == 0 ? "" : k == 1 ? "-wal" : "-shm");
        unlink(path);
    }
}

static const char *value(void)
{
    static const char *const v[] = { "NULL",
                                     "0",
                                     "1",
                                     "2",
                                     "1.0",
                                     "-0.5",
                                     "'a'",
                                     "'A'",
                                     "'b'",
                                     "''",
                                     "x'61'",
                                     "x'00'",
                                     "CAST(x'ff' AS TEXT)",
                                     "9223372036854775807",
                                     "'1'" };

    return v[below(sizeof v / sizeof v[0])];
}
static const char *key(void)
{
    static const char *const k[] = { "'a'", "'A'", "'b'", "'B'", "'c'", "'d'", "'e'", "'f'" };

    return k[below(8)];
}
static const char *column(void)
{
    static const char *const c[] = { "a", "b", "c" };

    return c[below(3)];
}

/* The highest stamp that the hub accepted: re-sealing begins above it. */
static int64_t highest(void)
{
    int64_t top = 1;

    for (size_t i = 0; i < nlog; i++)
        for (uint32_t k = 0; k < log_entries[i].delta.nops; k++)
            if (log_entries[i].delta.ops[k].stamp > top)
                top = log_entries[i].delta.ops[k].stamp;
    return top;
}

/* One statement of the application; many fail on a constraint, as they may. */
static void statement(struct device *d, const char *table)
{
    char sql[400];

    switch (below(10)) {
    case 0:
    case 1:
    case 2:
        snprintf(sql, sizeof sql, "INSERT INTO %s(id, a, b, c) VALUES(%s, %s, %s, %s)", table, key(),
                 below(3) ? value() : key(), value(), value());
        break;
    case 3:
        snprintf(sql, sizeof sql, "INSERT OR REPLACE INTO %s(id, a, b, c) VALUES(%s, %s, %s, %s)", table, key(),
                 below(3) ? value() : key(), value(), value());
        break;
    case 4:
        snprintf(sql, sizeof sql,
                 "INSERT INTO %s(id, a, b) VALUES(%s, %s, %s) ON CONFLICT DO UPDATE SET b = excluded.b", table, key(),
                 key(), value());
        break;
    case 5:
    case 6:
        snprintf(sql, sizeof sql, "UPDATE %s%s SET %s = %s WHERE id = %s", below(4) ? "" : "OR REPLACE ", table,
                 column(), below(3) ? value() : key(), key());
        break;
    case 7:
        snprintf(sql, sizeof sql, "DELETE FROM %s WHERE id = %s", table, key());
        break;
    case 8:
        snprintf(sql, sizeof sql, "UPDATE %s%s SET id = %s WHERE id = %s", below(3) ? "" : "OR REPLACE ", table, key(),
                 key());
        break;
    default: /* a swap of keys, by way of a third */
        snprintf(sql, sizeof sql,
                 "UPDATE %s SET id = 'tmp' WHERE id = 'a'; UPDATE %s SET id = 'a' WHERE id = 'b'; UPDATE %s SET id = "
                 "'b' WHERE id = 'tmp'",
                 table, table, table);
    }
    sqlite3_exec(d->app, sql, NULL, NULL, NULL);
}

static void edit(struct device *d, const char *schema)
{
    int n = 1 + (int)below(4);

    sqlite3_exec(d->app, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    for (int i = 0; i < n; i++) {
        bool savepoint = below(5) == 0;

        if (savepoint)
            sqlite3_exec(d->app, "SAVEPOINT s", NULL, NULL, NULL);
        statement(d, strstr(schema, "memory_tags") != NULL && below(2) ? "memory_tags" : "memories");
        if (savepoint)
            sqlite3_exec(d->app, below(2) ? "ROLLBACK TO s" : "RELEASE s", NULL, NULL, NULL);
    }
    sqlite3_exec(d->app, below(8) ? "COMMIT" : "ROLLBACK", NULL, NULL, NULL);
}

static void push(int i)
{
    struct device *d = &devices[i];
    struct cs_error err;
    bool more = true;

    while (more)
        ok(cs_replica_seal(d->r, 1 + below(5), &more, NULL, &err), &err, "seal");
    for (;;) {
        struct entry *e = &log_entries[nlog];
        uint64_t number;
        uint8_t hash[32];

        memset(e, 0, sizeof *e);
        assert_true(nlog < MAX_BATCHES);
        ok(cs_replica_extract(d->r, &e->arena, 1 + below(4), 1 << 20, &e->delta, &err), &err, "extract");
        if (e->delta.nops == 0) {
            cs_arena_free(&e->arena);
            break;
        }
        cs_replica_chain(d->r, &number, hash);
        memset(hash, (int)number, sizeof hash);
        ok(cs_replica_bind(d->r, number + 1, hash, cs_slice("x", 1), &err), &err, "bind");
        if (below(6) == 0 && getenv("NOUNBIND") == NULL) { /* refused: taken back, and extracted again later */
            ok(cs_replica_unbind(d->r, &e->delta, 1, &err), &err, "unbind");
            if (below(2) && getenv("NORESEAL") == NULL)
                ok(cs_replica_reseal(d->r, highest(), NULL, &err), &err, "reseal");
            cs_arena_free(&e->arena);
            continue;
        }
        ok(cs_replica_bound_accepted(d->r, number + 1, nlog + 1, 0, &err), &err, "accepted");
        e->author = i;
        nlog++;
    }
}

static void pull(int i, size_t upto)
{
    struct device *d = &devices[i];
    struct cs_apply_result res;
    struct cs_error err;

    for (; d->pulled < upto; d->pulled++) {
        struct entry *e = &log_entries[d->pulled];
        struct cs_pull_mark mark = { .log_id = 1, .number = d->pulled + 1, .highest_epoch = 1 };

        mark.device = devices[e->author].id;
        ok(cs_replica_apply(d->r, e->author == i ? NULL : &e->delta, &mark, &res, &err), &err, "apply");
    }
}

static void dump_table(sqlite3 *db, const char *table, struct cs_buf *out)
{
    char sql[200];
    sqlite3_stmt *s;

    snprintf(sql, sizeof sql,
             "SELECT quote(id), typeof(a), quote(a), typeof(b), quote(b), typeof(c), quote(c) FROM %s ORDER BY id, a",
             table);
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
        return;
    while (sqlite3_step(s) == SQLITE_ROW)
        for (int k = 0; k < 7; k++)
            cs_buf_printf(out, "%s%c", sqlite3_column_text(s, k), k == 6 ? '\n' : ' ');
    sqlite3_finalize(s);
}

/* The whole log, readable, for whoever looks into a failing seed. */
static void print_log(void)
{
    for (size_t i = 0; i < nlog; i++)
        for (uint32_t k = 0; k < log_entries[i].delta.nops; k++) {
            const struct cs_delta *d = &log_entries[i].delta;
            const struct cs_op *o = &d->ops[k];
            char hex[200];

            cs_hex(hex, o->key.data, o->key.len < 99 ? o->key.len : 99);
            fprintf(stderr, "%3zu device %d %s %.*s %s stamp %lld:", i + 1, log_entries[i].author,
                    o->kind == CS_OP_INSERT   ? "insert"
                    : o->kind == CS_OP_UPDATE ? "update"
                                              : "delete",
                    (int)d->tables[o->table].name.len, (const char *)d->tables[o->table].name.data, hex,
                    (long long)o->stamp);
            for (uint32_t c = 0; c < o->ncells; c++)
                fprintf(stderr, " %.*s", (int)d->tables[o->table].columns[o->cells[c].col].len,
                        (const char *)d->tables[o->table].columns[o->cells[c].col].data);
            fprintf(stderr, "\n");
        }
}

static void print_dump(struct cs_slice dump)
{
    struct cs_reader r = cs_reader(dump);
    char hex[200];

    cs_read_bytes(&r, 25);
    while (cs_reader_left(&r) > 0) {
        struct cs_slice t = cs_read_bytes(&r, cs_read_u32(&r)), k = cs_read_bytes(&r, cs_read_u32(&r));
        uint64_t ins = cs_read_u64(&r);
        uint32_t n;

        cs_hex(hex, k.data, k.len < 99 ? k.len : 99);
        cs_read_bytes(&r, 16);
        fprintf(stderr, "  %.*s %s ins %llu del ", (int)t.len, (const char *)t.data, hex, (unsigned long long)ins);
        fprintf(stderr, "%llu:", (unsigned long long)cs_read_u64(&r));
        cs_read_bytes(&r, 16);
        for (n = cs_read_u32(&r); n > 0; n--) {
            struct cs_slice c = cs_read_bytes(&r, cs_read_u32(&r)), v;
            uint64_t stamp = cs_read_u64(&r);

            cs_read_bytes(&r, 16);
            v = cs_read_bytes(&r, cs_read_u32(&r));
            cs_hex(hex, v.data, v.len < 99 ? v.len : 99);
            fprintf(stderr, " %.*s@%llu=%s", (int)c.len, (const char *)c.data, (unsigned long long)stamp, hex);
        }
        fprintf(stderr, "\n");
    }
}

static void compare_all(void)
{
    struct cs_buf want[2] = { { 0 }, { 0 } }, got[2] = { { 0 }, { 0 } };
    struct cs_error err;

    for (int i = 0; i < ndevices; i++) {
        struct cs_buf *b = i == 0 ? want : got;
        struct cs_replica_counts n;

        cs_buf_reset(&got[0]);
        cs_buf_reset(&got[1]);
        ok(cs_replica_dump(devices[i].r, &b[0], &err), &err, "dump");
        dump_table(devices[i].app, "memories", &b[1]);
        dump_table(devices[i].app, "memory_tags", &b[1]);
        ok(cs_replica_counts(devices[i].r, &n, &err), &err, "counts");
        if (n.unsealed != 0 || n.unsent != 0 || n.bound != 0 ||
            (i > 0 && (!cs_slice_eq(cs_buf_slice(&want[0]), cs_buf_slice(&got[0])) ||
                       !cs_slice_eq(cs_buf_slice(&want[1]), cs_buf_slice(&got[1]))))) {
            fprintf(stderr, "seed %lu: device %d differs (merged state %s)\n--- 0\n%.*s--- %d\n%.*s", seed_now, i,
                    cs_slice_eq(cs_buf_slice(&want[0]), cs_buf_slice(&got[0])) ? "equal" : "differs", (int)want[1].len,
                    (const char *)want[1].data, i, (int)got[1].len, (const char *)got[1].data);
            print_log();
            print_dump(cs_buf_slice(&want[0]));
            fprintf(stderr, "  against\n");
            print_dump(cs_buf_slice(&got[0]));
            fail();
        }
    }
    for (int k = 0; k < 2; k++) {
        cs_buf_free(&want[k]);
        cs_buf_free(&got[k]);
    }
}

/* What is wrong with a row is one conflict, of one id, wherever it is seen. */
static void compare_conflicts(void)
{
    static const char sql[] =
        "SELECT group_concat(why || ' ' || hex(id)) FROM (SELECT why, id FROM sync_conflicts WHERE "
        "why IN ('unique', 'check') AND state IN ('auto', 'manual') ORDER BY why, id)";
    char want[4096] = "";

    for (int i = 0; i < ndevices; i++) {
        sqlite3_stmt *s;
        char got[4096];

        assert_int_equal(sqlite3_prepare_v2(devices[i].app, sql, -1, &s, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_step(s), SQLITE_ROW);
        snprintf(got, sizeof got, "%s", sqlite3_column_bytes(s, 0) > 0 ? (const char *)sqlite3_column_text(s, 0) : "");
        sqlite3_finalize(s);
        if (i == 0)
            memcpy(want, got, sizeof want);
        else if (strcmp(want, got) != 0)
            fail_msg("seed %lu: device 0 has the conflicts %s\ndevice %d has %s", seed_now, want, i, got);
        nconflicts += got[0] != 0;
    }
}

/* ---- people decide about conflicts ---- */

struct chosen {
    char id[CS_REVIEW_ID];
    uint32_t n;
};

static int choose(void *arg, const struct cs_review_conflict *c)
{
    struct chosen *x = arg;

    if (below(++x->n) == 0)
        snprintf(x->id, sizeof x->id, "%s", c->id);
    return 0;
}

/* One conflict that is open there, or a strategy. The table may not take the value, as any edit. */
static void decide(int i)
{
    static const char *const of[] = { NULL, "a", "b" };
    struct device *d = &devices[i];
    struct cs_replica_options o = { .path = d->path };
    struct cs_value given = { .type = CS_TEXT, .u.bytes = cs_slice_str(below(2) ? "decided" : "b") };
    struct chosen x = { .n = 0 };
    struct cs_error err;
    int rc;

    if (below(5) == 0)
        ok(cs_replica_set_strategy(d->r, &o, "memories", of[below(3)], below(2), &err), &err, "strategy");
    ok(cs_review_conflicts(d->r, false, choose, &x, &err), &err, "conflicts");
    if (x.n == 0)
        return;
    rc = cs_review_resolve(d->r, &o, x.id, (enum cs_review_choice)below(3), &given, &err);
    if (rc != CS_EINVAL)
        ok(rc, &err, "resolve");
}

/* What is resolved anywhere is open nowhere, once all have heard of it. */
static void check_decided(void)
{
    static const char sql[] = "SELECT count(*), (SELECT count(*) FROM sync_shared WHERE what = 'resolved') FROM "
                              "sync_conflicts WHERE state IN ('auto', 'manual') AND id IN (SELECT name FROM "
                              "sync_shared WHERE what = 'resolved')";
    int64_t all = -1;

    for (int i = 0; i < ndevices; i++) {
        sqlite3_stmt *s;
        int64_t resolved = 0;

        if (sqlite3_prepare_v2(devices[i].app, sql, -1, &s, NULL) == SQLITE_OK) { /* nobody decided: no such table */
            assert_int_equal(sqlite3_step(s), SQLITE_ROW);
            if (sqlite3_column_int64(s, 0) != 0)
                fail_msg("seed %lu: %lld conflicts are resolved and open on device %d", seed_now,
                         (long long)sqlite3_column_int64(s, 0), i);
            resolved = sqlite3_column_int64(s, 1);
        }
        sqlite3_finalize(s);
        if (all >= 0 && resolved != all)
            fail_msg("seed %lu: device %d knows of %lld resolutions, another of %lld", seed_now, i, (long long)resolved,
                     (long long)all);
        all = resolved;
    }
    ndecided += (uint64_t)all;
}

/* Edits that no trigger tells of, between them those of others. */
static void edit_in_a_pause(int i, const char *schema)
{
    struct device *d = &devices[i];
    struct cs_error err;
    bool more;

    for (int n = 1 + (below(4) == 0); n > 0; n--) {
        ok(cs_replica_pause(d->r, NULL, &err), &err, "pause");
        edit(d, schema);
        if (below(2))
            pull(i, d->pulled + below((uint32_t)(nlog - d->pulled) + 1));
        edit(d, schema);
        ok(cs_replica_resume(d->r, NULL, &err), &err, "resume");
        if (below(2))
            edit(d, schema);
        if (below(3) == 0)
            ok(cs_replica_seal(d->r, 1 + below(4), &more, NULL, &err), &err, "seal");
    }
}

static void run(unsigned long seed)
{
    const char *schema;
    int rounds;

    seed_now = seed;
    prng = seed * 1000003;
    schema = schemas[seed % NSCHEMAS];
    ndevices = 2 + (int)below(MAX_DEVICES - 1);
    rounds = 5 + (int)below(30);
    nlog = 0;
    for (int i = 0; i < ndevices; i++)
        start_device(i, schema);
    for (int k = 0; k < rounds; k++) {
        int i = (int)below((uint32_t)ndevices);

        if (pauses && below(6) == 0)
            edit_in_a_pause(i, schema);
        else if (below(3))
            edit(&devices[i], schema);
        if (decides && below(2))
            decide(i);
        if (below(3) == 0)
            push(i);
        if (below(3) == 0)
            pull(i, devices[i].pulled + below((uint32_t)(nlog - devices[i].pulled) + 1));
    }
    for (int turn = 0; turn < 3; turn++)
        for (int i = 0; i < ndevices; i++) {
            push(i);
            pull(i, nlog);
        }
    compare_all();
    compare_conflicts();
    check_decided();
    for (int i = 0; i < ndevices; i++)
        stop_device(i);
    for (size_t i = 0; i < nlog; i++)
        cs_arena_free(&log_entries[i].arena);
}

static unsigned long first = 1, count = 60;

static void devices_agree(void **state)
{
    const char *how = *state;

    enforce = strchr(how, 'f') != NULL;
    pauses = strchr(how, 'p') != NULL;
    decides = strchr(how, 'd') != NULL;
    ndecided = nconflicts = 0;
    for (unsigned long s = first; s < first + count; s++)
        run(s);
    if (!decides && count >= 60)
        assert_true(nconflicts > 0);
    if (decides && count >= 60)
        assert_true(ndecided > count / 2);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        { "foreign keys enforced", devices_agree, NULL, NULL, (void *)"f" },
        { "foreign keys not enforced", devices_agree, NULL, NULL, (void *)"" },
        { "foreign keys enforced, pauses", devices_agree, NULL, NULL, (void *)"fp" },
        { "foreign keys not enforced, pauses", devices_agree, NULL, NULL, (void *)"p" },
        { "foreign keys enforced, decisions", devices_agree, NULL, NULL, (void *)"fd" },
        { "foreign keys not enforced, pauses, decisions", devices_agree, NULL, NULL, (void *)"pd" },
    };
    int rc;

    if (argc > 1)
        first = strtoul(argv[1], NULL, 10);
    count = argc > 2 ? strtoul(argv[2], NULL, 10) : argc > 1 ? 1 : 60;
    world = cs_world_real();
    log_entries = calloc(MAX_BATCHES + 1, sizeof *log_entries);
    if (log_entries == NULL || scratch_folder(dir, "exchange") == NULL)
        return 1;
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    free(log_entries);
    return rc;
}
