/* moire data */
#include <stdio.h>

#include "moire/cli/cli.h"
#include "moire/io/data.h"

/* A token file as it is, or the source of a configuration. */
static moire_status inspect(int argc, char **argv)
{
    struct moire_config config = { 0 };
    struct moire_data *data = NULL;
    int operand = moire_cli_operand(argc, argv);
    if (operand >= 0 && moire_data_is_token_file(argv[operand]))
        return moire_data_inspect_file(argv[operand]);
    moire_status status = moire_cli_load(argc, argv, false, &config);
    if (status == MOIRE_OK) status = moire_data_open(&config, &data);
    if (status == MOIRE_OK) moire_data_print(data);
    moire_data_close(data);
    moire_config_free(&config);
    return status;
}

static moire_status build(int argc, char **argv)
{
    const char *format = moire_cli_option(&argc, argv, "--format"),
               *output = moire_cli_option(&argc, argv, "--output");
    struct moire_text patterns = { 0 };
    moire_status status = MOIRE_OK;
    if (!output || argc < 1)
        return moire_fail(
            MOIRE_USAGE,
            "moire data build has too little to go on; found no %s, expected PATTERN... --output=PATH; "
            "try moire data build 'src/**/*.c' --output=code.bin",
            output ? "pattern" : "--output");
    for (int i = 0; status == MOIRE_OK && i < argc; i++) {
        if (argv[i][0] == '-')
            status =
                moire_fail(MOIRE_USAGE,
                           "unknown option '%s'; expected --format=llmc|megatron or --output=PATH", argv[i]);
        else
            status = moire_text_add(&patterns, "%s%s", i ? "," : "", argv[i]);
    }
    if (status == MOIRE_OK) status = moire_data_build(patterns.data, format ? format : "llmc", output);
    moire_text_free(&patterns);
    return status;
}

static moire_status run(int argc, char **argv)
{
    static const char *const actions[] = { "inspect", "build" };
    int64_t action;
    if (argc < 1)
        return moire_fail(MOIRE_USAGE,
                          "moire data was not told what to do; found no action, expected inspect or build; "
                          "try moire data --help");
    MOIRE_TRY(moire_name_find("action of moire data", argv[0], actions, 2, &action));
    return action == 0 ? inspect(argc - 1, argv + 1) : build(argc - 1, argv + 1);
}

const struct moire_command moire_command_data = {
    .name = "data",
    .arguments = "inspect FILE.ini|TOKENS [--section.key=value ...]\n"
                 "build PATTERN... --output=PATH [--format=llmc|megatron]",
    .summary = "look at token sources, build token files from text",
    .details = "inspect prints what a configuration's source holds (domains, tokens, sequences),\n"
               "or the header and statistics of an llm.c or Megatron token file.\n"
               "build writes the bytes of text files as tokens: llm.c .bin (default), or\n"
               "Megatron .bin and .idx with one document a file.\n"
               "\n"
               "  moire data inspect examples/tiny.ini\n"
               "  moire data build 'src/**/*.c' 'doc/*.md' --output=code.bin",
    .sections = "data",
    .options = "--output= --format=",
    .run = run,
};
