"""The hub on a real PostgreSQL: the main line, and both of them killed under load."""
import signal
import threading

import compact_test
from claw import *

POSTGRES = ROOT / "tests" / "fixtures" / "postgres"


class Postgres:
    """A server of the test's own, on a unix socket."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cs_pg_", dir="/tmp"))
        self.run("start")

    def run(self, what, *args):
        subprocess.run([POSTGRES, what, self.folder, *args], check=True, timeout=PATIENCE, stdin=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, env=os.environ | {"OWNER": str(os.getpid())})

    def close(self):
        self.run("stop", "immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self):
        return f"postgresql://hub@/postgres?host={self.folder}/socket"

    def sql(self, sql):
        return subprocess.run(["psql", "-qXAt", "-h", self.folder / "socket", "-U", "super", "-d", "postgres", "-c", sql],
                              check=True, capture_output=True, text=True, timeout=PATIENCE).stdout.strip()


class PostgresCase(ClawTest):
    def setUp(self):
        super().setUp()
        self.postgres = Postgres()
        self.addCleanup(self.postgres.close)
        self.postgres.sql("GRANT CREATE ON DATABASE postgres TO hub")


class OnPostgres(PostgresCase):
    def setUp(self):
        super().setUp()
        self.start_hub(CLAW_SYNC_HUB_DATABASE_URL=self.postgres.url)

    def test_rows_cross_both_ways(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content, embedding) VALUES ('m1', 'tea', x'00ff'), ('m2', 'coffee', NULL);")
        self.settle([a, b])
        b.sql("UPDATE memories SET content = 'green tea' WHERE id = 'm1'; DELETE FROM memories WHERE id = 'm2';")
        self.settle([a, b])
        self.assertEqual(a.query("SELECT id, content, embedding FROM memories"), [("m1", "green tea", b"\x00\xff")])
        self.hub.stop()
        self.hub.start()
        a.sql("INSERT INTO memories(id, content) SELECT 'big', hex(randomblob(3000000));")
        self.settle([a, b])
        self.assertFalse((self.hub.folder / "data" / "hub.db").exists())
        self.assertEqual(self.postgres.sql("SELECT count(DISTINCT workspace) FROM claw_sync.log"), "1")
        # the second wall: without the setting nobody but a superuser sees a row
        self.assertEqual(self.postgres.sql("SET ROLE hub; SELECT count(*) FROM claw_sync.chunk"), "0")

    def test_two_hubs(self):
        """A device on each: the daemons hear of each other's changes."""
        self.hub.stop()
        seed = {"CLAW_SYNC_SERVER_KEY_SEED": "0123456789abcdef0123456789abcdef"}
        self.hub.env |= seed
        self.hub.start()
        other = Hub(self.folder / "other", CLAW_SYNC_HUB_DATABASE_URL=self.postgres.url, **seed).start()
        self.addCleanup(other.stop, signal.SIGKILL)
        a, b = self.workspace_of(2)
        b.endpoint = other.endpoint
        for d in (a, b):  # no rounds of their own: it is the hub's word that makes them fetch
            d.start(CLAW_SYNC_INTERVAL_SECS=604800)
        for i in range(3):
            a.sql(f"INSERT INTO memories(id, content) VALUES ('a{i}', 'x');")
            wait_until(lambda: b.value("SELECT count(*) FROM memories WHERE id = ?", f"a{i}") == 1, "a's row at b")
            b.sql(f"INSERT INTO memories(id, content) VALUES ('b{i}', 'x');")
            wait_until(lambda: a.value("SELECT count(*) FROM memories WHERE id = ?", f"b{i}") == 1, "b's row at a")
        self.wait_equal([a, b])

    def test_killed_under_load(self):
        a, b = self.workspace_of(2)
        stop = threading.Event()

        def write(d, name):
            n = 0
            while not stop.is_set():
                d.sql(f"INSERT INTO memories(id, content) VALUES ('{name}{n}', hex(randomblob(200)));")
                n += 1

        writers = [threading.Thread(target=write, args=(d, d.folder.name)) for d in (a, b)]
        for d in (a, b):
            d.start()
        for w in writers:
            w.start()
        try:
            for round in range(2):
                had = int(self.postgres.sql("SELECT count(*) FROM claw_sync.log"))
                wait_until(lambda: int(self.postgres.sql("SELECT count(*) FROM claw_sync.log")) > had + 5, "batches")
                self.hub.stop(signal.SIGKILL)
                self.hub.start()
                had = int(self.postgres.sql("SELECT count(*) FROM claw_sync.log"))
                wait_until(lambda: int(self.postgres.sql("SELECT count(*) FROM claw_sync.log")) > had + 5, "batches")
                self.postgres.run("stop", "immediate")
                self.postgres.run("start")
        finally:
            stop.set()
            for w in writers:
                w.join()
        for d in (a, b):
            d.stop()
        self.settle([a, b])
        self.assertEqual(a.dump(), b.dump())
        gaps = self.postgres.sql("SELECT count(*) FROM (SELECT number, row_number() OVER (PARTITION BY workspace ORDER BY "
                                 "number) AS should FROM claw_sync.log) x WHERE number <> should")
        self.assertEqual(gaps, "0")


class PostgresHub(Hub):
    def numbers(self, sql):
        return [int(line) for line in self.postgres.sql(f"SET search_path TO claw_sync; {sql}").splitlines()]


class CompactCase(PostgresCase):
    """The tests of compact_test, at a hub whose store this is."""

    def start_hub(self, **env):
        super().start_hub(PostgresHub, CLAW_SYNC_HUB_DATABASE_URL=self.postgres.url, **env)
        self.hub.postgres = self.postgres
        return self.hub


class Pruning(compact_test.Pruning, CompactCase):
    pass


class Silent(compact_test.Silent, CompactCase):
    pass


class News(PostgresCase):
    """Two hubs that look at everything once a day: what one takes, watchers at the other learn because they are told."""
    SEED = {"CLAW_SYNC_SERVER_KEY_SEED": "0123456789abcdef0123456789abcdef"}

    def setUp(self):
        super().setUp()
        self.hubs = []

    def hub_with(self, **env):
        i = len(self.hubs)
        self.postgres.sql(f"CREATE ROLE ear{i} LOGIN")
        usual = {"CLAW_SYNC_HUB_DATABASE_URL": self.postgres.url, "CLAW_SYNC_HUB_DATABASE_POLL_SECONDS": 86400,
                 "CLAW_SYNC_HUB_DATABASE_LISTEN_URL": self.postgres.url.replace("hub@", f"ear{i}@")}
        hub = Hub(self.folder / f"hub{i}", **self.SEED | usual | env).start()
        self.addCleanup(hub.stop, signal.SIGKILL)
        self.hubs.append(hub)
        return hub

    def daemons_at_two_hubs(self, **env):
        """No rounds of their own."""
        self.hub = self.hub_with()
        other = self.hub_with()
        a, b = self.workspace_of(2)
        b.endpoint = other.endpoint
        for d in (a, b):
            d.start(CLAW_SYNC_INTERVAL_SECS=604800, **env)
        a.sql("INSERT INTO memories(id, content) VALUES ('first', 'x');")
        self.wait_row(b, "first")
        return a, b

    def wait_row(self, d, row):
        wait_until(lambda: d.value("SELECT count(*) FROM memories WHERE id = ?", row) == 1, f"{row} at {d.folder.name}")

    def deafen(self, i):
        """Ends a hub's connection for news, and lets it have no new one."""
        self.postgres.sql(f"ALTER ROLE ear{i} NOLOGIN")
        ended = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'ear{i}'"
        self.assertEqual(self.postgres.sql(ended), "1")
        wait_until(lambda: "hears nothing of other hubs" in self.hubs[i].log.read_text(), "a hub that notices it")

    def hear(self, i):
        self.postgres.sql(f"ALTER ROLE ear{i} LOGIN")

    def test_told(self):
        a, b = self.daemons_at_two_hubs()
        for i in range(5):
            a.sql(f"INSERT INTO memories(id, content) VALUES ('a{i}', 'x');")
            self.wait_row(b, f"a{i}")
            b.sql(f"INSERT INTO memories(id, content) VALUES ('b{i}', 'x');")
            self.wait_row(a, f"b{i}")
        self.wait_equal([a, b])

    def test_what_was_not_heard_is_looked_for(self):
        a, b = self.daemons_at_two_hubs()
        for d, deaf in ((a, 1), (b, 0), (b, 1), (a, 0)):  # first the hub that should hear, then the one that should tell
            self.deafen(deaf)
            row = f"{d.folder.name}{deaf}"
            d.sql(f"INSERT INTO memories(id, content) VALUES ('{row}', 'x');")
            wait_until(lambda: d.status()["unsent"] == 0 and d.status()["unsealed"] == 0, "a row sent")
            self.hear(deaf)
            self.wait_row(b if d is a else a, row)
            wait_until(lambda: "hears of other hubs again" in self.hubs[deaf].log.read_text(), "a hub that says so")
            self.hubs[deaf].log.write_text("")
        self.wait_equal([a, b])

    def test_server_restarted(self):
        a, b = self.daemons_at_two_hubs()
        self.postgres.run("stop", "immediate")
        a.sql("INSERT INTO memories(id, content) VALUES ('meanwhile', 'x');")
        self.postgres.run("start")
        self.wait_row(b, "meanwhile")
        self.wait_equal([a, b])

    def test_a_snapshot_is_attested_elsewhere(self):
        a, b = self.daemons_at_two_hubs(CLAW_HEARTBEAT_INTERVAL_SECS=86400)
        b.claw("sync")
        a.claw("compact")
        attested = "SELECT count(*) FROM claw_sync.snapshot WHERE state = 3 AND attestation <> ''"
        wait_until(lambda: self.postgres.sql(attested) == "1", "b's attestation")

    def test_removed_elsewhere(self):
        a, b = self.daemons_at_two_hubs()
        device = b.status()["device_id"]
        a.claw("devices", "revoke", device)
        wait_until(lambda: "not a member" in b.daemon_log(), lambda: "b learns of it: " + b.daemon_log())

    def test_being_removed_elsewhere(self):
        """Another hub says that somebody removes b: here it sends nothing for a while. What is no news is passed over."""
        a, b = self.daemons_at_two_hubs()
        b.stop()
        ids = (b.workspace + b.status()["device_id"]).replace("-", "")
        for news in ("", "x", "h" + "g" * 32, "h" + "0" * 31, "x" + "0" * 64 + "0", "?", f"x{ids}"):
            self.postgres.sql(f"SELECT pg_notify('claw_sync', '{news}')")
        b.sql("INSERT INTO memories(id, content) VALUES ('held', 'x');")
        wait_until(lambda: "somebody is removing this device" in b.claw("push", want=None, CLAW_MAX_RETRIES=0).stderr,
                   "a batch that is not taken")
        a.sql("INSERT INTO memories(id, content) VALUES ('a', 'x');")
        wait_until(lambda: a.status()["unsent"] == 0 and a.status()["unsealed"] == 0, "a's row sent")

    def test_through_a_pooler(self):
        """LISTEN does not pass it: a hub that was not told where else to listen does not start, and says so."""
        self.postgres.run("bouncer")
        pooled = f"postgresql://hub@/postgres?host={self.postgres.folder}/bouncer"
        refused = subprocess.run([SERVER, "--listen", "127.0.0.1:0", "--data-dir", self.folder / "refused"],
                                 env=clean_env(CLAW_SYNC_HUB_DATABASE_URL=pooled), capture_output=True, text=True,
                                 stdin=subprocess.DEVNULL, timeout=PATIENCE)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("CLAW_SYNC_HUB_DATABASE_LISTEN_URL", refused.stderr)
        self.hub = self.hub_with(CLAW_SYNC_HUB_DATABASE_URL=pooled)
        other = self.hub_with(CLAW_SYNC_HUB_DATABASE_URL=pooled)
        deaf = self.hub_with(CLAW_SYNC_HUB_DATABASE_URL=pooled, CLAW_SYNC_HUB_DATABASE_LISTEN_URL="none",
                             CLAW_SYNC_HUB_DATABASE_POLL_SECONDS="none")
        a, b, c = self.workspace_of(3)
        b.endpoint, c.endpoint = other.endpoint, deaf.endpoint
        for d in (a, b, c):
            d.start(CLAW_SYNC_INTERVAL_SECS=604800)
        a.sql("INSERT INTO memories(id, content) VALUES ('told', 'x');")
        for d in (b, c):
            self.wait_row(d, "told")


class SeveralHubs(PostgresCase):
    """Three hubs on one database, and devices that know all of them."""

    def setUp(self):
        super().setUp()
        self.hubs = []
        for i in range(3):
            hub = Hub(self.folder / f"hub{i}", CLAW_SYNC_HUB_DATABASE_URL=self.postgres.url,
                      CLAW_SYNC_SERVER_KEY_SEED="0123456789abcdef0123456789abcdef").start()
            self.addCleanup(hub.stop, signal.SIGKILL)
            self.hubs.append(hub)
        self.hub = self.hubs[0]

    def devices_of_all(self):
        a, b = self.workspace_of(2)
        a.endpoint = ",".join(h.endpoint for h in self.hubs)
        b.endpoint = ", ".join(h.endpoint for h in self.hubs[1:] + self.hubs[:1])
        return a, b

    def test_restarted_one_after_the_other_under_load(self):
        """No error reaches a user, nothing is lost."""
        a, b = self.devices_of_all()
        stop = threading.Event()
        written = {}

        def write(d):
            n = 0
            while not stop.is_set():
                d.sql(f"INSERT INTO memories(id, content) VALUES ('{d.folder.name}{n}', hex(randomblob(200)));")
                n += 1
            written[d.folder.name] = n

        def more():
            had = int(self.postgres.sql("SELECT count(*) FROM claw_sync.log"))
            wait_until(lambda: int(self.postgres.sql("SELECT count(*) FROM claw_sync.log")) > had + 5, "batches")

        for d in (a, b):
            d.start()
        writers = [threading.Thread(target=write, args=(d,)) for d in (a, b)]
        for w in writers:
            w.start()
        try:
            for _ in range(2):
                for hub in self.hubs:
                    more()
                    self.assertEqual(hub.stop(), 0)
                    more()
                    hub.start()
        finally:
            stop.set()
            for w in writers:
                w.join()
        self.wait_equal([a, b])
        self.assertEqual(a.value("SELECT count(*) FROM memories"), sum(written.values()))
        for d in (a, b):
            self.assertEqual(d.stop(), 0)
            self.assertNotRegex(d.daemon_log(), r"claw-sync: (?!\w+ing \d+ of )")

    def test_killed(self):
        """What was under way is tried again at the next hub; the first one is taken again when it serves."""
        a, b = self.devices_of_all()
        a.start()
        b.start()
        for i, hub in enumerate(self.hubs * 2):
            hub.stop(signal.SIGKILL)
            a.sql(f"INSERT INTO memories(id, content) VALUES ('a{i}', 'x');")
            b.sql(f"INSERT INTO memories(id, content) VALUES ('b{i}', 'x');")
            self.wait_equal([a, b])
            hub.start()
        self.assertEqual(a.value("SELECT count(*) FROM memories"), 12)

    def test_one_round_with_the_first_ones_away(self):
        a, b = self.devices_of_all()
        self.hubs[0].stop()
        self.hubs[1].stop()
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'x');")
        a.claw("sync", CLAW_MAX_RETRIES=0)
        self.hubs[2].stop()
        said = a.claw("sync", want=3, CLAW_MAX_RETRIES=0).stderr
        self.assertIn("cannot reach hub", said)

    def test_back_to_the_first(self):
        a, _ = self.devices_of_all()
        self.hubs[0].stop()
        a.start(CLAW_SYNC_INTERVAL_SECS=1)  # rounds in between do not put it off
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'x');")
        wait_until(lambda: a.status()["unsent"] == 0 and a.status()["log_number"] > 0, "a row sent elsewhere")
        self.hubs[0].env["CLAW_LOG_LEVEL"] = "debug"
        self.hubs[0].start()
        wait_until(lambda: "Watch" in self.hubs[0].log.read_text() or "OpenSession" in self.hubs[0].log.read_text(),
                   lambda: "a is back: " + self.hubs[0].log.read_text())
        self.hubs[1].stop()
        self.hubs[2].stop()
        a.sql("INSERT INTO memories(id, content) VALUES ('n', 'x');")
        wait_until(lambda: a.status()["unsent"] == 0 and a.status()["unsealed"] == 0, "a row sent to the first one")
        self.assertEqual(a.stop(), 0)
        self.assertNotRegex(a.daemon_log(), r"claw-sync: (?!\w+ing \d+ of )")

    def test_wrong_lists(self):
        a, _ = self.devices_of_all()
        for wrong in (f"{self.hub.endpoint},", ",", f"{self.hub.endpoint},http://", ",".join([self.hub.endpoint] * 9)):
            a.claw("sync", want=2, CLAW_HUB_ENDPOINT=wrong)


class Moving(PostgresCase):
    """claw-sync-server migrate-store, from the embedded store to PostgreSQL and back; the devices notice nothing."""

    def setUp(self):
        super().setUp()
        self.start_hub()
        self.file = self.hub.folder / "data" / "hub.db"

    def migrate(self, *args, want=0, **env):
        done = subprocess.run([SERVER, "migrate-store", *map(str, args)], env=clean_env(**env), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=PATIENCE)
        self.assertEqual(done.returncode, want, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def moving(self):
        """The mark that a move is under way."""
        made = self.postgres.sql("SELECT to_regclass('claw_sync.workspace') IS NOT NULL") == "t"
        return made and self.postgres.sql("SELECT log_id FROM claw_sync.workspace WHERE workspace = "
                                          "'00000000-0000-0000-0000-000000000000'") == "1"

    def test_there_and_back(self):
        a, b = self.workspace_of(2)
        a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
              " INSERT INTO memories(id, content) SELECT 'm' || i, hex(randomblob(200)) FROM n;")
        self.settle([a, b])
        for d in (a, b):
            d.start()
        a.stop()
        a.claw("prove")
        a.start()
        b.sql("UPDATE memories SET content = 'b' WHERE id = 'm1';")
        self.wait_equal([a, b])
        self.hub.stop()
        said = self.migrate("--from", f"sqlite:{self.file}", "--to", self.postgres.url)
        self.assertIn("1 workspaces", said)
        self.hub.env["CLAW_SYNC_HUB_DATABASE_URL"] = self.postgres.url
        self.hub.start()
        a.sql("UPDATE memories SET content = 'a' WHERE id = 'm2';")
        b.sql("DELETE FROM memories WHERE id = 'm3';")
        self.wait_equal([a, b])
        self.assertEqual(a.value("SELECT count(*) FROM memories"), 499)
        # what was left behind does not come to life by mistake, and is not moved twice
        old = subprocess.run([SERVER, "--listen", "127.0.0.1:0", "--data-dir", self.hub.folder / "data"], env=clean_env(),
                             capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)
        self.assertEqual(old.returncode, 1)
        self.assertIn("moved to another", old.stderr)
        self.assertIn("moved to another", self.migrate("--from", f"sqlite:{self.file}", "--to", "env:THERE", want=1,
                                                       THERE=self.postgres.url))
        self.hub.stop()
        self.migrate("--from", "env:HERE", "--to", f"sqlite:{self.file}", HERE=self.postgres.url)
        del self.hub.env["CLAW_SYNC_HUB_DATABASE_URL"]
        self.hub.start()
        a.sql("INSERT INTO memories(id, content) VALUES ('back', 'again');")
        self.wait_equal([a, b])
        for d in (a, b):
            self.assertEqual(d.stop(), 0)
            self.assertNotIn("HUB_", d.daemon_log())
            self.assertEqual(json.loads(d.claw("status", "--json").stdout)["state"], "in-sync")

    def test_pruned_there_and_back(self):
        """A snapshot moves along: who is new begins with it at the new store, and who was there goes on, to the next one."""
        self.hub.stop()
        self.hub.env |= {"CLAW_SYNC_RETENTION_SECONDS": 0, "CLAW_SYNC_PRUNE_SECONDS": 1}
        self.hub.start()
        here, there = f"sqlite:{self.file}", self.postgres.url
        hubs = {here: self.hub, there: PostgresHub(self.hub.folder, CLAW_SYNC_HUB_DATABASE_URL=there, **self.hub.env)}
        hubs[there].postgres = self.postgres
        hubs[there].port = self.hub.port
        devices = self.workspace_of(2)
        devices[0].sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)"
                       " INSERT INTO memories(id, content) SELECT 'm' || i, hex(randomblob(9000)) FROM n;")
        self.settle(devices)

        def round_at(hub, newcomer):
            for i, d in enumerate(devices):  # each goes on
                d.sql(f"DELETE FROM memories WHERE id = 'm{len(devices) * 10 + i}';"
                      f"INSERT INTO memories(id, content) VALUES ('{newcomer} {i}', 'x');")
            self.settle(devices)
            number = json.loads(devices[0].claw("compact", "--json").stdout)["log_number"]
            self.assertTrue(json.loads(devices[-1].claw("compact", "--json").stdout)["attested"])
            for d in devices:
                d.sync()
            wait_until(lambda: hub.numbers("SELECT min(number) FROM log") == [number], "a pruned log")

        def moved(source, target, newcomer):
            self.hub.stop()
            self.migrate("--from", source, "--to", target)
            self.hub = hubs[target].start()
            self.assertGreater(self.hub.numbers("SELECT min(number) FROM log")[0], 1)
            d = self.device(newcomer)
            self.join(devices[0], d)
            d.sync()
            self.assertGreater(len(d.dump()["memories"]), 250)
            devices.append(d)
            self.settle(devices)

        round_at(self.hub, "here")
        moved(here, there, "c")
        round_at(self.hub, "there")
        moved(there, here, "d")
        round_at(self.hub, "here again")
        moved(here, there, "e")  # a target that ends before the source begins
        self.assertEqual(len({json.loads(d.claw("prove", "--json", want=None).stdout)["root"] for d in devices}), 1)

    def test_killed_on_the_way(self):
        a, b = self.workspace_of(2)
        for i in range(15):
            a.sql(f"INSERT INTO memories(id, content) SELECT 'k{i}', hex(randomblob(600000));")
            a.sync()
        self.hub.stop()
        self.killed = 0
        for killed in range(50):
            move = subprocess.Popen([SERVER, "migrate-store", "--from", f"sqlite:{self.file}", "--to", self.postgres.url],
                                    env=clean_env(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL)
            try:
                if move.wait(0.05 * (killed + 1)) == 0:
                    break
            except subprocess.TimeoutExpired:
                move.kill()
                move.wait()
                self.killed += 1
                if self.moving():
                    hub = subprocess.run([SERVER, "--listen", "127.0.0.1:0", "--data-dir", self.hub.folder / "data"],
                                         env=clean_env(CLAW_SYNC_HUB_DATABASE_URL=self.postgres.url), timeout=PATIENCE,
                                         capture_output=True, text=True, stdin=subprocess.DEVNULL)
                    self.assertEqual(hub.returncode, 1)
                    self.assertIn("has not ended", hub.stderr)
        self.assertGreater(self.killed, 0)
        self.assertFalse(self.moving())
        self.hub.env["CLAW_SYNC_HUB_DATABASE_URL"] = self.postgres.url
        self.hub.start()
        self.settle([a, b])
        self.assertEqual(a.dump(), b.dump())

    def test_wrong_use(self):
        self.hub.stop()
        ours, theirs = f"sqlite:{self.file}", self.postgres.url
        for args, why in (((), "needs --from"), (("--from", ours), "needs --from"), (("--from", ours, "--to", ours), "same database"),
                          (("--from", "mysql://x", "--to", ours), "no kind"), (("--from", ours, "--to", theirs, "x"), "unexpected"),
                          (("--from", "env:NOT_THERE", "--to", ours), "not set"), (("--wrong",), "--wrong"),
                          (("--from", ours, "--to", "postgresql://hub:secret@/x"), "PGPASSFILE")):
            said = self.migrate(*args, want=2)
            self.assertIn(why, said)
            self.assertNotIn("secret", said)
        self.assertIn("move from", self.migrate("--from", f"sqlite:{self.folder}/none.db", "--to", theirs, want=1))
        self.assertFalse((self.folder / "none.db").exists())


if __name__ == "__main__":
    main()
