#include "moire/train/optimizer.h"

#include <math.h>
#include <string.h>

#include "moire/base/config.h"
#include "moire/compute/vector.h"

static moire_status fill(const struct moire_mesh *mesh, struct moire_optimizer *new)
{
    const struct moire_tensors *tensors = new->tensors;
    const moire_memory_kind kind = MOIRE_MEMORY_OPTIMIZER;
    bool shared = mesh && new->config->train_shard_optimizer;
    MOIRE_TRY(moire_shares_create(shared ? &mesh->world : NULL, tensors->dense_elements, MOIRE_REAL_ELEMENT,
                                  &new->dense));
    MOIRE_TRY(moire_shares_create(shared ? &mesh->data : NULL, tensors->expert_elements, MOIRE_REAL_ELEMENT,
                                  &new->experts));
    int64_t elements = new->dense.count + new->experts.count;
    MOIRE_TRY(moire_allocate(kind, elements, sizeof(real), &new->first_moment));
    return moire_allocate(kind, elements, sizeof(real), &new->second_moment);
}

moire_status moire_optimizer_create(const struct moire_config *config, const struct moire_mesh *mesh,
                                    const struct moire_tensors *tensors, struct moire_optimizer *optimizer)
{
    struct moire_optimizer new = { .config = config, .tensors = tensors };
    moire_status status = fill(mesh, &new);
    if (status == MOIRE_OK)
        *optimizer = new;
    else
        moire_optimizer_free(&new);
    return status;
}

void moire_optimizer_free(struct moire_optimizer *optimizer)
{
    moire_release(optimizer->first_moment);
    moire_release(optimizer->second_moment);
    moire_shares_free(&optimizer->experts);
    moire_shares_free(&optimizer->dense);
    *optimizer = (struct moire_optimizer){ .config = NULL };
}

bool moire_optimizer_is_shared(const struct moire_optimizer *optimizer)
{
    return optimizer->dense.communicator != NULL;
}

static bool is_router(const struct moire_tensor *tensor)
{
    const char *last = strrchr(tensor->name, '.');
    return last && strcmp(last, ".router") == 0;
}

/* Elements of a tensor that this rank updates, from *at of an arena on; their moments begin at *moment. */
static int64_t part_of(const struct moire_optimizer *optimizer, const struct moire_tensor *tensor,
                       int64_t *at, int64_t *moment)
{
    bool dense = tensor->sharding == MOIRE_REPLICATED;
    const struct moire_shares *shares = dense ? &optimizer->dense : &optimizer->experts;
    int64_t from, run = dense ? 0 : optimizer->tensors->dense_elements;
    int64_t count =
        moire_overlap(tensor->offset - run, tensor->elements, shares->first, shares->count, &from);
    *at = run + from;
    *moment = (dense ? 0 : optimizer->dense.count) + from - shares->first;
    return count;
}

void moire_optimizer_update(struct moire_optimizer *optimizer, int64_t step, double rate,
                            double gradient_scale, const real *gradients, real *parameters)
{
    const struct moire_config *config = optimizer->config;
    const struct moire_tensors *tensors = optimizer->tensors;
    struct moire_adamw adamw = {
        .beta1 = config->train_beta1,
        .beta2 = config->train_beta2,
        .epsilon = config->train_epsilon,
        .correction1 = 1 - pow(config->train_beta1, (double)step),
        .correction2 = 1 - pow(config->train_beta2, (double)step),
        .gradient_scale = gradient_scale,
    };
    for (int t = 0; t < tensors->count; t++) {
        const struct moire_tensor *tensor = &tensors->list[t];
        int64_t at, moment, count = part_of(optimizer, tensor, &at, &moment);
        if (count == 0) continue;
        adamw.rate = is_router(tensor) ? rate * config->train_router_learning_rate : rate;
        adamw.decay = tensor->decay ? config->train_weight_decay : 0;
        moire_adamw_update(&adamw, count, gradients + at, parameters + at, optimizer->first_moment + moment,
                           optimizer->second_moment + moment);
    }
}

moire_status moire_optimizer_gather(const struct moire_optimizer *optimizer, real *parameters)
{
    MOIRE_TRY(moire_shares_gather(&optimizer->dense, parameters));
    return moire_shares_gather(&optimizer->experts, parameters + optimizer->tensors->dense_elements);
}
