#!/usr/bin/env python3
"""End to end over loopback, durable everywhere: A's commit to B's commit, latency of one row, what a bootstrap takes and
does to the application, and what the daemon takes at rest.
   e2e.py [--rows 100000] [--runs 5] [--samples 1000] [--bootstrap 1000000]     (0: leave the bootstrap out)"""
import argparse
import os
import pathlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import records

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "integration"))
from claw import *

SCHEMA_W = ("PRAGMA journal_mode=WAL; CREATE TABLE memory_records(id TEXT PRIMARY KEY NOT NULL, title, body, tags, "
            "created_at, updated_at);")


def insert(path, first, n, body="b" * 200):
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=NORMAL")
        begin = time.monotonic()
        for k in range(first, first + n, 1000):
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO memory_records VALUES (?, 'a title', ?, '[\"tag\"]', ?, ?)",
                           [(str(uuid.UUID(int=i << 64 | i)), body[: 200 - 8] + f"{i:08d}", i, i) for i in range(k, min(k + 1000, first + n))])
            db.execute("COMMIT")
        return time.monotonic() - begin


def peak_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])


class Bench(ClawTest):
    def runTest(self):
        pass


def plain(folder, rows):
    path = pathlib.Path(folder) / "plain.db"
    path.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(SCHEMA_W)
    return insert(path, 0, rows)


def until(db, sql, want):
    while db.execute(sql).fetchone()[0] < want:
        time.sleep(0.001)


def throughput(args):
    """A has the rows captured; the clock runs from there to B's last commit. And with the daemons, from the first insert."""
    batch, live, ref = [], [], []
    for run in range(args.runs):
        t = Bench()
        t.setUp()
        try:
            a, b = t.workspace_of(2, schema=SCHEMA_W)
            ref.append(plain(t.folder, args.rows))
            insert(a.path, 0, args.rows)
            begin = time.monotonic()
            a.start()
            b.start()
            with b.connect() as db:
                until(db, "SELECT count(*) FROM memory_records", args.rows)
                batch.append(time.monotonic() - begin)
                begin = time.monotonic()
                insert(a.path, args.rows, args.rows)
                until(db, "SELECT count(*) FROM memory_records", 2 * args.rows)
                live.append(time.monotonic() - begin)
        finally:
            t.tearDown()
    for name, v in (("committed on A, daemons started, to B's commit", batch), ("inserted on A while daemons run, to B's commit", live)):
        ratio = statistics.median(x / y for x, y in zip(v, ref))
        records.timed("end to end", f"{args.rows:,} rows: {name}", "plain inserts from Python", args.rows, v, ref)
        print(f"| {args.rows} rows: {name} | {statistics.median(v):.2f} s | {min(v):.2f} … {max(v):.2f} | "
              f"{ratio:.1f} x plain inserts |", flush=True)


def few(args):
    """1 and 1,000 rows, daemons running."""
    t = Bench()
    t.setUp()
    try:
        a, b = t.workspace_of(2, schema=SCHEMA_W)
        a.start(), b.start()
        have = 1
        insert(a.path, 0, have)
        with b.connect() as db:
            until(db, "SELECT count(*) FROM memory_records", have)
            for n in (1, 1000):
                ours, ref = [], []
                for _ in range(args.runs):
                    ref.append(plain(t.folder, n))
                    begin = time.monotonic()
                    insert(a.path, have, n)
                    have += n
                    until(db, "SELECT count(*) FROM memory_records", have)
                    ours.append(time.monotonic() - begin)
                ratio = statistics.median(x / y for x, y in zip(ours, ref))
                records.timed("end to end", f"{n:,} row{'s'[:n - 1]}: inserted on A while daemons run, to B's commit", "plain inserts from Python",
                              n, ours, ref)
                print(f"| {n} rows: inserted on A while daemons run, to B's commit | {statistics.median(ours) * 1000:.1f} ms | "
                      f"{min(ours) * 1000:.1f} … {max(ours) * 1000:.1f} | {ratio:.1f} x plain inserts |", flush=True)
    finally:
        t.tearDown()


def quantile(sorted_values, p):
    return sorted_values[min(len(sorted_values) - 1, int(p * len(sorted_values)))]


class Load(threading.Thread):
    """A transaction of 1,000 rows, ten times a second, into the table's other half."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.ended = path, threading.Event()

    def run(self):
        first = 1 << 30
        while not self.ended.wait(0.1):
            insert(self.path, first, 1000)
            first += 1000


def latency(args, load):
    t = Bench()
    t.setUp()
    try:
        a, b = t.workspace_of(2, schema=SCHEMA_W)
        a.start(), b.start()
        insert(a.path, 0, 1)
        times, floor = [], []
        writer = Load(a.path) if load else None
        with b.connect() as rd, a.connect() as wr:
            until(rd, "SELECT count(*) FROM memory_records", 1)
            if writer:
                writer.start()
            for i in range(args.samples):
                time.sleep(0.02)
                begin = time.monotonic()
                wr.execute("INSERT INTO memory_records VALUES (?, 't', 'b', '[]', 1, 1)", (f"row{i}",))
                committed = time.monotonic()
                while rd.execute("SELECT 1 FROM memory_records WHERE id = ?", (f"row{i}",)).fetchone() is None:
                    time.sleep(0.0001)
                times.append((time.monotonic() - committed) * 1000)
                floor.append((committed - begin) * 1000)
        if writer:
            writer.ended.set()
            writer.join()
        times.sort(), floor.sort()
        for p in (.5, .99, .999):
            records.value(f"one row, A's commit to B's visibility, {'10,000 rows/s beside it' if load else 'nothing else'}: p{100 * p:g}",
                          quantile(times, p), "ms", quantile(times, p) / quantile(floor, p), "the same of the commit on A")
    finally:
        t.tearDown()


def voluntary_switches(pid):
    total = 0
    for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def cpu_ticks(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def rss_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])


def at_rest(args):
    t = Bench()
    t.setUp()
    try:
        a, b = t.workspace_of(2, schema=SCHEMA_W)
        a.start(), b.start()
        insert(a.path, 0, 1000)
        with b.connect() as db:
            until(db, "SELECT count(*) FROM memory_records", 1000)
        pid = b.daemon.pid
        last = None
        while last != (last := cpu_ticks(pid)): # what is still to be done after the last row
            time.sleep(2)
        before, ticks, begin = voluntary_switches(pid), cpu_ticks(pid), time.monotonic()
        time.sleep(args.rest)
        secs = time.monotonic() - begin
        records.value("daemon at rest: wake-ups", (voluntary_switches(pid) - before) / secs, "/s", None, "voluntary context switches of all its threads")
        records.value("daemon at rest: CPU", (cpu_ticks(pid) - ticks) / os.sysconf("SC_CLK_TCK") / secs * 100, "%", None, "of one core")
        records.value("daemon at rest: memory", rss_kib(pid) / 1024, "MiB", None, "VmRSS")
        ours, ref = [], []
        for _ in range(max(args.runs, 5)):
            begin = time.monotonic()
            a.claw("version")
            ours.append(time.monotonic() - begin)
            begin = time.monotonic()
            subprocess.run(["sqlite3", "-version"], capture_output=True, check=True)
            ref.append(time.monotonic() - begin)
        records.timed("end to end", "start-up: claw-sync version", "sqlite3 -version", 1, ours, ref)
        print(f"| start-up: claw-sync version | {statistics.median(ours) * 1000:.1f} ms | "
              f"{min(ours) * 1000:.1f} … {max(ours) * 1000:.1f} | {statistics.median(x / y for x, y in zip(ours, ref)):.2f} x sqlite3 -version |", flush=True)
    finally:
        t.tearDown()


def library():
    path = pathlib.Path(BUILD) / "lib" / "libclawsync.so"
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(["strip", "-o", out.name, path], check=True)
        records.value("libclawsync.so, stripped", os.path.getsize(out.name) / 1024, "KiB")


class Writer(threading.Thread):
    """An application that writes rows of its own, one a transaction, and looks at how long each took."""

    def __init__(self, path, prefix):
        super().__init__(daemon=True)
        self.path, self.prefix, self.ended, self.times = path, prefix, threading.Event(), []

    def run(self):
        with contextlib.closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=NORMAL")
            i = 0
            while not self.ended.wait(0.005):
                begin = time.monotonic()
                db.execute("INSERT INTO memory_records VALUES (?, 't', 'b', '[]', 1, 1)", (f"{self.prefix}{i}",))
                self.times.append((time.monotonic() - begin) * 1000)
                i += 1


def written_during(path, prefix, until_done):
    w = Writer(path, prefix)
    w.start()
    until_done()
    w.ended.set()
    w.join()
    return sorted(w.times)


def bootstrap(args):
    t = Bench()
    t.setUp()
    try:
        t.start_hub()
        a = t.device("a", schema=SCHEMA_W)
        insert(a.path, 0, args.bootstrap)
        ref = plain(t.folder, args.bootstrap)
        begin = time.monotonic()
        a.sync()
        up = time.monotonic() - begin
        devices = {}
        for name in "bc":
            devices[name] = t.device(name, schema=SCHEMA_W)
            t.join(a, devices[name])
        t.hub.stop()
        t.hub.start()

        def arrive(d):
            d.start()
            with d.connect() as db:
                while db.execute("SELECT count(*) FROM memory_records WHERE title = 'a title'").fetchone()[0] < args.bootstrap:
                    time.sleep(0.1)

        begin = time.monotonic()
        arrive(devices["b"])
        down = time.monotonic() - begin
        rows = f"{args.bootstrap:,} rows"
        records.timed("end to end", f"bootstrap, {rows}: push", "plain inserts from Python", args.bootstrap, [up], [ref])
        records.timed("end to end", f"bootstrap, {rows}: pull by a new device", "plain inserts from Python", args.bootstrap, [down], [ref])
        print(f"| bootstrap of {rows}: push {up:.1f} s, pull {down:.1f} s | | | {down / ref:.1f} x plain inserts |", flush=True)
        records.value(f"bootstrap, {rows}: peak of the client", peak_kib(devices["b"].daemon.pid) / 1024, "MiB", None, "VmHWM")
        records.value(f"bootstrap, {rows}: peak of the hub", peak_kib(t.hub.process.pid) / 1024, "MiB", None, "VmHWM")
        devices["b"].stop()
        with devices["b"].connect() as db:
            ours, whole = db.execute("SELECT sum(iif(name LIKE 'sync\\_%' ESCAPE '\\' OR name LIKE 'sqlite\\_autoindex\\_sync%' ESCAPE '\\', "
                                     "pgsize, 0)), sum(pgsize) FROM dbstat WHERE aggregate = 1").fetchone()
        records.value("our tables after a bootstrap", ours / 2**20, "MiB", ours / (whole - ours), "the application's")
        c = devices["c"]
        calm = written_during(c.path, "calm", lambda: time.sleep(5))
        busy = written_during(c.path, "busy", lambda: arrive(c))
        for p in (.5, .99, 1):
            records.value(f"the application's own writes during a bootstrap of {rows}: " + (f"p{100 * p:g}" if p < 1 else "longest"),
                          quantile(busy, p), "ms", quantile(busy, p) / quantile(calm, p), "the same in calm")
    finally:
        t.tearDown()


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--rows", type=int, default=100000)
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--samples", type=int, default=1000)
    p.add_argument("--rest", type=float, default=30, help="seconds to watch a daemon that has nothing to do")
    p.add_argument("--bootstrap", type=int, default=1000000)
    args = p.parse_args()
    print("| end to end, over loopback | median | spread | ratio |\n|---|---|---|---|")
    throughput(args)
    few(args)
    latency(args, False)
    latency(args, True)
    at_rest(args)
    library()
    if args.bootstrap:
        bootstrap(args)
