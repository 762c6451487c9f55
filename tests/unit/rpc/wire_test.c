/* What the server answers to requests that our client would never send, and either side to bytes gone wrong: frames
 * are made and read here with nothing but nghttp2's header compression. */
#include "unit/rpc/wire_fixture.h"

/* ---- strange requests ---- */

struct request {
    const char *name;
    const char *lines[12];
    struct cs_slice body; /* no body: END_STREAM is on the headers */
    bool open;            /* the client does not end its side */
    int http, grpc;
    size_t data;
};

static const struct request requests[] = {
    { "an ordinary one", { HEAD("/t.S/Echo"), GRPC, "te trailers" }, BODY("\0\0\0\0\1x"), false, 200, 0, 6 },
    { "a subtype", { HEAD("/t.S/Echo"), "content-type application/grpc+proto" }, BODY("\0\0\0\0\0"), false, 200, 0, 5 },
    { "no message at all", { HEAD("/t.S/Echo"), GRPC }, { NULL, 0 }, false, 200, 0, 0 },
    { "not gRPC", { HEAD("/t.S/Echo"), "content-type text/html" }, BODY("x"), false, 415, -1, 0 },
    { "no content-type", { HEAD("/t.S/Echo") }, BODY("x"), false, 415, -1, 0 },
    { "GET",
      { ":method GET", ":scheme http", ":path /t.S/Echo", ":authority x", GRPC },
      { NULL, 0 },
      false,
      405,
      -1,
      0 },
    { "no such method", { HEAD("/t.S/Nothing"), GRPC }, BODY("\0\0\0\0\0"), false, 200, 12, 0 },
    { "a path that is nearly one", { HEAD("/t.S/Ech"), GRPC }, { NULL, 0 }, false, 200, 12, 0 },
    { "the server's deadline", { HEAD("/t.S/Wait"), GRPC, "grpc-timeout 20m" }, BODY("\0\0\0\0\0"), true, 200, 4, 0 },
    { "no time at all", { HEAD("/t.S/Wait"), GRPC, "grpc-timeout 0n" }, { NULL, 0 }, false, 200, 4, 0 },
    { "a bad timeout", { HEAD("/t.S/Echo"), GRPC, "grpc-timeout soon" }, { NULL, 0 }, false, 200, 13, 0 },
    { "compressed, it says", { HEAD("/t.S/Echo"), GRPC }, BODY("\1\0\0\0\1x"), false, 200, 13, 0 },
    { "an unknown encoding",
      { HEAD("/t.S/Echo"), GRPC, "grpc-encoding snappy" },
      BODY("\1\0\0\0\1x"),
      false,
      200,
      12,
      0 },
    { "an encoding not used",
      { HEAD("/t.S/Echo"), GRPC, "grpc-encoding snappy" },
      BODY("\0\0\0\0\1x"),
      false,
      200,
      0,
      6 },
    { "a bad flag", { HEAD("/t.S/Echo"), GRPC }, BODY("\7\0\0\0\1x"), false, 200, 13, 0 },
    { "cut inside the prefix", { HEAD("/t.S/Count"), GRPC }, BODY("\0\0\0"), false, 200, 13, 0 },
    { "cut inside a message", { HEAD("/t.S/Count"), GRPC }, BODY("\0\0\0\0\5abc"), false, 200, 13, 0 },
    { "a huge length", { HEAD("/t.S/Echo"), GRPC }, BODY("\0\xff\xff\xff\xffx"), true, 200, 8, 0 },
    { "binary metadata that is none", { HEAD("/t.S/Echo"), GRPC, "x-bin ???" }, { NULL, 0 }, false, 200, 13, 0 },
    { "refused, and the client goes on", { HEAD("/t.S/Early"), GRPC }, BODY("\0\0\0\0\0"), true, 200, 7, 0 },
};

static void strange_requests(void **state)
{
    struct world_case w;

    (void)state;
    case_open(&w);
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        const struct request *q = &requests[i];
        uint8_t end = q->open ? 0 : END_STREAM;
        struct answer a = { 0 };
        struct wire x = { 0 };

        put_preface(&x.say);
        put_headers(&x.say, q->body.data == NULL ? END_STREAM : 0, q->lines);
        if (q->body.data != NULL)
            put_frame(&x.say, DATA, end, 1, q->body);
        wire_dial(&x, &w);
        while (!(a = read_answer(&x.heard)).ended && !x.ended)
            run_ms(&w, 2);
        if (!a.ended || a.http != q->http || a.grpc != q->grpc || a.data != q->data)
            fail_msg("%s: ended %d, HTTP %d, gRPC %d, %zu bytes", q->name, a.ended, a.http, a.grpc, a.data);
        /* a server that is done tells a client that is not to stop, without blame */
        while (q->open && (a = read_answer(&x.heard)).reset < 0 && !x.ended)
            run_ms(&w, 2);
        if (q->open)
            assert_int_equal(a.reset, NGHTTP2_NO_ERROR);
        else
            assert_int_equal(a.reset, -1);
        wire_close(&x);
    }
    run_ms(&w, 20);
    case_close(&w);
}

/* What is compressed and what is not, on the wire: as the client says that it takes, and message by message. */
static void compressed_answers(void **state)
{
    static const char *const takes[] = { HEAD("/t.S/Packed"), GRPC, "grpc-accept-encoding identity, gzip", NULL };
    static const char *const does_not[] = { HEAD("/t.S/Packed"), GRPC, "grpc-accept-encoding identity", NULL };
    struct world_case w;

    (void)state;
    case_open(&w);
    for (int i = 0; i < 2; i++) {
        struct answer a = { 0 };
        struct wire x = { 0 };
        uint8_t body[5 + 5000] = { 0 };

        cs_store_u32(body + 1, 5000);
        put_preface(&x.say);
        put_headers(&x.say, 0, i == 0 ? takes : does_not);
        put_frame(&x.say, DATA, END_STREAM, 1, cs_slice(body, sizeof body));
        wire_dial(&x, &w);
        RUN_UNTIL(&w, (a = read_answer(&x.heard)).ended);
        assert_int_equal(a.grpc, 0);
        assert_true(a.takes_gzip);
        assert_int_equal(a.gzip, i == 0);
        assert_int_equal(w.service.compress, i == 0 ? CS_OK : CS_EUNSUPPORTED);
        if (i == 0) /* one compressed, one as it is */
            assert_in_range(a.data, 5005, 5205);
        else
            assert_int_equal(a.data, 2 * 5005);
        wire_close(&x);
    }
    case_close(&w);
}

static void compressed_requests(void **state)
{
    static const char *const reply[] = { ":status 200", GRPC, "grpc-status 0", NULL };
    static uint8_t zeros[5000];
    struct world_case w;

    (void)state;
    case_loop(&w, cs_world_real());
    for (int i = 0; i < 2; i++) {
        struct cs_rpc_call_options o = { .path = "/t.S/Any", .compress = i == 0 };
        struct wire liar = { 0 };
        struct seen s = { 0 };
        struct answer a = { 0 };
        struct cs_error err;

        put_frame(&liar.say, SETTINGS, 0, 0, CS_SLICE_NULL);
        liar.loop = w.loop;
        assert_int_equal(cs_listen(w.loop, "127.0.0.1", 0, wire_accepted, &liar, &liar.listener, &err), CS_OK);
        w.port = cs_listener_port(liar.listener);
        case_dial(&w, NULL);
        open_call(&w, &s, &o);
        assert_int_equal(cs_rpc_call_compress(s.call, true), i == 0 ? CS_OK : CS_EUNSUPPORTED);
        assert_int_equal(cs_rpc_call_send(s.call, cs_slice(zeros, sizeof zeros)), CS_OK);
        assert_int_equal(cs_rpc_call_compress(s.call, false), CS_OK);
        assert_int_equal(cs_rpc_call_send(s.call, cs_slice(zeros, sizeof zeros)), CS_OK);
        cs_rpc_call_half_close(s.call);
        RUN_UNTIL(&w, liar.heard.len > sizeof MAGIC && (a = read_request(&liar.heard)).ended);
        assert_true(a.takes_gzip);
        assert_int_equal(a.gzip, i == 0);
        if (i == 0)
            assert_in_range(a.data, 5005, 5205);
        else
            assert_int_equal(a.data, 2 * 5005);
        cs_buf_reset(&liar.say);
        put_headers(&liar.say, END_STREAM, reply);
        wire_say(&liar, cs_buf_slice(&liar.say));
        finish_call(&w, &s);
        assert_int_equal(s.status, CS_RPC_OK);
        seen_free(&s);
        cs_rpc_channel_close(w.channel);
        w.channel = NULL;
        wire_close(&liar);
    }
    case_close(&w);
}

/* One byte at a time, in padded frames. */
static void padded_and_in_single_bytes(void **state)
{
    static const char *const lines[] = { HEAD("/t.S/Echo"), GRPC, NULL };
    static const uint8_t body[] = "\0\0\0\0\5hello\0\0\0\0\0\0\0\0\0\1!";
    struct world_case w;
    struct wire x = { 0 };
    struct answer a = { 0 };

    (void)state;
    case_open(&w);
    put_preface(&x.say);
    put_headers(&x.say, 0, lines);
    for (size_t i = 0; i + 1 < sizeof body; i++) {
        uint8_t padded[8] = { 6, body[i] };

        put_frame(&x.say, DATA, (uint8_t)(PADDED | (i + 2 == sizeof body ? END_STREAM : 0)), 1,
                  cs_slice(padded, sizeof padded));
    }
    wire_dial(&x, &w);
    while (!(a = read_answer(&x.heard)).ended && !x.ended)
        run_ms(&w, 2);
    assert_true(a.ended);
    assert_int_equal(a.grpc, 0);
    assert_int_equal(a.data, sizeof body - 1);
    wire_close(&x);
    case_close(&w);
}

static void put_updates(struct cs_buf *b, uint32_t id, int n)
{
    static const uint8_t one[4] = { 0, 0, 0, 1 };

    for (int i = 0; i < n; i++)
        put_frame(b, WINDOW_UPDATE, 0, id, cs_slice(one, sizeof one));
}

/* A client that gave the window back message by message, of which the server hears only when all are sent. */
static void updates_that_come_in_a_heap(void **state)
{
    enum { MESSAGES = 1000, MORE_THAN_FREE = 700 };
    static const char *const lines[] = { HEAD("/t.S/Echo"), GRPC, NULL };
    struct world_case w;
    struct wire x = { 0 };
    struct cs_buf late = { 0 };
    struct answer a = { 0 };

    (void)state;
    case_open(&w);
    put_preface(&x.say);
    put_headers(&x.say, 0, lines);
    wire_dial(&x, &w);
    for (size_t n = 1; n <= MESSAGES; n++) { /* one by one, so that each has a frame of its own */
        struct cs_buf ask = { 0 };

        put_frame(n == 1 ? &x.say : &ask, DATA, 0, 1, cs_slice("\0\0\0\0\1x", 6));
        if (n > 1)
            wire_say(&x, cs_buf_slice(&ask));
        cs_buf_free(&ask);
        while ((a = read_answer(&x.heard)).data < n * 6 && !x.ended)
            run_ms(&w, 1);
        assert_int_equal(a.data, n * 6);
    }
    put_updates(&late, 1, MESSAGES);
    put_updates(&late, 0, MESSAGES);
    put_frame(&late, DATA, END_STREAM, 1, CS_SLICE_NULL);
    wire_say(&x, cs_buf_slice(&late));
    while (!(a = read_answer(&x.heard)).ended && !x.ended)
        run_ms(&w, 2);
    assert_int_equal(a.goaway, -1);
    assert_int_equal(a.grpc, 0);

    late.len = 0;
    put_updates(&late, 0, MORE_THAN_FREE); /* for nothing */
    wire_say(&x, cs_buf_slice(&late));
    while ((a = read_answer(&x.heard)).goaway < 0 && !x.ended)
        run_ms(&w, 2);
    assert_int_equal(a.goaway, NGHTTP2_ENHANCE_YOUR_CALM);
    cs_buf_free(&late);
    wire_close(&x);
    case_close(&w);
}

/* The same of messages that were asked for and answered all at once, many to a frame. */
static void updates_for_each_message_of_a_frame(void **state)
{
    enum { MESSAGES = 1000 };
    static const char *const lines[] = { HEAD("/t.S/Echo"), GRPC, NULL };
    struct world_case w;
    struct wire x = { 0 };
    struct cs_buf late = { 0 }, all = { 0 };
    struct answer a = { 0 };

    (void)state;
    case_open(&w);
    put_preface(&x.say);
    put_headers(&x.say, 0, lines);
    for (int n = 0; n < MESSAGES; n++)
        cs_buf_put(&all, "\0\0\0\0\1x", 6);
    put_frame(&x.say, DATA, 0, 1, cs_buf_slice(&all));
    wire_dial(&x, &w);
    while ((a = read_answer(&x.heard)).data < MESSAGES * 6 && !x.ended)
        run_ms(&w, 2);
    assert_int_equal(a.data, MESSAGES * 6);
    put_updates(&late, 1, MESSAGES);
    put_updates(&late, 0, MESSAGES);
    put_frame(&late, DATA, END_STREAM, 1, CS_SLICE_NULL);
    wire_say(&x, cs_buf_slice(&late));
    while (!(a = read_answer(&x.heard)).ended && !x.ended)
        run_ms(&w, 2);
    assert_int_equal(a.goaway, -1);
    assert_int_equal(a.grpc, 0);
    cs_buf_free(&late);
    cs_buf_free(&all);
    wire_close(&x);
    case_close(&w);
}

/* The client takes no more, the deadline comes in the middle of a message: the stream is reset. */
static void a_deadline_inside_a_message(void **state)
{
    static const char *const lines[] = { HEAD("/t.S/Bulk"), GRPC, "grpc-timeout 50m", NULL };
    struct world_case w;
    struct wire x = { 0 };
    struct answer a;

    (void)state;
    case_open(&w);
    w.service.bulk = 100;
    put_preface(&x.say);
    put_headers(&x.say, END_STREAM, lines);
    wire_dial(&x, &w);
    while ((a = read_answer(&x.heard)).reset < 0 && !x.ended)
        run_ms(&w, 2);
    assert_int_equal(a.reset, NGHTTP2_CANCEL);
    assert_int_equal(a.data, 65535); /* HTTP/2's first window */
    assert_int_equal(w.service.closed, 1);
    wire_close(&x);
    case_close(&w);
}

/* ---- strange answers ---- */

#define OK200 ":status 200", GRPC

struct reply {
    const char *name;
    const char *interim[2], *head[6];
    struct cs_slice body;
    const char *tail[6]; /* the trailers; none: END_STREAM is on what is before them, unless `open` */
    bool open;
    int status;
    const char *text; /* part of it */
};

static const struct reply replies[] = {
    { "an ordinary one", { NULL }, { OK200 }, BODY("\0\0\0\0\1x"), { "grpc-status 0" }, false, 0, "" },
    { "after an interim one", { ":status 103" }, { OK200 }, BODY("\0\0\0\0\1x"), { "grpc-status 0" }, false, 0, "" },
    { "trailers only",
      { NULL },
      { OK200, "grpc-status 9", "grpc-message a%20b" },
      { NULL, 0 },
      { NULL },
      false,
      9,
      "a b" },
    { "a proxy's page",
      { NULL },
      { ":status 502", "content-type text/html" },
      BODY("<html>"),
      { NULL },
      true,
      14,
      "502" },
    { "a proxy's no", { NULL }, { ":status 403" }, { NULL, 0 }, { NULL }, false, 7, "403" },
    { "a page", { NULL }, { ":status 200", "content-type text/html" }, BODY("<html>"), { NULL }, true, 2, "not gRPC" },
    { "no status", { NULL }, { OK200 }, BODY("\0\0\0\0\1x"), { "x-other 1" }, false, 2, "without a status" },
    { "no trailers", { NULL }, { OK200 }, BODY("\0\0\0\0\1x"), { NULL }, false, 2, "without a status" },
    { "a strange status", { NULL }, { OK200 }, { NULL, 0 }, { "grpc-status 1000" }, false, 2, "" },
    { "half a message", { NULL }, { OK200 }, BODY("\0\0\0\0\5x"), { "grpc-status 0" }, false, 13, "inside a message" },
    { "half a message and a reason", { NULL }, { OK200 }, BODY("\0\0\0\0\5x"), { "grpc-status 8" }, false, 8, "" },
    { "compressed", { NULL }, { OK200 }, BODY("\1\0\0\0\1x"), { "grpc-status 0" }, false, 13, "no encoding" },
    { "an unknown encoding",
      { NULL },
      { OK200, "grpc-encoding br" },
      BODY("\1\0\0\0\1x"),
      { NULL },
      true,
      13,
      "not known" },
    { "bad binary metadata",
      { NULL },
      { OK200, "x-bin ?" },
      { NULL, 0 },
      { NULL },
      true,
      13,
      "\"x-bin\" is not base64" },
    { "bad binary trailers", { NULL }, { OK200 }, { NULL, 0 }, { "x-bin ?", "grpc-status 0" }, false, 13, "base64" },
    { "a huge message", { NULL }, { OK200 }, BODY("\0\x7f\0\0\0x"), { NULL }, true, 8, "allowed are" },
};

static void strange_answers(void **state)
{
    struct world_case w;

    (void)state;
    case_loop(&w, cs_world_real());
    for (size_t i = 0; i < sizeof replies / sizeof replies[0]; i++) {
        const struct reply *q = &replies[i];
        bool tail = q->tail[0] != NULL, body = q->body.data != NULL;
        uint8_t last = tail || q->open ? 0 : END_STREAM;
        struct wire liar = { 0 };
        struct seen s = { 0 };
        struct cs_error err;

        put_frame(&liar.say, 4, 0, 0, CS_SLICE_NULL);
        if (q->interim[0] != NULL)
            put_headers(&liar.say, 0, q->interim);
        put_headers(&liar.say, body ? 0 : last, q->head);
        if (body)
            put_frame(&liar.say, DATA, last, 1, q->body);
        if (tail)
            put_headers(&liar.say, END_STREAM, q->tail);
        assert_int_equal(cs_listen(w.loop, "127.0.0.1", 0, wire_accepted, &liar, &liar.listener, &err), CS_OK);
        w.port = cs_listener_port(liar.listener);
        case_dial(&w, NULL);
        unary(&w, &s, "/t.S/Echo", NULL, 5000, cs_slice_str("x"));
        if (s.status != q->status || strstr(s.text, q->text) == NULL)
            fail_msg("%s: %s \"%s\"", q->name, cs_rpc_status_name(s.status), s.text);
        run_ms(&w, 2);
        assert_false(liar.ended); /* one call went wrong, not the connection */
        cs_rpc_channel_close(w.channel);
        wire_close(&liar);
        seen_free(&s);
    }
    w.channel = NULL;
    case_close(&w);
}

static void large_answer_metadata(void **state)
{
    static char field[20000] = "x-large ";
    const char *head[] = { OK200, field, NULL };
    struct world_case w;
    struct wire liar = { 0 };
    struct seen s = { 0 };
    struct cs_error err;

    (void)state;
    memset(field + 8, 'v', 17000);
    case_loop(&w, cs_world_real());
    put_frame(&liar.say, 4, 0, 0, CS_SLICE_NULL);
    put_headers(&liar.say, 0, head);
    assert_int_equal(cs_listen(w.loop, "127.0.0.1", 0, wire_accepted, &liar, &liar.listener, &err), CS_OK);
    w.port = cs_listener_port(liar.listener);
    case_dial(&w, NULL);
    unary(&w, &s, "/t.S/Echo", NULL, 5000, cs_slice_str("x"));
    assert_int_equal(s.status, CS_RPC_RESOURCE_EXHAUSTED);
    wire_close(&liar);
    seen_free(&s);
    case_close(&w);
}

/* ---- right bytes, a few of them changed ---- */

static uint64_t seed = 88172645463325252u;

static size_t pick(size_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (size_t)(seed % n);
}

static void change(struct cs_buf *b, struct cs_slice original, size_t from)
{
    size_t n = 1 + pick(3);

    cs_buf_reset(b);
    cs_buf_put_slice(b, original);
    for (size_t i = 0; i < n; i++)
        b->data[from + pick(b->len - from)] = (uint8_t)(pick(2) == 0 ? pick(256) : pick(10));
    if (pick(4) == 0)
        b->len = from + pick(b->len - from);
}

static void changed_requests(void **state)
{
    struct world_case w;
    struct wire tap = { 0 };
    struct seen s = { .to_send = 5, .size = 50, .half_close = true };
    struct cs_error err;

    (void)state;
    case_loop(&w, cs_world_real());
    /* what our client says to someone silent */
    assert_int_equal(cs_listen(w.loop, "127.0.0.1", 0, wire_accepted, &tap, &tap.listener, &err), CS_OK);
    w.port = cs_listener_port(tap.listener);
    case_dial(&w, NULL);
    start_call(&w, &s, "/t.S/Echo", NULL, 50000);
    seen_fill(s.call, &s);
    run_ms(&w, 50);
    assert_true(tap.heard.len > 300);
    cs_rpc_channel_close(w.channel);
    w.channel = NULL;
    w.port = 0;
    case_serve(&w, NULL);
    for (int i = 0; i < 500; i++) {
        struct wire x = { 0 };

        change(&x.say, cs_buf_slice(&tap.heard), 24);
        wire_dial(&x, &w);
        run_ms(&w, 1);
        wire_close(&x);
    }
    run_ms(&w, 50);
    wire_close(&tap);
    seen_free(&s);
    case_close(&w);
}

static void changed_answers(void **state)
{
    static const char *const lines[] = { HEAD("/t.S/Echo"), GRPC, NULL };
    struct world_case w;
    struct wire x = { 0 };
    struct cs_error err;
    int ok = 0;

    (void)state;
    case_open(&w);
    put_preface(&x.say);
    put_headers(&x.say, 0, lines);
    put_frame(&x.say, DATA, END_STREAM, 1, cs_slice("\0\0\0\0\5hello\0\0\0\0\5world", 20));
    wire_dial(&x, &w);
    run_ms(&w, 50);
    assert_true(x.heard.len > 100);
    cs_rpc_channel_close(w.channel);
    for (int i = 0; i < 500; i++) {
        struct wire liar = { 0 };
        struct seen s = { 0 };

        change(&liar.say, cs_buf_slice(&x.heard), 0);
        assert_int_equal(cs_listen(w.loop, "127.0.0.1", 0, wire_accepted, &liar, &liar.listener, &err), CS_OK);
        w.port = cs_listener_port(liar.listener);
        case_dial(&w, NULL);
        unary(&w, &s, "/t.S/Echo", NULL, 30, cs_slice_str("x"));
        ok += s.status == CS_RPC_OK;
        cs_rpc_channel_close(w.channel);
        wire_close(&liar);
        seen_free(&s);
    }
    assert_true(ok > 0 && ok < 500); /* some changes do no harm */
    w.channel = NULL;
    wire_close(&x);
    case_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strange_requests),
        cmocka_unit_test(compressed_answers),
        cmocka_unit_test(compressed_requests),
        cmocka_unit_test(padded_and_in_single_bytes),
        cmocka_unit_test(updates_that_come_in_a_heap),
        cmocka_unit_test(updates_for_each_message_of_a_frame),
        cmocka_unit_test(a_deadline_inside_a_message),
        cmocka_unit_test(strange_answers),
        cmocka_unit_test(large_answer_metadata),
        cmocka_unit_test(changed_requests),
        cmocka_unit_test(changed_answers),
    };

    return cmocka_run_group_tests_name("rpc on the wire", tests, NULL, NULL);
}
