/* A member that is not honest: signs by a device's own keystore, and puts what it likes into the hub's database. */
#ifndef FORGER_H
#define FORGER_H

#include "unit/engine/hub_fixture.h"

#include "base/world.h"
#include "crypto/head.h"
#include "crypto/keystore.h"
#include "identity/membership.h"

struct forger {
    struct cs_rng rng;
    struct cs_keystore *ks;
    struct cs_device_keys keys;
    struct cs_membership m;
};

/* The device is closed: its keystore is on disk. */
static inline void forger_init(struct forger *f, const struct device *d)
{
    struct cs_world *w = cs_world_real();
    struct cs_buf log = { 0 };
    struct cs_error err = { 0 };
    struct cs_reader r;
    char path[200];

    memset(f, 0, sizeof *f);
    f->rng.world = w;
    snprintf(path, sizeof path, "%s/identity/keystore", d->data);
    assert_int_equal(cs_keystore_load(&f->ks, w, path, NULL, &err), CS_OK);
    cs_device_keys_derive(&f->keys, CS_PRINCIPAL_DEVICE, cs_slice(f->ks->device_secret, 32), &f->ks->workspace);
    f->m.workspace = f->ks->workspace;
    snprintf(path, sizeof path, "%s/identity/membership.log", d->data);
    assert_int_equal(w->files.ops->read(w->files.self, path, 1 << 20, &log, &err), CS_OK);
    r = cs_reader(cs_buf_slice(&log));
    while (cs_reader_left(&r) > 0)
        assert_int_equal(cs_membership_apply(&f->m, cs_read_bytes(&r, cs_read_u32(&r)), 0, &err), CS_OK);
    cs_buf_free(&log);
}

static inline void forger_fini(struct forger *f)
{
    cs_keystore_free(f->ks);
    cs_membership_free(&f->m);
}

static inline sqlite3 *hub_open(const struct hub *h)
{
    sqlite3 *db = NULL;

    assert_int_equal(sqlite3_open(h->database, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 20000);
    return db;
}

/* One statement with blobs and numbers: "b" takes a slice, "i" a number. */
static inline void hub_run(sqlite3 *db, const char *sql, const char *types, ...)
{
    sqlite3_stmt *q = NULL;
    va_list ap;

    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    va_start(ap, types);
    for (int i = 0; types[i] != '\0'; i++) {
        if (types[i] == 'b') {
            struct cs_slice s = va_arg(ap, struct cs_slice);

            sqlite3_bind_blob(q, i + 1, s.data, (int)s.len, SQLITE_STATIC);
        } else {
            sqlite3_bind_int64(q, i + 1, va_arg(ap, int64_t));
        }
    }
    va_end(ap);
    if (sqlite3_step(q) != SQLITE_DONE)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_finalize(q);
}

#endif
