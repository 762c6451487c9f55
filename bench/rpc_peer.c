/* The server of rpc_compare.py on src/rpc. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "rpc/rpc.h"
#include "rpc_peer.h"

enum { QUEUE = 256 * 1024 };

static uint8_t data[BENCH_MAX_MESSAGE];

static void echo(cs_rpc_call *c, void *service, struct cs_slice msg)
{
    (void)service;
    cs_rpc_call_send(c, msg);
    cs_rpc_call_finish(c, CS_RPC_OK, NULL, NULL);
}

static void down_fill(cs_rpc_call *c, void *service)
{
    struct bench_down *d = cs_rpc_call_user(c);

    (void)service;
    while (d != NULL && d->messages > 0 && cs_rpc_call_queued(c) < QUEUE) {
        if (cs_rpc_call_lend(c, cs_slice(data, d->size), NULL, NULL) != CS_OK)
            return;
        if (--d->messages == 0)
            cs_rpc_call_finish(c, CS_RPC_OK, NULL, NULL);
    }
}

static void down(cs_rpc_call *c, void *service, struct cs_slice msg)
{
    struct bench_down *d = malloc(sizeof *d);

    if (d == NULL || msg.len != BENCH_DOWN_LEN || bench_u32(msg.data + 4) > sizeof data)
        exit(1);
    *d = (struct bench_down){ bench_u32(msg.data), bench_u32(msg.data + 4) };
    cs_rpc_call_set_user(c, d);
    down_fill(c, service);
}

static void down_closed(cs_rpc_call *c, void *service)
{
    (void)service;
    free(cs_rpc_call_user(c));
}

static void up_end(cs_rpc_call *c, void *service)
{
    (void)service;
    cs_rpc_call_send(c, CS_SLICE_NULL);
    cs_rpc_call_finish(c, CS_RPC_OK, NULL, NULL);
}

static const struct cs_rpc_method methods[] = {
    { .path = "/b.B/Echo", .message = echo },
    { .path = "/b.B/Down", .message = down, .writable = down_fill, .closed = down_closed },
    { .path = "/b.B/Up", .half_close = up_end },
};

int main(void)
{
    struct cs_rpc_server_options o = {
        .host = "127.0.0.1", .methods = methods, .nmethods = sizeof methods / sizeof methods[0], .max_per_address = 4096
    };
    cs_rpc_server *server;
    struct cs_error err;
    cs_loop *loop;

    signal(SIGPIPE, SIG_IGN);
    if (cs_loop_new(cs_world_real(), &loop, &err) != CS_OK || cs_rpc_server_new(loop, &o, &server, &err) != CS_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    printf("listening on %u\n", cs_rpc_server_port(server));
    fflush(stdout);
    cs_loop_run(loop);
    return 0;
}
