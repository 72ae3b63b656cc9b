#include "moire/compute/norm.h"

#include <string.h>

#include "compute/sums.h"
#include "moire/compute/emulate.h"

MOIRE_CLONES static void forward_row(int64_t dim, double epsilon, const real *x, const real *weight,
                                     const real *bias, real *y, real *saved)
{
    real mean = bias ? (real)(moire_sum(dim, x) / (double)dim) : 0;
    real inverse = (real)(1 / sqrt(moire_dot(dim, x, mean, x, mean) / (double)dim + epsilon));
    saved[0] = mean;
    saved[1] = inverse;
    if (bias) {
#pragma omp simd
        for (int64_t i = 0; i < dim; i++) y[i] = weight[i] * ((x[i] - mean) * inverse) + bias[i];
    } else {
#pragma omp simd
        for (int64_t i = 0; i < dim; i++) y[i] = weight[i] * (x[i] * inverse);
    }
}

void moire_norm_forward(int64_t rows, int64_t dim, double epsilon, const real *x, const real *weight,
                        const real *bias, real *y, real *saved)
{
    if (moire_is_emulated()) { /* rows that travel come from here: they are real memory */
        if (rows > 0) memcpy(y, x, sizeof *y * (size_t)(rows * dim));
        return;
    }
#pragma omp parallel for schedule(static) if (rows * dim > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++)
        forward_row(dim, epsilon, x + r * dim, weight, bias, y + r * dim, saved + 2 * r);
}

/* With n = (x - mean) inverse and g = w dy: dx += inverse (g - mean(g) - n mean(g n)); rms has no mean(g). */
MOIRE_CLONES static void backward_row(int64_t dim, bool layer, const real *x, const real *weight,
                                      const real *saved, const real *y_gradient, real *x_gradient)
{
    real mean = saved[0], inverse = saved[1], weighted[MOIRE_PIECE];
    double sum = 0, along = 0;
    for (int64_t i = 0; i < dim; i += MOIRE_PIECE) {
        int64_t count = moire_least(MOIRE_PIECE, dim - i);
        for (int64_t k = 0; k < count; k++) weighted[k] = weight[i + k] * y_gradient[i + k];
        if (layer) sum += moire_sum_piece(count, weighted);
        along += moire_dot_piece(count, x + i, mean, weighted, 0);
    }
    real shift = (real)(sum / (double)dim),
         slope = (real)(along / (double)dim * (double)inverse * (double)inverse);
#pragma omp simd
    for (int64_t i = 0; i < dim; i++)
        x_gradient[i] += inverse * (weight[i] * y_gradient[i] - shift - (x[i] - mean) * slope);
}

/* Adds rows [first, end) to weight_part and bias_part [width]; x and y_gradient point at row 0 of the
 * columns. */
MOIRE_CLONES static void add_rows(int64_t first, int64_t end, int64_t dim, int64_t width, const real *x,
                                  const real *saved, const real *y_gradient, real *weight_part,
                                  real *bias_part)
{
    for (int64_t r = first; r < end; r++) {
        real mean = saved[2 * r], inverse = saved[2 * r + 1];
#pragma omp simd
        for (int64_t c = 0; c < width; c++) {
            real gradient = y_gradient[r * dim + c];
            weight_part[c] += gradient * ((x[r * dim + c] - mean) * inverse);
            bias_part[c] += gradient;
        }
    }
}

/* Threads share the columns, so the order of a sum over rows is always the same. */
static void add_parameter_gradients(int64_t rows, int64_t dim, const real *x, const real *saved,
                                    const real *y_gradient, real *weight_gradient, real *bias_gradient)
{
#pragma omp parallel for schedule(static) if (rows * dim > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t j = 0; j < dim; j += MOIRE_COLUMNS) {
        int64_t width = moire_least(MOIRE_COLUMNS, dim - j);
        for (int64_t r = 0; r < rows; r += MOIRE_ROWS) {
            real weight_part[MOIRE_COLUMNS] = { 0 }, bias_part[MOIRE_COLUMNS] = { 0 };
            add_rows(r, moire_least(r + MOIRE_ROWS, rows), dim, width, x + j, saved, y_gradient + j,
                     weight_part, bias_part);
            for (int64_t c = 0; c < width; c++) weight_gradient[j + c] += weight_part[c];
            for (int64_t c = 0; bias_gradient && c < width; c++) bias_gradient[j + c] += bias_part[c];
        }
    }
}

void moire_norm_backward(int64_t rows, int64_t dim, const real *x, const real *weight, const real *saved,
                         const real *y_gradient, real *x_gradient, real *weight_gradient, real *bias_gradient)
{
    if (moire_is_emulated()) return;
#pragma omp parallel for schedule(static) if (rows * dim > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++)
        backward_row(dim, bias_gradient != NULL, x + r * dim, weight, saved + 2 * r, y_gradient + r * dim,
                     x_gradient + r * dim);
    add_parameter_gradients(rows, dim, x, saved, y_gradient, weight_gradient, bias_gradient);
}
