/* The lists of a plan whose rows go to other nodes through relays.
 *
 * A *relay* takes the rows that one rank sends to a node. Rank s, the i-th of its node, has as its relay on
 * another node the i-th rank there (modulo its size): so messages between two nodes are spread over all their
 * ranks and stay on the same rail. What s sends to a relay is a *parcel*: rows in an order of their own, and
 * for every copy (slot, instance) on that node which row of the parcel it is. With de-duplication a token is
 * one row of a parcel, whatever the number of its copies there; without it each copy is a row.
 *
 * Rows of a parcel are ordered by the first chunk that needs them, so that a chunk of a dispatch is a run of
 * rows. Going back they are ordered by the last chunk that has a part in their sum: their *return* order.
 * Copies of a parcel are ordered by rank of the node, then position (see struct moire_order). Only the row of
 * each copy has to travel as a list, in prepare; all the rest both sides work out from the counts. */
#ifndef MOIRE_EXCHANGE_RELAY_H
#define MOIRE_EXCHANGE_RELAY_H

#include "exchange/near.h"

struct moire_parcel {
    int rank;             /* the relay, or the source */
    int64_t row, rows;    /* first of all rows of this rank's parcels, and how many */
    int64_t copy, copies; /* likewise */
    int64_t *row_chunk;   /* [C + 1]: first row of each chunk, counted like .row */
    int64_t *back_chunk;  /* [C + 1]: likewise in return order */
};

struct moire_relay_plan {
    struct moire_near_plan near;
    struct moire_parcel *out, *in; /* owned, [nodes - 1] and [sources] */
    int64_t *chunks;               /* owned: their row_chunk and back_chunk */
    /* out */
    struct moire_table token;                       /* [rows]: of each row */
    struct moire_table slot;                        /* [copies] */
    struct moire_table back;                        /* [rows]: place in return order */
    struct moire_table position_row, position_copy; /* [positions]: row and copy of each copy sent far */
    struct moire_table mark;                        /* [T], scratch */
    int32_t *index;                                 /* [copies]: row within the parcel, as it travels */
    int64_t index_capacity;
    struct moire_table sum_begin, sum_order; /* [T + 1], [copies]: positions that a token's sum reads */
    struct moire_place *number_places;       /* [positions] */
    int64_t number_capacity;
    /* in */
    int32_t *in_index; /* [copies] */
    int64_t in_index_capacity;
    struct moire_table in_first, in_back; /* [rows]: first chunk; place in return order */
    struct moire_table back_begin;        /* [rows + 1], in return order: into back_places */
    struct moire_place *back_places;      /* [copies]: where they lie in this node, in the order of the sum */
    int64_t back_capacity;
    struct moire_node_block *lists; /* what the ranks of this node read: see relay.c */
    int64_t *take_first;            /* owned, [P]: this rank's first copy from a source in its relay's list */
    int64_t forwarded, collected;   /* copies of others that this rank relays; its copies that others relay */
};

struct moire_relay { /* of an exchange: the first member of its backend_state */
    struct moire_near near;
    int *place;   /* owned, [P]: of each rank in its node */
    int *sources; /* owned, [source_count]: ranks of other nodes that this rank is the relay of */
    int source_count;
    int64_t settled;                      /* number of settles so far: epoch of the last flag */
    MPI_Request *requests;                /* owned, [nodes - 1 + source_count] */
    struct moire_sum_source *source_rows; /* owned, [ranks of the node + 1] */
};

/* The rank that takes what `source` sends to a node. */
int moire_relay_of(const struct moire_exchange *exchange, int source, int node);

/* Entries of a back end's descriptor; those of exchange and plan come after moire_near_create and
 * moire_near_plan_create and are not agreed. */
moire_status moire_relay_create(struct moire_exchange *exchange);
void moire_relay_free(struct moire_exchange *exchange);
moire_status moire_relay_plan_create(struct moire_plan *plan);
void moire_relay_plan_free(struct moire_plan *plan);
moire_status moire_relay_route(struct moire_plan *plan);
enum { MOIRE_RELAY_WORDS = 2 };
void moire_relay_write_words(const struct moire_plan *plan, int peer, int64_t *words);
moire_status moire_relay_prepare(struct moire_plan *plan);
moire_status moire_relay_settle(struct moire_plan *plan);

/* Of the relay that this node has for `source`: how many rows it relays in all, and which of them each copy
 * from `source` to this rank is, in the order of the plan; *first_copy is the first one's place among all
 * copies that it relays. */
const int64_t *moire_relay_rows(const struct moire_plan *plan, int source, int64_t *relayed_rows,
                                int64_t *first_copy);

/* Between relay.c, what leaves, and relay_lists.c, what is relayed. From the last chunk of each row of a
 * parcel to its place in return order; fills back_chunk. */
void moire_relay_order_returns(const struct moire_exchange *exchange, struct moire_parcel *parcel,
                               int64_t *back);
/* Places of the copies: own-node ones where the peers have them, the others in what comes back. */
void moire_relay_place(struct moire_plan *plan);

int64_t moire_relay_memory(const struct moire_exchange_sizes *sizes, int flags_each);

#endif
