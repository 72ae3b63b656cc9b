/* Products of segments, each with the matrix of its instance. */
#include <omp.h>

#include "compute/sums.h"
#include "moire/compute/emulate.h"
#include "moire/compute/linear.h"

/* Up to so many rows, products of one thread each, side by side, beat one product of all threads. */
#define FEW_ROWS 512
/* Columns (of a weight's gradient: rows) of the result that such a product makes. Narrower ones would pack
 * their rows too often. */
#define WIDTH 512

enum kind { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT };

/* result = rows times weights; or weight gradients from y_gradient (`rows`) and x (`weights`). */
struct grouped {
    enum kind kind;
    const struct moire_segment *segments;
    const int64_t *begin; /* in place of segments: instance i has the rows [begin[i], begin[i + 1]) */
    int64_t count, inputs, outputs;
    const real *rows, *weights;
    real beta, *result;
};

static struct moire_segment segment_of(const struct grouped *g, int64_t i)
{
    if (g->segments) return g->segments[i];
    return (struct moire_segment){ .instance = i, .first_row = g->begin[i],
                                   .rows = g->begin[i + 1] - g->begin[i] };
}

/* [first, first + width) of the side of the result that is cut. */
static void product(const struct grouped *g, const struct moire_segment *s, int64_t first, int64_t width)
{
    const int64_t inputs = g->inputs, outputs = g->outputs, matrix = s->instance * outputs * inputs;
    const int64_t at_x = s->first_row * inputs, at_y = s->first_row * outputs;
    if (g->kind == FORWARD)
        moire_gemm(false, true, s->rows, width, inputs, 1, g->rows + at_x, inputs,
                   g->weights + matrix + first * inputs, inputs, 0, g->result + at_y + first, outputs);
    else if (g->kind == BACKWARD_INPUT)
        moire_gemm(false, false, s->rows, width, outputs, 1, g->rows + at_y, outputs,
                   g->weights + matrix + first, inputs, g->beta, g->result + at_x + first, inputs);
    else
        moire_gemm(true, false, width, inputs, s->rows, 1, g->rows + at_y + first, outputs,
                   g->weights + at_x, inputs, 1, g->result + matrix + first * inputs, inputs);
}

/* A BLAS called from a parallel region keeps to its thread; the region is one even for a single piece. */
static void grouped(const struct grouped *g)
{
    const int64_t side = g->kind == BACKWARD_INPUT ? g->inputs : g->outputs;
    const bool alone = omp_get_max_threads() == 1 || moire_is_emulated();
    int64_t few = 0;
    for (int64_t i = 0; i < g->count; i++) {
        const struct moire_segment s = segment_of(g, i);
        if (s.rows == 0) continue;
        if (alone || s.rows > FEW_ROWS)
            product(g, &s, 0, side);
        else
            few++;
    }
    if (few == 0) return;
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t i = 0; i < g->count; i++)
        for (int64_t first = 0; first < side; first += WIDTH) {
            const struct moire_segment s = segment_of(g, i);
            if (s.rows > 0 && s.rows <= FEW_ROWS) product(g, &s, first, moire_least(WIDTH, side - first));
        }
}

void moire_grouped_forward(const struct moire_segment *segments, int64_t count, int64_t inputs,
                           int64_t outputs, const real *x, const real *weights, real *y)
{
    grouped(&(struct grouped){ .kind = FORWARD, .segments = segments, .count = count, .inputs = inputs,
                               .outputs = outputs, .rows = x, .weights = weights, .result = y });
}

void moire_grouped_backward_input(const struct moire_segment *segments, int64_t count, int64_t inputs,
                                  int64_t outputs, const real *y_gradient, const real *weights,
                                  bool accumulate, real *x_gradient)
{
    grouped(&(struct grouped){ .kind = BACKWARD_INPUT, .segments = segments, .count = count,
                               .inputs = inputs, .outputs = outputs, .rows = y_gradient,
                               .weights = weights, .beta = accumulate, .result = x_gradient });
}

void moire_grouped_backward_weight(const int64_t *begin, int64_t instances, int64_t inputs, int64_t outputs,
                                   const real *x, const real *y_gradient, real *weight_gradients)
{
    grouped(&(struct grouped){ .kind = BACKWARD_WEIGHT, .begin = begin, .count = instances,
                               .inputs = inputs, .outputs = outputs, .rows = y_gradient, .weights = x,
                               .result = weight_gradients });
}
