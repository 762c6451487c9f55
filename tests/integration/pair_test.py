"""Joining without a code: the new device waits, people compare 8 characters, a member lets it in."""
import json, signal, subprocess

import claw


class Waiting:
    """`claw-sync join` on a device, with its terminal in our hands."""

    def __init__(self, device, *args, **env):
        self.out = (device.folder / "join.out").open("w+")
        self.err = (device.folder / "join.err").open("w+")
        self.process = subprocess.Popen([claw.CLIENT, "join", *args], env=device.env(**env), stdin=subprocess.PIPE,
                                        stdout=self.out, stderr=self.err, text=True)

    def text(self, f):
        f.seek(0)
        return f.read()

    def asks(self):
        claw.wait_until(lambda: "waiting to be let in" in self.text(self.err), lambda: self.text(self.err))
        return self

    def characters(self):
        claw.wait_until(lambda: "match? [y/N]" in self.text(self.err), lambda: self.text(self.err))
        return self.text(self.out).split()[0]

    def answer(self, text, want=0):
        self.process.stdin.write(text)
        self.process.stdin.close()
        code = self.process.wait(claw.PATIENCE)
        out, err = self.text(self.out), self.text(self.err)
        self.out.close()
        self.err.close()
        assert code == want, f"exit {code}, not {want}: {out}{err}"
        return out + err

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(claw.PATIENCE)
        for f in (self.process.stdin, self.out, self.err):
            f.close()


class Approving:
    """`claw-sync devices approve` on a member."""

    def __init__(self, device, *args):
        self.process = subprocess.Popen([claw.CLIENT, "devices", "approve", *args], env=device.env(),
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def type(self, text, want=0):
        out, err = self.process.communicate(text + "\n", claw.PATIENCE)
        assert self.process.returncode == want, f"exit {self.process.returncode}, not {want}: {out}{err}"
        return out + err


class Pair(claw.ClawTest):
    def registered(self, n):
        """Until so many devices wait at the hub."""
        def count():
            with claw.contextlib.closing(self.hub.database()) as db:
                return db.execute("SELECT count(*) FROM offer").fetchone()[0]
        claw.wait_until(lambda: count() == n, lambda: f"{count()} wait")

    def let_in(self, member, newcomer):
        w = Waiting(newcomer).asks()
        self.registered(1)
        a = Approving(member)
        said = a.type(w.characters().lower().replace("-", " "))
        self.assertIn("they match", said)
        return w.answer("y\n")

    def test_a_device_is_let_in_and_syncs(self):
        a, = self.workspace_of(1)
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'from a');")
        a.sync()
        b = self.device("b")
        self.assertIn("joined workspace", self.let_in(a, b))
        b.sql("INSERT INTO memories(id, content) VALUES ('n', 'from b');")
        self.settle([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM memories"), 2)
        names = json.loads(b.claw("devices", "--json").stdout)["devices"]
        self.assertEqual({d["added_by"] for d in names}, {a.status()["device_id"]})
        self.assertIn("member of the workspace already", b.claw("join", want=2).stderr)

    def test_beside_a_daemon(self):
        a, = self.workspace_of(1)
        a.start()
        claw.wait_until(lambda: "connected" in a.daemon_log(), a.daemon_log)
        b = self.device("b")
        self.let_in(a, b)
        b.start()
        b.sql("INSERT INTO memories(id, content) VALUES ('n', 'from b');")
        self.wait_equal([a, b])

    def test_what_was_typed_wrong_lets_nobody_in(self):
        a, = self.workspace_of(1)
        b = self.device("b")
        w = Waiting(b).asks()
        self.registered(1)
        approving = Approving(a)
        shown = w.characters()
        wrong = ("0" if shown[0] != "0" else "1") + shown[1:]
        said = approving.type(wrong, want=1)
        self.assertIn("PAIR_MISMATCH", said)
        self.assertIn("nothing was joined", w.answer("n\n", want=1))
        self.assertEqual(len(json.loads(a.claw("devices", "--json").stdout)["devices"]), 1)
        self.let_in(a, b)  # both begin anew
        self.settle([a, b])

    def test_no_is_the_default(self):
        a, = self.workspace_of(1)
        b = self.device("b")
        w = Waiting(b).asks()
        self.registered(1)
        said = Approving(a).type(w.characters())
        self.assertIn("they match", said)
        self.assertIn("nothing was joined", w.answer("\n", want=1))
        self.assertNotEqual(b.claw("sync", want=None).returncode, 0)
        # the member's log has it: it is told how to come in
        self.assertIn("identity new", Waiting(b).answer("", want=2))

    def test_two_wait_at_once(self):
        a, = self.workspace_of(1)
        b, c = self.device("b"), self.device("c")
        first, second = Waiting(b).asks(), Waiting(c).asks()
        self.registered(2)
        approving = Approving(a)
        mine, other = second.characters(), first.characters()
        self.assertNotEqual(mine, other)
        approving.type(mine)
        second.answer("y\n")
        first.answer("n\n", want=1)
        self.settle([a, c])
        self.assertEqual(len(json.loads(a.claw("devices", "--json").stdout)["devices"]), 2)

    def test_interrupted_and_asked_again(self):
        a, = self.workspace_of(1)
        b = self.device("b")
        w = Waiting(b).asks()
        self.registered(1)
        w.stop()
        self.let_in(a, b)
        self.settle([a, b])

    def test_the_hub_restarts_in_between(self):
        a, = self.workspace_of(1)
        b = self.device("b")
        w = Waiting(b).asks()
        self.registered(1)
        self.hub.stop()
        self.hub.start()
        approving = Approving(a)
        shown = w.characters()
        self.hub.stop()
        self.hub.start()
        approving.type(shown)
        w.answer("y\n")
        self.settle([a, b])

    def test_no_such_workspace_and_a_stranger(self):
        a, = self.workspace_of(1)
        b = self.device("b")
        lost = str(claw.uuid.uuid4())
        self.assertIn("no workspace", Waiting(b, CLAW_WORKSPACE_ID=lost).answer("", want=1))
        self.assertIn("no device waits", a.claw("devices", "approve", want=1).stderr)
        c = self.device("c")
        self.assertNotEqual(c.claw("devices", "approve", want=None).returncode, 0)  # not a member

    def test_json_and_wrong_use(self):
        a, = self.workspace_of(1)
        b = self.device("b")
        w = Waiting(b, "--json").asks()
        self.registered(1)
        approving = Approving(a, "--json")
        claw.wait_until(lambda: "match?" in w.text(w.err), lambda: w.text(w.err))
        shown = json.loads(w.text(w.out))["characters"]
        self.assertRegex(shown, r"^[0-9A-Z]{4}-[0-9A-Z]{4}$")
        said = approving.type(shown)
        self.assertEqual(json.loads(said[said.index("{"):].splitlines()[0])["approved"], b.status()["device_id"])
        lines = [x for x in w.answer("y\n").splitlines() if x.startswith("{")]
        self.assertEqual(json.loads(lines[1])["joined"], self.workspace)
        self.assertIn("required", subprocess.run([claw.CLIENT, "join"], env=b.env(CLAW_WORKSPACE_ID=""), text=True,
                                                 capture_output=True, stdin=subprocess.DEVNULL).stderr)
        a.claw("devices", "approve", "surplus", want=2)


if __name__ == "__main__":
    claw.main()
