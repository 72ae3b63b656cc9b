/* hierarchical: two levels. In a node ranks read rows straight from each other's memory (near.h); between
 * nodes each rank sends one parcel to each node, to a relay on its own rail, from whose memory the ranks
 * there read (relay.h). With exchange.dedup a token's row is in a parcel once, however many of its experts
 * are on that node; on the way back the relay sums the token's rows of its node, and one row returns.
 *
 * It wins between nodes: fewer bytes where tokens have several experts on a node, and N - 1 messages a rank
 * instead of P - 1. It pays with one copy more in the memory of the node. Memory: in each context staging for
 * the rows sent to other nodes and for those relayed; the lists of each plan.
 *
 * Numbers of all copies go in a message of their own beside a parcel: first in a dispatch, last in a combine.
 */
#include <stdio.h>

#include "exchange/hierarchical.h"

static bool applicable(const struct moire_exchange *exchange, char *why, size_t why_bytes)
{
    (void)exchange, (void)why, (void)why_bytes;
    return true;
}

static moire_status create_contexts(struct moire_exchange *exchange)
{
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct hierarchical_context *context = NULL;
        MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof *context, &context));
        exchange->transfers[i].backend_state = context;
        MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, exchange->settings.chunks, sizeof(int),
                                 &context->receive_end));
        for (int k = 0; k < 2; k++)
            MOIRE_TRY(moire_node_block_create(hierarchical_memory(exchange), MOIRE_MEMORY_EXCHANGE,
                                              &context->near[k]));
    }
    return MOIRE_OK;
}

static moire_status set_up(struct moire_exchange *exchange)
{
    struct hierarchical_state *state = exchange->backend_state;
    int bytes = 0;
    state->row = MPI_DATATYPE_NULL;
    MOIRE_TRY(moire_narrow(moire_exchange_row_bytes(exchange, false), "the bytes of a row", &bytes));
    int result = MPI_Type_contiguous(bytes, MPI_BYTE, &state->row);
    if (result == MPI_SUCCESS) result = MPI_Type_commit(&state->row);
    MOIRE_TRY(moire_mpi_check(result, &exchange->communicator, "MPI_Type_contiguous"));
    MOIRE_TRY(moire_relay_create(exchange));
    return create_contexts(exchange);
}

static moire_status init(struct moire_exchange *exchange)
{
    MOIRE_TRY(moire_near_create(exchange, sizeof(struct hierarchical_state),
                                HIERARCHICAL_FLAGS - MOIRE_NEAR_FLAGS));
    return moire_agree(&exchange->communicator, set_up(exchange));
}

static void free_exchange(struct moire_exchange *exchange)
{
    struct hierarchical_state *state = exchange->backend_state;
    if (!state) return;
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct hierarchical_context *context = exchange->transfers[i].backend_state;
        if (!context) continue;
        moire_staging_free(&context->sent);
        for (int k = 0; k < 2; k++) moire_node_block_free(hierarchical_memory(exchange), context->near[k]);
        moire_release(context->sends.list);
        moire_release(context->receives.list);
        moire_release(context->receive_end);
        moire_release(context);
    }
    if (state->relay.place && state->row != MPI_DATATYPE_NULL) MPI_Type_free(&state->row);
    moire_relay_free(exchange);
    moire_near_free(exchange);
}

/* Plans. */

static moire_status plan_create(struct moire_plan *plan)
{
    MOIRE_TRY(moire_near_plan_create(plan, sizeof(struct moire_relay_plan)));
    return moire_relay_plan_create(plan);
}

static void plan_free(struct moire_plan *plan)
{
    moire_relay_plan_free(plan);
    moire_near_plan_free(plan);
}

static void release(struct moire_plan *plan)
{
    (void)plan; /* tables are kept for the next prepare */
}

static moire_status staging_bytes(const struct moire_exchange *exchange, int64_t rows, int64_t copies,
                                  int64_t *bytes)
{
    if (!__builtin_mul_overflow(rows + 1, moire_exchange_row_bytes(exchange, false), bytes) &&
        !__builtin_add_overflow(hierarchical_numbers_at(exchange, rows),
                                copies * hierarchical_number_bytes(exchange) + 1, bytes))
        return MOIRE_OK;
    return moire_fail(MOIRE_NO_MEMORY, "exchange: %lld rows of staging are too large to count",
                      (long long)rows);
}

static int64_t count_messages(const struct moire_exchange *exchange, int64_t rows)
{
    return (rows + exchange->round_rows - 1) / exchange->round_rows;
}

/* Messages of parcels in one direction, at most: rows by chunk and round, numbers. */
static int64_t most_messages(const struct moire_exchange *exchange, const struct moire_parcel *parcels,
                             int count)
{
    int64_t messages = 0;
    for (int i = 0; i < count; i++)
        messages += count_messages(exchange, parcels[i].rows) + exchange->settings.chunks + 1;
    return messages;
}

/* Requests may move: nobody but this file has their addresses. */
static moire_status grow_requests(struct moire_exchange *exchange, struct hierarchical_requests *requests,
                                  int64_t messages)
{
    const int64_t before = requests->capacity;
    int narrow;
    MOIRE_TRY(moire_narrow(messages, "the messages of a transfer", &narrow));
    MOIRE_TRY(moire_grow(MOIRE_MEMORY_EXCHANGE, &requests->list, &requests->capacity, messages,
                         sizeof *requests->list));
    exchange->growths += requests->capacity != before;
    return MOIRE_OK;
}

/* A transfer that is open keeps its memory: it goes on with the other block after its end. */
static moire_status grow_near(struct moire_exchange *exchange, struct moire_transfer *transfer, int64_t bytes)
{
    struct hierarchical_context *context = transfer->backend_state;
    struct moire_node_block *used = context->near[context->swaps % 2];
    if (used->pages.bytes >= bytes && used->pages.data) return MOIRE_OK;
    exchange->growths++;
    if (!transfer->open) return moire_node_block_grow(hierarchical_memory(exchange), used, bytes);
    context->swap = true;
    return moire_node_block_grow(hierarchical_memory(exchange), context->near[(context->swaps + 1) % 2],
                                 bytes);
}

static moire_status grow(struct moire_plan *plan)
{
    struct moire_exchange *exchange = plan->exchange;
    const struct moire_relay *relay = exchange->backend_state;
    const struct moire_relay_plan *lists = plan->backend_state;
    const struct moire_order *order = plan->private_state;
    const int64_t out = most_messages(exchange, lists->out, exchange->nodes - 1),
                  in = most_messages(exchange, lists->in, relay->source_count);
    int64_t sent, relayed;
    MOIRE_TRY(staging_bytes(exchange, order->relayed_out, order->relayed_out_copies, &sent));
    MOIRE_TRY(staging_bytes(exchange, order->relayed_in, order->relayed_in_copies, &relayed));
    for (int i = 0; i < exchange->settings.contexts; i++) {
        struct moire_transfer *transfer = &exchange->transfers[i];
        struct hierarchical_context *context = transfer->backend_state;
        MOIRE_TRY(moire_staging_grow(exchange, &context->sent, transfer->open, sent));
        MOIRE_TRY(grow_near(exchange, transfer, relayed));
        MOIRE_TRY(grow_requests(exchange, &context->sends, out > in ? out : in));
        MOIRE_TRY(grow_requests(exchange, &context->receives, out > in ? out : in));
    }
    return MOIRE_OK;
}

static moire_status prepare(struct moire_plan *plan, moire_status local)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_relay_plan *lists = plan->backend_state;
    MOIRE_TRY(local);
    MOIRE_TRY(moire_relay_prepare(plan));
    MOIRE_TRY(grow(plan));
    MOIRE_TRY(moire_near_prepare(plan)); /* last: it looks for blocks that have grown */
    plan->rows_out[MOIRE_LEVEL_FAR] = plan->rows_out[MOIRE_LEVEL_SPINE] = 0;
    for (int i = 0; i < exchange->nodes - 1; i++)
        plan->rows_out[moire_exchange_level(exchange, lists->out[i].rank)] += lists->out[i].rows;
    return MOIRE_OK;
}

static moire_status settle(struct moire_plan *plan)
{
    MOIRE_TRY(moire_near_settle(plan));
    return moire_relay_settle(plan);
}

/* What the planner and people read. */

static int64_t parcel_messages(const struct moire_exchange *exchange, const struct moire_parcel *parcels,
                               int count)
{
    int64_t messages = 0;
    for (int i = 0; i < count; i++) messages += count_messages(exchange, parcels[i].rows);
    return messages;
}

static int volume(const struct moire_plan *plan, struct moire_stage *stages, int room)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_relay *relay = exchange->backend_state;
    const struct moire_relay_plan *lists = plan->backend_state;
    const struct moire_order *order = plan->private_state;
    const int64_t row = moire_exchange_row_bytes(exchange, false),
                  number = hierarchical_number_bytes(exchange), both = row + number,
                  node_out = plan->rows_out[MOIRE_LEVEL_NODE] * both,
                  node_in = lists->near.in_levels[MOIRE_LEVEL_NODE] * both,
                  peers = relay->near.memory->size - 1,
                  far_out = order->relayed_out * row + order->relayed_out_copies * number,
                  far_in = order->relayed_in * row + order->relayed_in_copies * number,
                  forwarded = lists->forwarded * both, collected = lists->collected * both;
    const int level = exchange->leaves > 1 ? MOIRE_LEVEL_SPINE : MOIRE_LEVEL_FAR;
    const int64_t out = parcel_messages(exchange, lists->out, exchange->nodes - 1),
                  in = parcel_messages(exchange, lists->in, relay->source_count);
    const struct moire_stage all[] = {
        { "rows in node", MOIRE_LEVEL_NODE, node_out > 0 ? peers : 0, node_out, node_in, 0, 0, node_in, -1 },
        { "rows to relays", level, out, far_out, far_in, far_out, far_in, far_out, -1 },
        { "rows from relays", MOIRE_LEVEL_NODE, forwarded > 0 ? peers : 0, forwarded, collected, 0, 0,
          collected, 1 },
        { "rows back to relays", MOIRE_LEVEL_NODE, collected > 0 ? peers : 0, collected, forwarded, 0, 0,
          forwarded, 2 },
        { "rows back", level, in, far_in, far_out, far_in, far_out, far_in, 3 },
        { "rows back in node", MOIRE_LEVEL_NODE, node_in > 0 ? peers : 0, node_in, node_out, 0, 0,
          plan->copies * both, 4 },
    };
    const int count = sizeof all / sizeof *all;
    for (int i = 0; i < count && i < room; i++) stages[i] = all[i];
    return count;
}

static int64_t memory(const struct moire_exchange_sizes *sizes)
{
    const int64_t element = (int64_t)moire_element_bytes(sizes->element),
                  row = sizes->width * (sizes->wire == MOIRE_WIRE_BF16 ? 2 : element);
    int64_t sent = 0, relayed = 0;
    for (int i = 0; i < sizes->plans; i++) {
        const struct moire_plan_rows *rows = &sizes->rows[i];
        const int64_t out = rows->relayed_out * row + rows->relayed_out_copies * element,
                      in = rows->relayed_in * row + rows->relayed_in_copies * element;
        if (out > sent) sent = out;
        if (in > relayed) relayed = in;
    }
    struct moire_exchange_sizes all = *sizes;
    all.buffers += sizes->plans + 2 * sizes->contexts; /* blocks: lists, and what relays receive in */
    return moire_relay_memory(&all, HIERARCHICAL_FLAGS) +
           (int64_t)(sizeof(struct hierarchical_state) - sizeof(struct moire_relay)) +
           sizes->contexts *
               (sent + moire_pages_bytes(relayed + 1) + (int64_t)sizeof(struct hierarchical_context));
}

static void print(const struct moire_exchange *exchange, char *line, size_t line_bytes)
{
    snprintf(line, line_bytes,
             "hierarchical: %lld bytes a row, %d nodes, one %s to a node, relays of the same rail",
             (long long)moire_exchange_row_bytes(exchange, true), exchange->nodes,
             exchange->settings.deduplicate ? "copy of a token" : "row a slot");
}

const struct moire_backend moire_backend_hierarchical = {
    .name = "hierarchical",
    .wins = "one copy of a token to a node, one sum back; wins between nodes",
    .extra_words = MOIRE_RELAY_WORDS,
    .applicable = applicable,
    .init = init,
    .rows_grow = moire_near_rows_grow,
    .rows_free = moire_near_rows_free,
    .plan_create = plan_create,
    .route = moire_relay_route,
    .write_words = moire_relay_write_words,
    .prepare = prepare,
    .settle = settle,
    .begin = hierarchical_begin,
    .progress = hierarchical_progress,
    .take = hierarchical_take,
    .end = hierarchical_end,
    .release = release,
    .volume = volume,
    .memory = memory,
    .print = print,
    .plan_free = plan_free,
    .free = free_exchange,
};
