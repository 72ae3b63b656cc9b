/* moire train */
#include <stdio.h>

#include "moire/cli/cli.h"
#include "moire/compute/linear.h"
#include "moire/model/model.h"
#include "moire/train/train.h"

/* --dry-run: what would run. Collective over the world; rank 0 prints. */
static moire_status dry_run(const struct moire_config *config)
{
    struct moire_mesh mesh;
    struct moire_model_counts counts;
    char text[32];
    MOIRE_TRY(moire_mesh_create(config, &mesh));
    moire_status status = moire_agree(&mesh.world, moire_model_count(config, &counts));
    if (status == MOIRE_OK && mesh.world.rank == 0) {
        double tokens = (double)config->train_batch * (double)config->model_sequence;
        printf("mesh           %d ranks on %d nodes: %d x %d (data x expert), %d threads a rank\n", mesh.world.size, mesh.nodes, mesh.groups,
               mesh.expert.size, moire_compute_threads());
        status = moire_cli_print_model(config);
        printf("step           %.0f tokens, %.3g FLOP, %lld steps\n", tokens, tokens * counts.training_flops_per_token,
               (long long)config->train_steps);
        double dense = (double)(counts.parameters - counts.expert_parameters), experts = (double)counts.expert_parameters / mesh.expert.size;
        printf("memory a rank  %s for parameters, gradients and two moments, on average\n",
               moire_cli_bytes((dense + experts) * 4 * sizeof(real), text));
        printf("writes to      %s\n", config->run_dir);
    }
    moire_mesh_free(&mesh);
    return status;
}

static moire_status run(int argc, char **argv)
{
    struct moire_config config = { 0 };
    bool dry = moire_cli_flag(&argc, argv, "--dry-run");
    moire_status status = moire_cli_load_all(argc, argv, &config);
    if (status == MOIRE_OK) status = dry ? dry_run(&config) : moire_train(&config);
    moire_config_free(&config);
    return status;
}

const struct moire_command moire_command_train = {
    .name = "train",
    .arguments = "FILE.ini [--dry-run] [--section.key=value ...]",
    .summary = "train a model; alone, under mpirun or under srun",
    .details =
        "Trains the model that FILE.ini describes and writes run.dir: run.json,\n"
        "metrics.jsonl and checkpoints/. Started again, it goes on from the newest\n"
        "checkpoint. --dry-run says what would run and writes nothing.\n"
        "\n"
        "  moire train examples/tiny.ini\n"
        "  mpirun -n 4 moire train examples/tiny.ini --train.steps=50\n"
        "  srun --mpi=pmix moire train examples/tiny.ini -o runs/second\n"
        "\n"
        "Exit codes: 0 done, 1 failed, 2 usage or configuration, 75 stopped with a\n"
        "valid checkpoint (start it again to go on).",
    .sections = "run model moe parallel exchange train data evaluate checkpoint",
    .mpi = true,
    .run = run,
};
