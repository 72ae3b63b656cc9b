#!/bin/sh
# Back ends of the exchange by size, for 1 to N ranks on this machine, as csv files and a picture of each.
#   benchmarks/exchange.sh [N [FOLDER [--section.key=value ...]]]     (2 ranks, folder "exchange")
# MOIRE: the program (moire); MPIRUN: the launcher (mpirun); SECONDS_EACH: limit of one size (10).
here=$(cd "$(dirname "$0")" && pwd)
moire=${MOIRE:-moire}
mpirun=${MPIRUN:-mpirun}
seconds=${SECONDS_EACH:-10}
most=${1:-2}
folder=${2:-exchange}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] && shift
case $most in *[!0-9]* | '') echo "exchange.sh: found '$most', expected the most ranks to measure; try exchange.sh 2" >&2; exit 2 ;; esac
mkdir -p "$folder" || exit 1
failed=0
ranks=1
while [ "$ranks" -le "$most" ]; do
    file=$folder/ranks-$ranks
    # One thread a rank: the copies of two ranks must not wait for each other's threads.
    if OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$mpirun" -n "$ranks" "$moire" bench exchange --format=csv --output="$file.csv" \
        --bench.seconds="$seconds" "$@"; then
        echo "$file.csv"
        if command -v gnuplot >/dev/null && gnuplot -e "file='$file.csv'; picture='$file.png'" "$here/exchange.gp"; then
            echo "$file.png"
        fi
    else
        failed=1
    fi
    ranks=$((ranks + 1))
done
exit "$failed"
