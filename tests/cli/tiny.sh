# Shared by the shell tests of the program, sourced after tap.sh: text in $scratch/text and a configuration
# $scratch/tiny.ini so small that a run takes about a second. It changes to $scratch.
# ours FILE: the lines of it that are messages of the program but no warnings.
# says_once TEXT FILE: TEXT (a basic regular expression) stands in exactly one line of it, which is ours.
# ends NAME CODE TEXT COMMAND...: the exit code must be CODE, and says_once TEXT; the output stays in $said.
# refuses NAME CODE TEXT COMMAND...: the same, and no other message of ours but what train says at its start.
# trains ARGUMENT...: three ranks.
cd "$scratch" || exit 1
mkdir text
awk 'BEGIN { for (i = 0; i < 400; i++) print "the line number " i " of a text" }' >text/lines.txt
awk 'BEGIN { for (i = 0; i < 300; i++) print "f(" i ") = " i * i ";" }' >text/squares.c
cat >tiny.ini <<'INI'
[run]
dir = run
[model]
layers = 2
dim = 16
heads = 2
sequence = 32
vocabulary = 128
[moe]
experts = 4
expert_hidden = 16
[train]
steps = 12
batch = 6
learning_rate = 1e-2
warmup = 2
[data]
source = text
path = text/*
validation = 0.1
[evaluate]
every = 6
sequences = all
[checkpoint]
every = 6
INI
ours() { grep '^moire: ' "$1" | grep -v '^moire: warning: '; }
says_once() { [ "$(grep -c -e "$1" "$2")" -eq 1 ] && [ "$(grep -c -e "^moire: .*$1" "$2")" -eq 1 ]; }
said=$scratch/said
failed() { cp "$said" "$scratch/out"; fail "$@"; }
ends() {
    name=$1; code=$2; text=$3; shift 3
    "$@" >"$said" 2>&1; found=$?
    if [ "$found" -ne "$code" ]; then failed "$name (exit code $found, expected $code)"
    elif ! says_once "$text" "$said"; then failed "$name ('$text' in $(grep -c -e "$text" "$said") lines, expected 1)"
    else pass "$name"; fi
}
one_message() { [ "$(ours "$1" | grep -c -v 'a token; \|, written to ')" -eq 1 ]; }
refuses() {
    before=$count
    ends "$@" >"$scratch/result"
    if one_message "$said"; then cat "$scratch/result"; return; fi
    count=$before; failed "$1 (more than one message)"
}
trains() { mpi 3 "$moire" train tiny.ini "$@"; }
