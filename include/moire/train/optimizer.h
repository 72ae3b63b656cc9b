/* AdamW over the tensor table, gradient sync, gradient norm, schedules. */
#ifndef MOIRE_TRAIN_OPTIMIZER_H
#define MOIRE_TRAIN_OPTIMIZER_H

#include "moire/base/real.h"
#include "moire/base/tensors.h"
#include "moire/cluster/mesh.h"
#include "moire/cluster/shares.h"

struct moire_optimizer {
    const struct moire_config *config;   /* borrowed */
    const struct moire_tensors *tensors; /* borrowed */
    /* What this rank keeps moments of and updates: its shares of the two runs of the table. */
    struct moire_shares dense, experts;
    real *first_moment, *second_moment; /* owned, [dense.count + experts.count] */
};
/* Moments of zero. With train.shard_optimizer those of dense tensors are shared by all ranks and those of
 * expert tensors by the ranks with the same experts (ZeRO stage 1: Rajbhandari et al., arXiv 1910.02054).
 * mesh NULL: this rank has all. *mesh is borrowed. Not collective. */
moire_status moire_optimizer_create(const struct moire_config *config, const struct moire_mesh *mesh,
                                    const struct moire_tensors *tensors, struct moire_optimizer *optimizer);
bool moire_optimizer_is_shared(const struct moire_optimizer *optimizer); /* the same on all ranks */
void moire_optimizer_free(struct moire_optimizer *optimizer); /* fine for a zeroed one */
/* One update of this rank's shares of all tensors; `step` counts from 1. Settings of a tensor: weight decay where tensor->decay,
 * router tensors ("layers.N.router") with train.router_learning_rate. Padding is never touched, so it stays
 * zero. A rank without experts updates the dense tensors only. Not collective. */
void moire_optimizer_update(struct moire_optimizer *optimizer, int64_t step, double rate,
                            double gradient_scale, const real *gradients, real *parameters);
/* After an update: the shares of all ranks. The parameters are then, bit for bit, those of an optimizer that
 * is not shared. Collective over the world; without sharing there is nothing to do. */
moire_status moire_optimizer_gather(const struct moire_optimizer *optimizer, real *parameters);

/* Sums gradients over ranks: dense tensors over the world, expert tensors over mesh->data, in buckets of
 * `bucket_bytes` whose cuts depend on the table alone. Collective over the world. */
moire_status moire_gradient_sync(const struct moire_mesh *mesh, const struct moire_tensors *tensors,
                                 int64_t bucket_bytes, real *gradients);
/* This rank's part of the global sum of squares of synced gradients: rank 0 brings the dense tensors, the
 * ranks of the first expert group bring their experts, all others 0. Summed over the world in one reduction,
 * the result has the same bits on all ranks. Not collective. */
double moire_gradient_squares(const struct moire_mesh *mesh, const struct moire_tensors *tensors,
                              const real *gradients);
/* Global norm of synced gradients: the root of that sum, dense tensors and experts counted once each. The
 * same bits on all ranks. Collective over the world. */
moire_status moire_gradient_norm(const struct moire_mesh *mesh, const struct moire_tensors *tensors,
                                 const real *gradients, double *norm);
/* Factor that brings a gradient of this norm down to train.clip; 1 where it is shorter, or clip = none. */
double moire_gradient_clip(const struct moire_config *config, double norm);

/* Learning rate schedules: a table. With n = train.steps, w = train.warmup, f = train.final_ratio, and shares
 * of steps that stop at 1:
 *   cosine    f + (1 - f) (1 + cos(pi (step - w) / (n - w))) / 2      (Loshchilov, Hutter, arXiv 1608.03983)
 *   constant  1
 *   wsd       1, and in the last train.decay_fraction of the steps, from
 *             s = max(w, n - round(decay_fraction n)) on, 1 - (1 - f) (step - s) / (n - s)
 *             (warm-up, stable, decay; Hu et al., arXiv 2404.06395) */
struct moire_schedule {
    const char *name, *help;
    /* Rate over the highest after the warm-up, at `step` (from 1). */
    double (*factor)(const struct moire_config *config, int64_t step);
};
extern const struct moire_schedule moire_schedules[];
extern const int moire_schedule_count;
/* MOIRE_USAGE with the nearest name. Not collective. */
moire_status moire_schedule_find(const char *name, const struct moire_schedule **schedule);
/* The learning rate of a step, counted from 1: train.learning_rate times step / warmup while step <= warmup,
 * times the schedule's factor after it. Not collective. */
double moire_schedule_rate(const struct moire_config *config, const struct moire_schedule *schedule,
                           int64_t step);

#endif
