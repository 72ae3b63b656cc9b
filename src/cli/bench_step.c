/* moire bench step: whole training steps, by the code of moire train, on synthetic tokens. */
#include <math.h>

#include "cli/bench.h"
#include "moire/base/file.h"
#include "moire/cli/cli.h"
#include "moire/train/train.h"

struct training {
    struct moire_trainer *trainer;
    double loss, first_loss;
    double bytes[MOIRE_LEVELS];
    int64_t steps;
};

static moire_status run_step(void *state)
{
    struct training *training = state;
    MOIRE_TRY(moire_trainer_step(training->trainer, &training->loss, training->bytes));
    if (training->steps++ == 0) training->first_loss = training->loss;
    return MOIRE_OK;
}

/* The configuration with tokens that need no file. */
static moire_status create_config(const struct moire_config *config, struct moire_config *own)
{
    MOIRE_TRY(moire_config_copy(config, own));
    MOIRE_TRY(moire_config_set(own, "data.source", "synthetic", MOIRE_FROM_COMMAND));
    return moire_config_set(own, "moe.record", "no", MOIRE_FROM_COMMAND);
}

/* A step on the same tokens with the same parameters must give the same loss: a second trainer's first. */
static moire_status check(const struct moire_config *config, double first_loss)
{
    struct training training = { .steps = 0 };
    MOIRE_TRY(moire_trainer_create(config, &training.trainer));
    moire_status status = run_step(&training);
    if (status != MOIRE_OK && !moire_error_is_agreed()) return status;
    moire_trainer_free(training.trainer);
    MOIRE_TRY(status);
    if (training.loss == first_loss) return MOIRE_OK;
    return moire_cli_agree(moire_fail(MOIRE_FAILED,
                                      "the first step does not repeat; found a loss of %.17g, expected "
                                      "%.17g; try another BLAS, or one thread",
                                      training.loss, first_loss));
}

static moire_status report(struct moire_bench_run *run, const struct training *training,
                           const struct moire_measure *measure)
{
    struct moire_model_counts counts;
    const double tokens = (double)run->config->train_batch * (double)run->config->model_sequence;
    double bytes = 0;
    MOIRE_TRY(moire_model_count(run->config, &counts));
    for (int level = 0; level < MOIRE_LEVELS; level++) bytes += training->bytes[level];
    MOIRE_TRY(moire_bench_header(run->report, "step",
                                 "%.0f tokens, %.4g FLOP (6 an active matrix parameter and token, and causal "
                                 "attention); MiB: rows that the exchange moved; loss %.4f, after %lld steps "
                                 "%.4f",
                                 tokens, tokens * counts.training_flops_per_token, training->first_loss,
                                 (long long)training->steps, training->loss));
    MOIRE_TRY(moire_bench_describe(run, "step", measure));
    return moire_bench_result(run, measure, 0, tokens * counts.training_flops_per_token, tokens, bytes);
}

static moire_status measure_steps(struct moire_bench_run *run, const struct moire_config *config,
                                  struct training *training)
{
    struct moire_variant variants[2] = { { .name = "step", .run = run_step, .state = training } };
    struct moire_measure measure = { .warmed = moire_bench_forget_phases };
    moire_status status = moire_trainer_create(config, &training->trainer);
    if (status != MOIRE_OK) return status;
    status = moire_bench_measure(run, variants, 1, 0, &measure);
    if (status == MOIRE_OK)
        status = moire_agree(&run->mesh.world, report(run, training, &measure));
    if (status == MOIRE_OK) status = moire_bench_phases(run, &measure);
    moire_measure_free(&measure);
    if (status == MOIRE_OK || moire_error_is_agreed()) moire_trainer_free(training->trainer);
    return status;
}

static moire_status run_bench(struct moire_bench_run *run)
{
    struct moire_config config = { 0 };
    struct training training = { .steps = 0 };
    moire_status status = moire_agree(&run->mesh.world, create_config(run->config, &config));
    if (status == MOIRE_OK) status = measure_steps(run, &config, &training);
    if (status == MOIRE_OK) status = check(&config, training.first_loss);
    moire_config_free(&config);
    return status;
}

const struct moire_bench moire_bench_step = {
    .name = "step",
    .emulates = true,
    .run = run_bench,
};
