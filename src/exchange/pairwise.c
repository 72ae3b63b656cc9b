/* pairwise: one row for each copy, packed by destination (packed.h) and sent peer by peer with MPI_Isend and
 * MPI_Irecv, a window of peers in flight, in an order that knows the nodes (schedule.h).
 *
 * It wins where MPI's own all-to-all floods the network with P - 1 messages at once, or waits for a slow peer
 * before it goes on to the next; and on sparse exchanges, since a peer without rows costs nothing. Memory: as
 * alltoallv, and a request and a place in the schedule for each peer. */
#include <stdio.h>

#include "exchange/schedule.h"

/* Requests of a step in one direction. */
struct requests {
    MPI_Request *requests; /* [window] */
    int last;              /* where the last one was put */
};

struct context {
    struct moire_schedule_context schedule;
    struct requests send, receive;
    int *finished; /* [window]: MPI's list of those that are done */
};

struct state {
    MPI_Datatype row[2]; /* without and with a number */
    struct moire_schedule schedule;
};

static bool applicable(const struct moire_exchange *exchange, char *why, size_t why_bytes)
{
    (void)exchange, (void)why, (void)why_bytes;
    return true;
}

static moire_status create_requests(int window, struct requests *requests)
{
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, window, sizeof *requests->requests, &requests->requests));
    for (int i = 0; i < window; i++) requests->requests[i] = MPI_REQUEST_NULL;
    return MOIRE_OK;
}

static moire_status set_up(struct moire_exchange *exchange)
{
    const moire_memory_kind kind = MOIRE_MEMORY_EXCHANGE;
    struct state *state = NULL;
    MOIRE_TRY(moire_allocate(kind, 1, sizeof *state, &state));
    state->row[0] = state->row[1] = MPI_DATATYPE_NULL;
    exchange->backend_state = state;
    MOIRE_TRY(moire_schedule_create(exchange, &state->schedule));
    MOIRE_TRY(moire_packed_contexts_create(exchange, sizeof(struct context)));
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct context *context = exchange->transfers[i].backend_state;
        MOIRE_TRY(create_requests(state->schedule.window, &context->send));
        MOIRE_TRY(create_requests(state->schedule.window, &context->receive));
        MOIRE_TRY(moire_allocate(kind, state->schedule.window, sizeof(int), &context->finished));
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
    moire_schedule_free(&state->schedule);
    moire_release(state);
}

/* There is an empty place whenever a message may start; most often it is the next one. */
static MPI_Request *empty_place(struct requests *requests, int window)
{
    do requests->last = (requests->last + 1) % window;
    while (requests->requests[requests->last] != MPI_REQUEST_NULL);
    return &requests->requests[requests->last];
}

static moire_status start(struct moire_transfer *transfer, bool send, int peer)
{
    const struct state *state = transfer->exchange->backend_state;
    struct context *context = transfer->backend_state;
    const struct moire_packed_context *packed = &context->schedule.packed;
    MPI_Request *request = empty_place(send ? &context->send : &context->receive, state->schedule.window);
    MPI_Datatype row = state->row[transfer->from_numbers != NULL];
    int result =
        send ? MPI_Isend(moire_packed_from(transfer, packed->send_at[peer]), (int)packed->send_rows[peer],
                         row, peer, 0, transfer->communicator.mpi, request)
             : MPI_Irecv(moire_packed_to(transfer, packed->receive_at[peer]), (int)packed->receive_rows[peer],
                         row, peer, 0, transfer->communicator.mpi, request);
    return moire_mpi_check(result, &transfer->communicator, send ? "MPI_Isend" : "MPI_Irecv");
}

static moire_status test_flow(struct moire_transfer *transfer, struct requests *requests,
                              struct moire_flow *flow)
{
    const struct state *state = transfer->exchange->backend_state;
    struct context *context = transfer->backend_state;
    int count = 0;
    if (flow->open == 0) return MOIRE_OK;
    int result = MPI_Testsome(state->schedule.window, requests->requests, &count, context->finished,
                              MPI_STATUSES_IGNORE);
    MOIRE_TRY(moire_mpi_check(result, &transfer->communicator, "MPI_Testsome"));
    if (count != MPI_UNDEFINED) flow->open -= count;
    return MOIRE_OK;
}

static moire_status test(struct moire_transfer *transfer)
{
    struct context *context = transfer->backend_state;
    MOIRE_TRY(test_flow(transfer, &context->receive, &context->schedule.receive));
    return test_flow(transfer, &context->send, &context->schedule.send);
}

static const struct moire_messages messages = { .start = start, .test = test };

static moire_status progress(struct moire_transfer *transfer)
{
    const struct state *state = transfer->exchange->backend_state;
    return moire_schedule_progress(transfer, &state->schedule, &messages);
}

static moire_status begin(struct moire_transfer *transfer)
{
    const struct state *state = transfer->exchange->backend_state;
    return moire_schedule_begin(transfer, &state->schedule, &messages);
}

static int64_t memory(const struct moire_exchange_sizes *sizes)
{
    return moire_schedule_memory(sizes)
           + sizes->contexts
                 * (int64_t)(sizeof(struct context) - sizeof(struct moire_schedule_context)
                             + (size_t)moire_schedule_window(sizes->ranks, sizes->peers_in_flight)
                                   * (2 * sizeof(MPI_Request) + sizeof(int)));
}

static void print(const struct moire_exchange *exchange, char *line, size_t line_bytes)
{
    const struct state *state = exchange->backend_state;
    snprintf(
        line, line_bytes,
        "pairwise: %lld bytes a row, at most %d peers in flight each way, %d nodes in turn, own node last",
        (long long)moire_exchange_row_bytes(exchange, true), state->schedule.window, exchange->nodes);
}

const struct moire_backend moire_backend_pairwise = {
    .name = "pairwise",
    .wins =
        "messages in turns of nodes, few at once; wins on sparse traffic",
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
