/* Moving a store's data to another one: all of it, cut off anywhere, back again, and never over what lives. */
#include "unit/hub/batch_maker.h"

#include <sqlite3.h>

#include "crypto/snapshot.h"
#include "hub/migrate.h"
#include "scratch.h"

enum { BATCHES = 600, DEVICES = 3, PARTS = 7, PART_BYTES = 3 << 19 };

struct scene {
    char dir[SCRATCH_LEN], a_path[96], b_path[96];
    struct cs_store a, b;
    struct maker m[DEVICES];
    struct cs_migrated done;
    struct cs_error err;
};

/* ---- a store that is full of everything ---- */

static void fill(uint8_t *p, size_t n, uint64_t from)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(from + i * 7);
}

static void put_batches(struct scene *s, const struct cs_store *st, struct cs_store_head *h, uint64_t upto)
{
    static uint8_t bytes[70000], hashes[96];
    const struct cs_uuid *ws = &s->m[0].workspace;
    cs_store_tx *tx;

    assert_int_equal(cs_store_begin(st, CS_STORE_WRITE, ws, 1, &tx, &s->err), CS_OK);
    while (h->number < upto) {
        size_t n = ++h->number % 3 + 1;
        struct cs_store_batch b = { .number = h->number,
                                    .device = s->m[h->number % DEVICES].id,
                                    .device_number = 1 + h->number / DEVICES,
                                    .header = cs_slice(bytes, CS_BATCH_HEADER_LEN),
                                    .signature = cs_slice(bytes, 64),
                                    .payload_hashes = cs_slice(hashes, n * 32) };
        struct cs_slice chunks[3] = { cs_slice(bytes, 10), cs_slice(bytes, h->number % 100 == 0 ? sizeof bytes : 1),
                                      cs_slice(bytes, 100) };

        fill(bytes, sizeof bytes, h->number + h->log_id);
        for (size_t i = 0; i < n; i++) {
            cs_hash_plain(chunks[i], hashes + i * 32);
            h->bytes += chunks[i].len;
        }
        cs_batch_hash(b.header, b.payload_hashes, b.hash);
        cs_log_next(h->log_hash, b.number, b.hash, h->log_hash);
        memcpy(b.log_hash, h->log_hash, 32);
        if (h->number % 5 == 0)
            b.entity_type = cs_slice_str("tag");
        assert_int_equal(tx->ops->put_batch(tx, ws, &b, chunks, n, &s->err), CS_OK);
    }
    assert_int_equal(tx->ops->put_head(tx, ws, h, &s->err), CS_OK);
    assert_int_equal(cs_store_commit(tx, &s->err), CS_OK);
}

static void put_entry(struct maker *all, cs_store_tx *tx, struct cs_store_head *h, struct cs_buf *entry)
{
    struct cs_error err = { 0 };
    uint8_t hash[32];

    for (int i = 0; i < DEVICES; i++)
        maker_learn(&all[i], cs_buf_slice(entry));
    assert_true(cs_entry_hash(cs_buf_slice(entry), hash));
    assert_int_equal(tx->ops->put_entry(tx, &all[0].workspace, all[0].members.seq, hash, cs_buf_slice(entry), &err),
                     CS_OK);
    h->member_seq = all[0].members.seq;
    h->epoch = all[0].members.epoch;
    memcpy(h->entry_hash, hash, 32);
    cs_buf_free(entry);
    *entry = (struct cs_buf){ 0 };
}

/* One that is whole, of several transactions' size, or one that is being given: a part less. */
static void put_snapshot(struct scene *s, const struct cs_store *st, unsigned slot, enum cs_snapshot_state state,
                         struct cs_store_head *h)
{
    static uint8_t bytes[PART_BYTES], envelope[CS_BATCH_HEADER_LEN + 64 + 64];
    static uint8_t made; /* none is like another */
    const size_t at_hashes = sizeof envelope - 64;
    const struct cs_uuid *ws = &s->m[0].workspace;
    struct cs_store_snapshot n = { .slot = slot,
                                   .state = state,
                                   .log_id = h->log_id,
                                   .number = 400 + slot,
                                   .device = s->m[slot].id,
                                   .parts = state == CS_SNAPSHOT_SERVED ? PARTS : PARTS - 1,
                                   .changed_ms = 1700000000000 + ++made };
    cs_store_tx *tx;

    assert_int_equal(cs_store_begin(st, CS_STORE_WRITE, ws, 1, &tx, &s->err), CS_OK);
    assert_int_equal(tx->ops->drop_snapshot_parts(tx, ws, slot, 0, UINT32_MAX, &s->err), CS_OK);
    cs_snapshot_digest_start(ws, &n.device, n.log_id, n.number, n.digest);
    for (uint32_t part = 0; part < n.parts; part++) {
        struct cs_slice payload[2] = { cs_slice(bytes, PART_BYTES - part), cs_slice(bytes, 5) };
        uint8_t hash[32];

        fill(bytes, sizeof bytes, part + 50 * (uint64_t)made);
        fill(envelope, at_hashes, part + slot);
        for (uint32_t i = 0; i < 2; i++)
            cs_hash_plain(payload[i], envelope + at_hashes + (size_t)i * 32);
        for (uint32_t i = 0; i < 2; i++) {
            struct cs_store_part p = { .part = part, .seq = i, .payload = payload[i] };

            if (i == 0)
                p.envelope = cs_slice(envelope, sizeof envelope);
            assert_int_equal(tx->ops->put_snapshot_part(tx, ws, slot, &p, &s->err), CS_OK);
            n.bytes += p.payload.len;
        }
        cs_batch_hash(cs_slice(envelope, CS_BATCH_HEADER_LEN), cs_slice(envelope + at_hashes, 64), hash);
        cs_snapshot_digest_next(n.digest, part, hash);
    }
    if (state == CS_SNAPSHOT_SERVED) {
        n.descriptor = cs_slice_str("descriptor");
        n.attestation = cs_slice_str("attestation");
        n.attester = s->m[2].id;
    }
    h->bytes += n.bytes;
    assert_int_equal(tx->ops->put_snapshot(tx, ws, &n, &s->err), CS_OK);
    assert_int_equal(tx->ops->put_head(tx, ws, h, &s->err), CS_OK);
    assert_int_equal(cs_store_commit(tx, &s->err), CS_OK);
}

static void prune(struct scene *s, const struct cs_store *st, struct cs_store_head *h, uint64_t to)
{
    const struct cs_uuid *ws = &s->m[0].workspace;
    uint64_t bytes;
    cs_store_tx *tx;

    assert_int_equal(cs_store_begin(st, CS_STORE_WRITE, ws, 1, &tx, &s->err), CS_OK);
    assert_int_equal(tx->ops->prune_log(tx, ws, h->pruned + 1, to, &bytes, &s->err), CS_OK);
    h->pruned = to;
    h->bytes -= bytes;
    h->prune_to = to + 50;
    h->prune_ms = 1700000000000;
    assert_int_equal(tx->ops->put_head(tx, ws, h, &s->err), CS_OK);
    assert_int_equal(cs_store_commit(tx, &s->err), CS_OK);
}

static void put_state(struct scene *s, cs_store_tx *tx, const struct cs_uuid *ws)
{
    static uint8_t leaves[64];
    uint8_t tag[16] = { 9 };
    struct cs_store_offer o = { .device = { { 77 } }, .made_ms = 1000, .offer = cs_slice_str("offer") };
    struct cs_store_reference r = { .log_id = 5,
                                    .number = 7,
                                    .epoch = 1,
                                    .device = s->m[1].id,
                                    .whole = true,
                                    .changed_ms = 12,
                                    .rows = 4,
                                    .given = 3 };
    struct cs_store_proof p = {
        .device = s->m[2].id, .log_id = 5, .number = 7, .given = 3, .proof = cs_slice_str("p")
    };

    assert_int_equal(tx->ops->put_offer(tx, ws, &o, &s->err), CS_OK);
    assert_int_equal(tx->ops->put_reference(tx, ws, &r, &s->err), CS_OK);
    for (uint32_t i = 0; i < 65536; i += 13107) {
        struct cs_store_bucket k = { .prefix = i, .rows = 2, .sum = { (uint8_t)i }, .leaves = cs_slice(leaves, 48) };

        assert_int_equal(tx->ops->put_bucket(tx, ws, &k, &s->err), CS_OK);
    }
    for (int i = 0; i < DEVICES; i++) {
        struct cs_store_device d = { .number = 200, .hash = { 3 }, .member_seq = 1, .seen_ms = 1000 + i };

        tag[1] = (uint8_t)i;
        assert_int_equal(tx->ops->put_wanted(tx, ws, &s->m[i].id, 1, tag, &s->err), CS_OK);
        assert_int_equal(tx->ops->put_device(tx, ws, &s->m[i].id, &d, &s->err), CS_OK);
    }
    assert_int_equal(tx->ops->put_proof(tx, ws, &p, &s->err), CS_OK);
}

/* A workspace with everything, its log whole, and two that have hardly begun. */
static struct cs_store_head make_source(struct scene *s)
{
    struct cs_store_head h = { .log_id = 0xfedcba9876543210, .top_stamp = 42 };
    struct cs_uuid ws = s->m[0].workspace, small = { { 1 } };
    struct cs_buf entry = { 0 };
    cs_store_tx *tx;

    assert_int_equal(cs_store_begin(&s->a, CS_STORE_WRITE, &ws, 1, &tx, &s->err), CS_OK);
    maker_genesis(&s->m[0], &entry);
    put_entry(s->m, tx, &h, &entry);
    for (int i = 1; i < DEVICES; i++) {
        maker_add(&s->m[i], &s->m[0], &entry);
        put_entry(s->m, tx, &h, &entry);
    }
    put_state(s, tx, &ws);
    cs_log_start(&ws, h.log_id, h.refilled, h.log_hash);
    assert_int_equal(cs_store_commit(tx, &s->err), CS_OK);
    put_batches(s, &s->a, &h, BATCHES);
    put_snapshot(s, &s->a, 0, CS_SNAPSHOT_SERVED, &h);
    put_snapshot(s, &s->a, 1, CS_SNAPSHOT_GIVING, &h);
    for (int i = 0; i < 2; i++) {
        struct cs_store_head begun = { .log_id = 1 + (uint64_t)i };

        small.b[1] = (uint8_t)i;
        cs_log_start(&small, begun.log_id, 0, begun.log_hash);
        assert_int_equal(cs_store_begin(&s->a, CS_STORE_WRITE, &small, 1, &tx, &s->err), CS_OK);
        assert_int_equal(tx->ops->put_head(tx, &small, &begun, &s->err), CS_OK);
        assert_int_equal(cs_store_commit(tx, &s->err), CS_OK);
    }
    return h;
}

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);

    assert_non_null(s);
    assert_non_null(scratch_folder(s->dir, "migrate"));
    snprintf(s->a_path, sizeof s->a_path, "%s/a.db", s->dir);
    snprintf(s->b_path, sizeof s->b_path, "%s/b.db", s->dir);
    for (int i = 0; i < DEVICES; i++)
        maker_init(&s->m[i], 'w', (uint8_t)('a' + i));
    assert_int_equal(cs_store_sqlite_open(&s->a, cs_world_real(), s->a_path, &s->err), CS_OK);
    assert_int_equal(cs_store_sqlite_open(&s->b, cs_world_real(), s->b_path, &s->err), CS_OK);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;
    char command[96];

    cs_store_close(&s->a);
    cs_store_close(&s->b);
    for (int i = 0; i < DEVICES; i++)
        maker_fini(&s->m[i]);
    snprintf(command, sizeof command, "rm -r %s", s->dir);
    assert_int_equal(system(command), 0);
    free(s);
    return 0;
}

/* ---- a store that fails ---- */

static int commits_left;                                  /* until one fails */
static const struct cs_store_ops *real;                   /* the store's own table */
static struct cs_store_ops failing_store, failing_writes; /* the same, but for one function each */

static int failing_commit(cs_store_tx *tx, struct cs_error *err)
{
    tx->ops = real;
    if (commits_left-- > 0)
        return cs_store_commit(tx, err);
    cs_store_rollback(tx);
    return cs_fail(err, CS_EIO, "the cable was pulled");
}
static int failing_begin(void *self, enum cs_store_mode mode, const struct cs_uuid *workspaces, size_t n,
                         cs_store_tx **out, struct cs_error *err)
{
    int rc = real->begin(self, mode, workspaces, n, out, err);

    if (rc == CS_OK && mode == CS_STORE_WRITE)
        (*out)->ops = &failing_writes;
    return rc;
}

/* ---- looking ---- */

static int64_t ask(const struct scene *s, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *q;
    int64_t n;
    char attach[128];

    snprintf(attach, sizeof attach, "ATTACH '%s' AS other", s->b_path);
    assert_int_equal(sqlite3_open(s->a_path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, attach, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &q, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    n = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    sqlite3_close(db);
    return n;
}

/* Every table's rows are the same in both files, but for the marks. */
static void assert_same(const struct scene *s)
{
    static const char *const tables[] = { "workspace", "device", "log",    "chunk", "entry",    "offer",
                                          "reference", "bucket", "wanted", "proof", "snapshot", "snapshot_part" };

    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        char sql[600];

        snprintf(sql, sizeof sql,
                 "SELECT (SELECT count(*) FROM (SELECT * FROM main.\"%s\" WHERE workspace<>zeroblob(16) EXCEPT SELECT *"
                 " FROM other.\"%s\")) + (SELECT count(*) FROM (SELECT * FROM other.\"%s\" WHERE"
                 " workspace<>zeroblob(16) EXCEPT SELECT * FROM main.\"%s\"))",
                 tables[i], tables[i], tables[i], tables[i]);
        assert_int_equal(ask(s, sql), 0);
        snprintf(sql, sizeof sql, "SELECT count(*) > 0 FROM other.\"%s\" WHERE workspace<>zeroblob(16)", tables[i]);
        assert_int_equal(ask(s, sql), 1);
    }
}

/* ---- tests ---- */

static void everything_arrives(void **state)
{
    struct scene *s = *state;

    make_source(s);
    assert_int_equal(cs_migrate_check(&s->a, &s->err), CS_OK);
    if (cs_migrate(&s->a, &s->b, NULL, NULL, &s->done, &s->err) != CS_OK)
        fail_msg("%s", s->err.msg);
    assert_int_equal(s->done.workspaces, 3);
    assert_int_equal(s->done.batches, BATCHES);
    assert_int_equal(s->done.entries, DEVICES);
    assert_same(s);
    assert_int_equal(cs_migrate_check(&s->b, &s->err), CS_OK);
    assert_int_equal(cs_migrate_check(&s->a, &s->err), CS_EABORTED);
    assert_non_null(strstr(s->err.msg, "moved to another"));
    /* once more would take back what came since */
    assert_int_equal(cs_migrate(&s->a, &s->b, NULL, NULL, &s->done, &s->err), CS_EABORTED);
}

static struct cs_store flaky_store(const struct scene *s)
{
    real = s->b.ops;
    failing_store = failing_writes = *real;
    failing_store.begin = failing_begin;
    failing_writes.commit = failing_commit;
    return (struct cs_store){ &failing_store, s->b.self };
}

static void cut_off_anywhere(void **state)
{
    struct scene *s = *state;
    struct cs_store flaky = flaky_store(s);
    int rc;

    make_source(s);
    for (int n = 0;;
         n++) { /* a move that is cut off before its nth commit, by the one before it only a little shorter */
        commits_left = n % 9;
        rc = cs_migrate(&s->a, &flaky, NULL, NULL, &s->done, &s->err);
        if (rc == CS_OK)
            break;
        assert_int_equal(rc, CS_EIO);
        assert_int_equal(cs_migrate_check(&s->b, &s->err), n == 0 ? CS_OK : CS_EABORTED);
        assert_true(n < 100);
    }
    assert_same(s);
    assert_int_equal(cs_migrate_check(&s->b, &s->err), CS_OK);
    assert_int_equal(cs_migrate_check(&s->a, &s->err), CS_EABORTED);
}

/* Of a snapshot, what a cut-off move has brought over is not brought again; unless another one is there by now. */
static void a_snapshot_is_gone_on_with(void **state)
{
    struct scene *s = *state;
    struct cs_store flaky = flaky_store(s);
    struct cs_store_head h = make_source(s);
    const uint64_t part = PART_BYTES + 5;
    int64_t had;

    for (commits_left = 0; ask(s, "SELECT count(*) FROM other.snapshot_part") == 0; commits_left++) {
        int n = commits_left;

        assert_true(n < 20);
        assert_int_equal(cs_migrate(&s->a, &flaky, NULL, NULL, &s->done, &s->err), CS_EIO);
        commits_left = n;
    }
    had = ask(s, "SELECT count(*) FROM other.snapshot_part WHERE seq = 1");
    assert_in_range(had, 1, PARTS - 1);
    assert_int_equal(ask(s, "SELECT sum(state) FROM other.snapshot"), CS_SNAPSHOT_NONE); /* it counts for nothing yet */
    commits_left = 4; /* the mark, two small workspaces, and a transaction's worth of parts */
    assert_int_equal(cs_migrate(&s->a, &flaky, NULL, NULL, &s->done, &s->err), CS_EIO);
    assert_int_equal(s->done.batches, 0);
    assert_in_range(s->done.bytes, part, part * (PARTS * 2 - 1 - (uint64_t)had));
    put_snapshot(s, &s->a, 1, CS_SNAPSHOT_SERVED, &h);
    assert_int_equal(cs_migrate(&s->a, &s->b, NULL, NULL, &s->done, &s->err), CS_OK);
    assert_int_equal(s->done.bytes, part * PARTS - PARTS * (PARTS - 1) / 2); /* that one, from its first part on */
    assert_same(s);
}

/* What is left of one that counts for nothing stays behind, and what the target had of another one goes. */
static void a_slot_that_is_being_cleared(void **state)
{
    struct scene *s = *state;
    struct cs_store_snapshot gone = { .slot = 1, .parts = 2 };
    const struct cs_uuid *ws = &s->m[0].workspace;
    cs_store_tx *tx;

    make_source(s);
    assert_int_equal(cs_migrate(&s->a, &s->b, NULL, NULL, &s->done, &s->err), CS_OK);
    assert_int_equal(cs_store_begin(&s->b, CS_STORE_WRITE, ws, 1, &tx, &s->err), CS_OK);
    assert_int_equal(tx->ops->drop_snapshot_parts(tx, ws, 1, 2, UINT32_MAX, &s->err), CS_OK);
    assert_int_equal(tx->ops->put_snapshot(tx, ws, &gone, &s->err), CS_OK);
    assert_int_equal(cs_store_commit(tx, &s->err), CS_OK);
    assert_int_equal(cs_migrate(&s->b, &s->a, NULL, NULL, &s->done, &s->err), CS_OK);
    assert_int_equal(s->done.bytes, 0); /* the other slot's were there */
    assert_int_equal(ask(s, "SELECT count(DISTINCT part) FROM main.snapshot_part WHERE slot = 0"), PARTS);
    assert_int_equal(ask(s, "SELECT count(*) FROM main.snapshot_part WHERE slot = 1"), 0);
    assert_int_equal(ask(s, "SELECT parts FROM main.snapshot WHERE slot = 1"), 0);
}

/* There and back: the side that is gone back to has all of it, or its beginning, or ends before the other one begins.
 */
static void a_pruned_log(void **state)
{
    struct scene *s = *state;
    struct cs_store_head h = make_source(s);

    prune(s, &s->a, &h, 350);
    assert_int_equal(cs_migrate(&s->a, &s->b, NULL, NULL, &s->done, &s->err), CS_OK);
    assert_int_equal(s->done.batches, BATCHES - 350);
    assert_same(s);
    prune(s, &s->b, &h, 380);
    put_batches(s, &s->b, &h, BATCHES + 10);
    assert_int_equal(cs_migrate(&s->b, &s->a, NULL, NULL, &s->done, &s->err), CS_OK);
    assert_int_equal(s->done.batches, 10);
    assert_same(s);
    put_batches(s, &s->a, &h, BATCHES + 300);
    prune(s, &s->a, &h, BATCHES + 20);
    assert_int_equal(cs_migrate(&s->a, &s->b, NULL, NULL, &s->done, &s->err), CS_OK);
    assert_int_equal(s->done.batches, 280);
    assert_same(s);
    assert_int_equal(ask(s, "SELECT min(number) FROM other.log"), BATCHES + 21);
    assert_int_equal(ask(s, "SELECT min(number) FROM other.chunk"), BATCHES + 21);
}

static void back_with_what_came_since(void **state)
{
    struct scene *s = *state;
    struct cs_store_head h = make_source(s);

    assert_int_equal(cs_migrate(&s->a, &s->b, NULL, NULL, &s->done, &s->err), CS_OK);
    put_batches(s, &s->b, &h, BATCHES + 10);
    assert_int_equal(cs_migrate(&s->b, &s->a, NULL, NULL, &s->done, &s->err), CS_OK);
    assert_int_equal(s->done.batches, 10);
    assert_same(s);
    assert_int_equal(cs_migrate_check(&s->a, &s->err), CS_OK);
    assert_int_equal(cs_migrate_check(&s->b, &s->err), CS_EABORTED);
}

/* There a refill has begun another log since. */
static void back_with_another_log(void **state)
{
    struct scene *s = *state;
    struct cs_store_head h = make_source(s);
    cs_store_tx *tx;

    assert_int_equal(cs_migrate(&s->a, &s->b, NULL, NULL, &s->done, &s->err), CS_OK);
    assert_int_equal(cs_store_begin(&s->b, CS_STORE_WRITE, &s->m[0].workspace, 1, &tx, &s->err), CS_OK);
    assert_int_equal(tx->ops->drop_log(tx, &s->m[0].workspace, &s->err), CS_OK);
    assert_int_equal(cs_store_commit(tx, &s->err), CS_OK);
    h.log_id++;
    h.refilled++;
    h.number = h.bytes = 0;
    cs_log_start(&s->m[0].workspace, h.log_id, h.refilled, h.log_hash);
    put_batches(s, &s->b, &h, 20);
    put_snapshot(s, &s->b, 0, CS_SNAPSHOT_SERVED, &h);
    assert_int_equal(cs_migrate(&s->b, &s->a, NULL, NULL, &s->done, &s->err), CS_OK);
    assert_int_equal(s->done.batches, 20);
    assert_same(s);
}

static void nothing_that_lives_is_written_over(void **state)
{
    struct scene *s = *state;
    struct cs_store_head other = { .log_id = 9 };
    struct cs_uuid ws = { { 200 } };
    cs_store_tx *tx;

    make_source(s);
    assert_int_equal(cs_store_begin(&s->b, CS_STORE_WRITE, &ws, 1, &tx, &s->err), CS_OK);
    assert_int_equal(tx->ops->put_head(tx, &ws, &other, &s->err), CS_OK);
    assert_int_equal(cs_store_commit(tx, &s->err), CS_OK);
    assert_int_equal(cs_migrate(&s->a, &s->b, NULL, NULL, &s->done, &s->err), CS_EEXIST);
    assert_int_equal(cs_migrate_check(&s->a, &s->err), CS_OK);
    assert_int_equal(cs_migrate_check(&s->b, &s->err), CS_OK);
}

/* Somebody wrote to both sides after the move: neither beginning is the other's. */
static void forks_are_refused(void **state)
{
    struct scene *s = *state;
    struct cs_store_head h = make_source(s), g = h;

    assert_int_equal(cs_migrate(&s->a, &s->b, NULL, NULL, &s->done, &s->err), CS_OK);
    put_batches(s, &s->a, &h, BATCHES + 2);
    put_batches(s, &s->b, &g, BATCHES + 1);
    assert_int_equal(cs_migrate(&s->b, &s->a, NULL, NULL, &s->done, &s->err), CS_EEXIST);
    assert_non_null(strstr(s->err.msg, "the target has what the source has not"));
    assert_int_equal(ask(s, "SELECT max(number) FROM main.log"), BATCHES + 2);
}

static void a_damaged_source_is_told(void **state)
{
    static const char *const damage[] = {
        "DELETE FROM log WHERE number=300",
        "DELETE FROM chunk WHERE number=300 AND seq=0",
        "DELETE FROM log WHERE number=600",
        "DELETE FROM entry WHERE seq=2",
        "UPDATE chunk SET payload=zeroblob(length(payload)) WHERE number=300",
        "UPDATE log SET hash=zeroblob(32) WHERE number=300",
        "UPDATE log SET log_hash=zeroblob(32) WHERE number=300",
        "UPDATE entry SET entry=zeroblob(length(entry)) WHERE seq=3",
        "UPDATE snapshot_part SET payload=zeroblob(length(payload)) WHERE part=3 AND seq=1",
        "UPDATE snapshot_part SET envelope=zeroblob(length(envelope)) WHERE part=3 AND seq=0",
        "UPDATE snapshot SET digest=zeroblob(32)",
        "DELETE FROM snapshot_part WHERE part=3",
        "DELETE FROM snapshot_part WHERE part=6 AND seq=1",
        "DELETE FROM snapshot_part WHERE part=5",
        "UPDATE snapshot SET parts=parts - 1",
    };

    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        struct scene *s = *state;
        sqlite3 *db;

        make_source(s);
        assert_int_equal(sqlite3_open(s->a_path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, damage[i], NULL, NULL, NULL), SQLITE_OK);
        sqlite3_close(db);
        assert_int_not_equal(cs_migrate(&s->a, &s->b, NULL, NULL, &s->done, &s->err), CS_OK);
        assert_int_equal(cs_migrate_check(&s->a, &s->err), CS_OK);
        assert_int_equal(cs_migrate_check(&s->b, &s->err), CS_EABORTED);
        teardown(state);
        setup(state);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(everything_arrives, setup, teardown),
        cmocka_unit_test_setup_teardown(cut_off_anywhere, setup, teardown),
        cmocka_unit_test_setup_teardown(a_snapshot_is_gone_on_with, setup, teardown),
        cmocka_unit_test_setup_teardown(a_slot_that_is_being_cleared, setup, teardown),
        cmocka_unit_test_setup_teardown(a_pruned_log, setup, teardown),
        cmocka_unit_test_setup_teardown(back_with_what_came_since, setup, teardown),
        cmocka_unit_test_setup_teardown(back_with_another_log, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_that_lives_is_written_over, setup, teardown),
        cmocka_unit_test_setup_teardown(forks_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_source_is_told, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
