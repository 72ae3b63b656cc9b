/* The language model: token embedding, L blocks (norm, causal attention, norm, dense or MoE feed-forward,
 * residuals), final norm, projection, softmax cross-entropy. Forward beside backward. The GPT-2 and the
 * Mixtral shapes are configurations of it.
 *
 * Legend: B sequences here, S sequence length, T = B S tokens here, D dim, V vocabulary, H query heads, G
 * key/value heads, A = D / H, F hidden size, E experts, K slots a token, L layers. */
#ifndef MOIRE_MODEL_MODEL_H
#define MOIRE_MODEL_MODEL_H

#include "moire/base/arena.h"
#include "moire/base/tensors.h"
#include "moire/compute/attention.h"
#include "moire/compute/vector.h"
#include "moire/moe/layer.h"

/* Where the tensors of a block are in the table; -1: it has no such tensor. */
struct moire_block {
    int layer;
    bool is_moe;
    int attention_norm, attention_norm_bias;
    int qkv, qkv_bias, attention_output, attention_output_bias;
    int feed_forward_norm, feed_forward_norm_bias;
    int gate, gate_bias, up, up_bias, down, down_bias; /* dense feed-forward */
    struct moire_moe_layer moe;                        /* feed-forward with experts */
    /* kept from forward to backward, each block its own; with train.recompute one for all, see memory.c */
    real *input;                /* [T, D] residual stream that enters */
    real *attention_norm_saved; /* [T, 2] */
    real *attention_input;      /* [T, D] after the norm */
    real *qkv_rows;             /* [T, (H + 2 G) A] */
    real *attention_saved;      /* [T, H] */
    real *attention_rows;       /* [T, H A] */
    real *middle;               /* [T, D] residual stream after attention */
    real *feed_forward_norm_saved;
    real *feed_forward_input;  /* [T, D]; of a MoE block: moe.inputs */
    real *gate_rows, *up_rows; /* [T, F] before activation */
};

struct moire_model {
    struct moire_config config;    /* a copy */
    const struct moire_mesh *mesh; /* borrowed */
    int64_t layers, dim, heads, kv_heads, head_dim, hidden_size, sequence, vocabulary;
    bool training;     /* gradients and kept activations exist */
    int64_t sequences; /* most sequences that this rank brings */
    struct moire_tensors tensors;
    int embedding, positions, final_norm, final_norm_bias, head; /* head: the embedding when tied */
    real *parameters, *gradients;                                /* arenas, owned; layout of `tensors` */
    struct moire_block *blocks;                                  /* [L], owned */
    int64_t moe_layers;
    struct moire_moe moe;
    struct moire_arena activations;          /* everything below and in the blocks */
    real *output, *final_saved, *final_rows; /* [T, D], [T, 2], [T, D] */
    real *stream_gradient, *rows_gradient, *qkv_gradient, *hidden, *hidden_gradient, *scratch; /* shared */
    /* [T, D], of the exchange; with MoE layers only. The rows of the second are the stream gradient, so that it
     * is dispatched from where it lies. */
    struct moire_rows feed_forward_output, feed_forward_gradient;
    /* Of the head, which goes through the rows in chunks and through the vocabulary in pieces: */
    int64_t head_rows, head_columns;
    bool head_recomputes; /* even few rows of logits are too much to keep until the gradient */
    real *logits;         /* kept: [head_rows, V], else [head_rows, head_columns] */
    real *piece_maxima;   /* kept: [pieces, head_rows], else [head_rows] */
    struct moire_softmax *head_softmax; /* [head_rows] */
    int32_t *inputs, *targets;          /* [T] */
    double *losses;                     /* [T] of the last forward */
    int64_t last_tokens;                /* T of the last forward */
};

/* Checks and the tensor table alone; needs no memory for the model. Not collective. The caller frees
 * *tensors. */
moire_status moire_model_check(const struct moire_config *config);
moire_status moire_model_describe(const struct moire_config *config, struct moire_tensors *tensors);
struct moire_model_counts {
    int64_t parameters, active_parameters; /* active: met by one token */
    int64_t expert_parameters;             /* of all experts */
    int64_t matrix_parameters; /* active, in matrix products: without embedding look-up, positions, norms and
                                  biases */
    double training_flops_per_token; /* 6 a matrix parameter + 12 L D S / 2 (causal attention) */
};
moire_status moire_model_count(const struct moire_config *config, struct moire_model_counts *counts);

/* A rank, and the routing that it meets. */
struct moire_memory_case {
    int ranks, rank;               /* world */
    struct moire_moe_place expert; /* expert group */
    int64_t sequences;             /* most in a micro-batch */
    bool training;
    const struct moire_plan_rows *rows; /* [MoE layers] */
};
/* Adds to bytes[] of kinds PARAMETERS, GRADIENTS, ACTIVATIONS and EXCHANGE what the model comes to hold on
 * that rank, and gives the sizes of the two runs of its table. A function of its arguments; needs next to no
 * memory. Not collective. */
moire_status moire_model_memory(const struct moire_config *config, const struct moire_memory_case *rank,
                                int64_t bytes[MOIRE_MEMORY_KINDS], int64_t *dense_elements,
                                int64_t *expert_elements);

/* `sequences`: most that this rank brings in a micro-batch (0 is fine). Parameters are initialised from
 * run.seed. Errors are agreed. Collective over mesh->world, as is the free. */
moire_status moire_model_create(const struct moire_config *config, const struct moire_mesh *mesh,
                                int64_t sequences, bool training, struct moire_model *model);
void moire_model_free(struct moire_model *model);

/* A micro-batch: this rank's sequences, consecutive in the micro-batch, in rank order. */
struct moire_batch {
    int64_t sequences;        /* B, may be 0 */
    int64_t first_sequence;   /* number of the first one in the micro-batch */
    int64_t global_sequences; /* of the micro-batch, all ranks */
    int64_t step_sequences;   /* of the whole step: losses are divided by its tokens */
    const int32_t *tokens;    /* [B, S + 1] */
    int64_t step, part;       /* optimizer step, number of the micro-batch in it */
};
struct moire_losses {
    double cross_entropy; /* sum over this rank's tokens, not divided */
    double balance, z; /* of all ranks, over the layers, multiplied by the micro-batch's share of the step */
    double dropped;    /* slots, all ranks, all layers */
};
/* Forward. With `backward` (a training model only) the gradient of
 *   (sum of token losses) / (tokens of the step) + balance + z
 * is added to model->gradients, not yet summed over ranks. model->losses [T] has each token's loss.
 * Collective over the world. */
moire_status moire_model_loss(struct moire_model *model, const struct moire_batch *batch, bool backward,
                              struct moire_losses *losses);

/* Logits of the rows of the last forward are not kept. For tests: sets every MoE layer's choice frozen or
 * not. */
void moire_model_freeze(struct moire_model *model, bool frozen);
/* Where the first number that is not finite stands after a forward (and backward) of this rank: "layer 3,
 * attention output", or a parameter's or gradient's tensor by name; false: none. Not collective. */
bool moire_model_find_not_finite(const struct moire_model *model, char *where, size_t where_bytes,
                                 int *layer);
/* Slots that each expert got in the last micro-batch, all ranks, all MoE layers: load [moe_layers, E]. Not
 * collective. */
void moire_model_load(const struct moire_model *model, double *load);

/* Generation: one token at a time against a cache of keys and values, kept on rank 0. All ranks take part,
 * because the experts are spread; ranks other than 0 bring no token. */
struct moire_decoder {
    struct moire_model *model;                           /* borrowed; not training; made for one sequence */
    int64_t position;                                    /* tokens so far; sequence at most */
    real *cache;                                         /* [L, 2, S, G A] on rank 0 */
    real *stream, *rows, *qkv, *hidden, *gate, *scratch; /* one row each */
    real *logits;                                        /* [V] of the last token, rank 0 */
};
moire_status moire_decoder_create(struct moire_model *model, struct moire_decoder *decoder);
void moire_decoder_free(struct moire_decoder *decoder);
/* Takes one token (read on rank 0) and fills decoder->logits there. When position reaches S, MOIRE_FAILED.
 * Collective. */
moire_status moire_decoder_step(struct moire_decoder *decoder, int32_t token);

#endif
