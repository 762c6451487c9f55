"""Databases and data_dirs that were restored, lost, moved or copied: what mends itself, and what is told."""
import contextlib, json, shutil, signal, time

from claw import *


class Copies(ClawTest):
    def setUp(self):
        super().setUp()
        self.a, self.b = self.workspace_of(2)
        self.put(self.a, "early")
        self.settle([self.a, self.b])

    def put(self, d, *ids):
        for i in ids:
            d.sql(f"INSERT INTO memories(id, content) VALUES ('{i}', 'of {d.folder.name}');")

    def ids(self, d):
        return sorted(r[0] for r in d.query("SELECT id FROM memories"))

    def keep(self, d, name="kept"):
        """A copy of the database as a backup program makes it."""
        kept = self.folder / name
        with d.connect() as db:
            db.execute("VACUUM INTO ?", (str(kept),))
        return kept

    def restore(self, d, kept):
        for f in d.folder.glob("memory.db*"):
            f.unlink()
        shutil.copy(kept, d.path)

    def incarnation(self, d):
        return d.value("SELECT value FROM sync_meta WHERE name = 'identity'")[32:]

    def lost(self, d, *ids):
        """What the device sends, and the others have, after the copy was made."""
        self.put(d, *ids)
        d.sync(), self.b.sync()

    def test_an_older_database_is_brought_up_to_date(self):
        kept = self.keep(self.a)
        before = self.incarnation(self.a)
        self.lost(self.a, "late1"), self.lost(self.a, "late2")
        self.a.sql("UPDATE memories SET content = 'edited' WHERE id = 'early';")
        self.a.sync(), self.b.sync()
        self.restore(self.a, kept)
        self.put(self.a, "after")
        done = self.a.claw("sync")
        self.assertIn("restored", done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertNotEqual(self.incarnation(self.a), before)
        self.settle([self.a, self.b])
        self.assertEqual(self.ids(self.a), ["after", "early", "late1", "late2"])
        self.assertEqual(self.a.value("SELECT content FROM memories WHERE id = 'early'"), "edited")
        self.assertEqual(self.a.claw("sync").stderr, "")

    def test_an_older_database_pushes_nothing_before_it_is_whole(self):
        kept = self.keep(self.a)
        self.lost(self.a, "late")
        self.restore(self.a, kept)
        self.put(self.a, "after")
        self.assertEqual(self.a.claw("push").stdout, "pushed=1, pulled=1\n")  # what was late, then what is new
        self.settle([self.a, self.b])
        self.assertEqual(self.ids(self.b), ["after", "early", "late"])

    def test_without_the_hub_an_older_database_waits(self):
        kept = self.keep(self.a)
        self.lost(self.a, "late")
        self.restore(self.a, kept)
        self.hub.stop()
        self.put(self.a, "after")
        for _ in range(2):  # it is still known to be older after a run that could do nothing
            self.a.claw("sync", want=3, CLAW_MAX_RETRIES=0)
        self.hub.start()
        self.a.sync()
        self.settle([self.a, self.b])
        self.assertEqual(self.ids(self.b), ["after", "early", "late"])

    def test_an_older_database_whose_keystore_knows_no_better(self):
        """Database and data_dir of one backup, or a daemon that was killed: the hub's log alone tells."""
        kept, state = self.keep(self.a), self.folder / "state"
        shutil.copytree(self.a.data, state)
        self.lost(self.a, "late")
        with self.a.path.open("r+b") as f:  # over the same file, so that its place is the same
            f.truncate(), f.write(kept.read_bytes())
        for f in self.a.folder.glob("memory.db-*"):
            f.unlink()
        for f in state.rglob("*"):
            if f.is_file():
                shutil.copyfile(f, self.a.data / f.relative_to(state))
        self.put(self.a, "after")
        self.assertIn("restored", self.a.claw("sync").stderr)
        self.settle([self.a, self.b])
        self.assertEqual(self.ids(self.b), ["after", "early", "late"])

    def test_a_lost_database_comes_back(self):
        self.lost(self.a, "late")
        for f in self.a.folder.glob("memory.db*"):
            f.unlink()
        self.a.sql(SCHEMA)
        self.put(self.a, "after")
        self.a.sync()
        self.settle([self.a, self.b])
        self.assertEqual(self.ids(self.a), ["after", "early", "late"])

    def test_tracking_everything_again(self):
        tracked = [t["name"] for t in json.loads(self.a.claw("tables", "--json").stdout)["tables"] if t["state"] == "tracked"]
        for t in tracked:
            self.a.claw("untrack", t)
        for t in tracked:
            self.a.claw("track", t)
        self.put(self.a, "after")
        self.a.sync()
        self.settle([self.a, self.b])
        self.assertEqual(self.ids(self.b), ["after", "early"])

    def test_an_older_data_dir(self):
        state = self.folder / "state"
        shutil.copytree(self.a.data, state)
        kept = self.keep(self.a)
        self.lost(self.a, "late")
        self.restore(self.a, kept)
        self.lost(self.a, "later")  # a new incarnation, which the older data_dir does not know
        shutil.rmtree(self.a.data)
        shutil.copytree(state, self.a.data)
        self.put(self.a, "after")
        self.a.sync()
        self.settle([self.a, self.b])
        self.assertEqual(self.ids(self.b), ["after", "early", "late", "later"])

    def test_a_data_dir_of_each_past_state(self):
        """Whatever data_dir is put beside today's database, nothing is lost, sent twice or told wrongly."""
        states = []

        def moved(what):
            what()
            states.append(self.folder / f"state-{len(states)}")
            shutil.copytree(self.a.data, states[-1])
        moved(lambda: None)
        moved(lambda: self.lost(self.a, "one"))
        moved(lambda: self.a.claw("keys", "rotate"))
        moved(lambda: self.lost(self.a, "two"))
        moved(lambda: self.a.claw("invite"))
        moved(lambda: self.a.claw("recovery", "create"))
        moved(lambda: (self.put(self.b, "of b"), self.b.sync(), self.a.sync()))
        moved(lambda: self.b.claw("keys", "rotate"))
        self.settle([self.a, self.b])
        want = self.ids(self.a)
        for i, state in enumerate(states):
            with self.subTest(state=i):
                shutil.rmtree(self.a.data)
                shutil.copytree(state, self.a.data)
                self.put(self.a, f"after {i}")
                want = sorted([*want, f"after {i}"])
                done = self.a.claw("sync")
                self.assertNotIn("CLONED", done.stderr)
                self.settle([self.a, self.b])
                self.assertEqual(self.ids(self.b), want)
                self.assertEqual(self.a.status()["unsent"], 0)

    def test_a_database_without_its_data_dir(self):
        self.put(self.a, "unsent")
        shutil.move(self.a.data, self.folder / "state")
        before = self.a.dump(), self.a.query("SELECT * FROM sync_rows"), self.a.query("SELECT * FROM sync_changelog")
        for command in ("sync", "push", "run"):
            done = self.a.claw(command, want=2)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
            for words in ("whose keys are not in", "CLAW_DATA_DIR", "claw-sync identity new", "claw-sync join CODE"):
                self.assertIn(words, done.stderr)
        self.assertEqual((self.a.dump(), self.a.query("SELECT * FROM sync_rows"),
                          self.a.query("SELECT * FROM sync_changelog")), before)
        self.assertFalse(self.a.data.exists())
        shutil.move(self.folder / "state", self.a.data)
        self.a.sync()
        self.settle([self.a, self.b])

    def test_moved(self):
        """Another place is reason to look, and nothing to speak of."""
        shutil.copytree(self.a.folder, self.folder / "moved")
        shutil.rmtree(self.a.folder)
        self.a = self.device("moved", schema=None)
        before = self.incarnation(self.a)
        self.put(self.a, "after")
        self.assertEqual(self.a.claw("sync").stderr, "")
        self.assertNotEqual(self.incarnation(self.a), before)
        self.settle([self.a, self.b])

    def test_two_copies_at_work(self):
        shutil.copytree(self.a.folder, self.folder / "copy")
        copy = self.device("copy", schema=None)
        self.put(copy, "of the copy")
        copy.sync()
        self.put(self.a, "of the first")
        self.assertIn("copied", self.a.claw("sync").stderr)
        self.put(copy, "stays here")
        before = copy.dump()
        for command in ("sync", "push", "pull"):
            done = copy.claw(command, want=2)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
            for words in ("DEVICE_CLONED", "data_dir", "claw-sync identity new", "claw-sync join CODE"):
                self.assertIn(words, done.stderr)
        self.assertEqual(copy.dump(), before)
        kinds = [json.loads(x)["event_type"] for x in copy.claw("audit", "export").stdout.splitlines()]
        self.assertEqual(kinds.count("DEVICE_CLONED"), 1)  # met three times
        status = copy.status()
        self.assertEqual(status["unsent"] + status["unsealed"] + status["bound_batches"], 1)
        self.settle([self.a, self.b])
        self.assertEqual(self.ids(self.b), ["early", "of the copy", "of the first"])

    def test_two_daemons_on_copies(self):
        shutil.copytree(self.a.folder, self.folder / "copy")
        copy = self.device("copy", schema=None)
        self.b.start()
        for d in (self.a, copy):
            d.start(CLAW_SYNC_INTERVAL_SECS=1, CLAW_RETRY_BASE_MS=20)
        n = 0

        def told():
            nonlocal n
            n += 1
            for d in (self.a, copy):
                self.put(d, f"{d.folder.name}{n}")
            return [d for d in (self.a, copy) if "DEVICE_CLONED" in d.daemon_log()]
        stopped = wait_until(told, "DEVICE_CLONED")[0]
        going = copy if stopped is self.a else self.a
        stopped.stop()
        self.wait_equal([going, self.b])
        self.become_new(stopped, going)
        going.stop(), self.b.stop()
        self.settle([going, self.b, stopped])  # what it had not sent goes out as its own
        self.assertEqual(self.ids(self.b), sorted(["early", *(f"{d.folder.name}{i}" for d in (self.a, copy) for i in range(1, n + 1))]))

    def become_new(self, device, by):
        device.claw("identity", "new")
        device.claw("join", json.loads(by.claw("invite", "--json").stdout)["code"])

    def operations(self):
        """In the hub's log."""
        with contextlib.closing(self.hub.database()) as db:
            return sum(int.from_bytes(h[104:108], "big") for h, in db.execute("SELECT header FROM log"))

    def bind_and_lose(self, device, *ids):
        """Edits that are bound to numbers, and that no hub has."""
        device.claw("sync")
        device.start("--json", CLAW_SYNC_INTERVAL_SECS=3600, CLAW_MAX_DELTA_ROWS=1)
        wait_until(lambda: device.daemon_log().count('"pull-completed"') >= 2, device.daemon_log)
        self.hub.process.send_signal(signal.SIGSTOP)
        device.sql("INSERT INTO memories(id, content) VALUES " +
                   ", ".join(f"('{i}', 'of {device.folder.name}')" for i in ids) + ";")
        wait_until(lambda: device.status()["bound_batches"] == len(ids), device.status)
        device.stop(signal.SIGKILL)
        self.hub.stop(signal.SIGKILL)
        self.hub.start()

    def test_a_backup_with_edits_that_were_never_sent(self):
        """And others went out from the original under the same numbers: what is bound in the backup goes behind them."""
        empty = self.keep(self.a, "without them")
        self.bind_and_lose(self.a, "unsent1", "unsent2", "unsent3")
        self.put(self.a, "unsealed")
        self.a.sql("UPDATE memories SET content = 'edited in the backup' WHERE id = 'early';")
        kept = self.keep(self.a)
        number = self.a.value("SELECT min(number) FROM sync_bound WHERE state = 0")
        self.restore(self.a, empty)
        self.put(self.a, "later1")
        self.a.sync(), self.b.sync()
        self.put(self.a, "later2")
        self.a.sync(), self.b.sync()
        with contextlib.closing(self.hub.database()) as db:
            self.assertGreaterEqual(db.execute("SELECT max(device_number) FROM log").fetchone()[0], number + 1)
        self.restore(self.a, kept)
        self.put(self.a, "after")
        before = self.operations()
        self.assertIn("restored", self.a.claw("sync").stderr)
        self.settle([self.a, self.b])
        want = ["after", "early", "later1", "later2", "unsealed", "unsent1", "unsent2", "unsent3"]
        self.assertEqual((self.ids(self.a), self.ids(self.b)), (want, want))
        self.assertEqual(self.b.value("SELECT content FROM memories WHERE id = 'early'"), "edited in the backup")
        self.assertEqual(self.operations() - before, 6)  # three that were bound, one that was not, the edit, and what came after
        for d in (self.a, self.b):
            self.assertEqual(json.loads(d.claw("conflicts", "list", "--json").stdout)["conflicts"], [])
        s = self.a.status()
        self.assertEqual((s["unsent"], s["unsealed"], s["bound_batches"], s["set_aside"]), (0, 0, 0, 0))
        self.assertEqual(self.a.claw("sync").stderr, "")

    def test_a_backup_with_edits_that_the_original_sent(self):
        """The same edits, some of them changed since: each has its effect once."""
        self.bind_and_lose(self.a, "one", "two", "three")
        kept = self.keep(self.a)
        self.a.sql("UPDATE memories SET content = 'edited later' WHERE id = 'one'; DELETE FROM memories WHERE id = 'two';")
        self.settle([self.a, self.b])
        before = self.operations()
        self.restore(self.a, kept)
        self.a.sync()
        self.settle([self.a, self.b])
        self.assertEqual(self.a.query("SELECT id, content FROM memories ORDER BY id"),
                         [("early", "of a"), ("one", "edited later"), ("three", "of a")])
        self.assertEqual(self.operations(), before)  # nothing went out again
        for d in (self.a, self.b):
            self.assertEqual(json.loads(d.claw("conflicts", "list", "--json").stdout)["conflicts"], [])

    def conflicts(self, d):
        return {c["key"][0]: c for c in json.loads(d.claw("conflicts", "list", "--json").stdout)["conflicts"]}

    def test_copies_with_equal_stamps(self):
        """Both offline, then both connect: nobody can tell which value is right, so both are kept, and a person decides."""
        self.put(self.a, "second")
        self.settle([self.a, self.b])
        with self.a.connect() as db:  # from here on both copies count alike
            db.execute("UPDATE sync_meta SET value = ? WHERE name = 'hlc'", ((int(time.time() * 1000) + 20000) << 16,))
        shutil.copytree(self.a.folder, self.folder / "copy")
        copy = self.device("copy", schema=None)
        written = {"early": {"a": "A of a", "copy": "Z of copy"}, "second": {"a": "Z of a", "copy": "A of copy"}}
        for d in (self.a, copy):
            for key, values in written.items():
                d.sql(f"UPDATE memories SET content = '{values[d.folder.name]}' WHERE id = '{key}';")
            self.put(d, f"row of {d.folder.name}")
        copy.sync()
        self.assertIn("copied", self.a.claw("sync").stderr)
        self.b.sync()
        self.assert_equal([self.a, self.b])
        found = self.conflicts(self.a)
        for key, c in found.items():
            self.assertEqual((c["why"], c["state"], c["table"], c["column"]), ("copied-device", "manual", "memories", "content"))
            self.assertEqual({c["losing"], c["now"]}, set(written[key].values()))
            self.assertEqual(self.b.value("SELECT content FROM memories WHERE id = ?", key), c["now"])
        self.assertEqual(found.keys(), written.keys())
        self.assertEqual(json.loads(self.a.claw("status", "--json").stdout)["state"], "needs-you")
        self.assertEqual(self.ids(self.b), ["early", "row of a", "row of copy", "second"])
        self.assertIn("DEVICE_CLONED", copy.claw("sync", want=2).stderr)  # it makes no more such stamps
        before = self.operations()
        self.put(copy, "stays here")
        copy.claw("push", want=2)
        self.assertEqual(self.operations(), before)
        for c in found.values():
            self.a.claw("conflicts", "resolve", c["id"], "--take")
        self.become_new(copy, self.a)
        self.settle([self.a, self.b, copy])
        self.assertEqual(self.ids(self.a), ["early", "row of a", "row of copy", "second", "stays here"])
        for key, c in found.items():
            self.assertEqual(self.b.value("SELECT content FROM memories WHERE id = ?", key), c["losing"])
        for d in (self.a, self.b):
            self.assertEqual(self.conflicts(d), {})


if __name__ == "__main__":
    main()
