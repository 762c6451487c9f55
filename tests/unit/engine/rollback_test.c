/* What a hub takes back while the engine runs, and content that was changed on the way. */
#include "unit/engine/between_fixture.h"

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);";

struct scene {
    struct between between;
    struct device device;
    unsigned set_aside;
};

static void on_event(void *arg, const clawsync_event *ev)
{
    struct scene *s = arg;

    s->set_aside += ev->type == CLAWSYNC_EVENT_SYNC_ERROR && strcmp(ev->name, "BAD_CHUNK") == 0;
}

static void open_device(struct scene *s)
{
    clawsync_error err = { 0 };

    device_open(&s->device);
    ok(clawsync_engine_subscribe(s->device.engine, on_event, s, &err), &err);
}

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    clawsync_error err = { 0 };

    assert_non_null(s);
    between_init(&s->between);
    device_init(&s->device, schema);
    s->device.config.hub_endpoint = s->between.endpoint;
    open_device(s);
    ok(clawsync_engine_sync_now(s->device.engine, NULL, &err), &err);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    device_fini(&s->device);
    between_fini(&s->between);
    free(s);
    return 0;
}

static void hub_sql(const struct scene *s, const char *sql)
{
    sqlite3 *db = NULL;
    char *msg = NULL;

    assert_int_equal(sqlite3_open(s->between.hub.database, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 20000);
    if (sqlite3_exec(db, sql, NULL, NULL, &msg) != SQLITE_OK)
        fail_msg("%s\n  in: %s", msg, sql);
    sqlite3_close(db);
}

/* The hub acknowledges a batch, signs its head, and ends below it in the same run of the engine, which has not pulled
 * since. */
static void an_acknowledgement_is_not_taken_back(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    for (int i = 0; i < 2; i++) {
        app(&s->device, i == 0 ? "INSERT INTO memories VALUES('a', 'x')" : "INSERT INTO memories VALUES('b', 'x')");
        ok(clawsync_engine_push_now(s->device.engine, NULL, &err), &err);
    }
    hub_sql(s, "BEGIN; DELETE FROM chunk WHERE number = 2; DELETE FROM log WHERE number = 2;"
               "UPDATE workspace SET number = 1, log_hash = (SELECT log_hash FROM log WHERE number = 1);"
               "UPDATE device SET number = 1, hash = (SELECT hash FROM log WHERE number = 1); COMMIT");
    assert_int_equal(clawsync_engine_pull_now(s->device.engine, NULL, &err), CLAWSYNC_EHUB);
    assert_non_null(strstr(err.msg, "HUB_ROLLBACK"));
    assert_int_equal(number_in(&s->device, "SELECT count(*) FROM memories"), 2);
}

/* ---- a log that ends below its head ---- */

static bool withhold(struct between *b, struct relay *r, struct cs_slice m)
{
    Clawsync__V1__PullResponse *p;
    struct cs_buf again = { 0 };
    size_t kept = 0;

    if (!is_method(r, "Pull") || b->refusals == 0)
        return true;
    p = clawsync__v1__pull_response__unpack(NULL, m.len, m.data);
    assert_non_null(p);
    for (size_t i = 0; i < p->n_chunks; i++) {
        if (p->chunks[i]->envelope != NULL && p->chunks[i]->envelope->log_number < 3)
            p->chunks[kept++] = p->chunks[i];
        else
            clawsync__v1__delta_chunk__free_unpacked(p->chunks[i], NULL);
    }
    p->n_chunks = kept;
    b->dropped += p->head != NULL;
    b->refusals -= p->head != NULL;
    clawsync__v1__pull_response__pack(p, cs_buf_grow(&again, clawsync__v1__pull_response__get_packed_size(p)));
    cs_rpc_call_send(r->device, cs_buf_slice(&again));
    clawsync__v1__pull_response__free_unpacked(p, NULL);
    cs_buf_free(&again);
    return false;
}

static void three_batches(struct scene *s)
{
    clawsync_error err = { 0 };

    for (int i = 0; i < 3; i++) {
        char sql[80];

        snprintf(sql, sizeof sql, "INSERT INTO memories VALUES('%d', 'x')", i);
        app(&s->device, sql);
        ok(clawsync_engine_push_now(s->device.engine, NULL, &err), &err);
    }
}

/* The hub signs that there are three, and gives two: it is asked again, and then named. */
static void what_a_head_promises_must_come(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    three_batches(s);
    s->between.answer = withhold;
    s->between.refusals = 2;
    ok(clawsync_engine_pull_now(s->device.engine, NULL, &err), &err); /* late is no lie */
    assert_int_equal(s->between.refusals, 0);
}

static void and_is_withheld_otherwise(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    three_batches(s);
    s->between.answer = withhold;
    s->between.refusals = UINT32_MAX;
    assert_int_equal(clawsync_engine_pull_now(s->device.engine, NULL, &err), CLAWSYNC_EHUB);
    assert_non_null(strstr(err.msg, "HUB_WITHHELD"));
    assert_in_range(s->between.dropped, 3, 5);
}

/* ---- acknowledgements without a head, or with one that does not reach what they promise ---- */

static bool change_head(struct between *b, struct relay *r, struct cs_slice m)
{
    Clawsync__V1__PushResponse *a;
    uint8_t bytes[2000];

    if (!is_method(r, "Push") || b->refusals == 0)
        return true;
    b->refusals--;
    a = clawsync__v1__push_response__unpack(NULL, m.len, m.data);
    assert_non_null(a);
    if (b->status == 0) {
        clawsync__v1__hub_head__free_unpacked(a->head, NULL);
        a->head = NULL;
    } else if (b->status == 1) {
        a->head->signature.data[7] ^= 1;
    } else { /* the one of the last batch */
        clawsync__v1__hub_head__free_unpacked(a->head, NULL);
        a->head = clawsync__v1__hub_head__unpack(NULL, b->kept.len, b->kept.data);
    }
    assert_true(clawsync__v1__push_response__get_packed_size(a) <= sizeof bytes);
    cs_rpc_call_send(r->device, cs_slice(bytes, clawsync__v1__push_response__pack(a, bytes)));
    clawsync__v1__push_response__free_unpacked(a, NULL);
    return false;
}

static bool keep_head(struct between *b, struct relay *r, struct cs_slice m)
{
    Clawsync__V1__PushResponse *a;
    uint8_t bytes[300];

    if (!is_method(r, "Push"))
        return true;
    a = clawsync__v1__push_response__unpack(NULL, m.len, m.data);
    assert_non_null(a);
    cs_buf_reset(&b->kept);
    cs_buf_put(&b->kept, bytes, clawsync__v1__hub_head__pack(a->head, bytes));
    clawsync__v1__push_response__free_unpacked(a, NULL);
    return true;
}

static void an_acknowledgement_has_its_head(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    s->between.answer = keep_head;
    app(&s->device, "INSERT INTO memories VALUES('first', 'x')");
    ok(clawsync_engine_push_now(s->device.engine, NULL, &err), &err);
    s->between.answer = change_head;
    for (s->between.status = 0; s->between.status < 3; s->between.status++) {
        char sql[80];

        snprintf(sql, sizeof sql, "INSERT INTO memories VALUES('%d', 'x')", s->between.status);
        app(&s->device, sql);
        s->between.refusals = 1;
        assert_int_equal(clawsync_engine_push_now(s->device.engine, NULL, &err), CLAWSYNC_EHUB);
        assert_non_null(strstr(err.msg, "BAD_HUB_HEAD"));
        assert_int_equal(number_in(&s->device, "SELECT count(*) FROM sync_bound WHERE state = 0"), 1);
        ok(clawsync_engine_push_now(s->device.engine, NULL, &err), &err); /* a duplicate: accepted again */
    }
}

/* ---- content that was changed on the way ---- */

static bool spoil(struct between *b, struct relay *r, struct cs_slice m)
{
    Clawsync__V1__PullResponse *p;
    struct cs_buf again = { 0 };
    bool hit = false;

    if (!is_method(r, "Pull") || b->refusals == 0)
        return true;
    p = clawsync__v1__pull_response__unpack(NULL, m.len, m.data);
    assert_non_null(p);
    for (size_t i = 0; i < p->n_chunks; i++) {
        Clawsync__V1__DeltaChunk *c = p->chunks[i];

        if (c->envelope == NULL || c->envelope->log_number != 2 || c->encrypted_payload.len == 0)
            continue;
        hit = true;
        if (b->status == 0) {
            c->encrypted_payload.data[c->encrypted_payload.len - 1] ^= 1;
        } else if (b->status == 1) {
            c->encrypted_payload.len--;
        } else {
            free(c->encrypted_payload.data);
            c->encrypted_payload = (ProtobufCBinaryData){ 0, NULL };
        }
    }
    b->refusals -= hit;
    clawsync__v1__pull_response__pack(p, cs_buf_grow(&again, clawsync__v1__pull_response__get_packed_size(p)));
    cs_rpc_call_send(r->device, cs_buf_slice(&again));
    clawsync__v1__pull_response__free_unpacked(p, NULL);
    cs_buf_free(&again);
    return false;
}

/* The database is lost, and comes back from the hub. */
static void lose_database(struct scene *s)
{
    char command[200];

    device_close(&s->device);
    snprintf(command, sizeof command, "rm %s*", s->device.db);
    assert_int_equal(system(command), 0);
    app(&s->device, schema);
    open_device(s);
}

static void changed_content_is_fetched_once_more(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    three_batches(s);
    s->between.answer = spoil;
    for (s->between.status = 0; s->between.status < 3; s->between.status++) {
        lose_database(s);
        s->between.refusals = 1;
        ok(clawsync_engine_sync_now(s->device.engine, NULL, &err), &err);
        assert_int_equal(s->between.refusals, 0);
        assert_int_equal(number_in(&s->device, "SELECT count(*) FROM memories"), 3);
        assert_int_equal(s->set_aside, 0);
    }
}

static void and_then_set_aside(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    three_batches(s);
    s->between.answer = spoil;
    for (s->between.status = 0; s->between.status < 3; s->between.status++) {
        lose_database(s);
        s->between.refusals = 1000;
        s->set_aside = 0;
        ok(clawsync_engine_sync_now(s->device.engine, NULL, &err), &err);
        assert_int_equal(s->between.refusals, 998);
        assert_int_equal(number_in(&s->device, "SELECT count(*) FROM memories"), 2); /* the rest flows */
        assert_int_equal(s->set_aside, 1);
    }
}

/* ---- numbers that leave some out ---- */

static bool jump(struct between *b, struct relay *r, struct cs_slice m)
{
    Clawsync__V1__PullResponse *p;
    struct cs_buf again = { 0 };

    if (!is_method(r, "Pull") || b->refusals == 0)
        return true;
    p = clawsync__v1__pull_response__unpack(NULL, m.len, m.data);
    assert_non_null(p);
    for (size_t i = 0; i < p->n_chunks; i++) {
        Clawsync__V1__Envelope *env = p->chunks[i]->envelope;

        if (env == NULL || env->log_number != 3)
            continue;
        b->refusals--;
        env->log_number = 1000;
        if (b->status == 0)
            env->header.data[7] ^= 1; /* reserved */
        else
            env->header.len--;
    }
    clawsync__v1__pull_response__pack(p, cs_buf_grow(&again, clawsync__v1__pull_response__get_packed_size(p)));
    cs_rpc_call_send(r->device, cs_buf_slice(&again));
    clawsync__v1__pull_response__free_unpacked(p, NULL);
    cs_buf_free(&again);
    return false;
}

/* What cannot be read is set aside where it stands, and nowhere else: the position would pass what the hub has. */
static void what_cannot_be_read_moves_no_position(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    three_batches(s);
    s->between.answer = jump;
    for (s->between.status = 0; s->between.status < 2; s->between.status++) {
        lose_database(s);
        s->between.refusals = 1;
        assert_int_equal(clawsync_engine_sync_now(s->device.engine, NULL, &err), CLAWSYNC_EHUB);
        assert_non_null(strstr(err.msg, "HUB_WITHHELD"));
        assert_int_equal(s->between.refusals, 0);
        ok(clawsync_engine_sync_now(s->device.engine, NULL, &err), &err); /* the hub is honest again */
        assert_int_equal(number_in(&s->device, "SELECT count(*) FROM memories"), 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_acknowledgement_is_not_taken_back, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_head_promises_must_come, setup, teardown),
        cmocka_unit_test_setup_teardown(and_is_withheld_otherwise, setup, teardown),
        cmocka_unit_test_setup_teardown(an_acknowledgement_has_its_head, setup, teardown),
        cmocka_unit_test_setup_teardown(changed_content_is_fetched_once_more, setup, teardown),
        cmocka_unit_test_setup_teardown(and_then_set_aside, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_read_moves_no_position, setup, teardown),
    };

    return cmocka_run_group_tests_name("a hub that takes back, a network that changes", tests, NULL, NULL);
}
