"""Devices whose schemas are of different versions: columns and tables that one has and another lacks, edits of the same
rows meanwhile, then migrations. No value is lost or changed, to the bit, in whatever direction it went."""
import json

import claw

VALUES = ["1", "1.0", "-0.0", "1e300", "'text'", "CAST(x'ff00fe' AS TEXT)", "x'00ff'", "NULL", "9223372036854775807", "''",
          "x''", "'1'"]
ALL = "SELECT id, content, typeof(of_a), quote(of_a), hex(of_a), typeof(of_b), quote(of_b), hex(of_b) FROM memories ORDER BY id"


class Schemas(claw.ClawTest):
    def device_with(self, name, columns, more=""):
        return self.device(name, schema=f"CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, content TEXT{columns});{more}")

    def rounds(self, *devices):
        for _ in range(10):
            moved = [d.sync() for d in devices]
            if not any(s["pushed"] or s["pulled"] for s in moved):
                return
        self.fail("never at rest")

    def hidden(self, device):
        return json.loads(device.claw("hidden", "list", "--json").stdout)["hidden"]

    def start(self):
        """a has a column and a table that the others lack, b another column; c has neither and lies in between."""
        self.start_hub()
        a = self.device_with("a", ", of_a", "CREATE TABLE memory_tags(memory_id TEXT NOT NULL, tag BLOB, PRIMARY "
                                            "KEY(memory_id, tag)) WITHOUT ROWID;")
        a.sync()
        b, c = self.device_with("b", ", of_b"), self.device_with("c", "")
        for d in (b, c):
            self.join(a, d)
        rows = ", ".join(f"('r{i:02}', 'from a', {v})" for i, v in enumerate(VALUES))
        a.sql(f"INSERT INTO memories VALUES {rows}; INSERT INTO memory_tags SELECT id, CAST(of_a AS BLOB) FROM memories "
              "WHERE of_a IS NOT NULL;")
        self.rounds(a, b, c)
        return a, b, c

    def test_nobody_loses_a_column(self):
        a, b, c = self.start()
        first = dict(a.query("SELECT id, quote(of_a) FROM memories"))
        self.assertEqual(b.value("SELECT count(*) FROM memories"), len(VALUES))
        self.assertEqual({len(self.hidden(d)) for d in (b, c)}, {len(VALUES) * 2 - 1})  # each row's column; the tags

        # the old schemas write over the same rows, the new one goes on meanwhile
        for i, v in enumerate(VALUES):
            b.sql(f"UPDATE memories SET content = 'from b', of_b = {v} WHERE id = 'r{i:02}';")
        c.sql("UPDATE memories SET content = 'from c' WHERE id IN ('r03', 'r04'); "
              "INSERT OR REPLACE INTO memories VALUES ('r06', 'replaced by c');")
        b.sql("DELETE FROM memories WHERE id = 'r05'; INSERT INTO memories VALUES ('r05', 'again', x'05');"
              "DELETE FROM memories WHERE id = 'r09'; INSERT INTO memories VALUES ('r09', 'again', NULL);"
              "DELETE FROM memories WHERE id = 'r08';")
        a.sql("UPDATE memories SET of_a = x'ee' WHERE id = 'r01'; INSERT INTO memories VALUES ('new', 'of a', 'late');")
        self.rounds(c, b, a)
        a.sql("UPDATE memories SET of_a = 'after' WHERE id = 'r05';")  # lives again by b, who does not know the column
        self.rounds(a, b, c)
        want = {k: v for k, v in first.items() if k != "r08"} | {"r01": "X'EE'", "r09": "NULL", "new": "'late'", "r05": "'after'"}
        self.assertEqual(dict(a.query("SELECT id, quote(of_a) FROM memories")), want)

        # b gets the column by ALTER TABLE, a its own by a table that is made anew, c both at once and the table
        b.sql("ALTER TABLE memories ADD COLUMN of_a;")
        self.rounds(b)
        self.assertEqual(dict(b.query("SELECT id, quote(of_a) FROM memories")), want)
        of_b = dict(b.query("SELECT id, quote(of_b) FROM memories"))
        b.sql("UPDATE memories SET of_a = -1.5, of_b = CAST(x'80' AS TEXT) WHERE id = 'r02';")
        a.claw("pause")
        a.sql("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, of_b, content TEXT, of_a); "
              "INSERT INTO t(id, content, of_a) SELECT id, content, of_a FROM memories; "
              "UPDATE t SET content = 'in the pause' WHERE id = 'r00'; DROP TABLE memories; ALTER TABLE t RENAME TO memories;")
        a.claw("resume")
        self.rounds(a, b)
        c.sql("ALTER TABLE memories ADD COLUMN of_b; ALTER TABLE memories ADD COLUMN of_a; CREATE TABLE memory_tags("
              "memory_id TEXT NOT NULL, tag BLOB, PRIMARY KEY(memory_id, tag)) WITHOUT ROWID;")
        b.sql("CREATE TABLE memory_tags(memory_id TEXT NOT NULL, tag BLOB, PRIMARY KEY(memory_id, tag)) WITHOUT ROWID;")
        self.rounds(a, b, c)
        self.assertEqual(dict(a.query("SELECT id, quote(of_b) FROM memories")),
                         of_b | {"r02": a.value("SELECT quote(CAST(x'80' AS TEXT))")})
        self.assertEqual(a.value("SELECT quote(of_a) FROM memories WHERE id = 'r02'"), "-1.5")
        self.assertEqual(c.value("SELECT content FROM memories WHERE id = 'r00'"), "in the pause")
        tags = a.query("SELECT memory_id, typeof(tag), hex(tag) FROM memory_tags ORDER BY 1, 3")
        self.assertEqual(len(tags), len(VALUES) - 1)
        for d in (b, c):
            self.assertEqual(d.query(ALL), a.query(ALL))
            self.assertEqual(d.query("SELECT memory_id, typeof(tag), hex(tag) FROM memory_tags ORDER BY 1, 3"), tags)
        for d in (a, b, c):
            self.assertEqual(self.hidden(d), [])
            self.assertEqual(d.query("SELECT h.key, h.col, quote(h.value), w.ins, w.del FROM sync_hidden h JOIN sync_rows w "
                                     "USING (tbl, key)"), [])
            d.check()

        # and one that comes now, with all of it
        late = self.device_with("late", ", of_b, of_a", "CREATE TABLE memory_tags(memory_id TEXT NOT NULL, tag BLOB, "
                                                        "PRIMARY KEY(memory_id, tag)) WITHOUT ROWID;")
        self.join(a, late)
        self.rounds(a, late)
        self.assertEqual(late.query(ALL), a.query(ALL))

    def two(self, schema="CREATE TABLE n(id TEXT PRIMARY KEY NOT NULL, t TEXT, mood TEXT);"):
        self.start_hub()
        a, b = self.device("a", schema=schema), self.device("b", schema=schema)
        a.sync()
        self.join(a, b)
        for d in (a, b):
            d.claw("track", "n")
        self.rounds(a, b)
        return a, b

    def test_a_column_is_dropped_with_edits_that_were_not_sent(self):
        a, b = self.two()
        a.sql("INSERT INTO n VALUES ('1', 'sent', 'calm');")
        self.rounds(a, b)
        b.sql("INSERT INTO n VALUES ('2', 'unsent', 'happy'); UPDATE n SET t = 'edited', mood = 'sad' WHERE id = '1';"
              "INSERT INTO n VALUES ('3', 'unsent', 'happy'); DELETE FROM n WHERE id = '3';")
        for d in (a, b):
            d.claw("pause")
            d.sql("ALTER TABLE n DROP COLUMN mood;")
            d.claw("resume")
        self.rounds(b, a)
        for d in (a, b):
            self.assertEqual(d.query("SELECT id, t FROM n ORDER BY id"), [("1", "edited"), ("2", "unsent")])
        a.claw("prove", want=None)
        self.assertEqual(json.loads(b.claw("prove", "--json").stdout)["equal"], 1)

    def two_tables(self):
        a, b = self.two("CREATE TABLE n(id TEXT PRIMARY KEY NOT NULL, t TEXT, u TEXT); CREATE TABLE m(id TEXT PRIMARY KEY NOT NULL);")
        for d in (a, b):
            d.claw("track", "m")
        return a, b

    def test_untracked_with_edits_that_were_not_sent(self):
        a, b = self.two_tables()
        a.sql("INSERT INTO n VALUES ('0', 'x', 'y');")
        self.rounds(a, b)
        a.sql("INSERT INTO n VALUES ('1', 'unsent', 'y'); UPDATE n SET t = 'unsent' WHERE id = '0';")
        a.claw("untrack", "n")
        a.sql("INSERT INTO m VALUES ('goes on'); INSERT INTO n VALUES ('2', 'of a alone', 'y');")
        self.rounds(a, b)
        self.assertEqual(b.query("SELECT id FROM m"), [("goes on",)])
        self.assertEqual(b.query("SELECT id, t FROM n ORDER BY id"), [("0", "unsent"), ("1", "unsent")])
        b.claw("prove", want=None)
        self.assertEqual(json.loads(a.claw("prove", "--json").stdout)["equal"], 1)

    def test_a_table_is_tracked_again(self):
        a, b = self.two_tables()
        a.sql("INSERT INTO n SELECT value, 'x', 'y' FROM json_each('[1, 2, 3, 4, 5, 6, 7]');")
        self.rounds(a, b)
        a.claw("untrack", "n")
        a.sql("DELETE FROM n WHERE id = '1'; UPDATE n SET t = 'of a' WHERE id IN ('2', '6');"
              "INSERT INTO n VALUES ('of a', 'x', 'y'), ('both', 'of a', 'y');")
        b.sql("DELETE FROM n WHERE id = '3'; UPDATE n SET t = 'of b' WHERE id = '4'; UPDATE n SET u = 'of b' WHERE id = '2';"
              "DELETE FROM n WHERE id = '6'; INSERT INTO n VALUES ('of b', 'x', 'y'), ('both', 'of b', 'y');")
        self.rounds(b, a)
        self.assertEqual(a.query("SELECT id, t FROM n ORDER BY id"),
                         [("2", "of a"), ("3", "x"), ("4", "x"), ("5", "x"), ("6", "of a"), ("7", "x"), ("both", "of a"), ("of a", "x")])
        a.claw("track", "n")
        self.rounds(a, b)
        want = [("2", "of a"), ("4", "of b"), ("5", "x"), ("6", "of a"), ("7", "x"), ("both", "of a"), ("of a", "x"), ("of b", "x")]
        for d in (a, b):
            self.assertEqual(d.query("SELECT id, t FROM n ORDER BY id"), want)
            self.assertEqual(json.loads(d.claw("status", "--json").stdout)["state"], "in-sync")
            self.assertEqual(self.hidden(d), [])
        b.claw("prove", want=None)
        self.assertEqual(json.loads(a.claw("prove", "--json").stdout)["equal"], 1)
        a.sql("UPDATE n SET t = 'later' WHERE id = '4';")  # it is tracked as ever
        b.sql("UPDATE n SET t = 'later' WHERE id = '5';")
        self.rounds(a, b)
        self.assertEqual(a.query("SELECT * FROM n ORDER BY id"), b.query("SELECT * FROM n ORDER BY id"))

    def test_untracked_in_a_pause(self):
        a, b = self.two_tables()
        a.sql("INSERT INTO n VALUES ('0', 'x', 'y'), ('1', 'x', 'y');")
        self.rounds(a, b)
        a.claw("pause", "n")
        a.sql("UPDATE n SET t = 'in the pause' WHERE id = '0'; DELETE FROM n WHERE id = '1';")
        a.claw("untrack", "n")
        self.rounds(a, b)
        self.assertEqual(b.query("SELECT id, t FROM n"), [("0", "in the pause")])
        b.claw("prove", want=None)
        self.assertEqual(json.loads(a.claw("prove", "--json").stdout)["equal"], 1)

    def test_a_table_is_dropped_in_a_pause(self):
        a, b = self.two()
        for table in ("n", None):
            for d in (a, b):
                d.claw("pause")
                d.sql("DROP TABLE n;")
                d.claw("resume", *([table] if table else []))
                self.assertEqual(json.loads(d.claw("status", "--json").stdout)["state"], "in-sync")
                d.sql("CREATE TABLE n(id TEXT PRIMARY KEY NOT NULL, t TEXT, mood TEXT);")
            a.sql(f"INSERT INTO n VALUES ('of {table}', 'x', 'y');")
            self.rounds(a, b)
            self.assertIn((f"of {table}",), b.query("SELECT id FROM n"))


if __name__ == "__main__":
    claw.main()
