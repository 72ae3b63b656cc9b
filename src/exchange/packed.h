/* Rows packed into messages: what the back ends share that send one row a copy. Rows to (and from) other
 * ranks stand in staging memory, ordered by chunk, round and peer; what a peer gets of one chunk in one round
 * is one message, a contiguous run. Only how messages travel is a back end's own.
 *
 * The number of a slot travels behind its row, as part of the row in the staging: one message a peer instead
 * of two, one set of counts, no second latency. It costs nothing: rows are packed anyway.
 *
 * A *step* is a round of a chunk: step s is round s % rounds of chunk s / rounds. More rows of a chunk to a
 * peer than exchange->round_rows are cut into rounds, as many for every chunk and rank as the largest of all
 * needs (agreed on in prepare); theirs may be empty.
 *
 * In a dispatch rows leave from `out` and arrive at `in`; in a combine it is the other way round. */
#ifndef MOIRE_EXCHANGE_PACKED_H
#define MOIRE_EXCHANGE_PACKED_H

#include "exchange/private.h"

struct moire_packed {                       /* of a plan: its backend_state */
    struct moire_table out_token, out_slot; /* [out_rows] token and slot of a copy */
    struct moire_table in_row;              /* [in_rows] row of `received` */
    struct moire_place *places;             /* [copies] by position */
    int64_t place_capacity;
    int64_t *out_chunk, *in_chunk;   /* [C + 1]: first row of each chunk */
    int64_t out_rows, in_rows;       /* to and from other ranks */
    int64_t in_levels[MOIRE_LEVELS]; /* received rows by the level of their source */
};

struct moire_staging {
    unsigned char *data;
    int64_t capacity;    /* bytes */
    unsigned char *next; /* larger memory that waits for the end of an open transfer */
    int64_t next_capacity;
};

/* Room for so many bytes. Memory of an open transfer stays where it is, since a message may be under way in
 * it; the larger one waits beside it until moire_staging_adopt, at its end. */
moire_status moire_staging_grow(struct moire_exchange *exchange, struct moire_staging *staging, bool open,
                                int64_t bytes);
void moire_staging_adopt(struct moire_staging *staging);
void moire_staging_free(struct moire_staging *staging);

struct moire_packed_context { /* of a transfer: the first member of its backend_state */
    struct moire_staging out, in;
    int64_t step;                 /* the one under way */
    int64_t sent, arrived;        /* staging rows of earlier steps */
    int64_t *send_rows, *send_at; /* [P]: messages of the step: rows, first row in the staging */
    int64_t *receive_rows, *receive_at;
};

/* Entries of a back end's descriptor, as they are. */
moire_status moire_packed_plan_create(struct moire_plan *plan);
void moire_packed_plan_free(struct moire_plan *plan);
moire_status moire_packed_prepare(struct moire_plan *plan, moire_status local);
void moire_packed_release(struct moire_plan *plan);
moire_status moire_packed_take(struct moire_transfer *transfer, int chunk);
moire_status moire_packed_end(struct moire_transfer *transfer);
int moire_packed_volume(const struct moire_plan *plan, struct moire_stage *stages, int room);
int64_t moire_packed_memory(const struct moire_exchange_sizes *sizes);

/* The contexts of an exchange, `bytes` each, with this struct in front; not agreed. Zeroed contexts are freed
 * too, and missing ones skipped. */
moire_status moire_packed_contexts_create(struct moire_exchange *exchange, size_t bytes);
void moire_packed_contexts_free(struct moire_exchange *exchange);

/* MPI's types of a row of the staging, without and with a number: counts are in rows. The free takes
 * MPI_DATATYPE_NULL too. */
moire_status moire_packed_types_create(const struct moire_exchange *exchange, MPI_Datatype row[2]);
void moire_packed_types_free(MPI_Datatype row[2]);

/* Start of a transfer: no step yet; counts its bytes. */
void moire_packed_start(struct moire_transfer *transfer);
/* Whether there is a step to start now: there is one left, and its chunk is ready. If so, packs the chunk
 * with its first step, and fills send_* and receive_*. */
bool moire_packed_next(struct moire_transfer *transfer);
/* The step is done, here: goes on to the next one, sets transfer->landed and transfer->done. */
void moire_packed_step_done(struct moire_transfer *transfer);
/* Dispatch: rows from here to here, while the first messages are under way. */
void moire_packed_copy_own(const struct moire_transfer *transfer);
/* The rows of a message. */
unsigned char *moire_packed_from(const struct moire_transfer *transfer, int64_t row);
unsigned char *moire_packed_to(const struct moire_transfer *transfer, int64_t row);
int64_t moire_packed_row_bytes(const struct moire_transfer *transfer);

#endif
