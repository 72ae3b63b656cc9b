# MOIRE_MPI: MPI through CC.
AC_DEFUN([MOIRE_MPI], [
  AC_MSG_CHECKING([whether $CC finds MPI])
  AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <mpi.h>]], [[MPI_Init(0, 0);]])],
    [AC_MSG_RESULT([yes])],
    [AC_MSG_RESULT([no])
     AC_MSG_ERROR([$CC does not compile an MPI program; give CC=mpicc or load an MPI module])])
  AC_CHECK_PROGS([MPIRUN], [mpirun mpiexec], [mpirun])
  AC_SUBST([MPIRUN])
])
