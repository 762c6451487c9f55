"""Under a service manager: readiness, a socket that is handed over, and the units that are installed."""
import re
import shutil
import socket

from claw import *

UNITS = BUILD / "dist"


class Manager:
    """The socket that a service manager listens on for sd_notify(3)."""

    def __init__(self, folder):
        self.path = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(PATIENCE)

    def heard(self):
        return self.socket.recv(4096).decode()


class Service(ClawTest):
    def setUp(self):
        super().setUp()
        self.manager = Manager(self.folder)
        self.addCleanup(self.manager.socket.close)

    def test_the_hub_says_where_it_is(self):
        self.start_hub(NOTIFY_SOCKET=self.manager.path)
        self.assertEqual(self.manager.heard(), "READY=1")
        self.hub.process.send_signal(signal.SIGHUP)
        self.assertRegex(self.manager.heard(), r"^RELOADING=1\nMONOTONIC_USEC=\d+$")
        self.assertEqual(self.manager.heard(), "READY=1")
        self.assertEqual(self.hub.stop(), 0)
        self.assertEqual(self.manager.heard(), "STOPPING=1")

    def test_the_client_too(self):
        self.start_hub()
        d = self.device("d")
        d.start(NOTIFY_SOCKET=self.manager.path)
        self.assertEqual(self.manager.heard(), "READY=1")
        self.assertEqual(d.stop(), 0)
        self.assertEqual(self.manager.heard(), "STOPPING=1")

    def test_nobody_listens(self):
        for path in (str(self.folder / "none"), "relative", "@" + "x" * 200, "@nobody-here"):
            self.start_hub(NOTIFY_SOCKET=path)
            self.assertEqual(self.hub.stop(), 0)


class HandedOver(ClawTest):
    """Socket activation, sd_listen_fds(3)."""

    def hub_on(self, fd, n=1, wait=True):
        """A hub whose descriptor 3 is ours."""
        with (self.folder / "handed.log").open("w") as log:
            process = subprocess.Popen(
                ["sh", "-c", f'exec 3<&{fd}; LISTEN_PID=$$ LISTEN_FDS={n} exec "$0" "$@"', SERVER, "--data-dir",
                 self.folder / "data"],
                pass_fds=(fd,), env=clean_env(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        if wait:
            wait_until(lambda: "listening on" in self.said() or process.poll() is not None, self.said)
        return process

    def said(self):
        return (self.folder / "handed.log").read_text()

    def test_connections_wait_while_it_restarts(self):
        (self.folder / "data").mkdir()
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            port = s.getsockname()[1]
            hub = self.hub_on(s.fileno())
            self.assertIn(f"listening on 127.0.0.1:{port}", self.said())
            d = Device(self.folder / "d", self.workspace, f"http://127.0.0.1:{port}")
            d.sync()
            hub.terminate()
            self.assertEqual(hub.wait(PATIENCE), 0)
            d.sql("INSERT INTO memories(id, content) VALUES ('m', 'x');")
            pending = subprocess.Popen([CLIENT, "sync", "--json"], env=d.env(CLAW_MAX_RETRIES=0), stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, text=True)
            hub = self.hub_on(s.fileno())
            said, _ = pending.communicate(timeout=PATIENCE)
            self.assertEqual(pending.returncode, 0, said)
            hub.terminate()
            self.assertEqual(hub.wait(PATIENCE), 0)

    def test_what_is_no_such_socket(self):
        (self.folder / "data").mkdir()
        with socket.socket() as s, open(os.devnull) as f:
            self.assertEqual(self.hub_on(s.fileno(), wait=False).wait(PATIENCE), 2)
            self.assertIn("does not listen", self.said())
            self.assertEqual(self.hub_on(f.fileno(), wait=False).wait(PATIENCE), 2)
            self.assertIn("does not listen", self.said())
            self.assertEqual(self.hub_on(s.fileno(), n=2, wait=False).wait(PATIENCE), 2)
            self.assertIn("2 sockets", self.said())


class Units(unittest.TestCase):
    def analyze(self, *args):
        done = subprocess.run(["systemd-analyze", *map(str, args)], capture_output=True, text=True, timeout=PATIENCE)
        return done.returncode, done.stdout + done.stderr

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="claw-sync-test."))
        self.addCleanup(shutil.rmtree, self.folder)
        for name, to in (("claw-sync-server.service",) * 2, ("claw-sync@.service", "claw-sync@user.service"),
                         ("claw-sync.user.service", "claw-sync.service")):
            text = (UNITS / name).read_text()
            program = re.search(r"^ExecStart=(\S+)/(claw-sync\S*)", text, re.M)
            self.assertTrue(program[1].startswith("/"), text)
            (self.folder / to).write_text(text.replace(f"{program[1]}/", f"{BUILD}/bin/"))
        shutil.copy(ROOT / "dist" / "systemd" / "claw-sync-server.socket", self.folder)

    def test_they_are_understood(self):
        for name in ("claw-sync-server.socket", "claw-sync-server.service", "claw-sync@user.service"):
            rc, said = self.analyze("verify", "--man=no", "--recursive-errors=no", self.folder / name)
            ours = [line for line in said.splitlines() if "claw-sync" in line]
            self.assertEqual((rc, ours), (0, []), said)

    def test_how_exposed_they_are(self):
        """At most 1.5 of 10, by systemd-analyze's count."""
        for name in ("claw-sync-server.service", "claw-sync@user.service"):
            rc, said = self.analyze("security", "--offline=true", "--no-pager", "--threshold=15", self.folder / name)
            self.assertEqual(rc, 0, said)
            self.assertIn("Overall exposure level", said)


if __name__ == "__main__":
    main()
