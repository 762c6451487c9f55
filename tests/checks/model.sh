#!/usr/bin/env bash
# The reference model stays small, and shares no code with what it is to judge: of src/crdt it may use types alone.
#   model.sh [CC]
set -euo pipefail
cd "$(dirname "$0")/../.."
cc=${1:-cc} most=250 work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

lines=$(wc -l <tests/crdt/model.c)
if [ "$lines" -gt "$most" ]; then
  echo "tests/crdt/model.c has $lines lines; the reference model may have $most"
  exit 1
fi
"$cc" -std=c17 -O1 -Isrc -Itests/crdt -c tests/crdt/model.c -o "$work/model.o"
for source in src/crdt/*.c; do
  "$cc" -std=c17 -O0 -D_GNU_SOURCE -Isrc -c "$source" -o "$work/$(basename "$source" .c).o"
done
nm -u "$work/model.o" | awk '{ print $NF }' | sort >"$work/used"
rm "$work/model.o"
nm -g --defined-only "$work"/*.o | awk 'NF == 3 { print $3 }' | sort -u >"$work/judged"
if comm -12 "$work/used" "$work/judged" | grep .; then
  echo "tests/crdt/model.c uses functions of src/crdt"
  exit 1
fi
