# One rank under valgrind, with Open MPI's suppressions and a few of ours for what the libraries do at start: no error and no leak of ours.
. "${top_srcdir:-.}/tests/support/tap.sh"
suppressions=
for file in /usr/share/openmpi/openmpi-valgrind.supp "$(dirname "$(command -v mpirun)")/../share/openmpi/openmpi-valgrind.supp"; do
    [ -f "$file" ] && suppressions="--suppressions=$file" && break
done
if ! command -v valgrind >/dev/null; then
    skip "valgrind finds no error" "valgrind is not installed"
elif ! timeout 60 valgrind -q --error-exitcode=9 "$moire" --version >"$scratch/out" 2>&1; then
    skip "valgrind finds no error" "valgrind cannot run this program (built for this CPU alone?)"
else
    i=0
    while [ $i -lt 40 ]; do echo "line $i of a text to learn from, and some more of it"; i=$((i + 1)); done >"$scratch/text.txt"
    under_valgrind() {
        # shellcheck disable=SC2086
        OPENBLAS_NUM_THREADS=1 timeout -k 5 300 valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
            --errors-for-leak-kinds=definite $suppressions --suppressions="$top_srcdir/tests/support/valgrind.supp" "$@"
    }
    check "training, evaluation and a checkpoint" under_valgrind "$moire" train "$top_srcdir/examples/tiny.ini" --run.dir="$scratch/run" \
        --model.dim=16 --model.heads=2 --model.sequence=16 --moe.experts=3 --moe.expert_hidden=8 --moe.layers=every:2 \
        --model.ffn_hidden=16 --train.steps=3 --train.batch=3 --train.accumulate=2 --data.path="$scratch/text.txt"
    check "evaluation" under_valgrind "$moire" eval "$scratch/run"
    check "generation" under_valgrind "$moire" generate "$scratch/run" --generate.tokens=4
    check "inspection" under_valgrind "$moire" inspect "$scratch/run/checkpoints/latest" --verify
fi
finish
