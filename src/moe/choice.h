/* What the routers share: scores, the largest of a row, and weights that are a softmax over the chosen logits
 * alone. The latter work on one token: `logits` and `row` [E], `chosen`, `weights` and `weight_gradients`
 * [K]. -1: no choice. */
#ifndef MOIRE_SRC_MOE_CHOICE_H
#define MOIRE_SRC_MOE_CHOICE_H

#include "moire/moe/router.h"

/* The scores of every router so far. */
void moire_softmax_score(const struct moire_router_setting *setting, int64_t tokens, const real *logits,
                         real *scores);

/* The K largest of the row, largest first. Of equals the lower expert comes first; NaN counts as the smallest
 * number, so that the choice is one of experts whatever the row holds. K <= E. */
void moire_choose_largest(int64_t experts, int64_t top_k, const real *row, int32_t *chosen);

/* weights = softmax over the chosen logits; 0 where nothing is chosen. The same as the softmax over all
 * logits divided by the sum of the chosen, but it neither under- nor overflows. */
void moire_chosen_softmax(int64_t top_k, const real *logits, const int32_t *chosen, real *weights);
/* logit_gradients [E] of one token, overwritten: w_k (g_k - sum_i g_i w_i) for the chosen, else 0. */
void moire_chosen_softmax_backward(int64_t experts, int64_t top_k, const int32_t *chosen, const real *weights,
                                   const real *weight_gradients, real *logit_gradients);

#endif
