/* The calls about conflicts, as a program that embeds the library makes them: two engines and a hub. */
#include "unit/engine/hub_fixture.h"

#include <math.h>

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content, source);"
                             "CREATE TABLE sessions(id TEXT PRIMARY KEY, title TEXT UNIQUE);";

enum { MANY = 64 };

struct scene {
    struct hub hub;
    struct device a, b;
    char event_id[32], event_text[256];
    int from_callback; /* what a call from inside one said */
};

/* A conflict, copied: what the callback gets is gone after it. */
struct seen {
    char id[64], why[24], state[16], table[32], column[32], key[32], losing[64], now[64], device[40];
    bool has_column, has_losing, has_now, times;
};
struct list {
    struct seen of[MANY];
    size_t n;
};

static void copy_value(char out[64], const clawsync_value *v)
{
    switch (v->type) {
    case CLAWSYNC_NULL:
        snprintf(out, 64, "NULL");
        break;
    case CLAWSYNC_INTEGER:
        snprintf(out, 64, "%lld", (long long)v->integer);
        break;
    case CLAWSYNC_REAL:
        snprintf(out, 64, "%.17g", v->real);
        break;
    case CLAWSYNC_TEXT:
        snprintf(out, 64, "'%.*s'", (int)v->length, (const char *)v->bytes);
        break;
    case CLAWSYNC_BLOB:
        snprintf(out, 64, "x(%zu)", v->length);
        break;
    }
}

static void keep(void *arg, const clawsync_conflict *c)
{
    struct list *l = arg;
    struct seen *s = &l->of[l->n++];

    assert_true(l->n <= MANY);
    memset(s, 0, sizeof *s);
    snprintf(s->id, sizeof s->id, "%s", c->id);
    snprintf(s->why, sizeof s->why, "%s", c->why);
    snprintf(s->state, sizeof s->state, "%s", c->state);
    snprintf(s->table, sizeof s->table, "%s", c->table);
    snprintf(s->device, sizeof s->device, "%s", c->device);
    s->times = c->edited_ms > 1500000000000 && c->noticed_ms >= c->edited_ms;
    assert_int_equal(c->nkey, 1);
    snprintf(s->key, sizeof s->key, "%.*s", (int)c->key[0].length, (const char *)c->key[0].bytes);
    if ((s->has_column = c->column != NULL))
        snprintf(s->column, sizeof s->column, "%s", c->column);
    if ((s->has_losing = c->losing != NULL))
        copy_value(s->losing, c->losing);
    if ((s->has_now = c->now != NULL))
        copy_value(s->now, c->now);
}

static struct list list_of(const struct device *d, int settled)
{
    clawsync_error err = { 0 };
    struct list l = { .n = 0 };

    ok(clawsync_engine_conflicts(d->engine, settled, keep, &l, &err), &err);
    return l;
}

static void sync_both(struct scene *s)
{
    clawsync_error err = { 0 };

    for (int i = 0; i < 3; i++) {
        ok(clawsync_engine_sync_now(s->a.engine, NULL, &err), &err);
        ok(clawsync_engine_sync_now(s->b.engine, NULL, &err), &err);
    }
}

static void text_of(const struct device *d, const char *sql, char out[64])
{
    sqlite3 *db = NULL;
    sqlite3_stmt *q = NULL;

    assert_int_equal(sqlite3_open(d->db, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &q, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    snprintf(out, 64, "%s", (const char *)sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
    sqlite3_close(db);
}

static void shows(struct scene *s, const char *id, const char *want)
{
    char sql[100], got[64];

    snprintf(sql, sizeof sql, "SELECT quote(content) FROM memories WHERE id = '%s'", id);
    for (int i = 0; i < 2; i++) {
        text_of(i == 0 ? &s->a : &s->b, sql, got);
        assert_string_equal(got, want);
    }
}

static void on_event(void *arg, const clawsync_event *ev)
{
    struct scene *s = arg;
    struct list l = { .n = 0 };
    clawsync_error err = { 0 };

    if (ev->type != CLAWSYNC_EVENT_CONFLICT_DETECTED)
        return;
    snprintf(s->event_id, sizeof s->event_id, "%s", ev->name);
    snprintf(s->event_text, sizeof s->event_text, "%.255s", ev->error.msg);
    s->from_callback = clawsync_engine_conflicts(s->b.engine, 0, keep, &l, &err);
}

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    char code[CLAWSYNC_CODE_MAX];
    clawsync_error err = { 0 };

    assert_non_null(s);
    hub_init(&s->hub);
    for (int i = 0; i < 2; i++) {
        struct device *d = i == 0 ? &s->a : &s->b;

        device_init(d, schema);
        d->config.hub_endpoint = s->hub.endpoint;
        device_open(d);
        if (i == 1) {
            ok(clawsync_engine_invite(s->a.engine, 0, code, sizeof code, &err), &err);
            ok(clawsync_engine_join(d->engine, code, &err), &err);
        }
        ok(clawsync_engine_sync_now(d->engine, NULL, &err), &err);
    }
    ok(clawsync_engine_subscribe(s->b.engine, on_event, s, &err), &err);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    device_fini(&s->a);
    device_fini(&s->b);
    hub_fini(&s->hub);
    free(s);
    return 0;
}

/* Both edit the same cells of n rows; a's edits are older, and lose. */
static void both_edit(struct scene *s, int n)
{
    clawsync_error err = { 0 };
    char sql[200];

    snprintf(sql, sizeof sql,
             "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO memories SELECT "
             "'m' || i, 'one', 'here' FROM n",
             n);
    app(&s->a, sql);
    sync_both(s);
    app(&s->a, "UPDATE memories SET content = 'of a'");
    ok(clawsync_engine_push_now(s->a.engine, NULL, &err), &err);
    app(&s->b, "UPDATE memories SET content = 'of b'");
    sync_both(s);
}

static struct seen only(const struct device *d)
{
    struct list l = list_of(d, 0);

    assert_int_equal(l.n, 1);
    return l.of[0];
}

/* ---- right use ---- */

static void a_conflict_is_told_whole(void **state)
{
    struct scene *s = *state;
    clawsync_status st = { .size = sizeof st };
    clawsync_error err = { 0 };
    struct seen x, y;

    assert_int_equal(list_of(&s->a, 1).n, 0);
    both_edit(s, 1);
    x = only(&s->a);
    y = only(&s->b);
    assert_string_equal(x.id, y.id);
    assert_int_equal(strlen(x.id), 24);
    assert_string_equal(x.why, "overwritten");
    assert_string_equal(x.state, "auto");
    assert_string_equal(x.table, "memories");
    assert_string_equal(x.column, "content");
    assert_string_equal(x.key, "m1");
    assert_string_equal(x.losing, "'of a'");
    assert_string_equal(x.now, "'of b'");
    ok(clawsync_engine_status(s->a.engine, &st, &err), &err);
    assert_string_equal(x.device, st.device_id);
    assert_true(x.times && y.times);
    assert_string_equal(s->event_id, ""); /* the rules decided, nobody has to */
}

static void each_choice(void **state)
{
    static const struct choice {
        clawsync_choice choice;
        clawsync_value value;
        const char *want;
    } choices[] = {
        { CLAWSYNC_KEEP, { .type = CLAWSYNC_NULL }, "'of b'" },
        { CLAWSYNC_TAKE, { .type = CLAWSYNC_NULL }, "'of a'" },
        { CLAWSYNC_GIVEN, { .type = CLAWSYNC_NULL }, "NULL" },
        { CLAWSYNC_GIVEN, { .type = CLAWSYNC_INTEGER, .integer = INT64_MIN }, "-9223372036854775808" },
        { CLAWSYNC_GIVEN, { .type = CLAWSYNC_REAL, .real = -0.5 }, "-0.5" },
        { CLAWSYNC_GIVEN, { .type = CLAWSYNC_TEXT, .bytes = "it's more", .length = 4 }, "'it''s'" },
        { CLAWSYNC_GIVEN, { .type = CLAWSYNC_TEXT }, "''" },
        { CLAWSYNC_GIVEN, { .type = CLAWSYNC_BLOB, .bytes = "\0\377", .length = 2 }, "X'00FF'" },
        { CLAWSYNC_GIVEN, { .type = CLAWSYNC_BLOB }, "X''" },
    };
    enum { N = sizeof choices / sizeof choices[0] };
    struct scene *s = *state;
    clawsync_error err = { 0 };
    struct list l;

    both_edit(s, N);
    l = list_of(&s->a, 0);
    assert_int_equal(l.n, N);
    for (size_t i = 0; i < N; i++) { /* in turn here and there */
        const struct choice *c = &choices[i];

        ok(clawsync_engine_resolve_conflict(i % 2 == 0 ? s->a.engine : s->b.engine, l.of[i].id, c->choice, &c->value,
                                            &err),
           &err);
    }
    sync_both(s);
    for (size_t i = 0; i < N; i++)
        shows(s, l.of[i].key, choices[i].want);
    for (int i = 0; i < 2; i++) { /* closed wherever it was seen */
        const struct device *d = i == 0 ? &s->a : &s->b;
        struct list all = list_of(d, 1);

        assert_int_equal(list_of(d, 0).n, 0);
        assert_int_equal(all.n, N);
        for (size_t k = 0; k < all.n; k++)
            assert_string_equal(all.of[k].state, "resolved");
    }
}

static void a_deleted_row_and_one_in_the_way(void **state)
{
    struct scene *s = *state;
    clawsync_error err = { 0 };
    struct list l;

    app(&s->a, "INSERT INTO memories VALUES('m', 'one', 'here')");
    sync_both(s);
    app(&s->b, "UPDATE memories SET content = 'of b', source = 'there'");
    ok(clawsync_engine_push_now(s->b.engine, NULL, &err), &err);
    app(&s->a, "DELETE FROM memories");
    sync_both(s);
    l = list_of(&s->b, 0);
    assert_int_equal(l.n, 2);
    assert_string_equal(l.of[0].why, "deleted");
    assert_false(l.of[0].has_now);
    ok(clawsync_engine_resolve_conflict(s->b.engine, l.of[0].id, CLAWSYNC_TAKE, NULL, &err), &err);
    sync_both(s);
    shows(s, "m", "'of b'");
    assert_int_equal(list_of(&s->a, 0).n, 0); /* both columns came back with it */
    app(&s->a, "INSERT INTO sessions VALUES('x', 'title')");
    ok(clawsync_engine_push_now(s->a.engine, NULL, &err), &err);
    app(&s->b, "INSERT INTO sessions VALUES('y', 'title')");
    sync_both(s);
    l = list_of(&s->b, 0);
    assert_int_equal(l.n, 1);
    assert_string_equal(l.of[0].why, "unique");
    assert_false(l.of[0].has_column || l.of[0].has_losing || l.of[0].has_now);
    assert_string_equal(s->event_id, l.of[0].id); /* somebody should look at it */
    assert_int_equal(s->from_callback, CLAWSYNC_EINVAL);
    assert_int_equal(clawsync_engine_resolve_conflict(s->b.engine, l.of[0].id, CLAWSYNC_TAKE, NULL, &err),
                     CLAWSYNC_EINVAL);
    assert_non_null(strstr(err.msg, "whole row"));
    ok(clawsync_engine_resolve_conflict(s->b.engine, l.of[0].id, CLAWSYNC_KEEP, NULL, &err), &err);
    assert_int_equal(list_of(&s->b, 0).n, 0);
}

static void strategies(void **state)
{
    struct scene *s = *state;
    clawsync_status st = { .size = sizeof st };
    clawsync_error err = { 0 };
    struct seen x;

    ok(clawsync_engine_set_strategy(s->a.engine, "memories", NULL, 1, &err), &err);
    ok(clawsync_engine_set_strategy(s->a.engine, "memories", "source", 0, &err), &err); /* a column's goes first */
    app(&s->a, "INSERT INTO memories VALUES('m', 'one', 'here')");
    sync_both(s);
    app(&s->a, "UPDATE memories SET content = 'of a', source = 'of a'");
    ok(clawsync_engine_push_now(s->a.engine, NULL, &err), &err);
    app(&s->b, "UPDATE memories SET content = 'of b', source = 'of b'");
    sync_both(s);
    for (int i = 0; i < 2; i++) {
        struct list l = list_of(i == 0 ? &s->a : &s->b, 0);

        assert_int_equal(l.n, 2);
        for (size_t k = 0; k < l.n; k++)
            assert_string_equal(l.of[k].state, strcmp(l.of[k].column, "content") == 0 ? "manual" : "auto");
    }
    assert_non_null(strstr(s->event_text, "'m'"));
    x = list_of(&s->b, 0).of[0];
    if (strcmp(x.column, "content") != 0)
        x = list_of(&s->b, 0).of[1];
    assert_string_equal(s->event_id, x.id);
    ok(clawsync_engine_status(s->b.engine, &st, &err), &err);
    ok(clawsync_engine_resolve_conflict(s->b.engine, s->event_id, CLAWSYNC_TAKE, NULL, &err), &err);
    sync_both(s);
    shows(s, "m", "'of a'");
    ok(clawsync_engine_set_strategy(s->b.engine, "memories", NULL, 0, &err), &err);
    sync_both(s);
    app(&s->a, "UPDATE memories SET content = '2 of a'");
    ok(clawsync_engine_push_now(s->a.engine, NULL, &err), &err);
    app(&s->b, "UPDATE memories SET content = '2 of b'");
    sync_both(s);
    for (size_t k = 0; k < list_of(&s->a, 0).n; k++)
        assert_string_equal(list_of(&s->a, 0).of[k].state, "auto");
}

/* ---- wrong use ---- */

static void wrong_arguments(void **state)
{
    static const clawsync_value no_type = { .type = (clawsync_value_type)77 },
                                no_bytes = { .type = CLAWSYNC_TEXT, .length = 3 },
                                text = { .type = CLAWSYNC_TEXT, .bytes = "x", .length = 1 };
    const clawsync_value no_number = { .type = CLAWSYNC_REAL, .real = NAN };
    struct scene *s = *state;
    clawsync_engine *e = s->a.engine;
    char id[64];

    both_edit(s, 1);
    snprintf(id, sizeof id, "%s", only(&s->a).id);
    {
        const struct wrong {
            const char *id;
            int choice;
            const clawsync_value *value;
            int code;
        } wrong[] = {
            { NULL, CLAWSYNC_KEEP, NULL, CLAWSYNC_EINVAL },
            { "", CLAWSYNC_KEEP, NULL, CLAWSYNC_EINVAL },
            { "0123456789abcdef0123456789abcdef", CLAWSYNC_KEEP, NULL, CLAWSYNC_EINVAL },
            { "zz", CLAWSYNC_KEEP, NULL, CLAWSYNC_ENOTFOUND },
            { "000000000000000000000000", CLAWSYNC_KEEP, NULL, CLAWSYNC_ENOTFOUND },
            { id, 9, NULL, CLAWSYNC_EINVAL },
            { id, -1, &text, CLAWSYNC_EINVAL },
            { id, CLAWSYNC_GIVEN, NULL, CLAWSYNC_EINVAL },
            { id, CLAWSYNC_GIVEN, &no_type, CLAWSYNC_EINVAL },
            { id, CLAWSYNC_GIVEN, &no_bytes, CLAWSYNC_EINVAL },
            { id, CLAWSYNC_GIVEN, &no_number, CLAWSYNC_EINVAL },
        };

        for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
            clawsync_error err = { 0 };

            assert_int_equal(clawsync_engine_resolve_conflict(e, wrong[i].id, (clawsync_choice)wrong[i].choice,
                                                              wrong[i].value, &err),
                             wrong[i].code);
            assert_int_equal(err.code, wrong[i].code);
            assert_true(strlen(err.msg) > 10);
            assert_int_equal(clawsync_engine_resolve_conflict(e, wrong[i].id, (clawsync_choice)wrong[i].choice,
                                                              wrong[i].value, NULL),
                             wrong[i].code);
        }
    }
    assert_int_equal(list_of(&s->a, 0).n, 1); /* nothing came of it */
    assert_int_equal(clawsync_engine_conflicts(e, 0, NULL, NULL, NULL), CLAWSYNC_EINVAL);
    ok(clawsync_engine_resolve_conflict(e, id, CLAWSYNC_KEEP, NULL, NULL), NULL);
    assert_int_equal(clawsync_engine_resolve_conflict(e, id, CLAWSYNC_KEEP, NULL, NULL), CLAWSYNC_ENOTFOUND);
    assert_int_equal(clawsync_engine_set_strategy(e, NULL, NULL, 1, NULL), CLAWSYNC_EINVAL);
    assert_int_equal(clawsync_engine_set_strategy(e, "nothing", NULL, 1, NULL), CLAWSYNC_ENOTFOUND);
    assert_int_equal(clawsync_engine_set_strategy(e, "", NULL, 1, NULL), CLAWSYNC_ENOTFOUND);
    assert_int_equal(clawsync_engine_set_strategy(e, "memories", "nothing", 1, NULL), CLAWSYNC_ENOTFOUND);
    assert_int_equal(clawsync_engine_set_strategy(e, "memories", "", 1, NULL), CLAWSYNC_ENOTFOUND);
    assert_int_equal(clawsync_engine_set_strategy(e, "sync_shared", NULL, 1, NULL), CLAWSYNC_ENOTFOUND);
}

/* Of so many ids two begin with the same digit. */
static void an_id_that_several_begin_with(void **state)
{
    enum { N = 17 };
    struct scene *s = *state;
    clawsync_error err = { 0 };
    char prefix[2] = { 0, 0 };
    struct list l;

    both_edit(s, N);
    l = list_of(&s->a, 0);
    assert_int_equal(l.n, N);
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < i; k++)
            prefix[0] = l.of[i].id[0] == l.of[k].id[0] ? l.of[i].id[0] : prefix[0];
    assert_int_equal(clawsync_engine_resolve_conflict(s->a.engine, prefix, CLAWSYNC_KEEP, NULL, &err), CLAWSYNC_EINVAL);
    assert_non_null(strstr(err.msg, "give more"));
    assert_int_equal(list_of(&s->a, 0).n, N);
}

/* ---- threads ---- */

static void from_inside(void *arg, const clawsync_conflict *c)
{
    struct scene *s = arg;

    (void)c;
    s->from_callback = clawsync_engine_set_strategy(s->a.engine, "memories", NULL, 1, NULL);
}

static void *other_thread(void *arg)
{
    struct scene *s = arg;
    clawsync_error err = { 0 };
    intptr_t failed = 0;

    for (int i = 0; i < 20; i++) {
        struct list l = { .n = 0 };

        failed += clawsync_engine_conflicts(s->a.engine, 0, keep, &l, &err) != CLAWSYNC_OK;
        failed += clawsync_engine_set_strategy(s->a.engine, "memories", "source", i % 2, &err) != CLAWSYNC_OK;
        for (size_t k = 0; k < l.n; k++) { /* another one may have been faster */
            int rc = clawsync_engine_resolve_conflict(s->a.engine, l.of[k].id, CLAWSYNC_TAKE, NULL, &err);

            failed += rc != CLAWSYNC_OK && rc != CLAWSYNC_ENOTFOUND;
        }
    }
    return (void *)failed;
}

static void any_thread(void **state)
{
    enum { THREADS = 4, N = 12 };
    struct scene *s = *state;
    pthread_t t[THREADS];
    clawsync_error err = { 0 };
    void *failed;

    both_edit(s, N);
    ok(clawsync_engine_conflicts(s->a.engine, 0, from_inside, s, &err), &err);
    assert_int_equal(s->from_callback, CLAWSYNC_EINVAL);
    ok(clawsync_engine_start(s->a.engine, &err), &err); /* also while it replicates */
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, other_thread, s), 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(t[i], &failed);
        assert_null(failed);
    }
    ok(clawsync_engine_stop(s->a.engine, &err), &err);
    sync_both(s);
    assert_int_equal(list_of(&s->a, 0).n + list_of(&s->b, 0).n, 0);
    assert_int_equal(number_in(&s->b, "SELECT count(*) FROM memories WHERE content = 'of a'"), N);
}

#define IN_SCENE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCENE(a_conflict_is_told_whole),
        IN_SCENE(each_choice),
        IN_SCENE(a_deleted_row_and_one_in_the_way),
        IN_SCENE(strategies),
        IN_SCENE(wrong_arguments),
        IN_SCENE(an_id_that_several_begin_with),
        IN_SCENE(any_thread),
    };

    return cmocka_run_group_tests_name("calls about conflicts", tests, NULL, NULL);
}
