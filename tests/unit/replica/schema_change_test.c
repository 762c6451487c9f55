/* Beginning, pausing and ending to track; schema changes by the application; taking in rows that no trigger told of. */
#include "unit/replica/capture_fixture.h"

#define KA    "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b);"
#define THREE "INSERT INTO t VALUES('k', 1, 'x'), ('l', 2, 'y'), ('m', 3, 'z');"

static void begin(struct capture *c, bool shell, const char *schema)
{
    open_database(c, shell, schema);
    open_replica(c);
    track_all(c);
    send_silently(c);
}

static void reopen(struct capture *c)
{
    cs_replica_close(c->r);
    open_replica(c);
}

static void pause_all(struct capture *c)
{
    struct cs_error err = { 0 };

    must(cs_replica_pause(c->r, NULL, &err), &err, "pause");
}

static void resume_all(struct capture *c)
{
    struct cs_error err = { 0 };

    must(cs_replica_resume(c->r, NULL, &err), &err, "resume");
}

/* ---- what changes, and what is sent then ---- */

static const struct schema_case {
    const char *name, *schema, *sql, *want;
    bool paused; /* pause before, resume after */
    const char *then, *want_then;
} cases[] = {
    { "a new column needs nothing", KA THREE, "ALTER TABLE t ADD COLUMN c DEFAULT 7", "", false,
      "UPDATE t SET c = 8 WHERE id = 'k'", "U t 'k' c=8\n" },
    { "a new column, written before it was noticed", KA THREE,
      "ALTER TABLE t ADD COLUMN c DEFAULT 7; UPDATE t SET c = 9 WHERE id = 'l'; INSERT INTO t VALUES('n', 4, 'w', 5)",
      "I t 'n' a=4 b='w' c=5\nU t 'l' c=9\n", false, "UPDATE t SET c = NULL WHERE id = 'l'", "U t 'l' c=NULL /c\n" },
    { "a column gets another name", KA THREE, "ALTER TABLE t RENAME COLUMN a TO c",
      "U t 'k' c=1\nU t 'l' c=2\nU t 'm' c=3\n", false, "UPDATE t SET c = 8 WHERE id = 'k'", "U t 'k' c=8 /c\n" },
    { "a rebuilt table", KA THREE,
      "BEGIN; CREATE TABLE new(id TEXT PRIMARY KEY NOT NULL, a INTEGER, b TEXT NOT NULL, c); INSERT INTO new SELECT "
      "id, a, "
      "b, NULL FROM t; DROP TABLE t; ALTER TABLE new RENAME TO t; COMMIT",
      "", false, "UPDATE t SET c = 1 WHERE id = 'm'; DELETE FROM t WHERE id = 'k'", "D t 'k' /a /b\nU t 'm' c=1\n" },
    { "a rebuilt table with a row less and a row more", KA THREE,
      "BEGIN; CREATE TABLE new(id TEXT PRIMARY KEY NOT NULL, a, b); INSERT INTO new SELECT id, a, b FROM t WHERE id <> "
      "'l'; "
      "INSERT INTO new VALUES('n', 4, 'w'); DROP TABLE t; ALTER TABLE new RENAME TO t; COMMIT",
      "D t 'l' /a /b\nI t 'n' a=4 b='w'\n", false, "UPDATE t SET a = 9 WHERE id = 'k'", "U t 'k' a=9 /a\n" },
    { "a rebuilt table, the old one renamed first", KA THREE,
      "BEGIN; ALTER TABLE t RENAME TO old; CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b); INSERT INTO t SELECT "
      "id, a, "
      "b FROM old; DROP TABLE old; COMMIT",
      "", false, "UPDATE t SET a = 9 WHERE id = 'k'", "U t 'k' a=9 /a\n" },
    { "a rebuilt table between pause and resume", KA THREE,
      "BEGIN; CREATE TABLE new(id TEXT PRIMARY KEY NOT NULL, a, b); INSERT INTO new SELECT id, a * 10, b FROM t; DROP "
      "TABLE "
      "t; ALTER TABLE new RENAME TO t; UPDATE t SET a = 1 WHERE id = 'k'; COMMIT",
      "U t 'l' a=20 /a\nU t 'm' a=30 /a\n", true, "UPDATE t SET b = 9 WHERE id = 'k'", "U t 'k' b=9 /b\n" },
    { "all kinds of changes between pause and resume", KA THREE,
      "UPDATE t SET b = 'q' WHERE id = 'k'; DELETE FROM t WHERE id = 'l'; INSERT INTO t VALUES('n', 4, 'w')",
      "D t 'l' /a /b\nU t 'k' b='q' /b\nI t 'n' a=4 b='w'\n", true, "DELETE FROM t WHERE id = 'n'", "D t 'n' /a /b\n" },
    { "a row takes another's place between pause and resume",
      "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a INTEGER UNIQUE, b TEXT); INSERT INTO t VALUES('k', 1, 'x'), "
      "('l', "
      "2, 'y');",
      "UPDATE t SET b = 'q' WHERE id = 'k'; REPLACE INTO t VALUES('n', 1, 'w')", "D t 'k' /a /b\nI t 'n' a=1 b='w'\n",
      true, "DELETE FROM t WHERE id = 'n'", "D t 'n' /a /b\n" },
    { "types that change between pause and resume", KA THREE, "UPDATE t SET a = 1.0 WHERE id = 'k'",
      "U t 'k' a=1.0 /a\n", true, "UPDATE t SET a = 1 WHERE id = 'k'", "U t 'k' a=1 /a\n" },
    { "nothing between pause and resume", KA THREE, "SELECT 1", "", true, "DELETE FROM t WHERE id = 'm'",
      "D t 'm' /a /b\n" },
    { "lost triggers", KA THREE,
      "DROP TRIGGER sync_1_ins0; DROP TRIGGER sync_1_del0; INSERT INTO t VALUES('n', 4, 'w'); DELETE FROM t WHERE id = "
      "'k'",
      "D t 'k' /a /b\nI t 'n' a=4 b='w'\n", false, "DELETE FROM t WHERE id = 'n'", "D t 'n' /a /b\n" },
    { "VACUUM, REINDEX, another journal", KA THREE, "VACUUM; REINDEX; PRAGMA journal_mode=WAL; CREATE INDEX i ON t(a)",
      "", false, "UPDATE t SET a = 9 WHERE id = 'k'", "U t 'k' a=9 /a\n" },
    { "a unique index comes later", KA THREE, "CREATE UNIQUE INDEX u ON t(a)", "", false,
      "REPLACE INTO t VALUES('n', 1, 'w')", "D t 'k' /a /b\nI t 'n' a=1 b='w'\n" },
    { "another collation comes later", KA THREE,
      "BEGIN; CREATE TABLE new(id TEXT PRIMARY KEY NOT NULL, a, b TEXT COLLATE NOCASE); INSERT INTO new SELECT * FROM "
      "t; "
      "DROP TABLE t; ALTER TABLE new RENAME TO t; COMMIT",
      "", false, "UPDATE t SET b = 'X' WHERE id = 'k'", "U t 'k' b='X' /b\n" },
    { "more key columns come later", KA THREE "CREATE TABLE u(x TEXT NOT NULL, y TEXT NOT NULL, z, PRIMARY KEY(x, y));",
      "INSERT INTO u VALUES('1', '2', 3); INSERT INTO t VALUES('n', 1, 2)", "I u '1','2' z=3\nI t 'n' a=1 b=2\n", false,
      "DELETE FROM u", "D u '1','2' /z\n" },
};
enum { NCASES = sizeof cases / sizeof cases[0] };

static void change(const struct schema_case *k, bool shell)
{
    struct capture c;

    begin(&c, shell, k->schema);
    c.lossy = strstr(k->sql, "RENAME COLUMN") != NULL; /* the old name's values are gone */
    if (k->paused)
        pause_all(&c);
    app(&c, k->sql);
    if (k->paused)
        resume_all(&c);
    sends(&c, k->want);
    app(&c, k->then);
    sends(&c, k->want_then);
    close_all(&c);
}

static void here(void **state)
{
    change(*state, false);
}

static void in_the_shell(void **state)
{
    change(*state, true);
}

/* What ends with another look at the schema has seen all of it: the column of t has its triggers. */
static void a_column_and_then(int (*what)(cs_replica *r, struct cs_error *err))
{
    struct capture c;
    struct cs_error err = { 0 };

    begin(&c, false, KA THREE "CREATE TABLE v(id TEXT PRIMARY KEY NOT NULL);");
    seal_all(&c);
    app(&c, "ALTER TABLE t ADD COLUMN c; CREATE TABLE u(id TEXT PRIMARY KEY NOT NULL)");
    must(what(c.r, &err), &err, "what looks at the schema again");
    app(&c, "UPDATE t SET c = 9 WHERE id = 'k'");
    sends(&c, "U t 'k' c=9\n");
    close_all(&c);
}

static int track_u(cs_replica *r, struct cs_error *err)
{
    return cs_replica_track(r, "u", NULL, err);
}

static int untrack_v(cs_replica *r, struct cs_error *err)
{
    return cs_replica_untrack(r, "v", err);
}

static int pause_v(cs_replica *r, struct cs_error *err)
{
    return cs_replica_pause(r, "v", err);
}

static int pause_and_resume_v(cs_replica *r, struct cs_error *err)
{
    int rc = pause_v(r, err);

    return rc == CS_OK ? cs_replica_resume(r, "v", err) : rc;
}

static void a_column_before_another_table(void **state)
{
    (void)state;
    a_column_and_then(track_u);
    a_column_and_then(untrack_v);
    a_column_and_then(pause_v);
    a_column_and_then(pause_and_resume_v);
}

/* The values are gone from this file, and only from here. */
static void a_dropped_column(void **state)
{
    struct capture c;
    struct cs_buf b;
    struct cs_error err = { 0 };
    char *msg = NULL;

    (void)state;
    begin(&c, false, KA THREE);
    app(&c, "UPDATE t SET a = 5, b = 5 WHERE id = 'l'");
    seal_all(&c);
    assert_int_not_equal(sqlite3_exec(c.app, "ALTER TABLE t DROP COLUMN b", NULL, NULL, &msg), SQLITE_OK);
    sqlite3_free(msg);
    pause_all(&c);
    run_here(&c, "ALTER TABLE t DROP COLUMN b; UPDATE t SET a = 9 WHERE id = 'k'");
    resume_all(&c);
    /* what was unsent of the dropped column has no value any more */
    seal_all(&c);
    for (int i = 0; i < 2; i++) {
        struct cs_arena a = { 0 };
        struct cs_delta d;

        b = (struct cs_buf){ 0 };
        must(cs_replica_extract(c.r, &a, 50, 1 << 20, &d, &err), &err, "extract");
        for (uint32_t n = 0; n < d.nops; n++)
            put_op(&b, &d, &d.ops[n]);
        cs_buf_put_u8(&b, 0);
        assert_string_equal((const char *)b.data, i == 0 ? "U t 'l' a=5 /a\nU t 'k' a=9 /a\n" : "");
        if (d.nops > 0)
            bind_and_accept(&c);
        cs_arena_free(&a);
        cs_buf_free(&b);
    }
    must(cs_replica_dump(c.r, &b, &err), &err, "dump");
    cs_buf_free(&b);
    app(&c, "DELETE FROM t WHERE id = 'k'");
    seal_all(&c);
    close_all(&c);
}

/* The table goes on under its new name; the old one is not deleted anywhere. */
static void a_renamed_table(void **state)
{
    struct capture c;
    struct cs_buf b = { 0 };

    begin(&c, *state != NULL, KA THREE);
    app(&c, "ALTER TABLE t RENAME TO u; INSERT INTO u VALUES('n', 4, 'w')");
    seal_all(&c);
    assert_string_equal(value_of(&c,
                                 "SELECT group_concat(name) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = "
                                 "'t'"),
                        "NULL");
    app(&c, "UPDATE u SET a = 9 WHERE id = 'k'");
    seal_all(&c);
    assert_string_equal(value_of(&c, "SELECT state FROM sync_tables WHERE name = 'u'"), "1");
    assert_string_equal(value_of(&c,
                                 "SELECT count(*) FROM sync_rows WHERE tbl = (SELECT id FROM sync_tables WHERE name = "
                                 "'u')"),
                        "4");
    cs_buf_free(&b);
    close_all(&c);
}

/* Dropping a table is no deletion of its rows elsewhere, and stops nothing. */
static void a_dropped_table(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    struct cs_buf b = { 0 };
    struct capture c;
    bool unsealed, unsent;

    begin(&c, *state != NULL, KA THREE "CREATE TABLE u(id TEXT PRIMARY KEY NOT NULL, z);");
    app(&c, "INSERT INTO t VALUES('n', 4, 'w'); INSERT INTO u VALUES('k', 1)");
    seal_all(&c);
    app(&c, "DROP TABLE t; INSERT INTO u VALUES('l', 1)");
    seal_all(&c);
    must(cs_replica_extract(c.r, &a, 50, 1 << 20, &d, &err), &err, "extract");
    for (uint32_t i = 0; i < d.nops; i++)
        put_op(&b, &d, &d.ops[i]);
    cs_buf_put_u8(&b, 0);
    assert_string_equal((const char *)b.data, "I u 'k' z=1\nI u 'l' z=1\n");
    bind_and_accept(&c);
    cs_buf_free(&b);
    must(cs_replica_dump(c.r, &b, &err), &err, "dump");
    cs_buf_free(&b);
    cs_arena_free(&a);
    must(cs_replica_pending(c.r, &unsealed, &unsent, &err), &err, "pending");
    assert_false(unsealed);
    reopen(&c);
    app(&c, "DELETE FROM u");
    seal_all(&c);
    close_all(&c);
}

/* Values that are gone from this file come back with the state that another device sends: there is no conflict with
 * what nobody here knows. */
static void dropped_values_come_back(const char *drop, const char *add)
{
    struct cs_pull_mark mark = { .log_id = 1, .number = 1 };
    struct cs_apply_result result;
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    struct capture c;

    begin(&c, false, KA THREE);
    app(&c, "UPDATE t SET b = 'new' WHERE id = 'k'; UPDATE t SET b = NULL WHERE id = 'l'");
    seal_all(&c);
    must(cs_replica_extract(c.r, &a, 50, 1 << 20, &d, &err), &err, "extract");
    bind_and_accept(&c);
    pause_all(&c);
    run_here(&c, drop);
    resume_all(&c);
    seal_all(&c);
    mark.device = d.devices[0];
    for (int i = 0; i < 2; i++) { /* the same versions, and newer ones whose author had not seen them */
        d.state = i == 0;
        must(cs_replica_apply(c.r, &d, &mark, &result, &err), &err, "apply");
        assert_int_equal(result.conflicts, 0);
        assert_string_equal(value_of(&c, "SELECT count(*) FROM sync_conflicts"), "0");
        mark.number++;
        for (uint32_t k = 0; i == 0 && k < d.nops; k++) {
            d.ops[k].stamp += 1 << 20;
            d.ops[k].nover = 0;
        }
        if (i == 0) {
            assert_string_equal(value_of(&c, "SELECT count(*) FROM sync_hidden WHERE col >= 0"), "2");
            assert_string_equal(value_of(&c, "SELECT count(*) FROM sync_hidden WHERE value = 'new'"), "1");
            run_here(&c, "DELETE FROM sync_hidden WHERE col >= 0");
        }
    }
    if (add != NULL) {
        run_here(&c, add);
        seal_all(&c);
        assert_string_equal(value_of(&c, "SELECT b FROM t WHERE id = 'k'"), "new");
    }
    cs_arena_free(&a);
    close_all(&c);
}

static void a_column_that_was_dropped_comes_back(void **state)
{
    (void)state;
    dropped_values_come_back("ALTER TABLE t DROP COLUMN b", "ALTER TABLE t ADD COLUMN b");
}

static void a_table_that_was_dropped_comes_back(void **state)
{
    (void)state;
    dropped_values_come_back("DROP TABLE t", NULL);
}

/* A table that was dropped and made again says nothing about the rows that it lacks: they are deleted nowhere, and what
 * another device sends of them is shown. */
static void a_table_that_was_made_again(void **state)
{
    static const char made[] = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b)";
    struct cs_pull_mark mark = { .log_id = 1, .number = 1 };
    struct cs_apply_result result;
    struct cs_arena a = { 0 }, more = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d, sent;
    struct capture c;
    bool paused = strcmp(*state, "paused") == 0, seen = strcmp(*state, "seen") == 0;

    begin(&c, false, KA THREE);
    app(&c, "INSERT INTO t VALUES('x', 1, 'new'), ('y', 2, NULL)");
    seal_all(&c);
    must(cs_replica_extract(c.r, &a, 50, 1 << 20, &d, &err), &err, "extract");
    bind_and_accept(&c);
    app(&c, "UPDATE t SET a = 9 WHERE id = 'm'"); /* and is gone with the table */
    seal_all(&c);
    if (paused)
        pause_all(&c);
    run_here(&c, "DROP TABLE t");
    if (seen)
        seal_all(&c);
    run_here(&c, made);
    if (seen)
        run_here(&c, "INSERT INTO t VALUES('n', 4, 'w')");
    if (paused) /* once more, which is no other pause */
        pause_all(&c);
    if (paused)
        resume_all(&c);
    seal_all(&c);
    must(cs_replica_extract(c.r, &more, 50, 1 << 20, &sent, &err), &err, "extract");
    for (uint32_t i = 0; i < sent.nops; i++)
        assert_int_equal(sent.ops[i].kind, CS_OP_INSERT);
    assert_int_equal(sent.nops, seen ? 1 : 0);
    assert_string_equal(value_of(&c, "SELECT value FROM sync_meta WHERE name = '" CS_REMADE "'"), "t");
    assert_string_equal(value_of(&c, "SELECT count(*) FROM sync_tables WHERE gap <> 0 OR backfill IS NOT NULL"), "0");
    mark.device = d.devices[0];
    d.state = true;
    must(cs_replica_apply(c.r, &d, &mark, &result, &err), &err, "apply");
    assert_string_equal(value_of(&c, "SELECT group_concat(id) FROM t WHERE id <> 'n'"), "x,y");
    assert_string_equal(value_of(&c, "SELECT b FROM t WHERE id = 'x'"), "new");
    assert_string_equal(value_of(&c, "SELECT count(*) FROM sync_conflicts"), "0");
    app(&c, "DELETE FROM t WHERE id = 'x'"); /* from now on deletes are deletes */
    seal_all(&c);
    assert_string_equal(value_of(&c, "SELECT del IS NOT NULL FROM sync_rows WHERE hex(key) LIKE '%78'"), "1");
    cs_arena_free(&a);
    cs_arena_free(&more);
    c.lossy = true;
    close_all(&c);
}

/* Nothing says that it was made again. */
static void emptied_in_a_pause(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    struct capture c;

    (void)state;
    begin(&c, false, KA THREE);
    pause_all(&c);
    run_here(&c, "DELETE FROM t");
    resume_all(&c);
    seal_all(&c);
    must(cs_replica_extract(c.r, &a, 50, 1 << 20, &d, &err), &err, "extract");
    assert_int_equal(d.nops, 3);
    assert_int_equal(d.ops[0].kind, CS_OP_DELETE);
    cs_arena_free(&a);
    close_all(&c);
}

/* ---- untracking ---- */

static void schema_of(struct capture *c, struct cs_buf *out)
{
    sqlite3_stmt *s = NULL;

    assert_int_equal(sqlite3_prepare_v2(c->app, "SELECT type, name, tbl_name, sql FROM sqlite_schema", -1, &s, NULL),
                     SQLITE_OK);
    while (sqlite3_step(s) == SQLITE_ROW)
        for (int i = 0; i < 4; i++)
            cs_buf_printf(out, "%s\n", (const char *)sqlite3_column_text(s, i));
    sqlite3_finalize(s);
}

static void untracking_leaves_nothing(void **state)
{
    struct capture c;
    struct cs_error err = { 0 };
    struct cs_buf before = { 0 }, after = { 0 };

    open_database(&c, *state != NULL,
                  KA THREE
                  "CREATE TABLE u(x TEXT NOT NULL, y TEXT UNIQUE, PRIMARY KEY(x, y)); CREATE INDEX i ON t(a);"
                  "CREATE TRIGGER own AFTER INSERT ON t BEGIN SELECT 1; END; CREATE VIEW v AS SELECT * FROM t;");
    schema_of(&c, &before);
    open_replica(&c);
    track_all(&c);
    send_silently(&c);
    app(&c, "INSERT INTO t VALUES('n', 1, 2)");
    must(cs_replica_untrack(c.r, "t", &err), &err, "untrack");
    assert_string_equal(value_of(&c, "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 't'"),
                        "1");
    app(&c, "INSERT INTO t VALUES('o', 1, 2)");
    must(cs_replica_untrack(c.r, "u", &err), &err, "untrack");
    schema_of(&c, &after);
    assert_int_equal(before.len, after.len);
    assert_memory_equal(before.data, after.data, before.len);
    assert_int_equal(cs_replica_untrack(c.r, "u", &err), CS_ENOTFOUND);
    cs_replica_close(c.r);
    c.r = NULL;
    assert_string_equal(value_of(&c, "SELECT count(*) FROM t"), "5");
    open_replica(&c); /* and everything can begin anew */
    track_all(&c);
    send_silently(&c);
    cs_buf_free(&before);
    cs_buf_free(&after);
    close_all(&c);
}

static void usual_tables(void **state)
{
    struct capture c;
    struct cs_error err = { 0 };

    (void)state;
    open_database(
        &c, false,
        "CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, a); CREATE TABLE sessions(id INTEGER PRIMARY KEY, a);"
        "CREATE TABLE context(id TEXT PRIMARY KEY NOT NULL, a); CREATE TABLE other(id TEXT PRIMARY KEY NOT NULL);");
    open_replica(&c);
    must(cs_replica_track_defaults(c.r, NULL, &err), &err, "defaults");
    assert_string_equal(
        value_of(&c, "SELECT group_concat(name) FROM (SELECT name FROM sync_tables WHERE state = 1 ORDER BY "
                     "name)"),
        "context,memories");
    must(cs_replica_untrack(c.r, "context", &err), &err, "untrack");
    must(cs_replica_track_defaults(c.r, NULL, &err), &err, "defaults"); /* untracked by hand: stays so */
    assert_string_equal(value_of(&c, "SELECT group_concat(name) FROM sync_tables WHERE state = 1"), "memories");
    track(&c, "context");
    close_all(&c);
}

static void only_new_tables(void **state)
{
    static const struct cs_track_options o = { .only_new = true };
    static const char *const tables[] = { "t", "u", "v", "w" };
    const char *state_of = "SELECT group_concat(name || state) FROM (SELECT * FROM sync_tables ORDER BY name)";
    struct capture c;
    struct cs_error err = { 0 };

    (void)state;
    open_database(&c, false, KA "CREATE TABLE u(id TEXT PRIMARY KEY NOT NULL); CREATE TABLE v(id TEXT PRIMARY KEY);");
    open_replica(&c);
    track_all(&c);
    must(cs_replica_pause(c.r, "t", &err), &err, "pause");
    must(cs_replica_untrack(c.r, "u", &err), &err, "untrack");
    app(&c, "CREATE TABLE w(id TEXT PRIMARY KEY NOT NULL)");
    for (int i = 0; i < 4; i++)
        must(cs_replica_track(c.r, tables[i], &o, &err), &err, tables[i]);
    assert_string_equal(value_of(&c, state_of), "t2,u0,v1,w1");
    close_all(&c);
}

/* Another table's new column that only such a call sees: what it remembers as seen was looked at. */
static void a_column_is_noticed_by_whatever_looks(void **state)
{
    struct capture c;
    struct cs_error err = { 0 };

    (void)state;
    for (int i = 0; i < 4; i++) {
        char sql[200];

        open_database(&c, false, KA THREE "CREATE TABLE other(id TEXT PRIMARY KEY NOT NULL);");
        open_replica(&c);
        track(&c, "t");
        if (i > 0)
            track(&c, "other");
        send_silently(&c);
        if (i == 3)
            must(cs_replica_pause(c.r, "other", &err), &err, "pause");
        cs_replica_close(c.r);
        snprintf(sql, sizeof sql, "ALTER TABLE t ADD COLUMN c; UPDATE t SET c = %d WHERE id = 'k'", i);
        app(&c, sql);
        open_replica(&c);
        if (i == 0)
            track(&c, "other");
        else
            must((i == 1   ? cs_replica_untrack
                  : i == 2 ? cs_replica_pause
                           : cs_replica_resume)(c.r, "other", &err),
                 &err, "it");
        snprintf(sql, sizeof sql, "U t 'k' c=%d\n", i);
        sends(&c, sql);
        app(&c, "UPDATE t SET c = 9 WHERE id = 'l'");
        sends(&c, "U t 'l' c=9\n");
        close_all(&c);
    }
}

/* ---- what cannot be tracked ---- */

static const struct refusal {
    const char *name, *schema, *table, *says;
    int code;
} refusals[] = {
    { "missing", KA, "nothing", "no table", CS_ENOTFOUND },
    { "a view", KA "CREATE VIEW v AS SELECT * FROM t;", "v", "view", CS_EINVAL },
    { "a virtual table", "CREATE VIRTUAL TABLE f USING fts5(x);", "f", "virtual", CS_EINVAL },
    { "a shadow table", "CREATE VIRTUAL TABLE f USING fts5(x);", "f_content", "shadow", CS_EINVAL },
    { "one of ours", KA, "sync_rows", "not the application's", CS_EINVAL },
    { "no primary key", "CREATE TABLE n(a, b);", "n", "no primary key", CS_EINVAL },
    { "rowid alias", "CREATE TABLE n(a INTEGER PRIMARY KEY, b);", "n", "rowid alias", CS_EINVAL },
    { "AUTOINCREMENT", "CREATE TABLE n(a INTEGER PRIMARY KEY AUTOINCREMENT, b);", "n", "rowid alias", CS_EINVAL },
    { "a NULL in a key", "CREATE TABLE n(a TEXT PRIMARY KEY, b); INSERT INTO n VALUES(NULL, 1);", "n",
      "NULL in its key", CS_EINVAL },
    { "UNIQUE over an expression", KA "CREATE UNIQUE INDEX u ON t(lower(a));", "t", "expression", CS_EINVAL },
    { "UNIQUE over a generated column", "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, g AS (a + 1) UNIQUE);", "t",
      "generated", CS_EINVAL },
    { "a key of another collation than its column",
      "CREATE TABLE t(id TEXT NOT NULL, a, PRIMARY KEY(id COLLATE NOCASE));", "t", "collation", CS_EINVAL },
    { "a generated key", "CREATE TABLE t(a, g TEXT NOT NULL AS (a || 'x') STORED, UNIQUE(g));", "t", "generated",
      CS_EINVAL },
};
enum { NREFUSALS = sizeof refusals / sizeof refusals[0] };

static void is_refused(void **state)
{
    const struct refusal *k = *state;
    struct cs_error err = { 0 };
    struct cs_buf before = { 0 }, after = { 0 };
    struct capture c;

    open_database(&c, false, k->schema);
    open_replica(&c);
    schema_of(&c, &before);
    assert_int_equal(cs_replica_track(c.r, k->table, NULL, &err), k->code);
    if (strstr(err.msg, k->says) == NULL)
        fail_msg("said: %s", err.msg);
    schema_of(&c, &after);
    assert_true(cs_slice_eq(cs_buf_slice(&before), cs_buf_slice(&after)));
    assert_string_equal(value_of(&c, "SELECT count(*) FROM sync_tables WHERE state <> 0"), "0");
    cs_buf_free(&before);
    cs_buf_free(&after);
    close_all(&c);
}

static int any_order(void *arg, int n, const void *a, int m, const void *b)
{
    (void)arg;
    return n != m ? n - m : memcmp(a, b, (size_t)n);
}

static void twice(sqlite3_context *ctx, int argc, sqlite3_value **argv)
{
    (void)argc;
    sqlite3_result_int64(ctx, 2 * sqlite3_value_int64(argv[0]));
}

/* Functions and collations that only the application has. */
static void only_the_application_has_it(void **state)
{
    static const char *const schemas[] = {
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL COLLATE strange, a);",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a TEXT COLLATE strange UNIQUE);",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, g AS (twice(a)) STORED);",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a); CREATE INDEX i ON t(twice(a));",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a); CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT "
        "twice(NEW.a); "
        "END;",
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a); CREATE TRIGGER x AFTER DELETE ON t BEGIN SELECT "
        "twice(OLD.a); "
        "END;",
        "CREATE TABLE t(id TEXT PRIMARY KEY, a); CREATE TRIGGER x AFTER UPDATE ON t BEGIN SELECT twice(1); END;",
    };

    (void)state;
    for (size_t i = 0; i < sizeof schemas / sizeof schemas[0]; i++) {
        struct cs_error err = { 0 };
        struct capture c;

        open_database(&c, false, "SELECT 1");
        sqlite3_create_collation(c.app, "strange", SQLITE_UTF8, NULL, any_order);
        sqlite3_create_function(c.app, "twice", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, twice, NULL, NULL);
        run_here(&c, schemas[i]);
        open_replica(&c);
        if (cs_replica_track(c.r, "t", NULL, &err) != CS_EINVAL)
            fail_msg("tracked: %s", schemas[i]);
        assert_true(strstr(err.msg, "strange") != NULL || strstr(err.msg, "twice") != NULL ||
                    strstr(err.msg, "collation") != NULL);
        close_all(&c);
    }
}

/* ---- taking in what is there ---- */

static void backfill_goes_on_after_a_restart(void **state)
{
    struct capture c;
    struct cs_error err = { 0 };
    bool more = true;
    int slices = 0;

    open_database(
        &c, *state != NULL,
        "CREATE TABLE t(x INTEGER NOT NULL, y TEXT NOT NULL COLLATE NOCASE, a, PRIMARY KEY(x, y)) WITHOUT ROWID;"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO t SELECT i / 10, "
        "'Row' || i, i FROM n;");
    open_replica(&c);
    track(&c, "t");
    for (; more; slices++) {
        must(cs_replica_seal(c.r, 9, &more, NULL, &err), &err, "seal");
        if (slices % 3 == 1)
            reopen(&c);
        if (slices == 4) /* one behind, one ahead, one new: all come once */
            app(&c,
                "UPDATE t SET a = -1 WHERE y = 'row1'; UPDATE t SET a = -2 WHERE y = 'row99'; DELETE FROM t WHERE y = "
                "'row98'; INSERT INTO t VALUES(4, 'new', 0)");
    }
    assert_true(slices > 10);
    send_silently(&c);
    assert_string_equal(value_of(&c, "SELECT count(*) FROM sync_rows WHERE ins IS NOT NULL"), "100");
    close_all(&c);
}

static struct cs_value text(const char *s)
{
    return (struct cs_value){ .type = CS_TEXT, .u.bytes = cs_slice_str(s) };
}

/* An operation of another device on table t (id, a, b): all of it at `stamp`. */
static void receive(struct capture *c, enum cs_op_kind kind, const char *id, const char *column, const char *v,
                    int64_t stamp)
{
    static uint64_t number = 1000;
    struct cs_buf key = { 0 };
    struct cs_value part = text(id);
    struct cs_op_cell cell = { .col = 0, .value = text(v) };
    struct cs_slice columns[] = { cs_slice_str(column) };
    struct cs_delta_table table = { .name = cs_slice_str("t"), .columns = columns, .ncolumns = 1 };
    struct cs_uuid device = { .b = { 0x44 } };
    struct cs_op op = { .kind = kind, .stamp = stamp, .cells = &cell, .ncells = kind == CS_OP_DELETE ? 0 : 1 };
    struct cs_delta d = { .tables = &table, .devices = &device, .ops = &op, .ntables = 1, .ndevices = 1, .nops = 1 };
    struct cs_pull_mark mark = { .log_id = 1, .number = number, .device = device, .device_number = number };
    struct cs_apply_result result;
    struct cs_error err = { 0 };

    number++;
    cs_key_put(&key, &part, CS_BINARY);
    op.key = cs_buf_slice(&key);
    must(cs_replica_apply(c->r, &d, &mark, &result, &err), &err, "apply");
    assert_int_equal(cs_state_apply(&c->model, &d, NULL, NULL), CS_OK);
    cs_buf_free(&key);
}

#define FUTURE (INT64_C(4102444800000) << 16) /* the year 2100 */

/* Others' edits of rows that were not taken in yet: ours are sealed before they are written over. */
static void others_edits_during_backfill(void **state)
{
    struct capture c;

    (void)state;
    open_database(&c, false, KA THREE);
    open_replica(&c);
    track(&c, "t");
    receive(&c, CS_OP_INSERT, "k", "a", "theirs", 65536);
    receive(&c, CS_OP_UPDATE, "l", "a", "theirs", FUTURE);
    receive(&c, CS_OP_DELETE, "m", "a", "", 65536 * 2);
    assert_string_equal(value_of(&c, "SELECT group_concat(id || a || b) FROM (SELECT * FROM t ORDER BY id)"),
                        "k1x,ltheirsy,m3z");
    send_silently(&c);
    assert_string_equal(value_of(&c, "SELECT group_concat(id || a || b) FROM (SELECT * FROM t ORDER BY id)"),
                        "k1x,ltheirsy,m3z");
    close_all(&c);
}

/* What the table held when its tracking began was written before: it does not win over what others did since. */
static void edits_since_tracking_began(void **state)
{
    const struct cs_world *world = cs_world_real();
    struct capture c;
    int64_t began;

    (void)state;
    open_database(&c, false, KA THREE "CREATE UNIQUE INDEX linked ON t(b);");
    open_replica(&c);
    track(&c, "t");
    for (began = cs_now_ms(world); cs_now_ms(world) < began + 2;)
        ;
    receive(&c, CS_OP_INSERT, "k", "a", "later", (began + 1) << 16);
    send_silently(&c);
    assert_string_equal(value_of(&c, "SELECT group_concat(id || a) FROM (SELECT * FROM t ORDER BY id)"),
                        "klater,l2,m3");
    close_all(&c);
}

static void others_edits_during_a_pause(void **state)
{
    struct capture c;

    (void)state;
    begin(&c, false, KA THREE);
    pause_all(&c);
    app(&c,
        "UPDATE t SET a = 'ours' WHERE id = 'k'; UPDATE t SET a = 'ours' WHERE id = 'l'; DELETE FROM t WHERE id = 'm'");
    receive(&c, CS_OP_UPDATE, "k", "b", "theirs", FUTURE);
    receive(&c, CS_OP_INSERT, "n", "a", "theirs", FUTURE + 1);
    receive(&c, CS_OP_UPDATE, "m", "a", "theirs", FUTURE + 2);
    resume_all(&c);
    receive(&c, CS_OP_UPDATE, "l", "b", "theirs", FUTURE + 3);
    sends(&c, "D t 'm' /a /b\nU t 'k' a='ours' /a\nU t 'l' a='ours' /a\n");
    assert_string_equal(
        value_of(&c, "SELECT group_concat(id || a || ifnull(b, '-')) FROM (SELECT * FROM t ORDER BY id)"),
        "kourstheirs,lourstheirs,ntheirs-");
    app(&c, "UPDATE t SET b = 'again'");
    send_silently(&c);
    close_all(&c);
}

/* Rows came before the table was tracked here, and the application has some of the same keys. */
static void tracking_a_table_that_others_sent(void **state)
{
    struct capture c;

    (void)state;
    open_database(&c, false, KA THREE "CREATE TABLE u(id TEXT PRIMARY KEY NOT NULL);");
    open_replica(&c);
    track(&c, "u");
    receive(&c, CS_OP_INSERT, "k", "a", "theirs", 65536);
    receive(&c, CS_OP_INSERT, "n", "a", "theirs", 65536 * 2);
    receive(&c, CS_OP_INSERT, "l", "a", "theirs", FUTURE);
    track(&c, "t");
    send_silently(&c);
    assert_string_equal(value_of(&c,
                                 "SELECT group_concat(id || ifnull(a, '-') || ifnull(b, '-')) FROM (SELECT * FROM t "
                                 "ORDER BY id)"),
                        "k1x,l2y,m3z,ntheirs-");
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
        cmocka_unit_test(a_column_before_another_table),
        cmocka_unit_test(a_dropped_column),
        cmocka_unit_test(a_column_that_was_dropped_comes_back),
        cmocka_unit_test(a_table_that_was_dropped_comes_back),
        cmocka_unit_test_prestate(a_table_that_was_made_again, (void *)(uintptr_t) "unseen"),
        cmocka_unit_test_prestate(a_table_that_was_made_again, (void *)(uintptr_t) "seen"),
        cmocka_unit_test_prestate(a_table_that_was_made_again, (void *)(uintptr_t) "paused"),
        cmocka_unit_test(emptied_in_a_pause),
        BOTH(a_renamed_table),
        BOTH(a_dropped_table),
        BOTH(untracking_leaves_nothing),
        cmocka_unit_test(usual_tables),
        cmocka_unit_test(only_new_tables),
        cmocka_unit_test(a_column_is_noticed_by_whatever_looks),
        cmocka_unit_test(only_the_application_has_it),
        BOTH(backfill_goes_on_after_a_restart),
        cmocka_unit_test(others_edits_during_backfill),
        cmocka_unit_test(edits_since_tracking_began),
        cmocka_unit_test(others_edits_during_a_pause),
        cmocka_unit_test(tracking_a_table_that_others_sent),
    };
    enum { NOTHERS = sizeof others / sizeof others[0] };
    struct CMUnitTest t[2 * NCASES + NREFUSALS + NOTHERS];
    char names[NCASES][100];

    for (int i = 0; i < NCASES; i++) {
        snprintf(names[i], sizeof names[i], "%s (shell)", cases[i].name);
        t[2 * i] = (struct CMUnitTest){ cases[i].name, here, NULL, NULL, (void *)(uintptr_t)&cases[i] };
        t[2 * i + 1] = (struct CMUnitTest){ names[i], in_the_shell, NULL, NULL, (void *)(uintptr_t)&cases[i] };
    }
    for (int i = 0; i < NREFUSALS; i++)
        t[2 * NCASES + i] =
            (struct CMUnitTest){ refusals[i].name, is_refused, NULL, NULL, (void *)(uintptr_t)&refusals[i] };
    memcpy(t + 2 * NCASES + NREFUSALS, others, sizeof others);
    return cmocka_run_group_tests_name("schema changes", t, NULL, NULL);
}
