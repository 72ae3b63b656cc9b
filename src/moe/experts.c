#include "moire/moe/experts.h"

#include "moire/base/config.h"
#include "moire/compute/activation.h"
#include "moire/compute/linear.h"

/* Some of the instances, with all their rows. */
struct part {
    int64_t instance, instances;
    const struct moire_segment *segments;
    int64_t segment_count;
    int64_t row, rows;
};

/* One thread takes one instance after the other through all its products, so that what one product makes is
 * still in the cache for the next; several threads find more to share in all instances at once. The products
 * are the same. Begin with a part of zeros; false: there are no more. */
static bool next_part(const struct moire_experts *experts, const struct moire_expert_rows *rows,
                      struct part *part)
{
    const struct moire_segment *end = rows->segments + rows->segment_count;
    part->instance += part->instances;
    if (part->instance == experts->instances) return false;
    part->instances = moire_compute_threads() == 1 ? 1 : experts->instances;
    part->row = rows->instance_begin[part->instance];
    part->rows = rows->instance_begin[part->instance + part->instances] - part->row;
    part->segments = part->segments ? part->segments + part->segment_count : rows->segments;
    part->segment_count = 0;
    while (part->segments + part->segment_count < end &&
           part->segments[part->segment_count].first_row < part->row + part->rows)
        part->segment_count++;
    return true;
}

static void forward_part(const struct moire_experts *experts, const struct moire_expert_rows *rows,
                         const struct part *part)
{
    const int64_t dim = experts->dim, hidden = experts->hidden;
    if (experts->kind == MOIRE_SWIGLU)
        moire_grouped_forward(part->segments, part->segment_count, dim, hidden, rows->input, experts->gate,
                              rows->gate);
    moire_grouped_forward(part->segments, part->segment_count, dim, hidden, rows->input, experts->up,
                          rows->up);
}

void moire_experts_forward_again(const struct moire_experts *experts, const struct moire_expert_rows *rows)
{
    struct part part = { .instance = 0 };
    while (next_part(experts, rows, &part)) forward_part(experts, rows, &part);
}

void moire_experts_forward(const struct moire_experts *experts, const struct moire_expert_rows *rows,
                           real *output)
{
    const int64_t dim = experts->dim, hidden = experts->hidden;
    struct part part = { .instance = 0 };
    while (next_part(experts, rows, &part)) {
        const int64_t at = part.row * hidden;
        const real *weights = rows->weights + part.row;
        forward_part(experts, rows, &part);
        if (experts->kind == MOIRE_SWIGLU)
            moire_swiglu_forward(part.rows, hidden, rows->gate + at, rows->up + at, weights,
                                 rows->hidden + at);
        else
            moire_gelu_forward(part.rows, hidden, rows->up + at, weights, rows->hidden + at);
        moire_grouped_forward(part.segments, part.segment_count, hidden, dim, rows->hidden, experts->down,
                              output);
    }
}

/* One of the two matrices that the input goes through. */
static void backward_matrix(const struct moire_experts *experts, const struct moire_expert_rows *rows,
                            const struct part *part, const real *gradient, const real *weights,
                            real *weight_gradient, bool accumulate, real *input_gradient)
{
    const int64_t dim = experts->dim, hidden = experts->hidden;
    moire_grouped_backward_weight(rows->instance_begin + part->instance, part->instances, dim, hidden,
                                  rows->input, gradient, weight_gradient + part->instance * hidden * dim);
    if (!input_gradient) return;
    moire_grouped_backward_input(part->segments, part->segment_count, dim, hidden, gradient, weights,
                                 accumulate, input_gradient);
}

/* Afterwards scratch holds the gradient of `up` and gate that of `gate`; other layers have used hidden since
 * forward, so that is made again. */
static void backward_activation(const struct moire_experts *experts, const struct moire_expert_rows *rows,
                                const struct part *part, real *scratch, real *weight_gradients)
{
    const int64_t hidden = experts->hidden, at = part->row * hidden;
    const real *weights = rows->weights + part->row;
    if (experts->kind == MOIRE_SWIGLU)
        moire_swiglu_backward(part->rows, hidden, rows->gate + at, rows->up + at, weights, scratch + at,
                              rows->gate + at, scratch + at, rows->hidden + at, weight_gradients + part->row);
    else
        moire_gelu_backward(part->rows, hidden, rows->up + at, weights, scratch + at, scratch + at,
                            rows->hidden + at, weight_gradients + part->row);
}

void moire_experts_backward(const struct moire_experts *experts, const struct moire_expert_rows *rows,
                            const real *output_gradient, real *input_gradient, real *weight_gradients,
                            real *scratch)
{
    const int64_t dim = experts->dim, hidden = experts->hidden;
    const bool gated = experts->kind == MOIRE_SWIGLU;
    struct part part = { .instance = 0 };
    while (next_part(experts, rows, &part)) {
        moire_grouped_backward_input(part.segments, part.segment_count, hidden, dim, output_gradient,
                                     experts->down, false, scratch);
        backward_activation(experts, rows, &part, scratch, weight_gradients);
        moire_grouped_backward_weight(rows->instance_begin + part.instance, part.instances, hidden, dim,
                                      rows->hidden, output_gradient,
                                      experts->down_gradient + part.instance * dim * hidden);
        if (gated)
            backward_matrix(experts, rows, &part, rows->gate, experts->gate, experts->gate_gradient, false,
                            input_gradient);
        backward_matrix(experts, rows, &part, scratch, experts->up, experts->up_gradient, gated,
                        input_gradient);
    }
}
