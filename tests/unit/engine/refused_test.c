/* Batches that the hub refuses, or says that it refuses: bound anew, given up, or adopted when it took them after all.
 */
#include "unit/engine/between_fixture.h"

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);";

struct scene {
    struct between between;
    struct device device;
    /* a request is held until something has happened at the hub, so often */
    struct device other;
    void (*meanwhile)(struct scene *s);
    _Atomic bool is_held;
    _Atomic unsigned changes;
};

/* ---- what the one between does ---- */

static void refuse(struct between *b, struct relay *r)
{
    Clawsync__V1__PushResponse no = CLAWSYNC__V1__PUSH_RESPONSE__INIT;
    char reason[] = "so it is said";

    no.status = b->status;
    no.kind = (char *)(uintptr_t)b->kind;
    no.reason = reason;
    relay_forge(r, &no);
}

/* The hub never sees the first ones. */
static bool refuse_some(struct between *b, struct relay *r, struct cs_slice m)
{
    (void)m;
    if (!is_method(r, "Push"))
        return true;
    b->requests++;
    if (b->refusals == 0)
        return true;
    b->refusals--;
    refuse(b, r);
    return false;
}

/* The first ones are held back; a copy of one arrives just before the next batch, and of its answer nobody hears. */
static bool deliver_late(struct between *b, struct relay *r, struct cs_slice m)
{
    if (!is_method(r, "Push"))
        return true;
    b->requests++;
    if (b->refusals > 0) {
        b->refusals--;
        cs_buf_reset(&b->kept);
        cs_buf_put_slice(&b->kept, m);
        refuse(b, r);
        return false;
    }
    if (b->kept.len > 0) {
        cs_rpc_call_send(r->hub, cs_buf_slice(&b->kept));
        cs_buf_reset(&b->kept);
        b->dropped = 1;
    }
    return true;
}

static bool drop_answers(struct between *b, struct relay *r, struct cs_slice m)
{
    (void)m;
    if (!is_method(r, "Push") || b->dropped == 0)
        return true;
    b->dropped--;
    return false;
}

/* The hub takes the first ones, and the device hears of a refusal. */
static bool deny(struct between *b, struct relay *r, struct cs_slice m)
{
    (void)m;
    if (!is_method(r, "Push") || b->refusals == 0)
        return true;
    b->refusals--;
    refuse(b, r);
    return false;
}

/* Three answers at once: the hub cannot tell that it has the first two, and has them; the third it has taken. */
static bool deny_two_of_three(struct between *b, struct relay *r, struct cs_slice m)
{
    (void)m;
    if (!is_method(r, "Push") || b->refusals == 0)
        return true;
    if (--b->refusals > 0)
        return false;
    refuse(b, r);
    refuse(b, r);
    return true;
}

/* With `deny`: all are refused, and with the last of them the first is taken. */
static bool deliver_last(struct between *b, struct relay *r, struct cs_slice m)
{
    if (!is_method(r, "Push") || b->refusals == 0)
        return true;
    if (b->kept.len == 0)
        cs_buf_put_slice(&b->kept, m);
    if (b->refusals == 1) {
        cs_rpc_call_send(r->hub, cs_buf_slice(&b->kept));
        return false;
    }
    b->refusals--;
    refuse(b, r);
    return false;
}

/* Until the hub refuses it. */
static bool hold(struct between *b, struct relay *r, struct cs_slice m)
{
    struct scene *s = (struct scene *)b;

    if (!is_method(r, "Push") || s->changes == 0)
        return true;
    b->requests++;
    relay_hold(r, m);
    s->is_held = true;
    return false;
}

static void *change(void *arg)
{
    struct scene *s = arg;

    while (s->changes > 0) {
        while (!s->is_held)
            usleep(200);
        s->meanwhile(s);
        s->is_held = false;
        s->changes--;
        between_release(&s->between);
    }
    return NULL;
}

/* ---- scenes ---- */

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    clawsync_error err = { 0 };

    assert_non_null(s);
    between_init(&s->between);
    device_init(&s->device, schema);
    s->device.config.hub_endpoint = s->between.endpoint;
    device_open(&s->device);
    ok(clawsync_engine_sync_now(s->device.engine, NULL, &err), &err); /* a member, and nothing sent */
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

static int64_t log_length(const struct scene *s)
{
    return in_hub(&s->between.hub, "SELECT count(*) FROM log");
}

static int push(struct scene *s, clawsync_error *err)
{
    return clawsync_engine_push_now(s->device.engine, NULL, err);
}

static int64_t waiting(const struct scene *s)
{
    return number_in(&s->device, "SELECT count(*) FROM sync_bound WHERE state = 0");
}

static int64_t incarnation_hash(const struct scene *s)
{
    return number_in(&s->device, "SELECT sum(unicode(substr(hex(value), i, 1)) * i) FROM sync_meta, (WITH RECURSIVE "
                                 "n(i) AS (SELECT 65 UNION ALL SELECT i + 1 FROM n WHERE i < 80) SELECT i FROM n) "
                                 "WHERE name = 'identity'");
}

/* All that the hub has of the device, as a database shows it that begins with nothing. */
static void hub_holds(struct scene *s, const char *query, int64_t want)
{
    clawsync_error err = { 0 };

    device_close(&s->device);
    app(&s->device, "PRAGMA journal_mode=DELETE");
    assert_int_equal(unlink(s->device.db), 0);
    app(&s->device, schema);
    device_open(&s->device);
    ok(clawsync_engine_pull_now(s->device.engine, NULL, &err), &err);
    assert_int_equal(number_in(&s->device, query), want);
}

/* ---- tests ---- */

static const struct refusal {
    const char *kind;
    int status;
} refusals[] = { { "stale-epoch", CS_RPC_FAILED_PRECONDITION },
                 { "stale-seen", CS_RPC_FAILED_PRECONDITION },
                 { "order", CS_RPC_ABORTED },
                 { "duplicate", CS_RPC_ALREADY_EXISTS } };
enum { NREFUSALS = sizeof refusals / sizeof refusals[0] };

static void bound_anew_and_taken(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    s->between.request = refuse_some;
    for (int i = 0; i < NREFUSALS; i++) {
        char sql[100];

        snprintf(sql, sizeof sql, "INSERT INTO memories VALUES('%d', 'x')", i);
        app(&s->device, sql);
        s->between.kind = refusals[i].kind;
        s->between.status = refusals[i].status;
        s->between.refusals = 2;
        s->between.requests = 0;
        ok(push(s, &err), &err);
        assert_int_equal(s->between.requests, 3);
        assert_int_equal(log_length(s), i + 1);
        assert_int_equal(waiting(s), 0);
        assert_int_equal(number_in(&s->device, "SELECT count(*) FROM sync_refused"), 0);
    }
    hub_holds(s, "SELECT count(*) FROM memories", NREFUSALS);
}

static void several_in_flight_are_bound_anew_in_order(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    device_close(&s->device);
    s->device.config.max_delta_rows = 10;
    device_open(&s->device);
    app(&s->device, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) "
                    "INSERT INTO memories SELECT i, 'x' FROM n");
    s->between.request = refuse_some;
    s->between.kind = "stale-epoch";
    s->between.status = CS_RPC_FAILED_PRECONDITION;
    s->between.refusals = 4;
    ok(push(s, &err), &err);
    assert_int_equal(log_length(s), 10);
    hub_holds(s, "SELECT count(*) FROM memories", 100);
}

/* Each time that it is bound anew, the hub has another reason to refuse it by then. */
enum { CHANGES = 6 };

static void pushes_while(struct scene *s, void (*meanwhile)(struct scene *s))
{
    pthread_t thread;
    clawsync_error err = { 0 };

    s->between.request = hold;
    s->meanwhile = meanwhile;
    s->changes = CHANGES;
    app(&s->device, "INSERT INTO memories VALUES('a', 'x')");
    assert_int_equal(pthread_create(&thread, NULL, change, s), 0);
    ok(push(s, &err), &err);
    pthread_join(thread, NULL);
    assert_int_equal(s->between.requests, CHANGES);
}

static void rotates(struct scene *s)
{
    clawsync_error err = { 0 };

    ok(clawsync_engine_rotate_keys(s->other.engine, NULL, &err), &err);
}

static void a_key_that_changes_again_and_again(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    device_enter(&s->other, schema, s->between.hub.endpoint, &s->device, NULL, NULL);
    ok(clawsync_engine_sync_now(s->device.engine, NULL, &err), &err);
    pushes_while(s, rotates);
    assert_int_equal(log_length(s), 1);
    device_fini(&s->other);
}

static void other_sends(struct scene *s)
{
    clawsync_error err = { 0 };

    app(&s->other, "INSERT INTO memories SELECT count(*), 'x' FROM memories");
    ok(clawsync_engine_sync_now(s->other.engine, NULL, &err), &err);
}

/* s->other goes on where s->device was, which is now a copy of it elsewhere. */
static void is_copied(struct scene *s)
{
    char command[600];

    device_close(&s->device);
    s->other = s->device;
    s->other.config.hub_endpoint = s->between.hub.endpoint;
    s->other.config.db_path = s->other.db;
    s->other.config.data_dir = s->other.data;
    assert_non_null(scratch_folder(s->device.dir, "engine"));
    snprintf(s->device.db, sizeof s->device.db, "%s/app.db", s->device.dir);
    snprintf(s->device.data, sizeof s->device.data, "%s/state", s->device.dir);
    snprintf(command, sizeof command, "cp -r %s/. %s", s->other.dir, s->device.dir);
    assert_int_equal(system(command), 0);
    device_open(&s->other);
    device_open(&s->device);
}

static void a_copy_that_is_faster_again_and_again(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    app(&s->device, "INSERT INTO memories VALUES('before', 'x')");
    ok(clawsync_engine_sync_now(s->device.engine, NULL, &err), &err);
    is_copied(s);
    pushes_while(s, other_sends);
    assert_int_equal(log_length(s), 1 + CHANGES + 1);
    hub_holds(s, "SELECT count(*) FROM memories", 1 + CHANGES + 1);
    device_fini(&s->other);
}

static void given_up_after_three_tries_and_kept(void **state)
{
    struct scene *s = *state;

    s->between.request = refuse_some;
    app(&s->device, "INSERT INTO memories VALUES('a', 'x')");
    for (int i = 0; i < NREFUSALS; i++) {
        clawsync_error err = { 0 };

        s->between.kind = refusals[i].kind;
        s->between.status = refusals[i].status;
        s->between.refusals = UINT32_MAX;
        s->between.requests = 0;
        assert_int_equal(push(s, &err), CLAWSYNC_EHUB);
        assert_int_equal(s->between.requests, 4);
        assert_non_null(strstr(err.msg, "HUB_FORK"));
        assert_non_null(strstr(err.msg, refusals[i].kind));
        assert_non_null(strstr(err.msg, "so it is said"));
        assert_int_equal(waiting(s), 1);
        assert_int_equal(log_length(s), 0);
    }
    s->between.refusals = 0;
    assert_int_equal(push(s, NULL), CLAWSYNC_OK);
    hub_holds(s, "SELECT count(*) FROM memories", 1);
}

static void a_clock_that_stays_wrong_is_told(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    s->between.request = refuse_some;
    s->between.kind = "clock";
    s->between.status = CS_RPC_FAILED_PRECONDITION;
    s->between.refusals = UINT32_MAX;
    app(&s->device, "INSERT INTO memories VALUES('a', 'x')");
    assert_int_equal(push(s, &err), CLAWSYNC_ECLOCK);
    assert_non_null(strstr(err.msg, "so it is said"));
    s->between.refusals = 0;
    ok(push(s, &err), &err);
    hub_holds(s, "SELECT count(*) FROM memories", 1);
}

static void other_refusals_are_final(void **state)
{
    static const struct {
        const char *kind;
        int status, code;
    } finals[] = { { "revoked", CS_RPC_PERMISSION_DENIED, CLAWSYNC_EAUTH },
                   { "limit", CS_RPC_RESOURCE_EXHAUSTED, CLAWSYNC_ELIMIT },
                   { "no such kind", 99, CLAWSYNC_EHUB },
                   { "", CS_RPC_UNAVAILABLE, CLAWSYNC_EUNAVAILABLE } };
    struct scene *s = *state;

    s->between.request = refuse_some;
    s->between.refusals = UINT32_MAX;
    app(&s->device, "INSERT INTO memories VALUES('a', 'x')");
    for (size_t i = 0; i < sizeof finals / sizeof finals[0]; i++) {
        clawsync_error err = { 0 };

        s->between.kind = finals[i].kind;
        s->between.status = finals[i].status;
        s->between.requests = 0;
        assert_int_equal(push(s, &err), finals[i].code);
        assert_int_equal(s->between.requests, 1);
        assert_non_null(strstr(err.msg, "so it is said"));
        assert_int_equal(waiting(s), 1);
    }
}

/* A copy of a refused batch is taken before the one that was bound in its place. */
static void a_late_copy_is_adopted(void **state)
{
    static const char *const kinds[] = { "stale-epoch", "clock" }; /* bound anew; taken back and sealed anew */
    struct scene *s = *state;
    int64_t incarnation = incarnation_hash(s);
    clawsync_error err = { 0 };
    clawsync_status st = { .size = sizeof st };

    s->between.request = deliver_late;
    s->between.answer = drop_answers;
    s->between.status = CS_RPC_FAILED_PRECONDITION;
    for (int i = 0; i < 2; i++) {
        s->between.kind = kinds[i];
        s->between.refusals = 2; /* after the second by the clock stamps are made anew */
        app(&s->device, i == 0 ? "INSERT INTO memories VALUES('a', 'one')" : "UPDATE memories SET content = 'two'");
        ok(push(s, &err), &err);
        assert_int_equal(s->between.kept.len, 0);
        assert_int_equal(waiting(s), 0);
        assert_int_equal(number_in(&s->device, "SELECT count(*) FROM sync_unsent"), 0);
        assert_int_equal(number_in(&s->device, "SELECT count(*) FROM sync_conflicts"), 0);
    }
    assert_int_equal(log_length(s), 4); /* each came twice: the copy, and what was behind it */
    assert_int_equal(incarnation_hash(s), incarnation);
    app(&s->device, "INSERT INTO memories VALUES('b', 'x')");
    ok(clawsync_engine_sync_now(s->device.engine, NULL, &err), &err);
    ok(clawsync_engine_status(s->device.engine, &st, &err), &err);
    assert_int_equal(st.log_number, 5);
    hub_holds(s, "SELECT count(*) FROM memories WHERE (id, content) IN (VALUES('a', 'two'), ('b', 'x'))", 2);
}

/* The copy is taken when the device has given up for now: a pull finds it, and what waits goes behind it. */
static void a_late_copy_is_adopted_by_a_pull(void **state)
{
    struct scene *s = *state;
    int64_t incarnation = incarnation_hash(s);
    clawsync_error err = { 0 };

    s->between.request = deliver_last;
    s->between.answer = deny;
    s->between.kind = "stale-seen";
    s->between.status = CS_RPC_FAILED_PRECONDITION;
    s->between.refusals = 4;
    app(&s->device, "INSERT INTO memories VALUES('a', 'x')");
    assert_int_equal(push(s, &err), CLAWSYNC_EHUB);
    assert_int_equal(s->between.refusals, 0);
    assert_int_equal(log_length(s), 1);
    assert_int_equal(waiting(s), 1);
    s->between.request = NULL;
    ok(clawsync_engine_pull_now(s->device.engine, NULL, &err), &err);
    assert_int_equal(waiting(s), 0);
    app(&s->device, "UPDATE memories SET content = 'y'");
    ok(push(s, &err), &err);
    assert_int_equal(incarnation_hash(s), incarnation);
    hub_holds(s, "SELECT count(*) FROM memories WHERE content = 'y'", 1);
}

/* Refused, it is said, and yet in the log: the pull of the recovery finds the very batch that waits. */
static void a_refusal_that_was_none(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    s->between.answer = deny;
    s->between.refusals = 1;
    s->between.kind = "stale-seen";
    s->between.status = CS_RPC_FAILED_PRECONDITION;
    app(&s->device, "INSERT INTO memories VALUES('a', 'x')");
    ok(push(s, &err), &err);
    assert_int_equal(waiting(s), 0);
    assert_int_equal(log_length(s), 1);
}

/* What is acknowledged behind a refusal counts when all before it is: a number is never given twice. */
static void taken_behind_a_refusal(void **state)
{
    enum { ROUNDS = 20, ROWS = 4 };
    struct scene *s = *state;

    device_close(&s->device);
    s->device.config.max_delta_rows = 1;
    device_open(&s->device);
    s->between.answer = deny_two_of_three;
    s->between.kind = "storage";
    s->between.status = CS_RPC_UNAVAILABLE;
    for (int i = 0; i < ROUNDS; i++) {
        clawsync_error err = { 0 };
        char sql[120];

        for (int k = 0; k < ROWS; k++) {
            snprintf(sql, sizeof sql, "INSERT INTO memories VALUES('%d %d', 'x')", i, k);
            app(&s->device, sql);
        }
        s->between.refusals = 3;
        assert_int_equal(push(s, &err), CLAWSYNC_EUNAVAILABLE);
        assert_int_equal(number_in(&s->device, "SELECT count(*) FROM sync_bound WHERE state = 1 AND number > (SELECT "
                                               "min(number) FROM sync_bound WHERE state = 0)"),
                         0);
        s->between.refusals = 0;
        ok(push(s, &err), &err);
        assert_int_equal(waiting(s), 0);
        assert_int_equal(log_length(s), (i + 1) * ROWS);
    }
    hub_holds(s, "SELECT count(*) FROM memories", ROUNDS * ROWS);
}

/* ---- announced heads ---- */

static bool forge_heads(struct between *b, struct relay *r, struct cs_slice m)
{
    Clawsync__V1__WatchResponse *w;
    uint8_t bytes[400];

    (void)b;
    if (!is_method(r, "Watch"))
        return true;
    w = clawsync__v1__watch_response__unpack(NULL, m.len, m.data);
    assert_non_null(w);
    memset(w->head->signed_bytes.data, 0xff, w->head->signed_bytes.len);
    assert_true(clawsync__v1__watch_response__get_packed_size(w) <= sizeof bytes);
    cs_rpc_call_send(r->device, cs_slice(bytes, clawsync__v1__watch_response__pack(w, bytes)));
    clawsync__v1__watch_response__free_unpacked(w, NULL);
    b->dropped++;
    return false;
}

struct heard {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned pulls, errors;
};

static void hear(void *arg, const clawsync_event *ev)
{
    struct heard *h = arg;

    pthread_mutex_lock(&h->lock);
    h->pulls += ev->type == CLAWSYNC_EVENT_PULL_COMPLETED;
    h->errors += ev->type == CLAWSYNC_EVENT_SYNC_ERROR || ev->type == CLAWSYNC_EVENT_DISCONNECTED;
    pthread_cond_broadcast(&h->cond);
    pthread_mutex_unlock(&h->lock);
}

static void a_forged_announcement_costs_a_pull(void **state)
{
    struct heard h = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };
    clawsync_status st = { .size = sizeof st };
    clawsync_error err = { 0 };
    struct scene *s = *state;

    s->between.answer = forge_heads;
    ok(clawsync_engine_subscribe(s->device.engine, hear, &h, &err), &err);
    ok(clawsync_engine_start(s->device.engine, &err), &err);
    pthread_mutex_lock(&h.lock);
    while (h.pulls < 2) /* the first is the beginning's, the second the announcement's */
        pthread_cond_wait(&h.cond, &h.lock);
    pthread_mutex_unlock(&h.lock);
    ok(clawsync_engine_stop(s->device.engine, &err), &err);
    ok(clawsync_engine_status(s->device.engine, &st, &err), &err);
    assert_int_equal(h.errors, 0);
    assert_int_equal(st.last_error.code, CLAWSYNC_OK);
    assert_int_equal(st.hub_log_number, 0);
}

int main(void)
{
#define IN_SCENE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest t[] = {
        IN_SCENE(bound_anew_and_taken),
        IN_SCENE(several_in_flight_are_bound_anew_in_order),
        IN_SCENE(a_key_that_changes_again_and_again),
        IN_SCENE(a_copy_that_is_faster_again_and_again),
        IN_SCENE(given_up_after_three_tries_and_kept),
        IN_SCENE(a_clock_that_stays_wrong_is_told),
        IN_SCENE(other_refusals_are_final),
        IN_SCENE(a_late_copy_is_adopted),
        IN_SCENE(a_late_copy_is_adopted_by_a_pull),
        IN_SCENE(a_refusal_that_was_none),
        IN_SCENE(taken_behind_a_refusal),
        IN_SCENE(a_forged_announcement_costs_a_pull),
    };

    return cmocka_run_group_tests_name("refused batches", t, NULL, NULL);
}
