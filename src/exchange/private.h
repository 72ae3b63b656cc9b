/* What the files of this folder share: the exchange, its contexts, the order of a plan, and the loops that
 * move rows. A back end reads all of it and writes only its own backend_state and the fields named below. */
#ifndef MOIRE_EXCHANGE_PRIVATE_H
#define MOIRE_EXCHANGE_PRIVATE_H

#include "moire/exchange/backend.h"

enum { MOIRE_CONTEXTS_MOST = 16 };

/* An open context: one dispatch or combine between begin and end. */
struct moire_transfer {
    struct moire_exchange *exchange;
    struct moire_communicator communicator; /* of this context alone: transfers never match each other */
    bool open;
    bool done;    /* set by begin or progress: only `take` and `end` are left */
    bool blocks;  /* begin and progress may wait: all ranks are in the blocking form, nothing else is open */
    bool combine; /* rows come back; otherwise they go out */
    int ready;    /* chunks whose rows may leave: all in a dispatch */
    int landed;   /* dispatch, set by begin or progress: chunks that can be taken */
    int taken;    /* dispatch: chunks taken */
    struct moire_plan *plan;
    const struct moire_rows *from, *from_numbers; /* numbers: NULL when none travel */
    struct moire_rows *to, *to_numbers;
    void *backend_state; /* the back end's, kept from init to free */
};

struct moire_exchange {
    const struct moire_backend *backend;
    struct moire_exchange_settings settings; /* .backend is the name in the table */
    struct moire_communicator communicator;  /* counts and agreement */
    const struct moire_placement *placement; /* borrowed */
    /* Nodes are numbered 0.. in the order of the association: by leaf, then by the caller's number. */
    int nodes, leaves;
    int *near_order;    /* owned, [P]: ranks from near to far: this one, those of its node, the others */
    int *node_order;    /* owned, [P]: ranks by node, then rank */
    int *node_begin;    /* owned, [nodes + 1]: into node_order */
    int *node_of;       /* owned, [P] */
    int *leaf_of_node;  /* owned, [nodes]: 0.., ascending */
    int *word_counts;   /* owned, [4 P]: MPI's arguments of the exchange of counts, see plan.c */
    int64_t round_rows; /* most rows to one peer in one MPI call */
    struct moire_transfer transfers[MOIRE_CONTEXTS_MOST];
    int64_t growths;
    struct moire_exchange_bytes bytes; /* rows and numbers, lists of rows: added to by the back end */
    void *backend_state;
};

/* A growing array of integers. */
struct moire_table {
    int64_t *data;
    int64_t capacity;
};

/* The order of a plan (its private_state). A *position* is the place of a copy in this rank's sending order:
 * by destination rank, instance, token, slot. Since instances are numbered by rank, that is: by instance,
 * token, slot. Copies between two ranks travel in the order of their positions, so no list of slots has to
 * travel. */
struct moire_order {
    /* out: this rank's copies */
    int64_t *instance_begin;        /* [instances + 1]: positions of each instance of the placement */
    int64_t *out_begin;             /* [P + 1]: positions of each destination rank */
    struct moire_table token, slot; /* [copies] by position */
    /* sums: the positions of each token's (slot's) copies, in the order of the association */
    struct moire_table token_begin, token_order; /* [T + 1], [copies] */
    struct moire_table slot_begin, slot_order;   /* [N + 1], [copies] */
    /* in: what this rank receives, counted by source rank, then in the source's order */
    int64_t *in_begin;                   /* [P + 1] */
    int64_t *in_chunk;                   /* [P (C + 1)]: where each chunk of each source starts and ends */
    struct moire_table in_row;           /* [R]: row of `received` */
    int64_t *send_words, *receive_words; /* the exchange of counts */
    int64_t *cursor;                     /* [P], scratch */
    /* A back end's prepare sets it to the rounds that this rank needs; afterwards it is the largest of all
     * ranks. */
    int64_t rounds;
    /* Likewise: something of this rank has changed that others must look at in settle; then: of any rank. */
    bool changed;
    /* Rows that go through relays, and the copies they stand for: set by the back end, zero where there are
     * none. */
    int64_t relayed_out, relayed_out_copies, relayed_in, relayed_in_copies;
    int open; /* transfers of this plan */
};

/* order.c: local, no communication. */
moire_status moire_order_create(struct moire_plan *plan);
void moire_order_free(struct moire_plan *plan);
moire_status moire_order_send(struct moire_plan *plan, const struct moire_routing *routing);
moire_status moire_order_receive(struct moire_plan *plan);
/* Words that come from, or go to, a rank with `local` instances: the error word, the back end's own, the counts
 * of the instances. */
static inline int64_t moire_order_words(const struct moire_exchange *exchange, int64_t local)
{
    return 1 + exchange->backend->extra_words + local;
}
static inline const int64_t *moire_order_extra(const struct moire_plan *plan, int source)
{
    const struct moire_order *order = plan->private_state;
    return order->receive_words + source * moire_order_words(plan->exchange, plan->local_instances) + 1;
}
/* Copies that `source` sends to local instance `i`, once counts are here. */
static inline int64_t moire_order_count(const struct moire_plan *plan, int source, int64_t i)
{
    return moire_order_extra(plan, source)[plan->exchange->backend->extra_words + i];
}
/* First of `local` instances that is in the chunk, or in a later one; `local` for chunk C. */
static inline int64_t moire_chunk_first(const struct moire_exchange *exchange, int64_t local, int chunk)
{
    const int64_t chunks = exchange->settings.chunks;
    return (chunk * local + chunks - 1) / chunks;
}
/* Chunk of an instance of the placement. */
int moire_chunk_of(const struct moire_exchange *exchange, int64_t instance);
/* First position of the copies of a chunk to a rank; for chunk C the end of the last. */
static inline int64_t moire_order_out_chunk(const struct moire_plan *plan, int rank, int chunk)
{
    const struct moire_placement *placement = plan->exchange->placement;
    const struct moire_order *order = plan->private_state;
    return order->instance_begin[placement->rank_begin[rank]
                                 + moire_chunk_first(plan->exchange, moire_placement_local(placement, rank),
                                                     chunk)];
}
/* Likewise of what a rank sends to this one: index into in_row. */
static inline int64_t moire_order_in_chunk(const struct moire_plan *plan, int source, int chunk)
{
    const struct moire_order *order = plan->private_state;
    return order->in_chunk[source * (plan->exchange->settings.chunks + 1) + chunk];
}

/* exchange.c */
int moire_exchange_level(const struct moire_exchange *exchange, int rank);
/* Room for `count` where there is some for `capacity`: a little more than that at least, so that a slow rise
 * does not allocate each time, and no more than a little, since rows are most of a rank's memory. */
static inline int64_t moire_grown(int64_t capacity, int64_t count)
{
    int64_t more = capacity + capacity / 32;
    return more > count ? more : count;
}
/* Makes *pointer hold `count` elements of kind EXCHANGE and counts the growth. Contents are lost: the old
 * memory goes first, so that the peak is the new size. After a failure there is none. */
moire_status moire_exchange_grow(struct moire_exchange *exchange, void *pointer, int64_t *capacity,
                                 int64_t count, size_t bytes_each);
moire_status moire_table_grow(struct moire_exchange *exchange, struct moire_table *table, int64_t count);
void moire_table_free(struct moire_table *table);
/* On the wire: a row, and its number behind it. */
int64_t moire_exchange_row_bytes(const struct moire_exchange *exchange, bool with_number);
/* Adds `rows` rows of a transfer to exchange->bytes. */
void moire_exchange_count(struct moire_transfer *transfer, int level, int64_t rows);
/* transfer.c: waits for one request and moves all open transfers on meanwhile, so that no rank that waits for
 * one of those can be kept waiting by this one. */
moire_status moire_exchange_wait(struct moire_exchange *exchange, MPI_Request *request,
                                 const char *operation);

/* transfer.c: what every wait does meanwhile: moves all open transfers on and takes what has landed. */
moire_status moire_exchange_advance(struct moire_exchange *exchange);

/* backends.c: the entry for a name, "auto" included. MOIRE_USAGE where there is none or it is not applicable.
 */
moire_status moire_backend_find(const struct moire_exchange *exchange, const char *name,
                                const struct moire_backend **backend);

/* rows.c: a buffer of an open transfer cannot grow to `rows`. */
moire_status moire_rows_check_idle(const struct moire_exchange *exchange, const struct moire_rows *buffer,
                                   int64_t rows);
/* rows.c: plain memory, for back ends that need no other; `rows_grow` and `rows_free` of the table. */
moire_status moire_rows_grow_plain(struct moire_exchange *exchange, struct moire_rows *buffer, int64_t rows);
void moire_rows_free_plain(struct moire_exchange *exchange, struct moire_rows *buffer);

/* pack.c: the loops over rows, in parallel where there is enough to do; the result does not depend on
 * threads.
 *
 * One end of a copy: rows and numbers somewhere in memory. numbers NULL: none travel. */
struct moire_side {
    char *rows, *numbers;
    int64_t stride, number_stride;       /* bytes */
    const int64_t *index, *number_index; /* row i is at index[i], its number at number_index[i]; NULL: at i */
    bool wire;                           /* rows have the wire type; otherwise the exchange's element */
};
struct moire_side moire_side_of_buffers(const struct moire_rows *rows, const struct moire_rows *numbers,
                                        const int64_t *index, const int64_t *number_index);
/* Converts on the way; between two sides of the element type it rounds to the wire type. */
void moire_copy_rows(const struct moire_exchange *exchange, const struct moire_side *to,
                     const struct moire_side *from, int64_t count);

/* Where the row of a copy lies when it is summed. */
struct moire_place {
    int64_t row;
    int32_t source; /* index into moire_sum.sources */
    int32_t node;   /* of its instance, numbered by the exchange */
};
struct moire_sum_source {
    const void *data;
    int64_t stride; /* bytes */
    bool wire;      /* rows of the wire type; otherwise the element, rounded to the wire type when read */
};
/* to[i] = the sum over the places order[begin[i] .. begin[i+1]) (NULL: in their own order), with the association
 * of exchange.h: runs of one node, runs of nodes of one leaf. Zeros where there are none. */
struct moire_sum {
    const struct moire_exchange *exchange;
    bool numbers; /* one element a row, never rounded */
    const int64_t *begin, *order;
    const struct moire_place *places;
    const struct moire_sum_source *sources;
};
struct moire_sum_target {
    void *data;
    int64_t stride; /* bytes */
    bool wire;      /* rows of the wire type */
};
void moire_sum_rows(const struct moire_sum *sum, const struct moire_sum_target *to, int64_t count);

#endif
