"""Tables that are tracked, untracked and paused while two devices write the same few rows: what comes of it is the same on
both, once all of it is tracked again.

  tests/integration/track_test.py [--from SEED] [--seeds N]      from 1 on, 6 of them"""
import argparse, json, random, sys

import claw

SCHEMA = """CREATE TABLE p(id TEXT PRIMARY KEY NOT NULL, v INT, w TEXT);
CREATE TABLE n(id TEXT PRIMARY KEY NOT NULL, t TEXT, u INT UNIQUE, p TEXT REFERENCES p(id), q TEXT DEFAULT 'd');
CREATE TABLE m(id TEXT PRIMARY KEY NOT NULL);"""  # m: the last table that is tracked takes all of ours with it
TABLES = ("p", "n")
options = argparse.Namespace(first=1, seeds=6)


class Track(claw.ClawTest):
    def edit(self, rnd, device):
        i, number = rnd.randint(1, 8), rnd.randint(1, 99)
        device.sql(rnd.choice([
            f"INSERT OR IGNORE INTO p VALUES('{i}', {number}, '{device.data.parent.name}');",
            f"UPDATE p SET v = {number} WHERE id = '{i}';",
            f"UPDATE p SET w = 'w{number}' WHERE id = '{i}';",
            f"DELETE FROM p WHERE id = '{i}' AND NOT EXISTS(SELECT 1 FROM n WHERE n.p = p.id);",
            f"INSERT OR IGNORE INTO n(id, t, u, p) SELECT '{i}', 't{number}', {number % 20}, (SELECT id FROM p WHERE id >= '{i}' LIMIT 1);",
            f"UPDATE n SET t = 't{number}' WHERE id = '{i}';",
            f"UPDATE OR IGNORE n SET u = {number % 20} WHERE id = '{i}';",
            f"UPDATE n SET q = 'q{number}' WHERE id = '{i}';",
            f"DELETE FROM n WHERE id = '{i}';"]))

    def step(self, rnd, device, tracked):
        table, what = rnd.choice(TABLES), rnd.random()
        is_tracked = tracked[device, table]
        if what < 0.12:
            device.claw("untrack" if is_tracked else "track", table)
            tracked[device, table] = not is_tracked
        elif what < 0.3:
            device.sync()
        elif what < 0.36 and is_tracked:
            device.claw("pause", table)
            self.edit(rnd, device)
            device.claw("resume", table)
        else:
            for _ in range(rnd.randint(1, 4)):
                self.edit(rnd, device)

    def one(self, seed):
        rnd = random.Random(seed)
        self.workspace = f"{seed:08d}-6a0e-4c55-9f43-2b8c4b1e0a11"
        a, b = self.device(f"a{seed}", schema=SCHEMA), self.device(f"b{seed}", schema=SCHEMA)
        a.sync()
        self.join(a, b)
        for d in (a, b):
            for table in (*TABLES, "m"):
                d.claw("track", table)
        tracked = {(d, t): True for d in (a, b) for t in TABLES}
        for _ in range(40):
            self.step(rnd, rnd.choice((a, b)), tracked)
        for (d, table), is_tracked in tracked.items():
            if not is_tracked:
                d.claw("track", table)
        for _ in range(4):
            a.sync(), b.sync()
        for table in TABLES:
            self.assertEqual(a.query(f"SELECT * FROM {table} ORDER BY id"), b.query(f"SELECT * FROM {table} ORDER BY id"), table)
        for d in (a, b):
            self.assertEqual(json.loads(d.claw("status", "--json").stdout)["state"], "in-sync")
        b.claw("prove", want=None)
        self.assertEqual(json.loads(a.claw("prove", "--json").stdout)["equal"], 1)

    def test_random_ones(self):
        self.start_hub()
        for seed in range(options.first, options.first + options.seeds):
            with self.subTest(seed=seed):
                self.one(seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--from", type=int, default=options.first, dest="first")
    parser.add_argument("--seeds", type=int, default=options.seeds)
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    claw.main()
