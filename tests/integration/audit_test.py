"""The audit log: what the programs write into it, that it verifies, and that a changed one does not."""
from claw import *


class Audit(ClawTest):
    def entries(self, d):
        return [json.loads(x) for x in d.claw("audit", "export").stdout.splitlines()]

    def kinds(self, d):
        return [x["event_type"] for x in self.entries(d)]

    def verify(self, d, want=0):
        return json.loads(d.claw("audit", "verify", "--json", want=want).stdout)

    def change(self, d, sql):
        with contextlib.closing(sqlite3.connect(d.data / "audit.db", isolation_level=None)) as db:
            db.execute(sql)

    def test_what_happened_is_in_it_and_idle_rounds_are_not(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content) VALUES ('1', 'x'), ('2', 'y');")
        self.settle([a, b])
        of_a, of_b = self.entries(a), self.entries(b)
        self.assertEqual([x["sequence"] for x in of_a], list(range(1, len(of_a) + 1)))
        for x in of_a + of_b:
            self.assertEqual(x["workspace_id"], self.workspace)
        self.assertIn("DEVICE_REGISTERED", self.kinds(a))
        self.assertIn("MEMBER_ADDED", self.kinds(a))
        self.assertIn("KEY_ROTATED", self.kinds(b))
        pushes = [x for x in of_a if x["event_type"] == "PUSH"]
        self.assertEqual(sum(x["ops_count"] for x in pushes), 2)
        self.assertEqual(sum(x["ops_count"] for x in of_b if x["event_type"] == "PULL"), 2)
        for _ in range(3):
            a.sync()
            b.sync()
        self.assertEqual((len(self.entries(a)), len(self.entries(b))), (len(of_a), len(of_b)))
        for d, rows in ((a, of_a), (b, of_b)):
            self.assertEqual(self.verify(d), {"ok": True, "rows": len(rows), "first_broken_at": None,
                                              "broken_reason": None})
        self.assertEqual((a.data / "audit.db").stat().st_mode & 0o777, 0o600)
        last = a.claw("audit", "tail", "1", "--json").stdout.splitlines()
        self.assertEqual([json.loads(x) for x in last], of_a[-1:])
        self.assertEqual(len(a.claw("audit", "tail").stdout.splitlines()), min(len(of_a), 20))

    def test_a_removed_device_and_a_lost_edit_are_in_it(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content) VALUES ('1', 'x');")
        self.settle([a, b])
        a.sql("UPDATE memories SET content = 'of a' WHERE id = '1';")
        b.sql("UPDATE memories SET content = 'of b' WHERE id = '1';")
        self.settle([a, b])
        self.assertIn("CONFLICT_RESOLVED", self.kinds(a) + self.kinds(b))
        b_id = self.entries(b)[0]["device_id"]
        a.claw("devices", "revoke", b_id)
        removed = [x for x in self.entries(a) if x["event_type"] == "MEMBER_REMOVED" and x["entity_ids"] == b_id]
        self.assertEqual(len(removed), 1)
        self.assertTrue(self.verify(a)["ok"])

    def test_a_changed_log_is_named_at_its_row(self):
        a, = self.workspace_of(1)
        for i in range(3):
            a.sql(f"INSERT INTO memories(id, content) VALUES ('{i}', 'x');")
            a.sync()
        n = len(self.entries(a))
        self.assertGreater(n, 3)
        self.change(a, "UPDATE sync_audit_log SET ops_count = ops_count + 1 WHERE sequence = 3")
        found = self.verify(a, want=1)
        self.assertEqual((found["ok"], found["first_broken_at"]), (False, 3))
        self.assertTrue(found["broken_reason"])
        said = a.claw("audit", "verify", want=1)
        self.assertIn("row 3", said.stderr)
        self.change(a, "UPDATE sync_audit_log SET ops_count = ops_count - 1 WHERE sequence = 3")
        self.assertTrue(self.verify(a)["ok"])
        self.change(a, "DELETE FROM sync_audit_log WHERE sequence = 2")
        self.assertEqual(self.verify(a, want=1)["first_broken_at"], 2)

    def test_a_cut_end_shows_where_a_batch_names_it(self):
        a, = self.workspace_of(1)
        for i in range(3):
            a.sql(f"INSERT INTO memories(id, content) VALUES ('{i}', 'x');")
            a.sync()
        n = len(self.entries(a))
        self.change(a, f"DELETE FROM sync_audit_log WHERE sequence >= {n - 1}")
        self.assertEqual(self.verify(a, want=1)["first_broken_at"], n - 1)

    def test_a_new_identity_has_a_log_of_its_own(self):
        a, b = self.workspace_of(2)
        old = self.entries(b)
        b.claw("identity", "new")
        b.claw("join", json.loads(a.claw("invite", "--json").stdout)["code"])
        b.sync()
        new = self.entries(b)
        self.assertNotEqual(new[0]["device_id"], old[0]["device_id"])
        self.assertEqual(new[0]["sequence"], 1)
        self.assertTrue(self.verify(b)["ok"])
        with contextlib.closing(sqlite3.connect(b.data / "audit.db")) as db:
            self.assertEqual(db.execute("SELECT count(*) FROM sync_audit_log").fetchall(), [(len(old),)])

    def test_nothing_is_sent_so_the_way_to_the_hub_does_not_matter(self):
        a, = self.workspace_of(1)
        a.endpoint = "http://hub.example.org:50051"  # elsewhere, without TLS, and not allowed by name
        a.claw("sync", want=2)
        for name in ("verify", "tail", "export"):
            a.claw("audit", name)

    def test_beside_a_daemon_and_wrong_use(self):
        a, = self.workspace_of(1)
        a.start()
        a.sql("INSERT INTO memories(id, content) VALUES ('1', 'x');")
        wait_until(lambda: "PUSH" in self.kinds(a), "a push in the log of a running daemon")
        self.assertTrue(self.verify(a)["ok"])
        a.stop()
        for wrong in (["audit"], ["audit", "none"], ["audit", "tail", "x"], ["audit", "tail", "0"],
                      ["audit", "tail", "-1"], ["audit", "verify", "x"]):
            a.claw(*wrong, want=2)
        for name in ("verify", "tail", "export"):
            self.assertIn(f"audit {name}", a.claw("audit", name, "--help").stdout)
        nobody = self.device("nobody")
        for name in ("verify", "tail", "export"):
            nobody.claw("audit", name, want=2)
        self.assertFalse(nobody.data.exists())


if __name__ == "__main__":
    main()
