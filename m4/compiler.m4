# MOIRE_COMPILER: OpenMP, warnings, optimisation.
AC_DEFUN([MOIRE_COMPILER], [
  AC_OPENMP
  AS_IF([test -z "$OPENMP_CFLAGS"], [AC_MSG_ERROR([the compiler has no OpenMP; use one that has, for instance gcc])])
  MOIRE_CFLAGS="-std=gnu11 -Wall -Wextra $OPENMP_CFLAGS"
  AC_ARG_ENABLE([werror], [AS_HELP_STRING([--enable-werror], [warnings are errors])], [], [enable_werror=no])
  AS_IF([test "x$enable_werror" = xyes], [MOIRE_CFLAGS="$MOIRE_CFLAGS -Werror"])
  AC_ARG_ENABLE([native], [AS_HELP_STRING([--enable-native], [compile for this CPU only])], [], [enable_native=no])
  AS_IF([test "x$enable_native" = xyes], [MOIRE_CFLAGS="$MOIRE_CFLAGS -march=native"])
  # -O3 vectorises; no errno and no traps lets it vectorise loops with square roots. Results stay those of IEEE
  # arithmetic: no reassociation.
  MOIRE_OPTIMISE="-O3 -fno-math-errno -fno-trapping-math"
  AC_SUBST([MOIRE_CFLAGS])
])
