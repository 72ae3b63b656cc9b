#!/bin/sh
# The conformance test of the exchange with ranks on several nodes: every back end of the table, over the wire.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cluster/slurm/support.sh"
conformance=$top_builddir/tests/exchange/conformance

conforms() { # NODES RANKS
    mpirun_on "$1"
    MOIRE_TEST_RANKS=$2 sh "$top_srcdir/tests/support/run-mpi" "$conformance" >"$scratch/results" 2>&1
    cat "$scratch/results"
    grep -q '^ok' "$scratch/results" && ! grep -q '^not ok' "$scratch/results"
}
for nodes in 2 3 4; do
    for each in 1 2; do check "$nodes nodes, $each ranks a node" conforms "$nodes" $((nodes * each)); done
done
finish
