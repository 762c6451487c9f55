"""The queue of real clients: a hub that is away, processes that are killed, and what a hub refuses."""
import contextlib
import json
import random
import signal
import subprocess
import sys
import time

from claw import *

MANY = 10000


class QueueTest(ClawTest):
    def numbers(self):
        """Batches in the hub's log."""
        with contextlib.closing(self.hub.database()) as db:
            return db.execute("SELECT count(*) FROM log").fetchone()[0]

    def queue(self, device):
        return json.loads(device.claw("queue", "list", "--json").stdout)

    def write(self, device, ids, body):
        with device.connect() as db:
            db.execute("BEGIN")
            db.executemany("INSERT INTO memory_records(id, body) VALUES (?, ?)", ((i, body) for i in ids))
            db.execute("COMMIT")

    def drained(self, device):
        wait_until(lambda: device.status()["unsent"] + device.status()["unsealed"] + device.status()["bound_batches"] == 0,
                   lambda: f"drained: {device.status()}")

    def bind_and_lose_the_hub(self, device, rows):
        """Leaves batches that are bound and that no hub has: the hub stops in the midst and dies."""
        self.hub.process.send_signal(signal.SIGSTOP)
        self.write(device, rows, "some text")
        wait_until(lambda: device.status()["bound_batches"] >= 3, device.status)
        device.stop(signal.SIGKILL)
        self.hub.stop(signal.SIGKILL)

    def break_signature(self, device):
        """Of the second batch that waits: no hub will ever take it."""
        with device.connect() as db:
            number, stored = db.execute("SELECT number, batch FROM sync_bound WHERE state = 0 ORDER BY number LIMIT 1 "
                                        "OFFSET 1").fetchone()
            at = 4 + 208  # the length of a chunk, and the header
            broken = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1:]
            db.execute("UPDATE sync_bound SET batch = ? WHERE number = ?", (broken, number))


class Offline(QueueTest):
    def test_edits_made_offline_drain_by_themselves(self):
        a, b = self.workspace_of(2)
        self.hub.stop(signal.SIGKILL)
        a.start(CLAW_RETRY_BASE_MS=20, CLAW_MAX_RETRIES=2)
        wait_until(lambda: "offline, queued=" in a.daemon_log(), a.daemon_log)
        self.write(a, [f"r{i}" for i in range(MANY)], "x" * 100)
        for _ in range(20):
            a.sql("UPDATE memory_records SET title = coalesce(title, '') || 'y' WHERE id = 'r7';")
        before = self.queue(a)
        self.assertEqual([e for e in before["entries"] if e["state"] != "done"], [])  # they coalesce in the database
        began = time.monotonic()
        self.hub.start()
        self.drained(a)  # nobody writes any more: a timer brings it about
        print(f"{MANY} offline edits drained in {time.monotonic() - began:.1f} s", file=sys.stderr)
        a.stop()
        self.settle([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM memory_records"), MANY)
        self.assertEqual(b.value("SELECT title FROM memory_records WHERE id = 'r7'"), "y" * 20)

    def test_one_row_that_changes_all_the_time(self):
        """Of all its edits one is left, whether the hub comes back or not."""
        a, b = self.workspace_of(2)
        self.write(a, ["r"], "x")
        self.settle([a, b])
        self.hub.stop(signal.SIGKILL)
        a.start(CLAW_RETRY_BASE_MS=20, CLAW_MAX_RETRIES=2)
        wait_until(lambda: "offline, queued=" in a.daemon_log(), a.daemon_log)
        with a.connect() as db:
            for n in range(5):
                db.execute("BEGIN")
                for i in range(10000):
                    db.execute("UPDATE memory_records SET title = ? WHERE id = 'r'", (f"{n} {i}",))
                db.execute("COMMIT")
        wait_until(lambda: a.value("SELECT count(*) FROM sync_changelog") <= 10000, a.daemon_log)
        self.assertEqual(a.value("SELECT count(*) FROM sync_unsent"), 1)
        self.hub.start()
        self.drained(a)
        a.stop()
        self.settle([a, b])
        self.assertEqual(b.value("SELECT title FROM memory_records WHERE id = 'r'"), "4 9999")

    def test_an_empty_file(self):
        """As a full disk leaves behind: there is no queue in it, and the next round makes one."""
        a, = self.workspace_of(1)
        for f in a.data.glob("queue.db*"):
            f.unlink()
        queue = a.data / "queue.db"
        queue.touch(mode=0o600)
        self.assertEqual(a.status()["queued"], 0)
        self.assertEqual(json.loads(a.claw("queue", "list", "--json").stdout)["entries"], [])
        a.claw("doctor")
        self.assertEqual(queue.stat().st_size, 0)
        a.sync()
        self.assertGreater(queue.stat().st_size, 0)
        self.assertEqual(a.status()["queued"], 0)

    def test_the_queue_of_a_hub_that_was_never_there(self):
        self.start_hub()
        a = self.device("a")
        self.assertEqual(self.queue(a), {"unsent": 0, "unsealed": 0, "bound_batches": 0, "entries": []})
        self.assertEqual(a.claw("queue", "retry").stdout, "retried=0\n")
        a.claw("queue", "retry", "abc", want=2)
        a.sync()
        for command in ("retry", "export"):
            self.assertRegex(a.claw("queue", command, "abc", want=2).stderr, '"abc"; claw-sync queue list shows what there is$')
        self.assertEqual(self.queue(a)["entries"], [])
        self.assertEqual(a.claw("queue", "export").stdout, "")


class Refused(QueueTest):
    def test_a_refused_set_is_shown_exported_and_sent_again(self):
        a, b = self.workspace_of(2)
        settings = {"CLAW_RETRY_BASE_MS": 20, "CLAW_MAX_DELTA_ROWS": 10, "CLAW_SYNC_INTERVAL_SECS": 1}
        a.sync()
        # the hub must not freeze in the middle of a round: after the first one, and the one that the beginning of the
        # watch brings, there is nothing to do
        a.start("--json", **settings | {"CLAW_SYNC_INTERVAL_SECS": 3600})
        wait_until(lambda: a.daemon_log().count('"pull-completed"') >= 2, a.daemon_log)
        self.bind_and_lose_the_hub(a, [f"r{i:03}" for i in range(60)])
        self.break_signature(a)
        self.hub.start()
        a.start(**settings)
        self.drained(a)
        wait_until(lambda: a.status()["set_aside"] == 1, a.status)
        entry, = [e for e in self.queue(a)["entries"] if e["state"] == "failed"]
        self.assertEqual(entry["operations"], 10)
        self.assertIn("signed", entry["reason"])
        self.assertIn("set aside       1", a.claw("status").stdout)
        self.assertIn(entry["id"][:12], a.claw("queue", "list").stdout)
        b.sync()
        here = {r[0] for r in b.query("SELECT id FROM memory_records")}
        self.assertEqual(len(here), 50)  # the rest flowed
        self.assertEqual(a.value("SELECT count(*) FROM memory_records"), 60)
        exported = [json.loads(x) for x in a.claw("queue", "export", entry["id"][:8]).stdout.splitlines()]
        self.assertEqual({x["key"][0] for x in exported} | here, {f"r{i:03}" for i in range(60)})
        for x in exported:
            self.assertEqual((x["operation"], x["table"], x["state"]), ("insert", "memory_records", "failed"))
            self.assertIn(["body", "some text"], x["values"])
        self.assertEqual(json.loads(a.claw("queue", "retry", entry["id"][:8], "--json").stdout), {"retried": 1})
        wait_until(lambda: a.status()["set_aside"] == 0 and self.numbers() >= 6, a.status)
        self.drained(a)  # the daemon found it by itself
        self.assertIn("claw-sync queue list", a.claw("queue", "retry", entry["id"][:8], want=2).stderr)
        a.stop()
        self.settle([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM memory_records"), 60)
        self.assertNotIn(b"some text", b"".join(p.read_bytes() for p in a.data.rglob("queue.db*")))


class Killed(QueueTest):
    """kill -9 while the queue is written: by the daemon whose hub is away, and by a retry."""
    SETTINGS = {"CLAW_RETRY_BASE_MS": 5, "CLAW_MAX_RETRIES": 1, "CLAW_MAX_DELTA_ROWS": 5, "CLAW_SYNC_INTERVAL_SECS": 1}
    ROUNDS, ROWS = 12, 40

    def stamp(self, device):
        """Changes with each write of the queue."""
        out = []
        for name in ("queue.db", "queue.db-wal", "queue.db-journal"):
            with contextlib.suppress(FileNotFoundError):
                s = (device.data / name).stat()
                out.append((name, s.st_size, s.st_mtime_ns))
        return out

    def sent(self, device):
        """How many operations the hub's log has of it, and in how many batches; their numbers have no gap."""
        with contextlib.closing(self.hub.database()) as db:
            rows = db.execute("SELECT device_number, header FROM log WHERE device = ? ORDER BY device_number",
                              (uuid.UUID(device.status()["device_id"]).bytes,)).fetchall()
        self.assertEqual([n for n, _ in rows], list(range(1, len(rows) + 1)))
        return sum(int.from_bytes(h[104:108], "big") for _, h in rows), len(rows)

    def whole(self, device):
        with contextlib.closing(sqlite3.connect(device.data / "queue.db")) as db:
            self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])

    def test_a_retry(self):
        """Of a set that the hub refused: the command, and the daemon that takes the set back and sends it."""
        a, b = self.workspace_of(2)
        settings = self.SETTINGS | {"CLAW_MAX_DELTA_ROWS": 10}
        a.sync()
        a.start("--json", **settings | {"CLAW_SYNC_INTERVAL_SECS": 3600})
        wait_until(lambda: a.daemon_log().count('"pull-completed"') >= 2, a.daemon_log)
        before, _ = self.sent(a)
        self.bind_and_lose_the_hub(a, [f"r{i:03}" for i in range(60)])
        self.break_signature(a)
        self.hub.start()
        a.start(**settings)
        wait_until(lambda: a.status()["set_aside"] == 1, a.status)
        self.drained(a)
        a.stop()
        for i in range(self.ROUNDS):
            process = subprocess.Popen(a.command(CLIENT, "queue", "retry"), env=a.env(), stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            if i % 3 < 2:  # the command dies, in the midst or behind it
                time.sleep(random.random() * 0.03)
                process.kill()
            process.wait()
            self.whole(a)
            if i % 3 < 2:
                continue
            was = self.stamp(a)
            a.start(**settings)
            wait_until(lambda: self.stamp(a) != was or a.status()["set_aside"] == 0, a.status)  # it is taken back
            self.assertEqual(a.stop(signal.SIGKILL), -signal.SIGKILL)
            self.whole(a)
        a.claw("queue", "retry")
        a.start(**settings)
        wait_until(lambda: a.status()["set_aside"] == 0, a.status)
        self.drained(a)
        a.stop()
        self.settle([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM memory_records"), 60)
        self.assertEqual(self.sent(a)[0] - before, 60)  # each once

    def test_a_daemon_whose_hub_is_away(self):
        a, b = self.workspace_of(2)
        a.sync()
        before, _ = self.sent(a)
        in_queue, written = [], 0
        settings = self.SETTINGS | {"CLAW_REQUEST_TIMEOUT_SECS": 10}
        for i in range(self.ROUNDS):
            a.start(**settings)
            wait_until(lambda: a.daemon_log().count("connected") > 0, a.daemon_log)
            while True:
                self.drained(a)
                self.hub.process.send_signal(signal.SIGSTOP)  # what is bound now waits for an answer that never comes
                self.write(a, [f"r{written + k}" for k in range(self.ROWS)], "some text")
                written += self.ROWS
                wait_until(lambda: a.status()["bound_batches"] >= 2 or "no answer" in a.daemon_log(), a.status)
                if a.status()["bound_batches"] >= 2:
                    break
                self.hub.process.send_signal(signal.SIGCONT)  # it was in the midst of a round: once more
                wait_until(lambda: a.status()["unsealed"] == 0, a.status)
                (a.folder / "daemon.log").write_text("")
            was = self.stamp(a)
            self.hub.stop(signal.SIGKILL)
            wait_until(lambda: self.stamp(a) != was, a.daemon_log)
            time.sleep(random.random() * 0.01 * (i % 3))  # at once, or a little later
            self.assertEqual(a.stop(signal.SIGKILL), -signal.SIGKILL)
            (a.folder / "daemon.log").write_text("")
            entries = self.queue(a)["entries"]
            in_queue.append(sum(e["state"] in ("pending", "in_flight") for e in entries))
            self.whole(a)
            self.hub.start()
        a.start(**settings)
        self.drained(a)
        wait_until(lambda: {e["state"] for e in self.queue(a)["entries"]} <= {"done"}, lambda: self.queue(a))
        a.stop()
        self.settle([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM memory_records"), written)
        operations, batches = self.sent(a)
        self.assertEqual(operations - before, written)  # each once
        self.whole(a)
        print(f"{self.ROUNDS} kills with {in_queue} sets in the queue; {operations - before} operations in {batches} batches",
              file=sys.stderr)


if __name__ == "__main__":
    main()
