/* pairwise: one row for each copy, packed by destination (packed.h) and sent peer by peer with MPI_Isend and
 * MPI_Irecv, a window of peers in flight, in an order that knows the nodes.
 *
 * It wins where MPI's own all-to-all floods the network with P - 1 messages at once, or waits for a slow peer
 * before it goes on to the next; and on sparse exchanges, since a peer without rows costs nothing. Memory: as
 * alltoallv, and a request and a place in the schedule for each peer.
 *
 * Schedule: other nodes first, since their messages take longest, nearest numbers last. In turn k this rank
 * sends to node (own + k) and receives from node (own - k); within a node in the order of a rotation that
 * begins at its own place in its node. So in each turn every node, and where nodes are alike every rank, gets
 * one sender: no hot spot. Sends and receives have a window each, of exchange.peers_in_flight; when a message
 * is done the next one of the schedule starts. */
#include <stdio.h>

#include "exchange/packed.h"

/* Messages of a step in one direction. */
struct window {
    int *schedule;         /* [P - 1]: peers, borrowed from the state */
    MPI_Request *requests; /* [peers in flight] */
    int next;              /* place in the schedule */
    int open;              /* requests under way */
};

struct context {
    struct moire_packed_context packed;
    struct window send, receive;
    int *finished; /* [peers in flight]: MPI's list of those that are done */
    bool under_way;
};

struct state {
    MPI_Datatype row[2]; /* without and with a number */
    int *send, *receive; /* [P - 1]: the schedules */
    int window;          /* most peers in flight */
};

static bool applicable(const struct moire_exchange *exchange, char *why, size_t why_bytes)
{
    (void)exchange, (void)why, (void)why_bytes;
    return true;
}

static int ranks_of_node(const struct moire_exchange *exchange, int node)
{
    return exchange->node_begin[node + 1] - exchange->node_begin[node];
}

/* Place of this rank among the ranks of its node. */
static int place_in_node(const struct moire_exchange *exchange)
{
    const int own = exchange->communicator.rank, node = exchange->node_of[own];
    int place = 0;
    while (exchange->node_order[exchange->node_begin[node] + place] != own) place++;
    return place;
}

/* direction 1: the ranks to send to, in order; -1: the ranks to receive from. */
static void schedule(const struct moire_exchange *exchange, int direction, int *peers)
{
    const int own = exchange->communicator.rank, nodes = exchange->nodes, node = exchange->node_of[own];
    const int place = place_in_node(exchange);
    int count = 0;
    for (int turn = 1; turn <= nodes; turn++) {
        const int other = (node + direction * (turn % nodes) + nodes) % nodes,
                  size = ranks_of_node(exchange, other);
        for (int i = 0; i < size; i++) {
            const int at = ((place + direction * i) % size + size) % size;
            const int peer = exchange->node_order[exchange->node_begin[other] + at];
            if (peer != own) peers[count++] = peer;
        }
    }
}

static moire_status open_window(const struct state *state, int *peers, struct window *window)
{
    window->schedule = peers;
    MOIRE_TRY(
        moire_allocate(MOIRE_MEMORY_EXCHANGE, state->window, sizeof *window->requests, &window->requests));
    for (int i = 0; i < state->window; i++) window->requests[i] = MPI_REQUEST_NULL;
    return MOIRE_OK;
}

static moire_status set_up(struct moire_exchange *exchange)
{
    const moire_memory_kind kind = MOIRE_MEMORY_EXCHANGE;
    const int ranks = exchange->communicator.size, most = exchange->settings.peers_in_flight;
    struct state *state = NULL;
    MOIRE_TRY(moire_allocate(kind, 1, sizeof *state, &state));
    state->row[0] = state->row[1] = MPI_DATATYPE_NULL;
    exchange->backend_state = state;
    state->window = most > 0 && most < ranks ? most : ranks;
    MOIRE_TRY(moire_allocate(kind, ranks, sizeof(int), &state->send));
    MOIRE_TRY(moire_allocate(kind, ranks, sizeof(int), &state->receive));
    schedule(exchange, 1, state->send);
    schedule(exchange, -1, state->receive);
    MOIRE_TRY(moire_packed_contexts_create(exchange, sizeof(struct context)));
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct context *context = exchange->transfers[i].backend_state;
        MOIRE_TRY(open_window(state, state->send, &context->send));
        MOIRE_TRY(open_window(state, state->receive, &context->receive));
        MOIRE_TRY(moire_allocate(kind, state->window, sizeof(int), &context->finished));
    }
    return moire_packed_types_create(exchange, state->row);
}

static moire_status init(struct moire_exchange *exchange)
{
    return moire_agree(&exchange->communicator, set_up(exchange));
}

static void free_exchange(struct moire_exchange *exchange)
{
    struct state *state = exchange->backend_state;
    if (!state) return;
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct context *context = exchange->transfers[i].backend_state;
        if (!context) continue;
        moire_release(context->send.requests);
        moire_release(context->receive.requests);
        moire_release(context->finished);
    }
    moire_packed_contexts_free(exchange);
    moire_packed_types_free(state->row);
    moire_release(state->send);
    moire_release(state->receive);
    moire_release(state);
}

static moire_status start_message(struct moire_transfer *transfer, bool send, int peer, MPI_Request *request)
{
    const struct state *state = transfer->exchange->backend_state;
    const struct context *context = transfer->backend_state;
    const struct moire_packed_context *packed = &context->packed;
    MPI_Datatype row = state->row[transfer->from_numbers != NULL];
    int result =
        send ? MPI_Isend(moire_packed_from(transfer, packed->send_at[peer]), (int)packed->send_rows[peer],
                         row, peer, 0, transfer->communicator.mpi, request)
             : MPI_Irecv(moire_packed_to(transfer, packed->receive_at[peer]), (int)packed->receive_rows[peer],
                         row, peer, 0, transfer->communicator.mpi, request);
    return moire_mpi_check(result, &transfer->communicator, send ? "MPI_Isend" : "MPI_Irecv");
}

/* Starts messages in the empty places of the window, as long as there are some; peers without rows have none.
 */
static moire_status fill(struct moire_transfer *transfer, bool send)
{
    const struct state *state = transfer->exchange->backend_state;
    struct context *context = transfer->backend_state;
    struct window *window = send ? &context->send : &context->receive;
    const int64_t *rows = send ? context->packed.send_rows : context->packed.receive_rows;
    const int peers = transfer->exchange->communicator.size - 1;
    for (int i = 0; i < state->window && window->next < peers; i++) {
        if (window->requests[i] != MPI_REQUEST_NULL) continue;
        while (window->next < peers && rows[window->schedule[window->next]] == 0) window->next++;
        if (window->next == peers) break;
        MOIRE_TRY(start_message(transfer, send, window->schedule[window->next++], &window->requests[i]));
        window->open++;
    }
    return MOIRE_OK;
}

/* *any: something was done, so that there may be room for more. */
static moire_status test(struct moire_transfer *transfer, struct window *window, bool *any)
{
    const struct state *state = transfer->exchange->backend_state;
    struct context *context = transfer->backend_state;
    int count = 0;
    if (window->open == 0) return MOIRE_OK;
    int result =
        MPI_Testsome(state->window, window->requests, &count, context->finished, MPI_STATUSES_IGNORE);
    MOIRE_TRY(moire_mpi_check(result, &transfer->communicator, "MPI_Testsome"));
    if (count == MPI_UNDEFINED || count == 0) return MOIRE_OK;
    window->open -= count;
    *any = true;
    return MOIRE_OK;
}

static moire_status start_step(struct moire_transfer *transfer)
{
    struct context *context = transfer->backend_state;
    context->send.next = context->receive.next = 0;
    context->under_way = true;
    MOIRE_TRY(fill(transfer, false));
    return fill(transfer, true);
}

static moire_status move_step(struct moire_transfer *transfer, bool *step_done)
{
    struct context *context = transfer->backend_state;
    bool any = false;
    MOIRE_TRY(test(transfer, &context->receive, &any));
    MOIRE_TRY(test(transfer, &context->send, &any));
    if (any) {
        MOIRE_TRY(fill(transfer, false));
        MOIRE_TRY(fill(transfer, true));
    }
    *step_done = context->send.open + context->receive.open == 0;
    return MOIRE_OK;
}

static moire_status progress(struct moire_transfer *transfer)
{
    struct context *context = transfer->backend_state;
    while (!transfer->done) {
        bool step_done = false;
        if (!context->under_way) {
            if (!moire_packed_next(transfer)) return MOIRE_OK;
            MOIRE_TRY(start_step(transfer));
        }
        MOIRE_TRY(move_step(transfer, &step_done));
        if (!step_done) return MOIRE_OK;
        context->under_way = false;
        moire_packed_step_done(transfer);
    }
    return MOIRE_OK;
}

static moire_status begin(struct moire_transfer *transfer)
{
    moire_packed_start(transfer);
    MOIRE_TRY(progress(transfer));
    if (!transfer->combine) moire_packed_copy_own(transfer);
    return MOIRE_OK;
}

static int64_t memory(const struct moire_exchange_sizes *sizes)
{
    const int64_t ranks = sizes->ranks, most = sizes->peers_in_flight,
                  window = most > 0 && most < ranks ? most : ranks;
    return moire_packed_memory(sizes) + 2 * ranks * (int64_t)sizeof(int) +
           sizes->contexts * window * (int64_t)(2 * sizeof(MPI_Request) + sizeof(int));
}

static void print(const struct moire_exchange *exchange, char *line, size_t line_bytes)
{
    const struct state *state = exchange->backend_state;
    snprintf(
        line, line_bytes,
        "pairwise: %lld bytes a row, at most %d peers in flight each way, %d nodes in turn, own node last",
        (long long)moire_exchange_row_bytes(exchange, true), state->window, exchange->nodes);
}

const struct moire_backend moire_backend_pairwise = {
    .name = "pairwise",
    .wins =
        "one row a slot by MPI_Isend in turns of nodes, few at once; wins with many ranks or sparse traffic",
    .applicable = applicable,
    .init = init,
    .rows_grow = moire_rows_grow_plain,
    .rows_free = moire_rows_free_plain,
    .plan_create = moire_packed_plan_create,
    .prepare = moire_packed_prepare,
    .begin = begin,
    .progress = progress,
    .take = moire_packed_take,
    .end = moire_packed_end,
    .release = moire_packed_release,
    .volume = moire_packed_volume,
    .memory = memory,
    .print = print,
    .plan_free = moire_packed_plan_free,
    .free = free_exchange,
};
