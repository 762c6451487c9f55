"""Wrong use: one clear line, the right exit code, nothing changed."""
import contextlib
import hashlib
import json
import os
import pty
import shutil
import signal
import socket
import stat

from claw import *


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Arguments(ClawTest):
    def setUp(self):
        super().setUp()
        self.d = Device(self.folder / "d", self.workspace, f"http://127.0.0.1:{free_port()}")

    def refused(self, *args, want=2, says=None, **env):
        before = self.d.path.read_bytes()
        done = self.d.claw(*args, want=want, **env)
        self.assertEqual(done.stdout, "")
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        if says is not None:
            self.assertIn(says, done.stderr)
        self.assertEqual(self.d.path.read_bytes(), before, "the database was touched")

    def test_malformed_values(self):
        for args, env in [
            (("sync", "--workspace-id", "nonsense"), {}),
            (("sync",), {"CLAW_WORKSPACE_ID": ""}),
            (("sync", "--device-id", "12345678"), {}),
            (("sync", "--hub-endpoint", "ftp://x"), {}),
            (("sync", "--hub-endpoint", "http://"), {}),
            (("sync", "--hub-endpoint", "http://h:99999"), {}),
            (("sync", "--hub-endpoint", "http://h:1/path"), {}),
            (("sync", "--max-delta-rows", "-1"), {}),
            (("sync", "--max-delta-rows", "12x"), {}),
            (("sync", "--max-chunk-bytes", "99999999999999999999"), {}),
            (("sync",), {"CLAW_SYNC_INTERVAL_SECS": "soon"}),
            (("sync",), {"CLAW_TLS_ENABLED": "perhaps"}),
            (("sync", "--no-such-option"), {}),
            (("sync", "surplus"), {}),
            (("sync", "--config", "/nonexistent/file"), {}),
            (("sync", "--db-path"), {}),
            (("frobnicate",), {}),
            (("keys",), {}),
            (("track",), {}),
            (("keys", "export", "f", "--expires", "0"), {}),
        ]:
            with self.subTest(args=args, env=env):
                self.refused(*args, **env)

    def test_precedence_flag_variable_file(self):
        conf = self.folder / "conf"
        conf.write_text(f"# comment\nCLAW_DB_PATH = \"{self.folder}/file.db\"\nCLAW_WORKSPACE_ID={self.workspace}\n\n")
        env = clean_env(CLAW_CONFIG_FILE=conf)
        run = lambda *a, **e: subprocess.run([CLIENT, "status", *a], env=env | e, capture_output=True, text=True).stderr
        self.assertIn("file.db", run())
        self.assertIn("variable.db", run(CLAW_DB_PATH=f"{self.folder}/variable.db"))
        self.assertIn("flag.db", run("--db-path", f"{self.folder}/flag.db", CLAW_DB_PATH=f"{self.folder}/variable.db"))
        conf.write_text("CLAW_DB_PATH=x\nnonsense\n")
        self.assertIn("conf:2", run())

    def test_half_a_command_names_the_whole_ones(self):
        self.refused("keys", says="claw-sync keys rotate, claw-sync keys export, claw-sync keys import")
        self.refused("recovery", "foo", says="claw-sync recovery create, claw-sync recovery use")
        self.refused("key", says='no command "key"')

    def test_help_and_version(self):
        self.assertIn("usage:", self.d.claw("--help").stdout)
        for c in ("run", "sync", "push", "pull", "status", "track", "untrack", "pause", "resume", "tables", "version"):
            self.assertIn("usage: claw-sync " + c, self.d.claw(c, "--help").stdout)
        self.assertIn("usage: claw-sync keys export", self.d.claw("keys", "export", "--help").stdout)
        for family, commands in (("queue", "list retry export"), ("hidden", "list show dismiss"), ("conflicts", "list resolve"),
                                 ("hub", "refill accept"), ("keys", "rotate"), ("audit", "verify")):
            said = self.d.claw(family, "--help").stdout
            for c in commands.split():
                self.assertRegex(said, rf"(?m)^  {family} {c} ")
        self.refused("queue", "list --help")
        self.refused("nonsense", "--help")
        self.assertRegex(self.d.claw("version").stdout, r"^claw-sync \d+\.\d+\.\d+\n$")
        self.assertRegex(json.loads(self.d.claw("version", "--json").stdout)["version"], r"^\d+\.\d+\.\d+$")

    def test_errors_as_json(self):
        done = self.d.claw("sync", "--json", "--workspace-id", "x", want=2)
        self.assertEqual(json.loads(done.stdout)["error"]["code"], "invalid")

    def test_databases_that_cannot_be_used(self):
        folder = self.folder
        (folder / "text.db").write_text("this is not a database, but long enough to look at it" * 20)
        (folder / "empty-folder").mkdir()
        with contextlib.closing(sqlite3.connect(folder / "newer.db")) as db:
            db.executescript("CREATE TABLE sync_meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;"
                             "INSERT INTO sync_meta VALUES ('format', 999);")
        for path, word in [("missing.db", "missing.db"), ("text.db", "not a database"), ("newer.db", "newer"),
                           (":memory:", ":memory:"), ("empty-folder", "empty-folder")]:
            with self.subTest(path):
                full = path if path == ":memory:" else folder / path
                before = full.read_bytes() if path != ":memory:" and full.is_file() else None
                done = self.d.claw("sync", "--db-path", full, want=None)
                self.assertIn(done.returncode, (1, 2))
                self.assertIn(word, done.stderr)
                if path != "newer.db":
                    self.assertIn(str(full), done.stderr)
                self.assertNotIn("cannot change", done.stderr)
                if before is not None:
                    self.assertEqual(full.read_bytes(), before)
                self.assertFalse((folder / "missing.db").exists())

    def test_locked_database(self):
        self.d.claw("track", "sessions")
        with self.d.connect() as db:
            db.execute("BEGIN EXCLUSIVE")
            self.assertIn(self.d.claw("tables", want=None).returncode, (0, 1))
            done = self.d.claw("track", "memories", want=1)
            self.assertIn("locked", done.stderr)
            db.execute("ROLLBACK")
        self.d.claw("track", "memories")

    def test_read_only_database(self):
        self.d.sql("PRAGMA journal_mode = DELETE;")
        self.d.path.chmod(0o444)
        before = self.d.path.read_bytes()
        done = self.as_anybody("sync")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("read-only", done.stderr)
        self.assertEqual(self.d.path.read_bytes(), before)

    def as_anybody(self, *args):
        """Root reads and writes all files; here without this power."""
        command = [CLIENT, *args]
        if os.geteuid() == 0:
            powers = "-dac_override,-dac_read_search"
            command = ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}", *command]
        return subprocess.run(command, env=self.d.env(), capture_output=True, text=True)

    def test_a_database_that_may_not_be_read(self):
        self.d.path.chmod(0)
        for command in ("sync", "status", "tables"):
            done = self.as_anybody(command)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(f'"{self.d.path}": ', done.stderr)
            self.assertIn("permission denied", done.stderr)

    def test_hub_unreachable(self):
        done = self.d.claw("sync", want=3, CLAW_MAX_RETRIES=0)
        self.assertIn("cannot reach hub", done.stderr)
        self.assertIn("connection refused", done.stderr)


class Tables(ClawTest):
    def setUp(self):
        super().setUp()
        self.start_hub()
        self.d = self.device("d")

    def names(self):
        return {t["name"]: t for t in json.loads(self.d.claw("tables", "--json").stdout)["tables"]}

    def test_tables_that_need_an_extension(self):
        """Who writes the table needs a function of the application's: so do we."""
        schema = SCHEMA + """CREATE TABLE echo(what TEXT);
            CREATE TRIGGER loud AFTER INSERT ON tool_outputs BEGIN INSERT INTO echo VALUES (shout(NEW.tool)); END;"""
        extension = next(BUILD.resolve().rglob("shout.so"))
        a, b = self.device("a", schema=schema), self.device("b", schema=schema)
        refused = a.claw("track", "tool_outputs", want=2).stderr
        self.assertIn("no such function: shout", refused)
        self.assertIn("no such function: shout", a.claw("tables").stdout)
        for d in (a, b):
            d.claw("track", "tool_outputs", CLAW_SYNC_LOAD_EXTENSION=extension)
        with a.connect() as db:
            db.create_function("shout", 1, str.upper)
            db.execute("INSERT INTO tool_outputs(id, tool) VALUES ('t', 'grep')")
        a.claw("sync", CLAW_SYNC_LOAD_EXTENSION=extension)
        self.join(a, b)
        b.claw("sync", "--load-extension", extension)
        self.assertEqual(b.query("SELECT what FROM echo"), [("GREP",)])
        self.assertIn("cannot load", a.claw("sync", want=2, CLAW_SYNC_LOAD_EXTENSION="/no/such.so").stderr)

    def test_track_untrack_leaves_everything_as_it_was(self):
        schema = lambda: self.d.query("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2")
        self.d.sql("CREATE TABLE notes(a TEXT, b INTEGER, c BLOB, PRIMARY KEY(a, b)) WITHOUT ROWID;"
                   "INSERT INTO notes VALUES ('x', 1, x'00');")
        before, rows = schema(), self.d.query("SELECT * FROM notes")
        self.d.claw("track", "notes")
        self.assertEqual(self.names()["notes"]["state"], "tracked")
        self.d.sql("UPDATE notes SET c = 1;")
        self.assertIn("it was the last one", self.d.claw("untrack", "notes").stdout)
        self.assertEqual(schema(), before)
        self.assertEqual(len(self.d.query("SELECT * FROM notes")), len(rows))

    def test_status_names_what_is_still_to_be_taken_in(self):
        self.d.sql("INSERT INTO sessions(id, agent) VALUES ('s', 'here before');")
        self.d.claw("track", "sessions")
        self.assertEqual(self.d.status()["taking_in"], 1)
        self.assertIn("existing rows of 1 table", self.d.claw("status").stdout)
        self.d.sync()
        self.assertEqual(self.d.status()["taking_in"], 0)
        self.assertNotIn("existing rows", self.d.claw("status").stdout)

    def test_refused_tables_say_why(self):
        self.d.sql("CREATE TABLE nokey(a); CREATE TABLE alias(id INTEGER PRIMARY KEY, a);"
                   "CREATE TABLE nullkey(a TEXT PRIMARY KEY); INSERT INTO nullkey VALUES (NULL);"
                   "CREATE VIEW v AS SELECT 1;")
        for table, why in [("nokey", "primary key"), ("alias", "rowid"), ("nullkey", "NULL"), ("memories_fts", "virtual"),
                           ("nowhere", "nowhere"), ("sqlite_schema", "sqlite_schema"), ("v", "v")]:
            with self.subTest(table):
                self.assertIn(why, self.d.claw("track", table, want=2).stderr)
        self.d.claw("track", "alias", "--force")

    def test_pause_resume_around_a_migration(self):
        b = None
        self.d.sync()
        b = self.device("b")
        self.join(self.d, b)
        self.d.sql("INSERT INTO sessions(id, agent, title) VALUES ('s1', 'x', 'one'), ('s2', 'x', 'two');")
        self.settle([self.d, b])
        self.d.claw("pause", "sessions")
        self.d.sql("ALTER TABLE sessions DROP COLUMN state; UPDATE sessions SET title = 'changed' WHERE id = 's1';"
                   "DELETE FROM sessions WHERE id = 's2'; INSERT INTO sessions(id, agent) VALUES ('s3', 'y');")
        self.d.claw("resume", "sessions")
        self.d.sync(), b.sync()
        self.assertEqual(b.query("SELECT id, agent, title FROM sessions ORDER BY id"),
                         [("s1", "x", "changed"), ("s3", "y", None)])

    def test_an_unusable_table_does_not_stop_the_rest(self):
        self.d.sql("DROP TABLE tool_outputs; CREATE TABLE tool_outputs(x);")
        self.d.sql("INSERT INTO memories(id, content) VALUES ('m', 'x');")
        self.assertEqual(self.d.sync()["pushed"], 1)

    def test_two_engines_on_one_database(self):
        self.d.sync()
        self.d.start()
        wait_until(lambda: "replicating" in self.d.daemon_log(), "daemon")
        self.assertRegex(self.d.claw("run", want=1).stderr, rf"{self.d.daemon.pid} .* stop it first")
        self.assertEqual(self.d.stop(), 0)
        self.d.sync()

    def test_a_daemon_that_was_killed_and_is_not_asked_about(self):
        """As in a container whose first process asks about nobody."""
        self.d.sync()
        self.d.start()
        wait_until(lambda: "connected" in self.d.daemon_log(), self.d.daemon_log)
        os.kill(self.d.daemon.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.d.daemon.pid, os.WEXITED | os.WNOWAIT)
        self.assertIsNone(json.loads(self.d.claw("status", "--json").stdout)["daemon"])
        self.d.sync()

    def test_rounds_beside_the_daemon(self):
        """It does them, says so, and fails as a round without it fails. Several may ask at once."""
        b = self.device("b")
        self.d.sync()
        self.join(self.d, b)
        self.d.start(CLAW_MAX_RETRIES=0)
        wait_until(lambda: "connected" in self.d.daemon_log(), self.d.daemon_log)
        for command in ("push", "sync"):
            self.d.sql(f"INSERT INTO memories(id, content) VALUES ('{command}', 'x');")
            self.d.claw(command)
            b.claw("pull")
            self.assertEqual(b.value(f"SELECT count(*) FROM memories WHERE id = '{command}'"), 1)
        b.sql("INSERT INTO memories(id, content) VALUES ('of b', 'x');")
        b.sync()
        self.d.claw("pull")
        self.assertEqual(self.d.value("SELECT count(*) FROM memories"), 3)
        done = json.loads(self.d.claw("sync", "--json").stdout)
        self.assertEqual((done["pushed"], done["pulled"]), (0, 0))
        self.assertGreater(done["log_number"], 0)
        many = [subprocess.Popen([CLIENT, "sync"], env=self.d.env(), stdout=subprocess.PIPE, text=True) for _ in range(3)]
        self.assertEqual([p.communicate(timeout=PATIENCE)[0] for p in many], ["pushed=0, pulled=0\n"] * 3)
        self.hub.stop(signal.SIGKILL)
        self.d.claw("sync", want=3)


class Progress(ClawTest):
    ROWS = ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4500) "
            "INSERT INTO memory_records(id, title) SELECT 'r' || i, i FROM n;")

    def setUp(self):
        super().setUp()
        self.start_hub()
        self.d = self.device("d")
        self.d.sql(self.ROWS)  # here before tracking: backfilled, then pushed

    def test_plain_lines(self):
        err = self.d.claw("push").stderr
        self.assertRegex(err, r"(?m)^claw-sync: sealing \d+ of 4500$")
        self.assertRegex(err, r"(?m)^claw-sync: pushing \d+ of 4500$")
        self.d.sql("INSERT INTO memory_records(id) VALUES ('one more');")
        self.assertEqual(self.d.claw("push").stderr, "")
        self.d.sql("UPDATE memory_records SET title = 'x';")
        self.assertEqual(self.d.claw("push", "--quiet").stderr, "")

    def test_a_bar_on_a_terminal(self):
        mine, theirs = pty.openpty()
        with open(mine, "rb", buffering=0) as screen:
            run = subprocess.Popen([CLIENT, "push"], env=self.d.env(), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=theirs)
            os.close(theirs)
            shown = b""
            with contextlib.suppress(OSError):  # Linux: the other side is closed
                while piece := screen.read(4096):
                    shown += piece
            self.assertEqual(run.wait(PATIENCE), 0)
        for name in (b"sealing", b"pushing"):
            self.assertRegex(shown, b"\r" + name + rb" +\[#* *\] \d+ of 4500 ")
        self.assertTrue(shown.endswith(b"\r"), shown[-100:])  # and the line is clean in the end

    def test_the_daemon_tells_too(self):
        self.d.start()
        wait_until(lambda: "pushing" in self.d.daemon_log(), self.d.daemon_log)
        wait_until(lambda: self.d.status()["unsent"] == 0, self.d.status)
        self.d.stop()
        self.assertIn("sealing", self.d.daemon_log())


class Output(ClawTest):
    """What was printed is where it is to be, or the exit code says otherwise."""
    COMMANDS = ("recovery create", "audit export", "audit tail", "hidden export", "invite", "status --json", "status", "sync --json",
                "conflicts list", "devices", "queue list", "tables", "doctor", "--help", "version", "run --help", "sync --nonsense --json")

    def into(self, path, *args):
        with open(path, "w") as out:
            return subprocess.run([CLIENT, *args], env=self.d.env(), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE,
                                  text=True, timeout=PATIENCE)

    def test_a_full_disk(self):
        self.d, b = self.workspace_of(2)
        self.d.sql("INSERT INTO memories(id, content) VALUES ('m', 'one');")
        self.settle([self.d, b])
        self.d.sql("INSERT INTO memory_tags(memory_id, tag) VALUES ('m', 'x');")
        b.sql("DELETE FROM memories;")
        self.settle([self.d, b])
        self.assertNotEqual(self.d.claw("hidden", "export").stdout, "")
        for command in self.COMMANDS:
            done = self.into("/dev/full", *command.split())
            with self.subTest(command):
                self.assertEqual(done.returncode, 2 if "nonsense" in command else 1, done.stderr)
                *others, last = done.stderr.splitlines()
                self.assertIn("claw-sync: cannot write to standard output: No space left on device", last)
                self.assertEqual([x for x in others if "memory" in x], [])
        for command in ("recovery create", "invite"):
            self.assertRegex(self.into("/dev/full", *command.split()).stderr, "claw-sync devices lists it, claw-sync devices revoke removes it")
        self.assertEqual(self.into("/dev/null", "devices").returncode, 0)

    def test_a_reader_that_leaves(self):
        self.d, = self.workspace_of(1)
        r, w = os.pipe()
        os.close(r)
        with os.fdopen(w, "w") as out:
            for args, says in ((("audit", "export"), ""), (("devices",), ""), (("status", "--watch"), ""),
                               (("invite",), "the invite is open all the same")):
                done = subprocess.run([CLIENT, *args], env=self.d.env(), stdin=subprocess.DEVNULL, stdout=out,
                                      stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(says, done.stderr)
                self.assertEqual(done.stderr == "", says == "", done.stderr)

    def test_a_daemon_outlives_its_reader(self):
        """A log that is full, or a journal that starts anew, is no failure of a daemon that is told to end."""
        self.d, = self.workspace_of(1)
        with open("/dev/full", "w") as out:
            run = subprocess.Popen([CLIENT, "run"], env=self.d.env(), stdin=subprocess.DEVNULL, stdout=out)
        try:
            wait_until(lambda: (self.d.status()["daemon"] or {}).get("connected"), self.d.status)
        finally:
            run.send_signal(signal.SIGTERM)
        self.assertEqual(run.wait(PATIENCE), 0)


class NotSetUp(ClawTest):
    """Looking at a database that claw-sync never was on: an answer, and nothing changed."""

    def setUp(self):
        super().setUp()
        self.d = Device(self.folder / "d", self.workspace, f"http://127.0.0.1:{free_port()}")
        self.d.sql("CREATE TABLE nokey(a); INSERT INTO sessions(id, agent) VALUES ('s', 'x');")
        self.d.sql("PRAGMA journal_mode = DELETE;")
        self.before = self.everything()

    def everything(self):
        return {p: p.read_bytes() for p in self.d.folder.rglob("*") if p.is_file()}

    def looked(self, *args):
        out = self.d.claw(*args).stdout
        self.assertEqual(self.everything(), self.before)
        self.assertFalse(self.d.data.exists())
        return out

    def test_tables_lists_the_candidates(self):
        t = {t["name"]: t for t in json.loads(self.looked("tables", "--json"))["tables"]}
        self.assertEqual({x["state"] for x in t.values()}, {"untracked"})
        self.assertEqual((t["sessions"]["rows"], "problem" in t["sessions"]), (1, False))
        self.assertIn("primary key", t["nokey"]["problem"])
        self.assertRegex(self.looked("tables"), r"(?m)^sessions +not tracked +1 ")

    def test_status_says_what_to_do(self):
        s = json.loads(self.looked("status", "--json"))
        self.assertEqual((s["set_up"], s["workspace_id"], s["device_id"], s["tracked_tables"]), (False, None, None, 0))
        out = self.looked("status")
        for words in ("not set up", "claw-sync sync", "claw-sync keys import FILE"):
            self.assertIn(words, out)

    def test_set_up_afterwards(self):
        self.d.claw("track", "sessions")
        s = self.d.status()
        self.assertEqual((s["set_up"], s["workspace_id"], s["tracked_tables"]), (True, None, 1))
        self.d.claw("untrack", "sessions")
        self.assertFalse(self.d.status()["set_up"])


class WrongPlace(ClawTest):
    """A database or a data_dir that is not the one meant: said, by commands that look, too."""
    QUEUE = ("queue list", "queue retry", "queue export")
    OF_DATABASE = ("hidden list", "hidden export", "hidden retry", "conflicts list")

    def setUp(self):
        super().setUp()
        self.a, self.b = self.workspace_of(2)
        self.text = self.folder / "text"
        self.text.write_text("no database, and no folder either" * 100)

    def refused(self, command, says, want=2, **env):
        with self.subTest(command, **{k: str(v) for k, v in env.items()}):
            done = self.a.claw(*command.split(), want=want, **env)
            self.assertEqual(done.stdout, "")
            self.assertRegex(done.stderr, says)

    def test_a_database(self):
        for command in self.QUEUE + self.OF_DATABASE:
            self.refused(command, "does not exist", CLAW_DB_PATH=self.folder / "no.db")
            self.refused(command, "is a folder", CLAW_DB_PATH=self.folder)
            self.refused(command, "not a database", want=1, CLAW_DB_PATH=self.text)

    def test_a_data_dir(self):
        for command in self.QUEUE + self.OF_DATABASE:
            self.refused(command, "data_dir .* is no folder", CLAW_DATA_DIR=self.text)
            self.refused(command, "was replicated by device .* whose keys are not in .*/b/state", CLAW_DATA_DIR=self.b.data)
        for command in self.QUEUE:
            self.refused(command, "the keys of device .* are not in .*/nowhere", CLAW_DATA_DIR=self.folder / "nowhere")
        for command in self.OF_DATABASE:  # what they show is there without it
            done = self.a.claw(*command.split(), CLAW_DATA_DIR=self.folder / "nowhere")
            self.assertRegex(done.stderr, "the keys of device .* are not in .*/nowhere")
            self.assertEqual(done.stdout, self.a.claw(*command.split()).stdout)
        self.assertFalse((self.folder / "nowhere").exists())

    def test_a_data_dir_beside_a_daemon(self):
        """What replicates the database is not asked in another device's name."""
        self.a.start()
        wait_until(lambda: "connected to" in self.a.daemon_log(), self.a.daemon_log)
        commands = ("sync", "push", "pull", "reconcile", "prove", "compact")
        for command in commands:
            self.refused(command, "was replicated by device .* whose keys are not in .*/b/state", CLAW_DATA_DIR=self.b.data)
            self.refused(command, "the keys of device .* are not in .*/nowhere", CLAW_DATA_DIR=self.folder / "nowhere")
        self.assertFalse((self.folder / "nowhere").exists())
        for command in ("sync", "reconcile"):
            self.a.claw(command)
        self.b.claw("keys", "passphrase", "--passphrase-file", self.passphrase)
        credentials = self.folder / "credentials"
        credentials.mkdir()
        (credentials / "claw-sync.passphrase").write_text(self.passphrase.read_text())
        self.refused("sync", "was replicated by device .* whose keys are not in .*/b/state", CLAW_DATA_DIR=self.b.data,
                     CREDENTIALS_DIRECTORY=credentials)

    def test_a_workspace(self):
        for command in self.QUEUE + self.OF_DATABASE:
            self.refused(command, f"belongs to workspace {self.workspace}; .*CLAW_WORKSPACE_ID", CLAW_WORKSPACE_ID=uuid.uuid4())

    def test_a_database_that_is_not_set_up_yet(self):
        new = Device(self.folder / "new", self.workspace, self.hub.endpoint)
        self.assertIn("not set up", new.claw("queue", "list").stdout)
        self.assertEqual(json.loads(new.claw("queue", "list", "--json").stdout)["entries"], [])
        self.assertIn("retried=0", new.claw("queue", "retry").stdout)
        for d in (new.data, self.a.data):  # also to replace one that was lost
            self.assertEqual(new.claw("hidden", "list", CLAW_DATA_DIR=d).stderr, "")

    def test_a_keystore_under_a_passphrase(self):
        """It is not asked for by who does not need it."""
        self.a.claw("keys", "passphrase", "--passphrase-file", self.passphrase)
        for command in ("queue list", "queue retry", "hidden list", "conflicts list"):
            self.assertEqual(self.a.claw(*command.split()).stderr, "")


class Server(unittest.TestCase):
    def run_server(self, *args, **env):
        return subprocess.run([SERVER, *args], env=clean_env(**env), capture_output=True, text=True, timeout=PATIENCE)

    def test_configuration(self):
        with tempfile.TemporaryDirectory() as folder:
            for args, env in [(("--listen", "nonsense"), {}), (("--frobnicate",), {}), (("surplus",), {}),
                              ((), {"CLAW_SYNC_HUB_DATABASE_URL": "postgres://u:1/secret@localhost:y/x"}),
                              ((), {"CLAW_SYNC_HUB_DATABASE_URL": "mysql://localhost/x"}),
                              ((), {"CLAW_SYNC_TLS_CERT": "cert.pem"}), ((), {"CLAW_SYNC_TLS_KEY": "key.pem"}),
                              ((), {"CLAW_SYNC_SERVER_KEY_SEED": "short"}),
                              (("--listen", "0.0.0.0:0"), {"CLAW_SYNC_SERVER_KEY_SEED": "claw-sync-server-default-key-seed"}),
                              ((), {"CLAW_LISTEN_ADDR": "127.0.0.1:99999"})]:
                with self.subTest(args=args, env=env):
                    done = self.run_server("--data-dir", folder + "/d", *args, **env)
                    self.assertEqual(done.returncode, 2, done.stderr)
                    self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
                    self.assertNotIn("1/secret", done.stderr)
                    self.assertFalse(os.path.exists(folder + "/d"))
            shown = self.run_server("--check-config", CLAW_SYNC_HUB_DATABASE_URL="postgres://u:secret@h:5433/x").stdout
            self.assertIn("database: postgresql://u:***@h:5433/x, at most 8 connections", shown)
            self.assertNotIn("secret", shown)
            self.assertEqual(self.run_server("--check-config", "--data-dir", folder + "/d").returncode, 0)
            self.assertEqual(self.run_server("--help").returncode, 0)
            self.assertRegex(self.run_server("--version").stdout, r"^claw-sync-server \d+\.\d+\.\d+\n$")

    def test_port_in_use(self):
        with tempfile.TemporaryDirectory() as folder, socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            done = self.run_server("--listen", f"127.0.0.1:{s.getsockname()[1]}", "--data-dir", folder)
            self.assertEqual(done.returncode, 1)
            self.assertIn("in use", done.stderr)


class Tls(ClawTest):
    def setUp(self):
        super().setUp()
        self.cert, self.key = self.folder / "cert.pem", self.folder / "key.pem"
        self.certify(self.cert)

    def certify(self, cert, names="IP:127.0.0.1"):
        """A certificate of a key of its own; the key lies in self.key."""
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", "/CN=localhost", "-addext", f"subjectAltName={names}", "-keyout", self.key, "-out", cert],
                       check=True, capture_output=True)

    def hang_up(self, want):
        """SIGHUP, and the line of the hub's log that answers it."""
        before = self.hub.log.read_text().count("certificate")
        self.hub.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.hub.log.read_text().count("certificate") > before, self.hub.log.read_text)
        self.assertIn(want, self.hub.log.read_text().splitlines()[-1])

    def pin(self, cert):
        spki = subprocess.run(f"openssl x509 -in '{cert}' -pubkey -noout | openssl pkey -pubin -outform der", shell=True,
                              check=True, capture_output=True).stdout
        return hashlib.sha256(spki).hexdigest()

    def test_a_new_certificate_without_a_restart(self):
        self.start_hub(CLAW_SYNC_TLS_CERT=self.cert, CLAW_SYNC_TLS_KEY=self.key)
        self.hub.scheme = "https"
        old = self.folder / "old.pem"
        shutil.copy(self.cert, old)
        d = self.device("d")
        d.claw("sync", CLAW_TLS_CA_FILE=old)
        d.start(CLAW_TLS_CA_FILE=old)
        wait_until(lambda: "connected" in d.daemon_log(), d.daemon_log)
        process = self.hub.process.pid
        self.certify(self.cert)
        self.hang_up("certificate read again")
        # what is connected goes on; who comes sees the new one
        d.sql("INSERT INTO memories(id, content) VALUES ('m', 'x');")
        wait_until(lambda: "pushed=1" in d.daemon_log(), d.daemon_log)
        d.stop()
        self.assertIn("certificate", d.claw("sync", want=3, CLAW_TLS_CA_FILE=old, CLAW_MAX_RETRIES=0).stderr)
        d.claw("sync", CLAW_TLS_CA_FILE=self.cert)
        # one that cannot be used changes nothing
        good = self.folder / "good.pem"
        shutil.move(self.cert, good)
        self.cert.write_text("no certificate")
        self.hang_up("the certificate in use stays")
        d.claw("sync", CLAW_TLS_CA_FILE=good)
        self.assertEqual(self.hub.process.pid, process)
        self.assertIsNone(self.hub.process.poll())

    def test_who_is_believed(self):
        self.certify(self.cert, "DNS:hub.example.org")
        self.start_hub(CLAW_SYNC_TLS_CERT=self.cert, CLAW_SYNC_TLS_KEY=self.key)
        self.hub.scheme = "https"
        d, pin = self.device("d"), self.pin(self.cert)
        for env in ({"CLAW_TLS_CA_FILE": self.cert}, {"CLAW_TLS_PIN_SHA256": pin[::-1]}, {"CLAW_TLS_PIN_SHA256": "00" * 32}):
            with self.subTest(env=env):
                d.claw("sync", want=3, CLAW_MAX_RETRIES=0, **env)
        with contextlib.closing(self.hub.database()) as db:
            self.assertEqual(db.execute("SELECT count(*) FROM workspace").fetchone()[0], 0)
        d.claw("sync", want=2, CLAW_TLS_PIN_SHA256="ab")
        d.claw("sync", want=2, CLAW_TLS_CA_FILE=self.folder / "nothing.pem")

    def test_sync_over_tls(self):
        self.start_hub(CLAW_SYNC_TLS_CERT=self.cert, CLAW_SYNC_TLS_KEY=self.key)
        self.hub.scheme = "https"
        d = self.device("d")
        d.sql("INSERT INTO memories(id, content) VALUES ('m', 'x');")
        self.assertIn("certificate", d.claw("sync", want=3, CLAW_MAX_RETRIES=0).stderr)
        self.assertEqual(json.loads(d.claw("sync", "--json", CLAW_TLS_CA_FILE=self.cert).stdout)["pushed"], 1)
        pin = self.pin(self.cert)
        d.claw("sync", CLAW_TLS_CA_FILE=self.cert, CLAW_TLS_PIN_SHA256=pin)
        d.claw("sync", want=3, CLAW_TLS_CA_FILE=self.cert, CLAW_TLS_PIN_SHA256=pin[::-1], CLAW_MAX_RETRIES=0)
        d.endpoint = d.endpoint.replace("https", "http")
        d.claw("sync", want=3, CLAW_MAX_RETRIES=0)


if __name__ == "__main__":
    main()
