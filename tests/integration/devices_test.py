"""Who is in a workspace: listing, renaming, revoking, rotating, recovering; with the real programs."""

import json
import subprocess
import uuid

import claw

GENESIS, INVITE, ADD, REMOVE, ROTATE, RECOVERY, RENAME = range(1, 8)


class DevicesTest(claw.ClawTest):
    def rows(self, *devices, tag=""):
        for d in devices:
            d.sql(f"INSERT INTO sessions(id, agent) VALUES ('{d.folder.name}{tag}', 'x');")

    def count(self, device):
        return device.value("SELECT count(*) FROM sessions")

    def entries(self):
        with self.hub.database() as db:
            return [row[0][4] for row in db.execute("SELECT entry FROM entry ORDER BY seq")]

    def ids(self, *devices):
        return [d.status()["device_id"] for d in devices]

    def list(self, device):
        return json.loads(device.claw("devices", "--json").stdout)["devices"]

    def code(self, device):
        return json.loads(device.claw("invite", "--json").stdout)["code"]

    def workspace_by_code(self, n):
        self.start_hub()
        devices = [self.device(chr(ord("a") + i)) for i in range(n)]
        devices[0].sync()
        for d in devices[1:]:
            d.claw("join", self.code(devices[0]))
            d.sync()
        return devices

    def start(self, device):
        device.start()
        claw.wait_until(lambda: "connected" in device.daemon_log(), "the daemon")

    def test_list_and_rename(self):
        a, b = self.workspace_by_code(2)
        self.rows(a)
        a.sync()
        ia, ib = self.ids(a, b)
        listed = {d["id"]: d for d in self.list(a)}
        self.assertEqual(set(listed), {ia, ib})
        self.assertTrue(listed[ia]["self"])
        self.assertFalse(listed[ib]["self"])
        self.assertEqual(listed[ib]["name"], "device " + ib[:8])
        self.assertEqual(listed[ib]["added_by"], ia)  # by a code of a's
        self.assertRegex(listed[ib]["fingerprint"], r"^[0-9A-Z]{4}(-[0-9A-Z]{4}){3}$")
        self.assertEqual((listed[ia]["behind"], listed[ib]["behind"]), (0, 1))
        self.assertGreater(listed[ib]["last_seen_ms"], 0)
        b.claw("devices", "rename", ia[:6], "Königin's laptop")
        a.sync()
        self.assertEqual({d["id"]: d["name"] for d in self.list(a)}[ia], "Königin's laptop")
        a.claw("devices", "rename", "Königin's laptop", "plain")
        self.assertIn("plain", b.claw("devices").stdout)
        self.assertEqual({d["fingerprint"] for d in self.list(b)}, {d["fingerprint"] for d in self.list(a)})
        with self.hub.database() as db:
            stored = b"".join(row[0] for row in db.execute("SELECT entry FROM entry"))
        self.assertNotIn("laptop".encode(), stored)

    def test_wrong_input(self):
        a, b = self.workspace_by_code(2)
        ib, = self.ids(b)
        for args in (("devices", "x"), ("devices", "rename", "x"), ("devices", "rename", ib, ""), ("devices", "revoke"),
                     ("devices", "rename", ib, "n" * 64), ("devices", "rename", str(uuid.uuid4()), "n"),
                     ("devices", "revoke", "nobody"), ("devices", "revoke", self.ids(a)[0]), ("keys", "rotate", "x"),
                     ("recovery",), ("recovery", "create", "x"), ("recovery", "use", "x"), ("devices", "--distrust")):
            done = a.claw(*args, want=2)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, (args, done.stderr))
        for command in (("devices",), ("devices", "rename"), ("devices", "revoke"), ("keys", "rotate"),
                        ("recovery", "create"), ("recovery", "use")):
            self.assertIn("usage: claw-sync " + " ".join(command), a.claw(*command, "--help").stdout)
        self.assertEqual(self.entries(), [GENESIS, INVITE, ADD, ROTATE])

    def test_revoke(self):
        a, b, c = self.workspace_by_code(3)
        self.rows(a, b, c)
        self.settle([a, b, c])
        self.rows(b, c, tag="-late")  # b never sends its row; c's was waiting while the key changed
        out = a.claw("devices", "revoke", self.ids(b)[0])
        self.assertIn("revoked", out.stdout)
        self.assertEqual(self.entries()[-1], REMOVE)
        done = b.claw("sync", want=1)
        self.assertIn("not a member", done.stderr)
        b.claw("invite", want=1)
        self.settle([a, c])
        self.assertEqual((self.count(a), self.count(b)), (4, 4))
        self.assertNotIn("b-late", str(a.query("SELECT id FROM sessions")))
        self.assertEqual({d["id"] for d in self.list(c)}, set(self.ids(a, c)))
        done = a.claw("devices", "revoke", self.ids(b)[0], want=2)
        self.assertIn("not a member any more", done.stderr)

    def test_revoke_beside_daemons(self):
        a, b, c = self.workspace_by_code(3)
        for d in (a, b, c):
            self.start(d)
        self.rows(a, b, c)
        self.wait_equal([a, b, c])
        a.claw("devices", "revoke", self.ids(b)[0])
        self.rows(a, c, tag="-after")
        self.wait_equal([a, c])
        claw.wait_until(lambda: "not a member" in b.daemon_log() or b.sql(
            "INSERT OR REPLACE INTO sessions(id, agent) VALUES ('b-after', 'x');"), "b's daemon hears of it")
        self.assertEqual(self.count(a), 5)
        self.assertEqual(self.count(c), 5)

    def test_revoke_tells_whom_it_let_in(self):
        a, b = self.workspace_by_code(2)
        c = self.device("c")
        c.claw("join", self.code(b))
        c.sync()
        phrase = json.loads(b.claw("recovery", "create", "--json").stdout)["phrase"]
        self.assertEqual(len(phrase.split()), 24)
        b.claw("invite", "--json")
        self.assertEqual(sorted(d["kind"] for d in self.list(a)), ["device", "device", "device", "invite", "recovery"])
        out = json.loads(a.claw("devices", "revoke", self.ids(b)[0], "--json").stdout)
        self.assertEqual(sorted(d["kind"] for d in out["let_in"]), ["device", "recovery"])
        self.assertEqual(sorted(d["kind"] for d in self.list(a)), ["device", "device", "recovery"])

    def test_revoke_with_distrust(self):
        a, b = self.workspace_by_code(2)
        c = self.device("c")
        c.claw("join", self.code(b))
        self.rows(c)
        c.sync()
        b.claw("recovery", "create")
        a.claw("devices", "revoke", self.ids(b)[0], "--distrust")
        self.assertEqual([d["id"] for d in self.list(a)], self.ids(a))
        c.claw("sync", want=1)
        a.sync()
        self.assertEqual(self.count(a), 1)

    def test_an_invite_can_be_withdrawn(self):
        a, = self.workspace_by_code(1)
        code = self.code(a)
        invite = [d["id"] for d in self.list(a) if d["kind"] == "invite"]
        a.claw("devices", "revoke", invite[0])
        b = self.device("b")
        self.assertIn("INVITE_WITHDRAWN", b.claw("join", code, want=2).stderr)

    def test_rotate(self):
        a, b = self.workspace_by_code(2)
        self.rows(a, b)
        self.settle([a, b])
        self.start(b)
        self.rows(a, tag="-unsent")
        self.assertEqual(json.loads(a.claw("keys", "rotate", "--json").stdout), {"epoch": 3})
        self.assertEqual(json.loads(b.claw("keys", "rotate", "--json").stdout), {"epoch": 4})
        self.rows(b, tag="-new")
        self.start(a)
        self.wait_equal([a, b])
        self.assertEqual(self.count(a), 4)
        c = self.device("c")
        c.claw("join", self.code(a))
        c.sync()
        self.assertEqual(self.count(c), 4)

    def recover(self, device, phrase, want=0):
        done = subprocess.run([claw.CLIENT, "recovery", "use"], input=phrase, text=True, capture_output=True,
                              env=device.env(), timeout=claw.PATIENCE)
        self.assertEqual(done.returncode, want, done.stderr)
        return done

    def test_bare_machine_and_24_words(self):
        a, b = self.workspace_by_code(2)
        self.rows(a, b)
        out = a.claw("recovery", "create").stdout
        words = [w for line in out.splitlines()[:4] for w in line.split() if not w.isdigit()]
        self.assertEqual(len(words), 24)
        self.settle([a, b])
        a.claw("keys", "rotate")
        self.rows(b, tag="-later")
        self.settle([a, b])
        want = a.dump()
        machine = self.device("bare")
        done = self.recover(machine, " ".join(words).upper() + "\n")
        self.assertIn("joined workspace", done.stdout)
        machine.sync()
        self.assertEqual(machine.dump(), want)
        self.rows(machine)
        machine.claw("devices", "revoke", self.ids(a)[0])
        machine.sync()
        b.sync()
        self.assertEqual(self.count(b), 4)
        a.claw("sync", want=1)
        again = self.device("again")  # the phrase stays good until it is revoked
        self.recover(again, "\n".join(words) + "\n")
        again.sync()
        self.assertEqual(self.count(again), 4)
        paper = [d["id"] for d in self.list(again) if d["kind"] == "recovery"]
        again.claw("devices", "revoke", paper[0])
        late = self.device("late")
        self.assertIn("revoked", self.recover(late, " ".join(words), want=2).stderr)

    def test_wrong_phrases(self):
        a, = self.workspace_by_code(1)
        phrase = json.loads(a.claw("recovery", "create", "--json").stdout)["phrase"]
        words = phrase.split()
        b = self.device("b")
        for bad in ("", "babab", " ".join(words[:23]), " ".join(words[:23] + ["zzzz"]), phrase + " dada",
                    " ".join(words[1:2] + words[:1] + words[2:])):
            done = self.recover(b, bad, want=2)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, (bad, done.stderr))
            for w in words:
                self.assertNotIn(" " + w + " ", done.stderr)
        other = self.device("other")
        other.workspace = str(uuid.uuid4())
        self.assertIn("does not know this recovery phrase", self.recover(other, phrase, want=1).stderr)
        self.recover(b, phrase)


if __name__ == "__main__":
    claw.main()
