/* The mesh: which ranks share what.
 *
 * P ranks = `groups` x `expert.size`. An expert group is a run of parallel.expert consecutive ranks that
 * together hold one copy of the experts; the ranks with the same place in every group hold the same experts
 * (the data communicator). Dense tensors are reduced over the world, expert tensors over `data`. Nodes
 * and leaf switches come from the topology (cluster/topology.h). */
#ifndef MOIRE_CLUSTER_MESH_H
#define MOIRE_CLUSTER_MESH_H

#include "moire/base/config.h"
#include "moire/cluster/topology.h"

struct moire_mesh {
    struct moire_communicator world;
    struct moire_communicator expert;  /* the ranks of one expert group */
    struct moire_communicator data;    /* the ranks that hold the same experts, one a group */
    struct moire_communicator node;    /* the ranks of this node (or of the pretended one) */
    int groups, group;                 /* expert groups; this rank's */
    int nodes;                         /* nodes in the world */
    int *node_of;                      /* owned: node of each world rank, [P]; numbered by lowest rank */
    int *expert_node_of;               /* owned: node of each rank of `expert`, [expert.size] */
    int leaves;                        /* leaf switches over the world; 1 where the topology knows none */
    int *leaf_of;                      /* owned: leaf of each world rank, [P]; numbered by lowest rank */
    int *expert_leaf_of;               /* owned: leaf of each rank of `expert`, [expert.size] */
    struct moire_topology topology;    /* owned: of the world */
};

/* MOIRE_USAGE when the ranks are not divisible by parallel.expert: found, expected, and the divisors that
 * would do. Collective over the world. */
moire_status moire_mesh_create(const struct moire_config *config, struct moire_mesh *mesh);
void moire_mesh_free(struct moire_mesh *mesh);

/* The share of `count` items that part `part` of `parts` gets, in order, sizes differing by one at most:
 * items [*first, *first + returned count). Not collective. */
int64_t moire_share(int64_t count, int parts, int part, int64_t *first);

#endif
