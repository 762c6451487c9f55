/* The merge vectors through a database: each case's schema is created in SQLite, each delivery applied batch by batch,
 * and the tables, what is hidden, the dump and the conflict records compared with the specification's answers. */
#include "unit/replica/apply_fixture.h"

#include <jansson.h>

static json_t *vectors;

/* ---- JSON to values ---- */

static struct cs_value json_value(struct cs_arena *a, const json_t *j)
{
    struct cs_value v = { .type = CS_NULL };
    const char *hex, *kind;
    uint8_t *bytes, be[8];

    if (json_is_integer(j))
        return integer(json_integer_value(j));
    if (json_is_string(j)) {
        v.type = CS_TEXT;
        v.u.bytes = cs_slice(json_string_value(j), json_string_length(j));
        return v;
    }
    if (!json_is_object(j))
        return v;
    kind = json_object_iter_key(json_object_iter((json_t *)j));
    hex = json_string_value(json_object_get(j, kind));
    if (kind[0] == 'r') {
        uint64_t bits;

        assert_true(cs_unhex(be, 8, hex));
        bits = cs_load_u64(be);
        v.type = CS_REAL;
        memcpy(&v.u.r, &bits, 8);
        return v;
    }
    v.type = kind[0] == 't' ? CS_TEXT : CS_BLOB;
    bytes = cs_arena_alloc(a, strlen(hex) / 2 + 1);
    assert_true(cs_unhex(bytes, strlen(hex) / 2, hex));
    v.u.bytes = cs_slice(bytes, strlen(hex) / 2);
    return v;
}

/* Keys in vectors are canonical already. */
static struct cs_slice json_key(struct cs_arena *a, const json_t *j)
{
    struct cs_buf b = { 0 };
    struct cs_slice out;

    for (size_t i = 0; i < json_array_size(j); i++) {
        struct cs_value v = json_value(a, json_array_get(j, i));

        cs_key_put(&b, &v, CS_BINARY);
    }
    out = cs_arena_copy(a, cs_buf_slice(&b));
    cs_buf_free(&b);
    return out;
}

static struct cs_uuid case_device(const json_t *c, json_int_t i)
{
    struct cs_uuid u;
    const char *hex = json_string_value(json_array_get(json_object_get(c, "devices"), (size_t)i));

    assert_true(cs_unhex(u.b, 16, hex));
    return u;
}

/* ---- schemas ---- */

static void put_names(struct cs_buf *sql, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        cs_buf_printf(sql, "%s\"%s\"", i > 0 ? ", " : "(", json_string_value(json_array_get(list, i)));
    cs_buf_put_str(sql, ")");
}

static void put_constant(struct cs_buf *sql, const json_t *v)
{
    if (json_is_integer(v))
        cs_buf_printf(sql, "%lld", (long long)json_integer_value(v));
    else
        fail_msg("a constant that is no integer");
}

static void put_table(struct cs_buf *sql, const char *name, const json_t *t)
{
    const json_t *col, *x;
    const char *column;
    size_t i;
    json_t *columns = json_object_get(t, "columns");

    cs_buf_printf(sql, "CREATE TABLE \"%s\"(", name);
    json_object_foreach(columns, column, col)
    {
        cs_buf_printf(sql, "\"%s\"", column);
        json_array_foreach(json_object_get(t, "key"), i, x) if (strcmp(json_string_value(x), column) == 0)
            cs_buf_put_str(sql, " NOT NULL");
        if (json_is_true(json_object_get(col, "notnull")))
            cs_buf_put_str(sql, " NOT NULL");
        if (json_object_get(col, "default") != NULL) {
            cs_buf_put_str(sql, " DEFAULT ");
            put_constant(sql, json_object_get(col, "default"));
        }
        if (json_object_get(col, "collate") != NULL)
            cs_buf_printf(sql, " COLLATE %s", json_string_value(json_object_get(col, "collate")));
        cs_buf_put_str(sql, ", ");
    }
    cs_buf_put_str(sql, "PRIMARY KEY");
    put_names(sql, json_object_get(t, "key"));
    json_array_foreach(json_object_get(t, "unique"), i, x)
    {
        cs_buf_put_str(sql, ", UNIQUE");
        put_names(sql, x);
    }
    json_array_foreach(json_object_get(t, "fk"), i, x)
    {
        cs_buf_put_str(sql, ", FOREIGN KEY");
        put_names(sql, json_object_get(x, "columns"));
        cs_buf_printf(sql, " REFERENCES \"%s\"", json_string_value(json_object_get(x, "table")));
        put_names(sql, json_object_get(x, "refs"));
    }
    json_array_foreach(json_object_get(t, "check"), i, x)
    {
        const json_t *other = json_array_get(x, 2);

        cs_buf_printf(sql, ", CHECK(\"%s\" %s ", json_string_value(json_array_get(x, 0)),
                      json_string_value(json_array_get(x, 1)));
        if (json_object_get(other, "column") != NULL)
            cs_buf_printf(sql, "\"%s\"", json_string_value(json_object_get(other, "column")));
        else
            put_constant(sql, json_object_get(other, "value"));
        cs_buf_put_str(sql, ")");
    }
    cs_buf_put_str(sql, ");\n");
}

static void open_schema(struct fixture *f, json_t *schema)
{
    struct cs_buf sql = { 0 };
    const char *name;
    const json_t *t;

    json_object_foreach(schema, name, t) put_table(&sql, name, t);
    cs_buf_put_u8(&sql, 0);
    fixture_open(f, (const char *)sql.data);
    fixture_replica(f);
    json_object_foreach(schema, name, t) fixture_track(f, name);
    fixture_seal(f);
    cs_buf_free(&sql);
}

/* ---- operations ---- */

static void add_op(struct delta *x, const json_t *c, const json_t *j)
{
    const char *kind = json_string_value(json_object_get(j, "op")), *column;
    struct cs_uuid device = case_device(c, json_integer_value(json_object_get(j, "device")));
    enum cs_op_kind k = kind[0] == 'i' ? CS_OP_INSERT : kind[0] == 'u' ? CS_OP_UPDATE : CS_OP_DELETE;
    struct cs_op *op =
        delta_op(x, k, json_string_value(json_object_get(j, "table")), json_key(&x->arena, json_object_get(j, "key")),
                 json_integer_value(json_object_get(j, "stamp")), &device);
    json_t *v;

    json_object_foreach(json_object_get(j, "cells"), column, v) op_cell(x, op, column, json_value(&x->arena, v));
    json_object_foreach(json_object_get(j, "over"), column, v)
    {
        struct cs_uuid od = case_device(c, json_integer_value(json_array_get(v, 1)));

        op_over(x, op, column, json_integer_value(json_array_get(v, 0)), &od);
    }
}

static void deliver(struct fixture *f, const json_t *c, const json_t *delivery)
{
    const json_t *batch, *index;
    size_t i, k;

    json_array_foreach(json_object_get(delivery, "batches"), i, batch)
    {
        struct delta x;

        delta_init(&x);
        json_array_foreach(batch, k, index)
            add_op(&x, c, json_array_get(json_object_get(c, "ops"), (size_t)json_integer_value(index)));
        fixture_apply(f, &x.d);
        delta_fini(&x);
    }
}

/* ---- sets of lines, to compare ---- */

struct lines {
    char *line[4096];
    size_t n;
};

static void add_line(struct lines *l, struct cs_buf *b)
{
    assert_true(l->n < 4096);
    cs_buf_put_u8(b, 0);
    l->line[l->n++] = (char *)b->data;
    *b = (struct cs_buf){ 0 };
}

static void put_hex(struct cs_buf *b, struct cs_slice s)
{
    for (size_t i = 0; i < s.len; i++)
        cs_buf_printf(b, "%02x", s.data[i]);
}

static void put_value(struct cs_buf *b, const char *name, const struct cs_value *v)
{
    struct cs_buf e = { 0 };

    cs_value_encode(&e, v);
    cs_buf_printf(b, " %s=", name);
    put_hex(b, cs_buf_slice(&e));
    cs_buf_free(&e);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void lines_free(struct lines *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->line[i]);
    l->n = 0;
}

static void same_lines(struct lines *got, struct lines *want, const char *what, const char *where)
{
    qsort(got->line, got->n, sizeof got->line[0], by_text);
    qsort(want->line, want->n, sizeof want->line[0], by_text);
    for (size_t i = 0; i < got->n || i < want->n; i++)
        if (i >= got->n || i >= want->n || strcmp(got->line[i], want->line[i]) != 0)
            fail_msg("%s, %s: got %s, want %s (%zu and %zu)", where, what, i < got->n ? got->line[i] : "nothing",
                     i < want->n ? want->line[i] : "nothing", got->n, want->n);
    lines_free(got);
    lines_free(want);
}

static bool has_line(const struct lines *l, const char *s)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->line[i], s) == 0)
            return true;
    return false;
}

/* ---- comparisons ---- */

static void compare_rows(struct fixture *f, const json_t *schema, json_t *rows, const char *where)
{
    struct lines got = { 0 }, want = { 0 };
    struct cs_arena a = { 0 };
    const char *table, *column;
    json_t *list, *row, *v;
    size_t i;

    json_object_foreach(rows, table, list)
    {
        json_t *columns = json_object_get(json_object_get(schema, table), "columns");
        struct cs_buf sql = { 0 }, b = { 0 };
        sqlite3_stmt *s;

        json_array_foreach(list, i, row)
        {
            cs_buf_put_str(&b, table);
            json_object_foreach(columns, column, v)
            {
                struct cs_value x = json_value(&a, json_object_get(row, column));

                put_value(&b, column, &x);
            }
            add_line(&want, &b);
        }
        cs_buf_printf(&sql, "SELECT 0");
        json_object_foreach(columns, column, v) cs_buf_printf(&sql, ", \"%s\"", column);
        cs_buf_printf(&sql, " FROM \"%s\"", table);
        cs_buf_put_u8(&sql, 0);
        assert_int_equal(sqlite3_prepare_v2(f->app, (char *)sql.data, -1, &s, NULL), SQLITE_OK);
        while (sqlite3_step(s) == SQLITE_ROW) {
            int k = 1;

            cs_buf_put_str(&b, table);
            json_object_foreach(columns, column, v)
            {
                struct cs_value x;

                cs_value_from_column(&x, s, k++);
                put_value(&b, column, &x);
            }
            add_line(&got, &b);
        }
        sqlite3_finalize(s);
        cs_buf_free(&sql);
    }
    same_lines(&got, &want, "rows", where);
    cs_arena_free(&a);
}

/* Lines from a query whose columns are: table name, key blob, one more. */
static void query_lines(struct fixture *f, const char *sql, struct lines *out)
{
    struct cs_buf b = { 0 };
    sqlite3_stmt *s = NULL;

    if (sqlite3_prepare_v2(f->app, sql, -1, &s, NULL) != SQLITE_OK)
        fail_msg("%s in %s", sqlite3_errmsg(f->app), sql);
    while (sqlite3_step(s) == SQLITE_ROW) {
        cs_buf_printf(&b, "%s ", (const char *)sqlite3_column_text(s, 0));
        put_hex(&b, cs_slice(sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1)));
        for (int i = 2; i < sqlite3_column_count(s); i++)
            cs_buf_printf(&b, " %s", (const char *)sqlite3_column_text(s, i));
        add_line(out, &b);
    }
    sqlite3_finalize(s);
}

/* Lines from arrays [table, key, word …] (or, skip = 1, [x, table, key …]). */
static void json_lines(const json_t *list, size_t skip, struct lines *out)
{
    struct cs_arena a = { 0 };
    struct cs_buf b = { 0 };
    const json_t *x;
    size_t i;

    json_array_foreach(list, i, x)
    {
        cs_buf_printf(&b, "%s ", json_string_value(json_array_get(x, skip)));
        put_hex(&b, json_key(&a, json_array_get(x, skip + 1)));
        if (skip == 0)
            cs_buf_printf(&b, " %s", json_string_value(json_array_get(x, 2)));
        else
            cs_buf_printf(&b, " %s", json_string_value(json_array_get(x, 0)));
        add_line(out, &b);
    }
    cs_arena_free(&a);
}

static void compare_hidden(struct fixture *f, const json_t *want_projection, const char *where)
{
    struct lines got = { 0 }, want = { 0 }, more = { 0 };
    json_t *hidden = json_object_get(want_projection, "hidden");
    const json_t *x, *h;
    json_t *shown = json_array();
    size_t i, k;

    query_lines(f,
                "SELECT t.name, h.key, h.reason FROM sync_hidden h JOIN sync_tables t ON t.id = h.tbl WHERE h.col = -1",
                &got);
    json_lines(hidden, 0, &want);
    same_lines(&got, &want, "hidden", where);

    json_array_foreach(json_object_get(want_projection, "hidden_cells"), i, x)
    {
        bool row_hidden = false;

        json_array_foreach(hidden, k, h) row_hidden |= json_equal(json_array_get(h, 0), json_array_get(x, 0)) &&
                                                       json_equal(json_array_get(h, 1), json_array_get(x, 1));
        if (!row_hidden)
            json_array_append(shown, (json_t *)x);
    }
    /* Key columns that spell another key are kept too, and are no hidden cells in the specification's list. */
    query_lines(
        f,
        "SELECT t.name, h.key, c.name FROM sync_hidden h JOIN sync_tables t ON t.id = h.tbl "
        "JOIN sync_columns c ON c.tbl = h.tbl AND c.id = h.col "
        "JOIN sync_rows r ON r.tbl = h.tbl AND r.key = h.key "
        "WHERE h.col >= 0 AND coalesce(r.ins, 0) > coalesce(r.del, 0) AND c.name NOT IN ('k', 'l') AND NOT EXISTS "
        "(SELECT 1 FROM sync_hidden w WHERE w.tbl = h.tbl AND w.key = h.key AND w.col = -1)",
        &got);
    json_lines(shown, 0, &want);
    same_lines(&got, &want, "hidden cells", where);
    json_decref(shown);

    query_lines(f, "SELECT t.name, c.key, c.why FROM sync_conflicts c JOIN sync_tables t ON t.id = c.tbl", &more);
    json_lines(json_object_get(want_projection, "raised"), 1, &want);
    for (i = 0; i < want.n; i++)
        if (!has_line(&more, want.line[i]))
            fail_msg("%s: not raised: %s", where, want.line[i]);
    lines_free(&more);
    lines_free(&want);
}

static void compare_dump(struct fixture *f, const json_t *c, const char *where)
{
    const char *want = json_string_value(json_object_get(c, "merged_dump"));
    struct cs_buf dump = { 0 }, hex = { 0 };
    struct cs_error err = { 0 };

    if (cs_replica_dump(f->r, &dump, &err) != CS_OK)
        fail_msg("%s: dump: %s", where, err.msg);
    put_hex(&hex, cs_buf_slice(&dump));
    cs_buf_put_u8(&hex, 0);
    if (strcmp((char *)hex.data, want) != 0)
        fail_msg("%s: dump\n got %s\nwant %s", where, (char *)hex.data, want);
    cs_buf_free(&dump);
    cs_buf_free(&hex);
}

/* An entry's id leaves the reason out, so an edit that lost twice is on record once, for the first reason. */
static void same_conflicts(struct lines *got, struct lines *want, const char *where)
{
    for (size_t i = 0; i < got->n; i++)
        if (!has_line(want, got->line[i]))
            fail_msg("%s: recorded: %s", where, got->line[i]);
    for (size_t i = 0; i < want->n; i++) {
        const char *id = strchr(want->line[i], '|');
        bool found = false;

        for (size_t k = 0; k < got->n; k++)
            found |= strcmp(strchr(got->line[k], '|'), id) == 0;
        if (!found)
            fail_msg("%s: not recorded: %s", where, want->line[i]);
    }
    lines_free(got);
    lines_free(want);
}

static void compare_conflicts(struct fixture *f, const json_t *c, const json_t *delivery, const char *where)
{
    struct lines got = { 0 }, want = { 0 };
    struct cs_arena a = { 0 };
    struct cs_buf b = { 0 };
    const json_t *x;
    sqlite3_stmt *s = NULL;
    size_t i;
    static const char sql[] =
        "SELECT t.name, c.key, c.why, n.name, c.stamp, c.device, c.value FROM sync_conflicts c "
        "JOIN sync_tables t ON t.id = c.tbl JOIN sync_columns n ON n.tbl = c.tbl AND n.id = c.col "
        "WHERE c.why IN ('overwritten', 'deleted', 'copied-device')";

    json_array_foreach(json_object_get(delivery, "conflicts"), i, x)
    {
        struct cs_value v = json_value(&a, json_object_get(x, "value"));
        struct cs_uuid d = case_device(c, json_integer_value(json_object_get(x, "device")));

        cs_buf_printf(&b, "%s|%s ", json_string_value(json_object_get(x, "why")),
                      json_string_value(json_object_get(x, "table")));
        put_hex(&b, json_key(&a, json_object_get(x, "key")));
        cs_buf_printf(&b, " %s %lld ", json_string_value(json_object_get(x, "column")),
                      (long long)json_integer_value(json_object_get(x, "stamp")));
        put_hex(&b, cs_slice(d.b, 16));
        put_value(&b, "value", &v);
        add_line(&want, &b);
    }
    if (sqlite3_prepare_v2(f->app, sql, -1, &s, NULL) != SQLITE_OK)
        fail_msg("%s", sqlite3_errmsg(f->app));
    while (sqlite3_step(s) == SQLITE_ROW) {
        struct cs_value v;

        cs_value_from_column(&v, s, 6);
        cs_buf_printf(&b, "%s|%s ", (const char *)sqlite3_column_text(s, 2), (const char *)sqlite3_column_text(s, 0));
        put_hex(&b, cs_slice(sqlite3_column_blob(s, 1), (size_t)sqlite3_column_bytes(s, 1)));
        cs_buf_printf(&b, " %s %s ", (const char *)sqlite3_column_text(s, 3), (const char *)sqlite3_column_text(s, 4));
        put_hex(&b, cs_slice(sqlite3_column_blob(s, 5), (size_t)sqlite3_column_bytes(s, 5)));
        put_value(&b, "value", &v);
        add_line(&got, &b);
    }
    sqlite3_finalize(s);
    same_conflicts(&got, &want, where);
    cs_arena_free(&a);
}

static void one_case(void **state)
{
    json_t *c = *state, *schemas = json_object_get(c, "schemas"), *schema, *deliveries, *delivery;
    const char *name;
    size_t i;

    deliveries = json_object_get(c, "deliveries");
    json_object_foreach(schemas, name, schema)
    {
        json_array_foreach(deliveries, i, delivery)
        {
            json_t *projection = json_object_get(json_object_get(c, "projections"), name);
            struct fixture f;
            char where[256];

            snprintf(where, sizeof where, "%s, schema %s, delivery %zu", json_string_value(json_object_get(c, "name")),
                     name, i);
            open_schema(&f, schema);
            deliver(&f, c, delivery);
            compare_rows(&f, schema, json_object_get(projection, "rows"), where);
            compare_hidden(&f, projection, where);
            compare_dump(&f, c, where);
            if (json_is_true(json_object_get(delivery, "log")))
                compare_conflicts(&f, c, delivery, where);
            deliver(&f, c, delivery); /* known operations change nothing */
            compare_rows(&f, schema, json_object_get(projection, "rows"), where);
            compare_dump(&f, c, where);
            fixture_close(&f);
        }
    }
}

int main(void)
{
    static struct CMUnitTest tests[1024];
    json_t *cases, *c;
    json_error_t err;
    size_t i, n = 0;
    const char *only = getenv("CS_CASE");

    vectors = json_load_file(CS_TESTS_DIR "/vectors/merge.json", JSON_ALLOW_NUL, &err);
    if (vectors == NULL) {
        fprintf(stderr, "cannot read tests/vectors/merge.json: %s\n", err.text);
        return 1;
    }
    cases = json_object_get(vectors, "cases");
    json_array_foreach(cases, i, c)
    {
        const char *name = json_string_value(json_object_get(c, "name"));

        if (n < 1024 && (only == NULL || strcmp(only, name) == 0))
            tests[n++] = (struct CMUnitTest){ .name = name, .test_func = one_case, .initial_state = c };
    }
    i = (size_t)_cmocka_run_group_tests("merge vectors through a database", tests, n, NULL, NULL);
    json_decref(vectors);
    return (int)i;
}
