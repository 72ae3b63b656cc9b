#!/bin/sh
# The compute table: share of the sgemm peak of the same run, beside what is wanted.
#   benchmarks/compute.sh [--section.key=value ...]     (the arguments go to every benchmark)
# MOIRE: the program (moire); MPIRUN: the launcher (mpirun); SECONDS_EACH: limit of one benchmark (30).
here=$(cd "$(dirname "$0")" && pwd)
moire=${MOIRE:-moire}
mpirun=${MPIRUN:-mpirun}
seconds=${SECONDS_EACH:-30}
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM
failed=0

# row WHAT WANTED THREADS RANKS BENCH CONFIGURATION ARGUMENT...: measures and prints one line.
row() {
    what=$1 wanted=$2 threads=$3 ranks=$4 bench=$5 configuration=$6
    shift 6
    launcher=
    [ "$ranks" -gt 1 ] && launcher="$mpirun -n $ranks"
    # shellcheck disable=SC2086
    if OMP_NUM_THREADS=$threads $launcher "$moire" bench "$bench" "$here/$configuration.ini" --format=csv \
        --output="$scratch/report" --bench.seconds="$seconds" "$@" >"$scratch/said" 2>&1; then
        awk -F, -v what="$what" -v wanted="$wanted" -v ranks="$ranks" -v threads="$threads" '
            /^# table: /             { table = $0; names = 1; next }
            /^#/                     { next }
            names                    { for (i = 1; i <= NF; i++) at[$i] = i; names = 0; next }
            table == "# table: result" {
                printf "%-30s %5d x %-2d %9.1f %9.1f %7.3f %7.2f  %s\n", what, ranks, threads, $at["ms"],
                    $at["tokens/s"], $at["share"], wanted, $at["conv"]
            }' "$scratch/report"
    else
        failed=1
        printf '%-30s failed: %s\n' "$what" "$(head -n 1 "$scratch/said")"
    fi
}

printf '# %s, %s\n' "$("$moire" --version)" "$(uname -n)"
printf '# share: of the best 2048^3 product of the same run, ranks and threads\n'
printf '# %-28s %5s x %-2s %9s %9s %7s %7s  %s\n' what ranks th ms tokens/s share wanted converged
row "step, MoE reference" 0.80 1 1 step moe-reference "$@"
row "step, MoE reference" 0.80 2 1 step moe-reference "$@"
row "step, MoE reference" 0.80 1 2 step moe-reference "$@"
row "step, GPT-2 B 4, T 64" 0.65 2 1 step gpt2-small-batch "$@"
row "step, GPT-2 B 8, T 256" 0.75 2 1 step gpt2-large-batch "$@"
row "layer, 4 experts" 0.90 1 1 layer layer "$@"
row "the same, no input gradient" 0.90 1 1 layer layer --bench.input_grad=no "$@"
row "layer, 64 experts, top-8" 0.72 1 1 layer layer-fine "$@"
exit "$failed"
