/* Forced choices, for measurement: the load of the experts and the traffic between ranks are given
 * (moe/traffic.h), whatever the logits. Weights are 1/K and the router gets no gradient; the rest of the
 * layer runs as always. */
#include "moe/choice.h"

static moire_status choose(const struct moire_router_setting *setting, const struct moire_micro_batch *batch,
                           const real *logits, const real *scores, struct moire_selection *selection)
{
    const struct moire_traffic_batch wanted = {
        .step = batch->step,
        .part = batch->part,
        .layer = setting->layer,
        .moe_layer = setting->moe_layer,
        .first_token = batch->first_token,
        .tokens = batch->tokens,
    };
    (void)logits, (void)scores;
    if (!selection->frozen) MOIRE_TRY(moire_traffic_generate(setting->traffic, &wanted, selection->experts));
    for (int64_t slot = 0; slot < batch->tokens * setting->top_k; slot++)
        selection->weights[slot] = selection->experts[slot] >= 0 ? 1 / (real)setting->top_k : 0;
    return MOIRE_OK;
}

static void backward(const struct moire_router_setting *setting, int64_t tokens, const real *logits,
                     const real *scores, const struct moire_selection *selection,
                     const real *weight_gradients, real *logit_gradients)
{
    (void)logits, (void)scores, (void)selection, (void)weight_gradients;
    for (int64_t i = 0; i < tokens * setting->experts; i++) logit_gradients[i] = 0;
}

const struct moire_router moire_router_forced = {
    .name = "forced",
    .help = "what moe.forced says, whatever the logits; weights 1/K, no gradient; for measurement",
    .trains = false,
    .score = moire_softmax_score,
    .select = choose,
    .backward = backward,
};
