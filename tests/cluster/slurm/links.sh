#!/bin/sh
# Each link has the rate asked for in both directions and a bucket of 1 ms, 32 KiB at least. What is read are the
# settings: no test measures time.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cluster/slurm/support.sh"

# The kernel counts in ticks, so that settings come back a little smaller.
is_near() { [ "$1" -ge $(($2 - $2 / 100)) ] && [ "$1" -le $(($2 + $2 / 100)) ]; }
# limited DEVICE PLACE MBIT BYTES: such a rate and bucket, or no limit for 0.
limited() {
    on "$2" tc -j qdisc show dev "$1" root >"$scratch/settings" || return 1
    cat "$scratch/settings"
    if [ "$3" -eq 0 ]; then ! grep -q tbf "$scratch/settings"; return; fi
    rate=$(sed -n 's/.*"kind":"tbf".*"rate":\([0-9]*\).*/\1/p' "$scratch/settings")
    burst=$(sed -n 's/.*"kind":"tbf".*"burst":\([0-9]*\).*/\1/p' "$scratch/settings")
    is_near "${rate:-0}" $(($3 * 125000)) && is_near "${burst:-0}" "$4"
}
# link NODE MBIT BYTES: both ends of it.
link() { limited eth0 "$@" && { shift; limited "to-$node" switch "$@"; }; }
links() { for node in node0 node1 node2 node3; do link "$node" "$@" || { echo "$node"; return 1; }; done; }
trunk() { limited trunk0 switch "$@" && limited trunk1 switch "$@"; }

check "rate 200" "$cluster" rate 200
check "every node's link" links 200 32768
check "rate 1000 of node2" "$cluster" rate 1000 node2
node=node2; check "that link, with a bucket of 1 ms" link node2 1000 125000
node=node3; check "no other" link node3 200 32768
check "uplink 50" "$cluster" uplink 50
check "the trunk, both ways" trunk 50 32768
check "rate 0" "$cluster" rate 0
check "no link is limited" links 0 0
check "uplink 0" "$cluster" uplink 0
check "nor is the trunk" trunk 0 0
check_fails "no number" 1 "a rate is a whole number of Mbit/s; found '1e3'" "$cluster" rate 1e3
finish
