#!/bin/sh
# Four nodes on two leaves: Slurm starts ranks on them, and nothing but the wire joins them.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cluster/slurm/support.sh"
places="head node0 node1 node2 node3"

# prints TEXT COMMAND...: the sorted lines of what it prints, joined by blanks.
prints() {
    wanted=$1; shift
    "$@" >"$scratch/printed" || return 1
    found=$(sort "$scratch/printed" | tr '\n' ' ')
    [ "$found" = "$wanted " ] || { echo "found '$found', expected '$wanted '"; return 1; }
}
check "srun: a rank a node" prints "node0 node1 node2 node3" ranks 4 4 hostname
check "srun: two ranks a node, in blocks" prints "0 node0 1 node0 2 node1 3 node1" \
    ranks 2 4 sh -c 'echo "$SLURM_PROCID $(hostname)"'
check "two leaves of two nodes" \
    prints "spine.leaf0.node0 spine.leaf0.node1 spine.leaf1.node2 spine.leaf1.node3" \
    ranks 4 4 sh -c 'echo "$SLURM_TOPOLOGY_ADDR"'

# Five places and the machine itself: six namespaces of each kind.
namespaces_differ() {
    for place in $places; do on "$place" readlink "/proc/self/ns/$1" || return 1; done >"$scratch/namespaces"
    readlink "/proc/self/ns/$1" >>"$scratch/namespaces"
    [ "$(sort -u "$scratch/namespaces" | wc -l)" -eq 6 ] || { cat "$scratch/namespaces"; return 1; }
}
for kind in net pid ipc mnt uts; do check "each has its own $kind namespace" namespaces_differ "$kind"; done

folder_is_own() {
    mark=$1/cluster-test-$$
    on node0 touch "$mark" && on node0 test -e "$mark" || return 1
    [ ! -e "$mark" ] || { echo "the machine sees it"; return 1; }
    for place in head node1 node2 node3; do on "$place" test ! -e "$mark" || { echo "$place sees it"; return 1; }; done
}
for folder in /tmp /dev/shm /run; do check "each has its own $folder" folder_is_own "$folder"; done

echo "of all" >"$scratch/shared"
check "a shared folder is seen by all" prints "of all of all of all of all" ranks 4 4 cat "$scratch/shared"
check "a node has its link and no other device" prints "eth0 lo" on node2 ls /sys/class/net

cd "$scratch" || exit 1
check "the working folder goes along" prints "$scratch" on node1 pwd
check_fails "the exit code comes back" 3 "told" on node1 sh -c 'echo told; exit 3'
check_fails "no such node" 1 "no node 'node9'; there are: switch head node0 node1 node2 node3" on node9 true

# slurmd listens on every node.
reaches() { on "$1" bash -c ": <'/dev/tcp/$2/6818'"; }
has_carrier() { [ "$(on "$1" cat /sys/class/net/eth0/operstate)" = "$2" ]; }
check "a node reaches another, over both leaves" reaches node0 node3
check "cut" "$cluster" cut node3
check "its link is down" has_carrier node3 down
check "the others' are up" has_carrier node2 up
check "heal" "$cluster" heal node3
check "its link is up" has_carrier node3 up
check "and it is reached again" reaches node0 node3
finish
