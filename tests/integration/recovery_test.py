"""What recovers by itself, and what is refused: clocks, dead and strange hubs, damaged logs."""
import shutil
import socket
import threading

from claw import *


class Clock(ClawTest):
    def test_a_clock_a_year_ahead_is_stamped_anew(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content) VALUES ('old', 'x'), ('gone', 'x');")
        self.settle([a, b])
        year = (int(time.time() * 1000) + 365 * 86400 * 1000) << 16
        with a.connect() as db:
            db.execute("UPDATE sync_meta SET value = ? WHERE name = 'hlc'", (year,))
        a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) "
              "INSERT INTO memory_records(id, title) SELECT 'r' || i, i FROM n;"
              "UPDATE memories SET content = 'new' WHERE id = 'old'; DELETE FROM memories WHERE id = 'gone';")
        self.assertIn("unsent edits were given earlier times", a.claw("sync").stderr)
        self.settle([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM memory_records"), 2500)
        self.assertEqual(b.query("SELECT id, content FROM memories"), [("old", "new")])
        for d in (a, b):
            self.assertLess(d.value("SELECT value FROM sync_meta WHERE name = 'hlc'"), year)
        b.sql("UPDATE memories SET content = 'newer' WHERE id = 'old';")
        self.settle([a, b])
        self.assertEqual(a.value("SELECT content FROM memories"), "newer")

    def test_a_hub_whose_clock_was_a_year_ahead(self):
        """Its log stays ahead of its clock; what is written then is taken, however often each row was changed."""
        a, b = self.workspace_of(2)
        self.hub.with_clock(365 * 86400)
        with a.connect() as db:
            db.execute("UPDATE sync_meta SET value = ? WHERE name = 'hlc'",
                       ((int(time.time() * 1000) + 364 * 86400 * 1000) << 16,))
        a.sql("INSERT INTO memories(id, content) VALUES ('ahead', 'x');")
        self.settle([a, b])
        self.hub.with_clock(0)
        self.hub.stop()
        impatient = {"CLAW_MAX_RETRIES": 0, "CLAW_CONNECT_TIMEOUT_SECS": 1, "CLAW_REQUEST_TIMEOUT_SECS": 1}
        a.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) "
              "INSERT INTO memory_records(id, title) SELECT 'r' || i, i FROM n;")
        a.claw("sync", want=3, **impatient)
        a.sql("UPDATE memory_records SET title = title || '!';")
        a.claw("sync", want=3, **impatient)
        self.hub.start()
        a.claw("sync", CLAW_MAX_DELTA_ROWS=50)
        self.settle([a, b])
        self.assertEqual(b.value("SELECT count(*) FROM memory_records WHERE title LIKE '%!'"), 500)


class StrangeHub(ClawTest):
    """A listener that is no hub: one clear line, exit 3, nothing changed, the changes kept."""

    def talk_to(self, behave):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            stop = threading.Event()

            def serve():
                held = []
                while not stop.is_set():
                    try:
                        c, _ = s.accept()
                    except OSError:
                        return
                    held.append(c)
                    with contextlib.suppress(OSError):
                        behave(c)
            t = threading.Thread(target=serve, daemon=True)
            t.start()
            d = Device(self.folder / "d", self.workspace, f"http://127.0.0.1:{s.getsockname()[1]}")
            d.sql("INSERT INTO memories(id, content) VALUES ('m', 'kept');")
            impatient = {"CLAW_MAX_RETRIES": 0, "CLAW_CONNECT_TIMEOUT_SECS": 1, "CLAW_REQUEST_TIMEOUT_SECS": 1}
            d.claw("sync", want=3, **impatient)
            d.sql("UPDATE memories SET content = 'kept, edited';")
            done = d.claw("sync", want=3, **impatient)
            stop.set()
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertEqual(d.query("SELECT id, content FROM memories"), [("m", "kept, edited")])
        status = d.status()
        self.assertGreater(status["unsent"] + status["unsealed"] + status["bound_batches"], 0)

    def test_closes_at_once(self):
        self.talk_to(lambda c: c.close())

    def test_garbage(self):
        self.talk_to(lambda c: c.sendall(b"\x00\xff garbage \x80" * 1000))

    def test_http_1(self):
        self.talk_to(lambda c: c.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))

    def test_silence(self):
        self.talk_to(lambda c: None)


class DamagedHub(ClawTest):
    def three_batches(self):
        a, b = self.workspace_of(2)
        for i in range(3):
            a.sql(f"INSERT INTO memories(id, content) VALUES ('m{i}', 'x');")
            a.claw("push")
        return a, b

    def damage(self, table, column, where="number = (SELECT max(number) - 1 FROM log)", at=0):
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db:
            value, = db.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
            value = value[:at] + bytes([value[at] ^ 1]) + value[at + 1:]
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (value,))
            db.commit()
        self.hub.start()

    def refused(self, b, names, shown):
        done = b.claw("sync", want=None)
        text = done.stdout + done.stderr
        self.assertTrue(any(n in text for n in names), text)
        self.assertLessEqual({r[0] for r in b.query("SELECT id FROM memories")}, set(shown))
        b.check()
        return done.returncode

    def test_signature(self):
        a, b = self.three_batches()
        self.damage("log", "signature")
        self.refused(b, ["BAD_SIGNATURE"], ["m0"])

    def test_header(self):
        a, b = self.three_batches()
        self.damage("log", "header", at=100)
        self.refused(b, ["BAD_SIGNATURE", "BAD_HEADER", "BROKEN_CHAIN"], ["m0"])

    def test_chunk_end(self):
        a, b = self.three_batches()
        self.damage("chunk", "payload", at=-1 % 80)
        self.refused(b, ["BAD_CHUNK"], ["m0", "m2"])

    def test_a_missing_batch(self):
        a, b = self.three_batches()
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db:
            db.execute("DELETE FROM log WHERE number = (SELECT max(number) - 1 FROM log)")
            db.commit()
        self.hub.start()
        done = b.claw("sync", want=None)
        self.assertNotEqual(done.returncode, 0)
        self.assertLessEqual({r[0] for r in b.query("SELECT id FROM memories")}, {"m0"})

    def test_a_hub_rolled_back(self):
        a, b = self.three_batches()
        b.sync()
        self.hub.stop()
        data = self.hub.folder / "data"
        shutil.copytree(data, self.folder / "yesterday")
        self.hub.start()
        a.sql("INSERT INTO memories(id, content) VALUES ('today', 'x');")
        a.sync()
        b.sync()
        self.hub.stop()
        shutil.rmtree(data)
        shutil.copytree(self.folder / "yesterday", data)
        self.hub.start()
        done = b.claw("sync", want=4)
        self.assertIn("HUB_ROLLBACK", done.stderr)
        self.assertEqual(b.value("SELECT count(*) FROM memories"), 4)


class Daemon(ClawTest):
    def test_a_hub_that_comes_later(self):
        a, b = self.workspace_of(2)
        self.hub.stop()
        a.start(CLAW_RETRY_BASE_MS=20)
        b.start(CLAW_RETRY_BASE_MS=20)
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'x');")
        self.hub.start()
        self.wait_equal([a, b])

    def test_large_rows(self):
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memory_records(id, body) VALUES ('5 MiB', randomblob(5242880)), ('17 MiB', zeroblob(17825792)), ('small', 1);")
        a.sync()
        b.sync()
        self.assertEqual([r[0] for r in b.query("SELECT id FROM memory_records ORDER BY id")], ["5 MiB", "small"])
        self.assertEqual(a.status()["held_back"], 1)


if __name__ == "__main__":
    main()
