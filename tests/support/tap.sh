# TAP for shell tests: `. "$top_srcdir/tests/support/tap.sh"` first, `finish` last.
# Inside: $scratch is an empty folder that goes away at the end; $moire is the program; mpi N COMMAND... starts ranks.
set -u
top_srcdir=${top_srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
top_builddir=${top_builddir:-$PWD}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/moire-test.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM
moire=$top_builddir/moire
count=0
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_btl_base_warn_component_unused=0
export OMPI_MCA_pml="${OMPI_MCA_pml:-ob1}" OMPI_MCA_osc="${OMPI_MCA_osc:-^ucx}" OMPI_MCA_btl="${OMPI_MCA_btl:-^uct,openib,ofi}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# MPI libraries leave memory at their end, which LeakSanitizer would blame on us; our own is counted.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}"
# Two launchers that make or remove their common folder at the same time can fail: each test has its own.
export OMPI_MCA_orte_tmpdir_base="$scratch"
mpi() { ranks=$1; shift; timeout -k 5 "${MOIRE_TEST_SECONDS:-300}" "${MPIRUN:-mpirun}" -n "$ranks" "$@"; }
pass() { count=$((count + 1)); echo "ok $count - $*"; }
fail() { count=$((count + 1)); echo "not ok $count - $*"; [ -f "$scratch/out" ] && sed 's/^/# /' "$scratch/out"; return 0; }
skip() { count=$((count + 1)); echo "ok $count - $1 # SKIP $2"; }
comment() { printf '%s\n' "$*" | sed 's/^/# /'; }
# check NAME COMMAND...: passes when the command succeeds; its output is shown when it does not.
check() { tap_name=$1; shift; if "$@" >"$scratch/out" 2>&1; then pass "$tap_name"; else fail "$tap_name"; fi; }
# check_fails NAME CODE TEXT COMMAND...: the exit code must be CODE and the output contain TEXT (a basic regular expression).
check_fails() {
    tap_name=$1; tap_code=$2; tap_text=$3; shift 3
    "$@" >"$scratch/out" 2>&1; tap_found=$?
    if [ "$tap_found" -ne "$tap_code" ]; then fail "$tap_name (exit code $tap_found, expected $tap_code)"
    elif ! grep -q -e "$tap_text" "$scratch/out"; then fail "$tap_name (no '$tap_text' in the output)"
    else pass "$tap_name"; fi
}
finish() { echo "1..$count"; }
