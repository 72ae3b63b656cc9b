/* Gradients over ranks: their sum and their norm. */
#include <math.h>

#include "moire/base/config.h"
#include "moire/compute/vector.h"
#include "moire/train/optimizer.h"

/* Sums one run of an arena, bucket by bucket. */
static moire_status sync_run(const struct moire_communicator *communicator, int64_t bucket_bytes,
                             int64_t count, real *gradients)
{
    int64_t bucket = bucket_bytes / (int64_t)sizeof(real);
    if (bucket < 1) bucket = 1;
    if (communicator->size == 1) return MOIRE_OK;
    for (int64_t first = 0; first < count; first += bucket) {
        int64_t now = count - first < bucket ? count - first : bucket;
        MOIRE_TRY(moire_sum(communicator, gradients + first, now, MOIRE_REAL_ELEMENT));
    }
    return MOIRE_OK;
}

moire_status moire_gradient_sync(const struct moire_mesh *mesh, const struct moire_tensors *tensors,
                                 int64_t bucket_bytes, real *gradients)
{
    MOIRE_TRY(sync_run(&mesh->world, bucket_bytes, tensors->dense_elements, gradients));
    return sync_run(&mesh->data, bucket_bytes, tensors->expert_elements, gradients + tensors->dense_elements);
}

double moire_gradient_squares(const struct moire_mesh *mesh, const struct moire_tensors *tensors,
                              const real *gradients)
{
    double squares = 0;
    if (mesh->world.rank == 0) squares += moire_sum_of_squares(tensors->dense_elements, gradients);
    if (mesh->group == 0)
        squares += moire_sum_of_squares(tensors->expert_elements, gradients + tensors->dense_elements);
    return squares;
}

moire_status moire_gradient_norm(const struct moire_mesh *mesh, const struct moire_tensors *tensors,
                                 const real *gradients, double *norm)
{
    double squares = moire_gradient_squares(mesh, tensors, gradients);
    MOIRE_TRY(moire_sum(&mesh->world, &squares, 1, MOIRE_FLOAT64));
    *norm = sqrt(squares);
    return MOIRE_OK;
}

double moire_gradient_clip(const struct moire_config *config, double norm)
{
    bool longer = config->train_clip != MOIRE_NONE && norm > config->train_clip;
    return longer ? config->train_clip / norm : 1;
}
