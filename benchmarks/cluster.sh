#!/usr/bin/env bash
# cluster.sh [NODES [MBIT]]: de-duplication between nodes, measured on a cluster of namespaces on this machine
# (tests/cluster/slurm/cluster; root and Slurm are needed): NODES nodes (4) with links of MBIT Mbit/s (200), the exchange
# of one layer with uniform routing, 256 tokens of 512 floats a rank. For each case the wire time of alltoallv with an
# fp32 wire, of pairwise and of hierarchical, and how many times faster hierarchical is; and what the bytes allow.
# From a build directory: MOIRE=./moire ../benchmarks/cluster.sh. Ranks a node: RANKS="1 2". Seconds a case: SECONDS_EACH=12.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nodes=${1:-4} mbit=${2:-200}
moire=$(realpath "${MOIRE:-./moire}")
ranks=${RANKS:-1 2} seconds=${SECONDS_EACH:-12}
cluster=$here/../tests/cluster/slurm/cluster
[ -x "$moire" ] || { echo "cluster.sh: no program $moire; set MOIRE" >&2; exit 2; }

if [ -z "${CLUSTER_DIR:-}" ]; then
    why=$("$cluster" able 2>&1) || { echo "cluster.sh: $why" >&2; exit 1; }
    export MOIRE=$moire CLUSTER_SHARED=$(dirname "$moire"):$here:$PWD
    exec "$cluster" with "$nodes" "$mbit" 0 "$here/cluster.sh" "$nodes" "$mbit"
fi

# Without these Open MPI looks for InfiniBand, and ranks that share a core wait for each other without giving way.
export OMPI_MCA_btl_tcp_if_include=eth0 OMPI_MCA_btl=^uct,openib,ofi OMPI_MCA_pml=ob1 OMPI_MCA_mtl=^ofi
export OMPI_MCA_btl_base_warn_component_unused=0 OMPI_MCA_mpi_yield_when_idle=1 OMP_NUM_THREADS=1

run() { # RANKS-A-NODE EXPERTS TOP_K WIRE: lines "backend direction microseconds saved"
    "$cluster" on head srun --mpi=pmix -N"$nodes" --ntasks-per-node="$1" "$moire" bench exchange --bench.traffic=model \
        --model.dim=512 --model.sequence=256 --train.batch=$((nodes * $1)) --moe.router=forced --moe.forced=uniform \
        --moe.experts="$2" --moe.top_k="$3" --exchange.wire="$4" --bench.backends=alltoallv,pairwise,hierarchical \
        --bench.baseline=no --bench.seconds="$seconds" 2>/dev/null |
        awk '$4 ~ /^(dispatch|combine)$/ && $5 ~ /^[0-9.]+$/ { wire[$3, $4] = $5 }
             $4 ~ /^(dispatch|combine)$/ && $5 == "rows"     { far[$3, $4] = $8 + $9 }
             END { for (k in wire) { split(k, p, SUBSEP); print p[1], p[2], wire[k], far[k] } }'
}

printf '# cluster.sh: %s nodes, %s Mbit/s a link, 256 tokens of 512 elements a rank, uniform routing\n' "$nodes" "$mbit"
printf '# times: wire_us of alltoallv with fp32 over that of hierarchical; bytes: the same of bytes between nodes\n'
printf '%-8s %5s %-5s %-9s %12s %12s %12s %6s %6s\n' experts top_k wire direction alltoallv pairwise hierarchical times bytes
for each in $ranks; do
    printf '# %s ranks a node\n' "$each"
    for case in "32 4" "256 8"; do
        read -r experts top_k <<<"$case"
        reference=
        for wire in fp32 bf16; do
            found=$(run "$each" "$experts" "$top_k" "$wire")
            [ -n "$found" ] || { echo "cluster.sh: moire bench exchange printed nothing" >&2; exit 1; }
            [ "$wire" = fp32 ] && reference=$found
            for direction in dispatch combine; do
                awk -v d="$direction" -v head="$(printf '%-8s %5s %-5s %-9s' "$experts" "$top_k" "$wire" "$direction")" '
                    $2 == d && NR == FNR { if ($1 == "alltoallv") { base = $3; bytes = $4 } next }
                    $2 == d              { us[$1] = $3; far[$1] = $4 }
                    END { printf "%s %12.0f %12.0f %12.0f %6.2f %6.2f\n", head, us["alltoallv"], us["pairwise"],
                                 us["hierarchical"], base / us["hierarchical"], bytes / far["hierarchical"] }' \
                    <(printf '%s\n' "$reference") <(printf '%s\n' "$found")
            done
        done
    done
done
