"""claw-sync doctor: all well, and each failure made for real. It writes nothing."""
import hashlib

from claw import *


class Doctor(ClawTest):
    def doctor(self, d, want=0, **env):
        """name of the check -> its results and texts"""
        done = d.claw("doctor", "--json", want=want, **env)
        report = json.loads(done.stdout)
        found = {}
        for x in report["checks"]:
            self.assertIn(x["result"], ("ok", "warning", "failed"))
            found.setdefault(x["check"], []).append((x["result"], x["text"]))
        self.assertEqual(report["failures"], sum(r == "failed" for c in found.values() for r, _ in c))
        self.assertEqual(report["ok"], report["failures"] == 0)
        return found

    def failed(self, found):
        return sorted(name for name, c in found.items() if any(r == "failed" for r, _ in c))

    def one(self, n=1):
        devices = self.workspace_of(n)
        devices[0].sql("INSERT INTO memories(id, content) VALUES ('row-of-the-doctor', 'a text that is long enough');")
        self.settle(devices)
        return devices[0]

    def files(self, d):
        """Every file but the shared memory of SQLite's readers, to the byte."""
        return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(d.folder.rglob("*"))
                if p.is_file() and not p.name.endswith(("-shm", ".log")) and p.stat().st_size}

    def test_all_is_well_and_nothing_is_written(self):
        a = self.one(2)
        before = self.files(a)
        found = self.doctor(a)
        self.assertEqual(self.files(a), before)
        self.assertEqual(set(found), {"configuration", "place", "file modes", "membership", "database", "SQLite",
                                      "triggers", "queue", "audit log", "TLS", "hub", "clock", "ciphertext",
                                      "last round"})
        self.assertEqual([name for name, c in found.items() for r, _ in c if r != "ok" and name != "SQLite"], [])
        version = tuple(map(int, a.sql("SELECT sqlite_version();").strip().split(".")))
        self.assertIn("{}.{}.{}".format(*version), found["SQLite"][0][1])
        text = found["ciphertext"][0][1]
        with contextlib.closing(self.hub.database()) as db:
            sizes = [r[0] for r in db.execute("SELECT sum(length(payload)) FROM chunk GROUP BY number")]
        self.assertIn("fetched back", text)
        self.assertTrue(any(f"as {n} bytes in 1 chunks" in text for n in sizes), (text, sizes))
        self.assertNotIn("of 0 texts", text)
        plain = a.claw("doctor").stdout.splitlines()
        self.assertTrue(all(x.startswith(("ok ", "warning ")) for x in plain[:-1]), plain)
        self.assertTrue(plain[-1].startswith("0 failed, "), plain)

    def damage(self, path, head):
        """The first bytes, or those of every page but the first."""
        good = path.read_bytes()
        bad = bytearray(good)
        for at in [0] if head else range(4096, len(bad), 4096):
            bad[at:at + 16] = b"\xff" * 16
        path.write_bytes(bad)
        return good

    def test_a_damaged_row_of_ours(self):
        """SQLite does not notice. Which row is said, and what to do; done, all is there."""
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content) VALUES ('one', 'x'), ('two', 'x');")
        self.settle([a, b])
        with a.connect() as db:
            db.execute("UPDATE sync_rows SET meta = x'ff' WHERE instr(key, CAST('one' AS BLOB))")
        b.sql("UPDATE memories SET content = 'y' WHERE id = 'one';")
        b.sync()
        for command in ("sync", "reconcile"):
            said = a.claw(command, want=1).stderr
            for words in (str(a.path), "row 'one' of table", "memories", "keep it", "an empty database", "claw-sync sync"):
                self.assertIn(words, said)
        self.assertIn("row 'one' of table", dict(self.doctor(a, want=1)["last round"])["failed"])
        for f in a.folder.glob("memory.db*"):
            f.rename(f.with_name("kept-" + f.name))
        a.sql(SCHEMA)
        a.sync()
        self.settle([a, b])
        self.assertEqual(a.query("SELECT id, content FROM memories ORDER BY id"), [("one", "y"), ("two", "x")])

    def test_damaged_files(self):
        """Each is named, with what to do; done, all goes on."""
        a, b = self.workspace_of(2)
        self.settle([a, b])
        for file, check in ((a.path, "database"), (a.data / "queue.db", "queue"), (a.data / "audit.db", "audit log")):
            for head in (False, True):
                with self.subTest(file=file.name, head=head):
                    b.sql("INSERT INTO memories(id, content) VALUES (hex(randomblob(8)), 'x');")
                    b.sync()
                    good = self.damage(file, head)
                    done = a.claw("sync", want=1)
                    self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
                    self.assertIn("the file is damaged", done.stderr)
                    found = self.doctor(a, want=1)
                    self.assertIn("the file is damaged", dict(found[check])["failed"])
                    if check == "database":
                        file.write_bytes(good)
                    else:
                        file.unlink()
                    a.sync()
                    self.settle([a, b])
        a.claw("audit", "verify")

    def test_beside_a_daemon(self):
        a = self.one()
        a.start()
        self.assertEqual(self.failed(self.doctor(a)), [])
        a.sql("INSERT INTO memories(id, content) VALUES ('after', 'x');")
        wait_until(lambda: a.status()["unsent"] + a.status()["unsealed"] == 0, "the daemon to go on")
        self.assertEqual(self.failed(self.doctor(a)), [])
        self.assertEqual(a.stop(), 0)

    def test_the_hub_is_away(self):
        a = self.one()
        self.hub.stop()
        self.assertEqual(self.failed(self.doctor(a, want=3)), ["hub"])
        (a.data / "audit.db").chmod(0o644)
        self.assertEqual(self.failed(self.doctor(a, want=1)), ["file modes", "hub"])

    def test_file_modes(self):
        a = self.one()
        for name, bad, good in (("identity/keystore", 0o640, 0o600), ("audit.db", 0o604, 0o600), ("identity", 0o750, 0o700),
                                (".", 0o755, 0o700), ("queue.db", 0o660, 0o600)):
            path = a.data / name
            self.assertEqual(path.stat().st_mode & 0o777, good, name)
            path.chmod(bad)
            found = self.doctor(a, want=1)
            self.assertEqual(self.failed(found), ["file modes"])
            self.assertIn(f"chmod {good:o}", found["file modes"][0][1])
            path.chmod(good)
        self.doctor(a)

    def test_triggers(self):
        a = self.one()
        with a.connect() as db:
            name, sql = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'memories' "
                                   "AND name LIKE 'sync!_%!_ins0' ESCAPE '!'").fetchone()
            db.execute(f"DROP TRIGGER {name}")
            found = self.doctor(a, want=1)
            self.assertEqual(self.failed(found), ["triggers"])
            self.assertIn("memories", found["triggers"][0][1])
            db.execute(sql.replace("BEGIN ", "WHEN 0 BEGIN ", 1))  # another of the same name
            self.assertEqual(self.failed(self.doctor(a, want=1)), ["triggers"])
            db.execute(f"DROP TRIGGER {name}")
            db.execute(sql)
        self.doctor(a)
        a.claw("pause", "memories")
        a.claw("resume", "memories")
        self.doctor(a)

    def test_the_advice_on_triggers_mends_them(self):
        a = self.one()
        with a.connect() as db:
            name, = db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'memories' AND "
                               "name LIKE 'sync!_%!_ins0' ESCAPE '!'").fetchone()
            db.execute(f"DROP TRIGGER {name}")
            db.execute(f"CREATE TRIGGER {name} AFTER INSERT ON memories BEGIN SELECT 1; END")
        self.assertEqual(self.failed(self.doctor(a, want=1)), ["triggers"])
        a.claw("pause", "memories")
        a.claw("resume", "memories")
        self.assertEqual(self.failed(self.doctor(a)), [])

    def test_the_audit_log(self):
        a = self.one()
        with contextlib.closing(sqlite3.connect(a.data / "audit.db", isolation_level=None)) as db:
            db.execute("UPDATE sync_audit_log SET payload = x'78' WHERE sequence = 2")
        found = self.doctor(a, want=1)
        self.assertEqual(self.failed(found), ["audit log"])
        self.assertIn("row 2", found["audit log"][0][1])

    def test_the_database(self):
        a = self.one()
        with a.connect() as db:
            self.assertEqual(db.execute("PRAGMA journal_mode = DELETE").fetchall(), [("delete",)])
        self.assertEqual(self.doctor(a)["database"][0][0], "warning")
        whole = a.path.read_bytes()
        a.path.write_bytes(b"no database at all" * 1000)
        self.assertIn("database", self.failed(self.doctor(a, want=1)))
        a.path.unlink()
        self.assertIn("database", self.failed(self.doctor(a, want=1)))
        a.path.write_bytes(whole)
        self.doctor(a)

    def test_places(self):
        self.start_hub()
        for name in ("Dropbox", "OneDrive - Company", "Mobile Documents"):
            (self.folder / name).mkdir()
            d = self.device(f"{name}/{uuid.uuid4()}")
            d.sync()
            self.workspace = str(uuid.uuid4())
            found = self.doctor(d, want=1)
            self.assertEqual(self.failed(found), ["place"])
            self.assertEqual(len([1 for r, t in found["place"] if r == "failed" and name in t]), 2)  # and data_dir
        d = self.device("plain")
        d.sync()
        self.assertEqual(self.failed(self.doctor(d)), [])
        (d.folder / ".stfolder").mkdir()
        self.assertEqual(self.failed(self.doctor(d, want=1)), ["place"])

    def test_membership(self):
        a, b = self.workspace_of(2)
        id_of_b = next(x["id"] for x in json.loads(b.claw("devices", "--json").stdout)["devices"] if x["self"])
        a.claw("devices", "revoke", id_of_b)
        found = self.doctor(b, want=1)  # its own log does not know yet: the hub tells
        self.assertIn("hub", self.failed(found))
        stranger = self.device("stranger")
        self.assertEqual(self.failed(self.doctor(stranger, want=1)), ["membership"])
        self.assertFalse(stranger.data.exists())
        self.assertEqual(self.failed(self.doctor(a)), [])

    def test_identity(self):
        a = self.one()
        keystore = a.data / "identity" / "keystore"
        whole = keystore.read_bytes()
        keystore.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        self.assertEqual(self.failed(self.doctor(a, want=1)), ["membership"])
        keystore.write_bytes(whole)
        log = a.data / "identity" / "membership.log"
        entries = log.read_bytes()
        log.write_bytes(entries[:-1])
        self.assertEqual(self.failed(self.doctor(a, want=1)), ["membership"])
        log.write_bytes(entries)
        self.assertEqual(self.failed(self.doctor(a)), [])
        self.assertEqual(self.failed(self.doctor(a, want=1, CLAW_WORKSPACE_ID="")), ["configuration"])

    def test_a_database_without_its_data_dir(self):
        a = self.one()
        shutil.move(a.data, self.folder / "kept")
        found = self.doctor(a, want=1)
        self.assertEqual(self.failed(found), ["membership"])
        text = found["membership"][0][1]
        self.assertRegex(text, "the keys of device .* are not in .*claw-sync identity new, then claw-sync join CODE")
        self.assertNotIn("claw-sync sync", text)
        shutil.move(self.folder / "kept", a.data)
        self.assertEqual(self.failed(self.doctor(a)), [])

    def test_what_rounds_alone_find(self):
        """A copy of the device is at work: neither its files nor the hub show that."""
        a = self.one()
        shutil.copytree(a.folder, self.folder / "copy")
        copy = self.device("copy", schema=None)
        for d in (copy, a):
            d.sql(f"INSERT INTO memories(id, content) VALUES ('{d.folder.name}', 'x');")
            d.sync()
        self.assertEqual(self.failed(self.doctor(copy)), [])  # nothing was found yet
        copy.claw("sync", want=2)
        found = self.doctor(copy, want=1)
        self.assertEqual(self.failed(found), ["last round"])
        self.assertRegex(found["last round"][0][1], "^DEVICE_CLONED.*claw-sync identity new")
        copy.claw("identity", "new")
        self.join(a, copy)
        copy.sync()
        self.assertEqual(self.failed(self.doctor(copy)), [])

    def test_another_hub_and_a_log_put_back(self):
        a = self.one()
        copy = self.folder / "copy"
        self.hub.stop()
        shutil.copytree(self.hub.folder / "data", copy)
        self.hub.start()
        a.sql("INSERT INTO memories(id, content) VALUES ('later', 'x');")
        a.sync()
        self.hub.stop()
        shutil.rmtree(self.hub.folder / "data")
        shutil.copytree(copy, self.hub.folder / "data")
        self.hub.start()
        found = self.doctor(a, want=1)
        self.assertEqual(self.failed(found), ["hub"])
        self.assertIn("HUB_ROLLBACK", found["hub"][0][1])
        self.hub.stop()
        shutil.rmtree(self.hub.folder / "data")
        self.hub.start()
        found = self.doctor(a, want=1)
        self.assertEqual(self.failed(found), ["hub"])
        self.assertIn("HUB_KEY_CHANGED", found["hub"][0][1])

    def test_a_changed_chunk_at_the_hub(self):
        a = self.one()
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db:
            db.isolation_level = None
            n, payload = db.execute("SELECT number, payload FROM chunk ORDER BY number DESC LIMIT 1").fetchone()
            changed = bytes([payload[0] ^ 1]) + payload[1:]
            db.execute("UPDATE chunk SET payload = ? WHERE number = ?", (changed, n))
        self.hub.start()
        self.assertEqual(self.failed(self.doctor(a, want=1)), ["ciphertext"])

    def test_the_clock(self):
        a = self.one()
        self.hub.with_clock(0)
        self.assertEqual(self.doctor(a)["clock"][0][0], "ok")
        self.hub.with_clock(3600)
        self.assertEqual(self.doctor(a)["clock"][0][0], "warning")
        self.hub.with_clock(-3600)
        found = self.doctor(a, want=1)
        self.assertEqual(self.failed(found), ["clock"])
        self.assertIn("ahead of the hub's", found["clock"][0][1])

    def test_tls(self):
        cert, key = self.folder / "cert.pem", self.folder / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
                        "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        self.start_hub(CLAW_SYNC_TLS_CERT=cert, CLAW_SYNC_TLS_KEY=key)
        self.hub.scheme = "https"
        a = self.device("a")
        a.claw("sync", CLAW_TLS_CA_FILE=cert)
        found = self.doctor(a, CLAW_TLS_CA_FILE=cert)
        self.assertEqual(found["TLS"][0][0], "ok")
        self.assertEqual(self.failed(self.doctor(a, want=1)), ["TLS"])
        self.assertEqual(self.failed(self.doctor(a, want=1, CLAW_TLS_CA_FILE=cert, CLAW_TLS_PIN_SHA256="00" * 32)), ["TLS"])


if __name__ == "__main__":
    main()
