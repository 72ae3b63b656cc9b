/* The topology: which ranks are near each other, as a tree of levels over the ranks of the world.
 *
 * The levels, outermost first, each splitting the groups of the level outside it:
 *
 *     spine3 spine2 spine leaf   switches; leaf is the one that nodes hang on
 *     node                       always there
 *     socket numa core           NUMA node; cores that share an L3 cache
 *
 * The world and the single ranks are no levels. Memory is that of ranks x levels, never of ranks squared.
 *
 * A topology text says how many groups each group has, down to the ranks:
 *
 *     text     = level { level }                     outermost first, `rank` last, `node` among them
 *     level    = NAME ":" counts [ "(" branches ")" ]
 *     counts   = COUNT { "," COUNT }                 one for all parents, or one for each, in order
 *     branches = text { "," text }                   what is inside each of these groups, in order
 *
 *     leaf:2 node:4 rank:8                  2 leaves with 4 nodes with 8 ranks each, 64 ranks
 *     leaf:2 node:2,3 rank:4                2 nodes on the first leaf, 3 on the second
 *     node:3(rank:2, rank:4, rank:1)        2 ranks on the first node, 4 on the second, 1 on the third
 *     leaf:2(node:1 rank:4, node:2 rank:1,3)
 *
 * Blanks and line ends separate levels, # starts a comment. All branches have the same levels. Ranks are
 * numbered from left to right. An error is MOIRE_USAGE and shows the place in the text.
 *
 * A file holds such a text, or a host list: lines that say what hangs on a switch, and how many ranks the
 * nodes have when no job says it (else 1). What is no switch is a node, at most four switches are above it:
 *
 *     spine0: leaf[0-1]
 *     leaf0: node[01-16], login1
 *     leaf1: node[17-32]
 *     rank: 8 */
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
    bool pretended;                     /* the nodes are not those that MPI finds */
    char source[64];                    /* where it comes from, for people: "MPI, Slurm, hwloc" */
};

/* The topology of the running job; the same on all ranks. By topology.source:
 *
 *   auto       nodes: MPI_Comm_split_type. Switches: the SLURM_TOPOLOGY_ADDR that the lowest rank of each
 * node has, by SLURM_TOPOLOGY_ADDR_PATTERN; a name such as leaf[0-1], of a node with two leaves, is a leaf of
 * its own. Below: hwloc and the processors that each rank may run on. A rank that may run on several sockets
 * (NUMA nodes, L3 caches) shares none with anybody: it is a group of its own on that level. a text     that
 * topology. Its ranks must be those of the world. file:PATH  the text in the file likewise; of a host list
 * only the switches, by the host's name.
 *
 * parallel.ranks_per_node pretends the nodes: nothing is known below them then; a text excludes it.
 *
 * What is found but splits nothing is no level: one leaf for all, one socket a node. Where two nodes have the
 * same address in Slurm's variables these are ignored with a warning (a launcher has copied them). Collective
 * over `world`. */
moire_status moire_topology_find(const struct moire_config *config, const struct moire_communicator *world,
                                 struct moire_topology *topology);
/* The topology of a text. Not collective. */
moire_status moire_topology_parse(const char *text, struct moire_topology *topology);
/* Of a file with a text or a host list. Not collective. */
moire_status moire_topology_read(const char *path, struct moire_topology *topology);
/* Of what topology.source may hold, but auto: a text or file:PATH. Not collective. */
moire_status moire_topology_load(const char *source, struct moire_topology *topology);
/* Fine for a zeroed one. */
void moire_topology_free(struct moire_topology *topology);

/* Questions; none is collective. */

/* Index of the level with this name, or -1. */
int moire_topology_level_index(const struct moire_topology *topology, const char *name);
/* Whether ranks a and b are in the same group of this level. Level -1 is the world: always. */
bool moire_topology_same(const struct moire_topology *topology, int level, int a, int b);
/* The innermost level that has a group with both ranks, also where a == b; -1: they share the world only. */
int moire_topology_nearest(const struct moire_topology *topology, int a, int b);

/* The tree at 80 columns: ranks as ranges, alike neighbours as one line. Not collective. */
moire_status moire_topology_print(const struct moire_topology *topology, FILE *file);

#endif
