/* rpc over loopback, client and server in two threads: unary calls one after another and 64 at once, and a server's
 * stream of 64 KiB messages. Usage: rpc_bench [seconds per measurement]; with CERT and KEY in the environment (CERT
 * signs itself, for "localhost"): over TLS. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "rpc/rpc.h"

enum { MESSAGE = 64 * 1024, QUEUE = 256 * 1024, AT_ONCE = 64 };

static uint8_t data[MESSAGE];

/* ---- server ---- */

static void echo(cs_rpc_call *c, void *service, struct cs_slice msg)
{
    (void)service;
    cs_rpc_call_send(c, msg);
    cs_rpc_call_finish(c, CS_RPC_OK, NULL, NULL);
}

static void bulk(cs_rpc_call *c, void *service)
{
    (void)service;
    while (cs_rpc_call_queued(c) < QUEUE)
        if (cs_rpc_call_send(c, cs_slice(data, sizeof data)) != CS_OK)
            return;
}

static void sink(cs_rpc_call *c, void *service, struct cs_slice msg)
{
    (void)c;
    *(uint64_t *)service += msg.len;
}

static void sink_end(cs_rpc_call *c, void *service)
{
    (void)service;
    cs_rpc_call_finish(c, CS_RPC_OK, NULL, NULL);
}

static uint64_t received;

static const struct cs_rpc_method methods[] = {
    { "/b.B/Echo", NULL, echo, NULL, NULL, NULL, 0 },
    { "/b.B/Bulk", NULL, NULL, bulk, bulk, NULL, 0 },
    { "/b.B/Sink", NULL, sink, sink_end, NULL, NULL, 0 },
};

struct server {
    cs_loop *loop;
    cs_rpc_server *rpc;
};

static void *serve(void *arg)
{
    struct server *s = arg;

    cs_loop_run(s->loop);
    cs_rpc_server_close(s->rpc);
    cs_loop_free(s->loop);
    return NULL;
}

/* ---- client ---- */

struct client {
    struct cs_world *world;
    cs_loop *loop;
    cs_rpc_channel *channel;
    uint64_t until_ns, calls, bytes;
    bool stop;
    int running;
};

static void die(const char *what, const struct cs_error *err)
{
    fprintf(stderr, "%s: %s\n", what, err->msg);
    exit(1);
}

static void start_unary(struct client *b);

static void unary_done(cs_rpc_call *c, void *arg, int status, const char *text, const struct cs_rpc_metadata *trailers)
{
    struct client *b = arg;

    (void)c;
    (void)trailers;
    if (status != CS_RPC_OK) {
        fprintf(stderr, "%s: %s\n", cs_rpc_status_name(status), text);
        exit(1);
    }
    b->calls++;
    b->running--;
    if (cs_monotonic_ns(b->world) < b->until_ns)
        start_unary(b);
    else if (b->running == 0)
        cs_loop_stop(b->loop);
}

static const struct cs_rpc_client_cb unary_cb = { NULL, NULL, NULL, unary_done };

static void start_unary(struct client *b)
{
    struct cs_error err;
    cs_rpc_call *c;

    if (cs_rpc_call_new(b->channel, "/b.B/Echo", NULL, 5000, &unary_cb, b, &c, &err) != CS_OK)
        die("call", &err);
    cs_rpc_call_send(c, cs_slice(data, 100));
    cs_rpc_call_half_close(c);
    b->running++;
}

static void bulk_message(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    struct client *b = arg;

    b->calls++;
    b->bytes += msg.len;
    if (!b->stop && cs_monotonic_ns(b->world) >= b->until_ns) {
        b->stop = true;
        cs_rpc_call_cancel(c);
    }
}

static void sink_fill(cs_rpc_call *c, void *arg)
{
    struct client *b = arg;

    while (!b->stop && cs_rpc_call_queued(c) < QUEUE) {
        cs_rpc_call_send(c, cs_slice(data, sizeof data));
        b->bytes += sizeof data;
        if (cs_monotonic_ns(b->world) >= b->until_ns) {
            b->stop = true;
            cs_rpc_call_half_close(c);
        }
    }
}

static void stream_done(cs_rpc_call *c, void *arg, int status, const char *text, const struct cs_rpc_metadata *t)
{
    struct client *b = arg;

    (void)c;
    (void)t;
    if (status != CS_RPC_OK && status != CS_RPC_CANCELLED)
        fprintf(stderr, "%s: %s\n", cs_rpc_status_name(status), text);
    cs_loop_stop(b->loop);
}

static double begin(struct client *b, double seconds)
{
    uint64_t now = cs_monotonic_ns(b->world);

    b->calls = b->bytes = 0;
    b->stop = false;
    b->until_ns = now + (uint64_t)(seconds * 1e9);
    return (double)now;
}

static void measure_unary(struct client *b, double seconds, int at_once)
{
    double from = begin(b, seconds), took;

    for (int i = 0; i < at_once; i++)
        start_unary(b);
    cs_loop_run(b->loop);
    took = ((double)cs_monotonic_ns(b->world) - from) / 1e9;
    printf("unary, %2d at once      %9.0f calls/s  %7.1f us per call\n", at_once, (double)b->calls / took,
           took * 1e6 * at_once / (double)b->calls);
}

static void measure_stream(struct client *b, double seconds, const char *path)
{
    static const struct cs_rpc_client_cb cb = { NULL, bulk_message, sink_fill, stream_done };
    double from = begin(b, seconds), took;
    bool out = strcmp(path, "/b.B/Sink") == 0;
    struct cs_error err;
    cs_rpc_call *c;

    if (cs_rpc_call_new(b->channel, path, NULL, 0, &cb, b, &c, &err) != CS_OK)
        die("call", &err);
    if (out)
        sink_fill(c, b);
    else
        cs_rpc_call_half_close(c);
    cs_loop_run(b->loop);
    took = ((double)cs_monotonic_ns(b->world) - from) / 1e9;
    printf("%s stream, 64 KiB  %9.0f MB/s\n", out ? "client's" : "server's", (double)b->bytes / took / 1e6);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 2;
    const char *cert = getenv("CERT");
    struct cs_rpc_tls tls = { cert, NULL };
    struct cs_rpc_server_options so = { .host = "127.0.0.1",
                                        .cert_file = cert,
                                        .key_file = getenv("KEY"),
                                        .methods = methods,
                                        .nmethods = 3,
                                        .service = &received };
    struct cs_rpc_channel_options co = { .host = cert != NULL ? "localhost" : "127.0.0.1",
                                         .tls = cert != NULL ? &tls : NULL };
    struct client b = { .world = cs_world_real() };
    struct server s = { 0 };
    struct cs_error err;
    pthread_t thread;

    signal(SIGPIPE, SIG_IGN);
    if (cs_loop_new(b.world, &s.loop, &err) != CS_OK || cs_rpc_server_new(s.loop, &so, &s.rpc, &err) != CS_OK)
        die("server", &err);
    co.port = cs_rpc_server_port(s.rpc);
    if (pthread_create(&thread, NULL, serve, &s) != 0)
        return 1;
    if (cs_loop_new(b.world, &b.loop, &err) != CS_OK || cs_rpc_channel_new(b.loop, &co, &b.channel, &err) != CS_OK)
        die("client", &err);
    measure_unary(&b, seconds, 1);
    measure_unary(&b, seconds, AT_ONCE);
    measure_stream(&b, seconds, "/b.B/Bulk");
    measure_stream(&b, seconds, "/b.B/Sink");
    cs_rpc_channel_close(b.channel);
    cs_loop_stop(s.loop);
    pthread_join(thread, NULL);
    cs_loop_free(b.loop);
    return 0;
}
