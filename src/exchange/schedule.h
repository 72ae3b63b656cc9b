/* Peer by peer: what the back ends share that send packed rows (packed.h) as one message a peer, a window of
 * peers in flight, in an order that knows the nodes. How a message travels is a back end's own.
 *
 * Order: other nodes first, since their messages take longest, nearest numbers last. In turn k this rank
 * sends to node (own + k) and receives from node (own - k); within a node in the order of a rotation that
 * begins at its own place in its node. So in each turn every node, and where nodes are alike every rank, gets
 * one sender: no hot spot. Sends and receives have a window each, of exchange.peers_in_flight; when a message
 * is done the next one of the order starts. A peer without rows costs nothing. */
#ifndef MOIRE_EXCHANGE_SCHEDULE_H
#define MOIRE_EXCHANGE_SCHEDULE_H

#include "exchange/packed.h"

struct moire_schedule {  /* of an exchange */
    int *send, *receive; /* [P - 1]: peers in order */
    int window;          /* most messages of a transfer in flight, each way */
};

/* Messages of a step in one direction. */
struct moire_flow {
    int next; /* place in the order */
    int open; /* messages under way */
};

struct moire_schedule_context { /* of a transfer: the first member of its backend_state */
    struct moire_packed_context packed;
    struct moire_flow send, receive;
    bool under_way; /* a step */
};

/* How messages travel. `open` of the flow counts a message from before its start to its end; whoever sees the
 * end, `start` itself perhaps, takes it off. */
struct moire_messages {
    moire_status (*start)(struct moire_transfer *transfer, bool send, int peer);
    moire_status (*test)(struct moire_transfer *transfer); /* looks for ends, without waiting */
};

/* Not agreed. The free takes a zeroed one too. */
moire_status moire_schedule_create(const struct moire_exchange *exchange, struct moire_schedule *schedule);
void moire_schedule_free(struct moire_schedule *schedule);
int moire_schedule_window(int ranks, int peers_in_flight);
int64_t moire_schedule_memory(const struct moire_exchange_sizes *sizes);

/* `begin` and `progress` of a back end: starts what there is room for, goes on to the next step when one is
 * done. */
moire_status moire_schedule_begin(struct moire_transfer *transfer, const struct moire_schedule *schedule,
                                  const struct moire_messages *messages);
moire_status moire_schedule_progress(struct moire_transfer *transfer, const struct moire_schedule *schedule,
                                     const struct moire_messages *messages);

#endif
