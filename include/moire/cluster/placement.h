/* The placement: the map expert -> instances. An instance is one place where an expert lives: (rank of the
 * expert group, index on that rank). Today every expert has one instance, in runs as even as possible;
 * replicas and slices are rows of the same table. The same on all ranks; not collective. */
#ifndef MOIRE_CLUSTER_PLACEMENT_H
#define MOIRE_CLUSTER_PLACEMENT_H

#include "moire/base/memory.h"

struct moire_placement {
    int64_t experts;              /* E */
    int ranks;                    /* ranks of an expert group */
    int64_t instances;            /* >= E; numbered by rank, then by index on the rank */
    int64_t *instance_expert;     /* owned, [instances] */
    int *instance_rank;           /* owned, [instances], not decreasing */
    int64_t *rank_begin;          /* owned, [ranks + 1]: rank r has [rank_begin[r], rank_begin[r+1]) */
    int64_t *expert_begin;        /* owned, [E + 1]: into expert_instances */
    int64_t *expert_instances;    /* owned, [instances]: instances of each expert, ascending */
};

/* A block distribution: rank r holds the experts of moire_share(experts, ranks, r). E may be below or above
 * `ranks` and need not divide evenly; ranks without an expert are normal. */
moire_status moire_placement_even(int64_t experts, int ranks, struct moire_placement *placement);
/* Any map: instance i holds instance_expert[i] on instance_rank[i] (not decreasing); both are copied. Experts
 * without an instance are allowed for tests of the exchange. MOIRE_BAD_DATA names the first instance that is
 * wrong. */
moire_status moire_placement_create(int64_t experts, int ranks, int64_t instances,
                                    const int64_t *instance_expert, const int *instance_rank,
                                    struct moire_placement *placement);
void moire_placement_free(struct moire_placement *placement);

static inline int64_t moire_placement_local(const struct moire_placement *placement, int rank)
{
    return placement->rank_begin[rank + 1] - placement->rank_begin[rank];
}

#endif
