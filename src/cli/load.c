/* Configuration and checkpoint of a command, alike on all ranks. */
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "moire/base/file.h"
#include "moire/base/log.h"
#include "moire/cli/cli.h"
#include "moire/compute/blas.h"
#include "moire/exchange/exchange.h"
#include "moire/io/checkpoint.h"
#include "moire/io/data.h"
#include "moire/model/model.h"
#include "moire/train/optimizer.h"

moire_status moire_cli_check(const struct moire_config *config)
{
    const struct moire_schedule *schedule;
    MOIRE_TRY(moire_model_check(config));
    MOIRE_TRY(moire_data_check_source(config->data_source));
    MOIRE_TRY(moire_exchange_check_backend(config->exchange_backend));
    return moire_schedule_find(config->train_schedule, &schedule);
}

int moire_cli_operand(int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (argv[i][0] != '-') return i;
        bool holds_value = strncmp(argv[i], "--", 2) == 0 && strchr(argv[i], '=');
        if (!holds_value) i++;
    }
    return -1;
}

/* Takes the operand from the list; NULL: there is none. */
static char *take_operand(int *argc, char **argv)
{
    int index = moire_cli_operand(*argc, argv);
    if (index < 0) return NULL;
    char *operand = argv[index];
    --*argc;
    memmove(argv + index, argv + index + 1, sizeof *argv * (size_t)(*argc - index));
    return operand;
}

/* An empty one is what a shell leaves behind that writes over the file it reads, or a full disk. */
static moire_status check_file(const char *file)
{
    struct stat found;
    if (stat(file, &found) != 0) return MOIRE_OK; /* reading it says why */
    if (S_ISDIR(found.st_mode))
        return moire_fail(
            MOIRE_USAGE,
            "%s is no configuration; found a directory, expected FILE.ini; a run goes on when it "
            "is started with its FILE.ini again",
            file);
    if (!S_ISREG(found.st_mode) || found.st_size > 0) return MOIRE_OK;
    return moire_fail(MOIRE_USAGE,
                      "%s is empty; found 0 bytes, expected [section] and key = value; "
                      "try moire config > new.ini for one with every key",
                      file);
}

/* Index of compute.rate in the table of parameters. */
static int rate_index(void)
{
    int index = 0;
    while (moire_parameters[index].field != offsetof(struct moire_config, compute_rate)) index++;
    return index;
}

static moire_status take_rate(const struct moire_config *machine, const char *path,
                              struct moire_config *config)
{
    const int index = rate_index();
    struct moire_text rate = { 0 };
    if (machine->origins[index] == MOIRE_FROM_DEFAULT)
        return moire_fail(
            MOIRE_USAGE,
            "%s says nothing of this machine's speed; found no compute.rate, expected [compute] with "
            "rate = FLOP/s; try the peak that moire bench gemm prints",
            path);
    if (config->origins[index] != MOIRE_FROM_DEFAULT) return MOIRE_OK;
    moire_status status = moire_config_value(machine, &moire_parameters[index], &rate);
    if (status == MOIRE_OK) status = moire_config_set(config, "compute.rate", rate.data, MOIRE_FROM_FILE);
    moire_text_free(&rate);
    return status;
}

/* The machine file is in the language of configurations. */
static moire_status read_machine(struct moire_config *config)
{
    const char *path = config->compute_machine;
    struct moire_config machine = { 0 };
    char *text = NULL;
    int64_t bytes;
    if (path[0] == 0) return MOIRE_OK;
    moire_status status = moire_file_read(path, &text, &bytes);
    if (status == MOIRE_OK) status = moire_config_create(&machine);
    if (status == MOIRE_OK) status = moire_config_parse(&machine, path, text, MOIRE_FROM_FILE);
    if (status == MOIRE_OK) status = take_rate(&machine, path, config);
    moire_config_free(&machine);
    moire_release(text);
    return status;
}

static moire_status load(const char *file, int argc, char **argv, bool file_needed,
                         struct moire_config *config)
{
    if (file) MOIRE_TRY(check_file(file));
    MOIRE_TRY(moire_config_load(config, file, argc, argv));
    MOIRE_TRY(read_machine(config));
    if (file || !file_needed) return MOIRE_OK;
    return moire_fail(MOIRE_USAGE,
                      "no configuration was given; found no argument but options, expected FILE.ini; "
                      "try examples/tiny.ini");
}

moire_status moire_cli_load(int argc, char **argv, bool file_needed, struct moire_config *config)
{
    char *file = take_operand(&argc, argv);
    return load(file, argc, argv, file_needed, config);
}

/* Names the first parameter that differs from rank 0's. */
static moire_status fail_difference(const struct moire_config *config, const struct moire_config *root,
                                    int rank)
{
    moire_status status = MOIRE_OK;
    for (int i = 0; i < moire_parameter_count && status == MOIRE_OK; i++) {
        const struct moire_parameter *parameter = &moire_parameters[i];
        struct moire_text mine = { 0 }, theirs = { 0 };
        status = moire_config_value(config, parameter, &mine);
        if (status == MOIRE_OK) status = moire_config_value(root, parameter, &theirs);
        const char *found = mine.data ? mine.data : "", *expected = theirs.data ? theirs.data : "";
        if (status == MOIRE_OK && strcmp(found, expected) != 0)
            status =
                moire_fail(MOIRE_USAGE,
                           "%s.%s differs between ranks; found '%s' on rank %d, expected '%s' as on rank 0; "
                           "give every rank the same files, arguments and environment",
                           parameter->section, parameter->key, found, rank, expected);
        moire_text_free(&theirs);
        moire_text_free(&mine);
    }
    return status;
}

static moire_status compare(const struct moire_config *config, const char *text, const char *root_text,
                            int rank)
{
    struct moire_config root = { 0 };
    if (strcmp(text, root_text) == 0) return MOIRE_OK;
    moire_status status = moire_config_create(&root);
    if (status == MOIRE_OK)
        status = moire_config_parse(&root, "rank 0's configuration", root_text, MOIRE_FROM_FILE);
    if (status == MOIRE_OK) status = fail_difference(config, &root, rank);
    moire_config_free(&root);
    return status;
}

/* Every rank gets rank 0's text in new memory. Collective. */
static moire_status share_text(const struct moire_communicator *world, const char *text, char **shared)
{
    int64_t bytes = world->rank == 0 ? (int64_t)strlen(text) + 1 : 0;
    char *copy = NULL;
    MOIRE_TRY(moire_broadcast(world, &bytes, sizeof bytes, 0));
    moire_status status = moire_agree(world, moire_allocate(MOIRE_MEMORY_OTHER, bytes, 1, &copy));
    if (status == MOIRE_OK && world->rank == 0) memcpy(copy, text, (size_t)bytes);
    if (status == MOIRE_OK) status = moire_broadcast(world, copy, bytes, 0);
    if (status == MOIRE_OK)
        *shared = copy;
    else
        moire_release(copy);
    return status;
}

/* Ranks that disagree could wait for one another for ever. Collective. */
static moire_status check_same(const struct moire_communicator *world, const struct moire_config *config)
{
    struct moire_text text = { 0 };
    char *root_text = NULL;
    moire_status status = moire_agree(world, moire_config_text(config, false, &text));
    if (status == MOIRE_OK) status = share_text(world, text.data, &root_text);
    if (status == MOIRE_OK) status = moire_agree(world, compare(config, text.data, root_text, world->rank));
    moire_release(root_text);
    moire_text_free(&text);
    return status;
}

moire_status moire_cli_load_all(int argc, char **argv, bool file_needed, struct moire_config *config)
{
    struct moire_communicator world;
    MOIRE_TRY(moire_communicator_world(&world));
    moire_log_set_quiet(world.rank != 0);
    moire_status status = moire_cli_load(argc, argv, file_needed, config);
    if (status == MOIRE_OK) status = moire_cli_check(config);
    status = moire_agree(&world, status);
    if (status == MOIRE_OK) status = check_same(&world, config);
    if (status == MOIRE_OK) moire_blas_warn();
    moire_communicator_free(&world);
    return status;
}

static bool is_directory(const char *path)
{
    struct stat found;
    return stat(path, &found) == 0 && S_ISDIR(found.st_mode);
}

static moire_status latest_of_run(const char *run, char **path)
{
    struct moire_text directory = { 0 };
    char *found = NULL;
    moire_status status = moire_text_add(&directory, "%s/checkpoints", run);
    if (status == MOIRE_OK) status = moire_checkpoint_latest(directory.data, &found);
    if (status == MOIRE_OK && !found)
        status = moire_fail(MOIRE_NO_FILE,
                            "no checkpoint in %s; expected one that moire train wrote; "
                            "try another run.dir, or train first",
                            directory.data);
    moire_text_free(&directory);
    if (status == MOIRE_OK) *path = found;
    return status;
}

/* The checkpoint's own configuration, with the arguments on top. */
static moire_status load_of_checkpoint(const char *path, int argc, char **argv, struct moire_config *config)
{
    struct moire_checkpoint_state state;
    MOIRE_TRY(moire_checkpoint_read_state(path, &state));
    moire_status status = moire_config_create(config);
    if (status == MOIRE_OK) status = moire_config_parse(config, path, state.config, MOIRE_FROM_FILE);
    if (status == MOIRE_OK) status = moire_config_override(config, argc, argv);
    moire_checkpoint_state_free(&state);
    return status;
}

bool moire_cli_is_checkpoint(const char *path)
{
    char target[PATH_MAX];
    if (moire_checkpoint_is(path)) return true;
    const char *name = realpath(path, target) ? target : path; /* "latest" is a link */
    size_t length = strlen(name);
    return length >= 3 && strcmp(name + length - 3, ".h5") == 0;
}

static moire_status load_trained(int argc, char **argv, struct moire_config *config, char **path)
{
    const char *operand = take_operand(&argc, argv);
    if (!operand) {
        MOIRE_TRY(moire_config_load(config, NULL, argc, argv)); /* a wrong option is the likelier mistake */
        return moire_fail(MOIRE_USAGE,
                          "nothing to work on was given; found no argument but options, expected FILE.ini, "
                          "a checkpoint or a run directory; try runs/tiny");
    }
    if (is_directory(operand)) {
        MOIRE_TRY(latest_of_run(operand, path));
        return load_of_checkpoint(*path, argc, argv, config);
    }
    if (moire_cli_is_checkpoint(operand)) {
        MOIRE_TRY(moire_copy_text(operand, path));
        return load_of_checkpoint(operand, argc, argv, config);
    }
    MOIRE_TRY(load(operand, argc, argv, true, config));
    if (strcmp(config->checkpoint_resume, "auto") == 0 || strcmp(config->checkpoint_resume, "never") == 0)
        return latest_of_run(config->run_dir, path);
    return moire_copy_text(config->checkpoint_resume, path);
}

static moire_status load_trained_all(int argc, char **argv, struct moire_config *config, char **path)
{
    struct moire_communicator world;
    char *own = NULL;
    MOIRE_TRY(moire_communicator_world(&world));
    moire_log_set_quiet(world.rank != 0);
    moire_status status = load_trained(argc, argv, config, &own);
    if (status == MOIRE_OK) status = moire_cli_check(config);
    status = moire_agree(&world, status);
    if (status == MOIRE_OK) status = check_same(&world, config);
    /* a training that goes on meanwhile may have moved "latest" between two ranks' looks at it */
    if (status == MOIRE_OK) status = share_text(&world, own, path);
    if (status == MOIRE_OK) moire_blas_warn();
    moire_release(own);
    moire_communicator_free(&world);
    return status;
}

moire_status moire_cli_with_trained(int argc, char **argv, moire_cli_trained_work *work)
{
    struct moire_config config = { 0 };
    struct moire_mesh mesh;
    char *path = NULL;
    moire_status status = load_trained_all(argc, argv, &config, &path);
    if (status == MOIRE_OK) status = moire_mesh_create(&config, &mesh);
    if (status == MOIRE_OK) {
        status = work(&config, &mesh, path);
        moire_mesh_free(&mesh);
    }
    moire_release(path);
    moire_config_free(&config);
    return status;
}
