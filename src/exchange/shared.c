/* shared: one node, one copy. Each rank reads the rows that it is to receive straight out of the buffers of
 * the ranks that send them, and sums the rows of its tokens straight out of the buffers where the experts
 * left them (near.h). Gather, exchange and scatter are one pass over the rows; nothing is packed.
 *
 * It wins on one node, always but for a few rows. It needs ranks that can map each other's memory. Memory: no
 * staging; the directory and the places of each plan.
 *
 * Chunks of a dispatch land together, since sources have all their rows when they begin; chunks of a combine
 * are told to the readers, who sum when the last one is there. */
#include <stdio.h>

#include "exchange/near.h"

struct state {
    struct moire_near near;
    struct moire_sum_source *sources; /* [ranks] */
};

static bool applicable(const struct moire_exchange *exchange, char *why, size_t why_bytes)
{
    if (exchange->nodes == 1) return true;
    snprintf(why, why_bytes, "it needs ranks on one node, found %d nodes", exchange->nodes);
    return false;
}

static moire_status init(struct moire_exchange *exchange)
{
    MOIRE_TRY(moire_near_create(exchange, sizeof(struct state), 0));
    struct state *state = exchange->backend_state;
    return moire_agree(&exchange->communicator,
                       moire_allocate(MOIRE_MEMORY_EXCHANGE, exchange->communicator.size,
                                      sizeof *state->sources, &state->sources));
}

static void free_exchange(struct moire_exchange *exchange)
{
    struct state *state = exchange->backend_state;
    if (state) moire_release(state->sources);
    moire_near_free(exchange);
}

static moire_status plan_create(struct moire_plan *plan)
{
    return moire_near_plan_create(plan, sizeof(struct moire_near_plan));
}

static moire_status prepare(struct moire_plan *plan, moire_status local)
{
    MOIRE_TRY(local);
    return moire_near_prepare(plan);
}

static moire_status settle(struct moire_plan *plan)
{
    MOIRE_TRY(moire_near_settle(plan));
    moire_near_place(plan);
    return MOIRE_OK;
}

static void release(struct moire_plan *plan)
{
    (void)plan; /* tables are kept for the next prepare */
}

/* The rows of each token, in the association of the plan, from where they lie. */
static void sum(struct moire_transfer *transfer)
{
    const struct moire_plan *plan = transfer->plan;
    const struct moire_order *order = plan->private_state;
    const struct moire_near_plan *near = plan->backend_state;
    struct state *state = transfer->exchange->backend_state;
    const int64_t element = (int64_t)moire_element_bytes(transfer->to->element);
    struct moire_sum sum = { .exchange = transfer->exchange,
                             .begin = order->token_begin.data,
                             .order = order->token_order.data,
                             .places = near->places,
                             .sources = state->sources };
    moire_near_sources(transfer, transfer->from, state->sources);
    moire_sum_rows(&sum,
                   &(struct moire_sum_target) { transfer->to->data, transfer->to->width * element, false },
                   plan->routing.tokens);
    if (!transfer->to_numbers) return;
    moire_near_sources(transfer, transfer->from_numbers, state->sources);
    sum.numbers = true;
    sum.begin = order->slot_begin.data;
    sum.order = order->slot_order.data;
    moire_sum_rows(&sum, &(struct moire_sum_target) { transfer->to_numbers->data, element, false },
                   plan->routing.slots);
}

/* A transfer that has read its last row says so once: `taken` counts what has been read, and a combine reads
 * all at once. */
static void read_rows(struct moire_transfer *transfer)
{
    const int chunks = transfer->exchange->settings.chunks;
    if (transfer->combine && transfer->taken < chunks &&
        moire_near_reached(transfer, MOIRE_NEAR_READY) == chunks) {
        sum(transfer);
        transfer->taken = chunks;
        moire_near_have_read(transfer);
    }
    if (!transfer->combine) transfer->landed = moire_near_reached(transfer, MOIRE_NEAR_READY);
}

static moire_status progress(struct moire_transfer *transfer)
{
    moire_near_publish(transfer);
    if (transfer->taken < transfer->exchange->settings.chunks) read_rows(transfer);
    transfer->done =
        transfer->taken == transfer->exchange->settings.chunks && moire_near_all_have_read(transfer);
    return MOIRE_OK;
}

static moire_status begin(struct moire_transfer *transfer)
{
    const struct moire_near_plan *near = transfer->plan->backend_state;
    const int64_t *rows = transfer->combine ? near->in_levels : transfer->plan->rows_out;
    for (int level = 0; level < MOIRE_LEVELS; level++) moire_exchange_count(transfer, level, rows[level]);
    moire_near_start(transfer);
    return MOIRE_OK;
}

static moire_status take(struct moire_transfer *transfer, int chunk)
{
    moire_near_take(transfer, chunk);
    if (chunk + 1 == transfer->exchange->settings.chunks) moire_near_have_read(transfer);
    return MOIRE_OK;
}

static moire_status end(struct moire_transfer *transfer)
{
    (void)transfer;
    return MOIRE_OK;
}

/* A rank's own rows are read by others: they are what it sends. One message is one peer that reads. */
static int volume(const struct moire_plan *plan, struct moire_stage *stages, int room)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_order *order = plan->private_state;
    const struct moire_near_plan *near = plan->backend_state;
    const int64_t bytes = moire_exchange_row_bytes(exchange, true), out = plan->rows_out[MOIRE_LEVEL_NODE],
                  in = near->in_levels[MOIRE_LEVEL_NODE];
    int64_t readers = 0, sources = 0;
    for (int r = 0; r < exchange->communicator.size; r++) {
        if (r == exchange->communicator.rank) continue;
        readers += order->out_begin[r + 1] > order->out_begin[r];
        sources += order->in_begin[r + 1] > order->in_begin[r];
    }
    const struct moire_stage both[] = {
        { "rows out", MOIRE_LEVEL_NODE, readers, out * bytes, in * bytes, 0, 0, plan->received_rows * bytes,
          -1 },
        { "rows back", MOIRE_LEVEL_NODE, sources, in * bytes, out * bytes, 0, 0, plan->copies * bytes, 0 },
    };
    const int count = sizeof both / sizeof *both;
    for (int i = 0; i < count && i < room; i++) stages[i] = both[i];
    return count;
}

static int64_t memory(const struct moire_exchange_sizes *sizes)
{
    return moire_near_memory(sizes, MOIRE_NEAR_FLAGS) +
           (int64_t)(sizeof(struct state) - sizeof(struct moire_near)) +
           sizes->ranks * (int64_t)sizeof(struct moire_sum_source);
}

static void print(const struct moire_exchange *exchange, char *line, size_t line_bytes)
{
    snprintf(line, line_bytes, "shared: %lld bytes a row, read in place from %d ranks of the node",
             (long long)moire_exchange_row_bytes(exchange, true), exchange->communicator.size);
}

const struct moire_backend moire_backend_shared = {
    .name = "shared",
    .wins = "one node: rows read from each other's memory; wins there",
    .applicable = applicable,
    .init = init,
    .rows_grow = moire_near_rows_grow,
    .rows_free = moire_near_rows_free,
    .plan_create = plan_create,
    .prepare = prepare,
    .settle = settle,
    .begin = begin,
    .progress = progress,
    .take = take,
    .end = end,
    .release = release,
    .volume = volume,
    .memory = memory,
    .print = print,
    .plan_free = moire_near_plan_free,
    .free = free_exchange,
};
