/* The store contract on SQLite, and what is SQLite's own. */
#include "unit/hub/store_suite.h"

#include "scratch.h"

#include <sqlite3.h>
#include <sys/stat.h>

static void fresh(char place[256])
{
    char dir[SCRATCH_LEN];

    assert_non_null(scratch_folder(dir, "store"));
    snprintf(place, 256, "%s/hub.db", dir);
}
static int open_at(struct cs_store *out, const char *place, struct cs_error *err)
{
    return cs_store_sqlite_open(out, cs_world_real(), place, err);
}
static void destroy(const char *place)
{
    char command[300];

    snprintf(command, sizeof command, "rm -r \"$(dirname %s)\"", place);
    assert_int_equal(system(command), 0);
}
const struct store_kind store_under_test = { fresh, open_at, destroy };

static void file_is_private(void **state)
{
    struct suite *s = *state;
    struct stat st;

    assert_int_equal(stat(s->place, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void run_sql(const char *place, const char *sql)
{
    sqlite3 *db;

    assert_int_equal(sqlite3_open(place, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void newer_schema_is_refused(void **state)
{
    struct suite *s = *state;
    struct cs_store other;
    struct cs_error err = { 0 };

    run_sql(s->place, "PRAGMA user_version=99");
    assert_int_equal(cs_store_sqlite_open(&other, cs_world_real(), s->place, &err), CS_EVERSION);
    run_sql(s->place, "PRAGMA user_version=5");
}

/* A file of the first schema: what a workspace has is counted once. */
static void older_schema_is_brought_up_to_date(void **state)
{
    static const struct cs_uuid ws = { { 1 } };
    struct suite *s = *state;
    struct cs_store_head head;
    struct cs_store other;
    struct cs_error err = { 0 };
    cs_store_tx *tx;

    run_sql(s->place,
            "DROP TABLE offer; DROP TABLE reference; DROP TABLE bucket; DROP TABLE wanted; DROP TABLE proof;"
            "DROP TABLE snapshot; DROP TABLE snapshot_part; ALTER TABLE workspace DROP COLUMN bytes;"
            "ALTER TABLE workspace DROP COLUMN pruned; ALTER TABLE workspace DROP COLUMN prune_to;"
            "ALTER TABLE workspace DROP COLUMN prune_ms; ALTER TABLE device DROP COLUMN pulled;"
            "PRAGMA user_version=1;"
            "INSERT INTO workspace VALUES(x'01000000000000000000000000000000', 7, 0, 1, zeroblob(32), 0, 1, 1,"
            " zeroblob(32));"
            "INSERT INTO chunk VALUES(x'01000000000000000000000000000000', 1, 0, zeroblob(300)),"
            " (x'01000000000000000000000000000000', 1, 1, zeroblob(30)),"
            " (x'02000000000000000000000000000000', 1, 0, zeroblob(3))");
    assert_int_equal(cs_store_sqlite_open(&other, cs_world_real(), s->place, &err), CS_OK);
    assert_int_equal(cs_store_begin(&other, CS_STORE_READ, &ws, 1, &tx, &err), CS_OK);
    assert_int_equal(tx->ops->head(tx, &ws, &head, &err), CS_OK);
    assert_int_equal(head.bytes, 330);
    assert_int_equal(head.log_id, 7);
    assert_int_equal(tx->ops->offers(tx, &ws, NULL, NULL, &err), CS_OK);
    assert_int_equal(tx->ops->proofs(tx, &ws, NULL, NULL, &err), CS_OK);
    assert_int_equal(tx->ops->snapshots(tx, &ws, NULL, NULL, &err), CS_OK);
    assert_int_equal(head.pruned, 0);
    cs_store_rollback(tx);
    cs_store_close(&other);
}

static void not_a_database(void **state)
{
    struct suite *s = *state;
    struct cs_world *w = cs_world_real();
    struct cs_store other;
    struct cs_error err = { 0 };
    char path[300];

    assert_int_not_equal(cs_store_sqlite_open(&other, w, "/dev/null/hub.db", &err), CS_OK);
    assert_non_null(strstr(err.msg, "/dev/null/hub.db"));
    snprintf(path, sizeof path, "%s.other", s->place);
    assert_int_equal(
        w->files.ops->write_new(w->files.self, path, cs_slice_str("no database at all, but a letter"), 0600, &err),
        CS_OK);
    assert_int_equal(cs_store_sqlite_open(&other, w, path, &err), CS_ECORRUPT);
    assert_null(other.ops);
}

/* There may be no memory even for that. */
static void rolling_back_fails(void **state)
{
    static const enum cs_store_mode modes[] = { CS_STORE_READ, CS_STORE_WRITE };
    static const struct cs_uuid ws = { { 1 } };
    struct suite *s = *state;
    struct cs_error err = { 0 };
    cs_store_tx *tx;

    for (int i = 0; i < 2; i++) {
        assert_int_equal(cs_store_begin(&s->store, modes[i], &ws, 1, &tx, &err), CS_OK);
        sqlite3_hard_heap_limit64(1);
        cs_store_rollback(tx);
        sqlite3_hard_heap_limit64(0);
        if (cs_store_begin(&s->store, modes[i], &ws, 1, &tx, &err) != CS_OK)
            fail_msg("%s", err.msg);
        cs_store_rollback(tx);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { SUITE(file_is_private), SUITE(newer_schema_is_refused),
                                        SUITE(older_schema_is_brought_up_to_date), SUITE(not_a_database),
                                        SUITE(rolling_back_fails) };
    int failed = store_suite_run("hub store contract: sqlite");

    return failed + cmocka_run_group_tests_name("hub store sqlite", tests, NULL, NULL);
}
