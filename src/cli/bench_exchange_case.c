/* moire bench exchange: who sends what to whom. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench_exchange.h"
#include "moire/base/element.h"

/* A row of a size that is less than a row of the model. */
enum { SMALL_WIDTH = 16 };

int64_t moire_bench_wire_element(const struct moire_config *config)
{
    return config->exchange_wire ? 2 : (int64_t)sizeof(real);
}

int moire_bench_chunks(const struct moire_config *config)
{
    return config->exchange_chunks > 0 ? (int)config->exchange_chunks : 1;
}

/* ---- the traffic of a model ---- */

static moire_status read_recording(const struct moire_bench_run *run, struct moire_bench_traffic *traffic)
{
    const struct moire_config *config = run->config;
    struct moire_routing_file *file = &traffic->recording;
    if (!config->moe_forced_file || !*config->moe_forced_file)
        return moire_fail(MOIRE_USAGE, "moe.forced = replay needs a recording; found no moe.forced_file; try "
                                       "moe.forced_file = the routing.h5 of a run with moe.record = yes");
    MOIRE_TRY(moire_routing_read(config->moe_forced_file, file));
    if (file->experts != config->moe_experts || file->top_k != config->moe_top_k)
        return moire_fail(
            MOIRE_BAD_DATA,
            "%s is of another model; found %lld experts, %lld a token, expected %lld, %lld a token; try the "
            "configuration that it was recorded with",
            config->moe_forced_file, (long long)file->experts, (long long)file->top_k,
            (long long)config->moe_experts, (long long)config->moe_top_k);
    moire_traffic_set_replay(&traffic->traffic, file->ids, file->steps, file->layers, file->tokens);
    return MOIRE_OK;
}

moire_status moire_bench_traffic_create(const struct moire_bench_run *run,
                                        struct moire_bench_traffic *traffic)
{
    MOIRE_TRY(moire_placement_even(run->config->moe_experts, run->mesh.expert.size, &traffic->placement));
    const struct moire_traffic_setting setting =
        moire_traffic_setting_of(run->config, &traffic->placement, run->mesh.expert_node_of);
    MOIRE_TRY(moire_traffic_create(&setting, &traffic->traffic));
    return strcmp(run->config->moe_forced, "replay") == 0 ? read_recording(run, traffic) : MOIRE_OK;
}

void moire_bench_traffic_free(struct moire_bench_traffic *traffic)
{
    moire_routing_free(&traffic->recording);
    moire_traffic_free(&traffic->traffic);
    moire_placement_free(&traffic->placement);
}

/* Tokens that a rank of the world brings to the first micro-batch, as the trainer cuts it. */
static int64_t share_of(const struct moire_config *config, const struct moire_mesh *mesh, int rank,
                        int64_t *first)
{
    int64_t ignored;
    const int64_t part = moire_share(config->train_batch, (int)config->train_accumulate, 0, &ignored);
    const int64_t sequences = moire_share(part, mesh->world.size, rank, first);
    *first *= config->model_sequence;
    return sequences * config->model_sequence;
}

/* ---- a case ---- */

static int world_rank(const struct moire_bench_case *what, int source)
{
    const struct moire_mesh *mesh = &what->run->mesh;
    return mesh->group * mesh->expert.size + source;
}

int64_t moire_bench_case_tokens(const struct moire_bench_case *what, int source)
{
    const struct moire_mesh *mesh = &what->run->mesh;
    int64_t first;
    if (what->rows_a_pair > 0) return what->rows_a_pair * mesh->expert.size;
    return share_of(what->run->config, mesh, world_rank(what, source), &first);
}

/* Token t goes to rank t / n, and there to its instances in turn by runs. */
static void choose_by_size(const struct moire_bench_case *what, int32_t *choices)
{
    const struct moire_placement *placement = what->placement;
    const int64_t rows = what->rows_a_pair;
    for (int rank = 0; rank < placement->ranks; rank++)
        for (int64_t i = 0; i < rows; i++)
            choices[rank * rows + i] =
                (int32_t)(placement->rank_begin[rank] + i * moire_placement_local(placement, rank) / rows);
}

moire_status moire_bench_case_choose(const struct moire_bench_case *what, int source, int32_t *choices)
{
    struct moire_traffic_batch batch = { .layer = what->model_layer, .moe_layer = what->moe_layer };
    const struct moire_placement *placement = what->placement;
    if (what->rows_a_pair > 0) {
        choose_by_size(what, choices);
        return MOIRE_OK;
    }
    batch.tokens =
        share_of(what->run->config, &what->run->mesh, world_rank(what, source), &batch.first_token);
    moire_traffic_set_source(&what->traffic->traffic, source);
    MOIRE_TRY(moire_traffic_generate(&what->traffic->traffic, &batch, choices));
    for (int64_t i = 0; i < batch.tokens * what->top_k; i++)
        if (choices[i] >= 0)
            choices[i] = (int32_t)placement->expert_instances[placement->expert_begin[choices[i]]];
    return MOIRE_OK;
}

static int level_of(const struct moire_mesh *mesh, int rank)
{
    const int own = mesh->expert.rank;
    if (rank == own) return MOIRE_LEVEL_SELF;
    if (mesh->expert_node_of[rank] == mesh->expert_node_of[own]) return MOIRE_LEVEL_NODE;
    return mesh->expert_leaf_of[rank] == mesh->expert_leaf_of[own] ? MOIRE_LEVEL_FAR : MOIRE_LEVEL_SPINE;
}

static void fill_routing(struct moire_bench_case *what)
{
    const int64_t tokens = moire_bench_case_tokens(what, what->run->mesh.expert.rank);
    const int64_t slots = tokens * what->top_k,
                  row = what->width * moire_bench_wire_element(what->run->config);
    int64_t count = 0;
    for (int64_t token = 0; token <= tokens; token++) what->slot_begin[token] = token * what->top_k;
    for (int64_t slot = 0; slot < slots; slot++) {
        what->target_begin[slot] = count;
        if (what->choices[slot] < 0) continue;
        const int level = level_of(&what->run->mesh, what->placement->instance_rank[what->choices[slot]]);
        what->row_payload[level] += row;
        what->number_payload[level] += what->run->config->bench_numbers ? (int64_t)sizeof(real) : 0;
        what->targets[count++] = what->choices[slot];
    }
    what->target_begin[slots] = count;
    what->routing = (struct moire_routing) { .tokens = tokens,
                                             .slots = slots,
                                             .slot_begin = what->slot_begin,
                                             .target_begin = what->target_begin,
                                             .targets = what->targets };
}

static moire_status create(struct moire_bench_case *what)
{
    const moire_memory_kind kind = MOIRE_MEMORY_OTHER;
    const struct moire_communicator *ranks = &what->run->mesh.expert;
    const int64_t tokens = moire_bench_case_tokens(what, ranks->rank);
    int64_t most = 0;
    for (int source = 0; source < ranks->size; source++) {
        const int64_t brought = moire_bench_case_tokens(what, source);
        if (brought > most) most = brought;
    }
    MOIRE_TRY(moire_allocate(kind, tokens + 1, sizeof(int64_t), &what->slot_begin));
    MOIRE_TRY(moire_allocate(kind, tokens * what->top_k + 1, sizeof(int64_t), &what->target_begin));
    MOIRE_TRY(moire_allocate(kind, tokens * what->top_k, sizeof(int64_t), &what->targets));
    MOIRE_TRY(moire_allocate(kind, most * what->top_k, sizeof(int32_t), &what->choices));
    MOIRE_TRY(moire_bench_case_choose(what, ranks->rank, what->choices));
    fill_routing(what);
    return MOIRE_OK;
}

moire_status moire_bench_case_of_size(const struct moire_bench_run *run, int64_t size,
                                      struct moire_bench_case *what)
{
    const int64_t element = moire_bench_wire_element(run->config), dim = run->config->model_dim;
    const int64_t small = size / element < SMALL_WIDTH ? size / element : SMALL_WIDTH;
    const int ranks = run->mesh.expert.size, chunks = moire_bench_chunks(run->config);
    *what = (struct moire_bench_case) { .run = run, .layer = NAN, .top_k = 1 };
    what->width = size >= dim * element ? dim : small > 0 ? small : 1;
    what->rows_a_pair = (size + what->width * element / 2) / (what->width * element);
    if (what->rows_a_pair < 1) what->rows_a_pair = 1;
    snprintf(what->name, sizeof what->name, "%lld", (long long)(what->rows_a_pair * what->width * element));
    what->placement = &what->own_placement;
    /* so many instances that every chunk has rows */
    MOIRE_TRY(moire_placement_even((int64_t)ranks * chunks, ranks, &what->own_placement));
    return create(what);
}

moire_status moire_bench_case_of_layer(const struct moire_bench_run *run, struct moire_bench_traffic *traffic,
                                       int layer, int moe_layer, struct moire_bench_case *what)
{
    *what = (struct moire_bench_case) {
        .run = run,
        .layer = layer,
        .width = run->config->model_dim,
        .top_k = run->config->moe_top_k,
        .traffic = traffic,
        .model_layer = layer,
        .moe_layer = moe_layer,
        .placement = &traffic->placement,
    };
    snprintf(what->name, sizeof what->name, "layer %d", layer);
    return create(what);
}

moire_status moire_bench_case_sum(struct moire_bench_case *what)
{
    const struct moire_mesh *mesh = &what->run->mesh;
    const double pairs = (double)mesh->world.size * mesh->expert.size;
    double bytes = 0;
    MOIRE_TRY(moire_sum_integers(&mesh->world, what->row_payload, MOIRE_LEVELS));
    MOIRE_TRY(moire_sum_integers(&mesh->world, what->number_payload, MOIRE_LEVELS));
    for (int level = 0; level < MOIRE_LEVELS; level++) bytes += (double)what->row_payload[level];
    what->pair_bytes = round(bytes / pairs);
    return MOIRE_OK;
}

void moire_bench_case_free(struct moire_bench_case *what)
{
    moire_release(what->choices);
    moire_release(what->targets);
    moire_release(what->target_begin);
    moire_release(what->slot_begin);
    moire_placement_free(&what->own_placement);
    *what = (struct moire_bench_case) { .run = NULL };
}
