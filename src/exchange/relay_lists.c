/* The receiving side of relay.h. */
#include "exchange/relay.h"

#include <sched.h>
#include <string.h>

static struct moire_relay *relay_of(const struct moire_exchange *exchange)
{
    return exchange->backend_state;
}

static struct moire_relay_plan *relay_plan(const struct moire_plan *plan)
{
    return plan->backend_state;
}

static int own_node(const struct moire_exchange *exchange)
{
    return exchange->node_of[exchange->communicator.rank];
}

/* What this rank relays, and what its node reads of it. In the block of lists: the rows relayed; for each
 * rank its first copy; for each copy its row. */
enum { RELAYED_ROWS, LIST_LENGTHS };

static int64_t *list_of_copies(const struct moire_exchange *exchange, int64_t *words)
{
    return words + LIST_LENGTHS + exchange->communicator.size;
}

static moire_status grow_in(struct moire_plan *plan, int64_t rows, int64_t copies)
{
    struct moire_exchange *exchange = plan->exchange;
    struct moire_relay_plan *state = relay_plan(plan);
    const int64_t before = state->lists->pages.bytes;
    int narrow;
    MOIRE_TRY(moire_narrow(copies, "the copies that a rank relays", &narrow));
    MOIRE_TRY(
        moire_exchange_grow(exchange, &state->in_index, &state->in_index_capacity, copies, sizeof(int32_t)));
    MOIRE_TRY(moire_table_grow(exchange, &state->back_begin, rows + 2));
    MOIRE_TRY(moire_table_grow(exchange, &state->in_first, rows));
    MOIRE_TRY(moire_table_grow(exchange, &state->in_back, rows));
    MOIRE_TRY(moire_exchange_grow(exchange, &state->back_places, &state->back_capacity, copies,
                                  sizeof *state->back_places));
    MOIRE_TRY(moire_node_block_grow(relay_of(exchange)->near.memory, state->lists,
                                    (LIST_LENGTHS + exchange->communicator.size + copies) *
                                        (int64_t)sizeof(int64_t)));
    if (state->lists->pages.bytes != before) exchange->growths++;
    return MOIRE_OK;
}

moire_status moire_relay_prepare(struct moire_plan *plan)
{
    const struct moire_relay *relay = relay_of(plan->exchange);
    struct moire_relay_plan *state = relay_plan(plan);
    struct moire_order *order = plan->private_state;
    int64_t rows = 0, copies = 0;
    for (int i = 0; i < relay->source_count; i++) {
        struct moire_parcel *parcel = &state->in[i];
        const int64_t *words = moire_order_extra(plan, parcel->rank);
        parcel->row = rows;
        parcel->copy = copies;
        rows += parcel->rows = words[0];
        copies += parcel->copies = words[1];
    }
    order->relayed_in = rows;
    order->relayed_in_copies = copies;
    return grow_in(plan, rows, copies);
}

static int64_t copies_to(const struct moire_plan *plan, int peer, int source)
{
    const int chunks = plan->exchange->settings.chunks;
    const int64_t *in_chunk = moire_near_directory(plan, peer).in_chunk + source * (chunks + 1);
    return in_chunk[chunks] - in_chunk[0];
}

static moire_status exchange_lists(struct moire_plan *plan)
{
    struct moire_exchange *exchange = plan->exchange;
    struct moire_relay *relay = relay_of(exchange);
    const struct moire_relay_plan *state = relay_plan(plan);
    const struct moire_communicator *world = &exchange->communicator;
    int count = 0;
    for (int i = 0; i < relay->source_count; i++) {
        const struct moire_parcel *p = &state->in[i];
        relay->requests[count] = MPI_REQUEST_NULL;
        if (p->copies > 0)
            MOIRE_TRY(moire_mpi_check(MPI_Irecv(state->in_index + p->copy, (int)p->copies, MPI_INT32_T,
                                                p->rank, 0, world->mpi, &relay->requests[count]),
                                      world, "MPI_Irecv"));
        count++;
    }
    for (int i = 0; i < exchange->nodes - 1; i++) {
        const struct moire_parcel *p = &state->out[i];
        relay->requests[count] = MPI_REQUEST_NULL;
        if (p->copies > 0)
            MOIRE_TRY(moire_mpi_check(MPI_Isend(state->index + p->copy, (int)p->copies, MPI_INT32_T, p->rank,
                                                0, world->mpi, &relay->requests[count]),
                                      world, "MPI_Isend"));
        exchange->bytes.index[moire_exchange_level(exchange, p->rank)] +=
            p->copies * (int64_t)sizeof(int32_t);
        count++;
    }
    for (int i = 0; i < count; i++)
        MOIRE_TRY(moire_exchange_wait(exchange, &relay->requests[i], "the exchange of lists"));
    return MOIRE_OK;
}

/* Calls back with each copy of a parcel in the order of its sum: rank, position. `chunk` is the copy's. */
typedef void visit_copy(struct moire_relay_plan *state, int64_t row, int chunk,
                        const struct moire_place *place);

static void visit(struct moire_plan *plan, const struct moire_parcel *parcel, visit_copy *visitor)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_node_memory *memory = relay_of(exchange)->near.memory;
    struct moire_relay_plan *state = relay_plan(plan);
    const int chunks = exchange->settings.chunks;
    const int32_t *index = state->in_index + parcel->copy;
    for (int peer = 0; peer < memory->size; peer++) {
        const struct moire_near_directory there = moire_near_directory(plan, peer);
        const int64_t *in_chunk = there.in_chunk + parcel->rank * (chunks + 1);
        for (int chunk = 0; chunk < chunks; chunk++)
            for (int64_t k = in_chunk[chunk]; k < in_chunk[chunk + 1]; k++)
                visitor(state, parcel->row + *index++, chunk,
                        &(struct moire_place) { there.in_row[k], peer, own_node(exchange) });
    }
}

static void note_chunks(struct moire_relay_plan *state, int64_t row, int chunk,
                        const struct moire_place *place)
{
    int64_t *first = &state->in_first.data[row], *last = &state->in_back.data[row];
    (void)place;
    if (*first < 0 || chunk < *first) *first = chunk;
    if (chunk > *last) *last = chunk;
}

static void count_copy(struct moire_relay_plan *state, int64_t row, int chunk,
                       const struct moire_place *place)
{
    (void)chunk, (void)place;
    state->back_begin.data[state->in_back.data[row] + 2]++;
}

static void put_copy(struct moire_relay_plan *state, int64_t row, int chunk, const struct moire_place *place)
{
    (void)chunk;
    state->back_places[state->back_begin.data[state->in_back.data[row] + 1]++] = *place;
}

/* Rows are numbered by their first chunk: where each chunk starts. */
static void count_chunks(const struct moire_exchange *exchange, struct moire_parcel *parcel,
                         const int64_t *first)
{
    int64_t row = parcel->row;
    for (int chunk = 0; chunk <= exchange->settings.chunks; chunk++) {
        while (row < parcel->row + parcel->rows && first[row] < chunk) row++;
        parcel->row_chunk[chunk] = row;
    }
}

/* The sums of all parcels, in return order; back_begin has room for one entry more than it keeps. */
static void order_sums(struct moire_plan *plan)
{
    const struct moire_order *order = plan->private_state;
    const struct moire_relay *relay = relay_of(plan->exchange);
    struct moire_relay_plan *state = relay_plan(plan);
    int64_t *begin = state->back_begin.data;
    for (int64_t r = 0; r < order->relayed_in; r++) state->in_first.data[r] = state->in_back.data[r] = -1;
    memset(begin, 0, (size_t)(order->relayed_in + 2) * sizeof *begin);
    for (int i = 0; i < relay->source_count; i++) {
        visit(plan, &state->in[i], note_chunks);
        count_chunks(plan->exchange, &state->in[i], state->in_first.data);
        moire_relay_order_returns(plan->exchange, &state->in[i], state->in_back.data);
        visit(plan, &state->in[i], count_copy);
    }
    for (int64_t r = 1; r <= order->relayed_in + 1; r++) begin[r] += begin[r - 1];
    for (int i = 0; i < relay->source_count; i++) visit(plan, &state->in[i], put_copy);
}

static void write_lists(struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_relay *relay = relay_of(exchange);
    const struct moire_order *order = plan->private_state;
    struct moire_relay_plan *state = relay_plan(plan);
    int64_t *words = state->lists->pages.data, *list = list_of_copies(exchange, words);
    words[RELAYED_ROWS] = order->relayed_in;
    for (int i = 0; i < relay->source_count; i++) {
        const struct moire_parcel *parcel = &state->in[i];
        words[LIST_LENGTHS + parcel->rank] = parcel->copy;
        for (int64_t k = parcel->copy; k < parcel->copy + parcel->copies; k++)
            list[k] = parcel->row + state->in_index[k];
    }
}

/* All ranks of the node have written their lists. */
static moire_status meet(struct moire_exchange *exchange)
{
    struct moire_relay *relay = relay_of(exchange);
    struct moire_node_memory *memory = relay->near.memory;
    const int flag = relay->near.flags_each * exchange->settings.contexts;
    moire_node_flag_publish(memory, flag, ++relay->settled);
    while (!moire_node_flag_reached(memory, flag, relay->settled)) {
        MOIRE_TRY(moire_exchange_advance(exchange));
        sched_yield();
    }
    return MOIRE_OK;
}

static const int64_t *lists_of(const struct moire_plan *plan, int source, int *relaying)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_node_memory *memory = relay_of(exchange)->near.memory;
    *relaying = moire_relay_of(exchange, source, own_node(exchange));
    return moire_node_memory_peer(memory, memory->peer_of[*relaying], relay_plan(plan)->lists->id);
}

/* Where this rank's copies are among those that relays have for the ranks of this node, which stand there in
 * the order of the ranks. */
static void find_copies(struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_node_memory *memory = relay_of(exchange)->near.memory;
    const struct moire_order *order = plan->private_state;
    struct moire_relay_plan *state = relay_plan(plan);
    const int own = exchange->communicator.rank;
    state->forwarded = order->relayed_in_copies;
    state->collected = 0;
    for (int source = 0; source < exchange->communicator.size; source++) {
        if (exchange->node_of[source] == own_node(exchange)) continue;
        int relaying;
        int64_t first = lists_of(plan, source, &relaying)[LIST_LENGTHS + source];
        for (int peer = 0; peer < memory->self; peer++) first += copies_to(plan, peer, source);
        state->take_first[source] = first;
        const int64_t here = order->in_begin[source + 1] - order->in_begin[source];
        if (relaying == own)
            state->forwarded -= here;
        else
            state->collected += here;
    }
}

moire_status moire_relay_settle(struct moire_plan *plan)
{
    moire_relay_place(plan);
    MOIRE_TRY(exchange_lists(plan));
    order_sums(plan);
    write_lists(plan);
    MOIRE_TRY(meet(plan->exchange));
    find_copies(plan);
    return MOIRE_OK;
}

const int64_t *moire_relay_rows(const struct moire_plan *plan, int source, int64_t *relayed_rows,
                                int64_t *first_copy)
{
    int relaying;
    const int64_t *words = lists_of(plan, source, &relaying);
    *relayed_rows = words[RELAYED_ROWS];
    *first_copy = relay_plan(plan)->take_first[source];
    return words + LIST_LENGTHS + plan->exchange->communicator.size + *first_copy;
}
