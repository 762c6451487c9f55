/* For tests of the capturing side: a database on a real file, written by a foreign connection or by the sqlite3 shell.
 * What a device would send is rendered as text, one operation a line, and is applied to a model of the merged state,
 * which must equal what the replica says it holds. */
#ifndef CAPTURE_FIXTURE_H
#define CAPTURE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "crdt/state.h"
#include "replica/replica.h"
#include "scratch.h"

struct capture {
    char dir[SCRATCH_LEN], path[128];
    bool shell;   /* the application is the sqlite3 shell, a process of its own for each text of SQL */
    sqlite3 *app; /* otherwise this connection; always there for looking */
    cs_replica *r;
    struct cs_state model; /* of all that was sent */
    bool lossy;            /* the application dropped values: the model has more */
    uint64_t number;       /* of the last batch */
};

static inline void must(int rc, const struct cs_error *err, const char *what)
{
    if (rc != CS_OK)
        fail_msg("%s: %s (%s)", what, err->msg, cs_code_name(rc));
}

static inline void run_in_shell(struct capture *c, const char *sql)
{
    char command[200];
    FILE *p;

    fflush(NULL);
    snprintf(command, sizeof command, "sqlite3 -batch -bail %s", c->path);
    p = popen(command, "w");
    assert_non_null(p);
    fprintf(p, ".timeout 5000\n%s;\n", sql);
    if (pclose(p) != 0)
        fail_msg("the shell failed in: %s", sql);
}

static inline void run_here(struct capture *c, const char *sql)
{
    char *msg = NULL;

    if (sqlite3_exec(c->app, sql, NULL, NULL, &msg) != SQLITE_OK)
        fail_msg("%s\n  in: %s", msg, sql);
}

/* The application's work. */
static inline void app(struct capture *c, const char *sql)
{
    if (c->shell)
        run_in_shell(c, sql);
    else
        run_here(c, sql);
}

static inline void open_database(struct capture *c, bool shell, const char *schema)
{
    memset(c, 0, sizeof *c);
    c->shell = shell;
    assert_non_null(scratch_folder(c->dir, "capture"));
    snprintf(c->path, sizeof c->path, "%.100s/app.db", c->dir);
    assert_int_equal(sqlite3_open(c->path, &c->app), SQLITE_OK);
    sqlite3_busy_timeout(c->app, 5000);
    run_here(c, schema);
}

static inline void open_replica(struct capture *c)
{
    struct cs_replica_options o = { .path = c->path };
    struct cs_replica_identity id = { .incarnation = 1 };
    struct cs_error err = { 0 };

    memset(id.workspace.b, 9, 16);
    memset(id.device.b, 7, 16);
    must(cs_replica_open(&c->r, cs_world_real(), &o, &err), &err, "open");
    must(cs_replica_set_identity(c->r, &id, &err), &err, "identity");
}

static inline void track(struct capture *c, const char *table)
{
    struct cs_track_options o = { .force_rowid_key = true };
    struct cs_error err = { 0 };

    must(cs_replica_track(c->r, table, &o, &err), &err, table);
}

/* Tracks every table that can be. */
static inline void track_all(struct capture *c)
{
    struct cs_table_info *tables;
    struct cs_arena a = { 0 };
    struct cs_error err = { 0 };
    size_t n;

    must(cs_replica_tables(c->r, &a, &tables, &n, &err), &err, "tables");
    for (size_t i = 0; i < n; i++)
        track(c, tables[i].name);
    cs_arena_free(&a);
}

static inline void close_all(struct capture *c)
{
    static const char *const ends[] = { "", "-wal", "-shm", "-journal" };
    char name[160];

    cs_replica_close(c->r);
    sqlite3_close(c->app);
    cs_state_free(&c->model);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", c->path, ends[i]);
        unlink(name);
    }
    rmdir(c->dir);
}

/* The one value of a query, as text; "NULL" for none. In a static buffer. */
static inline const char *value_of(struct capture *c, const char *sql)
{
    static char out[4][8192];
    static int next;
    sqlite3_stmt *s = NULL;
    char *o = out[next++ % 4];

    if (sqlite3_prepare_v2(c->app, sql, -1, &s, NULL) != SQLITE_OK)
        fail_msg("%s\n  in: %s", sqlite3_errmsg(c->app), sql);
    snprintf(o, sizeof out[0], "NULL");
    if (sqlite3_step(s) == SQLITE_ROW && sqlite3_column_type(s, 0) != SQLITE_NULL)
        snprintf(o, sizeof out[0], "%s", (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    return o;
}

/* ---- operations as text ---- */

static inline void put_value(struct cs_buf *out, const struct cs_value *v)
{
    char number[64];

    switch (v->type) {
    case CS_NULL:
        cs_buf_put_str(out, "NULL");
        break;
    case CS_INTEGER:
        cs_buf_printf(out, "%lld", (long long)v->u.i);
        break;
    case CS_REAL:
        sqlite3_snprintf(sizeof number, number, "%!.15g", v->u.r);
        cs_buf_put_str(out, number);
        break;
    case CS_TEXT:
        cs_buf_put_u8(out, '\'');
        for (size_t i = 0; i < v->u.bytes.len; i++)
            if (v->u.bytes.data[i] >= ' ' && v->u.bytes.data[i] < 127)
                cs_buf_put_u8(out, v->u.bytes.data[i]);
            else
                cs_buf_printf(out, "\\%02x", v->u.bytes.data[i]);
        cs_buf_put_u8(out, '\'');
        break;
    case CS_BLOB:
        cs_buf_put_str(out, "x'");
        for (size_t i = 0; i < v->u.bytes.len; i++)
            cs_buf_printf(out, "%02x", v->u.bytes.data[i]);
        cs_buf_put_u8(out, '\'');
    }
}

struct item {
    char text[400];
};

static inline int by_text(const void *a, const void *b)
{
    return strcmp(((const struct item *)a)->text, ((const struct item *)b)->text);
}

static inline void put_sorted(struct cs_buf *out, struct item *items, uint32_t n)
{
    qsort(items, n, sizeof *items, by_text);
    for (uint32_t i = 0; i < n; i++)
        cs_buf_put_str(out, items[i].text);
    free(items);
}

static inline void item_text(struct item *item, struct cs_buf *b)
{
    cs_buf_put_u8(b, 0);
    snprintf(item->text, sizeof item->text, "%s", (const char *)b->data);
    cs_buf_free(b);
}

/* "I table key column=value …", "U table key column=value … /column-that-it-saw …", "D table key /column …"; columns by
 * name. */
static inline void put_op(struct cs_buf *out, const struct cs_delta *d, const struct cs_op *op)
{
    const struct cs_delta_table *t = &d->tables[op->table];
    struct item *cells = calloc(op->ncells + 1, sizeof *cells), *over = calloc(op->nover + 1, sizeof *over);
    struct cs_reader rd = cs_reader(op->key);
    struct cs_value part;

    assert_true(cells != NULL && over != NULL);
    cs_buf_printf(out, "%c %.*s", "?IUD"[op->kind], (int)t -> name.len, (const char *)t->name.data);
    for (bool first = true; cs_reader_left(&rd) > 0; first = false) {
        assert_true(cs_key_next(&rd, &part));
        cs_buf_put_u8(out, first ? ' ' : ',');
        put_value(out, &part);
    }
    for (uint32_t i = 0; i < op->ncells; i++) {
        struct cs_slice name = t->columns[op->cells[i].col];
        struct cs_buf b = { 0 };

        cs_buf_printf(&b, " %.*s=", (int)name.len, (const char *)name.data);
        put_value(&b, &op->cells[i].value);
        item_text(&cells[i], &b);
    }
    for (uint32_t i = 0; i < op->nover; i++) {
        struct cs_slice name = t->columns[op->over[i].col];
        struct cs_buf b = { 0 };

        cs_buf_printf(&b, " /%.*s", (int)name.len, (const char *)name.data);
        item_text(&over[i], &b);
    }
    put_sorted(out, cells, op->ncells);
    put_sorted(out, over, op->nover);
    cs_buf_put_u8(out, '\n');
}

/* ---- what the device does ---- */

static inline void seal_all(struct capture *c)
{
    struct cs_error err = { 0 };
    bool more = true, changed;

    must(cs_replica_check_schema(c->r, &changed, &err), &err, "check_schema");
    while (more)
        must(cs_replica_seal(c->r, 7, &more, NULL, &err), &err, "seal");
}

static inline void bind_and_accept(struct capture *c)
{
    struct cs_error err = { 0 };
    uint8_t hash[32];

    c->number++;
    memset(hash, (int)c->number, sizeof hash);
    must(cs_replica_bind(c->r, c->number, hash, cs_slice("bytes", 5), &err), &err, "bind");
    must(cs_replica_bound_accepted(c->r, c->number, c->number, 0, &err), &err, "accepted");
}

/* What others know by now is what is here. */
static inline void model_agrees(struct capture *c)
{
    struct cs_buf want = { 0 }, got = { 0 };
    struct cs_error err = { 0 };

    cs_state_dump(&c->model, &want);
    must(cs_replica_dump(c->r, &got, &err), &err, "dump");
    if (!cs_slice_eq(cs_buf_slice(&want), cs_buf_slice(&got)))
        fail_msg("the merged state is not what was sent (%zu bytes, sent %zu)", got.len, want.len);
    cs_buf_free(&want);
    cs_buf_free(&got);
}

/* Seals and sends everything; what was sent, as text that the caller frees with cs_buf_free. */
static inline struct cs_buf send_all(struct capture *c)
{
    struct cs_buf out = { 0 };
    struct cs_error err = { 0 };
    bool unsealed, unsent;

    seal_all(c);
    for (;;) {
        struct cs_arena a = { 0 };
        struct cs_delta d;

        must(cs_replica_extract(c->r, &a, 50, 1 << 20, &d, &err), &err, "extract");
        for (uint32_t i = 0; i < d.nops; i++)
            put_op(&out, &d, &d.ops[i]);
        if (d.nops > 0) {
            assert_int_equal(cs_state_apply(&c->model, &d, NULL, NULL), CS_OK);
            bind_and_accept(c);
        }
        cs_arena_free(&a);
        if (d.nops == 0)
            break;
    }
    must(cs_replica_pending(c->r, &unsealed, &unsent, &err), &err, "pending");
    assert_false(unsealed);
    assert_false(unsent);
    if (!c->lossy)
        model_agrees(c);
    cs_buf_put_u8(&out, 0);
    assert_false(out.failed);
    return out;
}

static inline void sends(struct capture *c, const char *want)
{
    struct cs_buf got = send_all(c);

    if (strcmp((const char *)got.data, want) != 0)
        fail_msg("sent:\n%s\nwanted:\n%s", (const char *)got.data, want);
    cs_buf_free(&got);
}

static inline void send_silently(struct capture *c)
{
    struct cs_buf got = send_all(c);

    cs_buf_free(&got);
}

#endif
