/* Which processors (hardware threads) the ranks of a node may run on, and whether they get in each other's
 * way. */
#ifndef MOIRE_CLUSTER_BINDING_H
#define MOIRE_CLUSTER_BINDING_H

#include <stddef.h>

#include "moire/cluster/communicator.h"

struct moire_binding {
    char text[29];      /* "0-3,8": processors of this rank; ends in ",..." where too long; or "unknown" */
    int processors;     /* of this rank; 0: unknown, also where OpenMP itself has bound several threads */
    int threads;        /* of this rank, as told */
    int ranks_inside;   /* ranks of this node, this one too, that may run on these processors only */
    int threads_inside; /* their threads together */
};
/* By sched_getaffinity. Nodes are those of the machine, whatever parallel.ranks_per_node says. The work of a
 * rank grows with the ranks of its node only. Collective over `world`. */
moire_status moire_binding_find(const struct moire_communicator *world, int threads,
                                struct moire_binding *binding);
/* Warnings, one of each kind at most, that name the lowest rank concerned and how many are: ranks share
 * processors where threads_inside > processors although ranks_inside > 1; a rank has fewer processors than
 * threads. Bindings where one lies in the other, or none touches another, are judged rightly; others may
 * pass. Rank 0 prints. Collective over `world`. */
moire_status moire_binding_warn(const struct moire_communicator *world, const struct moire_binding *binding);

#endif
