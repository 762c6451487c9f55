/* A refill of which the hub knows and the device's database does not: the answer was lost, as a full disk would have
 * kept it out, before the database had pulled anything. */
#include "unit/engine/between_fixture.h"

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);";

struct scene {
    struct hub first;     /* where the workspace was made */
    struct between after; /* the same hub when it has lost everything: its key is the same */
    struct device device, newcomer;
};

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);

    assert_non_null(s);
    hub_init(&s->first);
    between_init(&s->after);
    device_enter(&s->device, schema, s->first.endpoint, NULL, NULL, NULL);
    app(&s->device, "INSERT INTO memories VALUES('unsent', 'x')");
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    if (s->newcomer.dir[0] != '\0')
        device_fini(&s->newcomer);
    device_fini(&s->device);
    between_fini(&s->after);
    hub_fini(&s->first);
    free(s);
    return 0;
}

static void reopen(struct scene *s)
{
    device_close(&s->device);
    s->device.config.hub_endpoint = s->after.endpoint;
    device_open(&s->device);
}

static bool swallow(struct between *b, struct relay *r, struct cs_slice m)
{
    (void)m;
    if (!is_method(r, "Refill"))
        return true;
    b->dropped++;
    return false;
}

/* It has the workspace again, with a new log and nothing in that. */
static void assert_hub_has_new_log(const struct scene *s)
{
    assert_int_equal(in_hub(&s->after.hub, "SELECT count(*) FROM workspace WHERE refilled = 1 AND number = 0"), 1);
}

static void finish_it(struct scene *s)
{
    clawsync_error err = { 0 };
    int needed = 0;

    ok(clawsync_engine_refill_hub(s->device.engine, &needed, &err), &err);
    assert_int_equal(needed, 1);
    device_enter(&s->newcomer, schema, s->after.endpoint, &s->device, NULL, NULL);
    assert_int_equal(number_in(&s->newcomer, "SELECT count(*) FROM memories WHERE id = 'unsent'"), 1);
    ok(clawsync_engine_sync_now(s->device.engine, NULL, &err), &err);
    ok(clawsync_engine_refill_hub(s->device.engine, &needed, &err), &err);
    assert_int_equal(needed, 0);
}

static void begin_it(struct scene *s)
{
    clawsync_error err = { 0 };

    reopen(s);
    s->after.answer = swallow;
    assert_int_equal(clawsync_engine_refill_hub(s->device.engine, NULL, &err), CLAWSYNC_EUNAVAILABLE);
    assert_int_equal(s->after.dropped, 1);
    assert_hub_has_new_log(s);
    s->after.answer = NULL;
}

static void the_same_command_finishes_it(void **state)
{
    begin_it(*state);
    finish_it(*state);
}

static void so_it_does_after_a_restart(void **state)
{
    begin_it(*state);
    reopen(*state);
    finish_it(*state);
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test_setup_teardown(the_same_command_finishes_it, setup, teardown),
        cmocka_unit_test_setup_teardown(so_it_does_after_a_restart, setup, teardown),
    };

    return cmocka_run_group_tests_name("a refill that only the hub knows of", t, NULL, NULL);
}
