/* Traffic outside of the step: settings, weights, and what can be said of it beforehand. */
#include <math.h>

#include "moire/moe/traffic.h"

struct moire_traffic_setting moire_traffic_setting_of(const struct moire_config *config,
                                                      const struct moire_placement *placement,
                                                      const int *node_of)
{
    return (struct moire_traffic_setting) {
        .kind = config->moe_forced,
        .experts = config->moe_experts,
        .top_k = config->moe_top_k,
        .seed = (uint64_t)config->run_seed,
        .layers = (int)config->model_layers,
        .exponent = config->moe_forced_exponent,
        .share = config->moe_forced_share,
        .repeat = config->moe_forced_repeat,
        .repeat_second = config->moe_forced_repeat_second,
        .placement = placement,
        .node_of = node_of,
    };
}

static moire_status check(const struct moire_traffic_setting *setting)
{
    const int64_t experts = setting->experts;
    if (setting->top_k > experts || setting->top_k > MOIRE_TRAFFIC_MOST_SLOTS)
        return moire_fail(
            MOIRE_USAGE,
            "a token cannot have so many experts; found moe.top_k = %lld, expected at most %lld; "
            "try fewer slots or more experts",
            (long long)setting->top_k,
            (long long)(experts < MOIRE_TRAFFIC_MOST_SLOTS ? experts : MOIRE_TRAFFIC_MOST_SLOTS));
    if (setting->repeat >= 0 && setting->repeat_second >= 0 && setting->repeat + setting->repeat_second > 1)
        return moire_fail(MOIRE_USAGE,
                          "the probabilities of markov add up to more than 1; found moe.forced_repeat = %g "
                          "and moe.forced_repeat_second = %g; try smaller ones",
                          setting->repeat, setting->repeat_second);
    return MOIRE_OK;
}

/* ---- weights ---- */

/* How far away experts must be: NODE, on another node; RANK, on another rank; ANY. */
enum distance { ANY, RANK, NODE };

static bool is_as_far(const struct moire_traffic_setting *setting, int own, int64_t expert,
                      enum distance distance)
{
    const struct moire_placement *placement = setting->placement;
    if (distance == ANY) return true;
    int rank = placement->instance_rank[placement->expert_instances[placement->expert_begin[expert]]];
    return distance == RANK ? rank != own : setting->node_of[rank] != setting->node_of[own];
}

/* The farthest distance at which there are K experts to choose from. */
static enum distance farthest(const struct moire_traffic_setting *setting, int own)
{
    for (enum distance distance = NODE; distance > ANY; distance--) {
        int64_t count = 0;
        for (int64_t e = 0; e < setting->experts; e++) count += is_as_far(setting, own, e, distance);
        if (count >= setting->top_k) return distance;
    }
    return ANY;
}

void moire_traffic_set_source(struct moire_traffic *traffic, int rank)
{
    const struct moire_traffic_setting *setting = &traffic->setting;
    const bool far = traffic->kind->weights == MOIRE_TRAFFIC_FAR;
    const enum distance distance = far ? farthest(setting, rank) : ANY;
    traffic->tail[setting->experts] = 0;
    /* From the end, where weights are smallest: differences of sums near the end keep their digits. */
    for (int64_t e = setting->experts - 1; e >= 0; e--) {
        double weight = is_as_far(setting, rank, e, distance) ? 1 : 0;
        if (traffic->kind->weights == MOIRE_TRAFFIC_FALLING)
            weight = pow((double)(e + 1), -setting->exponent);
        traffic->tail[e] = traffic->tail[e + 1] + weight;
    }
}

moire_status moire_traffic_create(const struct moire_traffic_setting *setting, struct moire_traffic *traffic)
{
    struct moire_traffic made = { .setting = *setting };
    MOIRE_TRY(check(setting));
    MOIRE_TRY(moire_traffic_find(setting->kind, &made.kind));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, setting->experts + 1, sizeof *made.tail, &made.tail));
    moire_traffic_set_source(&made, 0);
    *traffic = made;
    return MOIRE_OK;
}

void moire_traffic_free(struct moire_traffic *traffic)
{
    moire_release(traffic->tail);
    *traffic = (struct moire_traffic) { 0 };
}

void moire_traffic_set_replay(struct moire_traffic *traffic, const int32_t *ids, int64_t steps,
                              int64_t layers, int64_t tokens)
{
    traffic->replay = ids;
    traffic->replay_steps = steps;
    traffic->replay_layers = layers;
    traffic->replay_tokens = tokens;
}

/* ---- repetition ---- */

/* Mixtral 8x7B (arXiv 2401.04088, table 5): share of the tokens whose first choice is that of the token
 * before, and share of those that have a choice in common with it; means over eight data sets. */
static const struct measured {
    double depth, first, either;
} measured[] = {
    { 0.0, 0.1409, 0.4804 },
    { 15.0 / 31, 0.2640, 0.6369 },
    { 1.0, 0.2268, 0.5091 },
};
enum { MEASURED = sizeof measured / sizeof *measured };

/* The probabilities that lead to what was measured, for 8 experts of which a token has 2. With s their sum
 * and c = 1 - C(6, 2) / C(8, 2) the share with a choice in common by chance,
 *     either = s + (1 - s) c,    first = p + (s - p) / 7 + (1 - s) / 8;
 * where that wants p > s, p = s is chosen so that it gives `first`. */
static void solve(const struct measured *rates, double *first, double *second)
{
    const double chance = 1 - 15.0 / 28, sum = (rates->either - chance) / (1 - chance);
    double p = (rates->first - (1 - sum) / 8 - sum / 7) * 7 / 6;
    *second = p < sum ? sum - p : 0;
    *first = p < sum ? p : (rates->first - 1.0 / 8) * 8 / 7;
}

static void repeat_at(double depth, double *first, double *second)
{
    int i = 1;
    double low[2], high[2];
    while (i + 1 < MEASURED && depth > measured[i].depth) i++;
    double weight = (depth - measured[i - 1].depth) / (measured[i].depth - measured[i - 1].depth);
    solve(&measured[i - 1], &low[0], &low[1]);
    solve(&measured[i], &high[0], &high[1]);
    *first = low[0] + weight * (high[0] - low[0]);
    *second = low[1] + weight * (high[1] - low[1]);
}

void moire_traffic_repeat(const struct moire_traffic_setting *setting, int layer, double *first,
                          double *second)
{
    repeat_at(setting->layers > 1 ? (double)layer / (setting->layers - 1) : 0, first, second);
    if (setting->repeat_second >= 0) *second = setting->repeat_second;
    if (setting->repeat >= 0) *first = setting->repeat;
    /* one is given, the other must leave room for it */
    if (setting->repeat < 0)
        *first = fmin(*first, 1 - *second);
    else
        *second = fmin(*second, 1 - *first);
}

/* ---- distinct destinations ---- */

/* 1 - C(E - n, K) / C(E, K), the probability that one of K choices is among n experts. The quotient is the
 * product of 1 - n / (E - k); by logarithms, small probabilities keep their digits. */
double moire_traffic_meets(int64_t experts, int64_t members, int64_t top_k)
{
    double logarithm = 0;
    if (experts - members < top_k) return 1;
    for (int64_t k = 0; k < top_k; k++) logarithm += log1p(-(double)members / (double)(experts - k));
    return -expm1(logarithm);
}

double moire_traffic_expected_distinct(int64_t experts, int64_t groups, int64_t top_k)
{
    const int64_t members = experts / groups, larger = experts % groups; /* groups with one member more */
    double distinct = (double)(groups - larger) * moire_traffic_meets(experts, members, top_k);
    if (larger > 0) distinct += (double)larger * moire_traffic_meets(experts, members + 1, top_k);
    return distinct;
}
