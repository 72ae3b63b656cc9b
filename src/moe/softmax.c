/* Softmax over all experts, then the K largest (Switch, arXiv 2101.03961); with moe.normalise the weights are
 * divided by their sum (GShard, arXiv 2006.16668). With K = 1 normalised weights are always 1 and give the
 * router no gradient. */
#include "compute/elementary.h"
#include "moe/choice.h"
#include "moire/moe/router.h"

static moire_status choose(const struct moire_router_setting *setting, const struct moire_micro_batch *batch,
                           const real *logits, const real *scores, struct moire_selection *selection)
{
    const int64_t experts = setting->experts, top_k = setting->top_k;
#pragma omp parallel for schedule(static) if (batch->tokens * experts > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t t = 0; t < batch->tokens; t++) {
        int32_t *chosen = selection->experts + t * top_k;
        real *weights = selection->weights + t * top_k;
        if (!selection->frozen) moire_choose_largest(experts, top_k, scores + t * experts, chosen);
        if (setting->normalise) {
            moire_chosen_softmax(top_k, logits + t * experts, chosen, weights);
        } else {
            for (int64_t k = 0; k < top_k; k++)
                weights[k] = chosen[k] >= 0 ? scores[t * experts + chosen[k]] : 0;
        }
    }
    return MOIRE_OK;
}

/* One token with raw weights: gradients g_k of p at the chosen, through the softmax:
 * d/d logit_j = p_j ([j chosen] g_j - sum_k g_k p_k). */
static void backward_raw(int64_t experts, int64_t top_k, const real *scores, const int32_t *chosen,
                         const real *weight_gradients, real *logit_gradients)
{
    double mean = 0;
    for (int64_t k = 0; k < top_k; k++)
        if (chosen[k] >= 0) mean += (double)scores[chosen[k]] * (double)weight_gradients[k];
    for (int64_t e = 0; e < experts; e++) logit_gradients[e] = -scores[e] * (real)mean;
    for (int64_t k = 0; k < top_k; k++)
        if (chosen[k] >= 0) logit_gradients[chosen[k]] += scores[chosen[k]] * weight_gradients[k];
}

static void backward(const struct moire_router_setting *setting, int64_t tokens, const real *logits,
                     const real *scores, const struct moire_selection *selection,
                     const real *weight_gradients, real *logit_gradients)
{
    (void)logits;
    const int64_t experts = setting->experts, top_k = setting->top_k;
#pragma omp parallel for schedule(static) if (tokens * experts > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++) {
        const int32_t *chosen = selection->experts + t * top_k;
        if (setting->normalise)
            moire_chosen_softmax_backward(experts, top_k, chosen, selection->weights + t * top_k,
                                          weight_gradients + t * top_k, logit_gradients + t * experts);
        else
            backward_raw(experts, top_k, scores + t * experts, chosen, weight_gradients + t * top_k,
                         logit_gradients + t * experts);
    }
}

const struct moire_router moire_router_softmax = {
    .name = "softmax",
    .help =
        "softmax over all experts, then the K largest; weights raw (Switch) or divided by their sum (GShard)",
    .trains = true,
    .score = moire_softmax_score,
    .select = choose,
    .backward = backward,
};
