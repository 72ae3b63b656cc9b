#!/bin/sh
# The program on nodes that only a wire joins: the same training as on one machine. Which back end sums and which level
# of the network carries a row must not show in a loss, but for rounding.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cluster/slurm/support.sh"
. "$top_srcdir/tests/train/runs.sh"

counts() { ranks 4 "$1" "$moire" info >"$scratch/said" && grep -q "^$1 ranks on 4 nodes," "$scratch/said"; }
for number in 4 8; do check "info: $number ranks on 4 nodes" counts "$number"; done

short() { train "$@" --train.steps=6 --evaluate.every=3 --run.progress=no; }
train_on() { mpirun_on "$1"; shift; short "$@"; }
agree() { for key in loss validation_loss grad_norm; do echo "$key:"; same "$key" "$@" || return 1; done; }
# travels KEY none|some RUN: the bytes of each step.
travels() {
    values "$1" "$3" | awk -v wanted="$2" '
        { steps++; if (($2 > 0) == (wanted == "some")) right++ }
        END { print right + 0, "of", steps + 0, "steps"; exit !(steps && right == steps) }'
}

# compare RANKS NODES TOLERANCE none|some none|some: with bytes inside a node, bytes between nodes.
compare() {
    name="$1 ranks on $2"
    check "$1 ranks on this machine" train_on 0 "$1" "$moire" here
    check "$name of the cluster" train_on "$2" "$1" "$moire" there
    check "$name: the losses agree within $3" agree "$3" here there
    check "$name: bytes inside a node: $4" travels bytes_node "$4" there
    check "$name: bytes between nodes: $5" travels bytes_far "$5" there
    check "$name: none between nodes on this machine" travels bytes_far none here
    rm -rf "$scratch/here" "$scratch/there"
}
# One rank a node receives its rows in the order that one machine gives it, hence the same bits. Where nodes have two,
# rows of the own node come before those of others, and sums round in another way.
compare 4 4 0 none some
compare 8 4 1e-6 some some
compare 2 1 0 some none
finish
