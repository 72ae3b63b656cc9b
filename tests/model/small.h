/* Small models for the tests of model/: every combination of what a block can be, and random batches. */
#ifndef MOIRE_TESTS_MODEL_SMALL_H
#define MOIRE_TESTS_MODEL_SMALL_H

#include "moire/model/model.h"

enum { SMALL_SEQUENCE = 5, SMALL_SEQUENCES = 5, SMALL_VOCABULARY = 11 };

/* One combination: indices into the tables of small.c. */
struct small {
    int gate;     /* GShard, Switch, Mixtral */
    int kind;     /* swiglu, gelu */
    int norm;     /* rms, layer */
    int position; /* rotary, learned */
    int capacity; /* dropless, 1.0 */
    int rest;     /* biases, tied embeddings, grouped heads, dense layers among the MoE ones, all dense */
};
enum { SMALL_GATES = 3, SMALL_RESTS = 3, SMALL_COMBINATIONS = SMALL_GATES * 2 * 2 * 2 * 2 };

/* Combination number `index`; `rest` goes round with it. */
struct small small_combination(int index);
void small_text(const struct small *small, char *text, size_t bytes);
moire_status small_config(const struct small *small, struct moire_config *config);
/* Makes weights large enough that every part matters: all tensors normal with deviation 0.3 around where they
 * start. */
void small_spread(struct moire_model *model);
/* SMALL_SEQUENCES random sequences, the same on all ranks; tokens [SMALL_SEQUENCES, SMALL_SEQUENCE + 1]. */
void small_tokens(uint64_t seed, int32_t *tokens);
/* This rank's part of them. */
struct moire_batch small_batch(const struct moire_mesh *mesh, const int32_t *tokens);
/* Loss over all ranks: cross-entropy a token, balance and z. Collective. */
moire_status small_loss(struct moire_model *model, const struct moire_batch *batch, double *loss);

#endif
