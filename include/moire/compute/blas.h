/* A warning where the OpenBLAS that was loaded keeps threads of its own beside OpenMP's, more than one. Not
 * collective; the root prints. */
#ifndef MOIRE_COMPUTE_BLAS_H
#define MOIRE_COMPUTE_BLAS_H

void moire_blas_warn(void);

#endif
