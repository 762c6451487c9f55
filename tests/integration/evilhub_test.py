"""A hostile hub: the real one, on its own RPC layer, with its own key, whose log says what suits it. Each lie has its name, its
exit code, one row in the audit log, and changes nothing in the database of whoever is lied to."""
import contextlib, json, shutil, subprocess

import claw


class Evil(claw.ClawTest):
    """Two devices a and b at rest, b a few batches behind; then the hub begins to lie to b."""
    BEHIND = 4

    def setUp(self):
        super().setUp()
        self.a, self.b = self.workspace_of(2)
        self.write(self.a, "first")
        self.settle([self.a, self.b])
        self.honest = self.save("honest-before")
        for i in range(self.BEHIND):
            self.write(self.a, f"m{i}")
            self.a.sync()
        self.seen = self.b.status()["log_number"]
        self.top = self.a.status()["log_number"]
        self.assertGreaterEqual(self.top - self.seen, self.BEHIND)

    def write(self, device, name):
        device.sql(f"INSERT INTO memories(id, content) VALUES ('{name}', 'text of {name}');")

    def data(self):
        return self.hub.folder / "data"

    def save(self, name):
        """The hub's data as it is."""
        self.hub.stop()
        shutil.copytree(self.data(), self.folder / name)
        self.hub.start()
        return self.folder / name

    def bend(self, *statements, restart=True):
        """The hub's log says something else from now on; the hub signs it as ever. One that goes on running does not look
        again at the membership entries that it has verified itself."""
        if restart:
            self.hub.stop()
        with contextlib.closing(self.hub.database()) as db, db:
            for sql, *args in statements:
                db.execute(sql, args)
        if restart:
            self.hub.start()

    def restore(self, saved):
        self.hub.stop()
        shutil.rmtree(self.data())
        shutil.copytree(saved, self.data())
        self.hub.start()

    def everything(self, device):
        """The application's tables, and ours but for where we stand."""
        with device.connect() as db:
            ours = [r[0] for r in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'sync_*'"
                                             " AND name <> 'sync_meta'")]
            return device.dump(), {t: sorted(map(repr, db.execute(f'SELECT * FROM "{t}"'))) for t in ours}

    def misbehaved(self, device):
        return [json.loads(x) for x in device.claw("audit", "export").stdout.splitlines()
                if json.loads(x)["event_type"] == "HUB_MISBEHAVED"]

    def caught(self, names):
        device = self.b
        before, rows = self.everything(device), len(self.misbehaved(device))
        done = device.claw("sync", want=4)
        self.assertTrue(any(n in done.stderr for n in names), done.stderr)
        self.assertEqual(self.everything(device), before)
        found = self.misbehaved(device)
        self.assertEqual(len(found), rows + 1, done.stderr)
        if "HUB_KEY_CHANGED" not in names:
            self.assertRegex(found[-1]["payload"]["evidence"], "^[0-9a-f]{64}$")
        device.claw("sync", want=4)
        self.assertEqual(len(self.misbehaved(device)), rows + 1)  # once, however often it is seen


class Log(Evil):
    def test_drops_a_batch(self):
        """And closes the gap, so that the numbers are in order."""
        n = self.seen + 2
        self.bend(("DELETE FROM log WHERE number = ?", n), ("DELETE FROM chunk WHERE number = ?", n),
                  *((f"UPDATE {t} SET number = number - 1 WHERE number = {i}",) for t in ("log", "chunk")
                    for i in range(n + 1, self.top + 1)),
                  ("UPDATE workspace SET number = number - 1",))
        self.caught_after_the_prefix(("BROKEN_CHAIN", "HUB_FORK"))

    def test_has_a_gap(self):
        """Its own storage shows it: the hub says so, and gives nothing."""
        self.bend(("DELETE FROM log WHERE number = ?", self.seen + 1))
        self.caught(("gap",))

    def caught_after_the_prefix(self, names):
        """What comes before the lie is honest, and may be taken."""
        self.b.claw("sync", want=4)
        before = self.everything(self.b)
        done = self.b.claw("sync", want=4)
        self.assertTrue(any(n in done.stderr for n in names), done.stderr)
        self.assertEqual(self.everything(self.b), before)
        self.assertEqual(len(self.misbehaved(self.b)), 1)

    def test_gives_a_batch_twice(self):
        n = self.seen + 2
        columns = "device, device_number + 1000, hash, log_hash, header, signature, payload_hashes, entity_type"
        self.bend(("DELETE FROM log WHERE number = ?", n), ("DELETE FROM chunk WHERE number = ?", n),
                  (f"INSERT INTO log SELECT workspace, number + 1, {columns} FROM log WHERE number = ?", n - 1),
                  ("INSERT INTO chunk SELECT workspace, number + 1, seq, payload FROM chunk WHERE number = ?", n - 1))
        self.caught_after_the_prefix(("HUB_FORK", "BATCH_FORK", "HUB_WITHHELD"))

    def test_swaps_two(self):
        n = self.seen + 1
        self.bend(*((f"UPDATE {t} SET number = {to} WHERE number = {of}",) for t in ("log", "chunk")
                    for of, to in ((n, -1), (n + 1, n), (-1, n + 1))))
        self.b.claw("sync", want=None)
        done = self.b.claw("sync", want=None)
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertRegex(done.stderr, "HUB_FORK|BROKEN_CHAIN|HUB_WITHHELD")

    def test_answers_for_another_workspace(self):
        header = self.b_header(self.seen + 1)
        at = header.find(claw.uuid.UUID(self.workspace).bytes)
        self.assertGreaterEqual(at, 0)
        other = header[:at] + bytes(16) + header[at + 16:]
        self.bend(("UPDATE log SET header = ? WHERE number = ?", other, self.seen + 1))
        self.caught(("WRONG_WORKSPACE",))

    def b_header(self, number):
        with contextlib.closing(self.hub.database()) as db:
            return db.execute("SELECT header FROM log WHERE number = ?", (number,)).fetchone()[0]

    def test_rolls_back(self):
        self.b.sync()
        self.restore(self.honest)
        self.caught(("HUB_ROLLBACK",))

    def test_ends_its_log_earlier(self):
        """Without a restored backup: the head alone goes back."""
        self.b.sync()
        self.bend(("UPDATE workspace SET number = number - 1, log_hash = (SELECT log_hash FROM log WHERE number ="
                   " (SELECT max(number) - 1 FROM log))",))
        self.caught(("HUB_ROLLBACK",))

    def test_signs_another_log(self):
        self.b.sync()
        self.bend(("UPDATE workspace SET log_hash = zeroblob(32)",))
        self.caught(("HUB_FORK",))

    def test_shows_two_devices_two_logs(self):
        """b is shown another log than a from the same number on, each in itself in order; then they meet."""
        self.b.sync()
        self.settle([self.a, self.b])
        fork = self.save("fork")
        self.write(self.a, "seen by a")
        self.a.sync()
        with_a = self.save("with-a")
        self.restore(fork)
        self.write(self.b, "seen by b")
        self.b.sync()
        self.restore(with_a)
        self.caught(("HUB_FORK", "HUB_ROLLBACK"))

    def test_another_log_id(self):
        self.b.sync()
        self.bend(("UPDATE workspace SET log_id = log_id + 1",))
        done = self.b.claw("sync", want=None)
        self.assertIn("LOG_REPLACED", done.stderr)
        self.assertEqual(done.returncode, 4)

    def test_changes_its_key(self):
        self.b.sync()
        self.hub.stop()
        key = next(self.data().glob("hub.key"))
        key.unlink()
        self.hub.start()
        self.caught(("HUB_KEY_CHANGED",))

    def test_an_older_head_after_a_restart_of_both(self):
        """The newest head outlives the client's process and the loss of its pull position's cache."""
        self.b.sync()
        self.b.start()
        claw.wait_until(lambda: "connected" in self.b.daemon_log(), self.b.daemon_log)
        self.b.stop()
        self.restore(self.honest)
        self.b.start()
        claw.wait_until(lambda: "HUB_ROLLBACK" in self.b.daemon_log(), self.b.daemon_log)
        self.b.stop()
        self.assertEqual(len(self.misbehaved(self.b)), 1)

    def test_takes_back_what_it_acknowledged(self):
        """A head that was signed for a push, and never pulled."""
        self.write(self.b, "acknowledged")
        self.b.claw("push")
        self.restore(self.honest)
        before = self.b.dump()
        for command in ("pull", "sync"):
            self.assertIn("HUB_ROLLBACK", self.b.claw(command, want=4).stderr)
        self.assertEqual(self.b.dump(), before)
        self.assertEqual(len(self.misbehaved(self.b)), 1)


    def test_has_another_batch_where_it_acknowledged_one(self):
        """Its head goes on, and its log agrees with it."""
        self.b.sync()
        self.settle([self.a, self.b])
        before = self.save("before")
        self.write(self.b, "acknowledged")
        self.b.claw("push")
        self.restore(before)
        for i in range(2):
            self.write(self.a, f"instead {i}")
            self.a.claw("push")
        self.caught(("HUB_FORK",))


class LostDatabase(Evil):
    """b's database is gone, or an older one, and with it all that it knew of the hub; the keystore knows better."""

    def lose(self):
        for f in self.b.folder.glob("memory.db*"):
            f.unlink()
        self.b.sql(claw.SCHEMA)

    def caught_once(self, name):
        for _ in range(2):
            self.assertIn(name, self.b.claw("sync", want=4).stderr)
        self.assertEqual(len(self.misbehaved(self.b)), 1)

    def test_rolls_back(self):
        self.b.sync()
        self.restore(self.honest)
        self.lose()
        self.caught_once("HUB_ROLLBACK")
        self.assertEqual(self.b.dump()["memories"], [])

    def test_rolls_back_when_the_daemon_was_killed(self):
        """What a keystore knows is not only what it knew when it was last closed."""
        keystore = self.b.data / "identity" / "keystore"
        before = keystore.read_bytes()
        self.b.start()
        claw.wait_until(lambda: keystore.read_bytes() != before, self.b.daemon_log)
        self.b.stop(claw.signal.SIGKILL)
        self.assertEqual(self.b.value("SELECT count(*) FROM memories"), 1 + self.BEHIND)
        self.restore(self.honest)
        self.lose()
        self.caught_once("HUB_ROLLBACK")

    def test_takes_back_what_b_sent(self):
        """b pushed last, and did not pull that: its log number is the hub's, its own batch is missing."""
        self.b.sync()
        before = self.save("before")
        self.write(self.b, "acknowledged")
        self.b.claw("push")
        self.restore(before)
        self.lose()
        self.caught_once("HUB_ROLLBACK")

    def test_another_log(self):
        self.settle([self.a, self.b])
        before = self.save("before")
        self.write(self.b, "seen by b")
        self.b.sync()
        self.restore(before)
        for i in range(2):
            self.write(self.a, f"seen by a {i}")
            self.a.sync()
        self.lose()
        self.caught_once("HUB_FORK")

    def test_another_log_id(self):
        self.b.sync()
        self.bend(("UPDATE workspace SET log_id = log_id + 1",))
        self.lose()
        self.assertIn("LOG_REPLACED", self.b.claw("sync", want=4).stderr)


class EveryPlace(Evil):
    """The same lie at each place of the log; b is thrown back to where it was before each of them."""

    def setUp(self):
        super().setUp()
        self.full = self.save("full")

    def freeze(self):
        self.frozen = {p: p.read_bytes() for p in self.b.folder.rglob("*") if p.is_file()}

    def again(self):
        """Into the same files, as a copy of them would be noticed."""
        for p in self.b.folder.rglob("*"):
            if p.is_file() and p not in self.frozen:
                p.unlink()
        for p, content in self.frozen.items():
            p.write_bytes(content)
        self.restore(self.full)

    def lied_to(self, names):
        self.b.claw("sync", want=4)  # what is honest before the lie may be taken
        before = self.everything(self.b)
        done = self.b.claw("sync", want=4)
        self.assertTrue(any(n in done.stderr for n in names), done.stderr)
        self.assertEqual(self.everything(self.b), before)
        self.assertEqual(len(self.misbehaved(self.b)), 1)

    def moved(self, *steps):
        return [(f"UPDATE {t} SET number = ? WHERE number = ?", to, of) for of, to in steps for t in ("log", "chunk")]

    def copied(self, n, to):
        columns = "device, device_number + 1000 * ?, hash, log_hash, header, signature, payload_hashes, entity_type"
        return [(f"INSERT INTO log SELECT workspace, ?, {columns} FROM log WHERE number = ?", to, to, n),
                ("INSERT INTO chunk SELECT workspace, ?, seq, payload FROM chunk WHERE number = ?", to, n)]

    def test_left_out(self):
        self.freeze()
        for n in range(self.seen + 1, self.top):
            with self.subTest(number=n):
                self.again()
                self.bend(("DELETE FROM log WHERE number = ?", n), ("DELETE FROM chunk WHERE number = ?", n),
                          *self.moved(*((i, i - 1) for i in range(n + 1, self.top + 1))),
                          ("UPDATE workspace SET number = number - 1",))
                self.lied_to(("BROKEN_CHAIN", "HUB_FORK"))

    def test_swapped(self):
        self.freeze()
        for n in range(self.seen + 1, self.top):
            with self.subTest(number=n):
                self.again()
                self.bend(*self.moved((n, -1), (n + 1, n), (-1, n + 1)))
                self.lied_to(("HUB_FORK", "BROKEN_CHAIN"))

    def test_given_twice(self):
        self.freeze()
        for n in range(self.seen + 1, self.top + 1):
            with self.subTest(number=n):
                self.again()
                self.bend(*self.moved(*((i, i + 1) for i in range(self.top, n, -1))), *self.copied(n, n + 1),
                          ("UPDATE workspace SET number = number + 1",))
                self.lied_to(("HUB_FORK",))

    def test_cut_off(self):
        self.b.sync()
        self.freeze()
        for n in range(self.seen, self.top):
            with self.subTest(number=n):
                self.again()
                self.bend(("UPDATE workspace SET log_hash = (SELECT log_hash FROM log WHERE number = ?), number = ?", n, n),
                          ("DELETE FROM log WHERE number > ?", n), ("DELETE FROM chunk WHERE number > ?", n))
                self.lied_to(("HUB_ROLLBACK",))


class Membership(Evil):
    def entry(self, seq):
        with contextlib.closing(self.hub.database()) as db:
            return db.execute("SELECT entry FROM entry WHERE seq = ?", (seq,)).fetchone()[0]

    def newest(self):
        with contextlib.closing(self.hub.database()) as db:
            return db.execute("SELECT max(seq) FROM entry").fetchone()[0]

    def grow(self, change):
        """One more entry at the end, made by `change` of an honest one that b has not seen."""
        self.b.sync()
        self.a.claw("keys", "rotate")
        seq = self.newest()
        self.bend(("UPDATE entry SET entry = ? WHERE seq = ?", change(self.entry(seq)), seq), restart=False)

    def flipped(self, at):
        return lambda e: e[:at % len(e)] + bytes([e[at] ^ 1]) + e[at % len(e) + 1:]

    def test_plants_a_member(self):
        """An entry that nobody who is in has signed."""
        self.grow(self.flipped(-1))
        self.caught(("MEMBER_FORGED",))

    def test_plants_a_key(self):
        """Another commitment, and so another key, in an honest rotation."""
        self.grow(lambda e: e[:200] + bytes(32) + e[232:])
        self.caught(("MEMBER_FORGED", "MEMBER_FORK"))

    def test_swaps_the_wrappings(self):
        def swap(e):
            at = len(e) - 64 - 2 * 96  # two devices: id 16, wrap 80 each, before the signature
            one, two = e[at:at + 96], e[at + 96:at + 192]
            return e[:at] + one[:16] + two[16:] + two[:16] + one[16:] + e[at + 192:]
        self.grow(swap)
        self.caught(("MEMBER_FORGED", "MEMBER_FORK"))

    def test_shortens_the_log(self):
        self.b.sync()
        seq = self.newest()
        self.bend(("DELETE FROM entry WHERE seq = ?", seq),
                  ("UPDATE workspace SET member_seq = ?, entry_hash = (SELECT hash FROM entry WHERE seq = ?)", seq - 1, seq - 1))
        self.caught(("HUB_ROLLBACK",))

    def test_two_entries_under_one_number(self):
        """a and b are shown two memberships, each in itself in order; then they meet."""
        self.b.sync()
        fork = self.save("fork")
        self.a.claw("keys", "rotate")
        with_a = self.save("with-a")
        self.restore(fork)
        self.b.claw("keys", "rotate")
        self.restore(with_a)
        self.caught(("HUB_FORK", "MEMBER_FORK"))

    def test_hides_a_rotation(self):
        """b is not given the entry that its peer's batch cites."""
        self.b.sync()
        before = self.newest()
        self.a.claw("keys", "rotate")
        self.write(self.a, "under the new key")
        self.a.sync()
        self.bend(("DELETE FROM entry WHERE seq > ?", before),
                  ("UPDATE workspace SET member_seq = ?, entry_hash = (SELECT hash FROM entry WHERE seq = ?)", before, before))
        self.caught(("HUB_WITHHELD",))

    def test_a_newcomer_is_shown_another_genesis(self):
        code = json.loads(self.a.claw("invite", "--json").stdout)["code"]
        c = self.device("c")
        bent = self.flipped(-1)(self.entry(1))
        self.bend(("UPDATE entry SET entry = ? WHERE seq = 1", bent), restart=False)
        done = c.claw("join", code, want=4)
        self.assertRegex(done.stderr, "INVITE_FORGED|MEMBER_FORGED|MEMBER_FORK")
        self.assertEqual(c.dump()["memories"], [])

    def test_ignores_that_an_invite_ran_out(self):
        """A hub whose clock stands still lets the code in; the joiner's own clock does not."""
        code = json.loads(self.a.claw("invite", "--json", "--expires", "600").stdout)["code"]
        c = self.device("c")
        done = c.claw("join", code, want=None, **claw.preloaded("late_clock", LATE_CLOCK_SECS=2000))
        self.assertIn("INVITE_EXPIRED", done.stderr)
        self.assertNotEqual(done.returncode, 0)


    def test_lets_somebody_in_when_the_invite_ran_out(self):
        """The joiner's clock agrees with the hub that there is time; the hub's own signed time does not."""
        self.settle([self.a, self.b])
        code = json.loads(self.a.claw("invite", "--json", "--expires", "600").stdout)["code"]
        self.b.sync()
        seq, before = self.newest() + 1, self.save("before")
        self.device("c").claw("join", code)
        add = self.entry(seq)
        self.assertEqual(add[4], 3)
        with contextlib.closing(self.hub.database()) as db:
            digest = db.execute("SELECT hash FROM entry WHERE seq = ?", (seq,)).fetchone()[0]
        self.restore(before)
        self.hub.with_clock(2000)
        self.write(self.a, "while the hub is late")
        self.settle([self.a, self.b])
        self.bend(("INSERT INTO entry SELECT workspace, ?, ?, ? FROM entry WHERE seq = ?", seq, digest, add, seq - 1),
                  ("UPDATE workspace SET member_seq = ?, entry_hash = ?", seq, digest))
        self.caught(("INVITE_EXPIRED",))


class Accomplice(Evil):
    """A device that was removed, and the hub with it."""

    def setUp(self):
        super().setUp()
        self.c = self.device("c")
        self.join(self.a, self.c)
        self.settle([self.a, self.b, self.c])
        self.before = self.save("before-the-removal")
        self.c_id = self.c.status()["device_id"]

    def kinds(self, device):
        return [json.loads(x)["event_type"] for x in device.claw("audit", "export").stdout.splitlines()]

    def test_what_b_took_and_does_not_count(self):
        """b was shown a batch of c that the removal leaves out."""
        self.write(self.c, "late")
        self.c.sync()
        self.b.sync()
        self.restore(self.before)
        self.a.claw("devices", "revoke", self.c_id)
        for i in range(3):
            self.write(self.a, f"after {i}")
            self.a.sync()
        done = self.b.claw("sync", want=4)
        self.assertIn("PAST_CUT", done.stderr)
        self.assertEqual(self.kinds(self.b).count("PAST_CUT"), 1)
        self.assertIn("HUB_MISBEHAVED", self.kinds(self.b))

    def test_a_back_dated_batch(self):
        """c signs once more under the old membership, and the hub puts that behind the removal."""
        self.write(self.c, "back-dated")
        self.c.sync()
        with contextlib.closing(self.hub.database()) as db:
            row = db.execute("SELECT device, device_number, hash, log_hash, header, signature, payload_hashes, entity_type"
                             " FROM log ORDER BY number DESC LIMIT 1").fetchone()
            chunks = db.execute("SELECT seq, payload FROM chunk WHERE number = (SELECT max(number) FROM log)").fetchall()
        self.restore(self.before)
        self.a.claw("devices", "revoke", self.c_id)
        self.write(self.a, "after")
        self.a.sync()
        self.settle([self.a, self.b])
        top = self.a.status()["log_number"] + 1
        self.bend(("INSERT INTO log SELECT workspace, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM workspace", top, *row),
                  *(("INSERT INTO chunk SELECT workspace, ?, ?, ? FROM workspace", top, *x) for x in chunks),
                  ("UPDATE workspace SET number = ?, log_hash = ?", top, row[3]))
        before = self.b.dump()
        done = self.b.claw("sync", want=None)
        self.assertRegex(done.stderr, "PAST_CUT|NOT_A_MEMBER|HUB_FORK|BAD_HEADER")
        self.assertEqual(self.b.dump(), before)

    def test_what_was_written_afterwards_stays_closed(self):
        """The hub shows c everything but its removal; c has every key that it ever had."""
        self.a.claw("devices", "revoke", self.c_id)
        self.write(self.a, "secret")
        self.a.sync()
        self.b.sync()
        with contextlib.closing(self.hub.database()) as db:
            old = db.execute("SELECT max(seq) FROM entry").fetchone()[0] - 1
        self.bend(("DELETE FROM entry WHERE seq > ?", old),
                  ("UPDATE workspace SET member_seq = ?, entry_hash = (SELECT hash FROM entry WHERE seq = ?)", old, old))
        before = self.c.dump()
        done = self.c.claw("sync", want=4)
        self.assertIn("HUB_WITHHELD", done.stderr)
        self.assertEqual(self.c.dump(), before)
        self.assertNotIn("secret", repr(self.c.query("SELECT * FROM memories")))


class Refills(Evil):
    """A log is over when a member says so, and only then (docs/decisions/0012)."""
    NEW = 4711  # a log's id

    def setUp(self):
        super().setUp()
        self.b.sync()
        self.settle([self.a, self.b])

    def forge(self, *args):
        program = next(claw.BUILD.resolve().rglob("bin/forge"))
        done = subprocess.run([program, *map(str, args)], capture_output=True, text=True, timeout=claw.PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [bytes.fromhex(x) for x in done.stdout.split()]

    def id(self, device):
        return device.status()["device_id"]

    def hub_has(self, sql, *args):
        with contextlib.closing(self.hub.database()) as db:
            return db.execute(sql, args).fetchall()

    def emptied(self):
        """What a hub says whose log is a new one with nothing in it."""
        start, = self.forge("log", self.workspace.replace("-", ""), self.NEW, 1)
        return [("DELETE FROM log",), ("DELETE FROM chunk",), ("UPDATE device SET number = 0",),
                ("UPDATE workspace SET log_id = ?, refilled = 1, number = 0, log_hash = ?", self.NEW, start)]


class PretendsARefill(Refills):
    """The hub says it itself, or with what it can get."""

    def test_without_an_entry(self):
        self.bend(*self.emptied())
        self.caught(("LOG_REPLACED",))

    def test_without_an_entry_while_the_daemon_runs(self):
        self.b.start()
        claw.wait_until(lambda: "connected" in self.b.daemon_log(), self.b.daemon_log)
        before = self.b.dump()
        self.bend(*self.emptied())
        claw.wait_until(lambda: "LOG_REPLACED" in self.b.daemon_log(), self.b.daemon_log)
        self.assertEqual(self.b.dump(), before)
        self.b.stop()
        self.caught_before("LOG_REPLACED")

    def caught_before(self, name):
        before, rows = self.everything(self.b), len(self.misbehaved(self.b))
        self.assertIn(name, self.b.claw("sync", want=4).stderr)
        self.assertEqual(self.everything(self.b), before)
        self.assertEqual(len(self.misbehaved(self.b)), rows)

    def forged(self, signer, author):
        """Shown in the place of one that the hub took: so that it knows of nothing wrong."""
        seq = self.hub_has("SELECT max(seq) FROM entry")[0][0]
        known = self.hub_has("SELECT entry FROM entry ORDER BY seq")
        entries = self.folder / "entries"
        entries.write_bytes(b"".join(len(e).to_bytes(4, "big") + e for e, in known))
        entry, digest = self.forge("refill", entries, signer.data, author.replace("-", ""), self.NEW, 1)
        self.a.claw("devices", "rename", self.id(self.a), "another name")
        self.assertEqual(self.hub_has("SELECT max(seq) FROM entry"), [(seq + 1,)])
        self.bend(("UPDATE entry SET entry = ?, hash = ? WHERE seq = ?", entry, digest, seq + 1),
                  *self.emptied(), restart=False)
        self.caught(("MEMBER_FORGED",))

    def outsider(self):
        """A device of the same workspace id, on another hub."""
        hub = claw.Hub(self.folder / "other-hub").start()
        try:
            device = claw.Device(self.folder / "outsider", self.workspace, hub.endpoint)
            device.sync()
            return device
        finally:
            hub.stop()

    def removed(self):
        c = self.device("c")
        self.join(self.a, c)
        self.settle([self.a, self.b, c])
        self.a.claw("devices", "revoke", self.id(c))
        self.settle([self.a, self.b])
        return c

    def test_with_an_entry_by_a_stranger(self):
        stranger = self.outsider()
        self.forged(stranger, self.id(stranger))

    def test_with_an_entry_by_a_stranger_in_a_members_name(self):
        self.forged(self.outsider(), self.id(self.a))

    def test_with_an_entry_by_a_removed_member(self):
        c = self.removed()
        self.forged(c, self.id(c))

    def test_with_an_entry_by_a_removed_member_in_anothers_name(self):
        self.forged(self.removed(), self.id(self.a))

    def test_with_an_entry_by_a_removed_member_to_who_does_not_know_of_the_removal(self):
        """b is kept apart, and follows. What it has it keeps; the first that it is shown of the others ends it."""
        c = self.device("c")
        self.join(self.a, c)
        self.settle([self.a, self.b, c])
        before = self.save("before-the-removal")
        self.a.claw("devices", "revoke", self.id(c))
        removed = self.save("removed")
        self.restore(before)
        self.bend(*self.emptied())
        self.assertIn("LOG_REPLACED", c.claw("sync", want=4).stderr)
        c.claw("hub", "refill")
        rows = self.b.dump()
        self.b.claw("sync")
        self.assertEqual(self.b.dump(), rows)
        self.restore(removed)
        self.caught(("HUB_FORK", "MEMBER_FORK", "LOG_REPLACED"))
        self.assertEqual(self.b.dump(), rows)


class AfterARefill(Refills):
    """The entry is a member's, what the hub gives with it is not the log that it names."""

    def setUp(self):
        super().setUp()
        self.c = self.device("c")
        self.join(self.a, self.c)
        self.settle([self.a, self.b, self.c])
        self.write(self.c, "of c")
        self.c.sync()
        self.write(self.a, "of a")
        self.a.sync()
        self.refill(self.honest_with_all())

    def honest_with_all(self):
        """Where the hub goes back to: it knows all three, and less than they."""
        self.write(self.a, "lost")
        saved = self.save("all")
        self.a.sync()
        return saved

    def refill(self, saved):
        self.restore(saved)
        self.assertIn("HUB_ROLLBACK", self.a.claw("sync", want=4).stderr)
        self.a.claw("hub", "refill")
        self.filled = self.hub_has("SELECT number FROM workspace")[0][0]
        self.assertGreater(self.filled, 0)

    def log(self):
        return self.hub_has("SELECT hash FROM log ORDER BY number")

    def hash_of(self, batches):
        id, refilled = self.hub_has("SELECT log_id, refilled FROM workspace")[0]
        return self.forge("log", self.workspace.replace("-", ""), id, refilled, *(h.hex() for h, in batches))[0]

    def moved(self, *steps):
        return [(f"UPDATE {t} SET number = ? WHERE number = ?", to, of) for of, to in steps for t in ("log", "chunk")]

    def ends_at(self, number):
        return [("UPDATE workspace SET number = ?, log_hash = ?", number, self.hash_of(self.log()[:number])),
                ("DELETE FROM log WHERE number > ?", number), ("DELETE FROM chunk WHERE number > ?", number)]

    def caught_following(self, names, words=""):
        """b takes the entry, which is a member's; of the log it takes what is honest before the lie."""
        done = self.b.claw("sync", want=4)
        before = self.everything(self.b)
        again = self.b.claw("sync", want=4)
        for d in (done, again):
            self.assertTrue(any(n in d.stderr for n in names), d.stderr)
            self.assertIn(words, d.stderr)
        self.assertEqual(self.everything(self.b), before)
        self.assertEqual(len(self.misbehaved(self.b)), 1)

    def test_an_honest_one(self):
        """So that what is refused below is refused for the lie."""
        self.settle([self.a, self.b, self.c])
        self.assertEqual(self.hash_of(self.log()), self.hub_has("SELECT log_hash FROM workspace")[0][0])

    def test_another_log_than_it_names(self):
        """A batch that c sent afterwards is put first. Each chain is right, each batch is signed, and the head agrees."""
        self.write(self.c, "afterwards")
        self.c.claw("push")
        n = self.filled
        batches = self.log()
        self.assertEqual(len(batches), n + 1)
        self.bend(*self.moved((n + 1, -1), *((i, i + 1) for i in range(n, 0, -1)), (-1, 1)))
        self.bend(("UPDATE workspace SET log_hash = ?", self.hash_of(self.log())))
        self.caught_following(("HUB_ROLLBACK",), "refilled the hub")

    def test_less_than_it_names(self):
        self.bend(*self.ends_at(self.filled - 1))
        self.caught_following(("HUB_ROLLBACK", "HUB_WITHHELD"))

    def test_one_of_its_batches_left_out(self):
        n = self.filled
        self.write(self.a, "more")
        self.a.sync()
        self.bend(("DELETE FROM log WHERE number = ?", n), ("DELETE FROM chunk WHERE number = ?", n), *self.moved((n + 1, n)),
                  ("UPDATE workspace SET number = ?", n))
        self.bend(("UPDATE workspace SET log_hash = ?", self.hash_of(self.log())))
        self.caught_following(("HUB_ROLLBACK",), "refilled the hub")
        self.assertNotIn("BROKEN_CHAIN", self.b.claw("audit", "export").stdout)  # a's chain is whole: the hub broke the log

    def test_withholds_what_b_had_seen_behind_it(self):
        for i in range(3):
            self.write(self.a, f"behind {i}")
            self.a.sync()
        self.b.sync()
        self.bend(*self.ends_at(self.filled))
        self.caught(("HUB_ROLLBACK",))

    def test_withholds_what_another_device_cites(self):
        """And closes the gap."""
        self.write(self.a, "left out")
        self.a.sync()
        self.settle([self.a, self.c])
        self.write(self.c, "which has seen that")
        self.c.sync()
        n, numbers = self.filled + 1, self.hub_has("SELECT number FROM log WHERE number > ? ORDER BY number", self.filled + 1)
        self.bend(("DELETE FROM log WHERE number = ?", n), ("DELETE FROM chunk WHERE number = ?", n),
                  *self.moved(*((i, i - 1) for i, in numbers)), ("UPDATE workspace SET number = number - 1",))
        self.bend(("UPDATE workspace SET log_hash = ?", self.hash_of(self.log())))
        self.b.claw("sync", want=4)
        before = self.everything(self.b)
        self.assertRegex(self.b.claw("sync", want=4).stderr, "HUB_FORK|HUB_WITHHELD")
        self.assertEqual(self.everything(self.b), before)
        self.assertEqual(self.b.value("SELECT count(*) FROM memories WHERE id IN ('left out', 'which has seen that')"), 0)
        self.assertEqual(len(self.misbehaved(self.b)), 1)

    def second(self):
        """Once more: hubs are lost more than once. Returns the hub as it was in the time of the first refill."""
        self.settle([self.a, self.b, self.c])
        first = self.save("first")
        self.write(self.a, "after the first")
        self.a.sync()
        self.refill(first)
        self.settle([self.a, self.b, self.c])
        return first

    def test_goes_back_to_an_earlier_one(self):
        first = self.second()
        self.restore(first)
        self.caught(("LOG_REPLACED", "HUB_ROLLBACK"))

    def test_has_the_log_of_an_earlier_one(self):
        """Under the membership of today."""
        first = self.second()
        self.hub.stop()
        with contextlib.closing(self.hub.database()) as db, db:
            db.execute("ATTACH ? AS first", (str(first / "hub.db"),))
            for t in ("log", "chunk", "device"):
                db.execute(f"DELETE FROM {t}")
                db.execute(f"INSERT INTO {t} SELECT * FROM first.{t}")
            db.execute("UPDATE workspace SET (log_id, refilled, number, log_hash) ="
                       " (SELECT log_id, refilled, number, log_hash FROM first.workspace)")
        self.hub.start()
        self.caught(("LOG_REPLACED",))

    def test_gives_the_entry_of_an_earlier_one_again(self):
        """As its newest, with the log that it names."""
        first = self.second()
        old, = [e for e, in self.hub_has("SELECT entry FROM entry WHERE hex(substr(entry, 5, 1)) = '08' ORDER BY seq LIMIT 1")]
        self.a.claw("devices", "rename", self.id(self.a), "another name")
        with contextlib.closing(self.hub.database()) as db, db:
            db.execute("ATTACH ? AS first", (str(first / "hub.db"),))
            for t in ("log", "chunk", "device"):
                db.execute(f"DELETE FROM {t}")
                db.execute(f"INSERT INTO {t} SELECT * FROM first.{t}")
            db.execute("UPDATE workspace SET (log_id, refilled, number, log_hash) ="
                       " (SELECT log_id, refilled, number, log_hash FROM first.workspace)")
            db.execute("UPDATE entry SET entry = ? WHERE seq = (SELECT max(seq) FROM entry)", (old,))
        self.caught(("MEMBER_FORK", "MEMBER_FORGED"))


if __name__ == "__main__":
    claw.main()
