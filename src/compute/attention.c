#include "moire/compute/attention.h"

#include <omp.h>

#include "compute/sums.h"
#include "moire/compute/emulate.h"
#include "moire/compute/linear.h"

/* Scores exist in blocks of QUERIES x KEYS. A block of query rows goes over the keys up to its last row only:
 * that skips the upper triangle of the scores. KEYS is a multiple of QUERIES, so that every row of a block of
 * scores has a key that it may see. The sizes are the fastest of those tried: 16 to 128 x 128 to 1024, at
 * S 64 to 2048 and A 32 to 128. */
#define FORWARD_QUERIES 64
#define FORWARD_KEYS 448
#define BACKWARD_QUERIES 48
#define BACKWARD_KEYS 240
_Static_assert(FORWARD_KEYS % FORWARD_QUERIES == 0 && BACKWARD_KEYS % BACKWARD_QUERIES == 0,
               "a row of a block of scores would see no key");
/* Pairs of dimensions that share a table of angles. */
#define PAIRS 64

static int64_t width_of(const struct moire_attention_shape *shape)
{
    return (shape->heads + 2 * shape->kv_heads) * shape->head_dim;
}

/* heads [count, A] of one row; pairs [first, first + pairs) */
MOIRE_CLONES static void turn_heads(int64_t count, int64_t head_dim, int64_t first, int64_t pairs,
                                    const real *cosines, const real *sines, real *heads)
{
    for (int64_t h = 0; h < count; h++) {
        real *low = heads + h * head_dim + first, *high = low + head_dim / 2;
#pragma omp simd
        for (int64_t i = 0; i < pairs; i++) {
            real x = low[i], y = high[i];
            low[i] = x * cosines[i] - y * sines[i];
            high[i] = x * sines[i] + y * cosines[i];
        }
    }
}

/* The rows of one position in all sequences share one table of angles. */
static void turn_position(const struct moire_attention_shape *shape, double theta, int64_t row,
                          int64_t position, bool inverse, real *qkv)
{
    int64_t width = width_of(shape), half = shape->head_dim / 2;
    for (int64_t first = 0; first < half; first += PAIRS) {
        real cosines[PAIRS], sines[PAIRS];
        int64_t pairs = moire_least(PAIRS, half - first);
        for (int64_t i = 0; i < pairs; i++) {
            double angle =
                (double)position * pow(theta, -2.0 * (double)(first + i) / (double)shape->head_dim);
            cosines[i] = (real)cos(angle);
            sines[i] = (real)(inverse ? -sin(angle) : sin(angle));
        }
        for (int64_t b = 0; b < shape->sequences; b++)
            turn_heads(shape->heads + shape->kv_heads, shape->head_dim, first, pairs, cosines, sines,
                       qkv + (b * shape->sequence + row) * width);
    }
}

void moire_rotary(const struct moire_attention_shape *shape, double theta, int64_t first_position,
                  bool inverse, real *qkv)
{
    if (moire_is_emulated()) return;
#pragma omp parallel for schedule(static) if (shape->sequences * shape->sequence * width_of(shape) > \
                                              MOIRE_PARALLEL_ELEMENTS)
    for (int64_t p = 0; p < shape->sequence; p++)
        turn_position(shape, theta, p, first_position + p, inverse, qkv);
}

/* Forward; of every pair of rows half counts, and recomputing the scores in backward does not. */
static double flop_of(const struct moire_attention_shape *shape)
{
    double rows = (double)shape->sequence, width = (double)(shape->heads * shape->head_dim);
    return 2 * (double)shape->sequences * rows * rows * width;
}

/* Elements of a block of scores, whole cache lines. */
static int64_t block_elements(const struct moire_attention_shape *shape, int64_t queries, int64_t keys)
{
    int64_t elements = queries * moire_least(keys, shape->sequence);
    return (elements + MOIRE_LANES - 1) / MOIRE_LANES * MOIRE_LANES;
}

/* Of a thread: one block in forward, two in backward. */
static int64_t scratch_elements(const struct moire_attention_shape *shape)
{
    int64_t forward = block_elements(shape, FORWARD_QUERIES, FORWARD_KEYS),
            backward = 2 * block_elements(shape, BACKWARD_QUERIES, BACKWARD_KEYS);
    return forward > backward ? forward : backward;
}

int64_t moire_attention_scratch(const struct moire_attention_shape *shape)
{
    return omp_get_max_threads() * scratch_elements(shape);
}

/* Scores of a row so far: their maximum, and the sum of their exponentials below it. */
struct running {
    real most;
    double sum;
};

/* Turns the next `count` > 0 scores of a row into exponentials below the maximum so far, zeros after them.
 * Returns what exponentials of earlier scores have to be multiplied by. */
MOIRE_CLONES static real softmax_piece(int64_t count, int64_t columns, real *scores, struct running *running)
{
    real most = running->most;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < count; i++) most = scores[i] > most ? scores[i] : most;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) scores[i] = moire_exp(scores[i] - most);
    for (int64_t i = count; i < columns; i++) scores[i] = 0;
    real factor = running->sum == 0 ? 0 : moire_exp(running->most - most);
    running->sum = running->sum * (double)factor + moire_sum(count, scores);
    running->most = most;
    return factor;
}

/* rows [rows, columns], `stride` apart, times a factor each */
MOIRE_CLONES static void scale_rows(int64_t rows, int64_t columns, int64_t stride, const real *factors,
                                    real *x)
{
    for (int64_t r = 0; r < rows; r++) {
        real factor = factors[r], *row = x + r * stride;
#pragma omp simd
        for (int64_t i = 0; i < columns; i++) row[i] *= factor;
    }
}

/* Query rows [first, first + rows) of one head of one sequence; q, k, v, out and saved point at the
 * sequence's row 0. Until the end, rows of out are sums weighted by exponentials below the maximum so far. */
static void forward_block(const struct moire_attention_shape *shape, int64_t first, const real *q,
                          const real *k, const real *v, real *out, real *saved, real *scores)
{
    int64_t a = shape->head_dim, width = width_of(shape), out_width = shape->heads * a;
    int64_t rows = moire_least(FORWARD_QUERIES, shape->sequence - first), end = first + rows;
    real scale = (real)(1 / sqrt((double)a)), factors[FORWARD_QUERIES];
    struct running running[FORWARD_QUERIES];
    for (int64_t r = 0; r < rows; r++) running[r] = (struct running){ -INFINITY, 0 };
    for (int64_t key = 0; key < end; key += FORWARD_KEYS) {
        int64_t keys = moire_least(FORWARD_KEYS, end - key);
        moire_gemm(false, true, rows, keys, a, scale, q + first * width, width, k + key * width, width, 0,
                   scores, keys);
        for (int64_t r = 0; r < rows; r++)
            factors[r] =
                softmax_piece(moire_least(keys, first + r + 1 - key), keys, scores + r * keys, &running[r]);
        if (key > 0) scale_rows(rows, a, out_width, factors, out + first * out_width);
        moire_gemm(false, false, rows, a, keys, 1, scores, keys, v + key * width, width, key > 0,
                   out + first * out_width, out_width);
    }
    for (int64_t r = 0; r < rows; r++) {
        saved[(first + r) * shape->heads] = (real)((double)running[r].most + log(running[r].sum));
        factors[r] = (real)(1 / running[r].sum);
    }
    scale_rows(rows, a, out_width, factors, out + first * out_width);
}

void moire_attention_forward(const struct moire_attention_shape *shape, const real *qkv, real *out,
                             real *saved, real *scratch)
{
    int64_t a = shape->head_dim, s = shape->sequence, heads = shape->heads, group = heads / shape->kv_heads;
    int64_t blocks = (s + FORWARD_QUERIES - 1) / FORWARD_QUERIES, width = width_of(shape);
    if (moire_emulate_work(flop_of(shape))) return;
    /* Every block of rows is a task of its own; the longest come first. */
#pragma omp parallel for collapse(3) schedule(dynamic)
    for (int64_t block = blocks - 1; block >= 0; block--)
        for (int64_t b = 0; b < shape->sequences; b++)
            for (int64_t h = 0; h < heads; h++) {
                const real *row = qkv + b * s * width, *k = row + (heads + h / group) * a,
                           *v = k + shape->kv_heads * a;
                forward_block(shape, block * FORWARD_QUERIES, row + h * a, k, v,
                              out + (b * s * heads + h) * a, saved + b * s * heads + h,
                              scratch + omp_get_thread_num() * scratch_elements(shape));
            }
}

/* One head of one sequence: pointers to row 0 of its columns. */
struct head {
    const real *q, *k, *v, *out, *saved, *out_gradient;
    real *q_gradient, *k_gradient, *v_gradient;
};

/* From a row of scores and of p_gradient = dO V^T: p = exp(score - saved) in place of the scores and
 * p (p_gradient - <dO, O>) / sqrt(A) in place of p_gradient; both zero after `count`. */
MOIRE_CLONES static void backward_row(int64_t count, int64_t columns, real saved, real inner, real scale,
                                      real *scores, real *p_gradient)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        real p = moire_exp(scores[i] - saved);
        scores[i] = p;
        p_gradient[i] = p * (p_gradient[i] - inner) * scale;
    }
    for (int64_t i = count; i < columns; i++) scores[i] = p_gradient[i] = 0;
}

/* Query rows [first, first + rows): overwrites their q_gradient; adds to (`fresh`: overwrites) the rows of
 * k_gradient and v_gradient up to the block's last row. */
static void backward_block(const struct moire_attention_shape *shape, int64_t first, bool fresh,
                           const struct head *head, real *scratch)
{
    int64_t a = shape->head_dim, heads = shape->heads, width = width_of(shape), out_width = heads * a;
    int64_t rows = moire_least(BACKWARD_QUERIES, shape->sequence - first), end = first + rows;
    real scale = (real)(1 / sqrt((double)a)), *p = scratch,
         *p_gradient = scratch + block_elements(shape, BACKWARD_QUERIES, BACKWARD_KEYS);
    const real *q = head->q + first * width, *out = head->out + first * out_width,
               *out_gradient = head->out_gradient + first * out_width, *saved = head->saved + first * heads;
    real inner[BACKWARD_QUERIES];
    for (int64_t r = 0; r < rows; r++)
        inner[r] = (real)moire_dot(a, out + r * out_width, 0, out_gradient + r * out_width, 0);
    for (int64_t key = 0; key < end; key += BACKWARD_KEYS) {
        int64_t keys = moire_least(BACKWARD_KEYS, end - key);
        const real *k = head->k + key * width, *v = head->v + key * width;
        moire_gemm(false, true, rows, keys, a, scale, q, width, k, width, 0, p, keys);
        moire_gemm(false, true, rows, keys, a, 1, out_gradient, out_width, v, width, 0, p_gradient, keys);
        for (int64_t r = 0; r < rows; r++)
            backward_row(moire_least(keys, first + r + 1 - key), keys, saved[r * heads], inner[r], scale,
                         p + r * keys, p_gradient + r * keys);
        moire_gemm(true, false, keys, a, rows, 1, p, keys, out_gradient, out_width, !fresh,
                   head->v_gradient + key * width, width);
        moire_gemm(true, false, keys, a, rows, 1, p_gradient, keys, q, width, !fresh,
                   head->k_gradient + key * width, width);
        moire_gemm(false, false, rows, a, keys, 1, p_gradient, keys, k, width, key > 0,
                   head->q_gradient + first * width, width);
    }
}

/* One key/value head of one sequence with its query heads in order: its gradients have one writer. The
 * last block comes first because it reaches all keys and can overwrite. */
static void backward_group(const struct moire_attention_shape *shape, int64_t g, struct head head,
                           real *scratch)
{
    int64_t group = shape->heads / shape->kv_heads, a = shape->head_dim;
    int64_t last = (shape->sequence - 1) / BACKWARD_QUERIES * BACKWARD_QUERIES;
    for (int64_t h = g * group; h < (g + 1) * group; h++) {
        struct head one = head;
        one.q += h * a;
        one.q_gradient += h * a;
        one.out += h * a;
        one.out_gradient += h * a;
        one.saved += h;
        for (int64_t first = last; first >= 0; first -= BACKWARD_QUERIES)
            backward_block(shape, first, h == g * group && first == last, &one, scratch);
    }
}

void moire_attention_backward(const struct moire_attention_shape *shape, const real *qkv, const real *out,
                              const real *saved, const real *out_gradient, real *qkv_gradient, real *scratch)
{
    int64_t a = shape->head_dim, heads = shape->heads, kv_heads = shape->kv_heads, s = shape->sequence;
    if (moire_emulate_work(2 * flop_of(shape))) return;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t b = 0; b < shape->sequences; b++)
        for (int64_t g = 0; g < kv_heads; g++) {
            int64_t at = b * s * width_of(shape), key = at + (heads + g) * a, value = key + kv_heads * a,
                    row = b * s * heads;
            struct head head = { qkv + at,          qkv + key,          qkv + value,
                                 out + row * a,     saved + row,        out_gradient + row * a,
                                 qkv_gradient + at, qkv_gradient + key, qkv_gradient + value };
            backward_group(shape, g, head, scratch + omp_get_thread_num() * scratch_elements(shape));
        }
}

void moire_attention_step(const struct moire_attention_shape *shape, int64_t positions, const real *q,
                          const real *keys, const real *values, real *out, real *scratch)
{
    int64_t a = shape->head_dim, width = shape->kv_heads * a, group = shape->heads / shape->kv_heads;
    real scale = (real)(1 / sqrt((double)a));
    for (int64_t h = 0; h < shape->heads; h++) {
        const real *k = keys + h / group * a, *v = values + h / group * a;
        for (int64_t p = 0; p < positions; p++)
            scratch[p] = (real)moire_dot(a, q + h * a, 0, k + p * width, 0) * scale;
        struct running running = { -INFINITY, 0 };
        softmax_piece(positions, positions, scratch, &running);
        real inverse_sum = (real)(1 / running.sum);
        for (int64_t i = 0; i < a; i++) out[h * a + i] = 0;
        for (int64_t p = 0; p < positions; p++)
            for (int64_t i = 0; i < a; i++) out[h * a + i] += scratch[p] * inverse_sum * v[p * width + i];
    }
}
