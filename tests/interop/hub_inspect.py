"""Health checks and reflection of the hub, asked by Debian's grpcio; or by a program that takes its address.
usage: hub_inspect.py SERVER [PROGRAM]"""
import signal
import subprocess
import sys
import tempfile
import threading

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from claw import PATIENCE, Hub
from schemas.grpc.health.v1 import health_pb2
from schemas.grpc.reflection.v1 import reflection_pb2 as v1
from schemas.grpc.reflection.v1alpha import reflection_pb2 as v1alpha

SYNC = "clawsync.v1.SyncService"
SERVICES = [SYNC, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection"]
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


def ask(channel, version, pb, *questions):
    call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                                 pb.ServerReflectionRequest.SerializeToString,
                                 pb.ServerReflectionResponse.FromString)
    return list(call(iter([pb.ServerReflectionRequest(**q) for q in questions]), timeout=PATIENCE))


def health(channel, name):
    return (channel.unary_unary if name == "Check" else channel.unary_stream)(
        f"/grpc.health.v1.Health/{name}", health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString)


def health_of_the_services(channel):
    check = health(channel, "Check")
    for service in ["", *SERVICES]:
        assert check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE).status == SERVING, service
    try:
        check(health_pb2.HealthCheckRequest(service="nobody"), timeout=PATIENCE)
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.NOT_FOUND, e
    else:
        raise AssertionError("the health of what is no service")


def services_are_listed(channel, version, pb):
    [answer] = ask(channel, version, pb, {"list_services": ""})
    assert sorted(s.name for s in answer.list_services_response.service) == SERVICES


def descriptors_make_a_client(channel, version, pb):
    """What reflection tells is enough to call the hub: the schemas link, and a method of them is answered."""
    pool, todo = descriptor_pool.DescriptorPool(), ["clawsync/v1/sync.proto"]
    files = {}
    while todo:
        name = todo.pop()
        [answer] = ask(channel, version, pb, {"file_by_filename": name})
        for raw in answer.file_descriptor_response.file_descriptor_proto:
            files[name] = descriptor_pb2.FileDescriptorProto.FromString(raw)
            todo += [d for d in files[name].dependency if d not in files]
    for name in reversed(list(files)):
        pool.Add(files[name])
    method = pool.FindServiceByName(SYNC).FindMethodByName("Heartbeat")
    factory = message_factory.MessageFactory(pool)
    request, response = (factory.GetPrototype(t) for t in (method.input_type, method.output_type))
    call = channel.unary_unary(f"/{SYNC}/Heartbeat", request.SerializeToString, response.FromString)
    try:
        call(request(), timeout=PATIENCE)
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.UNAUTHENTICATED, e
    else:
        raise AssertionError("a stranger was let in")


def what_is_unknown(channel, version, pb):
    answers = ask(channel, version, pb, {"file_by_filename": "x.proto"}, {"file_containing_symbol": "x"}, {})
    codes = [a.error_response.error_code for a in answers]
    assert codes == [grpc.StatusCode.NOT_FOUND.value[0]] * 2 + [grpc.StatusCode.INVALID_ARGUMENT.value[0]], codes


def watchers_learn_of_the_end(channel, hub):
    calls = [health(channel, "Watch")(health_pb2.HealthCheckRequest(service=s), timeout=PATIENCE) for s in ("", SYNC)]
    assert [next(c).status for c in calls] == [SERVING, SERVING]
    stopping = threading.Thread(target=hub.stop, args=(signal.SIGTERM,))
    stopping.start()
    assert [next(c).status for c in calls] == [NOT_SERVING, NOT_SERVING]
    for c in calls:
        try:
            next(c)
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.UNAVAILABLE, e
        else:
            raise AssertionError("more after the end")
    stopping.join()


def main():
    with tempfile.TemporaryDirectory() as folder:
        hub = Hub(folder).start()
        try:
            if len(sys.argv) > 2:
                return subprocess.run([*sys.argv[2:], f"127.0.0.1:{hub.port}"], timeout=PATIENCE * 4).returncode
            with grpc.insecure_channel(f"127.0.0.1:{hub.port}") as channel:
                health_of_the_services(channel)
                for version, pb in (("v1", v1), ("v1alpha", v1alpha)):
                    services_are_listed(channel, version, pb)
                    descriptors_make_a_client(channel, version, pb)
                    what_is_unknown(channel, version, pb)
                watchers_learn_of_the_end(channel, hub)
            print("health and reflection: as they should be")
            return 0
        finally:
            hub.stop()


if __name__ == "__main__":
    sys.exit(main())
