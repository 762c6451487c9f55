/* Opening an engine: what it says, and to whom. */
#include "unit/engine/hub_fixture.h"

#include <pthread.h>

#include "replica/replica.h"

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);"
                             "CREATE TABLE tool_outputs(x);"; /* usual, and without a key */

static void success_leaves_no_message(void **state)
{
    struct device d;
    clawsync_error err;

    (void)state;
    device_init(&d, schema);
    memset(&err, 'x', sizeof err);
    assert_int_equal(clawsync_engine_open(&d.engine, &d.config, &err), CLAWSYNC_OK);
    assert_int_equal(err.code, CLAWSYNC_OK);
    assert_string_equal(err.msg, "");
    device_fini(&d);
}

static void failure_says_why_or_nothing(void **state)
{
    struct device d;
    clawsync_error err = { 0 };

    (void)state;
    device_init(&d, schema);
    d.config.db_path = "/nowhere/app.db";
    assert_int_equal(clawsync_engine_open(&d.engine, &d.config, &err), CLAWSYNC_ENOTFOUND);
    assert_int_equal(err.code, CLAWSYNC_ENOTFOUND);
    assert_non_null(strstr(err.msg, "/nowhere/app.db"));
    assert_null(d.engine);
    assert_int_equal(clawsync_engine_open(&d.engine, &d.config, NULL), CLAWSYNC_ENOTFOUND);
    device_fini(&d);
}

/* ---- warnings ---- */

struct heard {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    size_t n;
    char text[2000];
};

static void hear(void *arg, const clawsync_event *ev)
{
    struct heard *h = arg;
    size_t len;

    if (ev->type != CLAWSYNC_EVENT_WARNING)
        return;
    pthread_mutex_lock(&h->lock);
    len = strlen(h->text);
    snprintf(h->text + len, sizeof h->text - len, "%s\n", ev->error.msg);
    h->n++;
    pthread_cond_broadcast(&h->cond);
    pthread_mutex_unlock(&h->lock);
}

static void await(struct heard *h, size_t n)
{
    pthread_mutex_lock(&h->lock);
    while (h->n < n)
        pthread_cond_wait(&h->cond, &h->lock);
    pthread_mutex_unlock(&h->lock);
}

static void what_opening_found_comes_to_every_subscriber_once(void **state)
{
    struct heard first = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };
    struct heard second = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };
    clawsync_error err = { 0 };
    struct device d;

    (void)state;
    device_init(&d, schema);
    d.config.tables = " nowhere , memories";
    device_open(&d);
    ok(clawsync_engine_subscribe(d.engine, hear, &first, &err), &err);
    await(&first, 2);
    assert_non_null(strstr(first.text, "tool_outputs"));
    assert_non_null(strstr(first.text, "primary key"));
    assert_non_null(strstr(first.text, "nowhere"));
    ok(clawsync_engine_subscribe(d.engine, hear, &second, &err), &err);
    await(&second, 2);
    ok(clawsync_engine_pause(d.engine, "memories", &err), &err); /* whatever waited has been told by now */
    assert_int_equal(first.n, 2);
    assert_string_equal(first.text, second.text);
    device_fini(&d);
}

static void plain_text_stays_on_this_machine(void **state)
{
    static const char *const local[] = { "http://localhost:9", "http://127.9.9.9:9", "http://[::1]:9" };
    static const char *const elsewhere[] = { "http://127.hub.example:9", "http://192.0.2.1:9", "http://[2001:db8::1]:9",
                                             "http://localhost.example:9" };
    struct heard h = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };
    clawsync_error err = { 0 };
    struct device d;

    (void)state;
    device_init(&d, schema);
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++) {
        d.config.hub_endpoint = local[i];
        device_open(&d);
        device_close(&d);
    }
    for (size_t i = 0; i < sizeof elsewhere / sizeof elsewhere[0]; i++) {
        d.config.hub_endpoint = elsewhere[i];
        assert_int_equal(clawsync_engine_open(&d.engine, &d.config, &err), CLAWSYNC_EINVAL);
        assert_non_null(strstr(err.msg, "CLAW_ALLOW_PLAINTEXT=1"));
        assert_null(d.engine);
    }
    d.config.tls_enabled = 1;
    device_open(&d);
    device_close(&d);
    d.config.tls_enabled = 0;
    d.config.allow_plaintext = 1;
    device_open(&d);
    ok(clawsync_engine_subscribe(d.engine, hear, &h, &err), &err);
    await(&h, 1);
    assert_non_null(strstr(h.text, "no TLS"));
    device_fini(&d);
}

/* A person untracked the last table beside it: it does not begin anew by itself, and follows when one is tracked. */
static void all_is_untracked_beside_it(void **state)
{
    struct cs_replica_options o = { 0 };
    struct cs_error e = { 0 };
    struct hub hub = { 0 };
    struct device d;
    clawsync_error err = { 0 };
    cs_replica *r;

    (void)state;
    hub_init(&hub);
    device_enter(&d, "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT)", hub.endpoint, NULL, NULL, NULL);
    o.path = d.db;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(cs_replica_open(&r, cs_world_real(), &o, &e), CS_OK);
        assert_int_equal(cs_replica_untrack(r, "memories", &e), CS_OK);
        app(&d, "INSERT INTO memories VALUES(random(), 'nobody looks')");
        assert_int_equal(clawsync_engine_sync_now(d.engine, NULL, &err), CLAWSYNC_ENOTFOUND);
        assert_non_null(strstr(err.msg, "no table of this database is tracked any more"));
        assert_int_equal(number_in(&d, "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%sync%'"), 0);
        assert_int_equal(cs_replica_track(r, "memories", NULL, &e), CS_OK);
        cs_replica_close(r);
        ok(clawsync_engine_sync_now(d.engine, NULL, &err), &err);
        assert_int_equal(number_in(&d, "SELECT count(*) FROM sync_rows"), i + 1);
    }
    device_fini(&d);
    hub_fini(&hub);
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(success_leaves_no_message),
        cmocka_unit_test(failure_says_why_or_nothing),
        cmocka_unit_test(what_opening_found_comes_to_every_subscriber_once),
        cmocka_unit_test(plain_text_stays_on_this_machine),
        cmocka_unit_test(all_is_untracked_beside_it),
    };

    return cmocka_run_group_tests_name("opening an engine", t, NULL, NULL);
}
