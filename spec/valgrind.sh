#!/bin/bash
# Memcheck over compiles and runs of blueprints on the scalar target and on AVX2, and over the fuzzers, which hand decoders
# blocks of exactly the length they are told. No errors and no definite leaks are allowed. Valgrind knows no AVX-512, so what
# runs here has none. LuaJIT runs without its compiler, whose machine code memcheck cannot follow.
set -u
build=${BUILD:-build}
export ESPER_ISA=scalar ESPER_STORE= TMPDIR=${TMPDIR:-/dev/shm} LUA_PATH='lua/?.lua;lua/?/init.lua;?.lua;;' LUA_CPATH="$build/?.so;;"
check=(valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite --show-leak-kinds=definite)
failed=0
# The proof that memcheck sees what a kernel does: one that writes past its block must be reported.
if "${check[@]}" luajit -joff spec/support/memcheck.lua plant > /dev/null 2>&1; then
  echo "valgrind: the planted error was not seen"
  failed=1
fi
run() { echo "valgrind: $ESPER_ISA: $*"; "${check[@]}" "$@" || { failed=$((failed + 1)); echo "FAILED: $*"; }; }
run luajit -joff spec/support/memcheck.lua cnn/norm cnn/conv_small cnn/attention transformer/norm transformer/lora
ESPER_ISA=avx2
run luajit -joff spec/support/memcheck.lua cnn/norm cnn/conv_small cnn/attention cnn/depthwise transformer/norm transformer/lora \
  transformer/attention transformer/mlp
run "$build/stress/vec_fuzz" 400 1
run "$build/stress/loader_fuzz" 3000 1
run "$build/stress/graph_fuzz" 300 1
run "$build/stress/plan_fuzz" 300 1
run "$build/stress/npy_fuzz" 500 1
echo "valgrind: $failed failed"
[ "$failed" -eq 0 ]
