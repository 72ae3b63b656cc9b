/* Norms over rows [rows, D]. Forward keeps one or two numbers a row for backward. Row loops are threaded;
 * sums over rows have a fixed order for a number of threads. Not collective; zero rows are fine. rms:   y = w
 * * x / sqrt(mean(x^2) + epsilon)                    (Zhang, Sennrich 2019) layer: y = w * (x - mean(x)) /
 * sqrt(var(x) + epsilon) + b       (Ba, Kiros, Hinton 2016) */
#ifndef MOIRE_COMPUTE_NORM_H
#define MOIRE_COMPUTE_NORM_H

#include <stdbool.h>
#include <stdint.h>

#include "moire/base/real.h"

/* saved [rows, 2]: mean (0 for rms) and inverse deviation of each row. `bias` NULL: rms. */
void moire_norm_forward(int64_t rows, int64_t dim, double epsilon, const real *x, const real *weight,
                        const real *bias, real *y, real *saved);
/* x_gradient += ; weight_gradient += ; bias_gradient += (NULL where bias is). x_gradient must not be
 * y_gradient. */
void moire_norm_backward(int64_t rows, int64_t dim, const real *x, const real *weight, const real *saved,
                         const real *y_gradient, real *x_gradient, real *weight_gradient,
                         real *bias_gradient);

#endif
