/* moire bench step: whole training steps, by the code of moire train, on synthetic tokens. */
#include <string.h>

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

/* ---- work by phase ---- */

/* The phase in which the products with a tensor are made. */
static moire_phase phase_of(const struct moire_tensor *tensor)
{
    const char *name = tensor->name;
    if (tensor->sharding == MOIRE_BY_EXPERT) return MOIRE_PHASE_EXPERTS;
    if (strstr(name, ".attention.")) return MOIRE_PHASE_ATTENTION;
    if (strstr(name, ".router")) return MOIRE_PHASE_ROUTER;
    return tensor->layer >= 0 ? MOIRE_PHASE_FEED_FORWARD : MOIRE_PHASE_HEAD;
}

/* Elements of a tensor that one token meets in a product, as doc/formulas.md counts them: no look-ups, no
 * vectors. */
static double elements_met(const struct moire_config *config, const struct moire_tensor *tensor)
{
    if (tensor->sharding == MOIRE_BY_EXPERT)
        return (double)config->moe_top_k * (double)moire_tensor_expert_elements(tensor);
    if (tensor->dimensions < 2 || strcmp(tensor->name, "positions") == 0) return 0;
    if (strcmp(tensor->name, "embedding") == 0 && !config->model_tie_embeddings) return 0;
    return (double)moire_tensor_global_elements(tensor);
}

/* A phase counts in those around it. */
static void add_flops(struct moire_bench_work *work, moire_phase phase, double forward, double backward)
{
    double *f = work->flops[MOIRE_BENCH_FORWARD], *b = work->flops[MOIRE_BENCH_BACKWARD];
    f[phase] += forward;
    b[phase] += backward;
    if (phase == MOIRE_PHASE_ROUTER || phase == MOIRE_PHASE_EXPERTS) {
        f[MOIRE_PHASE_FEED_FORWARD] += forward;
        b[MOIRE_PHASE_FEED_FORWARD] += backward;
    }
    f[MOIRE_PHASE_FORWARD] += forward;
    b[MOIRE_PHASE_BACKWARD] += backward;
    work->flops[MOIRE_BENCH_NEITHER][MOIRE_PHASE_STEP] += forward + backward;
}

/* Forward takes 2 FLOP a token and element met, backward 4; the head does both in its forward sweep. Causal
 * attention takes 12 L D S / 2 a token, a third of it forward. */
static moire_status count_flops(const struct moire_config *config, double tokens,
                                struct moire_bench_work *work)
{
    struct moire_tensors tensors;
    const double attention = 12.0 * (double)config->model_layers * (double)config->model_dim *
                             (double)config->model_sequence / 2 * tokens;
    MOIRE_TRY(moire_model_describe(config, &tensors));
    for (int i = 0; i < tensors.count; i++) {
        const moire_phase phase = phase_of(&tensors.list[i]);
        const double products = 2 * tokens * elements_met(config, &tensors.list[i]);
        if (phase == MOIRE_PHASE_HEAD)
            add_flops(work, phase, 3 * products, 0);
        else
            add_flops(work, phase, products, 2 * products);
    }
    add_flops(work, MOIRE_PHASE_ATTENTION, attention / 3, attention * 2 / 3);
    moire_tensors_free(&tensors);
    return MOIRE_OK;
}

/* Rows of four moves a layer with experts, the slots' numbers with two of them, and once more out where
 * backward computes again. Known where no slot was dropped: then this is what the exchange has counted. */
static moire_status count_rows(const struct moire_config *config, double tokens, double moved,
                               struct moire_bench_work *work)
{
    int64_t layers = 0;
    bool *is_moe;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, config->model_layers, sizeof *is_moe, &is_moe));
    moire_status status = moire_config_moe_layers(config, is_moe);
    for (int64_t layer = 0; status == MOIRE_OK && layer < config->model_layers; layer++)
        layers += is_moe[layer];
    moire_release(is_moe);
    const double rows = (double)layers * tokens * (double)config->moe_top_k * sizeof(real);
    const double plain = rows * (double)config->model_dim, numbered = rows * (double)(config->model_dim + 1);
    const double again = config->train_recompute == MOIRE_RECOMPUTE_NONE ? 0 : numbered;
    if (2 * plain + 2 * numbered + again != moved) return status;
    work->bytes[MOIRE_BENCH_FORWARD][MOIRE_PHASE_DISPATCH] = numbered;
    work->bytes[MOIRE_BENCH_FORWARD][MOIRE_PHASE_COMBINE] = plain;
    work->bytes[MOIRE_BENCH_BACKWARD][MOIRE_PHASE_DISPATCH] = plain + again;
    work->bytes[MOIRE_BENCH_BACKWARD][MOIRE_PHASE_COMBINE] = numbered;
    return status;
}

/* The update reads a parameter, its gradient and its moments and writes all but the gradient; then gradients
 * are cleared. Ranks that share the moments update each parameter once, else each updates its copy. */
static void count_update(const struct moire_bench_run *run, const struct moire_model_counts *counts,
                         struct moire_bench_work *work)
{
    const double dense = (double)(counts->parameters - counts->expert_parameters);
    const double copies = dense * run->mesh.world.size + (double)counts->expert_parameters * run->mesh.groups;
    const double updated = run->config->train_shard_optimizer ? (double)counts->parameters : copies;
    work->bytes[MOIRE_BENCH_NEITHER][MOIRE_PHASE_OPTIMIZER] = (7 * updated + copies) * sizeof(real);
}

static moire_status count_work(const struct moire_bench_run *run, const struct training *training,
                               struct moire_bench_work *work)
{
    struct moire_model_counts counts;
    const double tokens = (double)run->config->train_batch * (double)run->config->model_sequence;
    double moved = 0;
    memset(work, 0, sizeof *work);
    for (int level = 0; level < MOIRE_LEVELS; level++) moved += training->bytes[level];
    MOIRE_TRY(moire_model_count(run->config, &counts));
    MOIRE_TRY(count_flops(run->config, tokens, work));
    count_update(run, &counts, work);
    return count_rows(run->config, tokens, moved, work);
}

/* ---- the measurement ---- */

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
    struct moire_bench_work work;
    moire_status status = moire_trainer_create(config, &training->trainer);
    if (status != MOIRE_OK) return status;
    status = moire_bench_measure_peak(run, variants, 1, 0, &measure);
    if (status == MOIRE_OK) status = moire_agree(&run->mesh.world, report(run, training, &measure));
    if (status == MOIRE_OK) status = moire_agree(&run->mesh.world, count_work(run, training, &work));
    if (status == MOIRE_OK) status = moire_bench_phases(run, &measure, &work);
    moire_measure_free(&measure);
    if (status == MOIRE_OK || moire_error_is_agreed()) moire_trainer_free(training->trainer);
    return status;
}

static moire_status run_bench(struct moire_bench_run *run)
{
    struct moire_config config = { 0 };
    struct training training = { .steps = 0 };
    moire_status status = moire_agree(&run->mesh.world, moire_bench_training_config(run->config, &config));
    if (status == MOIRE_OK) status = measure_steps(run, &config, &training);
    if (status == MOIRE_OK) status = check(&config, training.first_loss);
    moire_config_free(&config);
    return status;
}

const struct moire_bench moire_bench_step = {
    .part = { .name = "step",
              .arguments = "FILE.ini [--section.key=value ...]",
              .details = "step measures whole training steps on synthetic tokens, with the code of moire\n"
                         "train: seconds, FLOP/s and bytes by phase.\n"
                         "\n"
                         "  mpirun -n 2 moire bench step examples/synthetic.ini --format=json" },
    .emulates = true,
    .run = run_bench,
};
