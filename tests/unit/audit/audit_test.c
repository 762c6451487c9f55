/* The audit log: what is appended verifies, and whatever is changed, taken out, put in or moved does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "audit/audit.h"
#include "fixtures/short_memory.h"
#include "scratch.h"

enum { ROWS = 6 };

struct scene {
    char dir[SCRATCH_LEN], path[96];
    struct cs_audit_owner owner;
    struct cs_sign_key key;
    cs_audit *log;
};

static void must(int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        fail_msg("%s", err->msg);
}

static void open_log(struct scene *s, bool read_only)
{
    struct cs_error err;

    must(cs_audit_open(&s->log, cs_world_real(), s->path, read_only, &s->owner, &err), &err);
}

static void scene_open(struct scene *s)
{
    static const uint8_t seed[32] = { 1, 2, 3 };

    *s = (struct scene){ 0 };
    assert_int_equal(cs_crypto_init(NULL), CS_OK);
    assert_non_null(scratch_folder(s->dir, "audit"));
    snprintf(s->path, sizeof s->path, "%s/audit.db", s->dir);
    memset(s->owner.workspace.b, 7, 16);
    memset(s->owner.device.b, 9, 16);
    cs_sign_key_from_seed(&s->key, seed);
    open_log(s, false);
}

static void scene_close(struct scene *s)
{
    static const char *const ends[] = { "", "-wal", "-shm" };
    char file[128];

    cs_audit_close(s->log);
    for (int i = 0; i < 3; i++) {
        snprintf(file, sizeof file, "%s%s", s->path, ends[i]);
        unlink(file);
    }
    rmdir(s->dir);
}

static void append(struct scene *s, uint64_t n)
{
    struct cs_error err;

    for (uint64_t i = 0; i < n; i++) {
        char ids[40];
        struct cs_audit_event e = { .event_type = i % 2 == 0 ? "PUSH" : "PULL",
                                    .entity_type = "batch",
                                    .entity_ids = ids,
                                    .ops_count = i,
                                    .occurred_at = 1000 + (int64_t)i,
                                    .payload = i % 3 == 0 ? CS_SLICE_NULL : cs_slice("\0payload", 8) };

        snprintf(ids, sizeof ids, "%d,%d", (int)i, (int)i + 1);
        must(cs_audit_append(s->log, &s->key, &e, 1, &err), &err);
    }
}

static struct cs_audit_verdict verdict_of(struct scene *s, const struct cs_audit_anchor *anchors, size_t n)
{
    struct cs_audit_verdict v;
    struct cs_error err;

    must(cs_audit_verify(s->log, s->key.pk, anchors, n, 3, &v, &err), &err);
    return v;
}

static void run_sql(const struct scene *s, const char *sql)
{
    char *why = NULL;
    sqlite3 *db;

    assert_int_equal(sqlite3_open(s->path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s: %s", sql, why);
    sqlite3_close(db);
}

static void what_is_appended_verifies(void **state)
{
    struct cs_audit_verdict v;
    struct scene s;
    struct stat st;
    uint64_t sequence, again;
    uint8_t head[32], same[32];

    (void)state;
    scene_open(&s);
    assert_int_equal(stat(s.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    v = verdict_of(&s, NULL, 0);
    assert_true(v.ok);
    assert_int_equal(v.rows, 0);
    append(&s, ROWS);
    cs_audit_head(s.log, &sequence, head);
    assert_int_equal(sequence, ROWS);
    cs_audit_close(s.log);
    open_log(&s, false);
    cs_audit_head(s.log, &again, same);
    assert_int_equal(again, ROWS);
    assert_memory_equal(head, same, 32);
    append(&s, 2);
    v = verdict_of(&s, &(struct cs_audit_anchor){ ROWS, { 0 } }, 0);
    assert_true(v.ok);
    assert_int_equal(v.rows, ROWS + 2);
    scene_close(&s);
}

/* A statement that makes the `bit`th bit of this column another one in the row with this sequence. false: the column
 * has no such bit. */
static bool flip(struct scene *s, const char *column, int sequence, size_t bit, bool integer)
{
    char sql[200];
    sqlite3_stmt *q;
    uint8_t bytes[256];
    sqlite3 *db;
    size_t n;
    bool text;

    assert_int_equal(sqlite3_open(s->path, &db), SQLITE_OK);
    snprintf(sql, sizeof sql, "SELECT %s, typeof(%s) = 'text' FROM sync_audit_log WHERE sequence = %d", column, column,
             sequence);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &q, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    if (integer) {
        int64_t v = sqlite3_column_int64(q, 0);

        n = 8;
        memcpy(bytes, &v, 8);
    } else {
        n = (size_t)sqlite3_column_bytes(q, 0);
        assert_true(n <= sizeof bytes);
        if (n > 0)
            memcpy(bytes, sqlite3_column_blob(q, 0), n);
    }
    text = sqlite3_column_int(q, 1) != 0;
    sqlite3_finalize(q);
    if (bit < 8 * n) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        snprintf(sql, sizeof sql, "UPDATE sync_audit_log SET %s = ?1 WHERE sequence = %d", column, sequence);
        assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &q, NULL), SQLITE_OK);
        if (integer) {
            int64_t v;

            memcpy(&v, bytes, 8);
            sqlite3_bind_int64(q, 1, v);
        } else if (text) {
            sqlite3_bind_text(q, 1, (const char *)bytes, (int)n, SQLITE_STATIC);
        } else {
            sqlite3_bind_blob(q, 1, bytes, (int)n, SQLITE_STATIC);
        }
        assert_int_equal(sqlite3_step(q), SQLITE_DONE);
        sqlite3_finalize(q);
    }
    sqlite3_close(db);
    return bit < 8 * n;
}

static void every_bit_counts(void **state)
{
    static const struct {
        const char *name;
        bool integer;
    } columns[] = { { "event_type", false },      { "workspace_id", false }, { "device_id", false },
                    { "entity_type", false },     { "entity_ids", false },   { "ops_count", true },
                    { "occurred_at", true },      { "payload", false },      { "payload_hash", false },
                    { "prev_entry_hash", false }, { "signature", false },    { "signer_pub_key", false } };
    struct scene s;
    size_t flipped = 0;

    (void)state;
    scene_open(&s);
    append(&s, 3);
    run_sql(&s, "PRAGMA synchronous=OFF; PRAGMA wal_checkpoint(TRUNCATE)");
    for (size_t c = 0; c < sizeof columns / sizeof columns[0]; c++)
        for (size_t bit = 0; flip(&s, columns[c].name, 2, bit, columns[c].integer); bit++) {
            struct cs_audit_verdict v = verdict_of(&s, NULL, 0);

            if (v.ok || v.first_broken_at != 2 || v.broken_reason[0] == 0)
                fail_msg("bit %zu of %s: %s at %llu", bit, columns[c].name, v.ok ? "ok" : v.broken_reason,
                         (unsigned long long)v.first_broken_at);
            flip(&s, columns[c].name, 2, bit, columns[c].integer);
            flipped++;
        }
    assert_true(flipped > 1500);
    assert_true(verdict_of(&s, NULL, 0).ok);
    scene_close(&s);
}

#define AT "(SELECT at FROM place)"

static void nothing_is_taken_out_put_in_or_moved(void **state)
{
    static const char *const harm[] = {
        "DELETE FROM sync_audit_log WHERE sequence = " AT "",
        "DELETE FROM sync_audit_log WHERE sequence = " AT "; UPDATE sync_audit_log SET sequence = sequence - 1 WHERE "
        "sequence > " AT "",
        /* the row and the one behind it change places */
        "UPDATE sync_audit_log SET sequence = -sequence WHERE sequence IN (" AT ", " AT " + 1);"
        "UPDATE sync_audit_log SET sequence = CASE sequence WHEN -" AT " THEN " AT " + 1 ELSE " AT
        " END WHERE sequence < 0",
        /* it is there twice */
        "UPDATE sync_audit_log SET sequence = -(sequence + 1) WHERE sequence > " AT ";"
        "UPDATE sync_audit_log SET sequence = -sequence WHERE sequence < 0;"
        "INSERT INTO sync_audit_log SELECT sequence + 1, event_type, workspace_id, device_id, entity_type, entity_ids, "
        "ops_count, occurred_at, payload, payload_hash, prev_entry_hash, signature, signer_pub_key FROM sync_audit_log "
        "WHERE sequence = " AT "",
        "UPDATE sync_audit_log SET sequence = 1 - sequence WHERE sequence = " AT "",
    };

    (void)state;
    for (size_t h = 0; h < sizeof harm / sizeof harm[0]; h++)
        for (int at = 1; at < ROWS; at++) {
            struct cs_audit_verdict v;
            char where[100];
            struct scene s;

            scene_open(&s);
            append(&s, ROWS);
            snprintf(where, sizeof where, "CREATE TABLE place(at INTEGER); INSERT INTO place VALUES(%d)", at);
            run_sql(&s, where);
            run_sql(&s, harm[h]);
            run_sql(&s, "DROP TABLE place");
            v = verdict_of(&s, NULL, 0);
            if (v.ok)
                fail_msg("at %d: not noticed: %s", at, harm[h]);
            assert_true(v.first_broken_at <= (uint64_t)at + 1);
            scene_close(&s);
        }
}

static void what_is_cut_off_shows_where_a_header_names_it(void **state)
{
    struct cs_audit_anchor anchors[ROWS];
    struct cs_audit_verdict v;
    struct scene s;

    (void)state;
    scene_open(&s);
    for (int i = 0; i < ROWS; i++) {
        append(&s, 1);
        cs_audit_head(s.log, &anchors[i].sequence, anchors[i].hash);
    }
    assert_true(verdict_of(&s, anchors, ROWS).ok);
    for (int keep = ROWS - 1; keep >= 0; keep--) {
        char sql[100];

        snprintf(sql, sizeof sql, "DELETE FROM sync_audit_log WHERE sequence > %d", keep);
        run_sql(&s, sql);
        assert_true(verdict_of(&s, anchors, (size_t)keep).ok);
        v = verdict_of(&s, anchors, ROWS);
        assert_false(v.ok);
        assert_int_equal(v.first_broken_at, keep + 1);
    }
    append(&s, ROWS); /* written anew, with other contents and a right chain */
    assert_true(verdict_of(&s, NULL, 0).ok);
    v = verdict_of(&s, anchors, ROWS);
    assert_false(v.ok);
    assert_non_null(strstr(v.broken_reason, "header"));
    scene_close(&s);
}

static void only_the_key_that_is_pinned_counts(void **state)
{
    static const uint8_t other[32] = { 4 };
    struct cs_audit_verdict v;
    struct cs_sign_key mine;
    struct scene s;

    (void)state;
    scene_open(&s);
    append(&s, 2);
    mine = s.key;
    cs_sign_key_from_seed(&s.key, other);
    append(&s, 1); /* by somebody who can write the file */
    s.key = mine;
    v = verdict_of(&s, NULL, 0);
    assert_false(v.ok);
    assert_int_equal(v.first_broken_at, 3);
    cs_sign_key_from_seed(&s.key, other);
    assert_int_equal(verdict_of(&s, NULL, 0).first_broken_at, 1);
    scene_close(&s);
}

static bool row_bytes(void *arg, const struct cs_audit_row *row)
{
    assert_int_equal(cs_audit_row_bytes(arg, row, NULL), CS_OK);
    return true;
}

/* The device's own signature over a row's very bytes, made for something else. */
static void signatures_under_other_labels(void **state)
{
    static const char *const labels[] = { "batch",    "hub head", "member entry", "possession",
                                          "register", "rpc",      "session",      "audit row" };
    struct cs_buf bytes = { 0 };
    struct cs_error err;
    struct scene s;

    (void)state;
    scene_open(&s);
    append(&s, 2);
    must(cs_audit_read(s.log, 2, row_bytes, &bytes, &err), &err);
    for (size_t i = 0; i < sizeof labels / sizeof labels[0]; i++) {
        uint8_t sig[CS_SIGNATURE_LEN];
        char hex[2 * sizeof sig + 1], sql[250];

        cs_sign(&s.key, labels[i], cs_buf_slice(&bytes), sig);
        cs_hex(hex, sig, sizeof sig);
        snprintf(sql, sizeof sql, "UPDATE sync_audit_log SET signature = x'%s' WHERE sequence = 2", hex);
        run_sql(&s, sql);
        assert_int_equal(verdict_of(&s, NULL, 0).ok, strcmp(labels[i], "audit row") == 0);
    }
    cs_buf_free(&bytes);
    scene_close(&s);
}

static void more_than_is_held_at_once(void **state)
{
    enum { MANY = 9000, BROKEN = 8500 };
    static struct cs_audit_event events[MANY];
    struct cs_audit_verdict v;
    struct cs_error err;
    struct scene s;

    (void)state;
    scene_open(&s);
    for (int i = 0; i < MANY; i++)
        events[i] = (struct cs_audit_event){ .event_type = "PUSH", .occurred_at = i };
    must(cs_audit_append(s.log, &s.key, events, MANY, &err), &err);
    v = verdict_of(&s, NULL, 0);
    assert_true(v.ok);
    assert_int_equal(v.rows, MANY);
    run_sql(&s, "UPDATE sync_audit_log SET signature = zeroblob(64) WHERE sequence IN (8500, 8600, 8900)");
    v = verdict_of(&s, NULL, 0);
    assert_false(v.ok);
    assert_int_equal(v.first_broken_at, BROKEN);
    scene_close(&s);
}

static void all_or_nothing(void **state)
{
    struct cs_audit_event events[2] = { { .event_type = "PUSH" }, { .event_type = "P\xffSH" } };
    struct cs_error err;
    uint64_t sequence;
    uint8_t head[32];
    struct scene s;

    (void)state;
    scene_open(&s);
    append(&s, 1);
    assert_int_equal(cs_audit_append(s.log, &s.key, events, 2, &err), CS_EINVAL);
    cs_audit_head(s.log, &sequence, head);
    assert_int_equal(sequence, 1);
    append(&s, 1);
    assert_true(verdict_of(&s, NULL, 0).ok);
    scene_close(&s);
}

static void memory_that_ran_out(void **state)
{
    struct cs_audit_event event = { .event_type = "PUSH", .entity_ids = "1,2" };
    uint64_t rows = 0;
    bool done = false;
    struct scene s;

    (void)state;
    scene_open(&s);
    for (long n = 1; !done; n++) {
        struct cs_error err = { 0 };
        int rc;

        short_memory_after = n;
        rc = cs_audit_append(s.log, &s.key, &event, 1, &err);
        done = rc == CS_OK && short_memory_after > 0;
        short_memory_after = -1;
        assert_true(rc == CS_OK || rc == CS_ENOMEM);
        rows += rc == CS_OK ? 2 : 1;
        append(&s, 1);
    }
    assert_true(rows > 20);
    assert_true(verdict_of(&s, NULL, 0).ok);
    assert_int_equal(verdict_of(&s, NULL, 0).rows, rows);
    scene_close(&s);
}

static void files_that_are_no_log_of_ours(void **state)
{
    struct cs_error err;
    struct scene s;
    cs_audit *a;

    (void)state;
    scene_open(&s);
    append(&s, 1);
    s.owner.device.b[0] ^= 1;
    assert_int_equal(cs_audit_open(&a, cs_world_real(), s.path, false, &s.owner, &err), CS_EEXIST);
    s.owner.device.b[0] ^= 1;
    run_sql(&s, "PRAGMA user_version = 2");
    assert_int_equal(cs_audit_open(&a, cs_world_real(), s.path, false, &s.owner, &err), CS_EVERSION);
    cs_audit_close(s.log);
    assert_int_equal(truncate(s.path, 20), 0);
    s.log = NULL;
    assert_int_not_equal(cs_audit_open(&a, cs_world_real(), s.path, false, &s.owner, &err), CS_OK);
    unlink(s.path);
    assert_int_equal(cs_audit_open(&a, cs_world_real(), s.path, true, &s.owner, &err), CS_ENOTFOUND);
    scene_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_appended_verifies),
        cmocka_unit_test(every_bit_counts),
        cmocka_unit_test(nothing_is_taken_out_put_in_or_moved),
        cmocka_unit_test(what_is_cut_off_shows_where_a_header_names_it),
        cmocka_unit_test(only_the_key_that_is_pinned_counts),
        cmocka_unit_test(signatures_under_other_labels),
        cmocka_unit_test(more_than_is_held_at_once),
        cmocka_unit_test(all_or_nothing),
        cmocka_unit_test(memory_that_ran_out),
        cmocka_unit_test(files_that_are_no_log_of_ours),
    };

    if (!short_memory_install())
        return 1;
    return cmocka_run_group_tests_name("audit log", tests, NULL, NULL);
}
