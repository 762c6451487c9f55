#!/usr/bin/env python3
"""The hub on both stores beside what bounds it, in interleaved runs: many small pushes with a group commit and with a commit
for each, bulk pushes and pulls beside plain SQLite and COPY, idle watchers, and cost by rows as a curve (docs/hub-cost.svg).
   hub.py [--quick] [--runs 5] [--only push,bulk,watch,rows]      with CLAW_BUILD_DIR set to a release build"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import records

ROOT = pathlib.Path(__file__).resolve().parents[1]
BENCH = pathlib.Path(os.environ.get("CLAW_BUILD_DIR", ROOT / "build" / "release")) / "bin" / "hub_bench"
POSTGRES = ROOT / "tests" / "fixtures" / "postgres"


class Stores:
    """Fresh stores of both kinds, in one folder; the PostgreSQL server is as durable as any."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cs_hub_bench_", dir="/tmp"))
        self.n, self.pg = 0, pathlib.Path(tempfile.mkdtemp(prefix="cs_hub_bench_pg_", dir="/tmp"))  # its user's own
        self.server("start")

    def server(self, *args):
        subprocess.run([POSTGRES, args[0], self.pg, *args[1:]], check=True, stdin=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, env=os.environ | {"OWNER": str(os.getpid())})

    def close(self):
        self.server("stop", "immediate")
        for folder in (self.folder, self.pg):
            shutil.rmtree(folder, ignore_errors=True)

    def fresh(self, kind):
        self.n += 1
        if kind == "SQLite":
            return self.folder / f"{self.n}.db"
        socket = self.pg / "socket"
        subprocess.run(["createdb", "-h", socket, "-U", "super", "--owner", "hub", f"b{self.n}"], check=True)
        return f"postgresql://hub@/b{self.n}?host={socket}"

    def certificate(self):
        names = [self.folder / "cert.pem", self.folder / "key.pem"]
        if not names[0].exists():
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                            "/CN=hub", "-addext", "subjectAltName=IP:127.0.0.1", "-out", names[0], "-keyout", names[1]], check=True,
                           stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return names

    def run(self, what, kind, *args):
        store = self.fresh(kind)
        try:
            done = subprocess.run([BENCH, what, store, *map(str, args)], check=True, capture_output=True, text=True,
                                  stdin=subprocess.DEVNULL, timeout=3600)
            return json.loads(done.stdout)
        finally:
            if kind == "SQLite":
                for f in self.folder.glob(f"{self.n}.db*"):
                    f.unlink()
            else:
                subprocess.run(["dropdb", "-h", self.pg / "socket", "-U", "super", "--force", f"b{self.n}"], check=True)


def said(name, values, unit, ratios=None, of=""):
    mid = statistics.median(values)
    spread = (max(values) - min(values)) / mid * 100
    ratio = statistics.median(ratios) if ratios else None
    records.figure(name, mid, unit, ratio, of, "hub")
    print(f"| {name} | {mid:,.1f} {unit} | {f'{ratio:.2f} x {of}' if ratios else ''} | {spread:.0f} % |", flush=True)


def cpu_said(name, runs, unit):
    """Whose CPU time it took: the two cores are shared, so this says more than a rate."""
    for at, who in enumerate(("the load generator", "the hub", "the PostgreSQL server")):
        values = [r[at] for r in runs]
        if max(values) > 0:
            said(f"{name}: CPU of {who}", values, unit)


def push(stores, args):
    for kind in ("SQLite", "PostgreSQL"):
        group, single = [], []
        for _ in range(args.runs):
            group.append(stores.run("push", kind, 10000 if args.quick else 50000, 1024))
            single.append(stores.run("push", kind, 1024 if args.quick else 5000, 1)["per_s"])
        name = f"{kind}: one-row batches of 16 devices to 64 workspaces"
        said(name, [g["per_s"] for g in group], "/s", [g["per_s"] / s for g, s in zip(group, single)], "a commit for each")
        cpu_said(name, [(g["client_us"], g["hub_us"], g["server_us"]) for g in group], "us a batch")


def bulk(stores, args):
    mib = 64 if args.quick else 256
    for kind, what in (("SQLite", "blobs"), ("PostgreSQL", "copy")):
        plain, runs = [], []
        for _ in range(args.runs):
            plain.append(stores.run(what, kind, mib))
            runs.append(stores.run("bulk", kind, mib))
        put, got = [r["push_mb_s"] for r in runs], [max(r["pull_mb_s"]) for r in runs]
        said(f"{kind}: bulk push, chunks of 64 KiB", put, "MB/s", [x / y["mb_s"] for x, y in zip(put, plain)],
             "COPY" if what == "copy" else "plain inserts of the same blobs")
        cpu_said(f"{kind}: bulk push", [r["push_cpu_ms_mb"] for r in runs], "ms a MB")
        said(f"{kind}: pull of the same", got, "MB/s", [x / y["read_mb_s"] for x, y in zip(got, plain)],
             "COPY" if what == "copy" else "plain reads of the same blobs")
        cpu_said(f"{kind}: pull", [r["pull_cpu_ms_mb"] for r in runs], "ms a MB")
        if what == "copy":
            cpu_said("COPY in", [p["push_cpu_ms_mb"] for p in plain], "ms a MB")
            cpu_said("COPY out", [p["pull_cpu_ms_mb"] for p in plain], "ms a MB")


def watch(stores, args):
    n = 1000 if args.quick else 10000
    for kind in ("SQLite", "PostgreSQL"):
        runs = [stores.run("watch", kind, n) for _ in range(1 if args.quick else args.runs)]
        said(f"{kind}: each of {n:,} idle watchers", [r["kib_each"] for r in runs], "KiB")
        said(f"{kind}: a push reaches its 64 watchers, median", [r["p50_ms"] for r in runs], "ms")
    said(f"each of {n:,} idle watchers over TLS", [stores.run("watch", "SQLite", n, *stores.certificate())["kib_each"]], "KiB")


OTHERS = 200  # workspaces beside
COLORS = {"SQLite": "#1f6feb", "PostgreSQL": "#c2410c"}


def plot(points, path):
    """Seconds by rows, both axes logarithmic; dashed: beside other workspaces."""
    import math
    xs = [p[2] for p in points]
    ys = [p[3] for p in points]
    left, top, width, height = 70, 20, 560, 360
    x0, x1 = math.log10(min(xs)), math.log10(max(xs))
    y0, y1 = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def at(n, s):
        return (left + (math.log10(n) - x0) / (x1 - x0) * width, top + height - (math.log10(s) - y0) / (y1 - y0) * height)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {top + height + 90}" font-family="sans-serif" '
           'font-size="13">', f'<rect width="100%" height="100%" fill="#fff"/>']
    for e in range(round(x0), round(x1) + 1):
        x, _ = at(10 ** e, 10 ** y0)
        out += [f'<path d="M{x:.1f} {top}V{top + height}" stroke="#ddd"/>',
                f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">10<tspan dy="-5" font-size="9">{e}</tspan></text>']
    for e in range(y0, y1 + 1):
        _, y = at(10 ** x0, 10 ** e)
        out += [f'<path d="M{left} {y:.1f}H{left + width}" stroke="#ddd"/>',
                f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0 ** e:g} s</text>']
    out.append(f'<text x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">rows of one workspace\'s log</text>')
    legend = top + height + 64
    for i, (kind, what, others) in enumerate(sorted({(p[0], p[1], p[4]) for p in points})):
        line = [at(p[2], p[3]) for p in points if (p[0], p[1], p[4]) == (kind, what, others)]
        style = f'stroke="{COLORS[kind]}" fill="none" stroke-width="{2 if what == "written" else 1}"' + \
                (' stroke-dasharray="5 4"' if others else "")
        out.append(f'<path d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in line)}" {style}><title>{kind}, {what}, beside {others} '
                   'workspaces</title></path>')
    for i, kind in enumerate(COLORS):
        out.append(f'<text x="{left + i * 80}" y="{legend}" fill="{COLORS[kind]}">{kind}</text>')
    out.append(f'<text x="{left + 180}" y="{legend}">thick: written, thin: read, dashed: beside {OTHERS} workspaces</text></svg>')
    path.write_text("\n".join(out) + "\n")


def rows(stores, args):
    points = []
    for kind in ("SQLite", "PostgreSQL"):
        for others in (0, OTHERS):
            for n in [10 ** e for e in range(3, 1 + (5 if args.quick else args.most))]:
                runs = [stores.run("rows", kind, n, others) for _ in range(3 if n <= 10000 else 1)]
                for what, key in (("written", "put_s"), ("read", "get_s")):
                    points.append((kind, what, n, statistics.median(r[key] for r in runs), others))
            for what in ("written", "read"):
                line = [(p[2], p[3]) for p in points if p[:2] == (kind, what) and p[4] == others]
                (n0, s0), (n1, s1) = line[-2], line[-1]
                said(f"{kind}: {n1:,} rows {what}, beside {others:,} workspaces", [s1 / n1 * 1e6], "us a row", [s1 / n1 / (s0 / n0)],
                     f"the cost of one of {n0:,}")
    plot(points, ROOT / "docs" / "hub-cost.svg")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--quick", action="store_true")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--most", type=int, default=6, help="the curve goes up to 10^MOST rows")
    p.add_argument("--only", default="push,bulk,watch,rows")
    args = p.parse_args()
    if shutil.which("createdb") is None:
        print("skipped: no PostgreSQL here (scripts/install-deps --all)")
        return 77
    stores = Stores()
    print("| hub | median | ratio, run by run | spread |\n|---|---|---|---|", flush=True)
    try:
        for part in args.only.split(","):
            {"push": push, "bulk": bulk, "watch": watch, "rows": rows}[part](stores, args)
    finally:
        stores.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
