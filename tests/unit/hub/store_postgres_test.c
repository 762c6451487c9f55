/* The store contract on PostgreSQL, and what is PostgreSQL's own. */
#include "unit/hub/store_suite.h"

#include <sys/stat.h>

#include "unit/hub/pg_proxy.h"
#include "unit/hub/postgres_scene.h"

static void fresh(char place[256])
{
    scene_database(place);
}
static int open_at(struct cs_store *out, const char *place, struct cs_error *err)
{
    struct cs_store_postgres_options o = { .url = place, .connections = 8 };

    return cs_store_postgres_open(out, cs_world_real(), &o, err);
}
static void destroy(const char *place)
{
    (void)place; /* the server goes as a whole */
}
const struct store_kind store_under_test = { fresh, open_at, destroy };

/* The newest database, past any pooler. */
static void sql(const char *text, char out[128])
{
    char database[16];

    snprintf(database, sizeof database, "t%u", scene.ndatabases);
    scene_sql("super", database, text, out);
}

static void newer_schema_is_refused(void **state)
{
    struct suite *s = *state;
    struct cs_store other;
    struct cs_error err = { 0 };

    sql("UPDATE claw_sync.version SET version = 99", NULL);
    assert_int_equal(open_at(&other, s->place, &err), CS_EVERSION);
    assert_non_null(strstr(err.msg, "newer hub (schema 99"));
    assert_null(other.ops);
}

static void nobody_there(void **state)
{
    struct cs_store other;
    struct cs_error err = { 0 };

    (void)state;
    assert_int_equal(open_at(&other, "postgresql://u:hidden@/d?host=/nowhere", &err), CS_EUNAVAILABLE);
    assert_non_null(strstr(err.msg, "postgresql://u:***@/nowhere/d"));
    assert_null(strstr(err.msg, "hidden"));
    assert_int_equal(open_at(&other, "postgresql://u:hidden@[h/d", &err), CS_EINVAL);
    assert_null(strstr(err.msg, "hidden"));
}

/* Processes that start at once on an empty database: one makes the tables. */
static void nodes_start_at_once(void **state)
{
    enum { NODES = 8 };
    char place[256], n[128];
    pid_t node[NODES];
    int status;

    (void)state;
    scene_database(place);
    for (int i = 0; i < NODES; i++)
        if ((node[i] = fork()) == 0) {
            struct cs_store store;
            struct cs_error err = { 0 };
            int rc = open_at(&store, place, &err);

            if (rc != CS_OK)
                fprintf(stderr, "%s\n", err.msg);
            cs_store_close(&store);
            _exit(rc == CS_OK ? 0 : 1);
        }
    for (int i = 0; i < NODES; i++) {
        assert_int_equal(waitpid(node[i], &status, 0), node[i]);
        assert_int_equal(status, 0);
    }
    sql("SELECT count(*) FROM claw_sync.version", n);
    assert_string_equal(n, "1");
}

/* Row-level security: a transaction sees and writes the workspaces that it named, whatever it asks for. */
static void workspaces_are_walled_off(void **state)
{
    struct suite *s = *state;
    struct cs_slice chunk = cs_slice_str("payload");
    struct cs_store_batch b = { .number = 1, .device = s->a.id, .device_number = 1 };
    struct cs_uuid other = { { 1 } };
    struct cs_error err = { 0 };
    cs_store_tx *tx;
    char n[128];
    int seen = 0, rc;

    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, &s->a.workspace, 1, &tx, &err), CS_OK);
    assert_int_equal(tx->ops->put_batch(tx, &s->a.workspace, &b, &chunk, 1, &err), CS_OK);
    assert_int_equal(cs_store_commit(tx, &err), CS_OK);
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_READ, &other, 1, &tx, &err), CS_OK);
    assert_int_equal(tx->ops->batches(tx, &s->a.workspace, 1, 9, count_batch, &seen, &err), CS_OK);
    assert_int_equal(seen, 0);
    cs_store_rollback(tx);
    assert_int_equal(cs_store_begin(&s->store, CS_STORE_WRITE, &other, 1, &tx, &err), CS_OK);
    b.number = b.device_number = 2;
    rc = tx->ops->put_batch(tx, &s->a.workspace, &b, &chunk, 1, &err);
    if (rc == CS_OK)
        rc = cs_store_commit(tx, &err);
    assert_int_equal(rc, CS_EDB);
    assert_non_null(strstr(err.msg, "row-level security"));
    sql("SELECT count(*) FROM claw_sync.log", n);
    assert_string_equal(n, "1");
    sql("SET ROLE hub; SELECT count(*) FROM claw_sync.log", n); /* the owner of the tables, who names nothing */
    assert_string_equal(n, "0");
}

static void partitioned(void **state)
{
    struct cs_store_postgres_options o = { .connections = 4, .partitions = 3 };
    struct suite *s = *state;
    struct cs_error err = { 0 };
    char text[128];
    struct cs_write *w;

    suite_close(s);
    scene_database(s->place);
    o.url = s->place;
    assert_int_equal(cs_store_postgres_open(&s->store, cs_world_real(), &o, &err), CS_OK);
    cs_store_close(&s->store);
    suite_open(s); /* how they were made is remembered */
    found(s, &s->a);
    w = batch_write_of(s, maker_batch(&s->a, 100000, 2));
    commit(s, &w, 1);
    assert_int_equal(w->verdict.status, CS_RPC_OK);
    assert_int_equal(log_checked(s, &s->a.workspace), 1);
    sql("SELECT count(*) FROM pg_inherits", text); /* tables, and two indexes of the log, one of the others */
    assert_string_equal(text, "75");
    sql("SELECT count(*) FROM ONLY claw_sync.chunk", text);
    assert_string_equal(text, "0");
    sql("SELECT count(*) FROM pg_attribute WHERE attname = 'payload' AND attstorage <> 'e'", text);
    assert_string_equal(text, "0");
    sql("SELECT pg_column_size(payload) = octet_length(payload) FROM claw_sync.chunk LIMIT 1", text);
    assert_string_equal(text, "t");
}

/* ---- what hubs tell each other ---- */

/* What was heard, comma after comma; '!' for something that may have been missed. */
struct ear {
    struct cs_store store;
    pthread_mutex_t lock;
    struct cs_buf heard;
};
static void hears(void *arg, const char *lines)
{
    struct ear *e = arg;

    pthread_mutex_lock(&e->lock);
    cs_buf_put_str(&e->heard, lines == NULL ? "!\n" : lines);
    pthread_mutex_unlock(&e->lock);
}
static void ear_open(struct ear *e, const char *place)
{
    struct cs_store_postgres_options o = { .url = place, .listen = place, .connections = 2 };
    struct cs_error err = { 0 };

    *e = (struct ear){ 0 };
    pthread_mutex_init(&e->lock, NULL);
    assert_int_equal(cs_store_postgres_open(&e->store, cs_world_real(), &o, &err), CS_OK);
    assert_int_equal(e->store.ops->listen(e->store.self, hears, e, &err), CS_OK);
}
static void ear_close(struct ear *e)
{
    cs_store_close(&e->store);
    cs_buf_free(&e->heard);
    pthread_mutex_destroy(&e->lock);
}
static void ear_waits_for(struct ear *e, const char *line)
{
    for (int i = 0; i < 6000; i++) {
        bool there;

        pthread_mutex_lock(&e->lock);
        cs_buf_put_u8(&e->heard, 0);
        there = e->heard.data != NULL && strstr((const char *)e->heard.data, line) != NULL;
        e->heard.len--;
        pthread_mutex_unlock(&e->lock);
        if (there)
            return;
        usleep(10000);
    }
    fail_msg("%s was never heard", line);
}
static void ear_forget(struct ear *e)
{
    pthread_mutex_lock(&e->lock);
    cs_buf_reset(&e->heard);
    pthread_mutex_unlock(&e->lock);
}
static size_t ear_lines(struct ear *e)
{
    size_t n = 0;

    pthread_mutex_lock(&e->lock);
    for (size_t i = 0; i < e->heard.len; i++)
        n += e->heard.data[i] == '\n';
    pthread_mutex_unlock(&e->lock);
    return n;
}
static void says(struct ear *e, unsigned i)
{
    char line[CS_STORE_NEWS + 1];

    snprintf(line, sizeof line, "%0*u", CS_STORE_NEWS, i);
    e->store.ops->tell(e->store.self, cs_slice(line, CS_STORE_NEWS));
}

/* Each hears the others and not itself; much goes out in as many payloads as it takes, too much as one word; after the
 * connection was lost it says that something may have been missed, and what was to be told meanwhile is. */
static void hubs_hear_of_each_other(void **state)
{
    struct suite *s = *state;
    struct ear a, b;
    char line[CS_STORE_NEWS + 1];

    if (scene_pooled())
        skip(); /* a pooler does not let it through, which the hub notices when it starts */
    ear_open(&a, s->place);
    ear_open(&b, s->place);
    a.store.ops->tell(a.store.self, cs_slice_str("of a"));
    b.store.ops->tell(b.store.self, cs_slice_str("of b"));
    ear_waits_for(&a, "of b\n");
    ear_waits_for(&b, "of a\n");
    assert_int_equal(ear_lines(&a), 1);
    for (unsigned i = 0; i < 1000; i++)
        says(&a, i);
    snprintf(line, sizeof line, "%0*u", CS_STORE_NEWS, 999U);
    ear_waits_for(&b, line);
    assert_int_equal(ear_lines(&b), 1001);
    /* b's session is gone, and no other begins until there is too much to tell */
    sql("ALTER ROLE hub NOLOGIN", NULL);
    sql("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = 'hub' AND query ~ "
        "'LISTEN|pg_notify' "
        "ORDER BY backend_start DESC LIMIT 1",
        NULL);
    for (unsigned i = 0; i < 10000; i++)
        says(&b, i);
    sql("ALTER ROLE hub LOGIN", NULL);
    ear_waits_for(&a, "*\n");
    ear_waits_for(&b, "!\n");
    ear_forget(&b);
    sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'hub'", NULL);
    a.store.ops->tell(a.store.self, cs_slice_str("told when it is back"));
    ear_waits_for(&b, "!\n");
    ear_waits_for(&a, "!\n");
    a.store.ops->tell(a.store.self, cs_slice_str("and now"));
    ear_waits_for(&b, "and now\n");
    ear_close(&a);
    ear_close(&b);
}

/* ---- a server that goes away ---- */

static struct cs_write *next_batch(struct suite *s)
{
    struct made *b = maker_batch(&s->a, 5000, 2);
    struct cs_write *w = batch_write_of(s, b);

    maker_commit(&s->a, b);
    return w;
}

/* Until it is stored: what a device does. */
static void write_until_stored(struct suite *s, struct cs_write *w)
{
    for (int i = 0; i < 1000; i++) {
        commit(s, &w, 1);
        if (w->verdict.status == CS_RPC_OK)
            return;
        assert_int_equal(w->verdict.status, CS_RPC_UNAVAILABLE);
        w->verdict = (struct cs_verdict){ 0 };
        usleep(10000);
    }
    fail_msg("it was never stored");
}

/* The store with the server's processes killed before the call with that number. */
static struct {
    struct cs_store_ops ops;
    const struct cs_store *store;
    unsigned left; /* calls until it happens; 0: it has */
} killer;

static void kill_in_turn(void)
{
    if (killer.left > 0 && --killer.left == 0)
        sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'hub'", NULL);
}
static int killer_begin(void *self, enum cs_store_mode mode, const struct cs_uuid *ws, size_t n, cs_store_tx **out,
                        struct cs_error *err)
{
    int rc;

    (void)self;
    kill_in_turn();
    rc = cs_store_begin(killer.store, mode, ws, n, out, err);
    if (rc == CS_OK)
        (*out)->ops = &killer.ops;
    return rc;
}
static int killer_commit(cs_store_tx *tx, struct cs_error *err)
{
    kill_in_turn();
    return killer.store->ops->commit(tx, err);
}
static int killer_head(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_store_head *out, struct cs_error *err)
{
    kill_in_turn();
    return killer.store->ops->head(tx, ws, out, err);
}
static int killer_device(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                         struct cs_store_device *out, struct cs_error *err)
{
    kill_in_turn();
    return killer.store->ops->device(tx, ws, device, out, err);
}
static int killer_put_batch(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_batch *b,
                            const struct cs_slice *chunks, size_t nchunks, struct cs_error *err)
{
    kill_in_turn();
    return killer.store->ops->put_batch(tx, ws, b, chunks, nchunks, err);
}
static int killer_put_device(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                             const struct cs_store_device *d, struct cs_error *err)
{
    kill_in_turn();
    return killer.store->ops->put_device(tx, ws, device, d, err);
}
static int killer_put_head(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_head *h,
                           struct cs_error *err)
{
    kill_in_turn();
    return killer.store->ops->put_head(tx, ws, h, err);
}

/* A group loses its connection before each of its calls in turn. Each of its batches ends up stored, once. */
static void connection_lost_at_every_stage(void **state)
{
    struct suite *s = *state;
    struct cs_store deadly = { &killer.ops, NULL };
    uint64_t n = 0;
    unsigned stage = 0;

    found(s, &s->a);
    killer.ops = *s->store.ops;
    killer.ops.begin = killer_begin;
    killer.ops.commit = killer_commit;
    killer.ops.head = killer_head;
    killer.ops.device = killer_device;
    killer.ops.put_batch = killer_put_batch;
    killer.ops.put_device = killer_put_device;
    killer.ops.put_head = killer_put_head;
    killer.store = &s->store;
    do {
        struct cs_write *w[3] = { next_batch(s), next_batch(s), next_batch(s) };

        killer.left = ++stage;
        s->env.store = &deadly;
        commit(s, w, 3);
        s->env.store = &s->store;
        for (size_t i = 0; i < 3; i++) {
            if (w[i]->verdict.status != CS_RPC_OK)
                write_until_stored(s, w[i]);
            assert_int_equal(w[i]->log_number, ++n);
        }
        assert_int_equal(log_checked(s, &s->a.workspace), n);
    } while (killer.left == 0);
    assert_true(stage > 10);
    killer.left = 0;
}

static void server_restarted(void **state)
{
    struct suite *s = *state;
    struct cs_write *w;

    if (scene_pooled())
        skip(); /* what a pooler makes of a server that comes back is its own affair */
    found(s, &s->a);
    scene_run("stop %s immediate", scene.dir);
    scene_run("start %s fsync=off", scene.dir);
    w = next_batch(s);
    commit(s, &w, 1);
    assert_int_equal(w->verdict.status, CS_RPC_OK); /* connections from before are replaced, unnoticed */
    scene_run("stop %s immediate", scene.dir);
    w = next_batch(s);
    commit(s, &w, 1);
    assert_int_equal(w->verdict.status, CS_RPC_UNAVAILABLE);
    assert_string_equal(w->verdict.kind, "storage");
    w->verdict = (struct cs_verdict){ 0 };
    scene_run("start %s fsync=off", scene.dir);
    write_until_stored(s, w);
    assert_int_equal(log_checked(s, &s->a.workspace), 2);
}

/* The connection ends while COMMIT is on its way: it was done or was not, and the device's repetition finds out. */
static void commit_unknown(void **state)
{
    struct cs_store_postgres_options o = { .connections = 4, .prepare = -1 };
    struct suite *s = *state;
    struct cs_error err = { 0 };
    char url[256];

    if (proxy.listener == 0)
        proxy_start(scene.dir, strstr(s->place, "host=") + 5);
    snprintf(url, sizeof url, "postgresql://hub@/t%u?host=%s", scene.ndatabases, proxy.dir);
    cs_store_close(&s->store);
    o.url = url;
    assert_int_equal(cs_store_postgres_open(&s->store, cs_world_real(), &o, &err), CS_OK);
    found(s, &s->a);
    for (enum cut cut = CUT_BEFORE_COMMIT; cut <= CUT_AFTER_COMMIT; cut++) {
        uint64_t before = log_checked(s, &s->a.workspace);
        struct cs_write *w = next_batch(s), *pair[2] = { next_batch(s), next_batch(s) };

        proxy.cut = cut;
        commit(s, &w, 1);
        assert_int_equal(proxy.cut, CUT_NEVER);
        assert_int_equal(w->verdict.status, CS_RPC_UNAVAILABLE);
        assert_int_equal(log_checked(s, &s->a.workspace), before + (cut == CUT_AFTER_COMMIT));
        write_until_stored(s, w);
        assert_int_equal(w->log_number, before + 1);
        assert_int_equal(w->changed, cut == CUT_BEFORE_COMMIT);
        /* In a group the hub itself tries each one again, and finds it. */
        proxy.cut = cut;
        commit(s, pair, 2);
        assert_int_equal(proxy.cut, CUT_NEVER);
        for (size_t i = 0; i < 2; i++) {
            assert_int_equal(pair[i]->verdict.status, CS_RPC_OK);
            assert_int_equal(pair[i]->log_number, before + 2 + i);
        }
        assert_int_equal(log_checked(s, &s->a.workspace), before + 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { SUITE(newer_schema_is_refused),
                                        cmocka_unit_test(nobody_there),
                                        cmocka_unit_test(nodes_start_at_once),
                                        SUITE(workspaces_are_walled_off),
                                        SUITE(partitioned),
                                        SUITE(hubs_hear_of_each_other),
                                        SUITE(commit_unknown),
                                        SUITE(connection_lost_at_every_stage),
                                        SUITE(server_restarted) };
    int failed;

    signal(SIGPIPE, SIG_IGN);
    scene_start();
    failed = store_suite_run(scene_pooled() ? "hub store contract: postgres behind pgbouncer"
                                            : "hub store contract: postgres");
    failed += cmocka_run_group_tests_name("hub store postgres", tests, NULL, NULL);
    scene_stop();
    return failed;
}
