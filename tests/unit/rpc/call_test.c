/* All kinds of call over the real loop, plaintext. */
#include "unit/rpc/rpc_fixture.h"

static void unary_call(void **state)
{
    struct world_case w;
    struct seen s = { 0 };

    (void)state;
    case_open(&w);
    unary(&w, &s, "/t.S/Echo", NULL, 0, cs_slice_str("hello"));
    assert_string_equal(cs_rpc_status_name(s.status), "OK");
    assert_string_equal(s.text, "");
    assert_int_equal(s.messages, 1);
    assert_memory_equal(s.first.data, "hello", 5);
    assert_true(s.headers);
    assert_int_equal(w.up, 1);
    seen_free(&s);
    case_close(&w);
}

static void unary_calls_share_a_connection(void **state)
{
    struct world_case w;

    (void)state;
    case_open(&w);
    for (int i = 0; i < 300; i++) {
        struct seen s = { 0 };

        unary(&w, &s, "/t.S/Echo", NULL, 1000, cs_slice(&i, i == 0 ? 0 : sizeof i));
        assert_int_equal(s.status, CS_RPC_OK);
        assert_int_equal(s.messages, 1);
        assert_int_equal(s.bytes, i == 0 ? 0 : sizeof i);
        seen_free(&s);
    }
    assert_int_equal(w.up, 1);
    case_close(&w);
}

static void many_calls_at_once(void **state)
{
    enum { N = 250 }; /* more than the server's max_streams */
    struct world_case w;
    struct seen *s = calloc(N, sizeof *s);

    (void)state;
    case_open(&w);
    for (int i = 0; i < N; i++) {
        start_call(&w, &s[i], "/t.S/Echo", NULL, 0);
        assert_int_equal(cs_rpc_call_send(s[i].call, cs_slice(&i, sizeof i)), CS_OK);
        cs_rpc_call_half_close(s[i].call);
    }
    for (int i = 0; i < N; i++) {
        finish_call(&w, &s[i]);
        assert_int_equal(s[i].status, CS_RPC_OK);
        assert_memory_equal(s[i].first.data, &i, sizeof i);
        seen_free(&s[i]);
    }
    free(s);
    case_close(&w);
}

static void client_streaming(void **state)
{
    struct world_case w;
    struct seen s = { .to_send = 1000, .size = 3000, .half_close = true };

    (void)state;
    case_open(&w);
    start_call(&w, &s, "/t.S/Count", NULL, 0);
    seen_fill(s.call, &s);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    assert_int_equal(s.first.len, 7);
    assert_memory_equal(s.first.data, "3000000", 7);
    seen_free(&s);
    case_close(&w);
}

static void count_one(void *arg)
{
    ++*(int *)arg;
}

/* Lent messages arrive as others do, and each is released once: sent, or given up with the call. */
static void messages_that_are_lent(void **state)
{
    enum { LARGE = 300 * 1000, N = 20 };
    uint8_t *large = malloc(LARGE);
    struct seen s = { 0 }, waiting = { 0 };
    struct world_case w;
    int released = 0;

    (void)state;
    memset(large, 'x', LARGE);
    case_open(&w);
    start_call(&w, &s, "/t.S/Count", NULL, 0);
    for (int i = 0; i < N; i++) {
        assert_int_equal(cs_rpc_call_lend(s.call, cs_slice(large, LARGE), count_one, &released), CS_OK);
        assert_int_equal(cs_rpc_call_lend(s.call, cs_slice(large, 10), count_one, &released), CS_OK);
        assert_int_equal(cs_rpc_call_send(s.call, cs_slice(large, 10)), CS_OK);
    }
    cs_rpc_call_half_close(s.call);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    assert_memory_equal(s.first.data, "6000400", 7);
    assert_int_equal(released, 2 * N);

    released = 0;
    start_call(&w, &waiting, "/t.S/Wait", NULL, 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(cs_rpc_call_lend(waiting.call, cs_slice(large, LARGE), count_one, &released), CS_OK);
    run_ms(&w, 5);
    cs_rpc_call_cancel(waiting.call);
    assert_int_equal(cs_rpc_call_lend(waiting.call, cs_slice(large, LARGE), count_one, &released), CS_ECANCELED);
    finish_call(&w, &waiting);
    assert_int_equal(released, N);
    seen_free(&s);
    seen_free(&waiting);
    case_close(&w);
    free(large);
}

static void ten_thousand_messages_both_ways(void **state)
{
    struct world_case w;
    struct seen s = { .to_send = 10000, .size = 100, .half_close = true };
    uint8_t data[100];
    uint64_t want = 0;

    (void)state;
    for (size_t i = 0; i < 10000; i++) {
        memset(data, (int)(i & 0xff), sizeof data);
        want = fold(want, cs_slice(data, sizeof data));
    }
    case_open(&w);
    start_call(&w, &s, "/t.S/Echo", NULL, 0);
    seen_fill(s.call, &s);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    assert_int_equal(s.messages, 10000);
    assert_true(s.sum == want);
    seen_free(&s);
    case_close(&w);
}

static void large_messages_both_ways(void **state)
{
    struct world_case w;
    struct seen s = { .to_send = 64, .size = 1 << 20, .half_close = true };

    (void)state;
    case_open(&w);
    start_call(&w, &s, "/t.S/Echo", NULL, 0);
    seen_fill(s.call, &s);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    assert_int_equal(s.bytes, 64 << 20);
    seen_free(&s);
    case_close(&w);
}

/* 64 MiB to a reader that stops after the first message: the sender's queue stays near its bound, and what the
 * connection carries stays within the window. */
static void slow_reader(void **state)
{
    struct world_case w;
    struct seen s = { .pause_after = 1 };

    (void)state;
    case_open(&w);
    w.service.bulk = 1024;
    start_call(&w, &s, "/t.S/Bulk", NULL, 0);
    cs_rpc_call_half_close(s.call);
    run_ms(&w, 200);
    assert_int_equal(s.messages, 1);
    assert_true(w.service.bulk > 1000);
    assert_true(w.service.max_queued <= BULK_BOUND + BULK_MESSAGE + 64);
    /* meanwhile others get through */
    for (int i = 0; i < 5; i++) {
        struct seen other = { 0 };

        unary(&w, &other, "/t.S/Echo", NULL, 5000, cs_slice_str("x"));
        assert_int_equal(other.status, CS_RPC_OK);
        seen_free(&other);
    }
    /* one message at a time, then all of it */
    for (size_t i = 2; i < 40; i++) {
        s.pause_after = i;
        cs_rpc_call_read(s.call, true);
        run_ms(&w, 1);
        assert_int_equal(s.messages, i);
    }
    s.pause_after = 0;
    cs_rpc_call_read(s.call, true);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    assert_int_equal(s.messages, 1024);
    assert_true(w.service.max_queued <= BULK_BOUND + BULK_MESSAGE + 64);
    seen_free(&s);
    case_close(&w);
}

/* Everything is there before the reader goes on: `done` waits for it. */
static void done_comes_after_the_last_message(void **state)
{
    struct world_case w;
    struct seen s = { .pause_after = 1 };

    (void)state;
    case_open(&w);
    w.service.bulk = 4;
    start_call(&w, &s, "/t.S/Bulk", NULL, 0);
    cs_rpc_call_half_close(s.call);
    run_ms(&w, 100);
    assert_int_equal(s.done, 0);
    s.pause_after = 0;
    cs_rpc_call_read(s.call, true);
    assert_int_equal(s.messages, 1); /* never from inside the call that causes it */
    finish_call(&w, &s);
    assert_int_equal(s.messages, 4);
    assert_int_equal(s.status, CS_RPC_OK);
    seen_free(&s);
    case_close(&w);
}

static void every_status_and_metadata(void **state)
{
    static const uint8_t bin[] = { 0, 255, 10, 61, 44 };
    struct world_case w;

    (void)state;
    case_open(&w);
    for (uint8_t status = 0; status <= 17; status++) {
        struct cs_rpc_meta items[] = { { "x-request", cs_slice_str("a value, with spaces") },
                                       { "x-request-bin", cs_slice(bin, status % (sizeof bin + 1)) } };
        struct cs_rpc_metadata m = { items, 2 };
        struct seen s = { 0 };

        unary(&w, &s, "/t.S/Status", &m, 0, cs_slice(&status, 1));
        assert_int_equal(s.status, status == 17 ? CS_RPC_UNKNOWN : status);
        assert_string_equal(s.text, "100 % \xc3\xbc\n");
        assert_string_equal(s.trailer, "a value, with spaces");
        assert_int_equal(s.trailer_bin.len, status % (sizeof bin + 1));
        if (s.trailer_bin.len > 0)
            assert_memory_equal(s.trailer_bin.data, bin, s.trailer_bin.len);
        seen_free(&s);
    }
    case_close(&w);
}

static void unimplemented(void **state)
{
    struct world_case w;
    struct seen s = { 0 };

    (void)state;
    case_open(&w);
    unary(&w, &s, "/t.S/Nothing", NULL, 0, cs_slice_str("x"));
    assert_int_equal(s.status, CS_RPC_UNIMPLEMENTED);
    assert_int_equal(w.service.started, 0);
    seen_free(&s);
    case_close(&w);
}

/* A handler that refuses at once, while the client has much to send. */
static void early_refusal(void **state)
{
    struct world_case w;
    struct seen s = { .to_send = 1000, .size = 100000, .half_close = true };

    (void)state;
    case_open(&w);
    start_call(&w, &s, "/t.S/Early", NULL, 0);
    seen_fill(s.call, &s);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_PERMISSION_DENIED);
    assert_string_equal(s.text, "not you");
    seen_free(&s);
    case_close(&w);
}

static void deadlines(void **state)
{
    struct world_case w;
    struct seen s = { 0 };

    (void)state;
    case_open(&w);
    start_call(&w, &s, "/t.S/Wait", NULL, 80);
    run_ms(&w, 40);
    assert_int_equal(s.done, 0);
    assert_true(w.service.time_left > 0 && w.service.time_left <= 80);
    assert_int_equal(w.service.closed, 0);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_DEADLINE_EXCEEDED);
    assert_true(s.ended_ms - s.started_ms >= 79 && s.ended_ms - s.started_ms < 2000);
    run_ms(&w, 20);
    assert_int_equal(w.service.closed, 1);
    seen_free(&s);
    case_close(&w);
}

static void cancel_by_the_client(void **state)
{
    struct world_case w;
    struct seen s = { .cancel_after = 3 }, idle = { 0 }, fresh = { 0 };

    (void)state;
    case_open(&w);
    w.service.bulk = 10000;
    start_call(&w, &s, "/t.S/Bulk", NULL, 0);
    cs_rpc_call_half_close(s.call);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_CANCELLED);
    assert_int_equal(s.messages, 3);
    run_ms(&w, 50);
    assert_int_equal(w.service.closed, 1);
    start_call(&w, &idle, "/t.S/Wait", NULL, 0);
    run_ms(&w, 20);
    cs_rpc_call_cancel(idle.call);
    assert_int_equal(idle.done, 0); /* not from inside */
    assert_int_equal(cs_rpc_call_send(idle.call, cs_slice_str("x")), CS_ECANCELED);
    finish_call(&w, &idle);
    run_ms(&w, 20);
    assert_int_equal(w.service.closed, 2);
    /* before it ever left */
    start_call(&w, &fresh, "/t.S/Wait", NULL, 0);
    cs_rpc_call_cancel(fresh.call);
    finish_call(&w, &fresh);
    assert_int_equal(fresh.status, CS_RPC_CANCELLED);
    run_ms(&w, 20);
    seen_free(&s);
    seen_free(&idle);
    seen_free(&fresh);
    case_close(&w);
}

static void size_limits(void **state)
{
    static uint8_t data[5 << 20];
    struct world_case w;
    struct seen request = { 0 }, method = { 0 }, answer = { 0 };

    (void)state;
    case_open(&w);
    unary(&w, &request, "/t.S/Echo", NULL, 0, cs_slice(data, sizeof data));
    assert_int_equal(request.status, CS_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(w.service.received, 0);
    unary(&w, &method, "/t.S/Small", NULL, 0, cs_slice(data, 1001));
    assert_int_equal(method.status, CS_RPC_RESOURCE_EXHAUSTED);
    cs_rpc_channel_close(w.channel);
    case_dial(&w, &(struct cs_rpc_channel_options){ .max_message = 100 });
    unary(&w, &answer, "/t.S/Echo", NULL, 0, cs_slice(data, 101));
    assert_int_equal(answer.status, CS_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(answer.messages, 0);
    seen_free(&request);
    seen_free(&method);
    seen_free(&answer);
    run_ms(&w, 20);
    case_close(&w);
}

static void bad_arguments(void **state)
{
    static const struct cs_rpc_meta bad[] = {
        { "grpc-timeout", { (const uint8_t *)"1S", 2 } }, { ":path", { (const uint8_t *)"/", 1 } },
        { "Upper", { (const uint8_t *)"x", 1 } },         { "", { (const uint8_t *)"x", 1 } },
        { "x", { (const uint8_t *)"a\nb", 3 } },          { "te", { (const uint8_t *)"x", 1 } },
    };
    struct world_case w;
    struct cs_error err;
    cs_rpc_call *c;

    (void)state;
    case_open(&w);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct cs_rpc_metadata m = { &bad[i], 1 };

        assert_int_equal(cs_rpc_call_new(w.channel, "/t.S/Echo", &m, 0, &seen_cb, NULL, &c, &err), CS_EINVAL);
    }
    assert_int_equal(cs_rpc_call_new(w.channel, "t.S/Echo", NULL, 0, &seen_cb, NULL, &c, &err), CS_EINVAL);
    assert_int_equal(w.up, 0); /* nothing was connected for that */
    case_close(&w);
}

static void large_metadata_is_refused(void **state)
{
    static char value[20000];
    struct cs_rpc_meta item = { "x-large", { (const uint8_t *)value, sizeof value } };
    struct cs_rpc_metadata m = { &item, 1 };
    struct world_case w;
    struct seen s = { 0 }, after = { 0 };

    (void)state;
    memset(value, 'v', sizeof value);
    case_open(&w);
    unary(&w, &s, "/t.S/Echo", &m, 0, cs_slice_str("x"));
    assert_int_equal(s.status, CS_RPC_RESOURCE_EXHAUSTED);
    unary(&w, &after, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
    assert_int_equal(after.status, CS_RPC_OK);
    assert_int_equal(w.up, 1);
    seen_free(&s);
    seen_free(&after);
    case_close(&w);
}

static void close_inside_a_callback(void **state)
{
    struct world_case w;
    struct seen s = { 0 }, other = { 0 };

    (void)state;
    case_open(&w);
    w.service.bulk = 100;
    start_call(&w, &other, "/t.S/Wait", NULL, 0);
    start_call(&w, &s, "/t.S/Bulk", NULL, 0);
    s.close_after_first = w.channel;
    w.channel = NULL;
    cs_rpc_call_half_close(s.call);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_CANCELLED);
    assert_int_equal(other.status, CS_RPC_CANCELLED);
    assert_int_equal(other.done, 1);
    run_ms(&w, 50);
    assert_int_equal(w.service.closed, 2);
    seen_free(&s);
    seen_free(&other);
    case_close(&w);
}

static void the_server_closes_inside_a_callback(void **state)
{
    struct world_case w;
    struct seen s = { .to_send = 3, .size = 10 }, other = { 0 };

    (void)state;
    case_open(&w);
    start_call(&w, &other, "/t.S/Wait", NULL, 0);
    run_ms(&w, 20);
    w.service.close_me = &w.server;
    start_call(&w, &s, "/t.S/Echo", NULL, 0);
    seen_fill(s.call, &s);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
    finish_call(&w, &other);
    assert_int_equal(other.status, CS_RPC_UNAVAILABLE);
    assert_null(w.server);
    assert_int_equal(w.service.closed, 2);
    seen_free(&s);
    seen_free(&other);
    case_close(&w);
}

/* Each holds a full window back: more together than the connection's. */
static void paused_readers_do_not_block_others(void **state)
{
    enum { N = 10 };
    struct world_case w;
    struct seen paused[N] = { 0 }, other = { 0 };

    (void)state;
    case_open(&w);
    w.service.bulk = 100000;
    for (int i = 0; i < N; i++) {
        paused[i].pause_after = 1;
        start_call(&w, &paused[i], "/t.S/Bulk", NULL, 0);
        cs_rpc_call_half_close(paused[i].call);
    }
    run_ms(&w, 200);
    for (int i = 0; i < 100; i++) {
        struct seen s = { 0 };

        unary(&w, &s, "/t.S/Echo", NULL, 5000, cs_slice_str("x"));
        assert_int_equal(s.status, CS_RPC_OK);
        seen_free(&s);
    }
    other.to_send = 20;
    other.size = 1 << 20;
    other.half_close = true;
    start_call(&w, &other, "/t.S/Echo", NULL, 20000);
    seen_fill(other.call, &other);
    finish_call(&w, &other);
    assert_int_equal(other.status, CS_RPC_OK);
    seen_free(&other);
    for (int i = 0; i < N; i++) {
        assert_int_equal(paused[i].messages, 1);
        cs_rpc_call_cancel(paused[i].call);
        finish_call(&w, &paused[i]);
        seen_free(&paused[i]);
    }
    run_ms(&w, 50);
    case_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unary_call),
        cmocka_unit_test(unary_calls_share_a_connection),
        cmocka_unit_test(many_calls_at_once),
        cmocka_unit_test(client_streaming),
        cmocka_unit_test(messages_that_are_lent),
        cmocka_unit_test(ten_thousand_messages_both_ways),
        cmocka_unit_test(large_messages_both_ways),
        cmocka_unit_test(slow_reader),
        cmocka_unit_test(done_comes_after_the_last_message),
        cmocka_unit_test(every_status_and_metadata),
        cmocka_unit_test(unimplemented),
        cmocka_unit_test(early_refusal),
        cmocka_unit_test(deadlines),
        cmocka_unit_test(cancel_by_the_client),
        cmocka_unit_test(size_limits),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(large_metadata_is_refused),
        cmocka_unit_test(close_inside_a_callback),
        cmocka_unit_test(the_server_closes_inside_a_callback),
        cmocka_unit_test(paused_readers_do_not_block_others),
    };

    return cmocka_run_group_tests_name("rpc calls", tests, NULL, NULL);
}
