# MOIRE_SUMMARY: what was found, in a box.
AC_DEFUN([MOIRE_SUMMARY], [
  moire_line() { printf '| %-14s %-59s |\n' "$[]1" "$(printf '%.59s' "$[]2")"; }
  moire_rule() { echo '+----------------------------------------------------------------------------+'; }
  moire_rule
  moire_line "moire" "$PACKAGE_VERSION"
  moire_rule
  moire_line "compiler" "$CC ($($CC -dumpversion 2>/dev/null))"
  moire_line "MPI" "$($MPIRUN --version 2>/dev/null | head -n 1)"
  moire_line "OpenBLAS" "$($PKG_CONFIG --modversion openblas 2>/dev/null) $($PKG_CONFIG --variable=libdir openblas 2>/dev/null)"
  moire_line "HDF5" "$($PKG_CONFIG --modversion $HDF5_MODULE 2>/dev/null) ($HDF5_MODULE)"
  moire_line "inih" "$($PKG_CONFIG --modversion inih 2>/dev/null)"
  moire_line "jansson" "$($PKG_CONFIG --modversion jansson 2>/dev/null)"
  moire_line "xxHash" "$($PKG_CONFIG --modversion libxxhash 2>/dev/null)"
  AS_IF([test $have_hwloc = yes],
    [moire_line "hwloc" "$($PKG_CONFIG --modversion hwloc 2>/dev/null)"],
    [moire_line "hwloc" "no (sockets, NUMA nodes and devices stay unknown)"])
  AS_IF([test $have_ucx = yes],
    [moire_line "UCX" "$($PKG_CONFIG --modversion ucx 2>/dev/null)"],
    [moire_line "UCX" "no (without the exchange back end ucx)"])
  moire_line "cmocka" "$have_cmocka (needed by make check)"
  moire_rule
  moire_line "debug" "$enable_debug"
  moire_line "sanitize" "$enable_sanitize"
  moire_line "native" "$enable_native"
  moire_line "werror" "$enable_werror"
  moire_line "prefix" "$prefix"
  moire_rule
])
