"""`claw-sync status` says one true word: never "in sync" when that is not known."""
import json, signal, subprocess

import claw


class Status(claw.ClawTest):
    def look(self, device, *args):
        return json.loads(device.claw("status", "--json", *args).stdout)

    def state(self, device):
        return self.look(device)["state"]

    def test_in_sync_is_what_the_hub_confirms(self):
        a, b = self.workspace_of(2)
        self.settle([a, b])
        s = self.look(a)
        self.assertEqual((s["state"], s["needs_you"], s["daemon_pid"]), ("in-sync", [], 0))
        self.assertEqual((s["hub"]["answered"], s["hub"]["log_number"]), (True, s["log_number"]))
        self.assertEqual({d["id"] for d in s["devices"]}, {s["device_id"], self.look(b)["device_id"]})
        self.assertTrue(all(d["last_seen_ms"] > 0 for d in s["devices"]))
        self.assertRegex(a.claw("status").stdout, r"(?m)^state +IN SYNC$")
        self.assertEqual(self.look(a, "--local")["state"], "not-known")
        b.sql("INSERT INTO memories(id, content) VALUES ('m', 'here');")
        self.assertEqual((self.state(a), self.state(b)), ("in-sync", "stopped"))  # nobody sends it by itself
        b.claw("push")
        self.assertEqual(self.state(a), "stopped")  # there is something to fetch
        self.assertRegex(a.claw("status").stdout, r"(?m)^state +STOPPED: no daemon runs; claw-sync run")

    def test_beside_a_daemon(self):
        a, b = self.workspace_of(2)
        a.start()
        b.start()
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'here');")
        self.wait_equal([a, b])
        claw.wait_until(lambda: self.state(a) == "in-sync" == self.state(b), "both in sync")
        self.assertEqual(self.look(a)["daemon_pid"], a.daemon.pid)
        a.stop(signal.SIGKILL)
        self.assertEqual(self.look(a)["daemon_pid"], 0)

    def test_offline_since(self):
        a, = self.workspace_of(1)
        before = self.look(a, "--local")["hub"]["last_contact_ms"]
        self.assertGreater(before, 0)
        a.start()
        claw.wait_until(lambda: "connected" in a.daemon_log(), "the daemon is connected")
        self.hub.stop()
        claw.wait_until(lambda: self.look(a, "--local")["hub"]["last_contact_ms"] > before, "the contact is noted")
        s = self.look(a)
        self.assertEqual((s["state"], s["hub"]["answered"], s["hub"]["error"]["code"]), ("offline", False, "unavailable"))
        out = a.claw("status").stdout
        self.assertRegex(out, rf"(?m)^state +OFFLINE since \d{{4}}-\d\d-\d\d \d\d:\d\d: cannot reach hub {self.hub.endpoint}: "
                              "connection refused; changes stay queued$")
        self.hub.start()
        claw.wait_until(lambda: self.state(a) == "in-sync", "in sync again")

    def test_a_conflict_needs_you(self):
        a, b = self.workspace_of(2)
        self.settle([a, b])
        self.assertEqual(self.state(a), "in-sync")
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'one');")
        self.settle([a, b])
        a.sql("UPDATE memories SET content = 'mine' WHERE id = 'm';")
        a.claw("push")
        b.sql("DELETE FROM memories WHERE id = 'm';")
        b.claw("sync")
        a.claw("sync")
        with_one = [d for d in (a, b) if self.look(d)["conflicts"] > 0]
        self.assertTrue(with_one)
        s = self.look(with_one[0])
        self.assertEqual((s["state"], s["needs_you"][0]["do"]), ("needs-you", "claw-sync conflicts list"))
        for c in json.loads(with_one[0].claw("conflicts", "list", "--json").stdout)["conflicts"]:
            with_one[0].claw("conflicts", "resolve", c["id"])
        self.assertNotEqual(self.state(with_one[0]), "needs-you")

    def test_a_hub_that_was_rolled_back_needs_you(self):
        a, b = self.workspace_of(2)
        self.settle([a, b])
        self.hub.stop()
        old = (self.folder / "hub" / "data" / "hub.db").read_bytes()
        self.hub.start()
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'one');")
        a.sync()
        self.hub.stop()
        for f in (self.folder / "hub" / "data").glob("hub.db*"):
            f.unlink()
        (self.folder / "hub" / "data" / "hub.db").write_bytes(old)
        self.hub.start()
        s = self.look(a)
        self.assertEqual(s["state"], "needs-you")
        self.assertIn("HUB_ROLLBACK", s["needs_you"][0]["reason"])

    def test_a_locked_keystore_is_not_asked_for(self):
        a, = self.workspace_of(1)
        self.assertEqual(self.state(a), "in-sync")
        a.claw("keys", "passphrase", "--passphrase-file", self.passphrase)
        s = self.look(a)
        self.assertEqual((s["state"], s["hub"]["asked"]), ("not-known", False))
        self.assertIn("passphrase", a.claw("status").stdout)
        with self.passphrase.open() as f:
            out = subprocess.run([claw.CLIENT, "status", "--json", f"--keystore-passphrase-fd={f.fileno()}"], env=a.env(),
                                 pass_fds=[f.fileno()], capture_output=True, text=True, timeout=claw.PATIENCE)
        self.assertEqual(json.loads(out.stdout)["state"], "in-sync", out.stderr)

    def test_watching(self):
        a, = self.workspace_of(1)
        p = subprocess.Popen([claw.CLIENT, "status", "--watch", "--json"], env=a.env(), stdout=subprocess.PIPE, text=True)
        self.assertEqual(json.loads(p.stdout.readline())["state"], "in-sync")
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'one');")
        while json.loads(p.stdout.readline())["state"] != "stopped":
            pass
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(claw.PATIENCE), 0)
        p.stdout.close()

    def test_wrong_use(self):
        a, = self.workspace_of(1)
        self.assertIn("--lokal", a.claw("status", "--lokal", want=2).stderr)
        self.assertIn("--watch", a.claw("sync", "--watch", want=2).stderr)
        self.assertIn("too many", a.claw("status", "surplus", want=2).stderr)


if __name__ == "__main__":
    claw.main()
