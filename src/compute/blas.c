#include "moire/compute/blas.h"

#include <cblas.h>

#include "moire/base/log.h"
#include "moire/compute/linear.h"

void moire_blas_warn(void)
{
    if (moire_blas_is_openmp() || openblas_get_num_threads() <= 1) return;
    moire_warn("OpenBLAS is not its OpenMP variant: its threads fight with OpenMP's; found %s; install "
               "libopenblas0-openmp and choose it (update-alternatives --config "
               "libopenblas.so.0-x86_64-linux-gnu), or set OPENBLAS_NUM_THREADS=1",
               moire_blas_description());
}
