"""What a device writes is nowhere at the hub and nowhere on the way: random canaries in values, keys and names, searched for
in the hub's files, log and memory and in all that crosses the wire, in the encodings in which one could lie there. That the
search would find them is shown where they must be: in the client's own file and memory."""
import base64
import glob
import secrets
import socket
import threading

from claw import *

LETTERS = "abcdefghijkmnpqrstuvwxyz"


def letters(n):
    return "".join(secrets.choice(LETTERS) for _ in range(n))


def encodings(text):
    """name -> bytes. Base64 in each of its three alignments, without the ends that depend on what stands beside."""
    raw = text.encode()
    out = {"raw": raw, "utf-16le": text.encode("utf-16le"), "utf-16be": text.encode("utf-16be"), "reversed": raw[::-1],
           "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode()}
    for shift in range(3):  # letters and digits only: base64url is the same
        out[f"base64+{shift}"] = base64.b64encode(b"\0" * shift + raw)[4 if shift else 0:len(raw) // 3 * 4 - 4]
    return out


class Search:
    """Canaries share a mark, so that one pass per encoding finds any of them."""

    def __init__(self):
        self.mark, self.canaries = letters(15), []

    def canary(self, kind):
        self.canaries.append(self.mark + kind + letters(12))
        return self.canaries[-1]

    def found(self, data):
        """(canary, encoding) of all that is in these bytes; a mark alone counts too."""
        out = set()
        for how, mark in encodings(self.mark).items():
            at = data.find(mark)
            while at >= 0:
                near = data[max(0, at - 100):at + 200]
                names = [c for c in self.canaries if encodings(c)[how] in near]
                out |= {(c, how) for c in names or ["the mark"]}
                at = data.find(mark, at + 1)
        return sorted(out)


class Tap:
    """A proxy that keeps all that passes, in each direction and connection."""

    def __init__(self, port):
        self.port_of_hub, self.streams, self.lock = port, [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near):
        with near, socket.create_connection(("127.0.0.1", self.port_of_hub)) as far:
            back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
            back.start()
            self._pump(near, far)
            back.join()

    def _pump(self, a, b):
        kept = bytearray()
        with self.lock:
            self.streams.append(kept)
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                kept += data
                b.sendall(data)
        with contextlib.suppress(OSError):
            b.shutdown(socket.SHUT_WR)

    def taken(self):
        with self.lock:
            return [bytes(s) for s in self.streams]

    def close(self):
        self.listener.close()


def memory_of(pid):
    """Every mapping of a process that can be read. PermissionError: we may not."""
    out = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            # a sanitizer's shadow is terabytes of nothing, and no place for the program's data
            if "r" not in line.split()[1] or end - start > 1 << 30 or end > 1 << 63:
                continue
            try:
                mem.seek(start)
                left, parts = end - start, []
                while left > 0 and (piece := mem.read(min(left, 1 << 24))):
                    parts.append(piece)
                    left -= len(piece)
                out.append(b"".join(parts))
            except PermissionError:
                raise
            except OSError:  # [vvar] and mappings behind a file's end
                continue
    return out


class Canary(ClawTest):
    def setUp(self):
        super().setUp()
        self.tap = None
        self.search = Search()
        self.values = [self.search.canary("val") for _ in range(4)]
        self.keys = [self.search.canary("key") for _ in range(2)]
        self.table, self.column = self.search.canary("tbl"), self.search.canary("col")
        self.device_names = [self.search.canary("dev") for _ in range(2)]

    def tearDown(self):
        if self.tap is not None:
            self.tap.close()
        super().tearDown()

    def work(self, tls=None):
        """Two devices, all canaries on their way, both ways; the daemons stay at work."""
        self.tap = Tap(self.hub.port)
        endpoint = f"{self.hub.scheme}://127.0.0.1:{self.tap.port}"
        a, b = [self.device(x) for x in "ab"]
        for d in (a, b):
            d.endpoint = endpoint
            d.tls = {"CLAW_TLS_CA_FILE": tls} if tls else {}
        schema = (f'CREATE TABLE {self.table}(id TEXT PRIMARY KEY, "{self.column}" TEXT, more BLOB);')
        a.sql(schema)
        b.sql(schema)
        a.claw("sync", **a.tls)
        code = json.loads(a.claw("invite", "--json", **a.tls).stdout)["code"]
        b.claw("join", code, **b.tls)
        for d in (a, b):
            d.claw("track", self.table, **d.tls)
        for d in (a, b):
            d.start(CLAW_ALLOW_CORE_DUMPS=1, **d.tls)  # so that its memory can be looked at
            wait_until(lambda d=d: "connected to" in d.daemon_log(), "a daemon at work")  # the database is its own
        ids = [x["id"] for x in json.loads(a.claw("devices", "--json", **a.tls).stdout)["devices"] if x["kind"] == "device"]
        for name, device in zip(self.device_names, ids):
            a.claw("devices", "rename", device, name, **a.tls)
        a.sql(f"INSERT INTO {self.table} VALUES ('{self.keys[0]}', '{self.values[0]}', x'{self.values[1].encode().hex()}');")
        b.sql(f"INSERT INTO {self.table} VALUES ('{self.keys[1]}', '{self.values[2]}', NULL);")
        a.sql(f"INSERT INTO memories(id, content) VALUES ('m', '{self.values[3]} ' || hex(zeroblob(100000)));")
        for d in (a, b):
            wait_until(lambda d=d: (d.value(f"SELECT count(*) FROM {self.table}"), d.value("SELECT count(*) FROM memories"))
                       == (2, 1), f"all rows on {d.folder.name}")
        self.assertEqual(sorted(x["name"] for x in json.loads(b.claw("devices", "--json", **b.tls).stdout)["devices"]
                                if x["kind"] == "device"), sorted(self.device_names))
        return a, b

    def assert_nowhere(self, where, pieces):
        pieces = list(pieces)
        self.assertGreater(sum(map(len, pieces)), 1000, f"nothing was searched: {where}")
        for p in pieces:
            self.assertEqual(self.search.found(p), [], where)

    def files_of_hub(self):
        return [pathlib.Path(p) for p in glob.glob(str(self.hub.folder / "**" / "*"), recursive=True) if pathlib.Path(p).is_file()]

    def memory(self, pid, whose):
        try:
            return memory_of(pid)
        except PermissionError as e:
            self.skipTest(f"the memory of {whose} cannot be read by this user: {e}")

    def test_the_search_finds(self):
        for c in self.search.canaries:
            raw = c.encode()
            for what in (raw, raw[::-1], c.encode("utf-16le"), c.encode("utf-16be"), raw.hex().encode(), raw.hex().upper().encode(),
                         *(base64.b64encode(b"x" * i + raw + b"yz") for i in range(3)),
                         *(base64.urlsafe_b64encode(b"x" * i + raw + b"yz") for i in range(3))):
                self.assertIn(c, [x for x, _ in self.search.found(b"\0before" + what + b"after")], what)
        self.assertEqual(self.search.found(secrets.token_bytes(1 << 20)), [])

    def test_files_log_and_wire(self):
        self.start_hub()
        a, b = self.work()
        files = self.files_of_hub()
        self.assertTrue({"hub.db", "hub.db-wal", "server.log"} <= {p.name for p in files}, files)
        self.assert_nowhere("the hub's files while it works", (p.read_bytes() for p in files))
        wire = self.tap.taken()
        self.assertTrue(any(s.startswith(b"PRI * HTTP/2.0") for s in wire))  # what is searched is the content of HTTP/2
        self.assert_nowhere("the wire", wire)
        own = self.search.found(a.path.read_bytes() + pathlib.Path(f"{a.path}-wal").read_bytes())
        self.assertEqual({c for c, how in own if how == "raw"}, {*self.values, *self.keys, self.table, self.column})
        self.assertEqual((a.stop(), b.stop(), self.hub.stop()), (0, 0, 0))
        self.assert_nowhere("the hub's files afterwards", (p.read_bytes() for p in self.files_of_hub()))
        self.assert_nowhere("the wire to the end", self.tap.taken())

    def test_over_tls(self):
        cert, key = self.folder / "cert.pem", self.folder / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
                       check=True, capture_output=True)
        self.start_hub(CLAW_SYNC_TLS_CERT=cert, CLAW_SYNC_TLS_KEY=key)
        self.hub.scheme = "https"
        self.work(tls=cert)
        wire = self.tap.taken()
        self.assertFalse(any(s.startswith(b"PRI * HTTP/2.0") for s in wire))
        self.assert_nowhere("the wire under TLS", wire)
        self.assert_nowhere("the hub's files", (p.read_bytes() for p in self.files_of_hub()))

    def test_memory(self):
        self.start_hub(CLAW_ALLOW_CORE_DUMPS=1)
        a, b = self.work()
        hub = self.memory(self.hub.process.pid, "the hub")
        self.assertIn(b"listening on", b"".join(hub))  # it is that program's memory
        self.assert_nowhere("the hub's memory", hub)
        a.sql(f"UPDATE {self.table} SET more = 'again' WHERE id = '{self.keys[0]}';")
        client = b"".join(self.memory(a.daemon.pid, "the client"))
        seen = {c for c, how in self.search.found(client) if how == "raw"}
        self.assertIn(self.table, seen)  # the same search finds them where they must be
        self.assertIn(self.column, seen)
        b.stop()


if __name__ == "__main__":
    main()
