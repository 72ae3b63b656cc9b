/* The memory that was predicted is the memory that was measured, by kind, for the routing of the run. */
#include "../support/harness.h"

#include <stdlib.h>
#include <string.h>

#include "../support/capture.h"
#include "moire/train/train.h"
#include "tiny.h"

static int64_t predicted[MOIRE_MEMORY_KINDS], measured[MOIRE_MEMORY_KINDS];
static int tables;

void __wrap_moire_train_print_memory(const int64_t *predicted_bytes, const int64_t *measured_bytes);
void __wrap_moire_train_print_memory(const int64_t *predicted_bytes, const int64_t *measured_bytes)
{
    memcpy(predicted, predicted_bytes, sizeof predicted);
    memcpy(measured, measured_bytes, sizeof measured);
    tables++;
}

static void train(const struct moire_config *config)
{
    static struct capture printed;
    moire_memory_reset_peaks();
    tables = 0;
    capture_begin(&printed, 1);
    moire_status status = moire_train(config);
    capture_end(&printed);
    expect_ok(status);
    expect(tables == (test_rank == 0));
}

/* Sizes beside which the few words that a rank needs anyway do not show. */
static void make(struct moire_config *config)
{
    static const char *const values[][2] = {
        { "model.layers", "3" },       { "model.dim", "32" },      { "model.sequence", "32" },
        { "moe.experts", "4" },        { "moe.layers", "1,2" },    { "moe.expert_hidden", "48" },
        { "train.batch", "24" },       { "train.steps", "6" },     { "data.synthetic_sequences", "600" },
        { "train.learning_rate", "1e-2" },
    };
    make_config(config);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) set(config, values[i][0], values[i][1]);
}

static void check_kinds(const char *name)
{
    for (int kind = 0; kind <= MOIRE_MEMORY_EXCHANGE && test_rank == 0; kind++) {
        double ratio = measured[kind] ? (double)predicted[kind] / (double)measured[kind]
                                      : predicted[kind] == 0;
        expect(ratio > 0.95 && ratio < 1.05);
        if (!(ratio > 0.95 && ratio < 1.05))
            printf("# %s: %s: predicted %lld, measured %lld\n", name,
                   moire_memory_kind_name((moire_memory_kind)kind), (long long)predicted[kind],
                   (long long)measured[kind]);
    }
}

static void check(const char *const (*settings)[2], const char *name)
{
    struct moire_config config;
    make(&config);
    for (int i = 0; settings && settings[i][0]; i++) set(&config, settings[i][0], settings[i][1]);
    train(&config);
    check_kinds(name);
    clean(&config);
}

static void the_prediction_is_what_was_measured(void)
{
    static const char *const whole[][2] = { { "train.shard_optimizer", "no" }, { NULL, NULL } };
    static const char *const dense[][2] = { { "moe.layers", "none" }, { NULL, NULL } };
    static const char *const gelu[][2] = {
        { "model.feed_forward", "gelu" }, { "moe.layers", "all" }, { "moe.capacity", "1" }, { NULL, NULL }
    };
    static const char *const parts[][2] = {
        { "train.accumulate", "3" }, { "moe.top_k", "3" }, { "evaluate.every", "2" }, { NULL, NULL }
    };
    static const char *const one[][2] = { { "parallel.expert", "1" }, { NULL, NULL } };
    static const char *const skewed[][2] = {
        { "moe.router", "forced" }, { "moe.forced", "zipf" }, { NULL, NULL }
    };
    static const char *const ffn[][2] = { { "train.recompute", "ffn" }, { NULL, NULL } };
    static const char *const layer[][2] = {
        { "train.recompute", "layer" }, { "parallel.expert", "1" }, { NULL, NULL }
    };
    static const char *const shared[][2] = { { "exchange.backend", "shared" }, { NULL, NULL } };
    static const char *const relays[][2] = { { "exchange.backend", "hierarchical" },
                                             { "parallel.ranks_per_node", "1" },
                                             { "exchange.chunks", "2" },
                                             { NULL, NULL } };
    check(shared, "shared");
    check(relays, "hierarchical");
    check(ffn, "feed-forward again");
    check(layer, "blocks again");
    check(NULL, "as it is");
    check(whole, "whole moments");
    check(dense, "no experts");
    check(gelu, "gelu, capacity");
    check(parts, "in parts");
    check(one, "every rank has all experts");
    check(skewed, "skewed routing");
}

static int64_t activations(const char *recompute)
{
    struct moire_config config;
    make(&config);
    set(&config, "model.layers", "6");
    set(&config, "moe.layers", "every:2");
    set(&config, "train.recompute", recompute);
    train(&config);
    clean(&config);
    return moire_memory_peak_bytes(MOIRE_MEMORY_ACTIVATIONS);
}

/* Six blocks: what is not kept is there once instead of six times. */
static void recomputing_saves_memory(void)
{
    int64_t none = activations("none"), ffn = activations("ffn"), layer = activations("layer");
    expect(ffn < none * 7 / 10);
    expect(layer < ffn * 9 / 10);
    if (layer >= ffn * 9 / 10 || ffn >= none * 7 / 10)
        printf("# none %lld, ffn %lld, layer %lld\n", (long long)none, (long long)ffn, (long long)layer);
}

static void check_before(const char *const (*settings)[2], const char *name)
{
    struct moire_config config;
    struct moire_mesh mesh;
    int64_t before[MOIRE_MEMORY_KINDS];
    make(&config);
    set(&config, "moe.router", "forced");
    for (int i = 0; settings[i][0]; i++) set(&config, settings[i][0], settings[i][1]);
    expect_ok(moire_mesh_create(&config, &mesh));
    expect_ok(moire_train_memory_even(&config, &mesh, before));
    moire_mesh_free(&mesh);
    train(&config);
    memcpy(predicted, before, sizeof predicted);
    check_kinds(name);
    clean(&config);
}

/* Even routing, predicted before the run, is what a run with such routing takes; what goes through relays is
 * that of uniform choices (the same in every run, by run.seed). */
static void even_routing_is_predicted_before_the_run(void)
{
    static const char *const even[][2] = { { "moe.forced", "even" }, { NULL, NULL } };
    static const char *const relays[][2] = { { "moe.forced", "uniform" },
                                             { "exchange.backend", "hierarchical" },
                                             { "parallel.ranks_per_node", "1" },
                                             { "train.batch", "96" },
                                             { "train.steps", "1" },
                                             { NULL, NULL } };
    check_before(even, "even routing");
    check_before(relays, "uniform routing through relays");
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "the prediction is within 5 % of what was measured", the_prediction_is_what_was_measured },
        { "recomputing saves memory", recomputing_saves_memory },
        { "even routing is predicted before the run", even_routing_is_predicted_before_the_run },
    };
    return test_main(argc, argv, "1 2 3 4", tests, sizeof tests / sizeof *tests);
}
