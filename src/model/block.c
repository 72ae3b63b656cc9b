/* One block: x + attention(norm(x)), then y + feed_forward(norm(y)). Forward beside backward. */
#include <string.h>

#include "model/private.h"
#include "moire/compute/activation.h"
#include "moire/compute/emulate.h"
#include "moire/compute/linear.h"
#include "moire/compute/norm.h"
#include "moire/compute/vector.h"
#include "moire/observe/phases.h"

static const real *parameter(const struct moire_model *model, int index)
{
    return moire_tensor_data(&model->tensors, model->parameters, index);
}

static real *gradient(const struct moire_model *model, int index)
{
    return moire_tensor_data(&model->tensors, model->gradients, index);
}

void moire_add_bias(int64_t rows, int64_t columns, const real *bias, real *y)
{
    if (!bias || moire_is_emulated()) return;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++) y[row * columns + column] += bias[column];
}

/* sum [rows, outputs] = residual + x W^T + bias: the product lands on a copy of the residual. */
static void linear_onto(int64_t rows, int64_t inputs, int64_t outputs, const real *x, const real *weight,
                        const real *bias, const real *residual, real *sum)
{
    memcpy(sum, residual, sizeof(real) * (size_t)(rows * outputs));
    moire_gemm(false, true, rows, outputs, inputs, 1, x, inputs, weight, inputs, 1, sum, outputs);
    moire_add_bias(rows, outputs, bias, sum);
}

static struct moire_attention_shape attention_shape(const struct moire_model *model, int64_t tokens)
{
    return (struct moire_attention_shape) { tokens / model->sequence, model->sequence, model->heads,
                                            model->kv_heads, model->head_dim };
}

static int64_t qkv_width(const struct moire_model *model)
{
    return (model->heads + 2 * model->kv_heads) * model->head_dim;
}

/* ---- attention ---- */

static void attention_forward(struct moire_model *model, struct moire_block *block, int64_t tokens)
{
    struct moire_attention_shape shape = attention_shape(model, tokens);
    moire_phase_begin(MOIRE_PHASE_NORM);
    moire_norm_forward(tokens, model->dim, model->config.model_norm_epsilon, block->input,
                       parameter(model, block->attention_norm), parameter(model, block->attention_norm_bias),
                       block->attention_input, block->attention_norm_saved);
    moire_phase_end(MOIRE_PHASE_NORM);
    moire_phase_begin(MOIRE_PHASE_ATTENTION);
    moire_linear_forward(tokens, model->dim, qkv_width(model), block->attention_input,
                         parameter(model, block->qkv), parameter(model, block->qkv_bias), block->qkv_rows);
    if (model->positions < 0) moire_rotary(&shape, model->config.model_rope_theta, 0, false, block->qkv_rows);
    moire_attention_forward(&shape, block->qkv_rows, block->attention_rows, block->attention_saved,
                            model->scratch);
    linear_onto(tokens, model->dim, model->dim, block->attention_rows,
                parameter(model, block->attention_output), parameter(model, block->attention_output_bias),
                block->input, block->middle);
    moire_phase_end(MOIRE_PHASE_ATTENTION);
}

static void attention_backward(struct moire_model *model, struct moire_block *block, int64_t tokens)
{
    struct moire_attention_shape shape = attention_shape(model, tokens);
    int64_t dim = model->dim, width = qkv_width(model);
    moire_phase_begin(MOIRE_PHASE_ATTENTION);
    moire_linear_backward_weight(tokens, dim, dim, block->attention_rows, model->stream_gradient,
                                 gradient(model, block->attention_output),
                                 gradient(model, block->attention_output_bias));
    moire_linear_backward_input(tokens, dim, dim, model->stream_gradient,
                                parameter(model, block->attention_output), false, model->rows_gradient);
    moire_attention_backward(&shape, block->qkv_rows, block->attention_rows, block->attention_saved,
                             model->rows_gradient, model->qkv_gradient, model->scratch);
    if (model->positions < 0)
        moire_rotary(&shape, model->config.model_rope_theta, 0, true, model->qkv_gradient);
    moire_linear_backward_weight(tokens, dim, width, block->attention_input, model->qkv_gradient,
                                 gradient(model, block->qkv), gradient(model, block->qkv_bias));
    moire_linear_backward_input(tokens, dim, width, model->qkv_gradient, parameter(model, block->qkv), false,
                                model->rows_gradient);
    moire_phase_end(MOIRE_PHASE_ATTENTION);
    moire_phase_begin(MOIRE_PHASE_NORM);
    moire_norm_backward(tokens, dim, block->input, parameter(model, block->attention_norm),
                        block->attention_norm_saved, model->rows_gradient, model->stream_gradient,
                        gradient(model, block->attention_norm), gradient(model, block->attention_norm_bias));
    moire_phase_end(MOIRE_PHASE_NORM);
}

/* ---- dense feed-forward ---- */

void moire_feed_forward_hidden(const struct moire_model *model, int64_t tokens, const real *gate,
                               const real *up, real *hidden)
{
    if (gate)
        moire_swiglu_forward(tokens, model->hidden_size, gate, up, NULL, hidden);
    else
        moire_gelu_forward(tokens, model->hidden_size, up, NULL, hidden);
}

/* gate_rows and up_rows. */
static void dense_rows(struct moire_model *model, struct moire_block *block, int64_t tokens)
{
    int64_t dim = model->dim, hidden_size = model->hidden_size;
    if (block->gate >= 0)
        moire_linear_forward(tokens, dim, hidden_size, block->feed_forward_input,
                             parameter(model, block->gate), parameter(model, block->gate_bias),
                             block->gate_rows);
    moire_linear_forward(tokens, dim, hidden_size, block->feed_forward_input, parameter(model, block->up),
                         parameter(model, block->up_bias), block->up_rows);
}

static void dense_forward(struct moire_model *model, struct moire_block *block, int64_t tokens, real *next)
{
    dense_rows(model, block, tokens);
    moire_feed_forward_hidden(model, tokens, block->gate_rows, block->up_rows, model->hidden);
    linear_onto(tokens, model->hidden_size, model->dim, model->hidden, parameter(model, block->down),
                parameter(model, block->down_bias), block->middle, next);
}

/* rows_gradient [T, D] = gradient of the feed-forward's input. */
static void dense_backward(struct moire_model *model, struct moire_block *block, int64_t tokens)
{
    int64_t dim = model->dim, hidden_size = model->hidden_size;
    moire_linear_backward_input(tokens, hidden_size, dim, model->stream_gradient,
                                parameter(model, block->down), false, model->hidden_gradient);
    /* hidden_gradient becomes the gradient of up_rows, and gate_rows their own. */
    if (block->gate >= 0)
        moire_swiglu_backward(tokens, hidden_size, block->gate_rows, block->up_rows, NULL,
                              model->hidden_gradient, block->gate_rows, model->hidden_gradient, model->hidden,
                              NULL);
    else
        moire_gelu_backward(tokens, hidden_size, block->up_rows, NULL, model->hidden_gradient,
                            model->hidden_gradient, model->hidden, NULL);
    moire_linear_backward_weight(tokens, hidden_size, dim, model->hidden, model->stream_gradient,
                                 gradient(model, block->down), gradient(model, block->down_bias));
    if (block->gate >= 0) {
        moire_linear_backward_weight(tokens, dim, hidden_size, block->feed_forward_input, block->gate_rows,
                                     gradient(model, block->gate), gradient(model, block->gate_bias));
        moire_linear_backward_input(tokens, dim, hidden_size, block->gate_rows, parameter(model, block->gate),
                                    false, model->rows_gradient);
    }
    moire_linear_backward_weight(tokens, dim, hidden_size, block->feed_forward_input, model->hidden_gradient,
                                 gradient(model, block->up), gradient(model, block->up_bias));
    moire_linear_backward_input(tokens, dim, hidden_size, model->hidden_gradient, parameter(model, block->up),
                                block->gate >= 0, model->rows_gradient);
}

/* ---- the block ---- */

static moire_status experts_forward(struct moire_model *model, struct moire_block *block,
                                    const struct moire_micro_batch *batch, real *next)
{
    int64_t count = batch->tokens * model->dim;
    MOIRE_TRY(moire_moe_forward(&block->moe, &model->tensors, model->parameters, batch,
                                &model->feed_forward_output));
    memcpy(next, block->middle, sizeof(real) * (size_t)count);
    moire_add(count, model->feed_forward_output.data, next);
    return MOIRE_OK;
}

static void feed_forward_norm(struct moire_model *model, struct moire_block *block, int64_t tokens)
{
    moire_phase_begin(MOIRE_PHASE_NORM);
    moire_norm_forward(tokens, model->dim, model->config.model_norm_epsilon, block->middle,
                       parameter(model, block->feed_forward_norm),
                       parameter(model, block->feed_forward_norm_bias), block->feed_forward_input,
                       block->feed_forward_norm_saved);
    moire_phase_end(MOIRE_PHASE_NORM);
}

moire_status moire_block_forward(struct moire_model *model, struct moire_block *block,
                                 const struct moire_micro_batch *batch, real *next)
{
    moire_status status = MOIRE_OK;
    moire_where.layer = block->layer;
    attention_forward(model, block, batch->tokens);
    feed_forward_norm(model, block, batch->tokens);
    moire_phase_begin(MOIRE_PHASE_FEED_FORWARD);
    if (block->is_moe)
        status = experts_forward(model, block, batch, next);
    else
        dense_forward(model, block, batch->tokens, next);
    if (status == MOIRE_OK) moire_phase_end(MOIRE_PHASE_FEED_FORWARD);
    return status;
}

/* What the block did not keep: the same calls with the same operands, and so the same bits. */
static moire_status forward_again(struct moire_model *model, struct moire_block *block, int64_t tokens)
{
    if (model->config.train_recompute == MOIRE_RECOMPUTE_NONE) return MOIRE_OK;
    if (model->config.train_recompute == MOIRE_RECOMPUTE_LAYER) attention_forward(model, block, tokens);
    feed_forward_norm(model, block, tokens);
    moire_phase_begin(MOIRE_PHASE_FEED_FORWARD);
    if (block->is_moe)
        MOIRE_TRY(moire_moe_forward_again(&block->moe, &model->tensors, model->parameters));
    else
        dense_rows(model, block, tokens);
    moire_phase_end(MOIRE_PHASE_FEED_FORWARD);
    return MOIRE_OK;
}

moire_status moire_block_backward(struct moire_model *model, struct moire_block *block,
                                  const struct moire_micro_batch *batch)
{
    moire_where.layer = block->layer;
    MOIRE_TRY(forward_again(model, block, batch->tokens));
    moire_phase_begin(MOIRE_PHASE_FEED_FORWARD);
    if (block->is_moe) {
        moire_fill(batch->tokens * model->dim, 0, model->rows_gradient);
        MOIRE_TRY(moire_moe_backward(&block->moe, &model->tensors, model->parameters, model->gradients, batch,
                                     &model->feed_forward_gradient, model->rows_gradient));
    } else {
        dense_backward(model, block, batch->tokens);
    }
    moire_phase_end(MOIRE_PHASE_FEED_FORWARD);
    moire_phase_begin(MOIRE_PHASE_NORM);
    moire_norm_backward(batch->tokens, model->dim, block->middle, parameter(model, block->feed_forward_norm),
                        block->feed_forward_norm_saved, model->rows_gradient, model->stream_gradient,
                        gradient(model, block->feed_forward_norm),
                        gradient(model, block->feed_forward_norm_bias));
    moire_phase_end(MOIRE_PHASE_NORM);
    attention_backward(model, block, batch->tokens);
    return MOIRE_OK;
}
