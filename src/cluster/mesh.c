#include "moire/cluster/mesh.h"

#include <stdio.h>
#include <string.h>

int64_t moire_share(int64_t count, int parts, int part, int64_t *first)
{
    int64_t each = count / parts, more = count % parts;
    *first = part * each + (part < more ? part : more);
    return each + (part < more ? 1 : 0);
}

/* "1, 2, 3, 4, 6, 12"; ends in ", ..." where the text is too small. */
static void divisors_text(int number, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (int divisor = 1; divisor <= number; divisor++) {
        if (number % divisor) continue;
        char next[16];
        snprintf(next, sizeof next, "%s%d", used ? ", " : "", divisor);
        bool fits = used + strlen(next) + sizeof ", ..." <= bytes;
        used += (size_t)snprintf(text + used, bytes - used, "%s", fits ? next : ", ...");
        if (!fits) return;
    }
}

static moire_status expert_group_size(const struct moire_config *config, int ranks, int *size)
{
    int64_t wanted = config->parallel_expert == MOIRE_ALL ? ranks : config->parallel_expert;
    if (wanted < 1 || ranks % wanted) {
        char divisors[160];
        divisors_text(ranks, divisors, sizeof divisors);
        return moire_fail(MOIRE_USAGE,
                          "parallel.expert does not divide the ranks; found parallel.expert = %lld with %d "
                          "ranks, expected a divisor of %d; try all, or one of %s",
                          (long long)wanted, ranks, ranks, divisors);
    }
    *size = (int)wanted;
    return MOIRE_OK;
}

static moire_status make_node(const struct moire_config *config, struct moire_mesh *mesh)
{
    if (config->parallel_ranks_per_node == MOIRE_AUTO)
        return moire_communicator_split_node(&mesh->world, "node", &mesh->node);
    int64_t node = mesh->world.rank / config->parallel_ranks_per_node;
    return moire_communicator_split(&mesh->world, "node", (int)node, mesh->world.rank, &mesh->node);
}

/* Every rank of a node learns the lowest world rank on it; nodes are numbered in the order of those. */
static moire_status find_nodes(struct moire_mesh *mesh)
{
    int lowest = mesh->world.rank;
    int *node_of = mesh->node_of;
    MOIRE_TRY(moire_broadcast(&mesh->node, &lowest, sizeof lowest, 0));
    int result = MPI_Allgather(&lowest, 1, MPI_INT, node_of, 1, MPI_INT, mesh->world.mpi);
    MOIRE_TRY(moire_mpi_check(result, &mesh->world, "MPI_Allgather"));
    mesh->nodes = 0;
    for (int rank = 0; rank < mesh->world.size; rank++) /* the lowest is numbered before it is looked up */
        node_of[rank] = node_of[rank] == rank ? mesh->nodes++ : node_of[node_of[rank]];
    int first = mesh->group * mesh->expert.size;
    for (int rank = 0; rank < mesh->expert.size; rank++) mesh->expert_node_of[rank] = node_of[first + rank];
    return MOIRE_OK;
}

static moire_status allocate_tables(struct moire_mesh *mesh, int ranks, int expert_ranks)
{
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_OTHER, ranks, sizeof *mesh->node_of, &mesh->node_of));
    return moire_allocate(MOIRE_MEMORY_OTHER, expert_ranks, sizeof *mesh->expert_node_of,
                          &mesh->expert_node_of);
}

static moire_status fill(const struct moire_config *config, struct moire_mesh *mesh)
{
    const struct moire_communicator *world = &mesh->world;
    int size = 1;
    MOIRE_TRY(moire_communicator_world(&mesh->world));
    moire_status status = expert_group_size(config, world->size, &size);
    if (status == MOIRE_OK) status = allocate_tables(mesh, world->size, size);
    MOIRE_TRY(moire_agree(world, status));
    mesh->groups = world->size / size;
    mesh->group = world->rank / size;
    MOIRE_TRY(moire_communicator_split(world, "expert", mesh->group, world->rank, &mesh->expert));
    MOIRE_TRY(moire_communicator_split(world, "data", world->rank % size, world->rank, &mesh->data));
    MOIRE_TRY(make_node(config, mesh));
    return find_nodes(mesh);
}

moire_status moire_mesh_create(const struct moire_config *config, struct moire_mesh *mesh)
{
    struct moire_mesh new;
    memset(&new, 0, sizeof new);
    moire_status status = fill(config, &new);
    if (status == MOIRE_OK)
        *mesh = new;
    else
        moire_mesh_free(&new);
    return status;
}

void moire_mesh_free(struct moire_mesh *mesh)
{
    moire_release(mesh->expert_node_of);
    moire_release(mesh->node_of);
    moire_communicator_free(&mesh->node);
    moire_communicator_free(&mesh->data);
    moire_communicator_free(&mesh->expert);
    moire_communicator_free(&mesh->world);
    memset(mesh, 0, sizeof *mesh);
}
