#!/bin/sh
# However a cluster ends, or fails to start, nothing of it is left: no process, no namespace, no mount, no device, no
# file; and clusters side by side do not meet. These are of their own, with two nodes.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cluster/slurm/support.sh"
first=$CLUSTER_DIR
unset CLUSTER_DIR
patience=200 # looks of 0.1 s each, for what ends a little later than its signal
name=$(mktemp -u "${TMPDIR:-/tmp}/second.XXXXXX") # exported to the commands only: what has it is a part of the cluster

# Every process of a cluster has the folder's name in its arguments or its environment.
printf '%s' "$name" >"$scratch/name"
processes() { grep -l -s -a -F -f "$scratch/name" /proc/[0-9]*/cmdline /proc/[0-9]*/environ; }
has_processes() { [ -n "$(processes)" ]; }
outside() {
    cut -d ' ' -f 4- /proc/self/mountinfo
    ip -o link show | sed 's/^[0-9]*: //; s/ .*//'
    ls -R /sys/fs/cgroup /run/netns 2>/dev/null | grep -i -E 'slurm|node[0-9]'
}
outside >"$scratch/before"
no_process() {
    looks=0
    while found=$(processes); [ -n "$found" ]; do
        looks=$((looks + 1))
        [ "$looks" -lt "$patience" ] || { echo "left: $found"; return 1; }
        sleep 0.1
    done
}
nothing_left() {
    no_process || return 1
    [ ! -e "$name" ] || { ls -lR "$name"; return 1; }
    outside >"$scratch/after"
    diff "$scratch/before" "$scratch/after"
}
wait_for_file() {
    looks=0
    until [ -e "$1" ]; do
        looks=$((looks + 1))
        [ "$looks" -lt "$patience" ] || { echo "$1 did not appear"; return 1; }
        sleep 0.1
    done
}
second() { env CLUSTER_DIR="$name" CLUSTER_SHARED="$scratch" "$@"; }
up() { second "$cluster" up 2; }
# Its process is $pid. The shell has its background ignore SIGINT.
in_background() {
    { exec env --default-signal=INT CLUSTER_DIR="$name" CLUSTER_SHARED="$scratch" "$@"; } >"$scratch/said" 2>&1 &
    pid=$!
}
# Sent until it ends: bash may lose one that comes while it waits for a command.
send_until_end() { # SIGNAL
    looks=0
    until grep -q -s '^State:.Z' "/proc/$pid/status" || ! kill -s "$1" "$pid" 2>/dev/null; do
        looks=$((looks + 1))
        [ "$looks" -lt "$patience" ] || { echo "SIG$1 does not end it"; return 1; }
        sleep 0.1
    done
}
answers() { CLUSTER_DIR=$1 "$cluster" on head srun -N 2 -n 2 true; }

# ---- side by side ----
check "a second cluster beside the first" up
check "it runs" answers "$name"
check "the first still does" answers "$first"
check_fails "none in the same folder" 1 "cannot make $name; one cluster to a folder" up
check "which leaves that one alone" answers "$name"
check "it is found by the name of its folder" has_processes
check "down" second "$cluster" down
check "nothing is left" nothing_left
check "the first runs" answers "$first"
check_fails "there is none any more" 1 "no cluster in $name" second "$cluster" on head true

# ---- a start that fails, and one that is told to end ----
mkdir "$scratch/broken" "$scratch/slow"
printf '#!/bin/sh\necho slurmctld: no good\nexit 1\n' >"$scratch/broken/slurmctld"
printf '#!/bin/sh\nexec sleep 1000\n' >"$scratch/slow/slurmctld" # the nodes boot, and Slurm never answers
chmod +x "$scratch/broken/slurmctld" "$scratch/slow/slurmctld"
check_fails "a daemon ends at once" 1 "cluster: slurmctld of head ended" \
    second env PATH="$scratch/broken:$PATH" "$cluster" up 2
grep -q 'no good' "$scratch/out" && pass "its words are shown" || fail "its words are shown"
check "nothing is left" nothing_left
check_fails "no number of nodes" 1 "NODES is 2 to 64; found '1'" second "$cluster" up 1
check "nothing was made" nothing_left

# signalled SIGNAL up|with...: started, told to end once node1 has booted.
signalled() {
    signal=$1; shift
    in_background PATH="$scratch/slow:$PATH" "$cluster" "$@"
    wait_for_file "$name/booted/node1" || return 1
    send_until_end "$signal" || return 1
    wait "$pid"; code=$?
    [ "$code" -gt 128 ] || { echo "exit code $code"; return 1; }
}
for signal in INT TERM HUP; do
    check "up gets SIG$signal half way" signalled "$signal" up 2
    check "SIG$signal: nothing is left" nothing_left
done
check "up is killed half way" signalled KILL up 2
check "down after that" second "$cluster" down
check "killed: nothing is left" nothing_left
check "with is killed half way" signalled KILL with 2 0 0 true
check "killed: no process is left" no_process
check "down takes the folder" second "$cluster" down
check "killed: nothing is left" nothing_left

# ---- with ----
with() { second "$cluster" with 2 100 100 "$@"; }
check_fails "with: the exit code of the command" 7 "^node1" \
    with sh -c "'$cluster' on head srun -N 2 -n 2 hostname && exit 7"
check "with: nothing is left" nothing_left
interrupted_with() {
    in_background "$cluster" with 2 0 0 sh -c 'echo >"$TMPDIR/begun"; sleep 1000'
    wait_for_file "$name/shared/begun" || return 1
    send_until_end "$1" || return 1
    wait "$pid"; code=$?
    [ "$code" -eq "$2" ] || { echo "exit code $code"; return 1; }
}
check "with gets SIGTERM while its command runs" interrupted_with TERM 143
check "SIGTERM: nothing is left, the command neither" nothing_left
check "with gets SIGINT while its command runs" interrupted_with INT 130
check "SIGINT: nothing is left, the command neither" nothing_left
finish
