// Health checks and reflection of a hub, asked by gRPC C++. usage: cxx_inspect HOST:PORT
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <grpcpp/grpcpp.h>

#include "grpc/health/v1/health.grpc.pb.h"
#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"

namespace health = grpc::health::v1;

static int failures;

static void check(bool good, const std::string &what)
{
    if (good)
        return;
    std::fprintf(stderr, "FAIL %s\n", what.c_str());
    failures++;
}

static const std::vector<std::string> services = { "clawsync.v1.SyncService", "grpc.health.v1.Health",
                                                   "grpc.reflection.v1.ServerReflection",
                                                   "grpc.reflection.v1alpha.ServerReflection" };

static std::unique_ptr<grpc::ClientContext> context()
{
    auto c = std::make_unique<grpc::ClientContext>();

    c->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    return c;
}

static void health_of_the_services(const std::shared_ptr<grpc::Channel> &channel)
{
    auto stub = health::Health::NewStub(channel);
    std::vector<std::string> names = services;

    names.push_back("");
    for (const std::string &name : names) {
        health::HealthCheckRequest q;
        health::HealthCheckResponse a;

        q.set_service(name);
        grpc::Status s = stub->Check(context().get(), q, &a);
        check(s.ok() && a.status() == health::HealthCheckResponse::SERVING, "health of '" + name + "'");
    }
    health::HealthCheckRequest q;
    health::HealthCheckResponse a;
    q.set_service("nobody");
    check(stub->Check(context().get(), q, &a).error_code() == grpc::NOT_FOUND, "the health of what is no service");

    auto c = context();
    q.set_service("");
    auto watch = stub->Watch(c.get(), q);
    check(watch->Read(&a) && a.status() == health::HealthCheckResponse::SERVING, "a watch begins with the status");
    c->TryCancel();
    while (watch->Read(&a))
        ;
    check(watch->Finish().error_code() == grpc::CANCELLED, "a watch is cancelled");
}

template <class Service, class Request, class Response>
static void reflection(const std::shared_ptr<grpc::Channel> &channel)
{
    auto stub = Service::NewStub(channel);
    auto c = context();
    auto stream = stub->ServerReflectionInfo(c.get());
    auto ask = [&](const Request &q) {
        Response a;

        check(stream->Write(q) && stream->Read(&a), "an answer on the stream");
        return a;
    };
    Request q;
    std::vector<std::string> names;

    q.set_list_services("");
    Response listed = ask(q);
    for (const auto &s : listed.list_services_response().service())
        names.push_back(s.name());
    std::sort(names.begin(), names.end());
    check(names == services, "the services are listed");

    // the files link, each with what it imports
    google::protobuf::DescriptorPool pool;
    std::map<std::string, google::protobuf::FileDescriptorProto> files;
    std::vector<std::string> todo;
    auto take = [&](const std::string &name) {
        Response a = ask(q);

        check(a.file_descriptor_response().file_descriptor_proto_size() > 0, "the files of " + name);
        for (const std::string &raw : a.file_descriptor_response().file_descriptor_proto()) {
            google::protobuf::FileDescriptorProto f;

            check(f.ParseFromString(raw), "a descriptor of " + name);
            files[f.name()] = f;
            todo.insert(todo.end(), f.dependency().begin(), f.dependency().end());
        }
    };
    for (const std::string &name : services) {
        q.set_file_containing_symbol(name);
        take(name);
    }
    while (!todo.empty()) {
        std::string name = todo.back();

        todo.pop_back();
        q.set_file_by_filename(name);
        if (files.count(name) == 0)
            take(name);
    }
    for (size_t before = 0; before != files.size();) { // those first that import nothing that is still to come
        before = files.size();
        for (auto it = files.begin(); it != files.end();)
            if (std::all_of(it->second.dependency().begin(), it->second.dependency().end(),
                            [&](const std::string &d) { return pool.FindFileByName(d) != nullptr; }) &&
                pool.BuildFile(it->second) != nullptr)
                it = files.erase(it);
            else
                ++it;
    }
    check(files.empty(), "every file links");
    for (const std::string &name : services)
        check(pool.FindServiceByName(name) != nullptr, "the schema has " + name);

    q.set_file_containing_symbol("x");
    check(ask(q).error_response().error_code() == grpc::NOT_FOUND, "what is unknown");
    check(ask(Request()).error_response().error_code() == grpc::INVALID_ARGUMENT, "a question that is none");
    stream->WritesDone();
    check(stream->Finish().ok(), "the stream ends well");
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        std::fprintf(stderr, "usage: cxx_inspect HOST:PORT\n");
        return 2;
    }
    auto channel = grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials());
    health_of_the_services(channel);
    reflection<grpc::reflection::v1::ServerReflection, grpc::reflection::v1::ServerReflectionRequest,
               grpc::reflection::v1::ServerReflectionResponse>(channel);
    reflection<grpc::reflection::v1alpha::ServerReflection, grpc::reflection::v1alpha::ServerReflectionRequest,
               grpc::reflection::v1alpha::ServerReflectionResponse>(channel);
    std::printf("%d failures\n", failures);
    return failures == 0 ? 0 : 1;
}
