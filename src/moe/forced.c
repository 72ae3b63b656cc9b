/* Forced choices, for measurement: the load of the experts and the traffic between ranks are given, whatever
 * the logits. Weights are 1/K and the router gets no gradient; the rest of the layer runs as always.
 *
 * A choice is a function of (seed, layer, step, part, global token) alone, so that it is the same for any
 * number of ranks (but `remote`, which looks at where experts are). uniform, zipf and remote draw K distinct
 * experts one after the other with probabilities in proportion to weights of the experts; the weights come as
 * their sums from the end, see moire_forced_tail. */
#include <string.h>
#include <tgmath.h>

#include "compute/elementary.h"
#include "moe/choice.h"
#include "moire/base/random.h"
#include "moire/moe/router.h"

static int rank_of(const struct moire_placement *placement, int64_t expert)
{
    return placement->instance_rank[placement->expert_instances[placement->expert_begin[expert]]];
}

/* How far away experts must be: NODE, on another node; RANK, on another rank; ANY. */
enum distance { ANY, RANK, NODE };

static bool is_as_far(const struct moire_router_setting *setting, int64_t expert, enum distance distance)
{
    if (distance == ANY) return true;
    const struct moire_mesh *mesh = setting->mesh;
    const int own = mesh->expert.rank, rank = rank_of(setting->placement, expert);
    return distance == RANK ? rank != own : mesh->expert_node_of[rank] != mesh->expert_node_of[own];
}

/* The farthest distance at which there are K experts to choose from. */
static enum distance farthest(const struct moire_router_setting *setting)
{
    for (enum distance distance = NODE; distance > ANY; distance--) {
        int64_t count = 0;
        for (int64_t e = 0; e < setting->experts; e++) count += is_as_far(setting, e, distance);
        if (count >= setting->top_k) return distance;
    }
    return ANY;
}

void moire_forced_tail(const struct moire_router_setting *setting, double *tail)
{
    enum distance distance = setting->forced == MOIRE_FORCED_REMOTE ? farthest(setting) : ANY;
    tail[setting->experts] = 0;
    /* From the end, where weights are smallest: differences of sums near the end keep their digits. */
    for (int64_t e = setting->experts - 1; e >= 0; e--) {
        double weight = is_as_far(setting, e, distance) ? 1 : 0;
        if (setting->forced == MOIRE_FORCED_ZIPF) weight = pow((double)(e + 1), -setting->forced_exponent);
        tail[e] = tail[e + 1] + weight;
    }
}

/* A run of experts between two that are already chosen. */
struct gap {
    int64_t first, end;
};

static struct gap gap_at(int64_t experts, const int32_t *chosen, int64_t count, int64_t place)
{
    return (struct gap){ .first = place > 0 ? chosen[place - 1] + 1 : 0,
                         .end = place < count ? chosen[place] : experts };
}

/* The expert of the gap whose weight covers `target` when weights are laid end to end from the last to the
 * first. */
static int64_t search(const double *tail, struct gap gap, double target)
{
    int64_t low = gap.first, high = gap.end - 1;
    target += tail[gap.end];
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;
        if (tail[middle] > target) low = middle;
        else high = middle - 1;
    }
    /* Rounding must not lead to a weight of zero. */
    while (low + 1 < gap.end && tail[low] == tail[low + 1]) low++;
    return low;
}

/* Draws one more expert beside the `count` chosen ones, which ascend and still do afterwards. `uniform` in
 * [0, 1). */
static void draw(const double *tail, int64_t experts, int32_t *chosen, int64_t count, double uniform)
{
    double mass = 0;
    for (int64_t g = 0; g <= count; g++) {
        struct gap gap = gap_at(experts, chosen, count, g);
        mass += tail[gap.first] - tail[gap.end];
    }
    double target = uniform * mass;
    int64_t place = -1;
    for (int64_t g = count; g >= 0; g--) {
        struct gap gap = gap_at(experts, chosen, count, g);
        double part = tail[gap.first] - tail[gap.end];
        /* The last of these also where rounding leaves a rest of the target. */
        if (part > 0 || (place < 0 && gap.first < gap.end)) place = g;
        if (part > 0 && target < part) break;
        target -= part;
    }
    moire_assert(place >= 0);
    int32_t expert = (int32_t)search(tail, gap_at(experts, chosen, count, place), target > 0 ? target : 0);
    memmove(chosen + place + 1, chosen + place, (size_t)(count - place) * sizeof *chosen);
    chosen[place] = expert;
}

/* The stream of random numbers of this layer, step and part. */
static uint64_t stream_of(const struct moire_router_setting *setting, const struct moire_micro_batch *batch)
{
    uint64_t stream = moire_random_stream("forced routing");
    stream = moire_random_bits(setting->seed, stream, (uint64_t)setting->layer);
    stream = moire_random_bits(setting->seed, stream, (uint64_t)batch->step);
    return moire_random_bits(setting->seed, stream, (uint64_t)batch->part);
}

static void choose_drawn(const struct moire_router_setting *setting, const struct moire_micro_batch *batch,
                         int32_t *chosen)
{
    const int64_t top_k = setting->top_k;
    const uint64_t stream = stream_of(setting, batch);
#pragma omp parallel for schedule(static) if (batch->tokens * top_k > MOIRE_PARALLEL_ELEMENTS / 16)
    for (int64_t t = 0; t < batch->tokens; t++)
        for (int64_t k = 0; k < top_k; k++) {
            uint64_t number = (uint64_t)((batch->first_token + t) * top_k + k);
            double uniform = moire_random_uniform(setting->seed, stream, number);
            draw(setting->forced_tail, setting->experts, chosen + t * top_k, k, uniform);
        }
}

static void choose_even(const struct moire_router_setting *setting, const struct moire_micro_batch *batch,
                        int32_t *chosen)
{
    const int64_t first = batch->first_token * setting->top_k;
    for (int64_t slot = 0; slot < batch->tokens * setting->top_k; slot++)
        chosen[slot] = (int32_t)((first + slot) % setting->experts);
}

static moire_status choose_replayed(const struct moire_router_setting *setting,
                                    const struct moire_micro_batch *batch, int32_t *chosen)
{
    if (!setting->replay || setting->replay_steps < 1 || setting->replay_tokens < 1)
        return moire_fail(MOIRE_USAGE,
                          "nothing is recorded to replay; try moe.forced_file = the routing.h5 of a run "
                          "with moe.record = yes");
    if (setting->moe_layer >= setting->replay_layers)
        return moire_fail(MOIRE_BAD_DATA,
                          "the recorded choices have too few layers with experts; found %lld, expected at "
                          "least %d; try a recording of the same model",
                          (long long)setting->replay_layers, setting->moe_layer + 1);
    int64_t run = (batch->step % setting->replay_steps) * setting->replay_layers + setting->moe_layer;
    const int32_t *recorded = setting->replay + run * setting->replay_tokens * setting->top_k;
    for (int64_t t = 0; t < batch->tokens; t++) {
        const int32_t *token = recorded + (batch->first_token + t) % setting->replay_tokens * setting->top_k;
        for (int64_t k = 0; k < setting->top_k; k++) {
            if (token[k] < -1 || token[k] >= setting->experts)
                return moire_fail(MOIRE_BAD_DATA,
                                  "a recorded choice is no expert; found %d, expected -1 to %lld; try a "
                                  "recording of the same model",
                                  (int)token[k], (long long)setting->experts - 1);
            chosen[t * setting->top_k + k] = token[k];
        }
    }
    return MOIRE_OK;
}

static moire_status choose(const struct moire_router_setting *setting, const struct moire_micro_batch *batch,
                           const real *logits, const real *scores, struct moire_selection *selection)
{
    (void)logits, (void)scores;
    if (!selection->frozen) {
        if (setting->forced == MOIRE_FORCED_REPLAY)
            MOIRE_TRY(choose_replayed(setting, batch, selection->experts));
        else if (setting->forced == MOIRE_FORCED_EVEN) choose_even(setting, batch, selection->experts);
        else choose_drawn(setting, batch, selection->experts);
    }
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
