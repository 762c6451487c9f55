"""A keystore under a passphrase, with the real program."""

import json
import os
import pty
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
        self.assertIn("wrong passphrase", self.with_fd("nonsense\n", "sync", want=1).stderr)
        self.one_line(self.with_fd("", "sync", want=2), "first line is empty")
        self.one_line(self.d.claw("sync", "--keystore-passphrase-fd", "x", want=2), "--keystore-passphrase-fd")
        self.one_line(self.d.claw("sync", "--keystore-passphrase-fd", "999", want=2), "cannot be read")
        right = "correct horse battery staple\n"
        self.with_fd(right, "sync")
        self.assertEqual(self.keystore()[5], 1)
        self.with_fd(right, "keys", "passphrase", "--passphrase-file", str(self.new))
        self.with_fd(right, "sync", want=1)
        self.with_fd("a better one\nand more", "invite")
        self.with_fd("a better one\n", "keys", "passphrase", "--remove")
        self.assertEqual(self.keystore()[5], 0)
        self.d.sync()

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
        for text, want in (("correct horse battery staple\n", 0), ("wrong\n", 1)):
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


if __name__ == "__main__":
    claw.main()
