/* What a configuration means: checks, the table of tensors, and counts. Needs no memory for the model itself.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/private.h"

enum { NO_LAYER = -1, INITIAL_SCALE_DENOMINATOR = 50 }; /* deviation 1/50, as in GPT-2 */

struct table {
    const struct moire_config *config;
    struct moire_tensors *tensors;
    int layer;
};

/* Adds one replicated tensor; columns 0: a vector. The index goes to *index where that is not NULL. */
static moire_status add(const struct table *table, const char *name, int64_t rows, int64_t columns,
                        moire_initialiser initialiser, double deviation, int *index)
{
    struct moire_tensor tensor = {
        .dimensions = columns ? 2 : 1,
        .shape = { rows, columns ? columns : 1, 1 },
        .sharding = MOIRE_REPLICATED,
        .initialiser = initialiser,
        .deviation = deviation,
        .decay = columns != 0,
        .layer = table->layer,
    };
    int unused;
    if (table->layer >= 0)
        snprintf(tensor.name, sizeof tensor.name, "layers.%d.%s", table->layer, name);
    else
        snprintf(tensor.name, sizeof tensor.name, "%s", name);
    return moire_tensors_add(table->tensors, &tensor, index ? index : &unused);
}

static moire_status add_matrix(const struct table *table, const char *name, int64_t rows, int64_t columns,
                               double deviation, int *index)
{
    return add(table, name, rows, columns, MOIRE_INIT_NORMAL, deviation, index);
}

static moire_status add_bias(const struct table *table, const char *name, int64_t elements, bool wanted,
                             int *index)
{
    return wanted ? add(table, name, elements, 0, MOIRE_INIT_ZERO, 0, index) : MOIRE_OK;
}

static moire_status add_norm(const struct table *table, const char *name, int *weight, int *bias)
{
    char full[MOIRE_TENSOR_NAME];
    int64_t dim = table->config->model_dim;
    snprintf(full, sizeof full, "%s.weight", name);
    MOIRE_TRY(add(table, full, dim, 0, MOIRE_INIT_ONE, 0, weight));
    snprintf(full, sizeof full, "%s.bias", name);
    return add_bias(table, full, dim, table->config->model_norm == MOIRE_NORM_LAYER, bias);
}

static double residual_deviation(const struct moire_config *config)
{
    return 1.0 / INITIAL_SCALE_DENOMINATOR / sqrt(2.0 * (double)config->model_layers);
}

static moire_status add_dense(const struct table *table, struct moire_block *block)
{
    const struct moire_config *config = table->config;
    int64_t dim = config->model_dim, hidden = config->model_ffn_hidden;
    double deviation = 1.0 / INITIAL_SCALE_DENOMINATOR;
    bool bias = config->model_bias;
    if (config->model_feed_forward == MOIRE_SWIGLU) {
        MOIRE_TRY(add_matrix(table, "feed_forward.gate.weight", hidden, dim, deviation, &block->gate));
        MOIRE_TRY(add_bias(table, "feed_forward.gate.bias", hidden, bias, &block->gate_bias));
    }
    MOIRE_TRY(add_matrix(table, "feed_forward.up.weight", hidden, dim, deviation, &block->up));
    MOIRE_TRY(add_bias(table, "feed_forward.up.bias", hidden, bias, &block->up_bias));
    MOIRE_TRY(
        add_matrix(table, "feed_forward.down.weight", dim, hidden, residual_deviation(config), &block->down));
    return add_bias(table, "feed_forward.down.bias", dim, bias, &block->down_bias);
}

static void clear_block(struct moire_block *block, int layer, bool is_moe)
{
    memset(block, 0, sizeof *block);
    block->layer = layer;
    block->is_moe = is_moe;
    block->attention_norm_bias = block->qkv_bias = block->attention_output_bias =
        block->feed_forward_norm_bias = -1;
    block->gate = block->gate_bias = block->up = block->up_bias = block->down = block->down_bias = -1;
}

static moire_status add_block(const struct table *table, struct moire_block *block)
{
    const struct moire_config *config = table->config;
    int64_t dim = config->model_dim, head_dim = dim / config->model_heads;
    int64_t qkv_width = (config->model_heads + 2 * moire_kv_heads(config)) * head_dim;
    MOIRE_TRY(add_norm(table, "attention_norm", &block->attention_norm, &block->attention_norm_bias));
    MOIRE_TRY(add_matrix(table, "attention.qkv.weight", qkv_width, dim, 1.0 / INITIAL_SCALE_DENOMINATOR,
                         &block->qkv));
    MOIRE_TRY(add_bias(table, "attention.qkv.bias", qkv_width, config->model_bias, &block->qkv_bias));
    MOIRE_TRY(add_matrix(table, "attention.output.weight", dim, dim, residual_deviation(config),
                         &block->attention_output));
    MOIRE_TRY(
        add_bias(table, "attention.output.bias", dim, config->model_bias, &block->attention_output_bias));
    MOIRE_TRY(
        add_norm(table, "feed_forward_norm", &block->feed_forward_norm, &block->feed_forward_norm_bias));
    if (!block->is_moe) return add_dense(table, block);
    return moire_moe_describe(config, block->layer, table->tensors, &block->moe);
}

moire_status moire_model_add_tensors(const struct moire_config *config, const bool *is_moe,
                                     struct moire_tensors *tensors, struct moire_model *model)
{
    struct table table = { config, tensors, NO_LAYER };
    struct moire_model unused_model = { 0 };
    struct moire_block unused_block;
    if (!model) model = &unused_model;
    double deviation = 1.0 / INITIAL_SCALE_DENOMINATOR;
    model->positions = model->final_norm_bias = -1;
    model->moe_layers = 0;
    MOIRE_TRY(add_matrix(&table, "embedding", config->model_vocabulary, config->model_dim, deviation,
                         &model->embedding));
    if (config->model_position == MOIRE_POSITION_LEARNED)
        MOIRE_TRY(add_matrix(&table, "positions", config->model_sequence, config->model_dim, deviation / 2,
                             &model->positions));
    for (int layer = 0; layer < config->model_layers; layer++) {
        struct moire_block *block = model->blocks ? &model->blocks[layer] : &unused_block;
        clear_block(block, layer, is_moe[layer]);
        block->moe.layer = layer;
        block->moe.moe_layer = (int)model->moe_layers;
        model->moe_layers += is_moe[layer];
        table.layer = layer;
        MOIRE_TRY(add_block(&table, block));
    }
    table.layer = NO_LAYER;
    MOIRE_TRY(add_norm(&table, "final_norm", &model->final_norm, &model->final_norm_bias));
    model->head = model->embedding;
    if (!config->model_tie_embeddings)
        MOIRE_TRY(
            add_matrix(&table, "head", config->model_vocabulary, config->model_dim, deviation, &model->head));
    return MOIRE_OK;
}

moire_status moire_model_check(const struct moire_config *config)
{
    int64_t dim = config->model_dim, heads = config->model_heads, kv_heads = moire_kv_heads(config);
    if (dim % heads != 0)
        return moire_fail(
            MOIRE_USAGE,
            "model.heads must divide model.dim; found %lld heads and dim %lld; try another number of heads",
            (long long)heads, (long long)dim);
    if (heads % kv_heads != 0)
        return moire_fail(
            MOIRE_USAGE,
            "model.kv_heads must divide model.heads; found %lld and %lld; try model.kv_heads = auto",
            (long long)kv_heads, (long long)heads);
    if (config->model_position == MOIRE_POSITION_ROTARY && (dim / heads) % 2 != 0)
        return moire_fail(
            MOIRE_USAGE,
            "rotary positions need an even head width; found dim / heads = %lld; try another number of heads",
            (long long)(dim / heads));
    bool *is_moe;
    bool any = false;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, config->model_layers, sizeof *is_moe, &is_moe));
    moire_status status = moire_config_moe_layers(config, is_moe);
    for (int64_t layer = 0; status == MOIRE_OK && layer < config->model_layers; layer++)
        any = any || is_moe[layer];
    moire_release(is_moe);
    if (status == MOIRE_OK && any) status = moire_moe_check(config);
    return status;
}

moire_status moire_model_describe(const struct moire_config *config, struct moire_tensors *tensors)
{
    MOIRE_TRY(moire_model_check(config));
    bool *is_moe;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, config->model_layers, sizeof *is_moe, &is_moe));
    moire_status status = moire_config_moe_layers(config, is_moe);
    struct moire_tensors table;
    if (status != MOIRE_OK) goto release_layers;
    if ((status = moire_tensors_create(&table)) != MOIRE_OK) goto release_layers;
    status = moire_model_add_tensors(config, is_moe, &table, NULL);
    if (status == MOIRE_OK)
        *tensors = table;
    else
        moire_tensors_free(&table);
release_layers:
    moire_release(is_moe);
    return status;
}

/* Elements of a tensor that one token meets in a matrix product. */
static int64_t matrix_elements(const struct moire_config *config, const struct moire_tensor *tensor)
{
    if (tensor->sharding == MOIRE_BY_EXPERT) return config->moe_top_k * moire_tensor_expert_elements(tensor);
    if (tensor->dimensions < 2 || strcmp(tensor->name, "positions") == 0) return 0;
    if (strcmp(tensor->name, "embedding") == 0 && !config->model_tie_embeddings) return 0; /* a look-up */
    return moire_tensor_global_elements(tensor);
}

moire_status moire_model_count(const struct moire_config *config, struct moire_model_counts *counts)
{
    struct moire_tensors tensors;
    struct moire_model_counts sum = { 0 };
    MOIRE_TRY(moire_model_describe(config, &tensors));
    for (int i = 0; i < tensors.count; i++) {
        const struct moire_tensor *tensor = &tensors.list[i];
        int64_t elements = moire_tensor_global_elements(tensor);
        bool by_expert = tensor->sharding == MOIRE_BY_EXPERT;
        sum.parameters += elements;
        sum.expert_parameters += by_expert ? elements : 0;
        sum.active_parameters +=
            by_expert ? config->moe_top_k * moire_tensor_expert_elements(tensor) : elements;
        sum.matrix_parameters += matrix_elements(config, tensor);
    }
    moire_tensors_free(&tensors);
    sum.training_flops_per_token =
        6.0 * (double)sum.matrix_parameters +
        12.0 * (double)config->model_layers * (double)config->model_dim * (double)config->model_sequence / 2;
    *counts = sum;
    return MOIRE_OK;
}
