/* Experts: what is computed on received rows. Two kinds, as for dense feed-forward layers:
 *   swiglu  y = w * down (silu(gate x) * up x)       gate, up [I, F, D], down [I, D, F]
 *   gelu    y = w * down gelu(up x)                  up [I, F, D], down [I, D, F]
 * I local instances, R received rows, F hidden. The slot's weight w is applied to the hidden activations, so
 * outputs need not be kept: d loss / d w = <gradient of hidden before weighting, hidden>. Not collective;
 * zero rows and zero instances are fine. */
#ifndef MOIRE_MOE_EXPERTS_H
#define MOIRE_MOE_EXPERTS_H

#include "moire/base/real.h"
#include "moire/base/segment.h"

struct moire_experts {
    int kind;                                          /* MOIRE_SWIGLU or MOIRE_GELU */
    int64_t dim, hidden;                               /* D, F */
    int64_t instances;                                 /* I */
    const real *gate, *up, *down;                      /* gate NULL for gelu */
    real *gate_gradient, *up_gradient, *down_gradient; /* += in backward */
};
/* The rows of one call. */
struct moire_expert_rows {
    const struct moire_segment *segments; /* ascending first_row, as exchange.h has them */
    int64_t segment_count;
    const int64_t *instance_begin; /* [I + 1] */
    int64_t rows;                  /* R */
    const real *input;             /* [R, D], kept by the layer until backward */
    const real *weights;           /* [R] */
    real *gate, *up;               /* [R, F] before activation, kept until backward, which needs them no more
                                    * afterwards and overwrites gate; gate NULL for gelu */
    real *hidden;                  /* [R, F] scratch */
};
/* output [R, D]. */
void moire_experts_forward(const struct moire_experts *experts, const struct moire_expert_rows *rows,
                           real *output);
/* The part of it that backward needs: gate and up. */
void moire_experts_forward_again(const struct moire_experts *experts, const struct moire_expert_rows *rows);
/* input_gradient [R, D] (NULL: not wanted, and its products are left out) and weight_gradients [R] are
 * overwritten; the matrices' gradients are accumulated. scratch [R, F]. */
void moire_experts_backward(const struct moire_experts *experts, const struct moire_expert_rows *rows,
                            const real *output_gradient, real *input_gradient, real *weight_gradients,
                            real *scratch);

#endif
