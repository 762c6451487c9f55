"""claw-sync identity new: a copy becomes a device of its own, with the real programs."""

import json
import shutil

import claw


class IdentityTest(claw.ClawTest):
    def setUp(self):
        super().setUp()
        self.a, self.b = self.workspace_of(2)
        self.a.sql("INSERT INTO sessions(id, agent) VALUES ('r', 'v1'), ('q', 'v1'), ('gone', 'x');")
        self.settle([self.a, self.b])

    def copy_of(self, device):
        shutil.copytree(device.folder, self.folder / "copy")
        return self.device("copy", schema=None)

    def rows(self, device):
        return dict(device.query("SELECT id, agent FROM sessions"))

    def become_new(self, device):
        out = json.loads(device.claw("identity", "new", "--json").stdout)
        done = device.claw("sync", want=2)
        self.assertIn("this workspace exists", done.stderr)
        device.claw("join", json.loads(self.b.claw("invite", "--json").stdout)["code"])
        self.assertEqual(device.status()["device_id"], out["device_id"])
        return out["device_id"]

    def test_a_copy(self):
        copy = self.copy_of(self.a)
        self.b.sql("UPDATE sessions SET agent = 'v2' WHERE id = 'r'; DELETE FROM sessions WHERE id = 'gone';")
        self.b.sync()
        copy.sql("UPDATE sessions SET agent = 'mine' WHERE id = 'q'; INSERT INTO sessions(id, agent) VALUES ('new', 'x');")
        self.become_new(copy)
        # what others wrote since the copy was taken stands, what the copy had not sent is there
        self.settle([self.a, self.b, copy])
        self.assertEqual(self.rows(self.b), {"r": "v2", "q": "mine", "new": "x"})
        for d in (self.a, copy):
            d.sql(f"UPDATE sessions SET agent = agent || '{d.folder.name}' WHERE id = 'r';")
            self.settle([self.a, self.b, copy])
        self.assertEqual(self.rows(self.a)["r"], "v2acopy")
        self.assertEqual(len(json.loads(self.a.claw("devices", "--json").stdout)["devices"]), 3)

    def test_two_copies_at_work(self):
        copy = self.copy_of(self.a)
        copy.sql("INSERT INTO sessions(id, agent) VALUES ('of the copy', 'x');")
        copy.sync()
        self.a.sql("INSERT INTO sessions(id, agent) VALUES ('of the first', 'x');")
        self.a.sync()
        copy.sql("INSERT INTO sessions(id, agent) VALUES ('stays here', 'x');")
        self.assertIn("claw-sync identity new", copy.claw("sync", want=2).stderr)
        self.become_new(copy)
        self.settle([self.a, self.b, copy])
        self.assertEqual(set(self.rows(self.b)), {"r", "q", "gone", "of the copy", "of the first", "stays here"})

    def test_batches_on_their_way(self):
        """Bound when the hub went away: they are taken back, and are the new device's."""
        self.a.sql("INSERT INTO sessions(id, agent) VALUES ('bound', 'x'); UPDATE sessions SET agent = 'b' WHERE id = 'q';")
        self.hub.stop()
        self.a.claw("push", want=3, CLAW_MAX_RETRIES=0)
        copy = self.copy_of(self.a)
        self.hub.start()
        self.become_new(copy)
        self.settle([self.b, copy])
        self.assertEqual(self.rows(self.b), {"r": "v1", "q": "b", "gone": "x", "bound": "x"})
        self.settle([self.a, self.b, copy])

    def test_a_database_without_its_data_dir(self):
        self.a.sql("UPDATE sessions SET agent = 'unsent' WHERE id = 'r';")
        self.b.sql("UPDATE sessions SET agent = 'v2' WHERE id = 'q';")
        self.b.sync()
        shutil.rmtree(self.a.data)
        self.assertIn("claw-sync identity new", self.a.claw("sync", want=2).stderr)
        self.become_new(self.a)
        self.settle([self.a, self.b])
        self.assertEqual(self.rows(self.b), {"r": "unsent", "q": "v2", "gone": "x"})

    def test_a_damaged_keystore(self):
        """It is kept; every message names the way out."""
        keystore = self.a.data / "identity" / "keystore"
        good = keystore.read_bytes()
        flipped = good[:-1] + bytes([good[-1] ^ 1])
        self.a.sql("UPDATE sessions SET agent = 'unsent' WHERE id = 'r';")
        keystore.write_bytes(good[:40])
        code = json.loads(self.b.claw("invite", "--json").stdout)["code"]
        for command in (("sync",), ("join", code), ("devices",), ("doctor",), ("run",)):
            done = self.a.claw(*command, want=1)
            self.assertRegex(done.stderr + done.stdout, "identity/keystore.*backup.*claw-sync identity new, then claw-sync join CODE")
        reason, = json.loads(self.a.claw("status", "--json").stdout)["needs_you"]
        self.assertEqual(reason["do"], "claw-sync identity new, then claw-sync join CODE")
        for n, (damaged, log) in enumerate(((good[:40], None), (flipped, b"not a log"), (b"", None), (good[:200], None))):
            with self.subTest(damaged=n):
                keystore.write_bytes(damaged)
                if log is not None:
                    (self.a.data / "identity" / "membership.log").write_bytes(log)
                self.a.sql(f"INSERT INTO sessions(id, agent) VALUES ('s{n}', 'unsent');")
                done = self.a.claw("identity", "new")
                kept, = keystore.parent.glob("keystore.damaged.*")
                self.assertIn(f"it is kept as {kept}", done.stderr)
                self.assertEqual(kept.read_bytes(), damaged)
                kept.unlink()
                self.join(self.b, self.a)
                self.settle([self.a, self.b])
                self.assertEqual(self.rows(self.b)[f"s{n}"], "unsent")
        self.assertEqual(self.rows(self.b)["r"], "unsent")

    def test_a_keystore_that_may_open_is_not_damaged(self):
        keystore = self.a.data / "identity" / "keystore"
        self.a.claw("keys", "passphrase", "--passphrase-file", self.passphrase)
        good = keystore.read_bytes()
        credentials = self.folder / "credentials"
        credentials.mkdir()
        (credentials / "claw-sync.passphrase").write_text("wrong")
        self.assertIn("--keystore-passphrase-fd", self.a.claw("identity", "new", want=2).stderr)
        done = self.a.claw("identity", "new", want=2, CREDENTIALS_DIRECTORY=credentials)
        self.assertIn("wrong passphrase, or the key file is damaged; if it is damaged, move it away", done.stderr)
        newer = good[:4] + b"\xff" + good[5:]
        keystore.write_bytes(newer)
        self.assertIn("newer version", self.a.claw("identity", "new", want=1, CREDENTIALS_DIRECTORY=credentials).stderr)
        self.assertEqual(keystore.read_bytes(), newer)
        self.assertEqual(list(keystore.parent.glob("keystore.*")), [])

    def test_a_membership_log_that_is_lost_or_damaged(self):
        """The hub has the entries, and the keystore knows which they are."""
        a, b = self.a, self.b
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'first');")
        self.settle([a, b])
        code = json.loads(a.claw("invite", "--json").stdout)["code"]
        self.settle([a, b])
        log = b.data / "identity" / "membership.log"
        whole = log.read_bytes()
        flipped = whole[:200] + bytes([whole[200] ^ 4]) + whole[201:]
        for n, damaged in enumerate([None, b"", b"not a log", whole[:300], whole[:-1], flipped]):
            with self.subTest(damaged=n):
                if damaged is None:
                    log.unlink()
                else:
                    log.write_bytes(damaged)
                for command in ("status", "doctor"):
                    done = b.claw(command, want=1 if command == "doctor" else 0)
                    self.assertRegex(done.stdout, "membership.log.*claw-sync sync fetches it from the hub again")
                self.assertIn("is a member of the workspace already", b.claw("join", code, want=2).stderr)
                b.sql(f"INSERT INTO memories(id, content) VALUES ('n{n}', 'written meanwhile');")
                found = b.claw("sync")
                self.assertRegex(found.stderr, "membership.log was lost or damaged: its [0-9]+ entries were fetched")
                self.assertEqual(log.read_bytes(), whole)
                self.assertNotIn("membership.log", b.claw("sync").stderr)
        self.settle([a, b])
        self.assert_equal([a, b])
        b.claw("audit", "verify")

    def test_another_membership_log_than_the_lost_one(self):
        """The keystore knows what the log was: a hub that went back does not pass for it."""
        a, b = self.a, self.b
        self.settle([a, b])
        self.hub.stop()
        shutil.copytree(self.hub.folder / "data", self.folder / "old")
        self.hub.start()
        a.claw("keys", "rotate")
        self.settle([a, b])
        (b.data / "identity" / "membership.log").unlink()
        self.hub.stop()
        shutil.rmtree(self.hub.folder / "data")
        shutil.copytree(self.folder / "old", self.hub.folder / "data")
        self.hub.start()
        for _ in range(2):
            self.assertRegex(b.claw("sync", want=4).stderr, "HUB_ROLLBACK: the hub's membership log ends")
        a.claw("hub", "refill")
        b.sync()
        b.claw("devices")

    def test_wrong_use(self):
        old = self.a.status()["device_id"]
        done = self.a.claw("identity", "new", want=2, CLAW_DEVICE_ID=old)
        self.assertIn("CLAW_DEVICE_ID", done.stderr)
        done = self.a.claw("identity", "new", want=2, CLAW_WORKSPACE_ID="5e2f9a3c-0b1d-4c7e-8f60-0d1e2f3a4b5c")
        self.assertIn("workspace", done.stderr)
        self.a.claw("identity", want=2)
        self.a.claw("identity", "new", "x", want=2)
        self.assertIn("usage: claw-sync identity new", self.a.claw("identity", "new", "--help").stdout)
        self.a.start()
        claw.wait_until(lambda: "replicating" in self.a.daemon_log(), "the daemon")
        self.a.claw("identity", "new", want=1)
        self.a.stop()
        self.assertEqual(self.a.status()["device_id"], old)
        self.settle([self.a, self.b])
        first = self.become_new(self.a)  # again and again, too
        self.assertNotEqual(self.become_new(self.a), first)
        self.settle([self.a, self.b])


if __name__ == "__main__":
    claw.main()
