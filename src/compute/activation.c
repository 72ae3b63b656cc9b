#include "moire/compute/activation.h"

#include "compute/sums.h"
#include "moire/compute/emulate.h"

/* gelu(u) = u s, s = 1 / (1 + exp(-2 z)), z = sqrt(2/pi) (u + 0.044715 u^3): the same as with tanh, exact
 * at both ends. */
#define TWICE_ROOT 1.5957691216057308 /* 2 sqrt(2/pi) */
static const real gelu_slope = (real)TWICE_ROOT, gelu_cubic = (real)(TWICE_ROOT * 0.044715);

MOIRE_CLONES static void gelu_forward_row(int64_t count, const real *up, real weight, real *hidden)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        real u = up[i];
        hidden[i] = weight * (u * moire_sigmoid(u * (gelu_slope + gelu_cubic * (u * u))));
    }
}

void moire_gelu_forward(int64_t rows, int64_t hidden_size, const real *up, const real *weights, real *hidden)
{
    if (moire_is_emulated()) return;
#pragma omp parallel for schedule(static) if (rows * hidden_size > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++)
        gelu_forward_row(hidden_size, up + r * hidden_size, weights ? weights[r] : 1,
                         hidden + r * hidden_size);
}

/* Emulated. */
static void clear_weight_gradients(int64_t rows, real *weight_gradients)
{
    for (int64_t r = 0; weight_gradients && r < rows; r++) weight_gradients[r] = 0;
}

/* gelu'(u) = s + u s (1 - s) (2 z)'. `along` takes hidden_gradient gelu(u). */
MOIRE_CLONES static void gelu_backward_row(int64_t count, const real *up, real weight,
                                           const real *hidden_gradient, real *up_gradient, real *hidden,
                                           real *along)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        real u = up[i], gradient = hidden_gradient[i];
        real s = moire_sigmoid(u * (gelu_slope + gelu_cubic * (u * u)));
        real slope = gelu_slope + 3 * gelu_cubic * (u * u);
        hidden[i] = weight * (u * s);
        along[i] = gradient * (u * s);
        up_gradient[i] = weight * gradient * (s + u * s * (1 - s) * slope);
    }
}

void moire_gelu_backward(int64_t rows, int64_t hidden_size, const real *up, const real *weights,
                         const real *hidden_gradient, real *up_gradient, real *hidden,
                         real *weight_gradients)
{
    if (moire_is_emulated()) {
        clear_weight_gradients(rows, weight_gradients);
        return;
    }
#pragma omp parallel for schedule(static) if (rows * hidden_size > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0;
        for (int64_t i = 0; i < hidden_size; i += MOIRE_PIECE) {
            int64_t count = moire_least(MOIRE_PIECE, hidden_size - i), at = r * hidden_size + i;
            real along[MOIRE_PIECE];
            gelu_backward_row(count, up + at, weights ? weights[r] : 1, hidden_gradient + at,
                              up_gradient + at, hidden + at, along);
            if (weight_gradients) sum += moire_sum_piece(count, along);
        }
        if (weight_gradients) weight_gradients[r] = (real)sum;
    }
}

MOIRE_CLONES static void swiglu_forward_row(int64_t count, const real *gate, const real *up, real weight,
                                            real *hidden)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) hidden[i] = weight * (gate[i] * moire_sigmoid(gate[i]) * up[i]);
}

void moire_swiglu_forward(int64_t rows, int64_t hidden_size, const real *gate, const real *up,
                          const real *weights, real *hidden)
{
    if (moire_is_emulated()) return;
#pragma omp parallel for schedule(static) if (rows * hidden_size > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++)
        swiglu_forward_row(hidden_size, gate + r * hidden_size, up + r * hidden_size,
                           weights ? weights[r] : 1, hidden + r * hidden_size);
}

/* silu'(g) = s + g s (1 - s). `along` takes hidden_gradient silu(g) u. */
MOIRE_CLONES static void swiglu_backward_row(int64_t count, const real *gate, const real *up, real weight,
                                             const real *hidden_gradient, real *gate_gradient,
                                             real *up_gradient, real *hidden, real *along)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        real g = gate[i], u = up[i], gradient = hidden_gradient[i];
        real s = moire_sigmoid(g), silu = g * s;
        hidden[i] = weight * (silu * u);
        along[i] = gradient * (silu * u);
        gate_gradient[i] = weight * gradient * (u * (s + silu * (1 - s)));
        up_gradient[i] = weight * gradient * silu;
    }
}

void moire_swiglu_backward(int64_t rows, int64_t hidden_size, const real *gate, const real *up,
                           const real *weights, const real *hidden_gradient, real *gate_gradient,
                           real *up_gradient, real *hidden, real *weight_gradients)
{
    if (moire_is_emulated()) {
        clear_weight_gradients(rows, weight_gradients);
        return;
    }
#pragma omp parallel for schedule(static) if (rows * hidden_size > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0;
        for (int64_t i = 0; i < hidden_size; i += MOIRE_PIECE) {
            int64_t count = moire_least(MOIRE_PIECE, hidden_size - i), at = r * hidden_size + i;
            real along[MOIRE_PIECE];
            swiglu_backward_row(count, gate + at, up + at, weights ? weights[r] : 1, hidden_gradient + at,
                                gate_gradient + at, up_gradient + at, hidden + at, along);
            if (weight_gradients) sum += moire_sum_piece(count, along);
        }
        if (weight_gradients) weight_gradients[r] = (real)sum;
    }
}
