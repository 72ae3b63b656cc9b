/* Private to the two files of the back end `hierarchical`: hierarchical.c sets up, hierarchical_move.c moves.
 */
#ifndef MOIRE_EXCHANGE_HIERARCHICAL_H
#define MOIRE_EXCHANGE_HIERARCHICAL_H

#include "exchange/packed.h"
#include "exchange/relay.h"

enum {
    HIERARCHICAL_ARRIVED = MOIRE_NEAR_FLAGS,
    HIERARCHICAL_SWAPS,
    HIERARCHICAL_FLAGS
}; /* of a context; HIERARCHICAL_SWAPS: which of its two blocks is in use */
struct hierarchical_requests {
    MPI_Request *list;
    int64_t capacity;
    int count, done; /* started; the first `done` are complete */
};

struct hierarchical_context {
    struct moire_staging sent;        /* rows of parcels out, then their numbers */
    struct moire_node_block *near[2]; /* rows of parcels in, then their numbers: one in use, one to grow */
    int64_t swaps;
    bool swap; /* at the end of the open transfer */
    struct hierarchical_requests sends, receives;
    int *receive_end; /* [C]: receives of each chunk, and those before it */
    int relayed;      /* combine: chunks sent back */
};

struct hierarchical_state {
    struct moire_relay relay;
    MPI_Datatype row;
};

static inline struct moire_node_memory *hierarchical_memory(const struct moire_exchange *exchange)
{
    const struct moire_near *near = exchange->backend_state;
    return near->memory;
}

static inline int64_t hierarchical_number_bytes(const struct moire_exchange *exchange)
{
    return (int64_t)moire_element_bytes(exchange->settings.element);
}

/* Numbers begin at a cache line behind `rows` rows. */
static inline int64_t hierarchical_numbers_at(const struct moire_exchange *exchange, int64_t rows)
{
    const int64_t line = 64;
    return (rows * moire_exchange_row_bytes(exchange, false) + line - 1) / line * line;
}

/* Entries of the descriptor. */
moire_status hierarchical_begin(struct moire_transfer *transfer);
moire_status hierarchical_progress(struct moire_transfer *transfer);
moire_status hierarchical_take(struct moire_transfer *transfer, int chunk);
moire_status hierarchical_end(struct moire_transfer *transfer);

#endif
