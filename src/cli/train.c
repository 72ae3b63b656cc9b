/* moire train */
#include <signal.h>
#include <stdio.h>

#include "moire/base/log.h"
#include "moire/cli/cli.h"
#include "moire/compute/linear.h"
#include "moire/model/model.h"
#include "moire/train/train.h"

/* What would run and with what. Rank 0 alone. */
static moire_status print_plan(const struct moire_config *config, const struct moire_mesh *mesh,
                               const struct moire_data *data, const int64_t bytes[MOIRE_MEMORY_KINDS])
{
    struct moire_model_counts counts;
    char text[32];
    MOIRE_TRY(moire_model_count(config, &counts));
    double tokens = (double)config->train_batch * (double)config->model_sequence;
    int threads = moire_compute_threads();
    printf("mesh             %d rank%s on %d node%s, %d x %d (data x expert), %d thread%s a rank\n",
           mesh->world.size, moire_cli_plural(mesh->world.size), mesh->nodes, moire_cli_plural(mesh->nodes),
           mesh->groups, mesh->expert.size, threads, moire_cli_plural(threads));
    MOIRE_TRY(moire_cli_print_model(config));
    printf("data             %18s training sequences,",
           moire_cli_thousands(moire_data_sequences(data, MOIRE_TRAINING), text));
    printf(" %s for validation\n", moire_cli_thousands(moire_data_sequences(data, MOIRE_VALIDATION), text));
    printf("step             %18.0f tokens, %.3g FLOP\n", tokens, tokens * counts.training_flops_per_token);
    if (config->compute_mode == MOIRE_COMPUTE_EMULATE)
        printf("compute          %18.3g FLOP/s a rank, emulated\n", config->compute_rate);
    printf("steps            %18s\n", moire_cli_thousands(config->train_steps, text));
    printf("writes to        %s\n", config->run_dir);
    moire_train_print_memory(bytes, NULL);
    return MOIRE_OK;
}

/* --dry-run. The data is opened: a wrong path shows before a job has waited for its turn. Collective over the
 * world. */
static moire_status dry_run(const struct moire_config *config)
{
    struct moire_mesh mesh;
    struct moire_data *data = NULL;
    int64_t bytes[MOIRE_MEMORY_KINDS];
    MOIRE_TRY(moire_mesh_create(config, &mesh));
    moire_status status = moire_train_open_data(config, &mesh, &data);
    if (status == MOIRE_OK) status = moire_train_memory_even(config, &mesh, bytes);
    if (status == MOIRE_OK)
        status = moire_agree(&mesh.world,
                             mesh.world.rank == 0 ? print_plan(config, &mesh, data, bytes) : MOIRE_OK);
    moire_data_close(data);
    moire_mesh_free(&mesh);
    return status;
}

/* Says at the start what will take a while. */
static moire_status announce(const struct moire_config *config)
{
    struct moire_model_counts counts;
    char parameters[32], active[32];
    int ranks;
    MOIRE_TRY(moire_model_count(config, &counts));
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    moire_log("%s parameters, %s active a token; %d rank%s",
              moire_cli_thousands(counts.parameters, parameters),
              moire_cli_thousands(counts.active_parameters, active), ranks, moire_cli_plural(ranks));
    moire_log("%lld step%s of %lld x %lld tokens, written to %s", (long long)config->train_steps,
              moire_cli_plural(config->train_steps), (long long)config->train_batch,
              (long long)config->model_sequence, config->run_dir);
    return MOIRE_OK;
}

static moire_status train(const struct moire_config *config)
{
    MOIRE_TRY(moire_cli_agree(announce(config)));
    /* moire_train catches these while it runs and leaves them as they were. Batch systems signal more than once:
     * the second one must not end a process that is on its way out with a checkpoint and its exit code. */
    signal(SIGTERM, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    MOIRE_TRY(moire_train(config));
    if (moire_where.rank != 0) return MOIRE_OK;
    printf("\nwritten to %s", config->run_dir);
    if (config->compute_mode == MOIRE_COMPUTE_REAL) printf("; next: moire generate %s", config->run_dir);
    putchar('\n');
    return MOIRE_OK;
}

static moire_status run(int argc, char **argv)
{
    struct moire_config config = { 0 };
    bool dry = moire_cli_flag(&argc, argv, "--dry-run");
    moire_status status = moire_cli_load_all(argc, argv, true, &config);
    if (status == MOIRE_OK) status = dry ? dry_run(&config) : train(&config);
    moire_config_free(&config);
    return status;
}

const struct moire_command moire_command_train = {
    .name = "train",
    .arguments = "FILE.ini [--dry-run] [--section.key=value ...]",
    .summary = "train a model; alone, under mpirun or under srun",
    .details = "Trains the model that FILE.ini describes and writes run.dir: run.json,\n"
               "metrics.jsonl and checkpoints/. Started again, it goes on from the newest\n"
               "checkpoint. --dry-run opens the data, says what would run and writes nothing.\n"
               "\n"
               "  moire train examples/tiny.ini\n"
               "  mpirun -n 4 moire train examples/tiny.ini --train.steps=50\n"
               "  srun --mpi=pmix moire train examples/tiny.ini -o runs/second\n"
               "\n"
               "Exit codes: 0 done, 1 failed, 2 usage or configuration, 75 stopped with a\n"
               "valid checkpoint (start it again to go on).",
    .sections = "run model moe parallel topology compute exchange train data evaluate checkpoint",
    .options = "--dry-run",
    .mpi = true,
    .run = run,
};
