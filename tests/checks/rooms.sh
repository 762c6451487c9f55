#!/usr/bin/env bash
# The rooms of src/ use only those above them, and only src/base touches the outside world. Prints what breaks the rule.
set -euo pipefail
cd "$(dirname "$0")/../.."
bad=0

order=(base crypto crdt delta replica queue audit identity rpc engine hub cli)
allowed() { # room used: may room include used/…?
  local room=$1 used=$2
  { [ "$room" = "$used" ] || [ "$used" = clawsync ]; } && return 0
  [ "$room:$used" = hub:grpc ] && return 0 # of proto/, as clawsync
  case $room:$used in
    rpc:base) return 0 ;;
    rpc:*) return 1 ;;
    hub:base | hub:crypto | hub:identity | hub:rpc) return 0 ;;
    hub:*) return 1 ;;
    cli:hub) return 1 ;;
    crdt:base) return 0 ;;
    crdt:*) return 1 ;;
  esac
  for r in "${order[@]}"; do
    [ "$r" = "$room" ] && return 1
    [ "$r" = "$used" ] && return 0
  done
  return 1
}

for room in "${order[@]}"; do
  [ -d "src/$room" ] || continue
  while IFS=: read -r file line text; do
    used=${text#*\"}
    used=${used%%/*}
    if ! allowed "$room" "$used"; then
      echo "$file:$line: $room may not use $used: $text"
      bad=1
    fi
  done < <(grep -rnE '^#include "[a-z]+/' "src/$room" || true)
  if grep -rnE '^#include "[^/"]+"' "src/$room"; then
    echo "$room: includes are written \"room/file.h\""
    bad=1
  fi
done

# Functions that reach outside, as calls; methods of a table (ops->open) and names ending in them are others.
outside='time|gettimeofday|clock_gettime|rand|random|srand|getrandom|getentropy|open|openat|creat|fopen|socket|connect|bind|accept|randombytes_buf|randombytes|uv_[a-z_]+'
if grep -rnE "(^|[^A-Za-z0-9_>.])($outside)\(" src --include='*.c' --include='*.h' | grep -v '^src/base/' |
  grep -vE '^[^:]+:[0-9]+: *(/?\*|//)' | grep -vE '/\*[^*]*\b('"$outside"')\(' ; then
  echo "only src/base may call these"
  bad=1
fi

# Nothing in the tree may name a machine's paths.
if git grep -nE '(/work/|/home/[a-z]|\.\./shared)' -- . ':!.ci' ':!tests/checks/rooms.sh'; then
  echo "paths of a machine"
  bad=1
fi
exit $bad
