/* `moire`: the table of subcommands, and the one place where a process ends. */
#include <stdio.h>
#include <string.h>

#include "moire/base/log.h"
#include "moire/base/real.h"
#include "moire/cli/cli.h"

const struct moire_command *const moire_commands[] = {
    &moire_command_train, &moire_command_eval, &moire_command_generate, &moire_command_inspect,
    &moire_command_config, &moire_command_info, &moire_command_data, &moire_command_help,
};
const int moire_command_count = sizeof moire_commands / sizeof *moire_commands;

static moire_status find_command(const char *name, const struct moire_command **command)
{
    const char *names[sizeof moire_commands / sizeof *moire_commands];
    int64_t index;
    for (int i = 0; i < moire_command_count; i++) names[i] = moire_commands[i]->name;
    MOIRE_TRY(moire_name_find("command", name, names, moire_command_count, &index));
    *command = moire_commands[index];
    return MOIRE_OK;
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

/* A failure that all ranks know of leaves through MPI_Finalize; one that only this rank knows of ends the job. */
static int leave(moire_status status)
{
    int code = moire_status_exit_code(status);
    if (status != MOIRE_OK && !moire_error_is_agreed() && moire_mpi_is_running()) {
        moire_error_print();
        moire_mpi_abort(code);
    }
    if (status != MOIRE_OK) moire_error_print();
    moire_mpi_stop();
#ifdef MOIRE_DEBUG
    if (moire_memory_report_leaks() > 0 && code == 0) code = 1;
#endif
    return code;
}

static moire_status run_command(int argc, char **argv)
{
    const struct moire_command *command;
    MOIRE_TRY(find_command(argv[0], &command));
    if (asks_for_help(argc - 1, argv + 1)) return moire_command_help.run(1, argv);
    if (command->mpi) MOIRE_TRY(moire_mpi_start(false));
    return command->run(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        moire_command_help.run(0, argv);
        return argc < 2 ? moire_status_exit_code(MOIRE_USAGE) : 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("moire %s (%s)\n", PACKAGE_VERSION, MOIRE_REAL_NAME);
        return 0;
    }
    return leave(run_command(argc - 1, argv + 1));
}
