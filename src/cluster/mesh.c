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

/* `all`: group of each world rank, `own`: of each rank of the expert group. Zeros where there is no such
 * level. */
static void copy_level(const struct moire_mesh *mesh, const char *name, int *groups, int *all, int *own)
{
    int index = moire_topology_level_index(&mesh->topology, name);
    *groups = 1;
    if (index < 0) return;
    const struct moire_topology_level *level = &mesh->topology.level[index];
    *groups = level->groups;
    memcpy(all, level->group_of, sizeof *all * (size_t)mesh->world.size);
    memcpy(own, all + mesh->group * mesh->expert.size, sizeof *own * (size_t)mesh->expert.size);
}

static moire_status allocate_tables(struct moire_mesh *mesh, int ranks, int expert_ranks)
{
    const moire_memory_kind kind = MOIRE_MEMORY_OTHER;
    MOIRE_TRY(moire_allocate(kind, ranks, sizeof *mesh->node_of, &mesh->node_of));
    MOIRE_TRY(moire_allocate(kind, expert_ranks, sizeof *mesh->expert_node_of, &mesh->expert_node_of));
    MOIRE_TRY(moire_allocate(kind, ranks, sizeof *mesh->leaf_of, &mesh->leaf_of));
    return moire_allocate(kind, expert_ranks, sizeof *mesh->expert_leaf_of, &mesh->expert_leaf_of);
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
    MOIRE_TRY(moire_topology_find(config, world, &mesh->topology));
    copy_level(mesh, "node", &mesh->nodes, mesh->node_of, mesh->expert_node_of);
    copy_level(mesh, "leaf", &mesh->leaves, mesh->leaf_of, mesh->expert_leaf_of);
    return moire_communicator_split(world, "node", mesh->node_of[world->rank], world->rank, &mesh->node);
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
    moire_topology_free(&mesh->topology);
    moire_release(mesh->expert_leaf_of);
    moire_release(mesh->leaf_of);
    moire_release(mesh->expert_node_of);
    moire_release(mesh->node_of);
    moire_communicator_free(&mesh->node);
    moire_communicator_free(&mesh->data);
    moire_communicator_free(&mesh->expert);
    moire_communicator_free(&mesh->world);
    memset(mesh, 0, sizeof *mesh);
}
