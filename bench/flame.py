#!/usr/bin/env python3
"""A flame graph, as SVG, of one of bench/hot_paths' paths: what its instructions are spent on, by who called whom.

    bench/flame.py PATH OUT.svg [--build DIR] [--rows 2000]      PATH: capture-inserts, send, receive …
    bench/flame.py --profile CALLGRIND_FILE OUT.svg

callgrind knows what each caller spent in each callee, not whole stacks: where a function has several callers, what it calls is
shared out among them by what they spent in it. Functions without a name are SQLite's or zstd's own, stripped by the distribution. Orange is ours, blue SQLite's."""
import argparse
import collections
import html
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH, ROW, LEAST, DEEPEST = 1180, 17, 0.004, 40


def profile(build, path, rows, out):
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=counted", f"--callgrind-out-file={out}",
                               f"{build}/bin/hot_paths", path, str(rows)], capture_output=True, text=True, env={**os.environ, "TMPDIR": scratch})
    if done.returncode != 0:
        sys.exit(f"flame: callgrind exited with {done.returncode}\n{done.stderr[-2000:]}")


def read(path):
    """Own instructions of each function, and what each spent in each that it calls."""
    own, spent = collections.Counter(), collections.defaultdict(collections.Counter)
    names, objects, owner = {}, {}, {}
    obj = cobj = fn = cfn = None
    called = False

    def name(text, table):
        number, _, rest = text.partition(" ")
        if rest:
            table[number] = rest
        return table[number]

    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            line = line.rstrip("\n")
            if m := re.match(r"(c?)(ob|fn|fi|fe|fl)=(.*)", line):
                if m[2] == "ob":
                    if m[1]:
                        cobj = name(m[3], objects)
                    else:
                        obj = cobj = name(m[3], objects)
                elif m[2] == "fn":
                    plain = re.sub(r"'\d+$", "", name(m[3], names)) # recursion
                    file = os.path.basename(cobj if m[1] else obj).split(".")[0]
                    if plain.startswith("0x"):
                        plain = f"{file} {plain}"
                    owner[plain] = file
                    if m[1]:
                        cfn = plain
                    else:
                        fn = plain
            elif line.startswith("calls="):
                called = True
            elif re.match(r"[+\-*\d]", line):
                cost = int(line.split()[1])
                if called:
                    if cfn != fn:
                        spent[fn][cfn] += cost
                    called, cobj = False, obj
                else:
                    own[fn] += cost
    return own, spent, owner


def draw(own, spent, owner, root, title, per):
    total = own[root] + sum(spent[root].values())
    boxes = []

    def place(fn, cost, x, depth, above):
        boxes.append((fn, cost, x, depth))
        inside = own[fn] + sum(spent[fn].values())
        for callee, c in sorted(spent[fn].items(), key=lambda kv: (-kv[1], kv[0])):
            share = c * cost / inside
            if share >= LEAST * total and depth < DEEPEST and callee not in above:
                place(callee, share, x, depth + 1, above | {callee})
                x += share

    place(root, total, 0, 0, {root})
    depth = max(b[3] for b in boxes)
    height = ROW * (depth + 1) + 34
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">',
           f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', f'<text x="6" y="15" font-size="13">{html.escape(title)}</text>']
    for fn, cost, x, d in boxes:
        left, width, y = x / total * WIDTH, cost / total * WIDTH, height - 6 - ROW * (d + 1)
        colour = {"hot_paths": "#f0b070", "libsqlite3": "#a8c8e8"}.get(owner[fn], "#d8d8d8")
        label = html.escape(fn.split(" ")[0][: max(0, int(width / 6.8) - 1)])
        out.append(f'<g><title>{html.escape(fn)}: {cost / per:,.0f} a row, {100 * cost / total:.1f} %</title>'
                   f'<rect x="{left:.1f}" y="{y}" width="{max(width - 0.6, 0.4):.1f}" height="{ROW - 1}" fill="{colour}"/>'
                   + (f'<text x="{left + 3:.1f}" y="{y + 12}">{label}</text>' if len(label) > 2 else "") + "</g>")
    return "\n".join(out) + "\n</svg>\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("path")
    p.add_argument("out")
    p.add_argument("--build", default=os.path.join(HERE, "..", "build", "release"))
    p.add_argument("--rows", type=int, default=2000)
    p.add_argument("--profile", action="store_true", help="PATH is a file that callgrind wrote of hot_paths")
    p.add_argument("--title")
    a = p.parse_args()
    file = a.path
    with tempfile.TemporaryDirectory() as scratch:
        if not a.profile:
            file = os.path.join(scratch, "profile")
            profile(a.build, a.path, a.rows, file)
        own, spent, owner = read(file)
    total = own["counted"] + sum(spent["counted"].values())
    with open(a.out, "w", encoding="utf-8") as f:
        f.write(draw(own, spent, owner, "counted", a.title or f"{a.path}: {total / a.rows:,.0f} instructions a row", a.rows))


if __name__ == "__main__":
    main()
