"""Measurements as lines of JSON in the file $CLAW_BENCH_RECORDS, for bench/report.py; without it they are only printed."""
import json
import os


def _append(line):
    path = os.environ.get("CLAW_BENCH_RECORDS")
    if path:
        with open(path, "a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")


def timed(group, name, reference, n, ours, theirs):
    """Seconds that n things took, run by run, beside a reference in the same run."""
    _append({"group": group, "name": name, "reference": reference, "n": n, "ours": ours, "theirs": theirs})


def figure(name, number, unit, ratio=None, reference="", group="values"):
    """One figure, not printed; ratio: to what the reference names."""
    _append({"group": group, "name": name, "value": number, "unit": unit, "ratio": ratio, "reference": reference})


def value(name, number, unit, ratio=None, reference=""):
    """One figure, and a line of a table that shows it."""
    figure(name, number, unit, ratio, reference)
    shown = f" | {ratio:.2f} x {reference}" if ratio is not None else f" | {reference}"
    print(f"| {name} | {number:,.4g} {unit}{shown} |", flush=True)
