"""Two devices, one memory: every change crosses, in both directions, through the real hub."""
import pathlib
import signal
import subprocess

from claw import *


class Mainline(ClawTest):
    def test_rows_cross_both_ways(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content, embedding) VALUES ('m1', 'tea', x'00ff'), ('m2', 'coffee', NULL);")
        self.assertEqual(a.sync()["pushed"], 2)
        self.assertEqual(b.sync()["pulled"], 2)
        b.sql("UPDATE memories SET content = 'green tea' WHERE id = 'm1'; DELETE FROM memories WHERE id = 'm2';")
        b.sync()
        self.settle([a, b])
        self.assertEqual(a.query("SELECT id, content, embedding FROM memories"), [("m1", "green tea", b"\x00\xff")])

    def test_sync_prints_counts(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO sessions(id, agent) VALUES ('s', 'x');")
        self.assertEqual(a.claw("sync").stdout, "pushed=1, pulled=0\n")
        self.assertEqual(b.claw("pull").stdout, "pushed=0, pulled=1\n")
        self.assertEqual(b.claw("push").stdout, "pushed=0, pulled=0\n")

    def test_existing_rows_are_sent(self):
        self.start_hub()
        a = self.device("a")
        a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) "
              "INSERT INTO memory_records SELECT 'r' || i, 'title ' || i, i, NULL, 1.5, i FROM n;")
        self.assertEqual(a.sync()["pushed"], 2500)
        b = self.device("b")
        b.sql("INSERT INTO memory_records(id, title) VALUES ('r7', 'from b'), ('own', 'only b');")
        self.join(a, b)
        self.settle([a, b])
        self.assertEqual(a.value("SELECT count(*) FROM memory_records"), 2501)
        self.assertEqual(a.value("SELECT title FROM memory_records WHERE id = 'r7'"), "from b")

    def test_all_storage_classes_travel_exactly(self):
        a, b = self.workspace_of(2)
        a.sql("""INSERT INTO memory_records(id, title, body, tags, created_at, updated_at) VALUES
            ('null', NULL, NULL, NULL, NULL, NULL), ('int', 0, -1, 9223372036854775807, -9223372036854775808, 1),
            ('real', 1.0, -0.0, 1e308, 5e-324, 0.1), ('text', '', 'é', CAST(x'ff00fe' AS TEXT), '1', '1.0'),
            ('blob', x'', x'00', x'ff', randomblob(70000), zeroblob(10));""")
        self.settle([a, b])

    def test_two_fields_of_one_row(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'one');")
        self.settle([a, b])
        a.sql("UPDATE memories SET content = 'two' WHERE id = 'm';")
        b.sql("UPDATE memories SET importance = 0.9 WHERE id = 'm';")
        self.settle([a, b])
        self.assertEqual(a.query("SELECT content, importance FROM memories"), [("two", 0.9)])

    def test_a_delete_wins_over_an_older_edit_and_is_recorded(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'one');")
        self.settle([a, b])
        b.sql("UPDATE memories SET content = 'edited' WHERE id = 'm';")
        b.claw("push")
        a.sql("DELETE FROM memories WHERE id = 'm';")
        a.claw("push")
        self.settle([a, b])
        self.assertEqual(a.value("SELECT count(*) FROM memories"), 0)
        self.assertGreater(a.status()["conflicts"] + b.status()["conflicts"], 0)

    def test_cascade_and_full_text(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'searchable words');"
              "INSERT INTO memory_tags VALUES ('m', 'x'), ('m', 'y');")
        self.settle([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM memories_fts WHERE memories_fts MATCH 'searchable'"), 1)
        b.sql("DELETE FROM memories WHERE id = 'm';")
        self.settle([a, b])
        self.assertEqual(a.value("SELECT count(*) FROM memory_tags"), 0)
        self.assertEqual(a.value("SELECT count(*) FROM memories_fts WHERE memories_fts MATCH 'searchable'"), 0)

    def test_unique_claims_of_two_devices(self):
        schema = "CREATE TABLE sessions(id TEXT PRIMARY KEY NOT NULL, agent TEXT UNIQUE, title TEXT);"
        a, b = self.workspace_of(2, schema=schema)
        a.sql("INSERT INTO sessions VALUES ('sa', 'same', 'a');")
        a.claw("push")
        b.sql("INSERT INTO sessions VALUES ('sb', 'same', 'b');")
        self.settle([a, b])
        self.assertEqual(a.query("SELECT id FROM sessions"), [("sa",)])
        self.assertEqual(b.status()["hidden_rows"], 1)
        a.sql("DELETE FROM sessions WHERE id = 'sa';")
        self.settle([a, b])
        self.assertEqual(b.query("SELECT id FROM sessions"), [("sb",)])
        self.assertEqual(b.status()["hidden_rows"], 0)

    def test_a_column_that_one_side_lacks(self):
        a, b = self.workspace_of(2)
        a.sql("ALTER TABLE sessions ADD COLUMN model TEXT DEFAULT 'none';"
              "INSERT INTO sessions(id, agent, model) VALUES ('s', 'x', 'big');")
        a.sync()
        b.sync()
        self.assertEqual(b.query("SELECT id, agent FROM sessions"), [("s", "x")])
        b.sql("UPDATE sessions SET title = 'kept' WHERE id = 's';")
        b.sync()
        b.sql("ALTER TABLE sessions ADD COLUMN model TEXT DEFAULT 'none';")
        self.settle([a, b])
        self.assertEqual(b.query("SELECT title, model FROM sessions"), [("kept", "big")])

    def test_a_third_device_gets_everything(self):
        a, b = self.workspace_of(2)
        for i in range(5):
            a.sql(f"INSERT INTO memories(id, content) VALUES ('a{i}', 'x');")
            b.sql(f"INSERT INTO memories(id, content) VALUES ('b{i}', 'x');")
            self.settle([a, b])
        c = self.device("c")
        self.join(b, c)
        self.settle([a, b, c])
        self.assertEqual(c.value("SELECT count(*) FROM memories"), 10)

    def test_hub_files_hold_no_plain_text(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content) VALUES ('canary-key-5d1', 'canary-value-93f');"
              "CREATE TABLE canary_table(id TEXT PRIMARY KEY NOT NULL, canary_column);")
        a.claw("track", "canary_table")
        a.sql("INSERT INTO canary_table VALUES ('canary-2', 'canary-3');")
        self.settle([a, b])
        files = b"".join(p.read_bytes() for p in pathlib.Path(self.hub.folder).rglob("*") if p.is_file())
        self.assertNotIn(b"canary", files)
        self.assertNotIn(b"memories", files)


class Failures(ClawTest):
    def test_hub_down_keeps_changes(self):
        a, b = self.workspace_of(2)
        self.hub.stop()
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'offline');")
        done = a.claw("sync", want=3, CLAW_MAX_RETRIES=1, CLAW_RETRY_BASE_MS=10)
        self.assertIn("cannot reach hub", done.stderr)
        self.hub.start()
        self.assertEqual(a.sync()["pushed"], 1)
        self.settle([a, b])

    def test_hub_killed_and_restarted_loses_nothing(self):
        a, b = self.workspace_of(2)
        a.start(CLAW_RETRY_BASE_MS=20)
        b.start(CLAW_RETRY_BASE_MS=20)
        with a.connect() as db:
            for i in range(200):
                db.execute("INSERT INTO memory_records(id, body) VALUES (?, ?)", (f"r{i}", "x" * 200))
                if i in (50, 120):
                    self.hub.stop(signal.SIGKILL)
                    self.hub.start()
        self.wait_equal([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM memory_records"), 200)

    def test_client_killed_at_any_time(self):
        a, b = self.workspace_of(2)
        for i in range(8):
            a.start(CLAW_RETRY_BASE_MS=20)
            with a.connect() as db:
                for k in range(40):
                    db.execute("INSERT INTO memory_records(id, body) VALUES (?, ?)", (f"r{i}-{k}", "x" * 200))
            a.stop(signal.SIGKILL)
        self.settle([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM memory_records"), 320)

    def test_a_corrupted_chunk_is_set_aside_and_the_rest_flows(self):
        a, b = self.workspace_of(2)
        for i in range(3):
            a.sql(f"INSERT INTO memories(id, content) VALUES ('m{i}', 'x');")
            a.claw("push")
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db:
            number, = db.execute("SELECT max(number) - 1 FROM log").fetchone()
            payload, = db.execute("SELECT payload FROM chunk WHERE number = ?", (number,)).fetchone()
            broken = bytes([payload[0] ^ 1]) + payload[1:]
            db.execute("UPDATE chunk SET payload = ? WHERE number = ?", (broken, number))
            db.commit()
        self.hub.start()
        done = b.claw("sync", want=4)
        self.assertIn("BAD_CHUNK", done.stderr)
        self.assertEqual([r[0] for r in b.query("SELECT id FROM memories ORDER BY id")], ["m0", "m2"])
        aside, = json.loads(b.claw("hidden", "list", "--json").stdout)["batches_set_aside"]
        self.assertEqual((aside["log_number"], aside["finding"][:9]), (number, "BAD_CHUNK"))
        self.assertEqual(aside["device"], a.status()["device_id"])
        self.assertIn(f"batch {number} of the log was set aside: BAD_CHUNK", b.claw("hidden", "list").stdout)
        self.assertEqual(b.status()["batches_set_aside"], 1)

    def test_padding(self):
        a, b = self.workspace_of(2)
        for i, padding in enumerate(("padme", "none", None)):
            a.sql(f"INSERT INTO memories(id, content) VALUES ('m{i}', 'x');")
            a.claw("push", **({} if padding is None else {"CLAW_SYNC_PADDING": padding}))
        a.claw("push", CLAW_SYNC_PADDING="some", want=2)
        with contextlib.closing(self.hub.database()) as db:
            headers = [r[0] for r in db.execute("SELECT header FROM log ORDER BY number")]
        self.assertEqual([h[6] for h in headers], [1, 0, 1])
        self.settle([a, b])

    def test_wrong_passphrase_and_foreign_file(self):
        a, b = self.workspace_of(2)
        c = self.device("c")
        file, other = self.folder / "invite", self.folder / "other"
        a.claw("keys", "export", file, "--passphrase-file", self.passphrase)
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        a.claw("keys", "export", file, "--passphrase-file", self.passphrase, want=2)
        other.write_text("wrong\n")
        before = c.path.read_bytes()
        c.claw("keys", "import", file, "--passphrase-file", other, want=2)
        other.write_bytes(file.read_bytes()[:-1])
        c.claw("keys", "import", other, "--passphrase-file", self.passphrase, want=2)  # damaged, or a wrong one: it cannot be told
        c.claw("keys", "import", self.folder / "nowhere", "--passphrase-file", self.passphrase, want=2)
        self.assertEqual(c.dump(), {t: [] for t in TABLES})
        self.assertEqual(len(before) > 0, True)
        c.claw("keys", "import", file, "--passphrase-file", self.passphrase)
        d = self.device("d")
        d.claw("keys", "import", file, "--passphrase-file", self.passphrase, want=2)  # used

    def test_second_device_without_an_invite(self):
        a, = self.workspace_of(1)
        b = self.device("b")
        done = b.claw("sync", want=2)
        self.assertIn("this workspace exists; join it with", done.stderr)


class Live(ClawTest):
    def test_a_commit_arrives_without_a_polling_interval(self):
        a, b = self.workspace_of(2)
        for d in (a, b):  # no interval can pass during the test
            d.start(CLAW_SYNC_INTERVAL_SECS=86400, CLAW_HEARTBEAT_INTERVAL_SECS=3600)
        for i in range(5):
            writer, reader = ((a, b), (b, a))[i % 2]
            writer.sql(f"INSERT INTO memories(id, content) VALUES ('m{i}', 'x');")
            wait_until(lambda: reader.value("SELECT 1 FROM memories WHERE id = ?", f"m{i}"), f"row m{i}")
        self.assertEqual(a.stop(), 0)
        self.assertEqual(b.stop(), 0)

    def test_rollback_journal_mode(self):
        a, b = self.workspace_of(2, schema=SCHEMA.replace("PRAGMA journal_mode = WAL;", ""))
        self.assertEqual(a.value("PRAGMA journal_mode"), "delete")
        a.start(CLAW_SYNC_INTERVAL_SECS=86400)
        b.start(CLAW_SYNC_INTERVAL_SECS=86400)
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'x');")
        wait_until(lambda: b.value("SELECT 1 FROM memories WHERE id = 'm'"), "row m")

    def test_hub_stops_cleanly_under_load(self):
        a, b = self.workspace_of(2)
        a.start(CLAW_RETRY_BASE_MS=20)
        b.start(CLAW_RETRY_BASE_MS=20)
        with a.connect() as db:
            for i in range(100):
                db.execute("INSERT INTO memory_records(id, body) VALUES (?, 'x')", (i,))
        self.assertEqual(self.hub.stop(), 0)
        self.hub.start()
        self.wait_equal([a, b])


if __name__ == "__main__":
    main()
