#!/bin/sh
# A long training as a chain of jobs, each of which goes on from the checkpoint of the one before:
#   jobs/chain.sh LINKS SCRIPT [ARGUMENT...]
#   CONFIG=my.ini SBATCH_TIMELIMIT=12:00:00 jobs/chain.sh 5 jobs/nodes.sbatch --train.steps=100000
#   jobs/chain.sh --cancel NAME
# SCRIPT is nodes.sbatch, or another one that honours CHAIN and RUN_DIR as it does: the link that is done, or
# has failed for a reason that will not go away, cancels those that still wait. All links write one run
# directory and one log.
#
# ---- what you may want to change, or to set in the environment ----
name=${CHAIN:-moire-$(date +%Y%m%d-%H%M%S)-$$}
run=${RUN_DIR:-runs/$name}
# More options of sbatch, for every link.
options=${SBATCH_OPTIONS:-}
# ----
set -eu
usage() { sed -n '3,5s/^# *//p' "$0" >&2; exit 2; }
if [ "${1:-}" = --cancel ]; then
    [ $# -eq 2 ] || usage
    # Those that wait first: the end of the running one would let the next begin.
    scancel --state=PENDING --name="$2"
    exec scancel --name="$2"
fi
[ $# -ge 2 ] || usage
links=$1 script=$2
shift 2
case $links in
'' | *[!0-9]* | 0*) echo "chain.sh: found $links links, expected a number from 1; try 5" >&2; exit 2 ;;
esac
[ -r "$script" ] || { echo "chain.sh: found no script $script; try jobs/nodes.sbatch" >&2; exit 2; }

# afterany: a link starts whatever became of the one before. afterok would break the chain at exit code 75,
# which is how a link says that it stopped with a checkpoint, and at a node that died.
after=
for link in $(seq "$links"); do
    # shellcheck disable=SC2086
    job=$(CHAIN=$name RUN_DIR=$run sbatch --parsable --job-name="$name" --output="$name.log" \
        --open-mode=append $after $options "$script" "$@")
    job=${job%%;*} # with several clusters, the name of one follows
    echo "link $link of $links: job $job"
    after=--dependency=afterany:$job
done
echo "run directory $run, log $name.log; to end it: $0 --cancel $name"
