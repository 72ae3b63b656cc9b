/* What the files of model/ share. */
#ifndef MOIRE_MODEL_PRIVATE_H
#define MOIRE_MODEL_PRIVATE_H

#include "moire/model/model.h"

/* Key/value heads of a configuration (auto: as heads). */
static inline int64_t moire_kv_heads(const struct moire_config *config)
{
    return config->model_kv_heads == MOIRE_AUTO ? config->model_heads : config->model_kv_heads;
}

/* Start of tensor `index` in an arena; NULL for -1. */
static inline real *moire_tensor_data(const struct moire_tensors *tensors, real *arena, int index)
{
    return index < 0 ? NULL : arena + tensors->list[index].offset;
}

/* Adds the tensors of the model to the table and sets the indices of *model and its blocks (both may be
 * NULL). */
moire_status moire_model_add_tensors(const struct moire_config *config, const bool *is_moe,
                                     struct moire_tensors *tensors, struct moire_model *model);

/* The sizes that follow from model->config and model->sequences; then the table, not laid out, and the
 * blocks. */
void moire_model_set_sizes(struct moire_model *model);
moire_status moire_model_create_table(struct moire_model *model);
/* memory.c: everything in model->activations. */
moire_status moire_model_create_activations(struct moire_model *model);

/* next [T, D] = the block's output; block->input holds its input. Collective over the world for a block with
 * experts. */
moire_status moire_block_forward(struct moire_model *model, struct moire_block *block,
                                 const struct moire_micro_batch *batch, real *next);
/* model->stream_gradient [T, D]: gradient of the block's output on entry, of its input on return. */
moire_status moire_block_backward(struct moire_model *model, struct moire_block *block,
                                  const struct moire_micro_batch *batch);

/* head.c: sizes of its pieces from model->sequences, sequence and vocabulary; then their memory out of the
 * activations. */
void moire_head_set_sizes(struct moire_model *model);
void moire_head_take(struct moire_model *model);
/* model->losses [T] of final_rows [T, D] and targets; `backward`: also rows_gradient [T, D], and adds to the
 * gradient of the matrix, both scaled. Not collective. */
void moire_head(struct moire_model *model, int64_t tokens, bool backward, real scale);

/* y [rows, columns] += bias [columns] in every row; bias NULL: nothing. */
void moire_add_bias(int64_t rows, int64_t columns, const real *bias, real *y);
/* hidden [T, F] of a dense feed-forward from block->gate_rows and up_rows. */
void moire_feed_forward_hidden(const struct moire_model *model, int64_t tokens, const real *gate,
                               const real *up, real *hidden);

#endif
