/* moire bench layer: one MoE layer, forward, backward and an SGD update. */
#include <string.h>

#include "cli/bench.h"
#include "moire/base/file.h"
#include "moire/base/random.h"
#include "moire/cli/cli.h"
#include "moire/compute/vector.h"
#include "moire/moe/layer.h"
#include "moire/train/train.h"

static const real learning_rate = (real)1e-6; /* so that numbers stay as they are over thousands of steps */

struct bench_layer {
    const struct moire_config *config;
    const struct moire_mesh *mesh;
    struct moire_tensors tensors;
    struct moire_moe moe;
    struct moire_moe_layer layer;
    struct moire_micro_batch batch;
    struct moire_rows output, output_gradient; /* [T, D] */
    real *input_gradient;                      /* [T, D], or NULL where it is not wanted */
    real *parameters, *gradients;
    real *first_output; /* [T, D]: of the first forward */
};

/* p -= rate g, and g = 0 for the next step, in one pass. */
static void update(struct bench_layer *bench)
{
    const int64_t count = moire_tensors_elements(&bench->tensors);
    real *p = bench->parameters, *g = bench->gradients;
    moire_phase_begin(MOIRE_PHASE_OPTIMIZER);
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < count; i++) {
        p[i] -= learning_rate * g[i];
        g[i] = 0;
    }
    moire_phase_end(MOIRE_PHASE_OPTIMIZER);
}

static moire_status forward(struct bench_layer *bench)
{
    return moire_moe_forward(&bench->layer, &bench->tensors, bench->parameters, &bench->batch,
                             &bench->output);
}

static moire_status run_layer(void *state)
{
    struct bench_layer *bench = state;
    moire_phase_begin(MOIRE_PHASE_FORWARD);
    MOIRE_TRY(forward(bench));
    moire_phase_end(MOIRE_PHASE_FORWARD);
    moire_phase_begin(MOIRE_PHASE_BACKWARD);
    if (bench->input_gradient)
        memset(bench->input_gradient, 0, (size_t)(bench->batch.tokens * bench->moe.dim) * sizeof(real));
    MOIRE_TRY(moire_moe_backward(&bench->layer, &bench->tensors, bench->parameters, bench->gradients,
                                 &bench->batch, &bench->output_gradient, bench->input_gradient));
    moire_phase_end(MOIRE_PHASE_BACKWARD);
    if (bench->mesh->world.size > 1) {
        moire_phase_begin(MOIRE_PHASE_GRADIENT_SYNC);
        MOIRE_TRY(moire_gradient_sync(bench->mesh, &bench->tensors, bench->config->train_bucket_bytes,
                                      bench->gradients));
        moire_phase_end(MOIRE_PHASE_GRADIENT_SYNC);
    }
    update(bench);
    return MOIRE_OK;
}

static void set_batch(struct bench_layer *bench)
{
    const struct moire_config *config = bench->config;
    const struct moire_mesh *mesh = bench->mesh;
    int64_t first, sequences = moire_share(config->train_batch, mesh->world.size, mesh->world.rank, &first);
    bench->batch = (struct moire_micro_batch) {
        .tokens = sequences * config->model_sequence,
        .first_token = first * config->model_sequence,
        .global_tokens = config->train_batch * config->model_sequence,
        .share = 1,
        .training = true,
    };
}

static void fill(const struct bench_layer *bench, uint64_t stream, double scale, real *rows)
{
    const uint64_t dim = (uint64_t)bench->moe.dim, first = (uint64_t)bench->batch.first_token * dim;
    const uint64_t count = (uint64_t)bench->batch.tokens * dim;
    for (uint64_t i = 0; i < count; i++)
        rows[i] = (real)(scale * moire_random_normal((uint64_t)bench->config->run_seed, stream, first + i));
}

/* What needs no other rank. */
static moire_status describe(struct bench_layer *bench)
{
    const struct moire_mesh *mesh = bench->mesh;
    struct moire_placement placement;
    MOIRE_TRY(moire_moe_check(bench->config));
    MOIRE_TRY(moire_tensors_create(&bench->tensors));
    MOIRE_TRY(moire_moe_describe(bench->config, 0, &bench->tensors, &bench->layer));
    MOIRE_TRY(moire_placement_even(bench->config->moe_experts, mesh->expert.size, &placement));
    moire_status status = moire_tensors_layout(
        &bench->tensors, placement.instance_expert + placement.rank_begin[mesh->expert.rank],
        moire_placement_local(&placement, mesh->expert.rank));
    moire_placement_free(&placement);
    return status;
}

static moire_status allocate(struct bench_layer *bench)
{
    const int64_t count = moire_tensors_elements(&bench->tensors);
    const int64_t rows = bench->batch.tokens * bench->moe.dim;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_PARAMETERS, count, sizeof(real), &bench->parameters));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_GRADIENTS, count, sizeof(real), &bench->gradients));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_ACTIVATIONS, rows, sizeof(real), &bench->first_output));
    if (bench->config->bench_input_grad)
        MOIRE_TRY(moire_allocate(MOIRE_MEMORY_ACTIVATIONS, rows, sizeof(real), &bench->input_gradient));
    moire_tensors_initialise(&bench->tensors, (uint64_t)bench->config->run_seed, MOIRE_REAL_ELEMENT,
                             bench->parameters);
    return MOIRE_OK;
}

static moire_status create_rows(struct bench_layer *bench, struct moire_rows *rows)
{
    return moire_rows_create(bench->moe.exchange, MOIRE_MEMORY_ACTIVATIONS, bench->moe.dim,
                             bench->batch.tokens, rows);
}

static moire_status create(struct bench_layer *bench)
{
    const struct moire_communicator *world = &bench->mesh->world;
    set_batch(bench);
    MOIRE_TRY(moire_agree(world, describe(bench)));
    MOIRE_TRY(moire_moe_create(bench->config, bench->mesh, bench->batch.tokens, &bench->moe));
    MOIRE_TRY(moire_moe_layer_create(&bench->moe, &bench->layer));
    MOIRE_TRY(moire_agree(world, allocate(bench)));
    MOIRE_TRY(moire_agree(world, create_rows(bench, &bench->output)));
    MOIRE_TRY(moire_agree(world, create_rows(bench, &bench->output_gradient)));
    fill(bench, 1, 1, bench->layer.inputs.data);
    fill(bench, 2, 1e-3, bench->output_gradient.data);
    return MOIRE_OK;
}

static void destroy(struct bench_layer *bench)
{
    moire_rows_free(bench->moe.exchange, &bench->output_gradient);
    moire_rows_free(bench->moe.exchange, &bench->output);
    moire_moe_layer_free(&bench->layer);
    if (bench->moe.mesh) moire_moe_free(&bench->moe);
    moire_release(bench->first_output);
    moire_release(bench->input_gradient);
    moire_release(bench->gradients);
    moire_release(bench->parameters);
    moire_tensors_free(&bench->tensors);
}

/* What this rank knows of its output: finite, and the same the second time. */
static moire_status compare(const struct bench_layer *bench)
{
    const int64_t count = bench->batch.tokens * bench->moe.dim;
    const int64_t wrong = moire_find_not_finite(count, bench->output.data);
    if (wrong >= 0)
        return moire_fail(MOIRE_FAILED,
                          "an output of the layer is not finite; found %g at token %lld, expected a number; "
                          "try fewer changes to the configuration",
                          (double)((const real *)bench->output.data)[wrong],
                          (long long)(bench->batch.first_token + wrong / bench->moe.dim));
    if (memcmp(bench->output.data, bench->first_output, (size_t)count * sizeof(real)) == 0) return MOIRE_OK;
    return moire_fail(MOIRE_FAILED,
                      "the layer's output does not repeat; found other bits the second time, expected the "
                      "same; try one thread, or another BLAS");
}

/* Two forwards with the same parameters, before anything is timed. Collective. */
static moire_status check(struct bench_layer *bench)
{
    const size_t bytes = (size_t)(bench->batch.tokens * bench->moe.dim) * sizeof(real);
    bench->batch.training = false;
    MOIRE_TRY(forward(bench));
    memcpy(bench->first_output, bench->output.data, bytes);
    MOIRE_TRY(forward(bench));
    bench->batch.training = true;
    return moire_agree(&bench->mesh->world, compare(bench));
}

/* After all updates too the parameters must be numbers. Collective. */
static moire_status check_parameters(const struct bench_layer *bench)
{
    int64_t wrong = moire_find_not_finite(moire_tensors_elements(&bench->tensors), bench->parameters);
    moire_status status = MOIRE_OK;
    if (wrong >= 0)
        status = moire_fail(MOIRE_FAILED,
                            "a parameter is not finite after the last update; found %g, expected a number; "
                            "try another BLAS",
                            (double)bench->parameters[wrong]);
    return moire_agree(&bench->mesh->world, status);
}

/* Forward takes 2 FLOP a token and matrix element that the token meets, and so do the gradients of the
 * matrices, and those of what the products read; of these, gate, up and router are left out where the
 * gradient of the input is not wanted. */
static void count_flops(const struct bench_layer *bench, struct moire_bench_work *work)
{
    const struct moire_moe *moe = &bench->moe;
    const double each = 2 * (double)bench->batch.global_tokens;
    const double matrix = (double)moe->dim * (double)moe->hidden_size, slots = (double)moe->top_k;
    const double entry = slots * matrix * (moe->kind == MOIRE_SWIGLU ? 2 : 1), exit = slots * matrix;
    const double router = (double)moe->dim * (double)moe->experts;
    const double input = bench->input_gradient ? 1 : 0;
    double *forward = work->flops[MOIRE_BENCH_FORWARD], *backward = work->flops[MOIRE_BENCH_BACKWARD];
    forward[MOIRE_PHASE_ROUTER] = each * router;
    forward[MOIRE_PHASE_EXPERTS] = each * (entry + exit);
    forward[MOIRE_PHASE_FORWARD] = forward[MOIRE_PHASE_ROUTER] + forward[MOIRE_PHASE_EXPERTS];
    backward[MOIRE_PHASE_ROUTER] = each * (1 + input) * router;
    backward[MOIRE_PHASE_EXPERTS] = each * ((1 + input) * entry + 2 * exit);
    backward[MOIRE_PHASE_BACKWARD] = backward[MOIRE_PHASE_ROUTER] + backward[MOIRE_PHASE_EXPERTS];
}

static double all_flops(const struct moire_bench_work *work)
{
    return work->flops[MOIRE_BENCH_FORWARD][MOIRE_PHASE_FORWARD] +
           work->flops[MOIRE_BENCH_BACKWARD][MOIRE_PHASE_BACKWARD];
}

/* Rows travel four times: dispatch and combine, forward and backward. */
static double count_bytes(const struct bench_layer *bench)
{
    return 4.0 * (double)bench->batch.global_tokens * (double)bench->moe.top_k * (double)bench->moe.dim *
           sizeof(real);
}

static moire_status report(struct moire_bench_run *run, const struct bench_layer *bench,
                           const struct moire_measure *measure, const struct moire_bench_work *work)
{
    const struct moire_moe *moe = &bench->moe;
    MOIRE_TRY(moire_bench_header(run->report, "layer",
                                 "%lld tokens, dim %lld, hidden %lld, %lld experts, top-%lld, %s, %s the "
                                 "gradient of the input, update p -= rate g; %.4g FLOP; MiB: rows of four "
                                 "moves",
                                 (long long)bench->batch.global_tokens, (long long)moe->dim,
                                 (long long)moe->hidden_size, (long long)moe->experts, (long long)moe->top_k,
                                 moe->kind == MOIRE_SWIGLU ? "swiglu" : "gelu",
                                 bench->input_gradient ? "with" : "without", all_flops(work)));
    MOIRE_TRY(moire_bench_describe(run, "layer", measure));
    return moire_bench_result(run, measure, 0, all_flops(work), (double)bench->batch.global_tokens,
                              count_bytes(bench));
}

static moire_status measure_layer(struct moire_bench_run *run, struct bench_layer *bench)
{
    struct moire_variant variants[2] = { { .name = "layer", .run = run_layer, .state = bench } };
    struct moire_measure measure = { .warmed = moire_bench_forget_phases };
    struct moire_bench_work work = { 0 };
    count_flops(bench, &work);
    moire_phases_reset();
    moire_status status = moire_bench_measure_peak(run, variants, 1, 0, &measure);
    if (status == MOIRE_OK) status = check_parameters(bench);
    if (status == MOIRE_OK) status = moire_agree(&run->mesh.world, report(run, bench, &measure, &work));
    if (status == MOIRE_OK) status = moire_bench_phases(run, &measure, &work);
    moire_measure_free(&measure);
    return status;
}

static moire_status run_bench(struct moire_bench_run *run)
{
    struct bench_layer bench = { .config = run->config, .mesh = &run->mesh };
    moire_status status = create(&bench);
    if (status == MOIRE_OK) status = check(&bench);
    if (status == MOIRE_OK) status = measure_layer(run, &bench);
    if (status == MOIRE_OK || moire_error_is_agreed()) destroy(&bench);
    return status;
}

const struct moire_bench moire_bench_layer = {
    .part = { .name = "layer",
              .arguments = "FILE.ini [--section.key=value ...]",
              .details = "layer measures one MoE layer on train.batch x model.sequence tokens: forward,\n"
                         "backward and an SGD update.\n"
                         "\n"
                         "  moire bench layer benchmarks/layer.ini --bench.input_grad=no" },
    .run = run_bench,
};
