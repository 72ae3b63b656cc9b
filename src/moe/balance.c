#include "moire/moe/balance.h"

#include <math.h>

#include "compute/elementary.h"

static const char *const names[] = { "none", "switch" };

moire_status moire_balance_find(const char *name, bool *active)
{
    int64_t index;
    MOIRE_TRY(moire_name_find("balance", name, names, sizeof names / sizeof *names, &index));
    *active = index == 1;
    return MOIRE_OK;
}

static bool has_losses(const struct moire_balance_setting *setting)
{
    return setting->active || setting->z_weight > 0;
}

/* log sum_j exp(logit_j) of one token: logit - log p, at the largest logit, where p is at least 1/E. */
static double log_sum(int64_t experts, const real *logits, const real *scores)
{
    int64_t largest = 0;
    for (int64_t e = 1; e < experts; e++)
        if (logits[e] > logits[largest]) largest = e;
    return (double)logits[largest] - log((double)scores[largest]);
}

static void count_choices(int64_t slots, const struct moire_selection *selection, double *load)
{
    for (int64_t slot = 0; slot < slots; slot++)
        if (selection->experts[slot] >= 0) load[selection->experts[slot]] += 1;
}

static void add_scores(int64_t experts, int64_t tokens, const real *logits, const real *scores, double *mean,
                       double *z)
{
    for (int64_t t = 0; t < tokens; t++) {
        const real *p = scores + t * experts;
        for (int64_t e = 0; e < experts; e++) mean[e] += (double)p[e];
        double sum = log_sum(experts, logits + t * experts, p);
        *z += sum * sum;
    }
}

moire_status moire_balance_forward(const struct moire_balance_setting *setting,
                                   const struct moire_router_setting *router,
                                   const struct moire_micro_batch *batch, const real *logits,
                                   const real *scores, const struct moire_selection *selection,
                                   double *scratch, struct moire_balance *balance)
{
    const int64_t experts = router->experts;
    double *load = scratch, *mean = scratch + experts, *z = scratch + 2 * experts;
    for (int64_t i = 0; i < 2 * experts + 1; i++) scratch[i] = 0;
    balance->balance_loss = balance->z_loss = 0;
    if (batch->training) {
        count_choices(batch->tokens * router->top_k, selection, load);
        if (has_losses(setting)) add_scores(experts, batch->tokens, logits, scores, mean, z);
        MOIRE_TRY(moire_sum(&router->mesh->world, scratch, 2 * experts + 1, MOIRE_FLOAT64));
    }
    const double tokens = batch->global_tokens > 0 ? (double)batch->global_tokens : 1;
    double sum = 0;
    for (int64_t e = 0; e < experts; e++) {
        balance->load[e] = load[e];
        balance->mean[e] = mean[e] / tokens;
        sum += load[e] / (tokens * (double)router->top_k) * balance->mean[e];
    }
    if (setting->active) balance->balance_loss = setting->balance_weight * (double)experts * sum;
    balance->z_loss = setting->z_weight * *z / tokens;
    return MOIRE_OK;
}

/* One token. With p = softmax(logits):
 *   balance  a (f_j - sum_i f_i p_i) p_j,  a = weight E / T;      z  b lse p_j,  b = 2 weight / T. */
static void add_gradient(int64_t experts, double a, double b, double load_scale, const double *load,
                         const real *logits, const real *scores, real *logit_gradients)
{
    double inner = 0, z = b != 0 ? b * log_sum(experts, logits, scores) : 0;
    if (a != 0)
        for (int64_t e = 0; e < experts; e++) inner += load_scale * load[e] * (double)scores[e];
    for (int64_t e = 0; e < experts; e++)
        logit_gradients[e] += (real)((double)scores[e] * (a * (load_scale * load[e] - inner) + z));
}

void moire_balance_backward(const struct moire_balance_setting *setting,
                            const struct moire_router_setting *router, const struct moire_micro_batch *batch,
                            const real *logits, const real *scores, const struct moire_balance *balance,
                            real *logit_gradients)
{
    if (!has_losses(setting) || batch->global_tokens == 0) return;
    const int64_t experts = router->experts;
    const double scale = batch->share / (double)batch->global_tokens;
    const double a = setting->active ? scale * setting->balance_weight * (double)experts : 0;
    const double b = 2 * scale * setting->z_weight;
    const double load_scale = 1 / ((double)batch->global_tokens * (double)router->top_k);
#pragma omp parallel for schedule(static) if (batch->tokens * experts > MOIRE_PARALLEL_ELEMENTS)
    for (int64_t t = 0; t < batch->tokens; t++)
        add_gradient(experts, a, b, load_scale, balance->load, logits + t * experts, scores + t * experts,
                     logit_gradients + t * experts);
}

/* ceil(K f T / E). A product that is an integer but for its rounding is that integer. */
static double places_of(const struct moire_balance_setting *setting,
                        const struct moire_router_setting *router, const struct moire_micro_batch *batch)
{
    double places = (double)router->top_k * setting->capacity * (double)batch->global_tokens
                    / (double)router->experts;
    double nearest = nearbyint(places);
    return fabs(places - nearest) <= 1e-12 * nearest ? nearest : ceil(places);
}

moire_status moire_capacity_apply(const struct moire_balance_setting *setting,
                                  const struct moire_router_setting *router,
                                  const struct moire_micro_batch *batch, struct moire_selection *selection,
                                  int64_t *counts, struct moire_balance *balance)
{
    const int64_t slots = batch->tokens * router->top_k;
    for (int64_t slot = 0; slot < slots; slot++) selection->dropped[slot] = false;
    balance->dropped = 0;
    if (!batch->training || setting->capacity == MOIRE_DROPLESS) return MOIRE_OK;
    for (int64_t e = 0; e < router->experts; e++) counts[e] = 0;
    for (int64_t slot = 0; slot < slots; slot++)
        if (selection->experts[slot] >= 0) counts[selection->experts[slot]]++;
    /* From counts to the first place of this rank's tokens at each expert. */
    MOIRE_TRY(moire_prefix_sum_integers(&router->mesh->world, counts, router->experts));
    const double places = places_of(setting, router, batch);
    for (int64_t slot = 0; slot < slots; slot++)
        if (selection->experts[slot] >= 0)
            selection->dropped[slot] = (double)counts[selection->experts[slot]]++ >= places;
    for (int64_t e = 0; e < router->experts; e++)
        if (balance->load[e] > places) balance->dropped += balance->load[e] - places;
    return MOIRE_OK;
}
