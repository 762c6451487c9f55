"""Joining by a code, with the real programs."""

import json
import re
import subprocess
import unittest

import claw

GENESIS, INVITE, ADD, REMOVE, ROTATE, RECOVERY, RENAME = range(1, 8)


class JoinTest(claw.ClawTest):
    def setUp(self):
        super().setUp()
        self.start_hub()
        self.a = self.device("a")

    def code(self, device=None, *options):
        out = json.loads((device or self.a).claw("invite", "--json", *options).stdout)
        self.assertEqual(list(out), ["code"])
        return out["code"]

    def start(self, device):
        """A daemon that has its database: commands go beside it."""
        device.start()
        claw.wait_until(lambda: "replicating" in device.daemon_log(), "the daemon")

    def entries(self):
        """The types of the entries in the hub's membership log."""
        with self.hub.database() as db:
            return [row[0][4] for row in db.execute("SELECT entry FROM entry ORDER BY seq")]

    def test_first_device_needs_no_code_and_says_so(self):
        self.assertIn("created a new workspace", self.a.claw("sync").stdout)
        self.assertNotIn("created", self.a.claw("sync").stdout)

    def test_second_device_without_a_code_is_told_how(self):
        self.a.sync()
        b = self.device("b")
        for _ in range(2):
            done = b.claw("sync", want=2)
            self.assertIn("this workspace exists; join it with: claw-sync join CODE", done.stderr)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1)
        done = b.claw("sync", "--json", want=2)
        self.assertEqual(json.loads(done.stdout)["error"]["code"], "exists")
        b.claw("join", self.code())
        b.sync()

    def test_join_while_the_inviter_is_offline(self):
        self.a.sql("INSERT INTO sessions(id, agent) VALUES ('before', 'x');")
        self.a.sync()
        code = self.code()
        self.assertRegex(code, r"^CLAW1(-[0-9A-Z]{1,5})+$")
        b = self.device("b")
        self.assertIn(f"joined workspace {self.workspace}", b.claw("join", code).stdout)
        self.settle([self.a, b])
        self.assertEqual(b.value("SELECT count(*) FROM sessions"), 1)
        b.sql("INSERT INTO sessions(id, agent) VALUES ('after', 'x');")
        self.settle([self.a, b])

    def test_workspace_and_hub_come_from_the_code(self):
        self.a.sync()
        b = self.device("b")
        code = self.code().lower().replace("-", " ")
        done = subprocess.run([claw.CLIENT, "join", "-"], input=code + "\n", text=True, capture_output=True,
                              env=claw.clean_env(CLAW_DB_PATH=b.path, CLAW_DATA_DIR=b.data), timeout=claw.PATIENCE)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn(f"CLAW_WORKSPACE_ID={self.workspace} CLAW_HUB_ENDPOINT={self.hub.endpoint}", done.stdout)
        self.settle([self.a, b])

    def test_a_code_is_good_once_and_the_key_rotates_at_once(self):
        self.a.sync()
        code = self.code()
        b, c = self.device("b"), self.device("c")
        b.claw("join", code)
        done = c.claw("join", code, want=2)
        self.assertIn("INVITE_USED", done.stderr)
        self.assertIn("claw-sync devices revoke " + b.status()["device_id"], done.stderr)
        self.assertEqual(self.entries(), [GENESIS, INVITE, ADD, ROTATE])
        c.claw("join", self.code(b))
        self.add_rows([self.a, b, c])
        self.settle([self.a, b, c])

    def add_rows(self, devices):
        for d in devices:
            d.sql(f"INSERT INTO sessions(id, agent) VALUES ('{d.folder.name}', 'x');")

    def test_a_late_device_reads_all_epochs(self):
        devices = [self.a]
        for name in "bcd":
            self.add_rows(devices[-1:])
            devices[-1].sync()
            d = self.device(name)
            d.claw("join", self.code(devices[-1]))
            d.sync()
            devices.append(d)
        self.settle(devices)
        self.assertEqual(devices[-1].value("SELECT count(*) FROM sessions"), 3)

    def test_invite_and_join_beside_daemons(self):
        self.a.sync()
        self.start(self.a)
        code = self.code()
        b = self.device("b")
        b.claw("join", code)
        self.start(b)
        self.add_rows([self.a, b])
        self.wait_equal([self.a, b])
        self.assertEqual(b.value("SELECT count(*) FROM sessions"), 2)
        # what is bound to the old epoch while another joins goes out under the new one
        c = self.device("c")
        c.claw("join", self.code(b))
        self.start(c)
        self.a.sql("INSERT INTO sessions(id, agent) VALUES ('more', 'x');")
        self.wait_equal([self.a, b, c])

    def test_wrong_input(self):
        self.a.sync()
        b = self.device("b")
        code = self.code()
        typo = code[:-1] + ("0" if code[-1] != "0" else "4")
        for bad in ("", "CLAW1-", "hello", typo, code[:-6], "CLAW1-" + "0" * 3000):
            done = b.claw("join", bad, want=2)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        done = b.claw("join", code, want=2, CLAW_WORKSPACE_ID="5e2f9a3c-0b1d-4c7e-8f60-0d1e2f3a4b5c")
        self.assertIn("the code is of workspace " + self.workspace, done.stderr)
        self.assertIn("missing TABLE", b.claw("untrack", "--quiet", "--json", want=2).stdout)
        self.assertIn("a member of the workspace already", self.a.claw("join", code, want=2).stderr)
        self.assertIn("--expires", self.a.claw("invite", "--expires", "1", want=2).stderr)
        self.assertIn("too many arguments", self.a.claw("invite", "x", want=2).stderr)
        b.claw("join", code)

    def test_unreachable_hub(self):
        self.a.sync()
        code = self.code()
        b = self.device("b")
        self.hub.stop()
        b.claw("join", code, want=3, CLAW_MAX_RETRIES=0)
        self.a.claw("invite", want=3, CLAW_MAX_RETRIES=0)
        self.hub.start()
        b.claw("join", code)

    def test_qr(self):
        self.a.sync()
        out = self.a.claw("invite", "--qr").stdout
        self.assertIn("\u2588\u2588\u2588", out)
        self.assertEqual(len(re.findall(r"^CLAW1-\S+$", out, re.M)), 1)
        self.assertNotIn("\u2588", self.a.claw("invite").stdout)
        self.assertIn("usage: claw-sync invite", self.a.claw("invite", "--help").stdout)
        self.assertIn("usage: claw-sync join", self.a.claw("join", "--help").stdout)

if __name__ == "__main__":
    claw.main()
