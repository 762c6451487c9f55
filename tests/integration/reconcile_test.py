"""reconcile and prove with the real programs: what is written behind our back is found, and levelled or raised."""
import contextlib
import json
import shutil
import sqlite3

from claw import *

ROWS = 400


@contextlib.contextmanager
def unseen(device):
    """A connection whose writes no trigger of ours sees."""
    with device.connect() as db:
        db.execute("BEGIN IMMEDIATE")
        triggers = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '%sync%'").fetchall()
        assert triggers
        for name, _ in triggers:
            db.execute(f'DROP TRIGGER "{name}"')
        yield db
        for _, sql in triggers:
            db.execute(sql)
        db.execute("COMMIT")


class ReconcileTest(ClawTest):
    def setUp(self):
        super().setUp()
        self.a, self.b = self.workspace_of(2)
        with self.a.connect() as db:
            db.execute("BEGIN")
            db.executemany("INSERT INTO memory_records(id, body) VALUES (?, ?)",
                           ((f"r{i:03}", f"the body of row {i:03}") for i in range(ROWS)))
            db.execute("COMMIT")
        self.settle([self.a, self.b])

    def reconcile(self, device, want=0):
        return json.loads(device.claw("reconcile", "--json", want=want).stdout)

    def prove(self, device, want=0):
        return json.loads(device.claw("prove", "--json", want=want).stdout)

    def audit(self, device):
        rows = [json.loads(x) for x in device.claw("audit", "export").stdout.splitlines()]
        return [r for r in rows if r["event_type"] == "RECONCILE"]

    def in_turn(self, devices):
        """By hand, until a round of all of them finds nothing: nobody runs a daemon."""
        for _ in range(6):
            done = [self.reconcile(d, want=None) for d in devices]
            if all(r["equal"] == len(devices) - 1 for r in done[1:]):
                break
        self.assert_equal(devices)
        self.assertEqual(len({self.prove(d)["root"] for d in devices}), 1)
        return done

    def body(self, device, row):
        return device.value("SELECT body FROM memory_records WHERE id = ?", row)


class ByHand(ReconcileTest):
    def test_equal_devices_sign_one_root(self):
        first = self.prove(self.a, want=1)  # the other has not signed anything
        self.assertEqual((first["equal"], first["offline"], first["differing"]), (0, 1, 0))
        self.assertIn("NOT PROVEN", self.a.claw("prove", want=1).stdout)
        second = self.prove(self.b)
        self.assertEqual((second["root"], second["rows"], second["log_number"], second["equal"]),
                         (first["root"], ROWS, first["log_number"], 1))
        self.assertIn("EQUAL", self.a.claw("prove").stdout)
        self.assertEqual(self.a.claw("prove", "--quiet").stdout, "")
        self.assertEqual(self.audit(self.a) + self.audit(self.b), [])  # nothing was found
        self.a.sql("UPDATE memory_records SET body = 'newer' WHERE id = 'r001';")
        third = self.prove(self.a, want=1)  # of another number: what the other signed says nothing of it
        self.assertNotEqual(third["root"], first["root"])
        self.assertEqual((third["equal"], third["offline"]), (0, 1))
        self.assertEqual(self.prove(self.b)["root"], third["root"])

    def test_one_device_alone_has_nobody_to_compare_with(self):
        hub = self.hub.endpoint
        alone = Device(self.folder / "z", str(uuid.uuid4()), hub)
        self.devices.append(alone)
        alone.sql("INSERT INTO memory_records(id, body) VALUES ('x', 'y');")
        self.assertIn("no other device", alone.claw("reconcile").stdout)
        self.assertEqual(self.prove(alone)["rows"], 1)

    def test_rows_removed_added_and_changed_unseen(self):
        with unseen(self.b) as db:
            db.execute("DELETE FROM memory_records WHERE id = 'r006'")
            db.execute("INSERT INTO memory_records(id, body) VALUES ('new', 'unseen')")
            db.execute("UPDATE memory_records SET title = 'unseen' WHERE id = 'r007'")  # it had none
            db.execute("UPDATE memory_records SET body = 'zzz' WHERE id = 'r008'")  # the larger one
            db.execute("UPDATE memory_records SET body = 'aaa' WHERE id = 'r009'")  # the smaller one
        self.a.sql("UPDATE memory_records SET title = 'pending at a' WHERE id = 'r010';")
        self.b.sql("UPDATE memory_records SET title = 'pending at b' WHERE id = 'r011';")
        self.assertEqual(self.a.claw("conflicts", "list", "--json").stdout.count('"manual"'), 0)
        self.reconcile(self.a)
        found = self.reconcile(self.b)
        self.assertGreater(found["sealed"], 0)
        self.in_turn([self.a, self.b])
        for d in (self.a, self.b):
            self.assertEqual(d.value("SELECT count(*) FROM memory_records WHERE id = 'r006'"), 0)
            self.assertEqual(self.body(d, "new"), "unseen")
            self.assertEqual(self.body(d, "r008"), "zzz")
            self.assertEqual(self.body(d, "r009"), "the body of row 009")
            self.assertEqual(d.value("SELECT title FROM memory_records WHERE id = 'r010'"), "pending at a")
            self.assertEqual(d.value("SELECT title FROM memory_records WHERE id = 'r011'"), "pending at b")
        # two values under one stamp: a person decides, and nothing is lost
        raised = self.a.claw("conflicts", "list").stdout + self.b.claw("conflicts", "list").stdout
        for text in ("r008", "the body of row 008", "r009", "aaa", "manual"):
            self.assertIn(text, raised)
        self.assertGreater(len(self.audit(self.b)), 0)
        self.assertEqual(self.b.claw("audit", "verify").returncode, 0)

    def test_an_edit_of_a_row_that_is_removed_unseen(self):
        """It waits for values that are gone."""
        self.b.sql("UPDATE memory_records SET title = 'pending' WHERE id = 'r012';")
        self.b.claw("sync", CLAW_HUB_ENDPOINT="http://127.0.0.1:9", CLAW_MAX_RETRIES=0, want=3)  # it has a version now
        with unseen(self.b) as db:
            db.execute("DELETE FROM memory_records WHERE id = 'r012'")
        self.reconcile(self.b)
        self.in_turn([self.a, self.b])
        for d in (self.a, self.b):
            self.assertEqual(d.value("SELECT count(*) FROM memory_records WHERE id = 'r012'"), 0)
        self.assertEqual(json.loads(self.b.claw("status", "--json").stdout)["unsent"], 0)

    def test_a_flipped_bit(self):
        with contextlib.closing(sqlite3.connect(self.b.path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        data = bytearray(self.b.path.read_bytes())
        at = data.find(b"the body of row 123")
        self.assertGreater(at, 0)
        data[at] ^= 2
        self.b.path.write_bytes(data)
        self.assertEqual(self.body(self.b, "r123"), "vhe body of row 123")
        self.prove(self.a, want=1)
        proof = self.prove(self.b, want=1)
        self.assertEqual((proof["differing"], proof["first_difference"]), (1, {"table": "memory_records", "key": "r123"}))
        self.assertIn("r123", self.b.claw("prove", want=1).stdout)
        self.assertEqual(self.body(self.b, "r123"), "vhe body of row 123")  # proving heals nothing
        self.in_turn([self.a, self.b])
        raised = self.a.claw("conflicts", "list").stdout + self.b.claw("conflicts", "list").stdout
        self.assertIn("r123", raised)

    def test_an_old_database(self):
        with contextlib.closing(sqlite3.connect(self.b.path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(self.b.path, self.folder / "backup.db")
        self.a.sql("UPDATE memory_records SET body = 'newer' WHERE id < 'r100'; DELETE FROM memory_records WHERE id > 'r390';")
        self.b.sql("INSERT INTO memory_records(id, body) VALUES ('of b', 'sent');")
        self.settle([self.a, self.b])
        for suffix in ("-wal", "-shm"):
            self.b.path.with_name(self.b.path.name + suffix).unlink(missing_ok=True)
        shutil.copy(self.folder / "backup.db", self.b.path)
        self.b.sql("UPDATE memory_records SET title = 'behind the backup' WHERE id = 'r200';")
        self.in_turn([self.a, self.b])
        self.assertEqual(self.body(self.b, "of b"), "sent")
        self.assertEqual(self.a.value("SELECT title FROM memory_records WHERE id = 'r200'"), "behind the backup")

    def test_rows_of_an_old_copy_under_our_versions(self):
        with contextlib.closing(sqlite3.connect(self.b.path)) as db:
            db.execute("CREATE TABLE keep AS SELECT * FROM memory_records WHERE id BETWEEN 'r050' AND 'r059'")
            db.commit()
        self.a.sql("UPDATE memory_records SET body = 'newer' WHERE id BETWEEN 'r050' AND 'r059';")
        self.settle([self.a, self.b])
        with unseen(self.b) as db:
            db.execute("UPDATE memory_records SET body = (SELECT body FROM keep WHERE keep.id = memory_records.id) "
                       "WHERE id IN (SELECT id FROM keep)")
        self.reconcile(self.a)
        found = self.reconcile(self.b)
        self.assertEqual((found["conflicting"], found["missing_here"], found["missing_there"]), (10, 0, 0))
        self.in_turn([self.a, self.b])
        raised = self.a.claw("conflicts", "list").stdout + self.b.claw("conflicts", "list").stdout
        self.assertIn("newer", raised)

    def test_versions_of_ours_are_lost(self):
        with contextlib.closing(sqlite3.connect(self.b.path)) as db:  # and nobody knows why
            db.execute("DELETE FROM sync_rows WHERE key IN (SELECT key FROM sync_rows ORDER BY key LIMIT 3)")
            db.commit()
        self.in_turn([self.a, self.b])
        self.assertEqual(self.a.value("SELECT count(*) FROM memory_records"), ROWS)

    def test_a_table_that_is_paused(self):
        self.b.claw("pause", "memory_records")
        self.assertIn("resume", self.b.claw("reconcile", want=2).stderr)
        self.b.claw("resume")
        self.reconcile(self.b)

    def test_the_hub_is_away(self):
        self.hub.stop(signal.SIGKILL)
        self.a.claw("reconcile", want=3, CLAW_MAX_RETRIES=0)
        self.a.claw("prove", want=3, CLAW_MAX_RETRIES=0)


class BesideDaemons(ReconcileTest):
    def test_beside_its_own_daemon(self):
        """The daemon of the very device does it for the command; also what was written behind its back."""
        for d in (self.a, self.b):
            d.start()
            wait_until(lambda d=d: "connected" in d.daemon_log(), d.daemon_log)
        done = self.reconcile(self.a)
        self.assertEqual((done["equal"], done["differing"], done["behind"], done["offline"]), (1, 0, 0, 0))
        with unseen(self.a) as db:
            db.execute("UPDATE memory_records SET body = 'zzz' WHERE id = 'r010'")
        proof = self.prove(self.a, want=1)
        self.assertEqual(proof["first_difference"], {"table": "memory_records", "key": "r010"})
        self.assertEqual({d["state"] for d in proof["devices"]}, {"this device", "differs"})
        status = json.loads(self.a.claw("status", "--json").stdout)  # knows better than to say that all is in sync
        self.assertEqual((status["state"], [(r["do"], r["reason"]) for r in status["needs_you"]]),
                         ("needs-you", [("claw-sync reconcile", "another device had other rows when last compared, "
                                         "here first in memory_records, key r010")]))
        self.assertEqual(self.reconcile(self.a)["equal"], 1)
        self.assertEqual([r["do"] for r in json.loads(self.a.claw("status", "--json").stdout)["needs_you"]],
                         ["claw-sync conflicts list, then claw-sync conflicts resolve ID"])  # two values under one version
        self.assertEqual(self.prove(self.b)["equal"], 1)
        self.wait_equal([self.a, self.b])
        self.assertEqual(self.body(self.b, "r010"), "zzz")
        both = [subprocess.Popen([CLIENT, "reconcile", "--json"], env=self.a.env(), stdout=subprocess.PIPE, text=True)
                for _ in range(2)]
        self.assertEqual([json.loads(p.communicate(timeout=PATIENCE)[0])["equal"] for p in both], [1, 1])
        self.hub.stop(signal.SIGKILL)
        wait_until(lambda: "disconnected" in self.a.daemon_log() or "offline" in self.a.daemon_log(), self.a.daemon_log)
        self.a.claw("reconcile", want=3)

    def test_what_was_signed_before(self):
        """Who is connected signs anew. Of who is not, the proof says when it signed, and not that nothing came since."""
        self.prove(self.a, want=1)
        self.prove(self.b)
        self.b.sql("UPDATE memory_records SET body = 'not sent' WHERE id = 'r001';")
        proof, = [d for d in self.prove(self.a)["devices"] if d["state"] != "this device"]
        self.assertEqual((proof["state"], proof["connected"]), ("equal", False))
        self.assertLess(abs(proof["signed_ms"] / 1000 - time.time()), PATIENCE)
        self.assertIn("not connected now, and what was edited there since is not in it", self.a.claw("prove").stdout)
        self.settle([self.a, self.b])
        self.prove(self.b, want=1), self.prove(self.a)
        self.b.sql("UPDATE sync_rows SET meta = x'0011' WHERE key = (SELECT min(key) FROM sync_rows);")
        self.b.start()  # and cannot read what it has
        wait_until(lambda: "connected" in self.b.daemon_log(), self.b.daemon_log)
        proof = self.prove(self.a, want=1)
        self.assertEqual((proof["equal"], proof["behind"]), (0, 1))
        self.b.stop()

    def test_beside_one_that_does_not_answer(self):
        self.a.start()
        wait_until(lambda: "connected" in self.a.daemon_log(), self.a.daemon_log)
        self.a.daemon.send_signal(signal.SIGSTOP)
        try:
            sync = subprocess.Popen([CLIENT, "sync"], env=self.a.env(), stderr=subprocess.PIPE, text=True)
            self.assertIn("stop it for this command, or", self.a.claw("prove", want=1).stderr)
            self.assertRegex(sync.communicate(timeout=PATIENCE)[1], rf"process {self.a.daemon.pid} .*; stop it for this command$")
            self.assertEqual(sync.returncode, 1)
        finally:
            self.a.daemon.send_signal(signal.SIGCONT)
        self.a.stop()
        self.prove(self.a, want=1)  # b is offline

    def test_the_others_daemons_do_their_part(self):
        c = self.device("c")
        self.join(self.a, c)
        self.settle([self.a, self.b, c])
        with unseen(self.b) as db:
            db.execute("DELETE FROM memory_records WHERE id = 'r006'")
            db.execute("UPDATE memory_records SET body = 'aaa' WHERE id = 'r009'")
        with unseen(c) as db:
            db.execute("UPDATE memory_records SET body = 'zzz' WHERE id = 'r010'")
        self.b.start()
        c.start()
        for d in (self.b, c):
            wait_until(lambda d=d: "connected" in d.daemon_log(), d.daemon_log)
        proof = self.prove(self.a, want=1)
        self.assertGreater(proof["differing"], 0)
        self.assertIn(proof["first_difference"]["key"], ("r009", "r010"))
        done = self.reconcile(self.a)
        self.assertEqual((done["equal"], done["differing"], done["behind"], done["offline"]), (2, 0, 0, 0))
        self.assertEqual(self.prove(self.a)["equal"], 2)
        self.wait_equal([self.b, c])
        self.b.stop()
        c.stop()
        self.assert_equal([self.a, self.b, c])
        self.assertEqual(self.body(self.a, "r010"), "zzz")
        self.assertEqual(self.a.value("SELECT count(*) FROM memory_records WHERE id = 'r006'"), 0)


if __name__ == "__main__":
    main()
