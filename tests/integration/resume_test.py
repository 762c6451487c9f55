"""Whatever is killed, and when: the next round goes on from the last batch that was acknowledged, and nothing is in the
log twice."""
import contextlib
import json
import signal

from claw import *

ROWS, BATCH = 4000, 10
SETTINGS = {"CLAW_MAX_DELTA_ROWS": BATCH, "CLAW_RETRY_BASE_MS": 20, "CLAW_SYNC_INTERVAL_SECS": 1,
            "CLAW_MAX_PULL_CHUNKS": 8, "CLAW_REQUEST_TIMEOUT_SECS": 30}


class Resume(ClawTest):
    def setUp(self):
        super().setUp()
        self.a, self.b = self.workspace_of(2)

    def batches(self):
        with contextlib.closing(self.hub.database()) as db:
            return db.execute("SELECT count(*) FROM log").fetchone()[0]

    def write(self, device, rows=ROWS):
        with device.connect() as db:
            db.execute("BEGIN")
            db.executemany("INSERT INTO memory_records(id, body) VALUES (?, 'some text')",
                           ((f"r{i}",) for i in range(rows)))
            db.execute("COMMIT")

    def wait_drained(self, device):
        def at_rest():
            s = device.status()
            return s["unsent"] + s["unsealed"] + s["bound_batches"] == 0
        wait_until(at_rest, lambda: f"drained: {device.status()}\n{device.daemon_log()}")

    def kill_hub(self):
        self.hub.stop(signal.SIGKILL)
        self.hub.start()

    def steps(self, last):
        return [last * k // 5 for k in (1, 2, 3)]

    def check(self, rows=ROWS, only=None):
        """Both databases are equal, each operation is in the log once, and so is each batch of the device."""
        for d in (self.a, self.b):
            d.stop()
        self.settle([self.a, self.b])
        self.assertEqual(self.b.value("SELECT count(*) FROM memory_records"), rows)
        with contextlib.closing(self.hub.database()) as db:
            log = db.execute("SELECT device, device_number, header FROM log ORDER BY number").fetchall()
        self.assertEqual(sum(int.from_bytes(h[104:108], "big") for _, _, h in log), rows)
        self.assertEqual([n for _, n, _ in log], list(range(1, len(log) + 1)))
        entries = json.loads(self.a.claw("queue", "list", "--json").stdout)["entries"]
        self.assertEqual({e["state"] for e in entries} - {"done"}, set())

    def test_client_killed_in_the_midst_of_a_push(self):
        self.write(self.a)
        for goal in self.steps(ROWS // BATCH):
            self.a.start(**SETTINGS)
            wait_until(lambda: self.batches() >= goal, lambda: f"{goal} batches of {self.batches()}")
            self.a.stop(signal.SIGKILL)
        self.a.start(**SETTINGS)
        self.wait_drained(self.a)
        self.check()

    def test_hub_killed_in_the_midst_of_a_push(self):
        self.write(self.a)
        self.a.start(**SETTINGS)
        for goal in self.steps(ROWS // BATCH):
            wait_until(lambda: self.batches() >= goal, lambda: f"{goal} batches of {self.batches()}")
            self.kill_hub()
        self.wait_drained(self.a)  # by itself
        self.check()

    def test_client_killed_in_the_midst_of_a_pull(self):
        self.write(self.a)
        self.a.claw("sync", **SETTINGS)
        total, seen = self.batches(), 0
        for goal in self.steps(total):
            self.b.start(**SETTINGS)
            wait_until(lambda: self.b.status()["log_number"] >= goal, self.b.status)
            self.b.stop(signal.SIGKILL)
            number = self.b.status()["log_number"]
            self.assertGreaterEqual(number, seen)  # it went on from where it stood
            self.assertEqual(self.b.value("SELECT count(*) FROM memory_records"), min(number * BATCH, ROWS))
            seen = number
        self.b.start(**SETTINGS)
        self.wait_equal([self.a, self.b])
        self.check()

    def test_hub_killed_in_the_midst_of_a_pull(self):
        self.write(self.a)
        self.a.claw("sync", **SETTINGS)
        total = self.batches()
        self.b.start(**SETTINGS)
        for goal in self.steps(total):
            wait_until(lambda: self.b.status()["log_number"] >= goal, self.b.status)
            self.kill_hub()
        self.wait_equal([self.a, self.b])
        self.check()

    def test_client_suspended_in_the_midst_of_a_push(self):
        self.write(self.a)
        self.a.start(**SETTINGS)
        for goal in self.steps(ROWS // BATCH):
            wait_until(lambda: self.batches() >= goal, lambda: f"{goal} batches of {self.batches()}")
            self.a.daemon.send_signal(signal.SIGSTOP)
            self.kill_hub()  # its connection is gone when it wakes up
            self.a.daemon.send_signal(signal.SIGCONT)
        self.wait_drained(self.a)
        self.check()

    def test_closing_sends_what_is_unsent(self):
        self.a.start(**SETTINGS)
        wait_until(lambda: "connected to" in self.a.daemon_log(), self.a.daemon_log)
        self.write(self.a, 300)
        self.assertEqual(self.a.stop(), 0)
        status = self.a.status()
        self.assertEqual((status["unsent"], status["unsealed"], status["bound_batches"]), (0, 0, 0))
        with contextlib.closing(self.hub.database()) as db:
            log = db.execute("SELECT header FROM log").fetchall()
        self.assertEqual(sum(int.from_bytes(h[104:108], "big") for h, in log), 300)
        file, = (self.a.data / "checkpoints").iterdir()
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        checkpoint = json.loads(file.read_text())
        self.assertEqual(checkpoint["cursor"]["lamport_clock"], status["log_number"])
        self.assertEqual(file.name, f"{status['workspace_id']}-{status['device_id']}.json")
        self.assertGreater(checkpoint["last_push"]["operations"], 0)
        self.check(300)

    def test_a_checkpoint_that_is_not_the_databases_is_made_anew(self):
        self.write(self.a, 20)
        self.a.sync()
        file, = (self.a.data / "checkpoints").iterdir()
        good = json.loads(file.read_text())
        for text, word in ((None, "is missing"), ("{", "cannot be used"),
                           (file.read_text().replace('"lamport_clock": 1', '"lamport_clock": 7'), "number 7")):
            if text is None:
                file.unlink()
            else:
                file.write_text(text)
            self.assertIn(word, self.a.claw("sync").stderr)
            now = json.loads(file.read_text())
            self.assertEqual(now["cursor"], good["cursor"])
        self.assertEqual(self.a.claw("sync").stderr, "")


if __name__ == "__main__":
    main()
