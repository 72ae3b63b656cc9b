/* moire data */
#include <stdio.h>

#include "moire/cli/cli.h"
#include "moire/io/data.h"
#include "moire/io/routing.h"

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

/* The number of an option, 0 where it is not given. */
static moire_status read_number(int *argc, char **argv, const char *name, int64_t *number)
{
    const char *text = moire_cli_option(argc, argv, name);
    *number = 0;
    if (!text || (moire_parse_integer(text, number) && *number > 0)) return MOIRE_OK;
    return moire_fail(MOIRE_USAGE, "%s is no number; found '%s', expected 1 or more; try %s=8", name, text,
                      name);
}

static moire_status convert_routing(const char *input, const char *output, int64_t experts, int64_t tokens)
{
    struct moire_routing_file file;
    char kept[32];
    MOIRE_TRY(moire_routing_import(input, experts, tokens, &file));
    moire_status status = moire_routing_write(output, &file);
    if (status == MOIRE_OK)
        printf("%s: %lld step%s of %s tokens, %lld layer%s, %lld experts of which %lld a token\n", output,
               (long long)file.steps, moire_cli_plural(file.steps), moire_cli_thousands(file.tokens, kept),
               (long long)file.layers, moire_cli_plural(file.layers), (long long)file.experts,
               (long long)file.top_k);
    moire_routing_free(&file);
    return status;
}

static moire_status import_routing(int argc, char **argv)
{
    int64_t experts, tokens;
    MOIRE_TRY(read_number(&argc, argv, "--experts", &experts));
    MOIRE_TRY(read_number(&argc, argv, "--tokens", &tokens));
    if (argc < 1 || argc > 2)
        return moire_fail(
            MOIRE_USAGE,
            "moire data import-routing takes a file and the name of the new one; found %d names, "
            "expected FILE.npy [OUT.h5]; try moire data import-routing experts.npy",
            argc);
    return convert_routing(argv[0], argc > 1 ? argv[1] : "routing.h5", experts, tokens);
}

static moire_status run(int argc, char **argv)
{
    static const char *const actions[] = { "inspect", "build", "import-routing" };
    static moire_status (*const work[])(int argc, char **argv) = { inspect, build, import_routing };
    int64_t action;
    if (argc < 1)
        return moire_fail(MOIRE_USAGE,
                          "moire data was not told what to do; found no action, expected inspect, build or "
                          "import-routing; try moire data --help");
    MOIRE_TRY(moire_name_find("action of moire data", argv[0], actions, 3, &action));
    return work[action](argc - 1, argv + 1);
}

const struct moire_command moire_command_data = {
    .name = "data",
    .arguments = "inspect FILE.ini|TOKENS [--section.key=value ...]\n"
                 "build PATTERN... --output=PATH [--format=llmc|megatron]\n"
                 "import-routing FILE.npy [OUT.h5] [--experts=E] [--tokens=T]",
    .summary = "look at token sources, build token files, import routing",
    .details = "inspect prints what a configuration's source holds (domains, tokens, sequences),\n"
               "or the header and statistics of an llm.c or Megatron token file.\n"
               "build writes the bytes of text files as tokens: llm.c .bin (default), or\n"
               "Megatron .bin and .idx with one document a file.\n"
               "import-routing turns a NumPy array of expert ids [tokens, layers, K], as an\n"
               "inference engine records them, into routing.h5 for moe.forced = replay;\n"
               "--experts: how many there are (default: the largest id and one more); --tokens:\n"
               "tokens of a step (default: all of them), what is left over is left out.\n"
               "\n"
               "  moire data inspect examples/tiny.ini\n"
               "  moire data build 'src/**/*.c' 'doc/*.md' --output=code.bin\n"
               "  moire data import-routing experts.npy routing.h5 --tokens=8192",
    .sections = "data",
    .options = "--output= --format= --experts= --tokens=",
    .run = run,
};
