/* Activations of feed-forward layers and experts, with the slot's weight applied to the hidden row:
 *   gelu:   h = w gelu(u),         gelu(u) = u/2 (1 + tanh(sqrt(2/pi) (u + 0.044715 u^3)))   (Hendrycks,
 * Gimpel 2016) swiglu: h = w silu(g) u,       silu(g) = g / (1 + exp(-g)) (Shazeer 2020) The gradient of the
 * weight is <gradient of h, h / w>, computed without dividing. `weights` [rows] may be NULL (1). Not
 * collective; zero rows are fine. */
#ifndef MOIRE_COMPUTE_ACTIVATION_H
#define MOIRE_COMPUTE_ACTIVATION_H

#include <stdint.h>

#include "moire/base/real.h"

/* up and hidden [rows, F]. */
void moire_gelu_forward(int64_t rows, int64_t hidden_size, const real *up, const real *weights, real *hidden);
/* Also makes `hidden` again, as forward made it, since the derivative takes the same exponential.
 * up_gradient may be hidden_gradient. weight_gradients [rows] is overwritten (NULL: not wanted). */
void moire_gelu_backward(int64_t rows, int64_t hidden_size, const real *up, const real *weights,
                         const real *hidden_gradient, real *up_gradient, real *hidden,
                         real *weight_gradients);
/* gate, up and hidden [rows, F]. */
void moire_swiglu_forward(int64_t rows, int64_t hidden_size, const real *gate, const real *up,
                          const real *weights, real *hidden);
/* Makes `hidden` again too. up_gradient may be hidden_gradient, and gate_gradient may be gate. */
void moire_swiglu_backward(int64_t rows, int64_t hidden_size, const real *gate, const real *up,
                           const real *weights, const real *hidden_gradient, real *gate_gradient,
                           real *up_gradient, real *hidden, real *weight_gradients);

#endif
