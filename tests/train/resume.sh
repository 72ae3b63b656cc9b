#!/bin/sh
# A run that stops and goes on is the run that never stopped: bit for bit at the same ranks, to rounding at
# others.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/train/runs.sh"
compare_checkpoints=$top_builddir/tests/train/compare_checkpoints
short="--train.steps=40 --evaluate.every=never --checkpoint.every=never"
latest() { echo "$scratch/$1/checkpoints/latest"; }
same_checkpoints() { "$compare_checkpoints" "$(latest "$1")" "$(latest "$2")"; }
metrics_text() { sed 's/"tokens":.*"imbalance"/"imbalance"/' "$scratch/$1/metrics.jsonl"; }
same_metrics() {
    metrics_text "$1" >"$scratch/first"; metrics_text "$2" >"$scratch/second"
    cmp "$scratch/first" "$scratch/second"
}
segments() { grep -c '"first_step"' "$scratch/$1/run.json"; }

# halves LABEL PROGRAM RANKS ARGUMENT...: 20 steps and 20 steps against 40.
halves() {
    label=$1; program=$2; ranks=$3; shift 3
    check "$label: 40 steps" train "$ranks" "$program" whole $short "$@"
    check_fails "$label: 20 steps, then stop_after leaves with 75" 75 "stopped after step 20 of 40" \
        train "$ranks" "$program" halves $short --train.stop_after=20 "$@"
    check "$label: 20 more steps" train "$ranks" "$program" halves $short "$@"
    check "$label: the same bits in the last checkpoint" same_checkpoints whole halves
    check "$label: the same metrics but for times" same_metrics whole halves
    check "$label: run.json has both starts" test "$(segments halves)" = 2
}
halves "float, 2 ranks" "$moire" 2
rm -rf "$scratch/whole" "$scratch/halves"
halves "double, 3 ranks, batch in parts" "$moire_double" 3 \
    --train.schedule=wsd --moe.layers=all --parallel.expert=1
rm -rf "$scratch/whole" "$scratch/halves"
halves "float, 4 ranks, two groups, no clipping" "$moire" 4 --parallel.expert=2 --train.clip=none

# From four ranks to others: the same curve.
check "40 steps at 4 ranks" train 4 "$moire" four $short
check_fails "20 steps at 4 ranks" 75 "" train 4 "$moire" half $short --train.stop_after=20
for ranks in 1 2 3 8; do
    rm -rf "$scratch/other"; cp -R "$scratch/half" "$scratch/other"
    check "going on at $ranks ranks" train "$ranks" "$moire" other $short
    check "the losses at $ranks ranks are those of 4" same loss 1e-4 four other
done

# What a start finds.
says() { # TEXT COMMAND...: the command succeeds and its output contains the text
    text=$1; shift
    "$@" >"$scratch/said" 2>&1; code=$?
    cat "$scratch/said"
    grep -q -e "$text" "$scratch/said" && return $code
}
check "nothing left to train: it evaluates and says so" \
    says "nothing to train: train.steps = 40, and 40 are done" train 2 "$moire" other $short
check "the metrics of a finished run stay" same loss 1e-4 four other
check "it printed the validation loss" grep -q "^validation loss" "$scratch/said"
check "a checkpoint that is named" says "going on from .*half/checkpoints/latest, step 20" \
    train 2 "$moire" named $short --checkpoint.resume="$(latest half)"
tail -n 20 "$scratch/four/metrics.jsonl" >"$scratch/last"
mkdir "$scratch/lasts" && mv "$scratch/last" "$scratch/lasts/metrics.jsonl"
check "its steps are the last of the others" same loss 1e-4 lasts named
check "never: from the beginning" train 4 "$moire" other $short --checkpoint.resume=never
check "never: the same metrics as the first time" same_metrics four other
check "other settings are named" \
    says "other settings than .*: run.seed = 2 (it was 1), train.batch = 8 (it was 7)$" \
    train 2 "$moire" half $short --run.seed=2 --train.batch=8 --train.steps=21
check_fails "heads are in no shape" 2 "found model.heads = 4, expected 2; try --model.heads=4" \
    train 2 "$moire" half $short --model.heads=2
check_fails "another shape names the tensor" 1 "experts.gate" \
    train 2 "$moire" half $short --moe.expert_hidden=8
check_fails "a path that is missing" 1 "nowhere.h5" \
    train 2 "$moire" half $short --checkpoint.resume="$scratch/nowhere.h5"
finish
