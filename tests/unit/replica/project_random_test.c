/* The projection step by step against deciding from scratch: random schemas (UNIQUE, foreign keys in circles and not,
 * NOT NULL, defaults, NOCASE keys), random batches in any order and the application's own edits between them. After
 * each step the tables must show what crdt's projection of the same merged state shows.
 * CS_SEED and CS_ROUNDS choose other runs. */
#include "unit/replica/apply_fixture.h"

#include "crdt/project.h"

static uint64_t seed;
static uint32_t rnd(uint32_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 11) % n;
}
static bool chance(uint32_t percent)
{
    return rnd(100) < percent;
}

/* ---- schemas ---- */

enum { TABLES = 3, COLUMNS = 6, LISTS = 4 };

struct table {
    struct cs_schema_column columns[COLUMNS];
    uint32_t key[2], unique_cols[LISTS][2], fk_cols[LISTS][2], fk_refs[LISTS][2];
    struct cs_schema_unique uniques[LISTS];
    struct cs_schema_fk fks[LISTS];
    bool check;
};
struct schema {
    struct table t[TABLES];
    struct cs_schema_table tables[TABLES];
    struct cs_schema s;
};
static const char *const table_names[] = { "p", "q", "r" };
static const char *const column_names[] = { "k", "l", "a", "b", "c", "d" };

static void make_table(struct schema *s, uint32_t i)
{
    struct table *t = &s->t[i];
    struct cs_schema_table *st = &s->tables[i];
    uint32_t nkey = chance(80) ? 1 : 2, ndata = 2 + rnd(3), first = nkey;

    memset(t, 0, sizeof *t);
    *st = (struct cs_schema_table){ .name = cs_slice_str(table_names[i]),
                                    .columns = t->columns,
                                    .key = t->key,
                                    .uniques = t->uniques,
                                    .fks = t->fks,
                                    .ncolumns = nkey + ndata,
                                    .nkey = nkey };
    for (uint32_t c = 0; c < nkey; c++)
        t->key[c] = c;
    for (uint32_t c = 0; c < st->ncolumns; c++)
        t->columns[c].name = cs_slice_str(column_names[c < nkey ? c : 2 + c - nkey]);
    if (chance(30))
        t->columns[0].rule.collation = CS_NOCASE;
    for (uint32_t n = rnd(3); n > 0; n--) {
        struct cs_schema_unique *u = &t->uniques[st->nuniques];
        uint32_t *cols = t->unique_cols[st->nuniques++];

        cols[0] = first + rnd(ndata - 1);
        cols[1] = cols[0] + 1;
        *u = (struct cs_schema_unique){ .cols = cols, .ncols = chance(75) ? 1 : 2 };
    }
    if (chance(30))
        t->columns[first + rnd(ndata)].rule.notnull = true;
    if (chance(40)) {
        struct cs_column_rule *r = &t->columns[first + rnd(ndata)].rule;

        r->has_default = true;
        r->default_value = integer(1 + rnd(2));
    }
    if (chance(15))
        t->columns[st->ncolumns - 1].rule.collation = CS_NOCASE;
}

static void add_fk(struct schema *s, uint32_t child, uint32_t parent)
{
    struct table *t = &s->t[child];
    struct cs_schema_table *st = &s->tables[child], *p = &s->tables[parent];
    const uint32_t *refs = p->key;
    uint32_t n = p->nkey, ndata = st->ncolumns - st->nkey, from;
    struct cs_schema_fk *f = &t->fks[st->nfks];

    if (p->nuniques > 0 && chance(25)) {
        refs = p->uniques[0].cols;
        n = p->uniques[0].ncols;
    }
    if (n > ndata || st->nfks == LISTS)
        return;
    from = st->nkey + rnd(ndata - n + 1);
    for (uint32_t i = 0; i < n; i++) {
        t->fk_cols[st->nfks][i] = from + i;
        t->fk_refs[st->nfks][i] = refs[i];
    }
    *f = (struct cs_schema_fk){
        .cols = t->fk_cols[st->nfks], .refs = t->fk_refs[st->nfks], .ncols = n, .parent = parent
    };
    st->nfks++;
}

static void make_schema(struct schema *s)
{
    uint32_t shape = rnd(4), n = 1 + rnd(TABLES);

    memset(s, 0, sizeof *s);
    for (uint32_t i = 0; i < n; i++)
        make_table(s, i);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            if ((j < i || (shape == 2 && j == i) || shape == 3) && chance(60))
                add_fk(s, i, j);
    s->s = (struct cs_schema){ .tables = s->tables, .ntables = n };
}

static void put_list(struct cs_buf *sql, const struct cs_schema_table *t, const uint32_t *cols, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        cs_buf_printf(sql, "%s%.*s", i > 0 ? ", " : "(", 1, (const char *)t->columns[cols[i]].name.data);
    cs_buf_put_str(sql, ")");
}

static void put_schema(struct cs_buf *sql, const struct schema *s)
{
    for (uint32_t i = 0; i < s->s.ntables; i++) {
        const struct cs_schema_table *t = &s->tables[i];

        cs_buf_printf(sql, "CREATE TABLE %s(", table_names[i]);
        for (uint32_t c = 0; c < t->ncolumns; c++) {
            const struct cs_column_rule *r = &t->columns[c].rule;

            cs_buf_printf(sql, "%.*s%s%s, ", 1, (const char *)t->columns[c].name.data,
                          r->notnull || c < t->nkey ? " NOT NULL" : "",
                          r->collation == CS_NOCASE ? " COLLATE NOCASE" : "");
            if (r->has_default) {
                sql->len -= 2;
                cs_buf_printf(sql, " DEFAULT %d, ", (int)r->default_value.u.i);
            }
        }
        cs_buf_put_str(sql, "PRIMARY KEY");
        put_list(sql, t, t->key, t->nkey);
        for (uint32_t u = 0; u < t->nuniques; u++) {
            cs_buf_put_str(sql, ", UNIQUE");
            put_list(sql, t, t->uniques[u].cols, t->uniques[u].ncols);
        }
        for (uint32_t f = 0; f < t->nfks; f++) {
            cs_buf_put_str(sql, ", FOREIGN KEY");
            put_list(sql, t, t->fks[f].cols, t->fks[f].ncols);
            cs_buf_printf(sql, " REFERENCES %s", table_names[t->fks[f].parent]);
            put_list(sql, &s->tables[t->fks[f].parent], t->fks[f].refs, t->fks[f].ncols);
        }
        cs_buf_put_str(sql, chance(30) ? ") WITHOUT ROWID;\n" : ");\n");
    }
    cs_buf_put_u8(sql, 0);
}

/* ---- operations ---- */

static int64_t base_stamp;

static struct cs_value small_value(void)
{
    switch (rnd(9)) {
    case 0:
    case 1:
        return null();
    case 2:
        return real(1.0);
    case 3:
        return text("a");
    case 4:
        return text("A");
    default:
        return integer(rnd(3));
    }
}

static void random_op(struct delta *x, const struct schema *s)
{
    uint32_t i = rnd(s->s.ntables);
    const struct cs_schema_table *t = &s->tables[i];
    enum cs_op_kind kind = chance(55) ? CS_OP_INSERT : chance(60) ? CS_OP_UPDATE : CS_OP_DELETE;
    struct cs_uuid device = device_id(1 + (int)rnd(3));
    struct cs_value literal[2];
    struct cs_buf key = { 0 };
    struct cs_op *op;

    for (uint32_t c = 0; c < t->nkey; c++) {
        bool nocase = t->columns[c].rule.collation == CS_NOCASE;
        static const char *const letters[] = { "a", "A", "b", "B" };

        literal[c] = nocase ? text(letters[rnd(4)]) : integer(rnd(4));
        cs_key_put(&key, &literal[c], nocase ? CS_NOCASE : CS_BINARY);
    }
    op = delta_op(x, kind, table_names[i], cs_buf_slice(&key), base_stamp + (int64_t)rnd(300 * 65536), &device);
    cs_buf_free(&key);
    if (kind == CS_OP_DELETE)
        return;
    for (uint32_t c = 0; c < t->ncolumns; c++) {
        char name[2] = { (char)t->columns[c].name.data[0], 0 };

        if (c < t->nkey) {
            if (t->columns[c].rule.collation == CS_NOCASE && kind == CS_OP_INSERT)
                op_cell(x, op, name, literal[c]);
        } else if (kind == CS_OP_INSERT ? chance(90) : chance(40)) {
            op_cell(x, op, name, small_value());
        }
    }
    if (kind == CS_OP_INSERT && chance(10))
        op_cell(x, op, "x", integer(rnd(2))); /* a column that only others have */
    if (kind == CS_OP_UPDATE && op->ncells == 0)
        op_cell(x, op, "a", small_value());
}

/* ---- the application ---- */

static void put_sql_value(struct cs_buf *sql, const struct cs_value *v)
{
    if (v->type == CS_NULL)
        cs_buf_put_str(sql, "NULL");
    else if (v->type == CS_INTEGER)
        cs_buf_printf(sql, "%d", (int)v->u.i);
    else if (v->type == CS_REAL)
        cs_buf_printf(sql, "%.1f", v->u.r);
    else
        cs_buf_printf(sql, "'%.*s'", (int)v->u.bytes.len, (const char *)v->u.bytes.data);
}

static void random_statement(struct fixture *f, const struct schema *s)
{
    uint32_t i = rnd(s->s.ntables), what = rnd(10);
    const struct cs_schema_table *t = &s->tables[i];
    struct cs_buf sql = { 0 };

    if (what < 5) {
        cs_buf_printf(&sql, "INSERT %s INTO %s VALUES(", what < 2 ? "OR REPLACE" : "", table_names[i]);
        for (uint32_t c = 0; c < t->ncolumns; c++) {
            struct cs_value v = c >= t->nkey                                ? small_value()
                                : t->columns[c].rule.collation == CS_NOCASE ? text(chance(50) ? "A" : "b")
                                                                            : integer(rnd(4));

            if (v.type == CS_NULL && t->columns[c].rule.notnull)
                v = integer(rnd(3));
            cs_buf_put_str(&sql, c > 0 ? ", " : "");
            put_sql_value(&sql, &v);
        }
        cs_buf_put_str(&sql, ")");
    } else if (what < 8) {
        uint32_t c = t->nkey + rnd(t->ncolumns - t->nkey);
        struct cs_value v = small_value();

        cs_buf_printf(&sql, "UPDATE %s SET %.*s = ", table_names[i], 1, (const char *)t->columns[c].name.data);
        put_sql_value(&sql, &v);
        cs_buf_printf(&sql, " WHERE k = (SELECT k FROM %s LIMIT 1 OFFSET %u)", table_names[i], rnd(4));
    } else {
        cs_buf_printf(&sql, "DELETE FROM %s WHERE k = (SELECT k FROM %s LIMIT 1 OFFSET %u)", table_names[i],
                      table_names[i], rnd(4));
    }
    cs_buf_put_u8(&sql, 0);
    sqlite3_exec(f->app, (const char *)sql.data, NULL, NULL, NULL); /* its constraints may refuse it */
    cs_buf_free(&sql);
}

/* ---- comparing ---- */

static int by_bytes(const void *a, const void *b)
{
    const struct cs_slice *x = a, *y = b;

    return cs_slice_cmp(*x, *y);
}

/* Rows of one table as sorted encodings of their columns. */
static void put_sorted(struct cs_buf *out, struct cs_slice *rows, size_t n)
{
    qsort(rows, n, sizeof *rows, by_bytes);
    for (size_t i = 0; i < n; i++) {
        cs_buf_put_slice(out, rows[i]);
        cs_buf_put_str(out, "\n");
    }
}

static void put_row_value(struct cs_buf *b, const struct cs_value *v)
{
    struct cs_buf e = { 0 };

    cs_value_encode(&e, v);
    for (size_t i = 0; i < e.len; i++)
        cs_buf_printf(b, "%02x", e.data[i]);
    cs_buf_put_str(b, " ");
    cs_buf_free(&e);
}

static struct cs_slice keep(struct cs_arena *a, struct cs_buf *b)
{
    struct cs_slice s = cs_arena_copy(a, cs_buf_slice(b));

    cs_buf_reset(b);
    return s;
}

static void table_shown(struct fixture *f, const struct schema *s, uint32_t i, struct cs_buf *out)
{
    const struct cs_schema_table *t = &s->tables[i];
    struct cs_slice rows[256];
    struct cs_arena a = { 0 };
    struct cs_buf b = { 0 };
    char sql[64];
    sqlite3_stmt *q;
    size_t n = 0;

    snprintf(sql, sizeof sql, "SELECT * FROM %s", table_names[i]);
    assert_int_equal(sqlite3_prepare_v2(f->app, sql, -1, &q, NULL), SQLITE_OK);
    while (sqlite3_step(q) == SQLITE_ROW && n < 256) {
        for (uint32_t c = 0; c < t->ncolumns; c++) {
            struct cs_value v;

            cs_value_from_column(&v, q, (int)c);
            put_row_value(&b, &v);
        }
        rows[n++] = keep(&a, &b);
    }
    sqlite3_finalize(q);
    put_sorted(out, rows, n);
    cs_arena_free(&a);
    cs_buf_free(&b);
}

static void table_wanted(const struct cs_projection *p, const struct schema *s, uint32_t i, struct cs_buf *out)
{
    struct cs_slice rows[256];
    struct cs_arena a = { 0 };
    struct cs_buf b = { 0 };
    size_t n = 0;

    for (uint32_t r = 0; r < p->nrows && n < 256; r++) {
        if (p->rows[r].table != i)
            continue;
        for (uint32_t c = 0; c < s->tables[i].ncolumns; c++)
            put_row_value(&b, &p->rows[r].values[c]);
        rows[n++] = keep(&a, &b);
    }
    put_sorted(out, rows, n);
    cs_arena_free(&a);
    cs_buf_free(&b);
}

static void hidden_shown(struct fixture *f, struct cs_buf *out)
{
    struct cs_slice rows[256];
    struct cs_arena a = { 0 };
    sqlite3_stmt *q;
    size_t n = 0;

    assert_int_equal(sqlite3_prepare_v2(f->app,
                                        "SELECT t.name || hex(h.key) || h.reason FROM sync_hidden h JOIN sync_tables t "
                                        "ON t.id = h.tbl WHERE h.col = -1",
                                        -1, &q, NULL),
                     SQLITE_OK);
    while (sqlite3_step(q) == SQLITE_ROW && n < 256)
        rows[n++] = cs_arena_copy(&a, cs_slice_str((const char *)sqlite3_column_text(q, 0)));
    sqlite3_finalize(q);
    put_sorted(out, rows, n);
    cs_arena_free(&a);
}

static void hidden_wanted(const struct cs_projection *p, const struct cs_state *st, struct cs_buf *out)
{
    struct cs_slice rows[256];
    struct cs_arena a = { 0 };
    struct cs_buf b = { 0 };
    size_t n = 0;

    for (uint32_t i = 0; i < p->nhidden && n < 256; i++) {
        const struct cs_state_row *row = p->hidden[i].row;

        cs_buf_put_slice(&b, st->tables[row->table].name);
        for (size_t k = 0; k < row->key.len; k++)
            cs_buf_printf(&b, "%02X", row->key.data[k]);
        cs_buf_put_str(&b, cs_hidden_why_name(p->hidden[i].why));
        rows[n++] = keep(&a, &b);
    }
    put_sorted(out, rows, n);
    cs_arena_free(&a);
    cs_buf_free(&b);
}

static void same(struct cs_buf *got, struct cs_buf *want, uint64_t run, int step, const char *what, const char *sql)
{
    size_t at = 0, from;

    while (at < got->len && at < want->len && got->data[at] == want->data[at])
        at++;
    if (at < got->len || at < want->len) {
        from = at < 300 ? 0 : at - 300;
        cs_buf_put_u8(got, 0);
        cs_buf_put_u8(want, 0);
        fail_msg("run %llu, step %d, %s differs from byte %zu on:\n got %.400s\nwant %.400s\n%s",
                 (unsigned long long)run, step, what, at, (const char *)got->data + from,
                 (const char *)want->data + from, sql);
    }
    cs_buf_free(got);
    cs_buf_free(want);
}

static void compare(struct fixture *f, const struct schema *s, const struct cs_state *st, uint64_t run, int step,
                    const char *sql)
{
    struct cs_arena a = { 0 };
    struct cs_projection p;
    struct cs_buf got = { 0 }, want = { 0 };
    struct cs_error err = { 0 };

    assert_int_equal(cs_project(&p, st, &s->s, &a), CS_OK);
    if (cs_replica_dump(f->r, &got, &err) != CS_OK)
        fail_msg("run %llu, step %d, dump: %s\n%s", (unsigned long long)run, step, err.msg, sql);
    cs_state_dump(st, &want);
    for (struct cs_buf *b = &got; b != NULL; b = b == &got ? &want : NULL) { /* as text, for the message */
        struct cs_buf hex = { 0 };

        for (size_t i = 0; i < b->len; i++)
            cs_buf_printf(&hex, "%02x", b->data[i]);
        cs_buf_free(b);
        *b = hex;
    }
    same(&got, &want, run, step, "merged state", sql);
    for (uint32_t i = 0; i < s->s.ntables; i++) {
        table_shown(f, s, i, &got);
        table_wanted(&p, s, i, &want);
        same(&got, &want, run, step, table_names[i], sql);
    }
    hidden_shown(f, &got);
    hidden_wanted(&p, st, &want);
    same(&got, &want, run, step, "hidden", sql);
    cs_arena_free(&a);
}

/* What the application did becomes operations too; they join the state that is decided from scratch. */
static void own_edits(struct fixture *f, struct cs_state *st)
{
    struct cs_arena a = { 0 };
    struct cs_delta d;
    struct cs_error err = { 0 };

    if (cs_replica_extract(f->r, &a, 100000, 1 << 24, &d, &err) != CS_OK)
        fail_msg("extract: %s", err.msg);
    assert_int_equal(cs_state_apply(st, &d, NULL, NULL), CS_OK);
    cs_arena_free(&a);
}

static void one_run(uint64_t run, bool local)
{
    struct schema s;
    struct fixture f;
    struct cs_buf sql = { 0 };
    struct cs_state st = { 0 };

    seed = run * 0x9e3779b97f4a7c15 + 1;
    make_schema(&s);
    put_schema(&sql, &s);
    fixture_open(&f, (const char *)sql.data);
    fixture_replica(&f);
    for (uint32_t i = 0; i < s.s.ntables; i++)
        fixture_track(&f, table_names[i]);
    fixture_seal(&f);
    base_stamp = cs_now_ms(cs_world_real()) << 16;
    for (int step = 0; step < 12; step++) {
        if (local && chance(50)) {
            for (uint32_t n = 1 + rnd(3); n > 0; n--)
                random_statement(&f, &s);
            if (chance(50))
                fixture_seal(&f);
        }
        if (chance(80)) {
            struct delta x;

            delta_init(&x);
            for (uint32_t n = 1 + rnd(5); n > 0; n--)
                random_op(&x, &s);
            fixture_apply(&f, &x.d);
            assert_int_equal(cs_state_apply(&st, &x.d, NULL, NULL), CS_OK);
            delta_fini(&x);
        }
        if (local) {
            fixture_seal(&f);
            own_edits(&f, &st);
        }
        compare(&f, &s, &st, run, step, (const char *)sql.data);
    }
    fixture_close(&f);
    cs_state_free(&st);
    cs_buf_free(&sql);
}

static uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *s = getenv(name);

    return s != NULL ? strtoull(s, NULL, 10) : otherwise;
}

static void batches_only(void **state)
{
    uint64_t first = number_from("CS_SEED", 1), n = number_from("CS_ROUNDS", 200);

    (void)state;
    for (uint64_t i = 0; i < n; i++)
        one_run(first + i, false);
}

static void with_own_edits(void **state)
{
    uint64_t first = number_from("CS_SEED", 1), n = number_from("CS_ROUNDS", 200);

    (void)state;
    for (uint64_t i = 0; i < n; i++)
        one_run(first + i, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(batches_only), cmocka_unit_test(with_own_edits) };

    return cmocka_run_group_tests_name("projection, step by step and from scratch", tests, NULL, NULL);
}
