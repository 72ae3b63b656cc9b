/* One run of elements cut into one contiguous share a rank: moire_share over blocks of 16 elements, so that
 * shares begin where vectors of 64 bytes do. Who has a share keeps and computes only that part of the run. */
#ifndef MOIRE_CLUSTER_SHARES_H
#define MOIRE_CLUSTER_SHARES_H

#include "moire/cluster/communicator.h"

enum { MOIRE_SHARE_BLOCK = 16 }; /* elements */

struct moire_shares {
    const struct moire_communicator *communicator; /* borrowed; NULL: the run is not cut */
    int64_t elements;                              /* of the run */
    int64_t first, count;                          /* of this rank */
    moire_element element;
    int64_t *begin;              /* owned, [ranks + 1]; NULL when not cut */
    int *counts, *displacements; /* owned, [ranks]: what one call of MPI gets */
    MPI_Datatype block;
};

/* Cuts a run of `elements` (a multiple of 16) over the ranks of the communicator; NULL, or one rank: this
 * rank has all of it. The same `elements` on all ranks. Not collective. */
moire_status moire_shares_create(const struct moire_communicator *communicator, int64_t elements,
                                 moire_element element, struct moire_shares *shares);
void moire_shares_free(struct moire_shares *shares); /* fine for a zeroed one */

/* run [elements]: each rank brings its share in its place, all leave with the whole run. No allocation.
 * Collective over the communicator; nothing to do where the run is not cut. */
moire_status moire_shares_gather(const struct moire_shares *shares, void *run);
/* Elements [first, first + count) of the run, out of the ranks' shares [shares->count], to `root`, which gets
 * them in range [count]; the others bring NULL. Collective over the communicator; of a run that is not cut
 * there is no need for it. */
moire_status moire_shares_collect(const struct moire_shares *shares, const void *share, int64_t first,
                                  int64_t count, int root, void *range);

/* The elements that [first, first + count) and [other, other + other_count) have in common, from *from on; 0:
 * none. Not collective. */
static inline int64_t moire_overlap(int64_t first, int64_t count, int64_t other, int64_t other_count,
                                    int64_t *from)
{
    int64_t begin = first > other ? first : other;
    int64_t end = first + count < other + other_count ? first + count : other + other_count;
    *from = begin;
    return end > begin ? end - begin : 0;
}

#endif
