/* Reconciling while things happen in the midst of it. Two devices: a at the hub, b through somebody who can hold, break
 * or forget each of its calls. */
#include "unit/engine/between_fixture.h"

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);";
#define ACTION(name) CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_##name
enum { ROWS = 40, TURNS = 12 };

struct scene {
    struct between between;
    struct device a, b;
    /* On the loop's thread while b's call runs. */
    int hold; /* the action whose next request is held; 0: none */
    unsigned calls, break_at, forget_at, tell_at;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_held, is_over, is_told;
    /* b's call, on a thread of its own */
    pthread_t thread;
    clawsync_reconciled found;
    clawsync_error err;
    int rc;
};

/* ---- the one between ---- */

static void note(struct scene *s, bool *what)
{
    pthread_mutex_lock(&s->lock);
    *what = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void forget_sessions(struct between *b)
{
    struct cs_sessions *fresh;

    assert_int_equal(cs_sessions_new(b->hub.hub, &fresh), CS_OK);
    cs_sessions_free(b->hub.hub->sessions);
    b->hub.hub->sessions = fresh;
}

static void on_start(struct between *b, const struct relay *r)
{
    struct scene *s = (struct scene *)b;

    if (!is_method(r, "ReconcileRanges"))
        return;
    if (++s->calls == s->forget_at)
        forget_sessions(b);
    if (s->calls == s->tell_at)
        note(s, &s->is_told);
}

static bool on_request(struct between *b, struct relay *r, struct cs_slice m)
{
    struct scene *s = (struct scene *)b;
    Clawsync__V1__ReconcileRangesRequest *in;
    int action;

    if (!is_method(r, "ReconcileRanges"))
        return true;
    if (s->calls == s->break_at) {
        cs_rpc_call_finish(r->device, CS_RPC_UNAVAILABLE, "the line is dead", NULL);
        return false;
    }
    in = clawsync__v1__reconcile_ranges_request__unpack(NULL, m.len, m.data);
    assert_non_null(in);
    action = (int)in->action;
    clawsync__v1__reconcile_ranges_request__free_unpacked(in, NULL);
    if (s->hold == 0 || action != s->hold)
        return true;
    s->hold = 0;
    relay_hold(r, m);
    note(s, &s->is_held);
    return false;
}

/* ---- two devices with the same rows ---- */

static void round_of(struct device *d)
{
    clawsync_error err = { 0 };

    ok(clawsync_engine_sync_now(d->engine, NULL, &err), &err);
}

static void begin(struct scene *s)
{
    char code[CLAWSYNC_CODE_MAX];
    clawsync_error err = { 0 };

    device_init(&s->a, schema);
    device_init(&s->b, schema);
    s->a.config.hub_endpoint = s->between.hub.endpoint;
    s->b.config.hub_endpoint = s->between.endpoint;
    device_open(&s->a);
    round_of(&s->a);
    device_open(&s->b);
    ok(clawsync_engine_invite(s->a.engine, 0, code, sizeof code, &err), &err);
    ok(clawsync_engine_join(s->b.engine, code, &err), &err);
    app(&s->a, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) "
               "INSERT INTO memories SELECT 'row ' || i, 'text ' || i FROM n");
    for (int i = 0; i < 3; i++) {
        round_of(&s->a);
        round_of(&s->b);
    }
    assert_int_equal(number_in(&s->b, "SELECT count(*) FROM memories"), ROWS);
}

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);

    assert_non_null(s);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    between_init(&s->between);
    s->between.starting = on_start;
    s->between.request = on_request;
    begin(s);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    device_fini(&s->a);
    device_fini(&s->b);
    between_fini(&s->between);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
    return 0;
}

/* A write that no trigger of ours sees. */
static void behind_our_back(const struct device *d, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *q = NULL;
    struct cs_buf drop = { 0 }, again = { 0 };
    char *msg = NULL;

    assert_int_equal(sqlite3_open(d->db, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 20000);
    assert_int_equal(sqlite3_prepare_v2(db,
                                        "SELECT 'DROP TRIGGER \"' || name || '\";', sql || ';' FROM sqlite_schema "
                                        "WHERE type = 'trigger' AND name LIKE '%sync%'",
                                        -1, &q, NULL),
                     SQLITE_OK);
    cs_buf_put_str(&drop, "BEGIN IMMEDIATE;");
    while (sqlite3_step(q) == SQLITE_ROW) {
        cs_buf_put_str(&drop, (const char *)sqlite3_column_text(q, 0));
        cs_buf_put_str(&again, (const char *)sqlite3_column_text(q, 1));
    }
    sqlite3_finalize(q);
    assert_true(again.len > 0);
    cs_buf_put_str(&drop, sql);
    cs_buf_put_str(&drop, ";");
    cs_buf_put_slice(&drop, cs_buf_slice(&again));
    cs_buf_put_str(&drop, "COMMIT");
    cs_buf_put_u8(&drop, 0);
    if (sqlite3_exec(db, (const char *)drop.data, NULL, NULL, &msg) != SQLITE_OK)
        fail_msg("%s", msg);
    sqlite3_close(db);
    cs_buf_free(&drop);
    cs_buf_free(&again);
}

static clawsync_reconciled reconcile(struct device *d)
{
    clawsync_reconciled found = { 0 };
    clawsync_error err = { 0 };

    ok(clawsync_engine_reconcile(d->engine, 0, &found, NULL, NULL, &err), &err);
    return found;
}

static bool found_nothing(const clawsync_reconciled *r)
{
    return r->missing_here + r->missing_there + r->conflicting + r->sealed + r->published == 0;
}

/* In turn, as nobody runs a daemon, until both say that they are equal. b first: what it began to give stands in a's
 * way for a minute. */
static void level(struct scene *s)
{
    for (int i = 0; i < TURNS; i++) {
        clawsync_reconciled b = reconcile(&s->b), a = reconcile(&s->a);

        if (found_nothing(&a) && found_nothing(&b) && a.equal == 1) {
            assert_string_equal(a.root, b.root);
            assert_int_equal(a.rows, b.rows);
            return;
        }
    }
    fail_msg("the two are not equal after %d turns", TURNS);
}

/* ---- b's call, beside what the test does ---- */

static void *b_reconciles(void *arg)
{
    struct scene *s = arg;

    s->rc = clawsync_engine_reconcile(s->b.engine, 0, &s->found, NULL, NULL, &s->err);
    note(s, &s->is_over);
    return NULL;
}

static void b_begins(struct scene *s, int action)
{
    s->hold = action;
    s->is_held = s->is_over = false;
    assert_int_equal(pthread_create(&s->thread, NULL, b_reconciles, s), 0);
    pthread_mutex_lock(&s->lock);
    while (!s->is_held && !s->is_over)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    if (!s->is_held)
        fail_msg("it was over before: %s", s->err.msg);
}

static void b_goes_on(struct scene *s)
{
    between_release(&s->between);
    pthread_join(s->thread, NULL);
}

/* ---- what happens in the midst ---- */

static void the_log_moves_on(void **state)
{
    struct scene *s = *state;

    b_begins(s, ACTION(BEGIN));
    app(&s->a, "INSERT INTO memories VALUES('meanwhile', 'x')");
    round_of(&s->a);
    b_goes_on(s);
    ok(s->rc, &s->err);
    assert_int_equal(s->found.rows, ROWS + 1); /* the hub had it catch up first */
    assert_int_equal(number_in(&s->b, "SELECT count(*) FROM memories WHERE id = 'meanwhile'"), 1);
    level(s);
}

static void another_was_faster(void **state)
{
    struct scene *s = *state;
    clawsync_reconciled a;

    behind_our_back(&s->b, "UPDATE memories SET content = 'zzz' WHERE id = 'row 7'");
    b_begins(s, ACTION(BEGIN));
    a = reconcile(&s->a);
    assert_int_equal(a.conflicting, 0); /* its state is what b compares with now */
    b_goes_on(s);
    ok(s->rc, &s->err);
    assert_int_equal(s->found.conflicting, 1);
    level(s);
    assert_int_equal(number_in(&s->a, "SELECT count(*) FROM memories WHERE content = 'zzz'"), 1);
}

static void another_gives_at_present(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };

    b_begins(s, ACTION(PUT));
    assert_int_equal(clawsync_engine_reconcile(s->a.engine, 0, NULL, NULL, NULL, &err), CLAWSYNC_EABORTED);
    b_goes_on(s);
    ok(s->rc, &s->err);
    level(s);
}

static void *a_waits(void *arg)
{
    struct scene *s = arg;
    clawsync_error err = { 0 };

    ok(clawsync_engine_reconcile(s->a.engine, 60000, NULL, NULL, NULL, &err), &err);
    return NULL;
}

static void one_that_gives_is_waited_for(void **state)
{
    struct scene *s = *state;
    pthread_t thread;

    device_close(&s->a);
    s->a.config.hub_endpoint = s->between.endpoint;
    device_open(&s->a);
    b_begins(s, ACTION(PUT));
    s->tell_at = s->calls + 2; /* the first is refused */
    assert_int_equal(pthread_create(&thread, NULL, a_waits, s), 0);
    pthread_mutex_lock(&s->lock);
    while (!s->is_told)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    b_goes_on(s);
    ok(s->rc, &s->err);
    pthread_join(thread, NULL);
    level(s);
}

/* Edits that the application makes while states are compared, on a row that differs and beside it. */
static void edits_are_not_lost(void **state)
{
    static const int actions[] = { ACTION(LOOK), ACTION(SUMS), ACTION(LEAVES), ACTION(WANT), ACTION(PROVE) };
    struct scene *s = *state;
    char sql[200];

    for (int i = 0; i < (int)(sizeof actions / sizeof actions[0]); i++) {
        snprintf(sql, sizeof sql, "UPDATE memories SET content = 'wrong %d' WHERE id IN ('row 1', 'row 2')", i);
        behind_our_back(&s->b, sql);
        reconcile(&s->a);
        b_begins(s, actions[i]);
        snprintf(
            sql, sizeof sql,
            "UPDATE memories SET content = 'edit %d' WHERE id = 'row 1'; INSERT INTO memories VALUES('new %d', 'x')", i,
            i);
        app(&s->b, sql);
        b_goes_on(s);
        ok(s->rc, &s->err);
        level(s);
        snprintf(sql, sizeof sql,
                 "SELECT count(*) FROM memories WHERE (id = 'row 1' AND content = 'edit %d') OR id = 'new %d'", i, i);
        assert_int_equal(number_in(&s->a, sql), 2);
        assert_int_equal(number_in(&s->b, sql), 2);
    }
}

/* Every call in turn is the one that is lost, or before which the hub is another process; whoever gives. */
static void at_every_call(struct scene *s, unsigned *at, bool survives)
{
    clawsync_error err = { 0 };
    bool reached = true;
    char sql[120];

    for (int first = 0; first < 2; first++) {
        for (unsigned n = 1; n == 1 || reached; n++) {
            int rc;

            assert_true(n < 40);
            snprintf(sql, sizeof sql, "UPDATE memories SET content = 'wrong %d %u' WHERE id = 'row %u'", first, n, n);
            behind_our_back(&s->b, sql);
            if (first == 0)
                reconcile(&s->a);
            s->calls = 0;
            *at = n;
            rc = clawsync_engine_reconcile(s->b.engine, 0, NULL, NULL, NULL, &err);
            reached = s->calls >= n;
            *at = 0;
            assert_int_equal(rc, reached && !survives ? CLAWSYNC_EUNAVAILABLE : CLAWSYNC_OK);
            level(s);
        }
    }
}

static void a_call_is_lost(void **state)
{
    struct scene *s = *state;

    at_every_call(s, &s->break_at, false);
}

static void the_hub_is_started_again(void **state)
{
    struct scene *s = *state;

    at_every_call(s, &s->forget_at, true);
}

/* ---- what is found ---- */

static void a_flipped_bit_is_raised(void **state)
{
    struct scene *s = *state;
    clawsync_reconciled found;

    behind_our_back(&s->b, "UPDATE memories SET content = 'text 6' WHERE id = 'row 5'"); /* '5' ^ 3 */
    reconcile(&s->a);
    found = reconcile(&s->b);
    assert_int_equal(found.conflicting, 1);
    assert_int_equal(found.missing_here + found.missing_there, 0);
    level(s);
    assert_int_equal(number_in(&s->a, "SELECT content = 'text 6' FROM memories WHERE id = 'row 5'"), 1);
    assert_int_equal(number_in(&s->a, "SELECT count(*) FROM sync_conflicts") +
                             number_in(&s->b, "SELECT count(*) FROM sync_conflicts") >
                         0,
                     1);
}

static void rows_behind_our_back_are_sealed(void **state)
{
    struct scene *s = *state;
    clawsync_reconciled found;

    behind_our_back(&s->b, "INSERT INTO memories VALUES('unseen', 'x'); DELETE FROM memories WHERE id = 'row 9'");
    found = reconcile(&s->b);
    assert_int_equal(found.sealed, 2);
    level(s);
    assert_int_equal(number_in(&s->a, "SELECT count(*) FROM memories WHERE id = 'unseen'"), 1);
    assert_int_equal(number_in(&s->a, "SELECT count(*) FROM memories WHERE id = 'row 9'"), 0);
}

/* ---- an older hub ---- */

static void an_older_hub_has_no_such_method(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    clawsync_error err = { 0 };

    (void)state;
    assert_non_null(s);
    between_init_older(&s->between, 1);
    device_init(&s->b, schema);
    s->b.config.hub_endpoint = s->between.endpoint;
    device_open(&s->b);
    app(&s->b, "INSERT INTO memories VALUES('a', 'x')");
    assert_int_equal(clawsync_engine_reconcile(s->b.engine, 0, NULL, NULL, NULL, &err), CLAWSYNC_EUNSUPPORTED);
    assert_non_null(strstr(err.msg, "does not offer to reconcile; it needs a newer claw-sync-server"));
    assert_int_equal(clawsync_engine_prove(s->b.engine, 0, NULL, NULL, NULL, &err), CLAWSYNC_EUNSUPPORTED);
    round_of(&s->b); /* all else goes on */
    assert_int_equal(number_in(&s->b, "SELECT count(*) FROM sync_unsent"), 0);
    device_fini(&s->b);
    between_fini(&s->between);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_log_moves_on, setup, teardown),
        cmocka_unit_test_setup_teardown(another_was_faster, setup, teardown),
        cmocka_unit_test_setup_teardown(another_gives_at_present, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_gives_is_waited_for, setup, teardown),
        cmocka_unit_test_setup_teardown(edits_are_not_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(a_call_is_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(the_hub_is_started_again, setup, teardown),
        cmocka_unit_test_setup_teardown(a_flipped_bit_is_raised, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_behind_our_back_are_sealed, setup, teardown),
        cmocka_unit_test(an_older_hub_has_no_such_method),
    };

    return cmocka_run_group_tests_name("reconciling in the midst of things", tests, NULL, NULL);
}
