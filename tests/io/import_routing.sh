#!/bin/sh
# Routing of an inference engine: NumPy files of every type, their way through routing.h5, and what is no such file.
. "${top_srcdir:-.}/tests/support/tap.sh"
top_srcdir=$(cd "$top_srcdir" && pwd)
case $moire in /*) ;; *) moire=$PWD/$moire ;; esac
cd "$scratch" || exit 1
# The system's own, which has the packages of the system.
python=/usr/bin/python3
[ -x $python ] || python=python3
export python
if ! $python -c 'import struct' 2>/dev/null; then
    skip "routing from NumPy files" "there is no python3"
    finish
    exit 0
fi

# make NAME [KEY=VALUE ...]: a .npy of ids (7 t + 3 l + k) mod 6 for [tokens, layers, K] = [10, 3, 2].
cat >make.py <<'END'
import struct, sys
set = dict(type="<i4", fortran="False", shape="(10, 3, 2)", version="1", minor="0", header="", cut="0", more="0",
           at="", value="0", magic="\x93NUMPY", start="")
name = sys.argv[1]
set.update(argument.split("=", 1) for argument in sys.argv[2:])
ids = [(7 * t + 3 * l + k) % 6 for t in range(10) for l in range(3) for k in range(2)]
if set["at"]:
    t, l, k = (int(number) for number in set["at"].split(","))
    ids[(t * 3 + l) * 2 + k] = int(set["value"])
code = {"i1": "b", "u1": "B", "i2": "h", "i4": "i", "i8": "q", "f4": "f"}[set["type"][1:]]
order = set["type"][0].replace("|", "<")
header = set["header"] or "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }" % (set["type"], set["fortran"], set["shape"])
header += " " * (-(len(header) + 13) % 64) + "\n"
header = header.encode("latin-1")
length = struct.pack("<H" if set["version"] == "1" else "<I", len(header))
data = set["magic"].encode("latin-1") + bytes([int(set["version"]), int(set["minor"])]) + length + header
data += struct.pack(order + "60" + code, *ids) + bytes(int(set["more"]))
open(name, "wb").write(data[:len(data) - int(set["cut"])])
END
make() { $python make.py "$@"; }
import() { "$moire" data import-routing "$@"; }

# ---- every type, both versions ----

for type in '|i1' '|u1' '<i2' '<i4' '<i8'; do
    make ids.npy "type=$type"
    check "type $type" import ids.npy "out.h5"
    "$moire" inspect out.h5 >"said$count" 2>&1
    check "is the same as the others" sh -c '[ "$(grep -v "^record of" "$1")" = "$(grep -v "^record of" said1)" ]' sh "said$count"
done
make ids.npy version=2
check "version 2" import ids.npy out.h5
check "shape" grep -q 'version 2, int32 \[step, layer, token, slot\] = \[1, 3, 10, 2\]$' said1
check "experts: the largest id and one more" grep -q '^experts  *6 of which 2 a token$' said1
check "slots" grep -q '^slots  *60 chosen, 0 dropped$' said1
# First choices are (7 t + 3 l) mod 6: never the same twice. Ids k = 0, 1 of (7 t + 3 l) mod 6 lie in one of two groups unless
# the first is 2 or 5.
check "repeats" grep -q '^repeats  *0.0% of first choices are those of the token before (16.7% by chance)$' said1
$python - <<'END' >wanted
pairs = [((7 * t + 3 * l) % 6 // 3, (7 * t + 3 * l + 1) % 6 // 3) for t in range(10) for l in range(3)]
print("%.1f" % (100 - 100 * sum(len(set(pair)) for pair in pairs) / 60))
END
check "redundancy" grep -q "^redundancy  *$(cat wanted)% over 2 groups of experts (20.0% if choices were uniform)$" said1
check "no eight groups of six experts" sh -c '! grep -q "over 8 groups" said1'
check "the name that is not given" import ids.npy
check "is routing.h5" cmp routing.h5 out.h5
check "more experts than ids" import ids.npy out.h5 --experts=64
check "are said" sh -c '"$1" inspect out.h5 | grep -q "^experts  *64 of which 2 a token$"' sh "$moire"
check "tokens of a step" import ids.npy out.h5 --tokens=4
check "are said" sh -c '"$1" inspect out.h5 | grep -q "\[2, 3, 4, 2\]$"' sh "$moire"
if $python -c 'import h5py' 2>/dev/null; then
    check "h5py reads the ids, step by step" $python - <<'END'
import h5py
with h5py.File("out.h5") as file:
    for step in range(2):
        for l in range(3):
            for t in range(4):
                for k in range(2):
                    assert file["experts"][step, l, t, k] == (7 * (4 * step + t) + 3 * l + k) % 6
    assert (file["source"][...] == 0).all() and file["source"].shape == (2, 4)
    assert file.attrs["format_version"] == 2 and file.attrs["experts"] == 6 and file.attrs["first_step"] == 0
END
else
    skip "h5py reads the ids, step by step" "there is no h5py"
fi
if $python -c 'import numpy' 2>/dev/null; then
    $python -c 'import numpy; numpy.save("own.npy", numpy.load("ids.npy").astype("i8"))'
    check "what numpy itself writes" import own.npy own.h5
    check "is the same" cmp own.h5 routing.h5
else
    skip "what numpy itself writes" "there is no numpy"
fi

# ---- replay ----

import ids.npy replay.h5 >/dev/null
printf '[run]\nseed = 1\n' >tiny.ini
for ranks in 1 2; do
    check "a run replays it at $ranks ranks" mpi "$ranks" "$moire" train tiny.ini --run.dir="run$ranks" --compute.mode=emulate \
        --compute.rate=1e12 --train.steps=2 --train.batch=2 --train.warmup=0 --model.sequence=8 --model.layers=3 --model.dim=8 \
        --model.heads=2 --model.ffn_hidden=8 --moe.expert_hidden=8 --moe.experts=6 --moe.top_k=2 --moe.router=forced \
        --moe.forced=replay --moe.forced_file=replay.h5 --data.source=synthetic --moe.record=yes
    cp out told
    check "and says that it starts again" grep -q 'replay.h5 starts again where it ends; it has 1 steps of 10 tokens, the run 2 of 16' told
    "$moire" inspect "run$ranks/routing.h5" >"replayed$ranks" 2>&1
    check "its own record has both steps, from all ranks" grep -q "^tokens  *16 a step, from $ranks rank" "replayed$ranks"
done
check "the choices do not depend on the ranks" sh -c \
    'grep "^slots\|^imbalance\|^redundancy" replayed1 >a && grep "^slots\|^imbalance\|^redundancy" replayed2 | cmp - a'

# ---- what is refused ----

# refused NAME TEXT [KEY=VALUE ...]
refused() {
    refused_name=$1 refused_text=$2
    shift 2
    make bad.npy "$@"
    check_fails "$refused_name" 1 "$refused_text" import bad.npy bad.h5
}
check_fails "a file that is not there" 1 "nowhere.npy" import nowhere.npy bad.h5
refused "no NumPy file" 'bad.npy is no NumPy file; found' magic=xNUMPY
: >empty.npy
check_fails "an empty file" 1 "empty.npy is no NumPy file; found 0 bytes" import empty.npy bad.h5
refused "version 3" "found 3.0, expected 1.0 or 2.0" version=3
refused "version 1.1" "found 1.1, expected 1.0 or 2.0" minor=1
refused "big endian" "is big endian; found type '>i4', expected |i1" "type=>i4"
refused "real numbers" "holds no integers of a known type; found type '<f4'" "type=<f4"
refused "Fortran order" "found fortran_order True, expected False; try numpy.ascontiguousarray" fortran=True
refused "two axes" "found 2 axes, expected 3: \[tokens, layers, K\]" "shape=(10, 6)"
refused "one axis" "found 1 axes, expected 3" "shape=(60,)"
refused "no axis" "found 0 axes, expected 3" "shape=()"
refused "no tokens" "is empty; found shape \[0, 3, 2\]" "shape=(0, 3, 2)"
refused "a cut file" "is truncated; found 239 bytes of numbers, expected \[10, 3, 2\] of 4 bytes" cut=1
refused "a cut header" "is truncated; found 40 bytes, expected a header" cut=326
refused "a file that is too long" "is too long; found 241 bytes" more=1
refused "a shape beyond all files" "is truncated; found 240 bytes" "shape=(4611686018427387904, 3, 2)"
refused "a length beyond 64 bits" "expected a length below 2^63" "shape=(46116860184273879040, 3, 2)"
refused "a negative length" "expected a length" "shape=(-10, 3, 2)"
refused "nine axes" "expected at most 8 axes" "shape=(1,1,1,1,1,1,1,1,1)"
refused "a negative id" "found -1 at \[4, 2, 1\] (token, layer, slot), expected 0 to 1048575" at=4,2,1 value=-1
refused "an id beyond all experts" "found 1048576 at \[9, 0, 0\]" at=9,0,0 value=1048576
refused "an id beyond 32 bits" "found 4294967296 at \[0, 0, 1\]" "type=<i8" at=0,0,1 value=4294967296
refused "a structure" "expected a plain type such as '<i4'" "header={'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (60,), }"
refused "a key that is missing" "expected 'descr', 'fortran_order' and 'shape', each once" "header={'descr': '<i4', 'shape': (10, 3, 2), }"
refused "a key that stands twice" "each once" "header={'descr': '<i4', 'descr': '<i4', 'shape': (10, 3, 2), }"
refused "a key that is unknown" "expected '}'" "header={'descr': '<i4', 'fortran_order': False, 'shape': (10, 3, 2), 'x': 1}"
refused "no dictionary" "expected '{'" "header=[1]"
refused "a text without an end" "expected a plain type" "header={'descr': '<i4"
refused "an order that is none" "expected True or False" "fortran=Maybe"
make ids.npy
check_fails "ids above the experts given" 1 "found 3 at \[0, 1, 0\] (token, layer, slot), expected 0 to 2" import ids.npy bad.h5 --experts=3
check_fails "more choices than experts" 1 "found 2, expected at most 1" sh -c \
    '$python make.py one.npy; $python - <<END
data = bytearray(open("one.npy", "rb").read())
data[-240:] = bytes(240)
open("one.npy", "wb").write(data)
END
"$1" data import-routing one.npy bad.h5' sh "$moire"
make twice.npy at=4,2,1 value=4
check "an expert twice is a warning" import twice.npy twice.h5
cp out told
check "that counts" grep -q "in twice.npy 1 of 30 choices name an expert twice" told
check_fails "a step longer than the file" 2 "found 11, expected at most 10" import ids.npy bad.h5 --tokens=11
check_fails "no number of experts" 2 "experts is no number; found 'x', expected 1 or more" import ids.npy bad.h5 --experts=x
check_fails "an unknown option" 2 "unknown option --expert of moire data; did you mean --experts?" import ids.npy bad.h5 --expert=3
check_fails "no file" 2 "found 0 names, expected FILE.npy" import
check_fails "three files" 2 "found 3 names" import a b c
check "nothing is written where something is wrong" test ! -e bad.h5
check_fails "a folder that is not there" 1 "nowhere/out.h5" import ids.npy nowhere/out.h5
finish
