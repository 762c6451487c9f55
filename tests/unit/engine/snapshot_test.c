/* What a new device checks of a snapshot when members were removed, and what is checked before it is attested: signed
 * as it should be, and with one thing in it that must not be. It has its name, nothing of it is merged, and nobody says
 * that it is right; and what is right about a removed device is taken. */
#include "unit/engine/forger.h"

#include "crypto/snapshot.h"
#include "engine/engine.h"
#include "replica/review.h"

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);";

enum { AUTHOR, ATTESTER, THIRD, DEVICES };

struct scene {
    struct hub hub;
    struct device device[DEVICES], newcomer;
    struct forger f; /* the author */
    struct cs_buf given;
    struct cs_uuid third;
};

static void sync_all(struct scene *s)
{
    clawsync_error err = { 0 };

    for (int round = 0; round < 2; round++)
        for (int i = 0; i < DEVICES; i++)
            ok(clawsync_engine_sync_now(s->device[i].engine, NULL, &err), &err);
}

static void id_of(const struct device *d, struct cs_uuid *out)
{
    clawsync_status status = { .size = sizeof status };
    clawsync_error err = { 0 };

    ok(clawsync_engine_status(d->engine, &status, &err), &err);
    assert_true(cs_uuid_parse(out, status.device_id));
}

/* ---- the hub's snapshot ---- */

static void read_descriptor(struct scene *s)
{
    sqlite3 *db = hub_open(&s->hub);
    sqlite3_stmt *q = NULL;

    assert_int_equal(sqlite3_prepare_v2(db, "SELECT descriptor FROM snapshot WHERE state >= 2", -1, &q, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    cs_buf_put(&s->given, sqlite3_column_blob(q, 0), (size_t)sqlite3_column_bytes(q, 0));
    assert_false(s->given.failed);
    sqlite3_finalize(q);
    sqlite3_close(db);
}

static void put_descriptor(const struct scene *s, struct cs_slice bytes)
{
    sqlite3 *db = hub_open(&s->hub);

    hub_run(db, "UPDATE snapshot SET descriptor = ? WHERE state >= 2", "b", bytes);
    sqlite3_close(db);
}

/* Another chain of the third device, under the author's own signature. */
static void forge(const struct scene *s, void (*bend)(struct cs_snapshot_peer *p))
{
    struct cs_buf peers = { 0 }, forged = { 0 };
    struct cs_descriptor d;
    struct cs_error err;
    int bent = 0;

    assert_int_equal(cs_descriptor_read(&d, cs_buf_slice(&s->given), &err), CS_OK);
    for (uint32_t i = 0; i < d.npeers; i++) {
        uint8_t bytes[CS_SNAPSHOT_PEER_LEN];
        struct cs_snapshot_peer p;

        cs_snapshot_peer_at(&d, i, &p);
        if (cs_uuid_cmp(&p.device, &s->third) == 0) {
            bend(&p);
            bent++;
        }
        cs_snapshot_peer_encode(&p, bytes);
        cs_buf_put(&peers, bytes, sizeof bytes);
    }
    assert_int_equal(bent, 1);
    d.peers = cs_buf_slice(&peers);
    cs_descriptor_seal(&forged, &d, &s->f.keys.sign);
    assert_false(forged.failed);
    put_descriptor(s, cs_buf_slice(&forged));
    cs_buf_free(&peers);
    cs_buf_free(&forged);
}

/* ---- the scene ---- */

/* Three devices with the same rows, and a snapshot that the first has given. */
static void given_to(struct scene *s, uint64_t flush_ms)
{
    clawsync_compacted done;
    clawsync_error err = { 0 };

    memset(s, 0, sizeof *s);
    s->hub.flush_ms = flush_ms;
    hub_init(&s->hub);
    for (int i = 0; i < DEVICES; i++)
        device_enter(&s->device[i], schema, s->hub.endpoint, i == 0 ? NULL : &s->device[0], NULL, NULL);
    for (int i = 0; i < DEVICES; i++) {
        char sql[100];

        snprintf(sql, sizeof sql, "INSERT INTO memories VALUES('of %d', 'x')", i);
        app(&s->device[i], sql);
    }
    sync_all(s);
    ok(clawsync_engine_compact(s->device[AUTHOR].engine, &done, &err), &err);
    read_descriptor(s);
    id_of(&s->device[THIRD], &s->third);
}

static void given(struct scene *s)
{
    given_to(s, 0);
}

static void is_attested(struct scene *s)
{
    clawsync_compacted done;
    clawsync_error err = { 0 };

    ok(clawsync_engine_compact(s->device[ATTESTER].engine, &done, &err), &err);
    assert_true(done.attested);
}

static void begin(struct scene *s)
{
    given(s);
    is_attested(s);
}

static void end(struct scene *s)
{
    for (int i = 0; i < DEVICES; i++)
        device_fini(&s->device[i]);
    cs_buf_free(&s->given);
    hub_fini(&s->hub);
}

static void revokes(struct scene *s, int who, const struct device *whom)
{
    clawsync_error err = { 0 };
    struct cs_uuid id;
    char text[CS_UUID_TEXT];

    id_of(whom, &id);
    cs_uuid_text(text, &id);
    ok(clawsync_engine_revoke_device(s->device[who].engine, text, 0, NULL, NULL, &err), &err);
    ok(clawsync_engine_sync_now(s->device[who].engine, NULL, &err), &err);
}

static void removes(struct scene *s, int who, int whom)
{
    revokes(s, who, &s->device[whom]);
}

static void comes(struct scene *s, int inviter)
{
    struct device *d = &s->newcomer;
    char code[CLAWSYNC_CODE_MAX];
    clawsync_error err = { 0 };

    device_init(d, schema);
    d->config.hub_endpoint = s->hub.endpoint;
    device_open(d);
    ok(clawsync_engine_invite(s->device[inviter].engine, 0, code, sizeof code, &err), &err);
    ok(clawsync_engine_join(d->engine, code, &err), &err);
}

static void is_refused(struct scene *s, const char *name)
{
    static const char changed[] = "SELECT (SELECT count(*) FROM sync_rows) + (SELECT count(*) FROM memories)";
    clawsync_error err = { 0 };
    int rc = clawsync_engine_sync_now(s->newcomer.engine, NULL, &err);

    assert_int_equal(rc, CLAWSYNC_EHUB);
    if (strncmp(err.msg, name, strlen(name)) != 0)
        fail_msg("%s instead of %s", err.msg, name);
    assert_int_equal(number_in(&s->newcomer, changed), 0);
}

static void is_taken(struct scene *s)
{
    clawsync_error err = { 0 };

    ok(clawsync_engine_sync_now(s->newcomer.engine, NULL, &err), &err);
    assert_int_equal(number_in(&s->newcomer, "SELECT count(*) FROM memories"), DEVICES);
}

/* ---- tests ---- */

static void nothing(struct cs_snapshot_peer *p)
{
    (void)p;
}
static void behind_the_cut(struct cs_snapshot_peer *p)
{
    p->number++;
}
static void another_last_batch(struct cs_snapshot_peer *p)
{
    p->hash[0] ^= 1;
}
static void nobodys(struct cs_snapshot_peer *p)
{
    p->device.b[15] ^= 1;
}

/* Of a removed device, what is up to its cut belongs to the state, and nothing else. */
static void what_a_removed_device_left(void **state)
{
    static const struct {
        const char *name; /* NULL: nothing is wrong */
        void (*bend)(struct cs_snapshot_peer *p);
    } rows[] = { { "PAST_CUT:", behind_the_cut },
                 { "PAST_CUT:", another_last_batch },
                 { "NOT_A_MEMBER:", nobodys },
                 { NULL, nothing } };
    struct scene *s = malloc(sizeof *s);

    (void)state;
    assert_non_null(s);
    begin(s);
    removes(s, ATTESTER, THIRD);
    device_close(&s->device[AUTHOR]);
    forger_init(&s->f, &s->device[AUTHOR]);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        forge(s, rows[i].bend);
        comes(s, ATTESTER);
        if (rows[i].name != NULL) {
            is_refused(s, rows[i].name);
            put_descriptor(s, cs_buf_slice(&s->given));
        }
        is_taken(s);
        device_fini(&s->newcomer);
    }
    forger_fini(&s->f);
    end(s);
    free(s);
}

/* Who attests says that each device's chain is where the snapshot says it is, too. */
static void chains_that_the_log_has_not(void **state)
{
    void (*const bends[])(struct cs_snapshot_peer * p) = { behind_the_cut, another_last_batch, nobodys };
    struct scene *s = malloc(sizeof *s);

    (void)state;
    assert_non_null(s);
    given(s);
    device_close(&s->device[AUTHOR]);
    forger_init(&s->f, &s->device[AUTHOR]);
    for (size_t i = 0; i < sizeof bends / sizeof bends[0]; i++) {
        clawsync_error err = { 0 };

        forge(s, bends[i]);
        assert_int_equal(clawsync_engine_compact(s->device[ATTESTER].engine, NULL, &err), CLAWSYNC_ECORRUPT);
        assert_int_equal(strncmp(err.msg, "SNAPSHOT_DIFFERS:", 17), 0);
    }
    put_descriptor(s, cs_buf_slice(&s->given));
    is_attested(s);
    forger_fini(&s->f);
    end(s);
    free(s);
}

static int64_t pruned(const struct scene *s)
{
    return in_hub(&s->hub, "SELECT pruned FROM workspace");
}

static void is_pruned(struct scene *s)
{
    given_to(s, 20);
    is_attested(s);
    while (pruned(s) == 0)
        usleep(1000);
}

/* Whoever gave it, or attested it, was lost: the other's word stands. Those who are there give another one. */
static void of_whom_is_removed(void **state)
{
    const int whom = *(const int *)*state, who = whom == AUTHOR ? ATTESTER : AUTHOR;
    struct scene *s = malloc(sizeof *s);
    clawsync_compacted done;
    clawsync_error err = { 0 };

    assert_non_null(s);
    is_pruned(s);
    removes(s, who, whom);
    comes(s, THIRD);
    is_taken(s);
    ok(clawsync_engine_compact(s->device[who].engine, &done, &err), &err);
    ok(clawsync_engine_compact(s->device[THIRD].engine, &done, &err), &err);
    assert_true(done.attested);
    device_fini(&s->newcomer);
    end(s);
    free(s);
}

static void cut_attestation(const struct scene *s)
{
    sqlite3 *db = hub_open(&s->hub);

    hub_run(db, "UPDATE snapshot SET attestation = substr(attestation, 1, ?) WHERE state >= 2", "i",
            (int64_t)CS_PROOF_LEN);
    sqlite3_close(db);
}

/* What a device says after it was removed counts nowhere, and with the hub's help neither: the other one has signed
 * what was said then. */
static void bent_by_whom_is_removed(void **state)
{
    struct scene *s = malloc(sizeof *s);

    (void)state;
    assert_non_null(s);
    is_pruned(s);
    removes(s, ATTESTER, AUTHOR);
    device_close(&s->device[AUTHOR]);
    forger_init(&s->f, &s->device[AUTHOR]);
    comes(s, THIRD);
    forge(s, behind_the_cut);
    is_refused(s, "NOT_A_MEMBER:");
    put_descriptor(s, cs_buf_slice(&s->given));
    cut_attestation(s); /* as an older version attested it */
    is_refused(s, "NOT_A_MEMBER:");
    forger_fini(&s->f);
    device_fini(&s->newcomer);
    end(s);
    free(s);
}

static void attested_without_a_signature(void **state)
{
    struct scene *s = malloc(sizeof *s);

    (void)state;
    assert_non_null(s);
    is_pruned(s);
    removes(s, AUTHOR, ATTESTER);
    cut_attestation(s);
    comes(s, THIRD);
    is_taken(s);
    device_fini(&s->newcomer);
    end(s);
    free(s);
}

static int in_state(const struct scene *s, enum cs_snapshot_state state)
{
    sqlite3 *db = hub_open(&s->hub);
    sqlite3_stmt *q = NULL;
    int n;

    assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*) FROM snapshot WHERE state = ?", -1, &q, NULL), SQLITE_OK);
    sqlite3_bind_int(q, 1, (int)state);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    n = sqlite3_column_int(q, 0);
    sqlite3_finalize(q);
    sqlite3_close(db);
    return n;
}

/* Nobody takes their snapshot. There is one device that has the state, and whoever is new has its word, as in a
 * workspace that began with it; but not where a further device might have attested it. */
static void of_two_who_are_removed(void **state)
{
    struct scene *s = malloc(sizeof *s);
    struct device first;
    clawsync_compacted done;
    clawsync_error err = { 0 };

    (void)state;
    assert_non_null(s);
    is_pruned(s);
    removes(s, THIRD, AUTHOR);
    removes(s, THIRD, ATTESTER);
    comes(s, THIRD);
    is_refused(s, "NOT_A_MEMBER:");
    first = s->newcomer;
    comes(s, THIRD);
    ok(clawsync_engine_compact(s->device[THIRD].engine, &done, &err), &err);
    assert_true(done.parts > 0);
    assert_int_equal(in_state(s, CS_SNAPSHOT_SERVED), 1);
    is_refused(s, "SNAPSHOT_UNATTESTED:");
    revokes(s, THIRD, &first);
    is_taken(s);
    ok(clawsync_engine_compact(s->newcomer.engine, &done, &err), &err);
    assert_true(done.attested);
    device_fini(&first);
    device_fini(&s->newcomer);
    end(s);
    free(s);
}

/* One who has read attests: until then nobody is served another one's word. */
static void of_two_who_are_removed_beside_another(void **state)
{
    struct scene *s = malloc(sizeof *s);
    struct device reader;
    clawsync_compacted done;
    clawsync_error err = { 0 };

    (void)state;
    assert_non_null(s);
    is_pruned(s);
    comes(s, THIRD);
    is_taken(s);
    reader = s->newcomer;
    removes(s, THIRD, AUTHOR);
    removes(s, THIRD, ATTESTER);
    comes(s, THIRD);
    ok(clawsync_engine_compact(s->device[THIRD].engine, &done, &err), &err);
    assert_int_equal(in_state(s, CS_SNAPSHOT_WHOLE), 1);
    is_refused(s, "NOT_A_MEMBER:");
    ok(clawsync_engine_compact(reader.engine, &done, &err), &err);
    assert_true(done.attested);
    is_taken(s);
    device_fini(&reader);
    device_fini(&s->newcomer);
    end(s);
    free(s);
}

/* Whoever has the log to read has no need of it. */
static void of_whom_is_removed_beside_the_log(void **state)
{
    const int whom = *(const int *)*state, who = whom == AUTHOR ? ATTESTER : AUTHOR;
    struct scene *s = malloc(sizeof *s);

    assert_non_null(s);
    begin(s);
    removes(s, who, whom);
    comes(s, THIRD);
    is_taken(s);
    assert_int_equal(pruned(s), 0);
    device_fini(&s->newcomer);
    end(s);
    free(s);
}

/* A log that is pruned is at no time without a snapshot: the one that nobody takes stays until another is attested. */
static void one_after_the_other(void **state)
{
    struct scene *s = malloc(sizeof *s);
    clawsync_compacted done;
    clawsync_error err = { 0 };

    (void)state;
    assert_non_null(s);
    begin(s);
    removes(s, ATTESTER, AUTHOR);
    ok(clawsync_engine_compact(s->device[ATTESTER].engine, &done, &err), &err);
    assert_int_equal(in_state(s, CS_SNAPSHOT_SERVED), 1);
    assert_int_equal(in_state(s, CS_SNAPSHOT_WHOLE), 1);
    ok(clawsync_engine_compact(s->device[ATTESTER].engine, &done, &err), &err);
    assert_int_equal(done.parts, 0); /* it is there already */
    ok(clawsync_engine_compact(s->device[THIRD].engine, &done, &err), &err);
    assert_true(done.attested);
    assert_int_equal(in_state(s, CS_SNAPSHOT_SERVED), 1);
    assert_int_equal(in_state(s, CS_SNAPSHOT_WHOLE), 0);
    comes(s, ATTESTER);
    is_taken(s);
    device_fini(&s->newcomer);
    end(s);
    free(s);
}

/* What it gave that nobody had attested is let lie: it accuses neither the hub nor anybody else. */
static void given_by_whom_is_removed(void **state)
{
    struct scene *s = malloc(sizeof *s);
    clawsync_compacted done;
    clawsync_error err = { 0 };

    (void)state;
    assert_non_null(s);
    given(s);
    removes(s, ATTESTER, AUTHOR);
    ok(clawsync_engine_compact(s->device[ATTESTER].engine, &done, &err), &err);
    assert_true(done.parts > 0);
    ok(clawsync_engine_compact(s->device[THIRD].engine, &done, &err), &err);
    assert_true(done.attested);
    end(s);
    free(s);
}

/* Who lacks what a batch holds gives no snapshot, as the log would be pruned of it; of what counts nowhere nobody lacks
 * anything. */
/* From a connection of its own: the engine's is its workers'. */
static void put_aside(const struct device *d, const struct cs_review_aside *a)
{
    struct cs_replica_options o = { .path = d->db };
    struct cs_error err = { 0 };
    cs_replica *r = NULL;

    ok(cs_replica_open(&r, cs_world_real(), &o, &err), (clawsync_error *)&err);
    ok(cs_review_put_aside(r, a, &err), (clawsync_error *)&err);
    cs_replica_close(r);
}

static void with_a_batch_set_aside(void **state)
{
    static const char *const findings[] = { "PAST_CUT: behind its removal", "BAD_CHUNK: other bytes" };
    struct scene s;
    clawsync_compacted done;
    clawsync_error err = { 0 };

    (void)state;
    begin(&s);
    for (int i = 0; i < 2; i++) {
        clawsync_engine *e = s.device[THIRD].engine;
        struct cs_review_aside a = { .log_id = e->head.log_id, .log_number = 1, .finding = findings[i] };

        app(&s.device[THIRD], i == 0 ? "INSERT INTO memories VALUES('more', 'x')" : "DELETE FROM memories");
        sync_all(&s);
        put_aside(&s.device[THIRD], &a);
        if (i == 0) {
            ok(clawsync_engine_compact(e, &done, &err), &err);
        } else {
            assert_int_equal(clawsync_engine_compact(e, &done, &err), CLAWSYNC_EINVAL);
            assert_non_null(strstr(err.msg, "it gives no snapshot"));
        }
    }
    end(&s);
}

int main(void)
{
    static const int author = AUTHOR, attester = ATTESTER;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_removed_device_left),
        cmocka_unit_test(chains_that_the_log_has_not),
        cmocka_unit_test(given_by_whom_is_removed),
        cmocka_unit_test(one_after_the_other),
        cmocka_unit_test(with_a_batch_set_aside),
        cmocka_unit_test_prestate(of_whom_is_removed, (void *)(uintptr_t)&author),
        cmocka_unit_test_prestate(of_whom_is_removed, (void *)(uintptr_t)&attester),
        cmocka_unit_test(bent_by_whom_is_removed),
        cmocka_unit_test(attested_without_a_signature),
        cmocka_unit_test(of_two_who_are_removed),
        cmocka_unit_test(of_two_who_are_removed_beside_another),
        cmocka_unit_test_prestate(of_whom_is_removed_beside_the_log, (void *)(uintptr_t)&author),
        cmocka_unit_test_prestate(of_whom_is_removed_beside_the_log, (void *)(uintptr_t)&attester),
    };

    return cs_crypto_init(NULL) < 0 ? 1
                                    : cmocka_run_group_tests_name("what is checked of a snapshot", tests, NULL, NULL);
}
