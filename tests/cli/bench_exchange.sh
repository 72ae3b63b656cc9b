#!/bin/sh
# moire bench exchange: what it prints and checks, not how fast anything is.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cli/tiny.sh"
few="--bench.seconds=0 --bench.samples=6 --bench.bytes=64,4096"
# shellcheck disable=SC2086
bench() { ranks=$1; shift; mpi "$ranks" "$moire" bench exchange $few "$@"; }
fits() { awk 'length > 110 { print "too long: " $0; bad = 1 } END { exit bad }' "$1"; }
# prints NAME TEXT COMMAND...: exit code 0, TEXT in the output, which stays in $said.
prints() {
    name=$1; text=$2; shift 2
    if ! "$@" >"$said" 2>&1; then failed "$name"
    elif ! grep -q -e "$text" "$said"; then failed "$name (no '$text' in the output)"
    else pass "$name"; fi
}
# csv_of TABLE: its lines, names first.
csv_of() { awk -v table="# table: $1" '/^# table: / { inside = ($0 == table); next } /^#/ { next } inside' "$said"; }
even() { csv_of "$1" | awk -F, 'NR == 1 { n = NF } NF != n { exit 1 } END { exit NR < 2 }'; }
# rows TABLE FIELD VALUE: how many lines of it have this value in the field.
rows() { csv_of "$1" | awk -F, -v field="$2" -v value="$3" 'NR > 1 && $field == value { n++ } END { print n + 0 }'; }
# sum FIELD BACKEND DIRECTION WHAT: of the table of bytes.
sum() {
    csv_of volume | awk -F, -v field="$1" -v name="$2,$3,$4" '
        NR == 1 { for (i = 1; i <= NF; i++) { if ($i == field) at = i; if ($i == "backend") b = i } next }
        $b "," $(b + 1) "," $(b + 2) == name { n += $at } END { printf "%.0f\n", n }'
}

# ---- by size ----

for ranks in 1 2 3 4; do
    prints "$ranks ranks" "^ *64 alltoallv  *dispatch  *[0-9.]" bench "$ranks"
    check "110 columns" fits "$said"
    for line in "moire bench: exchange" "versions: moire " "exchange: $ranks rank.*wire fp32" "traffic: as many rows" "MB/s: " \
        "backend alltoallv: " "run 64: 6 samples after a warm-up of " "bench.samples: 6"; do
        grep -q "^# $line" "$said" || echo "no $line"
    done >missing
    check "every setting" sh -c 'cat missing; test ! -s missing'
    check "dispatch, combine and prepare of two sizes" test \
        "$(grep -c '^ *\(64\|4096\) alltoallv  *\(dispatch\|combine\|prepare\) .*\(yes\|no\) *$' "$said")" -eq 6
    check "plain MPI and the copies" test "$(grep -c '^ *\(64\|4096\) \(mpi_alltoallv\|copies\) .*\(yes\|no\) *$' "$said")" -eq 8
done
prints "csv" "^bytes,backend,direction,wire_us" bench 3 --format=csv --parallel.ranks_per_node=2
check "times" even times
check "volume" even volume
# 3 ranks send 64 and 4096 bytes each to each other
check "rows that stay" test "$(sum own alltoallv dispatch rows)" -eq $((3 * 4160))
check "rows in the node" test "$(sum in_node alltoallv dispatch rows)" -eq $((2 * 4160))
check "rows between nodes" test "$(sum between_nodes alltoallv combine rows)" -eq $((4 * 4160))
check "numbers: 1 and 4 rows to each" test "$(sum own alltoallv dispatch numbers)" -eq $((3 * (1 + 4) * 4))
check "prepare moves an index" test "$(sum in_node alltoallv prepare index)" -gt 0
check "prepare moves no rows" test "$(sum in_node alltoallv prepare rows)" -eq 0
prints "rows alone" "numbers no" bench 2 --bench.numbers=no --format=csv
check "have no numbers" test "$(sum in_node alltoallv dispatch numbers)" -eq 0
prints "no baseline" "^64,alltoallv,combine" bench 2 --bench.baseline=no --format=csv
check "is there" sh -c '! grep -q "^64,\(mpi_alltoallv\|copies\)" "$1"' sh "$said"
prints "one back end" "^64,alltoallv,prepare" bench 2 --bench.backends=alltoallv --format=csv
check "and no other" test "$(csv_of times | awk -F, 'NR > 1 { print $2 }' | sort -u | tr '\n' ' ')" = "alltoallv copies mpi_alltoallv "
prints "bf16, chunks, groups of two ranks" "wire bf16, 3 chunks" bench 4 --exchange.wire=bf16 --exchange.chunks=3 --parallel.expert=2
prints "rounds" "100 bytes, all peers" bench 2 --exchange.round_bytes=100
prints "sizes that double" "^ *512 alltoallv" mpi 2 "$moire" bench exchange --bench.seconds=0 --bench.samples=6 --bench.bytes=128:1Ki,4
check "and single ones" grep -q "^ *4 copies" "$said"
check "and the last of a range" grep -q "^# run 1024: " "$said"
prints "the double build" "^ *4096 alltoallv  *combine" mpi 2 "$top_builddir/moire-double" bench exchange --bench.seconds=0 \
    --bench.samples=6 --bench.bytes=4096

# ---- by layer ----

for kind in even zipf remote; do
    prints "the model, $kind" "^0,[0-9]*,alltoallv,dispatch" bench 3 tiny.ini --bench.traffic=model --moe.forced=$kind --format=csv
    # 6 sequences of 32 tokens, top-2, rows of 16 floats
    check "all rows" test "$(($(sum own alltoallv dispatch rows) + $(sum in_node alltoallv dispatch rows)))" -eq $((6 * 32 * 2 * 64))
done
prints "markov: every layer" "^# run layer 1: " bench 2 tiny.ini --bench.traffic=model --moe.forced=markov
prints "ranks without tokens" "^ *0 .* alltoallv" bench 4 tiny.ini --bench.traffic=model --train.batch=2
prints "more ranks than experts" "^ *0 .* alltoallv" bench 3 tiny.ini --bench.traffic=model --moe.experts=2
mpi 2 "$moire" train tiny.ini --moe.record=yes --train.steps=1 >"$said" 2>&1
prints "replay: every layer of the recording" "^1,[0-9]*,alltoallv,dispatch" bench 2 tiny.ini --bench.traffic=model --moe.forced=replay \
    --moe.forced_file=run/routing.h5 --format=csv
check "has as many rows" test "$(rows times 1 0)" -eq "$(rows times 1 1)"

# ---- formats and samples ----

bench 2 --format=json --output=report.json --bench.record=samples.h5 >"$said" 2>&1
check "json in a file: nothing is said" test ! -s "$said"
if python3 -c 'import json' 2>/dev/null; then
    cat >read.py <<'PYTHON'
import csv, json, sys
report = json.load(open(sys.argv[1]))
assert report["header"]["moire bench"] == "exchange"
times, volume = report["tables"]["times"], report["tables"]["volume"]
for row in times:
    assert row["bytes"] in (64, 4096) and row["wire_us"] > 0 and row["low_us"] <= row["wire_us"] <= row["high_us"] <= row["p99_us"]
    assert row["skew_us"] >= 0
    assert (row["MB/s"] is None) == (row["direction"] == "prepare" or row["backend"] == "copies")
assert {row["what"] for row in volume} == {"rows", "numbers", "index"}
assert all(isinstance(row["in_node"], int) for row in volume)
samples = report["samples"]["4096"]
assert len(samples["alltoallv dispatch"]) == 6 and all(len(sample) == 2 for sample in samples["copies combine"])
lines = [line for line in open(sys.argv[2]) if not line.startswith("#")]
read = list(csv.reader(lines))
names = [row for row in read if row[0] == "bytes"]
assert len(names) == 2 and all(len(row) in map(len, names) for row in read)
PYTHON
    bench 2 --format=csv --output=report.csv >"$said" 2>&1
    check "json and csv are valid" python3 read.py report.json report.csv
else
    skip "json and csv are valid" "there is no python3"
fi
check "samples by rank are HDF5" sh -c 'test "$(head -c 4 samples.h5 | tail -c 3)" = HDF'
check "of every variant" sh -c 'test "$(wc -c <samples.h5)" -gt $((2 * 7 * 6 * 2 * 2 * 8))'

# ---- what is wrong ----

wrong=$top_builddir/tests/cli/moire-wrong
check_fails "a bit that changes on the way" 1 "alltoallv moved a wrong row to rank [01]; found .* in row [0-9]*, element 0, expected .* of token" \
    mpi 2 "$wrong" bench exchange --bench.bytes=64 --bench.backends=alltoallv
check_fails "in a model's traffic" 1 "moved a wrong row to rank .* try another of bench.backends" mpi 3 "$wrong" bench exchange tiny.ini \
    --bench.traffic=model --bench.backends=alltoallv
check_fails "an unknown back end" 2 "unknown back end in bench.backends 'alltoal'; did you mean 'alltoallv'" bench 2 --bench.backends=alltoal
check_fails "no back end" 2 "bench.backends is empty.* try bench.backends = all" bench 1 --bench.backends=
check_fails "a range that falls" 2 "found '4:2', expected at most 64 sizes .* try bench.bytes = 64:4194304" bench 1 --bench.bytes=4:2
check_fails "no size" 2 "bench.bytes must be" bench 1 --bench.bytes=64,x
check_fails "nothing" 2 "bench.bytes must be" bench 1 --bench.bytes=0
check_fails "too many sizes" 2 "bench.bytes must be" bench 1 --bench.bytes=1:1G,1:1G,1:1G
check_fails "another kind of traffic" 2 "bench.traffic" bench 1 --bench.traffic=modal
check_fails "a model without experts" 2 "found moe.layers = none, .* try moe.layers = all" bench 2 tiny.ini --bench.traffic=model \
    --moe.layers=none
check_fails "replay of nothing" 2 "try moe.forced_file = " bench 2 tiny.ini --bench.traffic=model --moe.forced=replay
check_fails "replay of another model" 1 "is of another model; found 4 experts" bench 2 tiny.ini --bench.traffic=model --moe.forced=replay \
    --moe.forced_file=run/routing.h5 --moe.experts=8
check_fails "sums that are not exact" 2 "found moe.top_k = 300, .* try exchange.wire = fp32" bench 2 --moe.experts=300 --moe.top_k=300 \
    --exchange.wire=bf16
check_fails "samples that cannot be written" 1 "nowhere" bench 2 --bench.record=nowhere/samples.h5
finish
