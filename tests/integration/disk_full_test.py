"""Full disks: of the application's database, of data_dir (queue, audit log, checkpoints, keystore, membership), of the hub. It
says so meanwhile, goes on by itself when there is room again, and loses nothing. Needs the right to mount a tmpfs."""
import os
import re
import signal

from claw import *

SETTINGS = {"CLAW_RETRY_BASE_MS": 20, "CLAW_MAX_RETRIES": 1, "CLAW_SYNC_INTERVAL_SECS": 1, "CLAW_MAX_DELTA_ROWS": 20}
SIZE = 24 << 20
FULL = r"disk is full|No space left on device"


def mount(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "claw-sync-test", folder], capture_output=True,
                          text=True, check=False)


def umount(folder):
    subprocess.run(["umount", "-l", folder], check=False)


def why_not():
    """Why nothing can be mounted here; empty: it can."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="claw-sync-test."))
    done = mount(folder)
    if done.returncode == 0:
        umount(folder)
    folder.rmdir()
    return done.stderr.strip() if done.returncode != 0 else ""


class Disk:
    """A small file system of its own, which can be filled to its last byte."""

    def __init__(self, folder):
        self.folder, self.ballast = folder, folder / "ballast"
        done = mount(folder)
        if done.returncode != 0:
            raise AssertionError(done.stderr)

    def fill(self):
        with self.ballast.open("ab", buffering=0) as f:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while f.write(b"x" * size) == size:
                        pass

    def free(self):
        self.ballast.unlink()


class DiskFull(ClawTest):
    def disk(self, folder):
        d = Disk(folder)
        self.addCleanup(umount, folder)
        return d

    def device_on(self, name, mounted):
        """A device whose folder, or whose data_dir, is a disk of its own."""
        folder = self.folder / name
        disk = self.disk(folder / mounted)
        return self.device(name), disk

    def workspace_on(self, mounted):
        self.start_hub()
        a, disk = self.device_on("a", mounted)
        b = self.device("b")
        a.sync()
        self.join(a, b)
        for d in (a, b):
            d.start(**SETTINGS)
        self.write(b, "before")
        self.wait_equal([a, b])
        return a, b, disk

    def write(self, device, what, n=200):
        with device.connect() as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO memory_records(id, body) VALUES (?, ?)",
                           ((f"{device.folder.name} {what} {i}", what * 40) for i in range(n)))
            db.execute("COMMIT")

    def said_full(self, device):
        wait_until(lambda: re.search(FULL, device.daemon_log()), lambda: f"a word about the disk: {device.daemon_log()}")

    def all_there(self, devices, rows):
        """By itself, and nothing is missing."""
        self.wait_equal(devices)
        for d in devices:
            self.assertEqual(d.value("SELECT count(*) FROM memory_records"), rows)
            s = json.loads(d.claw("status", "--json").stdout)
            self.assertEqual((s["set_aside"], s["hidden_rows"], s["conflicts"]), (0, 0, 0))
            wait_until(lambda d=d: json.loads(d.claw("status", "--json").stdout)["state"] == "in-sync", "in sync")
            d.claw("audit", "verify")
            for path in d.data.rglob("*.db"):
                with contextlib.closing(sqlite3.connect(path)) as db:
                    self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)], path.name)
        with contextlib.closing(self.hub.database()) as db:
            self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])

    def test_where_the_database_is(self):
        a, b, disk = self.workspace_on("")
        disk.fill()
        with self.assertRaisesRegex(sqlite3.OperationalError, "full"):
            self.write(a, "too much", 20000)  # the application is told, as without us
        self.write(b, "meanwhile", 3000)
        self.said_full(a)
        self.assertEqual(a.daemon.poll(), None)
        disk.free()
        self.write(a, "after")
        self.all_there([a, b], 200 + 3000 + 200)

    def test_where_the_data_dir_is(self):
        a, b, disk = self.workspace_on("state")
        disk.fill()
        self.write(b, "meanwhile")
        self.write(a, "meanwhile")
        b.claw("keys", "rotate")  # what a is to keep in its membership log and its keystore
        self.write(b, "under the new key")
        self.said_full(a)
        self.assertEqual(a.daemon.poll(), None)
        self.hub.stop(signal.SIGKILL)  # what a is to keep in its queue
        self.write(a, "alone")
        self.hub.start()
        disk.free()
        self.all_there([a, b], 5 * 200)

    def test_a_client_that_starts_with_no_room(self):
        a, b, disk = self.workspace_on("state")
        a.stop()
        disk.fill()
        done = a.claw("sync", want=None)
        self.assertIn(done.returncode, (0, 1))
        self.assertTrue(done.returncode == 0 or re.search(FULL, done.stderr), done.stderr)
        disk.free()
        a.start(**SETTINGS)
        self.write(a, "after")
        self.all_there([a, b], 400)

    def test_where_the_hub_is(self):
        disk = self.disk(self.folder / "hub" / "data")
        a, b = self.workspace_of(2)
        for d in (a, b):
            d.start(**SETTINGS)
        self.write(a, "before")
        self.wait_equal([a, b])
        disk.fill()
        for d in (a, b):
            self.write(d, "meanwhile", 2000)
            wait_until(lambda d=d: "the hub's storage refused the work" in d.daemon_log(), d.daemon_log)
        self.assertEqual(self.hub.process.poll(), None)
        self.assertRegex(self.hub.log.read_text(), FULL)
        s = json.loads(a.claw("status", "--json").stdout)
        self.assertNotEqual(s["state"], "in-sync")
        self.assertEqual(s["needs_you"], [])  # it is the hub's matter, and goes on by itself
        disk.free()
        self.all_there([a, b], 200 + 2 * 2000)


if __name__ == "__main__":
    reason = why_not()
    if reason:
        print("no file system can be mounted here: " + reason)
        sys.exit(77)
    main()
