/* The activations of a model in one arena, and the memory of a rank from sizes alone. */
#include <string.h>

#include "model/private.h"
#include "moire/compute/emulate.h"

/* ---- the arena ---- */

static real *take(struct moire_model *model, int64_t rows, int64_t columns)
{
    return moire_arena_take(&model->activations, rows * columns, sizeof(real));
}

/* What a block keeps is its own; the rest is that of the first block, for the one that is at work. */
static bool keeps_attention(const struct moire_model *model)
{
    return model->training && model->config.train_recompute != MOIRE_RECOMPUTE_LAYER;
}

static bool keeps_feed_forward(const struct moire_model *model)
{
    return model->training && model->config.train_recompute == MOIRE_RECOMPUTE_NONE;
}

static void take_attention(struct moire_model *model, struct moire_block *block, int64_t tokens)
{
    int64_t width = (model->heads + 2 * model->kv_heads) * model->head_dim;
    block->attention_norm_saved = take(model, tokens, 2);
    block->attention_input = take(model, tokens, model->dim);
    block->qkv_rows = take(model, tokens, width);
    block->attention_saved = take(model, tokens, model->heads);
    block->attention_rows = take(model, tokens, model->dim);
    block->middle = take(model, tokens, model->dim);
}

static void share_attention(const struct moire_block *from, struct moire_block *block)
{
    block->attention_norm_saved = from->attention_norm_saved;
    block->attention_input = from->attention_input;
    block->qkv_rows = from->qkv_rows;
    block->attention_saved = from->attention_saved;
    block->attention_rows = from->attention_rows;
    block->middle = from->middle;
}

static void take_dense(struct moire_model *model, struct moire_block *block, int64_t tokens)
{
    block->feed_forward_input = take(model, tokens, model->dim);
    block->gate_rows = block->gate >= 0 ? take(model, tokens, model->hidden_size) : NULL;
    block->up_rows = take(model, tokens, model->hidden_size);
}

static void share_dense(const struct moire_block *from, struct moire_block *block)
{
    block->feed_forward_input = from->feed_forward_input;
    block->gate_rows = from->gate_rows;
    block->up_rows = from->up_rows;
}

static void take_blocks(struct moire_model *model, int64_t tokens)
{
    const struct moire_block *first_dense = NULL;
    for (int64_t layer = 0; layer < model->layers; layer++) {
        struct moire_block *first = &model->blocks[0], *block = &model->blocks[layer];
        block->input = layer == 0 || model->training ? take(model, tokens, model->dim) : first->input;
        if (layer == 0 || keeps_attention(model)) take_attention(model, block, tokens);
        else share_attention(first, block);
        block->feed_forward_norm_saved = layer == 0 || keeps_feed_forward(model)
                                             ? take(model, tokens, 2)
                                             : first->feed_forward_norm_saved;
        if (block->is_moe) {
            block->feed_forward_input = block->moe.inputs.data;
        } else if (keeps_feed_forward(model) || !first_dense) {
            take_dense(model, block, tokens);
            first_dense = block;
        } else {
            share_dense(first_dense, block);
        }
    }
}

/* Everything in the activations arena, in one order for the measuring pass and the real one. */
static void take_activations(struct moire_model *model)
{
    int64_t tokens = model->sequences * model->sequence;
    int64_t width = (model->heads + 2 * model->kv_heads) * model->head_dim;
    struct moire_attention_shape shape = { model->sequences, model->sequence, model->heads, model->kv_heads,
                                           model->head_dim };
    bool any_dense = model->moe_layers < model->layers;
    take_blocks(model, tokens);
    model->output = take(model, tokens, model->dim);
    model->final_saved = take(model, tokens, 2);
    model->final_rows = take(model, tokens, model->dim);
    model->hidden = any_dense ? take(model, tokens, model->hidden_size) : NULL;
    model->scratch = take(model, 1, moire_attention_scratch(&shape));
    moire_head_take(model);
    model->inputs = moire_arena_take(&model->activations, tokens, sizeof(int32_t));
    model->targets = moire_arena_take(&model->activations, tokens, sizeof(int32_t));
    model->losses = moire_arena_take(&model->activations, tokens, sizeof(double));
    if (!model->training) return;
    model->stream_gradient =
        model->moe_layers ? model->feed_forward_gradient.data : take(model, tokens, model->dim);
    model->rows_gradient = take(model, tokens, model->dim);
    model->qkv_gradient = take(model, tokens, width);
    model->hidden_gradient = any_dense ? take(model, tokens, model->hidden_size) : NULL;
}

moire_status moire_model_create_activations(struct moire_model *model)
{
    moire_arena_measure(&model->activations);
    take_activations(model);
    int64_t bytes = model->activations.peak_bytes;
    MOIRE_TRY(moire_arena_create(&model->activations, MOIRE_MEMORY_ACTIVATIONS, bytes));
    take_activations(model);
    if (moire_is_emulated() && bytes > 0) memset(model->activations.base, 0, (size_t)bytes);
    return MOIRE_OK;
}

/* ---- prediction ---- */

/* A model with sizes and blocks, but without memory. The caller frees the table and the blocks. */
static moire_status describe(const struct moire_config *config, const struct moire_memory_case *rank,
                             struct moire_model *model)
{
    memset(model, 0, sizeof *model);
    MOIRE_TRY(moire_model_check(config));
    model->config = *config; /* borrowed: not freed with the model */
    model->sequences = rank->sequences;
    model->training = rank->training;
    moire_model_set_sizes(model);
    return moire_model_create_table(model);
}

static int64_t activation_bytes(struct moire_model *model)
{
    enum { MULTIPLE = 64 }; /* as moire_arena_create rounds */
    moire_arena_measure(&model->activations);
    take_activations(model);
    return (model->activations.peak_bytes + MULTIPLE - 1) / MULTIPLE * MULTIPLE;
}

static moire_status lay_out(const struct moire_memory_case *rank, struct moire_model *model)
{
    int64_t first = 0, count = 0, *experts;
    if (model->moe_layers)
        count = moire_share(model->config.moe_experts, rank->expert.ranks, rank->expert.rank, &first);
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, count, sizeof *experts, &experts));
    for (int64_t i = 0; i < count; i++) experts[i] = first + i;
    moire_status status = moire_tensors_layout(&model->tensors, experts, count);
    moire_release(experts);
    return status;
}

static void add_bytes(const struct moire_memory_case *rank, struct moire_model *model,
                      int64_t bytes[MOIRE_MEMORY_KINDS])
{
    const int64_t tokens = model->sequences * model->sequence;
    const int64_t elements = moire_tensors_elements(&model->tensors);
    bytes[MOIRE_MEMORY_PARAMETERS] += elements * (int64_t)sizeof(real);
    if (rank->training) bytes[MOIRE_MEMORY_GRADIENTS] += elements * (int64_t)sizeof(real);
    bytes[MOIRE_MEMORY_ACTIVATIONS] += activation_bytes(model);
    if (model->moe_layers == 0) return;
    bytes[MOIRE_MEMORY_ACTIVATIONS] += (rank->training ? 2 : 1) * tokens * model->dim * (int64_t)sizeof(real);
    moire_moe_memory(&model->config, &rank->expert, tokens, (int)model->moe_layers, rank->rows, bytes);
}

moire_status moire_model_memory(const struct moire_config *config, const struct moire_memory_case *rank,
                                int64_t bytes[MOIRE_MEMORY_KINDS], int64_t *dense_elements,
                                int64_t *expert_elements)
{
    struct moire_model model;
    moire_status status = describe(config, rank, &model);
    if (status == MOIRE_OK) status = lay_out(rank, &model);
    if (status == MOIRE_OK) {
        add_bytes(rank, &model, bytes);
        *dense_elements = model.tensors.dense_elements;
        *expert_elements = model.tensors.expert_elements;
    }
    moire_release(model.blocks);
    moire_tensors_free(&model.tensors);
    return status;
}
