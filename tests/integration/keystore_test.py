"""A keystore under a passphrase, with the real program."""

import json
import os
import pty
import resource
import signal
import subprocess

import claw


class KeystoreTest(claw.ClawTest):
    def setUp(self):
        super().setUp()
        self.start_hub()
        self.d = self.device("d")
        self.new = self.folder / "new"
        self.new.write_text("a better one\n")

    def with_fd(self, text, *args, want=0):
        """The passphrase on a descriptor of its own."""
        r, w = os.pipe()
        os.write(w, text.encode())
        os.close(w)
        try:
            done = subprocess.run([claw.CLIENT, *args, "--keystore-passphrase-fd", str(r)], env=self.d.env(), text=True,
                                  capture_output=True, pass_fds=(r,), stdin=subprocess.DEVNULL, timeout=claw.PATIENCE * 2)
        finally:
            os.close(r)
        self.assertEqual(done.returncode, want, done.stderr)
        return done

    def keystore(self):
        return (self.d.data / "identity" / "keystore").read_bytes()

    def one_line(self, done, words):
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertIn(words, done.stderr)

    def test_set_use_change_and_remove(self):
        self.d.sync()
        self.d.claw("keys", "passphrase", "--passphrase-file", self.passphrase)
        self.assertEqual(self.keystore()[5], 1)  # Argon2id
        self.one_line(self.d.claw("sync", want=2), "--keystore-passphrase-fd")
        self.assertIn("wrong passphrase", self.with_fd("nonsense\n", "sync", want=2).stderr)
        for command in (("push",), ("devices",), ("invite",), ("audit", "verify"), ("reconcile",), ("keys", "rotate")):
            self.one_line(self.with_fd("nonsense\n", *command, want=2), "wrong passphrase")
        s = json.loads(self.with_fd("nonsense\n", "status", "--json").stdout)
        self.assertEqual(len(s["needs_you"]), 1)
        self.assertIn("wrong passphrase", s["needs_you"][0]["reason"])
        self.assertIn("give the passphrase", s["needs_you"][0]["do"])
        self.one_line(self.with_fd("", "sync", want=2), "first line is empty")
        self.one_line(self.d.claw("sync", "--keystore-passphrase-fd", "x", want=2), "--keystore-passphrase-fd")
        self.one_line(self.d.claw("sync", "--keystore-passphrase-fd", "999", want=2), "cannot be read")
        right = "correct horse battery staple\n"
        self.with_fd(right, "sync")
        self.assertEqual(self.keystore()[5], 1)
        self.with_fd(right, "keys", "passphrase", "--passphrase-file", str(self.new))
        self.with_fd(right, "sync", want=2)
        self.with_fd("a better one\nand more", "invite")
        self.with_fd("a better one\n", "keys", "passphrase", "--remove")
        self.assertEqual(self.keystore()[5], 0)
        self.d.sync()

    def test_a_damaged_one_is_not_about_passphrases(self):
        self.d.sync()
        damaged = bytearray(self.keystore())
        damaged[-1] ^= 1
        (self.d.data / "identity" / "keystore").write_bytes(damaged)
        self.one_line(self.d.claw("sync", want=1), "the key file is damaged")
        self.assertNotIn("passphrase", self.d.claw("sync", want=1).stderr)

    def test_new_keystore_under_the_credential_of_systemd(self):
        credentials = self.folder / "credentials"
        credentials.mkdir()
        (credentials / "claw-sync.passphrase").write_text("from systemd")
        self.d.claw("sync", CREDENTIALS_DIRECTORY=credentials)
        self.assertEqual(self.keystore()[5], 1)
        self.d.claw("sync", want=2)
        self.d.claw("sync", CREDENTIALS_DIRECTORY=credentials)
        self.with_fd("from systemd\n", "sync")
        self.d.claw("status")  # asks for no key

    def test_prompt(self):
        self.d.sync()
        self.d.claw("keys", "passphrase", "--passphrase-file", self.passphrase)
        for text, want in (("correct horse battery staple\n", 0), ("wrong\n", 2)):
            ours, theirs = pty.openpty()
            child = subprocess.Popen([claw.CLIENT, "sync", "--json"], env=self.d.env(), stdin=theirs,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            os.close(theirs)
            asked = ""
            while "passphrase of the keystore: " not in asked:
                asked += child.stderr.read(1)
            os.write(ours, text.encode())
            out, _ = child.communicate(timeout=claw.PATIENCE)
            os.close(ours)
            self.assertEqual(child.returncode, want, out)
            json.loads(out)

    def test_a_passphrase_is_in_no_file(self):
        self.d.sync()
        self.d.claw("keys", "passphrase", "--passphrase-file", self.passphrase)
        for f in self.d.folder.rglob("*"):
            if f.is_file():
                self.assertNotIn(b"correct horse", f.read_bytes())


class CoreDumps(claw.ClawTest):
    """What a program has in its memory is not written to a disk when it dies."""

    def dies(self, command, ready, **env):
        """Whether it left a core. The limit is as wide as this process may make it."""
        def wide():
            hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
            resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        # a sanitizer would set the limit itself
        for tool in ("ASAN_OPTIONS", "TSAN_OPTIONS"):
            env[tool] = ":".join(x for x in (os.environ.get(tool), "disable_coredump=0") if x)
        child = subprocess.Popen(command, env=claw.clean_env(**env), cwd=self.folder, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=wide)
        said = [""]
        while ready not in said[-1]:
            said.append(child.stdout.readline())
            self.assertTrue(said[-1], said)
        with open(f"/proc/{child.pid}/limits") as limits:
            limit = [x.split()[4] for x in limits if x.startswith("Max core file size")]
        os.kill(child.pid, signal.SIGABRT)
        _, status = os.waitpid(child.pid, 0)
        child.returncode = 0
        child.stdout.close()
        self.assertTrue(os.WIFSIGNALED(status))
        return limit[0], os.WCOREDUMP(status)

    def test_none(self):
        self.start_hub()
        d = self.device("d")
        d.sync()
        client = [claw.CLIENT, "run"], "replicating"
        server = [claw.SERVER, "--listen", "127.0.0.1:0", "--data-dir", self.folder / "other"], "listening"
        for (command, ready), env in ((client, d.env()), (server, {})):
            self.assertEqual(self.dies(command, ready, **{k: v for k, v in env.items() if k.startswith("CLAW_")}),
                             ("0", False))
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        allowed = self.dies(*client, **{k: v for k, v in d.env(CLAW_ALLOW_CORE_DUMPS=1).items() if k.startswith("CLAW_")})
        self.assertEqual(allowed[0], "unlimited" if hard == resource.RLIM_INFINITY else str(hard))


if __name__ == "__main__":
    claw.main()
