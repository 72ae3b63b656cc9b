/* moire inspect */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "moire/cli/cli.h"
#include "moire/io/checkpoint.h"
#include "moire/io/data.h"
#include "moire/io/manifest.h"
#include "moire/model/model.h"

/* Rows of the parameter table: which tensors count as what. The first that fits counts. */
static const struct {
    const char *kind, *part;
} kinds[] = {
    { "experts", ".experts." }, { "routers", ".router" }, { "attention", ".attention." }, { "feed-forward", ".feed_forward." },
    { "norms", "norm" },        { "embeddings", "" },
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static int kind_of(const char *name)
{
    int kind = 0;
    while (!strstr(name, kinds[kind].part)) kind++;
    return kind;
}

static moire_status print_kinds(const struct moire_config *config)
{
    struct moire_tensors tensors;
    int64_t elements[KINDS] = { 0 }, count[KINDS] = { 0 };
    char text[32];
    MOIRE_TRY(moire_model_describe(config, &tensors));
    for (int i = 0; i < tensors.count; i++) {
        int kind = kind_of(tensors.list[i].name);
        elements[kind] += moire_tensor_global_elements(&tensors.list[i]);
        count[kind]++;
    }
    for (int kind = 0; kind < KINDS; kind++)
        if (count[kind])
            printf("  %-14s %18s in %lld tensors\n", kinds[kind].kind, moire_cli_thousands(elements[kind], text), (long long)count[kind]);
    moire_tensors_free(&tensors);
    return MOIRE_OK;
}

moire_status moire_cli_print_model(const struct moire_config *config)
{
    struct moire_model_counts counts;
    char text[32];
    MOIRE_TRY(moire_model_count(config, &counts));
    printf("parameters       %18s\n", moire_cli_thousands(counts.parameters, text));
    MOIRE_TRY(print_kinds(config));
    printf("active a token   %18s\n", moire_cli_thousands(counts.active_parameters, text));
    printf("training FLOP    %18.4g a token\n", counts.training_flops_per_token);
    printf("weights          %18s in float32\n", moire_cli_bytes(4.0 * (double)counts.parameters, text));
    printf("training state   %18s with gradients and two moments\n", moire_cli_bytes(16.0 * (double)counts.parameters, text));
    return MOIRE_OK;
}

static moire_status print_config(int argc, char **argv)
{
    struct moire_config config = { 0 };
    moire_status status = moire_cli_load(argc, argv, true, &config);
    if (status == MOIRE_OK) status = moire_cli_check(&config);
    if (status == MOIRE_OK) {
        printf("configuration    %s\n", argv[0]);
        printf("model            %lld layers, dim %lld, %lld experts of which %lld a token\n", (long long)config.model_layers,
               (long long)config.model_dim, (long long)config.moe_experts, (long long)config.moe_top_k);
        status = moire_cli_print_model(&config);
    }
    moire_config_free(&config);
    return status;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static moire_status run(int argc, char **argv)
{
    struct stat found;
    bool verify = moire_cli_flag(&argc, argv, "--verify");
    if (argc < 1) return moire_fail(MOIRE_USAGE, "nothing to inspect was given; expected a configuration, checkpoint, token file or run directory");
    if (stat(argv[0], &found) != 0)
        return moire_fail(MOIRE_NO_FILE, "%s does not exist; expected a configuration, checkpoint, token file or run directory", argv[0]);
    if (S_ISDIR(found.st_mode)) return moire_manifest_print(argv[0]);
    if (moire_checkpoint_is(argv[0]) || ends_with(argv[0], ".h5")) return moire_checkpoint_print(argv[0], verify);
    if (moire_data_is_token_file(argv[0])) return moire_data_inspect_file(argv[0]);
    return print_config(argc, argv);
}

const struct moire_command moire_command_inspect = {
    .name = "inspect",
    .arguments = "FILE|RUN [--verify] [--section.key=value ...]",
    .summary = "what is in a configuration, checkpoint, token file or run",
    .details =
        "Of a configuration: parameters by kind, active ones, FLOP a token, bytes (no\n"
        "memory for the model is needed). Of a checkpoint: attributes and tensors;\n"
        "--verify reads everything and compares checksums. Of a run directory: its\n"
        "segments. Of a token file: header and statistics.\n"
        "\n"
        "  moire inspect examples/mixtral-8x7b.ini\n"
        "  moire inspect runs/tiny/checkpoints/latest --verify",
    .sections = "model moe",
    .run = run,
};
