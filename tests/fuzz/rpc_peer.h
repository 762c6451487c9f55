/* A peer that says whatever the input is, over the simulated network, under virtual time. The input's first byte is
 * the target's; the second says in pieces of which size (0: at once); the rest is said. */
#ifndef CS_TESTS_FUZZ_RPC_PEER_H
#define CS_TESTS_FUZZ_RPC_PEER_H

#include "base/test_world.h"
#include "fuzz/fuzz.h"
#include "rpc/rpc.h"

#define FUZZ_MAGIC    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define FUZZ_SETTINGS "\0\0\0\4\0\0\0\0\0"
enum { FUZZ_SETTLED_MS = 15 * 60 * 1000 };

struct fuzz_peer {
    cs_sim *sim;
    cs_loop *loop;
    cs_stream *stream;
    cs_listener *listener;
    struct cs_slice first, say;
    size_t piece;
    bool ended;
};

static inline void fuzz_connected(void *arg, const struct cs_error *err)
{
    struct fuzz_peer *p = arg;

    FUZZ_CHECK(err == NULL);
    cs_stream_read(p->stream, true);
    cs_stream_write(p->stream, p->first);
    while (p->say.len > 0) {
        size_t n = p->piece == 0 || p->say.len < p->piece ? p->say.len : p->piece;

        cs_stream_write(p->stream, cs_slice(p->say.data, n));
        p->say = cs_slice(p->say.data + n, p->say.len - n);
    }
}

static inline void fuzz_heard(void *arg, struct cs_slice bytes)
{
    (void)arg;
    (void)bytes;
}

static inline void fuzz_ended(void *arg, const struct cs_error *err)
{
    (void)err;
    ((struct fuzz_peer *)arg)->ended = true;
}

static const struct cs_stream_cb fuzz_peer_cb = { fuzz_connected, fuzz_heard, fuzz_ended, NULL };

static inline void fuzz_peer_open(struct fuzz_peer *p, const char *host, struct cs_slice first, const uint8_t *data,
                                  size_t size)
{
    struct cs_world *w;

    *p = (struct fuzz_peer){ .sim = cs_sim_new(1), .first = first };
    p->piece = size > 1 ? data[1] : 0;
    if (size > 2)
        p->say = cs_slice(data + 2, size - 2);
    FUZZ_CHECK(p->sim != NULL && (w = cs_sim_host(p->sim, host)) != NULL);
    cs_sim_trace_payload(p->sim, false);
    FUZZ_CHECK(cs_loop_new(w, &p->loop, NULL) == CS_OK);
}

static inline void fuzz_peer_hang_up(struct fuzz_peer *p)
{
    cs_stream_close(p->stream);
    p->stream = NULL;
    cs_listener_close(p->listener);
    p->listener = NULL;
}

static inline void fuzz_peer_close(struct fuzz_peer *p)
{
    cs_loop_free(p->loop);
    cs_sim_free(p->sim);
}

#endif
