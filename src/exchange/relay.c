#include "exchange/relay.h"

#include <string.h>

static struct moire_relay *relay_of(const struct moire_exchange *exchange)
{
    return exchange->backend_state;
}

static struct moire_relay_plan *relay_plan(const struct moire_plan *plan)
{
    return plan->backend_state;
}

static int node_size(const struct moire_exchange *exchange, int node)
{
    return exchange->node_begin[node + 1] - exchange->node_begin[node];
}

int moire_relay_of(const struct moire_exchange *exchange, int source, int node)
{
    return exchange->node_order[exchange->node_begin[node] +
                                relay_of(exchange)->place[source] % node_size(exchange, node)];
}

static int own_node(const struct moire_exchange *exchange)
{
    return exchange->node_of[exchange->communicator.rank];
}

moire_status moire_relay_create(struct moire_exchange *exchange)
{
    const moire_memory_kind kind = MOIRE_MEMORY_EXCHANGE;
    const int ranks = exchange->communicator.size, node = own_node(exchange);
    struct moire_relay *relay = relay_of(exchange);
    MOIRE_TRY(moire_allocate(kind, ranks, sizeof(int), &relay->place));
    MOIRE_TRY(moire_allocate(kind, ranks, sizeof(int), &relay->sources));
    for (int i = 0; i < ranks; i++) {
        const int rank = exchange->node_order[i];
        relay->place[rank] = i - exchange->node_begin[exchange->node_of[rank]];
    }
    for (int rank = 0; rank < ranks; rank++)
        if (exchange->node_of[rank] != node &&
            moire_relay_of(exchange, rank, node) == exchange->communicator.rank)
            relay->sources[relay->source_count++] = rank;
    MOIRE_TRY(
        moire_allocate(kind, node_size(exchange, node) + 1, sizeof *relay->source_rows, &relay->source_rows));
    return moire_allocate(kind, exchange->nodes - 1 + relay->source_count, sizeof(MPI_Request),
                          &relay->requests);
}

void moire_relay_free(struct moire_exchange *exchange)
{
    struct moire_relay *relay = relay_of(exchange);
    if (!relay) return;
    moire_release(relay->place);
    moire_release(relay->sources);
    moire_release(relay->source_rows);
    moire_release(relay->requests);
}

/* Plans. */

static void name_parcels(struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_relay *relay = relay_of(exchange);
    struct moire_relay_plan *state = relay_plan(plan);
    const int chunks = exchange->settings.chunks + 1, own = exchange->communicator.rank,
              node = own_node(exchange);
    int64_t *next = state->chunks;
    for (int turn = 1; turn < exchange->nodes; turn++, next += 2 * chunks)
        state->out[turn - 1] =
            (struct moire_parcel) { .rank = moire_relay_of(exchange, own, (node + turn) % exchange->nodes),
                                    .row_chunk = next,
                                    .back_chunk = next + chunks };
    for (int i = 0; i < relay->source_count; i++, next += 2 * chunks)
        state->in[i] = (struct moire_parcel) { .rank = relay->sources[i],
                                               .row_chunk = next,
                                               .back_chunk = next + chunks };
}

moire_status moire_relay_plan_create(struct moire_plan *plan)
{
    const moire_memory_kind kind = MOIRE_MEMORY_EXCHANGE;
    const struct moire_exchange *exchange = plan->exchange;
    const int64_t sources = relay_of(exchange)->source_count, nodes = exchange->nodes - 1;
    struct moire_relay_plan *state = relay_plan(plan);
    MOIRE_TRY(moire_allocate(kind, nodes, sizeof *state->out, &state->out));
    MOIRE_TRY(moire_allocate(kind, sources, sizeof *state->in, &state->in));
    MOIRE_TRY(moire_allocate(kind, (nodes + sources) * 2 * (exchange->settings.chunks + 1), sizeof(int64_t),
                             &state->chunks));
    MOIRE_TRY(moire_allocate(kind, exchange->communicator.size, sizeof(int64_t), &state->take_first));
    name_parcels(plan);
    return moire_node_block_create(relay_of(exchange)->near.memory, kind, &state->lists);
}

void moire_relay_plan_free(struct moire_plan *plan)
{
    struct moire_relay_plan *state = relay_plan(plan);
    if (!state) return;
    struct moire_table *tables[] = { &state->token,        &state->slot,          &state->back,
                                     &state->position_row, &state->position_copy, &state->mark,
                                     &state->sum_begin,    &state->sum_order,     &state->back_begin,
                                     &state->in_first,     &state->in_back };
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) moire_table_free(tables[i]);
    moire_node_block_free(relay_of(plan->exchange)->near.memory, state->lists);
    moire_release(state->index);
    moire_release(state->in_index);
    moire_release(state->number_places);
    moire_release(state->back_places);
    moire_release(state->take_first);
    moire_release(state->chunks);
    moire_release(state->in);
    moire_release(state->out);
}

/* Out: what this rank sends. */

static moire_status grow_out(struct moire_plan *plan)
{
    struct moire_exchange *exchange = plan->exchange;
    struct moire_relay_plan *state = relay_plan(plan);
    const int64_t copies = plan->copies, tokens = plan->routing.tokens;
    MOIRE_TRY(moire_table_grow(exchange, &state->token, copies));
    MOIRE_TRY(moire_table_grow(exchange, &state->slot, copies));
    MOIRE_TRY(moire_table_grow(exchange, &state->back, copies));
    MOIRE_TRY(moire_table_grow(exchange, &state->position_row, copies));
    MOIRE_TRY(moire_table_grow(exchange, &state->position_copy, copies));
    MOIRE_TRY(moire_table_grow(exchange, &state->mark, tokens));
    MOIRE_TRY(moire_table_grow(exchange, &state->sum_begin, tokens + 1));
    MOIRE_TRY(moire_table_grow(exchange, &state->sum_order, copies));
    MOIRE_TRY(moire_exchange_grow(exchange, &state->index, &state->index_capacity, copies, sizeof(int32_t)));
    return moire_exchange_grow(exchange, &state->number_places, &state->number_capacity, copies,
                               sizeof *state->number_places);
}

/* Numbers the rows of a parcel: a token's first copy in the order of chunks makes its row. `back` holds the
 * last chunk of each row for now. */
static void number_rows(struct moire_plan *plan, struct moire_parcel *parcel, int node)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_order *order = plan->private_state;
    struct moire_relay_plan *state = relay_plan(plan);
    int64_t *mark = state->mark.data, next = parcel->row;
    for (int chunk = 0; chunk < exchange->settings.chunks; chunk++) {
        parcel->row_chunk[chunk] = next;
        for (int i = exchange->node_begin[node]; i < exchange->node_begin[node + 1]; i++) {
            const int rank = exchange->node_order[i];
            const int64_t end = moire_order_out_chunk(plan, rank, chunk + 1);
            for (int64_t p = moire_order_out_chunk(plan, rank, chunk); p < end; p++) {
                const int64_t token = order->token.data[p];
                if (!exchange->settings.deduplicate || mark[token] < parcel->row) {
                    state->token.data[next] = token;
                    mark[token] = next++;
                }
                state->position_row.data[p] = mark[token];
                state->back.data[mark[token]] = chunk;
            }
        }
    }
    parcel->row_chunk[exchange->settings.chunks] = next;
    parcel->rows = next - parcel->row;
}

void moire_relay_order_returns(const struct moire_exchange *exchange, struct moire_parcel *parcel,
                               int64_t *back)
{
    const int chunks = exchange->settings.chunks;
    int64_t *begin = parcel->back_chunk;
    memset(begin, 0, (size_t)(chunks + 1) * sizeof *begin);
    for (int64_t r = parcel->row; r < parcel->row + parcel->rows; r++)
        if (back[r] + 2 <= chunks) begin[back[r] + 2]++;
    for (int chunk = 0; chunk <= chunks; chunk++) begin[chunk] += chunk > 0 ? begin[chunk - 1] : parcel->row;
    for (int64_t r = parcel->row; r < parcel->row + parcel->rows; r++) back[r] = begin[back[r] + 1]++;
    begin[chunks] = parcel->row + parcel->rows;
}

static void list_copies(struct moire_plan *plan, struct moire_parcel *parcel, int node)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_order *order = plan->private_state;
    struct moire_relay_plan *state = relay_plan(plan);
    int64_t next = parcel->copy;
    for (int i = exchange->node_begin[node]; i < exchange->node_begin[node + 1]; i++) {
        const int rank = exchange->node_order[i];
        for (int64_t p = order->out_begin[rank]; p < order->out_begin[rank + 1]; p++, next++) {
            state->index[next] = (int32_t)(state->position_row.data[p] - parcel->row);
            state->slot.data[next] = order->slot.data[p];
            state->position_copy.data[p] = next;
        }
    }
    parcel->copies = next - parcel->copy;
}

moire_status moire_relay_route(struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    struct moire_relay_plan *state = relay_plan(plan);
    struct moire_order *order = plan->private_state;
    int64_t row = 0, copy = 0;
    MOIRE_TRY(grow_out(plan));
    for (int64_t t = 0; t < plan->routing.tokens; t++) state->mark.data[t] = -1;
    for (int turn = 1; turn < exchange->nodes; turn++) {
        const int node = (own_node(exchange) + turn) % exchange->nodes;
        struct moire_parcel *parcel = &state->out[turn - 1];
        parcel->row = row;
        parcel->copy = copy;
        number_rows(plan, parcel, node);
        moire_relay_order_returns(exchange, parcel, state->back.data);
        list_copies(plan, parcel, node);
        row += parcel->rows;
        copy += parcel->copies;
    }
    order->relayed_out = row;
    order->relayed_out_copies = copy;
    int narrow;
    return moire_narrow(copy, "the copies that a rank sends to other nodes", &narrow);
}

void moire_relay_write_words(const struct moire_plan *plan, int peer, int64_t *words)
{
    const struct moire_exchange *exchange = plan->exchange;
    const int node = exchange->node_of[peer],
              turn = (node - own_node(exchange) + exchange->nodes) % exchange->nodes;
    const struct moire_parcel *parcel = &relay_plan(plan)->out[turn - 1];
    if (turn == 0 || parcel->rank != peer) return;
    words[0] = parcel->rows;
    words[1] = parcel->copies;
}

/* A token's sum reads each row of a parcel once; copies of a row follow each other in the order of the sum.
 */
static void list_sums(struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_order *order = plan->private_state;
    struct moire_relay_plan *state = relay_plan(plan);
    const int node = own_node(exchange);
    int64_t next = 0;
    state->sum_begin.data[0] = 0;
    for (int64_t t = 0; t < plan->routing.tokens; t++) {
        int64_t last = -1;
        for (int64_t i = order->token_begin.data[t]; i < order->token_begin.data[t + 1]; i++) {
            const int64_t p = order->token_order.data[i];
            const bool far = state->near.places[p].node != node;
            if (far && state->position_row.data[p] == last) continue;
            if (far) last = state->position_row.data[p];
            state->sum_order.data[next++] = p;
        }
        state->sum_begin.data[t + 1] = next;
    }
}

void moire_relay_place(struct moire_plan *plan)
{
    const struct moire_exchange *exchange = plan->exchange;
    const struct moire_order *order = plan->private_state;
    struct moire_relay_plan *state = relay_plan(plan);
    const int returned = relay_of(exchange)->near.memory->size, node = own_node(exchange);
    moire_near_place(plan);
    for (int rank = 0; rank < exchange->communicator.size; rank++)
        for (int64_t p = order->out_begin[rank]; p < order->out_begin[rank + 1]; p++) {
            struct moire_place *place = &state->near.places[p];
            if (exchange->node_of[rank] != node)
                *place = (struct moire_place) { state->back.data[state->position_row.data[p]], returned,
                                                exchange->node_of[rank] };
            state->number_places[p] = *place;
            if (place->source == returned) state->number_places[p].row = state->position_copy.data[p];
        }
    list_sums(plan);
}

int64_t moire_relay_memory(const struct moire_exchange_sizes *sizes, int flags_each)
{
    const int64_t ranks = sizes->ranks, chunks = sizes->chunks > 0 ? sizes->chunks : 1,
                  word = sizeof(int64_t),
                  parcels = sizes->nodes - 1 + sizes->nodes; /* about as many in as out */
    int64_t bytes = moire_near_memory(sizes, flags_each) +
                    (int64_t)(sizeof(struct moire_relay) - sizeof(struct moire_near)) +
                    2 * ranks * (int64_t)sizeof(int) + parcels * (int64_t)sizeof(MPI_Request) +
                    (sizes->ranks_in_node + 1) * (int64_t)sizeof(struct moire_sum_source);
    for (int i = 0; i < sizes->plans; i++) {
        const struct moire_plan_rows *rows = &sizes->rows[i];
        bytes += (int64_t)(sizeof(struct moire_relay_plan) - sizeof(struct moire_near_plan)) +
                 parcels * ((int64_t)sizeof(struct moire_parcel) + 2 * (chunks + 1) * word) + ranks * word +
                 (6 * rows->copies + 2 * rows->tokens + 1) * word +
                 rows->copies * (int64_t)(sizeof(int32_t) + sizeof(struct moire_place)) +
                 rows->relayed_in_copies * (int64_t)(sizeof(int32_t) + sizeof(struct moire_place)) +
                 (3 * rows->relayed_in + 2) * word +
                 moire_pages_bytes((1 + ranks + rows->relayed_in_copies) * word);
    }
    return bytes;
}
