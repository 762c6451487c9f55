"""What a person does about rows that are hidden and edits that lost."""
import json
import re

import claw


class Hidden(claw.ClawTest):
    SCHEMA = """CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, content TEXT NOT NULL, email TEXT UNIQUE);
                CREATE TABLE memory_tags(memory_id TEXT NOT NULL REFERENCES memories(id), tag TEXT NOT NULL, extra BLOB,
                                         PRIMARY KEY(memory_id, tag));"""

    def hidden(self, device, *table):
        return json.loads(device.claw("hidden", "list", *table, "--json").stdout)["hidden"]

    def test_an_orphan_is_explained_shown_and_exported(self):
        a, b = self.workspace_of(2, schema=self.SCHEMA)
        a.sql("INSERT INTO memories VALUES ('m', 'one', NULL);")
        self.settle([a, b])
        a.sql("INSERT INTO memory_tags VALUES ('m', 'it''s', x'00ff');")
        b.sql("DELETE FROM memories;")
        self.settle([a, b])
        row, = self.hidden(b)
        self.assertEqual((row["table"], row["key"], row["reason"]), ("memory_tags", ["m", "it's"], "fk"))
        self.assertIn('"memories"', row["blocker"])
        self.assertEqual(row["values"]["extra"], {"hex": "00ff"})
        self.assertIn("'m', 'it''s'", b.claw("hidden", "list").stdout)
        self.assertIn("extra = x'00ff'", b.claw("hidden", "show", "memory_tags", "'m', 'it''s'").stdout)
        self.assertEqual([json.loads(x)["key"] for x in b.claw("hidden", "export").stdout.splitlines()], [["m", "it's"]])
        self.assertEqual(self.hidden(b, "memories"), [])
        b.sql("INSERT INTO memories VALUES ('m', 'again', NULL);")
        self.settle([a, b])
        self.assertEqual(self.hidden(b), [])
        self.assertEqual(b.claw("hidden", "list").stdout, "nothing is hidden\n")
        self.assertEqual(a.value("SELECT count(*) FROM memory_tags"), 1)

    def test_the_loser_of_a_unique_key(self):
        a, b = self.workspace_of(2, schema=self.SCHEMA)
        a.sql("INSERT INTO memories VALUES ('a', 'first', 'x@y');")
        a.claw("push")
        b.sql("INSERT INTO memories VALUES ('b', 'second', 'x@y');")
        self.settle([a, b])
        row, = self.hidden(a)
        self.assertEqual((row["key"], row["reason"], row["values"]["content"]), (["b"], "unique", "second"))
        self.assertIn('"email"', row["blocker"])
        self.assertIn("content = 'second'", a.claw("hidden", "show", "memories", "b").stdout)
        conflict, = json.loads(a.claw("conflicts", "list", "--json").stdout)["conflicts"]
        self.assertEqual((conflict["why"], conflict["key"], conflict["column"]), ("unique", ["b"], None))
        said = a.claw("conflicts", "restore", conflict["id"], want=2).stderr
        advised = re.search(r"claw-sync (hidden \w+ memories) tells", said).group(1)
        self.assertIn("another row holds its key", a.claw(*advised.split()).stdout)

    def test_a_value_kept_aside(self):
        a, b = self.workspace_of(2, schema=self.SCHEMA)
        a.sql("ALTER TABLE memories ADD COLUMN model TEXT; INSERT INTO memories VALUES ('m', 'one', NULL, 'big');")
        self.settle([a, b], tables=[])
        row, = self.hidden(b)
        self.assertEqual((row["reason"], row["values"]), (None, {"model": "big"}))

    def test_wrong_use(self):
        a, = self.workspace_of(1, schema=self.SCHEMA)
        for args in (("hidden", "list", "nothing"), ("hidden", "show", "memories"), ("hidden", "show", "memories", "m"),
                     ("hidden",), ("conflicts", "show", "0123"), ("conflicts", "show", ""), ("conflicts", "restore"),
                     ("conflicts", "resolve", "ffff"), ("conflicts", "restore", "x" * 40), ("conflicts", "list", "more")):
            done = a.claw(*args, want=2)
            self.assertEqual(len(done.stderr.splitlines()), 1, args)
            self.assertEqual(done.stdout, "", args)


class Conflicts(claw.ClawTest):
    def conflicts(self, device):
        return json.loads(device.claw("conflicts", "list", "--json").stdout)["conflicts"]

    def concurrent(self):
        """Both edit one field; a's edit is the older one."""
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'one'), ('other', 'x');")
        self.settle([a, b])
        a.sql("UPDATE memories SET content = 'from a' WHERE id = 'm';")
        a.claw("push")
        b.sql("UPDATE memories SET content = 'from b' WHERE id = 'm';")
        self.settle([a, b])
        return a, b

    def test_a_lost_edit_comes_back(self):
        a, b = self.concurrent()
        on_a, on_b = self.conflicts(a), self.conflicts(b)
        self.assertEqual([c["id"] for c in on_a], [c["id"] for c in on_b])
        conflict, = on_a
        self.assertEqual([conflict[k] for k in ("why", "state", "table", "key", "column", "losing", "now")],
                         ["overwritten", "auto", "memories", ["m"], "content", "from a", "from b"])
        self.assertIn("losing   'from a'", a.claw("conflicts", "show", conflict["id"][:6]).stdout)
        b.claw("conflicts", "restore", conflict["id"])
        self.settle([a, b])
        self.assertEqual(a.value("SELECT content FROM memories WHERE id = 'm'"), "from a")
        self.assertEqual(a.value("SELECT count(*) FROM memories_fts WHERE content MATCH 'from'"), 1)
        self.assertEqual((self.conflicts(a), self.conflicts(b)), ([], []))
        self.assertIn("resolved", a.claw("conflicts", "show", conflict["id"]).stdout)
        self.assertEqual(b.claw("conflicts", "list").stdout, "no conflict is open\n")

    def test_settled_as_it_stands_settles_it_everywhere(self):
        a, b = self.concurrent()
        conflict, = self.conflicts(a)
        self.assertEqual(a.claw("conflicts", "show", "", want=2).stdout, "")  # and not all of them
        a.claw("conflicts", "resolve", conflict["id"][:8])
        self.assertEqual(self.conflicts(a), [])
        self.assertEqual(a.status()["conflicts"], 0)
        self.assertEqual(a.status()["unsealed"], 2)  # the value that stays, and the word that it is settled
        self.assertIn("resolved", a.claw("conflicts", "show", conflict["id"]).stdout)
        a.claw("conflicts", "resolve", conflict["id"], want=2)
        self.settle([a, b])
        self.assertEqual(b.value("SELECT content FROM memories WHERE id = 'm'"), "from b")
        self.assertEqual(self.conflicts(b), [])
        for device in (a, b):
            self.assertEqual(device.status()["tracked_tables"], len(claw.TABLES))
            self.assertEqual(device.status()["hidden_rows"], 0)
            self.assertNotIn("sync_", device.claw("tables").stdout)
            rows = [json.loads(x) for x in device.claw("audit", "export").stdout.splitlines()]
            self.assertIn(conflict["id"], {x["entity_ids"] for x in rows if x["event_type"] == "CONFLICT_RESOLVED"})

    def test_a_daemon_is_told(self):
        a, b = self.concurrent()
        conflict, = self.conflicts(a)
        b.start()
        claw.wait_until(lambda: "connected" in b.daemon_log(), "the daemon's connection")
        a.claw("conflicts", "resolve", conflict["id"], "--take")
        self.assertEqual(a.value("SELECT told FROM sync_conflicts"), 1)
        a.sync()
        claw.wait_until(lambda: self.conflicts(b) == [], "the word that it is settled")
        claw.wait_until(lambda: b.value("SELECT content FROM memories WHERE id = 'm'") == "from a", "the value")
        self.assertEqual(a.value("SELECT told FROM sync_conflicts"), 0)  # the hub has heard of it
        b.stop()
        self.hub.stop()
        stored = b"".join(p.read_bytes() for p in (self.folder / "hub").rglob("*") if p.is_file())
        for text in (b"from a", b"from b", b"memories", b"content", conflict["id"].encode(), bytes.fromhex(conflict["id"])):
            self.assertNotIn(text, stored)

    def test_another_value_and_a_device_that_comes_later(self):
        a, b = self.concurrent()
        conflict, = self.conflicts(a)
        a.claw("conflicts", "resolve", conflict["id"], "--take", "--value", "x", want=2)
        a.claw("conflicts", "resolve", conflict["id"], "--value", "x'0", want=0)  # no blob: text
        self.settle([a, b])
        self.assertEqual(b.value("SELECT content FROM memories WHERE id = 'm'"), "x'0")
        self.assertEqual((self.conflicts(a), self.conflicts(b)), ([], []))
        c = self.device("late")
        self.join(a, c)
        self.settle([a, b, c])
        self.assertEqual(self.conflicts(c), [])

    def test_a_program_that_reads_the_events(self):
        """Of a daemon under --json: which conflict it is, and what; and that a CHECK is broken, until it is not."""
        self.start_hub()
        a = self.device("a", schema="CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, n);")
        a.sync()
        b = self.device("b", schema="CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, n CHECK (n < 10));")
        self.join(a, b)
        b.start("--json")
        claw.wait_until(lambda: '"connected"' in b.daemon_log(), b.daemon_log)
        a.sql("INSERT INTO memories VALUES ('k', 99);")
        a.sync()
        claw.wait_until(lambda: '"conflict-detected"' in b.daemon_log(), b.daemon_log)
        event, = [e for e in map(json.loads, b.daemon_log().splitlines()) if e["event"] == "conflict-detected"]
        conflict, = self.conflicts(b)
        self.assertEqual((event["id"], conflict["why"], conflict["key"]), (conflict["id"], "check", ["k"]))
        self.assertIn("breaks a CHECK", event["message"])
        self.assertEqual(b.query("SELECT n FROM memories"), [(99,)])  # shown all the same
        self.assertRegex(b.claw("conflicts", "resolve", conflict["id"], "--take", want=2).stderr,
                         "keeps no value; an edit that mends the row settles it$")
        a.sql("INSERT INTO memories VALUES (CAST(x'c3' AS TEXT), 98);")  # text need not be UTF-8, JSON must
        a.sync()
        claw.wait_until(lambda: b.daemon_log().count('"conflict-detected"') == 2, b.daemon_log)
        event = json.loads([x for x in b.daemon_log().splitlines() if '"conflict-detected"' in x][1])
        self.assertIn(event["id"], {c["id"] for c in self.conflicts(b)} - {conflict["id"]})
        self.assertIn("row '?'", event["message"])
        a.sql("UPDATE memories SET n = 5;")
        a.sync()
        claw.wait_until(lambda: self.conflicts(b) == [], b.daemon_log)
        self.assertIn("(closed)", b.claw("conflicts", "show", conflict["id"]).stdout)

    def test_what_the_user_asked_to_decide(self):
        a, b = self.workspace_of(2)
        a.claw("strategy", "memories.content", "manual")
        a.sql("INSERT INTO memories(id, content, source) VALUES ('m', 'one', 'here');")
        self.settle([a, b])
        for device in (a, b):
            table, = [t for t in json.loads(device.claw("tables", "--json").stdout)["tables"] if t["name"] == "memories"]
            self.assertEqual((table["strategy"], table["column_strategies"]), ("last_write_wins", {"content": "manual"}))
        a.sql("UPDATE memories SET content = 'of a', source = 'of a';")
        a.claw("push")
        b.sql("UPDATE memories SET content = 'of b', source = 'of b';")
        told = b.claw("sync").stderr
        self.settle([a, b])
        self.assertEqual(a.query("SELECT content, source FROM memories"), [("of b", "of b")])
        by_column = {c["column"]: c for c in self.conflicts(b)}
        self.assertEqual({k: v["state"] for k, v in by_column.items()}, {"content": "manual", "source": "auto"})
        manual = by_column["content"]["id"]
        self.assertIn(f"claw-sync conflicts show {manual}", told)
        self.assertIn("'m'", told)
        for device in (a, b):
            status = device.status()
            self.assertEqual(status["state"], "needs-you")
            self.assertEqual((status["conflicts"], status["manual_conflicts"]), (2, 1))
            text = device.claw("status").stdout
            self.assertIn("NEEDS YOU: 1 conflict wants a decision: claw-sync conflicts list, then claw-sync conflicts resolve ID", text)
            self.assertIn("2, of which 1 wants a decision", text)
        a.claw("conflicts", "resolve", manual, "--take")
        self.settle([a, b])
        for device in (a, b):
            self.assertEqual(device.query("SELECT content, source FROM memories"), [("of a", "of b")])
            self.assertEqual(json.loads(device.claw("status", "--json").stdout)["needs_you"], [])
        a.claw("strategy", "memories.content", "last_write_wins", "--quiet")
        for args in (("memories", "newest"), ("nothing", "manual"), ("memories.nothing", "manual"), ("memories",)):
            a.claw("strategy", *args, want=2)

    def test_two_who_decide_at_once(self):
        """What one decided meets what the other did: that is no conflict of anybody's."""
        a, b = self.workspace_of(2)
        a.claw("strategy", "memories.content", "manual")
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'one');")
        self.settle([a, b])
        a.sql("UPDATE memories SET content = 'of a';")
        a.claw("push")
        b.sql("UPDATE memories SET content = 'of b';")
        self.settle([a, b])
        conflict, = self.conflicts(a)
        a.claw("conflicts", "resolve", conflict["id"])
        b.claw("conflicts", "resolve", conflict["id"], "--take")
        told = [device.claw("sync").stderr for device in (a, b, a, b)]
        self.settle([a, b])
        self.assertNotIn("sync_shared", "".join(told))
        shared = a.value("SELECT id FROM sync_tables WHERE name = 'sync_shared'")
        for device in (a, b):
            self.assertEqual(device.value("SELECT count(*) FROM sync_conflicts WHERE tbl = ?", shared), 0)
            self.assertEqual(device.query("SELECT what FROM sync_shared WHERE what = 'resolved'"), [("resolved",)])
        counts = [(device.status()["conflicts"], device.status()["manual_conflicts"]) for device in (a, b)]
        # older versions recorded such
        a.sql(f"""INSERT INTO sync_conflicts(id, why, tbl, key, col, stamp, device, value, state, at_ms)
                  VALUES (x'ffff', 'overwritten', {shared}, x'00', 0, 1, x'00', 'taken', 'auto', 9000000000000000),
                         (x'fffe', 'overwritten', {shared}, x'00', 0, 1, x'00', 'taken', 'manual', 9000000000000000);""")
        self.assertEqual([(device.status()["conflicts"], device.status()["manual_conflicts"]) for device in (a, b)], counts)
        self.assertNotIn("sync_shared", a.claw("conflicts", "list").stdout)
        for args in (("show", "ff"), ("resolve", "ff"), ("restore", "fffe")):
            a.claw("conflicts", *args, want=2)
        self.assertNotIn("sync_shared", a.claw("sync").stderr)

    def test_a_deleted_row_comes_back_with_what_was_lost(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content, source) VALUES ('m', 'one', 'here');")
        self.settle([a, b])
        b.sql("UPDATE memories SET content = 'edited', source = 'there' WHERE id = 'm';")
        b.claw("push")
        a.sql("DELETE FROM memories WHERE id = 'm';")
        self.settle([a, b])
        self.assertEqual(a.value("SELECT count(*) FROM memories"), 0)
        conflicts = self.conflicts(b)
        self.assertEqual(sorted((c["why"], c["column"], c["losing"]) for c in conflicts),
                         [("deleted", "content", "edited"), ("deleted", "source", "there")])
        b.claw("conflicts", "restore", conflicts[0]["id"])
        self.settle([a, b])
        self.assertEqual(a.query("SELECT id, content, source FROM memories"), [("m", "edited", "there")])
        self.assertEqual(self.conflicts(b), [])

    def edited_beside_a_delete(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content, source) VALUES ('m', 'one', 'here');")
        self.settle([a, b])
        b.sql("UPDATE memories SET source = 'there' WHERE id = 'm';")
        b.claw("push")
        a.sql("DELETE FROM memories WHERE id = 'm';")
        self.settle([a, b])
        self.assertEqual([c["id"] for c in self.conflicts(a)], [c["id"] for c in self.conflicts(b)])
        return a, b, self.conflicts(b)[0]["id"]

    def test_the_rest_of_a_deleted_row_comes_back_with_the_edit(self):
        a, b, conflict = self.edited_beside_a_delete()
        b.claw("conflicts", "restore", conflict)
        self.settle([a, b])
        self.assertEqual(a.query("SELECT id, content, source FROM memories"), [("m", "one", "there")])
        self.assertEqual((self.conflicts(a), self.conflicts(b)), ([], []))
        self.assertEqual(b.value("SELECT count(*) FROM sync_lost"), 1)
        a.sql("INSERT INTO memories(id, content) VALUES ('more', 'x');")
        self.settle([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM sync_lost"), 0)  # kept no longer than the conflict

    def test_of_an_edit_alone_no_row_is_made(self):
        """Where the delete came first there is nothing of the row but the edit."""
        a, b, conflict = self.edited_beside_a_delete()
        for take in (("restore", conflict), ("resolve", conflict, "--take")):
            self.assertIn("the device that made it has the whole row", a.claw("conflicts", *take, want=2).stderr)
        self.assertEqual(len(self.conflicts(a)), 1)
        self.assertEqual(a.value("SELECT count(*) FROM memories"), 0)
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'anew');")
        a.claw("conflicts", "restore", conflict)
        self.settle([a, b])
        self.assertEqual(b.query("SELECT id, content, source FROM memories"), [("m", "anew", "there")])
        self.assertEqual((self.conflicts(a), self.conflicts(b)), ([], []))

    def test_a_row_that_the_table_cannot_take(self):
        a, b, conflict = self.edited_beside_a_delete()
        b.sql("CREATE TRIGGER refuses BEFORE INSERT ON memories BEGIN SELECT RAISE(ABORT, 'not today'); END;")
        self.assertIn("not today", b.claw("conflicts", "restore", conflict, want=2).stderr)
        self.assertEqual(self.conflicts(b)[0]["id"], conflict)
        self.assertEqual(b.value("SELECT count(*) FROM memories"), 0)


if __name__ == "__main__":
    claw.main()
