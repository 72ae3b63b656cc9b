#!/bin/sh
# The scripts of jobs/ as they are shipped, made small by options and variables only: each ends and writes what
# jobs/README.md promises; a training that is told to stop is put back, goes on, and ends with the bits of one that was
# not told.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cluster/slurm/support.sh"
. "$top_srcdir/tests/train/runs.sh"
patience=600 # looks, some tenths of a second each
MOIRE=$(realpath "$moire")
CONFIG=$scratch/tiny.ini
export MOIRE CONFIG
small="--chdir=$scratch --cpus-per-task=1 --mem=0"
quick="--train.steps=6 --evaluate.every=never --run.progress=no"
# long enough to be met by a signal while it runs
long="--train.steps=600 --evaluate.every=never --checkpoint.every=never --run.progress=no"

# submit OPTIONS SCRIPT ARGUMENT...: the job's number in $job.
submit() {
    options=$1 script=$2; shift 2
    # shellcheck disable=SC2086
    job=$(on head sbatch --parsable $small $options "$top_srcdir/jobs/$script" "$@") || exit 1
}
# In a queue or running, or about to be again.
waits() { [ -n "$(on head squeue --noheader --jobs="$1" --format=%i 2>/dev/null)" ]; }
# job_ends JOB STATE CODE: when it is over, all tasks of an array have this state and exit code.
job_ends() {
    looks=0
    while waits "$1"; do
        looks=$((looks + 1))
        [ "$looks" -lt "$patience" ] || { echo "job $1 does not end"; on head squeue; return 1; }
        sleep 0.2
    done
    on head scontrol show job "$1" >"$scratch/job"
    cat "$scratch/job" "$scratch"/*-"$1".log "$scratch"/*-"$1"-*.log 2>/dev/null
    grep -q "JobState=" "$scratch/job" && ! grep "JobState=" "$scratch/job" | grep -v -q "JobState=$2 " &&
        ! grep -o " ExitCode=[0-9]*" "$scratch/job" | grep -v -q "=$3$"
}
says() { grep -q -e "$1" "$2"; }
lines() { wc -l <"$1"; }
outcomes() { sed -n 's/.*"outcome": "\(.*\)".*/\1/p' "$scratch/$1/run.json" | tr '\n' ' '; }
outcomes_are() { found=$(outcomes "$2"); echo "found $found"; [ "$found" = "$1 " ]; }
has_steps() { values loss "$2" | awk -v n="$1" '$1 != NR { bad = 1 } END { print NR; exit bad || NR != n }'; }
# begun RUN: some steps are done.
begun() {
    looks=0
    until [ -f "$scratch/$1/metrics.jsonl" ] && [ "$(lines "$scratch/$1/metrics.jsonl")" -ge 3 ]; do
        looks=$((looks + 1))
        [ "$looks" -lt "$patience" ] || { echo "$1 does not begin"; return 1; }
        sleep 0.1
    done
}

# ---- told to stop: first, because Slurm lets a job that is put back wait ----
# To the ranks and to the script, and again.
interrupt() {
    begun interrupted || return 1
    on head scancel --signal=USR1 "$1" && on head scancel --batch --signal=USR1 "$1" || return 1
    on head scancel --full --signal=USR1 "$1" || :
}
export RUN_DIR="$scratch/interrupted"
submit "--nodes=2 --ntasks-per-node=1" requeue.sbatch $long; interrupted=$job
check "requeue: signals, several of them" interrupt "$interrupted"
export RUN_DIR="$scratch/whole"
submit "--nodes=2 --ntasks-per-node=1" requeue.sbatch $long; whole=$job

# ---- the other trainings ----
export RUN_DIR="$scratch/one"
submit "--ntasks-per-node=2" one-node.sbatch $quick; one=$job
unset RUN_DIR
submit "--nodes=4 --ntasks-per-node=1" nodes.sbatch $quick; nodes=$job
check "one-node: the job ends with 0" job_ends "$one" COMPLETED 0
check "one-node: RUN_DIR has six steps" has_steps 6 one
check "nodes: the job ends with 0" job_ends "$nodes" COMPLETED 0
check "nodes: the run has the name and number of the job" has_steps 6 "runs/moire-nodes-$nodes"
check "nodes: so has the log" says "written to runs/moire-nodes-$nodes" "$scratch/moire-nodes-$nodes.log"
check "nodes: four ranks on as many nodes" says '"nodes": 4' "$scratch/runs/moire-nodes-$nodes/run.json"

# ---- no reason to put it back ----
export RUN_DIR="$scratch/often" MOST_RESTARTS=0
submit "--nodes=1 --ntasks-per-node=1" requeue.sbatch $quick --train.stop_after=2; often=$job
unset MOST_RESTARTS
export RUN_DIR="$scratch/wrong"
submit "--nodes=1 --ntasks-per-node=1" requeue.sbatch $quick --train.step=2; wrong=$job
export RUN_DIR="$scratch/cancelled"
submit "--nodes=1 --ntasks-per-node=1" requeue.sbatch $long; cancelled=$job
cancel() { begun cancelled && on head scancel "$cancelled"; }
check "requeue: scancel" cancel
unset RUN_DIR
check "requeue: it stays cancelled" job_ends "$cancelled" CANCELLED "[0-9]*" # of whom the signal reached first
check "requeue: with a checkpoint" outcomes_are stopped cancelled
check "requeue: no more restarts than MOST_RESTARTS, exit code 75" job_ends "$often" FAILED 75
check "requeue: that is said" says "0 restarts and not done" "$scratch/moire-requeue-$often.log"
check "requeue: wrong usage is not tried again, exit code 2" job_ends "$wrong" FAILED 2

# ---- a chain ----
chain() {
    SBATCH_OPTIONS="$small --nodes=1 --ntasks-per-node=2" CHAIN=links RUN_DIR=$scratch/links \
        on head sh "$top_srcdir/jobs/chain.sh" "$@" >"$scratch/chain" 2>&1
    code=$?
    cat "$scratch/chain"
    sed -n "s/^link $1 of.* job //p" "$scratch/chain" >"$scratch/last"
    return $code
}
check "chain: submitted" chain 4 "$top_srcdir/jobs/nodes.sbatch" $quick --train.stop_after=3
check "chain: the last link was not needed" job_ends "$(cat "$scratch/last")" CANCELLED 0
check "chain: two links train" outcomes_are "stopped done" links
check "chain: each step once" has_steps 6 links
check_fails "chain: no number" 2 "found five links" chain five "$top_srcdir/jobs/nodes.sbatch"

# ---- measurements ----
export RESULTS="$scratch/scaling" SECONDS_EACH=0 NODE_COUNTS="1 4" CONFIG=
submit "--nodes=4 --ntasks-per-node=1 --array=0-1%1" scaling.sbatch --bench.samples=6 --bench.bytes=64 \
    --bench.backends=alltoallv; scaling=$job
check "scaling: both tasks end with 0" job_ends "$scaling" COMPLETED 0
scaled() {
    cat "$scratch/scaling/scaling.csv"
    awk -F, 'NR == 1 { n = NF; next } NF != n { bad = 1 } $3 == 64 && $4 == "alltoallv" { found[$1 "," $2]++ }
        END { exit bad || !found["1,1"] || found["1,1"] != found["4,4"] }' "$scratch/scaling/scaling.csv"
}
check "scaling: one table of both counts" scaled
check "scaling: every sample" test -s "$scratch/scaling/nodes-4.h5"
export RESULTS="$scratch/overhead" CONFIG="$scratch/tiny.ini" BACKENDS="alltoallv hierarchical" WIRES=bf16 STEPS=3
export SKIPPED_STEPS=1 COMPUTE=1e11
submit "--nodes=2 --ntasks-per-node=2" overhead.sbatch; overhead=$job
check "overhead: the job ends with 0" job_ends "$overhead" COMPLETED 0
swept() {
    cat "$scratch/overhead/overhead.csv"
    awk -F, 'NR == 1 { n = NF; next } NF != n || $7 != 2 || !($10 > 0 && $10 < 1) || $11 <= 0 { bad = 1 }
        { found = found " " $1 "," $2 "," $3 }
        END { exit bad || found != " alltoallv,bf16,no hierarchical,bf16,yes hierarchical,bf16,no" }' \
        "$scratch/overhead/overhead.csv"
}
check "overhead: a line for each way" swept

# ---- what became of the first ----
check "requeue: the job that nobody stopped ends with 0" job_ends "$whole" COMPLETED 0
check "requeue: it ran once" outcomes_are "done" whole
check "requeue: the one that was stopped ends with 0" job_ends "$interrupted" COMPLETED 0
check "requeue: it ran twice" outcomes_are "stopped done" interrupted
check "requeue: both starts are in one log" says "restart 1," "$scratch/moire-requeue-$interrupted.log"
check "requeue: the second goes on" says "going on from .*, step" "$scratch/moire-requeue-$interrupted.log"
check "requeue: each step once" has_steps 600 interrupted
for key in loss validation_loss grad_norm; do
    check "requeue: the same bits of $key" same "$key" 0 whole interrupted
done
finish
