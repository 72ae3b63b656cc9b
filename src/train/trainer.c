/* The step of moire_train without its files: for measurements. */
#include "moire/compute/emulate.h"
#include "moire/observe/phases.h"
#include "train/private.h"

struct moire_trainer {
    struct moire_run run;
};

moire_status moire_trainer_create(const struct moire_config *config, struct moire_trainer **trainer)
{
    struct moire_trainer *new = NULL;
    moire_status status = moire_allocate(MOIRE_MEMORY_OTHER, 1, sizeof *new, &new);
    MOIRE_TRY(status);
    moire_phases_reset();
    status = moire_run_create(config, &new->run);
    if (status == MOIRE_OK)
        *trainer = new;
    else if (moire_error_is_agreed())
        moire_trainer_free(new);
    return status;
}

moire_status moire_trainer_step(struct moire_trainer *trainer, double *loss, double bytes[MOIRE_LEVELS])
{
    struct moire_step step;
    moire_where.step = trainer->run.step + 1;
    moire_status status = moire_run_step(&trainer->run, &step);
    moire_where.step = -1;
    MOIRE_TRY(status);
    *loss = step.loss;
    for (int level = 0; level < MOIRE_LEVELS; level++) bytes[level] = step.bytes[level];
    return MOIRE_OK;
}

moire_status moire_trainer_checkpoint(const struct moire_trainer *trainer, const char *directory)
{
    return moire_run_write_checkpoint(&trainer->run, directory, 1);
}

void moire_trainer_free(struct moire_trainer *trainer)
{
    if (!trainer) return;
    moire_run_free(&trainer->run);
    moire_emulate_stop();
    moire_release(trainer);
}
