/* AdamW over the tensor table, gradient sync, gradient norm, schedules. */
#ifndef MOIRE_TRAIN_OPTIMIZER_H
#define MOIRE_TRAIN_OPTIMIZER_H

#include "moire/base/real.h"
#include "moire/base/tensors.h"
#include "moire/cluster/mesh.h"

struct moire_optimizer {
    const struct moire_config *config;     /* borrowed */
    const struct moire_tensors *tensors;   /* borrowed */
    real *first_moment, *second_moment;    /* arenas, owned */
};
moire_status moire_optimizer_create(const struct moire_config *config, const struct moire_tensors *tensors, struct moire_optimizer *optimizer);
void moire_optimizer_free(struct moire_optimizer *optimizer);
/* One update of every tensor; `step` counts from 1. Settings of a tensor: decay where tensor->decay, router tensors
 * ("layers.N.router") with train.router_learning_rate. Not collective. */
void moire_optimizer_update(struct moire_optimizer *optimizer, int64_t step, double rate, double gradient_scale, const real *gradients, real *parameters);

/* Sums gradients over ranks: dense tensors over the world, expert tensors over mesh->data, in buckets of `bucket_bytes`
 * whose cuts depend on the table alone. Collective over the world. */
moire_status moire_gradient_sync(const struct moire_mesh *mesh, const struct moire_tensors *tensors, int64_t bucket_bytes, real *gradients);
/* Global norm of synced gradients: dense tensors once, experts summed over mesh->expert. The same bits on all ranks. Collective. */
moire_status moire_gradient_norm(const struct moire_mesh *mesh, const struct moire_tensors *tensors, const real *gradients, double *norm);

/* Learning rate schedules: a table. Rate over the highest at `step` (from 1) of `steps`, after the linear warm-up. */
struct moire_schedule {
    const char *name, *help;
    double (*factor)(const struct moire_config *config, int64_t step);
};
extern const struct moire_schedule moire_schedules[];
extern const int moire_schedule_count;
moire_status moire_schedule_find(const char *name, const struct moire_schedule **schedule); /* MOIRE_USAGE with the nearest name */
/* warm-up: step / warmup while step <= warmup. */
double moire_schedule_rate(const struct moire_config *config, const struct moire_schedule *schedule, int64_t step);

#endif
