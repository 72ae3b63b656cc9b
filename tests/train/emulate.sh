#!/bin/sh
# Emulated compute: the same rows travel as in a real run, a step takes at least FLOP / rate, many ranks train
# a model that would take them minutes, and everything that shows a figure says what it is.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/train/runs.sh"

# ---- the same rows as in a real run ----

travels_alike() {
    for key in bytes_own bytes_node bytes_far imbalance dropped tokens learning_rate; do
        echo "$key:"; same "$key" 0 real emulated || return 1
    done
}
# compare RANKS ARGUMENT...
compare() {
    ranks_of=$1; shift
    label="$ranks_of ranks $*"
    set -- "$ranks_of" "$@" --moe.router=forced --train.steps=6 --parallel.ranks_per_node=2
    check "$label: a real run" compare_run real "$@"
    check "$label: an emulated one" compare_run emulated "$@" --compute.mode=emulate --compute.rate=1e11
    check "$label: rows, bytes and drops are the same" travels_alike
    check "$label: there are bytes" grep -q '"bytes_node":[1-9]' "$scratch/emulated/metrics.jsonl"
    rm -rf "$scratch/real" "$scratch/emulated"
}
compare_run() { name=$1 ranks_now=$2; shift 2; train "$ranks_now" "$moire" "$name" "$@"; }
compare 4 --moe.forced=even
compare 5 --moe.forced=zipf --moe.layers=all --moe.top_k=3
compare 4 --moe.forced=uniform --parallel.expert=2 --moe.capacity=1 --model.feed_forward=gelu --model.bias=yes
compare 3 --moe.forced=remote --model.norm=layer --model.position=learned --train.batch=2

# ---- a model of realistic shape ----

cat >"$scratch/large.ini" <<'INI'
[model]
layers = 2
dim = 1024
heads = 16
ffn_hidden = 4096
sequence = 128
vocabulary = 256
[moe]
experts = 16
expert_hidden = 4096
layers = 1
router = forced
[train]
steps = 3
batch = 16
[compute]
mode = emulate
rate = 5e11
[data]
source = synthetic
INI
large() {
    large_ranks=$1; run=$2; shift 2
    mpi "$large_ranks" "$moire" train "$scratch/large.ini" --run.dir="$scratch/$run" "$@"
}
# ---- a machine file ----

printf '[compute]\nrate = 3e9\n' >"$scratch/machine.ini"
printf '[model]\nlayers = 2\n' >"$scratch/slow.ini"
grep -v '^rate' "$scratch/large.ini" >"$scratch/unrated.ini"
check "the rate of a machine file" sh -c '"$0" train --dry-run "$1" --compute.machine="$2" | grep -q "^compute .* 3e+09 FLOP/s"' \
    "$moire" "$scratch/unrated.ini" "$scratch/machine.ini"
check "a rate that is given counts" sh -c '"$0" train --dry-run "$1" --compute.machine="$2" | grep -q "^compute .* 5e+11 FLOP/s"' \
    "$moire" "$scratch/large.ini" "$scratch/machine.ini"
check "a machine file without a rate" sh -c '"$0" train --dry-run "$1" --compute.machine="$2" 2>&1 | grep -q "no compute.rate"' \
    "$moire" "$scratch/unrated.ini" "$scratch/slow.ini"
check "no machine file" sh -c '"$0" train --dry-run "$1" --compute.machine="$2" 2>&1 | grep -q "absent.ini"' \
    "$moire" "$scratch/unrated.ini" "$scratch/absent.ini"

flop() { "$moire" train --dry-run "$scratch/large.ini" | sed -n 's/^step .* \([0-9.e+]*\) FLOP$/\1/p'; }
# Of the ranks together: the slowest takes at least its share. 0.99 for the rounding of what is printed.
long_enough() {
    values seconds "$1" | awk -v flop="$(flop)" -v ranks="$2" -v rate=5e11 '
        { steps++; if (!(flop > 0) || $2 < 0.99 * flop / ranks / rate) { bad = 1 } }
        { print "step", $1, "took", $2, "expected at least", flop / ranks / rate }
        END { exit !(steps == 3 && !bad) }'
}
check "eight ranks, dim 1024, hidden 4096" large 8 large
cp "$scratch/out" "$scratch/said"
check "a step takes at least FLOP / rate" long_enough large 8
check "the start says so" grep -q "warning: compute is emulated at 5e11 FLOP/s a rank" "$scratch/said"
check "once" test "$(grep -c "no checkpoint is written" "$scratch/said")" = 1
check "the table says so" grep -q "^compute is emulated at 5e11 FLOP/s a rank: all seconds" "$scratch/said"
check "run.json says so" grep -q '"compute": "emulated at 5e11 FLOP/s"' "$scratch/large/run.json"
lines_with() { grep -c "$1" "$scratch/$2/metrics.jsonl"; }
check "every line of the metrics says so" test "$(lines_with '"emulated":true' large)" = 3
check "the loss is that of knowing nothing" test "$(lines_with '"loss":5.54517' large)" = 3
check "nothing is evaluated" test -z "$(values validation_loss large)"
check "there is no checkpoint" test -z "$(ls "$scratch/large/checkpoints")"
"$moire" train --dry-run "$scratch/large.ini" >"$scratch/said" 2>&1
check "--dry-run says so" grep -q "^compute .* 5e+11 FLOP/s a rank, emulated" "$scratch/said"
check_fails "a run that is stopped says that it cannot go on" 75 \
    "stopped after step 2 of 3; emulated compute has no" large 2 large --train.stop_after=2 --moe.experts=2
check "it begins anew in the same place" large 2 large --moe.experts=2 --train.steps=1

# ---- what cannot be ----

check_fails "routing by logits" 2 "found moe.router = softmax, expected forced; try --moe.router=forced" \
    train 2 "$moire" logits --compute.mode=emulate
check "without experts there is no routing" train 2 "$moire" dense --compute.mode=emulate \
    --moe.layers=none --train.steps=2
check "a real run" train 2 "$moire" real --train.steps=2 --checkpoint.every=1
check "says that it is one" grep -q '"compute": "real"' "$scratch/real/run.json"
check "its metrics too" test "$(grep -c emulated "$scratch/real/metrics.jsonl")" = 0
cp "$scratch/real/metrics.jsonl" "$scratch/kept"
check_fails "in its place" 2 "found .*step-00000002.h5, expected a run.dir without checkpoints" \
    train 2 "$moire" real --compute.mode=emulate --moe.router=forced
check "it is left alone" cmp "$scratch/kept" "$scratch/real/metrics.jsonl"
check_fails "from its checkpoint" 2 "cannot go on from a checkpoint; found checkpoint.resume = " \
    train 2 "$moire" other --compute.mode=emulate --moe.router=forced \
    --checkpoint.resume="$scratch/real/checkpoints/latest"
finish
