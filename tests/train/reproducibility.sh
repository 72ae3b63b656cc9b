#!/bin/sh
# The table of doc/reproducibility.md: what is bitwise the same under which change, and what to rounding.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/train/runs.sh"
settings="--train.steps=12 --moe.layers=all --evaluate.every=never --checkpoint.every=never"
checkpoint() { echo "$scratch/$1/checkpoints/latest"; }
same_bits() { "$top_builddir/tests/train/compare_checkpoints" "$(checkpoint base)" "$(checkpoint other)"; }
run_other() { rm -rf "$scratch/other"; train "$@"; }

# bitwise NAME ARGUMENT...: parameters and moments after 12 steps are those of the base run.
bitwise() {
    label=$1; shift
    check "$label: runs" run_other 3 "$moire" other $settings "$@"
    check "$label: the same bits" same_bits
}
# rounding NAME RANKS PROGRAM ARGUMENT...: the losses are those of the base run to 1e-4.
rounding() {
    label=$1 other_ranks=$2 program=$3; shift 3
    check "$label: runs" run_other "$other_ranks" "$program" other $settings "$@"
    check "$label: the same losses to 1e-4" same loss 1e-4 base other
}
check "the base run: 3 ranks" train 3 "$moire" base $settings
bitwise "started again from the beginning"
bitwise "more evaluations and checkpoints" --evaluate.every=3 --checkpoint.every=5 --checkpoint.keep=1
bitwise "progress line" --run.progress=yes
bitwise "rows in rounds of 200 bytes" --exchange.round_bytes=200
bitwise "whole moments on every rank" --train.shard_optimizer=no
bitwise "feed-forward computed again" --train.recompute=ffn
bitwise "blocks computed again" --train.recompute=layer
bitwise "back end by name" --exchange.backend=alltoallv
# Two expert groups: the moments of experts are shared too; and a checkpoint is read with either setting.
mv "$scratch/base" "$scratch/kept"
two="--parallel.expert=2"
check "two groups: 4 ranks" train 4 "$moire" base $settings $two
check "two groups, whole moments: runs" run_other 4 "$moire" other $settings $two --train.shard_optimizer=no
check "two groups, whole moments: the same bits" same_bits
for setting in yes no; do
    case $setting in yes) next=no ;; no) next=yes ;; esac
    check_fails "two groups, shared: $setting, 7 steps" 75 "" run_other 4 "$moire" other $settings $two \
        --train.shard_optimizer=$setting --train.stop_after=7
    check "the rest with shared: $next" train 4 "$moire" other $settings $two --train.shard_optimizer=$next
    check "two groups, shared: $setting, then $next: the same bits" same_bits
done
rm -rf "$scratch/base"; mv "$scratch/kept" "$scratch/base"
rounding "one node a rank" 3 "$moire" --parallel.ranks_per_node=1
rounding "another number of ranks" 2 "$moire"
rounding "another mesh" 3 "$moire" --parallel.expert=1
rounding "buckets of 1000 bytes" 3 "$moire" --train.bucket_bytes=1000
OMP_NUM_THREADS=2; export OMP_NUM_THREADS
rounding "two threads" 3 "$moire"
OMP_NUM_THREADS=1
rounding "double" 3 "$moire_double"

# The comparison can fail.
check "another seed: runs" run_other 3 "$moire" other $settings --run.seed=2
if same_bits >"$scratch/out" 2>&1; then fail "another seed: other bits"; else pass "another seed: other bits"; fi
finish
