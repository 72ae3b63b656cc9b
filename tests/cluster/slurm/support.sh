# Shared by the tests on the cluster, sourced after tap.sh. `make check-cluster` starts one and runs them; TMPDIR, and
# so $scratch, is then a folder that all nodes see. Without a cluster the test is skipped here.
# on NAME COMMAND...: there. ranks NODES RANKS PROGRAM...: by srun from the head.
# mpirun_on NODES: from now on what starts ranks (mpi, train, run-mpi) does so on so many nodes; 0: on this machine.
cluster=$top_srcdir/tests/cluster/slurm/cluster
if [ -z "${CLUSTER_DIR:-}" ]; then
    echo "1..0 # SKIP ${CLUSTER_SKIP:-needs a cluster: make check-cluster}"
    exit 0
fi
on() { timeout -k 5 "${MOIRE_TEST_SECONDS:-300}" "$cluster" on "$@"; }
ranks() { ranks_nodes=$1; ranks_count=$2; shift 2; on head srun --mpi=pmix -N "$ranks_nodes" -n "$ranks_count" "$@"; }
machine_mpirun=${MPIRUN:-mpirun}
mpirun_on() {
    if [ "$1" -eq 0 ]; then MPIRUN=$machine_mpirun; return; fi
    MPIRUN=$scratch/srun-$1
    printf '#!/bin/sh\nexec "%s" on head srun --mpi=pmix -N %s "$@"\n' "$cluster" "$1" >"$MPIRUN"
    chmod +x "$MPIRUN"
    export MPIRUN
}
