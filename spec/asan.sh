#!/bin/bash
# Specs and stress programs under AddressSanitizer and UBSan. LuaJIT itself is not instrumented, so leaks are not judged
# here (valgrind does that); the specs' counts are cut, since every access is checked.
set -u
asan=$(gcc -print-file-name=libasan.so)
ubsan=$(gcc -print-file-name=libubsan.so)
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:handle_segv=0:abort_on_error=0:exitcode=99
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export ESPER_SPEC_GRAPHS=${ESPER_SPEC_GRAPHS:-150} ESPER_SPEC_SHAPES=2 ESPER_SPEC_SANITIZED=1 ESPER_TORCH=/nonexistent
ESPER_STORE=$(mktemp -d)
export ESPER_STORE
trap 'rm -rf "$ESPER_STORE"' EXIT
out=$(mktemp)
LD_PRELOAD="$asan $ubsan" busted --run=asan -o TAP 2>&1 | tee "$out" | grep --line-buffered -v '^ok '
passed=$(grep -c '^ok ' "$out")
bad=$(grep -cE '^not ok |AddressSanitizer|runtime error:' "$out")
plan=$(grep -c '^1\.\.' "$out")
rm -f "$out"
for fuzz in "vec_fuzz 1500" "loader_fuzz 3000" "graph_fuzz 1000" "plan_fuzz 1000" "npy_fuzz 1000"; do
  # shellcheck disable=SC2086
  TMPDIR=${TMPDIR:-/dev/shm} build/asan/stress/$fuzz 1 || bad=$((bad + 1))
done
if [ "$bad" -gt 0 ] || [ "$plan" -eq 0 ] || [ "$passed" -lt 20 ]; then
  echo "asan: $passed specs passed, $bad findings, plan $plan"
  exit 1
fi
echo "asan: $passed specs passed, 0 findings"
