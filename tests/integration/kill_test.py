"""kill -9 of clients and hub at random points, under load: nothing that was committed is lost, nothing stalls, all converge.

Each device has a writer, a process of its own that knows what it has committed; in the end every row of both must be on both
devices as it was last written, or be gone if it was deleted.

  tests/integration/kill_test.py [--kills N] [--seed S]      N of clients and N of the hub (12)
"""
import argparse
import contextlib
import pathlib
import random
import select
import signal
import subprocess
import sys
import time

from claw import *

KEYS, SHARED, LARGE = 400, 20, 30000
REST_EVERY = 50  # kills until all must come to rest and are compared
SETTINGS = {"CLAW_RETRY_BASE_MS": 10, "CLAW_MAX_RETRIES": 2, "CLAW_SYNC_INTERVAL_SECS": 1, "CLAW_MAX_DELTA_ROWS": 20,
            "CLAW_REQUEST_TIMEOUT_SECS": 20, "CLAW_CONNECT_TIMEOUT_SECS": 5}
options = argparse.Namespace(kills=12, seed=None)


class Writer:
    """Runs in a process of its own: short transactions on a database until it is told to pause, or its input ends. What it
    has committed stands in a file, a line per row: table, key, and the text that it has from then on (none: deleted)."""

    def __init__(self, database, name, seed, journal):
        self.db = sqlite3.connect(database, timeout=60, isolation_level=None)
        self.db.execute("PRAGMA foreign_keys=ON")
        self.name, self.random, self.n = name, random.Random(seed), 0
        self.journal = open(journal, "a")
        self.have = set()

    def text(self, key):
        self.n += 1
        return f"{key} {self.name} {self.n} " + "x" * (LARGE if self.random.randrange(400) == 0 else self.random.randrange(200))

    def write_own(self):
        table, column = (("memory_records", "body"), ("memories", "content"))[self.random.randrange(4) == 0]
        key = f"{self.name}-{self.random.randrange(KEYS)}"
        if (table, key) in self.have and self.random.randrange(4) == 0:
            self.db.execute(f"DELETE FROM {table} WHERE id = ?", (key,))
            self.have.discard((table, key))
            return table, key, ""
        text = self.text(key)
        if (table, key) in self.have:
            self.db.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (text, key))
        else:
            self.db.execute(f"INSERT INTO {table}(id, {column}) VALUES (?, ?)", (key, text))
            self.have.add((table, key))
        return table, key, text

    def write_shared(self):
        key = f"s{self.random.randrange(SHARED)}"
        text = self.text(key)
        self.db.execute("INSERT INTO sessions(id, agent, title) VALUES (?, 'any', ?) "
                        "ON CONFLICT(id) DO UPDATE SET title = excluded.title", (key, text))
        return "sessions", key, text

    def transaction(self):
        self.db.execute("BEGIN IMMEDIATE")
        done = [self.write_own() for _ in range(self.random.randrange(1, 12))]
        if self.random.randrange(3) == 0:
            done.append(self.write_shared())
        self.db.execute("COMMIT")
        self.journal.write("".join("\t".join(d) + "\n" for d in done))

    def run(self):
        while True:
            self.transaction()
            if not select.select([sys.stdin], [], [], self.random.random() * 0.02)[0]:
                continue
            self.journal.flush()
            print("paused", flush=True)
            if sys.stdin.readline() == "" or sys.stdin.readline() == "":
                return


class Writing:
    """The writer of a device, seen from here."""

    def __init__(self, device, seed):
        self.journal = device.folder / "journal"
        self.process = subprocess.Popen(
            [sys.executable, "-B", __file__, "--writer", device.path, device.folder.name, str(seed), self.journal],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def pause(self):
        self.process.stdin.write("pause\n")
        assert self.process.stdout.readline() == "paused\n", "the writer ended"

    def go(self):
        self.process.stdin.write("go\n")

    def end(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def rows(self):
        return [line.split("\t") for line in self.journal.read_text().splitlines()]


class Kill(ClawTest):
    def setUp(self):
        super().setUp()
        self.writers = []
        seed = options.seed if options.seed is not None else random.randrange(1 << 32)
        print(f"seed {seed}, {options.kills} kills of clients and of the hub", file=sys.stderr)
        self.random = random.Random(seed)
        self.workspace_of(2)

    def tearDown(self):
        for w in self.writers:
            w.end()
        super().tearDown()

    def batches(self):
        with contextlib.closing(self.hub.database()) as db:
            return db.execute("SELECT count(*) FROM log").fetchone()[0]

    def some_progress(self):
        """Most kills come when something moved since the last one; the others come when they come."""
        if self.random.randrange(4) > 0:
            before = self.batches()
            wait_until(lambda: self.batches() > before, lambda: "the log grows\n" + "\n".join(
                f"{d.status()}\n{d.daemon_log()[-2000:]}" for d in self.devices))
        time.sleep(self.random.random() * 0.05)  # the random point

    def kill_client(self):
        d = self.random.choice(self.devices)
        self.assertEqual(d.stop(signal.SIGKILL), -signal.SIGKILL, d.daemon_log()[-2000:])  # it had not ended by itself
        d.start(**SETTINGS)

    def kill_hub(self):
        self.assertEqual(self.hub.stop(signal.SIGKILL), -signal.SIGKILL)
        self.hub.spawn()
        if self.random.randrange(4) > 0:
            self.hub.wait_ready()

    def check_rows(self):
        """Each device has of each writer's rows what was committed last, and of the shared ones something that was written."""
        own, written = {}, {}
        for w in self.writers:
            for table, key, text in w.rows():
                if table == "sessions":
                    written.setdefault(key, set()).add(text)
                else:
                    own[table, key] = text
        want = {k: text for k, text in own.items() if text}
        for d in self.devices:
            have = {("memory_records", k): v for k, v in d.query("SELECT id, body FROM memory_records")} | \
                {("memories", k): v for k, v in d.query("SELECT id, content FROM memories")}
            wrong = sorted(k for k in want.keys() | have.keys() if want.get(k) != have.get(k))
            self.assertEqual(wrong, [], f"rows of {d.folder.name}")
            for key, title in d.query("SELECT id, title FROM sessions"):
                self.assertIn(title, written[key])
        return len(own), sum(1 for w in self.writers for _ in w.rows())

    def rest(self):
        """The writers pause: all comes to rest by itself, is equal, whole, and complete."""
        for w in self.writers:
            w.pause()
        self.hub.wait_ready()
        self.wait_equal(self.devices)
        for d in self.devices:
            s = d.status()
            self.assertEqual((s["set_aside"], s["hidden_rows"]), (0, 0))
        with contextlib.closing(self.hub.database()) as db:
            self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
            self.assertEqual(db.execute("SELECT max(number) - count(*) FROM log").fetchone(), (0,))
        numbers = self.check_rows()
        for w in self.writers:
            w.go()
        return numbers

    def test_random_kills_under_load(self):
        kills = [self.kill_client, self.kill_hub] * options.kills
        self.random.shuffle(kills)
        for d in self.devices:
            d.start(**SETTINGS)
            self.writers.append(Writing(d, self.random.randrange(1 << 32)))
        began = time.monotonic()
        for n, kill in enumerate(kills, 1):
            self.some_progress()
            kill()
            if n % REST_EVERY == 0 and n < len(kills):
                self.rest()
        keys, rows = self.rest()
        print(f"{kills.count(self.kill_client)} kills of clients, {kills.count(self.kill_hub)} of the hub in "
              f"{time.monotonic() - began:.0f} s; {rows} committed changes of {keys} rows and {self.batches()} batches: "
              "0 lost, 0 stalls", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--writer"]:
        Writer(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]).run()
        sys.exit(0)
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=options.kills)
    parser.add_argument("--seed", type=int)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    main()
