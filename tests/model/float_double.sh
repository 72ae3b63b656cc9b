# The float gradients against the double ones, norm-wise by tensor, under 1e-4, for every combination.
. "${top_srcdir:-.}/tests/support/tap.sh"
check "float gradients are written" "$top_builddir/tests/model/gradient_dump" "$scratch/float"
check "double gradients are written" "$top_builddir/tests/model/gradient_dump_double" "$scratch/double"
check "float and double agree by tensor to 1e-4" "$top_builddir/tests/model/gradient_dump" --compare "$scratch/float" "$scratch/double"
comment "$(tail -n 1 "$scratch/out" 2>/dev/null)"
finish
