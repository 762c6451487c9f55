#!/usr/bin/env bash
# clang-format of the version that .clang-format was written for (14, Debian 12); others lay out some lines differently.
set -euo pipefail
cd "$(dirname "$0")/../.."
tool=$(command -v clang-format-14 || command -v clang-format || true)
if [ -z "$tool" ] || ! "$tool" --version | grep -q 'version 14\.'; then
  echo "skipped: no clang-format 14 here"
  exit 77
fi
git ls-files '*.c' '*.h' | xargs "$tool" --dry-run -Werror
