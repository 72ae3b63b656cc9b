/* One step, from data to update. */
#include <math.h>
#include <string.h>

#include "moire/compute/emulate.h"
#include "moire/observe/phases.h"
#include "train/private.h"

/* What the ranks sum, in one small reduction between backward and update. */
enum { SUM_SQUARES, SUM_LOSS, SUM_FAILED, SUM_BYTES, SUM_INDEX = SUM_BYTES + MOIRE_LEVELS, SUMS };
enum { MAXIMUM_SECONDS, MAXIMUM_EXCHANGE, MAXIMUM_SKEW, MAXIMUM_EXPERTS, MAXIMUM_STOP, MAXIMA };

/* Counters of this rank that only grow; a step is the difference of two readings. */
struct counters {
    double exchange, skew, experts;
    int64_t bytes[MOIRE_LEVELS], index_bytes;
};

static void read_seconds(struct counters *counters)
{
    counters->exchange = moire_phase_seconds(MOIRE_PHASE_DISPATCH) + moire_phase_seconds(MOIRE_PHASE_COMBINE);
    counters->skew = moire_phase_seconds(MOIRE_PHASE_PREPARE);
    counters->experts = moire_phase_seconds(MOIRE_PHASE_EXPERTS);
}

static void read_bytes(const struct moire_run *run, struct counters *counters)
{
    struct moire_exchange_bytes bytes = { .rows = { 0 } };
    if (run->model.moe_layers > 0) moire_exchange_bytes(run->model.moe.exchange, &bytes);
    counters->index_bytes = 0;
    for (int level = 0; level < MOIRE_LEVELS; level++) {
        counters->bytes[level] = bytes.rows[level] + bytes.numbers[level];
        if (level != MOIRE_LEVEL_SELF) counters->index_bytes += bytes.index[level];
    }
}

/* Adds the load of the last micro-batch. */
static void add_load(struct moire_run *run)
{
    int64_t count = run->model.moe_layers * run->config->moe_experts;
    if (count == 0) return;
    moire_model_load(&run->model, run->part_load);
    for (int64_t i = 0; i < count; i++) run->load[i] += run->part_load[i];
}

static void clear_load(struct moire_run *run)
{
    memset(run->load, 0, (size_t)(run->model.moe_layers * run->config->moe_experts) * sizeof *run->load);
}

/* Largest over mean load of an expert, mean over layers. */
static double imbalance(const struct moire_run *run)
{
    int64_t layers = run->model.moe_layers, experts = run->config->moe_experts;
    double sum_of_ratios = 0;
    for (int64_t layer = 0; layer < layers; layer++) {
        const double *load = run->load + layer * experts;
        double sum = 0, most = 0;
        for (int64_t e = 0; e < experts; e++) {
            sum += load[e];
            if (load[e] > most) most = load[e];
        }
        sum_of_ratios += sum > 0 ? most * (double)experts / sum : 1;
    }
    return layers ? sum_of_ratios / (double)layers : 1;
}

/* Forward and backward of all micro-batches; *cross_entropy sums over this rank's tokens. */
static moire_status accumulate(struct moire_run *run, struct moire_step *step, double *cross_entropy)
{
    const struct moire_config *config = run->config;
    clear_load(run);
    for (int64_t part = 0; part < config->train_accumulate; part++) {
        struct moire_losses losses;
        struct moire_batch batch = moire_step_tokens_part(config, &run->mesh, &run->tokens, run->step, part);
        if (batch.global_sequences == 0) continue; /* more micro-batches than sequences: no rank has one */
        MOIRE_TRY(moire_model_loss(&run->model, &batch, true, &losses));
        moire_not_finite_note(run, losses.cross_entropy);
        *cross_entropy += losses.cross_entropy;
        step->balance += losses.balance;
        step->z += losses.z;
        step->dropped += losses.dropped;
        add_load(run);
    }
    return MOIRE_OK;
}

/* Sync, and everything that has to be known of all ranks before the update. */
static moire_status sum_up(struct moire_run *run, const struct counters *before, double cross_entropy,
                           struct moire_step *step)
{
    double sums[SUMS] = { 0 };
    struct counters now;
    MOIRE_TRY(moire_gradient_sync(&run->mesh, &run->model.tensors, run->config->train_bucket_bytes,
                                  run->model.gradients));
    read_bytes(run, &now);
    sums[SUM_SQUARES] = moire_gradient_squares(&run->mesh, &run->model.tensors, run->model.gradients);
    sums[SUM_LOSS] = cross_entropy;
    sums[SUM_FAILED] = run->local != MOIRE_OK;
    for (int level = 0; level < MOIRE_LEVELS; level++)
        sums[SUM_BYTES + level] = (double)(now.bytes[level] - before->bytes[level]);
    sums[SUM_INDEX] = (double)(now.index_bytes - before->index_bytes);
    MOIRE_TRY(moire_sum(&run->mesh.world, sums, SUMS, MOIRE_FLOAT64));
    if (sums[SUM_FAILED] > 0) return moire_agree(&run->mesh.world, run->local);
    step->norm = sqrt(sums[SUM_SQUARES]);
    step->loss = sums[SUM_LOSS] / (double)step->tokens;
    memcpy(step->bytes, sums + SUM_BYTES, sizeof step->bytes);
    step->index_bytes = sums[SUM_INDEX];
    return MOIRE_OK;
}

static moire_status update(struct moire_run *run, const struct moire_step *step)
{
    moire_phase_begin(MOIRE_PHASE_OPTIMIZER);
    moire_optimizer_update(&run->optimizer, run->step + 1, step->rate,
                           moire_gradient_clip(run->config, step->norm), run->model.gradients,
                           run->model.parameters);
    if (!moire_is_emulated())
        memset(run->model.gradients, 0, (size_t)moire_tensors_elements(&run->model.tensors) * sizeof(real));
    moire_phase_end(MOIRE_PHASE_OPTIMIZER);
    if (!moire_optimizer_is_shared(&run->optimizer)) return MOIRE_OK;
    moire_phase_begin(MOIRE_PHASE_PARAMETER_SYNC);
    MOIRE_TRY(moire_optimizer_gather(&run->optimizer, run->model.parameters));
    moire_phase_end(MOIRE_PHASE_PARAMETER_SYNC);
    return MOIRE_OK;
}

moire_status moire_run_step(struct moire_run *run, struct moire_step *step)
{
    const struct moire_config *config = run->config;
    struct counters before, after;
    double cross_entropy = 0;
    *step = (struct moire_step){
        .tokens = config->train_batch * config->model_sequence,
        .rate = moire_schedule_rate(config, run->schedule, run->step + 1),
    };
    moire_emulate_settle();
    moire_phase_begin(MOIRE_PHASE_STEP);
    read_seconds(&before);
    read_bytes(run, &before);
    moire_phase_begin(MOIRE_PHASE_DATA);
    moire_status fetched =
        moire_step_tokens_fetch(config, &run->mesh, run->data, run->sequences, &run->tokens);
    moire_phase_end(MOIRE_PHASE_DATA);
    if (run->local == MOIRE_OK) run->local = fetched; /* agreed on in sum_up */
    MOIRE_TRY(accumulate(run, step, &cross_entropy));
    moire_phase_begin(MOIRE_PHASE_GRADIENT_SYNC);
    MOIRE_TRY(sum_up(run, &before, cross_entropy, step));
    moire_phase_end(MOIRE_PHASE_GRADIENT_SYNC);
    MOIRE_TRY(moire_not_finite_check(run, step));
    MOIRE_TRY(update(run, step));
    moire_emulate_settle();
    read_seconds(&after);
    step->seconds = moire_phase_end(MOIRE_PHASE_STEP);
    step->exchange = after.exchange - before.exchange;
    step->skew = after.skew - before.skew;
    step->experts = after.experts - before.experts;
    step->imbalance = imbalance(run);
    run->step++;
    run->sequences += config->train_batch;
    run->tokens_seen += step->tokens;
    run->evaluated = false;
    return MOIRE_OK;
}

moire_status moire_step_reduce(const struct moire_run *run, struct moire_step *step)
{
    double maxima[MAXIMA] = {
        [MAXIMUM_SECONDS] = step->seconds,
        [MAXIMUM_EXCHANGE] = step->exchange,
        [MAXIMUM_SKEW] = step->skew,
        [MAXIMUM_EXPERTS] = step->experts,
        [MAXIMUM_STOP] = moire_signals_stop_wanted(),
    };
    MOIRE_TRY(moire_max_reals(&run->mesh.world, maxima, MAXIMA));
    step->seconds = maxima[MAXIMUM_SECONDS];
    step->exchange = maxima[MAXIMUM_EXCHANGE];
    step->skew = maxima[MAXIMUM_SKEW];
    step->experts = maxima[MAXIMUM_EXPERTS];
    step->stop_wanted = maxima[MAXIMUM_STOP] > 0;
    return MOIRE_OK;
}
