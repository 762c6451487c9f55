#include "replica/review.h"

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
    if (g->h.reason == NULL && cs_table_by_id(g->r, g->table) == NULL) /* dropped, and its values came back */
        g->h.reason = "table";
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

/* Has anybody sent rows of a table of this name, or is it tracked? */
static int is_known(struct cs_replica *r, const char *table, bool *out, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    *out = false;
    if (r->bare)
        return CS_OK;
    if (sqlite3_prepare_v2(r->db, "SELECT 1 FROM main.sync_tables WHERE name = ?1", -1, &s, NULL) != SQLITE_OK ||
        sqlite3_bind_text(s, 1, table, -1, SQLITE_STATIC) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot read our tables");
    *out = cs_db_row(r, s, &rc, "cannot read our tables", err);
    sqlite3_finalize(s);
    return rc;
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
    bool stop = false, known;
    int rc = CS_OK;

    if (table != NULL && (rc = is_known(r, table, &known, err)) != CS_OK)
        return rc;
    if (table != NULL && !known)
        return cs_fail(err, CS_ENOTFOUND, "table \"%s\" is not tracked, and nobody has sent rows of it", table);
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
    "FROM main.sync_conflicts x JOIN main.sync_tables t ON t.id = x.tbl AND t.name <> '" CS_SHARED "' "                \
    "LEFT JOIN main.sync_columns c ON c.tbl = x.tbl AND c.id = x.col "

enum { X_ID = 0, X_WHY, X_STATE, X_TABLE, X_KEY, X_COLUMN, X_VALUE, X_STAMP, X_DEVICE, X_AT, X_TBL, X_ROW };

static void print_id(char out[CS_REVIEW_ID], struct cs_slice id)
{
    size_t n = (CS_REVIEW_ID - 1) / 2;

    cs_hex(out, id.data, id.len < n ? id.len : n);
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

/* The conflict that s stands on. */
static int hand_conflict(struct cs_replica *r, sqlite3_stmt *s,
                         int (*fn)(void *arg, const struct cs_review_conflict *c), void *arg, bool *stop,
                         struct cs_error *err)
{
    struct cs_slice key = cs_db_column_blob(s, X_KEY), device = cs_db_column_blob(s, X_DEVICE);
    struct cs_table *t = cs_table_by_id(r, sqlite3_column_int64(s, X_TBL));
    struct cs_value parts[MAX_KEY], losing, now;
    struct cs_review_conflict c = { .why = text_of(s, X_WHY),
                                    .state = text_of(s, X_STATE),
                                    .table = text_of(s, X_TABLE),
                                    .key = parts,
                                    .column = text_of(s, X_COLUMN),
                                    .edited_ms = sqlite3_column_int64(s, X_STAMP) >> 16,
                                    .stamp = sqlite3_column_int64(s, X_STAMP),
                                    .noticed_ms = sqlite3_column_int64(s, X_AT),
                                    .key_bytes = key,
                                    .whole_id = cs_db_column_blob(s, X_ID) };
    bool there;
    int rc;

    if (!split_key(key, parts, &c.nkey) || device.len != sizeof c.device.b || c.whole_id.len != CS_CONFLICT_ID)
        return cs_fail(err, CS_ECORRUPT, "our table of conflicts in the database is damaged");
    print_id(c.id, c.whole_id);
    memcpy(c.device.b, device.data, sizeof c.device.b);
    if (sqlite3_column_int(s, X_ROW) == 0) {
        cs_value_from_column(&losing, s, X_VALUE);
        c.losing = &losing;
    }
    if ((rc = value_now(r, t, c.column, key, &now, &there, err)) == CS_OK) {
        c.now = there ? &now : NULL;
        *stop = fn(arg, &c) != 0;
    }
    if (t != NULL)
        sqlite3_reset(t->read);
    return rc;
}

static int each_conflict(struct cs_replica *r, const char *sql, int64_t param,
                         int (*fn)(void *arg, const struct cs_review_conflict *c), void *arg, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    bool stop = false;
    int rc = CS_OK;

    if (r->bare)
        return CS_OK;
    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_bind_int64(s, 1, param) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot read the conflicts");
    while (!stop && cs_db_row(r, s, &rc, "cannot read the conflicts", err))
        rc = hand_conflict(r, s, fn, arg, &stop, err);
    sqlite3_finalize(s);
    return rc;
}

int cs_review_conflicts(cs_replica *r, bool closed, int (*fn)(void *arg, const struct cs_review_conflict *c), void *arg,
                        struct cs_error *err)
{
    static const char sql[] =
        CONFLICT_COLUMNS "WHERE ?1 OR x.state IN ('auto', 'manual') ORDER BY t.name, x.key, x.col, x.stamp, x.id";

    return each_conflict(r, sql, closed, fn, arg, err);
}

/* ---- news ---- */

int cs_review_news(cs_replica *r, uint32_t most, int (*fn)(void *arg, const struct cs_review_conflict *c), void *arg,
                   struct cs_error *err)
{
    static const char sql[] = CONFLICT_COLUMNS "WHERE x.noted = 0 ORDER BY x.at_ms, x.id LIMIT ?1";

    return each_conflict(r, sql, most, fn, arg, err);
}

int cs_review_untold(cs_replica *r, uint32_t most, int (*fn)(void *arg, const struct cs_review_conflict *c), void *arg,
                     struct cs_error *err)
{
    static const char sql[] = CONFLICT_COLUMNS "WHERE x.told = 1 ORDER BY x.at_ms, x.id LIMIT ?1";

    return each_conflict(r, sql, most, fn, arg, err);
}

static int mark(cs_replica *r, const char *sql, const struct cs_review_mark *m, size_t n, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = n == 0 ? CS_OK : cs_db_begin(r, err);

    if (n == 0 || rc != CS_OK)
        return rc;
    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK)
        rc = cs_db_fail(r, err, "cannot write our table of conflicts");
    for (size_t i = 0; i < n && rc == CS_OK; i++) {
        cs_db_bind_slice(s, 1, cs_slice(m[i].id, sizeof m[i].id));
        sqlite3_bind_text(s, 2, m[i].state, -1, SQLITE_STATIC);
        rc = cs_db_step(r, s, "cannot write our table of conflicts", err);
    }
    sqlite3_finalize(s);
    return cs_db_end(r, rc, err);
}

int cs_review_noted(cs_replica *r, const struct cs_review_mark *m, size_t n, struct cs_error *err)
{
    return mark(r, "UPDATE main.sync_conflicts SET noted = 1 WHERE id = ?1 AND state = ?2", m, n, err);
}

int cs_review_told(cs_replica *r, const struct cs_review_mark *m, size_t n, struct cs_error *err)
{
    return mark(r, "UPDATE main.sync_conflicts SET told = 0 WHERE id = ?1 AND state = ?2", m, n, err);
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
    if (!r->bare &&
        sqlite3_prepare_v2(r->db,
                           "SELECT id FROM main.sync_conflicts WHERE state IN ('auto', 'manual') AND " CS_NOT_SHARED,
                           -1, &s, NULL) != SQLITE_OK)
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

/* ---- settling ---- */

/* What is written, and where. */
struct settling {
    struct cs_replica *r;
    enum cs_review_choice choice;
    const struct cs_value *given;
    struct cs_table *t; /* NULL: not here */
    struct cs_arena a;
    struct cs_value *values;       /* by position of t's columns */
    bool *writes;                  /* which of them */
    struct cs_slice key, id, *ids; /* ids: the conflicts that are settled by it */
    int64_t column;                /* its number; -1: the conflict is of the whole row */
    size_t nids, cap;
    bool shown; /* the table has the row */
};

static int settles(struct settling *x, struct cs_slice id, struct cs_error *err)
{
    if (x->nids == x->cap) {
        size_t cap = x->cap == 0 ? 16 : 2 * x->cap;
        struct cs_slice *more = cs_arena_zalloc(&x->a, cap, sizeof *more);

        if (more == NULL)
            return no_memory(err);
        if (x->nids > 0)
            memcpy(more, x->ids, x->nids * sizeof *more);
        x->ids = more;
        x->cap = cap;
    }
    if ((x->ids[x->nids] = cs_arena_copy(&x->a, id)).data == NULL)
        return no_memory(err);
    x->nids++;
    return CS_OK;
}

static int writes_value(struct settling *x, uint32_t i, struct cs_value v, struct cs_error *err)
{
    if (v.type >= CS_TEXT && (v.u.bytes = cs_arena_copy(&x->a, v.u.bytes)).data == NULL)
        return no_memory(err);
    x->values[i] = v;
    x->writes[i] = true;
    return CS_OK;
}

/* What a deleted row held here. */
static int take_lost(struct settling *x, struct cs_slice row, struct cs_error *err)
{
    struct cs_reader rd = cs_reader(row);
    int rc = CS_OK;

    while (cs_reader_left(&rd) > 0 && rc == CS_OK) {
        uint32_t id = cs_read_u32(&rd), i = cs_column_position(x->t, id);
        struct cs_slice encoded = cs_read_bytes(&rd, cs_read_u32(&rd));
        struct cs_value v;

        if (rd.bad || !cs_value_decode(&v, encoded))
            return cs_fail(err, CS_ECORRUPT, "what was kept of the row is damaged");
        if (i != CS_NO_COLUMN)
            rc = writes_value(x, i, v, err);
    }
    return rc;
}

static int take_lost_row(struct settling *x, struct cs_error *err)
{
    sqlite3_stmt *s = NULL;
    int rc = cs_layout_lost(x->r, err);

    if (rc != CS_OK)
        return rc;
    if (sqlite3_prepare_v2(x->r->db, "SELECT row FROM main.sync_lost WHERE tbl = ?1 AND key = ?2", -1, &s, NULL) !=
        SQLITE_OK)
        return cs_db_fail(x->r, err, "cannot read what was kept of the row");
    sqlite3_bind_int64(s, 1, x->t->id);
    cs_db_bind_slice(s, 2, x->key);
    if (cs_db_row(x->r, s, &rc, "cannot read what was kept of the row", err))
        rc = take_lost(x, cs_db_column_blob(s, 0), err);
    sqlite3_finalize(s);
    return rc;
}

/* An edit is no row: nothing is made up for the columns that are not here. */
static int is_whole(const struct settling *x, struct cs_error *err)
{
    for (uint32_t i = 0; i < x->t->ncolumns; i++)
        if (x->t->columns[i].id != CS_NO_COLUMN && x->t->columns[i].key_pos < 0 && !x->writes[i])
            return cs_fail(err, CS_EINVAL,
                           "the row was deleted here before the edit came, and only the edit is here; the device that "
                           "made it has the whole row: restore it there (claw-sync conflicts show names it), or insert "
                           "the row and then take the edit");
    return CS_OK;
}

static int take_value(struct settling *x, sqlite3_stmt *s, struct cs_error *err)
{
    const char *column = text_of(s, X_COLUMN);
    bool chosen = cs_slice_eq(cs_db_column_blob(s, X_ID), x->id);
    struct cs_value v;
    int rc;

    for (uint32_t i = 0; column != NULL && i < x->t->ncolumns; i++) {
        if (strcmp(x->t->columns[i].name, column) != 0)
            continue;
        cs_value_from_column(&v, s, X_VALUE);
        if (chosen && x->choice == CS_REVIEW_GIVEN)
            v = *x->given;
        rc = writes_value(x, i, v, err);
        return rc == CS_OK ? settles(x, cs_db_column_blob(s, X_ID), err) : rc;
    }
    return cs_fail(err, CS_EINVAL, "table \"%s\" has no column \"%s\" any more", x->t->name,
                   column == NULL ? "?" : column);
}

/* Of a deleted row all that it held goes back, the newest lost edit of each column, and of one column that which was
 * asked for. */
static int take_values(struct settling *x, struct cs_error *err)
{
    static const char sql[] = CONFLICT_COLUMNS
        "WHERE x.col IS NOT NULL AND (x.id = ?1 OR (?2 AND x.state IN ('auto', 'manual') AND (x.tbl, x.key) = (SELECT "
        "tbl, key FROM main.sync_conflicts WHERE id = ?1))) ORDER BY x.id = ?1, x.stamp";
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(x->r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(x->r, err, "cannot read the conflicts");
    cs_db_bind_slice(s, 1, x->id);
    sqlite3_bind_int(s, 2, !x->shown);
    while (cs_db_row(x->r, s, &rc, "cannot read the conflicts", err))
        rc = take_value(x, s, err);
    sqlite3_finalize(s);
    return rc;
}

/* The other values that copies of a device wrote as one version: whoever decides about one decides about all. */
static int take_copies(struct settling *x, struct cs_error *err)
{
    static const char sql[] =
        "SELECT y.id FROM main.sync_conflicts x JOIN main.sync_conflicts y ON (y.tbl, y.key, y.col, y.stamp, y.device) "
        "= "
        "(x.tbl, x.key, x.col, x.stamp, x.device) WHERE x.id = ?1 AND x.why = 'copied-device' AND y.why = x.why AND "
        "y.id <> x.id AND y.state = 'manual'";
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    if (sqlite3_prepare_v2(x->r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(x->r, err, "cannot read the conflicts");
    cs_db_bind_slice(s, 1, x->id);
    while (cs_db_row(x->r, s, &rc, "cannot read the conflicts", err))
        rc = settles(x, cs_db_column_blob(s, 0), err);
    sqlite3_finalize(s);
    return rc;
}

static int find_row_of(struct settling *x, struct cs_error *err)
{
    static const char sql[] = "SELECT tbl, key, coalesce(col, -1) FROM main.sync_conflicts WHERE id = ?1";
    sqlite3_stmt *s = NULL;
    int rc = CS_OK, step;

    if (sqlite3_prepare_v2(x->r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(x->r, err, "cannot read the conflicts");
    cs_db_bind_slice(s, 1, x->id);
    if (cs_db_row(x->r, s, &rc, "cannot read the conflicts", err)) {
        x->t = cs_table_by_id(x->r, sqlite3_column_int64(s, 0));
        x->column = sqlite3_column_int64(s, 2);
        if ((x->key = cs_arena_copy(&x->a, cs_db_column_blob(s, 1))).data == NULL)
            rc = no_memory(err);
    }
    sqlite3_finalize(s);
    if (rc != CS_OK || x->t == NULL)
        return rc;
    if ((step = cs_table_read(x->r, x->t, x->key, err)) != SQLITE_ROW && step != SQLITE_DONE)
        return step;
    sqlite3_reset(x->t->read);
    x->shown = step == SQLITE_ROW;
    return CS_OK;
}

/* What is to be written, unless things stay as they stand. */
static int look_up(struct settling *x, struct cs_error *err)
{
    int rc = find_row_of(x, err);

    if (rc != CS_OK)
        return rc;
    if (x->choice == CS_REVIEW_KEEP) {
        if ((rc = settles(x, x->id, err)) == CS_OK)
            rc = take_copies(x, err);
        return rc;
    }
    if (x->t == NULL)
        return cs_fail(err, CS_EINVAL, "its table is not tracked, or not in the database any more");
    if (x->column < 0 && x->shown)
        return cs_fail(err, CS_EINVAL,
                       "the conflict is about a whole row and keeps no value; an edit that mends the row settles it");
    if (x->column < 0)
        return cs_fail(err, CS_EINVAL,
                       "the conflict is about a whole row and keeps no value; claw-sync hidden list %s tells "
                       "what the row waits for",
                       x->t->name);
    x->values = cs_arena_zalloc(&x->a, x->t->ncolumns + 1, sizeof *x->values);
    x->writes = cs_arena_zalloc(&x->a, x->t->ncolumns + 1, sizeof *x->writes);
    if (x->values == NULL || x->writes == NULL)
        return no_memory(err);
    if (!x->shown && (rc = take_lost_row(x, err)) != CS_OK)
        return rc;
    if ((rc = take_values(x, err)) == CS_OK && !x->shown)
        rc = is_whole(x, err);
    return rc == CS_OK ? take_copies(x, err) : rc;
}

/* "UPDATE t SET c = ?… WHERE k = ?…", or "INSERT INTO t(k, c …) VALUES(?…)". Values are bound in column order, then the
 * key where it is no column of the statement. */
static void put_statement(const struct settling *x, struct cs_buf *sql)
{
    const struct cs_table *t = x->t;
    uint32_t n = 0;

    cs_buf_put_str(sql, x->shown ? "UPDATE main." : "INSERT INTO main.");
    cs_put_identifier(sql, t->name);
    cs_buf_put_str(sql, x->shown ? " SET " : "(");
    for (uint32_t i = 0; i < t->ncolumns; i++) {
        if (!x->writes[i])
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
static int give_key(struct settling *x, struct cs_error *err)
{
    struct cs_value parts[MAX_KEY];
    uint32_t n;

    if (!split_key(x->key, parts, &n) || n != x->t->nkey)
        return cs_fail(err, CS_EINVAL, "the table's primary key is another one now");
    for (uint32_t i = 0; i < n; i++)
        if (!x->writes[x->t->key[i]]) {
            x->values[x->t->key[i]] = parts[i];
            x->writes[x->t->key[i]] = true;
        }
    return CS_OK;
}

static int write_row(struct settling *x, sqlite3 *db, struct cs_error *err)
{
    struct cs_buf sql = { 0 };
    sqlite3_stmt *s = NULL;
    int rc = CS_OK, n = 0;

    put_statement(x, &sql);
    if (sql.failed)
        rc = no_memory(err);
    else if (sqlite3_prepare_v2(db, (const char *)sql.data, (int)sql.len, &s, NULL) != SQLITE_OK)
        rc = cs_application_fail(db, "cannot write the value", err);
    for (uint32_t i = 0; i < x->t->ncolumns && rc == CS_OK; i++)
        if (x->writes[i] && cs_value_bind(s, ++n, &x->values[i]) != CS_OK)
            rc = no_memory(err);
    if (rc == CS_OK && x->shown && cs_table_bind_key(x->t, s, n + 1, x->key) != CS_OK)
        rc = cs_fail(err, CS_EINVAL, "the table's primary key is another one now");
    if (rc == CS_OK && sqlite3_step(s) != SQLITE_DONE)
        rc = cs_application_fail(db, "cannot write the value", err);
    if (rc == CS_OK && sqlite3_changes(db) == 0)
        rc = cs_fail(err, CS_EBUSY, "the row changed just now; try again");
    sqlite3_finalize(s);
    cs_buf_free(&sql);
    return rc;
}

/* What is shown is written once more, by a line in the log of changes: an UPDATE to the value that is there would log
 * nothing. Sealing gives it a fresh stamp. */
static int write_again(const struct settling *x, sqlite3 *db, struct cs_error *err)
{
    enum { MASK_BITS = 62, OP_UPDATE = 2, OP_GROUP = 16 };
    const struct cs_table *t = x->t;
    struct cs_buf sql = { 0 };
    sqlite3_stmt *s = NULL;
    int rc = CS_OK;

    cs_buf_put_str(&sql, "INSERT INTO main.sync_changelog(tbl, op, mask, ms");
    for (uint32_t i = 0; i < t->nkey; i++)
        cs_buf_printf(&sql, ", k%u", i + 1);
    cs_buf_printf(&sql, ") SELECT %lld, %lld, %lld, %lld", (long long)t->id,
                  OP_UPDATE + OP_GROUP * (long long)(x->column / MASK_BITS),
                  (long long)(UINT64_C(1) << (x->column % MASK_BITS)), (long long)cs_now_ms(x->r->world));
    for (uint32_t i = 0; i < t->nkey; i++) {
        cs_buf_put_str(&sql, ", ");
        cs_put_identifier(&sql, t->columns[t->key[i]].name);
    }
    cs_buf_put_str(&sql, " FROM main.");
    cs_put_identifier(&sql, t->name);
    for (uint32_t i = 0; i < t->nkey; i++) {
        cs_buf_put_str(&sql, i == 0 ? " WHERE " : " AND ");
        cs_put_identifier(&sql, t->columns[t->key[i]].name);
        cs_buf_printf(&sql, " = ?%u", i + 1);
    }
    if (sql.failed)
        rc = no_memory(err);
    else if (sqlite3_prepare_v2(db, (const char *)sql.data, (int)sql.len, &s, NULL) != SQLITE_OK ||
             cs_table_bind_key(t, s, 1, x->key) != CS_OK || sqlite3_step(s) != SQLITE_DONE)
        rc = cs_application_fail(db, "cannot write the value", err);
    sqlite3_finalize(s);
    cs_buf_free(&sql);
    return rc;
}

static int close_all(const struct settling *x, sqlite3 *db, struct cs_error *err)
{
    static const char *const names[] = { "kept", "taken", "given" };
    static const char *const sql[] = {
        "INSERT OR REPLACE INTO main." CS_SHARED "(what, name, value) VALUES('resolved', ?1, ?2)",
        "UPDATE main.sync_conflicts SET state = 'resolved', noted = 0, told = 1, at_ms = ?2 WHERE id = ?1",
    };
    int rc = CS_OK;

    for (int k = 0; k < 2 && rc == CS_OK; k++) {
        sqlite3_stmt *s = NULL;

        if (sqlite3_prepare_v2(db, sql[k], -1, &s, NULL) != SQLITE_OK)
            return cs_application_fail(db, "cannot close the conflict", err);
        for (size_t i = 0; i < x->nids && rc == CS_OK; i++) {
            cs_db_bind_slice(s, 1, x->ids[i]);
            if (k == 0)
                sqlite3_bind_text(s, 2, names[x->choice], -1, SQLITE_STATIC);
            else
                sqlite3_bind_int64(s, 2, cs_now_ms(x->r->world));
            if (sqlite3_step(s) != SQLITE_DONE)
                rc = cs_application_fail(db, "cannot close the conflict", err);
            sqlite3_reset(s);
        }
        sqlite3_finalize(s);
    }
    return rc;
}

/* Does this schema show the cell that is kept? */
static bool is_shown(const struct settling *x)
{
    return x->t != NULL && x->shown && x->column >= 0 && (uint64_t)x->column < x->t->ncolumn_ids &&
           x->t->by_id[x->column] != CS_NO_COLUMN;
}

static int write_all(struct settling *x, const struct cs_replica_options *o, struct cs_error *err)
{
    sqlite3 *db = NULL;
    int rc = cs_application_open(&db, o, err);

    if (rc == CS_OK && x->choice != CS_REVIEW_KEEP)
        rc = write_row(x, db, err);
    else if (rc == CS_OK && is_shown(x))
        rc = write_again(x, db, err);
    if (rc == CS_OK)
        rc = close_all(x, db, err);
    return cs_application_close(db, rc, err);
}

int cs_review_resolve(cs_replica *r, const struct cs_replica_options *o, const char *id, enum cs_review_choice choice,
                      const struct cs_value *given, struct cs_error *err)
{
    struct settling x = { .r = r, .choice = choice, .given = given };
    struct cs_buf whole = { 0 };
    int rc = find_id(r, id, &whole, err);

    x.id = cs_buf_slice(&whole);
    if (rc == CS_OK && (rc = cs_shared_ensure(r, err)) == CS_OK)
        rc = look_up(&x, err);
    if (rc == CS_OK && choice != CS_REVIEW_KEEP && !x.shown)
        rc = give_key(&x, err);
    if (rc == CS_OK)
        rc = write_all(&x, o, err);
    cs_arena_free(&x.a);
    cs_buf_free(&whole);
    return rc;
}
