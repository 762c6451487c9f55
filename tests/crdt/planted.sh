#!/bin/sh
# The test of the tests: compiles src/crdt once for each planted bug (CS_PLANT in src/crdt) and demands that the vectors,
# the small scope or the random histories notice it; and that all pass without one.
#   planted.sh [CC] [PLANT...]      default: cc, and every plant there is
set -eu
cc=${1:-cc}
[ $# -gt 0 ] && shift
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="-std=c17 -O1 -g0 -w -D_GNU_SOURCE -I$root/src -I$root/tests -I$root/tests/crdt -DCS_TESTS_DIR=\"$root/tests\""
libs="$(pkg-config --cflags --libs cmocka jansson) -lm"
tests="vectors small_scope property" # the cheapest first

for source in "$root"/src/crdt/*.c "$root"/tests/crdt/*.c "$root"/tests/unit/crdt/vectors_test.c \
    "$root"/src/base/arena.c "$root"/src/base/bytes.c "$root"/src/base/error.c "$root"/src/base/uuid.c; do
    $cc $flags -c "$source" -o "$work/$(basename "$source" .c).o"
done

# build DIR: links the three tests; objects in DIR stand in for those of the same name
build() {
    room=
    for source in "$root"/src/crdt/*.c; do
        name=$(basename "$source" .c).o
        if [ -f "$1/$name" ]; then room="$room $1/$name"; else room="$room $work/$name"; fi
    done
    room="$room $work/arena.o $work/bytes.o $work/error.o $work/uuid.o"
    $cc "$work/small_scope_test.o" $room -lm -o "$1/small_scope"
    $cc "$work/vectors_test.o" $room $libs -o "$1/vectors"
    $cc "$work/property_test.o" "$work/model.o" $room -lm -o "$1/property"
}

# caught DIR: prints the first test that fails
caught() {
    for test in $tests; do
        if ! CS_SEEDS=400 timeout 120 "$1/$test" >"$1/$test.log" 2>&1; then
            echo "$test"
            return
        fi
    done
}

mkdir "$work/none"
build "$work/none"
by=$(caught "$work/none")
if [ -n "$by" ]; then
    echo "without a planted bug the $by test fails:"
    tail -n 5 "$work/none/$by.log"
    exit 1
fi

[ $# -gt 0 ] || set -- $(cat "$root"/src/crdt/*.c | grep -o 'CS_PLANT([A-Z_]*' | cut -c10- | sort -u)
missed=0
for plant; do
    mkdir "$work/$plant"
    for source in $(grep -lw "$plant" "$root"/src/crdt/*.c); do
        $cc $flags "-DCS_PLANT_$plant" -c "$source" -o "$work/$plant/$(basename "$source" .c).o"
    done
    build "$work/$plant"
    by=$(caught "$work/$plant")
    printf '%-26s %s\n' "$plant" "${by:-NOT NOTICED}"
    [ -n "$by" ] || missed=$((missed + 1))
    rm -rf "${work:?}/$plant"
done
echo "$# planted bugs, $missed not noticed"
[ "$missed" -eq 0 ]
