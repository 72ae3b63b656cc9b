# Shared by the shell tests of the program, sourced after tap.sh: text in $scratch/text and a configuration
# $scratch/tiny.ini so small that a run takes about a second. It changes to $scratch.
# ours FILE: the lines of a message of the program in what it printed, its warnings left out.
# says_once TEXT FILE: TEXT stands in exactly one line, which is ours.
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
