/* The rest: embeddings, loss, optimizer update and sums. Threaded; results are the same for a number of
 * threads. Not collective; zero rows are fine. */
#ifndef MOIRE_COMPUTE_VECTOR_H
#define MOIRE_COMPUTE_VECTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "moire/base/real.h"

/* out [rows, D] = table [V, D] at tokens [rows] + positions [S, D] at row mod S (NULL: none; first_position
 * is added). */
void moire_embedding_forward(int64_t rows, int64_t sequence, int64_t dim, const int32_t *tokens,
                             const real *table, const real *positions, int64_t first_position, real *out);
/* table_gradient += , position_gradient += (NULL: none). In token order for each table row, without atomics:
 * threads share the columns. */
void moire_embedding_backward(int64_t rows, int64_t sequence, int64_t dim, const int32_t *tokens,
                              const real *out_gradient, real *table_gradient, real *position_gradient);

/* Softmax cross-entropy over the vocabulary piece by piece, so that no whole row of logits has to exist. */
struct moire_softmax {
    double most, sum; /* of the pieces so far: largest logit, sum of exponentials below it */
    double target;    /* logit of the target */
};
/* softmax [rows]: no piece yet. */
void moire_softmax_start(int64_t rows, struct moire_softmax *softmax);
/* The piece [first, first + columns) of the vocabulary: logits [rows, columns] are overwritten by
 * exponentials below the piece's own maximum in the row, which goes to maxima [rows]. */
void moire_softmax_add(int64_t rows, int64_t columns, int64_t first, const int32_t *targets, real *logits,
                       real *maxima, struct moire_softmax *softmax);
/* After all pieces: losses [rows] = -log softmax(logits)[target]. */
void moire_softmax_losses(int64_t rows, const struct moire_softmax *softmax, double *losses);
/* After all pieces, of each again: overwrites what moire_softmax_add left in `logits` and `maxima` (NULL:
 * fresh logits) by scale * d loss / d logits. */
void moire_softmax_gradient(int64_t rows, int64_t columns, int64_t first, const int32_t *targets, real scale,
                            const struct moire_softmax *softmax, const real *maxima, real *logits);

void moire_add(int64_t count, const real *x, real *y); /* y += x */
void moire_scale(int64_t count, real factor, real *x); /* x *= factor */
void moire_fill(int64_t count, real value, real *x);
double moire_sum_of_squares(int64_t count, const real *x);   /* in double, fixed order */
int64_t moire_find_not_finite(int64_t count, const real *x); /* lowest index, or -1 */

/* AdamW (Loshchilov, Hutter 2019), with the bias corrections c1 = 1 - beta1^t, c2 = 1 - beta2^t:
 *   g = gradient * gradient_scale;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
 *   p -= rate * (m / c1 / (sqrt(v / c2) + epsilon) + decay * p) */
struct moire_adamw {
    double rate, beta1, beta2, epsilon, decay, correction1, correction2, gradient_scale;
};
void moire_adamw_update(const struct moire_adamw *adamw, int64_t count, const real *gradient, real *parameter,
                        real *first_moment, real *second_moment);

#endif
