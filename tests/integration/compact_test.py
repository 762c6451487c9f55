"""compact with the real programs: snapshots in place of all that ever happened, and logs without their beginning."""
import json
import os
import time

from claw import *

ROWS = 300


class CompactTest(ClawTest):
    HUB = {"CLAW_SYNC_RETENTION_SECONDS": 0, "CLAW_SYNC_PRUNE_SECONDS": 1}

    def setUp(self):
        super().setUp()
        self.start_hub(**self.HUB)

    def fill(self, device, rows=ROWS):
        with device.connect() as db:
            db.execute("BEGIN")
            db.executemany("INSERT INTO memory_records(id, title, body) VALUES (?, 'first', ?)",
                           ((f"r{i:04}", f"the body of row {i:04}") for i in range(rows)))
            db.execute("COMMIT")
        device.sync()

    def churn(self, device, rounds=5, rows=ROWS):
        for k in range(rounds):
            device.sql(f"UPDATE memory_records SET title = 'title {k}' WHERE id < 'r{rows // 2:04}';"
                       f"DELETE FROM memory_records WHERE id = 'r{k:04}';")
            device.sync()

    def drop_column(self, *devices):
        for d in devices:
            d.claw("pause", "memory_records")
            d.sql("ALTER TABLE memory_records DROP COLUMN title;")
            d.claw("resume", "memory_records")

    def compact(self, device, want=0, **env):
        return json.loads(device.claw("compact", "--json", want=want, **env).stdout)

    def numbers(self):
        return self.hub.numbers("SELECT number FROM log ORDER BY number")

    def head(self, column="number"):
        return self.hub.numbers(f"SELECT {column} FROM workspace")[0]

    def wait_pruned_to(self, first):
        wait_until(lambda: self.numbers()[:1] == [first], lambda: f"log from {first}: {self.numbers()[:3]}")

    def root(self, device):
        done = device.claw("prove", "--json", want=None)
        return json.loads(done.stdout)["root"]

    def pruned_workspace(self, n=2):
        """n devices that have a churned state, and a log that begins at the snapshot."""
        devices = self.workspace_of(n)
        self.fill(devices[0])
        self.settle(devices)
        self.churn(devices[0])
        self.settle(devices)
        given = self.compact(devices[0])
        self.assertGreater(given["parts"], 0)
        self.assertEqual(given["attested"], False)
        attested = self.compact(devices[1])
        self.assertEqual((attested["parts"], attested["attested"], attested["served_number"]),
                         (0, True, given["log_number"]))
        self.wait_pruned_to(given["log_number"])
        return devices, given["log_number"]


class Pruning(CompactTest):
    def test_the_log_goes_and_a_new_device_has_all(self):
        (a, b), number = self.pruned_workspace()
        self.assertEqual(self.numbers(), [number])
        c = self.device("c")
        self.join(a, c)
        c.sync()
        self.assert_equal([a, b, c])
        self.assertEqual(len({self.root(d) for d in (a, b, c)}), 1)
        # and all of them go on
        for d in (a, b, c):
            d.sql(f"INSERT INTO memory_records(id, title) VALUES ('of {d.folder.name}', 'later');"
                  f"UPDATE memory_records SET body = 'by {d.folder.name}' WHERE id = 'r0200';")
        self.settle([a, b, c])
        self.assertEqual(c.value("SELECT count(*) FROM memory_records WHERE title = 'later'"), 3)
        self.assertEqual(len({self.root(d) for d in (a, b, c)}), 1)

    def test_nothing_goes_before_another_device_has_attested(self):
        a, b = self.workspace_of(2)
        self.fill(a)
        self.settle([a, b])
        before = self.numbers()
        given = self.compact(a)
        self.assertEqual((given["attested"], given["served_number"], given["pruned_number"]), (False, 0, 0))
        self.assertEqual(self.compact(a)["parts"], 0)  # it is there already
        self.assertEqual(self.numbers(), before)
        self.assertIn("there is nothing to do", a.claw("compact").stdout)
        c = self.device("c")  # takes the log
        self.join(a, c)
        c.sync()
        self.assert_equal([a, b, c])

    def test_one_device_alone_prunes_nothing(self):
        (a,) = self.workspace_of(1)
        self.fill(a)
        self.churn(a)
        before = self.numbers()
        given = self.compact(a)
        self.assertEqual((given["attested"], given["served_number"]), (False, given["log_number"]))
        self.assertEqual(self.numbers(), before)
        b = self.device("b")  # takes the snapshot, and then says that it has it
        self.join(a, b)
        b.sync()
        self.assert_equal([a, b])
        self.assertTrue(self.compact(b)["attested"])
        self.wait_pruned_to(given["log_number"])

    def test_a_device_that_reads_is_waited_for(self):
        a, b, c = self.workspace_of(3)
        self.fill(a)
        self.settle([a, b, c])
        c.sync()
        self.churn(a)
        self.settle([a, b])
        number = self.compact(a)["log_number"]
        self.compact(b)
        a.sync()
        b.sync()
        self.assertEqual(self.numbers()[0], 1)
        c.sync()
        self.wait_pruned_to(number)
        self.assert_equal([a, b, c])

    def test_a_second_snapshot(self):
        (a, b), first = self.pruned_workspace()
        self.churn(b, rounds=3, rows=100)
        self.settle([a, b])
        second = self.compact(b)["log_number"]
        self.assertGreater(second, first)
        self.assertTrue(self.compact(a)["attested"])
        self.wait_pruned_to(second)
        wait_until(lambda: self.hub.numbers("SELECT count(DISTINCT slot) FROM snapshot_part") == [1],
                   "the first snapshot's parts are gone")
        c = self.device("c")
        self.join(b, c)
        c.sync()
        self.assert_equal([a, b, c])


    def test_values_that_nobody_has(self):
        """A column that was dropped everywhere: what was in it is in no snapshot."""
        a, b = self.workspace_of(2)
        self.fill(a)
        self.settle([a, b])
        self.drop_column(a)
        self.assertIn("dropped columns", self.compact(a, want=2)["error"]["message"])
        b.claw("prove", want=1)  # b has them
        self.assertIn("dropped columns", self.compact(a, want=2)["error"]["message"])
        self.drop_column(b)
        self.settle([a, b])
        b.claw("prove", want=None)
        given = self.compact(a)
        self.assertGreater(given["parts"], 0)
        self.assertTrue(self.compact(b)["attested"])
        self.wait_pruned_to(given["log_number"])
        c = self.device("c")
        self.join(a, c)
        c.sync()
        self.assertEqual(self.root(c), self.root(a))
        self.assertEqual(c.value("SELECT count(*) FROM memory_records WHERE body IS NOT NULL AND title IS NULL"), ROWS)

    def test_values_that_the_only_device_dropped(self):
        a, = self.workspace_of(1)
        self.fill(a)
        self.drop_column(a)
        self.assertGreater(self.compact(a)["parts"], 0)


class ByItself(CompactTest):
    def test_daemons_compact(self):
        devices = self.workspace_of(3)
        for d in devices:
            d.start(CLAW_COMPACT_AFTER=20, CLAW_HEARTBEAT_INTERVAL_SECS=1)
        for d in devices:
            wait_until(lambda d=d: "connected" in d.daemon_log(), d.daemon_log)
        written = 0

        def more():
            nonlocal written
            written += 1
            devices[written % 3].sql(f"INSERT INTO memory_records(id, title) VALUES ('m{written}', 'x');"
                                     f"DELETE FROM memory_records WHERE id = 'm{written - 10}';")
            return self.numbers()[:1] > [1] and all(
                d.value("SELECT count(*) FROM sync_meta WHERE name = 'collected'") for d in devices)
        wait_until(more, lambda: f"pruned: {self.numbers()[:3]}, head {self.head()}")
        self.wait_equal(devices)
        d = self.device("d")
        for x in devices:
            x.stop()
        self.join(devices[0], d)
        d.sync()
        self.settle([*devices, d])

    def test_daemons_that_dropped_a_column(self):
        a, b = self.workspace_of(2)
        self.fill(a)
        self.settle([a, b])
        self.drop_column(a, b)
        for d in (a, b):
            d.start(CLAW_COMPACT_AFTER=5, CLAW_HEARTBEAT_INTERVAL_SECS=1)
        for d in (a, b):
            wait_until(lambda d=d: "connected" in d.daemon_log(), d.daemon_log)
        at = written = 0

        def more():  # the application rests now and then: what is due is tried at a heartbeat, and needs both at one place
            nonlocal at, written
            if written < 8 or time.monotonic() > at + 3:
                written += 1
                b.sql(f"UPDATE memory_records SET body = 'now {written}' WHERE id = 'r0001';")
                wait_until(lambda: a.value("SELECT body FROM memory_records WHERE id = 'r0001'") == f"now {written}", a.daemon_log)
                at = time.monotonic()
            return self.numbers()[:1] > [1]
        wait_until(more, lambda: f"pruned: {self.numbers()[:3]}, head {self.head()}: {a.daemon_log()}")
        self.wait_equal([a, b])

    def test_after_a_giver_that_died(self):
        """What it left half done keeps nobody from giving another one."""
        a, b = self.workspace_of(2)
        self.fill(a)
        self.settle([a, b])
        b.start(CLAW_COMPACT_AFTER=4, CLAW_HEARTBEAT_INTERVAL_SECS=1)
        wait_until(lambda: "connected" in b.daemon_log(), b.daemon_log)
        written = 0

        def given():
            nonlocal written
            written += 1
            b.sql(f"UPDATE memory_records SET body = 'now {written}' WHERE id = 'r0001';")
            wait_until(lambda: b.status()["unsealed"] + b.status()["unsent"] == 0, b.daemon_log)
            return self.hub.numbers("SELECT number FROM snapshot WHERE state = 2 AND changed_ms > 0")
        first = wait_until(given, b.daemon_log)
        with contextlib.closing(self.hub.database()) as db:  # as another one's that is being given
            db.execute("UPDATE snapshot SET state = 1, changed_ms = 0, device = X'01' || substr(device, 2), number = number - 1")
            db.commit()
        wait_until(given, lambda: f"after {first}, head {self.head()}: {b.daemon_log()}")

    def test_beside_a_daemon(self):
        a, b = self.workspace_of(2)
        self.fill(a)
        self.settle([a, b])
        for d in (a, b):
            d.start(CLAW_HEARTBEAT_INTERVAL_SECS=1)
        for d in (a, b):
            wait_until(lambda d=d: "connected" in d.daemon_log(), d.daemon_log)
        given = self.compact(a)
        self.assertGreater(given["parts"], 0)
        wait_until(lambda: self.numbers() == [given["log_number"]], lambda: f"pruned: {self.numbers()}")

    def test_switched_off(self):
        a, b = self.workspace_of(2)
        a.start(CLAW_COMPACT_AFTER=0, CLAW_HEARTBEAT_INTERVAL_SECS=1)
        wait_until(lambda: "connected" in a.daemon_log(), a.daemon_log)
        for i in range(30):
            b.sql(f"INSERT INTO memory_records(id, title) VALUES ('m{i}', 'x');")
            b.sync()
        self.wait_equal([a, b])
        self.assertEqual(self.hub.numbers("SELECT count(*) FROM snapshot"), [0])


class Collecting(CompactTest):
    DEAD = "SELECT count(*) FROM sync_rows WHERE ins IS NULL"

    def test_what_was_deleted_is_forgotten(self):
        (a, b), number = self.pruned_workspace()
        self.assertGreater(b.value(self.DEAD), 0)
        rows = a.value("SELECT count(*) FROM memory_records")
        second = self.compact(a)  # which collects first
        self.assertGreater(second["log_number"], number)
        self.assertEqual(a.value(self.DEAD), 0)
        self.settle([a, b])
        self.assertEqual(b.value(self.DEAD), 0)
        self.compact(b)
        self.wait_pruned_to(second["log_number"])
        c = self.device("c")
        self.join(a, c)
        c.sync()
        self.assertEqual(len({self.root(d) for d in (a, b, c)}), 1)
        self.assertEqual(c.value("SELECT count(*) FROM memory_records"), rows)
        self.assertEqual(c.value("SELECT count(*) FROM sync_rows WHERE del IS NOT NULL"), 0)
        before = self.head()
        a.sync()
        self.compact(a)
        self.assertEqual(self.head(), before)  # there is nothing to collect


    def dead_as_killed(self, device, *command):
        """How many tombstones it has after each kill, later each time, until it is through before that."""
        dead = []
        while len(dead) < 1000:
            with subprocess.Popen(device.command(CLIENT, *command), env=device.env(**preloaded("slow_sync")),
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                try:
                    self.assertEqual(process.wait(0.003 * len(dead)), 0)
                    return dead
                except subprocess.TimeoutExpired:
                    process.kill()
            device.check()
            dead.append(device.value(self.DEAD))
        self.fail("it never came to an end")

    def test_killed_while_they_forget(self):
        """Whoever collects, and whoever follows: each has forgotten all of it or nothing."""
        (a, b), _ = self.pruned_workspace()
        had = a.value(self.DEAD)
        self.assertGreater(had, 0)
        for d, command in ((a, "compact"), (b, "sync")):
            dead = self.dead_as_killed(d, command)
            self.assertGreater(len(dead), 5)
            self.assertEqual(dead, [n for n in dead if n == had] + [n for n in dead if n == 0])
            self.assertEqual(d.value(self.DEAD), 0)
        self.settle([a, b])
        self.compact(a)
        self.compact(b)
        self.wait_pruned_to(self.head())
        self.assertEqual(self.root(a), self.root(b))
        c = self.device("c")
        self.join(a, c)
        c.sync()
        self.assert_equal([a, b, c])
        self.assertEqual(c.value("SELECT count(*) FROM sync_rows WHERE del IS NOT NULL"), 0)


class Silent(CompactTest):
    HUB = CompactTest.HUB | {"CLAW_SYNC_SILENT_SECONDS": 1}

    def c_comes_back(self, a, b, c):
        """Deletes win over its edits, which are conflicts; the others stand."""
        c.sync()
        self.settle([a, b, c])
        self.assertEqual(len({self.root(d) for d in (a, b, c)}), 1)
        for d in (a, b, c):
            self.assertEqual(d.value("SELECT count(*) FROM memory_records WHERE id IN ('of c', 'r0001')"), 0)
            self.assertEqual(d.value("SELECT title FROM memory_records WHERE id = 'r0250'"), "unsent")
            self.assertEqual(d.value("SELECT title FROM memory_records WHERE id = 'new of c'"), "unsent")
        self.assertIn("r0001", c.claw("conflicts", "list", "--all", want=None).stdout + c.claw("conflicts", "list").stdout)

    def test_it_comes_back_with_its_edits(self):
        a, b, c = self.workspace_of(3)
        self.fill(a)
        self.settle([a, b, c])
        c.sql("INSERT INTO memory_records(id, title) VALUES ('of c', 'acknowledged');")
        self.settle([a, b, c])
        c.sql("UPDATE memory_records SET title = 'unsent' WHERE id IN ('r0001', 'r0250');"
              "INSERT INTO memory_records(id, title) VALUES ('new of c', 'unsent');")
        self.churn(a)  # deletes r0001 among others
        a.sql("DELETE FROM memory_records WHERE id = 'of c';")
        self.settle([a, b])
        number = self.compact(a)["log_number"]
        self.compact(b)
        wait_until(lambda: a.sync() and self.numbers()[0] == number, lambda: f"pruned: {self.numbers()[:2]}")
        self.c_comes_back(a, b, c)

    def test_it_comes_back_when_deletes_are_forgotten(self):
        a, b, c = self.workspace_of(3)
        self.fill(a)
        c.sql("INSERT INTO memory_records(id, title) VALUES ('of c', 'acknowledged');")
        self.settle([a, b, c])
        c.sql("UPDATE memory_records SET title = 'unsent' WHERE id IN ('r0001', 'r0250');"
              "INSERT INTO memory_records(id, title) VALUES ('new of c', 'unsent');")
        self.churn(a)
        a.sql("DELETE FROM memory_records WHERE id = 'of c';")
        for _ in range(2):  # the second one lacks what the first one had still to say was deleted
            self.settle([a, b])
            number = self.compact(a)["log_number"]
            self.compact(b)
            wait_until(lambda: a.sync() and self.numbers()[0] == number, lambda: f"pruned: {self.numbers()[:2]}")
        self.assertEqual(a.value("SELECT count(*) FROM sync_rows WHERE ins IS NULL"), 0)
        self.c_comes_back(a, b, c)


class Killed(CompactTest):
    """kill -9 in the middle of it: all come to rest by themselves, are equal, and somebody new can join."""
    BATCHES, STEP = 2600, 256  # in the log that is pruned; that one transaction takes out of it

    def setUp(self):
        super().setUp()
        self.a, self.b = self.workspace_of(2)

    def fill_large(self, rows=4000):
        """A state of several parts."""
        with self.a.connect() as db:
            db.execute("BEGIN")
            db.executemany("INSERT INTO memory_records(id, body) VALUES (?, ?)",
                           ((f"r{i:05}", os.urandom(1000).hex()) for i in range(rows)))
            db.execute("COMMIT")
        self.settle([self.a, self.b])

    def touch(self):
        """A batch more."""
        self.a.sql("UPDATE memory_records SET title = coalesce(title, '') || 'x' WHERE id = 'r00010';")

    def run_daemon(self, device, compact_after=0):
        device.start(CLAW_COMPACT_AFTER=compact_after, CLAW_HEARTBEAT_INTERVAL_SECS=1)

    def snapshots(self, where="1"):
        with contextlib.closing(self.hub.database()) as db:
            return db.execute(f"SELECT state, parts, number, device, attester FROM snapshot WHERE {where}").fetchall()

    def wait_snapshot(self, where):
        return wait_until(lambda: self.snapshots(where), lambda: f"{where}: {self.snapshots()}")[0]

    def wait_pruned(self, number):
        wait_until(lambda: self.numbers()[0] >= number and self.head("prune_to") == 0,
                   lambda: f"pruned to {number}: {self.numbers()[:2]}, to {self.head('prune_to')}, {self.snapshots()}")

    def check_hub(self):
        """What holds at any moment, also of a hub that has just died."""
        with contextlib.closing(self.hub.database()) as db:
            self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
            head, pruned, prune_to = db.execute("SELECT number, pruned, prune_to FROM workspace").fetchone()
            log = [r[0] for r in db.execute("SELECT number FROM log ORDER BY number")]
            chunks = [r[0] for r in db.execute("SELECT DISTINCT number FROM chunk ORDER BY number")]
            served = [r[0] for r in db.execute("SELECT number FROM snapshot WHERE state = 3 AND attestation <> x''")]
            stored = sum(db.execute(f"SELECT coalesce(sum(length(payload)), 0) FROM {t}").fetchone()[0]
                         for t in ("chunk", "snapshot_part"))
        self.assertEqual(log, list(range(pruned + 1, head + 1)))
        self.assertEqual(chunks, log)
        if pruned > 0:  # the batch of the snapshot's own number stays
            self.assertGreater(max(served), pruned)
        self.assertGreaterEqual(max(served, default=0), prune_to)
        self.assertEqual(self.head("bytes"), stored)  # so nothing was taken off twice
        return pruned

    def all_is_well(self, *others):
        """All go on, and stop; what they have is compared, and somebody new joins."""
        devices = [self.a, self.b, *others]
        for d in devices:
            d.sql(f"INSERT INTO memory_records(id, title) VALUES ('later', 'of all')"
                  f"  ON CONFLICT(id) DO UPDATE SET title = 'once more';"
                  f"INSERT INTO memory_records(id) VALUES ('of {d.folder.name}');")
        self.wait_equal(devices)
        for d in devices:
            self.assertEqual(d.stop(), 0, d.daemon_log()[-2000:])
        self.check_hub()
        new = self.device("new")
        self.join(self.b, new)
        new.sync()
        devices.append(new)
        self.settle(devices)
        for d in devices:
            d.claw("prove", "--quiet", want=None)
        for d in devices:
            self.assertEqual(json.loads(d.claw("prove", "--json").stdout)["equal"], len(devices) - 1)
        found = json.loads(self.a.claw("reconcile", "--json").stdout)
        self.assertEqual([found[x] for x in ("missing_here", "missing_there", "conflicting", "published")], [0] * 4)

    def test_who_gives(self):
        self.fill_large()
        self.run_daemon(self.b)
        died = 0
        for _ in range(20):
            before = self.snapshots("state = 1")
            self.run_daemon(self.a, compact_after=1)
            wait_until(lambda: self.snapshots(f"state > 0 AND parts > 0") not in ([], before),
                       lambda: f"it begins anew: {before}, {self.snapshots()}, {self.a.daemon_log()}")
            self.assertEqual(self.a.stop(signal.SIGKILL), -signal.SIGKILL)
            died += self.snapshots("state = 1") != []
            self.check_hub()
            if died == 2:
                break
            if self.snapshots("state > 1"):  # it was faster: there is to be another one
                self.touch()
        self.assertEqual(died, 2)
        self.run_daemon(self.a, compact_after=1)
        number = self.wait_snapshot("state = 3 AND attestation <> x''")[2]
        self.wait_pruned(number)
        self.all_is_well()

    def test_the_hub_as_it_prunes(self):
        self.hub.stop()
        self.hub.env |= preloaded("slow_sync")
        self.hub.start()
        self.fill(self.a, rows=100)
        self.settle([self.a, self.b])
        for d in (self.a, self.b):
            self.run_daemon(d)
            wait_until(lambda d=d: "connected" in d.daemon_log(), d.daemon_log)
        seen, stops = 0, set()
        for n in range(10):
            self.lengthen(n)
            with subprocess.Popen([CLIENT, "compact"], env=self.a.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
                seen, to = self.kill_as_it_prunes(seen)
                self.hub.start()
            while to > seen + 1:
                stops.add(seen)
                seen, to = self.kill_as_it_prunes(seen)
                self.hub.start()
            self.wait_pruned(seen + 1)
            if len(stops) > 1:
                break
        self.assertGreater(len(stops), 1)
        self.all_is_well()

    def lengthen(self, n):
        """By so many batches, of one row each."""
        self.b.stop()
        with self.b.connect() as db:
            db.execute("BEGIN")
            db.executemany("INSERT INTO memory_records(id) VALUES (?)", ((f"l{n}-{i:05}",) for i in range(self.BATCHES)))
            db.execute("COMMIT")
        self.b.claw("sync", CLAW_MAX_DELTA_ROWS=1)
        self.run_daemon(self.b)
        self.wait_equal([self.a, self.b])

    def kill_as_it_prunes(self, seen):
        """As soon as it has taken more out of the log. Returns the number up to which it has, and where it was going to."""
        until = time.monotonic() + PATIENCE
        with contextlib.closing(self.hub.database()) as db:  # without a pause: all of it takes milliseconds
            while db.execute("SELECT pruned FROM workspace").fetchone()[0] <= seen:
                self.assertLess(time.monotonic(), until, f"pruned beyond {seen}: {self.snapshots()}")
        self.assertEqual(self.hub.stop(signal.SIGKILL), -signal.SIGKILL)
        pruned, to = self.check_hub(), self.head("prune_to")
        self.assertGreater(pruned, seen)
        return pruned, to

    def test_who_joins_as_it_merges(self):
        self.fill_large()
        for d in (self.a, self.b):
            self.run_daemon(d)
            wait_until(lambda d=d: "connected" in d.daemon_log(), d.daemon_log)  # else the command would be in its way
        number = self.compact(self.a)["log_number"]
        self.wait_pruned(number)
        c = self.device("c")
        self.join(self.a, c)
        count, seen, died = "SELECT count(*) FROM memory_records", 0, 0
        for _ in range(20):
            self.run_daemon(c)
            wait_until(lambda: c.value(count) > seen, c.daemon_log)
            self.assertEqual(c.stop(signal.SIGKILL), -signal.SIGKILL)
            c.check()
            had, seen = seen, c.value(count)
            self.assertGreaterEqual(seen, had)
            if seen == 4000:
                break
            died += 1
            self.assertEqual(c.status()["log_number"], 0)  # what it has of the snapshot is no place in the log
            if died == 2:
                break
        self.assertGreater(died, 0)
        c.sql("UPDATE memory_records SET title = 'as it came' WHERE id = 'r00000';")
        self.run_daemon(c)
        self.wait_equal([self.a, self.b, c])
        self.assertEqual(self.a.value("SELECT title FROM memory_records WHERE id = 'r00000'"), "as it came")
        self.all_is_well(c)

    def test_who_attests(self):
        self.fill_large()
        self.run_daemon(self.a)
        wait_until(lambda: "connected" in self.a.daemon_log(), self.a.daemon_log)
        for where in ("state > 0", "state > 1", "state = 3"):  # begun: it reads its own; whole: it attests; attested
            self.run_daemon(self.b)
            wait_until(lambda: "connected" in self.b.daemon_log(), self.b.daemon_log)
            giving = subprocess.Popen(self.a.command(CLIENT, "compact", "--json"), env=self.a.env(),
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            number = self.wait_snapshot(f"{where} AND number > {self.head('pruned') + 1}")[2]
            self.assertEqual(self.b.stop(signal.SIGKILL), -signal.SIGKILL)
            giving.wait(PATIENCE)
            self.wait_snapshot(f"state > 1 AND number = {number}")
            self.check_hub()
            self.run_daemon(self.b)
            self.wait_snapshot(f"state = 3 AND attestation <> x'' AND number = {number}")
            self.wait_pruned(number)
            self.touch()
            self.wait_equal([self.a, self.b])
            self.b.stop()
        self.run_daemon(self.b)
        self.all_is_well()

class Hostile(CompactTest):
    """Each lie about a snapshot has its name, its exit code, a row in the audit log, and changes nothing in the database of
    whoever is lied to."""

    def state(self):
        with contextlib.closing(self.hub.database()) as db:
            return {t: db.execute(f"SELECT * FROM {t}").fetchall() for t in ("snapshot", "snapshot_part")}

    def put(self, state):
        with contextlib.closing(self.hub.database()) as db, db:
            for t, rows in state.items():
                db.execute(f"DELETE FROM {t}")
                db.executemany(f"INSERT INTO {t} VALUES ({','.join('?' * len(rows[0]))})", rows)

    def bend(self, *statements):
        with contextlib.closing(self.hub.database()) as db, db:
            for sql, *args in statements:
                self.assertGreater(db.execute(sql, args).rowcount, 0, sql)

    def flip(self, table, column, at, where):
        with contextlib.closing(self.hub.database()) as db, db:
            bent = bytearray(db.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()[0])
            bent[at] ^= 1
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (bytes(bent),))

    def everything(self, device):
        with device.connect() as db:
            ours = [r[0] for r in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'sync_*'"
                                             " AND name NOT IN ('sync_meta', 'sync_tables')")]
            return device.dump(), {t: sorted(map(repr, db.execute(f'SELECT * FROM "{t}"'))) for t in ours}

    def misbehaved(self, device):
        found = [json.loads(x) for x in device.claw("audit", "export").stdout.splitlines()]
        return {r["payload"]["finding"].split(":")[0] if "finding" in r["payload"] else str(r["payload"])
                for r in found if r["event_type"] == "HUB_MISBEHAVED"}

    def caught(self, device, name):
        before = self.everything(device)
        done = device.claw("sync", want=4)
        self.assertIn(name + ":", done.stderr)
        self.assertEqual(self.everything(device), before)

    def test_lies_about_snapshots(self):
        (a, b), number = self.pruned_workspace()
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'of another table');")
        self.settle([a, b])
        first = self.state()
        for i in range(3):  # the log is to begin behind what it is of
            a.sql(f"INSERT INTO memories(id, content) VALUES ('m{i}', 'more');")
            self.settle([a, b])
        number = self.compact(a)["log_number"]
        self.compact(b)
        self.wait_pruned_to(number)
        c = self.device("c")
        self.join(b, c)
        c.claw("sync", want=3, CLAW_HUB_ENDPOINT="http://127.0.0.1:9", CLAW_MAX_RETRIES=0)  # its tables are tracked now
        other = Device(self.folder / "z", str(uuid.uuid4()), self.hub.endpoint)
        self.devices.append(other)
        other.sql("INSERT INTO memories(id, content) VALUES ('theirs', 'x');")
        other.sync()
        other.claw("compact")
        honest, ours = self.state(), uuid.UUID(self.workspace).bytes
        ours_served = "workspace = x'%s' AND state = 3 AND number = %d" % (ours.hex(), number)
        lies = {
            "a forged description": ("BAD_SIGNATURE", lambda: self.flip("snapshot", "descriptor", -1, ours_served)),
            "another stamp in it": ("BAD_SIGNATURE", lambda: self.flip("snapshot", "descriptor", 90, ours_served)),
            "forged content": ("BAD_SNAPSHOT", lambda: self.flip("snapshot_part", "payload", 100, "part = 1 AND seq = 0")),
            "parts in another order": ("BAD_SNAPSHOT", lambda: self.bend(*(
                ("UPDATE snapshot_part SET part = ? WHERE part = ? AND workspace = ?", to, of, ours)
                for of, to in ((0, 77), (1, 0), (77, 1))))),
            "cut short": ("HUB_WITHHELD", lambda: self.bend(
                ("DELETE FROM snapshot_part WHERE workspace = ?1 AND part = (SELECT max(part) FROM snapshot_part "
                 "WHERE workspace = ?1)", ours))),
            "unattested": ("SNAPSHOT_UNATTESTED", lambda: self.bend(
                ("UPDATE snapshot SET attester = zeroblob(16), attestation = x'' WHERE " + ours_served,))),
            "attested by nobody": ("SNAPSHOT_UNATTESTED", lambda: self.flip("snapshot", "attestation", 50, ours_served)),
            "attested by its author": ("SNAPSHOT_UNATTESTED", lambda: self.bend(
                ("UPDATE snapshot SET attester = device WHERE " + ours_served,))),
            "of another workspace": ("WRONG_WORKSPACE", lambda: self.bend(
                ("UPDATE snapshot SET descriptor = (SELECT descriptor FROM snapshot WHERE workspace <> ?) WHERE " +
                 ours_served, ours))),
            "rolled back": ("HUB_ROLLBACK", lambda: self.put(first)),
            "none at all": ("HUB_WITHHELD", lambda: self.bend(("DELETE FROM snapshot",))),
        }
        for what, (name, lie) in lies.items():
            with self.subTest(what):
                lie()
                self.caught(c, name)
            self.put(honest)
        self.assertGreaterEqual(len(self.misbehaved(c)), 6)
        b.claw("devices", "revoke", a.status()["device_id"])
        with self.subTest("of a removed device, and the other one has not signed the description"):
            self.flip("snapshot", "attestation", -1, ours_served)
            self.caught(c, "NOT_A_MEMBER")
            self.flip("snapshot", "attestation", -1, ours_served)
        self.compact(b)  # who is there gives another one; with c it is two devices, and c cannot attest what it has not
        with contextlib.closing(self.hub.database()) as db:
            self.assertEqual(db.execute("SELECT count(*) FROM snapshot WHERE state = 2").fetchone()[0], 1)
        self.assertGreater(c.sync()["pulled"], 0)  # so it begins with the one that a gave and b attested
        self.settle([b, c])


if __name__ == "__main__":
    main()
