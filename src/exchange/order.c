/* The order of a plan, from the routing on the sending side and from the counts on the receiving side.
 * Counting sorts: linear in tokens, slots, copies and rows, and stable, so that tokens and slots ascend by
 * themselves. */
#include <string.h>

#include "exchange/private.h"

static moire_status allocate(const struct moire_plan *plan, struct moire_order *order)
{
    const struct moire_exchange *exchange = plan->exchange;
    const int64_t ranks = exchange->communicator.size, instances = exchange->placement->instances;
    const moire_memory_kind kind = MOIRE_MEMORY_EXCHANGE;
    MOIRE_TRY(moire_allocate(kind, instances + 1, sizeof(int64_t), &order->instance_begin));
    MOIRE_TRY(moire_allocate(kind, ranks + 1, sizeof(int64_t), &order->out_begin));
    MOIRE_TRY(moire_allocate(kind, ranks + 1, sizeof(int64_t), &order->in_begin));
    MOIRE_TRY(
        moire_allocate(kind, ranks * (exchange->settings.chunks + 1), sizeof(int64_t), &order->in_chunk));
    MOIRE_TRY(moire_allocate(kind, ranks * moire_order_words(exchange, 0) + instances, sizeof(int64_t),
                             &order->send_words));
    MOIRE_TRY(moire_allocate(kind, ranks * moire_order_words(exchange, plan->local_instances),
                             sizeof(int64_t), &order->receive_words));
    return moire_allocate(kind, ranks, sizeof(int64_t), &order->cursor);
}

moire_status moire_order_create(struct moire_plan *plan)
{
    struct moire_order *order = NULL;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof *order, &order));
    plan->private_state = order; /* moire_plan_free cleans up */
    return allocate(plan, order);
}

void moire_order_free(struct moire_plan *plan)
{
    struct moire_order *order = plan->private_state;
    if (!order) return;
    struct moire_table *tables[] = { &order->token,       &order->slot,       &order->token_begin,
                                     &order->token_order, &order->slot_begin, &order->slot_order,
                                     &order->in_row };
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) moire_table_free(tables[i]);
    moire_release(order->instance_begin);
    moire_release(order->out_begin);
    moire_release(order->in_begin);
    moire_release(order->in_chunk);
    moire_release(order->send_words);
    moire_release(order->receive_words);
    moire_release(order->cursor);
    moire_release(order);
    plan->private_state = NULL;
}

/* First target of slot n; target_first(N) is their number. Without target_begin each slot has one. */
static int64_t target_first(const struct moire_routing *routing, int64_t n)
{
    return routing->target_begin ? routing->target_begin[n] : n;
}

static moire_status check_runs(const int64_t *begin, int64_t count, const char *what)
{
    if (begin[0] != 0)
        return moire_fail(MOIRE_FAILED, "routing: the first %s starts at %lld, expected 0", what,
                          (long long)begin[0]);
    for (int64_t i = 0; i < count; i++)
        if (begin[i + 1] < begin[i])
            return moire_fail(MOIRE_FAILED,
                              "routing: %s %lld ends before it starts; found %lld, expected at least %lld",
                              what, (long long)i, (long long)begin[i + 1], (long long)begin[i]);
    return MOIRE_OK;
}

static moire_status check_targets(const struct moire_routing *routing, int64_t instances)
{
    for (int64_t t = 0; t < routing->tokens; t++)
        for (int64_t n = routing->slot_begin[t]; n < routing->slot_begin[t + 1]; n++)
            for (int64_t c = target_first(routing, n); c < target_first(routing, n + 1); c++)
                if (routing->targets[c] < 0 || routing->targets[c] >= instances)
                    return moire_fail(
                        MOIRE_FAILED,
                        "routing: slot %lld of token %lld goes to an instance that the placement "
                        "does not have; found %lld, expected 0 to %lld",
                        (long long)n, (long long)t, (long long)routing->targets[c], (long long)instances - 1);
    return MOIRE_OK;
}

static moire_status check_routing(const struct moire_routing *routing, int64_t instances)
{
    if (routing->tokens < 0 || routing->slots < 0 || (routing->tokens == 0 && routing->slots > 0))
        return moire_fail(MOIRE_FAILED, "routing: found %lld tokens with %lld slots",
                          (long long)routing->tokens, (long long)routing->slots);
    if (routing->tokens == 0) return MOIRE_OK; /* the arrays are not looked at and may be NULL */
    MOIRE_TRY(check_runs(routing->slot_begin, routing->tokens, "token"));
    if (routing->slot_begin[routing->tokens] != routing->slots)
        return moire_fail(MOIRE_FAILED, "routing: the tokens have %lld slots, expected %lld",
                          (long long)routing->slot_begin[routing->tokens], (long long)routing->slots);
    if (routing->target_begin) MOIRE_TRY(check_runs(routing->target_begin, routing->slots, "slot"));
    return check_targets(routing, instances);
}

/* Fills the positions: token and slot of each, grouped by instance. instance_begin[i + 1] first counts
 * instance i + 1's predecessors, then walks through instance i as its cursor and so ends where i + 1 starts.
 */
static void sort_by_instance(struct moire_plan *plan, const struct moire_routing *routing)
{
    struct moire_order *order = plan->private_state;
    const int64_t instances = plan->exchange->placement->instances;
    int64_t *begin = order->instance_begin;
    memset(begin, 0, (size_t)(instances + 1) * sizeof *begin);
    for (int64_t c = 0; c < plan->copies; c++)
        if (routing->targets[c] + 2 <= instances) begin[routing->targets[c] + 2]++;
    for (int64_t i = 2; i <= instances; i++) begin[i] += begin[i - 1];
    for (int64_t t = 0; t < routing->tokens; t++)
        for (int64_t n = routing->slot_begin[t]; n < routing->slot_begin[t + 1]; n++)
            for (int64_t c = target_first(routing, n); c < target_first(routing, n + 1); c++) {
                int64_t position = begin[routing->targets[c] + 1]++;
                order->token.data[position] = t;
                order->slot.data[position] = n;
            }
}

/* The runs of token_begin and slot_begin, shifted by one: entry i + 1 is where i starts. order_sums walks
 * them. */
static void start_sums(struct moire_order *order, const struct moire_routing *routing)
{
    int64_t *token_begin = order->token_begin.data, *slot_begin = order->slot_begin.data;
    token_begin[0] = slot_begin[0] = 0;
    for (int64_t t = 0; t < routing->tokens; t++)
        token_begin[t + 1] = target_first(routing, routing->slot_begin[t]);
    for (int64_t n = 0; n < routing->slots; n++) slot_begin[n + 1] = target_first(routing, n);
}

/* The association: positions node by node (ranks within a node ascend), each appended to its token and its
 * slot. Positions of one rank ascend by instance, then slot. */
static void order_sums(struct moire_plan *plan, const struct moire_routing *routing)
{
    const struct moire_exchange *exchange = plan->exchange;
    struct moire_order *order = plan->private_state;
    start_sums(order, routing);
    for (int r = 0; r < exchange->communicator.size; r++) {
        int rank = exchange->node_order[r];
        for (int64_t p = order->out_begin[rank]; p < order->out_begin[rank + 1]; p++) {
            order->token_order.data[order->token_begin.data[order->token.data[p] + 1]++] = p;
            order->slot_order.data[order->slot_begin.data[order->slot.data[p] + 1]++] = p;
        }
    }
}

static moire_status grow_send(struct moire_plan *plan, const struct moire_routing *routing, int64_t copies)
{
    struct moire_exchange *exchange = plan->exchange;
    struct moire_order *order = plan->private_state;
    MOIRE_TRY(moire_table_grow(exchange, &order->token, copies));
    MOIRE_TRY(moire_table_grow(exchange, &order->slot, copies));
    MOIRE_TRY(moire_table_grow(exchange, &order->token_order, copies));
    MOIRE_TRY(moire_table_grow(exchange, &order->slot_order, copies));
    MOIRE_TRY(moire_table_grow(exchange, &order->token_begin, routing->tokens + 1));
    return moire_table_grow(exchange, &order->slot_begin, routing->slots + 1);
}

/* Everything that this rank knows by itself. */
moire_status moire_order_send(struct moire_plan *plan, const struct moire_routing *routing)
{
    const struct moire_placement *placement = plan->exchange->placement;
    struct moire_order *order = plan->private_state;
    MOIRE_TRY(check_routing(routing, placement->instances));
    int64_t copies = routing->tokens > 0 ? target_first(routing, routing->slots) : 0;
    MOIRE_TRY(grow_send(plan, routing, copies));
    plan->routing = *routing;
    plan->copies = copies;
    sort_by_instance(plan, routing);
    for (int rank = 0; rank <= placement->ranks; rank++)
        order->out_begin[rank] = order->instance_begin[placement->rank_begin[rank]];
    order_sums(plan, routing);
    return MOIRE_OK;
}

static void add_segment(struct moire_plan *plan, int64_t instance)
{
    int64_t first = plan->instance_begin[instance], rows = plan->instance_begin[instance + 1] - first;
    if (rows > 0)
        plan->segments[plan->segment_count++] =
            (struct moire_segment) { .instance = instance, .first_row = first, .rows = rows };
}

static void cut_segments(struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    int64_t instance = 0;
    plan->segment_count = 0;
    for (int chunk = 0; chunk < exchange->settings.chunks; chunk++) {
        plan->chunk_segment[chunk] = plan->segment_count;
        while (instance < moire_chunk_first(exchange, plan->local_instances, chunk + 1))
            add_segment(plan, instance++);
    }
    plan->chunk_segment[exchange->settings.chunks] = plan->segment_count;
}

/* Rows in their canonical order are numbered instance by instance, source by source (near ones first); the
 * walk through each source's own order is its cursor. */
static void number_rows(struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    struct moire_order *order = plan->private_state;
    const int ranks = exchange->communicator.size;
    int64_t row = 0;
    memcpy(order->cursor, order->in_begin, (size_t)ranks * sizeof *order->cursor);
    for (int64_t i = 0; i < plan->local_instances; i++) {
        for (int s = 0; s < ranks; s++) {
            int source = exchange->near_order[s];
            for (int64_t k = moire_order_count(plan, source, i); k > 0; k--)
                order->in_row.data[order->cursor[source]++] = row++;
        }
        plan->instance_begin[i + 1] = row;
    }
    cut_segments(plan);
}

/* Where the rows of a source are, chunk by chunk. */
static void count_source(struct moire_plan *plan, int source)
{
    const struct moire_exchange *exchange = plan->exchange;
    struct moire_order *order = plan->private_state;
    const int chunks = exchange->settings.chunks;
    int64_t *chunk_begin = order->in_chunk + source * (chunks + 1), rows = order->in_begin[source], i = 0;
    for (int chunk = 0; chunk < chunks; chunk++) {
        chunk_begin[chunk] = rows;
        while (i < moire_chunk_first(exchange, plan->local_instances, chunk + 1))
            rows += moire_order_count(plan, source, i++);
    }
    chunk_begin[chunks] = order->in_begin[source + 1] = rows;
}

/* What follows from the counts of all sources. */
moire_status moire_order_receive(struct moire_plan *plan)
{
    struct moire_order *order = plan->private_state;
    for (int source = 0; source < plan->exchange->communicator.size; source++) count_source(plan, source);
    plan->received_rows = order->in_begin[plan->exchange->communicator.size];
    MOIRE_TRY(moire_table_grow(plan->exchange, &order->in_row, plan->received_rows));
    number_rows(plan);
    return MOIRE_OK;
}
