#!/usr/bin/env python3
"""What scripts/bench does once the release is built: runs every benchmark, each interleaved with its reference, and makes of
what they recorded a table, JSON, charts, a comparison with the figures of the last release, and the tables of docs/benchmarks.md.

    bench/report.py [--quick] [--keep | --render]
        --quick    fewer rows and runs, no bootstrap of a million rows: a few minutes
        --keep     these figures are the ones to compare with from now on (bench/figures.json), and docs/benchmarks.md shows them
        --render   measures nothing: docs/benchmarks.md anew from bench/figures.json

Results: build/release/bench/{figures.json,records.jsonl,GROUP.svg}"""
import argparse
import datetime
import html
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "release"
OUT = BUILD / "bench"
KEPT = ROOT / "bench" / "figures.json"
DOC = ROOT / "docs" / "benchmarks.md"
MARKS = "<!-- figures: written by bench/report.py -->\n", "<!-- end of figures -->\n"
GROUPS = {"capture": "Capture, in the application's own write path", "sync": "Out of a replica and into another",
          "audit": "The audit log", "reconcile": "Comparing whole replicas",
          "merge": "Merging and deciding, in memory",
          "stages": "A batch by stage, beside the libraries that do the work",
          "end to end": "End to end over loopback, every commit durable",
          "hub": "The hub, on both stores; loopback, every commit durable"}


def benchmarks(quick):
    rows, runs = (20000, 5) if quick else (100000, 5)
    binaries = str(BUILD / "bin")
    bench = lambda name, *args: [sys.executable, "-B", str(ROOT / "bench" / name), *map(str, args)]
    return [
        [f"{binaries}/replica_bench", str(rows), str(runs)],
        [f"{binaries}/capture_bench", "5000" if quick else "20000", str(runs)],
        [f"{binaries}/stages_bench", str(runs)],
        [f"{binaries}/crdt_bench", str(runs)],
        [f"{binaries}/audit_bench", "5000" if quick else "100000"],
        bench("counts.py"),
        bench("e2e.py", "--rows", rows, "--runs", runs, "--samples", 200 if quick else 1000, "--rest", 10 if quick else 30,
              "--bootstrap", rows if quick else 1000000),
        bench("reconcile.py", "--rows", rows if quick else 1000000),
        bench("hub.py", "--runs", runs, "--only", "push,bulk,watch", *(["--quick"] if quick else [])),
    ]


def machine():
    cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', pathlib.Path("/etc/os-release").read_text(), re.M))
    sqlite = subprocess.run(["sqlite3", "-version"], capture_output=True, text=True).stdout.split(" ")[0]
    return {"cpu": cpu[1] if cpu else os.uname().machine, "cores": os.cpu_count(), "system": release.get("PRETTY_NAME", "unknown"),
            "kernel": os.uname().release, "sqlite": sqlite, "load": round(os.getloadavg()[2], 1)}


def commit():
    done = subprocess.run(["git", "-C", str(ROOT), "describe", "--tags", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def run(quick):
    records = OUT / "records.jsonl"
    OUT.mkdir(parents=True, exist_ok=True)
    records.unlink(missing_ok=True)
    records.touch()
    env = {**os.environ, "CLAW_BENCH_RECORDS": str(records), "CLAW_BUILD_DIR": str(BUILD)}
    failed = []
    for command in benchmarks(quick):
        print(f"\n== {' '.join(os.path.basename(c) if '/' in c else c for c in command)}", flush=True)
        code = subprocess.run(command, env=env).returncode
        if code not in (0, 77):
            failed.append(command)
            print(f"exit code {code}", flush=True)
    return [json.loads(line) for line in records.read_text().splitlines()], failed


def figure(r):
    """Median, spread and ratio of one record; the ratio is taken run by run."""
    if "value" in r:
        return {k: r[k] for k in ("value", "unit", "ratio", "reference")}
    ours, theirs = statistics.median(r["ours"]), statistics.median(r["theirs"])
    ratios = [a / b for a, b in zip(r["ours"], r["theirs"])]
    return {"n": r["n"], "seconds": ours, "spread": (max(r["ours"]) - min(r["ours"])) / ours, "reference": r["reference"],
            "reference seconds": theirs, "ratio": statistics.median(ratios), "ratio spread": (max(ratios) - min(ratios)) / statistics.median(ratios),
            "runs": len(ratios)}


def figures(records, quick):
    out = {"made": datetime.date.today().isoformat(), "commit": commit(), "quick": quick, "machine": machine(), "groups": {}}
    for r in records:
        out["groups"].setdefault(r["group"], {})[r["name"]] = figure(r)
    return out


def rate(f, seconds):
    if f["n"] > 1:
        return f"{f['n'] / seconds:,.0f} /s"
    return f"{seconds * 1000:.3g} ms"


def table(group, of):
    lines = []
    if "value" in next(iter(of.values())):
        lines += ["| | | ratio |", "|---|---|---|"]
        for name, f in of.items():
            ratio = f"{f['ratio']:.2f} × {f['reference']}" if f["ratio"] is not None else f["reference"]
            lines.append(f"| {name} | {f['value']:,.3g} {f['unit']} | {ratio} |" if f["value"] < 1000 else
                         f"| {name} | {f['value']:,.0f} {f['unit']} | {ratio} |")
        return lines
    lines += ["| | median | spread | reference | its median | time, × reference | spread |", "|---|---|---|---|---|---|---|"]
    for name, f in of.items():
        spread = lambda s: f"{100 * s:.0f} %" if f["runs"] > 1 else "one run"
        lines.append(f"| {name} | {rate(f, f['seconds'])} | {spread(f['spread'])} | {f['reference']} | {rate(f, f['reference seconds'])} | "
                     f"{f['ratio']:.2f} | {spread(f['ratio spread'])} |")
    return lines


def compare(now, kept):
    """Ratios against those kept; only of runs of one kind: a quick one has fewer rows."""
    if kept is None:
        return ["no figures to compare with: --keep keeps these"]
    if kept["quick"] != now["quick"]:
        return [f"not compared: the kept figures are of a {'quick' if kept['quick'] else 'full'} run"]
    lines = [f"| ratio | now | {kept['commit']}, {kept['made']} | change |", "|---|---|---|---|"]
    for group, of in now["groups"].items():
        for name, f in of.items():
            before = kept["groups"].get(group, {}).get(name)
            if f["ratio"] and before and before["ratio"]:
                lines.append(f"| {name} | {f['ratio']:.2f} | {before['ratio']:.2f} | {100 * (f['ratio'] / before['ratio'] - 1):+.0f} % |")
    return lines


def chart(title, bars):
    """Bars of ratios on a logarithmic axis, the reference (1) as a line."""
    width, left, bar, top = 860, 400, 22, 40
    low = min(0.5, *(v for _, v in bars)) / 1.1
    high = max(2.0, *(v for _, v in bars)) * 1.1
    x = lambda v: left + (width - left - 70) * math.log(v / low) / math.log(high / low)
    height = top + bar * len(bars) + 12
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="#fff"/>',
           f'<text x="10" y="18" font-size="14">{html.escape(title)}: time, as a multiple of the reference</text>']
    for i, (name, v) in enumerate(bars):
        y = top + i * bar
        a, b = sorted((x(1), x(v)))
        out.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{html.escape(name)}</text>')
        out.append(f'<rect x="{a:.1f}" y="{y}" width="{max(b - a, 1):.1f}" height="{bar - 6}" fill="{"#c0563b" if v > 1 else "#3b8c5a"}"/>')
        out.append(f'<text x="{b + 5:.1f}" y="{y + 12}">{v:.2f}</text>')
    out.append(f'<line x1="{x(1):.1f}" x2="{x(1):.1f}" y1="{top - 6}" y2="{height - 8}" stroke="#333"/></svg>')
    return "\n".join(out) + "\n"


def draw(now, folder):
    for group, of in now["groups"].items():
        bars = [(name, f["ratio"]) for name, f in of.items() if f["ratio"]]
        if bars:
            (folder / f"{group.replace(' ', '-')}.svg").write_text(chart(GROUPS.get(group, "Other figures"), bars), encoding="utf-8")


def render(now):
    m = now["machine"]
    lines = [f"Measured {now['made']} at `{now['commit']}`{' (`--quick`)' if now['quick'] else ''}: {m['cpu']}, {m['cores']} cores, {m['system']}, "
             f"Linux {m['kernel']}, SQLite {m['sqlite']}; load of the machine afterwards {m['load']}.", ""]
    for group, of in now["groups"].items():
        lines += [f"**{GROUPS.get(group, 'Single figures')}**", "", *table(group, of), ""]
    return "\n".join(lines)


def write_doc(now):
    text = DOC.read_text(encoding="utf-8")
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    DOC.write_text(text[:begin] + "\n" + render(now) + text[end:], encoding="utf-8")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true")
    only = p.add_mutually_exclusive_group()
    only.add_argument("--keep", action="store_true")
    only.add_argument("--render", action="store_true")
    args = p.parse_args()
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else None
    if args.render:
        write_doc(kept)
        return 0
    records, failed = run(args.quick)
    now = figures(records, args.quick)
    (OUT / "figures.json").write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    draw(now, OUT)
    print("\n" + render(now))
    print("\n".join(compare(now, kept)))
    print(f"\nfigures and charts: {OUT.relative_to(ROOT)}/")
    if args.keep and not failed:
        KEPT.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        write_doc(now)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
