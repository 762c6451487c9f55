"""A hub that lost what it had: restored from a backup, emptied, under another key. One device refills it, the others follow."""
import contextlib, json, shutil, signal

from claw import *


class Refill(ClawTest):
    def setUp(self):
        super().setUp()
        self.a, self.b, self.c = self.workspace_of(3)
        self.put(self.a, "early")
        self.a.sql("INSERT INTO memories(id, content) VALUES ('gone', 'deleted later');")
        self.settle([self.a, self.b, self.c])

    def put(self, d, *ids):
        for i in ids:
            d.sql(f"INSERT INTO memories(id, content) VALUES ('{i}', 'of {d.folder.name}');")

    def ids(self, d):
        return sorted(r[0] for r in d.query("SELECT id FROM memories"))

    def backup(self, name="yesterday"):
        kept = self.folder / name
        with contextlib.closing(self.hub.database()) as db:
            db.execute("VACUUM INTO ?", (str(kept),))
        return kept

    def restore(self, kept):
        """Killed, and its database is the backup's."""
        self.hub.stop(signal.SIGKILL)
        for f in (self.hub.folder / "data").glob("hub.db*"):
            f.unlink()
        if kept is not None:
            shutil.copy(kept, self.hub.folder / "data" / "hub.db")
        self.hub.start()

    def lose(self, key=False):
        """Killed, and nothing of it is left; with the key neither."""
        self.hub.stop(signal.SIGKILL)
        for f in (self.hub.folder / "data").iterdir():
            if key or f.name.startswith("hub.db"):
                f.unlink()
        self.hub.start()

    HERE = "claw-sync hub refill"
    ELSEWHERE = "claw-sync hub refill, on a device that joined earlier; here, if the hub has nothing left"

    def needs_you(self, d, finding, command=HERE):
        before = d.dump()
        done = d.claw("sync", want=4)
        self.assertIn(finding, done.stderr)
        self.assertIn(command, done.stderr)
        status = json.loads(d.claw("status", "--json").stdout)
        self.assertEqual(status["state"], "needs-you")
        named = [r["do"] for r in status["needs_you"]]
        self.assertIn(command, named)
        if command == self.ELSEWHERE:
            self.assertNotIn(self.HERE, named)
        self.assertIn(finding, status["needs_you"][0]["reason"])
        self.assertEqual(d.dump(), before)

    def newcomer(self, by, name):
        d = self.device(name)
        self.join(by, d)
        d.sync()
        return d

    def no_conflicts(self, *devices):
        for d in devices:
            self.assertEqual(json.loads(d.claw("conflicts", "list", "--json").stdout)["conflicts"], [], d.folder.name)

    def test_a_restored_hub(self):
        kept = self.backup()
        self.put(self.a, "late a"), self.put(self.b, "late b")
        self.a.sql("UPDATE memories SET content = 'edited' WHERE id = 'early'; DELETE FROM memories WHERE id = 'gone';")
        self.settle([self.a, self.b, self.c])
        self.restore(kept)
        for d in (self.a, self.b, self.c):
            self.needs_you(d, "HUB_ROLLBACK")
        self.put(self.b, "meanwhile b"), self.put(self.c, "meanwhile c")
        self.assertIn("new log", self.a.claw("hub", "refill").stdout)
        self.assertIn("refilled by another device", self.b.claw("sync").stderr)
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.a), ["early", "late a", "late b", "meanwhile b", "meanwhile c"])
        self.assertEqual(self.b.value("SELECT content FROM memories WHERE id = 'early'"), "edited")
        self.no_conflicts(self.a, self.b, self.c)
        d = self.newcomer(self.c, "d")
        self.settle([self.a, self.b, self.c, d])
        self.assertEqual(self.ids(d), self.ids(self.a))
        for x in (self.a, self.b, self.c, d):
            self.assertEqual(json.loads(x.claw("status", "--json").stdout)["state"], "in-sync")

    def test_nothing_to_do(self):
        self.assertIn("nothing to do", self.a.claw("hub", "refill").stdout)
        self.assertIn("nothing to accept", self.a.claw("hub", "accept", want=2).stderr)

    def test_a_paused_table(self):
        """What is in it could not be sent: that is told before the hub's log is ended."""
        kept = self.backup()
        self.put(self.a, "late")
        self.settle([self.a, self.b, self.c])
        for lose, finding in ((lambda: self.restore(kept), "HUB_ROLLBACK"), (self.lose, "HUB_LOST")):
            lose()
            self.a.claw("pause", "memories")
            for _ in range(2):
                self.assertIn("is paused", self.a.claw("hub", "refill", want=2).stderr)
            self.assertIn(finding, self.b.claw("sync", want=4).stderr)  # and not LOG_REPLACED
            self.assertNotIn("not finished", self.a.claw("status").stdout)
            self.a.claw("resume", "memories")
            self.a.claw("hub", "refill")
            self.settle([self.a, self.b, self.c])

    def test_a_second_refill(self):
        for n in range(3):
            kept = self.backup(f"backup{n}")
            self.put([self.a, self.b, self.c][n], f"late{n}")
            self.settle([self.a, self.b, self.c])
            self.restore(kept)
            self.needs_you(self.c, "HUB_ROLLBACK")
            [self.b, self.c, self.a][n].claw("hub", "refill")
            self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.b), ["early", "gone", "late0", "late1", "late2"])
        self.settle([self.a, self.b, self.c, self.newcomer(self.a, "d")])

    def test_a_backup_from_before_a_refill(self):
        kept = self.backup()
        self.put(self.a, "late")
        self.settle([self.a, self.b, self.c])
        self.restore(kept)
        self.needs_you(self.a, "HUB_ROLLBACK")
        self.a.claw("hub", "refill")
        self.settle([self.a, self.b, self.c])
        self.restore(kept)
        self.needs_you(self.b, "LOG_REPLACED")
        self.b.claw("hub", "refill")
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.c), ["early", "gone", "late"])

    def test_an_emptied_hub(self):
        self.put(self.b, "late")
        self.settle([self.a, self.b, self.c])
        self.lose()
        self.needs_you(self.a, "HUB_LOST")  # which made the workspace: no hub has that without it
        for d in (self.b, self.c):
            self.needs_you(d, "HUB_LOST", self.ELSEWHERE)
        self.put(self.c, "meanwhile")
        self.b.claw("hub", "refill")  # which did not make the workspace
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.a), ["early", "gone", "late", "meanwhile"])
        d = self.newcomer(self.a, "d")
        self.settle([self.a, self.b, self.c, d])

    def test_an_emptied_hub_under_another_key(self):
        self.lose(key=True)
        for d in (self.a, self.b, self.c):
            self.needs_you(d, "HUB_KEY_CHANGED", "claw-sync hub accept")
        key = [x for x in self.hub.log.read_text().splitlines() if " key " in x][0].rsplit(" ", 1)[1]
        shown = self.a.claw("hub", "accept", want=2).stderr
        self.assertIn(key, shown)
        self.assertIn('"AAAA-BBBB-CCCC-DDDD" is not this hub', self.a.claw("hub", "accept", "AAAA-BBBB-CCCC-DDDD", want=2).stderr)
        self.needs_you(self.a, "HUB_KEY_CHANGED", "claw-sync hub accept")
        self.a.claw("hub", "accept", key)
        self.needs_you(self.a, "HUB_LOST")
        self.a.claw("hub", "refill")
        self.needs_you(self.b, "HUB_KEY_CHANGED", "claw-sync hub accept")  # each person says so
        for d in (self.b, self.c):
            d.claw("hub", "accept", key.lower())
        self.settle([self.a, self.b, self.c])
        self.settle([self.a, self.b, self.c, self.newcomer(self.b, "d")])

    def test_what_only_others_know(self):
        """The device that refills has not seen all: the others bring it, also of one that is gone for good."""
        kept = self.backup()
        self.put(self.c, "of the lost"), self.c.sync()
        self.put(self.b, "late"), self.b.sync()  # and has what c sent
        shutil.rmtree(self.c.folder)
        self.restore(kept)
        self.put(self.a, "of a"), self.a.sync()  # a notices nothing, and grows another log
        self.needs_you(self.b, "HUB_ROLLBACK")
        self.b.claw("hub", "refill")
        self.settle([self.a, self.b])
        self.assertEqual(self.ids(self.a), ["early", "gone", "late", "of a", "of the lost"])

    def test_stamps_ahead_that_only_another_has_seen(self):
        """The hub's clock was a year ahead. What it took then the new log takes, too, though whoever began that had not heard of it."""
        self.hub.with_clock(365 * 86400)
        with self.b.connect() as db:
            db.execute("UPDATE sync_meta SET value = ? WHERE name = 'hlc'", ((int(time.time() * 1000) + 364 * 86400 * 1000) << 16,))
        self.put(self.b, "ahead"), self.b.sync()
        self.hub.with_clock(0)
        self.lose()
        self.a.claw("hub", "refill")
        self.put(self.b, "later"), self.b.sync()
        self.b.sql("UPDATE memories SET content = 'newest' WHERE id = 'ahead';")
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.c), ["ahead", "early", "gone", "later"])
        self.assertEqual(self.c.value("SELECT content FROM memories WHERE id = 'ahead'"), "newest")

    def test_a_hub_that_was_written_to_before_anybody_looked(self):
        """To the device that knows more that is a hub with two logs; what it says names the refill, too."""
        kept = self.backup()
        self.put(self.a, "late"), self.a.sync()
        self.restore(kept)
        self.put(self.b, "of b"), self.b.sync()
        self.needs_you(self.a, "HUB_FORK", "claw-sync verify-heads, here and on another device; "
                       "where the hub was restored from a backup, claw-sync hub refill")
        self.a.claw("hub", "refill")
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.c), ["early", "gone", "late", "of b"])

    def test_the_one_that_knows_least(self):
        kept = self.backup()
        self.put(self.c, "of c"), self.c.sync()
        self.a.sync()  # a has seen it, b has not
        shutil.rmtree(self.c.folder)
        self.put(self.b, "of b"), self.b.claw("push")  # b knows only that the log is longer
        self.restore(kept)
        self.needs_you(self.b, "HUB_ROLLBACK")
        self.b.claw("hub", "refill")
        self.settle([self.a, self.b])
        self.assertEqual(self.ids(self.b), ["early", "gone", "of b", "of c"])

    def test_what_only_the_restored_hub_has(self):
        """Batches that nobody but the hub has any more are taken from it before its log is dropped."""
        self.put(self.c, "of the lost"), self.c.sync()
        shutil.rmtree(self.c.folder)
        kept = self.backup()
        self.put(self.b, "late"), self.b.claw("push")
        self.restore(kept)
        self.needs_you(self.b, "HUB_ROLLBACK")
        self.b.claw("hub", "refill")
        self.settle([self.a, self.b])
        self.assertEqual(self.ids(self.a), ["early", "gone", "late", "of the lost"])

    def one_number_twice(self):
        """b never heard that a batch of its was taken, and sends another under its number to the restored hub. a knows the first."""
        kept, saved = self.backup(), self.folder / "saved"
        shutil.copytree(self.b.folder, saved)
        self.put(self.b, "lost")
        self.b.claw("push")
        self.a.sync()
        self.restore(kept)
        shutil.rmtree(self.b.folder)
        shutil.copytree(saved, self.b.folder)
        self.put(self.b, "other")
        self.b.claw("push")

    def test_one_number_with_two_contents(self):
        self.one_number_twice()
        for i in range(3):
            self.put(self.c, f"more {i}")
            self.c.claw("push")
        self.assertRegex(self.a.claw("sync", want=4).stderr, "HUB_FORK|BATCH_FORK")
        self.assertIn("new log", self.a.claw("hub", "refill").stdout)
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.a), ["early", "gone", "lost", "more 0", "more 1", "more 2", "other"])
        self.assertEqual(self.ids(self.newcomer(self.c, "d")), self.ids(self.a))
        self.no_conflicts(self.a, self.b, self.c)

    def test_one_number_with_two_contents_and_nothing_left(self):
        """The hub has lost the second one when a refills it. b sees that a knows another one."""
        self.one_number_twice()
        self.lose()
        self.assertIn("new log", self.a.claw("hub", "refill").stdout)
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.c), ["early", "gone", "lost", "other"])

    def test_members_that_the_hub_forgot(self):
        kept = self.backup()
        d = self.newcomer(self.a, "d")
        self.put(d, "of d")
        self.a.claw("devices", "revoke", self.c.value("SELECT lower(hex(substr(value, 17, 16))) FROM sync_meta WHERE name = 'identity'")[:8])
        self.settle([self.a, self.b, d])
        self.restore(kept)
        self.needs_you(d, "HUB_LOST", self.ELSEWHERE)
        self.needs_you(self.a, "HUB_ROLLBACK")
        refused = d.claw("hub", "refill", want=1)  # it cannot prove who it is there
        self.assertIn("hub refill on a device that joined earlier", refused.stderr)
        self.needs_you(d, "HUB_LOST", self.ELSEWHERE)  # and nothing was begun that it could finish
        self.a.claw("hub", "refill")
        self.settle([self.a, self.b, d])
        self.assertEqual(self.ids(d), ["early", "gone", "of d"])
        self.assertIn("not a member of the workspace any more", self.c.claw("sync", want=1).stderr)

    def test_a_member_that_nobody_else_had_heard_of(self):
        """Its entry was on the hub alone, and others come after it: it comes once more, with all that it has."""
        kept = self.backup()
        d = self.newcomer(self.a, "d")
        self.put(d, "of d")
        d.sync()
        self.restore(kept)
        self.put(d, "unsent")
        self.a.claw("hub", "refill")
        self.settle([self.a, self.b, self.c])
        self.needs_you(d, "HUB_LOST", self.ELSEWHERE)
        self.assertIn("claw-sync identity new, then claw-sync join CODE", d.claw("hub", "refill", want=1).stderr)
        d.claw("identity", "new")
        self.join(self.b, d)
        self.settle([self.a, self.b, self.c, d])
        self.assertEqual(self.ids(self.a), ["early", "gone", "of d", "unsent"])
        self.no_conflicts(self.a, self.b, self.c, d)

    def test_what_such_a_member_had_sent_and_not_seen_again(self):
        """The hub had acknowledged it; nobody had pulled it, not even its device."""
        kept = self.backup()
        d = self.newcomer(self.a, "d")
        self.put(d, "of d")
        d.claw("push")
        self.restore(kept)
        self.a.claw("hub", "refill")
        self.settle([self.a, self.b, self.c])
        d.claw("hub", "refill", want=1)
        d.claw("identity", "new")
        self.join(self.b, d)
        self.settle([self.a, self.b, self.c, d])
        self.assertEqual(self.ids(self.a), ["early", "gone", "of d"])
        self.no_conflicts(self.a, self.b, self.c, d)

    def test_another_device_after_a_refill(self):
        """A device that followed the new log becomes another one: its chain begins where the log's do."""
        self.lose()
        self.a.claw("hub", "refill")
        self.settle([self.a, self.b, self.c])
        self.put(self.b, "unsent")
        self.b.claw("identity", "new")
        self.join(self.a, self.b)
        self.put(self.b, "of b")
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.a), ["early", "gone", "of b", "unsent"])
        self.no_conflicts(self.a, self.b, self.c)

    def test_a_lost_database_after_a_refill(self):
        """It has followed no log before this one, so that nothing was lost for it."""
        self.lose()
        self.a.claw("hub", "refill")
        self.settle([self.a, self.b, self.c])
        for f in self.b.folder.glob("memory.db*"):
            f.unlink()
        self.b.sql(SCHEMA)
        self.assertNotIn("had lost", self.b.claw("sync").stderr)
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.b), ["early", "gone"])

    def test_a_refill_that_was_refused_and_was_not_needed(self):
        """The hub was given a wrong backup for a while: nothing of the refused refill stays behind."""
        kept = self.backup()
        d = self.newcomer(self.a, "d")
        self.settle([self.a, self.b, self.c, d])
        right = self.backup("today")
        self.restore(kept)
        self.needs_you(d, "HUB_LOST", self.ELSEWHERE)
        d.claw("hub", "refill", want=1)
        self.restore(right)
        self.put(d, "of d")
        self.settle([self.a, self.b, self.c, d])
        self.assertEqual(self.ids(self.a), ["early", "gone", "of d"])

    def test_an_entry_that_whoever_refills_did_not_know(self):
        """Two memberships stand side by side, and a follows the other by nobody's word but its person's: it joins anew."""
        kept = self.backup()
        self.put(self.c, "of c"), self.c.sync()
        self.b.sync()
        self.a.claw("keys", "rotate")
        self.put(self.a, "of a"), self.a.sync()
        self.restore(kept)
        self.needs_you(self.b, "HUB_ROLLBACK")
        self.b.claw("hub", "refill")
        self.put(self.a, "meanwhile")
        self.needs_you(self.a, "LOG_REPLACED")
        out = "claw-sync identity new, then claw-sync join CODE"
        refused = self.a.claw("hub", "refill", want=None)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("MEMBER_FORK", refused.stderr)
        self.assertIn(out, refused.stderr)
        self.assertEqual([r["do"] for r in json.loads(self.a.claw("status", "--json").stdout)["needs_you"]], [out])
        for _ in range(2):
            self.b.claw("keys", "rotate")  # the other membership is longer now
        self.needs_you(self.a, "MEMBER_FORK", out)
        self.a.claw("identity", "new")
        self.join(self.b, self.a)
        self.settle([self.a, self.b, self.c])
        for x in (self.a, self.b, self.c):
            self.assertEqual(self.ids(x), ["early", "gone", "meanwhile", "of a", "of c"])

    def test_several_at_once(self):
        kept = self.backup()
        for d in (self.a, self.b, self.c):
            self.put(d, f"late {d.folder.name}")
        self.settle([self.a, self.b, self.c])
        self.restore(kept)
        running = [subprocess.Popen([CLIENT, "hub", "refill"], env=d.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                   for d in (self.a, self.b, self.c)]
        self.assertIn(0, [p.wait(PATIENCE) for p in running])
        for d in (self.a, self.b, self.c):
            d.claw("sync", want=None)
        self.settle([self.a, self.b, self.c])
        self.assertEqual(len(self.ids(self.a)), 5)

    def test_daemons_follow(self):
        kept = self.backup()
        self.put(self.a, "late")
        self.settle([self.a, self.b, self.c])
        for d in (self.b, self.c):
            d.start(CLAW_SYNC_INTERVAL_SECS=1, CLAW_RETRY_BASE_MS=20)
        self.restore(kept)
        wait_until(lambda: all("HUB_ROLLBACK" in d.daemon_log() for d in (self.b, self.c)), "NEEDS YOU")
        self.put(self.b, "meanwhile")
        self.a.claw("hub", "refill")
        self.a.start()
        self.wait_equal([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.c), ["early", "gone", "late", "meanwhile"])

    def test_a_restored_device_after_a_refill(self):
        """Hub and device go back at once: neither number nor stamp is used twice."""
        with self.c.connect() as db:
            db.execute("VACUUM INTO ?", (str(self.folder / "old.db"),))
        kept = self.backup()
        self.put(self.c, "forgotten")
        self.settle([self.a, self.b, self.c])
        self.restore(kept)
        self.needs_you(self.a, "HUB_ROLLBACK")
        self.a.claw("hub", "refill")
        for f in self.c.folder.glob("memory.db*"):
            f.unlink()
        shutil.copy(self.folder / "old.db", self.c.path)
        self.put(self.c, "new")
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.b), ["early", "forgotten", "gone", "new"])
        self.no_conflicts(self.a, self.b, self.c)

    def test_many_rows_and_a_kill(self):
        """Killed in the midst, the same command goes on; or another device does it instead."""
        kept = self.backup()
        self.a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
                   "INSERT INTO memory_records(id, title) SELECT 'r' || i, 'title ' || i FROM n;")
        self.settle([self.a, self.b, self.c])
        self.restore(kept)
        self.needs_you(self.a, "HUB_ROLLBACK")
        for who in (self.a, self.b):
            self.refill_in_part(who)
        self.assertIn("LOG_REPLACED", self.c.claw("sync", want=4).stderr)
        self.assertIn("claw-sync hub refill", [r["do"] for r in json.loads(self.b.claw("status", "--json").stdout)["needs_you"]])
        self.b.claw("hub", "refill")
        self.settle([self.a, self.b, self.c])
        self.settle([self.a, self.newcomer(self.c, "d")])

    def test_one_takes_over_from_another(self):
        """Whoever is at it when another begins is told so, and ends no log of the other's."""
        kept = self.backup()
        self.a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
                   "INSERT INTO memory_records(id, title) SELECT 'r' || i, 'title ' || i FROM n;")
        self.settle([self.a, self.b, self.c])
        self.restore(kept)
        a = self.refill_in_part(self.a, signal.SIGSTOP)
        self.refill_in_part(self.b)
        a.send_signal(signal.SIGCONT)
        self.assertIn("another device is at it", a.communicate(timeout=PATIENCE)[1])
        self.assertEqual(a.returncode, 1)
        self.assertIn("LOG_REPLACED", self.c.claw("sync", want=4).stderr)
        a = self.refill_in_part(self.a, signal.SIGSTOP)  # its person goes on with it
        self.b.claw("hub", "refill")
        a.send_signal(signal.SIGCONT)
        a.communicate(timeout=PATIENCE)
        self.assertEqual(a.returncode, 0)  # and it follows
        self.settle([self.a, self.b, self.c])

    def refill_in_part(self, who, how=signal.SIGKILL):
        p = subprocess.Popen([CLIENT, "hub", "refill"], env=who.env(CLAW_MAX_DELTA_ROWS=100, CLAW_MAX_RETRIES=2, CLAW_RETRY_BASE_MS=20),
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        with contextlib.closing(self.hub.database()) as db:
            was = db.execute("SELECT log_id FROM workspace").fetchone() or (0,)
            wait_until(lambda: p.poll() is not None or
                       db.execute("SELECT max(log_id != ? AND number > 3) FROM workspace", was).fetchone()[0], "a new log")
        p.send_signal(how)
        if how == signal.SIGKILL:
            p.communicate(timeout=PATIENCE)
        return p

    def test_a_log_that_only_one_device_used(self):
        """It goes on in the log that it began, and then follows another device's."""
        kept = self.backup()
        self.a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
                   "INSERT INTO memory_records(id, title) SELECT 'r' || i, 'title ' || i FROM n;")
        self.settle([self.a, self.b, self.c])
        self.restore(kept)
        self.refill_in_part(self.a)
        self.put(self.a, "meanwhile")
        self.a.sync()
        self.a.sync()  # its own batches are in what it pulls
        self.b.claw("hub", "refill")
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.c), ["early", "gone", "meanwhile"])

    def test_a_log_that_was_lost_before_it_was_full(self):
        self.a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
                   "INSERT INTO memory_records(id, title) SELECT 'r' || i, 'title ' || i FROM n;")
        self.settle([self.a, self.b, self.c])
        self.lose()
        self.refill_in_part(self.a)
        self.put(self.a, "meanwhile")
        self.lose()
        self.put(self.b, "of b")
        self.assertIn("new log", self.a.claw("hub", "refill").stdout)
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.ids(self.c), ["early", "gone", "meanwhile", "of b"])
        self.assertEqual(self.ids(self.newcomer(self.c, "d")), self.ids(self.c))

    def test_edits_beside_it(self):
        """Edits that nobody had seen stand beside what others made, and lose or win as ever: what lost is on record."""
        self.b.sql("UPDATE memories SET content = 'first of b' WHERE id = 'early';")
        self.c.sql("UPDATE memories SET content = 'second of c' WHERE id = 'early';")
        kept = self.backup()
        self.put(self.a, "late")
        self.a.sync()
        self.restore(kept)
        self.needs_you(self.a, "HUB_ROLLBACK")
        self.a.claw("hub", "refill")
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.a.value("SELECT content FROM memories WHERE id = 'early'"), "second of c")
        self.assertIn("first of b", "".join(d.claw("conflicts", "list").stdout for d in (self.a, self.b, self.c)))


if __name__ == "__main__":
    main()
