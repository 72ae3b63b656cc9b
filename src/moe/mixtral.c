/* The K largest logits, then a softmax over these alone (arXiv 2401.04088). The scores, a softmax over all
 * logits, are what the balance loss takes its means of. */
#include "compute/elementary.h"
#include "moe/choice.h"
#include "moire/moe/router.h"

static moire_status choose(const struct moire_router_setting *setting, const struct moire_micro_batch *batch,
                           const real *logits, const real *scores, struct moire_selection *selection)
{
    (void)scores;
    const int64_t experts = setting->experts, top_k = setting->top_k;
#pragma omp parallel for schedule(static) if (batch->tokens * experts > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t t = 0; t < batch->tokens; t++) {
        int32_t *chosen = selection->experts + t * top_k;
        if (!selection->frozen) moire_choose_largest(experts, top_k, logits + t * experts, chosen);
        moire_chosen_softmax(top_k, logits + t * experts, chosen, selection->weights + t * top_k);
    }
    return MOIRE_OK;
}

static void backward(const struct moire_router_setting *setting, int64_t tokens, const real *logits,
                     const real *scores, const struct moire_selection *selection,
                     const real *weight_gradients, real *logit_gradients)
{
    (void)logits, (void)scores;
    const int64_t experts = setting->experts, top_k = setting->top_k;
#pragma omp parallel for schedule(static) if (tokens * experts > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++)
        moire_chosen_softmax_backward(experts, top_k, selection->experts + t * top_k,
                                      selection->weights + t * top_k, weight_gradients + t * top_k,
                                      logit_gradients + t * experts);
}

const struct moire_router moire_router_mixtral = {
    .name = "mixtral",
    .help = "the K largest logits, then a softmax over these alone",
    .trains = true,
    .score = moire_softmax_score,
    .select = choose,
    .backward = backward,
};
