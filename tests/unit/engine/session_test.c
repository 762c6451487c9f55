/* What a device believes of the hub: what its session proves, and nothing else. */
#include "unit/engine/between_fixture.h"

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);";

struct scene {
    struct between between;
    struct device device;
};

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    clawsync_error err = { 0 };

    assert_non_null(s);
    between_init(&s->between);
    device_init(&s->device, schema);
    s->device.config.hub_endpoint = s->between.endpoint;
    device_open(&s->device);
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

static int64_t waiting(const struct scene *s)
{
    return number_in(&s->device, "SELECT count(*) FROM sync_bound WHERE state = 0");
}

/* ---- what the one between does ---- */

/* Before its next call the hub has forgotten the device's session: every one of them. */
static void forget(struct between *b, const struct relay *r)
{
    struct cs_sessions *fresh;

    if (b->refusals == 0 || is_method(r, "OpenSession"))
        return;
    b->refusals--;
    assert_int_equal(cs_sessions_new(b->hub.hub, &fresh), CS_OK);
    cs_sessions_free(b->hub.hub->sessions);
    b->hub.hub->sessions = fresh;
}

static bool count_openings(struct between *b, struct relay *r, struct cs_slice m)
{
    (void)m;
    if (is_method(r, "OpenSession"))
        b->requests++;
    return true;
}

/* The answer is changed, and keeps its MAC. */
static bool change_push(struct between *b, struct relay *r, struct cs_slice m)
{
    Clawsync__V1__PushResponse *a;
    uint8_t bytes[2000];

    if (!is_method(r, "Push") || b->refusals == 0)
        return true;
    b->refusals--;
    a = clawsync__v1__push_response__unpack(NULL, m.len, m.data);
    assert_non_null(a);
    if (b->status == 0)
        a->log_number++;
    else if (b->status == 1)
        a->accepted = false;
    else
        a->mac.data[b->status % 32] ^= 1;
    assert_true(clawsync__v1__push_response__get_packed_size(a) <= sizeof bytes);
    cs_rpc_call_send(r->device, cs_slice(bytes, clawsync__v1__push_response__pack(a, bytes)));
    clawsync__v1__push_response__free_unpacked(a, NULL);
    return false;
}

/* Somebody on the way says no in the hub's name. */
static bool say_no(struct between *b, struct relay *r, struct cs_slice m)
{
    (void)m;
    if (b->refusals == 0 || is_method(r, "OpenSession"))
        return true;
    b->refusals--;
    cs_rpc_call_finish(r->device, b->status, "you were removed", NULL);
    return false;
}

/* ---- tests ---- */

static void changed_acknowledgements_are_none(void **state)
{
    struct scene *s = *state;

    s->between.answer = change_push;
    for (s->between.status = 0; s->between.status < 4; s->between.status++) {
        clawsync_error err = { 0 };
        char sql[80];

        snprintf(sql, sizeof sql, "INSERT INTO memories VALUES('%d', 'x')", s->between.status);
        app(&s->device, sql);
        s->between.refusals = 1;
        assert_int_equal(clawsync_engine_push_now(s->device.engine, NULL, &err), CLAWSYNC_EUNAVAILABLE);
        assert_non_null(strstr(err.msg, "no valid proof"));
        assert_int_equal(waiting(s), 1);
        ok(clawsync_engine_push_now(s->device.engine, NULL, &err), &err); /* a duplicate: accepted again */
        assert_int_equal(waiting(s), 0);
    }
}

static void refusals_of_others_are_lost_connections(void **state)
{
    struct scene *s = *state;

    s->between.request = say_no;
    app(&s->device, "INSERT INTO memories VALUES('a', 'x')");
    for (int status = CS_RPC_OK; status <= CS_RPC_UNAUTHENTICATED; status++) {
        bool transport = status == CS_RPC_CANCELLED || status == CS_RPC_DEADLINE_EXCEEDED; /* as it ends by itself */
        clawsync_error err = { 0 };
        int rc;

        s->between.status = status;
        s->between.refusals = 1;
        rc = clawsync_engine_sync_now(s->device.engine, NULL, &err);
        assert_int_equal(s->between.refusals, 0);
        if (!transport)
            assert_int_equal(rc, status == CS_RPC_OK ? CLAWSYNC_EHUB : CLAWSYNC_EUNAVAILABLE);
        else
            assert_true(rc == CLAWSYNC_ECANCELED || rc == CLAWSYNC_ETIMEDOUT);
        if (!transport && status != CS_RPC_OK && status != CS_RPC_UNAVAILABLE)
            assert_non_null(strstr(err.msg, "no proof"));
        assert_int_equal(waiting(s), 0);
    }
    assert_int_equal(clawsync_engine_sync_now(s->device.engine, NULL, NULL), CLAWSYNC_OK);
    assert_int_equal(waiting(s), 0);
}

/* The hub forgets, as it does with whoever was silent for long: calls go on as if nothing had been. */
static void a_forgotten_session_is_opened_anew(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    s->between.request = count_openings;
    s->between.starting = forget;
    for (unsigned i = 1; i <= 3; i++) {
        char sql[80];

        snprintf(sql, sizeof sql, "INSERT INTO memories VALUES('%u', 'x')", i);
        app(&s->device, sql);
        s->between.refusals = 1;
        if (i == 1)
            ok(clawsync_engine_pull_now(s->device.engine, NULL, &err), &err);
        else if (i == 2)
            ok(clawsync_engine_push_now(s->device.engine, NULL, &err), &err);
        ok(clawsync_engine_sync_now(s->device.engine, NULL, &err), &err);
        assert_int_equal(s->between.refusals, 0);
        assert_int_equal(s->between.requests, i);
        assert_int_equal(waiting(s), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(changed_acknowledgements_are_none, setup, teardown),
        cmocka_unit_test_setup_teardown(refusals_of_others_are_lost_connections, setup, teardown),
        cmocka_unit_test_setup_teardown(a_forgotten_session_is_opened_anew, setup, teardown),
    };

    return cmocka_run_group_tests_name("the device's session", tests, NULL, NULL);
}
