/* Routers: scores, choices and gradients against naive ones; checks of the configuration. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "moire/moe/layer.h"
#include "../support/harness.h"

static const double tolerance = sizeof(real) == 8 ? 1e-13 : 2e-6;
static const double gradient_tolerance = sizeof(real) == 8 ? 1e-8 : 2e-6;

enum { MOST_EXPERTS = 40, MOST_TOKENS = 64 };

/* Room for one call. */
static real logits[MOST_TOKENS * MOST_EXPERTS], scores[MOST_TOKENS * MOST_EXPERTS],
    weights[MOST_TOKENS * MOST_EXPERTS];
static int32_t experts_chosen[MOST_TOKENS * MOST_EXPERTS];
static struct moire_selection selection = { .experts = experts_chosen, .weights = weights };

static void names(void)
{
    const struct moire_router *router = NULL;
    for (int i = 0; i < moire_router_count; i++) {
        expect_ok(moire_router_find(moire_routers[i]->name, &router));
        expect(router == moire_routers[i]);
        expect(strlen(moire_routers[i]->help) > 10);
    }
    expect_failure(moire_router_find("softmacks", &router), MOIRE_USAGE, "softmax");
    bool active = false;
    expect_ok(moire_balance_find("switch", &active));
    expect(active);
    expect_ok(moire_balance_find("none", &active));
    expect(!active);
    expect_failure(moire_balance_find("swich", &active), MOIRE_USAGE, "switch");
}

static void softmax_in_place(void)
{
    real rows[] = { 1, 2, 3, -1000, 1000, 999, 0, 0, 0 };
    moire_softmax_rows(3, 3, rows, rows);
    const double e = exp(1);
    const double wanted[] = { 1 / (1 + e + e * e),
                              e / (1 + e + e * e),
                              e * e / (1 + e + e * e),
                              0,
                              e / (1 + e),
                              1 / (1 + e),
                              1.0 / 3,
                              1.0 / 3,
                              1.0 / 3 };
    for (int i = 0; i < 9; i++) expect_near((double)rows[i], wanted[i], tolerance);
    moire_softmax_rows(0, 3, NULL, NULL);
}

/* Whether expert a comes before b: larger, or equal and lower; NaN is the smallest. */
static bool comes_before(const real *row, int64_t a, int64_t b)
{
    double x = isnan(row[a]) ? -INFINITY : (double)row[a], y = isnan(row[b]) ? -INFINITY : (double)row[b];
    return x > y || (x == y && a < b);
}

/* The k-th choice is the expert that has exactly k experts before it. */
static void expect_choice(const real *row, int64_t experts, int64_t top_k, const int32_t *chosen)
{
    for (int64_t k = 0; k < top_k; k++) {
        int64_t before = 0;
        expect(chosen[k] >= 0 && chosen[k] < experts);
        if (chosen[k] < 0 || chosen[k] >= experts) return;
        for (int64_t e = 0; e < experts; e++) before += comes_before(row, e, chosen[k]);
        expect(before == k);
    }
}

static struct moire_router_setting setting_for(int64_t experts, int64_t top_k, bool normalise)
{
    return (struct moire_router_setting){
        .experts = experts, .top_k = top_k, .normalise = normalise
    };
}

static void run_router(const struct moire_router *router, const struct moire_router_setting *setting,
                       int64_t tokens)
{
    const struct moire_micro_batch batch = { .tokens = tokens, .global_tokens = tokens, .training = true };
    router->score(setting, tokens, logits, scores);
    expect_ok(router->select(setting, &batch, logits, scores, &selection));
}

/* A random number; from a handful of values, so that many are equal, or with some that are no numbers. */
static real draw_logit(int kind)
{
    if (kind == 1) return (real)test_random_below(3);
    if (kind == 2 && test_random_below(3) == 0) {
        const real odd[] = { (real)NAN, (real)INFINITY, -(real)INFINITY };
        return odd[test_random_below(3)];
    }
    return (real)(4 * test_random());
}

static void choices(void)
{
    const struct moire_router *trained[] = { &moire_router_softmax, &moire_router_mixtral };
    for (int round = 0; round < 120; round++) {
        int64_t experts = 1 + test_random_below(MOST_EXPERTS), top_k = 1 + test_random_below(experts),
                tokens = 8;
        const struct moire_router *router = trained[round % 2];
        const struct moire_router_setting setting = setting_for(experts, top_k, round / 2 % 2);
        for (int64_t i = 0; i < tokens * experts; i++) logits[i] = draw_logit(round % 3);
        run_router(router, &setting, tokens);
        for (int64_t t = 0; t < tokens; t++)
            expect_choice((router == &moire_router_mixtral ? logits : scores) + t * experts, experts, top_k,
                          experts_chosen + t * top_k);
    }
}

static void not_a_number(void)
{
    const struct moire_router_setting setting = setting_for(4, 2, true);
    const real row[] = { (real)NAN, 1, (real)NAN, 1 };
    memcpy(logits, row, sizeof row);
    run_router(&moire_router_mixtral, &setting, 1);
    expect(experts_chosen[0] == 1 && experts_chosen[1] == 3);
    expect_near((double)weights[0], 0.5, tolerance);
    for (int e = 0; e < 4; e++) logits[e] = (real)NAN;
    run_router(&moire_router_softmax, &setting, 1);
    expect(experts_chosen[0] == 0 && experts_chosen[1] == 1);
    expect(isnan(weights[0]) && isnan(weights[1]));
}

/* Weights of one token in double, by the formulas as they stand: p, p over the sum of the chosen, or the
 * softmax of the chosen logits. */
static void naive_weights(const double *z, int64_t experts, int64_t top_k, const int32_t *chosen, bool raw,
                          double *w)
{
    double sum = 0;
    for (int64_t e = 0; raw && e < experts; e++) sum += exp(z[e]);
    for (int64_t k = 0; !raw && k < top_k; k++) sum += chosen[k] >= 0 ? exp(z[chosen[k]]) : 0;
    for (int64_t k = 0; k < top_k; k++) w[k] = chosen[k] >= 0 ? exp(z[chosen[k]]) / sum : 0;
}

static double naive_loss(const double *z, int64_t experts, int64_t top_k, const int32_t *chosen, bool raw,
                         const real *g)
{
    double w[MOST_EXPERTS], sum = 0;
    naive_weights(z, experts, top_k, chosen, raw, w);
    for (int64_t k = 0; k < top_k; k++) sum += w[k] * (double)g[k];
    return sum;
}

static void check_token(int64_t experts, int64_t top_k, const real *row, const int32_t *chosen, bool raw,
                        const real *w, const real *g, const real *gradient)
{
    const double step = 1e-5;
    double z[MOST_EXPERTS] = { 0 }, wanted[MOST_EXPERTS];
    for (int64_t e = 0; e < experts; e++) z[e] = (double)row[e];
    naive_weights(z, experts, top_k, chosen, raw, wanted);
    for (int64_t k = 0; k < top_k; k++) expect_near((double)w[k], wanted[k], tolerance);
    for (int64_t e = 0; e < experts; e++) {
        z[e] = (double)row[e] + step;
        double above = naive_loss(z, experts, top_k, chosen, raw, g);
        z[e] = (double)row[e] - step;
        double below = naive_loss(z, experts, top_k, chosen, raw, g);
        z[e] = (double)row[e];
        expect_near((double)gradient[e], (above - below) / (2 * step), gradient_tolerance);
    }
}

/* Weights and gradients of a choice that is given, with slots that have none. */
static void weights_and_gradients(void)
{
    static real weight_gradients[MOST_TOKENS * MOST_EXPERTS], logit_gradients[MOST_TOKENS * MOST_EXPERTS];
    selection.frozen = true;
    for (int round = 0; round < 60; round++) {
        int64_t experts = 2 + test_random_below(10), top_k = 1 + test_random_below(experts), tokens = 3;
        const struct moire_router *router = round % 3 == 2 ? &moire_router_mixtral : &moire_router_softmax;
        const struct moire_router_setting setting = setting_for(experts, top_k, round % 3 == 1);
        for (int64_t i = 0; i < tokens * experts; i++) logits[i] = draw_logit(0), logit_gradients[i] = 7;
        for (int64_t slot = 0; slot < tokens * top_k; slot++) {
            experts_chosen[slot] = (int32_t)((slot * 3 + round) % top_k);
            if (slot < tokens * top_k - top_k)
                experts_chosen[slot] = (int32_t)((slot % top_k + slot / top_k) % experts);
            else experts_chosen[slot] = test_random_below(2) ? (int32_t)(slot % top_k) : -1;
            weight_gradients[slot] = (real)test_random();
        }
        run_router(router, &setting, tokens);
        router->backward(&setting, tokens, logits, scores, &selection, weight_gradients, logit_gradients);
        for (int64_t t = 0; t < tokens; t++)
            check_token(experts, top_k, logits + t * experts, experts_chosen + t * top_k, round % 3 == 0,
                        weights + t * top_k, weight_gradients + t * top_k, logit_gradients + t * experts);
    }
    selection.frozen = false;
}

/* ---- configuration ---- */

static void expect_refused(const char *name, const char *value, const char *text)
{
    struct moire_config config;
    expect_ok(moire_config_create(&config));
    expect_ok(moire_moe_check(&config));
    if (strcmp(name, "moe.forced") == 0)
        expect_ok(moire_config_set(&config, "moe.router", "forced", MOIRE_FROM_COMMAND));
    expect_ok(moire_config_set(&config, name, value, MOIRE_FROM_COMMAND));
    expect_failure(moire_moe_check(&config), MOIRE_USAGE, text);
    moire_config_free(&config);
}

static void checks(void)
{
    expect_refused("moe.router", "softmex", "softmax");
    expect_refused("moe.balance", "swich", "switch");
    expect_refused("exchange.backend", "alltoalv", "alltoallv");
    expect_refused("moe.top_k", "9", "moe.experts = 8");
    expect_refused("moe.forced", "replay", "moe.forced_file");
    struct moire_config config;
    expect_ok(moire_config_create(&config));
    config.moe_capacity = 0;
    expect_failure(moire_moe_check(&config), MOIRE_USAGE, "moe.capacity");
    config.moe_capacity = NAN;
    expect_failure(moire_moe_check(&config), MOIRE_USAGE, "moe.capacity");
    moire_config_free(&config);
}

static void expect_tensor(const struct moire_tensors *tensors, const char *name, int dimensions,
                          const int64_t *shape)
{
    const struct moire_tensor *tensor = moire_tensors_find(tensors, name);
    expect(tensor != NULL);
    if (!tensor) return;
    expect(tensor->dimensions == dimensions && tensor->decay && tensor->layer == 3);
    expect(tensor->sharding == (dimensions == 2 ? MOIRE_REPLICATED : MOIRE_BY_EXPERT));
    for (int i = 0; i < dimensions; i++) expect(tensor->shape[i] == shape[i]);
    bool down = strstr(name, "down") != NULL;
    expect_near(tensor->deviation, down ? 0.02 / sqrt(2 * 6) : 0.02, 1e-15);
}

static void description(void)
{
    for (int gated = 0; gated < 2; gated++) {
        struct moire_config config;
        struct moire_tensors tensors;
        struct moire_moe_layer layer;
        expect_ok(moire_config_create(&config));
        config.model_layers = 6, config.moe_experts = 5, config.model_dim = 7, config.moe_expert_hidden = 9;
        config.model_feed_forward = gated ? MOIRE_SWIGLU : MOIRE_GELU;
        expect_ok(moire_tensors_create(&tensors));
        expect_ok(moire_moe_describe(&config, 3, &tensors, NULL));
        expect(tensors.count == 3 + gated);
        expect_tensor(&tensors, "layers.3.router", 2, (const int64_t[]){ 5, 7 });
        expect_tensor(&tensors, "layers.3.experts.up", 3, (const int64_t[]){ 5, 9, 7 });
        expect_tensor(&tensors, "layers.3.experts.down", 3, (const int64_t[]){ 5, 7, 9 });
        if (gated) expect_tensor(&tensors, "layers.3.experts.gate", 3, (const int64_t[]){ 5, 9, 7 });
        expect_ok(moire_moe_describe(&config, 4, &tensors, &layer));
        expect(strcmp(tensors.list[layer.router_tensor].name, "layers.4.router") == 0);
        expect(strcmp(tensors.list[layer.down_tensor].name, "layers.4.experts.down") == 0);
        expect(gated ? layer.gate_tensor >= 0 : layer.gate_tensor == -1);
        moire_tensors_free(&tensors);
        moire_config_free(&config);
    }
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "names of routers and balances", names },
        { "softmax of rows", softmax_in_place },
        { "choices agree with naive ones, equal and odd logits too", choices },
        { "what is no number is chosen last", not_a_number },
        { "weights and gradients agree with naive ones", weights_and_gradients },
        { "checks of the configuration", checks },
        { "tensors of a layer", description },
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
