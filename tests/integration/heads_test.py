"""`claw-sync verify-heads`: two people compare what the hub has shown to each of them."""
import json, shutil

import claw


class Heads(claw.ClawTest):
    def code(self, device, *place):
        return json.loads(device.claw("verify-heads", *place, "--json").stdout)

    def write(self, device, name):
        device.sql(f"INSERT INTO memories(id, content) VALUES ('{name}', 'text');")

    def test_equal_where_the_hub_is_honest(self):
        a, b = self.workspace_of(2)
        self.assertIn("claw-sync sync", a.claw("verify-heads", want=2).stderr)  # there is no log yet
        self.write(a, "m")
        self.settle([a, b])
        first = self.code(a)
        self.assertRegex(first["code"], r"^[0-9A-Z]{4}-[0-9A-Z]{4}$")
        self.assertEqual(self.code(b), first)
        self.write(b, "n")
        self.settle([a, b])
        second = self.code(a)
        self.assertNotEqual(second, first)
        place = f"{first['number']}/{first['member_seq']}"
        self.assertEqual(self.code(b, place), first)  # at an earlier place, too
        text = a.claw("verify-heads").stdout
        self.assertIn(f"{second['code']} at {second['number']}/{second['member_seq']}\n", text)
        a.start()  # beside a daemon
        claw.wait_until(lambda: "connected" in a.daemon_log(), a.daemon_log)
        self.assertEqual(self.code(a), second)

    def test_a_fork_shows(self):
        a, b = self.workspace_of(2)
        self.write(a, "m")
        self.settle([a, b])
        self.hub.stop()
        shutil.copytree(self.hub.folder / "data", self.folder / "other" / "data")
        self.hub.start()
        other = claw.Hub(self.folder / "other").start()
        try:
            b.endpoint = other.endpoint  # the same hub, as b is shown it
            for d, name in ((a, "x"), (b, "y")):
                self.write(d, name)
                d.sync()
            here, there = self.code(a), self.code(b)
        finally:
            other.stop()
        self.assertEqual((here["number"], here["member_seq"]), (there["number"], there["member_seq"]))
        self.assertNotEqual(here["code"], there["code"])
        before = f"{here['number'] - 1}/{here['member_seq']}"
        self.assertEqual(self.code(a, before), self.code(b, before))  # and shows where it begins

    def test_wrong_use(self):
        a, = self.workspace_of(1)
        self.write(a, "m")
        a.sync()
        for place in ("x", "1", "1/", "/1", "0/1", "1/0", "1/1x", "-1/1", "99999999999999999999/1", ""):
            self.assertIn("N/M", a.claw("verify-heads", place, want=2).stderr, place)
        self.assertIn("has read the log up to 1 ", a.claw("verify-heads", "2/1", want=2).stderr)
        self.assertIn("membership up to 1;", a.claw("verify-heads", "1/2", want=2).stderr)


if __name__ == "__main__":
    claw.main()
