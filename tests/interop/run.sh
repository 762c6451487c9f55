#!/bin/sh
# Runs the interop smoke test on the programs of a build folder. usage: run.sh BUILD_DIR
set -eu
build=$(cd "${1:?usage: run.sh BUILD_DIR}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
work=$build/interop
mkdir -p "$work"
cp "$here/package.json" "$here/smoke.mjs" "$work/"
# What npm fetched stays in the build folder, never in the source tree.
(cd "$work" && npm install --no-audit --no-fund --no-package-lock --loglevel=error)
exec node "$work/smoke.mjs" "$build/bin/claw-sync-server" "$here/../../proto"
