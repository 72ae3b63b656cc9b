/* Auxiliary losses over one micro-batch of all ranks, and capacity.
 *
 *   switch  balance_weight * E * sum_i f_i P_i, with f_i = (1/(K T)) sum 1[i chosen] (before any drop) and
 *           P_i the mean over tokens of softmax(logits)_i; gradient only through P (arXiv 2101.03961, with
 *           all K choices counted in place of the first).
 *   z-loss  z_weight * (1/T) sum_t (log sum_j exp(logit_tj))^2 (arXiv 2202.08906).
 * T counts the tokens of the micro-batch over all ranks. */
#ifndef MOIRE_MOE_BALANCE_H
#define MOIRE_MOE_BALANCE_H

#include "moire/moe/router.h"

struct moire_balance_setting {
    bool active;                     /* moe.balance = switch, and the router trains */
    double balance_weight, z_weight; /* z_weight 0 where the router does not train */
    double capacity;                 /* factor f, or MOIRE_DROPLESS */
};
moire_status moire_balance_find(const char *name, bool *active); /* MOIRE_USAGE with the nearest name */

/* Results of one layer and micro-batch; the same on all ranks after the forward. */
struct moire_balance {
    double *load; /* [E], owned by the layer: slots that chose each expert, all ranks, before any drop */
    double *mean; /* [E], owned by the layer: P; zeros where no loss needs it */
    double balance_loss, z_loss; /* weighted, not yet multiplied by the micro-batch's share */
    double dropped;              /* slots past capacity, all ranks */
};

/* load, mean and losses: one all-reduce of 2 E + 1 doubles over the world. scores [T, E] = softmax(logits);
 * scratch [2 E + 1]. The load is taken with every router, for the reports. A batch that is not training gives
 * zeros and moves nothing. A rank with T = 0 takes part. Collective over the world. */
moire_status moire_balance_forward(const struct moire_balance_setting *setting,
                                   const struct moire_router_setting *router,
                                   const struct moire_micro_batch *batch, const real *logits,
                                   const real *scores, const struct moire_selection *selection,
                                   double *scratch, struct moire_balance *balance);
/* logit_gradients [T, E] += share * d(balance_loss + z_loss)/d logits. Not collective. */
void moire_balance_backward(const struct moire_balance_setting *setting,
                            const struct moire_router_setting *router, const struct moire_micro_batch *batch,
                            const real *logits, const real *scores, const struct moire_balance *balance,
                            real *logit_gradients);

/* Marks slots past C = ceil(K f T / E) as dropped; places are given in global token order, then slot order:
 * an exclusive prefix sum of E counts over the ranks of the world. counts [E] is scratch. Comes after
 * moire_balance_forward: sets balance->dropped from the load. Drops none, and moves nothing, where dropless
 * or not training. The weights of the slots that stay are not divided anew (as in GShard). Collective over
 * the world. */
moire_status moire_capacity_apply(const struct moire_balance_setting *setting,
                                  const struct moire_router_setting *router,
                                  const struct moire_micro_batch *batch, struct moire_selection *selection,
                                  int64_t *counts, struct moire_balance *balance);

#endif
