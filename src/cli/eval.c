/* moire eval */
#include <stdio.h>

#include "moire/cli/cli.h"
#include "moire/train/train.h"

static moire_status evaluate(const struct moire_config *config, const struct moire_mesh *mesh,
                             const char *path)
{
    struct moire_data *data = NULL;
    struct moire_model model;
    struct moire_evaluation evaluation = { 0 };
    struct moire_routing_file replay = { 0 };
    int64_t step, sequences;
    MOIRE_TRY(moire_train_open_data(config, mesh, &data));
    moire_status status =
        moire_model_create(config, mesh, moire_train_local_sequences(config, mesh), false, &model);
    if (status != MOIRE_OK) goto close_data;
    status = moire_train_load(path, &model, NULL, &step, &sequences);
    if (status == MOIRE_OK) status = moire_train_replay(&model, &replay);
    if (status == MOIRE_OK) status = moire_evaluation_create(data, &model, &evaluation);
    if (status == MOIRE_OK) status = moire_evaluate(&model, data, config->evaluate_sequences, &evaluation);
    if (status == MOIRE_OK && mesh->world.rank == 0) {
        printf("checkpoint %s, step %lld\n", path, (long long)step);
        moire_evaluation_print(&evaluation, data);
    }
    moire_evaluation_free(&evaluation);
    moire_model_free(&model);
    moire_routing_free(&replay);
close_data:
    moire_data_close(data);
    return status;
}

static moire_status run(int argc, char **argv)
{
    return moire_cli_with_trained(argc, argv, evaluate);
}

const struct moire_command moire_command_eval = {
    .name = "eval",
    .arguments = "FILE.ini|CHECKPOINT|RUN [--section.key=value ...]",
    .summary = "loss and perplexity of a checkpoint on validation data",
    .details = "Reads the newest checkpoint of a run (or the one that is named) and prints\n"
               "validation loss and perplexity, in all and by domain, and tokens per expert.\n"
               "The configuration is the checkpoint's unless a FILE.ini is given.\n"
               "\n"
               "  moire eval runs/tiny\n"
               "  mpirun -n 2 moire eval runs/tiny --evaluate.sequences=all",
    .sections = "data evaluate parallel topology exchange",
    .mpi = true,
    .run = run,
};
