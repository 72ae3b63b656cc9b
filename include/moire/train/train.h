/* The training loop. A run: data -> batch -> loss and gradients -> sync -> norm, clip -> update, with evaluation, metrics,
 * checkpoints and the end-of-run tables. Every call is collective over the world; errors come back agreed on. */
#ifndef MOIRE_TRAIN_TRAIN_H
#define MOIRE_TRAIN_TRAIN_H

#include "moire/io/data.h"
#include "moire/model/model.h"
#include "moire/train/optimizer.h"

/* Trains as the configuration says, in run.dir. MOIRE_OK: train.steps done. MOIRE_STOPPED: train.stop_after or SIGTERM or SIGUSR1, with a valid checkpoint.
 * MOIRE_NOT_FINITE: step, layer and tensor are named; the last good checkpoint is kept. Fails before anything is written when ranks differ in
 * configuration or data. */
moire_status moire_train(const struct moire_config *config);

/* Validation loss, total and by domain, over `sequences` validation sequences (or MOIRE_ALL), spread over all ranks. The same on all ranks. */
struct moire_evaluation {
    double loss;                 /* nats a token */
    int64_t tokens;
    int domains;
    double *domain_loss;         /* owned, [domains]; sums divided by tokens */
    int64_t *domain_tokens;      /* owned, [domains] */
    double *load;                /* owned, [E]: slots by expert, all layers */
    int64_t experts;
};
moire_status moire_evaluation_create(const struct moire_data *data, const struct moire_model *model, struct moire_evaluation *evaluation);
void moire_evaluation_free(struct moire_evaluation *evaluation);
moire_status moire_evaluate(struct moire_model *model, const struct moire_data *data, int64_t sequences, struct moire_evaluation *evaluation);
/* Loss, perplexity, and the tables of domains and experts on standard output, 80 columns; rank 0 prints. */
void moire_evaluation_print(const struct moire_evaluation *evaluation, const struct moire_data *data);

/* Opens data on all ranks, agrees, and checks that all ranks have the same (checksum). Collective. */
moire_status moire_train_open_data(const struct moire_config *config, const struct moire_mesh *mesh, struct moire_data **data);
/* Largest number of sequences that a rank brings in a micro-batch of train.batch / train.accumulate. Not collective. */
int64_t moire_train_local_sequences(const struct moire_config *config, const struct moire_mesh *mesh);
/* Reads parameters (and, where optimizer is not NULL, moments) of a checkpoint. Collective. */
moire_status moire_train_load(const char *path, struct moire_model *model, struct moire_optimizer *optimizer, int64_t *step, int64_t *sequences);

#endif
