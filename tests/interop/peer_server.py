"""grpc.testing.TestService on python3-grpcio, as peer_server.c has it on ours. usage: peer_server.py [--port N]"""
import signal
import sys
import threading
import time
from concurrent import futures

import grpc
import testing_pb2 as pb

DRAIN_S = 30
running = 0
lock = threading.Lock()


def begin(context):
    """Counts the call, and answers the metadata that asks for an echo."""
    global running
    with lock:
        running += 1
    if not context.add_callback(end):
        end()
    for key, value in context.invocation_metadata():
        if key == "x-grpc-test-echo-initial":
            context.send_initial_metadata(((key, value),))
        elif key == "x-grpc-test-echo-trailing-bin":
            context.set_trailing_metadata(((key, value),))


def end():
    global running
    with lock:
        running -= 1


def obey(status, context):
    if status.code != 0:
        code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
        context.abort(code, status.message)


def payload(size):
    return pb.Payload(body=bytes(size))


def compression(wanted, context):
    """The answer's compression; python-grpcio compresses whole calls, or leaves single messages out."""
    if wanted:
        context.set_compression(grpc.Compression.Gzip)


def empty_call(request, context):
    begin(context)
    return pb.Empty()


def unary_call(request, context):
    begin(context)
    obey(request.response_status, context)
    compression(request.response_compressed.value, context)
    return pb.SimpleResponse(payload=payload(request.response_size))


def streaming_input_call(requests, context):
    begin(context)
    slow = any(key == "x-slow" for key, _ in context.invocation_metadata())
    size = 0
    for request in requests:
        size += len(request.payload.body)
        if slow:
            time.sleep(0.001)
    return pb.StreamingInputCallResponse(aggregated_payload_size=size)


def answers(request, context):
    obey(request.response_status, context)
    for parameters in request.response_parameters:
        pause = parameters.interval_us / 1e6
        while pause > 0 and context.is_active():
            time.sleep(min(pause, 0.01))
            pause -= 0.01
        if parameters.HasField("compressed") and not parameters.compressed.value:
            context.disable_next_message_compression()
        yield pb.StreamingOutputCallResponse(payload=payload(parameters.size))


def streaming_output_call(request, context):
    begin(context)
    compression(any(p.compressed.value for p in request.response_parameters), context)
    yield from answers(request, context)


def full_duplex_call(requests, context):
    begin(context)
    for request in requests:
        yield from answers(request, context)


def open_calls(request, context):
    with lock:
        return pb.OpenCallsResponse(n=running)


def handler(make, behaviour, request):
    return make(behaviour, request_deserializer=request.FromString, response_serializer=lambda m: m.SerializeToString())


def main():
    port = sys.argv[2] if sys.argv[1:2] == ["--port"] else "0"
    # a call has a thread to itself here, a hundred of them run at once
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=128), options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler("grpc.testing.TestService", {
            "EmptyCall": handler(grpc.unary_unary_rpc_method_handler, empty_call, pb.Empty),
            "UnaryCall": handler(grpc.unary_unary_rpc_method_handler, unary_call, pb.SimpleRequest),
            "StreamingInputCall": handler(grpc.stream_unary_rpc_method_handler, streaming_input_call,
                                          pb.StreamingInputCallRequest),
            "StreamingOutputCall": handler(grpc.unary_stream_rpc_method_handler, streaming_output_call,
                                           pb.StreamingOutputCallRequest),
            "FullDuplexCall": handler(grpc.stream_stream_rpc_method_handler, full_duplex_call,
                                      pb.StreamingOutputCallRequest),
        }),
        grpc.method_handlers_generic_handler("grpc.testing.ControlService", {
            "OpenCalls": handler(grpc.unary_unary_rpc_method_handler, open_calls, pb.Empty),
        }),
    ))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    if port == 0:
        sys.exit("cannot listen")
    server.start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    print(f"listening on {port}", flush=True)
    stop.wait()
    server.stop(DRAIN_S).wait()


main()
