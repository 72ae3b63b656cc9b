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
# Not every product of both: one rank a node is the wire alone, two are a node of their own.
for layout in "2 2" "3 1" "4 2"; do
    set -- $layout
    check "$1 nodes, $2 ranks a node" conforms "$1" $(($1 * $2))
done
finish
