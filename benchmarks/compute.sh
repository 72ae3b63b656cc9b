#!/bin/sh
# The compute table: each figure as share of what the machine does in the same run, beside what is wanted.
#   benchmarks/compute.sh [--quick] [--rows=PATTERN,...] [--list] [--section.key=value ...]
# --rows    only rows whose name fits one of the shell patterns: --rows='layer*,pack-2*'
# --quick   at most 10 s a row, without the rows that this is too short for (unless --rows names them)
# --list    says what would run and for how long, and runs nothing
# Other arguments go to every benchmark.
# MOIRE: the program (moire); MPIRUN: the launcher (mpirun); SECONDS_EACH: limit of one benchmark (30).
here=$(cd "$(dirname "$0")" && pwd)
moire=${MOIRE:-moire}
mpirun=${MPIRUN:-mpirun}
seconds=${SECONDS_EACH:-30}
patterns='' quick=no list=no

usage() { echo "compute.sh: $1; try --quick, --rows=PATTERN,..., --list or --section.key=value" >&2; exit 2; }

# Takes the options of this script out of the arguments.
for argument in "$@"; do
    shift
    case $argument in
        --quick) quick=yes seconds=${SECONDS_EACH:-10} ;;
        --list) list=yes ;;
        --rows=?*) patterns=$(printf '%s' "${argument#--rows=}" | tr ',' ' ') ;;
        --*.*=*) set -- "$@" "$argument" ;;
        *) usage "unknown argument '$argument'" ;;
    esac
done
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM

# ACTION NAME CALL WHAT WANTED THREADS RANKS BENCH CONFIGURATION ARGUMENT... for each row. CALL: seconds of one round on cores
# of 90 GFLOP/s and a disk of 500 MB/s. CONFIGURATION -: none.
each_row() {
    "$1" step-moe-1x1 17 "step, MoE reference" 0.80 1 1 step moe-reference
    "$1" step-moe-1x2 9 "step, MoE reference" 0.80 2 1 step moe-reference
    "$1" step-moe-2x1 9 "step, MoE reference" 0.80 1 2 step moe-reference
    "$1" step-gpt2-small 0.5 "step, GPT-2 B 4, T 64" 0.65 2 1 step gpt2-small-batch
    "$1" step-gpt2-large 3 "step, GPT-2 B 8, T 256" 0.75 2 1 step gpt2-large-batch
    "$1" layer 0.5 "layer, 4 experts" 0.90 1 1 layer layer
    "$1" layer-no-input-grad 0.5 "the same, no input gradient" 0.90 1 1 layer layer --bench.input_grad=no
    "$1" layer-fine 0.6 "layer, 64 experts, top-8" 0.72 1 1 layer layer-fine
    for threads in 1 2; do
        "$1" "pack-${threads}x1024" 0.1 "pack, 1024 x 512, top-2" 0.70 $threads 1 pack - --bench.shapes=1024x512x2
        "$1" "pack-${threads}x4096" 0.1 "pack, 4096 x 512, top-2" 0.70 $threads 1 pack - --bench.shapes=4096x512x2
        "$1" "pack-${threads}x1024-top8" 0.1 "pack, 1024 x 512, top-8" 0.70 $threads 1 pack - --bench.shapes=1024x512x8
        "$1" "pack-${threads}x1024-wide" 0.2 "pack, 1024 x 4096, top-2" 0.70 $threads 1 pack - --bench.shapes=1024x4096x2
    done
    "$1" checkpoint 4 "checkpoint beside dd" 0.80 1 2 checkpoint moe-reference --model.layers=2 --train.batch=2
}

# estimate CALL: seconds of a row at most: 3 rounds of warm-up and 6 samples at least, set-up and check about 3 more.
estimate() { awk -v call="$1" -v most="$seconds" 'BEGIN { s = 12 * call; if (s < most) s = most; printf "%d\n", s }'; }

is_chosen() { # NAME CALL
    if [ -n "$patterns" ]; then
        for pattern in $patterns; do
            # shellcheck disable=SC2254 # it is a pattern
            case $1 in $pattern) return 0 ;; esac
        done
        return 1
    fi
    [ "$quick" = no ] || awk -v call="$2" 'BEGIN { exit 12 * call > 30 }'
}

count() {
    if is_chosen "$1" "$2"; then
        row_count=$((row_count + 1)) all_seconds=$((all_seconds + $(estimate "$2")))
        [ "$list" = no ] || printf '%-20s %5d s  %s, %d rank(s) x %d thread(s)\n' "$1" "$(estimate "$2")" "$3" "$6" "$5"
    elif [ -z "$patterns" ]; then
        left_out="$left_out $1"
    fi
}

measure() {
    name=$1 call=$2 what=$3 wanted=$4 threads=$5 ranks=$6 bench=$7 configuration=$8
    shift 8
    is_chosen "$name" "$call" || return 0
    launcher=
    [ "$ranks" -gt 1 ] && launcher="$mpirun -n $ranks"
    [ "$configuration" = - ] || set -- "$here/$configuration.ini" "$@"
    # shellcheck disable=SC2086
    if OMP_NUM_THREADS=$threads $launcher "$moire" bench "$bench" "$@" --format=csv --output="$scratch/report" \
        --bench.seconds="$seconds" $more >"$scratch/said" 2>&1; then
        awk -F, -v what="$what" -v wanted="$wanted" -v ranks="$ranks" -v threads="$threads" '
            /^# table: /             { table = $0; names = 1; next }
            /^#/                     { next }
            names                    { split("", at); for (i = 1; i <= NF; i++) at[$i] = i; names = 0; next }
            table == "# table: result" && $1 !~ /^(dispatch|combine|dd)$/ {
                printf "%-30s %5d x %-2d %9.3f %9s %7.3f %7.2f  %s\n", what, ranks, threads,
                    "ms" in at ? $at["ms"] : 1000 * $at["seconds"],
                    "tokens/s" in at ? sprintf("%.1f", $at["tokens/s"]) : "-", $at["share"], wanted, $at["conv"]
            }' "$scratch/report"
    else
        failed=1
        printf '%-30s failed: %s\n' "$what" "$(head -n 1 "$scratch/said")"
    fi
}

failed=0 row_count=0 all_seconds=0 left_out='' more="$*"
each_row count
[ "$row_count" -gt 0 ] || usage "no row is named '$patterns'"
if [ "$list" = yes ]; then printf '%-20s %5d s\n' "all" "$all_seconds"; exit 0; fi
printf '# %s, %s\n' "$("$moire" --version)" "$(uname -n)"
printf '# %d rows, about %d min at most; share: of the best 2048^3 product, of memcpy (pack) or of dd (checkpoint)\n' "$row_count" \
    "$(((all_seconds + 59) / 60))"
[ -z "$left_out" ] || printf '# too long for --quick and left out:%s\n' "$left_out"
printf '# %-28s %5s x %-2s %9s %9s %7s %7s  %s\n' what ranks th ms tokens/s share wanted converged
each_row measure
exit "$failed"
