#!/bin/sh
# `moire info --topology` case by case: topology_cases.txt holds commands and what they print. With MOIRE_TEST_UPDATE=1 the file is
# written anew, for a look at the difference.
. "${top_srcdir:-.}/tests/support/tap.sh"
cases=$top_srcdir/tests/cluster/topology_cases.txt
cd "$scratch" || exit 1
unset SLURM_TOPOLOGY_ADDR SLURM_TOPOLOGY_ADDR_PATTERN HWLOC_XMLFILE HWLOC_SYNTHETIC
# As MPI calls it.
host=$("$moire" info | sed -n 's/^ *0  \([^ ]*\) .* cpus .*/\1/p')

# ---- commands of the cases ----

draw() { "$moire" info --topology="$1"; }
lines() { printf '%s\n' "$@" >list.txt; draw file:list.txt; }
# Standard output first, then what moire says on standard error; what mpirun says there is left out.
in_turn() { "$@" 2>said; sed -n '/^moire: /p; /^    /p' said; }
job_of() { in_turn "$@" | sed '/^network device/,/^moire: /{ /^moire: /!d; }'; } # without the devices of this machine
job() { ranks=$1; shift; job_of mpi "$ranks" "$moire" info --topology "$@"; }
hosts() { ranks=$1; shift; printf '%s\n' "$@" >list.txt; job "$ranks" --topology.source=file:list.txt; }
# slurm PATTERN 'ADDRESS OF RANK 0, OF RANK 1 ...' ARGUMENT...
slurm() {
    pattern=$1 addresses=$2; shift 2
    job_of mpi "$(echo "$addresses" | wc -w)" env SLURM_TOPOLOGY_ADDR_PATTERN="$pattern" addresses="$addresses" moire="$moire" sh -c '
        export SLURM_TOPOLOGY_ADDR="$(echo "$addresses" | cut -d" " -f$((OMPI_COMM_WORLD_RANK + 1)))"
        exec "$moire" info --topology "$@"' sh "$@"
}
on_two_sockets() { # COMMAND...: in each of two ranks, which know their number as $rank
    in_turn mpi 2 env moire="$moire" HWLOC_XMLFILE="$top_srcdir/tests/cluster/two-sockets.xml" sh -c '
        rank=$OMPI_COMM_WORLD_RANK; eval exec "$@" "\"\$moire\"" info --topology' sh "$@"
}

# ---- the loop ----

# The cases as files: N.name, N.command, N.wanted.
awk '
    /^== / { n++; print substr($0, 4) >(n ".name"); line = 0; held = ""; next }
    !n { next }
    line++ == 0 { print >(n ".command"); printf "" >(n ".wanted"); next }
    /^$/ { held = held "\n"; next }
    { printf "%s%s\n", held, $0 >(n ".wanted"); held = "" }
    END { print n >"count" }' "$cases"
sed '/^== /,$d' "$cases" >new.cases
"$moire" info --topology | grep -q 'this needs hwloc' && hwloc=no || hwloc=yes
for number in $(seq "$(cat count)"); do
    name=$(cat "$number.name") command=$(cat "$number.command")
    case $command in
    on_two_sockets*)
        if [ "$hwloc" = no ]; then skip "$name" "hwloc is not used"; continue; fi
        if ! taskset -c 0,1 true 2>/dev/null || ! taskset -c 1 true 2>/dev/null; then skip "$name" "no processors 0 and 1"; continue; fi ;;
    esac
    eval "$command" 2>&1 | sed "s/($host)/(HOST)/; s/'$host'/'HOST'/; s/: $host\$/: HOST/" |
        awk '/^$/ { held = held "\n"; next } { printf "%s%s\n", held, $0; held = "" }' >"$number.found"
    { printf '== %s\n%s\n' "$name" "$command"; cat "$number.found"; echo; } >>new.cases
    check "$name" diff "$number.wanted" "$number.found"
    check "$name: 80 columns" awk 'length > 80 && !/^moire: / { bad = 1; print } END { exit bad }' "$number.found"
done
[ "${MOIRE_TEST_UPDATE:-}" = 1 ] && cp new.cases "$cases"
finish
