#include <inttypes.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/hash.h"
#include "sim/system.h"

enum { LONG_EVERY = 16, LONG_ONE = 5, LONG_BLOCKS = 48 };

const char sim_schema[] =
    "PRAGMA journal_mode=WAL;"
    "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT, weight REAL, seen INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE memory_tags(memory_id TEXT NOT NULL REFERENCES memories(id) ON DELETE CASCADE, tag TEXT NOT NULL,"
    " PRIMARY KEY(memory_id, tag));"
    "CREATE TABLE sessions(id TEXT PRIMARY KEY, name TEXT UNIQUE, state TEXT);"
    "CREATE TABLE active_memory(id TEXT PRIMARY KEY, slot TEXT UNIQUE);"
    "CREATE TABLE tool_outputs(id TEXT PRIMARY KEY, slot TEXT REFERENCES active_memory(slot) ON UPDATE CASCADE"
    " ON DELETE SET NULL);";
const char sim_context[] = "CREATE TABLE context(key TEXT PRIMARY KEY, value TEXT);";

/* What each column's values begin with, as "m3 c17": the row, and the number of the write. */
static const struct {
    const char *name;
    char key, tag;
} columns[COLUMNS] = {
    [CONTENT] = { "content", 'm', 'c' }, [WEIGHT] = { "weight", 'm', 'w' }, [EXTRA] = { "extra", 'm', 'x' },
    [STATE] = { "state", 's', 's' },     [VALUE] = { "value", 'c', 'v' },
};

static uint32_t next_write(struct device *d, enum column column, unsigned row)
{
    struct run *r = d->run;

    if (r->nwritten + 1 >= r->cap_written) {
        r->cap_written = r->cap_written == 0 ? 256 : r->cap_written * 2;
        if ((r->written = realloc(r->written, r->cap_written * sizeof *r->written)) == NULL)
            die(r, "out of memory");
    }
    r->written[++r->nwritten] = (struct written){ (uint8_t)column, (uint8_t)row, (uint8_t)(d - r->devices) };
    return r->nwritten;
}

/* sql has the row twice and the number once, or not at all. */
static void write_row(struct device *d, enum column column, unsigned row, const char *before, const char *after)
{
    uint32_t n = next_write(d, column, row);
    char sql[600], value[40];

    if (column == WEIGHT)
        snprintf(value, sizeof value, "%" PRIu32 ".5", n);
    else
        snprintf(value, sizeof value, "'%c%u %c%" PRIu32 "'", columns[column].key, row, columns[column].tag, n);
    snprintf(sql, sizeof sql, "%s%s%s", before, value, after);
    if (app(d, sql) > 0)
        d->last[column][row] = n;
}

void write_shared(struct device *d)
{
    struct run *r = d->run;
    unsigned id = (unsigned)draw(r, IDS);
    char a[300], b[100];

    snprintf(b, sizeof b, " WHERE id = 'm%u'", id);
    switch (draw(r, 8)) {
    case 0:
        snprintf(a, sizeof a, "DELETE FROM memories%s", b);
        app(d, a);
        return;
    case 1:
        snprintf(a, sizeof a, "UPDATE memories SET seen = seen + 1 WHERE id <= 'm%u'", id);
        app(d, a);
        return;
    case 2:
        snprintf(a, sizeof a, "INSERT OR IGNORE INTO memory_tags SELECT id, 't%u' FROM memories WHERE id LIKE 'm%%'",
                 (unsigned)draw(r, 3));
        app(d, a);
        return;
    case 3:
        write_row(d, WEIGHT, id, "UPDATE memories SET weight = ", b);
        return;
    case 4:
        if (d->extra)
            write_row(d, EXTRA, id, "UPDATE memories SET extra = ", b);
        return;
    case 5:
        snprintf(a, sizeof a, "INSERT OR REPLACE INTO memories(id, content) VALUES('m%u', ", id);
        write_row(d, CONTENT, id, a, ")");
        return;
    default:
        snprintf(a, sizeof a, "INSERT INTO memories(id, content) VALUES('m%u', ", id);
        write_row(d, CONTENT, id, a, ") ON CONFLICT(id) DO UPDATE SET content = excluded.content");
    }
}

/* Names are few and UNIQUE, so that devices claim the same ones. */
void write_unique(struct device *d)
{
    struct run *r = d->run;
    unsigned id = (unsigned)draw(r, IDS), name = (unsigned)draw(r, NAMES);
    char a[200], b[100];

    switch (draw(r, 5)) {
    case 0:
        snprintf(a, sizeof a, "DELETE FROM sessions WHERE id = 's%u'", id);
        app(d, a);
        return;
    case 1: /* two change places */
        snprintf(a, sizeof a,
                 "UPDATE sessions SET name = name || '~' WHERE name IS NOT NULL AND name NOT LIKE '%%~';"
                 "UPDATE sessions SET name = CASE name WHEN 'n%u~' THEN 'n%u' WHEN 'n%u~' THEN 'n%u' ELSE "
                 "rtrim(name, '~') END",
                 name, (name + 1) % NAMES, (name + 1) % NAMES, name);
        app(d, a);
        return;
    case 2:
        snprintf(b, sizeof b, " WHERE id = 's%u'", id);
        write_row(d, STATE, id, "UPDATE sessions SET state = ", b);
        return;
    default:
        snprintf(a, sizeof a, "INSERT OR REPLACE INTO sessions(id, name, state) VALUES('s%u', 'n%u', ", id, name);
        write_row(d, STATE, id, a, ")");
    }
}

/* Of a device whose triggers are gone, or whose disk has rotted where nobody notices. */
void write_unseen(struct device *d)
{
    struct run *r = d->run;
    unsigned id = (unsigned)draw(r, IDS);
    uint32_t n = next_write(d, CONTENT, id);
    unsigned by = 1 + (unsigned)(d - r->devices);
    char sql[200];

    /* Where two devices lose a value they may agree on another than the log has: it alone still knows the one. */
    if (r->blurred[id] != 0 && r->blurred[id] != by)
        return;
    switch (draw(r, 4)) {
    case 0:
        snprintf(sql, sizeof sql, "DELETE FROM memories WHERE id = 'm%u'", id);
        break;
    case 1:
        snprintf(sql, sizeof sql, "INSERT OR IGNORE INTO memories(id, content) VALUES('m%u', 'm%u c%" PRIu32 "')", id,
                 id, n);
        break;
    default:
        snprintf(sql, sizeof sql, "UPDATE memories SET content = 'm%u c%" PRIu32 "' WHERE id = 'm%u'", id, n, id);
    }
    if (app_unseen(d, sql) > 0) {
        r->unseen = true;
        r->blurred[id] = by;
    }
}

/* Rows that others refer to by a column that changes. */
void write_slots(struct device *d)
{
    struct run *r = d->run;
    unsigned id = (unsigned)draw(r, NAMES), slot = (unsigned)draw(r, NAMES);
    char sql[300];

    switch (draw(r, 5)) {
    case 0:
        snprintf(sql, sizeof sql, "DELETE FROM active_memory WHERE id = 'a%u'", id);
        break;
    case 1:
        snprintf(sql, sizeof sql, "UPDATE OR IGNORE active_memory SET slot = 'p%u' WHERE id = 'a%u'", slot, id);
        break;
    case 2:
        snprintf(sql, sizeof sql, "INSERT OR IGNORE INTO active_memory(id, slot) VALUES('a%u', 'p%u')", id, slot);
        break;
    default:
        snprintf(sql, sizeof sql,
                 "INSERT INTO tool_outputs(id, slot) SELECT 't%u', slot FROM active_memory WHERE id = 'a%u' "
                 "ON CONFLICT(id) DO UPDATE SET slot = excluded.slot",
                 (unsigned)draw(r, IDS), id);
    }
    app(d, sql);
}

void write_context(struct device *d)
{
    unsigned id = (unsigned)draw(d->run, IDS);
    char a[100];

    if (!d->context)
        return;
    snprintf(a, sizeof a, "INSERT OR REPLACE INTO context(key, value) VALUES('c%u', ", id);
    write_row(d, VALUE, id, a, ")");
}

/* ---- rows that one device alone writes ---- */

/* What a version of such a row holds. Some are long, and no two have anything in common: their batches have chunks. */
static const char *own_text(const char *device, unsigned i, unsigned version)
{
    static char text[64 + LONG_BLOCKS * 64 + 1];
    size_t n = (size_t)snprintf(text, 64, "from %s %u %u", device, i, version);
    char seed[80];
    uint8_t hash[32];

    for (unsigned k = 0; i % LONG_EVERY == LONG_ONE && k < LONG_BLOCKS; k++, n += 64) {
        snprintf(seed, sizeof seed, "%s %u %u %u", device, i, version, k);
        cs_hash_plain(cs_slice_str(seed), hash);
        sodium_bin2hex(text + n, 65, hash, sizeof hash);
        text[n] = ' ';
    }
    return text;
}

static void own_text_sql(sqlite3_context *c, int n, sqlite3_value **v)
{
    (void)n;
    sqlite3_result_text(c,
                        own_text((const char *)sqlite3_value_text(v[0]), (unsigned)sqlite3_value_int(v[1]),
                                 (unsigned)sqlite3_value_int(v[2])),
                        -1, SQLITE_TRANSIENT);
}

void sim_functions(sqlite3 *db)
{
    sqlite3_create_function(db, "own_text", 3, SQLITE_UTF8, NULL, own_text_sql, NULL, NULL);
}

void write_own(struct device *d, unsigned n)
{
    char sql[500];

    if (d->nown + n > d->own_cap) {
        d->own_cap = (d->nown + n) * 2;
        if ((d->own = realloc(d->own, d->own_cap * sizeof *d->own)) == NULL)
            die(d->run, "out of memory");
    }
    memset(d->own + d->nown, 0, n * sizeof *d->own);
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE c(i) AS (VALUES(%u) UNION ALL SELECT i + 1 FROM c WHERE i + 1 < %u) "
             "INSERT INTO memories(id, content) SELECT '%s-' || i, own_text('%s', i, 0) FROM c",
             d->nown, d->nown + n, d->name, d->name);
    d->nown += n;
    app(d, sql);
}

void change_own(struct device *d)
{
    struct own was;
    unsigned i;
    char sql[200];

    if (d->nown == 0)
        return;
    i = (unsigned)draw(d->run, d->nown);
    was = d->own[i];
    if (was.deleted) {
        d->own[i].deleted = false;
        snprintf(sql, sizeof sql,
                 "INSERT OR REPLACE INTO memories(id, content) VALUES('%s-%u', own_text('%s', %u, %u))", d->name, i,
                 d->name, i, ++d->own[i].version);
    } else if (draw(d->run, 4) == 0) {
        d->own[i].deleted = true;
        snprintf(sql, sizeof sql, "DELETE FROM memories WHERE id = '%s-%u'", d->name, i);
    } else {
        snprintf(sql, sizeof sql, "UPDATE memories SET content = own_text('%s', %u, %u) WHERE id = '%s-%u'", d->name, i,
                 ++d->own[i].version, d->name, i);
    }
    if (app(d, sql) == 1)
        return;
    if (!d->restored)
        die(d->run, "%s: a row of its own is not as it left it: %s", d->name, sql);
    d->own[i] = was; /* its backup does not have the row */
}

/* ---- the schema ---- */

void add_column(struct device *d)
{
    if (d->extra)
        return;
    note(d->run, "%s adds a column", d->name);
    app(d, "ALTER TABLE memories ADD COLUMN extra TEXT");
    d->extra = true;
}

void add_context(struct device *d)
{
    if (d->context)
        return;
    note(d->run, "%s makes a table", d->name);
    app(d, sim_context);
    d->context = true;
}

/* What was written in a pause and is gone before its end was never seen: of a row that was hidden before it says
 * nothing. */
static void came_and_went(struct device *d, const uint32_t before[IDS])
{
    char sql[80];

    for (unsigned i = 0; i < IDS; i++) {
        snprintf(sql, sizeof sql, "SELECT count(*) FROM sessions WHERE id = 's%u'", i);
        if (d->last[STATE][i] != before[i] && ask(d->run, d->disk, d->db, sql) == 0)
            d->last[STATE][i] = before[i];
    }
}

void rebuild(struct device *d)
{
    clawsync_error err = { 0 };
    uint32_t before[IDS];

    note(d->run, "%s rebuilds a table", d->name);
    heal(d);
    if (clawsync_engine_pause(d->engine, "sessions", &err) != CLAWSYNC_OK)
        die(d->run, "%s: pause: %s", d->name, err.msg);
    memcpy(before, d->last[STATE], sizeof before);
    write_unique(d);
    app(d, "BEGIN IMMEDIATE; CREATE TABLE made_anew(id TEXT PRIMARY KEY, name TEXT UNIQUE, state TEXT);"
           "INSERT INTO made_anew SELECT * FROM sessions; DROP TABLE sessions;"
           "ALTER TABLE made_anew RENAME TO sessions; COMMIT");
    write_unique(d);
    came_and_went(d, before);
    if (ask(d->run, d->disk, d->db, "SELECT count(*) FROM sessions") ==
        0) /* which would say nothing of its rows (0019) */
        write_row(d, STATE, 0, "INSERT INTO sessions(id, name, state) VALUES('s0', 'n0', ", ")");
    pass(d->run, draw(d->run, 5000));
    if (!cs_sim_lives(d->world))
        return;
    if (clawsync_engine_resume(d->engine, "sessions", &err) != CLAWSYNC_OK)
        die(d->run, "%s: resume: %s", d->name, err.msg);
}

void resume(struct device *d)
{
    clawsync_error err = { 0 };

    if (ask(d->run, d->disk, d->db, "SELECT count(*) FROM sync_tables WHERE state = 2") == 0)
        return;
    note(d->run, "%s resumes", d->name);
    if (clawsync_engine_resume(d->engine, "sessions", &err) != CLAWSYNC_OK)
        die(d->run, "%s: resume: %s", d->name, err.msg);
}

/* ---- what became of it ---- */

/* "m3 c17" → 17, if that is what was written to row 3 of the column. */
static int64_t number_of(const struct run *r, enum column column, unsigned row, const char *text)
{
    unsigned in_row, n;
    char key, tag, more;

    if (column == WEIGHT) {
        if (sscanf(text, "%u.5%c", &n, &more) != 1)
            return 0;
    } else if (sscanf(text, "%c%u %c%u%c", &key, &in_row, &tag, &n, &more) != 4 || key != columns[column].key ||
               in_row != row || tag != columns[column].tag) {
        return 0;
    }
    if (n < 1 || n > r->nwritten || r->written[n].column != column || r->written[n].row != row)
        return 0;
    return n;
}

static int64_t number_in(const struct run *r, enum column column, unsigned row, const struct cs_value *v)
{
    char text[64];

    if (v->type == CS_NULL)
        return -1;
    if (column == WEIGHT)
        snprintf(text, sizeof text, "%.1f", v->type == CS_REAL ? v->u.r : 0);
    else
        snprintf(text, sizeof text, "%.*s", v->type == CS_TEXT ? (int)v->u.bytes.len : 0,
                 v->type == CS_TEXT ? (const char *)v->u.bytes.data : "");
    return number_of(r, column, row, text);
}

int64_t write_of(const struct run *r, struct cs_slice column, struct cs_slice key, const struct cs_value *v,
                 enum column *which, unsigned *row)
{
    struct cs_reader rd = cs_reader(key);
    struct cs_value part;
    char text[32];

    if (!cs_key_next(&rd, &part) || part.type != CS_TEXT || part.u.bytes.len >= sizeof text)
        return -1;
    snprintf(text, sizeof text, "%.*s", (int)part.u.bytes.len, (const char *)part.u.bytes.data);
    for (int c = 0; c < COLUMNS; c++) {
        unsigned n;
        char more;

        if (!cs_slice_eq(column, cs_slice_str(columns[c].name)) || text[0] != columns[c].key ||
            sscanf(text + 1, "%u%c", &n, &more) != 1 || n >= IDS)
            continue;
        *which = (enum column)c;
        *row = n;
        return number_in(r, *which, n, v);
    }
    return -1;
}

const struct device *writer_of(const struct run *r, int64_t write)
{
    return &r->devices[r->written[write].by];
}

static void check_shown(struct device *d, sqlite3 *db, const char *table, const char *key, enum column column)
{
    sqlite3_stmt *s = NULL;
    char sql[200];

    snprintf(sql, sizeof sql, "SELECT %s, %s FROM %s WHERE %s GLOB '%c[0-9]*' AND %s IS NOT NULL", key,
             columns[column].name, table, key, columns[column].key, columns[column].name);
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
        die(d->run, "%s: %s", d->name, sqlite3_errmsg(db));
    while (sqlite3_step(s) == SQLITE_ROW) {
        const char *id = (const char *)sqlite3_column_text(s, 0), *text = (const char *)sqlite3_column_text(s, 1);

        if (number_of(d->run, column, (unsigned)strtoul(id + 1, NULL, 10), text) == 0)
            die(d->run, "%s shows in %s %s what nobody wrote: %s", d->name, id, columns[column].name, text);
    }
    sqlite3_finalize(s);
}

/* A row that its device may have sent, and that others may have deleted and forgotten, is a conflict that gives it back
 * (docs/decisions/0017). */
static bool is_set_apart(const struct device *by, unsigned row)
{
    char sql[200];

    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM sync_conflicts WHERE why = 'deleted' AND CAST(substr(key, 6) AS TEXT) = '%s-%u'",
             by->name, row);
    return by->run->compacts && ask(by->run, by->disk, by->db, sql) > 0;
}

/* Of two copies at work the one whose clock is behind gives stamps below those under which the other one has sent the
 * same rows: its edit is a conflict then, which gives it back. */
static bool lost_to_a_copy(const struct device *by, unsigned row)
{
    char sql[300];

    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM sync_conflicts WHERE why = 'overwritten' AND value = '%s'"
             " AND CAST(substr(key, 6) AS TEXT) = '%s-%u'",
             own_text(by->name, row, by->own[row].version), by->name, row);
    return by->copied && ask(by->run, by->disk, by->db, sql) > 0;
}

static void check_own_shown(struct device *d, sqlite3 *db, struct device *by, bool exact)
{
    sqlite3_stmt *s = NULL;
    uint64_t shown = 0, expected = 0;
    bool *seen = calloc(by->nown + 1, sizeof *seen);
    char sql[200];

    snprintf(sql, sizeof sql, "SELECT id, content FROM memories WHERE id GLOB '%s-*'", by->name);
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
        die(d->run, "%s: %s", d->name, sqlite3_errmsg(db));
    while (sqlite3_step(s) == SQLITE_ROW) {
        const char *id = (const char *)sqlite3_column_text(s, 0), *text = (const char *)sqlite3_column_text(s, 1);
        unsigned i = (unsigned)strtoul(id + strlen(by->name) + 1, NULL, 10), in_row = 0, version = 0;
        char from[32];

        if (text == NULL || sscanf(text, "from %31s %u %u", from, &in_row, &version) != 3 ||
            strcmp(from, by->name) != 0 || in_row != i || i >= by->nown || version > by->own[i].version ||
            strcmp(text, own_text(from, i, version)) != 0)
            die(d->run, "%s shows in %s what nobody wrote: %.100s", d->name, id, text == NULL ? "NULL" : text);
        seen[i] = true;
        if (by->own[i].deleted && by->run->revived)
            continue;
        shown++;
        if (exact && (by->own[i].deleted || (version != by->own[i].version && !lost_to_a_copy(by, i))))
            die(d->run, "%s shows in %s \"%.40s\", and %s %s %u last", d->name, id, text, by->name,
                by->own[i].deleted ? "deleted version" : "wrote version", by->own[i].version);
    }
    sqlite3_finalize(s);
    for (unsigned i = 0; i < by->nown; i++)
        expected += !by->own[i].deleted && (seen[i] || !exact || !is_set_apart(by, i));
    free(seen);
    if (exact && shown != expected)
        die(d->run, "%s shows %" PRIu64 " of the %" PRIu64 " rows that %s has written", d->name, shown, expected,
            by->name);
}

void check_nothing_invented(struct device *d)
{
    sqlite3 *db = look_into(d->run, d->disk, d->db);

    check_shown(d, db, "memories", "id", CONTENT);
    check_shown(d, db, "memories", "id", WEIGHT);
    check_shown(d, db, "sessions", "id", STATE);
    if (d->extra)
        check_shown(d, db, "memories", "id", EXTRA);
    if (d->context)
        check_shown(d, db, "context", "key", VALUE);
    for (unsigned i = 0; i < d->run->ndevices; i++)
        check_own_shown(d, db, &d->run->devices[i], false);
    close_look(d->disk, db);
}

void check_own(struct device *d)
{
    sqlite3 *db = look_into(d->run, d->disk, d->db);

    for (unsigned i = 0; i < d->run->ndevices; i++)
        if (is_there(&d->run->devices[i]))
            check_own_shown(d, db, &d->run->devices[i], true);
    close_look(d->disk, db);
}
