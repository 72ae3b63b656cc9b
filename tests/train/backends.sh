#!/bin/sh
# A training does not depend on how rows travel: with the same ranks and nodes the losses of all back ends are
# equal bit by bit, whatever de-duplication, chunks and peers in flight are, in fp32 and in bf16. What is not
# applicable or unknown ends at the start.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/train/runs.sh"
short="--train.steps=6 --train.batch=5 --evaluate.every=3 --model.sequence=8 --moe.layers=all"
"$moire" info >"$scratch/info"
backends=$(awk '/^back ends/ { on = 1; next } /^$/ { on = 0 } on && /^  [a-z]/ { print $1 }' "$scratch/info")
comment "back ends:" $backends

# Why a back end cannot run with these arguments; empty where it can.
reason() { # BACKEND RANKS ARGUMENT...
    asked=$1 asked_ranks=$2; shift 2
    train "$asked_ranks" "$moire" why $short --exchange.backend="$asked" "$@" >"$scratch/why.out" 2>&1
    sed -n "s/^moire: .*exchange back end '$asked' .*: \(.*\); try .*/\1/p" "$scratch/why.out" | head -n 1
    rm -rf "$scratch/why"
}
curve() { for key in loss grad_norm validation_loss; do echo "$key"; values "$key" "$1"; done; }
same_curve() { # RUN RUN
    curve "$1" >"$scratch/first"; curve "$2" >"$scratch/second"
    [ "$(wc -l <"$scratch/first")" -ge 15 ] && diff "$scratch/first" "$scratch/second"
}
# matches LABEL RANKS RUN ARGUMENT...: a run that must have the losses of RUN.
matches() {
    label=$1; ranks=$2; reference=$3; shift 3
    rm -rf "$scratch/other"
    if train "$ranks" "$moire" other $short "$@" >"$scratch/out" 2>&1; then
        check "$label" same_curve "$reference" other
    else
        fail "$label (does not train)"
    fi
}
# One word a run: --exchange.dedup, chunks and peers_in_flight.
backends_agree() { # LABEL RANKS ARGUMENT...
    map=$1; count_of_ranks=$2; shift 2
    rm -rf "$scratch/reference"
    check "$map: alltoallv" \
        train "$count_of_ranks" "$moire" reference $short --exchange.backend=alltoallv "$@"
    for backend in $backends; do
        why=$(reason "$backend" "$count_of_ranks" "$@")
        [ -n "$why" ] && { echo "# $map: not for $backend: $why"; continue; }
        for setting in $settings; do
            [ "$backend,$setting" = "alltoallv,yes,1,all" ] && continue
            dedup=${setting%%,*} rest=${setting#*,}
            matches "$map: $backend, dedup $dedup, ${rest%,*} chunks, ${rest#*,} in flight" \
                "$count_of_ranks" reference --exchange.backend="$backend" --exchange.dedup="$dedup" \
                --exchange.chunks="${rest%,*}" --exchange.peers_in_flight="${rest#*,}" "$@"
        done
    done
}
settings="no,3,1"
backends_agree "one rank" 1
settings="yes,1,all no,3,1 yes,3,all"
backends_agree "2 ranks, one node" 2
backends_agree "4 ranks, one node" 4
settings="yes,1,all no,3,1"
backends_agree "2 ranks, two nodes" 2 --parallel.ranks_per_node=1
backends_agree "4 ranks, two nodes" 4 --parallel.ranks_per_node=2
settings="yes,3,all no,1,1"
backends_agree "4 ranks, four nodes" 4 --parallel.ranks_per_node=1
backends_agree "bf16, 4 ranks, two nodes" 4 --parallel.ranks_per_node=2 --exchange.wire=bf16
settings="yes,3,1"
backends_agree "bf16, 2 ranks, one node" 2 --exchange.wire=bf16
backends_agree "two leaves of two nodes" 4 --topology.source="leaf:2 node:2 rank:1"
backends_agree "bf16, two leaves of two nodes of two ranks" 8 --topology.source="leaf:2 node:2 rank:2" \
    --exchange.wire=bf16

# Rounding rows does not change what is learnt.
long="--train.steps=200 --evaluate.every=100 --model.sequence=8 --parallel.ranks_per_node=1"
check "200 steps in fp32" train 2 "$moire" fp32 $long
check "200 steps in bf16" train 2 "$moire" bf16 $long --exchange.wire=bf16 --exchange.backend=hierarchical
mean_of_last() { values loss "$1" | tail -n 20 | awk '{ sum += $2 } END { printf "%.9f\n", sum / NR }'; }
near() {
    awk -v a="$(mean_of_last fp32)" -v b="$(mean_of_last bf16)" -v n="$(values loss bf16 | wc -l)" \
        'BEGIN {
            print "fp32", a, "bf16", b; d = (a - b) / a
            exit !(n == 200 && d < 0.005 && d > -0.005 && d != 0)
        }'
}
check "the loss after 200 steps in bf16 is within 0.5 % of that in fp32, and another" near
near | sed 's/^/# mean of the last 20 losses: /'

# A run goes on with another back end as if nothing had happened.
nodes="--parallel.ranks_per_node=2 --checkpoint.every=never"
check "4 ranks: 6 steps" train 4 "$moire" whole $short $nodes --exchange.backend=pairwise
check_fails "3 steps with alltoallv" 75 "stopped after step 3 of 6" \
    train 4 "$moire" halves $short $nodes --train.stop_after=3 --exchange.backend=alltoallv
check "3 more with hierarchical" train 4 "$moire" halves $short $nodes --exchange.backend=hierarchical
check "the losses are those of pairwise alone" same_curve whole halves
check "the last checkpoint too, bit by bit" "$top_builddir/tests/train/compare_checkpoints" \
    "$scratch/whole/checkpoints/latest" "$scratch/halves/checkpoints/latest"

# At the start: exit code 2 and one message.
refused() { # LABEL TEXT ARGUMENT...
    label=$1; text=$2; shift 2
    check_fails "$label: exit code 2" 2 "$text" train 3 "$moire" refused $short "$@"
    grep '^moire: rank ' "$scratch/out" >"$scratch/messages"
    check "$label: one message" test "$(wc -l <"$scratch/messages")" -eq 1
    check "$label: no step was made" test ! -s "$scratch/refused/metrics.jsonl"
}
refused "shared on three nodes" \
    "found 3 nodes; try exchange.backend = one of auto, alltoallv, pairwise, hierarchical" \
    --exchange.backend=shared --parallel.ranks_per_node=1
refused "unknown back end" "did you mean 'hierarchical'" --exchange.backend=hierachical
finish
