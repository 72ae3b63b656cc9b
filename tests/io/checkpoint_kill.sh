# A run that writes checkpoints without pause is killed 50 times, each time at another moment; whatever was
# written before must be there and sound, and the next start goes on from it. MOIRE_TEST_ROUNDS sets the
# number.
. "$top_srcdir/tests/support/tap.sh"
writer=$top_builddir/tests/io/checkpoint_writer
seed=${MOIRE_TEST_SEED:-$(date +%s)}
rounds=${MOIRE_TEST_ROUNDS:-50}
echo "# MOIRE_TEST_SEED=$seed"
mkdir "$scratch/checkpoints" "$scratch/notes"
# Open MPI gives the other ranks no second to end by themselves.
export TMPDIR="$scratch" OMPI_MCA_odls_base_sigkill_timeout=0

# The last step whose write returned.
done_step() { cat "$scratch/notes/done" 2>/dev/null || echo 0; }

# Waits until all ranks have told their process number: they then write.
started() {
    for i in $(seq 400); do
        [ -s "$scratch/notes/pid.0" ] && [ -s "$scratch/notes/pid.1" ] &&
            [ -s "$scratch/notes/pid.2" ] && return 0
        kill -0 "$1" 2>/dev/null || return 1
        sleep 0.05
    done
    return 1
}

# One start and its end; `victims`: ranks to kill, after `delay` seconds.
one_round() {
    rm -f "$scratch"/notes/pid.*
    mpi 3 "$writer" loop "$scratch/checkpoints" "$scratch/notes" >"$scratch/out" 2>&1 &
    job=$!
    if ! started "$job"; then
        echo "the writers did not start" >>"$scratch/out"
        kill "$job" 2>/dev/null; wait "$job"; return 1
    fi
    sleep "$delay"
    for rank in $victims; do kill -9 "$(cat "$scratch/notes/pid.$rank")" 2>/dev/null; done
    wait "$job"
    "$writer" check "$scratch/checkpoints" "$(done_step)" >>"$scratch/out" 2>&1
}

bad=0; partial=0
for round in $(seq "$rounds"); do
    set -- $(awk -v seed=$((seed + 1000 * round)) \
        'BEGIN { srand(seed); rand(); print int(3 * rand()), 0.3 * rand() }')
    delay=$2
    case $((round % 5)) in 0) victims="0 1 2" ;; *) victims=$1 ;; esac
    if ! one_round; then
        bad=$((bad + 1)); echo "# round $round, killed $victims after $delay s:"; sed 's/^/# /' "$scratch/out"
        [ "$bad" -ge 3 ] && break
    fi
    ls -A "$scratch/checkpoints" | grep -q partial && partial=$((partial + 1))
done
final=$(done_step)
echo "# $partial of $rounds kills left a partial file; last step written: $final"
check "the latest checkpoint survives $rounds kills" test "$bad" -eq 0

check "another number of ranks reads it" mpi 2 "$writer" read "$(readlink -f "$scratch/checkpoints/latest")" \
    "$("$writer" check "$scratch/checkpoints" "$final" | sed 's/.*step-0*\([0-9]*\)\.h5/\1/')"
check "and goes on writing" mpi 2 "$writer" write "$scratch/checkpoints" $((final + 5)) 1
check "without what the killed ones left" test "$(ls -A "$scratch/checkpoints" | tr '\n' ' ')" \
    = "latest $(readlink "$scratch/checkpoints/latest") "
comment "$(ls -A "$scratch/checkpoints")"
finish
