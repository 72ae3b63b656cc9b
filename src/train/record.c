/* moe.record: which experts the router chose, step by step; and their replay. */
#include <string.h>

#include "moire/base/log.h"
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

/* ---- replay ---- */

static moire_status check_recording(const struct moire_model *model, const struct moire_routing_file *file)
{
    const struct moire_config *config = &model->config;
    if (file->layers == model->moe_layers && file->experts == config->moe_experts &&
        file->top_k == config->moe_top_k)
        return MOIRE_OK;
    return moire_fail(
        MOIRE_BAD_DATA,
        "%s is of another model; found %lld layers with %lld experts, %lld a token, expected %lld "
        "with %lld, %lld a token; try the configuration that it was recorded with",
        config->moe_forced_file, (long long)file->layers, (long long)file->experts, (long long)file->top_k,
        (long long)model->moe_layers, (long long)config->moe_experts, (long long)config->moe_top_k);
}

/* Loads that come back look like those of a longer run. */
static void warn_of_wrapping(const struct moire_config *config, const struct moire_routing_file *file)
{
    const int64_t tokens = config->train_batch * config->model_sequence;
    if (config->train_steps > file->steps || tokens > file->tokens)
        moire_warn("%s starts again where it ends; it has %lld steps of %lld tokens, the run %lld of %lld",
                   config->moe_forced_file, (long long)file->steps, (long long)file->tokens,
                   (long long)config->train_steps, (long long)tokens);
}

moire_status moire_train_replay(struct moire_model *model, struct moire_routing_file *file)
{
    const struct moire_config *config = &model->config;
    struct moire_routing_file read = { 0 };
    bool forced = strcmp(config->moe_router, "forced") == 0;
    if (!forced || strcmp(config->moe_forced, "replay") != 0 || model->moe_layers == 0) return MOIRE_OK;
    moire_status status = moire_routing_read(config->moe_forced_file, &read);
    if (status == MOIRE_OK) status = check_recording(model, &read);
    status = moire_agree(&model->mesh->world, status);
    if (status != MOIRE_OK) {
        moire_routing_free(&read);
        return status;
    }
    warn_of_wrapping(config, &read);
    moire_traffic_set_replay(&model->moe.traffic, read.ids, read.steps, read.layers, read.tokens);
    *file = read;
    return MOIRE_OK;
}
