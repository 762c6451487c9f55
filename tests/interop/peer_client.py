"""python3-grpcio as a client of peer_server.c. usage: peer_client.py [--no-memory] [--only CASE] SERVER"""
import argparse
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback

import grpc
import testing_pb2 as pb

BULK, NBULK, MANY, AT_ONCE = 64 * 1024, 1024, 10000, 100
PACKED = 16 * 1024  # more than any message of zeros has on the wire, and less than it is worth
FLAT = 16 * 1024 * 1024  # how much the server may grow while 64 MiB pass through it
PATIENCE = 60  # seconds that no call here needs
SERVICE = "/grpc.testing.TestService/"
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"


class Peer:
    """The server's process and a channel to it."""

    def __init__(self, program):
        self.program, self.port, self.channel = program, 0, None
        self.start()

    def start(self):
        self.process = subprocess.Popen([self.program, "--port", str(self.port)], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().removeprefix("listening on "))

    def open(self):
        if self.channel is not None:
            self.channel.close()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options=(
            ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.use_local_subchannel_pool", 1)))

    def end(self, signum):
        self.process.send_signal(signum)
        code = self.process.wait(PATIENCE)
        self.process.stdout.close()
        return code

    def peak_memory(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))

    def _make(self, kind, path, answer):
        return getattr(self.channel, kind)(path, request_serializer=lambda m: m.SerializeToString(),
                                           response_deserializer=answer.FromString)

    def empty(self, path=SERVICE + "EmptyCall", **options):
        return self._make("unary_unary", path, pb.Empty)(pb.Empty(), **{"timeout": PATIENCE, **options})

    def unary(self, request, **options):
        return self._make("unary_unary", SERVICE + "UnaryCall", pb.SimpleResponse).with_call(
            request, **{"timeout": PATIENCE, **options})

    def input(self, requests, **options):
        return self._make("stream_unary", SERVICE + "StreamingInputCall", pb.StreamingInputCallResponse)(
            requests, **{"timeout": PATIENCE, **options})

    def output(self, request, **options):
        return self._make("unary_stream", SERVICE + "StreamingOutputCall", pb.StreamingOutputCallResponse)(
            request, **{"timeout": PATIENCE, **options})

    def duplex(self, **options):
        return Duplex(self._make("stream_stream", SERVICE + "FullDuplexCall", pb.StreamingOutputCallResponse),
                      {"timeout": PATIENCE, **options})

    def open_calls(self):
        return self._make("unary_unary", "/grpc.testing.ControlService/OpenCalls", pb.OpenCallsResponse)(
            pb.Empty(), timeout=PATIENCE).n

    def wait_until_idle(self):
        while self.open_calls() > 0:
            time.sleep(0.001)


class Duplex:
    """A FullDuplexCall to write to and read from in turn."""

    def __init__(self, method, options):
        self.requests = queue.SimpleQueue()
        self.call = method(iter(self.requests.get, None), **options)

    def ask(self, *sizes, interval_us=0, body=0, status=None):
        parameters = [pb.ResponseParameters(size=n, interval_us=interval_us) for n in sizes]
        request = pb.StreamingOutputCallRequest(response_parameters=parameters, payload=payload(body))
        if status is not None:
            request.response_status.CopyFrom(status)
        self.requests.put(request)

    def close(self):
        self.requests.put(None)

    def read(self):
        return len(next(self.call).payload.body)


def payload(size):
    return pb.Payload(body=bytes(size))


def large(**more):
    return pb.SimpleRequest(response_size=314159, payload=payload(271828), **more)


def refused(call, code):
    """Runs call, which is to end with that status; returns its message."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        return error.details()
    raise AssertionError(f"the call went well instead of ending with {code}")


# ---- the cases ----


def empty_unary(peer):
    assert peer.empty() == pb.Empty()


def large_unary(peer):
    answer, _ = peer.unary(large())
    assert len(answer.payload.body) == 314159


def too_large(peer):
    request = pb.SimpleRequest(payload=payload(5 * 1024 * 1024))
    refused(lambda: peer.unary(request), grpc.StatusCode.RESOURCE_EXHAUSTED)
    empty_unary(peer)


def client_streaming(peer):
    sizes = (27182, 8, 1828, 45904)
    answer = peer.input(pb.StreamingInputCallRequest(payload=payload(n)) for n in sizes)
    assert answer.aggregated_payload_size == sum(sizes)


def server_streaming(peer):
    sizes = [31415, 9, 2653, 58979]
    request = pb.StreamingOutputCallRequest(response_parameters=[pb.ResponseParameters(size=n) for n in sizes])
    assert [len(r.payload.body) for r in peer.output(request)] == sizes


def ping_pong(peer):
    call = peer.duplex()
    for size, body in ((31415, 27182), (9, 8), (2653, 1828), (58979, 45904)):
        call.ask(size, body=body)
        assert call.read() == size
    call.close()
    assert list(call.call) == [] and call.call.code() == grpc.StatusCode.OK


def empty_stream(peer):
    call = peer.duplex()
    call.close()
    assert list(call.call) == [] and call.call.code() == grpc.StatusCode.OK


def client_compressed_unary(peer):
    peer.unary(large(expect_compressed=pb.BoolValue(value=True)), compression=grpc.Compression.Gzip)
    peer.unary(large(expect_compressed=pb.BoolValue(value=False)))


def client_compressed_streaming(peer):
    requests = [pb.StreamingInputCallRequest(payload=payload(n), expect_compressed=pb.BoolValue(value=True))
                for n in (27182, 45904)]
    assert peer.input(iter(requests), compression=grpc.Compression.Gzip).aggregated_payload_size == 73086


def received():
    """What this process has received by TCP: there is no other way to see that something was compressed."""
    total = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(fd))) as s:
                info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                total += struct.unpack_from("Q", info, 128)[0]  # tcpi_bytes_received
        except OSError:
            pass
    return total


def server_compressed_unary(peer):
    peer.empty()
    for compressed in (True, False):
        before = received()
        answer, _ = peer.unary(large(response_compressed=pb.BoolValue(value=compressed)))
        assert len(answer.payload.body) == 314159
        assert (received() - before < PACKED) == compressed, received() - before


def server_compressed_streaming(peer):
    peer.empty()
    before = received()
    request = pb.StreamingOutputCallRequest(response_parameters=[
        pb.ResponseParameters(size=31415, compressed=pb.BoolValue(value=True)),
        pb.ResponseParameters(size=92653, compressed=pb.BoolValue(value=False)),
        pb.ResponseParameters(size=58979, compressed=pb.BoolValue(value=True))])
    assert [len(r.payload.body) for r in peer.output(request)] == [31415, 92653, 58979]
    assert 92653 < received() - before < 92653 + PACKED, received() - before


def custom_metadata(peer):
    metadata = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\x00\xab\xff"))

    def check(call):
        assert dict(call.initial_metadata())[INITIAL] == "test_initial_metadata_value"
        assert dict(call.trailing_metadata())[TRAILING] == b"\xab\x00\xab\xff"

    check(peer.unary(large(), metadata=metadata)[1])
    call = peer.duplex(metadata=metadata)
    call.ask(314159, body=271828)
    call.close()
    assert call.read() == 314159 and list(call.call) == []
    check(call.call)


def status_code_and_message(peer):
    text = "test status message"
    for code in grpc.StatusCode:
        if code != grpc.StatusCode.OK:
            status = pb.EchoStatus(code=code.value[0], message=text)
            assert refused(lambda: peer.unary(large(response_status=status)), code) == text
    call = peer.duplex()
    call.ask(status=pb.EchoStatus(code=2, message=text))
    call.close()
    assert refused(call.read, grpc.StatusCode.UNKNOWN) == text


def special_status_message(peer):
    text = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈 and 100% %41\t\n"
    status = pb.EchoStatus(code=2, message=text)
    assert refused(lambda: peer.unary(large(response_status=status)), grpc.StatusCode.UNKNOWN) == text


def unimplemented(peer):
    for path in (SERVICE + "UnimplementedCall", "/grpc.testing.UnimplementedService/UnimplementedCall"):
        refused(lambda: peer.empty(path), grpc.StatusCode.UNIMPLEMENTED)


def cancel_after_begin(peer):
    done = threading.Event()
    method = peer._make("stream_unary", SERVICE + "StreamingInputCall", pb.StreamingInputCallResponse)
    call = method.future(iter(lambda: done.wait() and None, None))
    call.cancel()
    done.set()
    assert call.code() == grpc.StatusCode.CANCELLED
    peer.wait_until_idle()


def cancel_after_first_response(peer):
    call = peer.duplex()
    call.ask(31415, body=27182)
    assert call.read() == 31415 and peer.open_calls() == 1
    call.call.cancel()
    refused(call.read, grpc.StatusCode.CANCELLED)
    call.close()
    peer.wait_until_idle()


def timeout_on_sleeping_server(peer):
    call = peer.duplex(timeout=0.1)
    call.ask(8, interval_us=60 * 1000 * 1000, body=27182)
    refused(call.read, grpc.StatusCode.DEADLINE_EXCEEDED)
    call.close()
    peer.wait_until_idle()


def many_messages(peer):
    call = peer.duplex()
    for _ in range(MANY):
        call.ask(10, body=10)
    call.close()
    assert sum(len(r.payload.body) for r in call.call) == 10 * MANY


def many_streams(peer):
    calls = [peer.duplex() for _ in range(AT_ONCE)]
    for call in calls:
        call.ask(1000, body=1000)
    for call in calls:
        assert call.read() == 1000
    for call in calls:
        call.ask(2000, body=1000)
        call.close()
    for call in calls:
        assert call.read() == 2000 and list(call.call) == []


def slow_reader(peer):
    """A whole call goes by after every message, while the server could send all it has."""
    before = peer.peak_memory()
    parameters = [pb.ResponseParameters(size=BULK)] * NBULK
    n = 0
    for answer in peer.output(pb.StreamingOutputCallRequest(response_parameters=parameters)):
        peer.empty()
        n += len(answer.payload.body)
    assert n == BULK * NBULK
    assert not peer.memory or peer.peak_memory() - before < FLAT


def slow_server(peer):
    before = peer.peak_memory()
    request = pb.StreamingInputCallRequest(payload=payload(BULK))
    answer = peer.input((request for _ in range(NBULK)), metadata=(("x-slow", "1"),))
    assert answer.aggregated_payload_size == BULK * NBULK
    assert not peer.memory or peer.peak_memory() - before < FLAT


def restart_after_drain(peer):
    call = peer.duplex()
    call.ask(100)
    assert call.read() == 100
    peer.process.send_signal(signal.SIGTERM)
    call.ask(200)
    assert call.read() == 200
    call.close()
    assert list(call.call) == [] and call.call.code() == grpc.StatusCode.OK
    assert peer.process.wait(PATIENCE) == 0
    peer.start()
    peer.empty(wait_for_ready=True)


def restart_in_mid_stream(peer):
    call = peer.duplex()
    call.ask(100)
    assert call.read() == 100
    peer.end(signal.SIGKILL)
    refused(call.read, grpc.StatusCode.UNAVAILABLE)
    call.close()
    refused(peer.empty, grpc.StatusCode.UNAVAILABLE)
    peer.start()
    peer.empty(wait_for_ready=True)


CASES = (empty_unary, large_unary, too_large, client_streaming, server_streaming, ping_pong, empty_stream,
         client_compressed_unary, client_compressed_streaming, server_compressed_unary, server_compressed_streaming,
         custom_metadata, status_code_and_message, special_status_message, unimplemented, cancel_after_begin,
         cancel_after_first_response, timeout_on_sleeping_server, many_messages, many_streams, slow_reader, slow_server,
         restart_after_drain, restart_in_mid_stream)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--only")
    parser.add_argument("server")
    args = parser.parse_args()
    peer = Peer(args.server)
    peer.memory = not args.no_memory
    failed = 0
    for case in CASES:
        if args.only not in (None, case.__name__):
            continue
        peer.open()
        try:
            case(peer)
            print(f"ok   {case.__name__}", flush=True)
        except Exception as error:
            failed += 1
            line = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == __file__][-1]
            print(f"FAIL {case.__name__}: {__file__}:{line}: {error!r}", flush=True)
    peer.end(signal.SIGKILL)
    print(f"{failed} failed")
    sys.exit(failed > 0)


main()
