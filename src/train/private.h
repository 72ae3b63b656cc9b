/* What the files of train/ share: a run and its parts. */
#ifndef TRAIN_PRIVATE_H
#define TRAIN_PRIVATE_H

#include "moire/io/manifest.h"
#include "moire/observe/clock.h"
#include "moire/observe/metrics.h"
#include "moire/train/train.h"

/* ---- batch.c: this rank's sequences of one step ---- */

struct moire_step_tokens {
    int64_t length;  /* S + 1 */
    int32_t *tokens; /* owned, [sequences of this rank in a step, S + 1]: its micro-batches in turn */
};
/* Not collective. */
moire_status moire_step_tokens_create(const struct moire_config *config, const struct moire_mesh *mesh,
                                      struct moire_step_tokens *tokens);
void moire_step_tokens_free(struct moire_step_tokens *tokens);
/* Sequence i of the step is number `first` + i of the run. Where a fetch fails, zeros stand in for tokens, so
 * that the rank can go on to where the ranks agree. Not collective. */
moire_status moire_step_tokens_fetch(const struct moire_config *config, const struct moire_mesh *mesh,
                                     const struct moire_data *data, int64_t first,
                                     struct moire_step_tokens *tokens);
/* This rank's part of micro-batch `part`. `step` counts from 0. */
struct moire_batch moire_step_tokens_part(const struct moire_config *config, const struct moire_mesh *mesh,
                                          const struct moire_step_tokens *tokens, int64_t step, int64_t part);
/* One sequence into tokens [length], zeros where that fails. Not collective. */
moire_status moire_fetch(const struct moire_data *data, enum moire_split split, int64_t number,
                         int64_t length, int32_t *tokens, int *domain);

/* ---- signals.c ---- */

void moire_signals_catch(void);
void moire_signals_restore(void);
bool moire_signals_stop_wanted(void);

/* ---- run.c: all that a run holds ---- */

/* Where numbers first were not finite on this rank. */
struct moire_not_finite {
    bool found;
    int layer;
    char where[160];
};

struct moire_run {
    const struct moire_config *config; /* borrowed */
    const struct moire_schedule *schedule;
    struct moire_mesh mesh;
    struct moire_data *data;
    struct moire_model model;
    struct moire_optimizer optimizer;
    struct moire_step_tokens tokens;
    struct moire_evaluation evaluation;
    double *load, *part_load; /* owned, [moe_layers, E]: slots of the step, of a micro-batch */
    int32_t *chosen;          /* owned, [moe_layers, tokens, K] of this rank; NULL without moe.record */
    struct moire_routing_file replay; /* what the router replays, or zeros */
    char *checkpoints, *routing;      /* owned: RUN.DIR/checkpoints, RUN.DIR/routing.h5 */
    char *resumed;                    /* owned: the checkpoint that the run went on from, or NULL */
    struct moire_clock clock; /* offsets of all ranks at the start */
    struct moire_metrics *metrics;    /* rank 0 */
    struct moire_manifest *manifest;  /* rank 0 */

    int64_t step, sequences, tokens_seen; /* done and seen so far, all starts */
    int64_t first_step;                   /* of this start: steps done before it */
    int64_t checkpoint_step; /* of the newest checkpoint of this start or the one it came from; or -1 */
    bool evaluated;          /* at this step */
    moire_status local;      /* a failure of this rank that is agreed on where the step sums up */
    struct moire_not_finite not_finite;
};
/* Checks, opens and allocates all but what is written. Collective over the world. */
moire_status moire_run_create(const struct moire_config *config, struct moire_run *run);
/* Makes the directory, goes on from a checkpoint where it should, opens what rank 0 writes. Collective over
 * the world. */
moire_status moire_run_open(struct moire_run *run);
/* Closes what is written, with the outcome for run.json. Not collective. */
moire_status moire_run_close(struct moire_run *run, moire_status outcome);
void moire_run_free(struct moire_run *run); /* collective over the world; fine after a failure */

/* ---- resume.c ---- */

/* checkpoint.resume: where it names or finds a checkpoint, reads it and sets step, sequences, tokens_seen,
 * resumed. Collective. */
moire_status moire_run_resume(struct moire_run *run);
/* Writes a checkpoint of this step to `directory`, where `keep` stay. Collective. */
moire_status moire_run_write_checkpoint(const struct moire_run *run, const char *directory, int64_t keep);
/* Writes a checkpoint of this step, unless it is there already or compute is emulated. Collective. */
moire_status moire_run_checkpoint(struct moire_run *run);

/* ---- emulation.c: compute.mode = emulate; without it these do nothing ---- */

/* Checks that routing is forced, and switches emulation on. Before the model is made. Not collective. */
moire_status moire_emulation_start(const struct moire_config *config);
/* Waits move the transfers of the model on. */
void moire_emulation_attach(struct moire_run *run);
/* Only where compute is emulated: instead of going on from a checkpoint. MOIRE_USAGE on rank 0 where run.dir
 * holds a real run, or checkpoint.resume names one. Not collective. */
moire_status moire_emulation_check_directory(const struct moire_run *run);

/* ---- step.c ---- */

/* What is known of one step after it, the same on all ranks. Seconds are maxima over ranks. */
struct moire_step {
    double loss, norm, rate, balance, z, dropped, imbalance;
    double bytes[MOIRE_LEVELS], index_bytes;
    double seconds, exchange, skew, experts;
    int64_t tokens;
    bool stop_wanted; /* a signal, on any rank */
};
/* From data to update, and the seconds of this rank. Counts the step. Collective. */
moire_status moire_run_step(struct moire_run *run, struct moire_step *step);
/* Seconds: maximum over ranks; and whether a signal came. Collective. */
moire_status moire_step_reduce(const struct moire_run *run, struct moire_step *step);

/* ---- not_finite.c ---- */

/* Remembers where, if the loss of the last micro-batch is not finite. Not collective. */
void moire_not_finite_note(struct moire_run *run, double cross_entropy);
/* MOIRE_OK, or MOIRE_NOT_FINITE where loss or norm (the same on all ranks) are not finite. Collective. */
moire_status moire_not_finite_check(struct moire_run *run, const struct moire_step *step);

/* ---- record.c: moe.record ---- */

/* All three do nothing without it. */
moire_status moire_record_create(struct moire_run *run); /* not collective */
/* Keeps the choice of the last micro-batch, before an evaluation makes another. Not collective. */
void moire_record_gather(struct moire_run *run);
moire_status moire_record_write(struct moire_run *run); /* collective */

/* ---- memory.c ---- */

/* Predicted bytes by kind of this rank for the routing that the run has met. Not collective. */
moire_status moire_run_memory(const struct moire_run *run, int64_t bytes[MOIRE_MEMORY_KINDS]);

/* ---- report.c ---- */

/* The line of a step in metrics.jsonl. Rank 0's status; others have none. Not collective. */
moire_status moire_run_metrics(struct moire_run *run, const struct moire_step *step);
/* The live line. Not collective. */
void moire_run_progress(const struct moire_run *run, const struct moire_step *step);
/* Tables at the end: phases, memory, evaluation. Collective. */
moire_status moire_run_report(struct moire_run *run);

#endif
