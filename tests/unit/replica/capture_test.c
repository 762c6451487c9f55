/* What each kind of change by an application becomes. Every case runs twice: with the application on a connection of
 * its own, and with the sqlite3 shell as the application. */
#include "unit/replica/capture_fixture.h"

#define KA   "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b);"
#define UNIQ "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a TEXT UNIQUE, b);"

static const struct change_case {
    const char *name, *schema, *sql, *want;
} cases[] = {
    { "insert", KA, "INSERT INTO t VALUES('k', 1, 'x')", "I t 'k' a=1 b='x'\n" },
    { "insert with a default", "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a DEFAULT 7, b)",
      "INSERT INTO t(id) VALUES('k')", "I t 'k' a=7 b=NULL\n" },
    { "update of one column", KA "INSERT INTO t VALUES('k', 1, 'x');", "UPDATE t SET a = 2 WHERE id = 'k'",
      "U t 'k' a=2 /a\n" },
    { "update of two columns", KA "INSERT INTO t VALUES('k', 1, 'x');", "UPDATE t SET a = 2, b = NULL",
      "U t 'k' a=2 b=NULL /a /b\n" },
    { "update of the last column only",
      "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b, c, d);"
      "INSERT INTO t VALUES('k', 1, 2, 3, 4);",
      "UPDATE t SET d = 9", "U t 'k' d=9 /d\n" },
    { "update that changes nothing", KA "INSERT INTO t VALUES('k', 1, 'x');", "UPDATE t SET a = 1, b = 'x'", "" },
    { "delete", KA "INSERT INTO t VALUES('k', 1, 'x');", "DELETE FROM t", "D t 'k' /a /b\n" },
    { "delete without WHERE of many", KA "INSERT INTO t VALUES('k', 1, 'x'), ('l', 1, 'x');", "DELETE FROM t",
      "D t 'k' /a /b\nD t 'l' /a /b\n" },
    { "insert and delete before it was sent", KA, "INSERT INTO t VALUES('k', 1, 'x'); DELETE FROM t", "D t 'k'\n" },
    { "insert and update before it was sent", KA, "INSERT INTO t VALUES('k', 1, 'x'); UPDATE t SET a = 2",
      "I t 'k' b='x'\nU t 'k' a=2\n" },
    { "a hundred edits", KA "INSERT INTO t VALUES('k', 1, 'x');",
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO t SELECT 'k', i, 'x' "
      "FROM n WHERE true ON CONFLICT(id) DO UPDATE SET a = excluded.a + 1",
      "U t 'k' a=101 /a\n" },
    { "delete and insert again", KA "INSERT INTO t VALUES('k', 1, 'x');",
      "DELETE FROM t; INSERT INTO t VALUES('k', 1, 'y')", "D t 'k' /a /b\nI t 'k' a=1 b='y'\n" },
    { "edit, delete, insert, edit", KA "INSERT INTO t VALUES('k', 1, 'x');",
      "UPDATE t SET a = 2; DELETE FROM t; INSERT INTO t VALUES('k', 3, 'y'); UPDATE t SET a = 4, b = 'z'",
      "D t 'k' /a /b\nI t 'k'\nU t 'k' a=4 b='z' /a\n" },
    { "blobs as values and key", "CREATE TABLE t(id BLOB PRIMARY KEY NOT NULL, a)",
      "INSERT INTO t VALUES(x'00ff', x''), (x'', x'01')", "I t x'00ff' a=x'' id=x'00ff'\nI t x'' a=x'01' id=x''\n" },
    { "storage classes", "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a)",
      "INSERT INTO t VALUES('a', 9223372036854775807), ('b', -9223372036854775808), ('c', 1.5), ('d', 1e300), ('e', "
      "''), "
      "('f', CAST(x'ff00fe' AS TEXT)), ('g', NULL)",
      "I t 'a' a=9223372036854775807\nI t 'b' a=-9223372036854775808\nI t 'c' a=1.5\nI t 'd' a=1.0e+300\nI t 'e' a=''\n"
      "I t 'f' a='\\ff\\00\\fe'\nI t 'g' a=NULL\n" },
    { "letter case under NOCASE",
      "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a TEXT COLLATE NOCASE, b);"
      "INSERT INTO t VALUES('k', 'bob', 1);",
      "UPDATE t SET a = 'Bob'", "U t 'k' a='Bob' /a\n" },
    { "trailing spaces under RTRIM",
      "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a TEXT COLLATE RTRIM, b);"
      "INSERT INTO t VALUES('k', 'bob', 1);",
      "UPDATE t SET a = 'bob '", "U t 'k' a='bob ' /a\n" },
    { "an integer becomes a real", KA "INSERT INTO t VALUES('k', 1, 'x');", "UPDATE t SET a = 1.0",
      "U t 'k' a=1.0 /a\n" },
    { "a real becomes an integer", KA "INSERT INTO t VALUES('k', 1.0, 'x');", "UPDATE t SET a = 1",
      "U t 'k' a=1 /a\n" },
    { "text becomes a blob", KA "INSERT INTO t VALUES('k', 'x', 'x');", "UPDATE t SET a = x'78'",
      "U t 'k' a=x'78' /a\n" },
    { "NULL becomes a value and back", KA "INSERT INTO t VALUES('k', NULL, 'x');", "UPDATE t SET a = 1, b = NULL",
      "U t 'k' a=1 b=NULL /a /b\n" },
    { "affinities", "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, i INTEGER, r REAL, x TEXT, n NUMERIC)",
      "INSERT INTO t VALUES('k', '5', 5, 5, '5.5')", "I t 'k' i=5 n=5.5 r=5.0 x='5'\n" },
    { "key under NOCASE", "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, a);",
      "INSERT INTO t VALUES('Bob', 1)", "I t 'bob' a=1 id='Bob'\n" },
    { "case of a key under NOCASE",
      "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, a);"
      "INSERT INTO t VALUES('bob', 1);",
      "UPDATE t SET id = 'Bob'", "U t 'bob' id='Bob' /id\n" },
    { "key under RTRIM", "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL COLLATE RTRIM, a);",
      "INSERT INTO t VALUES('bob  ', 1)", "I t 'bob' a=1 id='bob  '\n" },
    { "untyped key, an integral real", "CREATE TABLE t(id PRIMARY KEY NOT NULL, a);", "INSERT INTO t VALUES(2.0, 1)",
      "I t 2 a=1 id=2.0\n" },
    { "untyped key from integer to real", "CREATE TABLE t(id PRIMARY KEY NOT NULL, a); INSERT INTO t VALUES(2, 1);",
      "UPDATE t SET id = 2.0", "U t 2 id=2.0 /id\n" },
    { "real key", "CREATE TABLE t(id REAL PRIMARY KEY NOT NULL, a);", "INSERT INTO t VALUES(2, 1), (2.5, 2)",
      "I t 2 a=1\nI t 2.5 a=2\n" },
    { "rowid alias, forced", "CREATE TABLE t(id INTEGER PRIMARY KEY, a);", "INSERT INTO t(a) VALUES('x')",
      "I t 1 a='x'\n" },
    { "rowid alias changed by another name", "CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES(1, 'x');",
      "UPDATE t SET rowid = 5", "D t 1 /a\nI t 5 a='x'\n" },
    { "composite key", "CREATE TABLE t(a TEXT NOT NULL, x, b INTEGER NOT NULL, PRIMARY KEY(b, a));",
      "INSERT INTO t VALUES('k', 1, 2)", "I t 2,'k' x=1\n" },
    { "composite key, one part changes",
      "CREATE TABLE t(a TEXT NOT NULL, x, b INTEGER NOT NULL, PRIMARY KEY(b, a));"
      "INSERT INTO t VALUES('k', 1, 2);",
      "UPDATE t SET a = 'l'", "D t 2,'k' /x\nI t 2,'l' x=1\n" },
    { "WITHOUT ROWID",
      "CREATE TABLE t(a TEXT NOT NULL, b TEXT NOT NULL, x, PRIMARY KEY(a, b)) WITHOUT ROWID;"
      "INSERT INTO t VALUES('a', 'b', 1), ('a', 'c', 1);",
      "UPDATE t SET x = 2 WHERE b = 'b'; DELETE FROM t WHERE b = 'c'", "D t 'a','c' /x\nU t 'a','b' x=2 /x\n" },
    { "only key columns", "CREATE TABLE t(a TEXT NOT NULL, b TEXT NOT NULL, PRIMARY KEY(a, b)) WITHOUT ROWID;",
      "INSERT INTO t VALUES('a', 'b')", "I t 'a','b'\n" },
    { "STRICT", "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, i INT, x ANY) STRICT;",
      "INSERT INTO t VALUES('k', '5', '5'); UPDATE t SET x = 5", "I t 'k' i=5\nU t 'k' x=5\n" },
    { "generated columns", "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, g AS (a + 1), s AS (a * 2) STORED, z);",
      "INSERT INTO t(id, a, z) VALUES('k', 1, 2); UPDATE t SET z = 3", "I t 'k' a=1\nU t 'k' z=3\n" },
    { "change of key", KA "INSERT INTO t VALUES('k', 1, 'x');", "UPDATE t SET id = 'l'",
      "D t 'k' /a /b\nI t 'l' a=1 b='x'\n" },
    { "change of key and of a value", KA "INSERT INTO t VALUES('k', 1, 'x');", "UPDATE t SET id = 'l', a = 2",
      "D t 'k' /a /b\nI t 'l' a=2 b='x'\n" },
    { "swap of keys by way of a third", KA "INSERT INTO t VALUES('k', 1, 'x'), ('l', 2, 'y');",
      "BEGIN; UPDATE t SET id = 'tmp' WHERE id = 'k'; UPDATE t SET id = 'k' WHERE id = 'l'; UPDATE t SET id = 'l' "
      "WHERE "
      "id = 'tmp'; COMMIT",
      "D t 'k' /a /b\nD t 'tmp'\nD t 'l' /a /b\nI t 'k' a=2 b='y'\nI t 'l' a=1 b='x'\n" },
    { "REPLACE of the same key", KA "INSERT INTO t VALUES('k', 1, 'x');", "REPLACE INTO t VALUES('k', 2, 'x')",
      "U t 'k' a=2 b='x' /a /b\n" },
    { "REPLACE of the same key and unique value", UNIQ "INSERT INTO t VALUES('k', 'u', 'x');",
      "REPLACE INTO t VALUES('k', 'u', 'y')", "U t 'k' a='u' b='y' /a /b\n" },
    { "REPLACE that displaces another row", UNIQ "INSERT INTO t VALUES('k', 'u', 'x');",
      "REPLACE INTO t VALUES('l', 'u', 'y')", "D t 'k' /a /b\nI t 'l' a='u' b='y'\n" },
    { "REPLACE that displaces two rows",
      "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a UNIQUE, b UNIQUE);"
      "INSERT INTO t VALUES('k', 1, 1), ('l', 2, 2);",
      "REPLACE INTO t VALUES('m', 1, 2)", "D t 'l' /a /b\nD t 'k' /a /b\nI t 'm' a=1 b=2\n" },
    { "UPDATE OR REPLACE that displaces another row", UNIQ "INSERT INTO t VALUES('k', 'u', 'x'), ('l', 'v', 'y');",
      "UPDATE OR REPLACE t SET a = 'u' WHERE id = 'l'", "D t 'k' /a /b\nU t 'l' a='u' /a\n" },
    { "UPDATE OR REPLACE onto another key", KA "INSERT INTO t VALUES('k', 1, 'x'), ('l', 2, 'y');",
      "UPDATE OR REPLACE t SET id = 'k' WHERE id = 'l'", "D t 'l' /a /b\nU t 'k' a=2 b='y' /a /b\n" },
    { "REPLACE under a partial unique index",
      KA "CREATE UNIQUE INDEX u ON t(a) WHERE b = 1;"
         "INSERT INTO t VALUES('k', 1, 1), ('l', 1, 2);",
      "REPLACE INTO t VALUES('m', 1, 1)", "D t 'k' /a /b\nI t 'm' a=1 b=1\n" },
    { "REPLACE under NOCASE uniqueness",
      "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a TEXT COLLATE NOCASE UNIQUE);"
      "INSERT INTO t VALUES('k', 'Bob');",
      "REPLACE INTO t VALUES('l', 'bOB')", "D t 'k' /a\nI t 'l' a='bOB'\n" },
    { "a colliding insert that is ignored", UNIQ "INSERT INTO t VALUES('k', 'u', 'x');",
      "INSERT OR IGNORE INTO t VALUES('l', 'u', 'y')", "" },
    { "displaced, and inserted again", UNIQ "INSERT INTO t VALUES('k', 'u', 'x');",
      "REPLACE INTO t VALUES('l', 'u', 'y'); INSERT INTO t VALUES('k', 'v', 'z')",
      "I t 'l' a='u' b='y'\nU t 'k' a='v' b='z' /a /b\n" },
    { "REPLACE with recursive triggers", UNIQ "INSERT INTO t VALUES('k', 'u', 'x');",
      "PRAGMA recursive_triggers=ON; REPLACE INTO t VALUES('l', 'u', 'y'); PRAGMA recursive_triggers=OFF",
      "D t 'k' /a /b\nI t 'l' a='u' b='y'\n" },
    { "UNIQUE ON CONFLICT REPLACE",
      "CREATE TABLE t(id TEXT PRIMARY KEY ON CONFLICT REPLACE NOT NULL, a UNIQUE ON CONFLICT REPLACE);"
      "INSERT INTO t VALUES('k', 1), ('l', 2);",
      "INSERT INTO t VALUES('m', 1); INSERT INTO t VALUES('l', 3)", "D t 'k' /a\nI t 'm' a=1\nU t 'l' a=3 /a\n" },
    { "an untrusted schema", UNIQ,
      "PRAGMA trusted_schema=OFF; INSERT INTO t VALUES('k', 'u', 'x'); UPDATE t SET b = 'y'; PRAGMA trusted_schema=ON",
      "I t 'k' a='u'\nU t 'k' b='y'\n" },
    { "upsert that inserts", KA, "INSERT INTO t VALUES('k', 1, 'x') ON CONFLICT(id) DO UPDATE SET a = 9",
      "I t 'k' a=1 b='x'\n" },
    { "upsert that updates", KA "INSERT INTO t VALUES('k', 1, 'x');",
      "INSERT INTO t VALUES('k', 2, 'y') ON CONFLICT(id) DO UPDATE SET a = excluded.a", "U t 'k' a=2 /a\n" },
    { "upsert that does nothing", KA "INSERT INTO t VALUES('k', 1, 'x');",
      "INSERT INTO t VALUES('k', 2, 'y') ON CONFLICT DO NOTHING", "" },
    { "rollback", KA, "BEGIN; INSERT INTO t VALUES('k', 1, 'x'); ROLLBACK", "" },
    { "savepoint rolled back", KA,
      "BEGIN; INSERT INTO t VALUES('k', 1, 'x'); SAVEPOINT s; UPDATE t SET a = 2; INSERT INTO t VALUES('l', 1, 'x'); "
      "ROLLBACK TO s; COMMIT",
      "I t 'k' a=1 b='x'\n" },
    { "the application's trigger writes the same row",
      KA "CREATE TRIGGER stamp AFTER UPDATE OF a ON t BEGIN UPDATE t SET b = 'now' WHERE id = NEW.id; END;"
         "INSERT INTO t VALUES('k', 1, 'x');",
      "UPDATE t SET a = 2", "U t 'k' a=2 b='now' /a /b\n" },
    { "the application's trigger writes another tracked table",
      KA "CREATE TABLE u(id TEXT PRIMARY KEY NOT NULL, n);"
         "CREATE TRIGGER copy AFTER INSERT ON t BEGIN INSERT INTO u VALUES(NEW.id, 1); END;",
      "INSERT INTO t VALUES('k', 1, 'x')", "I t 'k' a=1 b='x'\nI u 'k' n=1\n" },
    { "cascading delete",
      "CREATE TABLE p(id TEXT PRIMARY KEY NOT NULL, a);"
      "CREATE TABLE c(id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES p(id) ON DELETE CASCADE);"
      "INSERT INTO p VALUES('p', 1); INSERT INTO c VALUES('c', 'p');",
      "PRAGMA foreign_keys=ON; DELETE FROM p; PRAGMA foreign_keys=OFF", "D c 'c' /p\nD p 'p' /a\n" },
    { "cascading update",
      "CREATE TABLE p(id TEXT PRIMARY KEY NOT NULL, a);"
      "CREATE TABLE c(id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES p(id) ON UPDATE CASCADE);"
      "INSERT INTO p VALUES('p', 1); INSERT INTO c VALUES('c', 'p');",
      "PRAGMA foreign_keys=ON; UPDATE p SET id = 'q'; PRAGMA foreign_keys=OFF",
      "D p 'p' /a\nI p 'q' a=1\nU c 'c' p='q' /p\n" },
    { "a reference set to NULL",
      "CREATE TABLE p(id TEXT PRIMARY KEY NOT NULL, a);"
      "CREATE TABLE c(id TEXT PRIMARY KEY NOT NULL, u, v, w, x, p TEXT REFERENCES p(id) ON DELETE SET NULL, y);"
      "INSERT INTO p VALUES('p', 1); INSERT INTO c(id, p) VALUES('c', 'p');",
      "PRAGMA foreign_keys=ON; DELETE FROM p; PRAGMA foreign_keys=OFF", "D p 'p' /a\nU c 'c' p=NULL /p\n" },
    { "a wide update is one",
      "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b, c, d, e, f, g, h, i);"
      "INSERT INTO t VALUES('k', 1, 2, 3, 4, 5, 6, 7, 8, 9), ('l', 0, 0, 0, 0, 0, 0, 0, 0, 0);",
      "UPDATE t SET a = 9, b = b, c = 9, d = 9, e = e, f = 9, g = g, h = h, i = 0 WHERE id = 'k'; "
      "UPDATE t SET i = 1, h = 1 WHERE id = 'l'",
      "U t 'k' a=9 c=9 d=9 f=9 i=0 /a /c /d /f /i\nU t 'l' h=1 i=1 /h /i\n" },
    { "an update that says the same again", KA "INSERT INTO t VALUES('k', 1, 'x');", "UPDATE t SET a = 1, b = 'x'",
      "" },
    { "UPDATE OR REPLACE into a partial unique index",
      KA "CREATE UNIQUE INDEX u ON t(a) WHERE b = 1; INSERT INTO t VALUES('k', 1, 1), ('l', 1, 2);",
      "UPDATE OR REPLACE t SET b = 1 WHERE id = 'l'", "D t 'k' /a /b\nU t 'l' b=1 /b\n" },
    { "parents before children",
      "CREATE TABLE c(id TEXT PRIMARY KEY NOT NULL, p TEXT REFERENCES p(id));"
      "CREATE TABLE p(id TEXT PRIMARY KEY NOT NULL, a);",
      "INSERT INTO c VALUES('c', 'p'); INSERT INTO p VALUES('p', 1)", "I p 'p' a=1\nI c 'c' p='p'\n" },
    { "UPDATE FROM and RETURNING", KA "INSERT INTO t VALUES('k', 1, 'x'), ('l', 5, 'y');",
      "UPDATE t SET a = o.a FROM t o WHERE t.id = 'k' AND o.id = 'l' RETURNING t.a", "U t 'k' a=5 /a\n" },
    { "names that need quoting",
      "CREATE TABLE \"we\"\"ird 'table\"(\"the key\" TEXT PRIMARY KEY NOT NULL, \"sel\"\"ect\", "
      "[from]);",
      "INSERT INTO \"we\"\"ird 'table\" VALUES('k', 1, 2); UPDATE \"we\"\"ird 'table\" SET [from] = 3",
      "I we\"ird 'table 'k' sel\"ect=1\nU we\"ird 'table 'k' from=3\n" },
    { "a view and a full text table are left alone",
      KA "CREATE VIEW v AS SELECT * FROM t;"
         "CREATE VIRTUAL TABLE f USING fts5(body);"
         "CREATE TRIGGER fi AFTER INSERT ON t BEGIN INSERT INTO f VALUES(NEW.b); END;",
      "INSERT INTO t VALUES('k', 1, 'x')", "I t 'k' a=1 b='x'\n" },
};
enum { NCASES = sizeof cases / sizeof cases[0] };

static void is_sent(const struct change_case *k, bool shell)
{
    struct capture c;
    struct cs_table_info *tables;
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    size_t n;

    open_database(&c, shell, k->schema);
    open_replica(&c);
    must(cs_replica_tables(c.r, &a, &tables, &n, &err), &err, "tables");
    for (size_t i = 0; i < n; i++)
        track(&c, tables[i].name);
    cs_arena_free(&a);
    send_silently(&c);
    app(&c, k->sql);
    sends(&c, k->want);
    sends(&c, "");
    close_all(&c);
}

static void here(void **state)
{
    is_sent(*state, false);
}

static void in_the_shell(void **state)
{
    is_sent(*state, true);
}

/* ---- what does not fit a table ---- */

static void more_columns_than_bits(void **state)
{
    enum { N = 150 };
    struct cs_buf sql = { 0 };
    struct capture c;

    cs_buf_put_str(&sql, "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL");
    for (int i = 0; i < N; i++)
        cs_buf_printf(&sql, ", c%d", i);
    cs_buf_put_str(&sql, "); INSERT INTO t(id) VALUES('k');");
    cs_buf_put_u8(&sql, 0);
    open_database(&c, *state != NULL, (const char *)sql.data);
    cs_buf_free(&sql);
    open_replica(&c);
    track(&c, "t");
    send_silently(&c);
    for (int i = 0; i < N; i += 7) {
        char one[80], want[80];

        snprintf(one, sizeof one, "UPDATE t SET c%d = %d", i, i + 1);
        snprintf(want, sizeof want, "U t 'k' c%d=%d /c%d\n", i, i + 1, i);
        run_here(&c, one);
        sends(&c, want);
    }
    app(&c, "UPDATE t SET c0 = 'x', c61 = 'x', c62 = 'x', c123 = 'x', c124 = 'x', c149 = 'x'");
    send_silently(&c);
    app(&c, "UPDATE t SET id = 'l', c149 = 'y'");
    send_silently(&c);
    close_all(&c);
}

/* A key that is NULL tells no other device which row it is: not sent, counted, and in nobody's way. */
static void a_null_key_is_held_back(void **state)
{
    struct cs_replica_counts n;
    struct cs_error err = { 0 };
    struct capture c;

    open_database(&c, *state != NULL, "CREATE TABLE t(id TEXT PRIMARY KEY, a)");
    open_replica(&c);
    track(&c, "t");
    send_silently(&c);
    app(&c, "INSERT INTO t VALUES(NULL, 1), ('k', 2); UPDATE t SET a = a + 1");
    sends(&c, "I t 'k'\nU t 'k' a=3\n");
    must(cs_replica_counts(c.r, &n, &err), &err, "counts");
    assert_true(n.held_back > 0);
    app(&c, "UPDATE t SET id = 'l' WHERE id IS NULL"); /* now it has one */
    sends(&c, "I t 'l' a=2\n");
    close_all(&c);
}

static int64_t held_back(struct capture *c)
{
    struct cs_replica_counts n;
    struct cs_error err = { 0 };

    must(cs_replica_counts(c->r, &n, &err), &err, "counts");
    return n.held_back;
}

static int64_t held_after(struct capture *c, const char *sql)
{
    app(c, sql);
    seal_all(c);
    return held_back(c);
}

/* Its state in a file of ours says no more than whether there may be any. */
static const char *noted(struct capture *c)
{
    return value_of(c, "SELECT value <> 0 FROM sync_meta WHERE name = 'held_back'");
}

static void reopen(struct capture *c)
{
    cs_replica_close(c->r);
    open_replica(c);
}

/* What is counted are rows, and those that are there now, not what happened to them. */
static void null_keys_come_and_go(void **state)
{
    struct cs_error err = { 0 };
    struct capture c;
    bool changed;

    open_database(&c, *state != NULL,
                  "CREATE TABLE t(id TEXT PRIMARY KEY, a); CREATE TABLE u(x, y, a UNIQUE, PRIMARY KEY(x, y)); "
                  "CREATE TABLE v(id TEXT PRIMARY KEY NOT NULL, a); CREATE TABLE w(id INTEGER PRIMARY KEY, a)");
    open_replica(&c);
    track_all(&c);
    seal_all(&c);
    assert_int_equal(held_after(&c, "INSERT INTO t VALUES(NULL, 1), ('k', 1); INSERT INTO w VALUES(NULL, 1)"), 1);
    assert_int_equal(held_after(&c, "UPDATE t SET a = a + 1"), 1);
    assert_int_equal(held_after(&c, "UPDATE t SET id = 'l' WHERE id IS NULL"), 0);
    assert_string_equal(noted(&c), "0");
    assert_int_equal(held_after(&c, "INSERT INTO t VALUES(NULL, 1); DELETE FROM t WHERE id IS NULL"), 0);
    assert_int_equal(held_after(&c, "UPDATE t SET id = NULL"), 2);
    reopen(&c);
    assert_int_equal(held_back(&c), 2);
    assert_int_equal(held_after(&c, "INSERT INTO u VALUES(1, NULL, 1), (NULL, 1, 2), (NULL, NULL, 3), (1, 1, 4)"), 5);
    assert_int_equal(held_after(&c, "REPLACE INTO u VALUES(2, 2, 3)"), 4); /* displaced without a delete trigger */
    assert_int_equal(held_after(&c, "DELETE FROM u WHERE x IS NULL"), 3);
    must(cs_replica_untrack(c.r, "t", &err), &err, "untrack");
    assert_int_equal(held_back(&c), 1);
    app(&c, "ALTER TABLE u RENAME COLUMN y TO z");
    held_back(&c); /* not a failure before the schema was looked at */
    must(cs_replica_check_schema(c.r, &changed, &err), &err, "check_schema");
    assert_int_equal(held_back(&c), 1);
    app(&c, "DROP TABLE u");
    assert_int_equal(held_back(&c), 0);
    must(cs_replica_check_schema(c.r, &changed, &err), &err, "check_schema");
    assert_int_equal(held_after(&c, "INSERT INTO v VALUES('k', 1)"), 0);
    close_all(&c);
}

/* A table's rows with a NULL in the key are met also where no trigger told of them. */
static void null_keys_of_a_pause(void **state)
{
    struct cs_error err = { 0 };
    struct capture c;

    (void)state;
    open_database(&c, false, "CREATE TABLE t(id TEXT PRIMARY KEY, a)");
    open_replica(&c);
    track(&c, "t");
    seal_all(&c);
    must(cs_replica_pause(c.r, "t", &err), &err, "pause");
    app(&c, "INSERT INTO t VALUES(NULL, 1), ('k', 1)");
    must(cs_replica_resume(c.r, "t", &err), &err, "resume");
    seal_all(&c);
    assert_int_equal(held_back(&c), 1);
    must(cs_replica_pause(c.r, "t", &err), &err, "pause");
    app(&c, "DELETE FROM t WHERE id IS NULL");
    assert_int_equal(held_back(&c), 0);
    must(cs_replica_resume(c.r, "t", &err), &err, "resume");
    seal_all(&c);
    assert_string_equal(noted(&c), "0");
    must(cs_replica_untrack(c.r, "t", &err), &err, "untrack");
    assert_int_equal(held_back(&c), 0);
    close_all(&c);
}

/* Earlier versions counted changes, and the number never went down. */
static void an_old_count_heals(void **state)
{
    struct capture c;

    (void)state;
    open_database(&c, false, "CREATE TABLE t(id TEXT PRIMARY KEY, a)");
    open_replica(&c);
    track(&c, "t");
    assert_int_equal(held_after(&c, "INSERT INTO t VALUES(NULL, 1), ('k', 1)"), 1);
    app(&c, "UPDATE sync_meta SET value = 17 WHERE name = 'held_back'");
    reopen(&c);
    assert_int_equal(held_back(&c), 1);
    app(&c, "DROP TRIGGER sync_1_del0; DELETE FROM t WHERE id IS NULL");
    assert_int_equal(held_back(&c), 0);
    reopen(&c);
    assert_int_equal(held_after(&c, "INSERT INTO t VALUES('l', 1)"), 0);
    assert_string_equal(noted(&c), "0");
    close_all(&c);
}

/* A process that ends between two slices leaves no NULL behind uncounted. */
static void null_keys_in_several_slices(void **state)
{
    struct cs_error err = { 0 };
    struct capture c;
    bool more;

    (void)state;
    open_database(&c, false, "CREATE TABLE t(id TEXT PRIMARY KEY, a)");
    open_replica(&c);
    track(&c, "t");
    seal_all(&c);
    app(&c, "INSERT INTO t VALUES(NULL, 1), ('a', 1), ('b', 1), ('c', 1)");
    must(cs_replica_seal(c.r, 2, &more, NULL, &err), &err, "seal");
    assert_true(more);
    assert_int_equal(held_back(&c), 1);
    reopen(&c);
    seal_all(&c);
    assert_int_equal(held_back(&c), 1);
    assert_int_equal(held_after(&c, "DELETE FROM t WHERE id IS NULL"), 0);
    close_all(&c);
}

/* Our triggers do not show in what the application asks SQLite about its own statement. */
static void the_application_does_not_notice(void **state)
{
    struct capture c;

    (void)state;
    open_database(&c, false,
                  "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a UNIQUE, b);"
                  "CREATE TABLE other(n INTEGER PRIMARY KEY);");
    open_replica(&c);
    track(&c, "t");
    run_here(&c, "INSERT INTO other VALUES(70); INSERT INTO t VALUES('k', 1, 2), ('l', 3, 4)");
    assert_int_equal(sqlite3_changes(c.app), 2);
    assert_int_equal(sqlite3_last_insert_rowid(c.app), 2);
    run_here(&c, "REPLACE INTO t VALUES('m', 1, 2)");
    assert_int_equal(sqlite3_changes(c.app), 1);
    assert_int_equal(sqlite3_last_insert_rowid(c.app), 3);
    run_here(&c, "UPDATE t SET b = 9");
    assert_int_equal(sqlite3_changes(c.app), 2);
    run_here(&c, "DELETE FROM t");
    assert_int_equal(sqlite3_changes(c.app), 2);
    close_all(&c);
}

/* The file is one of several that the application has attached. */
static void an_attached_database(void **state)
{
    struct capture c;
    sqlite3 *other;
    char *sql;

    (void)state;
    open_database(&c, false, KA);
    open_replica(&c);
    track(&c, "t");
    send_silently(&c);
    assert_int_equal(sqlite3_open(":memory:", &other), SQLITE_OK);
    sql = sqlite3_mprintf(
        "CREATE TABLE t(id); CREATE TABLE sync_changelog(x); ATTACH %Q AS x; INSERT INTO x.t VALUES('k', 1, "
        "2)",
        c.path);
    assert_int_equal(sqlite3_exec(other, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_free(sql);
    sqlite3_close(other);
    sends(&c, "I t 'k' a=1 b=2\n");
    close_all(&c);
}

/* An application that does not enforce its foreign keys: the row is hidden here, and sent with all its values. */
static void an_orphan_is_sent_all_the_same(void **state)
{
    struct capture c;

    open_database(
        &c, *state != NULL,
        "CREATE TABLE p(id TEXT PRIMARY KEY NOT NULL); CREATE TABLE c(id TEXT PRIMARY KEY NOT NULL, a, p TEXT "
        "REFERENCES p(id));");
    open_replica(&c);
    track_all(&c);
    send_silently(&c);
    app(&c, "INSERT INTO c VALUES('c', 1, 'p')");
    sends(&c, "I c 'c' a=1 p='p'\n");
    assert_string_equal(value_of(&c, "SELECT count(*) FROM c"), "0");
    app(&c, "REPLACE INTO c VALUES('c', 2, 'p')"); /* what it does not see it does not overwrite knowingly */
    sends(&c, "U c 'c' a=2 p='p'\n");
    app(&c, "INSERT INTO p VALUES('p')");
    sends(&c, "I p 'p'\n");
    assert_string_equal(value_of(&c, "SELECT id || a || p FROM c"), "c2p");
    app(&c, "DELETE FROM p");
    sends(&c, "D p 'p'\n");
    assert_string_equal(value_of(&c, "SELECT count(*) FROM c"), "0");
    app(&c, "INSERT INTO p VALUES('p'); UPDATE c SET a = 3");
    sends(&c, "I p 'p'\n");
    app(&c, "UPDATE c SET a = 3");
    sends(&c, "U c 'c' a=3 /a\n");
    close_all(&c);
}

/* The log of one row in many slices, between which the row must not be hidden: later entries are about it. */
static void an_orphan_in_several_slices(void **state)
{
    static const char sql[] =
        "INSERT INTO c VALUES('c', 1, 'p'); UPDATE c SET a = 2; DELETE FROM c; INSERT INTO c VALUES('c', 3, 'p');"
        "UPDATE c SET a = 4; INSERT INTO p VALUES('p'); DELETE FROM p; REPLACE INTO c VALUES('c', 5, 'p');";
    const char *restart = *state;
    struct cs_error err = { 0 };
    struct capture c;
    bool more;

    open_database(
        &c, false,
        "CREATE TABLE p(id TEXT PRIMARY KEY NOT NULL); CREATE TABLE c(id TEXT PRIMARY KEY NOT NULL, a, p TEXT "
        "REFERENCES p(id));");
    open_replica(&c);
    track_all(&c);
    send_silently(&c);
    for (int round = 0; round < 3; round++) {
        app(&c, sql);
        more = true;
        while (more) {
            must(cs_replica_seal(c.r, 1, &more, NULL, &err), &err, "seal");
            if (more && restart != NULL) {
                cs_replica_close(c.r);
                open_replica(&c);
            }
        }
        assert_string_equal(value_of(&c, "SELECT count(*) FROM c"), "0");
        assert_string_equal(value_of(&c, "SELECT count(*) FROM sync_meta WHERE name = 'unprojected'"), "0");
        send_silently(&c);
        app(&c, "INSERT INTO p VALUES('p')");
        send_silently(&c);
        assert_string_equal(value_of(&c, "SELECT id || a || p FROM c"), "c5p");
        app(&c, round == 1 ? "DELETE FROM p" : "DELETE FROM c; DELETE FROM p");
        send_silently(&c);
    }
    close_all(&c);
}

/* An edit is as old as it is, however late it is sealed; never younger than this device's clock says now. */
static void stamps_are_of_the_edit(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    struct capture c;
    int64_t first;

    (void)state;
    open_database(&c, false, KA);
    open_replica(&c);
    track(&c, "t");
    send_silently(&c);
    app(&c, "INSERT INTO t VALUES('k', 1, 2)");
    run_here(&c, "UPDATE sync_changelog SET ms = 1000000000000"); /* 2001: as if the clock had been slow */
    app(&c, "INSERT INTO t VALUES('l', 1, 2); INSERT INTO t VALUES('m', 1, 2)");
    run_here(&c, "UPDATE sync_changelog SET ms = 9000000000000 WHERE k1 = 'm'"); /* 2255 */
    first = strtoll(value_of(&c, "SELECT CAST((ms - 2440587.5) * 86400000.0 AS INTEGER) FROM sync_changelog WHERE k1 = "
                                 "'l'"),
                    NULL, 10);
    assert_in_range(first, cs_now_ms(cs_world_real()) - 60000, cs_now_ms(cs_world_real()));
    usleep(3000);
    seal_all(&c);
    must(cs_replica_extract(c.r, &a, 10, 1 << 20, &d, &err), &err, "extract");
    assert_int_equal(d.nops, 3);
    assert_int_equal(d.ops[0].stamp, INT64_C(1000000000000) << 16);
    assert_int_equal(d.ops[1].stamp, first << 16);
    assert_in_range(d.ops[2].stamp >> 16, first, first + 60000);
    cs_arena_free(&a);
    close_all(&c);
}

/* Integers that a real can equal, at all sizes. */
static void equal_numbers_of_two_types(void **state)
{
    struct capture c;

    (void)state;
    open_database(
        &c, false,
        KA "WITH RECURSIVE b(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM b WHERE i < 62),"
           " s(i) AS (SELECT -300 UNION ALL SELECT i + 1 FROM s WHERE i < 300),"
           " x(v) AS (SELECT i FROM s UNION SELECT 1 << i FROM b UNION SELECT -(1 << i) FROM b UNION SELECT 3 << "
           "i FROM b WHERE i < 62 UNION SELECT -(3 << i) FROM b WHERE i < 62 UNION SELECT (1 << i) + (1 << i - "
           "52) FROM b WHERE i >= 52 UNION SELECT -(1 << i) - (1 << i - 52) FROM b WHERE i >= 52 UNION SELECT "
           "(1 << i) - (1 << i - 53) FROM b WHERE i >= 53 UNION SELECT -9223372036854775807 - 1)"
           " INSERT INTO t SELECT 'k' || v, v, v FROM x;");
    open_replica(&c);
    track(&c, "t");
    send_silently(&c);
    assert_string_equal(value_of(&c, "SELECT count(*) > 800 AND min(a) = -9223372036854775808 AND max(a) > 6e18 FROM t "
                                     "WHERE CAST(CAST(a AS REAL) AS INTEGER) = a"),
                        "1");
    run_here(&c, "UPDATE t SET a = CAST(a AS REAL)");
    assert_string_equal(value_of(&c, "SELECT count(*) - (SELECT count(*) FROM t) FROM sync_changelog"), "0");
    send_silently(&c);
    run_here(&c, "UPDATE t SET a = CAST(b AS REAL), b = CAST(a AS INTEGER)");
    assert_string_equal(value_of(&c, "SELECT count(*) FROM sync_changelog"), "0");
    run_here(&c, "UPDATE t SET a = b");
    assert_string_equal(value_of(&c, "SELECT count(*) - (SELECT count(*) FROM t) FROM sync_changelog"), "0");
    close_all(&c);
}

/* What is being edited right now is left for the next time: a stamp and its value belong together. */
static void rows_in_the_changelog_are_not_extracted(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    struct capture c;

    (void)state;
    open_database(&c, false, KA);
    open_replica(&c);
    track(&c, "t");
    send_silently(&c);
    app(&c, "INSERT INTO t VALUES('k', 1, 'x'), ('l', 1, 'x')");
    seal_all(&c);
    app(&c, "UPDATE t SET a = 2 WHERE id = 'k'");
    must(cs_replica_extract(c.r, &a, 50, 1 << 20, &d, &err), &err, "extract");
    assert_int_equal(d.nops, 1);
    assert_int_equal(cs_state_apply(&c.model, &d, NULL, NULL), CS_OK);
    bind_and_accept(&c);
    cs_arena_free(&a);
    sends(&c, "I t 'k' b='x'\nU t 'k' a=2\n");
    close_all(&c);
}

/* An edit between extract and bind does not get lost. */
static void an_edit_while_packing_is_sent_next(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    struct capture c;

    (void)state;
    open_database(&c, false, KA);
    open_replica(&c);
    track(&c, "t");
    app(&c, "INSERT INTO t VALUES('k', 1, 'x')");
    seal_all(&c);
    must(cs_replica_extract(c.r, &a, 50, 1 << 20, &d, &err), &err, "extract");
    assert_int_equal(d.nops, 1);
    app(&c, "UPDATE t SET a = 2 WHERE id = 'k'");
    assert_int_equal(cs_state_apply(&c.model, &d, NULL, NULL), CS_OK);
    bind_and_accept(&c);
    cs_arena_free(&a);
    sends(&c, "U t 'k' a=2 /a\n");
    close_all(&c);
}

static void batches_are_bounded(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    struct capture c;
    size_t seen = 0;

    (void)state;
    open_database(&c, false, KA);
    open_replica(&c);
    track(&c, "t");
    app(&c, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO t SELECT i, "
            "zeroblob(1000), NULL FROM n");
    seal_all(&c);
    for (;;) {
        size_t bytes = 0;

        must(cs_replica_extract(c.r, &a, seen < 50 ? 7 : 1000, 10000, &d, &err), &err, "extract");
        if (d.nops == 0)
            break;
        for (uint32_t i = 0; i < d.nops; i++)
            bytes += d.ops[i].cells[0].value.u.bytes.len;
        assert_in_range(d.nops, 1, 11);
        assert_in_range(bytes, 1000, 11000);
        seen += d.nops;
        assert_int_equal(cs_state_apply(&c.model, &d, NULL, NULL), CS_OK);
        bind_and_accept(&c);
    }
    assert_int_equal(seen, 100);
    model_agrees(&c);
    cs_arena_free(&a);
    close_all(&c);
}

/* Above 16 MiB a row stays at home and is counted; those behind it go on, and so does it when it is smaller again. */
static void a_huge_row_is_held_back(void **state)
{
    struct cs_replica_counts n;
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    struct capture c;

    (void)state;
    open_database(&c, false, KA);
    open_replica(&c);
    track(&c, "t");
    app(&c, "INSERT INTO t VALUES('huge', zeroblob(17 * 1024 * 1024), 1), ('k', 1, 1)");
    seal_all(&c);
    must(cs_replica_extract(c.r, &a, 50, 1 << 20, &d, &err), &err, "extract");
    assert_int_equal(d.nops, 1);
    assert_int_equal(d.ops[0].cells[0].value.type, CS_INTEGER);
    assert_int_equal(cs_state_apply(&c.model, &d, NULL, NULL), CS_OK);
    bind_and_accept(&c);
    cs_arena_free(&a);
    must(cs_replica_counts(c.r, &n, &err), &err, "counts");
    assert_int_equal(n.held_back, 1);
    app(&c, "UPDATE t SET a = 'small' WHERE id = 'huge'");
    sends(&c, "I t 'huge' b=1\nU t 'huge' a='small'\n");
    must(cs_replica_counts(c.r, &n, &err), &err, "counts");
    assert_int_equal(n.held_back, 0);
    app(&c, "UPDATE t SET a = zeroblob(17 * 1024 * 1024) WHERE id = 'huge'");
    seal_all(&c);
    must(cs_replica_extract(c.r, &a, 50, 1 << 20, &d, &err), &err, "extract");
    assert_int_equal(held_back(&c), 1);
    must(cs_replica_untrack(c.r, "t", &err), &err, "untrack");
    assert_int_equal(held_back(&c), 0);
    cs_arena_free(&a);
    close_all(&c);
}

/* Many rows wait in the changelog while many are unsent: not the product of both. */
static void extract_beside_a_long_changelog(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    struct cs_delta d;
    struct capture c;

    (void)state;
    open_database(&c, false, KA "PRAGMA synchronous=OFF;");
    open_replica(&c);
    track(&c, "t");
    app(&c,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) INSERT INTO t SELECT i, 1, 2 "
        "FROM n");
    seal_all(&c);
    app(&c, "UPDATE t SET a = 2");
    must(cs_replica_extract(c.r, &a, 100000, 1 << 30, &d, &err), &err, "extract");
    assert_int_equal(d.nops, 0);
    cs_arena_free(&a);
    close_all(&c);
}

int main(void)
{
    static const struct CMUnitTest others[] = {
        cmocka_unit_test(more_columns_than_bits),
        { "more_columns_than_bits (shell)", more_columns_than_bits, NULL, NULL, (void *)"shell" },
        cmocka_unit_test(a_null_key_is_held_back),
        { "a_null_key_is_held_back (shell)", a_null_key_is_held_back, NULL, NULL, (void *)"shell" },
        cmocka_unit_test(null_keys_come_and_go),
        { "null_keys_come_and_go (shell)", null_keys_come_and_go, NULL, NULL, (void *)"shell" },
        cmocka_unit_test(null_keys_of_a_pause),
        cmocka_unit_test(an_old_count_heals),
        cmocka_unit_test(null_keys_in_several_slices),
        cmocka_unit_test(the_application_does_not_notice),
        cmocka_unit_test(an_attached_database),
        cmocka_unit_test(an_orphan_is_sent_all_the_same),
        { "an_orphan_is_sent_all_the_same (shell)", an_orphan_is_sent_all_the_same, NULL, NULL, (void *)"shell" },
        cmocka_unit_test(an_orphan_in_several_slices),
        { "an_orphan_in_several_slices (restarts)", an_orphan_in_several_slices, NULL, NULL, (void *)"restart" },
        cmocka_unit_test(stamps_are_of_the_edit),
        cmocka_unit_test(equal_numbers_of_two_types),
        cmocka_unit_test(rows_in_the_changelog_are_not_extracted),
        cmocka_unit_test(an_edit_while_packing_is_sent_next),
        cmocka_unit_test(batches_are_bounded),
        cmocka_unit_test(a_huge_row_is_held_back),
        cmocka_unit_test(extract_beside_a_long_changelog),
    };
    enum { NOTHERS = sizeof others / sizeof others[0] };
    struct CMUnitTest t[2 * NCASES + NOTHERS];
    char names[NCASES][100];

    for (int i = 0; i < NCASES; i++) {
        snprintf(names[i], sizeof names[i], "%s (shell)", cases[i].name);
        t[2 * i] = (struct CMUnitTest){ cases[i].name, here, NULL, NULL, (void *)(uintptr_t)&cases[i] };
        t[2 * i + 1] = (struct CMUnitTest){ names[i], in_the_shell, NULL, NULL, (void *)(uintptr_t)&cases[i] };
    }
    memcpy(t + 2 * NCASES, others, sizeof others);
    return cmocka_run_group_tests_name("capture", t, NULL, NULL);
}
