#!/bin/sh
# Ranks that differ, fail or die alone, and an OpenBLAS that does not fit: one message, and nobody waits.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cli/tiny.sh"

# ---- ranks ----

alone() { env -u OMPI_COMM_WORLD_SIZE -u OMPI_COMM_WORLD_RANK -u PMI_SIZE -u PMI_RANK "$@" "$moire" train tiny.ini -o alone; }
refuses "the first of three single-rank jobs says so" 2 \
    "started as 3 separate single-rank jobs; found a world of 1 rank, expected 3 as PMI_SIZE says; start with the mpirun" \
    alone PMI_SIZE=3 PMI_RANK=0
alone PMI_SIZE=3 PMI_RANK=2 >"$said" 2>&1; code=$?
check "the others leave with 2" test $code -eq 2
check "and say nothing" test ! -s "$said"
check "they wrote nothing" test ! -e alone

# differing ARGUMENT: rank 1 of three is started with it.
differing() {
    timeout 60 "${MPIRUN:-mpirun}" -n 1 "$moire" train tiny.ini -o apart : -n 1 "$moire" train tiny.ini -o apart "$@" \
        : -n 1 "$moire" train tiny.ini -o apart
}
seconds() { date +%s; }
for argument in --data.path=nowhere --model.dim=32 --parallel.expert=1; do
    key=${argument%=*}
    refuses "$argument on one rank alone" 2 \
        "${key#--} differs between ranks; found '${argument#*=}' on rank 1, expected '.*' as on rank 0; give every rank" differing "$argument"
done
refuses "a key that one rank alone does not know" 2 "rank 1.*unknown key model.dmi on the command line; did you mean model.dim?" \
    differing --model.dmi=3
mkdir there elsewhere nothing
for place in there elsewhere; do cp -r text tiny.ini "$place"; done
sed 's/line/LINE/' text/lines.txt >elsewhere/text/lines.txt
cp tiny.ini nothing
in_places() {
    timeout 60 "${MPIRUN:-mpirun}" -n 2 -wdir "$scratch/there" "$moire" train tiny.ini : -n 1 -wdir "$scratch/$1" "$moire" train tiny.ini
}
refuses "other data on one rank" 2 "the data differs between ranks; found [0-9a-f]* on rank 2 of world, expected [0-9a-f]* as on rank 0" \
    in_places elsewhere
start=$(seconds)
mpi 3 "$moire" info >"$said" 2>&1
usual=$(($(seconds) - start)) # to start and to end
start=$(seconds)
refuses "no data on one rank" 1 "rank 2.*no file matches the pattern 'text/\*'; try" in_places nothing
check "all ranks are gone within 5 seconds" test $(($(seconds) - start)) -le $((5 + usual))
check "nobody wrote a run" test ! -e apart -a ! -e there/run

# One rank is killed in the middle.
"${MPIRUN:-mpirun}" -n 3 sh -c 'echo $$ >"pid.$OMPI_COMM_WORLD_RANK"; exec "$0" "$@"' \
    "$moire" train tiny.ini -o killed -n 1000000 --evaluate.every=never >"$said" 2>&1 &
launcher=$!
for tenth in $(seq 1 300); do
    [ -f killed/metrics.jsonl ] && [ "$(wc -l <killed/metrics.jsonl)" -ge 8 ] && break
    sleep 0.1
done
if [ -s pid.1 ]; then
    start=$(seconds)
    kill -KILL "$(cat pid.1)"
    wait "$launcher"
    check "where one rank is killed, all are gone within 5 seconds" test $(($(seconds) - start)) -le 5
    ends "the run goes on from its last checkpoint" 75 "going on from killed/checkpoints/step-" \
        trains -o killed -n 1000000 --train.stop_after=1
else
    kill -TERM "$launcher"; wait "$launcher"
    skip "where one rank is killed, all are gone within 5 seconds" "this mpirun does not tell ranks their number as Open MPI does"
fi

# ---- OpenBLAS ----

# The pthread variant: installed, or unpacked here.
pthread_variant() {
    for place in /usr/lib/*/openblas-pthread; do [ -f "$place/libopenblas.so.0" ] && { echo "$place"; return 0; }; done
    mkdir -p blas && cd blas && timeout 60 apt-get download libopenblas0-pthread && dpkg -x ./*.deb . || return 1
    for place in "$PWD"/usr/lib/*/openblas-pthread; do [ -f "$place/libopenblas.so.0" ] && { echo "$place"; return 0; }; done
    return 1
}
place=$(pthread_variant 2>"$scratch/got" | tail -n 1)
if ! LD_LIBRARY_PATH=$place ldd "$moire" 2>"$scratch/got" | grep -q "${place:-no place}"; then
    skip "the pthread variant of OpenBLAS" "it cannot be had, or moire is not linked with libopenblas.so.0"
else
    ends "the pthread variant of OpenBLAS under two threads: a warning that names the package" 0 \
        "warning: OpenBLAS is not its OpenMP variant.*install libopenblas0-openmp" \
        mpi 2 env LD_LIBRARY_PATH="$place" OMP_NUM_THREADS=2 "$moire" train tiny.ini -o threads -n 1
    mpi 2 env LD_LIBRARY_PATH="$place" OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=1 "$moire" info >"$said" 2>&1
    check "what it advises ends it" sh -c '! grep -q "warning: OpenBLAS" "$1"' sh "$said"
fi
finish
