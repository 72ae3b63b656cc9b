/* Balance, z-loss and capacity against naive computations over the whole batch, for any spread of tokens over
 * ranks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "moire/moe/balance.h"
#include "../support/harness.h"

static const double tolerance = sizeof(real) == 8 ? 1e-12 : 1e-5;

enum { TOKENS = 23, EXPERTS = 5, SLOTS = 3, MOST = TOKENS * EXPERTS };

/* A batch, the same on all ranks; this rank's part of it starts at `first`. */
static struct moire_mesh mesh;
static real logits[MOST];
static int32_t chosen[TOKENS * SLOTS];
static int64_t tokens, first, here;
static struct moire_router_setting router;

/* `tokens_in` tokens over the ranks; shares are random, and some ranks have none. */
static void draw_batch(int64_t tokens_in, int64_t top_k)
{
    tokens = tokens_in, first = 0, here = 0;
    router = (struct moire_router_setting){ .experts = EXPERTS, .top_k = top_k, .mesh = &mesh };
    for (int64_t i = 0; i < MOST; i++) logits[i] = (real)(3 * test_random());
    for (int64_t t = 0; t < tokens; t++) {
        int64_t start = test_random_below(EXPERTS);
        for (int64_t k = 0; k < top_k; k++) /* expert 0 is hot */
            chosen[t * top_k + k] = (int32_t)(k == 0 && test_random_below(2) ? 0 : (start + k) % EXPERTS);
        if (test_random_below(8) == 0) chosen[t * top_k] = -1;
    }
    int64_t left = tokens, begin = 0;
    for (int rank = 0; rank < test_ranks; rank++) {
        int64_t share = rank == test_ranks - 1      ? left
                        : test_random_below(3) == 0 ? 0
                                                    : test_random_below(left + 1);
        if (rank == test_rank) first = begin, here = share;
        begin += share, left -= share;
    }
}

static struct moire_micro_batch batch_here(double share)
{
    return (struct moire_micro_batch){
        .tokens = here,
        .first_token = first,
        .global_tokens = tokens,
        .share = share,
        .training = true,
    };
}

/* The losses of logits in double, with the loads given by the choice. */
static double naive_losses(const struct moire_balance_setting *setting, const double *z, double *balance_loss,
                           double *z_loss, double *load, double *mean)
{
    double balance = 0, squares = 0;
    for (int e = 0; e < EXPERTS; e++) load[e] = mean[e] = 0;
    for (int64_t slot = 0; slot < tokens * router.top_k; slot++)
        if (chosen[slot] >= 0) load[chosen[slot]]++;
    for (int64_t t = 0; t < tokens; t++) {
        double sum = 0;
        for (int e = 0; e < EXPERTS; e++) sum += exp(z[t * EXPERTS + e]);
        for (int e = 0; e < EXPERTS; e++) mean[e] += exp(z[t * EXPERTS + e]) / sum / (double)tokens;
        squares += log(sum) * log(sum);
    }
    for (int e = 0; e < EXPERTS; e++) balance += load[e] / (double)(tokens * router.top_k) * mean[e];
    *balance_loss = setting->active ? setting->balance_weight * EXPERTS * balance : 0;
    *z_loss = tokens ? setting->z_weight * squares / (double)tokens : 0;
    return *balance_loss + *z_loss;
}

static void check_gradients(const struct moire_balance_setting *setting, double share, const real *gradients)
{
    const double step = 1e-5;
    double z[MOST], load[EXPERTS], mean[EXPERTS], balance_loss, z_loss;
    for (int64_t i = 0; i < tokens * EXPERTS; i++) z[i] = (double)logits[i];
    for (int64_t i = 0; i < here * EXPERTS; i++) {
        int64_t at = first * EXPERTS + i;
        z[at] += step;
        double above = naive_losses(setting, z, &balance_loss, &z_loss, load, mean);
        z[at] -= 2 * step;
        double below = naive_losses(setting, z, &balance_loss, &z_loss, load, mean);
        z[at] = (double)logits[at];
        expect_near((double)gradients[i], 2 + share * (above - below) / (2 * step), fmax(tolerance, 1e-8));
    }
}

static void check_balance(const struct moire_balance_setting *setting, bool trains)
{
    real scores[MOST], gradients[MOST];
    double scratch[2 * EXPERTS + 1], load[EXPERTS], mean[EXPERTS], wanted_load[EXPERTS], wanted_mean[EXPERTS];
    double z[MOST], balance_loss, z_loss, share = 0.625;
    struct moire_balance balance = { .load = load, .mean = mean };
    struct moire_selection selection = { .experts = chosen + first * router.top_k };
    const struct moire_micro_batch batch = batch_here(share);
    const real *own = logits + first * EXPERTS;
    moire_softmax_rows(here, EXPERTS, own, scores);
    expect_ok(moire_balance_forward(setting, &router, &batch, own, scores, &selection, scratch, &balance));
    for (int64_t i = 0; i < MOST; i++) z[i] = (double)logits[i], gradients[i] = 2;
    naive_losses(setting, z, &balance_loss, &z_loss, wanted_load, wanted_mean);
    expect_near(balance.balance_loss, tokens ? balance_loss : 0, tolerance);
    expect_near(balance.z_loss, z_loss, tolerance);
    for (int e = 0; e < EXPERTS; e++) {
        expect(load[e] == wanted_load[e]);
        expect_near(mean[e], trains && tokens ? wanted_mean[e] : 0, tolerance);
    }
    moire_balance_backward(setting, &router, &batch, own, scores, &balance, gradients);
    check_gradients(setting, share, gradients);
}

static void losses(void)
{
    struct moire_config config;
    expect_ok(moire_config_create(&config));
    expect_ok(moire_mesh_create(&config, &mesh));
    for (int round = 0; round < 12; round++) {
        draw_batch(round == 3 ? 0 : 1 + test_random_below(TOKENS), 1 + round % SLOTS);
        check_balance(
            &(struct moire_balance_setting){ .active = true, .balance_weight = 0.3, .z_weight = 0.2 }, true);
        check_balance(&(struct moire_balance_setting){ .active = true, .balance_weight = 0.3 }, true);
        check_balance(&(struct moire_balance_setting){ .balance_weight = 0.3, .z_weight = 0.2 }, true);
        check_balance(&(struct moire_balance_setting){ .balance_weight = 0.3 }, false);
    }
    moire_mesh_free(&mesh);
    moire_config_free(&config);
}

/* Logits whose exponentials no type can hold. */
static void large_logits(void)
{
    struct moire_config config;
    expect_ok(moire_config_create(&config));
    expect_ok(moire_mesh_create(&config, &mesh));
    draw_batch(test_ranks, 1);
    first = test_rank, here = 1;
    real own[EXPERTS] = { 3000, 2000, -3000, 0, 0 }, scores[EXPERTS], gradients[EXPERTS] = { 0 };
    double scratch[2 * EXPERTS + 1], load[EXPERTS], mean[EXPERTS];
    const struct moire_balance_setting setting = { .z_weight = 1 };
    struct moire_balance balance = { .load = load, .mean = mean };
    struct moire_selection selection = { .experts = chosen + first };
    const struct moire_micro_batch batch = batch_here(1);
    moire_softmax_rows(1, EXPERTS, own, scores);
    expect_ok(moire_balance_forward(&setting, &router, &batch, own, scores, &selection, scratch, &balance));
    expect_near(balance.z_loss, 9e6, 1e-6);
    moire_balance_backward(&setting, &router, &batch, own, scores, &balance, gradients);
    expect_near((double)gradients[0], 6000.0 / test_ranks, 1e-6);
    expect(gradients[2] == 0);
    moire_mesh_free(&mesh);
    moire_config_free(&config);
}

/* Walks through the whole batch in global order. */
static void check_capacity(double factor, bool training)
{
    const struct moire_balance_setting setting = { .capacity = factor };
    bool dropped[TOKENS * SLOTS];
    int64_t counts[EXPERTS], taken[EXPERTS] = { 0 };
    double load[EXPERTS] = { 0 }, mean[EXPERTS];
    struct moire_balance balance = { .load = load, .mean = mean, .dropped = -1 };
    struct moire_selection selection = { .experts = chosen + first * router.top_k, .dropped = dropped };
    struct moire_micro_batch batch = batch_here(1);
    batch.training = training;
    memset(dropped, true, sizeof dropped);
    for (int64_t slot = 0; slot < tokens * router.top_k; slot++)
        if (chosen[slot] >= 0) load[chosen[slot]]++;
    expect_ok(moire_capacity_apply(&setting, &router, &batch, &selection, counts, &balance));
    double all = 0, places = ceil((double)router.top_k * factor * (double)tokens / EXPERTS);
    if (!training || factor == MOIRE_DROPLESS) places = INFINITY;
    for (int64_t slot = 0; slot < tokens * router.top_k; slot++) {
        bool late = chosen[slot] >= 0 && (double)taken[chosen[slot]]++ >= places;
        all += late;
        int64_t at = slot - first * router.top_k;
        if (at >= 0 && at < here * router.top_k) expect(dropped[at] == late);
    }
    expect(balance.dropped == all);
}

static void capacity(void)
{
    struct moire_config config;
    expect_ok(moire_config_create(&config));
    expect_ok(moire_mesh_create(&config, &mesh));
    for (int round = 0; round < 30; round++) {
        draw_batch(test_random_below(TOKENS + 1), 1 + round % SLOTS);
        check_capacity(MOIRE_DROPLESS, true);
        check_capacity(0.5, false);
        check_capacity(0.5, true);
        check_capacity(1, true);
        check_capacity(1.25, true);
        check_capacity(1e6, true);
        check_capacity(1e-6, true);
    }
    moire_mesh_free(&mesh);
    moire_config_free(&config);
}

/* 1.1 * 50 / 5 is 11 but for its rounding, which makes it a little more: there are 11 places, not 12. */
static void rounded_capacity(void)
{
    struct moire_config config;
    enum { ALL = 50 };
    bool dropped[ALL];
    int32_t experts[ALL] = { 0 };
    int64_t counts[EXPERTS];
    double load[EXPERTS] = { ALL }, mean[EXPERTS];
    expect_ok(moire_config_create(&config));
    expect_ok(moire_mesh_create(&config, &mesh));
    router = (struct moire_router_setting){ .experts = EXPERTS, .top_k = 1, .mesh = &mesh };
    const struct moire_balance_setting setting = { .capacity = 1.1 };
    struct moire_balance balance = { .load = load, .mean = mean };
    struct moire_selection selection = { .experts = experts, .dropped = dropped };
    tokens = ALL, first = test_rank == 0 ? 0 : ALL, here = test_rank == 0 ? ALL : 0;
    const struct moire_micro_batch batch = batch_here(1);
    expect_ok(moire_capacity_apply(&setting, &router, &batch, &selection, counts, &balance));
    expect(balance.dropped == ALL - 11);
    moire_mesh_free(&mesh);
    moire_config_free(&config);
}

int main(int argc, char **argv)
{
    const struct moire_test tests[] = {
        { "balance and z-loss agree with naive ones", losses },
        { "z-loss of large logits", large_logits },
        { "places are given in global order", capacity },
        { "a capacity that is an integer but for rounding", rounded_capacity },
    };
    return test_main(argc, argv, "1 2 3 4 5", tests, sizeof tests / sizeof *tests);
}
