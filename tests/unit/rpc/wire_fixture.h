/* HTTP/2 spoken by hand, for the tests of src/rpc: frames are made and read with nothing but nghttp2's header
 * compression, over a stream of the loop. */
#ifndef CS_TESTS_WIRE_FIXTURE_H
#define CS_TESTS_WIRE_FIXTURE_H

#include <nghttp2/nghttp2.h>

#include "unit/rpc/rpc_fixture.h"

enum {
    DATA = 0,
    HEADERS = 1,
    PRIORITY = 2,
    RST_STREAM = 3,
    SETTINGS = 4,
    PUSH_PROMISE = 5,
    PING = 6,
    GOAWAY = 7,
    WINDOW_UPDATE = 8,
    CONTINUATION = 9,
};
enum { ACK = 1, END_STREAM = 1, END_HEADERS = 4, PADDED = 8, WITH_PRIORITY = 0x20 };
#define MAGIC "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

static inline void put_frame(struct cs_buf *b, uint8_t type, uint8_t flags, uint32_t id, struct cs_slice payload)
{
    cs_buf_put_u8(b, (uint8_t)(payload.len >> 16));
    cs_buf_put_u16(b, (uint16_t)payload.len);
    cs_buf_put_u8(b, type);
    cs_buf_put_u8(b, flags);
    cs_buf_put_u32(b, id);
    cs_buf_put_slice(b, payload);
}

#define HEAD(path) ":method POST", ":scheme http", ":path " path, ":authority x"
#define GRPC       "content-type application/grpc"
#define BODY(s)                                                                                                        \
    {                                                                                                                  \
        (const uint8_t *)(s), sizeof(s) - 1                                                                            \
    }

/* "name value" lines, as a header block that needs no other. */
static inline void put_block(struct cs_buf *b, const char *const *lines)
{
    static uint8_t block[64 * 1024];
    nghttp2_hd_deflater *d;
    nghttp2_nv nv[16];
    size_t n = 0;
    ssize_t len;

    for (; lines[n] != NULL; n++) {
        const char *space = strchr(lines[n], ' ');

        nv[n] = (nghttp2_nv){ (uint8_t *)(uintptr_t)lines[n], (uint8_t *)(uintptr_t)(space + 1),
                              (size_t)(space - lines[n]), strlen(space + 1), NGHTTP2_NV_FLAG_NONE };
    }
    assert_int_equal(nghttp2_hd_deflate_new(&d, 0), 0);
    len = nghttp2_hd_deflate_hd(d, block, sizeof block, nv, n);
    assert_true(len > 0);
    nghttp2_hd_deflate_del(d);
    cs_buf_put(b, block, (size_t)len);
}

static inline void put_headers_on(struct cs_buf *b, uint32_t id, uint8_t flags, const char *const *lines)
{
    struct cs_buf block = { 0 };

    put_block(&block, lines);
    put_frame(b, HEADERS, (uint8_t)(flags | END_HEADERS), id, cs_buf_slice(&block));
    cs_buf_free(&block);
}

static inline void put_headers(struct cs_buf *b, uint8_t flags, const char *const *lines)
{
    put_headers_on(b, 1, flags, lines);
}

static inline void put_preface(struct cs_buf *b)
{
    cs_buf_put_str(b, MAGIC);
    put_frame(b, SETTINGS, 0, 0, CS_SLICE_NULL);
}

/* ---- a connection of bytes ---- */

struct wire {
    cs_loop *loop;
    cs_stream *stream;
    cs_listener *listener;
    struct cs_buf say, heard;
    bool ended;
};

static inline void wire_connected(void *arg, const struct cs_error *err)
{
    struct wire *x = arg;

    assert_null(err);
    cs_stream_read(x->stream, true);
    cs_stream_write(x->stream, cs_buf_slice(&x->say));
}

static inline void wire_data(void *arg, struct cs_slice bytes)
{
    cs_buf_put_slice(&((struct wire *)arg)->heard, bytes);
}

static inline void wire_ended(void *arg, const struct cs_error *err)
{
    (void)err;
    ((struct wire *)arg)->ended = true;
}

static const struct cs_stream_cb wire_cb = { wire_connected, wire_data, wire_ended, NULL };

static inline void wire_accepted(void *arg, cs_stream *s)
{
    struct wire *x = arg;

    cs_stream_close(x->stream);
    x->stream = s;
    cs_stream_accept(s, &wire_cb, x);
    wire_connected(x, NULL);
}

static inline void wire_dial(struct wire *x, struct world_case *w)
{
    struct cs_error err;

    x->loop = w->loop;
    assert_int_equal(cs_stream_connect(w->loop, "127.0.0.1", w->port, &wire_cb, x, &x->stream, &err), CS_OK);
}

static inline void wire_close(struct wire *x)
{
    cs_stream_close(x->stream);
    cs_listener_close(x->listener);
    cs_buf_free(&x->say);
    cs_buf_free(&x->heard);
}

/* More, on a connection that stands. */
static inline void wire_say(struct wire *x, struct cs_slice frames)
{
    assert_int_equal(cs_stream_write(x->stream, frames), CS_OK);
}

/* What the peer's frames said. */
struct answer {
    int http, grpc; /* of any stream, the newest; -1: not said */
    int ngrpc;      /* how many said it */
    bool ended;     /* stream 1 */
    int reset;      /* the newest RST_STREAM's code; -1: none came */
    uint32_t reset_id;
    size_t data;
    int ngoaways;
    int goaway; /* the newest one's code; -1: none came */
    uint32_t last_id;
    char word[64]; /* what it says for people */
    int npings, nacks;
    uint8_t ping[8]; /* the newest that is no answer */
    bool gzip;       /* grpc-encoding said so */
    bool takes_gzip; /* grpc-accept-encoding */
};

static inline int number(nghttp2_nv nv)
{
    int v = 0;

    for (size_t i = 0; i < nv.valuelen; i++)
        v = v * 10 + (nv.value[i] - '0');
    return v;
}

static inline void read_block(nghttp2_hd_inflater *z, struct cs_slice block, struct answer *a)
{
    for (;;) {
        nghttp2_nv nv;
        int flags = 0;
        ssize_t n = nghttp2_hd_inflate_hd2(z, &nv, &flags, block.data, block.len, 1);

        assert_true(n >= 0);
        block = cs_slice(block.data + n, block.len - (size_t)n);
        if ((flags & NGHTTP2_HD_INFLATE_EMIT) != 0) {
            if (nv.namelen == 7 && memcmp(nv.name, ":status", 7) == 0)
                a->http = number(nv);
            if (nv.namelen == 11 && memcmp(nv.name, "grpc-status", 11) == 0) {
                a->grpc = number(nv);
                a->ngrpc++;
            }
            if (nv.namelen == 13 && memcmp(nv.name, "grpc-encoding", 13) == 0)
                a->gzip = nv.valuelen == 4 && memcmp(nv.value, "gzip", 4) == 0;
            if (nv.namelen == 20 && memcmp(nv.name, "grpc-accept-encoding", 20) == 0)
                a->takes_gzip = nv.valuelen == 13 && memcmp(nv.value, "identity,gzip", 13) == 0;
        }
        if ((flags & NGHTTP2_HD_INFLATE_FINAL) != 0)
            break;
    }
    nghttp2_hd_inflate_end_headers(z);
}

static inline struct answer read_frames(struct cs_slice heard)
{
    struct answer a = { .http = -1, .grpc = -1, .reset = -1, .goaway = -1 };
    struct cs_reader r = cs_reader(heard);
    nghttp2_hd_inflater *z;

    assert_int_equal(nghttp2_hd_inflate_new(&z), 0);
    while (cs_reader_left(&r) >= 9) {
        size_t len = (size_t)cs_read_u8(&r) << 16;
        uint8_t type, flags;
        uint32_t id;
        struct cs_slice payload;

        len |= cs_read_u16(&r);
        type = cs_read_u8(&r);
        flags = cs_read_u8(&r);
        id = cs_read_u32(&r);
        payload = cs_read_bytes(&r, len);
        if (r.bad)
            break;
        if (type == HEADERS)
            read_block(z, payload, &a);
        if (type == DATA)
            a.data += payload.len;
        if (type == RST_STREAM && payload.len == 4) {
            a.reset = (int)cs_load_u32(payload.data);
            a.reset_id = id;
        }
        if (type == GOAWAY && payload.len >= 8) {
            a.ngoaways++;
            a.last_id = cs_load_u32(payload.data);
            a.goaway = (int)cs_load_u32(payload.data + 4);
            snprintf(a.word, sizeof a.word, "%.*s", (int)payload.len - 8, (const char *)payload.data + 8);
        }
        if (type == SETTINGS && (flags & ACK) != 0)
            a.nacks++;
        if (type == PING && (flags & ACK) == 0 && payload.len == 8) {
            a.npings++;
            memcpy(a.ping, payload.data, 8);
        }
        if ((type == HEADERS || type == DATA) && id == 1 && (flags & END_STREAM) != 0)
            a.ended = true;
    }
    nghttp2_hd_inflate_del(z);
    return a;
}

static inline struct answer read_answer(const struct cs_buf *heard)
{
    return read_frames(cs_buf_slice(heard));
}

/* What a client said, after its magic. */
static inline struct answer read_request(const struct cs_buf *heard)
{
    size_t n = sizeof MAGIC - 1;

    return heard->len < n ? read_frames(CS_SLICE_NULL) : read_frames(cs_slice(heard->data + n, heard->len - n));
}

#endif
