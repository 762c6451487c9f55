/* Client and server of src/rpc on two hosts of the simulated network, under virtual time. */
#include "base/test_world.h"

#include "unit/rpc/rpc_fixture.h"

enum { HOUR_MS = 3600 * 1000 };

struct pair {
    cs_sim *sim;
    struct cs_world *alice, *hub;
    struct world_case client, server; /* each has a loop on its host */
};

static void serve(struct pair *p)
{
    static const struct cs_rpc_server_options any = { .host = "0.0.0.0" };

    p->server.port = 50051;
    case_serve(&p->server, &any);
}

static void pair_open(struct pair *p, uint64_t seed)
{
    static const struct cs_rpc_channel_options to = { .host = "hub" };

    memset(p, 0, sizeof *p);
    assert_non_null(p->sim = cs_sim_new(seed));
    p->alice = cs_sim_host(p->sim, "alice");
    p->hub = cs_sim_host(p->sim, "hub");
    case_loop(&p->client, p->alice);
    case_loop(&p->server, p->hub);
    cs_timer_stop(p->client.guard); /* hours pass at once here; who waits for nothing is told by the simulation */
    cs_timer_stop(p->server.guard);
    serve(p);
    p->client.port = p->server.port;
    case_dial(&p->client, &to);
}

static void pair_close(struct pair *p)
{
    case_close(&p->client);
    cs_sim_run(p->sim, 1000, NULL, NULL); /* the server hears of it */
    case_close(&p->server);
    cs_sim_free(p->sim);
}

static bool call_done(void *arg)
{
    return ((struct seen *)arg)->done > 0;
}

static bool server_waits(void *arg)
{
    return ((struct service *)arg)->waiting != NULL;
}

static void unary_calls(void **state)
{
    struct pair p;

    (void)state;
    pair_open(&p, 1);
    for (int i = 0; i < 20; i++) {
        struct seen s = { 0 };

        unary(&p.client, &s, "/t.S/Echo", NULL, 0, cs_slice_str("hello"));
        assert_int_equal(s.status, CS_RPC_OK);
        assert_int_equal(s.messages, 1);
        assert_memory_equal(s.first.data, "hello", 5);
        seen_free(&s);
    }
    assert_int_equal(p.client.up, 1);
    assert_int_equal(p.server.service.started, 20);
    pair_close(&p);
}

static void server_streaming(void **state)
{
    struct pair p;
    struct seen s = { 0 };

    (void)state;
    pair_open(&p, 2);
    p.server.service.bulk = 200;
    start_call(&p.client, &s, "/t.S/Bulk", NULL, 0);
    cs_rpc_call_half_close(s.call);
    finish_call(&p.client, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    assert_int_equal(s.messages, 200);
    assert_int_equal(s.bytes, 200 * BULK_MESSAGE);
    assert_true(p.server.service.max_queued <= BULK_BOUND + BULK_MESSAGE + 64);
    seen_free(&s);
    pair_close(&p);
}

/* A client that stops reading keeps the server's queue at its bound, for as long as it takes. */
static void a_slow_reader_bounds_the_writer(void **state)
{
    struct pair p;
    struct seen s = { .pause_after = 1 };

    (void)state;
    pair_open(&p, 3);
    p.server.service.bulk = 1024;
    start_call(&p.client, &s, "/t.S/Bulk", NULL, 0);
    cs_rpc_call_half_close(s.call);
    cs_sim_run(p.sim, HOUR_MS, NULL, NULL);
    assert_int_equal(s.messages, 1);
    assert_int_equal(s.done, 0);
    assert_true(p.server.service.bulk > 900);
    assert_true(p.server.service.max_queued <= BULK_BOUND + BULK_MESSAGE + 64);
    s.pause_after = 0;
    cs_rpc_call_read(s.call, true);
    finish_call(&p.client, &s);
    assert_int_equal(s.messages, 1024);
    seen_free(&s);
    pair_close(&p);
}

static void both_ways(void **state)
{
    struct pair p;
    struct seen s = { .to_send = 3000, .size = 700, .half_close = true };
    uint8_t data[700];
    uint64_t want = 0;

    (void)state;
    for (size_t i = 0; i < 3000; i++) {
        memset(data, (int)(i & 0xff), sizeof data);
        want = fold(want, cs_slice(data, sizeof data));
    }
    pair_open(&p, 4);
    start_call(&p.client, &s, "/t.S/Echo", NULL, 0);
    seen_fill(s.call, &s);
    finish_call(&p.client, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    assert_int_equal(s.messages, 3000);
    assert_true(s.sum == want);
    seen_free(&s);
    pair_close(&p);
}

/* An hour's deadline ends after an hour of the simulation's time. */
static void a_long_deadline_costs_no_time(void **state)
{
    struct pair p;
    struct seen s = { 0 };

    (void)state;
    pair_open(&p, 5);
    start_call(&p.client, &s, "/t.S/Wait", NULL, HOUR_MS);
    finish_call(&p.client, &s);
    assert_int_equal(s.status, CS_RPC_DEADLINE_EXCEEDED);
    assert_true(s.ended_ms - s.started_ms >= HOUR_MS && s.ended_ms - s.started_ms < HOUR_MS + 1000);
    assert_true(p.server.service.time_left > HOUR_MS - 1000 && p.server.service.time_left <= HOUR_MS);
    seen_free(&s);
    pair_close(&p);
}

static void a_partition_makes_the_hub_unavailable(void **state)
{
    struct pair p;
    struct seen s = { 0 }, during = { 0 }, after = { 0 };

    (void)state;
    pair_open(&p, 6);
    start_call(&p.client, &s, "/t.S/Wait", NULL, 0);
    assert_true(cs_sim_run(p.sim, HOUR_MS, server_waits, &p.server.service));
    cs_sim_partition(p.sim, p.alice, p.hub, CS_SIM_BROKEN);
    finish_call(&p.client, &s);
    assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
    assert_int_equal(p.client.down, 1);
    unary(&p.client, &during, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
    assert_int_equal(during.status, CS_RPC_UNAVAILABLE);
    assert_true(during.ended_ms - during.started_ms >= 10000); /* the time to connect */
    cs_sim_partition(p.sim, p.alice, p.hub, CS_SIM_UP);
    unary(&p.client, &after, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
    assert_int_equal(after.status, CS_RPC_OK);
    seen_free(&s);
    seen_free(&during);
    seen_free(&after);
    pair_close(&p);
}

/* Lost packets alone: the call goes on when they come through again, or its deadline ends it. */
static void held_bytes_delay_a_call(void **state)
{
    struct pair p;
    struct seen first = { 0 }, s = { 0 }, late = { 0 };

    (void)state;
    pair_open(&p, 7);
    unary(&p.client, &first, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
    cs_sim_partition(p.sim, p.alice, p.hub, CS_SIM_HELD);
    start_call(&p.client, &s, "/t.S/Echo", NULL, 0);
    assert_int_equal(cs_rpc_call_send(s.call, cs_slice_str("slow")), CS_OK);
    cs_rpc_call_half_close(s.call);
    unary(&p.client, &late, "/t.S/Echo", NULL, 20000, cs_slice_str("late"));
    assert_int_equal(late.status, CS_RPC_DEADLINE_EXCEEDED);
    assert_int_equal(s.done, 0);
    cs_sim_partition(p.sim, p.alice, p.hub, CS_SIM_UP);
    finish_call(&p.client, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    assert_int_equal(p.client.up, 1);
    seen_free(&first);
    seen_free(&s);
    seen_free(&late);
    pair_close(&p);
}

static void a_connection_held_for_long_is_given_up(void **state)
{
    struct pair p;
    struct seen first = { 0 }, s = { 0 };

    (void)state;
    pair_open(&p, 8);
    unary(&p.client, &first, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
    cs_sim_partition(p.sim, p.alice, p.hub, CS_SIM_HELD);
    unary(&p.client, &s, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
    assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
    seen_free(&first);
    seen_free(&s);
    pair_close(&p);
}

static void a_killed_server_is_unavailable_until_it_is_back(void **state)
{
    struct pair p;
    struct seen s = { 0 }, refused = { 0 }, after = { 0 };

    (void)state;
    pair_open(&p, 9);
    start_call(&p.client, &s, "/t.S/Wait", NULL, 0);
    assert_true(cs_sim_run(p.sim, HOUR_MS, server_waits, &p.server.service));
    cs_sim_kill_host(p.hub);
    finish_call(&p.client, &s);
    assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
    unary(&p.client, &refused, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
    assert_int_equal(refused.status, CS_RPC_UNAVAILABLE);
    case_close(&p.server);
    case_loop(&p.server, p.hub);
    cs_timer_stop(p.server.guard);
    serve(&p);
    unary(&p.client, &after, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
    assert_int_equal(after.status, CS_RPC_OK);
    seen_free(&s);
    seen_free(&refused);
    seen_free(&after);
    pair_close(&p);
}

/* A day of calls of all kinds, with the network going and coming. */
static uint64_t day(uint64_t seed, int *failed)
{
    struct pair p;
    uint64_t trace;

    pair_open(&p, seed);
    *failed = 0;
    for (int i = 0; i < 60; i++) {
        struct seen s = { .to_send = 20, .size = 5000, .half_close = true };

        if (cs_sim_random(p.sim, 5) == 0)
            cs_sim_partition(p.sim, p.alice, p.hub, (enum cs_sim_link)cs_sim_random(p.sim, 3));
        start_call(&p.client, &s, i % 2 == 0 ? "/t.S/Echo" : "/t.S/Count", NULL, HOUR_MS / 3);
        seen_fill(s.call, &s);
        assert_true(cs_sim_run(p.sim, HOUR_MS, call_done, &s));
        if (s.status == CS_RPC_OK)
            assert_int_equal(s.messages, i % 2 == 0 ? 20 : 1);
        else
            ++*failed;
        cs_sim_run(p.sim, cs_sim_random(p.sim, HOUR_MS / 2), NULL, NULL);
        seen_free(&s);
    }
    cs_sim_partition(p.sim, p.alice, p.hub, CS_SIM_UP);
    trace = cs_sim_trace(p.sim);
    pair_close(&p);
    return trace;
}

static void a_seed_repeats_itself(void **state)
{
    int failed, again;
    uint64_t trace = day(100, &failed);

    (void)state;
    assert_true(day(100, &again) == trace);
    assert_int_equal(failed, again);
    assert_true(day(101, &again) != trace);
    assert_true(failed > 0 && failed < 60);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(unary_calls),
        cmocka_unit_test(server_streaming),
        cmocka_unit_test(a_slow_reader_bounds_the_writer),
        cmocka_unit_test(both_ways),
        cmocka_unit_test(a_long_deadline_costs_no_time),
        cmocka_unit_test(a_partition_makes_the_hub_unavailable),
        cmocka_unit_test(held_bytes_delay_a_call),
        cmocka_unit_test(a_connection_held_for_long_is_given_up),
        cmocka_unit_test(a_killed_server_is_unavailable_until_it_is_back),
        cmocka_unit_test(a_seed_repeats_itself),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
