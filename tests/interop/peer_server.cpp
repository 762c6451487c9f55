// grpc.testing.TestService on gRPC C++, as peer_server.c has it on ours. usage: cxx_peer_server [--port N]
#include <grpcpp/grpcpp.h>
#include <signal.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "testing.grpc.pb.h"

namespace t = grpc::testing;
using grpc::ServerContext;
using grpc::Status;

static std::atomic<int> running{ 0 };

namespace
{

// Counts the call, and answers the metadata that asks for an echo.
class Call
{
  public:
    explicit Call(ServerContext *context) : context_(context)
    {
        const auto &metadata = context->client_metadata();
        auto initial = metadata.find("x-grpc-test-echo-initial");
        auto trailing = metadata.find("x-grpc-test-echo-trailing-bin");

        running++;
        if (initial != metadata.end())
            context->AddInitialMetadata("x-grpc-test-echo-initial", { initial->second.data(), initial->second.size() });
        if (trailing != metadata.end())
            context->AddTrailingMetadata("x-grpc-test-echo-trailing-bin",
                                         { trailing->second.data(), trailing->second.size() });
    }
    ~Call()
    {
        running--;
    }
    bool slow() const
    {
        return context_->client_metadata().count("x-slow") > 0;
    }

  private:
    ServerContext *context_;
};

Status wanted(const t::EchoStatus &s)
{
    return Status(static_cast<grpc::StatusCode>(s.code()), s.message());
}

void fill(t::Payload *p, int32_t size)
{
    p->set_body(std::string(static_cast<size_t>(size), '\0'));
}

// What a call compresses with is settled before its first message; after that, messages can be left out.
void compress(ServerContext *context, bool on)
{
    if (on)
        context->set_compression_algorithm(GRPC_COMPRESS_GZIP);
}

template <class Writer>
Status answer(ServerContext *context, Writer *writer, const t::StreamingOutputCallRequest &request)
{
    for (const auto &p : request.response_parameters()) {
        t::StreamingOutputCallResponse r;
        grpc::WriteOptions options;

        for (int64_t left = p.interval_us(); left > 0 && !context->IsCancelled(); left -= 10000)
            std::this_thread::sleep_for(std::chrono::microseconds(left < 10000 ? left : 10000));
        if (p.has_compressed() && !p.compressed().value())
            options.set_no_compression();
        fill(r.mutable_payload(), p.size());
        if (context->IsCancelled() || !writer->Write(r, options))
            return Status(grpc::StatusCode::CANCELLED, "the client is gone");
    }
    return wanted(request.response_status());
}

class TestService final : public t::TestService::Service
{
    Status EmptyCall(ServerContext *context, const t::Empty *, t::Empty *) override
    {
        Call call(context);

        return Status::OK;
    }

    Status UnaryCall(ServerContext *context, const t::SimpleRequest *request, t::SimpleResponse *response) override
    {
        Call call(context);

        compress(context, request->response_compressed().value());
        fill(response->mutable_payload(), request->response_size());
        return wanted(request->response_status());
    }

    Status StreamingOutputCall(ServerContext *context, const t::StreamingOutputCallRequest *request,
                               grpc::ServerWriter<t::StreamingOutputCallResponse> *writer) override
    {
        Call call(context);

        for (const auto &p : request->response_parameters())
            compress(context, p.compressed().value());
        return answer(context, writer, *request);
    }

    Status StreamingInputCall(ServerContext *context, grpc::ServerReader<t::StreamingInputCallRequest> *reader,
                              t::StreamingInputCallResponse *response) override
    {
        t::StreamingInputCallRequest request;
        Call call(context);
        int32_t size = 0;

        while (reader->Read(&request)) {
            size += static_cast<int32_t>(request.payload().body().size());
            if (call.slow())
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        response->set_aggregated_payload_size(size);
        return Status::OK;
    }

    Status FullDuplexCall(
        ServerContext *context,
        grpc::ServerReaderWriter<t::StreamingOutputCallResponse, t::StreamingOutputCallRequest> *stream) override
    {
        t::StreamingOutputCallRequest request;
        Call call(context);

        while (stream->Read(&request)) {
            Status s = answer(context, stream, request);

            if (!s.ok())
                return s;
        }
        return Status::OK;
    }

    // The generated class would answer it with a message; this is what a server without the method says.
    Status UnimplementedCall(ServerContext *, const t::Empty *, t::Empty *) override
    {
        return Status(grpc::StatusCode::UNIMPLEMENTED, "");
    }
};

class ControlService final : public t::ControlService::Service
{
    Status OpenCalls(ServerContext *, const t::Empty *, t::OpenCallsResponse *response) override
    {
        response->set_n(running);
        return Status::OK;
    }
};

} // namespace

int main(int argc, char **argv)
{
    std::string port = argc == 3 ? argv[2] : "0";
    grpc::ServerBuilder builder;
    TestService test;
    ControlService control;
    int bound = 0, signum;
    sigset_t term;

    // before gRPC's threads exist, so that none of them takes it
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &term, nullptr);
    builder.AddListeningPort("127.0.0.1:" + port, grpc::InsecureServerCredentials(), &bound);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.RegisterService(&test);
    builder.RegisterService(&control);
    std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
    if (!server || bound == 0)
        return 1;
    std::printf("listening on %d\n", bound);
    std::fflush(stdout);
    sigwait(&term, &signum);
    server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(30));
    return 0;
}
