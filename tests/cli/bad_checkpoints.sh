#!/bin/sh
# Checkpoints that are damaged or of another model, and places where none can be written: one message, nothing lost.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cli/tiny.sh"

# ---- checkpoints ----

trains >"$said" 2>&1
newest=run/checkpoints/step-00000012.h5
check "there is a checkpoint" test -s "$newest"
cp "$newest" good.h5
refuses "a checkpoint of another width" 1 "parameters/embedding in $newest has another shape; found 128 x 16, expected 128 x 32; try" \
    trains -n 20 --model.dim=32
refuses "of other experts" 1 "has another shape; found 4 x 16, expected 6 x 16; try" trains -n 20 --moe.experts=6
refuses "of fewer layers" 1 "has no tensor parameters/layers.2.*; found [0-9]* tensors, expected [0-9]*; try" trains -n 20 --model.layers=3
refuses "of other heads, which no shape shows" 2 "found model.heads = 2, expected 4; try" trains -n 20 --model.heads=4

# bend OFFSET: the checkpoint with the bits of one byte turned.
bend() {
    cp good.h5 "$newest"
    byte=$(od -An -tu1 -j"$1" -N1 good.h5)
    printf "\\$(printf %03o $((255 - byte)))" | dd of="$newest" bs=1 seek="$1" conv=notrunc 2>"$scratch/dd"
}
size=$(wc -c <good.h5)
for part in $(seq 5 5 95); do
    bend $((size * part / 100))
    "$moire" inspect "$newest" --verify >"$said" 2>&1
    wrong=$(sed -n 's/.*wrong checksum of \(.*experts[^,]*, expert [0-9]*\), in .*/\1/p' "$said")
    [ -z "$wrong" ] || break
done
check "inspect --verify names tensor and expert of a byte that was turned" test -n "$wrong"
check "it marks this tensor alone" test "$(grep -c 'WRONG$' "$said")" -eq 1
refuses "so does a run that goes on" 1 "wrong checksum of $wrong, in $newest; found [0-9a-f]*, expected [0-9a-f]*; .*try an older" trains -n 20
for bytes in $((size / 2)) 100 0; do
    head -c "$bytes" good.h5 >"$newest"
    refuses "a checkpoint cut to $bytes bytes" 1 "$newest.*found.*try" trains -n 20
done
refuses "inspect of a cut checkpoint" 1 "latest.*found.*try" "$moire" inspect run/checkpoints/latest --verify
refuses "eval of it" 1 "found.*try" mpi 3 "$moire" eval run
printf 'this is a text and no HDF5\n' >text.h5
refuses "a text in place of a checkpoint" 1 "text.h5 is not HDF5; found" trains --checkpoint.resume=text.h5
refuses "a checkpoint that is not there" 1 "cannot read none.h5; found: No such file" trains --checkpoint.resume=none.h5
ends "the older one still goes on" 75 "going on from run/checkpoints/step-00000006.h5, step 6" \
    trains --checkpoint.resume=run/checkpoints/step-00000006.h5 --train.stop_after=1 -n 20
rm -f "$newest"; ln -sf step-00000012.h5 run/checkpoints/latest
ends "where the newest is gone, an older one is taken" 75 "warning: .*latest points to step-00000012.h5, which is missing; going on with" \
    trains --train.stop_after=1 -n 20

# ---- where a run is written ----

printf 'a file\n' >file
refuses "a run directory below a file" 1 "cannot make the directory file; found a file of that name; try" trains -o file/run
refuses "a run directory that cannot be made" 1 "/proc/moire.*; found: [A-Z][a-z ]*; try" trains -o /proc/moire

cat >full.sh <<'SH'
# full.sh DISK LAUNCHER MOIRE: in a mount namespace of its own.
disk=$1 launcher=$2 moire=$3
mount -t tmpfs -o size=9m tmpfs "$disk" || exit 77
"$launcher" -n 3 "$moire" train tiny.ini -o "$disk/run" -n 6 >first 2>&1
left=$(df -k "$disk" | awk 'END { print $4 }')
head -c $(((left - 60) * 1024)) /dev/zero >"$disk/fill"
"$launcher" -n 3 "$moire" train tiny.ini -o "$disk/run" -n 12 >second 2>&1
echo $? >second.code
ls "$disk/run/checkpoints" >second.list
"$moire" inspect "$disk/run/checkpoints/latest" --verify >verified 2>&1
echo $? >verified.code
rm "$disk/fill"
"$launcher" -n 3 "$moire" train tiny.ini -o "$disk/run" -n 12 >third 2>&1
echo $? >third.code
SH
mkdir disk
for how in "unshare -m" "unshare -r -m"; do
    $how sh full.sh disk "${MPIRUN:-mpirun}" "$moire" >"$said" 2>&1
    [ ! -f first ] || break
done
if [ -f first ]; then
    cp second "$said"
    check "a full disk: exit code 1" test "$(cat second.code)" -eq 1
    check "one message" says_once "step-00000012.*No space left on device.*try" second
    check "the older checkpoint stays, and nothing half written" test "$(tr '\n' ' ' <second.list)" = "latest step-00000006.h5 "
    check "it is whole" test "$(cat verified.code)" -eq 0
    check "with space again the run goes on from it" grep -q "going on from disk/run/checkpoints/step-00000006.h5, step 6" third
    check "to its end" test "$(cat third.code)" -eq 0
else
    skip "a full disk" "mounting is not permitted"
fi
finish
