/* moire config */
#include <stdio.h>

#include "moire/cli/cli.h"

static moire_status run(int argc, char **argv)
{
    struct moire_config config = { 0 };
    struct moire_text text = { 0 };
    bool plain = moire_cli_flag(&argc, argv, "--plain");
    moire_status status = moire_cli_load(argc, argv, false, &config);
    if (status == MOIRE_OK) status = moire_cli_check(&config);
    if (status == MOIRE_OK) status = moire_config_text(&config, !plain, &text);
    if (status == MOIRE_OK) fputs(text.data, stdout);
    moire_text_free(&text);
    moire_config_free(&config);
    return status;
}

const struct moire_command moire_command_config = {
    .name = "config",
    .arguments = "[FILE.ini] [--plain] [--section.key=value ...]",
    .summary = "the effective configuration, each value with its origin",
    .details = "Checks a configuration and prints every parameter as it would be used, with\n"
               "the origin of its value (default, file, environment, command line). The output\n"
               "is itself a configuration file; --plain leaves the origins out.\n"
               "\n"
               "  moire config examples/tiny.ini --moe.experts=16\n"
               "  moire config > new.ini",
    .sections = "run model moe parallel topology exchange train data evaluate checkpoint generate",
    .options = "--plain",
    .run = run,
};
