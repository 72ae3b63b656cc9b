#!/bin/sh
# Wrong configurations and wrong data: exit code, and one message that names cause, found, expected and remedy, also
# where three ranks find the same.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cli/tiny.sh"
# refuses does as in tiny.sh, but four commands run at a time, as a launcher that ends in an error rests for a second;
# report prints what came of them.
queued=0
refuses() {
    queued=$((queued + 1))
    printf '%s' "$1" >"name.$queued"; printf '%s' "$2" >"code.$queued"; printf '%s' "$3" >"text.$queued"
    shift 3
    mkdir "s$queued" # a folder for each launcher, as in tap.sh
    { OMPI_MCA_orte_tmpdir_base=$scratch/s$queued; export OMPI_MCA_orte_tmpdir_base
      "$@" >"said.$queued" 2>&1; echo $? >"found.$queued"; } &
    [ $((queued % 4)) -ne 0 ] || wait
}
judge() {
    name=$(cat "name.$1") code=$(cat "code.$1") text=$(cat "text.$1") found=$(cat "found.$1") said=said.$1
    if [ "$found" -ne "$code" ]; then failed "$name (exit code $found, expected $code)"
    elif ! says_once "$text" "$said"; then failed "$name ('$text' in $(grep -c -e "$text" "$said") lines, expected 1)"
    elif ! one_message "$said"; then failed "$name (more than one message)"
    else pass "$name"; fi
}
report() {
    wait
    for number in $(seq "$queued"); do judge "$number"; done
}

# ---- configuration ----

refuses "an unknown key of the command line" 2 "unknown key train.stpes on the command line; did you mean train.steps?" \
    trains --train.stpes=3
printf '[moe]\nexprts = 3\n' >wrong.ini
refuses "of a file" 2 "unknown key moe.exprts in wrong.ini line 2; did you mean moe.experts?" mpi 3 "$moire" train wrong.ini
refuses "of the environment" 2 "unknown key model.dmi in the environment (MOIRE_MODEL_DMI); did you mean model.dim?" \
    env MOIRE_MODEL_DMI=3 "${MPIRUN:-mpirun}" -n 3 "$moire" train tiny.ini
refuses "a key out of range" 2 "bad value of train.batch on the command line; found '0', expected an integer, 1 to 1073741824" \
    trains --train.batch=0
refuses "no number" 2 "found 'many', expected an integer, 1 to 100000 (layers)" trains --model.layers=many
refuses "no choice" 2 "bad value of model.norm on the command line; found 'l2', expected rms or layer" trains --model.norm=l2
refuses "an unknown router" 2 "unknown router 'mixtrla'; did you mean 'mixtral'?" trains --moe.router=mixtrla
refuses "an unknown schedule" 2 "did you mean 'cosine'?" trains --train.schedule=cosin
refuses "heads that do not divide" 2 "found 3 heads and dim 16" trains --model.heads=3
refuses "more experts a token than there are" 2 "found moe.top_k = 9, expected at most moe.experts = 4" trains --moe.top_k=9
refuses "ranks that the mesh does not divide" 2 \
    "found parallel.expert = 2 with 3 ranks, expected a divisor of 3; try all, or one of 1, 3" trains --parallel.expert=2
refuses "no configuration" 2 "expected FILE.ini" mpi 3 "$moire" train
refuses "a configuration that is not there" 2 "cannot read none.ini; found: No such file or directory" mpi 3 "$moire" train none.ini
refuses "a run directory in place of one" 2 "text is no configuration; found a directory, expected FILE.ini" mpi 3 "$moire" train text
: >empty.ini
refuses "an empty one" 2 "empty.ini is empty; found 0 bytes, expected \[section\]" mpi 3 "$moire" train empty.ini
printf 'steps 12\n' >text.ini
refuses "one that is a text" 2 "text.ini line 1 cannot be read; expected \[section\], key = value" mpi 3 "$moire" train text.ini
refuses "a command that is none" 2 "unknown command 'trian'; did you mean 'train'?" mpi 3 "$moire" trian tiny.ini
refuses "a trained model that is not there" 1 "no checkpoint in none/checkpoints; expected one that moire train wrote" \
    mpi 3 "$moire" eval tiny.ini -o none

# ---- text ----

refuses "data that is not there" 1 "no file matches the pattern 'nowhere/\*\.c'; try another path" trains --data.path='nowhere/*.c'
refuses "no data at all" 2 "data.path is empty; expected file patterns" trains --data.path=
: >empty.txt
refuses "an empty file" 1 "empty.txt is empty; found 0 bytes, expected text; try" trains --data.path=empty.txt
ln -s nothing dangling.txt
ln -s circle.txt circle.txt
for link in dangling circle; do
    refuses "a file that cannot be read ($link)" 1 "$link.txt.*; try" trains --data.path="$link.txt"
done
refuses "a folder in place of a file" 1 "the pattern 'text' matches only directories; expected files; try 'text/\*\*'" trains --data.path=text
# Root reads everything, unless it gives that up first.
plain=
[ "$(id -u)" -ne 0 ] || plain="setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search"
printf 'text\n' >closed.txt; chmod 0 closed.txt
if $plain sh -c '! cat closed.txt' >/dev/null 2>&1; then
    # shellcheck disable=SC2086
    refuses "a file without permission" 1 "closed.txt; found: Permission denied; try" \
        $plain "${MPIRUN:-mpirun}" -n 3 "$moire" train tiny.ini --data.path=closed.txt
else
    closed_skipped=yes
fi
refuses "a sequence longer than the data" 2 \
    "found [0-9]* tokens in the longest domain (text/lines.txt), expected at least 100001; try model.sequence=[0-9]* or less" \
    trains --model.sequence=100000
refuses "a byte that is no token" 1 "text/lines.txt at position [0-9]*; found id [0-9]*, expected less than 64; try model.vocabulary=" \
    trains --model.vocabulary=64
refuses "train --dry-run tells the same" 1 "expected less than 64; try model.vocabulary=" trains --dry-run --model.vocabulary=64

# ---- token files ----

"$moire" data build 'text/*' --output=good.bin 2>built
"$moire" data build 'text/*' --format=megatron --output=good_pair 2>built
# spoil FROM TO OFFSET OCTAL: a copy with one byte set.
spoil() { cp "$1" "$2"; printf "\\$4" | dd of="$2" bs=1 seek="$3" conv=notrunc 2>"$scratch/dd"; }
llmc() { trains --data.source=llmc --data.path="$1"; }
megatron() { cp good_pair.bin "$1.bin"; trains --data.source=megatron --data.path="$1"; }

head -c 500 good.bin >short.bin
refuses ".bin without a whole header" 1 "short.bin is too short; found 500 bytes, expected at least 1024" llmc short.bin
spoil good.bin magic.bin 0 001
refuses ".bin with another magic number" 1 "magic.bin is not an llm.c file; found magic number [0-9]*, expected 20240520; try" llmc magic.bin
spoil good.bin version.bin 4 007
refuses ".bin of another version" 1 "version.bin.*found [a-z ]*7, expected [a-z ]*1;* " llmc version.bin
size=$(wc -c <good.bin)
head -c $((size - 2)) good.bin >cut.bin
refuses ".bin that is truncated" 1 "cut.bin.*found $((size - 2)) bytes, expected $size" llmc cut.bin
{ cat good.bin; printf 'xx'; } >long.bin
refuses ".bin that is too long" 1 "long.bin.*found $((size + 2)) bytes, expected $size" llmc long.bin
spoil good.bin token.bin 1035 377
refuses "a token past the vocabulary" 1 "token.bin at position 5; found id [0-9]*, expected less than 128; try" llmc token.bin
refuses ".bin that is not there" 1 "no file matches the pattern 'none.bin'" llmc none.bin

spoil good_pair.idx magic.idx 0 001
refuses ".idx with another magic number" 1 "magic.idx is not.*expected.*MMIDIDX" megatron magic
spoil good_pair.idx version.idx 9 007
refuses ".idx of another version" 1 "version.idx.*found [a-z ]*7, expected [a-z ]*1" megatron version
spoil good_pair.idx type.idx 17 011
refuses ".idx of a type of tokens that is none" 1 "type.idx.*found [a-z ]*9, expected [a-z ]*" megatron type
head -c 60 good_pair.idx >cut_index.idx
refuses ".idx that is truncated" 1 "cut_index.idx.*found 60 bytes, expected" megatron cut_index
cp good_pair.idx cut_pair.idx
head -c 1000 good_pair.bin >cut_pair.bin
refuses ".bin that is shorter than .idx says" 1 "beyond cut_pair.bin.*expected its end within 1000 bytes; try" \
    trains --data.source=megatron --data.path=cut_pair
cp good_pair.idx lonely.idx
refuses ".idx without .bin" 1 "lonely.bin" trains --data.source=megatron --data.path=lonely
refuses "a pair that is not there" 1 "no file matches the pattern 'none.idx'" trains --data.source=megatron --data.path=none
refuses "data inspect of a broken file" 1 "cut.bin.*found $((size - 2)) bytes, expected $size" "$moire" data inspect cut.bin

report
[ -z "${closed_skipped:-}" ] || skip "a file without permission" "root reads everything, and setpriv is missing"
check "nobody wrote a run" test ! -e run
finish
