#!/usr/bin/env bash
# clang-tidy and cppcheck over src/, with the compile commands of a build folder:  tidy.sh BUILD_DIR
set -euo pipefail
build=$(realpath "$1")
cd "$(dirname "$0")/../.."
mapfile -t files < <(git ls-files 'src/*.c')
if ! clang-tidy --version | grep -q 'version 14\.'; then
  echo "skipped: no clang-tidy 14 here, for which the checks are chosen"
  exit 77
fi
# one file a run, and one command a file: with several, clang-tidy 14 takes every va_list for uninitialised
commands=$(mktemp -d)
trap 'rm -rf "$commands"' EXIT
python3 - "$build" "$commands" <<'EOF'
import json, sys
build, out = sys.argv[1:]
with open(f"{build}/compile_commands.json") as f:
    first = {entry["file"]: entry for entry in reversed(json.load(f))}
with open(f"{out}/compile_commands.json", "w") as f:
    json.dump(list(first.values()), f)
EOF
printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -n 1 clang-tidy --quiet -p "$commands" --warnings-as-errors='*' 2>/dev/null
cppcheck --quiet --enable=warning,performance,portability --std=c11 --inline-suppr --error-exitcode=1 -j 2 \
  --suppressions-list=tests/checks/cppcheck.txt -D__x86_64__=1 -Isrc -Iinclude src
