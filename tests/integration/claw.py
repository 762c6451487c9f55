"""Harness of the integration tests: real programs, real files, loopback only. Waits for conditions, never for time."""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CLAW_BUILD_DIR", ROOT / "build" / "release"))
CLIENT, SERVER = BUILD / "bin" / "claw-sync", BUILD / "bin" / "claw-sync-server"
SCHEMA = (ROOT / "tests" / "fixtures" / "claw_core.sql").read_text()
PATIENCE = float(os.environ.get("CLAW_TEST_PATIENCE", "120"))  # seconds until a condition counts as never coming
TABLES = ("memories", "memory_tags", "sessions", "tool_outputs", "memory_records")


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"never came: {what() if callable(what) else what}")
        time.sleep(0.01)


def clean_env(**more):
    env = {k: v for k, v in os.environ.items() if not k.startswith("CLAW_")}
    return env | {k: str(v) for k, v in more.items()}


def preloaded(fixture, **env):
    """The environment of a program with tests/fixtures/FIXTURE.c in it."""
    asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    return {"LD_PRELOAD": next(BUILD.resolve().rglob(f"{fixture}.so")), "ASAN_OPTIONS": asan.lstrip(":")} | env


class Hub:
    """claw-sync-server as a process of its own."""
    address = "127.0.0.1"

    def command(self, *args):
        return list(map(str, args))

    def __init__(self, folder, port=0, **env):
        self.folder, self.port, self.env, self.process = pathlib.Path(folder), port, env, None
        self.folder.mkdir(exist_ok=True)
        self.log = self.folder / "server.log"
        self.scheme = "http"

    def start(self):
        self.spawn()
        return self.wait_ready()

    def spawn(self):
        self.log.write_text("")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.command(SERVER, "--listen", f"{self.address}:{self.port}", "--data-dir", self.folder / "data"),
                stderr=log, stdout=subprocess.DEVNULL, env=clean_env(**self.env))

    def wait_ready(self):
        line = wait_until(self._ready, lambda: "hub ready: " + self.log.read_text())
        self.port = int(line.rsplit(":", 1)[1].rstrip('"}'))
        return self

    def _ready(self):
        if self.process.poll() is not None:
            raise AssertionError("hub ended: " + self.log.read_text())
        lines = [x for x in self.log.read_text().splitlines() if "listening on" in x]
        return lines and lines[0].strip()

    def stop(self, how=signal.SIGTERM):
        if self.process is None:
            return None
        self.process.send_signal(how)
        code = self.process.wait(PATIENCE)
        self.process = None
        return code

    def with_clock(self, secs):
        """Starts again, with a clock that is so much ahead of ours."""
        self.stop()
        self.env |= preloaded("late_clock", LATE_CLOCK_SECS=secs)
        self.start()

    @property
    def endpoint(self):
        return f"{self.scheme}://{self.address}:{self.port}"

    def database(self):
        return sqlite3.connect(self.folder / "data" / "hub.db", timeout=30)

    def numbers(self, sql):
        """The numbers that SQL finds in what it stores."""
        with contextlib.closing(self.database()) as db:
            return [r[0] for r in db.execute(sql)]


class Device:
    """A database, a data_dir, and the client program on them."""

    def __init__(self, folder, workspace, endpoint, schema=SCHEMA):
        self.folder, self.workspace, self.endpoint, self.daemon = pathlib.Path(folder), workspace, endpoint, None
        self.folder.mkdir(exist_ok=True)
        self.path, self.data = self.folder / "memory.db", self.folder / "state"
        if schema is not None:
            self.sql(schema)

    def command(self, *args):
        return list(map(str, args))

    def env(self, **more):
        return clean_env(**{"CLAW_WORKSPACE_ID": self.workspace, "CLAW_HUB_ENDPOINT": self.endpoint,
                            "CLAW_DB_PATH": self.path, "CLAW_DATA_DIR": self.data} | more)

    def claw(self, *args, want=0, **env):
        """Runs a command; checks the exit code; returns the completed process."""
        done = subprocess.run(self.command(CLIENT, *args), env=self.env(**env), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=PATIENCE * 2)
        if want is not None and done.returncode != want:
            raise AssertionError(f"claw-sync {args}: exit {done.returncode}, not {want}\n{done.stdout}{done.stderr}")
        return done

    def sync(self):
        out = self.claw("sync", "--json").stdout
        return json.loads(out)

    def start(self, *args, **env):
        self.log = (self.folder / "daemon.log").open("a")
        self.daemon = subprocess.Popen(self.command(CLIENT, "run", *args), env=self.env(**env), stdout=self.log, stderr=self.log,
                                       stdin=subprocess.DEVNULL)

    def stop(self, how=signal.SIGTERM):
        if self.daemon is None:
            return None
        self.daemon.send_signal(how)
        code = self.daemon.wait(PATIENCE)
        self.daemon = None
        self.log.close()
        return code

    def daemon_log(self):
        path = self.folder / "daemon.log"
        return path.read_text() if path.exists() else ""

    def sql(self, script):
        """A foreign writer: the sqlite3 shell."""
        done = subprocess.run(["sqlite3", "-bail", "-cmd", ".timeout 20000", "-cmd", "PRAGMA foreign_keys=ON", self.path],
                              input=script, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode != 0:
            raise AssertionError(f"sqlite3: {done.stderr}")
        return done.stdout

    def connect(self):
        db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        db.execute("PRAGMA foreign_keys=ON")
        db.text_factory = lambda b: b.decode("utf-8", "surrogateescape")  # SQLite's text need not be UTF-8
        return contextlib.closing(db)

    def query(self, sql, *args):
        with self.connect() as db:
            return db.execute(sql, args).fetchall()

    def value(self, sql, *args):
        rows = self.query(sql, *args)
        return rows[0][0] if rows else None

    def dump(self, tables=TABLES):
        with self.connect() as db:
            have = {r[0] for r in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            out = {}
            for t in tables:
                if t in have:
                    cols = [r[1] for r in db.execute(f'PRAGMA table_info("{t}")')]
                    out[t] = sorted(map(repr, db.execute("SELECT {} FROM \"{}\"".format(
                        ", ".join(f'typeof("{c}"), "{c}"' for c in sorted(cols)), t))))
            return out

    def check(self):
        """The database is whole: integrity, foreign keys, full-text index."""
        with self.connect() as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
            if db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'memories_fts'").fetchone():
                db.execute("INSERT INTO memories_fts(memories_fts, rank) VALUES ('integrity-check', 1)")

    def status(self):
        """What this device knows by itself."""
        return json.loads(self.claw("status", "--local", "--json").stdout)


class ClawTest(unittest.TestCase):
    """A temporary folder, a hub, and devices that have joined one workspace."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="claw-sync-test."))
        self.workspace = str(uuid.uuid4())
        self.hub, self.devices, self.processes = None, [], []
        self.passphrase = self.folder / "passphrase"
        self.passphrase.write_text("correct horse battery staple\n")

    def tearDown(self):
        result = getattr(getattr(self, "_outcome", None), "result", None)
        failed = result is not None and any(t is self for t, _ in result.failures + result.errors)
        for d in self.devices:
            with contextlib.suppress(Exception):
                d.stop(signal.SIGKILL)
        if self.hub is not None:
            with contextlib.suppress(Exception):
                self.hub.stop(signal.SIGKILL)
        if failed:
            for f in self.folder.glob("*/*.log"):
                sys.stderr.write(f"--- {f.name} of {f.parent.name}\n{f.read_text()[-3000:]}\n")
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_hub(self, kind=Hub, **env):
        self.hub = kind(self.folder / "hub", **env).start()
        return self.hub

    def device(self, name, **kw):
        d = Device(self.folder / name, self.workspace, self.hub.endpoint, **kw)
        self.devices.append(d)
        return d

    def join(self, inviter, newcomer):
        newcomer.claw("join", json.loads(inviter.claw("invite", "--json").stdout)["code"])

    def workspace_of(self, n, **kw):
        """n devices a, b, c … of one workspace."""
        if self.hub is None:
            self.start_hub()
        first = self.device("a", **kw)
        first.sync()
        others = [self.device(chr(ord("b") + i), **kw) for i in range(n - 1)]
        for d in others:
            self.join(first, d)
        return [first, *others]

    def settle(self, devices, tables=TABLES):
        """Rounds by hand until nothing moves and all are equal."""
        for _ in range(10):
            moved = [d.sync() for d in devices]
            if not any(s["pushed"] or s["pulled"] for s in moved):
                break
        self.assert_equal(devices, tables)

    def assert_equal(self, devices, tables=TABLES):
        want = devices[0].dump(tables)
        for d in devices[1:]:
            self.assertEqual(d.dump(tables), want, f"{d.folder.name} differs from {devices[0].folder.name}")
        for d in devices:
            d.check()

    def wait_equal(self, devices, tables=TABLES):
        """Daemons run: until all databases are equal and nothing is unsent."""
        def equal():
            want = devices[0].dump(tables)
            return all(d.dump(tables) == want for d in devices[1:])

        def at_rest():
            s = [d.status() for d in devices]
            return all(x["unsent"] == 0 and x["unsealed"] == 0 and x["bound_batches"] == 0 for x in s) and \
                len({x["log_number"] for x in s}) == 1 and equal()
        wait_until(at_rest, lambda: f"databases equal at rest: {[d.status() for d in devices]}")
        self.assert_equal(devices, tables)


def main():
    unittest.main(verbosity=2)
