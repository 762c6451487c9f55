/* The queue of an engine: a hub that is away, batches that it refuses for good, retries, and a death at every write. */
#include "fixtures/fault_vfs.h"
#include "unit/engine/between_fixture.h"

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);";

struct scene {
    struct between between;
    struct device device;
    uint64_t offline_events, queued, aside_events;
};

static void on_event(void *arg, const clawsync_event *ev)
{
    struct scene *s = arg;

    if (ev->type == CLAWSYNC_EVENT_OFFLINE_QUEUED) {
        s->offline_events++;
        s->queued = ev->count;
    }
    s->aside_events += ev->type == CLAWSYNC_EVENT_SYNC_ERROR && strcmp(ev->name, "SET_ASIDE") == 0;
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
    s->device.config.max_delta_rows = 10;
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

static int push(struct scene *s, clawsync_error *err)
{
    return clawsync_engine_push_now(s->device.engine, NULL, err);
}

static int64_t queue_has(const struct scene *s, const char *state)
{
    struct device file = { 0 };
    char sql[100];

    snprintf(file.db, sizeof file.db, "%.80s/queue.db", s->device.data);
    snprintf(sql, sizeof sql, "SELECT count(*) FROM sync_queue WHERE state = '%s'", state);
    return number_in(&file, sql);
}

static int64_t log_length(const struct scene *s)
{
    return in_hub(&s->between.hub, "SELECT count(*) FROM log");
}

static int64_t waiting(const struct scene *s)
{
    return number_in(&s->device, "SELECT count(*) FROM sync_bound WHERE state = 0");
}

static void write_rows(struct scene *s, int from, int to)
{
    char sql[200];

    snprintf(sql, sizeof sql,
             "WITH RECURSIVE n(i) AS (SELECT %d UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO memories "
             "SELECT i, 'x' || i FROM n",
             from, to);
    app(&s->device, sql);
}

/* What a database of this device shows that begins with nothing. */
static int64_t hub_rows(struct scene *s)
{
    clawsync_error err = { 0 };

    device_close(&s->device);
    app(&s->device, "PRAGMA journal_mode=DELETE");
    assert_int_equal(unlink(s->device.db), 0);
    app(&s->device, schema);
    open_device(s);
    ok(clawsync_engine_pull_now(s->device.engine, NULL, &err), &err);
    return number_in(&s->device, "SELECT count(*) FROM memories");
}

/* ---- away ---- */

/* The call ends when it has brought something, as when the hub dies: it took nothing of it. */
static bool end_push(struct between *b, struct relay *r, struct cs_slice m)
{
    (void)m;
    if (!is_method(r, "Push") || b->refusals == 0)
        return true;
    cs_rpc_call_finish(r->device, CS_RPC_UNAVAILABLE, "gone", NULL);
    return false;
}

static void what_is_bound_is_queued_and_drains(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    write_rows(s, 1, 45);
    s->between.request = end_push;
    s->between.refusals = 1;
    for (uint64_t i = 1; i <= 2; i++) { /* the same, however often it is tried */
        assert_int_equal(push(s, &err), CLAWSYNC_EUNAVAILABLE);
        assert_int_equal(s->offline_events, i);
        assert_int_equal(s->queued, 45);
        assert_true(waiting(s) > 0);
        assert_int_equal(queue_has(s, "pending"), waiting(s));
    }
    /* edits made meanwhile coalesce, and do not go to the queue */
    app(&s->device, "INSERT INTO memories VALUES('new', '0')");
    for (int i = 0; i < 50; i++)
        app(&s->device, "UPDATE memories SET content = content + 1 WHERE id = 'new'");
    assert_int_equal(push(s, &err), CLAWSYNC_EUNAVAILABLE);
    assert_true(s->queued >= 46); /* more, as long as the edits of the one row are not sealed */
    assert_int_equal(queue_has(s, "pending"), waiting(s));
    s->between.refusals = 0;
    ok(push(s, &err), &err);
    assert_int_equal(waiting(s), 0);
    assert_int_equal(queue_has(s, "pending") + queue_has(s, "in_flight") + queue_has(s, "failed"), 0);
    assert_true(queue_has(s, "done") > 0);
    assert_int_equal(log_length(s), 5); /* nothing came twice */
    assert_int_equal(hub_rows(s), 46);
}

/* The hub took them, and nobody heard of it. */
static bool end_answers(struct between *b, struct relay *r, struct cs_slice m)
{
    (void)m;
    if (!is_method(r, "Push") || b->refusals == 0)
        return true;
    cs_rpc_call_finish(r->device, CS_RPC_UNAVAILABLE, "gone", NULL);
    return false;
}

static void what_the_hub_has_already_is_not_sent_again(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    write_rows(s, 1, 30);
    s->between.answer = end_answers;
    s->between.refusals = 1;
    assert_int_equal(push(s, &err), CLAWSYNC_EUNAVAILABLE);
    assert_true(queue_has(s, "pending") > 0);
    device_close(&s->device); /* and it is all known to the next life */
    open_device(s);
    s->between.refusals = 0;
    ok(clawsync_engine_pull_now(s->device.engine, NULL, &err), &err);
    ok(push(s, &err), &err);
    assert_int_equal(queue_has(s, "pending") + queue_has(s, "in_flight"), 0);
    assert_int_equal(log_length(s), 3);
    assert_int_equal(hub_rows(s), 30);
}

/* ---- refused for good ---- */

static void say_malformed(struct relay *r)
{
    Clawsync__V1__PushResponse no = CLAWSYNC__V1__PUSH_RESPONSE__INIT;
    char kind[] = "malformed", reason[] = "so it is said";

    no.status = CS_RPC_INVALID_ARGUMENT;
    no.kind = kind;
    no.reason = reason;
    relay_forge(r, &no);
}

/* The hub's thread alone counts; the test gives it orders for the next Push call. */
enum { EVERY = 1 << 16 };

static void take_orders(struct between *b, const struct relay *r)
{
    if (!is_method(r, "Push"))
        return;
    b->current = r;
    b->nth = b->orders;
    if (b->nth < EVERY)
        b->orders = 0;
    b->requests = b->answers = 0;
    b->owed = false;
}

/* One batch is refused, and those behind it are out of order then. Answers come in order, as a hub's do. */
static bool refuse_nth(struct between *b, struct relay *r, struct cs_slice m)
{
    unsigned nth = b->nth % EVERY;

    (void)m;
    if (!is_method(r, "Push") || r != b->current || nth == 0 || ++b->requests < nth ||
        (b->requests > nth && b->nth < EVERY))
        return true;
    if (b->answers == nth - 1)
        say_malformed(r);
    else
        b->owed = true;
    return false;
}

static bool answer_in_order(struct between *b, struct relay *r, struct cs_slice m)
{
    if (!is_method(r, "Push") || r != b->current || b->nth == 0)
        return true;
    cs_rpc_call_send(r->device, m);
    if (++b->answers == b->nth % EVERY - 1 && b->owed) {
        b->owed = false;
        say_malformed(r);
    }
    return false;
}

static void may_refuse(struct scene *s)
{
    s->between.starting = take_orders;
    s->between.request = refuse_nth;
    s->between.answer = answer_in_order;
}

static void collect(void *arg, const clawsync_queue_entry *e)
{
    char *line = arg;

    if (strcmp(e->state, "done") != 0)
        snprintf(line, 400, "%s %d %s %s", e->state, (int)e->operations, e->id, e->reason);
}

static void a_refused_set_is_put_aside_and_the_rest_flows(void **state)
{
    clawsync_status st = { .size = sizeof st };
    struct scene *s = *state;
    clawsync_error err = { 0 };
    char line[400] = "", id[33];
    uint64_t n;

    write_rows(s, 1, 100);
    may_refuse(s);
    s->between.orders = 3;
    ok(push(s, &err), &err);
    assert_int_equal(s->aside_events, 1);
    assert_int_equal(waiting(s), 0);
    assert_int_equal(log_length(s), 9);
    ok(clawsync_engine_status(s->device.engine, &st, &err), &err);
    assert_int_equal(st.unsent, 0);
    ok(clawsync_queue_list(&s->device.config, collect, line, &err), &err);
    assert_int_equal(sscanf(line, "failed 10 %32s so it is said (malformed)", id), 1);
    assert_int_equal(number_in(&s->device, "SELECT count(*) FROM memories"), 100); /* the user still has them */

    assert_int_equal(clawsync_queue_retry(&s->device.config, "nonsense", NULL, &err), CLAWSYNC_ENOTFOUND);
    id[6] = '\0';
    ok(clawsync_queue_retry(&s->device.config, id, &n, &err), &err);
    assert_int_equal(n, 1);
    ok(push(s, &err), &err);
    assert_int_equal(log_length(s), 10);
    assert_int_equal(queue_has(s, "failed") + queue_has(s, "pending"), 0);
    assert_int_equal(hub_rows(s), 100);
}

/* A database restored from an older copy, or lost, does not have what was put aside; the queue does. */
static void a_lost_database_gets_it_back(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };
    uint64_t n;

    write_rows(s, 1, 30);
    may_refuse(s);
    s->between.orders = 3;
    ok(push(s, &err), &err);
    assert_int_equal(hub_rows(s), 20);
    ok(clawsync_queue_retry(&s->device.config, NULL, &n, &err), &err);
    ok(push(s, &err), &err);
    assert_int_equal(number_in(&s->device, "SELECT count(*) FROM memories"), 30);
    assert_int_equal(hub_rows(s), 30);
}

/* What was edited since goes as it is now; the set brings nothing old back. */
/* The hub took a batch that the database does not know, and the queue alone has what was bound behind it. */
static void a_restored_database_gets_it_back(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };
    char command[600], backup[SCRATCH_LEN + 32];

    write_rows(s, 1, 1);
    ok(push(s, &err), &err);
    device_close(&s->device);
    snprintf(backup, sizeof backup, "%s/backup.db", s->device.dir);
    snprintf(command, sizeof command, "cp %s %s", s->device.db, backup);
    assert_int_equal(system(command), 0);
    open_device(s);
    write_rows(s, 2, 2);
    ok(push(s, &err), &err);
    write_rows(s, 3, 3);
    s->between.request = end_push;
    s->between.refusals = 1;
    assert_int_equal(push(s, &err), CLAWSYNC_EUNAVAILABLE);
    assert_int_equal(queue_has(s, "pending"), 1);
    device_close(&s->device);
    s->between.refusals = 0;
    snprintf(command, sizeof command, "rm -f %s-wal %s-shm && cp %s %s", s->device.db, s->device.db, backup,
             s->device.db);
    assert_int_equal(system(command), 0);
    open_device(s);
    ok(clawsync_engine_sync_now(s->device.engine, NULL, &err), &err);
    assert_int_equal(number_in(&s->device, "SELECT count(*) FROM memories"), 3);
    assert_int_equal(queue_has(s, "pending"), 0);
    assert_int_equal(hub_rows(s), 3);
}

static void retried_behind_newer_edits(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    write_rows(s, 1, 30);
    may_refuse(s);
    s->between.orders = 3;
    ok(push(s, &err), &err);
    app(&s->device, "UPDATE memories SET content = 'newer'; DELETE FROM memories WHERE id IN (1, 30)");
    ok(push(s, &err), &err);
    ok(clawsync_queue_retry(&s->device.config, NULL, NULL, &err), &err);
    ok(push(s, &err), &err);
    assert_int_equal(number_in(&s->device, "SELECT count(*) FROM memories WHERE content = 'newer'"), 28);
    assert_int_equal(hub_rows(s), 28);
    assert_int_equal(number_in(&s->device, "SELECT count(*) FROM memories WHERE content = 'newer'"), 28);
}

static void a_hub_that_refuses_everything_is_stopped_for(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    device_close(&s->device);
    s->device.config.max_delta_rows = 1;
    open_device(s);
    write_rows(s, 1, 80);
    may_refuse(s);
    s->between.orders = EVERY + 1;
    assert_int_equal(push(s, &err), CLAWSYNC_EINTERNAL);
    assert_non_null(strstr(err.msg, "claw-sync queue list"));
    assert_int_equal(queue_has(s, "failed"), 64);
    s->between.orders = 0;
    ok(push(s, &err), &err);
    ok(clawsync_queue_retry(&s->device.config, NULL, NULL, &err), &err);
    ok(push(s, &err), &err);
    assert_int_equal(hub_rows(s), 80);
}

/* ---- a death at every write of the device ---- */

static void a_death_at_every_write_of_a_refusal(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };
    int deaths = 0, rows = 0;
    bool done = false;

    device_close(&s->device);
    s->device.config.max_delta_rows = 1;
    may_refuse(s);
    fault_vfs_install();
    fault_only = s->device.dir;
    open_device(s);
    for (long n = 0; !done; n++) {
        int rc;

        write_rows(s, rows + 1, rows + 4);
        rows += 4;
        s->between.orders = n % 2 == 0 ? 1 : 3;
        fault_after = n;
        rc = push(s, &err);
        done = rc == CLAWSYNC_OK && fault_after > 0;
        deaths += rc != CLAWSYNC_OK;
        device_close(&s->device); /* it writes nothing any more */
        fault_after = -1;
        s->between.orders = 0;
        open_device(s);
        ok(push(s, &err), &err);
        clawsync_queue_retry(&s->device.config, NULL, NULL, &err);
        ok(push(s, &err), &err);
        assert_int_equal(waiting(s), 0);
        assert_int_equal(queue_has(s, "pending") + queue_has(s, "in_flight") + queue_has(s, "failed"), 0);
    }
    assert_true(deaths > 20);
    device_close(&s->device);
    sqlite3_vfs_unregister(&fault_vfs);
    open_device(s);
    assert_int_equal(hub_rows(s), rows);
}

int main(void)
{
#define IN_SCENE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest t[] = {
        IN_SCENE(what_is_bound_is_queued_and_drains),
        IN_SCENE(what_the_hub_has_already_is_not_sent_again),
        IN_SCENE(a_refused_set_is_put_aside_and_the_rest_flows),
        IN_SCENE(a_lost_database_gets_it_back),
        IN_SCENE(a_restored_database_gets_it_back),
        IN_SCENE(retried_behind_newer_edits),
        IN_SCENE(a_hub_that_refuses_everything_is_stopped_for),
        IN_SCENE(a_death_at_every_write_of_a_refusal),
    };

    return cmocka_run_group_tests_name("offline", t, NULL, NULL);
}
