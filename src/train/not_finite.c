/* A loss or a gradient that is not finite ends the run before it spoils the parameters. */
#include <math.h>

#include "moire/base/log.h"
#include "moire/io/checkpoint.h"
#include "train/private.h"

static void search(struct moire_run *run)
{
    struct moire_not_finite *place = &run->not_finite;
    place->layer = -1;
    place->found = moire_model_find_not_finite(&run->model, place->where, sizeof place->where, &place->layer);
}

void moire_not_finite_note(struct moire_run *run, double cross_entropy)
{
    /* Later the sync spreads it over all ranks, and the next micro-batch overwrites the activations. */
    if (!isfinite(cross_entropy) && !run->not_finite.found) search(run);
}

/* "nan" or "inf", whatever sign. */
static const char *kind(double value)
{
    return isnan(value) ? "nan" : "infinite";
}

/* What this rank says of it; a checkpoint that cannot be found is no second failure. */
static moire_status say(struct moire_run *run, const struct moire_step *step)
{
    const struct moire_not_finite *place = &run->not_finite;
    bool loss = !isfinite(step->loss);
    char *latest = NULL;
    if (moire_checkpoint_latest(run->checkpoints, &latest) != MOIRE_OK) moire_error_clear();
    moire_status status = moire_fail(
        MOIRE_NOT_FINITE,
        "%s is %s; found first at %s; try a lower train.learning_rate or train.clip, or a longer "
        "train.warmup; %s%s",
        loss ? "the loss" : "the gradient norm", kind(loss ? step->loss : step->norm),
        place->found ? place->where : "the sum over ranks",
        latest ? "the last good checkpoint is " : "there is no checkpoint yet", latest ? latest : "");
    moire_release(latest);
    return status;
}

/* All ranks leave with the message of the lowest that `speaks`; MOIRE_OK where none does. */
static moire_status agree(struct moire_run *run, const struct moire_step *step, bool speaks)
{
    moire_status status = speaks ? say(run, step) : MOIRE_OK;
    return moire_agree(&run->mesh.world, status);
}

moire_status moire_not_finite_check(struct moire_run *run, const struct moire_step *step)
{
    if (isfinite(step->loss) && isfinite(step->norm)) return MOIRE_OK;
    moire_where.phase = NULL; /* the place in the model says more */
    /* Who saw it before the sync knows best; then who finds it now; then rank 0. */
    MOIRE_TRY(agree(run, step, run->not_finite.found));
    search(run);
    MOIRE_TRY(agree(run, step, run->not_finite.found));
    return agree(run, step, run->mesh.world.rank == 0);
}
