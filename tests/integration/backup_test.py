"""Backup and restore of both stores, by the very commands that docs/operations.md gives; the devices notice, and a refill mends it."""
import re
import signal

import postgres_test
from claw import *

RECIPES = {name: text for name, text in re.findall(r"```sh\n# (.+?)\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.S)}


class Restored(ClawTest):
    def setUp(self):
        super().setUp()
        self.backup = self.folder / "backup"
        self.backup.mkdir()

    def run_recipe(self, name, **env):
        subprocess.run(["sh", "-e", "-c", RECIPES[name]], check=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, cwd=self.folder,
                       env=clean_env() | {"DATA": str(self.hub.folder / "data"), "BACKUP": str(self.backup)} | env)

    def backed_up_and_restored(self, store, lose, **env):
        """A backup while devices write, more after it, the loss of everything, the restored hub, and what the devices make of it."""
        a, b = self.workspace_of(2)
        a.sql("INSERT INTO memories(id, content) VALUES ('early', 'x');")
        self.settle([a, b])
        b.start()
        b.sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)"
              " INSERT INTO memories(id, content) SELECT 'm' || i, hex(randomblob(500)) FROM n;")
        key = (self.hub.folder / "data" / "hub.key").read_bytes()
        self.run_recipe(f"{store}: backup, while the hub runs", **env)
        a.sql("INSERT INTO memories(id, content) VALUES ('late', 'y'); UPDATE memories SET content = 'edited' WHERE id = 'early';")
        a.sync()
        wait_until(lambda: b.value("SELECT content FROM memories WHERE id = 'early'") == "edited", "b has all of it")
        b.stop()
        self.hub.stop(signal.SIGKILL)
        lose()
        self.run_recipe(f"{store}: restore, while no hub runs", **env)
        self.assertEqual((self.hub.folder / "data" / "hub.key").read_bytes(), key)
        self.hub.start()
        for d in (a, b):
            done = d.claw("sync", want=4)
            self.assertIn("HUB_ROLLBACK", done.stderr)
            self.assertIn("claw-sync hub refill", done.stderr)
        a.claw("hub", "refill")
        self.settle([a, b])
        self.assertEqual(a.value("SELECT count(*) FROM memories"), 302)
        self.assertEqual(b.value("SELECT content FROM memories WHERE id = 'early'"), "edited")
        c = self.device("c")
        self.join(b, c)
        self.settle([a, b, c])

    def empty_data(self):
        shutil.rmtree(self.hub.folder / "data")
        (self.hub.folder / "data").mkdir(mode=0o700)

    def test_sqlite(self):
        self.start_hub()
        self.backed_up_and_restored("SQLite", self.empty_data)
        for f in ("hub.db", "hub.key"):
            self.assertEqual((self.backup / f).stat().st_mode & 0o077, 0, f)

    def test_postgres(self):
        postgres = postgres_test.Postgres()
        self.addCleanup(postgres.close)
        postgres.sql("CREATE ROLE claw_hub LOGIN")
        postgres.sql("CREATE DATABASE claw OWNER claw_hub")
        self.start_hub(CLAW_SYNC_HUB_DATABASE_URL=f"postgresql://claw_hub@/claw?host={postgres.folder}/socket")

        def lose():
            self.empty_data()
            postgres.sql("DROP DATABASE claw")
        self.backed_up_and_restored("PostgreSQL", lose, PGHOST=f"{postgres.folder}/socket", PGUSER="super")
        self.assertEqual((self.backup / "hub.dump").stat().st_mode & 0o077, 0)
        # nobody but a superuser makes a backup without rows: whoever tries is told
        refused = subprocess.run(["pg_dump", "--schema=claw_sync", "--file=/dev/null", "claw"], capture_output=True, text=True,
                                 env=clean_env() | {"PGHOST": f"{postgres.folder}/socket", "PGUSER": "claw_hub"})
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("row-level security", refused.stderr)


if __name__ == "__main__":
    main()
