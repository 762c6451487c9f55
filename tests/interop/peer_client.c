/* src/rpc as a client of grpc.testing.TestService, made by another implementation.
 * usage: peer_client [--no-memory] [--plain-answers] [--cut-drain] [--only CASE] SERVER [ARGUMENT …]
 * --plain-answers: the server compresses nothing, whatever it is asked.
 * --cut-drain: the server may close a draining connection before it has written the status of the last call.
 * SERVER is started with --port N behind its arguments, says "listening on PORT", drains at SIGTERM. --no-memory leaves
 * out the checks of this process's size, for builds whose allocator keeps what is freed. */
#include <getopt.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rpc/rpc.h"
#include "testing.pb-c.h"

enum {
    STUCK_MS = 60000, /* no case waits that long for anything */
    LARGE_REQUEST = 271828,
    LARGE_RESPONSE = 314159,
    MANY = 10000,
    AT_ONCE = 100,
    BULK = 64 * 1024,
    NBULK = 1024,
    QUEUE = 256 * 1024,
    PACKED = 16 * 1024,      /* more than any message of zeros has on the wire, and less than it is worth */
    FLAT = 16 * 1024 * 1024, /* how much this process may grow while 64 MiB pass through it */
};

#define SERVICE       "/grpc.testing.TestService/"
#define ECHO_INITIAL  "x-grpc-test-echo-initial"
#define ECHO_TRAILING "x-grpc-test-echo-trailing-bin"

static const uint8_t zeros[LARGE_RESPONSE];

struct peer {
    cs_loop *loop;
    cs_rpc_channel *channel;
    cs_timer *stuck;
    const char *name; /* of the case that runs */
    char **command;   /* the server's, with room for the port */
    int ncommand;
    pid_t pid;
    uint16_t port;
    bool memory, plain_answers, cut_drain;
    unsigned lost; /* connections */
};

/* What one call saw. */
struct seen {
    struct peer *peer;
    cs_rpc_call *call; /* NULL once done */
    size_t messages;
    struct cs_buf last; /* message */
    struct cs_buf initial, trailing;
    bool one_by_one; /* reading stops after every message */
    bool done;
    int status;
    char text[256];
};

/* The case ends here, failed. Its calls point into its frame: their loop is never run again. */
#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            printf("FAIL %s: %s:%d: %s\n", peer->name, __FILE__, __LINE__, #cond);                                     \
            return false;                                                                                              \
        }                                                                                                              \
    } while (0)
#define CHECK_STATUS(seen, wanted)                                                                                     \
    do {                                                                                                               \
        if ((seen)->status != (wanted)) {                                                                              \
            printf("FAIL %s: %s:%d: %s: %s\n", peer->name, __FILE__, __LINE__, cs_rpc_status_name((seen)->status),     \
                   (seen)->text);                                                                                      \
            return false;                                                                                              \
        }                                                                                                              \
    } while (0)
/* Runs the loop until cond holds; every callback of a call wakes it. */
#define WAIT(peer, cond)                                                                                               \
    do {                                                                                                               \
        while (!(cond))                                                                                                \
            cs_loop_run((peer)->loop);                                                                                 \
    } while (0)

static void die(const char *what)
{
    fprintf(stderr, "peer_client: %s\n", what);
    exit(1);
}

/* ---- calls ---- */

static void on_headers(cs_rpc_call *c, void *arg, const struct cs_rpc_metadata *m)
{
    struct seen *s = arg;

    (void)c;
    cs_buf_put_slice(&s->initial, cs_rpc_metadata_get(m, ECHO_INITIAL));
    cs_loop_stop(s->peer->loop);
}

static void on_message(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    struct seen *s = arg;

    s->messages++;
    if (s->one_by_one)
        cs_rpc_call_read(c, false);
    cs_buf_reset(&s->last);
    cs_buf_put_slice(&s->last, msg);
    cs_loop_stop(s->peer->loop);
}

static void on_writable(cs_rpc_call *c, void *arg)
{
    struct seen *s = arg;

    (void)c;
    cs_loop_stop(s->peer->loop);
}

static void on_done(cs_rpc_call *c, void *arg, int status, const char *text, const struct cs_rpc_metadata *trailers)
{
    struct seen *s = arg;

    (void)c;
    s->call = NULL;
    s->done = true;
    s->status = status;
    snprintf(s->text, sizeof s->text, "%s", text);
    cs_buf_put_slice(&s->trailing, cs_rpc_metadata_get(trailers, ECHO_TRAILING));
    cs_loop_stop(s->peer->loop);
}

static void seen_fini(struct seen *s)
{
    cs_buf_free(&s->last);
    cs_buf_free(&s->initial);
    cs_buf_free(&s->trailing);
}

static void begin_as(struct peer *peer, struct seen *s, const struct cs_rpc_call_options *o)
{
    static const struct cs_rpc_client_cb cb = { on_headers, on_message, on_writable, on_done };
    struct cs_error err;

    *s = (struct seen){ .peer = peer };
    if (cs_rpc_call_open(peer->channel, o, &cb, s, &s->call, &err) != CS_OK)
        die(err.msg);
}

static void begin_with(struct peer *peer, struct seen *s, const char *path, const struct cs_rpc_metadata *m,
                       uint32_t timeout_ms)
{
    begin_as(peer, s, &(struct cs_rpc_call_options){ .path = path, .metadata = m, .timeout_ms = timeout_ms });
}

static void begin(struct peer *peer, struct seen *s, const char *method)
{
    char path[128];

    snprintf(path, sizeof path, SERVICE "%s", method);
    begin_with(peer, s, path, NULL, 0);
}

static void send_message(struct seen *s, const ProtobufCMessage *m)
{
    struct cs_buf out = { 0 };
    uint8_t *bytes;

    if ((bytes = cs_buf_grow(&out, protobuf_c_message_get_packed_size(m))) == NULL && out.failed)
        die("out of memory");
    if (bytes != NULL)
        protobuf_c_message_pack(m, bytes);
    if (s->call != NULL)
        cs_rpc_call_send(s->call, cs_buf_slice(&out));
    cs_buf_free(&out);
}

static void send_empty(struct seen *s)
{
    if (s->call != NULL)
        cs_rpc_call_send(s->call, CS_SLICE_NULL);
}

static void half_close(struct seen *s)
{
    if (s->call != NULL)
        cs_rpc_call_half_close(s->call);
}

/* After the last message there may be no call left to read from. */
static void resume(struct seen *s)
{
    if (s->call != NULL)
        cs_rpc_call_read(s->call, true);
}

static Grpc__Testing__Payload payload(size_t size)
{
    Grpc__Testing__Payload p = GRPC__TESTING__PAYLOAD__INIT;

    p.body = (ProtobufCBinaryData){ size, (uint8_t *)(uintptr_t)zeros };
    return p;
}

/* A request of StreamingOutputCall and FullDuplexCall for n answers of that size. */
static void ask(struct seen *s, size_t n, int32_t size, int32_t interval_us, size_t request)
{
    Grpc__Testing__StreamingOutputCallRequest q = GRPC__TESTING__STREAMING_OUTPUT_CALL_REQUEST__INIT;
    Grpc__Testing__ResponseParameters one = GRPC__TESTING__RESPONSE_PARAMETERS__INIT;
    Grpc__Testing__Payload body = payload(request);

    one.size = size;
    one.interval_us = interval_us;
    q.payload = &body;
    q.n_response_parameters = n;
    if ((q.response_parameters = calloc(n == 0 ? 1 : n, sizeof *q.response_parameters)) == NULL)
        die("out of memory");
    for (size_t i = 0; i < n; i++)
        q.response_parameters[i] = &one;
    send_message(s, &q.base);
    free(q.response_parameters);
}

/* The size of the last answer's body; SIZE_MAX when it is no answer. */
static size_t body_size(const struct seen *s)
{
    Grpc__Testing__SimpleResponse *r = grpc__testing__simple_response__unpack(NULL, s->last.len, s->last.data);
    size_t n = r == NULL ? SIZE_MAX : r->payload == NULL ? 0 : r->payload->body.len;

    grpc__testing__simple_response__free_unpacked(r, NULL);
    return n;
}

static void run_empty(struct peer *peer, struct seen *s)
{
    begin(peer, s, "EmptyCall");
    send_empty(s);
    half_close(s);
    WAIT(peer, s->done);
}

static int open_calls(struct peer *peer)
{
    Grpc__Testing__OpenCallsResponse *r;
    struct seen s;
    int n = -1;

    begin_with(peer, &s, "/grpc.testing.ControlService/OpenCalls", NULL, 0);
    send_empty(&s);
    half_close(&s);
    WAIT(peer, s.done);
    if (s.status == CS_RPC_OK &&
        (r = grpc__testing__open_calls_response__unpack(NULL, s.last.len, s.last.data)) != NULL) {
        n = r->n;
        grpc__testing__open_calls_response__free_unpacked(r, NULL);
    }
    seen_fini(&s);
    return n;
}

/* The server gets to know that calls have ended, sooner or later. */
static void wait_until_idle(struct peer *peer)
{
    while (open_calls(peer) > 0)
        usleep(1000);
}

struct traffic {
    size_t sent, received;
};

/* Of the connections that are open; there is no other way to see that something was compressed. */
static struct traffic traffic_now(void)
{
    struct traffic t = { 0, 0 };

    for (int fd = 0; fd < 256; fd++) {
        struct tcp_info info = { 0 };
        socklen_t len = sizeof info;

        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0)
            continue;
        t.sent += info.tcpi_bytes_sent;
        t.received += info.tcpi_bytes_received;
    }
    return t;
}

/* ---- the server's process ---- */

static void server_start(struct peer *peer)
{
    char port[16], line[128];
    int out[2];
    FILE *f;

    snprintf(port, sizeof port, "%u", peer->port);
    peer->command[peer->ncommand] = (char *)(uintptr_t) "--port";
    peer->command[peer->ncommand + 1] = port;
    fflush(stdout);
    if (pipe(out) != 0 || (peer->pid = fork()) < 0)
        die("cannot start the server");
    if (peer->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], STDOUT_FILENO);
        close(out[0]);
        close(out[1]);
        execvp(peer->command[0], peer->command);
        perror(peer->command[0]);
        _exit(127);
    }
    close(out[1]);
    if ((f = fdopen(out[0], "r")) == NULL)
        die("cannot start the server");
    do {
        if (fgets(line, sizeof line, f) == NULL)
            die("the server does not listen");
    } while (sscanf(line, "listening on %hu", &peer->port) != 1);
    fclose(f);
}

static int server_end(struct peer *peer, int signum)
{
    int status = 0;

    kill(peer->pid, signum);
    while (waitpid(peer->pid, &status, 0) < 0)
        ;
    return status;
}

/* ---- the cases ---- */

static bool empty_unary(struct peer *peer)
{
    struct seen s;

    run_empty(peer, &s);
    CHECK_STATUS(&s, CS_RPC_OK);
    CHECK(s.messages == 1 && s.last.len == 0);
    seen_fini(&s);
    return true;
}

static Grpc__Testing__SimpleRequest large_request(Grpc__Testing__Payload *body)
{
    Grpc__Testing__SimpleRequest q = GRPC__TESTING__SIMPLE_REQUEST__INIT;

    *body = payload(LARGE_REQUEST);
    q.response_size = LARGE_RESPONSE;
    q.payload = body;
    return q;
}

static void start_unary(struct peer *peer, struct seen *s, const struct cs_rpc_metadata *m, int status,
                        const char *text)
{
    Grpc__Testing__EchoStatus echo = GRPC__TESTING__ECHO_STATUS__INIT;
    Grpc__Testing__Payload body;
    Grpc__Testing__SimpleRequest q = large_request(&body);

    echo.code = status;
    echo.message = (char *)(uintptr_t)text;
    if (status != CS_RPC_OK)
        q.response_status = &echo;
    begin_with(peer, s, SERVICE "UnaryCall", m, 0);
    send_message(s, &q.base);
    half_close(s);
}

static bool large_unary(struct peer *peer)
{
    struct seen s;

    start_unary(peer, &s, NULL, CS_RPC_OK, NULL);
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_OK);
    CHECK(s.messages == 1 && body_size(&s) == LARGE_RESPONSE);
    seen_fini(&s);
    return true;
}

static bool too_large(struct peer *peer)
{
    Grpc__Testing__SimpleRequest q = GRPC__TESTING__SIMPLE_REQUEST__INIT;
    struct seen s;

    q.response_size = 5 * 1024 * 1024;
    begin(peer, &s, "UnaryCall");
    send_message(&s, &q.base);
    half_close(&s);
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_RESOURCE_EXHAUSTED);
    seen_fini(&s);
    return empty_unary(peer);
}

static bool client_streaming(struct peer *peer)
{
    static const size_t sizes[] = { 27182, 8, 1828, 45904 };
    Grpc__Testing__StreamingInputCallResponse *r;
    struct seen s;

    begin(peer, &s, "StreamingInputCall");
    for (size_t i = 0; i < 4; i++) {
        Grpc__Testing__StreamingInputCallRequest q = GRPC__TESTING__STREAMING_INPUT_CALL_REQUEST__INIT;
        Grpc__Testing__Payload body = payload(sizes[i]);

        q.payload = &body;
        send_message(&s, &q.base);
    }
    half_close(&s);
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_OK);
    CHECK((r = grpc__testing__streaming_input_call_response__unpack(NULL, s.last.len, s.last.data)) != NULL);
    CHECK(r->aggregated_payload_size == 74922);
    grpc__testing__streaming_input_call_response__free_unpacked(r, NULL);
    seen_fini(&s);
    return true;
}

static bool server_streaming(struct peer *peer)
{
    static const int32_t sizes[] = { 31415, 9, 2653, 58979 };
    Grpc__Testing__StreamingOutputCallRequest q = GRPC__TESTING__STREAMING_OUTPUT_CALL_REQUEST__INIT;
    Grpc__Testing__ResponseParameters one[4], *all[4];
    struct seen s;

    for (size_t i = 0; i < 4; i++) {
        one[i] = (Grpc__Testing__ResponseParameters)GRPC__TESTING__RESPONSE_PARAMETERS__INIT;
        one[i].size = sizes[i];
        all[i] = &one[i];
    }
    q.response_parameters = all;
    q.n_response_parameters = 4;
    begin(peer, &s, "StreamingOutputCall");
    send_message(&s, &q.base);
    half_close(&s);
    s.one_by_one = true;
    for (size_t i = 0; i < 4; i++) {
        WAIT(peer, s.messages == i + 1 || s.done);
        CHECK(s.messages == i + 1 && body_size(&s) == (size_t)sizes[i]);
        CHECK(open_calls(peer) >= 0);
        CHECK(s.messages == i + 1);
        resume(&s);
    }
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_OK);
    seen_fini(&s);
    return true;
}

static bool ping_pong(struct peer *peer)
{
    static const int32_t answers[] = { 31415, 9, 2653, 58979 };
    static const size_t requests[] = { 27182, 8, 1828, 45904 };
    struct seen s;

    begin(peer, &s, "FullDuplexCall");
    for (size_t i = 0; i < 4; i++) {
        ask(&s, 1, answers[i], 0, requests[i]);
        WAIT(peer, s.messages == i + 1 || s.done);
        CHECK(!s.done && body_size(&s) == (size_t)answers[i]);
    }
    half_close(&s);
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_OK);
    CHECK(s.messages == 4);
    seen_fini(&s);
    return true;
}

static bool empty_stream(struct peer *peer)
{
    struct seen s;

    begin(peer, &s, "FullDuplexCall");
    half_close(&s);
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_OK);
    CHECK(s.messages == 0);
    seen_fini(&s);
    return true;
}

static bool client_compressed_unary(struct peer *peer)
{
    for (int compressed = 0; compressed < 2; compressed++) {
        const struct cs_rpc_call_options o = { .path = SERVICE "UnaryCall", .compress = compressed != 0 };
        Grpc__Testing__BoolValue expect = GRPC__TESTING__BOOL_VALUE__INIT;
        Grpc__Testing__Payload body;
        Grpc__Testing__SimpleRequest q = large_request(&body);
        struct traffic before = traffic_now();
        size_t sent;
        struct seen s;

        expect.value = compressed;
        q.expect_compressed = &expect;
        begin_as(peer, &s, &o);
        send_message(&s, &q.base);
        half_close(&s);
        WAIT(peer, s.done);
        CHECK_STATUS(&s, CS_RPC_OK);
        CHECK(body_size(&s) == LARGE_RESPONSE);
        sent = traffic_now().sent - before.sent;
        CHECK(compressed ? sent < PACKED : sent > LARGE_REQUEST);
        seen_fini(&s);
    }
    return true;
}

/* The first message compressed, the second one not. */
static bool client_compressed_streaming(struct peer *peer)
{
    const struct cs_rpc_call_options o = { .path = SERVICE "StreamingInputCall", .compress = true };
    Grpc__Testing__StreamingInputCallResponse *r;
    struct traffic before = traffic_now();
    struct seen s;
    size_t sent;

    begin_as(peer, &s, &o);
    for (int compressed = 1; compressed >= 0; compressed--) {
        Grpc__Testing__StreamingInputCallRequest q = GRPC__TESTING__STREAMING_INPUT_CALL_REQUEST__INIT;
        Grpc__Testing__BoolValue expect = GRPC__TESTING__BOOL_VALUE__INIT;
        Grpc__Testing__Payload body = payload(BULK);

        expect.value = compressed;
        q.expect_compressed = &expect;
        q.payload = &body;
        CHECK(cs_rpc_call_compress(s.call, compressed != 0) == CS_OK);
        send_message(&s, &q.base);
    }
    half_close(&s);
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_OK);
    CHECK((r = grpc__testing__streaming_input_call_response__unpack(NULL, s.last.len, s.last.data)) != NULL);
    CHECK(r->aggregated_payload_size == 2 * BULK);
    grpc__testing__streaming_input_call_response__free_unpacked(r, NULL);
    sent = traffic_now().sent - before.sent;
    CHECK(sent > BULK && sent < BULK + PACKED);
    seen_fini(&s);
    return true;
}

static bool server_compressed_unary(struct peer *peer)
{
    for (int compressed = 0; compressed < 2; compressed++) {
        Grpc__Testing__BoolValue want = GRPC__TESTING__BOOL_VALUE__INIT;
        Grpc__Testing__Payload body;
        Grpc__Testing__SimpleRequest q = large_request(&body);
        struct traffic before = traffic_now();
        size_t received;
        struct seen s;

        want.value = compressed;
        q.response_compressed = &want;
        begin(peer, &s, "UnaryCall");
        send_message(&s, &q.base);
        half_close(&s);
        WAIT(peer, s.done);
        CHECK_STATUS(&s, CS_RPC_OK);
        CHECK(body_size(&s) == LARGE_RESPONSE);
        received = traffic_now().received - before.received;
        CHECK(compressed && !peer->plain_answers ? received < PACKED : received > LARGE_RESPONSE);
        seen_fini(&s);
    }
    return true;
}

static bool server_compressed_streaming(struct peer *peer)
{
    static const int32_t sizes[] = { 31415, 92653, 58979 };
    Grpc__Testing__StreamingOutputCallRequest q = GRPC__TESTING__STREAMING_OUTPUT_CALL_REQUEST__INIT;
    Grpc__Testing__ResponseParameters one[3], *all[3];
    Grpc__Testing__BoolValue want[3];
    struct traffic before = traffic_now();
    size_t received;
    struct seen s;

    for (size_t i = 0; i < 3; i++) {
        want[i] = (Grpc__Testing__BoolValue)GRPC__TESTING__BOOL_VALUE__INIT;
        want[i].value = i != 1;
        one[i] = (Grpc__Testing__ResponseParameters)GRPC__TESTING__RESPONSE_PARAMETERS__INIT;
        one[i].size = sizes[i];
        one[i].compressed = &want[i];
        all[i] = &one[i];
    }
    q.response_parameters = all;
    q.n_response_parameters = 3;
    begin(peer, &s, "StreamingOutputCall");
    send_message(&s, &q.base);
    half_close(&s);
    s.one_by_one = true;
    for (size_t i = 0; i < 3; i++) {
        WAIT(peer, s.messages == i + 1 || s.done);
        CHECK(s.messages == i + 1 && body_size(&s) == (size_t)sizes[i]);
        resume(&s);
    }
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_OK);
    received = traffic_now().received - before.received;
    CHECK(received > 92653 && (peer->plain_answers || received < 92653 + PACKED));
    seen_fini(&s);
    return true;
}

static bool metadata_came_back(struct peer *peer, const struct seen *s)
{
    CHECK_STATUS(s, CS_RPC_OK);
    CHECK(cs_slice_eq(cs_buf_slice(&s->initial), cs_slice_str("test_initial_metadata_value")));
    CHECK(cs_slice_eq(cs_buf_slice(&s->trailing), cs_slice("\xab\x00\xab\xff", 4)));
    return true;
}

static bool custom_metadata(struct peer *peer)
{
    static const struct cs_rpc_meta items[] = {
        { ECHO_INITIAL, { (const uint8_t *)"test_initial_metadata_value", 27 } },
        { ECHO_TRAILING, { (const uint8_t *)"\xab\x00\xab\xff", 4 } },
    };
    const struct cs_rpc_metadata m = { items, 2 };
    struct seen s;
    bool fine;

    start_unary(peer, &s, &m, CS_RPC_OK, NULL);
    WAIT(peer, s.done);
    fine = metadata_came_back(peer, &s);
    seen_fini(&s);
    if (!fine)
        return false;
    begin_with(peer, &s, SERVICE "FullDuplexCall", &m, 0);
    ask(&s, 1, LARGE_RESPONSE, 0, LARGE_REQUEST);
    half_close(&s);
    WAIT(peer, s.done);
    fine = metadata_came_back(peer, &s);
    seen_fini(&s);
    return fine;
}

static bool ends_with(struct peer *peer, struct seen *s, int status, const char *text)
{
    WAIT(peer, s->done);
    CHECK_STATUS(s, status);
    CHECK(strcmp(s->text, text) == 0);
    seen_fini(s);
    return true;
}

static bool status_code_and_message(struct peer *peer)
{
    Grpc__Testing__StreamingOutputCallRequest q = GRPC__TESTING__STREAMING_OUTPUT_CALL_REQUEST__INIT;
    Grpc__Testing__EchoStatus echo = GRPC__TESTING__ECHO_STATUS__INIT;
    struct seen s;

    for (int code = CS_RPC_CANCELLED; code <= CS_RPC_UNAUTHENTICATED; code++) {
        start_unary(peer, &s, NULL, code, "test status message");
        if (!ends_with(peer, &s, code, "test status message"))
            return false;
    }
    echo.code = CS_RPC_UNKNOWN;
    echo.message = (char *)(uintptr_t) "test status message";
    q.response_status = &echo;
    begin(peer, &s, "FullDuplexCall");
    send_message(&s, &q.base);
    half_close(&s);
    return ends_with(peer, &s, CS_RPC_UNKNOWN, "test status message");
}

static bool special_status_message(struct peer *peer)
{
    static const char text[] = "\t\ntest with whitespace\r\nand Unicode BMP \xe2\x98\xba and non-BMP \xf0\x9f\x98\x88 "
                               "and 100% %41\t\n";
    struct seen s;

    start_unary(peer, &s, NULL, CS_RPC_UNKNOWN, text);
    return ends_with(peer, &s, CS_RPC_UNKNOWN, text);
}

static bool unimplemented(struct peer *peer)
{
    static const char *const paths[] = { SERVICE "UnimplementedCall",
                                         "/grpc.testing.UnimplementedService/UnimplementedCall" };
    struct seen s;

    for (size_t i = 0; i < 2; i++) {
        begin_with(peer, &s, paths[i], NULL, 0);
        send_empty(&s);
        half_close(&s);
        WAIT(peer, s.done);
        CHECK_STATUS(&s, CS_RPC_UNIMPLEMENTED);
        seen_fini(&s);
    }
    return true;
}

static bool cancel_after_begin(struct peer *peer)
{
    struct seen s;

    begin(peer, &s, "StreamingInputCall");
    cs_rpc_call_cancel(s.call);
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_CANCELLED);
    seen_fini(&s);
    wait_until_idle(peer);
    return true;
}

static bool cancel_after_first_response(struct peer *peer)
{
    struct seen s;

    begin(peer, &s, "FullDuplexCall");
    ask(&s, 1, 31415, 0, 27182);
    WAIT(peer, s.messages == 1 || s.done);
    CHECK(!s.done && open_calls(peer) == 1);
    cs_rpc_call_cancel(s.call);
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_CANCELLED);
    CHECK(s.messages == 1);
    seen_fini(&s);
    wait_until_idle(peer);
    return true;
}

static bool timeout_on_sleeping_server(struct peer *peer)
{
    struct seen s;

    begin_with(peer, &s, SERVICE "FullDuplexCall", NULL, 100);
    ask(&s, 1, 8, 60 * 1000 * 1000, 27182);
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_DEADLINE_EXCEEDED);
    CHECK(s.messages == 0);
    seen_fini(&s);
    wait_until_idle(peer);
    return true;
}

static bool many_messages(struct peer *peer)
{
    struct seen s;

    begin(peer, &s, "FullDuplexCall");
    for (size_t i = 0; i < MANY; i++) {
        WAIT(peer, s.done || cs_rpc_call_queued(s.call) < QUEUE);
        CHECK(!s.done);
        ask(&s, 1, 10, 0, 10);
    }
    half_close(&s);
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_OK);
    CHECK(s.messages == MANY && body_size(&s) == 10);
    seen_fini(&s);
    return true;
}

static bool many_streams(struct peer *peer)
{
    static struct seen s[AT_ONCE];

    for (size_t i = 0; i < AT_ONCE; i++) {
        begin(peer, &s[i], "FullDuplexCall");
        ask(&s[i], 1, 1000, 0, 1000);
    }
    for (size_t i = 0; i < AT_ONCE; i++) {
        WAIT(peer, s[i].messages == 1 || s[i].done);
        CHECK(!s[i].done);
    }
    for (size_t i = 0; i < AT_ONCE; i++) {
        ask(&s[i], 1, 2000, 0, 1000);
        half_close(&s[i]);
    }
    for (size_t i = 0; i < AT_ONCE; i++) {
        WAIT(peer, s[i].done);
        CHECK_STATUS(&s[i], CS_RPC_OK);
        CHECK(s[i].messages == 2 && body_size(&s[i]) == 2000);
        seen_fini(&s[i]);
    }
    return true;
}

/* The largest this process has been so far, in bytes. */
static size_t peak_memory(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    size_t kib = 0;

    if (f == NULL)
        die("no /proc");
    while (fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "VmHWM: %zu", &kib) == 1)
            break;
    fclose(f);
    return kib * 1024;
}

static bool grew_little(struct peer *peer, size_t before)
{
    CHECK(!peer->memory || peak_memory() - before < FLAT);
    return true;
}

/* A whole call goes by after every message, while the server could send all it has. */
static bool slow_reader(struct peer *peer)
{
    size_t before = peak_memory();
    struct seen s, other;

    begin(peer, &s, "StreamingOutputCall");
    ask(&s, NBULK, BULK, 0, 0);
    half_close(&s);
    s.one_by_one = true;
    for (size_t i = 0; i < NBULK; i++) {
        WAIT(peer, s.messages == i + 1 || s.done);
        CHECK(s.messages == i + 1 && body_size(&s) == BULK);
        run_empty(peer, &other);
        CHECK_STATUS(&other, CS_RPC_OK);
        seen_fini(&other);
        CHECK(s.messages == i + 1);
        resume(&s);
    }
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_OK);
    seen_fini(&s);
    return grew_little(peer, before);
}

static bool slow_server(struct peer *peer)
{
    static const struct cs_rpc_meta slow = { "x-slow", { (const uint8_t *)"1", 1 } };
    const struct cs_rpc_metadata m = { &slow, 1 };
    Grpc__Testing__StreamingInputCallRequest q = GRPC__TESTING__STREAMING_INPUT_CALL_REQUEST__INIT;
    Grpc__Testing__StreamingInputCallResponse *r;
    Grpc__Testing__Payload body = payload(BULK);
    size_t before = peak_memory();
    struct seen s;

    q.payload = &body;
    begin_with(peer, &s, SERVICE "StreamingInputCall", &m, 0);
    for (size_t i = 0; i < NBULK; i++) {
        WAIT(peer, s.done || cs_rpc_call_queued(s.call) < QUEUE);
        CHECK(!s.done);
        send_message(&s, &q.base);
    }
    half_close(&s);
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_OK);
    CHECK((r = grpc__testing__streaming_input_call_response__unpack(NULL, s.last.len, s.last.data)) != NULL);
    CHECK(r->aggregated_payload_size == BULK * NBULK);
    grpc__testing__streaming_input_call_response__free_unpacked(r, NULL);
    seen_fini(&s);
    return grew_little(peer, before);
}

/* A server that says that it goes finishes what runs; the channel finds the next one by itself. */
static bool restart_after_drain(struct peer *peer)
{
    unsigned before = peer->lost;
    struct seen s;
    int status;

    begin(peer, &s, "FullDuplexCall");
    ask(&s, 1, 100, 0, 100);
    WAIT(peer, s.messages == 1 || s.done);
    CHECK(!s.done);
    kill(peer->pid, SIGTERM);
    ask(&s, 1, 200, 0, 100);
    WAIT(peer, s.messages == 2 || s.done);
    CHECK(!s.done && body_size(&s) == 200);
    half_close(&s);
    WAIT(peer, s.done);
    if (!peer->cut_drain || s.status != CS_RPC_UNAVAILABLE)
        CHECK_STATUS(&s, CS_RPC_OK);
    seen_fini(&s);
    WAIT(peer, peer->lost > before);
    status = server_end(peer, 0);
    server_start(peer);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return empty_unary(peer);
}

/* The news that the server died is still unread when the next call begins: whatever becomes of it, the channel
 * notices. */
static bool restart_unnoticed(struct peer *peer)
{
    struct seen s;

    if (!empty_unary(peer))
        return false;
    server_end(peer, SIGKILL);
    server_start(peer);
    run_empty(peer, &s);
    CHECK(s.status == CS_RPC_OK || s.status == CS_RPC_UNAVAILABLE);
    seen_fini(&s);
    return empty_unary(peer);
}

/* A call that can wait begins while there is no server. */
static bool wait_for_ready(struct peer *peer)
{
    const struct cs_rpc_call_options o = { .path = SERVICE "EmptyCall", .wait_for_ready = true };
    unsigned before = peer->lost;
    struct seen waits, other;

    if (!empty_unary(peer))
        return false;
    server_end(peer, SIGKILL);
    WAIT(peer, peer->lost > before);
    begin_as(peer, &waits, &o);
    send_empty(&waits);
    half_close(&waits);
    /* one that does not wait shows that there was an attempt */
    run_empty(peer, &other);
    CHECK_STATUS(&other, CS_RPC_UNAVAILABLE);
    seen_fini(&other);
    CHECK(!waits.done);
    server_start(peer);
    WAIT(peer, waits.done);
    CHECK_STATUS(&waits, CS_RPC_OK);
    seen_fini(&waits);
    return true;
}

static bool restart_in_mid_stream(struct peer *peer)
{
    struct seen s;

    begin(peer, &s, "FullDuplexCall");
    ask(&s, 1, 100, 0, 100);
    WAIT(peer, s.messages == 1 || s.done);
    CHECK(!s.done);
    server_end(peer, SIGKILL);
    WAIT(peer, s.done);
    CHECK_STATUS(&s, CS_RPC_UNAVAILABLE);
    seen_fini(&s);
    run_empty(peer, &s);
    CHECK_STATUS(&s, CS_RPC_UNAVAILABLE);
    seen_fini(&s);
    server_start(peer);
    return empty_unary(peer);
}

static const struct {
    const char *name;
    bool (*run)(struct peer *peer);
} cases[] = {
    { "empty_unary", empty_unary },
    { "large_unary", large_unary },
    { "too_large", too_large },
    { "client_streaming", client_streaming },
    { "server_streaming", server_streaming },
    { "ping_pong", ping_pong },
    { "empty_stream", empty_stream },
    { "client_compressed_unary", client_compressed_unary },
    { "client_compressed_streaming", client_compressed_streaming },
    { "server_compressed_unary", server_compressed_unary },
    { "server_compressed_streaming", server_compressed_streaming },
    { "custom_metadata", custom_metadata },
    { "status_code_and_message", status_code_and_message },
    { "special_status_message", special_status_message },
    { "unimplemented", unimplemented },
    { "cancel_after_begin", cancel_after_begin },
    { "cancel_after_first_response", cancel_after_first_response },
    { "timeout_on_sleeping_server", timeout_on_sleeping_server },
    { "many_messages", many_messages },
    { "many_streams", many_streams },
    { "slow_reader", slow_reader },
    { "slow_server", slow_server },
    { "restart_after_drain", restart_after_drain },
    { "restart_unnoticed", restart_unnoticed },
    { "restart_in_mid_stream", restart_in_mid_stream },
    { "wait_for_ready", wait_for_ready },
};

/* ---- the program ---- */

static void on_stuck(void *arg)
{
    const struct peer *peer = arg;

    printf("FAIL %s: stuck\n", peer->name);
    fflush(stdout);
    _exit(1);
}

static void on_state(void *arg, const struct cs_error *err)
{
    struct peer *peer = arg;

    peer->lost += err != NULL;
    cs_loop_stop(peer->loop);
}

static void channel_open(struct peer *peer)
{
    struct cs_rpc_channel_options o = {
        .host = "127.0.0.1", .port = peer->port, .state = on_state, .arg = peer, .backoff_ms = 50
    };
    struct cs_error err;

    if (cs_loop_new(cs_world_real(), &peer->loop, &err) != CS_OK ||
        cs_rpc_channel_new(peer->loop, &o, &peer->channel, &err) != CS_OK)
        die(err.msg);
    if (cs_timer_new(peer->loop, on_stuck, peer, &peer->stuck) != CS_OK)
        die("out of memory");
}

static int run_cases(struct peer *peer, const char *only)
{
    int failed = 0;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (only != NULL && strcmp(only, cases[i].name) != 0)
            continue;
        peer->name = cases[i].name;
        cs_timer_start(peer->stuck, STUCK_MS);
        if (cases[i].run(peer)) {
            printf("ok   %s\n", peer->name);
        } else {
            failed++;
            server_end(peer, SIGKILL);
            server_start(peer);
            channel_open(peer);
        }
        fflush(stdout);
    }
    return failed;
}

int main(int argc, char **argv)
{
    static const struct option options[] = { { "no-memory", no_argument, NULL, 'm' },
                                             { "plain-answers", no_argument, NULL, 'p' },
                                             { "cut-drain", no_argument, NULL, 'c' },
                                             { "only", required_argument, NULL, 'o' },
                                             { NULL, 0, NULL, 0 } };
    struct peer peer = { .memory = true };
    const char *only = NULL;
    int opt, failed;

    while ((opt = getopt_long(argc, argv, "+", options, NULL)) != -1) {
        if (opt == 'm')
            peer.memory = false;
        else if (opt == 'p')
            peer.plain_answers = true;
        else if (opt == 'c')
            peer.cut_drain = true;
        else if (opt == 'o')
            only = optarg;
        else
            return 2;
    }
    if (optind == argc) {
        fprintf(stderr, "usage: peer_client [--no-memory] [--plain-answers] [--cut-drain] [--only CASE] "
                        "SERVER [ARGUMENT ...]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    peer.ncommand = argc - optind;
    if ((peer.command = calloc((size_t)peer.ncommand + 3, sizeof *peer.command)) == NULL)
        die("out of memory");
    memcpy(peer.command, argv + optind, (size_t)peer.ncommand * sizeof *peer.command);
    server_start(&peer);
    channel_open(&peer);
    failed = run_cases(&peer, only);
    server_end(&peer, SIGKILL);
    cs_rpc_channel_close(peer.channel);
    cs_timer_close(peer.stuck);
    cs_loop_free(peer.loop);
    free(peer.command);
    printf("%d failed\n", failed);
    return failed == 0 ? 0 : 1;
}
