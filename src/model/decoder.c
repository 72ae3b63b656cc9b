/* Generation: one token at a time. Rank 0 holds the sequence; the others only bring their experts. */
#include <string.h>

#include "model/private.h"
#include "moire/compute/linear.h"
#include "moire/compute/norm.h"
#include "moire/compute/vector.h"

static const real *parameter(const struct moire_model *model, int index)
{
    return moire_tensor_data(&model->tensors, model->parameters, index);
}

moire_status moire_decoder_create(struct moire_model *model, struct moire_decoder *decoder)
{
    struct moire_decoder made = { .model = model };
    int64_t kv_width = model->kv_heads * model->head_dim,
            width = (model->heads + 2 * model->kv_heads) * model->head_dim;
    int64_t cache = model->mesh->world.rank == 0 ? model->layers * 2 * model->sequence * kv_width : 0;
    moire_status status = moire_allocate(MOIRE_MEMORY_ACTIVATIONS, cache, sizeof(real), &made.cache);
    if (status == MOIRE_OK)
        status = moire_allocate(MOIRE_MEMORY_ACTIVATIONS, model->dim, sizeof(real), &made.stream);
    if (status == MOIRE_OK)
        status = moire_allocate(MOIRE_MEMORY_ACTIVATIONS, model->dim + 2, sizeof(real), &made.rows);
    if (status == MOIRE_OK) status = moire_allocate(MOIRE_MEMORY_ACTIVATIONS, width, sizeof(real), &made.qkv);
    if (status == MOIRE_OK)
        status = moire_allocate(MOIRE_MEMORY_ACTIVATIONS, model->hidden_size, sizeof(real), &made.hidden);
    if (status == MOIRE_OK)
        status = moire_allocate(MOIRE_MEMORY_ACTIVATIONS, 2 * model->hidden_size, sizeof(real), &made.gate);
    if (status == MOIRE_OK)
        status = moire_allocate(MOIRE_MEMORY_ACTIVATIONS, model->sequence + 2, sizeof(real), &made.scratch);
    if (status == MOIRE_OK)
        status = moire_allocate(MOIRE_MEMORY_ACTIVATIONS, model->vocabulary, sizeof(real), &made.logits);
    status = moire_agree(&model->mesh->world, status);
    if (status == MOIRE_OK)
        *decoder = made;
    else
        moire_decoder_free(&made);
    return status;
}

void moire_decoder_free(struct moire_decoder *decoder)
{
    moire_release(decoder->cache);
    moire_release(decoder->stream);
    moire_release(decoder->rows);
    moire_release(decoder->qkv);
    moire_release(decoder->hidden);
    moire_release(decoder->gate);
    moire_release(decoder->scratch);
    moire_release(decoder->logits);
    memset(decoder, 0, sizeof *decoder);
}

/* y [outputs] += x W^T + bias. */
static void add_product(const struct moire_model *model, int64_t inputs, int64_t outputs, const real *x,
                        int weight, int bias, real *y)
{
    moire_gemm(false, true, 1, outputs, inputs, 1, x, inputs, parameter(model, weight), inputs, 1, y,
               outputs);
    moire_add_bias(1, outputs, parameter(model, bias), y);
}

static void norm(const struct moire_decoder *decoder, int weight, int bias, real *y)
{
    const struct moire_model *model = decoder->model;
    moire_norm_forward(1, model->dim, model->config.model_norm_epsilon, decoder->stream,
                       parameter(model, weight), parameter(model, bias), y, decoder->scratch);
}

static void attention(struct moire_decoder *decoder, const struct moire_block *block)
{
    const struct moire_model *model = decoder->model;
    struct moire_attention_shape shape = { 1, 1, model->heads, model->kv_heads, model->head_dim };
    int64_t q_width = model->dim, kv_width = model->kv_heads * model->head_dim;
    real *keys = decoder->cache + 2 * block->layer * model->sequence * kv_width,
         *values = keys + model->sequence * kv_width;
    size_t bytes = sizeof(real) * (size_t)kv_width;
    norm(decoder, block->attention_norm, block->attention_norm_bias, decoder->rows);
    moire_linear_forward(1, model->dim, q_width + 2 * kv_width, decoder->rows, parameter(model, block->qkv),
                         parameter(model, block->qkv_bias), decoder->qkv);
    if (model->positions < 0)
        moire_rotary(&shape, model->config.model_rope_theta, decoder->position, false, decoder->qkv);
    memcpy(keys + decoder->position * kv_width, decoder->qkv + q_width, bytes);
    memcpy(values + decoder->position * kv_width, decoder->qkv + q_width + kv_width, bytes);
    moire_attention_step(&shape, decoder->position + 1, decoder->qkv, keys, values, decoder->rows,
                         decoder->scratch);
    add_product(model, model->dim, model->dim, decoder->rows, block->attention_output,
                block->attention_output_bias, decoder->stream);
}

static void dense(struct moire_decoder *decoder, const struct moire_block *block)
{
    const struct moire_model *model = decoder->model;
    int64_t dim = model->dim, hidden_size = model->hidden_size;
    real *gate = block->gate >= 0 ? decoder->gate : NULL, *up = decoder->gate + hidden_size;
    norm(decoder, block->feed_forward_norm, block->feed_forward_norm_bias, decoder->rows);
    if (gate)
        moire_linear_forward(1, dim, hidden_size, decoder->rows, parameter(model, block->gate),
                             parameter(model, block->gate_bias), gate);
    moire_linear_forward(1, dim, hidden_size, decoder->rows, parameter(model, block->up),
                         parameter(model, block->up_bias), up);
    moire_feed_forward_hidden(model, 1, gate, up, decoder->hidden);
    add_product(model, hidden_size, dim, decoder->hidden, block->down, block->down_bias, decoder->stream);
}

/* Collective: ranks other than 0 bring no token but may compute for it. */
static moire_status experts(struct moire_decoder *decoder, struct moire_block *block)
{
    struct moire_model *model = decoder->model;
    bool holds = model->mesh->world.rank == 0;
    struct moire_micro_batch batch = {
        .tokens = holds,
        .first_token = !holds,
        .global_tokens = 1,
        .step = decoder->position,
        .share = 1,
        .training = false,
    };
    if (holds) norm(decoder, block->feed_forward_norm, block->feed_forward_norm_bias, block->moe.inputs.data);
    MOIRE_TRY(moire_moe_forward(&block->moe, &model->tensors, model->parameters, &batch,
                                &model->feed_forward_output));
    if (holds) moire_add(model->dim, model->feed_forward_output.data, decoder->stream);
    return MOIRE_OK;
}

moire_status moire_decoder_step(struct moire_decoder *decoder, int32_t token)
{
    struct moire_model *model = decoder->model;
    bool holds = model->mesh->world.rank == 0;
    if (decoder->position >= model->sequence)
        return moire_fail(
            MOIRE_FAILED,
            "the decoder is full; found position %lld, expected less than model.sequence = %lld; "
            "try a shorter text",
            (long long)decoder->position, (long long)model->sequence);
    if (holds)
        moire_embedding_forward(1, model->sequence, model->dim, &token, parameter(model, model->embedding),
                                parameter(model, model->positions), decoder->position, decoder->stream);
    for (int64_t layer = 0; layer < model->layers; layer++) {
        struct moire_block *block = &model->blocks[layer];
        if (holds) attention(decoder, block);
        if (block->is_moe)
            MOIRE_TRY(experts(decoder, block));
        else if (holds)
            dense(decoder, block);
    }
    if (holds) {
        norm(decoder, model->final_norm, model->final_norm_bias, decoder->rows);
        moire_linear_forward(1, model->dim, model->vocabulary, decoder->rows, parameter(model, model->head),
                             NULL, decoder->logits);
    }
    decoder->position++;
    return MOIRE_OK;
}
