#!/bin/sh
# moire bench: what it prints, not how fast it is.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cli/tiny.sh"
bench() { "$moire" bench "$@" --bench.seconds=0 --bench.samples=6; }
mpi_bench() { ranks=$1; shift; mpi "$ranks" "$moire" bench "$@" --bench.seconds=0 --bench.samples=6; }
fits() { awk 'length > 80 { print "too long: " $0; bad = 1 } END { exit bad }' "$1"; }
# prints NAME TEXT COMMAND...: exit code 0, TEXT in the output, which stays in $said.
prints() {
    name=$1; text=$2; shift 2
    if ! "$@" >"$said" 2>&1; then failed "$name"
    elif ! grep -q -e "$text" "$said"; then failed "$name (no '$text' in the output)"
    else pass "$name"; fi
}
# has_header BENCH RANKS: the settings that every report begins with.
has_header() {
    for line in "moire bench: $1\$" "version: [0-9]" "time: 20" "host: ." "ranks: $2 on 1 node" "threads: 1 a rank" "blas: OpenBLAS" \
        "measured: median" "model.dim: 16" "bench.seconds: 0"; do
        grep -q "^# $line" "$said" || { echo "no $line"; return 1; }
    done
}
# csv_of TABLE: its lines, names first; every line has as many fields as the names.
csv_of() { awk -v table="# table: $1" '/^# table: / { inside = ($0 == table); next } /^#/ { next } inside' "$said"; }
# sums CALL: the FLOP of the phases with products (rate x time) are those of the phases around them, and in all those of the result.
sums() {
    { csv_of phases; echo result; csv_of result; } | awk -F, -v call="$1" '
        function near(a, b) { if (a <= 0 || (a / b - 1) ^ 2 > 1e-12) { print "found " a ", expected " b; bad = 1 } }
        $1 == "result"  { result = 1; next }
        result          { if ($1 == call) { all = $2 * $6; seen = 1 } next }
        $1 == "phase"   { for (i = 1; i <= NF; i++) at[$i] = i; next }
        { name = $1; gsub(/ /, "", name); work = $at["GFLOP/s"] == "" ? 0 : $at["GFLOP/s"] * $at["ms_mean"]
          if (name == "step") whole = work
          else if (name == "forward" || name == "backward") sides += work
          else if (name == "feed-forward") { layers += work; outer += work }
          else if (name == "router" || name == "experts") { inner += work; if (call == "layer") layers += work }
          else layers += work }
        END { if (call == "step") near(whole, all)
              near(sides, all); near(layers, all); if (outer && inner > 1.000001 * outer) bad = 1; exit bad || !seen }'
}
even() { csv_of "$1" | awk -F, 'NR == 1 { n = NF } NF != n { exit 1 } END { exit NR < 2 }'; }

# ---- gemm ----

prints "gemm" "^head  *weight  *3  *[0-9.]" bench gemm tiny.ini --bench.rows=1,3
check "its header" has_header gemm 1
check "80 columns" fits "$said"
check "six shapes, three products, two numbers of rows" test "$(grep -c '^[a-z].* \(yes\|no\) *$' "$said")" -eq 36
check "the number of samples and of the warm-up" grep -q "^# run router: 6 samples after a warm-up of 3, " "$said"
prints "gemm of a dense model" "^feed_forward.up  *input  *2 " bench gemm tiny.ini --moe.layers=none --bench.rows=2
check "has no experts" sh -c '! grep -q "^experts\|^router" "$1"' sh "$said"

# ---- pack ----

prints "pack of a configuration" "^dispatch  *192  *16  *2  *0.05  *[0-9.]" bench pack tiny.ini
check "its header" has_header pack 1
check "80 columns" fits "$said"
check "combine and both" grep -q "^both  *192  *16  *2  *0.08 " "$said"
check "no peak is measured" sh -c '! grep -q "GFLOP" "$1"' sh "$said"
prints "pack without a configuration: four shapes" "^combine  *1024  *4096  *2  *48.00 " bench pack
check "three moves of each" test "$(grep -c '^[a-z].* \(yes\|no\) *$' "$said")" -eq 12
prints "pack of other shapes" "^# run 5x3x7: 6 samples" bench pack tiny.ini --bench.shapes=2x1x1,5x3x7 --format=csv
check "csv: the result" even result
# K + 1 rows of T D elements of 4 bytes, in MiB
check "bytes by formula" awk -F, '/^combine,5,3,7,/ { seen = 1; exit ($5 * 1048576 - 8 * 5 * 3 * 4) ^ 2 > 1e-6 } END { exit !seen }' "$said"
prints "pack at 2 ranks" "^both  *96  *16  *2 " mpi_bench 2 pack tiny.ini
check "its header" has_header pack 2
prints "pack on a rank without sequences" "^both  *64  *16  *2 " mpi_bench 3 pack tiny.ini --train.batch=2 --model.sequence=64
prints "the double build packs too" "^dispatch  *192  *16  *2  *0.10 " "$top_builddir/moire-double" bench pack tiny.ini --bench.seconds=0 \
    --bench.samples=6

# ---- layer ----

prints "layer" "^layer  *[0-9.]" bench layer tiny.ini
check "its header" has_header layer 1
check "80 columns" fits "$said"
for phase in forward backward '  router' '  prepare' '  dispatch' '  experts' '  combine' optimizer; do
    grep -q "^$phase  *[12].0 " "$said" || echo "no $phase"
done >missing
check "its phases" test ! -s missing
check "its FLOP: three matrices and the router, three times" grep -q "1.843e+06 FLOP" "$said"
prints "layer without the gradient of the input" "without the" bench layer tiny.ini --bench.input_grad=no --model.feed_forward=gelu \
    --format=csv
check "csv: the result" even result
check "csv: the phases" even phases
check "csv: FLOP of its phases are those of the layer" sums layer
check "csv: a line for the layer" sh -c 'printf "%s\n" "$1" | grep -q "^layer,"' sh "$(csv_of result)"
for ranks in 2 3; do
    prints "layer at $ranks ranks" "^layer  *[0-9.]" mpi_bench "$ranks" layer tiny.ini
    check "its header" has_header layer "$ranks"
done

# ---- step ----

for ranks in 1 2; do
    prints "step at $ranks ranks" "^step  *[0-9.]" mpi_bench "$ranks" step tiny.ini
    check "its header" has_header step "$ranks"
    check "80 columns" fits "$said"
    check "a table of phases with one step a call" grep -q "^step  *1.0 .* 1.000  *[0-9.]*  *[0-9.]*  *-$" "$said"
    check "MiB of the four moves" test "$(grep -c '^    *\(dispatch\|combine\) .* [0-9.]*$' "$said")" -eq 4
done
for change in --moe.layers=all --moe.layers=every:2 "--moe.layers=none --model.feed_forward=gelu --model.tie_embeddings=yes" \
    "--train.recompute=layer --model.position=learned --model.bias=yes"; do
    # shellcheck disable=SC2086
    prints "step with $change" "^# table: phases" bench step tiny.ini --format=csv $change
    check "FLOP of its phases are those of the step" sums step
done
prints "step with dropped slots" "^ *dispatch  *2.0 .* -$" bench step tiny.ini --moe.capacity=0.5
check "nothing was written" test ! -e run
prints "emulated compute says so" "^# compute: emulated at 1e+*11 FLOP/s a rank" mpi_bench 2 step tiny.ini --compute.mode=emulate \
    --compute.rate=1e11 --moe.router=forced
prints "step as json" '"tokens/s"' mpi_bench 2 step tiny.ini --format=json
if python3 -c 'import json' 2>/dev/null; then
    cat >read.py <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
assert report["header"]["moire bench"] == "step"
row, = report["tables"]["result"]
assert row["what"] == "step" and row["ms"] > 0 and row["low"] <= row["ms"] <= row["high"]
assert len(report["tables"]["phases"]) > 5
samples = report["samples"]["step"]
assert len(samples["step"]) == len(samples["peak"]) == 6 and all(len(s) == 2 for s in samples["step"])
PYTHON
    check "json is valid, with samples by rank" python3 read.py "$said"
else
    skip "json is valid, with samples by rank" "there is no python3"
fi
bench layer tiny.ini --format=csv --output=report.csv >"$said" 2>&1
check "a report in a file: nothing is said" test ! -s "$said"
cp report.csv "$said"
check "it is whole" even phases

# ---- checkpoint ----

nothing_left() { ! ls -A | grep -q "^run\|^there"; }
for ranks in 1 3; do
    prints "checkpoint at $ranks ranks" "^dd  *[0-9]*  *[0-9.]*  *[0-9.]* .* 1.000  *1.000 " mpi_bench "$ranks" checkpoint tiny.ini
    check "its header" has_header checkpoint "$ranks"
    check "80 columns" sh -c '! awk "length > 80" "$1" | grep -v "of=\|^moire: warning" | grep .' sh "$said"
    check "a checkpoint of as many bytes" awk '$1 == "checkpoint" { a = $2 } $1 == "dd" { b = $2 } END { exit !(a > 20000 && a == b) }' "$said"
    check "the command of dd" sh -c 'tr -d "#\n" <"$1" | tr -s " " | grep -q "count=[0-9]* iflag=count_bytes conv=fsync"' sh "$said"
    check "nothing is left" nothing_left
done
prints "checkpoint as csv" "^checkpoint,[0-9]" bench checkpoint tiny.ini --format=csv --run.dir=there/below
check "csv: the result" even result
check "its directories are gone too" nothing_left
mkdir -p run/checkpoints && echo mine >run/checkpoints/step-00000001.h5
prints "checkpoint beside those of a run" "^checkpoint  *[0-9]" bench checkpoint tiny.ini
check "they stay as they were" test "$(ls -A run run/checkpoints && cat run/checkpoints/step-00000001.h5)" = "$(printf 'run:\ncheckpoints\n\nrun/checkpoints:\nstep-00000001.h5\nmine')"
rm -r run
mkdir broken && printf '#!/bin/sh\nexit 3\n' >broken/dd && chmod +x broken/dd
check_fails "a dd that fails" 1 "found exit code 3, expected exit code 0; try by hand: dd" env PATH="$scratch/broken:$PATH" \
    "$moire" bench checkpoint tiny.ini --bench.seconds=0
check "nothing is left" nothing_left
# shellcheck disable=SC2016 # the shell that runs it expands this: dd ends the program that started it
printf '#!/bin/sh\nkill -TERM $PPID; sleep 10\n' >broken/dd
check_fails "a signal" 143 "" env PATH="$scratch/broken:$PATH" sh -c '"$1" bench checkpoint tiny.ini --bench.seconds=0' sh "$moire"
check "nothing is left" nothing_left
echo >there
check_fails "a place that is no directory" 1 "there" bench checkpoint tiny.ini --run.dir=there
rm there

# ---- the table ----

table() { MOIRE=$moire sh "$top_srcdir/benchmarks/compute.sh" "$@"; }
prints "the table says how long it takes" "^all  *[0-9]* s$" table --list
rows=$(grep -c " thread(s)$" "$said")
prints "so does a quick one" "^all  *[0-9]* s$" table --list --quick
check "which has fewer rows" test "$(grep -c " thread(s)$" "$said")" -lt "$rows"
prints "rows can be chosen" "^pack-1x1024 " table --list --rows='layer*,pack-1x1024'
check "only those" sh -c '! grep -v "^layer\|^pack-1x1024 \|^all " "$1"' sh "$said"
prints "a row of it" "^pack, 1024 x 512, top-2  *1 x 1  *[0-9.]*  *-  *[0-9.]*  *0.70  *\(yes\|no\)$" env SECONDS_EACH=0 MOIRE="$moire" \
    sh "$top_srcdir/benchmarks/compute.sh" --rows=pack-1x1024 --bench.samples=6
check "the time comes first" sh -c 'sed -n 2p "$1" | grep -q "^# 1 rows, about [0-9]* min at most"' sh "$said"
check_fails "a row that is not there" 2 "no row is named 'stop\*'" table --rows='stop*'
check_fails "an argument that it does not know" 2 "unknown argument '--quik'; try --quick" table --quik

# ---- what cannot be measured ----

check_fails "no name" 2 "found no name, expected gemm, .* or " "$moire" bench
check_fails "an unknown name" 2 "unknown benchmark 'stop'; did you mean 'step'?" "$moire" bench stop tiny.ini
check_fails "no configuration" 2 "no configuration was given" "$moire" bench step
check_fails "an unknown format" 2 "unknown format of moire bench 'jsn'; did you mean 'json'?" bench step tiny.ini --format=jsn
check_fails "an option that is nearly one" 2 "unknown option --formt of moire bench; did you mean --format?" \
    "$moire" bench step tiny.ini --formt=csv
check_fails "pack with a shape of two numbers" 2 "expected at most 16 shapes .* try bench.shapes = 1024x512x2" bench pack --bench.shapes=8x8
check_fails "of four" 2 "found '8x8x1x1'" bench pack --bench.shapes=8x8x1x1
check_fails "of none" 2 "found '8x8x1,0x8x1'" bench pack --bench.shapes=8x8x1,0x8x1
check_fails "emulated compute has no checkpoint" 2 "found compute.mode = emulate, expected real" bench checkpoint tiny.ini --compute.mode=emulate
check_fails "pack of nothing that is computed" 2 "found compute.mode = emulate, expected real" bench pack tiny.ini --compute.mode=emulate
check_fails "rows that are no numbers" 2 "bench.rows must be auto or numbers of rows" bench gemm tiny.ini --bench.rows=1,x
check_fails "too many rows" 2 "bench.rows must be auto or numbers of rows" bench gemm tiny.ini --bench.rows=8193
check_fails "layers that compute nothing" 2 "found compute.mode = emulate, expected real" bench layer tiny.ini --compute.mode=emulate
check_fails "more choices than experts" 2 "top_k" bench layer tiny.ini --moe.top_k=5
check_fails "a place that cannot be written to" 1 "nowhere" bench layer tiny.ini --output=nowhere/report
check_fails "numbers that run away" 1 "step [0-9]*: the .* is -*\(nan\|inf\)" bench step tiny.ini --train.learning_rate=1e6 --train.clip=none --train.warmup=0 \
    --train.router_learning_rate=1e6
finish
