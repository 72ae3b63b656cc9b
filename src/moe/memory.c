/* How much memory the layers come to hold, from sizes alone: setup.c in numbers. */
#include "moire/cluster/mesh.h"
#include "moire/moe/layer.h"

static int64_t largest_received(int layers, const struct moire_plan_rows *rows)
{
    int64_t largest = 0;
    for (int i = 0; i < layers; i++)
        if (rows[i].received > largest) largest = rows[i].received;
    return largest;
}

/* Elements that all layers share. */
static int64_t shared_reals(const struct moire_config *config, int64_t tokens, int64_t received)
{
    const int64_t dim = config->model_dim, hidden = config->moe_expert_hidden;
    return tokens * (config->moe_experts + config->moe_top_k + dim) + received * (2 * dim + 2 * hidden + 1);
}

/* Elements of inputs and received rows: of each layer, or with train.recompute of all. */
static int64_t kept_reals(const struct moire_config *config, int64_t tokens, int64_t received)
{
    const int64_t matrices = config->model_feed_forward == MOIRE_SWIGLU ? 2 : 1;
    return tokens * config->model_dim
           + received * (config->model_dim + 1 + matrices * config->moe_expert_hidden);
}

static int64_t layer_bytes(const struct moire_config *config, int64_t tokens, int64_t received)
{
    const int64_t experts = config->moe_experts, slots = tokens * config->moe_top_k;
    int64_t reals = 2 * tokens * experts + slots;
    if (config->train_recompute == MOIRE_RECOMPUTE_NONE) reals += kept_reals(config, tokens, received);
    int64_t words = 2 * experts + (tokens + 1) + (slots + 1) + slots;
    return reals * (int64_t)sizeof(real) + words * (int64_t)sizeof(int64_t)
           + slots * (int64_t)(sizeof(int32_t) + sizeof(bool));
}

/* Calls of moire_rows_create: setup.c, and output and its gradient of the model. */
static int count_buffers(const struct moire_config *config, int layers)
{
    const int group = 7, received = config->model_feed_forward == MOIRE_SWIGLU ? 4 : 3, model = 2,
              kept = 1 + received;
    const bool once = config->train_recompute != MOIRE_RECOMPUTE_NONE;
    return group + model + layers + (once ? kept : layers * kept);
}

void moire_moe_memory(const struct moire_config *config, const struct moire_moe_place *place, int64_t tokens,
                      int layers, const struct moire_plan_rows *rows, int64_t bytes[MOIRE_MEMORY_KINDS])
{
    int64_t first, activations;
    if (layers == 0) return;
    const struct moire_exchange_sizes sizes = {
        .backend = config->exchange_backend,
        .wire = config->exchange_wire ? MOIRE_WIRE_BF16 : MOIRE_WIRE_FP32,
        .chunks = config->exchange_chunks > 0 ? (int)config->exchange_chunks : 1,
        .peers_in_flight = config->exchange_peers_in_flight > 0 ? (int)config->exchange_peers_in_flight : 0,
        .ranks = place->ranks,
        .nodes = place->nodes,
        .ranks_in_node = place->node_ranks,
        .buffers = count_buffers(config, layers),
        .instances = config->moe_experts,
        .local_instances = moire_share(config->moe_experts, place->ranks, place->rank, &first),
        .contexts = MOIRE_MOE_CONTEXTS,
        .width = config->model_dim,
        .element = MOIRE_REAL_ELEMENT,
        .plans = layers,
        .rows = rows,
    };
    const int64_t largest = largest_received(layers, rows);
    activations = shared_reals(config, tokens, largest) * (int64_t)sizeof(real);
    if (config->train_recompute != MOIRE_RECOMPUTE_NONE)
        activations += kept_reals(config, tokens, largest) * (int64_t)sizeof(real);
    for (int i = 0; i < layers; i++) activations += layer_bytes(config, tokens, rows[i].received);
    bytes[MOIRE_MEMORY_ACTIVATIONS] += activations;
    bytes[MOIRE_MEMORY_EXCHANGE] += moire_exchange_memory(&sizes);
}
