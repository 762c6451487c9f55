#!/bin/sh
# Runs a program of this folder by node, with the packages that it imports. What npm fetched stays in the build folder,
# never in the source tree; several tests share it. usage: run.sh BUILD_DIR PROGRAM [ARGUMENT …]
set -eu
build=$(cd "${1:?usage: run.sh BUILD_DIR PROGRAM [ARGUMENT ...]}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
work=$build/interop
program=$2
shift 2
mkdir -p "$work"
exec 9>"$work/lock"
flock 9
for file in "$here"/*.mjs; do
  cmp -s "$file" "$work/${file##*/}" || cp "$file" "$work/"
done
if ! cmp -s "$here/package.json" "$work/installed.json"; then
  cp "$here/package.json" "$work/package.json"
  (cd "$work" && npm install --no-audit --no-fund --no-package-lock --loglevel=error >&2)
  cp "$work/package.json" "$work/installed.json"
fi
exec 9>&-
exec node "$work/$program" "$@"
