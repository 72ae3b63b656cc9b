#include "moire/compute/linear.h"

#include <cblas.h>
#include <omp.h>

#include "compute/sums.h"
#include "moire/base/status.h"
#include "moire/compute/emulate.h"

/* BLAS counts in int: longer products are cut. */
#ifndef MOIRE_GEMM_LONGEST
#define MOIRE_GEMM_LONGEST (1 << 30)
#endif

/* No side longer than MOIRE_GEMM_LONGEST. */
static void gemm_part(bool transpose_a, bool transpose_b, int64_t rows, int64_t columns, int64_t inner,
                      real alpha, const real *a, int64_t lda, const real *b, int64_t ldb, real beta, real *c,
                      int64_t ldc)
{
    CBLAS_TRANSPOSE ta = transpose_a ? CblasTrans : CblasNoTrans,
                    tb = transpose_b ? CblasTrans : CblasNoTrans;
#ifdef MOIRE_REAL_DOUBLE
    cblas_dgemm(CblasRowMajor, ta, tb, (int)rows, (int)columns, (int)inner, alpha, a, (int)lda, b, (int)ldb,
                beta, c, (int)ldc);
#else
    cblas_sgemm(CblasRowMajor, ta, tb, (int)rows, (int)columns, (int)inner, alpha, a, (int)lda, b, (int)ldb,
                beta, c, (int)ldc);
#endif
}

/* An empty inner side: C = beta C. */
static void scale_rows(int64_t rows, int64_t columns, real beta, real *c, int64_t ldc)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < columns; j++) c[r * ldc + j] = beta == 0 ? 0 : beta * c[r * ldc + j];
}

void moire_gemm(bool transpose_a, bool transpose_b, int64_t rows, int64_t columns, int64_t inner, real alpha,
                const real *a, int64_t lda, const real *b, int64_t ldb, real beta, real *c, int64_t ldc)
{
    const int64_t longest = MOIRE_GEMM_LONGEST;
    if (moire_emulate_work(2.0 * (double)rows * (double)columns * (double)inner)) return;
    moire_assert(lda <= INT32_MAX && ldb <= INT32_MAX && ldc <= INT32_MAX);
    if (inner == 0) scale_rows(rows, columns, beta, c, ldc);
    for (int64_t i = 0; i < rows; i += longest)
        for (int64_t j = 0; j < columns; j += longest)
            for (int64_t k = 0; k < inner; k += longest)
                gemm_part(transpose_a, transpose_b, moire_least(longest, rows - i),
                          moire_least(longest, columns - j), moire_least(longest, inner - k), alpha,
                          transpose_a ? a + k * lda + i : a + i * lda + k, lda,
                          transpose_b ? b + j * ldb + k : b + k * ldb + j, ldb, k == 0 ? beta : 1,
                          c + i * ldc + j, ldc);
}

/* y [rows, columns] += bias [columns] */
static void add_bias(int64_t rows, int64_t columns, const real *bias, real *y)
{
#pragma omp parallel for schedule(static) if (rows * columns > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < columns; j++) y[r * columns + j] += bias[j];
}

/* sum [columns] += the rows of y [rows, columns]. Threads share the columns, so the order of a sum is
 * always the same. */
static void add_columns(int64_t rows, int64_t columns, const real *y, real *sum)
{
#pragma omp parallel for schedule(static) if (rows * columns > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t j = 0; j < columns; j += MOIRE_COLUMNS) {
        int64_t width = moire_least(MOIRE_COLUMNS, columns - j);
        for (int64_t r = 0; r < rows; r += MOIRE_ROWS) {
            real part[MOIRE_COLUMNS] = { 0 };
            for (const real *row = y + r * columns + j; row < y + moire_least(r + MOIRE_ROWS, rows) * columns;
                 row += columns)
                for (int64_t c = 0; c < width; c++) part[c] += row[c];
            for (int64_t c = 0; c < width; c++) sum[j + c] += part[c];
        }
    }
}

void moire_linear_forward(int64_t rows, int64_t inputs, int64_t outputs, const real *x, const real *weight,
                          const real *bias, real *y)
{
    moire_gemm(false, true, rows, outputs, inputs, 1, x, inputs, weight, inputs, 0, y, outputs);
    if (bias && !moire_is_emulated()) add_bias(rows, outputs, bias, y);
}

void moire_linear_backward_input(int64_t rows, int64_t inputs, int64_t outputs, const real *y_gradient,
                                 const real *weight, bool accumulate, real *x_gradient)
{
    moire_gemm(false, false, rows, inputs, outputs, 1, y_gradient, outputs, weight, inputs, accumulate,
               x_gradient, inputs);
}

void moire_linear_backward_weight(int64_t rows, int64_t inputs, int64_t outputs, const real *x,
                                  const real *y_gradient, real *weight_gradient, real *bias_gradient)
{
    moire_gemm(true, false, outputs, inputs, rows, 1, y_gradient, outputs, x, inputs, 1, weight_gradient,
               inputs);
    if (bias_gradient && !moire_is_emulated()) add_columns(rows, outputs, y_gradient, bias_gradient);
}

const char *moire_blas_description(void)
{
    return openblas_get_config();
}

bool moire_blas_is_openmp(void)
{
    return openblas_get_parallel() == OPENBLAS_OPENMP;
}

int moire_compute_threads(void)
{
    return omp_get_max_threads();
}
