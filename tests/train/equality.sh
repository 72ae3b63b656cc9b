#!/bin/sh
# A batch is the same sequences whatever the ranks and the mesh are: the losses of a run agree to rounding,
# also where batch, micro-batches and experts do not divide evenly.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/train/runs.sh"

agree() {
    for key in loss validation_loss grad_norm balance_loss z_loss dropped; do
        echo "$key:"; same "$key" "$1" alone many || return 1
    done
}
# compare NAME PROGRAM TOLERANCE MESHES ARGUMENT...: one rank against other numbers of ranks and meshes, each
# "RANKS:EXPERT_RANKS".
compare() {
    label=$1; program=$2; tolerance=$3; meshes=$4; shift 4
    check "$label: one rank" train 1 "$program" alone "$@"
    for mesh in $meshes; do
        ranks=${mesh%:*} expert=${mesh#*:}
        check "$label: $ranks ranks, $expert share the experts" \
            train "$ranks" "$program" many --parallel.expert="$expert" "$@"
        check "$label: $ranks ranks, $expert share the experts: the losses agree" agree "$tolerance"
        rm -rf "$scratch/many"
    done
    rm -rf "$scratch/alone"
}
compare "double" "$moire_double" 1e-9 "2:1 2:all 3:all 4:2 4:all"
compare "double, five sequences" "$moire_double" 1e-9 "3:1 4:1" --train.batch=5 --train.accumulate=1
compare "double, mostly empty ranks" "$moire_double" 1e-9 "4:2" \
    --train.batch=2 --train.accumulate=3 --moe.layers=all
compare "double, capacity, tied, gelu" "$moire_double" 1e-9 "3:3" \
    --moe.capacity=1 --model.tie_embeddings=yes --model.feed_forward=gelu
compare "double, forced routing" "$moire_double" 1e-9 "2:1 3:all" --moe.router=forced --moe.forced=zipf
compare "double, no experts" "$moire_double" 1e-9 "3:all" --moe.layers=none
compare "float" "$moire" 1e-4 "2:1 2:all 3:all 4:2 4:all"

# They are of a training that learns something.
train 1 "$moire" alone >"$scratch/out" 2>&1
values loss alone >"$scratch/losses"
check "the loss falls" \
    awk 'NR == 1 { first = $2 } { last = $2 } END { exit !(last < 0.8 * first) }' "$scratch/losses"
finish
