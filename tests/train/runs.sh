# Shared by the shell tests of train: a model so small that a run takes about a second. Sourced after tap.sh.
# train P PROGRAM RUN ARGUMENT...: a run of P ranks in $scratch/RUN.
# values KEY RUN: step and value of each line of its metrics that has the key.
# same KEY TOLERANCE RUN RUN: as many steps, at least one, and every value within the tolerance, relative to
# the first run's.
moire_double=$top_builddir/moire-double
cat >"$scratch/tiny.ini" <<'INI'
[model]
layers = 2
dim = 32
heads = 4
sequence = 16
vocabulary = 128
[moe]
experts = 5
expert_hidden = 16
layers = 1
[train]
steps = 50
batch = 7
accumulate = 2
learning_rate = 3e-3
warmup = 5
[data]
source = synthetic
synthetic_sequences = 500
[evaluate]
every = 25
sequences = 9
INI
train() {
    train_ranks=$1; program=$2; run=$3; shift 3
    mpi "$train_ranks" "$program" train "$scratch/tiny.ini" --run.dir="$scratch/$run" "$@"
}
values() {
    sed -n 's/.*"step":\([0-9]*\),.*"'"$1"'":\([-+.0-9eE]*\).*/\1 \2/p' "$scratch/$2/metrics.jsonl"
}
same() {
    values "$1" "$3" >"$scratch/first"; values "$1" "$4" >"$scratch/second"
    awk -v tolerance="$2" '
        NR == FNR { wanted[$1] = $2; steps++; next }
        {
            difference = $2 - wanted[$1]; size = wanted[$1]; found++
            if (difference < 0) difference = -difference
            if (size < 0) size = -size
            if ($1 in wanted && difference <= tolerance * size) next
            print "step", $1, "found", $2, "expected", wanted[$1]; bad = 1
        }
        END {
            if (steps && found == steps && !bad) exit 0
            print found + 0, "steps, expected", steps + 0; exit 1
        }' "$scratch/first" "$scratch/second"
}
