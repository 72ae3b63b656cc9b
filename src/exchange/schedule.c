#include "exchange/schedule.h"

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
static void order_peers(const struct moire_exchange *exchange, int direction, int *peers)
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

int moire_schedule_window(int ranks, int peers_in_flight)
{
    return peers_in_flight > 0 && peers_in_flight < ranks ? peers_in_flight : ranks;
}

moire_status moire_schedule_create(const struct moire_exchange *exchange, struct moire_schedule *schedule)
{
    const int ranks = exchange->communicator.size;
    schedule->window = moire_schedule_window(ranks, exchange->settings.peers_in_flight);
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, ranks, sizeof(int), &schedule->send));
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, ranks, sizeof(int), &schedule->receive));
    order_peers(exchange, 1, schedule->send);
    order_peers(exchange, -1, schedule->receive);
    return MOIRE_OK;
}

void moire_schedule_free(struct moire_schedule *schedule)
{
    moire_release(schedule->send);
    moire_release(schedule->receive);
}

int64_t moire_schedule_memory(const struct moire_exchange_sizes *sizes)
{
    return moire_packed_memory(sizes) + 2 * sizes->ranks * (int64_t)sizeof(int)
           + sizes->contexts
                 * (int64_t)(sizeof(struct moire_schedule_context) - sizeof(struct moire_packed_context));
}

static moire_status fill(struct moire_transfer *transfer, const struct moire_schedule *schedule,
                         const struct moire_messages *messages, bool send)
{
    struct moire_schedule_context *context = transfer->backend_state;
    struct moire_flow *flow = send ? &context->send : &context->receive;
    const int *order = send ? schedule->send : schedule->receive;
    const int64_t *rows = send ? context->packed.send_rows : context->packed.receive_rows;
    const int peers = transfer->exchange->communicator.size - 1;
    while (flow->open < schedule->window && flow->next < peers) {
        const int peer = order[flow->next++];
        if (rows[peer] == 0) continue;
        flow->open++;
        MOIRE_TRY(messages->start(transfer, send, peer));
    }
    return MOIRE_OK;
}

static bool is_done(const struct moire_transfer *transfer)
{
    const struct moire_schedule_context *context = transfer->backend_state;
    const int peers = transfer->exchange->communicator.size - 1;
    return context->send.next == peers && context->receive.next == peers
           && context->send.open + context->receive.open == 0;
}

/* The messages of the step under way, as far as they go without waiting. */
static moire_status move_step(struct moire_transfer *transfer, const struct moire_schedule *schedule,
                              const struct moire_messages *messages)
{
    MOIRE_TRY(fill(transfer, schedule, messages, false));
    MOIRE_TRY(fill(transfer, schedule, messages, true));
    if (is_done(transfer)) return MOIRE_OK;
    MOIRE_TRY(messages->test(transfer));
    MOIRE_TRY(fill(transfer, schedule, messages, false));
    return fill(transfer, schedule, messages, true);
}

moire_status moire_schedule_progress(struct moire_transfer *transfer, const struct moire_schedule *schedule,
                                     const struct moire_messages *messages)
{
    struct moire_schedule_context *context = transfer->backend_state;
    while (!transfer->done) {
        if (!context->under_way) {
            if (!moire_packed_next(transfer)) return MOIRE_OK;
            context->send.next = context->receive.next = 0;
            context->under_way = true;
        }
        MOIRE_TRY(move_step(transfer, schedule, messages));
        if (!is_done(transfer)) return MOIRE_OK;
        context->under_way = false;
        moire_packed_step_done(transfer);
    }
    return MOIRE_OK;
}

moire_status moire_schedule_begin(struct moire_transfer *transfer, const struct moire_schedule *schedule,
                                  const struct moire_messages *messages)
{
    moire_packed_start(transfer);
    MOIRE_TRY(moire_schedule_progress(transfer, schedule, messages));
    if (!transfer->combine) moire_packed_copy_own(transfer);
    return MOIRE_OK;
}
