#!/usr/bin/env python3
"""Reconciling many rows: time against reading the same rows with plain SQLite, and the bytes that are exchanged.

usage: bench/reconcile.py [--rows 1000000] [--differ 10] [--build build/release]
"""
import argparse
import json
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "integration"), str(ROOT / "bench")]
import records  # noqa: E402


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", type=int, default=1000000)
    p.add_argument("--differ", type=int, default=10)
    p.add_argument("--build", default=str(ROOT / "build" / "release"))
    return p.parse_args()


def fill(device, rows):
    with device.connect() as db:
        db.execute("BEGIN")
        db.executemany("INSERT INTO memory_records(id, body) VALUES (?, ?)",
                       ((f"row-{i:08}", f"what an agent noted in its row number {i}, and why") for i in range(rows)))
        db.execute("COMMIT")


def timed(what):
    began = time.monotonic()
    result = what()
    return time.monotonic() - began, result


def reconcile(device):
    return json.loads(device.claw("reconcile", "--json", want=None).stdout)


def read_plain(device):
    with device.connect() as db:
        return sum(1 for _ in db.execute("SELECT * FROM memory_records"))


def change_unseen(device, n, rows):
    with device.connect() as db:
        db.execute("BEGIN IMMEDIATE")
        triggers = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '%sync%'").fetchall()
        for name, _ in triggers:
            db.execute(f'DROP TRIGGER "{name}"')
        for i in range(n):
            db.execute("UPDATE memory_records SET body = 'zzz' WHERE id = ?", (f"row-{i * (rows // n):08}",))
        for _, sql in triggers:
            db.execute(sql)
        db.execute("COMMIT")


def main():
    a = arguments()
    os.environ["CLAW_BUILD_DIR"] = a.build
    os.environ.setdefault("CLAW_TEST_PATIENCE", "1800")
    import claw

    class Bench(claw.ClawTest):
        def runTest(self):
            one, two = self.workspace_of(2)
            fill(one, a.rows)
            one.sync()
            two.sync()
            plain, n = timed(lambda: read_plain(one))

            def record(what, secs, r):
                records.timed("reconcile", f"{n:,} rows, {what}", "reading the rows once, from Python", 1, [secs], [plain])
                records.value(f"reconcile, {n:,} rows, {what}: exchanged", (r["bytes_sent"] + r["bytes_received"]) / 1024, "KiB")

            print(f"rows {n}; plain SQLite reads them in {plain:.2f} s (from Python)")
            secs, r = timed(lambda: reconcile(one))
            print(f"first, the whole set is given: {secs:.2f} s, {r['bytes_sent']} bytes sent, {r['bytes_received']} received")
            record("the first gives the whole set", secs, r)
            secs, r = timed(lambda: reconcile(two))
            print(f"equal: {secs:.2f} s, {r['bytes_sent'] + r['bytes_received']} bytes, equal={r['equal']}")
            record("equal", secs, r)
            change_unseen(two, a.differ, a.rows)
            secs, r = timed(lambda: json.loads(two.claw("prove", "--json", want=None).stdout))
            print(f"{a.differ} rows differ, found: {secs:.2f} s, {r['bytes_sent'] + r['bytes_received']} bytes, "
                  f"conflicting={r['conflicting']}")
            record(f"{a.differ} differ", secs, r)
            secs, r = timed(lambda: reconcile(two))
            print(f"and levelled on this side: {secs:.2f} s, {r['bytes_sent'] + r['bytes_received']} bytes, "
                  f"published={r['published']}, rounds={r['rounds']}")

    result = claw.unittest.TextTestRunner(verbosity=0).run(Bench())
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
