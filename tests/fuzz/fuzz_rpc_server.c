/* A server's connection against a client that says anything. Whatever that is, when the client has hung up nothing of
 * it is left. */
#include "fuzz/rpc_peer.h"

enum { GREET = 1, ADMISSION = 2, ADMIT = 4, HEADERS_FIRST = 8 };

struct service {
    uint8_t how;
    uint64_t started, closed;
};

static void on_start(cs_rpc_call *c, void *arg)
{
    struct service *s = arg;

    s->started++;
    if (s->how & ADMIT)
        cs_rpc_call_admit(c);
    if (s->how & HEADERS_FIRST)
        cs_rpc_call_headers(c, cs_rpc_call_metadata(c), NULL);
    cs_rpc_call_compress(c, true);
}

static void on_message(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    (void)arg;
    if (cs_rpc_call_queued(c) < 64 * 1024)
        cs_rpc_call_send(c, msg);
}

static void on_half_close(cs_rpc_call *c, void *arg)
{
    (void)arg;
    cs_rpc_call_finish(c, CS_RPC_OK, "as asked", NULL);
}

static void on_closed(cs_rpc_call *c, void *arg)
{
    (void)c;
    ((struct service *)arg)->closed++;
}

static void on_refused(cs_rpc_call *c, void *arg)
{
    ((struct service *)arg)->started++;
    cs_rpc_call_finish(c, CS_RPC_PERMISSION_DENIED, "no\n", cs_rpc_call_metadata(c));
}

static const struct cs_rpc_method methods[] = {
    { "/a.B/C", on_start, on_message, on_half_close, NULL, on_closed, 0 },
    { "/a.B/D", on_refused, NULL, NULL, NULL, on_closed, 16 },
};

static bool is_empty(void *arg)
{
    struct cs_rpc_server_stats stats;

    cs_rpc_server_stats(arg, &stats);
    return stats.connections == 0 && stats.calls == 0;
}

static bool is_over(void *arg)
{
    return ((struct fuzz_peer *)arg)->ended;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char greeting[] = FUZZ_MAGIC FUZZ_SETTINGS;
    struct service service = { .how = size > 0 ? data[0] : 0 };
    struct cs_rpc_server_options o = { .host = "0.0.0.0",
                                       .port = 1,
                                       .methods = methods,
                                       .nmethods = 2,
                                       .service = &service,
                                       .max_message = 64 * 1024,
                                       .admission = (service.how & ADMISSION) != 0 };
    struct cs_slice first = (service.how & GREET) != 0 ? cs_slice(greeting, sizeof greeting - 1) : CS_SLICE_NULL;
    struct cs_world *w;
    cs_rpc_server *server;
    struct fuzz_peer p;
    cs_loop *loop;

    fuzz_peer_open(&p, "client", first, data, size);
    FUZZ_CHECK((w = cs_sim_host(p.sim, "server")) != NULL && cs_loop_new(w, &loop, NULL) == CS_OK);
    FUZZ_CHECK(cs_rpc_server_new(loop, &o, &server, NULL) == CS_OK);
    FUZZ_CHECK(cs_stream_connect(p.loop, "server", 1, &fuzz_peer_cb, &p, &p.stream, NULL) == CS_OK);
    cs_sim_run(p.sim, 1000, is_over, &p);
    fuzz_peer_hang_up(&p);
    FUZZ_CHECK(cs_sim_run(p.sim, FUZZ_SETTLED_MS, is_empty, server));
    FUZZ_CHECK(service.started == service.closed);
    cs_rpc_server_close(server);
    cs_loop_free(loop);
    fuzz_peer_close(&p);
    return 0;
}
