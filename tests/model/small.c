#include "small.h"

#include <stdio.h>
#include <string.h>

#include "moire/base/random.h"

static const struct {
    const char *name, *router, *normalise;
} gates[SMALL_GATES] = { { "gshard", "softmax", "yes" },
                         { "switch", "softmax", "no" },
                         { "mixtral", "mixtral", "yes" } };

static const struct {
    const char *name, *bias, *tied, *kv_heads, *layers;
} rests[SMALL_RESTS] = {
    { "plain", "no", "no", "auto", "all" },
    { "biased tied grouped mixed", "yes", "yes", "2", "every:2" },
    { "grouped dense", "yes", "no", "1", "none" },
};

struct small small_combination(int index)
{
    struct small small;
    small.gate = index % SMALL_GATES;
    small.rest = (index / SMALL_GATES + index) % SMALL_RESTS;
    index /= SMALL_GATES;
    small.kind = index % 2;
    small.norm = index / 2 % 2;
    small.position = index / 4 % 2;
    small.capacity = index / 8 % 2;
    return small;
}

void small_text(const struct small *small, char *text, size_t bytes)
{
    snprintf(text, bytes, "%s %s %s %s %s %s", gates[small->gate].name,
             small->kind == MOIRE_SWIGLU ? "swiglu" : "gelu", small->norm == MOIRE_NORM_RMS ? "rms" : "layer",
             small->position == MOIRE_POSITION_ROTARY ? "rotary" : "learned",
             small->capacity ? "capacity" : "dropless", rests[small->rest].name);
}

moire_status small_config(const struct small *small, struct moire_config *config)
{
    const char *const values[][2] = {
        { "model.layers", "2" },
        { "model.dim", "8" },
        { "model.heads", "4" },
        { "model.ffn_hidden", "6" },
        { "model.sequence", "5" },
        { "model.vocabulary", "11" },
        { "moe.experts", "4" },
        { "moe.expert_hidden", "6" },
        { "moe.top_k", "2" },
        { "moe.balance_weight", "0.3" },
        { "moe.z_weight", "0.1" },
        { "model.norm", small->norm == MOIRE_NORM_RMS ? "rms" : "layer" },
        { "model.position", small->position == MOIRE_POSITION_ROTARY ? "rotary" : "learned" },
        { "model.feed_forward", small->kind == MOIRE_SWIGLU ? "swiglu" : "gelu" },
        { "model.bias", rests[small->rest].bias },
        { "model.tie_embeddings", rests[small->rest].tied },
        { "model.kv_heads", rests[small->rest].kv_heads },
        { "moe.layers", rests[small->rest].layers },
        { "moe.router", gates[small->gate].router },
        { "moe.normalise", gates[small->gate].normalise },
        { "moe.capacity", small->capacity ? "1.0" : "dropless" },
    };
    MOIRE_TRY(moire_config_create(config));
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        MOIRE_TRY(moire_config_set(config, values[i][0], values[i][1], MOIRE_FROM_COMMAND));
    return MOIRE_OK;
}

void small_spread(struct moire_model *model)
{
    for (int i = 0; i < model->tensors.count; i++) {
        const struct moire_tensor *tensor = &model->tensors.list[i];
        int64_t each = moire_tensor_expert_elements(tensor);
        for (int64_t element = 0; element < tensor->elements; element++) {
            int64_t expert = tensor->sharding == MOIRE_BY_EXPERT ? model->tensors.experts[element / each] : 0;
            double start = tensor->initialiser == MOIRE_INIT_ONE;
            double drawn = 0.3 * moire_random_normal(5, moire_random_stream(tensor->name),
                                                     (uint64_t)(expert * each + element % each));
            model->parameters[tensor->offset + element] = (real)(float)(start + drawn);
        }
    }
}

void small_tokens(uint64_t seed, int32_t *tokens)
{
    for (int i = 0; i < SMALL_SEQUENCES * (SMALL_SEQUENCE + 1); i++)
        tokens[i] = (int32_t)moire_random_below(seed, 1, (uint64_t)i, SMALL_VOCABULARY);
}

struct moire_batch small_batch(const struct moire_mesh *mesh, const int32_t *tokens)
{
    struct moire_batch batch = { .global_sequences = SMALL_SEQUENCES, .step_sequences = SMALL_SEQUENCES };
    batch.sequences = moire_share(SMALL_SEQUENCES, mesh->world.size, mesh->world.rank, &batch.first_sequence);
    batch.tokens = tokens + batch.first_sequence * (SMALL_SEQUENCE + 1);
    return batch;
}

moire_status small_loss(struct moire_model *model, const struct moire_batch *batch, double *loss)
{
    struct moire_losses losses;
    MOIRE_TRY(moire_model_loss(model, batch, true, &losses));
    double sum = losses.cross_entropy / (SMALL_SEQUENCE * SMALL_SEQUENCES);
    MOIRE_TRY(moire_sum(&model->mesh->world, &sum, 1, MOIRE_FLOAT64));
    *loss = sum + losses.balance + losses.z;
    return MOIRE_OK;
}
