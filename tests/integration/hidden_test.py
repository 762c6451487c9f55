"""What a database cannot show: each reason comes about between two devices of different schemas, is listed, explained and
exported, and goes when its cause goes; the row is there then, with all its values."""
import contextlib
import json
import shutil
import subprocess

import claw

VALUES = "x'00ff', -0.5, 'it''s'"  # of the columns that have nothing to do with it
REST = "r BLOB, s REAL, t TEXT"


def anew(table, columns):
    """Makes a table again with other columns, as applications do when they migrate."""
    names = ", ".join(c.split()[0] for c in columns.split(", "))
    return (f"CREATE TABLE anew({columns}, {REST}); INSERT INTO anew({names}, r, s, t) SELECT {names}, r, s, t FROM {table}; "
            f"DROP TABLE {table}; ALTER TABLE anew RENAME TO {table};")


class Reason:
    def __init__(self, reason, text, on_a, on_b, write, lift, by="a", blocker=None, value=None, retry=False, more=""):
        self.reason, self.text, self.on_a, self.on_b, self.write, self.lift, self.by = reason, text, on_a, on_b, write, lift, by
        self.blocker, self.value, self.retry, self.more = blocker, value, retry, more


# the hidden row's key is k; {t} is the table, {v} the values above
REASONS = [
    Reason("fk", "its parent is missing", "id TEXT PRIMARY KEY NOT NULL, of TEXT",
           "id TEXT PRIMARY KEY NOT NULL, of TEXT REFERENCES parents(id)", "INSERT INTO {t} VALUES ('k', 'p', {v});",
           "INSERT INTO parents VALUES ('p');", blocker='"parents"'),
    Reason("unique", "another row holds its key", "id TEXT PRIMARY KEY NOT NULL, mail TEXT",
           "id TEXT PRIMARY KEY NOT NULL, mail TEXT UNIQUE",
           "INSERT INTO {t} VALUES ('first', 'm', {v}); INSERT INTO {t} VALUES ('k', 'm', {v});",
           "UPDATE {t} SET mail = 'other' WHERE id = 'first';", blocker='"mail"'),
    Reason("unique", "another row holds its key", "id TEXT PRIMARY KEY NOT NULL, mail TEXT",
           "id TEXT PRIMARY KEY NOT NULL, mail TEXT UNIQUE",
           "INSERT INTO {t} VALUES ('first', 'm', {v}); INSERT INTO {t} VALUES ('k', 'm', {v});",
           lambda t: anew(t, "id TEXT PRIMARY KEY NOT NULL, mail TEXT"), by="b", blocker='"mail"'),
    Reason("notnull", "a column that may not be NULL here has no value", "id TEXT PRIMARY KEY NOT NULL, n",
           "id TEXT PRIMARY KEY NOT NULL, n NOT NULL", "INSERT INTO {t} VALUES ('k', NULL, {v});",
           "UPDATE {t} SET n = 7 WHERE id = 'k';"),
    Reason("notnull", "a column that may not be NULL here has no value", "id TEXT PRIMARY KEY NOT NULL, n",
           "id TEXT PRIMARY KEY NOT NULL, n NOT NULL", "INSERT INTO {t} VALUES ('k', NULL, {v});",
           lambda t: anew(t, "id TEXT PRIMARY KEY NOT NULL, n"), by="b"),
    Reason("type", "a value does not fit its column", "id TEXT PRIMARY KEY NOT NULL, n ANY",
           "id TEXT PRIMARY KEY NOT NULL, n INTEGER", "INSERT INTO {t} VALUES ('k', 'no number', {v});",
           lambda t: anew(t, "id TEXT PRIMARY KEY NOT NULL, n"), by="b", value=("n", "no number"), more="STRICT"),
    Reason("trigger", "a trigger of the application refuses it", "id TEXT PRIMARY KEY NOT NULL, n",
           "id TEXT PRIMARY KEY NOT NULL, n", "INSERT INTO {t} VALUES ('k', 'no', {v});", "DROP TRIGGER refuse_{t};", by="b"),
    Reason("trigger", "a trigger of the application refuses it", "id TEXT PRIMARY KEY NOT NULL, n",
           "id TEXT PRIMARY KEY NOT NULL, n", "INSERT INTO {t} VALUES ('k', 'no', {v});", "DELETE FROM refused;", by="b",
           retry=True),
    Reason("key", "its key does not fit the table's primary key", "id TEXT PRIMARY KEY NOT NULL, n TEXT",
           "id TEXT NOT NULL, n TEXT NOT NULL DEFAULT ''", "INSERT INTO {t} VALUES ('k', 'x', {v});",
           lambda t: anew(t, "id TEXT PRIMARY KEY NOT NULL, n TEXT"), by="b", value=("n", "x")),
    Reason("table", "its table is not tracked here", "id TEXT PRIMARY KEY NOT NULL, n", None,
           "INSERT INTO {t} VALUES ('k', 1.0, {v});",
           lambda t: f"CREATE TABLE {t}(id TEXT PRIMARY KEY NOT NULL, n, {REST});", by="b", value=("n", 1.0)),
    Reason(None, "shown, but some of its values do not fit this table", "id TEXT PRIMARY KEY NOT NULL, n",
           "id TEXT PRIMARY KEY NOT NULL", "INSERT INTO {t}(id, n, r, s, t) VALUES ('k', x'01', {v});",
           "ALTER TABLE {t} ADD COLUMN n;", by="b", value=("n", {"hex": "01"})),
    Reason(None, "shown, but some of its values do not fit this table", "id TEXT PRIMARY KEY NOT NULL, n",
           "id TEXT PRIMARY KEY NOT NULL, n INTEGER", "INSERT INTO {t} VALUES ('k', '007', {v});",
           lambda t: anew(t, "id TEXT PRIMARY KEY NOT NULL, n"), by="b", value=("n", "007")),
]


class EachReason(claw.ClawTest):
    def hidden(self, device, *args):
        return json.loads(device.claw("hidden", "list", *args, "--json").stdout)

    def rounds(self, *devices):
        for _ in range(6):
            moved = [d.sync() for d in devices]
            if not any(s["pushed"] or s["pulled"] for s in moved):
                return
        self.fail("never at rest")

    def start(self):
        """Each reason has a table of its own."""
        self.start_hub()
        a = self.device("a", schema="CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL);")
        b = self.device("b", schema="CREATE TABLE parents(id TEXT PRIMARY KEY NOT NULL); CREATE TABLE refused(x); "
                                    "INSERT INTO refused VALUES (1);")
        self.cases = [(f"t{i:02}", x) for i, x in enumerate(REASONS)]
        for t, x in self.cases:
            a.sql(f"CREATE TABLE {t}({x.on_a}, {REST});")
            if x.on_b is not None:
                key = ", PRIMARY KEY(id, n)" if x.reason == "key" else ""
                b.sql(f"CREATE TABLE {t}({x.on_b}, {REST}{key}) {x.more};")
            if x.reason == "trigger":
                cond = "EXISTS (SELECT 1 FROM refused)" if x.retry else "NEW.n = 'no'"
                b.sql(f"CREATE TRIGGER refuse_{t} BEFORE INSERT ON {t} WHEN {cond} BEGIN SELECT RAISE(ABORT, 'no'); END;")
        a.sync()
        self.join(a, b)
        tables = {"CLAW_SYNC_TABLES": ",".join(["parents", *(t for t, _ in self.cases)])}
        for d in (a, b):
            d.claw("sync", **tables)
        for t, x in self.cases:
            a.sql(x.write.format(t=t, v=VALUES))
        self.rounds(a, b)
        return a, b

    def content(self, device, table):
        with device.connect() as db:
            names = [r[1] for r in db.execute(f'PRAGMA table_info("{table}")')]
            if not names:
                return None
            cols = ", ".join(f"quote({c})" for c in sorted(names))
            return sorted(db.execute(f"SELECT {cols} FROM {table}"))

    def look(self, b, t, x):
        """Listed, explained, exported."""
        row, = [r for r in self.hidden(b)["hidden"] if r["table"] == t]
        self.assertEqual((row["key"], row["reason"], row["meaning"]), (["k"], x.reason, x.text))
        self.assertEqual(self.hidden(b, t), {"hidden": [row], "batches_set_aside": []})
        self.assertEqual(row["blocker"] is not None, x.blocker is not None, row)
        self.assertIn(x.blocker or "", row["blocker"] or "")
        if x.reason is not None:
            self.assertEqual({k: row["values"][k] for k in "rst"}, {"r": {"hex": "00ff"}, "s": -0.5, "t": "it's"})
        if x.value is not None:
            self.assertEqual(row["values"][x.value[0]], x.value[1])
        line, = [s for s in b.claw("hidden", "list").stdout.splitlines() if s.startswith(t)]
        self.assertIn("'k'", line)
        self.assertIn(x.text, line)
        self.assertEqual(line.endswith(x.text + ": n"), x.reason is None, line)  # the column, where it is one of some
        shown = b.claw("hidden", "show", t, "k").stdout
        self.assertIn(x.text, shown)
        if x.reason is not None:
            self.assertIn("  r = x'00ff'\n", shown)
            self.assertIn("  t = 'it''s'\n", shown)
        exported, = [e for e in map(json.loads, b.claw("hidden", "export").stdout.splitlines()) if e.get("table") == t]
        self.assertEqual(exported, row | {"blocker": None})

    def test_each_comes_and_goes(self):
        a, b = self.start()
        expected = sum(x.reason is not None for x in REASONS)
        self.assertEqual(b.status()["hidden_rows"], expected)
        for t, x in self.cases:
            with self.subTest(table=t, reason=x.reason):
                self.look(b, t, x)
        for t, x in self.cases:
            with self.subTest(table=t, reason=x.reason, lift=True):
                self.lift(a, b, t, x)
        self.assertEqual(self.hidden(b), {"hidden": [], "batches_set_aside": []})
        self.assertEqual(b.claw("hidden", "list").stdout, "nothing is hidden\n")
        self.assertEqual(b.claw("hidden", "export").stdout, "")
        self.assertEqual((a.status()["hidden_rows"], b.status()["hidden_rows"]), (0, 0))
        for d in (a, b):
            d.check()

    def lift(self, a, b, t, x):
        lift = x.lift(t) if callable(x.lift) else x.lift.format(t=t)
        migrates = callable(x.lift) and x.on_b is not None
        before = self.content(a, t)
        if migrates:
            b.claw("pause", t)
        (a if x.by == "a" else b).sql(lift)
        if migrates:
            b.claw("resume", t)
        if x.on_b is None:
            b.claw("track", t)
        self.rounds(a, b)
        if x.retry:  # nobody can notice that
            self.assertEqual(self.content(b, t), [])
            self.assertIn(f"rows={b.status()['hidden_rows']}, batches=0: ", b.claw("hidden", "retry").stdout)
            self.rounds(b)
        if x.by == "b":
            self.assertEqual(self.content(a, t), before)  # and b's older schema took nothing from it
        self.assertEqual(self.content(b, t), self.content(a, t))
        self.assertEqual([r for r in self.hidden(b)["hidden"] if r["table"] == t], [])

    def test_a_table_that_was_dropped(self):
        """Its values come back with another's state, and are no conflicts."""
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memory_records(id, title, body) VALUES ('x', 'y', 'z');")
        self.settle([a, b])
        b.sql("DROP TABLE memory_records;")
        self.rounds(a, b)
        for d in (a, b, a, b):
            d.claw("reconcile")
        self.assertEqual([(h["table"], h["key"], h["reason"]) for h in self.hidden(b)["hidden"]], [("memory_records", ["x"], "table")])
        self.assertEqual(self.hidden(b)["hidden"][0]["values"]["body"], "z")
        for d in (a, b):
            self.assertEqual(json.loads(d.claw("conflicts", "list", "--json").stdout)["conflicts"], [])
        self.assertEqual(json.loads(a.claw("prove", "--json").stdout)["equal"], 1)

    def test_a_table_that_was_made_again(self):
        """It deletes nothing elsewhere, status says so, and reconciling brings its rows back."""
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memory_records(id, title) VALUES ('x', 'y'), ('u', 'v');")
        self.settle([a, b])
        made = b.value("SELECT sql FROM sqlite_schema WHERE name = 'memory_records'")
        rows = a.query("SELECT id, title FROM memory_records ORDER BY id")
        for drop in (("DROP TABLE memory_records;", made), (f"DROP TABLE memory_records; {made}",), None):
            with self.subTest(drop=drop):
                if drop is None:
                    b.claw("pause", "memory_records")
                    b.sql(f"DROP TABLE memory_records; {made}")
                    b.claw("resume", "memory_records")
                for sql in drop or ():
                    b.sql(sql)
                    b.sync()
                self.rounds(b, a)
                self.assertEqual(a.query("SELECT id, title FROM memory_records ORDER BY id"), rows)
                said = b.claw("status", want=None).stdout
                self.assertIn('NEEDS YOU: table "memory_records" was made again without rows that it had', said)
                self.assertIn("claw-sync reconcile", said)
                for d in (b, a, b):
                    d.claw("reconcile", want=None)
                self.assertEqual(b.query("SELECT id, title FROM memory_records ORDER BY id"), rows)
                self.assertEqual(json.loads(b.claw("prove", "--json").stdout)["equal"], 1)
                self.assertEqual(json.loads(b.claw("status", "--json").stdout)["state"], "in-sync")
        b.sql("DELETE FROM memory_records WHERE id = 'x';")
        self.settle([b, a])
        self.assertEqual(a.query("SELECT id FROM memory_records"), [("u",)])

    def test_edits_of_what_is_hidden(self):
        """Of rows that b cannot show a goes on editing one column; the others are not lost."""
        a, b = self.start()
        for t, x in self.cases:
            a.sql(f"UPDATE {t} SET t = 'edited' WHERE id = 'k';")
        self.rounds(a, b)
        for t, x in self.cases:
            with self.subTest(table=t, reason=x.reason):
                row, = [r for r in self.hidden(b)["hidden"] if r["table"] == t]
                self.assertEqual(row["reason"], x.reason)
                self.lift(a, b, t, x)
                self.assertEqual(b.value(f"SELECT t FROM {t} WHERE id = 'k'"), "edited")

    def test_a_daemon_tries_again_when_it_is_asked(self):
        a, b = self.start()
        t = next(t for t, x in self.cases if x.retry)
        b.start(CLAW_SYNC_INTERVAL_SECS=3600)
        claw.wait_until(lambda: "connected" in b.daemon_log(), b.daemon_log)
        b.sql("DELETE FROM refused;")
        self.assertEqual(json.loads(b.claw("hidden", "retry", "--json").stdout),
                         {"rows": sum(x.reason is not None for x in REASONS), "batches": 0, "past_cut": 0})
        claw.wait_until(lambda: b.value(f"SELECT count(*) FROM {t}") == 1, "the row")
        b.stop()
        self.assertEqual(self.content(b, t), self.content(a, t))


class Batches(claw.ClawTest):
    """What b could not take in of a's batches, for the hub's storage was damaged."""

    def chunk(self, number, change):
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db, db:
            payload, = db.execute("SELECT payload FROM chunk WHERE number = ?", (number,)).fetchone()
            db.execute("UPDATE chunk SET payload = ? WHERE number = ?", (change(payload), number))
        self.hub.start()

    def start(self):
        a, b = self.workspace_of(2)
        for i in range(3):
            a.sql(f"INSERT INTO memories(id, content) VALUES ('m{i}', 'x');")
            a.claw("push")
        with contextlib.closing(self.hub.database()) as db:
            number, = db.execute("SELECT max(number) - 1 FROM log").fetchone()
        flip = lambda p: bytes([p[0] ^ 1]) + p[1:]
        self.chunk(number, flip)
        self.assertIn("BAD_CHUNK", b.claw("sync", want=4).stderr)
        self.assertEqual(b.query("SELECT id FROM memories ORDER BY id"), [("m0",), ("m2",)])
        return a, b, number, flip

    def aside(self, device):
        return json.loads(device.claw("hidden", "list", "--json").stdout)["batches_set_aside"]

    def test_shown_and_taken_in_when_it_is_mended(self):
        a, b, number, flip = self.start()
        one, = self.aside(b)
        self.assertEqual((one["log_number"], one["device"]), (number, a.status()["device_id"]))
        self.assertEqual(one["meaning"], "the hub gives other bytes than its device sent")
        shown = b.claw("hidden", "show", str(number)).stdout
        self.assertIn("BAD_CHUNK", shown)
        self.assertIn("claw-sync hidden retry", shown)
        self.assertEqual(json.loads(b.claw("hidden", "show", str(number), "--json").stdout)["batches_set_aside"], [one])
        self.assertEqual([json.loads(x) for x in b.claw("hidden", "export").stdout.splitlines()], [one])
        self.assertEqual(b.claw("hidden", "export", "memories").stdout, "")
        self.assertEqual(json.loads(b.claw("hidden", "retry", "--json").stdout), {"rows": 0, "batches": 1, "past_cut": 0})
        self.assertEqual(b.claw("sync").stderr, "")  # still so, and no news
        self.assertEqual(self.aside(b), [one])
        b.sql("UPDATE memories SET content = 'of b' WHERE id = 'm0';")
        self.chunk(number, flip)
        self.assertIn(f"number {number} of the log", b.claw("sync").stderr)
        self.assertEqual((self.aside(b), b.status()["batches_set_aside"]), ([], 0))
        self.settle([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM memories"), 3)
        b.claw("hidden", "show", str(number), want=2)
        rows = [json.loads(x) for x in b.claw("audit", "export").stdout.splitlines()]
        self.assertIn({"batches": 1, "set_aside": True}, [x["payload"] for x in rows if x["event_type"] == "PULL"])
        b.claw("audit", "verify")

    def test_one_that_never_opens_is_dismissed(self):
        a, b, number, flip = self.start()
        self.assertIn(f"claw-sync hidden dismiss {number}", b.claw("hidden", "show", str(number)).stdout)
        for wrong in ("0", "x", "-1", ""):
            b.claw("hidden", "dismiss", wrong, want=2)
        self.assertIn("not set aside", b.claw("hidden", "dismiss", str(number + 1), want=2).stderr)
        self.assertEqual(len(self.aside(b)), 1)
        self.assertEqual(json.loads(b.claw("hidden", "dismiss", str(number), "--json").stdout), {"dismissed": number})
        self.assertEqual(self.aside(b), [])
        b.claw("hidden", "dismiss", str(number), want=2)
        b.sync()  # which does not fetch it again
        self.assertEqual((self.aside(b), b.status()["batches_set_aside"]), ([], 0))
        a.start()
        claw.wait_until(lambda: json.loads(b.claw("reconcile", "--json").stdout)["equal"] == 1, a.daemon_log)  # its daemon is there
        a.stop()
        self.assertEqual(b.query("SELECT id FROM memories ORDER BY id"), [("m0",), ("m1",), ("m2",)])
        self.settle([a, b])

    def test_a_daemon_takes_it_in_when_it_is_asked(self):
        a, b, number, flip = self.start()
        b.start(CLAW_SYNC_INTERVAL_SECS=3600, CLAW_RETRY_BASE_MS=20)
        claw.wait_until(lambda: "connected" in b.daemon_log(), b.daemon_log)
        self.chunk(number, flip)
        claw.wait_until(lambda: b.daemon_log().count("connected") >= 2, b.daemon_log)
        self.assertEqual(len(self.aside(b)), 1)
        b.claw("hidden", "retry")
        claw.wait_until(lambda: self.aside(b) == [], b.daemon_log)
        b.stop()
        self.settle([a, b])

    def test_what_never_opens_comes_from_its_device(self):
        """Nobody has the bytes any more; the device that wrote them has the rows."""
        a, b, number, flip = self.start()
        a.sync()
        a.claw("reconcile", want=None)
        b.claw("reconcile", want=None)
        a.claw("reconcile", want=None)
        self.settle([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM memories"), 3)

    def forge(self, *args):
        done = subprocess.run([next(claw.BUILD.resolve().rglob("bin/forge")), *map(str, args)], capture_output=True, text=True,
                              timeout=claw.PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [bytes.fromhex(x) for x in done.stdout.split()]

    def vouched(self, db):
        """The hub's log is what is in the tables: hashes as they follow, and its head."""
        batches = [h for h, in db.execute("SELECT hash FROM log ORDER BY number")]
        id, refilled = db.execute("SELECT log_id, refilled FROM workspace").fetchone()
        for n in range(len(batches), 0, -1):
            l, = self.forge("log", self.workspace.replace("-", ""), id, refilled, *(h.hex() for h in batches[:n]))
            db.execute("UPDATE log SET log_hash = ? WHERE number = ?", (l, n))
            if n == len(batches):
                db.execute("UPDATE workspace SET number = ?, log_hash = ?", (n, l))

    def never_opens(self, d, number, device, finding, meaning):
        """Listed and shown; tried again to no end, and nothing is lost by that; dismissed."""
        rows = d.dump()
        one, = self.aside(d)
        self.assertEqual((one["log_number"], one["device"], one["meaning"]), (number, device, meaning))
        self.assertTrue(one["finding"].startswith(finding + ": "), one)
        self.assertIn(f"batch {number} of the log was set aside: {one['finding']} (device {device})", d.claw("hidden", "list").stdout)
        shown = d.claw("hidden", "show", str(number)).stdout
        self.assertIn(meaning, shown)
        self.assertIn(f"claw-sync hidden dismiss {number}", shown)
        self.assertEqual(json.loads(d.claw("hidden", "show", str(number), "--json").stdout)["batches_set_aside"], [one])
        told = json.loads(d.claw("hidden", "retry", "--json").stdout), d.claw("hidden", "retry").stdout
        for _ in range(2):
            self.assertEqual(d.claw("sync").stderr, "")  # no news
            self.assertEqual((self.aside(d), d.dump()), ([one], rows))
        gone = d.claw("hidden", "dismiss", str(number)).stdout
        self.assertIn(f"batch {number} of the log is not fetched again", gone)
        d.sync()
        said = d.status()
        self.assertEqual((self.aside(d), said["batches_set_aside"], said["batches_past_cut"], d.dump()), ([], 0, 0, rows))
        return shown, *told, gone

    def test_content_that_cannot_be_read(self):
        """Signed, sealed under the workspace's key, and no set of edits: a member's program is bent. The log goes on behind it."""
        a, b, c = self.workspace_of(3)
        self.settle([a, b, c])
        c.sql("INSERT INTO memories(id, content) VALUES ('bent', 'x');")
        c.claw("push")
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db, db:
            number, header = db.execute("SELECT number, header FROM log ORDER BY number DESC LIMIT 1").fetchone()
            header, signature, chunk, payload, digest = self.forge("content", c.data, header.hex())
            db.execute("UPDATE log SET header = ?, signature = ?, payload_hashes = ?, hash = ? WHERE number = ?",
                       (header, signature, payload, digest, number))
            db.execute("UPDATE chunk SET payload = ? WHERE number = ?", (chunk, number))
            self.vouched(db)
        self.hub.start()
        a.sql("INSERT INTO memories(id, content) VALUES ('behind', 'x');")
        a.claw("push")
        self.assertIn("BAD_CONTENT", b.claw("sync", want=4).stderr)
        self.assertEqual(b.query("SELECT id FROM memories"), [("behind",)])
        shown, retry, words, gone = self.never_opens(b, number, c.status()["device_id"], "BAD_CONTENT",
                                                     "what is in it cannot be read, by this version at least")
        self.assertIn("claw-sync hidden retry", shown)
        self.assertEqual(retry, {"rows": 0, "batches": 1, "past_cut": 0})
        self.assertEqual(words, "rows=0, batches=1: tried again with the next round\n")
        self.assertIn("claw-sync reconcile", gone)

    def test_what_a_removed_device_sent_afterwards(self):
        """A batch of c's from before, that the hub shows behind the removal. It counts nowhere, and no retry changes that."""
        a, b, c = self.workspace_of(3)
        self.settle([a, b, c])
        columns = "device, device_number, hash, log_hash, header, signature, payload_hashes, entity_type"
        self.hub.stop()
        shutil.copytree(self.hub.folder / "data", self.folder / "before")
        self.hub.start()
        c.sql("INSERT INTO memories(id, content) VALUES ('back-dated', 'x');")
        c.claw("push")
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db:
            late = db.execute(f"SELECT {columns} FROM log ORDER BY number DESC LIMIT 1").fetchone()
            chunks = db.execute("SELECT seq, payload FROM chunk WHERE number = (SELECT max(number) FROM log)").fetchall()
        shutil.rmtree(self.hub.folder / "data")
        shutil.move(self.folder / "before", self.hub.folder / "data")
        self.hub.start()
        device = c.status()["device_id"]
        a.claw("devices", "revoke", device)
        a.sql("INSERT INTO memories(id, content) VALUES ('after', 'x');")
        a.claw("push")
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db, db:
            number = db.execute("SELECT max(number) + 1 FROM log").fetchone()[0]
            db.execute(f"INSERT INTO log(workspace, number, {columns}) SELECT workspace, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM workspace",
                       (number, *late))
            db.executemany("INSERT INTO chunk SELECT workspace, ?, ?, ? FROM workspace", [(number, *x) for x in chunks])
            self.vouched(db)
        self.hub.start()
        a.sql("INSERT INTO memories(id, content) VALUES ('behind', 'x');")
        for d in (a, b):  # also who sends something finds it
            self.assertIn("PAST_CUT", d.claw("sync", want=4).stderr)
            self.assertEqual(d.query("SELECT id FROM memories ORDER BY id"), [("after",), ("behind",)])
        said = b.status()
        self.assertEqual((said["batches_set_aside"], said["batches_past_cut"], said["needs_you"]), (0, 1, []))
        self.assertIn("1 batch of removed devices, counted nowhere", b.claw("status", want=None).stdout)
        shown, retry, words, gone = self.never_opens(b, number, device, "PAST_CUT", "its device sent it when it was removed already")
        self.assertIn("It counts on no device, however often it is tried", shown)
        self.assertNotIn("claw-sync hidden retry", shown)
        self.assertEqual(retry, {"rows": 0, "batches": 0, "past_cut": 1})
        self.assertEqual(words, "rows=0, batches=0: tried again with the next round\n"
                                "past_cut=1: of devices that were removed before, and never taken in\n")
        self.assertNotIn("reconcile", gone)
        self.settle([a, b])

    def test_wrong_use(self):
        a, = self.workspace_of(1)
        for args in (("hidden", "show"), ("hidden", "show", "memories"), ("hidden", "show", "0"), ("hidden", "show", "-1"),
                     ("hidden", "show", "12x"), ("hidden", "show", "7"), ("hidden", "show", "99999999999999999999"),
                     ("hidden", "retry", "more"), ("hidden", "export", "a", "b"), ("hidden", "export", "nothing"),
                     ("hidden", "list", "a", "b"), ("hidden", "list", "nothing"), ("hidden", "lost"), ("hidden",)):
            done = a.claw(*args, want=2)
            self.assertEqual((len(done.stderr.splitlines()), done.stdout), (1, ""), (args, done.stderr))
        self.assertEqual(json.loads(a.claw("hidden", "retry", "--json").stdout), {"rows": 0, "batches": 0, "past_cut": 0})
        for command in ("list", "show", "export", "retry"):
            self.assertIn(f"hidden {command}", a.claw("hidden", command, "--help").stdout)


if __name__ == "__main__":
    claw.main()
