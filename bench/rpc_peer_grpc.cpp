// The server of rpc_compare.py on gRPC C++, in its fastest form: one thread on one completion queue, messages as bytes.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "rpc_peer.h"

namespace
{

grpc::ByteBuffer zeros(size_t n)
{
    grpc::Slice s(n);

    std::memset(const_cast<uint8_t *>(s.begin()), 0, n);
    return grpc::ByteBuffer(&s, 1);
}

class Call
{
  public:
    Call(grpc::AsyncGenericService *service, grpc::ServerCompletionQueue *queue)
        : service_(service), queue_(queue), stream_(&context_)
    {
        service_->RequestCall(&context_, &stream_, queue_, queue_, this);
    }

    void proceed(bool ok)
    {
        switch (state_) {
        case State::REQUEST:
            if (!ok)
                break;
            new Call(service_, queue_);
            method_ = context_.method()[5];
            read();
            return;
        case State::READ:
            if (method_ == 'U') {
                if (ok)
                    read();
                else
                    last(zeros(0));
                return;
            }
            if (!ok)
                break;
            if (method_ == 'E')
                last(message_);
            else
                begin_down();
            return;
        case State::WRITE:
            if (!ok)
                break;
            next();
            return;
        case State::FINISH:
            break;
        }
        delete this;
    }

  private:
    enum class State { REQUEST, READ, WRITE, FINISH };

    void read()
    {
        state_ = State::READ;
        stream_.Read(&message_, this);
    }

    void last(const grpc::ByteBuffer &m)
    {
        state_ = State::FINISH;
        stream_.WriteAndFinish(m, grpc::WriteOptions(), grpc::Status::OK, this);
    }

    void begin_down()
    {
        uint8_t request[BENCH_DOWN_LEN] = {};
        std::vector<grpc::Slice> slices;
        size_t at = 0;

        message_.Dump(&slices);
        for (const auto &s : slices)
            for (size_t i = 0; i < s.size() && at < sizeof request; i++)
                request[at++] = s.begin()[i];
        left_ = bench_u32(request);
        message_ = zeros(bench_u32(request + 4));
        next();
    }

    void next()
    {
        if (--left_ == 0) {
            last(message_);
            return;
        }
        state_ = State::WRITE;
        stream_.Write(message_, this);
    }

    grpc::AsyncGenericService *service_;
    grpc::ServerCompletionQueue *queue_;
    grpc::GenericServerContext context_;
    grpc::GenericServerAsyncReaderWriter stream_;
    grpc::ByteBuffer message_;
    State state_ = State::REQUEST;
    char method_ = 0;
    uint32_t left_ = 0;
};

} // namespace

int main()
{
    grpc::AsyncGenericService service;
    grpc::ServerBuilder builder;
    int port = 0;
    void *tag;
    bool ok;

    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterAsyncGenericService(&service);
    std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
    std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
    if (!server || port == 0)
        return 1;
    // as many calls may begin at once as a connection has streams
    for (int i = 0; i < 100; i++)
        new Call(&service, queue.get());
    std::printf("listening on %d\n", port);
    std::fflush(stdout);
    while (queue->Next(&tag, &ok))
        static_cast<Call *>(tag)->proceed(ok);
    return 0;
}
