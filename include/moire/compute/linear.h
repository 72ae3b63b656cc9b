/* Products: dense and grouped. Matrices are row-major; a weight is [outputs, inputs], so forward is y = x
 * W^T. Threads: OpenBLAS's own. None is collective; zero rows are fine. */
#ifndef MOIRE_COMPUTE_LINEAR_H
#define MOIRE_COMPUTE_LINEAR_H

#include <stdbool.h>

#include "moire/base/real.h"
#include "moire/base/segment.h"

/* C [rows, columns] = alpha op(A) op(B) + beta C; op(A) [rows, inner], op(B) [inner, columns]; lda, ldb and
 * ldc are the distances between stored rows. beta 0 never reads C. */
void moire_gemm(bool transpose_a, bool transpose_b, int64_t rows, int64_t columns, int64_t inner, real alpha,
                const real *a, int64_t lda, const real *b, int64_t ldb, real beta, real *c, int64_t ldc);

/* y [rows, outputs] = x [rows, inputs] W^T + bias [outputs] (NULL: none). */
void moire_linear_forward(int64_t rows, int64_t inputs, int64_t outputs, const real *x, const real *weight,
                          const real *bias, real *y);
/* x_gradient [rows, inputs] = y_gradient W (accumulate: += ). */
void moire_linear_backward_input(int64_t rows, int64_t inputs, int64_t outputs, const real *y_gradient,
                                 const real *weight, bool accumulate, real *x_gradient);
/* weight_gradient [outputs, inputs] += y_gradient^T x; bias_gradient [outputs] += sum over rows of y_gradient
 * (NULL: none). */
void moire_linear_backward_weight(int64_t rows, int64_t inputs, int64_t outputs, const real *x,
                                  const real *y_gradient, real *weight_gradient, real *bias_gradient);

/* Grouped: rows of segment s use matrix segments[s].instance of weights [instances, outputs, inputs]. The
 * cuts of the products are the segments, so their bits are a function of the plan. With several threads a
 * segment of few rows is cut again, into fixed widths of the result, and threads share these pieces; a segment
 * of many rows is one product of all threads. Which it is depends on the rows of the segment alone. */
void moire_grouped_forward(const struct moire_segment *segments, int64_t count, int64_t inputs,
                           int64_t outputs, const real *x, const real *weights, real *y);
void moire_grouped_backward_input(const struct moire_segment *segments, int64_t count, int64_t inputs,
                                  int64_t outputs, const real *y_gradient, const real *weights,
                                  bool accumulate, real *x_gradient);
/* One product an instance over all its rows, [begin[i], begin[i+1]): weight_gradients [instances, outputs,
 * inputs] += . */
void moire_grouped_backward_weight(const int64_t *begin, int64_t instances, int64_t inputs, int64_t outputs,
                                   const real *x, const real *y_gradient, real *weight_gradients);

/* Which OpenBLAS runs: its own words, and whether it is the OpenMP variant (the pthread one fights with our
 * threads). */
const char *moire_blas_description(void);
bool moire_blas_is_openmp(void);
int moire_compute_threads(void); /* OpenMP threads of a parallel region */

#endif
