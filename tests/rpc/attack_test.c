/* Peers that keep to the letter of HTTP/2 and mean harm: floods, and those that take or give nothing. Each is stopped
 * at a limit while another client's calls go on, and the limits are the options' to set. */
#include <malloc.h>
#include <sys/resource.h>

#include "unit/rpc/wire_fixture.h"

enum {
    STUCK_MS = 180000,
    FRAMES_MAX = 40000, /* that a flood may have, before it is a failure that nobody stopped it */
    BATCH = 100,
    CROWD = 1000,
};

/* ---- a server, a client that behaves, and one that does not ---- */

struct scene {
    struct world_case w;
    struct wire bad;
    struct answer heard;
    size_t calls; /* of the client that behaves */
};

static void scene_open(struct scene *s, const struct cs_rpc_server_options *limits)
{
    memset(s, 0, sizeof *s);
    case_loop(&s->w, cs_world_real());
    cs_timer_start(s->w.guard, STUCK_MS);
    case_serve(&s->w, limits);
    case_dial(&s->w, NULL);
}

static void others_call(struct scene *s)
{
    struct seen x = { 0 };

    unary(&s->w, &x, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
    assert_int_equal(x.status, CS_RPC_OK);
    assert_int_equal(x.bytes, 1);
    s->calls++;
    seen_free(&x);
}

static struct cs_rpc_server_stats stats_of(const struct scene *s)
{
    struct cs_rpc_server_stats stats;

    cs_rpc_server_stats(s->w.server, &stats);
    return stats;
}

/* The bad one is gone, and all that it began. */
static void wait_until_gone(struct scene *s)
{
    while (stats_of(s).connections > 1 || stats_of(s).calls > 0)
        run_ms(&s->w, 1);
}

static void scene_close(struct scene *s)
{
    wire_close(&s->bad);
    others_call(s);
    wait_until_gone(s);
    case_close(&s->w);
}

static void dial(struct scene *s, const struct cs_buf *first)
{
    put_preface(&s->bad.say);
    if (first != NULL)
        cs_buf_put_slice(&s->bad.say, cs_buf_slice(first));
    wire_dial(&s->bad, &s->w);
}

static bool is_stopped(struct scene *s)
{
    s->heard = read_answer(&s->bad.heard);
    return s->heard.goaway >= 0 || s->bad.ended;
}

/* ---- floods ---- */

#define WAIT_CALL HEAD("/t.S/Wait"), GRPC

static void put_call(struct cs_buf *b, uint32_t id, uint8_t flags)
{
    static const char *const lines[] = { WAIT_CALL, NULL };

    put_headers_on(b, id, flags, lines);
}

static void put_reset(struct cs_buf *b, uint32_t id)
{
    put_frame(b, RST_STREAM, 0, id, cs_slice("\0\0\0\x8", 4));
}

static void rapid_reset(struct cs_buf *b, uint32_t i)
{
    put_call(b, 2 * i + 1, 0);
    put_reset(b, 2 * i + 1);
}

/* The server's part of the resets is done by the server: each request is one that it must reset. */
static void provoked_resets(struct cs_buf *b, uint32_t i)
{
    static const char *const lines[] = { ":method POST", ":scheme http", GRPC, NULL };

    put_headers_on(b, 2 * i + 1, 0, lines);
}

static void provoked_by_a_window(struct cs_buf *b, uint32_t i)
{
    put_call(b, 2 * i + 1, 0);
    put_frame(b, WINDOW_UPDATE, 0, 2 * i + 1, cs_slice("\x7f\xff\xff\xff", 4));
}

/* More streams at once than allowed: each further one is refused. */
static void too_many_streams(struct cs_buf *b, uint32_t i)
{
    put_call(b, 2 * i + 1, 0);
}

static void settings(struct cs_buf *b, uint32_t i)
{
    (void)i;
    put_frame(b, SETTINGS, 0, 0, cs_slice("\0\4\0\0\xff\xff", 6));
}

static void pings(struct cs_buf *b, uint32_t i)
{
    (void)i;
    put_frame(b, PING, 0, 0, cs_slice("12345678", 8));
}

static void priorities(struct cs_buf *b, uint32_t i)
{
    put_frame(b, PRIORITY, 0, 2 * i + 1, cs_slice("\0\0\0\0\1", 5));
}

static void unknown_frames(struct cs_buf *b, uint32_t i)
{
    (void)i;
    put_frame(b, 0x77, 0, 0, CS_SLICE_NULL);
}

static void windows_for_nothing(struct cs_buf *b, uint32_t i)
{
    (void)i;
    put_frame(b, WINDOW_UPDATE, 0, 0, cs_slice("\0\0\0\1", 4));
}

static void empty_data(struct cs_buf *b, uint32_t i)
{
    if (i == 0)
        put_call(b, 1, 0);
    put_frame(b, DATA, 0, 1, CS_SLICE_NULL);
}

static void padding(struct cs_buf *b, uint32_t i)
{
    if (i == 0)
        put_call(b, 1, 0);
    put_frame(b, DATA, PADDED, 1, cs_slice("\2\0\0", 3));
}

/* Of a stream that the server has reset: such may be on their way, and each is skipped. */
static void headers_of_the_past(struct cs_buf *b, uint32_t i)
{
    static const char *const no_path[] = { ":method POST", ":scheme http", GRPC, NULL };

    if (i == 0)
        put_headers_on(b, 1, 0, no_path);
    else if (i >= BATCH)
        put_call(b, 1, END_STREAM);
    else
        put_frame(b, PRIORITY, 0, 1, cs_slice("\0\0\0\0\1", 5));
}

static void continuations(struct cs_buf *b, uint32_t i)
{
    if (i == 0)
        put_frame(b, HEADERS, 0, 1, cs_slice("\x83", 1));
    put_frame(b, CONTINUATION, 0, 1, cs_slice("\0\1x\1y", 5));
}

static void empty_continuations(struct cs_buf *b, uint32_t i)
{
    if (i == 0)
        put_frame(b, HEADERS, 0, 1, cs_slice("\x83", 1));
    put_frame(b, CONTINUATION, 0, 1, CS_SLICE_NULL);
}

/* A large field once, in HPACK's table, and then by its number: a byte on the wire each time. */
static void header_bomb(struct cs_buf *b, uint32_t i)
{
    static uint8_t block[16 * 1024];

    if (i == 0) {
        put_frame(b, HEADERS, 0, 1,
                  cs_slice("\x40\1x\x7d" /* 125 bytes */
                           "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"
                           "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
                           129));
    }
    memset(block, 0xbe, sizeof block);
    put_frame(b, CONTINUATION, 0, 1, cs_slice(block, sizeof block));
}

struct flood {
    const char *name;
    void (*put)(struct cs_buf *b, uint32_t i);
};

static const struct flood floods[] = {
    { "rapid reset", rapid_reset },
    { "provoked resets", provoked_resets },
    { "resets provoked by windows", provoked_by_a_window },
    { "too many streams", too_many_streams },
    { "SETTINGS", settings },
    { "PING", pings },
    { "PRIORITY", priorities },
    { "unknown frames", unknown_frames },
    { "windows for nothing", windows_for_nothing },
    { "empty DATA", empty_data },
    { "DATA of padding", padding },
    { "headers of a stream that is over", headers_of_the_past },
    { "CONTINUATION", continuations },
    { "empty CONTINUATION", empty_continuations },
    { "a bomb of headers", header_bomb },
};
enum { NFLOODS = sizeof floods / sizeof floods[0] };

static void a_flood(void **state)
{
    const struct flood *f = *state;
    struct scene s;
    uint32_t i = 0;

    scene_open(&s, NULL);
    others_call(&s);
    dial(&s, NULL);
    while (!is_stopped(&s)) {
        struct cs_buf more = { 0 };

        assert_true(i < FRAMES_MAX);
        for (uint32_t end = i + BATCH; i < end; i++)
            f->put(&more, i);
        /* what comes before the connection stands is said with it */
        if (s.bad.heard.len > 0)
            wire_say(&s.bad, cs_buf_slice(&more));
        else
            i -= BATCH;
        cs_buf_free(&more);
        others_call(&s);
    }
    assert_int_equal(s.heard.goaway, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(stats_of(&s).calmed, 1);
    wire_close(&s.bad);
    memset(&s.bad, 0, sizeof s.bad);
    wait_until_gone(&s);
    assert_int_equal(s.w.down, 0);
    assert_true(s.calls >= 2);
    scene_close(&s);
}

/* ---- those who are slow ---- */

/* A header block that never ends. */
static void a_slow_writer_of_headers(void **state)
{
    struct cs_buf first = { 0 };
    struct scene s;

    (void)state;
    scene_open(&s, &(struct cs_rpc_server_options){ .header_ms = 50 });
    put_frame(&first, HEADERS, 0, 1, cs_slice("\x83", 1));
    dial(&s, &first);
    while (!is_stopped(&s))
        others_call(&s);
    assert_int_equal(s.heard.goaway, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_string_equal(s.heard.word, "slow_headers");
    cs_buf_free(&first);
    scene_close(&s);
}

/* A block that is complete is none that never ends, whatever becomes of its request. */
static void headers_that_are_skipped_are_not_slow(void **state)
{
    static const char *const no_path[] = { ":method POST", ":scheme http", GRPC, NULL };
    struct cs_buf first = { 0 };
    struct scene s;

    (void)state;
    scene_open(&s, &(struct cs_rpc_server_options){ .header_ms = 50 });
    put_headers_on(&first, 1, 0, no_path);
    dial(&s, &first);
    RUN_UNTIL(&s.w, read_answer(&s.bad.heard).reset_id == 1);
    cs_buf_reset(&first);
    put_call(&first, 1, END_STREAM);
    put_headers_on(&first, 3, END_STREAM, no_path);
    wire_say(&s.bad, cs_buf_slice(&first));
    RUN_UNTIL(&s.w, read_answer(&s.bad.heard).reset_id == 3);
    run_ms(&s.w, 200); /* longer than the clock that must not run */
    others_call(&s);
    assert_false(is_stopped(&s));
    cs_buf_free(&first);
    scene_close(&s);
}

static void one_that_says_nothing(void **state)
{
    struct scene s;

    (void)state;
    scene_open(&s, &(struct cs_rpc_server_options){ .handshake_ms = 2000 });
    wire_dial(&s.bad, &s.w);
    while (!s.bad.ended)
        others_call(&s);
    scene_close(&s);
}

/* Asks for much, opens its windows wide, and reads none of it. */
static void a_slow_reader(void **state)
{
    static const char *const lines[] = { HEAD("/t.S/Bulk"), GRPC, NULL };
    struct cs_buf first = { 0 };
    struct scene s;

    (void)state;
    scene_open(&s, &(struct cs_rpc_server_options){ .stall_ms = 300 });
    s.w.service.bulk = 100000;
    put_frame(&first, SETTINGS, 0, 0, cs_slice("\0\4\x7f\xff\xff\xff", 6));
    put_frame(&first, WINDOW_UPDATE, 0, 0, cs_slice("\x7f\xff\0\0", 4));
    put_headers_on(&first, 1, END_STREAM, lines);
    dial(&s, &first);
    RUN_UNTIL(&s.w, s.bad.heard.len > 0);
    cs_stream_read(s.bad.stream, false);
    while (stats_of(&s).calmed == 0)
        others_call(&s);
    assert_true(s.w.service.bulk > 0);
    assert_true(s.w.service.max_queued <= BULK_BOUND + BULK_MESSAGE + 5);
    cs_buf_free(&first);
    scene_close(&s);
}

/* The same with a window that stays shut: the connection lives, the call does not. */
static void a_window_that_stays_shut(void **state)
{
    static const char *const lines[] = { HEAD("/t.S/Bulk"), GRPC, NULL };
    struct cs_buf first = { 0 };
    struct scene s;

    (void)state;
    scene_open(&s, &(struct cs_rpc_server_options){ .stream_stall_ms = 50 });
    s.w.service.bulk = 100000;
    put_headers_on(&first, 1, END_STREAM, lines);
    dial(&s, &first);
    while ((s.heard = read_answer(&s.bad.heard)).reset < 0)
        others_call(&s);
    assert_int_equal(s.heard.reset, NGHTTP2_CANCEL);
    assert_true(s.w.service.max_queued <= BULK_BOUND + BULK_MESSAGE + 5);
    cs_buf_free(&first);
    scene_close(&s);
}

/* ---- crowds ---- */

static void raise_descriptors(void)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < 2 * CROWD + 100) {
        print_message("only %lu files may be open here\n", (unsigned long)limit.rlim_cur);
        skip();
    }
}

/* Connections that idle cost the others nothing but their place. */
static void a_thousand_idle_connections(void **state)
{
    static struct wire crowd[CROWD];
    struct scene s;

    (void)state;
    raise_descriptors();
    scene_open(&s, &(struct cs_rpc_server_options){ .max_per_address = CROWD + 10 });
    others_call(&s);
    for (size_t i = 0; i < CROWD; i++) {
        memset(&crowd[i], 0, sizeof crowd[i]);
        put_preface(&crowd[i].say);
        wire_dial(&crowd[i], &s.w);
        RUN_UNTIL(&s.w, crowd[i].heard.len > 0);
        if (i % 50 == 0)
            others_call(&s);
    }
    assert_int_equal(stats_of(&s).connections, CROWD + 1);
    for (int i = 0; i < 20; i++)
        others_call(&s);
    for (size_t i = 0; i < CROWD; i++) {
        assert_false(crowd[i].ended);
        wire_close(&crowd[i]);
    }
    scene_close(&s);
}

/* Beyond what one address may have: closed at once, and the others stay. */
static void connections_of_one_address(void **state)
{
    enum { ALLOWED = 5, TRIED = 12 };
    struct wire crowd[TRIED];
    size_t ended = 0;
    struct scene s;

    (void)state;
    scene_open(&s, &(struct cs_rpc_server_options){ .max_per_address = ALLOWED + 1 });
    others_call(&s);
    memset(crowd, 0, sizeof crowd);
    for (size_t i = 0; i < TRIED; i++) {
        put_preface(&crowd[i].say);
        wire_dial(&crowd[i], &s.w);
        RUN_UNTIL(&s.w, crowd[i].heard.len > 0 || crowd[i].ended);
        ended += crowd[i].ended;
    }
    assert_int_equal(ended, TRIED - ALLOWED);
    assert_int_equal(stats_of(&s).refused, TRIED - ALLOWED);
    others_call(&s);
    for (size_t i = 0; i < TRIED; i++)
        wire_close(&crowd[i]);
    scene_close(&s);
}

/* ---- limits are the options' ---- */

static void streams_at_once(void **state)
{
    enum { ALLOWED = 3 };
    struct cs_buf first = { 0 };
    struct scene s;

    (void)state;
    scene_open(&s, &(struct cs_rpc_server_options){ .max_streams = ALLOWED });
    for (uint32_t i = 0; i <= ALLOWED; i++)
        put_call(&first, 2 * i + 1, 0);
    dial(&s, &first);
    while ((s.heard = read_answer(&s.bad.heard)).reset < 0)
        others_call(&s);
    assert_int_equal(s.heard.reset, NGHTTP2_REFUSED_STREAM);
    assert_int_equal(s.heard.reset_id, 2 * ALLOWED + 1);
    assert_int_equal(stats_of(&s).calls, ALLOWED);
    cs_buf_free(&first);
    scene_close(&s);
}

/* Trailers behind a request that is refused are on their way before it is. */
static void trailers_of_a_refused_stream(void **state)
{
    static const char *const trailers[] = { "x y", NULL };
    struct cs_buf first = { 0 };
    struct scene s;

    (void)state;
    scene_open(&s, &(struct cs_rpc_server_options){ .max_streams = 1 });
    put_call(&first, 1, 0);
    put_call(&first, 3, 0);
    put_headers_on(&first, 3, END_STREAM, trailers);
    put_frame(&first, PING, 0, 0, cs_slice("12345678", 8));
    dial(&s, &first);
    RUN_UNTIL(&s.w, read_answer(&s.bad.heard).reset_id == 3);
    others_call(&s);
    assert_false(is_stopped(&s));
    cs_buf_free(&first);
    scene_close(&s);
}

static void how_much_noise(void **state)
{
    enum { BURST = 7 };
    struct cs_buf first = { 0 };
    struct scene s;

    (void)state;
    scene_open(&s, &(struct cs_rpc_server_options){ .flood_burst = BURST, .flood_rate = 1 });
    for (uint32_t i = 0; i < BURST - 1; i++) /* SETTINGS was one already */
        priorities(&first, i);
    dial(&s, &first);
    RUN_UNTIL(&s.w, read_answer(&s.bad.heard).nacks > 0);
    others_call(&s);
    assert_false(is_stopped(&s));
    for (uint32_t i = 0; i < FRAMES_MAX && !is_stopped(&s); i++) {
        struct cs_buf more = { 0 };

        priorities(&more, i);
        wire_say(&s.bad, cs_buf_slice(&more));
        cs_buf_free(&more);
        others_call(&s);
    }
    assert_int_equal(s.heard.goaway, NGHTTP2_ENHANCE_YOUR_CALM);
    cs_buf_free(&first);
    scene_close(&s);
}

static void metadata_size(void **state)
{
    static const char *const lines[] = { HEAD("/t.S/Echo"), GRPC, "x-long 0123456789012345678901234567890123456789",
                                         NULL };
    struct cs_buf first = { 0 };
    struct scene s;

    (void)state;
    scene_open(&s, &(struct cs_rpc_server_options){ .max_header_list = 300 });
    put_headers_on(&first, 1, END_STREAM, lines);
    dial(&s, &first);
    while ((s.heard = read_answer(&s.bad.heard)).grpc < 0)
        run_ms(&s.w, 1);
    assert_int_equal(s.heard.grpc, CS_RPC_RESOURCE_EXHAUSTED);
    cs_buf_free(&first);
    wire_close(&s.bad);
    memset(&s.bad, 0, sizeof s.bad);
    cs_rpc_channel_close(s.w.channel); /* its calls would be too large as well */
    s.w.channel = NULL;
    while (stats_of(&s).connections > 0)
        run_ms(&s.w, 1);
    case_close(&s.w);
}

/* ---- memory before anybody has said who he is ---- */

/* Streams that each send as much as they are allowed to, and a little of the next message. */
static void memory_of_the_unadmitted(void **state)
{
    enum { STREAMS = 60, ALLOWED = 4096 };
    static const uint8_t half[1500] = { 0, 0, 0, 5, 0 };
    struct cs_buf more = { 0 };
    size_t before, after;
    struct scene s;

    (void)state;
    scene_open(&s, &(struct cs_rpc_server_options){ .admission = true });
    others_call(&s);
    dial(&s, NULL);
    RUN_UNTIL(&s.w, read_answer(&s.bad.heard).nacks > 0);
    cs_buf_free(&s.bad.say);
    for (uint32_t i = 0; i < STREAMS; i++) {
        put_call(&more, 2 * i + 1, 0);
        put_frame(&more, DATA, 0, 2 * i + 1, cs_slice(half, sizeof half));
    }
    before = mallinfo2().uordblks;
    wire_say(&s.bad, cs_buf_slice(&more));
    while (stats_of(&s).calls < STREAMS)
        run_ms(&s.w, 1);
    run_ms(&s.w, 20);
    after = mallinfo2().uordblks;
    assert_int_equal(stats_of(&s).calls, STREAMS);
    print_message("%zu bytes for each stream\n", after > before ? (after - before) / STREAMS : 0);
    assert_true(after < before + STREAMS * (size_t)ALLOWED);
    cs_buf_free(&more);
    scene_close(&s);
}

int main(void)
{
    static const struct CMUnitTest others[] = {
        cmocka_unit_test(a_slow_writer_of_headers),
        cmocka_unit_test(headers_that_are_skipped_are_not_slow),
        cmocka_unit_test(one_that_says_nothing),
        cmocka_unit_test(a_slow_reader),
        cmocka_unit_test(a_window_that_stays_shut),
        cmocka_unit_test(a_thousand_idle_connections),
        cmocka_unit_test(connections_of_one_address),
        cmocka_unit_test(streams_at_once),
        cmocka_unit_test(trailers_of_a_refused_stream),
        cmocka_unit_test(how_much_noise),
        cmocka_unit_test(metadata_size),
        cmocka_unit_test(memory_of_the_unadmitted),
    };
    struct CMUnitTest tests[NFLOODS];
    int failed;

    for (size_t i = 0; i < NFLOODS; i++)
        tests[i] = (struct CMUnitTest){ .name = floods[i].name,
                                        .test_func = a_flood,
                                        .initial_state = (void *)(uintptr_t)&floods[i] };
    failed = cmocka_run_group_tests_name("floods", tests, NULL, NULL);
    return failed + cmocka_run_group_tests_name("slow, many, limited", others, NULL, NULL);
}
