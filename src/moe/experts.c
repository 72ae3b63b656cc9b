#include "moire/moe/experts.h"

#include "moire/base/config.h"
#include "moire/compute/activation.h"
#include "moire/compute/linear.h"

void moire_experts_forward_again(const struct moire_experts *experts, const struct moire_expert_rows *rows)
{
    const struct moire_segment *segments = rows->segments;
    const int64_t count = rows->segment_count, dim = experts->dim, hidden = experts->hidden;
    if (experts->kind == MOIRE_SWIGLU)
        moire_grouped_forward(segments, count, dim, hidden, rows->input, experts->gate, rows->gate);
    moire_grouped_forward(segments, count, dim, hidden, rows->input, experts->up, rows->up);
}

void moire_experts_forward(const struct moire_experts *experts, const struct moire_expert_rows *rows,
                           real *output)
{
    const struct moire_segment *segments = rows->segments;
    const int64_t count = rows->segment_count, dim = experts->dim, hidden = experts->hidden;
    moire_experts_forward_again(experts, rows);
    if (experts->kind == MOIRE_SWIGLU)
        moire_swiglu_forward(rows->rows, hidden, rows->gate, rows->up, rows->weights, rows->hidden);
    else
        moire_gelu_forward(rows->rows, hidden, rows->up, rows->weights, rows->hidden);
    moire_grouped_forward(segments, count, hidden, dim, rows->hidden, experts->down, output);
}

/* One of the two matrices that the input goes through. */
static void backward_matrix(const struct moire_experts *experts, const struct moire_expert_rows *rows,
                            const real *gradient, const real *weights, real *weight_gradient, bool accumulate,
                            real *input_gradient)
{
    moire_grouped_backward_weight(rows->instance_begin, experts->instances, experts->dim, experts->hidden,
                                  rows->input, gradient, weight_gradient);
    if (!input_gradient) return;
    moire_grouped_backward_input(rows->segments, rows->segment_count, experts->dim, experts->hidden, gradient,
                                 weights, accumulate, input_gradient);
}

void moire_experts_backward(const struct moire_experts *experts, const struct moire_expert_rows *rows,
                            const real *output_gradient, real *input_gradient, real *weight_gradients,
                            real *scratch)
{
    const int64_t dim = experts->dim, hidden = experts->hidden;
    const bool gated = experts->kind == MOIRE_SWIGLU;
    moire_grouped_backward_input(rows->segments, rows->segment_count, hidden, dim, output_gradient,
                                 experts->down, false, scratch);
    /* From here on scratch holds the gradient of `up`, gate that of `gate`; other layers have used hidden
     * since forward, so that is made again. */
    if (gated)
        moire_swiglu_backward(rows->rows, hidden, rows->gate, rows->up, rows->weights, scratch, rows->gate,
                              scratch, rows->hidden, weight_gradients);
    else
        moire_gelu_backward(rows->rows, hidden, rows->up, rows->weights, scratch, scratch, rows->hidden,
                            weight_gradients);
    moire_grouped_backward_weight(rows->instance_begin, experts->instances, hidden, dim, rows->hidden,
                                  output_gradient, experts->down_gradient);
    if (gated)
        backward_matrix(experts, rows, rows->gate, experts->gate, experts->gate_gradient, false,
                        input_gradient);
    backward_matrix(experts, rows, scratch, experts->up, experts->up_gradient, gated, input_gradient);
}
