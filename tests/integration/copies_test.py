"""Databases and data_dirs that were restored, lost, moved or copied: what mends itself, and what is told."""
import json, shutil

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
            d.start(CLAW_SYNC_INTERVAL_SECS=1)
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


if __name__ == "__main__":
    main()
