/* The topology: which ranks are near each other, as a tree of levels over the ranks of the world.
 *
 * From outermost to innermost the levels are those of spine3, spine2, spine, leaf (switches), node, socket,
 * numa (NUMA node) and core (the cores that share an L3 cache) that are known; each splits the groups of the
 * level outside it. The world itself and the single ranks are no levels. Memory grows with ranks x levels. */
#ifndef MOIRE_CLUSTER_TOPOLOGY_H
#define MOIRE_CLUSTER_TOPOLOGY_H

#include <stdio.h>

#include "moire/base/config.h"
#include "moire/cluster/communicator.h"

struct moire_topology_level {
    char name[16];
    int groups;
    int *group_of; /* owned: group of each rank, [ranks]; numbered 0.. in the order of lowest rank */
};

struct moire_topology {
    int ranks, levels;
    struct moire_topology_level *level; /* owned: outermost first, [levels] */
    bool pretended;                     /* the nodes are not those that MPI names */
};

/* The topology of the running job. Collective over `world`; the same on all ranks. */
moire_status moire_topology_find(const struct moire_config *config, const struct moire_communicator *world,
                                 struct moire_topology *topology);
/* Fine for a zeroed one. */
void moire_topology_free(struct moire_topology *topology);

/* Questions; none is collective. */

/* Index of the level with this name, or -1. */
int moire_topology_level_index(const struct moire_topology *topology, const char *name);
/* Whether ranks a and b are in the same group of this level. Level -1 is the world: always. */
bool moire_topology_same(const struct moire_topology *topology, int level, int a, int b);
/* The innermost level that has a group with both ranks, also where a == b; -1: they share the world only. */
int moire_topology_nearest(const struct moire_topology *topology, int a, int b);

#endif
