#!/usr/bin/env bash
# install_test.sh BUILD_DIR: installs into a folder, moves that, and uses the library from there as its users do: by
# pkg-config, shared and static, and by find_package. Checks that it exports its interface and nothing else.
set -euo pipefail
build=$(realpath "$1")
source=$(realpath "$(dirname "$0")/../..")
work=$(mktemp -d "${TMPDIR:-/tmp}/claw-sync-install.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
cc=${CC:-cc}
strict=(-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Werror)

fail() {
  printf 'install_test: %s\n' "$*" >&2
  exit 1
}

cmake --install "$build" --prefix "$work/first" >install.log || fail "cannot install: $(tail -5 install.log)"
mv first prefix
pc=$(find prefix -name clawsync.pc)
[ -n "$pc" ] || fail "no clawsync.pc was installed"
lib=$(realpath "$(dirname "$pc")/..")
export PKG_CONFIG_PATH=$lib/pkgconfig
for f in clawsync.pc ClawsyncConfig.cmake ClawsyncTargets.cmake; do
  ! grep -nE "$build|$source|$work" "$(find prefix -name "$f")" || fail "$f names a folder of the build"
done

# The interface is what the header declares.
header=prefix/include/clawsync/clawsync.h
sed -E '/^ *\*|\/\*/d' "$header" | tr '\n' ' ' | grep -oE 'CLAWSYNC_API[^;]*;' | grep -oE 'clawsync_[a-z_]+ *\(' |
  tr -d ' (' | grep -v '_fn$' | sort -u >declared
nm -D --defined-only "$lib/libclawsync.so" | awk '{ print $NF }' | sort -u >exported
[ -s declared ] || fail "found no declaration in the header"
diff declared exported >diff || fail "the library does not export what the header declares (<) but (>): $(cat diff)"
readelf -d "$lib/libclawsync.so" | grep 'SONAME.*\[libclawsync\.so\.0\]' >/dev/null || fail "the soname is not libclawsync.so.0"

# The header stands alone, in old C and in C++.
echo '#include <clawsync/clawsync.h>' >header.c
"$cc" -std=c99 "${strict[@]}" -Iprefix/include -fsyntax-only header.c
if command -v c++ >/dev/null; then
  c++ -x c++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -Iprefix/include -fsyntax-only header.c
fi

# Runs a program against a hub that is not there; it opens, begins, and ends when its input does.
sqlite3 memory.db "CREATE TABLE memories(id TEXT PRIMARY KEY NOT NULL, content TEXT);"
run() {
  local out name=${1##*/}
  out=$(env -u CLAW_WORKSPACE_ID "$1" 2>&1 </dev/null) && fail "$name ran without a workspace"
  [[ $out == *"workspace_id (CLAW_WORKSPACE_ID) is required"* ]] || fail "$name without a workspace said: $out"
  out=$(CLAW_WORKSPACE_ID=6f0d8c52-3a53-4c0e-9d5f-0e4a1d1f7b11 CLAW_DB_PATH=memory.db CLAW_DATA_DIR=state \
    CLAW_HUB_ENDPOINT=http://127.0.0.1:1 timeout 60 "$1" 2>&1 </dev/null) || fail "$name said: $out"
  [[ $out == *"replicating"* ]] || fail "$name said: $out"
}

read -ra flags <<<"$(pkg-config --cflags --libs clawsync)"
"$cc" -std=c99 "${strict[@]}" "$source/examples/minimal.c" "${flags[@]}" -Wl,-rpath,"$lib" -o by_pkg_config
ldd by_pkg_config | grep 'libclawsync\.so\.0' >/dev/null || fail "by_pkg_config does not use the shared library"
run ./by_pkg_config

read -ra flags <<<"$(pkg-config --static --cflags --libs clawsync | sed 's/-lclawsync/-l:libclawsync.a/')"
"$cc" -std=c99 "${strict[@]}" "$source/examples/minimal.c" "${flags[@]}" -o by_pkg_config_static
ldd by_pkg_config_static | grep libclawsync >/dev/null && fail "by_pkg_config_static uses the shared library"
run ./by_pkg_config_static

mkdir project
cat >project/CMakeLists.txt <<'PROJECT'
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES C)
find_package(Clawsync 0.1 REQUIRED)
foreach(kind clawsync clawsync_static)
  add_executable(by_cmake_${kind} ${EXAMPLE})
  target_link_libraries(by_cmake_${kind} PRIVATE Clawsync::${kind})
endforeach()
PROJECT
cmake -S project -B project/build -DCMAKE_PREFIX_PATH="$work/prefix" -DEXAMPLE="$source/examples/minimal.c" \
  -DCMAKE_C_COMPILER="$cc" >project.log 2>&1 && cmake --build project/build >>project.log 2>&1 || fail "$(tail -20 project.log)"
ldd project/build/by_cmake_clawsync_static | grep libclawsync >/dev/null && fail "by_cmake_clawsync_static uses the shared library"
run project/build/by_cmake_clawsync
run project/build/by_cmake_clawsync_static
echo "install_test: passed"
