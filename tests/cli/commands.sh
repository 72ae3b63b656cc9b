#!/bin/sh
# What every subcommand prints, without training anything: help, configuration, counts, data, info.
. "${top_srcdir:-.}/tests/support/tap.sh"
cd "$scratch" || exit 1 # whatever a command wrote by mistake would be found here
examples=$top_srcdir/examples
said=$scratch/said

failed() { cp "$said" "$scratch/out"; fail "$@"; }
# fits FILE: no line is over 80 columns, but the warning where there are fewer processors than ranks here.
fits() { awk 'length > 80 && !/^moire: warning: ranks share/ { print "too long: " $0; bad = 1 } END { exit bad }' "$1"; }
# prints NAME TEXT COMMAND...: exit code 0, TEXT in the output, which stays in $said, 80 columns.
prints() {
    name=$1; text=$2; shift 2
    if ! "$@" >"$said" 2>&1; then failed "$name"
    elif ! grep -q -e "$text" "$said"; then failed "$name (no '$text' in the output)"
    elif ! fits "$said" >"$scratch/long"; then failed "$name ($(cat "$scratch/long"))"
    else pass "$name"; fi
}

# ---- help and version ----

prints "--help gives an overview" "^Usage: moire COMMAND" "$moire" --help
commands=$(sed -n 's/^  \([a-z]*\)  .*/\1/p' "$said")
check "it knows the commands of the design" test "$(echo $commands)" = "train eval generate inspect config info data bench help"
for command in $commands; do
    prints "$command --help" "^Usage: moire $command " "$moire" "$command" --help
    cp "$said" "$scratch/help"
    check "help $command says the same" sh -c '"$1" help "$2" | cmp - "$3"' sh "$moire" "$command" "$scratch/help"
done
prints "--version" "^moire [0-9.]* (float)$" "$moire" --version
prints "the double build says so" "^moire [0-9.]* (double)$" "$top_builddir/moire-double" --version
check_fails "no command: the overview, exit code 2" 2 "^Usage: moire COMMAND" "$moire"
check_fails "an unknown command names the nearest" 2 "unknown command 'trian'; did you mean 'train'?" "$moire" trian
check_fails "so does help" 2 "unknown command 'trian'; did you mean 'train'?" "$moire" help trian
check_fails "an option is near one of the command's" 2 "unknown option --dry-rn of moire train; did you mean --dry-run?" \
    "$moire" train --dry-rn "$examples/tiny.ini"
check_fails "a key without its section" 2 "unknown key steps on the command line; did you mean train.steps?" \
    "$moire" config --steps=3
check_fails "an unknown action of data names the nearest" 2 "did you mean 'build'?" "$moire" data biuld
if [ -w /dev/full ]; then
    check_fails "standard output that is full" 1 "standard output is not whole; found: No space left on device" \
        sh -c '"$1" config >/dev/full' sh "$moire"
else
    skip "standard output that is full" "there is no /dev/full"
fi

# ---- config ----

for example in "$examples"/*.ini; do
    check "config takes $(basename "$example")" "$moire" config "$example"
done
odd='a; "b" \ c, *.c'
"$moire" config "$examples/tiny.ini" --plain --data.path="$odd" --moe.capacity=1.25 --train.clip=none >plain.ini
"$moire" config "$examples/tiny.ini" --data.path="$odd" --moe.capacity=1.25 --train.clip=none >origins.ini
check "what config prints is a configuration that prints the same" sh -c '"$1" config --plain plain.ini | cmp - plain.ini' sh "$moire"
check "with origins too" sh -c '"$1" config --plain origins.ini | cmp - plain.ini' sh "$moire"
printf '[train]\nsteps = 7\n' >seven.ini
check "default" grep -q '^seed = 1 ; default$' origins.ini
check "file" grep -q '^layers = 2 ; file$' origins.ini
check "command line" grep -q '^capacity = 1.25 ; command line$' origins.ini
prints "file over default" '^steps = 7 ; file$' "$moire" config seven.ini
prints "environment over file" '^steps = 8 ; environment$' env MOIRE_TRAIN_STEPS=8 "$moire" config seven.ini
check "which is said" grep -q '^moire: train.steps = 8 comes from the environment (MOIRE_TRAIN_STEPS)$' "$said"
prints "command line over environment" '^steps = 9 ; command line$' env MOIRE_TRAIN_STEPS=8 "$moire" config seven.ini --train.steps=9
prints "a short option before the file" '^steps = 10 ; command line$' "$moire" config -n 10 seven.ini
prints "the last one of two counts" '^steps = 12 ; command line$' "$moire" config seven.ini --train.steps 11 --train.steps 12
check_fails "a mistaken variable" 2 "unknown key train.stpes in the environment (MOIRE_TRAIN_STPES); did you mean train.steps?" \
    env MOIRE_TRAIN_STPES=8 "$moire" config seven.ini
check_fails "two configurations" 2 "unexpected argument 'plain.ini'" "$moire" config seven.ini plain.ini

# ---- inspect ----

# In 2 GB of address space; its parameters alone would take 174.
small() { (ulimit -v 2000000; "$@"); }
grep -q '^SANITIZE_TRUE = #' "$top_builddir/Makefile" || small() { "$@"; }
prints "Mixtral 8x7B in all, without memory for it" "^parameters  *46,702,792,704$" small "$moire" inspect "$examples/mixtral-8x7b.ini"
check "active" grep -q "^active a token  *12,879,925,248$" "$said"
prints "GPT-2" "^parameters  *124,439,808$" "$moire" inspect "$examples/gpt2-124m.ini"
check "is dense" grep -q "^model  *12 layers, dim 768, dense$" "$said"
prints "options change the model" " 3 layers, dim 64, 4 experts of which 1 a token in 1 of them$" \
    "$moire" inspect --model.layers=3 "$examples/tiny.ini" --moe.layers=1 --moe.top_k=1
for example in "$examples"/*.ini; do
    prints "inspect takes $(basename "$example")" "^training FLOP" "$moire" inspect "$example"
done

# ---- data ----

mkdir text
awk 'BEGIN { for (i = 0; i < 500; i++) print "the line number " i }' >text/a.txt
awk 'BEGIN { for (i = 0; i < 300; i++) print i " + 1 = " i + 1 }' >text/b.c
bytes=$(cat text/* | wc -c)
check "data build writes llm.c" "$moire" data build 'text/*' --output=tokens.bin
check "of two bytes a token behind the header" test "$(wc -c <tokens.bin)" -eq $((1024 + 2 * bytes))
prints "data inspect reads it" "^tokens  *$bytes of 2 bytes$" "$moire" data inspect tokens.bin
prints "so does inspect" "^format  *llm.c, magic 20240520, version 1, uint16$" "$moire" inspect tokens.bin
check "data build writes Megatron" "$moire" data build 'text/a.txt' 'text/b.c' --format=megatron --output=pair
prints "data inspect reads it" "^tokens  *$bytes of 2 bytes$" "$moire" data inspect pair
prints "so does inspect" "^documents  *2$" "$moire" inspect pair
for source in text:text/a.txt,text/b.c llmc:tokens.bin megatron:pair synthetic:; do
    prints "data inspect of source ${source%%:*}" "^total " "$moire" data inspect "$examples/tiny.ini" \
        --data.source="${source%%:*}" --data.path="${source#*:}" --data.synthetic_sequences=100
done
check_fails "data build without an output" 2 "found no --output, expected PATTERN... --output=PATH; try moire data build" \
    "$moire" data build 'text/*'
check_fails "into a folder that is not there" 1 "nowhere/tokens.bin" "$moire" data build 'text/*' --output=nowhere/tokens.bin
check_fails "of an unknown format" 2 "did you mean 'megatron'?" "$moire" data build 'text/*' --output=x --format=megatrn

# ---- info and --dry-run ----

for ranks in 1 3; do
    prints "info at $ranks ranks" "^$ranks ranks* on 1 node, 1 x $ranks (data x expert)" mpi "$ranks" "$moire" info
    check "one line a rank" test "$(grep -c '  cpus [0-9]' "$said")" -eq "$ranks"
    for name in "MPI" "OpenBLAS" "HDF5" alltoallv softmax mixtral forced text llmc megatron synthetic cosine constant wsd; do
        grep -q -e "^  $name\|$name v" "$said" || echo "no $name"
    done >"$scratch/missing"
    check "versions and the tables of names are there" test ! -s "$scratch/missing"
    prints "train --dry-run at $ranks ranks" "^mesh  *$ranks rank" mpi "$ranks" "$moire" train --dry-run "$examples/tiny.ini" \
        --data.path='text/*'
    check "it counts the data" grep -q "^data .* training sequences, [0-9]* for validation$" "$said"
    check "it predicts the memory" grep -q "^activations  *[0-9]*\.[0-9][0-9]$" "$said"
done
prints "info of another mesh" "^3 ranks on 2 nodes, 3 x 1 (data x expert)" mpi 3 "$moire" info --parallel.expert=1 \
    --parallel.ranks_per_node=2
check_fails "train --dry-run finds data that is not there" 1 "no file matches the pattern 'nowhere/\*'" \
    "$moire" train --dry-run "$examples/tiny.ini" --data.path='nowhere/*'
check "nobody wrote a run" test ! -e runs

# ---- manual and completion ----

"$moire" help --manual >moire.1
"$moire" config --plain | awk '/^\[/ { section = substr($1, 2, length($1) - 2) } / =/ { print ".B " section "." $1 }' >names
check "the manual names every parameter" sh -c '[ "$(grep -c -x -F -f names moire.1)" = "$(wc -l <names)" ]'
for command in $commands; do grep -q "^\.SS moire $command$" moire.1 || echo "$command"; done >missing
check "and every command" test ! -s missing
if man --version >/dev/null 2>&1; then
    man --warnings -l moire.1 2>warnings >/dev/null
    check "man reads it without a warning" test ! -s warnings
else
    skip "man reads it without a warning" "there is no man"
fi
if groff --version >/dev/null 2>&1; then
    groff -man -ww -Tascii -P-cbou moire.1 2>warnings >page
    check "groff reads it without a warning" test ! -s warnings
    check "80 columns" fits page
else
    skip "groff reads it without a warning" "there is no groff"
fi

"$moire" help --completion >completion
# completes LINE: the words, one a line.
completes() {
    bash -u -c '
        . ./completion
        line=$1
        COMP_LINE=$line COMP_POINT=${#line} COMP_WORDS=($line)
        case $line in *" ") COMP_WORDS+=("") ;; esac
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _moire
        printf "%s\n" "${COMPREPLY[@]-}"' bash "$1"
}
if bash --version >/dev/null 2>&1; then
    check "bash takes the completion" bash -eu -c '. ./completion; complete -p moire'
    check "it completes commands" test "$(completes "moire in")" = "inspect
info"
    check "parameters" test "$(completes "moire train x.ini --train.ste")" = "--train.steps="
    check "options" test "$(completes "moire inspect --ver")" = "--verify"
    check "only those of the command" test -z "$(completes "moire inspect --train.ste")"
    check "actions" test "$(completes "moire data bu")" = "build"
    check "benchmarks" test "$(completes "moire bench la")" = "layer"
    check "also those that came later" test "$(completes "moire bench ch")" = "checkpoint"
    check "nothing where a file is meant" test -z "$(completes "moire train exa")"
else
    skip "bash takes the completion" "there is no bash"
fi
finish
