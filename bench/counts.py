#!/usr/bin/env python3
"""Counts the instructions of the hottest paths under callgrind and compares them with bench/counts.json: they do not depend on
what else the machine does, so a path that got slower is seen.

    bench/counts.py [--build DIR] [--update]     --update: the counts of today are the ones to compare with

Exit code 0: each within 3 %; 1: one is not, in either direction; 77: other compiler or libraries than the counts are of."""
import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
STORED = os.path.join(HERE, "counts.json")
PATHS = ("capture-inserts", "capture-updates", "send", "receive", "receive-again")
ROWS, MARGIN = 2000, 0.03
PACKAGES = ("gcc-12", "libc6", "libsqlite3-0", "libsodium23", "libzstd1", "libprotobuf-c1", "valgrind")


def toolchain():
    out = {}
    for name in PACKAGES:
        done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", name], capture_output=True, text=True)
        # the distribution's fixes of a package do not count as another version
        out[name] = re.split(r"[-+]", done.stdout)[0] if done.returncode == 0 else "none"
    out["machine"] = os.uname().machine
    return out


def count(build, path):
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=counted",
             f"--callgrind-out-file={scratch}/out", f"{build}/bin/hot_paths", path, str(ROWS)],
            capture_output=True, text=True, env={**os.environ, "TMPDIR": scratch})
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None or int(found[1]) == 0:
        sys.exit(f"counts: {path}: callgrind exited with {done.returncode}\n{done.stderr[-2000:]}")
    return round(int(found[1]) / ROWS)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--build", default=os.path.join(HERE, "..", "build", "release"))
    options.add_argument("--update", action="store_true")
    args = options.parse_args()
    here = toolchain()
    stored = {"toolchain": here, "instructions per row": {}}
    if os.path.exists(STORED):
        with open(STORED, encoding="utf-8") as f:
            stored = json.load(f)
    if not args.update and stored["toolchain"] != here:
        differ = [f"{k} {here.get(k)} (counted with {v})" for k, v in stored["toolchain"].items() if here.get(k) != v]
        print("skipped: other tools or libraries than those of bench/counts.json: " + ", ".join(differ))
        return 77
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(zip(PATHS, pool.map(lambda path: count(args.build, path), PATHS)))
    if args.update:
        with open(STORED, "w", encoding="utf-8") as f:
            json.dump({"toolchain": here, "instructions per row": counts}, f, indent=2)
            f.write("\n")
    print(f"| {'instructions per row':<20} | {'now':>7} | {'before':>7} | change |")
    failed = False
    for path, now in counts.items():
        before = stored["instructions per row"].get(path, now)
        change = now / before - 1
        off = abs(change) > MARGIN and not args.update
        failed |= off
        print(f"| {path:<20} | {now:>7} | {before:>7} | {change:+6.1%} |{' !' if off else ''}")
    if failed:
        print("more than 3 % away: find out why; when it is meant, bench/counts.py --update and commit the file")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
