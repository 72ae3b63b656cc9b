/* The training loop. A run: data -> batch -> loss and gradients -> sync -> norm, clip -> update, with
 * evaluation, metrics, checkpoints and the end-of-run tables. Errors come back agreed on. */
#ifndef MOIRE_TRAIN_TRAIN_H
#define MOIRE_TRAIN_TRAIN_H

#include "moire/io/data.h"
#include "moire/io/routing.h"
#include "moire/model/model.h"
#include "moire/train/optimizer.h"

/* Trains as the configuration says, in run.dir. MOIRE_OK: train.steps done. MOIRE_STOPPED: train.stop_after,
 * or SIGTERM or SIGUSR1 on any rank, with a valid checkpoint. MOIRE_NOT_FINITE: step, layer and tensor are
 * named; no update with such gradients is made and the last good checkpoint is kept. MOIRE_USAGE, before
 * anything is written, when ranks differ in configuration or data. MPI runs already. Ranks without sequences
 * and without experts are normal.
 *
 * run.dir holds run.json, checkpoints/, routing.h5 (moe.record) and metrics.jsonl, one object a step:
 *   step                      optimizer steps done
 *   loss                      cross entropy, nats a token, over all tokens of the step
 *   validation_loss           the same over the validation sequences; only where it was measured
 *   learning_rate, grad_norm  as used; the norm is the global one, before clipping
 *   tokens, tokens_per_second of this step
 *   seconds                   of this step, without evaluation, metrics and checkpoint; maximum over ranks
 *   exchange_seconds          in dispatch and combine, forward and backward; maximum over ranks
 *   exchange_exposed_seconds  the part of it that no compute hid; maximum over ranks. Nothing is hidden yet
 *   skew_seconds              in the preparation of exchanges, waiting for the last rank; maximum over ranks
 *   expert_seconds            in the products of experts; maximum over ranks
 *   imbalance                 largest over mean slots of an expert, mean over layers; only with experts
 *   dropped                   slots past capacity, all ranks and layers
 *   bytes_own, bytes_node, bytes_far
 *                             that ranks moved within themselves, within nodes, between nodes; sum over ranks
 *   balance_loss, z_loss      as added to the loss, summed over layers
 *   emulated                  true where compute.mode = emulate (see compute/emulate.h); else it is not there.
 *                             Seconds are then those of the emulated machine; loss is log V and norms are 0.
 *                             There are no checkpoints and no evaluation, and moe.router must be forced
 * Collective over the world. */
moire_status moire_train(const struct moire_config *config);

/* The same steps one by one, for measurements: no checkpoint is read, and none is written but on request. */
struct moire_trainer;
/* The configuration is borrowed. Collective over the world, as are the others. */
moire_status moire_trainer_create(const struct moire_config *config, struct moire_trainer **trainer);
/* From data to update. Loss (nats a token) and bytes that the exchange moved by level, both of all ranks.
 * MOIRE_NOT_FINITE as moire_train. */
moire_status moire_trainer_step(struct moire_trainer *trainer, double *loss, double bytes[MOIRE_LEVELS]);
/* A checkpoint of the steps so far, as moire_train writes one, in `directory`, which keeps no other. */
moire_status moire_trainer_checkpoint(const struct moire_trainer *trainer, const char *directory);
void moire_trainer_free(struct moire_trainer *trainer); /* NULL is fine */

/* Validation loss, total and by domain. The same on all ranks. */
struct moire_evaluation {
    double loss; /* nats a token; NaN where there is no token */
    int64_t tokens;
    int domains;
    double *domain_loss;    /* owned, [domains]; sums divided by tokens, 0 without tokens */
    int64_t *domain_tokens; /* owned, [domains] */
    double *load;           /* owned, [E]: slots by expert, all layers with experts */
    int64_t experts;        /* E; 0 without layers with experts */
    /* working space, owned */
    int64_t capacity;   /* sequences that one call of the model takes from all ranks together */
    int32_t *batch;     /* [model->sequences, S + 1] */
    int *batch_domains; /* [model->sequences] */
    double *sums;       /* [2 domains + E + 1] */
};
/* The model need not be a training one. Where it takes no sequence on rank 0: MOIRE_FAILED, agreed, also for
 * lack of memory. Collective over the world. */
moire_status moire_evaluation_create(const struct moire_data *data, const struct moire_model *model,
                                     struct moire_evaluation *evaluation);
void moire_evaluation_free(struct moire_evaluation *evaluation); /* fine for a zeroed one */
/* Over `sequences` validation sequences (or MOIRE_ALL; never more than there are) that lie evenly in the
 * split, spread evenly over all ranks. Timed as EVALUATION. Collective over the world. */
moire_status moire_evaluate(struct moire_model *model, const struct moire_data *data, int64_t sequences,
                            struct moire_evaluation *evaluation);
/* Loss, perplexity, and the tables of domains (those with most tokens) and experts on standard output, 80
 * columns; rank 0 prints. Not collective. */
void moire_evaluation_print(const struct moire_evaluation *evaluation, const struct moire_data *data);

/* Opens data on all ranks, agrees, and checks that all ranks have the same (checksum). Collective over the
 * world. */
moire_status moire_train_open_data(const struct moire_config *config, const struct moire_mesh *mesh,
                                   struct moire_data **data);
/* Largest number of sequences that this rank brings in a micro-batch of train.batch / train.accumulate. Not
 * collective. */
int64_t moire_train_local_sequences(const struct moire_config *config, const struct moire_mesh *mesh);
/* Bytes of a training rank by kind, at the peak: parameters, gradients, optimizer, activations, exchange; the
 * other kinds are 0. A function of its arguments. Not collective. */
moire_status moire_train_memory(const struct moire_config *config, const struct moire_memory_case *rank,
                                int64_t bytes[MOIRE_MEMORY_KINDS]);
/* The same for even routing, maximum over ranks. Collective over the world. */
moire_status moire_train_memory_even(const struct moire_config *config, const struct moire_mesh *mesh,
                                     int64_t bytes[MOIRE_MEMORY_KINDS]);
/* A table on standard output; measured NULL: only what was predicted. Not collective. */
void moire_train_print_memory(const int64_t predicted[MOIRE_MEMORY_KINDS],
                              const int64_t measured[MOIRE_MEMORY_KINDS]);
/* Reads parameters (and, where optimizer is not NULL, moments) of a checkpoint. Fails as
 * moire_checkpoint_read, and with MOIRE_USAGE where model.heads differs, which no tensor's shape shows.
 * *step: optimizer steps done, *sequences: training sequences seen (both may be NULL). Collective over the
 * world. */
moire_status moire_train_load(const char *path, struct moire_model *model, struct moire_optimizer *optimizer,
                              int64_t *step, int64_t *sequences);
/* Where the model's router replays (moe.router = forced, moe.forced = replay): reads moe.forced_file into
 * *file, which the model borrows and the caller frees after it; else *file stays as it is. MOIRE_BAD_DATA: a
 * recording of a model with other layers, experts or choices a token. Failures are agreed. Collective over
 * the world. */
moire_status moire_train_replay(struct moire_model *model, struct moire_routing_file *file);

#endif
