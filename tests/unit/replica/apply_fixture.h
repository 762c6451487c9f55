/* For tests of apply and the projection: a database file with the application on a second connection, and delta sets
 * made by name. */
#ifndef APPLY_FIXTURE_H
#define APPLY_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "replica/internal.h"
#include "scratch.h"

/* ---- delta sets ---- */

enum { MAX_TABLES = 16, MAX_COLUMNS = 64, MAX_DEVICES = 16 };

struct delta {
    struct cs_arena arena;
    struct cs_delta d;
    struct cs_delta_table tables[MAX_TABLES];
    struct cs_slice columns[MAX_TABLES][MAX_COLUMNS];
    struct cs_uuid devices[MAX_DEVICES];
    uint32_t cap;
};

static inline void delta_init(struct delta *x)
{
    memset(x, 0, sizeof *x);
    x->d.tables = x->tables;
    x->d.devices = x->devices;
}

static inline void delta_fini(struct delta *x)
{
    cs_arena_free(&x->arena);
    free(x->d.ops);
}

static inline uint32_t delta_table(struct delta *x, const char *name)
{
    uint32_t i;

    for (i = 0; i < x->d.ntables; i++)
        if (cs_slice_eq(x->tables[i].name, cs_slice_str(name)))
            return i;
    assert_true(i < MAX_TABLES);
    x->tables[i].name = cs_arena_copy(&x->arena, cs_slice_str(name));
    x->tables[i].columns = x->columns[i];
    x->d.ntables++;
    return i;
}

static inline uint32_t delta_column(struct delta *x, uint32_t table, const char *name)
{
    struct cs_delta_table *t = &x->tables[table];
    uint32_t i;

    for (i = 0; i < t->ncolumns; i++)
        if (cs_slice_eq(t->columns[i], cs_slice_str(name)))
            return i;
    assert_true(i < MAX_COLUMNS);
    t->columns[i] = cs_arena_copy(&x->arena, cs_slice_str(name));
    t->ncolumns++;
    return i;
}

static inline uint32_t delta_device(struct delta *x, const struct cs_uuid *id)
{
    uint32_t i;

    for (i = 0; i < x->d.ndevices; i++)
        if (cs_uuid_cmp(&x->devices[i], id) == 0)
            return i;
    assert_true(i < MAX_DEVICES);
    x->devices[i] = *id;
    x->d.ndevices++;
    return i;
}

/* A new operation; its cells and over come next. */
static inline struct cs_op *delta_op(struct delta *x, enum cs_op_kind kind, const char *table, struct cs_slice key,
                                     int64_t stamp, const struct cs_uuid *device)
{
    struct cs_op *op;

    if (x->d.nops == x->cap) {
        x->cap = x->cap == 0 ? 16 : 2 * x->cap;
        x->d.ops = realloc(x->d.ops, x->cap * sizeof *x->d.ops);
        assert_non_null(x->d.ops);
    }
    op = &x->d.ops[x->d.nops++];
    *op = (struct cs_op){ .kind = kind,
                          .table = delta_table(x, table),
                          .device = delta_device(x, device),
                          .stamp = stamp,
                          .key = cs_arena_copy(&x->arena, key) };
    op->cells = cs_arena_zalloc(&x->arena, MAX_COLUMNS, sizeof *op->cells);
    op->over = cs_arena_zalloc(&x->arena, MAX_COLUMNS, sizeof *op->over);
    return op;
}

static inline void op_cell(struct delta *x, struct cs_op *op, const char *column, struct cs_value v)
{
    uint32_t col = delta_column(x, op->table, column), i = op->ncells++;

    if (v.type >= CS_TEXT)
        v.u.bytes = cs_arena_copy(&x->arena, v.u.bytes);
    for (; i > 0 && op->cells[i - 1].col > col; i--)
        op->cells[i] = op->cells[i - 1];
    op->cells[i] = (struct cs_op_cell){ .col = col, .value = v };
}

static inline void op_over(struct delta *x, struct cs_op *op, const char *column, int64_t stamp,
                           const struct cs_uuid *device)
{
    uint32_t col = delta_column(x, op->table, column), i = op->nover++;

    for (; i > 0 && op->over[i - 1].col > col; i--)
        op->over[i] = op->over[i - 1];
    op->over[i] = (struct cs_op_over){ .col = col, .device = delta_device(x, device), .stamp = stamp };
}

static inline struct cs_value text(const char *s)
{
    return (struct cs_value){ .type = CS_TEXT, .u.bytes = cs_slice_str(s) };
}
static inline struct cs_value integer(int64_t i)
{
    return (struct cs_value){ .type = CS_INTEGER, .u.i = i };
}
static inline struct cs_value real(double v)
{
    return (struct cs_value){ .type = CS_REAL, .u.r = v };
}
static inline struct cs_value null(void)
{
    return (struct cs_value){ .type = CS_NULL };
}

static inline struct cs_uuid device_id(int i)
{
    struct cs_uuid u;

    memset(u.b, 17 * i, sizeof u.b);
    return u;
}

/* ---- the database ---- */

struct fixture {
    char dir[SCRATCH_LEN], path[128];
    sqlite3 *app; /* the application's connection */
    cs_replica *r;
    uint64_t number; /* of the last batch applied */
};

static inline void app_exec(struct fixture *f, const char *sql)
{
    char *msg = NULL;

    if (sqlite3_exec(f->app, sql, NULL, NULL, &msg) != SQLITE_OK)
        fail_msg("%s\n  in: %s", msg, sql);
}

static inline void fixture_open(struct fixture *f, const char *schema)
{
    memset(f, 0, sizeof *f);
    assert_non_null(scratch_folder(f->dir, "apply"));
    snprintf(f->path, sizeof f->path, "%s/app.db", f->dir);
    assert_int_equal(sqlite3_open(f->path, &f->app), SQLITE_OK);
    sqlite3_busy_timeout(f->app, 5000);
    app_exec(f, schema);
}

static inline void fixture_replica(struct fixture *f)
{
    struct cs_replica_options o = { .path = f->path };
    struct cs_replica_identity id = { .workspace = device_id(14), .device = device_id(15), .incarnation = 1 };
    struct cs_error err = { 0 };

    if (cs_replica_open(&f->r, cs_world_real(), &o, &err) != CS_OK)
        fail_msg("open: %s", err.msg);
    if (cs_replica_set_identity(f->r, &id, &err) != CS_OK)
        fail_msg("identity: %s", err.msg);
}

static inline void fixture_track(struct fixture *f, const char *table)
{
    struct cs_track_options o = { .force_rowid_key = true };
    struct cs_error err = { 0 };

    if (cs_replica_track(f->r, table, &o, &err) != CS_OK)
        fail_msg("track %s: %s", table, err.msg);
}

static inline void fixture_close(struct fixture *f)
{
    static const char *const ends[] = { "", "-wal", "-shm", "-journal" };
    char name[160];

    cs_replica_close(f->r);
    sqlite3_close(f->app);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", f->path, ends[i]);
        unlink(name);
    }
    rmdir(f->dir);
}

/* Seals everything that is waiting. */
static inline void fixture_seal(struct fixture *f)
{
    struct cs_error err = { 0 };
    uint64_t sealed;
    bool more = true;

    while (more)
        if (cs_replica_seal(f->r, 1000, &more, &sealed, &err) != CS_OK)
            fail_msg("seal: %s", err.msg);
}

static inline struct cs_apply_result fixture_apply(struct fixture *f, const struct cs_delta *d)
{
    struct cs_pull_mark mark = { .log_id = 1, .number = ++f->number };
    struct cs_apply_result out;
    struct cs_error err = { 0 };

    if (d->ndevices > 0) {
        mark.device = d->devices[0];
        mark.device_number = f->number;
    }
    if (cs_replica_apply(f->r, d, &mark, &out, &err) != CS_OK)
        fail_msg("apply: %s", err.msg);
    return out;
}

/* The one value of a query on the application's connection, as text; "NULL" for none. Into a static buffer. */
static inline const char *app_value(struct fixture *f, const char *sql)
{
    static char out[4][4096];
    static int next;
    sqlite3_stmt *s = NULL;
    char *o = out[next++ % 4];

    if (sqlite3_prepare_v2(f->app, sql, -1, &s, NULL) != SQLITE_OK)
        fail_msg("%s\n  in: %s", sqlite3_errmsg(f->app), sql);
    snprintf(o, sizeof out[0], "NULL");
    if (sqlite3_step(s) == SQLITE_ROW && sqlite3_column_type(s, 0) != SQLITE_NULL)
        snprintf(o, sizeof out[0], "%s", (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    return o;
}

#endif
