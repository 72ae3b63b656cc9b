#!/bin/sh
# More than 2^31 bytes in one transfer, to one peer and to all, moved and checked row by row with every back end.
#   benchmarks/large.sh [BACKEND ...]          (those that are applicable, one after the other)
# Needs 12 GiB of memory. MOIRE: the program (moire); MPIRUN: the launcher (mpirun).
#
# One rank has all tokens, and all their experts are on other ranks (moe.forced = remote, a batch of one sequence), so that
# only one copy of the rows is sent: with R bytes of rows, it holds R of tokens, R of sums and a message; the others hold what
# they received and a message.
moire=${MOIRE:-moire}
mpirun=${MPIRUN:-mpirun}
said=$(mktemp) || exit 1
trap 'rm -f "$said"' EXIT
trap 'exit 1' INT TERM
failed=0

# move WHAT RANKS TOKENS TOP_K BACKEND ARGUMENT...: rows of 16 KiB to top_k ranks.
move() {
    what=$1 ranks=$2 tokens=$3 top_k=$4 backend=$5
    shift 5
    if "$mpirun" -n "$ranks" "$moire" bench exchange --bench.traffic=model --bench.backends="$backend" --bench.baseline=no \
        --bench.seconds=0 --bench.samples=6 --format=csv --model.dim=4096 --model.sequence="$tokens" --train.batch=1 \
        --moe.forced=remote --moe.experts="$ranks" --moe.top_k="$top_k" --moe.layers=all "$@" >"$said" 2>&1; then
        awk -F, -v what="$what" -v backend="$backend" '
            /^# table: /                                         { table = $0; next }
            table == "# table: volume" && $4 == "dispatch" && $5 == "rows" { bytes = $7 + $8 + $9 }
            END { printf "ok: %-12s %-34s %.0f bytes of rows out and back\n", backend, what, bytes; exit bytes <= 2 ^ 31 }' "$said" && return
    fi
    failed=1
    printf 'not ok: %s, %s\n' "$backend" "$what"
    tail -n 5 "$said"
}

if [ $# -eq 0 ]; then
    # The names that a run of one small size measures.
    # shellcheck disable=SC2046
    set -- $("$mpirun" -n 2 "$moire" bench exchange --bench.bytes=64 --bench.baseline=no --bench.seconds=0 --format=csv |
        awk -F, '$3 == "prepare" && $4 != "index" { print $2 }')
fi
for backend; do
    move "to one rank, in rounds of 1 GiB" 2 147456 1 "$backend"
    move "to one rank, in one call" 2 147456 1 "$backend" --exchange.round_bytes=4Gi
    move "to two ranks, less to each" 3 73728 2 "$backend"
done
exit "$failed"
