/* What a column shows of a cell: affinity, STRICT types, NOT NULL; and what appears when the schema learns of it. In
 * each case the cell itself is kept, and is what the merged state holds. */
#include "unit/replica/apply_fixture.h"

static struct cs_uuid A;

static struct cs_slice key_of(struct delta *x, struct cs_value v)
{
    struct cs_buf b = { 0 };
    struct cs_slice out;

    cs_key_put(&b, &v, CS_BINARY);
    out = cs_arena_copy(&x->arena, cs_buf_slice(&b));
    cs_buf_free(&b);
    return out;
}

static void put_one(struct fixture *f, enum cs_op_kind kind, const char *table, struct cs_value key, const char *column,
                    struct cs_value v, int64_t stamp)
{
    struct delta x;
    struct cs_op *op;

    delta_init(&x);
    op = delta_op(&x, kind, table, key_of(&x, key), stamp, &A);
    if (kind != CS_OP_DELETE)
        op_cell(&x, op, column, v);
    fixture_apply(f, &x.d);
    delta_fini(&x);
}

/* The merged state's value of the one cell, as dumped: the end of the dump. */
static bool dump_ends_with(struct fixture *f, struct cs_value v)
{
    struct cs_buf dump = { 0 }, e = { 0 };
    struct cs_error err = { 0 };
    bool same;

    if (cs_replica_dump(f->r, &dump, &err) != CS_OK)
        fail_msg("dump: %s", err.msg);
    cs_value_encode(&e, &v);
    same = dump.len >= e.len && memcmp(dump.data + dump.len - e.len, e.data, e.len) == 0;
    cs_buf_free(&dump);
    cs_buf_free(&e);
    return same;
}

struct value_case {
    const char *name, *table; /* CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v …) */
    struct cs_value cell;
    const char *shown; /* quote(v); NULL: the row is hidden */
    const char *why;   /* of a hidden row */
    bool aside;        /* the cell is kept in sync_hidden */
};

static void value_case(void **state)
{
    const struct value_case *c = *state;
    const char *kept;
    struct fixture f;

    fixture_open(&f, c->table);
    fixture_replica(&f);
    fixture_track(&f, "t");
    fixture_seal(&f);
    for (int known = 0; known < 2; known++) { /* as an insert, then once more as an update */
        put_one(&f, known ? CS_OP_UPDATE : CS_OP_INSERT, "t", text("x"), "v", c->cell, 10 + known);
        assert_string_equal(app_value(&f, "SELECT quote(v) FROM t"), c->shown != NULL ? c->shown : "NULL");
        assert_string_equal(app_value(&f, "SELECT count(*) FROM t"), c->shown != NULL ? "1" : "0");
        assert_string_equal(app_value(&f, "SELECT reason FROM sync_hidden WHERE col = -1"),
                            c->why != NULL ? c->why : "NULL");
        kept = app_value(&f, "SELECT count(*) FROM sync_hidden WHERE col >= 0");
        assert_string_equal(kept, c->aside ? "1" : "0");
        assert_true(dump_ends_with(&f, c->cell));
    }
    if (strstr(c->table, "v TEXT") != NULL) { /* a value that fits takes the other's place */
        put_one(&f, CS_OP_UPDATE, "t", text("x"), "v", text("fits"), 20);
        assert_string_equal(app_value(&f, "SELECT v FROM t"), "fits");
        assert_string_equal(app_value(&f, "SELECT count(*) FROM sync_hidden"), "0");
    }
    fixture_close(&f);
}

#define T(type) "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v " type ")"
#define I(n)                                                                                                           \
    {                                                                                                                  \
        .type = CS_INTEGER, .u.i = (n)                                                                                 \
    }
#define R(n)                                                                                                           \
    {                                                                                                                  \
        .type = CS_REAL, .u.r = (n)                                                                                    \
    }
#define S(s)                                                                                                           \
    {                                                                                                                  \
        .type = CS_TEXT, .u.bytes = {(const uint8_t *)(s), sizeof(s) - 1 }                                             \
    }
#define B(s)                                                                                                           \
    {                                                                                                                  \
        .type = CS_BLOB, .u.bytes = {(const uint8_t *)(s), sizeof(s) - 1 }                                             \
    }
#define N                                                                                                              \
    {                                                                                                                  \
        .type = CS_NULL                                                                                                \
    }

static const struct value_case cases[] = {
    { "no affinity changes nothing", T(""), S("12"), "'12'", NULL, false },
    { "INTEGER takes an integer", T("INTEGER"), I(12), "12", NULL, false },
    { "INTEGER makes a number of text", T("INTEGER"), S(" 12"), "12", NULL, true },
    { "INTEGER leaves other text", T("INTEGER"), S("12 apples"), "'12 apples'", NULL, false },
    { "INTEGER leaves words", T("INTEGER"), S("nan"), "'nan'", NULL, false },
    { "INTEGER makes an integer of 3.0", T("INTEGER"), R(3.0), "3", NULL, true },
    { "INTEGER leaves 3.5", T("INTEGER"), R(3.5), "3.5", NULL, false },
    { "NUMERIC reads an exponent", T("NUMERIC"), S("1e3"), "1000", NULL, true },
    { "REAL stores 1 as 1.0", T("REAL"), I(1), "1.0", NULL, true },
    { "REAL keeps 1.0", T("REAL"), R(1.0), "1.0", NULL, false },
    { "REAL loses the sign of -0.0", T("REAL"), R(-0.0), "0.0", NULL, true },
    { "TEXT makes text of an integer", T("TEXT"), I(7), "'7'", NULL, true },
    { "TEXT makes text of a real", T("TEXT"), R(1.5), "'1.5'", NULL, true },
    { "TEXT leaves a blob", T("TEXT"), B("ab"), "X'6162'", NULL, false },
    { "NULL is a value", T("TEXT"), N, "NULL", NULL, false },
    { "NOT NULL shows the default", T("TEXT NOT NULL DEFAULT 'd'"), N, "'d'", NULL, true },
    { "NOT NULL without one hides the row", T("TEXT NOT NULL"), N, NULL, "notnull", true },
    { "STRICT INTEGER takes what converts", "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v INTEGER) STRICT", S("5"),
      "5", NULL, true },
    { "STRICT INTEGER refuses words", "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v INTEGER) STRICT", S("five"), NULL,
      "type", true },
    { "STRICT INTEGER refuses 1.5", "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v INTEGER) STRICT", R(1.5), NULL,
      "type", true },
    { "STRICT TEXT refuses a blob", "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v TEXT) STRICT", B("x"), NULL, "type",
      true },
    { "STRICT BLOB refuses text", "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v BLOB) STRICT", S("x"), NULL, "type",
      true },
    { "STRICT ANY takes anything as it is", "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v ANY) STRICT", S("12"),
      "'12'", NULL, false },
};
enum { NCASES = sizeof cases / sizeof cases[0] };

/* A rowid alias takes integers only; the text key of another schema waits. */
static void a_key_of_the_wrong_type_waits(void **state)
{
    struct fixture f;

    (void)state;
    fixture_open(&f, "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
    fixture_replica(&f);
    fixture_track(&f, "t");
    put_one(&f, CS_OP_INSERT, "t", text("x"), "v", integer(1), 10);
    put_one(&f, CS_OP_INSERT, "t", integer(5), "v", integer(1), 11);
    assert_string_equal(app_value(&f, "SELECT group_concat(k) FROM t"), "5");
    assert_string_equal(app_value(&f, "SELECT reason FROM sync_hidden WHERE col = -1"), "type");
    fixture_close(&f);
}

static void a_column_appears_with_its_values(void **state)
{
    struct fixture f;
    struct cs_error err = { 0 };
    bool changed;

    (void)state;
    fixture_open(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v)");
    fixture_replica(&f);
    fixture_track(&f, "t");
    put_one(&f, CS_OP_INSERT, "t", text("x"), "later", text("from afar"), 10);
    assert_string_equal(app_value(&f, "SELECT k FROM t"), "x");
    app_exec(&f, "ALTER TABLE t ADD COLUMN later");
    if (cs_replica_check_schema(f.r, &changed, &err) != CS_OK)
        fail_msg("%s", err.msg);
    assert_true(changed);
    fixture_seal(&f);
    assert_string_equal(app_value(&f, "SELECT later FROM t"), "from afar");
    assert_string_equal(app_value(&f, "SELECT count(*) FROM sync_hidden"), "0");
    fixture_close(&f);
}

static void a_table_appears_with_its_rows(void **state)
{
    struct fixture f;

    (void)state;
    fixture_open(&f, "CREATE TABLE other(k TEXT PRIMARY KEY NOT NULL)");
    fixture_replica(&f);
    fixture_track(&f, "other");
    put_one(&f, CS_OP_INSERT, "t", text("x"), "v", integer(1), 10);
    put_one(&f, CS_OP_INSERT, "t", text("y"), "v", integer(2), 11);
    put_one(&f, CS_OP_DELETE, "t", text("x"), NULL, null(), 12);
    assert_string_equal(app_value(&f, "SELECT group_concat(reason) FROM sync_hidden WHERE col = -1"), "table");
    app_exec(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v)");
    fixture_track(&f, "t");
    fixture_seal(&f);
    assert_string_equal(app_value(&f, "SELECT group_concat(k || v) FROM t"), "y2");
    assert_string_equal(app_value(&f, "SELECT count(*) FROM sync_hidden"), "0");
    fixture_close(&f);
}

/* A copied device identity: the larger value everywhere, and somebody has to look. */
static void a_copied_device_is_raised(void **state)
{
    struct fixture f;

    (void)state;
    fixture_open(&f, T("TEXT"));
    fixture_replica(&f);
    fixture_track(&f, "t");
    put_one(&f, CS_OP_INSERT, "t", text("x"), "v", text("a"), 10);
    put_one(&f, CS_OP_UPDATE, "t", text("x"), "v", text("c"), 20);
    put_one(&f, CS_OP_UPDATE, "t", text("x"), "v", text("b"), 20);
    assert_string_equal(app_value(&f, "SELECT v FROM t"), "c");
    assert_string_equal(app_value(&f, "SELECT why || state || value FROM sync_conflicts WHERE stamp = 20"),
                        "copied-devicemanualb");
    put_one(&f, CS_OP_UPDATE, "t", text("x"), "v", text("d"), 20);
    assert_string_equal(app_value(&f, "SELECT v FROM t"), "d");
    fixture_close(&f);
}

/* Partial unique indexes claim only what their condition covers. */
static void a_partial_index_claims_what_it_covers(void **state)
{
    struct fixture f;

    (void)state;
    fixture_open(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v INTEGER);"
                     "CREATE UNIQUE INDEX u ON t(v) WHERE v > 0;");
    fixture_replica(&f);
    fixture_track(&f, "t");
    put_one(&f, CS_OP_INSERT, "t", text("a"), "v", integer(0), 10);
    put_one(&f, CS_OP_INSERT, "t", text("b"), "v", integer(0), 11);
    put_one(&f, CS_OP_INSERT, "t", text("d"), "v", integer(1), 13);
    put_one(&f, CS_OP_INSERT, "t", text("c"), "v", integer(1), 12);
    assert_string_equal(app_value(&f, "SELECT group_concat(k) FROM (SELECT k FROM t ORDER BY k)"), "a,b,c");
    put_one(&f, CS_OP_UPDATE, "t", text("c"), "v", integer(0), 20);
    assert_string_equal(app_value(&f, "SELECT group_concat(k) FROM (SELECT k FROM t ORDER BY k)"), "a,b,c,d");
    fixture_close(&f);
}

/* The application deletes what others wait for, and makes orphans. */
static void the_application_frees_a_key(void **state)
{
    struct fixture f;

    (void)state;
    fixture_open(&f, "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL, v UNIQUE);");
    fixture_replica(&f);
    fixture_track(&f, "t");
    put_one(&f, CS_OP_INSERT, "t", text("a"), "v", integer(1), 10);
    put_one(&f, CS_OP_INSERT, "t", text("b"), "v", integer(1), 11);
    assert_string_equal(app_value(&f, "SELECT group_concat(k) FROM t"), "a");
    app_exec(&f, "DELETE FROM t WHERE k = 'a'");
    fixture_seal(&f);
    assert_string_equal(app_value(&f, "SELECT group_concat(k) FROM t"), "b");
    fixture_close(&f);
}

int main(void)
{
    struct CMUnitTest t[NCASES + 16];
    size_t n = 0;

    A = device_id(1);
    for (; n < NCASES; n++)
        t[n] = (struct CMUnitTest){ .name = cases[n].name,
                                    .test_func = value_case,
                                    .initial_state = (void *)(uintptr_t)&cases[n] };
    t[n++] = (struct CMUnitTest)cmocka_unit_test(a_key_of_the_wrong_type_waits);
    t[n++] = (struct CMUnitTest)cmocka_unit_test(a_column_appears_with_its_values);
    t[n++] = (struct CMUnitTest)cmocka_unit_test(a_table_appears_with_its_rows);
    t[n++] = (struct CMUnitTest)cmocka_unit_test(a_copied_device_is_raised);
    t[n++] = (struct CMUnitTest)cmocka_unit_test(a_partial_index_claims_what_it_covers);
    t[n++] = (struct CMUnitTest)cmocka_unit_test(the_application_frees_a_key);
    return _cmocka_run_group_tests("values and schemas in apply", t, n, NULL, NULL);
}
