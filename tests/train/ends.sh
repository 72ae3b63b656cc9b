#!/bin/sh
# Ends of a run as people meet them: signals, numbers that are not finite; and what a run leaves behind.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/train/runs.sh"
checkpoints() { ls "$scratch/$1/checkpoints"; }

# ---- signals ----

again=no # yes: the signal comes again and again until the process has ended
is_running() { grep -q -s '^State:.[^Z]' "/proc/$pid/status"; }
# stop_by SIGNAL NAME COMMAND...: starts a long run in $scratch/NAME, waits for its third step and sends the
# signal.
stop_by() {
    signal=$1; run=$2; shift 2
    "$@" train "$scratch/tiny.ini" --run.dir="$scratch/$run" --train.steps=1000000 --evaluate.every=never \
        >"$scratch/said" 2>&1 &
    pid=$!
    for tenth in $(seq 1 300); do
        [ -f "$scratch/$run/metrics.jsonl" ] && [ "$(wc -l <"$scratch/$run/metrics.jsonl")" -ge 3 ] && break
        sleep 0.1
    done
    kill "-$signal" "$pid"
    while [ "$again" = yes ] && is_running; do kill "-$signal" "$pid"; done
    wait "$pid"; code=$?
    cat "$scratch/said"; echo "after $tenth tenths of a second: exit code $code"
    return $code
}
last_step() { sed -n 's/.*"step":\([0-9]*\),.*/\1/p' "$scratch/$1/metrics.jsonl" | tail -n 1; }
ends_in_checkpoint() {
    step=$(last_step "$1")
    grep -q "stopped after step $step of 1000000 with a checkpoint" "$scratch/said" &&
        [ -f "$(printf '%s/%s/checkpoints/step-%08d.h5' "$scratch" "$1" "$step")" ]
}

check_fails "SIGTERM to a run without mpirun: exit code 75" 75 "stopped after step" \
    stop_by TERM terminated "$moire"
check "the last step of its metrics is in a checkpoint" ends_in_checkpoint terminated
check "it goes on" train 1 "$moire" terminated --train.steps="$(($(last_step terminated) + 2))"
check_fails "SIGUSR1 to mpirun: exit code 75" 75 "stopped after step" \
    stop_by USR1 users "${MPIRUN:-mpirun}" -n 3 "$moire"
check "the last step of its metrics is in a checkpoint" ends_in_checkpoint users
again=yes
for signal in TERM USR1; do
    check_fails "SIG$signal again and again: exit code 75" 75 "stopped after step" stop_by "$signal" "many-$signal" "$moire"
    check "SIG$signal again and again: the last step is in a checkpoint" ends_in_checkpoint "many-$signal"
done
again=no

# ---- not finite ----

check_fails "five good steps" 75 "stopped after step 5" train 2 "$moire" wild --train.stop_after=5
for mesh in 1:1 3:3 4:2; do
    ranks=${mesh%:*} expert=${mesh#*:}
    check_fails "not finite at $ranks ranks: step, place and the last good checkpoint are named" 1 \
        "step [0-9]*: the [a-z ]* is [a-z]*; found first at [a-z][^;]*; try .*wild/checkpoints/step-00000005.h5" \
        train "$ranks" "$moire" wild --parallel.expert="$expert" --train.learning_rate=1e6 --train.warmup=0
    check "one rank says so" test "$(grep -c "the last good checkpoint" "$scratch/out")" = 1
    check "no other checkpoint is written" test "$(checkpoints wild)" = "latest
step-00000005.h5"
done
check "run.json knows how it ended" grep -q '"failed: not finite"' "$scratch/wild/run.json"

# ---- what a run leaves behind ----

check "a run that records its routing" train 3 "$moire" recorded --moe.record=yes --train.accumulate=1 \
    --train.steps=8 --evaluate.every=2
check "routing.h5 is there" test -f "$scratch/recorded/routing.h5"
check "a run that replays it, at other ranks" train 2 "$moire" replayed --train.accumulate=1 --train.steps=8 \
    --moe.router=forced --moe.forced=replay --moe.forced_file="$scratch/recorded/routing.h5"
check "its experts are loaded alike" same imbalance 1e-12 recorded replayed

check_fails "a recording of another model is refused" 1 \
    "found 1 layers with 5 experts, 2 a token, expected 2 with 5, 2 a token" \
    train 2 "$moire" replayed --train.accumulate=1 --moe.layers=all --moe.router=forced --moe.forced=replay \
    --moe.forced_file="$scratch/recorded/routing.h5" --checkpoint.resume=never

check "three checkpoints are due, one stays" \
    train 2 "$moire" few --train.steps=10 --checkpoint.every=4 --checkpoint.keep=1
check "it is the last" test "$(checkpoints few)" = "latest
step-00000010.h5"
check "every second step is evaluated" train 2 "$moire" measured --train.steps=5 --evaluate.every=2
values validation_loss measured | cut -d ' ' -f 1 | tr '\n' ' ' >"$scratch/steps"
check "at steps 2, 4 and the last" test "$(cat "$scratch/steps")" = "2 4 5 "
train 2 "$moire" measured --train.steps=5 --checkpoint.resume=never >"$scratch/said" 2>&1
for part in "^step  *5 " "^  gradient sync" "^parameters " "^validation loss .* perplexity" "arithmetic" \
    "expert  *4 "; do
    check "the end of a run prints '$part'" grep -q "$part" "$scratch/said"
done
check "its tables are 80 columns wide" \
    awk '!/^moire:|^step [0-9]|^written to/ && length > 80 { print; bad = 1 } END { exit bad }' "$scratch/said"
finish
