/* For tests of whole engines: a folder of their own with a database in it, and an engine on the two. */
#ifndef ENGINE_FIXTURE_H
#define ENGINE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
/* cmocka wants those above first */
#include <clawsync/clawsync.h>
#include <cmocka.h>
#include <sqlite3.h>
#include <string.h>

#include "scratch.h"

#define WORKSPACE "6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b11"

struct device {
    char dir[SCRATCH_LEN], db[96], data[96], hub[64];
    clawsync_config config;
    clawsync_engine *engine;
};

/* The result of a call that must succeed. */
static inline void ok(int rc, const clawsync_error *err)
{
    if (rc < 0)
        fail_msg("%s (%s)", err->msg, clawsync_code_name(rc));
}

/* The application's work, from a connection of its own. */
static inline void app(const struct device *d, const char *sql)
{
    sqlite3 *db = NULL;
    char *msg = NULL;

    assert_int_equal(sqlite3_open(d->db, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 20000);
    if (sqlite3_exec(db, sql, NULL, NULL, &msg) != SQLITE_OK)
        fail_msg("%s\n  in: %s", msg, sql);
    sqlite3_close(db);
}

/* The one number that a query gives. */
static inline int64_t number_in(const struct device *d, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *s = NULL;
    int64_t n;

    assert_int_equal(sqlite3_open(d->db, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 20000);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    sqlite3_close(db);
    return n;
}

static inline void device_init(struct device *d, const char *schema)
{
    memset(d, 0, sizeof *d);
    assert_non_null(scratch_folder(d->dir, "engine"));
    snprintf(d->db, sizeof d->db, "%s/app.db", d->dir);
    snprintf(d->data, sizeof d->data, "%s/state", d->dir);
    snprintf(d->hub, sizeof d->hub, "http://127.0.0.1:1");
    app(d, schema);
    clawsync_config_init(&d->config);
    d->config.workspace_id = WORKSPACE;
    d->config.hub_endpoint = d->hub;
    d->config.db_path = d->db;
    d->config.data_dir = d->data;
    d->config.max_retries = 0;
    d->config.request_timeout_secs = 20;
}

static inline void device_open(struct device *d)
{
    clawsync_error err = { 0 };

    ok(clawsync_engine_open(&d->engine, &d->config, &err), &err);
}

/* In the workspace: its first device, or let in by the inviter. Events go to fn. */
static inline void device_enter(struct device *d, const char *schema, const char *endpoint, struct device *inviter,
                                clawsync_event_fn fn, void *arg)
{
    char code[CLAWSYNC_CODE_MAX];
    clawsync_error err = { 0 };

    device_init(d, schema);
    d->config.hub_endpoint = endpoint;
    device_open(d);
    if (fn != NULL)
        ok(clawsync_engine_subscribe(d->engine, fn, arg, &err), &err);
    if (inviter != NULL) {
        ok(clawsync_engine_invite(inviter->engine, 0, code, sizeof code, &err), &err);
        ok(clawsync_engine_join(d->engine, code, &err), &err);
    }
    ok(clawsync_engine_sync_now(d->engine, NULL, &err), &err);
}

static inline void device_close(struct device *d)
{
    clawsync_engine_close(d->engine);
    d->engine = NULL;
}

static inline void device_fini(struct device *d)
{
    char command[100];

    device_close(d);
    snprintf(command, sizeof command, "rm -r %s", d->dir);
    assert_int_equal(system(command), 0);
}

#endif
