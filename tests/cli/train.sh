#!/bin/sh
# A run from the first step to generated text, on one rank and on three.
. "${top_srcdir:-.}/tests/support/tap.sh"
. "$top_srcdir/tests/cli/tiny.sh"
# exits NAME CODE COMMAND...: what it printed stays in $said.
exits() {
    name=$1; code=$2; shift 2
    "$@" >"$said" 2>&1; found=$?
    if [ "$found" -eq "$code" ]; then pass "$name"; else failed "$name (exit code $found, expected $code)"; fi
}
says() { if grep -q -e "$2" "$said"; then pass "$1"; else failed "$1 (no '$2' in the output)"; fi; }
# is_json NAME FILE: each line of a .jsonl, or the whole of a .json.
is_json() {
    if ! command -v python3 >/dev/null; then skip "$1" "there is no python3"; return; fi
    check "$1" python3 -c '
import json, sys
text = open(sys.argv[1]).read()
for part in text.splitlines() if sys.argv[1].endswith("l") else [text]:
    assert isinstance(json.loads(part), dict)' "$2"
}
last_of() { tail -n 1 "$1/metrics.jsonl" | sed -n 's/.*"'"$2"'":\([-+.0-9e]*\).*/\1/p'; }

for ranks in 1 3; do
    run=run$ranks
    exits "train on $ranks ranks" 0 mpi "$ranks" "$moire" train tiny.ini -o "$run"
    for part in "^moire: [0-9,]* parameters, [0-9,]* active a token; $ranks rank" "^moire: 12 steps of 6 x 32 tokens, written to $run" \
        "^step 12/12 .* loss .* val .* tok/s" "^phase  *calls  *min s  *mean s  *max s at rank  *share" "^  optimizer  *12 " \
        "^memory of a rank" "^parameters  *[0-9.]*  *[0-9.]*$" "^validation loss [0-9.]* nats a token, perplexity" "text/squares.c  *[0-9]" \
        "^  expert  *3  *[0-9]" "^written to $run; next: moire generate $run$"; do
        says "it prints '$part'" "$part"
    done
    check "no line of it is over 80 columns" \
        awk 'length > 80 && !/^moire: warning: ranks share/ { print; bad = 1 } END { exit bad }' "$said"
    grep '^validation loss' "$said" >trained
    is_json "run.json" "$run/run.json"
    is_json "metrics.jsonl" "$run/metrics.jsonl"
    check "a line a step" test "$(wc -l <"$run/metrics.jsonl")" -eq 12
    check "it learned" awk -v loss="$(last_of "$run" validation_loss)" 'BEGIN { exit !(loss > 0 && loss < 4.7) }'
    exits "eval on $ranks ranks" 0 mpi "$ranks" "$moire" eval "$run"
    check "it finds the loss that training printed" sh -c 'grep "^validation loss" "$1" | cmp - trained' sh "$said"
done
check "three ranks learn what one learns" awk -v one="$(last_of run1 validation_loss)" -v three="$(last_of run3 validation_loss)" \
    'BEGIN { difference = one - three; if (difference < 0) difference = -difference; exit !(difference < 1e-4) }'
exits "a checkpoint can be evaluated by its path, on other ranks" 0 mpi 2 "$moire" eval run3/checkpoints/step-00000012.h5
says "with the same loss" "$(cat trained)"
exits "and by its configuration" 0 "$moire" eval tiny.ini -o run3
says "with the same loss" "$(cat trained)"

# ---- generate ----

# generates P ARGUMENT...: only the text.
generates() { ranks=$1; shift; mpi "$ranks" "$moire" generate run3 --generate.tokens=24 "$@" 2>/dev/null | tr -d '\r'; }
generates 1 --generate.temperature=0 --generate.prompt='the ' >greedy
check "generate prints the prompt and more" sh -c 'grep -q "^the " greedy && [ "$(wc -c <greedy)" -ge 28 ]'
check "three ranks print the same" test "$(generates 3 --generate.temperature=0 --generate.prompt='the ')" = "$(cat greedy)"
check "top-k 1 takes the likeliest" test "$(generates 1 --generate.top_k=1 --generate.prompt='the ')" = "$(cat greedy)"
check "so does top-p 0" test "$(generates 1 --generate.top_p=0 --generate.prompt='the ')" = "$(cat greedy)"
generates 1 --generate.seed=5 --generate.temperature=2 >drawn
check "a seed draws the same again" test "$(generates 1 --generate.seed=5 --generate.temperature=2)" = "$(cat drawn)"
check "another seed does not" test "$(generates 1 --generate.seed=6 --generate.temperature=2)" != "$(cat drawn)"
check_fails "a prompt that is too long" 2 "generate.prompt is too long; found 40 bytes, expected less than model.sequence = 32" \
    "$moire" generate run3 --generate.prompt="0123456789012345678901234567890123456789"
check_fails "a prompt of bytes that the model does not know" 2 "found 195 at byte 1, expected less than model.vocabulary = 128" \
    "$moire" generate run3 --generate.prompt="fü"

# Bytes of letters stand as they are; what a terminal could take amiss does not: a bell, half a letter, an overlong
# form, half of a pair, a control character of two bytes.
mpi 1 "$moire" train tiny.ini -o letters -n 1 --model.vocabulary=256 >"$said" 2>&1
shown() { "$moire" generate letters --generate.tokens=0 --generate.prompt="$(printf "$1")" 2>/dev/null; }
check "letters of UTF-8 are shown" test "$(shown 'f\303\274 \342\202\254 \360\237\230\200')" = "fü € 😀"
check "other bytes are numbers" test \
    "$(shown 'a\007\303(\342\202\303\274\300\200\355\240\200\302\205\377\303')" = \
    'a\x07\xc3(\xe2\x82ü\xc0\x80\xed\xa0\x80\xc2\x85\xff\xc3'

# ---- inspect ----

exits "inspect RUN" 0 "$moire" inspect run3
says "its segments" "^segment 1: done"
says "their ranks" "^  ranks  *3$"
exits "inspect --verify" 0 "$moire" inspect run3/checkpoints/latest --verify
says "step" "^step  *12$"
says "experts in one tensor" "^  layers.0.experts.down  *4 x 16 x 16  *float32  *4096  *ok$"
check "all of it is well" sh -c '! grep -q WRONG "$1"' sh "$said"
exits "inspect without it" 0 "$moire" inspect run3/checkpoints/latest
check "80 columns" awk 'length > 80 { print; bad = 1 } END { exit bad }' "$said"

# ---- ends and starts ----

exits "a finished run says so" 0 mpi 3 "$moire" train tiny.ini -o run3
says "what there is" "^moire: nothing to train: train.steps = 12, and 12 are done"
says "and what it is worth" "$(cat trained)"
check "no checkpoint was added" test "$(ls run3/checkpoints | tr '\n' ' ')" = "latest step-00000006.h5 step-00000012.h5 "
exits "more steps go on" 0 mpi 3 "$moire" train tiny.ini -o run3 -n 14
says "from where it was" "^moire: going on from run3/checkpoints/step-00000012.h5, step 12$"
check "14 lines of metrics" test "$(wc -l <run3/metrics.jsonl)" -eq 14
is_json "run.json has a segment more" run3/run.json
exits "inspect knows all of them" 0 "$moire" inspect run3
says "three" "^segment 3: done"
check "80 columns" awk 'length > 80 { print; bad = 1 } END { exit bad }' "$said"

exits "stop_after leaves with 75" 75 mpi 3 "$moire" train tiny.ini -o stopped --train.stop_after=5
says "with a checkpoint" "^moire: stopped after step 5 of 12 with a checkpoint in stopped/checkpoints; start it again to go on$"
exits "the same command again finishes" 0 mpi 3 "$moire" train tiny.ini -o stopped --train.stop_after=10
says "all steps" "^step 12/12"
check "and is where the other run is" sh -c \
    'for run; do "$0" eval "$run" | grep "^validation loss"; done | uniq | wc -l | grep -q "^ *1$"' "$moire" stopped run1

# SIGTERM to the ranks themselves, as batch systems send it.
"${MPIRUN:-mpirun}" -n 3 sh -c 'echo $$ >"pid.$OMPI_COMM_WORLD_RANK"; exec "$0" "$@"' \
    "$moire" train tiny.ini -o killed -n 1000000 --evaluate.every=never >"$said" 2>&1 &
launcher=$!
for tenth in $(seq 1 300); do
    [ -f killed/metrics.jsonl ] && [ "$(wc -l <killed/metrics.jsonl)" -ge 3 ] && break
    sleep 0.1
done
if [ -s pid.1 ]; then
    kill -TERM "$(cat pid.1)"
    wait "$launcher"; code=$?
    if [ "$code" -eq 75 ]; then pass "SIGTERM to one rank: exit code 75"; else failed "SIGTERM to one rank: exit code $code"; fi
    says "with a checkpoint" "^moire: stopped after step [0-9]* of 1000000 with a checkpoint"
    exits "that is whole" 0 "$moire" inspect killed/checkpoints/latest --verify
else
    kill -TERM "$launcher"; wait "$launcher"
    skip "SIGTERM to one rank: exit code 75" "this mpirun does not tell ranks their number as Open MPI does"
fi
finish
