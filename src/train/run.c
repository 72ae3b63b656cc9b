/* What a run holds: made, opened, closed and freed. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "moire/base/file.h"
#include "moire/base/log.h"
#include "moire/base/random.h"
#include "moire/cluster/binding.h"
#include "moire/compute/emulate.h"
#include "moire/compute/linear.h"
#include "train/private.h"

enum { CLOCK_ROUNDS = 10 };

/* Before anything collective that depends on the configuration: ranks that disagree could wait for ever. */
static moire_status check_same_config(const struct moire_config *config)
{
    struct moire_communicator world;
    struct moire_text text = { 0 };
    MOIRE_TRY(moire_communicator_world(&world));
    moire_status status = moire_agree(&world, moire_config_text(config, false, &text));
    if (status == MOIRE_OK)
        status = moire_check_same(&world, moire_random_stream(text.data), "the configuration");
    moire_text_free(&text);
    moire_communicator_free(&world);
    return status;
}

static moire_status check_record(const struct moire_config *config)
{
    if (!config->moe_record || config->train_accumulate == 1) return MOIRE_OK;
    return moire_fail(
        MOIRE_USAGE,
        "moe.record writes one choice a token and step; found train.accumulate = %lld, expected 1; "
        "try a smaller train.batch",
        (long long)config->train_accumulate);
}

static moire_status check_config(struct moire_run *run)
{
    moire_status status = moire_schedule_find(run->config->train_schedule, &run->schedule);
    if (status == MOIRE_OK) status = check_record(run->config);
    if (status == MOIRE_OK) status = moire_model_check(run->config);
    if (status == MOIRE_OK) status = moire_emulation_start(run->config);
    return moire_agree(&run->mesh.world, status);
}

/* Emulated ranks sleep: they may share. */
static moire_status check_binding(const struct moire_communicator *world)
{
    struct moire_binding binding;
    if (moire_is_emulated()) return MOIRE_OK;
    MOIRE_TRY(moire_binding_find(world, moire_compute_threads(), &binding));
    return moire_binding_warn(world, &binding);
}

static moire_status join(const char *directory, const char *name, char **path)
{
    struct moire_text text = { 0 };
    moire_status status = moire_text_add(&text, "%s/%s", directory, name);
    if (status == MOIRE_OK)
        *path = text.data;
    else
        moire_text_free(&text);
    return status;
}

static moire_status allocate(struct moire_run *run)
{
    const struct moire_config *config = run->config;
    const moire_memory_kind kind = MOIRE_MEMORY_OTHER;
    int64_t loads = run->model.moe_layers * config->moe_experts;
    MOIRE_TRY(moire_optimizer_create(config, &run->mesh, &run->model.tensors, &run->optimizer));
    MOIRE_TRY(moire_step_tokens_create(config, &run->mesh, &run->tokens));
    MOIRE_TRY(moire_allocate(kind, loads, sizeof *run->load, &run->load));
    MOIRE_TRY(moire_allocate(kind, loads, sizeof *run->part_load, &run->part_load));
    MOIRE_TRY(moire_record_create(run));
    MOIRE_TRY(join(config->run_dir, "routing.h5", &run->routing));
    return join(config->run_dir, "checkpoints", &run->checkpoints);
}

moire_status moire_train_open_data(const struct moire_config *config, const struct moire_mesh *mesh,
                                   struct moire_data **data)
{
    struct moire_data *opened = NULL;
    moire_status status = moire_agree(&mesh->world, moire_data_open(config, &opened));
    if (status == MOIRE_OK) status = moire_check_same(&mesh->world, moire_data_checksum(opened), "the data");
    if (status == MOIRE_OK)
        *data = opened;
    else
        moire_data_close(opened);
    return status;
}

moire_status moire_run_create(const struct moire_config *config, struct moire_run *run)
{
    memset(run, 0, sizeof *run);
    run->config = config;
    run->checkpoint_step = -1;
    MOIRE_TRY(check_same_config(config));
    MOIRE_TRY(moire_mesh_create(config, &run->mesh));
    MOIRE_TRY(check_config(run));
    MOIRE_TRY(check_binding(&run->mesh.world));
    MOIRE_TRY(moire_train_open_data(config, &run->mesh, &run->data));
    int64_t sequences = moire_train_local_sequences(config, &run->mesh);
    MOIRE_TRY(moire_model_create(config, &run->mesh, sequences, true, &run->model));
    moire_emulation_attach(run);
    MOIRE_TRY(moire_train_replay(&run->model, &run->replay));
    MOIRE_TRY(moire_agree(&run->mesh.world, allocate(run)));
    return moire_evaluation_create(run->data, &run->model, &run->evaluation);
}

static moire_status make_directories(const struct moire_run *run)
{
    return run->mesh.world.rank == 0 ? moire_directory_make(run->checkpoints) : MOIRE_OK;
}

static moire_status open_metrics(struct moire_run *run)
{
    char *path;
    MOIRE_TRY(join(run->config->run_dir, "metrics.jsonl", &path));
    moire_status status = moire_metrics_open(path, run->step, &run->metrics);
    moire_release(path);
    return status;
}

/* How far the clocks of all ranks lie from rank 0's, for who compares times of several ranks. Rank 0 has them all. */
static void describe_clocks(const struct moire_clock *clock, int ranks, char *text, size_t bytes)
{
    int worst = 0;
    double uncertainty = 0;
    for (int rank = 0; rank < ranks; rank++) {
        if (fabs(clock->offsets[rank]) > fabs(clock->offsets[worst])) worst = rank;
        uncertainty = fmax(uncertainty, clock->uncertainties[rank]);
    }
    snprintf(text, bytes, "largest offset %.3g s (rank %d), known to %.3g s", clock->offsets[worst], worst,
             uncertainty);
}

static moire_status start_manifest(struct moire_run *run)
{
    const bool has_experts = run->model.moe_layers > 0;
    char clocks[128], compute[64];
    describe_clocks(&run->clock, run->mesh.world.size, clocks, sizeof clocks);
    moire_emulate_describe(compute, sizeof compute);
    const char *const facts[][2] = {
        { "element", MOIRE_REAL_NAME },
        { "compute", compute },
        { "blas", moire_blas_description() },
        { "exchange", has_experts ? moire_exchange_backend(run->model.moe.exchange) : "none" },
        { "resumed_from", run->resumed ? run->resumed : "nothing" },
        { "clocks", clocks },
    };
    return moire_manifest_start(run->config->run_dir, run->config, &run->mesh, run->step, facts,
                                sizeof facts / sizeof *facts, &run->manifest);
}

/* Files that rank 0 alone writes. */
static moire_status open_files(struct moire_run *run)
{
    if (run->mesh.world.rank != 0) return MOIRE_OK;
    MOIRE_TRY(open_metrics(run));
    return start_manifest(run);
}

moire_status moire_run_open(struct moire_run *run)
{
    MOIRE_TRY(moire_agree(&run->mesh.world, make_directories(run)));
    if (moire_is_emulated())
        MOIRE_TRY(moire_agree(&run->mesh.world, moire_emulation_check_directory(run)));
    else
        MOIRE_TRY(moire_run_resume(run));
    MOIRE_TRY(moire_clock_synchronise(&run->mesh.world, CLOCK_ROUNDS, &run->clock));
    run->first_step = run->step;
    return moire_agree(&run->mesh.world, open_files(run));
}

moire_status moire_run_close(struct moire_run *run, moire_status outcome)
{
    char text[64];
    snprintf(text, sizeof text, "failed: %s", moire_status_name(outcome));
    if (outcome == MOIRE_OK) snprintf(text, sizeof text, "done");
    if (outcome == MOIRE_STOPPED) snprintf(text, sizeof text, "stopped");
    moire_status status = run->manifest ? moire_manifest_end(run->manifest, run->step, text) : MOIRE_OK;
    moire_metrics_close(run->metrics);
    run->manifest = NULL;
    run->metrics = NULL;
    return status;
}

void moire_run_free(struct moire_run *run)
{
    moire_evaluation_free(&run->evaluation);
    moire_release(run->resumed);
    moire_release(run->routing);
    moire_release(run->checkpoints);
    moire_release(run->chosen);
    moire_release(run->part_load);
    moire_release(run->load);
    moire_step_tokens_free(&run->tokens);
    moire_optimizer_free(&run->optimizer);
    moire_model_free(&run->model);
    moire_clock_free(&run->clock);
    moire_routing_free(&run->replay);
    moire_data_close(run->data);
    moire_mesh_free(&run->mesh);
    memset(run, 0, sizeof *run);
}
