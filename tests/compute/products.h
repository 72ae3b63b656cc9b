/* The naive product, and its comparison with moire_gemm; shared by linear.c and linear_cuts.c. */
#ifndef MOIRE_TESTS_COMPUTE_PRODUCTS_H
#define MOIRE_TESTS_COMPUTE_PRODUCTS_H

#include "checks.h"

#include "moire/compute/linear.h"

static inline void naive_gemm(bool transpose_a, bool transpose_b, int64_t rows, int64_t columns,
                              int64_t inner, double alpha, const real *a, int64_t lda, const real *b,
                              int64_t ldb, double beta, double *c, int64_t ldc)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            double sum = 0;
            for (int64_t k = 0; k < inner; k++)
                sum += (double)(transpose_a ? a[k * lda + i] : a[i * lda + k]) *
                       (double)(transpose_b ? b[j * ldb + k] : b[k * ldb + j]);
            c[i * ldc + j] = alpha * sum + (beta == 0 ? 0 : beta * c[i * ldc + j]);
        }
}

/* One product in rows longer than needed; what lies between the rows must stay. */
static inline void compare_gemm(bool transpose_a, bool transpose_b, int64_t rows, int64_t columns,
                                int64_t inner, double alpha, double beta)
{
    int64_t lda = (transpose_a ? rows : inner) + 3, ldb = (transpose_b ? inner : columns) + 1,
            ldc = columns + 2;
    int64_t stored = (transpose_a ? inner : rows);
    real *a = random_reals(stored * lda), *b = random_reals((transpose_b ? columns : inner) * ldb),
         *c = random_reals(rows * ldc);
    double *wanted = copy_doubles(rows * ldc, c);
    for (int64_t i = 0; beta == 0 && i < rows * ldc; i++)
        if (i % ldc < columns) c[i] = (real)NAN;
    new_case("%d %d, %lld x %lld x %lld, alpha %g, beta %g", transpose_a, transpose_b, (long long)rows,
             (long long)columns, (long long)inner, alpha, beta);
    naive_gemm(transpose_a, transpose_b, rows, columns, inner, alpha, a, lda, b, ldb, beta, wanted, ldc);
    moire_gemm(transpose_a, transpose_b, rows, columns, inner, (real)alpha, a, lda, b, ldb, (real)beta, c,
               ldc);
    expect_close(rows * ldc, c, wanted);
    release_all();
}

static inline void compare_gemm_sizes(void)
{
    const int64_t sizes[] = { 0, 1, 2, 3, 7, 31, 33 };
    const double scales[][2] = { { 1, 0 }, { 1, 1 }, { 0.5, -2 } };
    for (int n = 0; n < 120; n++)
        for (int kind = 0; kind < 4; kind++) {
            const double *scale = scales[test_random_below(3)];
            compare_gemm(kind & 1, kind & 2, sizes[test_random_below(7)], sizes[test_random_below(7)],
                         sizes[test_random_below(7)], scale[0], scale[1]);
        }
}

#endif
