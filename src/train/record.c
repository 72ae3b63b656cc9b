/* moe.record: which experts the router chose, step by step, for a replay. */
#include "moire/io/routing.h"
#include "train/private.h"

/* Tokens of this rank in a step: the same in every step, as there is one micro-batch. */
static int64_t local_tokens(const struct moire_run *run)
{
    return moire_train_local_sequences(run->config, &run->mesh) * run->config->model_sequence;
}

moire_status moire_record_create(struct moire_run *run)
{
    const struct moire_config *config = run->config;
    if (!config->moe_record || run->model.moe_layers == 0) return MOIRE_OK;
    return moire_allocate(MOIRE_MEMORY_OTHER, run->model.moe_layers * local_tokens(run) * config->moe_top_k,
                          sizeof *run->chosen, &run->chosen);
}

void moire_record_gather(struct moire_run *run)
{
    const int64_t slots = local_tokens(run) * run->config->moe_top_k;
    if (!run->chosen) return;
    for (int64_t layer = 0; layer < run->model.layers; layer++) {
        const struct moire_block *block = &run->model.blocks[layer];
        if (!block->is_moe) continue;
        const struct moire_selection *selection = &block->moe.selection;
        int32_t *chosen = run->chosen + block->moe.moe_layer * slots;
        for (int64_t slot = 0; slot < slots; slot++)
            chosen[slot] = selection->dropped[slot] ? -1 : selection->experts[slot];
    }
}

moire_status moire_record_write(struct moire_run *run)
{
    const struct moire_config *config = run->config;
    if (!run->chosen) return MOIRE_OK;
    /* the step as routers count it, from 0 */
    return moire_routing_append(&run->mesh.world, run->routing, run->step - 1, run->model.moe_layers,
                                local_tokens(run), config->moe_top_k, config->moe_experts, run->chosen);
}
