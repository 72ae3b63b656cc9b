#include "fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void *room(int64_t count, size_t bytes_each)
{
    void *memory = calloc((size_t)count + 1, bytes_each);
    if (!memory) abort();
    return memory;
}

static double *draw(int64_t count, double scale)
{
    double *x = room(count, sizeof *x);
    for (int64_t i = 0; i < count; i++) x[i] = (double)(real)(scale * test_random());
    return x;
}

static void set_integer(struct moire_config *config, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    expect_ok(moire_config_set(config, name, text, MOIRE_FROM_COMMAND));
}

static void set(struct moire_config *config, const char *name, const char *value)
{
    expect_ok(moire_config_set(config, name, value, MOIRE_FROM_COMMAND));
}

static void configure(const struct problem *problem, struct moire_config *config)
{
    expect_ok(moire_config_create(config));
    set_integer(config, "model.layers", problem->layers);
    set_integer(config, "model.dim", problem->dim);
    set_integer(config, "moe.expert_hidden", problem->hidden);
    set_integer(config, "moe.experts", problem->experts);
    set_integer(config, "moe.top_k", problem->top_k);
    set(config, "moe.router", problem->router);
    set(config, "moe.forced", "uniform");
    set(config, "moe.normalise", problem->normalise ? "yes" : "no");
    set(config, "moe.balance_weight", "0.3");
    set(config, "moe.z_weight", "0.2");
    set(config, "model.feed_forward", problem->kind == MOIRE_SWIGLU ? "swiglu" : "gelu");
    config->moe_capacity = problem->capacity;
    if (problem->expert_ranks) set_integer(config, "parallel.expert", problem->expert_ranks);
    if (problem->ranks_per_node) set_integer(config, "parallel.ranks_per_node", problem->ranks_per_node);
}

/* All draw alike; the rest goes to a rank that is drawn too. */
static void spread_tokens(struct fixture *fixture)
{
    const int64_t tokens = fixture->problem.tokens;
    int64_t left = tokens, share[64] = { 0 };
    for (int rank = 0; rank < test_ranks; rank++) {
        share[rank] = test_random_below(3) == 0 ? 0 : test_random_below(2 * tokens / test_ranks + 2);
        if (share[rank] > left) share[rank] = left;
        left -= share[rank];
    }
    share[test_random_below(test_ranks)] += left;
    int64_t first = 0;
    for (int rank = 0; rank < test_rank; rank++) first += share[rank];
    fixture->batch = (struct moire_micro_batch){
        .tokens = share[test_rank],
        .first_token = first,
        .global_tokens = tokens,
        .step = 3,
        .share = 0.75,
        .training = true,
    };
}

static void describe(struct fixture *fixture)
{
    expect_ok(moire_tensors_create(&fixture->tensors));
    for (int l = 0; l < fixture->problem.layers; l++) {
        fixture->layer[l] = (struct moire_moe_layer){ .layer = l, .moe_layer = l };
        expect_ok(moire_moe_describe(&fixture->config, l, &fixture->tensors, &fixture->layer[l]));
    }
    const struct moire_placement *placement = &fixture->moe.placement;
    int rank = fixture->mesh.expert.rank;
    expect_ok(moire_tensors_layout(&fixture->tensors,
                                   placement->instance_expert + placement->rank_begin[rank],
                                   moire_placement_local(placement, rank)));
}

void fixture_create(struct fixture *fixture, const struct problem *problem)
{
    *fixture = (struct fixture){ .problem = *problem };
    const int64_t rows = problem->tokens * problem->dim,
                  matrix = problem->experts * problem->hidden * problem->dim;
    configure(problem, &fixture->config);
    expect_ok(moire_mesh_create(&fixture->config, &fixture->mesh));
    spread_tokens(fixture);
    expect_ok(moire_moe_create(&fixture->config, &fixture->mesh, fixture->batch.tokens, &fixture->moe));
    describe(fixture);
    for (int l = 0; l < problem->layers; l++)
        expect_ok(moire_moe_layer_create(&fixture->moe, &fixture->layer[l]));
    struct moire_rows *buffers[] = { &fixture->output, &fixture->output_gradient };
    for (int i = 0; i < 2; i++)
        expect_ok(moire_rows_create(fixture->moe.exchange, MOIRE_MEMORY_ACTIVATIONS, problem->dim,
                                    fixture->batch.tokens, buffers[i]));
    fixture->parameters = room(moire_tensors_elements(&fixture->tensors), sizeof(real));
    fixture->gradients = room(moire_tensors_elements(&fixture->tensors), sizeof(real));
    fixture->input_gradient = room(fixture->batch.tokens * problem->dim, sizeof(real));
    fixture->input = draw(rows, 1.5);
    fixture->upstream = draw(rows, 1);
    fixture->router = draw(problem->experts * problem->dim, 1);
    if (problem->kind == MOIRE_SWIGLU) fixture->gate = draw(matrix, 1);
    fixture->up = draw(matrix, 1);
    fixture->down = draw(matrix, 1);
    fixture_load(fixture);
}

void fixture_free(struct fixture *fixture)
{
    moire_rows_free(fixture->moe.exchange, &fixture->output);
    moire_rows_free(fixture->moe.exchange, &fixture->output_gradient);
    for (int l = 0; l < fixture->problem.layers; l++) moire_moe_layer_free(&fixture->layer[l]);
    moire_moe_free(&fixture->moe);
    moire_tensors_free(&fixture->tensors);
    moire_mesh_free(&fixture->mesh);
    moire_config_free(&fixture->config);
    void *owned[] = { fixture->parameters, fixture->gradients, fixture->input_gradient,
                      fixture->input,      fixture->upstream,  fixture->router,
                      fixture->gate,       fixture->up,        fixture->down };
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

/* Where local expert i of a tensor stands in the whole, and how many elements it has; replicated: all. */
static int64_t place_of(const struct fixture *fixture, const struct moire_tensor *tensor, int64_t i,
                        int64_t *count)
{
    *count = moire_tensor_expert_elements(tensor);
    return tensor->sharding == MOIRE_BY_EXPERT ? fixture->tensors.experts[i] * *count : 0;
}

static int64_t parts_of(const struct fixture *fixture, const struct moire_tensor *tensor)
{
    return tensor->sharding == MOIRE_BY_EXPERT ? fixture->tensors.local_experts : 1;
}

static void load_tensor(struct fixture *fixture, int index, const double *whole)
{
    const struct moire_tensor *tensor = &fixture->tensors.list[index];
    for (int64_t part = 0; part < parts_of(fixture, tensor); part++) {
        int64_t count, from = place_of(fixture, tensor, part, &count);
        for (int64_t i = 0; i < count; i++)
            fixture->parameters[tensor->offset + part * count + i] = (real)whole[from + i];
    }
}

void fixture_load(struct fixture *fixture)
{
    const int64_t dim = fixture->problem.dim, first = fixture->batch.first_token * dim;
    for (int l = 0; l < fixture->problem.layers; l++) {
        struct moire_moe_layer *layer = &fixture->layer[l];
        load_tensor(fixture, layer->router_tensor, fixture->router);
        if (fixture->gate) load_tensor(fixture, layer->gate_tensor, fixture->gate);
        load_tensor(fixture, layer->up_tensor, fixture->up);
        load_tensor(fixture, layer->down_tensor, fixture->down);
        for (int64_t i = 0; i < fixture->batch.tokens * dim; i++)
            ((real *)layer->inputs.data)[i] = (real)fixture->input[first + i];
    }
    for (int64_t i = 0; i < fixture->batch.tokens * dim; i++)
        ((real *)fixture->output_gradient.data)[i] = (real)fixture->upstream[first + i];
}

moire_status fixture_forward(struct fixture *fixture, int layer)
{
    return moire_moe_forward(&fixture->layer[layer], &fixture->tensors, fixture->parameters, &fixture->batch,
                             &fixture->output);
}

moire_status fixture_backward(struct fixture *fixture, int layer)
{
    return moire_moe_backward(&fixture->layer[layer], &fixture->tensors, fixture->parameters,
                              fixture->gradients, &fixture->batch, &fixture->output_gradient,
                              fixture->input_gradient);
}

void fixture_clear_gradients(struct fixture *fixture)
{
    memset(fixture->gradients, 0, (size_t)moire_tensors_elements(&fixture->tensors) * sizeof(real));
    memset(fixture->input_gradient, 0, (size_t)(fixture->batch.tokens * fixture->problem.dim) * sizeof(real));
}

void fixture_gather_rows(const struct fixture *fixture, const real *rows, double *whole)
{
    const int64_t dim = fixture->problem.dim, all = fixture->problem.tokens * dim;
    for (int64_t i = 0; i < all; i++) whole[i] = 0;
    for (int64_t i = 0; i < fixture->batch.tokens * dim; i++)
        whole[fixture->batch.first_token * dim + i] = (double)rows[i];
    expect_ok(moire_sum(&fixture->mesh.world, whole, all, MOIRE_FLOAT64));
}

void fixture_gather_choice(const struct fixture *fixture, int layer, int32_t *chosen, bool *dropped)
{
    const struct moire_selection *selection = &fixture->layer[layer].selection;
    const int64_t top_k = fixture->problem.top_k, all = fixture->problem.tokens * top_k;
    int64_t *words = room(2 * all, sizeof *words);
    for (int64_t slot = 0; slot < fixture->batch.tokens * top_k; slot++) {
        words[fixture->batch.first_token * top_k + slot] = selection->experts[slot];
        words[all + fixture->batch.first_token * top_k + slot] = selection->dropped[slot];
    }
    expect_ok(moire_sum_integers(&fixture->mesh.world, words, 2 * all));
    for (int64_t slot = 0; slot < all; slot++) {
        chosen[slot] = (int32_t)words[slot];
        dropped[slot] = words[all + slot] != 0;
    }
    free(words);
}

void fixture_gather_tensor(const struct fixture *fixture, int index, const real *arena, double *whole)
{
    const struct moire_tensor *tensor = &fixture->tensors.list[index];
    const int64_t all = moire_tensor_global_elements(tensor);
    for (int64_t i = 0; i < all; i++) whole[i] = 0;
    for (int64_t part = 0; part < parts_of(fixture, tensor); part++) {
        int64_t count, to = place_of(fixture, tensor, part, &count);
        for (int64_t i = 0; i < count; i++) whole[to + i] = (double)arena[tensor->offset + part * count + i];
    }
    expect_ok(moire_sum(&fixture->mesh.world, whole, all, MOIRE_FLOAT64));
}

static int weighting_of(const struct problem *problem)
{
    if (strcmp(problem->router, "forced") == 0) return MOIRE_REFERENCE_EQUAL;
    if (strcmp(problem->router, "mixtral") == 0) return MOIRE_REFERENCE_AFTER_CHOICE;
    return problem->normalise ? MOIRE_REFERENCE_NORMALISED : MOIRE_REFERENCE_RAW;
}

struct moire_reference fixture_reference(const struct fixture *fixture, const int32_t *chosen,
                                         const bool *dropped)
{
    const struct problem *problem = &fixture->problem;
    const int weighting = weighting_of(problem);
    const bool losses = weighting != MOIRE_REFERENCE_EQUAL;
    return (struct moire_reference){
        .tokens = problem->tokens,
        .dim = problem->dim,
        .hidden = problem->hidden,
        .experts = problem->experts,
        .top_k = problem->top_k,
        .kind = problem->kind,
        .weighting = weighting,
        .balance_weight = losses ? fixture->config.moe_balance_weight : 0,
        .z_weight = losses ? fixture->config.moe_z_weight : 0,
        .input = fixture->input,
        .router = fixture->router,
        .gate = fixture->gate,
        .up = fixture->up,
        .down = fixture->down,
        .chosen = chosen,
        .dropped = dropped,
    };
}

void expect_array(const struct fixture *fixture, const char *what, const double *found, const double *wanted,
                  int64_t count, double tolerance)
{
    char text[256];
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        difference += (found[i] - wanted[i]) * (found[i] - wanted[i]);
        norm += wanted[i] * wanted[i];
    }
    snprintf(text, sizeof text, "%s: relative error of %s", fixture->problem.label, what);
    test_expect_near(norm > 0 ? sqrt(difference / norm) : sqrt(difference), 0, tolerance, text, __FILE__,
                     __LINE__);
}
