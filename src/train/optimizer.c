#include "moire/train/optimizer.h"

#include <math.h>
#include <string.h>

#include "moire/base/config.h"
#include "moire/compute/vector.h"

moire_status moire_optimizer_create(const struct moire_config *config, const struct moire_tensors *tensors,
                                    struct moire_optimizer *optimizer)
{
    struct moire_optimizer new = { .config = config, .tensors = tensors };
    int64_t elements = moire_tensors_elements(tensors);
    moire_status status = moire_allocate(MOIRE_MEMORY_OPTIMIZER, elements, sizeof(real), &new.first_moment);
    if (status == MOIRE_OK)
        status = moire_allocate(MOIRE_MEMORY_OPTIMIZER, elements, sizeof(real), &new.second_moment);
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
    *optimizer = (struct moire_optimizer){ .config = NULL };
}

static bool is_router(const struct moire_tensor *tensor)
{
    const char *last = strrchr(tensor->name, '.');
    return last && strcmp(last, ".router") == 0;
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
        int64_t at = tensor->offset;
        adamw.rate = is_router(tensor) ? rate * config->train_router_learning_rate : rate;
        adamw.decay = tensor->decay ? config->train_weight_decay : 0;
        moire_adamw_update(&adamw, tensor->elements, gradients + at, parameters + at,
                           optimizer->first_moment + at, optimizer->second_moment + at);
    }
}
