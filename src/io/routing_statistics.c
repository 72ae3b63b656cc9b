/* What a recording of routing comes to: loads, locality, distinct destinations. */
#include <string.h>

#include "moire/io/routing.h"

void moire_routing_count(const struct moire_routing_file *file, int64_t step, int64_t layer, int64_t *rows)
{
    memset(rows, 0, (size_t)(file->ranks * file->experts) * sizeof *rows);
    for (int64_t t = 0; t < file->tokens; t++) {
        const int32_t *token = moire_routing_token(file, step, layer, t);
        const int64_t source = file->sources[step * file->tokens + t];
        for (int64_t k = 0; k < file->top_k; k++)
            if (source >= 0 && token[k] >= 0) rows[source * file->experts + token[k]]++;
    }
}

/* ---- distinct destinations ---- */

/* met[g] is the last token that met group g. */
static void count_distinct(const struct moire_routing_file *file, int64_t step, int64_t layer,
                           const int64_t *group_of_expert, int64_t *met, int64_t copies[2])
{
    for (int64_t t = 0; t < file->tokens; t++) {
        const int32_t *token = moire_routing_token(file, step, layer, t);
        for (int64_t k = 0; k < file->top_k; k++) {
            if (token[k] < 0) continue;
            int64_t group = group_of_expert[token[k]];
            copies[0]++;
            copies[1] += met[group] != t + 1;
            met[group] = t + 1;
        }
    }
}

moire_status moire_routing_distinct(const struct moire_routing_file *file, int64_t step, int64_t layer,
                                    const struct moire_placement *placement, const int *group_of,
                                    int64_t copies[2])
{
    int64_t *group_of_expert, *met = NULL, groups = placement->ranks;
    if (placement->experts != file->experts)
        return moire_fail(MOIRE_USAGE,
                          "the placement is of another number of experts than the record of routing; found "
                          "%lld, expected %lld; try the configuration that it was recorded with",
                          (long long)placement->experts, (long long)file->experts);
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, file->experts, sizeof *group_of_expert, &group_of_expert));
    for (int64_t e = 0; e < file->experts; e++) {
        int rank = placement->instance_rank[placement->expert_instances[placement->expert_begin[e]]];
        group_of_expert[e] = group_of ? group_of[rank] : rank;
        if (group_of_expert[e] >= groups) groups = group_of_expert[e] + 1;
    }
    moire_status status = moire_allocate(MOIRE_MEMORY_OTHER, groups, sizeof *met, &met);
    if (status == MOIRE_OK) count_distinct(file, step, layer, group_of_expert, met, copies);
    moire_release(met);
    moire_release(group_of_expert);
    return status;
}

/* ---- the whole ---- */

/* Of a step and layer: slots by expert, and what they add to the summary. Pairs of neighbours with a first
 * choice each are counted in pairs[0], those of the same choice in pairs[1]. */
static void add_layer(const struct moire_routing_file *file, int64_t step, int64_t layer, int64_t *counts,
                      int64_t pairs[2], struct moire_routing_summary *summary)
{
    const int32_t *source = file->sources + step * file->tokens, *before = NULL;
    int64_t slots = 0, most = 0;
    memset(counts, 0, (size_t)file->experts * sizeof *counts);
    for (int64_t t = 0; t < file->tokens; t++) {
        const int32_t *token = moire_routing_token(file, step, layer, t);
        if (source[t] < 0) continue;
        for (int64_t k = 0; k < file->top_k; k++) {
            summary->dropped += token[k] < 0;
            slots += token[k] >= 0;
            if (token[k] >= 0 && ++counts[token[k]] > most) most = counts[token[k]];
        }
        bool pair = before && source[t] == source[t - 1] && token[0] >= 0 && before[0] >= 0;
        pairs[0] += pair;
        pairs[1] += pair && token[0] == before[0];
        before = token;
    }
    summary->slots += slots;
    if (slots) summary->imbalance += (double)most * (double)file->experts / (double)slots;
}

moire_status moire_routing_summarise(const struct moire_routing_file *file,
                                     struct moire_routing_summary *summary)
{
    struct moire_routing_summary sum = { 0 };
    int64_t *counts, pairs[2] = { 0, 0 }, routed = 0;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, file->experts, sizeof *counts, &counts));
    for (int64_t step = 0; step < file->steps; step++)
        for (int64_t layer = 0; layer < file->layers; layer++) {
            int64_t before = sum.slots;
            add_layer(file, step, layer, counts, pairs, &sum);
            routed += sum.slots > before;
        }
    moire_release(counts);
    sum.imbalance = routed ? sum.imbalance / (double)routed : 0;
    sum.repeats = pairs[0] ? (double)pairs[1] / (double)pairs[0] : 0;
    *summary = sum;
    return MOIRE_OK;
}
