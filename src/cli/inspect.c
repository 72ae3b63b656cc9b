/* moire inspect */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "moire/cli/cli.h"
#include "moire/io/checkpoint.h"
#include "moire/io/data.h"
#include "moire/io/manifest.h"
#include "moire/io/routing.h"
#include "moire/model/model.h"
#include "moire/moe/traffic.h"

/* Rows of the parameter table: which tensors count as what. The first that fits counts. */
static const struct {
    const char *kind, *part;
} kinds[] = {
    { "experts", ".experts." },           { "routers", ".router" }, { "attention", ".attention." },
    { "feed-forward", ".feed_forward." }, { "norms", "norm" },      { "embeddings", "" },
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
            printf("  %-14s %18s in %lld tensor%s\n", kinds[kind].kind,
                   moire_cli_thousands(elements[kind], text), (long long)count[kind],
                   moire_cli_plural(count[kind]));
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
    printf("training state   %18s with gradients and two moments\n",
           moire_cli_bytes(16.0 * (double)counts.parameters, text));
    return MOIRE_OK;
}

static moire_status print_shape(const struct moire_config *config)
{
    bool *is_moe;
    int64_t moe_layers = 0;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, config->model_layers, sizeof *is_moe, &is_moe));
    moire_status status = moire_config_moe_layers(config, is_moe);
    for (int64_t i = 0; i < config->model_layers; i++) moe_layers += is_moe[i];
    moire_release(is_moe);
    if (status != MOIRE_OK) return status;
    printf("model            %lld layer%s, dim %lld, ", (long long)config->model_layers,
           moire_cli_plural(config->model_layers), (long long)config->model_dim);
    if (moe_layers == 0)
        printf("dense\n");
    else if (moe_layers == config->model_layers)
        printf("%lld experts of which %lld a token\n", (long long)config->moe_experts,
               (long long)config->moe_top_k);
    else
        printf("%lld experts of which %lld a token in %lld of them\n", (long long)config->moe_experts,
               (long long)config->moe_top_k, (long long)moe_layers);
    return MOIRE_OK;
}

static moire_status print_config(int argc, char **argv)
{
    struct moire_config config = { 0 };
    moire_status status = moire_cli_load(argc, argv, true, &config);
    if (status == MOIRE_OK) status = moire_cli_check(&config);
    if (status == MOIRE_OK) printf("configuration    %s\n", config.file);
    if (status == MOIRE_OK) status = print_shape(&config);
    if (status == MOIRE_OK) status = moire_cli_print_model(&config);
    moire_config_free(&config);
    return status;
}

static moire_status print_run(const char *directory)
{
    struct moire_text path = { 0 };
    moire_status status = moire_text_add(&path, "%s/run.json", directory);
    if (status == MOIRE_OK && !moire_file_exists(path.data))
        status = moire_fail(
            MOIRE_NO_FILE,
            "%s is not a run directory; found no run.json in it, expected what moire train writes; "
            "try another run.dir",
            directory);
    moire_text_free(&path);
    return status == MOIRE_OK ? moire_manifest_print(directory) : status;
}

/* Copies that one for each group of experts would save, as the ids have it and for uniform choices. */
static moire_status print_redundancy(const struct moire_routing_file *file, int groups)
{
    struct moire_placement placement;
    int64_t copies[2] = { 0, 0 };
    moire_status status = MOIRE_OK;
    if (groups > file->experts) return MOIRE_OK;
    MOIRE_TRY(moire_placement_even(file->experts, groups, &placement));
    for (int64_t row = 0; status == MOIRE_OK && row < file->steps * file->layers; row++)
        status =
            moire_routing_distinct(file, row / file->layers, row % file->layers, &placement, NULL, copies);
    moire_placement_free(&placement);
    if (status != MOIRE_OK || copies[0] == 0) return status;
    double uniform =
        moire_traffic_expected_distinct(file->experts, groups, file->top_k) / (double)file->top_k;
    printf("redundancy       %17.1f%% over %d groups of experts (%.1f%% if choices were uniform)\n",
           100 - 100 * (double)copies[1] / (double)copies[0], groups, 100 - 100 * uniform);
    return MOIRE_OK;
}

static moire_status print_summary(const struct moire_routing_file *file)
{
    struct moire_routing_summary summary;
    char text[32];
    MOIRE_TRY(moire_routing_summarise(file, &summary));
    printf("steps            %18lld from step %lld on\n", (long long)file->steps,
           (long long)file->first_step);
    printf("layers           %18lld with experts\n", (long long)file->layers);
    printf("tokens           %18s a step, from %lld rank%s\n", moire_cli_thousands(file->tokens, text),
           (long long)file->ranks, moire_cli_plural(file->ranks));
    printf("experts          %18lld of which %lld a token\n", (long long)file->experts,
           (long long)file->top_k);
    printf("slots            %18s", moire_cli_thousands(summary.slots, text));
    printf(" chosen, %s dropped\n", moire_cli_thousands(summary.dropped, text));
    printf("imbalance        %18.3f slots of the fullest expert over the mean\n", summary.imbalance);
    printf("repeats          %17.1f%% of first choices are those of the token before (%.1f%% by chance)\n",
           100 * summary.repeats, 100.0 / (double)file->experts);
    for (int groups = 2; groups <= 8; groups *= 2) MOIRE_TRY(print_redundancy(file, groups));
    return MOIRE_OK;
}

static moire_status print_routing(const char *path)
{
    struct moire_routing_file file;
    MOIRE_TRY(moire_routing_read(path, &file));
    printf("record of routing %s, version %d, int32 [step, layer, token, slot] = [%lld, %lld, %lld, %lld]\n",
           path, MOIRE_ROUTING_VERSION, (long long)file.steps, (long long)file.layers, (long long)file.tokens,
           (long long)file.top_k);
    moire_status status = print_summary(&file);
    moire_routing_free(&file);
    return status;
}

static moire_status run(int argc, char **argv)
{
    struct stat found;
    bool verify = moire_cli_flag(&argc, argv, "--verify");
    int operand = moire_cli_operand(argc, argv);
    if (operand < 0)
        return moire_fail(MOIRE_USAGE, "nothing to inspect was given; found no argument but options, "
                                       "expected a configuration, "
                                       "checkpoint, token file or run directory; try examples/tiny.ini");
    const char *path = argv[operand];
    if (moire_data_is_token_file(path))
        return moire_data_inspect_file(path); /* also what .bin and .idx begin with */
    if (stat(path, &found) != 0)
        return moire_fail(
            MOIRE_NO_FILE,
            "cannot read %s; found: %s, expected a configuration, checkpoint, token file or run "
            "directory; try another path",
            path, strerror(errno));
    if (S_ISDIR(found.st_mode)) return print_run(path);
    if (moire_routing_is(path)) return print_routing(path);
    if (moire_cli_is_checkpoint(path)) return moire_checkpoint_print(path, verify);
    return print_config(argc, argv);
}

const struct moire_command moire_command_inspect = {
    .name = "inspect",
    .arguments = "FILE|RUN [--verify] [--section.key=value ...]",
    .summary = "what is in a configuration, checkpoint, token file, routing or run",
    .details = "Of a configuration: parameters by kind, active ones, FLOP a token, bytes (no\n"
               "memory for the model is needed). Of a checkpoint: attributes and tensors;\n"
               "--verify reads everything and compares checksums. Of a run directory: its\n"
               "segments. Of a token file: header and statistics. Of routing.h5: shape, balance,\n"
               "how often first choices repeat, and the copies that one a group of experts\n"
               "would save.\n"
               "\n"
               "  moire inspect examples/mixtral-8x7b.ini\n"
               "  moire inspect runs/tiny/checkpoints/latest --verify",
    .sections = "model moe",
    .options = "--verify",
    .run = run,
};
