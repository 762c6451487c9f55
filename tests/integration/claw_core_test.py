"""The real case: two and five devices edit claw-core's schema through ordinary SQL while their daemons run."""
import random
import subprocess
import sys
import threading

from claw import *

# One device's application: its own process, its own connection, ordinary SQL with a busy timeout.
WRITER = r"""
import random, sqlite3, sys
path, seed, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
r = random.Random(seed)
db = sqlite3.connect(path, timeout=60, isolation_level=None)
db.execute("PRAGMA foreign_keys=ON")
ids = [f"m{i}" for i in range(40)]
done = 0
while done < n:
    try:
        db.execute("BEGIN IMMEDIATE")
        for _ in range(r.randint(1, 4)):
            m, x = r.choice(ids), r.random()
            if x < .35:
                db.execute("INSERT INTO memories(id, content, tags, importance, embedding, created_at) VALUES (?,?,?,?,?,?) "
                           "ON CONFLICT(id) DO UPDATE SET content = excluded.content, updated_at = excluded.created_at",
                           (m, f"word{r.randint(0, 9)} by {seed}", '["t"]', r.random(), r.randbytes(16), r.randint(1, 10**12)))
            elif x < .5:
                db.execute("UPDATE memories SET importance = ?, source = ? WHERE id = ?", (r.random(), str(seed), m))
            elif x < .6:
                db.execute("DELETE FROM memories WHERE id = ?", (m,))
            elif x < .75:
                db.execute("INSERT OR IGNORE INTO memory_tags SELECT id, ? FROM memories WHERE id = ?", (f"tag{r.randint(0, 5)}", m))
            elif x < .8:
                db.execute("DELETE FROM memory_tags WHERE memory_id = ? AND tag = ?", (m, f"tag{r.randint(0, 5)}"))
            elif x < .9:
                s = f"s{r.randint(0, 9)}"
                db.execute("INSERT OR REPLACE INTO memory_records VALUES (?,?,?,?,?,?)", (s, r.choice([None, 1, 1.0, "1", b"1"]), "b", "[]", 1, done))
                db.execute("INSERT OR IGNORE INTO sessions(id, agent) VALUES (?, 'x')", (s,))
                db.execute("INSERT OR REPLACE INTO tool_outputs(id, session_id, tool, output) VALUES (?,?,?,?)",
                           (f"t{r.randint(0, 30)}", s, "ls", r.randbytes(r.randint(0, 300))))
            else:
                db.execute("UPDATE sessions SET title = ?, state = ? WHERE id = ?", (str(r.random()), "{}", f"s{r.randint(0, 9)}"))
        db.execute(r.choice(["COMMIT", "COMMIT", "COMMIT", "COMMIT", "ROLLBACK"]))
        done += 1
    except sqlite3.OperationalError as e:
        if "locked" not in str(e) and "busy" not in str(e):
            raise
        if db.in_transaction:
            db.execute("ROLLBACK")
"""


class ClawCore(ClawTest):
    def run_devices(self, n, rounds):
        devices = self.workspace_of(n)
        for d in devices:
            d.start(CLAW_RETRY_BASE_MS=20)
        writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(d.path), str(i + 1), str(rounds)])
                   for i, d in enumerate(devices)]
        for w in writers:
            self.assertEqual(w.wait(PATIENCE * 3), 0)
        self.wait_equal(devices)
        for word in range(10):
            found = {repr(d.query("SELECT m.id FROM memories_fts f JOIN memories m ON m.rowid = f.rowid "
                                  "WHERE memories_fts MATCH ? ORDER BY m.id", f"word{word}")) for d in devices}
            self.assertEqual(len(found), 1, "full-text results differ")
        for d in devices:
            self.assertEqual(d.stop(), 0, d.daemon_log())

    def test_two_devices(self):
        self.run_devices(2, 150)

    def test_five_devices(self):
        self.run_devices(5, 60)


if __name__ == "__main__":
    main()
