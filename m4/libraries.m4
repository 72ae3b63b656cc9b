# MOIRE_LIBRARY(NAME, MODULES, PACKAGE): a library that is needed, by pkg-config.
AC_DEFUN([MOIRE_LIBRARY], [
  PKG_CHECK_MODULES([$1], [$2], [],
    [AC_MSG_ERROR([$2 was not found by pkg-config; install $3, or set PKG_CONFIG_PATH, or $1_CFLAGS and $1_LIBS])])
])

# MOIRE_HWLOC: --with-hwloc=DIR, --without-hwloc. Used where it is found; asked for and missing is an error.
AC_DEFUN([MOIRE_HWLOC], [
  AC_ARG_WITH([hwloc],
    [AS_HELP_STRING([--with-hwloc@<:@=DIR@:>@], [sockets, NUMA nodes and network devices by hwloc 2, installed in DIR (default: where found)])],
    [], [with_hwloc=auto])
  have_hwloc=no
  AS_IF([test "x$with_hwloc" != xno], [
    AS_CASE([$with_hwloc], [yes|auto], [], [
      AS_FOR([D], [d], [lib lib64 share "lib/$($CC -print-multiarch 2>/dev/null)"], [
        AS_IF([test -f "$with_hwloc/$d/pkgconfig/hwloc.pc"],
          [PKG_CONFIG_PATH="$with_hwloc/$d/pkgconfig:$PKG_CONFIG_PATH"; export PKG_CONFIG_PATH; moire_hwloc_found=yes])])
      AS_IF([test "x$moire_hwloc_found" != xyes && test -z "$HWLOC_LIBS"],
        [AC_MSG_ERROR([hwloc.pc was not found under $with_hwloc; give the prefix of an hwloc 2, or --without-hwloc])])])
    PKG_CHECK_MODULES([HWLOC], [hwloc >= 2 hwloc < 3], [have_hwloc=yes], [
      AS_IF([test "x$with_hwloc" != xauto],
        [AC_MSG_ERROR([hwloc 2 was not found by pkg-config; install libhwloc-dev, set PKG_CONFIG_PATH, or give --without-hwloc])])])])
  AS_IF([test $have_hwloc = yes], [AC_DEFINE([MOIRE_HAVE_HWLOC], [1], [Define to 1 where hwloc is used.])])
])

# MOIRE_LIBRARIES: everything beside MPI.
AC_DEFUN([MOIRE_LIBRARIES], [
  # The OpenMP variant by preference: the pthread one fights with our threads.
  AS_IF([test -z "$OPENBLAS_LIBS"], [
    AS_FOR([D], [d], [/usr/lib/x86_64-linux-gnu/openblas-openmp /usr/lib/aarch64-linux-gnu/openblas-openmp], [
      AS_IF([test -f "$d/pkgconfig/openblas.pc"], [PKG_CONFIG_PATH="$d/pkgconfig:$PKG_CONFIG_PATH"; export PKG_CONFIG_PATH])])])
  MOIRE_LIBRARY([OPENBLAS], [openblas], [libopenblas-openmp-dev])
  AS_IF([PKG_CHECK_EXISTS([hdf5-openmpi], [:], [false])], [HDF5_MODULE=hdf5-openmpi], [HDF5_MODULE=hdf5])
  PKG_CHECK_MODULES([HDF5], [$HDF5_MODULE], [],
    [AC_MSG_ERROR([parallel HDF5 was not found by pkg-config; install libhdf5-openmpi-dev, or set PKG_CONFIG_PATH, or HDF5_CFLAGS and HDF5_LIBS])])
  saved_CFLAGS="$CFLAGS"; CFLAGS="$CFLAGS $HDF5_CFLAGS"
  AC_MSG_CHECKING([whether HDF5 is parallel])
  AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[#include <hdf5.h>
    #ifndef H5_HAVE_PARALLEL
    #error serial
    #endif]], [])],
    [AC_MSG_RESULT([yes])],
    [AC_MSG_RESULT([no])
     AC_MSG_ERROR([this HDF5 is serial; install libhdf5-openmpi-dev or load the parallel module of the same MPI])])
  CFLAGS="$saved_CFLAGS"
  MOIRE_LIBRARY([INIH], [inih], [libinih-dev])
  MOIRE_LIBRARY([JANSSON], [jansson], [libjansson-dev])
  MOIRE_LIBRARY([XXHASH], [libxxhash], [libxxhash-dev])
  MOIRE_HWLOC
  PKG_CHECK_MODULES([CMOCKA], [cmocka], [have_cmocka=yes], [have_cmocka=no])
  AM_CONDITIONAL([HAVE_CMOCKA], [test "x$have_cmocka" = xyes])
  AC_SEARCH_LIBS([sqrt], [m])
])
