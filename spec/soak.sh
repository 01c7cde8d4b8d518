#!/bin/bash
# Long versions of the stress programs, one line each. SOAK multiplies the amounts (1: some minutes); SEED starts the draws;
# BUILD is where `make` built them. A failing program stops nothing; the exit status tells.
set -u
build=${BUILD:-build}
soak=${SOAK:-1}
seed=${SEED:-$(date +%s)}
export TMPDIR=${TMPDIR:-/dev/shm}
failed=0
run() { "$build/stress/$1" $(($2 * soak)) "$seed" "${@:3}" || { failed=$((failed + 1)); echo "FAILED: $1"; }; }
run store_kill 3000
run store_flip 10000
run vec_fuzz 200000
run loader_fuzz 1000000
run graph_fuzz 200000
run plan_fuzz 200000
run npy_fuzz 100000
run pool_hammer 20000
run frozen_threads 20000
ESPER_SPEC_GRAPHS=$((2000 * soak)) ESPER_SPEC_SEED=$seed busted spec/random_spec.lua || failed=$((failed + 1))
echo "soak: seed $seed, $failed failed"
[ "$failed" -eq 0 ]
