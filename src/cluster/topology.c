#include "moire/cluster/topology.h"

#include <string.h>

int moire_topology_level_index(const struct moire_topology *topology, const char *name)
{
    for (int level = 0; level < topology->levels; level++)
        if (strcmp(topology->level[level].name, name) == 0) return level;
    return -1;
}

bool moire_topology_same(const struct moire_topology *topology, int level, int a, int b)
{
    return level < 0 || topology->level[level].group_of[a] == topology->level[level].group_of[b];
}

int moire_topology_nearest(const struct moire_topology *topology, int a, int b)
{
    int level = topology->levels - 1;
    while (!moire_topology_same(topology, level, a, b)) level--;
    return level;
}

void moire_topology_free(struct moire_topology *topology)
{
    for (int level = 0; level < topology->levels; level++) moire_release(topology->level[level].group_of);
    moire_release(topology->level);
    memset(topology, 0, sizeof *topology);
}
