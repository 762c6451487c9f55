/* Peers that break HTTP/2, frame by frame over a raw socket: the classes of the public h2spec list, against our server
 * and, mirrored, against our client. Each case names the one right ending. A well-behaved peer on another connection
 * notices nothing, and nothing is left behind. */
#include "unit/rpc/wire_fixture.h"

/* ---- what a peer says ---- */

enum {
    STUCK_MS = 120000,
    WAIT = 0x100, /* no frame: waits for the answer of the stream before it goes on */
    RAW = 0x101,  /* bytes as they are, instead of the right preface */
};

struct frame {
    int type;
    uint8_t flags;
    uint32_t id;
    struct cs_slice payload;
};

#define F(type, flags, id, bytes)                                                                                      \
    {                                                                                                                  \
        type, flags, id,                                                                                               \
        {                                                                                                              \
            (const uint8_t *)(bytes), sizeof(bytes) - 1                                                                \
        }                                                                                                              \
    }
#define F_LARGE(type, flags, id, n)                                                                                    \
    {                                                                                                                  \
        type, flags, id,                                                                                               \
        {                                                                                                              \
            large, n                                                                                                   \
        }                                                                                                              \
    }
#define AND_WAIT                                                                                                       \
    {                                                                                                                  \
        WAIT, 0, 0,                                                                                                    \
        {                                                                                                              \
            NULL, 0                                                                                                    \
        }                                                                                                              \
    }

static uint8_t large[3 * 1024 * 1024];

/* Header blocks by hand: from HPACK's static table, and literals that are not indexed. */
#define POST     "\x83"
#define HTTP     "\x86"
#define PATH     "\x04\x09/t.S/Echo"
#define WAIT_FOR "\x04\x09/t.S/Wait"
#define HOST     "\x01\x01x"
#define TYPE                                                                                                           \
    "\x0f\x10\x10"                                                                                                     \
    "application/grpc"
#define REQUEST POST HTTP PATH HOST TYPE
#define OK_200  "\x88" TYPE
#define OPEN    F(HEADERS, END_HEADERS, 1, REQUEST)
#define CALL    F(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST)
#define HANG    F(HEADERS, END_HEADERS, 1, POST HTTP WAIT_FOR HOST TYPE)
#define MESSAGE "\0\0\0\0\1x"

enum { FRAMES = 6 };
static void put_frames(struct cs_buf *b, const struct frame *f, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (f[i].type == RAW) {
            cs_buf_put_slice(b, f[i].payload);
            continue;
        }
        put_frame(b, (uint8_t)f[i].type, f[i].flags, f[i].id, f[i].payload);
    }
}

static size_t count(const struct frame *f)
{
    static const struct frame none;
    size_t n = 0;

    while (n < FRAMES && memcmp(&f[n], &none, sizeof none) != 0)
        n++;
    return n;
}

/* ---- and how it ends ---- */

enum how {
    ANSWERED, /* gRPC status OK so many times (0: once), and the connection goes on */
    REFUSED,  /* the code is a gRPC status */
    RESET,    /* RST_STREAM on stream 1 or 3, and the connection goes on */
    GONE,     /* GOAWAY */
    HUNG_UP,  /* the end, without a word */
};

struct ending {
    enum how how;
    uint32_t code, or_code; /* or_code: also right; 0: none */
};
#define FINE                                                                                                           \
    {                                                                                                                  \
        ANSWERED, 0, 0                                                                                                 \
    }
#define FINE_TWICE                                                                                                     \
    {                                                                                                                  \
        ANSWERED, 2, 0                                                                                                 \
    }
#define QUIET                                                                                                          \
    {                                                                                                                  \
        HUNG_UP, 0, 0                                                                                                  \
    }
#define STATUS(code)                                                                                                   \
    {                                                                                                                  \
        REFUSED, CS_RPC_##code, 0                                                                                      \
    }
#define STREAM(code)                                                                                                   \
    {                                                                                                                  \
        RESET, NGHTTP2_##code, 0                                                                                       \
    }
#define ALL(code)                                                                                                      \
    {                                                                                                                  \
        GONE, NGHTTP2_##code, 0                                                                                        \
    }
#define END                                                                                                            \
    {                                                                                                                  \
        HUNG_UP, 0, 0                                                                                                  \
    }
#define ALL_OR(a, b)                                                                                                   \
    {                                                                                                                  \
        GONE, NGHTTP2_##a, NGHTTP2_##b                                                                                 \
    }

struct bad_case {
    const char *name;
    struct frame frames[FRAMES];
    struct ending ending;
};

static const struct bad_case clients[] = {
    { "nothing wrong", { OPEN, F(DATA, END_STREAM, 1, MESSAGE) }, FINE },

    /* RFC 9113 section 3.4: preface */
    { "another protocol", { F(RAW, 0, 0, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") }, END },
    { "nearly the magic", { F(RAW, 0, 0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r") }, END },
    { "no SETTINGS first", { F(RAW, 0, 0, MAGIC), CALL }, ALL(PROTOCOL_ERROR) },
    { "SETTINGS ACK first", { F(RAW, 0, 0, MAGIC), F(SETTINGS, ACK, 0, ""), CALL }, ALL(PROTOCOL_ERROR) },

    /* 4.1, 5.5: what is unknown is ignored */
    { "an unknown frame", { F(0x77, 0xff, 0, "12345678"), CALL }, FINE },
    { "an unknown frame on a stream", { OPEN, F(0x77, 0, 1, "1"), F(DATA, END_STREAM, 1, MESSAGE) }, FINE },
    { "unknown flags", { F(PING, 0xfe, 0, "12345678"), CALL }, FINE },
    { "the reserved bit", { F(PING, 0, 0x80000000, "12345678"), CALL }, FINE },
    { "unknown settings", { F(SETTINGS, 0, 0, "\x12\x34\0\0\0\1"), CALL }, FINE },

    /* 4.2: frame size */
    { "DATA above the frame size", { OPEN, F_LARGE(DATA, 0, 1, 128 * 1024 + 1) }, ALL(FRAME_SIZE_ERROR) },
    { "HEADERS above the frame size", { F_LARGE(HEADERS, END_HEADERS, 1, 128 * 1024 + 1) }, ALL(FRAME_SIZE_ERROR) },

    /* 4.3: header compression */
    { "an index out of range", { F(HEADERS, 5, 1, POST HTTP PATH "\xfe") }, ALL(COMPRESSION_ERROR) },
    { "index 0", { F(HEADERS, 5, 1, POST HTTP PATH "\x80") }, ALL(COMPRESSION_ERROR) },
    { "a literal cut short", { F(HEADERS, 5, 1, POST HTTP "\x04\x09/t") }, ALL(COMPRESSION_ERROR) },
    { "an integer without end",
      { F(HEADERS, 5, 1, POST "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") },
      ALL(COMPRESSION_ERROR) },
    { "a table above the setting", { F(HEADERS, 5, 1, "\x3f\xe2\x1f" REQUEST) }, ALL(COMPRESSION_ERROR) },
    { "a table size after fields", { F(HEADERS, 5, 1, REQUEST "\x20") }, ALL(COMPRESSION_ERROR) },
    { "Huffman padding too long", { F(HEADERS, 5, 1, REQUEST "\0\x01x\x84\x49\x50\x9f\xff") }, ALL(COMPRESSION_ERROR) },
    { "Huffman padding of zeros", { F(HEADERS, 5, 1, REQUEST "\0\x01x\x83\x49\x50\x90") }, ALL(COMPRESSION_ERROR) },
    { "Huffman's end of string inside",
      { F(HEADERS, 5, 1, REQUEST "\0\x01x\x87\x49\x51\xff\xff\xff\xfa\x7f") },
      ALL(COMPRESSION_ERROR) },

    /* 4.3, 6.10: header blocks in pieces */
    { "a block in three pieces",
      { F(HEADERS, END_STREAM, 1, POST), F(CONTINUATION, 0, 1, HTTP), F(CONTINUATION, END_HEADERS, 1, PATH HOST TYPE) },
      FINE },
    { "PRIORITY inside a block",
      { F(HEADERS, 0, 1, POST), F(PRIORITY, 0, 1, "\0\0\0\0\1"), F(CONTINUATION, END_HEADERS, 1, HTTP PATH HOST TYPE) },
      ALL(PROTOCOL_ERROR) },
    { "an unknown frame inside a block",
      { F(HEADERS, 0, 1, POST), F(0x77, 0, 0, "x"), F(CONTINUATION, END_HEADERS, 1, HTTP PATH HOST TYPE) },
      ALL(PROTOCOL_ERROR) },
    { "another stream's HEADERS inside a block",
      { F(HEADERS, 0, 1, POST), F(HEADERS, END_HEADERS, 3, REQUEST) },
      ALL(PROTOCOL_ERROR) },
    { "another stream's CONTINUATION",
      { F(HEADERS, 0, 1, POST), F(CONTINUATION, END_HEADERS, 3, HTTP PATH HOST TYPE) },
      ALL(PROTOCOL_ERROR) },
    { "CONTINUATION on stream 0",
      { F(HEADERS, 0, 1, POST), F(CONTINUATION, END_HEADERS, 0, HTTP PATH HOST TYPE) },
      ALL(PROTOCOL_ERROR) },
    { "CONTINUATION of nothing", { F(CONTINUATION, END_HEADERS, 1, REQUEST) }, ALL(PROTOCOL_ERROR) },
    { "CONTINUATION after the end of the block", { OPEN, F(CONTINUATION, END_HEADERS, 1, TYPE) }, ALL(PROTOCOL_ERROR) },
    { "CONTINUATION after DATA",
      { OPEN, F(DATA, 0, 1, MESSAGE), F(CONTINUATION, END_HEADERS, 1, TYPE) },
      ALL(PROTOCOL_ERROR) },

    /* 5.1: states of streams */
    { "DATA on an idle stream", { F(DATA, 0, 1, "x") }, ALL(PROTOCOL_ERROR) },
    { "RST_STREAM on an idle stream", { F(RST_STREAM, 0, 1, "\0\0\0\x8") }, ALL(PROTOCOL_ERROR) },
    { "WINDOW_UPDATE on an idle stream", { F(WINDOW_UPDATE, 0, 1, "\0\0\0\1") }, ALL(PROTOCOL_ERROR) },
    { "PRIORITY on an idle stream", { F(PRIORITY, 0, 3, "\0\0\0\0\1"), CALL }, FINE },
    { "DATA after our end",
      { F(HEADERS, 5, 1, POST HTTP WAIT_FOR HOST TYPE), F(DATA, 0, 1, "x") },
      ALL(STREAM_CLOSED) },
    { "HEADERS after our end",
      { F(HEADERS, 5, 1, POST HTTP WAIT_FOR HOST TYPE), F(HEADERS, 5, 1, REQUEST) },
      ALL(STREAM_CLOSED) },
    { "DATA after RST_STREAM",
      { HANG, F(RST_STREAM, 0, 1, "\0\0\0\x8"), F(DATA, 0, 1, "x"), F(HEADERS, 5, 3, REQUEST) },
      FINE }, /* a stream that is forgotten may get late frames: they are thrown away */
    { "HEADERS after RST_STREAM",
      { HANG, F(RST_STREAM, 0, 1, "\0\0\0\x8"), F(HEADERS, 5, 1, REQUEST), F(HEADERS, 5, 3, REQUEST) },
      ALL(STREAM_CLOSED) },
    { "HEADERS on an answered stream", { CALL, AND_WAIT, CALL, F(HEADERS, 5, 3, REQUEST) }, ALL(STREAM_CLOSED) },
    { "DATA and trailers that cross our reset",
      { F(HEADERS, END_HEADERS, 1, POST HTTP "\x04\x04/t.X" HOST TYPE), AND_WAIT, F(DATA, 0, 1, "x"),
        F(HEADERS, 5, 1, "\0\x01y\x01z"), F(HEADERS, 5, 3, REQUEST) },
      FINE_TWICE },
    { "a stream of even number", { F(HEADERS, 5, 2, REQUEST) }, ALL(PROTOCOL_ERROR) },
    { "a stream number that goes back",
      { F(HEADERS, 5, 5, REQUEST), F(HEADERS, 5, 3, REQUEST), F(HEADERS, 5, 7, REQUEST) },
      ALL(PROTOCOL_ERROR) },
    { "stream numbers that leave some out", { CALL, F(HEADERS, 5, 201, REQUEST) }, FINE_TWICE },

    /* 6.1: DATA */
    { "DATA on stream 0", { F(DATA, 0, 0, "x") }, ALL(PROTOCOL_ERROR) },
    { "DATA padded beyond its end", { OPEN, F(DATA, PADDED, 1, "\x09xxxx") }, ALL(PROTOCOL_ERROR) },
    { "DATA of padding and nothing to say so",
      { OPEN, F(DATA, PADDED, 1, "") },
      ALL_OR(FRAME_SIZE_ERROR, PROTOCOL_ERROR) },

    /* 6.2: HEADERS */
    { "HEADERS on stream 0", { F(HEADERS, 5, 0, REQUEST) }, ALL(PROTOCOL_ERROR) },
    { "HEADERS padded beyond their end", { F(HEADERS, 5 | PADDED, 1, "\x7f" REQUEST) }, ALL(PROTOCOL_ERROR) },
    { "HEADERS with a priority", { F(HEADERS, 5 | WITH_PRIORITY, 1, "\0\0\0\0\x10" REQUEST) }, FINE },
    { "HEADERS too short for their priority",
      { F(HEADERS, 5 | WITH_PRIORITY, 1, "\0\0\0") },
      ALL_OR(FRAME_SIZE_ERROR, PROTOCOL_ERROR) },

    /* 6.3: PRIORITY */
    { "PRIORITY on stream 0", { F(PRIORITY, 0, 0, "\0\0\0\0\1") }, ALL(PROTOCOL_ERROR) },
    { "PRIORITY of four bytes", { F(PRIORITY, 0, 1, "\0\0\0\0") }, ALL(FRAME_SIZE_ERROR) },

    /* 6.4: RST_STREAM */
    { "RST_STREAM on stream 0", { F(RST_STREAM, 0, 0, "\0\0\0\x8") }, ALL(PROTOCOL_ERROR) },
    { "RST_STREAM of three bytes", { HANG, F(RST_STREAM, 0, 1, "\0\0\0") }, ALL(FRAME_SIZE_ERROR) },

    /* 6.5: SETTINGS */
    { "SETTINGS ACK with something in it", { F(SETTINGS, ACK, 0, "\0\0\0\0\0\0") }, ALL(FRAME_SIZE_ERROR) },
    { "SETTINGS on a stream", { F(SETTINGS, 0, 1, "") }, ALL(PROTOCOL_ERROR) },
    { "SETTINGS of five bytes", { F(SETTINGS, 0, 0, "\0\0\0\0\0") }, ALL(FRAME_SIZE_ERROR) },
    { "ENABLE_PUSH 2", { F(SETTINGS, 0, 0, "\0\2\0\0\0\2") }, ALL(PROTOCOL_ERROR) },
    { "a window above 2^31-1", { F(SETTINGS, 0, 0, "\0\4\x80\0\0\0") }, ALL(FLOW_CONTROL_ERROR) },
    { "a frame size too small", { F(SETTINGS, 0, 0, "\0\5\0\0\x3f\xff") }, ALL(PROTOCOL_ERROR) },
    { "a frame size too large", { F(SETTINGS, 0, 0, "\0\5\1\0\0\0") }, ALL(PROTOCOL_ERROR) },
    { "the same setting twice", { F(SETTINGS, 0, 0, "\0\4\0\0\0\1\0\4\0\0\xff\xff"), CALL }, FINE },

    /* 6.6, 8.4: clients do not push */
    { "PUSH_PROMISE from a client",
      { OPEN, F(PUSH_PROMISE, END_HEADERS, 1, "\0\0\0\2" REQUEST) },
      ALL(PROTOCOL_ERROR) },

    /* 6.7: PING */
    { "PING on a stream", { F(PING, 0, 1, "12345678") }, ALL(PROTOCOL_ERROR) },
    { "PING of six bytes", { F(PING, 0, 0, "123456") }, ALL(FRAME_SIZE_ERROR) },
    { "an answer to no PING", { F(PING, ACK, 0, "12345678"), CALL }, FINE },
    { "an answer to a PING of ours that was not sent", { F(PING, ACK, 0, "draining"), CALL }, FINE },

    /* 6.8: GOAWAY */
    { "GOAWAY on a stream", { F(GOAWAY, 0, 1, "\0\0\0\0\0\0\0\0") }, ALL(PROTOCOL_ERROR) },
    { "GOAWAY of six bytes", { F(GOAWAY, 0, 0, "\0\0\0\0\0\0") }, ALL(FRAME_SIZE_ERROR) },

    /* 6.9: windows */
    { "a connection's window by 0", { F(WINDOW_UPDATE, 0, 0, "\0\0\0\0") }, ALL(PROTOCOL_ERROR) },
    { "a stream's window by 0", { HANG, F(WINDOW_UPDATE, 0, 1, "\0\0\0\0") }, ALL(PROTOCOL_ERROR) },
    { "WINDOW_UPDATE of three bytes", { F(WINDOW_UPDATE, 0, 0, "\0\0\1") }, ALL(FRAME_SIZE_ERROR) },
    { "a connection's window beyond 2^31-1",
      { F(WINDOW_UPDATE, 0, 0, "\x7f\xff\xff\xff"), F(WINDOW_UPDATE, 0, 0, "\x7f\xff\xff\xff") },
      ALL(FLOW_CONTROL_ERROR) },
    { "a stream's window beyond 2^31-1",
      { HANG, F(WINDOW_UPDATE, 0, 1, "\x7f\xff\xff\xff") },
      STREAM(FLOW_CONTROL_ERROR) },
    { "windows beyond 2^31-1 by SETTINGS",
      { HANG, F(WINDOW_UPDATE, 0, 1, "\x7f\xfe\0\0"), F(SETTINGS, 0, 0, "\0\4\x7f\xff\xff\xff") },
      STREAM(FLOW_CONTROL_ERROR) },
    { "more than the stream's window",
      { HANG, F_LARGE(DATA, 0, 1, 128 * 1024), F_LARGE(DATA, 0, 1, 1024 * 1024) },
      ALL_OR(FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR) },

    /* 8.1, 8.2, 8.3: requests that are malformed */
    { "trailers that do not end the stream",
      { OPEN, F(HEADERS, END_HEADERS, 1, "\0\x01y\x01z") },
      STREAM(PROTOCOL_ERROR) },
    { "a pseudo header in trailers", { HANG, F(HEADERS, 5, 1, HTTP) }, STREAM(PROTOCOL_ERROR) },
    { "an upper case name", { F(HEADERS, 5, 1, REQUEST "\0\x02Xy\x01z") }, STREAM(PROTOCOL_ERROR) },
    { "a pseudo header nobody knows",
      { F(HEADERS, 5, 1, POST HTTP PATH "\0\x02:x\x01y" TYPE) },
      STREAM(PROTOCOL_ERROR) },
    { "a response's pseudo header", { F(HEADERS, 5, 1, POST HTTP PATH "\x88" TYPE) }, STREAM(PROTOCOL_ERROR) },
    { "a pseudo header behind others", { F(HEADERS, 5, 1, POST HTTP HOST TYPE PATH) }, STREAM(PROTOCOL_ERROR) },
    { "connection: close",
      { F(HEADERS, 5, 1,
          REQUEST "\0\x0a"
                  "connection\x05"
                  "close") },
      STREAM(PROTOCOL_ERROR) },
    { "te: gzip", { F(HEADERS, 5, 1, REQUEST "\0\x02te\x04gzip") }, STREAM(PROTOCOL_ERROR) },
    { "te: trailers", { F(HEADERS, 5, 1, REQUEST "\0\x02te\x08trailers") }, FINE },
    { "an empty path", { F(HEADERS, 5, 1, POST HTTP "\x04\0" HOST TYPE) }, STREAM(PROTOCOL_ERROR) },
    { "no path", { F(HEADERS, 5, 1, POST HTTP HOST TYPE) }, STREAM(PROTOCOL_ERROR) },
    { "no method", { F(HEADERS, 5, 1, HTTP PATH HOST TYPE) }, STREAM(PROTOCOL_ERROR) },
    { "no scheme", { F(HEADERS, 5, 1, POST PATH HOST TYPE) }, STREAM(PROTOCOL_ERROR) },
    { "two methods", { F(HEADERS, 5, 1, POST POST HTTP PATH HOST TYPE) }, STREAM(PROTOCOL_ERROR) },
    { "two schemes", { F(HEADERS, 5, 1, POST HTTP HTTP PATH HOST TYPE) }, STREAM(PROTOCOL_ERROR) },
    { "two paths", { F(HEADERS, 5, 1, POST HTTP PATH PATH HOST TYPE) }, STREAM(PROTOCOL_ERROR) },
    { "a control character in a value", { F(HEADERS, 5, 1, REQUEST "\0\x01x\x02\r\n") }, STREAM(PROTOCOL_ERROR) },
    { "more than its content-length",
      { F(HEADERS, END_HEADERS, 1,
          REQUEST "\x0f\x0d\x01"
                  "1"),
        F(DATA, END_STREAM, 1, MESSAGE) },
      STREAM(PROTOCOL_ERROR) },
    { "less than its content-length",
      { F(HEADERS, END_HEADERS, 1,
          REQUEST "\x0f\x0d\x01"
                  "9"),
        F(DATA, END_STREAM, 1, MESSAGE) },
      STREAM(PROTOCOL_ERROR) },

    /* gRPC on top of it (more of these in wire_test) */
    { "a message cut by the end", { OPEN, F(DATA, END_STREAM, 1, "\0\0\0\0\x05xx") }, STATUS(INTERNAL) },
    { "a message above the limit", { OPEN, F(DATA, 0, 1, "\0\x7f\0\0\0x") }, STATUS(RESOURCE_EXHAUSTED) },
    { "a compressed message without encoding", { OPEN, F(DATA, 0, 1, "\1\0\0\0\1x") }, STATUS(INTERNAL) },
    { "a compressed message that is not gzip",
      { F(HEADERS, END_HEADERS, 1, REQUEST "\0\x0dgrpc-encoding\x04gzip"), F(DATA, 0, 1, "\1\0\0\0\1x") },
      STATUS(INTERNAL) },
};
enum { NCLIENTS = sizeof clients / sizeof clients[0] };

/* ---- our server, a bad client and a good one ---- */

struct scene {
    struct world_case w;
    struct seen hanging; /* the good client's call that lasts through it all */
};
static struct scene scene;

static int scene_open(void **state)
{
    (void)state;
    memset(&scene, 0, sizeof scene);
    case_open(&scene.w);
    start_call(&scene.w, &scene.hanging, "/t.S/Wait", NULL, 0);
    RUN_UNTIL(&scene.w, scene.w.service.started == 1);
    return 0;
}

static int scene_close(void **state)
{
    (void)state;
    assert_int_equal(scene.hanging.done, 0);
    cs_rpc_call_cancel(scene.hanging.call);
    finish_call(&scene.w, &scene.hanging);
    run_ms(&scene.w, 5);
    seen_free(&scene.hanging);
    case_close(&scene.w);
    return 0;
}

static void others_are_undisturbed(void)
{
    struct cs_rpc_server_stats stats;
    struct seen s = { 0 };

    unary(&scene.w, &s, "/t.S/Echo", NULL, 10000, cs_slice_str("x"));
    assert_int_equal(s.status, CS_RPC_OK);
    assert_int_equal(s.bytes, 1);
    seen_free(&s);
    assert_int_equal(scene.hanging.done, 0);
    /* nothing of the bad one is left */
    do {
        run_ms(&scene.w, 1);
        cs_rpc_server_stats(scene.w.server, &stats);
    } while (stats.connections != 1 || stats.calls != 1);
    assert_int_equal(scene.w.service.started, scene.w.service.closed + 1);
}

static bool has_ended(const struct bad_case *c, const struct answer *a, const struct wire *x)
{
    switch (c->ending.how) {
    case ANSWERED:
        return a->ngrpc >= (c->ending.code > 0 ? (int)c->ending.code : 1) || x->ended;
    case REFUSED:
        return a->grpc >= 0 || x->ended;
    case RESET:
        return a->reset >= 0 || x->ended;
    case GONE:
        return a->goaway >= 0 || x->ended;
    default:
        return x->ended;
    }
}

static bool is_right(const struct ending *e, const struct answer *a, bool ended)
{
    bool goes_on = a->goaway < 0 && !ended;

    switch (e->how) {
    case ANSWERED:
        return a->grpc == 0 && a->ngrpc == (e->code > 0 ? (int)e->code : 1) && goes_on;
    case REFUSED:
        return a->grpc == (int)e->code && goes_on;
    case RESET:
        return a->reset == (int)e->code && goes_on;
    case GONE:
        return a->goaway == (int)e->code || (e->or_code != 0 && a->goaway == (int)e->or_code);
    case HUNG_UP:
        return a->goaway < 0 && ended;
    }
    return false;
}

static void say_frames(struct wire *x, const struct bad_case *c, size_t from, size_t to)
{
    struct cs_buf more = { 0 };

    put_frames(&more, c->frames + from, to - from);
    wire_say(x, cs_buf_slice(&more));
    cs_buf_free(&more);
}

static void a_bad_client(void **state)
{
    const struct bad_case *c = *state;
    size_t n = count(c->frames), first = 0;
    struct wire x = { 0 };
    struct answer a = { 0 };
    bool ended;

    cs_timer_start(scene.w.guard, STUCK_MS);
    while (first < n && c->frames[first].type != WAIT)
        first++;
    if (c->frames[0].type != RAW)
        put_preface(&x.say);
    put_frames(&x.say, c->frames, first);
    wire_dial(&x, &scene.w);
    if (first < n) {
        RUN_UNTIL(&scene.w, read_answer(&x.heard).ended);
        say_frames(&x, c, first + 1, n);
    }
    do {
        run_ms(&scene.w, 1);
        a = read_answer(&x.heard);
    } while (!has_ended(c, &a, &x));
    ended = x.ended;
    wire_close(&x);
    others_are_undisturbed();
    if (!is_right(&c->ending, &a, ended))
        fail_msg("GOAWAY %d (%s), RST_STREAM %d, gRPC %d, HTTP %d, ended %d", a.goaway, a.word, a.reset, a.grpc, a.http,
                 ended);
}

/* ---- our client, and a bad server beside a good one ---- */

/* How the client's call ends, and what the server hears: GOAWAY (GONE), RST_STREAM (RESET), or neither. */
struct bad_server {
    const char *name;
    struct frame frames[FRAMES];
    int status;
    struct ending ending;
};
#define ANSWER      F(HEADERS, END_HEADERS, 1, OK_200)
#define END_WITH(n) F(HEADERS, 5, 1, "\0\x0bgrpc-status\x01" n)

static const struct bad_server servers[] = {
    { "nothing wrong", { ANSWER, F(DATA, 0, 1, MESSAGE), END_WITH("0") }, CS_RPC_OK, FINE },

    { "another protocol",
      { F(RAW, 0, 0, "HTTP/1.1 400 Bad Request\r\n\r\n") },
      CS_RPC_UNAVAILABLE,
      ALL_OR(FRAME_SIZE_ERROR, PROTOCOL_ERROR) },
    { "no SETTINGS first", { F(RAW, 0, 0, ""), ANSWER }, CS_RPC_UNAVAILABLE, ALL(PROTOCOL_ERROR) },
    { "server push",
      { F(SETTINGS, ACK, 0, ""), F(PUSH_PROMISE, END_HEADERS, 1, "\0\0\0\2" REQUEST) },
      CS_RPC_UNAVAILABLE,
      ALL(PROTOCOL_ERROR) },
    { "ENABLE_PUSH from a server", { F(SETTINGS, 0, 0, "\0\2\0\0\0\1") }, CS_RPC_UNAVAILABLE, ALL(PROTOCOL_ERROR) },
    { "a window above 2^31-1", { F(SETTINGS, 0, 0, "\0\4\x80\0\0\0") }, CS_RPC_UNAVAILABLE, ALL(FLOW_CONTROL_ERROR) },
    { "a stream that nobody opened", { F(HEADERS, 5, 3, OK_200) }, CS_RPC_UNAVAILABLE, ALL(PROTOCOL_ERROR) },
    { "a stream of the server's", { F(HEADERS, 5, 2, OK_200) }, CS_RPC_UNAVAILABLE, ALL(PROTOCOL_ERROR) },
    { "DATA on a stream that nobody opened", { F(DATA, 0, 3, "x") }, CS_RPC_UNAVAILABLE, ALL(PROTOCOL_ERROR) },
    { "DATA above the frame size",
      { ANSWER, F_LARGE(DATA, 0, 1, 128 * 1024 + 1) },
      CS_RPC_UNAVAILABLE,
      ALL(FRAME_SIZE_ERROR) },
    { "headers that cannot be unpacked", { F(HEADERS, 5, 1, "\x88\xfe") }, CS_RPC_UNAVAILABLE, ALL(COMPRESSION_ERROR) },
    { "PING inside a block",
      { F(HEADERS, 0, 1, "\x88"), F(PING, 0, 0, "12345678") },
      CS_RPC_UNAVAILABLE,
      ALL(PROTOCOL_ERROR) },
    { "CONTINUATION of nothing", { F(CONTINUATION, END_HEADERS, 1, OK_200) }, CS_RPC_UNAVAILABLE, ALL(PROTOCOL_ERROR) },
    { "a window beyond 2^31-1",
      { F(WINDOW_UPDATE, 0, 0, "\x7f\xff\xff\xff") },
      CS_RPC_UNAVAILABLE,
      ALL(FLOW_CONTROL_ERROR) },
    { "GOAWAY too short", { F(GOAWAY, 0, 0, "\0\0\0\0") }, CS_RPC_UNAVAILABLE, ALL(FRAME_SIZE_ERROR) },

    { "DATA before the headers", { F(DATA, 0, 1, MESSAGE) }, CS_RPC_UNAVAILABLE, ALL(PROTOCOL_ERROR) },
    { "no :status", { F(HEADERS, END_HEADERS, 1, TYPE) }, CS_RPC_INTERNAL, STREAM(PROTOCOL_ERROR) },
    { "two of :status", { F(HEADERS, END_HEADERS, 1, "\x88\x88" TYPE) }, CS_RPC_INTERNAL, STREAM(PROTOCOL_ERROR) },
    { "a request's pseudo header",
      { F(HEADERS, END_HEADERS, 1, "\x88" POST) },
      CS_RPC_INTERNAL,
      STREAM(PROTOCOL_ERROR) },
    { "an upper case name",
      { F(HEADERS, END_HEADERS, 1, OK_200 "\0\x02Xy\x01z") },
      CS_RPC_INTERNAL,
      STREAM(PROTOCOL_ERROR) },
    { "trailers that do not end the stream",
      { ANSWER, F(HEADERS, END_HEADERS, 1, "\0\x01y\x01z") },
      CS_RPC_INTERNAL,
      STREAM(PROTOCOL_ERROR) },
    { "more than its content-length",
      { F(HEADERS, END_HEADERS, 1,
          OK_200 "\x0f\x0d\x01"
                 "1"),
        F(DATA, 0, 1, MESSAGE) },
      CS_RPC_INTERNAL,
      STREAM(PROTOCOL_ERROR) },

    { "no status at the end", { ANSWER, F(DATA, END_STREAM, 1, MESSAGE) }, CS_RPC_UNKNOWN, QUIET },
    { "the end inside a message", { ANSWER, F(DATA, 0, 1, "\0\0\0\0\5x"), END_WITH("0") }, CS_RPC_INTERNAL, QUIET },
    { "a message above the limit",
      { ANSWER, F(DATA, 0, 1, "\0\x7f\0\0\0x") },
      CS_RPC_RESOURCE_EXHAUSTED,
      STREAM(CANCEL) },
    { "a compressed message without encoding",
      { ANSWER, F(DATA, 0, 1, "\1\0\0\0\1x") },
      CS_RPC_INTERNAL,
      STREAM(CANCEL) },
    { "a flag that does not exist", { ANSWER, F(DATA, 0, 1, "\2\0\0\0\1x") }, CS_RPC_INTERNAL, STREAM(CANCEL) },
    { "an answer that is not gRPC",
      { F(HEADERS, END_HEADERS, 1, "\x88"), F(DATA, 0, 1, "<html>") },
      CS_RPC_UNKNOWN,
      STREAM(CANCEL) },
    { "GOAWAY that disowns the call", { F(GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0") }, CS_RPC_UNAVAILABLE, QUIET },
};
enum { NSERVERS = sizeof servers / sizeof servers[0] };

static bool server_is_right(const struct ending *e, const struct answer *a)
{
    switch (e->how) {
    case GONE:
        return a->goaway == (int)e->code || (e->or_code != 0 && a->goaway == (int)e->or_code);
    case RESET:
        return a->reset == (int)e->code && a->goaway <= 0;
    default:
        return a->goaway <= 0; /* it may leave, without a reproach */
    }
}

static void a_bad_server(void **state)
{
    const struct bad_server *c = *state;
    struct cs_rpc_channel_options o = { .host = "127.0.0.1" };
    struct wire x = { .loop = scene.w.loop };
    struct seen s = { .loop = scene.w.loop };
    struct cs_rpc_channel *channel;
    struct answer a = { 0 };
    struct cs_error err;

    cs_timer_start(scene.w.guard, STUCK_MS);
    if (c->frames[0].type != RAW)
        put_frame(&x.say, SETTINGS, 0, 0, CS_SLICE_NULL);
    put_frames(&x.say, c->frames, count(c->frames));
    assert_int_equal(cs_listen(x.loop, "127.0.0.1", 0, wire_accepted, &x, &x.listener, &err), CS_OK);
    o.port = cs_listener_port(x.listener);
    assert_int_equal(cs_rpc_channel_new(x.loop, &o, &channel, &err), CS_OK);
    assert_int_equal(cs_rpc_call_new(channel, "/t.S/Echo", NULL, 0, &seen_cb, &s, &s.call, &err), CS_OK);
    finish_call(&scene.w, &s);
    do {
        a = read_request(&x.heard);
        if (!server_is_right(&c->ending, &a) && !x.ended)
            run_ms(&scene.w, 1);
    } while (!server_is_right(&c->ending, &a) && !x.ended);
    a = read_request(&x.heard);
    cs_rpc_channel_close(channel);
    wire_close(&x);
    seen_free(&s);
    others_are_undisturbed();
    if (s.status != c->status || !server_is_right(&c->ending, &a))
        fail_msg("%s: %s; GOAWAY %d (%s), RST_STREAM %d", cs_rpc_status_name(s.status), s.text, a.goaway, a.word,
                 a.reset);
}

static int run(const char *group, CMUnitTestFunction test, const void *cases, size_t size, size_t n)
{
    struct CMUnitTest tests[NCLIENTS + NSERVERS];

    for (size_t i = 0; i < n; i++) {
        const uint8_t *c = (const uint8_t *)cases + i * size;

        tests[i] = (struct CMUnitTest){ .test_func = test, .initial_state = (void *)(uintptr_t)c };
        memcpy(&tests[i].name, c, sizeof tests[i].name); /* it is the first of either struct */
    }
    return _cmocka_run_group_tests(group, tests, n, scene_open, scene_close);
}

int main(void)
{
    int failed = 0;

    failed += run("bad clients", a_bad_client, clients, sizeof clients[0], NCLIENTS);
    failed += run("bad servers", a_bad_server, servers, sizeof servers[0], NSERVERS);
    return failed;
}
