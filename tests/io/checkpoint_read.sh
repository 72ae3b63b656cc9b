# One file, many readers: other numbers of ranks, other splits of the experts, and h5py.
. "$top_srcdir/tests/support/tap.sh"
writer=$top_builddir/tests/io/checkpoint_writer
run=$scratch/run

step=0
for write in "1 1" "2 1" "3 3" "4 2" "5 1"; do
    set -- $write
    step=$((step + 1))
    check "$1 ranks, $2 to a copy of the experts, write" mpi "$1" "$writer" write "$run" "$step" 9 "$2"
done
for read in "1 1 5" "2 2 4" "2 1 1" "3 1 4" "3 3 5" "4 4 2" "4 1 3" "5 5 3" "6 2 5"; do
    set -- $read
    check "$1 ranks, $2 to a copy, read step $3" mpi "$1" "$writer" read "$run/step-0000000$3.h5" "$3" "$2"
done

python=/usr/bin/python3
if ! "$python" -c 'import h5py' 2>/dev/null; then
    skip "h5py reads it" "no h5py"
else
    cat >"$scratch/look.py" <<'P'
import sys, h5py, numpy
f = h5py.File(sys.argv[1], "r")
assert set(f) == {"parameters", "first_moment", "second_moment", "checksums"}, list(f)
for name, value in {"format_version": 1, "step": 5, "tokens": 35, "sequences": 15, "seed": 2**64 - 6}.items():
    assert int(f.attrs[name]) == value, (name, f.attrs[name])
assert f.attrs["element"] == b"float32" and f.attrs["config"] == b"[run]\nseed = 1\n", dict(f.attrs)
shapes = {"embedding": (257, 400), "layers.0.norm": (400,), "layers.0.router": (400, 5), "head": (400, 2, 5),
          "layers.0.attention.query": (400, 400), "layers.0.experts.w1": (5, 400, 13),
          "layers.0.experts.w2": (5, 13, 400), "layers.0.experts.bias": (5, 3)}
for group in ("parameters", "first_moment", "second_moment"):
    assert set(f[group]) == set(shapes) == set(f["checksums"][group])
    for name, shape in shapes.items():
        data, sums = f[group][name], f["checksums"][group][name]
        assert data.shape == shape and data.dtype == numpy.float32 and data.chunks is None, (name, data)
        assert sums.dtype == numpy.uint64 and sums.shape == ((5,) if "experts" in name else ()), (name, sums)
        assert 0.5 < data[...].std() < 1.5 and (sums[...] != 0).all(), name
P
    check "h5py reads it" "$python" "$scratch/look.py" "$run/step-00000005.h5"
fi
finish
