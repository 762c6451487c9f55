#include "replica/review.h"

#include "base/sqlite_code.h"
#include "replica/apply.h"
#include "replica/store.h"

enum { MAX_KEY = 64, MAX_SENTENCE = 400 };

static int no_memory(struct cs_error *err)
{
    return cs_fail(err, CS_ENOMEM, "out of memory");
}

static const char *text_of(sqlite3_stmt *s, int col)
{
    return (const char *)sqlite3_column_text(s, col);
}

/* The parts of a stored key, views of it; false: it is damaged. */
static bool split_key(struct cs_slice bytes, struct cs_value parts[MAX_KEY], uint32_t *n)
{
    struct cs_reader in = cs_reader(bytes);

    for (*n = 0; *n < MAX_KEY && cs_reader_left(&in) > 0; ++*n)
        if (!cs_key_next(&in, &parts[*n]))
            return false;
    return cs_reader_done(&in);
}

static int prepare(struct cs_replica *r, sqlite3_stmt **s, struct cs_buf *sql, struct cs_error *err)
{
    int rc = CS_OK;

    if (sql->failed)
        rc = no_memory(err);
    else if (sqlite3_prepare_v2(r->db, (const char *)sql->data, (int)sql->len, s, NULL) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot look at an application's table");
    cs_buf_reset(sql);
    return rc;
}

/* ---- hidden rows ---- */

/* One row in the making: its entries come one after the other. */
struct gathering {
    struct cs_replica *r;
    struct cs_arena a; /* of the row */
    struct cs_review_hidden h;
    struct cs_review_cell *cells;
    struct cs_value key[MAX_KEY];
    struct cs_slice key_bytes;
    int64_t table;
    uint32_t cap;
    bool begun, blockers;
};

/* `values` of t from what is kept aside, by position; absent ones are NULL. */
static struct cs_value *values_of(struct gathering *g, const struct cs_table *t)
{
    struct cs_value *v = cs_arena_zalloc(&g->a, t->ncolumns + 1, sizeof *v);

    for (uint32_t i = 0; v != NULL && i < t->ncolumns; i++) {
        const struct cs_column *c = &t->columns[i];

        v[i].type = CS_NULL;
        if (c->key_pos >= 0 && (uint32_t)c->key_pos < g->h.nkey)
            v[i] = g->key[c->key_pos];
        for (uint32_t k = 0; k < g->h.ncells; k++)
            if (strcmp(g->cells[k].column, c->name) == 0)
                v[i] = g->cells[k].value;
    }
    return v;
}

/* *found: a row of `table` has these values in these columns; a NULL among them counts as found: it asks for nothing.
 */
static int find_row(struct gathering *g, const char *table, const char *const *names, const struct cs_value *const *v,
                    uint32_t n, bool *found, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    sqlite3_stmt *s = NULL;
    int rc;

    *found = true;
    cs_buf_put_str(&sql, "SELECT 1 FROM main.");
    cs_put_identifier(&sql, table);
    for (uint32_t i = 0; i < n; i++) {
        if (v[i]->type == CS_NULL)
            return cs_buf_free(&sql), CS_OK;
        cs_buf_put_str(&sql, i == 0 ? " WHERE " : " AND ");
        cs_put_identifier(&sql, names[i]);
        cs_buf_printf(&sql, " = ?%u", i + 1);
    }
    rc = prepare(g->r, &s, &sql, err);
    for (uint32_t i = 0; i < n && rc == CS_OK; i++)
        if (cs_value_bind(s, (int)i + 1, v[i]) != CS_OK)
            rc = no_memory(err);
    *found = cs_db_row(g->r, s, &rc, "cannot look at an application's table", err);
    sqlite3_finalize(s);
    cs_buf_free(&sql);
    return rc;
}

static int say(struct gathering *g, const char *fmt, const char *a, const char *b, struct cs_error *err)
{
    char sentence[MAX_SENTENCE];

    sqlite3_snprintf(sizeof sentence, sentence, fmt, a, b);
    g->h.blocker = cs_arena_str(&g->a, sentence);
    return g->h.blocker == NULL ? no_memory(err) : CS_OK;
}

static int missing_parent(struct gathering *g, const struct cs_table *t, const struct cs_value *values,
                          struct cs_error *err)
{
    int rc = CS_OK;

    for (uint32_t i = 0; i < t->nfks && rc == CS_OK && g->h.blocker == NULL; i++) {
        const struct cs_fk *f = &t->fks[i];
        const struct cs_value *v[MAX_KEY];
        bool found;

        if (f->ncols > MAX_KEY || cs_table_by_name(g->r, cs_slice_str(f->parent)) == NULL)
            continue;
        for (uint32_t k = 0; k < f->ncols; k++)
            v[k] = &values[f->cols[k]];
        rc = find_row(g, f->parent, f->refs, v, f->ncols, &found, err);
        if (rc == CS_OK && !found)
            rc = say(g, "the row of \"%s\" that its column \"%s\" refers to is not there", f->parent,
                     t->columns[f->cols[0]].name, err);
    }
    return rc;
}

static int taken_key(struct gathering *g, const struct cs_table *t, const struct cs_value *values, struct cs_error *err)
{
    int rc = CS_OK;

    for (uint32_t i = 0; i <= t->nuniques && rc == CS_OK && g->h.blocker == NULL; i++) {
        const struct cs_unique *u = i == 0 ? NULL : &t->uniques[i - 1];
        uint32_t n = u == NULL ? t->nkey : u->ncols;
        const uint32_t *cols = u == NULL ? t->key : u->cols;
        const struct cs_value *v[MAX_KEY];
        const char *names[MAX_KEY];
        bool found, counts = n > 0 && n <= MAX_KEY;

        for (uint32_t k = 0; counts && k < n; k++) {
            v[k] = &values[cols[k]];
            names[k] = t->columns[cols[k]].name;
            counts = v[k]->type != CS_NULL;
        }
        if (!counts)
            continue;
        rc = find_row(g, t->name, names, v, n, &found, err);
        if (rc == CS_OK && found)
            rc = say(g, "an older row of \"%s\" holds the same \"%s\"", t->name, names[0], err);
    }
    return rc;
}

static int find_blocker(struct gathering *g, struct cs_error *err)
{
    const struct cs_table *t = cs_table_by_id(g->r, g->table);
    struct cs_value *values;

    if (!g->blockers || t == NULL || g->h.reason == NULL)
        return CS_OK;
    if ((values = values_of(g, t)) == NULL)
        return no_memory(err);
    if (strcmp(g->h.reason, "fk") == 0)
        return missing_parent(g, t, values, err);
    return strcmp(g->h.reason, "unique") == 0 ? taken_key(g, t, values, err) : CS_OK;
}

/* The entries of a row are all there. *stop: the caller has seen enough. */
static int hand_over(struct gathering *g, int (*fn)(void *arg, const struct cs_review_hidden *h), void *arg, bool *stop,
                     struct cs_error *err)
{
    int rc;

    if (!g->begun)
        return CS_OK;
    g->begun = false;
    g->h.cells = g->cells;
    if ((rc = find_blocker(g, err)) == CS_OK)
        *stop = fn(arg, &g->h) != 0;
    return rc;
}

static int begin_row(struct gathering *g, sqlite3_stmt *s, struct cs_slice key, struct cs_error *err)
{
    cs_arena_reset(&g->a);
    g->h = (struct cs_review_hidden){ .table = cs_arena_str(&g->a, text_of(s, 1)), .key = g->key };
    g->cells = NULL;
    g->cap = 0;
    g->table = sqlite3_column_int64(s, 0);
    g->key_bytes = cs_arena_copy(&g->a, key);
    g->begun = true;
    if (g->h.table == NULL || g->key_bytes.data == NULL)
        return no_memory(err);
    if (!split_key(g->key_bytes, g->key, &g->h.nkey))
        return cs_fail(err, CS_ECORRUPT, "a key in our table of hidden rows is damaged");
    return CS_OK;
}

static int add_cell(struct gathering *g, sqlite3_stmt *s, struct cs_error *err)
{
    struct cs_review_cell *cell;

    if (g->h.ncells == g->cap) {
        uint32_t cap = g->cap == 0 ? 16 : 2 * g->cap;
        struct cs_review_cell *more = cs_arena_zalloc(&g->a, cap, sizeof *more);

        if (more == NULL)
            return no_memory(err);
        if (g->h.ncells > 0)
            memcpy(more, g->cells, g->h.ncells * sizeof *more);
        g->cells = more;
        g->cap = cap;
    }
    cell = &g->cells[g->h.ncells];
    cell->column = cs_arena_str(&g->a, text_of(s, 6));
    cs_value_from_column(&cell->value, s, 5);
    if (cell->value.type >= CS_TEXT && (cell->value.u.bytes = cs_arena_copy(&g->a, cell->value.u.bytes)).data == NULL)
        return no_memory(err);
    g->h.ncells++;
    return cell->column == NULL ? no_memory(err) : CS_OK;
}

int cs_review_hidden(cs_replica *r, const char *table, bool blockers,
                     int (*fn)(void *arg, const struct cs_review_hidden *h), void *arg, struct cs_error *err)
{
    /* what waits above a tombstone is no row */
    static const char sql[] =
        "SELECT h.tbl, t.name, h.key, h.col, h.reason, h.value, coalesce(c.name, '') FROM main.sync_hidden h "
        "JOIN main.sync_tables t ON t.id = h.tbl JOIN main.sync_rows w ON w.tbl = h.tbl AND w.key = h.key "
        "LEFT JOIN main.sync_columns c ON c.tbl = h.tbl AND c.id = h.col "
        "WHERE w.ins > coalesce(w.del, 0) AND (?1 IS NULL OR t.name = ?1) ORDER BY t.name, h.key, h.col";
    struct gathering g = { .r = r, .blockers = blockers };
    sqlite3_stmt *s = NULL;
    bool stop = false;
    int rc = CS_OK;

    if (table != NULL && cs_table_by_name(r, cs_slice_str(table)) == NULL)
        return cs_fail(err, CS_ENOTFOUND, "table \"%s\" is not tracked", table);
    if (r->bare)
        return CS_OK;
    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK ||
        sqlite3_bind_text(s, 1, table, -1, SQLITE_STATIC) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot read the hidden rows");
    while (!stop && cs_db_row(r, s, &rc, "cannot read the hidden rows", err)) {
        struct cs_slice key = cs_db_column_blob(s, 2);

        if (g.begun && (g.table != sqlite3_column_int64(s, 0) || !cs_slice_eq(g.key_bytes, key)))
            rc = hand_over(&g, fn, arg, &stop, err);
        if (stop || rc != CS_OK)
            break;
        if (!g.begun)
            rc = begin_row(&g, s, key, err);
        if (rc == CS_OK && sqlite3_column_int64(s, 3) >= 0)
            rc = add_cell(&g, s, err);
        else if (rc == CS_OK && (g.h.reason = cs_arena_str(&g.a, text_of(s, 4))) == NULL)
            rc = no_memory(err);
    }
    if (rc == CS_OK && !stop)
        rc = hand_over(&g, fn, arg, &stop, err);
    sqlite3_finalize(s);
    cs_arena_free(&g.a);
    return rc;
}

/* ---- conflicts ---- */

#define CONFLICT_COLUMNS                                                                                               \
    "SELECT x.id, x.why, x.state, t.name, x.key, c.name, x.value, x.stamp, x.device, x.at_ms, x.tbl, x.col IS NULL "   \
    "FROM main.sync_conflicts x JOIN main.sync_tables t ON t.id = x.tbl "                                              \
    "LEFT JOIN main.sync_columns c ON c.tbl = x.tbl AND c.id = x.col "

enum { X_ID = 0, X_WHY, X_STATE, X_TABLE, X_KEY, X_COLUMN, X_VALUE, X_STAMP, X_DEVICE, X_AT, X_TBL, X_ROW };

/* FNV-1a of the entry's id: short enough to type, and the same everywhere. */
static void print_id(char out[CS_REVIEW_ID], struct cs_slice id)
{
    uint64_t h = 0xcbf29ce484222325;
    uint8_t bytes[8];

    for (size_t i = 0; i < id.len; i++)
        h = (h ^ id.data[i]) * 0x100000001b3;
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(h >> (56 - 8 * i));
    cs_hex(out, bytes, sizeof bytes);
}

/* What the application's table shows there; *there: it shows the row and the column. */
static int value_now(struct cs_replica *r, struct cs_table *t, const char *column, struct cs_slice key,
                     struct cs_value *out, bool *there, struct cs_error *err)
{
    int rc;

    *there = false;
    if (t == NULL || column == NULL)
        return CS_OK;
    if ((rc = cs_table_read(r, t, key, err)) != SQLITE_ROW)
        return rc == SQLITE_DONE ? CS_OK : rc;
    for (uint32_t i = 0; i < t->ncolumns && !*there; i++)
        if (strcmp(t->columns[i].name, column) == 0) {
            cs_value_from_column(out, t->read, (int)i);
            *there = true;
        }
    return CS_OK;
}

int cs_review_conflicts(cs_replica *r, bool closed, int (*fn)(void *arg, const struct cs_review_conflict *c), void *arg,
                        struct cs_error *err)
{
    static const char sql[] =
        CONFLICT_COLUMNS "WHERE ?1 OR x.state <> 'closed' ORDER BY t.name, x.key, x.col, x.stamp, x.id";
    sqlite3_stmt *s = NULL;
    bool stop = false;
    int rc = CS_OK;

    if (r->bare)
        return CS_OK;
    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_bind_int(s, 1, closed) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot read the conflicts");
    while (!stop && cs_db_row(r, s, &rc, "cannot read the conflicts", err)) {
        struct cs_slice key = cs_db_column_blob(s, X_KEY), device = cs_db_column_blob(s, X_DEVICE);
        struct cs_table *t = cs_table_by_id(r, sqlite3_column_int64(s, X_TBL));
        struct cs_value parts[MAX_KEY], losing, now;
        struct cs_review_conflict c = { .why = text_of(s, X_WHY),
                                        .state = text_of(s, X_STATE),
                                        .table = text_of(s, X_TABLE),
                                        .key = parts,
                                        .column = text_of(s, X_COLUMN),
                                        .edited_ms = sqlite3_column_int64(s, X_STAMP) >> 16,
                                        .noticed_ms = sqlite3_column_int64(s, X_AT) };
        bool there;

        if (!split_key(key, parts, &c.nkey) || device.len != sizeof c.device.b) {
            rc = cs_fail(err, CS_ECORRUPT, "our table of conflicts in the database is damaged");
            break;
        }
        print_id(c.id, cs_db_column_blob(s, X_ID));
        memcpy(c.device.b, device.data, sizeof c.device.b);
        if (sqlite3_column_int(s, X_ROW) == 0) {
            cs_value_from_column(&losing, s, X_VALUE);
            c.losing = &losing;
        }
        if ((rc = value_now(r, t, c.column, key, &now, &there, err)) == CS_OK) {
            c.now = there ? &now : NULL;
            stop = fn(arg, &c) != 0;
        }
        if (t != NULL)
            sqlite3_reset(t->read);
    }
    sqlite3_finalize(s);
    return rc;
}

/* The whole id of the open conflict whose printed id begins so. */
static int find_id(struct cs_replica *r, const char *prefix, struct cs_buf *id, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    char printed[CS_REVIEW_ID];
    uint32_t n = 0;
    int rc = CS_OK;

    if (prefix[0] == '\0' || strlen(prefix) >= CS_REVIEW_ID)
        return cs_fail(err, CS_EINVAL, "\"%.40s\" is no conflict's id; claw-sync conflicts list shows them", prefix);
    if (!r->bare && sqlite3_prepare_v2(r->db, "SELECT id FROM main.sync_conflicts WHERE state <> 'closed'", -1, &s,
                                       NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read the conflicts");
    while (s != NULL && cs_db_row(r, s, &rc, "cannot read the conflicts", err)) {
        print_id(printed, cs_db_column_blob(s, 0));
        if (sqlite3_strnicmp(printed, prefix, (int)strlen(prefix)) != 0)
            continue;
        if (n++ == 0)
            cs_buf_put_slice(id, cs_db_column_blob(s, 0));
    }
    sqlite3_finalize(s);
    if (rc == CS_OK && id->failed)
        rc = no_memory(err);
    if (rc == CS_OK && n == 0)
        rc = cs_fail(err, CS_ENOTFOUND, "no open conflict has the id \"%s\"; claw-sync conflicts list shows them",
                     prefix);
    if (rc == CS_OK && n > 1)
        rc = cs_fail(err, CS_EINVAL, "%u open conflicts begin with \"%s\"; give more of the id", n, prefix);
    return rc;
}

static const char close_sql[] = "UPDATE main.sync_conflicts SET state = 'closed' WHERE id = ?1";

int cs_review_close(cs_replica *r, const char *id, struct cs_error *err)
{
    struct cs_buf whole = { 0 };
    sqlite3_stmt *s = NULL;
    int rc = find_id(r, id, &whole, err);

    if (rc == CS_OK && sqlite3_prepare_v2(r->db, close_sql, -1, &s, NULL) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot close a conflict");
    if (rc == CS_OK) {
        cs_db_bind_slice(s, 1, cs_buf_slice(&whole));
        rc = cs_db_step(r, s, "cannot close a conflict", err);
    }
    sqlite3_finalize(s);
    cs_buf_free(&whole);
    return rc;
}

/* ---- restoring ---- */

/* What is written back, and where. */
struct restore {
    struct cs_replica *r;
    struct cs_table *t;
    struct cs_arena a;
    struct cs_value *values; /* by position of t's columns */
    bool *given;
    struct cs_slice key, *ids; /* ids: the conflicts that are settled by it */
    size_t nids, cap;
    bool shown; /* the table has the row */
};

static int take_value(struct restore *x, sqlite3_stmt *s, struct cs_error *err)
{
    const char *column = text_of(s, X_COLUMN);
    struct cs_value v;

    for (uint32_t i = 0; column != NULL && i < x->t->ncolumns; i++) {
        if (strcmp(x->t->columns[i].name, column) != 0)
            continue;
        cs_value_from_column(&v, s, X_VALUE);
        if (v.type >= CS_TEXT && (v.u.bytes = cs_arena_copy(&x->a, v.u.bytes)).data == NULL)
            return no_memory(err);
        x->values[i] = v;
        x->given[i] = true;
        if ((x->ids[x->nids] = cs_arena_copy(&x->a, cs_db_column_blob(s, X_ID))).data == NULL)
            return no_memory(err);
        x->nids++;
        return CS_OK;
    }
    return cs_fail(err, CS_EINVAL, "table \"%s\" has no column \"%s\" any more", x->t->name,
                   column == NULL ? "?" : column);
}

/* Of a deleted row all that was lost with it goes back, the newest of each column. */
static int take_values(struct restore *x, struct cs_slice id, struct cs_error *err)
{
    static const char sql[] = CONFLICT_COLUMNS
        "WHERE x.col IS NOT NULL AND (x.id = ?1 OR (?2 AND x.state <> 'closed' AND (x.tbl, x.key) = (SELECT tbl, key "
        "FROM main.sync_conflicts WHERE id = ?1))) ORDER BY x.stamp";
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(x->r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(x->r, err, "cannot read the conflicts");
    cs_db_bind_slice(s, 1, id);
    sqlite3_bind_int(s, 2, !x->shown);
    while (cs_db_row(x->r, s, &rc, "cannot read the conflicts", err)) {
        if (x->nids == x->cap) {
            size_t cap = x->cap == 0 ? 16 : 2 * x->cap;
            struct cs_slice *more = cs_arena_zalloc(&x->a, cap, sizeof *more);

            if (more != NULL && x->nids > 0)
                memcpy(more, x->ids, x->nids * sizeof *more);
            x->ids = more;
            x->cap = cap;
        }
        rc = x->ids == NULL ? no_memory(err) : take_value(x, s, err);
    }
    sqlite3_finalize(s);
    if (rc == CS_OK && x->nids == 0)
        rc = cs_fail(err, CS_EINVAL,
                     "the conflict is about a whole row and keeps no value; claw-sync hidden show %s tells "
                     "what the row waits for",
                     x->t->name);
    return rc;
}

static int look_up(struct restore *x, struct cs_slice id, struct cs_error *err)
{
    static const char sql[] = "SELECT tbl, key FROM main.sync_conflicts WHERE id = ?1";
    sqlite3_stmt *s = NULL;
    int rc = CS_OK, step;

    if (sqlite3_prepare_v2(x->r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(x->r, err, "cannot read the conflicts");
    cs_db_bind_slice(s, 1, id);
    if (cs_db_row(x->r, s, &rc, "cannot read the conflicts", err)) {
        x->t = cs_table_by_id(x->r, sqlite3_column_int64(s, 0));
        x->key = cs_arena_copy(&x->a, cs_db_column_blob(s, 1));
    }
    sqlite3_finalize(s);
    if (rc != CS_OK)
        return rc;
    if (x->t == NULL)
        return cs_fail(err, CS_EINVAL, "its table is not tracked, or not in the database any more");
    x->values = cs_arena_zalloc(&x->a, x->t->ncolumns + 1, sizeof *x->values);
    x->given = cs_arena_zalloc(&x->a, x->t->ncolumns + 1, sizeof *x->given);
    if (x->values == NULL || x->given == NULL || x->key.data == NULL)
        return no_memory(err);
    if ((step = cs_table_read(x->r, x->t, x->key, err)) != SQLITE_ROW && step != SQLITE_DONE)
        return step;
    sqlite3_reset(x->t->read);
    x->shown = step == SQLITE_ROW;
    return take_values(x, id, err);
}

/* "UPDATE t SET c = ?… WHERE k = ?…", or "INSERT INTO t(k, c …) VALUES(?…)". Values are bound in column order, then the
 * key where it is no column of the statement. */
static void put_statement(const struct restore *x, struct cs_buf *sql)
{
    const struct cs_table *t = x->t;
    uint32_t n = 0;

    cs_buf_put_str(sql, x->shown ? "UPDATE main." : "INSERT INTO main.");
    cs_put_identifier(sql, t->name);
    cs_buf_put_str(sql, x->shown ? " SET " : "(");
    for (uint32_t i = 0; i < t->ncolumns; i++) {
        if (!x->given[i])
            continue;
        cs_buf_put_str(sql, n++ == 0 ? "" : ", ");
        cs_put_identifier(sql, t->columns[i].name);
        if (x->shown)
            cs_buf_printf(sql, " = ?%u", n);
    }
    if (!x->shown)
        cs_buf_put_str(sql, ") VALUES(");
    for (uint32_t i = 0; !x->shown && i < n; i++)
        cs_buf_printf(sql, "%s?%u", i == 0 ? "" : ", ", i + 1);
    if (!x->shown)
        cs_buf_put_str(sql, ")");
    for (uint32_t i = 0; x->shown && i < t->nkey; i++) {
        cs_buf_put_str(sql, i == 0 ? " WHERE " : " AND ");
        cs_put_identifier(sql, t->columns[t->key[i]].name);
        cs_buf_printf(sql, " = ?%u", n + i + 1);
    }
}

/* The key's columns, where the lost values do not spell them. */
static int give_key(struct restore *x, struct cs_error *err)
{
    struct cs_value parts[MAX_KEY];
    uint32_t n;

    if (!split_key(x->key, parts, &n) || n != x->t->nkey)
        return cs_fail(err, CS_EINVAL, "the table's primary key is another one now");
    for (uint32_t i = 0; i < n; i++)
        if (!x->given[x->t->key[i]]) {
            x->values[x->t->key[i]] = parts[i];
            x->given[x->t->key[i]] = true;
        }
    return CS_OK;
}

static int app_fail(sqlite3 *db, const char *what, struct cs_error *err)
{
    int rc = sqlite3_errcode(db);
    int code = (rc & 0xff) == SQLITE_CONSTRAINT ? CS_EINVAL : cs_sqlite_code(rc);

    return cs_fail(err, code, "%s: %s", what, sqlite3_errmsg(db));
}

static int write_row(struct restore *x, sqlite3 *db, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    sqlite3_stmt *s = NULL;
    int rc = CS_OK, n = 0;

    put_statement(x, &sql);
    if (sql.failed)
        rc = no_memory(err);
    else if (sqlite3_prepare_v2(db, (const char *)sql.data, (int)sql.len, &s, NULL) != SQLITE_OK)
        rc = app_fail(db, "cannot restore the value", err);
    for (uint32_t i = 0; i < x->t->ncolumns && rc == CS_OK; i++)
        if (x->given[i] && cs_value_bind(s, ++n, &x->values[i]) != CS_OK)
            rc = no_memory(err);
    if (rc == CS_OK && x->shown && cs_table_bind_key(x->t, s, n + 1, x->key) != CS_OK)
        rc = cs_fail(err, CS_EINVAL, "the table's primary key is another one now");
    if (rc == CS_OK && sqlite3_step(s) != SQLITE_DONE)
        rc = app_fail(db, "cannot restore the value", err);
    if (rc == CS_OK && sqlite3_changes(db) == 0)
        rc = cs_fail(err, CS_EBUSY, "the row changed just now; try again");
    sqlite3_finalize(s);
    cs_buf_free(&sql);
    return rc;
}

static int close_all(const struct restore *x, sqlite3 *db, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(db, close_sql, -1, &s, NULL) != SQLITE_OK)
        return app_fail(db, "cannot close the conflict", err);
    for (size_t i = 0; i < x->nids && rc == CS_OK; i++) {
        cs_db_bind_slice(s, 1, x->ids[i]);
        if (sqlite3_step(s) != SQLITE_DONE)
            rc = app_fail(db, "cannot close the conflict", err);
        sqlite3_reset(s);
    }
    sqlite3_finalize(s);
    return rc;
}

/* As the application would: our own connection writes unseen by the triggers that log. */
static int write_as_application(struct restore *x, const struct cs_replica_options *o, struct cs_error *err)
{
    sqlite3 *db = NULL;
    int rc = CS_OK;

    if (sqlite3_open_v2(o->path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        rc = db == NULL ? no_memory(err) : app_fail(db, "cannot open the database", err);
    if (rc == CS_OK)
        rc = cs_db_load_extension(db, o->load_extension, err);
    if (rc == CS_OK) {
        sqlite3_busy_timeout(db, o->busy_timeout_ms == 0 ? 5000 : (int)o->busy_timeout_ms);
        if (sqlite3_exec(db, "PRAGMA foreign_keys=ON; BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
            rc = app_fail(db, "cannot write to the database", err);
    }
    if (rc == CS_OK && (rc = write_row(x, db, err)) == CS_OK && (rc = close_all(x, db, err)) == CS_OK &&
        sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        rc = app_fail(db, "cannot restore the value", err);
    sqlite3_close(db);
    return rc;
}

int cs_review_restore(cs_replica *r, const struct cs_replica_options *o, const char *id, struct cs_error *err)
{
    struct restore x = { .r = r };
    struct cs_buf whole = { 0 };
    int rc = find_id(r, id, &whole, err);

    if (rc == CS_OK)
        rc = look_up(&x, cs_buf_slice(&whole), err);
    if (rc == CS_OK && !x.shown)
        rc = give_key(&x, err);
    if (rc == CS_OK)
        rc = write_as_application(&x, o, err);
    cs_arena_free(&x.a);
    cs_buf_free(&whole);
    return rc;
}
