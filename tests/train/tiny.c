#include "tiny.h"

#include <stdlib.h>
#include <string.h>

#include "../support/harness.h"

char scratch[64];

void set(struct moire_config *config, const char *name, const char *value)
{
    expect_ok(moire_config_set(config, name, value, MOIRE_FROM_COMMAND));
}

void make_config(struct moire_config *config)
{
    static const char *const values[][2] = {
        { "model.layers", "1" },       { "model.dim", "16" },          { "model.heads", "2" },
        { "model.sequence", "8" },     { "model.vocabulary", "128" },  { "moe.experts", "3" },
        { "moe.expert_hidden", "8" },  { "train.batch", "6" },         { "train.steps", "10" },
        { "train.warmup", "0" },       { "data.source", "synthetic" }, { "data.synthetic_sequences", "300" },
        { "evaluate.every", "never" }, { "evaluate.sequences", "5" },  { "checkpoint.every", "never" },
        { "run.progress", "no" },
    };
    expect_ok(moire_config_create(config));
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) set(config, values[i][0], values[i][1]);
    snprintf(scratch, sizeof scratch, "/tmp/moire-test-loop-XXXXXX");
    if (test_rank == 0 && !mkdtemp(scratch)) abort();
    MPI_Bcast(scratch, sizeof scratch, MPI_CHAR, 0, MPI_COMM_WORLD);
    set(config, "run.dir", scratch);
}

void clean(struct moire_config *config)
{
    char command[LONGEST];
    moire_config_free(config);
    MPI_Barrier(MPI_COMM_WORLD);
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    if (test_rank == 0 && system(command) != 0) abort();
}

const char *in_scratch(const char *name)
{
    static char path[LONGEST];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    return path;
}
