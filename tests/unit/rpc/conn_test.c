/* Connections that come, go, break and lie. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "unit/rpc/rpc_fixture.h"

static void on_flag(void *arg)
{
    ++*(int *)arg;
}

static void refused(void **state)
{
    struct world_case w;
    struct seen s = { 0 }, again = { 0 };
    char want[128];

    (void)state;
    case_open(&w);
    cs_rpc_server_close(w.server);
    w.server = NULL;
    snprintf(want, sizeof want, "cannot reach http://127.0.0.1:%u: connection refused", w.port);
    unary(&w, &s, "/t.S/Echo", NULL, 5000, cs_slice_str("x"));
    assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
    assert_string_equal(s.text, want);
    run_ms(&w, 5);
    assert_int_equal(w.down, 1);
    assert_string_equal(w.why_down, want);
    /* the next call tries again, and the channel finds the server that has come meanwhile */
    case_serve(&w, NULL);
    unary(&w, &again, "/t.S/Echo", NULL, 5000, cs_slice_str("x"));
    assert_int_equal(again.status, CS_RPC_OK);
    assert_int_equal(w.up, 1);
    seen_free(&s);
    seen_free(&again);
    case_close(&w);
}

static void restart(void **state)
{
    struct world_case w;

    (void)state;
    case_open(&w);
    for (int i = 0; i < 5; i++) {
        struct seen s = { 0 }, waiting = { 0 };

        unary(&w, &s, "/t.S/Echo", NULL, 5000, cs_slice_str("x"));
        assert_int_equal(s.status, CS_RPC_OK);
        start_call(&w, &waiting, "/t.S/Wait", NULL, 0);
        RUN_UNTIL(&w, w.service.waiting != NULL);
        cs_rpc_server_close(w.server); /* its `closed` runs at once */
        assert_null(w.service.waiting);
        finish_call(&w, &waiting);
        assert_int_equal(waiting.status, CS_RPC_UNAVAILABLE);
        run_ms(&w, 5);
        assert_int_equal(w.down, i + 1);
        case_serve(&w, NULL);
        seen_free(&s);
        seen_free(&waiting);
    }
    assert_int_equal(w.up, 5);
    case_close(&w);
}

struct turns {
    struct world_case *w;
    cs_wake *wake; /* rings in every turn of the loop */
    uint64_t accepted, most;
};

static void on_a_turn(void *arg)
{
    struct turns *t = arg;
    struct cs_rpc_server_stats stats;

    cs_rpc_server_stats(t->w->server, &stats);
    if (stats.accepted - t->accepted > t->most)
        t->most = stats.accepted - t->accepted;
    t->accepted = stats.accepted;
    cs_wake_send(t->wake);
}

/* A crowd at the door: it comes in a few at a time, and who is in already gets his turn in between. */
static void a_crowd_comes_in_by_turns(void **state)
{
    enum { CROWD = 100, TWO_TURNS = 34 }; /* as much as may lie between two bells */
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct world_case w;
    struct turns t = { .w = &w };
    int fd[CROWD];

    (void)state;
    case_open(&w);
    to.sin_port = htons(w.port);
    for (int i = 0; i < CROWD; i++) {
        fd[i] = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(connect(fd[i], (const struct sockaddr *)&to, sizeof to), 0);
    }
    assert_int_equal(cs_wake_new(w.loop, on_a_turn, &t, &t.wake), CS_OK);
    cs_wake_send(t.wake);
    RUN_UNTIL(&w, t.accepted >= CROWD);
    assert_in_range(t.most, 1, TWO_TURNS);
    cs_wake_close(t.wake);
    for (int i = 0; i < CROWD; i++)
        close(fd[i]);
    case_close(&w);
}

/* What runs ends well, what comes after finds nobody, and `drained` comes as soon as the last call ended. */
static void drain(void **state)
{
    struct world_case w;
    struct seen s = { .pause_after = 1 }, late = { 0 };
    int drained = 0;

    (void)state;
    case_open(&w);
    w.service.bulk = 200;
    start_call(&w, &s, "/t.S/Bulk", NULL, 0);
    cs_rpc_call_half_close(s.call);
    run_ms(&w, 50);
    cs_rpc_server_drain(w.server, 30000, on_flag, &drained);
    run_ms(&w, 20);
    assert_int_equal(drained, 0);
    unary(&w, &late, "/t.S/Echo", NULL, 5000, cs_slice_str("x"));
    assert_int_equal(late.status, CS_RPC_UNAVAILABLE);
    s.pause_after = 0;
    cs_rpc_call_read(s.call, true);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_OK);
    assert_int_equal(s.messages, 200);
    run_ms(&w, 20);
    assert_int_equal(drained, 1);
    seen_free(&s);
    seen_free(&late);
    case_close(&w);
}

static void drain_cuts_what_is_left(void **state)
{
    struct world_case w;
    struct seen s = { 0 };
    int drained = 0, idle = 0;

    (void)state;
    case_open(&w);
    start_call(&w, &s, "/t.S/Wait", NULL, 0);
    run_ms(&w, 20);
    cs_rpc_server_drain(w.server, 50, on_flag, &drained);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
    run_ms(&w, 10);
    assert_int_equal(drained, 1);
    cs_rpc_server_close(w.server);
    case_serve(&w, NULL);
    cs_rpc_server_drain(w.server, 50, on_flag, &idle);
    assert_int_equal(idle, 0);
    run_ms(&w, 10);
    assert_int_equal(idle, 1);
    seen_free(&s);
    case_close(&w);
}

/* A new server on the same port while a call still runs on the old one: the channel has two connections then. */
static void a_drained_connection_is_replaced(void **state)
{
    struct world_case w;
    struct seen old = { 0 }, fresh = { 0 };
    cs_rpc_server *first;
    int drained = 0;

    (void)state;
    case_open(&w);
    start_call(&w, &old, "/t.S/Wait", NULL, 0);
    RUN_UNTIL(&w, w.service.waiting != NULL);
    first = w.server;
    cs_rpc_server_drain(first, 30000, on_flag, &drained);
    case_serve(&w, NULL);
    run_ms(&w, 20);
    unary(&w, &fresh, "/t.S/Echo", NULL, 5000, cs_slice_str("x"));
    assert_int_equal(fresh.status, CS_RPC_OK);
    assert_int_equal(old.done, 0);
    cs_rpc_call_finish(w.service.waiting, CS_RPC_ABORTED, "enough", NULL);
    finish_call(&w, &old);
    assert_int_equal(old.status, CS_RPC_ABORTED);
    RUN_UNTIL(&w, drained > 0);
    assert_int_equal(drained, 1);
    assert_int_equal(w.down, 0);
    cs_rpc_server_close(first);
    seen_free(&old);
    seen_free(&fresh);
    case_close(&w);
}

static void many_connections(void **state)
{
    enum { N = 20 };
    struct world_case w;
    cs_rpc_channel *channels[N];
    struct seen waiting[N] = { 0 };

    (void)state;
    case_open(&w);
    cs_rpc_channel_close(w.channel);
    for (int i = 0; i < N; i++) {
        struct seen s = { 0 };

        case_dial(&w, NULL);
        channels[i] = w.channel;
        unary(&w, &s, "/t.S/Echo", NULL, 5000, cs_slice_str("x"));
        assert_int_equal(s.status, CS_RPC_OK);
        seen_free(&s);
        start_call(&w, &waiting[i], "/t.S/Wait", NULL, 0);
    }
    run_ms(&w, 20);
    /* from the middle, from both ends, then the server cuts the rest */
    for (int i = 0; i < N; i += 3) {
        cs_rpc_channel_close(channels[(i + 7) % N]);
        channels[(i + 7) % N] = NULL;
        run_ms(&w, 2);
    }
    cs_rpc_server_close(w.server);
    w.server = NULL;
    run_ms(&w, 20);
    for (int i = 0; i < N; i++) {
        assert_int_equal(waiting[i].done, 1);
        assert_int_equal(waiting[i].status, channels[i] == NULL ? CS_RPC_CANCELLED : CS_RPC_UNAVAILABLE);
        cs_rpc_channel_close(channels[i]);
    }
    w.channel = NULL;
    case_close(&w);
}

static void the_server_cancels_and_enforces(void **state)
{
    struct world_case w;
    struct seen s = { 0 };

    (void)state;
    case_open(&w);
    start_call(&w, &s, "/t.S/Wait", NULL, 0);
    RUN_UNTIL(&w, w.service.waiting != NULL);
    cs_rpc_call_finish(w.service.waiting, CS_RPC_CANCELLED, "no longer wanted", NULL);
    finish_call(&w, &s);
    assert_int_equal(s.status, CS_RPC_CANCELLED);
    assert_string_equal(s.text, "no longer wanted");
    RUN_UNTIL(&w, w.service.closed > 0);
    assert_int_equal(w.service.closed, 1);
    seen_free(&s);
    case_close(&w);
}

/* ---- a peer that is only bytes ---- */

struct raw {
    cs_loop *loop;
    cs_stream *stream;
    cs_listener *listener;
    struct cs_slice say; /* when connected */
    bool hang_up;        /* after saying it */
    struct cs_buf heard;
    bool ended;
};

static void raw_close(struct raw *r)
{
    cs_stream_close(r->stream);
    r->stream = NULL;
}

static void raw_connected(void *arg, const struct cs_error *err)
{
    struct raw *r = arg;

    assert_null(err);
    cs_stream_read(r->stream, true);
    cs_stream_write(r->stream, r->say);
    if (r->hang_up)
        raw_close(r);
}

static void raw_data(void *arg, struct cs_slice bytes)
{
    cs_buf_put_slice(&((struct raw *)arg)->heard, bytes);
}

static void raw_ended(void *arg, const struct cs_error *err)
{
    (void)err;
    ((struct raw *)arg)->ended = true;
}

static const struct cs_stream_cb raw_cb = { raw_connected, raw_data, raw_ended, NULL };

static void raw_accepted(void *arg, cs_stream *s)
{
    struct raw *r = arg;

    cs_stream_close(r->stream);
    r->stream = s;
    cs_stream_accept(s, &raw_cb, r);
    raw_connected(r, NULL);
}

static void raw_dial(struct raw *r, struct world_case *w)
{
    struct cs_error err;

    r->loop = w->loop;
    assert_int_equal(cs_stream_connect(w->loop, "127.0.0.1", w->port, &raw_cb, r, &r->stream, &err), CS_OK);
}

#define PREFACE        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define EMPTY_SETTINGS "\0\0\0\4\0\0\0\0\0"
#define LITERAL(s)                                                                                                     \
    {                                                                                                                  \
        (const uint8_t *)(s), sizeof(s) - 1                                                                            \
    }

static void garbage_to_the_server(void **state)
{
    static const struct cs_slice cases[] = {
        LITERAL("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        LITERAL("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        LITERAL("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\x00"),
        LITERAL(PREFACE "\0\0\0\0\0\0\0\0\1"),                /* DATA before SETTINGS */
        LITERAL(PREFACE EMPTY_SETTINGS "\0\0\0\0\0\0\0\0\1"), /* DATA on an idle stream */
        LITERAL(PREFACE EMPTY_SETTINGS "\xff\xff\xff\1\4\0\0\0\1"),
        LITERAL(PREFACE EMPTY_SETTINGS "\0\0\4\1\5\0\0\0\1\xff\xff\xff\xff"), /* HPACK nonsense */
        LITERAL(PREFACE EMPTY_SETTINGS "\0\0\4\x8\0\0\0\0\0\0\0\0\0"),        /* WINDOW_UPDATE by 0 */
        LITERAL(PREFACE "\0\0\5\4\0\0\0\0\0\1\2\3\4\5"),                      /* SETTINGS of 5 bytes */
    };
    struct world_case w;
    struct seen s = { 0 };

    (void)state;
    case_open(&w);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct raw r = { .say = cases[i] };

        raw_dial(&r, &w);
        for (int k = 0; k < 200 && !r.ended; k++)
            run_ms(&w, 5);
        assert_true(r.ended);
        raw_close(&r);
        cs_buf_free(&r.heard);
    }
    unary(&w, &s, "/t.S/Echo", NULL, 5000, cs_slice_str("x"));
    assert_int_equal(s.status, CS_RPC_OK);
    seen_free(&s);
    case_close(&w);
}

/* Pieces of a right beginning, cut at every byte, and hung up. */
static void half_a_connection(void **state)
{
    static const uint8_t whole[] = PREFACE EMPTY_SETTINGS "\0\0\4\x8\0\0\0\0\0\0\0\0\x10";
    struct world_case w;

    (void)state;
    case_open(&w);
    for (size_t n = 0; n < sizeof whole; n++) {
        struct raw r = { .say = cs_slice(whole, n), .hang_up = true };

        raw_dial(&r, &w);
        run_ms(&w, 2);
        raw_close(&r);
        cs_buf_free(&r.heard);
    }
    case_close(&w);
}

static void random_bytes_to_the_server(void **state)
{
    struct world_case w;
    uint64_t x = 88172645463325252u;

    (void)state;
    case_open(&w);
    for (int i = 0; i < 200; i++) {
        uint8_t bytes[400];
        size_t n = sizeof PREFACE - 1;
        struct raw r = { .say = cs_slice(bytes, sizeof bytes), .hang_up = i % 2 == 0 };

        for (size_t k = 0; k < sizeof bytes; k++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            /* small numbers make more frames that are nearly right */
            bytes[k] = (uint8_t)(i % 3 == 0 ? x : x % 10);
        }
        memcpy(bytes, PREFACE, n);
        memcpy(bytes + n, EMPTY_SETTINGS, 9);
        raw_dial(&r, &w);
        run_ms(&w, 2);
        raw_close(&r);
        cs_buf_free(&r.heard);
    }
    case_close(&w);
}

static void garbage_to_the_client(void **state)
{
    static const struct cs_slice cases[] = {
        LITERAL("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
        LITERAL("\x15\x03\x01\x00\x02\x02\x46\x15\x03\x01"), /* a TLS alert */
        LITERAL("\0\0\0\0\0\0\0\0\1"),
        LITERAL(EMPTY_SETTINGS "\0\0\0\0\0\0\0\0\1"),
        LITERAL(EMPTY_SETTINGS "\0\0\4\1\5\0\0\0\1\xff\xff\xff\xff"),
        LITERAL(EMPTY_SETTINGS "\0\0\x8\7\0\0\0\0\0\0\0\0\0\0\0\0\1"), /* GOAWAY(0, PROTOCOL_ERROR) */
        LITERAL(EMPTY_SETTINGS "\0\0\4\3\0\0\0\0\1\0\0\0\7"),          /* RST_STREAM(REFUSED_STREAM) */
        LITERAL(EMPTY_SETTINGS "\0\0\1\1\5\0\0\0\1\x8d"),              /* :status 404, END_STREAM */
        LITERAL(EMPTY_SETTINGS "\0\0\1\1\5\0\0\0\1\x88"),              /* :status 200, END_STREAM, no status */
        LITERAL(EMPTY_SETTINGS "\0\0\1\1\4\0\0\0\1\x88"),              /* 200 and not gRPC */
    };
    static const int want[] = { 14, 14, 14, 14, 14, 14, 14, 12, 2, 2 };
    struct world_case w;

    (void)state;
    case_loop(&w, cs_world_real());
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int hang_up = 0; hang_up < 2; hang_up++) {
            struct raw r = { .loop = w.loop, .say = cases[i], .hang_up = hang_up };
            struct seen s = { 0 };
            struct cs_error err;

            assert_int_equal(cs_listen(w.loop, "127.0.0.1", 0, raw_accepted, &r, &r.listener, &err), CS_OK);
            w.port = cs_listener_port(r.listener);
            case_dial(&w, NULL);
            unary(&w, &s, "/t.S/Echo", NULL, 5000, cs_slice_str("x"));
            if (!hang_up)
                assert_int_equal(s.status, want[i]);
            assert_int_not_equal(s.status, CS_RPC_OK);
            cs_rpc_channel_close(w.channel);
            w.channel = NULL;
            raw_close(&r);
            cs_listener_close(r.listener);
            cs_buf_free(&r.heard);
            seen_free(&s);
        }
    case_close(&w);
}

static void a_silent_server(void **state)
{
    struct world_case w;
    struct raw r = { 0 };
    struct seen s = { 0 }, soon = { 0 };
    struct cs_error err;

    (void)state;
    case_loop(&w, cs_world_real());
    assert_int_equal(cs_listen(w.loop, "127.0.0.1", 0, raw_accepted, &r, &r.listener, &err), CS_OK);
    w.port = cs_listener_port(r.listener);
    case_dial(&w, &(struct cs_rpc_channel_options){ .connect_timeout_ms = 60 });
    start_call(&w, &soon, "/t.S/Echo", NULL, 20);
    unary(&w, &s, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
    assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
    assert_non_null(strstr(s.text, "no answer within 60 ms"));
    assert_int_equal(soon.status, CS_RPC_DEADLINE_EXCEEDED);
    raw_close(&r);
    cs_listener_close(r.listener);
    cs_buf_free(&r.heard);
    seen_free(&s);
    seen_free(&soon);
    case_close(&w);
}

static void close_while_connecting(void **state)
{
    struct world_case w;
    struct seen s = { 0 };

    (void)state;
    case_open(&w);
    start_call(&w, &s, "/t.S/Echo", NULL, 0);
    cs_rpc_channel_close(w.channel);
    w.channel = NULL;
    assert_int_equal(s.done, 1);
    assert_int_equal(s.status, CS_RPC_CANCELLED);
    run_ms(&w, 20);
    seen_free(&s);
    case_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused),
        cmocka_unit_test(restart),
        cmocka_unit_test(a_crowd_comes_in_by_turns),
        cmocka_unit_test(drain),
        cmocka_unit_test(drain_cuts_what_is_left),
        cmocka_unit_test(a_drained_connection_is_replaced),
        cmocka_unit_test(many_connections),
        cmocka_unit_test(the_server_cancels_and_enforces),
        cmocka_unit_test(garbage_to_the_server),
        cmocka_unit_test(half_a_connection),
        cmocka_unit_test(random_bytes_to_the_server),
        cmocka_unit_test(garbage_to_the_client),
        cmocka_unit_test(a_silent_server),
        cmocka_unit_test(close_while_connecting),
    };

    return cmocka_run_group_tests_name("rpc connections", tests, NULL, NULL);
}
