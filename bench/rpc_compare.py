"""Our gRPC server beside one on gRPC C++ and one on bare nghttp2: the same work, on the same machine, taking turns.

The server has one core, the client (h2load) another. Rates are shown as they were and, since the client may be what is
slow, per second of the server's CPU time. Memory is the growth of the process by connections that said hello, and by
calls that were begun, divided by their number. Start-up is until the first SETTINGS frame is there.

usage: rpc_compare.py [--runs N] [--seconds S]     with CLAW_BUILD_DIR set to a release build
"""
import argparse
import contextlib
import os
import re
import resource
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

BIN = os.path.join(os.environ.get("CLAW_BUILD_DIR", "build/release"), "bin")
SERVERS = {"claw-sync": "rpc_peer", "gRPC C++": "rpc_peer_grpc", "nghttp2": "rpc_peer_nghttp2"}
OURS, GRPC, BARE = SERVERS
CONNECTIONS, STREAMS_EACH = 1000, 50
SMALL, BULK = 100, 64 * 1024
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]


def message(body):
    return struct.pack(">BI", 0, len(body)) + body


def down(n, size):
    return message(struct.pack(">II", n, size))


# name: method, request body, calls at once, what one call counts for, unit
RATES = {
    "unary, 1 at once": ("Echo", message(bytes(SMALL)), 1, 1, "calls/s"),
    "unary, 100 at once": ("Echo", message(bytes(SMALL)), 100, 1, "calls/s"),
    "stream to the client": ("Down", down(1000, SMALL), 4, 1000, "messages/s"),
    "stream to the server": ("Up", message(bytes(SMALL)) * 1000, 4, 1000, "messages/s"),
    "bulk to the client": ("Down", down(64, BULK), 2, 64 * BULK / 1e6, "MB/s"),
    "bulk to the server": ("Up", message(bytes(BULK)) * 64, 2, 64 * BULK / 1e6, "MB/s"),
}


class Server:
    def __init__(self, name):
        os.sched_setaffinity(0, {SERVER_CORE})  # the child inherits it
        self.started = time.monotonic()
        self.process = subprocess.Popen([os.path.join(BIN, SERVERS[name])], stdout=subprocess.PIPE, text=True)
        os.sched_setaffinity(0, {CLIENT_CORE})
        self.port = int(self.process.stdout.readline().removeprefix("listening on "))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS:"))


class Connection:
    """As much of HTTP/2 as it takes to be an idle client."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.buffer = b""
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(4, 0, 0))
        self.wait_for(lambda kind, flags: kind == 4 and not flags & 1)
        self.socket.sendall(self.frame(4, 1, 0))

    @staticmethod
    def frame(kind, flags, stream, body=b""):
        return struct.pack(">IBI", len(body) << 8 | kind, flags, stream) + body

    def wait_for(self, wanted):
        while True:
            while len(self.buffer) >= 9 and len(self.buffer) >= 9 + (length := int.from_bytes(self.buffer[:3], "big")):
                kind, flags, body = self.buffer[3], self.buffer[4], self.buffer[9:9 + length]
                self.buffer = self.buffer[9 + length:]
                if wanted(kind, flags):
                    return
                if kind == 6 and not flags & 1:
                    self.socket.sendall(self.frame(6, 1, 0, body))
                if kind in (3, 7):
                    sys.exit("the server ends what is to stay idle")
            data = self.socket.recv(65536)
            if not data:
                sys.exit("the server hung up")
            self.buffer += data

    def settle(self):
        """Returns when the server has seen all that was sent."""
        self.socket.sendall(self.frame(6, 0, 0, b"12345678"))
        self.wait_for(lambda kind, flags: kind == 6 and flags & 1)

    def begin_call(self, stream):
        def text(s):
            return bytes([len(s)]) + s.encode()

        block = (b"\x83\x86" + b"\x04" + text("/b.B/Up") + b"\x01" + text("localhost") + b"\x0f\x10" +
                 text("application/grpc") + b"\x00" + text("te") + text("trailers"))
        self.socket.sendall(self.frame(1, 4, stream, block))


def measure_rate(server, name, seconds, folder):
    """Work per second, and per second of the server's time."""
    method, body, at_once, worth, _ = RATES[name]
    path = os.path.join(folder, name.replace(" ", "_"))
    if not os.path.exists(path):
        with open(path, "wb") as f:
            f.write(body)
    cpu = server.cpu_s()
    out = subprocess.run(["h2load", "-t", "1", "-c", "1", "-m", str(at_once), "-D", str(seconds), "-d", path,
                          "-H", "content-type: application/grpc", "-H", "te: trailers",
                          f"http://127.0.0.1:{server.port}/b.B/{method}"], capture_output=True, text=True, check=True).stdout
    cpu = server.cpu_s() - cpu
    took = float(re.search(r"finished in ([\d.]+)s", out)[1])
    done, failed, errored = (int(re.search(rf"(\d+) {what}", out)[1]) for what in ("succeeded", "failed", "errored"))
    if done == 0 or failed or errored:
        sys.exit(f"{name}: h2load is not content:\n{out}")
    return done * worth / took, done * worth / cpu


def measure_memory(name):
    """KiB of an idle connection, and of an idle stream."""
    with Server(name) as server, contextlib.ExitStack() as stack:
        def connect(n):
            connections = [Connection(server.port) for _ in range(n)]
            for c in connections:
                stack.callback(c.socket.close)
                c.settle()
            return connections

        few = connect(10)
        before = server.memory()
        many = connect(CONNECTIONS)
        connected = server.memory()
        del few
        for c in many[:CONNECTIONS // STREAMS_EACH]:
            for i in range(STREAMS_EACH):
                c.begin_call(2 * i + 1)
            c.settle()
        streams = CONNECTIONS // STREAMS_EACH * STREAMS_EACH
        return (connected - before) / 1024 / CONNECTIONS, (server.memory() - connected) / 1024 / streams


def measure_start(name):
    with Server(name) as server:
        connection = Connection(server.port)
        took = time.monotonic() - server.started
        connection.socket.close()
        return took * 1000


def show(value):
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def table(title, rows):
    """rows: name, unit, is more better, values of each server."""
    print(f"{title}\n{'':34}" + "".join(f"{s:>30}" for s in SERVERS) + f"{'to gRPC':>10}{'to nghttp2':>12}")
    for name, unit, more, values in rows:
        middle = {s: statistics.median(v) for s, v in values.items()}
        cells = [f"{show(middle[s])} ({show(min(values[s]))}–{show(max(values[s]))})" for s in SERVERS]

        def ratio(other):
            return middle[OURS] / middle[other] if more else middle[other] / middle[OURS]
        print(f"{name + ', ' + unit:34}" + "".join(f"{c:>30}" for c in cells) + f"{ratio(GRPC):>9.2f}×{ratio(BARE):>11.2f}×")
    print()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2)
    args = parser.parse_args()
    missing = [p for p in SERVERS.values() if not os.path.exists(os.path.join(BIN, p))]
    if missing:
        sys.exit(f"not built: {', '.join(missing)} (scripts/install-deps --all, then build again)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)

    wall = {name: {s: [] for s in SERVERS} for name in RATES}
    cpu = {name: {s: [] for s in SERVERS} for name in RATES}
    memory = [{s: [] for s in SERVERS}, {s: [] for s in SERVERS}]
    start = {s: [] for s in SERVERS}
    order = list(SERVERS)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers = {s: stack.enter_context(Server(s)) for s in SERVERS}
        for name in RATES:
            for s in SERVERS:
                measure_rate(servers[s], name, 1, folder)  # caches, pools, branch predictors
        for run in range(args.runs):
            for name in RATES:
                for s in order:
                    rates = measure_rate(servers[s], name, args.seconds, folder)
                    wall[name][s].append(rates[0])
                    cpu[name][s].append(rates[1])
            order.append(order.pop(0))
    for run in range(args.runs):
        for s in order:
            for values, kib in zip(memory, measure_memory(s)):
                values[s].append(kib)
            start[s] += [measure_start(s) for _ in range(3)]
        order.append(order.pop(0))

    print(f"{args.runs} runs of {args.seconds} s, one core each side: median (lowest–highest), and ours in proportion, "
          "more than 1 is better\n")
    table("rates", [(name, RATES[name][4], True, wall[name]) for name in RATES])
    table("rates per second of the server's CPU time", [(name, RATES[name][4], True, cpu[name]) for name in RATES])
    table("sizes and times", [("idle connection", "KiB", False, memory[0]), ("idle stream", "KiB", False, memory[1]),
                              ("start-up", "ms", False, start)])


if __name__ == "__main__":
    main()
