/* A channel against a server that says anything: every call ends, once, with a status. */
#include "fuzz/rpc_peer.h"

enum { GREET = 1, STREAMING = 2, CANCEL = 4, WAIT = 8, CALLS = 3 };

struct seen {
    unsigned done;
    uint64_t messages;
};

static void on_message(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    (void)c;
    (void)msg;
    ((struct seen *)arg)->messages++;
}

static void on_done(cs_rpc_call *c, void *arg, int status, const char *text, const struct cs_rpc_metadata *trailers)
{
    (void)trailers;
    FUZZ_CHECK(text != NULL && status >= 0);
    cs_rpc_call_pushback(c);
    cs_rpc_call_unprocessed(c);
    ((struct seen *)arg)->done++;
}

static void accepted(void *arg, cs_stream *s)
{
    struct fuzz_peer *p = arg;

    if (p->stream != NULL) { /* another connection: nobody is there */
        cs_stream_close(s);
        return;
    }
    p->stream = s;
    cs_stream_accept(s, &fuzz_peer_cb, p);
    fuzz_connected(p, NULL);
}

static bool all_done(void *arg)
{
    const struct seen *s = arg;

    return s[0].done > 0 && s[1].done > 0 && s[2].done > 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct cs_rpc_client_cb cb = { .message = on_message, .done = on_done };
    static const char greeting[] = FUZZ_SETTINGS;
    struct cs_rpc_channel_options o = { .host = "server", .port = 1, .max_message = 64 * 1024, .keepalive_ms = 60000 };
    uint8_t how = size > 0 ? data[0] : 0;
    struct cs_slice first = (how & GREET) != 0 ? cs_slice(greeting, sizeof greeting - 1) : CS_SLICE_NULL;
    struct seen seen[CALLS] = { 0 };
    cs_rpc_channel *channel;
    struct cs_world *w;
    struct fuzz_peer p;
    cs_loop *loop;

    fuzz_peer_open(&p, "server", first, data, size);
    FUZZ_CHECK((w = cs_sim_host(p.sim, "client")) != NULL && cs_loop_new(w, &loop, NULL) == CS_OK);
    FUZZ_CHECK(cs_listen(p.loop, "0.0.0.0", 1, accepted, &p, &p.listener, NULL) == CS_OK);
    FUZZ_CHECK(cs_rpc_channel_new(loop, &o, &channel, NULL) == CS_OK);
    for (int i = 0; i < CALLS; i++) {
        struct cs_rpc_call_options q = { .path = "/a.B/C", .timeout_ms = 30000, .wait_for_ready = (how & WAIT) != 0 };
        cs_rpc_call *c;

        q.compress = i == 1;
        FUZZ_CHECK(cs_rpc_call_open(channel, &q, &cb, &seen[i], &c, NULL) == CS_OK);
        cs_rpc_call_send(c, cs_slice("message", 7));
        if (i != 2 || (how & STREAMING) == 0)
            cs_rpc_call_half_close(c);
        if (i == 2 && (how & CANCEL) != 0)
            cs_rpc_call_cancel(c);
    }
    FUZZ_CHECK(cs_sim_run(p.sim, 60000, all_done, seen));
    fuzz_peer_hang_up(&p);
    cs_sim_run(p.sim, 1000, NULL, NULL);
    cs_rpc_channel_close(channel);
    for (int i = 0; i < CALLS; i++)
        FUZZ_CHECK(seen[i].done == 1);
    cs_loop_free(loop);
    fuzz_peer_close(&p);
    return 0;
}
