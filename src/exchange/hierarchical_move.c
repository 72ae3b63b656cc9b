/* Transfers of the back end `hierarchical`. */
#include "exchange/hierarchical.h"

#include <string.h>

enum { ROWS_TAG, NUMBERS_TAG };

/* Messages. */

static unsigned char *sent_rows(const struct moire_transfer *transfer)
{
    const struct hierarchical_context *context = transfer->backend_state;
    return context->sent.data;
}

static unsigned char *relayed_rows(const struct moire_transfer *transfer)
{
    const struct hierarchical_context *context = transfer->backend_state;
    return context->near[context->swaps % 2]->pages.data;
}

static moire_status start(struct moire_transfer *transfer, bool send, void *data, int64_t count,
                          MPI_Datatype type, int peer, int tag)
{
    struct hierarchical_context *context = transfer->backend_state;
    struct hierarchical_requests *requests = send ? &context->sends : &context->receives;
    MPI_Request *request = &requests->list[requests->count++];
    int result = send ? MPI_Isend(data, (int)count, type, peer, tag, transfer->communicator.mpi, request)
                      : MPI_Irecv(data, (int)count, type, peer, tag, transfer->communicator.mpi, request);
    return moire_mpi_check(result, &transfer->communicator, send ? "MPI_Isend" : "MPI_Irecv");
}

/* Rows [first, end) of the staging, to or from a rank, in rounds. */
static moire_status start_rows(struct moire_transfer *transfer, bool send, unsigned char *rows, int64_t first,
                               int64_t end, int peer)
{
    const struct hierarchical_state *state = transfer->exchange->backend_state;
    const int64_t bytes = moire_exchange_row_bytes(transfer->exchange, false),
                  most = transfer->exchange->round_rows;
    for (int64_t row = first; row < end; row += most)
        MOIRE_TRY(start(transfer, send, rows + row * bytes, end - row < most ? end - row : most, state->row,
                        peer, ROWS_TAG));
    return MOIRE_OK;
}

/* The numbers of a parcel; `rows` rows stand before all numbers. */
static moire_status start_numbers(struct moire_transfer *transfer, bool send, unsigned char *staging,
                                  int64_t rows, const struct moire_parcel *parcel)
{
    const struct moire_exchange *exchange = transfer->exchange;
    if (!transfer->from_numbers || parcel->copies == 0) return MOIRE_OK;
    return start(transfer, send,
                 staging + hierarchical_numbers_at(exchange, rows) +
                     parcel->copy * hierarchical_number_bytes(exchange),
                 parcel->copies, exchange->settings.element == MOIRE_FLOAT64 ? MPI_DOUBLE : MPI_FLOAT,
                 parcel->rank, NUMBERS_TAG);
}

/* Receives of a transfer, chunk by chunk. Numbers come with the first chunk of a dispatch, the last of a
 * combine. */
static moire_status receive(struct moire_transfer *transfer)
{
    const struct moire_exchange *exchange = transfer->exchange;
    const struct moire_relay *relay = exchange->backend_state;
    const struct moire_relay_plan *lists = transfer->plan->backend_state;
    const struct moire_order *order = transfer->plan->private_state;
    struct hierarchical_context *context = transfer->backend_state;
    const bool back = transfer->combine;
    const int count = back ? exchange->nodes - 1 : relay->source_count, chunks = exchange->settings.chunks;
    const struct moire_parcel *parcels = back ? lists->out : lists->in;
    unsigned char *staging = back ? sent_rows(transfer) : relayed_rows(transfer);
    for (int chunk = 0; chunk < chunks; chunk++) {
        for (int i = 0; i < count; i++) {
            const int64_t *begin = back ? parcels[i].back_chunk : parcels[i].row_chunk;
            MOIRE_TRY(start_rows(transfer, false, staging, begin[chunk], begin[chunk + 1], parcels[i].rank));
            if (chunk == (back ? chunks - 1 : 0))
                MOIRE_TRY(start_numbers(transfer, false, staging,
                                        back ? order->relayed_out : order->relayed_in, &parcels[i]));
        }
        context->receive_end[chunk] = context->receives.count;
    }
    return MOIRE_OK;
}

/* Moves on over the requests that are done. */
static moire_status test(struct moire_transfer *transfer, struct hierarchical_requests *requests)
{
    while (requests->done < requests->count) {
        int done = 0;
        MOIRE_TRY(moire_mpi_check(MPI_Test(&requests->list[requests->done], &done, MPI_STATUS_IGNORE),
                                  &transfer->communicator, "MPI_Test"));
        if (!done) break;
        requests->done++;
    }
    return MOIRE_OK;
}

/* Dispatch. */

/* Rows and numbers of a staging, as one side of a copy. */
static struct moire_side staging_side(const struct moire_transfer *transfer, const void *staging,
                                      int64_t rows, int64_t first_row, int64_t first_copy)
{
    const struct moire_exchange *exchange = transfer->exchange;
    const int64_t row_bytes = moire_exchange_row_bytes(exchange, false),
                  bytes = hierarchical_number_bytes(exchange);
    char *data = (char *)(uintptr_t)staging;
    return (struct moire_side) {
        .rows = data + first_row * row_bytes,
        .numbers = transfer->from_numbers
                       ? data + hierarchical_numbers_at(exchange, rows) + first_copy * bytes
                       : NULL,
        .stride = row_bytes,
        .number_stride = bytes,
        .wire = true,
    };
}

static struct moire_side without_numbers(struct moire_side side)
{
    side.numbers = NULL;
    return side;
}

/* Numbers one by one, in the order of `index`. */
static void copy_numbers(const struct moire_exchange *exchange, char *to, const char *from,
                         const int64_t *index, int64_t count)
{
    const int64_t bytes = hierarchical_number_bytes(exchange);
    for (int64_t i = 0; i < count; i++) memcpy(to + i * bytes, from + index[i] * bytes, (size_t)bytes);
}

static moire_status send_chunk(struct moire_transfer *transfer, const struct moire_parcel *parcel, int chunk)
{
    const struct moire_relay_plan *lists = transfer->plan->backend_state;
    const int64_t first = parcel->row_chunk[chunk], end = parcel->row_chunk[chunk + 1];
    unsigned char *staging = sent_rows(transfer);
    struct moire_side to = without_numbers(staging_side(transfer, staging, 0, first, 0));
    struct moire_side from = moire_side_of_buffers(transfer->from, NULL, lists->token.data + first, NULL);
    moire_copy_rows(transfer->exchange, &to, &from, end - first);
    return start_rows(transfer, true, staging, first, end, parcel->rank);
}

static moire_status send_out(struct moire_transfer *transfer)
{
    const struct moire_exchange *exchange = transfer->exchange;
    const struct moire_relay_plan *lists = transfer->plan->backend_state;
    const struct moire_order *order = transfer->plan->private_state;
    unsigned char *staging = sent_rows(transfer);
    if (transfer->from_numbers)
        copy_numbers(exchange, (char *)staging + hierarchical_numbers_at(exchange, order->relayed_out),
                     transfer->from_numbers->data, lists->slot.data, order->relayed_out_copies);
    for (int chunk = 0; chunk < exchange->settings.chunks; chunk++)
        for (int i = 0; i < exchange->nodes - 1; i++) {
            if (chunk == 0)
                MOIRE_TRY(start_numbers(transfer, true, staging, order->relayed_out, &lists->out[i]));
            MOIRE_TRY(send_chunk(transfer, &lists->out[i], chunk));
        }
    return MOIRE_OK;
}

/* Of a relay of this node, the memory that it receives in now. */
static const void *relay_memory(const struct moire_transfer *transfer, int peer)
{
    const struct hierarchical_context *context = transfer->backend_state;
    const struct moire_node_memory *memory = hierarchical_memory(transfer->exchange);
    const int64_t swaps = moire_node_flag_read(memory, peer, moire_near_flag(transfer, HIERARCHICAL_SWAPS));
    return moire_node_memory_peer(memory, peer, context->near[swaps % 2]->id);
}

static void take_relayed(struct moire_transfer *transfer, int source, int chunk)
{
    const struct moire_plan *plan = transfer->plan;
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_order *order = plan->private_state;
    const int relay = moire_relay_of(exchange, source, exchange->node_of[exchange->communicator.rank]);
    const int64_t first = moire_order_in_chunk(plan, source, chunk),
                  count = moire_order_in_chunk(plan, source, chunk + 1) - first,
                  done = first - order->in_begin[source], *row = order->in_row.data + first;
    int64_t rows, first_copy;
    if (count == 0) return;
    const int64_t *index = moire_relay_rows(plan, source, &rows, &first_copy) + done;
    struct moire_side to = moire_side_of_buffers(transfer->to, transfer->to_numbers, row, row);
    struct moire_side from =
        staging_side(transfer, relay_memory(transfer, hierarchical_memory(exchange)->peer_of[relay]), rows, 0,
                     first_copy + done);
    from.index = index;
    moire_copy_rows(exchange, &to, &from, count);
}

moire_status hierarchical_take(struct moire_transfer *transfer, int chunk)
{
    const struct moire_exchange *exchange = transfer->exchange;
    const int own = exchange->communicator.rank;
    moire_near_take(transfer, chunk);
    for (int source = 0; source < exchange->communicator.size; source++)
        if (exchange->node_of[source] != exchange->node_of[own]) take_relayed(transfer, source, chunk);
    if (chunk + 1 == exchange->settings.chunks) moire_near_have_read(transfer);
    return MOIRE_OK;
}

static void move_dispatch(struct moire_transfer *transfer)
{
    struct hierarchical_context *context = transfer->backend_state;
    const int chunks = transfer->exchange->settings.chunks;
    int arrived = 0;
    while (arrived < chunks && context->receives.done >= context->receive_end[arrived]) arrived++;
    if (arrived > context->relayed) {
        context->relayed = arrived;
        moire_node_flag_publish(hierarchical_memory(transfer->exchange),
                                moire_near_flag(transfer, HIERARCHICAL_ARRIVED),
                                moire_near_epoch(transfer, arrived));
    }
    int landed = moire_near_reached(transfer, HIERARCHICAL_ARRIVED),
        ready = moire_near_reached(transfer, MOIRE_NEAR_READY);
    transfer->landed = landed < ready ? landed : ready;
}

/* Combine. */

/* The rows of a token that lie in this node become one. */
static void sum_relayed(struct moire_transfer *transfer, int64_t first, int64_t count)
{
    const struct moire_exchange *exchange = transfer->exchange;
    const struct moire_relay *relay = exchange->backend_state;
    const struct moire_relay_plan *lists = transfer->plan->backend_state;
    const int64_t bytes = moire_exchange_row_bytes(exchange, false);
    struct moire_sum sum = { .exchange = exchange,
                             .begin = lists->back_begin.data + first,
                             .places = lists->back_places,
                             .sources = relay->source_rows };
    moire_near_sources(transfer, transfer->from, relay->source_rows);
    moire_sum_rows(&sum, &(struct moire_sum_target) { relayed_rows(transfer) + first * bytes, bytes, true },
                   count);
}

/* The numbers of copies that lie in this node, in the order of the parcels: rank by rank. */
static void gather_numbers(struct moire_transfer *transfer, const struct moire_parcel *parcel)
{
    const struct moire_exchange *exchange = transfer->exchange;
    const struct moire_relay *relay = exchange->backend_state;
    const struct moire_order *order = transfer->plan->private_state;
    const int chunks = exchange->settings.chunks;
    char *to = (char *)relayed_rows(transfer) + hierarchical_numbers_at(exchange, order->relayed_in) +
               parcel->copy * hierarchical_number_bytes(exchange);
    moire_near_sources(transfer, transfer->from_numbers, relay->source_rows);
    for (int peer = 0; peer < relay->near.memory->size; peer++) {
        const struct moire_near_directory there = moire_near_directory(transfer->plan, peer);
        const int64_t *in_chunk = there.in_chunk + parcel->rank * (chunks + 1),
                      count = in_chunk[chunks] - in_chunk[0];
        copy_numbers(exchange, to, relay->source_rows[peer].data, there.in_row + in_chunk[0], count);
        to += count * hierarchical_number_bytes(exchange);
    }
}

static moire_status send_back(struct moire_transfer *transfer, int chunk)
{
    const struct moire_relay *relay = transfer->exchange->backend_state;
    const struct moire_relay_plan *lists = transfer->plan->backend_state;
    const struct moire_order *order = transfer->plan->private_state;
    for (int i = 0; i < relay->source_count; i++) {
        const struct moire_parcel *parcel = &lists->in[i];
        const int64_t first = parcel->back_chunk[chunk], end = parcel->back_chunk[chunk + 1];
        sum_relayed(transfer, first, end - first);
        MOIRE_TRY(start_rows(transfer, true, relayed_rows(transfer), first, end, parcel->rank));
        if (chunk + 1 < transfer->exchange->settings.chunks) continue;
        if (transfer->from_numbers) gather_numbers(transfer, parcel);
        MOIRE_TRY(start_numbers(transfer, true, relayed_rows(transfer), order->relayed_in, parcel));
    }
    return MOIRE_OK;
}

static void sum_tokens(struct moire_transfer *transfer)
{
    const struct moire_exchange *exchange = transfer->exchange;
    const struct moire_relay *relay = exchange->backend_state;
    const struct moire_plan *plan = transfer->plan;
    const struct moire_order *order = plan->private_state;
    const struct moire_relay_plan *lists = plan->backend_state;
    struct moire_sum_source *returned = &relay->source_rows[relay->near.memory->size];
    const int64_t bytes = hierarchical_number_bytes(exchange);
    struct moire_sum sum = { .exchange = exchange,
                             .begin = lists->sum_begin.data,
                             .order = lists->sum_order.data,
                             .places = lists->near.places,
                             .sources = relay->source_rows };
    moire_near_sources(transfer, transfer->from, relay->source_rows);
    *returned =
        (struct moire_sum_source) { sent_rows(transfer), moire_exchange_row_bytes(exchange, false), true };
    moire_sum_rows(&sum,
                   &(struct moire_sum_target) { transfer->to->data, transfer->to->width * bytes, false },
                   plan->routing.tokens);
    if (!transfer->to_numbers) return;
    moire_near_sources(transfer, transfer->from_numbers, relay->source_rows);
    *returned = (struct moire_sum_source) {
        sent_rows(transfer) + hierarchical_numbers_at(exchange, order->relayed_out), bytes, false
    };
    sum.numbers = true;
    sum.begin = order->slot_begin.data;
    sum.order = order->slot_order.data;
    sum.places = lists->number_places;
    moire_sum_rows(&sum, &(struct moire_sum_target) { transfer->to_numbers->data, bytes, false },
                   plan->routing.slots);
}

/* `taken` counts what has been read: all at once, when the last chunk is there. */
static moire_status move_combine(struct moire_transfer *transfer)
{
    struct hierarchical_context *context = transfer->backend_state;
    const int chunks = transfer->exchange->settings.chunks,
              ready = moire_near_reached(transfer, MOIRE_NEAR_READY);
    while (context->relayed < ready) MOIRE_TRY(send_back(transfer, context->relayed++));
    if (transfer->taken == chunks || ready < chunks || context->receives.done < context->receives.count)
        return MOIRE_OK;
    sum_tokens(transfer);
    transfer->taken = chunks;
    moire_near_have_read(transfer);
    return MOIRE_OK;
}

/* Both. */

moire_status hierarchical_progress(struct moire_transfer *transfer)
{
    struct hierarchical_context *context = transfer->backend_state;
    moire_near_publish(transfer);
    MOIRE_TRY(test(transfer, &context->receives));
    MOIRE_TRY(test(transfer, &context->sends));
    if (transfer->combine)
        MOIRE_TRY(move_combine(transfer));
    else
        move_dispatch(transfer);
    transfer->done = transfer->taken == transfer->exchange->settings.chunks &&
                     context->sends.done == context->sends.count && moire_near_all_have_read(transfer);
    return MOIRE_OK;
}

static void count(struct moire_transfer *transfer)
{
    struct moire_exchange *exchange = transfer->exchange;
    const struct moire_relay *relay = exchange->backend_state;
    const struct moire_relay_plan *lists = transfer->plan->backend_state;
    const bool back = transfer->combine;
    const int64_t *near = back ? lists->near.in_levels : transfer->plan->rows_out;
    const struct moire_parcel *parcels = back ? lists->in : lists->out;
    const int parcel_count = back ? relay->source_count : exchange->nodes - 1;
    moire_exchange_count(transfer, MOIRE_LEVEL_SELF, near[MOIRE_LEVEL_SELF]);
    moire_exchange_count(transfer, MOIRE_LEVEL_NODE,
                         near[MOIRE_LEVEL_NODE] + (back ? lists->collected : lists->forwarded));
    for (int i = 0; i < parcel_count; i++) {
        const int level = moire_exchange_level(exchange, parcels[i].rank);
        exchange->bytes.rows[level] += parcels[i].rows * moire_exchange_row_bytes(exchange, false);
        if (transfer->from_numbers)
            exchange->bytes.numbers[level] += parcels[i].copies * hierarchical_number_bytes(exchange);
    }
}

moire_status hierarchical_begin(struct moire_transfer *transfer)
{
    struct hierarchical_context *context = transfer->backend_state;
    context->sends.count = context->sends.done = context->receives.count = context->receives.done = 0;
    context->relayed = 0;
    count(transfer);
    MOIRE_TRY(receive(transfer));
    moire_near_start(transfer);
    return transfer->combine ? MOIRE_OK : send_out(transfer);
}

moire_status hierarchical_end(struct moire_transfer *transfer)
{
    struct hierarchical_context *context = transfer->backend_state;
    moire_staging_adopt(&context->sent);
    if (!context->swap) return MOIRE_OK;
    context->swap = false;
    moire_node_flag_publish(hierarchical_memory(transfer->exchange),
                            moire_near_flag(transfer, HIERARCHICAL_SWAPS), ++context->swaps);
    return MOIRE_OK;
}
