# MOIRE_LIBRARY(NAME, MODULES, PACKAGE): a library that is needed, by pkg-config.
AC_DEFUN([MOIRE_LIBRARY], [
  PKG_CHECK_MODULES([$1], [$2], [],
    [AC_MSG_ERROR([$2 was not found by pkg-config; install $3, or set PKG_CONFIG_PATH, or $1_CFLAGS and $1_LIBS])])
])

# MOIRE_OPTIONAL(NAME, name, MODULES, PACKAGE, WHAT): --with-name=DIR, --without-name. Used where it is found; asked for
# and missing is an error. Sets have_name, and defines MOIRE_HAVE_NAME.
AC_DEFUN([MOIRE_OPTIONAL], [
  AC_ARG_WITH([$2],
    [AS_HELP_STRING([--with-$2@<:@=DIR@:>@], [$5, installed in DIR (default: where found)])],
    [], [with_$2=auto])
  have_$2=no
  AS_IF([test "x$with_$2" != xno], [
    AS_CASE([$with_$2], [yes|auto], [], [
      AS_FOR([D], [d], [lib lib64 share "lib/$($CC -print-multiarch 2>/dev/null)"], [
        AS_IF([test -f "$with_$2/$d/pkgconfig/$2.pc"],
          [PKG_CONFIG_PATH="$with_$2/$d/pkgconfig:$PKG_CONFIG_PATH"; export PKG_CONFIG_PATH; moire_$2_found=yes])])
      AS_IF([test "x$moire_$2_found" != xyes && test -z "$$1_LIBS"],
        [AC_MSG_ERROR([$2.pc was not found under $with_$2; give the prefix where $3 is installed, or --without-$2])])])
    PKG_CHECK_MODULES([$1], [$3], [have_$2=yes], [
      AS_IF([test "x$with_$2" != xauto],
        [AC_MSG_ERROR([$3 was not found by pkg-config; install $4, set PKG_CONFIG_PATH, or give --without-$2])])])])
  AS_IF([test $have_$2 = yes], [AC_DEFINE([MOIRE_HAVE_$1], [1], [Define to 1 where $2 is used.])])
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
  MOIRE_OPTIONAL([HWLOC], [hwloc], [hwloc >= 2 hwloc < 3], [libhwloc-dev],
    [sockets, NUMA nodes and network devices by hwloc 2])
  MOIRE_OPTIONAL([UCX], [ucx], [ucx >= 1.10], [libucx-dev], [the exchange back end ucx by UCX])
  PKG_CHECK_MODULES([CMOCKA], [cmocka], [have_cmocka=yes], [have_cmocka=no])
  AM_CONDITIONAL([HAVE_CMOCKA], [test "x$have_cmocka" = xyes])
  AC_SEARCH_LIBS([sqrt], [m])
])
