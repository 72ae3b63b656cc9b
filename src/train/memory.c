/* The memory of a rank: predicted from sizes, and beside what was measured. */
#include <stdio.h>
#include <string.h>

#include "train/private.h"

/* Elements of a run that this rank keeps moments of: as moire_shares_create cuts. */
static int64_t share_of(const struct moire_config *config, int64_t elements, int ranks, int rank)
{
    int64_t first;
    if (!config->train_shard_optimizer) return elements;
    return moire_share(elements / MOIRE_SHARE_BLOCK, ranks, rank, &first) * MOIRE_SHARE_BLOCK;
}

moire_status moire_train_memory(const struct moire_config *config, const struct moire_memory_case *rank,
                                int64_t bytes[MOIRE_MEMORY_KINDS])
{
    int64_t dense, experts;
    memset(bytes, 0, MOIRE_MEMORY_KINDS * sizeof *bytes);
    MOIRE_TRY(moire_model_memory(config, rank, bytes, &dense, &experts));
    int groups = rank->ranks / rank->expert.ranks, group = rank->rank / rank->expert.ranks;
    int64_t moments =
        share_of(config, dense, rank->ranks, rank->rank) + share_of(config, experts, groups, group);
    bytes[MOIRE_MEMORY_OPTIMIZER] = 2 * moments * (int64_t)sizeof(real);
    return MOIRE_OK;
}

/* Nodes are counted by their first ranks. */
static struct moire_moe_place place_of(const struct moire_mesh *mesh)
{
    struct moire_moe_place place = { .ranks = mesh->expert.size, .rank = mesh->expert.rank };
    const int *node_of = mesh->expert_node_of;
    for (int r = 0; r < place.ranks; r++) {
        int first = 0;
        while (node_of[first] != node_of[r]) first++;
        place.nodes += first == r;
        place.node_ranks += node_of[r] == node_of[place.rank];
    }
    return place;
}

static struct moire_memory_case case_of(const struct moire_config *config, const struct moire_mesh *mesh,
                                        const struct moire_plan_rows *rows)
{
    return (struct moire_memory_case){
        .ranks = mesh->world.size,
        .rank = mesh->world.rank,
        .expert = place_of(mesh),
        .sequences = moire_train_local_sequences(config, mesh),
        .training = true,
        .rows = rows,
    };
}

/* Experts on the node of a rank of the group; none, and so counted once, where it is not the node's first. */
static int64_t experts_of_node(const struct moire_config *config, const struct moire_mesh *mesh, int rank)
{
    const int *node_of = mesh->expert_node_of;
    int64_t first, experts = 0;
    for (int r = 0; r < mesh->expert.size; r++) {
        if (node_of[r] != node_of[rank]) continue;
        if (r < rank) return 0;
        experts += moire_share(config->moe_experts, mesh->expert.size, r, &first);
    }
    return experts;
}

/* Where relays are used: tokens with experts on other nodes out, those of other nodes with experts here in,
 * as many through every rank of a node. */
static void relay_rows(const struct moire_config *config, const struct moire_mesh *mesh,
                       struct moire_plan_rows *rows)
{
    const struct moire_moe_place place = place_of(mesh);
    const int *node_of = mesh->expert_node_of;
    const int64_t experts = config->moe_experts;
    const double tokens = (double)rows->tokens, copies = (double)rows->copies / (double)experts,
                 sources = (double)(place.ranks - place.node_ranks) / place.node_ranks;
    double row_out = 0, row_in = 0, copy_out = 0, copy_in = 0;
    for (int r = 0; r < place.ranks; r++) {
        const bool own = node_of[r] == node_of[place.rank];
        const int64_t there = experts_of_node(config, mesh, r);
        *(own ? &row_in : &row_out) += tokens * moire_traffic_meets(experts, there, config->moe_top_k);
        *(own ? &copy_in : &copy_out) += copies * (double)there;
    }
    rows->relayed_out_copies = (int64_t)copy_out;
    rows->relayed_in_copies = (int64_t)(sources * copy_in);
    rows->relayed_out = (int64_t)(config->exchange_dedup ? row_out : copy_out);
    rows->relayed_in = (int64_t)(sources * (config->exchange_dedup ? row_in : copy_in));
}

/* The same rows in every layer: each expert gets as many slots of every rank. */
static struct moire_plan_rows even_rows(const struct moire_config *config, const struct moire_mesh *mesh)
{
    int64_t first, tokens = moire_train_local_sequences(config, mesh) * config->model_sequence;
    double local = (double)moire_share(config->moe_experts, mesh->expert.size, mesh->expert.rank, &first);
    double copies = (double)(tokens * config->moe_top_k), part = local / (double)config->moe_experts;
    int64_t received = (int64_t)(copies * part * mesh->expert.size), own = (int64_t)(copies * part);
    struct moire_plan_rows rows = {
        .tokens = tokens,
        .slots = tokens * config->moe_top_k,
        .copies = tokens * config->moe_top_k,
        .received = received,
        .out = tokens * config->moe_top_k - own,
        .in = received - own,
    };
    relay_rows(config, mesh, &rows);
    return rows;
}

moire_status moire_train_memory_even(const struct moire_config *config, const struct moire_mesh *mesh,
                                     int64_t bytes[MOIRE_MEMORY_KINDS])
{
    struct moire_plan_rows *rows = NULL;
    const int64_t layers = config->model_layers; /* at least as many as have experts */
    moire_status status = moire_allocate(MOIRE_MEMORY_OTHER, layers, sizeof *rows, &rows);
    for (int64_t i = 0; i < layers && status == MOIRE_OK; i++) rows[i] = even_rows(config, mesh);
    const struct moire_memory_case rank = case_of(config, mesh, rows);
    if (status == MOIRE_OK) status = moire_train_memory(config, &rank, bytes);
    moire_release(rows);
    MOIRE_TRY(moire_agree(&mesh->world, status));
    return moire_max_integers(&mesh->world, bytes, MOIRE_MEMORY_KINDS);
}

moire_status moire_run_memory(const struct moire_run *run, int64_t bytes[MOIRE_MEMORY_KINDS])
{
    const struct moire_model *model = &run->model;
    struct moire_plan_rows *rows = NULL;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, model->moe_layers, sizeof *rows, &rows));
    for (int64_t i = 0; i < model->layers; i++)
        if (model->blocks[i].is_moe) rows[model->blocks[i].moe.moe_layer] = model->blocks[i].moe.plan->most;
    const struct moire_memory_case rank = case_of(run->config, &run->mesh, rows);
    moire_status status = moire_train_memory(run->config, &rank, bytes);
    moire_release(rows);
    return status;
}

void moire_train_print_memory(const int64_t predicted[MOIRE_MEMORY_KINDS],
                              const int64_t measured[MOIRE_MEMORY_KINDS])
{
    printf("\n%-24s %14s%s\n", "memory of a rank, MiB", "predicted", measured ? "  measured peak" : "");
    for (int kind = 0; kind < MOIRE_MEMORY_KINDS; kind++) {
        bool known = kind <= MOIRE_MEMORY_EXCHANGE;
        if (!known && !measured) continue;
        printf("%-24s ", moire_memory_kind_name((moire_memory_kind)kind));
        if (known) printf("%14.2f", (double)predicted[kind] / 1048576);
        else printf("%14s", "-");
        if (measured) printf(" %14.2f", (double)measured[kind] / 1048576);
        putchar('\n');
    }
}
