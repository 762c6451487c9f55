"""What a new device pays after compaction: a workspace of ROWS live rows that had OPS operations, beside one that only ever had
the rows. Prints bytes that the hub gave and seconds until the new device has all, for both, and their ratios.

    python3 bench/compact.py [OPS [ROWS]]        # 1000000 and 10000
"""
import json
import pathlib
import shutil
import sys
import tempfile
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "integration"))
import claw  # noqa: E402

PASSPHRASE = "correct horse battery staple\n"


class Workspace:
    def __init__(self, folder, hub):
        self.folder, self.hub, self.id = folder, hub, str(uuid.uuid4())
        folder.mkdir()
        (folder / "passphrase").write_text(PASSPHRASE)
        self.a, self.b = self.device("a"), self.device("b")
        self.a.sync()
        self.join(self.b)

    def device(self, name):
        return claw.Device(self.folder / name, self.id, self.hub.endpoint)

    def join(self, newcomer):
        file = self.folder / f"invite-{newcomer.folder.name}"
        self.a.claw("keys", "export", file, "--passphrase-file", self.folder / "passphrase")
        newcomer.claw("keys", "import", file, "--passphrase-file", self.folder / "passphrase")

    def insert(self, rows):
        with self.a.connect() as db:
            db.execute("BEGIN")
            db.executemany("INSERT INTO memory_records(id, title, body) VALUES (?, ?, ?)",
                           ((f"row {i:07}", f"title {i}", f"{uuid.uuid4()} {uuid.uuid4()}") for i in range(rows)))
            db.execute("COMMIT")
        self.a.sync()

    def update(self, rows, ops):
        """Whole passes over the rows, each sent before the next one, so that none is coalesced."""
        with self.a.connect() as db:
            for done in range(0, ops, rows):
                db.execute("UPDATE memory_records SET body = hex(randomblob(18)) || ' ' || hex(randomblob(18)) WHERE id < ?",
                           (f"row {min(rows, ops - done):07}",))
                self.a.sync()

    def compact(self):
        self.b.sync()
        given = json.loads(self.a.claw("compact", "--json").stdout)
        assert json.loads(self.b.claw("compact", "--json").stdout)["attested"]
        return given

    def bootstrap(self, name):
        c = self.device(name)
        self.join(c)
        began = time.monotonic()
        got = c.sync()
        took = time.monotonic() - began
        assert c.query("SELECT * FROM memory_records ORDER BY id") == self.a.query("SELECT * FROM memory_records ORDER BY id")
        return got["bytes_pulled"], took


def main():
    ops, rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1000000, int(sys.argv[2]) if len(sys.argv) > 2 else 10000
    folder = pathlib.Path(tempfile.mkdtemp(prefix="claw-sync-bench."))
    hub = claw.Hub(folder / "hub", CLAW_SYNC_RETENTION_SECONDS=0, CLAW_SYNC_QUOTA_BYTES="none",
                   CLAW_SYNC_QUOTA_BYTES_PER_SECOND="none").start()
    try:
        plain, long = Workspace(folder / "plain", hub), Workspace(folder / "long", hub)
        plain.insert(rows)
        long.insert(rows)
        long.update(rows, ops - rows)
        print(f"{rows} rows by {rows} operations, and by {ops}")
        log_bytes, log_secs = plain.bootstrap("from-log")
        print(f"the rows from the log:       {log_bytes:>12} bytes {log_secs:8.3f} s")
        plain.compact()
        long.compact()
        times = [[], []]
        for i in range(3):  # in turn, so that whatever else runs here meets both
            for k, w in enumerate((plain, long)):
                times[k].append(w.bootstrap(f"new{i}"))
        (bytes_1, secs_1), (bytes_2, secs_2) = (min(t[0] for t in ts) and (ts[0][0], min(t[1] for t in ts)) for ts in times)
        print(f"the rows from the snapshot:  {bytes_1:>12} bytes {secs_1:8.3f} s")
        print(f"the operations, compacted:   {bytes_2:>12} bytes {secs_2:8.3f} s")
        print(f"ratio to the rows' snapshot: {bytes_2 / bytes_1:12.2f} bytes {secs_2 / secs_1:8.2f} time")
        print(f"ratio to the rows' log:      {bytes_2 / log_bytes:12.2f} bytes {secs_2 / log_secs:8.2f} time")
    finally:
        hub.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
