/* Rows read from the ranks of a node: what the back ends share that pull rows straight out of each other's
 * memory (window.h). No row is packed: the gather from the peer's buffer is the exchange.
 *
 * The buffers of moire_rows_create are blocks that peers can read, with the same id on all ranks. Beside them
 * every rank shows a *directory* of each plan: which token and slot each of its copies is, and which row each
 * received copy is. So a destination that knows how many rows a source sends it (the counts of prepare) reads
 * from the source's directory which rows, and a source reads from a destination's directory where they lie.
 *
 * A transfer has an epoch of its context. READY tells how many chunks of it may be read, READ that this rank
 * has read all it wanted; a transfer is over when all peers have read, since only then may its buffers
 * change. */
#ifndef MOIRE_EXCHANGE_NEAR_H
#define MOIRE_EXCHANGE_NEAR_H

#include "exchange/private.h"
#include "exchange/window.h"

struct moire_near { /* of an exchange: the first member of its backend_state */
    struct moire_node_memory *memory;
    int flags_each;     /* of a context: MOIRE_NEAR_FLAGS and the back end's own */
    int64_t generation; /* of this rank's blocks at the last settle */
    int64_t epoch[MOIRE_CONTEXTS_MOST];
    int published[MOIRE_CONTEXTS_MOST]; /* chunks that READY says are there */
};

enum { MOIRE_NEAR_READY, MOIRE_NEAR_READ, MOIRE_NEAR_FLAGS };

struct moire_near_plan { /* of a plan: the first member of its backend_state */
    struct moire_node_block *directory;
    struct moire_place *places; /* [copies] by position, for own-node copies: source is the peer's index */
    int64_t place_capacity;
    int64_t in_levels[MOIRE_LEVELS]; /* received rows by the level of their source */
};

/* A rank's directory as its peers read it. C chunks, P ranks. */
struct moire_near_directory {
    const int64_t *in_chunk;     /* [P (C + 1)], as in struct moire_order */
    const int64_t *out_begin;    /* [P + 1] */
    const int64_t *token, *slot; /* [copies] */
    const int64_t *in_row;       /* [received rows] */
};

/* backend_state, zeroed, has `bytes`; each context gets `own_flags` beside those here, and there is one more,
 * the last, for the back end. Agreed: collective. The free takes what a failed create has left. */
moire_status moire_near_create(struct moire_exchange *exchange, size_t bytes, int own_flags);
void moire_near_free(struct moire_exchange *exchange);
moire_status moire_near_rows_grow(struct moire_exchange *exchange, struct moire_rows *buffer, int64_t rows);
void moire_near_rows_free(struct moire_exchange *exchange, struct moire_rows *buffer);
/* backend_state, zeroed, has `bytes`. */
moire_status moire_near_plan_create(struct moire_plan *plan, size_t bytes);
void moire_near_plan_free(struct moire_plan *plan);

/* In prepare: counts rows by level, writes this rank's directory, grows places. */
moire_status moire_near_prepare(struct moire_plan *plan);
/* In settle, first: maps what has changed, and agrees where anything has. */
moire_status moire_near_settle(struct moire_plan *plan);
/* Then: the places of own-node copies. */
void moire_near_place(struct moire_plan *plan);
struct moire_near_directory moire_near_directory(const struct moire_plan *plan, int peer);

/* A back end's own flag of a context, by its number from MOIRE_NEAR_FLAGS on. */
int moire_near_flag(const struct moire_transfer *transfer, int which);
/* What a flag must show when `chunks` of this transfer are there. */
int64_t moire_near_epoch(const struct moire_transfer *transfer, int chunks);

void moire_near_start(struct moire_transfer *transfer);   /* a new epoch; publishes what is ready */
void moire_near_publish(struct moire_transfer *transfer); /* after transfer->ready has grown */
/* Chunks that every peer of the node shows on a flag: 0 to C. */
int moire_near_reached(const struct moire_transfer *transfer, int flag);
/* Dispatch: copies the rows that ranks of the node, this one too, send here. All must be ready. */
void moire_near_take(struct moire_transfer *transfer, int chunk);
/* This rank has read all; whether all have. */
void moire_near_have_read(struct moire_transfer *transfer);
bool moire_near_all_have_read(const struct moire_transfer *transfer);
/* Where rows (numbers) of a buffer lie at each peer, [peers of the node]. */
void moire_near_sources(const struct moire_transfer *transfer, const struct moire_rows *buffer,
                        struct moire_sum_source *sources);

int64_t moire_near_memory(const struct moire_exchange_sizes *sizes, int flags_each);

#endif
