"""`claw-sync status` says one true word: never "in sync" when that is not known. Each state, and each reason for NEEDS YOU, is
brought about with the real programs, seen in text and in JSON, and gone when the command that is named was run."""
import contextlib, json, re, shutil, signal, socketserver, sqlite3, subprocess, threading, unittest

import claw, disk_full_test, queue_test

FAST = {"CLAW_SYNC_INTERVAL_SECS": 1, "CLAW_RETRY_BASE_MS": 20}


class NoHub(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")


class StatusTest(claw.ClawTest):
    def look(self, device, *args, **env):
        return json.loads(device.claw("status", "--json", *args, **env).stdout)

    def state(self, device):
        return self.look(device)["state"]

    def put(self, device, *ids):
        for i in ids:
            device.sql(f"INSERT INTO memories(id, content) VALUES ('{i}', 'of {device.folder.name}');")

    def daemon(self, device, **env):
        device.start(**FAST | env)
        claw.wait_until(lambda: "connected to" in device.daemon_log(), device.daemon_log)

    def needs(self, device, reason, command, **env):
        """NEEDS YOU, with this reason and this command, in JSON and in text."""
        def found():
            s = self.look(device, **env)
            return s["state"] == "needs-you" and [
                r for r in s["needs_you"] if re.search(reason, r["reason"]) and r["do"] == command]
        r, = claw.wait_until(found, lambda: f"{reason} in {self.look(device, **env)}\n{device.daemon_log()}")
        text = device.claw("status", **env).stdout
        self.assertRegex(text, r"(?m)^state +NEEDS YOU: ")
        first = command.split(", then")[0]
        self.assertTrue(any(re.search(reason.lstrip("^"), line) and first in line for line in text.splitlines()), text)
        return r["reason"]

    def in_sync(self, device):
        claw.wait_until(lambda: self.state(device) == "in-sync", lambda: f"in sync: {self.look(device)}\n{device.daemon_log()}")
        self.assertEqual(self.look(device)["needs_you"], [])
        self.assertRegex(device.claw("status").stdout, r"(?m)^state +IN SYNC$")


class Status(StatusTest):
    def test_in_sync_is_what_the_hub_confirms(self):
        a, b = self.workspace_of(2)
        self.settle([a, b])
        s = self.look(a)
        self.assertEqual((s["state"], s["needs_you"], s["daemon_pid"]), ("in-sync", [], 0))
        self.assertEqual((s["hub"]["answered"], s["hub"]["log_number"]), (True, s["log_number"]))
        self.assertEqual({d["id"] for d in s["devices"]}, {s["device_id"], self.look(b)["device_id"]})
        self.assertTrue(all(d["last_seen_ms"] > 0 for d in s["devices"]))
        self.assertRegex(a.claw("status").stdout, r"(?m)^state +IN SYNC$")
        self.assertEqual(self.look(a, "--local")["state"], "not-known")
        b.sql("INSERT INTO memories(id, content) VALUES ('m', 'here');")
        self.assertEqual((self.state(a), self.state(b)), ("in-sync", "stopped"))  # nobody sends it by itself
        b.claw("push")
        self.assertEqual(self.state(a), "stopped")  # there is something to fetch
        self.assertRegex(a.claw("status").stdout, r"(?m)^state +STOPPED: no daemon runs; claw-sync run")

    def test_beside_a_daemon(self):
        a, b = self.workspace_of(2)
        a.start()
        b.start()
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'here');")
        self.wait_equal([a, b])
        claw.wait_until(lambda: self.state(a) == "in-sync" == self.state(b), "both in sync")
        self.assertEqual(self.look(a)["daemon_pid"], a.daemon.pid)
        a.stop(signal.SIGKILL)
        self.assertEqual(self.look(a)["daemon_pid"], 0)

    def test_offline_since(self):
        a, = self.workspace_of(1)
        before = self.look(a, "--local")["hub"]["last_contact_ms"]
        self.assertGreater(before, 0)
        a.start()
        claw.wait_until(lambda: "connected" in a.daemon_log(), "the daemon is connected")
        self.hub.stop()
        claw.wait_until(lambda: self.look(a, "--local")["hub"]["last_contact_ms"] > before, "the contact is noted")
        s = self.look(a)
        self.assertEqual((s["state"], s["hub"]["answered"], s["hub"]["error"]["code"]), ("offline", False, "unavailable"))
        out = a.claw("status").stdout
        self.assertRegex(out, rf"(?m)^state +OFFLINE since \d{{4}}-\d\d-\d\d \d\d:\d\d: cannot reach hub {self.hub.endpoint}: "
                              "connection refused; changes stay queued$")
        self.hub.start()
        claw.wait_until(lambda: self.state(a) == "in-sync", "in sync again")

    def test_how_much_waits(self):
        a, = self.workspace_of(1)
        self.hub.stop()
        self.assertRegex(a.claw("push", want=3).stderr, r"connection refused; changes stay queued \(0 changes\)$")
        a.sql("INSERT INTO memories(id, content) VALUES ('x', '1');")
        self.assertRegex(a.claw("sync", want=3).stderr, r"connection refused; changes stay queued \(1 change\)$")
        for n in range(6):
            a.sql(f"UPDATE memories SET content = '{n}';")
        self.assertRegex(a.claw("status").stdout, r"(?m)^unsent +[01] rows?, \d+ logged changes? not sealed, 0 batches in flight$")
        self.assertRegex(a.claw("status").stdout, r"(?m)^queue +0 sets wait, 0 were refused$")

    def test_what_is_no_hub(self):
        """What answers there says nothing that helps: what may be wrong does."""
        a, = self.workspace_of(1)
        plain = {"CLAW_HUB_ENDPOINT": self.hub.endpoint.replace("http:", "https:"), "CLAW_MAX_RETRIES": 0}
        with socketserver.TCPServer(("127.0.0.1", 0), NoHub) as server:
            threading.Thread(target=server.serve_forever).start()
            other = {"CLAW_HUB_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "CLAW_MAX_RETRIES": 0}
            for env, says in ((plain, "no TLS is spoken there: .*CLAW_HUB_ENDPOINT.*http://"),
                              (other, "no claw-sync hub answers like that: .*CLAW_HUB_ENDPOINT")):
                self.assertRegex(a.claw("sync", want=3, **env).stderr, says)
                self.assertRegex(a.claw("status", **env).stdout, f"(?m)^state +OFFLINE.*{says}")
                self.assertRegex(a.claw("doctor", want=3, **env).stdout, f"(?m)^failed +hub .*{says}")
            server.shutdown()

    def test_a_database_that_another_program_keeps(self):
        a, = self.workspace_of(1)
        a.sql("INSERT INTO memories(id, content) VALUES ('x', '1');")
        with a.connect() as db:
            db.execute("BEGIN IMMEDIATE")
            self.assertRegex(a.claw("sync", want=1).stderr, "database is locked; another program .*try again")

    def test_a_locked_keystore_is_not_asked_for(self):
        a, = self.workspace_of(1)
        self.assertEqual(self.state(a), "in-sync")
        a.claw("keys", "passphrase", "--passphrase-file", self.passphrase)
        s = self.look(a)
        self.assertEqual((s["state"], s["hub"]["asked"]), ("not-known", False))
        self.assertIn("passphrase", a.claw("status").stdout)
        with self.passphrase.open() as f:
            out = subprocess.run([claw.CLIENT, "status", "--json", f"--keystore-passphrase-fd={f.fileno()}"], env=a.env(),
                                 pass_fds=[f.fileno()], capture_output=True, text=True, timeout=claw.PATIENCE)
        self.assertEqual(json.loads(out.stdout)["state"], "in-sync", out.stderr)

    def test_watching(self):
        a, = self.workspace_of(1)
        p = subprocess.Popen([claw.CLIENT, "status", "--watch", "--json"], env=a.env(), stdout=subprocess.PIPE, text=True)
        self.assertEqual(json.loads(p.stdout.readline())["state"], "in-sync")
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'one');")
        while json.loads(p.stdout.readline())["state"] != "stopped":
            pass
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(claw.PATIENCE), 0)
        p.stdout.close()

    def test_watching_a_database_that_is_locked(self):
        """Goes on when it can be read again."""
        a, = self.workspace_of(1)
        with a.connect() as db:
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("BEGIN EXCLUSIVE")
            p = subprocess.Popen([claw.CLIENT, "status", "--watch", "--json"], env=a.env(), stdout=subprocess.PIPE, text=True)
            self.assertEqual(json.loads(p.stdout.readline())["error"]["code"], "busy")
            db.execute("COMMIT")
        while json.loads(p.stdout.readline()).get("state") != "in-sync":
            pass
        p.send_signal(signal.SIGTERM)
        self.assertEqual(p.wait(claw.PATIENCE), 0)
        p.stdout.close()

    def test_watching_in_text(self):
        a, = self.workspace_of(1)
        p = subprocess.Popen([claw.CLIENT, "status", "--watch"], env=a.env(), stdout=subprocess.PIPE, text=True)
        for _ in range(2):
            while not re.match(r"state +IN SYNC$", p.stdout.readline()):
                pass
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(claw.PATIENCE), 0)
        p.stdout.close()

    def test_not_set_up(self):
        self.start_hub()
        a = self.device("a")
        self.assertEqual(self.look(a)["state"], "not-set-up")
        self.assertRegex(a.claw("status").stdout, r"(?m)^state +not set up: nothing in it is replicated$")
        self.assertIn("does not exist", a.claw("status", want=2, CLAW_DB_PATH=str(self.folder / "none.db")).stderr)
        self.assertIn("claw-sync join CODE", a.claw("status").stdout)
        a.sync()
        self.in_sync(a)

    def test_a_new_database_beside_the_old_data_dir(self):
        """The way to repair one that is damaged: the device is in, and needs no code."""
        a, = self.workspace_of(1)
        self.put(a, "is still there")
        a.sync()
        for f in a.folder.glob("memory.db*"):
            f.unlink()
        a.sql(claw.SCHEMA)
        out = a.claw("status").stdout
        self.assertIn("claw-sync sync", out)
        self.assertNotIn("join", out)
        a.sync()
        self.in_sync(a)
        self.assertEqual(a.value("SELECT count(*) FROM memories"), 1)

    def test_a_workspace_that_is_still_to_be_made(self):
        """The first device's first round found no hub."""
        self.start_hub()
        a = self.device("a")
        self.hub.stop()
        a.claw("sync", want=3, CLAW_MAX_RETRIES=0)
        self.assertEqual(self.look(a)["state"], "offline")
        self.assertRegex(a.claw("status").stdout, r"(?m)^state +OFFLINE: cannot reach hub")
        self.hub.start()
        self.needs(a, "no member of the workspace yet", "claw-sync join CODE, or for a new workspace claw-sync sync")
        a.sync()
        self.in_sync(a)

    def test_a_damaged_audit_log(self):
        """No round goes by without it: what status says is what a round meets."""
        a, = self.workspace_of(1)
        log = a.data / "audit.db"
        good = log.read_bytes()

        def last_row():
            with contextlib.closing(sqlite3.connect(log)) as db:
                db.execute("UPDATE sync_audit_log SET signature = x'00' WHERE sequence = (SELECT max(sequence) FROM sync_audit_log)")
                db.commit()
        for n, damage in enumerate((lambda: log.write_bytes(b"x\n"), lambda: log.write_bytes(good[:4096] + b"\xff" * (len(good) - 4096)),
                                    last_row)):
            with self.subTest(damage=n):
                log.write_bytes(good)
                damage()
                a.claw("sync", want=1)
                says = self.needs(a, '^".*audit.db": audit log: ', "keep it as evidence and move it away")
                self.assertRegex(a.claw("status", "--local").stdout, f"(?m)^state +NEEDS YOU: {re.escape(says)}")
                log.rename(a.folder / f"kept{n}")
                a.sync()
                self.in_sync(a)

    def test_syncing_so_much_of_it(self):
        a, b = self.workspace_of(2)
        self.settle([a, b])
        self.daemon(b)
        claw.wait_until(lambda: self.state(b) == "in-sync", "in sync")
        b.daemon.send_signal(signal.SIGSTOP)
        for i in range(3):
            self.put(a, f"m{i}")
            a.claw("push")
        s = self.look(b)
        self.assertEqual((s["state"], s["hub"]["log_number"] - s["log_number"]), ("syncing", 3))
        self.assertRegex(b.claw("status").stdout, rf"(?m)^state +SYNCING {s['log_number']} of {s['hub']['log_number']}$")
        b.daemon.send_signal(signal.SIGCONT)
        self.in_sync(b)
        b.daemon.send_signal(signal.SIGSTOP)
        self.put(b, "mine")
        self.assertEqual(self.state(b), "syncing")
        self.assertRegex(b.claw("status").stdout, r"(?m)^state +SYNCING: 1 to send$")
        b.daemon.send_signal(signal.SIGCONT)
        self.in_sync(b)

    def test_a_hub_that_answers_late(self):
        """It is not waited for; what it said before says nothing about now."""
        a, = self.workspace_of(1)
        self.daemon(a)
        self.in_sync(a)
        self.hub.process.send_signal(signal.SIGSTOP)
        s = self.look(a)
        self.assertEqual((s["state"], s["hub"]["answered"]), ("offline", False))
        self.assertRegex(a.claw("status").stdout, r"(?m)^state +OFFLINE since \d{4}-.*no answer")
        self.hub.process.send_signal(signal.SIGCONT)
        self.in_sync(a)

    def test_a_daemon_that_says_nothing(self):
        a, = self.workspace_of(1)
        self.daemon(a)
        self.in_sync(a)
        self.assertEqual(self.look(a)["daemon"], {"pid": a.daemon.pid, "connected": True, "failure": None})
        (a.data / "standing.json").unlink()
        s = self.look(a)
        self.assertEqual((s["state"], s["daemon"]), ("not-known", {"pid": a.daemon.pid, "connected": None, "failure": None}))
        self.assertRegex(a.claw("status").stdout,
                         rf"(?m)^state +NOT KNOWN: process {a.daemon.pid} is at work here, and has not said yet how it stands$")
        (a.data / "standing.json").write_text("{")
        self.assertEqual(self.state(a), "not-known")
        a.stop()
        self.in_sync(a)

    def test_the_word_of_another_process(self):
        """Of this device, and of this process alone; that all is well dies with who said it."""
        a, b = self.workspace_of(2)
        self.settle([a, b])
        self.daemon(a)
        self.in_sync(a)
        said = (a.data / "standing.json").read_text()
        a.stop(signal.SIGKILL)
        self.assertIsNone(self.look(a)["daemon"])
        self.daemon(a)
        self.in_sync(a)
        (a.data / "standing.json").write_text(said)
        self.assertEqual(self.state(a), "not-known")
        a.stop()
        failed = json.loads(said) | {"last_failure": {"code": -2, "name": "io", "message": "disk full"}}
        (a.data / "standing.json").write_text(json.dumps(failed))
        self.in_sync(a)  # it may have passed since
        failed["last_failure"]["code"] = -12
        (a.data / "standing.json").write_text(json.dumps(failed))
        self.needs(a, r"disk full \(found \d{4}-", "claw-sync doctor")
        failed["device_id"] = self.look(b)["device_id"]
        (a.data / "standing.json").write_text(json.dumps(failed))
        self.in_sync(a)

    def test_what_waits_in_changes_of_the_schema(self):
        """A trigger that is gone, or a schema that nobody looked at: what was edited then is not known."""
        a, = self.workspace_of(1)
        self.in_sync(a)
        for change in ("CREATE TABLE other(x);", "ALTER TABLE memories ADD COLUMN mood;",
                       f"DROP TRIGGER {a.value('SELECT name FROM sqlite_schema WHERE type = ? AND tbl_name = ?', 'trigger', 'memories')};"):
            a.sql(change)
            s = self.look(a)
            self.assertEqual((s["state"], s["schema_unseen"]), ("stopped", True), change)
            self.assertRegex(a.claw("status").stdout, r"(?m)^tracked tables +5; the application changed its schema")
            a.sync()
            self.in_sync(a)

    def test_what_waits_in_the_queue_alone(self):
        """A set that was refused and is to be retried is in no table of the database."""
        a, b = self.workspace_of(2)
        settings = FAST | {"CLAW_MAX_DELTA_ROWS": 10}
        a.sync()
        a.start("--json", **settings | {"CLAW_SYNC_INTERVAL_SECS": 3600})
        claw.wait_until(lambda: a.daemon_log().count('"pull-completed"') >= 2, a.daemon_log)
        queue_test.Refused.bind_and_lose_the_hub(self, a, [f"r{i:03}" for i in range(60)])
        queue_test.Refused.break_signature(self, a)
        self.hub.start()
        a.start(**settings)
        self.needs(a, "the hub refused 1 set of edits for good", "claw-sync queue list, then claw-sync queue retry")
        self.assertEqual(self.look(a)["set_aside"], 1)
        queue_test.QueueTest.drained(self, a)
        a.stop()
        a.claw("sync")
        a.claw("queue", "retry")
        s = self.look(a)
        self.assertEqual((s["state"], s["queued"], s["unsent"], s["set_aside"]), ("stopped", 1, 0, 0))
        self.assertRegex(a.claw("status").stdout, r"(?m)^queue +1 set waits, 0 were refused$")
        a.sync()
        self.in_sync(a)

    write = queue_test.QueueTest.write

    def test_wrong_use(self):
        a, = self.workspace_of(1)
        self.assertIn("--lokal", a.claw("status", "--lokal", want=2).stderr)
        self.assertIn("--watch", a.claw("sync", "--watch", want=2).stderr)
        self.assertIn("too many", a.claw("status", "surplus", want=2).stderr)


class NeedsYou(StatusTest):
    def test_a_conflict_needs_you(self):
        a, b = self.workspace_of(2)
        self.settle([a, b])
        self.assertEqual(self.state(a), "in-sync")
        a.claw("strategy", "memories", "manual")
        a.sql("INSERT INTO memories(id, content) VALUES ('m', 'one');")
        self.settle([a, b])
        a.sql("UPDATE memories SET content = 'mine' WHERE id = 'm';")
        a.claw("push")
        b.sql("DELETE FROM memories WHERE id = 'm';")
        b.claw("sync")
        a.claw("sync")
        with_one = [d for d in (a, b) if self.look(d)["conflicts"] > 0]
        self.assertTrue(with_one)
        s = self.look(with_one[0])
        self.assertEqual((s["state"], s["needs_you"][0]["do"]), ("needs-you", "claw-sync conflicts list, then claw-sync conflicts resolve ID"))
        for c in json.loads(with_one[0].claw("conflicts", "list", "--json").stdout)["conflicts"]:
            with_one[0].claw("conflicts", "resolve", c["id"])
        self.assertNotEqual(self.state(with_one[0]), "needs-you")

    def test_a_paused_table(self):
        a, b = self.workspace_of(2)
        self.settle([a, b])
        a.claw("pause", "memories")
        self.put(a, "unseen")
        self.needs(a, "1 table is paused", "claw-sync resume")
        a.sync()  # it waits all the same
        self.needs(a, "1 table is paused", "claw-sync resume")
        self.assertEqual(self.look(a)["paused_tables"], 1)
        a.claw("resume")
        self.assertEqual(self.look(a)["needs_you"], [])
        self.assertEqual(self.state(a), "stopped")
        a.sync()
        self.in_sync(a)
        b.sync()
        self.assertEqual(b.value("SELECT id FROM memories"), "unseen")

    def test_a_row_that_is_too_large(self):
        a, = self.workspace_of(1)
        a.sql("INSERT INTO memory_records(id, body) VALUES ('r', zeroblob(17825792));")
        for command in ("sync", "push"):
            self.assertIn("warning: 1 row cannot be sent", a.claw(command).stderr)
        self.assertNotIn("warning", a.claw("pull").stderr)
        a.start()
        claw.wait_until(lambda: (self.look(a)["daemon"] or {}).get("connected"), lambda: self.look(a))
        self.assertIn("warning: 1 row cannot be sent", a.claw("sync").stderr)  # beside it
        a.stop()
        self.needs(a, "1 row cannot be sent", "make them smaller, or give them a key")
        a.sql("UPDATE memory_records SET body = 'small' WHERE id = 'r';")
        self.assertNotIn("warning", a.claw("sync").stderr)
        self.in_sync(a)

    def test_a_null_in_the_key(self):
        a, b = self.workspace_of(2)
        a.sql("CREATE TABLE notes(id TEXT PRIMARY KEY, body);")
        a.claw("track", "notes")
        b.sql("CREATE TABLE notes(id TEXT PRIMARY KEY, body);")
        b.claw("track", "notes")
        self.settle([a, b])
        a.sql("INSERT INTO notes VALUES (NULL, 'x');")
        self.assertIn("warning: 1 row cannot be sent", a.claw("sync").stderr)
        self.needs(a, "1 row cannot be sent", "make them smaller, or give them a key")
        a.sql("UPDATE notes SET id = 'k1' WHERE id IS NULL;")
        self.assertNotIn("warning", a.claw("sync").stderr)
        self.in_sync(a)
        b.sync()
        self.assertEqual(b.value("SELECT body FROM notes WHERE id = 'k1'"), "x")
        a.start()
        claw.wait_until(lambda: (self.look(a)["daemon"] or {}).get("connected"), lambda: self.look(a))
        a.sql("INSERT INTO notes VALUES (NULL, 'y'), (NULL, 'z');")
        self.assertIn("warning: 2 rows cannot be sent", a.claw("sync").stderr)  # beside it
        a.sql("DELETE FROM notes WHERE id IS NULL;")
        self.assertNotIn("warning", a.claw("sync").stderr)
        a.stop()
        self.in_sync(a)

    def test_clocks(self):
        a, b = self.workspace_of(2)
        self.put(a, "m")
        self.settle([a, b])
        for secs, words in ((3600, "behind the hub's"), (-3600, "ahead of the hub's")):
            self.hub.with_clock(secs)
            self.needs(a, rf"this clock is 3(600|59\d) s {words}", "set the clock right, best by NTP, here or there")
            self.assertAlmostEqual(self.look(a)["hub"]["clock_skew_ms"] / 1000, secs, delta=60)
        self.hub.with_clock(0)
        self.settle([a, b])
        self.in_sync(a)

    def test_batches_of_others_that_cannot_be_read(self):
        a, b = self.workspace_of(2)
        self.settle([a, b])
        for i in range(3):
            self.put(a, f"m{i}")
            a.claw("push")
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db, db:
            number, = db.execute("SELECT max(number) - 1 FROM log").fetchone()
            chunk, = db.execute("SELECT payload FROM chunk WHERE number = ?", (number,)).fetchone()
            db.execute("UPDATE chunk SET payload = ? WHERE number = ?", (chunk[:-1] + bytes([chunk[-1] ^ 1]), number))
        self.hub.start()
        self.daemon(b)
        self.needs(b, "1 batch of others could not be read and is set aside", "claw-sync reconcile")
        self.assertEqual(self.look(b)["batches_set_aside"], 1)
        b.stop()
        self.daemon(a)
        b.claw("reconcile")
        self.in_sync(b)
        self.assertEqual(self.look(b)["batches_set_aside"], 0)
        self.assertEqual(b.value("SELECT count(*) FROM memories"), 3)
        self.assertNotIn("BAD_CHUNK", b.claw("hidden", "list").stdout)

    def test_a_workspace_to_be_joined(self):
        a, = self.workspace_of(1)
        d = self.device("d")
        d.claw("sync", want=2)
        self.needs(d, "this workspace exists", "claw-sync join CODE")
        d.claw("join", json.loads(a.claw("invite", "--json").stdout)["code"])
        d.sync()
        self.in_sync(d)

    def test_a_device_that_was_removed(self):
        a, b = self.workspace_of(2)
        self.settle([a, b])
        self.daemon(b)
        a.claw("devices", "revoke", self.look(b)["device_id"])
        command = "claw-sync identity new, then claw-sync join CODE"
        self.needs(b, "not a member of the workspace any more", command)
        claw.wait_until(lambda: self.look(b)["daemon"]["failure"], "the daemon's word")
        b.stop()
        self.needs(b, "not a member of the workspace any more", command)
        b.claw("identity", "new")
        self.needs(b, "no member of the workspace yet", "claw-sync join CODE, or for a new workspace claw-sync sync")
        b.claw("join", json.loads(a.claw("invite", "--json").stdout)["code"])
        b.sync()
        self.in_sync(b)

    def test_a_copied_device(self):
        """The hub has nothing against it: rounds alone find it."""
        a, b = self.workspace_of(2)
        self.settle([a, b])
        shutil.copytree(a.folder, self.folder / "copy")
        copy = self.device("copy", schema=None)
        self.put(copy, "of the copy")
        copy.sync()
        self.in_sync(copy)
        self.put(a, "of the first")
        a.sync()
        command = "claw-sync identity new, then claw-sync join CODE"
        copy.start(**FAST)
        self.needs(copy, "^DEVICE_CLONED", command)
        self.assertEqual(self.look(copy)["daemon"]["failure"]["code"], "exists")
        copy.stop(signal.SIGKILL)
        self.needs(copy, "^DEVICE_CLONED", command)
        self.assertIsNone(self.look(copy)["daemon"])
        copy.claw("identity", "new")
        copy.claw("join", json.loads(a.claw("invite", "--json").stdout)["code"])
        copy.sync()
        self.in_sync(copy)
        self.settle([a, b, copy])

    def test_a_database_without_its_data_dir(self):
        a, b = self.workspace_of(2)
        self.settle([a, b])
        shutil.move(a.data, self.folder / "kept")
        self.needs(a, r"the keys of device .* are not in", "claw-sync identity new, then claw-sync join CODE")
        shutil.move(self.folder / "kept", a.data)
        self.in_sync(a)
        self.needs(b, "was replicated by device", "claw-sync identity new, then claw-sync join CODE", CLAW_DATA_DIR=str(a.data))

    def rotated_badly(self, by, victim):
        """The hub has an entry by which a device changes the key, and gives another one no share that opens."""
        by.stop()
        done = subprocess.run([next(claw.BUILD.resolve().rglob("bin/forge")), "rotate", by.data / "identity" / "membership.log",
                               by.data, self.look(victim, "--local")["device_id"].replace("-", "")],
                              capture_output=True, text=True, timeout=claw.PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        entry, digest = map(bytes.fromhex, done.stdout.split())
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db, db:
            seq = db.execute("SELECT max(seq) + 1 FROM entry").fetchone()[0]
            db.execute("INSERT INTO entry(workspace, seq, hash, entry) SELECT workspace, ?, ?, ? FROM workspace", (seq, digest, entry))
            db.execute("UPDATE workspace SET member_seq = ?, entry_hash = ?, epoch = epoch + 1", (seq, digest))
        self.hub.start()
        return seq

    def test_a_share_of_the_key_that_is_none(self):
        a, b, c = self.workspace_of(3)
        self.settle([a, b, c])
        by = self.look(a)["device_id"]
        seq = self.rotated_badly(a, b)
        self.put(b, "unsent")
        reason = rf"^BAD_WRAP: device {by} .*changed the workspace's key in entry {seq} and did not share it rightly"
        command = "claw-sync keys rotate, on another device"
        done = b.claw("sync", want=4)
        self.assertRegex(done.stderr, "BAD_WRAP.*have another device run: claw-sync keys rotate")
        self.assertEqual(json.loads(b.claw("sync", "--json", want=4).stdout)["error"]["code"], "auth")
        self.needs(b, reason, command)
        self.assertIsNone(self.look(b)["daemon"])
        self.daemon_of(b)
        claw.wait_until(lambda: (self.look(b)["daemon"] or {}).get("failure"), b.daemon_log)
        self.needs(b, reason, command)
        self.assertEqual(self.look(b)["daemon"]["failure"]["code"], "auth")
        self.assertEqual(b.value("SELECT count(*) FROM memories"), 1)
        c.claw("keys", "rotate")
        self.in_sync(b)  # its daemon has the next epoch's key, and goes on
        b.stop()
        self.settle([b, c])
        self.assertEqual(c.value("SELECT id FROM memories"), "unsent")

    def late(self, secs):
        return claw.preloaded("late_clock", LATE_CLOCK_SECS=secs)

    def put_late(self, device, id, secs):
        """By an application with that clock: stamps are of the earlier one of its clock and ours."""
        subprocess.run(["sqlite3", device.path, f"INSERT INTO memories(id, content) VALUES ('{id}', 'of tomorrow');"],
                       env=claw.clean_env(**self.late(secs)), check=True)

    def test_a_clock_that_is_ahead(self):
        """Its edits go out under the hub's time; that it is ahead it says as long as it is."""
        a, b = self.workspace_of(2)
        self.settle([a, b])
        late = self.late(3600)
        self.put_late(b, "m", 3600)
        self.assertEqual(json.loads(b.claw("sync", "--json", **late).stdout)["pushed"], 1)
        here = "set the clock right, best by NTP, here or there"
        reason = r"^this clock is 3(600|59\d) s ahead of the hub's, which refuses edits from more than a minute ahead"
        self.needs(b, reason, here, **late)
        self.assertEqual([r["do"] for r in self.look(b, **late)["needs_you"]], [here])
        b.start(**FAST | late)
        self.needs(b, reason, here, **late)
        b.stop()
        self.in_sync(b)
        a.sync()
        a.sql("UPDATE memories SET content = 'of today' WHERE id = 'm';")  # is newer
        self.settle([a, b])
        self.assertEqual(b.value("SELECT content FROM memories"), "of today")

    def test_stamps_that_the_hub_does_not_take(self):
        """The hub's clock was a day ahead, and of what it took then it knows nothing any more: what comes behind that is refused."""
        a, b = self.workspace_of(2)
        self.settle([a, b])
        day = 86400
        self.hub.with_clock(day)
        self.put_late(a, "of a", day)
        a.claw("sync", **self.late(day))
        b.sync()

        def top_stamp(stamp):
            self.hub.stop()
            with contextlib.closing(self.hub.database()) as db, db:
                was, = db.execute("SELECT top_stamp FROM workspace").fetchone()
                db.execute("UPDATE workspace SET top_stamp = ?", (stamp,))
            self.hub.with_clock(0)
            return was
        was = top_stamp(0)
        b.sql("UPDATE memories SET content = 'kept' WHERE id = 'of a';")
        found, command = "^this device's clock is too far ahead of the hub's: .*changes stay queued", "set the clock right, best by NTP"
        self.assertIn("clock is too far ahead of the hub's", b.claw("sync", want=1).stderr)
        self.assertEqual(json.loads(b.claw("sync", "--json", want=1).stdout)["error"]["code"], "clock")
        self.needs(b, found, command)
        self.assertIsNone(self.look(b)["daemon"])
        b.start(**FAST)
        claw.wait_until(lambda: (self.look(b)["daemon"] or {}).get("failure"), b.daemon_log)
        self.assertEqual(self.look(b)["daemon"]["failure"]["code"], "clock")
        self.needs(b, found, command)
        self.assertEqual([r["do"] for r in self.look(b)["needs_you"]], [command])
        b.stop()
        self.needs(b, found, command)
        a.sync()
        self.assertEqual([d.value("SELECT content FROM memories") for d in (a, b)], ["of tomorrow", "kept"])
        top_stamp(was)
        b.sync()
        self.in_sync(b)
        self.settle([a, b])
        self.assertEqual(a.value("SELECT content FROM memories"), "kept")

    def test_a_batch_of_a_newer_version(self):
        a, b = self.workspace_of(2)
        self.settle([a, b])
        self.put(a, "m")
        a.claw("push")

        def bend(version):
            self.hub.stop()
            with contextlib.closing(self.hub.database()) as db, db:
                number, header = db.execute("SELECT number, header FROM log ORDER BY number DESC LIMIT 1").fetchone()
                db.execute("UPDATE log SET header = ? WHERE number = ?", (header[:3] + version + header[4:], number))
            self.hub.start()
            return header[3:4]
        was = bend(b"\xff")
        self.daemon_of(b)
        self.needs(b, "^UPDATE_NEEDED", "update claw-sync, then claw-sync sync")
        b.stop()
        self.needs(b, "^UPDATE_NEEDED", "update claw-sync, then claw-sync sync")
        bend(was)
        b.sync()
        self.in_sync(b)

    def daemon_of(self, device):
        device.start(**FAST)

    def test_a_hub_that_leaves_something_out(self):
        """Its heads are in order: the daemon finds it, and asking the hub does not."""
        a, b = self.workspace_of(2)
        self.settle([a, b])
        self.put(a, "m1")
        a.claw("push")
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db, db:
            number, header = db.execute("SELECT number, header FROM log ORDER BY number DESC LIMIT 1").fetchone()
            at = header.find(claw.uuid.UUID(self.workspace).bytes)
            db.execute("UPDATE log SET header = ? WHERE number = ?", (header[:at] + bytes(16) + header[at + 16:], number))
        self.hub.start()
        self.daemon_of(b)
        self.needs(b, "^WRONG_WORKSPACE", "claw-sync doctor")
        self.assertTrue(self.look(b)["hub"]["answered"])
        b.stop()
        self.needs(b, "^WRONG_WORKSPACE", "claw-sync sync")  # it may be over
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db, db:
            db.execute("UPDATE log SET header = ? WHERE number = ?", (header, number))
        self.hub.start()
        b.sync()
        self.in_sync(b)

    def old_hub(self):
        """A hub that went back to before what two devices saw."""
        a, b = self.workspace_of(2)
        self.settle([a, b])
        self.hub.stop()
        old = (self.folder / "hub" / "data" / "hub.db").read_bytes()
        self.hub.start()
        self.put(a, "m")
        self.settle([a, b])
        self.hub.stop()
        for f in (self.folder / "hub" / "data").glob("hub.db*"):
            f.unlink()
        (self.folder / "hub" / "data" / "hub.db").write_bytes(old)
        return a, b

    def test_a_hub_that_was_rolled_back(self):
        a, b = self.old_hub()
        self.hub.start()
        self.needs(a, "^HUB_ROLLBACK", "claw-sync hub refill")
        self.daemon_of(b)
        self.needs(b, "^HUB_ROLLBACK", "claw-sync hub refill")
        b.stop(signal.SIGKILL)
        a.claw("hub", "refill")
        self.in_sync(a)
        self.needs(b, "^HUB_ROLLBACK", "claw-sync sync")  # it follows, and refills nothing itself
        self.assertNotIn("refill", b.claw("status").stdout)
        self.daemon_of(b)
        self.in_sync(b)

    def test_a_hub_with_two_logs(self):
        a, b = self.workspace_of(2)
        self.settle([a, b])
        self.hub.stop()
        old = (self.folder / "hub" / "data" / "hub.db").read_bytes()
        self.hub.start()
        self.put(b, "seen by b")
        b.sync()
        self.hub.stop()
        for f in (self.folder / "hub" / "data").glob("hub.db*"):
            f.unlink()
        (self.folder / "hub" / "data" / "hub.db").write_bytes(old)
        self.hub.start()
        for i in range(2):  # the other log is longer than the one that b knows
            self.put(a, f"seen by a {i}")
            a.sync()
        self.daemon_of(b)
        self.needs(b, "^HUB_FORK", "claw-sync verify-heads, here and on another device; "
                   "where the hub was restored from a backup, claw-sync hub refill")
        self.assertEqual(self.state(a), "in-sync")
        b.stop()
        self.needs(b, "^HUB_FORK", "claw-sync sync")  # it may be over
        b.claw("hub", "refill")
        self.settle([a, b])
        self.in_sync(b)
        self.assertEqual(a.value("SELECT count(*) FROM memories"), 3)

    def test_a_refill_that_is_not_over(self):
        a, b = self.old_hub()
        with a.connect() as db:
            db.execute("BEGIN")
            db.executemany("INSERT INTO memory_records(id, title) VALUES (?, 'x')", ((f"r{i}",) for i in range(5000)))
            db.execute("COMMIT")
        self.hub.start()
        self.needs(a, "^HUB_ROLLBACK", "claw-sync hub refill")
        p = subprocess.Popen([claw.CLIENT, "hub", "refill"], env=a.env(CLAW_MAX_DELTA_ROWS=10), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        with contextlib.closing(self.hub.database()) as db:
            was = db.execute("SELECT log_id FROM workspace").fetchone()
            claw.wait_until(lambda: db.execute("SELECT log_id != ? AND number > 3 FROM workspace", was).fetchone()[0], "a new log")
        p.kill(), p.wait(claw.PATIENCE)
        self.needs(a, "a refill of the hub that was begun here is not finished", "claw-sync hub refill")
        a.claw("hub", "refill")
        self.in_sync(a)
        b.sync()
        self.settle([a, b])

    def test_a_hub_with_another_key(self):
        a, = self.workspace_of(1)
        self.hub.stop()
        (self.folder / "hub" / "data" / "hub.key").unlink()
        self.hub.start()
        self.daemon_of(a)
        self.needs(a, "^HUB_KEY_CHANGED", "claw-sync hub accept")
        a.stop()
        shown = json.loads(a.claw("hub", "accept", "--json", want=None).stdout)["error"]["message"]
        a.claw("hub", "accept", re.search(r"hub accept ([\w-]+)", shown).group(1))
        a.sync()
        self.in_sync(a)

    def test_a_quota_that_is_used_up(self):
        a, = self.workspace_of(1)

        def quota(value):
            self.hub.stop()
            self.hub.env["CLAW_SYNC_QUOTA_BYTES"] = value
            self.hub.start()

        def edit(row):
            a.sql(f"INSERT INTO memory_records(id, body) VALUES ('{row}', hex(randomblob(8000)));")
            return r"used \d+ of its 4000 bytes", "ask who runs the hub for more room"

        quota("4000")
        self.daemon(a)
        self.in_sync(a)
        self.needs(a, *edit("r"))
        quota("none")
        self.in_sync(a)
        a.stop()
        quota("4000")
        told = edit("s")
        a.claw("sync", want=1, CLAW_RETRY_BASE_MS=20)
        self.needs(a, *told)  # of a process that is gone
        quota("none")
        a.sync()
        self.in_sync(a)

    @unittest.skipIf(disk_full_test.why_not(), "no file system can be mounted here")
    def test_a_full_disk(self):
        self.start_hub()
        (self.folder / "a").mkdir()
        disk = disk_full_test.DiskFull.disk(self, self.folder / "a")
        a, b = self.device("a"), self.device("b")
        a.sync()
        self.join(a, b)
        self.daemon(a)
        self.in_sync(a)
        disk.fill()
        with b.connect() as db:
            db.executemany("INSERT INTO memory_records(id, body) VALUES (?, ?)", ((f"r{i}", "x" * 4000) for i in range(1000)))
        b.sync()
        self.needs(a, disk_full_test.FULL, "make room on that disk, or see what is wrong with it")
        disk.free()
        self.in_sync(a)


if __name__ == "__main__":
    claw.main()
