"""Two and five devices and a hub, each in a network namespace of its own, on one bridge; one is cut off and healed. It says
OFFLINE while it is cut off, nothing is lost, and all converge. Needs the right to make network namespaces.

  tests/integration/namespaces_test.py [--all]      --all: two and five, in both ways (otherwise one way each)
"""
import os
import signal

from claw import *

SETTINGS = {"CLAW_RETRY_BASE_MS": 20, "CLAW_MAX_RETRIES": 2, "CLAW_SYNC_INTERVAL_SECS": 1, "CLAW_REQUEST_TIMEOUT_SECS": 3,
            "CLAW_CONNECT_TIMEOUT_SECS": 2, "CLAW_HEARTBEAT_INTERVAL_SECS": 1, "CLAW_ALLOW_PLAINTEXT": 1}


def ip(*args, check=True):
    return subprocess.run(["ip", *args], capture_output=True, text=True, check=check)


class Network:
    """Namespaces on a bridge that lies in one of them: nothing of it is seen outside."""

    def __init__(self):
        self.prefix, self.names = f"claw{os.getpid()}", []
        self.switch = self.make("switch")
        self.ip(self.switch, "link", "add", "bridge", "type", "bridge")
        self.ip(self.switch, "link", "set", "bridge", "up")

    def make(self, name):
        full = f"{self.prefix}-{name}"
        ip("netns", "add", full)
        self.names.append(full)
        ip("-n", full, "link", "set", "lo", "up")
        return full

    @staticmethod
    def ip(namespace, *args):
        return ip("-n", namespace, *args)

    def add(self, name, number):
        """A namespace with an address on the bridge."""
        full = self.make(name)
        self.ip(self.switch, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "net", "netns", full)
        self.ip(self.switch, "link", "set", f"to-{name}", "master", "bridge", "up")
        self.ip(full, "address", "add", f"10.0.0.{number}/24", "dev", "net")
        self.ip(full, "link", "set", "net", "up")
        return full

    def end(self):
        for n in self.names:
            ip("netns", "delete", n, check=False)


class Inside:
    """What starts a program in its namespace."""

    def command(self, *args):
        return ["ip", "netns", "exec", self.namespace, *map(str, args)]


class FarHub(Inside, Hub):
    address = "10.0.0.1"

    def __init__(self, folder, namespace):
        super().__init__(folder, 50051)
        self.namespace = namespace


class FarDevice(Inside, Device):
    def __init__(self, namespace, *args):
        super().__init__(*args)
        self.namespace = namespace

    def env(self, **more):
        return super().env(**SETTINGS | more)


def why_not():
    """Why there can be no namespaces here; empty: there can."""
    if shutil.which("ip") is None:
        return "there is no ip(8)"
    name = f"claw{os.getpid()}-try"
    done = ip("netns", "add", name, check=False)
    if done.returncode == 0:
        done = ip("-n", name, "link", "add", "bridge", "type", "bridge", check=False)
        ip("netns", "delete", name, check=False)
    return done.stderr.strip() if done.returncode != 0 else ""


class Namespaces(ClawTest):
    def setUp(self):
        super().setUp()
        self.network = Network()
        self.addCleanup(self.network.end)
        self.hub = FarHub(self.folder / "hub", self.network.add("hub", 1))
        self.hub.start()

    def far_workspace_of(self, n):
        for i in range(n):
            name = chr(ord("a") + i)
            self.devices.append(FarDevice(self.network.add(name, 10 + i), self.folder / name, self.workspace,
                                          self.hub.endpoint))
        self.devices[0].sync()
        for d in self.devices[1:]:
            self.join(self.devices[0], d)
        for d in self.devices:
            d.start()

    def write(self, device, what):
        device.sql("".join(f"INSERT INTO memories(id, content) VALUES ('{device.folder.name} {what} {i}', '{what}');"
                           for i in range(50)) +
                   f"INSERT INTO memory_tags(memory_id, tag) VALUES ('shared', '{device.folder.name} {what}');")

    def state(self, device):
        return json.loads(device.claw("status", "--json").stdout)

    def link(self, device, how):
        """Pulls the cable, or puts it in again."""
        self.network.ip(self.network.switch, "link", "set", f"to-{device.folder.name}", how)

    def drop(self, device, how):
        """What the hub sends to the device vanishes without a word, or does no more."""
        address = self.network.ip(device.namespace, "-4", "-o", "address", "show", "dev", "net").stdout.split()[3]
        verb = ("replace", "delete") if how == "down" else ("delete",)
        self.network.ip(self.hub.namespace, "route", verb[0], "blackhole", address.split("/")[0])

    def cut_off_and_heal(self, n, cut):
        self.far_workspace_of(n)
        self.devices[0].sql("INSERT INTO memories(id, content) VALUES ('shared', 'by all');")
        self.wait_equal(self.devices)
        far, others = self.devices[-1], self.devices[:-1]
        cut(far, "down")
        for d in self.devices:
            self.write(d, "meanwhile")
        wait_until(lambda: self.state(far)["state"] == "offline", lambda: self.state(far))
        out = far.claw("status").stdout
        self.assertRegex(out, r"(?m)^state +OFFLINE since ")
        wait_until(lambda: "offline, queued=" in far.daemon_log(), far.daemon_log)
        self.write(far, "later")
        self.wait_equal(others)  # they go on
        # what the one sent may have come to the hub, whose answers are lost
        here = others[0].value("SELECT count(*) FROM memories WHERE id NOT GLOB ?", far.folder.name + " *")
        self.assertEqual(here, 50 * len(others) + 1)
        for d in others:
            wait_until(lambda d=d: self.state(d)["state"] == "in-sync", lambda d=d: self.state(d))
        seen = {x["id"]: x["last_seen_ms"] for x in self.state(others[0])["devices"]}
        self.assertLess(seen[far.status()["device_id"]], max(seen.values()))
        cut(far, "up")
        self.wait_equal(self.devices)  # by itself
        for d in self.devices:
            wait_until(lambda d=d: self.state(d)["state"] == "in-sync", lambda d=d: self.state(d))
            self.assertEqual(d.value("SELECT count(*) FROM memories"), 50 * (n + 1) + 1)
            self.assertEqual(d.value("SELECT count(*) FROM memory_tags"), n + 1)
            self.assertEqual((self.state(d)["set_aside"], self.state(d)["hidden_rows"]), (0, 0))
            self.assertEqual(d.stop(signal.SIGTERM), 0)

    @unittest.skipUnless("--all" in sys.argv, "with --all")
    def test_two_devices_one_without_a_cable(self):
        self.cut_off_and_heal(2, self.link)

    def test_two_devices_one_in_a_black_hole(self):
        self.cut_off_and_heal(2, self.drop)

    def test_five_devices_one_without_a_cable(self):
        self.cut_off_and_heal(5, self.link)

    @unittest.skipUnless("--all" in sys.argv, "with --all")
    def test_five_devices_one_in_a_black_hole(self):
        self.cut_off_and_heal(5, self.drop)


if __name__ == "__main__":
    reason = why_not()
    if reason:
        print("no network namespaces here: " + reason)
        sys.exit(77)
    unittest.main(argv=[a for a in sys.argv if a != "--all"], verbosity=2)
