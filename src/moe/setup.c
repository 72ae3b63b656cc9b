/* Checks, tensors and memory of the layer: everything outside of the step. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "moire/base/log.h"
#include "moire/moe/layer.h"


static moire_status check_forced(const struct moire_config *config, bool used)
{
    const struct moire_traffic_kind *kind;
    MOIRE_TRY(moire_traffic_find(config->moe_forced, &kind));
    if (used && strcmp(kind->name, "replay") == 0 && (!config->moe_forced_file || !*config->moe_forced_file))
        return moire_fail(
            MOIRE_USAGE,
            "moe.forced = replay needs a recording; found no moe.forced_file; try moe.forced_file = "
            "the routing.h5 of a run with moe.record = yes");
    return MOIRE_OK;
}

moire_status moire_moe_check(const struct moire_config *config)
{
    const struct moire_router *router;
    bool active;
    MOIRE_TRY(moire_router_find(config->moe_router, &router));
    MOIRE_TRY(moire_balance_find(config->moe_balance, &active));
    MOIRE_TRY(moire_exchange_check_backend(config->exchange_backend));
    if (config->moe_top_k > config->moe_experts)
        return moire_fail(
            MOIRE_USAGE,
            "a token cannot have more experts than there are; found moe.top_k = %lld, expected at "
            "most moe.experts = %lld; try fewer slots or more experts",
            (long long)config->moe_top_k, (long long)config->moe_experts);
    if (config->moe_capacity != MOIRE_DROPLESS
        && !(config->moe_capacity > 0 && isfinite(config->moe_capacity)))
        return moire_fail(MOIRE_USAGE,
                          "moe.capacity is no factor; found %g, expected dropless or a number above 0",
                          config->moe_capacity);
    return check_forced(config, router == &moire_router_forced);
}

static moire_status add_tensor(const struct moire_config *config, struct moire_tensors *tensors,
                               const char *name, moire_sharding sharding, const int64_t shape[3],
                               double deviation, int layer, int *index)
{
    struct moire_tensor tensor = { .sharding = sharding,
                                   .initialiser = MOIRE_INIT_NORMAL,
                                   .deviation = deviation };
    tensor.decay = true;
    tensor.layer = layer;
    tensor.dimensions = sharding == MOIRE_BY_EXPERT ? 3 : 2;
    tensor.shape[0] = config->moe_experts;
    for (int i = 1; i < tensor.dimensions; i++) tensor.shape[i] = shape[i];
    snprintf(tensor.name, sizeof tensor.name, "layers.%d.%s", layer, name);
    return moire_tensors_add(tensors, &tensor, index);
}

moire_status moire_moe_describe(const struct moire_config *config, int layer, struct moire_tensors *tensors,
                                struct moire_moe_layer *moe_layer)
{
    const int64_t experts = config->moe_experts, dim = config->model_dim, hidden = config->moe_expert_hidden;
    const int64_t matrix[] = { experts, dim, 0 }, in[] = { experts, hidden, dim },
                  out[] = { experts, dim, hidden };
    const double deviation = 0.02, deviation_down = deviation / sqrt(2 * (double)config->model_layers);
    int router, gate = -1, up, down;
    MOIRE_TRY(add_tensor(config, tensors, "router", MOIRE_REPLICATED, matrix, deviation, layer, &router));
    if (config->model_feed_forward == MOIRE_SWIGLU)
        MOIRE_TRY(add_tensor(config, tensors, "experts.gate", MOIRE_BY_EXPERT, in, deviation, layer, &gate));
    MOIRE_TRY(add_tensor(config, tensors, "experts.up", MOIRE_BY_EXPERT, in, deviation, layer, &up));
    MOIRE_TRY(
        add_tensor(config, tensors, "experts.down", MOIRE_BY_EXPERT, out, deviation_down, layer, &down));
    if (moe_layer) {
        moe_layer->router_tensor = router;
        moe_layer->gate_tensor = gate;
        moe_layer->up_tensor = up;
        moe_layer->down_tensor = down;
    }
    return MOIRE_OK;
}

static void read_settings(const struct moire_config *config, struct moire_moe *moe)
{
    moe->kind = config->model_feed_forward;
    moe->dim = config->model_dim;
    moe->hidden_size = config->moe_expert_hidden;
    moe->experts = config->moe_experts;
    moe->top_k = config->moe_top_k;
    moe->recompute = config->train_recompute != MOIRE_RECOMPUTE_NONE;
    moe->router_setting = (struct moire_router_setting){
        .experts = config->moe_experts,
        .top_k = config->moe_top_k,
        .normalise = config->moe_normalise,
        .traffic = &moe->traffic,
        .mesh = moe->mesh,
        .placement = &moe->placement,
    };
    moe->balance_setting.balance_weight = config->moe_balance_weight;
    moe->balance_setting.z_weight = config->moe_z_weight;
    moe->balance_setting.capacity = config->moe_capacity;
    if (!moe->router->trains) {
        moe->balance_setting.active = false;
        moe->balance_setting.z_weight = 0;
    }
}

static void warn_of_constant_weights(const struct moire_moe *moe)
{
    bool normalised = moe->router == &moire_router_mixtral
                      || (moe->router == &moire_router_softmax && moe->router_setting.normalise);
    if (normalised && moe->top_k == 1 && moe->experts > 1)
        moire_warn("with moe.top_k = 1 every normalised weight is 1, so the router learns from the balance "
                   "losses alone; try moe.router = softmax with moe.normalise = no");
}

/* What needs no other rank. */
static moire_status set_up(const struct moire_config *config, struct moire_moe *moe)
{
    MOIRE_TRY(moire_moe_check(config));
    MOIRE_TRY(moire_router_find(config->moe_router, &moe->router));
    MOIRE_TRY(moire_balance_find(config->moe_balance, &moe->balance_setting.active));
    read_settings(config, moe);
    MOIRE_TRY(moire_placement_even(moe->experts, moe->mesh->expert.size, &moe->placement));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_ACTIVATIONS, moe->tokens * moe->experts, sizeof(real),
                             &moe->logit_gradients));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, 2 * moe->experts + 1, sizeof(double), &moe->reduce));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, moe->experts, sizeof(int64_t), &moe->counts));
    const struct moire_traffic_setting traffic =
        moire_traffic_setting_of(config, &moe->placement, moe->mesh->expert_node_of);
    MOIRE_TRY(moire_traffic_create(&traffic, &moe->traffic));
    moire_traffic_set_source(&moe->traffic, moe->mesh->expert.rank);
    return MOIRE_OK;
}

static moire_status create_rows(struct moire_moe *moe, int64_t width, int64_t rows, struct moire_rows *buffer)
{
    return moire_rows_create(moe->exchange, MOIRE_MEMORY_ACTIVATIONS, width, rows, buffer);
}

static moire_status create_received(struct moire_moe *moe, struct moire_moe_received *received)
{
    MOIRE_TRY(create_rows(moe, moe->dim, 0, &received->rows));
    MOIRE_TRY(create_rows(moe, 1, 0, &received->weights));
    MOIRE_TRY(create_rows(moe, moe->hidden_size, 0, &received->up));
    return moe->kind == MOIRE_SWIGLU ? create_rows(moe, moe->hidden_size, 0, &received->gate) : MOIRE_OK;
}

static void free_received(struct moire_exchange *exchange, struct moire_moe_received *received)
{
    moire_rows_free(exchange, &received->gate);
    moire_rows_free(exchange, &received->up);
    moire_rows_free(exchange, &received->weights);
    moire_rows_free(exchange, &received->rows);
}

/* What an expert group makes together. */
static moire_status create_exchange(const struct moire_config *config, struct moire_moe *moe)
{
    const struct moire_exchange_settings settings = {
        .backend = config->exchange_backend,
        .round_bytes = config->exchange_round_bytes,
        .contexts = MOIRE_MOE_CONTEXTS,
        .element = MOIRE_REAL_ELEMENT,
        .width = moe->dim,
        .wire = config->exchange_wire ? MOIRE_WIRE_BF16 : MOIRE_WIRE_FP32,
        .chunks = config->exchange_chunks > 0 ? (int)config->exchange_chunks : 1,
        .peers_in_flight = config->exchange_peers_in_flight > 0 ? (int)config->exchange_peers_in_flight : 0,
        .deduplicate = config->exchange_dedup,
        .check = config->exchange_check,
    };
    MOIRE_TRY(moire_exchange_create(&settings, &moe->mesh->expert, moe->mesh->expert_node_of,
                                    moe->mesh->expert_leaf_of, &moe->placement, &moe->exchange));
    MOIRE_TRY(create_rows(moe, moe->dim, 0, &moe->outputs));
    MOIRE_TRY(create_rows(moe, moe->dim, 0, &moe->output_gradients));
    MOIRE_TRY(create_rows(moe, 1, 0, &moe->weight_gradients));
    MOIRE_TRY(create_rows(moe, moe->hidden_size, 0, &moe->hidden));
    MOIRE_TRY(create_rows(moe, moe->hidden_size, 0, &moe->hidden_gradients));
    MOIRE_TRY(create_rows(moe, 1, moe->tokens * moe->top_k, &moe->slot_gradients));
    if (moe->recompute) {
        MOIRE_TRY(create_rows(moe, moe->dim, moe->tokens, &moe->inputs));
        MOIRE_TRY(create_received(moe, &moe->received));
    }
    return create_rows(moe, moe->dim, moe->tokens, &moe->inputs_gradient);
}

moire_status moire_moe_create(const struct moire_config *config, const struct moire_mesh *mesh,
                              int64_t tokens, struct moire_moe *moe)
{
    *moe = (struct moire_moe){ .mesh = mesh, .tokens = tokens };
    moire_status status = moire_agree(&mesh->world, set_up(config, moe));
    if (status == MOIRE_OK) status = moire_agree(&mesh->world, create_exchange(config, moe));
    if (status == MOIRE_OK) warn_of_constant_weights(moe);
    else moire_moe_free(moe);
    return status;
}

void moire_moe_free(struct moire_moe *moe)
{
    free_received(moe->exchange, &moe->received);
    moire_rows_free(moe->exchange, &moe->inputs);
    moire_rows_free(moe->exchange, &moe->inputs_gradient);
    moire_rows_free(moe->exchange, &moe->slot_gradients);
    moire_rows_free(moe->exchange, &moe->hidden_gradients);
    moire_rows_free(moe->exchange, &moe->hidden);
    moire_rows_free(moe->exchange, &moe->weight_gradients);
    moire_rows_free(moe->exchange, &moe->output_gradients);
    moire_rows_free(moe->exchange, &moe->outputs);
    moire_exchange_free(moe->exchange);
    moire_traffic_free(&moe->traffic);
    moire_release(moe->counts);
    moire_release(moe->reduce);
    moire_release(moe->logit_gradients);
    moire_placement_free(&moe->placement);
    memset(moe, 0, sizeof *moe);
}

static moire_status allocate_layer(struct moire_moe_layer *layer)
{
    const struct moire_moe *moe = layer->moe;
    const int64_t tokens = moe->tokens, slots = tokens * moe->top_k;
    const moire_memory_kind kind = MOIRE_MEMORY_ACTIVATIONS;
    struct moire_selection *selection = &layer->selection;
    MOIRE_TRY(moire_allocate(kind, tokens * moe->experts, sizeof(real), &layer->logits));
    MOIRE_TRY(moire_allocate(kind, tokens * moe->experts, sizeof(real), &layer->scores));
    MOIRE_TRY(moire_allocate(kind, slots, sizeof *selection->experts, &selection->experts));
    MOIRE_TRY(moire_allocate(kind, slots, sizeof *selection->dropped, &selection->dropped));
    MOIRE_TRY(moire_allocate(kind, moe->experts, sizeof(double), &layer->balance.load));
    MOIRE_TRY(moire_allocate(kind, moe->experts, sizeof(double), &layer->balance.mean));
    MOIRE_TRY(moire_allocate(kind, tokens + 1, sizeof(int64_t), &layer->slot_begin));
    MOIRE_TRY(moire_allocate(kind, slots + 1, sizeof(int64_t), &layer->target_begin));
    MOIRE_TRY(moire_allocate(kind, slots, sizeof(int64_t), &layer->targets));
    for (int64_t t = 0; t <= tokens; t++) layer->slot_begin[t] = t * moe->top_k;
    return MOIRE_OK;
}

static moire_status create_layer_rows(struct moire_moe_layer *layer)
{
    struct moire_moe *moe = layer->moe;
    struct moire_moe_received *received = moe->recompute ? &moe->received : &layer->own;
    struct moire_rows *grown[] = {
        &moe->outputs,          &moe->output_gradients, &moe->weight_gradients, &moe->hidden,
        &moe->hidden_gradients, &received->rows,        &received->weights,     &received->up,
        &received->gate,
    };
    const int count = sizeof grown / sizeof *grown - (moe->kind == MOIRE_SWIGLU ? 0 : 1);
    layer->received = received;
    layer->inputs = moe->inputs;
    if (!moe->recompute) {
        MOIRE_TRY(create_rows(moe, moe->dim, moe->tokens, &layer->inputs));
        MOIRE_TRY(create_received(moe, &layer->own));
    }
    MOIRE_TRY(create_rows(moe, 1, moe->tokens * moe->top_k, &layer->slot_weights));
    layer->selection.weights = layer->slot_weights.data;
    return moire_plan_create(moe->exchange, grown, count, &layer->plan);
}

moire_status moire_moe_layer_create(struct moire_moe *moe, struct moire_moe_layer *layer)
{
    *layer = (struct moire_moe_layer){
        .moe = moe,
        .layer = layer->layer,
        .moe_layer = layer->moe_layer,
        .router_tensor = layer->router_tensor,
        .gate_tensor = layer->gate_tensor,
        .up_tensor = layer->up_tensor,
        .down_tensor = layer->down_tensor,
    };
    moire_status status = moire_agree(&moe->mesh->world, allocate_layer(layer));
    if (status == MOIRE_OK) status = moire_agree(&moe->mesh->world, create_layer_rows(layer));
    if (status != MOIRE_OK) moire_moe_layer_free(layer);
    return status;
}

void moire_moe_layer_free(struct moire_moe_layer *layer)
{
    struct moire_exchange *exchange = layer->moe ? layer->moe->exchange : NULL;
    moire_plan_free(layer->plan);
    moire_rows_free(exchange, &layer->slot_weights);
    free_received(exchange, &layer->own);
    if (exchange && !layer->moe->recompute) moire_rows_free(exchange, &layer->inputs);
    moire_release(layer->targets);
    moire_release(layer->target_begin);
    moire_release(layer->slot_begin);
    moire_release(layer->balance.mean);
    moire_release(layer->balance.load);
    moire_release(layer->selection.dropped);
    moire_release(layer->selection.experts);
    moire_release(layer->scores);
    moire_release(layer->logits);
    memset(layer, 0, sizeof *layer);
}
