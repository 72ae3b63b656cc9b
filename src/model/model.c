/* The model as a whole: memory, embedding, blocks, head. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/private.h"
#include "moire/compute/emulate.h"
#include "moire/compute/linear.h"
#include "moire/compute/norm.h"
#include "moire/compute/vector.h"
#include "moire/observe/phases.h"

/* ---- memory ---- */

static moire_status create_arenas(struct moire_model *model)
{
    int64_t elements = moire_tensors_elements(&model->tensors);
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_PARAMETERS, elements, sizeof(real), &model->parameters));
    if (model->training)
        MOIRE_TRY(moire_allocate(MOIRE_MEMORY_GRADIENTS, elements, sizeof(real), &model->gradients));
    if (!moire_is_emulated()) /* else nobody looks at them */
        moire_tensors_initialise(&model->tensors, (uint64_t)model->config.run_seed, MOIRE_REAL_ELEMENT,
                                 model->parameters);
    return MOIRE_OK;
}

/* The table with this rank's experts, and the blocks. Not collective. */
moire_status moire_model_create_table(struct moire_model *model)
{
    bool *is_moe;
    MOIRE_TRY(moire_tensors_create(&model->tensors));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, model->layers, sizeof *model->blocks, &model->blocks));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, model->layers, sizeof *is_moe, &is_moe));
    moire_status status = moire_config_moe_layers(&model->config, is_moe);
    if (status == MOIRE_OK) status = moire_model_add_tensors(&model->config, is_moe, &model->tensors, model);
    moire_release(is_moe);
    return status;
}

/* Experts of this rank, by the placement; none where the model has none. */
static moire_status layout_table(struct moire_model *model)
{
    int64_t first = 0, count = 0;
    if (model->moe_layers) {
        first = model->moe.placement.rank_begin[model->mesh->expert.rank];
        count = moire_placement_local(&model->moe.placement, model->mesh->expert.rank);
    }
    return moire_tensors_layout(&model->tensors, count ? &model->moe.placement.instance_expert[first] : NULL,
                                count);
}

/* The parts whose set-up is collective: exchange, and buffers that belong to it. */
static moire_status create_moe(struct moire_model *model)
{
    int64_t tokens = model->sequences * model->sequence;
    MOIRE_TRY(moire_moe_create(&model->config, model->mesh, tokens, &model->moe));
    MOIRE_TRY(moire_rows_create(model->moe.exchange, MOIRE_MEMORY_ACTIVATIONS, model->dim, tokens,
                                &model->feed_forward_output));
    if (model->training)
        MOIRE_TRY(moire_rows_create(model->moe.exchange, MOIRE_MEMORY_ACTIVATIONS, model->dim, tokens,
                                    &model->feed_forward_gradient));
    for (int64_t layer = 0; layer < model->layers; layer++)
        if (model->blocks[layer].is_moe)
            MOIRE_TRY(moire_moe_layer_create(&model->moe, &model->blocks[layer].moe));
    return MOIRE_OK;
}

void moire_model_set_sizes(struct moire_model *model)
{
    const struct moire_config *config = &model->config;
    model->layers = config->model_layers;
    model->dim = config->model_dim;
    model->heads = config->model_heads;
    model->kv_heads = moire_kv_heads(config);
    model->head_dim = config->model_dim / config->model_heads;
    model->hidden_size = config->model_ffn_hidden;
    model->sequence = config->model_sequence;
    model->vocabulary = config->model_vocabulary;
    moire_head_set_sizes(model);
}

moire_status moire_model_create(const struct moire_config *config, const struct moire_mesh *mesh,
                                int64_t sequences, bool training, struct moire_model *model)
{
    memset(model, 0, sizeof *model);
    model->mesh = mesh;
    model->sequences = sequences;
    model->training = training;
    moire_status status = moire_model_check(config);
    if (status == MOIRE_OK) status = moire_config_copy(config, &model->config);
    if (status == MOIRE_OK) {
        moire_model_set_sizes(model);
        status = moire_model_create_table(model);
    }
    status = moire_agree(&mesh->world, status);
    if (status != MOIRE_OK) goto free_model;
    if (model->moe_layers)
        status =
            moire_agree(&mesh->world, create_moe(model)); /* it is agreed on in each expert group alone */
    if (status != MOIRE_OK) goto free_model;
    status = layout_table(model);
    if (status == MOIRE_OK) status = create_arenas(model);
    if (status == MOIRE_OK) status = moire_model_create_activations(model);
    status = moire_agree(&mesh->world, status);
    if (status == MOIRE_OK) return MOIRE_OK;
free_model:
    moire_model_free(model);
    return status;
}

void moire_model_free(struct moire_model *model)
{
    if (model->moe.exchange) {
        for (int64_t layer = 0; layer < model->layers; layer++)
            if (model->blocks[layer].is_moe) moire_moe_layer_free(&model->blocks[layer].moe);
        moire_rows_free(model->moe.exchange, &model->feed_forward_output);
        moire_rows_free(model->moe.exchange, &model->feed_forward_gradient);
        moire_moe_free(&model->moe);
    }
    moire_arena_free(&model->activations);
    moire_release(model->parameters);
    moire_release(model->gradients);
    moire_release(model->blocks);
    moire_tensors_free(&model->tensors);
    moire_config_free(&model->config);
    memset(model, 0, sizeof *model);
}

/* ---- forward and backward ---- */

static const real *parameter(const struct moire_model *model, int index)
{
    return moire_tensor_data(&model->tensors, model->parameters, index);
}

static real *gradient(const struct moire_model *model, int index)
{
    return moire_tensor_data(&model->tensors, model->gradients, index);
}

/* Inputs and targets [B, S] out of sequences [B, S + 1]. */
static void split_tokens(struct moire_model *model, const struct moire_batch *batch)
{
    int64_t length = model->sequence;
    size_t bytes = sizeof(int32_t) * (size_t)length;
    for (int64_t sequence = 0; sequence < batch->sequences; sequence++) {
        const int32_t *tokens = batch->tokens + sequence * (length + 1);
        memcpy(model->inputs + sequence * length, tokens, bytes);
        memcpy(model->targets + sequence * length, tokens + 1, bytes);
    }
}

static void embedding_forward(struct moire_model *model, int64_t tokens)
{
    moire_phase_begin(MOIRE_PHASE_EMBEDDING);
    moire_embedding_forward(tokens, model->sequence, model->dim, model->inputs,
                            parameter(model, model->embedding), parameter(model, model->positions), 0,
                            model->layers ? model->blocks[0].input : model->output);
    moire_phase_end(MOIRE_PHASE_EMBEDDING);
}

static void embedding_backward(struct moire_model *model, int64_t tokens)
{
    moire_phase_begin(MOIRE_PHASE_EMBEDDING);
    moire_embedding_backward(tokens, model->sequence, model->dim, model->inputs, model->stream_gradient,
                             gradient(model, model->embedding), gradient(model, model->positions));
    moire_phase_end(MOIRE_PHASE_EMBEDDING);
}

static void final_norm_forward(struct moire_model *model, int64_t tokens)
{
    moire_phase_begin(MOIRE_PHASE_NORM);
    moire_norm_forward(tokens, model->dim, model->config.model_norm_epsilon, model->output,
                       parameter(model, model->final_norm), parameter(model, model->final_norm_bias),
                       model->final_rows, model->final_saved);
    moire_phase_end(MOIRE_PHASE_NORM);
}

static void final_norm_backward(struct moire_model *model, int64_t tokens)
{
    moire_phase_begin(MOIRE_PHASE_NORM);
    moire_fill(tokens * model->dim, 0, model->stream_gradient);
    moire_norm_backward(tokens, model->dim, model->output, parameter(model, model->final_norm),
                        model->final_saved, model->rows_gradient, model->stream_gradient,
                        gradient(model, model->final_norm), gradient(model, model->final_norm_bias));
    moire_phase_end(MOIRE_PHASE_NORM);
}

static moire_status forward(struct moire_model *model, const struct moire_micro_batch *batch, bool backward,
                            real scale)
{
    moire_phase_begin(MOIRE_PHASE_FORWARD);
    embedding_forward(model, batch->tokens);
    for (int64_t layer = 0; layer < model->layers; layer++) {
        real *next = layer + 1 < model->layers ? model->blocks[layer + 1].input : model->output;
        MOIRE_TRY(moire_block_forward(model, &model->blocks[layer], batch, next));
    }
    moire_where.layer = -1;
    final_norm_forward(model, batch->tokens);
    moire_head(model, batch->tokens, backward, scale);
    moire_phase_end(MOIRE_PHASE_FORWARD);
    return MOIRE_OK;
}

static moire_status backward(struct moire_model *model, const struct moire_micro_batch *batch)
{
    moire_phase_begin(MOIRE_PHASE_BACKWARD);
    final_norm_backward(model, batch->tokens);
    for (int64_t layer = model->layers - 1; layer >= 0; layer--)
        MOIRE_TRY(moire_block_backward(model, &model->blocks[layer], batch));
    moire_where.layer = -1;
    embedding_backward(model, batch->tokens);
    moire_phase_end(MOIRE_PHASE_BACKWARD);
    return MOIRE_OK;
}

static void add_losses(const struct moire_model *model, const struct moire_micro_batch *batch,
                       struct moire_losses *losses)
{
    struct moire_losses sum = { 0 };
    for (int64_t token = 0; token < batch->tokens; token++) sum.cross_entropy += model->losses[token];
    for (int64_t layer = 0; layer < model->layers; layer++) {
        if (!model->blocks[layer].is_moe || !batch->training) continue;
        const struct moire_balance *balance = &model->blocks[layer].moe.balance;
        sum.balance += batch->share * balance->balance_loss;
        sum.z += batch->share * balance->z_loss;
        sum.dropped += balance->dropped;
    }
    *losses = sum;
}

moire_status moire_model_loss(struct moire_model *model, const struct moire_batch *batch, bool with_backward,
                              struct moire_losses *losses)
{
    int64_t length = model->sequence;
    struct moire_micro_batch micro = {
        .tokens = batch->sequences * length,
        .first_token = batch->first_sequence * length,
        .global_tokens = batch->global_sequences * length,
        .step = batch->step,
        .part = batch->part,
        .share = (double)batch->global_sequences / (double)batch->step_sequences,
        .training = with_backward,
    };
    moire_assert(batch->sequences <= model->sequences && (model->training || !with_backward));
    model->last_tokens = micro.tokens;
    split_tokens(model, batch);
    MOIRE_TRY(forward(model, &micro, with_backward,
                      (real)(1.0 / ((double)batch->step_sequences * (double)length))));
    if (with_backward) MOIRE_TRY(backward(model, &micro));
    add_losses(model, &micro, losses);
    return MOIRE_OK;
}

void moire_model_freeze(struct moire_model *model, bool frozen)
{
    for (int64_t layer = 0; layer < model->layers; layer++)
        model->blocks[layer].moe.selection.frozen = frozen;
}

void moire_model_load(const struct moire_model *model, double *load)
{
    int64_t experts = model->config.moe_experts;
    for (int64_t layer = 0; layer < model->layers; layer++) {
        const struct moire_block *block = &model->blocks[layer];
        if (block->is_moe)
            memcpy(load + block->moe.moe_layer * experts, block->moe.balance.load,
                   sizeof(double) * (size_t)experts);
    }
}

/* ---- where a number went wrong ---- */

struct place {
    const char *name;
    const real *rows;
    int64_t width;
};

static bool place_is_bad(const struct place *places, size_t count, int64_t tokens, const char **name)
{
    for (size_t i = 0; i < count; i++) {
        if (!places[i].rows || moire_find_not_finite(tokens * places[i].width, places[i].rows) < 0) continue;
        *name = places[i].name;
        return true;
    }
    return false;
}

static bool block_is_bad(const struct moire_model *model, const struct moire_block *block, int64_t tokens,
                         const char **name)
{
    /* what is not kept is that of another block */
    const int recompute = model->config.train_recompute;
    const bool attention = recompute != MOIRE_RECOMPUTE_LAYER, feed_forward = recompute == MOIRE_RECOMPUTE_NONE;
    const struct place places[] = {
        { "input", block->input, model->dim },
        { "query, key and value rows", attention ? block->qkv_rows : NULL,
          (model->heads + 2 * model->kv_heads) * model->head_dim },
        { "attention rows", attention ? block->attention_rows : NULL, model->dim },
        { "attention output", attention ? block->middle : NULL, model->dim },
        { "feed-forward input", feed_forward ? block->feed_forward_input : NULL, model->dim },
        { "router logits", block->is_moe ? block->moe.logits : NULL, model->moe.experts },
        { "feed-forward rows", block->is_moe || !feed_forward ? NULL : block->up_rows, model->hidden_size },
    };
    return place_is_bad(places, sizeof places / sizeof *places, tokens, name);
}

/* The first bad tensor of an arena: in the order of the table, or from its end for gradients, which is how
 * backward goes. */
static bool arena_is_bad(const struct moire_model *model, const real *arena, const char *kind, char *where,
                         size_t where_bytes, int *layer)
{
    bool from_end = arena == model->gradients;
    for (int i = 0; arena && i < model->tensors.count; i++) {
        const struct moire_tensor *tensor = &model->tensors.list[from_end ? model->tensors.count - 1 - i : i];
        int64_t index = moire_find_not_finite(tensor->elements, arena + tensor->offset), expert;
        if (index < 0) continue;
        *layer = tensor->layer;
        moire_tensors_at(&model->tensors, tensor->offset + index, &expert);
        if (expert >= 0)
            snprintf(where, where_bytes, "%s %s, expert %lld", kind, tensor->name, (long long)expert);
        else
            snprintf(where, where_bytes, "%s %s", kind, tensor->name);
        return true;
    }
    return false;
}

bool moire_model_find_not_finite(const struct moire_model *model, char *where, size_t where_bytes, int *layer)
{
    const char *name;
    if (arena_is_bad(model, model->parameters, "parameter", where, where_bytes, layer)) return true;
    for (int64_t i = 0; i < model->layers; i++) {
        if (!block_is_bad(model, &model->blocks[i], model->last_tokens, &name)) continue;
        *layer = (int)i;
        snprintf(where, where_bytes, "layer %lld, %s", (long long)i, name);
        return true;
    }
    return arena_is_bad(model, model->gradients, "gradient", where, where_bytes, layer);
}
