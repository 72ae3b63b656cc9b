/* compute.mode = emulate: what a run does then, and what it leaves out. */
#include "moire/compute/emulate.h"

#include <string.h>

#include "moire/base/log.h"
#include "moire/io/checkpoint.h"
#include "train/private.h"

/* Nothing computes logits, so nothing but a forced router can choose. */
static moire_status check_router(const struct moire_config *config)
{
    struct moire_model_counts counts;
    MOIRE_TRY(moire_model_count(config, &counts));
    if (counts.expert_parameters == 0 || strcmp(config->moe_router, "forced") == 0) return MOIRE_OK;
    return moire_fail(MOIRE_USAGE,
                      "emulated compute has no logits to choose experts by; found moe.router = %s, expected "
                      "forced; try --moe.router=forced (moe.forced = replay takes the routing of a real run)",
                      config->moe_router);
}

moire_status moire_emulation_start(const struct moire_config *config)
{
    char text[64];
    if (config->compute_mode != MOIRE_COMPUTE_EMULATE) return MOIRE_OK;
    MOIRE_TRY(check_router(config));
    moire_emulate_start(config->compute_rate);
    moire_emulate_describe(text, sizeof text);
    if (moire_where.rank == 0)
        moire_warn("compute is %s a rank: rows travel, products only take their time, losses and norms say "
                   "nothing; no checkpoint is written and nothing is evaluated",
                   text);
    return MOIRE_OK;
}

/* A failure of MPI comes back from the end of the transfer. */
static bool move_on(void *exchange)
{
    if (!moire_exchange_is_busy(exchange)) return false;
    if (moire_exchange_progress(exchange) != MOIRE_OK) moire_error_clear();
    return moire_exchange_is_busy(exchange);
}

void moire_emulation_attach(struct moire_run *run)
{
    if (moire_is_emulated() && run->model.moe_layers > 0)
        moire_emulate_progress(move_on, run->model.moe.exchange);
}

moire_status moire_emulation_check_directory(const struct moire_run *run)
{
    const char *resume = run->config->checkpoint_resume;
    char *path = NULL;
    if (run->mesh.world.rank != 0 || strcmp(resume, "never") == 0) return MOIRE_OK;
    if (strcmp(resume, "auto") != 0)
        return moire_fail(MOIRE_USAGE,
                          "emulated compute cannot go on from a checkpoint; found checkpoint.resume = %s, "
                          "expected auto or never",
                          resume);
    MOIRE_TRY(moire_checkpoint_latest(run->checkpoints, &path));
    if (!path) return MOIRE_OK;
    moire_status status = moire_fail(
        MOIRE_USAGE,
        "emulated compute would write over the metrics of a real run; found %s, expected a run.dir without "
        "checkpoints; try another run.dir, or checkpoint.resume = never",
        path);
    moire_release(path);
    return status;
}
