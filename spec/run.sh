#!/bin/bash
# Runs every spec and ends with one line "N passed, N failed". A run without a TAP plan (a crash), or with fewer specs
# than the floor, fails. Arguments go to busted.
floor=${ESPER_SPEC_FLOOR:-400}
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT
busted -o TAP "$@" 2>&1 | tee "$out" | grep --line-buffered -v '^ok '
code=${PIPESTATUS[0]}
passed=$(grep -c '^ok ' "$out")
failed=$(grep -c '^not ok ' "$out")
if ! grep -q '^1\.\.[0-9]' "$out"; then
  echo "spec/run.sh: no TAP plan: the test process died (exit $code); last lines:"
  tail -n 5 "$out"
  failed=$((failed + 1))
elif [ $# -eq 0 ] && [ "$passed" -lt "$floor" ]; then
  echo "spec/run.sh: only $passed specs passed, the floor is $floor"
  failed=$((failed + 1))
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$code" -eq 0 ]
