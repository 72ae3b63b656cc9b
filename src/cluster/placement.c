#include "moire/cluster/placement.h"

#include <string.h>

#include "moire/cluster/mesh.h"

static moire_status allocate(struct moire_placement *new)
{
    const moire_memory_kind kind = MOIRE_MEMORY_OTHER;
    MOIRE_TRY(moire_allocate(kind, new->instances, sizeof *new->instance_expert, &new->instance_expert));
    MOIRE_TRY(moire_allocate(kind, new->instances, sizeof *new->instance_rank, &new->instance_rank));
    MOIRE_TRY(moire_allocate(kind, new->ranks + 1, sizeof *new->rank_begin, &new->rank_begin));
    MOIRE_TRY(moire_allocate(kind, new->experts + 1, sizeof *new->expert_begin, &new->expert_begin));
    return moire_allocate(kind, new->instances, sizeof *new->expert_instances, &new->expert_instances);
}

static moire_status check_map(const struct moire_placement *map)
{
    for (int64_t i = 0; i < map->instances; i++) {
        int64_t expert = map->instance_expert[i];
        int rank = map->instance_rank[i], least = i ? map->instance_rank[i - 1] : 0;
        if (expert < 0 || expert >= map->experts)
            return moire_fail(MOIRE_BAD_DATA,
                              "placement: instance %lld has no expert; found expert %lld, expected 0 to %lld",
                              (long long)i, (long long)expert, (long long)map->experts - 1);
        if (rank < least || rank >= map->ranks)
            return moire_fail(MOIRE_BAD_DATA,
                              "placement: instance %lld is out of order; found rank %d, expected %d to %d",
                              (long long)i, rank, least, map->ranks - 1);
    }
    return MOIRE_OK;
}

/* A counting sort of the instances by expert; it is stable, so the runs ascend. */
static void index_map(struct moire_placement *map)
{
    for (int64_t i = 0; i < map->instances; i++) {
        map->rank_begin[map->instance_rank[i] + 1]++;
        map->expert_begin[map->instance_expert[i] + 1]++;
    }
    for (int rank = 0; rank < map->ranks; rank++) map->rank_begin[rank + 1] += map->rank_begin[rank];
    for (int64_t e = 0; e < map->experts; e++) map->expert_begin[e + 1] += map->expert_begin[e];
    for (int64_t i = 0; i < map->instances; i++)
        map->expert_instances[map->expert_begin[map->instance_expert[i]]++] = i;
    for (int64_t e = map->experts; e > 0; e--) map->expert_begin[e] = map->expert_begin[e - 1];
    map->expert_begin[0] = 0;
}

moire_status moire_placement_create(int64_t experts, int ranks, int64_t instances,
                                    const int64_t *instance_expert, const int *instance_rank,
                                    struct moire_placement *placement)
{
    struct moire_placement new = { .experts = experts, .ranks = ranks, .instances = instances };
    moire_status status = allocate(&new);
    if (status != MOIRE_OK) goto free_placement;
    if (instances > 0) {
        memcpy(new.instance_expert, instance_expert, (size_t)instances * sizeof *instance_expert);
        memcpy(new.instance_rank, instance_rank, (size_t)instances * sizeof *instance_rank);
    }
    status = check_map(&new);
    if (status != MOIRE_OK) goto free_placement;
    index_map(&new);
    *placement = new;
    return MOIRE_OK;

free_placement:
    moire_placement_free(&new);
    return status;
}

moire_status moire_placement_even(int64_t experts, int ranks, struct moire_placement *placement)
{
    int64_t *expert = NULL;
    int *rank = NULL;
    moire_status status = moire_allocate(MOIRE_MEMORY_OTHER, experts, sizeof *expert, &expert);
    if (status == MOIRE_OK) status = moire_allocate(MOIRE_MEMORY_OTHER, experts, sizeof *rank, &rank);
    if (status != MOIRE_OK) goto release_map;
    for (int r = 0; r < ranks; r++) {
        int64_t first, count = moire_share(experts, ranks, r, &first);
        for (int64_t e = first; e < first + count; e++) {
            expert[e] = e;
            rank[e] = r;
        }
    }
    status = moire_placement_create(experts, ranks, experts, expert, rank, placement);

release_map:
    moire_release(rank);
    moire_release(expert);
    return status;
}

void moire_placement_free(struct moire_placement *placement)
{
    moire_release(placement->expert_instances);
    moire_release(placement->expert_begin);
    moire_release(placement->rank_begin);
    moire_release(placement->instance_rank);
    moire_release(placement->instance_expert);
    memset(placement, 0, sizeof *placement);
}
