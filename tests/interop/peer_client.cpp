// gRPC C++ as a client of peer_server.c. usage: cxx_peer_client [--no-memory] [--only CASE] SERVER
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "testing.grpc.pb.h"

namespace t = grpc::testing;
using grpc::ClientContext;
using grpc::Status;

namespace
{

constexpr int BULK = 64 * 1024, NBULK = 1024, MANY = 10000, AT_ONCE = 100;
constexpr size_t FLAT = 16 * 1024 * 1024; // how much the server may grow while 64 MiB pass through it
constexpr auto PATIENCE = std::chrono::seconds(60);
const char ECHO_INITIAL[] = "x-grpc-test-echo-initial", ECHO_TRAILING[] = "x-grpc-test-echo-trailing-bin";

void fail(int line, const std::string &what)
{
    throw std::runtime_error(__FILE__ ":" + std::to_string(line) + ": " + what);
}
#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond))                                                                                                   \
            fail(__LINE__, #cond);                                                                                     \
    } while (0)
void check_code(int line, const Status &s, int wanted)
{
    if (s.error_code() != wanted)
        fail(line, "status " + std::to_string(s.error_code()) + ": " + s.error_message());
}
#define CHECK_CODE(status, wanted) check_code(__LINE__, status, wanted)

// The server's process and a channel to it.
struct Peer {
    std::string program;
    bool memory = true;
    int port = 0;
    pid_t pid = -1;
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<t::TestService::Stub> stub;

    void start()
    {
        std::string want = std::to_string(port);
        int out[2];

        if (pipe(out) != 0 || (pid = fork()) < 0)
            fail(__LINE__, "cannot start the server");
        if (pid == 0) {
            dup2(out[1], STDOUT_FILENO);
            execl(program.c_str(), program.c_str(), "--port", want.c_str(), nullptr);
            _exit(127);
        }
        close(out[1]);
        FILE *f = fdopen(out[0], "r");
        if (std::fscanf(f, "listening on %d", &port) != 1)
            fail(__LINE__, "the server does not listen");
        std::fclose(f);
    }

    int end(int signum)
    {
        int status = 0;

        kill(pid, signum);
        waitpid(pid, &status, 0);
        return status;
    }

    void open()
    {
        grpc::ChannelArguments args;

        args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
        args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
        channel =
            grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials(), args);
        stub = t::TestService::NewStub(channel);
    }

    size_t peak_memory() const
    {
        std::ifstream f("/proc/" + std::to_string(pid) + "/status");
        std::string word;
        size_t kib = 0;

        while (f >> word && word != "VmHWM:")
            ;
        f >> kib;
        return kib * 1024;
    }
};

struct Context : ClientContext {
    Context()
    {
        set_deadline(std::chrono::system_clock::now() + PATIENCE);
    }
};

void fill(t::Payload *p, size_t size)
{
    p->set_body(std::string(size, '\0'));
}

t::SimpleRequest large()
{
    t::SimpleRequest q;

    q.set_response_size(314159);
    fill(q.mutable_payload(), 271828);
    return q;
}

t::StreamingOutputCallRequest ask(std::initializer_list<int> sizes, size_t body = 0, int interval_us = 0)
{
    t::StreamingOutputCallRequest q;

    for (int size : sizes) {
        auto *p = q.add_response_parameters();

        p->set_size(size);
        p->set_interval_us(interval_us);
    }
    fill(q.mutable_payload(), body);
    return q;
}

Status empty(Peer &peer, bool wait = false)
{
    t::Empty q, r;
    Context c;

    c.set_wait_for_ready(wait);
    return peer.stub->EmptyCall(&c, q, &r);
}

int open_calls(Peer &peer)
{
    t::OpenCallsResponse r;
    t::Empty q;
    Context c;

    CHECK_CODE(t::ControlService::NewStub(peer.channel)->OpenCalls(&c, q, &r), grpc::OK);
    return r.n();
}

void wait_until_idle(Peer &peer)
{
    while (open_calls(peer) > 0)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// ---- the cases ----

void empty_unary(Peer &peer)
{
    CHECK_CODE(empty(peer), grpc::OK);
}

void large_unary(Peer &peer)
{
    t::SimpleResponse r;
    Context c;

    CHECK_CODE(peer.stub->UnaryCall(&c, large(), &r), grpc::OK);
    CHECK(r.payload().body().size() == 314159);
}

void too_large(Peer &peer)
{
    t::SimpleRequest q;
    t::SimpleResponse r;
    Context c;

    fill(q.mutable_payload(), 5 * 1024 * 1024);
    CHECK_CODE(peer.stub->UnaryCall(&c, q, &r), grpc::RESOURCE_EXHAUSTED);
    empty_unary(peer);
}

void stream_in(Peer &peer, std::initializer_list<size_t> sizes, bool compressed)
{
    t::StreamingInputCallResponse r;
    size_t sum = 0;
    Context c;

    if (compressed)
        c.set_compression_algorithm(GRPC_COMPRESS_GZIP);
    auto writer = peer.stub->StreamingInputCall(&c, &r);
    for (size_t size : sizes) {
        t::StreamingInputCallRequest q;

        fill(q.mutable_payload(), size);
        if (compressed)
            q.mutable_expect_compressed()->set_value(true);
        CHECK(writer->Write(q));
        sum += size;
    }
    CHECK(writer->WritesDone());
    CHECK_CODE(writer->Finish(), grpc::OK);
    CHECK(static_cast<size_t>(r.aggregated_payload_size()) == sum);
}

void client_streaming(Peer &peer)
{
    stream_in(peer, { 27182, 8, 1828, 45904 }, false);
}

void stream_out(Peer &peer, const t::StreamingOutputCallRequest &q)
{
    t::StreamingOutputCallResponse r;
    int n = 0;
    Context c;

    auto reader = peer.stub->StreamingOutputCall(&c, q);
    for (; reader->Read(&r); n++)
        CHECK(n < q.response_parameters_size() &&
              r.payload().body().size() == static_cast<size_t>(q.response_parameters(n).size()));
    CHECK_CODE(reader->Finish(), grpc::OK);
    CHECK(n == q.response_parameters_size());
}

void server_streaming(Peer &peer)
{
    stream_out(peer, ask({ 31415, 9, 2653, 58979 }));
}

void ping_pong(Peer &peer)
{
    static const int sizes[] = { 31415, 9, 2653, 58979 };
    static const size_t bodies[] = { 27182, 8, 1828, 45904 };
    t::StreamingOutputCallResponse r;
    Context c;

    auto stream = peer.stub->FullDuplexCall(&c);
    for (int i = 0; i < 4; i++) {
        CHECK(stream->Write(ask({ sizes[i] }, bodies[i])));
        CHECK(stream->Read(&r) && r.payload().body().size() == static_cast<size_t>(sizes[i]));
    }
    stream->WritesDone();
    CHECK(!stream->Read(&r));
    CHECK_CODE(stream->Finish(), grpc::OK);
}

void empty_stream(Peer &peer)
{
    t::StreamingOutputCallResponse r;
    Context c;

    auto stream = peer.stub->FullDuplexCall(&c);
    stream->WritesDone();
    CHECK(!stream->Read(&r));
    CHECK_CODE(stream->Finish(), grpc::OK);
}

void client_compressed_unary(Peer &peer)
{
    for (bool compressed : { true, false }) {
        t::SimpleRequest q = large();
        t::SimpleResponse r;
        Context c;

        q.mutable_expect_compressed()->set_value(compressed);
        if (compressed)
            c.set_compression_algorithm(GRPC_COMPRESS_GZIP);
        CHECK_CODE(peer.stub->UnaryCall(&c, q, &r), grpc::OK);
    }
}

void client_compressed_streaming(Peer &peer)
{
    stream_in(peer, { 27182, 45904 }, true);
}

void server_compressed_unary(Peer &peer)
{
    for (bool compressed : { true, false }) {
        t::SimpleRequest q = large();
        t::SimpleResponse r;
        Context c;

        q.mutable_response_compressed()->set_value(compressed);
        CHECK_CODE(peer.stub->UnaryCall(&c, q, &r), grpc::OK);
        CHECK(r.payload().body().size() == 314159);
    }
}

void server_compressed_streaming(Peer &peer)
{
    t::StreamingOutputCallRequest q = ask({ 31415, 92653, 58979 });

    for (int i = 0; i < 3; i++)
        q.mutable_response_parameters(i)->mutable_compressed()->set_value(i != 1);
    stream_out(peer, q);
}

void add_metadata(ClientContext &c)
{
    c.AddMetadata(ECHO_INITIAL, "test_initial_metadata_value");
    c.AddMetadata(ECHO_TRAILING, std::string("\xab\x00\xab\xff", 4));
}

void check_metadata(const ClientContext &c)
{
    auto initial = c.GetServerInitialMetadata().find(ECHO_INITIAL);
    auto trailing = c.GetServerTrailingMetadata().find(ECHO_TRAILING);

    CHECK(initial != c.GetServerInitialMetadata().end() && initial->second == "test_initial_metadata_value");
    CHECK(trailing != c.GetServerTrailingMetadata().end() &&
          trailing->second == grpc::string_ref("\xab\x00\xab\xff", 4));
}

void custom_metadata(Peer &peer)
{
    t::StreamingOutputCallResponse streamed;
    t::SimpleResponse r;
    Context unary, duplex;

    add_metadata(unary);
    CHECK_CODE(peer.stub->UnaryCall(&unary, large(), &r), grpc::OK);
    check_metadata(unary);
    add_metadata(duplex);
    auto stream = peer.stub->FullDuplexCall(&duplex);
    CHECK(stream->Write(ask({ 314159 }, 271828)) && stream->WritesDone());
    CHECK(stream->Read(&streamed) && !stream->Read(&streamed));
    CHECK_CODE(stream->Finish(), grpc::OK);
    check_metadata(duplex);
}

void ends_with(Peer &peer, int code, const std::string &message)
{
    t::SimpleRequest q = large();
    t::SimpleResponse r;
    Context c;

    q.mutable_response_status()->set_code(code);
    q.mutable_response_status()->set_message(message);
    Status s = peer.stub->UnaryCall(&c, q, &r);
    CHECK_CODE(s, code);
    CHECK(s.error_message() == message);
}

void status_code_and_message(Peer &peer)
{
    const std::string message = "test status message";
    t::StreamingOutputCallResponse r;
    t::StreamingOutputCallRequest q;
    Context c;

    for (int code = grpc::CANCELLED; code <= grpc::UNAUTHENTICATED; code++)
        ends_with(peer, code, message);
    q.mutable_response_status()->set_code(grpc::UNKNOWN);
    q.mutable_response_status()->set_message(message);
    auto stream = peer.stub->FullDuplexCall(&c);
    CHECK(stream->Write(q));
    stream->WritesDone();
    CHECK(!stream->Read(&r));
    Status s = stream->Finish();
    CHECK_CODE(s, grpc::UNKNOWN);
    CHECK(s.error_message() == message);
}

void special_status_message(Peer &peer)
{
    ends_with(peer, grpc::UNKNOWN,
              "\t\ntest with whitespace\r\nand Unicode BMP \xe2\x98\xba and non-BMP \xf0\x9f\x98\x88 and 100% %41\t\n");
}

void unimplemented(Peer &peer)
{
    t::Empty q, r;
    Context method, service;

    CHECK_CODE(peer.stub->UnimplementedCall(&method, q, &r), grpc::UNIMPLEMENTED);
    CHECK_CODE(t::UnimplementedService::NewStub(peer.channel)->UnimplementedCall(&service, q, &r), grpc::UNIMPLEMENTED);
}

void cancel_after_begin(Peer &peer)
{
    t::StreamingInputCallResponse r;
    Context c;

    auto writer = peer.stub->StreamingInputCall(&c, &r);
    c.TryCancel();
    CHECK_CODE(writer->Finish(), grpc::CANCELLED);
    wait_until_idle(peer);
}

void cancel_after_first_response(Peer &peer)
{
    t::StreamingOutputCallResponse r;
    Context c;

    auto stream = peer.stub->FullDuplexCall(&c);
    CHECK(stream->Write(ask({ 31415 }, 27182)));
    CHECK(stream->Read(&r) && r.payload().body().size() == 31415);
    CHECK(open_calls(peer) == 1);
    c.TryCancel();
    CHECK(!stream->Read(&r));
    CHECK_CODE(stream->Finish(), grpc::CANCELLED);
    wait_until_idle(peer);
}

void timeout_on_sleeping_server(Peer &peer)
{
    t::StreamingOutputCallResponse r;
    Context c;

    c.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
    auto stream = peer.stub->FullDuplexCall(&c);
    stream->Write(ask({ 8 }, 27182, 60 * 1000 * 1000));
    CHECK(!stream->Read(&r));
    CHECK_CODE(stream->Finish(), grpc::DEADLINE_EXCEEDED);
    wait_until_idle(peer);
}

void many_messages(Peer &peer)
{
    t::StreamingOutputCallResponse r;
    Context c;
    int n = 0;

    auto stream = peer.stub->FullDuplexCall(&c);
    std::thread writer([&] {
        t::StreamingOutputCallRequest q = ask({ 10 }, 10);

        for (int i = 0; i < MANY && stream->Write(q); i++)
            ;
        stream->WritesDone();
    });
    while (stream->Read(&r))
        n += r.payload().body().size() == 10;
    writer.join();
    CHECK_CODE(stream->Finish(), grpc::OK);
    CHECK(n == MANY);
}

void many_streams(Peer &peer)
{
    std::vector<
        std::unique_ptr<grpc::ClientReaderWriter<t::StreamingOutputCallRequest, t::StreamingOutputCallResponse>>>
        streams;
    std::vector<std::unique_ptr<Context>> contexts;
    t::StreamingOutputCallResponse r;

    for (int i = 0; i < AT_ONCE; i++) {
        contexts.push_back(std::make_unique<Context>());
        streams.push_back(peer.stub->FullDuplexCall(contexts.back().get()));
        CHECK(streams.back()->Write(ask({ 1000 }, 1000)));
    }
    for (auto &s : streams)
        CHECK(s->Read(&r) && r.payload().body().size() == 1000);
    for (auto &s : streams)
        CHECK(s->Write(ask({ 2000 }, 1000)) && s->WritesDone());
    for (auto &s : streams) {
        CHECK(s->Read(&r) && r.payload().body().size() == 2000 && !s->Read(&r));
        CHECK_CODE(s->Finish(), grpc::OK);
    }
}

// A whole call goes by after every message, while the server could send all it has.
void slow_reader(Peer &peer)
{
    size_t before = peer.peak_memory(), sum = 0;
    t::StreamingOutputCallResponse r;
    t::StreamingOutputCallRequest q;
    Context c;

    for (int i = 0; i < NBULK; i++)
        q.add_response_parameters()->set_size(BULK);
    auto reader = peer.stub->StreamingOutputCall(&c, q);
    while (reader->Read(&r)) {
        empty_unary(peer);
        sum += r.payload().body().size();
    }
    CHECK_CODE(reader->Finish(), grpc::OK);
    CHECK(sum == size_t{ BULK } * NBULK);
    CHECK(!peer.memory || peer.peak_memory() - before < FLAT);
}

void slow_server(Peer &peer)
{
    size_t before = peer.peak_memory();
    t::StreamingInputCallResponse r;
    t::StreamingInputCallRequest q;
    Context c;

    c.AddMetadata("x-slow", "1");
    fill(q.mutable_payload(), BULK);
    auto writer = peer.stub->StreamingInputCall(&c, &r);
    for (int i = 0; i < NBULK; i++)
        CHECK(writer->Write(q));
    writer->WritesDone();
    CHECK_CODE(writer->Finish(), grpc::OK);
    CHECK(r.aggregated_payload_size() == BULK * NBULK);
    CHECK(!peer.memory || peer.peak_memory() - before < FLAT);
}

void restart_after_drain(Peer &peer)
{
    t::StreamingOutputCallResponse r;
    Context c;

    auto stream = peer.stub->FullDuplexCall(&c);
    CHECK(stream->Write(ask({ 100 })) && stream->Read(&r) && r.payload().body().size() == 100);
    kill(peer.pid, SIGTERM);
    CHECK(stream->Write(ask({ 200 })) && stream->Read(&r) && r.payload().body().size() == 200);
    stream->WritesDone();
    CHECK(!stream->Read(&r));
    CHECK_CODE(stream->Finish(), grpc::OK);
    CHECK(peer.end(0) == 0);
    peer.start();
    CHECK_CODE(empty(peer, true), grpc::OK);
}

void restart_in_mid_stream(Peer &peer)
{
    t::StreamingOutputCallResponse r;
    Context c;

    auto stream = peer.stub->FullDuplexCall(&c);
    CHECK(stream->Write(ask({ 100 })) && stream->Read(&r) && r.payload().body().size() == 100);
    peer.end(SIGKILL);
    CHECK(!stream->Read(&r));
    CHECK_CODE(stream->Finish(), grpc::UNAVAILABLE);
    CHECK_CODE(empty(peer), grpc::UNAVAILABLE);
    peer.start();
    CHECK_CODE(empty(peer, true), grpc::OK);
}

#define CASE(name)                                                                                                     \
    {                                                                                                                  \
#name, name                                                                                                    \
    }
const struct {
    const char *name;
    void (*run)(Peer &peer);
} cases[] = {
    CASE(empty_unary),
    CASE(large_unary),
    CASE(too_large),
    CASE(client_streaming),
    CASE(server_streaming),
    CASE(ping_pong),
    CASE(empty_stream),
    CASE(client_compressed_unary),
    CASE(client_compressed_streaming),
    CASE(server_compressed_unary),
    CASE(server_compressed_streaming),
    CASE(custom_metadata),
    CASE(status_code_and_message),
    CASE(special_status_message),
    CASE(unimplemented),
    CASE(cancel_after_begin),
    CASE(cancel_after_first_response),
    CASE(timeout_on_sleeping_server),
    CASE(many_messages),
    CASE(many_streams),
    CASE(slow_reader),
    CASE(slow_server),
    CASE(restart_after_drain),
    CASE(restart_in_mid_stream),
};

} // namespace

int main(int argc, char **argv)
{
    std::string only;
    int failed = 0;
    Peer peer;

    for (int i = 1; i < argc; i++) {
        if (std::strcmp(argv[i], "--no-memory") == 0)
            peer.memory = false;
        else if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
        else
            peer.program = argv[i];
    }
    peer.start();
    for (const auto &c : cases) {
        if (!only.empty() && only != c.name)
            continue;
        peer.open();
        try {
            c.run(peer);
            std::printf("ok   %s\n", c.name);
        } catch (const std::exception &e) {
            failed++;
            std::printf("FAIL %s: %s\n", c.name, e.what());
        }
        std::fflush(stdout);
    }
    peer.end(SIGKILL);
    std::printf("%d failed\n", failed);
    return failed == 0 ? 0 : 1;
}
