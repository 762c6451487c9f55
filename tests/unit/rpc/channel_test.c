/* What a channel and a server do beyond single calls: compression, leading metadata, advice on retries, waiting for a
 * server, several connections, keepalive, going out of service. */
#include "unit/rpc/wire_fixture.h"

static void compression_both_ways(void **state)
{
    struct world_case w;
    struct seen s = { 0 };
    uint8_t *data = calloc(1, 300000);

    (void)state;
    case_open(&w);
    open_call(&w, &s, &(struct cs_rpc_call_options){ .path = "/t.S/Packed", .timeout_ms = 20000, .compress = true });
    memset(data, 'a', 150000);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(cs_rpc_call_compress(s.call, i != 1), CS_OK);
        assert_int_equal(cs_rpc_call_send(s.call, cs_slice(data, 300000)), CS_OK);
    }
    /* compressed, it is smaller than this */
    assert_in_range(cs_rpc_call_queued(s.call), 300000, 310000);
    cs_rpc_call_half_close(s.call);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    assert_int_equal(w.service.compress, CS_OK);
    assert_int_equal(s.messages, 6);
    assert_int_equal(s.bytes, 6 * 300000);
    assert_memory_equal(s.first.data, data, 300000);
    free(data);
    seen_free(&s);
    case_close(&w);
}

/* What does not get smaller goes as it is. */
static void noise_is_not_compressed(void **state)
{
    struct world_case w;
    struct seen s = { 0 };
    uint8_t data[4000];
    uint32_t x = 1;

    (void)state;
    for (size_t i = 0; i < sizeof data; i++) {
        x = x * 1664525 + 1013904223;
        data[i] = (uint8_t)(x >> 24);
    }
    case_open(&w);
    open_call(&w, &s, &(struct cs_rpc_call_options){ .path = "/t.S/Echo", .compress = true });
    assert_int_equal(cs_rpc_call_send(s.call, cs_slice(data, sizeof data)), CS_OK);
    assert_int_equal(cs_rpc_call_queued(s.call), sizeof data + 5);
    cs_rpc_call_half_close(s.call);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    assert_int_equal(s.first.len, sizeof data);
    assert_memory_equal(s.first.data, data, sizeof data);
    seen_free(&s);
    case_close(&w);
}

static void a_bomb_is_refused(void **state)
{
    struct world_case w;
    struct seen s = { 0 };
    uint8_t *data = calloc(1, 100000);

    (void)state;
    case_open(&w);
    open_call(&w, &s, &(struct cs_rpc_call_options){ .path = "/t.S/Small", .compress = true });
    assert_int_equal(cs_rpc_call_send(s.call, cs_slice(data, 100000)), CS_OK);
    assert_true(cs_rpc_call_queued(s.call) < 1000);
    cs_rpc_call_half_close(s.call);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_RESOURCE_EXHAUSTED);
    free(data);
    seen_free(&s);
    case_close(&w);
}

static void leading_metadata(void **state)
{
    struct world_case w;
    struct seen s = { 0 }, plain = { 0 };

    (void)state;
    case_open(&w);
    start_call(&w, &s, "/t.S/Lead", NULL, 10000);
    RUN_UNTIL(&w, s.headers); /* before any message */
    assert_string_equal(s.lead, "first");
    assert_int_equal(s.messages, 0);
    assert_int_equal(cs_rpc_call_send(s.call, cs_slice_str("x")), CS_OK);
    cs_rpc_call_half_close(s.call);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    assert_int_equal(s.messages, 1);
    unary(&w, &plain, "/t.S/Echo", NULL, 10000, cs_slice_str("x"));
    assert_true(plain.headers);
    assert_string_equal(plain.lead, "");
    seen_free(&s);
    seen_free(&plain);
    case_close(&w);
}

static void advice_on_retries(void **state)
{
    static const struct {
        uint8_t byte;
        int64_t pushback;
    } cases[] = { { 0, 0 }, { 17, 17 }, { 255, CS_RPC_PUSHBACK_STOP } };
    struct world_case w;
    struct seen other = { 0 }, refused = { 0 };

    (void)state;
    case_open(&w);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct seen s = { 0 };

        unary(&w, &s, "/t.S/Later", NULL, 10000, cs_slice(&cases[i].byte, 1));
        assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
        assert_int_equal(s.pushback, cases[i].pushback);
        assert_false(s.unprocessed);
        seen_free(&s);
    }
    unary(&w, &other, "/t.S/Nothing", NULL, 10000, cs_slice_str("x"));
    assert_int_equal(other.pushback, CS_RPC_PUSHBACK_NONE);
    cs_rpc_server_close(w.server);
    w.server = NULL;
    RUN_UNTIL(&w, w.down > 0);
    unary(&w, &refused, "/t.S/Echo", NULL, 10000, cs_slice_str("x"));
    assert_int_equal(refused.status, CS_RPC_UNAVAILABLE);
    assert_int_equal(refused.pushback, CS_RPC_PUSHBACK_NONE);
    assert_true(refused.unprocessed);
    seen_free(&other);
    seen_free(&refused);
    case_close(&w);
}

/* ---- waiting for a server ---- */

static const struct cs_rpc_channel_options hasty = { .backoff_ms = 5, .backoff_max_ms = 20 };

/* A port where nobody listens. */
static void case_open_without_server(struct world_case *w)
{
    case_loop(w, cs_world_real());
    case_serve(w, NULL);
    cs_rpc_server_close(w->server);
    w->server = NULL;
    case_dial(w, &hasty);
}

static void calls_wait_for_a_server(void **state)
{
    struct world_case w;
    struct seen waits[3] = { 0 }, cannot_wait = { 0 }, expires = { 0 }, gives_up = { 0 }, after = { 0 };
    struct cs_rpc_call_options o = { .path = "/t.S/Echo", .wait_for_ready = true };

    (void)state;
    case_open_without_server(&w);
    for (uint8_t i = 0; i < 3; i++) {
        open_call(&w, &waits[i], &o);
        assert_int_equal(cs_rpc_call_send(waits[i].call, cs_slice(&i, 1)), CS_OK);
        cs_rpc_call_half_close(waits[i].call);
    }
    open_call(&w, &gives_up, &o);
    o.timeout_ms = 60;
    open_call(&w, &expires, &o);
    unary(&w, &cannot_wait, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
    assert_int_equal(cannot_wait.status, CS_RPC_UNAVAILABLE);
    cs_rpc_call_cancel(gives_up.call);
    finish_call(&w, &gives_up);
    assert_int_equal(gives_up.status, CS_RPC_CANCELLED);
    finish_call(&w, &expires);
    assert_int_equal(expires.status, CS_RPC_DEADLINE_EXCEEDED);
    assert_true(expires.unprocessed);
    RUN_UNTIL(&w, w.down >= 3); /* several attempts failed */
    for (int i = 0; i < 3; i++)
        assert_int_equal(waits[i].done, 0);
    assert_int_equal(w.up, 0);
    case_serve(&w, NULL);
    for (uint8_t i = 0; i < 3; i++) {
        finish_call(&w, &waits[i]);
        assert_int_equal(waits[i].status, CS_RPC_OK);
        assert_int_equal(waits[i].first.data[0], i);
    }
    assert_int_equal(w.up, 1);
    o.timeout_ms = 10000;
    open_call(&w, &after, &o); /* at once, now */
    cs_rpc_call_half_close(after.call);
    finish_call(&w, &after);
    assert_int_equal(after.status, CS_RPC_OK);
    for (int i = 0; i < 3; i++)
        seen_free(&waits[i]);
    case_close(&w);
    seen_free(&cannot_wait);
    seen_free(&expires);
    seen_free(&gives_up);
    seen_free(&after);
}

static void the_channel_closes_on_those_who_wait(void **state)
{
    struct world_case w;
    struct seen s = { 0 };

    (void)state;
    case_open_without_server(&w);
    open_call(&w, &s, &(struct cs_rpc_call_options){ .path = "/t.S/Echo", .wait_for_ready = true });
    RUN_UNTIL(&w, w.down >= 2);
    cs_rpc_channel_close(w.channel);
    w.channel = NULL;
    assert_int_equal(s.done, 1);
    assert_int_equal(s.status, CS_RPC_CANCELLED);
    seen_free(&s);
    case_close(&w);
}

/* ---- several connections ---- */

static size_t connections_of(const struct world_case *w)
{
    struct cs_rpc_server_stats stats;

    cs_rpc_server_stats(w->server, &stats);
    return stats.connections;
}

static void a_full_connection_is_not_the_only_one(void **state)
{
    enum { STREAMS = 2, CONNECTIONS = 3, N = STREAMS * CONNECTIONS };
    struct world_case w;
    struct seen s[N] = { 0 }, queued = { 0 }, first = { 0 };

    (void)state;
    case_loop(&w, cs_world_real());
    case_serve(&w, &(struct cs_rpc_server_options){ .max_streams = STREAMS });
    case_dial(&w, &(struct cs_rpc_channel_options){ .max_connections = CONNECTIONS });
    /* all at once, before the server has said how many it takes */
    for (int i = 0; i < N; i++)
        start_call(&w, &s[i], "/t.S/Wait", NULL, 0);
    RUN_UNTIL(&w, w.service.started == N);
    assert_int_equal(connections_of(&w), CONNECTIONS);
    start_call(&w, &queued, "/t.S/Early", NULL, 0);
    run_ms(&w, 20);
    assert_int_equal(w.service.started, N);
    assert_int_equal(connections_of(&w), CONNECTIONS);
    for (int i = 0; i < N; i++)
        cs_rpc_call_cancel(s[i].call);
    finish_call(&w, &queued);
    assert_int_equal(queued.status, CS_RPC_PERMISSION_DENIED);
    for (int i = 0; i < N; i++) {
        finish_call(&w, &s[i]);
        assert_int_equal(s[i].status, CS_RPC_CANCELLED);
        seen_free(&s[i]);
    }
    assert_int_equal(w.up, 1);
    unary(&w, &first, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
    assert_int_equal(first.status, CS_RPC_OK);
    seen_free(&queued);
    seen_free(&first);
    case_close(&w);
}

/* One after the other, each finds the connections full that were made before. */
static void connections_are_added_one_by_one(void **state)
{
    struct world_case w;
    struct seen s[4] = { 0 };

    (void)state;
    case_loop(&w, cs_world_real());
    case_serve(&w, &(struct cs_rpc_server_options){ .max_streams = 1 });
    case_dial(&w, NULL);
    for (int i = 0; i < 4; i++) {
        open_call(&w, &s[i], &(struct cs_rpc_call_options){ .path = "/t.S/Wait", .wait_for_ready = i % 2 == 0 });
        RUN_UNTIL(&w, w.service.started == i + 1);
        assert_int_equal(connections_of(&w), i + 1);
    }
    cs_rpc_server_close(w.server);
    w.server = NULL;
    for (int i = 0; i < 4; i++) {
        finish_call(&w, &s[i]);
        assert_int_equal(s[i].status, CS_RPC_UNAVAILABLE);
        seen_free(&s[i]);
    }
    RUN_UNTIL(&w, w.down > 0);
    assert_int_equal(w.up, 1);
    assert_int_equal(w.down, 1); /* only the last is news */
    case_close(&w);
}

/* ---- keepalive ---- */

static void a_mute_server_is_given_up(void **state)
{
    struct world_case w;
    struct wire mute = { 0 };
    struct seen s = { 0 };
    struct answer a;
    struct cs_error err;

    (void)state;
    case_loop(&w, cs_world_real());
    mute.loop = w.loop;
    put_frame(&mute.say, SETTINGS, 0, 0, CS_SLICE_NULL);
    assert_int_equal(cs_listen(w.loop, "127.0.0.1", 0, wire_accepted, &mute, &mute.listener, &err), CS_OK);
    w.port = cs_listener_port(mute.listener);
    case_dial(&w, &(struct cs_rpc_channel_options){ .keepalive_ms = 30, .keepalive_timeout_ms = 30 });
    start_call(&w, &s, "/t.S/Any", NULL, 0);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
    assert_non_null(strstr(s.text, "no answer to a ping"));
    a = read_request(&mute.heard);
    assert_int_equal(a.npings, 1);
    seen_free(&s);
    wire_close(&mute);
    case_close(&w);
}

static void pings_keep_a_quiet_call(void **state)
{
    struct world_case w;
    struct seen s = { 0 };

    (void)state;
    case_loop(&w, cs_world_real());
    case_serve(&w, &(struct cs_rpc_server_options){ .min_ping_ms = 1 });
    case_dial(&w, &(struct cs_rpc_channel_options){ .keepalive_ms = 10, .keepalive_timeout_ms = 20000 });
    start_call(&w, &s, "/t.S/Wait", NULL, 0);
    RUN_UNTIL(&w, w.service.waiting != NULL);
    run_ms(&w, 150);
    assert_int_equal(s.done, 0);
    cs_rpc_call_finish(w.service.waiting, CS_RPC_OK, NULL, NULL);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    seen_free(&s);
    case_close(&w);
}

/* Until the channel has learned to ping less often. */
static void too_many_pings(void **state)
{
    struct world_case w;
    struct cs_rpc_server_stats stats;
    struct seen s = { 0 }, again = { 0 };

    (void)state;
    case_loop(&w, cs_world_real());
    case_serve(&w, &(struct cs_rpc_server_options){ .min_ping_ms = 60 });
    case_dial(&w, &(struct cs_rpc_channel_options){ .keepalive_ms = 15 });
    start_call(&w, &s, "/t.S/Wait", NULL, 0);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
    assert_non_null(strstr(s.text, "ENHANCE_YOUR_CALM (too_many_pings)"));
    cs_rpc_server_stats(w.server, &stats);
    assert_int_equal(stats.calmed, 1);
    for (int i = 0; i == 0 || (i < 10 && again.done > 0); i++) {
        again = (struct seen){ 0 };
        start_call(&w, &again, "/t.S/Wait", NULL, 0);
        run_ms(&w, 1000);
    }
    assert_int_equal(again.done, 0);
    cs_rpc_call_cancel(again.call);
    finish_call(&w, &again);
    seen_free(&s);
    seen_free(&again);
    case_close(&w);
}

static void a_mute_client_is_given_up(void **state)
{
    static const char *const lines[] = { HEAD("/t.S/Wait"), GRPC, NULL };
    struct world_case w;
    struct wire x = { 0 };

    (void)state;
    case_loop(&w, cs_world_real());
    case_serve(&w, &(struct cs_rpc_server_options){ .keepalive_ms = 30, .keepalive_timeout_ms = 30 });
    put_preface(&x.say);
    put_headers(&x.say, 0, lines);
    wire_dial(&x, &w);
    RUN_UNTIL(&w, w.service.started == 1);
    RUN_UNTIL(&w, x.ended);
    assert_int_equal(w.service.closed, 1);
    assert_int_equal(read_answer(&x.heard).npings, 1);
    assert_int_equal(connections_of(&w), 0);
    wire_close(&x);
    case_close(&w);
}

/* ---- out of service ---- */

static void an_idle_connection_is_closed(void **state)
{
    struct world_case w;
    struct seen s = { 0 };

    (void)state;
    case_loop(&w, cs_world_real());
    case_serve(&w, &(struct cs_rpc_server_options){ .idle_ms = 40 });
    case_dial(&w, NULL);
    for (int i = 0; i < 3; i++) {
        s = (struct seen){ 0 };
        unary(&w, &s, "/t.S/Echo", NULL, 10000, cs_slice_str("x"));
        assert_int_equal(s.status, CS_RPC_OK);
        seen_free(&s);
        RUN_UNTIL(&w, connections_of(&w) == 0);
    }
    s = (struct seen){ 0 };
    start_call(&w, &s, "/t.S/Wait", NULL, 0); /* which is not idle */
    run_ms(&w, 150);
    assert_int_equal(s.done, 0);
    cs_rpc_call_cancel(s.call);
    finish_call(&w, &s);
    seen_free(&s);
    case_close(&w);
}

static void on_flag(void *arg)
{
    ++*(int *)arg;
}

/* First a GOAWAY that refuses nothing; after the answer to the ping the one that counts. */
static void draining_takes_two_steps(void **state)
{
    static const char *const lines[] = { HEAD("/t.S/Echo"), GRPC, NULL };
    struct world_case w;
    struct wire x = { 0 };
    struct cs_buf late = { 0 }, ack = { 0 };
    struct answer a;
    int drained = 0;

    (void)state;
    case_open(&w);
    put_preface(&x.say);
    put_headers_on(&x.say, 1, END_STREAM, lines);
    wire_dial(&x, &w);
    RUN_UNTIL(&w, read_answer(&x.heard).grpc == 0);
    cs_rpc_server_drain(w.server, 30000, on_flag, &drained);
    RUN_UNTIL(&w, (a = read_answer(&x.heard)).npings == 1);
    assert_int_equal(a.ngoaways, 1);
    assert_int_equal(a.goaway, NGHTTP2_NO_ERROR);
    assert_int_equal(a.last_id, INT32_MAX);
    run_ms(&w, 20);
    assert_int_equal(drained, 0);
    put_headers_on(&late, 3, END_STREAM, lines); /* it was on its way */
    wire_say(&x, cs_buf_slice(&late));
    RUN_UNTIL(&w, w.service.closed == 2);
    put_frame(&ack, PING, ACK, 0, cs_slice(a.ping, 8));
    wire_say(&x, cs_buf_slice(&ack));
    RUN_UNTIL(&w, x.ended);
    a = read_answer(&x.heard);
    assert_int_equal(a.ngoaways, 2);
    assert_int_equal(a.goaway, NGHTTP2_NO_ERROR);
    assert_int_equal(a.last_id, 3);
    RUN_UNTIL(&w, drained == 1);
    cs_buf_free(&late);
    cs_buf_free(&ack);
    wire_close(&x);
    case_close(&w);
}

/* A call that the final GOAWAY leaves out was certainly not processed. */
static void a_call_left_out_by_goaway(void **state)
{
    struct world_case w;
    struct wire liar = { 0 };
    struct seen first = { 0 }, second = { 0 };
    struct cs_buf goaway = { 0 };
    static const uint8_t last_is_1[8] = { 0, 0, 0, 1 };
    struct cs_error err;

    (void)state;
    case_loop(&w, cs_world_real());
    liar.loop = w.loop;
    put_frame(&liar.say, SETTINGS, 0, 0, CS_SLICE_NULL);
    assert_int_equal(cs_listen(w.loop, "127.0.0.1", 0, wire_accepted, &liar, &liar.listener, &err), CS_OK);
    w.port = cs_listener_port(liar.listener);
    case_dial(&w, NULL);
    start_call(&w, &first, "/t.S/Any", NULL, 0);
    RUN_UNTIL(&w, w.up == 1);
    start_call(&w, &second, "/t.S/Any", NULL, 0);
    run_ms(&w, 10);
    put_frame(&goaway, GOAWAY, 0, 0, cs_slice(last_is_1, 8));
    wire_say(&liar, cs_buf_slice(&goaway));
    finish_call(&w, &second);
    assert_int_equal(second.status, CS_RPC_UNAVAILABLE);
    assert_true(second.unprocessed);
    assert_int_equal(first.done, 0);
    wire_close(&liar);
    finish_call(&w, &first);
    assert_int_equal(first.status, CS_RPC_UNAVAILABLE);
    assert_false(first.unprocessed);
    seen_free(&first);
    seen_free(&second);
    cs_buf_free(&goaway);
    case_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compression_both_ways),
        cmocka_unit_test(noise_is_not_compressed),
        cmocka_unit_test(a_bomb_is_refused),
        cmocka_unit_test(leading_metadata),
        cmocka_unit_test(advice_on_retries),
        cmocka_unit_test(calls_wait_for_a_server),
        cmocka_unit_test(the_channel_closes_on_those_who_wait),
        cmocka_unit_test(a_full_connection_is_not_the_only_one),
        cmocka_unit_test(connections_are_added_one_by_one),
        cmocka_unit_test(a_mute_server_is_given_up),
        cmocka_unit_test(pings_keep_a_quiet_call),
        cmocka_unit_test(too_many_pings),
        cmocka_unit_test(a_mute_client_is_given_up),
        cmocka_unit_test(an_idle_connection_is_closed),
        cmocka_unit_test(draining_takes_two_steps),
        cmocka_unit_test(a_call_left_out_by_goaway),
    };

    return cmocka_run_group_tests_name("rpc channel", tests, NULL, NULL);
}
