/* `moire`: the table of subcommands, and the one place where a process ends. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "moire/base/log.h"
#include "moire/base/real.h"
#include "moire/cli/cli.h"

const struct moire_command *const moire_commands[] = {
    &moire_command_train,  &moire_command_eval, &moire_command_generate, &moire_command_inspect,
    &moire_command_config, &moire_command_info, &moire_command_data,     &moire_command_bench,
    &moire_command_help,
};
const int moire_command_count = sizeof moire_commands / sizeof *moire_commands;

moire_status moire_cli_find_command(const char *name, const struct moire_command **command)
{
    const char *names[sizeof moire_commands / sizeof *moire_commands];
    int64_t index;
    for (int i = 0; i < moire_command_count; i++) names[i] = moire_commands[i]->name;
    MOIRE_TRY(moire_name_find("command", name, names, moire_command_count, &index));
    *command = moire_commands[index];
    return MOIRE_OK;
}

/* Looks for an option that is nearly one of the command's own; what is far from them may be a parameter. */
struct search {
    const char *argument;
    size_t letters; /* without =value */
    char names[8][32];
    int count;
    bool known;
};

static moire_status search_option(const char *option, void *state)
{
    struct search *search = state;
    size_t letters = strcspn(option, "=");
    if (letters == search->letters && memcmp(option, search->argument, letters) == 0) search->known = true;
    if (search->count < (int)(sizeof search->names / sizeof *search->names))
        snprintf(search->names[search->count++], sizeof *search->names, "%.*s", (int)letters, option);
    return MOIRE_OK;
}

static moire_status check_option(const struct moire_command *command, const char *argument)
{
    struct search search = { .argument = argument, .letters = strcspn(argument, "=") };
    char name[64];
    if (strncmp(argument, "--", 2) != 0 || search.letters >= sizeof name) return MOIRE_OK;
    if (memchr(argument, '.', search.letters)) return MOIRE_OK;
    MOIRE_TRY(moire_cli_each_word(command->options, search_option, &search));
    if (search.known) return MOIRE_OK;
    snprintf(name, sizeof name, "%.*s", (int)search.letters, argument);
    const char *names[sizeof search.names / sizeof *search.names];
    for (int i = 0; i < search.count; i++) names[i] = search.names[i];
    const char *nearest = moire_nearest_name(name, names, search.count);
    if (!nearest) return MOIRE_OK;
    return moire_fail(MOIRE_USAGE, "unknown option %s of moire %s; did you mean %s?", name, command->name,
                      nearest);
}

static moire_status check_options(const struct moire_command *command, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) MOIRE_TRY(check_option(command, argv[i]));
    return MOIRE_OK;
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

/* What is buffered for standard output may still find the disk full. */
static moire_status flush_output(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return MOIRE_OK;
    return moire_fail(MOIRE_NO_SPACE,
                      "standard output is not whole; found: %s, expected room for all of it; "
                      "try another file or disk",
                      errno ? strerror(errno) : "a write failed");
}

/* A failure that all ranks know of leaves through MPI_Finalize; one that only this rank knows of ends the
 * job. */
static int leave(moire_status status)
{
    if (status == MOIRE_OK) status = flush_output();
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

/* On a mistake ranks of a launcher agree on one message, though the command may need no MPI. */
static moire_status agree_on_mistake(moire_status status)
{
    if (status != MOIRE_OK && moire_mpi_is_launched() && !moire_mpi_is_running()) MOIRE_TRY(moire_mpi_start(false));
    return moire_cli_agree(status);
}

static moire_status run_command(int argc, char **argv)
{
    const struct moire_command *command;
    MOIRE_TRY(agree_on_mistake(moire_cli_find_command(argv[0], &command)));
    if (asks_for_help(argc - 1, argv + 1)) return moire_command_help.run(1, argv);
    if (command->mpi) MOIRE_TRY(moire_mpi_start(false));
    MOIRE_TRY(agree_on_mistake(check_options(command, argc - 1, argv + 1)));
    return command->run(argc - 1, argv + 1);
}

static moire_status run(int argc, char **argv)
{
    if (argc < 2) {
        MOIRE_TRY(moire_command_help.run(0, NULL));
        return MOIRE_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return moire_command_help.run(argc - 2, argv + 2);
    if (strcmp(argv[1], "--version") != 0) return run_command(argc - 1, argv + 1);
    printf("moire %s (%s)\n", PACKAGE_VERSION, MOIRE_REAL_NAME);
    return MOIRE_OK;
}

int main(int argc, char **argv)
{
    return leave(run(argc, argv));
}
