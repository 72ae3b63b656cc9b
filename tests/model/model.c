/* Parameter counts, the decoder against the forward pass, a step without allocation, and errors of a
 * configuration. */
#include <math.h>
#include <string.h>

#include "../support/harness.h"
#include "small.h"

static void set(struct moire_config *config, const char *name, const char *value)
{
    expect_ok(moire_config_set(config, name, value, MOIRE_FROM_COMMAND));
}

/* Mixtral 8x7B as published (arXiv 2401.04088), without memory for it. */
static void test_mixtral_counts(void)
{
    static const char *const values[][2] = {
        { "model.layers", "32" },         { "model.dim", "4096" },         { "model.heads", "32" },
        { "model.kv_heads", "8" },        { "model.vocabulary", "32000" }, { "moe.experts", "8" },
        { "moe.expert_hidden", "14336" }, { "moe.router", "mixtral" },
    };
    struct moire_config config;
    struct moire_model_counts counts = { 0 };
    expect_ok(moire_config_create(&config));
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) set(&config, values[i][0], values[i][1]);
    expect_ok(moire_model_count(&config, &counts));
    expect(counts.parameters == 46702792704);
    expect(counts.active_parameters == 12879925248);
    moire_config_free(&config);
}

/* GPT-2 small: dense, tied, with biases. */
static void test_gpt2_counts(void)
{
    static const char *const values[][2] = {
        { "model.layers", "12" },          { "model.dim", "768" },
        { "model.heads", "12" },           { "model.ffn_hidden", "3072" },
        { "model.sequence", "1024" },      { "model.vocabulary", "50257" },
        { "model.norm", "layer" },         { "model.position", "learned" },
        { "model.feed_forward", "gelu" },  { "model.bias", "yes" },
        { "model.tie_embeddings", "yes" }, { "moe.layers", "none" },
    };
    struct moire_config config;
    struct moire_model_counts counts = { 0 };
    expect_ok(moire_config_create(&config));
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) set(&config, values[i][0], values[i][1]);
    expect_ok(moire_model_count(&config, &counts));
    expect(counts.parameters == 124439808);
    expect(counts.active_parameters == counts.parameters);
    moire_config_free(&config);
}

static void test_wrong_shapes(void)
{
    struct moire_config config;
    struct moire_model_counts counts;
    expect_ok(moire_config_create(&config));
    set(&config, "model.heads", "7");
    expect_failure(moire_model_count(&config, &counts), MOIRE_USAGE,
                   "model.heads must divide model.dim; found 7");
    set(&config, "model.heads", "8");
    set(&config, "model.kv_heads", "3");
    expect_failure(moire_model_count(&config, &counts), MOIRE_USAGE,
                   "model.kv_heads must divide model.heads");
    set(&config, "model.kv_heads", "auto");
    set(&config, "model.dim", "24");
    expect_failure(moire_model_count(&config, &counts), MOIRE_USAGE, "even head width");
    set(&config, "model.dim", "256");
    set(&config, "moe.top_k", "9");
    expect_failure(moire_model_count(&config, &counts), MOIRE_USAGE, "top_k");
    moire_config_free(&config);
}

static double loss_of(const real *logits, int32_t target)
{
    double maximum = logits[0], sum = 0;
    for (int i = 1; i < SMALL_VOCABULARY; i++) maximum = logits[i] > maximum ? logits[i] : maximum;
    for (int i = 0; i < SMALL_VOCABULARY; i++) sum += exp((double)logits[i] - maximum);
    return maximum + log(sum) - logits[target];
}

/* The losses of a sequence by the forward pass and token by token through the cache. */
static void check_decoder(struct moire_model *model)
{
    int32_t tokens[SMALL_SEQUENCES * (SMALL_SEQUENCE + 1)];
    struct moire_losses losses;
    struct moire_decoder decoder;
    bool holds = test_rank == 0;
    small_spread(model);
    small_tokens(test_seed, tokens);
    struct moire_batch batch = { .sequences = holds,
                                 .first_sequence = !holds,
                                 .global_sequences = 1,
                                 .step_sequences = 1,
                                 .tokens = tokens };
    expect_ok(moire_model_loss(model, &batch, false, &losses));
    expect_ok(moire_decoder_create(model, &decoder));
    for (int position = 0; position < SMALL_SEQUENCE; position++) {
        double wanted = holds ? model->losses[position] : 0;
        expect_ok(moire_decoder_step(&decoder, tokens[position]));
        if (holds)
            expect_near(loss_of(decoder.logits, tokens[position + 1]), wanted,
                        sizeof(real) == 8 ? 1e-12 : 1e-4);
    }
    expect_failure(moire_decoder_step(&decoder, 0), MOIRE_FAILED, "decoder is full");
    moire_decoder_free(&decoder);
}

static void with_model(const struct small *small, bool training, void (*check)(struct moire_model *model))
{
    struct moire_config config;
    struct moire_mesh mesh;
    struct moire_model model;
    expect_ok(small_config(small, &config));
    expect_ok(moire_mesh_create(&config, &mesh));
    int status =
        moire_model_create(&config, &mesh, training ? SMALL_SEQUENCES : test_rank == 0, training, &model);
    expect_ok(status);
    if (status == MOIRE_OK) {
        check(&model);
        moire_model_free(&model);
    }
    moire_mesh_free(&mesh);
    moire_config_free(&config);
}

static void test_decoder(void)
{
    for (int index = 0; index < SMALL_COMBINATIONS; index += 5) {
        struct small small = small_combination(index);
        small.capacity = 0;
        with_model(&small, false, check_decoder);
    }
}

static void check_allocations(struct moire_model *model)
{
    int32_t tokens[SMALL_SEQUENCES * (SMALL_SEQUENCE + 1)];
    double first, again;
    small_tokens(test_seed, tokens);
    struct moire_batch batch = small_batch(model->mesh, tokens);
    expect_ok(small_loss(model, &batch, &first));
    int64_t allocations = moire_memory_allocations();
    expect_ok(small_loss(model, &batch, &again));
    expect(moire_memory_allocations() == allocations);
    expect(first == again);
}

/* After the first step nothing is allocated, and the same batch gives the same bits. */
static void test_allocations(void)
{
    for (int index = 0; index < SMALL_COMBINATIONS; index += 11) {
        struct small small = small_combination(index);
        with_model(&small, true, check_allocations);
    }
}

static void check_not_finite(struct moire_model *model)
{
    int32_t tokens[SMALL_SEQUENCES * (SMALL_SEQUENCE + 1)];
    char where[128] = "";
    double loss;
    int layer = -1;
    small_tokens(test_seed, tokens);
    struct moire_batch batch = small_batch(model->mesh, tokens);
    expect_ok(small_loss(model, &batch, &loss));
    expect(!moire_model_find_not_finite(model, where, sizeof where, &layer));
    model->gradients[model->tensors.list[model->embedding].offset] =
        (real)INFINITY; /* where backward brought it */
    model->gradients[model->tensors.list[model->blocks[1].qkv].offset] = (real)INFINITY;
    expect(moire_model_find_not_finite(model, where, sizeof where, &layer));
    expect(layer == 1 && strcmp(where, "gradient layers.1.attention.qkv.weight") == 0);
    model->parameters[model->tensors.list[model->blocks[1].qkv].offset] = (real)NAN;
    expect(moire_model_find_not_finite(model, where, sizeof where, &layer));
    expect(layer == 1 && strcmp(where, "parameter layers.1.attention.qkv.weight") == 0);
}

static void test_not_finite(void)
{
    struct small small = small_combination(0);
    with_model(&small, true, check_not_finite);
}

static void gradients_of(const struct small *small, const char *recompute, real **gradients, int64_t *count)
{
    struct moire_config config;
    struct moire_mesh mesh;
    struct moire_model model;
    int32_t tokens[SMALL_SEQUENCES * (SMALL_SEQUENCE + 1)];
    double loss;
    expect_ok(small_config(small, &config));
    set(&config, "train.recompute", recompute);
    expect_ok(moire_mesh_create(&config, &mesh));
    expect_ok(moire_model_create(&config, &mesh, SMALL_SEQUENCES, true, &model));
    small_spread(&model);
    small_tokens(test_seed, tokens);
    struct moire_batch batch = small_batch(&mesh, tokens);
    expect_ok(small_loss(&model, &batch, &loss));
    *count = moire_tensors_elements(&model.tensors);
    *gradients = model.gradients;
    model.gradients = NULL; /* moved */
    moire_model_free(&model);
    moire_mesh_free(&mesh);
    moire_config_free(&config);
}

/* Gradients do not show whether activations were kept or computed again. */
static void test_recompute(void)
{
    for (int index = 0; index < SMALL_COMBINATIONS; index += 5) {
        struct small small = small_combination(index);
        real *kept, *ffn, *layer;
        int64_t count;
        gradients_of(&small, "none", &kept, &count);
        gradients_of(&small, "ffn", &ffn, &count);
        gradients_of(&small, "layer", &layer, &count);
        expect(memcmp(kept, ffn, sizeof(real) * (size_t)count) == 0);
        expect(memcmp(kept, layer, sizeof(real) * (size_t)count) == 0);
        moire_release(layer);
        moire_release(ffn);
        moire_release(kept);
    }
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "parameters of Mixtral 8x7B", test_mixtral_counts },
        { "parameters of GPT-2", test_gpt2_counts },
        { "wrong shapes", test_wrong_shapes },
        { "decoder equals forward", test_decoder },
        { "recomputing gives the same bits", test_recompute },
        { "no allocation after the first step", test_allocations },
        { "the first number that is not finite", test_not_finite },
    };
    return test_main(argc, argv, "1 3", tests, sizeof tests / sizeof *tests);
}
