/* Making and freeing an exchange. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exchange/private.h"

enum { CHUNKS_MOST = 64 };

const char *moire_level_name(int level)
{
    static const char *const names[MOIRE_LEVELS] = { "own rank", "in node", "between nodes",
                                                     "over the spine" };
    return level >= 0 && level < MOIRE_LEVELS ? names[level] : "unknown level";
}

int moire_exchange_level(const struct moire_exchange *exchange, int rank)
{
    const int own = exchange->communicator.rank;
    if (rank == own) return MOIRE_LEVEL_SELF;
    const int node = exchange->node_of[rank], own_node = exchange->node_of[own];
    if (node == own_node) return MOIRE_LEVEL_NODE;
    return exchange->leaf_of_node[node] == exchange->leaf_of_node[own_node] ? MOIRE_LEVEL_FAR
                                                                            : MOIRE_LEVEL_SPINE;
}

static int64_t wire_bytes(moire_element element, enum moire_wire wire)
{
    return wire == MOIRE_WIRE_BF16 ? 2 : (int64_t)moire_element_bytes(element);
}

int64_t moire_exchange_row_bytes(const struct moire_exchange *exchange, bool with_number)
{
    const struct moire_exchange_settings *settings = &exchange->settings;
    return settings->width * wire_bytes(settings->element, settings->wire) +
           (with_number ? (int64_t)moire_element_bytes(settings->element) : 0);
}

void moire_exchange_count(struct moire_transfer *transfer, int level, int64_t rows)
{
    struct moire_exchange *exchange = transfer->exchange;
    exchange->bytes.rows[level] += rows * moire_exchange_row_bytes(exchange, false);
    if (transfer->from_numbers)
        exchange->bytes.numbers[level] += rows * (int64_t)moire_element_bytes(exchange->settings.element);
}

moire_status moire_exchange_grow(struct moire_exchange *exchange, void *pointer, int64_t *capacity,
                                 int64_t count, size_t bytes_each)
{
    void *old;
    memcpy(&old, pointer, sizeof old);
    if (old && count <= *capacity) return MOIRE_OK;
    int64_t wanted = moire_grown(old ? *capacity : 0, count);
    moire_release(old);
    old = NULL;
    memcpy(pointer, &old, sizeof old);
    *capacity = 0;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, wanted, bytes_each, pointer));
    *capacity = wanted;
    exchange->growths++;
    return MOIRE_OK;
}

moire_status moire_table_grow(struct moire_exchange *exchange, struct moire_table *table, int64_t count)
{
    return moire_exchange_grow(exchange, &table->data, &table->capacity, count, sizeof *table->data);
}

void moire_table_free(struct moire_table *table)
{
    moire_release(table->data);
    *table = (struct moire_table) { 0 };
}

static moire_status check_settings(const struct moire_exchange_settings *settings,
                                   const struct moire_communicator *communicator,
                                   const struct moire_placement *placement)
{
    if (settings->contexts < 1 || settings->contexts > MOIRE_CONTEXTS_MOST)
        return moire_fail(MOIRE_USAGE, "exchange: found %d contexts, expected 1 to %d", settings->contexts,
                          MOIRE_CONTEXTS_MOST);
    if (settings->width < 1 || settings->width >= INT_MAX)
        return moire_fail(MOIRE_USAGE, "exchange: found rows of %lld elements, expected 1 to %d",
                          (long long)settings->width, INT_MAX - 1);
    if (settings->round_bytes < 1)
        return moire_fail(
            MOIRE_USAGE,
            "exchange: found rounds of %lld bytes, expected at least 1; set exchange.round_bytes",
            (long long)settings->round_bytes);
    if (settings->chunks < 0 || settings->chunks > CHUNKS_MOST)
        return moire_fail(MOIRE_USAGE, "exchange: found %d chunks, expected 1 to %d; set exchange.chunks",
                          settings->chunks, CHUNKS_MOST);
    if (settings->peers_in_flight < 0)
        return moire_fail(MOIRE_USAGE,
                          "exchange: found %d peers in flight, expected at least 1; set "
                          "exchange.peers_in_flight",
                          settings->peers_in_flight);
    if (placement->ranks != communicator->size)
        return moire_fail(MOIRE_USAGE, "exchange: the placement is for %d ranks, expected %d",
                          placement->ranks, communicator->size);
    return MOIRE_OK;
}

/* A rank and where it is, as the caller says it. */
struct place {
    int leaf, node, rank;
};

static int compare_places(const void *left, const void *right)
{
    const struct place *a = left, *b = right;
    if (a->leaf != b->leaf) return a->leaf < b->leaf ? -1 : 1;
    if (a->node != b->node) return a->node < b->node ? -1 : 1;
    return a->rank < b->rank ? -1 : 1;
}

/* `places` is sorted. A node under two leaves would be two nodes. */
static void number_nodes(struct moire_exchange *exchange, const struct place *places)
{
    const int ranks = exchange->communicator.size;
    for (int i = 0; i < ranks; i++) {
        const bool new_leaf = i == 0 || places[i].leaf != places[i - 1].leaf;
        if (new_leaf || places[i].node != places[i - 1].node) {
            exchange->node_begin[exchange->nodes] = i;
            exchange->leaves += new_leaf;
            exchange->leaf_of_node[exchange->nodes++] = exchange->leaves - 1;
        }
        exchange->node_order[i] = places[i].rank;
        exchange->node_of[places[i].rank] = exchange->nodes - 1;
    }
    exchange->node_begin[exchange->nodes] = ranks;
}

/* Ranks by node, then rank, and from near to far. */
static moire_status order_ranks(struct moire_exchange *exchange, const int *node_of, const int *leaf_of)
{
    const int ranks = exchange->communicator.size;
    struct place *places = NULL;
    MOIRE_TRY(moire_allocate(MOIRE_MEMORY_EXCHANGE, ranks, sizeof *places, &places));
    for (int r = 0; r < ranks; r++)
        places[r] = (struct place) { .leaf = leaf_of ? leaf_of[r] : 0, .node = node_of[r], .rank = r };
    qsort(places, (size_t)ranks, sizeof *places, compare_places);
    number_nodes(exchange, places);
    moire_release(places);
    int near = 0;
    for (int class = MOIRE_LEVEL_SELF; class <= MOIRE_LEVEL_FAR; class ++)
        for (int r = 0; r < ranks; r++) {
            int level = moire_exchange_level(exchange, r);
            if ((level > MOIRE_LEVEL_FAR ? MOIRE_LEVEL_FAR : level) == class)
                exchange->near_order[near++] = r;
        }
    return MOIRE_OK;
}

int moire_chunk_of(const struct moire_exchange *exchange, int64_t instance)
{
    const struct moire_placement *placement = exchange->placement;
    const int rank = placement->instance_rank[instance];
    return (int)((instance - placement->rank_begin[rank]) * exchange->settings.chunks /
                 moire_placement_local(placement, rank));
}

/* MPI's arguments of the exchange of counts (plan.c): to each rank its words, and the same from each rank for
 * the instances here. */
static moire_status count_words(struct moire_exchange *exchange)
{
    const int ranks = exchange->communicator.size;
    const struct moire_placement *placement = exchange->placement;
    int *send = exchange->word_counts, *send_at = send + ranks, *receive = send_at + ranks,
        *receive_at = receive + ranks, total;
    const int64_t fixed = moire_order_words(exchange, 0),
                  here = fixed + moire_placement_local(placement, exchange->communicator.rank);
    MOIRE_TRY(moire_narrow(placement->instances + ranks * fixed, "the number of instances", &total));
    MOIRE_TRY(moire_narrow(here * ranks, "instances of a rank times ranks", &total));
    for (int r = 0; r < ranks; r++) {
        send[r] = (int)(fixed + moire_placement_local(placement, r));
        send_at[r] = (int)(r * fixed + placement->rank_begin[r]);
        receive[r] = (int)here;
        receive_at[r] = (int)(r * here);
    }
    return MOIRE_OK;
}

/* Everything that needs no other rank. */
static moire_status set_up(struct moire_exchange *exchange, const struct moire_exchange_settings *settings,
                           const struct moire_communicator *communicator, const int *node_of,
                           const int *leaf_of)
{
    const moire_memory_kind kind = MOIRE_MEMORY_EXCHANGE;
    const int64_t ranks = communicator->size;
    MOIRE_TRY(check_settings(settings, communicator, exchange->placement));
    exchange->settings = *settings;
    if (settings->chunks == 0) exchange->settings.chunks = 1;
    exchange->communicator.rank = communicator->rank;
    exchange->communicator.size = communicator->size;
    MOIRE_TRY(moire_allocate(kind, ranks, sizeof(int), &exchange->near_order));
    MOIRE_TRY(moire_allocate(kind, ranks, sizeof(int), &exchange->node_order));
    MOIRE_TRY(moire_allocate(kind, ranks + 1, sizeof(int), &exchange->node_begin));
    MOIRE_TRY(moire_allocate(kind, ranks, sizeof(int), &exchange->node_of));
    MOIRE_TRY(moire_allocate(kind, ranks, sizeof(int), &exchange->leaf_of_node));
    MOIRE_TRY(moire_allocate(kind, 4 * ranks, sizeof(int), &exchange->word_counts));
    MOIRE_TRY(order_ranks(exchange, node_of, leaf_of));
    /* Displacements within a round must fit an int as well: they are below P rounds. */
    exchange->round_rows = settings->round_bytes / moire_exchange_row_bytes(exchange, true);
    if (exchange->round_rows > INT_MAX / communicator->size)
        exchange->round_rows = INT_MAX / communicator->size;
    if (exchange->round_rows < 1) exchange->round_rows = 1;
    MOIRE_TRY(moire_backend_find(exchange, settings->backend, &exchange->backend));
    exchange->settings.backend = exchange->backend->name;
    return count_words(exchange);
}

static moire_status connect(struct moire_exchange *exchange, const struct moire_communicator *communicator)
{
    MOIRE_TRY(moire_communicator_copy(communicator, "exchange", &exchange->communicator));
    for (int i = 0; i < exchange->settings.contexts; i++) {
        char name[32];
        snprintf(name, sizeof name, "exchange context %d", i);
        exchange->transfers[i].exchange = exchange;
        MOIRE_TRY(moire_communicator_copy(communicator, name, &exchange->transfers[i].communicator));
    }
    return exchange->backend->init(exchange);
}

moire_status moire_exchange_create(const struct moire_exchange_settings *settings,
                                   const struct moire_communicator *communicator, const int *node_of,
                                   const int *leaf_of, const struct moire_placement *placement,
                                   struct moire_exchange **exchange)
{
    struct moire_exchange *new = NULL;
    moire_status status = moire_allocate(MOIRE_MEMORY_EXCHANGE, 1, sizeof *new, &new);
    if (status == MOIRE_OK) {
        new->placement = placement;
        status = set_up(new, settings, communicator, node_of, leaf_of);
        new->communicator = (struct moire_communicator) { .mpi = MPI_COMM_NULL };
    }
    status = moire_agree(communicator, status);
    if (status == MOIRE_OK) status = connect(new, communicator);
    if (status != MOIRE_OK)
        moire_exchange_free(new);
    else
        *exchange = new;
    return status;
}

void moire_exchange_free(struct moire_exchange *exchange)
{
    if (!exchange) return;
    for (int i = 0; i < MOIRE_CONTEXTS_MOST; i++) moire_assert(!exchange->transfers[i].open);
    if (exchange->backend) exchange->backend->free(exchange);
    for (int i = 0; i < MOIRE_CONTEXTS_MOST; i++)
        moire_communicator_free(&exchange->transfers[i].communicator);
    moire_communicator_free(&exchange->communicator);
    moire_release(exchange->near_order);
    moire_release(exchange->node_order);
    moire_release(exchange->node_begin);
    moire_release(exchange->node_of);
    moire_release(exchange->leaf_of_node);
    moire_release(exchange->word_counts);
    moire_release(exchange);
}

const char *moire_exchange_backend(const struct moire_exchange *exchange)
{
    return exchange->backend->name;
}

void moire_exchange_describe(const struct moire_exchange *exchange, char *line, size_t line_bytes)
{
    exchange->backend->print(exchange, line, line_bytes);
}

int64_t moire_exchange_growths(const struct moire_exchange *exchange)
{
    return exchange->growths;
}

void moire_exchange_bytes(const struct moire_exchange *exchange, struct moire_exchange_bytes *bytes)
{
    *bytes = exchange->bytes;
}

int moire_exchange_volume(const struct moire_plan *plan, struct moire_stage *stages, int room)
{
    moire_assert(plan->prepared);
    return plan->exchange->backend->volume(plan, stages, room);
}
