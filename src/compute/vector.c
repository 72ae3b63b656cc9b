#include "moire/compute/vector.h"

#include <float.h>
#include <omp.h>

#include "compute/sums.h"
#include "moire/compute/emulate.h"

/* Elements of a chunk. Chunks are the same whatever the threads, and so are the results. */
#define CHUNK ((int64_t)1 << 16)
/* Chunks whose sums are kept before they are added in order. */
#define WAVE 1024

void moire_embedding_forward(int64_t rows, int64_t sequence, int64_t dim, const int32_t *tokens,
                             const real *table, const real *positions, int64_t first_position, real *out)
{
#pragma omp parallel for schedule(static) if (rows * dim > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++) {
        const real *row = table + tokens[r] * dim;
        if (!positions) {
            memcpy(out + r * dim, row, (size_t)dim * sizeof *out);
            continue;
        }
        const real *position = positions + (first_position + r % sequence) * dim;
        for (int64_t i = 0; i < dim; i++) out[r * dim + i] = row[i] + position[i];
    }
}

static void add_row(int64_t count, const real *x, real *y)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) y[i] += x[i];
}

/* Threads share the columns: each table row is added to in the order of rows, and a frequent token loads
 * all threads alike. A share is whole cache lines. */
static void add_to_table(int64_t rows, int64_t dim, const int32_t *tokens, const real *out_gradient,
                         real *table_gradient)
{
    int64_t threads = omp_get_max_threads(), lines = (dim + MOIRE_LANES - 1) / MOIRE_LANES;
    int64_t share = (lines + threads - 1) / threads * MOIRE_LANES;
#pragma omp parallel for schedule(static) if (rows * dim > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t j = 0; j < dim; j += share) {
        int64_t width = moire_least(share, dim - j);
        for (int64_t r = 0; r < rows; r++)
            add_row(width, out_gradient + r * dim + j, table_gradient + tokens[r] * dim + j);
    }
}

void moire_embedding_backward(int64_t rows, int64_t sequence, int64_t dim, const int32_t *tokens,
                              const real *out_gradient, real *table_gradient, real *position_gradient)
{
    if (moire_is_emulated()) return;
    add_to_table(rows, dim, tokens, out_gradient, table_gradient);
    if (!position_gradient) return;
#pragma omp parallel for schedule(static) if (rows * dim > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t p = 0; p < moire_least(sequence, rows); p++)
        for (int64_t r = p; r < rows; r += sequence)
            add_row(dim, out_gradient + r * dim, position_gradient + p * dim);
}

/* Largest of x. NaN may or may not count; the exponentials that follow keep it. */
MOIRE_CLONES static real largest(int64_t count, const real *x)
{
    real most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < count; i++) most = x[i] > most ? x[i] : most;
    return most;
}

/* x = exp(x - shift); returns the sum. */
MOIRE_CLONES static double exponentials(int64_t count, real shift, real *x)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i += MOIRE_PIECE) {
        int64_t piece = moire_least(MOIRE_PIECE, count - i);
#pragma omp simd
        for (int64_t k = i; k < i + piece; k++) x[k] = moire_exp(x[k] - shift);
        sum += moire_sum_piece(piece, x + i);
    }
    return sum;
}

MOIRE_CLONES static void scale_row(int64_t count, real factor, real *x)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) x[i] *= factor;
}

void moire_softmax_start(int64_t rows, struct moire_softmax *softmax)
{
    for (int64_t r = 0; r < rows; r++) softmax[r] = (struct moire_softmax){ .most = -INFINITY };
}

/* Returns the maximum of the piece. */
static real add_piece(int64_t columns, int64_t target, real *logits, struct moire_softmax *softmax)
{
    if (target >= 0 && target < columns) softmax->target = (double)logits[target];
    real most = largest(columns, logits);
    double sum = exponentials(columns, most, logits), higher = (double)most - softmax->most;
    if (higher > 0) {
        softmax->sum = softmax->sum * exp(-higher) + sum;
        softmax->most = (double)most;
    } else {
        softmax->sum += sum * exp(higher);
    }
    return most;
}

void moire_softmax_add(int64_t rows, int64_t columns, int64_t first, const int32_t *targets, real *logits,
                       real *maxima, struct moire_softmax *softmax)
{
    if (moire_is_emulated()) { /* as if all logits were zeros */
        for (int64_t r = 0; r < rows; r++) softmax[r].most = 0, softmax[r].sum += (double)columns;
        return;
    }
#pragma omp parallel for schedule(static) if (rows * columns > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++)
        maxima[r] = add_piece(columns, targets[r] - first, logits + r * columns, &softmax[r]);
}

void moire_softmax_losses(int64_t rows, const struct moire_softmax *softmax, double *losses)
{
    for (int64_t r = 0; r < rows; r++)
        losses[r] = log(softmax[r].sum) - (softmax[r].target - softmax[r].most);
}

void moire_softmax_gradient(int64_t rows, int64_t columns, int64_t first, const int32_t *targets, real scale,
                            const struct moire_softmax *softmax, const real *maxima, real *logits)
{
    if (moire_is_emulated()) return;
#pragma omp parallel for schedule(static) if (rows * columns > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++) {
        real *row = logits + r * columns;
        double most = softmax[r].most, shift = maxima ? (double)maxima[r] : most;
        int64_t target = targets[r] - first;
        if (!maxima) exponentials(columns, (real)most, row);
        scale_row(columns, (real)((double)scale * exp(shift - most) / softmax[r].sum), row);
        if (target >= 0 && target < columns) row[target] -= scale;
    }
}

void moire_add(int64_t count, const real *x, real *y)
{
    if (moire_is_emulated()) return;
#pragma omp parallel for simd schedule(static) if (count > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < count; i++) y[i] += x[i];
}

void moire_scale(int64_t count, real factor, real *x)
{
    if (moire_is_emulated()) return;
#pragma omp parallel for simd schedule(static) if (count > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < count; i++) x[i] *= factor;
}

void moire_fill(int64_t count, real value, real *x)
{
    if (moire_is_emulated()) return;
#pragma omp parallel for simd schedule(static) if (count > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < count; i++) x[i] = value;
}

/* Eight sums in double; their order is written down for the reason given in sums.h. */
MOIRE_CLONES static double squares_of_chunk(int64_t count, const real *x)
{
    double sums[8] = { 0 }, sum = 0;
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int64_t k = 0; k < 8; k++) sums[k] += (double)x[i + k] * (double)x[i + k];
    for (; i < count; i++) sum += (double)x[i] * (double)x[i];
    for (int64_t k = 0; k < 8; k++) sum += sums[k];
    return sum;
}

double moire_sum_of_squares(int64_t count, const real *x)
{
    if (moire_is_emulated()) return 0;
    double total = 0, sums[WAVE];
    for (int64_t first = 0; first < count; first += WAVE * CHUNK) {
        int64_t end = moire_least(count, first + WAVE * CHUNK), chunks = (end - first + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) if (chunks > 1)
        for (int64_t c = 0; c < chunks; c++)
            sums[c] = squares_of_chunk(moire_least(CHUNK, end - first - c * CHUNK), x + first + c * CHUNK);
        for (int64_t c = 0; c < chunks; c++) total += sums[c];
    }
    return total;
}

static const real largest_finite = sizeof(real) == sizeof(float) ? (real)FLT_MAX : (real)DBL_MAX;

/* Lowest index of a number that is not finite, or count. */
MOIRE_CLONES static int64_t not_finite_in_chunk(int64_t count, const real *x)
{
    int bad = 0;
    int64_t i = 0;
#pragma omp simd reduction(| : bad)
    for (int64_t k = 0; k < count; k++) bad |= !(fabs(x[k]) <= largest_finite);
    if (!bad) return count;
    while (fabs(x[i]) <= largest_finite) i++;
    return i;
}

int64_t moire_find_not_finite(int64_t count, const real *x)
{
    int64_t lowest = count, chunks = (count + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) reduction(min : lowest) if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++) {
        int64_t size = moire_least(CHUNK, count - c * CHUNK),
                found = not_finite_in_chunk(size, x + c * CHUNK);
        if (found < size) lowest = moire_least(lowest, c * CHUNK + found);
    }
    return lowest < count ? lowest : -1;
}

/* The same update with the constants of an update taken out of the loop. */
MOIRE_CLONES static void adamw_chunk(const struct moire_adamw *adamw, int64_t count, const real *gradient,
                                     real *parameter, real *first_moment, real *second_moment)
{
    real scale = (real)adamw->gradient_scale, decay = (real)(adamw->rate * adamw->decay);
    real beta1 = (real)adamw->beta1, rest1 = (real)(1 - adamw->beta1),
         step = (real)(adamw->rate / adamw->correction1);
    real beta2 = (real)adamw->beta2, rest2 = (real)(1 - adamw->beta2),
         root = (real)(1 / sqrt(adamw->correction2));
    real epsilon = (real)adamw->epsilon;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        real g = gradient[i] * scale;
        real m = beta1 * first_moment[i] + rest1 * g, v = beta2 * second_moment[i] + rest2 * (g * g);
        first_moment[i] = m;
        second_moment[i] = v;
        parameter[i] -= step * m / (sqrt(v) * root + epsilon) + decay * parameter[i];
    }
}

void moire_adamw_update(const struct moire_adamw *adamw, int64_t count, const real *gradient, real *parameter,
                        real *first_moment, real *second_moment)
{
    if (moire_is_emulated()) return;
    int64_t chunks = (count + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) if (chunks > 1)
    for (int64_t c = 0; c < chunks; c++) {
        int64_t at = c * CHUNK;
        adamw_chunk(adamw, moire_least(CHUNK, count - at), gradient + at, parameter + at, first_moment + at,
                    second_moment + at);
    }
}
