#!/usr/bin/env python3
"""End to end over loopback, durable everywhere: A's commit to B's commit, latency of one row, memory while bootstrapping.
   e2e.py [--rows 100000] [--runs 5] [--bootstrap 1000000]     (0: leave the bootstrap out)"""
import argparse
import os
import pathlib
import sqlite3
import statistics
import sys
import time
import uuid

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
        print(f"| {args.rows} rows: {name} | {statistics.median(v):.2f} s | {min(v):.2f} … {max(v):.2f} | "
              f"{ratio:.1f} x plain inserts |", flush=True)


def latency(args):
    t = Bench()
    t.setUp()
    try:
        a, b = t.workspace_of(2, schema=SCHEMA_W)
        a.start(), b.start()
        insert(a.path, 0, 1)
        times, floor = [], []
        with b.connect() as rd, a.connect() as wr:
            until(rd, "SELECT count(*) FROM memory_records", 1)
            for i in range(1, 201):
                time.sleep(0.05)
                begin = time.monotonic()
                wr.execute("INSERT INTO memory_records VALUES (?, 't', 'b', '[]', 1, 1)", (f"row{i}",))
                committed = time.monotonic()
                while rd.execute("SELECT count(*) FROM memory_records").fetchone()[0] <= i:
                    time.sleep(0.0001)
                times.append((time.monotonic() - committed) * 1000)
                floor.append((committed - begin) * 1000)
        times.sort()
        q = lambda p: times[min(len(times) - 1, int(p * len(times)))]
        print(f"| one row, A's commit to B's visibility | p50 {q(.5):.1f} ms | p99 {q(.99):.1f} ms, max {times[-1]:.1f} | "
              f"{q(.5) / statistics.median(floor):.0f} x the commit on A |", flush=True)
    finally:
        t.tearDown()


def bootstrap(args):
    t = Bench()
    t.setUp()
    try:
        t.start_hub()
        a = t.device("a", schema=SCHEMA_W)
        insert(a.path, 0, args.bootstrap)
        begin = time.monotonic()
        a.sync()
        up = time.monotonic() - begin
        b = t.device("b", schema=SCHEMA_W)
        t.join(a, b)
        t.hub.stop()
        t.hub.start()
        begin = time.monotonic()
        b.start()
        with b.connect() as db:
            while db.execute("SELECT count(*) FROM memory_records").fetchone()[0] < args.bootstrap:
                time.sleep(0.05)
        down = time.monotonic() - begin
        print(f"| bootstrap of {args.bootstrap} rows: push {up:.1f} s, pull {down:.1f} s | client peak {peak_kib(b.daemon.pid) / 1024:.1f} MiB "
              f"| hub peak {peak_kib(t.hub.process.pid) / 1024:.1f} MiB |", flush=True)
    finally:
        t.tearDown()


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--rows", type=int, default=100000)
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--bootstrap", type=int, default=1000000)
    args = p.parse_args()
    print("| end to end, over loopback | median | spread | ratio |\n|---|---|---|---|")
    throughput(args)
    latency(args)
    if args.bootstrap:
        bootstrap(args)
