#!/bin/sh
# Memory that ranks of a node read from each other is refused by a limit: exit code 1, one message with the
# limit and two remedies, at the start or when buffers grow.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cli/tiny.sh"

# Ranks that are limited, and MPI without files of its own. The unit of `ulimit -f` is 512 bytes or 1024.
limited() { # UNITS ARGUMENT...
    units=$1; shift
    OMPI_MCA_btl=self,tcp mpi 3 sh -c 'ulimit -f "$0" && exec "$@"' "$units" \
        "$moire" train tiny.ini --checkpoint.every=never "$@"
}
remedies="over the limit on sizes of files; found a limit of [0-9]* bytes, expected at least [0-9]*;"
remedies="$remedies try ulimit -f unlimited, or exchange.backend = pairwise"
for backend in shared hierarchical; do
    refuses "$backend: at the start" 1 "memory for other ranks to read (exchange) is $remedies" \
        limited 64 --exchange.backend=$backend
    rm -rf run
    refuses "$backend: buffers" 1 "memory for other ranks to read (activations) is $remedies" \
        limited 1500 --exchange.backend=$backend --model.dim=64 --train.batch=900 --data.validation=0
    check "$backend: no step was made" test ! -s run/metrics.jsonl
    rm -rf run
done
refuses "hierarchical on three nodes" 1 "memory for other ranks to read (exchange) is $remedies" \
    limited 64 --exchange.backend=hierarchical --parallel.ranks_per_node=1
finish
