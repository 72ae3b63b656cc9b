#!/bin/sh
# Binding as people meet it: mpirun --bind-to, taskset and OMP_NUM_THREADS; what info prints and train warns
# of.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/train/runs.sh"
unset OMP_PROC_BIND OMP_PLACES GOMP_CPU_AFFINITY
shares="warning: ranks share processors" few="warning: a rank has fewer processors than threads"
info() { ranks=$1; shift; mpi "$ranks" "$@" "$moire" info; }
runs() { "$@" >"$scratch/said" 2>&1 && cat "$scratch/said"; }
warns() { runs "$@" && [ "$(grep -c "$warning" "$scratch/said")" = 1 ]; }
silent() { runs "$@" && ! grep -q "warning: .*processors" "$scratch/said"; }
processors=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) # nproc heeds these
first=$(taskset -pc $$ 2>/dev/null | sed 's/.*: *\([0-9]*\).*/\1/')

OMP_NUM_THREADS=1
export OMP_NUM_THREADS
check "one rank: nothing to warn of" silent "$moire" info
warning=$shares
check "more ranks than processors" warns info $((processors + 1)) --bind-to none
if [ "$processors" -ge 2 ]; then
    check "two ranks, --bind-to none" silent info 2 --bind-to none
    if info 2 --bind-to core >"$scratch/out" 2>&1; then
        check "two ranks, --bind-to core" silent info 2 --bind-to core
        check "each has its own" test "$(sed -n 's/.* cpus //p' "$scratch/said" | sort -u | wc -l)" = 2
    else
        skip "two ranks, --bind-to core" "mpirun cannot bind here"
    fi
else
    skip "two ranks on two processors" "there is one"
fi
if [ -n "$first" ]; then
    check "two ranks on one processor" warns info 2 --bind-to none taskset -c "$first"
    warning=$few
    check "two threads on one processor" warns env OMP_NUM_THREADS=2 taskset -c "$first" "$moire" info
    check "it says how many would do" \
        grep -q "found 2 threads on processors $first of .*; try OMP_NUM_THREADS=1" "$scratch/said"
else
    skip "taskset" "there is none"
fi

warning=$shares
many=$((processors + 1))
check "train warns too, once" warns train "$many" "$moire" run --train.steps=2 --run.progress=no
check "not where ranks sleep" silent train "$many" "$moire" emulated --train.steps=2 --moe.router=forced \
    --compute.mode=emulate --run.progress=no
finish
