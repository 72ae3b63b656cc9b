#include "hooks.h"

#include <math.h>
#include <signal.h>
#include <string.h>

#include "../support/harness.h"
#include "moire/io/checkpoint.h"
#include "moire/train/train.h"

struct hook hook;

moire_status __real_moire_data_fetch(const struct moire_data *data, enum moire_split split, int64_t number,
                                     int32_t *tokens, int *domain);
moire_status __wrap_moire_data_fetch(const struct moire_data *data, enum moire_split split, int64_t number,
                                     int32_t *tokens, int *domain);
moire_status __real_moire_evaluate(struct moire_model *model, const struct moire_data *data,
                                   int64_t sequences, struct moire_evaluation *evaluation);
moire_status __wrap_moire_evaluate(struct moire_model *model, const struct moire_data *data,
                                   int64_t sequences, struct moire_evaluation *evaluation);
moire_status __real_moire_checkpoint_write(const struct moire_mesh *mesh,
                                           const struct moire_placement *placement,
                                           const struct moire_tensors *tensors, moire_element element,
                                           const struct moire_checkpoint_group *groups, int group_count,
                                           const struct moire_checkpoint_state *state, const char *directory,
                                           int64_t keep);
moire_status __wrap_moire_checkpoint_write(const struct moire_mesh *mesh,
                                           const struct moire_placement *placement,
                                           const struct moire_tensors *tensors, moire_element element,
                                           const struct moire_checkpoint_group *groups, int group_count,
                                           const struct moire_checkpoint_state *state, const char *directory,
                                           int64_t keep);
moire_status __real_moire_model_loss(struct moire_model *model, const struct moire_batch *batch,
                                     bool backward, struct moire_losses *losses);
moire_status __wrap_moire_model_loss(struct moire_model *model, const struct moire_batch *batch,
                                     bool backward, struct moire_losses *losses);
void __real_moire_optimizer_update(struct moire_optimizer *optimizer, int64_t step, double rate,
                                   double gradient_scale, const real *gradients, real *parameters);
void __wrap_moire_optimizer_update(struct moire_optimizer *optimizer, int64_t step, double rate,
                                   double gradient_scale, const real *gradients, real *parameters);
moire_status __real_moire_optimizer_gather(const struct moire_optimizer *optimizer, real *parameters);
moire_status __wrap_moire_optimizer_gather(const struct moire_optimizer *optimizer, real *parameters);
uint64_t __real_moire_data_checksum(const struct moire_data *data);
uint64_t __wrap_moire_data_checksum(const struct moire_data *data);

moire_status __wrap_moire_data_fetch(const struct moire_data *data, enum moire_split split, int64_t number,
                                     int32_t *tokens, int *domain)
{
    if (split == MOIRE_TRAINING && number < HOOKED_SEQUENCES) hook.fetched[number]++;
    if (hook.action == NOTHING || hook.rank != test_rank || hook.split != split || number < hook.number)
        return __real_moire_data_fetch(data, split, number, tokens, domain);
    if (hook.action == FAIL) return moire_fail(MOIRE_BAD_DATA, "sequence %lld is torn", (long long)number);
    if (hook.action == RAISE) {
        hook.action = NOTHING;
        raise(hook.signal);
    }
    return __real_moire_data_fetch(data, split, number, tokens, domain);
}

moire_status __wrap_moire_evaluate(struct moire_model *model, const struct moire_data *data,
                                   int64_t sequences, struct moire_evaluation *evaluation)
{
    hook.evaluations++;
    return __real_moire_evaluate(model, data, sequences, evaluation);
}

moire_status __wrap_moire_checkpoint_write(const struct moire_mesh *mesh,
                                           const struct moire_placement *placement,
                                           const struct moire_tensors *tensors, moire_element element,
                                           const struct moire_checkpoint_group *groups, int group_count,
                                           const struct moire_checkpoint_state *state, const char *directory,
                                           int64_t keep)
{
    hook.checkpoints++;
    return __real_moire_checkpoint_write(mesh, placement, tensors, element, groups, group_count, state,
                                         directory, keep);
}

uint64_t __wrap_moire_data_checksum(const struct moire_data *data)
{
    return __real_moire_data_checksum(data) + (test_rank == test_ranks - 1 ? hook.checksum_of_last : 0);
}

int some_rank(void)
{
    return test_ranks > 1 ? 1 : 0;
}

void hook_fetch(int rank, enum action action, enum moire_split split, int64_t number)
{
    memset(&hook, 0, sizeof hook);
    hook.action = action;
    hook.split = split;
    hook.rank = rank;
    hook.number = number;
}

moire_status __wrap_moire_model_loss(struct moire_model *model, const struct moire_batch *batch,
                                     bool backward, struct moire_losses *losses)
{
    if (batch->part == 0) hook.allocations_before = moire_memory_allocations();
    return __real_moire_model_loss(model, batch, backward, losses);
}

static void after_update(const struct moire_optimizer *optimizer, int64_t step, real *parameters)
{
    const struct moire_tensor *poisoned =
        moire_tensors_find(optimizer->tensors, "layers.0.attention.qkv.weight");
    if (step == hook.poisoned_step && test_rank == hook.rank) parameters[poisoned->offset + 5] = (real)NAN;
    if (step == 1) return;
    hook.steps++;
    hook.allocations += moire_memory_allocations() - hook.allocations_before;
}

void __wrap_moire_optimizer_update(struct moire_optimizer *optimizer, int64_t step, double rate,
                                   double gradient_scale, const real *gradients, real *parameters)
{
    __real_moire_optimizer_update(optimizer, step, rate, gradient_scale, gradients, parameters);
    if (!moire_optimizer_is_shared(optimizer)) after_update(optimizer, step, parameters);
    hook.step = step;
}

moire_status __wrap_moire_optimizer_gather(const struct moire_optimizer *optimizer, real *parameters)
{
    MOIRE_TRY(__real_moire_optimizer_gather(optimizer, parameters));
    after_update(optimizer, hook.step, parameters);
    return MOIRE_OK;
}
