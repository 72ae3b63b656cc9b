/* Causal self-attention with grouped key/value heads, and rotary positions. Not collective; zero sequences
 * are fine.
 *
 * B sequences of S tokens, T = B S rows. A row of `qkv` is [H + 2 G, A]: H query heads, G key heads, G value
 * heads, so its width is (H + 2 G) A. Query head h attends with key/value head h / (H / G). */
#ifndef MOIRE_COMPUTE_ATTENTION_H
#define MOIRE_COMPUTE_ATTENTION_H

#include <stdbool.h>

#include "moire/base/memory.h"
#include "moire/base/real.h"

struct moire_attention_shape {
    int64_t sequences, sequence;       /* B, S */
    int64_t heads, kv_heads, head_dim; /* H, G (divides H), A */
};

/* Turns the query and key heads of every row by its position p in the sequence (row mod S): dimensions i and
 * i + A/2 turn by p theta^(-2i/A) (Su et al. 2021, in the order that Mixtral uses). inverse: backward. A is
 * even. */
void moire_rotary(const struct moire_attention_shape *shape, double theta, int64_t first_position,
                  bool inverse, real *qkv);

/* Scores exist in blocks of fixed size only: forward goes over blocks of keys with a running maximum and sum
 * (Milakov, Gimelshein 2018; Dao et al. 2022), backward computes probabilities again from `saved`. Results
 * are the same for any number of threads.
 *
 * Elements of scratch that forward and backward need, whatever S: all threads together, for the number of
 * threads set when this is called. */
int64_t moire_attention_scratch(const struct moire_attention_shape *shape);
/* out [T, H A]; saved [T, H]: logarithm of the sum of exponentials of each row of scores. Scores are q.k /
 * sqrt(A). */
void moire_attention_forward(const struct moire_attention_shape *shape, const real *qkv, real *out,
                             real *saved, real *scratch);
/* qkv_gradient [T, (H + 2 G) A] is overwritten. */
void moire_attention_backward(const struct moire_attention_shape *shape, const real *qkv, const real *out,
                              const real *saved, const real *out_gradient, real *qkv_gradient, real *scratch);

/* One new token against a cache, for generation: q [H, A]; keys and values [positions, G, A]; out [H, A];
 * scratch [positions]. */
void moire_attention_step(const struct moire_attention_shape *shape, int64_t positions, const real *q,
                          const real *keys, const real *values, real *out, real *scratch);

#endif
