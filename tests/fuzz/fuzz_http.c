/* The admin port's HTTP against a peer that says anything: one answer at most, and nothing is left of it. */
#include "fuzz/rpc_peer.h"

#include "hub/http.h"

static void handle(void *arg, cs_http_request *r)
{
    unsigned *handled = arg;

    ++*handled;
    FUZZ_CHECK(cs_http_path(r)[0] == '/');
    cs_http_respond(r, 200, "text/plain", cs_slice_str(cs_http_header(r, "authorization")));
}

static bool is_over(void *arg)
{
    return ((struct fuzz_peer *)arg)->ended;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cs_http_server *server;
    struct fuzz_peer p;
    struct cs_world *w;
    unsigned handled = 0;
    cs_loop *loop;

    fuzz_peer_open(&p, "client", CS_SLICE_NULL, data, size);
    FUZZ_CHECK((w = cs_sim_host(p.sim, "server")) != NULL && cs_loop_new(w, &loop, NULL) == CS_OK);
    FUZZ_CHECK(cs_http_server_new(loop, "0.0.0.0", 1, handle, &handled, &server, NULL) == CS_OK);
    FUZZ_CHECK(cs_stream_connect(p.loop, "server", 1, &fuzz_peer_cb, &p, &p.stream, NULL) == CS_OK);
    FUZZ_CHECK(cs_sim_run(p.sim, 2 * CS_HTTP_TIMEOUT_MS, is_over, &p));
    FUZZ_CHECK(handled <= 1);
    fuzz_peer_hang_up(&p);
    cs_http_server_close(server);
    cs_loop_free(loop);
    fuzz_peer_close(&p);
    return 0;
}
