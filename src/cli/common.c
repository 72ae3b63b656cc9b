/* What subcommands share: finding configuration and checkpoint, and numbers for people. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "moire/base/log.h"
#include "moire/cli/cli.h"
#include "moire/exchange/exchange.h"
#include "moire/io/checkpoint.h"
#include "moire/io/data.h"
#include "moire/model/model.h"
#include "moire/train/optimizer.h"

static void drop_argument(int *argc, char **argv, int index)
{
    memmove(argv + index, argv + index + 1, sizeof *argv * (size_t)(*argc - index - 1));
    --*argc;
}

bool moire_cli_flag(int *argc, char **argv, const char *name)
{
    for (int i = 0; i < *argc; i++) {
        if (strcmp(argv[i], name) != 0) continue;
        drop_argument(argc, argv, i);
        return true;
    }
    return false;
}

const char *moire_cli_option(int *argc, char **argv, const char *name)
{
    size_t length = strlen(name);
    for (int i = 0; i < *argc; i++) {
        if (strncmp(argv[i], name, length) != 0 || argv[i][length] != '=') continue;
        const char *value = argv[i] + length + 1;
        drop_argument(argc, argv, i);
        return value;
    }
    return NULL;
}

moire_status moire_cli_check(const struct moire_config *config)
{
    const struct moire_schedule *schedule;
    MOIRE_TRY(moire_model_check(config));
    MOIRE_TRY(moire_data_check_source(config->data_source));
    MOIRE_TRY(moire_exchange_check_backend(config->exchange_backend));
    return moire_schedule_find(config->train_schedule, &schedule);
}

moire_status moire_cli_load(int argc, char **argv, bool file_needed, struct moire_config *config)
{
    bool has_file = argc > 0 && argv[0][0] != '-';
    if (!has_file && file_needed)
        return moire_fail(MOIRE_USAGE, "no configuration was given; expected FILE.ini as the first argument; try examples/tiny.ini");
    if (has_file)
        return moire_config_load(config, argv[0], argc - 1, argv + 1);
    return moire_config_load(config, NULL, argc, argv);
}

moire_status moire_cli_load_all(int argc, char **argv, struct moire_config *config)
{
    struct moire_communicator world;
    MOIRE_TRY(moire_communicator_world(&world));
    moire_log_set_quiet(world.rank != 0);
    moire_status status = moire_cli_load(argc, argv, true, config);
    if (status == MOIRE_OK) status = moire_cli_check(config);
    status = moire_agree(&world, status);
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
    moire_status status = moire_text_add(&directory, "%s/checkpoints", run);
    if (status == MOIRE_OK) status = moire_checkpoint_latest(directory.data, path);
    if (status == MOIRE_OK && !*path)
        status = moire_fail(MOIRE_NO_FILE, "no checkpoint in %s; expected one that `moire train` wrote; try another run.dir", directory.data);
    moire_text_free(&directory);
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

static moire_status load_trained(int argc, char **argv, struct moire_config *config, char **path)
{
    if (argc < 1 || argv[0][0] == '-')
        return moire_fail(MOIRE_USAGE, "nothing to work on was given; expected FILE.ini, a checkpoint or a run directory; try runs/tiny");
    if (is_directory(argv[0])) {
        MOIRE_TRY(latest_of_run(argv[0], path));
        return load_of_checkpoint(*path, argc - 1, argv + 1, config);
    }
    if (moire_checkpoint_is(argv[0])) {
        MOIRE_TRY(moire_copy_text(argv[0], path));
        return load_of_checkpoint(argv[0], argc - 1, argv + 1, config);
    }
    MOIRE_TRY(moire_cli_load(argc, argv, true, config));
    if (strcmp(config->checkpoint_resume, "auto") == 0 || strcmp(config->checkpoint_resume, "never") == 0)
        return latest_of_run(config->run_dir, path);
    return moire_copy_text(config->checkpoint_resume, path);
}

moire_status moire_cli_load_trained(int argc, char **argv, struct moire_config *config, char **path)
{
    struct moire_communicator world;
    MOIRE_TRY(moire_communicator_world(&world));
    moire_log_set_quiet(world.rank != 0);
    *path = NULL;
    moire_status status = load_trained(argc, argv, config, path);
    if (status == MOIRE_OK) status = moire_cli_check(config);
    status = moire_agree(&world, status);
    moire_communicator_free(&world);
    if (status != MOIRE_OK) {
        moire_release(*path);
        *path = NULL;
    }
    return status;
}

char *moire_cli_bytes(double bytes, char text[32])
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
    size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text, 32, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return text;
}

char *moire_cli_thousands(int64_t number, char text[32])
{
    char plain[32];
    int digits = snprintf(plain, sizeof plain, "%lld", (long long)number), at = 0;
    for (int i = 0; i < digits; i++) {
        if (i > 0 && plain[i - 1] != '-' && (digits - i) % 3 == 0) text[at++] = ',';
        text[at++] = plain[i];
    }
    text[at] = 0;
    return text;
}
