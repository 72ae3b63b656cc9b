/* What a back end is: one file, one exported const descriptor, one line in the table (exchange/backends.c).
 * The order of rows, the association of sums, segments and agreement are not its business to choose:
 * exchange.h fixes them, and the conformance test checks them for every entry of the table. */
#ifndef MOIRE_EXCHANGE_BACKEND_H
#define MOIRE_EXCHANGE_BACKEND_H

#include "moire/exchange/exchange.h"

struct moire_backend {
    const char *name;
    const char *wins; /* one line: what it does and when it wins */
    /* Why this program does not have it, though its name is known; then there is nothing else but `applicable`,
     * which says the same. NULL: it has it. */
    const char *missing;

    /* Whether it can run on this exchange; the reason goes to `why` where not. Not collective, alike on all
     * ranks. */
    bool (*applicable)(const struct moire_exchange *exchange, char *why, size_t why_bytes);
    /* Private state in exchange->backend_state and in each transfer's. Communicators are there already.
     * Agrees on failures. Collective. */
    moire_status (*init)(struct moire_exchange *exchange);
    /* Memory of a buffer: grow to `rows`, contents undefined. Not agreed yet: returns this rank's status. */
    moire_status (*rows_grow)(struct moire_exchange *exchange, struct moire_rows *buffer, int64_t rows);
    void (*rows_free)(struct moire_exchange *exchange, struct moire_rows *buffer);
    /* Private state in plan->backend_state. Not collective, not agreed yet. */
    moire_status (*plan_create)(struct moire_plan *plan);
    /* Called when the order of what this rank sends is known, before counts travel. NULL: nothing to do. Not
     * collective, not agreed yet. */
    moire_status (*route)(struct moire_plan *plan);
    /* Words of its own that each rank tells each other rank beside the counts, before prepare; 0: none, and no
     * function. `words` [extra_words] for rank `peer`; moire_order_extra reads them at the receiver. */
    int extra_words;
    void (*write_words)(const struct moire_plan *plan, int peer, int64_t *words);
    /* Called once counts are known, received_rows, instance_begin and segments are set and the plan's buffers
     * have grown: lays out the back end's own tables and grows its own memory, and sets rows_out and the
     * rounds that this rank needs (see struct moire_order in exchange/private.h). Not collective. Returns this
     * rank's status, which is agreed on afterwards: `local`, where that is a failure already, or its own. */
    moire_status (*prepare)(struct moire_plan *plan, moire_status local);
    /* Called when all ranks have prepared, and everything they wrote to shared memory is visible: may
     * communicate (waiting with moire_exchange_wait only); must not allocate. NULL: nothing to do. */
    moire_status (*settle)(struct moire_plan *plan);
    /* Starts a transfer (see struct moire_transfer in exchange/private.h): never waits, posts receives first,
     * adds what it will send to exchange->bytes, sets transfer->done where there is nothing to move. Rows of
     * chunks below transfer->ready may leave. */
    moire_status (*begin)(struct moire_transfer *transfer);
    /* Moves it on, also after transfer->ready has grown: sets transfer->landed (dispatch: chunks that `take`
     * can take), and transfer->done when only `take` and `end` are left. Never waits. */
    moire_status (*progress)(struct moire_transfer *transfer);
    /* Dispatch: puts the rows of a landed chunk, own-rank ones included, where they belong. Called once for
     * each chunk, ascending. */
    moire_status (*take)(struct moire_transfer *transfer, int chunk);
    /* The transfer is done and all chunks are taken: combine sums. */
    moire_status (*end)(struct moire_transfer *transfer);
    /* Undoes prepare: also one that failed, here or elsewhere, or none at all, or twice; plan_create may have
     * failed. No transfer of the plan is open. */
    void (*release)(struct moire_plan *plan);
    int (*volume)(const struct moire_plan *plan, struct moire_stage *stages, int room);
    /* Bytes of kind EXCHANGE that it holds beyond what all have: see moire_exchange_memory. Not collective. */
    int64_t (*memory)(const struct moire_exchange_sizes *sizes);
    /* One line on what was chosen, for the log. */
    void (*print)(const struct moire_exchange *exchange, char *line, size_t line_bytes);
    /* Both also after a failed (or no) plan_create or init. */
    void (*plan_free)(struct moire_plan *plan);
    void (*free)(struct moire_exchange *exchange);
};

extern const struct moire_backend *const moire_backends[];
extern const int moire_backend_count;

extern const struct moire_backend moire_backend_alltoallv;
extern const struct moire_backend moire_backend_pairwise;
extern const struct moire_backend moire_backend_shared;
extern const struct moire_backend moire_backend_hierarchical;
extern const struct moire_backend moire_backend_ucx;

#endif
