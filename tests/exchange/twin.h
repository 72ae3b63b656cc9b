/* The naive twin of an exchange: every rank gathers everything of all ranks and works out by plain sorting
 * what it must receive and what the sums must be, in exactly the order and association of exchange.h. */
#ifndef MOIRE_TESTS_EXCHANGE_TWIN_H
#define MOIRE_TESTS_EXCHANGE_TWIN_H

#include "moire/exchange/exchange.h"

enum { TWIN_RANKS_MOST = 16 };

/* One copy of a token's row on its way to an instance. */
struct twin_copy {
    int64_t source, token, slot, target, instance;
    int64_t destination, near; /* rank of the instance; 0 own rank, 1 own node, 2 far */
    int64_t row;               /* among the rows that the destination receives */
};

/* Where ranks are, and how rows travel. Nodes and leaves may have any numbers. */
struct twin_map {
    const int *node_of, *leaf_of;
    bool bfloat16;
};

struct twin {
    struct twin_map map;
    int64_t count;
    struct twin_copy *copies;          /* of all ranks, by destination, then row */
    int64_t received[TWIN_RANKS_MOST]; /* rows of each rank */
};

void twin_create(struct twin *twin, const struct moire_routing *routing,
                 const struct moire_placement *placement, const struct twin_map *map);
void twin_free(struct twin *twin);

/* What a dispatch of `rows` [T, D] and `numbers` [N] must bring to this rank; the caller frees it. */
void *twin_dispatch_rows(const struct twin *twin, const struct moire_rows *rows, int64_t tokens);
void *twin_dispatch_numbers(const struct twin *twin, const struct moire_rows *numbers, int64_t slots);
/* What a combine of `outputs` [R, D], or of numbers [R, 1], must give: rows [T, D] by token, numbers [N] by
 * slot. */
void *twin_combine_rows(const struct twin *twin, const struct moire_rows *outputs, int64_t tokens);
void *twin_combine_numbers(const struct twin *twin, const struct moire_rows *numbers, int64_t slots);

#endif
