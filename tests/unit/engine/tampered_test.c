/* Envelopes that are changed between the hub and a device: the hub has signed another log than the one that comes. */
#include "unit/engine/between_fixture.h"

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);";

struct scene {
    struct between between;
    struct device a, b;
    unsigned blamed; /* findings about a device */
};

static void on_event(void *arg, const clawsync_event *ev)
{
    struct scene *s = arg;

    s->blamed += ev->type == CLAWSYNC_EVENT_SYNC_ERROR && ev->error.code == CLAWSYNC_ECORRUPT;
}

/* a has sent three batches, of which b has none. */
static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    clawsync_error err = { 0 };

    assert_non_null(s);
    between_init(&s->between);
    device_enter(&s->a, schema, s->between.endpoint, NULL, on_event, s);
    device_enter(&s->b, schema, s->between.endpoint, &s->a, on_event, s);
    ok(clawsync_engine_sync_now(s->a.engine, NULL, &err), &err);
    for (int i = 0; i < 3; i++) {
        char sql[80];

        snprintf(sql, sizeof sql, "INSERT INTO memories VALUES('%d', 'x')", i);
        app(&s->a, sql);
        ok(clawsync_engine_push_now(s->a.engine, NULL, &err), &err);
    }
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    device_fini(&s->a);
    device_fini(&s->b);
    between_fini(&s->between);
    free(s);
    return 0;
}

/* ---- what is changed ---- */

static const struct change {
    const char *finding;
    size_t at; /* in the header */
} changes[] = {
    { "BAD_HEADER", 7 },       /* reserved */
    { "BAD_HEADER", 55 },      /* how many chunks */
    { "NOT_A_MEMBER", 24 },    /* device */
    { "BAD_SIGNATURE", 63 },   /* number */
    { "BAD_SIGNATURE", 64 },   /* prev */
    { "BAD_SIGNATURE", 207 },  /* audit head */
    { "BAD_HEADER", SIZE_MAX } /* a byte less */
};
enum { NCHANGES = sizeof changes / sizeof changes[0] };

static const uint64_t number = 2; /* of the log, which has three */

static bool change(struct between *b, struct relay *r, struct cs_slice m)
{
    const struct change *c = &changes[b->status];
    Clawsync__V1__PullResponse *p;
    struct cs_buf again = { 0 };

    if (!is_method(r, "Pull") || b->refusals == 0)
        return true;
    p = clawsync__v1__pull_response__unpack(NULL, m.len, m.data);
    assert_non_null(p);
    for (size_t i = 0; i < p->n_chunks; i++) {
        Clawsync__V1__Envelope *env = p->chunks[i]->envelope;

        if (env == NULL || env->log_number != number)
            continue;
        b->refusals--;
        if (c->at == SIZE_MAX)
            env->header.len--;
        else
            env->header.data[c->at] ^= 1;
    }
    clawsync__v1__pull_response__pack(p, cs_buf_grow(&again, clawsync__v1__pull_response__get_packed_size(p)));
    cs_rpc_call_send(r->device, cs_buf_slice(&again));
    clawsync__v1__pull_response__free_unpacked(p, NULL);
    cs_buf_free(&again);
    return false;
}

static void has_all(struct scene *s)
{
    assert_int_equal(number_in(&s->b, "SELECT count(*) FROM memories"), 3);
    assert_int_equal(number_in(&s->b, "SELECT count(*) FROM sync_meta WHERE name GLOB 'engine.aside.*'"), 0);
    assert_int_equal(s->blamed, 0);
}

/* It is fetched once more. */
static void changed_once(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    s->between.answer = change;
    s->between.refusals = 1;
    ok(clawsync_engine_pull_now(s->b.engine, NULL, &err), &err);
    assert_int_equal(s->between.refusals, 0);
    has_all(s);
}

/* The hub is named, not the batch's device, and the position stays before it: when the true batch comes, all goes on.
 */
static void changed_for_good(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    s->between.answer = change;
    for (s->between.status = 0; s->between.status < NCHANGES; s->between.status++) {
        s->between.refusals = 1000;
        assert_int_equal(clawsync_engine_pull_now(s->b.engine, NULL, &err), CLAWSYNC_EHUB);
        if (strstr(err.msg, "HUB_FORK") == NULL || strstr(err.msg, changes[s->between.status].finding) == NULL)
            fail_msg("%s, of %s", err.msg, changes[s->between.status].finding);
        assert_int_equal(s->between.refusals, 998);
        assert_int_equal(number_in(&s->b, "SELECT count(*) FROM memories"), 1);
        assert_int_equal(s->blamed, 0);
    }
    s->between.refusals = 0;
    ok(clawsync_engine_pull_now(s->b.engine, NULL, &err), &err);
    has_all(s);
}

/* ---- what the audit log has of it ---- */

static int64_t rows_about_the_hub(const struct device *d)
{
    struct device log = *d;

    snprintf(log.db, sizeof log.db, "%.80s/audit.db", d->data);
    return number_in(&log, "SELECT count(*) FROM sync_audit_log WHERE event_type = 'HUB_MISBEHAVED'");
}

/* Two findings that take turns are two rows, in one run and in the next. */
static void findings_that_alternate(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    s->between.answer = change;
    for (int run = 0; run < 2; run++) {
        for (int i = 0; i < 6; i++) {
            s->between.refusals = 1000;
            s->between.status = i % 2 == 0 ? 0 : 3;
            assert_int_equal(clawsync_engine_pull_now(s->b.engine, NULL, &err), CLAWSYNC_EHUB);
        }
        assert_int_equal(rows_about_the_hub(&s->b), 2);
        device_close(&s->b);
        device_open(&s->b);
    }
}

/* One that comes again after the device went on is news. */
static void findings_that_come_again(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    s->between.answer = change;
    for (int i = 0; i < 2; i++) {
        s->between.refusals = 1000;
        assert_int_equal(clawsync_engine_pull_now(s->b.engine, NULL, &err), CLAWSYNC_EHUB);
        assert_int_equal(rows_about_the_hub(&s->b), i + 1);
        app(&s->b, "INSERT INTO memories VALUES(hex(randomblob(8)), 'x')");
        ok(clawsync_engine_push_now(s->b.engine, NULL, &err), &err);
        device_close(&s->b);
        device_open(&s->b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(changed_once, setup, teardown),
        cmocka_unit_test_setup_teardown(changed_for_good, setup, teardown),
        cmocka_unit_test_setup_teardown(findings_that_alternate, setup, teardown),
        cmocka_unit_test_setup_teardown(findings_that_come_again, setup, teardown),
    };

    return cmocka_run_group_tests_name("envelopes that are changed on the way", tests, NULL, NULL);
}
