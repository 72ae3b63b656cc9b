#include <stdio.h>

#include "moire/cluster/topology.h"

static moire_status allocate(int ranks, struct moire_topology *new)
{
    new->ranks = ranks;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, 1, sizeof *new->level, &new->level));
    new->levels = 1;
    snprintf(new->level->name, sizeof new->level->name, "node");
    return moire_allocate(MOIRE_MEMORY_OTHER, ranks, sizeof *new->level->group_of, &new->level->group_of);
}

/* The lowest rank of this rank's node. */
static moire_status find_node(const struct moire_config *config, const struct moire_communicator *world,
                              int *lowest)
{
    struct moire_communicator node;
    int64_t per_node = config->parallel_ranks_per_node;
    if (per_node != MOIRE_AUTO) {
        *lowest = (int)(world->rank / per_node * per_node);
        return MOIRE_OK;
    }
    MOIRE_TRY(moire_communicator_split_node(world, "machine", &node));
    *lowest = world->rank;
    moire_status status = moire_broadcast(&node, lowest, sizeof *lowest, 0);
    moire_communicator_free(&node);
    return status;
}

static moire_status fill(const struct moire_config *config, const struct moire_communicator *world,
                         struct moire_topology *new)
{
    int lowest;
    MOIRE_TRY(moire_agree(world, allocate(world->size, new)));
    MOIRE_TRY(find_node(config, world, &lowest));
    int *group_of = new->level->group_of;
    int result = MPI_Allgather(&lowest, 1, MPI_INT, group_of, 1, MPI_INT, world->mpi);
    MOIRE_TRY(moire_mpi_check(result, world, "MPI_Allgather"));
    for (int rank = 0; rank < world->size; rank++) /* the lowest is numbered before it is looked up */
        group_of[rank] = group_of[rank] == rank ? new->level->groups++ : group_of[group_of[rank]];
    new->pretended = config->parallel_ranks_per_node != MOIRE_AUTO;
    return MOIRE_OK;
}

moire_status moire_topology_find(const struct moire_config *config, const struct moire_communicator *world,
                                 struct moire_topology *topology)
{
    struct moire_topology new = { 0 };
    moire_status status = fill(config, world, &new);
    if (status == MOIRE_OK)
        *topology = new;
    else
        moire_topology_free(&new);
    return status;
}
