"""Whatever is killed, and when: the next round goes on from the last batch that was acknowledged, and nothing is in the
log twice."""
import contextlib
import json
import re
import signal
import socket
import struct
import threading
import urllib.request

from claw import *

ROWS, BATCH = 4000, 10
SETTINGS = {"CLAW_MAX_DELTA_ROWS": BATCH, "CLAW_RETRY_BASE_MS": 20, "CLAW_SYNC_INTERVAL_SECS": 1,
            "CLAW_MAX_PULL_CHUNKS": 8, "CLAW_REQUEST_TIMEOUT_SECS": 30}


PAGE = SETTINGS["CLAW_MAX_PULL_CHUNKS"]
IN_FLIGHT = 4  # max_push_inflight's default


class Wire:
    """Between a client and the hub: passes on what comes, and cuts connections in the midst when told to."""

    def __init__(self, port):
        self.port, self.ends, self.lock = port, [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                near = self.listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self.port))
                with self.lock:
                    self.ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self.pass_on, args=(one, other), daemon=True).start()

    def pass_on(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(4096):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def cut(self):
        with self.lock:
            ends, self.ends = self.ends, []
        for end in ends:
            with contextlib.suppress(OSError):  # a reset: what is on the way is lost
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self):
        self.listener.close()
        self.cut()


class Resume(ClawTest):
    def setUp(self):
        super().setUp()
        self.clock = self.folder / "clock"
        self.clock.write_text("0")
        self.start_hub(CLAW_SYNC_ADMIN_ADDR="0")
        self.a, self.b = self.workspace_of(2)

    def metric(self, name):
        port = re.search(r"admin page on http://127\.0\.0\.1:(\d+)/", self.hub.log.read_text())[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            return int(re.search(rf"(?m)^{name} (\d+)$", answer.read().decode())[1])

    def sent_again(self):
        """Batches that the hub acknowledged without their being new to it."""
        return self.metric("claw_sync_repeated_batches_total")

    def wire(self, device):
        wire = Wire(self.hub.port)
        self.addCleanup(wire.close)
        device.endpoint = wire.endpoint
        return wire

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
        self.assertLessEqual(self.sent_again(), 3 * IN_FLIGHT)
        self.check()

    def test_connection_cut_in_the_midst_of_a_push(self):
        wire = self.wire(self.a)
        self.write(self.a)
        self.a.start(**SETTINGS)
        for goal in self.steps(ROWS // BATCH):
            wait_until(lambda: self.batches() >= goal, lambda: f"{goal} batches of {self.batches()}")
            wire.cut()
        self.wait_drained(self.a)
        self.assertLessEqual(self.sent_again(), 3 * IN_FLIGHT)
        self.check()

    def test_connection_cut_in_the_midst_of_a_pull(self):
        self.write(self.a)
        self.a.claw("sync", **SETTINGS)
        total, before = self.batches(), self.metric("claw_sync_given_batches_total")
        wire = self.wire(self.b)
        self.b.start(**SETTINGS)
        for goal in self.steps(total):
            wait_until(lambda: self.b.status()["log_number"] >= goal, self.b.status)
            wire.cut()
        self.wait_equal([self.a, self.b])
        self.assertLessEqual(self.metric("claw_sync_given_batches_total") - before, total + 3 * PAGE)
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
        before = self.metric("claw_sync_given_batches_total")
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
        self.assertLessEqual(self.metric("claw_sync_given_batches_total") - before, total + 3 * PAGE)
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

    def sleepy_hub(self):
        """A hub for which time passes when `clock` says so."""
        self.hub.env |= {"LATE_CLOCK_FILE": self.clock, "LATE_CLOCK_MONOTONIC": 1}
        self.hub.with_clock(0)

    def sleepy(self, device):
        """A client of a machine that sleeps: on waking its wall clock has jumped, and its monotonic one has not."""
        device.slept = self.folder / f"clock of {device.folder.name}"
        device.slept.write_text("0")
        device.start(**SETTINGS, LATE_CLOCK_FILE=device.slept, LD_PRELOAD=self.hub.env["LD_PRELOAD"],
                     ASAN_OPTIONS=self.hub.env["ASAN_OPTIONS"])

    def suspend(self, device):
        """For longer than the hub keeps the connection of a peer that is silent, however long that is."""
        device.daemon.send_signal(signal.SIGSTOP)

        def is_forgotten():
            later = self.clock.with_suffix(".later")
            later.write_text(str(int(self.clock.read_text()) + 30))
            later.rename(self.clock)  # at once: the hub reads it all the time
            return self.metric("claw_sync_connections") == 0
        wait_until(is_forgotten, "the hub hangs up")
        device.slept.write_text(self.clock.read_text())
        device.daemon.send_signal(signal.SIGCONT)

    def test_machine_suspended_in_the_midst_of_a_push(self):
        self.sleepy_hub()
        self.write(self.a)
        self.sleepy(self.a)
        for goal in self.steps(ROWS // BATCH):
            wait_until(lambda: self.batches() >= goal, lambda: f"{goal} batches of {self.batches()}")
            self.suspend(self.a)
        self.wait_drained(self.a)
        self.assertGreaterEqual(int(self.clock.read_text()), 3 * 300)
        self.assertLessEqual(self.sent_again(), 3 * IN_FLIGHT)
        self.a.stop()
        self.check()

    def test_machine_suspended_in_the_midst_of_a_pull(self):
        self.write(self.a)
        self.a.claw("sync", **SETTINGS)
        self.sleepy_hub()
        total = self.batches()
        self.sleepy(self.b)
        for goal in self.steps(total):
            wait_until(lambda: self.b.status()["log_number"] >= goal, self.b.status)
            self.suspend(self.b)
        self.wait_equal([self.a, self.b])
        self.assertLessEqual(self.metric("claw_sync_given_batches_total"), total + 3 * PAGE)
        self.b.stop()
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
        for text, word in ((None, "is missing"), ("{", "cannot be used"), ("", "cannot be used"),
                           (file.read_text().replace(self.workspace, str(uuid.uuid4())), "another device's or workspace's"),
                           (file.read_text().replace(good["device_id"], str(uuid.uuid4())), "another device's or workspace's"),
                           (file.read_text().replace('"lamport_clock": 1', '"lamport_clock": 0'), "number 0"),
                           (file.read_text().replace('"lamport_clock": 1', '"lamport_clock": 7'), "number 7")):
            if text is None:
                file.unlink()
            else:
                file.write_text(text)
            self.assertIn(word, self.a.claw("sync").stderr)
            now = json.loads(file.read_text())
            self.assertEqual(now["cursor"], good["cursor"])
        self.assertEqual(self.a.claw("sync").stderr, "")
        self.assertEqual({n for n in good}, {"version", "workspace_id", "device_id", "log_id", "cursor", "saved_at",
                                             "last_contact", "last_push", "last_pull"})
        self.assertEqual(set(good["cursor"]), {"lamport_clock", "hlc_timestamp", "state_hash"})
        self.assertEqual(good["cursor"]["lamport_clock"], self.a.status()["log_number"])
        file.unlink()
        file.parent.rmdir()
        file.parent.write_text("in its place")
        done = self.a.claw("sync")
        self.assertIn("cannot be made anew", done.stderr)
        file.parent.unlink()
        self.assertIn("is missing; it is made anew", self.a.claw("sync").stderr)
        self.assertEqual(json.loads(file.read_text())["cursor"], good["cursor"])


if __name__ == "__main__":
    main()
